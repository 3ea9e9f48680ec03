"""What a log must still have: a small file beside it remembers up to where it was durable.

SQLite calls a database whole that has lost its tail: a cut or deleted WAL, an older copy that was put back, another
file under the same name. So the head is remembered outside of it, a little behind and never ahead, and compared when
the log is opened. Losing events is then a decision that somebody takes, and the log gets a new epoch for it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog
from msgspec import Meta, Struct
from msgspec.structs import replace

from rushes.eventstore.base import StoreError
from rushes.eventstore.transactions import select_events, set_up_reader

LARGEST: Final = 2**63 - 1
EVERY_S: Final = 2.0
_log = structlog.get_logger("rushes")


class Marker(Struct, frozen=True, kw_only=True):
    """The head of a log at some moment."""

    epoch: str
    position: Annotated[int, Meta(ge=0, le=LARGEST)]
    crc: int  # of the event there; 0 for an empty log
    written_at: float = 0.0  # seconds since 1970, UTC


class HistoryLost(StoreError):
    """The log lacks events that it had.

    `missing`: how many positions; 0 where its events are others, and cannot be counted against what was there.
    """

    def __init__(self, message: str, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def marker_path(path: Path) -> Path:
    """Where the marker of a log is: rushes.db has rushes.db-marker."""
    return path.with_name(f"{path.name}-marker")


def read_marker(path: Path) -> Marker | None:
    """The marker of a log. None: there is none, or none that can be read, which is logged."""
    try:
        return msgspec.json.decode(marker_path(path).read_bytes(), type=Marker)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.warning("marker.unreadable", path=str(marker_path(path)), detail=str(error))
        return None


def write_marker(path: Path, marker: Marker) -> None:
    """Replace the marker of a log: after a power cut it is the old one or the new one. Raises OSError."""
    target = marker_path(path)
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(msgspec.json.encode(marker))
    sync(part)
    part.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, onto the disk. On macOS a plain fsync stops at the drive's cache."""
    if sys.platform == "win32" and path.is_dir():
        return  # its folders cannot be opened
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        if sys.platform == "darwin":
            import fcntl  # noqa: PLC0415 - there is none on Windows

            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        else:
            os.fsync(handle)
    finally:
        os.close(handle)


class Keeper:
    """Writes the marker of a growing log, at most every `every_s`. A failure is logged, and stops nothing."""

    def __init__(self, path: Path, head: Marker, every_s: float = EVERY_S) -> None:
        """`head`: where the log is now."""
        self._path, self._head, self._every_s = path, head, every_s
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def note(self, position: int, crc: int) -> None:
        """The log is durable up to here. Never call it before that is so."""
        self._head = Marker(epoch=self._head.epoch, position=position, crc=crc)
        if self._timer is None:
            self._wait()

    async def write(self) -> None:
        """Write it now."""
        marker = replace(self._head, written_at=round(time.time(), 3))
        try:
            await asyncio.to_thread(write_marker, self._path, marker)
        except OSError as error:
            _log.warning("marker.failed", path=str(marker_path(self._path)), detail=str(error))

    async def close(self) -> None:
        """Write it a last time."""
        if self._timer:
            self._timer.cancel()
        if self._writing:
            await asyncio.wait([self._writing])
        await self.write()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._writing and not self._writing.done():
            self._wait()  # a slow disk
        else:
            self._writing = asyncio.create_task(self.write(), name="the log's marker")


# ── The comparison ────────────────────────────────────────────────────────────────────────────────────────────────────


def end_of(connection: sqlite3.Connection) -> Marker:
    """Where a log is."""
    ((epoch,),) = connection.execute("SELECT value FROM store WHERE key = 'epoch'").fetchall()
    last = connection.execute("SELECT position, crc FROM events ORDER BY position DESC LIMIT 1").fetchone()
    position, crc = last or (0, 0)
    return Marker(epoch=epoch, position=position, crc=crc)


def lost_history(path: Path) -> HistoryLost | None:
    """What a log lacks of what its marker remembers; None: nothing, or nobody knows.

    It only looks: a WAL that is damaged stays as it is. Raises sqlite3.Error, and StoreError for a file that is no log.
    """
    marker = read_marker(path)  # first: what an owner commits meanwhile only adds
    if marker is None:
        return None
    if not path.exists() or not path.stat().st_size:
        return compare(path, marker, None)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
        empty = not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        if not empty:
            set_up_reader(connection)
        return compare(path, marker, None if empty else connection)


def compare(path: Path, marker: Marker, connection: sqlite3.Connection | None) -> HistoryLost | None:
    """The same for a marker and a connection that are at hand; without a connection the log is not there."""
    head = end_of(connection) if connection else Marker(epoch=marker.epoch, position=0, crc=0)
    if not marker.position:
        return None
    if head.position and head.epoch != marker.epoch:
        return _another(path, f"its epoch is {head.epoch}, and was {marker.epoch}")
    if head.position < marker.position:
        return _shorter(path, marker, head.position)
    if connection and _differs(connection, marker):
        return _another(path, f"position {marker.position} holds another event")
    return None


def _differs(connection: sqlite3.Connection, marker: Marker) -> bool:
    """Whether the marked event is another one. One that is only damaged harms no other stream."""
    if select_events(connection, "WHERE position = ?", (marker.position,)).damaged:
        return False
    return connection.execute("SELECT crc FROM events WHERE position = ?", (marker.position,)).fetchall() != [
        (marker.crc,)
    ]


_WAYS: Final = (
    "Put the missing files back, or restore a backup (`rushes restore`), or accept the loss with accept_loss=True"
    " (`rushes serve --accept-loss`): jobs whose last events are missing may then be sent, and billed, again."
)


def _shorter(path: Path, marker: Marker, position: int) -> HistoryLost:
    missing = marker.position - position
    what = (
        f"{missing} {'position is' if missing == 1 else 'positions are'} missing from the log {path}: it ends at"
        f" {position}, and was durable up to {marker.position}. Its {path.name}-wal may have been cut or deleted, or an"
        " older copy put in its place."
    )
    return HistoryLost(f"{what} {_WAYS}", missing)


def _another(path: Path, why: str) -> HistoryLost:
    what = f"The log {path} has another history than the one that was here: {why}. Another file may have been put here."
    return HistoryLost(f"{what} {_WAYS}", 0)


def renew_epoch(connection: sqlite3.Connection) -> None:
    """Give a log a new epoch: cursors into what it was are told so."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE store SET value = ? WHERE key = 'epoch'", (secrets.token_hex(8),))
    connection.execute("COMMIT")
