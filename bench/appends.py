"""Durable appends through the store, and the same rows through `executemany` alone."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from msgspec import Struct

from bench.figures import flushes_us, scratch, settled
from bench.jobs import OPEN, accepted, birth, stored
from rushes.eventstore.base import NewEvent, Write
from rushes.eventstore.sqlite import SqliteStore
from rushes.eventstore.transactions import set_up

Row: TypeAlias = "tuple[Any, ...]"

INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
BARE: Final = """CREATE TABLE events(position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INT NOT NULL,
  type TEXT NOT NULL, data BLOB NOT NULL, recorded_at REAL NOT NULL, UNIQUE(stream, version))"""
BARE_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)"
TRIGGERS: Final = "SELECT name FROM sqlite_master WHERE type = 'trigger'"


class Pass(Struct, frozen=True):
    """One run of one side."""

    events: int
    took_s: float
    cpu_s: float  # of the whole process, all threads
    batches: Sequence[int] = ()  # events in each transaction
    waits_s: Sequence[float] = ()  # of each append, shortest first

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.took_s

    @property
    def cpu_us(self) -> float:
        """Of processor time per event."""
        return self.cpu_s / self.events * 1e6

    def wait_ms(self, share: float) -> float:
        """How long this share of the appends waited at most."""
        return self.waits_s[min(len(self.waits_s) - 1, int(len(self.waits_s) * share))] * 1e3


class Stopwatch:
    """Wall and processor time since its making."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, events: int, batches: Sequence[int], waits_s: Sequence[float] = ()) -> Pass:
        """What it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        return Pass(events, wall - self._wall, cpu - self._cpu, batches, sorted(waits_s))


# ── The candidate ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def append_all(store: SqliteStore, plans: Sequence[Iterator[Write]]) -> Pass:
    """One writer for each plan, all at the same time; each waits for its append before the next one.

    The bounds of the transactions are the positions that the store tells its watchers, one for each commit.
    """
    positions, waits_s = [store.position], list[float]()

    async def write_all(writes: Iterator[Write]) -> None:
        for write in writes:
            began = time.perf_counter()
            await store.append(write)
            waits_s.append(time.perf_counter() - began)

    unwatch = store.watch(positions.append)
    with settled():
        watch = Stopwatch()
        await asyncio.gather(*map(write_all, plans))
        done = watch.stop(len(waits_s), (), waits_s)
    await asyncio.sleep(0)  # the last commit's call
    unwatch()
    batches = [after - before for before, after in itertools.pairwise(positions)]
    return Pass(done.events, done.took_s, done.cpu_s, batches, done.waits_s)


def plan(stream: int, version: int, appends: int) -> Iterator[Write]:
    """What one writer will append: one event each time, made when it is its turn, as a program does."""
    payload = [_payload(stream)]
    for number in range(version, version + appends):
        yield Write(stream, number, payload, OPEN, (stream << 32) + number)


@cache
def _payload(number: int) -> NewEvent:
    return stored(accepted(number), number)


async def _candidate(path: Path, writers: int, appends: int) -> Pass:
    store = await SqliteStore.open(path)
    try:
        births = [Write(birth(n), 0, [_payload(n)], OPEN, n) for n in range(writers)]
        born = await asyncio.gather(*map(store.append, births))
        return await append_all(store, [plan(one.stream, 1, appends) for one in born])
    finally:
        await store.close()


# ── The floors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def insert_all(connection: sqlite3.Connection, insert: str, rows: Sequence[Row], batches: Sequence[int]) -> Pass:
    """The floor: the same rows in the same transactions, nothing else."""
    bounds = itertools.pairwise(itertools.accumulate(batches, initial=0))
    chunks = [rows[first:after] for first, after in bounds]
    with settled():
        watch = Stopwatch()
        for chunk in chunks:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, chunk)
            connection.execute("COMMIT")
        return watch.stop(len(rows), batches)


def _floor(path: Path, filled: Path, batches: Sequence[int], *, triggers: bool) -> Pass:
    """Into the shipped tables, with what the shipped connection sets."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        make_log(connection, triggers=triggers)
        rows = _copy_all_but_appends(connection, filled, sum(batches))
        done = insert_all(connection, INSERT, rows, batches)
    check_same(path, filled)
    return done


def _copy_all_but_appends(connection: sqlite3.Connection, filled: Path, appends: int) -> list[Row]:
    connection.execute("ATTACH ? AS filled", (str(filled),))
    for table in ("tenants", "streams"):
        connection.execute(f"INSERT INTO {table} SELECT * FROM filled.{table}")  # noqa: S608 - our own two words
    events = connection.execute("SELECT * FROM filled.events ORDER BY position").fetchall()
    connection.execute("DETACH filled")
    connection.executemany(INSERT, events[:-appends])
    return events[-appends:]


def check_same(path: Path, filled: Path) -> None:
    """A floor with other rows would be none."""
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(filled)) as other:
        ours, theirs = (log.execute("SELECT * FROM events ORDER BY position").fetchall() for log in (one, other))
    if ours != theirs:
        raise ValueError(f"The floor wrote {len(ours)} rows, which are not the {len(theirs)} of the candidate.")


def _bare(path: Path, filled: Path, batches: Sequence[int]) -> Pass:
    """Into the least that an event store could be: a text name for the stream, no checksum, no trigger."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = wal", "synchronous = full", "wal_autocheckpoint = 0"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(BARE)
        connection.execute("ATTACH ? AS filled", (str(filled),))
        asked = "e.position, s.name, e.version, e.type, CAST(e.data AS BLOB), e.at"
        rows = connection.execute(
            f"SELECT {asked} FROM filled.events e JOIN filled.streams s ON s.id = e.stream ORDER BY e.position"  # noqa: S608
        ).fetchall()
        connection.execute("DETACH filled")
        appends = sum(batches)
        connection.executemany(BARE_INSERT, rows[:-appends])
        return insert_all(connection, BARE_INSERT, rows[-appends:], batches)


def make_log(connection: sqlite3.Connection, *, triggers: bool) -> None:
    """An empty log, or this log as the one connection that writes; without its triggers on demand."""
    set_up(connection)
    if not triggers:
        for (name,) in connection.execute(TRIGGERS).fetchall():
            connection.execute(f"DROP TRIGGER {name}")


# ── Side by side ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Pair(Struct, frozen=True):
    """The sides of one round, measured one after the other."""

    flushes_us: Sequence[float]
    candidate: Pass
    floor: Pass
    bare: Pass


def pair(folder: Path, writers: int, appends: int, *, triggers: bool = True) -> Pair:
    """One round of `appends` by each of `writers`, each side into an empty file of its own."""
    with scratch(folder) as place:
        filled = place / "candidate.db"
        with closing(sqlite3.connect(filled, isolation_level=None)) as connection:
            make_log(connection, triggers=triggers)
        flushes = flushes_us(place)
        candidate = asyncio.run(_candidate(filled, writers, appends))
        floor = _floor(place / "floor.db", filled, candidate.batches, triggers=triggers)
        return Pair(flushes, candidate, floor, _bare(place / "bare.db", filled, candidate.batches))
