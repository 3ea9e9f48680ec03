"""The endpoints of the older services, as their own pages describe them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest
from provider_rig import Rig, provider
from talking import TINY

from rushes.adapters.base import Adapter
from rushes.adapters.kling_legacy import KlingLegacy
from rushes.adapters.omni import Omni
from rushes.adapters.sora import Sora
from rushes.api import facades
from rushes.api.app import serve
from rushes.api.statuses import TABLE
from rushes.emulators.base import ProviderTwin
from rushes.emulators.google import OmniTwin
from rushes.emulators.kling_legacy import KlingLegacyTwin
from rushes.emulators.sora import SoraTwin
from rushes.faults import Code
from rushes.studio import Studio
from rushes.testing.wires import CLIP

Web = aiohttp.ClientSession
EXAMPLE: dict[str, Any] = {  # the older service's own, without the image
    "prompt": "A serene mountain landscape at sunset",
    "settings": {
        "video": {
            "model": "veo-3.1-fast",
            "duration_seconds": 5,
            "aspect_ratio": "9:16",
            "enhance_prompt": True,
            "number_of_videos": 1,
        }
    },
    "customer_id": 123,
    "save_to_db": True,
}
SMALL: dict[str, Any] = {"model": "local", "duration_seconds": 1, "resolution": "180p", "fps": 8}
ABILITIES = {
    "max_duration_seconds",
    "max_resolution",
    "supports_image_input",
    "supported_formats",
    "cost_per_second",
    "image_cost_multiplier",
    "model_versions",
    "features",
    "supported_resolutions",
    "supported_aspect_ratios",
}


def body(prompt: str = "a lake", *, save: bool = True, **video: Any) -> dict[str, Any]:
    return {"prompt": prompt, "settings": {"video": SMALL | video}, "save_to_db": save}


async def ask(web: Web, path: str, status: int = 200, **more: Any) -> Any:
    async with web.post(path, **more) as reply:
        answered = await reply.json()
        assert (reply.status, reply.content_type) == (status, "application/json"), answered
        assert (answered["code"], answered["success"]) == (status, status == 200)
        return answered


@asynccontextmanager
async def before(
    folder: Path, adapter: Adapter, twin: ProviderTwin, **environ: str
) -> AsyncIterator[tuple[Web, Rig[Any]]]:
    """A server over one provider's twin."""
    async with provider(folder, adapter, twin, environ) as rig:
        server = await serve(rig.studio, "127.0.0.1:0")
        async with aiohttp.ClientSession(base_url=server.url) as session:
            yield session, rig
        await server.close()


async def test_the_example_of_the_older_service_works(tmp_path: Path) -> None:
    environ = {"GOOGLE_GEMINI_BASE_URL": "URL", "GEMINI_API_KEY": "k"}
    async with before(tmp_path, Omni(), OmniTwin(clip=CLIP, key="k"), **environ) as (web, rig):
        data = (await ask(web, "/video/generate", json=EXAMPLE))["data"]
        assert (data["provider"], data["model"], data["settings"]["aspect_ratio"]) == (
            "gemini",
            "gemini-omni-1.1-flash",
            "9:16",
        )
        assert "veo-3.1-fast stands for omni/gemini-omni-1.1-flash" in data["note"]
        assert "not enhanced" in data["note"]
        async with web.get(data["video_url"]) as reply:
            assert await reply.read() == CLIP
        view = await rig.studio.show(data["video_id"])
        assert (view.request.customer_id, view.request.duration_seconds) == (123, 5.0)
        bare = (await ask(web, "/video/generate", json={"prompt": "a lake"}))["data"]
        assert (bare["model"], bare["settings"]["aspect_ratio"]) == ("gemini-omni-1.1-flash", "9:16")


async def test_a_default_that_no_model_takes_gives_way_and_a_wish_does_not(tmp_path: Path) -> None:
    """Sora's lengths are 4, 8 and more: 5 is what nobody wrote, or what somebody did."""
    environ = {"OPENAI_BASE_URL": "URL", "OPENAI_API_KEY": "k"}
    async with before(tmp_path, Sora(), SoraTwin(clip=CLIP, key="k"), **environ) as (web, rig):
        video: dict[str, Any] = {"model": "sora", "poll_interval_seconds": 0.5}
        data = (await ask(web, "/video/generate", json={"prompt": "a lake", "settings": {"video": video}}))["data"]
        assert (data["provider"], data["model"]) == ("openai", "sora-2")
        assert "duration_seconds is the model's own, and not 5" in data["note"]
        made = (await rig.studio.show(data["video_id"])).request
        assert (made.duration_seconds, made.aspect_ratio) == (4.0, "9:16")
        assert made.provider_options == {"poll_interval_seconds": 0.5}
        wrong = {"prompt": "a lake", "settings": {"video": video | {"duration_seconds": 5}}}
        refused = await ask(web, "/video/generate", 400, json=wrong)
        assert refused["error"]["field"] == "duration_seconds"
        assert len(rig.asked()) == 1


async def test_a_clip_of_ours_is_extended(tmp_path: Path) -> None:
    environ = {"KLING_LEGACY_BASE_URL": "URL", "KLING_ACCESS_KEY": "a", "KLING_SECRET_KEY": "s"}
    async with before(tmp_path, KlingLegacy(), KlingLegacyTwin(clip=CLIP), **environ) as (web, rig):
        video = {"model": "kling", "duration_seconds": 5}
        first = (await ask(web, "/video/generate", json={"prompt": "a lake", "settings": {"video": video}}))["data"]
        assert first["provider"] == "klingai"
        longer = {"video_id": first["video_id"], "prompt": "it goes on", "customer_id": 7}
        data = (await ask(web, "/video/extend", json=longer))["data"]
        view = await rig.studio.show(data["video_id"])
        assert (view.operation, view.request.customer_id) == ("extend", 7)
        assert data["provider"] == "klingai"


async def test_a_clip_comes_back_as_text_where_it_is_not_to_be_saved(web: Web, studio: Studio) -> None:
    data = (await ask(web, "/video/generate", json=body(save=False)))["data"]
    head, _, content = data["video_url"].partition(",")
    assert head == "data:video/mp4;base64"
    take = (await studio.show(data["video_id"])).takes[0]
    assert base64.b64decode(content) == Path(take.path).read_bytes()
    assert take.size_bytes > 0


async def test_a_large_clip_comes_back_as_its_address(
    web: Web, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facades, "MAX_INLINE_BYTES", 100)
    data = (await ask(web, "/video/generate", json=body(save=False)))["data"]
    assert data["video_url"].endswith(f"/v1/jobs/{data['video_id']}/content?take=0")
    assert "larger than 100 bytes" in data["note"]
    assert (await studio.show(data["video_id"])).takes


async def test_several_clips_are_several_jobs(web: Web, studio: Studio) -> None:
    data = (await ask(web, "/video/generate", json=body(number_of_videos=3), headers={"Idempotency-Key": "k"}))["data"]
    assert (len(data["video_urls"]), data["video_urls"][0]) == (3, data["video_url"])
    assert len({*data["video_ids"]}) == len((await studio.jobs()).jobs) == 3
    seeds = {(await studio.show(name)).request.seed for name in data["video_ids"]}
    assert len(seeds) == 3
    again = await ask(web, "/video/generate", json=body(number_of_videos=3), headers={"Idempotency-Key": "k"})
    assert again["data"]["video_ids"] == data["video_ids"]
    assert len((await studio.jobs()).jobs) == 3


async def test_a_wait_that_is_too_short_names_the_job_which_goes_on(web: Web, studio: Studio) -> None:
    late = body(poll_timeout_seconds=0.001)
    problem = (await ask(web, "/video/generate", 502, json=late))["error"]
    assert (problem["code"], problem["billed"]) == ("timed_out", "no")
    assert problem["job_id"] in problem["detail"]
    await studio.job(problem["job_id"]).result(timeout_s=20)


async def test_hanging_up_cancels_nothing(web: Web, studio: Studio) -> None:
    born = asyncio.Event()
    forget = studio.store.watch(lambda _: born.set())
    call = asyncio.create_task(ask(web, "/video/generate", json=body(duration_seconds=8, fps=30)))
    await born.wait()
    forget()
    call.cancel()
    await asyncio.wait([call])
    (view,) = (await studio.jobs()).jobs
    assert not view.ended
    async for last in studio.updates(view.id):
        view = last
    assert view.status == "succeeded"


@pytest.mark.parametrize(
    ("path", "sent", "status", "field"),
    [
        ("generate", {"prompt": " "}, 400, "prompt"),
        ("generate", {"settings": {}}, 400, "prompt"),
        ("generate", {"prompt": "a", "customer_id": 0}, 400, "customer_id"),
        ("generate", {"prompt": "a", "customer_id": "x"}, 400, "customer_id"),
        ("generate", {"prompt": "a", "promt": "b"}, 400, "promt"),
        ("generate", body(quality="best"), 400, "settings.video.quality"),
        ("generate", body(number_of_videos=0), 400, "settings.video.number_of_videos"),
        ("generate", body(poll_interval_seconds=0.01), 400, "settings.video.poll_interval_seconds"),
        ("generate", body(model="veo-3.1-fast"), 400, "model"),  # no key
        ("generate", body(model="sora"), 400, "model"),  # switched off
        ("generate", body(model="nobody/nothing"), 400, "model"),
        ("generate", body(duration_seconds=61), 400, "duration_seconds"),
        ("generate", {"prompt": "", "input_image_url": "https://x.example/a.png"}, 400, "prompt"),
        ("extend", {"prompt": "a"}, 400, "video_id"),
        ("extend", {"prompt": "a", "video_id": "job_nobody"}, 404, ""),
    ],
)
async def test_what_is_wrong_is_named(
    web: Web, studio: Studio, path: str, sent: dict[str, Any], status: int, field: str
) -> None:
    problem = await ask(web, f"/video/{path}", status, json=sent)
    assert problem["error"].get("field", "") == field, problem
    assert problem["message"] == problem["error"]["detail"]
    assert problem["error"]["billed"] == "no"
    assert studio.store.position == 0


async def test_a_model_that_cannot_extend_says_so(web: Web, studio: Studio) -> None:
    job = await studio.generate(**TINY)
    await job.result(timeout_s=20)
    problem = await ask(web, "/video/extend", 501, json={"video_id": job.id, "prompt": "more"})
    assert problem["error"]["code"] == "unsupported_feature"


def test_every_kind_of_trouble_has_a_status_that_the_older_service_knew() -> None:
    assert set(TABLE) == set(get_args(Code))
    known = {400, 401, 409, 429, 500, 501, 502}
    others = {code for code, told in TABLE.items() if told.seed not in known}
    assert others == {"not_found", "forbidden"}


async def test_a_page_learns_whom_it_can_offer(web: Web) -> None:
    async with web.get("/api/v1/videos/providers") as reply:
        listed = {one["type"]: one for one in (await reply.json())["providers"]}
    assert all(set(one["capabilities"]) == ABILITIES for one in listed.values())
    local, kling, sora = listed["local"], listed["kling"], listed["sora"]
    assert (local["is_active"], local["is_healthy"], local["failure_count"], local["available"]) == (
        True,
        True,
        0,
        True,
    )
    assert local["capabilities"]["max_resolution"] == [1920, 1080]
    assert local["capabilities"]["cost_per_second"] == 0
    assert (kling["name"], kling["is_active"], kling["capabilities"]["supports_image_input"]) == (
        "klingai",
        False,
        True,
    )
    assert (sora["name"], sora["available"]) == ("openai", False)
    assert listed["runway"]["capabilities"]["cost_per_second"] > 0
