"""The peer of the replay figures: the `eventsourcing` library on SQLite, with a job of its own and plain JSON.

Its events carry the same fields as ours. Its aggregate keeps from them what our phases keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from bench.jobs import History, history
from rushes.actors import messages as m

AT_ONCE: Final = 200  # jobs in one save: saving is not what is measured


class Job(Aggregate):
    """A video job."""

    @event("Requested")
    def __init__(self, spec: Any, route: Any, start_by: float, body_sha256: str) -> None:
        self.spec, self.route, self.start_by, self.body_sha256 = spec, route, start_by, body_sha256
        self.status, self.attempt, self.percent = "queued", 1, 0

    @event("Started")
    def started(
        self,
        attempt: int,
        send: int,
        incarnation: str,
        target: Any,
        key: str,
        key_until: float,
        body_sha256: str,
        max_cost: Any,
        terms: Any,
    ) -> None:
        self.status, self.attempt, self.send, self.incarnation = "submitting", attempt, send, incarnation
        self.target, self.key, self.key_until, self.sent_sha256 = target, key, key_until, body_sha256
        self.max_cost, self.terms = max_cost, terms

    @event("Accepted")
    def accepted(self, attempt: int, send: int, handle: Any, deadline: float) -> None:
        self.status, self.attempt, self.send, self.handle, self.deadline = "running", attempt, send, handle, deadline

    @event("Refused")
    def refused(self, attempt: int, send: int, fault: Any) -> None:
        self.status, self.attempt, self.send, self.fault = "queued", attempt, send, fault

    @event("Progressed")
    def progressed(self, attempt: int, percent: int) -> None:
        self.attempt, self.percent = attempt, percent

    @event("Finished")
    def finished(self, attempt: int, outputs: Any) -> None:
        self.status, self.attempt, self.outputs = "storing", attempt, outputs

    @event("TakeStored")
    def take_stored(self, index: int, asset: Any, probe: Any) -> None:
        self.takes = [{"index": index, "asset": asset, "probe": probe}]

    @event("Succeeded")
    def succeeded(self) -> None:
        self.status = "succeeded"

    @event("Failed")
    def failed(self, fault: Any, billed: str) -> None:
        self.status, self.fault, self.billed = "failed", fault, billed


TELL: Final[dict[type[m.Event], Callable[..., None]]] = {
    m.SubmissionStarted: Job.started,
    m.SubmissionAccepted: Job.accepted,
    m.SubmissionRefused: Job.refused,
    m.ProgressReported: Job.progressed,
    m.GenerationFinished: Job.finished,
    m.TakeStored: Job.take_stored,
    m.JobSucceeded: Job.succeeded,
    m.JobFailed: Job.failed,
}


class Peer:
    """Its application, with these jobs in it."""

    def __init__(self, path: Path, histories: Sequence[History]) -> None:
        self._app = Application[UUID]({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)})
        jobs = [_job(events) for events in histories]
        self.ids = [job.id for job in jobs]
        for first in range(0, len(jobs), AT_ONCE):
            self._app.save(*jobs[first : first + AT_ONCE])

    def replay(self, job: UUID) -> int:
        """Read a job and fold it; how many events that were."""
        found: Job = self._app.repository.get(job)
        return found.version

    def run(self, number: int) -> None:
        """A job from its request to its end, in four saves: each is on the disk before the next one begins."""
        asked, _, accepted, *_, finished, stored, _ = history(8 * number)  # none of these is refused
        job = Job(**msgspec.to_builtins(asked))
        self._app.save(job)
        for one in (accepted, finished, stored):
            TELL[type(one)](job, **msgspec.to_builtins(one))
            self._app.save(job)

    def close(self) -> None:
        """Let go of the file."""
        self._app.close()


def _job(events: History) -> Job:
    asked, *rest = events
    job = Job(**msgspec.to_builtins(asked))
    for one in rest:
        TELL[type(one)](job, **msgspec.to_builtins(one))
    return job
