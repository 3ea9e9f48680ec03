"""One job, live: its state, its mailbox, and the turn that moves it.

The actor knows no video, no HTTP and no provider, and it is the only thing here that changes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any, Final

from msgspec.structs import force_setattr

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.job import decide, evolve
from rushes.actors.lanes import Lane, Learned, Places
from rushes.actors.messages import Command, Ended, Event, Job, New, Owed
from rushes.actors.words import billed_word
from rushes.eventstore.base import Birth, Head, Recorded, Stored, Write
from rushes.faults import CommandRejected, Fault, Unavailable

KIND: Final = "job"
MAX_COMMON: Final = 4_096  # parts that are known to be common to jobs
_COMMON: Final[dict[type[Event], Sequence[str]]] = {
    m.JobRequested: ("route",),
    m.SubmissionStarted: ("incarnation", "target", "max_cost", "terms"),
}
_NOTHING: Final[dict[str, Any]] = {}
_USERS = (m.Generate, m.Poll, m.Cancel, m.Collect, m.Resubmit, m.GiveUp, m.Hide)


class Asked:
    """A command in a mailbox, with whoever waits for the state after it."""

    __slots__ = ("command", "moved", "reply")

    def __init__(self, command: Command, reply: asyncio.Future[None] | None = None) -> None:
        self.command, self.reply = command, reply
        self.moved = False  # something came of it

    def answer(self) -> None:
        """The state after the command is on disk."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(None)

    def refuse(self, error: Exception) -> None:
        """The command was not carried out."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


class Turn:
    """What the commands of one turn come to, on its way to the disk."""

    __slots__ = ("asked", "at", "decided", "job", "lane")

    def __init__(self, job: Job, at: float) -> None:
        self.asked: list[Asked] = []  # those that were not refused
        self.decided: list[tuple[Event, Command]] = []
        self.job = job  # afterwards
        self.at = at
        self.lane = ""  # of the job afterwards, once it is written

    def decide(self, command: Command) -> None:
        """Decide and fold: what cannot be folded is never written. Raises CommandRejected, or whatever a bug raises."""
        for event in decide(command, self.job, self.at):
            self.job = evolve(self.job, event, self.at)
            self.decided.append((event, command))

    def answer(self) -> None:
        """Everybody who asked is told."""
        for one in self.asked:
            one.answer()


class Actor:
    """The live form of one stream. `job`, `version` and `at` change only by a turn that was stored."""

    __slots__ = (
        "at",
        "bad_files",
        "born_at",
        "effect",
        "heard_at",
        "job",
        "lane",
        "mailbox",
        "name",
        "pause_s",
        "place",
        "stream",
        "task",
        "tenant",
        "trace",
        "tried_at",
        "trouble",
        "troubles",
        "turn",
        "version",
    )

    def __init__(self, name: str, tenant: str, stream: int | None = None) -> None:
        self.name, self.tenant, self.stream = name, sys.intern(tenant), stream
        self.trace = ""  # that its first event belongs to, and all that follow
        self.job: Job = New()
        self.version = 0
        self.born_at = 0.0
        self.at = 0.0  # of the last event
        self.mailbox: list[Asked] | None = None  # what waits for the end of the turn
        self.turn: Turn | None = None  # the one that is being stored
        self.effect: Owed | None = None  # the one that is being performed
        self.task: asyncio.Task[None] | None = None
        self.troubles = 0  # effects in a row that came to nothing
        self.trouble: Fault | None = None  # why the last of them did
        self.bad_files = 0  # answers in place of the next take that were none
        self.tried_at = 0.0  # when the last effect ended
        self.pause_s = 0.0  # from then on, as the provider wished in its last answer to a poll
        self.heard_at = 0.0  # when the provider last answered about it
        self.lane: Lane | None = None  # where it has left timers
        self.place: Places | None = None  # where it holds a place

    def replay(self, history: Sequence[Recorded]) -> None:
        """Become what the log says. Raises BadEvent, or anything where the events do not follow each other."""
        job: Job = New()
        for recorded in history:
            job = evolve(job, _shared(codec.decode(recorded)), recorded.at)
        self.job = job
        if history:
            self.version, self.born_at, self.at = history[-1].version, history[0].at, history[-1].at
            self.trace = codec.trace_of(history[0])

    @property
    def learned(self) -> Learned:
        """What is to outlast the memory, and no event tells."""
        return Learned(self.heard_at, self.tried_at, self.pause_s, self.troubles, self.bad_files)

    def recall(self, learned: Learned, trouble: Fault | None) -> None:
        """Go on where it was left."""
        self.heard_at, self.tried_at, self.pause_s, self.troubles, self.bad_files = learned
        self.trouble = trouble

    def decide(self, asked: Sequence[Asked], now: float) -> Turn:
        """What all these come to. Raises whatever a bug raises."""
        turn = Turn(self.job, max(now, self.at))  # time never falls in a stream
        for one in asked:
            before = len(turn.decided)
            try:
                turn.decide(one.command)
            except CommandRejected as error:
                error.job_id = self.name
                one.refuse(error)
            else:
                one.moved = len(turn.decided) > before
                turn.asked.append(one)
        return turn

    def write(self, turn: Turn, token: int, fence: int) -> Write:
        """The turn as one append."""
        stream = Birth(self.name, KIND, self.tenant) if self.stream is None else self.stream
        events = [codec.encode(event, turn.at, cause, self.trace) for event, cause in turn.decided]
        head = head_of(turn.job)
        turn.lane = head.lane
        return Write(stream, self.version, events, head, token, fence)

    def become(self, turn: Turn, stored: Stored) -> None:
        """The turn is on disk."""
        self.stream, self.job, self.at = stored.stream, turn.job, turn.at
        self.version += len(turn.decided)
        self.born_at = self.born_at or turn.at

    def unavailable(self, detail: str) -> Unavailable:
        """Why nothing can be done now, in the job's name."""
        return Unavailable(detail, job_id=self.name, billed=billed_word(self.job))


def _shared(event: Event) -> Event:
    """The same event, just decoded: what it has in common with other jobs' is in memory once."""
    for field in _COMMON.get(type(event), ()):
        force_setattr(event, field, _first_like(getattr(event, field)))
    if isinstance(event, m.JobRequested) and not event.spec.provider_options:
        force_setattr(event.spec, "provider_options", _NOTHING)
    elif isinstance(event, m.SubmissionAccepted) and not event.handle.extra:
        force_setattr(event.handle, "extra", _NOTHING)
    return event


@lru_cache(MAX_COMMON)
def _first_like(part: Hashable) -> Hashable:
    return part


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
