"""How an append is judged, and group commit: whoever waits at the same time shares one transaction.

Durable appends cost what a flush of the disk costs, not what a row costs. So there is one writer, and whatever queued
up while it was busy goes into its next transaction. An append is a place in the queue and a future to wait for: a
caller that is cancelled leaves the transaction alone, and its retry is recognised by the token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

from rushes.eventstore.base import NewEvent, Recorded, StoreClosed, Stored, TokenReuse, Write, WrongVersion

MAX_APPENDS: Final = 4_096  # in a transaction
MAX_BYTES: Final = 4 * 1024 * 1024
REST_AFTER_S: Final = 0.5  # from a commit to the first rest behind it, when nothing else is waiting

Answer: TypeAlias = Stored | Exception
Waiting: TypeAlias = "Sequence[asyncio.Future[Stored]]"


def repeat_of(write: Write, version: int, present: Callable[[], Sequence[Recorded]]) -> Stored | None:
    """None where the append may go ahead; where it was stored before, what was answered then.

    `present` fetches the stream's events from `expected + 1` on, as many as the append has.

    Raises:
        WrongVersion: the place is taken by another append, or by a part of this one, or lies beyond the head.
        TokenReuse: the place is taken under the same token, with other bytes.
    """
    if write.expected == version:
        return None
    if not 0 <= write.expected < version:
        raise WrongVersion(f"The stream is at version {version}, not at {write.expected}.")
    there = present()
    if any(old.token != write.token for old in there):
        raise WrongVersion(f"The stream is at version {version}, not at {write.expected}: somebody else wrote there.")
    if not all(map(_same, write.events, there)):
        raise TokenReuse(f"Other bytes are stored under this token behind version {write.expected}.")
    if len(there) < len(write.events):
        raise WrongVersion(f"Only {len(there)} of these {len(write.events)} events are stored under this token.")
    return Stored(there[0].stream, there[0].position, there[-1].position)


def _same(new: NewEvent, old: Recorded) -> bool:
    return (new.type, new.v, new.at, new.data, new.meta) == (old.type, old.v, old.at, old.data, old.meta)


class Writer:
    """The one task that writes.

    `commit` makes appends durable and answers each of them; `rest` is called when there was nothing to do for a while.
    """

    def __init__(
        self, commit: Callable[[Sequence[Write]], Awaitable[Sequence[Answer]]], rest: Callable[[], Awaitable[None]]
    ) -> None:
        self._commit, self._rest = commit, rest
        self._writes: list[Write] = []
        self._waiting: list[asyncio.Future[Stored]] = []  # for the answer to the write of the same index
        self._sizes_bytes: list[int] = []  # of the writes
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._closing = False
        self._rest_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run(), name="the log's writer")

    def append(self, write: Write, size_bytes: int) -> asyncio.Future[Stored]:
        """Queue it; the future is done when it is durable."""
        if self._closing:
            raise StoreClosed("The store is closed.")
        future: asyncio.Future[Stored] = self._loop.create_future()
        self._writes.append(write)
        self._waiting.append(future)
        self._sizes_bytes.append(size_bytes)
        self._wake.set()
        return future

    async def close(self) -> None:
        """Write what is queued, then stop."""
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._task])
        if self._timer:
            self._timer.cancel()
        _settle(self._waiting, [StoreClosed("The store was closed.")] * len(self._waiting))

    async def _run(self) -> None:
        while self._writes or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            while self._writes:
                await self._turn(*self._take())
                await asyncio.sleep(0)  # whoever was answered just now may join the next transaction
            if self._rest_due:
                self._rest_due = False
                await self._rest()

    async def _turn(self, writes: Sequence[Write], waiting: Waiting) -> None:
        try:
            answers = await self._commit(writes)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
            answers = [error] * len(writes)
        _settle(waiting, answers)
        if not self._timer:
            self._timer = self._loop.call_later(REST_AFTER_S, self._call_rest)

    def _take(self) -> tuple[Sequence[Write], Waiting]:
        """The next transaction: everything that waits, where that is not too much."""
        count = len(self._writes)
        if count > MAX_APPENDS or sum(self._sizes_bytes) > MAX_BYTES:
            upto_bytes = accumulate(self._sizes_bytes[:MAX_APPENDS])
            count = max(1, sum(size_bytes <= MAX_BYTES for size_bytes in upto_bytes))
        writes, waiting = self._writes[:count], self._waiting[:count]
        del self._writes[:count], self._waiting[:count], self._sizes_bytes[:count]
        return writes, waiting

    def _call_rest(self) -> None:
        self._timer, self._rest_due = None, True
        self._wake.set()


def _settle(waiting: Waiting, answers: Sequence[Answer]) -> None:
    for future, answer in zip(waiting, answers, strict=True):
        if future.done():  # its caller went away
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
