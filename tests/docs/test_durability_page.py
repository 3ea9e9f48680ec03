"""What docs/durability.md promises is proven: its tests are there, its words and figures are the code's, it runs."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final, get_args

import pytest
from jobs import HISTORIES, given

from rushes.actors import lanes, perform, schedule, system
from rushes.actors import messages as m
from rushes.actors.job import MAX_ATTEMPTS, PHASE_WORDS, phase_word
from rushes.actors.words import billed_word
from rushes.adapters.base import Adapter
from rushes.adapters.capabilities import DoubtClass, Terms
from rushes.cli.arguments import Exit, parse
from rushes.cli.entry import OPTIONS, VERBS
from rushes.cli.verbs import HARD_STOP_S
from rushes.faults import Code, Unreadable
from rushes.main import Settings, installed_adapters
from rushes.studio import START_WITHIN_S, Job
from rushes.units import Billed
from rushes.video import UNREADABLE, JobView, Target, TextToVideo, VideoSpec

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "durability.md").read_text("utf-8")
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROOF: Final = re.compile(r"^\[\^(\w+)\]: `(tests/[\w/]+\.py)::test_(\w+)`$", re.MULTILINE)
ITEM: Final = re.compile(r"^- .*(?:\n  .*)*", re.MULTILINE)
WITHOUT_PROOF: Final = ("The words", "What is not promised", "Times and counts")


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(PAGE) if name == language]


def sections(page: str) -> dict[str, str]:
    """Its parts by their titles; what stands before the first is the part without one."""
    return {part.partition("\n")[0] if number else "": part for number, part in enumerate(page.split("\n## "))}


def rows(part: str) -> list[list[str]]:
    """The cells of all tables of a part, without their heads."""
    lines = re.findall(r"^\| (.*) \|$(?!\n\| --)", part, re.MULTILINE)
    return [line.split(" | ") for line in lines if not line.startswith("--")]


def table(title: str, first: str) -> list[list[str]]:
    """The table of a section whose head begins with this word."""
    (found,) = re.findall(rf"^\| {first} \|.*\n(?:\|.*\n)+", sections(PAGE)[title], re.MULTILINE)
    return rows(found)


def word(cell: str) -> str:
    """The code word that a cell is about."""
    return cell.split("`")[1]


# ── its proofs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def functions_of(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def lies(page: str) -> list[str]:
    """Proofs that are named and are none, or stand at the foot and are not named."""
    foot = {label: (file, name) for label, file, name in PROOF.findall(page)}
    named = set(re.findall(r"\[\^(\w+)\](?!:)", page))
    wrong = {label for label, (file, name) in foot.items() if label != name or f"test_{name}" not in functions_of(file)}
    return sorted(wrong | (named ^ foot.keys()))


def unproven(page: str) -> list[str]:
    """Promises that name no test."""
    parts = [part for title, part in sections(page).items() if title not in WITHOUT_PROOF]
    promises = [one for part in parts for one in [*ITEM.findall(part), *(" | ".join(row) for row in rows(part))]]
    assert len(promises) > 50
    return [promise for promise in promises if "[^" not in promise]


def test_every_promise_names_a_test_that_exists() -> None:
    assert unproven(PAGE) == []
    assert lies(PAGE) == []


def test_control_a_test_that_is_gone_and_a_promise_without_one_are_seen() -> None:
    label, file, _ = PROOF.findall(PAGE)[0]
    assert lies(PAGE.replace(f"{file}::test_{label}", f"{file}::test_another")) == [label]
    assert lies(PAGE.replace(f"`{file}::", "`tests/none.py::"))
    assert lies(PAGE.replace(f"[^{label}]:", "[^nobody]:")) == sorted([label, "nobody"])
    assert unproven(f"## When it rains\n\n- Nothing gets wet.\n{PAGE}") == ["- Nothing gets wet."]
    assert unproven(PAGE.replace("| class |", "| F | Rain. | Wait. | once | unknown |\n| class |"))


# ── its words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_its_phases_are_the_codes_and_so_is_what_they_cost() -> None:
    shown = table("The words", "phase")
    assert [word(row[0]) for row in shown] == [one for one in PHASE_WORDS.values() if one != "new"] + [UNREADABLE]
    said = {word(row[0]): row[2] for row in shown}
    for history in HISTORIES.values():
        job = given(*history)
        cell = said.get(phase_word(job), "")
        assert not cell.startswith("`") or word(cell) == billed_word(job)
    assert word(said[UNREADABLE]) == Unreadable("").billed


def test_its_reasons_and_classes_are_the_codes() -> None:
    parked = "What you can do about a parked job"
    assert [word(row[0]) for row in table(parked, "reason")] == list(get_args(m.ParkReason))
    assert {word(row[0]) for row in table(parked, "command")} <= VERBS.keys()
    assert [row[0] for row in table("When the answer to a paid call is lost", "class")] == list(get_args(DoubtClass))


def terms_of(adapter: Adapter) -> Terms:
    model = adapter.capabilities.models[0].id
    spec = VideoSpec(prompt="a lake", operation=TextToVideo())
    return adapter.terms(spec, Target(provider=adapter.name, model=model))


def test_every_provider_of_this_release_stands_in_its_class() -> None:
    shown = {row[0]: row[1] for row in table("When the answer to a paid call is lost", "class")}
    for name, adapter in installed_adapters().items():
        assert [kind for kind, cell in shown.items() if f"`{name}`" in cell] == [terms_of(adapter).doubt]


def test_every_code_word_is_the_codes() -> None:
    known = {*PHASE_WORDS.values(), UNREADABLE, *m.TYPES.values(), *VERBS, *installed_adapters()}
    for kind in (m.ParkReason, Billed, Code):
        known |= {*get_args(kind)}
    known |= {*OPTIONS.values(), *JobView.__struct_fields__, *m.JobRequested.__struct_fields__, "pytest"}
    prose = BLOCK.sub("", PAGE)
    shown = {*re.findall(r"`([a-z_.-]+)`", prose), *re.findall(r"billed: (\w+)", prose)}
    assert len(shown) > 30
    assert shown - known == set()


def test_its_exit_codes_and_settings_are_the_codes() -> None:
    codes = {int(code) for code in re.findall(r"exit\s+code(?:\s+is)?\s+(\d+)", PAGE)}
    assert codes == {Exit.OK, Exit.CONFLICT, Exit.NEEDS_A_PERSON, Exit.INTERRUPTED}
    settings = {name.lower() for name in re.findall(r"RUSHES_(\w+)", PAGE)}
    assert settings
    assert settings <= {*Settings.__struct_fields__}


# ── its figures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def span(seconds: float) -> str:
    for unit, one_s in (("h", 3600), ("min", 60)):
        if seconds >= 2 * one_s:
            return f"{seconds / one_s:g} {unit}"
    return f"{seconds:g} s"


def spans(bounds: tuple[float, float]) -> str:
    return " to ".join(span(one) for one in bounds)


def figures() -> list[str]:
    """In the order of the page."""
    grace_s = Settings().stop_grace_s
    terms = {name: terms_of(adapter) for name, adapter in installed_adapters().items()}
    usual = Terms(doubt="B")
    looks = ", ".join(f"{after_s:g}" for after_s in usual.looks_s)
    return [
        span(grace_s),
        span(grace_s + HARD_STOP_S),
        span(START_WITHIN_S),
        span(terms["local"].total_s),
        span(terms["replicate"].total_s),
        f"{looks} s after it, then every {schedule.LOOK_AGAIN_S:g} s",
        span(usual.settle_s),
        f"{MAX_ATTEMPTS}",
        spans(lanes.CREDENTIAL_PAUSE_S),
        f"{lanes.FAILURES_CLOSE}",
        spans(lanes.FAILURE_PAUSE_S),
        f"{perform.MAX_REFRESHES}",
        f"{perform.MAX_BAD_FILES}",
        f"{perform.MAX_BAD_PICTURES}",
        f"every {span(system.STORE_RETRY_S)} (log), after at most {span(1.5 * schedule.LAST_RETRY_S)} (takes)",
    ]


def test_its_figures_are_the_codes() -> None:
    assert [row[1] for row in table("Times and counts", "what")] == figures()


# ── what can be tried ─────────────────────────────────────────────────────────────────────────────────────────────────


COMMANDS: Final = [line for block in blocks("sh") for line in block.splitlines()]
COMMANDS_IN_SENTENCES: Final = re.findall(r"`(rushes [^`]+)`", BLOCK.sub("", PAGE))


@pytest.mark.parametrize("line", [*COMMANDS, *COMMANDS_IN_SENTENCES])
def test_every_command_parses(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    assert program == "rushes"
    parse(words)


def test_every_method_it_names_is_a_jobs() -> None:
    methods = re.findall(r"`job\.(\w+)\(", PAGE)
    assert {"collect", "resubmit", "give_up", "retry"} <= {*methods} <= {*dir(Job)}


def test_the_program_run_twice_makes_one_video(tmp_path: Path) -> None:
    (program,) = blocks("python")
    told = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        ).stdout.splitlines()
        for _ in range(2)
    ]
    (first, path, end), (again, *same) = told
    assert (first, end) == ("new", "succeeded billed: no")
    assert (again, same) == ("asked before", [path, end])
    assert [*tmp_path.glob("studio/takes/**/*.mp4")] == [Path(path)]


def test_links_lead_somewhere() -> None:
    titles = {re.sub(r"\W+", "-", title).lower() for title in sections(PAGE)}
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert link.removeprefix("#") in titles if link.startswith("#") else (ROOT / "docs" / link).exists(), link
