"""The list of jobs: a follower of the log that keeps views.db, and the same list for those who own nothing.

The file holds nothing of its own. Whatever is wrong with it (damaged, of another log, of another release), it is
thrown away and made again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite
import structlog

from rushes.eventstore.base import EventStore
from rushes.eventstore.follow import Signal
from rushes.eventstore.sqlite import Connection, run
from rushes.faults import Unavailable
from rushes.video import JobsQuery, ListPlace
from rushes.views.fold import Fold
from rushes.views.rows import checkpoint, count_phases, save, select_page, set_up, set_up_copy

T = TypeVar("T")

PATIENCE_S: Final = 0.25  # how long a list waits for what has happened by now
REST_S: Final = 1.0  # how far behind the rows may be while nobody asks
RETRY_S: Final = 0.5
# The disk's trouble, or another process's: the file itself may be good.
TROUBLE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
}
_log = structlog.get_logger("rushes")


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _connect(
    path: Path | str, set_up: Callable[[sqlite3.Connection], int], factory: type[Connection] = Connection
) -> tuple[aiosqlite.Connection, int]:
    """A connection with a thread of its own, and what its setup answered. The path "" is a file that nobody sees."""
    sqlite3.connect(path, uri=True).close()  # aiosqlite lets go of its thread without waiting where this fails
    db = await aiosqlite.connect(path, uri=True, factory=factory, isolation_level=None)
    try:
        return db, await run(db, set_up)
    except BaseException:
        await db.close()
        raise


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _blames_file(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, sqlite3.Error | TypeError) and code not in TROUBLE


def _discard(path: Path) -> None:
    """Remove the file, with what belongs to it: an old journal would be rolled back into a new file."""
    for end in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + end).unlink(missing_ok=True)


# ── the owner's ───────────────────────────────────────────────────────────────────────────────────────────────────────


class JobsView:
    """The owner's list: follows the log, and writes rows at least once a second, or at once where somebody asks."""

    def __init__(self, store: EventStore, path: Path, factory: type[Connection] = Connection) -> None:
        """Use `open`."""
        self._store, self._path, self._factory = store, path, factory
        self._db: aiosqlite.Connection | None = None
        self._fold, self._reached = Fold(store), Signal()
        self._opening = asyncio.Lock()  # a connection that is being made must not be torn down
        self._asked, self._news = asyncio.Event(), asyncio.Event()
        self._trouble: Exception | None = None  # that a reader has met
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, store: EventStore, path: Path | str, *, factory: type[Connection] = Connection) -> JobsView:
        """Begin to follow. Where views.db cannot be used, the rows live as long as the process."""
        view = cls(store, Path(path), factory)
        await view._open()
        view._task = asyncio.create_task(view._follow(), name="the list of jobs")
        return view

    @property
    def position(self) -> int:
        """Up to which position of the log the rows speak."""
        return self._reached.position

    async def page(self, query: JobsQuery, tenant: str, behind: ListPlace | None) -> tuple[list[ListPlace], bool]:
        """The places of the jobs behind a place, one more than asked for where there are more; and whether it is stale.

        Stale: what had happened when it was asked could not be taken in within 250 ms.

        Raises:
            Unavailable: views.db was damaged under our hands, and is being made again.
        """
        stale = not await self._reach(self._store.position)
        return await self._read(partial(select_page, query=query, tenant=tenant, behind=behind)), stale

    async def by_phase(self) -> dict[str, int]:
        """See JobList; what could not be taken in within 250 ms is not counted yet."""
        await self._reach(self._store.position)
        return await self._read(count_phases)

    async def _read(self, select: Callable[[sqlite3.Connection], T]) -> T:
        db = self._db
        try:
            if db is not None:
                return await run(db, select)
        except Exception as error:  # noqa: BLE001 - it is the follower's to judge
            if db is self._db:
                self._trouble = error
                self._wake()
        raise Unavailable("The list of jobs is being made again from the log: ask again in a moment.")

    async def close(self) -> None:
        """Stop following. To be called before the store is closed."""
        async with self._opening:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
            await self._let_go()

    # ── following ──

    async def _reach(self, position: int) -> bool:
        self._asked.set()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._reached.wait(position - 1)
        except TimeoutError:
            return False
        return True

    async def _follow(self) -> None:
        stop = self._store.watch(lambda _: self._news.set())
        try:
            while True:
                if self.position >= self._store.position:
                    await self._news.wait()
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(REST_S):
                        await self._asked.wait()
                self._asked.clear()
                await self._catch_up()
        finally:
            stop()

    async def _catch_up(self) -> None:
        try:
            async with aclosing(self._fold.portions(self.position, self._store.position)) as portions:
                async for rows, upto in portions:
                    self._complain()
                    assert self._db is not None
                    await run(self._db, partial(save, rows=rows, position=upto))
                    self._reached.advance(upto)
            self._complain()
        except Exception as error:  # noqa: BLE001 - the follower outlives whatever it meets
            await self._start_over(error)
            await asyncio.sleep(RETRY_S)

    def _complain(self) -> None:
        """Raise what a reader has met."""
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    def _wake(self) -> None:
        self._asked.set()
        self._news.set()

    # ── the file ──

    async def _start_over(self, error: Exception) -> None:
        """Believe nothing that is in memory; and where the file is to blame, not the file either."""
        _log.warning("view.failed", view=str(self._path), error=type(error).__name__, detail=str(error))
        async with self._opening:
            self._reached.position = 0  # lists wait
            await self._let_go()
            self._trouble = None
            if _blames_file(error):
                _discard(self._path)
            await self._open()
            self._wake()

    async def _open(self) -> None:
        """The file as it is; else a new one; else one that nobody sees."""
        set_up_ours = partial(set_up, epoch=self._store.epoch, head=self._store.position)
        for path in (uri := _uri(self._path, "rwc"), uri, ""):
            try:
                self._db, position = await _connect(path, set_up_ours, self._factory)
            except (sqlite3.Error, TypeError) as error:  # TypeError: a checkpoint that holds something else
                _log.warning("view.failed", view=str(self._path), error=type(error).__name__, detail=str(error))
                if _blames_file(error):
                    _discard(self._path)
            else:
                self._fold, self._reached.position = Fold(self._store), position
                self._asked.set()
                return

    async def _let_go(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                await db.close()


# ── everybody's ───────────────────────────────────────────────────────────────────────────────────────────────────────


class ReadonlyView:
    """The list for those who do not own the folder: views.db as far as it goes, then the log. It writes nothing there.

    Every question costs as much as the log has grown since its owner last wrote views.db.
    """

    def __init__(self, store: EventStore, path: Path | None = None) -> None:
        """`path`: of views.db; it may be missing, or not fit."""
        self._store, self._path = store, path

    async def page(self, query: JobsQuery, tenant: str, behind: ListPlace | None) -> tuple[list[ListPlace], bool]:
        """See JobsView; never stale."""
        select = partial(select_page, query=query, tenant=tenant, behind=behind)
        if self._path is not None and self._path.is_file():
            try:
                return await self._page(_uri(self._path, "ro"), select), False
            except (sqlite3.Error, TypeError) as error:
                _log.info("view.passed_over", view=str(self._path), detail=str(error))
        return await self._page("", select), False

    async def by_phase(self) -> dict[str, int]:
        """None: nobody asks who only looks."""
        return {}

    async def _page(self, uri: str, select: Callable[[sqlite3.Connection], list[ListPlace]]) -> list[ListPlace]:
        db, position = await self._opened(uri)
        try:
            async with aclosing(Fold(self._store).portions(position, self._store.position)) as portions:
                async for rows, upto in portions:
                    await run(db, partial(save, rows=rows, position=upto))
            return await run(db, select)
        finally:
            await db.close()

    async def _opened(self, uri: str) -> tuple[aiosqlite.Connection, int]:
        """The file itself where it is up to date; else a copy that nobody sees."""
        epoch, head = self._store.epoch, self._store.position
        if not uri:
            return await _connect("", partial(set_up, epoch=epoch, head=head))
        db, position = await _connect(uri, partial(checkpoint, epoch=epoch, head=head))
        if position == head:
            return db, position
        await db.close()
        return await _connect("", partial(set_up_copy, uri=uri, epoch=epoch, head=head))
