"""Stores that break one promise each: the contract and the state machine must find every one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from rushes.eventstore.base import (
    Batch,
    Birth,
    Damaged,
    Head,
    NewEvent,
    Recorded,
    Stored,
    Stream,
    TokenReuse,
    Write,
    WrongVersion,
)
from rushes.eventstore.follow import Found
from rushes.eventstore.memory import MemoryStore, _Row


class Forgetful(MemoryStore):
    """Does not recognise an append that comes again."""

    async def append(self, write: Write) -> Stored:
        row = self._row_of(write.stream)
        if write.events and len(row.events) > write.expected:
            raise WrongVersion
        return await super().append(write)


class Amnesiac(MemoryStore):
    """Recognises an append that comes again as long as nothing came behind it."""

    async def append(self, write: Write) -> Stored:
        row = self._row_of(write.stream)
        if write.events and len(row.events) > write.expected + len(write.events):
            raise WrongVersion
        return await super().append(write)


class Doubling(MemoryStore):
    """Stores an append that comes again, again."""

    async def append(self, write: Write) -> Stored:
        row = self._row_of(write.stream)
        return await super().append(replace(write, stream=row.id, expected=len(row.events)) if row.events else write)


class Trusting(MemoryStore):
    """Believes a token, whatever the bytes."""

    async def append(self, write: Write) -> Stored:
        try:
            return await super().append(write)
        except TokenReuse:
            return Stored(1, 1, 1)


class Glancing(MemoryStore):
    """Compares the first event only."""

    async def append(self, write: Write) -> Stored:
        there = self._row_of(write.stream).events[max(write.expected, 0) :][: len(write.events)]
        same = [NewEvent(e.type, e.v, e.at, e.data, e.meta) for e in there]
        if len(there) == len(write.events) and same[:1] == list(write.events)[:1]:
            write = replace(write, events=same)
        return await super().append(write)


class Strict(MemoryStore):
    """Recognises an append as a whole, and no part of it."""

    async def append(self, write: Write) -> Stored:
        events = self._row_of(write.stream).events
        end = write.expected + len(write.events)
        if write.events and 0 <= end < len(events) and events[end].token == write.token:
            raise TokenReuse
        return await super().append(write)


class Completing(MemoryStore):
    """Where a part of an append is there, it stores the rest."""

    async def append(self, write: Write) -> Stored:
        events = self._row_of(write.stream).events
        done = len(events) - write.expected
        if 0 < done < len(write.events) and all(event.token == write.token for event in events[write.expected :]):
            write = replace(write, expected=len(events), events=write.events[done:])
        return await super().append(write)


class Bridging(MemoryStore):
    """Takes an append beyond the head for one at the head."""

    async def append(self, write: Write) -> Stored:
        return await super().append(
            replace(write, expected=min(write.expected, len(self._row_of(write.stream).events)))
        )


class Reviving(MemoryStore):
    """An append that comes again brings its head back."""

    async def append(self, write: Write) -> Stored:
        stored = await super().append(write)
        if write.events:
            self._rows[stored.stream].head = write.head
        return stored


class Hasty(MemoryStore):
    """Writes the head before it looks."""

    async def append(self, write: Write) -> Stored:
        self._row_of(write.stream).head = write.head
        return await super().append(write)


class Headstrong(MemoryStore):
    """Keeps the head of the birth."""

    async def append(self, write: Write) -> Stored:
        row = self._row_of(write.stream)
        return await super().append(replace(write, head=row.head) if row.events else write)


class Unfenced(MemoryStore):
    """Lets an owner that was replaced try again what it had tried."""

    async def append(self, write: Write) -> Stored:
        row = self._row_of(write.stream)
        return await super().append(replace(write, fence=9) if write.expected < len(row.events) else write)


class Fenceless(MemoryStore):
    """Knows no owner."""

    async def append(self, write: Write) -> Stored:
        return await super().append(replace(write, fence=9))


class Queueing(MemoryStore):
    """Measures an append when its turn comes."""

    async def append(self, write: Write) -> Stored:
        await asyncio.sleep(0)
        return await super().append(write)


class Halving(MemoryStore):
    """Stores event by event, and what came before a bad one stays."""

    async def append(self, write: Write) -> Stored:
        if write.expected != len(self._row_of(write.stream).events) or not write.events:
            return await super().append(write)
        parts = [await MemoryStore.append(self, self._part(write, index)) for index in range(len(write.events))]
        return Stored(parts[0].stream, parts[0].first, parts[-1].last)

    def _part(self, write: Write, index: int) -> Write:
        return replace(write, expected=write.expected + index, events=write.events[index : index + 1])


class Tearing(Halving):
    """The same, and others may look in between."""

    async def append(self, write: Write) -> Stored:
        if write.expected == len(self._row_of(write.stream).events):
            for index in range(len(write.events) - 1):
                await MemoryStore.append(self, self._part(write, index))
                await asyncio.sleep(0)
        return await super().append(write)


class Racing(MemoryStore):
    """Looks at the version, and stores later."""

    async def append(self, write: Write) -> Stored:
        row = self._row_of(write.stream)
        if write.expected != len(row.events):
            return await super().append(write)
        await asyncio.sleep(0)
        row = self._row_of(write.stream)
        return await super().append(
            replace(write, expected=len(row.events), stream=row.id if row.events else write.stream)
        )


class Slipping(MemoryStore):
    """Asks for the version and then for the event behind it: there may be two by then."""

    async def append(self, write: Write) -> Stored:
        if write.events:
            return await super().append(write)
        version = len(self._row_of(write.stream).events)
        await asyncio.sleep(0)
        (last,) = await self.read(self._row_of(write.stream).id, version - 1)
        return Stored(last.stream, last.position, last.position)


class Coercing(MemoryStore):
    """Makes something storable of whatever it is given."""

    async def append(self, write: Write) -> Stored:
        return await super().append(
            replace(write, token=abs(write.token) % 2**63, events=list(map(_mended, write.events)))
        )


def _mended(event: NewEvent) -> NewEvent:
    at = event.at if abs(event.at) < float("inf") else 0.0
    data, meta = ((text or b"").decode(errors="replace").encode() for text in (event.data, event.meta))
    return replace(event, v=min(max(event.v, 1), 9), at=at, data=data, meta=event.meta if event.meta is None else meta)


class Rounding(MemoryStore):
    """Keeps times in milliseconds."""

    async def append(self, write: Write) -> Stored:
        return await super().append(replace(write, events=[replace(e, at=round(e.at, 3)) for e in write.events]))


class Emptying(MemoryStore):
    """Takes an empty meta for none."""

    async def append(self, write: Write) -> Stored:
        return await super().append(replace(write, events=[replace(e, meta=e.meta or None) for e in write.events]))


class Folding(MemoryStore):
    """Names that differ in their letters' size are one."""

    async def append(self, write: Write) -> Stored:
        if isinstance(write.stream, Birth):
            write = replace(write, stream=replace(write.stream, name=write.stream.name.lower()))
        return await super().append(write)

    async def find(self, name: str) -> Stream | None:
        found = await super().find(name.lower())
        return found and replace(found, name=name)


class Trimming(MemoryStore):
    """Tenants that differ in a space are one."""

    async def append(self, write: Write) -> Stored:
        if isinstance(write.stream, Birth):
            write = replace(write, stream=replace(write.stream, tenant=write.stream.tenant.strip()))
        return await super().append(write)


class Filtering(MemoryStore):
    """Takes the last match for the last position looked at."""

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        batch = await super().read_all(after, limit, tenant=tenant, kind=kind)
        return Batch(batch.events, batch.events[-1].position if batch.events else after)


class Skipping(MemoryStore):
    """Where a filter and a limit meet, it goes on behind what it has not looked at."""

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        batch = await super().read_all(after, limit, tenant=tenant, kind=kind)
        return batch if tenant is None else Batch(batch.events, min(batch.upto + 1, self.position))


class Unbounded(MemoryStore):
    """Reads one event more than it was asked for."""

    async def read(self, stream: int, after: int = 0, limit: int | None = None) -> list[Recorded]:
        return await super().read(stream, after, limit and limit + 1)


class Wide(MemoryStore):
    """Looks at one position more than it was asked to."""

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        return await super().read_all(after, limit + 1, tenant=tenant, kind=kind)


class Deaf(MemoryStore):
    """Wakes nobody."""

    def _store(self, row: _Row, write: Write) -> Stored:
        wake: Callable[[], None] = self._signal._wake
        self._signal._wake = lambda: None  # type: ignore[method-assign]
        try:
            return super()._store(row, write)
        finally:
            self._signal._wake = wake  # type: ignore[method-assign]


class Blind(MemoryStore):
    """Does not look at its sums."""

    def _found(self, events: Sequence[Recorded]) -> Found:
        return Found(list(events), [])


class Contagious(MemoryStore):
    """One damaged stream spoils those that are read with it."""

    async def read_many(self, streams: Sequence[int]) -> dict[int, list[Recorded] | Damaged]:
        return {stream: await self.read(stream) for stream in streams}


class Hiding(MemoryStore):
    """Steps over damage, and says nothing."""

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        return replace(await super().read_all(after, limit, tenant=tenant, kind=kind), damaged=())


class Reborn(MemoryStore):
    """A new start on an old log, without its heads."""

    @classmethod
    def of(cls, old: MemoryStore) -> Reborn:
        """A store on the same log."""
        new = cls(old.epoch)
        new._rows, new._ids, new._tenants = old._rows, old._ids, old._tenants
        new._log, new._owners, new._crcs = old._log, old._owners, old._crcs
        new._signal.position = old.position
        for row in new._rows.values():
            row.head = Head(open=False, lane=row.head.lane)
        return new
