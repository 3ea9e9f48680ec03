"""One job, live: its state, its mailbox, and the turn that moves it.

The actor knows no video, no HTTP and no provider, and it is the only thing here that changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.job import decide, evolve
from rushes.actors.lanes import Lane
from rushes.actors.messages import TYPES, Command, Ended, Event, Job, New, Owed
from rushes.eventstore.base import Birth, EventStore, Head, Recorded, Write
from rushes.faults import CommandRejected

KIND = "job"
_log = structlog.get_logger("rushes")
_WORTH_TELLING = (m.SubmissionAccepted, m.JobSucceeded, m.JobFailed, m.JobCancelled, m.JobParked)
_USERS = (m.Generate, m.Poll, m.Cancel, m.Collect, m.Resubmit, m.GiveUp)


class Asked:
    """A command in a mailbox, with whoever waits for the state after it."""

    __slots__ = ("command", "reply")

    def __init__(self, command: Command, reply: asyncio.Future[None] | None = None) -> None:
        self.command, self.reply = command, reply

    def answer(self) -> None:
        """The state after the command is on disk."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(None)

    def refuse(self, error: Exception) -> None:
        """The command was not carried out."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


class Actor:
    """The live form of one stream. `job`, `version` and `at` change only by a turn that was stored."""

    __slots__ = (
        "at",
        "born_at",
        "effect",
        "job",
        "mailbox",
        "name",
        "permit",
        "stream",
        "task",
        "tenant",
        "tried_at",
        "troubles",
        "turning",
        "version",
    )

    def __init__(self, name: str, tenant: str, stream: int | None = None) -> None:
        self.name, self.tenant, self.stream = name, tenant, stream
        self.job: Job = New()
        self.version = 0
        self.born_at = 0.0
        self.at = 0.0  # of the last event
        self.mailbox: list[Asked] = []
        self.turning: asyncio.Task[None] | None = None
        self.effect: Owed | None = None  # the one that is being performed
        self.task: asyncio.Task[None] | None = None
        self.troubles = 0  # effects in a row that came to nothing
        self.tried_at = 0.0  # when the last effect ended
        self.permit: Lane | None = None  # a place at the provider that we hold

    def replay(self, history: Sequence[Recorded]) -> None:
        """Become what the log says. Raises BadEvent, or anything where the events do not follow each other."""
        job: Job = New()
        for recorded in history:
            job = evolve(job, codec.decode(recorded), recorded.at)
        self.job = job
        if history:
            self.version, self.born_at, self.at = history[-1].version, history[0].at, history[-1].at

    async def turn(self, asked: Sequence[Asked], now: float, store: EventStore, token: int, fence: int) -> None:
        """Decide, fold, append, answer: what cannot be folded is never written, what is not stored never answered."""
        now = max(now, self.at)  # time never falls in a stream
        job, decided, answered = self.job, list[tuple[Event, Command]](), list[Asked]()
        for one in asked:
            try:
                events = decide(one.command, job, now)
            except CommandRejected as error:
                error.job_id = self.name
                one.refuse(error)
                continue
            for event in events:
                job = evolve(job, event, now)
            decided += [(event, one.command) for event in events]
            answered.append(one)
        if decided:
            await self._append(decided, job, now, store, token, fence)
            self.job = job
        for one in answered:
            one.answer()

    async def _append(
        self, decided: list[tuple[Event, Command]], job: Job, now: float, store: EventStore, token: int, fence: int
    ) -> None:
        stream = Birth(self.name, KIND, self.tenant) if self.stream is None else self.stream
        events = [codec.encode(event, now, cause) for event, cause in decided]
        stored = await store.append(Write(stream, self.version, events, head_of(job), token, fence))
        self.stream, self.version, self.at = stored.stream, self.version + len(events), now
        self.born_at = self.born_at or now
        for event, _ in decided:
            level = _log.info if isinstance(event, _WORTH_TELLING) else _log.debug
            level(TYPES[type(event)], job=self.name)


def head_of(job: Job) -> Head:
    """What the store keeps beside the events: whether anything is still to be done, and who does it."""
    return Head(open=not isinstance(job, Ended | New), lane=lane_of(job))


def lane_of(job: Job) -> str:
    """The lane of the job's target."""
    match job:
        case New():
            return ""
        case _:
            return f"{job.target.provider}/{job.target.credential}"


def is_users(command: Command) -> bool:
    """Whether somebody waits for an answer who can ask again: our own reports cannot."""
    return isinstance(command, _USERS)
