"""What a job does: three pure functions. The rest of the program only feeds them.

    decide(command, job, now) -> [event]       what happens because of this command
    evolve(job, event, at)    -> job           what is true after this event
    pending(job, incarnation) -> effect | None what the outside world still owes us

`pending` reads state, never events. So starting, recovering from a crash and running normally are the same line of
code, and replaying a log cannot call a provider.

The rules that keep a job from being paid twice or losing its take, each held by the crash model in the tests:

1. An intent carries the incarnation of the system that wrote it. Only that system may send, and it remembers which
   sends it has begun; whoever else finds the intent declares doubt.
2. One intent per send. A re-send to a provider that knows our key stays in doubt under the intent it repeats.
3. Doubt ends by evidence alone: an accept, proven absence, or a person. A later refusal, deadline or cancel is none.
4. Every report names the send it is about; a report about another is no event, and never an error.
5. A cancel never tears down a send; where cancelling destroys finished takes, the provider is asked first.
6. An ended job never reopens.
7. Collecting never spends: what it finds may end the job, and never opens another attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, assert_never, cast

from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.messages import (
    Cancelled,
    Cancelling,
    Command,
    Event,
    Failed,
    InDoubt,
    Job,
    New,
    Owed,
    Parked,
    Queued,
    Running,
    Sent,
    Storing,
    Submitting,
    Succeeded,
)
from rushes.actors.words import billed_word
from rushes.faults import CommandRejected, Fault
from rushes.units import Billed, Handle, Money
from rushes.video import Take, Target

MAX_ATTEMPTS: Final = 3  # after failures that the provider did not bill


# ── decide ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def decide(command: Command, job: Job, now: float) -> list[Event]:
    """What happens because of this command; `[]` is the normal answer to a late report or a repeated cancel.

    Raises:
        CommandRejected: a user's command makes no sense in this phase.
    """
    if isinstance(job, New):
        if isinstance(command, m.Generate):
            return [command.request]
        raise CommandRejected("There is no such job.")
    match command:
        case m.Generate():
            raise CommandRejected("This job exists already: a retry is a new job.")
        case m.Collect(handle=given):
            return _collect(job, given, now)
        case m.Hide() if not isinstance(job, m.Ended):
            raise _rejected(job, f"The job is {phase_word(job).replace('_', ' ')}, and has not ended: cancel it first.")
        case m.Poll() | m.Wake():
            return _overdue(job, now)
        case m.RecordTrouble(fault=fault):
            return _detached(job, now, fault) if isinstance(job, Running) else []
        case _:
            return _in_phase(command, job, now)


def _in_phase(command: Command, job: Job, now: float) -> list[Event]:
    """What means something else in every phase."""
    match job:
        case Running():
            return _running(command, job, now)
        case Queued():
            return _queued(command, job, now)
        case Submitting():
            return _submitting(command, job, now)
        case InDoubt():
            return _in_doubt(command, job, now)
        case Storing():
            return _storing(command, job)
        case Parked():
            return _parked(command, job, now)
        case Succeeded() | Failed() | Cancelled() if isinstance(command, m.Hide):
            return [] if job.hidden else [m.JobHidden()]
        case _ if isinstance(command, m.Resubmit | m.GiveUp):
            raise _rejected(job, f"The job has {_ending(job)} for good: `retry` makes a new one.")
        case _:
            return []


def _rejected(job: Job, detail: str, field: str = "") -> CommandRejected:
    return CommandRejected(detail, field=field, billed=billed_word(job))


def _ending(job: Job) -> str:
    return "been cancelled" if isinstance(job, Cancelled) else phase_word(job)


def _collect(job: Job, given: Handle | None, now: float) -> list[Event]:
    """Go on with what was paid. A job that is on its way there, or has arrived, needs nothing."""
    match job:
        case Parked(handle=known):
            handle = known if given is None or (known and known.id == given.id) else given
            if handle is None:
                detail = "The provider's id of this job is not known: give it as `handle`, or `resubmit`, or `give-up`."
                raise _rejected(job, detail, "handle")
            return [m.JobResumed(attempt=job.attempt, handle=handle, deadline=_deadline(job, now), collecting=True)]
        case Failed() | Cancelled():
            raise _rejected(job, f"The job has {_ending(job)} for good, without a take: `retry` makes a new one.")
        case Running(handle=known) | Storing(handle=known) if given and given.id != known.id:
            detail = f"The job is {phase_word(job)} under the provider's id {known.id}: leave `handle` out, or wait."
            raise _rejected(job, detail, "handle")
        case Queued() | Submitting() | InDoubt() if given:
            detail = f"The job is {phase_word(job)} and goes on by itself: its id can be given once it is parked."
            raise _rejected(job, detail, "handle")
        case _:
            return []


def minds_time(job: Job) -> bool:
    """Whether the mere passing of time can bring something: else a wake needs no decision."""
    return isinstance(job, Queued | InDoubt)


def _overdue(job: Job, now: float) -> list[Event]:
    """What the mere passing of time brings."""
    match job:
        case Queued(start_by=start_by) if now >= start_by:
            fault = Fault("timed_out", "The job could not be started in time; nothing was sent.")
            return [m.JobFailed(fault=fault, billed=_unbilled(job))]
        case InDoubt() if now >= _doubt_ends(job):
            return _without_evidence(job, now)
        case _:
            return []


def _detached(job: Running, now: float, fault: Fault | None = None) -> list[Event]:
    """The deadline of a running job acts after a look at the provider, never before: it may be done by now."""
    if now < job.deadline:
        return []
    refused = fault is not None and fault.code == "authentication_failed"
    return [m.JobParked(reason="credential" if refused else "detached", billed=_unless_free("unknown", job))]


def _queued(command: Command, job: Queued, now: float) -> list[Event]:
    match command:
        case m.Cancel(by=by):
            return [m.JobCancelled(billed=_unbilled(job), by=by)]
        case m.RecordPrompt(attempt=job.attempt, prompt=prompt) if not job.prompt_written:
            return [m.PromptWritten(prompt=prompt)]
        case m.RecordPrepared(attempt=job.attempt, prepared=prepared) if job.prepared is None:
            return [m.InputsPrepared(attempt=job.attempt, prepared=prepared)]
        case m.RecordReserved(attempt=job.attempt, amount=amount) if job.reserved is None:
            return [m.BudgetReserved(attempt=job.attempt, amount=amount)]
        case m.RecordDenied(attempt=job.attempt, fault=fault):
            return [m.JobFailed(fault=fault, billed=_unbilled(job))]
        case m.GrantPermit(attempt=job.attempt) if now >= job.start_by:
            return _overdue(job, now)
        case m.GrantPermit(attempt=job.attempt) if now >= job.not_before and _first_need(job) is None:
            return [_intent(command, job, now)]
        case m.Resubmit() | m.GiveUp():
            raise _rejected(job, "The job is queued and will be sent: wait for it, or cancel it.")
        case _:
            return []


def _intent(permit: m.GrantPermit, job: Queued, now: float) -> Event:
    return m.SubmissionStarted(
        attempt=job.attempt,
        send=job.sends + 1,
        incarnation=permit.incarnation,
        target=job.target,
        key=permit.key,
        key_until=now + permit.terms.key_ttl_s,
        body_sha256=permit.body_sha256,
        max_cost=permit.max_cost,
        terms=permit.terms,
    )


def _submitting(command: Command, job: Submitting, now: float) -> list[Event]:
    match command:
        case m.Cancel() if job.cancel is None:
            return [_cancel_requested(command)]
        case m.RecordAccepted() if _about(command, job):
            return _accepted(command, job, now)
        case m.RecordRefused(fault=fault, retry_at=retry_at) if _about(command, job):
            return _refused(job, fault, retry_at, now)
        case m.RecordDoubt(fault=fault) if _about(command, job):
            doubted = m.SubmissionDoubted(attempt=job.attempt, send=job.started.send, fault=fault)
            after = _indoubt(job, now)
            return [doubted, *(_without_evidence(after, now) if now >= _doubt_ends(after) else [])]
        case m.Resubmit() | m.GiveUp():
            raise _rejected(job, "The job is being submitted: ask again in a moment.")
        case _:
            return []


def _accepted(report: m.RecordAccepted, job: Submitting | InDoubt, now: float) -> list[Event]:
    accepted = m.SubmissionAccepted(
        attempt=job.attempt, send=job.started.send, handle=report.handle, deadline=now + job.started.terms.total_s
    )
    return [accepted, *(_cannot(job) if job.cancel else [])]


def _refused(job: Submitting | InDoubt, fault: Fault, retry_at: float | None, now: float) -> list[Event]:
    """This send was certainly not taken: stop, try again, try elsewhere, or fail; in that order."""
    again = None if job.cancel else retry_at
    refused = m.SubmissionRefused(attempt=job.attempt, send=job.started.send, fault=fault, retry_at=again)
    if job.cancel:
        return [refused, m.JobCancelled(billed=_unbilled(job.queued), by=job.cancel.by)]
    if again is not None:
        return [refused]
    route = job.facts.requested.route
    place = route.index(job.target) if job.target in route else len(route)
    if place + 1 < len(route):
        return [refused, _next_attempt(job, now, target=route[place + 1])]
    return [refused, m.JobFailed(fault=fault, billed=_unbilled(job.queued))]


def _in_doubt(command: Command, job: InDoubt, now: float) -> list[Event]:
    match command:
        case m.Cancel() if job.cancel is None:
            requested = _cancel_requested(command)
            after = replace(job, cancel=_cancelling(requested))
            return [requested, *(_without_evidence(after, now) if now >= _doubt_ends(after) else [])]
        case m.RecordAccepted() if _about(command, job):
            return _accepted(command, job, now)
        case m.RecordAbsent() if _about(command, job) and command.looked_at >= job.since + job.started.terms.settle_s:
            if job.started.terms.doubt != "B":  # a list that does not show our mark proves nothing
                return _without_evidence(job, now)
            absent = Fault("not_found", "Looked up by our own id after settling: the provider never had it.")
            return _refused(job, absent, now, now)
        case m.Resubmit() | m.GiveUp():
            raise _rejected(job, "The job is in doubt and being looked for: ask again when it is parked.")
        case _:
            return []


def _without_evidence(job: InDoubt, now: float) -> list[Event]:
    """Nobody can know. Wait for a person, unless the caller allowed for paying again."""
    if job.cancel is None and job.queued.doubts < job.facts.requested.at_least_once:
        return [_next_attempt(job, now)]
    return [m.JobParked(reason="in_doubt", billed=_unless_free("unknown", job))]


def _doubt_ends(job: InDoubt) -> float:
    """When waiting for evidence is over: what may still come depends on the class."""
    terms = job.started.terms
    match terms.doubt:
        case "A":  # a re-send finds out, and could start the work that a cancel does not want
            return job.since if job.cancel else job.started.key_until
        case "B" | "C":  # even if every look-up fails
            return job.since + terms.total_s
        case "D":
            return job.since + terms.settle_s
        case "E":
            return job.since


def _running(command: Command, job: Running, now: float) -> list[Event]:
    match command:
        case m.Cancel() if job.cancel is None:
            return [_cancel_requested(command), *_cannot(job)]
        case m.RecordCancel(attempt=job.attempt, answer=answer) if job.cancel and job.cancel.answer is None:
            return [m.CancelAnswered(attempt=job.attempt, answer=answer)]
        case m.RecordProgress(attempt=job.attempt, percent=percent):
            rose = percent is not None and percent > (job.percent or 0)
            reported: list[Event] = [m.ProgressReported(attempt=job.attempt, percent=min(percent or 0, 100))]
            return (reported if rose else []) + _detached(job, now)
        case m.RecordFinished(attempt=job.attempt):
            return _finished(command, job)
        case m.RecordBroken(attempt=job.attempt, fault=fault, billed=billed):
            return _broken(job, fault, billed, now)
        case m.RecordStopped(attempt=job.attempt, billed=billed):
            return [
                m.JobCancelled(billed=_with_doubts(billed, job.queued), by=job.cancel.by if job.cancel else "provider")
            ]
        case m.RecordVanished(attempt=job.attempt):
            return _vanished(job, now)
        case m.Resubmit() | m.GiveUp():
            raise _rejected(job, "The job is running: cancel it, or wait for it.")
        case _:
            return []


def _finished(report: m.RecordFinished, job: Running) -> list[Event]:
    finished = m.GenerationFinished(
        attempt=job.attempt,
        outputs=report.outputs,
        filtered=report.filtered,
        cost=report.cost,
        metadata=report.metadata,
    )
    if not report.outputs:
        withheld = Fault("moderated", "The provider made the video and withheld it: change the prompt or the inputs.")
        empty = Fault("generation_failed", "The provider says that it finished, and gave no video.")
        return [
            finished,
            m.JobFailed(fault=withheld if report.filtered else empty, billed=_unless_free("unknown", job)),
        ]
    if job.cancel and job.cancel.discard:
        return [finished, m.JobCancelled(billed=_unless_free("yes", job, report.cost), by=job.cancel.by)]
    return [finished]


def _broken(job: Running, fault: Fault, billed: Billed, now: float) -> list[Event]:
    if job.cancel and job.cancel.answer == "accepted":
        return [m.JobCancelled(billed=_with_doubts(billed, job.queued), by=job.cancel.by)]
    may_spend = not job.cancel and not job.collecting and job.attempt < MAX_ATTEMPTS
    if fault.retryable and billed == "no" and may_spend:
        not_before = now + (fault.retry_after_s or 0.0)
        return [m.AttemptFailed(attempt=job.attempt, fault=fault), _next_attempt(job, now, not_before=not_before)]
    return [m.JobFailed(fault=fault, billed=_with_doubts(billed, job.queued))]


def _vanished(job: Running, now: float) -> list[Event]:
    if job.cancel and job.cancel.answer == "accepted":
        return [m.JobCancelled(billed=_unless_free("unknown", job), by=job.cancel.by)]
    if now < job.accepted_at + job.started.terms.gone_grace_s:
        return _detached(job, now)
    if job.cancel and job.started.terms.cancel == "destroys":  # the answer to our cancel was lost, and it went through
        return [m.JobCancelled(billed=_unless_free("unknown", job), by=job.cancel.by)]
    return [m.JobParked(reason="gone", billed=_unless_free("unknown", job))]


def _storing(command: Command, job: Storing) -> list[Event]:
    next_index = len(job.stored) + len(job.lost)
    match command:
        case m.Cancel() if job.cancel is None:
            return [_cancel_requested(command), m.CancelAnswered(attempt=job.attempt, answer="too_late")]
        case m.RecordStored(attempt=job.attempt, take=take) if take.index == next_index:
            stored = m.TakeStored(index=take.index, kind=take.kind, asset=take.asset, probe=take.probe)
            return [stored, *_all_stored(job, (*job.stored, take), len(job.lost))]
        case m.RecordLost(attempt=job.attempt, index=index, fault=fault) if index == next_index:
            lost = m.TakeLost(index=index, fault=fault)
            return [lost, *_all_stored(job, job.stored, len(job.lost) + 1)]
        case m.RecordLinks(attempt=job.attempt, outputs=outputs) if len(outputs) == len(job.outputs):
            return [m.LinksRefreshed(attempt=job.attempt, outputs=outputs)]
        case m.Resubmit() | m.GiveUp():
            raise _rejected(job, "The video is made and being fetched: wait for it.")
        case _:
            return []


def _all_stored(job: Storing, stored: tuple[Take, ...], lost: int) -> list[Event]:
    """How it ends, once every take is stored or lost; at once where no video is left, as no picture replaces it."""
    left = job.outputs[len(stored) + lost :]
    if "video" in (*(take.kind for take in stored), *(output.kind for output in left)):
        return [] if left else [m.JobSucceeded(missing=lost)]
    gone = Fault("asset_expired", "The video was made and paid, and its address stopped working before it was fetched.")
    return [m.JobFailed(fault=gone, billed=_unless_free("yes", job, job.finished.cost))]


def _parked(command: Command, job: Parked, now: float) -> list[Event]:
    match command:
        case m.RecordAccepted(handle=handle) if _about(command, job):
            return [_resumed(job, handle, now)]
        case m.RecordFinished(attempt=job.attempt) if job.handle is not None:
            return [_resumed(job, job.handle, now), *_finished(command, _as_running(job, job.handle, now))]
        case m.Resubmit(target=target, accept_cost=accepted):
            if not accepted:
                raise _rejected(job, f"{_TWICE[job.reason]} Accept that with `accept_cost`.", "accept_cost")
            return [_next_attempt(job, now, target=target)]
        case m.GiveUp(by=by):
            if job.cancel:
                return [m.JobCancelled(billed=job.billed, by=by)]
            return [m.JobFailed(fault=_GIVEN_UP[job.reason], billed=job.billed)]
        case m.Cancel() if job.handle is not None and job.started.terms.cancel != "no":
            return [_resumed(job, job.handle, now), *([] if job.cancel else [_cancel_requested(command)])]
        case m.Cancel(by=by):
            return [m.JobCancelled(billed=job.billed, by=by)]
        case _:
            return []


_TWICE: Final[dict[m.ParkReason, str]] = {
    "in_doubt": "The provider may have taken the request whose answer was lost: sent again, it may be paid twice.",
    "detached": "The provider may still finish this video and bill it: sent again, it may be paid twice.",
    "gone": "The provider may have billed the video that it does not know any more: sent again, it may be paid twice.",
    "credential": "The provider has this job, and may finish and bill it: sent again, it may be paid twice.",
}
_GIVEN_UP: Final[dict[m.ParkReason, Fault]] = {
    "in_doubt": Fault("no_answer", "Given up: it was never known whether the provider took the job."),
    "detached": Fault("timed_out", "Given up: the provider did not finish in time."),
    "gone": Fault("not_found", "Given up: the provider did not know the job any more."),
    "credential": Fault("authentication_failed", "Given up: the provider refused the key that the job was made with."),
}


def _resumed(job: Parked, handle: Handle, now: float) -> Event:
    return m.JobResumed(attempt=job.attempt, handle=handle, deadline=_deadline(job, now))


def _deadline(job: Parked, now: float) -> float:
    return now + job.started.terms.total_s


def _next_attempt(job: Sent, now: float, *, target: Target | None = None, not_before: float = 0.0) -> m.AttemptOpened:
    target = target or job.target
    window_s = job.facts.requested.start_by - job.facts.at
    needs: tuple[m.Need, ...] = tuple(need for need in job.facts.requested.needs if need != "prompt")
    return m.AttemptOpened(
        attempt=job.attempt + 1,
        target=target,
        needs=needs,
        not_before=not_before,
        start_by=max(now, not_before) + window_s,
    )


def _about(report: m.RecordAccepted | m.RecordRefused | m.RecordDoubt | m.RecordAbsent, job: Sent) -> bool:
    return (report.attempt, report.send) == (job.started.attempt, job.started.send)


def _cancel_requested(command: m.Cancel) -> m.CancelRequested:
    return m.CancelRequested(by=command.by, discard=command.discard)


def _cannot(job: Sent) -> list[Event]:
    """The honest answer where the provider has no way to cancel."""
    return [m.CancelAnswered(attempt=job.attempt, answer="cannot")] if job.started.terms.cancel == "no" else []


def _unbilled(job: Queued) -> Billed:
    return "unknown" if job.doubts else "no"


def _unless_free(billed: Billed, job: Sent, cost: Money | None = None) -> Billed:
    """What is free is never called billed. `cost` is the provider's own word, where it said one."""
    cost = job.started.max_cost if cost is None else cost
    free = cost is not None and cost.micro_usd == 0
    return _with_doubts("no", job.queued) if free else billed


def _with_doubts(billed: Billed, job: Queued) -> Billed:
    return "unknown" if billed == "no" and job.doubts else billed


# ── evolve ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def evolve(job: Job, event: Event, at: float) -> Job:
    """What is true after this event. Never refuses: the event has happened."""
    return FOLD[type(event)](job, event, at)


def _job_requested(_: Job, event: m.JobRequested, at: float) -> Job:
    return Queued(
        facts=m.Facts(requested=event, at=at, prompt=event.spec.prompt),
        attempt=1,
        sends=0,
        target=event.route[0],
        needs=event.needs,
        not_before=at,
        start_by=event.start_by,
    )


def _prompt_written(job: Queued, event: m.PromptWritten, _: float) -> Job:
    return replace(job, facts=replace(job.facts, prompt=event.prompt), prompt_written=True)


def _inputs_prepared(job: Queued, event: m.InputsPrepared, _: float) -> Job:
    return replace(job, prepared=event.prepared)


def _budget_reserved(job: Queued, event: m.BudgetReserved, _: float) -> Job:
    return replace(job, reserved=event.amount)


def _submission_started(job: Queued, event: m.SubmissionStarted, _: float) -> Job:
    return Submitting(queued=replace(job, sends=event.send, ever_sent=True), started=event)


def _submission_accepted(job: Submitting | InDoubt, event: m.SubmissionAccepted, at: float) -> Job:
    return Running(
        queued=job.queued,
        started=job.started,
        cancel=job.cancel,
        handle=event.handle,
        accepted_at=at,
        deadline=event.deadline,
    )


def _submission_refused(job: Submitting | InDoubt, event: m.SubmissionRefused, at: float) -> Job:
    return replace(job.queued, not_before=event.retry_at or at, refused=event.fault)


def _submission_doubted(job: Submitting, _: m.SubmissionDoubted, at: float) -> Job:
    return _indoubt(job, at)


def _indoubt(job: Submitting, at: float) -> InDoubt:
    return InDoubt(queued=job.queued, started=job.started, cancel=job.cancel, since=at)


def _attempt_opened(job: Queued | Sent, event: m.AttemptOpened, at: float) -> Job:
    queued = job if isinstance(job, Queued) else job.queued
    left_in_doubt = isinstance(job, InDoubt) or (isinstance(job, Parked) and job.billed == "unknown")
    same_target = event.target == queued.target
    return replace(
        queued,
        attempt=event.attempt,
        sends=0,
        target=event.target,
        needs=event.needs,
        not_before=event.not_before or at,
        start_by=event.start_by,
        prepared=queued.prepared if same_target and isinstance(job, Running) else None,
        reserved=None,
        doubts=queued.doubts + left_in_doubt,
        refused=None,
    )


def _attempt_failed(job: Running, _event: m.AttemptFailed, _: float) -> Job:
    return job


def _progress_reported(job: Running, event: m.ProgressReported, _: float) -> Job:
    return replace(job, percent=event.percent)


def _cancelling(event: m.CancelRequested) -> Cancelling:
    return Cancelling(by=event.by, discard=event.discard)


def _cancel_requested_folded(job: Sent, event: m.CancelRequested, _: float) -> Job:
    return cast("Job", replace(job, cancel=_cancelling(event)))


def _cancel_answered(job: Sent, event: m.CancelAnswered, _: float) -> Job:
    asked = job.cancel or Cancelling(by="user", discard=False)
    return cast("Job", replace(job, cancel=replace(asked, answer=event.answer)))


def _generation_finished(job: Running, event: m.GenerationFinished, at: float) -> Job:
    return Storing(
        queued=job.queued,
        started=job.started,
        cancel=job.cancel,
        handle=job.handle,
        finished=event,
        outputs=event.outputs,
        links_at=at,
    )


def _links_refreshed(job: Storing, event: m.LinksRefreshed, at: float) -> Job:
    early = at - job.links_at < job.started.terms.link_ttl_s
    refreshes = job.refreshes + 1 if early else 1
    return replace(job, outputs=event.outputs, links_at=at, refreshes=refreshes)


def _take_stored(job: Storing, event: m.TakeStored, _: float) -> Job:
    take = Take(index=event.index, kind=event.kind, asset=event.asset, probe=event.probe)
    return replace(job, stored=(*job.stored, take))


def _take_lost(job: Storing, event: m.TakeLost, _: float) -> Job:
    return replace(job, lost=(*job.lost, event.index))


def _job_parked(job: Sent, event: m.JobParked, _: float) -> Job:
    handle = job.handle if isinstance(job, Running | Storing | Parked) else None
    return Parked(
        queued=job.queued,
        started=job.started,
        cancel=job.cancel,
        reason=event.reason,
        billed=event.billed,
        handle=handle,
    )


def _job_resumed(job: Parked, event: m.JobResumed, at: float) -> Job:
    running = _as_running(job, event.handle, at)
    return replace(running, deadline=event.deadline, collecting=event.collecting)


def _as_running(job: Parked, handle: Handle, at: float) -> Running:
    cancel = replace(job.cancel, answer=None) if job.cancel else None
    deadline = at + job.started.terms.total_s
    return Running(
        queued=job.queued, started=job.started, cancel=cancel, handle=handle, accepted_at=at, deadline=deadline
    )


def _job_succeeded(job: Storing, event: m.JobSucceeded, _: float) -> Job:
    return Succeeded(
        facts=job.facts,
        attempt=job.attempt,
        target=job.target,
        billed="no" if job.finished.cost and not job.finished.cost.micro_usd else "yes",
        ever_sent=True,
        takes=job.stored,
        cost=job.finished.cost,
        metadata=job.finished.metadata,
        missing=event.missing,
        handle=job.handle,
    )


def _job_failed(job: Queued | Sent, event: m.JobFailed, _: float) -> Job:
    return Failed(
        facts=job.facts,
        attempt=job.attempt,
        target=job.target,
        billed=event.billed,
        ever_sent=isinstance(job, Sent) or job.ever_sent,
        fault=event.fault,
    )


def _job_cancelled(job: Queued | Sent, event: m.JobCancelled, _: float) -> Job:
    return Cancelled(
        facts=job.facts,
        attempt=job.attempt,
        target=job.target,
        billed=event.billed,
        ever_sent=isinstance(job, Sent) or job.ever_sent,
        by=event.by,
    )


def _job_hidden(job: m.Ended, _event: m.JobHidden, _: float) -> Job:
    return cast("Job", replace(job, hidden=True))


Fold = Callable[[Job, Event, float], Job]
FOLD: Final = cast(
    "dict[type[Event], Fold]",
    {
        m.JobRequested: _job_requested,
        m.PromptWritten: _prompt_written,
        m.InputsPrepared: _inputs_prepared,
        m.BudgetReserved: _budget_reserved,
        m.SubmissionStarted: _submission_started,
        m.SubmissionAccepted: _submission_accepted,
        m.SubmissionRefused: _submission_refused,
        m.SubmissionDoubted: _submission_doubted,
        m.AttemptOpened: _attempt_opened,
        m.AttemptFailed: _attempt_failed,
        m.ProgressReported: _progress_reported,
        m.CancelRequested: _cancel_requested_folded,
        m.CancelAnswered: _cancel_answered,
        m.GenerationFinished: _generation_finished,
        m.LinksRefreshed: _links_refreshed,
        m.TakeStored: _take_stored,
        m.TakeLost: _take_lost,
        m.JobParked: _job_parked,
        m.JobResumed: _job_resumed,
        m.JobSucceeded: _job_succeeded,
        m.JobFailed: _job_failed,
        m.JobCancelled: _job_cancelled,
        m.JobHidden: _job_hidden,
    },
)


# ── pending ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pending(job: Job, incarnation: str | None) -> Owed | None:
    """What the outside world still owes us, None where nothing does.

    `incarnation` is the asking system's own. None is said by a system whose own send has ended without a report.
    """
    match job:
        case Queued():
            return _first_need(job) or m.AskPermit(
                attempt=job.attempt, send=job.sends + 1, not_before=job.not_before, start_by=job.start_by
            )
        case Submitting(started=started):
            if started.incarnation == incarnation:
                return m.Send(attempt=started.attempt, send=started.send)
            return m.DeclareDoubt(attempt=started.attempt, send=started.send)
        case InDoubt(started=started, since=since):
            return _evidence(job, started, since)
        case Running(cancel=Cancelling(answer=None)):
            return m.CancelRemote(attempt=job.attempt, poll_first=job.started.terms.cancel == "destroys")
        case Running():
            return m.Ask(attempt=job.attempt, accepted_at=job.accepted_at, deadline=job.deadline)
        case Storing():
            index = len(job.stored) + len(job.lost)
            beside = any(output.kind != "video" for output in job.outputs[index : index + 1])
            return m.Store(attempt=job.attempt, index=index, refreshes=job.refreshes, beside=beside)
        case New() | Parked() | Succeeded() | Failed() | Cancelled():
            return None
        case _:
            assert_never(job)


def _first_need(job: Queued) -> m.WritePrompt | m.Prepare | m.Reserve | None:
    if "prompt" in job.needs and not job.prompt_written:
        return m.WritePrompt(attempt=job.attempt)
    if "prepare" in job.needs and job.prepared is None:
        return m.Prepare(attempt=job.attempt)
    if "reserve" in job.needs and job.reserved is None:
        return m.Reserve(attempt=job.attempt)
    return None


def _evidence(job: InDoubt, started: m.SubmissionStarted, since: float) -> Owed:
    attempt, send, until = started.attempt, started.send, _doubt_ends(job)
    match started.terms.doubt:
        case "A":
            return m.SendAgain(attempt=attempt, send=send, since=since, until=until)
        case "B" | "C":
            return m.Look(attempt=attempt, send=send, since=since, until=until)
        case "D" | "E":
            return m.AwaitCallback(attempt=attempt, send=send, until=until)


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def phase_word(job: Job) -> str:
    """The phase's name as everybody is shown it."""
    return PHASE_WORDS[type(job)]


PHASE_WORDS: Final[dict[type[Job], str]] = {
    New: "new",
    Queued: "queued",
    Submitting: "submitting",
    InDoubt: "in_doubt",
    Running: "running",
    Storing: "storing",
    Parked: "parked",
    Succeeded: "succeeded",
    Failed: "failed",
    Cancelled: "cancelled",
}


def replay(events: list[tuple[Event, float]]) -> Job:
    """The state that a history makes."""
    job: Job = New()
    for event, at in events:
        job = evolve(job, event, at)
    return job
