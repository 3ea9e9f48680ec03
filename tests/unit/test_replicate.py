"""Replicate's flows, played with bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from rushes.adapters.base import (
    LIST_PAGES,
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
from rushes.adapters.catalogue import ModelSetting, rows_of, with_settings
from rushes.adapters.fit import fit, placed
from rushes.adapters.replicate import Replicate
from rushes.adapters.replicate_models import MODELS
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import (
    ROLES,
    ImageToVideo,
    Input,
    Kind,
    MultiImage,
    Operation,
    Role,
    Target,
    TextToVideo,
    VideoSpec,
    VideoToVideo,
)

REPLICATE = Replicate()
P_VIDEO, SEEDANCE = "prunaai/p-video", "bytedance/seedance-2.0"
VIDEO_01, WAN = "minimax/video-01", "wan-video/wan-2.7-r2v"
SVD = "stability-ai/stable-video-diffusion"
KINDS: dict[Role, Kind] = {role: kind for kind, roles in ROLES.items() for role in roles}
TYPES = {"image": "image/png", "video": "video/mp4", "audio": "audio/mpeg"}
FILES = "https://api.replicate.com/v1/files"
KEY = "job_1-1"
STYLES: tuple[Role, ...] = ("style",) * 5
CHARACTERS: tuple[Role, ...] = ("character",) * 5
HANDLE = Handle("kr2d2jhqbsrj60cjb2vtmekgh4")
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())


def given(role: Role = "first_frame", content: bytes = b"pixel", seconds: float | None = None) -> Input:
    kind, sha256 = KINDS[role], hashlib.sha256(content).hexdigest()
    asset = AssetRef(f"inputs/{sha256}", sha256, len(content), TYPES[kind])
    return Input(type=kind, role=role, asset=asset, duration_seconds=seconds)


def several(*roles: Role) -> tuple[Input, ...]:
    return tuple(given(role, str(number).encode(), 5.0) for number, role in enumerate(roles))


def asked(operation: Operation, *inputs: Input, prompt: str = "a lake", **wishes: Any) -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=operation, inputs=inputs, **wishes)


def images(*inputs: Input, prompt: str = "", **wishes: Any) -> VideoSpec:
    return asked(ImageToVideo(), *inputs, prompt=prompt, **wishes)


def target(model: str = "prunaai/p-video") -> Target:
    return Target(provider="replicate", model=model, credential="REPLICATE_API_TOKEN")


def reply(status: int, body: object, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def submitted(
    spec: VideoSpec, model: str = "prunaai/p-video", answer: Response | None = None, adapter: Replicate = REPLICATE
) -> tuple[Handle, Request]:
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(201, {"id": HANDLE.id, "status": "starting"})

    prepared = {given.asset.sha256: f"{FILES}/{number}" for number, given in enumerate(spec.inputs)}
    handle = play(adapter.submit(spec, target(model), prepared, KEY), world)
    (only,) = sent
    return handle, only


def body(spec: VideoSpec, model: str) -> object:
    """The model's own input as it is sent for what a caller asked for."""
    _, sent = submitted(fit(spec, rows_of(REPLICATE, model))[0], model)
    assert isinstance(sent.body, Mapping)
    return sent.body["input"]


def complaints(spec: VideoSpec, model: str) -> list[tuple[str, str]]:
    with pytest.raises(BadRequest) as refused:
        fit(spec, rows_of(REPLICATE, model))
    return [(fault.field, fault.detail) for fault in refused.value.faults]


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=answer)
    return failed.value


def outcome(**prediction: object) -> Outcome:
    answer = reply(200, {"id": HANDLE.id, "status": "processing", **prediction})
    return play(REPLICATE.status(HANDLE, target()), lambda _: answer)


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_official_model_is_created_by_name_with_its_defaults() -> None:
    handle, sent = submitted(fit(WORDS, rows_of(REPLICATE, P_VIDEO))[0])
    assert handle == HANDLE
    assert (sent.method, sent.url, sent.spends) == ("POST", "/v1/models/prunaai/p-video/predictions", True)
    assert sent.body == {"input": {"prompt": "a lake", "aspect_ratio": "16:9", "resolution": "720p", "fps": 24}}
    assert sent.headers == {}  # no Prefer: it would keep the paid call open


def test_a_community_model_is_created_by_its_pinned_version() -> None:
    _, sent = submitted(fit(images(given(), seed=7), rows_of(REPLICATE, SVD))[0], SVD)
    assert sent.url == "/v1/predictions"
    assert isinstance(sent.body, Mapping)
    assert sent.body["version"] == "3f0457e4619daac51203dedb472816fd4af51f3149fa7a9e0b5ffcf1b8172438"


def test_a_model_that_settings_add_may_name_its_version() -> None:
    class Richer(Replicate):
        capabilities = with_settings(REPLICATE, [ModelSetting(provider="replicate", id=f"me/mine:{'a' * 64}")])

    _, sent = submitted(WORDS, f"me/mine:{'a' * 64}", adapter=Richer())
    assert (sent.url, sent.body) == (
        "/v1/predictions",
        {"version": f"me/mine:{'a' * 64}", "input": {"prompt": "a lake"}},
    )


SHAPE = {"aspect_ratio": "16:9", "resolution": "720p"}
WISHES: dict[str, Any] = {
    "duration_seconds": 12.0,
    "aspect_ratio": "9:16",
    "resolution": "fhd",
    "fps": 48.0,
    "seed": 7,
    "generate_audio": True,
    "enhance_prompt": False,
    "provider_options": {"draft": True},
}
BODIES: list[tuple[str, VideoSpec, dict[str, object]]] = [
    (
        P_VIDEO,
        asked(TextToVideo(), **WISHES),
        {"prompt": "a lake", "duration": 12, "aspect_ratio": "9:16", "resolution": "1080p", "fps": 48, "seed": 7}
        | {"save_audio": True, "prompt_upsampling": False, "draft": True},
    ),
    (
        P_VIDEO,
        asked(TextToVideo(), given("narration")),
        {"prompt": "a lake", "fps": 24, "audio": f"{FILES}/0"} | SHAPE,
    ),
    (
        P_VIDEO,
        images(*several("first_frame", "last_frame"), prompt="p", duration_seconds=3.0),
        {"prompt": "p", "duration": 3, "resolution": "720p", "fps": 24}
        | {"image": f"{FILES}/0", "last_frame_image": f"{FILES}/1"},
    ),
    (
        SEEDANCE,
        asked(TextToVideo(), seed=9, generate_audio=False, duration_seconds=15.0),
        {"prompt": "a lake", "duration": 15, "generate_audio": False, "seed": 9} | SHAPE,
    ),
    (
        SEEDANCE,
        images(*several("first_frame", "last_frame"), prompt="p"),
        {"prompt": "p", "duration": 5, "generate_audio": True, "image": f"{FILES}/0", "last_frame_image": f"{FILES}/1"}
        | SHAPE,
    ),
    (
        SEEDANCE,
        asked(MultiImage(), *several("character", "style", "reference_audio", "composition")),
        {"prompt": "a lake", "duration": 5, "generate_audio": True, "reference_audios": [f"{FILES}/2"]}
        | {"reference_images": [f"{FILES}/0", f"{FILES}/1", f"{FILES}/3"]}
        | SHAPE,
    ),
    (
        SEEDANCE,
        asked(VideoToVideo(), *several("reference_video", "character", "reference_video")),
        {"prompt": "a lake", "duration": 5, "generate_audio": True, "reference_images": [f"{FILES}/1"]}
        | {"reference_videos": [f"{FILES}/0", f"{FILES}/2"]}
        | SHAPE,
    ),
    (VIDEO_01, asked(TextToVideo(), enhance_prompt=False), {"prompt": "a lake", "prompt_optimizer": False}),
    (VIDEO_01, images(given(), prompt="p"), {"prompt": "p", "first_frame_image": f"{FILES}/0"}),
    (VIDEO_01, asked(MultiImage(), given("character")), {"prompt": "a lake", "subject_reference": f"{FILES}/0"}),
    (
        WAN,
        asked(MultiImage(), given("style"), negative_prompt="rain", seed=3, provider_options={"shot_type": "multi"}),
        {"prompt": "a lake", "duration": 5, "aspect_ratio": "16:9", "resolution": "1080p", "seed": 3}
        | {"negative_prompt": "rain", "shot_type": "multi", "reference_images": [f"{FILES}/0"]},
    ),
    (
        WAN,
        asked(VideoToVideo(), given("reference_video"), aspect_ratio="square", duration_seconds=10.0, resolution="hd"),
        {"prompt": "a lake", "duration": 10, "aspect_ratio": "1:1", "resolution": "720p"}
        | {"reference_videos": [f"{FILES}/0"]},
    ),
    (
        SVD,
        images(given(), seed=7, provider_options={"motion_bucket_id": 40, "video_length": "14_frames_with_svd"}),
        {"seed": 7, "input_image": f"{FILES}/0", "motion_bucket_id": 40, "video_length": "14_frames_with_svd"},
    ),
]


@pytest.mark.parametrize(("model", "spec", "wanted"), BODIES)
def test_the_body_is_what_the_models_page_documents(model: str, spec: VideoSpec, wanted: object) -> None:
    assert body(spec, model) == wanted


def test_every_operation_of_every_model_has_its_body_above() -> None:
    shown = {(model, spec.operation.__struct_config__.tag) for model, spec, _ in BODIES}
    assert shown == {(model.id, name) for model in MODELS for name in model.operations}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.id} {model.operations[0]}")
def test_whatever_the_data_admits_has_a_name_on_the_wire(model: Model) -> None:
    """Else a wish would pass validation and be dropped."""
    limits = {"duration_seconds": model.durations_s, "aspect_ratio": model.aspect_ratios}
    limits |= {"resolution": model.resolutions, "fps": model.frame_rates}
    admitted = {name for name, values in limits.items() if values} | set(model.fields) | set(model.roles)
    assert admitted <= set(model.wire)
    assert ("prompt" in model.wire) == (model.prompt == "required")
    assert model.draws_seed == ("seed" in model.fields)


@pytest.mark.parametrize(
    ("name", "model"),
    [("p-video", P_VIDEO), ("seedance-2.0", SEEDANCE), ("video-01", VIDEO_01), ("wan-2.7-r2v", WAN), ("svd", SVD)],
)
def test_models_have_shorter_names(name: str, model: str) -> None:
    assert {row.id for row in rows_of(REPLICATE, name)} == {model}


@pytest.mark.parametrize(
    ("model", "role"),
    [(P_VIDEO, "first_frame"), (SEEDANCE, "first_frame"), (WAN, "character"), (SVD, "first_frame")],
)
def test_an_image_without_a_say_goes_where_the_model_has_a_place(model: str, role: Role) -> None:
    (image,) = placed([given("general")], rows_of(REPLICATE, model))
    assert image.role == role


# ── What is refused before anything is sent ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        (P_VIDEO, asked(TextToVideo(), negative_prompt="rain"), "negative_prompt"),
        (P_VIDEO, asked(TextToVideo(), duration_seconds=21.0), "duration_seconds"),
        (P_VIDEO, asked(TextToVideo(), fps=30.0), "fps"),
        (P_VIDEO, asked(TextToVideo(), provider_options={"save_audio": True}), "provider_options.save_audio"),
        (P_VIDEO, asked(TextToVideo(), given("narration"), duration_seconds=5.0), "duration_seconds"),
        (P_VIDEO, asked(TextToVideo(), given("narration", seconds=20.5)), "inputs[0]"),
        (P_VIDEO, images(given(), prompt="p", aspect_ratio="16:9"), "aspect_ratio"),
        (P_VIDEO, images(given("last_frame"), prompt="p"), "inputs"),
        (P_VIDEO, asked(MultiImage(), given("style")), "inputs"),
        (SEEDANCE, asked(TextToVideo(), duration_seconds=3.0), "duration_seconds"),
        (SEEDANCE, asked(TextToVideo(), given("reference_audio")), "inputs"),
        (SEEDANCE, images(*several("first_frame", "character"), prompt="p"), "inputs"),
        (SEEDANCE, asked(MultiImage(), *several(*STYLES, *CHARACTERS)), "inputs"),
        (SEEDANCE, asked(VideoToVideo(), given("source")), "inputs"),
        (SEEDANCE, asked(VideoToVideo(), *[given("reference_video", seconds=8.0)] * 2), "inputs"),
        (SEEDANCE, asked(VideoToVideo(), *[given("reference_video", seconds=1.0)] * 4), "inputs"),
        (VIDEO_01, asked(TextToVideo(), seed=1), "seed"),
        (VIDEO_01, asked(TextToVideo(), duration_seconds=5.0), "duration_seconds"),
        (WAN, asked(TextToVideo()), "operation"),
        (WAN, asked(MultiImage(), *several(*STYLES[:3], *CHARACTERS[:3])), "inputs"),
        (WAN, asked(MultiImage(), given("style"), duration_seconds=11.0), "duration_seconds"),
        (
            WAN,
            asked(MultiImage(), given("style"), provider_options={"shot_type": "wide"}),
            "provider_options.shot_type",
        ),
        (SVD, images(given(), prompt="p"), "prompt"),
        (SVD, asked(TextToVideo(), prompt="p"), "operation"),
        (SVD, images(given(), provider_options={"frames_per_second": 31}), "provider_options.frames_per_second"),
        (SVD, images(given(), provider_options={"motion_bucket_id": 0}), "provider_options.motion_bucket_id"),
        (SVD, images(given(), provider_options={"video_length": "long"}), "provider_options.video_length"),
        (SVD, images(given(), provider_options={"sizing_strategy": "fill"}), "provider_options.sizing_strategy"),
        (SVD, images(given(), provider_options={"cond_aug": "low"}), "provider_options.cond_aug"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_its_name(model: str, spec: VideoSpec, field: str) -> None:
    assert [name for name, _ in complaints(spec, model)] == [field]


def test_what_rushes_sets_itself_is_told_with_the_way_to_say_it() -> None:
    ((_, detail),) = complaints(asked(TextToVideo(), provider_options={"audio": "https://host/a.mp3"}), P_VIDEO)
    assert "give an input in the role 'narration' instead" in detail


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_file_is_uploaded_once_with_the_mark_of_the_attempt() -> None:
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return reply(201, file(str(len(sent)), {}))

    first, last = given(), given("last_frame", b"2")
    prepared = play(REPLICATE.prepare(images(first, last, given("character")), target(), KEY), world)
    assert [ask.url for ask in sent] == ["/v1/files", "/v1/files"]
    assert not any(ask.spends for ask in sent)
    name = f"{first.asset.sha256[:16]}.png"
    content = Part("content", Inline(first.asset, "bytes"), name, "image/png")
    assert sent[0].body == [Part("metadata", '{"rushes":"job_1-1"}'), content]
    assert prepared == {first.asset.sha256: f"{FILES}/1", last.asset.sha256: f"{FILES}/2"}


def test_words_alone_need_no_preparing() -> None:
    assert not needs_prepare(REPLICATE, WORDS, target())
    assert needs_prepare(REPLICATE, images(given()), target())


# ── What a create may answer ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_create_is_taken_whatever_else_its_answer_holds() -> None:
    odd = reply(201, {"id": HANDLE.id, "status": 7, "output": {"a": [1]}, "logs": None, "new": True})
    assert submitted(WORDS, answer=odd)[0] == HANDLE


@pytest.mark.parametrize("id", ["", "../cancel", "a/b", "a?b", "A" * 26, "a" * 65])
def test_an_id_that_is_none_leaves_the_create_in_doubt(id: str) -> None:
    assert not refused(reply(201, {"id": id})).certain


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "authentication_failed"), (402, "quota_exceeded"), (404, "not_found"), (422, "invalid_input")],
)
def test_a_refusal_is_certain_and_final(status: int, code: str) -> None:
    failed = refused(reply(status, {"title": "Sorry", "detail": "No.", "status": status}))
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (True, code, False)
    assert failed.fault.detail == "replicate: No."


def test_throttling_says_when_to_come_back() -> None:
    told = refused(reply(429, {"detail": "Request was throttled. Your rate limit resets in ~30s."}))
    assert (told.certain, told.fault.retryable, told.fault.retry_after_s) == (True, True, 30.0)
    assert refused(reply(429, {"detail": "Slow down."}, ratelimit_reset="12")).fault.retry_after_s == 12.0
    assert refused(reply(429, {"detail": "Slow down."}, ratelimit_reset="soon")).fault.retry_after_s is None
    assert refused(reply(429, {"detail": "resets in ~30s"}, retry_after="3")).fault.retry_after_s == 3.0


@pytest.mark.parametrize(
    "answer",
    [
        reply(500, {"detail": "Oops", "status": 500}),
        reply(502, b"<html>bad gateway</html>"),
        reply(401, b"<html>log in</html>"),
        reply(302, {"detail": "elsewhere"}),
        reply(201, b'{"id": "kr2d2'),
        reply(201, b"\xff\xfe"),
        reply(201, []),
    ],
)
def test_anything_unclear_leaves_the_create_in_doubt(answer: Response) -> None:
    assert not refused(answer).certain


def test_faults_hold_no_addresses() -> None:
    failed = refused(reply(422, {"detail": "- input.image: https://host/a.png?sig=secret\ncannot be read"}))
    assert failed.fault.detail == "replicate: - input.image: (left out) cannot be read"


# ── How it goes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["starting", "processing", "queued", "something new"])
def test_every_other_word_is_unfinished(word: str) -> None:
    assert outcome(status=word) == Unfinished(None, stage=word)


def test_percent_is_the_last_one_of_the_bar_in_the_logs() -> None:
    logs = "Using seed: 1\n  0%|          | 0/50\n 24%|██▍       | 12/50\n"
    assert outcome(logs=logs) == Unfinished(24, stage="processing")
    assert outcome(logs=logs + "100%|██████████| 50/50") == Unfinished(99, stage="processing")
    assert outcome(logs="loss fell by 50%") == Unfinished(None, stage="processing")
    assert outcome(logs=None) == Unfinished(None, stage="processing")


@pytest.mark.parametrize(
    ("output", "count"),
    [
        ("https://replicate.delivery/a.mp4", 1),
        (["https://replicate.delivery/a.mp4"], 1),
        (["https://replicate.delivery/a.mp4", "https://replicate.delivery/b.mp4"], 2),
        ({"video": "https://replicate.delivery/a.mp4", "thumbnail": "https://replicate.delivery/t.png"}, 1),
        ({"files": ["https://replicate.delivery/a.mp4"]}, 1),
    ],
)
def test_a_result_is_an_address_a_list_or_an_object(output: object, count: int) -> None:
    done = outcome(status="succeeded", output=output)
    assert isinstance(done, Done)
    assert done.outputs[0] == Output("https://replicate.delivery/a.mp4")
    assert len(done.outputs) == count


def test_a_result_that_was_removed_has_expired_and_was_paid() -> None:
    for gone in ({"output": None, "data_removed": True}, {"output": None}):
        broken = outcome(status="succeeded", **gone)
        assert isinstance(broken, Broken)
        assert (broken.fault.code, broken.billed) == ("asset_expired", "yes")


@pytest.mark.parametrize("output", [[], "words", 7, {"text": "words"}])
def test_a_success_without_a_file_is_a_failure_that_was_paid(output: object) -> None:
    broken = outcome(status="succeeded", output=output)
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.billed) == ("bad_answer", "yes")


@pytest.mark.parametrize(
    ("error", "code", "retryable", "their_code"),
    [
        ("The input or output was flagged as sensitive. (E005)", "moderated", False, "E005"),
        ("NSFW content detected", "moderated", False, ""),
        ("Out of capacity due to high demand (E003)", "generation_failed", True, "E003"),
        ("CUDA out of memory", "generation_failed", True, ""),
        ("Prediction failed to start (E004)", "generation_failed", True, "E004"),
        ("shapes do not match", "generation_failed", False, ""),
        (None, "generation_failed", False, ""),
    ],
)
def test_failures_are_told_apart_by_their_words(error: object, code: str, their_code: str, *, retryable: bool) -> None:
    broken = outcome(status="failed", error=error)
    assert isinstance(broken, Broken)
    fault = broken.fault
    assert (fault.code, fault.retryable, fault.provider_code) == (code, retryable, their_code)
    assert broken.billed == "unknown"


def test_cancelled_and_aborted_have_stopped() -> None:
    assert outcome(status="canceled") == Stopped("unknown")
    assert outcome(status="aborted") == Stopped("no")


def test_an_unknown_prediction_has_vanished_but_not_for_a_gateways_page() -> None:
    gone = reply(404, {"detail": "The requested resource could not be found.", "status": 404})
    assert play(REPLICATE.status(HANDLE, target()), lambda _: gone) == Vanished()
    with pytest.raises(Failed):
        play(REPLICATE.status(HANDLE, target()), lambda _: reply(404, b"<html>not here</html>"))


@pytest.mark.parametrize("id", ["", "../files", "a/b", "a b", "a?x=1", "A" * 26])
def test_a_handle_that_is_none_is_asked_for_nowhere(id: str) -> None:
    def nowhere(_: Ask) -> Answer:
        raise AssertionError

    with pytest.raises(Failed):
        play(REPLICATE.status(Handle(id), target()), nowhere)
    with pytest.raises(Failed):
        play(REPLICATE.cancel(Handle(id), target()), nowhere)


@pytest.mark.parametrize(
    ("status", "answer"),
    [("processing", "accepted"), ("starting", "accepted"), ("canceled", "accepted"), ("succeeded", "too_late")],
)
def test_a_cancel_is_accepted_unless_it_comes_too_late(status: str, answer: str) -> None:
    asked: list[Ask] = []

    def world(ask: Ask) -> Response:
        asked.append(ask)
        return reply(200, {"id": HANDLE.id, "status": status})

    assert play(REPLICATE.cancel(HANDLE, target()), world) == answer
    assert asked == [Request(method="POST", url=f"/v1/predictions/{HANDLE.id}/cancel")]


def test_results_are_fetched_without_the_key() -> None:
    kept = AssetRef("k", "0" * 64, 1, "video/mp4")

    def world(ask: Ask) -> Answer:
        assert ask == Keep(url="https://replicate.delivery/a.mp4")
        return Kept(kept)

    output = Output("https://replicate.delivery/a.mp4")
    assert play(REPLICATE.download(output, HANDLE, target()), world) == kept


# ── Finding a send whose answer was lost ──────────────────────────────────────────────────────────────────────────────


def file(id: str, metadata: object, created_at: str = "2026-11-21T07:00:00.000Z") -> dict[str, object]:
    return {"id": id, "metadata": metadata, "created_at": created_at, "urls": {"get": f"{FILES}/{id}"}}


def made(id: str, sent: object) -> dict[str, object]:
    urls = {"get": f"https://api.replicate.com/v1/predictions/{id}"}
    return {"id": id, "input": sent, "created_at": "2026-11-21T07:00:01.000Z", "urls": urls}


def found(
    files: Sequence[object], predictions: Sequence[object], requests: list[Request] | None = None
) -> Handle | None:
    """What a look finds in these lists."""

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        if requests is not None:
            requests.append(ask)
        return reply(200, {"results": files if ask.url == "/v1/files" else predictions, "next": None, "previous": None})

    return play(REPLICATE.find(target(), KEY, 0.0), world)


OURS, OTHERS = file("f1", {"rushes": KEY}), file("f2", {"rushes": "job_2-1"})
AT_OURS = {"prompt": "p", "image": f"{FILES}/f1"}


def test_only_a_request_with_a_file_of_ours_can_be_found_again() -> None:
    assert REPLICATE.terms(WORDS, target()).doubt == "E"
    assert REPLICATE.terms(images(given()), target()).doubt == "C"
    same = replace(REPLICATE.terms(images(given()), target()), doubt="E")
    assert same == REPLICATE.terms(WORDS, target())


def test_a_prediction_is_found_by_the_file_that_was_uploaded_for_it() -> None:
    requests: list[Request] = []
    others = [made("b" * 26, {"image": f"{FILES}/f2"}), made("c" * 26, {"prompt": "p"}), made("d" * 26, None)]
    assert found([OTHERS, OURS], [*others, made(HANDLE.id, AT_OURS)], requests) == HANDLE
    assert [(ask.url, ask.query, ask.spends) for ask in requests] == [
        ("/v1/files", {}, False),
        ("/v1/predictions", {"created_after": "2026-11-21T07:00:00.000Z"}, False),
    ]


def test_a_file_in_a_list_is_a_mark_as_well() -> None:
    assert found([OURS], [made(HANDLE.id, {"reference_images": [f"{FILES}/f0", f"{FILES}/f1"]})]) == HANDLE


def test_predictions_are_listed_from_the_first_of_our_files_on() -> None:
    requests: list[Request] = []
    later = file("f0", {"rushes": KEY}, "2026-11-21T07:00:09.000Z")
    found([later, OURS], [], requests)
    assert requests[-1].query == {"created_after": OURS["created_at"]}


@pytest.mark.parametrize(
    ("files", "predictions"),
    [
        ([], [made(HANDLE.id, AT_OURS)]),
        ([OTHERS], [made(HANDLE.id, AT_OURS)]),
        ([file("f1", {})], [made(HANDLE.id, AT_OURS)]),
        ([file("f1", None)], [made(HANDLE.id, AT_OURS)]),
        ([file("f1", {"rushes": "job_1-11"})], [made(HANDLE.id, AT_OURS)]),
        ([OURS], []),
        ([OURS], [made(HANDLE.id, {})]),  # an hour after its end
        ([OURS], [made(HANDLE.id, {"image": f"{FILES}/f11"})]),
        ([OURS], [made(HANDLE.id, {"prompt": f"like {FILES}/f1"})]),
        ([OURS], [made(HANDLE.id, AT_OURS), made("b" * 26, AT_OURS)]),  # two of them are no evidence
    ],
)
def test_nothing_less_than_the_mark_is_taken(files: Sequence[object], predictions: Sequence[object]) -> None:
    assert found(files, predictions) is None


def test_a_prediction_that_is_listed_twice_is_one() -> None:
    """Pages move while they are read."""
    assert found([OURS], [made(HANDLE.id, AT_OURS), made(HANDLE.id, AT_OURS)]) == HANDLE


def test_lists_are_read_page_after_page_and_not_for_ever() -> None:
    more, requests = f"{FILES}?cursor=more", list[str]()

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        requests.append(ask.url)
        return reply(200, {"results": [], "next": more})

    assert play(REPLICATE.find(target(), KEY, 0.0), world) is None
    assert requests == ["/v1/files", *[more] * (LIST_PAGES - 1)]


@pytest.mark.parametrize(
    "broken", [reply(200, {}), reply(200, b"{"), reply(502, b"<html>"), reply(200, {"results": [{}]})]
)
def test_a_list_that_cannot_be_read_never_says_that_nothing_is_there(broken: Response) -> None:
    with pytest.raises(Failed) as failed:
        play(REPLICATE.find(target(), KEY, 0.0), lambda _: broken)
    assert failed.value.fault.retryable
    with pytest.raises(Failed):
        play(
            REPLICATE.find(target(), KEY, 0.0),
            lambda ask: reply(200, {"results": [OURS]}) if ask == Request(method="GET", url="/files") else broken,
        )


def test_no_failure_is_said_to_be_free_so_no_second_attempt_shares_its_files() -> None:
    """Files are kept for another attempt only after a failure that nothing was billed for: their mark would be old."""
    for error in ("(E005)", "high demand (E003)", "CUDA out of memory", None):
        broken = outcome(status="failed", error=error)
        assert isinstance(broken, Broken)
        assert broken.billed != "no"
