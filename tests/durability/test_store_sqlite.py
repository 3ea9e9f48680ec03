"""What only a log on a disk must stand: strangers with sqlite3, rot, full disks, commits that fail half way."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from rushes.eventstore.base import BadWrite, Damage, Damaged, Stored, StoreError, StoreUnavailable, WrongVersion
from rushes.eventstore.sqlite import Connection, SqliteStore, run
from rushes.eventstore.transactions import Heads, append_batch, look, set_pragmas
from rushes.testing.eventstore import birth, more, new_events, versions, whole_log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rushes.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path)
    yield store
    await store.close()


async def written(path: Path, count: int = 3) -> None:
    store = await SqliteStore.open(path)
    for number in range(count):
        await store.append(birth(f"job_{number}", 2, token=number))
    await store.close()


async def pragma(store: SqliteStore, name: str, value: int | None = None) -> object:
    assert store._db
    sql = f"PRAGMA {name}" if value is None else f"PRAGMA {name} = {value}"
    rows = await run(store._db, lambda connection: connection.execute(sql).fetchall())
    return rows[0][0] if rows else None


# ── Strangers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

TAMPERING = {
    "update": "UPDATE events SET data = '{}' WHERE position = 1",
    "update or replace": "UPDATE OR REPLACE events SET position = 2 WHERE position = 1",
    "delete": "DELETE FROM events WHERE position = 1",
    "delete all": "DELETE FROM events",
    "insert the same position": "INSERT INTO events SELECT 1, 77, 1, type, v, at, data, meta, 1, 1, 1"
    " FROM events LIMIT 1",
    "replace by position": "INSERT OR REPLACE INTO events SELECT 1, 77, 1, type, v, at, data, meta, 1, 1, 1"
    " FROM events LIMIT 1",
    "replace by version": "INSERT OR REPLACE INTO events SELECT NULL, 1, 1, type, v, at, '{}', meta, 1, 1, 1"
    " FROM events LIMIT 1",
    "replace": "REPLACE INTO events SELECT NULL, 1, 1, type, v, at, '{}', meta, 1, 1, 1 FROM events LIMIT 1",
    "upsert": "INSERT INTO events SELECT NULL, 1, 1, type, v, at, '{}', meta, 1, 1, 1 FROM events WHERE position = 1"
    " ON CONFLICT DO UPDATE SET data = '{}'",
}


@pytest.mark.parametrize("sql", TAMPERING.values(), ids=TAMPERING.keys())
async def test_a_stranger_cannot_change_the_log(path: Path, sql: str) -> None:
    await written(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:  # recursive_triggers is off here
        before = stranger.execute("SELECT * FROM events").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            stranger.execute(sql)
        assert stranger.execute("SELECT * FROM events").fetchall() == before
        for (trigger,) in stranger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            stranger.execute(f"DROP TRIGGER {trigger}")
        if sql.startswith(("UPDATE e", "DELETE", "INSERT OR", "REPLACE", "INSERT INTO events SELECT NULL")):
            stranger.execute(sql)  # the control: it was the triggers
            assert stranger.execute("SELECT * FROM events").fetchall() != before


async def test_people_read_the_log_with_names(path: Path) -> None:
    await written(path, 1)
    with closing(sqlite3.connect(path)) as stranger:
        row = stranger.execute("SELECT * FROM log").fetchone()
    at = "2023-11-14 22:13:20.125"
    assert row == (1, "job_0", 1, "take.stored", 1, at, '{"job_0": 0}', None, "default")


async def test_what_another_connection_wrote_is_noticed(store: SqliteStore, path: Path) -> None:
    stream = (await store.append(birth("job_1"))).stream
    stranger = await SqliteStore.open(path)
    await stranger.append(more(stream, 1, token=8))
    await stranger.append(birth("job_2", tenant="acme"))
    with pytest.raises(WrongVersion):
        await store.append(more(stream, 1, token=9))
    assert await store.append(more(stream, 2)) == Stored(stream, 4, 4)
    assert await store.append(birth("job_3", tenant="bold")) == Stored(3, 5, 5)
    await stranger.close()


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_settings_that_keep_the_promise_are_really_set(store: SqliteStore) -> None:
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "recursive_triggers": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "wal_autocheckpoint": 0,
        "busy_timeout": 5_000,
        "fullfsync": 1,
    }
    assert {name: await pragma(store, name) for name in wanted} == wanted
    reading = await run(store._reader, lambda connection: connection.execute("PRAGMA query_only").fetchone())
    assert reading == (1,)


def test_a_setting_that_does_not_hold_is_an_error() -> None:
    with (
        closing(sqlite3.connect(":memory:")) as without_wal,
        pytest.raises(StoreUnavailable, match="journal_mode at memory where wal is needed"),
    ):
        set_pragmas({"journal_mode": "wal"}, without_wal)


async def test_closing_leaves_one_file_and_its_marker(path: Path) -> None:
    await written(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["rushes.db", "rushes.db-marker"]


async def test_every_table_is_strict(path: Path) -> None:
    await written(path)
    with closing(sqlite3.connect(path)) as stranger:
        tables = stranger.execute("SELECT name, strict FROM pragma_table_list WHERE type = 'table'").fetchall()
        assert {name for name, strict in tables if strict} == {"events", "streams", "tenants", "shards", "store"}
        assert stranger.execute("SELECT count(*), sum(fence) FROM shards").fetchone() == (256, 0)


async def test_a_newer_layout_is_refused(path: Path) -> None:
    await written(path)
    with closing(sqlite3.connect(path)) as stranger, stranger:
        stranger.execute("UPDATE store SET value = 2 WHERE key = 'layout'")
    with pytest.raises(StoreError, match="layout 2, and this release knows up to 1"):
        await SqliteStore.open(path)


async def test_somebody_elses_file_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as stranger, stranger:
        stranger.execute("CREATE TABLE cats(name)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not an event log"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await SqliteStore.open(path)


async def test_a_folder_that_is_not_there(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="unable to open"):
        await SqliteStore.open(path.parent / "nowhere" / "rushes.db")


async def test_reading_without_owning(store: SqliteStore, path: Path) -> None:
    await store.append(birth("job_1", 2))
    reader = await SqliteStore.open_readonly(path)
    assert await whole_log(reader) == await whole_log(store)
    with pytest.raises(StoreUnavailable, match="reading only"):
        await reader.append(birth("job_2"))
    await reader.close()
    with pytest.raises(StoreUnavailable):
        await SqliteStore.open_readonly(path.parent / "nothing.db")


async def test_a_reader_does_not_wait_for_a_commit(path: Path) -> None:
    gate = Gate()
    store = await SqliteStore.open(path, factory=gate.connection)
    await store.append(birth("job_1"))
    gate.shut()
    slow = asyncio.ensure_future(store.append(birth("job_2")))
    await asyncio.to_thread(gate.reached.wait, 5)
    assert versions(await store.read(1)) == [1]
    gate.opened.set()
    await slow
    await store.close()


# ── Rot ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

ROT = {
    "data": """data = '{"job_1": 8}'""",
    "data, no text any more": "data = CAST(X'FFFE' AS TEXT)",
    "meta": "meta = ''",
    "type": "type = 'take.lost'",
    "type, no text any more": "type = CAST(X'FFFE' AS TEXT)",
    "v": "v = 2",
    "at": "at = at + 0.001",
    "tenant": "tenant = 2",
    "token": "token = 99",
    "crc": "crc = crc + 1",
}


@pytest.mark.parametrize("rot", ROT.values(), ids=ROT.keys())
async def test_a_changed_event_is_noticed_and_hurts_no_other_stream(path: Path, rot: str) -> None:
    await written(path)
    with closing(sqlite3.connect(path)) as stranger, stranger:
        stranger.execute("DROP TRIGGER events_never_change")
        stranger.execute(f"UPDATE events SET {rot} WHERE stream = 2 AND version = 2")
    store = await SqliteStore.open(path)
    with pytest.raises(Damaged, match=r"Stream 2, version 2 \(position 4\)"):
        await store.read(2)
    everything = await store.read_all(0)
    assert [event.position for event in everything.events] == [1, 2, 3, 5, 6]
    assert (everything.upto, everything.damaged) == (6, [Damage(4, 2, 2)])
    together = await store.read_many([1, 2, 3])
    assert [type(history) for history in together.values()] == [list, Damaged, list]
    assert versions(await store.read(2, 0, 1)) == [1]
    assert versions(await store.read(1)) == versions(await store.read(3)) == [1, 2]
    assert len((await store.read_all(4)).events) == 2
    await store.append(more(1, 2))
    await store.close()


# ── Commits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Gate:
    """Connections whose COMMIT waits at a gate, and which count their commits."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.opened.set()
        self.commits = 0
        gate = self

        class Gated(Connection):
            def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    gate.commits += 1
                    gate.reached.set()
                    gate.opened.wait(10)
                return super().execute(sql, parameters)

        self.connection = Gated

    def shut(self) -> None:
        self.reached.clear()
        self.opened.clear()


class Hasty(Connection):
    """The control: says that it committed, and does so when the next transaction begins."""

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT":
            return self.cursor()
        if sql == "BEGIN IMMEDIATE" and self.in_transaction:
            super().execute("COMMIT")
        return super().execute(sql, parameters)


def failing(outcomes: list[str]) -> type[Connection]:
    """Connections whose next COMMITs fail: `lost` before anything is stored, `stored` behind it."""

    class Failing(Connection):
        def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
            if sql != "COMMIT" or not outcomes:
                return super().execute(sql, parameters)
            super().execute("ROLLBACK" if outcomes.pop(0) == "lost" else "COMMIT")
            raise sqlite3.OperationalError("disk I/O error")

    return Failing


async def is_there_when_acknowledged(path: Path, factory: type[Connection]) -> bool:
    store = await SqliteStore.open(path, factory=factory)
    await store.append(birth("job_1"))
    with closing(sqlite3.connect(path)) as stranger:
        (count,) = stranger.execute("SELECT count(*) FROM events").fetchone()
    await store.close()
    return bool(count)


async def test_what_is_acknowledged_is_committed(path: Path) -> None:
    await written(path, 0)
    assert await is_there_when_acknowledged(path, Connection)


async def test_control_a_hasty_acknowledgement_is_found_out(path: Path) -> None:
    await written(path, 0)
    assert not await is_there_when_acknowledged(path, Hasty)


async def test_nobody_hears_of_an_append_before_its_commit(path: Path) -> None:
    gate = Gate()
    store = await SqliteStore.open(path, factory=gate.connection)
    gate.shut()
    append = asyncio.ensure_future(store.append(birth("job_1")))
    follower = asyncio.ensure_future(store.wait(0))
    await asyncio.to_thread(gate.reached.wait, 5)
    assert not append.done()
    assert not follower.done()
    assert store.position == 0
    gate.opened.set()
    await append
    await follower
    await store.close()


async def test_a_caller_that_leaves_during_the_commit_leaves_a_whole_append(path: Path) -> None:
    gate = Gate()
    store = await SqliteStore.open(path, factory=gate.connection)
    gate.shut()
    append = asyncio.ensure_future(store.append(birth("job_1", 3)))
    await asyncio.to_thread(gate.reached.wait, 5)
    append.cancel()
    await asyncio.wait([append])
    gate.opened.set()
    assert await store.append(birth("job_1", 3)) == Stored(1, 1, 3)
    assert versions(await store.read(1)) == [1, 2, 3]
    await store.close()


async def commits_of(path: Path, writers: int, each: int) -> int:
    gate = Gate()
    store = await SqliteStore.open(path, factory=gate.connection)
    streams = await asyncio.gather(*(store.append(birth(f"job_{n}")) for n in range(writers)))
    gate.commits = 0

    async def writer(stream: int) -> None:
        for version in range(1, each + 1):
            await store.append(more(stream, version))

    await asyncio.gather(*(writer(stored.stream) for stored in streams))
    await store.close()
    return gate.commits


async def test_those_who_wait_together_share_a_commit(path: Path) -> None:
    assert await commits_of(path, writers=100, each=20) <= 21


async def test_control_a_lone_writer_shares_with_nobody(path: Path) -> None:
    assert await commits_of(path, writers=1, each=20) == 20


@pytest.mark.parametrize("outcome", ["lost", "stored"])
async def test_after_a_failed_commit_the_disk_is_asked(path: Path, outcome: str) -> None:
    outcomes: list[str] = []
    store = await SqliteStore.open(path, factory=failing(outcomes))
    await store.append(birth("job_0"))
    outcomes.append(outcome)
    writes = [birth(f"job_{number}", 2, token=number) for number in range(1, 6)]
    answers = await asyncio.gather(*map(store.append, writes), return_exceptions=True)
    kinds = {type(answer) for answer in answers}
    assert kinds == ({StoreUnavailable} if outcome == "lost" else {Stored})
    assert len(await whole_log(store)) == (1 if outcome == "lost" else 11)
    again = await asyncio.gather(*map(store.append, writes))
    assert len(await whole_log(store)) == 11
    assert kinds == {StoreUnavailable} or again == list(answers)
    await store.close()


async def test_transactions_are_plain_functions_and_forget_old_heads(path: Path) -> None:
    await written(path, 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as plain:
        heads = Heads(cached=2)
        for number in range(5):
            append_batch(plain, heads, [birth(f"job_{number}", token=number)])
        again = {Stored(stream, 5 + stream, 5 + stream): more(stream, 1, token=1) for stream in range(1, 6)}
        for stored, write in again.items():
            assert append_batch(plain, heads, [write]).answers == [stored]
        unknown = [more(1, 2), birth("job_9")]
        assert look(plain, heads, [*again.values(), *unknown]) == [*again, None, None]


class Choosy(Connection):
    """Fails at the first poisoned row, with those before it stored: as a constraint does."""

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        for row in parameters:
            if b"poison" in str(row).encode():
                raise sqlite3.IntegrityError("poisoned")
            self.execute(sql, row)
        return self.cursor()


async def test_a_bad_row_fails_alone_however_it_fails(path: Path) -> None:
    await written(path, 0)
    store = await SqliteStore.open(path, factory=Choosy)
    poisoned = replace(birth("job_bad"), events=[*new_events(2), *new_events(1, "poison")])
    numbered = birth("job_worse", token=2**64)  # there is no such number
    together = [birth("job_1"), poisoned, birth("job_2"), numbered, birth("job_3")]
    answers = await asyncio.gather(*map(store.append, together), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Stored, StoreUnavailable, Stored, BadWrite, Stored]
    assert [event.position for event in await whole_log(store)] == [1, 2, 3]
    assert await store.find("job_bad") is None
    assert [stream for stream, _ in await store.open_streams("job")] == [1, 2, 3]
    await store.close()
