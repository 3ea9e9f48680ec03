"""What filters are told of a job is what its state says, at every version: the stream's table agrees with the fold."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from jobs import ACCEPTED, ASKED, CANCELLING, DOUBTED, FINISHED, HANDLE, HISTORIES, NO, PARKED, THERE, started
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.codec import encode
from rushes.actors.job import evolve
from rushes.actors.messages import TYPES
from rushes.actors.words import status_word
from rushes.adapters.base import Prepared
from rushes.api.feed import STATUS_AFTER, Facts, facts_after
from rushes.eventstore.base import Recorded
from rushes.units import FREE
from rushes.video import Batch

OPENED = m.AttemptOpened(attempt=2, target=THERE, start_by=2000.0)
MORE: dict[str, tuple[m.Event, ...]] = {
    "prepared": (
        ASKED,
        m.PromptWritten(prompt="a lake"),
        m.InputsPrepared(attempt=1, prepared=Prepared()),
        m.BudgetReserved(attempt=1, amount=FREE),
    ),
    "refused": (ASKED, started(), m.SubmissionRefused(attempt=1, send=1, fault=NO), started(send=2)),
    "absent": (ASKED, started(), DOUBTED, m.SubmissionRefused(attempt=1, send=1, fault=NO)),
    "parked at once": (ASKED, started(), PARKED),
    "hidden": (*HISTORIES["failed"], m.JobHidden()),
    "in doubt, cancel asked": (ASKED, started(), DOUBTED, CANCELLING),
    "resumed": (ASKED, started(), DOUBTED, PARKED, m.JobResumed(attempt=1, handle=HANDLE, deadline=2000.0)),
    "sent elsewhere": (ASKED, started(), ACCEPTED, m.AttemptFailed(attempt=1, fault=NO), OPENED),
    "storing": (
        ASKED,
        started(),
        ACCEPTED,
        m.ProgressReported(attempt=1, percent=5),
        CANCELLING,
        m.CancelAnswered(attempt=1, answer="too_late"),
        FINISHED,
        m.LinksRefreshed(attempt=1, outputs=FINISHED.outputs),
    ),
}


def recorded(event: m.Event, version: int) -> Recorded:
    new = encode(event, 0.0, m.Poll())
    return Recorded(version, 1, version, new.type, new.v, 0.0, new.data, None, 1, 1)


def differences(history: Sequence[m.Event]) -> list[str]:
    """The versions at which the two do not agree."""
    job: m.Job = m.New()
    facts, wrong = Facts(), []
    for version, event in enumerate(history, 1):
        job = evolve(job, event, 0.0)
        facts = facts_after(facts, recorded(event, version))
        assert not isinstance(job, m.New)
        if facts != (true := Facts(status_word(job), job.target.provider)):
            wrong.append(f"{version} {TYPES[type(event)]}: {facts}, not {true}")
    return wrong


@pytest.mark.parametrize("history", [*HISTORIES.values(), *MORE.values()], ids=[*HISTORIES, *MORE])
def test_the_table_agrees_with_the_fold(history: Sequence[m.Event]) -> None:
    assert differences(history) == []


def test_the_batch_of_the_first_event_stays_through_all_others() -> None:
    first = replace(ASKED, batch=Batch(id="batch_a", index=0, size=2))
    for history in (*HISTORIES.values(), *MORE.values()):
        facts = Facts()
        for version, event in enumerate((first, *history[1:]), 1):
            facts = facts_after(facts, recorded(event, version))
            assert facts.batch == "batch_a"


def test_every_event_is_tried() -> None:
    tried = {type(event) for history in (*HISTORIES.values(), *MORE.values()) for event in history}
    assert tried == {*TYPES}
    assert {*STATUS_AFTER} <= {*TYPES.values()}


@pytest.mark.parametrize("type", sorted(STATUS_AFTER))
def test_control_a_line_that_is_missing_is_seen(type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(STATUS_AFTER, type)
    histories = [*HISTORIES.values(), *MORE.values()]
    assert any(differences(history) for history in histories)
