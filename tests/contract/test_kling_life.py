"""Kling's adapter in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from provider_rig import CLIP, PATIENCE_S, PICTURE, SECRET, Wired, failure, opened, types, until

from rushes.adapters.kling import Kling
from rushes.emulators.kling import KlingTwin
from rushes.faults import BadRequest
from rushes.video import MediaInput, Role

Open = Callable[..., Awaitable[Wired[KlingTwin]]]


@pytest.fixture
async def rigs(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(**changes: Any) -> Wired[KlingTwin]:
            twin = KlingTwin(clip=CLIP, key=SECRET, **{"start_s": 0.0, "render_s": 0.05, **changes})
            return await stack.enter_async_context(opened(tmp_path, Kling(), twin))

        yield open_rig


async def test_words_become_a_take_with_its_bill(rigs: Open) -> None:
    rig = await rigs()
    result = await (await rig.make(aspect_ratio="9:16", resolution="1080p")).result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert result.job.cost is not None
    assert (result.job.cost.micro_usd, result.job.cost.units, result.job.billed) == (700_000, 5.0, "yes")
    (task,) = rig.twin.tasks.values()
    assert task.body["settings"] == {"resolution": "1080p", "duration": 5, "aspect_ratio": "9:16"}
    assert task.external_id == f"{result.job.id}-1"


async def test_pictures_arrive_as_bare_base64(rigs: Open) -> None:
    rig = await rigs()
    last = MediaInput(role="last_frame", url="data:image/png;base64," + b64encode(PICTURE + b"2").decode())
    job = await rig.make("", image=PICTURE, inputs=(last,), model="kling/kling-3.0")
    await job.result(timeout_s=PATIENCE_S)
    (task,) = rig.twin.tasks.values()
    frames = {"last_frame": b64encode(PICTURE + b"2").decode(), "first_frame": b64encode(PICTURE).decode()}
    assert task.path == "image-to-video/kling-3.0"
    contents = cast("list[dict[str, str]]", task.body["contents"])
    assert {one["type"]: one["url"] for one in contents} == frames


def frame(role: Role, mark: bytes) -> MediaInput:
    return MediaInput(role=role, url="data:image/png;base64," + b64encode(PICTURE + mark).decode())


async def test_references_become_a_clip_of_all_of_them(rigs: Open) -> None:
    rig = await rigs()
    given = (frame("character", b"1"), frame("style", b"2"))
    job = await rig.make("@input_1 in the style of @input_2", inputs=given, model="kling/kling-v3-omni")
    result = await job.result(timeout_s=PATIENCE_S)
    (task,) = rig.twin.tasks.values()
    contents = cast("list[dict[str, str]]", task.body["contents"])
    assert (result.job.operation, result.job.model, task.path) == (
        "multi-image",
        "kling-3.0-omni",
        "omni-video/kling-3.0-omni",
    )
    assert [one["type"] for one in contents] == ["prompt", "refer_image", "refer_image"]


async def test_a_take_of_an_own_job_is_made_over_and_another_acts_after_it(rigs: Open) -> None:
    """The clip itself stays where it is: what travels is its address, which was asked for just before."""
    rig = await rigs()
    first = await rig.make()
    await first.result(timeout_s=PATIENCE_S)
    over = (MediaInput(type="video", job=first.id),)
    second = await rig.make("the same by night", inputs=over, model="kling/kling-o1")
    acted = (frame("character", b"1"), MediaInput(type="video", role="performance", job=first.id))
    third = await rig.make("she bows", inputs=acted, model="kling/kling-3.0")
    for job in (second, third):
        assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
        assert "inputs.prepared" in await types(job)
    source, made, danced = rig.twin.tasks.values()
    assert [task.path for task in (made, danced)] == ["omni-video/kling-o1", "motion-control/kling-3.0"]
    for task in (made, danced):
        contents = cast("list[dict[str, str]]", task.body["contents"])
        (address,) = [one["url"] for one in contents if one["type"] in {"base_video", "video"}]
        assert address.endswith(f"/files/{source.id}/0.mp4")


async def test_a_clip_from_elsewhere_is_refused_at_the_door(rigs: Open) -> None:
    rig = await rigs()
    clip = MediaInput(type="video", url="data:video/mp4;base64," + b64encode(CLIP).decode())
    with pytest.raises(BadRequest) as wrong:
        await rig.make("by night", inputs=(clip,), model="kling/kling-o1")
    assert (wrong.value.field, wrong.value.code) == ("inputs[0]", "unsupported_feature")
    assert (await rig.studio.jobs()).jobs == []
    assert rig.twin.ledger.requests == []


async def test_a_take_that_is_gone_there_ends_the_job_unpaid(rigs: Open) -> None:
    rig = await rigs()
    first = await rig.make()
    await first.result(timeout_s=PATIENCE_S)
    rig.twin.tasks.clear()
    again = (MediaInput(type="video", job=first.id),)
    job = await rig.make("by night", inputs=again, model="kling/kling-o1")
    failed = await failure(job)
    assert (failed.code, failed.billed) == ("asset_expired", "no")
    assert len(rig.twin.charges) == 1


async def test_contradictions_are_refused_at_the_door(rigs: Open) -> None:
    rig = await rigs()
    with pytest.raises(BadRequest) as wrong:
        await rig.make("a lake", image=PICTURE, aspect_ratio="16:9")
    assert (wrong.value.field, wrong.value.code) == ("aspect_ratio", "unsupported_feature")
    assert (await rig.studio.jobs()).jobs == []
    assert rig.twin.ledger.requests == []


@pytest.mark.parametrize(
    ("word", "code"), [("forbidden", "moderated"), ("withheld", "moderated"), ("broken", "generation_failed")]
)
async def test_moderation_and_failure_cost_nothing(rigs: Open, word: str, code: str) -> None:
    rig = await rigs()
    failed = await rig.failure(f"a {word} lake")
    assert (failed.code, failed.billed) == (code, "no")
    assert rig.twin.charges == []


async def test_a_cancel_is_answered_truly_and_the_take_is_kept(rigs: Open) -> None:
    rig = await rigs(render_s=0.3)
    job = await rig.make()
    await until(job, "running")
    await job.cancel()
    assert len((await job.result(timeout_s=PATIENCE_S)).videos) == 1
    answered = next(event for event in await job.events() if event.type == "cancel.answered")
    assert msgspec.json.decode(answered.data)["answer"] == "cannot"


async def test_a_lost_answer_is_found_by_our_key_and_paid_once(rigs: Open) -> None:
    rig = await rigs()
    rig.line.losing = ["answer"]
    job = await rig.make()
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert "submission.doubted" in await types(job)
    assert (len(rig.came("POST")), len(rig.twin.charges)) == (1, 1)


@pytest.mark.parametrize("unknown", ["empty", "refused"])
async def test_a_lost_request_is_sent_again_under_the_same_key(rigs: Open, unknown: str) -> None:
    rig = await rigs(unknown=unknown)
    rig.line.losing = ["request"]
    job = await rig.make()
    await job.result(timeout_s=PATIENCE_S)
    assert (await types(job)).count("submission.started") == 2
    assert [task.external_id for task in rig.twin.tasks.values()] == [f"{job.id}-1"]


@pytest.mark.parametrize("duplicate", ["refused", "same"])
async def test_a_request_that_comes_after_it_was_missed_is_paid_once(rigs: Open, duplicate: str) -> None:
    """It arrives just before the second one, which carries the same key."""
    rig = await rigs(duplicate=duplicate)
    rig.line.losing = ["late"]
    job = await rig.make()
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert (len(rig.came("POST")), len(rig.twin.charges)) == (2, 1)
    assert (await types(job)).count("submission.doubted") == (2 if duplicate == "refused" else 1)


async def test_an_address_that_has_expired_is_asked_for_anew(rigs: Open) -> None:
    rig = await rigs(link_s=60.0)
    rig.line.late_s = 3600.0
    job = await rig.make()
    result = await job.result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert (await types(job)).count("links.refreshed") == 1
    assert len(rig.twin.charges) == 1


async def test_no_event_holds_the_key(rigs: Open) -> None:
    rig = await rigs()
    job = await rig.make()
    await job.result(timeout_s=PATIENCE_S)
    said = b"".join(bytes(event.data) for event in await job.events())
    assert b"KLINGAI_API_KEY" in said
    assert SECRET.encode() not in said
