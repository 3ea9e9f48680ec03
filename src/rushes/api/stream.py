"""The WebSocket: the log as it grows, pushed to whoever subscribes.

A socket has one task that hears and one that tells. The teller has a cursor for every subscription and nothing else: it
is woken when the log grew, reads the log behind each cursor, and sends. There is no queue, so a reader that is slow
costs one batch of memory; one that does not take a frame within the send timeout is closed with 4413, and comes again
with its cursor. Because the log is all that is ever read, nothing is missed or doubled between history and presence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec
import structlog
from aiohttp import WSMsgType, web
from msgspec import Struct

from rushes.api.protocol import (
    MAX_FRAME_BYTES,
    MAX_SUBSCRIPTIONS,
    SUBPROTOCOL,
    BadFrame,
    CaughtUp,
    ClientFrame,
    Close,
    Cursor,
    Error,
    Events,
    Hello,
    Ping,
    Pong,
    Refused,
    Resync,
    ServerFrame,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
    read_frame,
)
from rushes.eventstore.base import Damage, Damaged, EventStore, Recorded, StoreError
from rushes.faults import NotFound, RushesError, Unreadable, bad, damaged
from rushes.studio import Studio, event_view
from rushes.units import DEFAULT_TENANT
from rushes.video import JobView

KIND: Final = "job"
BATCH: Final = 256  # positions of the log looked at in one go
FRAME_BYTES: Final = 64 * 1024  # a frame's items; one larger event goes alone
REMEMBERED: Final = 8_192  # encoded events, and names of streams
CLOSE_S: Final = 2.0  # for the other side to answer a close

V = TypeVar("V")
_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("rushes")


class Limits(Struct, frozen=True, kw_only=True):
    """How patient the server is with a socket."""

    hello_s: float = 5.0
    send_s: float = 10.0
    heartbeat_s: float = 30.0


class Item(Struct, frozen=True):
    """An event as frames carry it."""

    position: int
    encoded: msgspec.Raw


class Lost(Struct, frozen=True):
    """An event that is damaged: readers are told so in its place."""

    position: int
    message: str


class Feed:
    """The log as frames' items. One feed serves all sockets, so that an event is encoded once."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._names: dict[int, str] = {}
        self._items: dict[int, Item] = {}

    async def read(self, after: int, stream: int | None) -> tuple[list[Item | Lost], int]:
        """What comes next behind a position, of one stream or of all, and up to where was looked."""
        batch = await self._store.read_all(after, BATCH, tenant=DEFAULT_TENANT, kind=KIND)
        found: list[Recorded | Damage] = [*batch.events, *batch.damaged]
        found = [one for one in found if stream is None or one.stream == stream]
        if batch.damaged:
            found.sort(key=lambda one: one.position)
        names = await self._names_of({one.stream for one in found})
        return [self._told(one, names.get(one.stream, "")) for one in found], batch.upto

    async def _names_of(self, streams: set[int]) -> dict[int, str]:
        """Their public names; a damaged number may have none."""
        names = {stream: self._names[stream] for stream in streams if stream in self._names}
        if unknown := streams - names.keys():
            for stream, row in (await self._store.streams(sorted(unknown))).items():
                names[stream] = row.name
                _remember(self._names, stream, row.name)
        return names

    def _told(self, found: Recorded | Damage, name: str) -> Item | Lost:
        if isinstance(found, Damage) or not name:
            return Lost(found.position, damaged(name, found.version, found.position).detail)
        item = self._items.get(found.position)
        if item is None:
            item = Item(found.position, msgspec.Raw(_encode(event_view(found, name))))
            _remember(self._items, found.position, item)
        return item


def _remember(memory: dict[int, V], key: int, value: V) -> None:
    """Keep it in place of the oldest."""
    memory[key] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]


class Subscription:
    """What one reader has yet to be told."""

    def __init__(self, id: str, stream: int | None, cursor: int) -> None:
        self.id, self.stream, self.cursor = id, stream, cursor  # `stream` None: all
        self.owes_caught_up = True  # told once after the history, and again whenever it fell behind


class Closing(Exception):
    """Ends a conversation."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Stream:
    """The socket's address, and everybody who is connected."""

    def __init__(self, studio: Studio, limits: Limits) -> None:
        self._studio, self._limits, self._feed = studio, limits, Feed(studio.store)
        self._sockets: set[Socket] = set()

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/ws."""
        offered = request.headers.get("Sec-WebSocket-Protocol", SUBPROTOCOL)
        if SUBPROTOCOL not in [word.strip() for word in offered.split(",")]:
            raise bad("Sec-WebSocket-Protocol", f"The server speaks {SUBPROTOCOL!r}, and you offer {offered!r}.")
        ws = web.WebSocketResponse(
            timeout=CLOSE_S,
            heartbeat=self._limits.heartbeat_s,
            protocols=(SUBPROTOCOL,),
            compress=False,
            max_msg_size=MAX_FRAME_BYTES,
        )
        if not ws.can_prepare(request):
            raise Refused(426, "invalid_input", "This is a WebSocket's address: connect with a WebSocket client.")
        await ws.prepare(request)
        socket = Socket(ws, self._studio, self._feed, self._limits)
        self._sockets.add(socket)
        try:
            await socket.converse()
        finally:
            self._sockets.discard(socket)
            if (transport := request.transport) is not None:  # whoever takes nothing does not take the close either
                asyncio.get_running_loop().call_later(self._limits.send_s, transport.abort)
        return ws

    async def close(self) -> None:
        """Say goodbye to everybody: they may come again with their cursors."""
        goodbye = Closing(Close.STOPPING, "bye: the server is stopping")
        await asyncio.gather(*[socket.close(goodbye) for socket in self._sockets])


class Socket:
    """One conversation."""

    def __init__(self, ws: web.WebSocketResponse, studio: Studio, feed: Feed, limits: Limits) -> None:
        self._ws, self._studio, self._store, self._feed, self._limits = ws, studio, studio.store, feed, limits
        self._subscriptions: dict[str, Subscription] = {}
        self._moved = asyncio.Event()  # the log grew, or there is a new subscription

    async def converse(self) -> None:
        """Until one side ends it."""
        unwatch = self._store.watch(lambda _: self._moved.set())
        try:
            await self._greet()
            async with asyncio.TaskGroup() as tasks:
                teller = tasks.create_task(self._tell())
                await self._listen()
                teller.cancel()
        except* Closing as ended:
            await self.close(_first(ended))
        except* StoreError as error:
            _log.warning("socket.broken", error=str(error.exceptions[0]))
            await self.close(Closing(Close.BROKEN, "the log cannot be read"))
        finally:
            unwatch()

    async def close(self, why: Closing) -> None:
        """Close with a code and a reason, whether or not the other side still listens."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._ws.close(code=why.code, message=why.reason.encode(), drain=False)

    # ── hearing ──

    async def _greet(self) -> None:
        """Wait for hello."""
        try:
            async with asyncio.timeout(self._limits.hello_s):
                while not isinstance(await self._heard(strict=True), Hello):
                    await self._send(_error(bad("type", "Say hello first."), ""))
        except TimeoutError:
            raise Closing(Close.NO_HELLO, f"no hello within {self._limits.hello_s:g} s") from None
        heartbeat_s = self._limits.heartbeat_s
        await self._send(Welcome(epoch=self._store.epoch, position=self._store.position, heartbeat_s=heartbeat_s))

    async def _listen(self) -> None:
        while True:
            frame = await self._heard()
            try:
                await self._obey(frame)
            except RushesError as error:
                await self._send(_error(error, frame.id if isinstance(frame, Subscribe) else ""))

    async def _heard(self, *, strict: bool = False) -> ClientFrame:
        """The next frame that can be read; about others there is an error frame. `strict`: no JSON object, no talk."""
        while True:
            message = await self._ws.receive()
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                raise Closing(Close.STOPPING, "")  # it is closed already
            try:
                return read_frame(message.data)
            except BadFrame as error:
                if strict and not error.is_object:
                    raise Closing(Close.BAD_MESSAGE, "a frame is a JSON object") from error
                await self._send(_error(error, error.id))

    async def _obey(self, frame: ClientFrame) -> None:
        match frame:
            case Subscribe():
                await self._subscribe(frame)
            case Unsubscribe(id=id):
                if self._subscriptions.pop(id, None) is None:
                    raise NotFound(f"There is no subscription {id!r}.", field="id")
            case Ping():
                await self._send(Pong())
            case Hello():
                raise bad("type", "Hello was said already.")

    async def _subscribe(self, frame: Subscribe) -> None:
        if frame.id in self._subscriptions:
            raise Closing(Close.DUPLICATE_ID, f"the subscription {frame.id!r} exists")
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Closing(Close.TOO_MANY, f"a socket may have {MAX_SUBSCRIPTIONS} subscriptions")
        if isinstance(frame.start, Cursor) and (reason := self._cannot_continue(frame.start)):
            await self._send(Resync(sub=frame.id, reason=reason))
            return
        stream, snapshot, now = await self._look(frame.job)
        cursor = _beginning(frame, now)
        recovered = frame.start != "now"
        shown = None if isinstance(snapshot, Unreadable) else snapshot
        await self._send(Subscribed(id=frame.id, recovered=recovered, snapshot=shown, position=cursor))
        if isinstance(snapshot, Unreadable):
            await self._send(_error(snapshot, frame.id))
        self._subscriptions[frame.id] = Subscription(frame.id, stream, cursor)
        self._moved.set()

    def _cannot_continue(self, cursor: Cursor) -> str:
        if cursor.epoch != self._store.epoch:
            return f"the log is another one: its epoch is {self._store.epoch!r}"
        if cursor.position > self._store.position:
            return f"the log ends at position {self._store.position}"
        return ""

    async def _look(self, job: str | None) -> tuple[int | None, JobView | Unreadable | None, int]:
        """What is subscribed to, how it is, and the position at which it is exactly so.

        That is the position of the event that made the snapshot's version, not the end of the log: the job may have
        moved between reading the one and the other. A job that cannot be read has events that can.
        """
        now = self._store.position
        if job is None:
            return None, None, now
        snapshot: JobView | Unreadable
        try:
            snapshot = await self._studio.show(job)
        except Unreadable as unreadable:
            snapshot = unreadable
        stream = await self._store.find(job)
        assert stream is not None  # it was found, and streams are never removed
        if isinstance(snapshot, JobView):
            now = await self._position_of(stream.id, snapshot.version) or now
        return stream.id, snapshot, now

    async def _position_of(self, stream: int, version: int) -> int:
        """0 where the event is not there: a job in memory outlives its damaged log until it sleeps."""
        try:
            made = await self._store.read(stream, version - 1, 1)
        except Damaged as error:
            return error.damage.position
        return made[0].position if made else 0

    # ── telling ──

    async def _tell(self) -> None:
        while True:
            self._moved.clear()
            behind = [await self._advance(subscription) for subscription in tuple(self._subscriptions.values())]
            if not any(behind):
                await self._moved.wait()

    async def _advance(self, subscription: Subscription) -> bool:
        """Tell one batch; the answer is whether there may be more."""
        if subscription.cursor < self._store.position:
            found, upto = await self._feed.read(subscription.cursor, subscription.stream)
            if self._subscriptions.get(subscription.id) is not subscription:
                return False
            for frame in frames(subscription.id, found, upto):
                await self._send(frame)
            subscription.cursor = upto
        if subscription.cursor < self._store.position:
            subscription.owes_caught_up = True  # it fell behind; a reader who keeps up is told once
            return True
        if subscription.owes_caught_up:
            await self._send(CaughtUp(sub=subscription.id, position=subscription.cursor))
            subscription.owes_caught_up = False
        return False

    async def _send(self, frame: ServerFrame) -> None:
        """The socket's own timeouts do not cover sending, so this has one."""
        try:
            async with asyncio.timeout(self._limits.send_s):
                await self._ws.send_frame(_encode(frame), WSMsgType.TEXT)
        except TimeoutError:
            raise Closing(Close.TOO_SLOW, "too slow: come again with your last position") from None
        except ConnectionError:
            raise Closing(Close.STOPPING, "") from None


def frames(sub: str, found: Sequence[Item | Lost], upto: int) -> Iterator[Events | Error]:
    """What was found in frames of a bounded size. Each `upto` is a cursor to come back with."""
    part: list[Item] = []
    size_bytes = 0
    for one in found:
        if part and (isinstance(one, Lost) or size_bytes + len(bytes(one.encoded)) > FRAME_BYTES):
            yield _events(sub, part, part[-1].position)
            part, size_bytes = [], 0
        if isinstance(one, Lost):
            yield Error(id=sub, code=Unreadable.code, message=one.message)
        else:
            part.append(one)
            size_bytes += len(bytes(one.encoded))
    if found:  # with no items behind a lost one: it is not told again to whoever comes back
        yield _events(sub, part, upto)


def _events(sub: str, part: Sequence[Item], upto: int) -> Events:
    return Events(sub=sub, upto=upto, items=[item.encoded for item in part])


def _beginning(frame: Subscribe, now: int) -> int:
    match frame.start:
        case Cursor(position=position):
            return position
        case "start":
            return 0
        case "now":
            return now


def _error(error: RushesError, id: str) -> Error:
    return Error(id=id, code=error.code, message=error.detail)


def _first(group: BaseExceptionGroup[Closing]) -> Closing:
    first = group.exceptions[0]
    return first if isinstance(first, Closing) else _first(first)
