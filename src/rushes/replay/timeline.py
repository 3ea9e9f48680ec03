"""What happened, event by event: what each one changed in the job's state, and the traffic that it came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.codec import BadEvent
from rushes.actors.job import evolve, phase_word
from rushes.actors.messages import Job, New
from rushes.eventstore.base import Recorded
from rushes.faults import Unreadable
from rushes.flight import Exchange
from rushes.replay.recording import Recording
from rushes.video import JSON

NOT_THERE: Final[tuple[JSON, ...]] = (
    None,
    "",
    [],
    {},
    False,
)  # in a state: nobody looks for a change from one of these to another


class Change(Struct, frozen=True):
    """One place of the state before and after an event. None: there is nothing."""

    path: str  # phase, or of the state: job.percent, job.stored[0]
    old: JSON
    new: JSON


class Step(Struct, frozen=True, kw_only=True):
    """One event, and what it did."""

    version: int
    at: float  # seconds since 1970, UTC
    type: str
    command: str  # the type's name of the command that it came from; empty where the log does not say
    data: JSON  # its payload, as it is stored
    before: Job
    after: Job
    changes: tuple[Change, ...]
    exchanges: tuple[Exchange, ...]  # with the provider, that it was told from; those of them that are kept


class Meta(Struct, frozen=True):
    """What stands beside an event's payload."""

    cmd: str = ""
    x: tuple[int, ...] = ()


def timeline(recording: Recording) -> list[Step]:
    """Every event with the states around it. Raises Unreadable where this release cannot read one of them."""
    kept = {one.id: one for one in recording.exchanges}
    steps: list[Step] = []
    job: Job = New()
    for recorded in recording.events:
        meta = meta_of(recorded)
        after = folded(recording, job, recorded)
        step = Step(
            version=recorded.version,
            at=recorded.at,
            type=recorded.type,
            command=meta.cmd,
            data=msgspec.json.decode(recorded.data),
            before=job,
            after=after,
            changes=tuple(changes(job, after)),
            exchanges=tuple(kept[number] for number in meta.x if number in kept),
        )
        steps.append(step)
        job = after
    return steps


def folded(recording: Recording, job: Job, recorded: Recorded) -> Job:
    """The state after an event. Raises Unreadable."""
    try:
        return evolve(job, codec.decode(recorded), recorded.at)
    except BadEvent as bad:
        raise bad.about(recording.job_id, "", recording.versions.get("rushes", "")) from bad
    except Exception as error:
        detail = f"Event {recorded.version} of {recording.job_id} does not follow the one before it"
        raise Unreadable(f"{detail} ({type(error).__name__}): `rushes verify` looks at the log.") from error


def meta_of(recorded: Recorded) -> Meta:
    """What the log says beside an event; nothing where that cannot be read."""
    try:
        return _decode_meta(recorded.meta or b"{}")
    except msgspec.MsgspecError:
        return Meta()


_decode_meta: Final = msgspec.json.Decoder(Meta).decode


# ── What an event changed ─────────────────────────────────────────────────────────────────────────────────────────────


def changes(before: Job, after: Job) -> Iterator[Change]:
    """Where two states differ."""
    if type(before) is not type(after):
        yield Change("phase", phase_word(before), phase_word(after))
    yield from _between("job", plain(before), plain(after))


def plain(job: Job) -> dict[str, Any]:
    """A state as JSON, without what is empty. What a sent job keeps of its time in the queue stands beside the rest."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(job))
    if isinstance(job, m.Sent):
        fields = {**fields.pop("queued"), **fields}
    return {name: value for name, value in fields.items() if value not in NOT_THERE}


def _between(path: str, old: JSON, new: JSON) -> Iterator[Change]:
    if old == new:
        return
    match old, new:
        case dict(), dict():
            for name in {**old, **new}:
                yield from _between(f"{path}.{name}", old.get(name), new.get(name))
        case list(), list():
            for place in range(max(len(old), len(new))):
                yield from _between(f"{path}[{place}]", _at(old, place), _at(new, place))
        case _:
            yield Change(path, old, new)


def _at(values: list[Any], place: int) -> JSON:
    return values[place] if place < len(values) else None


def names(recording: Recording) -> dict[int, list[int]]:
    """By exchange: the versions of the events that were told from it, of each report the first."""
    found: dict[int, list[int]] = {}
    before: tuple[int, Meta] | None = None
    for recorded in recording.events:
        meta = meta_of(recorded)
        if (recorded.token, meta) != before:
            for number in meta.x:
                found.setdefault(number, []).append(recorded.version)
        before = recorded.token, meta
    return found
