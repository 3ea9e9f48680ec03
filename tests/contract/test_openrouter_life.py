"""Whole jobs at OpenRouter's twin: the real system and studio around the real adapter, in virtual time.

At the end the same adapter talks to the same twin through the real client and a socket.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from acme import CLIP, LoopClock, no_probe
from msgspec.structs import replace

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Done, Failed, Keep, Request, Response, Unfinished, drive
from rushes.adapters.catalogue import ModelSetting, with_settings
from rushes.adapters.http import Http, _from_twin
from rushes.adapters.openrouter import OpenRouter
from rushes.assets import Assets
from rushes.emulators.base import serve_twin
from rushes.emulators.faulty import Emulator
from rushes.emulators.ledger import Line
from rushes.emulators.openrouter import OpenRouterTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, Fault, JobFailed, NotFound
from rushes.studio import Doors, Job, Studio
from rushes.testing.loop import VirtualLoop, run
from rushes.units import AssetRef
from rushes.video import Extend, ImageToVideo, Input, JobView, MediaInput, Target, VideoSpec
from rushes.views.jobs import ReadonlyView

KEY = "sk-or-v1-test"
BASE_URL = "https://openrouter.ai/api/v1"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


ADDED = ModelSetting(  # a model that the adapter's data does not have
    provider="openrouter",
    id="minimax/hailuo-2.3",
    like="x-ai/grok-imagine-video",
    operations=("text-to-video", "image-to-video"),
    durations_s=(6.0, 10.0),
    aspect_ratios=("16:9",),
    resolutions=("1080p",),
)


class Wire:
    """A transport straight to the twin. `lose`: so many answers to paid calls do not come back."""

    def __init__(self, twin: OpenRouterTwin) -> None:
        self.twin, self.lose, self.slow_s = twin, 0, 0.0

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:  # noqa: ARG002
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = self.twin.handle(replace(request, url=BASE_URL + request.url, headers=headers), LoopClock().now())
        if request.spends and self.lose:
            self.lose -= 1
            raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Any) -> AssetRef:  # noqa: ARG002
        """The first fetch begins `slow_s` late."""
        slow_s, self.slow_s = self.slow_s, 0.0
        await asyncio.sleep(slow_s)
        url = urljoin(f"{BASE_URL}/", ask.url)
        ours = ask.with_credential and url.startswith("https://openrouter.ai/")
        headers = {"Authorization": f"Bearer {KEY}"} if ours else {}
        reply = self.twin.handle(Request(method="GET", url=url, headers=headers), LoopClock().now())
        with real_work():
            return await _from_twin("openrouter", reply, sink)


def real_work() -> Any:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.real_work()


def no_fetch(url: str, max_bytes: int) -> AsyncGenerator[bytes, None]:  # noqa: ARG001
    raise NotFound(url)


async def no_look(path: Path) -> tuple[int, int]:  # noqa: ARG001
    return 1, 1


class Rig:
    """One log, one provider, one studio."""

    def __init__(self, folder: Path, twin: OpenRouterTwin) -> None:
        self.twin = twin
        self.wire, self.assets = Wire(self.twin), Assets(folder)
        adapter = OpenRouter()
        adapter.capabilities = with_settings(adapter, [ADDED])
        adapters: dict[str, Adapter] = {"openrouter": adapter}
        store, clock = MemoryStore(), LoopClock()
        performer = Performer(adapters, self.wire, self.assets, clock, no_probe)
        self.system = System(store=store, adapters=adapters, performer=performer, clock=clock)
        doors = Doors(
            fetch=no_fetch,
            look_at_image=no_look,
            credentials={"OPENROUTER_API_KEY": KEY},
            default_model="openrouter",
            unavailable=lambda _: None,
        )
        self.studio = Studio(
            system=self.system,
            jobs=ReadonlyView(store),
            adapters=adapters,
            assets=self.assets,
            clock=clock,
            doors=doors,
        )

    def asked(self, about: str) -> list[Line]:
        return [line for line in self.twin.ledger.requests if about in line.about]


def live(folder: Path, story: Callable[[Rig], Awaitable[None]], **twin: Any) -> None:
    """Run a story in virtual time."""

    async def main() -> None:
        rig = Rig(folder, OpenRouterTwin(clip=CLIP, key=KEY, **twin))
        await rig.system.start()
        await story(rig)
        await rig.system.stop(grace_s=1.0)

    run(main())


async def until(job: Job, *phases: str) -> JobView:
    async with aclosing(job.updates()) as views:
        async for view in views:
            if view.phase in phases:
                return view
    raise AssertionError(f"it ended without {phases}")


async def uploaded(rig: Rig, content: bytes) -> str:
    async def once() -> AsyncIterator[bytes]:
        yield content

    with real_work():
        return (await rig.studio.upload(once())).id


def test_words_become_a_video_that_is_paid_once(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        job = await rig.studio.generate("a lake")
        result = await job.result()
        view = result.job
        assert (view.model, view.billed, view.missing) == ("x-ai/grok-imagine-video", "yes", 0)
        assert view.cost is not None
        assert (view.cost.micro_usd, view.cost.unit) == (350_000, "usd")
        assert Path(view.takes[0].path).read_bytes() == CLIP
        polls = [line.at for line in rig.asked("GET /api/v1/videos/") if "content" not in line.about]
        assert len(polls) >= 2
        assert all(later - earlier >= 10.0 for earlier, later in pairwise(polls))
        assert (len(rig.twin.charges), rig.twin.dropped) == (1, [])

    live(tmp_path, story)


def test_a_picture_is_the_first_frame(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        given = MediaInput(upload=await uploaded(rig, PNG))
        job = await rig.studio.generate("it moves", model="openrouter/google/veo-3.1-lite", inputs=(given,))
        view = (await job.result()).job
        assert (view.operation, len(view.takes)) == ("image-to-video", 1)
        (made,) = rig.twin.jobs.values()
        (frame,) = made.wishes["frame_images"]
        assert frame["frame_type"] == "first_frame"
        assert f"up_{frame['image_url']['url'].asset.sha256}" == given.upload
        assert (rig.twin.dropped, "seed" in made.wishes) == ([], True)

    live(tmp_path, story)


def test_references_guide_a_video(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        given = [MediaInput(role=role, upload=await uploaded(rig, PNG)) for role in ("character", "style")]
        job = await rig.studio.generate(
            "they meet", model="alibaba/wan-2.7", inputs=tuple(given), negative_prompt="rain"
        )
        view = (await job.result()).job
        assert (view.operation, len(view.takes), rig.twin.dropped) == ("multi-image", 1, [])
        (made,) = rig.twin.jobs.values()
        assert len(made.wishes["input_references"]) == 2
        assert made.wishes["provider"]["options"]["alibaba"]["parameters"] == {"negative_prompt": "rain"}

    live(tmp_path, story)


@pytest.mark.parametrize("twin", [{}, {"long_ids": True, "relative": True}])
def test_a_finished_job_is_gone_on_with(tmp_path: Path, twin: dict[str, bool]) -> None:
    async def story(rig: Rig) -> None:
        model = "openrouter/black-forest-labs/flux-3-video"
        first = (await (await rig.studio.generate("a lake", model=model)).result()).job
        given = (MediaInput(type="video", job=first.id),)
        second = await rig.studio.generate("it freezes", model=model, operation=Extend(), inputs=given)
        view = (await second.result()).job
        assert (view.operation, view.billed, len(view.takes)) == ("extend", "yes", 1)
        before, after = rig.twin.jobs.values()
        assert (after.wishes["previous_job_id"], rig.twin.dropped) == (before.id, [])
        assert view.cost is not None
        assert view.cost.micro_usd == 5 * 410_000

    live(tmp_path, story, **twin)


def test_a_clip_that_is_none_of_its_model_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        model = "openrouter/black-forest-labs/flux-3-video"
        first = (await (await rig.studio.generate("a lake")).result()).job
        for given, told in (
            (MediaInput(type="video", upload=await uploaded(rig, CLIP)), "as the job that made it"),
            (MediaInput(type="video", job=first.id), "made by x-ai/grok-imagine-video, and no other model"),
        ):
            with pytest.raises(BadRequest, match=told) as refused:
                await rig.studio.generate("on", model=model, operation=Extend(), inputs=(given,))
            assert refused.value.field == "inputs[0]"
        assert len(rig.twin.charges) == 1

    live(tmp_path, story)


def test_a_model_that_settings_add_makes_a_video(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        for model in ("openrouter/minimax/hailuo-2.3", "minimax/hailuo-2.3"):
            view = (await (await rig.studio.generate("a lake", model=model, duration_seconds=10.0)).result()).job
            assert (view.model, view.status, view.billed) == ("minimax/hailuo-2.3", "succeeded", "yes")
            assert view.cost is not None
            assert view.cost.micro_usd == 817_000
        made = [job.wishes for job in rig.twin.jobs.values()]
        wishes = {"model": ADDED.id, "prompt": "a lake", "duration": 10, "resolution": "1080p"}
        assert (made, rig.twin.dropped) == ([wishes] * 2, [])
        with pytest.raises(BadRequest) as refused:
            await rig.studio.generate("a lake", model=ADDED.id, resolution="720p")
        assert refused.value.field == "resolution"

    live(tmp_path, story)


@pytest.mark.parametrize(
    ("word", "code", "billed", "charges"),
    [
        ("forbidden", "moderated", "unknown", 1),
        ("broken", "generation_failed", "unknown", 1),
        ("flagged", "moderated", "no", 0),
        ("refused", "invalid_input", "no", 0),
    ],
)
def test_moderation_and_failures_end_the_job(tmp_path: Path, word: str, code: str, billed: str, charges: int) -> None:
    async def story(rig: Rig) -> None:
        job = await rig.studio.generate(f"a {word} lake")
        with pytest.raises(JobFailed) as failed:
            await job.result()
        assert (failed.value.code, failed.value.billed, len(rig.twin.charges)) == (code, billed, charges)
        assert len(rig.asked("POST")) == 1

    live(tmp_path, story)


def test_a_cancel_cannot_stop_it_and_the_video_is_kept(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        job = await rig.studio.generate("a lake")
        await until(job, "running")
        assert (await job.cancel()).cancel_requested
        view = (await job.result()).job
        assert (view.status, view.billed, len(view.takes)) == ("succeeded", "yes", 1)
        assert {line.method for line in rig.twin.ledger.requests} == {"POST", "GET"}

    live(tmp_path, story)


@pytest.mark.parametrize("prompt", ["a lake", "an unsure lake"])
def test_a_lost_answer_waits_for_a_person_and_is_never_sent_again(tmp_path: Path, prompt: str) -> None:
    async def story(rig: Rig) -> None:
        rig.wire.lose = 0 if "unsure" in prompt else 1
        job = await rig.studio.generate(prompt)
        view = await until(job, "parked")
        assert (view.billed, bool(view.attention)) == ("unknown", True)
        await asyncio.sleep(3_600.0)
        assert (await job.state()).phase == "parked"
        assert (len(rig.asked("POST")), len(rig.twin.charges)) == (1, 1)
        (made,) = rig.twin.jobs
        await job.collect(handle=made)  # a person found it at theirs
        view = (await job.result()).job
        assert (view.billed, len(view.takes), len(rig.asked("POST"))) == ("yes", 1, 1)

    live(tmp_path, story)


def test_a_full_budget_for_jobs_under_way_is_waited_for(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        jobs = [await rig.studio.generate(f"lake {n}") for n in range(2)]
        for job in jobs:
            await job.result()
        assert len(rig.twin.charges) == 2
        assert len(rig.asked("POST")) > 2, "one was refused at first"

    live(tmp_path, story, at_once=1)


def test_an_address_that_expired_is_asked_for_again(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        rig.wire.slow_s = 120.0
        view = (await (await rig.studio.generate("a lake")).result()).job
        assert (view.billed, view.missing, len(view.takes)) == ("yes", 0, 1)
        assert len(rig.asked("GET /stored/")) == 2

    live(tmp_path, story, signed_s=60.0)


def test_a_video_that_is_gone_was_paid(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        rig.wire.slow_s = 120.0
        job = await rig.studio.generate("a lake")
        with pytest.raises(JobFailed) as failed:
            await job.result()
        assert (failed.value.code, failed.value.billed) == ("asset_expired", "yes")

    live(tmp_path, story, kept_s=60.0)


class Kept:
    """A sink that remembers."""

    content = b""

    async def __call__(self, chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        self.content = b"".join([piece async for piece in chunks])
        return AssetRef("takes/1", "0" * 64, size_bytes or 0, media_type)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("below", ["", "/openrouter/api/v1"])
async def test_the_real_client_sends_the_picture_and_the_key(below: str, *, relative: bool) -> None:
    """To a twin of its own, and to one among others below a path of their host."""
    now = [1_000.0]
    twin = OpenRouterTwin(clip=CLIP, key=KEY, relative=relative)
    server = await serve_twin(Emulator([twin]) if below else twin, now=lambda: now[0])
    adapter, sink = OpenRouter(), Kept()
    target = Target(provider="openrouter", model="google/veo-3.1", credential="OPENROUTER_API_KEY")
    image = Input(asset=AssetRef("inputs/p", "ab" * 32, len(PNG), "image/png"))
    spec = VideoSpec(prompt="it moves", operation=ImageToVideo(), inputs=(image,), duration_seconds=4.0)
    async with Http(
        base_urls={"openrouter": f"{server.url}{below}"},
        credentials={"OPENROUTER_API_KEY": KEY},
        read=lambda _: PNG,
        inner={},
        clock=LoopClock(),
    ) as http:
        handle = await drive(adapter.submit(spec, target, {}, "job_1-1"), http, adapter, target)
        assert await drive(adapter.status(handle, target), http, adapter, target) == Unfinished(None, stage="pending")
        now[0] += 13.0
        done = await drive(adapter.status(handle, target), http, adapter, target)
        assert isinstance(done, Done)
        asset = await drive(adapter.download(done.outputs[0], handle, target), http, adapter, target, sink)
    await server.close()
    assert (sink.content, asset.media_type, asset.size_bytes) == (CLIP, "video/mp4", len(CLIP))
    (frame,) = twin.jobs[handle.id].wishes["frame_images"]
    assert frame["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
