"""xAI's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import pytest

from rushes.adapters.base import Ask, Broken, Done, Failed, Request, Response, Unfinished, Vanished, play
from rushes.adapters.capabilities import Model, estimate, normalise
from rushes.adapters.xai import ID, MODELS, Xai
from rushes.emulators.xai import XaiTwin
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Target, TextToVideo, VideoSpec

BASE = "https://api.x.ai/v1"
XAI = Xai()
IMAGINE, NEWER = MODELS
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = AssetRef("inputs/p", "ab" * 32, 5, "image/png")
PICTURE = {"url": "data:image/png;base64,AAAA"}
BODY: dict[str, object] = {"model": "grok-imagine-video", "prompt": "a lake"}


class Wire:
    """A twin, a key and a time."""

    def __init__(self, twin: XaiTwin | None = None, token: str = "") -> None:
        self.twin = twin or XaiTwin(clip=b"0123456789", render_s=100.0)
        self.now, self.token = 1_000.0, token

    def __call__(self, ask: Ask) -> Response:
        assert isinstance(ask, Request)
        headers = {**ask.headers, **({"authorization": f"Bearer {self.token}"} if self.token else {})}
        url = ask.url if "://" in ask.url else BASE + ask.url
        return self.twin.handle(msgspec.structs.replace(ask, url=url, headers=headers), self.now)

    def submit(self, spec: VideoSpec = WORDS, model: Model = IMAGINE) -> Handle:
        return play(XAI.submit(normalise(spec, model), target(model.id), {}, "job_1-1"), self)

    def ask(self, body: dict[str, object] | None) -> Response:
        return self(Request(method="POST", url="/videos/generations", body=body))

    def status(self, handle: Handle, at: float) -> object:
        self.now = at
        return play(XAI.status(handle, target()), self)

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Response:
        return self(Request(method="GET", url=url, headers=headers or {}))


def target(model: str = "grok-imagine-video") -> Target:
    return Target(provider="xai", model=model, credential="XAI_API_KEY")


def done(wire: Wire, handle: Handle, at: float = 1_100.0) -> Done:
    outcome = wire.status(handle, at)
    assert isinstance(outcome, Done)
    return outcome


def test_progress_stands_at_one_then_jumps_and_then_it_is_done() -> None:
    wire = Wire()
    handle = wire.submit()
    seen = [wire.status(handle, 1_000.0 + s) for s in (0.0, 50.0, 86.0, 88.0, 92.0, 96.0)]
    assert seen == [Unfinished(percent, "pending") for percent in (1, 1, 1, 18, 56, 94)]
    assert wire.get(f"/videos/{handle.id}").status == 202
    result = wire.get(done(wire, handle).outputs[0].url)
    assert (result.status, result.body, result.headers["content-type"]) == (200, b"0123456789", "video/mp4")
    assert wire.twin.charges == [handle.id]


def test_a_result_names_its_md5_and_comes_in_parts() -> None:
    wire = Wire()
    url = done(wire, wire.submit()).outputs[0].url
    etag = hashlib.md5(b"0123456789", usedforsecurity=False).hexdigest()
    assert wire.get(url).headers["etag"] == f'"{etag}"'
    part = wire.get(url, {"Range": "bytes=3-5"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"345", "bytes 3-5/10")
    assert wire.get(url, {"Range": "bytes=8-"}).body == b"89"
    assert wire.get(url, {"Range": "bytes=10-"}).status == 416


def test_a_link_stops_working_and_works_again_once_it_was_asked_for() -> None:
    wire = Wire()
    handle = wire.submit()
    url = done(wire, handle).outputs[0].url
    wire.now = 1_100.0 + 3_600.0
    assert wire.get(url).status == 404
    assert wire.get(done(wire, handle, wire.now).outputs[0].url).status == 200


def test_a_file_that_no_answer_has_named_is_not_there() -> None:
    wire = Wire()
    handle = wire.submit()
    wire.now = 2_000.0
    assert wire.get(f"https://vidgen.x.ai/xai-vidgen-bucket/xai-video-{handle.id}.mp4").status == 404


def test_a_request_expires_and_is_forgotten() -> None:
    wire = Wire()
    handle = wire.submit()
    expired = wire.status(handle, 1_000.0 + 86_400.0)
    assert isinstance(expired, Broken)
    assert expired.fault.code == "asset_expired"
    assert wire.status(handle, 1_000.0 + 7 * 86_400.0) == Vanished()


@pytest.mark.parametrize(
    ("word", "code", "billed"),
    [
        ("forbidden", "moderated", "yes"),
        ("disallowed", "moderated", "unknown"),
        ("broken", "generation_failed", "unknown"),
    ],
)
def test_words_decide_how_it_ends(word: str, code: str, billed: str) -> None:
    wire = Wire()
    handle = wire.submit(msgspec.structs.replace(WORDS, prompt=f"a {word} lake"))
    assert wire.status(handle, 1_050.0) == Unfinished(1, "pending")
    ended = wire.status(handle, 1_100.0)
    assert isinstance(ended, Broken)
    assert (ended.fault.code, ended.billed) == (code, billed)
    assert wire.get(f"https://vidgen.x.ai/xai-vidgen-bucket/xai-video-{handle.id}.mp4").status == 404


def test_a_picture_without_a_prompt_is_taken_and_gets_its_verdict_later() -> None:
    wire = Wire()
    started = wire.ask({"model": "grok-imagine-video", "image": PICTURE})
    handle = Handle(msgspec.json.decode(started.body, type=dict[str, str])["request_id"])
    verdict = wire.status(handle, 1_100.0)
    assert isinstance(verdict, Broken)
    assert verdict.fault.code == "invalid_input"


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (IMAGINE, ()),
        (IMAGINE, (Input(asset=IMAGE),)),
        (IMAGINE, tuple(Input(role="general", asset=IMAGE) for _ in range(7))),
        (NEWER, ()),
        (NEWER, (Input(asset=IMAGE),)),
    ],
)
def test_whatever_the_adapters_data_admits_is_known_to_the_twin_and_costs_no_more_than_was_estimated(
    model: Model, inputs: tuple[Input, ...]
) -> None:
    """Two tables written apart: the adapter's limits and the twin's."""
    spec = VideoSpec(prompt="p", operation=ImageToVideo() if inputs else TextToVideo(), inputs=inputs)
    shapes = [(ratio, "480p") for ratio in model.aspect_ratios] + [("16:9", lines) for lines in model.resolutions]
    for seconds in (1.0, 15.0):
        for ratio, lines in shapes:
            wishes = {"duration_seconds": seconds, "aspect_ratio": ratio, "resolution": lines}
            asked = msgspec.structs.replace(spec, **wishes, provider_options={"user": "u"})
            wire = Wire()
            cost, most = done(wire, wire.submit(asked, model)).cost, estimate(asked, model)
            assert cost is not None
            assert most is not None
            assert cost.micro_usd <= most.micro_usd


def test_the_price_is_told_in_ticks() -> None:
    wire = Wire()
    one_second = msgspec.structs.replace(WORDS, duration_seconds=1.0)
    cost = done(wire, wire.submit(one_second)).cost
    assert cost is not None
    assert (cost.units, cost.micro_usd) == (500_000_000.0, 50_000)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"duration": 0}, 400),
        ({"duration": 16}, 400),
        ({"duration": "8"}, 422),
        ({"duration": 8.0}, 422),
        ({"duration": True}, 422),
        ({"aspect_ratio": "21:9"}, 400),
        ({"resolution": "1080p"}, 400),
        ({"resolution": "720P"}, 400),
        ({"model": "grok-imagine"}, 404),
        ({"model": None}, 422),
        ({"prompt": ""}, 400),
        ({"prompt": "a" * 4_097}, 400),
        ({"seed": 7}, 400),
        ({"image": "https://host/a.png"}, 422),
        ({"image": {"url": "http://host/a.png"}}, 400),
        ({"image": {"url": "data:text/plain;base64,AAAA"}}, 400),
        ({"image": {}}, 400),
        ({"reference_images": [PICTURE] * 8}, 400),
        ({"reference_images": ["https://host/a.png"]}, 400),
        ({"model": "grok-imagine-video-1.5", "resolution": "1080p", "reference_images": [PICTURE]}, 400),
    ],
)
def test_wrong_input_is_refused_before_any_charge(change: dict[str, object], status: int) -> None:
    wire = Wire()
    reply = wire.ask({**BODY, **change})
    assert reply.status == status
    assert XAI.fault(reply) is not None
    assert wire.twin.charges == []


@pytest.mark.parametrize(
    "change",
    [
        {"image": PICTURE, "prompt": "p"},
        {"image": {"url": "https://host/a.png"}},
        {"image": {"file_id": "file-1"}},
        {"reference_images": [PICTURE] * 7},
        {"model": "grok-imagine-video-1.5", "resolution": "1080p"},
        {"prompt": "a" * 4_096},
    ],
)
def test_right_input_is_taken_and_charged_once(change: dict[str, object]) -> None:
    wire = Wire()
    assert wire.ask({**BODY, **change}).status == 200
    assert len(wire.twin.charges) == 1


def test_a_body_that_is_no_json_and_a_path_that_is_none_are_refused() -> None:
    wire = Wire()
    assert wire.ask(None).status == 415
    for method, url in (("POST", "/videos/edits"), ("DELETE", "/videos/a"), ("GET", "/videos"), ("GET", "/videos/a")):
        assert wire(Request(method=method, url=url, body=BODY)).status == 404
    assert wire.twin.charges == []


@pytest.mark.parametrize(("token", "status"), [("", 401), ("wrong-key", 400)])
def test_a_missing_key_is_a_401_and_a_wrong_one_a_400(token: str, status: int) -> None:
    wire = Wire(XaiTwin(clip=b"", token="right-key"), token)
    reply = wire.ask(BODY)
    assert reply.status == status
    assert b"wrong-key" not in reply.body
    with pytest.raises(Failed) as failed:
        wire.submit()
    assert (failed.value.certain, failed.value.fault.code) == (True, "authentication_failed")
    assert wire.twin.charges == []


def test_the_right_key_is_let_in_and_results_need_none() -> None:
    wire = Wire(XaiTwin(clip=b"clip", token="right-key"), "right-key")
    url = done(wire, wire.submit()).outputs[0].url
    wire.token = ""
    assert wire.get(url).body == b"clip"


def test_a_team_that_keeps_no_data_must_bring_storage() -> None:
    with pytest.raises(Failed) as failed:
        Wire(XaiTwin(clip=b"", keeps_no_data=True)).submit()
    assert (failed.value.certain, failed.value.fault.code) == (True, "unsupported_feature")


def test_sixty_may_be_started_in_a_minute() -> None:
    wire = Wire()
    for _ in range(60):
        wire.submit()
    with pytest.raises(Failed) as failed:
        wire.submit()
    fault = failed.value.fault
    assert (fault.code, fault.retryable, fault.retry_after_s) == ("rate_limited", True, None)
    wire.now += 61.0
    wire.submit()
    assert len(wire.twin.charges) == 61


def test_ids_look_like_uuids_of_no_version_that_exists() -> None:
    made = Wire().submit().id
    assert ID.fullmatch(made)
    assert [len(part) for part in made.split("-")] == [8, 4, 4, 4, 12]
    assert made[14] == "9"


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(XaiTwin(clip=b"", seed=1)).submit() != Wire().submit()


def test_the_ledger_tells_what_came_and_what_was_charged() -> None:
    wire = Wire()
    handle = wire.submit()
    wire.status(handle, 1_001.0)
    assert [(line.at, line.what, line.about) for line in wire.twin.ledger] == [
        (1_000.0, "request", "POST /v1/videos/generations"),
        (1_000.0, "charge", handle.id),
        (1_001.0, "request", f"GET /v1/videos/{handle.id}"),
    ]
