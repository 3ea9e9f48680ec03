"""What one job costs in a process that runs: a poll, a question about its state, and its memory."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import tracemalloc
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from unittest import mock

from bench.child import until
from bench.crowd import AGO_S, POLLS, POLLS_PER_S, PROMPT, build
from bench.figures import Figure, Knobs, alternate, median, scratch
from bench.noop import RUNNING, TARGET, AtOnce, Noop, bare_system, known_to
from rushes.actors import system as actors
from rushes.actors.messages import Poll
from rushes.actors.system import System
from rushes.adapters.base import drive
from rushes.units import Handle

LIVE: Final = 4_000  # jobs: all of them stay in memory
ASKED: Final = 1_000  # jobs
ASKS: Final = 200_000
PASSIVATED: Final = 100_000  # jobs
ONCE_S: Final = 0.9 * AGO_S  # after it they are due, and not again while something is measured


class Counter:
    """A provider that counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _: int) -> None:
        """A poll."""
        self.count += 1

    async def reach(self, count: int) -> None:
        """Wait for so many polls."""
        await until(lambda: self.count >= count)


async def names_of(system: System, jobs: int) -> list[str]:
    """The public names of the first jobs of the log."""
    return [stream.name for stream in (await system.store.streams(list(range(1, jobs + 1)))).values()]


# ── A poll ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def poll_cpu(run: Knobs) -> Iterator[Figure]:
    """Processor time of a poll, of the whole process, where the provider answers at once with bytes."""
    polls = run.scaled(POLLS, 200)
    live = run.scaled(LIVE, 100)
    with scratch(run.folder) as folder:
        for name, jobs, interval_s in (("asleep", 2 * polls, ONCE_S), ("live", live, live / POLLS_PER_S)):
            (folder / name).mkdir()
            build(folder / name, jobs, interval_s)
        rounds = alternate(
            run,
            lambda: asyncio.run(_polled(folder / "asleep", polls // 10, polls)),
            lambda: asyncio.run(_driven(polls)),
            lambda: asyncio.run(_polled(folder / "live", 2 * live, polls)),
        )
    more = {"polls": polls, "live_us": median(rounds.others[0]), "polls_per_s": POLLS_PER_S}
    yield rounds.figure("job.poll_cpu_us", "us/poll", more)


async def _polled(folder: Path, warm_up: int, polls: int) -> float:
    counter = Counter()
    async with bare_system(folder, AtOnce(RUNNING, counter)):
        await counter.reach(warm_up)
        began, cpu_s = counter.count, time.process_time()
        await counter.reach(began + polls)
        return (time.process_time() - cpu_s) / (counter.count - began) * 1e6


async def _driven(polls: int) -> float:
    """The floor: the adapter's flow over the same transport."""
    adapter, transport, handle = Noop(), AtOnce(RUNNING, Counter()), Handle(f"{7:026d}")
    cpu_s = time.process_time()
    for _ in range(polls):
        await drive(adapter.status(handle, TARGET), transport, adapter, TARGET)
    return (time.process_time() - cpu_s) / polls * 1e6


# ── A question ────────────────────────────────────────────────────────────────────────────────────────────────────────


def ask(run: Knobs) -> Iterator[Figure]:
    """State queries through the actor, of jobs that wait in memory."""
    asks, jobs = run.scaled(ASKS, 1_000), run.scaled(ASKED, 50)
    looks: list[float] = []
    with scratch(run.folder) as folder:
        build(folder, jobs, ONCE_S)
        rounds = alternate(
            run,
            lambda: asyncio.run(_asked(folder, jobs, asks, looks)),
            lambda: asyncio.run(_queued(asks)),
        )
    yield rounds.figure("job.ask", "asks/s", {"asks": asks, "looks": median(looks)})


async def _asked(folder: Path, jobs: int, asks: int, looks: list[float]) -> float:
    counter = Counter()
    async with bare_system(folder, AtOnce(RUNNING, counter)) as system:
        names = await names_of(system, jobs)
        for name in names:
            await system.ask(name, Poll())
        await counter.reach(jobs)
        question, times = Poll(), asks // jobs
        began = time.perf_counter()
        for _ in range(times):
            for name in names:
                await system.ask(name, question)
        reached = times * jobs / (time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(times):
            for name in names:
                await system.look(name)
        looks.append(times * jobs / (time.perf_counter() - began))
        return reached


async def _queued(asks: int) -> float:
    """The floor: a queue, a task that reads it, and a future for each reply."""
    queue: asyncio.Queue[tuple[str, asyncio.Future[str]]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        while True:
            question, reply = await queue.get()
            reply.set_result(question)

    server = asyncio.create_task(serve())
    began = time.perf_counter()
    for _ in range(asks):
        reply: asyncio.Future[str] = loop.create_future()
        queue.put_nowait(("poll", reply))
        await reply
    took_s = time.perf_counter() - began
    server.cancel()
    return asks / took_s


# ── Memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def passivated_bytes(run: Knobs) -> Iterator[Figure]:
    """What Python holds for a job that is not in memory."""
    jobs = run.scaled(PASSIVATED, 1_000)
    with scratch(run.folder) as folder:
        (folder / "empty").mkdir()
        build(folder, jobs, ONCE_S)
        sizes = [asyncio.run(_asleep(folder, folder / "empty", jobs)) for _ in range(run.rounds)]
    yield Figure(
        name="job.passivated_bytes", value=median(sizes), unit="bytes/job", rounds=run.rounds, more={"jobs": jobs}
    )


def idle_bytes(run: Knobs) -> Iterator[Figure]:
    """What it holds beside that for one that is, and only waits. Its prompt's text is not counted."""
    jobs = run.scaled(LIVE, 100)
    with scratch(run.folder) as folder:
        build(folder, jobs, ONCE_S)
        sizes = [asyncio.run(_awake(folder, jobs)) for _ in range(run.rounds)]
    yield Figure(name="job.idle_bytes", value=median(sizes), unit="bytes/job", rounds=run.rounds, more={"jobs": jobs})


async def _asleep(folder: Path, empty: Path, jobs: int) -> float:
    async with _weighed_system(empty) as (_, before):
        nothing = _traced() - before
    async with _weighed_system(folder) as (system, before):
        await _taken_up(system, jobs)
        return (_traced() - before - nothing) / jobs


async def _awake(folder: Path, jobs: int) -> float:
    counter = Counter()
    async with _weighed_system(folder, counter) as (system, _):
        await _taken_up(system, jobs)
        before = _traced()
        for stream in range(1, jobs + 1):
            (row,) = (await system.store.streams([stream])).values()
            await system.ask(row.name, Poll())
        await counter.reach(jobs)
        return (_traced() - before) / jobs - sys.getsizeof(PROMPT)


@asynccontextmanager
async def _weighed_system(folder: Path, polled: Counter | None = None) -> AsyncGenerator[tuple[System, int]]:
    """A system, and what Python held before it was there. Hardly anybody wakes by himself while it is weighed."""
    tracemalloc.start()
    before = _traced()
    try:
        with mock.patch.object(actors, "TAKE_UP_EACH_S", 0.002):
            async with bare_system(folder, AtOnce(RUNNING, polled)) as system:
                yield system, before
    finally:
        tracemalloc.stop()


async def _taken_up(system: System, jobs: int) -> None:
    await until(lambda: known_to(system) >= jobs)


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
