"""Stability's adapter in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from provider_rig import CLIP, PATIENCE_S, SECRET, Wired, opened, types, until

from rushes.adapters.stability import Stability
from rushes.emulators.faults import ExpiredUrl, Moderated, TwinRule
from rushes.emulators.stability import StabilityTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest

Open = Callable[..., Awaitable[Wired[StabilityTwin]]]


def picture(width: int = 1024, height: int = 576, more: bytes = b"") -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + more.ljust(20, b"\0")


def twin(**changes: Any) -> StabilityTwin:
    return StabilityTwin(clip=CLIP, key=SECRET, **{"start_s": 0.0, "render_s": 0.05, **changes})


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(*rules: TwinRule, explicit: bool = True, **changes: Any) -> Wired[StabilityTwin]:
            named = {"stability"} if explicit else set()
            made = opened(tmp_path, Stability(), twin(**changes), *rules, explicit=named)
            return await stack.enter_async_context(made)

        yield open_rig


async def test_a_picture_becomes_a_take_by_one_form(rig: Open) -> None:
    one = await rig()
    options = {"motion_bucket_id": 40}
    view = await one.view("", image=picture(), seed=7, guidance_scale=2.5, provider_options=options)
    assert Path(view.takes[0].path).read_bytes() == CLIP
    assert (view.operation, view.billed, view.metadata["seed"]) == ("image-to-video", "yes", "7")
    (line,) = [line for line in one.twin.ledger.requests if line.method == "POST"]
    parts: Any = line.body
    told = {part["name"]: part["content"] for part in parts}
    image = told.pop("image")
    assert told == {"seed": "7", "cfg_scale": "2.5", "motion_bucket_id": "40"}
    assert image["size_bytes"] == len(picture())


async def test_the_clip_is_asked_for_with_the_key_and_as_bytes(rig: Open) -> None:
    """What is kept would be JSON, and no clip, without the header."""
    one = await rig()
    view = await one.view("", image=picture())
    assert Path(view.takes[0].path).read_bytes() == CLIP
    asked = [line for line in one.twin.ledger.requests if line.method == "GET"]
    assert {line.headers["authorization"] for line in asked} == {"Bearer …"}
    assert [line.status for line in asked[-2:]] == [200, 200]


async def test_it_runs_only_where_an_address_was_set(rig: Open) -> None:
    one = await rig(explicit=False)
    for model in ("stability", "stable-video"):
        with pytest.raises(BadRequest, match="2025-07-24") as gone:
            await one.studio.generate(image=picture(), model=model)
        assert gone.value.code == "model_retired"
    assert one.twin.ledger.requests == []


async def test_where_it_is_gone_all_the_same_nothing_is_billed(rig: Open) -> None:
    failed = await (await rig(retired=True)).failure("", image=picture())
    assert (failed.code, failed.billed) == ("not_found", "no")


async def test_a_picture_of_another_size_is_refused_at_the_door(rig: Open) -> None:
    one = await rig()
    for wrong in (picture(1024, 1024), picture(576, 1023)):
        with pytest.raises(BadRequest, match="1024x576, 576x1024, 768x768") as refused:
            await one.studio.generate(image=wrong)
        assert (refused.value.field, refused.value.code) == ("inputs[0]", "invalid_input")
    assert one.twin.ledger.requests == []
    await one.view("", image=picture(768, 768))  # the control: it is the size that was refused


async def test_words_are_refused_at_the_door(rig: Open) -> None:
    one = await rig()
    for prompt, fields in (("a lake", {}), ("it moves", {"image": picture()})):
        with pytest.raises(BadRequest) as refused:
            await one.studio.generate(prompt, **fields)  # type: ignore[arg-type]
        assert refused.value.code == "unsupported_feature"
    assert one.twin.ledger.requests == []


async def test_a_clip_that_is_withheld_is_told_as_moderated(rig: Open) -> None:
    one = await rig(Moderated())
    failed = await one.failure("", image=picture())
    assert (failed.code, failed.billed) == ("moderated", "unknown")


async def test_a_picture_that_is_flagged_is_no_job_though_the_error_has_an_id(rig: Open) -> None:
    one = await rig()
    failed = await one.failure("", image=picture(more=b"forbidden"))
    assert (failed.code, failed.billed) == ("moderated", "no")
    assert one.came("GET") == []


async def test_a_cancel_cannot_stop_it_and_the_take_is_kept(rig: Open) -> None:
    one = await rig(render_s=0.3)
    job = await one.studio.generate(image=picture())
    await until(job, "running")
    await job.cancel()
    assert len((await job.result(timeout_s=PATIENCE_S)).videos) == 1
    answered = next(event for event in await job.events() if event.type == "cancel.answered")
    assert msgspec.json.decode(answered.data)["answer"] == "cannot"


async def test_a_lost_answer_waits_for_a_person(rig: Open) -> None:
    one = await rig()
    one.line.losing = ["answer"]
    job = await one.studio.generate(image=picture())
    assert (await until(job, "parked")).billed == "unknown"
    (made,) = one.twin.charges
    await job.collect(handle=made)
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert len(one.came("POST")) == 1


async def test_a_clip_that_cannot_be_had_is_asked_for_anew(rig: Open) -> None:
    one = await rig(ExpiredUrl(times=1))
    one.line.late_s = 60.0
    job = await one.studio.generate(image=picture())
    assert len((await job.result(timeout_s=PATIENCE_S)).videos) == 1
    assert (await types(job)).count("links.refreshed") == 1


async def test_a_job_goes_on_after_a_restart(tmp_path: Path) -> None:
    store, service = MemoryStore(), twin(render_s=0.5)
    async with opened(tmp_path, Stability(), service, store=store) as one:
        job = await one.studio.generate(image=picture())
        await until(job, "running")
    async with opened(tmp_path, Stability(), service, store=store) as again:
        result = await again.studio.job(job.id).result(timeout_s=PATIENCE_S)
        assert len(result.videos) == 1
    assert len(service.charges) == 1
