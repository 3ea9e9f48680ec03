"""What an event was decided from: the command, the state and the time, for looking at the decision itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from msgspec import Struct

from rushes.actors.job import decide
from rushes.actors.messages import Command, Event, Job, New
from rushes.replay.recording import Recording
from rushes.replay.verify import Cannot, Diverged, Line, belongs, command_of, decided, fold, read, shown
from rushes.video import JSON

__all__ = ["Cannot", "Moment", "decide", "moment"]


class Moment(Struct, frozen=True, kw_only=True):
    """`decide(command, state, now)` is how today's code decides what the log has as `events`."""

    version: int  # of the first of the events
    command: Command  # made again from the log
    state: Job  # before it
    now: float  # seconds since 1970, UTC
    events: tuple[Event, ...]  # of the log

    def today(self) -> JSON:
        """What today's code decides: events as a report shows them, or what it raises."""
        try:
            return [shown(event) for event in decide(self.command, self.state, self.now)]
        except Exception as error:  # noqa: BLE001 - it is what somebody wants to see
            return f"{type(error).__name__}: {error}"

    def recorded(self) -> list[JSON]:
        """What the log has, in the same form."""
        return [shown(event) for event in self.events]


def moment(recording: Recording, version: int) -> Moment:
    """The decision that an event came from. Raises Cannot where it cannot be made again."""
    job: Job = New()
    lines = read(recording)
    while lines:
        count = _together(lines, job)
        first = lines[0].recorded
        if version < first.version + count:
            events = tuple(line.event for line in lines[:count])
            return Moment(version=first.version, command=command_of(lines, job), state=job, now=first.at, events=events)
        for line in lines[:count]:
            job = _after(job, line)
        lines = lines[count:]
    raise Cannot(f"{recording.job_id} has no event {version}.")


def _together(lines: Sequence[Line], job: Job) -> int:
    """How many events the next command brought; where today it brings others, all that its append has of its name."""
    try:
        return len(decided(lines, job))
    except (Cannot, Diverged):
        return len([*takewhile(lambda line: belongs(line, lines[0]), lines)])


def _after(job: Job, line: Line) -> Job:
    try:
        return fold(job, line)
    except Diverged as diverged:
        raise Cannot(diverged.difference.what) from diverged
