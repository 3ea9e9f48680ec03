"""The log as subscribers are told it: read once, filtered once and encoded once for all who ask for the same.

A subscriber has a filter and a cursor, and nothing else; what lies behind the cursor is a page. Whoever asks for the
same page gets the same bytes, so a thousand subscribers who keep up cost one reading and one encoding of every event.

Status, provider and batch are not columns of the log: they are folded from the events themselves, so the same position
belongs to the same filters whenever it is read. An event belongs to a filter if its job did so before it or does after
it: who follows what is running hears of its end too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from rushes.api.protocol import Error, error_frame
from rushes.eventstore.base import Damage, Damaged, EventStore, Recorded, Stream
from rushes.faults import RushesError, damaged
from rushes.studio import KIND, event_view
from rushes.video import Status

BATCH: Final = 256  # positions of the log looked at in one go
FRAME_BYTES: Final = 64 * 1024  # a frame's items; one larger event goes alone
REMEMBERED: Final = 8_192  # names of streams, and states of jobs
REMEMBERED_BYTES: Final = 16 * 2**20  # of encoded events, and as much of pages

K = TypeVar("K")
V = TypeVar("V")
_encode = msgspec.json.Encoder().encode


class Memory(Generic[K, V]):
    """What was kept last, within a size; the oldest leaves first."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._kept: dict[K, tuple[V, int]] = {}

    def get(self, key: K) -> V | None:
        """What is kept under the key."""
        kept = self._kept.get(key)
        return None if kept is None else kept[0]

    def put(self, key: K, value: V, size: int = 1) -> None:
        """Keep it in place of what was there, and of the oldest."""
        _, before = self._kept.pop(key, (value, 0))
        self._kept[key] = value, size
        self._size += size - before
        while self._size > self._most and len(self._kept) > 1:
            self._size -= self._kept.pop(next(iter(self._kept)))[1]


# ── what belongs to a subscription ────────────────────────────────────────────────────────────────────────────────────


class Facts(Struct, frozen=True, gc=False):
    """What filters ask of a job."""

    status: str = ""
    provider: str = ""
    batch: str = ""


class Filter(Struct, frozen=True):
    """Which events a subscriber is told. All that is given must hold of a job, on the same side of the event."""

    tenant: str
    streams: frozenset[int] | None = None  # None: all
    status: str = ""
    provider: str = ""
    batch: str = ""

    @property
    def asks_for_facts(self) -> bool:
        """Whether the log's columns do not say it."""
        return bool(self.status or self.provider or self.batch)

    def wants(self, facts: Facts) -> bool:
        """Whether a job in this state belongs to it."""
        return (
            self.status in {"", facts.status}
            and self.provider in {"", facts.provider}
            and self.batch in {"", facts.batch}
        )


STATUS_AFTER: Final[dict[str, Status]] = {
    "job.requested": "queued",
    "submission.accepted": "running",
    "submission.refused": "queued",
    "submission.doubted": "running",
    "attempt.opened": "queued",
    "job.parked": "running",
    "job.succeeded": "succeeded",
    "job.failed": "failed",
    "job.cancelled": "cancelled",
}
"""The status that an event gives its job; the others leave it as it is."""
_ROUTED: Final = frozenset({"job.requested", "submission.started", "attempt.opened"})


class _Target(Struct):
    provider: str


class _Batch(Struct):
    id: str


class _Route(Struct):
    route: list[_Target] = []
    target: _Target | None = None
    batch: _Batch | None = None


_route = msgspec.json.Decoder(_Route).decode


def facts_after(facts: Facts, event: Recorded) -> Facts:
    """What holds of a job after one more event. One that this release does not know changes nothing."""
    status, provider, batch = STATUS_AFTER.get(event.type, facts.status), facts.provider, facts.batch
    if event.type in _ROUTED:
        try:
            said = _route(event.data)
        except msgspec.DecodeError:
            return facts
        targets = [said.target] if said.target is not None else said.route
        provider = targets[0].provider if targets else provider
        batch = said.batch.id if said.batch is not None else batch
    return Facts(status, provider, batch)


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Item(Struct, frozen=True):
    """An event as everybody is told it."""

    position: int
    encoded: msgspec.Raw


class Lost(Struct, frozen=True):
    """An event that is damaged: readers are told so in its place."""

    position: int
    error: RushesError

    def frame(self, sub: str) -> Error:
        """What the reader of a subscription is told."""
        return error_frame(self.error, sub)


class Chunk(Struct, frozen=True):
    """So much of a page as one frame holds. `upto` is a cursor to come back with."""

    upto: int
    items: Sequence[Item]


class Part(Struct, frozen=True):
    """A chunk, encoded."""

    upto: int
    encoded: bytes


class Tail(Struct, frozen=True):
    """An `events` frame without its subscription, which is the only thing that differs between subscribers."""

    upto: int
    items: Sequence[msgspec.Raw]


class Page:
    """What lies behind a cursor, up to `upto`: the same object, and the same bytes, for all who ask."""

    def __init__(self, epoch: str, found: Sequence[Item | Lost], upto: int) -> None:
        self.found, self.upto, self._epoch = found, upto, epoch.encode()
        self.size_bytes = sum(len(bytes(one.encoded)) for one in found if isinstance(one, Item))

    @cached_property
    def tails(self) -> Sequence[Part | Lost]:
        """For sockets: a frame is `{"type":"events","sub":…,` and a part."""
        return [self._tail(one) if isinstance(one, Chunk) else one for one in chunks(self.found, self.upto)]

    @cached_property
    def messages(self) -> Sequence[Part | Lost]:
        """For event streams: a message for every event, and an id alone where the cursor moved past what is lost."""
        return [self._messages(one) if isinstance(one, Chunk) else one for one in chunks(self.found, self.upto)]

    def _tail(self, chunk: Chunk) -> Part:
        return Part(chunk.upto, _encode(Tail(chunk.upto, [item.encoded for item in chunk.items]))[1:])

    def _messages(self, chunk: Chunk) -> Part:
        lines = [b"id: %b:%d\ndata: %b\n\n" % (self._epoch, one.position, _one_line(one)) for one in chunk.items]
        return Part(chunk.upto, b"".join(lines) or b"id: %b:%d\n\n" % (self._epoch, chunk.upto))


def _one_line(item: Item) -> bytes:
    """A payload may be laid out in lines; between tokens of JSON a space is as good."""
    return bytes(item.encoded).translate(_SPACES)


_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


def chunks(found: Iterable[Item | Lost], upto: int) -> Iterator[Chunk | Lost]:
    """What was found, in chunks of a bounded size, and what is lost between them."""
    part: list[Item] = []
    size_bytes, anything = 0, False
    for one in found:
        anything = True
        if part and (isinstance(one, Lost) or size_bytes + len(bytes(one.encoded)) > FRAME_BYTES):
            yield Chunk(part[-1].position, part)
            part, size_bytes = [], 0
        if isinstance(one, Lost):
            yield one
        else:
            part.append(one)
            size_bytes += len(bytes(one.encoded))
    if anything:  # with no items behind a lost one: it is not told again to whoever comes back
        yield Chunk(upto, part)


class Feed:
    """The log in pages. One feed serves all subscribers."""

    def __init__(self, store: EventStore, *, remembered: int = REMEMBERED) -> None:
        self._store = store
        self._streams = Memory[int, Stream](remembered)
        self._facts = Memory[tuple[int, int], Facts](remembered)  # by stream and version
        self._items = Memory[int, Item](REMEMBERED_BYTES)
        self._pages = Memory[tuple[Filter, int, int], Page](REMEMBERED_BYTES)
        self._reading: dict[tuple[Filter, int, int], asyncio.Task[Page]] = {}

    async def read(self, wanted: Filter, after: int) -> Page:
        """What comes next behind a position. Who asks for what is being read waits with the others."""
        key = (wanted, after, self._store.position)
        if (page := self._pages.get(key)) is not None:
            return page
        if (reading := self._reading.get(key)) is None:
            reading = self._reading[key] = asyncio.create_task(self._read(wanted, after))
            reading.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(reading)

    def _done(self, key: tuple[Filter, int, int], reading: asyncio.Task[Page]) -> None:
        del self._reading[key]
        if not reading.cancelled() and reading.exception() is None:
            page = reading.result()
            self._pages.put(key, page, 2 * page.size_bytes + 1_000)  # the items, and the frames made of them

    async def _read(self, wanted: Filter, after: int) -> Page:
        batch = await self._store.read_all(after, BATCH, tenant=wanted.tenant, kind=KIND)
        found: list[Recorded | Damage] = [*batch.events, *batch.damaged]
        if wanted.streams is not None:
            found = [one for one in found if one.stream in wanted.streams]
        if batch.damaged:
            found.sort(key=lambda one: one.position)
        if wanted.asks_for_facts:
            found = [one async for one in self._chosen(wanted, found)]
        names = await self._names_of({one.stream for one in found}, wanted.tenant)
        told = [self._told(one, names.get(one.stream, "")) for one in found]
        return Page(self._store.epoch, told, batch.upto)

    async def _chosen(self, wanted: Filter, found: Sequence[Recorded | Damage]) -> AsyncIterator[Recorded | Damage]:
        """What belongs to the filter by its job's state. Damage belongs to all: nobody can say what it was."""
        current: dict[int, Facts] = {}
        for one in found:
            if isinstance(one, Damage):
                yield one
                continue
            before = current.get(one.stream) or await self._facts_at(one.stream, one.version - 1)
            after = current[one.stream] = facts_after(before, one)
            self._facts.put((one.stream, one.version), after)
            if wanted.wants(before) or wanted.wants(after):
                yield one

    async def _facts_at(self, stream: int, version: int) -> Facts:
        """What held of a job at a version, as far as its events can be read."""
        if (known := self._facts.get((stream, version))) is not None:
            return known
        facts, read = Facts(), 0
        while read < version:
            try:
                events, upto = await self._store.read(stream, read, version - read), version
            except Damaged as error:
                upto = max(read + 1, error.damage.version)
                events = await self._store.read(stream, read, upto - 1 - read) if upto - 1 > read else []
            for event in events:
                facts = facts_after(facts, event)
            read = upto
        return facts

    async def _names_of(self, streams: set[int], tenant: str) -> dict[int, str]:
        """Their public names. A damaged number may have none, or another tenant's, which is not told."""
        rows = {stream: row for stream in streams if (row := self._streams.get(stream)) is not None}
        if unknown := streams - rows.keys():
            for stream, row in (await self._store.streams(sorted(unknown))).items():
                rows[stream] = row
                self._streams.put(stream, row)
        return {stream: row.name for stream, row in rows.items() if row.tenant == tenant}

    def _told(self, found: Recorded | Damage, name: str) -> Item | Lost:
        if isinstance(found, Damage) or not name:
            return Lost(found.position, damaged(name, found.version, found.position))
        item = self._items.get(found.position)
        if item is None:
            item = Item(found.position, msgspec.Raw(_encode(event_view(found, name))))
            self._items.put(found.position, item, len(bytes(item.encoded)))
        return item
