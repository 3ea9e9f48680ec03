"""A job's whole life with xAI: our system and client, the real adapter, and the twin behind a socket."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from provider_rig import CLIP, PATIENCE_S, PICTURE, Wired, failure, once, opened, types, until

from rushes.adapters.xai import Xai
from rushes.emulators.xai import XaiTwin
from rushes.faults import BadRequest, JobFailed
from rushes.studio import Job, Result
from rushes.video import JSON, Extend, MediaInput

KEY = "kq-the-right-key-zw"
DATA = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
Rig = Wired[XaiTwin]


@pytest.fixture
def key() -> str:
    """What we have for a key."""
    return KEY


@pytest.fixture
async def rig(tmp_path: Path, key: str) -> AsyncIterator[Rig]:
    twin = XaiTwin(clip=CLIP, key=KEY, render_s=100.0)
    async with opened(tmp_path, Xai(), twin, keys={"XAI_API_KEY": key}) as rig:
        yield rig


async def finished(rig: Rig, job: Job) -> Result:
    await until(job, "running")
    rig.clock.ahead_s += 100.0
    return await job.result(timeout_s=PATIENCE_S)


async def failed(rig: Rig, prompt: str) -> JobFailed:
    job = await rig.studio.generate(prompt)
    await until(job, "running")
    rig.clock.ahead_s += 100.0
    return await failure(job)


async def test_words_become_a_clip_whose_price_is_known(rig: Rig) -> None:
    job = await rig.studio.generate("a lake", duration_seconds=1.0)
    await until(job, "running")
    rig.clock.ahead_s += 91.5
    await once(job, lambda view: view.progress == 56)
    rig.clock.ahead_s += 8.5
    result = await job.result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert result.job.cost is not None
    assert (result.job.cost.micro_usd, result.job.billed) == (50_000, "yes")
    assert [word for word in await types(job) if word != "progress.reported"] == [
        "job.requested",
        "submission.started",
        "submission.accepted",
        "generation.finished",
        "take.stored",
        "job.succeeded",
    ]
    assert len(rig.twin.charges) == 1


async def test_a_picture_is_sent_whole_as_the_first_frame(rig: Rig) -> None:
    result = await finished(rig, await rig.studio.generate("it moves", image=PICTURE))
    assert result.job.operation == "image-to-video"
    (clip,) = rig.twin.clips.values()
    assert clip.wishes["image"] == {"url": DATA}


async def test_a_first_frame_beside_references_is_refused_before_there_is_a_job(rig: Rig) -> None:
    inputs = (MediaInput(url=DATA), MediaInput(role="character", url=DATA))
    with pytest.raises(BadRequest) as refused:
        await rig.studio.generate("it moves", inputs=inputs)
    assert (refused.value.code, refused.value.field) == ("unsupported_feature", "inputs")
    assert rig.twin.ledger.requests == []


async def test_references_are_sent_in_the_order_that_they_were_given_in(rig: Rig) -> None:
    other = "data:image/png;base64," + base64.b64encode(PICTURE + b"another").decode()
    inputs = (MediaInput(role="style", url=other), MediaInput(role="character", url=DATA))
    result = await finished(rig, await rig.studio.generate("<IMAGE_1> and <IMAGE_2>", inputs=inputs))
    assert result.job.operation == "multi-image"
    (clip,) = rig.twin.clips.values()
    assert clip.wishes["reference_images"] == [{"url": other}, {"url": DATA}]


@pytest.mark.parametrize(
    ("operation", "what", "length"), [(None, "edits", {}), (Extend(), "extensions", {"duration": 6})]
)
async def test_a_take_of_an_own_job_is_changed_or_goes_on(
    rig: Rig, operation: Extend | None, what: str, length: dict[str, int]
) -> None:
    first = await rig.studio.generate("a lake")
    await finished(rig, first)
    source = MediaInput(type="video", job=first.id)
    result = await finished(rig, await rig.studio.generate("at night", operation=operation, inputs=(source,)))
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert (result.job.billed, result.job.request.duration_seconds) == ("yes", length.get("duration"))
    assert rig.came("POST") == ["POST /v1/videos/generations", f"POST /v1/videos/{what}"]
    data = "data:video/mp4;base64," + base64.b64encode(CLIP).decode()
    wishes = {"model": "grok-imagine-video", "prompt": "at night", "video": {"url": data}, **length}
    assert [clip.wishes for clip in rig.twin.clips.values()][1] == wishes


async def test_a_stored_file_is_fetched_with_the_key_where_there_is_no_other_address(rig: Rig) -> None:
    options: dict[str, JSON] = {"storage_filename": "lake.mp4"}
    result = await finished(rig, await rig.studio.generate("linkless", provider_options=options))
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert result.job.metadata["file_id"].startswith("file_")
    fetches = [line.status for line in rig.twin.ledger.requests if "/files/" in line.path]
    assert fetches == [401, 200]  # the key stays here until it is asked for


@pytest.mark.parametrize(
    ("word", "code", "billed"),
    [
        ("forbidden", "moderated", "yes"),
        ("disallowed", "moderated", "unknown"),
        ("broken", "generation_failed", "unknown"),
    ],
)
async def test_a_clip_that_is_not_given_fails_and_is_not_asked_for_again(
    rig: Rig, word: str, code: str, billed: str
) -> None:
    error = await failed(rig, f"a {word} lake")
    assert (error.code, error.billed) == (code, billed)
    assert len(rig.twin.charges) == 1


async def test_a_cancel_is_answered_that_it_cannot_be_and_the_clip_is_kept(rig: Rig) -> None:
    job = await rig.studio.generate("a lake")
    await until(job, "running")
    assert (await job.cancel()).cancel_requested
    rig.clock.ahead_s += 100.0
    result = await job.result(timeout_s=PATIENCE_S)
    assert result.job.billed == "yes"
    (answered,) = [event for event in await job.events() if event.type == "cancel.answered"]
    assert msgspec.json.decode(answered.data)["answer"] == "cannot"
    asked = {line.method for line in rig.twin.ledger.requests}
    assert asked == {"POST", "GET"}


async def test_a_cancel_that_wants_nothing_kept_is_billed_all_the_same(rig: Rig) -> None:
    job = await rig.studio.generate("a lake")
    await until(job, "running")
    await job.cancel(discard=True)
    rig.clock.ahead_s += 100.0
    ended = await once(job, lambda view: view.ended)
    assert (ended.status, ended.billed, ended.takes) == ("cancelled", "yes", [])


async def test_a_lost_answer_is_parked_and_never_sent_again(rig: Rig) -> None:
    rig.line.losing = ["answer"]
    job = await rig.studio.generate("a lake")
    parked = await until(job, "parked")
    assert (parked.billed, len(rig.twin.charges)) == ("unknown", 1)
    rig.clock.ahead_s += 100.0
    await job.collect(handle=rig.twin.charges[0])  # a person found its id
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert len(rig.twin.charges) == 1


async def test_a_link_that_stopped_working_is_asked_for_anew(rig: Rig) -> None:
    rig.line.late_s = 3_700.0
    job = await rig.studio.generate("a lake")
    await until(job, "running")
    rig.clock.ahead_s += 100.0
    assert len((await job.result(timeout_s=PATIENCE_S)).videos) == 1
    assert (await types(job)).count("links.refreshed") == 1
    assert len(rig.twin.charges) == 1


async def test_a_request_that_has_expired_fails_and_says_so(rig: Rig) -> None:
    job = await rig.studio.generate("a lake")
    await until(job, "running")
    rig.clock.ahead_s += 86_400.0
    error = await failure(job)
    assert (error.code, error.billed) == ("asset_expired", "unknown")


@pytest.mark.parametrize("key", ["kq-a-wrong-key-zw"])
async def test_a_wrong_key_costs_nothing_and_stands_nowhere(rig: Rig, key: str) -> None:
    job = await rig.studio.generate("a lake")
    error = await failure(job)
    assert (error.code, error.billed) == ("authentication_failed", "no")
    assert rig.twin.charges == []
    told = msgspec.json.encode(await job.events()).decode()
    assert key not in told
    assert "kq***zw" not in told
