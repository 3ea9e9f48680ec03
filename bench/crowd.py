"""Very many jobs in flight: the start that follows a kill -9, the memory they take, and how late their polls are.

A log of so many jobs is built in bulk. Its builder then owns the folder as any process does (lock, marker, list of
jobs, a last commit that is only in the WAL) and is killed. Every measurement is a fresh process, which is killed too,
so the next one finds the folder as the first did: a poll that learns nothing writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog
from msgspec import Struct

from bench.appends import INSERT, make_log
from bench.child import child, tell, until
from bench.figures import Figure, Knobs, flushes_us, median, scratch, skipped
from bench.noop import DONE, NAME, RUNNING, AtOnce, in_flight, known_to, terms, whole_studio
from rushes.actors.actor import KIND
from rushes.actors.codec import encode
from rushes.actors.messages import Wake
from rushes.eventstore.base import Birth, Head, Write, checksum
from rushes.eventstore.follow import follow
from rushes.eventstore.lock import FolderLock
from rushes.eventstore.marker import LARGEST, end_of, sync
from rushes.eventstore.sqlite import SqliteStore
from rushes.eventstore.transactions import DDL, SHARDS
from rushes.units import fresh_job_id
from rushes.views import rows
from rushes.views.jobs import JobsView

Row: TypeAlias = "tuple[Any, ...]"

POLLS_PER_S: Final = 2_500  # that are due, all jobs together: the provider is not the limit
POLLS: Final = 20_000  # in a measurement
PROMPT: Final = "a lake at dawn"
EVENTS: Final = 3  # of each job
UNITS: Final = {"rss_mb": "MB", "first_poll_s": "s", "late_p99_ms": "ms"}
AGO_S: Final = 3_600.0  # when they were accepted
JOBS_AT_ONCE: Final = 20_000  # in one insert
INSERT_STREAM: Final = "INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?)"
TENANT: Final = "default"
STATM: Final = Path("/proc/self/statm")
HEAD: Final = Head(open=True, lane=f"{NAME}/")


# ── The log ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def build(folder: Path, jobs: int, interval_s: float) -> None:
    """A log of so many jobs that the provider has, and the list of them; each is to be asked about every `interval_s`.

    All of them are due.
    """
    path, list_path = folder / "rushes.db", folder / "views.db"
    with closing(_fast(path)) as log, closing(_fast(list_path)) as view:
        make_log(log, triggers=False)
        log.execute("PRAGMA synchronous = OFF")
        log.execute("BEGIN")
        log.execute("INSERT INTO tenants VALUES (1, ?)", (TENANT,))
        rows.set_up(view, end_of(log).epoch, LARGEST)
        view.execute("PRAGMA synchronous = OFF")
        for portion in _portions(jobs, interval_s):
            log.executemany(INSERT_STREAM, portion.streams)
            log.executemany(INSERT, portion.events)
            rows.save(view, portion.listed, portion.events[-1][0])
        for statement in DDL.split(";\n\n"):
            if "CREATE TRIGGER" in statement:
                log.execute(statement)
        log.execute("COMMIT")
        log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sync(path)
    sync(list_path)


def _fast(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = -262144")  # KiB
    return connection


class Portion(Struct, frozen=True):
    """Rows of some jobs."""

    streams: list[Row]
    events: list[Row]
    listed: list[rows.Row]


def _portions(jobs: int, interval_s: float) -> Iterator[Portion]:
    at, held = round(time.time() - AGO_S, 3), terms(interval_s)
    for first in range(1, jobs + 1, JOBS_AT_ONCE):
        portion = Portion([], [], [])
        for number in range(first, min(jobs + 1, first + JOBS_AT_ONCE)):
            name, position = fresh_job_id(at, number), (number - 1) * EVENTS
            portion.streams.append((number, name, KIND, 1, HEAD.lane, HEAD.open, number % SHARDS))
            portion.listed.append(_listed(number, name, at))
            for version, event in enumerate(in_flight(number, name, PROMPT, at, held), 1):
                new = encode(event, at, Wake())
                crc = checksum(number, version, new.type.encode(), new.v, at, new.data, new.meta, 1, number)
                text, meta = new.data.decode(), (new.meta or b"").decode()
                place = position + version, number, version
                portion.events.append((*place, new.type, new.v, at, text, meta, 1, number, crc))
        yield portion


def _listed(number: int, name: str, at: float) -> rows.Row:
    return rows.Row(
        stream=number,
        name=name,
        tenant=TENANT,
        status="running",
        phase="running",
        billed="no",
        provider=NAME,
        model=NAME,
        operation="text-to-video",
        created_at=at,
        updated_at=at,
        version=EVENTS,
    )


async def own(folder: Path, jobs: int, interval_s: float) -> None:
    """Make the folder, add the last of the jobs as any process does, and wait to be killed."""
    build(folder, jobs - 1, interval_s)
    lock = FolderLock.acquire(folder)
    store = await SqliteStore.open(folder / "rushes.db")
    view = await JobsView.open(store, folder / "views.db")
    at = round(time.time() - AGO_S, 3)
    name = fresh_job_id(at, jobs)
    events = [encode(event, at, Wake()) for event in in_flight(jobs, name, PROMPT, at, terms(interval_s))]
    await store.append(Write(Birth(name, KIND, TENANT), 0, events, HEAD, 1))
    await until(lambda: view.position >= store.position)
    tell(owner_of=str(lock.folder))
    await asyncio.Event().wait()


# ── Inside a process that is measured ─────────────────────────────────────────────────────────────────────────────────


class Polls:
    """What the provider sees: which job was asked about, and when."""

    def __init__(self, jobs: int, interval_s: float) -> None:
        self.first_at = 0.0  # of all of them, by the performance counter
        self.count = 0
        self.late_s: list[float] = []  # of those whose time was known: the second ones of their jobs, and later ones
        self._interval_s = interval_s
        self._last = array("d", bytes(8 * (jobs + 1)))  # the last poll of each job, in seconds since 1970

    def __call__(self, number: int) -> None:
        """A poll of this job."""
        if not self.count:
            self.first_at = time.perf_counter()
        self.count += 1
        now, before = time.time(), self._last[number]
        if before:
            self.late_s.append(now - before - self._interval_s)
        self._last[number] = now


async def start(folder: Path, jobs: int, interval_s: float, late: int) -> None:
    """Take up what was left behind, and tell what that took; then how late `late` polls are."""
    polls = Polls(jobs, interval_s)
    empty_mb = rss_mb()
    began = time.perf_counter()
    async with whole_studio(folder, AtOnce(RUNNING, polls)) as studio:
        system = studio._system  # noqa: SLF001 - no door tells it
        await until(lambda: known_to(system) >= jobs)
        taken_up_s = time.perf_counter() - began
        await until(lambda: polls.count >= min(jobs, POLLS))
        tell(
            first_poll_s=polls.first_at - began,
            taken_up_s=taken_up_s,
            rss_mb=rss_mb() - empty_mb,
            empty_mb=empty_mb,
        )
        await until(lambda: bool(polls.late_s))  # they come again
        began_cpu_s, count = time.process_time(), polls.count
        await until(lambda: len(polls.late_s) >= late)
        cpu_us = (time.process_time() - began_cpu_s) / max(1, polls.count - count) * 1e6
        late_ms = sorted(late_s * 1e3 for late_s in polls.late_s)
        tell(
            late_p99_ms=late_ms[len(late_ms) * 99 // 100],
            late_p50_ms=median(late_ms),
            late_most_ms=late_ms[-1],
            cpu_us=cpu_us,
        )


async def finish(folder: Path, jobs: int) -> None:
    """Take up what was left behind, bring all of it to its end, and tell how long that took."""
    began = time.perf_counter()
    async with whole_studio(folder, AtOnce(DONE)) as studio:
        left = jobs
        async for batch in follow(studio.store, jobs * EVENTS):
            left -= sum(event.type == "job.succeeded" for event in batch.events)
            if not left:
                tell(took_s=time.perf_counter() - began)
                return


def rss_mb() -> float:
    """What this process occupies."""
    pages = int(STATM.read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# ── The figures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def in_flight_jobs(run: Knobs, name: str, jobs: int) -> Iterator[Figure]:
    """Memory, the first poll, and how late polls are. The last waits for a whole interval, so it is measured once."""
    if not STATM.exists():
        yield from [
            skipped(f"{name}.{figure}", unit, "memory is read from /proc, and there is none")
            for figure, unit in UNITS.items()
        ]
        return
    jobs = run.scaled(jobs, 100)
    interval_s = jobs / POLLS_PER_S
    rounds: list[dict[str, Any]] = []
    late: dict[str, Any] = {}
    flushes: list[float] = []
    with scratch(run.folder) as folder:
        with child("bench.crowd", "own", folder, jobs, interval_s) as owner:
            owner.hear()
        for number in range(run.rounds):
            flushes += flushes_us(folder)
            last = number == run.rounds - 1
            with child("bench.crowd", "start", folder, jobs, interval_s, min(jobs, POLLS)) as process:
                rounds.append(process.hear())
                late = process.hear() if last else {}
    more = {"jobs": jobs, "empty_mb": _median(rounds, "empty_mb"), "taken_up_s": _median(rounds, "taken_up_s")}
    flush_us = median(flushes)
    for figure in ("rss_mb", "first_poll_s"):
        value, unit = _median(rounds, figure), UNITS[figure]
        yield Figure(
            name=f"{name}.{figure}", value=value, unit=unit, rounds=run.rounds, fsync_p50_us=flush_us, more=more
        )
    more = {**more, "interval_s": interval_s, **late}
    value = late["late_p99_ms"]
    yield Figure(name=f"{name}.late_p99_ms", value=value, unit="ms", rounds=1, fsync_p50_us=flush_us, more=more)


def _median(rounds: list[dict[str, Any]], member: str) -> float:
    return median([each[member] for each in rounds])


def main(how: str, folder: Path, jobs: int, *numbers: str) -> None:
    """What a process of ours does."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    match how, numbers:
        case "own", _:
            asyncio.run(own(folder, jobs, float(numbers[0]) if numbers else 0.0))
        case "start", (interval_s, late):
            asyncio.run(start(folder, jobs, float(interval_s), int(late)))
        case _:
            asyncio.run(finish(folder, jobs))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
