"""Runway's flows, played with bytes."""

from __future__ import annotations

import hashlib
import json

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
from rushes.adapters.capabilities import Model, estimate, normalise
from rushes.adapters.runway import INLINE_BYTES, MODELS, OWN_SIZES, SIZES, Runway
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import Config, ImageToVideo, Input, Role, Target, TextToVideo, VideoSpec

RUNWAY = Runway()
MODEL = {model.id: model for model in MODELS}
HANDLE = Handle("0b6f6c1e-6d53-4f0e-9a41-5d7f0f5f7c11")
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
VERSION = {"X-Runway-Version": "2024-11-06"}


def picture(role: Role = "first_frame", content: bytes = b"pixel", size_bytes: int = 5) -> Input:
    sha256 = hashlib.sha256(content).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, size_bytes, "image/png"))


def images(*inputs: Input, prompt: str = "") -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=ImageToVideo(), inputs=inputs)


def target(model: str = "gen4.5") -> Target:
    return Target(provider="runway", model=model, credential="RUNWAYML_API_SECRET")


def reply(status: int, body: object, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def nowhere(_: Ask) -> Answer:
    raise AssertionError("nothing may be asked")


def submitted(spec: VideoSpec, model: str = "gen4.5", answer: Response | None = None) -> tuple[Handle, Request]:
    """What a normalised spec becomes on the wire."""
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(200, {"id": HANDLE.id, "estimatedCost": {"credits": 60}})

    handle = play(RUNWAY.submit(normalise(spec, MODEL[model]), target(model), {}, "job_1-1"), world)
    (only,) = sent
    return handle, only


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


def test_every_wish_has_its_name_on_the_wire() -> None:
    options = {"publicFigureThreshold": "low"}
    spec = replace(WORDS, aspect_ratio="portrait", duration_seconds=10.0, seed=2**32 - 1, provider_options=options)
    _, sent = submitted(spec)
    wanted = {"model": "gen4.5", "promptText": "a lake", "ratio": "720:1280", "duration": 10, "seed": 2**32 - 1}
    assert sent.body == {**wanted, "contentModeration": {"publicFigureThreshold": "low"}}
    spec = replace(WORDS, resolution="1920x1080", generate_audio=False, negative_prompt="rain", duration_seconds=8.0)
    _, sent = submitted(spec, "veo3.1")
    wanted = {"model": "veo3.1", "promptText": "a lake", "ratio": "1920:1080", "duration": 8}
    assert sent.body == {**wanted, "audio": False, "negativePrompt": "rain"}


def test_small_pictures_travel_in_the_request_at_their_position() -> None:
    first, last = picture(), picture("last_frame", b"2")
    _, sent = submitted(images(last, first), "veo3.1")
    assert sent.url == "/v1/image_to_video"
    assert isinstance(sent.body, dict)
    wanted = [(Inline(last.asset, "data-uri"), "last"), (Inline(first.asset, "data-uri"), "first")]
    assert sent.body["promptImage"] == [{"uri": uri, "position": position} for uri, position in wanted]
    assert "promptText" not in sent.body


def test_references_have_no_position() -> None:
    given = picture("general"), picture("general", b"2")
    _, sent = submitted(images(*given, prompt="p"), "seedance2")
    assert isinstance(sent.body, dict)
    assert sent.body["promptImage"] == [{"uri": Inline(each.asset, "data-uri")} for each in given]


@pytest.mark.parametrize("roles", [("last_frame",), ("first_frame", "general"), ("last_frame", "general")])
def test_roles_that_do_not_go_together_are_refused_before_anything_is_asked(roles: tuple[Role, ...]) -> None:
    spec = normalise(images(*(picture(role, role.encode()) for role in roles)), MODEL["seedance2"])
    with pytest.raises(Failed) as failed:
        play(RUNWAY.submit(spec, target("seedance2"), {}, "job_1-1"), nowhere)
    assert (failed.value.certain, failed.value.fault.code, failed.value.fault.field) == (
        True,
        "invalid_input",
        "inputs",
    )


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
        ("seedance2_5", "landscape", "sd", "854:480"),
    ],
)
def test_a_shape_and_a_resolution_are_one_size_there(model: str, ratio: str, resolution: str | None, size: str) -> None:
    spec = replace(images(picture()), aspect_ratio=ratio, resolution=resolution)
    _, sent = submitted(spec, model)
    assert isinstance(sent.body, dict)
    assert sent.body["ratio"] == size


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_whatever_the_data_admits_can_be_said(model: Model) -> None:
    """Else a wish would pass validation and be dropped."""
    sizes = {**SIZES, **OWN_SIZES.get(model.id, {})}
    assert all((lines, ratio) in sizes for lines in model.resolutions for ratio in model.aspect_ratios)
    spec = replace(images(picture(), prompt="p"), **{name: {"seed": 7}.get(name, "x") for name in model.fields})
    _, sent = submitted(replace(spec, provider_options=dict.fromkeys(model.options, "low")), model.id)
    assert isinstance(sent.body, dict)
    known = {"model", "promptText", "promptImage", "ratio", "duration"}
    assert len(set(sent.body) - known) == len(model.fields) + len(model.options)
    default = normalise(images(picture(), prompt="p"), model)
    assert None not in (default.duration_seconds, default.aspect_ratio, default.resolution)
    assert set(model.fields) <= set(Config.__struct_fields__)


@pytest.mark.parametrize(
    ("model", "wish", "code"),
    [
        ("gen4.5", replace(WORDS, generate_audio=True), "unsupported_feature"),
        ("gen4.5", replace(WORDS, negative_prompt="rain"), "unsupported_feature"),
        ("gen4.5", replace(WORDS, guidance_scale=5.0), "unsupported_feature"),
        ("gen4.5", replace(WORDS, enhance_prompt=True), "unsupported_feature"),
        ("gen4.5", replace(WORDS, aspect_ratio="square"), "invalid_input"),
        ("gen4.5", replace(WORDS, resolution="fhd"), "invalid_input"),
        ("gen4.5", replace(WORDS, duration_seconds=2.5), "invalid_input"),
        ("gen4.5", replace(WORDS, duration_seconds=11.0), "invalid_input"),
        ("gen4.5", replace(WORDS, seed=2**32), "invalid_input"),
        ("gen4.5", replace(WORDS, provider_options={"outputFormat": "prores"}), "unsupported_feature"),
        ("gen4.5", images(picture()), "invalid_input"),
        ("gen4.5", images(picture("last_frame"), prompt="p"), "unsupported_feature"),
        ("gen4_turbo", WORDS, "unsupported_feature"),
        ("veo3.1", replace(WORDS, seed=7), "unsupported_feature"),
        ("veo3.1", replace(WORDS, duration_seconds=5.0), "invalid_input"),
        ("seedance2", replace(WORDS, negative_prompt="rain"), "unsupported_feature"),
        ("seedance2", images(picture("style"), prompt="p"), "unsupported_feature"),
        ("seedance2_fast", replace(WORDS, resolution="fhd"), "invalid_input"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_anything_is_sent(model: str, wish: VideoSpec, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        normalise(wish, MODEL[model])
    assert refused.value.code == code


def test_large_pictures_are_uploaded_once_and_named() -> None:
    asked: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        asked.append(ask)
        if ask.url == "/v1/uploads":
            place = {"uploadUrl": "https://files.example.org/p", "fields": {"key": "k", "policy": "p"}}
            return reply(200, {**place, "runwayUri": "runway://u1"})
        return reply(200, {"id": HANDLE.id}) if ask.spends else Response(status=204)

    large = picture("general", size_bytes=INLINE_BYTES + 1)
    spec = normalise(images(large, large, picture("general", b"2", INLINE_BYTES)), MODEL["seedance2"])
    prepared = play(RUNWAY.prepare(spec, target("seedance2")), world)
    assert prepared == {large.asset.sha256: "runway://u1"}
    place, file = asked
    name = f"{large.asset.sha256[:16]}.png"
    assert place.body == {"filename": name, "type": "ephemeral"}
    assert (file.method, file.url) == ("POST", "https://files.example.org/p")
    parts = [Part("key", "k"), Part("policy", "p"), Part("file", Inline(large.asset, "bytes"), name, "image/png")]
    assert file.body == parts
    assert not any(ask.spends for ask in asked)
    play(RUNWAY.submit(spec, target("seedance2"), prepared, "job_1-1"), world)
    assert isinstance(asked[-1].body, dict)
    assert [image["uri"] for image in asked[-1].body["promptImage"][:2]] == ["runway://u1", "runway://u1"]
    assert isinstance(asked[-1].body["promptImage"][2]["uri"], Inline)


def test_the_largest_picture_that_is_inlined_fits() -> None:
    characters = len("data:image/jpeg;base64,") + -(-INLINE_BYTES // 3) * 4
    assert 5_242_000 < characters <= 5_242_880


def test_an_upload_that_is_refused_ends_the_preparing() -> None:
    spec = images(picture(size_bytes=INLINE_BYTES + 1))

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        place = {"uploadUrl": "https://files.example.org/p", "fields": {}, "runwayUri": "runway://u1"}
        return reply(200, place) if ask.url == "/v1/uploads" else reply(403, b"<Error/>")

    with pytest.raises(Failed) as failed:
        play(RUNWAY.prepare(spec, target()), world)
    assert failed.value.fault.code == "authentication_failed"


def test_only_large_pictures_need_preparing() -> None:
    assert not needs_prepare(RUNWAY, WORDS, target())
    assert not needs_prepare(RUNWAY, images(picture()), target())
    assert needs_prepare(RUNWAY, images(picture(size_bytes=INLINE_BYTES + 1)), target())


def test_an_estimate_is_the_dearest_price_and_unknown_without_one() -> None:
    veo = estimate(normalise(WORDS, MODEL["veo3.1"]), MODEL["veo3.1"])
    assert veo is not None
    assert (veo.micro_usd, veo.units, veo.as_of) == (4 * 40 * 10_000, 4.0, "2026-04-21")
    gen4 = estimate(normalise(WORDS, MODEL["gen4.5"]), MODEL["gen4.5"])
    assert gen4 is not None
    assert gen4.micro_usd == 600_000
    assert [model.id for model in MODELS if model.price is None] == ["seedance2_fast", "seedance2_mini", "seedance2_5"]


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
    where = "promptImage.0.uri: Cannot be fetched: (removed) with (removed)"
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
