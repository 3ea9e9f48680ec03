"""What is kept of an exchange, and how everybody reads it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from rushes.adapters.base import FlowName, Worth
from rushes.faults import Fault, Unavailable

LAYOUT: Final = 2  # raise it with any change that an older release would read wrongly
MAX_TEXT_BYTES: Final = 64 * 1024  # of a body's text
RUNS: Final = """SELECT * FROM runs WHERE began_at <= ? AND
  (seen_at >= ? OR began_at = (SELECT max(began_at) FROM runs WHERE began_at <= ?)) ORDER BY began_at"""


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


class Run(Struct, frozen=True, kw_only=True):
    """One process that did the jobs' work: a job did not move between one and the next."""

    began_at: float  # seconds since 1970, UTC, like the next
    seen_at: float  # when it ended; where it was killed, when it last wrote down an exchange of any job
    ended: bool  # in order. False: it was killed, or is still running


def read(path: Path, job: str) -> list[Exchange]:
    """What flight.db has about a job, the oldest first; for everybody, also beside its owner. Raises Unavailable."""
    rows = _rows(path, "SELECT * FROM exchanges WHERE job = ? ORDER BY id", (job,))
    try:
        return [_exchange(row) for row in rows]
    except msgspec.MsgspecError as error:
        raise _unreadable(path, error) from error


def read_runs(path: Path, since: float, until: float) -> list[Run]:
    """The processes that ran within that time, the oldest first; as `read`.

    The one that ran when it began is among them: where it was killed soon after, it was last seen before.
    """
    rows = _rows(path, RUNS, (until, since, since))
    return [Run(began_at=row["began_at"], seen_at=row["seen_at"], ended=bool(row["ended"])) for row in rows]


def _rows(path: Path, question: str, about: tuple[str | float, ...]) -> list[sqlite3.Row]:
    """All of it at once: the owner wants to write again."""
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as db:  # a kill may need mending
            if is_empty(db):
                return []
            check_layout(db)
            db.row_factory = sqlite3.Row
            return db.execute(question, about).fetchall()
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> Unavailable:
    return Unavailable(f"The flight record {path} cannot be read: {error}.")


def _exchange(row: sqlite3.Row) -> Exchange:
    fields = {name: row[name] for name in Exchange.__struct_fields__}
    fields |= {name: msgspec.json.decode(row[name]) for name in ("asked", "answered")}
    return msgspec.convert(fields, Exchange)


class _Foreign(sqlite3.DatabaseError):
    """A file that another program or a newer release has made."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether nothing was ever made in the file."""
    return not db.execute("SELECT 1 FROM sqlite_master").fetchone()


def check_layout(db: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError where the file is no record that this release knows."""
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout != LAYOUT:
        raise _Foreign(f"it has layout {layout}, and this release knows {LAYOUT}")
