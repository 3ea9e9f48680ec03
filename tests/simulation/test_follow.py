"""Followers see exactly the log: thousands of interleavings in virtual time, and the cost of thousands of followers.

In each run appenders write through slow commits while followers start anywhere, filter, stop reading for a while, are
cut off in the middle and come back with their cursor. The two classic mistakes, in the same runs, are found out.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from odd_stores import Slow

from rushes.eventstore.base import Batch, EventStore, Recorded
from rushes.eventstore.follow import Ring, follow
from rushes.eventstore.sqlite import SqliteStore
from rushes.testing.eventstore import birth, more, whole_log
from rushes.testing.loop import run

SEEDS = 1_000
PARTS = range(20 if os.environ.get("RUSHES_NIGHTLY") else 1)  # so many times: a test may take two minutes
CONTROL_SEEDS = 300
TENANTS, KINDS = ("acme", "bold"), ("job", "call")
PATIENCE_TURNS = 60  # of half a virtual second, for followers to catch up; a read takes at most 0.06

Algorithm = Callable[[Slow, int, str | None, str | None, int], AsyncGenerator[Batch, None]]


def as_shipped(
    store: Slow, after: int, tenant: str | None, kind: str | None, limit: int
) -> AsyncGenerator[Batch, None]:
    return follow(store, after, tenant=tenant, kind=kind, limit=limit)


async def read_then_subscribe(
    store: Slow, after: int, tenant: str | None, kind: str | None, limit: int
) -> AsyncGenerator[Batch, None]:
    """Wrong: what is committed between the last read and the subscription is seen by neither."""
    while after < store.position:
        batch = await store.read_all(after, limit, tenant=tenant, kind=kind)
        after = batch.upto
        yield batch
    await store.pause()
    async with aclosing(live(store, tenant, kind)) as batches:
        async for batch in batches:
            yield batch


async def subscribe_then_read(
    store: Slow, after: int, tenant: str | None, kind: str | None, limit: int
) -> AsyncGenerator[Batch, None]:
    """Wrong: what is committed while the history is read is seen by both."""
    async with aclosing(live(store, tenant, kind)) as batches:
        following = asyncio.ensure_future(anext(batches))
        try:
            await asyncio.sleep(0)
            while after < store.position:
                batch = await store.read_all(after, limit, tenant=tenant, kind=kind)
                after = batch.upto
                yield batch
            while True:
                yield await following
                following = asyncio.ensure_future(anext(batches))
        finally:
            following.cancel()
            await asyncio.wait([following])


async def live(store: Slow, tenant: str | None, kind: str | None) -> AsyncGenerator[Batch, None]:
    """Commits pushed as they happen, into a queue for each reader."""
    queue: asyncio.Queue[Sequence[Recorded]] = asyncio.Queue()
    store.listeners.append(queue.put_nowait)
    try:
        while True:
            events = await queue.get()
            wanted = [event for event in events if store._owners[event.position - 1].matches(tenant, kind)]
            yield Batch(wanted, events[-1].position)
    finally:
        store.listeners.remove(queue.put_nowait)


class Follower:
    """One reader and all its misfortunes."""

    def __init__(self, store: Slow, rng: random.Random, algorithm: Algorithm) -> None:
        self._store, self._rng, self._algorithm = store, rng, algorithm
        self.tenant, self.kind = rng.choice((None, *TENANTS)), rng.choice((None, *KINDS))
        self.start = self.cursor = -1  # not begun
        self.seen: list[Recorded] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        await asyncio.sleep(self._rng.choice((0, 0.05, 0.3)))
        self.start = self.cursor = self._rng.randint(0, self._store.position)
        while True:
            await self._connect()
            await self._store.pause()

    async def _connect(self) -> None:
        batches = self._algorithm(self._store, self.cursor, self.tenant, self.kind, self._rng.randint(1, 6))
        turns = self._rng.choice((1, 3, 1_000))
        try:
            async with asyncio.timeout(self._rng.choice((0.05, 0.5, None))), aclosing(batches):
                async for batch in batches:
                    self.seen += batch.events
                    self.cursor = batch.upto
                    turns -= 1
                    if not turns:
                        return
                    if self._rng.random() < 0.2:
                        await asyncio.sleep(self._rng.choice((0.02, 0.2)))
        except TimeoutError:  # cut off: whatever it was just being given is lost, and its cursor has not moved
            return

    async def mistakes(self) -> list[str]:
        """How what was seen differs from the log behind the start, through the filter."""
        log = await whole_log(self._store, 999, tenant=self.tenant, kind=self.kind)
        wanted = [event.position for event in log if event.position > self.start]
        seen = [event.position for event in self.seen]
        found = {
            "lost": set(wanted) - set(seen),
            "doubled": len(seen) > len(set(seen)),
            "not asked for": set(seen) - set(wanted),
            "out of order": seen != sorted(seen),
        }
        return [name for name, there in found.items() if there]


async def append_some(store: Slow, rng: random.Random, number: int) -> None:
    born = birth(f"s{number}", rng.randint(1, 3), tenant=rng.choice(TENANTS), kind=rng.choice(KINDS))
    stream, version = (await store.append(born)).stream, len(born.events)
    for token in range(rng.randint(1, 6)):
        await asyncio.sleep(rng.choice((0, 0, 0.02, 0.1)))
        write = more(stream, version, rng.randint(1, 3), token=token)
        if rng.random() < 0.2:  # a caller that goes away and comes again
            attempt = asyncio.ensure_future(store.append(write))
            await store.pause()
            attempt.cancel()
            await asyncio.wait([attempt])
        await store.append(write)
        version += len(write.events)


async def one_run(seed: int, algorithm: Algorithm, tally: Counter[str]) -> set[str]:
    """The mistakes of all followers."""
    rng = random.Random(seed)
    store = Slow(rng, leap=rng.choice((0, 2)), ring=rng.choice((2, 8, 1_000)))
    followers = [Follower(store, rng, algorithm) for _ in range(4)]
    tasks = [asyncio.create_task(follower.run()) for follower in followers]
    await asyncio.gather(*(append_some(store, rng, number) for number in range(4)))
    for _ in range(PATIENCE_TURNS):
        if all(follower.cursor >= store.position for follower in followers):
            break
        await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    found = {mistake for follower in followers for mistake in await follower.mistakes()}
    tally["events"] += sum(len(follower.seen) for follower in followers)
    tally["ring"] += store.from_ring
    tally["log"] += store.from_log
    await store.close()
    return found


def survey(algorithm: Algorithm, seeds: range) -> tuple[Counter[str], Counter[str]]:
    """In how many runs each mistake was made, and what the runs amounted to."""
    made, tally = Counter[str](), Counter[str]()
    for seed in seeds:
        for mistake in run(one_run(seed, algorithm, tally), seed):
            made[mistake] += 1
            tally.setdefault(f"first seed that was {mistake}", seed)
    return made, tally


@pytest.mark.parametrize("part", PARTS)
def test_a_follower_sees_exactly_the_log(part: int) -> None:
    seeds = range(part * SEEDS, (part + 1) * SEEDS)
    made, tally = survey(as_shipped, seeds)
    print(f"interleavings of {seeds}: {dict(tally)}")
    assert not made, f"{dict(made)}: {dict(tally)}"
    assert min(tally["ring"], tally["log"]) > SEEDS  # both ways of reading were taken
    assert tally["events"] > 10 * SEEDS


def test_control_reading_and_then_subscribing_loses() -> None:
    made, _ = survey(read_then_subscribe, range(CONTROL_SEEDS))
    print(f"read, then subscribe: {dict(made)} of {CONTROL_SEEDS}")
    assert made["lost"] > CONTROL_SEEDS // 4


def test_control_subscribing_and_then_reading_doubles() -> None:
    made, _ = survey(subscribe_then_read, range(CONTROL_SEEDS))
    print(f"subscribe, then read: {dict(made)} of {CONTROL_SEEDS}")
    assert made["doubled"] > CONTROL_SEEDS // 2


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(10):
        tallies = [Counter[str](), Counter[str]()]
        for tally in tallies:
            run(one_run(seed, as_shipped, tally), seed)
        assert tallies[0] == tallies[1]


# ── What followers cost ───────────────────────────────────────────────────────────────────────────────────────────────

FOLLOWERS = 5_000
STOPPED = 1_000
EVENTS = 10_000


async def append_many(store: EventStore, name: str, count: int) -> None:
    """Each append has 100 events."""
    stream, size = 0, 100
    for version in range(0, count, size):
        token = 1 + version
        grown = more(stream, version, size, token=token) if version else birth(name, size, token=token)
        stream = (await store.append(grown)).stream


def held_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "rushes.db")
    yield store
    await store.close()


@pytest.mark.usefixtures("traced")
async def test_thousands_wait_at_little_cost(store: SqliteStore) -> None:
    """A follower that waits is its task, its generator and a place in the one signal."""
    told = asyncio.Semaphore(0)

    async def reader() -> None:
        async with aclosing(follow(store, 0)) as batches:
            async for batch in batches:
                for _ in batch.events:
                    told.release()

    async def append_and_tell(name: str, count: int) -> int:
        await store.append(birth(name, count))
        for _ in range(FOLLOWERS * count):
            await told.acquire()
        return (held_bytes() - before) // FOLLOWERS

    before = held_bytes()
    tasks = [asyncio.create_task(reader()) for _ in range(FOLLOWERS)]
    first = await append_and_tell("job_first", 1)
    for number in range(4):
        later = await append_and_tell(f"job_{number}", 10)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    print(f"a waiting follower holds {first} bytes, {later} after 40 events")
    assert first < 4_096
    assert later < first + 512  # and no more as events go by


@pytest.mark.usefixtures("traced")
async def test_those_who_stop_reading_cost_nothing(store: SqliteStore) -> None:
    assert await growth(store, lambda: follow(store, 0)) < STOPPED * 128


@pytest.mark.usefixtures("traced")
async def test_control_a_buffer_for_each_follower_is_seen(store: SqliteStore) -> None:
    """What would be if a commit were pushed to each."""
    queues: list[asyncio.Queue[int]] = []

    async def buffered() -> AsyncGenerator[Batch, None]:
        queue: asyncio.Queue[int] = asyncio.Queue()
        queues.append(queue)
        stop = store.watch(queue.put_nowait)
        try:
            while True:
                yield Batch([], await queue.get())
        finally:
            stop()

    assert await growth(store, buffered) > STOPPED * 256


async def growth(store: SqliteStore, subscribe: Callable[[], AsyncGenerator[Batch, None]]) -> int:
    """The bytes that remain after 10,000 events while 1,000 followers have taken one batch and no more."""
    store._ring = Ring(most_events=64)  # its size is constant when it is full
    stopped = [subscribe() for _ in range(STOPPED)]
    taking = [asyncio.ensure_future(anext(batches)) for batches in stopped]
    await asyncio.sleep(0)
    await append_many(store, "job_first", 1_000)
    await asyncio.gather(*taking)
    taking.clear()
    before = held_bytes()
    await append_many(store, "job_second", EVENTS)
    grown = held_bytes() - before
    for batches in stopped:
        await batches.aclose()
    print(f"{STOPPED} followers that stopped reading hold {grown} bytes more after {EVENTS} events")
    return grown


@pytest.mark.parametrize("ring", [1, 16, 8_192])
async def test_a_reader_is_told_the_same_by_a_ring_that_covers_and_by_one_that_does_not(
    store: SqliteStore, ring: int
) -> None:
    store._ring = Ring(most_events=ring)
    writing = asyncio.ensure_future(append_many(store, "job_1", 3_000))
    seen: list[Recorded] = []
    async with aclosing(follow(store, 0, limit=37)) as batches:
        async for batch in batches:
            seen += batch.events
            if len(seen) == 3_000:
                break
    await writing
    assert seen == await store.read(1)
