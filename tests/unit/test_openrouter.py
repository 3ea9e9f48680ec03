"""OpenRouter's flows, played with bytes."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import urljoin

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
from rushes.adapters.capabilities import Model
from rushes.adapters.catalogue import ModelSetting, route, rows_of, with_settings
from rushes.adapters.fit import estimate, fit
from rushes.adapters.openrouter import OpenRouter
from rushes.adapters.openrouter_models import MODELS
from rushes.faults import BadRequest, Fault
from rushes.units import AssetRef, Handle
from rushes.video import (
    KINDS,
    Extend,
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
    operation_of,
)

OPENROUTER = OpenRouter()
GROK, VEO, WAN = "x-ai/grok-imagine-video", "google/veo-3.1", "alibaba/wan-2.7"
FLUX, SEEDANCE = "black-forest-labs/flux-3-video", "bytedance/seedance-2.5"
HANDLE = Handle("a1B2c3D4e5F6g7H8i9J0", {"model": GROK})
BASE_URL = OPENROUTER.capabilities.base_url
CONTENT = f"{BASE_URL}/videos/{HANDLE.id}/content?index=0"
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
BLANK = b"\n         \n" * 6


def picture(role: Role = "first_frame", content: bytes = b"pixel") -> Input:
    sha256 = hashlib.sha256(content).hexdigest()
    return Input(role=role, asset=AssetRef(f"inputs/{sha256}", sha256, len(content), "image/png"))


def clip(made: Made | None) -> Input:
    asset = AssetRef("takes/1", "ab" * 32, 9, "video/mp4")
    return Input(type="video", role="source", asset=asset, duration_seconds=5.0, made=made)


def made(model: str = FLUX, provider: str = "openrouter", id: str = "aJobOfTheirs") -> Made:
    return Made(job="job_0", provider=provider, handle=Handle(id, {"model": model}))


def images(*inputs: Input) -> VideoSpec:
    return VideoSpec(prompt="p", operation=ImageToVideo(), inputs=inputs)


def guided(*roles: Role) -> VideoSpec:
    inputs = tuple(picture(role, b"%d" % number) for number, role in enumerate(roles))
    return VideoSpec(prompt="p", operation=MultiImage(), inputs=inputs)


def after(one: Made | None, operation: Operation | None = None) -> VideoSpec:
    return VideoSpec(prompt="p", operation=operation or Extend(), inputs=(clip(one),))


def wished(spec: VideoSpec, model: str) -> VideoSpec:
    """The spec as a job stores it."""
    return fit(spec, rows_of(OPENROUTER, model))[0]


def faults(spec: VideoSpec, model: str) -> list[Fault]:
    """Why no job is made of it: what the data do not have, or what the adapter cannot say."""
    with pytest.raises(BadRequest) as refused:
        needs_prepare(OPENROUTER, wished(spec, model), target(model))
    return list(refused.value.faults)


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
    handle, sent = submitted(wished(WORDS, GROK))
    assert handle == HANDLE
    assert (sent.method, sent.url, sent.spends) == ("POST", "/videos", True)
    assert sent.body == {"model": GROK, "prompt": "a lake", "duration": 5, "resolution": "720p"}
    assert sent.timeout_s >= 60.0  # they hold the paid call open


def test_every_wish_has_its_name_on_the_wire() -> None:
    wishes = {"duration_seconds": 8.0, "aspect_ratio": "portrait", "resolution": "4k", "seed": 7}
    spec = msgspec.structs.replace(WORDS, **wishes, generate_audio=False)
    _, sent = submitted(wished(spec, VEO), VEO)
    wanted = {"prompt": "a lake", "duration": 8, "aspect_ratio": "9:16", "resolution": "4K", "seed": 7}
    assert sent.body == {"model": VEO, **wanted, "generate_audio": False}


def test_sound_is_asked_for_where_it_is_what_they_make() -> None:
    _, sent = submitted(wished(WORDS, VEO), VEO)
    assert sent.body == {"model": VEO, "prompt": "a lake", "duration": 4, "resolution": "720p", "generate_audio": True}


def test_a_picture_goes_into_its_place() -> None:
    first, last = picture(), picture("last_frame", b"2")
    _, sent = submitted(images(first, last), VEO)
    assert isinstance(sent.body, dict)
    assert sent.body["frame_images"] == [
        {"type": "image_url", "image_url": {"url": Inline(first.asset, "data-uri")}, "frame_type": "first_frame"},
        {"type": "image_url", "image_url": {"url": Inline(last.asset, "data-uri")}, "frame_type": "last_frame"},
    ]


def test_references_have_no_roles_on_the_wire() -> None:
    _, sent = submitted(wished(guided("style", "character", "composition"), WAN), WAN)
    given = [AssetRef(one.asset.key, one.asset.sha256, 1, "image/png") for one in guided(*("style",) * 3).inputs]
    assert sent.body == {
        "model": WAN,
        "prompt": "p",
        "duration": 5,
        "resolution": "720p",
        "generate_audio": True,
        "input_references": [{"type": "image_url", "image_url": {"url": Inline(asset)}} for asset in given],
    }


def test_a_job_is_gone_on_with_by_its_name_and_its_clip_stays_here() -> None:
    _, sent = submitted(wished(after(made()), FLUX), FLUX)
    wanted = {"duration": 5, "resolution": "720p", "generate_audio": True, "previous_job_id": "aJobOfTheirs"}
    assert sent.body == {"model": FLUX, "prompt": "p", **wanted}
    _, sent = submitted(wished(after(made(SEEDANCE), VideoToVideo()), SEEDANCE), SEEDANCE)
    assert isinstance(sent.body, dict)
    assert sent.body["previous_job_id"] == "aJobOfTheirs"


def test_a_job_whose_model_nobody_knows_is_gone_on_with() -> None:
    """Its handle was given by hand."""
    found = Made(job="job_0", provider="openrouter", handle=Handle("aJobOfTheirs"))
    _, sent = submitted(wished(after(found), FLUX), FLUX)
    assert isinstance(sent.body, dict)
    assert sent.body["previous_job_id"] == "aJobOfTheirs"


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (None, "give inputs[0] as the job that made it"),
        (made(provider="runway"), "give inputs[0] as the job that made it"),
        (made(SEEDANCE), "was made by bytedance/seedance-2.5, and no other model can go on with it"),
    ],
)
def test_a_clip_of_another_is_refused_by_name(one: Made | None, told: str) -> None:
    (fault,) = faults(after(one), FLUX)
    assert (fault.field, told in fault.detail) == ("inputs[0]", True), fault


def test_what_only_the_maker_knows_is_passed_on_under_its_name() -> None:
    spec = msgspec.structs.replace(WORDS, negative_prompt="rain", provider_options={"personGeneration": "allow_all"})
    _, sent = submitted(wished(spec, VEO), VEO)
    assert isinstance(sent.body, dict)
    assert sent.body["provider"] == {
        "options": {"google-vertex": {"parameters": {"negativePrompt": "rain", "personGeneration": "allow_all"}}}
    }
    assert set(sent.body) == {"model", "prompt", "duration", "resolution", "generate_audio", "provider"}
    _, sent = submitted(wished(msgspec.structs.replace(WORDS, negative_prompt="rain", enhance_prompt=False), WAN), WAN)
    assert isinstance(sent.body, dict)
    assert sent.body["provider"] == {
        "options": {"alibaba": {"parameters": {"negative_prompt": "rain", "prompt_extend": False}}}
    }


def plain(model: Model) -> VideoSpec:
    """A request with a file in every role of a row."""
    clips = {"source": clip(made(model.id))}
    inputs = tuple(clips[role] if KINDS[role] == "video" else picture(role) for role in model.roles)
    asked = Extend() if "extend" in model.operations else None
    return VideoSpec(prompt="p", operation=operation_of(asked, set(model.roles)), inputs=inputs)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.id}, {model.operations[-1]}")
def test_whatever_the_data_admits_is_sent(model: Model) -> None:
    """Else a wish would pass validation and be dropped."""
    wishes: dict[str, object] = {"duration_seconds": model.durations_s[-1], "resolution": model.resolutions[-1]}
    wishes |= {"aspect_ratio": model.aspect_ratios[-1]} if model.aspect_ratios else {}
    wishes |= {name: {"seed": 7, "negative_prompt": "no"}.get(name, True) for name in model.fields}
    spec = msgspec.structs.replace(plain(model), **wishes)
    _, sent = submitted(wished(spec, model.id), model.id)
    assert isinstance(sent.body, dict)
    passed = {name for name in wishes if model.wire[name] not in sent.body}
    makers = sent.body.get("provider", {"options": {}})["options"].values()
    assert [set(maker["parameters"]) for maker in makers] == ([{model.wire[name] for name in passed}] if passed else [])
    assert {model.wire[role] for role in model.roles} <= set(sent.body)
    assert model.draws_seed == ("seed" in sent.body)


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        (GROK, msgspec.structs.replace(WORDS, negative_prompt="rain"), "negative_prompt"),
        (GROK, msgspec.structs.replace(WORDS, seed=7), "seed"),
        (GROK, msgspec.structs.replace(WORDS, generate_audio=True), "generate_audio"),
        (GROK, msgspec.structs.replace(WORDS, duration_seconds=16.0), "duration_seconds"),
        (GROK, msgspec.structs.replace(WORDS, duration_seconds=1.5), "duration_seconds"),
        (GROK, msgspec.structs.replace(WORDS, resolution="1080p"), "resolution"),
        (GROK, msgspec.structs.replace(WORDS, provider_options={"safety": "off"}), "provider_options.safety"),
        (GROK, images(picture("last_frame")), "inputs"),
        (GROK, images(picture(), picture("last_frame", b"2")), "inputs"),
        (GROK, guided(*("character",) * 5, *("style",) * 3), "inputs"),
        (GROK, after(made(GROK), VideoToVideo()), "inputs"),
        (GROK, after(made(GROK)), "operation"),
        (VEO, msgspec.structs.replace(WORDS, duration_seconds=5.0), "duration_seconds"),
        (VEO, msgspec.structs.replace(WORDS, aspect_ratio="square"), "aspect_ratio"),
        (
            VEO,
            msgspec.structs.replace(WORDS, provider_options={"negativePrompt": "x"}),
            "provider_options.negativePrompt",
        ),
        (
            VEO,
            msgspec.structs.replace(WORDS, provider_options={"personGeneration": "x"}),
            "provider_options.personGeneration",
        ),
        (VEO, guided("style"), "inputs"),
        (WAN, guided(*("style",) * 4), "inputs"),
        (WAN, images(picture(), picture("style")), "inputs"),
        (FLUX, after(made(), VideoToVideo()), "inputs"),
        (FLUX, msgspec.structs.replace(after(made()), aspect_ratio="16:9"), "aspect_ratio"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_its_name(model: str, spec: VideoSpec, field: str) -> None:
    assert {fault.field for fault in faults(spec, model)} == {field}


@pytest.mark.parametrize(
    ("model", "wishes", "usd"),
    [
        (GROK, {"resolution": "480p"}, 0.05),
        (GROK, {}, 0.07),
        (VEO, {"resolution": "4k"}, 0.6),
        (VEO, {"resolution": "4k", "generate_audio": False}, 0.4),
        (VEO, {"resolution": "fhd"}, 0.4),
        (VEO, {"generate_audio": False}, 0.2),
        ("google/veo-3.1-fast", {"generate_audio": False}, 0.08),
        ("google/veo-3.1-fast", {"generate_audio": False, "resolution": "fhd"}, 0.1),
        ("google/veo-3.1-fast", {"resolution": "fhd"}, 0.12),
        ("google/veo-3.1-lite", {"resolution": "fhd"}, 0.08),
        ("alibaba/wan-3.0", {"resolution": "fhd"}, 0.2),
        ("kwaivgi/kling-v3.0-std", {"generate_audio": False}, 0.084),
        (FLUX, {}, 0.17),
    ],
)
def test_a_second_costs_what_their_list_says(model: str, wishes: dict[str, object], usd: float) -> None:
    spec, row = fit(msgspec.structs.replace(WORDS, duration_seconds=8.0, **wishes), rows_of(OPENROUTER, model))
    cost = estimate(spec, row)
    assert cost is not None
    assert (cost.micro_usd, cost.as_of) == (round(8 * usd * 1e6), "2026-10-09")


def test_pictures_and_jobs_that_are_gone_on_with_have_prices_of_their_own() -> None:
    for spec, model, micro_usd in (
        (images(picture()), GROK, 5 * 70_000 + 2_000),
        (guided("style", "style", "character"), GROK, 5 * 70_000 + 3 * 2_000),
        (after(made()), FLUX, 5 * 410_000),
        (msgspec.structs.replace(after(made()), resolution="fhd"), FLUX, 5 * 530_000),
    ):
        cost = estimate(*fit(spec, rows_of(OPENROUTER, model)))
        assert cost is not None
        assert cost.micro_usd == micro_usd


def test_what_is_paid_by_tokens_has_no_price() -> None:
    assert estimate(*fit(WORDS, rows_of(OPENROUTER, "bytedance/seedance-2.0"))) is None


def test_a_model_that_they_no_longer_list_is_refused_by_its_name() -> None:
    with pytest.raises(BadRequest) as refused:
        route("openrouter/openai/sora-2-pro", {"openrouter": OPENROUTER}, "2026-11-21")
    assert (refused.value.code, "2026-09-24" in str(refused.value)) == ("model_retired", True)


def added(**more: object) -> OpenRouter:
    """The adapter with a model that settings add."""
    setting = msgspec.convert({"provider": "openrouter", **more}, ModelSetting)
    adapter = OpenRouter()
    adapter.capabilities = with_settings(adapter, [setting])
    return adapter


def test_a_model_of_the_settings_is_asked_for_by_its_own_name() -> None:
    adapter = added(id="google/veo-4", like=VEO, durations_s=[4.0, 12.0])
    spec = msgspec.structs.replace(WORDS, duration_seconds=12.0, negative_prompt="rain")
    spec, _ = fit(spec, rows_of(adapter, "google/veo-4"))
    flow = adapter.submit(spec, target("google/veo-4"), {}, "job_1-1")
    sent = next(flow)
    assert isinstance(sent, Request)
    assert isinstance(sent.body, dict)
    assert (sent.body["model"], sent.body["duration"]) == ("google/veo-4", 12)
    assert sent.body["provider"]["options"]["google-vertex"]["parameters"] == {"negativePrompt": "rain"}


def test_what_nobody_knows_how_to_pass_on_is_refused_by_its_name() -> None:
    adapter = added(id="somebody/film", like=VEO)
    spec, _ = fit(msgspec.structs.replace(WORDS, negative_prompt="rain"), rows_of(adapter, "somebody/film"))
    with pytest.raises(BadRequest) as refused:
        needs_prepare(adapter, spec, target("somebody/film"))
    assert refused.value.field == "negative_prompt"
    assert not needs_prepare(adapter, fit(WORDS, rows_of(adapter, "somebody/film"))[0], target("somebody/film"))


def test_nothing_needs_preparing() -> None:
    for spec, model in ((images(picture()), GROK), (guided("style"), WAN), (after(made()), FLUX)):
        assert not needs_prepare(OPENROUTER, wished(spec, model), target(model))


# ── What an order may answer ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("id", [HANDLE.id, "gen-vid-1786406418-abcdefghij0123456789"])
def test_an_order_is_taken_whatever_else_its_answer_holds(id: str) -> None:
    odd = {"id": id, "status": 7, "polling_url": None, "error": error(400)["error"], "new": True}
    assert submitted(WORDS, answer=reply(202, odd, BLANK))[0] == Handle(id, {"model": GROK})


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
        (409, "invalid_input"),
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
        ({"unsigned_urls": [CONTENT.removeprefix("https://openrouter.ai")]}, CONTENT),
        ({"unsigned_urls": None, "urls": None}, CONTENT),
        ({}, CONTENT),
    ],
)
def test_where_the_video_lies(told: dict[str, object], wanted: str) -> None:
    done = outcome(status="completed", **told)
    assert isinstance(done, Done)
    assert ([urljoin(f"{BASE_URL}/", output.url) for output in done.outputs], done.cost) == ([wanted], None)


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
