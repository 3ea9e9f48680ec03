"""What a subscription is about: its filter, how the jobs are that it names, and the position at which they are so."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from rushes.api.feed import Filter
from rushes.api.protocol import Cursor, Subscribe, Subscribed
from rushes.eventstore.base import Damaged
from rushes.faults import Unreadable, bad
from rushes.studio import Studio
from rushes.video import JobsQuery, JobView


class Seen(Struct, frozen=True, kw_only=True):
    """The beginning of a subscription."""

    wanted: Filter
    views: Sequence[JobView] = ()
    unreadable: Sequence[Unreadable] = ()  # why jobs that are named are not among them
    partial: bool = False
    position: int  # behind it lies every event that the views do not contain


def subscribed(frame: Subscribe, seen: Seen) -> Subscribed:
    """The answer to somebody who subscribes."""
    one = frame.job is not None
    return Subscribed(
        id=frame.id,
        recovered=frame.start != "now",
        snapshot=seen.views[0] if one and seen.views else None,
        snapshots=() if one else seen.views,
        partial=seen.partial,
        position=beginning(frame, seen),
    )


def beginning(frame: Subscribe, seen: Seen) -> int:
    """The position behind which a subscriber is told."""
    match frame.start:
        case Cursor(position=position):
            return position
        case "start":
            return 0
        case "now":
            return seen.position


class Selection:
    """Looks at the jobs of a subscription."""

    def __init__(self, studio: Studio) -> None:
        self._studio, self._store = studio, studio.store

    def cannot_continue(self, cursor: Cursor) -> str:
        """Why the log does not go on behind a cursor; empty where it does."""
        if cursor.epoch != self._store.epoch:
            return f"the log is another one: its epoch is {self._store.epoch!r}"
        if cursor.position > self._store.position:
            return f"the log ends at position {self._store.position}"
        return ""

    async def look(self, frame: Subscribe, tenant: str) -> Seen:
        """What is subscribed to, and how it is. Raises BadRequest, NotFound or Unavailable."""
        named = [name for name in ("job", "jobs", "batch") if getattr(frame, name) is not None]
        if not named:
            return await self._look_around(frame, tenant)
        if len(named) > 1:
            raise bad(named[1], f"Give one of 'job', 'jobs' and 'batch', not {named[0]!r} and {named[1]!r} together.")
        if frame.snapshots:
            raise bad("snapshots", "Jobs that are named are all shown: leave 'snapshots' out.")
        if frame.batch is not None:
            return await self._look_into(frame.batch, frame, tenant)
        return await self._look_at((frame.job,) if frame.job is not None else frame.jobs or (), frame, tenant)

    async def _look_into(self, batch_id: str, frame: Subscribe, tenant: str) -> Seen:
        """Its jobs by what the log says of them, not by their names: more of them begin when it is sent again.

        One that nobody has begun a job of is not known, as no answer has told its id: more likely it is mistyped.
        """
        now = self._store.position  # what begins while we look is told
        batch = await self._studio.batch(batch_id, tenant)
        seen = await self._look_at(batch.jobs, frame, tenant)
        wanted = replace(seen.wanted, streams=None, batch=batch_id)
        partial = batch.stale or batch.absent > 0
        return replace(seen, wanted=wanted, partial=partial, position=min(now, seen.position))

    async def _look_around(self, frame: Subscribe, tenant: str) -> Seen:
        wanted = Filter(tenant, None, frame.status or "", frame.provider or "")
        now = self._store.position
        if not frame.snapshots:
            return Seen(wanted=wanted, position=now)
        query = JobsQuery(status=frame.status, provider=frame.provider, sort="updated", limit=frame.snapshots)
        page = await self._studio.page(query, tenant)
        partial = page.has_more or page.stale or bool(page.unreadable)
        return Seen(wanted=wanted, views=page.jobs, partial=partial, position=now)

    async def _look_at(self, names: Sequence[str], frame: Subscribe, tenant: str) -> Seen:
        """A job that cannot be read has events that can."""
        now = self._store.position
        views: list[JobView] = []
        unreadable: list[Unreadable] = []
        streams: dict[str, int] = {}
        for name in names:
            try:
                views.append(await self._studio.show(name, tenant))
            except Unreadable as why:
                unreadable.append(why)
            stream = await self._store.find(name)
            assert stream is not None  # it was found, and streams are never removed
            streams[name] = stream.id
        if frame.job is None:
            positions = [await self._before_the_next(streams[view.id], view.version, now) for view in views]
            now = min(now, *positions) if positions else now
        elif views:
            now = await self._position_of(streams[frame.job], views[0].version) or now
        wanted = Filter(tenant, frozenset(streams.values()), frame.status or "", frame.provider or "")
        return Seen(wanted=wanted, views=views, unreadable=unreadable, position=now)

    async def _position_of(self, stream: int, version: int) -> int:
        """The position of the event that made a version: there the job was exactly so.

        That is not the end of the log: the job may have moved between reading the one and the other. 0 where the event
        is not there: a job in memory outlives its damaged log until it sleeps.
        """
        try:
            made = await self._store.read(stream, version - 1, 1)
        except Damaged as error:
            return error.damage.position
        return made[0].position if made else 0

    async def _before_the_next(self, stream: int, version: int, now: int) -> int:
        """The last position that a version contains all of: a job in memory is a moment behind the log."""
        try:
            following = await self._store.read(stream, version, 1)
        except Damaged as error:
            return error.damage.position - 1
        return following[0].position - 1 if following else now
