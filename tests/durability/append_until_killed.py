"""The victim of test_store_kill: appends for ever and prints what was acknowledged. `hasty`: before its commit."""

from __future__ import annotations

import asyncio
import os
import sys

from test_store_sqlite import Hasty

from rushes.eventstore.sqlite import Connection, SqliteStore
from rushes.testing.eventstore import birth, more

EVENTS = 3  # an append


async def main(path: str, how: str) -> None:
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
