"""Whole jobs at OpenRouter's twin: the real system and studio around the real adapter, in virtual time.

At the end the same adapter talks to the same twin through the real client and a socket.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from acme import CLIP, LoopClock, no_probe
from msgspec.structs import replace

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Done, Failed, Keep, Request, Response, Unfinished, drive
from rushes.adapters.http import Http, _from_twin
from rushes.adapters.openrouter import BASE_URL, OpenRouter
from rushes.assets import Assets
from rushes.emulators.base import serve_twin
from rushes.emulators.openrouter import Line, OpenRouterTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Fault, JobFailed, NotFound
from rushes.studio import Doors, Job, Studio
from rushes.testing.loop import VirtualLoop, run
from rushes.units import AssetRef
from rushes.video import ImageToVideo, Input, JobView, MediaInput, Target, VideoSpec
from rushes.views.jobs import ReadonlyView

KEY = "sk-or-v1-test"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


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
        ours = ask.with_credential and ask.url.startswith("https://openrouter.ai/")
        headers = {"Authorization": f"Bearer {KEY}"} if ours else {}
        reply = self.twin.handle(Request(method="GET", url=ask.url, headers=headers), LoopClock().now())
        with real_work():
            return await _from_twin("openrouter", reply, sink)


def real_work() -> Any:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.real_work()


async def no_fetch(url: str, max_bytes: int) -> bytes:  # noqa: ARG001
    raise NotFound(url)


async def no_look(path: Path) -> tuple[int, int]:  # noqa: ARG001
    return 1, 1


class Rig:
    """One log, one provider, one studio."""

    def __init__(self, folder: Path, twin: OpenRouterTwin | None = None) -> None:
        self.twin = twin or OpenRouterTwin(clip=CLIP, key=KEY)
        self.wire, self.assets = Wire(self.twin), Assets(folder)
        adapters: dict[str, Adapter] = {"openrouter": OpenRouter()}
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
        return [line for line in self.twin.ledger if line.what == "request" and about in line.about]


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
        async def once() -> AsyncIterator[bytes]:
            yield PNG

        with real_work():
            upload = await rig.studio.upload(once())
        given = MediaInput(upload=upload.id)
        job = await rig.studio.generate("it moves", model="openrouter/google/veo-3.1-lite", inputs=(given,))
        view = (await job.result()).job
        assert (view.operation, len(view.takes)) == ("image-to-video", 1)
        (made,) = rig.twin.jobs.values()
        (frame,) = made.wishes["frame_images"]
        assert frame["frame_type"] == "first_frame"
        assert frame["image_url"]["url"].asset.sha256 == upload.sha256
        assert (rig.twin.dropped, "seed" in made.wishes) == ([], True)

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
        assert {line.about.partition(" ")[0] for line in rig.twin.ledger if line.what == "request"} == {"POST", "GET"}

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


async def test_the_real_client_sends_the_picture_and_the_key() -> None:
    now = [1_000.0]
    twin = OpenRouterTwin(clip=CLIP, key=KEY)
    server = await serve_twin(twin, now=lambda: now[0])
    adapter, sink = OpenRouter(), Kept()
    target = Target(provider="openrouter", model="google/veo-3.1", credential="OPENROUTER_API_KEY")
    image = Input(asset=AssetRef("inputs/p", "ab" * 32, len(PNG), "image/png"))
    spec = VideoSpec(prompt="it moves", operation=ImageToVideo(), inputs=(image,), duration_seconds=4.0)
    async with Http(
        base_urls={"openrouter": server.url},
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
