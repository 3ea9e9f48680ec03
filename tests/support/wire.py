"""The real client, and servers of raw bytes on loopback that it talks to: what goes wrong is scripted to the byte."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from rushes.adapters.base import Request
from rushes.adapters.http import DEFAULT_LIMITS, Http, Limits
from rushes.adapters.replicate import Replicate
from rushes.units import AssetRef
from rushes.video import Target

KEY = "r8_secret"


class Below(Replicate):
    """The provider with its addresses below a path, as most have them."""

    capabilities = replace(Replicate.capabilities, base_url="https://api.replicate.com/v1")


REPLICATE = Below()
TARGET = Target(provider="replicate", model="prunaai/p-video", credential="REPLICATE_API_TOKEN")
PAID = Request(method="POST", url="/predictions", body={"prompt": "private"}, spends=True, timeout_s=5.0)
READ = Request(method="GET", url="/predictions/a", timeout_s=5.0)
CLIP = bytes(range(256)) * 4000


class Still:
    def now(self) -> float:
        return 1_800_000_000.0


Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Raw bytes on loopback: what came is in `heads` and `bodies`, `connections` counts who connected."""

    def __init__(self, script: Script) -> None:
        self.script, self.heads, self.bodies, self.connections, self.url = script, list[str](), list[bytes](), 0, ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode())
                length = next((line for line in head.lower().split(b"\r\n") if b"content-length" in line), b": 0")
                self.bodies.append(await reader.readexactly(int(length.split(b":")[1])))
                await self.script(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Server]:
    server = Server(script)
    listener = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> Script:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return script


def raw(content: bytes) -> Script:
    """These bytes, and the end."""

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        writer.close()

    return script


async def silence(_: bytes, writer: asyncio.StreamWriter) -> None:
    await writer.drain()


async def trickle(_: bytes, writer: asyncio.StreamWriter) -> None:
    """A byte, and another, for ever: as slowly as the peer likes."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    loop = asyncio.get_running_loop()
    while not writer.is_closing():
        writer.write(b".")
        await writer.drain()
        turn = loop.create_future()
        loop.call_later(0.02, turn.set_result, None)
        await turn


def redirect(url: str) -> Script:
    return answer(b"{}", f"Location: {url}", status="302 Found")


def client(
    base_url: str, *more: str, limits: Limits = DEFAULT_LIMITS, parts: Path | None = None, key: str = KEY
) -> Http:
    """The provider's base address, and those of other hosts that were set explicitly too."""
    base_urls = {"replicate": base_url} | {f"other{number}": url for number, url in enumerate(more)}
    return Http(
        base_urls=base_urls,
        credentials={"REPLICATE_API_TOKEN": f"{key}\n"},  # as a file gives it
        read=lambda _: b"pixel",
        inner={},
        clock=Still(),
        limits=limits,
        parts=parts,
    )


@asynccontextmanager
async def talking(
    *scripts: Script, limits: Limits = DEFAULT_LIMITS, parts: Path | None = None
) -> AsyncIterator[tuple[Http, Server, Server]]:
    """A client and servers; the first is the provider, the last another host that was set explicitly too."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(script)) for script in scripts]
        http = await stack.enter_async_context(client(*(server.url for server in servers), limits=limits, parts=parts))
        yield http, servers[0], servers[-1]


async def fetched(http: Http, url: str, max_bytes: int) -> bytes:
    """What is behind a caller's address, whole."""
    async with aclosing(http.fetch(url, max_bytes)) as pieces:
        return b"".join([piece async for piece in pieces])


class Shelf:
    """A sink in memory."""

    def __init__(self) -> None:
        self.content = b""
        self.size_bytes: int | None = None

    async def __call__(self, chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        self.size_bytes = size_bytes
        async for chunk in chunks:
            self.content += chunk
        return AssetRef("k", hashlib.sha256(self.content).hexdigest(), len(self.content), media_type)
