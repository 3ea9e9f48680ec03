"""Words for tests about lists of jobs: logs of all kinds, and what the rows over them must be."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

from jobs import ASKED, HISTORIES
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.actor import head_of
from rushes.actors.codec import encode
from rushes.actors.job import replay
from rushes.eventstore.base import Birth, EventStore, Head, NewEvent, Write
from rushes.video import Target
from rushes.views.fold import CACHED, Fold
from rushes.views.rows import save, set_up

Rows = list[tuple[Any, ...]]
T0 = 1_700_000_000.0
STORIES = {name: story for name, story in HISTORIES.items() if story}
UNKNOWN = NewEvent("job.teleported", 1, T0, b"{}")


def story(name: str, target: Target | None = None, customer_id: int = 0) -> list[m.Event]:
    """What happens to a job, at a provider and for a customer."""
    target = target or ASKED.route[0]
    first = replace(ASKED, route=(target,), spec=replace(ASKED.spec, customer_id=customer_id))
    rest = [replace(e, target=target) if isinstance(e, m.SubmissionStarted) else e for e in STORIES[name][1:]]
    return [first, *rest]


class Log:
    """A store that jobs' stories are written into, event by event, without an actor."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self._told: dict[str, list[m.Event]] = {}
        self._heads: dict[str, tuple[int, int]] = {}  # name → stream, version
        self._token = store.position

    async def tell(self, name: str, events: Sequence[m.Event], at: float, tenant: str = "default") -> None:
        """The next events of a job."""
        told = self._told[name] = [*self._told.get(name, []), *events]
        head = head_of(replay([(event, at) for event in told]))
        await self._append(name, [encode(event, at, m.Wake()) for event in events], head, tenant)

    async def tell_stored(self, name: str, *events: NewEvent) -> None:
        """Whatever else may stand in a log; by default what only a newer release knows."""
        await self._append(name, list(events or (UNKNOWN,)), Head(open=True, lane=""), "default")

    async def _append(self, name: str, events: list[NewEvent], head: Head, tenant: str) -> None:
        stream, version = self._heads.get(name, (0, 0))
        self._token += 1
        where = stream or Birth(name, "job", tenant)
        stored = await self.store.append(Write(where, version, events, head, self._token))
        self._heads[name] = stored.stream, version + len(events)


async def folded(store: EventStore, stops: Sequence[int], cached: int = CACHED, kind: type[Fold] = Fold) -> Rows:
    """The rows over the log up to the last stop, by a fold that begins anew at every stop."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        position = set_up(connection, store.epoch, store.position)
        for stop in stops:
            async with aclosing(kind(store, cached).portions(position, stop)) as portions:
                async for rows, upto in portions:
                    save(connection, rows, upto)
                    position = upto
        return rows_in(connection)


def rows_in(connection: sqlite3.Connection) -> Rows:
    return connection.execute("SELECT * FROM jobs ORDER BY stream").fetchall()


def view_in(path: Path) -> tuple[int, Rows]:
    """A file's checkpoint and rows."""
    with closing(sqlite3.connect(path)) as connection:
        ((position,),) = connection.execute("SELECT position FROM checkpoint").fetchall()
        return position, rows_in(connection)
