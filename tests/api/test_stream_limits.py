"""What a connection may take: every limit is met, told, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from keyring import WRONG, guarded, ring
from talking import Serve, narrow, pinged_for, reading, write_log

from rushes.api.auth import revoke, stored
from rushes.api.live import STREAM
from rushes.api.stream import Bucket, Limits
from rushes.cli.verbs import limits_of
from rushes.main import Settings
from rushes.studio import Studio


def test_every_limit_is_a_setting_with_the_same_default() -> None:
    assert limits_of(Settings()) == Limits()
    named = {name for name in Settings.__struct_fields__ if name.startswith("ws_")}
    assert named == {f"ws_{name}" for name in Limits.__struct_fields__}


async def test_sockets_of_a_tenant_have_a_limit(serving: Serve) -> None:
    server = await serving(Limits(sockets=2))
    async with reading(server.url), reading(server.url):
        async with reading(server.url, hello=False) as third:
            await third.say(type="hello")
            assert await third.closed() == 4429
        async with aiohttp.ClientSession(server.url) as web, web.get("/v1/events") as reply:
            assert (reply.status, (await reply.json(content_type=None))["code"]) == (429, "rate_limited")
    async with asyncio.timeout(5):  # they were counted out
        while True:
            async with reading(server.url, hello=False) as again:
                await again.say(type="hello")
                if (await again.ws.receive(5)).type is aiohttp.WSMsgType.TEXT:
                    return


async def test_messages_have_a_rate_and_a_burst(serving: Serve) -> None:
    server = await serving(Limits(messages_per_s=2))  # ten at once
    async with reading(server.url) as reader:  # one is hello
        for _ in range(9):
            await reader.say(type="ping")
            await reader.hear("pong")
        await reader.say(type="ping")
        assert await reader.closed() == 4429


async def test_whoever_keeps_to_the_rate_may_go_on_for_ever() -> None:
    loop = asyncio.get_running_loop()
    bucket, end = Bucket(1_000_000.0), loop.time() + 0.05
    taken = 0
    while loop.time() < end:
        assert bucket.take()
        taken += 1
    assert taken > 100


async def test_a_key_is_needed_and_one_that_is_revoked_ends_the_socket(studio: Studio, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    keys = ring(folder)
    async with guarded(studio, folder) as server:
        for token in ("", WRONG):
            async with reading(server.url, hello=False) as reader:
                await reader.say(type="hello", token=token)
                assert await reader.closed() == 4401
        async with reading(server.url, hello=False) as reader:
            await reader.say(type="hello", token=keys.reader)
            await reader.hear("welcome")
            await reader.say(type="subscribe", id="a")
            await reader.hear("subscribed")
            await reader.hear("caught_up")
            revoke(folder, next(key.id for key in stored(folder) if key.name == "reader"))
            async with asyncio.timeout(10):  # a server looks at its keys twice a second
                for number in itertools.count():
                    await write_log(studio, f"job_{number}", 1)
                    if (await reader.ws.receive()).type is not aiohttp.WSMsgType.TEXT:
                        break
            assert reader.ws.close_code == 4401


# ── the slow ──────────────────────────────────────────────────────────────────────────────────────────────────────────

EVENTS, EVENT_BYTES = 60, 200_000  # more than the kernel holds for a reader


async def most_buffered(serving: Serve, studio: Studio, limits: Limits, path: str) -> int:
    """What waited at most for a reader who takes nothing and for another one, who was told everything meanwhile."""
    await write_log(studio, "job_big", EVENTS, size_bytes=EVENT_BYTES)
    server = await serving(limits)
    stream = server._runner.app[STREAM]
    connector = aiohttp.TCPConnector(socket_factory=narrow)
    async with asleep(server.url, path, connector), reading(server.url) as other:
        await other.say(type="subscribe", id="a", from_="start")
        most, heard = 0, 0
        while heard < EVENTS:
            heard += len((await other.hear()).get("items", ()))
            most = max(most, stream.buffered_bytes)
    return most


@asynccontextmanager
async def asleep(url: str, path: str, connector: aiohttp.TCPConnector) -> AsyncIterator[None]:
    """A reader who asks for everything and takes none of it."""
    if path == "/v1/ws":
        async with reading(url, connector=connector) as slow:
            await slow.say(type="subscribe", id="a", from_="start")
            yield
        return
    async with aiohttp.ClientSession(url, connector=connector) as web, web.get(f"{path}?from=start"):
        yield


@pytest.mark.parametrize("path", ["/v1/ws", "/v1/events"])
async def test_memory_is_flat_for_a_reader_who_takes_nothing(serving: Serve, studio: Studio, path: str) -> None:
    limits = Limits(buffered_bytes=100_000, send_s=60)
    a_reader = 100_000 + EVENT_BYTES + 2_000  # the bound, and one frame
    assert 0 < await most_buffered(serving, studio, limits, path) < 2 * a_reader


@pytest.mark.parametrize("path", ["/v1/ws", "/v1/events"])
async def test_control_without_the_bound_memory_grows(serving: Serve, studio: Studio, path: str) -> None:
    limits = Limits(buffered_bytes=10**9, send_s=60)
    assert await most_buffered(serving, studio, limits, path) > 10 * EVENT_BYTES


async def test_the_slow_are_told_where_to_come_back_and_miss_nothing(serving: Serve, studio: Studio) -> None:
    await write_log(studio, "job_big", EVENTS, size_bytes=EVENT_BYTES)
    server = await serving(Limits(send_s=0.5, messages_per_s=1e6))
    connector = aiohttp.TCPConnector(socket_factory=narrow)
    async with reading(server.url, connector=connector) as slow, reading(server.url) as other:
        await slow.say(type="subscribe", id="a", from_="start")
        await slow.hear("subscribed")
        await pinged_for(other, 1.0)  # longer than the server is patient
        seen: list[int] = []
        while (message := await slow.ws.receive(10)).type is aiohttp.WSMsgType.TEXT:
            seen += [item["position"] for item in message.json()["items"]]
        assert (message.data, message.extra) == (4413, f"too slow: come again from position {seen[-1]}")
    async with reading(server.url) as again:
        await again.say(type="subscribe", id="a", from_={"epoch": again.epoch, "position": seen[-1]})
        await again.hear("subscribed")
        seen += [item["position"] for item in await again.until_caught_up()]
    assert seen == [*range(1, EVENTS + 1)]


async def test_an_event_stream_that_is_not_read_is_cut_and_goes_on_at_its_id(serving: Serve, studio: Studio) -> None:
    await write_log(studio, "job_big", EVENTS, size_bytes=EVENT_BYTES)
    server = await serving(Limits(send_s=0.5, messages_per_s=1e6))
    connector = aiohttp.TCPConnector(socket_factory=narrow)
    async with (
        aiohttp.ClientSession(server.url, connector=connector, read_bufsize=2**12) as web,
        web.get("/v1/events?from=start") as reply,
        reading(server.url) as other,
    ):
        await pinged_for(other, 1.0)
        text = b""
        with suppress(aiohttp.ClientError):
            while block := await reply.content.readany():
                text += block
        assert reply.content.exception() is not None, "it was cut, and did not end"
    whole = text.rpartition(b"\n\n")[0].decode()  # what was cut off is not a message
    ids = [line.removeprefix("id: ") for line in whole.split("\n") if line.startswith("id: ")]
    assert 0 < len(ids) < EVENTS
    headers = {"Last-Event-ID": ids[-1]}
    async with aiohttp.ClientSession(server.url) as web, web.get("/v1/events", headers=headers) as reply:
        while f":{EVENTS}".encode() not in (line := await reply.content.readuntil(b"\n")):
            if line.startswith(b"id: "):
                ids.append(line[4:].strip().decode())
    assert [int(cursor.rpartition(":")[2]) for cursor in ids] == [*range(1, EVENTS)]


async def test_bytes_that_are_no_frames_end_the_conversation_at_once(serving: Serve) -> None:
    server = await serving(Limits(message_bytes=2_000))
    async with reading(server.url) as reader:
        await reader.say(type="hello", client="x" * 3_000)
        assert await reader.closed() == 1009
    async with reading(server.url) as reader:
        with suppress(ConnectionError):
            for _ in range(10):  # one message in fragments without an end
                await reader.ws._writer.send_frame(b"x" * 500, aiohttp.WSMsgType.CONTINUATION)
        assert await reader.closed() in {1002, 1009}


async def test_a_server_that_stops_says_goodbye_to_readers_of_both_kinds(serving: Serve) -> None:
    server = await serving(Limits())
    async with (
        reading(server.url) as reader,
        aiohttp.ClientSession(server.url) as web,
        web.get("/v1/events?from=start") as reply,
    ):
        closing = asyncio.create_task(server.close())
        assert await reader.closed() == 1001
        assert b"caught_up" in await reply.content.read(), "it ends as an answer ends, and a browser comes again"
        await closing
