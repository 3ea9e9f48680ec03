"""Makes a golden log: a database as a release wrote it, which every later release must read to the same events.

    python tests/golden/make_log.py NAME        writes NAME.db and NAME.json beside this file

A golden file is made once and never again: a new shape gets a new name.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from rushes.eventstore.base import Birth, EventStore, Head, NewEvent, Recorded, Stream, Write
from rushes.eventstore.marker import marker_path
from rushes.eventstore.sqlite import SqliteStore

OPEN, ENDED = Head(open=True, lane="local/default"), Head(open=False, lane="local/default")


class Line(Struct):
    """An event as the JSON file has it."""

    position: int
    stream: int
    version: int
    type: str
    v: int
    at: float
    data: str
    meta: str | None
    tenant: int
    token: int


class Log(Struct):
    """All that a log says."""

    epoch: str
    position: int
    streams: list[Stream]
    events: list[Line]


def line(event: Recorded) -> Line:
    """The same with texts for bytes."""
    values = msgspec.structs.asdict(event)
    return Line(**{**values, "data": event.data.decode(), "meta": None if event.meta is None else event.meta.decode()})


async def contents(store: EventStore) -> Log:
    """Everything that is in it."""
    events = (await store.read_all(0, 1_000_000)).events
    streams = await store.streams(sorted({event.stream for event in events}))
    return Log(store.epoch, store.position, list(streams.values()), list(map(line, events)))


async def make(path: Path, writes: Sequence[Write], epoch: str = "0000000000000001") -> None:
    """Write the log and, beside it, what it says. `writes` carry their own times and tokens."""
    path.unlink(missing_ok=True)
    store = await SqliteStore.open(path)
    for write in writes:
        await store.append(write)
    await store.close()
    marker_path(path).unlink()  # of the epoch that is written over now
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE store SET value = ? WHERE key = 'epoch'", (epoch,))
    connection.execute("PRAGMA journal_mode = DELETE")  # one file is all there is
    connection.execute("VACUUM")
    connection.close()
    store = await SqliteStore.open_readonly(path)
    said = msgspec.json.format(msgspec.json.encode(await contents(store)), indent=1)
    await store.close()
    path.with_suffix(".json").write_bytes(said + b"\n")


def event(type: str, at: float, data: str, meta: str | None = None, v: int = 1) -> NewEvent:
    """One event, from texts."""
    return NewEvent(type, v, at, data.encode(), None if meta is None else meta.encode())


ENDED_JOB, OPEN_JOB = "job_018bcfe5680077d5b2f0123456789abc", "job_018bcfe5694b7c2aa1000000000000ff"
LOG_V1: Final = (
    Write(
        Birth(ENDED_JOB, "job", "default"),
        0,
        [event("job.requested", 1_700_000_000.0, '{"prompt":"a lake at dawn"}', '{"cmd":"generate","by":"api"}')],
        OPEN,
        4_611_686_018_427_387_904,
    ),
    Write(
        Birth(OPEN_JOB, "job", "acme"),
        0,
        [
            event("job.requested", 1_700_000_000.331, '{"prompt":"湖の夜明け 🎬 \\"dawn\\""}'),
            event("submission.started", 1_700_000_000.332, '{"attempt":1,"send":1}', '{"x":[1,2]}'),
        ],
        OPEN,
        9_223_372_036_854_775_807,
    ),
    Write(
        1,
        1,
        [
            event("generation.finished", 1_700_000_004.25, '{"attempt":1}', v=2),
            event("take.stored", 1_700_000_005.0, '{"index":0}', '{"x":[7]}'),
            event("job.succeeded", 1_700_000_005.001, "{}"),
        ],
        ENDED,
        2,
    ),
    Write(
        Birth("account_acme_2023-11", "account", "acme"),
        0,
        [event("budget.reserved", 1_700_000_000.5, '{"micro_usd":9007199254740993}')],
        Head(open=True, lane=""),
        3,
    ),
    Write(2, 2, [event("submission.accepted", 1_700_000_009.999, '{"handle":{"id":"é"}}')], OPEN, 0),
)

if __name__ == "__main__":
    asyncio.run(make(Path(__file__).with_name(f"{sys.argv[1]}.db"), LOG_V1))
