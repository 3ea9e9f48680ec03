"""The WebSocket as a stranger meets it: what is asked and answered, every event once, and nobody waits for the slow."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import aiohttp
import pytest
from talking import TINY, Frame, Reader, Serve, narrow, pinged_for, reading, whole_log, write_log

from rushes.api.app import Server
from rushes.api.feed import FRAME_BYTES
from rushes.api.protocol import BadFrame, read_frame
from rushes.api.stream import Limits
from rushes.eventstore.base import Birth, EventStore, Head, NewEvent, Stream, Write
from rushes.studio import Studio
from rushes.video import VideoRequest


async def test_hello_is_answered_with_where_the_log_ends(server: Server, studio: Studio) -> None:
    await write_log(studio, "job_a", 3)
    async with reading(server.url, hello=False) as reader:
        welcome = await reader.hello()
    assert welcome == {"type": "welcome", "epoch": studio.store.epoch, "position": 3, "heartbeat_s": 30.0}
    assert reader.ws.protocol == "rushes.v1.json"


async def test_who_says_nothing_is_sent_away(serving: Serve) -> None:
    server = await serving(Limits(hello_s=0.05))
    async with reading(server.url, hello=False) as reader:
        assert await reader.closed() == 4408


async def test_talk_before_hello_is_refused_and_does_not_count_as_hello(serving: Serve) -> None:
    server = await serving(Limits(hello_s=0.3))
    async with reading(server.url, hello=False) as reader:
        await reader.say(type="subscribe", id="a")
        assert "hello" in (await reader.hear("error"))["message"]
        await reader.say(type="whatever")
        assert "whatever" in (await reader.hear("error"))["message"]
        assert await reader.closed() == 4408


@pytest.mark.parametrize("text", ["{", "[1]", '"hello"', "", "[" * 5000])
async def test_what_is_no_json_object_is_no_beginning(server: Server, text: str) -> None:
    async with reading(server.url, hello=False) as reader:
        await reader.ws.send_str(text)
        assert await reader.closed() == 4400


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not valid JSON"),
        ("[]", "object"),
        ("{}", "'type'"),
        ('{"type": 3}', "3"),
        ('{"type": "shout", "id": "a"}', "'shout'"),
        ('{"type": "subscribe"}', "'id'"),
        ('{"type": "subscribe", "id": "a", "jop": "x"}', "'jop'"),
        ('{"type": "subscribe", "id": ""}', "'id'"),
        ('{"type": "subscribe", "id": "a", "from": "later"}', "'from'"),
        ('{"type": "subscribe", "id": "a", "from": {"epoch": "x", "position": -1}}', "'from.position'"),
        ('{"type": "subscribe", "id": "a", "from": {"epoch": "x", "position": "1"}}', "'from.position'"),
        ('{"type": "subscribe", "id": "a", "job": "job_nobody"}', "job_nobody"),
        ('{"type": "unsubscribe", "id": "a"}', "'a'"),
        ('{"type": "hello"}', "already"),
    ],
)
async def test_a_bad_frame_gets_one_sentence_and_the_socket_stays_open(server: Server, text: str, named: str) -> None:
    async with reading(server.url) as reader:
        await reader.ws.send_str(text)
        error = await reader.hear("error")
        assert named in error["message"]
        assert error["id"] in {"", "a"}
        await reader.say(type="ping")
        await reader.hear("pong")


async def test_bytes_that_are_no_text_are_survived(server: Server) -> None:
    async with reading(server.url) as reader:
        await reader.ws.send_bytes(b"\xff\xfe")
        await reader.hear("error")
    with pytest.raises(BadFrame):
        read_frame(b'{"type": "ping", "\xff": 1}')


async def test_a_frame_over_the_limit_ends_the_conversation(server: Server) -> None:
    async with reading(server.url) as reader:
        await reader.say(type="hello", client="x" * 70_000)
        assert await reader.closed() == 1009


async def test_a_subscription_has_one_name(server: Server) -> None:
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a")
        await reader.say(type="subscribe", id="a")
        assert await reader.closed() == 4409


async def test_subscriptions_have_a_limit(server: Server) -> None:
    async with reading(server.url) as reader:
        for number in range(Limits().subscriptions + 1):
            await reader.say(type="subscribe", id=f"s{number}")
        assert await reader.closed() == 4429


@pytest.mark.parametrize(
    ("origin", "taken"),
    [
        ("https://evil.example", False),
        ("null", False),
        ("http://127.0.0.1", False),  # another port is another page
        ("https://friend.example", True),
        ("", True),
    ],
)
async def test_a_foreign_page_is_refused_before_there_is_a_socket(server: Server, origin: str, taken: bool) -> None:
    headers = {"Origin": origin} if origin else {}
    if taken:
        async with reading(server.url, headers=headers):
            pass
        return
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with reading(server.url, headers=headers):
            pass
    assert refused.value.status == 403


async def test_our_own_page_is_taken(server: Server) -> None:
    async with reading(server.url, headers={"Origin": server.url}):
        pass


async def test_another_subprotocol_is_refused(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{server.url}/v1/ws", protocols=("graphql-ws",))
        assert refused.value.status == 400


async def test_a_plain_request_at_the_sockets_address_is_told(web: aiohttp.ClientSession) -> None:
    async with web.get("/v1/ws") as reply:
        assert (reply.status, (await reply.json())["code"]) == (426, "invalid_input")


# ── where it begins ───────────────────────────────────────────────────────────────────────────────────────────────────


async def positions_from(reader: Reader, start: object) -> list[int]:
    await reader.say(type="subscribe", id="a", from_=start)
    await reader.hear("subscribed")
    items = [item["position"] for item in await reader.until_caught_up()]
    await reader.say(type="unsubscribe", id="a")
    return items


async def test_where_a_subscription_begins(server: Server, studio: Studio) -> None:
    await write_log(studio, "job_a", 4)
    async with reading(server.url) as reader:
        assert await positions_from(reader, "start") == [1, 2, 3, 4]
        assert await positions_from(reader, {"epoch": reader.epoch, "position": 2}) == [3, 4]  # exclusive
        assert await positions_from(reader, {"epoch": reader.epoch, "position": 4}) == []
        assert await positions_from(reader, {"epoch": reader.epoch, "position": 0}) == [1, 2, 3, 4]
        assert await positions_from(reader, "now") == []


async def test_an_event_looks_as_it_is_stored(server: Server, studio: Studio) -> None:
    await write_log(studio, "job_a", 1)
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", from_="start")
        subscribed = await reader.hear("subscribed")
        assert subscribed == {
            "type": "subscribed",
            "id": "a",
            "recovered": True,
            "snapshot": None,
            "position": 0,
            "snapshots": [],
            "partial": False,
        }
        data = {"n": 0, "filler": "x" * 10}
        item = {
            "position": 1,
            "job_id": "job_a",
            "version": 1,
            "type": "test.happened",
            "at": "1970-01-01T00:00:01Z",
            "data": data,
        }
        assert await reader.hear() == {"type": "events", "sub": "a", "upto": 1, "items": [item]}
        assert await reader.hear() == {"type": "caught_up", "sub": "a", "position": 1}


async def test_a_reader_that_keeps_up_is_told_once_that_it_has_caught_up(server: Server, studio: Studio) -> None:
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a")
        assert (await reader.hear("subscribed"))["recovered"] is False
        assert await reader.hear() == {"type": "caught_up", "sub": "a", "position": 0}
        for job in ("job_a", "job_b"):
            await write_log(studio, job, 1)
            assert [item["job_id"] for item in (await reader.hear("events"))["items"]] == [job]
        await reader.say(type="ping")
        await reader.hear("pong")


async def test_a_reader_that_fell_behind_is_told_again(server: Server, studio: Studio) -> None:
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a")
        await reader.hear("subscribed")
        await reader.hear("caught_up")
        many = [NewEvent("test.happened", 1, 1.0, b"{}")] * 600  # at once, and more than one batch
        await studio.store.append(Write(Birth("job_a", "job", "default"), 0, many, Head(open=False, lane=""), 1))
        positions = [item["position"] for item in await reader.until_caught_up()]
        assert positions == list(range(1, 601))


async def test_after_unsubscribe_nothing_is_told(server: Server, studio: Studio) -> None:
    async with reading(server.url) as reader:
        await positions_from(reader, "now")
        await write_log(studio, "job_a", 3)
        await reader.say(type="ping")
        await reader.hear("pong")


@pytest.mark.parametrize(("epoch", "position", "reason"), [("other", 0, "epoch"), ("", 99, "position 2")])
async def test_another_history_is_not_continued(
    server: Server, studio: Studio, epoch: str, position: int, reason: str
) -> None:
    await write_log(studio, "job_a", 2)
    async with reading(server.url) as reader:
        start = {"epoch": epoch or reader.epoch, "position": position}
        await reader.say(type="subscribe", id="a", from_=start)
        resync = await reader.hear("resync")
        assert resync["sub"] == "a"
        assert reason in resync["reason"]
        assert await positions_from(reader, "start") == [1, 2]  # the name is free again


async def test_one_job_is_shown_and_then_told(server: Server, studio: Studio) -> None:
    """The snapshot is the job at the stated position: the events behind it are exactly the versions behind it."""
    job, _ = await studio.submit(VideoRequest(**TINY))
    await write_log(studio, "job_other", 5)
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", job=job.id)
        subscribed = await reader.hear("subscribed")
        shown = subscribed["snapshot"]
        assert shown["id"] == job.id
        items: list[Frame] = []
        while not items or items[-1]["type"] != "job.succeeded":
            frame = await reader.hear()
            items += frame.get("items", [])
        versions = [item["version"] for item in items]
        assert versions == list(range(shown["version"] + 1, shown["version"] + 1 + len(items)))
        assert {item["job_id"] for item in items} == {job.id}
        assert items[0]["position"] > subscribed["position"]
        await reader.say(type="subscribe", id="b", job=job.id, from_="start")
        while (frame := await reader.hear())["type"] != "subscribed":
            assert frame["type"] == "caught_up"
        assert frame["snapshot"]["status"] == "succeeded"
        assert [item["version"] for item in await reader.until_caught_up()] == list(range(1, versions[-1] + 1))


class Busy:
    """The same store, in which the job moves on between two questions."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def find(self, name: str) -> Stream | None:
        await self._store.wait(self._store.position)
        return await self._store.find(name)


async def test_what_happens_while_the_snapshot_is_taken_is_told(serving: Serve, studio: Studio) -> None:
    studio.store = cast("EventStore", Busy(studio.store))
    server = await serving(Limits())
    job, _ = await studio.submit(VideoRequest(**TINY | {"duration_seconds": 60, "fps": 30}))
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", job=job.id)
        subscribed = await reader.hear("subscribed")
        assert subscribed["position"] < studio.store.position  # it did move
        items = await reader.until_caught_up()
        assert items[0]["version"] == subscribed["snapshot"]["version"] + 1
    await studio.job(job.id).cancel()


# ── once, and in order ────────────────────────────────────────────────────────────────────────────────────────────────


async def read_with_breaks(url: str, rng: random.Random, until: asyncio.Event, end: list[int], back: int) -> list[Any]:
    """Read the whole log over many connections, each cut at a random frame. `back` makes the cursor inclusive."""
    seen: list[tuple[int, int]] = []
    cursor = 0
    while not until.is_set() or cursor < end[0]:
        async with reading(url) as reader:
            await reader.say(type="subscribe", id="a", from_={"epoch": reader.epoch, "position": max(0, cursor - back)})
            await reader.hear("subscribed")
            for _ in range(rng.randrange(6)):
                frame: Frame = await reader.hear()
                seen += [(item["position"], item["version"]) for item in frame.get("items", ())]
                cursor = frame["upto"] if "upto" in frame else frame["position"]
                if cursor == end[0] or frame["type"] == "caught_up":
                    break
    return seen


async def break_often(studio: Studio, url: str, back: int) -> list[Any]:
    """What a reader with a bad line saw while two jobs ran and others wrote."""
    jobs = [(await studio.submit(VideoRequest(**TINY | {"seed": seed})))[0].id for seed in (1, 2)]
    done, end = asyncio.Event(), [0]
    seen = asyncio.create_task(read_with_breaks(url, random.Random(4), done, end, back))
    for number in range(10):
        await write_log(studio, f"job_{number}", 30)
    for job in jobs:
        await studio.job(job).result(timeout_s=20)
    end[0] = studio.store.position
    done.set()
    return await seen


async def test_every_event_once_and_in_order_however_often_the_line_breaks(server: Server, studio: Studio) -> None:
    seen = await break_often(studio, server.url, back=0)
    assert len(seen) > 310
    assert seen == await whole_log(studio)


async def test_an_inclusive_cursor_would_double(server: Server, studio: Studio) -> None:
    """The negative control: the comparison above sees duplicates."""
    seen = await break_often(studio, server.url, back=1)
    assert seen != await whole_log(studio)
    assert sorted(set(seen)) == await whole_log(studio)


async def test_history_and_presence_meet_without_a_seam(server: Server, studio: Studio) -> None:
    """Readers that begin at any moment of a busy log see it whole."""

    async def read(_: int) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        async with reading(server.url) as reader:
            await reader.say(type="subscribe", id="a", from_="start")
            await reader.hear("subscribed")
            while len(seen) < 200:
                frame = await reader.hear()
                seen += [(item["position"], item["version"]) for item in frame.get("items", ())]
        return seen

    readers = []
    for number in range(10):
        readers.append(asyncio.create_task(read(number)))
        await write_log(studio, f"job_{number}", 20)
    log = await whole_log(studio)
    assert all(seen == log for seen in await asyncio.gather(*readers))


async def test_large_events_come_in_frames_of_a_bounded_size(server: Server, studio: Studio) -> None:
    await write_log(studio, "job_a", 9, size_bytes=20_000)
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", from_="start")
        await reader.hear("subscribed")
        sizes: list[int] = []
        uptos: list[int] = []
        while (message := await reader.ws.receive(5)).data.startswith('{"type":"events"'):
            sizes.append(len(message.data))
            uptos.append(message.json()["upto"])
    assert max(sizes) < FRAME_BYTES + 1_000
    assert uptos == [3, 6, 9]


# ── the slow ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def more_than_fits(studio: Studio, reader: Reader) -> None:
    """Ask for far more than the kernel's buffers hold, and take none of it."""
    await write_log(studio, "job_big", 30, size_bytes=200_000)
    for name in "abcd":
        await reader.say(type="subscribe", id=name, from_="start")


async def test_who_does_not_read_is_closed_and_others_do_not_notice(serving: Serve, studio: Studio) -> None:
    server = await serving(Limits(send_s=0.5, messages_per_s=1e6, buffered_bytes=65_536))
    async with (
        reading(server.url, connector=aiohttp.TCPConnector(socket_factory=narrow)) as slow,
        reading(server.url) as other,
    ):
        await more_than_fits(studio, slow)
        assert len(await positions_from(other, "start")) == 30
        await pinged_for(other, 1.0)
        assert await slow.closed() == 4413
        await write_log(studio, "job_small", 1)
        assert len(await positions_from(other, "start")) == 31


async def test_without_the_timeout_the_slow_would_stay(serving: Serve, studio: Studio) -> None:
    """The negative control: it is our own timeout that closes, nothing else does."""
    server = await serving(Limits(send_s=60.0, messages_per_s=1e6))
    async with (
        reading(server.url, connector=aiohttp.TCPConnector(socket_factory=narrow)) as slow,
        reading(server.url) as other,
    ):
        await more_than_fits(studio, slow)
        await pinged_for(other, 1.0)
        items = 0
        while items < 4 * 30:
            items += len((await slow.hear()).get("items", ()))


async def test_a_server_that_stops_says_goodbye(serving: Serve) -> None:
    server = await serving(Limits())
    async with reading(server.url) as one, reading(server.url) as two:
        await one.say(type="subscribe", id="a")
        await one.hear("subscribed")
        closing = asyncio.create_task(server.close())
        assert [await one.closed(), await two.closed()] == [1001, 1001]
        await closing
    with pytest.raises(aiohttp.ClientConnectorError):
        async with reading(server.url):
            pass
