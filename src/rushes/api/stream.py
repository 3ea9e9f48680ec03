"""The WebSocket: the log as it grows, pushed to whoever subscribes, and commands the other way.

A socket has one task that hears and one that tells. The teller has a cursor for every subscription and nothing else: it
reads the log behind each cursor, and sends. Whoever has reached the end joins its audience, where all who follow the
same are told at once, until he has no room for more: then his own teller waits for him again. There is no queue, so a
reader that is slow costs what its socket may hold and one page that others share; one that does not take a frame within
the send timeout is closed with 4413, and comes again with its cursor. Because the log is all that is ever read, nothing
is missed or doubled between history and presence.

A command runs in a task of the server's, not of the socket's: it is carried out whether or not anybody waits for it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final, Protocol

import msgspec
import structlog
from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from msgspec import Struct

from rushes.api.audience import Audiences, Subscription
from rushes.api.auth import Keys, Who
from rushes.api.commands import answer
from rushes.api.feed import Feed, Lost, Part
from rushes.api.protocol import (
    SUBPROTOCOL,
    BadFrame,
    CaughtUp,
    ClientFrame,
    Close,
    Command,
    Cursor,
    Heartbeat,
    Hello,
    Ping,
    Pong,
    Refused,
    Resync,
    ServerFrame,
    Subscribe,
    Unsubscribe,
    Welcome,
    error_frame,
    read_frame,
)
from rushes.api.selection import Selection, beginning, subscribed
from rushes.eventstore.base import StoreError
from rushes.faults import NotFound, RushesError, bad
from rushes.studio import Studio

CLOSE_S: Final = 2.0  # for the other side to answer a close
BURST_S: Final = 5.0  # so many seconds' worth of messages may come at once

_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("rushes")


class Limits(Struct, frozen=True, kw_only=True):
    """How patient the server is with a connection, and how much it gives to one. The settings `ws_…` are these."""

    hello_s: float = 5.0  # to say hello in
    send_s: float = 10.0  # for a reader to take a frame
    heartbeat_s: float = 30.0  # between two signs of life
    sockets: int = 50  # open at a time, WebSockets and event streams together, of one tenant
    subscriptions: int = 20  # of one socket
    commands: int = 16  # of one socket, under way at a time
    message_bytes: int = 64 * 1024  # of a message from a client
    messages_per_s: float = 20.0  # from a client, on average; five seconds' worth may come at once
    buffered_bytes: int = 256 * 1024  # that wait for a slow reader, besides one frame


class Connection(Protocol):
    """Somebody who is connected."""

    @property
    def buffered_bytes(self) -> int:
        """What waits to be taken."""
        ...

    async def close(self, why: Closing, /) -> None:
        """End it, whether or not the other side still listens."""
        ...


class Closing(Exception):
    """Ends a conversation."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Stream:
    """The socket's address, and everybody who is connected."""

    def __init__(self, studio: Studio, limits: Limits, keys: Keys) -> None:
        self.studio, self.limits, self.keys = studio, limits, keys
        self.feed, self.selection = Feed(studio.store), Selection(studio)
        self.audiences = Audiences(studio.store, self.feed)
        self._connections: set[Connection] = set()
        self._tenants = Counter[str]()
        self._commands: set[asyncio.Task[None]] = set()

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/ws."""
        offered = request.headers.get("Sec-WebSocket-Protocol", SUBPROTOCOL)
        if SUBPROTOCOL not in [word.strip() for word in offered.split(",")]:
            raise bad("Sec-WebSocket-Protocol", f"The server speaks {SUBPROTOCOL!r}, and you offer {offered!r}.")
        ws = web.WebSocketResponse(
            timeout=CLOSE_S,
            heartbeat=self.limits.heartbeat_s,
            protocols=(SUBPROTOCOL,),
            compress=False,
            max_msg_size=self.limits.message_bytes,
            writer_limit=sys.maxsize,  # we wait ourselves, see `Socket._drain`
        )
        if not ws.can_prepare(request):
            raise Refused(426, "invalid_input", "This is a WebSocket's address: connect with a WebSocket client.")
        writer, transport = await ws.prepare(request), request.transport
        if transport is None:  # gone already
            return ws
        transport.set_write_buffer_limits(high=self.limits.buffered_bytes)
        socket = Socket(ws, Outlet(writer, transport, request.protocol), self)
        self._connections.add(socket)
        try:
            await socket.converse()
        finally:
            self._connections.discard(socket)
            socket.end()  # whoever takes nothing does not take the close either
            asyncio.get_running_loop().call_later(self.limits.send_s, transport.abort)
        return ws

    @property
    def connected(self) -> int:
        """How many are connected."""
        return len(self._connections)

    @property
    def buffered_bytes(self) -> int:
        """What waits to be taken by all of them."""
        return sum(connection.buffered_bytes for connection in self._connections)

    def enter(self, tenant: str) -> bool:
        """Count somebody in; False where the tenant has enough of them."""
        if self._tenants[tenant] >= self.limits.sockets:
            return False
        self._tenants[tenant] += 1
        return True

    def leave(self, tenant: str) -> None:
        """Count somebody out."""
        self._tenants[tenant] -= 1

    def join(self, connection: Connection) -> None:
        """Say goodbye to it, too, when the server stops."""
        self._connections.add(connection)

    def part(self, connection: Connection) -> None:
        """It has ended."""
        self._connections.discard(connection)

    def run(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Have it done, whoever goes away meanwhile."""
        task = asyncio.create_task(work)
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        return task

    async def close(self) -> None:
        """Let commands end for a moment, then say goodbye to everybody: they may come again with their cursors."""
        if self._commands:
            await asyncio.wait(self._commands, timeout=CLOSE_S)
        for command in self._commands:
            command.cancel()
        goodbye = Closing(Close.STOPPING, "bye: the server is stopping")
        await asyncio.gather(*[connection.close(goodbye) for connection in tuple(self._connections)])


class Bucket:
    """How many messages somebody may send: so many a second, and five seconds' worth at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s, self._most = per_s, max(1.0, per_s * BURST_S)
        self._left, self._at = self._most, asyncio.get_running_loop().time()

    def take(self) -> bool:
        """One message more; False where that is too many."""
        now = asyncio.get_running_loop().time()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s) - 1
        self._at = now
        return self._left >= 0


class Outlet:
    """What waits for a reader to take it.

    aiohttp lets all who wait share one future, which dies with the first of them that is cancelled and takes the others
    along. So one task waits for all, and nobody but the end of the connection cancels it.
    """

    def __init__(self, writer: AbstractStreamWriter, transport: asyncio.Transport, protocol: BaseProtocol) -> None:
        """`protocol`: what the transport tells that as much waits as may."""
        self._writer, self._transport, self._protocol = writer, transport, protocol
        self._drain: asyncio.Task[None] | None = None

    @property
    def buffered_bytes(self) -> int:
        """What waits."""
        return self._transport.get_write_buffer_size()

    @property
    def full(self) -> bool:
        """Whether as much waits as may."""
        return self._protocol.writing_paused

    def take(self, frame: bytes) -> bool:
        """Write a whole frame, or nothing where there is no room or no reader."""
        if self._protocol.writing_paused or self._transport.is_closing():
            return False
        self._transport.write(frame)
        return True

    async def room(self, within_s: float) -> None:
        """Wait until there is room for another frame. Raises TimeoutError, or ConnectionError where the reader left."""
        while self._protocol.writing_paused:
            if self._drain is None or self._drain.done():
                self._drain = asyncio.create_task(self._writer.drain())
            done, _ = await asyncio.wait({self._drain}, timeout=within_s)
            if not done:
                raise TimeoutError
            self._drain.result()
            if self._transport.is_closing():
                raise ConnectionResetError

    def close(self) -> None:
        """The connection has ended: nobody waits any more."""
        if self._drain is not None:
            self._drain.cancel()


class Socket:
    """One conversation."""

    def __init__(self, ws: web.WebSocketResponse, outlet: Outlet, stream: Stream) -> None:
        self._ws, self._outlet, self._stream = ws, outlet, stream
        self._store, self._limits = stream.studio.store, stream.limits
        self._subscriptions: dict[str, Subscription] = {}
        self._guest: Who | None = None  # until hello
        self._moved = asyncio.Event()  # somebody is not in an audience, a key was revoked, or a heartbeat is due
        self._bucket = Bucket(self._limits.messages_per_s)
        self._commands: set[asyncio.Task[None]] = set()

    @property
    def buffered_bytes(self) -> int:
        """What waits to be taken."""
        return self._outlet.buffered_bytes

    @property
    def full(self) -> bool:
        """See Seat."""
        return self._outlet.full

    def take(self, frame: bytes) -> bool:
        """See Seat."""
        return not self._ws.closed and self._stands() and self._outlet.take(frame)

    def wake(self) -> None:
        """See Seat."""
        self._moved.set()

    def end(self) -> None:
        """Nothing is sent any more."""
        self._outlet.close()

    async def converse(self) -> None:
        """Until one side ends it."""
        try:
            who = await self._greet()
        except Closing as why:
            await self.close(why)
            return
        self._guest = who
        unwatch_keys = self._stream.keys.watch(self._moved.set)  # a quiet socket ends with its key, too
        try:
            async with asyncio.TaskGroup() as tasks:
                teller = tasks.create_task(self._tell(who))
                await self._listen(who)
                teller.cancel()
        except* Closing as ended:
            await self.close(_first(ended))
        except* StoreError as error:
            _log.warning("socket.broken", error=str(error.exceptions[0]))
            await self.close(Closing(Close.BROKEN, "the log cannot be read"))
        finally:
            unwatch_keys()
            for subscription in self._subscriptions.values():
                self._stream.audiences.leave(subscription)
            self._stream.leave(who.tenant)

    async def close(self, why: Closing) -> None:
        """Close with a code and a reason, whether or not the other side still listens."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._ws.close(code=why.code, message=why.reason.encode(), drain=False)

    # ── hearing ──

    async def _greet(self) -> Who:
        """Wait for hello, and let its sender in, or raise Closing."""
        try:
            async with asyncio.timeout(self._limits.hello_s):
                while not isinstance(hello := await self._heard(strict=True), Hello):
                    await self._send(error_frame(bad("type", "Say hello first."), ""))
        except TimeoutError:
            raise Closing(Close.NO_HELLO, f"no hello within {self._limits.hello_s:g} s") from None
        who = self._who(hello.token)
        if not self._stream.enter(who.tenant):
            raise Closing(Close.TOO_MANY, f"a tenant may have {self._limits.sockets} open sockets")
        try:
            heartbeat_s = self._limits.heartbeat_s
            await self._send(Welcome(epoch=self._store.epoch, position=self._store.position, heartbeat_s=heartbeat_s))
        except BaseException:
            self._stream.leave(who.tenant)
            raise
        return who

    def _who(self, token: str) -> Who:
        try:
            who = self._stream.keys.authenticate(token)
        except RushesError as error:
            raise Closing(Close.BROKEN, "the server cannot read its keys") from error
        if who is None:
            raise Closing(Close.UNAUTHORISED, "the server needs a key: send it as the token of hello")
        return who

    def _stands(self) -> bool:
        """Whether it may be told more now. `_check` says why not."""
        try:
            return self._guest is not None and self._stream.keys.stands(self._guest)
        except RushesError:
            return False

    def _check(self, who: Who) -> None:
        """Raise Closing where a key was revoked meanwhile."""
        try:
            stands = self._stream.keys.stands(who)
        except RushesError as error:
            raise Closing(Close.BROKEN, "the server cannot read its keys") from error
        if not stands:
            raise Closing(Close.UNAUTHORISED, "the key was revoked")

    async def _listen(self, who: Who) -> None:
        while True:
            frame = await self._heard()
            self._check(who)
            try:
                await self._obey(frame, who)
            except RushesError as error:
                await self._send(error_frame(error, "" if isinstance(frame, Hello | Ping) else frame.id))

    async def _heard(self, *, strict: bool = False) -> ClientFrame:
        """The next frame that can be read; about others there is an error frame. `strict`: no JSON object, no talk."""
        while True:
            message = await self._ws.receive()
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                raise Closing(Close.STOPPING, "")  # it is closed already
            if not self._bucket.take():
                raise Closing(Close.TOO_MANY, f"more than {self._limits.messages_per_s:g} messages a second")
            try:
                return read_frame(message.data)
            except BadFrame as error:
                if strict and not error.is_object:
                    raise Closing(Close.BAD_MESSAGE, "a frame is a JSON object") from error
                await self._send(error_frame(error, error.id))

    async def _obey(self, frame: ClientFrame, who: Who) -> None:
        match frame:
            case Subscribe():
                await self._subscribe(frame, who)
            case Unsubscribe(id=id):
                if (subscription := self._subscriptions.pop(id, None)) is None:
                    raise NotFound(f"There is no subscription {id!r}.", field="id")
                self._stream.audiences.leave(subscription)
            case Command():
                self._command(frame, who)
            case Ping():
                await self._send(Pong())
            case Hello():
                raise bad("type", "Hello was said already.")

    async def _subscribe(self, frame: Subscribe, who: Who) -> None:
        if frame.id in self._subscriptions:
            raise Closing(Close.DUPLICATE_ID, f"the subscription {frame.id!r} exists")
        if len(self._subscriptions) >= self._limits.subscriptions:
            raise Closing(Close.TOO_MANY, f"a socket may have {self._limits.subscriptions} subscriptions")
        who.require("read")
        selection = self._stream.selection
        if isinstance(frame.start, Cursor) and (reason := selection.cannot_continue(frame.start)):
            await self._send(Resync(sub=frame.id, reason=reason))
            return
        seen = await selection.look(frame, who.tenant)
        await self._send(subscribed(frame, seen))
        for unreadable in seen.unreadable:
            await self._send(error_frame(unreadable, frame.id))
        self._subscriptions[frame.id] = Subscription(frame.id, seen.wanted, beginning(frame, seen))
        self._moved.set()

    def _command(self, frame: Command, who: Who) -> None:
        if len(self._commands) >= self._limits.commands:
            detail = f"{self._limits.commands} commands of this socket are under way: wait for an answer."
            raise Refused(429, "rate_limited", detail, retryable=True)
        command = self._stream.run(self._carry_out(frame, who))
        self._commands.add(command)
        command.add_done_callback(self._commands.discard)

    async def _carry_out(self, frame: Command, who: Who) -> None:
        said = await answer(self._stream.studio, frame, who)
        try:
            await self._send(said)
        except Closing as why:
            await self.close(why)

    # ── telling ──

    async def _tell(self, who: Who) -> None:
        loop = asyncio.get_running_loop()
        beat_at = loop.time() + self._limits.heartbeat_s
        beat = loop.call_at(beat_at, self._moved.set)
        try:
            while True:
                self._moved.clear()
                self._check(who)
                await self._room()
                alone = [one for one in self._subscriptions.values() if not one.listens]
                behind = [await self._advance(subscription) for subscription in alone]
                if loop.time() >= beat_at:
                    await self._beat()
                    beat_at = loop.time() + self._limits.heartbeat_s
                    beat = loop.call_at(beat_at, self._moved.set)
                if not any(behind):
                    await self._moved.wait()
        finally:
            beat.cancel()

    async def _beat(self) -> None:
        """A sign of life, and new cursors for those who had nothing to hear."""
        for subscription in tuple(self._subscriptions.values()):
            if subscription.cursor > subscription.told and not subscription.owes_caught_up:
                await self._send_caught_up(subscription)
        await self._send(Heartbeat(position=self._store.position))

    async def _advance(self, subscription: Subscription) -> bool:
        """Tell one page; the answer is whether there may be more."""
        end = self._store.position
        if subscription.cursor < end:
            page = await self._stream.feed.read(subscription.wanted, subscription.cursor)
            for part in page.tails:
                if self._subscriptions.get(subscription.id) is not subscription:
                    return False
                await self._send_part(subscription, part)
            subscription.cursor = page.upto
        if subscription.cursor < end:
            subscription.owes_caught_up = True  # it fell behind; a reader who keeps up is told once
        if subscription.cursor == self._store.position and subscription.owes_caught_up:
            subscription.owes_caught_up = False
            await self._send_caught_up(subscription)
        if subscription.cursor < self._store.position:
            return True
        if self._subscriptions.get(subscription.id) is subscription:
            self._stream.audiences.join(subscription, self)
        return False

    async def _send_part(self, subscription: Subscription, part: Part | Lost) -> None:
        if isinstance(part, Lost):
            await self._send(part.frame(subscription.id))
        else:
            subscription.told = part.upto
            await self._send_bytes(subscription.prefix + part.encoded)

    async def _send_caught_up(self, subscription: Subscription) -> None:
        subscription.told = subscription.cursor
        await self._send(CaughtUp(sub=subscription.id, position=subscription.cursor))

    async def _send(self, frame: ServerFrame) -> None:
        await self._send_bytes(_encode(frame))

    async def _send_bytes(self, frame: bytes) -> None:
        """The socket's own timeouts do not cover sending, so this has one."""
        try:
            await self._ws.send_frame(frame, WSMsgType.TEXT)
        except ConnectionError:
            raise Closing(Close.STOPPING, "") from None
        await self._room()

    async def _room(self) -> None:
        try:
            await self._outlet.room(self._limits.send_s)
        except TimeoutError:
            told = min((subscription.told for subscription in self._subscriptions.values()), default=0)
            raise Closing(Close.TOO_SLOW, f"too slow: come again from position {told}") from None
        except ConnectionError:
            raise Closing(Close.STOPPING, "") from None


def _first(group: BaseExceptionGroup[Closing]) -> Closing:
    first = group.exceptions[0]
    return first if isinstance(first, Closing) else _first(first)
