"""Replicate's flows, played with bytes."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

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
from rushes.adapters.capabilities import Model, normalise
from rushes.adapters.replicate import FIELDS, MODELS, Replicate
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Role, Target, TextToVideo, VideoSpec

REPLICATE = Replicate()
MODEL = {model.id: model for model in MODELS}
SVD = "stability-ai/stable-video-diffusion"
HANDLE = Handle("kr2d2jhqbsrj60cjb2vtmekgh4")
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())


def picture(role: Role = "first_frame", content: bytes = b"pixel") -> Input:
    sha256 = hashlib.sha256(content).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, len(content), "image/png"))


def images(*inputs: Input, prompt: str = "") -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=ImageToVideo(), inputs=inputs)


def target(model: str = "prunaai/p-video") -> Target:
    return Target(provider="replicate", model=model, credential="REPLICATE_API_TOKEN")


def reply(status: int, body: object, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def submitted(
    spec: VideoSpec, model: str = "prunaai/p-video", answer: Response | None = None
) -> tuple[Handle, Request]:
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(201, {"id": HANDLE.id, "status": "starting"})

    prepared = {given.asset.sha256: f"https://api.replicate.com/v1/files/{n}" for n, given in enumerate(spec.inputs)}
    handle = play(REPLICATE.submit(spec, target(model), prepared, "job_1-1"), world)
    (only,) = sent
    return handle, only


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=answer)
    return failed.value


def outcome(**prediction: object) -> Outcome:
    answer = reply(200, {"id": HANDLE.id, "status": "processing", **prediction})
    return play(REPLICATE.status(HANDLE, target()), lambda _: answer)


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_official_model_is_created_by_name_with_its_defaults() -> None:
    handle, sent = submitted(normalise(WORDS, MODEL["prunaai/p-video"]))
    assert handle == HANDLE
    assert (sent.method, sent.url, sent.spends) == ("POST", "/models/prunaai/p-video/predictions", True)
    wanted = {"prompt": "a lake", "duration": 5, "aspect_ratio": "16:9", "resolution": "720p", "fps": 24}
    assert sent.body == {"input": wanted}
    assert sent.headers == {}  # no Prefer: it would keep the paid call open


def test_every_wish_has_its_name_at_the_model() -> None:
    wishes = {"duration_seconds": 12.0, "aspect_ratio": "9:16", "resolution": "fhd", "fps": 48.0, "seed": 7}
    spec = msgspec.structs.replace(WORDS, **wishes, generate_audio=True, enhance_prompt=False)
    spec = msgspec.structs.replace(spec, provider_options={"draft": True})
    _, sent = submitted(normalise(spec, MODEL["prunaai/p-video"]))
    wanted = {"prompt": "a lake", "duration": 12, "aspect_ratio": "9:16", "resolution": "1080p", "fps": 48, "seed": 7}
    assert sent.body == {"input": {**wanted, "save_audio": True, "prompt_upsampling": False, "draft": True}}


def test_a_community_model_is_created_by_its_pinned_version() -> None:
    spec = msgspec.structs.replace(images(picture()), seed=7, provider_options={"motion_bucket_id": 40})
    _, sent = submitted(normalise(spec, MODEL[SVD]), SVD)
    assert sent.url == "/predictions"
    assert isinstance(sent.body, dict)
    assert len(sent.body["version"]) == 64
    file = "https://api.replicate.com/v1/files/0"
    assert sent.body["input"] == {"seed": 7, "input_image": file, "motion_bucket_id": 40}


def test_pictures_go_where_their_role_says() -> None:
    spec = images(
        picture(), picture("last_frame", b"2"), picture("general", b"3"), picture("general", b"4"), prompt="p"
    )
    _, sent = submitted(spec, "bytedance/seedance-2.0")
    assert isinstance(sent.body, dict)
    files = [f"https://api.replicate.com/v1/files/{number}" for number in range(4)]
    wanted = {"image": files[0], "last_frame_image": files[1], "reference_images": files[2:]}
    assert sent.body["input"] == {"prompt": "p", **wanted}


def test_a_prompt_for_a_model_that_takes_none_is_refused_not_dropped() -> None:
    with pytest.raises(BadRequest) as refused:
        normalise(images(picture(), prompt="p"), MODEL[SVD])
    assert (refused.value.code, refused.value.field) == ("unsupported_feature", "prompt")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_whatever_the_data_admits_has_a_name_on_the_wire(model: Model) -> None:
    """Else a wish would pass validation and be dropped."""
    names = FIELDS[model.id]
    limits = {"duration_seconds": model.durations_s, "aspect_ratio": model.aspect_ratios}
    limits |= {"resolution": model.resolutions, "fps": model.frame_rates}
    admitted = {name for name, values in limits.items() if values} | set(model.fields) | set(model.roles)
    assert admitted == set(names) - {"prompt"}
    assert ("prompt" in names) == (model.prompt == "required")
    assert model.draws_seed == ("seed" in names)


def test_what_a_model_cannot_do_is_refused_before_anything_is_sent() -> None:
    for spec in (
        msgspec.structs.replace(WORDS, negative_prompt="rain"),
        msgspec.structs.replace(WORDS, duration_seconds=21.0),
        msgspec.structs.replace(WORDS, fps=30.0),
        images(picture("style"), prompt="p"),
    ):
        with pytest.raises(BadRequest):
            normalise(spec, MODEL["prunaai/p-video"])


def test_each_picture_is_uploaded_once() -> None:
    asked: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        asked.append(ask)
        return reply(201, {"id": "f", "urls": {"get": f"https://api.replicate.com/v1/files/{len(asked)}"}})

    first, last = picture(), picture("last_frame", b"2")
    prepared = play(REPLICATE.prepare(images(first, last, picture("general")), target()), world)
    assert [ask.url for ask in asked] == ["/files", "/files"]
    assert not any(ask.spends for ask in asked)
    name = f"{first.asset.sha256[:16]}.png"
    assert asked[0].body == [Part("content", Inline(first.asset, "bytes"), name, "image/png")]
    assert prepared[last.asset.sha256] == "https://api.replicate.com/v1/files/2"


def test_words_alone_need_no_preparing() -> None:
    assert not needs_prepare(REPLICATE, WORDS, target())
    assert needs_prepare(REPLICATE, images(picture()), target())


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
    assert failed.fault.detail == "replicate: - input.image: (address) cannot be read"


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


def test_an_unknown_prediction_has_vanished() -> None:
    gone = reply(404, {"detail": "The requested resource could not be found.", "status": 404})
    assert play(REPLICATE.status(HANDLE, target()), lambda _: gone) == Vanished()


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
    assert asked == [Request(method="POST", url=f"/predictions/{HANDLE.id}/cancel")]


def test_nothing_can_be_looked_up() -> None:
    def nowhere(_: Ask) -> Answer:
        raise AssertionError

    assert play(REPLICATE.find(target(), "job_1-1", 0.0), nowhere) is None
    assert REPLICATE.terms(WORDS, target()).doubt == "E"


def test_results_are_fetched_without_the_key() -> None:
    kept = AssetRef("k", "0" * 64, 1, "video/mp4")

    def world(ask: Ask) -> Answer:
        assert ask == Keep(url="https://replicate.delivery/a.mp4")
        return Kept(kept)

    output = Output("https://replicate.delivery/a.mp4")
    assert play(REPLICATE.download(output, HANDLE, target()), world) == kept
