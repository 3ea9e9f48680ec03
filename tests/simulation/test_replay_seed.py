"""`make sim` as a person runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from sim_controls import BREAKS
from sim_plan import drawn
from sim_rules import judged
from sim_world import Control

ROOT = Path(__file__).parents[2]


def sim(**words: str) -> tuple[int, str]:
    """Its exit code and all that it says."""
    make = shutil.which("make")
    assert make, "make is needed, as for everything here"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        [make, "sim", *[f"{name}={value}" for name, value in words.items()]],
        cwd=ROOT,
        env=environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_green_seed_ends_with_0_and_leaves_the_same_log_as_here(tmp_path: Path) -> None:
    code, said = sim(SEED="5", LOG=str(tmp_path / "log"))
    assert (code, "nothing is broken" in said) == (0, True), said
    assert (tmp_path / "log").read_bytes() == judged(drawn(5), Control()).log


@pytest.mark.parametrize("control", BREAKS)
def test_a_broken_rule_ends_with_1_and_names_the_faults_that_show_it(tmp_path: Path, control: str) -> None:
    code, said = sim(SEED="5", BREAK=control, LOG=str(tmp_path / "log"))
    assert (code, "is red" in said, "the faults that do it" in said) == (1, True, True), said
    assert b"job.requested" in (tmp_path / "log").read_bytes()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({"SEED": "1", "BREAK": "nothing", "LOG": "f"}, "no_intent"),
        ({"SEED": "-1", "LOG": "f"}, "SEED"),
        ({"SEED": "1"}, "LOG"),
    ],
)
def test_a_wrong_question_ends_with_2_and_says_what_there_is(words: dict[str, str], names: str) -> None:
    code, said = sim(**words)
    assert (code, names in said) == (2, True), said
