"""OpenRouter's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rushes.adapters.base import Ask, Broken, Done, Failed, Request, Response, Stopped, Unfinished, Vanished, play
from rushes.adapters.capabilities import Model, estimate, normalise
from rushes.adapters.openrouter import MODELS, OpenRouter
from rushes.emulators.openrouter import MAX_BODY_BYTES, OpenRouterTwin
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Target, TextToVideo, VideoSpec

BASE = "https://openrouter.ai/api/v1"
OPENROUTER = OpenRouter()
GROK = MODELS[0]
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = AssetRef("inputs/p", "ab" * 32, 5, "image/png")
ORDER = {"model": GROK.id, "prompt": "a lake", "duration": 5, "resolution": "480p"}


class Wire:
    """A twin, a key and a time."""

    def __init__(self, twin: OpenRouterTwin | None = None, key: str = "") -> None:
        self.twin = twin or OpenRouterTwin(clip=b"clip", pending_s=5.0, render_s=8.0)
        self.now, self.key = 1_000.0, key

    def __call__(self, ask: Ask) -> Response:
        assert isinstance(ask, Request)
        headers = {**ask.headers, **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        url = ask.url if "://" in ask.url else BASE + ask.url
        return self.twin.handle(msgspec.structs.replace(ask, url=url, headers=headers), self.now)

    def submit(self, spec: VideoSpec = WORDS, model: Model = GROK) -> Handle:
        return play(OPENROUTER.submit(normalise(spec, model), target(model.id), {}, "job_1-1"), self)

    def get(self, url: str) -> Response:
        return self(Request(method="GET", url=url))

    def post(self, body: dict[str, Any] | None, **headers: str) -> Response:
        return self(Request(method="POST", url="/videos", body=body, headers=headers))

    def status(self, handle: Handle, at: float) -> object:
        self.now = at
        return play(OPENROUTER.status(handle, target()), self)


def target(model: str = GROK.id) -> Target:
    return Target(provider="openrouter", model=model, credential="OPENROUTER_API_KEY")


def asked(prompt: str) -> VideoSpec:
    return msgspec.structs.replace(WORDS, prompt=prompt)


def test_a_job_waits_runs_and_is_done() -> None:
    wire = Wire()
    handle = wire.submit()
    assert wire.status(handle, 1_004.0) == Unfinished(None, stage="pending")
    assert wire.status(handle, 1_012.0) == Unfinished(None, stage="in_progress")
    done = wire.status(handle, 1_013.0)
    assert isinstance(done, Done)
    assert done.metadata["generation_id"].startswith("gen-vid-1000-")
    result = wire.get(done.outputs[0].url)
    assert (result.body, result.headers["content-type"]) == (b"clip", "video/mp4")
    assert wire.twin.charges == [handle.id]


def test_an_order_is_answered_below_blank_lines_and_without_its_generation() -> None:
    reply = Wire().post(ORDER)
    assert (reply.status, reply.body[:11]) == (202, b"\n         \n")
    created = msgspec.json.decode(reply.body, type=dict[str, str])
    assert set(created) == {"id", "polling_url", "status"}
    assert len(created["id"]) == 20


def test_what_it_cost_is_within_the_estimate() -> None:
    for model in MODELS:
        wire = Wire()
        spec = msgspec.structs.replace(WORDS, duration_seconds=model.durations_s[-1], resolution=model.resolutions[-1])
        done = wire.status(wire.submit(spec, model), 1_020.0)
        bound = estimate(normalise(spec, model), model)
        assert isinstance(done, Done)
        assert done.cost is not None
        assert bound is not None
        assert 0 < done.cost.micro_usd <= bound.micro_usd


def test_hours_later_everything_is_gone() -> None:
    wire = Wire()
    handle = wire.submit()
    done = wire.status(handle, 1_013.0)
    assert isinstance(done, Done)
    gone = wire.status(handle, 1_013.0 + 4 * 3_600.0)
    assert isinstance(gone, Broken)
    assert gone.fault.code == "asset_expired"
    assert wire.get(done.outputs[0].url).status == 410


def test_a_signed_address_asks_for_no_key_and_lives_as_long_as_it_says() -> None:
    wire = Wire(OpenRouterTwin(clip=b"clip", key="right", signed_s=60.0), key="right")
    handle = wire.submit()
    done = wire.status(handle, 1_013.0)
    again = wire.status(handle, 1_050.0)
    assert isinstance(done, Done)
    assert isinstance(again, Done)
    wire.key = ""
    assert wire.get(done.outputs[0].url).body == b"clip"
    wire.now = 1_073.0
    assert wire.get(done.outputs[0].url).status == 403
    assert wire.get(again.outputs[0].url).body == b"clip"


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("forbidden", "moderated"),
        ("broken", "generation_failed"),
        ("dead", "generation_failed"),
        ("late", "asset_expired"),
    ],
)
def test_moderation_and_failures(word: str, code: str) -> None:
    wire = Wire()
    broken = wire.status(wire.submit(asked(f"a {word} lake")), 2_000.0)
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.billed) == (code, "unknown")


def test_a_job_that_they_withdraw_has_stopped() -> None:
    wire = Wire()
    assert wire.status(wire.submit(asked("a withdrawn lake")), 2_000.0) == Stopped("unknown")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_what_the_adapter_sends_is_what_the_twin_knows(model: Model) -> None:
    """Two tables written apart: the adapter's data and the twin's offers."""
    inputs = tuple(Input(role=role, asset=IMAGE) for role in model.roles)
    spec = VideoSpec(prompt="p", operation=ImageToVideo(), inputs=inputs)
    spec = msgspec.structs.replace(spec, **{name: {"seed": 7}.get(name, True) for name in model.fields})
    wire = Wire()
    wishes: list[dict[str, object]] = [{"duration_seconds": seconds} for seconds in model.durations_s]
    wishes += [{"aspect_ratio": ratio} for ratio in model.aspect_ratios]
    wishes += [{"resolution": lines} for lines in model.resolutions]
    for wish in wishes:
        wire.submit(msgspec.structs.replace(spec, **wish), model)
    assert (len(wire.twin.charges), wire.twin.dropped) == (len(wishes), [])


def refused(wire: Wire, spec: VideoSpec = WORDS) -> Failed:
    with pytest.raises(Failed) as failed:
        wire.submit(spec)
    return failed.value


@pytest.mark.parametrize(
    ("twin", "prompt", "code"),
    [
        (OpenRouterTwin(clip=b"", key="right"), "a lake", "authentication_failed"),
        (OpenRouterTwin(clip=b"", credit_usd=0.3), "a lake", "quota_exceeded"),
        (OpenRouterTwin(clip=b"", per_minute=0), "a lake", "rate_limited"),
        (OpenRouterTwin(clip=b""), "a flagged lake", "moderated"),
        (OpenRouterTwin(clip=b""), "a refused lake", "invalid_input"),
    ],
)
def test_refusals_come_before_any_charge(twin: OpenRouterTwin, prompt: str, code: str) -> None:
    failed = refused(Wire(twin, key="wrong"), asked(prompt))
    assert (failed.certain, failed.fault.code, twin.charges) == (True, code, [])


def test_a_missing_key_and_a_wrong_one_are_told_apart() -> None:
    twin = OpenRouterTwin(clip=b"", key="right")
    assert "Missing Authentication header" in refused(Wire(twin)).fault.detail
    assert "User not found" in refused(Wire(twin, key="wrong")).fault.detail
    assert Wire(twin).get("/videos/models").status == 200


def test_an_unsure_answer_hides_a_job_that_was_charged() -> None:
    wire = Wire()
    failed = refused(wire, asked("an unsure lake"))
    assert (failed.certain, len(wire.twin.charges)) == (False, 1)


def test_orders_are_throttled_for_a_minute() -> None:
    wire = Wire(OpenRouterTwin(clip=b"", per_minute=1))
    wire.submit()
    assert refused(wire).fault.retry_after_s == 30.0
    wire.now += 61.0
    wire.submit()


def test_a_budget_for_jobs_under_way_is_free_again_when_they_end() -> None:
    wire = Wire(OpenRouterTwin(clip=b"", at_once=1))
    wire.submit()
    failed = refused(wire)
    assert (failed.fault.code, failed.fault.retryable, failed.fault.retry_after_s) == ("quota_exceeded", True, 10.0)
    wire.now += 13.0
    wire.submit()


FRAME = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}, "frame_type": "first_frame"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": None},
        {"model": ""},
        {"duration": 16},
        {"duration": "5"},
        {"duration": True},
        {"resolution": "1080p"},
        {"aspect_ratio": "21:9"},
        {"prompt": ""},
        {"prompt": 7},
        {"frame_images": [{**FRAME, "frame_type": "last_frame"}]},
        {"frame_images": [{**FRAME, "image_url": "data:image/png;base64,AA=="}]},
        {"frame_images": [{**FRAME, "image_url": {"url": "ftp://host/a.png"}}]},
        {"frame_images": ["first"]},
    ],
)
def test_wrong_values_are_named_and_not_charged(wrong: dict[str, Any]) -> None:
    wire = Wire()
    reply = wire.post(ORDER | wrong)
    assert (reply.status, wire.twin.charges) == (400, [])
    fault = OPENROUTER.fault(reply)
    assert fault is not None
    (name,) = wrong
    assert name in fault.detail


def test_right_values_are_taken() -> None:
    wire = Wire()
    assert wire.post(ORDER | {"frame_images": [FRAME]}).status == 202
    assert wire.post({"model": GROK.id, "frame_images": [FRAME]}).status == 202
    assert len(wire.twin.charges) == 2


def test_an_unknown_wish_is_dropped_in_silence() -> None:
    wire = Wire()
    assert wire.post(ORDER | {"seed": 7, "negative_prompt": "rain"}).status == 202
    assert wire.twin.dropped == ["negative_prompt", "seed"]


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/videos/none", 404),
        ("GET", "/videos/none/content", 404),
        ("DELETE", "/videos/none", 404),
        ("GET", "/elsewhere", 404),
        ("GET", "/videos", 404),
        ("POST", "/videos", 400),
    ],
)
def test_every_error_has_one_envelope(method: str, url: str, status: int) -> None:
    reply = Wire()(Request(method=method, url=url))
    assert reply.status == status
    assert OPENROUTER.fault(reply) is not None


def test_an_unknown_model_and_a_body_too_large() -> None:
    assert Wire().post(ORDER | {"model": "nobody/nothing"}).status == 404
    assert Wire().post(ORDER, **{"content-length": str(MAX_BODY_BYTES + 1)}).status == 413
    assert Wire().post(ORDER, **{"content-length": str(MAX_BODY_BYTES)}).status == 202


def test_a_video_is_not_there_before_it_is_done() -> None:
    wire = Wire()
    handle = wire.submit()
    assert wire.get(f"/videos/{handle.id}/content?index=0").status == 409
    wire.now = 1_013.0
    assert wire.get(f"/videos/{handle.id}/content?index=1").status == 400
    assert wire.get(f"/videos/{handle.id}/content?index=0").status == 200
    assert wire.get(f"/videos/{handle.id}/content").status == 200


def test_a_job_that_is_quick_is_never_in_progress() -> None:
    wire = Wire(OpenRouterTwin(clip=b"", pending_s=5.0, render_s=0.0))
    handle = wire.submit()
    assert wire.status(handle, 1_004.9) == Unfinished(None, stage="pending")
    assert isinstance(wire.status(handle, 1_005.0), Done)


def test_the_list_of_models_is_the_adapters_data() -> None:
    data = msgspec.json.decode(Wire().get("/videos/models").body)["data"]
    lines = {"4K": "2160p"}
    listed = {
        row["id"]: (
            [lines.get(name, name) for name in row["supported_resolutions"]],
            sorted(row["supported_aspect_ratios"]),
            row["supported_durations"],
            row["supported_frame_images"],
        )
        for row in data
    }
    assert listed == {
        model.id: (list(model.resolutions), sorted(model.aspect_ratios), list(model.durations_s), list(model.roles))
        for model in MODELS
    }


def test_the_ledger_tells_what_came_and_what_was_charged() -> None:
    wire = Wire()
    handle = wire.submit()
    assert [(line.what, line.about) for line in wire.twin.ledger] == [
        ("request", "POST /api/v1/videos"),
        ("charge", handle.id),
    ]


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(OpenRouterTwin(clip=b"", seed=1)).submit() != Wire().submit()


def test_an_unknown_job_has_vanished() -> None:
    assert Wire().status(Handle("A" * 20), 0.0) == Vanished()
