"""Jobs at Runway from request to take: the real system, client and adapter, with the twin behind a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from acme import no_probe
from msgspec.structs import replace

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters import runway
from rushes.adapters.base import Adapter, Failed, Keep, Request, Response, Sink
from rushes.adapters.capabilities import PollSchedule, Terms
from rushes.adapters.http import Http
from rushes.adapters.runway import Runway
from rushes.assets import Assets
from rushes.emulators.base import serve_twin
from rushes.emulators.ledger import Line
from rushes.emulators.runway import RunwayTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, Fault, JobFailed
from rushes.studio import Doors, Job, Studio
from rushes.units import AssetRef
from rushes.video import Extend, Fields, JobView, MediaInput, Probe, Target, Upscale, VideoSpec
from rushes.views.jobs import ReadonlyView

KEY_NAME, KEY = "RUNWAYML_API_SECRET", "key_" + "0a" * 64
CLIP = b"\0\0\0\x18ftypisom" + b"\0" * 200
PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


class Quick(Runway):
    """The adapter as it is, but for its patience: polls come at once, or not before somebody asks."""

    poll_s = 0.01

    def terms(self, spec: VideoSpec, target: Target) -> Terms:
        poll = PollSchedule(min_s=self.poll_s, max_s=self.poll_s)
        return replace(super().terms(spec, target), poll=poll, gone_grace_s=0.0)


class Clock:
    """Wall time that follows the loop's, and can be put ahead."""

    ahead_s = 0.0

    def now(self) -> float:
        return round(1_700_000_000.0 + asyncio.get_running_loop().time() + self.ahead_s, 3)


class Wire:
    """The real client. `lose`: so many answers to paid calls do not come back; `gate`: results wait for it."""

    def __init__(self, http: Http) -> None:
        self.http, self.lose = http, 0
        self.gate: asyncio.Event | None = None
        self.fetching = asyncio.Event()

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        reply = await self.http.send(adapter, target, request)
        if request.spends and self.lose:
            self.lose -= 1
            raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        self.fetching.set()
        if self.gate is not None:
            await self.gate.wait()
        return await self.http.keep(adapter, target, ask, sink)


class Rig:
    """One twin, one system, and the studio in front of it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.clock, self.adapter, self._folder, self._stack = Clock(), Quick(), folder, stack
        self.twin = RunwayTwin(clip=CLIP, key=KEY, start_s=0.02, render_s=0.04)

    async def open(self, twin: RunwayTwin | None = None) -> Studio:
        self.twin = twin or self.twin
        server = await serve_twin(self.twin, now=self.clock.now)
        self._stack.push_async_callback(server.close)
        assets, credentials = Assets(self._folder), {KEY_NAME: KEY}
        http = Http(
            base_urls={"runway": server.url},
            credentials=credentials,
            read=lambda asset: assets.path(asset.key).read_bytes(),
            inner={},
            clock=self.clock,
        )
        self.wire = Wire(await self._stack.enter_async_context(http))
        adapters: dict[str, Adapter] = {"runway": self.adapter}
        store = MemoryStore()
        performer = Performer(adapters, self.wire, assets, self.clock, no_probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=self.clock)
        self._stack.push_async_callback(system.stop, 2.0)
        await system.start()
        doors = Doors(
            fetch=http.fetch,
            look_at_image=one_by_one,
            look_at_clip=five_seconds,
            credentials=credentials,
            default_model="runway",
            unavailable=lambda _: None,
        )
        view = ReadonlyView(store)
        return Studio(system=system, jobs=view, adapters=adapters, assets=assets, clock=self.clock, doors=doors)

    def came(self, start: str) -> int:
        """How many requests came that begin so."""
        return sum(line.about.startswith(start) for line in self.twin.ledger.requests)

    def created(self) -> Line:
        """The last create that came."""
        return next(line for line in reversed(self.twin.ledger.requests) if line.method == "POST")


async def one_by_one(path: Path) -> tuple[int, int]:  # noqa: ARG001
    """The size of a picture, when nobody looks."""
    return 1, 1


async def five_seconds(path: Path, media_type: str) -> Probe:  # noqa: ARG001
    """How long a clip or a sound is, when nobody looks."""
    return Probe(duration_seconds=5.0)


async def once(content: bytes) -> AsyncIterator[bytes]:
    """A file that is handed in whole."""
    yield content


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        yield Rig(tmp_path, stack)


async def until(job: Job, *phases: str) -> JobView:
    """Follow a job until it is in one of these phases."""
    async with asyncio.timeout(5), aclosing(job.updates()) as views:
        async for view in views:
            if view.phase in phases:
                return view
    raise AssertionError(f"it ended without {phases}")


async def failed(job: Job) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        await job.result(timeout_s=5)
    return failed.value


async def test_words_become_a_clip_that_was_paid_once(rig: Rig) -> None:
    studio = await rig.open()
    result = await (await studio.generate("a lake", seed=7)).result(timeout_s=5)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    view = result.job
    assert (view.provider, view.model, view.operation, view.billed) == ("runway", "gen4.5", "text-to-video", "yes")
    assert view.cost is not None
    assert (view.cost.micro_usd, view.cost.units) == (600_000, 60.0)
    (task,) = rig.twin.tasks.values()
    wanted = {"model": "gen4.5", "promptText": "a lake", "ratio": "1280:720", "duration": 5, "seed": 7}
    assert (task.input, rig.twin.charges) == (wanted, [task.id])
    assert rig.came("POST") == 1


async def test_a_picture_becomes_a_clip(rig: Rig) -> None:
    studio = await rig.open()
    job = await studio.generate(image=PIXEL, model="runway/gen4_turbo", aspect_ratio="square")
    assert (await job.result(timeout_s=5)).job.operation == "image-to-video"
    (task,) = rig.twin.tasks.values()
    (image,) = msgspec.convert(task.input["promptImage"], list[dict[str, str]])
    assert (image["position"], task.input["ratio"]) == ("first", "960:960")
    assert image["uri"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert rig.came("POST") == 1


def inlined(body: object) -> object:
    """A body with the files in it as their sha256: what the ledger shows."""
    if isinstance(body, dict):
        return body["sha256"] if "sha256" in body else {name: inlined(held) for name, held in body.items()}
    return [inlined(held) for held in body] if isinstance(body, list) else body


async def test_every_operation_runs_from_files_to_a_clip(rig: Rig) -> None:
    studio = await rig.open()
    clip, pixel = (sha256(content).hexdigest() for content in (CLIP, PIXEL))
    source = MediaInput(type="video", upload=(await studio.upload(once(CLIP))).id)
    face = MediaInput(role="character", upload=(await studio.upload(once(PIXEL))).id)
    wide = {"ratio": "1280:720", "duration": 5, "audio": True}
    runs: list[tuple[str, Fields, dict[str, object], str]] = [
        ("multi-image", {"model": "seedance2", "inputs": (face,)}, {"references": [{"uri": pixel}], **wide}, "text_to"),
        ("video-to-video", {"model": "seedance2_5", "inputs": (source,)}, {"promptVideo": clip, **wide}, "video_to"),
        (
            "extend",
            {"model": "seedance2_5", "inputs": (source,), "operation": Extend()},
            {"promptVideo": clip, "mode": "extend", "duration": 5, "audio": True},
            "video_to",
        ),
        (
            "video-to-video",
            {"model": "aleph2", "inputs": (source,), "seed": 7},
            {"videoUri": clip, "seed": 7},
            "video_to",
        ),
    ]
    for operation, fields, wanted, path in runs:
        result = await (await studio.generate("the lake freezes", **fields)).result(timeout_s=5)
        assert result.job.operation == operation
        line = rig.created()
        assert line.path == f"/v1/{path}_video"
        assert inlined(line.body) == {"model": fields["model"], "promptText": "the lake freezes", **wanted}
    assert len(rig.twin.charges) == len(runs)


async def test_a_performance_costs_its_own_length(rig: Rig) -> None:
    studio = await rig.open()
    acted = MediaInput(type="video", role="performance", upload=(await studio.upload(once(CLIP))).id)
    face = MediaInput(role="general", upload=(await studio.upload(once(PIXEL))).id)
    job = await studio.generate(model="runway/act-two", inputs=(acted, face))
    view = (await job.result(timeout_s=5)).job
    assert (view.operation, view.model) == ("character-performance", "act_two")
    assert view.cost is not None
    assert (view.cost.micro_usd, view.cost.units) == (250_000, 25.0)


async def test_a_take_of_ours_is_upscaled(rig: Rig) -> None:
    studio = await rig.open()
    first = await studio.generate("a lake")
    await first.result(timeout_s=5)
    take = MediaInput(type="video", job=first.id)
    job = await studio.generate(model="runway/magnific", inputs=(take,), operation=Upscale(), resolution="4k")
    assert (await job.result(timeout_s=5)).job.operation == "upscale"
    assert inlined(rig.created().body) == {
        "model": "magnific_video_upscaler_creative",
        "videoUri": sha256(CLIP).hexdigest(),
        "resolution": "4k",
    }


async def test_large_files_are_uploaded_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runway, "INLINE_BYTES", len(CLIP) - 1)  # so that they need not really be large
    studio = await rig.open()
    await (await studio.generate("night", video=CLIP, image=PIXEL, model="runway/aleph2")).result(timeout_s=5)
    picture, clip = rig.twin.uploads.values()
    assert (clip.content, clip.name[-4:], picture.content, picture.name[-4:]) == (CLIP, ".mp4", PIXEL, ".png")
    (task,) = rig.twin.tasks.values()
    assert task.input["videoUri"] == f"runway://ephemeral/{clip.id}"
    assert task.input["keyframes"] == [{"uri": f"runway://ephemeral/{picture.id}", "at": 0}]


async def test_moderation_ends_a_job_that_is_not_paid(rig: Rig) -> None:
    studio = await rig.open()
    for word in ("forbidden", "flagged"):
        error = await failed(await studio.generate(f"a {word} lake"))
        assert (error.code, error.billed) == ("moderated", "no")
    assert len(rig.twin.charges) == 2


async def test_a_bad_clip_ends_the_job_and_trouble_of_theirs_is_tried_anew(rig: Rig) -> None:
    studio = await rig.open()
    error = await failed(await studio.generate("a broken lake"))
    assert (error.code, error.billed, len(rig.twin.charges)) == ("generation_failed", "no", 1)
    error = await failed(await studio.generate("an unlucky lake"))
    assert (error.code, error.billed, len(rig.twin.charges)) == ("generation_failed", "no", 1 + 3)


async def test_what_a_model_cannot_do_is_refused_before_there_is_a_job(rig: Rig) -> None:
    studio = await rig.open()
    last = MediaInput(role="last_frame", upload=(await studio.upload(once(PIXEL))).id)
    with pytest.raises(BadRequest, match="needs a first frame"):
        await studio.generate(model="runway/veo3.1", inputs=(last,))
    with pytest.raises(BadRequest, match="960x960"):
        await studio.generate(image=PIXEL, model="runway/gen4_turbo", resolution="720x720")
    assert rig.twin.ledger.requests == []


async def test_a_wait_for_a_place_is_no_failure(rig: Rig) -> None:
    studio = await rig.open(RunwayTwin(clip=CLIP, key=KEY, start_s=0.0, render_s=0.05, at_once=1))
    jobs = [await studio.generate("a lake") for _ in range(3)]
    assert [(await job.result(timeout_s=5)).job.status for job in jobs] == ["succeeded"] * 3
    assert len(rig.twin.charges) == 3


async def test_a_cancel_deletes_what_is_running(rig: Rig) -> None:
    studio = await rig.open(RunwayTwin(clip=CLIP, key=KEY, start_s=0.0, render_s=60.0))
    job = await studio.generate("a lake")
    await until(job, "running")
    await job.cancel()
    view = await until(job, "cancelled")
    assert (view.billed, rig.came("DELETE")) == ("unknown", 1)
    assert all(task.deleted_at is not None for task in rig.twin.tasks.values())


async def test_a_late_cancel_keeps_a_finished_clip(rig: Rig) -> None:
    rig.adapter.poll_s = 60.0  # we do not know yet that it is finished
    studio = await rig.open()
    job = await studio.generate("a lake")
    await until(job, "running")
    rig.clock.ahead_s = 1.0
    await job.cancel()
    assert (await job.result(timeout_s=5)).job.status == "succeeded"
    assert rig.came("DELETE") == 0


async def test_a_task_that_was_deleted_behind_our_back_waits_for_a_person(rig: Rig) -> None:
    studio = await rig.open(RunwayTwin(clip=CLIP, key=KEY, start_s=0.0, render_s=60.0))
    job = await studio.generate("a lake")
    await until(job, "running")
    (task,) = rig.twin.tasks.values()
    task.deleted_at = rig.clock.now()
    assert (await until(job, "parked")).billed == "unknown"


async def test_a_lost_answer_is_never_sent_again_and_said(rig: Rig) -> None:
    studio = await rig.open()
    rig.wire.lose = 1
    job = await studio.generate("a lake")
    assert (await failed(job)).billed == "unknown"
    view = await job.state()
    assert (view.phase, len(rig.twin.charges), rig.came("POST")) == ("parked", 1, 1)


async def test_a_link_that_expired_is_asked_for_anew(rig: Rig) -> None:
    studio = await rig.open(RunwayTwin(clip=CLIP, key=KEY, start_s=0.0, render_s=0.02, link_s=40.0))
    rig.wire.gate = asyncio.Event()
    job = await studio.generate("a lake")
    async with asyncio.timeout(5):
        await rig.wire.fetching.wait()
    rig.clock.ahead_s = 60.0
    rig.wire.gate.set()
    result = await job.result(timeout_s=5)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert "links.refreshed" in [event.type for event in await job.events()]
    assert (rig.came("GET /out/"), len(rig.twin.charges)) == (2, 1)


async def test_a_days_limit_makes_a_job_wait_unpaid(rig: Rig) -> None:
    studio = await rig.open(RunwayTwin(clip=CLIP, key=KEY, start_s=0.0, render_s=0.02, daily=1))
    await (await studio.generate("a lake")).result(timeout_s=5)
    job = await studio.generate("a lake")
    async with asyncio.timeout(5), aclosing(job.updates()) as views:
        async for view in views:
            if view.note:
                break
    assert "daily limit" in view.note
    assert (view.phase, len(rig.twin.charges)) == ("queued", 1)
    await job.cancel()
    assert (await until(job, "cancelled")).billed == "no"


async def test_a_key_that_is_refused_is_not_paid(rig: Rig) -> None:
    studio = await rig.open(RunwayTwin(clip=CLIP, key="key_of_somebody_else"))
    error = await failed(await studio.generate("a lake"))
    assert (error.code, error.billed, rig.twin.charges) == ("authentication_failed", "no", [])
