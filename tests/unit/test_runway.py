"""Runway's flows, played with bytes."""

from __future__ import annotations

import hashlib
import json
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
    Keep,
    Kept,
    Outcome,
    Output,
    Part,
    Request,
    Response,
    Stopped,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.capabilities import Model
from rushes.adapters.catalogue import route, rows_of
from rushes.adapters.fit import estimate, fit
from rushes.adapters.runway import ENDPOINTS, INLINE_BYTES, Runway
from rushes.adapters.runway_models import EXTENSIONS, MODELS, RETIRED
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import (
    OPERATIONS,
    Config,
    Extend,
    Input,
    Kind,
    MultiImage,
    Role,
    Target,
    TextToVideo,
    Upscale,
    VideoSpec,
    implied_by,
)

RUNWAY = Runway()
HANDLE = Handle("0b6f6c1e-6d53-4f0e-9a41-5d7f0f5f7c11")
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
VERSION = {"X-Runway-Version": "2024-11-06"}
PNG, MP4, MP3 = "image/png", "video/mp4", "audio/mpeg"
TYPES: dict[Kind, str] = {"image": PNG, "video": MP4, "audio": MP3}


def file(
    role: Role, content: str = "", size_bytes: int = 5, kind: Kind = "image", seconds: float | None = None
) -> Input:
    """A file of ours; another content is another file."""
    sha256 = hashlib.sha256((content or role).encode()).hexdigest()
    asset = AssetRef(f"inputs/{sha256}", sha256, size_bytes, TYPES[kind])
    return Input(type=kind, role=role, asset=asset, duration_seconds=seconds)


def clip(role: Role = "source", content: str = "", seconds: float | None = 5.0, size_bytes: int = 5) -> Input:
    return file(role, content, size_bytes, "video", seconds)


def sound(seconds: float | None = 5.0) -> Input:
    return file("reference_audio", kind="audio", seconds=seconds)


def picture(role: Role = "first_frame", content: str = "", size_bytes: int = 5) -> Input:
    return file(role, content, size_bytes)


def given(*inputs: Input, prompt: str = "") -> VideoSpec:
    """A request with these files, and the operation that they mean."""
    return VideoSpec(prompt=prompt, operation=implied_by({each.role for each in inputs}), inputs=inputs)


def inline(of: Input) -> Inline:
    return Inline(of.asset, "data-uri")


def fitted(spec: VideoSpec, model: str) -> tuple[VideoSpec, Model]:
    return fit(spec, rows_of(RUNWAY, model))


def target(model: str = "gen4.5") -> Target:
    return Target(provider="runway", model=model, credential="RUNWAYML_API_SECRET")


def reply(status: int, body: object, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def nowhere(_: Ask) -> Answer:
    raise AssertionError("nothing may be asked")


def submitted(spec: VideoSpec, model: str = "gen4.5", answer: Response | None = None) -> tuple[Handle, Request]:
    """What a request becomes on the wire."""
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(200, {"id": HANDLE.id, "estimatedCost": {"credits": 60}})

    handle = play(RUNWAY.submit(fitted(spec, model)[0], target(model), {}, "job_1-1"), world)
    (only,) = sent
    return handle, only


def body(spec: VideoSpec, model: str) -> dict[str, Any]:
    """The body that it becomes."""
    sent = submitted(spec, model)[1].body
    assert isinstance(sent, dict)
    return sent


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=answer)
    return failed.value


def outcome(**task: object) -> Outcome:
    asked: list[Ask] = []

    def world(ask: Ask) -> Response:
        asked.append(ask)
        return reply(200, {"id": HANDLE.id, "createdAt": "2026-11-21T07:00:00.000Z", **task})

    found = play(RUNWAY.status(HANDLE, target()), world)
    assert asked == [Request(method="GET", url=f"/v1/tasks/{HANDLE.id}", headers=VERSION)]
    return found


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_become_a_task_of_the_first_model() -> None:
    handle, sent = submitted(WORDS, MODELS[0].id)
    assert handle == HANDLE
    assert (sent.method, sent.url, sent.spends, sent.headers) == ("POST", "/v1/text_to_video", True, VERSION)
    assert sent.body == {"model": "gen4.5", "promptText": "a lake", "ratio": "1280:720", "duration": 5}


FIRST, LAST = picture(), picture("last_frame")
WHO, LOOK = picture("character"), picture("style")
TAKE, OTHER, THIRD = clip(), clip("reference_video", "other"), clip("reference_video", "third", 3.0)
ACTED, VOICE = clip("performance"), sound()
PUBLIC = {"publicFigureThreshold": "low"}
SIZED = {"ratio": "1280:720", "duration": 5, "audio": True}
TWO = (Input(role="character", asset=WHO.asset), LOOK)


@pytest.mark.parametrize(
    ("model", "spec", "url", "wanted"),
    [
        (
            "gen4.5",
            replace(
                WORDS, aspect_ratio="portrait", duration_seconds=10.0, seed=2**32 - 1, provider_options=dict(PUBLIC)
            ),
            "text_to_video",
            {
                "promptText": "a lake",
                "ratio": "720:1280",
                "duration": 10,
                "seed": 2**32 - 1,
                "contentModeration": PUBLIC,
            },
        ),
        (
            "gen4.5",
            replace(given(FIRST, prompt="slow"), aspect_ratio="square"),
            "image_to_video",
            {
                "promptText": "slow",
                "promptImage": [{"uri": inline(FIRST), "position": "first"}],
                "ratio": "960:960",
                "duration": 5,
            },
        ),
        (
            "veo3.1",
            replace(WORDS, resolution="1920x1080", generate_audio=False, negative_prompt="rain", duration_seconds=8.0),
            "text_to_video",
            {"promptText": "a lake", "ratio": "1920:1080", "duration": 8, "audio": False, "negativePrompt": "rain"},
        ),
        (
            "veo3.1_fast",
            given(LAST, FIRST),
            "image_to_video",
            {
                "promptImage": [
                    {"uri": inline(LAST), "position": "last"},
                    {"uri": inline(FIRST), "position": "first"},
                ],
                **SIZED,
                "duration": 4,
            },
        ),
        (
            "seedance2",
            given(FIRST, VOICE),
            "image_to_video",
            {
                "promptImage": [{"uri": inline(FIRST), "position": "first"}],
                "referenceAudio": [{"type": "audio", "uri": inline(VOICE)}],
                **SIZED,
            },
        ),
        (
            "seedance2_5",
            given(VOICE, prompt="a lake"),
            "text_to_video",
            {"promptText": "a lake", "referenceAudio": [{"type": "audio", "uri": inline(VOICE)}], **SIZED},
        ),
        (
            "seedance2",
            given(WHO, LOOK, prompt="they meet"),
            "text_to_video",
            {"promptText": "they meet", "references": [{"uri": inline(WHO)}, {"uri": inline(LOOK)}], **SIZED},
        ),
        (
            "seedance2_mini",
            given(OTHER, TAKE, WHO, prompt="the same at night"),
            "video_to_video",
            {
                "promptText": "the same at night",
                "promptVideo": inline(TAKE),
                "referenceVideos": [{"type": "video", "uri": inline(OTHER)}],
                "references": [{"uri": inline(WHO)}],
                **SIZED,
            },
        ),
        (
            "seedance2_fast",
            given(OTHER, THIRD),
            "video_to_video",
            {"promptVideo": inline(OTHER), "referenceVideos": [{"type": "video", "uri": inline(THIRD)}], **SIZED},
        ),
        (
            "seedance2_fast",
            given(OTHER),
            "video_to_video",
            {"promptVideo": inline(OTHER), **SIZED},
        ),
        (
            "seedance2_5",
            replace(given(TAKE, prompt="she leaves"), operation=Extend(), duration_seconds=30.0),
            "video_to_video",
            {
                "promptText": "she leaves",
                "promptVideo": inline(TAKE),
                "mode": "extend",
                "duration": 30,
                "audio": True,
            },
        ),
        (
            "aleph2",
            replace(given(TAKE, FIRST, LAST, prompt="snow"), aspect_ratio="2:3", seed=7, provider_options=dict(PUBLIC)),
            "video_to_video",
            {
                "promptText": "snow",
                "videoUri": inline(TAKE),
                "keyframes": [{"uri": inline(FIRST), "at": 0}, {"uri": inline(LAST), "at": 1}],
                "targetAspectRatio": "2:3",
                "seed": 7,
                "contentModeration": PUBLIC,
            },
        ),
        ("aleph2", given(TAKE), "video_to_video", {"videoUri": inline(TAKE)}),
        (
            "gemini_omni_flash",
            WORDS,
            "text_to_video",
            {"promptText": "a lake", "ratio": "1280:720", "duration": 5},
        ),
        (
            "gemini_omni_flash",
            given(TAKE, LOOK, prompt="as a drawing"),
            "video_to_video",
            {"promptText": "as a drawing", "videoUri": inline(TAKE), "references": [{"uri": inline(LOOK)}]},
        ),
        (
            "hailuo3",
            replace(WORDS, resolution="2k", aspect_ratio="cinema"),
            "text_to_video",
            {"promptText": "a lake", "resolution": "2K", "ratio": "21:9", "duration": 5},
        ),
        (
            "hailuo3",
            given(FIRST, LAST, prompt="slow"),
            "image_to_video",
            {
                "promptText": "slow",
                "promptImage": [
                    {"uri": inline(FIRST), "position": "first"},
                    {"uri": inline(LAST), "position": "last"},
                ],
                "resolution": "768P",
                "duration": 5,
            },
        ),
        (
            "happyhorse_1_0",
            replace(WORDS, aspect_ratio="4:3", resolution="fhd"),
            "text_to_video",
            {"promptText": "a lake", "ratio": "1662:1248", "duration": 5},
        ),
        (
            "happyhorse_1_0",
            replace(given(FIRST), resolution="fhd"),
            "image_to_video",
            {"promptImage": [{"uri": inline(FIRST), "position": "first"}], "resolution": "1080P", "duration": 5},
        ),
        (
            "magnific_video_upscaler_creative",
            replace(
                given(TAKE), operation=Upscale(), resolution="uhd", provider_options={"flavor": "natural", "sharpen": 0}
            ),
            "video_upscale",
            {"videoUri": inline(TAKE), "resolution": "4k", "flavor": "natural", "sharpen": 0},
        ),
        (
            "act_two",
            replace(
                given(ACTED, WHO), seed=7, provider_options={"bodyControl": True, "expressionIntensity": 5} | PUBLIC
            ),
            "character_performance",
            {
                "reference": {"type": "video", "uri": inline(ACTED)},
                "character": {"type": "image", "uri": inline(WHO)},
                "ratio": "1280:720",
                "seed": 7,
                "bodyControl": True,
                "expressionIntensity": 5,
                "contentModeration": PUBLIC,
            },
        ),
        (
            "act_two",
            replace(given(ACTED, TAKE), aspect_ratio="portrait"),
            "character_performance",
            {
                "reference": {"type": "video", "uri": inline(ACTED)},
                "character": {"type": "video", "uri": inline(TAKE)},
                "ratio": "720:1280",
            },
        ),
    ],
)
def test_every_operation_has_its_form(model: str, spec: VideoSpec, url: str, wanted: dict[str, object]) -> None:
    _, sent = submitted(spec, model)
    assert sent.url == f"/v1/{url}"
    assert sent.body == {"model": model, **wanted}


def test_one_image_may_be_there_twice() -> None:
    spec = replace(WORDS, operation=MultiImage(), inputs=(picture("style", "one"), picture("character", "one")))
    assert len(body(spec, "seedance2")["references"]) == 2


@pytest.mark.parametrize(
    ("model", "ratio", "resolution", "size"),
    [
        ("gen4_turbo", "square", "hd", "960:960"),
        ("gen4_turbo", "cinema", "hd", "1584:672"),
        ("gen4_turbo", "3:4", None, "832:1104"),
        ("veo3.1_fast", "portrait", "fhd", "1080:1920"),
        ("seedance2", "square", "sd", "640:640"),
        ("seedance2", "portrait", "sd", "496:864"),
        ("seedance2", "landscape", "sd", "864:496"),
        ("seedance2", "cinema", "sd", "992:432"),
        ("seedance2", "cinema", "hd", "1470:630"),
        ("seedance2", "cinema", "fhd", "2206:946"),
        ("seedance2", "4:3", "uhd", "3840:2880"),
        ("seedance2", None, "560x752", "560:752"),
        ("seedance2_5", "landscape", "sd", "854:480"),
    ],
)
def test_a_shape_and_a_resolution_are_one_size_there(
    model: str, ratio: str | None, resolution: str | None, size: str
) -> None:
    assert body(replace(given(picture()), aspect_ratio=ratio, resolution=resolution), model)["ratio"] == size


@pytest.mark.parametrize(
    ("model", "size"), [("gen4_turbo", "720x720"), ("seedance2", "720x720"), ("gen4.5", "1104x832")]
)
def test_a_size_that_is_none_of_a_models_is_refused_with_those_that_are(model: str, size: str) -> None:
    spec = WORDS if model == "gen4.5" else given(picture())
    with pytest.raises(BadRequest, match="1280x720") as refused:
        fitted(replace(spec, resolution=size), model)
    assert [fault.field for fault in refused.value.faults] == ["resolution"]


@pytest.mark.parametrize("row", MODELS, ids=lambda row: f"{row.id}, {row.operations[0]}")
def test_whatever_the_data_admits_can_be_said(row: Model) -> None:
    """Else a wish would pass, and be dropped."""
    assert set(row.operations) <= set(ENDPOINTS) <= set(OPERATIONS.values())
    assert set(row.roles) <= set(row.wire)
    assert set(row.fields) <= set(row.wire) & set(Config.__struct_fields__)
    assert all(set(known.types) == set(EXTENSIONS[kind]) for kind, known in row.media.items())
    limits = {"durations_s": "duration_seconds", "aspect_ratios": "aspect_ratio", "resolutions": "resolution"}
    for limit, field in limits.items():
        assert not getattr(row, limit) or field in row.wire
        assert getattr(row.defaults, field) is None or getattr(row.defaults, field) in getattr(row, limit)
    if row.sizes and row.resolutions and row.aspect_ratios:
        assert all((lines, ratio) in row.sizes for lines in row.resolutions for ratio in row.aspect_ratios)
    assert bool(row.durations_s) == (row.defaults.duration_seconds is not None)


@pytest.mark.parametrize(
    ("model", "wish", "code", "field"),
    [
        ("gen4.5", replace(WORDS, generate_audio=True), "unsupported_feature", "generate_audio"),
        ("gen4.5", replace(WORDS, negative_prompt="rain"), "unsupported_feature", "negative_prompt"),
        ("gen4.5", replace(WORDS, guidance_scale=5.0), "unsupported_feature", "guidance_scale"),
        ("gen4.5", replace(WORDS, enhance_prompt=True), "unsupported_feature", "enhance_prompt"),
        ("gen4.5", replace(WORDS, scheduler="ddim"), "unsupported_feature", "scheduler"),
        ("gen4.5", replace(WORDS, fps=24.0), "unsupported_feature", "fps"),
        ("gen4.5", replace(WORDS, aspect_ratio="square"), "invalid_input", "aspect_ratio"),
        ("gen4.5", replace(WORDS, resolution="fhd"), "invalid_input", "resolution"),
        ("gen4.5", replace(WORDS, duration_seconds=2.5), "invalid_input", "duration_seconds"),
        ("gen4.5", replace(WORDS, duration_seconds=11.0), "invalid_input", "duration_seconds"),
        ("gen4.5", replace(WORDS, seed=2**32), "invalid_input", "seed"),
        ("gen4.5", replace(WORDS, prompt="\U0001f3ac" * 501), "invalid_input", "prompt"),
        ("gen4.5", given(picture()), "invalid_input", "prompt"),
        ("gen4.5", given(picture("last_frame"), prompt="p"), "unsupported_feature", "inputs"),
        ("gen4.5", given(picture("style"), prompt="p"), "unsupported_feature", "inputs"),
        ("gen4.5", given(clip(), prompt="p"), "unsupported_feature", "inputs"),
        ("gen4_turbo", WORDS, "unsupported_feature", "operation"),
        ("veo3.1", replace(WORDS, seed=7), "unsupported_feature", "seed"),
        ("veo3.1", replace(WORDS, duration_seconds=5.0), "invalid_input", "duration_seconds"),
        ("veo3.1", given(picture("last_frame")), "invalid_input", "inputs"),
        ("seedance2", replace(WORDS, negative_prompt="rain"), "unsupported_feature", "negative_prompt"),
        ("seedance2", given(picture(), picture("style"), prompt="p"), "unsupported_feature", "inputs"),
        ("seedance2", given(*(picture("style", str(n)) for n in range(10)), prompt="p"), "invalid_input", "inputs"),
        ("seedance2", given(*[*TWO] * 5, prompt="p"), "invalid_input", "inputs"),
        ("seedance2", given(clip(seconds=10.0), clip("reference_video", seconds=6.0)), "invalid_input", "inputs"),
        ("seedance2", given(picture(), sound(15.5)), "invalid_input", "inputs"),
        ("seedance2", replace(given(clip(), prompt="p"), operation=Extend()), "unsupported_feature", "operation"),
        ("seedance2_fast", replace(WORDS, resolution="fhd"), "invalid_input", "resolution"),
        (
            "seedance2_5",
            replace(given(clip(), prompt="p"), operation=Extend(), aspect_ratio="16:9"),
            "unsupported_feature",
            "aspect_ratio",
        ),
        ("seedance2_5", replace(given(clip()), operation=Extend()), "invalid_input", "prompt"),
        ("aleph2", WORDS, "unsupported_feature", "operation"),
        ("aleph2", given(clip("reference_video"), prompt="p"), "unsupported_feature", "inputs"),
        ("aleph2", given(clip(seconds=30.5)), "invalid_input", "inputs[0]"),
        ("aleph2", replace(given(clip()), resolution="hd"), "unsupported_feature", "resolution"),
        ("gemini_omni_flash", given(clip(seconds=10.5), prompt="p"), "invalid_input", "inputs[0]"),
        ("gemini_omni_flash", given(clip()), "invalid_input", "prompt"),
        ("hailuo3", given(picture()), "invalid_input", "prompt"),
        ("hailuo3", replace(WORDS, resolution="fhd"), "invalid_input", "resolution"),
        ("happyhorse_1_0", replace(given(picture()), aspect_ratio="16:9"), "unsupported_feature", "aspect_ratio"),
        ("act_two", given(clip("performance")), "invalid_input", "inputs"),
        ("act_two", given(clip("performance"), clip(), picture("character")), "invalid_input", "inputs"),
        ("act_two", given(clip("performance", seconds=2.0), picture("character")), "invalid_input", "inputs[0]"),
        ("act_two", given(clip("performance"), picture("character"), prompt="p"), "unsupported_feature", "prompt"),
        (
            "magnific_video_upscaler_creative",
            replace(given(clip()), operation=Upscale(), resolution="fhd"),
            "invalid_input",
            "resolution",
        ),
        ("aleph2", given(clip(size_bytes=200_000_001)), "invalid_input", "inputs[0]"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(model: str, wish: VideoSpec, code: str, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        fitted(wish, model)
    assert (refused.value.code, {fault.field for fault in refused.value.faults}) == (code, {field})


@pytest.mark.parametrize(
    ("model", "spec", "name", "value"),
    [
        ("gen4.5", WORDS, "publicFigureThreshold", "high"),
        ("gen4.5", WORDS, "contentModeration", {"publicFigureThreshold": "low"}),
        ("gen4.5", WORDS, "outputFormat", "prores"),
        ("gen4.5", WORDS, "ratio", "1280:720"),
        ("gen4.5", WORDS, "model", "veo3.1"),
        ("veo3.1", WORDS, "publicFigureThreshold", "low"),
        ("seedance2_5", given(clip()), "mode", "extend"),
        ("act_two", given(clip("performance"), picture("character")), "expressionIntensity", 6),
        ("act_two", given(clip("performance"), picture("character")), "bodyControl", 1),
        ("magnific_video_upscaler_creative", replace(given(clip()), operation=Upscale()), "creativity", 100.5),
        ("magnific_video_upscaler_creative", replace(given(clip()), operation=Upscale()), "smartGrain", 101),
    ],
)
def test_options_are_known_by_name_and_value(model: str, spec: VideoSpec, name: str, value: object) -> None:
    assert fitted(spec, model)
    with pytest.raises(BadRequest) as refused:
        fitted(replace(spec, provider_options={name: value}), model)
    assert [fault.field for fault in refused.value.faults] == [f"provider_options.{name}"]


@pytest.mark.parametrize(
    ("wanted", "model"),
    [
        ("runway", "gen4.5"),
        ("runwayml", "gen4.5"),
        ("runwayml/gen-4.5", "gen4.5"),
        ("gen-4.5", "gen4.5"),
        ("act-two", "act_two"),
        ("runway/seedance-2.5", "seedance2_5"),
        ("runway/magnific", "magnific_video_upscaler_creative"),
    ],
)
def test_models_are_found_as_people_write_them(wanted: str, model: str) -> None:
    name, rows = route(wanted, {"runway": RUNWAY})
    assert (name, {row.id for row in rows}) == ("runway", {model})


@pytest.mark.parametrize("gone", RETIRED)
def test_a_model_that_is_gone_says_what_there_is_instead(gone: str) -> None:
    instead = RETIRED[gone].replacement
    with pytest.raises(BadRequest, match=f"use runway/{instead}") as refused:
        route(f"runway/{gone}", {"runway": RUNWAY}, today="2026-11-21")
    assert refused.value.code == "model_retired"
    assert rows_of(RUNWAY, instead)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_that_are_too_large_together_are_uploaded_once_each_and_named() -> None:
    asked: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        asked.append(ask)
        if ask.url == "/v1/uploads":
            place = {"uploadUrl": "https://files.example.org/p", "fields": {"key": "k", "policy": "p"}}
            return reply(200, {**place, "runwayUri": f"runway://u{len(asked)}"})
        return reply(200, {"id": HANDLE.id}) if ask.spends else Response(status=204)

    take, look = clip(size_bytes=INLINE_BYTES), picture("style", "look")
    spec, _ = fitted(given(take, look, replace(look, role="character")), "seedance2")
    prepared = play(RUNWAY.prepare(spec, target("seedance2")), world)
    assert prepared == {take.asset.sha256: "runway://u1", look.asset.sha256: "runway://u3"}
    place, sent, *_ = asked
    name = f"{take.asset.sha256[:16]}.mp4"
    assert (place.body, place.headers) == ({"filename": name, "type": "ephemeral"}, VERSION)
    assert (sent.method, sent.url, sent.headers) == ("POST", "https://files.example.org/p", {})
    assert sent.body == [Part("key", "k"), Part("policy", "p"), Part("file", Inline(take.asset, "bytes"), name, MP4)]
    assert not any(ask.spends for ask in asked)
    play(RUNWAY.submit(spec, target("seedance2"), prepared, "job_1-1"), world)
    assert isinstance(asked[-1].body, dict)
    assert asked[-1].body["promptVideo"] == "runway://u1"
    assert asked[-1].body["references"] == [{"uri": "runway://u3"}] * 2


@pytest.mark.parametrize("media_type", [name for known in EXTENSIONS.values() for name in known])
def test_an_upload_has_the_name_of_its_kind(media_type: str) -> None:
    names = {"image/jpeg": ".jpg", "video/quicktime": ".mov", "audio/mpeg": ".mp3", "audio/mp4": ".m4a"}
    wanted = names.get(media_type, f".{media_type.partition('/')[2]}")
    asset = replace(picture().asset, media_type=media_type, size_bytes=INLINE_BYTES + 1)

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        assert isinstance(ask.body, dict)
        assert ask.body["filename"].endswith(wanted)
        return reply(429, {"error": "Enough."})

    with pytest.raises(Failed, match="Enough"):
        play(RUNWAY.prepare(given(replace(picture(), asset=asset)), target()), world)


def test_the_largest_files_that_travel_in_the_request_fit() -> None:
    characters = len("data:image/jpeg;base64,") + -(-INLINE_BYTES // 3) * 4
    assert 5_242_000 < characters <= 5_242_880


@pytest.mark.parametrize("status", [302, 403, 500])
def test_a_store_that_refuses_a_file_says_nothing_about_the_key(status: int) -> None:
    spec = given(picture(size_bytes=INLINE_BYTES + 1))

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        place = {"uploadUrl": "https://files.example.org/p", "fields": {}, "runwayUri": "runway://u1"}
        return reply(200, place) if ask.url == "/v1/uploads" else reply(status, b"<Error/>")

    with pytest.raises(Failed) as failed:
        play(RUNWAY.prepare(spec, target()), world)
    assert (failed.value.fault.code, failed.value.fault.retryable) == ("provider_unavailable", True)


def test_only_large_files_need_preparing() -> None:
    assert not needs_prepare(RUNWAY, WORDS, target())
    assert not needs_prepare(RUNWAY, given(picture(size_bytes=INLINE_BYTES)), target())
    assert needs_prepare(RUNWAY, given(picture(size_bytes=INLINE_BYTES + 1)), target())
    halves = [picture("style", name, INLINE_BYTES // 2 + 1) for name in "ab"]
    assert needs_prepare(RUNWAY, given(*halves), target())


# ── Money and terms ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "spec", "micro_usd"),
    [
        ("gen4.5", WORDS, 5 * 120_000),
        ("gen4_turbo", given(picture()), 5 * 50_000),
        ("veo3.1", WORDS, 4 * 400_000),
        ("veo3.1", replace(WORDS, generate_audio=False), 4 * 200_000),
        ("veo3.1_fast", WORDS, 4 * 150_000),
        ("veo3.1_fast", replace(WORDS, generate_audio=False), 4 * 100_000),
        ("seedance2", replace(given(clip(seconds=9.0)), duration_seconds=15.0), 15 * 360_000),
        ("act_two", given(picture("character"), clip("performance", seconds=12.0)), 12 * 50_000),
        ("act_two", given(picture("character"), clip("performance", seconds=None)), None),
        ("aleph2", given(clip()), None),
        ("seedance2_5", WORDS, None),
        ("hailuo3", WORDS, None),
    ],
)
def test_an_estimate_is_the_dearest_price_and_unknown_without_one(
    model: str, spec: VideoSpec, micro_usd: int | None
) -> None:
    found = estimate(*fitted(spec, model))
    assert (found and found.micro_usd) == micro_usd
    assert found is None or (found.as_of, found.unit) == ("2026-04-21", "second")


def test_the_terms_are_what_the_provider_says() -> None:
    terms = RUNWAY.terms(WORDS, target())
    assert (terms.doubt, terms.cancel, terms.link_ttl_s) == ("E", "destroys", 86_400.0)
    assert terms.poll.interval_s(0.0) == 5.0
    assert play(RUNWAY.find(target(), "job_1-1", 0.0), nowhere) is None


# ── What a create may answer ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_create_is_taken_whatever_else_its_answer_holds() -> None:
    odd = reply(200, {"id": HANDLE.id, "estimatedCost": "none", "status": 7, "new": True})
    assert submitted(WORDS, answer=odd)[0] == HANDLE
    assert submitted(WORDS, answer=reply(200, {"id": HANDLE.id}))[0] == HANDLE


@pytest.mark.parametrize("id", ["", "../organization", "a/b/c/d/e/f", "a" * 65, "a?bcdefgh", "abcdefgh\n"])
def test_an_id_that_is_none_leaves_the_create_in_doubt(id: str) -> None:
    failed = refused(reply(200, {"id": id}))
    assert (failed.certain, failed.fault.code) == (False, "bad_answer")


def test_wrong_input_names_the_field_and_holds_no_address_or_key() -> None:
    message = "Cannot be fetched: https://host/a.png?sig=secret with key_0123abcd"
    issues = [{"code": "custom", "path": ["promptImage", 0, "uri"], "message": message}]
    failed = refused(reply(400, {"error": "Validation of body failed", "issues": issues, "docUrl": "https://d"}))
    fault = failed.fault
    assert (failed.certain, fault.code, fault.field, fault.retryable) == (True, "invalid_input", "inputs", False)
    where = "promptImage.0.uri: Cannot be fetched: (left out) with (left out)"
    assert fault.detail == f"runway: Validation of body failed {where}"


@pytest.mark.parametrize(
    ("status", "code", "certain", "retryable"),
    [
        (400, "invalid_input", True, False),
        (401, "authentication_failed", True, False),
        (404, "not_found", True, False),
        (405, "unsupported_feature", True, False),
        (429, "rate_limited", True, True),
        (502, "provider_unavailable", False, True),
        (503, "provider_unavailable", False, True),
        (504, "provider_unavailable", False, True),
    ],
)
def test_errors_mean_what_the_provider_says(status: int, code: str, *, certain: bool, retryable: bool) -> None:
    failed = refused(reply(status, {"error": "No."}))
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (certain, code, retryable)
    assert failed.fault.detail == "runway: No."


def test_a_wait_that_is_said_is_kept() -> None:
    assert refused(reply(429, {"error": "Slow down."}, retry_after="7")).fault.retry_after_s == 7.0
    assert refused(reply(429, {"error": "Slow down."})).fault.retry_after_s is None


@pytest.mark.parametrize(
    "answer",
    [
        reply(502, b"<html>bad gateway</html>"),
        reply(401, b"<html>log in</html>"),
        reply(302, {"error": "elsewhere"}),
        reply(200, b'{"id": "0b6f6'),
        reply(200, b"\xff\xfe"),
        reply(200, []),
    ],
)
def test_anything_unclear_leaves_the_create_in_doubt(answer: Response) -> None:
    assert not refused(answer).certain


# ── How it goes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["PENDING", "THROTTLED", "CANCELED", "SOMETHING_NEW"])
def test_every_other_word_is_unfinished(word: str) -> None:
    assert outcome(status=word, estimatedCost={"credits": 25}) == Unfinished(None, stage=word)


@pytest.mark.parametrize(("progress", "percent"), [(0, 0), (0.29, 29), (0.42, 42), (1.0, 99), (7.0, 99), (-1, 0)])
def test_progress_is_a_share_of_one(progress: float, percent: int) -> None:
    assert outcome(status="RUNNING", progress=progress) == Unfinished(percent, stage="RUNNING")
    assert outcome(status="RUNNING") == Unfinished(None, stage="RUNNING")


def test_a_success_says_where_it_is_and_what_it_cost() -> None:
    links = ["https://cdn.example.net/a.mp4?_jwt=1", "https://cdn.example.net/b.mp4?_jwt=2"]
    done = outcome(status="SUCCEEDED", output=links, cost={"credits": 25})
    assert isinstance(done, Done)
    assert done.outputs == tuple(Output(link) for link in links)
    assert done.cost is not None
    assert (done.cost.micro_usd, done.cost.units, done.cost.unit) == (250_000, 25.0, "credit")
    dear = outcome(status="SUCCEEDED", output=links, cost={"credits": 0.29})
    assert isinstance(dear, Done)
    assert dear.cost is not None
    assert dear.cost.micro_usd == 2_900
    older = outcome(status="SUCCEEDED", output=links)
    assert isinstance(older, Done)
    assert older.cost is None


def test_a_success_without_a_file_is_a_failure() -> None:
    broken = outcome(status="SUCCEEDED", output=[], cost={"credits": 25})
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.billed) == ("bad_answer", "yes")


@pytest.mark.parametrize(
    ("theirs", "code", "retryable"),
    [
        ("SAFETY.INPUT.TEXT", "moderated", False),
        ("SAFETY.OUTPUT.VIDEO", "moderated", False),
        ("INPUT_PREPROCESSING.SAFETY.TEXT", "moderated", False),
        ("THIRD_PARTY.SAFETY", "moderated", False),
        ("ASSET.INVALID", "invalid_input", False),
        ("INTERNAL.BAD_OUTPUT.CODE01", "generation_failed", False),
        ("INTERNAL", "generation_failed", True),
        ("INPUT_PREPROCESSING.INTERNAL", "generation_failed", False),
        ("SOMETHING.NEW", "generation_failed", False),
        (None, "generation_failed", False),
    ],
)
def test_failures_are_told_apart_by_their_codes(theirs: str | None, code: str, *, retryable: bool) -> None:
    broken = outcome(status="FAILED", failure="It did not work.", failureCode=theirs, cost={"credits": 0})
    assert isinstance(broken, Broken)
    fault = broken.fault
    assert (fault.code, fault.retryable, fault.provider_code) == (code, retryable, theirs or "")
    assert (fault.detail, broken.billed) == ("runway: It did not work.", "no")


@pytest.mark.parametrize(("cost", "billed"), [(None, "unknown"), ({"credits": 0}, "no"), ({"credits": 5}, "yes")])
def test_the_task_says_whether_a_failure_was_paid(cost: object, billed: str) -> None:
    for word in ("FAILED", "CANCELLED"):
        ended = outcome(status=word, cost=cost)
        assert isinstance(ended, Broken | Stopped)
        assert ended.billed == billed


def test_a_task_that_is_not_there_has_vanished() -> None:
    gone = reply(404, {"error": "Not found"})
    assert play(RUNWAY.status(HANDLE, target()), lambda _: gone) == Vanished()


def test_a_page_that_says_not_found_proves_nothing() -> None:
    for flow in (RUNWAY.status(HANDLE, target()), RUNWAY.cancel(HANDLE, target())):
        with pytest.raises(Failed) as failed:
            play(flow, lambda _: reply(404, b"<html>nothing here</html>"))
        assert not failed.value.certain


@pytest.mark.parametrize("id", ["", "../organization", "a/bcdefghij", "a bcdefghij", "abcdefgh?x=1", "abcdefgh\n"])
def test_a_handle_that_is_none_is_asked_for_nowhere(id: str) -> None:
    with pytest.raises(Failed):
        play(RUNWAY.status(Handle(id), target()), nowhere)
    with pytest.raises(Failed):
        play(RUNWAY.cancel(Handle(id), target()), nowhere)


@pytest.mark.parametrize("answer", [Response(status=204), reply(404, {"error": "Not found"})])
def test_a_cancel_deletes_and_may_be_repeated(answer: Response) -> None:
    asked: list[Ask] = []

    def world(ask: Ask) -> Response:
        asked.append(ask)
        return answer

    assert play(RUNWAY.cancel(HANDLE, target()), world) == "accepted"
    assert asked == [Request(method="DELETE", url=f"/v1/tasks/{HANDLE.id}", headers=VERSION)]


def test_a_cancel_that_is_refused_is_not_accepted() -> None:
    with pytest.raises(Failed) as failed:
        play(RUNWAY.cancel(HANDLE, target()), lambda _: reply(503, {"error": "Busy."}))
    assert failed.value.fault.retryable


def test_results_are_fetched_without_the_key() -> None:
    kept = AssetRef("k", "0" * 64, 1, "video/mp4")

    def world(ask: Ask) -> Answer:
        assert ask == Keep(url="https://cdn.example.net/a.mp4?_jwt=1")
        return Kept(kept)

    output = Output("https://cdn.example.net/a.mp4?_jwt=1")
    assert play(RUNWAY.download(output, HANDLE, target()), world) == kept


def test_the_providers_own_name_of_the_key_comes_first() -> None:
    auth = RUNWAY.capabilities.auth
    assert auth is not None
    assert auth.env == ("RUNWAYML_API_SECRET", "RUNWAY_API_KEY")
    assert "text-to-video" in MODELS[0].operations
