"""Jobs at Runway from request to take: the real system, client and adapter, with the twin behind a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from provider_rig import CLIP, PATIENCE_S, PICTURE, Wired, failure, once, opened, types, until

from rushes.adapters import runway
from rushes.adapters.capabilities import PollSchedule
from rushes.adapters.runway import Runway
from rushes.emulators.ledger import Line
from rushes.emulators.runway import RunwayTwin
from rushes.faults import BadRequest
from rushes.video import Extend, Fields, MediaInput, Probe, Upscale

KEY_NAME, KEY = "RUNWAYML_API_SECRET", "key_" + "0a" * 64
Rig = Wired[RunwayTwin]
Open = Callable[..., Awaitable[Rig]]


async def five_seconds(path: Path, media_type: str) -> Probe:  # noqa: ARG001
    """How long a clip or a sound is, when nobody looks."""
    return Probe(duration_seconds=5.0)


async def whole(content: bytes) -> AsyncIterator[bytes]:
    """A file that is handed in whole."""
    yield content


@pytest.fixture
async def rigs(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(poll_s: float = 0.01, **changes: Any) -> Rig:
            twin = RunwayTwin(clip=CLIP, **{"key": KEY, "start_s": 0.02, "render_s": 0.04, **changes})
            terms = {"poll": PollSchedule(min_s=poll_s, max_s=poll_s), "gone_grace_s": 0.0}
            keys = {KEY_NAME: KEY}
            made = opened(tmp_path, Runway(), twin, keys=keys, terms=terms, look_at_clip=five_seconds)
            return await stack.enter_async_context(made)

        yield open_rig


def created(rig: Rig) -> Line:
    """The last create that came."""
    return next(line for line in reversed(rig.twin.ledger.requests) if line.method == "POST")


async def test_words_become_a_clip_that_was_paid_once(rigs: Open) -> None:
    rig = await rigs()
    result = await (await rig.studio.generate("a lake", seed=7)).result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    view = result.job
    assert (view.provider, view.model, view.operation, view.billed) == ("runway", "gen4.5", "text-to-video", "yes")
    assert view.cost is not None
    assert (view.cost.micro_usd, view.cost.units) == (600_000, 60.0)
    (task,) = rig.twin.tasks.values()
    wanted = {"model": "gen4.5", "promptText": "a lake", "ratio": "1280:720", "duration": 5, "seed": 7}
    assert (task.input, rig.twin.charges) == (wanted, [task.id])
    assert len(rig.came("POST")) == 1


async def test_a_picture_becomes_a_clip(rigs: Open) -> None:
    rig = await rigs()
    job = await rig.studio.generate(image=PICTURE, model="runway/gen4_turbo", aspect_ratio="square")
    assert (await job.result(timeout_s=PATIENCE_S)).job.operation == "image-to-video"
    (task,) = rig.twin.tasks.values()
    (image,) = msgspec.convert(task.input["promptImage"], list[dict[str, str]])
    assert (image["position"], task.input["ratio"]) == ("first", "960:960")
    assert image["uri"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert len(rig.came("POST")) == 1


def inlined(body: object) -> object:
    """A body with the files in it as their sha256: what the ledger shows."""
    if isinstance(body, dict):
        return body["sha256"] if "sha256" in body else {name: inlined(held) for name, held in body.items()}
    return [inlined(held) for held in body] if isinstance(body, list) else body


async def test_every_operation_runs_from_files_to_a_clip(rigs: Open) -> None:
    rig = await rigs()
    clip, pixel = (sha256(content).hexdigest() for content in (CLIP, PICTURE))
    source = MediaInput(type="video", upload=(await rig.studio.upload(whole(CLIP))).id)
    face = MediaInput(role="character", upload=(await rig.studio.upload(whole(PICTURE))).id)
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
        result = await (await rig.studio.generate("the lake freezes", **fields)).result(timeout_s=PATIENCE_S)
        assert result.job.operation == operation
        line = created(rig)
        assert line.path == f"/v1/{path}_video"
        assert inlined(line.body) == {"model": fields["model"], "promptText": "the lake freezes", **wanted}
    assert len(rig.twin.charges) == len(runs)


async def test_a_performance_costs_its_own_length(rigs: Open) -> None:
    rig = await rigs()
    acted = MediaInput(type="video", role="performance", upload=(await rig.studio.upload(whole(CLIP))).id)
    face = MediaInput(role="general", upload=(await rig.studio.upload(whole(PICTURE))).id)
    job = await rig.studio.generate(model="runway/act-two", inputs=(acted, face))
    view = (await job.result(timeout_s=PATIENCE_S)).job
    assert (view.operation, view.model) == ("character-performance", "act_two")
    assert view.cost is not None
    assert (view.cost.micro_usd, view.cost.units) == (250_000, 25.0)


async def test_a_take_of_ours_is_upscaled(rigs: Open) -> None:
    rig = await rigs()
    first = await rig.make()
    await first.result(timeout_s=PATIENCE_S)
    take = MediaInput(type="video", job=first.id)
    job = await rig.studio.generate(model="runway/magnific", inputs=(take,), operation=Upscale(), resolution="4k")
    assert (await job.result(timeout_s=PATIENCE_S)).job.operation == "upscale"
    assert inlined(created(rig).body) == {
        "model": "magnific_video_upscaler_creative",
        "videoUri": sha256(CLIP).hexdigest(),
        "resolution": "4k",
    }


async def test_large_files_are_uploaded_first(rigs: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runway, "INLINE_BYTES", len(CLIP) - 1)  # so that they need not really be large
    rig = await rigs()
    await rig.view("night", video=CLIP, image=PICTURE, model="runway/aleph2")
    picture, clip = rig.twin.uploads.values()
    assert (clip.content, clip.name[-4:], picture.content, picture.name[-4:]) == (CLIP, ".mp4", PICTURE, ".png")
    (task,) = rig.twin.tasks.values()
    assert task.input["videoUri"] == f"runway://ephemeral/{clip.id}"
    assert task.input["keyframes"] == [{"uri": f"runway://ephemeral/{picture.id}", "at": 0}]


async def test_moderation_ends_a_job_that_is_not_paid(rigs: Open) -> None:
    rig = await rigs()
    for word in ("forbidden", "flagged"):
        error = await rig.failure(f"a {word} lake")
        assert (error.code, error.billed) == ("moderated", "no")
    assert len(rig.twin.charges) == 2


async def test_a_bad_clip_ends_the_job_and_trouble_of_theirs_is_tried_anew(rigs: Open) -> None:
    rig = await rigs()
    error = await rig.failure("a broken lake")
    assert (error.code, error.billed, len(rig.twin.charges)) == ("generation_failed", "no", 1)
    error = await rig.failure("an unlucky lake")
    assert (error.code, error.billed, len(rig.twin.charges)) == ("generation_failed", "no", 1 + 3)


async def test_what_a_model_cannot_do_is_refused_before_there_is_a_job(rigs: Open) -> None:
    rig = await rigs()
    last = MediaInput(role="last_frame", upload=(await rig.studio.upload(whole(PICTURE))).id)
    with pytest.raises(BadRequest, match="needs a first frame"):
        await rig.studio.generate(model="runway/veo3.1", inputs=(last,))
    with pytest.raises(BadRequest, match="960x960"):
        await rig.studio.generate(image=PICTURE, model="runway/gen4_turbo", resolution="720x720")
    assert rig.twin.ledger.requests == []


async def test_a_wait_for_a_place_is_no_failure(rigs: Open) -> None:
    rig = await rigs(start_s=0.0, render_s=0.05, at_once=1)
    jobs = [await rig.make() for _ in range(3)]
    assert [(await job.result(timeout_s=PATIENCE_S)).job.status for job in jobs] == ["succeeded"] * 3
    assert len(rig.twin.charges) == 3


async def test_a_cancel_deletes_what_is_running(rigs: Open) -> None:
    rig = await rigs(start_s=0.0, render_s=60.0)
    job = await rig.make()
    await until(job, "running")
    await job.cancel()
    view = await until(job, "cancelled")
    assert (view.billed, len(rig.came("DELETE"))) == ("unknown", 1)
    assert all(task.deleted_at is not None for task in rig.twin.tasks.values())


async def test_a_late_cancel_keeps_a_finished_clip(rigs: Open) -> None:
    rig = await rigs(poll_s=60.0)  # we do not know yet that it is finished
    job = await rig.make()
    await until(job, "running")
    rig.clock.ahead_s = 1.0
    await job.cancel()
    assert (await job.result(timeout_s=PATIENCE_S)).job.status == "succeeded"
    assert len(rig.came("DELETE")) == 0


async def test_a_task_that_was_deleted_behind_our_back_waits_for_a_person(rigs: Open) -> None:
    rig = await rigs(start_s=0.0, render_s=60.0)
    job = await rig.make()
    await until(job, "running")
    (task,) = rig.twin.tasks.values()
    task.deleted_at = rig.clock.now()
    assert (await until(job, "parked")).billed == "unknown"


async def test_a_lost_answer_is_never_sent_again_and_said(rigs: Open) -> None:
    rig = await rigs()
    rig.line.losing = ["answer"]
    job = await rig.make()
    assert (await failure(job)).billed == "unknown"
    view = await job.state()
    assert (view.phase, len(rig.twin.charges), len(rig.came("POST"))) == ("parked", 1, 1)


async def test_a_link_that_expired_is_asked_for_anew(rigs: Open) -> None:
    rig = await rigs(start_s=0.0, render_s=0.02, link_s=40.0)
    rig.line.late_s = 60.0
    job = await rig.make()
    result = await job.result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert "links.refreshed" in await types(job)
    assert (len(rig.came("GET /out/")), len(rig.twin.charges)) == (2, 1)


async def test_a_days_limit_makes_a_job_wait_unpaid(rigs: Open) -> None:
    rig = await rigs(start_s=0.0, render_s=0.02, daily=1)
    await (await rig.make()).result(timeout_s=PATIENCE_S)
    job = await rig.make()
    view = await once(job, lambda view: bool(view.note))
    assert "daily limit" in view.note
    assert (view.phase, len(rig.twin.charges)) == ("queued", 1)
    await job.cancel()
    assert (await until(job, "cancelled")).billed == "no"


async def test_a_key_that_is_refused_is_not_paid(rigs: Open) -> None:
    rig = await rigs(key="key_of_somebody_else")
    error = await rig.failure()
    assert (error.code, error.billed, rig.twin.charges) == ("authentication_failed", "no", [])
