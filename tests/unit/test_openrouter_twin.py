"""OpenRouter's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import msgspec
import pytest

from rushes.adapters.base import Ask, Broken, Done, Failed, Request, Response, Stopped, Unfinished, Vanished, play
from rushes.adapters.fit import normalise
from rushes.adapters.openrouter import OpenRouter
from rushes.adapters.openrouter_models import MODELS
from rushes.emulators.openrouter import MAX_BODY_BYTES, OpenRouterTwin
from rushes.testing import wires
from rushes.testing.adapters import every
from rushes.units import AssetRef, Handle
from rushes.video import Extend, Input, Made, Target, TextToVideo, VideoSpec

BASE = "https://openrouter.ai/api/v1"
OPENROUTER = OpenRouter()
GROK = MODELS[0]
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
FLUX, FLUX_ON = (model for model in MODELS if model.id == "black-forest-labs/flux-3-video")
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

    def submit(self, spec: VideoSpec = WORDS) -> Handle:
        return play(OPENROUTER.submit(normalise(spec, GROK), target(), {}, "job_1-1"), self)

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


def test_nothing_that_the_adapters_data_admit_is_dropped() -> None:
    """Two tables written apart: the adapter's data and the twin's offers."""
    pair = wires.Pair(OPENROUTER, OpenRouterTwin)
    orders = every(pair)
    assert {order.model.id for order in orders} == {model.id for model in MODELS}
    for order in orders:
        wire = wires.Wire(pair)
        wire.submit(order)
        assert isinstance(wire.twin, OpenRouterTwin)
        assert wire.twin.dropped == [], order.about


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


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
FRAME = IMAGE | {"frame_type": "first_frame"}
LAST = IMAGE | {"frame_type": "last_frame"}


@pytest.mark.parametrize(
    ("body", "usd"),
    [
        ({}, 5 * 0.05),
        ({"resolution": "720p"}, 5 * 0.07),
        ({"frame_images": [FRAME]}, 5 * 0.05 + 0.002),
        ({"input_references": [IMAGE] * 7}, 5 * 0.05 + 7 * 0.002),
        ({"model": "google/veo-3.1", "duration": 8, "resolution": "4K"}, 8 * 0.6),
        ({"model": "google/veo-3.1", "duration": 8, "resolution": "4K", "generate_audio": False}, 8 * 0.4),
        ({"model": "google/veo-3.1-lite", "duration": 4, "resolution": "720p"}, 4 * 0.05),
        ({"model": "kwaivgi/kling-v3.0-pro", "resolution": "720p", "generate_audio": False}, 5 * 0.112),
        ({"model": "alibaba/wan-3.0", "duration": 30, "resolution": "1080p"}, 30 * 0.2),
        ({"model": "bytedance/seedance-2.0", "resolution": "720p"}, 5 * 1280 * 720 * 24 / 1024 * 7e-6),
        (
            {"model": "bytedance/seedance-2.0", "resolution": "4K", "aspect_ratio": "9:16"},
            5 * 2160 * 3840 * 24 / 1024 * 4e-6,
        ),
    ],
)
def test_a_video_costs_what_the_list_says(body: dict[str, Any], usd: float) -> None:
    wire = Wire()
    assert wire.post(ORDER | body).status == 202
    (charge,) = wire.twin.ledger.charges
    assert charge.amount == pytest.approx(usd, abs=1e-6)


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
        {"input_references": [IMAGE] * 8},
        {"input_references": [{"type": "video_url", "video_url": {"url": "https://host/a.mp4"}}]},
        {"previous_job_id": 7},
        {"previous_job_id": "none"},
        {"provider": "google-vertex"},
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
    assert wire.post({"model": "google/veo-3.1", "frame_images": [FRAME, LAST]}).status == 202
    assert len(wire.twin.charges) == 3


def test_an_unknown_wish_is_dropped_in_silence() -> None:
    wire = Wire()
    assert wire.post(ORDER | {"seed": 7, "negative_prompt": "rain"}).status == 202
    assert wire.twin.dropped == ["negative_prompt", "seed"]


def test_references_are_dropped_beside_frames_and_where_the_model_takes_none() -> None:
    wire = Wire()
    assert wire.post(ORDER | {"frame_images": [FRAME], "input_references": [IMAGE]}).status == 202
    assert wire.twin.dropped == ["input_references"]
    assert wire.post({"model": "google/veo-3.1", "prompt": "a lake", "input_references": [IMAGE]}).status == 202
    assert wire.twin.dropped == ["input_references"] * 2
    assert [sorted(job.wishes) for job in wire.twin.jobs.values()][1] == ["model", "prompt"]


@pytest.mark.parametrize(
    ("options", "dropped"),
    [
        ({"google-vertex": {"parameters": {"negativePrompt": "rain"}}}, []),
        ({"google-vertex": {"parameters": {"negative_prompt": "rain"}}}, ["google-vertex.negative_prompt"]),
        ({"google": {"parameters": {"negativePrompt": "rain"}}}, ["google.negativePrompt"]),
        ({"google-vertex": {"negativePrompt": "rain"}}, ["google-vertex.negativePrompt"]),
    ],
)
def test_what_is_passed_on_must_have_the_makers_name_and_its_own(options: object, dropped: list[str]) -> None:
    wire = Wire()
    body = {"model": "google/veo-3.1", "prompt": "a lake", "provider": {"options": options}}
    assert wire.post(body).status == 202
    assert wire.twin.dropped == dropped


# ── Going on with a job ───────────────────────────────────────────────────────────────────────────────────────────────


def going_on(handle: Handle) -> VideoSpec:
    asset = AssetRef("takes/1", "ab" * 32, 9, "video/mp4")
    before = Made(job="job_0", provider="openrouter", handle=handle)
    given = Input(type="video", role="source", asset=asset, duration_seconds=5.0, made=before)
    return normalise(VideoSpec(prompt="on", operation=Extend(), inputs=(given,)), FLUX_ON)


def test_a_job_that_is_done_is_gone_on_with() -> None:
    wire = Wire()
    first = play(OPENROUTER.submit(normalise(WORDS, FLUX), target(FLUX.id), {}, "job_1-1"), wire)
    wire.now += 13.0
    second = play(OPENROUTER.submit(going_on(first), target(FLUX.id), {}, "job_2-1"), wire)
    assert wire.twin.jobs[second.id].wishes["previous_job_id"] == first.id
    assert [charge.micro_usd for charge in wire.twin.ledger.charges] == [5 * 170_000, 5 * 410_000]


@pytest.mark.parametrize(
    ("model", "later_s", "status"),
    [
        (FLUX.id, 12.9, 409),
        (FLUX.id, 13.0, 202),
        (FLUX.id, 13.0 + 4 * 3_600.0, 409),
        ("bytedance/seedance-2.5", 13.0, 400),
        (GROK.id, 13.0, 400),
    ],
)
def test_a_job_is_gone_on_with_once_it_is_done_and_by_its_own_model(model: str, later_s: float, status: int) -> None:
    wire = Wire()
    first = play(OPENROUTER.submit(normalise(WORDS, FLUX), target(FLUX.id), {}, "job_1-1"), wire)
    wire.now += later_s
    reply = wire.post({"model": model, "prompt": "on", "previous_job_id": first.id})
    assert (reply.status, len(wire.twin.charges)) == (status, 2 if status == 202 else 1)


def test_a_job_that_is_not_there_cannot_be_gone_on_with() -> None:
    assert Wire().post({"model": FLUX.id, "prompt": "on", "previous_job_id": "none"}).status == 404


def test_that_a_job_cannot_be_gone_on_with_is_a_certain_refusal() -> None:
    wire = Wire()
    first = play(OPENROUTER.submit(normalise(WORDS, FLUX), target(FLUX.id), {}, "job_1-1"), wire)
    with pytest.raises(Failed) as failed:
        play(OPENROUTER.submit(going_on(first), target(FLUX.id), {}, "job_2-1"), wire)
    assert (failed.value.certain, failed.value.fault.code, len(wire.twin.charges)) == (True, "invalid_input", 1)


# ── The other forms ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_and_addresses_may_have_their_other_form() -> None:
    wire = Wire(OpenRouterTwin(clip=b"clip", long_ids=True, relative=True))
    reply = wire.post(ORDER)
    told = msgspec.json.decode(reply.body, type=dict[str, str])
    assert told["id"].startswith("gen-vid-1000-")
    assert told["polling_url"] == f"/api/v1/videos/{told['id']}"
    done = wire.status(Handle(told["id"]), 1_013.0)
    assert isinstance(done, Done)
    assert done.outputs[0].url == f"/api/v1/videos/{told['id']}/content?index=0"
    assert wire.get(urljoin(f"{BASE}/", done.outputs[0].url)).body == b"clip"


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
    wanted = {
        model.id: (list(model.resolutions), sorted(model.aspect_ratios), list(model.durations_s), list(model.roles))
        for model in MODELS
        if "text-to-video" in model.operations
    }
    assert {name: listed[name] for name in wanted} == wanted
    assert set(listed) - set(wanted) == {"minimax/hailuo-2.3"}, "one is left for settings to add"


def test_the_ledger_tells_what_came_and_what_was_charged() -> None:
    wire = Wire()
    handle = wire.submit()
    assert [line.about for line in wire.twin.ledger.requests] == ["POST /api/v1/videos"]
    (charge,) = wire.twin.ledger.charges
    assert (charge.job, charge.unit, charge.micro_usd) == (handle.id, "USD", round(charge.amount * 10**6))


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(OpenRouterTwin(clip=b"", seed=1)).submit() != Wire().submit()


def test_an_unknown_job_has_vanished() -> None:
    assert Wire().status(Handle("A" * 20), 0.0) == Vanished()
