"""The record itself: exchanges wait in memory, and a thread writes them to the file and keeps it small."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import structlog

from rushes.adapters.base import Adapter, Failed, Heeded, Keep, Request, Response
from rushes.flight.exchange import LAYOUT, MAX_TEXT_BYTES, Exchange, check_layout, is_empty, read
from rushes.flight.overhearing import FlightCall, FlightTap, Heard
from rushes.flight.scribe import Row, Scribe
from rushes.units import Clock

T = TypeVar("T")

MIN_BYTES: Final = 16 * 2**20
DEFAULT_MAX_BYTES: Final = 2**30
DEFAULT_KEEP_S: Final = 30 * 86_400.0
BATCH_S: Final = 1.0
TIDY_S: Final = 3_600.0  # between two looks at what is too old, where nothing is heard
PATIENCE_S: Final = 10.0  # how long a reader, or the end, waits for a disk that hangs
MAX_WAITING: Final = 10_000  # exchanges in memory
MAX_WAITING_BYTES: Final = 32 * 2**20  # of their answers
MAX_FOLLOWED: Final = 100_000  # jobs whose last exchange is remembered, to count equal ones
MAX_CALLS: Final = 20  # rows of one job for callbacks that did not move it: anybody who knows an address can call it
PORTION_CHARS: Final = 2**20  # of text in one transaction
MARGIN_BYTES: Final = 4 * 2**20  # of the cap, for a portion and its journal
STEP: Final = 16  # rows that leave at once where the file is full
TOO_OLD_AT_ONCE: Final = 256
TICK_BITS: Final = 10  # of an id: a count. Above them: the millisecond in which it was drawn. JavaScript can hold both
NEVER: Final = 2**63 - 1  # an id that none reaches
ASIDE: Final = ".aside"
# What says that the file is no record of ours. Anything else is the disk's trouble.
DAMAGE: Final = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH}

DDL: Final = """
CREATE TABLE exchanges(id INTEGER PRIMARY KEY, job TEXT NOT NULL, attempt INT NOT NULL, flow TEXT NOT NULL,
  provider TEXT NOT NULL, method TEXT NOT NULL, url TEXT NOT NULL, status INT NOT NULL, at REAL NOT NULL,
  duration_ms REAL NOT NULL, count INT NOT NULL, last_at REAL NOT NULL, asked TEXT NOT NULL, answered TEXT NOT NULL
) STRICT;
CREATE INDEX by_job ON exchanges(job, id);
CREATE TABLE runs(began_at REAL PRIMARY KEY, seen_at REAL NOT NULL, ended INT NOT NULL) STRICT
"""
INSERT: Final = "INSERT OR REPLACE INTO exchanges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?)"
COUNT: Final = "UPDATE exchanges SET count = ?, last_at = ? WHERE id = ?"
DROP: Final = "DELETE FROM exchanges WHERE id IN (SELECT id FROM exchanges WHERE id < ? ORDER BY id LIMIT ?)"
RUN: Final = "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)"
DROP_RUNS: Final = """DELETE FROM runs WHERE seen_at < ? OR began_at <= (
  SELECT began_at FROM runs ORDER BY began_at DESC LIMIT 1 OFFSET ?)"""
MAX_RUNS: Final = 10_000  # that are kept: a process that never gets far may be begun again every second
_log = structlog.get_logger("rushes")


class _Last:
    """The last exchange of a job, as far as it was counted."""

    __slots__ = ("at", "count", "id", "likeness")

    def __init__(self, heard: Heard, likeness: int | None) -> None:
        self.id, self.likeness, self.count, self.at = heard.id, likeness, 1, heard.at


def _follow(followed: dict[str, T], job: str, what: T) -> T:
    if len(followed) >= MAX_FOLLOWED:
        del followed[next(iter(followed))]
    followed[job] = what
    return what


def _likeness(heard: Heard) -> int | None:
    """The same number for an equal question with an equal answer; None where each counts for itself."""
    if heard.flow == "callback":
        return _call_likeness(heard)
    match heard.ask:
        case Request(spends=False, body=None) as ask:
            asked = ask.method, ask.url, tuple(ask.query.items())
        case Keep() as ask:
            asked = "", ask.url, ()
        case _:
            return None
    match heard.result:
        case Response(path="") as reply if len(reply.body) <= MAX_TEXT_BYTES:
            return hash((heard.flow, asked, reply.status, reply.body))
        case Failed(fault=fault):
            return hash((heard.flow, asked, fault.code, fault.detail))
        case _:
            return None


def _call_likeness(heard: Heard) -> int | None:
    body = heard.spooled.sha256 if heard.spooled else ""
    match heard.result:
        case Heeded(worth="accepted"):  # an event names it
            return None
        case Heeded(status=503):  # it waits, and may still move the job: then an event names it
            ended: object = heard.id
        case Heeded(status=status, worth=worth, why=why):
            ended = status, worth, why
        case error:
            ended = type(error).__name__
    return hash((heard.ask.url, body, ended))


class Flight:
    """Keeps exchanges. For the data folder's owner; everybody else has `read`."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        base_url: Callable[[Adapter], str],
        secrets: Iterable[str] = (),
        max_bytes: int = DEFAULT_MAX_BYTES,
        keep_s: float = DEFAULT_KEEP_S,
    ) -> None:
        """The file is made at once, where there is none.

        Args:
            path: of flight.db.
            clock: says when an exchange was.
            base_url: where an adapter's relative addresses begin.
            secrets: keys that are never written, whoever repeats them.
            max_bytes: what the file may take, at least 16 MiB; the oldest exchanges leave first.
            keep_s: how long an exchange is kept.

        Raises:
            ValueError: the cap is too small.
        """
        if max_bytes < MIN_BYTES:
            raise ValueError(f"A flight record needs {MIN_BYTES} bytes, and may take {max_bytes} only.")
        self._path, self._clock, self._max_bytes, self._keep_s = path, clock, max_bytes, keep_s
        self._scribe = Scribe(base_url, secrets)
        self._lock = threading.Lock()
        self._waiting: list[Heard] = []
        self._waiting_bytes = 0
        self._counted: dict[int, _Last] = {}  # whose count has grown since it was written
        self._readers: list[threading.Event] = []  # who waits until all of it is written
        self._lasts: dict[str, _Last] = {}
        self._calls: dict[str, dict[int, _Last]] = {}  # of each job that was called about, by likeness
        self._last_id = 0
        self.dropped = 0  # exchanges that were not kept, so far
        self._told, self._troubled = 0, False  # of these; and whether the last batch had any
        self._news, self._hurry, self._closed = threading.Event(), threading.Event(), False
        self._db: sqlite3.Connection | None = None
        self._began_at, self._ends = clock.now(), False
        self._news.set()  # that this run begins; and something may be too old
        self._hurry.set()
        self._thread = threading.Thread(target=self._work, name="the flight record", daemon=True)
        self._thread.start()

    def tap(self, job: str, attempt: int, trace: str = "") -> FlightTap:
        """For one effect of a job. See `adapters.base.Recorder`."""
        return FlightTap(self, job, attempt, trace)

    def call(self, job: str, attempt: int, trace: str, adapter: Adapter, request: Request, body: bytes) -> FlightCall:
        """For one callback. See `adapters.base.CallRecorder`."""
        return FlightCall(self.tap(job, attempt, trace), adapter, request, body)

    def draw(self) -> int:
        """An id, for an exchange that is still under way: an event may have to name it before it has ended."""
        with self._lock:
            return self._draw(self._clock.now())

    def _draw(self, now: float) -> int:
        self._last_id = max(self._last_id + 1, _first_id(now))
        return self._last_id

    def hear(self, heard: Heard) -> int:
        """Take over an exchange that has just ended; the answer is its id, 0 where it was dropped."""
        now = self._clock.now()
        likeness = _likeness(heard)
        last = self._like(heard, likeness)
        if last is not None:
            last.count, last.at = last.count + 1, now
            with self._lock:
                self._counted[last.id] = last
        else:
            heard.at = now - heard.duration_s
            with self._lock:
                last = self._take(heard, now, likeness)
        if not self._news.is_set():
            self._news.set()
        return last.id if last else 0

    def _like(self, heard: Heard, likeness: int | None) -> _Last | None:
        """The row that an equal exchange has: among a job's callbacks, or its last one of ours."""
        if likeness is None:
            return None
        if heard.flow == "callback":
            return self._calls.get(heard.job, {}).get(likeness)
        last = self._lasts.get(heard.job)
        return last if last is not None and likeness == last.likeness else None

    def _take(self, heard: Heard, now: float, likeness: int | None) -> _Last | None:
        if heard.flow == "callback":
            return self._take_call(heard, now, likeness)
        self._lasts.pop(heard.job, None)
        last = self._queue(heard, now, likeness)
        return last and _follow(self._lasts, heard.job, last)

    def _take_call(self, heard: Heard, now: float, likeness: int | None) -> _Last | None:
        if likeness is None:
            return self._queue(heard, now, likeness)
        calls = self._calls.get(heard.job) or _follow(self._calls, heard.job, {})
        last = self._queue(heard, now, likeness) if len(calls) < MAX_CALLS else None
        if last is not None:
            calls[likeness] = last
        return last

    def _queue(self, heard: Heard, now: float, likeness: int | None) -> _Last | None:
        size_bytes = len(heard.result.body) if isinstance(heard.result, Response) else 0
        size_bytes += len(heard.spooled.head) if heard.spooled else 0
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size_bytes > MAX_WAITING_BYTES:
            self.dropped += 1
            return None
        heard.id = heard.id or self._draw(now)
        self._waiting.append(heard)
        self._waiting_bytes += size_bytes
        return _Last(heard, likeness)

    def exchanges(self, job: str) -> list[Exchange]:
        """All that was heard of a job until now, the oldest first. It waits for the disk. Raises Unavailable."""
        written = threading.Event()
        with self._lock:
            self._readers.append(written)
        self._wake()
        if self._thread.is_alive():
            written.wait(PATIENCE_S)
        return read(self._path, job)

    def close(self) -> None:
        """Write what is there, and end. It waits for the disk, but not for ever."""
        self._closed = True
        self._wake()
        self._thread.join(PATIENCE_S)

    def _wake(self) -> None:
        self._hurry.set()
        self._news.set()

    # ── in the thread ──

    def _work(self) -> None:
        while not self._ends:
            self._news.wait(TIDY_S)
            self._hurry.wait(BATCH_S)
            self._news.clear()
            self._hurry.clear()
            self._ends = self._closed  # whoever sets it later wakes this again
            with self._lock:
                heard, self._waiting, self._waiting_bytes = self._waiting, [], 0
                counted, self._counted = list(self._counted.values()), {}
                readers, self._readers = self._readers, []
            self._save(heard, counted)
            for reader in readers:
                reader.set()
        self._let_go()

    def _save(self, heard: list[Heard], counted: Sequence[_Last]) -> None:
        waiting = len(heard)
        try:
            for rows in self._portions(heard):
                self._insist(rows, [])
                waiting -= len(rows)
            self._insist([], [(last.count, last.at, last.id) for last in counted])
        except Exception as error:  # noqa: BLE001 - the record may fail; the thread goes on
            self._let_go()
            with self._lock:
                self.dropped += waiting
                self._lasts.clear()  # their rows may be missing
                self._calls.clear()
            self._say(type(error).__name__, str(error))
        else:
            self._say("", "")

    def _portions(self, heard: Sequence[Heard]) -> Iterator[list[Row]]:
        """Rows, as many as belong into one transaction."""
        rows, chars = list[Row](), 0
        for one in heard:
            row = self._scribe.row(one)
            rows.append(row)
            chars += sum(len(value) for value in row if isinstance(value, str))
            if chars > PORTION_CHARS:
                yield rows
                rows, chars = [], 0
        yield rows

    def _insist(self, rows: Sequence[Row], counts: Sequence[Row]) -> None:
        """Write and tidy, with a new file where this one is none of ours."""
        try:
            self._write(rows, counts)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in DAMAGE:
                raise
            self._let_go()
            _put_aside(self._path, str(error))
            self._write(rows, counts)

    def _write(self, rows: Sequence[Row], counts: Sequence[Row]) -> None:
        db = self._db = self._db or _opened(self._path)
        with db:
            db.executemany(INSERT, rows)
            db.executemany(COUNT, counts)
            now = self._clock.now()
            db.execute(RUN, (self._began_at, now, self._ends))
            db.execute(DROP_RUNS, (now - self._keep_s, MAX_RUNS))
            too_old = _first_id(now - self._keep_s)
            if db.execute(DROP, (too_old, TOO_OLD_AT_ONCE)).rowcount == TOO_OLD_AT_ONCE:
                self._news.set()  # there are more: a second later
        while True:
            db.executescript("PRAGMA incremental_vacuum")  # `execute` would free one page
            if _size_bytes(db) <= self._max_bytes - MARGIN_BYTES:
                return
            with db:
                if not db.execute(DROP, (NEVER, STEP)).rowcount:
                    return

    def _let_go(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _say(self, error: str, detail: str) -> None:
        """One line when exchanges begin to be dropped, and one when all is well again."""
        troubled = bool(error) or self.dropped > self._told
        if troubled and not self._troubled:
            _log.warning("flight.dropped", dropped=self.dropped, error=error or "TooMany", detail=detail)
        elif self._troubled and not troubled:
            _log.info("flight.recovered", dropped=self.dropped)
        self._told, self._troubled = self.dropped, troubled


def _first_id(at: float) -> int:
    """The first id that may be drawn at a time: ids rise over restarts, whatever a kill has left unwritten."""
    return int(at * 1000) << TICK_BITS


def drawn_at(number: int) -> float:
    """When an exchange's id was drawn, in seconds since 1970."""
    return (number >> TICK_BITS) / 1000


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to the record, which is made where there is none. Raises sqlite3.Error."""
    db = sqlite3.connect(path)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if is_empty(db):
            with db:
                db.execute("BEGIN IMMEDIATE")
                for statement in (*DDL.split(";\n"), f"PRAGMA user_version = {LAYOUT}"):
                    db.execute(statement)
        check_layout(db)
    except BaseException:
        db.close()
        raise
    return db


def aside_of(path: Path) -> Path:
    """Where a file is put that is no record of ours."""
    return path.with_name(path.name + ASIDE)


def _put_aside(path: Path, why: str) -> None:
    """Make room for a new file. Its journal goes: it would be rolled back into the new one."""
    aside = aside_of(path)
    _log.warning("flight.put_aside", file=str(aside), detail=why)
    path.replace(aside)
    path.with_name(path.name + "-journal").unlink(missing_ok=True)


def _size_bytes(db: sqlite3.Connection) -> int:
    (pages,), (page_bytes,) = (db.execute(f"PRAGMA {word}").fetchone() for word in ("page_count", "page_size"))
    return int(pages) * int(page_bytes)
