"""What every event store promises, and the shapes it speaks in.

A *stream* is one job's history; its events carry the *versions* 1, 2, 3 … . The whole log has *positions* that rise in
commit order (gaps are allowed). An event's identity is its stream and version.

Appending again what is already stored is not an error: each append carries a random token, and the same token with the
same bytes at the same place answers with the old positions. So a caller that was cancelled, timed out or lost its
connection simply appends again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Protocol
from zlib import crc32

from msgspec import Struct
from msgspec.structs import astuple

MAX_EVENT_BYTES = 256 * 1024
MAX_EVENTS = 1_000
MAX_NAME = 1_000  # characters of a stream's name, kind and tenant, of a lane and of an event's type


class StoreError(Exception):
    """The event store could not do it."""


class WrongVersion(StoreError):
    """Somebody else appended to this stream, or the writer remembers it wrongly: read it again."""


class TokenReuse(StoreError):
    """The token of an earlier append came back with other bytes: draw a new token for every new append."""


class Fenced(StoreError):
    """A newer owner has taken over: stop writing."""


class TooLarge(StoreError):
    """An event may have 262,144 bytes and an append 1,000 events."""


class BadWrite(StoreError):
    """An append has a field that cannot be stored: the message names it."""


class NoStream(StoreError):
    """There is no stream under that number."""


class Damage(Struct, frozen=True, gc=False):
    """An event whose stored bytes do not match their checksum."""

    position: int
    stream: int
    version: int


class Damaged(StoreError):
    """What was asked for is there, but its bytes are not the ones that were stored."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(f"Stream {damage.stream}, version {damage.version} (position {damage.position}) is damaged.")
        self.damage = damage


class StoreUnavailable(StoreError):
    """The store cannot write at the moment (disk full, I/O error, locked): nothing was acknowledged, try again."""


class StoreClosed(StoreError):
    """The store is closed."""


class NewEvent(Struct, frozen=True, gc=False):
    """An event on its way into the log. `data` and `meta` are JSON."""

    type: str
    v: int  # of the payload's shape
    at: float  # seconds since 1970, UTC
    data: bytes
    meta: bytes | None = None


class Birth(Struct, frozen=True):
    """The stream does not exist yet; `expected` is 0."""

    name: str
    kind: str
    tenant: str


class Head(Struct, frozen=True, gc=False):
    """What the store keeps of a stream beside its events: how unfinished work is found at start."""

    open: bool
    lane: str  # who serves it


class Write(Struct, frozen=True, gc=False):
    """One append: all of it or nothing."""

    stream: int | Birth
    expected: int  # the version before the first of `events`
    events: Sequence[NewEvent]
    head: Head
    token: int  # 63 random bits, new for every append, the same for its retries
    fence: int = 0


class Stored(Struct, frozen=True, gc=False):
    """Where an append went. Positions within one append follow each other."""

    stream: int
    first: int
    last: int


class Recorded(Struct, frozen=True, gc=False):
    """An event as the log gives it back, its checksum verified."""

    position: int
    stream: int
    version: int
    type: str
    v: int
    at: float
    data: bytes
    meta: bytes | None
    tenant: int
    token: int


class Stream(Struct, frozen=True):
    """A stream's own row."""

    id: int
    name: str
    kind: str
    tenant: str
    lane: str
    open: bool
    version: int


class Batch(Struct, frozen=True):
    """Some of the log, in order. `upto` is the last position looked at, whether or not anything matched there.

    What is damaged among it is named in place of its events: a reader of the whole log steps over it, and knows.
    """

    events: Sequence[Recorded]
    upto: int
    damaged: Sequence[Damage] = ()


class EventStore(Protocol):
    """An append-only log with optimistic concurrency. Every implementation passes the same contract suite."""

    @property
    def epoch(self) -> str:
        """Names this log's history; it changes when history may have been lost."""
        ...

    @property
    def position(self) -> int:
        """The last committed position, 0 for an empty log."""
        ...

    @property
    def release(self) -> str:
        """The newest release of rushes that owned this log, as in 0.4.0; empty where none has said."""
        ...

    def append(self, write: Write) -> Awaitable[Stored]:
        """Store the events durably, or raise and store none.

        A stream grows by `expected + 1 … n`. The same token and bytes again: success, with the old positions.

        Raises:
            WrongVersion: the stream is not at `expected`, or only a part of the events is there.
            TokenReuse: the token is there with other bytes.
            Fenced: `fence` is older than the stream's shard's.
            TooLarge: an event or the append is over the limit.
            BadWrite: a field cannot be stored: a time that is no number, data that is no UTF-8 text.
            NoStream: the number names no stream.
            StoreUnavailable: the disk does not take it; try again with the same write.
        """
        ...

    async def read(self, stream: int, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """The events of one stream with versions above `after`, in order. Raises Damaged."""
        ...

    async def read_many(self, streams: Sequence[int]) -> dict[int, list[Recorded] | Damaged]:
        """Whole streams, read together; a damaged one harms no other. A stream without events has an empty list."""
        ...

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        """The log behind a position, at most `limit` positions of it, filtered."""
        ...

    async def find(self, name: str) -> Stream | None:
        """The stream of that public name."""
        ...

    async def streams(self, ids: Sequence[int]) -> dict[int, Stream]:
        """The rows of these streams; numbers that name none are left out."""
        ...

    async def open_streams(self, kind: str, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        """(stream, lane) of the unfinished streams with numbers above `after`, by number."""
        ...

    async def wait(self, after: int) -> None:
        """Return as soon as the committed position is above `after`. A hint: it carries no data."""
        ...

    def watch(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call back with every new committed position, on the loop; the result stops it."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of the file."""
        ...


def release_numbers(release: str) -> tuple[int, ...]:
    """What a release is compared by: 0.10 comes behind 0.9.1, and 0.10.0rc1 is 0.10. No number comes before all."""
    match = re.match(r"\d+(\.\d+)*", release)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


_numbers = struct.Struct(">qqqdqqq").pack
_length = struct.Struct(">q").pack
_NO_META = _length(-1)


def checksum(
    stream: int, version: int, type: bytes, v: int, at: float, data: bytes, meta: bytes | None, tenant: int, token: int
) -> int:
    """The CRC-32 that is stored with every event and checked at every read.

    Over stream, version, v, at, tenant and token as big-endian numbers of 8 bytes, then type, data and meta, each with
    its length in front; a missing meta has length -1.
    """
    numbers = _numbers(stream, version, v, at + 0.0, tenant, token, len(type))  # SQLite keeps no -0.0
    tail = _NO_META if meta is None else _length(len(meta)) + meta
    return crc32(b"".join((numbers, type, _length(len(data)), data, tail)))


def crc_of(event: Recorded) -> int:
    """The checksum of an event as it was given back."""
    _, stream, version, name, *rest = astuple(event)
    return checksum(stream, version, name.encode(), *rest)


def size_of(write: Write) -> int:
    """The payload in bytes; or why it cannot be stored, before it costs anything.

    Raises:
        TooLarge: an event or the append is over the limit.
        BadWrite: a field cannot be stored.
    """
    events, lane = write.events, write.head.lane
    if len(events) > MAX_EVENTS:
        raise TooLarge(f"An append of {len(events)} events; the limit is {MAX_EVENTS}: split it.")
    if not (0 <= write.token < _BEYOND and lane.isascii() and len(lane) <= MAX_NAME):
        _check_head(write)
    if not isinstance(write.stream, int):
        _check_birth(write.stream)
    total_bytes = 0
    for event in events:
        name, data, meta, at = event.type, event.data, event.meta, event.at
        size_bytes = len(data) if meta is None else len(data) + len(meta)
        good = -inf < at < inf and 0 < event.v < _BEYOND and name.isascii() and data.isascii() and len(name) <= MAX_NAME
        if size_bytes > MAX_EVENT_BYTES or not (good and (meta is None or meta.isascii())):
            _check_event(event, size_bytes)
        total_bytes += size_bytes
    return total_bytes


_BEYOND = 2**63


def _check_head(write: Write) -> None:
    if not 0 <= write.token < _BEYOND:
        raise BadWrite(f"The token is {write.token}: draw one from 0 to 2**63 - 1.")
    _check_name("lane", write.head.lane)


def _check_birth(birth: Birth) -> None:
    _check_name("name", birth.name)
    _check_name("kind", birth.kind)
    _check_name("tenant", birth.tenant)


def _check_event(event: NewEvent, size_bytes: int) -> None:
    _check_name("type", event.type)
    if size_bytes > MAX_EVENT_BYTES:
        raise TooLarge(f"An event {event.type} of {size_bytes} bytes; the limit is {MAX_EVENT_BYTES}.")
    if not (-inf < event.at < inf and 0 < event.v < _BEYOND):
        raise BadWrite(f"An event {event.type} has v={event.v}, counted from 1, and at={event.at} seconds.")
    try:
        event.data.decode()
        (event.meta or b"").decode()
    except UnicodeDecodeError as error:
        raise BadWrite(f"The data and meta of an event are UTF-8 text; of {event.type}: {error}.") from error


def _check_name(field: str, name: str) -> None:
    halves = not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name)
    if halves or len(name) > MAX_NAME:
        raise BadWrite(f"The {field} {name[:40]!r} has {len(name)} characters: up to {MAX_NAME}, of real text.")
