"""Whoever waits for a stream is woken: thousands of interleavings in virtual time, and one reader for everybody.

In each run streams grow through slow commits while waiters come, look, are slow, go away in the middle and come again.
The classic mistake, to look first and say afterwards that one waits, is found out in the same runs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest
from odd_stores import Slow

from rushes.eventstore.base import Batch, StoreUnavailable
from rushes.eventstore.follow import follow
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.wakes import Wakes
from rushes.testing.eventstore import birth, more
from rushes.testing.loop import run

SEEDS = 1_000
PARTS = range(20 if os.environ.get("RUSHES_NIGHTLY") else 1)  # so many times: a test may take two minutes
CONTROL_SEEDS = 300
STREAMS, WAITERS = 3, 6
PATIENCE_S = 60.0  # virtual; the longest run takes a few
FOREVER_S = 5.0  # virtual, where nothing else goes on


class LooksFirst(Wakes):
    """Wrong: what is written between the look and the registration wakes nobody."""

    async def of(self, stream: int) -> AsyncGenerator[None, None]:
        yield
        async with aclosing(super().of(stream)) as wakes:
            await anext(wakes)
            async for _ in wakes:
                yield


class DamageIsNoNews(Wakes):
    """Wrong: who waits for a stream that is damaged waits for ever."""

    def _wake(self, batch: Batch) -> None:
        super()._wake(Batch(batch.events, batch.upto))


class World:
    """Streams that grow, and those who wait until they are full-grown."""

    def __init__(self, seed: int, kind: type[Wakes]) -> None:
        self._rng = random.Random(seed)
        self.store = Slow(self._rng, leap=self._rng.choice((0, 2)), ring=self._rng.choice((2, 8, 1_000)))
        self.wakes = kind(self.store)
        self._full = {number: self._rng.randint(2, 12) for number in range(1, STREAMS + 1)}
        self.turns = 0

    async def missed(self) -> int:
        """How many wait for ever."""
        for number in self._full:
            await self.store.append(birth(f"s{number}"))
        waiting = [asyncio.create_task(self._wait(self._rng.randint(1, STREAMS))) for _ in range(WAITERS)]
        await asyncio.gather(*(self._grow(stream) for stream in self._full))
        seen, lost = await asyncio.wait(waiting, timeout=PATIENCE_S)
        for task in lost:
            task.cancel()
        await asyncio.wait(waiting)
        assert [task.result() for task in seen] == [None] * len(seen)
        assert not self.wakes._waiting
        assert self.wakes._reader is None
        await self.store.close()
        return len(lost)

    async def _grow(self, stream: int) -> None:
        for version in range(1, self._full[stream]):
            await asyncio.sleep(self._rng.choice((0, 0, 0.02, 0.1)))
            await self.store.append(more(stream, version, 1, token=version))

    async def _wait(self, stream: int) -> None:
        """Until it is full-grown; with a patience that ends, and comes back."""
        await asyncio.sleep(self._rng.choice((0, 0.05, 0.3)))
        seen = 0
        while seen < self._full[stream]:
            turns = self._rng.choice((1, 3, 1_000, 1_000))
            try:
                async with asyncio.timeout(self._rng.choice((0.05, None, None))):
                    seen = await self._look_in_turns(stream, seen, turns)
            except TimeoutError:
                await self.store.pause()

    async def _look_in_turns(self, stream: int, seen: int, turns: int) -> int:
        async with aclosing(self.wakes.of(stream)) as wakes:
            async for _ in wakes:
                self.turns += 1
                await self.store.pause()
                version = (await self.store.streams([stream]))[stream].version
                await self.store.pause()
                assert version >= seen
                seen, turns = version, turns - 1
                if seen == self._full[stream] or not turns:
                    break
                if self._rng.random() < 0.3:
                    await asyncio.sleep(self._rng.choice((0.02, 0.2)))
        return seen


async def one_run(seed: int, kind: type[Wakes]) -> tuple[int, int]:
    """How many wait for ever, and how often all of them looked."""
    world = World(seed, kind)
    return await world.missed(), world.turns


@pytest.mark.parametrize("part", PARTS)
def test_nobody_who_waits_misses_the_end(part: int) -> None:
    looks = 0
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        missed, turns = run(one_run(seed, Wakes), seed)
        assert not missed, f"seed {seed}: {missed} wait for ever"
        looks += turns
    print(f"{SEEDS} seeds, {looks} looks")
    assert looks > SEEDS * WAITERS * 2


def test_control_looking_before_one_is_known_to_wait_misses_it() -> None:
    missed = sum(run(one_run(seed, LooksFirst), seed)[0] > 0 for seed in range(CONTROL_SEEDS))
    print(f"looks first: somebody waits for ever in {missed} of {CONTROL_SEEDS}")
    assert missed > CONTROL_SEEDS // 10


# ── One reader ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Counting(MemoryStore):
    """Counts how often the log is read, and sometimes cannot be."""

    reads, broken = 0, False

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        self.reads += 1
        if self.broken:
            raise StoreUnavailable("The disk is on holiday.")
        return await super().read_all(after, limit, tenant=tenant, kind=kind)


async def born(store: MemoryStore, count: int) -> list[int]:
    return [(await store.append(birth(f"s{number}"))).stream for number in range(count)]


async def settle() -> None:
    """Whatever can happen has happened: virtual time passes only then."""
    await asyncio.sleep(0.01)


def only_we_are_left() -> bool:
    return len(asyncio.all_tasks()) == 1


async def reads_by(store: Counting, wait: Callable[[int], Awaitable[None]]) -> int:
    """How often 500 waiters of five streams read the log while each stream grows once."""
    streams = await born(store, 5)
    waiting = [asyncio.ensure_future(wait(stream)) for stream in streams * 100]
    await settle()
    for stream in streams:
        await store.append(more(stream, 1))
        await settle()
    await asyncio.gather(*waiting)
    return store.reads


def test_the_log_is_read_once_for_all_who_wait() -> None:
    store = Counting()
    wakes = Wakes(store)

    async def wait(stream: int) -> None:
        async with aclosing(wakes.of(stream)) as turns:
            await anext(turns)
            await anext(turns)

    assert run(reads_by(store, wait)) == 5


def test_control_a_follower_for_each_reads_it_for_each() -> None:
    store = Counting()

    async def wait(stream: int) -> None:
        async with aclosing(follow(store, store.position)) as batches:
            async for batch in batches:
                if any(event.stream == stream for event in batch.events):
                    return

    assert run(reads_by(store, wait)) > 500


def test_the_reader_is_there_while_anybody_waits() -> None:
    async def main() -> None:
        store = Counting()
        wakes = Wakes(store)
        one, other = await born(store, 2)
        first, second = wakes.of(one), wakes.of(other)
        await anext(first)
        await anext(second)
        await first.aclose()
        assert len(asyncio.all_tasks()) == 2
        await store.append(more(other, 1))
        await anext(second)
        await second.aclose()
        assert only_we_are_left()
        reads = store.reads
        await store.append(more(one, 1))
        await settle()
        assert store.reads == reads
        third = wakes.of(one)  # and again
        await anext(third)
        await store.append(more(one, 2))
        await anext(third)
        await third.aclose()

    run(main())


def test_a_waiter_that_is_cancelled_leaves_nothing_behind() -> None:
    async def main() -> None:
        store = MemoryStore()
        wakes = Wakes(store)
        (stream,) = await born(store, 1)

        async def wait() -> None:
            async with aclosing(wakes.of(stream)) as turns:
                async for _ in turns:
                    pass

        task = asyncio.create_task(wait())
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert only_we_are_left()
        assert not wakes._waiting

    run(main())


def test_one_who_is_slow_is_woken_once() -> None:
    async def main() -> int:
        store, turns = MemoryStore(), 0
        (stream,) = await born(store, 1)
        async with aclosing(Wakes(store).of(stream)) as wakes:
            await anext(wakes)
            for version in range(1, 500):
                await store.append(more(stream, version, token=version))
                await settle()
            try:
                async with asyncio.timeout(FOREVER_S):
                    async for _ in wakes:
                        turns += 1
            except TimeoutError:
                return turns
        raise AssertionError("it ended")

    assert run(main()) == 1


# ── When something is wrong ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_that_raises_ends_all_who_wait_with_its_error() -> None:
    async def main() -> None:
        store = Counting()
        wakes = Wakes(store)
        streams = await born(store, 3)

        async def wait(stream: int) -> None:
            async with aclosing(wakes.of(stream)) as turns:
                await anext(turns)
                await anext(turns)

        slow = wakes.of(streams[0])
        await anext(slow)
        waiting = [asyncio.ensure_future(wait(stream)) for stream in streams]
        await settle()
        store.broken = True
        await store.append(more(streams[0], 1))
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(error) for error in ended] == ["The disk is on holiday."] * 3
        store.broken = False
        again = asyncio.ensure_future(wait(streams[1]))  # whoever comes later has nothing to do with it
        await settle()
        await store.append(more(streams[1], 1))
        await again
        with pytest.raises(StoreUnavailable):
            await anext(slow)
        assert only_we_are_left()

    run(main())


def test_closing_the_store_ends_all_who_wait() -> None:
    async def main() -> None:
        store = MemoryStore()
        wakes = Wakes(store)
        streams = await born(store, 3)

        async def turns_of(stream: int) -> int:
            async with aclosing(wakes.of(stream)) as turns:
                return len([None async for _ in turns])

        waiting = [asyncio.ensure_future(turns_of(stream)) for stream in streams]
        await settle()
        await store.close()
        assert await asyncio.gather(*waiting) == [1, 1, 1]
        assert only_we_are_left()

    run(main())


def test_an_error_that_nobody_asks_for_is_told_to_nobody() -> None:
    async def main() -> list[object]:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
        store = Counting()
        (stream,) = await born(store, 1)
        async with aclosing(Wakes(store).of(stream)) as turns:
            await anext(turns)
            store.broken = True
            await store.append(more(stream, 1))
            await settle()
        gc.collect()
        return told

    assert run(main()) == []


@pytest.mark.parametrize(("kind", "looks"), [(Wakes, 2), (DamageIsNoNews, 1)])
def test_damage_is_news_for_those_who_wait_for_its_stream(kind: type[Wakes], looks: int) -> None:
    async def main() -> tuple[int, int]:
        store = MemoryStore()
        wakes = kind(store)
        streams = await born(store, 2)
        taken = [0, 0]

        async def wait(number: int) -> None:
            async with aclosing(wakes.of(streams[number])) as turns:
                async for _ in turns:
                    taken[number] += 1

        waiting = [asyncio.ensure_future(wait(number)) for number in range(2)]
        await settle()
        await store.append(more(streams[0], 1))
        store._crcs[-1] ^= 1  # before anybody has read it
        await settle()
        await store.close()
        await asyncio.gather(*waiting)
        return taken[0], taken[1]

    assert run(main()) == (looks, 1)
