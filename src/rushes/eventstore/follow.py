"""Reading the log as it grows.

The signal that something was committed carries no data: it may be lost, doubled or late without harm, because a
follower always reads the log itself, from its own cursor. So there is no gap and no duplicate by construction, no
buffer per follower, and one that stops reading costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple

from rushes.eventstore.base import Batch, Damage, Damaged, EventStore, Recorded, StoreClosed, checksum

RING_EVENTS: Final = 8_192


class Line(Struct, frozen=True):
    """An event with what readers filter by."""

    event: Recorded
    kind: str
    tenant: str

    def matches(self, tenant: str | None, kind: str | None) -> bool:
        """Whether a reader with this filter wants it. None wants all."""
        return tenant in {None, self.tenant} and kind in {None, self.kind}


def checked(event: Recorded, crc: int) -> Recorded | Damage:
    """The event, if its bytes are the ones that were stored."""
    if checksum(*astuple(event)[1:]) == crc:
        return event
    return Damage(event.position, event.stream, event.version)


def whole(found: Sequence[Recorded | Damage]) -> list[Recorded]:
    """All of a stream's events, or Damaged."""
    for event in found:
        if isinstance(event, Damage):
            raise Damaged(event)
    return [event for event in found if isinstance(event, Recorded)]


def batch(found: Sequence[Recorded | Damage], upto: int) -> Batch:
    """What is good of the log, and what is not."""
    events = [event for event in found if isinstance(event, Recorded)]
    return Batch(
        events, upto, [event for event in found if isinstance(event, Damage)] if len(events) < len(found) else ()
    )


def window(after: int, limit: int, position: int) -> int:
    """Up to where a reader behind `after` looks, if the log ends at `position`."""
    return max(after, min(after + limit, position))


class Ring:
    """The last events of the log, in memory. What it does not hold without a gap is read from disk."""

    def __init__(self) -> None:
        self._slots: list[Line | None] = [None] * RING_EVENTS

    def put(self, lines: Iterable[Line]) -> None:
        """Remember them in place of the oldest."""
        for line in lines:
            self._slots[line.event.position % RING_EVENTS] = line

    def between(self, after: int, upto: int) -> list[Line] | None:
        """Every event above `after` up to `upto`, or None where one is missing."""
        if upto - after > RING_EVENTS:
            return None
        lines: list[Line] = []
        for position in range(after + 1, upto + 1):
            line = self._slots[position % RING_EVENTS]
            if line is None or line.event.position != position:
                return None
            lines.append(line)
        return lines


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
