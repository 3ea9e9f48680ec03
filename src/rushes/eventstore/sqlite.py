"""The log in one SQLite file.

One connection writes and checkpoints, another one reads and never waits for a commit. Both live in aiosqlite's threads,
and whole transactions run there as plain functions: a hop between threads costs more than a row. Those functions take
any connection, assign positions and versions themselves and look at no exception's type, so that a connection with a
faulty disk below it runs the very same code in tests.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import aiosqlite
import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from rushes.eventstore.base import (
    Batch,
    Birth,
    Fenced,
    Head,
    NoStream,
    Recorded,
    StoreClosed,
    Stored,
    StoreError,
    StoreUnavailable,
    Stream,
    Write,
    check_size,
    checksum,
)
from rushes.eventstore.follow import Line, Ring, Signal, verified, window
from rushes.eventstore.writer import Answer, Writer, repeat_of

T = TypeVar("T")
Value: TypeAlias = "int | float | str | bytes | None"

LAYOUT: Final = 1
SHARDS: Final = 256
CACHED_HEADS: Final = 65_536  # always more than one transaction touches
CHECKPOINT_BYTES: Final = 32 * 1024 * 1024  # of log in the WAL, before a checkpoint under load
PAGES_BYTES: Final = 8_192  # what an event dirties beside its own bytes, roughly

DDL: Final = """
CREATE TABLE events(position INTEGER PRIMARY KEY AUTOINCREMENT, stream INT NOT NULL, version INT NOT NULL,
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
_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)"
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


# ── Transactions ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Known(Struct):
    """What the writer remembers of a stream."""

    id: int
    version: int
    kind: str
    tenant: int
    tenant_name: str
    head: Head


class Heads:
    """What the writer remembers of the log, so that a version is checked without a question to the disk."""

    def __init__(self, cached: int = CACHED_HEADS) -> None:
        self._cached = cached
        self._seen = -1  # SQLite's count of what other connections committed
        self.position = self.last_stream = 0
        self.tenants: dict[str, int] = {}
        self.fences: dict[int, int] = {}
        self._streams: OrderedDict[int, Known] = OrderedDict()

    def forget(self) -> None:
        """After a rollback nothing here is certain."""
        self._seen = -1

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Read it all again if it was forgotten, or if somebody else wrote into the file."""
        (seen,) = connection.execute("PRAGMA data_version").fetchone()
        if seen == self._seen:
            return
        (self.position,) = connection.execute("SELECT COALESCE(MAX(position), 0) FROM events").fetchone()
        (self.last_stream,) = connection.execute("SELECT COALESCE(MAX(id), 0) FROM streams").fetchone()
        self.tenants = dict(connection.execute("SELECT name, id FROM tenants").fetchall())
        self.fences = dict(connection.execute("SELECT id, fence FROM shards").fetchall())
        self._streams.clear()
        self._seen = seen

    def find(self, connection: sqlite3.Connection, stream: int) -> Known:
        """The stream of that number."""
        known = self._streams.get(stream)
        if known is None:
            row = connection.execute(f"{_STREAMS}WHERE s.id = ?", (stream,)).fetchone()
            if row is None:
                raise NoStream(f"There is no stream {stream}.")
            _, _, kind, tenant, lane, is_open, version = row
            head = Head(open=bool(is_open), lane=lane)
            known = Known(stream, version, kind, self.tenants[tenant], tenant, head)
        self.remember(known)
        return known

    def remember(self, known: Known) -> None:
        """Keep it as the youngest."""
        self._streams[known.id] = known
        self._streams.move_to_end(known.id)
        if len(self._streams) > self._cached:
            self._streams.popitem(last=False)


class Done(Struct, frozen=True):
    """A transaction's answers, in the order of its appends, and what it added to the log."""

    answers: list[Answer]
    lines: list[Line]


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
        return Done([error], []) if len(writes) == 1 else _one_by_one(connection, heads, writes)
    connection.execute("COMMIT")
    return done


def _one_by_one(connection: sqlite3.Connection, heads: Heads, writes: Sequence[Write]) -> Done:
    alone = [append_batch(connection, heads, [write]) for write in writes]
    return Done([done.answers[0] for done in alone], [line for done in alone for line in done.lines])


def _stage(connection: sqlite3.Connection, heads: Heads, writes: Sequence[Write]) -> Done:
    heads.refresh(connection)
    stage = Stage(connection, heads)
    answers = [stage.answer(write) for write in writes]
    stage.flush()
    return Done(answers, stage.lines)


def look(connection: sqlite3.Connection, heads: Heads, writes: Sequence[Write]) -> list[Stored | None]:
    """Which of these appends are on the disk?"""
    heads.refresh(connection)
    stage = Stage(connection, heads)
    return [stage.find(write) for write in writes]


class Stage:
    """A transaction under way. Rows wait here for one `executemany`."""

    def __init__(self, connection: sqlite3.Connection, heads: Heads) -> None:
        self._connection, self._heads = connection, heads
        self.lines: list[Line] = []
        self._rows: list[tuple[Value, ...]] = []

    def answer(self, write: Write) -> Answer:
        """Append it, or say why not. Nothing of a refused append is written."""
        try:
            known = self._known(write.stream)
            if write.fence < self._heads.fences.get(known.id % SHARDS, 0):
                raise Fenced
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
        if self._rows:
            self._connection.executemany(_INSERT, self._rows)
            self._rows = []

    def _known(self, stream: int | Birth) -> Known:
        if isinstance(stream, int):
            return self._heads.find(self._connection, stream)
        row = self._connection.execute("SELECT id FROM streams WHERE name = ?", (stream.name,)).fetchone()
        if row:
            return self._heads.find(self._connection, row[0])
        return Known(self._heads.last_stream + 1, 0, stream.kind, 0, stream.tenant, Head(open=False, lane=""))

    def _repeat(self, write: Write, known: Known) -> Stored | None:
        return repeat_of(write, known.version, partial(self._present, write, known.id))

    def _present(self, write: Write, stream: int) -> list[Recorded]:
        self.flush()
        return select_stream(self._connection, stream, write.expected, len(write.events))

    def _append(self, write: Write, known: Known) -> Stored:
        if isinstance(write.stream, Birth) and not known.version:
            self._bear(write.stream, known, write.head)
        elif write.head != known.head:
            row = write.head.open, write.head.lane, known.id
            self._connection.execute("UPDATE streams SET open = ?, lane = ? WHERE id = ?", row)
        known.head = write.head
        first = self._heads.position + 1
        for new in write.events:
            self._heads.position += 1
            known.version += 1
            where = self._heads.position, known.id, known.version
            self._add(Recorded(*where, new.type, new.v, new.at, new.data, new.meta, known.tenant, write.token), known)
        return Stored(known.id, first, self._heads.position)

    def _add(self, event: Recorded, known: Known) -> None:
        values = astuple(event)
        self._rows.append((*values, checksum(*values[1:])))
        self.lines.append(Line(event, known.kind, known.tenant_name))

    def _bear(self, birth: Birth, known: Known, head: Head) -> None:
        known.tenant = self._tenant(birth.tenant)
        row = known.id, birth.name, birth.kind, known.tenant, head.lane, head.open, known.id % SHARDS
        self._connection.execute("INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._heads.last_stream = known.id
        self._heads.remember(known)

    def _tenant(self, name: str) -> int:
        tenants = self._heads.tenants
        if name not in tenants:
            self._connection.execute("INSERT INTO tenants VALUES (?, ?)", (len(tenants) + 1, name))
            tenants[name] = len(tenants) + 1
        return tenants[name]


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def select_events(connection: sqlite3.Connection, where: str, values: Sequence[Value]) -> list[Recorded]:
    """Verified events. All at once: an open cursor would keep a checkpoint waiting."""
    rows = connection.execute(_EVENTS + where, values).fetchall()
    return [verified(_recorded(row), row[10]) for row in rows]


def select_stream(connection: sqlite3.Connection, stream: int, after: int, limit: int | None) -> list[Recorded]:
    """One stream's events above a version."""
    where = "WHERE stream = ? AND version > ? ORDER BY version LIMIT ?"
    return select_events(connection, where, (stream, after, -1 if limit is None else max(limit, 0)))


def _recorded(row: Sequence[Any]) -> Recorded:
    values = [*row[:10]]
    values[3] = row[3].decode(errors="replace")
    return Recorded(*values)


def select_streams(connection: sqlite3.Connection, where: str, values: Sequence[Value]) -> list[Stream]:
    """Rows of streams."""
    rows = connection.execute(_STREAMS + where, values).fetchall()
    return [Stream(*_with_bool(row)) for row in rows]


def _with_bool(row: Sequence[Any]) -> list[Any]:
    return [*row[:5], bool(row[5]), row[6]]


def rows_of(connection: sqlite3.Connection, sql: str, values: Sequence[Value]) -> list[tuple[Any, ...]]:
    """Any other rows."""
    return connection.execute(sql, values).fetchall()


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Call(Generic[T]):
    """A function on its way into a connection's thread, dressed as the parameters of a statement."""

    def __init__(self, function: Callable[[sqlite3.Connection], T]) -> None:
        self._function = function
        self.results: list[T] = []

    def __iter__(self) -> Iterator[Value]:
        return iter(())

    def run(self, connection: sqlite3.Connection) -> None:
        """Call it; in the connection's thread."""
        self.results.append(self._function(connection))


class Connection(sqlite3.Connection):
    """A connection whose `execute` also runs a Call, which is how a function gets into aiosqlite's thread."""

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        """See sqlite3."""
        if isinstance(parameters, Call):
            parameters.run(self)
            return self.cursor()
        return super().execute(sql, cast("Sequence[Value]", parameters))


async def run(connection: aiosqlite.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
    """Run a function in the connection's own thread, in one hop. Once begun it ends, whoever goes away."""
    call = Call(function)
    await connection.execute_fetchall("", call)
    return call.results[0]


async def _connect(
    path: Path, factory: type[Connection], setup: Callable[[sqlite3.Connection], None], mode: str
) -> aiosqlite.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        sqlite3.connect(uri, uri=True).close()  # aiosqlite lets go of its thread without waiting where this fails
        connection = await aiosqlite.connect(uri, uri=True, factory=factory, isolation_level=None)
        try:
            await run(connection, setup)
        except BaseException:
            await connection.close()
            raise
    except sqlite3.Error as error:
        raise _trouble(path, error) from error
    return connection


def _set(pragmas: dict[str, str | int], connection: sqlite3.Connection) -> None:
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")
        (now,) = connection.execute(f"PRAGMA {name}").fetchone()
        if now != value:
            raise StoreUnavailable(f"SQLite keeps {name} at {now} where {value} is needed: use a local disk.")


def _set_up(connection: sqlite3.Connection) -> None:
    new = not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    if not new:
        _check_layout(connection)  # first: a stranger's file is left as it is
    _set(_WRITER, connection)
    if new:
        _create(connection)


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in DDL.split(";\n\n"):
        connection.execute(statement)
    connection.executemany("INSERT INTO shards VALUES (?, 0)", [(shard,) for shard in range(SHARDS)])
    identity = [("layout", LAYOUT), ("epoch", secrets.token_hex(8))]
    connection.executemany("INSERT INTO store VALUES (?, ?)", identity)
    connection.execute("COMMIT")


def _set_up_reader(connection: sqlite3.Connection) -> None:
    _set(_READER, connection)
    _check_layout(connection)


def _check_layout(connection: sqlite3.Connection) -> None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'store'").fetchone():
        raise StoreError("This SQLite file is not an event log.")
    (layout,) = connection.execute("SELECT value FROM store WHERE key = 'layout'").fetchone()
    if layout > LAYOUT:
        raise StoreError(f"The log has layout {layout}, and this release knows up to {LAYOUT}: use a newer one.")


def _trouble(path: Path, error: Exception) -> StoreUnavailable:
    trouble = StoreUnavailable(f"The log {path} cannot be used at the moment ({error}): see to the disk and try again.")
    trouble.__cause__ = error
    return trouble


# ── The store ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class SqliteStore:
    """An event store in one file: WAL, synchronous=FULL, group commit."""

    def __init__(
        self,
        path: Path,
        reader: aiosqlite.Connection,
        identity: tuple[str, int],
        db: aiosqlite.Connection | None,
        factory: type[Connection] = Connection,
    ) -> None:
        """Use `open` or `open_readonly`."""
        self.path = path
        self.epoch, position = identity
        self._reader, self._db, self._factory = reader, db, factory
        self._signal, self._ring, self._heads = Signal(position), Ring(), Heads()
        self._writer = Writer(self._commit, self._checkpoint) if db else None
        self._wal_bytes = 0
        self._closed = False

    @classmethod
    async def open(cls, path: Path | str, *, factory: type[Connection] = Connection) -> SqliteStore:
        """Own the log in this file; a new one where there is none. `factory` makes the connection that writes."""
        path = Path(path)
        db = await _connect(path, factory, _set_up, "rwc")
        try:
            return cls(path, *await _open_reader(path, "rw"), db, factory)
        except BaseException:
            await db.close()
            raise

    @classmethod
    async def open_readonly(cls, path: Path | str) -> SqliteStore:
        """Look at the log as it is now, without owning it: nothing can be appended, and `position` stands still."""
        path = Path(path)
        return cls(path, *await _open_reader(path, "ro"), None)

    @property
    def position(self) -> int:
        """The last committed position."""
        return self._signal.position

    async def append(self, write: Write) -> Stored:
        """See EventStore. Without events: nothing is written, the answer is where the stream's last event is."""
        self._check_open()
        if self._writer is None:
            raise StoreUnavailable(f"The log {self.path} was opened for reading only.")
        check_size(write)
        return await self._writer.append(write) if write.events else await self._head(write.stream)

    async def read(self, stream: int, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """See EventStore."""
        return await self._read(partial(select_stream, stream=stream, after=after, limit=limit))

    async def read_many(self, streams: Sequence[int]) -> dict[int, list[Recorded]]:
        """See EventStore. One damaged event spoils the whole answer: read its neighbours one by one then."""
        where = "WHERE stream IN (SELECT value FROM json_each(?)) ORDER BY stream, version"
        events = await self._read(partial(select_events, where=where, values=(_numbers(streams),)))
        found: dict[int, list[Recorded]] = {stream: [] for stream in streams}
        for event in events:
            found[event.stream].append(event)
        return found

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        """See EventStore."""
        self._check_open()
        after = max(after, 0)
        upto = window(after, limit, self.position)
        lines = self._ring.between(after, upto)
        if lines is not None:
            return Batch([line.event for line in lines if line.matches(tenant, kind)], upto)
        where, values = _filter(after, upto, tenant, kind)
        return Batch(await self._read(partial(select_events, where=where, values=values)), upto)

    async def find(self, name: str) -> Stream | None:
        """See EventStore."""
        found = await self._read(partial(select_streams, where="WHERE s.name = ?", values=(name,)))
        return found[0] if found else None

    async def streams(self, ids: Sequence[int]) -> dict[int, Stream]:
        """See EventStore."""
        where = "WHERE s.id IN (SELECT value FROM json_each(?))"
        found = await self._read(partial(select_streams, where=where, values=(_numbers(ids),)))
        return {stream.id: stream for stream in found}

    async def newest(self, kind: str, tenant: str, limit: int, *, before: int | None = None) -> list[Stream]:
        """See EventStore."""
        where = "WHERE s.id < ? AND s.kind = ? AND t.name = ? ORDER BY s.id DESC LIMIT ?"
        values = (_BEYOND if before is None else before, kind, tenant, max(limit, 0))
        return await self._read(partial(select_streams, where=where, values=values))

    async def open_streams(self, kind: str) -> list[tuple[int, str]]:
        """See EventStore."""
        sql = "SELECT id, lane FROM streams WHERE kind = ? AND open = 1 ORDER BY id"
        return await self._read(partial(rows_of, sql=sql, values=(kind,)))

    async def wait(self, after: int) -> None:
        """See EventStore."""
        await self._signal.wait(after)

    def watch(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """See EventStore."""
        return self._signal.watch(callback)

    async def close(self) -> None:
        """See EventStore."""
        if self._closed:
            return
        self._closed = True
        if self._writer:
            await self._writer.close()
        self._signal.close()
        await self._reader.close()
        await self._checkpoint("TRUNCATE")
        await self._let_go()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("The store is closed.")

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        try:
            return await run(self._reader, function)
        except sqlite3.Error as error:
            raise _trouble(self.path, error) from error

    async def _head(self, stream: int | Birth) -> Stored:
        found = (
            await self.find(stream.name) if isinstance(stream, Birth) else (await self.streams([stream])).get(stream)
        )
        if found is None:
            raise NoStream(f"There is no stream {stream}; a stream begins with its first event.")
        (last,) = await self.read(found.id, after=found.version - 1)
        return Stored(found.id, last.position, last.position)

    async def _commit(self, writes: Sequence[Write]) -> Sequence[Answer]:
        if self._wal_bytes > CHECKPOINT_BYTES:
            await self._checkpoint()
        try:
            db = self._db or await self._reopen()
            done = await run(db, partial(append_batch, heads=self._heads, writes=writes))
        except Exception as error:  # noqa: BLE001 - BEGIN or COMMIT failed, in whatever way: only the disk knows
            return await self._look(writes, error)
        self._publish(done.lines)
        return [_trouble(self.path, a) if isinstance(a, sqlite3.Error) else a for a in done.answers]

    def _publish(self, lines: Sequence[Line]) -> None:
        if lines:
            self._ring.put(lines)
            self._signal.advance(lines[-1].event.position)
            self._wal_bytes += sum(PAGES_BYTES + len(line.event.data) for line in lines)

    async def _look(self, writes: Sequence[Write], error: Exception) -> Sequence[Answer]:
        try:
            found = await run(await self._reopen(), partial(look, heads=self._heads, writes=writes))
        except Exception:  # noqa: BLE001 - not even that: the next append tries again
            found = [None] * len(writes)
        self._signal.advance(self._heads.position)
        return [answer or _trouble(self.path, error) for answer in found]

    async def _reopen(self) -> aiosqlite.Connection:
        await self._let_go()
        self._heads = Heads()
        self._db = await _connect(self.path, self._factory, _set_up, "rw")
        return self._db

    async def _let_go(self) -> None:
        old, self._db = self._db, None
        if old:
            with suppress(sqlite3.Error):
                await old.close()

    async def _checkpoint(self, how: str = "PASSIVE") -> None:
        """Move the log from the WAL into the file. May come to nothing: then the WAL holds it a while longer."""
        if self._db:
            with suppress(sqlite3.Error):
                await run(self._db, partial(rows_of, sql=f"PRAGMA wal_checkpoint({how})", values=()))
        self._wal_bytes = 0


_BEYOND: Final = 2**63 - 1


def _numbers(ids: Sequence[int]) -> str:
    return msgspec.json.encode(ids).decode()


def _filter(after: int, upto: int, tenant: str | None, kind: str | None) -> tuple[str, list[Value]]:
    clauses = {
        "position > ?": after,
        "position <= ?": upto,
        "tenant = (SELECT id FROM tenants WHERE name = ?)": tenant,
        "(SELECT kind FROM streams WHERE id = events.stream) = ?": kind,
    }
    asked = {clause: value for clause, value in clauses.items() if value is not None}
    return f"WHERE {' AND '.join(asked)} ORDER BY position", list(asked.values())


async def _open_reader(path: Path, mode: str) -> tuple[aiosqlite.Connection, tuple[str, int]]:
    reader = await _connect(path, Connection, _set_up_reader, mode)
    sql = "SELECT value, (SELECT COALESCE(MAX(position), 0) FROM events) FROM store WHERE key = 'epoch'"
    try:
        ((epoch, position),) = await run(reader, partial(rows_of, sql=sql, values=()))
    except BaseException:
        await reader.close()  # its thread would outlive us
        raise
    return reader, (epoch, position)
