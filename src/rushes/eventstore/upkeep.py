"""The upkeep of a log: is it whole, a copy of it, a copy back in its place.

Plain functions over paths, to be called in a thread where a loop runs. `verify` and `backup` work beside an owner: they
read in short transactions through a connection that cannot write. `restore` and `verify(fix=True)` need the log for
themselves.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from rushes.eventstore.base import Damage, Head, Recorded, StoreError, StoreUnavailable
from rushes.eventstore.marker import (
    HistoryLost,
    Marker,
    compare,
    end_of,
    read_marker,
    renew_epoch,
    sync,
    write_marker,
)
from rushes.eventstore.transactions import select_events, set_up, set_up_reader
from rushes.faults import bad

WINDOW: Final = 10_000  # positions counted in one transaction
PAGE: Final = 1_000  # events of a stream read in one transaction

Kind: TypeAlias = Literal[
    "file", "position", "orphan", "version", "damaged", "tenant", "empty", "unreadable", "head", "marker"
]
Refold: TypeAlias = Callable[[str, Iterable[Recorded]], Head | str]
"""From a stream's kind and events to what its row must say; or a sentence on why the events cannot be read."""


class Finding(Struct, frozen=True, omit_defaults=True):
    """Something that is wrong with a log, and what to do."""

    kind: Kind
    detail: str
    stream: str = ""  # its name
    version: int | None = None
    position: int | None = None
    fixed: bool = False

    def line(self) -> str:
        """For people."""
        where = [
            self.stream,
            "" if self.version is None else f"version {self.version}",
            "" if self.position is None else f"position {self.position}",
        ]
        told = ", ".join(filter(None, where))
        return f"{told}: {self.detail}" if told else self.detail


class Report(Struct, frozen=True, kw_only=True):
    """What was looked at, and how much of what kind was found."""

    epoch: str
    position: int
    streams: int
    events: int
    found: dict[Kind, int]
    fixed: int = 0

    @property
    def wrong(self) -> int:
        """How many findings were not mended."""
        return sum(self.found.values()) - self.fixed


class Restored(Struct, frozen=True, kw_only=True):
    """A log that was put in place."""

    epoch: str
    position: int
    lost: int | None  # positions that the log before had beyond it; None: that one could not be read
    aside: str | None  # where the log before is now


Say: TypeAlias = Callable[[Finding], None]

RESTORE: Final = "Restore a backup that has it."


# ── Verify ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def verify(path: Path, say: Say, refold: Refold | None = None, *, fix: bool = False) -> Report:
    """Look at all of a log up to where it ends now, and say what is wrong with it.

    An owner may run meanwhile. Only SQLite's own check of the file is one long look: the WAL grows during it.

    Args:
        path: the log.
        say: is given each finding, when it is found.
        refold: what a stream's row must say. Without it, events are not decoded and rows not compared.
        fix: rewrite the rows that do not say it, and nothing else. The log must have no owner then.

    Raises:
        BadRequest: there is no such file.
        StoreError: it is no log, or a newer release's, or so damaged that nobody can say where it ends.
    """
    with _reading(path) as connection:
        try:
            return _Check(path, connection, say, refold, fix=fix).run()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} is too damaged to be looked through ({error}). {RESTORE}") from error


class _Check:
    def __init__(
        self, path: Path, connection: sqlite3.Connection, say: Say, refold: Refold | None, *, fix: bool
    ) -> None:
        self._path, self._connection, self._tell, self._refold, self._fix = path, connection, say, refold, fix
        self._marker = read_marker(path)  # first: what an owner commits meanwhile only adds
        self._end = end_of(connection)
        release = connection.execute("SELECT value FROM store WHERE key = 'release'").fetchone()
        self._release = f" The newest release that wrote here is {release[0]}." if release else ""
        self._found: Counter[Kind] = Counter()
        self._streams = self._by_position = self._by_stream = self._fixed = 0

    def run(self) -> Report:
        self._guarded("The file", self._file)
        counted = self._guarded("The table of events", self._positions)
        counted &= self._guarded("The table of streams", self._all_streams)
        if counted and self._by_position != self._by_stream:
            detail = f"SQLite's index leads to {self._by_stream} of {self._by_position} events. {RESTORE}"
            self._say(Finding("file", detail))
        if self._marker and (lost := compare(self._path, self._marker, self._connection)):
            self._say(Finding("marker", str(lost)))
        return Report(
            epoch=self._end.epoch,
            position=self._end.position,
            streams=self._streams,
            events=self._by_position,
            found=dict(self._found),
            fixed=self._fixed,
        )

    def _say(self, finding: Finding) -> None:
        self._found[finding.kind] += 1
        self._fixed += finding.fixed
        self._tell(finding)

    def _guarded(self, what: str, look: Callable[[], None]) -> bool:
        """Whether it could be looked at."""
        try:
            look()
        except sqlite3.DatabaseError as error:
            self._say(Finding("file", f"{what} cannot be read ({error}). {RESTORE}"))
            return False
        return True

    def _file(self) -> None:
        for (line,) in self._connection.execute("PRAGMA quick_check").fetchall():
            if line != "ok":
                self._say(Finding("file", f"SQLite finds the file damaged: {line}. {RESTORE}"))

    def _positions(self) -> None:
        where = "FROM events WHERE position > ? AND position <= ?"
        for after in range(0, self._end.position, WINDOW):
            upto = min(after + WINDOW, self._end.position)
            ((count,),) = self._connection.execute(f"SELECT COUNT(*) {where}", (after, upto)).fetchall()
            self._by_position += count
            if count < upto - after:
                there = self._connection.execute(f"SELECT position {where} ORDER BY 1", (after, upto)).fetchall()
                self._gaps(after, [position for (position,) in there], upto)

    def _gaps(self, before: int, there: list[int], upto: int) -> None:
        for position in [*there, upto + 1]:
            if position > before + 1:
                count = position - before - 1
                detail = f"{count} {'event is' if count == 1 else 'events are'} missing from here on. {RESTORE}"
                self._say(Finding("position", detail, position=before + 1))
            before = position

    def _all_streams(self) -> None:
        stream = self._stream_behind(_LOWEST)
        while stream is not None:
            self._guarded(f"Stream {stream}", partial(self._one_stream, stream))
            stream = self._stream_behind(stream)

    def _stream_behind(self, stream: int) -> int | None:
        sql = "SELECT (SELECT MIN(id) FROM streams WHERE id > ?1), (SELECT MIN(stream) FROM events WHERE stream > ?1)"
        ((by_row, by_event),) = self._connection.execute(sql, (stream,)).fetchall()
        return min((found for found in (by_row, by_event) if found is not None), default=None)

    def _one_stream(self, id: int) -> None:
        stream = _StreamCheck(id, self._connection, self._say, self._end.position)
        events = stream.events()
        must = self._refold(stream.row.kind, events) if self._refold and stream.row else None
        for _ in events:  # whoever folded may have stopped before the end
            pass
        self._streams += 1
        self._by_stream += stream.count
        if not stream.whole or stream.row is None:
            return
        if isinstance(must, str):
            self._say(Finding("unreadable", must + self._release, stream.name, *_place(stream.given)))
        elif must and must != stream.row.head:
            self._head(id, stream.row, must)

    def _head(self, id: int, row: _Row, must: Head) -> None:
        if self._fix:
            with closing(_connect(self._path, "rw")) as connection:
                set_up(connection)
                connection.execute("UPDATE streams SET open = ?, lane = ? WHERE id = ?", (must.open, must.lane, id))
        told = "rewritten." if self._fix else "`rushes verify --fix` rewrites the row."
        detail = f"its row says {_words(row.head)}, and its events {_words(must)}: {told}"
        self._say(Finding("head", detail, row.name, fixed=self._fix))


class _Row(Struct, frozen=True):
    """A stream's own row."""

    name: str
    kind: str
    tenant: int
    tenant_name: str | None
    lane: str
    open: int

    @property
    def head(self) -> Head:
        return Head(open=bool(self.open), lane=self.lane)


class _StreamCheck:
    """One stream, page by page; each page and the stream's row in one transaction, so that the last pair agrees."""

    def __init__(self, id: int, connection: sqlite3.Connection, say: Say, upto: int) -> None:
        self._id, self._connection, self._say, self._upto = id, connection, say, upto
        self._expected = 1
        self.count = 0  # of its events up to that position
        self.given: Recorded | None = None  # the last event that `events` gave
        self.whole = True
        self.row: _Row | None = None
        self._page = self._turn(_LOWEST)
        self.name = self.row.name if self.row else f"stream {id}"
        self._check_row()

    def events(self) -> Iterator[Recorded]:
        """Its events up to the first that is not as it should be; all of them are looked at."""
        while self._page:
            for event in self._page:
                self._look(event)
                if self.whole and isinstance(event, Recorded):
                    self.given = event
                    yield event
            self._page = self._turn(self._page[-1].version) if len(self._page) == PAGE else []

    def _turn(self, after: int) -> list[Recorded | Damage]:
        self._connection.execute("BEGIN")
        try:
            where = "WHERE stream = ? AND version > ? ORDER BY version LIMIT ?"
            found = select_events(self._connection, where, (self._id, after, PAGE))
            row = self._connection.execute(_ROW, (self._id,)).fetchone()
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        self.row = _Row(*row) if row else None
        return sorted([*found.events, *found.damaged], key=lambda event: event.version)

    def _check_row(self) -> None:
        if self.row is None:
            self._find("orphan", "its events have no row among the streams", None)
        elif not self._page:
            self._find("empty", "it has a row and no events", None)
        elif self.row.tenant_name is None:
            self._find("tenant", f"it belongs to tenant {self.row.tenant}, and there is none", None)

    def _look(self, event: Recorded | Damage) -> None:
        self.count += event.position <= self._upto
        if event.version != self._expected:
            self._find("version", f"version {self._expected} should stand here", event)
        self._expected = event.version + 1
        if isinstance(event, Damage):
            self._find("damaged", "its bytes are not the ones that were stored", event)
        elif self.row and event.tenant != self.row.tenant:
            self._find("tenant", f"it has tenant {event.tenant}, and its stream {self.row.tenant}", event)

    def _find(self, kind: Kind, what: str, event: Recorded | Damage | None) -> None:
        self.whole = False
        self._say(Finding(kind, f"{what}. {RESTORE}", self.name, *_place(event)))


_LOWEST: Final = -(2**63)
_ROW: Final = (
    "SELECT s.name, s.kind, s.tenant, t.name, s.lane, s.open FROM streams s LEFT JOIN tenants t ON t.id = s.tenant"
    " WHERE s.id = ?"
)


def _place(event: Recorded | Damage | None) -> tuple[int | None, int | None]:
    return (event.version, event.position) if event else (None, None)


def _words(head: Head) -> str:
    return f"{'unfinished' if head.open else 'ended'} in lane {head.lane!r}"


# ── Backup ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def backup(path: Path, file: Path, say: Say, refold: Refold | None = None) -> Report:
    """Copy a log, whoever is writing it, into a file that is one consistent moment of it.

    By SQLite's backup interface, because it copies pages as they are: `VACUUM INTO` writes every row anew, which takes
    about three times as long. In one step, because in several every commit in between makes it begin again. Appends go
    on meanwhile.

    The copy is verified before it gets its name. Damaged events are said, and copied as they are: the others are worth
    having. Takes are plain files and no part of it.

    Raises:
        BadRequest: the file is there already, or has no folder, or there is no log.
        StoreUnavailable: the disk does not take it. No part of a file is left behind.
        StoreError: the log's file itself is damaged, so that a copy would be worth nothing.
    """
    if file.exists():
        raise bad("file", f"{file} is there already, and a backup replaces nothing: give another name.")
    if not file.parent.is_dir():
        raise bad("file", f"{file} cannot be written: there is no folder {file.parent}.")
    part = file.with_name(f"{file.name}.part")
    with _disk(f"The backup {file} could not be written"), _removed(part):
        _copy(path, part)
        report = verify(part, say, refold)
        if report.found.get("file"):
            raise StoreError(f"The copy of {path} is damaged, so {file} was not written: `rushes verify` says more.")
        sync(part)
        part.rename(file)
        sync(file.parent)
    return report


def _copy(path: Path, part: Path) -> None:
    """A log as one file without a WAL, which opens read-only anywhere."""
    with _reading(path) as log, closing(sqlite3.connect(part, isolation_level=None)) as copy:
        log.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


# ── Restore ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def restore(file: Path, path: Path, say: Say, refold: Refold | None = None, *, accept_loss: bool = False) -> Restored:
    """Put a backup in the place of a log that has no owner, under a new epoch.

    Whenever it is interrupted, the log before or the new one is in its place. The log before is kept beside it as
    `….replaced-<time>`.

    Args:
        file: the backup; it stays as it is.
        path: the log.
        say: is given what is wrong with the backup.
        refold: as for `verify`. The rows that it contradicts are rewritten.
        accept_loss: do it although the present log has positions that the backup has not, or the backup damaged events.

    Raises:
        BadRequest: there is no such file.
        HistoryLost: positions would be lost, and nobody has accepted that. Nothing was changed.
        StoreUnavailable: the disk does not take it. The log is the one it was.
        StoreError: the backup is no log, a newer release's, or damaged. Nothing was changed.
    """
    if file.exists() and path.exists() and file.samefile(path):
        raise bad("file", f"{file} is the log itself: give a backup.")
    new = path.with_name(f"{path.name}.restoring")
    with _disk(f"The backup {file} could not be restored"), _removed(new):
        lost = _would_lose(file, path)
        if lost != 0 and not accept_loss:
            raise _refusal(file, path, lost)
        _copy(file, new)
        _check_backup(file, verify(new, say, refold, fix=True), accept_loss=accept_loss)
        end = _new_history(new)
        aside = _put_aside(path, readable=lost is not None)
        sync(path.parent)
        new.replace(path)
        write_marker(path, end)
    return Restored(epoch=end.epoch, position=end.position, lost=lost, aside=str(aside) if aside else None)


def _would_lose(file: Path, path: Path) -> int | None:
    """How many positions the present log has, or had by its marker, that the backup has not. None: nobody can say."""
    with _reading(file) as backup:
        marker, end = read_marker(path), end_of(backup).position
        known = [marker] if marker and marker.position else []
        if not path.exists():
            return max((m.position - end for m in known if _crc(backup, m.position) != m.crc), default=0)
        try:
            with _reading(path) as log:
                known.append(end_of(log))
                beyond = [m.position for m in known if m.position and _crc(backup, m.position) != m.crc]
                return max(beyond) - _in_common(log, backup, known[-1].position) if beyond else 0
        except (sqlite3.DatabaseError, StoreError):
            return None


def _in_common(log: sqlite3.Connection, backup: sqlite3.Connection, end: int) -> int:
    """Up to which position two logs are the same: after the first difference all is different."""
    return bisect_left(range(1, end + 1), 1, key=lambda n: _crc(log, n) != _crc(backup, n))


def _crc(connection: sqlite3.Connection, position: int) -> int | None:
    row = connection.execute("SELECT crc FROM events WHERE position = ?", (position,)).fetchone()
    return row[0] if row else None


def _refusal(file: Path, path: Path, lost: int | None) -> StoreError:
    if lost is None:
        what = f"The log {path} cannot be read, so nobody can say what it has beyond {file}"
    else:
        what = f"{lost} {'position' if lost == 1 else 'positions'} of the log {path} would be lost: {file} lacks them"
    how = "accept that with --accept-loss (accept_loss=True), and jobs may be sent, and billed, again."
    return HistoryLost(f"Nothing was changed. {what}: {how}", lost or 0)


def _check_backup(file: Path, report: Report, *, accept_loss: bool) -> None:
    if report.found.get("file") or (report.wrong and not accept_loss):
        how = "" if report.found.get("file") else ", and --accept-loss restores it all the same"
        raise StoreError(f"Nothing was changed. {file} is damaged: `rushes verify {file}` says where{how}.")


def _new_history(new: Path) -> Marker:
    with closing(_connect(new, "rw")) as connection:
        renew_epoch(connection)
        connection.execute("PRAGMA journal_mode = DELETE")  # one file, so that one rename is all
        end = end_of(connection)
    sync(new)
    return end


def _put_aside(path: Path, *, readable: bool) -> Path | None:
    """Give the log before a second name, and leave it whole under the first one until that is taken."""
    wal = _beside(path, "-wal")
    aside = path.with_name(f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    if wal.exists() and wal.stat().st_size:
        _duplicate(wal, _beside(aside, "-wal"))  # before it is moved into the file, and what is damaged in it cut off
    if not path.exists():
        wal.unlink(missing_ok=True)
        return None
    if readable:
        _empty_wal(path)
    try:
        os.link(path, aside)
    except OSError:  # a file system without links
        _duplicate(path, aside)
    with suppress(FileNotFoundError):
        _beside(path, "-marker").replace(_beside(aside, "-marker"))  # one that is missing is no error at any moment
    for ending in ("-wal", "-shm"):  # they would be taken for the new log's
        _beside(path, ending).unlink(missing_ok=True)
    return aside


def _empty_wal(path: Path) -> None:
    with closing(_connect(path, "rw")) as connection:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreUnavailable(f"Somebody is reading the log {path}: try again in a moment.")


def _duplicate(path: Path, to: Path) -> None:
    shutil.copyfile(path, to)
    sync(to)


# ── Small things ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=5.0)
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")  # a damaged name stops nothing
    return connection


@contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection]:
    """A connection to a log that cannot write."""
    if not path.is_file():
        raise bad("file", f"There is no log {path}.")
    with closing(_connect(path, "ro")) as connection:
        try:
            set_up_reader(connection)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} cannot be read as a log ({error}).") from error
        yield connection


@contextmanager
def _disk(what: str) -> Generator[None]:
    """What goes wrong below is told as the store's trouble."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"{what} ({error}): see to the disk and try again.") from error


@contextmanager
def _removed(part: Path) -> Generator[None]:
    """A file that is not there before, and not under this name afterwards."""
    _remove(part)
    try:
        yield
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            _beside(part, ending).unlink()
