"""The twin of Kling's old wire, asked without a socket, in a time that tests say."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from rushes.adapters.base import Ask, Broken, Done, Failed, Outcome, Request, Response, Unfinished, Vanished, play
from rushes.adapters.catalogue import rows_of
from rushes.adapters.fit import fit
from rushes.adapters.kling_auth import mint
from rushes.adapters.kling_legacy import KlingLegacy
from rushes.emulators.kling_legacy import KlingLegacyTwin
from rushes.units import AssetRef, Handle
from rushes.video import Effect, Extend, Input, LipSync, Made, Operation, Target, TextToVideo, VideoSpec

BASE = "https://api-singapore.klingai.com"
LEGACY = KlingLegacy()
KEY = "job_1-1"
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
PICTURE = b64encode(b"\x89PNG").decode()
MASK = {"mask": "https://a.example/m.png", "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}
ZOOM = {"type": "simple", "config": {"zoom": 5}}
IMAGED = {"model_name": "kling-v1", "image": PICTURE}
WORDED = {"model_name": "kling-v1", "prompt": "a lake"}
DAY_S = 86_400.0


def twin(**changes: Any) -> KlingLegacyTwin:
    return KlingLegacyTwin(clip=b"clip", **{"start_s": 1.0, "render_s": 8.0, **changes})


def target(model: str = "kling-v1") -> Target:
    return Target(provider="kling_legacy", model=model, credential="KLINGAI_API_KEY")


class Wire:
    """A twin, a key and a time."""

    def __init__(self, other: KlingLegacyTwin | None = None, key: str = "k") -> None:
        self.twin, self.now, self.key = other or twin(), 1_000.0, key

    def __call__(self, ask: Ask) -> Response:
        assert isinstance(ask, Request)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = ask.url if "://" in ask.url else BASE + ask.url
        return self.twin.handle(msgspec.structs.replace(ask, url=url, headers=headers), self.now)

    def submit(self, spec: VideoSpec = WORDS, model: str = "kling-v1", key: str = KEY) -> Handle:
        full, _ = fit(spec, rows_of(LEGACY, model))
        prepared = play(LEGACY.prepare(full, target(model), key), self)
        return play(LEGACY.submit(full, target(model), prepared, key), self)

    def made(self, spec: VideoSpec = WORDS, model: str = "kling-v1", key: str = KEY) -> Handle:
        """A task that has ended."""
        handle = self.submit(spec, model, key)
        self.now += 10.0
        return handle

    def status(self, handle: Handle, model: str = "kling-v1") -> Outcome:
        return play(LEGACY.status(handle, target(model)), self)

    def post(self, family: str, body: Mapping[str, object]) -> tuple[int, int]:
        """The status and the code of what is answered."""
        reply = self(Request(method="POST", url=f"/v1/videos/{family}", body=body))
        return reply.status, msgspec.json.decode(reply.body)["code"]

    def get(self, path: str, **query: str) -> tuple[int, Any]:
        """The status, and the code or the data of what is answered."""
        reply = self(Request(method="GET", url=path, query=query))
        answer = msgspec.json.decode(reply.body)
        return reply.status, answer.get("code") or answer.get("data", answer)


def out_of(handle: Handle, operation: Operation, seconds: float = 5.0) -> VideoSpec:
    made = Made(job="job_0", provider="kling_legacy", handle=handle)
    asset = AssetRef("takes/v", "cd" * 32, 5, "video/mp4")
    clip = Input(type="video", role="source", asset=asset, duration_seconds=seconds, made=made)
    return VideoSpec(operation=operation, inputs=(clip,))


def test_a_task_is_submitted_processed_and_done() -> None:
    wire = Wire()
    handle = wire.submit()
    assert wire.status(handle) == Unfinished(stage="submitted")
    wire.now = 1_003.0
    assert wire.status(handle) == Unfinished(stage="processing")
    wire.now = 1_009.0
    done = wire.status(handle)
    assert isinstance(done, Done)
    assert done.metadata["billing"] == "1 units"  # 0.14 dollars
    result = wire.twin.handle(Request(method="GET", url=done.outputs[0].url), 1_009.0)  # without a key
    assert (result.body, result.headers["content-type"]) == (b"clip", "video/mp4")
    assert wire.twin.charges == [handle.id]


def test_a_task_is_known_in_its_own_family_alone_and_by_both_of_its_ids() -> None:
    wire = Wire()
    handle = wire.submit()
    for wanted in (handle.id, KEY):
        status, data = wire.get(f"/v1/videos/text2video/{wanted}")
        assert (status, data["task_id"], data["task_info"]) == (200, handle.id, {"external_task_id": KEY})
        assert wire.get(f"/v1/videos/image2video/{wanted}") == (404, 1203)
    assert wire.status(Handle("1")) == Vanished()
    assert Wire(twin(missing=1201)).get("/v1/videos/text2video/1") == (400, 1201)


def test_a_list_has_the_newest_first_and_pages() -> None:
    wire = Wire()
    first, second = wire.submit(key="job_1-1"), wire.submit(key="job_2-1")
    ids = [task["task_id"] for task in wire.get("/v1/videos/text2video")[1]]
    assert ids == [second.id, first.id]
    (last,) = wire.get("/v1/videos/text2video", pageNum="2", pageSize="1")[1]
    assert last["task_id"] == first.id
    assert wire.get("/v1/videos/text2video", pageSize="501") == (400, 1201)


def test_our_key_is_taken_once() -> None:
    wire = Wire()
    handle = wire.submit()
    with pytest.raises(Failed) as failed:
        wire.submit()
    assert failed.value.fault.code == "conflict"
    assert wire.twin.charges == [handle.id]
    same = Wire(twin(duplicate="same"))
    assert same.submit() == same.submit()
    assert len(same.twin.charges) == 1


def test_a_clip_is_extended_until_it_has_three_minutes() -> None:
    wire = Wire()
    handle, seconds = wire.made(), 5
    while seconds + 5 <= 180:
        handle, seconds = wire.made(out_of(handle, Extend()), key=""), seconds + 5
    done = wire.get(f"/v1/videos/video-extend/{handle.id}")[1]
    assert done["task_result"]["videos"][0]["duration"] == "180.041"
    with pytest.raises(Failed, match="too long"):
        wire.submit(out_of(handle, Extend()))
    assert wire.twin.ledger.charges[1].micro_usd == 280_000  # the made-up price of an extension by kling-v1


def test_an_extension_of_a_dear_clip_is_dear() -> None:
    wire = Wire()
    handle = wire.made(msgspec.structs.replace(WORDS, resolution="1080p"), "kling-v1-6")
    wire.submit(out_of(handle, Extend()), "kling-v1-6")
    assert wire.twin.ledger.charges[-1].micro_usd == 490_000


def test_newer_models_clips_are_not_extended() -> None:
    wire = Wire()
    made = wire.made(WORDS, "kling-v2-master")
    video = wire.get(f"/v1/videos/text2video/{made.id}")[1]["task_result"]["videos"][0]["id"]
    assert wire.post("video-extend", {"video_id": video}) == (400, 1201)
    assert len(wire.twin.charges) == 1


def test_a_clips_own_id_works_once_it_is_done_and_for_thirty_days() -> None:
    wire = Wire()
    handle = wire.submit()
    lips = {"mode": "text2video", "text": "hello", "voice_id": "v", "video_id": f"868{handle.id[3:]}"}
    assert wire.post("lip-sync", {"input": lips}) == (400, 1201)
    wire.now += 10.0
    assert wire.post("lip-sync", {"input": lips}) == (200, 0)
    assert wire.post("lip-sync", {"input": {**lips, "video_id": handle.id}}) == (400, 1201)  # of the task, not the clip
    wire.now += 30 * DAY_S
    assert wire.post("lip-sync", {"input": lips}) == (400, 1201)


def test_lips_cost_every_five_seconds_that_are_begun() -> None:
    wire = Wire()
    short = wire.made(key="a")
    long = wire.made(msgspec.structs.replace(WORDS, duration_seconds=10.0), key="b")
    for handle in (short, long):
        wire.submit(out_of(handle, LipSync("hello", "v")), "lip-sync")
    assert [charge.micro_usd for charge in wire.twin.ledger.charges[-2:]] == [70_000, 140_000]


def test_effects_are_found_by_our_key() -> None:
    wire = Wire()
    image = Input(asset=AssetRef("inputs/p", "ab" * 32, 5, "image/png"))
    spec = VideoSpec(operation=Effect("squish"), inputs=(image,))
    handle = wire.submit(spec, "kling-v1-6")
    assert play(LEGACY.find(target("kling-v1-6"), KEY, 0.0), wire) == handle


@pytest.mark.parametrize(
    ("family", "body"),
    [
        ("text2video", {}),
        ("text2video", {**WORDED, "model": "kling-v1"}),
        ("text2video", {**WORDED, "prompt": "p" * 2501}),
        ("text2video", {**WORDED, "model_name": "kling-v2-1"}),
        ("text2video", {**WORDED, "duration": 5}),
        ("text2video", {**WORDED, "duration": "7"}),
        ("text2video", {**WORDED, "mode": "4k"}),
        ("text2video", {**WORDED, "mode": "pro", "model_name": "kling-v2-master"}),
        ("text2video", {**WORDED, "sound": "on"}),
        ("text2video", {**WORDED, "sound": "on", "model_name": "kling-v2-6"}),
        ("text2video", {**WORDED, "cfg_scale": 1.5}),
        ("text2video", {**WORDED, "cfg_scale": 0.5, "model_name": "kling-v2-master"}),
        ("text2video", {**WORDED, "aspect_ratio": "4:3"}),
        ("text2video", {**WORDED, "watermark_info": True}),
        ("text2video", {**WORDED, "camera_control": {"type": "simple", "config": {"zoom": 0}}}),
        ("text2video", {**WORDED, "camera_control": {"type": "simple", "config": {"zoom": 1, "pan": 1}}}),
        ("text2video", {**WORDED, "camera_control": {"type": "simple", "config": {"zoom": 11}}}),
        ("text2video", {**WORDED, "camera_control": {"type": "forward_up", "config": {"zoom": 1}}}),
        ("text2video", {**WORDED, "image": PICTURE}),
        ("image2video", {"model_name": "kling-v1"}),
        ("image2video", {**IMAGED, "image": f"data:image/png;base64,{PICTURE}"}),
        ("image2video", {**IMAGED, "image_tail": PICTURE, "static_mask": PICTURE}),
        ("image2video", {**IMAGED, "image_tail": PICTURE, "camera_control": ZOOM}),
        ("image2video", {**IMAGED, "dynamic_masks": [MASK], "camera_control": ZOOM}),
        ("image2video", {**IMAGED, "dynamic_masks": [MASK] * 7}),
        ("image2video", {**IMAGED, "dynamic_masks": [{**MASK, "trajectories": [{"x": 1, "y": 2}]}]}),
        ("multi-image2video", {"model_name": "kling-v1-6", "prompt": "p"}),
        ("multi-image2video", {"model_name": "kling-v1-6", "prompt": "p", "image_list": [PICTURE]}),
        ("multi-image2video", {"model_name": "kling-v1-6", "prompt": "p", "image_list": [{"image": PICTURE}] * 5}),
        ("video-extend", {"prompt": "p"}),
        ("video-extend", {"video_id": "1"}),
        ("video-extend", {"video_id": "1", "external_task_id": "x"}),
        ("lip-sync", {}),
        ("lip-sync", {"input": {"video_url": "https://a.example/v.mp4", "mode": "text2video", "text": "hello"}}),
        ("lip-sync", {"input": {"video_url": "https://a.example/v.mp4", "mode": "audio2video", "audio_type": "file"}}),
        ("effects", {"input": {"model_name": "kling-v1-6", "image": PICTURE, "duration": "5"}}),
        ("effects", {"effect_scene": "squish", "input": {"model_name": "kling-v1", "image": PICTURE, "duration": "5"}}),
        ("effects", {"effect_scene": "hug", "input": {"model_name": "kling-v1", "image": PICTURE, "duration": "5"}}),
        ("effects", {"effect_scene": "squish", "input": {"model_name": "kling-v1-6", "duration": "5"}}),
    ],
)
def test_a_wrong_body_is_refused_and_not_charged(family: str, body: dict[str, object]) -> None:
    wire = Wire()
    assert wire.post(family, body) == (400, 1201)
    assert wire.twin.charges == []


@pytest.mark.parametrize(
    ("family", "body"),
    [
        ("text2video", WORDED),
        ("text2video", {**WORDED, "camera_control": ZOOM}),
        ("text2video", {"prompt": "a lake"}),
        ("image2video", {**IMAGED, "dynamic_masks": [MASK], "static_mask": PICTURE}),
        ("image2video", {"image_tail": PICTURE}),
        ("multi-image2video", {"model_name": "kling-v1-6", "prompt": "p", "image_list": [{"image": PICTURE}] * 4}),
        (
            "lip-sync",
            {
                "input": {
                    "video_url": "https://a.example/v.mp4",
                    "mode": "audio2video",
                    "audio_type": "url",
                    "audio_url": "https://a.example/a.mp3",
                }
            },
        ),
    ],
)
def test_control_a_right_body_is_taken(family: str, body: dict[str, object]) -> None:
    assert Wire().post(family, body) == (200, 0)


@pytest.mark.parametrize(
    ("word", "code"), [("forbidden", "moderated"), ("withheld", "moderated"), ("broken", "generation_failed")]
)
def test_words_decide_how_a_task_ends_and_failures_are_not_charged(word: str, code: str) -> None:
    wire = Wire()
    spec = msgspec.structs.replace(WORDS, prompt=f"a {word} lake")
    if word == "forbidden":
        with pytest.raises(Failed) as failed:
            wire.submit(spec)
        fault = failed.value.fault
    else:
        broken = wire.status(wire.made(spec))
        assert isinstance(broken, Broken)
        fault = broken.fault
    assert (fault.code, wire.twin.charges) == (code, [])


def test_limits_of_the_account_are_told_by_their_codes() -> None:
    full = Wire(twin(slots=1))
    full.submit(key="a")
    assert full.post("text2video", WORDED) == (429, 1303)
    full.now += 10.0
    assert full.post("text2video", WORDED) == (200, 0)
    assert Wire(twin(credit=0)).post("text2video", WORDED) == (429, 1102)


def test_other_addresses_and_methods() -> None:
    wire = Wire()
    assert wire.get("/v1/videos/omni-video")[0] == 404
    assert wire.get("/v1/videos/omni-video")[1]["path"] == "/v1/videos/omni-video"
    reply = wire(Request(method="DELETE", url="/v1/videos/text2video/1"))
    assert (reply.status, msgspec.json.decode(reply.body)["code"]) == (404, 1202)


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def token(access: str = "access", secret: str = "secret", at: float = 1_000.0) -> str:
    return play(mint({"a": access, "b": secret}, at), lambda ask: Response(status=500, body=repr(ask).encode())).value


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("", 1001),
        ("plain", 0),
        ("other", 1002),
        (token(), 0),
        (token(at=1_004.0), 0),
        (token(at=1_010.0), 1003),
        (token(at=-801.0), 1004),
        (token(access="nobody"), 1000),
        (token(secret="wrong"), 1000),
        ("a.b.c", 1002),
        (token().rpartition(".")[0] + ".", 1000),
        (f"e30.{token().partition('.')[2]}", 1000),
    ],
)
def test_a_key_is_said_as_it_is_or_as_a_token_of_two(key: str, code: int) -> None:
    wire = Wire(twin(key="plain", access_key="access", secret_key="secret"), key)
    assert wire.post("text2video", WORDED)[1] == code
    assert len(wire.twin.charges) == (code == 0)


def test_where_no_key_is_known_any_will_do_whose_time_is_right() -> None:
    assert Wire(key=token("x", "y")).post("text2video", WORDED) == (200, 0)
    assert Wire(key="anything").post("text2video", WORDED) == (200, 0)
    assert Wire(key=token(at=2_000.0)).post("text2video", WORDED) == (401, 1003)
