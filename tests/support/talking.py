"""A real studio behind a real server, and what is needed to talk to it as a stranger would."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog

import rushes
from rushes.api.app import Server, serve
from rushes.api.stream import Limits
from rushes.client import Client
from rushes.eventstore.base import Birth, Head, NewEvent, Write
from rushes.studio import Studio

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
TINY: dict[str, Any] = {"prompt": "a lake", "duration_seconds": 1, "resolution": "180p", "fps": 8, "seed": 7}
Frame = dict[str, Any]
Serve = Callable[[Limits], Awaitable[Server]]


@pytest.fixture
async def studio(tmp_path: Path) -> AsyncIterator[Studio]:
    async with rushes.open(tmp_path / "data", environ={}) as studio:
        yield studio


@pytest.fixture
async def serving(studio: Studio) -> AsyncIterator[Serve]:
    """Servers over the studio, closed at the end."""
    servers: list[Server] = []

    async def start(limits: Limits) -> Server:
        servers.append(await serve(studio, "127.0.0.1:0", limits=limits, allowed_origins=["https://friend.example"]))
        return servers[-1]

    yield start
    for server in servers:
        await server.close()
    left = [task for task in asyncio.all_tasks() if re.search(r"Socket|Stream|RequestHandler", repr(task.get_coro()))]
    assert not left, "a socket or a request outlived its server"


@pytest.fixture
async def server(serving: Serve) -> Server:
    return await serving(Limits())


@pytest.fixture
async def web(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(base_url=server.url) as session:
        yield session


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as client:
        yield client


class Reader:
    """A WebSocket client without any help."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.epoch = ""

    async def say(self, **frame: object) -> None:
        await self.ws.send_str(msgspec.json.encode({key.rstrip("_"): value for key, value in frame.items()}).decode())

    async def hear(self, kind: str = "") -> Frame:
        """The next frame, which is of that kind."""
        message = await self.ws.receive(10)
        assert message.type is aiohttp.WSMsgType.TEXT, f"closed with {self.ws.close_code}, {message}"
        frame: Frame = msgspec.json.decode(message.data)
        assert not kind or frame["type"] == kind, frame
        return frame

    async def hello(self) -> Frame:
        await self.say(type="hello", client="test")
        welcome = await self.hear("welcome")
        self.epoch = welcome["epoch"]
        return welcome

    async def until_caught_up(self) -> list[Frame]:
        """Every item up to the end of the log."""
        items: list[Frame] = []
        while (frame := await self.hear())["type"] != "caught_up":
            assert frame["type"] == "events"
            items += frame["items"]
        return items

    async def closed(self) -> int:
        """The code that the server closes with; what it said before is skipped."""
        while (message := await self.ws.receive(10)).type is aiohttp.WSMsgType.TEXT:
            pass
        assert message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED}
        return self.ws.close_code or 0


@asynccontextmanager
async def reading(url: str, *, hello: bool = True, **more: Any) -> AsyncIterator[Reader]:
    """A reader that is connected."""
    async with (
        aiohttp.ClientSession(connector=more.pop("connector", None)) as session,
        session.ws_connect(f"{url}/v1/ws", protocols=("rushes.v1.json",), max_msg_size=0, **more) as ws,
    ):
        reader = Reader(ws)
        if hello:
            await reader.hello()
        yield reader


def narrow(address: Any) -> socket.socket:
    """A socket that takes little before somebody reads."""
    made = socket.socket(address[0], address[1])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    return made


async def pinged_for(reader: Reader, seconds: float) -> None:
    """Be answered all that time."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while loop.time() < ends:
        await reader.say(type="ping")
        await reader.hear("pong")


async def write_log(studio: Studio, name: str, count: int, size_bytes: int = 10) -> None:
    """Events of a stream that nobody acts on, so that a test decides when and what."""
    stream: int | Birth = Birth(name, "job", "default")
    for version in range(count):
        data = msgspec.json.encode({"n": version, "filler": "x" * size_bytes})
        event = NewEvent("test.happened", 1, 1.0, data)
        head = Head(open=False, lane="test")
        stored = await studio.store.append(Write(stream, version, [event], head, random.getrandbits(63)))
        stream = stored.stream


async def whole_log(studio: Studio) -> list[tuple[int, int]]:
    """(position, version) of every event there is."""
    log: list[tuple[int, int]] = []
    after = 0
    while after < studio.store.position:
        batch = await studio.store.read_all(after)
        log += [(event.position, event.version) for event in batch.events]
        after = batch.upto
    return log
