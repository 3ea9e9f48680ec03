"""Run the tests tier by tier, and say which keep to their seconds: `tiers.py [--unbounded] TIER:SECONDS …`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = ROOT / "tests"
SIDE_BY_SIDE: Final = {"contract": 2, "api": 3, "durability": 2, "simulation": 2}  # processes for what waits or is long
CHECKS: Final = (("ruff", "format", "--check", "-q", "."), ("ruff", "check", "-q", "."), ("mypy",), ("basedpyright",))
COUNT: Final = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b")
WORDS: Final = {"error": "failed", "errors": "failed", "xpassed": "failed", "xfailed": "passed"}


class Outcome(NamedTuple):
    """How a tier went."""

    tier: str
    budget_s: float
    took_s: float
    good: bool
    counts: Counter[str]

    def result(self, *, bounded: bool) -> str:
        """One word, or three."""
        if not self.good:
            return "FAILED"
        return "OVER ITS BUDGET" if bounded and self.took_s > self.budget_s else "ok"


def types(budget_s: float) -> Outcome:
    """Layout, lint and both type checkers: all of them, also when the first finds something."""
    began = time.monotonic()
    codes = [_code(tool, *rest) for tool, *rest in CHECKS]
    counts = Counter(failed=sum(code != 0 for code in codes))
    return Outcome("types", budget_s, time.monotonic() - began, not any(codes), counts)


def _code(tool: str, *arguments: str) -> int:
    return subprocess.run((Path(sys.executable).parent / tool, *arguments), check=False, cwd=ROOT).returncode


def tests(tier: str, budget_s: float) -> Outcome:
    """One folder of tests. A folder without a test is a failure: somebody believes that they ran."""
    spread = ("-n", f"{SIDE_BY_SIDE[tier]}") if tier in SIDE_BY_SIDE else ()
    began = time.monotonic()
    command = (sys.executable, "-m", "pytest", "-q", *spread, str(TESTS / tier))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line.strip() else last
    return Outcome(tier, budget_s, time.monotonic() - began, process.returncode == 0, counted(last))


def counted(line: str) -> Counter[str]:
    """The numbers in pytest's last line."""
    counts: Counter[str] = Counter()
    for number, word in COUNT.findall(line):
        counts[WORDS.get(word, word)] += int(number)
    return counts


def table(outcomes: Sequence[Outcome], *, bounded: bool) -> str:
    """One line a tier."""
    rows = [f"{o.tier:<12}{o.budget_s:>8.0f}  {o.took_s:>8.1f}  {o.result(bounded=bounded)}" for o in outcomes]
    return "\n".join([f"{'tier':<12}{'budget_s':>8}  {'took_s':>8}  result", *rows])


def summary(outcomes: Sequence[Outcome]) -> str:
    """The sums. A tier that failed without saying how often counts as one failure."""
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total += outcome.counts
        total["failed"] += int(not outcome.good and not outcome.counts["failed"])
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    return f"{total['passed']} passed, {total['failed']} failed{skipped}"


def main(words: Sequence[str]) -> int:
    """Run what was asked for; 1 when a tier failed. One that takes too long is told, not failed: machines differ."""
    bounded = "--unbounded" not in words
    types_s = float(os.environ.get("TYPES_BUDGET_S", "60"))  # 0: without them
    outcomes = [types(types_s)] if types_s else []
    for word in words:
        tier, _, budget_s = word.partition(":")
        if budget_s and (TESTS / tier).is_dir():
            print(f"\n── {tier} ──", flush=True)
            outcomes.append(tests(tier, float(budget_s)))
    print(f"\n{table(outcomes, bounded=bounded)}\n\n{summary(outcomes)}")
    return int(not all(outcome.good for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
