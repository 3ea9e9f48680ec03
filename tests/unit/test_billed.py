"""Whether money was spent is said everywhere: on every exception, at every door, in every phase."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest
from jobs import HISTORIES, given

import rushes
from rushes.actors import messages as m
from rushes.actors.job import decide
from rushes.actors.words import billed_word
from rushes.api.protocol import BadFrame, Problem, Refused, problem_of
from rushes.cli.entry import complain
from rushes.cli.screen import Screen
from rushes.eventstore.base import StoreError
from rushes.faults import BadRequest, CommandRejected, Fault, FolderInUse, JobFailed, RushesError, Unreadable
from rushes.units import Billed

WORDS: Final = frozenset(get_args(Billed))
NO: Final = Fault("invalid_input", "No.")
MADE: Final[dict[type[RushesError], tuple[Any, ...]]] = {
    BadRequest: ([NO],),
    BadFrame: (NO,),
    FolderInUse: ("folder", 7, ""),
    Refused: (404, "not_found", "Nothing."),
}


def classes(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for one in kind.__subclasses__():
        yield from classes(one)


def every_class() -> list[type[RushesError]]:
    """All exceptions of all rooms."""
    for room in pkgutil.walk_packages([str(Path(rushes.__file__).parent)], "rushes."):
        if not room.name.startswith("rushes.testing") and not room.name.endswith("__main__"):
            importlib.import_module(room.name)
    found = {
        one for one in classes(RushesError) if one.__module__.startswith("rushes.") and issubclass(one, RushesError)
    }
    return sorted(found, key=lambda kind: kind.__qualname__)


def made(kind: type[RushesError]) -> RushesError:
    if kind is JobFailed:
        return JobFailed(NO, job_id="job_1", billed="yes")
    arguments = MADE.get(kind, ("It is so.",))
    if kind.__qualname__ == "BadEvent":  # is told of a stored event, and becomes an Unreadable
        return Unreadable("It is so.")
    return kind(*arguments)


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.__qualname__)
def test_every_exception_says_it_over_http_and_on_the_command_line(kind: type[RushesError]) -> None:
    error = made(kind)
    assert error.billed in WORDS
    problem = msgspec.json.decode(msgspec.json.encode(problem_of(error)), type=Problem)
    assert problem.billed == error.billed
    err = io.StringIO()
    complain(error, Screen(io.StringIO(), err, as_json=True))
    assert msgspec.json.decode(err.getvalue())["billed"] == error.billed
    err = io.StringIO()
    complain(error, Screen(io.StringIO(), err, as_json=False))
    assert (f"(billed: {error.billed})" in err.getvalue()) == (error.billed != "no")


def test_every_exception_can_be_told_what_is_billed() -> None:
    for kind in every_class():
        named = inspect.signature(kind.__init__).parameters
        assert "billed" in named or kind in MADE or kind.__qualname__ == "BadEvent", kind


@pytest.mark.parametrize("error", [StoreError("The disk is full."), RuntimeError("odd")])
@pytest.mark.parametrize("billed", ["no", "unknown"])
def test_what_broke_says_what_may_be_billed(error: Exception, billed: Billed) -> None:
    err = io.StringIO()
    complain(error, Screen(io.StringIO(), err, as_json=True), billed)
    assert msgspec.json.decode(err.getvalue())["billed"] == billed


def test_what_cannot_be_read_is_never_called_unbilled() -> None:
    assert Unreadable("Event 3.").billed == "unknown"


# ── phases ────────────────────────────────────────────────────────────────────────────────────────────────────────────

BILLED: Final[dict[str, Billed]] = {
    "new": "no",
    "queued": "no",
    "submitting": "unknown",
    "submitting, cancel asked": "unknown",
    "in doubt": "unknown",
    "running": "unknown",
    "running, cancel asked": "unknown",
    "storing": "yes",
    "parked in doubt": "unknown",
    "parked detached": "unknown",
    "succeeded": "yes",
    "failed": "no",
    "cancelled": "no",
}


def test_every_phase_says_it() -> None:
    assert {phase: billed_word(given(*history)) for phase, history in HISTORIES.items()} == BILLED


def rejected(command: m.Command, phase: str) -> Billed | None:
    """What the rejection says; None where the command is carried out."""
    try:
        decide(command, given(*HISTORIES[phase]), 5.0)
    except CommandRejected as error:
        return error.billed
    return None


@pytest.mark.parametrize("phase", HISTORIES)
def test_a_command_that_is_rejected_says_it_of_its_job(phase: str) -> None:
    for command in (m.Collect(), m.Resubmit(accept_cost=True), m.GiveUp()):
        assert rejected(command, phase) in {None, BILLED[phase]}
    assert rejected(m.Resubmit(), phase) == BILLED[phase]


def test_every_event_that_ends_a_job_must_say_it() -> None:
    for event in (m.JobFailed, m.JobCancelled, m.JobParked):
        required = {field.name for field in msgspec.structs.fields(event) if field.required}
        assert "billed" in required
