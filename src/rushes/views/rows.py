"""The table of jobs in views.db, and everything that is done with it, as plain functions over a connection.

Rows and checkpoint are written in one transaction: however a process ends, the rows are those of the log up to the
checkpoint. The file is a plain rollback journal's, not WAL: who only reads needs no second file and writes none.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from rushes.actors.codec import DECODERS
from rushes.video import UNREADABLE, JobsQuery, ListPlace

LAYOUT: Final = 2  # raise it with any change of the tables, or of what a row says about the same events
VIEW: Final = f"jobs {LAYOUT}, events {zlib.crc32(repr(sorted(DECODERS)).encode())}"  # other events, other rows
WORDS: Final = ("status", "phase", "billed", "provider", "model", "operation", "customer_id", "batch")
_TOO_MANY: Final = ("provider", "model")  # to sort all their jobs: where there is no index in order, walk (SQL's +)

DDL: Final = """
CREATE TABLE checkpoint(epoch TEXT NOT NULL, view TEXT NOT NULL, position INT NOT NULL) STRICT;
CREATE TABLE jobs(stream INTEGER PRIMARY KEY, name TEXT NOT NULL, tenant TEXT NOT NULL, status TEXT NOT NULL,
  phase TEXT NOT NULL, billed TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, operation TEXT NOT NULL,
  customer_id INT NOT NULL, batch TEXT, created_at REAL NOT NULL, updated_at REAL NOT NULL,
  version INT NOT NULL) STRICT;
CREATE INDEX by_created ON jobs(tenant, created_at, stream);
CREATE INDEX by_updated ON jobs(tenant, updated_at, stream);
CREATE INDEX by_status_created ON jobs(tenant, status, created_at, stream);
CREATE INDEX by_status_updated ON jobs(tenant, status, updated_at, stream);
CREATE INDEX by_phase_created ON jobs(tenant, phase, created_at, stream);
CREATE INDEX by_phase_updated ON jobs(tenant, phase, updated_at, stream);
CREATE INDEX by_provider_created ON jobs(tenant, provider, created_at, stream);
CREATE INDEX by_model_created ON jobs(tenant, model, created_at, stream);
CREATE INDEX by_customer_created ON jobs(tenant, customer_id, created_at, stream);
CREATE INDEX by_batch_created ON jobs(tenant, batch, created_at, stream) WHERE batch IS NOT NULL
"""
# Where the first event of a job is damaged nobody knows its time: it stands beside the job that was born before it.
_SAVE: Final = """
WITH before(at) AS (SELECT created_at FROM jobs WHERE stream < :stream ORDER BY stream DESC LIMIT 1)
INSERT INTO jobs VALUES (:stream, :name, :tenant, :status, :phase, :billed, :provider, :model, :operation,
  :customer_id, :batch, coalesce(:created_at, (SELECT at FROM before), 0.0),
  coalesce(:updated_at, (SELECT at FROM before), 0.0), :version)
ON CONFLICT(stream) DO UPDATE SET status = excluded.status, phase = excluded.phase, billed = excluded.billed,
  provider = excluded.provider, model = excluded.model, operation = excluded.operation,
  customer_id = excluded.customer_id, batch = excluded.batch, updated_at = excluded.updated_at,
  version = excluded.version
"""


class Row(Struct, frozen=True, kw_only=True):
    """What a list filters and orders by. Of a job that cannot be read the words are empty but for its phase."""

    stream: int
    name: str
    tenant: str
    status: str = ""
    phase: str = UNREADABLE
    billed: str = ""
    provider: str = ""
    model: str = ""
    operation: str = ""
    customer_id: int = 0
    batch: str | None = None
    created_at: float | None  # of the first event; None: it is damaged
    updated_at: float | None  # of the last one that could be read
    version: int


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_up(connection: sqlite3.Connection, epoch: str, head: int) -> int:
    """Make an empty file a view; the answer is the checkpoint.

    Raises:
        sqlite3.Error: the file is no view of this log, or damaged, or cannot be written.
        TypeError: it is a view without a checkpoint.
    """
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        for statement in DDL.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO checkpoint VALUES (?, ?, 0)", (epoch, VIEW))
    position = checkpoint(connection, epoch, head)
    connection.execute("UPDATE checkpoint SET position = ?", (position,))  # says at once whether it can be written
    connection.execute("COMMIT")
    return position


def checkpoint(connection: sqlite3.Connection, epoch: str, head: int) -> int:
    """Up to which position of the log the rows speak. Raises as `set_up`."""
    known, view, position = connection.execute("SELECT epoch, view, position FROM checkpoint").fetchone()
    if (known, view) != (epoch, VIEW) or not 0 <= position <= head:
        raise sqlite3.DatabaseError(f"it is {view!r} of log {known} up to {position}, not {VIEW!r} of {epoch}")
    return int(position)


def set_up_copy(connection: sqlite3.Connection, uri: str, epoch: str, head: int) -> int:
    """Fill an empty file with another one, which is only read. Raises as `set_up`."""
    with closing(sqlite3.connect(uri, uri=True)) as source:
        source.backup(connection)
    return checkpoint(connection, epoch, head)


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def save(connection: sqlite3.Connection, rows: Sequence[Row], position: int) -> None:
    """The rows that changed up to a position, and that position, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("UPDATE checkpoint SET position = ?", (position,))
        connection.executemany(_SAVE, [asdict(row) for row in rows])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def select_page(
    connection: sqlite3.Connection, query: JobsQuery, tenant: str, behind: ListPlace | None
) -> list[ListPlace]:
    """The places of the jobs behind a place, in order; one more than the limit where there are more."""
    found: set[ListPlace] = set()
    for sql, values in statements(query, tenant, behind):
        found.update(connection.execute(sql, values).fetchall())
    return sorted(found, reverse=query.order == "desc")[: query.limit + 1]


def count_phases(connection: sqlite3.Connection) -> dict[str, int]:
    """How many jobs there are in each phase."""
    return dict(connection.execute("SELECT phase, count(*) FROM jobs GROUP BY phase").fetchall())


def statements(query: JobsQuery, tenant: str, behind: ListPlace | None) -> Iterator[tuple[str, list[Any]]]:
    """What is asked: for jobs of which every word is right, and for those of which nobody can say. Each by an index."""
    walk = _TOO_MANY if query.sort == "updated" else ()
    asked = {f"{'+' * (word in walk)}{word} = ?": getattr(query, word) for word in WORDS}
    asked = {clause: value for clause, value in asked.items() if value is not None}
    at = f"{query.sort}_at"
    beyond, way = ("<", "DESC") if query.order == "desc" else (">", "ASC")
    bounds = {"created_at > ?": query.created_after, "created_at < ?": query.created_before}
    frame = {bound: time.timestamp() for bound, time in bounds.items() if time is not None}
    for words in (asked, {"phase = ?": UNREADABLE}):
        clauses: dict[str, Any] = {"tenant = ?": tenant, **words, **frame}
        where, values = [*clauses], [*clauses.values()]
        if behind is not None:
            where, values = [*where, f"({at}, stream) {beyond} (?, ?)"], [*values, *behind]
        order = f"ORDER BY {at} {way}, stream {way} LIMIT ?"
        sql = f"SELECT {at}, stream FROM jobs WHERE {' AND '.join(where)} {order}"  # noqa: S608 - our own words
        yield sql, [*values, query.limit + 1]
