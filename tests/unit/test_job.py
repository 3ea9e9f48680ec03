"""What a job does: given events, when a command comes, then these events."""

from __future__ import annotations

from typing import get_args

import pytest
from jobs import (
    ACCEPTED,
    ASKED,
    ASSET,
    BUSY,
    CANCELLING,
    DETACHED,
    DOUBTED,
    FINISHED,
    HANDLE,
    HERE,
    HISTORIES,
    NO,
    PARKED,
    STORED,
    THERE,
    given,
    started,
    terms,
)
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.job import FOLD, MAX_ATTEMPTS, PHASE_WORDS, decide, evolve, pending
from rushes.adapters.base import Output
from rushes.adapters.capabilities import CancelKind
from rushes.faults import CommandRejected, Fault
from rushes.units import Billed, Money
from rushes.video import Take


def types(events: list[m.Event]) -> list[str]:
    return [m.TYPES[type(event)] for event in events]


# ── the shape ──


def test_every_event_folds_and_has_a_name() -> None:
    events = set(m.Event.__subclasses__())
    assert set(FOLD) == events == set(m.TYPES)
    assert len(set(m.TYPES.values())) == len(events)


def test_every_phase_has_a_word() -> None:
    assert set(PHASE_WORDS) == set(get_args(m.Job))


REPORTS: dict[str, m.Command] = {
    "Wake": m.Wake(),
    "RecordPrompt": m.RecordPrompt(attempt=1, prompt="p"),
    "RecordPrepared": m.RecordPrepared(attempt=1, prepared={}),
    "RecordReserved": m.RecordReserved(attempt=1, amount=Money(1)),
    "RecordDenied": m.RecordDenied(attempt=1, fault=NO),
    "GrantPermit": m.GrantPermit(attempt=1, incarnation="us", key="k", body_sha256="", max_cost=None, terms=terms()),
    "RecordAccepted": m.RecordAccepted(attempt=1, send=1, handle=HANDLE),
    "RecordRefused": m.RecordRefused(attempt=1, send=1, fault=BUSY, retry_at=9.0),
    "RecordDoubt": m.RecordDoubt(attempt=1, send=1, fault=NO),
    "RecordAbsent": m.RecordAbsent(attempt=1, send=1, looked_at=61.0),
    "RecordProgress": m.RecordProgress(attempt=1, percent=40),
    "RecordFinished": m.RecordFinished(attempt=1, outputs=(Output("https://a"),)),
    "RecordBroken": m.RecordBroken(attempt=1, fault=NO, billed="no"),
    "RecordStopped": m.RecordStopped(attempt=1, billed="no"),
    "RecordVanished": m.RecordVanished(attempt=1),
    "RecordCancel": m.RecordCancel(attempt=1, answer="accepted"),
    "RecordLinks": m.RecordLinks(attempt=1, outputs=FINISHED.outputs),
    "RecordStored": m.RecordStored(attempt=1, take=Take(index=0, asset=ASSET)),
    "RecordLost": m.RecordLost(attempt=1, index=0, fault=NO),
    "RecordTrouble": m.RecordTrouble(fault=BUSY),
}
USERS: dict[str, m.Command] = {
    "Generate": m.Generate(request=ASKED),
    "Poll": m.Poll(),
    "Cancel": m.Cancel(),
    "Collect": m.Collect(),
    "Resubmit": m.Resubmit(accept_cost=True),
    "GiveUp": m.GiveUp(),
    "Hide": m.Hide(),
}
ENDS = {"succeeded", "failed", "cancelled"}
NO_SUCH, EXISTS, NOTHING = "rejected", "rejected", ""

# (phase, command) → what happens at time 100. Everything that is not named here is no event at all.
TABLE: dict[tuple[str, str], str] = {
    **{("new", name): "rejected" for name in [*REPORTS, *USERS]},
    ("new", "Generate"): "job.requested",
    **{(phase, "Generate"): "rejected" for phase in HISTORIES if phase != "new"},
    **{
        (phase, name): "rejected"
        for phase in HISTORIES
        if not phase.startswith("parked")
        for name in ("Resubmit", "GiveUp")
    },
    **{(phase, "Collect"): "rejected" for phase in ("failed", "cancelled")},
    **{(phase, "Hide"): "rejected" for phase in HISTORIES if phase not in ENDS},
    **{(phase, "Hide"): "job.hidden" for phase in ENDS},
    ("queued", "Cancel"): "job.cancelled",
    ("queued", "RecordPrompt"): "prompt.written",
    ("queued", "RecordPrepared"): "inputs.prepared",
    ("queued", "RecordReserved"): "budget.reserved",
    ("queued", "RecordDenied"): "job.failed",
    ("queued", "GrantPermit"): "submission.started",
    ("submitting", "Cancel"): "cancel.requested",
    ("submitting", "RecordAccepted"): "submission.accepted",
    ("submitting", "RecordRefused"): "submission.refused",
    ("submitting", "RecordDoubt"): "submission.doubted",
    ("submitting, cancel asked", "RecordAccepted"): "submission.accepted",
    ("submitting, cancel asked", "RecordRefused"): "submission.refused job.cancelled",
    ("submitting, cancel asked", "RecordDoubt"): "submission.doubted",
    ("in doubt", "Cancel"): "cancel.requested",
    ("in doubt", "RecordAccepted"): "submission.accepted",
    ("in doubt", "RecordAbsent"): "submission.refused",
    ("running", "Cancel"): "cancel.requested",
    ("running", "RecordProgress"): "progress.reported",
    ("running", "RecordFinished"): "generation.finished",
    ("running", "RecordBroken"): "job.failed",
    ("running", "RecordStopped"): "job.cancelled",
    ("running", "RecordVanished"): "job.parked",
    ("running, cancel asked", "RecordCancel"): "cancel.answered",
    ("running, cancel asked", "RecordProgress"): "progress.reported",
    ("running, cancel asked", "RecordFinished"): "generation.finished",
    ("running, cancel asked", "RecordBroken"): "job.failed",
    ("running, cancel asked", "RecordStopped"): "job.cancelled",
    ("running, cancel asked", "RecordVanished"): "job.parked",
    ("storing", "Cancel"): "cancel.requested cancel.answered",
    ("storing", "RecordLinks"): "links.refreshed",
    ("storing", "RecordStored"): "take.stored",
    ("storing", "RecordLost"): "take.lost",
    ("parked in doubt", "Cancel"): "job.cancelled",
    ("parked in doubt", "Collect"): "rejected",
    ("parked in doubt", "Resubmit"): "attempt.opened",
    ("parked in doubt", "GiveUp"): "job.failed",
    ("parked in doubt", "RecordAccepted"): "job.resumed",
    ("parked detached", "Cancel"): "job.resumed cancel.requested",
    ("parked detached", "Collect"): "job.resumed",
    ("parked detached", "Resubmit"): "attempt.opened",
    ("parked detached", "GiveUp"): "job.failed",
    ("parked detached", "RecordAccepted"): "job.resumed",
    ("parked detached", "RecordFinished"): "job.resumed generation.finished",
}


def test_the_table_names_only_what_there_is() -> None:
    commands = {kind.__name__ for kind in m.Command.__subclasses__()}
    assert commands == set(REPORTS) | set(USERS)
    assert set(TABLE) <= {(phase, command) for phase in HISTORIES for command in commands}


@pytest.mark.parametrize("phase", HISTORIES)
@pytest.mark.parametrize("command", [*REPORTS, *USERS])
def test_every_phase_answers_every_command(phase: str, command: str) -> None:
    job, words = given(*HISTORIES[phase]), TABLE.get((phase, command), "")
    if words == "rejected":
        with pytest.raises(CommandRejected):
            decide((REPORTS | USERS)[command], job, 100.0)
        return
    events = decide((REPORTS | USERS)[command], job, 100.0)
    assert " ".join(types(events)) == words
    for event in events:
        job = evolve(job, event, 100.0)  # what was decided folds


# ── sending ──


def test_needs_come_first_and_in_order() -> None:
    asked = replace(ASKED, needs=("prompt", "prepare", "reserve"))
    owed = [
        pending(given(asked), "us"),
        pending(given(asked, m.PromptWritten(prompt="p")), "us"),
        pending(given(asked, m.PromptWritten(prompt="p"), m.InputsPrepared(attempt=1, prepared={})), "us"),
    ]
    assert owed == [m.WritePrompt(attempt=1), m.Prepare(attempt=1), m.Reserve(attempt=1)]


def test_no_permit_counts_before_its_needs_are_met() -> None:
    assert decide(REPORTS["GrantPermit"], given(replace(ASKED, needs=("prepare",))), 1.0) == []


def test_only_the_system_that_wrote_the_intent_may_send() -> None:
    job = given(ASKED, started())
    assert pending(job, "us") == m.Send(attempt=1, send=1)
    assert pending(job, "somebody else") == m.DeclareDoubt(attempt=1, send=1)
    assert pending(job, None) == m.DeclareDoubt(attempt=1, send=1)


def test_a_refusal_that_may_pass_is_tried_again_under_a_new_intent_and_the_same_attempt() -> None:
    refused = m.SubmissionRefused(attempt=1, send=1, fault=BUSY, retry_at=50.0)
    job = given(ASKED, started(), refused)
    assert pending(job, "us") == m.AskPermit(attempt=1, send=2, not_before=50.0, start_by=1000.0)
    assert decide(REPORTS["GrantPermit"], job, 49.0) == []
    (intent,) = decide(REPORTS["GrantPermit"], job, 50.0)
    assert isinstance(intent, m.SubmissionStarted)
    assert (intent.attempt, intent.send) == (1, 2)


def test_a_late_report_of_an_earlier_send_is_nothing() -> None:
    job = given(ASKED, started(), m.SubmissionRefused(attempt=1, send=1, fault=BUSY, retry_at=0.0), started(send=2))
    assert decide(REPORTS["RecordRefused"], job, 1.0) == []
    assert decide(REPORTS["RecordDoubt"], job, 1.0) == []


def test_a_definite_refusal_goes_to_the_next_target() -> None:
    job = given(replace(ASKED, route=(HERE, THERE)), started())
    refused, opened = decide(m.RecordRefused(attempt=1, send=1, fault=NO), job, 10.0)
    assert isinstance(refused, m.SubmissionRefused)
    assert opened == m.AttemptOpened(attempt=2, target=THERE, start_by=1010.0)


def test_a_definite_refusal_at_the_last_target_fails_unbilled() -> None:
    events = decide(m.RecordRefused(attempt=1, send=1, fault=NO), given(ASKED, started()), 10.0)
    assert events[-1] == m.JobFailed(fault=NO, billed="no")


def test_a_job_that_cannot_start_in_time_fails_unbilled() -> None:
    (failed,) = decide(m.Wake(), given(ASKED), 1000.0)
    assert isinstance(failed, m.JobFailed)
    assert (failed.fault.code, failed.billed) == ("timed_out", "no")


def test_no_deadline_acts_on_a_send() -> None:
    assert decide(m.Wake(), given(ASKED, started()), 1e9) == []


# ── doubt ──


def test_class_a_sends_the_same_again_until_its_key_ends() -> None:
    job = given(ASKED, started(terms(doubt="A")), DOUBTED)
    assert pending(job, "us") == m.SendAgain(attempt=1, send=1, since=0.0, until=600.0)
    assert decide(REPORTS["RecordRefused"], job, 10.0) == []  # says nothing about the first send
    assert types(decide(m.Wake(), job, 600.0)) == ["job.parked"]


def test_class_a_sends_nothing_after_a_cancel() -> None:
    job = given(ASKED, started(terms(doubt="A")), DOUBTED)
    assert types(decide(m.Cancel(), job, 10.0)) == ["cancel.requested", "job.parked"]


def test_class_b_looks_and_believes_absence_only_after_settling() -> None:
    job = given(ASKED, started(terms(doubt="B")), DOUBTED)
    assert isinstance(pending(job, "us"), m.Look)
    assert decide(m.RecordAbsent(attempt=1, send=1, looked_at=59.0), job, 100.0) == []  # told late, seen early
    (refused,) = decide(m.RecordAbsent(attempt=1, send=1, looked_at=60.0), job, 60.0)
    again = evolve(job, refused, 60.0)
    assert pending(again, "us") == m.AskPermit(attempt=1, send=2, not_before=60.0, start_by=1000.0)


def test_proven_absence_ends_a_cancelled_job_unbilled() -> None:
    job = given(ASKED, started(terms(doubt="B")), DOUBTED, CANCELLING)
    events = decide(m.RecordAbsent(attempt=1, send=1, looked_at=60.0), job, 60.0)
    assert events[-1] == m.JobCancelled(billed="no")


def test_class_c_absence_proves_nothing() -> None:
    job = given(ASKED, started(terms(doubt="C")), DOUBTED)
    assert decide(m.RecordAbsent(attempt=1, send=1, looked_at=60.0), job, 60.0) == [PARKED]


def test_class_d_waits_for_the_callback_and_then_for_a_person() -> None:
    job = given(ASKED, started(terms(doubt="D")), DOUBTED)
    assert pending(job, "us") == m.AwaitCallback(attempt=1, send=1, until=60.0)
    (parking,) = decide(m.Wake(), job, 60.0)
    parked = evolve(job, parking, 60.0)
    assert types(decide(REPORTS["RecordAccepted"], parked, 99.0)) == ["job.resumed"]


def test_class_e_is_parked_at_once_and_says_that_nobody_knows() -> None:
    events = decide(REPORTS["RecordDoubt"], given(ASKED, started(terms(doubt="E"))), 5.0)
    assert events[-1] == PARKED


def test_at_least_once_is_an_opt_in_with_a_cap() -> None:
    asked = replace(ASKED, at_least_once=1)
    first = given(asked, started(terms(doubt="E")))
    events = decide(REPORTS["RecordDoubt"], first, 5.0)
    assert types(events) == ["submission.doubted", "attempt.opened"]
    second = given(asked, started(terms(doubt="E")), *events, started(terms(doubt="E"), attempt=2))
    assert types(decide(m.RecordDoubt(attempt=2, send=1, fault=NO), second, 6.0)) == [
        "submission.doubted",
        "job.parked",
    ]


def test_what_was_left_in_doubt_is_never_called_unbilled() -> None:
    job = given(
        ASKED,
        started(terms(doubt="E")),
        DOUBTED,
        PARKED,
        *decide(m.Resubmit(accept_cost=True), given(*HISTORIES["parked in doubt"]), 1.0),
    )
    assert decide(m.Cancel(), job, 2.0) == [m.JobCancelled(billed="unknown")]


# ── running ──


def test_progress_only_rises() -> None:
    job = given(ASKED, started(), ACCEPTED, m.ProgressReported(attempt=1, percent=40))
    assert decide(m.RecordProgress(attempt=1, percent=40), job, 1.0) == []
    assert decide(m.RecordProgress(attempt=1, percent=20), job, 1.0) == []
    assert decide(m.RecordProgress(attempt=1, percent=None), job, 1.0) == []
    assert types(decide(m.RecordProgress(attempt=1, percent=41), job, 1.0)) == ["progress.reported"]


@pytest.mark.parametrize("look", ["RecordProgress", "RecordTrouble"])
def test_a_deadline_parks_and_never_fails_but_only_after_a_last_look(look: str) -> None:
    job = given(ASKED, started(), ACCEPTED)
    assert decide(m.Wake(), job, 1000.0) == []
    assert decide(REPORTS[look], job, 1000.0)[-1] == DETACHED


def test_a_404_says_nothing_at_first() -> None:
    job = given(ASKED, started(), ACCEPTED)
    assert decide(m.RecordVanished(attempt=1), job, 59.0) == []
    assert types(decide(m.RecordVanished(attempt=1), job, 60.0)) == ["job.parked"]


@pytest.mark.parametrize(("cancel", "ends"), [("destroys", "job.cancelled"), ("stops", "job.parked")])
def test_what_is_gone_after_a_cancel_that_destroys_was_cancelled(cancel: CancelKind, ends: str) -> None:
    """The answer to the cancel was lost, and the cancel was not."""
    job = given(ASKED, started(terms(cancel=cancel)), ACCEPTED, CANCELLING)
    assert decide(m.RecordVanished(attempt=1), job, 59.0) == []
    (event,) = decide(m.RecordVanished(attempt=1), job, 60.0)
    assert (*types([event]), getattr(event, "billed", "")) == (ends, "unknown")


def test_an_unbilled_failure_that_may_pass_gets_another_attempt_but_not_for_ever() -> None:
    job = given(ASKED, started(), ACCEPTED)
    broken = m.RecordBroken(attempt=1, fault=replace(BUSY, retry_after_s=7.0), billed="no")
    failed, opened = decide(broken, job, 10.0)
    assert isinstance(failed, m.AttemptFailed)
    assert opened == m.AttemptOpened(attempt=2, target=HERE, not_before=17.0, start_by=1017.0)
    last = given(ASKED, started(attempt=MAX_ATTEMPTS), replace(ACCEPTED, attempt=MAX_ATTEMPTS))
    assert types(decide(replace(broken, attempt=MAX_ATTEMPTS), last, 10.0)) == ["job.failed"]


@pytest.mark.parametrize("billed", ["yes", "unknown"])
def test_a_billed_failure_is_never_tried_again(billed: Billed) -> None:
    job = given(ASKED, started(), ACCEPTED)
    assert decide(m.RecordBroken(attempt=1, fault=BUSY, billed=billed), job, 1.0) == [
        m.JobFailed(fault=BUSY, billed=billed)
    ]


def test_a_cancel_is_answered_honestly_where_there_is_none() -> None:
    job = given(ASKED, started(terms(cancel="no")), ACCEPTED)
    assert decide(m.Cancel(), job, 1.0) == [CANCELLING, m.CancelAnswered(attempt=1, answer="cannot")]
    assert isinstance(
        pending(given(*HISTORIES["running"], CANCELLING, m.CancelAnswered(attempt=1, answer="cannot")), "us"), m.Ask
    )


def test_a_destructive_cancel_polls_first() -> None:
    job = given(ASKED, started(terms(cancel="destroys")), ACCEPTED, CANCELLING)
    assert pending(job, "us") == m.CancelRemote(attempt=1, poll_first=True)


def test_a_cancel_that_comes_too_late_keeps_the_take() -> None:
    job = given(ASKED, started(), ACCEPTED, CANCELLING, m.CancelAnswered(attempt=1, answer="too_late"))
    assert types(decide(REPORTS["RecordFinished"], job, 1.0)) == ["generation.finished"]


def test_discard_drops_the_take_of_a_job_that_could_not_be_stopped() -> None:
    job = given(ASKED, started(terms(cancel="no")), ACCEPTED, m.CancelRequested(discard=True))
    assert decide(REPORTS["RecordFinished"], job, 1.0)[-1] == m.JobCancelled(billed="yes")


def test_a_cancel_while_sending_never_tears_it_down() -> None:
    job = given(ASKED, started(), CANCELLING)
    assert pending(job, "us") == m.Send(attempt=1, send=1)


def test_finished_with_nothing_is_a_failure_that_says_why() -> None:
    job = given(ASKED, started(), ACCEPTED)
    moderated = decide(m.RecordFinished(attempt=1, outputs=(), filtered=1), job, 1.0)[-1]
    empty = decide(m.RecordFinished(attempt=1, outputs=()), job, 1.0)[-1]
    assert isinstance(moderated, m.JobFailed)
    assert isinstance(empty, m.JobFailed)
    assert (moderated.fault.code, empty.fault.code) == ("moderated", "generation_failed")


# ── storing ──


def test_takes_are_stored_in_order_and_the_last_one_ends_the_job() -> None:
    job = given(ASKED, started(), ACCEPTED, FINISHED)
    assert pending(job, "us") == m.Store(attempt=1, index=0, refreshes=0)
    assert decide(m.RecordStored(attempt=1, take=Take(index=1, asset=ASSET)), job, 1.0) == []
    job = evolve(job, STORED, 1.0)
    assert types(decide(m.RecordStored(attempt=1, take=Take(index=1, asset=ASSET)), job, 2.0)) == [
        "take.stored",
        "job.succeeded",
    ]
    assert decide(m.RecordLost(attempt=1, index=1, fault=NO), job, 2.0)[-1] == m.JobSucceeded(missing=1)


def test_losing_every_take_is_a_billed_failure() -> None:
    job = given(ASKED, started(), ACCEPTED, FINISHED, m.TakeLost(index=0, fault=NO))
    failed = decide(m.RecordLost(attempt=1, index=1, fault=NO), job, 2.0)[-1]
    assert isinstance(failed, m.JobFailed)
    assert (failed.fault.code, failed.billed) == ("asset_expired", "yes")


PICTURED = m.GenerationFinished(
    attempt=1, outputs=(Output("clip"), Output("first", "image/webp", "thumbnail"), Output("all", kind="spritesheet"))
)


def test_a_picture_that_is_lost_leaves_the_video_a_success() -> None:
    job = given(ASKED, started(), ACCEPTED, PICTURED, STORED, m.TakeLost(index=1, fault=NO))
    assert pending(job, "us") == m.Store(attempt=1, index=2, refreshes=0, beside=True)
    stored, succeeded = decide(m.RecordStored(attempt=1, take=PICTURE), job, 2.0)
    assert (stored, succeeded) == (m.TakeStored(index=2, kind="spritesheet", asset=ASSET), m.JobSucceeded(missing=1))
    job = evolve(evolve(job, stored, 2.0), succeeded, 2.0)
    assert isinstance(job, m.Succeeded)
    assert [(take.index, take.kind) for take in job.takes] == [(0, "video"), (2, "spritesheet")]


PICTURE = Take(index=2, kind="spritesheet", asset=ASSET)


def test_pictures_do_not_stand_in_for_a_video_that_is_lost() -> None:
    job = given(ASKED, started(), ACCEPTED, PICTURED)
    lost, failed = decide(m.RecordLost(attempt=1, index=0, fault=NO), job, 2.0)
    assert lost == m.TakeLost(index=0, fault=NO)
    assert isinstance(failed, m.JobFailed)
    assert (failed.fault.code, failed.billed) == ("asset_expired", "yes")


# ── parked ──


def test_giving_up_says_what_was_billed_as_parked() -> None:
    (failed,) = decide(m.GiveUp(), given(*HISTORIES["parked in doubt"]), 1.0)
    assert isinstance(failed, m.JobFailed)
    assert failed.billed == "unknown"


def test_collect_with_a_handle_found_by_a_person_runs_on() -> None:
    job = given(*HISTORIES["parked in doubt"])
    (resumed,) = decide(m.Collect(handle=HANDLE), job, 5.0)
    assert isinstance(pending(evolve(job, resumed, 5.0), "us"), m.Ask)


def test_an_ended_job_owes_nothing_and_says_why_it_takes_no_orders() -> None:
    for phase in ("succeeded", "failed", "cancelled"):
        job = given(*HISTORIES[phase])
        assert pending(job, "us") is None
        with pytest.raises(CommandRejected, match=phase):
            decide(m.GiveUp(), job, 1.0)
        with pytest.raises(CommandRejected, match="retry"):
            decide(m.Resubmit(accept_cost=True), job, 1.0)


def test_a_broken_job_after_an_accepted_cancel_counts_as_cancelled() -> None:
    job = given(ASKED, started(), ACCEPTED, CANCELLING, m.CancelAnswered(attempt=1, answer="accepted"))
    broken = m.RecordBroken(attempt=1, fault=Fault("generation_failed", "aborted"), billed="unknown")
    assert decide(broken, job, 1.0) == [m.JobCancelled(billed="unknown")]
