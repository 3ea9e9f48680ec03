"""The flows of Kling's old wire, played with bytes."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from msgspec.structs import replace

from rushes.adapters.base import (
    Answer,
    Ask,
    Broken,
    Done,
    Failed,
    Inline,
    Outcome,
    Output,
    Request,
    Response,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.catalogue import route, rows_of
from rushes.adapters.fit import estimate, fit
from rushes.adapters.kling_auth import mint
from rushes.adapters.kling_legacy import KlingLegacy
from rushes.faults import BadRequest
from rushes.main import credentials_of
from rushes.units import AssetRef, Handle
from rushes.video import (
    Effect,
    Extend,
    ImageToVideo,
    Input,
    LipSync,
    Made,
    MultiImage,
    Operation,
    Role,
    Target,
    TextToVideo,
    VideoSpec,
)

LEGACY = KlingLegacy()
ID = "867000000000000001"
KEY = "job_1-1"
URL = "https://host/v.mp4"
TAKE = {"id": "868000000000000001", "url": URL, "watermark_url": "", "duration": "5.041"}
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())


def picture(role: Role = "first_frame", name: str = "", media_type: str = "image/png", size_bytes: int = 5) -> Input:
    sha256 = hashlib.sha256(f"{role}{name}".encode()).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, size_bytes, media_type))


def clip(seconds: float = 5.0, *, provider: str = "kling_legacy", take: int = 0, **extra: str) -> Input:
    """A take of a job."""
    handle = Handle(ID, {"family": "text2video", "model": "kling-v1", **extra})
    made = Made(job="job_0", provider=provider, handle=handle, take=take)
    asset = AssetRef("takes/v", "cd" * 32, 5, "video/mp4")
    return Input(type="video", role="source", asset=asset, duration_seconds=seconds, made=made)


def speech(seconds: float = 5.0, size_bytes: int = 5, media_type: str = "audio/mpeg") -> Input:
    asset = AssetRef("inputs/a", "ef" * 32, size_bytes, media_type)
    return Input(type="audio", role="narration", asset=asset, duration_seconds=seconds)


FIRST, LAST = picture(), picture("last_frame")


def made_of(operation: Operation, *inputs: Input, prompt: str = "", **config: Any) -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=operation, inputs=inputs, **config)


def with_options(spec: VideoSpec, **options: Any) -> VideoSpec:
    return replace(spec, provider_options=options)


def target(model: str = "kling-v1") -> Target:
    return Target(provider="kling_legacy", model=model, credential="KLINGAI_API_KEY")


def reply(body: object, status: int = 200) -> Response:
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode())


def good(data: object) -> Response:
    return reply({"code": 0, "message": "SUCCEED", "request_id": "r", "data": data})


def bad(code: int, status: int = 200, message: str = "No.") -> Response:
    return reply({"code": code, "message": message, "request_id": "r"}, status)


UNKNOWN = bad(1203, 404)


def submitted(spec: VideoSpec, model: str = "kling-v1", answer: Response | None = None) -> tuple[Handle, Any]:
    """The handle, and the request that was sent."""
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or good({"task_id": ID, "task_status": "submitted", "task_info": {"external_task_id": KEY}})

    full, _ = fit(spec, rows_of(LEGACY, model))
    prepared = {given.asset.sha256: "868000000000000001" for given in spec.inputs if given.type == "video"}
    handle = play(LEGACY.submit(full, target(model), prepared, KEY), world)
    (only,) = sent
    assert only.spends
    return handle, only


def told(task: dict[str, object]) -> Outcome:
    return status(good({"task_id": ID, "task_status": "processing", **task}))


def status(answer: Response) -> Outcome:
    return play(LEGACY.status(Handle(ID, {"family": "text2video"}), target()), lambda _: answer)


class Families:
    """A service with one task in one of its families."""

    def __init__(self, family: str = "", *, unknown: Response = UNKNOWN, **task: object) -> None:
        self.asked: list[str] = []
        self._family, self._unknown = family, unknown
        self._task = {"task_id": ID, "task_status": "succeed", "task_info": {"external_task_id": KEY}, **task}

    def __call__(self, ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        assert not ask.spends
        self.asked.append(ask.url)
        return good(self._task) if ask.url.split("/")[3] == self._family else self._unknown


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_go_with_their_defaults_and_our_key() -> None:
    handle, sent = submitted(WORDS)
    assert handle == Handle(ID, {"family": "text2video", "model": "kling-v1"})
    assert (sent.method, sent.url) == ("POST", "/v1/videos/text2video")
    assert sent.body == {
        "model_name": "kling-v1",
        "prompt": "a lake",
        "mode": "std",
        "duration": "5",
        "external_task_id": KEY,
    }


def test_every_wish_has_its_name_on_the_wire() -> None:
    spec = replace(WORDS, duration_seconds=10.0, aspect_ratio="portrait", resolution="fhd", guidance_scale=0.7)
    spec = with_options(replace(spec, negative_prompt="rain"), watermark=True)
    assert submitted(spec, "kling-v1.6")[1].body == {
        "model_name": "kling-v1-6",
        "prompt": "a lake",
        "negative_prompt": "rain",
        "cfg_scale": 0.7,
        "mode": "pro",
        "duration": "10",
        "aspect_ratio": "9:16",
        "watermark_info": {"enabled": True},
        "external_task_id": KEY,
    }


def test_guidance_is_the_scale_of_the_wire_as_it_is() -> None:
    assert submitted(replace(WORDS, guidance_scale=1.0))[1].body["cfg_scale"] == 1
    assert submitted(replace(WORDS, guidance_scale=0.0))[1].body["cfg_scale"] == 0
    with pytest.raises(BadRequest, match="from 0 to 1"):
        fit(replace(WORDS, guidance_scale=7.0), rows_of(LEGACY, "kling-v1"))


def test_the_master_models_have_no_modes() -> None:
    assert "mode" not in submitted(WORDS, "kling-v2-master")[1].body


def test_sound_is_said_where_there_is_a_choice_of_it() -> None:
    loud = replace(WORDS, generate_audio=True, resolution="1080p", duration_seconds=10.0)
    assert submitted(loud, "kling-v2-6")[1].body["sound"] == "on"
    assert submitted(WORDS, "kling-v3")[1].body["sound"] == "off"
    assert "sound" not in submitted(WORDS, "kling-v1")[1].body


def test_the_third_generation_has_every_length_and_4k() -> None:
    body = submitted(replace(WORDS, duration_seconds=15.0, resolution="uhd"), "kling-v3")[1].body
    assert (body["duration"], body["mode"]) == ("15", "4k")


def test_frames_travel_as_bare_base64() -> None:
    _, sent = submitted(made_of(ImageToVideo(), FIRST, LAST, resolution="1080p"), "kling-v2-1")
    assert sent.url == "/v1/videos/image2video"
    assert sent.body == {
        "model_name": "kling-v2-1",
        "image": Inline(FIRST.asset, "base64"),
        "image_tail": Inline(LAST.asset, "base64"),
        "mode": "pro",
        "duration": "5",
        "external_task_id": KEY,
    }


WAY = [{"x": 1, "y": 2}, {"x": 3, "y": 4}]
STILL = {"static_mask": "https://a.example/still.png"}
MOVING = {"dynamic_masks": [{"mask": "https://a.example/car.png", "trajectories": WAY}]}
ZOOM = {"camera_control": {"type": "simple", "config": {"zoom": 5}}}


def test_masks_and_cameras_are_said_as_they_are() -> None:
    body = submitted(with_options(made_of(ImageToVideo(), FIRST), **STILL, **MOVING))[1].body
    assert body | STILL | MOVING == body
    body = submitted(with_options(WORDS, camera_control={"type": "down_back"}))[1].body
    assert body["camera_control"] == {"type": "down_back"}
    spec = with_options(made_of(ImageToVideo(), FIRST, resolution="fhd"), **ZOOM)
    assert submitted(spec, "kling-v1-5")[1].body | ZOOM == submitted(spec, "kling-v1-5")[1].body


def test_references_are_a_list_of_images() -> None:
    who, how = picture("character"), picture("style")
    _, sent = submitted(made_of(MultiImage(), who, how, prompt="they meet", aspect_ratio="1:1"), "kling-v1-6")
    assert sent.url == "/v1/videos/multi-image2video"
    assert sent.body["image_list"] == [{"image": Inline(one.asset, "base64")} for one in (who, how)]
    assert (sent.body["aspect_ratio"], sent.body["external_task_id"]) == ("1:1", KEY)


def test_a_clip_is_extended_by_its_own_id_without_a_key() -> None:
    handle, sent = submitted(made_of(Extend(), clip(), prompt="on", negative_prompt="rain", guidance_scale=0.5))
    assert handle.extra == {"family": "video-extend", "model": "kling-v1"}
    assert sent.url == "/v1/videos/video-extend"
    assert sent.body == {"video_id": TAKE["id"], "prompt": "on", "negative_prompt": "rain", "cfg_scale": 0.5}


def test_lips_say_a_text_or_an_audio() -> None:
    spec = with_options(made_of(LipSync("hello", "genshin_vindi2"), clip()), voice_language="en", voice_speed=1.5)
    _, sent = submitted(spec, "lip-sync")
    said = {"text": "hello", "voice_id": "genshin_vindi2", "voice_language": "en", "voice_speed": 1.5}
    assert sent.url == "/v1/videos/lip-sync"
    assert sent.body == {"input": {"video_id": TAKE["id"], "mode": "text2video", **said}}
    heard = speech()
    body = submitted(made_of(LipSync(), clip(), heard), "lip-sync")[1].body
    audio = {"audio_type": "file", "audio_file": Inline(heard.asset, "base64")}
    assert body == {"input": {"video_id": TAKE["id"], "mode": "audio2video", **audio}}


def test_an_effect_is_done_to_one_image_or_between_two() -> None:
    _, sent = submitted(made_of(Effect("squish"), FIRST), "kling-v1-6")
    alone = {"model_name": "kling-v1-6", "image": Inline(FIRST.asset, "base64"), "duration": "5"}
    assert sent.url == "/v1/videos/effects"
    assert sent.body == {"effect_scene": "squish", "input": alone, "external_task_id": KEY}
    other = picture(name="other")
    spec = made_of(Effect("hug"), FIRST, other, duration_seconds=10.0, resolution="fhd")
    both = [Inline(one.asset, "base64") for one in (FIRST, other)]
    assert submitted(spec, "kling-v1-5")[1].body["input"] == {
        "model_name": "kling-v1-5",
        "images": both,
        "mode": "pro",
        "duration": "10",
    }


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        ("kling-v1", replace(WORDS, duration_seconds=7.0), "duration_seconds"),
        ("kling-v1", replace(WORDS, resolution="4k"), "resolution"),
        ("kling-v1", replace(WORDS, aspect_ratio="cinema"), "aspect_ratio"),
        ("kling-v1", replace(WORDS, seed=7), "seed"),
        ("kling-v1", replace(WORDS, generate_audio=True), "generate_audio"),
        ("kling-v1", replace(WORDS, prompt="p" * 2501), "prompt"),
        ("kling-v1", replace(WORDS, negative_prompt="p" * 2501), "negative_prompt"),
        ("kling-v2-1-master", replace(WORDS, guidance_scale=0.5), "guidance_scale"),
        ("kling-v3", replace(WORDS, negative_prompt="rain"), "negative_prompt"),
        ("kling-v2-master", replace(WORDS, resolution="720p"), "resolution"),
        ("kling-v1", made_of(ImageToVideo(), FIRST, aspect_ratio="16:9"), "aspect_ratio"),
        ("kling-v2-master", made_of(ImageToVideo(), FIRST, LAST), "inputs"),
        ("kling-v1", made_of(ImageToVideo(), picture(size_bytes=10_000_001)), "inputs[0]"),
        ("kling-v1", with_options(WORDS, **STILL), "provider_options.static_mask"),
        ("kling-v1", with_options(WORDS, mode="pro"), "provider_options.mode"),
        ("kling-v1", with_options(WORDS, cfg_scale=0.5), "provider_options.cfg_scale"),
        ("kling-v1-6", made_of(MultiImage(), *(picture("style", f"{n}") for n in range(5)), prompt="p"), "inputs"),
        ("kling-v1", made_of(Extend(), clip(), duration_seconds=5.0), "duration_seconds"),
        ("kling-v1", made_of(Extend(), clip(176.0)), "inputs[0]"),
        ("kling-v1", made_of(Extend(), clip(provider="kling")), "inputs[0]"),
        ("kling-v1", made_of(Extend(), replace(clip(), made=None)), "inputs[0]"),
        ("kling-v1", made_of(Extend(), clip(model="kling-v1-6")), "inputs[0]"),
        ("kling-v2-1", made_of(Extend(), clip(model="kling-v2-1")), "operation"),
        ("lip-sync", made_of(LipSync("x" * 121, "v"), clip()), "operation.text"),
        ("lip-sync", made_of(LipSync("x", "v"), clip(11.0)), "inputs[0]"),
        ("lip-sync", made_of(LipSync(), clip(), speech(61.0)), "inputs[1]"),
        ("lip-sync", made_of(LipSync(), clip(), speech(size_bytes=5_000_001)), "inputs[1]"),
        ("lip-sync", made_of(LipSync(), clip(), speech(media_type="audio/ogg")), "inputs[1]"),
        ("lip-sync", with_options(made_of(LipSync("x", "v"), clip()), voice_speed=2.5), "provider_options.voice_speed"),
        ("lip-sync", made_of(LipSync("x", "v"), clip(), prompt="p"), "prompt"),
        ("kling-v1", made_of(Effect("squish"), FIRST), "operation.scene"),
        ("kling-v1-6", made_of(Effect("hug"), FIRST), "inputs"),
        ("kling-v1-6", made_of(Effect("squish"), FIRST, picture(name="2")), "inputs"),
        ("kling-v1-6", made_of(Effect("squish"), FIRST, prompt="p"), "prompt"),
    ],
)
def test_what_the_wire_cannot_say_is_refused_by_name(model: str, spec: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        fit(spec, rows_of(LEGACY, model))
    assert wrong.value.field == field


ANIMATED = made_of(ImageToVideo(), FIRST)
ENDED = made_of(ImageToVideo(), FIRST, LAST)


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        ("kling-v1", with_options(ENDED, **STILL), "provider_options.static_mask"),
        ("kling-v1", with_options(ENDED, **MOVING), "provider_options.dynamic_masks"),
        ("kling-v1-5", with_options(replace(ENDED, resolution="fhd"), **ZOOM), "provider_options.camera_control"),
        (
            "kling-v1-5",
            with_options(replace(ANIMATED, resolution="fhd"), **STILL, **ZOOM),
            "provider_options.camera_control",
        ),
        ("kling-v1-5", with_options(ANIMATED, **ZOOM), "resolution"),
        ("kling-v1", with_options(replace(WORDS, resolution="fhd"), **ZOOM), "resolution"),
        ("kling-v1", with_options(replace(WORDS, duration_seconds=10.0), **ZOOM), "duration_seconds"),
        ("kling-v2-5-turbo", ENDED, "resolution"),
        ("kling-v2-6", replace(WORDS, generate_audio=True), "resolution"),
        ("kling-v1-6", made_of(Effect("squish"), FIRST, duration_seconds=10.0), "duration_seconds"),
        ("kling-v1-6", made_of(Effect("squish"), FIRST, resolution="fhd"), "resolution"),
        (
            "lip-sync",
            with_options(made_of(LipSync(), clip(), speech()), voice_language="en"),
            "provider_options.voice_language",
        ),
    ],
)
def test_what_only_together_is_wrong_is_refused_by_name_too(model: str, spec: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        fit(spec, rows_of(LEGACY, model))
    assert wrong.value.field == field


@pytest.mark.parametrize(
    ("model", "option", "value"),
    [
        ("kling-v1", "camera_control", {"type": "spin"}),
        ("kling-v1", "camera_control", {"type": "simple"}),
        ("kling-v1", "camera_control", {"type": "simple", "config": {}}),
        ("kling-v1", "camera_control", {"type": "simple", "config": {"zoom": 5, "pan": 1}}),
        ("kling-v1", "camera_control", {"type": "simple", "config": {"zoom": 11}}),
        ("kling-v1", "camera_control", {"type": "simple", "config": {"dolly": 1}}),
        ("kling-v1", "camera_control", {"type": "down_back", "config": {"zoom": 1}}),
        ("kling-v1-5", "camera_control", {"type": "down_back"}),
        ("kling-v1-5", "static_mask", "still.png"),
        ("kling-v1-5", "dynamic_masks", []),
        ("kling-v1-5", "dynamic_masks", [{"mask": "https://a.example/m.png", "trajectories": WAY[:1]}]),
        ("kling-v1-5", "dynamic_masks", [{"mask": "https://a.example/m.png", "trajectories": [{"x": 1, "y": 2}] * 78}]),
        ("kling-v1-5", "dynamic_masks", MOVING["dynamic_masks"] * 7),
        ("kling-v1-5", "dynamic_masks", [{"mask": "https://a.example/m.png"}]),
        ("kling-v1-5", "dynamic_masks", [{**MOVING["dynamic_masks"][0], "speed": 1}]),
    ],
)
def test_masks_and_cameras_of_another_shape_are_refused(model: str, option: str, value: object) -> None:
    spec = with_options(replace(ANIMATED, resolution="fhd") if model == "kling-v1-5" else WORDS, **{option: value})
    with pytest.raises(BadRequest) as wrong:
        fit(spec, rows_of(LEGACY, model))
    assert [fault.field for fault in wrong.value.faults] == [f"provider_options.{option}"]


@pytest.mark.parametrize(
    ("model", "spec", "micro_usd"),
    [
        ("kling-v1", WORDS, 140_000),
        ("kling-v1", replace(WORDS, resolution="fhd", duration_seconds=10.0), 980_000),
        ("kling-v2-master", WORDS, 1_400_000),
        ("kling-v2-6", replace(WORDS, resolution="fhd", generate_audio=True), 700_000),
        ("kling-v3", replace(WORDS, resolution="4k"), 2_100_000),
        ("kling-v1-6", made_of(Extend(), clip(model="kling-v1-6")), 490_000),
        ("kling-v1", made_of(Extend(), clip()), None),
        ("kling-v1-6", made_of(Effect("squish"), FIRST), None),
        ("lip-sync", made_of(LipSync("hello", "v"), clip()), 140_000),
    ],
)
def test_prices_are_those_of_its_list_and_unknown_where_it_has_none(
    model: str, spec: VideoSpec, micro_usd: int | None
) -> None:
    found = estimate(*fit(spec, rows_of(LEGACY, model)))
    assert (found.micro_usd if found else None) == micro_usd


@pytest.mark.parametrize(
    ("wanted", "model"),
    [("kling_legacy", "kling-v1"), ("kling-legacy", "kling-v1"), ("kling-legacy/kling-v2.1", "kling-v2-1")],
)
def test_it_answers_to_its_names(wanted: str, model: str) -> None:
    assert route(wanted, {"kling_legacy": LEGACY})[1][0].id == model


# ── Where a lost send can be found ────────────────────────────────────────────────────────────────────────────────────


def doubt(spec: VideoSpec, model: str = "kling-v1") -> str:
    return LEGACY.terms(spec, target(model)).doubt


def test_only_families_that_take_our_key_claim_that_it_is_found() -> None:
    assert [doubt(spec) for spec in (WORDS, ANIMATED, made_of(MultiImage(), LAST), made_of(Effect("hug"), FIRST))] == [
        "B"
    ] * 4
    assert (doubt(made_of(Extend(), clip())), doubt(made_of(LipSync("hello", "v"), clip()))) == ("E", "E")


def test_a_lost_task_is_looked_for_in_every_family_of_its_model_that_takes_our_key() -> None:
    world = Families("effects")
    found = play(LEGACY.find(target("kling-v1-6"), KEY, 0.0), world)
    assert found == Handle(ID, {"family": "effects", "model": "kling-v1-6"})
    wanted = ["text2video", "image2video", "multi-image2video", "effects"]
    assert world.asked == [f"/v1/videos/{family}/{KEY}" for family in wanted]
    assert play(LEGACY.find(target("kling-v1-6"), KEY, 0.0), Families()) is None
    nobody = Families()
    assert play(LEGACY.find(target("lip-sync"), KEY, 0.0), nobody) is None
    assert nobody.asked == []


@pytest.mark.parametrize("answer", [bad(1201, 400), bad(1000, 401), bad(5000, 500), reply(b"{}"), reply(b"", 404)])
def test_any_other_word_than_that_it_is_unknown_is_no_absence(answer: Response) -> None:
    with pytest.raises(Failed):
        play(LEGACY.find(target(), KEY, 0.0), Families("effects", unknown=answer))


def test_a_task_of_another_key_is_not_taken_for_ours() -> None:
    other: dict[str, Any] = {"task_id": "1", "task_info": {"external_task_id": "job_2-1"}}
    with pytest.raises(Failed, match="another task"):
        play(LEGACY.find(target(), KEY, 0.0), Families("text2video", **other))


# ── What comes back ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clip_is_done_with_its_own_id_and_what_it_took() -> None:
    done = told({"task_status": "succeed", "final_unit_deduction": "1.5", "task_result": {"videos": [TAKE]}})
    assert done == Done((Output(URL),), metadata={"video_id": TAKE["id"], "billing": "1.5 units"})
    bare = told({"task_status": "succeed", "task_result": {"videos": [{"id": "7", "url": URL}]}})
    assert bare == Done((Output(URL),), metadata={"video_id": "7"})


def test_other_words_wait() -> None:
    for word in ("submitted", "processing", "queueing", "succeeded"):
        assert told({"task_status": word}) == Unfinished(stage=word)


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("Failure to pass the risk control system", "moderated"),
        ("The service is busy", "generation_failed"),
        (None, "generation_failed"),
    ],
)
def test_a_failure_is_not_charged(why: str | None, code: str) -> None:
    broken = told({"task_status": "failed", "task_status_msg": why})
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.billed) == (code, "no")


@pytest.mark.parametrize("result", [None, {}, {"videos": []}, {"videos": [{"id": "7", "url": ""}]}])
def test_a_success_without_an_address_was_paid_all_the_same(result: object) -> None:
    broken = told({"task_status": "succeed", "task_result": result})
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.billed) == ("bad_answer", "yes")


def test_a_task_that_is_not_known_any_more_has_vanished() -> None:
    assert status(UNKNOWN) == Vanished()


def test_an_id_that_a_person_gave_is_looked_for_in_every_family_of_the_model() -> None:
    world = Families("video-extend", task_result={"videos": [TAKE]})
    assert isinstance(play(LEGACY.status(Handle(ID), target("kling-v1-5")), world), Done)
    assert [url.split("/")[3] for url in world.asked] == ["image2video", "video-extend"]


@pytest.mark.parametrize(
    ("code", "status_code", "meaning", "retryable", "certain"),
    [
        (1000, 401, "authentication_failed", False, True),
        (1003, 401, "authentication_failed", True, True),
        (1004, 401, "authentication_failed", True, True),
        (1102, 429, "quota_exceeded", False, True),
        (1103, 403, "unsupported_feature", False, True),
        (1201, 400, "invalid_input", False, True),
        (1301, 400, "moderated", False, True),
        (1303, 429, "rate_limited", True, True),
        (5002, 504, "provider_unavailable", True, False),
    ],
)
def test_a_refusal_is_read_by_its_code(
    code: int, status_code: int, meaning: str, retryable: bool, certain: bool
) -> None:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=bad(code, status_code))
    assert (failed.value.fault.code, failed.value.fault.retryable) == (meaning, retryable)
    assert failed.value.certain == certain


def test_a_second_create_under_one_key_is_in_doubt() -> None:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=bad(1201, 400, "external_task_id already exists"))
    assert (failed.value.fault.code, failed.value.certain) == ("conflict", False)


# ── Clips of its own ──────────────────────────────────────────────────────────────────────────────────────────────────


def prepared(given: Input, operation: Operation, world: Families) -> dict[str, str]:
    return play(LEGACY.prepare(made_of(operation, given), target(), KEY), world)


def test_a_takes_own_id_is_asked_for_where_it_was_made() -> None:
    world = Families("image2video", task_result={"videos": [TAKE, {"id": "2", "url": URL}]})
    assert prepared(clip(family="image2video", take=1), Extend(), world) == {"cd" * 32: "2"}
    assert world.asked == [f"/v1/videos/image2video/{ID}"]


def test_a_take_whose_family_nobody_noted_is_looked_for_in_all() -> None:
    given = clip()
    assert given.made is not None
    given = replace(given, made=replace(given.made, handle=Handle(ID)))
    world = Families("video-extend", task_result={"videos": [TAKE]})
    assert prepared(given, Extend(), world) == {"cd" * 32: TAKE["id"]}


@pytest.mark.parametrize("family", ["lip-sync", "effects", "multi-image2video"])
def test_what_is_of_another_kind_is_not_extended(family: str) -> None:
    spec = made_of(Extend(), clip(family=family))
    with pytest.raises(BadRequest) as wrong:
        needs_prepare(LEGACY, spec, target())
    assert wrong.value.field == "inputs"
    assert needs_prepare(LEGACY, replace(spec, operation=LipSync("hello", "v")), target())


@pytest.mark.parametrize(
    "world",
    [
        Families(),
        Families("text2video", task_result={"videos": []}),
        Families("text2video", task_result={"videos": [{"id": "../1", "url": URL}]}),
    ],
)
def test_a_take_that_is_gone_there_is_told_as_such(world: Families) -> None:
    with pytest.raises(Failed) as failed:
        prepared(clip(), Extend(), world)
    assert failed.value.fault.code == "asset_expired"


def test_words_and_images_need_no_preparation() -> None:
    assert not needs_prepare(LEGACY, WORDS, target())
    assert not needs_prepare(LEGACY, ENDED, target())


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def no_answer(ask: Ask) -> Answer:
    raise AssertionError(f"{ask} was asked")


def test_two_keys_become_a_signed_token_of_half_an_hour() -> None:
    token = play(mint({"KLING_ACCESS_KEY": "access", "KLING_SECRET_KEY": "secret"}, 1_000.5), no_answer)
    head, claims, signature = token.value.split(".")
    assert "=" not in token.value
    assert [json.loads(urlsafe_b64decode(part + "==")) for part in (head, claims)] == [
        {"alg": "HS256", "typ": "JWT"},
        {"iss": "access", "exp": 2_800, "nbf": 995},
    ]
    wanted = hmac.digest(b"secret", f"{head}.{claims}".encode(), hashlib.sha256)
    assert urlsafe_b64decode(signature + "==") == wanted
    assert token.until <= 2_800.5


def test_one_key_is_said_as_it_is_and_does_not_end() -> None:
    token = play(mint({"KLINGAI_API_KEY": "key"}, 1_000.0), no_answer)
    assert (token.value, token.until) == ("key", math.inf)


def test_both_halves_of_a_key_are_needed() -> None:
    known = {"kling_legacy": LEGACY}
    assert credentials_of(known, {"KLING_ACCESS_KEY": "a", "KLINGAI_SECRET_KEY": "s"}) == {}
    found = credentials_of(known, {"KLING_ACCESS_KEY": "a", "KLING_SECRET_KEY": "s"})
    assert found == {"KLING_ACCESS_KEY+KLING_SECRET_KEY": "a\0s"}
