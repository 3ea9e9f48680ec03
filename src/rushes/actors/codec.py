"""Events as the log stores them, and back: whatever was ever written stays readable.

Payloads are read weakly. A field that today's struct does not have is passed over (a newer release may have written
it), and one that is missing has its default. So a new optional field needs nothing here. Any other change of a shape
gives its type the next version: a function from the old payload to the new one goes into `UPCASTERS`, and stays there.
Stored rows are never edited. `tests/golden/shapes.json` holds every shape that was ever written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from rushes.actors.messages import TYPES, Command, Event
from rushes.eventstore.base import NewEvent, Recorded, release_numbers
from rushes.faults import Unreadable

E = TypeVar("E", bound=Struct)
Shape: TypeAlias = tuple[str, int]  # an event's type and the version of its payload
Upcast: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: Final[dict[Shape, Upcast]] = {}
"""From a payload of that shape to one of the next version. The current version of a type is the one behind its last."""

_encode: Final = msgspec.json.Encoder().encode
_decode_plain: Final = msgspec.json.Decoder(dict[str, Any]).decode


class BadEvent(Unreadable):
    """A stored event that cannot be made today's struct. `why` is empty where its type or version is not known."""

    def __init__(self, event: Recorded, why: str = "") -> None:
        super().__init__(_sentence(event, why, f"stream {event.stream}", "", ""))
        self.event, self.why = event, why

    def about(self, name: str, ours: str, newest: str) -> Unreadable:
        """The same with the stream's public name.

        Args:
            name: of the stream.
            ours: this release; empty where it is not known.
            newest: the newest release that wrote to the log; empty where it is not known.
        """
        return Unreadable(_sentence(self.event, self.why, name, ours, newest), job_id=name)


def _sentence(event: Recorded, why: str, name: str, ours: str, newest: str) -> str:
    this = f"this release ({ours})" if ours else "this release"
    trouble = f"cannot decode ({why})" if why else "does not know"
    way_out = "a newer release must have written it: use that one or a later one"
    if release_numbers(newest) > release_numbers(ours):
        way_out = f"rushes {newest} wrote to this log: use that release or a later one"
    return f"Event {event.version} of {name} is {event.type} v{event.v}, which {this} {trouble}; {way_out}."


class Schema(Generic[E]):
    """All shapes of one family of events: how each is read, and under which version each type is written."""

    def __init__(self, types: Mapping[type[E], str], upcasters: Mapping[Shape, Upcast]) -> None:
        """Raises ValueError where some version could not be read."""
        if strange := sorted({name for name, _ in upcasters} - set(types.values())):
            raise ValueError(f"There is an upcaster for {strange[0]}, which is no event type.")
        self.current: dict[type[E], Shape] = {}
        self.decoders: dict[Shape, Callable[[bytes], E]] = {}
        for kind, name in types.items():
            chain = _chain(name, upcasters)
            self.current[kind] = name, len(chain) + 1
            self.decoders[self.current[kind]] = msgspec.json.Decoder(kind).decode
            for v in range(1, len(chain) + 1):
                self.decoders[name, v] = _lifting(kind, chain[v - 1 :])

    def decode(self, recorded: Recorded) -> E:
        """A stored event as today's struct. Raises BadEvent."""
        decoder = self.decoders.get((recorded.type, recorded.v))
        if decoder is None:
            raise BadEvent(recorded)
        try:
            return decoder(recorded.data)
        except Exception as error:  # an upcaster may raise anything, and a missing value is never made up
            raise BadEvent(recorded, f"{type(error).__name__}: {error}") from error


def _chain(name: str, upcasters: Mapping[Shape, Upcast]) -> list[Upcast]:
    """The upcasters of one type from version 1 on."""
    versions = sorted(v for upcast, v in upcasters if upcast == name)
    for expected, v in enumerate(versions, 1):
        if v != expected:
            raise ValueError(f"There is an upcaster for {name} v{v} and none for v{expected}: its events are stored.")
    return [upcasters[name, v] for v in versions]


def _lifting(kind: type[E], chain: Sequence[Upcast]) -> Callable[[bytes], E]:
    def decode(data: bytes) -> E:
        payload = _decode_plain(data)
        known = payload.keys() | set(kind.__struct_encode_fields__)
        for upcast in chain:
            payload = upcast(payload)
        if made := sorted(payload.keys() - known):
            raise ValueError(f"an upcaster made the field {made[0]!r}, which {kind.__name__} does not have")
        return msgspec.convert(payload, kind)

    return decode


JOBS: Final = Schema(TYPES, UPCASTERS)
DECODERS: Final = JOBS.decoders
decode: Final = JOBS.decode


def encode(event: Event, at: float, cause: Command, trace: str = "") -> NewEvent:
    """An event on its way into the log; its meta has the command that caused it, its exchanges and its trace."""
    name, v = JOBS.current[type(event)]
    meta: dict[str, object] = {"cmd": type(cause).__name__}
    if cause.exchanges:
        meta["x"] = cause.exchanges
    if trace:
        meta["trace"] = trace
    return NewEvent(name, v, at, _encode(event), _encode(meta))


class _Meta(Struct):
    trace: str = ""


def trace_of(recorded: Recorded) -> str:
    """The trace that an event belongs to; empty where it says none. What cannot be read there stops no job."""
    try:
        return _decode_meta(recorded.meta or b"{}").trace
    except msgspec.MsgspecError:
        return ""


_decode_meta: Final = msgspec.json.Decoder(_Meta).decode
