"""xAI's flows, played with bytes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

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
    Request,
    Response,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.catalogue import route, rows_of
from rushes.adapters.fit import estimate, fit
from rushes.adapters.xai import Xai
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle, Money
from rushes.video import (
    JSON,
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

XAI = Xai()
OLDER, NEWER = "grok-imagine-video", "grok-imagine-video-1.5"
HANDLE = Handle("0d9f3a51-77aa-9c10-b2d4-5e6f708192a3")
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
TARGET = Target(provider="xai", model=OLDER, credential="XAI_API_KEY")
RESULT = "https://vidgen.x.ai/xai-vidgen-bucket/xai-video-a.mp4"


def picture(role: Role = "first_frame", content: bytes = b"pixel", media_type: str = "image/png") -> Input:
    sha256 = hashlib.sha256(content).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, len(content), media_type))


def clip(seconds: float | None = 5.0, media_type: str = "video/mp4") -> Input:
    asset = AssetRef("inputs/clip", "cd" * 32, 99, media_type)
    return Input(type="video", role="source", asset=asset, duration_seconds=seconds)


def asking(operation: Operation, *inputs: Input, prompt: str = "it moves", **fields: Any) -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=operation, inputs=inputs, **fields)


def words(**fields: Any) -> VideoSpec:
    return asking(TextToVideo(), **fields)


def framed(*inputs: Input, **fields: Any) -> VideoSpec:
    return asking(ImageToVideo(), *inputs, **fields)


def by_images(*inputs: Input, **fields: Any) -> VideoSpec:
    return asking(MultiImage(), *inputs, **fields)


def edited(*inputs: Input, **fields: Any) -> VideoSpec:
    return asking(VideoToVideo(), *inputs, **fields)


def extended(*inputs: Input, **fields: Any) -> VideoSpec:
    return asking(Extend(), *inputs, **fields)


def fitted(spec: VideoSpec, model: str = OLDER) -> VideoSpec:
    return fit(spec, rows_of(XAI, model))[0]


def reply(status: int, body: object, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def nowhere(_: Ask) -> Answer:
    raise AssertionError


def submitted(spec: VideoSpec, answer: Response | None = None, model: str = OLDER) -> tuple[Handle, Request]:
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(200, {"request_id": HANDLE.id})

    handle = play(XAI.submit(spec, msgspec.structs.replace(TARGET, model=model), {}, "job_1-1"), world)
    (only,) = sent
    return handle, only


def posted(spec: VideoSpec, model: str = OLDER) -> tuple[str, object]:
    """The address and the body, once the request was fitted to the model."""
    _, sent = submitted(fitted(spec, model), model=model)
    return sent.url, sent.body


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer)
    return failed.value


def asked(answer: Response) -> Outcome:
    return play(XAI.status(HANDLE, TARGET), lambda _: answer)


def broken(answer: Response) -> Broken:
    outcome = asked(answer)
    assert isinstance(outcome, Broken)
    return outcome


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clip_is_started_by_one_paid_post() -> None:
    handle, sent = submitted(fitted(WORDS))
    assert handle == HANDLE
    assert (sent.method, sent.url, sent.spends) == ("POST", "/videos/generations", True)


ONE, TWO = picture("style", b"1"), picture("character", b"2", "image/webp")
FRAME = picture()
USUAL = {"duration": 8, "resolution": "480p"}
SQUARE = {"duration": 8, "resolution": "720p", "aspect_ratio": "1:1"}


@pytest.mark.parametrize(
    ("spec", "path", "body"),
    [
        (words(), "generations", USUAL),
        (
            words(duration_seconds=15.0, aspect_ratio="portrait", resolution="hd"),
            "generations",
            {"duration": 15, "aspect_ratio": "9:16", "resolution": "720p"},
        ),
        (words(resolution="848x480"), "generations", {**USUAL, "aspect_ratio": "16:9"}),
        (words(aspect_ratio="1:1", resolution="720p"), "generations", SQUARE),
        (framed(FRAME), "generations", {**USUAL, "image": {"url": Inline(FRAME.asset)}}),
        (
            by_images(TWO, ONE),
            "generations",
            {**USUAL, "reference_images": [{"url": Inline(TWO.asset)}, {"url": Inline(ONE.asset)}]},
        ),
        (edited(clip()), "edits", {"video": {"url": Inline(clip().asset)}}),
        (extended(clip()), "extensions", {"video": {"url": Inline(clip().asset)}, "duration": 6}),
        (
            extended(clip(), duration_seconds=10.0),
            "extensions",
            {"video": {"url": Inline(clip().asset)}, "duration": 10},
        ),
        (words(provider_options={"user": "u-7"}), "generations", {**USUAL, "user": "u-7"}),
        (
            edited(clip(), provider_options={"user": "u-7", "storage_filename": "a.mp4"}),
            "edits",
            {"video": {"url": Inline(clip().asset)}, "user": "u-7", "storage_options": {"filename": "a.mp4"}},
        ),
        (
            words(provider_options={"storage_expires_after": 3_600}),
            "generations",
            {**USUAL, "storage_options": {"filename": "rushes.mp4", "expires_after": 3_600}},
        ),
    ],
)
def test_every_wish_has_its_place_on_the_wire(spec: VideoSpec, path: str, body: dict[str, object]) -> None:
    """The bodies as the provider's page documents them. Without a ratio the first frame decides the shape."""
    wanted = {"model": OLDER, "prompt": "it moves", **body}
    assert posted(spec) == (f"/videos/{path}", wanted)


def test_only_the_newer_model_makes_1080p_and_speaks_with_voices() -> None:
    assert posted(words(resolution="fhd"), NEWER) == (
        "/videos/generations",
        {"model": NEWER, "prompt": "it moves", "duration": 8, "resolution": "1080p"},
    )
    _, body = posted(by_images(ONE, provider_options={"voice_2": "ara", "voice_1": "eve"}), NEWER)
    assert isinstance(body, dict)
    assert body["reference_audios"] == [{"voice_id": "eve"}, {"voice_id": "ara"}]


def option(name: str, value: JSON) -> dict[str, Any]:
    return {"provider_options": {name: value}}


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        (OLDER, words(negative_prompt="rain"), "negative_prompt"),
        (OLDER, words(seed=7), "seed"),
        (OLDER, words(fps=24.0), "fps"),
        (OLDER, words(generate_audio=False), "generate_audio"),
        (OLDER, words(duration_seconds=16.0), "duration_seconds"),
        (OLDER, words(duration_seconds=2.5), "duration_seconds"),
        (OLDER, words(aspect_ratio="21:9"), "aspect_ratio"),
        (OLDER, words(resolution="1080p"), "resolution"),
        (OLDER, words(resolution="854x480"), "resolution"),
        (OLDER, words(resolution="720x720"), "resolution"),
        (OLDER, words(prompt="a" * 4_097), "prompt"),
        (OLDER, words(**option("image", "x")), "provider_options.image"),
        (OLDER, words(**option("storage_options", {"filename": "a"})), "provider_options.storage_options"),
        (OLDER, words(**option("storage_expires_after", 3_599)), "provider_options.storage_expires_after"),
        (OLDER, words(**option("storage_expires_after", 2_592_001)), "provider_options.storage_expires_after"),
        (OLDER, by_images(ONE, **option("voice_1", "eve")), "provider_options.voice_1"),
        (NEWER, words(**option("voice_1", "eve")), "provider_options.voice_1"),
        (NEWER, by_images(ONE, resolution="1080p"), "resolution"),
        (NEWER, edited(clip()), "inputs"),
        (NEWER, extended(clip()), "operation"),
        (OLDER, framed(picture("first_frame"), picture("last_frame")), "inputs"),
        (OLDER, framed(picture("first_frame"), picture("style")), "inputs"),
        (OLDER, framed(picture("first_frame"), picture("first_frame")), "inputs"),
        (OLDER, framed(picture(media_type="image/gif")), "inputs[0]"),
        (OLDER, by_images(*[ONE] * 4, *[TWO] * 4), "inputs"),
        (OLDER, framed(picture(), prompt=""), "prompt"),
        (OLDER, edited(clip(), duration_seconds=5.0), "duration_seconds"),
        (OLDER, edited(clip(), resolution="720p"), "resolution"),
        (OLDER, edited(clip(), aspect_ratio="16:9"), "aspect_ratio"),
        (OLDER, edited(clip(8.8)), "inputs[0]"),
        (OLDER, edited(clip(media_type="video/quicktime")), "inputs[0]"),
        (OLDER, edited(clip(), ONE), "inputs"),
        (OLDER, extended(clip(1.9)), "inputs[0]"),
        (OLDER, extended(clip(15.1)), "inputs[0]"),
        (OLDER, extended(clip(), duration_seconds=1.0), "duration_seconds"),
        (OLDER, extended(clip(), duration_seconds=11.0), "duration_seconds"),
        (OLDER, extended(clip(), resolution="480p"), "resolution"),
        (OLDER, extended(clip(), **option("user", "u-7")), "provider_options.user"),
    ],
)
def test_what_the_wire_cannot_say_is_refused_by_name(model: str, spec: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        fitted(spec, model)
    assert refused.value.field == field


def test_seven_references_and_clips_of_the_longest_kind_are_taken() -> None:
    assert len(fitted(by_images(*[ONE] * 4, *[TWO] * 3)).inputs) == 7
    assert fitted(edited(clip(8.7))).duration_seconds is None
    assert fitted(extended(clip(15.0))).duration_seconds == 6.0
    assert fitted(edited(clip(None))).inputs[0].duration_seconds is None


@pytest.mark.parametrize(
    ("model", "spec", "micro_usd"),  # by the page's prices
    [
        (OLDER, words(), 400_000),
        (OLDER, words(duration_seconds=15.0, resolution="720p"), 1_050_000),
        (OLDER, framed(picture(), duration_seconds=1.0), 52_000),
        (OLDER, by_images(*[ONE] * 7, duration_seconds=1.0), 64_000),
        (NEWER, words(duration_seconds=1.0), 80_000),
        (NEWER, framed(picture(), duration_seconds=2.0, resolution="1080p"), 510_000),
        (NEWER, by_images(ONE, TWO, duration_seconds=1.0, resolution="720p"), 160_000),
    ],
)
def test_an_estimate_is_dated_and_exact(model: str, spec: VideoSpec, micro_usd: int) -> None:
    money = estimate(*fit(spec, rows_of(XAI, model)))
    assert money is not None
    assert (money.micro_usd, money.as_of) == (micro_usd, "2026-11-06")


def test_what_a_changed_clip_costs_is_unknown_and_not_nothing() -> None:
    for spec in (edited(clip()), extended(clip())):
        assert estimate(*fit(spec, rows_of(XAI, OLDER))) is None


@pytest.mark.parametrize(
    ("name", "model"),
    [("xai", OLDER), ("grok", OLDER), (OLDER, OLDER), (f"grok/{NEWER}-preview", NEWER)],
)
def test_it_answers_to_its_other_names(name: str, model: str) -> None:
    provider, rows = route(name, {"xai": XAI})
    assert (provider, {row.id for row in rows}) == ("xai", {model})


def test_nothing_needs_preparing() -> None:
    assert not needs_prepare(XAI, WORDS, TARGET)
    assert not needs_prepare(XAI, edited(clip()), TARGET)


# ── What a submit may answer ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_submit_is_taken_whatever_else_its_answer_holds() -> None:
    odd = reply(200, {"request_id": HANDLE.id, "status": 7, "video": [], "new": True})
    assert submitted(WORDS, odd)[0] == HANDLE


@pytest.mark.parametrize("id", ["", "short", "../files/aaaa", "aaaa/bbbb", "aaaa?bbbb", "aaaa bbbb", "a" * 129])
def test_an_id_that_is_none_leaves_the_submit_in_doubt(id: str) -> None:
    assert not refused(reply(200, {"request_id": id})).certain


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (400, "Incorrect API key provided.", "authentication_failed"),
        (400, "The duration is too long.", "invalid_input"),
        (400, "Zero Data Retention teams must provide output.upload_url.", "unsupported_feature"),
        (400, "Rejected by moderation.", "moderated"),
        (401, "No credentials.", "authentication_failed"),
        (403, "No permission.", "authentication_failed"),
        (403, "Content violates usage guidelines.", "moderated"),
        (404, "No such model.", "not_found"),
        (415, "Not JSON.", "invalid_input"),
        (422, "duration: invalid type", "invalid_input"),
    ],
)
def test_a_refusal_is_certain_and_final(status: int, text: str, code: str) -> None:
    failed = refused(reply(status, {"code": "invalid-argument", "error": text}))
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (True, code, False)
    assert failed.fault.provider_code == "invalid-argument"


@pytest.mark.parametrize(
    ("body", "their_code"),
    [
        ({"code": "invalid-argument", "error": "Too long."}, "invalid-argument"),
        ({"error": {"message": "Too long.", "type": "t", "param": None, "code": "too-long"}}, "too-long"),
        ({"error": {"message": "Too long.", "code": None}}, ""),
        ({"error": "Too long."}, ""),
    ],
)
def test_errors_have_three_shapes(body: object, their_code: str) -> None:
    fault = refused(reply(400, body)).fault
    assert (fault.detail, fault.provider_code) == ("xai: Too long.", their_code)


def test_too_many_requests_are_tried_again() -> None:
    told = refused(reply(429, {"code": "x", "error": "Slow down."}))
    assert (told.certain, told.fault.code, told.fault.retryable) == (True, "rate_limited", True)
    assert told.fault.retry_after_s is None
    assert refused(reply(429, {"code": "x", "error": "Slow down."}, retry_after="3")).fault.retry_after_s == 3.0


@pytest.mark.parametrize(
    "answer",
    [
        reply(500, {"code": "internal", "error": "Oops"}),
        reply(502, b"<html>bad gateway</html>"),
        reply(504, {"error": "Timeout"}),
        reply(400, b"<html>bad request</html>"),
        reply(400, {"detail": "of another"}),
        reply(302, {"error": "elsewhere"}),
        reply(200, b'{"request_id": "0d9f'),
        reply(200, b"\xff\xfe"),
        reply(200, []),
        reply(202, {"status": "pending"}),
    ],
)
def test_anything_unclear_leaves_the_submit_in_doubt(answer: Response) -> None:
    assert not refused(answer).certain


@pytest.mark.parametrize(
    "secret",
    ["https://host/a.png?sig=s", "data:image/png;base64,AAAA", "xai-AbCd123456789", HANDLE.id, HANDLE.id.upper()],
)
def test_faults_hold_no_addresses_keys_or_ids(secret: str) -> None:
    fault = refused(reply(422, {"code": secret, "error": f"Cannot\nread {secret} here"})).fault
    assert fault.detail == "xai: Cannot read (left out) here"
    assert fault.provider_code == ""


def test_nothing_that_is_said_about_a_key_is_repeated() -> None:
    fault = refused(reply(400, {"code": "c", "error": "Incorrect API key provided: ab***yz."})).fault
    assert fault.detail == "xai: it refuses the key."


# ── How it goes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "percent"),
    [
        (b'{"status":"pending","progress":18}', 18),
        (b'{"status":"pending"}', None),
        (b'{"status":"pending","progress":null}', None),
        (b'{"status":"done","progress":100}', 99),
        (b'{"progress":-3}', 0),
        (b"", None),
        (b"<html>accepted</html>", None),
        (b"\xff", None),
        (b"[]", None),
    ],
)
def test_202_is_unfinished_whatever_it_holds(body: bytes, percent: int | None) -> None:
    assert asked(reply(202, body)) == Unfinished(percent, stage="pending")


@pytest.mark.parametrize("word", ["pending", "queued", "something new", ""])
def test_every_other_word_is_unfinished(word: str) -> None:
    assert asked(reply(200, {"status": word, "progress": 56})) == Unfinished(56, stage=word)


def test_done_has_an_address_and_its_price() -> None:
    body = {"status": "done", "video": {"url": RESULT, "duration": 1, "respect_moderation": True}, "progress": 100}
    done = asked(reply(200, {**body, "usage": {"cost_in_usd_ticks": 500_000_000}, "new": 1}))
    cost = Money(50_000, source="usage.cost_in_usd_ticks of its answer", units=500_000_000.0, unit="ticks")
    assert done == Done((Output(RESULT),), cost=cost)


@pytest.mark.parametrize(
    ("ticks", "micro_usd"),
    [(2**31 * 10_000, 2**31), (10_001, 2), (1, 1), (0, 0)],
)
def test_a_price_is_whole_micro_dollars_rounded_up(ticks: int, micro_usd: int) -> None:
    done = asked(reply(200, {"status": "done", "video": {"url": RESULT}, "usage": {"cost_in_usd_ticks": ticks}}))
    assert isinstance(done, Done)
    assert done.cost is not None
    assert (done.cost.micro_usd, done.cost.units) == (micro_usd, float(ticks))


@pytest.mark.parametrize("usage", [None, {}, {"cost_in_usd_ticks": None}])
def test_a_price_that_is_not_said_is_not_made_up(usage: object) -> None:
    done = asked(reply(200, {"status": "done", "video": {"url": RESULT}, "usage": usage}))
    assert done == Done((Output(RESULT),), cost=None)


def test_a_file_that_is_stored_is_named_and_taken_where_there_is_no_address() -> None:
    kept = {"file_output": {"file_id": "file_7de029f4", "filename": "a.mp4"}, "respect_moderation": True}
    named = {"file_id": "file_7de029f4"}
    both = asked(reply(200, {"status": "done", "video": {"url": RESULT, **kept}}))
    assert both == Done((Output(RESULT),), metadata=named)
    alone = asked(reply(200, {"status": "done", "video": {"url": "", **kept}}))
    assert alone == Done((Output("files/file_7de029f4/content"),), metadata=named)


@pytest.mark.parametrize("file_id", [None, "", "../models", "a?b=cdefghij"])
def test_a_file_with_a_name_that_is_none_is_asked_for_nowhere(file_id: str | None) -> None:
    answer = reply(200, {"status": "done", "video": {"url": "", "file_output": {"file_id": file_id}}})
    assert (broken(answer).fault.code, broken(answer).billed) == ("bad_answer", "yes")


@pytest.mark.parametrize("status", [{}, {"status": None}, {"status": ""}])
def test_an_older_answer_without_a_status_is_done_once_it_has_a_file(status: dict[str, object]) -> None:
    assert asked(reply(200, {**status, "video": {"url": RESULT}})) == Done((Output(RESULT),))
    assert asked(reply(200, {**status, "video": {"url": ""}})) == Unfinished(None)


@pytest.mark.parametrize("video", [{"url": ""}, {"url": RESULT}, {}])
def test_a_withheld_result_is_moderated_and_was_paid(video: dict[str, object]) -> None:
    held = broken(reply(200, {"status": "done", "video": {**video, "respect_moderation": False}}))
    assert (held.fault.code, held.fault.retryable, held.billed) == ("moderated", False, "yes")


@pytest.mark.parametrize("video", [None, {}, {"url": None}, {"url": "", "respect_moderation": True}])
def test_a_success_without_a_file_is_a_failure_that_was_paid(video: object) -> None:
    empty = broken(reply(200, {"status": "done", "video": video}))
    assert (empty.fault.code, empty.billed) == ("bad_answer", "yes")


@pytest.mark.parametrize(
    ("error", "code", "retryable", "their_code"),
    [
        ({"code": "internal_error", "message": "It broke."}, "generation_failed", True, "internal_error"),
        ({"code": "service_unavailable", "message": "Busy."}, "generation_failed", True, "service_unavailable"),
        ({"code": "invalid_argument", "message": "Wrong."}, "generation_failed", False, "invalid_argument"),
        (
            {"code": "permission_denied", "message": "Violates usage guidelines."},
            "moderated",
            False,
            "permission_denied",
        ),
        ({"message": "It broke."}, "generation_failed", False, ""),
        ("It broke.", "generation_failed", False, ""),
        (None, "generation_failed", False, ""),
    ],
)
def test_failures_are_told_apart_by_code_and_words(
    error: object, code: str, their_code: str, *, retryable: bool
) -> None:
    body = {"status": "failed", "video": {"duration": 0, "respect_moderation": True}, "model": "", "error": error}
    failure = broken(reply(200, body))
    fault = failure.fault
    assert (fault.code, fault.retryable, fault.provider_code) == (code, retryable, their_code)
    assert failure.billed == "unknown"


def test_an_expired_request_has_expired_and_has_not_failed() -> None:
    assert broken(reply(200, {"status": "expired"})).fault.code == "asset_expired"


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (400, "Content violates usage guidelines.", "moderated"),
        (403, "Content violates usage guidelines.", "moderated"),
        (400, "Content violates usage guidelines. API key ID: a.", "moderated"),
        (400, "A prompt is required.", "invalid_input"),
    ],
)
def test_a_verdict_on_the_job_comes_as_a_refusal_of_the_question(status: int, text: str, code: str) -> None:
    verdict = broken(reply(status, {"code": "invalid-argument", "error": text}))
    assert (verdict.fault.code, verdict.fault.retryable, verdict.billed) == (code, False, "unknown")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reply(400, {"code": "c", "error": "Incorrect API key provided."}), "authentication_failed"),
        (reply(401, {"error": "No credentials."}), "authentication_failed"),
        (reply(403, {"error": "No permission."}), "authentication_failed"),
        (reply(400, b"<html>gateway</html>"), "invalid_input"),
        (reply(429, {"error": "Slow down."}), "rate_limited"),
        (reply(503, {"error": "Busy."}), "provider_unavailable"),
        (reply(200, b"{"), "bad_answer"),
    ],
)
def test_trouble_with_the_question_says_nothing_about_the_job(answer: Response, code: str) -> None:
    with pytest.raises(Failed) as failed:
        asked(answer)
    assert failed.value.fault.code == code


def test_an_unknown_request_has_vanished_when_they_say_so_themselves() -> None:
    assert asked(reply(404, {"code": "not-found", "error": "Not found."})) == Vanished()
    with pytest.raises(Failed):
        asked(reply(404, b"<html>not found</html>"))


@pytest.mark.parametrize("id", ["", "../generations", "aaaa/bbbb", "aaaa bbbb", "aaaa?x=111", "a" * 129])
def test_a_handle_that_is_none_is_asked_for_nowhere(id: str) -> None:
    with pytest.raises(Failed):
        play(XAI.status(Handle(id), TARGET), nowhere)


def test_it_cannot_be_cancelled_and_nothing_can_be_looked_up() -> None:
    assert play(XAI.cancel(HANDLE, TARGET), nowhere) == "cannot"
    assert play(XAI.find(TARGET, "job_1-1", 0.0), nowhere) is None
    terms = XAI.terms(WORDS, TARGET)
    assert (terms.doubt, terms.cancel) == ("E", "no")


def test_polls_come_every_five_seconds_and_after_three_minutes_every_ten() -> None:
    poll = XAI.terms(WORDS, TARGET).poll
    assert [poll.interval_s(at) for at in (0.0, 90.0, 180.0, 1_800.0)] == [5.0, 5.0, 10.0, 10.0]


def test_results_are_fetched_without_the_key() -> None:
    kept = AssetRef("k", "0" * 64, 1, "video/mp4")

    def world(ask: Ask) -> Answer:
        assert ask == Keep(url=RESULT)
        return Kept(kept)

    assert play(XAI.download(Output(RESULT), HANDLE, TARGET), world) == kept
