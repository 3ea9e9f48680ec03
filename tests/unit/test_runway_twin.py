"""Runway's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from rushes.adapters.base import Ask, Broken, Done, Failed, Part, Request, Response, Unfinished, Vanished, play
from rushes.adapters.capabilities import Model, Option
from rushes.adapters.catalogue import rows_of
from rushes.adapters.fit import fit
from rushes.adapters.runway import INLINE_BYTES, Runway
from rushes.adapters.runway_models import MODELS
from rushes.emulators.faults import ExpiredUrl, FailedJob, Faults, Moderated, NotFound, StatusWord, TwinRule
from rushes.emulators.faulty import FaultyTwin
from rushes.emulators.runway import RunwayTwin
from rushes.emulators.runway_forms import FORMS
from rushes.units import AssetRef, Handle
from rushes.video import (
    JSON,
    OPERATIONS,
    ROLES,
    Input,
    Kind,
    Role,
    Target,
    TextToVideo,
    VideoSpec,
    implied_by,
)

BASE = "https://api.dev.runwayml.com"
RUNWAY = Runway()
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
PNG = "https://assets.example.org/a.png"
MP4 = "https://assets.example.org/a.mp4"
PIXEL = {"uri": PNG, "position": "first"}
CLIP = {"type": "video", "uri": MP4}
NOISE = {"type": "audio", "uri": "https://assets.example.org/a.mp3"}
GOOD: dict[str, Any] = {"model": "gen4.5", "promptText": "a lake", "ratio": "1280:720", "duration": 5}
MOVING: dict[str, Any] = {"model": "gen4_turbo", "promptImage": [PIXEL], "ratio": "1280:720"}
SEEDANCE: dict[str, Any] = {"model": "seedance2", "promptImage": [PIXEL]}
EDITED: dict[str, Any] = {"model": "aleph2", "videoUri": MP4}
BORROWED: dict[str, Any] = {"model": "seedance2_5", "promptVideo": MP4}
ACTED: dict[str, Any] = {"model": "act_two", "character": {"type": "image", "uri": PNG}, "reference": CLIP}
LARGER: dict[str, Any] = {"model": "magnific_video_upscaler_creative", "videoUri": MP4}
KINDS = {name: kind for kind, name in OPERATIONS.items()}
TYPES: dict[Kind, str] = {"image": "image/png", "video": "video/mp4", "audio": "audio/mpeg"}


class Wire:
    """A twin, a key and a time."""

    def __init__(self, twin: RunwayTwin | None = None, key: str = "any") -> None:
        self.twin = twin or RunwayTwin(clip=b"clip", start_s=1.0, render_s=8.0)
        self.now, self.key = 1_000.0, key

    def __call__(self, ask: Ask) -> Response:
        assert isinstance(ask, Request)
        headers = {**ask.headers, "Authorization": f"Bearer {self.key}"}
        url = ask.url if "://" in ask.url else BASE + ask.url
        return self.twin.handle(msgspec.structs.replace(ask, url=url, headers=headers), self.now)

    def submit(self, spec: VideoSpec = WORDS, model: str = "gen4.5") -> Handle:
        where = target(model)
        spec, _ = fit(spec, rows_of(RUNWAY, model))
        prepared = play(RUNWAY.prepare(spec, where), self)
        return play(RUNWAY.submit(spec, where, prepared, "job_1-1"), self)

    def status(self, handle: Handle, at: float) -> object:
        self.now = at
        return play(RUNWAY.status(handle, target()), self)

    def done(self, handle: Handle, at: float) -> str:
        found = self.status(handle, at)
        assert isinstance(found, Done)
        return found.outputs[0].url

    def fetch(self, url: str) -> Response:
        """What anybody gets who has the address and no key."""
        return self.twin.handle(Request(method="GET", url=url), self.now)

    def post(self, url: str, body: object) -> Response:
        assert body is None or isinstance(body, dict)
        return self(Request(method="POST", url=url, body=body, headers={"X-Runway-Version": "2024-11-06"}))


def target(model: str = "gen4.5") -> Target:
    return Target(provider="runway", model=model, credential="RUNWAYML_API_SECRET")


def file(role: Role, number: int = 0, size_bytes: int = 5) -> Input:
    """A file in this role; another number is another file."""
    kind = next(kind for kind, roles in ROLES.items() if role in roles)
    sha256 = hashlib.sha256(f"{role}{number}".encode()).hexdigest()
    asset = AssetRef(f"inputs/{sha256}", sha256, size_bytes, TYPES[kind])
    return Input(type=kind, role=role, asset=asset, duration_seconds=None if kind == "image" else 3.0)


def given(*inputs: Input, prompt: str = "p") -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=implied_by({each.role for each in inputs}), inputs=inputs)


def test_a_task_waits_runs_and_is_done() -> None:
    wire = Wire()
    handle = wire.submit()
    assert wire.status(handle, 1_000.5) == Unfinished(None, stage="PENDING")
    assert wire.status(handle, 1_003.0) == Unfinished(25, stage="RUNNING")
    done = wire.status(handle, 1_009.0)
    assert isinstance(done, Done)
    assert done.cost is not None
    assert done.cost.units == 60.0  # five seconds at twelve credits
    result = wire.fetch(done.outputs[0].url)
    assert (result.body, result.headers["content-type"]) == (b"clip", "video/mp4")
    assert wire.twin.charges == [handle.id]


def test_links_expire_and_every_look_brings_fresh_ones() -> None:
    wire = Wire(RunwayTwin(clip=b"clip", link_s=60.0))
    handle = wire.submit()
    old = wire.done(handle, 1_009.0)
    wire.now = 1_068.9
    assert wire.fetch(old).status == 200
    wire.now = 1_069.0
    assert wire.fetch(old).status == 403
    assert wire.fetch(wire.done(handle, 1_069.0)).status == 200


def test_a_link_cannot_be_made_up() -> None:
    wire = Wire()
    link = wire.done(wire.submit(), 1_009.0)
    until, _, permission = link.partition("_jwt=")[2].partition(".")
    for forged in (link.partition("?")[0], link + "0", link.replace(until, str(int(until) + 1)), link[:-40]):
        assert permission
        assert wire.fetch(forged).status == 403


def test_a_deleted_task_is_not_there_and_deleting_again_says_so() -> None:
    wire = Wire()
    handle = wire.submit()
    wire.now = 1_002.0
    assert play(RUNWAY.cancel(handle, target()), wire) == "accepted"
    assert wire.status(handle, 1_003.0) == Vanished()
    again = Request(method="DELETE", url=f"/v1/tasks/{handle.id}", headers={"X-Runway-Version": "2024-11-06"})
    assert wire(again).status == 404
    assert play(RUNWAY.cancel(handle, target()), wire) == "accepted"


def test_deleting_destroys_a_finished_clip() -> None:
    wire = Wire()
    handle = wire.submit()
    link = wire.done(handle, 1_009.0)
    play(RUNWAY.cancel(handle, target()), wire)
    assert wire.fetch(link).status == 404


@pytest.mark.parametrize(
    ("word", "code", "theirs", "retryable"),
    [
        ("forbidden", "moderated", "SAFETY.INPUT.TEXT", False),
        ("flagged", "moderated", "SAFETY.OUTPUT.VIDEO", False),
        ("broken", "generation_failed", "INTERNAL.BAD_OUTPUT.CODE01", False),
        ("unlucky", "generation_failed", "INTERNAL", True),
    ],
)
def test_moderation_and_failures_cost_nothing(word: str, code: str, theirs: str, *, retryable: bool) -> None:
    wire = Wire()
    broken = wire.status(wire.submit(replace(WORDS, prompt=f"a {word} lake")), 1_010.0)
    assert isinstance(broken, Broken)
    fault = broken.fault
    assert (fault.code, fault.provider_code, fault.retryable, broken.billed) == (code, theirs, retryable, "no")


def test_more_than_may_run_wait_for_a_place_and_go_on_in_order() -> None:
    wire = Wire(RunwayTwin(clip=b"clip", start_s=1.0, render_s=9.0, at_once=1))
    first, second, third = wire.submit(), wire.submit(), wire.submit()
    assert wire.status(second, 1_005.0) == Unfinished(None, stage="THROTTLED")
    assert wire.status(first, 1_005.0) != wire.status(second, 1_005.0)
    assert wire.status(second, 1_010.0) == Unfinished(None, stage="PENDING")
    assert wire.status(third, 1_019.0) == Unfinished(None, stage="THROTTLED")
    other = wire.submit(model="veo3.1")  # models have places of their own
    assert wire.status(other, 1_020.0) == Unfinished(0, stage="RUNNING")


def test_a_deleted_task_leaves_its_place() -> None:
    wire = Wire(RunwayTwin(clip=b"clip", start_s=1.0, render_s=9.0, at_once=1))
    first, second, third = wire.submit(), wire.submit(), wire.submit()
    wire.now = 1_002.0
    play(RUNWAY.cancel(first, target()), wire)
    play(RUNWAY.cancel(second, target()), wire)  # it had none yet
    assert wire.status(third, 1_002.5) == Unfinished(None, stage="PENDING")


def test_a_days_limit_is_a_refusal_that_passes() -> None:
    wire = Wire(RunwayTwin(clip=b"clip", daily=2))
    wire.submit()
    wire.submit()
    with pytest.raises(Failed) as failed:
        wire.submit()
    assert (failed.value.certain, failed.value.fault.code, failed.value.fault.retryable) == (True, "rate_limited", True)
    wire.now += 86_400.0
    wire.submit()
    assert len(wire.twin.charges) == 3


def everything(row: Model, operation: str) -> VideoSpec:
    """A request of this operation with as much as its row takes."""
    roles = list(row.roles)
    if operation == "text-to-video":
        roles = [role for role in roles if role not in ("first_frame", "last_frame")]
    if operation == "character-performance":
        roles.remove("source")  # the character is one or the other
    inputs = [file(role, number) for role in roles for number in range(row.roles[role])]
    pictures = [each for each in inputs if each.type == "image"]
    others = [each for each in inputs if each.type != "image"]
    wishes = {"seed": row.max_seed, "negative_prompt": "x", "generate_audio": True}
    spec = VideoSpec(
        prompt="" if row.prompt == "none" else "p" * (row.max_prompt_chars or 1),
        operation=KINDS[operation](),
        inputs=(*pictures[: row.media["image"].most], *others),
        provider_options={name: one_of(option) for name, option in row.options.items()},
    )
    return replace(spec, **{name: wishes[name] for name in row.fields})


def one_of(option: Option) -> JSON:
    return option.values[-1] if option.values else True if option.type == "boolean" else int(option.most or 0)


@pytest.mark.parametrize("row", MODELS, ids=lambda row: f"{row.id}, {row.operations[0]}")
def test_everything_the_data_admits_is_taken(row: Model) -> None:
    """Two tables written apart: the adapter's data and the twin's forms."""
    wire, sent = Wire(), 0
    for operation in row.operations:
        spec = everything(row, operation)
        wishes = [
            *(replace(spec, duration_seconds=seconds) for seconds in row.durations_s),
            *(replace(spec, aspect_ratio=ratio) for ratio in row.aspect_ratios),
            *(
                replace(spec, resolution=lines, aspect_ratio=ratio)
                for lines in row.resolutions
                for ratio in row.aspect_ratios or (None,)
            ),
        ]
        for wish in wishes or [spec]:
            wire.submit(wish, row.id)
        sent += len(wishes or [spec])
    assert len(wire.twin.charges) == sent


def test_every_model_of_the_twin_is_one_of_the_adapters() -> None:
    assert {model for _, model in FORMS} == {row.id for row in MODELS}


def test_large_files_arrive_before_they_are_named() -> None:
    wire, clip = Wire(), file("source", size_bytes=INLINE_BYTES + 1)
    wire.submit(given(clip), "aleph2")
    (upload,) = wire.twin.uploads.values()
    assert (upload.content, upload.name) == (clip.asset.sha256.encode(), f"{clip.asset.sha256[:16]}.mp4")
    (task,) = wire.twin.tasks.values()
    assert task.input["videoUri"] == f"runway://ephemeral/{upload.id}"


def test_an_upload_lives_a_day_and_must_have_come() -> None:
    wire = Wire()
    place = msgspec.json.decode(wire.post("/v1/uploads", {"filename": "a.png", "type": "ephemeral"}).body)
    named = {**MOVING, "promptImage": [{"uri": place["runwayUri"], "position": "first"}]}
    assert wire.post("/v1/image_to_video", named).status == 400
    form = [Part(name, text) for name, text in place["fields"].items()]
    send = Request(method="POST", url=place["uploadUrl"], body=[*form, Part("file", b"pixel", "a.png", "image/png")])
    assert wire(replace(send, body=form)).status == 403
    assert wire(send).status == 204
    assert wire.post("/v1/image_to_video", named).status == 200
    wire.now += 86_400.0
    assert wire.post("/v1/image_to_video", named).status == 400


@pytest.mark.parametrize(
    ("endpoint", "body", "path"),
    [
        ("text_to_video", None, []),
        ("text_to_video", {}, ["model"]),
        ("text_to_video", GOOD | {"model": "gen3a_turbo"}, ["model"]),
        ("text_to_video", GOOD | {"model": "gen4_turbo"}, ["model"]),
        ("text_to_video", {"model": "gen4.5", "ratio": "1280:720", "duration": 5}, ["promptText"]),
        ("text_to_video", GOOD | {"promptText": ""}, ["promptText"]),
        ("text_to_video", GOOD | {"promptText": "\U0001f3ac" * 501}, ["promptText"]),
        ("text_to_video", GOOD | {"ratio": "960:960"}, ["ratio"]),
        ("text_to_video", GOOD | {"duration": 11}, ["duration"]),
        ("text_to_video", GOOD | {"duration": "5"}, ["duration"]),
        ("text_to_video", GOOD | {"seed": 2**32}, ["seed"]),
        ("text_to_video", GOOD | {"contentModeration": {"publicFigureThreshold": "high"}}, ["contentModeration"]),
        ("text_to_video", GOOD | {"contentModeration": {"faces": "low"}}, ["contentModeration"]),
        ("text_to_video", GOOD | {"proresProfile": "422"}, ["proresProfile"]),
        ("text_to_video", {"model": "seedance2", "promptText": "p", "seed": 7}, ["seed"]),
        ("text_to_video", {"model": "seedance2"}, ["promptText"]),
        ("text_to_video", {"model": "seedance2", "promptText": "p", "references": [PIXEL] * 10}, ["references"]),
        ("text_to_video", {"model": "seedance2", "promptText": "p", "referenceAudio": [CLIP]}, ["referenceAudio"]),
        ("text_to_video", {"model": "veo3.1", "promptText": "p", "ratio": "1280:720", "audio": 1}, ["audio"]),
        ("text_to_video", {"model": "veo3.1", "promptText": "p", "ratio": "1280:720", "duration": 5}, ["duration"]),
        ("text_to_video", {"model": "hailuo3", "promptText": "p", "ratio": "adaptive"}, ["ratio"]),
        ("text_to_video", {"model": "happyhorse_1_0", "promptText": "p"}, ["promptText"]),
        ("image_to_video", {"model": "gen4_turbo", "ratio": "1280:720"}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": []}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": 7}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": [PIXEL, PIXEL]}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": [PIXEL | {"position": "last"}]}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": [PIXEL | {"uri": "http://a.example.org/a.png"}]}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": ["a.png"]}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": f"https://{'a' * 2048}"}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": f"data:image/png;base64,{'a' * 5_242_880}"}, ["promptImage"]),
        ("image_to_video", SEEDANCE | {"promptImage": [PIXEL, {"uri": PIXEL["uri"]}]}, ["promptImage"]),
        ("image_to_video", SEEDANCE | {"promptImage": [{"uri": PIXEL["uri"]}] * 10}, ["promptImage"]),
        ("image_to_video", SEEDANCE | {"extra": 1}, ["extra"]),
        ("image_to_video", {"model": "happyhorse_1_0", "promptImage": PNG, "ratio": "1280:720"}, ["ratio"]),
        ("video_to_video", {"model": "aleph2"}, ["videoUri"]),
        ("video_to_video", {"model": "gen4_aleph", "videoUri": MP4}, ["model"]),
        ("video_to_video", EDITED | {"videoUri": "data:image/png;base64,aaaa"}, ["videoUri"]),
        ("video_to_video", EDITED | {"targetAspectRatio": "2:1"}, ["targetAspectRatio"]),
        ("video_to_video", EDITED | {"keyframes": []}, ["keyframes"]),
        ("video_to_video", EDITED | {"keyframes": [{"uri": PNG}]}, ["keyframes"]),
        ("video_to_video", EDITED | {"keyframes": [{"uri": PNG, "at": 1.5}]}, ["keyframes"]),
        ("video_to_video", EDITED | {"keyframes": [{"uri": PNG, "at": 1, "seconds": 1}]}, ["keyframes"]),
        (
            "video_to_video",
            EDITED | {"keyframes": [{"uri": PNG, "seconds": 3, "range": {"start_seconds": 1, "end_seconds": 3}}]},
            ["keyframes"],
        ),
        (
            "video_to_video",
            EDITED
            | {
                "keyframes": [
                    {"uri": PNG, "at": 0},
                    {"uri": PNG, "at": 1, "range": {"start_seconds": 1, "end_seconds": 3}},
                ]
            },
            ["keyframes"],
        ),
        ("video_to_video", BORROWED | {"mode": "extend"}, ["promptText"]),
        ("video_to_video", BORROWED | {"mode": "extend", "promptText": "p", "ratio": "1280:720"}, ["ratio"]),
        ("video_to_video", BORROWED | {"model": "seedance2", "mode": "extend"}, ["mode"]),
        ("video_to_video", BORROWED | {"referenceVideos": [CLIP] * 10}, ["referenceVideos"]),
        ("video_to_video", {"model": "gemini_omni_flash", "videoUri": MP4}, ["promptText"]),
        ("character_performance", {"model": "act_two", "reference": CLIP}, ["character"]),
        ("character_performance", ACTED | {"reference": {"type": "image", "uri": PNG}}, ["reference"]),
        ("character_performance", ACTED | {"expressionIntensity": 6}, ["expressionIntensity"]),
        ("video_upscale", LARGER | {"model": "upscale_v1"}, ["model"]),
        ("video_upscale", LARGER | {"resolution": "1080p"}, ["resolution"]),
        ("video_upscale", LARGER | {"creativity": 50.5}, ["creativity"]),
        ("video_upscale", LARGER | {"promptText": "p"}, ["promptText"]),
    ],
)
def test_wrong_input_is_refused_by_name_before_any_charge(endpoint: str, body: object, path: list[object]) -> None:
    wire = Wire()
    reply = wire.post(f"/v1/{endpoint}", body)
    problem = msgspec.json.decode(reply.body)
    assert (reply.status, problem["issues"][0]["path"]) == (400, path)
    assert RUNWAY.fault(reply) is not None
    assert wire.twin.charges == []


KEYFRAMES = [
    {"uri": PNG, "seconds": 1.5, "range": {"start_seconds": 1, "end_seconds": 3}},
    {"uri": PNG, "at": 1, "range": {"start_seconds": 4, "end_seconds": 6}},
]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        # Only some models refuse what is new.
        ("text_to_video", GOOD | {"unknown": 1, "audio": "x", "negativePrompt": [], "promptImage": ["?"]}),
        ("text_to_video", GOOD | {"outputFormat": "prores", "proresProfile": "422 HQ", "contentModeration": {}}),
        ("image_to_video", MOVING | {"promptText": "slow", "duration": 5, "seed": 7}),
        ("image_to_video", MOVING | {"promptImage": PIXEL["uri"]}),
        ("image_to_video", SEEDANCE),
        ("image_to_video", SEEDANCE | {"promptImage": [{"uri": PNG}] * 9, "referenceAudio": [NOISE] * 3}),
        ("text_to_video", {"model": "seedance2_5"}),
        ("text_to_video", {"model": "hailuo3", "promptText": "p", "references": [{"uri": PNG}], "ratio": "adaptive"}),
        ("video_to_video", EDITED | {"keyframes": KEYFRAMES, "ratio": "1280:720"}),
        ("video_to_video", BORROWED | {"mode": "reference", "ratio": "854:480", "referenceVideos": [CLIP] * 9}),
        ("character_performance", ACTED | {"character": CLIP, "ratio": "960:960"}),
        ("video_upscale", LARGER | {"resolution": "1k", "flavor": "vivid", "fpsBoost": True}),
    ],
)
def test_good_bodies_are_taken_as_the_official_client_sends_them(endpoint: str, body: object) -> None:
    wire = Wire()
    assert wire.post(f"/v1/{endpoint}", body).status == 200
    assert len(wire.twin.charges) == 1


def test_what_follows_a_clip_costs_the_usual_seconds() -> None:
    wire = Wire()
    assert msgspec.json.decode(wire.post("/v1/character_performance", ACTED).body)["estimatedCost"] == {"credits": 25}
    quiet = {"model": "veo3.1", "promptText": "p", "ratio": "1280:720", "duration": 8, "audio": False}
    assert msgspec.json.decode(wire.post("/v1/text_to_video", quiet).body)["estimatedCost"] == {"credits": 160}


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (Moderated(), "moderated"),
        (FailedJob(), "generation_failed"),
        (StatusWord(word="DREAMING"), Unfinished(None, stage="DREAMING")),
        (StatusWord(word="PENDING"), Unfinished(None, stage="PENDING")),
        (NotFound(looks=1, times=1), Vanished()),
    ],
)
def test_it_goes_wrong_when_told_to(rule: TwinRule, found: object) -> None:
    twin = RunwayTwin(clip=b"clip")
    faulty, wire = FaultyTwin(twin, Faults((rule,))), Wire(twin)

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        headers = {**ask.headers, "Authorization": "Bearer any"}
        return faulty.handle(replace(ask, url=BASE + ask.url, headers=headers), wire.now)

    handle = play(RUNWAY.submit(fit(WORDS, rows_of(RUNWAY, "gen4.5"))[0], target(), {}, "job_1-1"), world)
    wire.now = 1_010.0
    status = play(RUNWAY.status(handle, target()), world)
    assert (status.fault.code if isinstance(status, Broken) else status) == found


def test_a_link_can_be_made_to_expire() -> None:
    twin = RunwayTwin(clip=b"clip")
    faulty, wire = FaultyTwin(twin, Faults((ExpiredUrl(times=1),))), Wire(twin)
    link = Request(method="GET", url=wire.done(wire.submit(), 1_009.0))
    assert [faulty.handle(link, wire.now).status for _ in range(2)] == [403, 200]


def test_the_key_and_the_version_are_asked_on_every_call() -> None:
    twin = RunwayTwin(clip=b"clip", key="right")
    with pytest.raises(Failed) as failed:
        Wire(twin, key="wrong").submit()
    assert (failed.value.certain, failed.value.fault.code) == (True, "authentication_failed")
    url, good = f"{BASE}/v1/tasks/x", {"Authorization": "Bearer right", "X-Runway-Version": "2024-11-06"}
    for left_out, status in (("Authorization", 401), ("X-Runway-Version", 400), ("", 404)):
        headers = {name: value for name, value in good.items() if name != left_out}
        assert twin.handle(Request(method="GET", url=url, headers=headers), 0.0).status == status
    assert twin.charges == []


@pytest.mark.parametrize(("method", "url", "status"), [("PUT", "/v1/tasks/x", 405), ("GET", "/v1/elsewhere", 404)])
def test_what_is_not_offered_is_an_error_of_the_same_shape(method: str, url: str, status: int) -> None:
    reply = Wire()(Request(method=method, url=url, headers={"X-Runway-Version": "2024-11-06"}))
    fault = RUNWAY.fault(reply)
    assert fault is not None
    assert reply.status == status


def test_the_ledger_tells_what_came_and_what_was_charged() -> None:
    wire = Wire()
    handle = wire.submit()
    assert [line.about for line in wire.twin.ledger.requests] == ["POST /v1/text_to_video"]
    charges = [(charge.job, charge.amount, charge.micro_usd) for charge in wire.twin.ledger.charges]
    assert charges == [(handle.id, 60, 600_000)]


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(RunwayTwin(clip=b"", seed=1)).submit() != Wire().submit()
