"""The real server, killed by itself at every point between an intent and its outcome, with every class of doubt.

One job for each class comes to the point and waits there until all five have; then the process is gone. The next one
takes them up, and the shop's own ledger says what that cost.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from serve_shop import Trouble
from server import Server
from shop import FOREVER, KINDS, name_of
from shop_rig import Rig, at_rest, open_rig

from rushes.adapters.capabilities import DoubtClass
from rushes.client import Client
from rushes.faults import ServerTrouble
from rushes.testing.failpoints import POINTS as ALL_POINTS
from rushes.testing.failpoints import armed
from rushes.video import VideoRequest

NIGHTLY = bool(os.environ.get("RUSHES_NIGHTLY"))
CLIP_BYTES = 1_200_000  # more than two blocks of a file

# What the classes cannot find out after a kill: those jobs wait for a person. At all other points every job goes on.
UNSENT: Final[dict[DoubtClass, int]] = {"C": 0, "D": 0, "E": 0}  # with what was charged for them
SENT: Final[dict[DoubtClass, int]] = {"D": 1, "E": 1}
NOBODY: Final[dict[DoubtClass, int]] = {}
POINTS: Final = {
    "before submission.started": NOBODY,
    "after submission.started": UNSENT,
    "during send": SENT,
    "before submission.accepted": SENT,
    "after submission.accepted": NOBODY,
    "after generation.finished": NOBODY,
    "during download": NOBODY,
    "before take.stored": NOBODY,
    "before job.succeeded": NOBODY,
    "after cancel.requested": NOBODY,
    "before cancel.answered": NOBODY,
}
MORE_POINTS: Final = (
    "before generation.finished",
    "after job.succeeded",
    "after cancel.answered",
    "after job.cancelled",
)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path, CLIP_BYTES) as rig:
        yield rig


async def insist(client: Client, kind: DoubtClass, prompt: str) -> str:
    """Ask for a job under a key until somebody answers; and for its end, where it has none."""
    while True:
        try:
            view, _ = await client.submit(VideoRequest(prompt=prompt, model=name_of(kind)), f"order-{kind}")
            while prompt == FOREVER and not view.ended and not view.cancel_requested:
                view = await (client.cancel if view.phase == "running" else client.show)(view.id)
        except ServerTrouble:
            await asyncio.sleep(0.05)
        else:
            return view.id


@asynccontextmanager
async def insisting(server: Server, point: str) -> AsyncIterator[tuple[Client, dict[DoubtClass, asyncio.Task[str]]]]:
    """Somebody who wants one job of each class, whatever happens to the server."""
    prompt = FOREVER if "cancel" in point else "a lake"
    async with Client(server.url) as client, asyncio.TaskGroup() as tasks:
        yield client, {kind: tasks.create_task(insist(client, kind, prompt)) for kind in KINDS}


async def killed(server: Server, client: Client, asked: dict[DoubtClass, asyncio.Task[str]]) -> bool:
    """Whether a job came to the point; else they are all at rest."""

    async def rest() -> bool:
        try:
            for task in asked.values():
                await at_rest(client, await asyncio.shield(task))
        except ServerTrouble:
            return False
        return True

    resting, ending = asyncio.create_task(rest()), asyncio.create_task(server.ended())
    await asyncio.wait({resting, ending}, return_when=asyncio.FIRST_COMPLETED)
    if resting.done() and resting.result():
        ending.cancel()
        return False
    resting.cancel()
    return await ending == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_point_no_job_is_paid_twice_and_no_take_is_lost(rig: Rig, point: str) -> None:
    server = await rig.start(Trouble(point=point, jobs=len(KINDS)))
    async with insisting(server, point) as (client, asked):
        assert await server.ended() == -signal.SIGKILL
        acknowledged = {kind: task.result() for kind, task in asked.items() if task.done()}
        charges = len(rig.shop.charges)
        assert bool(rig.parts()) == (point == "during download")
        server = await rig.start()
        jobs = {kind: await task for kind, task in asked.items()}
        assert acknowledged.items() <= jobs.items(), "the same key is the same job"
        views = {kind: await at_rest(client, job) for kind, job in jobs.items()}
        for view in views.values():
            await rig.check(client, view)
    assert await server.stop() == 0
    rig.check_stopped_clean()
    rig.check_replays()
    parked = {kind: rig.shop.charges_of(view.id) for kind, view in views.items() if view.phase == "parked"}
    assert parked == POINTS[point]
    assert charges == (0 if "submission.started" in point else len(KINDS)), "it was killed where it should be"
    end = "cancelled" if "cancel" in point else "succeeded"
    assert {view.status for view in views.values() if view.phase != "parked"} == {end}


def pairs() -> list[tuple[str, str]]:
    """Every two points that a job can come to one after the other."""
    every = itertools.product([*POINTS, *MORE_POINTS], repeat=2)
    return [(first, second) for first, second in every if ("cancel" in first) == ("cancel" in second)]


@pytest.mark.parametrize("pair", pairs() if NIGHTLY else [("during send", "before take.stored")])
async def test_killed_at_two_points_one_after_the_other(rig: Rig, pair: tuple[str, str]) -> None:
    first, second = pair
    server = await rig.start(Trouble(point=first, jobs=len(KINDS)))
    async with insisting(server, first) as (client, asked):
        if await killed(server, client, asked):
            server = await rig.start(Trouble(point=second))
            if await killed(server, client, asked):
                server = await rig.start()
        views = [await at_rest(client, await task) for task in asked.values()]
        for view in views:
            await rig.check(client, view)
    assert await server.stop() == 0
    rig.check_stopped_clean()
    rig.check_replays()


async def test_control_an_intent_of_another_process_is_sent_again_and_paid_again(rig: Rig) -> None:
    server = await rig.start(Trouble(point="during send", jobs=len(KINDS), broken="incarnation"))
    async with insisting(server, "during send") as (client, asked):
        await server.ended()
        server = await rig.start(Trouble(broken="incarnation"))
        jobs = {kind: await task for kind, task in asked.items()}
        views = {kind: await at_rest(client, job) for kind, job in jobs.items()}
        with pytest.raises(AssertionError):
            await rig.check(client, views["E"])
    await server.stop()
    assert {kind: rig.shop.charges_of(job) for kind, job in jobs.items()} == {"A": 1, "B": 2, "C": 2, "D": 2, "E": 2}


def test_a_point_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no point 'after lunch': choose one of before job.requested, after job"):
        armed("after lunch")
    assert {*POINTS, *MORE_POINTS} <= set(ALL_POINTS)
