"""The log in one SQLite file.

One connection writes and checkpoints, another one reads and never waits for a commit. Both live in aiosqlite's threads,
and whole transactions run there as plain functions: a hop between threads costs more than a row. Those functions take
any connection, assign positions and versions themselves and look at no exception's type, so that a connection with a
faulty disk below it runs the very same code in tests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar, cast

import aiosqlite
import msgspec

from rushes.eventstore.base import (
    Batch,
    Birth,
    Damage,
    Damaged,
    NoStream,
    Recorded,
    StoreClosed,
    Stored,
    StoreUnavailable,
    Stream,
    Write,
    check_size,
)
from rushes.eventstore.follow import Line, Ring, Signal, batch, window
from rushes.eventstore.transactions import (
    Heads,
    Value,
    append_batch,
    look,
    rows_of,
    select_events,
    select_stream,
    select_streams,
    set_up,
    set_up_reader,
)
from rushes.eventstore.writer import Answer, Writer

T = TypeVar("T")

CHECKPOINT_BYTES: Final = 32 * 1024 * 1024  # of log in the WAL, before a checkpoint under load
PAGES_BYTES: Final = 8_192  # what an event dirties beside its own bytes, roughly


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
        db = await _connect(path, factory, set_up, "rwc")
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

    async def read_many(self, streams: Sequence[int]) -> dict[int, list[Recorded] | Damaged]:
        """See EventStore."""
        where = "WHERE stream IN (SELECT value FROM json_each(?)) ORDER BY stream, version"
        events = await self._read(partial(select_events, where=where, values=(_numbers(streams),)))
        found: dict[int, list[Recorded] | Damaged] = {stream: [] for stream in streams}
        for event in events:
            events_of = found[event.stream]
            if isinstance(event, Damage):
                found[event.stream] = Damaged(event)
            elif isinstance(events_of, list):
                events_of.append(event)
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
        return batch(await self._read(partial(select_events, where=where, values=values)), upto)

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
        self._db = await _connect(self.path, self._factory, set_up, "rw")
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
    reader = await _connect(path, Connection, set_up_reader, mode)
    sql = "SELECT value, (SELECT COALESCE(MAX(position), 0) FROM events) FROM store WHERE key = 'epoch'"
    try:
        ((epoch, position),) = await run(reader, partial(rows_of, sql=sql, values=()))
    except BaseException:
        await reader.close()  # its thread would outlive us
        raise
    return reader, (epoch, position)
