"""Jobs a second from the request to the kept take, and the end of what a killed process left: beside peers."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from msgspec import Struct

from bench.child import child
from bench.figures import Figure, Knobs, Rounds, alternate, median, ratio, scratch, skipped
from bench.jobs import PROMPT
from bench.noop import AtOnce, asked, bare_system, number_in, whole_studio
from rushes.eventstore.base import EventStore
from rushes.eventstore.follow import follow
from rushes.units import fresh_job_id

IN_FLIGHT: Final = 100
JOBS: Final = 5_000
EVENTSOURCING_JOBS: Final = 600
DBOS_JOBS: Final = 300
PENDING: Final = 1_000
NO_PEER: Final = "the {} library is not installed: make bench installs it"

Work: TypeAlias = "Callable[[int], Awaitable[object]]"


class Run(Struct, frozen=True):
    """What one side did in one round."""

    rate: float  # jobs a second
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_us: float = 0.0  # of the whole process, for one job
    commits: float = 0.0  # for one job


class Ends:
    """Tells when jobs are over: one follower of the log for all of them."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._numbers: dict[int, int] = {}  # by stream
        self._waiting: dict[int, asyncio.Future[None]] = {}  # by number

    def of(self, number: int) -> asyncio.Future[None]:
        """Done when the job of this number is."""
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        return future

    async def follow(self) -> None:
        """Until the store is closed."""
        async for batch in follow(self._store, self._store.position):
            for event in batch.events:
                if event.type == "job.requested":
                    self._numbers[event.stream] = number_in(event.data)
                elif event.type == "job.succeeded":
                    self._waiting.pop(self._numbers.pop(event.stream)).set_result(None)


# ── Ours ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _followed(store: EventStore) -> AsyncGenerator[Ends]:
    ends = Ends(store)
    task = asyncio.create_task(ends.follow())
    try:
        yield ends
    finally:
        task.cancel()


async def _through_studio(folder: Path, jobs: int) -> Run:
    """As a program does, with the lock, the list of jobs and all. The ends are followed as the server follows them."""
    async with whole_studio(folder, AtOnce()) as studio, _followed(studio.store) as ends:

        async def work(number: int) -> None:
            end = ends.of(number)
            await studio.generate(PROMPT, seed=number)
            await end

        return await _run(studio.store, work, jobs)


async def _awaited(folder: Path, jobs: int) -> Run:
    """The same where everybody awaits his own result."""
    async with whole_studio(folder, AtOnce()) as studio:

        async def work(number: int) -> None:
            job = await studio.generate(PROMPT, seed=number)
            await job.result()

        return await _run(studio.store, work, jobs)


async def _through_system(folder: Path, jobs: int) -> Run:
    """The actors and the log alone."""
    rng = random.Random(1)
    async with bare_system(folder, AtOnce()) as system, _followed(system.store) as ends:

        async def work(number: int) -> None:
            end, now = ends.of(number), time.time()
            name = fresh_job_id(now, rng.getrandbits(74))
            await system.generate(name, "default", asked(number, PROMPT, now), fresh=True)
            await end

        return await _run(system.store, work, jobs)


async def _run(store: EventStore, work: Work, jobs: int) -> Run:
    """So many jobs, 100 of them at a time."""
    numbers, waits_ms, commits = iter(range(1, jobs + 1)), list[float](), list[int]()

    async def some() -> None:
        for number in numbers:
            began = time.perf_counter()
            await work(number)
            waits_ms.append((time.perf_counter() - began) * 1e3)

    unwatch = store.watch(commits.append)
    began, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(some() for _ in range(min(IN_FLIGHT, jobs))))
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    unwatch()
    waits_ms.sort()
    return Run(jobs / took_s, median(waits_ms), waits_ms[jobs * 99 // 100], cpu_s / jobs * 1e6, len(commits) / jobs)


class Sides:
    """Our three ways, each in an empty folder of its own, and what they did round by round."""

    def __init__(self, run: Knobs) -> None:
        self._run, self._jobs = run, run.scaled(JOBS, 20)
        self.studio, self.system, self.awaited = list[Run](), list[Run](), list[Run]()

    def measures(self) -> list[Callable[[], float]]:
        """One for each way, the first of them the candidate."""
        ways = ((_through_studio, self.studio), (_through_system, self.system), (_awaited, self.awaited))
        return [partial(self._measure, way, runs) for way, runs in ways]

    def _measure(self, way: Callable[[Path, int], Awaitable[Run]], runs: list[Run]) -> float:
        async def measured(folder: Path) -> Run:
            return await way(folder, self._jobs)

        with scratch(self._run.folder) as folder:
            runs.append(asyncio.run(measured(folder)))
        return runs[-1].rate

    def figure(self, name: str, rounds: Rounds, more: Mapping[str, object]) -> Figure:
        """The candidate beside its peer, with the other ways."""
        medians = {
            member: median([getattr(one, member) for one in self.studio])
            for member in ("p50_ms", "p99_ms", "cpu_us", "commits")
        }
        others: dict[str, object] = {
            "jobs": self._jobs,
            "system": median([one.rate for one in self.system]),
            "system_ratio": ratio([one.rate for one in self.system], rounds.floor),
            "system_p50_ms": median([one.p50_ms for one in self.system]),
            "system_cpu_us": median([one.cpu_us for one in self.system]),
            "awaited": median([one.rate for one in self.awaited]),
        }
        return rounds.figure(name, "jobs/s", {**medians, **others, **more})


# ── Beside peers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def vs_eventsourcing(run: Knobs) -> Iterator[Figure]:
    """The peer saves a job four times: 100 threads, and beside it the one thread that is its best."""
    name = "job.rate.vs_eventsourcing"
    if importlib.util.find_spec("eventsourcing") is None:
        yield skipped(name, "jobs/s", NO_PEER.format("eventsourcing"))
        return
    sides, jobs = Sides(run), run.scaled(EVENTSOURCING_JOBS, 20)
    candidate, *others = sides.measures()
    peers = [partial(_saved, run, jobs, threads) for threads in (IN_FLIGHT, 1)]
    rounds = alternate(run, candidate, peers[0], peers[1], *others)
    alone = rounds.others[0]
    more = {"one_thread": median(alone), "one_thread_ratio": ratio(rounds.candidate, alone), "peer_jobs": jobs}
    yield sides.figure(name, rounds, more)


def _saved(run: Knobs, jobs: int, threads: int) -> float:
    from bench.peer import Peer  # noqa: PLC0415 - only where it is installed

    with scratch(run.folder) as folder, closing(Peer(folder / "peer.db", [])) as peer:
        peer.run(0)
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            list(pool.map(peer.run, range(1, jobs + 1)))
            return jobs / (time.perf_counter() - began)


def vs_dbos(run: Knobs) -> Iterator[Figure]:
    """The peer runs workflows of three steps, 100 at a time, in a process of its own."""
    name = "job.rate.vs_dbos"
    if importlib.util.find_spec("dbos") is None:
        yield skipped(name, "jobs/s", NO_PEER.format("dbos"))
        return
    sides, jobs, peers = Sides(run), run.scaled(DBOS_JOBS, 5), list[dict[str, Any]]()
    candidate, *others = sides.measures()
    rounds = alternate(run, candidate, partial(_workflows, run, jobs, peers), *others)
    more: dict[str, object] = {"peer_p50_ms": median([peer["p50_ms"] for peer in peers]), "peer_jobs": jobs}
    yield sides.figure(name, rounds, more)


def _workflows(run: Knobs, jobs: int, told: list[dict[str, Any]]) -> float:
    with scratch(run.folder) as folder, child("bench.dbos_peer", "run", folder, jobs, min(jobs, IN_FLIGHT)) as peer:
        told.append(peer.hear())
        return float(told[-1]["rate"])


# ── Recovery ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def recovery(run: Knobs) -> Iterator[Figure]:
    """Jobs with two steps left, a kill -9, and all of them done; counted from the start of opening."""
    name = "job.recovery.vs_dbos"
    if importlib.util.find_spec("dbos") is None:
        yield skipped(name, "jobs/s", NO_PEER.format("dbos"))
        return
    jobs = run.scaled(PENDING, 5)
    rounds = alternate(
        run,
        partial(_recovered, run, jobs, "bench.crowd", "own", "finish"),
        partial(_recovered, run, jobs, "bench.dbos_peer", "begin", "recover"),
    )
    took_s = {"took_s": jobs / median(rounds.candidate), "peer_took_s": jobs / median(rounds.floor)}
    yield rounds.figure(name, "jobs/s", {"jobs": jobs, **took_s})


def _recovered(run: Knobs, jobs: int, module: str, leave: str, recover: str) -> float:
    with scratch(run.folder) as folder:
        with child(module, leave, folder, jobs) as one:
            one.hear()
        with child(module, recover, folder, jobs) as other:
            return jobs / float(other.hear()["took_s"])
