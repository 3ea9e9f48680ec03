"""The event stream as any HTTP client meets it: the same items, one id each, and no gap over a break."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec import Struct
from talking import TINY, Frame, Serve, reading, whole_log, write_log

from rushes.api.app import Server
from rushes.api.stream import Limits
from rushes.eventstore.base import Birth, Head, NewEvent, Write
from rushes.studio import Studio
from rushes.video import BatchedRequest, VideoRequest


class Message(Struct, frozen=True):
    """What a browser dispatches."""

    event: str
    data: Frame
    id: str


class Source:
    """As much of a browser's EventSource as there is to it."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply
        self.last_id = ""
        self.comments = 0

    async def next(self) -> Message:
        event, data = "message", ""
        while True:
            field, value = await self.line()
            match field:
                case "event":
                    event = value
                case "data":
                    data += value
                case "" if data:
                    return Message(event, msgspec.json.decode(data), self.last_id)
                case _:
                    assert field in {"", "id", "retry", "comment"}, field

    async def line(self) -> tuple[str, str]:
        """The next line; an empty name is the end of a message."""
        line = (await self._reply.content.readuntil(b"\n")).decode().rstrip("\n")
        field, _, value = line.partition(":")
        if field == "id":
            self.last_id = value.removeprefix(" ")
        self.comments += line.startswith(":")
        return ("comment" if line.startswith(":") else field), value.removeprefix(" ")

    async def until_caught_up(self) -> list[Message]:
        messages: list[Message] = []
        while (message := await self.next()).event != "caught_up":
            messages.append(message)
        return messages


@asynccontextmanager
async def source(url: str, path: str = "/v1/events", last_id: str = "", **query: str) -> AsyncIterator[Source]:
    timeout = aiohttp.ClientTimeout(total=20)
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
    async with (
        aiohttp.ClientSession(url, timeout=timeout, read_bufsize=2**20) as web,
        web.get(path, params=query, headers=headers) as reply,
    ):
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert reply.headers["Cache-Control"] == "no-store"
        yield Source(reply)


async def test_the_items_are_those_of_the_socket(server: Server, studio: Studio) -> None:
    await write_log(studio, "job_a", 3)
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", from_="start")
        await reader.hear("subscribed")
        items = await reader.until_caught_up()
    async with source(server.url, **{"from": "start"}) as events:
        subscribed, *messages = await events.until_caught_up()
    assert (subscribed.event, subscribed.data["type"], subscribed.data["position"]) == ("subscribed", "subscribed", 0)
    assert [message.data for message in messages] == items
    assert [message.id for message in messages] == [f"{studio.store.epoch}:{n}" for n in (1, 2, 3)]
    assert {message.event for message in messages} == {"message"}


async def test_one_job_is_shown_and_then_told_to_its_end(server: Server, studio: Studio) -> None:
    job = (await studio.submit(VideoRequest(**TINY)))[0].id
    await write_log(studio, "job_other", 5)
    async with source(server.url, f"/v1/jobs/{job}/stream") as events:
        shown = (await events.next()).data["snapshot"]
        versions = [shown["version"]]
        while (message := await events.next()).data["type"] != "job.succeeded":
            if message.event == "message":
                versions.append(message.data["version"])
    assert versions == [*range(versions[0], message.data["version"])]


@pytest.mark.parametrize("query", [{"jobs": "job_a,job_b"}, {"job": "job_b"}, {"status": "queued", "provider": "here"}])
async def test_filters_are_those_of_the_socket(server: Server, studio: Studio, query: dict[str, str]) -> None:
    for name in ("job_a", "job_b", "job_c"):
        asked = NewEvent("job.requested", 1, 1.0, b'{"route":\n[{"provider": "here"}]}')  # a payload in two lines
        head = Head(open=False, lane="")
        await studio.store.append(Write(Birth(name, "job", "default"), 0, [asked], head, random.getrandbits(63)))
    async with source(server.url, **query, **{"from": "start"}) as events:
        heard = [message for message in await events.until_caught_up() if message.event == "message"]
    named = query.get("jobs", query.get("job", "job_a,job_b,job_c")).split(",")
    assert [message.data["job_id"] for message in heard] == named
    assert heard[0].data["data"] == {"route": [{"provider": "here"}]}


async def test_a_batch_is_shown_and_told(server: Server, studio: Studio) -> None:
    batch, _ = await studio.submit_batch([BatchedRequest(**TINY), BatchedRequest(**TINY)])
    for job in batch.jobs:
        await studio.job(job).result(timeout_s=20)
    await write_log(studio, "job_other", 5)
    async with source(server.url, batch=batch.id, **{"from": "start"}) as events:
        subscribed, *messages = await events.until_caught_up()
    assert [view["id"] for view in subscribed.data["snapshots"]] == batch.jobs
    assert {message.data["job_id"] for message in messages} == {*batch.jobs}
    assert [one.data["type"] for one in messages].count("job.succeeded") == 2


async def test_a_reader_that_comes_again_misses_nothing_and_sees_nothing_twice(server: Server, studio: Studio) -> None:
    rng = random.Random(7)
    seen: list[tuple[int, int]] = []
    last_id = f"{studio.store.epoch}:0"
    for number in range(8):
        await write_log(studio, f"job_{number}", 20)
        async with source(server.url, last_id=last_id, **{"from": "start"}) as events:  # the header wins
            for _ in range(rng.randrange(1, 30)):
                message = await events.next()
                if message.event == "message":
                    seen.append((message.data["position"], message.data["version"]))
                if message.event == "caught_up":
                    break
            last_id = events.last_id or last_id
    async with source(server.url, last_id=last_id) as events:
        rest = [message.data for message in await events.until_caught_up() if message.event == "message"]
    seen += [(item["position"], item["version"]) for item in rest]
    assert seen == await whole_log(studio)


async def test_control_a_reader_that_forgets_its_id_sees_events_twice(server: Server, studio: Studio) -> None:
    await write_log(studio, "job_a", 3)
    seen: list[int] = []
    for _ in range(2):
        async with source(server.url, **{"from": "start"}) as events:
            seen += [one.data["position"] for one in await events.until_caught_up() if one.event == "message"]
    assert seen == [1, 2, 3, 1, 2, 3]


async def test_silence_has_heartbeats_and_quiet_cursors_move(serving: Serve, studio: Studio) -> None:
    server = await serving(Limits(heartbeat_s=0.1))
    async with source(server.url, status="failed") as events:
        await events.until_caught_up()
        await write_log(studio, "job_a", 4)
        while events.comments < 2 or not events.last_id.endswith(":4"):
            await events.line()


@pytest.mark.parametrize(
    ("path", "status", "code", "field"),
    [
        ("/v1/events?from=later", 400, "invalid_input", "from"),
        ("/v1/events?from=x:-1", 400, "invalid_input", "from"),
        ("/v1/events?from=x:9999999999999999999", 400, "invalid_input", "from"),
        ("/v1/events?form=now", 400, "invalid_input", "form"),
        ("/v1/events?status=done", 400, "invalid_input", "status"),
        ("/v1/events?snapshots=300", 400, "invalid_input", "snapshots"),
        ("/v1/events?jobs=job_a&job=job_a", 400, "invalid_input", "jobs"),
        ("/v1/events?job=job_nobody", 404, "not_found", None),
        ("/v1/events?batch=batch_nobody", 404, "not_found", "batch"),
        ("/v1/events?batch=batch_a&jobs=job_a", 400, "invalid_input", "batch"),
        ("/v1/jobs/job_nobody/stream", 404, "not_found", None),
        ("/v1/events?from=other:0", 409, "conflict", None),
        ("/v1/events?from={epoch}:99", 409, "conflict", None),
    ],
)
async def test_refusals_are_problems_before_the_stream_begins(
    web: aiohttp.ClientSession, studio: Studio, path: str, status: int, code: str, field: str | None
) -> None:
    async with web.get(path.format(epoch=studio.store.epoch)) as reply:
        problem: dict[str, Any] = await reply.json(content_type="application/problem+json")
    assert (reply.status, problem["code"], problem.get("field"), problem["billed"]) == (status, code, field, "no")


async def test_an_id_of_another_log_is_a_conflict(web: aiohttp.ClientSession) -> None:
    for last, status in (("other:5", 409), ("nonsense", 400)):
        async with web.get("/v1/events", headers={"Last-Event-ID": last}) as reply:
            assert reply.status == status


async def test_a_job_that_cannot_be_read_is_a_problem_in_the_stream(server: Server, studio: Studio) -> None:
    await write_log(studio, "job_odd", 1)
    async with source(server.url, "/v1/jobs/job_odd/stream", **{"from": "start"}) as events:
        subscribed, problem, item = await events.until_caught_up()
    assert subscribed.data["snapshot"] is None
    assert (problem.event, problem.data["code"], problem.data["job_id"]) == ("problem", "unreadable", "job_odd")
    assert item.data["position"] == 1
