"""Omni's flows, played with bytes."""

from __future__ import annotations

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
    Request,
    Response,
    Stopped,
    Unfinished,
    Vanished,
    play,
)
from rushes.adapters.catalogue import rows_of
from rushes.adapters.fit import estimate, fit
from rushes.adapters.omni import Omni
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import (
    Extend,
    ImageToVideo,
    Input,
    MultiImage,
    Operation,
    Role,
    Target,
    TextToVideo,
    VideoSpec,
    VideoToVideo,
)

OMNI = Omni()
HANDLE = Handle("v1_abcdefgh")
MODEL = "gemini-omni-1.1-flash"
TARGET = Target(provider="omni", model=MODEL, credential="GOOGLE_API_KEY")
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
URI = "https://generativelanguage.googleapis.com/v1beta/files/abc:download?alt=media"
ASSET = AssetRef("k", "0" * 64, 1, "video/mp4")


def picture(role: Role = "first_frame", name: str = "p", size_bytes: int = 5) -> Input:
    return Input(role=role, asset=AssetRef(f"inputs/{name}", name * 64, size_bytes, "image/png"))


def clip(seconds: float = 5.0, size_bytes: int = 5) -> Input:
    asset = AssetRef("inputs/v", "c" * 64, size_bytes, "video/mp4")
    return Input(type="video", role="source", asset=asset, duration_seconds=seconds)


def spec(operation: Operation, *inputs: Input, **fields: Any) -> VideoSpec:
    return VideoSpec(prompt="p", operation=operation, inputs=inputs, **fields)


def reply(body: object, status: int = 200) -> Response:
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode())


def error(code: int, message: str, word: str = "INVALID_ARGUMENT", **more: object) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "status": word, **more}}


def submitted(asked: VideoSpec, model: str = MODEL, answer: Response | None = None) -> tuple[Handle, Any]:
    sent: list[Request] = []

    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply({"id": HANDLE.id, "status": "in_progress"})

    fitted, _ = fit(asked, rows_of(OMNI, model))
    handle = play(OMNI.submit(fitted, replace(TARGET, model=model), {}, "job_1-1"), world)
    (only,) = sent
    return handle, only


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=answer)
    return failed.value


def status(answer: Response) -> Outcome:
    return play(OMNI.status(HANDLE, TARGET), lambda _: answer)


def outcome(word: str, **more: object) -> Outcome:
    return status(reply({"id": HANDLE.id, "status": word, **more}))


def steps(*content: dict[str, object]) -> list[dict[str, object]]:
    return [{"type": "thought", "signature": "x"}, {"type": "model_output", "content": list(content)}]


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_go_in_the_background_with_their_defaults() -> None:
    handle, sent = submitted(WORDS)
    assert handle == HANDLE
    assert (sent.method, sent.url, sent.spends) == ("POST", "/v1/interactions", True)
    form = {"type": "video", "delivery": "uri", "duration": "5s", "aspect_ratio": "16:9", "resolution": "720p"}
    assert sent.body == {
        "model": MODEL,
        "input": [{"type": "user_input", "content": [{"type": "text", "text": "a lake"}]}],
        "response_format": form,
        "generation_config": {"video_config": {"task": "text_to_video"}},
        "background": True,
        "store": True,
    }


def test_every_wish_has_its_name_on_the_wire() -> None:
    asked = replace(WORDS, duration_seconds=15.0, aspect_ratio="portrait", resolution="uhd")
    form = submitted(asked, "gemini-omni-1.2-flash")[1].body["response_format"]
    assert (form["duration"], form["aspect_ratio"], form["resolution"]) == ("15s", "9:16", "4k")


def file(given: Input) -> dict[str, object]:
    return {"type": given.type, "data": Inline(given.asset, "base64"), "mime_type": given.asset.media_type}


@pytest.mark.parametrize(
    ("asked", "task"),
    [
        (spec(ImageToVideo(), picture()), "image_to_video"),
        (spec(MultiImage(), picture("character"), picture("style", "q")), "reference_to_video"),
        (spec(VideoToVideo(), clip()), "edit"),
        (spec(Extend(), clip()), "extend"),
    ],
)
def test_each_operation_is_a_task_with_its_files_behind_the_words(asked: VideoSpec, task: str) -> None:
    body = submitted(asked)[1].body
    assert body["generation_config"] == {"video_config": {"task": task}}
    (turn,) = body["input"]
    assert turn == {"type": "user_input", "content": [{"type": "text", "text": "p"}, *map(file, asked.inputs)]}
    assert ("duration" in body["response_format"]) == (task not in ("edit", "extend"))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (replace(WORDS, duration_seconds=11.0), "duration_seconds"),
        (replace(WORDS, duration_seconds=2.0), "duration_seconds"),
        (replace(WORDS, aspect_ratio="square"), "aspect_ratio"),
        (replace(WORDS, resolution="480p"), "resolution"),
        (replace(WORDS, seed=7), "seed"),
        (replace(WORDS, negative_prompt="rain"), "negative_prompt"),
        (replace(WORDS, generate_audio=False), "generate_audio"),
        (replace(WORDS, prompt=" "), "prompt"),
        (replace(WORDS, provider_options={"duration": "5s"}), "provider_options.duration"),
        (spec(ImageToVideo(), picture(), picture("last_frame", "q")), "inputs"),
        (spec(MultiImage(), *(picture("style", f"{n}") for n in range(7))), "inputs"),
        (spec(ImageToVideo(), picture(size_bytes=7_000_001)), "inputs[0]"),
        (spec(VideoToVideo(), clip(11.0)), "inputs[0]"),
        (spec(VideoToVideo(), clip(size_bytes=14_000_001)), "inputs[0]"),
        (spec(Extend(), clip(), duration_seconds=5.0), "duration_seconds"),
    ],
)
def test_what_the_wire_cannot_say_is_refused_by_name(asked: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        submitted(asked)
    assert wrong.value.field == field


def test_what_it_costs_is_not_known_and_not_called_free() -> None:
    for row in OMNI.capabilities.models:
        assert (estimate(WORDS, row), row.free) == (None, False)


# ── What is answered ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["queued", "in_progress", "pondering"])
def test_it_is_waited_for(word: str) -> None:
    assert outcome(word) == Unfinished(stage=word)


def test_a_clip_at_an_address_is_asked_for_with_the_key() -> None:
    done = outcome("completed", steps=steps({"type": "text", "text": "Here."}, {"type": "video", "uri": URI}))
    assert done == Done((Output(URI),))

    def world(ask: Ask) -> Answer:
        assert ask == Keep(url=URI, with_credential=True)
        return Kept(ASSET)

    assert play(OMNI.download(Output(URI), HANDLE, TARGET), world) == ASSET


def test_a_clip_in_the_answer_is_kept_out_of_it() -> None:
    here: dict[str, object] = {"type": "video", "data": "QUJD", "mime_type": "video/webm"}
    done = outcome("completed", steps=steps({"type": "text", "text": "Here."}, here))
    assert done == Done((Output("inline:1:1", "video/webm"),))

    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Keep)
        assert ask.request is not None
        assert (ask.request.method, ask.request.url) == ("GET", f"/v1/interactions/{HANDLE.id}")
        assert (ask.place, ask.media_type) == (("steps", 1, "content", 1, "data"), "video/webm")
        return Kept(ASSET)

    assert play(OMNI.download(Output("inline:1:1", "video/webm"), HANDLE, TARGET), world) == ASSET


def test_all_clips_of_all_steps_are_results_and_what_came_in_is_not() -> None:
    two = [*steps({"type": "video", "uri": URI}), *steps({"type": "video", "uri": f"{URI}&b"})]
    given = {"type": "user_input", "content": [{"type": "video", "uri": "https://x/in.mp4"}]}
    done = outcome("completed", steps=[given, *two])
    assert isinstance(done, Done)
    assert [output.url for output in done.outputs] == [URI, f"{URI}&b"]


@pytest.mark.parametrize("more", [{}, {"steps": None}, {"steps": steps({"type": "text", "text": "I cannot."})}])
def test_to_end_without_a_clip_is_what_its_filters_do(more: dict[str, object]) -> None:
    broken = outcome("completed", **more)
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.billed) == ("moderated", "unknown")
    assert ("I cannot." in broken.fault.detail) == bool(more.get("steps"))


@pytest.mark.parametrize(
    ("word", "more", "code"),
    [
        ("failed", {"errors": [{"code": "internal", "message": "Something broke."}]}, "generation_failed"),
        ("failed", {"error": {"code": 13, "message": "Something broke."}}, "generation_failed"),
        ("failed", {"errors": [{"message": "It goes against our usage guidelines."}]}, "moderated"),
        ("failed", {}, "generation_failed"),
        ("incomplete", {}, "generation_failed"),
        ("budget_exceeded", {}, "generation_failed"),
        ("requires_action", {}, "generation_failed"),
        ("requires_continuation", {}, "generation_failed"),
    ],
)
def test_what_failed_is_told_with_why(word: str, more: dict[str, object], code: str) -> None:
    broken = outcome(word, **more)
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.fault.provider_code) == (code, word)
    assert ("Something broke." in broken.fault.detail) == ("broke" in json.dumps(more))


def test_a_cancel_is_told_as_such() -> None:
    assert outcome("cancelled") == Stopped()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (reply({"id": HANDLE.id, "status": "cancelled"}), "accepted"),
        (reply({"id": HANDLE.id, "status": "in_progress"}), "accepted"),
        (reply({"id": HANDLE.id, "status": "completed"}), "too_late"),
        (reply(error(400, "It has ended.", "FAILED_PRECONDITION"), 400), "too_late"),
    ],
)
def test_a_cancel_is_answered(answer: Response, told: str) -> None:
    sent: list[Ask] = []

    def world(ask: Ask) -> Answer:
        sent.append(ask)
        return answer

    assert play(OMNI.cancel(HANDLE, TARGET), world) == told
    (asked,) = sent
    assert isinstance(asked, Request)
    assert (asked.method, asked.url, asked.body) == ("POST", f"/v1/interactions/{HANDLE.id}/cancel", None)


def test_one_that_is_not_known_has_vanished_and_a_gateways_page_says_nothing() -> None:
    assert status(reply(error(404, "Not found.", "NOT_FOUND"), 404)) == Vanished()
    with pytest.raises(Failed):
        status(reply(b"<html>", 404))


# ── Errors, the same for all of Google's ──────────────────────────────────────────────────────────────────────────────

RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
HELP = {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"url": "https://x"}]}


@pytest.mark.parametrize(
    ("status_code", "body", "code"),
    [
        (400, error(400, "Invalid value at duration."), "invalid_input"),
        (400, error(400, "API key not valid. Please pass a valid API key."), "authentication_failed"),
        (400, error(400, "The prompt goes against our usage guidelines. Support codes: 1"), "moderated"),
        (
            401,
            error(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED"),
            "authentication_failed",
        ),
        (403, error(403, "Permission denied.", "PERMISSION_DENIED"), "authentication_failed"),
        (404, error(404, "models/x is not found for API version v1.", "NOT_FOUND"), "model_unknown"),
        (404, error(404, "This model models/x is no longer available.", "NOT_FOUND"), "model_retired"),
        (404, error(404, "Requested entity was not found.", "NOT_FOUND"), "not_found"),
        (429, error(429, "Quota exceeded.", "RESOURCE_EXHAUSTED"), "rate_limited"),
    ],
)
@pytest.mark.parametrize("form", ["alone", "in a list", "under 200"])
def test_an_error_is_certain_however_it_comes(status_code: int, body: dict[str, object], code: str, form: str) -> None:
    answer = reply([body] if form == "in a list" else body, 200 if form == "under 200" else status_code)
    failed = refused(answer)
    assert (failed.fault.code, failed.certain, failed.fault.retryable) == (code, True, code == "rate_limited")


@pytest.mark.parametrize("status_code", [499, 500, 503, 504])
@pytest.mark.parametrize("under", [True, False])
def test_a_servers_own_trouble_leaves_it_in_doubt(status_code: int, under: bool) -> None:
    failed = refused(reply(error(status_code, "Oops.", "INTERNAL"), 200 if under else status_code))
    assert (failed.fault.code, failed.fault.retryable, failed.certain) == ("provider_unavailable", True, False)


def test_a_limit_says_how_long_to_wait_in_its_details() -> None:
    body = error(429, "Quota exceeded.", "RESOURCE_EXHAUSTED", details=[HELP, RETRY])
    assert refused(reply(body, 429)).fault.retry_after_s == 34.5
    with_header = replace(reply(body, 429), headers={"retry-after": "7"})
    assert refused(with_header).fault.retry_after_s == 7.0
    odd = error(429, "Quota exceeded.", details=[{**RETRY, "retryDelay": "soon"}])
    assert refused(reply(odd, 429)).fault.retry_after_s is None


@pytest.mark.parametrize("body", [{"error": {"code": 9, "message": "m"}}, {"error": "text"}, [], [1], "x", {"id": 7}])
def test_what_is_neither_an_id_nor_an_error_leaves_it_in_doubt(body: object) -> None:
    failed = refused(reply(body))
    assert (failed.fault.code, failed.certain) == ("bad_answer", False)


def test_an_access_token_or_a_key_that_is_repeated_is_not_told() -> None:
    body = error(400, "Bad: AIzaSyA-secret and ya29.a0Af-secret at https://x/y?key=secret")
    assert "secret" not in refused(reply(body, 400)).fault.detail
