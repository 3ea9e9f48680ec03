"""What a person can do with a parked job, and what it may cost: given events, when a command comes, then these."""

from __future__ import annotations

from typing import get_args

import pytest
from jobs import ACCEPTED, ASKED, BUSY, CANCELLING, DOUBTED, FINISHED, HANDLE, HISTORIES, NO, given, started, terms
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.job import decide, evolve, pending
from rushes.actors.words import billed_word
from rushes.adapters.base import Output
from rushes.faults import CommandRejected, Fault
from rushes.studio import ATTENTION
from rushes.units import Handle, Money

REASONS: tuple[m.ParkReason, ...] = get_args(m.ParkReason)
REFUSED = Fault("authentication_failed", "The key is refused.")
OTHER = Handle("p2")
FREE_SEND = replace(started(terms(doubt="E")), max_cost=Money(0))


def parked(reason: m.ParkReason) -> m.Job:
    """A job that is parked for this reason, with its handle where there is one."""
    before = (DOUBTED,) if reason == "in_doubt" else (ACCEPTED,)
    return given(ASKED, started(), *before, m.JobParked(reason=reason, billed="unknown"))


def after(job: m.Job, command: m.Command, now: float = 5.0) -> m.Job:
    for event in decide(command, job, now):
        job = evolve(job, event, now)
    return job


# ── collect ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reason", ["detached", "gone", "credential"])
def test_collect_asks_the_provider_again_under_a_new_deadline(reason: m.ParkReason) -> None:
    (resumed,) = decide(m.Collect(), parked(reason), 5.0)
    assert resumed == m.JobResumed(attempt=1, handle=HANDLE, deadline=1005.0, collecting=True)
    assert isinstance(pending(evolve(parked(reason), resumed, 5.0), "us"), m.Ask)


def test_collect_in_doubt_needs_the_providers_id() -> None:
    with pytest.raises(CommandRejected, match="provider's id") as refused:
        decide(m.Collect(), parked("in_doubt"), 5.0)
    assert (refused.value.field, refused.value.billed) == ("handle", "unknown")
    running = after(parked("in_doubt"), m.Collect(handle=OTHER))
    assert isinstance(running, m.Running)
    assert running.handle == OTHER


def test_an_id_that_a_person_gives_takes_the_place_of_a_wrong_one() -> None:
    (resumed,) = decide(m.Collect(handle=OTHER), parked("gone"), 5.0)
    assert isinstance(resumed, m.JobResumed)
    assert resumed.handle == OTHER


def test_the_same_id_given_again_keeps_what_else_is_known_with_it() -> None:
    whole = Handle("p1", {"region": "eu"})
    job = given(ASKED, started(), replace(ACCEPTED, handle=whole), m.JobParked(reason="gone", billed="unknown"))
    (resumed,) = decide(m.Collect(handle=HANDLE), job, 5.0)
    assert isinstance(resumed, m.JobResumed)
    assert resumed.handle == whole


@pytest.mark.parametrize(
    "phase", ["queued", "submitting", "in doubt", "running", "running, cancel asked", "storing", "succeeded"]
)
def test_collect_changes_nothing_where_nothing_needs_it(phase: str) -> None:
    assert decide(m.Collect(), given(*HISTORIES[phase]), 5.0) == []


@pytest.mark.parametrize("phase", ["queued", "submitting", "in doubt", "running", "storing"])
def test_an_id_that_is_out_of_place_is_refused_and_not_dropped(phase: str) -> None:
    with pytest.raises(CommandRejected) as refused:
        decide(m.Collect(handle=OTHER), given(*HISTORIES[phase]), 5.0)
    assert refused.value.field == "handle"


@pytest.mark.parametrize("phase", ["failed", "cancelled"])
def test_collect_cannot_reopen_what_ended(phase: str) -> None:
    with pytest.raises(CommandRejected, match=r"for good.*`retry`"):
        decide(m.Collect(), given(*HISTORIES[phase]), 5.0)


BROKEN = m.RecordBroken(attempt=1, fault=replace(BUSY, retry_after_s=1.0), billed="no")


def test_collect_never_spends_whatever_it_finds() -> None:
    collected = after(parked("detached"), m.Collect())
    assert decide(BROKEN, collected, 6.0) == [m.JobFailed(fault=BROKEN.fault, billed="no")]
    for report in (
        m.RecordTrouble(fault=BUSY),
        m.RecordProgress(attempt=1, percent=5),
        m.RecordVanished(attempt=1),
        m.RecordStopped(attempt=1, billed="no"),
        m.RecordFinished(attempt=1, outputs=(Output("https://a"),)),
    ):
        for now in (6.0, 100.0, 5000.0):
            found = after(collected, report, now)
            assert not isinstance(found, m.Queued | m.Submitting), report


@pytest.mark.parametrize(
    "job",
    [
        given(*HISTORIES["running"]),
        after(parked("in_doubt"), m.RecordAccepted(attempt=1, send=1, handle=HANDLE)),
    ],
    ids=["never parked", "woken by a callback"],
)
def test_control_a_job_that_nobody_collects_gets_its_other_attempt(job: m.Job) -> None:
    assert isinstance(after(job, BROKEN), m.Queued)


def test_what_is_collected_and_not_done_is_parked_again() -> None:
    collected = after(parked("detached"), m.Collect())
    again = after(collected, m.RecordProgress(attempt=1, percent=50), 1005.0)
    assert isinstance(again, m.Parked)
    assert isinstance(after(again, m.Collect(), 1006.0), m.Running)


# ── resubmit, give up ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reason", REASONS)
def test_resubmit_is_refused_until_the_cost_is_accepted(reason: m.ParkReason) -> None:
    with pytest.raises(CommandRejected, match=r"may be paid twice.*`accept_cost`") as refused:
        decide(m.Resubmit(), parked(reason), 5.0)
    assert (refused.value.field, refused.value.billed) == ("accept_cost", "unknown")
    queued = after(parked(reason), m.Resubmit(accept_cost=True))
    assert isinstance(queued, m.Queued)
    assert (queued.attempt, billed_word(queued)) == (2, "unknown")


@pytest.mark.parametrize("reason", REASONS)
def test_giving_up_says_why_and_what_was_billed(reason: m.ParkReason) -> None:
    failed = after(parked(reason), m.GiveUp())
    assert isinstance(failed, m.Failed)
    assert failed.fault.detail.startswith("Given up: ")
    assert failed.billed == "unknown"


def test_giving_up_what_somebody_wanted_cancelled_cancels_it() -> None:
    job = given(ASKED, started(), CANCELLING, DOUBTED, m.JobParked(reason="in_doubt", billed="unknown"))
    assert decide(m.GiveUp(by="ann"), job, 5.0) == [m.JobCancelled(billed="unknown", by="ann")]


@pytest.mark.parametrize("reason", REASONS)
def test_attention_names_what_helps(reason: m.ParkReason) -> None:
    for verb in ("`collect`", "`resubmit`", "`give-up`", "paid twice"):
        assert verb in ATTENTION[reason]


# ── why it is parked, and what is billed ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("fault", "reason"), [(REFUSED, "credential"), (BUSY, "detached"), (NO, "detached")])
def test_a_key_that_is_refused_past_the_deadline_is_why_the_job_is_parked(fault: Fault, reason: str) -> None:
    job = given(*HISTORIES["running"])
    assert decide(m.RecordTrouble(fault=fault), job, 999.0) == []
    (parking,) = decide(m.RecordTrouble(fault=fault), job, 1000.0)
    assert isinstance(parking, m.JobParked)
    assert parking.reason == reason


def test_what_is_free_is_never_called_billed() -> None:
    running = given(ASKED, FREE_SEND, ACCEPTED)
    doubtful = given(ASKED, FREE_SEND)
    words = [
        after(doubtful, m.RecordDoubt(attempt=1, send=1, fault=NO)),
        after(running, m.RecordTrouble(fault=BUSY), 1000.0),
        after(running, m.RecordVanished(attempt=1), 60.0),
        after(running, m.RecordFinished(attempt=1, outputs=())),
        after(
            given(ASKED, FREE_SEND, ACCEPTED, m.CancelRequested(discard=True)),
            m.RecordFinished(attempt=1, outputs=FINISHED.outputs),
        ),
    ]
    given_up = after(words[0], m.GiveUp())
    assert [billed_word(job) for job in [*words, given_up]] == ["no"] * 6
    assert billed_word(after(words[0], m.Resubmit(accept_cost=True))) == "no"


def test_control_the_same_at_a_price_is_not_called_free() -> None:
    running, priced = given(*HISTORIES["running"]), replace(started(terms(doubt="E")), max_cost=Money(1))
    words = [
        after(given(ASKED, priced), m.RecordDoubt(attempt=1, send=1, fault=NO)),
        after(running, m.RecordTrouble(fault=BUSY), 1000.0),
        after(running, m.RecordVanished(attempt=1), 60.0),
        after(running, m.RecordFinished(attempt=1, outputs=())),
    ]
    assert [billed_word(job) for job in words] == ["unknown"] * 4
