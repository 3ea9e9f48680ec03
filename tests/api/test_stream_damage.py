"""A damaged event is told in its place, whoever reads the log, and what is behind it follows."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from acme import AcmeTwin, Wire, make
from msgspec.structs import replace
from talking import TINY, Frame, Reader, reading, write_log

import rushes
from rushes.api.app import Server, serve
from rushes.api.feed import BATCH, Chunk, Feed, Filter, Item, Lost, Page, chunks
from rushes.client import Client
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Unreadable
from rushes.studio import Studio
from rushes.testing.eventstore import birth
from rushes.video import VideoRequest

ROT = "data = replace(data, 'x', 'y')"
LOG = (("job_a", 3), ("job_b", 3), ("job_c", 3))  # positions 1 to 9


@asynccontextmanager
async def damaged_log(folder: Path, *positions: int, what: str = ROT) -> AsyncIterator[tuple[Studio, Server]]:
    """A server over a log of three jobs, in which these events were changed while nobody looked."""
    async with rushes.open(folder, environ={}) as studio:
        for name, count in LOG:
            await write_log(studio, name, count)
    with closing(sqlite3.connect(folder / "rushes.db")) as stranger, stranger:
        stranger.execute("DROP TRIGGER events_never_change")
        for position in positions:
            assert stranger.execute(f"UPDATE events SET {what} WHERE position = ?", (position,)).rowcount == 1
    async with rushes.open(folder, environ={}) as studio:
        server = await serve(studio, "127.0.0.1:0")
        yield studio, server
        await server.close()


async def told(reader: Reader) -> list[int | str]:
    """Positions that came, and messages of errors between them, up to the end of the log."""
    heard: list[int | str] = []
    while (frame := await reader.hear())["type"] != "caught_up":
        heard += [frame["message"]] if frame["type"] == "error" else [item["position"] for item in frame["items"]]
    return heard


def sentence(version: int, job: str, position: int) -> str:
    way_out = "`rushes verify` says what else is, and a backup that is restored brings it back."
    return f"Event {version} of {job} (position {position}) is damaged: {way_out}"


async def test_who_reads_all_is_told_in_its_place_and_reads_on(tmp_path: Path) -> None:
    async with damaged_log(tmp_path, 5) as (studio, server), reading(server.url) as reader:
        await reader.say(type="subscribe", id="s", from_="start")
        await reader.hear("subscribed")
        first = await reader.hear("events")
        error = await reader.hear("error")
        second = await reader.hear("events")
        assert ([item["position"] for item in first["items"]], first["upto"]) == ([1, 2, 3, 4], 4)
        assert error == {
            "type": "error",
            "id": "s",
            "code": "unreadable",
            "message": sentence(2, "job_b", 5),
            "retryable": False,
            "billed": "unknown",
            "job_id": "job_b",
        }
        assert ([item["position"] for item in second["items"]], second["upto"]) == ([6, 7, 8, 9], 9)
        assert (await reader.hear("caught_up"))["position"] == 9
        await write_log(studio, "job_d", 1)
        assert [item["position"] for item in (await reader.hear("events"))["items"]] == [10]


async def test_who_reads_the_damaged_job_reads_on_too(tmp_path: Path) -> None:
    async with damaged_log(tmp_path, 5) as (_, server), reading(server.url) as reader:
        await reader.say(type="subscribe", id="s", job="job_b", from_="start")
        assert (await reader.hear("subscribed"))["snapshot"] is None
        assert (await reader.hear("error"))["message"] == sentence(2, "job_b", 5), "why there is no snapshot"
        assert await told(reader) == [4, sentence(2, "job_b", 5), 6]


async def test_who_reads_another_job_hears_nothing_of_it(tmp_path: Path) -> None:
    async with damaged_log(tmp_path, 5) as (_, server), reading(server.url) as reader:
        await reader.say(type="subscribe", id="s", job="job_c", from_="start")
        await reader.hear("subscribed")
        assert "job_c" in (await reader.hear("error"))["message"]  # its type is not known either
        assert await told(reader) == [7, 8, 9]


@pytest.mark.parametrize("position", [1, 5, 9])
async def test_the_damage_is_told_again_to_those_who_come_from_before_it_only(tmp_path: Path, position: int) -> None:
    async with damaged_log(tmp_path, position) as (studio, server):
        for start in range(9):
            async with reading(server.url) as reader:
                cursor = {"epoch": studio.store.epoch, "position": start}
                await reader.say(type="subscribe", id="s", from_=cursor)
                await reader.hear("subscribed")
                expected = [at if at != position else "damaged" for at in range(start + 1, 10)]
                assert ["damaged" if isinstance(one, str) else one for one in await told(reader)] == expected


async def test_a_cursor_moves_past_damage_at_the_end_of_the_log(tmp_path: Path) -> None:
    async with damaged_log(tmp_path, 8, 9) as (_, server), reading(server.url) as reader:
        await reader.say(type="subscribe", id="s", from_="start")
        heard: list[Frame] = [await reader.hear() for _ in range(6)]
        kinds = [frame["type"] for frame in heard]
        assert kinds == ["subscribed", "events", "error", "error", "events", "caught_up"]
        assert (heard[1]["upto"], heard[4]["upto"], heard[4]["items"]) == (7, 9, [])


@pytest.mark.parametrize("what", ["stream = 77", "tenant = 77"])
async def test_damage_that_hides_whose_it_is_is_told_to_who_reads_all(tmp_path: Path, what: str) -> None:
    async with damaged_log(tmp_path, 5, what=what) as (_, server), reading(server.url) as reader:
        await reader.say(type="subscribe", id="s", from_="start")
        await reader.hear("subscribed")
        heard = await told(reader)
        assert [one for one in heard if isinstance(one, int)] == [1, 2, 3, 4, 6, 7, 8, 9]
        assert "(position 5) is damaged" in str(heard[4])


async def test_events_of_a_newer_release_are_told_as_they_are(tmp_path: Path) -> None:
    async with damaged_log(tmp_path) as (_, server), reading(server.url) as reader:
        await reader.say(type="subscribe", id="s", job="job_a", from_="start")
        assert (await reader.hear("subscribed"))["snapshot"] is None
        why = await reader.hear("error")
        assert (why["id"], why["code"]) == ("s", "unreadable")
        assert why["message"].startswith("Event 1 of job_a is test.happened v1, which this release (")
        (one, *_) = (await reader.hear("events"))["items"]
        assert (one["type"], one["data"]["n"]) == ("test.happened", 0)


async def test_over_http_a_damaged_job_is_named_and_others_run(tmp_path: Path) -> None:
    async with (
        damaged_log(tmp_path, 5) as (_, server),
        aiohttp.ClientSession(server.url) as web,
        Client(server.url) as client,
    ):
        for method, path in (
            ("GET", ""),
            ("GET", "/events"),
            ("GET", "/content"),
            ("POST", "/cancel"),
            ("POST", "/poll"),
        ):
            async with web.request(method, f"/v1/jobs/job_b{path}") as reply:
                problem = await reply.json(content_type="application/problem+json")
            assert (reply.status, problem["code"], problem["job_id"]) == (409, "unreadable", "job_b"), path
            assert (problem["detail"], problem["retryable"]) == (sentence(2, "job_b", 5), False)
        async with web.get("/v1/jobs/job_b/events?after=2") as reply:
            assert [event["position"] for event in (await reply.json())["data"]] == [6]
        async with web.get("/v1/jobs/job_a/events") as reply:
            assert len((await reply.json())["data"]) == 3
        view, _ = await client.submit(VideoRequest(**TINY))
        async with aclosing(client.updates(view.id)) as views:
            assert [view.status async for view in views][-1] == "succeeded"


async def test_the_client_is_told_and_follows_on_where_it_wants_to(tmp_path: Path) -> None:
    async with damaged_log(tmp_path, 5) as (_, server), Client(server.url) as client:
        async with aclosing(client.follow(start="start")) as events:
            assert [(await anext(events)).position for _ in range(4)] == [1, 2, 3, 4]
            with pytest.raises(Unreadable, match="Event 2 of job_b"):
                await anext(events)
        named: list[Unreadable] = []
        async with aclosing(client.follow(start="start", on_unreadable=named.append)) as events:
            assert [(await anext(events)).position for _ in range(8)] == [1, 2, 3, 4, 6, 7, 8, 9]
        assert [error.detail for error in named] == [sentence(2, "job_b", 5)]
        with pytest.raises(Unreadable, match="Event 2 of job_b"):
            await anext(client.updates("job_b"))


async def test_a_job_that_lives_on_in_memory_is_shown_where_its_log_was_damaged(tmp_path: Path) -> None:
    wire, store = Wire(AcmeTwin()), MemoryStore()
    wire.gate = asyncio.Event()
    system, studio = make(store, tmp_path, wire)
    job = await studio.generate("a lake")
    await wire.sending.wait()
    store._crcs[store.position - 1] ^= 1
    server = await serve(studio, "127.0.0.1:0")
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="s", job=job.id)
        subscribed = await reader.hear("subscribed")
        assert (subscribed["snapshot"]["version"], subscribed["position"]) == (2, 2)
        await reader.hear("caught_up")
    await server.close()
    wire.gate.set()
    await system.stop()


# ── Every position is told, or named ──────────────────────────────────────────────────────────────────────────────────


ALL = Filter("default")


async def a_pass(feed: Feed, store: MemoryStore, rng: random.Random) -> list[int]:
    """Positions in the order in which one reader hears of them, damaged or not; it comes again at random frames."""
    heard: list[int] = []
    cursor = 0
    while cursor < store.position:
        page = await feed.read(ALL, cursor)
        for chunk in chunks(page.found, page.upto):
            if isinstance(chunk, Chunk):
                heard += [item.position for item in chunk.items]
                assert heard[-1] <= chunk.upto, "a cursor is never behind what came"
                cursor = chunk.upto
                if rng.random() < 0.3:
                    break  # the line breaks, and the reader comes back with this cursor
            else:
                heard.append(chunk.position)
        else:
            cursor = page.upto
    return heard


async def spoilt_log(rng: random.Random) -> MemoryStore:
    """Some batches long, with events of all sizes, and damage alone, in runs, and at the ends."""
    store = MemoryStore()
    for number in range(2 * BATCH + rng.randrange(BATCH)):
        write = birth(f"job_{number}")
        data = b'"%s"' % (b"x" * rng.choice([1, 10, 30_000]))
        await store.append(replace(write, events=[replace(event, data=data) for event in write.events]))
    spoilt = {0, store.position - 1, BATCH - 1, BATCH, *range(300, 310)}
    for index in spoilt | {rng.randrange(store.position) for _ in range(20)}:
        store._crcs[index] ^= 1
    return store


SEEDS = range(100 if os.environ.get("RUSHES_NIGHTLY") else 3)


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_position_is_told_or_named_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    store = await spoilt_log(rng)
    few = Feed(store, remembered=5)  # fewer names than a batch has streams
    assert await a_pass(few, store, rng) == list(range(1, store.position + 1))


class Silent(Feed):
    """The negative control: it passes over what is damaged."""

    async def read(self, wanted: Filter, after: int) -> Page:
        page = await super().read(wanted, after)
        return Page("", [one for one in page.found if isinstance(one, Item)], page.upto)


async def test_control_silence_about_damage_is_found() -> None:
    rng = random.Random(0)
    store = await spoilt_log(rng)
    heard = await a_pass(Silent(store), store, rng)
    assert heard == sorted(set(heard))
    assert len(heard) < store.position - 10


class Forgetful(Feed):
    """The negative control: names that are remembered, and none beside them."""

    async def _names_of(self, streams: set[int], tenant: str) -> dict[int, str]:
        names = await super()._names_of(streams, tenant)
        return {stream: name for stream, name in names.items() if self._streams.get(stream) is not None}


async def test_control_a_name_that_was_forgotten_is_found() -> None:
    store = await spoilt_log(random.Random(0))
    page = await Forgetful(store, remembered=5).read(ALL, 0)
    assert sum(isinstance(one, Lost) for one in page.found) > 100
