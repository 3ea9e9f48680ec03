"""The commands that a log implies: each is made again from its name, its events and the state before them.

What no event tells, and the decision did not depend on, has any value: the address of a permit that came too late, the
words of a failure after a cancel that was granted. All else is in the events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec.structs import asdict

from rushes.actors import messages as m
from rushes.actors.messages import Command, Event, Job
from rushes.adapters.capabilities import Terms
from rushes.faults import Fault
from rushes.units import Billed
from rushes.video import Take

E = TypeVar("E", bound=Event)
Maker = Callable[[Sequence[Event], Job], Command]


class Unknown(ValueError):
    """No command of that name brings these events."""


UNTOLD: Final = Fault("cancelled", "")


def implied(name: str, events: Sequence[Event], job: Job) -> Command:
    """The command that these events came from.

    Args:
        name: the command's type, as the log has it beside its events.
        events: its own, and maybe others behind them.
        job: the state before them.

    Raises:
        Unknown: no command of that name brings these events.
    """
    maker = MAKERS.get(name)
    if maker is None:
        raise Unknown(f"there is no command {name!r}")
    try:
        return maker(events, job)
    except (TypeError, StopIteration) as error:
        raise Unknown(f"a command {name} brings no {m.TYPES[type(events[0])]}") from error


def _the(kind: type[E], events: Sequence[Event]) -> E:
    """The first of the events, which is of that kind."""
    if not isinstance(events[0], kind):
        raise TypeError(kind.__name__)
    return events[0]


def _any_of(events: Sequence[Event], *kinds: type[Event]) -> None:
    """For commands that bring nothing else."""
    if type(events[0]) not in kinds:
        raise TypeError


def _attempt(job: Job) -> int:
    if isinstance(job, m.New):
        raise TypeError
    return job.attempt


def _send(job: Job) -> int:
    """Which send a report is about: the state's own."""
    if not isinstance(job, m.Sent):
        raise TypeError
    return job.started.send


# ── Users ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _generate(events: Sequence[Event], _: Job) -> Command:
    return m.Generate(request=_the(m.JobRequested, events))


def _poll(events: Sequence[Event], _: Job) -> Command:
    _any_of(events, *OVERDUE)
    return m.Poll()


def _wake(events: Sequence[Event], _: Job) -> Command:
    _any_of(events, *OVERDUE)
    return m.Wake()


OVERDUE: Final = (m.JobFailed, m.AttemptOpened, m.JobParked)


def _cancel(events: Sequence[Event], _: Job) -> Command:
    for event in events[:2]:
        match event:
            case m.CancelRequested(by=by, discard=discard):
                return m.Cancel(by=by, discard=discard)
            case m.JobCancelled(by=by):
                return m.Cancel(by=by)
            case _:
                continue
    return m.Cancel() if isinstance(events[0], m.JobResumed) else _nothing()


def _collect(events: Sequence[Event], _: Job) -> Command:
    return m.Collect(handle=_the(m.JobResumed, events).handle)


def _resubmit(events: Sequence[Event], _: Job) -> Command:
    return m.Resubmit(target=_the(m.AttemptOpened, events).target, accept_cost=True)


def _give_up(events: Sequence[Event], _: Job) -> Command:
    _any_of(events, m.JobCancelled, m.JobFailed)
    return m.GiveUp(by=events[0].by) if isinstance(events[0], m.JobCancelled) else m.GiveUp()


def _hide(events: Sequence[Event], _: Job) -> Command:
    _the(m.JobHidden, events)
    return m.Hide()


def _nothing() -> Command:
    raise TypeError


# ── Reports ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _prompt(events: Sequence[Event], job: Job) -> Command:
    return m.RecordPrompt(attempt=_attempt(job), prompt=_the(m.PromptWritten, events).prompt)


def _prepared(events: Sequence[Event], job: Job) -> Command:
    return m.RecordPrepared(attempt=_attempt(job), prepared=_the(m.InputsPrepared, events).prepared)


def _reserved(events: Sequence[Event], job: Job) -> Command:
    return m.RecordReserved(attempt=_attempt(job), amount=_the(m.BudgetReserved, events).amount)


def _denied(events: Sequence[Event], job: Job) -> Command:
    return m.RecordDenied(attempt=_attempt(job), fault=_the(m.JobFailed, events).fault)


def _permit(events: Sequence[Event], job: Job) -> Command:
    match events[0]:
        case m.SubmissionStarted() as started:
            return msgspec.convert(asdict(started), m.GrantPermit, from_attributes=True)
        case m.JobFailed():  # it came too late
            return m.GrantPermit(
                attempt=_attempt(job), incarnation="", key="", body_sha256="", max_cost=None, terms=Terms(doubt="E")
            )
        case _:
            return _nothing()


def _accepted(events: Sequence[Event], job: Job) -> Command:
    match events[0]:
        case m.SubmissionAccepted(handle=handle) | m.JobResumed(handle=handle):
            return m.RecordAccepted(attempt=_attempt(job), send=_send(job), handle=handle)
        case _:
            return _nothing()


def _refused(events: Sequence[Event], job: Job) -> Command:
    refused = _the(m.SubmissionRefused, events)
    return m.RecordRefused(attempt=_attempt(job), send=_send(job), fault=refused.fault, retry_at=refused.retry_at)


def _doubted(events: Sequence[Event], job: Job) -> Command:
    return m.RecordDoubt(attempt=_attempt(job), send=_send(job), fault=_the(m.SubmissionDoubted, events).fault)


def _absent(events: Sequence[Event], job: Job) -> Command:
    """It was looked up late enough, or nothing would have come of it."""
    _any_of(events, m.SubmissionRefused, m.AttemptOpened, m.JobParked)
    looked_at = job.since + job.started.terms.settle_s if isinstance(job, m.InDoubt) else 0.0
    return m.RecordAbsent(attempt=_attempt(job), send=_send(job), looked_at=looked_at)


def _progress(events: Sequence[Event], job: Job) -> Command:
    match events[0]:
        case m.ProgressReported(percent=percent):  # 100 stands for more, too
            least = (job.percent or 0) + 1 if isinstance(job, m.Running) else 0
            return m.RecordProgress(attempt=_attempt(job), percent=max(percent, least))
        case m.JobParked():
            return m.RecordProgress(attempt=_attempt(job), percent=None)
        case _:
            return _nothing()


def _finished(events: Sequence[Event], job: Job) -> Command:
    told = next(event for event in events[:2] if isinstance(event, m.GenerationFinished))
    return m.RecordFinished(
        attempt=_attempt(job), outputs=told.outputs, filtered=told.filtered, cost=told.cost, metadata=told.metadata
    )


def _broken(events: Sequence[Event], job: Job) -> Command:
    fault, billed = UNTOLD, _billed(events[0])
    if isinstance(events[0], m.AttemptFailed | m.JobFailed):
        fault = events[0].fault
    return m.RecordBroken(attempt=_attempt(job), fault=fault, billed=billed)


def _billed(event: Event) -> Billed:
    match event:
        case m.AttemptFailed():
            return "no"
        case m.JobFailed(billed=billed) | m.JobCancelled(billed=billed):
            return billed
        case _:
            raise TypeError


def _stopped(events: Sequence[Event], job: Job) -> Command:
    return m.RecordStopped(attempt=_attempt(job), billed=_the(m.JobCancelled, events).billed)


def _vanished(events: Sequence[Event], job: Job) -> Command:
    _any_of(events, m.JobCancelled, m.JobParked)
    return m.RecordVanished(attempt=_attempt(job))


def _cancel_answer(events: Sequence[Event], job: Job) -> Command:
    return m.RecordCancel(attempt=_attempt(job), answer=_the(m.CancelAnswered, events).answer)


def _links(events: Sequence[Event], job: Job) -> Command:
    return m.RecordLinks(attempt=_attempt(job), outputs=_the(m.LinksRefreshed, events).outputs)


def _stored(events: Sequence[Event], job: Job) -> Command:
    take = msgspec.convert(_the(m.TakeStored, events), Take, from_attributes=True)
    return m.RecordStored(attempt=_attempt(job), take=take)


def _lost(events: Sequence[Event], job: Job) -> Command:
    lost = _the(m.TakeLost, events)
    return m.RecordLost(attempt=_attempt(job), index=lost.index, fault=lost.fault)


def _trouble(events: Sequence[Event], _: Job) -> Command:
    refused = _the(m.JobParked, events).reason == "credential"
    return m.RecordTrouble(fault=Fault("authentication_failed" if refused else "no_answer", ""))


MAKERS: Final[dict[str, Maker]] = {
    "Generate": _generate,
    "Poll": _poll,
    "Wake": _wake,
    "Cancel": _cancel,
    "Collect": _collect,
    "Resubmit": _resubmit,
    "GiveUp": _give_up,
    "Hide": _hide,
    "RecordPrompt": _prompt,
    "RecordPrepared": _prepared,
    "RecordReserved": _reserved,
    "RecordDenied": _denied,
    "GrantPermit": _permit,
    "RecordAccepted": _accepted,
    "RecordRefused": _refused,
    "RecordDoubt": _doubted,
    "RecordAbsent": _absent,
    "RecordProgress": _progress,
    "RecordFinished": _finished,
    "RecordBroken": _broken,
    "RecordStopped": _stopped,
    "RecordVanished": _vanished,
    "RecordCancel": _cancel_answer,
    "RecordLinks": _links,
    "RecordStored": _stored,
    "RecordLost": _lost,
    "RecordTrouble": _trouble,
}
"""A test says that these are exactly the commands."""
