"""Waiting for single streams: one reader of the log wakes all who wait, so it costs the same for one as for many.

It stands beside `follow` because it knows streams and positions and nothing of jobs. By the same rule a wake carries no
data: whoever is woken reads for himself, so it may come early or twice without harm, and one who is slow is woken once,
however much happens meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rushes.eventstore.base import Batch, EventStore
from rushes.eventstore.follow import follow


class Wakes:
    """Those who wait for streams of one log, and the reader that there is while anybody waits."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._waiting: dict[int, dict[asyncio.Event, None]] = {}  # by stream; in order: a seed is always the same run
        self._reader: asyncio.Task[None] | None = None

    async def of(self, stream: int) -> AsyncGenerator[None, None]:
        """Tell when to look at a stream: at once, and whenever it grew or was found damaged; ends with the store.

        Who looks in every turn misses nothing, because the first one begins only when the reader knows of him. To be
        closed, as `aclosing` does. Raises whatever the reader meets.
        """
        woken = asyncio.Event()
        waiting = self._waiting.setdefault(stream, {})
        waiting[woken] = None
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(self._store.position), name="wakes")
            self._reader.add_done_callback(self._ended)
        reader = self._reader
        try:
            while not reader.done():
                woken.clear()
                yield
                await woken.wait()
            reader.result()
        finally:
            del waiting[woken]
            if not waiting:
                del self._waiting[stream]
            if not self._waiting:
                await self._rest()

    async def _read(self, after: int) -> None:
        async with aclosing(follow(self._store, after)) as batches:
            async for batch in batches:
                self._wake(batch)

    def _wake(self, batch: Batch) -> None:
        for stream in (*(event.stream for event in batch.events), *(damage.stream for damage in batch.damaged)):
            for woken in self._waiting.get(stream, ()):
                woken.set()

    def _ended(self, _reader: asyncio.Task[None]) -> None:
        """Whatever has ended it, all hear of it."""
        for waiting in self._waiting.values():
            for woken in waiting:
                woken.set()

    async def _rest(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()  # where it has failed already, nobody is left who could be told
            await asyncio.wait([reader])
