"""When an owed effect is due: pure arithmetic over the job's pinned terms."""

from __future__ import annotations

from typing import Final

from rushes.actors import messages as m
from rushes.actors.messages import Owed
from rushes.adapters.capabilities import Terms
from rushes.units import spread

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 300.0
LOOK_AGAIN_S: Final = 60.0  # when the schedule of look-ups is used up


def backoff_s(job_id: str, tries: int, *salt: int) -> float:
    """Seconds before try `tries` + 1: doubling, bounded, with jitter that a replay repeats."""
    return min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(tries, 20)) * (0.5 + spread(job_id, tries, *salt))


def due_at(owed: Owed, job: m.Job, job_id: str, *, tried_at: float, troubles: int, now: float) -> float:
    """When to perform it, in seconds since 1970.

    Args:
        owed: what is owed.
        job: the state that owes it.
        job_id: draws the jitter.
        tried_at: when something was last performed for this job, or its provider last heard.
        troubles: how often in a row that came to nothing.
        now: the wall clock. One that was set back since does not make anybody wait for it to catch up.
    """
    tried_at = min(tried_at, now)
    pause_s = backoff_s(job_id, troubles - 1) if troubles else 0.0
    match owed:
        case m.Ask(accepted_at=accepted_at, deadline=deadline):
            last = max(tried_at, accepted_at) if accepted_at <= now else tried_at
            # the job's age of then: by that of now, it would grow while one waits
            interval_s = _terms(job).poll.interval_s(max(0.0, last - accepted_at))
            return min(last + max(interval_s, pause_s), max(deadline, tried_at + pause_s))
        case m.AskPermit(not_before=not_before, start_by=start_by):
            return min(max(not_before, tried_at + pause_s if troubles else 0.0), start_by)
        case m.Look(since=since) | m.SendAgain(since=since) if since > now:
            return tried_at + LOOK_AGAIN_S if tried_at else now
        case m.Look(since=since, until=until) | m.SendAgain(since=since, until=until):
            looks = [since + after_s for after_s in _terms(job).looks_s if since + after_s > max(tried_at, since)]
            return min(looks[0] if looks else tried_at + LOOK_AGAIN_S, max(until, tried_at + pause_s))
        case m.AwaitCallback(until=until):
            return until
        case _:
            return tried_at + pause_s if troubles else now


def _terms(job: m.Job) -> Terms:
    """What was pinned for the send that is being looked after."""
    assert isinstance(job, m.Sent)
    return job.started.terms
