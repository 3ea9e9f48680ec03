"""Omni's adapter in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from provider_rig import PATIENCE_S, Rig, png, provider, until

from rushes.adapters.omni import Omni
from rushes.emulators.faults import Drop, ExpiredUrl
from rushes.emulators.google import OmniTwin
from rushes.faults import BadRequest
from rushes.testing.wires import CLIP
from rushes.video import Extend, MediaInput

SECRET = "a-key-of-google"
ENVIRON = {"GOOGLE_GEMINI_BASE_URL": "URL", "GEMINI_API_KEY": SECRET}


@asynccontextmanager
async def omni(folder: Path, **changes: Any) -> AsyncIterator[Rig[OmniTwin]]:
    async with provider(folder, Omni(), OmniTwin(clip=CLIP, key=SECRET, **changes), ENVIRON) as rig:
        yield rig


def last_body(rig: Rig[OmniTwin]) -> Any:
    return rig.twin.bodies[-1]


@pytest.mark.parametrize("delivery", ["uri", "inline"])
async def test_words_become_a_take_however_it_is_delivered(tmp_path: Path, delivery: str) -> None:
    async with omni(tmp_path, delivery=delivery) as rig:
        result = await (await rig.make(aspect_ratio="portrait", resolution="4k")).result(timeout_s=PATIENCE_S)
        assert Path(result.videos[0].path).read_bytes() == CLIP
        assert last_body(rig)["response_format"] == {
            "type": "video",
            "delivery": "uri",
            "aspect_ratio": "9:16",
            "resolution": "4k",
            "duration": "5s",
        }
        assert result.job.billed == "yes"
        fetched = 0 if delivery == "inline" else 2  # the address, and where it leads
        assert len(rig.asked("download")) == fetched


async def test_a_picture_and_references_arrive_as_base64(tmp_path: Path) -> None:
    async with omni(tmp_path) as rig:
        await (await rig.make("it moves", image=png())).result(timeout_s=PATIENCE_S)
        body = last_body(rig)
        assert body["generation_config"] == {"video_config": {"task": "image_to_video"}}
        image = {"type": "image", "data": b64encode(png()).decode(), "mime_type": "image/png"}
        assert body["input"] == [{"type": "text", "text": "it moves"}, image]
        url = "data:image/png;base64," + b64encode(png()).decode()
        given = (MediaInput(role="character", url=url), MediaInput(role="style", url=url))
        await (await rig.make("both", inputs=given)).result(timeout_s=PATIENCE_S)
        assert last_body(rig)["generation_config"] == {"video_config": {"task": "reference_to_video"}}
        assert len(last_body(rig)["input"]) == 3


async def test_a_take_is_changed_and_gone_on_with(tmp_path: Path) -> None:
    async with omni(tmp_path) as rig:
        first = await rig.make()
        await first.result(timeout_s=PATIENCE_S)
        given = (MediaInput(type="video", job=first.id),)
        for operation, task in ((None, "edit"), (Extend(), "extend")):
            await (await rig.make("by night", inputs=given, operation=operation)).result(timeout_s=PATIENCE_S)
            assert last_body(rig)["generation_config"] == {"video_config": {"task": task}}
            assert last_body(rig)["input"][1]["data"] == b64encode(CLIP).decode()


@pytest.mark.parametrize(
    ("word", "code"), [("forbidden", "moderated"), ("refused", "moderated"), ("broken", "generation_failed")]
)
async def test_moderation_and_failure_are_told_and_not_charged(tmp_path: Path, word: str, code: str) -> None:
    async with omni(tmp_path) as rig:
        assert (await rig.failure(f"a {word} lake")).code == code
        assert rig.twin.charges == []


async def test_a_cancel_stops_it(tmp_path: Path) -> None:
    async with omni(tmp_path, render_s=10_000.0) as rig:
        job = await rig.make()
        await until(job, "running")
        await job.cancel()
        assert (await until(job, "cancelled")).billed == "unknown"
        assert len(rig.asked("cancel")) == 1


async def test_a_lost_answer_waits_for_a_person_and_is_not_sent_again(tmp_path: Path) -> None:
    async with omni(tmp_path) as rig:
        rig.go_wrong(Drop(on="submit", after_work=True))
        view = await until(await rig.make(), "parked")
        assert (view.billed, len(rig.asked()), len(rig.twin.charges)) == ("unknown", 1, 1)


async def test_an_address_that_does_not_work_is_tried_again_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    async with omni(tmp_path) as rig:
        rig.go_wrong(ExpiredUrl(times=2))
        job = await rig.make()
        assert Path((await job.result(timeout_s=PATIENCE_S)).videos[0].path).read_bytes() == CLIP
        assert len(rig.asked("download")) == 4  # two that failed, the address, and where it leads
        assert (len(rig.asked()), len(rig.twin.charges)) == (1, 1)


async def test_a_job_goes_on_where_another_process_left_it(tmp_path: Path) -> None:
    twin = OmniTwin(clip=CLIP, key=SECRET, render_s=400.0)
    async with provider(tmp_path, Omni(), twin, ENVIRON) as rig:
        job = await rig.make()
        await until(job, "running")
    async with provider(tmp_path, Omni(), twin, ENVIRON) as rig:
        again = rig.studio.job(job.id)
        assert (await again.result(timeout_s=PATIENCE_S)).videos
        assert (len(rig.asked()), len(twin.charges)) == (1, 1)


async def test_what_it_cannot_honour_is_refused_at_the_door(tmp_path: Path) -> None:
    async with omni(tmp_path) as rig:
        for fields, field in (
            ({"negative_prompt": "rain"}, "negative_prompt"),
            ({"seed": 7}, "seed"),
            ({"duration_seconds": 11.0}, "duration_seconds"),
            ({"aspect_ratio": "square"}, "aspect_ratio"),
            ({"generate_audio": False}, "generate_audio"),
        ):
            with pytest.raises(BadRequest) as refused:
                await rig.make(**fields)
            assert refused.value.field == field
        assert rig.twin.ledger.requests == []


async def test_no_event_holds_the_key(tmp_path: Path) -> None:
    async with omni(tmp_path) as rig:
        job = await rig.make()
        await job.result(timeout_s=PATIENCE_S)
        said = b"".join(bytes(event.data) for event in await job.events())
    assert b"GEMINI_API_KEY" in said
    assert SECRET.encode() not in said
    assert all(SECRET.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
