"""Kling's flows, played with bytes."""

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
    Prepared,
    Request,
    Response,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.capabilities import Model
from rushes.adapters.catalogue import route, rows_of
from rushes.adapters.fit import estimate, fit
from rushes.adapters.kling import Kling
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle, Money
from rushes.video import (
    CharacterPerformance,
    ImageToVideo,
    Input,
    Made,
    MultiImage,
    Operation,
    Role,
    Target,
    TextToVideo,
    VideoSpec,
    VideoToVideo,
)

KLING = Kling()
HANDLE = Handle("893600000000000001")
KEY = "job_1-1"
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
VIDEO = {"type": "video", "id": "1", "url": "https://host/v.mp4", "watermark_url": "", "duration": "5.041"}


def picture(role: Role = "first_frame", media_type: str = "image/png", size_bytes: int = 5, name: str = "") -> Input:
    sha256 = hashlib.sha256(f"{role}{name}".encode()).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, size_bytes, media_type))


def clip(
    role: Role, seconds: float = 5.0, media_type: str = "video/mp4", *, provider: str = "kling", take: int = 0
) -> Input:
    """A take of a job."""
    sha256 = hashlib.sha256(role.encode()).hexdigest()
    asset = AssetRef(f"takes/{sha256}", sha256, 5, media_type)
    origin = Made(job="job_0", provider=provider, handle=HANDLE, take=take)
    return Input(type="video", role=role, asset=asset, duration_seconds=seconds, made=origin)


def images(*inputs: Input, prompt: str = "") -> VideoSpec:
    return made_of(ImageToVideo(), *inputs, prompt=prompt)


def made_of(operation: Operation, *inputs: Input, prompt: str = "p", **options: Any) -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=operation, inputs=inputs, provider_options=options)


def acted(*inputs: Input, **options: Any) -> VideoSpec:
    given = inputs or (picture("character"), clip("performance"))
    return made_of(CharacterPerformance(), *given, **options)


def fitted(spec: VideoSpec, model: str) -> tuple[VideoSpec, Model]:
    return fit(spec, rows_of(KLING, model))


def target(model: str = "kling-3.0-turbo") -> Target:
    return Target(provider="kling", model=model, credential="KLINGAI_API_KEY")


def reply(body: object, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def good(data: object) -> Response:
    return reply({"code": 0, "message": "", "request_id": "r", "data": data})


def bad(code: int, status: int = 200, message: str = "No.") -> Response:
    return reply({"code": code, "message": message, "request_id": "r"}, status)


def submitted(
    spec: VideoSpec, model: str = "kling-3.0-turbo", addresses: Prepared | None = None, answer: Response | None = None
) -> tuple[Handle, Any]:
    """The handle, and the request that was sent."""
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or good({"id": HANDLE.id, "status": "submitted", "external_id": KEY})

    handle = play(KLING.submit(fitted(spec, model)[0], target(model), addresses or {}, KEY), world)
    (only,) = sent
    assert only.spends
    return handle, only


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=answer)
    return failed.value


def status(answer: Response, handle: Handle = HANDLE) -> Outcome:
    return play(KLING.status(handle, target()), lambda _: answer)


def outcome(**task: object) -> Outcome:
    return status(good([{"id": HANDLE.id, "status": "processing", "message": "", **task}]))


def found(answer: Response) -> Handle | None:
    return play(KLING.find(target(), KEY, 0.0), lambda _: answer)


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────

TASK = {"external_task_id": KEY}
FIRST, LAST = picture(), picture("last_frame")
WHO, HOW = picture("character"), picture("style")


def file(kind: str, given: Input, number: int) -> dict[str, object]:
    return {"type": kind, "url": Inline(given.asset, "base64"), "id": f"input_{number}"}


def test_words_go_with_their_defaults_and_our_key() -> None:
    handle, sent = submitted(WORDS)
    assert handle == HANDLE
    assert (sent.method, sent.url) == ("POST", "/text-to-video/kling-3.0-turbo")
    assert sent.body == {"prompt": "a lake", "settings": {"resolution": "720p", "duration": 5}, "options": TASK}


def test_every_wish_has_its_name_on_the_wire() -> None:
    spec = replace(WORDS, duration_seconds=12.0, aspect_ratio="portrait", resolution="uhd", generate_audio=True)
    spec = replace(spec, provider_options={"multi_shot": False, "watermark": True})
    _, sent = submitted(spec, "kling-3.0")
    settings = {"duration": 12, "aspect_ratio": "9:16", "resolution": "4k", "audio": "native", "multi_shot": False}
    options = {"external_task_id": KEY, "watermark_info": {"enabled": True}}
    assert sent.body == {"prompt": "a lake", "settings": settings, "options": options}
    assert type(sent.body["settings"]["duration"]) is int  # "5.0" is none there


def test_no_sound_is_said_where_there_is_a_choice_of_it() -> None:
    assert submitted(WORDS, "kling-3.0")[1].body["settings"]["audio"] == "off"
    assert "audio" not in submitted(WORDS, "kling-2.5-turbo")[1].body["settings"]


def test_frames_travel_in_the_order_as_bare_base64_with_elements_by_name() -> None:
    spec = replace(images(FIRST, LAST, prompt="@element_2 waves"), provider_options={"element_2": "77"})
    _, sent = submitted(spec, "kling-3.0")
    assert sent.url == "/image-to-video/kling-3.0"
    assert sent.body == {
        "contents": [
            {"type": "prompt", "text": "@element_2 waves"},
            file("first_frame", FIRST, 1),
            file("last_frame", LAST, 2),
            {"type": "element", "element_id": "77", "id": "element_2"},
        ],
        "settings": {"resolution": "720p", "duration": 5, "audio": "off"},
        "options": TASK,
    }


def test_a_first_frame_alone_will_do() -> None:
    _, sent = submitted(images(FIRST))
    assert [one["type"] for one in sent.body["contents"]] == ["first_frame"]


def test_voices_go_with_sound() -> None:
    spec = replace(images(FIRST, prompt="@voice_1 sings"), provider_options={"voice_1": "9"})
    spec = replace(spec, generate_audio=True, resolution="1080p")
    _, sent = submitted(spec, "kling-2.6")
    assert sent.url == "/image-to-video/kling-2.6"
    assert sent.body["contents"][-1] == {"type": "voice", "voice_id": "9", "id": "voice_1"}
    assert sent.body["settings"] == {"resolution": "1080p", "duration": 5, "audio": "native"}


def test_references_go_to_the_one_path_that_takes_them() -> None:
    _, sent = submitted(made_of(MultiImage(), WHO, HOW), "kling-3.0-omni")
    assert sent.url == "/omni-video/kling-3.0-omni"
    assert sent.body == {
        "contents": [{"type": "prompt", "text": "p"}, file("refer_image", WHO, 1), file("refer_image", HOW, 2)],
        "settings": {"resolution": "720p", "duration": 5, "aspect_ratio": "16:9", "audio": "off"},
        "options": TASK,
    }


def test_on_that_path_words_are_contents_and_frames_have_no_ratio() -> None:
    _, sent = submitted(WORDS, "kling-o1")
    assert sent.url == "/omni-video/kling-o1"
    assert sent.body["contents"] == [{"type": "prompt", "text": "a lake"}]
    assert sent.body["settings"] == {"resolution": "720p", "duration": 5, "aspect_ratio": "16:9"}
    _, sent = submitted(images(FIRST, WHO), "kling-o1")
    assert sent.body["contents"] == [file("first_frame", FIRST, 1), file("refer_image", WHO, 2)]
    assert sent.body["settings"] == {"resolution": "720p", "duration": 5}


ADDRESS = "https://host/v.mp4"


@pytest.mark.parametrize(
    ("model", "role", "kind", "settings"),
    [
        ("kling-3.0-omni", "source", "base_video", {}),
        ("kling-3.0-omni", "reference_video", "feature_video", {"multi_shot": True}),
        ("kling-o1", "source", "base_video", {}),
        ("kling-o1", "reference_video", "feature_video", {}),
    ],
)
def test_a_clip_goes_by_its_address(model: str, role: Role, kind: str, settings: dict[str, object]) -> None:
    given = clip(role)
    _, sent = submitted(made_of(VideoToVideo(), given, WHO), model, {given.asset.sha256: ADDRESS})
    assert sent.url == f"/omni-video/{model}"
    assert sent.body["contents"][1:] == [
        {"type": kind, "url": ADDRESS, "id": "input_1"},
        file("refer_image", WHO, 2),
    ]
    assert sent.body["settings"] == {"resolution": "720p", **settings}


def test_a_clip_that_is_made_over_may_keep_its_sound() -> None:
    given = clip("source")
    spec = made_of(VideoToVideo(), given, audio="original")
    _, sent = submitted(spec, "kling-o1", {given.asset.sha256: ADDRESS})
    assert sent.body["settings"] == {"resolution": "720p", "audio": "original"}


@pytest.mark.parametrize("model", ["kling-3.0", "kling-2.6"])
def test_a_character_acts_on_a_path_of_its_own(model: str) -> None:
    given = clip("performance")
    _, sent = submitted(acted(WHO, given), model, {given.asset.sha256: ADDRESS})
    assert sent.url == f"/motion-control/{model}"
    assert sent.body == {
        "contents": [
            {"type": "prompt", "text": "p"},
            file("image", WHO, 1),
            {"type": "video", "url": ADDRESS, "id": "input_2"},
        ],
        "settings": {"resolution": "720p", "character_orientation": "video"},
        "options": TASK,
    }
    _, sent = submitted(acted(WHO, given, character_orientation="image", audio="off"), model)
    assert sent.body["settings"] == {"resolution": "720p", "character_orientation": "image", "audio": "off"}


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        ("kling-3.0-turbo", replace(WORDS, duration_seconds=2.0), "duration_seconds"),
        ("kling-2.6", replace(WORDS, duration_seconds=7.0), "duration_seconds"),
        ("kling-o1", replace(WORDS, duration_seconds=11.0), "duration_seconds"),
        ("kling-3.0-turbo", replace(WORDS, resolution="4k"), "resolution"),
        ("kling-o1", replace(WORDS, resolution="4k"), "resolution"),
        ("kling-3.0", replace(WORDS, resolution="sd"), "resolution"),
        ("kling-3.0", replace(WORDS, aspect_ratio="cinema"), "aspect_ratio"),
        ("kling-3.0", replace(images(FIRST), aspect_ratio="16:9"), "aspect_ratio"),
        ("kling-3.0", replace(images(FIRST), resolution="1280x720"), "resolution"),
        ("kling-3.0", replace(WORDS, negative_prompt="rain"), "negative_prompt"),
        ("kling-3.0", replace(WORDS, seed=7), "seed"),
        ("kling-3.0", replace(WORDS, guidance_scale=7.0), "guidance_scale"),
        ("kling-3.0-turbo", replace(WORDS, generate_audio=False), "generate_audio"),
        ("kling-o1", replace(WORDS, generate_audio=True), "generate_audio"),
        ("kling-3.0-turbo", replace(WORDS, prompt="p" * 3073), "prompt"),
        ("kling-3.0-turbo", images(FIRST, prompt="p" * 2501), "prompt"),
        ("kling-o1", images(FIRST, prompt="p" * 2501), "prompt"),
        ("kling-3.0", replace(WORDS, prompt=" "), "prompt"),
        ("kling-3.0-turbo", images(FIRST, LAST), "inputs"),
        ("kling-3.0", images(LAST), "inputs"),
        ("kling-3.0", images(picture(media_type="image/webp")), "inputs[0]"),
        ("kling-3.0", images(picture(size_bytes=50_000_001)), "inputs[0]"),
        ("kling-3.0", made_of(MultiImage(), HOW), "inputs"),
        ("kling-3.0-omni", made_of(MultiImage(), *(picture("style", name=f"{n}") for n in range(8))), "inputs"),
        (
            "kling-3.0-omni",
            images(FIRST, *(picture("style", name=f"{n}") for n in range(7)), WHO),
            "inputs",
        ),
        (
            "kling-3.0-omni",
            made_of(VideoToVideo(), clip("source"), *(picture("style", name=f"{n}") for n in range(5))),
            "inputs",
        ),
        ("kling-3.0-omni", made_of(VideoToVideo(), clip("source"), FIRST), "inputs"),
        ("kling-3.0-omni", made_of(VideoToVideo(), clip("source"), clip("reference_video")), "inputs"),
        ("kling-3.0-omni", made_of(VideoToVideo(), clip("source", 2.0)), "inputs[0]"),
        ("kling-3.0-omni", made_of(VideoToVideo(), clip("source", media_type="video/webm")), "inputs[0]"),
        ("kling-o1", made_of(VideoToVideo(), clip("source", 12.0)), "inputs[0]"),
        ("kling-3.0-omni", replace(made_of(VideoToVideo(), clip("source")), generate_audio=True), "generate_audio"),
        ("kling-3.0", acted(WHO, clip("performance", 31.0)), "inputs[1]"),
        ("kling-3.0", replace(acted(), resolution="4k"), "resolution"),
        ("kling-3.0", replace(acted(), duration_seconds=5.0), "duration_seconds"),
        ("kling-2.6", acted(element_1="7"), "provider_options.element_1"),
        ("kling-3.0", acted(character_orientation="left"), "provider_options.character_orientation"),
        ("kling-3.0", replace(WORDS, provider_options={"element_1": "7"}), "provider_options.element_1"),
        ("kling-3.0", replace(WORDS, provider_options={"external_task_id": "x"}), "provider_options.external_task_id"),
        ("kling-3.0", replace(WORDS, provider_options={"audio": "native"}), "provider_options.audio"),
    ],
)
def test_what_the_wire_cannot_say_is_refused_by_name(model: str, spec: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        fitted(spec, model)
    assert wrong.value.field == field


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        ("kling-2.6", replace(WORDS, generate_audio=True), "resolution"),
        ("kling-2.6", images(FIRST, LAST), "resolution"),
        ("kling-2.5-turbo", images(FIRST, LAST), "resolution"),
        ("kling-2.6", replace(images(FIRST), provider_options={"voice_2": "9"}), "generate_audio"),
        ("kling-3.0-omni", replace(made_of(VideoToVideo(), clip("source")), duration_seconds=5.0), "duration_seconds"),
        ("kling-o1", replace(made_of(VideoToVideo(), clip("source")), aspect_ratio="1:1"), "aspect_ratio"),
        ("kling-3.0-omni", made_of(VideoToVideo(), clip("source"), multi_shot=True), "provider_options.multi_shot"),
        (
            "kling-3.0-omni",
            made_of(VideoToVideo(), clip("reference_video"), multi_shot=False),
            "provider_options.multi_shot",
        ),
        (
            "kling-o1",
            made_of(VideoToVideo(), clip("reference_video"), audio="original"),
            "provider_options.audio",
        ),
    ],
)
def test_what_only_together_is_wrong_is_refused_by_name_too(model: str, spec: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        fitted(spec, model)
    assert wrong.value.field == field


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        ("kling-2.6", replace(WORDS, generate_audio=True, resolution="1080p")),
        ("kling-2.6", replace(images(FIRST, LAST), resolution="1080p")),
        ("kling-3.0-omni", replace(made_of(VideoToVideo(), clip("reference_video")), duration_seconds=5.0)),
        ("kling-3.0-omni", made_of(VideoToVideo(), clip("reference_video"), multi_shot=True, audio="off")),
        ("kling-3.0-omni", images(FIRST, *(picture("style", name=f"{n}") for n in range(7)))),
        ("kling-3.0", acted(WHO, clip("performance", 30.0), element_1="7")),
    ],
)
def test_beside_each_refusal_stands_what_is_right(model: str, spec: VideoSpec) -> None:
    assert submitted(spec, model)[0] == HANDLE


# ── Where a clip comes from ───────────────────────────────────────────────────────────────────────────────────────────


def prepared(spec: VideoSpec, *answers: Response, model: str = "kling-o1") -> tuple[dict[str, str], list[Ask]]:
    asked: list[Ask] = []
    left = list(answers)

    def world(ask: Ask) -> Response:
        asked.append(ask)
        return left.pop(0)

    return play(KLING.prepare(fitted(spec, model)[0], target(model)), world), asked


def test_pictures_need_no_preparing_and_clips_do() -> None:
    assert not needs_prepare(KLING, fitted(images(FIRST), "kling-3.0")[0], target("kling-3.0"))
    assert needs_prepare(KLING, fitted(acted(), "kling-3.0")[0], target("kling-3.0"))


def test_a_clip_of_its_own_is_asked_for_its_address() -> None:
    given = clip("source", take=1)
    outputs = [VIDEO, {**VIDEO, "url": "https://host/2.mp4"}]
    task = good([{"id": HANDLE.id, "status": "succeeded", "outputs": outputs}])
    addresses, asked = prepared(made_of(VideoToVideo(), given), task)
    assert addresses == {given.asset.sha256: "https://host/2.mp4"}
    assert asked == [Request(method="GET", url="/tasks", query={"task_ids": HANDLE.id})]


@pytest.mark.parametrize("given", [clip("source", provider="xai"), replace(clip("source"), made=None)])
def test_any_other_clip_is_refused_at_the_door(given: Input) -> None:
    spec = made_of(VideoToVideo(), given)
    with pytest.raises(BadRequest) as wrong:
        fitted(spec, "kling-o1")
    assert (wrong.value.field, wrong.value.code) == ("inputs[0]", "unsupported_feature")


@pytest.mark.parametrize(
    "answer",
    [
        bad(1203, 404),
        good([]),
        good([{"id": HANDLE.id, "status": "succeeded", "outputs": []}]),
        good([{"id": HANDLE.id, "status": "processing"}]),
    ],
)
def test_a_clip_that_it_does_not_have_any_more_ends_the_job_before_it_is_paid(answer: Response) -> None:
    with pytest.raises(Failed) as failed:
        prepared(made_of(VideoToVideo(), clip("source")), answer)
    assert (failed.value.certain, failed.value.fault.code, failed.value.fault.retryable) == (
        True,
        "asset_expired",
        False,
    )


def test_a_performance_may_be_longer_where_the_character_is_turned_like_the_clip() -> None:
    long = acted(WHO, clip("performance", 10.5), character_orientation="image")
    with pytest.raises(BadRequest) as wrong:
        needs_prepare(KLING, fitted(long, "kling-3.0")[0], target("kling-3.0"))
    assert wrong.value.field == "inputs"
    for right in (
        acted(WHO, clip("performance", 10.0), character_orientation="image"),
        acted(WHO, clip("performance", 10.5), character_orientation="video"),
        acted(WHO, clip("performance", 10.5)),
    ):
        assert needs_prepare(KLING, fitted(right, "kling-3.0")[0], target("kling-3.0"))


# ── What it costs, and is called ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "spec", "micro_usd"),
    [
        ("kling-3.0-turbo", WORDS, 560_000),
        ("kling-3.0-turbo", replace(WORDS, resolution="1080p"), 700_000),
        ("kling-3.0", WORDS, 420_000),
        ("kling-3.0", replace(WORDS, generate_audio=True), 630_000),
        ("kling-3.0", replace(WORDS, resolution="1080p"), 560_000),
        ("kling-3.0", replace(WORDS, resolution="1080p", generate_audio=True, duration_seconds=10.0), 1_680_000),
        ("kling-3.0", replace(WORDS, resolution="4k"), 2_100_000),
        ("kling-3.0-omni", replace(WORDS, generate_audio=True), 560_000),
        ("kling-3.0-omni", made_of(VideoToVideo(), clip("source", 8.0)), 1_008_000),
        ("kling-o1", replace(WORDS, resolution="1080p"), 560_000),
        ("kling-o1", replace(made_of(VideoToVideo(), clip("reference_video")), duration_seconds=5.0), 630_000),
        ("kling-2.6", WORDS, 210_000),
        ("kling-2.6", replace(images(FIRST), resolution="1080p"), 350_000),
        ("kling-2.6", replace(images(FIRST), resolution="1080p", generate_audio=True), 700_000),
        (
            "kling-2.6",
            replace(images(FIRST), resolution="1080p", generate_audio=True, provider_options={"voice_2": "9"}),
            840_000,
        ),
        ("kling-2.5-turbo", replace(WORDS, duration_seconds=10.0), 420_000),
        ("kling-3.0", acted(WHO, clip("performance", 10.0)), 1_260_000),
        ("kling-2.6", acted(), None),
        ("kling-o1", made_of(VideoToVideo(), clip("reference_video")), None),  # how long it becomes is theirs to say
    ],
)
def test_an_estimate_follows_the_price_list_or_is_unknown(model: str, spec: VideoSpec, micro_usd: int | None) -> None:
    money = estimate(*fitted(spec, model))
    assert (money and money.micro_usd) == micro_usd


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ("kling", "kling-3.0-turbo"),
        ("klingai", "kling-3.0-turbo"),
        ("klingai/kling-v3", "kling-3.0"),
        ("kling-v3-omni", "kling-3.0-omni"),
        ("kling-video-o1", "kling-o1"),
        ("kling/kling-v2-6", "kling-2.6"),
        ("kling/kling-v2-5-turbo", "kling-2.5-turbo"),
    ],
)
def test_older_names_mean_the_same_models(said: str, model: str) -> None:
    name, rows = route(said, {"kling": KLING})
    assert (name, {row.id for row in rows}, rows[0].operations[0]) == ("kling", {model}, "text-to-video")


# ── What a create may answer ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_create_is_taken_whatever_else_its_answer_holds() -> None:
    assert submitted(WORDS, answer=good({"id": HANDLE.id, "status": 7, "new": [1]}))[0] == HANDLE


@pytest.mark.parametrize("id", ["", "1,2", "a/b", "1&task_ids=2", "1" * 65, "1\n"])
def test_an_id_that_is_none_leaves_the_create_in_doubt(id: str) -> None:
    assert not refused(good({"id": id})).certain


@pytest.mark.parametrize("status", [200, 400, 429])
@pytest.mark.parametrize(
    ("code", "meaning", "retryable"),
    [
        *((code, "authentication_failed", False) for code in (1000, 1001, 1002, 1003, 1004, 1304)),
        *((code, "quota_exceeded", False) for code in (1100, 1101, 1102)),
        (1103, "unsupported_feature", False),
        *((code, "invalid_input", False) for code in (1200, 1201, 1202)),
        (1203, "not_found", False),
        *((code, "moderated", False) for code in (1300, 1301)),
        *((code, "rate_limited", True) for code in (1302, 1303)),
    ],
)
def test_the_code_says_what_a_refusal_means_whatever_the_status(
    status: int, code: int, meaning: str, *, retryable: bool
) -> None:
    failed = refused(bad(code, status))
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (True, meaning, retryable)
    assert (failed.fault.detail, failed.fault.provider_code) == ("kling: No.", str(code))
    assert failed.fault.retry_after_s == (1.0 if retryable else None)


@pytest.mark.parametrize(
    ("code", "status", "meaning"),
    [
        (1005, 401, "authentication_failed"),
        (1104, 429, "quota_exceeded"),
        (1299, 400, "invalid_input"),
        (1399, 400, "invalid_input"),
        (1399, 429, "rate_limited"),
    ],
)
def test_a_code_that_no_page_names_means_what_its_family_or_else_its_status_does(
    code: int, status: int, meaning: str
) -> None:
    failed = refused(bad(code, status))
    assert (failed.certain, failed.fault.code) == (True, meaning)


@pytest.mark.parametrize(
    "answer",
    [
        bad(1302, 500),
        bad(5000, 500),
        bad(5001, 503),
        bad(5002, 504),
        reply({"code": 5001, "message": "maintenance"}, 503, retry_after="7"),
        bad(5000, 200),
        bad(7, 200),
        reply(b"<html>bad gateway</html>", 502),
        reply(b"<html>not found</html>", 404),
        reply({"code": 0, "data": {"id": HANDLE.id}}, 500),
        reply(b'{"code":0,"data":{"id":"8936'),
        reply(b"\xff\xfe"),
        reply([]),
        good(None),
        good([{"id": HANDLE.id}]),
        good({"id": 893600000000000001}),
    ],
)
def test_anything_unclear_leaves_the_create_in_doubt(answer: Response) -> None:
    assert not refused(answer).certain


@pytest.mark.parametrize(
    "message", ["external_task_id already exists", "Duplicated task", "externalTaskId must be unique"]
)
def test_a_key_that_is_taken_leaves_the_create_in_doubt(message: str) -> None:
    """An earlier send may have arrived after all: the look that follows finds its task."""
    failed = refused(bad(1201, 400, message))
    assert (failed.certain, failed.fault.code) == (False, "conflict")


@pytest.mark.parametrize("message", ["The image does not exist", "prompt is already too long", "external_task_id"])
def test_another_wrong_parameter_is_a_refusal(message: str) -> None:
    assert refused(bad(1201, 400, message)).certain


def test_a_path_that_is_not_there_is_a_refusal() -> None:
    spring = {"timestamp": 1781080778802, "status": 404, "error": "Not Found", "message": "", "path": "/text-to-video"}
    failed = refused(reply(spring, 404))
    assert (failed.certain, failed.fault.code) == (True, "not_found")


def test_faults_hold_no_addresses() -> None:
    failed = refused(bad(1201, 400, "image https://host/a.png?sig=secret\ncannot be read"))
    assert failed.fault.detail == "kling: image (left out) cannot be read"


# ── How it goes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["submitted", "processing", "queueing", "something new"])
def test_every_other_word_is_unfinished_without_a_percent(word: str) -> None:
    assert outcome(status=word) == Unfinished(None, stage=word)


CASH = {"charge_type": "cash", "cash_type": "balance", "amount": "0.42", "currency": "USD", "list_price": "0.42"}
UNITS = {"charge_type": "unit", "package_type": "video", "amount": "3"}


def test_a_success_has_its_address_and_its_bill() -> None:
    done = outcome(status="succeeded", outputs=[{"type": "image", "url": "https://host/i.png"}, VIDEO], billing=[CASH])
    assert isinstance(done, Done)
    assert done.outputs == (Output("https://host/v.mp4"),)
    assert done.cost == Money(420_000, source="kling's bill")
    assert done.metadata == {"billing": "0.42 USD"}


@pytest.mark.parametrize(
    ("billing", "micro_usd", "units"),
    [
        ([CASH, UNITS], 420_000, 3.0),
        ([{**CASH, "amount": "0.1"}, {**CASH, "amount": "0.2"}], 300_000, None),  # as decimals: no 0.30000000000000004
        ([{**CASH, "amount": "0.0000015"}], 2, None),
        ([{**CASH, "amount": "0"}], 0, None),
    ],
)
def test_money_is_counted_as_decimals(billing: object, micro_usd: int, units: float | None) -> None:
    done = outcome(status="succeeded", outputs=[VIDEO], billing=billing)
    assert isinstance(done, Done)
    assert done.cost is not None
    assert (done.cost.micro_usd, done.cost.units) == (micro_usd, units)


@pytest.mark.parametrize(
    "billing",
    [None, [], "free", [7], [UNITS], [{**CASH, "currency": "CNY"}], [CASH, {**CASH, "currency": "CNY"}], [{}]]
    + [[{**CASH, "amount": amount}] for amount in ("NaN", "Infinity", "-1", "1e9", "", "1" * 10, 0.42)],
)
def test_a_bill_without_dollars_costs_an_unknown_amount_and_never_the_clip(billing: object) -> None:
    done = outcome(status="succeeded", outputs=[VIDEO], billing=billing)
    assert isinstance(done, Done)
    assert done.cost is None


def test_units_of_a_pack_are_told_all_the_same() -> None:
    done = outcome(status="succeeded", outputs=[VIDEO], billing=[UNITS])
    assert isinstance(done, Done)
    assert done.metadata == {"billing": "3 units"}


@pytest.mark.parametrize("outputs", [None, [], [{"type": "image", "url": "https://host/i.png"}], [{"type": "video"}]])
def test_a_success_without_a_clip_is_a_failure_that_was_paid(outputs: object) -> None:
    broken = outcome(status="succeeded", outputs=outputs)
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.billed) == ("bad_answer", "yes")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Failure to pass the risk control system", "moderated"),
        ("The prompt contains sensitive words", "moderated"),
        ("The video could not be generated", "generation_failed"),
        (None, "generation_failed"),
    ],
)
def test_failures_are_told_apart_by_their_words_and_are_free(message: object, code: str) -> None:
    broken = outcome(status="failed", message=message)
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.fault.retryable, broken.billed) == (code, False, "no")


def test_a_failure_that_was_billed_all_the_same_says_so() -> None:
    broken = outcome(status="failed", message="no", billing=[CASH])
    free = outcome(status="failed", message="no", billing=[{**CASH, "amount": "0.00"}])
    assert isinstance(broken, Broken)
    assert isinstance(free, Broken)
    assert (broken.billed, free.billed) == ("yes", "no")


def test_a_task_is_asked_for_by_its_id() -> None:
    asked: list[Ask] = []

    def world(ask: Ask) -> Response:
        asked.append(ask)
        return good([{"id": "893600000000000002", "status": "failed"}, {"id": HANDLE.id, "status": "submitted"}])

    assert play(KLING.status(HANDLE, target()), world) == Unfinished(None, stage="submitted")
    assert asked == [Request(method="GET", url="/tasks", query={"task_ids": HANDLE.id})]


@pytest.mark.parametrize("nothing", [good([]), bad(1203, 404), bad(1203, 200)])
def test_what_they_do_not_know_has_vanished_or_never_was(nothing: Response) -> None:
    assert status(nothing) == Vanished()
    assert found(nothing) is None


@pytest.mark.parametrize(
    "unclear",
    [
        good([{"id": "893600000000000002", "status": "submitted", "external_id": "job_2-1"}]),  # told of another
        bad(1201, 400),
        bad(1202, 404),
        bad(5000, 500),
        reply({"timestamp": 1, "status": 404, "error": "Not Found", "message": "", "path": "/tasks"}, 404),
        reply(b"<html>not found</html>", 404),
        reply(b"", 404),
        good(None),
    ],
)
def test_anything_else_is_no_evidence_of_absence(unclear: Response) -> None:
    with pytest.raises(Failed):
        status(unclear)
    with pytest.raises(Failed):
        found(unclear)


def test_a_lost_send_is_found_by_our_key() -> None:
    asked: list[Ask] = []

    def world(ask: Ask) -> Response:
        asked.append(ask)
        return good([{"id": HANDLE.id, "status": "processing", "external_id": KEY}])

    assert play(KLING.find(target(), KEY, 0.0), world) == HANDLE
    assert asked == [Request(method="GET", url="/tasks", query={"external_task_ids": KEY})]


def nowhere(_: Ask) -> Answer:
    raise AssertionError


@pytest.mark.parametrize("id", ["", "1,2", "a/b", "a b", "1&x=2", "1" * 65])
def test_a_handle_that_is_none_is_asked_for_nowhere(id: str) -> None:
    with pytest.raises(Failed):
        play(KLING.status(Handle(id), target()), nowhere)


def test_nothing_can_be_cancelled() -> None:
    assert play(KLING.cancel(HANDLE, target()), nowhere) == "cannot"


def test_the_terms_are_those_of_its_page() -> None:
    terms = KLING.terms(WORDS, target())
    assert (terms.doubt, terms.cancel, terms.link_ttl_s) == ("B", "no", 30 * 86_400.0)


def test_results_are_fetched_without_the_key() -> None:
    kept = AssetRef("k", "0" * 64, 1, "video/mp4")

    def world(ask: Ask) -> Answer:
        assert ask == Keep(url="https://host/v.mp4")
        return Kept(kept)

    assert play(KLING.download(Output("https://host/v.mp4"), HANDLE, target()), world) == kept
