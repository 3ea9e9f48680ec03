"""SIGTERM and SIGINT: the server ends soon, loses nothing, and leaves nothing to repair."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from serve_shop import Trouble
from server import Server
from shop_rig import Rig, at_rest, open_rig

from rushes.cli.arguments import Exit
from rushes.cli.verbs import GOODBYE_S, HARD_STOP_S
from rushes.client import Client
from rushes.faults import BadRequest, ServerTrouble, Unavailable
from rushes.main import load_settings
from rushes.video import VideoRequest

PARTS = range(10 if os.environ.get("RUSHES_NIGHTLY") else 1)
STOPS = 10 if os.environ.get("RUSHES_NIGHTLY") else 5  # in a part, by each signal
CLIP_BYTES = 300_000
GRACE_S: Final = 8.0  # what the setting is where nobody says otherwise
SLOW_MACHINE_S: Final = 5.0  # may pass beside what is measured
FOREVER: Final = asyncio.Event  # what nobody sets


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path, CLIP_BYTES) as rig:
        yield rig


def grace(seconds: float) -> dict[str, str]:
    return {"RUSHES_STOP_GRACE_S": str(seconds)}


class Subscriber:
    """Somebody who follows everything, until told goodbye."""

    def __init__(self, url: str) -> None:
        self.following = asyncio.Event()
        self.goodbye = asyncio.create_task(self._follow(url))  # its result is the code of the close

    async def _follow(self, url: str) -> int | None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/v1/ws") as socket:
            await socket.send_json({"type": "hello"})
            await socket.send_json({"type": "subscribe", "id": "s", "from": "start"})
            async for _ in socket:
                self.following.set()
            return socket.close_code


async def order(client: Client, key: str) -> str:
    """Ask under a key until somebody says that it is stored."""
    while True:
        try:
            view, _ = await client.submit(VideoRequest(prompt="a lake", model="shop-b"), key)
        except (ServerTrouble, Unavailable):
            await asyncio.sleep(0.02)
        else:
            return view.id


async def sent(client: Client, rig: Rig) -> str:
    """A job whose paid call is at the provider, and unanswered."""
    rig.shop.charged.clear()
    job = await order(client, "one")
    await rig.shop.charged.wait()
    return job


async def ended_within(server: Server, seconds: float) -> int:
    """The exit code, once it was in time."""
    began = time.monotonic()
    code = await server.ended()
    assert time.monotonic() - began < seconds
    return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("part", PARTS)
async def test_stopped_under_load_nothing_is_lost_and_nothing_is_left_to_repair(
    rig: Rig, number: signal.Signals, part: int
) -> None:
    seed = random.randrange(2**32)
    print(f"part {part}, seed {seed}")  # shown when it fails
    rng = random.Random(seed)
    rig.shop.patience = lambda: asyncio.sleep(rng.uniform(0, 0.15))
    rig.shop.dawdle = lambda: asyncio.sleep(rng.uniform(0, 0.02))
    keys = (f"order-{n}" for n in count())
    server = await rig.start()
    asked: list[asyncio.Task[str]] = []
    async with Client(server.url) as client:
        for _ in range(STOPS):
            subscribers = [Subscriber(server.url) for _ in range(2)]
            asked += [asyncio.create_task(order(client, next(keys))) for _ in range(5)]
            await asyncio.gather(*(subscriber.following.wait() for subscriber in subscribers))
            await asyncio.sleep(rng.uniform(0.0, 0.3))  # the random moment is the point of the test
            known = {task.result() for task in asked if task.done()}
            server.send(number)
            assert await ended_within(server, GRACE_S + HARD_STOP_S) == 0
            rig.check_stopped_clean()
            rig.check_replays()
            assert known <= rig.jobs()
            events = rig.events()
            assert len(rig.shop.charges) == events["submission.started"] == events["submission.accepted"]
            assert [await subscriber.goodbye for subscriber in subscribers] == [1001, 1001]
            server = await rig.start()
        for job in await asyncio.gather(*asked):
            view = await at_rest(client, job)
            assert view.status == "succeeded"
            await rig.check(client, view)
    assert await server.stop() == 0
    assert len(rig.shop.charges) == len(asked)
    assert rig.events()["submission.doubted"] == 0


@pytest.mark.parametrize("grace_s", [GRACE_S, 0.0])
async def test_a_paid_answer_that_comes_within_the_grace_is_kept(rig: Rig, grace_s: float) -> None:
    """Without a grace, which is the control, it is lost: the next process has to look for the job."""
    answer = asyncio.Event()
    rig.shop.patience = answer.wait
    server = await rig.start(environ=grace(grace_s))
    async with Client(server.url) as client:
        job = await sent(client, rig)
        subscriber = Subscriber(server.url)
        await subscriber.following.wait()
        server.send(signal.SIGTERM)
        await subscriber.goodbye  # so it is stopping
        if not grace_s:
            await server.ended()
        answer.set()
        assert await server.ended() == 0
        rig.check_stopped_clean()
        rig.check_replays()
        assert rig.events()["submission.accepted"] == bool(grace_s)
        server = await rig.start()
        view = await at_rest(client, job)
        await rig.check(client, view)
        assert view.status == "succeeded"
    await server.stop()
    assert rig.events()["submission.doubted"] == (not grace_s)


async def test_a_paid_call_that_hangs_is_left_and_the_job_is_found_at_the_next_start(rig: Rig) -> None:
    rig.shop.patience = FOREVER().wait
    server = await rig.start(environ=grace(0.3))
    async with Client(server.url) as client:
        job = await sent(client, rig)
        server.send(signal.SIGTERM)
        assert await ended_within(server, 0.3 + HARD_STOP_S) == 0
        rig.check_stopped_clean()
        rig.check_replays()
        server = await rig.start()
        view = await at_rest(client, job)
        await rig.check(client, view)
        assert view.status == "succeeded"
        assert "submission.doubted" in [event.type for event in await client.events(job)]
    assert await server.stop() == 0


async def test_who_does_not_let_go_does_not_keep_the_server(rig: Rig) -> None:
    server = await rig.start(environ=grace(0.1))
    begun = asyncio.Event()

    async def drops() -> AsyncIterator[bytes]:
        yield b"the beginning of a picture"
        begun.set()
        await FOREVER().wait()

    async def upload() -> None:
        async with Client(server.url) as client:
            with suppress(ServerTrouble):
                await client.upload(drops())

    uploading = asyncio.create_task(upload())
    await begun.wait()
    deaf = Subscriber(server.url)
    await deaf.following.wait()
    server.send(signal.SIGTERM)
    assert await ended_within(server, 0.1 + GOODBYE_S + SLOW_MACHINE_S) == 0
    await asyncio.gather(uploading, deaf.goodbye)
    rig.check_stopped_clean()


@pytest.mark.parametrize(
    ("grace_s", "signals", "code"), [(0.0, 1, -signal.SIGALRM), (60.0, 2, Exit.INTERRUPTED)], ids=["time", "second"]
)
async def test_what_hangs_for_good_is_ended_by_time_or_by_a_second_signal(
    rig: Rig, grace_s: float, signals: int, code: int
) -> None:
    """An adapter that blocks the whole process: not even its event loop runs any more."""
    server = await rig.start(Trouble(broken="stuck"), grace(grace_s))
    async with Client(server.url) as client:
        job = await order(client, "one")
        await rig.shop.hung.wait()
        for _ in range(signals):
            server.send(signal.SIGTERM)
            await asyncio.sleep(0.1)  # two signals at the same moment are one
        assert await ended_within(server, HARD_STOP_S + SLOW_MACHINE_S) == code
        server = await rig.start()
        view = await at_rest(client, job)
        await rig.check(client, view)
        assert view.status == "succeeded"
    assert await server.stop() == 0
    rig.check_stopped_clean()
    rig.check_replays()


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_a_grace_that_is_no_time_is_refused_by_name(seconds: str) -> None:
    with pytest.raises(BadRequest, match="'stop_grace_s' has a wrong value"):
        load_settings(environ={"RUSHES_STOP_GRACE_S": seconds})
