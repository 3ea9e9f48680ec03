"""The log in one SQLite file.

One connection writes and checkpoints, another one reads and never waits for a commit. Both live in aiosqlite's threads,
and whole transactions run there as plain functions: a hop between threads costs more than a row. Those functions take
any connection, assign positions and versions themselves and look at no exception's type, so that a connection with a
faulty disk below it runs the very same code in tests.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar, cast

import aiosqlite
import msgspec
import structlog

from rushes.eventstore.base import (
    Batch,
    Birth,
    Damaged,
    NoStream,
    Recorded,
    StoreClosed,
    Stored,
    StoreError,
    StoreUnavailable,
    Stream,
    Write,
    crc_of,
    size_of,
)
from rushes.eventstore.follow import Ring, Signal, window
from rushes.eventstore.marker import HistoryLost, Keeper, end_of, lost_history, renew_epoch
from rushes.eventstore.transactions import (
    Done,
    Heads,
    Value,
    append_batch,
    checkpoint,
    look,
    remember_release,
    rows_of,
    select_events,
    select_stream,
    select_streams,
    set_up,
    set_up_reader,
)
from rushes.eventstore.writer import Answer, Writer

T = TypeVar("T")

OUTDATED: Final = "sqlite.outdated"
SAFE_SQLITE: Final = (3, 51, 3)  # the first release in which two connections may checkpoint at once
CHECKPOINT_BYTES: Final = 32 * 1024 * 1024  # of log in the WAL, before a checkpoint under load
EVENT_BYTES: Final = 8_192  # of the WAL, until a checkpoint has told
PAGE_BYTES: Final = 4_096
FEW: Final = 100  # events whose share of the WAL says nothing about others'
_log = structlog.get_logger("rushes")


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


async def _lost(path: Path) -> HistoryLost | None:
    try:
        return await asyncio.to_thread(lost_history, path)
    except sqlite3.Error as error:
        raise _trouble(path, error) from error


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
        identity: tuple[str, int, str],
        db: aiosqlite.Connection | None,
        factory: type[Connection] = Connection,
    ) -> None:
        """Use `open` or `open_readonly`."""
        self.path = path
        self.epoch, position, self.release = identity
        self._reader, self._db, self._factory = reader, db, factory
        self._signal, self._ring, self._heads = Signal(position), Ring(), Heads()
        self._writer = Writer(self._commit, self._checkpoint) if db else None
        self._not_in_file, self._event_bytes = 0, EVENT_BYTES
        self._closed = False
        files = (str(path), f"{path}-wal") if db else ()
        self._inodes = {file: _inode(file) for file in files}
        self._keeper: Keeper | None = None
        self.lost: HistoryLost | None = None  # what a log that was opened for reading lacks

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        release: str = "",
        accept_loss: bool = False,
        factory: type[Connection] = Connection,
    ) -> SqliteStore:
        """Own the log in this file; a new one where there is none.

        Args:
            path: the file; its marker stands beside it.
            release: whose events will be written, as in 0.4.0. The log remembers the newest, also when older ones come.
            accept_loss: open the log although it lacks events that it had. It gets a new epoch then.
            factory: makes the connection that writes.

        Raises:
            HistoryLost: it lacks events that it had, and nobody has accepted that. Nothing was changed.
            StoreUnavailable: the disk does not let us.
            StoreError: this is no log, or a newer release's.
        """
        path = Path(path)
        if sqlite3.sqlite_version_info < SAFE_SQLITE:
            _log.warning(OUTDATED, version=sqlite3.sqlite_version, needed=".".join(map(str, SAFE_SQLITE)))
        lost = await _lost(path)
        if lost and not accept_loss:
            raise lost
        db = await _connect(path, factory, set_up, "rwc")
        try:
            if lost:
                await run(db, renew_epoch)
            await run(db, partial(remember_release, release=release))
            keeper = Keeper(path, await run(db, end_of))
            store = cls(path, *await _open_reader(path, "rw"), db, factory)
        except BaseException:
            await db.close()
            raise
        store._keeper = keeper
        if lost:
            _log.warning("loss.accepted", path=str(path), missing=lost.missing, epoch=store.epoch)
            await keeper.write()
        return store

    @classmethod
    async def open_readonly(cls, path: Path | str) -> SqliteStore:
        """Look at the log as it is now, without owning it: nothing can be appended, and `position` stands still."""
        path = Path(path)
        lost = await _lost(path)
        store = cls(path, *await _open_reader(path, "ro"), None)
        store.lost = lost
        return store

    @property
    def position(self) -> int:
        """The last committed position."""
        return self._signal.position

    def append(self, write: Write) -> Awaitable[Stored]:
        """See EventStore. Without events: nothing is written, the answer is where the stream's last event is.

        It is queued, or refused, when this returns: a caller needs no task to go on meanwhile.
        """
        try:
            self._check_open()
            if self._writer is None:
                raise StoreUnavailable(f"The log {self.path} was opened for reading only.")
            size_bytes = size_of(write)
            return self._writer.append(write, size_bytes) if write.events else self._head(write.stream)
        except StoreError as error:
            refused: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    async def read(self, stream: int, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """See EventStore."""
        return await self._read(partial(select_stream, stream=stream, after=after, limit=limit))

    async def read_many(self, streams: Sequence[int]) -> dict[int, list[Recorded] | Damaged]:
        """See EventStore."""
        where = "WHERE stream IN (SELECT value FROM json_each(?)) ORDER BY stream, version"
        read = await self._read(partial(select_events, where=where, values=(_numbers(streams),)))
        found: dict[int, list[Recorded]] = {stream: [] for stream in streams}
        for event in read.events:
            found[event.stream].append(event)
        return {**found, **{damage.stream: Damaged(damage) for damage in reversed(read.damaged)}}

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        """See EventStore."""
        self._check_open()
        after = max(after, 0)
        upto = window(after, limit, self.position)
        if after == upto:
            return Batch([], upto)
        events = self._ring.between(after, upto, tenant, kind)
        if events is not None:
            return Batch(events, upto)
        where, values = _filter(after, upto, tenant, kind)
        return (await self._read(partial(select_events, where=where, values=values))).batch(upto)

    async def find(self, name: str) -> Stream | None:
        """See EventStore."""
        found = await self._read(partial(select_streams, where="WHERE s.name = ?", values=(name,)))
        return found[0] if found else None

    async def streams(self, ids: Sequence[int]) -> dict[int, Stream]:
        """See EventStore."""
        where = "WHERE s.id IN (SELECT value FROM json_each(?))"
        found = await self._read(partial(select_streams, where=where, values=(_numbers(ids),)))
        return {stream.id: stream for stream in found}

    async def open_streams(self, kind: str, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        """See EventStore."""
        sql = "SELECT id, lane FROM streams WHERE kind = ? AND open = 1 AND id > ? ORDER BY id LIMIT ?"
        return await self._read(partial(rows_of, sql=sql, values=(kind, after, -1 if limit is None else limit)))

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
        if self._keeper:
            await self._keeper.close()

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
        (last,) = await self.read(found.id, found.version - 1, 1)  # it may have grown meanwhile
        return Stored(found.id, last.position, last.position)

    async def _commit(self, writes: Sequence[Write]) -> Sequence[Answer]:
        if self._not_in_file * self._event_bytes > CHECKPOINT_BYTES:
            await self._checkpoint()
        try:
            db = self._db or await self._reopen()
            done = await run(db, partial(append_batch, heads=self._heads, writes=writes))
            self._check_files()
        except Exception as error:  # noqa: BLE001 - BEGIN or COMMIT failed, in whatever way: only the disk knows
            return await self._look(writes, error)
        self._publish(done)
        return [_trouble(self.path, a) if isinstance(a, sqlite3.Error) else a for a in done.answers]

    def _publish(self, done: Done) -> None:
        if done.events:
            last = done.events[-1]
            self._ring.put(done.events, done.owners)
            self._signal.advance(last.position)
            if self._keeper:
                self._keeper.note(last.position, crc_of(last))
            self._not_in_file += len(done.events)
        self._signal.advance(self._heads.position)  # what was stored before, and is acknowledged only now

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
        self._check_files()
        self._db = await _connect(self.path, self._factory, set_up, "rw")
        return self._db

    def _check_files(self) -> None:
        """What goes into a file that was deleted, moved or replaced is gone with us."""
        if any(_inode(file) != inode for file, inode in self._inodes.items()):
            raise StoreUnavailable("another file lies under its name")

    async def _let_go(self) -> None:
        old, self._db = self._db, None
        if old:
            with suppress(sqlite3.Error):
                await old.close()

    async def _checkpoint(self, how: str = "PASSIVE") -> None:
        """Move the log from the WAL into the file. May come to nothing: then the WAL holds it a while longer."""
        count, self._not_in_file = self._not_in_file, 0
        if self._db:
            with suppress(sqlite3.Error):
                pages = await run(self._db, partial(checkpoint, how=how))
                self._event_bytes = pages * PAGE_BYTES // count if count > FEW else self._event_bytes


def _inode(path: str) -> tuple[int, int]:
    file = os.stat(path)  # noqa: PTH116 - at every commit, and much quicker than a Path's own
    return file.st_dev, file.st_ino


def _numbers(ids: Sequence[int]) -> str:
    return msgspec.json.encode(ids).decode()


def _filter(after: int, upto: int, tenant: str | None, kind: str | None) -> tuple[str, list[Value]]:
    clauses = {  # a damaged number may name no tenant or stream: it is told to every reader rather than to none
        "position > ?": after,
        "position <= ?": upto,
        "NOT EXISTS (SELECT 1 FROM tenants WHERE id = events.tenant AND name <> ?)": tenant,
        "NOT EXISTS (SELECT 1 FROM streams WHERE id = events.stream AND kind <> ?)": kind,
    }
    asked = {clause: value for clause, value in clauses.items() if value is not None}
    return f"WHERE {' AND '.join(asked)} ORDER BY position", list(asked.values())


async def _open_reader(path: Path, mode: str) -> tuple[aiosqlite.Connection, tuple[str, int, str]]:
    reader = await _connect(path, Connection, set_up_reader, mode)
    sql = (
        "SELECT value, (SELECT COALESCE(MAX(position), 0) FROM events), COALESCE((SELECT value FROM store"
        " WHERE key = 'release'), '') FROM store WHERE key = 'epoch'"
    )
    try:
        (identity,) = await run(reader, partial(rows_of, sql=sql, values=()))
    except BaseException:
        await reader.close()  # its thread would outlive us
        raise
    return reader, identity
