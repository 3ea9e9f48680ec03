"""The victim of test_store_loss: appends, and dies inside a COMMIT. `eager`: it is marked before it is committed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from rushes.eventstore.base import Write
from rushes.eventstore.marker import Keeper, Marker, write_marker
from rushes.eventstore.sqlite import Connection, SqliteStore
from rushes.eventstore.writer import Answer
from rushes.testing.eventstore import birth


def deadly(last: int) -> type[Connection]:
    """Connections that die when they shall commit for the last time."""
    commits = 0

    class Deadly(Connection):
        def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
            nonlocal commits
            if sql == "COMMIT":
                commits += 1
                if commits == last:
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().execute(sql, parameters)

    return Deadly


class Eager(SqliteStore):
    """The control: what is about to be committed is marked already."""

    async def _commit(self, writes: Sequence[Write]) -> Sequence[Answer]:
        ahead = self.position + sum(len(write.events) for write in writes)
        write_marker(self.path, Marker(epoch=self.epoch, position=ahead, crc=1))
        return await super()._commit(writes)


async def main(path: Path, how: str, last: int) -> None:
    eager = how == "eager"
    store = await (Eager if eager else SqliteStore).open(path, factory=deadly(last))
    assert store._keeper
    store._keeper = Keeper(path, store._keeper._head, every_s=3600.0 if eager else 0.001)
    number = store.position
    while True:
        number += 1
        await store.append(birth(f"job_{number}", token=number))


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
