"""The log's tables, and everything that is done with them, as plain functions over a connection.

They take any connection with `execute` and `executemany`, assign positions and versions themselves and look at no
exception's type, so that a connection of another driver, with a faulty disk below it, runs the very same code in tests.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

from msgspec import Struct
from msgspec.structs import astuple

from rushes.eventstore.base import (
    Birth,
    Damage,
    Fenced,
    Head,
    NoStream,
    Recorded,
    Stored,
    StoreError,
    StoreUnavailable,
    Stream,
    Write,
    checksum,
    release_numbers,
)
from rushes.eventstore.follow import Found, Owner
from rushes.eventstore.writer import Answer, repeat_of

Value: TypeAlias = "int | float | str | bytes | None"

LAYOUT: Final = 1
SHARDS: Final = 256
CACHED_HEADS: Final = 65_536  # always more than one transaction touches

DDL: Final = """
CREATE TABLE events(position INTEGER PRIMARY KEY, stream INT NOT NULL, version INT NOT NULL,
  type TEXT NOT NULL, v INT NOT NULL, at REAL NOT NULL, data TEXT NOT NULL, meta TEXT, tenant INT NOT NULL,
  token INT NOT NULL, crc INT NOT NULL, UNIQUE(stream, version)) STRICT;

CREATE TABLE streams(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, tenant INT NOT NULL,
  lane TEXT NOT NULL, open INT NOT NULL, shard INT NOT NULL) STRICT;

CREATE TABLE tenants(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

CREATE TABLE shards(id INTEGER PRIMARY KEY, fence INT NOT NULL) STRICT;

CREATE TABLE store(key TEXT NOT NULL PRIMARY KEY, value ANY NOT NULL) STRICT;

CREATE TRIGGER events_never_change BEFORE UPDATE ON events
  BEGIN SELECT RAISE(ABORT, 'the log is append-only: an event never changes'); END;

CREATE TRIGGER events_never_go BEFORE DELETE ON events
  BEGIN SELECT RAISE(ABORT, 'the log is append-only: an event is never deleted'); END;

-- OR REPLACE would skip the trigger above on a connection without recursive_triggers.
CREATE TRIGGER events_are_never_replaced BEFORE INSERT ON events
  WHEN EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
    OR EXISTS (SELECT 1 FROM events WHERE stream = NEW.stream AND version = NEW.version)
  BEGIN SELECT RAISE(ABORT, 'the log is append-only: this event exists'); END;

CREATE VIEW log AS
  SELECT e.position, s.name AS stream, e.version, e.type, e.v,
    strftime('%Y-%m-%d %H:%M:%f', e.at, 'unixepoch') AS at, e.data, e.meta, t.name AS tenant
  FROM events e JOIN streams s ON s.id = e.stream JOIN tenants t ON t.id = e.tenant
"""
INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OPENED: Final = "INSERT INTO store VALUES ('opened', 1) ON CONFLICT(key) DO UPDATE SET value = value + 1"
# Bytes, because a rotten one may be no text any more, and must not spoil the reading of its neighbours.
_EVENTS: Final = (
    "SELECT position, stream, version, CAST(type AS BLOB), v, at, CAST(data AS BLOB), CAST(meta AS BLOB), tenant,"
    " token, crc FROM events "
)
_STREAMS: Final = (
    "SELECT s.id, s.name, s.kind, t.name, s.lane, s.open, (SELECT COALESCE(MAX(version), 0) FROM events"
    " WHERE stream = s.id) FROM streams s JOIN tenants t ON t.id = s.tenant "
)
_PRAGMAS: Final[dict[str, str | int]] = {
    "busy_timeout": 5_000,  # milliseconds
    "trusted_schema": 0,
    "cell_size_check": 1,
    "wal_autocheckpoint": 0,
}
_WRITER: Final[dict[str, str | int]] = {
    "journal_mode": "wal",  # first: it may have to wait for the lock
    "synchronous": 2,  # FULL
    "fullfsync": 1,  # has a meaning on macOS only
    "checkpoint_fullfsync": 1,
    "recursive_triggers": 1,
    "journal_size_limit": 64 * 1024 * 1024,
    **_PRAGMAS,
}
_READER: Final[dict[str, str | int]] = {**_PRAGMAS, "query_only": 1}


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_pragmas(pragmas: dict[str, str | int], connection: sqlite3.Connection) -> None:
    """Set them, and see that they hold."""
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")
        (now,) = connection.execute(f"PRAGMA {name}").fetchone()
        if now != value:
            raise StoreUnavailable(f"SQLite keeps {name} at {now} where {value} is needed: use a local disk.")


def set_up(connection: sqlite3.Connection) -> None:
    """Make a connection the one that writes; an empty file becomes a log."""
    new = not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    if not new:
        _check_layout(connection)  # first: a stranger's file is left as it is
    set_pragmas(_WRITER, connection)
    if new:
        _create(connection)
    else:
        _make_durable(connection)


def _make_durable(connection: sqlite3.Connection) -> None:
    """Sync what is there: a process that was killed may have left commits behind that never were."""
    _, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if moved < frames:  # somebody reads an older state, a backup maybe: a commit that writes syncs all before it
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_OPENED)
        connection.execute("COMMIT")


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in DDL.split(";\n\n"):
        connection.execute(statement)
    connection.executemany("INSERT INTO shards VALUES (?, 0)", [(shard,) for shard in range(SHARDS)])
    identity = [("layout", LAYOUT), ("epoch", secrets.token_hex(8))]
    connection.executemany("INSERT INTO store VALUES (?, ?)", identity)
    connection.execute("COMMIT")


def set_up_reader(connection: sqlite3.Connection) -> None:
    """Make a connection one that reads."""
    set_pragmas(_READER, connection)
    _check_layout(connection)


def _check_layout(connection: sqlite3.Connection) -> None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'store'").fetchone():
        raise StoreError("This SQLite file is not an event log.")
    (layout,) = connection.execute("SELECT value FROM store WHERE key = 'layout'").fetchone()
    if layout > LAYOUT:
        raise StoreError(f"The log has layout {layout}, and this release knows up to {LAYOUT}: use a newer one.")


def remember_release(connection: sqlite3.Connection, release: str) -> None:
    """Keep the newest release that owned the log: an older one that comes back can name it."""
    row = connection.execute("SELECT value FROM store WHERE key = 'release'").fetchone()
    if release_numbers(release) > release_numbers(str(row[0]) if row else ""):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR REPLACE INTO store VALUES ('release', ?)", (release,))
        connection.execute("COMMIT")


def checkpoint(connection: sqlite3.Connection, how: str) -> int:
    """Move the log from the WAL into the file, as far as readers let it; the answer is the pages that the WAL had.

    PASSIVE waits for nobody. TRUNCATE is for the end: it empties the WAL, unless somebody goes on reading.
    """
    if how == "TRUNCATE":
        connection.execute("PRAGMA busy_timeout = 100")
    _, pages, _ = connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
    return int(pages)


# ── Appending ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Known(Struct):
    """What the writer remembers of a stream."""

    id: int
    version: int
    tenant: int
    owner: Owner
    head: Head


class Heads:
    """What the writer remembers of the log, so that a version is checked without a question to the disk."""

    def __init__(self, cached: int = CACHED_HEADS) -> None:
        self._cached = cached
        self._seen = -1  # SQLite's count of what other connections committed
        self.position = self.last_stream = 0
        self.tenants: dict[str, int] = {}
        self.fences: dict[int, int] = {}  # where there is another than 0
        self.streams: dict[int, Known] = {}

    def forget(self) -> None:
        """After a rollback nothing here is certain."""
        self._seen = -1
        self.position = 0

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Read it all again if it was forgotten, or if somebody else wrote into the file."""
        (seen,) = connection.execute("PRAGMA data_version").fetchone()
        if seen == self._seen:
            self._let_go_of_old()
            return
        (self.position,) = connection.execute("SELECT COALESCE(MAX(position), 0) FROM events").fetchone()
        (self.last_stream,) = connection.execute("SELECT COALESCE(MAX(id), 0) FROM streams").fetchone()
        self.tenants = dict(connection.execute("SELECT name, id FROM tenants").fetchall())
        self.fences = dict(connection.execute("SELECT id, fence FROM shards WHERE fence > 0").fetchall())
        self.streams.clear()
        self._seen = seen

    def _let_go_of_old(self) -> None:
        if len(self.streams) > self._cached:
            for stream in list(self.streams)[: self._cached // 2]:
                del self.streams[stream]

    def find(self, connection: sqlite3.Connection, stream: int) -> Known:
        """The stream of that number."""
        known = self.streams.get(stream)
        if known is None:
            row = connection.execute(f"{_STREAMS}WHERE s.id = ?", (stream,)).fetchone()
            if row is None:
                raise NoStream(f"There is no stream {stream}.")
            _, _, kind, tenant, lane, is_open, version = row
            head = Head(open=bool(is_open), lane=lane)
            known = self.streams[stream] = Known(stream, version, self.tenants[tenant], Owner(kind, tenant), head)
        return known


class Done(Struct, frozen=True):
    """A transaction's answers, in the order of its appends, and what it added to the log."""

    answers: list[Answer]
    events: list[Recorded]
    owners: list[Owner]  # of the events


def append_batch(connection: sqlite3.Connection, heads: Heads, writes: Sequence[Write]) -> Done:
    """Several appends in one transaction; a bad one fails alone.

    What fails before COMMIT is rolled back and tried again one by one. Where BEGIN or COMMIT itself raises, so does
    this function: nobody can say then what is on the disk but the disk (`look`).
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = _stage(connection, heads, writes)
    except Exception as error:  # noqa: BLE001 - of whatever driver
        heads.forget()
        with suppress(Exception):  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        return Done([error], [], []) if len(writes) == 1 else _one_by_one(connection, heads, writes)
    connection.execute("COMMIT")
    return done


def _one_by_one(connection: sqlite3.Connection, heads: Heads, writes: Sequence[Write]) -> Done:
    alone = [append_batch(connection, heads, [write]) for write in writes]
    events, owners = [event for done in alone for event in done.events], [own for done in alone for own in done.owners]
    return Done([done.answers[0] for done in alone], events, owners)


def _stage(connection: sqlite3.Connection, heads: Heads, writes: Sequence[Write]) -> Done:
    heads.refresh(connection)
    stage = Stage(connection, heads)
    answers = [stage.answer(write) for write in writes]
    stage.flush()
    return Done(answers, stage.events, stage.owners)


def look(connection: sqlite3.Connection, heads: Heads, writes: Sequence[Write]) -> list[Stored | None]:
    """Which of these appends are on the disk?"""
    heads.refresh(connection)
    stage = Stage(connection, heads)
    return [stage.find(write) for write in writes]


class Stage:
    """A transaction under way. Events wait here for one `executemany`."""

    def __init__(self, connection: sqlite3.Connection, heads: Heads) -> None:
        self._connection, self._heads = connection, heads
        self.events: list[Recorded] = []
        self.owners: list[Owner] = []
        self._flushed = 0

    def answer(self, write: Write) -> Answer:
        """Append it, or say why not. Nothing of a refused append is written."""
        try:
            known = self._known(write.stream)
            if self._heads.fences and write.fence < self._heads.fences.get(known.id % SHARDS, 0):
                raise Fenced
            if write.expected == known.version:
                return self._append(write, known)
            return self._repeat(write, known) or self._append(write, known)
        except StoreError as error:
            return error

    def find(self, write: Write) -> Stored | None:
        """Where it is, if it is there."""
        with suppress(StoreError):
            return self._repeat(write, self._known(write.stream))
        return None

    def flush(self) -> None:
        """Hand the waiting rows to SQLite."""
        if self._flushed < len(self.events):
            self._connection.executemany(INSERT, _rows(self.events[self._flushed :]))
            self._flushed = len(self.events)

    def _known(self, stream: int | Birth) -> Known:
        if isinstance(stream, int):
            return self._heads.streams.get(stream) or self._heads.find(self._connection, stream)
        row = self._connection.execute("SELECT id FROM streams WHERE name = ?", (stream.name,)).fetchone()
        if row:
            return self._heads.find(self._connection, row[0])
        head = Head(open=False, lane="")
        return Known(self._heads.last_stream + 1, 0, 0, Owner(stream.kind, stream.tenant), head)

    def _repeat(self, write: Write, known: Known) -> Stored | None:
        return repeat_of(write, known.version, partial(self._present, write, known.id))

    def _present(self, write: Write, stream: int) -> list[Recorded]:
        self.flush()
        return select_stream(self._connection, stream, write.expected, len(write.events))

    def _append(self, write: Write, known: Known) -> Stored:
        if not known.version and not isinstance(write.stream, int):
            self._bear(write.stream, known, write.head)
        elif write.head != known.head:
            row = write.head.open, write.head.lane, known.id
            self._connection.execute("UPDATE streams SET open = ?, lane = ? WHERE id = ?", row)
        known.head = write.head
        stream, version, tenant, token = known.id, known.version, known.tenant, write.token
        position = first = self._heads.position + 1
        for new in write.events:
            version += 1
            event = Recorded(position, stream, version, new.type, new.v, new.at, new.data, new.meta, tenant, token)
            self.events.append(event)
            self.owners.append(known.owner)
            position += 1
        known.version, self._heads.position = version, position - 1
        return Stored(stream, first, position - 1)

    def _bear(self, birth: Birth, known: Known, head: Head) -> None:
        known.tenant = self._tenant(birth.tenant)
        row = known.id, birth.name, birth.kind, known.tenant, head.lane, head.open, known.id % SHARDS
        self._connection.execute("INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._heads.last_stream = known.id
        self._heads.streams[known.id] = known

    def _tenant(self, name: str) -> int:
        tenants = self._heads.tenants
        if name not in tenants:
            self._connection.execute("INSERT INTO tenants VALUES (?, ?)", (len(tenants) + 1, name))
            tenants[name] = len(tenants) + 1
        return tenants[name]


def _rows(events: Sequence[Recorded]) -> Iterator[tuple[Value, ...]]:
    for event in events:
        position, stream, version, name, v, at, data, meta, tenant, token = astuple(event)
        crc = checksum(stream, version, name.encode(), v, at, data, meta, tenant, token)
        text = None if meta is None else meta.decode()
        yield position, stream, version, name, v, at, data.decode(), text, tenant, token, crc


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def select_events(connection: sqlite3.Connection, where: str, values: Sequence[Value]) -> Found:
    """Checked events. All at once: an open cursor would keep a checkpoint waiting."""
    found = Found([], [])
    types = _Types()
    for position, stream, version, name, v, at, data, meta, tenant, token, crc in connection.execute(
        _EVENTS + where, values
    ).fetchall():
        if checksum(stream, version, name, v, at, data, meta, tenant, token) == crc:
            found.events.append(Recorded(position, stream, version, types[name], v, at, data, meta, tenant, token))
        else:
            found.damaged.append(Damage(position, stream, version))
    return found


class _Types(dict[bytes, str]):
    """Each type's name is decoded once, and shared by its events."""

    def __missing__(self, name: bytes) -> str:
        self[name] = decoded = name.decode()
        return decoded


def select_stream(connection: sqlite3.Connection, stream: int, after: int, limit: int | None) -> list[Recorded]:
    """One stream's events above a version. Raises Damaged."""
    where = "WHERE stream = ? AND version > ? ORDER BY version LIMIT ?"
    return select_events(connection, where, (stream, after, -1 if limit is None else max(limit, 0))).whole()


def select_streams(connection: sqlite3.Connection, where: str, values: Sequence[Value]) -> list[Stream]:
    """Rows of streams."""
    rows = connection.execute(_STREAMS + where, values).fetchall()
    return [Stream(*_with_bool(row)) for row in rows]


def _with_bool(row: Sequence[Any]) -> list[Any]:
    return [*row[:5], bool(row[5]), row[6]]


def rows_of(connection: sqlite3.Connection, sql: str, values: Sequence[Value]) -> list[tuple[Any, ...]]:
    """Any other rows."""
    return connection.execute(sql, values).fetchall()
