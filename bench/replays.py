"""Replay: read, check, decode and fold, as the system does when it starts; beside a peer, and beside a plain SELECT."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sqlite3
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from bench.figures import Figure, Knobs, alternate, median, ratio, scratch, skipped
from bench.jobs import History, grow, grow_one, history, long_history
from rushes.actors.codec import decode
from rushes.actors.job import evolve
from rushes.actors.messages import Ended, Job, New
from rushes.eventstore.base import Recorded
from rushes.eventstore.sqlite import SqliteStore

REPORTS: Final = 20_000  # in the long stream
SHORT_JOBS: Final = 3_000
ALL_EVENTS: Final = 300_000
LOADED_AT_ONCE: Final = 200  # streams in one read_many, as many as the system loads together
WINDOW: Final = 1_000  # positions in one read_all
NEW: Final = New()
NO_PEER: Final = "the eventsourcing library is not installed: make bench installs it"

Measure = Callable[[], float]  # events a second
Replay = Callable[[SqliteStore], Awaitable[int]]  # how many events that were


def fold(events: Iterable[Recorded]) -> Job:
    """A job from its history."""
    job: Job = NEW
    for recorded in events:
        job = evolve(job, decode(recorded), recorded.at)
    return job


# ── Some streams, beside a peer ───────────────────────────────────────────────────────────────────────────────────────


def long(run: Knobs) -> Iterator[Figure]:
    """One stream with very many events."""
    events = long_history(run.scaled(REPORTS))
    with scratch(run.folder) as folder:
        grow_one(path := folder / "log.db", events)
        yield _beside_peer(run, "log.replay.long", [events], partial(_rate, path, partial(_one_by_one, streams=[1])))


def short(run: Knobs) -> Iterator[Figure]:
    """Many short streams, in no order: read together, and, as the peer does it, one by one."""
    jobs = run.scaled(SHORT_JOBS, 10)
    streams = random.Random(1).sample(range(1, jobs + 1), jobs)
    histories = [history(stream) for stream in streams]
    with scratch(run.folder) as folder:
        grow(path := folder / "log.db", sum(map(len, histories)))
        ways = [partial(_rate, path, partial(way, streams=streams)) for way in (_together, _one_by_one)]
        yield _beside_peer(run, "log.replay.short", histories, *ways)


def _beside_peer(
    run: Knobs, name: str, histories: Sequence[History], candidate: Measure, *one_by_one: Measure
) -> Figure:
    if importlib.util.find_spec("eventsourcing") is None:
        return skipped(name, "events/s", NO_PEER)
    from bench.peer import Peer  # noqa: PLC0415 - only where it is installed

    with scratch(run.folder) as folder, closing(Peer(folder / "peer.db", histories)) as peer:
        rounds = alternate(run, candidate, lambda: _peer_rate(peer.replay, peer.ids), *one_by_one)
    more: dict[str, object] = {"streams": len(histories), "events": sum(map(len, histories))}
    for rates in rounds.others:
        more |= {"one_by_one": median(rates), "one_by_one_ratio": ratio(rates, rounds.floor)}
    return rounds.figure(name, "events/s", more)


async def _together(store: SqliteStore, streams: Sequence[int]) -> int:
    count = 0
    for first in range(0, len(streams), LOADED_AT_ONCE):
        for events in (await store.read_many(streams[first : first + LOADED_AT_ONCE])).values():
            assert isinstance(events, list)
            fold(events)
            count += len(events)
    return count


async def _one_by_one(store: SqliteStore, streams: Sequence[int]) -> int:
    count = 0
    for stream in streams:
        fold(events := await store.read(stream))
        count += len(events)
    return count


def _peer_rate(replay: Callable[[UUID], int], jobs: Sequence[UUID]) -> float:
    began = time.perf_counter()
    return sum(map(replay, jobs)) / (time.perf_counter() - began)


def _rate(path: Path, replay: Replay) -> float:
    async def opened() -> float:
        store = await SqliteStore.open(path)
        try:
            began = time.perf_counter()
            return await replay(store) / (time.perf_counter() - began)
        finally:
            await store.close()

    return asyncio.run(opened())


# ── The whole log, beside a plain SELECT ──────────────────────────────────────────────────────────────────────────────


def whole(run: Knobs) -> Iterator[Figure]:
    """Every stream, by position. What is kept is the state of the jobs that are not over."""
    with scratch(run.folder) as folder:
        grow(path := folder / "log.db", run.scaled(ALL_EVENTS))
        memory_mb: list[float] = []
        _rate(path, partial(_weighed, memory_mb=memory_mb))
        rounds = alternate(run, partial(_rate, path, _whole), partial(_selected, path))
        with closing(sqlite3.connect(path)) as connection:
            (events,) = connection.execute("SELECT COUNT(*) FROM events").fetchone()
    quarter_mb, memory = memory_mb
    more = {"events": events, "memory_mb": memory, "memory_growth": memory / quarter_mb}
    yield rounds.figure("log.replay.all", "events/s", more)


async def _whole(store: SqliteStore, upto: int | None = None) -> int:
    alive: dict[int, Job] = {}
    after = count = 0
    while after < (store.position if upto is None else upto):
        batch = await store.read_all(after, WINDOW)
        for recorded in batch.events:
            job = evolve(alive.get(recorded.stream, NEW), decode(recorded), recorded.at)
            if isinstance(job, Ended):
                alive.pop(recorded.stream, None)
            else:
                alive[recorded.stream] = job
        count += len(batch.events)
        after = batch.upto
    return count


async def _weighed(store: SqliteStore, memory_mb: list[float]) -> int:
    """The most that Python held, over a quarter of the log and over all of it."""
    for upto in (store.position // 4, store.position):
        tracemalloc.start()
        await _whole(store, upto)
        memory_mb.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    return 0


def _selected(path: Path) -> float:
    with closing(sqlite3.connect(path)) as connection:
        cursor = connection.execute("SELECT * FROM events ORDER BY position")
        began, count = time.perf_counter(), 0
        while rows := cursor.fetchmany(WINDOW):
            count += len(rows)
        return count / (time.perf_counter() - began)
