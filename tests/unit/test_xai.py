"""xAI's flows, played with bytes."""

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
    Request,
    Response,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.capabilities import Model, estimate, normalise
from rushes.adapters.xai import MODELS, Xai
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle, Money
from rushes.video import ImageToVideo, Input, Role, Target, TextToVideo, VideoSpec

XAI = Xai()
MODEL = {model.id: model for model in MODELS}
IMAGINE, NEWER = MODEL["grok-imagine-video"], MODEL["grok-imagine-video-1.5"]
HANDLE = Handle("0d9f3a51-77aa-9c10-b2d4-5e6f708192a3")
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
TARGET = Target(provider="xai", model="grok-imagine-video", credential="XAI_API_KEY")
RESULT = "https://vidgen.x.ai/xai-vidgen-bucket/xai-video-a.mp4"


def picture(role: Role = "first_frame", content: bytes = b"pixel") -> Input:
    sha256 = hashlib.sha256(content).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, len(content), "image/png"))


def images(*inputs: Input) -> VideoSpec:
    return VideoSpec(prompt="it moves", operation=ImageToVideo(), inputs=inputs)


def reply(status: int, body: object, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def nowhere(_: Ask) -> Answer:
    raise AssertionError


def submitted(spec: VideoSpec, answer: Response | None = None) -> tuple[Handle, Request]:
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(200, {"request_id": HANDLE.id})

    handle = play(XAI.submit(spec, TARGET, {}, "job_1-1"), world)
    (only,) = sent
    return handle, only


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


def test_words_are_sent_with_their_defaults_written_out() -> None:
    handle, sent = submitted(normalise(WORDS, IMAGINE))
    assert handle == HANDLE
    assert (sent.method, sent.url, sent.spends) == ("POST", "/videos/generations", True)
    assert sent.body == {"model": "grok-imagine-video", "prompt": "a lake", "duration": 8, "resolution": "480p"}


def test_every_wish_has_its_name_on_the_wire() -> None:
    spec = msgspec.structs.replace(WORDS, duration_seconds=15.0, aspect_ratio="portrait", resolution="hd")
    spec = msgspec.structs.replace(spec, provider_options={"user": "u-7"})
    _, sent = submitted(normalise(spec, IMAGINE))
    wanted = {"duration": 15, "aspect_ratio": "9:16", "resolution": "720p", "user": "u-7"}
    assert sent.body == {"model": "grok-imagine-video", "prompt": "a lake", **wanted}


def test_a_first_frame_travels_in_the_request_and_decides_the_shape() -> None:
    frame = picture()
    _, sent = submitted(normalise(images(frame), IMAGINE))
    assert isinstance(sent.body, dict)
    assert sent.body["image"] == {"url": Inline(frame.asset, "data-uri")}
    assert sent.body.keys() == {"model", "prompt", "duration", "resolution", "image"}


def test_general_images_are_references_in_the_order_that_the_prompt_counts_them() -> None:
    one, two = picture("general", b"1"), picture("general", b"2")
    _, sent = submitted(normalise(images(two, one), IMAGINE))
    assert isinstance(sent.body, dict)
    assert sent.body["reference_images"] == [{"url": Inline(two.asset)}, {"url": Inline(one.asset)}]
    assert "image" not in sent.body


def test_a_first_frame_beside_general_images_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(Failed) as failed:
        play(XAI.submit(images(picture(), picture("general")), TARGET, {}, "job_1-1"), nowhere)
    fault = failed.value.fault
    assert (failed.value.certain, fault.code, fault.field) == (True, "unsupported_feature", "inputs")


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        (IMAGINE, msgspec.structs.replace(WORDS, negative_prompt="rain"), "negative_prompt"),
        (IMAGINE, msgspec.structs.replace(WORDS, seed=7), "seed"),
        (IMAGINE, msgspec.structs.replace(WORDS, fps=24.0), "fps"),
        (IMAGINE, msgspec.structs.replace(WORDS, generate_audio=False), "generate_audio"),
        (IMAGINE, msgspec.structs.replace(WORDS, duration_seconds=16.0), "duration_seconds"),
        (IMAGINE, msgspec.structs.replace(WORDS, duration_seconds=2.5), "duration_seconds"),
        (IMAGINE, msgspec.structs.replace(WORDS, aspect_ratio="21:9"), "aspect_ratio"),
        (IMAGINE, msgspec.structs.replace(WORDS, resolution="1080p"), "resolution"),
        (IMAGINE, msgspec.structs.replace(WORDS, provider_options={"image": "x"}), "provider_options.image"),
        (IMAGINE, images(picture("last_frame")), "inputs"),
        (IMAGINE, images(picture("style")), "inputs"),
        (IMAGINE, images(picture("first_frame"), picture("first_frame")), "inputs"),
        (IMAGINE, images(*[picture("general")] * 8), "inputs"),
        (NEWER, images(picture("general")), "inputs"),
        (IMAGINE, VideoSpec(operation=ImageToVideo(), inputs=(picture(),)), "prompt"),
    ],
)
def test_what_the_wire_cannot_say_is_refused_by_name(model: Model, spec: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        normalise(spec, model)
    assert refused.value.field == field


def test_only_the_newer_model_makes_1080p() -> None:
    assert normalise(msgspec.structs.replace(WORDS, resolution="fhd"), NEWER).resolution == "1080p"


@pytest.mark.parametrize(
    ("model", "spec", "most_ticks"),  # the page's prices, worst case of the request
    [
        (IMAGINE, normalise(WORDS, IMAGINE), 8 * 500_000_000),
        (IMAGINE, msgspec.structs.replace(WORDS, duration_seconds=15.0, resolution="720p"), 15 * 700_000_000),
        (IMAGINE, msgspec.structs.replace(images(*[picture("general")] * 7), duration_seconds=1.0), 840_000_000),
        (NEWER, msgspec.structs.replace(images(picture()), duration_seconds=1.0), 2_600_000_000),
    ],
)
def test_an_estimate_is_dated_and_never_too_little(model: Model, spec: VideoSpec, most_ticks: int) -> None:
    money = estimate(spec, model)
    assert money is not None
    assert money.micro_usd * 10_000 >= most_ticks
    assert money.as_of == "2026-11-06"


def test_nothing_needs_preparing() -> None:
    assert not needs_prepare(XAI, WORDS, TARGET)
    assert not needs_prepare(XAI, images(picture()), TARGET)


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


def test_an_unknown_request_has_vanished() -> None:
    assert asked(reply(404, {"code": "not-found", "error": "Not found."})) == Vanished()


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
