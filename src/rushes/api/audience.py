"""Those who have heard everything and follow the same: what happens next is read, framed and written for all at once.

A task for each reader costs several times what the writing itself costs, so those who keep up have none: one task for
each filter waits for the log and writes to all of them in a row. A frame is made once for all who call their
subscription the same. Nothing is queued here either: who has no room for another frame, or is not where the others are,
goes back to a task of his own, which reads the log from his cursor and waits for him alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

from rushes.api.feed import Feed, Filter, Part
from rushes.eventstore.base import EventStore, StoreClosed

AT_ONCE: Final = 100  # are written to before others have their turn
_encode = msgspec.json.Encoder().encode


class Subscription:
    """What one reader has yet to be told."""

    def __init__(self, id: str, wanted: Filter, cursor: int) -> None:
        self.id, self.wanted, self.cursor = id, wanted, cursor
        self.told = cursor  # the last position that its frames have named
        self.owes_caught_up = True  # told once after the history, and again whenever it fell behind
        self.listens = False  # in an audience: its socket's own task leaves it alone
        self.prefix = b'{"type":"events","sub":%b,' % _encode(id)


class Seat(Protocol):
    """A reader's connection, as an audience sees it."""

    def take(self, frame: bytes) -> bool:
        """Write a whole frame. False: he must be waited for, or hears no more, and nothing was written."""
        ...

    @property
    def full(self) -> bool:
        """Whether he must be waited for before he gets another."""
        ...

    def wake(self) -> None:
        """Have his own task look after him."""
        ...


class Audiences:
    """All audiences over one feed, by what they follow."""

    def __init__(self, store: EventStore, feed: Feed) -> None:
        self._store, self._feed = store, feed
        self._by_filter: dict[Filter, Audience] = {}

    def join(self, subscription: Subscription, seat: Seat) -> None:
        """From its cursor on, which is where the log ends now."""
        wanted = subscription.wanted
        if (audience := self._by_filter.get(wanted)) is None:
            audience = Audience(self, wanted, subscription.cursor)
            audience.task = asyncio.create_task(audience.follow(self._store, self._feed), name="audience")
            self._by_filter[wanted] = audience
        audience.members[subscription] = seat
        subscription.listens = True

    def leave(self, subscription: Subscription) -> None:
        """It is told nothing here any more. The audience ends with the last of them."""
        if not subscription.listens:
            return
        subscription.listens = False
        audience = self._by_filter[subscription.wanted]
        del audience.members[subscription]
        if not audience.members:
            del self._by_filter[subscription.wanted]
            if audience.task is not None:
                audience.task.cancel()


class Audience:
    """Those who follow the same, and are told together."""

    def __init__(self, audiences: Audiences, wanted: Filter, cursor: int) -> None:
        self.members: dict[Subscription, Seat] = {}
        self.task: asyncio.Task[None] | None = None
        self._audiences, self._wanted, self._cursor = audiences, wanted, cursor

    async def follow(self, store: EventStore, feed: Feed) -> None:
        """The log as it grows, until nobody is left or the store is closed."""
        while True:
            try:
                await store.wait(self._cursor)
                end = store.position
                page = await feed.read(self._wanted, self._cursor)
            except StoreClosed:
                return
            except Exception:  # noqa: BLE001 - each of them meets it himself, and says so
                self._send_back(*self.members)
                continue
            before, self._cursor = self._cursor, page.upto
            match page.tails:
                case []:
                    for subscription in self._still_at(before):
                        subscription.cursor = page.upto
                case [Part() as part] if page.upto >= end:
                    await self._tell(part, before)
                case _:  # more than one frame
                    self._send_back(*self.members)

    def _still_at(self, before: int) -> Iterator[Subscription]:
        """Who is where the page begins. Others came meanwhile, at its end or on the way to it."""
        for subscription in tuple(self.members):
            if not subscription.listens:
                continue  # it left while others were told
            if subscription.cursor == before:
                yield subscription
            elif subscription.cursor < self._cursor:
                self._send_back(subscription)

    async def _tell(self, part: Part, before: int) -> None:
        frames: dict[str, bytes] = {}
        for place, subscription in enumerate(self._still_at(before), 1):
            seat = self.members[subscription]
            frame = frames.get(subscription.id)
            if frame is None:
                frame = frames[subscription.id] = framed(subscription.prefix + part.encoded)
            if seat.take(frame):
                subscription.told = subscription.cursor = part.upto
            if seat.full or subscription.cursor == before:
                self._send_back(subscription)
            if place % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _send_back(self, *subscriptions: Subscription) -> None:
        for subscription in subscriptions:
            seat = self.members[subscription]
            self._audiences.leave(subscription)
            seat.wake()


def framed(text: bytes) -> bytes:
    """A text message of a server, whole (RFC 6455, section 5.2): it is not masked."""
    size_bytes = len(text)
    if size_bytes < 126:
        return bytes((0x81, size_bytes)) + text
    if size_bytes < 2**16:
        return b"\x81\x7e" + size_bytes.to_bytes(2) + text
    return b"\x81\x7f" + size_bytes.to_bytes(8) + text
