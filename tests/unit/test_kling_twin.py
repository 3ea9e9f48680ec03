"""Kling's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

from base64 import b64encode
from itertools import combinations, product
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from rushes.adapters.base import (
    Ask,
    Broken,
    Done,
    Failed,
    Outcome,
    Request,
    Response,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.capabilities import Model, normalise
from rushes.adapters.kling import MODELS, Kling
from rushes.emulators.kling import FORMS, KlingTwin
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import Config, ImageToVideo, Input, Operation, Target, TextToVideo, VideoSpec

BASE = "https://api-singapore.klingai.com"
KLING = Kling()
KEY = "job_1-1"
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = AssetRef("inputs/p", "ab" * 32, 5, "image/png")
TURBO = "/text-to-video/kling-3.0-turbo"
FRAMES = "/image-to-video/kling-3.0"
FIRST = {"type": "first_frame", "url": "https://host/a.png"}


def twin(**changes: Any) -> KlingTwin:
    return KlingTwin(clip=b"clip", **{"start_s": 1.0, "render_s": 8.0, **changes})


class Wire:
    """A twin, a key and a time."""

    def __init__(self, other: KlingTwin | None = None, key: str = "k") -> None:
        self.twin, self.now, self.key = other or twin(), 1_000.0, key

    def __call__(self, ask: Ask) -> Response:
        assert isinstance(ask, Request)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = ask.url if "://" in ask.url else BASE + ask.url
        return self.twin.handle(replace(ask, url=url, headers=headers), self.now)

    def submit(self, spec: VideoSpec = WORDS, model: Model = MODELS[0], key: str = KEY) -> Handle:
        return play(KLING.submit(normalise(spec, model), target(model.id), {}, key), self)

    def refused(self, spec: VideoSpec = WORDS) -> Failed:
        with pytest.raises(Failed) as failed:
            self.submit(spec)
        return failed.value

    def status(self, handle: Handle, at: float) -> Outcome:
        self.now = at
        return play(KLING.status(handle, target()), self)

    def find(self, key: str = KEY) -> Handle | None:
        return play(KLING.find(target(), key, 0.0), self)

    def post(self, path: str, body: dict[str, object] | None) -> tuple[int, int]:
        """The status and the code of what is answered."""
        reply = self(Request(method="POST", url=path, body=body))
        return reply.status, msgspec.json.decode(reply.body)["code"]


def target(model: str = "kling-3.0-turbo") -> Target:
    return Target(provider="kling", model=model, credential="KLINGAI_API_KEY")


def test_a_task_is_submitted_processed_and_done() -> None:
    wire = Wire()
    handle = wire.submit()
    assert wire.status(handle, 1_000.5) == Unfinished(None, stage="submitted")
    assert wire.status(handle, 1_003.0) == Unfinished(None, stage="processing")
    done = wire.status(handle, 1_009.0)
    assert isinstance(done, Done)
    assert done.cost is not None
    assert (done.cost.micro_usd, done.cost.units) == (560_000, 4.0)  # 5 seconds of 0.8 units, 0.14 dollars each
    result = wire.twin.handle(Request(method="GET", url=done.outputs[0].url), 1_009.0)  # without a key
    assert (result.body, result.headers["content-type"]) == (b"clip", "video/mp4")
    assert wire.twin.charges == [handle.id]


def wishes(model: Model, operation: Operation) -> list[VideoSpec]:
    """Every request that the model's data admits, but for the middle of its durations."""
    seconds = {model.durations_s[0], model.durations_s[-1]}
    ratios = (None, *model.aspect_ratios) if isinstance(operation, TextToVideo) else (None,)
    sounds = (None, True, False) if "generate_audio" in model.fields else (None,)
    options: list[dict[str, Any]] = [{}, dict.fromkeys(model.options, True), dict.fromkeys(model.options, False)]
    inputs: list[tuple[Input, ...]] = [()]
    if isinstance(operation, ImageToVideo):
        frames = [Input(role=role, asset=IMAGE) for role in model.roles]
        inputs = [some for count in range(1, len(frames) + 1) for some in combinations(frames, count)]
    return [
        replace(
            VideoSpec(prompt="p", operation=operation, inputs=given, provider_options=chosen),
            duration_seconds=length,
            aspect_ratio=ratio,
            resolution=lines,
            generate_audio=sound,
        )
        for length, ratio, lines, sound, chosen, given in product(
            seconds, ratios, model.resolutions, sounds, options, inputs
        )
    ]


@pytest.mark.parametrize("operation", [TextToVideo(), ImageToVideo()], ids=["words", "images"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_the_twin_takes_exactly_what_the_adapter_does(model: Model, operation: Operation) -> None:
    """Two tables written apart: the adapter's data and contradictions, and the twin's forms."""
    wire, taken = Wire(), 0
    for number, spec in enumerate(wishes(model, operation)):
        whole = normalise(spec, model)
        try:
            needs_prepare(KLING, whole, target(model.id))
        except BadRequest:
            with pytest.raises(Failed) as failed:
                wire.submit(spec, model, f"job_{number}-1")
            assert failed.value.fault.provider_code == "1201"
        else:
            wire.submit(spec, model, f"job_{number}-1")
            taken += 1
    assert len(wire.twin.charges) == taken > 0


def test_every_path_of_the_twin_has_its_model() -> None:
    assert {path.partition("/")[2] for path in FORMS} == {model.id for model in MODELS}


# ── Lost answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_is_found_by_our_key() -> None:
    wire = Wire()
    handle = wire.submit()
    wire.submit(key="job_2-1")
    assert wire.find() == handle


@pytest.mark.parametrize("unknown", ["empty", "refused"])
def test_what_it_does_not_know_is_said_in_either_way(unknown: str) -> None:
    wire = Wire(twin(unknown=unknown))
    assert wire.find() is None
    assert wire.status(Handle("8936"), 1_000.0) == Vanished()


def test_a_second_create_under_one_key_is_never_charged() -> None:
    strict, lenient = Wire(), Wire(twin(duplicate="same"))
    handle = strict.submit()
    again = strict.refused()
    assert (again.certain, again.fault.code, strict.find()) == (False, "conflict", handle)
    assert lenient.submit() == lenient.submit()
    assert len(strict.twin.charges) == len(lenient.twin.charges) == 1


def test_many_are_asked_for_at_once() -> None:
    wire = Wire()
    ids = [wire.submit(key=f"job_{number}-1").id for number in range(3)]
    for name, wanted in (("task_ids", ids[:2]), ("external_task_ids", ["job_0-1", "job_1-1", "job_9-1"])):
        reply = wire(Request(method="GET", url="/tasks", query={name: ",".join(wanted)}))
        assert [task["id"] for task in msgspec.json.decode(reply.body)["data"]] == ids[:2]


# ── Ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_moderation_at_once_refuses_and_later_fails_and_neither_is_charged() -> None:
    wire = Wire()
    assert wire.refused(replace(WORDS, prompt="a forbidden lake")).fault.code == "moderated"
    for word, code in (("withheld", "moderated"), ("broken", "generation_failed")):
        broken = wire.status(wire.submit(replace(WORDS, prompt=f"a {word} lake"), key=word), 2_000.0)
        assert isinstance(broken, Broken)
        assert (broken.fault.code, broken.billed) == (code, "no")
        wire.now = 1_000.0
    assert wire.twin.charges == []


def test_an_address_expires_and_the_next_answer_has_another_until_the_file_goes() -> None:
    wire = Wire(twin(link_s=60.0))
    handle = wire.submit()
    ended = 1_009.0

    def address(at: float) -> str:
        done = wire.status(handle, at)
        assert isinstance(done, Done)
        return done.outputs[0].url

    def fetched(url: str, at: float) -> int:
        return wire.twin.handle(Request(method="GET", url=url), at).status

    first = address(ended)
    assert [fetched(first, ended + after_s) for after_s in (0.0, 59.0, 60.0)] == [200, 200, 403]
    second = address(ended + 60.0)
    assert fetched(second, ended + 60.0) == 200
    last = 30 * 86_400.0
    assert fetched(address(ended + last - 1.0), ended + last - 1.0) == 200
    assert fetched(address(ended + last), ended + last) == 404


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ours", "code"), [("", "1001"), ("wrong", "1002"), ("eyJhbGci.eyJpc3Mi.c2ln", "1002"), ("right", "")]
)
def test_a_missing_a_wrong_and_an_old_key_are_refused(ours: str, code: str) -> None:
    wire = Wire(twin(key="right"), ours)
    if not code:
        assert wire.submit()
        return
    failed = wire.refused()
    assert (failed.fault.code, failed.fault.provider_code) == ("authentication_failed", code)
    assert not wire.twin.tasks


def test_an_old_wires_key_is_refused_where_any_other_is_taken() -> None:
    assert Wire(key="a.b.c").refused().fault.code == "authentication_failed"


def test_only_so_many_run_at_once() -> None:
    wire = Wire(twin(slots=1))
    first = wire.submit(key="job_0-1")
    busy = wire.refused()
    assert (busy.certain, busy.fault.code, busy.fault.provider_code) == (True, "rate_limited", "1303")
    assert isinstance(wire.status(first, 1_009.0), Done)
    wire.submit()
    assert len(wire.twin.charges) == 2


def test_a_pack_that_is_used_up_is_not_throttling() -> None:
    failed = Wire(twin(credit=0)).refused()
    assert (failed.fault.code, failed.fault.retryable, failed.fault.provider_code) == ("quota_exceeded", False, "1102")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TURBO, {}),
        (TURBO, {"prompt": ""}),
        (TURBO, {"prompt": 7}),
        (TURBO, {"prompt": "p" * 3073}),
        (TURBO, {"prompt": "p", "model": "kling-3.0"}),
        (TURBO, {"prompt": "p", "contents": []}),
        (TURBO, {"prompt": "p", "settings": []}),
        (TURBO, {"prompt": "p", "settings": {"duration": "5"}}),
        (TURBO, {"prompt": "p", "settings": {"duration": 5.0}}),
        (TURBO, {"prompt": "p", "settings": {"duration": 2}}),
        (TURBO, {"prompt": "p", "settings": {"audio": "off"}}),
        (TURBO, {"prompt": "p", "settings": {"seed": 7}}),
        (TURBO, {"prompt": "p", "options": {"external_id": "x"}}),
        (TURBO, {"prompt": "p", "options": {"external_task_id": 7}}),
        (TURBO, {"prompt": "p", "options": {"watermark_info": True}}),
        (FRAMES, {"prompt": "p"}),
        (FRAMES, {"contents": []}),
        (FRAMES, {"contents": [{"type": "prompt", "text": "p"}]}),
        (FRAMES, {"contents": [{"type": "last_frame", "url": "https://host/a.png"}]}),
        (FRAMES, {"contents": [FIRST, FIRST]}),
        (FRAMES, {"contents": [FIRST, {"type": "mask", "url": "https://host/a.png"}]}),
        (FRAMES, {"contents": [{"type": "first_frame"}]}),
        (FRAMES, {"contents": [{"type": "first_frame", "url": "data:image/png;base64,cGl4ZWw="}]}),
        (FRAMES, {"contents": [{"type": "first_frame", "url": "no base64"}]}),
        (FRAMES, {"contents": [FIRST], "settings": {"aspect_ratio": "16:9"}}),
        (FRAMES, {"contents": [FIRST], "settings": {"multi_shot": 1}}),
    ],
)
def test_a_wrong_parameter_is_refused_before_any_charge(path: str, body: dict[str, object]) -> None:
    wire = Wire()
    assert wire.post(path, body) == (400, 1201)
    assert wire.twin.charges == []


def test_a_picture_is_an_address_or_base64() -> None:
    wire = Wire()
    for url in ("https://host/a.png", b64encode(b"pixel").decode()):
        assert wire.post(FRAMES, {"contents": [{"type": "first_frame", "url": url}]}) == (200, 0)


def test_a_body_that_is_none_a_wrong_method_and_a_wrong_question_have_codes_of_their_own() -> None:
    wire = Wire()
    assert wire.post(TURBO, None) == (400, 1200)
    assert wire.post("/tasks", {}) == (404, 1202)
    for query in ({}, {"task_ids": "1", "external_task_ids": "x"}):
        reply = wire(Request(method="GET", url="/tasks", query=query))
        assert (reply.status, msgspec.json.decode(reply.body)["code"]) == (400, 1201)


@pytest.mark.parametrize("path", ["/", "/text-to-video/kling-9", "/v1/videos/text2video", "/files/1/0.png"])
def test_a_path_that_is_not_there_is_answered_by_the_machinery_before_it(path: str) -> None:
    reply = Wire(key="")(Request(method="POST", url=path, body={}))
    assert reply.status == 404
    assert set(msgspec.json.decode(reply.body)) == {"timestamp", "status", "error", "message", "path"}
    fault = KLING.fault(reply)
    assert fault is not None
    assert fault.code == "not_found"


def test_the_ledger_tells_what_came_and_what_was_charged() -> None:
    wire = Wire()
    handle = wire.submit()
    assert [(line.what, line.about) for line in wire.twin.ledger] == [
        ("request", "POST /text-to-video/kling-3.0-turbo"),
        ("charge", handle.id),
    ]


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(twin(seed=1)).submit() != Wire().submit()


def test_a_request_without_wishes_gets_their_defaults() -> None:
    wire = Wire()
    assert wire.post(TURBO, {"prompt": "p"}) == (200, 0)
    (task,) = wire.twin.tasks.values()
    assert (task.duration, f"{task.units}") == (Config(duration_seconds=5).duration_seconds, "4.0")
