"""Several requests that begin together: all of them, or none where one is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec.structs import replace

from rushes.actors.system import Snapshot
from rushes.actors.words import billed_word
from rushes.faults import BadRequest, Conflict, Fault, NotFound, RushesError, Unavailable, bad
from rushes.studio.asking import request_of
from rushes.studio.beginning import Ready, begun, check_key, ready, refuse_another, under
from rushes.studio.doors import Parts
from rushes.units import keyed_batch_id, uuid7_hex
from rushes.video import MAX_BATCH, STATUSES, Batch, BatchedRequest, BatchView, JobsQuery, JobView, Page

_OUTSIDE: Final = (
    "The idempotency key {0!r} of requests[{1}] stands for a job outside this batch, or for another place or number of "
    "requests in it: send the batch as it was, or use a new key."
)


async def begin_batch(
    parts: Parts, requests: Sequence[BatchedRequest], key: str, tenant: str
) -> tuple[str, list[tuple[Snapshot, bool]]]:
    """The batch's id and its jobs, each with whether it had begun before.

    Raises BadRequest or Conflict; whatever is raised on the way has the key to send the batch again under.
    """
    if not 1 <= len(requests) <= MAX_BATCH:
        raise bad("requests", f"A batch has 1 to {MAX_BATCH} requests; this has {len(requests)}.")
    key = key or uuid7_hex(parts.clock.now(), parts.rng.getrandbits(74))
    check_key(key)
    batch_id = keyed_batch_id(tenant, key)
    keys = [one.idempotency_key or f"{batch_id}/{place}" for place, one in enumerate(requests)]
    if len(set(keys)) < len(keys):
        raise bad("requests", "Two requests of the batch have the same idempotency_key: each needs its own.")
    all_ready = await _all_ready(parts, requests, keys, batch_id, tenant)
    jobs: list[tuple[Snapshot, bool]] = []
    try:
        for one, its_key in zip(all_ready, keys, strict=True):
            jobs.append(await begun(parts, one, its_key, tenant))
    except RushesError as error:
        error.idempotency_key = key
        error.billed = "unknown" if jobs else error.billed
        raise
    return batch_id, jobs


async def _all_ready(
    parts: Parts, requests: Sequence[BatchedRequest], keys: Sequence[str], batch_id: str, tenant: str
) -> list[Ready]:
    """All requests of a batch, each as a job that begins or has begun. Raises BadRequest, or Conflict."""
    found: list[Ready] = []
    faults: list[Fault] = []
    for place, (request, key) in enumerate(zip(requests, keys, strict=True)):
        batch = Batch(id=batch_id, index=place, size=len(keys))
        try:
            one = await ready(parts, request.plain, key, tenant)
        except BadRequest as error:
            faults += [_within(f"requests[{place}]", fault) for fault in error.faults]
            continue
        if not isinstance(one, Snapshot):
            one = replace(one, batch=batch)
            if (known := await under(parts.system, key, tenant)) is not None:
                refuse_another(known, one, key)
        elif request_of(one).batch != batch:
            detail = _OUTSIDE.format(key, place)
            raise Conflict(detail, idempotency_key=key, job_id=one.name, billed=billed_word(one.job))
        found.append(one)
    if faults:
        raise BadRequest(faults)
    return found


async def batch_of(batch_id: str, page: Callable[[JobsQuery], Awaitable[Page]]) -> BatchView:
    """How the jobs of a batch are, by pages of the list. Raises NotFound, or Unavailable."""
    found: dict[int, JobView] = {}
    size, query, stale = 0, JobsQuery(batch=batch_id, order="asc", limit=MAX_BATCH), False
    while True:
        part = await page(query)
        stale = stale or part.stale
        for view in part.jobs:
            assert view.batch is not None  # that is what was asked for
            found[view.batch.index], size = view, view.batch.size  # the newest, where one gave its key back
        if part.next is None:
            break
        query = replace(query, after=part.next)
    if not found and stale:
        raise Unavailable(f"It is not known yet whether there is a batch {batch_id}: ask again in a moment.")
    if not found:
        raise NotFound(f"There is no batch {batch_id}.", field="batch")
    return replace(batch_view(batch_id, size, [found[place] for place in sorted(found)]), stale=stale)


def batch_view(batch_id: str, size: int, views: Sequence[JobView]) -> BatchView:
    """A batch of so many requests, by those of its jobs that there are."""
    counts = Counter(view.status for view in views)
    absent = size - len(views)
    return BatchView(
        id=batch_id,
        size=size,
        jobs=[view.id for view in views],
        counts={word: counts[word] for word in STATUSES},
        absent=absent,
        ended=not absent and all(view.ended for view in views),
    )


def _within(where: str, fault: Fault) -> Fault:
    """A fault of one of several requests."""
    field = f"{where}.{fault.field}" if fault.field else where
    return replace(fault, field=field, detail=f"{where}: {fault.detail}")
