"""The flight record: what every job said to its provider and was answered, in flight.db, for looking back.

A job never waits for it and never fails by it. What was heard is handed over in memory; a thread with a connection of
its own makes it fit to be kept and writes it, once a second. Where that thread cannot keep up, or the disk takes
nothing, exchanges are dropped and counted. A poll that was answered like the one before only raises a number.

No key comes here: a line is overheard before the client adds them. All text is gone through all the same, for keys that
a provider repeats and for signed addresses. Prompts stay in it: the record is as private as the log.

What a provider says by itself, in a callback, is handed over by whoever hears it.

A kill costs the last second. A file that is damaged, or a newer release's, is put aside.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

from rushes.adapters.base import (
    Adapter,
    Ask,
    Body,
    Failed,
    FlowName,
    Heeded,
    Keep,
    Part,
    Request,
    Response,
    Sink,
    Transport,
    Worth,
)
from rushes.adapters.redaction import LONGEST_SECRET, Redaction
from rushes.faults import Fault, RushesError, Unavailable
from rushes.units import AssetRef, Clock
from rushes.video import Target

Got = TypeVar("Got", Response, AssetRef)
T = TypeVar("T")
Row: TypeAlias = tuple[int | float | str, ...]

LAYOUT: Final = 1  # raise it with any change that an older release would read wrongly
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
MAX_TEXT_BYTES: Final = 64 * 1024  # of a body's text
WINDOW_BYTES: Final = MAX_TEXT_BYTES + LONGEST_SECRET  # what is looked at, so that no key is kept by half
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
CREATE INDEX by_job ON exchanges(job, id)
"""
INSERT: Final = "INSERT OR REPLACE INTO exchanges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?)"
COUNT: Final = "UPDATE exchanges SET count = ?, last_at = ? WHERE id = ?"
DROP: Final = "DELETE FROM exchanges WHERE id IN (SELECT id FROM exchanges WHERE id < ? ORDER BY id LIMIT ?)"
_log = structlog.get_logger("rushes")


# ── What is kept ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Content(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A body. Size and sha256 are those from before anything was redacted."""

    size_bytes: int
    sha256: str
    media_type: str = ""
    text: str | None = None  # None: pictures, videos and other bytes, by their digest alone
    whole: bool = True  # False: `text` is its head
    key: str = ""  # of the file that is kept


class Asked(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What was said; in a callback, by the provider. In the body references stand in the place of files."""

    headers: dict[str, str] = {}
    body: Content | None = None
    trace: str = ""  # that the job belongs to, as W3C's traceparent; the provider is not told


class Answered(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What came back, or in `fault` why nothing did. To a callback we answered with a status alone."""

    headers: dict[str, str] = {}
    body: Content | None = None
    fault: Fault | None = None
    certain: bool = True  # with a fault. False: the provider may have acted all the same
    worth: Worth | None = None  # of a callback
    why: str = ""  # of a callback that did nothing: a word, as the log line has it


class Exchange(Struct, frozen=True, kw_only=True):
    """One request and its answer, or `count` equal ones in a row from `at` to `last_at`.

    In a callback it is the provider's request, and our answer. Of those a job has a row each that moved it, and
    `MAX_CALLS` others, where equal ones are counted whatever came between them; more than that are in the logs alone.
    """

    id: int  # rises; events have it in their meta, in the list `x`
    job: str
    attempt: int
    flow: FlowName
    provider: str
    method: str
    url: str  # whole, but for what may be a secret in it; of a callback our path, without its code
    status: int  # 0: there is a fault in its place. A file that was kept: 200
    at: float  # seconds since 1970, UTC, when it was asked
    duration_ms: float  # until the answer was there whole; of the first
    count: int
    last_at: float
    asked: Asked
    answered: Answered


def read(path: Path, job: str) -> list[Exchange]:
    """What flight.db has about a job, the oldest first; for everybody, also beside its owner. Raises Unavailable."""
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as db:  # a kill may need mending
            if _is_empty(db):
                return []
            _check_layout(db)
            db.row_factory = sqlite3.Row
            rows = db.execute("SELECT * FROM exchanges WHERE job = ? ORDER BY id", (job,)).fetchall()
        return [_exchange(row) for row in rows]  # the owner can write again
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise Unavailable(f"The flight record {path} cannot be read: {error}.") from error


def _exchange(row: sqlite3.Row) -> Exchange:
    fields = {name: row[name] for name in Exchange.__struct_fields__}
    fields |= {name: msgspec.json.decode(row[name]) for name in ("asked", "answered")}
    return msgspec.convert(fields, Exchange)


# ── Overhearing ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Spooled(Struct, frozen=True):
    """A large answer that went to a file."""

    size_bytes: int
    sha256: str
    head: bytes


class Heard(Struct, kw_only=True):
    """An exchange on its way to the thread."""

    id: int = 0
    job: str
    attempt: int
    trace: str = ""
    flow: FlowName
    adapter: Adapter
    ask: Ask
    result: Response | AssetRef | Heeded | BaseException
    spooled: Spooled | None = None  # of an answer that is a file, or a callback's body
    at: float = 0.0
    duration_s: float


class FlightTap:
    """Hears one effect of one job. See `adapters.base.Tap`."""

    def __init__(self, flight: Flight, job: str, attempt: int, trace: str) -> None:
        self.flight, self.job, self.attempt, self.trace = flight, job, attempt, trace
        self.ids: list[int] = []

    def on(self, line: Transport, flow: FlowName) -> Transport:
        """The same line, overheard."""
        return _Overheard(line, flow, self)

    def hand_over(
        self,
        flow: FlowName,
        adapter: Adapter,
        ask: Ask,
        result: Response | AssetRef | Heeded | BaseException,
        began_s: float,
        spooled: Spooled | None = None,
        id: int = 0,
    ) -> None:
        """An exchange has ended. A bug here must not lose what a provider has said."""
        heard = Heard(
            id=id,
            job=self.job,
            attempt=self.attempt,
            trace=self.trace,
            flow=flow,
            adapter=adapter,
            ask=ask,
            result=result,
            spooled=spooled,
            duration_s=time.perf_counter() - began_s,
        )
        try:
            known = self.flight.hear(heard)
        except Exception as error:  # noqa: BLE001 - as above
            _log.error("flight.failed", job=self.job, error=type(error).__name__, exc_info=error)
        else:
            if known and known not in self.ids:
                self.ids.append(known)


class FlightCall:
    """One callback, from when it came. See `adapters.base.Call`."""

    def __init__(self, tap: FlightTap, adapter: Adapter, request: Request, body: bytes) -> None:
        self.id = tap.flight.draw()
        self._tap, self._adapter, self._request, self._body = tap, adapter, request, body
        self._began_s = time.perf_counter()

    def ended(self, result: Heeded | BaseException) -> None:
        """See Call."""
        spooled = Spooled(len(self._body), hashlib.sha256(self._body).hexdigest(), self._body[:WINDOW_BYTES])
        self._tap.hand_over("callback", self._adapter, self._request, result, self._began_s, spooled, self.id)


class _Overheard:
    """A transport whose every exchange is recorded."""

    def __init__(self, line: Transport, flow: FlowName, tap: FlightTap) -> None:
        self._line, self._tap = line, tap
        self._flow: FlowName = flow

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        """See Transport."""
        return await self._overhear(adapter, request, self._line.send(adapter, target, request))

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        """See Transport."""
        return await self._overhear(adapter, ask, self._line.keep(adapter, target, ask, sink))

    async def _overhear(self, adapter: Adapter, ask: Ask, doing: Awaitable[Got]) -> Got:
        began_s = time.perf_counter()
        try:
            got = await doing
        except BaseException as error:
            self._tap.hand_over(self._flow, adapter, ask, error, began_s)
            raise
        spooled = None
        if isinstance(got, Response) and got.path:  # it may be gone when the thread comes to it
            with suppress(Exception):  # as in `hand_over`
                spooled = await asyncio.to_thread(_spooled, Path(got.path))
        self._tap.hand_over(self._flow, adapter, ask, got, began_s, spooled)
        return got


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


# ── The record ────────────────────────────────────────────────────────────────────────────────────────────────────────


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
        """The file is made when the first exchange is written.

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
        if path.exists():
            self._news.set()  # something in it may be too old
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
        ends = False
        while not ends:
            self._news.wait(TIDY_S)
            self._hurry.wait(BATCH_S)
            self._news.clear()
            self._hurry.clear()
            ends = self._closed  # whoever sets it later wakes this again
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
            too_old = _first_id(self._clock.now() - self._keep_s)
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


class _Foreign(sqlite3.DatabaseError):
    """A file that another program or a newer release has made."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to the record, which is made where there is none. Raises sqlite3.Error."""
    db = sqlite3.connect(path)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if _is_empty(db):
            with db:
                db.execute("BEGIN IMMEDIATE")
                for statement in (*DDL.split(";\n"), f"PRAGMA user_version = {LAYOUT}"):
                    db.execute(statement)
        _check_layout(db)
    except BaseException:
        db.close()
        raise
    return db


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT 1 FROM sqlite_master").fetchone()


def _check_layout(db: sqlite3.Connection) -> None:
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout != LAYOUT:
        raise _Foreign(f"it has layout {layout}, and this release knows {LAYOUT}")


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


# ── Making it fit to be kept ──────────────────────────────────────────────────────────────────────────────────────────

ASKED_HEADERS: Final = frozenset({
    "accept", "content-type", "idempotency-key", "prefer", "x-runway-version",
    "user-agent", "webhook-id", "webhook-timestamp",
})  # fmt: skip
ANSWERED_HEADERS: Final = frozenset({
    "cf-ray", "content-length", "content-type", "date", "ratelimit", "ratelimit-limit", "ratelimit-remaining",
    "ratelimit-reset", "request-id", "retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
    "x-request-id", "openai-poll-after-ms", "retry-after-ms", "x-should-retry",
})  # fmt: skip


class Scribe:
    """Makes rows of what was heard: without secrets, and of a bounded size."""

    def __init__(self, base_url: Callable[[Adapter], str], secrets: Iterable[str]) -> None:
        self._base_url, self._without = base_url, Redaction(secrets)

    def row(self, heard: Heard) -> Row:
        """What is written, in the order of the columns but for the count."""
        ask, asked, answered = _said(heard.ask), self._asked(heard), self._answered(heard)
        told = heard.result if isinstance(heard.result, Response | Heeded) else None
        return (
            heard.id,
            heard.job,
            heard.attempt,
            heard.flow,
            heard.adapter.name,
            ask.method if isinstance(ask, Request) else "GET",
            self._url(heard),
            told.status if told else 200 * (answered.fault is None),
            heard.at,
            round(heard.duration_s * 1000, 3),
            heard.at + heard.duration_s,
            msgspec.json.encode(replace(asked, trace=heard.trace)).decode(),
            msgspec.json.encode(answered).decode(),
        )

    def _url(self, heard: Heard) -> str:
        url = heard.ask.url
        whole = "://" in url or heard.flow == "callback"
        if not whole and not url.startswith("@"):  # another service of the provider, by its name
            base = self._base_url(heard.adapter)
            is_page = isinstance(heard.ask, Keep) and heard.ask.request is None and base.startswith("http")
            url = str((URL(base) / "").join(URL(url, encoded=True))) if is_page else base + url  # as the client does
        url = self._without.text(url)
        if not isinstance(heard.ask, Request) or not heard.ask.query:
            return url
        return (
            f"{url}?{urlencode([(name, self._without.value(name, value)) for name, value in heard.ask.query.items()])}"
        )

    def _asked(self, heard: Heard) -> Asked:
        ask = _said(heard.ask)
        headers, body = self._headers(ask.headers, ASKED_HEADERS), None
        if heard.flow == "callback" and heard.spooled is not None:
            body = self._spooled(heard.spooled, headers.get("content-type", ""))
        elif isinstance(ask, Request) and ask.body is not None:
            kind = "application/json" if isinstance(ask.body, Mapping) else "multipart/form-data"
            body = self._content(msgspec.json.encode(self._symbolic(ask.body), order="deterministic"), kind)
        return Asked(headers=headers, body=body)

    def _symbolic(self, body: Body) -> object:
        """The body as it is described: files by reference, and a form as the list of its parts."""
        return body if body is None or isinstance(body, Mapping) else [self._part(part) for part in body]

    def _part(self, part: Part) -> dict[str, object]:
        content: object = part.content
        if isinstance(part.content, bytes):
            content = Content(size_bytes=len(part.content), sha256=hashlib.sha256(part.content).hexdigest())
        elif isinstance(part.content, str):
            content = self._without.value(part.name, part.content)
        return {"name": part.name, "content": content, "filename": part.filename, "media_type": part.media_type}

    def _answered(self, heard: Heard) -> Answered:
        match heard.result:
            case Response() as reply:
                kind = reply.headers.get("content-type", "")
                body = self._content(reply.body, kind) if reply.body else None
                if heard.spooled is not None:
                    body = self._spooled(heard.spooled, kind)
                return Answered(headers=self._headers(reply.headers, ANSWERED_HEADERS), body=body)
            case AssetRef() as kept:
                size_bytes, sha256, kind = kept.size_bytes, kept.sha256, kept.media_type
                return Answered(body=Content(size_bytes=size_bytes, sha256=sha256, media_type=kind, key=kept.key))
            case Heeded(worth=worth, why=why):
                return Answered(worth=worth, why=why)
            case Failed(fault=fault, certain=certain):
                return Answered(fault=replace(fault, detail=self._without.text(fault.detail)), certain=certain)
            case error:
                return Answered(fault=_fault(error), certain=False)

    def _headers(self, headers: Mapping[str, str], allowed: frozenset[str]) -> dict[str, str]:
        return {name.lower(): self._without.text(value) for name, value in headers.items() if name.lower() in allowed}

    def _content(self, raw: bytes, media_type: str) -> Content:
        return self._described(raw[:WINDOW_BYTES], len(raw), hashlib.sha256(raw).hexdigest(), media_type)

    def _spooled(self, spooled: Spooled, media_type: str) -> Content:
        return self._described(spooled.head, spooled.size_bytes, spooled.sha256, media_type)

    def _described(self, window: bytes, size_bytes: int, sha256: str, media_type: str) -> Content:
        text, whole = _text(window, cut=len(window) < size_bytes), size_bytes <= MAX_TEXT_BYTES
        if text is not None:
            text = self._without.text(text)
            text = text if whole else text[:-LONGEST_SECRET][:MAX_TEXT_BYTES]
        media_type = media_type.partition(";")[0].strip()
        return Content(size_bytes=size_bytes, sha256=sha256, media_type=media_type, text=text, whole=whole)


def _said(ask: Ask) -> Ask:
    """What goes out: some files are asked for by a request of their own."""
    return ask.request if isinstance(ask, Keep) and ask.request is not None else ask


def _text(window: bytes, *, cut: bool) -> str | None:
    """The text that begins so; None where it is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(window, final=not cut)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _fault(error: BaseException) -> Fault:
    """What broke off an exchange, other than the provider or the line."""
    if isinstance(error, asyncio.CancelledError):
        return Fault("cancelled", "It was no longer waited for.", retryable=True)
    code = error.code if isinstance(error, RushesError) else "internal_error"
    return Fault(code, f"What came could not be kept ({type(error).__name__}).", retryable=True)


def _spooled(path: Path) -> Spooled:
    with path.open("rb") as file:
        head = file.read(WINDOW_BYTES)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Spooled(file.tell(), sha256, head)
