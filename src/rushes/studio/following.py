"""What happens to jobs, as it happens: the log is followed, so nothing is missed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from rushes.actors import messages as m
from rushes.actors.system import Snapshot, System
from rushes.eventstore.base import EventStore
from rushes.eventstore.follow import follow
from rushes.eventstore.wakes import Wakes
from rushes.video import JobView


async def changes(system: System, wakes: Wakes, job_id: str, stream: int) -> AsyncGenerator[Snapshot]:
    """A job now, and again whenever it changed, until it has ended. Raises NotFound, or Unreadable."""
    version = 0
    async with aclosing(wakes.of(stream)) as woken:
        async for _ in woken:
            snapshot = await system.look(job_id)
            if snapshot.version > version:
                version = snapshot.version
                yield snapshot
            if isinstance(snapshot.job, m.Ended):
                return


async def changes_of_all(
    store: EventStore, names: dict[int, str], show: Callable[[str], Awaitable[JobView]]
) -> AsyncGenerator[JobView]:
    """The same for several jobs, by their streams, until all of them have ended."""
    waiting, versions = dict(names), dict.fromkeys(names, 0)
    async with aclosing(_grown(store, [*waiting])) as grown:
        async for streams in grown:
            for stream in [one for one in dict.fromkeys(streams) if one in waiting]:
                view = await show(waiting[stream])
                if view.version > versions[stream]:
                    versions[stream] = view.version
                    yield view
                if view.ended:
                    del waiting[stream]
            if not waiting:
                return


async def _grown(store: EventStore, streams: list[int]) -> AsyncGenerator[list[int]]:
    """These streams, and then whichever have grown or were found damaged; ends with the store."""
    after = store.position
    yield streams
    async with aclosing(follow(store, after)) as log:
        async for part in log:
            yield [*(event.stream for event in part.events), *(damage.stream for damage in part.damaged)]
