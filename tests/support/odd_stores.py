"""Stores in memory that are right and inconvenient: with gaps between positions, or with commits that take time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from rushes.eventstore.base import Batch, EventStore, Recorded, Stored, StoreError, Write, crc_of, size_of
from rushes.eventstore.follow import Owner, Ring
from rushes.eventstore.memory import MemoryStore, _Row
from rushes.eventstore.writer import Answer, Writer
from rushes.testing.eventstore import EventStoreContract

NOBODY = Owner("", "")


class MemoryContract(EventStoreContract):
    """The contract, with the hooks that a store in memory can have."""

    async def outdate(self, store: EventStore, stream: int) -> None:
        assert isinstance(store, MemoryStore)
        store.fences[stream] = 5

    async def damage(self, store: EventStore, stream: int, version: int) -> EventStore:
        assert isinstance(store, MemoryStore)
        (event,) = await store.read(stream, version - 1, 1)
        store._crcs[event.position - 1] ^= 1
        return store


class Gappy(MemoryStore):
    """Its positions rise in leaps, as a store may have them that draws them from a sequence."""

    leap = 3  # the longest gap

    def _store(self, row: _Row, write: Write) -> Stored:
        for _ in range(len(self._log) % (self.leap + 1)):
            nothing = Recorded(self.position + 1, 0, 0, "", 1, 0.0, b"", None, 0, 0)
            self._log.append(nothing)
            self._owners.append(NOBODY)
            self._crcs.append(crc_of(nothing))
            self._signal.position += 1
        return super()._store(row, write)

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        found = await super().read_all(after, limit, tenant=tenant, kind=kind)
        return Batch([event for event in found.events if event.stream], found.upto, found.damaged)


class Slow(Gappy):
    """Its commits and its reads take time, behind the writer that ships, and a small ring serves its readers.

    `listeners` are given the data of every commit: what a store must not do, and the controls want.
    """

    def __init__(self, rng: random.Random, leap: int = 0, ring: int = 8) -> None:
        super().__init__()
        self.leap = leap
        self.listeners: list[Callable[[Sequence[Recorded]], None]] = []
        self.from_ring = self.from_log = 0
        self._rng = rng
        self._ring = Ring(most_events=ring)
        self._writer = Writer(self._commit, self._rest)

    async def append(self, write: Write) -> Stored:
        return await self._writer.append(write, size_of(write))

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        await self.pause()
        upto = max(after, min(after + limit, self.position))
        found = self._ring.between(after, upto, tenant, kind)
        if found is None:
            self.from_log += 1
            batch = await super().read_all(after, limit, tenant=tenant, kind=kind)
        else:
            self.from_ring += 1
            batch = Batch(found, upto)
        await self.pause()
        return batch

    async def close(self) -> None:
        await self._writer.close()
        await super().close()

    async def pause(self) -> None:
        """Whoever is ready may go first; and sometimes, whoever has a timer."""
        await asyncio.sleep(self._rng.choice((0, 0, 0.01, 0.03)))

    async def _commit(self, writes: Sequence[Write]) -> Sequence[Answer]:
        await self.pause()
        answers = [await self._answer(write) for write in writes]
        await self.pause()
        return answers

    async def _answer(self, write: Write) -> Answer:
        before = len(self._log)
        try:
            return await super().append(write)
        except StoreError as error:
            return error
        finally:
            self._publish([event for event in self._log[before:] if event.stream])

    def _publish(self, events: Sequence[Recorded]) -> None:
        if events:
            owner = self._owners[events[0].position - 1]
            self._ring.put(events, [owner] * len(events))
            for listener in list(self.listeners):
                listener(events)

    async def _rest(self) -> None:
        return
