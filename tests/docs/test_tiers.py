"""What `make test` says about itself: a tier that fails or says nothing is never green, a slow one never unseen."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

TIERS = Path(__file__).parents[1] / "tiers.py"
tiers = runpy.run_path(str(TIERS))


def outcome(*, took_s: float = 1.0, good: bool = True, **counts: int) -> Any:
    return tiers["Outcome"]("unit", 10.0, took_s, good, Counter(counts))


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("5 passed in 0.03s", {"passed": 5}),
        ("1 failed, 5 passed, 2 skipped in 1.03s", {"passed": 5, "failed": 1, "skipped": 2}),
        ("1 passed, 1 error in 0.1s", {"passed": 1, "failed": 1}),
        ("1 failed, 2 errors in 0.1s", {"failed": 3}),
        ("no tests ran in 0.01s", {}),
    ],
)
def test_the_last_line_of_a_tier_is_understood(line: str, counts: dict[str, int]) -> None:
    assert tiers["counted"](line) == counts


def test_sums_are_over_all_tiers() -> None:
    summary = tiers["summary"]
    assert summary([outcome(passed=2), outcome(passed=3)]) == "5 passed, 0 failed"
    assert (
        summary([outcome(passed=2, skipped=1), outcome(passed=3, failed=2, good=False)])
        == "5 passed, 2 failed, 1 skipped"
    )


def test_a_tier_that_breaks_without_a_number_is_a_failure() -> None:
    assert tiers["summary"]([outcome(good=False)]) == "0 passed, 1 failed"


def test_a_tier_over_its_budget_is_not_ok_unless_nothing_is_bounded() -> None:
    slow = outcome(took_s=11.0, passed=1)
    assert [slow.result(bounded=True), slow.result(bounded=False)] == ["OVER ITS BUDGET", "ok"]
    assert outcome(took_s=9.0, passed=1).result(bounded=True) == "ok"
    assert outcome(good=False, failed=1).result(bounded=False) == "FAILED"


def test_a_folder_without_a_test_fails_and_one_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "tests" / "empty").mkdir(parents=True)
    (tmp_path / "tests" / "full").mkdir()
    (tmp_path / "tests" / "full" / "test_it.py").write_text("def test_it(): pass\n")
    script = shutil.copy(TIERS, tmp_path / "tests")

    def last_line(*words: str) -> tuple[int, str]:
        command, env = (sys.executable, script, *words), {**os.environ, "TYPES_BUDGET_S": "0"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout.splitlines()[-1]

    assert last_line("full:30", "absent:30") == (0, "1 passed, 0 failed")
    assert last_line("full:30", "empty:30") == (1, "1 passed, 1 failed")
    assert last_line("full:0.001") == (0, "1 passed, 0 failed")  # slow is told, in the table above this line
