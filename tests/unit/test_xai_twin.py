"""xAI's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import pytest

from rushes.adapters.base import Ask, Broken, Done, Failed, Request, Response, Unfinished, Vanished, play
from rushes.adapters.capabilities import Model
from rushes.adapters.fit import estimate, normalise
from rushes.adapters.xai import ID, Xai
from rushes.adapters.xai_models import EDITED, EXTENDED, MODELS, WORDS
from rushes.emulators.xai import XaiTwin
from rushes.units import AssetRef, Handle
from rushes.video import Extend, ImageToVideo, Input, MultiImage, Target, TextToVideo, VideoSpec, VideoToVideo

BASE = "https://api.x.ai/v1"
XAI = Xai()
LAKE = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = AssetRef("inputs/p", "ab" * 32, 5, "image/png")
CLIP = Input(type="video", role="source", asset=AssetRef("inputs/c", "cd" * 32, 5, "video/mp4"), duration_seconds=5.0)
SPECS = {
    "text-to-video": LAKE,
    "image-to-video": VideoSpec(prompt="a lake", operation=ImageToVideo(), inputs=(Input(asset=IMAGE),)),
    "multi-image": VideoSpec(
        prompt="a lake", operation=MultiImage(), inputs=tuple(Input(role="style", asset=IMAGE) for _ in range(7))
    ),
    "video-to-video": VideoSpec(prompt="a lake", operation=VideoToVideo(), inputs=(CLIP,)),
    "extend": VideoSpec(prompt="a lake", operation=Extend(), inputs=(CLIP,)),
}
PICTURE = {"url": "data:image/png;base64,AAAA"}
VIDEO = {"url": "https://host/a.mp4"}
BODY: dict[str, object] = {"model": "grok-imagine-video", "prompt": "a lake"}
NEWER = {"model": "grok-imagine-video-1.5"}


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

    def submit(self, spec: VideoSpec = LAKE, model: Model = WORDS) -> Handle:
        return play(XAI.submit(normalise(spec, model), target(model.id), {}, "job_1-1"), self)

    def ask(self, body: dict[str, object] | None, what: str = "generations") -> Response:
        return self(Request(method="POST", url=f"/videos/{what}", body=body))

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
    handle = wire.submit(msgspec.structs.replace(LAKE, prompt=f"a {word} lake"))
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


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.id} {model.operations[0]}")
def test_every_operation_ends_in_a_clip_that_costs_what_was_estimated(model: Model) -> None:
    """Two tables of prices, written apart: the adapter's and the twin's. What is not known costs something, too."""
    for lines in model.resolutions or (None,):
        wire = Wire()
        asked = msgspec.structs.replace(SPECS[model.operations[0]], resolution=lines)
        ended, most = done(wire, wire.submit(asked, model)), estimate(normalise(asked, model), model)
        assert wire.get(ended.outputs[0].url).body == b"0123456789"
        assert ended.cost is not None
        assert ended.cost.micro_usd > 0
        assert most is None or ended.cost.micro_usd == most.micro_usd
        assert (most is None) == (model in (EDITED, EXTENDED))


@pytest.mark.parametrize("word", ["lake", "linkless"])
def test_a_result_that_was_to_be_stored_is_there_with_the_key_alone(word: str) -> None:
    wire = Wire(XaiTwin(clip=b"0123456789", key="right-key"), "right-key")
    asked = msgspec.structs.replace(LAKE, prompt=f"a {word}", provider_options={"storage_expires_after": 3_600})
    ended = done(wire, wire.submit(asked))
    url = f"/files/{ended.metadata['file_id']}/content"
    assert (ended.outputs[0].url == url[1:]) == (word == "linkless")
    assert wire.get(url).body == b"0123456789"
    wire.now = 1_099.0
    assert wire.get(url).status == 404  # not yet
    wire.now = 1_000.0 + 3_600.0
    assert wire.get(url).status == 404  # no longer
    wire.now, wire.token = 1_100.0, ""
    assert wire.get(url).status == 401


def test_a_clip_without_an_address_that_is_not_stored_is_lost() -> None:
    wire = Wire()
    ended = wire.status(wire.submit(msgspec.structs.replace(LAKE, prompt="linkless")), 1_100.0)
    assert isinstance(ended, Broken)
    assert (ended.fault.code, ended.billed) == ("bad_answer", "yes")


def test_a_public_address_of_a_stored_file_cannot_be_made_here_and_that_is_said() -> None:
    wire = Wire()
    started = wire.ask({**BODY, "storage_options": {"filename": "a.mp4", "public_url": True}})
    request_id = msgspec.json.decode(started.body, type=dict[str, str])["request_id"]
    wire.now = 1_100.0
    video = msgspec.json.decode(wire.get(f"/videos/{request_id}").body)["video"]
    assert video["file_output"].keys() == {"file_id", "filename", "public_url_error"}
    assert request_id not in video["file_output"]["file_id"]


def test_the_price_is_told_in_ticks() -> None:
    wire = Wire()
    one_second = msgspec.structs.replace(LAKE, duration_seconds=1.0)
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
        ({**NEWER, "resolution": "1080p", "reference_images": [PICTURE]}, 400),
        ({"video": VIDEO}, 400),
        ({"reference_audios": [{"voice_id": "eve"}], "reference_images": [PICTURE]}, 400),
        ({**NEWER, "reference_audios": [{"voice_id": "eve"}]}, 400),
        ({**NEWER, "reference_audios": [{"voice_id": "eve"}] * 4, "reference_images": [PICTURE]}, 400),
        ({**NEWER, "reference_audios": ["eve"], "reference_images": [PICTURE]}, 400),
        ({"storage_options": {}}, 400),
        ({"storage_options": {"expires_after": 3_600}}, 400),
        ({"storage_options": {"filename": "a.mp4", "expires_after": 3_599}}, 400),
        ({"storage_options": {"filename": "a.mp4", "expires_after": 2_592_001}}, 400),
        ({"storage_options": {"filename": "a.mp4", "folder": "b"}}, 400),
        ({"storage_options": "a.mp4"}, 422),
    ],
)
def test_wrong_input_is_refused_before_any_charge(change: dict[str, object], status: int) -> None:
    wire = Wire()
    reply = wire.ask({**BODY, **change})
    assert reply.status == status
    assert XAI.fault(reply) is not None
    assert wire.twin.charges == []


@pytest.mark.parametrize("what", ["edits", "extensions"])
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"video": None}, 422),
        ({"video": {}}, 400),
        ({"video": PICTURE}, 400),
        ({"video": {"url": "http://host/a.mp4"}}, 400),
        ({"prompt": ""}, 400),
        ({"resolution": "720p"}, 400),
        ({"aspect_ratio": "16:9"}, 400),
        ({"image": PICTURE}, 400),
        (NEWER, 400),
        ({"model": "grok"}, 404),
    ],
)
def test_wrong_input_of_a_change_is_refused_before_any_charge(
    what: str, change: dict[str, object], status: int
) -> None:
    wire = Wire()
    assert wire.ask({**BODY, "video": VIDEO, **change}, what).status == status
    assert wire.ask(BODY, what).status == 400
    assert wire.twin.charges == []
    assert wire.ask({**BODY, "video": VIDEO}, what).status == 200


def test_an_edit_has_no_length_and_an_extension_no_user() -> None:
    wire = Wire()
    assert wire.ask({**BODY, "video": VIDEO, "duration": 5}, "edits").status == 400
    assert wire.ask({**BODY, "video": VIDEO, "user": "u-7"}, "extensions").status == 400
    assert wire.twin.charges == []


@pytest.mark.parametrize(("seconds", "code"), [(1, "invalid_input"), (11, "invalid_input"), (2, ""), (10, "")])
def test_an_extension_of_a_wrong_length_is_taken_and_gets_its_verdict_later(seconds: int, code: str) -> None:
    wire = Wire()
    started = wire.ask({**BODY, "video": VIDEO, "duration": seconds}, "extensions")
    ended = wire.status(Handle(msgspec.json.decode(started.body, type=dict[str, str])["request_id"]), 1_100.0)
    assert (ended.fault.code if isinstance(ended, Broken) else "") == code


@pytest.mark.parametrize(
    "change",
    [
        {"image": PICTURE, "prompt": "p"},
        {"image": {"url": "https://host/a.png"}},
        {"image": {"file_id": "file-1"}},
        {"reference_images": [PICTURE] * 7},
        {**NEWER, "resolution": "1080p"},
        {**NEWER, "reference_audios": [{"voice_id": "eve"}] * 3, "reference_images": [PICTURE]},
        {"storage_options": {"filename": "a.mp4", "expires_after": 2_592_000, "public_url": {"expires_after": 3_600}}},
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
    for method, url in (("POST", "/videos/remixes"), ("DELETE", "/videos/a"), ("GET", "/videos"), ("GET", "/videos/a")):
        assert wire(Request(method=method, url=url, body=BODY)).status == 404
    assert wire.twin.charges == []


@pytest.mark.parametrize(("token", "status"), [("", 401), ("wrong-key", 400)])
def test_a_missing_key_is_a_401_and_a_wrong_one_a_400(token: str, status: int) -> None:
    wire = Wire(XaiTwin(clip=b"", key="right-key"), token)
    reply = wire.ask(BODY)
    assert reply.status == status
    assert b"wrong-key" not in reply.body
    with pytest.raises(Failed) as failed:
        wire.submit()
    assert (failed.value.certain, failed.value.fault.code) == (True, "authentication_failed")
    assert wire.twin.charges == []


def test_the_right_key_is_let_in_and_results_need_none() -> None:
    wire = Wire(XaiTwin(clip=b"clip", key="right-key"), "right-key")
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
    assert [(line.at, line.about, line.status) for line in wire.twin.ledger.requests] == [
        (1_000.0, "POST /v1/videos/generations", 200),
        (1_001.0, f"GET /v1/videos/{handle.id}", 202),
    ]
    (charge,) = wire.twin.ledger.charges
    assert (charge.at, charge.job, charge.unit, charge.amount) == (1_000.0, handle.id, "ticks", 8 * 500_000_000)
    assert charge.micro_usd == 400_000
