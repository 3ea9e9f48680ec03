"""Runway's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest
from msgspec.structs import replace

from rushes.adapters.base import Ask, Broken, Done, Failed, Part, Request, Response, Unfinished, Vanished, play
from rushes.adapters.capabilities import Model, normalise
from rushes.adapters.runway import INLINE_BYTES, MODELS, Runway
from rushes.emulators.runway import RunwayTwin
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Role, Target, TextToVideo, VideoSpec

BASE = "https://api.dev.runwayml.com"
RUNWAY = Runway()
MODEL = {model.id: model for model in MODELS}
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = AssetRef("inputs/p", "ab" * 32, 5, "image/png")
GOOD = {"model": "gen4.5", "promptText": "a lake", "ratio": "1280:720", "duration": 5}
PIXEL = {"uri": "https://assets.example.org/a.png", "position": "first"}
MOVING = {"model": "gen4_turbo", "promptImage": [PIXEL], "ratio": "1280:720"}
SEEDANCE = {"model": "seedance2", "promptImage": [PIXEL]}


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
        prepared = play(RUNWAY.prepare(spec, where), self)
        return play(RUNWAY.submit(normalise(spec, MODEL[model]), where, prepared, "job_1-1"), self)

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


def images(*roles: Role, asset: AssetRef = IMAGE) -> VideoSpec:
    inputs = tuple(Input(role=role, asset=asset) for role in roles)
    return VideoSpec(prompt="p", operation=ImageToVideo(), inputs=inputs)


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


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_everything_the_data_admits_is_taken(model: Model) -> None:
    """Two tables written apart: the adapter's data and the twin's schemas."""
    wire, roles = Wire(), [role for role in model.roles if role != "general"]
    shapes = list(product(model.aspect_ratios, model.resolutions))
    for operation in model.operations:
        spec = images(*roles) if operation == "image-to-video" else WORDS
        spec = replace(
            spec, **{name: {"seed": model.max_seed, "negative_prompt": "x"}.get(name, True) for name in model.fields}
        )
        spec = replace(spec, provider_options=dict.fromkeys(model.options, "low"))
        for ratio, lines in shapes:
            wire.submit(replace(spec, aspect_ratio=ratio, resolution=lines), model.id)
        for seconds in model.durations_s:
            wire.submit(replace(spec, duration_seconds=seconds), model.id)
    assert len(wire.twin.charges) == len(model.operations) * (len(shapes) + len(model.durations_s))
    if most := model.roles.get("general"):
        references: list[Role] = ["general"] * most
        wire.submit(images(*references), model.id)


def test_large_pictures_arrive_before_they_are_named() -> None:
    wire = Wire()
    wire.submit(images("first_frame", asset=replace(IMAGE, size_bytes=INLINE_BYTES + 1)))
    (upload,) = wire.twin.uploads.values()
    assert (upload.content, upload.name) == (IMAGE.sha256.encode(), f"{IMAGE.sha256[:16]}.png")


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
        ("text_to_video", GOOD | {"model": "gen3"}, ["model"]),
        ("text_to_video", GOOD | {"model": "gen4_turbo"}, ["model"]),
        ("text_to_video", {"model": "gen4.5", "ratio": "1280:720", "duration": 5}, ["promptText"]),
        ("text_to_video", GOOD | {"promptText": ""}, ["promptText"]),
        ("text_to_video", GOOD | {"promptText": "\U0001f3ac" * 501}, ["promptText"]),
        ("text_to_video", GOOD | {"ratio": "960:960"}, ["ratio"]),
        ("text_to_video", GOOD | {"duration": 11}, ["duration"]),
        ("text_to_video", GOOD | {"duration": "5"}, ["duration"]),
        ("text_to_video", GOOD | {"seed": 2**32}, ["seed"]),
        ("text_to_video", GOOD | {"contentModeration": {"publicFigureThreshold": "high"}}, ["contentModeration"]),
        ("text_to_video", {"model": "seedance2", "promptText": "p", "seed": 7}, ["seed"]),
        ("text_to_video", {"model": "veo3.1", "promptText": "p", "ratio": "1280:720", "audio": 1}, ["audio"]),
        ("image_to_video", {"model": "gen4_turbo", "ratio": "1280:720"}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": []}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": [PIXEL, PIXEL]}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": [PIXEL | {"position": "last"}]}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": [PIXEL | {"uri": "http://a.example.org/a.png"}]}, ["promptImage"]),
        ("image_to_video", MOVING | {"promptImage": ["a.png"]}, ["promptImage"]),
        ("image_to_video", SEEDANCE | {"promptImage": [PIXEL, {"uri": PIXEL["uri"]}]}, ["promptImage"]),
        ("image_to_video", SEEDANCE | {"promptImage": [{"uri": PIXEL["uri"]}] * 10}, ["promptImage"]),
        ("image_to_video", SEEDANCE | {"extra": 1}, ["extra"]),
    ],
)
def test_wrong_input_is_refused_by_name_before_any_charge(endpoint: str, body: object, path: list[object]) -> None:
    wire = Wire()
    reply = wire.post(f"/v1/{endpoint}", body)
    problem = msgspec.json.decode(reply.body)
    assert (reply.status, problem["issues"][0]["path"]) == (400, path)
    assert RUNWAY.fault(reply) is not None
    assert wire.twin.charges == []


def test_good_bodies_are_taken_as_the_official_client_sends_them() -> None:
    wire = Wire()
    ignored = {"unknown": 1, "audio": "x", "negativePrompt": [], "promptImage": ["?"]}
    assert wire.post("/v1/text_to_video", GOOD | ignored).status == 200  # only some models refuse what is new
    assert wire.post("/v1/image_to_video", MOVING | {"promptText": "slow", "duration": 5, "seed": 7}).status == 200
    assert wire.post("/v1/image_to_video", SEEDANCE).status == 200
    assert wire.post("/v1/image_to_video", MOVING | {"promptImage": PIXEL["uri"]}).status == 200


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
    told = [(line.what, line.about) for line in wire.twin.ledger]
    assert told == [("request", "POST /v1/text_to_video"), ("charge", handle.id)]


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(RunwayTwin(clip=b"", seed=1)).submit() != Wire().submit()
