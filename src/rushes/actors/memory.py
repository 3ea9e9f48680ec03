"""Which jobs are in memory: loaded from the log when somebody wants them, let go when they only wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final

import structlog

from rushes.actors.actor import Actor, lane_of
from rushes.actors.codec import BadEvent
from rushes.actors.lanes import Lane
from rushes.actors.tally import Tally
from rushes.eventstore.base import Damaged, EventStore, Recorded, Stream
from rushes.faults import Unreadable, damaged

IDLE_AT_ONCE: Final = 1_024  # so many more than wanted may wait in memory, and leave together
_log = structlog.get_logger("rushes")


class Memory:
    """The live actors, by stream and by name. Each job has one at most."""

    def __init__(
        self,
        store: EventStore,
        *,
        lanes: Mapping[str, Lane],
        lane: Callable[[str], Lane],
        tally: Tally,
        release: str,
        max_idle: int,
    ) -> None:
        """The memory of one system.

        Args:
            store: the log.
            lanes: those that there are.
            lane: makes one that there is not.
            tally: is told how long replays take.
            release: ours: it is named to people whose log a newer one wrote.
            max_idle: jobs that wait and are kept all the same.
        """
        self._store, self._lanes, self._lane, self._tally, self._release = store, lanes, lane, tally, release
        self._max_idle, self._most_idle = max_idle, max_idle + min(max_idle, IDLE_AT_ONCE)
        self.live: dict[int, Actor] = {}
        self.names: dict[str, Actor] = {}  # the same by their public names, and those that are being born
        self.idle: dict[int, None] = {}  # those of the live that only wait, the longest first
        self.stopped: dict[int, Unreadable] = {}  # jobs that a bug stopped, until the next start

    # ── in ──

    async def load(self, ids: Sequence[int]) -> list[Unreadable]:
        """Make these live; what cannot be is said, and harms no other."""
        asleep = [stream for stream in ids if stream not in self.live]
        if not asleep:
            return []
        rows, histories = await asyncio.gather(self._store.streams(asleep), self._store.read_many(asleep))
        unreadable: list[Unreadable] = []
        began_s = time.perf_counter()
        replayed = self._replayed(list(rows.values()), histories)
        self._tally.replays.observe(time.perf_counter() - began_s)
        for actor in replayed:
            if isinstance(actor, Unreadable):
                _log.error("job.unreadable", job=actor.job_id, detail=actor.detail)
                unreadable.append(actor)
            elif actor.stream is not None and actor.stream not in self.live:
                lane = actor.lane = self._lane(lane_of(actor.job))
                lane.came_back(actor.stream)
                self.live[actor.stream] = self.names[actor.name] = actor
        return unreadable

    async def look_many(self, streams: Sequence[Stream]) -> list[Actor | Unreadable]:
        """As the log has them at this moment, for looking only; what cannot be read is said in its place."""
        return self._replayed(streams, await self._store.read_many([stream.id for stream in streams]))

    def _replayed(
        self, streams: Sequence[Stream], histories: Mapping[int, list[Recorded] | Damaged]
    ) -> list[Actor | Unreadable]:
        return [self.stopped.get(stream.id) or self._replay(stream, histories[stream.id]) for stream in streams]

    def _replay(self, stream: Stream, history: list[Recorded] | Damaged) -> Actor | Unreadable:
        """One stream's actor. What goes wrong here is that stream's trouble alone."""
        if isinstance(history, Damaged):
            return damaged(stream.name, history.damage.version, history.damage.position)
        if not history or history[-1].version != len(history):
            return damaged(stream.name, _first_missing(history), 0)
        actor = Actor(stream.name, stream.tenant, stream.id)
        try:
            actor.replay(history)
        except BadEvent as bad:
            return bad.about(stream.name, self._release, self._store.release)
        except Exception as error:  # noqa: BLE001 - one job's trouble stays with that job
            detail = f"The events of {stream.name} do not follow each other ({type(error).__name__}): please report it."
            return Unreadable(detail, job_id=stream.name)
        if (live := self.live.get(stream.id)) is not None:
            actor.recall(live.learned, live.trouble)
        elif (lane := self._lanes.get(lane_of(actor.job))) is not None:
            actor.recall(*lane.recall(stream.id))
        return actor

    # ── out ──

    def rest(self, actor: Actor) -> None:
        """Nothing moves. The log has all that matters, so whoever has waited longest may leave."""
        assert actor.stream is not None
        self.idle[actor.stream] = None
        if len(self.idle) > self._most_idle:
            for stream in list(islice(self.idle, len(self.idle) - self._max_idle)):
                left = self.live.pop(stream)
                del self.idle[stream], self.names[left.name]
                if left.lane is not None:
                    left.lane.remember(stream, left.learned, left.trouble)

    def rouse(self, actor: Actor) -> bool:
        """Something moves; whether nothing did before."""
        return self.idle.pop(actor.stream or 0, False) is None

    def drop(self, actor: Actor) -> None:
        """Let go of it, whatever it does, unless another has its place already."""
        if self.names.get(actor.name) is not actor:
            return
        del self.names[actor.name]
        if actor.stream is not None:
            del self.live[actor.stream]
            self.idle.pop(actor.stream, None)
            if actor.lane is not None:
                actor.lane.forget(actor.stream)


def _first_missing(history: Sequence[Recorded]) -> int:
    """The version that a stream lacks: a damaged number hides an event from its own stream."""
    return next((v for v, recorded in enumerate(history, 1) if recorded.version != v), len(history) + 1)
