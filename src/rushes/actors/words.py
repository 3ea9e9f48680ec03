"""What everybody is told of a state in one word, beside its phase. Pure."""

from __future__ import annotations

from typing import Final

from rushes.actors import messages as m
from rushes.actors.messages import Job
from rushes.units import Billed, Money
from rushes.video import Status

_STATUS: Final[dict[type[Job], Status]] = {
    m.New: "queued",
    m.Queued: "queued",
    m.Submitting: "queued",
    m.InDoubt: "running",
    m.Running: "running",
    m.Storing: "running",
    m.Parked: "running",
    m.Succeeded: "succeeded",
    m.Failed: "failed",
    m.Cancelled: "cancelled",
}


def status_word(job: Job) -> Status:
    """The coarse word for the phase."""
    return _STATUS[type(job)]


def billed_word(job: Job) -> Billed:
    """Whether money was spent, as far as anybody can know now."""
    match job:
        case m.New():
            return "no"
        case m.Sent(started=m.SubmissionStarted(max_cost=Money(micro_usd=0))):
            return "no"
        case m.Queued(doubts=doubts):
            return "unknown" if doubts else "no"
        case (
            m.Parked(billed=billed) | m.Succeeded(billed=billed) | m.Failed(billed=billed) | m.Cancelled(billed=billed)
        ):
            return billed
        case m.Storing():
            return "yes"
        case m.Submitting() | m.InDoubt() | m.Running():
            return "unknown"
