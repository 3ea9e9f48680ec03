"""A log in memory: the same promises as on disk, but for the disk. For tests and simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from msgspec import Struct

from rushes.eventstore.base import (
    Batch,
    Birth,
    Damage,
    Damaged,
    Fenced,
    Head,
    NoStream,
    Recorded,
    StoreClosed,
    Stored,
    Stream,
    Write,
    crc_of,
    size_of,
)
from rushes.eventstore.follow import Found, Owner, Signal, window
from rushes.eventstore.writer import repeat_of


class _Row(Struct):
    id: int
    birth: Birth
    tenant: int
    head: Head
    events: list[Recorded]

    @property
    def public(self) -> Stream:
        birth, head = self.birth, self.head
        return Stream(self.id, birth.name, birth.kind, birth.tenant, head.lane, head.open, len(self.events))


class MemoryStore:
    """An event store that forgets with the process."""

    def __init__(self, epoch: str = "memory", release: str = "") -> None:
        self.epoch, self.release = epoch, release
        self.fences: dict[int, int] = {}  # of streams, where there is another than 0
        self._rows: dict[int, _Row] = {}
        self._ids: dict[str, int] = {}
        self._tenants: dict[str, int] = {}
        self._log: list[Recorded] = []  # index = position - 1
        self._owners: list[Owner] = []
        self._crcs: list[int] = []
        self._signal = Signal()
        self._closed = False

    @property
    def position(self) -> int:
        """The last committed position."""
        return self._signal.position

    async def append(self, write: Write) -> Stored:
        """See EventStore. Without events: nothing is written, the answer is where the stream's last event is."""
        self._check_open()
        size_of(write)
        row = self._row_of(write.stream)
        if not write.events:
            return _head(row)
        if write.fence < self.fences.get(row.id, 0):
            raise Fenced
        end = write.expected + len(write.events)
        stored = repeat_of(write, len(row.events), lambda: self._found(row.events[write.expected : end]).whole())
        return stored or self._store(row, write)

    async def read(self, stream: int, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """See EventStore."""
        self._check_open()
        first = max(after, 0)
        events = self._rows[stream].events if stream in self._rows else []
        return self._found(events[first : None if limit is None else first + max(limit, 0)]).whole()

    async def read_many(self, streams: Sequence[int]) -> dict[int, list[Recorded] | Damaged]:
        """See EventStore."""
        found: dict[int, list[Recorded] | Damaged] = {}
        for stream in streams:
            try:
                found[stream] = await self.read(stream)
            except Damaged as damaged:
                found[stream] = damaged
        return found

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        """See EventStore."""
        self._check_open()
        after = max(after, 0)
        upto = window(after, limit, self.position)
        found = zip(self._log[after:upto], self._owners[after:upto], strict=True)
        return self._found([event for event, owner in found if owner.matches(tenant, kind)]).batch(upto)

    async def find(self, name: str) -> Stream | None:
        """See EventStore."""
        self._check_open()
        return self._rows[self._ids[name]].public if name in self._ids else None

    async def streams(self, ids: Sequence[int]) -> dict[int, Stream]:
        """See EventStore."""
        self._check_open()
        return {stream: self._rows[stream].public for stream in ids if stream in self._rows}

    async def open_streams(self, kind: str, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        """See EventStore."""
        self._check_open()
        rows = [row for row in self._rows.values() if row.birth.kind == kind and row.head.open and row.id > after]
        return [(row.id, row.head.lane) for row in rows[:limit]]

    async def wait(self, after: int) -> None:
        """See EventStore."""
        await self._signal.wait(after)

    def watch(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """See EventStore."""
        return self._signal.watch(callback)

    async def close(self) -> None:
        """See EventStore."""
        self._closed = True
        self._signal.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("The store is closed.")

    def _row_of(self, stream: int | Birth) -> _Row:
        if isinstance(stream, Birth):
            unborn = _Row(len(self._rows) + 1, stream, 0, Head(open=False, lane=""), [])
            return self._rows[self._ids[stream.name]] if stream.name in self._ids else unborn
        if stream not in self._rows:
            raise NoStream(f"There is no stream {stream}.")
        return self._rows[stream]

    def _store(self, row: _Row, write: Write) -> Stored:
        row.tenant = self._tenants.setdefault(row.birth.tenant, len(self._tenants) + 1)
        first = self.position + 1
        events = [
            Recorded(position, row.id, version, new.type, new.v, new.at, new.data, new.meta, row.tenant, write.token)
            for position, version, new in zip(count(first), count(write.expected + 1), write.events, strict=False)
        ]
        self._crcs += [crc_of(event) for event in events]  # all of them or none
        self._log += events
        self._owners += [Owner(row.birth.kind, row.birth.tenant)] * len(events)
        row.events += events
        row.head = write.head
        self._rows[row.id] = row
        self._ids[row.birth.name] = row.id
        self._signal.advance(len(self._log))
        return Stored(row.id, first, len(self._log))

    def _found(self, events: Sequence[Recorded]) -> Found:
        found = Found([], [])
        for event in events:
            if crc_of(event) == self._crcs[event.position - 1]:
                found.events.append(event)
            else:
                found.damaged.append(Damage(event.position, event.stream, event.version))
        return found


def _head(row: _Row) -> Stored:
    if not row.events:
        raise NoStream("A stream begins with its first event.")
    return Stored(row.id, row.events[-1].position, row.events[-1].position)
