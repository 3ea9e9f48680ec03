"""From events to rows: every job is folded as its actor folds it, and the row says what the state says."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.actor import KIND
from rushes.actors.codec import decode
from rushes.actors.job import evolve, phase_word
from rushes.actors.messages import Job
from rushes.actors.words import billed_word, status_word
from rushes.eventstore.base import Batch, Damage, Damaged, EventStore, Recorded, Stream
from rushes.faults import Unreadable
from rushes.video import OPERATIONS
from rushes.views.rows import Row

CACHED: Final = 4_096  # unfinished jobs
READ_EVENTS: Final = 256  # between two pauses for everybody else on the loop
SAVE_ROWS: Final = 4_096  # a transaction
_log = structlog.get_logger("rushes")
Found = Recorded | Damage


class Known(Struct, frozen=True, kw_only=True):
    """A job up to some version. None: what stands there cannot be read, and nothing behind it counts."""

    job: Job | None = m.New()
    created_at: float | None = None
    updated_at: float | None = None
    version: int = 0


class Fold:
    """The states of the jobs that are under way, and the rows they make."""

    def __init__(self, store: EventStore, cached: int = CACHED) -> None:
        self._store, self._cached = store, cached
        self._known: OrderedDict[int, tuple[Stream, Known]] = OrderedDict()

    async def portions(self, after: int, upto: int) -> AsyncGenerator[tuple[list[Row], int]]:
        """The rows that the log changes behind a position, and up to where, in portions that memory can hold."""
        rows: dict[int, Row] = {}
        while after < upto:
            batch = await self._store.read_all(after, min(READ_EVENTS, upto - after), kind=KIND)
            rows |= await self._rows(batch)
            after = batch.upto
            if len(rows) >= SAVE_ROWS or after >= upto:
                yield [rows[stream] for stream in sorted(rows)], after
                rows = {}
            await asyncio.sleep(0)

    async def _rows(self, batch: Batch) -> dict[int, Row]:
        founds: list[Found] = [*batch.events, *batch.damaged]
        news: dict[int, list[Found]] = {}
        for found in sorted(founds, key=lambda found: found.position):
            news.setdefault(found.stream, []).append(found)
        await self._recall({stream: founds[0].version - 1 for stream, founds in news.items()})
        rows: dict[int, Row] = {}
        for stream, founds in news.items():
            if stream in self._known:  # a damaged number may name none
                row, known = self._known.pop(stream)
                known = _folded(known, founds)
                rows[stream] = _row(row, known)
                if not isinstance(known.job, m.Ended | None):
                    self._remember(row, known)
        while len(self._known) > self._cached:
            self._known.popitem(last=False)
        return rows

    async def _recall(self, versions: Mapping[int, int]) -> None:
        """Know these streams as they were at these versions."""
        missing = [stream for stream in versions if stream not in self._known]
        if not missing:
            return
        streams = await self._store.streams(missing)
        histories = await self._store.read_many([stream for stream in streams if versions[stream]])
        for stream, row in streams.items():
            history = histories.get(stream, [])
            upto = versions[stream]
            before = history[:upto] if not isinstance(history, Damaged) else await self._readable(stream, upto)
            self._remember(row, _folded(Known(), before))

    async def _readable(self, stream: int, upto: int) -> Sequence[Found]:
        """A damaged stream up to a version, or up to its first damage."""
        try:
            return await self._store.read(stream, 0, upto)
        except Damaged as damaged:
            return [*await self._store.read(stream, 0, damaged.damage.version - 1), damaged.damage]

    def _remember(self, row: Stream, known: Known) -> None:
        self._known[row.id] = row, known


def _folded(known: Known, founds: Sequence[Found]) -> Known:
    job, version, created_at, updated_at = known.job, known.version, known.created_at, known.updated_at
    for found in founds:
        if job is not None and (job := _next(job, version, found)) is not None and isinstance(found, Recorded):
            created_at = created_at if version else found.at
            updated_at = found.at
        version = found.version
    return Known(job=job, created_at=created_at, updated_at=updated_at, version=version)


def _next(job: Job, version: int, found: Found) -> Job | None:
    if isinstance(found, Damage) or found.version != version + 1:  # a damaged number may hide an event
        return None
    try:
        return evolve(job, decode(found), found.at)
    except Unreadable:
        return None
    except Exception as error:  # noqa: BLE001 - one job's trouble must not stop the list of all
        _log.error("view.stumbled", stream=found.stream, version=found.version, error=type(error).__name__)
        return None


def _row(stream: Stream, known: Known) -> Row:
    row = Row(
        stream=stream.id,
        name=stream.name,
        tenant=stream.tenant,
        created_at=known.created_at,
        updated_at=known.updated_at,
        version=known.version,
    )
    job = known.job
    if job is None or isinstance(job, m.New):
        return row
    return replace(
        row,
        status=status_word(job),
        phase=phase_word(job),
        billed=billed_word(job),
        provider=job.target.provider,
        model=job.target.model,
        operation=OPERATIONS[type(job.facts.spec.operation)],
        customer_id=job.facts.spec.customer_id,
        batch=job.facts.requested.batch.id if job.facts.requested.batch else None,
    )
