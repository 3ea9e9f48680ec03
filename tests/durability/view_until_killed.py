"""The victim of test_views_file: tells stories and lists jobs, until its n-th statement on views.db kills it.

`apart`: every statement is a transaction of its own, which is what the protection is against.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from listing import T0, Log, story

from rushes.eventstore.sqlite import Call, Connection, SqliteStore
from rushes.video import JobsQuery
from rushes.views.jobs import JobsView


class Dying(Connection):
    """Dies before its n-th statement."""

    left = 0
    apart = False

    def count(self) -> None:
        Dying.left -= 1
        if Dying.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        if isinstance(parameters, Call):
            return super().execute(sql, parameters)
        self.count()
        if self.apart and sql in {"BEGIN IMMEDIATE", "COMMIT"}:
            return self.cursor()
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        self.count()
        return super().executemany(sql, parameters)


async def main(folder: str, how: str, after: str) -> None:
    store = await SqliteStore.open(Path(folder) / "rushes.db")
    Dying.left, Dying.apart = int(after), how == "apart"
    view = await JobsView.open(store, Path(folder) / "views.db", factory=Dying)
    log, round_ = Log(store), store.position
    while True:
        for number in range(3):
            name = f"job_{round_}_{number}"
            await log.tell(name, story("succeeded")[: 2 + number], T0 + round_)
        await view.page(JobsQuery(), "default", None)
        for number in range(3):
            await log.tell(f"job_{round_}_{number}", story("succeeded")[2 + number :], T0 + round_)
        await view.page(JobsQuery(), "default", None)
        round_ += 1


asyncio.run(main(*sys.argv[1:]))
