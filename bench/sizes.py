"""Growth: the same work on a small log and on large ones."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from bench.appends import INSERT, Pass, append_all, insert_all, make_log, plan
from bench.figures import Figure, Knobs, Rounds, flushes_us, median, ratio, scratch, skipped
from bench.jobs import grow
from rushes.eventstore.sqlite import SqliteStore

SIZES: Final = {"100k": 100_000, "1m": 1_000_000, "3m": 3_000_000}
NIGHTLY_SIZES: Final = {"10m": 10_000_000}
EVENT_BYTES: Final = 500  # on disk, with its index and some room for the WAL
WRITERS: Final = 100
APPENDS: Final = 25  # by each of them in a round: the log must stay about the size that it is
READS: Final = 300


class Log:
    """A log of one size, its twin for the floor, and what was measured on them."""

    def __init__(self, name: str, path: Path, twin: Path) -> None:
        self.name, self.path, self.twin = name, path, twin
        with closing(sqlite3.connect(path)) as connection:
            (self.events,) = connection.execute("SELECT MAX(position) FROM events").fetchone()
            (self._streams,) = connection.execute("SELECT MAX(id) FROM streams").fetchone()
        self.event_bytes = path.stat().st_size / self.events
        self.rounds = Rounds([], [], [], [])
        self.opens_ms: list[float] = []
        self.reads_us: list[float] = []

    def measure(self, rng: random.Random) -> None:
        """One round: open, append and read; and the same appends into the twin."""
        self.rounds.flushes_us.extend(flushes_us(self.path.parent))
        candidate = asyncio.run(self._candidate(rng))
        self.rounds.candidate.append(candidate.rate)
        self.rounds.floor.append(self._floor(candidate).rate)

    async def _candidate(self, rng: random.Random) -> Pass:
        began = time.perf_counter()
        store = await SqliteStore.open(self.path)
        self.opens_ms.append((time.perf_counter() - began) * 1e3)
        try:
            written = await store.streams(self._any_streams(rng, WRITERS))
            done = await append_all(store, [plan(stream.id, stream.version, APPENDS) for stream in written.values()])
            for stream in self._any_streams(rng, READS):
                began = time.perf_counter()
                await store.read(stream)
                self.reads_us.append((time.perf_counter() - began) * 1e6)
            return done
        finally:
            await store.close()

    def _any_streams(self, rng: random.Random, count: int) -> Sequence[int]:
        return rng.sample(range(1, self._streams + 1), min(count, self._streams))

    def _floor(self, candidate: Pass) -> Pass:
        with closing(sqlite3.connect(self.path)) as connection:
            newest = "SELECT * FROM events ORDER BY position DESC LIMIT ?"
            rows = connection.execute(newest, (candidate.events,)).fetchall()[::-1]
        with closing(sqlite3.connect(self.twin, isolation_level=None)) as connection:
            make_log(connection, triggers=True)
            return insert_all(connection, INSERT, rows, candidate.batches)

    def figure(self, smallest: Log) -> Figure:
        """Its appends, with how everything grew against the smallest log."""
        mine, theirs = self._medians(), smallest._medians()
        growth = {f"{name}_growth": value / theirs[name] for name, value in mine.items()}
        more = {"events": self.events, "event_bytes": self.event_bytes, **mine, **growth}
        return self.rounds.figure(f"log.size.{self.name}", "events/s", more)

    def _medians(self) -> dict[str, float]:
        return {
            "append_ratio": ratio(self.rounds.candidate, self.rounds.floor),
            "open_ms": median(self.opens_ms),
            "read_p50_us": median(self.reads_us),
        }


def sizes(run: Knobs) -> Iterator[Figure]:
    """Every size in every round, so that what drifts does so for all of them."""
    with scratch(run.folder) as folder:
        logs: list[Log] = []
        for name, events in (SIZES | (NIGHTLY_SIZES if run.nightly else {})).items():
            if reason := no_room(run.scaled(events), shutil.disk_usage(folder).free):
                yield skipped(f"log.size.{name}", "events/s", reason)
            else:
                logs.append(_build(folder, name, run.scaled(events), logs))
        rng = random.Random(1)
        for _ in range(run.rounds):
            for log in logs:
                log.measure(rng)
        yield from [log.figure(logs[0]) for log in logs]


def no_room(events: int, free_bytes: int) -> str | None:
    """Why a log of so many events cannot be built, if it cannot."""
    needed_bytes = 2 * events * EVENT_BYTES
    if needed_bytes <= free_bytes:
        return None
    return f"two such logs need {needed_bytes:,} bytes, and {free_bytes:,} are free: give another BENCH_DIR"


def _build(folder: Path, name: str, events: int, smaller: Sequence[Log]) -> Log:
    path, twin = folder / f"{name}.db", folder / f"{name}.twin.db"
    if smaller:
        shutil.copyfile(smaller[-1].path, path)
    grow(path, events)
    shutil.copyfile(path, twin)
    with twin.open("rb") as file:
        os.fsync(file.fileno())  # not while something is measured
    return Log(name, path, twin)
