"""Group commit, the ring and the signal by themselves; and that the contract has teeth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

import pytest
from msgspec.structs import replace

from rushes.eventstore.base import (
    Batch,
    Damaged,
    EventStore,
    NewEvent,
    Recorded,
    StoreClosed,
    Stored,
    TokenReuse,
    Write,
    WrongVersion,
)
from rushes.eventstore.follow import RING_EVENTS, Line, Ring, Signal, follow
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.writer import MAX_APPENDS, MAX_BYTES, Answer, Writer
from rushes.testing.eventstore import EventStoreContract, birth, more, whole_log

CONTRACT = EventStoreContract()


class Batches:
    """A disk that answers, and remembers what came together."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.rests = 0

    async def commit(self, writes: Sequence[Write]) -> Sequence[Answer]:
        self.sizes.append(len(writes))
        await asyncio.sleep(0)
        return [Stored(1, 1, 1)] * len(writes)

    async def rest(self) -> None:
        self.rests += 1


async def test_what_queues_up_goes_together_up_to_a_limit() -> None:
    disk = Batches()
    writer = Writer(disk.commit, disk.rest)
    await asyncio.gather(*(writer.append(birth("job")) for _ in range(MAX_APPENDS + 44)))
    await writer.close()
    assert disk.sizes == [MAX_APPENDS, 44]


async def test_a_transaction_ends_where_it_grows_large() -> None:
    disk = Batches()
    writer = Writer(disk.commit, disk.rest)
    half = replace(birth("job"), events=[NewEvent("take.stored", 1, 0.0, b"x" * (MAX_BYTES // 2))])
    await asyncio.gather(*(writer.append(half) for _ in range(5)))
    await writer.close()
    assert disk.sizes == [2, 2, 1]


async def test_those_who_were_answered_join_those_who_came_meanwhile() -> None:
    disk = Batches()
    writer = Writer(disk.commit, disk.rest)

    async def appender(delay: int) -> None:
        for _ in range(delay):
            await asyncio.sleep(0)
        for _ in range(20):
            await writer.append(birth("job"))

    await asyncio.gather(*map(appender, range(10)))
    await writer.close()
    assert len(disk.sizes) <= 25  # of 200 appends by 10 appenders


async def test_trouble_is_everybodys_in_the_batch_and_ends_with_it() -> None:
    broken = True

    async def commit(writes: Sequence[Write]) -> Sequence[Answer]:
        if broken:
            raise OSError("no disk")
        return [Stored(1, 1, 1)] * len(writes)

    writer = Writer(commit, Batches().rest)
    answers = await asyncio.gather(*(writer.append(birth("job")) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OSError] * 3
    broken = False
    await writer.append(birth("job"))
    await writer.close()
    with pytest.raises(StoreClosed):
        await writer.append(birth("job"))


async def test_a_writer_rests_when_nothing_waits() -> None:
    disk = Batches()
    writer = Writer(disk.commit, disk.rest)
    await writer.append(birth("job"))
    assert writer._timer
    writer._call_rest()  # as the timer does
    await writer.close()
    assert disk.rests == 1


def line(position: int) -> Line:
    return Line(Recorded(position, 1, position, "t", 1, 0.0, b"", None, 1, 1), "job", "default")


def test_the_ring_holds_the_last_events_or_says_that_it_does_not() -> None:
    ring = Ring()
    assert ring.between(5, 5) == []
    assert ring.between(0, 1) is None
    ring.put(map(line, range(1, RING_EVENTS + 11)))
    assert ring.between(9, 12) is None  # 10 was overwritten
    assert ring.between(10, 12) == [line(11), line(12)]
    assert len(ring.between(10, RING_EVENTS + 10) or []) == RING_EVENTS
    assert ring.between(10, RING_EVENTS + 11) is None
    ring.put([line(RING_EVENTS + 15)])  # a gap: only the disk knows whether something is there
    assert ring.between(RING_EVENTS + 9, RING_EVENTS + 15) is None


async def test_a_watcher_that_raises_hurts_nobody() -> None:
    signal, heard = Signal(), list[int]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)

    def broken(_: int) -> None:
        raise ValueError

    signal.watch(broken)
    signal.watch(heard.append)
    signal.advance(3)
    signal.advance(3)
    signal.advance(2)
    await asyncio.sleep(0)
    assert heard == [3]


async def test_memory_checks_its_sums_too() -> None:
    store = MemoryStore()
    await store.append(birth("job_1", 2))
    store._crcs[1] += 1
    with pytest.raises(Damaged, match="Stream 1, version 2"):
        await store.read(1)


# ── The contract has teeth: each of these stores breaks one promise, and is found out ─────────────────────────────────


class Forgetful(MemoryStore):
    """Does not recognise an append that comes again."""

    async def append(self, write: Write) -> Stored:
        row = self._row_of(write.stream)
        if write.events and len(row.events) > write.expected:
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


class Filtering(MemoryStore):
    """Takes the last match for the last position looked at."""

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        batch = await super().read_all(after, limit, tenant=tenant, kind=kind)
        return Batch(batch.events, batch.events[-1].position if batch.events else after)


OTHER = NewEvent("take.lost", 1, 5.0, b"{}", b"1")
BROKEN = [
    (Forgetful(), CONTRACT.test_the_same_append_again_has_the_old_positions, Exception),
    (Doubling(), CONTRACT.test_the_same_append_may_be_under_way_twice, AssertionError),
    (Trusting(), partial(CONTRACT.test_a_token_stands_for_its_bytes, other=OTHER), pytest.fail.Exception),
    (Filtering(), CONTRACT.test_upto_is_where_was_looked_and_not_where_was_found, AssertionError),
]


@pytest.mark.parametrize(("store", "promise", "red"), BROKEN, ids=[type(row[0]).__name__ for row in BROKEN])
async def test_a_store_that_breaks_a_promise_is_found_out(
    store: EventStore, promise: Callable[[EventStore], Awaitable[None]], red: type[BaseException]
) -> None:
    with pytest.raises(red):
        await promise(store)


async def test_control_a_follower_that_reads_and_then_listens_has_a_gap() -> None:
    store = MemoryStore()
    await store.append(birth("job_1"))
    seen = list((await store.read_all(0)).events)
    await store.append(more(1, 1))  # between the two
    store.watch(lambda position: seen.append(store._lines[position - 1].event))
    await store.append(more(1, 2))
    await asyncio.sleep(0)
    assert [event.version for event in seen] == [1, 3]
    async with aclosing(follow(store, 0)) as batches:
        assert list((await anext(batches)).events) == await whole_log(store)
