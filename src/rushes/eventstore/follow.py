"""Reading the log as it grows.

The signal that something was committed carries no data: it may be lost, doubled or late without harm, because a
follower always reads the log itself, from its own cursor. So there is no gap and no duplicate by construction, no
buffer per follower, and one that stops reading costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from msgspec import Struct

from rushes.eventstore.base import Batch, Damage, Damaged, EventStore, Recorded, StoreClosed

RING_EVENTS: Final = 8_192
RING_BYTES: Final = 32 * 1024 * 1024


class Owner(Struct, frozen=True, gc=False):
    """What a stream's readers filter by."""

    kind: str
    tenant: str

    def matches(self, tenant: str | None, kind: str | None) -> bool:
        """Whether a reader with this filter wants its events. None wants all."""
        return (tenant is None or tenant == self.tenant) and (kind is None or kind == self.kind)


class Found(Struct, frozen=True):
    """What was read, checked: the good and the bad, each in the log's order."""

    events: list[Recorded]
    damaged: list[Damage]

    def whole(self) -> list[Recorded]:
        """All of it, or Damaged."""
        if self.damaged:
            raise Damaged(self.damaged[0])
        return self.events

    def batch(self, upto: int) -> Batch:
        """For a reader who steps over what is bad, and wants to know."""
        return Batch(self.events, upto, self.damaged or ())


def window(after: int, limit: int, position: int) -> int:
    """Up to where a reader behind `after` looks, if the log ends at `position`."""
    return max(after, min(after + limit, position))


class Ring:
    """The last events of the log, in memory. What it does not hold without a gap is read from disk.

    Bounded in events and in bytes, each within a factor of two.
    """

    def __init__(self, most_events: int = RING_EVENTS, most_bytes: int = RING_BYTES) -> None:
        self._most_events, self._most_bytes = most_events, most_bytes
        self._events: list[Recorded] = []
        self._owners: list[Owner] = []
        self._first = 0  # the position of the first of them
        self._size_bytes = 0

    def put(self, events: Sequence[Recorded], owners: Sequence[Owner]) -> None:
        """Remember consecutive events and whose they are, in place of the oldest."""
        if not events:
            return
        if events[0].position != self._first + len(self._events):
            self._keep(0)
            self._first = events[0].position
        self._events += events
        self._owners += owners
        self._size_bytes += _size_of(events)
        if len(self._events) > 2 * self._most_events:  # many at a time, so that none costs much
            self._keep(self._most_events)
        while self._size_bytes > self._most_bytes:
            self._keep(len(self._events) // 2)

    def between(
        self, after: int, upto: int, tenant: str | None = None, kind: str | None = None
    ) -> list[Recorded] | None:
        """The events above `after` up to `upto` that a reader wants, or None where the ring cannot say."""
        begin, end = after + 1 - self._first, upto + 1 - self._first
        if begin < 0 or end > len(self._events):
            return None
        if tenant is None and kind is None:
            return self._events[begin:end]
        return [self._events[n] for n in range(begin, end) if self._owners[n].matches(tenant, kind)]

    def _keep(self, newest: int) -> None:
        gone = len(self._events) - newest
        del self._events[:gone], self._owners[:gone]
        self._first += gone
        self._size_bytes = _size_of(self._events)


def _size_of(events: Sequence[Recorded]) -> int:
    return sum([len(event.data) + len(event.meta or b"") for event in events])


class Signal:
    """The committed position, and who wants to hear of it."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self._moved = asyncio.Event()  # one for all who wait; a new one for every commit
        self._watchers: dict[object, Callable[[int], None]] = {}
        self._closed = False

    def advance(self, position: int) -> None:
        """Say that the log is durable up to here."""
        if position <= self.position:
            return
        self.position = position
        self._wake()
        loop = asyncio.get_running_loop()
        for callback in list(self._watchers.values()):
            loop.call_soon(callback, position)  # a callback that raises must not hurt the writer

    async def wait(self, after: int) -> None:
        """Return as soon as the position is above `after`; StoreClosed when that will not happen."""
        while self.position <= after:
            if self._closed:
                raise StoreClosed("The store is closed.")
            await self._moved.wait()

    def watch(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call back with every new position, until the result is called."""
        key = object()
        self._watchers[key] = callback

        def stop() -> None:
            self._watchers.pop(key, None)

        return stop

    def close(self) -> None:
        """Let go of everybody who waits."""
        self._closed = True
        self._watchers.clear()
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


async def follow(
    store: EventStore, after: int, *, tenant: str | None = None, kind: str | None = None, limit: int = 256
) -> AsyncGenerator[Batch, None]:
    """The log behind `after`, for ever, as it grows; ends when the store is closed.

    Continue at the last batch's `upto`. Batches without events come too: they move the cursor of a quiet reader.
    """
    while True:
        try:
            await store.wait(after)
            found = await store.read_all(after, limit, tenant=tenant, kind=kind)
        except StoreClosed:
            return
        after = found.upto
        yield found
