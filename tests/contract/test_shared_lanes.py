"""What all jobs of one credential share: places, limits, and what the provider told one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from acme import Acme, AcmeTwin, Wire, make

from rushes.actors.actor import Actor, Asked
from rushes.actors.lanes import Lane
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Failed, Request, Response
from rushes.api.app import serve
from rushes.client import Client
from rushes.eventstore.base import Stored, StoreUnavailable, Write
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Fault
from rushes.studio import Job, Studio
from rushes.video import JobView, LaneView, Target


class Moody(Wire):
    """Counts what reaches the provider. `mood` looks at a request first, and may fail it."""

    def __init__(self, twin: AcmeTwin) -> None:
        super().__init__(twin)
        self.requests: list[str] = []
        self.mood: Callable[[Request], None] = lambda _: None

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        self.requests.append(request.method)
        self.mood(request)
        return await super().send(adapter, target, request)


class Rig:
    """One provider, one log, one system."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.wire = folder, MemoryStore(), Moody(AcmeTwin())
        self.system: System | None = None

    async def open(self, kind: type[System] = System) -> Studio:
        self.system, studio = make(self.store, self.folder, self.wire, Acme(poll_s=0.01), kind)
        await self.system.start()
        return studio

    @property
    def lane(self) -> Lane:
        assert self.system is not None
        (lane,) = self.system.lanes
        return lane


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    assert rig.system is not None
    await rig.system.stop(grace_s=1.0)


async def until(job: Job, *phases: str) -> JobView:
    async with asyncio.timeout(5), aclosing(job.updates()) as views:
        async for view in views:
            if view.phase in phases:
                return view
    raise AssertionError(f"it ended without {phases}")


async def lane_view(studio: Studio) -> LaneView:
    (provider,) = await studio.providers()
    (lane,) = provider.lanes
    return lane


async def test_a_refused_key_is_not_tried_again_by_the_jobs_behind_it(rig: Rig) -> None:
    rig.wire.twin.answers = [401]
    studio = await rig.open()
    first = await studio.generate("a lake")
    assert (await until(first, "failed")).billed == "no"
    others = [await studio.generate(f"lake {n}") for n in range(5)]
    assert [(await job.state()).phase for job in others] == ["queued"] * 5
    assert rig.wire.requests == ["POST"]
    lane = await lane_view(studio)
    assert (lane.open, lane.closed_by, lane.waiting, lane.sending) == (False, "authentication_failed", 5, 0)
    assert lane.closed_until is not None
    assert 0 < lane.closed_until.timestamp() - (await first.state()).updated_at.timestamp() <= 61


async def test_retry_after_holds_for_every_job_of_the_lane(rig: Rig) -> None:
    rig.wire.twin.answers = [429]
    rig.wire.twin.retry_after = "30"
    studio = await rig.open()
    first = await studio.generate("a lake")
    await until(first, "queued")
    async with aclosing(first.updates()) as views:
        async for view in views:
            if view.note:
                break
    second = await studio.generate("a sea")
    assert (await second.state()).phase == "queued"
    assert rig.wire.requests == ["POST"]
    lane = await lane_view(studio)
    assert (lane.open, lane.closed_by) == (False, "rate_limited")


async def test_a_provider_that_is_down_is_left_alone_after_a_few_tries(rig: Rig) -> None:
    down = Fault("provider_unavailable", "acme is down", retryable=True)

    def mood(request: Request) -> None:
        if request.method == "GET":
            raise Failed(down)

    rig.wire.twin.done_at_once = False
    studio = await rig.open()
    jobs = [await studio.generate(f"lake {n}") for n in range(30)]
    for job in jobs:
        await until(job, "running")
    rig.wire.mood = mood
    before = len(rig.wire.requests)
    async with asyncio.timeout(5):
        while rig.lane.closed_by is None:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)
    await asyncio.wait_for(until_quiet(rig), 5)
    asked = len(rig.wire.requests) - before
    assert asked <= 30, "each was asked once at most, those that were under way when it closed"
    views = [await job.state() for job in jobs]
    assert {view.phase for view in views} == {"running"}
    assert {"acme is down"} <= {view.note for view in views} <= {"", "acme is down"}
    lane = await lane_view(studio)
    assert (lane.open, lane.closed_by, lane.calling) == (False, "provider_unavailable", 0)


async def until_quiet(rig: Rig) -> None:
    while rig.lane.calls.taken:  # noqa: ASYNC110 - nobody tells when
        await asyncio.sleep(0)


async def test_no_job_starves_while_new_ones_keep_coming(rig: Rig) -> None:
    """Two places, ten in the line, and every job that is sent brings two more."""
    sent: list[str] = []
    coming: list[asyncio.Task[Job]] = []
    studio = await rig.open()

    def mood(request: Request) -> None:
        if request.spends and isinstance(request.body, dict):
            sent.append(str(request.body["prompt"]))
            coming.extend(asyncio.create_task(studio.generate(f"newcomer {len(sent)}")) for _ in range(2))
            if len(coming) > 60:
                rig.wire.mood = lambda _: None

    rig.wire.mood = mood
    rig.wire.gate = asyncio.Event()
    first = [await studio.generate(f"first {n}") for n in range(12)]
    rig.wire.gate.set()
    for job in first:
        await job.result(timeout_s=10)
    for job in await asyncio.gather(*coming):
        await job.result(timeout_s=10)
    assert len(rig.wire.twin.renders) == 12 + len(coming)
    newcomers_before_the_last = sum(prompt.startswith("newcomer") for prompt in sent[: sent.index("first 11")])
    assert newcomers_before_the_last <= 4, "those of the first two, which came while the others were made"


class Full(MemoryStore):
    """It has no room for what `full` names."""

    full = ""

    async def append(self, write: Write) -> Stored:
        if self.full and isinstance(write.stream, int) and any(event.type == self.full for event in write.events):
            raise StoreUnavailable("the disk is full")
        return await super().append(write)


class Greedy(System):
    """The negative control: who cannot store its intent keeps its place."""

    def _keep_reports(self, actor: Actor, asked: list[Asked], error: StoreUnavailable) -> None:
        place, actor.place = actor.place, None
        super()._keep_reports(actor, asked, error)
        actor.place = place


@pytest.mark.parametrize("kind", [System, Greedy])
async def test_a_job_that_is_stuck_holds_no_place(rig: Rig, kind: type[System]) -> None:
    rig.store = Full()
    rig.wire.gate = asyncio.Event()
    studio = await rig.open(kind)
    busy = [await studio.generate(f"busy {n}") for n in range(2)]
    await rig.wire.sending.wait()
    stuck = [await studio.generate(f"stuck {n}") for n in range(2)]
    rig.store.full = "submission.started"
    rig.wire.gate.set()
    for job in busy:
        await job.result(timeout_s=5)
    async with asyncio.timeout(5):
        while kind is System and rig.lane.sends.taken:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)
    assert rig.lane.sends.taken == (0 if kind is System else 2)
    assert [(await job.state()).phase for job in stuck] == ["queued", "queued"]
    rig.store.full = ""
    if kind is System:
        for job in stuck:
            await job.result(timeout_s=10)
        assert len(rig.wire.twin.renders) == 4


async def test_how_often_a_job_was_polled_is_told(rig: Rig) -> None:
    studio = await rig.open()
    rig.wire.twin.done_at_once = False
    job = await studio.generate("a lake")
    await until(job, "running")
    async with asyncio.timeout(5):
        while rig.lane.polls < 3:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)
    rig.wire.twin.done_at_once = True
    await job.result(timeout_s=5)
    async with asyncio.timeout(5):
        while (view := await lane_view(studio)).jobs:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)
    assert view.ended == 1
    assert view.polls >= 4
    assert view.polls_per_job == view.polls


async def test_lanes_are_told_over_http_too(rig: Rig) -> None:
    studio = await rig.open()
    await (await studio.generate("a lake")).result(timeout_s=5)
    server = await serve(studio, "127.0.0.1:0")
    async with Client(server.url) as client:
        (provider,) = await client.providers()
    assert (provider.name, [lane.open for lane in provider.lanes]) == ("acme", [True])
    assert [provider] == await studio.providers()
    await server.close()
