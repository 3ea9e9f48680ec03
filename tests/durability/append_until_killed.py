"""The victim of test_store_kill: appends for ever and prints what was acknowledged. `hasty`: before its commit."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys

import structlog

from rushes.eventstore.sqlite import Connection, SqliteStore
from rushes.testing.eventstore import birth, more

EVENTS = 3  # an append


class Hasty(Connection):
    """Says that it committed, and does so when ten transactions have come together."""

    begun = 0

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT":
            return self.cursor()
        if sql == "BEGIN IMMEDIATE" and self.in_transaction:
            self.begun += 1
            if self.begun % 10:
                return self.cursor()
            super().execute("COMMIT")
        return super().execute(sql, parameters)


async def main(path: str, how: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for what was acknowledged
    store = await SqliteStore.open(path, factory=Hasty if how == "hasty" else Connection)

    async def writer(number: int) -> None:
        stored = await store.append(birth(f"{os.getpid()}_{number}", EVENTS))
        version = EVENTS
        while True:
            os.write(1, b"%d %d %d\n" % (stored.stream, version, stored.last))
            stored = await store.append(more(stored.stream, version, EVENTS, token=version))
            version += EVENTS

    await asyncio.gather(*map(writer, range(20)))


asyncio.run(main(*sys.argv[1:]))
