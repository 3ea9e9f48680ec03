"""Sora's adapter in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from provider_rig import CLIP, PATIENCE_S, SECRET, Wired, opened, types, until

from rushes.actors import perform
from rushes.adapters.base import Response
from rushes.adapters.sora import Sora
from rushes.assets import sniff
from rushes.emulators.base import Asked
from rushes.emulators.faults import ExpiredUrl, TwinRule
from rushes.emulators.sora import SoraTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, NotFound
from rushes.video import Extend, MediaInput


def picture(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\0" * 20


def twin(**changes: Any) -> SoraTwin:
    return SoraTwin(clip=CLIP, key=SECRET, **{"start_s": 0.0, "render_s": 0.05, "poll_after_ms": None, **changes})


Open = Callable[..., Awaitable[Wired[SoraTwin]]]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(*rules: TwinRule, explicit: bool = True, **changes: Any) -> Wired[SoraTwin]:
            named = {"sora"} if explicit else set()
            made = opened(tmp_path, Sora(), twin(**changes), *rules, explicit=named)
            return await stack.enter_async_context(made)

        yield open_rig


@pytest.mark.parametrize("name", ["sora", "sora-2", "sora-1", "openai", "sora/sora-2"])
async def test_words_become_a_take(rig: Open, name: str) -> None:
    one = await rig()
    view = await one.view(model=name, aspect_ratio="landscape", duration_seconds=8)
    assert (view.model, view.billed, view.cost) == ("sora-2", "yes", None)
    assert Path(view.takes[0].path).read_bytes() == CLIP
    (clip,) = one.twin.clips.values()
    assert (clip.seconds, clip.size, clip.prompt) == ("8", "1280x720", "a lake")
    assert one.came("POST") == ["POST /v1/videos"]


async def test_a_model_that_was_switched_off_runs_only_where_an_address_was_set(rig: Open) -> None:
    one = await rig(explicit=False)
    for model in ("sora", "sora-2", "sora-2-pro", "sora-2-2025-12-08"):
        with pytest.raises(BadRequest, match="2026-09-24") as gone:
            await one.studio.generate("a lake", model=model)
        assert gone.value.code == "model_retired"
    assert one.twin.ledger.requests == []


async def test_where_it_was_set_and_the_models_are_gone_all_the_same_nothing_is_billed(rig: Open) -> None:
    failed = await (await rig(retired=True)).failure()
    assert (failed.code, failed.billed) == ("model_unknown", "no")


async def test_a_picture_goes_along(rig: Open) -> None:
    one = await rig()
    await one.view(image=picture(720, 1280))
    (line,) = [line for line in one.twin.ledger.requests if line.method == "POST"]
    parts: Any = line.body
    assert [part["name"] for part in parts] == ["model", "prompt", "seconds", "size", "input_reference"]
    assert (parts[-1]["filename"], parts[-1]["media_type"]) == ("first_frame.png", "image/png")


async def test_a_picture_of_another_size_is_refused_by_them_and_costs_nothing(rig: Open) -> None:
    failed = await (await rig()).failure(image=picture(512, 512))
    assert (failed.code, failed.billed) == ("invalid_input", "no")


async def test_an_own_clip_is_remixed_and_gone_on_with_by_its_name(rig: Open) -> None:
    one = await rig()
    first = await one.view()
    own = (MediaInput(type="video", job=first.id),)
    remixed = await one.view("by night", inputs=own)
    longer = await one.view("and then", inputs=own, operation=Extend(), duration_seconds=12)
    assert (remixed.operation, longer.operation) == ("video-to-video", "extend")
    source, again, more = one.twin.clips.values()
    assert (again.remixed, more.seconds) == (source.id, "12")
    assert one.came("POST") == [f"POST /v1/videos{path}" for path in ("", f"/{source.id}/remix", "/extensions")]


async def test_a_file_is_edited_and_gone_on_with(rig: Open) -> None:
    one = await rig()
    await one.view("by night", video=CLIP)
    await one.view("and then", video=CLIP, operation=Extend())
    assert one.came("POST") == ["POST /v1/videos/edits", "POST /v1/videos/extensions"]


async def test_an_own_clip_of_another_model_is_refused_at_the_door(rig: Open) -> None:
    one = await rig()
    first = await one.view(model="sora-2-pro")
    with pytest.raises(BadRequest, match="sora-2-pro") as refused:
        await one.studio.generate("by night", inputs=(MediaInput(type="video", job=first.id),), model="sora-2")
    assert refused.value.field == "inputs[0]"
    assert len(one.came("POST")) == 1


@pytest.mark.parametrize(
    ("word", "code", "billed"),
    [("forbidden", "moderated", "unknown"), ("broken", "generation_failed", "unknown"), ("blocked", "moderated", "no")],
)
async def test_moderation_and_failure_are_told(rig: Open, word: str, code: str, billed: str) -> None:
    one = await rig()
    failed = await one.failure(f"a {word} lake")
    assert (failed.code, failed.billed, one.twin.charges) == (code, billed, [])


async def test_a_cancel_cannot_stop_it_and_the_take_is_kept(rig: Open) -> None:
    one = await rig(render_s=0.3)
    job = await one.studio.generate("a lake")
    await until(job, "running")
    await job.cancel()
    assert len((await job.result(timeout_s=PATIENCE_S)).videos) == 1
    answered = next(event for event in await job.events() if event.type == "cancel.answered")
    assert msgspec.json.decode(answered.data)["answer"] == "cannot"
    assert one.came("DELETE") == []


async def test_a_lost_answer_waits_for_a_person(rig: Open) -> None:
    one = await rig()
    one.line.losing = ["answer"]
    job = await one.studio.generate("a lake")
    assert (await until(job, "parked")).billed == "unknown"
    assert (len(one.came("POST")), len(one.twin.charges)) == (1, 1)
    (made,) = one.twin.charges
    await job.collect(handle=made)
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"


async def test_with_a_mark_in_its_prompt_a_lost_answer_is_found_and_paid_once(rig: Open) -> None:
    one = await rig()
    one.line.losing = ["answer"]
    job = await one.studio.generate("a lake", provider_options={"mark_prompt": True})
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert "submission.doubted" in await types(job)
    assert (len(one.came("POST")), len(one.twin.charges)) == (1, 1)
    (clip,) = one.twin.clips.values()
    assert clip.prompt == f"a lake\n({job.id}-1)"


async def test_how_often_and_how_long_it_is_waited_for_is_pinned_and_not_sent(rig: Open) -> None:
    one = await rig()
    options: dict[str, Any] = {"poll_interval_seconds": 0.1, "poll_timeout_seconds": 600}
    job = await one.studio.generate("a lake", provider_options=options)
    await job.result(timeout_s=PATIENCE_S)
    started = next(event for event in await job.events() if event.type == "submission.started")
    assert msgspec.json.decode(started.data)["terms"]["total_s"] == 600.0
    (line,) = [line for line in one.twin.ledger.requests if line.method == "POST"]
    assert "poll" not in repr(line.body)


async def test_an_address_that_expired_is_asked_for_anew(rig: Open) -> None:
    one = await rig(ExpiredUrl(times=1))
    one.line.late_s = 60.0
    job = await one.studio.generate("a lake")
    assert len((await job.result(timeout_s=PATIENCE_S)).videos) == 1
    assert (await types(job)).count("links.refreshed") == 1
    assert len(one.twin.charges) == 1


async def test_a_server_that_answers_loosely_is_read_all_the_same(rig: Open) -> None:
    one = await rig(loose=True)
    view = await one.view()
    assert Path(view.takes[0].path).read_bytes() == CLIP
    assert any(path.startswith("GET /files/") for path in one.came("GET"))


PICTURES: dict[str, Any] = {"variants": ["spritesheet", "thumbnail"]}
KINDS = ["video", "thumbnail", "spritesheet"]


async def test_pictures_are_kept_beside_the_clip(rig: Open) -> None:
    one = await rig()
    result = await (await one.studio.generate("a lake", provider_options=PICTURES)).result(timeout_s=PATIENCE_S)
    view = result.job
    assert [video.index for video in result.videos] == [0]
    assert [(take.index, take.kind) for take in view.takes] == list(enumerate(KINDS))
    assert [take.media_type for take in view.takes] == ["video/mp4", "image/webp", "image/jpeg"]
    assert [Path(take.path).suffix for take in view.takes] == [".mp4", ".webp", ".jpg"]
    assert [sniff(Path(take.path).read_bytes()) for take in view.takes] == [take.media_type for take in view.takes]
    (line,) = [line for line in one.twin.ledger.requests if line.method == "POST"]
    assert "variants" not in repr(line.body)
    assert len(one.twin.charges) == 1


async def test_a_clip_is_kept_where_its_pictures_are_not_to_be_had(
    rig: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(perform, "MAX_BAD_PICTURES", 1)
    one = await rig(loose=True)  # which has no content of any variant
    job = await one.studio.generate("a lake", provider_options=PICTURES)
    view = (await job.result(timeout_s=PATIENCE_S)).job
    assert ([take.kind for take in view.takes], view.missing, view.billed) == (["video"], 2, "yes")
    assert (await types(job)).count("take.lost") == 2
    saved = await one.studio.save(job.id, tmp_path / "a.mp4")
    assert saved.read_bytes() == CLIP


class Deaf(SoraTwin):
    """A gateway that sends the clip, whichever variant it is asked for; `only`: for this one."""

    only = ""

    def _content(self, asked: Asked, id: str) -> Response:
        variant = asked.query.get("variant", "video")
        heard = {} if self.only in ("", variant) else {"variant": variant}
        return super()._content(replace(asked, query=heard), id)


@pytest.mark.parametrize(("only", "kept"), [("", [0]), ("thumbnail", [0, 2])])
async def test_a_clip_in_the_place_of_a_picture_is_not_kept_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str, kept: list[int]
) -> None:
    monkeypatch.setattr(Deaf, "only", only)
    service = Deaf(clip=CLIP, key=SECRET, start_s=0.0, render_s=0.05, poll_after_ms=None)
    async with opened(tmp_path, Sora(), service) as one:
        view = await one.view(provider_options=PICTURES)
        assert ([take.index for take in view.takes], view.missing) == (kept, 3 - len(kept))
        assert len([path for path in one.came("GET") if path.endswith("/content")]) == 3
        saved = await one.studio.save(view.id, tmp_path / "last", take=kept[-1])
        assert saved.read_bytes() == Path(view.takes[-1].path).read_bytes()
        with pytest.raises(NotFound):
            await one.studio.save(view.id, tmp_path / "none", take=1)


async def test_a_clip_that_was_found_by_its_mark_has_its_pictures_too(rig: Open) -> None:
    one = await rig()
    one.line.losing = ["answer"]
    view = await one.view(provider_options=PICTURES | {"mark_prompt": True})
    assert [take.kind for take in view.takes] == KINDS
    assert len(one.twin.charges) == 1


async def test_so_has_a_clip_that_a_person_named(rig: Open) -> None:
    one = await rig()
    one.line.losing = ["answer"]
    job = await one.studio.generate("a lake", provider_options=PICTURES)
    await until(job, "parked")
    (made,) = one.twin.charges
    await job.collect(handle=made)
    assert [take.kind for take in (await job.result(timeout_s=PATIENCE_S)).job.takes] == KINDS


async def test_a_picture_of_an_own_clip_goes_along_as_a_picture(rig: Open) -> None:
    one = await rig()
    first = await one.view(provider_options=PICTURES)
    view = await one.view("it moves", inputs=(MediaInput(job=first.id, take=1),))
    assert (view.operation, one.came("POST")) == ("image-to-video", ["POST /v1/videos"] * 2)
    with pytest.raises(BadRequest, match="no video but image/webp"):
        await one.studio.generate("it moves", inputs=(MediaInput(type="video", job=first.id, take=1),))


async def test_a_job_goes_on_after_a_restart(tmp_path: Path) -> None:
    store, service = MemoryStore(), twin(render_s=0.5)
    async with opened(tmp_path, Sora(), service, store=store) as one:
        job = await one.studio.generate("a lake")
        await until(job, "running")
    async with opened(tmp_path, Sora(), service, store=store) as again:
        result = await again.studio.job(job.id).result(timeout_s=PATIENCE_S)
        assert len(result.videos) == 1
    assert (len(service.charges), again.came("POST")) == (1, ["POST /v1/videos"])


async def test_no_event_holds_the_key(rig: Open) -> None:
    one = await rig()
    job = await one.studio.generate("a lake")
    await job.result(timeout_s=PATIENCE_S)
    said = b"".join(bytes(event.data) for event in await job.events())
    assert b"OPENAI_API_KEY" in said
    assert SECRET.encode() not in said
