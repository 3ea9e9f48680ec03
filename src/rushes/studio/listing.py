"""Which jobs there are, in pages: the list says which, the log what they are now."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection
from typing import Final

import msgspec
from msgspec.structs import replace

from rushes.actors.actor import KIND
from rushes.actors.job import PHASE_WORDS
from rushes.actors.system import Snapshot, System
from rushes.eventstore.base import Damaged, EventStore
from rushes.faults import Unreadable, bad
from rushes.studio.doors import JobList
from rushes.video import OPERATIONS, UNREADABLE, JobsQuery, JobView, ListPlace, Page

_WORDS: Final = ("status", "phase", "billed", "provider", "model", "operation")


async def page_of(
    system: System, jobs: JobList, query: JobsQuery, tenant: str, view_of: Callable[[Snapshot], JobView]
) -> Page:
    """The jobs of a query that was narrowed, without those that changed and are not asked for any more.

    Raises BadRequest about `after` or `before`, or Unavailable.
    """
    places, stale = await jobs.page(query, tenant, await _behind(system.store, query, tenant))
    shown = places[: query.limit]
    streams = await system.store.streams([stream for _, stream in shown])
    mine = [streams[stream] for _, stream in shown if stream in streams and streams[stream].tenant == tenant]
    found = await system.look_many(mine)
    views = [view_of(one) for one in found if not isinstance(one, Unreadable)]
    views = [view for view in views if _is_asked_for(view, query)]
    if query.sort == "updated":  # some may have changed since
        views.sort(key=lambda view: view.updated_at, reverse=query.order == "desc")
    has_more = len(places) > query.limit
    return Page(
        jobs=views,
        has_more=has_more,
        next=_cursor(query, shown[-1]) if has_more else None,
        unreadable=[one.job_id for one in found if isinstance(one, Unreadable)],
        stale=stale,
    )


def narrowed(query: JobsQuery, providers: Collection[str]) -> JobsQuery:
    """The query in the words of the list. Raises BadRequest."""
    _check_word("phase", query.phase, [*PHASE_WORDS.values(), UNREADABLE])
    _check_word("operation", query.operation, OPERATIONS.values())
    provider, _, model = (query.model or "").partition("/")
    if model and provider in providers and query.provider in {None, provider}:
        return replace(query, provider=provider, model=model)
    return query


async def behind(store: EventStore, job_id: str, tenant: str) -> str:
    """The `after` of a page that goes on behind a job, in a list by creation. Raises BadRequest about `after`."""
    return _cursor(JobsQuery(), await _edge(store, "after", job_id, tenant))


async def _behind(store: EventStore, query: JobsQuery, tenant: str) -> ListPlace | None:
    """Where the page begins."""
    if query.before is None:
        return None if query.after is None else _place(query)
    if query.after is not None:
        raise bad("before", "Give one of 'before' and 'after': 'after' is enough.")
    if (query.sort, query.order) != ("created", "desc"):
        raise bad("before", "'before' is for the newest first: give the page's 'next' as 'after'.")
    return await _edge(store, "before", query.before, tenant)


async def _edge(store: EventStore, field: str, job_id: str, tenant: str) -> ListPlace:
    """A job's place in a list by creation. Raises BadRequest."""
    edge = await store.find(job_id)
    if edge is None or edge.tenant != tenant or edge.kind != KIND:
        raise bad(field, f"There is no job {job_id}.")
    try:
        (first,) = await store.read(edge.id, limit=1)
    except Damaged as error:
        detail = f"The beginning of job {job_id} is damaged: give the page's 'next' as 'after'."
        raise bad(field, detail) from error
    return first.at, edge.id


def _cursor(query: JobsQuery, place: ListPlace) -> str:
    """A place in a list, as text that needs no quoting."""
    return base64.urlsafe_b64encode(msgspec.json.encode([query.sort, *place])).decode().rstrip("=")


def _place(query: JobsQuery) -> ListPlace:
    """Where `after` says that the list goes on. Raises BadRequest."""
    try:
        text = base64.urlsafe_b64decode(f"{query.after}==")
        sort, at, stream = msgspec.json.decode(text, type=tuple[str, float, int])
    except ValueError as error:  # msgspec's and base64's own are ValueErrors
        raise bad("after", f"{query.after!r} is no place in a list: give the 'next' of the page before.") from error
    if sort != query.sort:
        raise bad("after", f"This place is in a list sorted by {sort!r}, not by {query.sort!r}: begin a new list.")
    return at, stream


def _check_word(field: str, word: str | None, known: Collection[str]) -> None:
    if word is not None and word not in known:
        raise bad(field, f"There is no {field} {word!r}: choose one of {', '.join(known)}.")


def _is_asked_for(view: JobView, query: JobsQuery) -> bool:
    return (
        all(getattr(query, word) in {None, getattr(view, word)} for word in _WORDS)
        and query.customer_id in {None, view.request.customer_id}
        and query.batch in {None, view.batch.id if view.batch else None}
        and (query.created_after is None or view.created_at > query.created_after)
        and (query.created_before is None or view.created_at < query.created_before)
    )
