"""Stop a process at an exact moment of a job's life, to see what the next one makes of it.

    with armed("before submission.accepted"):
        sys.exit(rushes.cli.main(["serve", "--data", folder]))

`before EVENT` is just before an event of a job goes to the log, and `after EVENT` when it is on disk and nobody has
been told; EVENT is any name in `rushes.actors.messages.TYPES`. `during send` is when a provider has answered a paid
call and nobody has read the answer, `during download` when a part of a take lies in its file.

The shipped code knows nothing of this: what it calls is wrapped, in this process and while the block lasts.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Final

from aiohttp import ClientResponse
from aiohttp.connector import Connection

from rushes.actors.messages import TYPES
from rushes.adapters.base import Adapter, Request, Response
from rushes.adapters.http import Http
from rushes.assets import BLOCK_BYTES, KeepAs
from rushes.eventstore.base import Stored, Write
from rushes.eventstore.sqlite import SqliteStore
from rushes.units import AssetRef
from rushes.video import Target

POINTS: Final = (
    *(f"{when} {event}" for event in TYPES.values() for when in ("before", "after")),
    "during send",
    "during download",
)
Reached = Callable[[], Awaitable[None]]
_paying: ContextVar[bool] = ContextVar("_paying", default=False)


async def kill() -> None:
    """End this process as `kill -9` does: nothing is said, nothing is finished."""
    os.kill(os.getpid(), signal.SIGKILL)


def armed(point: str, reached: Reached = kill) -> AbstractContextManager[None]:
    """Call `reached`, and wait for it, whenever a job of this process comes to the point. Raises ValueError."""
    if point not in POINTS:
        raise ValueError(f"There is no point {point!r}: choose one of {', '.join(POINTS)}.")
    when, _, what = point.partition(" ")
    if when != "during":
        return _at_event(when, what, reached)
    return _during_send(reached) if what == "send" else _during_download(reached)


@contextmanager
def _replaced(owner: type, name: str, function: object) -> Generator[None]:
    real = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, real)


def _at_event(when: str, event: str, reached: Reached) -> AbstractContextManager[None]:
    real = SqliteStore.append

    async def append(store: SqliteStore, write: Write) -> Stored:
        here = any(new.type == event for new in write.events)
        if here and when == "before":
            await reached()
        stored = await real(store, write)
        if here and when == "after":
            await reached()
        return stored

    return _replaced(SqliteStore, "append", append)


@contextmanager
def _during_send(reached: Reached) -> Generator[None]:
    send, start = Http.send, ClientResponse.start

    async def marked(http: Http, adapter: Adapter, target: Target, request: Request) -> Response:
        token = _paying.set(request.spends)
        try:
            return await send(http, adapter, target, request)
        finally:
            _paying.reset(token)

    async def started(reply: ClientResponse, connection: Connection) -> ClientResponse:
        reply = await start(reply, connection)  # its head has come, so the provider has done what it does
        if _paying.get():
            await reached()
        return reply

    with _replaced(Http, "send", marked), _replaced(ClientResponse, "start", started):
        yield


def _during_download(reached: Reached) -> AbstractContextManager[None]:
    real = KeepAs.__call__

    async def keep(sink: KeepAs, chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        return await real(sink, _halted(chunks, reached), media_type=media_type, size_bytes=size_bytes)

    return _replaced(KeepAs, "__call__", keep)


async def _halted(chunks: AsyncIterator[bytes], reached: Reached) -> AsyncIterator[bytes]:
    """The same bytes, with a halt when the first block was written, or before the end of what has no whole block."""
    passed_bytes, halted = 0, False
    async for chunk in chunks:
        if passed_bytes >= BLOCK_BYTES and not halted:
            halted = True
            await reached()
        yield chunk
        passed_bytes += len(chunk)
    if not halted:
        await reached()
