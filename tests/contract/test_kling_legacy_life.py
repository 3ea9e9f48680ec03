"""Kling's old wire in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from provider_rig import CLIP, PATIENCE_S, PICTURE, Wired, once, opened, types, until

from rushes.adapters.http import PART
from rushes.adapters.kling import Kling
from rushes.adapters.kling_legacy import KlingLegacy
from rushes.emulators.kling_legacy import KlingLegacyTwin
from rushes.eventstore.base import EventStore
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest
from rushes.video import Effect, Extend, JobView, LipSync, MediaInput, Role

SPEECH = b"ID3" + b"\0" * 40
ACCESS, SECRET = "an-access-key", "a-secret-key"
PAIR = "KLING_ACCESS_KEY+KLING_SECRET_KEY"
Rig = Wired[KlingLegacyTwin]
Open = Callable[..., Awaitable[Rig]]


def twin(**changes: Any) -> KlingLegacyTwin:
    made: dict[str, Any] = {"start_s": 0.0, "render_s": 0.05, "key": "another", **changes}
    return KlingLegacyTwin(clip=CLIP, access_key=ACCESS, secret_key=SECRET, **made)


def process(folder: Path, twin: KlingLegacyTwin, store: EventStore | None = None) -> AbstractAsyncContextManager[Rig]:
    """A process of its own, over the log that there is."""
    return opened(folder, KlingLegacy(), twin, others=[Kling()], keys={PAIR: ACCESS + PART + SECRET}, store=store)


@pytest.fixture
async def rigs(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(**changes: Any) -> Rig:
            return await stack.enter_async_context(process(tmp_path, twin(**changes)))

        yield open_rig


def body(rig: Rig) -> Any:
    """Of the last task."""
    return list(rig.twin.tasks.values())[-1].body


def take_of(job: JobView) -> MediaInput:
    return MediaInput(type="video", job=job.id)


# ── Clips ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_words_become_a_take_by_two_keys(rigs: Open) -> None:
    rig = await rigs()
    job = await rig.view(aspect_ratio="9:16", resolution="1080p", negative_prompt="rain", guidance_scale=0.7)
    assert Path(job.takes[0].path).read_bytes() == CLIP
    assert (job.provider, job.model, job.billed) == ("kling_legacy", "kling-v1", "yes")
    assert job.metadata["billing"] == "3.5 units"
    (task,) = rig.twin.tasks.values()
    assert job.metadata["video_id"] == f"868{task.id[3:]}"
    assert (task.external_id, task.body["mode"], task.body["cfg_scale"]) == (f"{job.id}-1", "pro", 0.7)


async def test_pictures_arrive_as_bare_base64(rigs: Open) -> None:
    rig = await rigs()
    await rig.view("", image=PICTURE)
    assert body(rig)["image"] == b64encode(PICTURE).decode()


async def references(rig: Rig, *roles: Role) -> tuple[MediaInput, ...]:
    async def once(content: bytes) -> AsyncIterator[bytes]:
        yield content

    ups = [await rig.studio.upload(once(PICTURE + role.encode())) for role in roles]
    return tuple(MediaInput(role=role, upload=up.id) for role, up in zip(roles, ups, strict=True))


async def test_references_become_a_clip_of_all_of_them(rigs: Open) -> None:
    rig = await rigs()
    given = await references(rig, "character", "style")
    job = await rig.view("they meet", inputs=given, model="kling-v1-6")
    assert (job.operation, len(body(rig)["image_list"])) == ("multi-image", 2)


async def test_a_clip_goes_from_words_over_two_extensions_to_other_words_on_its_lips(rigs: Open) -> None:
    rig = await rigs()
    first = await rig.view()
    longer = await rig.view("", operation=Extend(), inputs=(take_of(first),))
    longest = await rig.view("on", operation=Extend(), inputs=(take_of(longer),))
    spoken = await rig.view("", operation=LipSync("hello", "v"), inputs=(take_of(first),), model="lip-sync")
    sources = [task.id for task in rig.twin.tasks.values()]
    assert [task.path for task in rig.twin.tasks.values()] == ["text2video", "video-extend", "video-extend", "lip-sync"]
    assert (longest.operation, spoken.operation) == ("extend", "lip-sync")
    bodies = [task.body for task in rig.twin.tasks.values()]
    assert [body.get("video_id") for body in bodies[1:3]] == [f"868{source[3:]}" for source in sources[:2]]
    assert bodies[3]["input"] == {
        "video_id": f"868{sources[0][3:]}",
        "mode": "text2video",
        "text": "hello",
        "voice_id": "v",
    }


async def test_a_clip_and_an_audio_alone_mean_its_lips(rigs: Open) -> None:
    rig = await rigs()
    first = await rig.view()
    job = await rig.view("", audio=SPEECH, inputs=(take_of(first),), model="lip-sync")
    assert job.operation == "lip-sync"
    assert body(rig)["input"]["audio_file"] == b64encode(SPEECH).decode()


async def test_an_effect_is_done_between_two_pictures(rigs: Open) -> None:
    rig = await rigs()
    given = await references(rig, "first_frame")
    job = await rig.view("", image=PICTURE, inputs=given, operation=Effect("hug"), resolution="1080p")
    assert (job.operation, job.model) == ("effect", "kling-v1")
    assert (len(body(rig)["input"]["images"]), body(rig)["effect_scene"]) == (2, "hug")


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_klings_name_alone_means_its_old_wire_for_what_the_new_one_cannot(rigs: Open) -> None:
    """It is not asked for the new wire's key either."""
    rig = await rigs()
    first = await rig.view()
    longer = await rig.view("", operation=Extend(), inputs=(take_of(first),), model="kling")
    assert (longer.provider, longer.model) == ("kling_legacy", "kling-v1")
    assert longer.metadata["requested_model"] == "kling"
    squished = await rig.view("", image=PICTURE, operation=Effect("squish"), model="kling")
    assert squished.model == "kling-v1-6"  # the first that has it
    spoken = await rig.view("", operation=LipSync("hello", "v"), inputs=(take_of(first),), model="klingai")
    assert (spoken.model, spoken.metadata["requested_model"]) == ("lip-sync", "klingai")


@pytest.mark.parametrize("model", ["kling", "kling/kling-3.0"])
async def test_control_what_the_new_wire_can_or_is_named_for_stays_there(rigs: Open, model: str) -> None:
    rig = await rigs()
    with pytest.raises(BadRequest) as refused:
        await rig.make(model=model)
    assert (refused.value.code, refused.value.field) == ("authentication_failed", "model")
    assert "KLINGAI_API_KEY" in refused.value.detail
    assert rig.twin.ledger.requests == []


# ── Refusals at the door ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_clip_from_elsewhere_is_refused_before_anything_is_asked(rigs: Open) -> None:
    rig = await rigs()
    with pytest.raises(BadRequest) as wrong:
        await rig.make("", video=CLIP, operation=Extend())
    assert (wrong.value.field, wrong.value.code) == ("inputs[0]", "unsupported_feature")
    assert (await rig.studio.jobs()).jobs == []
    assert rig.twin.ledger.requests == []


async def test_a_clip_is_extended_by_the_model_that_made_it(rigs: Open) -> None:
    rig = await rigs()
    newer = await rig.view(model="kling-v1-6")
    with pytest.raises(BadRequest, match="kling-v1-6"):
        await rig.make("", operation=Extend(), inputs=(take_of(newer),))
    job = await rig.view("", operation=Extend(), inputs=(take_of(newer),), model="kling-v1-6")
    assert job.billed == "yes"


async def test_what_was_not_made_of_words_or_pictures_is_not_extended(rigs: Open) -> None:
    rig = await rigs()
    spoken = await rig.view("", image=PICTURE, operation=Effect("squish"), model="kling-v1-6")
    with pytest.raises(BadRequest) as wrong:
        await rig.make("", operation=Extend(), inputs=(take_of(spoken),), model="kling-v1-6")
    assert wrong.value.field == "inputs"
    assert len(rig.twin.charges) == 1


async def test_a_take_that_is_gone_there_ends_the_job_unpaid(rigs: Open) -> None:
    rig = await rigs()
    first = await rig.view()
    rig.twin.tasks.clear()
    failed = await rig.failure("", operation=Extend(), inputs=(take_of(first),))
    assert (failed.code, failed.billed) == ("asset_expired", "no")
    assert len(rig.twin.charges) == 1


# ── Endings ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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


async def test_an_address_that_has_expired_is_asked_for_anew(rigs: Open) -> None:
    rig = await rigs(link_s=60.0)
    rig.line.late_s = 3600.0
    job = await rig.make()
    assert Path((await job.result(timeout_s=PATIENCE_S)).videos[0].path).read_bytes() == CLIP
    assert (await types(job)).count("links.refreshed") == 1
    assert len(rig.twin.charges) == 1


# ── Lost answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lost_answer_is_found_by_our_key_and_paid_once(rigs: Open) -> None:
    rig = await rigs()
    rig.line.losing = ["answer"]
    job = await rig.make("", image=PICTURE)
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert "submission.doubted" in await types(job)
    assert (len(rig.came("POST")), len(rig.twin.charges)) == (1, 1)


async def test_a_lost_request_is_sent_again_under_the_same_key(rigs: Open) -> None:
    rig = await rigs()
    rig.line.losing = ["request"]
    job = await rig.make()
    await job.result(timeout_s=PATIENCE_S)
    assert (await types(job)).count("submission.started") == 2
    assert [task.external_id for task in rig.twin.tasks.values()] == [f"{job.id}-1"]


async def test_a_lost_extension_waits_for_a_person_and_is_collected_by_its_id(rigs: Open) -> None:
    rig = await rigs()
    first = await rig.view()
    rig.line.losing = ["answer"]
    job = await rig.make("", operation=Extend(), inputs=(take_of(first),))
    view = await until(job, "parked")
    assert (view.billed, len(rig.came("POST"))) == ("unknown", 2)
    lost = next(task.id for task in rig.twin.tasks.values() if task.path == "video-extend")
    await rig.studio.collect(job.id, handle=lost)
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert len(rig.came("POST")) == 2


async def test_a_process_that_begins_anew_asks_on_in_the_family_of_each_job(tmp_path: Path) -> None:
    service, store = twin(render_s=0.6), MemoryStore()
    async with process(tmp_path, service, store) as rig:
        made = (
            await rig.make("", image=PICTURE, model="kling-v1-6"),
            await rig.make("", image=PICTURE, operation=Effect("squish"), model="kling-v1-6"),
        )
        for job in made:
            await until(job, "running")
    service.ledger.requests.clear()
    async with process(tmp_path, service, store) as rig:
        for job in made:
            assert (await rig.studio.job(job.id).result(timeout_s=PATIENCE_S)).job.billed == "yes"
    asked = {line.path.rpartition("/")[0] for line in service.ledger.requests if line.method == "GET"}
    assert {path for path in asked if path.startswith("/v1")} == {"/v1/videos/image2video", "/v1/videos/effects"}
    assert (rig.came("POST"), len(service.charges)) == ([], 2)


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_is_made_anew_before_it_ends(rigs: Open) -> None:
    rig = await rigs()
    await rig.view()
    rig.clock.ahead_s = 1_745.0  # less than a minute is left of its half hour
    await rig.view()
    rig.clock.ahead_s += 1_800.0
    await rig.view()
    assert {line.status for line in rig.twin.ledger.requests} == {200}


async def test_a_token_whose_time_is_not_the_services_is_no_end_of_a_job(rigs: Open) -> None:
    """Their clock falls behind: the send is refused for certain, and will be tried again with another token."""
    rig = await rigs()
    rig.clock.ahead_s = 60.0
    await rig.view()
    rig.clock.ahead_s = 0.0
    job = await rig.make()
    view = await once(job, lambda view: view.phase == "queued" and bool(view.note))
    assert (view.phase, view.billed) == ("queued", "no")
    assert [line.status for line in rig.twin.ledger.requests if line.method == "POST"] == [200, 401]


async def test_no_event_holds_a_key(rigs: Open) -> None:
    rig = await rigs()
    job = await rig.make()
    await job.result(timeout_s=PATIENCE_S)
    said = b"".join(bytes(event.data) for event in await job.events())
    assert PAIR.encode() in said
    assert not any(key.encode() in said for key in (ACCESS, SECRET))
