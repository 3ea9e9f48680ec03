"""OpenRouter's flows, played with bytes."""

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
    Stopped,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.capabilities import Model, estimate, normalise
from rushes.adapters.openrouter import MODELS, OpenRouter
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Role, Target, TextToVideo, VideoSpec

OPENROUTER = OpenRouter()
MODEL = {model.id: model for model in MODELS}
GROK, VEO = "x-ai/grok-imagine-video", "google/veo-3.1"
HANDLE = Handle("a1B2c3D4e5F6g7H8i9J0")
CONTENT = f"https://openrouter.ai/api/v1/videos/{HANDLE.id}/content?index=0"
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
BLANK = b"\n         \n" * 6


def picture(role: Role = "first_frame", content: bytes = b"pixel") -> Input:
    sha256 = hashlib.sha256(content).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, len(content), "image/png"))


def images(*inputs: Input) -> VideoSpec:
    return VideoSpec(prompt="p", operation=ImageToVideo(), inputs=inputs)


def target(model: str = GROK) -> Target:
    return Target(provider="openrouter", model=model, credential="OPENROUTER_API_KEY")


def reply(status: int, body: object, before: bytes = b"", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status=status, body=before + content, headers=named)


def error(code: object, message: str = "No.", **more: object) -> dict[str, object]:
    return {"error": {"code": code, "message": message, **more}}


def submitted(spec: VideoSpec, model: str = GROK, answer: Response | None = None) -> tuple[Handle, Request]:
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(202, {"id": HANDLE.id, "status": "pending"}, BLANK)

    handle = play(OPENROUTER.submit(spec, target(model), {}, "job_1-1"), world)
    (only,) = sent
    return handle, only


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=answer)
    return failed.value


def outcome(**video: object) -> Outcome:
    answer = reply(200, {"id": HANDLE.id, "status": "pending", **video})
    return play(OPENROUTER.status(HANDLE, target()), lambda _: answer)


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_are_sent_with_the_models_defaults() -> None:
    handle, sent = submitted(normalise(WORDS, MODEL[GROK]))
    assert handle == HANDLE
    assert (sent.method, sent.url, sent.spends) == ("POST", "/videos", True)
    assert sent.body == {"model": GROK, "prompt": "a lake", "duration": 5, "resolution": "720p"}
    assert sent.timeout_s >= 60.0  # they hold the paid call open


def test_every_wish_has_its_name_on_the_wire() -> None:
    wishes = {"duration_seconds": 8.0, "aspect_ratio": "portrait", "resolution": "4k", "seed": 7}
    spec = msgspec.structs.replace(WORDS, **wishes, generate_audio=False)
    _, sent = submitted(normalise(spec, MODEL[VEO]), VEO)
    wanted = {"prompt": "a lake", "duration": 8, "aspect_ratio": "9:16", "resolution": "4K", "seed": 7}
    assert sent.body == {"model": VEO, **wanted, "generate_audio": False}


def test_sound_is_asked_for_where_it_is_what_they_make() -> None:
    _, sent = submitted(normalise(WORDS, MODEL[VEO]), VEO)
    assert sent.body == {"model": VEO, "prompt": "a lake", "duration": 4, "resolution": "720p", "generate_audio": True}


def test_a_picture_goes_into_its_place() -> None:
    first, last = picture(), picture("last_frame", b"2")
    _, sent = submitted(images(first, last), VEO)
    assert isinstance(sent.body, dict)
    assert sent.body["frame_images"] == [
        {"type": "image_url", "image_url": {"url": Inline(first.asset, "data-uri")}, "frame_type": "first_frame"},
        {"type": "image_url", "image_url": {"url": Inline(last.asset, "data-uri")}, "frame_type": "last_frame"},
    ]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_whatever_the_data_admits_is_sent(model: Model) -> None:
    """Else a wish would pass validation and be dropped."""
    wishes = {"duration_seconds": model.durations_s[-1], "aspect_ratio": model.aspect_ratios[-1]}
    wishes |= {"resolution": model.resolutions[-1]} | {name: {"seed": 7}.get(name, True) for name in model.fields}
    spec = msgspec.structs.replace(images(*map(picture, model.roles)), **wishes)
    _, sent = submitted(normalise(spec, model), model.id)
    assert isinstance(sent.body, dict)
    assert len(sent.body) == len({"model", "prompt", "frame_images"} | set(wishes))
    assert model.draws_seed == ("seed" in sent.body)


def test_what_a_model_cannot_do_is_refused_before_anything_is_sent() -> None:
    for model, spec in (
        (GROK, msgspec.structs.replace(WORDS, negative_prompt="rain")),
        (GROK, msgspec.structs.replace(WORDS, seed=7)),
        (GROK, msgspec.structs.replace(WORDS, generate_audio=True)),
        (GROK, msgspec.structs.replace(WORDS, duration_seconds=16.0)),
        (GROK, msgspec.structs.replace(WORDS, duration_seconds=1.5)),
        (GROK, msgspec.structs.replace(WORDS, resolution="1080p")),
        (GROK, msgspec.structs.replace(WORDS, provider_options={"safety": "off"})),
        (GROK, images(picture("last_frame"))),
        (VEO, msgspec.structs.replace(WORDS, duration_seconds=5.0)),
        (VEO, msgspec.structs.replace(WORDS, aspect_ratio="square")),
        (VEO, images(picture("general"))),
    ):
        with pytest.raises(BadRequest):
            normalise(spec, MODEL[model])


def test_an_estimate_covers_the_dearest_wish() -> None:
    """0.07 a second at 720p, and 0.002 for the picture."""
    spec = msgspec.structs.replace(images(picture()), duration_seconds=1.0, resolution="720p")
    cost = estimate(normalise(spec, MODEL[GROK]), MODEL[GROK])
    assert cost is not None
    assert (cost.micro_usd, cost.as_of) == (72_000, "2026-09-08")
    for model in MODELS:
        unsaid = estimate(normalise(WORDS, model), model)
        assert unsaid is not None
        assert unsaid.micro_usd > 0, "a wish that is left out is not free"


def test_nothing_needs_preparing() -> None:
    assert not needs_prepare(OPENROUTER, images(picture()), target())


# ── What an order may answer ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("id", [HANDLE.id, "gen-vid-1786406418-abcdefghij0123456789"])
def test_an_order_is_taken_whatever_else_its_answer_holds(id: str) -> None:
    odd = {"id": id, "status": 7, "polling_url": None, "error": error(400)["error"], "new": True}
    assert submitted(WORDS, answer=reply(202, odd, BLANK))[0] == Handle(id)


@pytest.mark.parametrize("id", ["", "../models", "a/b", "a?b", ".a", "a\n", "a" * 129])
def test_an_id_that_is_none_leaves_the_order_in_doubt(id: str) -> None:
    assert not refused(reply(202, {"id": id})).certain


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_input"),
        (401, "authentication_failed"),
        (402, "quota_exceeded"),
        (403, "authentication_failed"),
        (404, "not_found"),
        (413, "invalid_input"),
    ],
)
@pytest.mark.parametrize("under", [0, 202])
def test_a_refusal_is_certain_under_its_own_status_and_below_a_202(status: int, code: str, under: int) -> None:
    failed = refused(reply(under or status, error(status), BLANK))
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (True, code, False)
    assert (failed.fault.detail, failed.fault.provider_code) == ("openrouter: No.", str(status))


@pytest.mark.parametrize(
    "answer",
    [
        reply(202, error(500), BLANK),
        reply(202, error(502), BLANK),
        reply(202, error(503), BLANK),
        reply(202, error(429), BLANK),
        reply(202, error("odd"), BLANK),
        reply(202, error(None), BLANK),
        reply(202, BLANK),
        reply(202, b'{"id":"a1B2c', BLANK),
        reply(202, {"status": "pending"}, BLANK),
        reply(202, b"\xff\xfe"),
        reply(202, []),
        reply(499, error(499)),
        reply(500, error(500)),
        reply(502, b"<html>bad gateway</html>"),
        reply(503, b"<html>try later</html>", retry_after="5"),
        reply(503, {"error": {"message": "a gateway's own"}}),
        reply(401, b"<html>log in</html>"),
    ],
)
def test_anything_unclear_leaves_the_order_in_doubt(answer: Response) -> None:
    assert not refused(answer).certain


def test_their_own_503_says_that_nobody_was_asked() -> None:
    failed = refused(reply(503, error(503, "No maker is free."), retry_after="7"))
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (True, "provider_unavailable", True)
    assert failed.fault.retry_after_s == 7.0


def test_throttling_and_a_full_budget_say_when_to_come_back() -> None:
    throttled = refused(reply(429, error(429), retry_after="30"))
    assert (throttled.certain, throttled.fault.code, throttled.fault.retry_after_s) == (True, "rate_limited", 30.0)
    busy = refused(reply(402, error(402), retry_after="12"))
    assert (busy.fault.code, busy.fault.retryable, busy.fault.retry_after_s) == ("quota_exceeded", True, 12.0)


def test_moderation_of_the_words_is_told_from_a_missing_permission() -> None:
    reasons = {"reasons": ["violence"], "flagged_input": "the secret words"}
    flagged = refused(reply(403, error(403, "Not here.", metadata=reasons)))
    assert (flagged.certain, flagged.fault.code, flagged.fault.retryable) == (True, "moderated", False)
    assert "secret" not in flagged.fault.detail
    assert refused(reply(403, error(403, "Blocked by a content policy."))).fault.code == "moderated"
    assert refused(reply(403, error(403, "Key limit.", metadata=None))).fault.code == "authentication_failed"


def test_faults_hold_no_addresses_and_no_keys() -> None:
    text = "image https://host/a.png?sig=1\nor data:image/png;base64,AAAA of sk-or-v1-0123 cannot be read"
    failed = refused(reply(400, error(400, text)))
    assert failed.fault.detail == "openrouter: image (left out) or (left out) of (left out) cannot be read"


# ── How it goes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["pending", "in_progress", "something new"])
def test_every_other_word_is_unfinished(word: str) -> None:
    assert outcome(status=word, generation_id="gen-vid-1", more=True) == Unfinished(None, stage=word)


def test_a_video_comes_with_what_it_cost() -> None:
    done = outcome(
        status="completed", generation_id="gen-vid-1", unsigned_urls=[CONTENT], usage={"cost": 0.05, "is_byok": False}
    )
    assert isinstance(done, Done)
    assert (done.outputs, done.metadata) == ((Output(CONTENT),), {"generation_id": "gen-vid-1"})
    assert done.cost is not None
    assert (done.cost.micro_usd, done.cost.units, done.cost.unit) == (50_000, 0.05, "usd")


@pytest.mark.parametrize(
    ("cost", "micro_usd"),
    [(b"0.050000000000000002776", 50_000), (b"0.0817", 81_700), (b"1e-7", 0), (b"0", 0), (b"null", None)],
)
def test_a_cost_is_read_to_the_millionth(cost: bytes, micro_usd: int | None) -> None:
    body = b'{"status":"completed","urls":["https://host/a"],"usage":{"cost":%s}}' % cost
    done = play(OPENROUTER.status(HANDLE, target()), lambda _: reply(200, body))
    assert isinstance(done, Done)
    assert (done.cost and done.cost.micro_usd) == micro_usd


def test_with_the_callers_own_key_the_cost_is_a_fee() -> None:
    done = outcome(status="completed", usage={"cost": 0.002, "is_byok": True})
    assert isinstance(done, Done)
    assert done.cost is not None
    assert done.cost.source.endswith("its fee alone")


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"unsigned_urls": [CONTENT], "urls": ["https://host/a?sig=1"]}, CONTENT),
        ({"unsigned_urls": [], "urls": ["https://host/a?sig=1"]}, "https://host/a?sig=1"),
        ({"unsigned_urls": [f"/api/v1/videos/{HANDLE.id}/content?index=0"]}, CONTENT),
        ({"unsigned_urls": None, "urls": None}, CONTENT),
        ({}, CONTENT),
    ],
)
def test_where_the_video_lies(told: dict[str, object], wanted: str) -> None:
    done = outcome(status="completed", **told)
    assert isinstance(done, Done)
    assert (done.outputs, done.cost) == ((Output(wanted),), None)


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        ("failed", "The prompt violates the content policy", "moderated"),
        ("failed", "Rejected by SAFETY filters", "moderated"),
        ("failed", {"message": "flagged as sensitive", "code": "x"}, "moderated"),
        ("failed", "shapes do not match", "generation_failed"),
        ("failed", None, "generation_failed"),
        ("dead", "gave up", "generation_failed"),
        ("expired", None, "asset_expired"),
    ],
)
def test_failures_are_told_apart_by_their_words(status: str, said: object, code: str) -> None:
    broken = outcome(status=status, error=said)
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.fault.retryable, broken.billed) == (code, False, "unknown")


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        (None, "unknown"),
        ({"cost": None}, "unknown"),
        ({"cost": 0}, "no"),
        ({"cost": 0, "is_byok": True}, "unknown"),
        ({"cost": 0.05}, "yes"),
    ],
)
def test_only_they_can_say_that_a_failure_was_free(usage: object, billed: str) -> None:
    broken = outcome(status="failed", error="no", usage=usage)
    assert isinstance(broken, Broken)
    assert broken.billed == billed
    assert outcome(status="cancelled", usage=usage) == Stopped(billed)


def test_an_unknown_job_has_vanished_if_they_say_so_themselves() -> None:
    def status(answer: Response) -> Outcome:
        return play(OPENROUTER.status(HANDLE, target()), lambda _: answer)

    assert status(reply(404, error(404))) == Vanished()
    with pytest.raises(Failed):
        status(reply(404, b"<html>no such page</html>"))
    with pytest.raises(Failed):
        status(reply(200, error(500)))


@pytest.mark.parametrize("id", ["", "../models", "a/b", "a b", "a?x=1", ".", "a" * 129])
def test_a_handle_that_is_none_is_asked_for_nowhere(id: str) -> None:
    def nowhere(_: Ask) -> Answer:
        raise AssertionError

    with pytest.raises(Failed):
        play(OPENROUTER.status(Handle(id), target()), nowhere)


def test_nothing_can_be_cancelled_or_looked_up() -> None:
    def nowhere(_: Ask) -> Answer:
        raise AssertionError

    assert play(OPENROUTER.cancel(HANDLE, target()), nowhere) == "cannot"
    assert play(OPENROUTER.find(target(), "job_1-1", 0.0), nowhere) is None
    terms = OPENROUTER.terms(WORDS, target())
    assert (terms.doubt, terms.cancel) == ("E", "no")
    assert [terms.poll.interval_s(elapsed_s) for elapsed_s in (0.0, 200.0, 900.0)] == [10.0, 20.0, 30.0]


def test_a_video_is_asked_for_with_the_key() -> None:
    """The transport sends it to the host of the base address alone."""
    kept = AssetRef("k", "0" * 64, 1, "video/mp4")

    def world(ask: Ask) -> Answer:
        assert ask == Keep(url=CONTENT, with_credential=True)
        return Kept(kept)

    assert play(OPENROUTER.download(Output(CONTENT), HANDLE, target()), world) == kept
