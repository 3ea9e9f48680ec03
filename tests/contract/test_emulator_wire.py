"""Faults on a real socket: what the client sees is what the rule says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import aiohttp
import pytest

from rushes.emulators.base import TwinServer, serve_twin
from rushes.emulators.faults import Cut, Drop, Faults, Hang, LineRule
from rushes.emulators.faulty import FaultyTwin
from rushes.emulators.xai import XaiTwin

ASK = b"GET /v1/videos/none HTTP/1.1\r\nHost: twin\r\n\r\n"
BODY = b'{"code":"not-found","error":"The requested resource was not found."}'
Open = Callable[[LineRule], Awaitable[TwinServer]]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def serve(rule: LineRule) -> TwinServer:
            server = await serve_twin(FaultyTwin(XaiTwin(clip=b""), Faults((rule,))))
            stack.push_async_callback(server.close)
            return server

        yield serve


async def answer(server: TwinServer) -> bytes:
    """Everything that comes until the connection is closed."""
    where = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(ASK)
    async with asyncio.timeout(10):
        told = await reader.read()
    writer.close()
    await writer.wait_closed()
    return told


async def test_a_dropped_connection_says_nothing(opened: Open) -> None:
    assert await answer(await opened(Drop())) == b""
    assert await answer(await opened(Drop(after_work=True))) == b""


@pytest.mark.parametrize("byte", [0, 1, len(BODY) // 2, len(BODY) - 1])
async def test_a_body_ends_at_its_byte_and_the_header_promises_the_whole(opened: Open, byte: int) -> None:
    head, _, body = (await answer(await opened(Cut(byte=byte)))).partition(b"\r\n\r\n")
    assert f"content-length: {len(BODY)}".encode() in head.lower()
    assert body == BODY[:byte]


async def test_a_late_answer_comes_whole(opened: Open) -> None:
    server = await opened(Hang(seconds=0.2))
    began = asyncio.get_running_loop().time()
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/v1/videos/none") as reply:
        assert (reply.status, await reply.read()) == (404, BODY)
    assert asyncio.get_running_loop().time() - began >= 0.2


async def test_a_hang_ends_with_the_clients_patience_and_does_not_keep_the_server(opened: Open) -> None:
    server = await opened(Hang())
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.3)) as session:
        with pytest.raises(TimeoutError):
            await session.get(f"{server.url}/v1/videos/none")
        waiting = asyncio.create_task(session.get(f"{server.url}/v1/videos/none", timeout=aiohttp.ClientTimeout()))
        async with aiohttp.ClientSession() as other:
            with pytest.raises(TimeoutError):  # the one before was asked by now
                await other.get(f"{server.url}/v1/videos/none", timeout=aiohttp.ClientTimeout(total=0.3))
        async with asyncio.timeout(5):
            await server.close()
        with pytest.raises(aiohttp.ClientError):
            await waiting


async def test_a_port_that_is_taken_is_an_os_error(opened: Open) -> None:
    port = urlsplit((await opened(Drop())).url).port
    assert port is not None
    with pytest.raises(OSError, match="address already in use"):
        await serve_twin(XaiTwin(clip=b""), port=port)
