"""Group commit, the ring and the signal by themselves; and that the contract has teeth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

import broken_stores as broken
import pytest
from msgspec.structs import replace
from odd_stores import MemoryContract

from rushes.eventstore.base import (
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
from rushes.eventstore.follow import Owner, Ring, Signal, follow
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.writer import MAX_APPENDS, MAX_BYTES, Answer, Writer
from rushes.testing.eventstore import birth, more, whole_log


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
    await asyncio.gather(*(writer.append(birth("job"), 9) for _ in range(MAX_APPENDS + 44)))
    await writer.close()
    assert disk.sizes == [MAX_APPENDS, 44]


async def test_a_transaction_ends_where_it_grows_large() -> None:
    disk = Batches()
    writer = Writer(disk.commit, disk.rest)
    half = replace(birth("job"), events=[NewEvent("take.stored", 1, 0.0, b"x" * (MAX_BYTES // 2))])
    await asyncio.gather(*(writer.append(half, MAX_BYTES // 2) for _ in range(5)))
    await writer.close()
    assert disk.sizes == [2, 2, 1]


async def test_those_who_were_answered_join_those_who_came_meanwhile() -> None:
    disk = Batches()
    writer = Writer(disk.commit, disk.rest)

    async def appender(delay: int) -> None:
        for _ in range(delay):
            await asyncio.sleep(0)
        for _ in range(20):
            await writer.append(birth("job"), 9)

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
    answers = await asyncio.gather(*(writer.append(birth("job"), 9) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OSError] * 3
    broken = False
    await writer.append(birth("job"), 9)
    await writer.close()
    with pytest.raises(StoreClosed):
        await writer.append(birth("job"), 9)


async def test_a_writer_rests_when_nothing_waits() -> None:
    disk = Batches()
    writer = Writer(disk.commit, disk.rest)
    await writer.append(birth("job"), 9)
    assert writer._timer
    writer._call_rest()  # as the timer does
    await writer.close()
    assert disk.rests == 1


OWNER = Owner("job", "default")


def event(position: int, data: bytes = b"") -> Recorded:
    return Recorded(position, 1, position, "t", 1, 0.0, data, None, 1, 1)


def put(ring: Ring, *events: Recorded) -> None:
    ring.put(events, [OWNER] * len(events))


def positions(events: Sequence[Recorded] | None) -> list[int]:
    assert events is not None
    return [event.position for event in events]


def test_the_ring_holds_the_last_events_or_says_that_it_does_not() -> None:
    ring = Ring(most_events=10)
    assert ring.between(0, 1) is None
    for position in range(1, 22):
        put(ring, event(position))
    assert ring.between(10, 13) is None  # 11 is gone
    assert positions(ring.between(11, 21)) == list(range(12, 22))
    assert ring.between(11, 22) is None
    put(ring, event(25), event(26))  # a gap: only the disk knows whether something is there
    assert ring.between(20, 25) is None
    assert positions(ring.between(24, 26)) == [25, 26]


def test_the_ring_is_bounded_in_bytes() -> None:
    ring = Ring(most_bytes=1_000)
    for position in range(1, 101):
        put(ring, event(position, b"x" * 100))
        assert ring.between(position - 1, position)
    assert ring.between(89, 100) is None
    put(ring, event(101, b"x" * 2_000))  # more than it may hold: read from disk
    assert ring.between(100, 101) is None
    put(ring, event(102))
    assert positions(ring.between(101, 102)) == [102]


def test_the_ring_filters() -> None:
    ring = Ring()
    ring.put([event(1), event(2)], [OWNER, Owner("call", "acme")])
    assert positions(ring.between(0, 2, tenant="acme")) == [2]
    assert positions(ring.between(0, 2, kind="job")) == [1]
    assert positions(ring.between(0, 2, "acme", "job")) == []


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


OTHER = NewEvent("take.lost", 1, 5.0, b"{}", b"1")
TWO = [NewEvent("take.stored", 1, 0.0, b"{}"), NewEvent("take.stored", 1, float("nan"), b"{}")]


class Restarting(MemoryContract):
    """The contract, for a store that is started again with a mistake."""

    async def reopen(self, store: EventStore) -> EventStore:
        assert isinstance(store, MemoryStore)
        return broken.Reborn.of(store)


CONTRACT = MemoryContract()
BROKEN: list[tuple[MemoryStore, Callable[[EventStore], Awaitable[None]]]] = [
    (broken.Forgetful(), CONTRACT.test_the_same_append_again_has_the_old_positions),
    (broken.Amnesiac(), CONTRACT.test_an_append_again_is_recognised_however_far_the_stream_has_moved_on),
    (broken.Doubling(), CONTRACT.test_the_same_append_may_be_under_way_twice),
    (broken.Trusting(), partial(CONTRACT.test_a_token_stands_for_its_bytes, other=OTHER)),
    (broken.Glancing(), partial(CONTRACT.test_every_event_of_an_append_is_compared, place=2)),
    (broken.Strict(), partial(CONTRACT.test_a_part_of_an_append_under_its_token_is_stored_already, begin=0, end=2)),
    (broken.Completing(), CONTRACT.test_more_than_is_stored_stores_nothing_more),
    (
        broken.Completing(),
        partial(CONTRACT.test_an_overlap_writes_nothing, expected=5, count=3, token=2, error=TokenReuse),
    ),
    (
        broken.Bridging(),
        partial(CONTRACT.test_an_overlap_writes_nothing, expected=7, count=3, token=3, error=WrongVersion),
    ),
    (broken.Reviving(), CONTRACT.test_an_append_again_changes_no_head),
    (broken.Hasty(), CONTRACT.test_what_is_refused_leaves_no_trace),
    (broken.Headstrong(), CONTRACT.test_a_head_is_written_with_its_append),
    (broken.Unfenced(), CONTRACT.test_an_owner_that_was_replaced_is_told_so_whatever_it_writes),
    (broken.Fenceless(), CONTRACT.test_an_owner_that_was_replaced_cannot_write),
    (broken.Queueing(), CONTRACT.test_too_large_is_refused_before_anything_waits),
    (broken.Halving(), CONTRACT.test_an_event_that_cannot_be_stored_takes_its_whole_append_along),
    (broken.Tearing(), CONTRACT.test_an_append_is_seen_whole_or_not_at_all),
    (broken.Racing(), CONTRACT.test_a_race_at_the_head_has_one_winner_a_version),
    (broken.Racing(), CONTRACT.test_one_token_with_two_contents_has_one_winner),
    (broken.Slipping(), CONTRACT.test_asking_for_the_head_while_it_moves),
    (broken.Coercing(), partial(CONTRACT.test_a_field_that_cannot_be_stored_is_named_at_once, bad=TWO[1])),
    (broken.Coercing(), partial(CONTRACT.test_a_token_has_63_bits, token=-1)),
    (broken.Rounding(), partial(CONTRACT.test_a_time_comes_back_as_it_went, at=0.1 + 0.2)),
    (broken.Emptying(), CONTRACT.test_meta_may_be_missing_and_may_be_empty),
    (broken.Folding(), CONTRACT.test_names_are_told_apart_to_the_last_bit),
    (broken.Trimming(), CONTRACT.test_kinds_tenants_and_lanes_are_told_apart_to_the_last_bit),
    (broken.Filtering(), CONTRACT.test_upto_is_where_was_looked_and_not_where_was_found),
    (broken.Skipping(), CONTRACT.test_a_filter_and_a_limit_lose_nothing_together),
    (broken.Unbounded(), partial(CONTRACT.test_a_part_of_a_stream, after=2, limit=2, expected=[3, 4])),
    (broken.Wide(), partial(CONTRACT.test_a_part_of_the_log, after=2, limit=2, expected=[3, 4])),
    (broken.Blind(), CONTRACT.test_a_damaged_event_is_named_and_spoils_nothing_else),
    (broken.Contagious(), CONTRACT.test_a_damaged_event_is_named_and_spoils_nothing_else),
    (broken.Hiding(), CONTRACT.test_a_follower_steps_over_damage),
    (MemoryStore(), Restarting().test_a_stream_goes_on_where_it_was_after_a_new_start),
]


@pytest.mark.parametrize(("store", "promise"), BROKEN)
async def test_a_store_that_breaks_a_promise_is_found_out(
    store: MemoryStore, promise: Callable[[EventStore], Awaitable[None]]
) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)) as found:
        await promise(store)
    assert not isinstance(found.value, (TypeError, AttributeError, NotImplementedError))  # it is no mistake of its own


@pytest.mark.parametrize("promise", [promise for _, promise in BROKEN[:-1]])
async def test_control_a_store_that_breaks_none_is_not(promise: Callable[[EventStore], Awaitable[None]]) -> None:
    await promise(MemoryStore())


async def test_control_a_follower_that_reads_and_then_listens_has_a_gap() -> None:
    store = MemoryStore()
    await store.append(birth("job_1"))
    seen = list((await store.read_all(0)).events)
    await store.append(more(1, 1))  # between the two
    store.watch(lambda position: seen.append(store._log[position - 1]))
    await store.append(more(1, 2))
    await asyncio.sleep(0)
    assert [event.version for event in seen] == [1, 3]
    async with aclosing(follow(store, 0)) as batches:
        assert list((await anext(batches)).events) == await whole_log(store)
