"""The same stream for those who have no WebSocket: server-sent events, for a browser, curl or any HTTP client.

Every event of the log is one message, its `data` the item that an `events` frame would hold, its `id` the cursor behind
it. A browser that comes again sends the last id as `Last-Event-ID` by itself, and the stream goes on there. What is not
an event of the log (`subscribed`, `caught_up`, `problem`) has a name, so that whoever listens to plain messages gets
events alone. A silent stream carries a comment every `heartbeat_s`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Final, Literal

import msgspec
import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from msgspec import Meta, field

from rushes.api.auth import WHO, Who
from rushes.api.feed import Filter, Lost
from rushes.api.protocol import MAX_SNAPSHOTS, CaughtUp, Cursor, Refused, ServerFrame, Strict, Subscribe, error_frame
from rushes.api.rest import query
from rushes.api.selection import Seen, beginning, subscribed
from rushes.api.stream import Closing, Stream
from rushes.eventstore.base import StoreError
from rushes.faults import BadRequest, Conflict, Unavailable, bad
from rushes.video import Status, fault_of

RETRY_MS: Final = 1_000  # what a browser waits before it comes again
SUB: Final = "sse"  # the one subscription that such a stream has
MAX_DIGITS: Final = 18
_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("rushes")
_START: Final = "'from' is now, start, or a cursor EPOCH:POSITION as the id of a message holds it."


class StreamQuery(Strict, frozen=True, kw_only=True):
    """What GET /v1/events takes; the same as a `subscribe` frame, as text."""

    job: str | None = None
    jobs: str | None = None  # ids with commas between them
    batch: str | None = None
    status: Status | None = None
    provider: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    snapshots: Annotated[int, Meta(ge=0, le=MAX_SNAPSHOTS)] = 0
    start: str = field(default="now", name="from")


class JobStreamQuery(Strict, frozen=True, kw_only=True):
    """What GET /v1/jobs/{id}/stream takes."""

    start: str = field(default="now", name="from")


class EventStreams:
    """The addresses of such streams."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def of_job(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/jobs/{id}/stream."""
        asked = query(request, JobStreamQuery)
        start = _start(request, asked.start)
        return await self._answer(request, Subscribe(id=SUB, job=request.match_info["id"], start=start))

    async def of_all(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/events."""
        asked = query(request, StreamQuery)
        wanted: dict[str, object] = {
            "id": SUB,
            "job": asked.job,
            "jobs": asked.jobs.split(",") if asked.jobs is not None else None,
            "batch": asked.batch,
            "status": asked.status,
            "provider": asked.provider,
            "snapshots": asked.snapshots,
        }
        try:
            frame = msgspec.convert(wanted, Subscribe)
        except msgspec.ValidationError as error:
            raise BadRequest([fault_of(error, StreamQuery)]) from error
        return await self._answer(request, msgspec.structs.replace(frame, start=_start(request, asked.start)))

    async def _answer(self, request: web.Request, frame: Subscribe) -> web.StreamResponse:
        """Refusals are answers of HTTP; once the stream has begun, it is told in it."""
        who, limits = request[WHO], self._stream.limits
        selection = self._stream.selection
        if isinstance(frame.start, Cursor) and (reason := selection.cannot_continue(frame.start)):
            raise Conflict(f"This place in the log cannot be continued from ({reason}): begin at 'start' or 'now'.")
        seen = await selection.look(frame, who.tenant)
        if not self._stream.enter(who.tenant):
            detail = f"A tenant may have {limits.sockets} open sockets and streams: close one."
            raise Refused(429, "rate_limited", detail, retryable=True)
        try:
            response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
            response.content_type, response.charset = "text/event-stream", "utf-8"
            writer = await response.prepare(request)
            if writer is not None and (transport := request.transport) is not None and request.method == "GET":
                transport.set_write_buffer_limits(high=limits.buffered_bytes)
                await Teller(writer, transport, self._stream, who).tell(frame, seen)
        finally:
            self._stream.leave(who.tenant)
        return response


class Teller:
    """One event stream: it tells until the reader goes, the server stops or the key is revoked."""

    def __init__(self, writer: AbstractStreamWriter, transport: asyncio.Transport, stream: Stream, who: Who) -> None:
        self._writer, self._transport, self._stream, self._who = writer, transport, stream, who
        self._store, self._limits = stream.studio.store, stream.limits
        self._moved = asyncio.Event()
        self._stopping = False

    @property
    def buffered_bytes(self) -> int:
        """What waits to be taken."""
        return self._transport.get_write_buffer_size()

    async def close(self, _: Closing, /) -> None:
        """End it: the reader comes again with its last id."""
        self._stopping = True
        self._moved.set()

    async def tell(self, frame: Subscribe, seen: Seen) -> None:
        """Until somebody ends it."""
        unwatch = self._store.watch(lambda _: self._moved.set())
        unwatch_keys = self._stream.keys.watch(self._moved.set)
        self._stream.join(self)
        try:
            cursor = beginning(frame, seen)
            beginning_of_it = [b"retry: %d\n" % RETRY_MS, _named("subscribed", subscribed(frame, seen))]
            troubles = [_named("problem", error_frame(why, SUB)) for why in seen.unreadable]
            await self._send(b"".join([*beginning_of_it, *troubles]))
            await self._follow(seen.wanted, cursor)
        except (ConnectionError, StoreError, Unavailable) as error:
            _log.info("stream.ended", reason=type(error).__name__)
        except TimeoutError:
            _log.info("stream.ended", reason="too slow")
        finally:
            unwatch()
            unwatch_keys()
            self._stream.part(self)

    async def _follow(self, wanted: Filter, cursor: int) -> None:
        owes_caught_up = True
        while self._lasts:
            self._moved.clear()
            while cursor < (end := self._store.position) and self._lasts:
                page = await self._stream.feed.read(wanted, cursor)
                for part in page.messages:
                    await self._send(_named("problem", part.frame(SUB)) if isinstance(part, Lost) else part.encoded)
                cursor = page.upto
                owes_caught_up = owes_caught_up or cursor < end
            if owes_caught_up:
                await self._send(self._id(cursor) + _named("caught_up", CaughtUp(sub=SUB, position=cursor)))
                owes_caught_up = False
            if not await self._move():
                await self._send(b": the server is there\n" + self._id(cursor) + b"\n")

    @property
    def _lasts(self) -> bool:
        """Raises Unavailable where the keys cannot be read."""
        return not self._stopping and self._stream.keys.stands(self._who)

    async def _move(self) -> bool:
        """Wait for the log to grow; False where a heartbeat is due first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.heartbeat_s):
                return await self._moved.wait()
        return False

    def _id(self, cursor: int) -> bytes:
        """The cursor of a reader moves with it, and nothing is dispatched."""
        return f"id: {self._store.epoch}:{cursor}\n".encode()

    async def _send(self, text: bytes) -> None:
        """Raises TimeoutError where the reader does not take it: the connection is gone then."""
        sending = asyncio.create_task(self._write(text))  # not cancelled: see `Outlet`
        done, _ = await asyncio.wait({sending}, timeout=self._limits.send_s)
        if not done:
            self._transport.abort()
            await asyncio.wait({sending})
        sending.result()
        if not done:
            raise TimeoutError

    async def _write(self, text: bytes) -> None:
        await self._writer.write(text)
        await self._writer.drain()


def _named(name: str, frame: ServerFrame) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(frame))


def _start(request: web.Request, asked: str) -> Cursor | Literal["now", "start"]:
    """Where a reader begins. One that comes again says so in a header, which wins over the address."""
    again = request.headers.get("Last-Event-ID")
    text = asked if again is None else again
    if again is None and text in {"now", "start"}:
        return "now" if text == "now" else "start"
    epoch, _, position = text.rpartition(":")
    if not epoch or not (position.isascii() and position.isdecimal()) or len(position) > MAX_DIGITS:
        raise bad("from" if again is None else "Last-Event-ID", f"{text!r} is no place in the log. {_START}")
    return Cursor(epoch=epoch, position=int(position))
