"""Replicate's adapter in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from msgspec.structs import replace

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Failed, Flow, Keep, Prepared, Request, Response, Sink
from rushes.adapters.capabilities import PollSchedule
from rushes.adapters.http import Http
from rushes.adapters.replicate import Replicate
from rushes.assets import Assets
from rushes.emulators.base import serve_twin
from rushes.emulators.faults import Cut, Drop, ExpiredUrl, Faults, LineRule, NotFound, ServerError, StatusWord, TwinRule
from rushes.emulators.faulty import FaultyTwin
from rushes.emulators.replicate import ReplicateTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Fault, JobFailed
from rushes.studio import Doors, Job, Studio
from rushes.units import AssetRef, Handle
from rushes.video import JobView, MediaInput, Probe, Target, VideoSpec
from rushes.views.jobs import ReadonlyView

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
CLIP = b"\0\0\0\x18ftypisom" + b"\0" * 200
PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
SECRET = "r8_a-key-of-replicate"
PATIENCE_S = 10.0


class Hasty(Replicate):
    """The adapter as it is, but for its pace."""

    capabilities = replace(
        Replicate.capabilities,
        terms=replace(
            Replicate.capabilities.terms,
            poll=PollSchedule(min_s=0.02, max_s=0.02),
            settle_s=0.1,
            looks_s=(0.02, 0.06, 0.12),
        ),
    )


class OneMark(Hasty):
    """The control: all attempts of all jobs carry the same mark."""

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[Prepared]:  # noqa: ARG002
        return super().prepare(spec, target, "ours")

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        return super().find(target, "ours", since)


class Clock:
    def now(self) -> float:
        return round(time.time(), 3)


class Trouble:
    """The real client, and what gets lost on the way."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.losing: list[str] = []  # of the next paid calls: the "answer", the "request"; or it is "late"
        self.lost: list[Request] = []  # what arrives just before the next

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        if not request.spends:
            return await self._http.send(adapter, target, request)
        while self.lost:
            await self._http.send(adapter, target, self.lost.pop())
        what = self.losing.pop(0) if self.losing else ""
        if what == "late":
            self.lost.append(request)
        if what in ("", "answer"):
            reply = await self._http.send(adapter, target, request)
        if what:
            raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        return await self._http.keep(adapter, target, ask, sink)


class Rig:
    """A studio over one twin."""

    def __init__(self, twin: ReplicateTwin, studio: Studio, line: Trouble) -> None:
        self.twin, self.studio, self.line = twin, studio, line

    async def make(self, prompt: str = "a lake", **fields: Any) -> Job:
        return await self.studio.generate(prompt, **fields)

    def asked(self, method: str, end: str) -> int:
        """How many such requests came."""
        return sum(line.method == method and line.path.endswith(end) for line in self.twin.ledger.requests)


Open = Callable[..., Awaitable[Rig]]


async def _no_probe(path: Path) -> Probe:  # noqa: ARG001
    return Probe()


async def _look(path: Path) -> tuple[int, int]:  # noqa: ARG001
    return 512, 512


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(*rules: LineRule | TwinRule, adapter: Replicate | None = None, **changes: Any) -> Rig:
            twin = ReplicateTwin(clip=CLIP, key=SECRET, **{"start_s": 0.0, "render_s": 0.05, **changes})
            clock, assets, store = Clock(), Assets(tmp_path), MemoryStore()
            server = await serve_twin(FaultyTwin(twin, Faults(rules)), now=clock.now)
            stack.push_async_callback(server.close)
            keys, adapters = {"REPLICATE_API_TOKEN": SECRET}, dict[str, Adapter](replicate=adapter or Hasty())
            http = Http(
                base_urls={"replicate": server.url},
                credentials=keys,
                read=lambda asset: assets.path(asset.key).read_bytes(),
                inner={},
                clock=clock,
            )
            line = Trouble(await stack.enter_async_context(http))
            performer = Performer(adapters, line, assets, clock, _no_probe)
            system = System(store=store, adapters=adapters, performer=performer, clock=clock)
            doors = Doors(
                fetch=http.fetch,
                look_at_image=_look,
                credentials=keys,
                default_model="replicate",
                unavailable=lambda _: None,
            )
            jobs = ReadonlyView(store)
            studio = Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=doors)
            await system.start()
            stack.push_async_callback(system.stop, 2.0)
            return Rig(twin, studio, line)

        yield open_rig


async def until(job: Job, phase: str) -> JobView:
    async with aclosing(job.updates()) as views:
        async for view in views:
            if view.phase == phase:
                return view
    raise AssertionError(f"it ended without being {phase}")


async def types(job: Job) -> Sequence[str]:
    return [event.type for event in await job.events()]


async def test_words_become_a_take_at_a_price_that_nobody_tells(opened: Open) -> None:
    rig = await opened()
    result = await (await rig.make(aspect_ratio="9:16", duration_seconds=7.0)).result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert (result.job.cost, result.job.billed) == (None, "yes")
    (made,) = rig.twin.predictions.values()
    sent = {"prompt": "a lake", "duration": 7, "aspect_ratio": "9:16", "resolution": "720p", "fps": 24}
    assert made.input == {**sent, "seed": result.job.request.seed}


async def test_an_image_travels_as_a_file_with_the_mark_of_its_attempt(opened: Open) -> None:
    rig = await opened()
    result = await (await rig.make("", image=PICTURE, model="replicate/svd")).result(timeout_s=PATIENCE_S)
    ((name, file),) = rig.twin.files.items()
    assert (file.content, file.metadata) == (PICTURE, {"rushes": f"{result.job.id}-1"})
    (made,) = rig.twin.predictions.values()
    assert str(made.input["input_image"]).endswith(f"/v1/files/{name}")


async def test_references_of_every_kind_reach_the_model(opened: Open) -> None:
    rig = await opened()
    first = await rig.make()
    await first.result(timeout_s=PATIENCE_S)
    image = MediaInput(role="character", url="data:image/png;base64," + b64encode(PICTURE).decode())
    clip = MediaInput(type="video", role="reference_video", job=first.id)
    job = await rig.make("[Image1] as in [Video1]", inputs=(image, clip), model="replicate/seedance-2.0")
    result = await job.result(timeout_s=PATIENCE_S)
    made = list(rig.twin.predictions.values())[-1].input
    assert result.job.operation == "video-to-video"
    assert [len(cast("list[str]", made[f"reference_{kind}"])) for kind in ("images", "videos")] == [1, 1]
    assert {file.content for file in rig.twin.files.values()} == {PICTURE, CLIP}


# ── Answers that are lost ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lost_answer_is_found_by_the_file_and_paid_once(opened: Open) -> None:
    rig = await opened()
    rig.line.losing = ["answer"]
    job = await rig.make("", image=PICTURE, model="replicate/svd")
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert "submission.doubted" in await types(job)
    assert (rig.asked("POST", "/predictions"), len(rig.twin.charges)) == (1, 1)


async def test_a_lost_request_is_not_sent_again_by_itself(opened: Open) -> None:
    """That no list shows it proves nothing."""
    rig = await opened()
    rig.line.losing = ["request"]
    job = await rig.make("", image=PICTURE, model="replicate/svd")
    parked = await until(job, "parked")
    assert parked.billed == "unknown"
    assert (rig.asked("POST", "/predictions"), rig.twin.charges) == (0, [])
    assert rig.asked("GET", "/predictions") >= 1


async def test_a_lost_answer_to_words_alone_is_parked_without_a_look(opened: Open) -> None:
    rig = await opened()
    rig.line.losing = ["answer"]
    parked = await until(await rig.make(), "parked")
    assert (parked.billed, len(rig.twin.charges)) == ("unknown", 1)
    assert (rig.asked("GET", "/files"), rig.asked("GET", "/predictions")) == (0, 0)


async def test_a_second_attempt_is_never_taken_for_the_first(opened: Open) -> None:
    """The first arrives after it was given up, just before the second, whose answer is lost: the job is the second."""
    rig = await opened()
    rig.line.losing = ["late", "answer"]
    job = await rig.make("", image=PICTURE, model="replicate/svd", at_least_once=1)
    await job.result(timeout_s=PATIENCE_S)
    assert len(rig.twin.charges) == 2
    marks = {name: file.metadata["rushes"] for name, file in rig.twin.files.items()}
    assert sorted(str(mark) for mark in marks.values()) == [f"{job.id}-1", f"{job.id}-2"]
    polled = {line.path.rpartition("/")[2] for line in rig.twin.ledger.requests if "/predictions/" in line.path}
    (taken,) = [made for made in rig.twin.predictions.values() if made.id in polled]
    assert marks[str(taken.input["input_image"]).rpartition("/")[2]] == f"{job.id}-2"


async def test_a_mark_that_two_attempts_share_is_no_evidence(opened: Open) -> None:
    """The control of the test above: there it is the key alone that tells them apart."""
    rig = await opened(adapter=OneMark())
    rig.line.losing = ["late", "answer"]
    job = await rig.make("", image=PICTURE, model="replicate/svd", at_least_once=1)
    assert (await until(job, "parked")).billed == "unknown"
    assert len(rig.twin.charges) == 2


# ── Faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rule",
    [
        ServerError(on="prepare", status=503, times=1),
        Cut(on="prepare", byte=40, times=1),
        ServerError(on="submit", status=502, after_accept=True, times=1),
        Drop(on="submit", after_work=True, times=1),
        Cut(on="submit", byte=5, times=1),
        NotFound(looks=2),
        StatusWord(word="pondering", times=2),
        StatusWord(word="starting", times=1),
        ServerError(on="status", times=1),
        Cut(on="download", byte=30, times=1),
        ExpiredUrl(times=1),
    ],
    ids=lambda rule: f"{rule.do} {rule.on}",
)
async def test_trouble_on_the_way_costs_nothing_more(opened: Open, rule: LineRule | TwinRule) -> None:
    rig = await opened(rule)
    job = await rig.make("", image=PICTURE, model="replicate/svd")
    result = await job.result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert len(rig.twin.charges) == 1
    assert any(line.fault for line in rig.twin.ledger.requests)


async def test_looks_that_fail_are_tried_again(opened: Open) -> None:
    rig = await opened(Cut(on="find", byte=20, times=1))
    rig.line.losing = ["answer"]
    job = await rig.make("", image=PICTURE, model="replicate/svd")
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert len(rig.twin.charges) == 1


@pytest.mark.parametrize(("word", "code"), [("forbidden", "moderated"), ("broken", "generation_failed")])
async def test_nobody_says_whether_a_failure_was_billed(opened: Open, word: str, code: str) -> None:
    rig = await opened()
    with pytest.raises(JobFailed) as failed:
        await (await rig.make(f"a {word} lake")).result(timeout_s=PATIENCE_S)
    assert (failed.value.code, failed.value.billed, len(rig.twin.charges)) == (code, "unknown", 1)


async def test_a_cancel_stops_it(opened: Open) -> None:
    rig = await opened(render_s=60.0)
    job = await rig.make()
    await until(job, "running")
    await job.cancel()
    view = await until(job, "cancelled")
    assert (view.billed, rig.asked("POST", "/cancel")) == ("unknown", 1)
