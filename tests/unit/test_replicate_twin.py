"""Replicate's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

from collections.abc import Mapping

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
from rushes.adapters.catalogue import rows_of
from rushes.adapters.fit import fit
from rushes.adapters.replicate import Replicate
from rushes.emulators.replicate import ReplicateTwin
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Target, TextToVideo, VideoSpec

BASE = "https://api.replicate.com"
REPLICATE = Replicate()
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = AssetRef("inputs/p", "ab" * 32, 5, "image/png")
FRAMED = VideoSpec(prompt="a lake", operation=ImageToVideo(), inputs=(Input(asset=IMAGE),))


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

    def submit(self, spec: VideoSpec = WORDS, model: str = "prunaai/p-video", key: str = "job_1-1") -> Handle:
        where = target(model)
        prepared = play(REPLICATE.prepare(spec, where, key), self)
        return play(REPLICATE.submit(fit(spec, rows_of(REPLICATE, model))[0], where, prepared, key), self)

    def create(self, model: str, wishes: Mapping[str, object] | None = None, **headers: str) -> Response:
        """A prediction without the adapter."""
        body = {"input": {"prompt": "p", **(wishes or {})}}
        url = f"{BASE}/v1/models/{model}/predictions"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.twin.handle(Request(method="POST", url=url, body=body, headers=named), self.now)

    def upload(self, *more: Part) -> Response:
        return self(
            Request(method="POST", url="/v1/files", body=[Part("content", b"pixel", "a.png", "image/png"), *more])
        )

    def find(self, key: str) -> Handle | None:
        return play(REPLICATE.find(target(), key, self.now), self)

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
    assert "input.seed: Invalid type" in refused(create(wrong), Wire()).fault.detail
    stranger = Wire(ReplicateTwin(clip=b"", key="right"), token="wrong")
    assert refused(create(WORDS), stranger).fault.code == "authentication_failed"
    poor = Wire(ReplicateTwin(clip=b"", credit=0))
    assert refused(create(WORDS), poor).fault.code == "quota_exceeded"


@pytest.mark.parametrize(
    ("url", "body", "status"),
    [
        ("/v1/predictions", {"version": "0" * 64, "input": {}}, 422),
        ("/v1/predictions", {"input": {}}, 422),
        ("/v1/predictions", None, 422),
        ("/v1/models/nobody/nothing/predictions", {"input": {}}, 404),
        ("/v1/models/prunaai/p-video/predictions", {"input": {"prompt": "p"}, "extra": 1}, 422),
        ("/v1/models/prunaai/p-video/predictions", {"input": "p"}, 422),
        ("/v1/files", None, 422),
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
    first = wire.get("/v1/predictions")
    assert isinstance(first["next"], str)
    second = wire.get(first["next"])
    assert second["next"] is None
    listed = [
        row["id"] for page in (first, second) for row in msgspec.convert(page["results"], list[dict[str, object]])
    ]
    assert listed == made[::-1]
    wire.now = 5_000.0
    late = wire.submit()
    page = wire.get("/v1/predictions", created_after="1970-01-01T01:00:00Z", created_before="1970-01-01T02:00:00Z")
    assert [row["id"] for row in msgspec.convert(page["results"], list[dict[str, object]])] == [late.id]


def test_the_next_page_asks_the_same_question() -> None:
    wire = Wire()
    wire.submit()
    wire.now = 2_000.0
    made = [wire.submit().id for _ in range(101)]
    first = wire.get("/v1/predictions", created_after="1970-01-01T00:30:00Z")
    assert isinstance(first["next"], str)
    (last,) = msgspec.convert(wire.get(first["next"])["results"], list[dict[str, object]])
    assert last["id"] == made[0]


def test_a_cursor_or_time_that_is_none_is_refused() -> None:
    for query in ({"cursor": "x"}, {"created_after": "yesterday"}):
        assert Wire()(Request(method="GET", url="/v1/predictions", query=query)).status == 400


def test_files_live_a_day() -> None:
    wire = Wire()
    wire.upload()
    (name,) = wire.twin.files
    file = wire.get(f"/v1/files/{name}")
    assert (file["size"], file["content_type"], file["name"]) == (5, "image/png", "a.png")
    assert wire(Request(method="DELETE", url=f"/v1/files/{name}")).status == 204
    assert wire(Request(method="GET", url=f"/v1/files/{name}")).status == 404
    wire.upload()
    wire.now += 86_400.0
    assert wire.get("/v1/files")["results"] == []


def test_files_are_listed_with_their_metadata() -> None:
    wire = Wire()
    wire.upload(Part("metadata", '{"rushes": "job_1-1"}'))
    wire.upload()
    listed = msgspec.convert(wire.get("/v1/files")["results"], list[dict[str, object]])
    assert {str(row["metadata"]) for row in listed} == {"{'rushes': 'job_1-1'}", "{}"}
    assert [row["id"] for row in listed] == sorted(wire.twin.files)
    assert wire.upload(Part("metadata", "[]")).status == 422


# ── Finding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_prediction_is_found_by_the_mark_of_its_files_until_an_hour_after_its_end() -> None:
    wire = Wire()
    first, second = wire.submit(FRAMED, key="job_1-1"), wire.submit(FRAMED, key="job_2-1")
    wire.submit(WORDS, key="job_3-1")
    keys = ("job_1-1", "job_2-1", "job_3-1", "job_1")
    assert [wire.find(key) for key in keys] == [first, second, None, None]
    wire.now += 9.0 + 3_599.0
    assert wire.find("job_1-1") == first
    wire.now += 1.0
    assert wire.find("job_1-1") is None


def test_a_mark_that_two_predictions_carry_is_no_evidence() -> None:
    wire = Wire()
    wire.submit(FRAMED), wire.submit(FRAMED)
    assert wire.find("job_1-1") is None


def test_a_prediction_is_found_among_hundreds() -> None:
    wire = Wire()
    ours = wire.submit(FRAMED, key="job_1-1")
    for number in range(150):
        wire.submit(FRAMED, key=f"job_x-{number}")
    assert wire.find("job_1-1") == ours


# ── Input that does not fit ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "wishes", "said"),
    [
        ("prunaai/p-video", {"duration": 21}, "input.duration: Must be less than or equal to 20"),
        ("prunaai/p-video", {"duration": 0}, "input.duration: Must be greater than or equal to 1"),
        ("prunaai/p-video", {"image": "a.png"}, "input.image: Does not match format 'uri'"),
        ("prunaai/p-video", {"draft": 1}, "input.draft: Invalid type. Expected: boolean"),
        ("bytedance/seedance-2.0", {"reference_images": ["https://h/a"] * 10}, "Must be less than or equal to 9"),
        ("bytedance/seedance-2.0", {"reference_videos": "https://h/a"}, "Invalid type. Expected: array"),
        ("bytedance/seedance-2.0", {"reference_audios": [7]}, "Does not match format 'uri'"),
        ("wan-video/wan-2.7-r2v", {"seed": 2**31}, "input.seed: Must be less than or equal to"),
        ("minimax/video-01", {"seed": 1}, "input: Additional property seed is not allowed"),
    ],
)
def test_input_that_does_not_fit_is_refused_with_its_place(model: str, wishes: dict[str, object], said: str) -> None:
    wire = Wire()
    reply = wire.create(model, wishes)
    assert (reply.status, wire.twin.charges) == (422, [])
    assert said in msgspec.json.decode(reply.body)["detail"]


def test_words_of_stable_video_diffusion_are_its_own() -> None:
    version = "3f0457e4619daac51203dedb472816fd4af51f3149fa7a9e0b5ffcf1b8172438"
    given = {"input_image": "https://h/a.png", "video_length": "long"}
    reply = Wire()(Request(method="POST", url="/v1/predictions", body={"version": version, "input": given}))
    assert "input.video_length: Must be one of the following: 14_frames" in msgspec.json.decode(reply.body)["detail"]


@pytest.mark.parametrize(
    "wishes",
    [
        {"image": "https://h/a", "reference_images": ["https://h/b"]},
        {"last_frame_image": "https://h/a"},
        {"reference_audios": ["https://h/a"]},
        {"image": f"{BASE}/v1/files/{'0' * 32}"},
    ],
)
def test_what_only_the_model_can_see_fails_later_and_is_charged(wishes: dict[str, object]) -> None:
    wire = Wire()
    reply = wire.create("bytedance/seedance-2.0", wishes)
    assert (reply.status, len(wire.twin.charges)) == (201, 1)
    assert isinstance(wire.status(Handle(msgspec.json.decode(reply.body)["id"]), 2_000.0), Broken)


# ── Headers of a create ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("after", "ends"), [("1s", "aborted"), ("2s", "canceled"), ("1m", "succeeded"), ("soon", "succeeded")]
)
def test_a_deadline_aborts_before_it_began_and_cancels_afterwards(after: str, ends: str) -> None:
    wire = Wire(ReplicateTwin(clip=b"clip", start_s=1.5, render_s=8.0))
    made = msgspec.json.decode(wire.create("prunaai/p-video", cancel_after=after).body)
    wire.now = 1_100.0
    assert wire.get(f"/v1/predictions/{made['id']}")["status"] == ends


def test_a_preference_is_noted_and_nobody_waits() -> None:
    wire = Wire()
    assert wire.create("prunaai/p-video", prefer="wait=10").headers["preference-applied"] == "wait=10"
    assert "preference-applied" not in wire.create("prunaai/p-video", prefer="wait=61").headers


def test_the_ledger_tells_what_came_and_what_was_charged() -> None:
    wire = Wire()
    handle = wire.submit()
    assert [line.about for line in wire.twin.ledger.requests] == ["POST /v1/models/prunaai/p-video/predictions"]
    assert [(charge.job, charge.amount) for charge in wire.twin.ledger.charges] == [(handle.id, 1)]


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(ReplicateTwin(clip=b"", seed=1)).submit() != Wire().submit()


def test_an_unknown_prediction_has_vanished() -> None:
    assert Wire().status(Handle("a" * 26), 0.0) == Vanished()
