"""Replicate's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

import msgspec
import pytest

from rushes.adapters.base import (
    Ask,
    Broken,
    Done,
    Failed,
    Flow,
    Part,
    Prepared,
    Request,
    Response,
    Stopped,
    Unfinished,
    Vanished,
    play,
)
from rushes.adapters.capabilities import Model, normalise
from rushes.adapters.replicate import MODELS, Replicate
from rushes.emulators.replicate import ReplicateTwin
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Target, TextToVideo, VideoSpec

BASE = "https://api.replicate.com/v1"
REPLICATE = Replicate()
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = AssetRef("inputs/p", "ab" * 32, 5, "image/png")


class Wire:
    """A twin, a key and a time."""

    def __init__(self, twin: ReplicateTwin | None = None, token: str = "") -> None:
        self.twin = twin or ReplicateTwin(clip=b"clip", start_s=1.0, render_s=8.0)
        self.now, self.token = 1_000.0, token

    def __call__(self, ask: Ask) -> Response:
        assert isinstance(ask, Request)
        headers = {"authorization": f"Bearer {self.token}"}
        url = ask.url if "://" in ask.url else BASE + ask.url
        return self.twin.handle(msgspec.structs.replace(ask, url=url, headers=headers), self.now)

    def submit(self, spec: VideoSpec = WORDS, model: Model = MODELS[0]) -> Handle:
        where = target(model.id)
        prepared = play(REPLICATE.prepare(spec, where), self)
        return play(REPLICATE.submit(normalise(spec, model), where, prepared, "job_1-1"), self)

    def get(self, url: str, **query: str) -> dict[str, object]:
        reply = self(Request(method="GET", url=url, query=query))
        return msgspec.json.decode(reply.body, type=dict[str, object])

    def status(self, handle: Handle, at: float) -> object:
        self.now = at
        return play(REPLICATE.status(handle, target()), self)


def target(model: str = "prunaai/p-video") -> Target:
    return Target(provider="replicate", model=model, credential="REPLICATE_API_TOKEN")


def test_a_prediction_starts_runs_and_is_done() -> None:
    wire = Wire()
    handle = wire.submit()
    assert wire.status(handle, 1_000.5) == Unfinished(None, stage="starting")
    assert wire.status(handle, 1_003.0) == Unfinished(25, stage="processing")
    done = wire.status(handle, 1_009.0)
    assert isinstance(done, Done)
    result = wire(Request(method="GET", url=done.outputs[0].url))
    assert (result.body, result.headers["content-type"]) == (b"clip", "video/mp4")
    assert wire.twin.charges == [handle.id]


def test_an_hour_later_everything_is_gone() -> None:
    wire = Wire()
    handle = wire.submit()
    done = wire.status(handle, 1_009.0)
    assert isinstance(done, Done)
    removed = wire.status(handle, 1_009.0 + 3_600.0)
    assert isinstance(removed, Broken)
    assert removed.fault.code == "asset_expired"
    assert wire(Request(method="GET", url=done.outputs[0].url)).status == 404


def test_a_cancel_shows_in_the_next_answer() -> None:
    wire = Wire()
    handle = wire.submit()
    wire.now = 1_002.0
    assert play(REPLICATE.cancel(handle, target()), wire) == "accepted"
    assert wire.status(handle, 1_003.0) == Stopped("unknown")
    assert wire.status(handle, 1_020.0) == Stopped("unknown")


def test_a_cancel_of_what_is_done_changes_nothing() -> None:
    wire = Wire()
    handle = wire.submit()
    wire.now = 1_020.0
    assert play(REPLICATE.cancel(handle, target()), wire) == "too_late"
    assert isinstance(wire.status(handle, 1_021.0), Done)


def test_moderation_and_failures() -> None:
    wire = Wire()
    for word, code in (("forbidden", "moderated"), ("broken", "generation_failed")):
        broken = wire.status(wire.submit(msgspec.structs.replace(WORDS, prompt=f"a {word} lake")), 2_000.0)
        assert isinstance(broken, Broken)
        assert broken.fault.code == code
        wire.now = 1_000.0


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_what_the_adapter_sends_is_what_the_twin_knows(model: Model) -> None:
    """Two tables written apart: the adapter's field names and the twin's schemas."""
    inputs = tuple(Input(role=role, asset=IMAGE) for role in model.roles)
    spec = VideoSpec(prompt="p" if model.prompt == "required" else "", operation=ImageToVideo(), inputs=inputs)
    wishes = {name: {"seed": 7}.get(name, True) for name in model.fields}
    options = {
        name: {"boolean": True, "integer": 7, "number": 0.5}.get(kind, "x") for name, kind in model.options.items()
    }
    wire = Wire()
    handle = wire.submit(msgspec.structs.replace(spec, **wishes, provider_options=options), model)
    assert isinstance(wire.status(handle, 2_000.0), Done)
    assert len(wire.twin.files) == 1


def refused(flow: Flow[Handle], wire: Wire) -> Failed:
    with pytest.raises(Failed) as failed:
        play(flow, wire)
    assert wire.twin.charges == []
    return failed.value


def create(spec: VideoSpec, prepared: Prepared | None = None) -> Flow[Handle]:
    return REPLICATE.submit(spec, target(), prepared or {}, "job_1-1")


def test_refusals_come_before_any_charge() -> None:
    no_prompt = refused(create(VideoSpec(operation=TextToVideo())), Wire())
    assert (no_prompt.fault.code, "prompt is required" in no_prompt.fault.detail) == ("invalid_input", True)
    odd = msgspec.structs.replace(WORDS, provider_options={"odd": 1})
    assert "odd is not allowed" in refused(create(odd), Wire()).fault.detail
    wrong = msgspec.structs.replace(WORDS, provider_options={"seed": "seven"})
    assert "seed: Invalid type" in refused(create(wrong), Wire()).fault.detail
    stranger = Wire(ReplicateTwin(clip=b"", token="right"), token="wrong")
    assert refused(create(WORDS), stranger).fault.code == "authentication_failed"
    poor = Wire(ReplicateTwin(clip=b"", credit=0))
    assert refused(create(WORDS), poor).fault.code == "quota_exceeded"


@pytest.mark.parametrize(
    ("url", "body", "status"),
    [
        ("/predictions", {"version": "0" * 64, "input": {}}, 422),
        ("/predictions", {"input": {}}, 422),
        ("/predictions", None, 422),
        ("/models/nobody/nothing/predictions", {"input": {}}, 404),
        ("/models/prunaai/p-video/predictions", {"input": {"prompt": "p"}, "extra": 1}, 422),
        ("/models/prunaai/p-video/predictions", {"input": "p"}, 422),
        ("/files", None, 422),
        ("/elsewhere", None, 404),
    ],
)
def test_every_error_is_a_problem_document(url: str, body: dict[str, object] | None, status: int) -> None:
    reply = Wire()(Request(method="POST", url=url, body=body))
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert REPLICATE.fault(reply) is not None


def test_creates_are_throttled() -> None:
    wire = Wire()
    for _ in range(600):
        wire.submit()
    with pytest.raises(Failed) as failed:
        wire.submit()
    assert (failed.value.fault.code, failed.value.fault.retry_after_s) == ("rate_limited", 30.0)
    wire.now += 61.0
    wire.submit()


def test_pages_go_from_new_to_old_within_times() -> None:
    wire = Wire()
    made = [wire.submit().id for _ in range(150)]
    first = wire.get("/predictions")
    assert isinstance(first["next"], str)
    second = wire.get(first["next"])
    assert second["next"] is None
    listed = [
        row["id"] for page in (first, second) for row in msgspec.convert(page["results"], list[dict[str, object]])
    ]
    assert listed == made[::-1]
    wire.now = 5_000.0
    late = wire.submit()
    page = wire.get("/predictions", created_after="1970-01-01T01:00:00Z", created_before="1970-01-01T02:00:00Z")
    assert [row["id"] for row in msgspec.convert(page["results"], list[dict[str, object]])] == [late.id]


def test_files_live_a_day() -> None:
    wire = Wire()
    part = Part("content", b"pixel", "a.png", "image/png")
    wire(Request(method="POST", url="/files", body=[part]))
    (name,) = wire.twin.files
    file = wire.get(f"/files/{name}")
    assert (file["size"], file["content_type"], file["name"]) == (5, "image/png", "a.png")
    assert wire(Request(method="DELETE", url=f"/files/{name}")).status == 204
    assert wire(Request(method="GET", url=f"/files/{name}")).status == 404


def test_the_ledger_tells_what_came_and_what_was_charged() -> None:
    wire = Wire()
    handle = wire.submit()
    assert [(line.what, line.about) for line in wire.twin.ledger] == [
        ("request", "POST /v1/models/prunaai/p-video/predictions"),
        ("charge", handle.id),
    ]


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(ReplicateTwin(clip=b"", seed=1)).submit() != Wire().submit()


def test_an_unknown_prediction_has_vanished() -> None:
    assert Wire().status(Handle("a" * 26), 0.0) == Vanished()
