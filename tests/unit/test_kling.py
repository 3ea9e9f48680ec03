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
    Request,
    Response,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.capabilities import estimate, normalise, route
from rushes.adapters.kling import MODELS, Kling
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle, Money
from rushes.video import ImageToVideo, Input, Role, Target, TextToVideo, VideoSpec

KLING = Kling()
MODEL = {model.id: model for model in MODELS}
HANDLE = Handle("893600000000000001")
KEY = "job_1-1"
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())


def picture(role: Role = "first_frame", media_type: str = "image/png") -> Input:
    sha256 = hashlib.sha256(role.encode()).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, 5, media_type))


def images(*inputs: Input, prompt: str = "") -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=ImageToVideo(), inputs=inputs)


def target(model: str = "kling-3.0-turbo") -> Target:
    return Target(provider="kling", model=model, credential="KLINGAI_API_KEY")


def reply(body: object, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def good(data: object) -> Response:
    return reply({"code": 0, "message": "", "request_id": "r", "data": data})


def bad(code: int, status: int = 200, message: str = "No.") -> Response:
    return reply({"code": code, "message": message, "request_id": "r"}, status)


def submitted(spec: VideoSpec, model: str = "kling-3.0-turbo", answer: Response | None = None) -> tuple[Handle, Any]:
    """The handle, and the body that was sent."""
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or good({"id": HANDLE.id, "status": "submitted", "external_id": KEY})

    handle = play(KLING.submit(normalise(spec, MODEL[model]), target(model), {}, KEY), world)
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


def test_words_go_with_their_defaults_and_our_key() -> None:
    handle, sent = submitted(WORDS)
    assert handle == HANDLE
    assert (sent.method, sent.url) == ("POST", "/text-to-video/kling-3.0-turbo")
    wanted = {"resolution": "720p", "duration": 5}
    assert sent.body == {"prompt": "a lake", "settings": wanted, "options": {"external_task_id": KEY}}


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


def test_pictures_travel_in_the_order_as_bare_base64() -> None:
    first, last = picture(), picture("last_frame")
    _, sent = submitted(images(first, last, prompt="p"), "kling-3.0")
    assert sent.url == "/image-to-video/kling-3.0"
    assert sent.body["contents"] == [
        {"type": "prompt", "text": "p"},
        {"type": "first_frame", "url": Inline(first.asset, "base64")},
        {"type": "last_frame", "url": Inline(last.asset, "base64")},
    ]
    assert "prompt" not in sent.body
    assert "aspect_ratio" not in sent.body["settings"]


def test_a_first_frame_alone_will_do() -> None:
    _, sent = submitted(images(picture()))
    assert [one["type"] for one in sent.body["contents"]] == ["first_frame"]


def test_nothing_needs_preparing() -> None:
    assert not needs_prepare(KLING, normalise(images(picture()), MODEL["kling-3.0"]), target("kling-3.0"))


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        ("kling-3.0-turbo", replace(WORDS, duration_seconds=2.0), "duration_seconds"),
        ("kling-2.6", replace(WORDS, duration_seconds=7.0), "duration_seconds"),
        ("kling-3.0-turbo", replace(WORDS, resolution="4k"), "resolution"),
        ("kling-3.0", replace(WORDS, resolution="sd"), "resolution"),
        ("kling-3.0", replace(WORDS, aspect_ratio="cinema"), "aspect_ratio"),
        ("kling-3.0", replace(WORDS, negative_prompt="rain"), "negative_prompt"),
        ("kling-3.0", replace(WORDS, seed=7), "seed"),
        ("kling-3.0", replace(WORDS, guidance_scale=7.0), "guidance_scale"),
        ("kling-3.0-turbo", replace(WORDS, generate_audio=False), "generate_audio"),
        ("kling-3.0-turbo", images(picture(), picture("last_frame")), "inputs"),
        ("kling-3.0", images(picture("style")), "inputs"),
        ("kling-3.0", replace(WORDS, provider_options={"external_task_id": "x"}), "provider_options.external_task_id"),
    ],
)
def test_what_the_wire_cannot_say_is_refused_by_name(model: str, spec: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        normalise(spec, MODEL[model])
    assert wrong.value.field == field


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        ("kling-3.0", replace(images(picture()), aspect_ratio="16:9"), "aspect_ratio"),
        ("kling-3.0", replace(images(picture()), resolution="1280x720"), "aspect_ratio"),
        ("kling-3.0", images(picture("last_frame")), "inputs"),
        ("kling-3.0", images(picture(media_type="image/webp")), "inputs"),
        ("kling-2.6", replace(WORDS, generate_audio=True), "resolution"),
        ("kling-2.6", images(picture(), picture("last_frame")), "resolution"),
        ("kling-2.5-turbo", images(picture(), picture("last_frame")), "resolution"),
    ],
)
def test_what_only_together_is_wrong_is_refused_by_name_too(model: str, spec: VideoSpec, field: str) -> None:
    """Where a request comes in: there the flow's first step is taken."""
    with pytest.raises(BadRequest) as wrong:
        needs_prepare(KLING, normalise(spec, MODEL[model]), target(model))
    assert wrong.value.field == field


def test_at_1080p_these_are_right() -> None:
    for spec in (replace(WORDS, generate_audio=True), images(picture(), picture("last_frame"))):
        whole = normalise(replace(spec, resolution="1080p"), MODEL["kling-2.6"])
        assert not needs_prepare(KLING, whole, target("kling-2.6"))


def test_an_estimate_is_the_dearest_or_unknown_but_never_nothing() -> None:
    assert estimate(normalise(WORDS, MODEL["kling-3.0-turbo"]), MODEL["kling-3.0-turbo"]) is None
    dearest = estimate(normalise(WORDS, MODEL["kling-3.0"]), MODEL["kling-3.0"])
    assert dearest is not None
    assert (dearest.micro_usd, dearest.as_of) == (2_100_000, "2026-08-12")


def test_its_name_alone_is_a_model_that_takes_words() -> None:
    _, model = route("kling", {"kling": KLING})
    assert (model.id, model.operations[0]) == ("kling-3.0-turbo", "text-to-video")


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
    "answer",
    [
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
    assert failed.fault.detail == "kling: image (address) cannot be read"


# ── How it goes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["submitted", "processing", "queueing", "something new"])
def test_every_other_word_is_unfinished_without_a_percent(word: str) -> None:
    assert outcome(status=word) == Unfinished(None, stage=word)


VIDEO = {"type": "video", "id": "1", "url": "https://host/v.mp4", "watermark_url": "", "duration": "5.041"}
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
