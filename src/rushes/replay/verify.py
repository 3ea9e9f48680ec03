"""Today's code held against a log: every command that it implies is decided again in the state of that moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from rushes.actors import codec
from rushes.actors.actor import head_of
from rushes.actors.codec import BadEvent
from rushes.actors.job import decide, evolve, phase_word
from rushes.actors.messages import TYPES, Command, Event, Job, New
from rushes.eventstore.base import Head, Recorded
from rushes.faults import CommandRejected
from rushes.flight import Exchange
from rushes.replay.implied import Unknown, implied
from rushes.replay.likeness import unlike
from rushes.replay.recording import Recording
from rushes.replay.report import Difference, Report
from rushes.replay.timeline import Meta, meta_of


class Cannot(Exception):
    """What is kept is not enough to tell."""


class Diverged(Exception):
    """Today's code says something else."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference.what)
        self.difference = difference


class Line(Struct, frozen=True):
    """One event, read."""

    recorded: Recorded
    event: Event
    meta: Meta


def verify(recording: Recording) -> Report:
    """Whether today's code, told the same, says the same, event by event; and folds it to what the log keeps beside it.

    Nothing is asked and nothing is waited for: it is the decider alone.
    """
    compared = 0
    try:
        lines = read(recording)
        job: Job = New()
        while compared < len(lines):
            events = decided(lines[compared:], job)
            for line in lines[compared : compared + len(events)]:
                job = fold(job, line)
            compared += len(events)
        _compare_head(recording, job)
    except Cannot as cannot:
        return Report(job_id=recording.job_id, verdict="cannot", events=compared, why=str(cannot))
    except Diverged as found:
        difference = msgspec.structs.replace(found.difference, exchange=traffic_of(recording, found.difference.version))
        return Report(job_id=recording.job_id, verdict="diverged", events=compared, difference=difference)
    return Report(job_id=recording.job_id, verdict="same", events=compared)


def read(recording: Recording) -> list[Line]:
    """The events as today's structs. Raises Cannot."""
    lines: list[Line] = []
    if not recording.events:
        raise Cannot(f"There are no events of {recording.job_id}.")
    for version, recorded in enumerate(recording.events, 1):
        if recorded.version != version:
            raise Cannot(f"Event {version} of {recording.job_id} is missing or damaged: `rushes verify` says more.")
        try:
            event = codec.decode(recorded)
        except BadEvent as bad:
            raise Cannot(bad.about(recording.job_id, "", recording.versions.get("rushes", "")).detail) from bad
        lines.append(Line(recorded, event, meta_of(recorded)))
    return lines


def decided(lines: Sequence[Line], job: Job) -> list[Event]:
    """The events of the first command that these lines imply, as today's code decides it.

    Raises:
        Cannot: the command cannot be made again.
        Diverged: they are not those of the log.
    """
    first = lines[0]
    command = command_of(lines, job)
    try:
        events = decide(command, job, first.recorded.at)
    except CommandRejected as error:
        raise Diverged(_parted(first, f"today {first.meta.cmd} is refused: {error.detail}")) from error
    except Exception as error:
        raise Diverged(_parted(first, f"today {first.meta.cmd} ends with {type(error).__name__}: {error}")) from error
    if not events:
        raise Diverged(_parted(first, f"today nothing comes of {first.meta.cmd}"))
    for line, event in zip(lines, events, strict=False):
        if line.event != event:
            raise Diverged(different(line, event))
    if len(events) > len(lines):
        extra, version = events[len(lines)], lines[-1].recorded.version + 1
        what = f"The recording ends; today {first.meta.cmd} brings {TYPES[type(extra)]} as well."
        raise Diverged(Difference(version=version, what=what, today=shown(extra)))
    return events


def command_of(lines: Sequence[Line], job: Job) -> Command:
    """The command that the first of these lines came from. Raises Cannot."""
    first = lines[0]
    together = [line.event for line in lines if belongs(line, first)]
    try:
        return implied(first.meta.cmd, together, job)
    except Unknown as unknown:
        told = f"event {first.recorded.version}, {first.recorded.type}, of a job that was {phase_word(job)}"
        raise Cannot(f"The command of {told} cannot be made again: {unknown}.") from unknown


def belongs(line: Line, first: Line) -> bool:
    """Whether both were written by one append, for commands of one name."""
    one, other = line.recorded, first.recorded
    return (one.token, one.at, line.meta.cmd) == (other.token, other.at, first.meta.cmd)


def fold(job: Job, line: Line) -> Job:
    """The state after an event. Raises Diverged: today's code cannot fold it."""
    try:
        return evolve(job, line.event, line.recorded.at)
    except Exception as error:
        what = f"today it cannot follow a job that is {phase_word(job)} ({type(error).__name__}: {error})"
        raise Diverged(_parted(line, what)) from error


def shown(event: Event) -> dict[str, Any]:
    """An event as a report shows it."""
    return {"type": TYPES[type(event)], "data": msgspec.json.decode(msgspec.json.encode(event))}


def different(line: Line, event: Event) -> Difference:
    """The recorded event beside another one."""
    version, then, now = line.recorded.version, shown(line.event), shown(event)
    if then["type"] != now["type"]:
        what = f"Event {version} was {then['type']}, and is {now['type']} today."
        return Difference(version=version, what=what, path="type", recorded=then, today=now)
    path = unlike(then["data"], now["data"], "data") or "data"
    what = f"Event {version}, {then['type']}, differs in {path}."
    return Difference(version=version, what=what, path=path, recorded=then, today=now)


def _parted(line: Line, what: str) -> Difference:
    version, recorded = line.recorded.version, shown(line.event)
    return Difference(version=version, what=f"Event {version} was {recorded['type']}; {what}", recorded=recorded)


def _compare_head(recording: Recording, job: Job) -> None:
    head = head_of(job)
    if recording.head is None or recording.head == head:
        return
    what = "What the log keeps of this job beside its events is not what they come to: `rushes verify` says more."
    then, now = _head(recording.head), _head(head)
    path = unlike(then, now, "head")
    version = recording.events[-1].version
    raise Diverged(Difference(version=version, what=what, path=path, recorded=then, today=now))


def _head(head: Head) -> dict[str, Any]:
    return {"open": head.open, "lane": head.lane}


def traffic_of(recording: Recording, version: int) -> Exchange | None:
    """The last of the exchanges that an event was told from, where it is kept."""
    told = [x for recorded in recording.events if recorded.version == version for x in meta_of(recorded).x]
    return next((one for one in reversed(recording.exchanges) if one.id in told), None)
