"""Kling's twin, asked by the real adapter without a socket, in a time that tests say."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from itertools import chain, combinations, product
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
    Prepared,
    Request,
    Response,
    Unfinished,
    Vanished,
    play,
)
from rushes.adapters.capabilities import BOOLEAN, Model, Only
from rushes.adapters.fit import normalise
from rushes.adapters.kling import Kling
from rushes.adapters.kling_models import MODELS
from rushes.emulators.kling import FORMS, KlingTwin
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import (
    OPERATIONS,
    ROLES,
    Config,
    Input,
    Made,
    Role,
    Target,
    TextToVideo,
    VideoSpec,
    VideoToVideo,
    implied_by,
)

BASE = "https://api-singapore.klingai.com"
KLING = Kling()
KEY = "job_1-1"
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = Input(asset=AssetRef("inputs/p", "ab" * 32, 5, "image/png"))
OWN = Made(job="job_0", provider="kling", handle=Handle("1"))
CLIP = Input(type="video", role="source", asset=AssetRef("takes/v", "cd" * 32, 5, "video/mp4"), made=OWN)
OMNI = "/omni-video/kling-3.0-omni"
ACTED = "/motion-control/kling-3.0"
TURBO = "/text-to-video/kling-3.0-turbo"
FRAMES = "/image-to-video/kling-3.0"
FIRST = {"type": "first_frame", "url": "https://host/a.png"}
IMAGED = {"type": "image", "url": "https://host/a.png"}
WORD = {"type": "prompt", "text": "p"}
TURNED = {"character_orientation": "image"}


def video(kind: str, url: str = "https://host/v.mp4") -> dict[str, str]:
    return {"type": kind, "url": url}


def element(name: str) -> dict[str, str]:
    return {"type": "element", "element_id": "1", "id": name}


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
        return self.send(normalise(spec, model), model, {CLIP.asset.sha256: "https://host/v.mp4"}, key)

    def send(self, spec: VideoSpec, model: Model, prepared: Prepared, key: str = KEY) -> Handle:
        return play(KLING.submit(spec, target(model.id), prepared, key), self)

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


Wishes = Iterable[tuple[tuple[Input, ...], float | None, str | None, str, bool | None, dict[str, Any]]]


def inputs_of(row: Model) -> list[tuple[Input, ...]]:
    """One input of each role, in all sets that mean one of the row's operations."""
    files = [replace(CLIP if role in ROLES["video"] else IMAGE, role=role) for role in row.roles]
    sets = [some for count in range(len(files) + 1) for some in combinations(files, count)]
    return [some for some in sets if OPERATIONS[type(implied_by({one.role for one in some}))] in row.operations]


def options_of(row: Model) -> list[dict[str, Any]]:
    """None, and each of its options alone with each of its values."""
    values = {
        name: option.values or ((True, False) if option == BOOLEAN else ("7",)) for name, option in row.options.items()
    }
    return [{}, *({name: value} for name, some in values.items() for value in some)]


def wishes(row: Model) -> list[VideoSpec]:
    """What the row's data admits field by field: all shapes and lengths, and all the rest, for each set of inputs."""
    seconds = {None, *row.durations_s[:1], *row.durations_s[-1:]}
    sounds = (None, True, False) if "generate_audio" in row.fields else (None,)
    ratios = (None, *row.aspect_ratios)
    shapes: Wishes = product(inputs_of(row), seconds, ratios, row.resolutions[:1], (None,), ({},))
    rest: Wishes = product(inputs_of(row), (None,), (None,), row.resolutions, sounds, options_of(row))
    return [
        VideoSpec(
            prompt="p",
            operation=implied_by({one.role for one in given}),
            inputs=given,
            provider_options=chosen,
            duration_seconds=length,
            aspect_ratio=ratio,
            resolution=lines,
            generate_audio=sound,
        )
        for given, length, ratio, lines, sound, chosen in chain(shapes, rest)
    ]


def right(spec: VideoSpec, row: Model) -> bool:
    try:
        normalise(spec, row)
    except BadRequest:
        return False
    return True


def id_of(row: Model) -> str:
    return f"{row.id} {row.operations[0]}"


@pytest.mark.parametrize("row", MODELS, ids=id_of)
def test_the_twin_takes_all_that_the_adapter_takes(row: Model) -> None:
    """Two tables written apart: the adapter's data, and the twin's forms."""
    wire = Wire()
    good = [spec for spec in wishes(row) if right(spec, row)]
    for number, spec in enumerate(good):
        wire.submit(spec, row, f"job_{number}-1")
    assert len(wire.twin.charges) == len(good) > 0


# What Kling takes without a word and does nothing with, as far as anybody knows: the length and shape of a clip that
# is made over are its own.
IDLE = {Only("source", "duration_seconds", (None,)), Only("source", "aspect_ratio", (None,))}


@pytest.mark.parametrize("row", [row for row in MODELS if row.only], ids=id_of)
def test_the_twin_refuses_what_only_together_is_wrong(row: Model) -> None:
    """Sent all the same: each rule of the row's data holds there, too."""
    wire = Wire()
    for rule in {*row.only} - IDLE:
        alone, others = replace(row, only=(rule,)), replace(row, only=tuple({*row.only} - {rule}))
        wrong = [spec for spec in wishes(row) if right(spec, others) and not right(spec, alone)]
        for number, spec in enumerate(wrong[:50]):
            with pytest.raises(Failed) as failed:
                wire.submit(spec, replace(row, only=()), f"job_{number}-1")
            assert failed.value.fault.provider_code == "1201"
        assert wrong, rule
    assert wire.twin.charges == []


def test_every_path_of_the_twin_has_its_row() -> None:
    assert {path.partition("/")[2] for path in FORMS} == {model.id for model in MODELS}
    made = {"text-to-video", "image-to-video", "multi-image", "video-to-video", "character-performance"}
    assert {operation for row in MODELS for operation in row.operations} == made
    assert len(FORMS) == len(MODELS) - 2 * 3  # the four of an omni model have one path


# ── Clips that come in ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("role", "seconds"), [("source", 8), ("reference_video", 5)])
def test_a_take_is_made_over_at_its_own_length_and_borrowed_from_at_any(role: Role, seconds: int) -> None:
    wire, row = Wire(), next(row for row in MODELS if row.operations == ("video-to-video",))
    first = wire.submit(replace(WORDS, duration_seconds=8.0), key="job_0-1")
    wire.now = 1_009.0
    made = Made(job="job_0", provider="kling", handle=first)
    given = replace(CLIP, role=role, made=made, duration_seconds=8.0)
    spec = normalise(VideoSpec(prompt="p", operation=VideoToVideo(), inputs=(given,)), row)
    prepared = play(KLING.prepare(spec, target(row.id)), wire)
    second = wire.send(spec, row, prepared)
    assert wire.twin.tasks[second.id].duration == seconds
    assert [charge.micro_usd for charge in wire.twin.ledger.charges] == [896_000, 126_000 * seconds]


@pytest.mark.parametrize(
    ("path", "kind", "settings", "most"),
    [
        ("/omni-video/kling-o1", "base_video", {}, 10),
        ("/omni-video/kling-3.0-omni", "base_video", {}, 15),
        ("/motion-control/kling-3.0", "video", {"character_orientation": "image"}, 10),
        ("/motion-control/kling-3.0", "video", {"character_orientation": "video"}, 15),
    ],
)
def test_a_clip_of_its_own_may_be_too_long(path: str, kind: str, settings: dict[str, str], most: int) -> None:
    """None of its takes has more than 15 seconds."""
    wire = Wire()
    for seconds in {most, min(most + 1, 15)}:
        taken = wire.submit(replace(WORDS, duration_seconds=float(seconds)), key=f"job_{seconds}-1")
        address = f"{BASE}/files/{taken.id}/0.mp4"
        contents = [WORD, video(kind, address)] + ([IMAGED] if kind == "video" else [])
        answer = wire.post(path, {"contents": contents, "settings": settings})
        assert answer == ((200, 0) if seconds <= most else (400, 1201))


def test_a_take_that_is_not_there_yet_or_any_more_has_no_address() -> None:
    wire, row = Wire(), next(row for row in MODELS if row.operations == ("video-to-video",))
    made = Made(job="job_0", provider="kling", handle=wire.submit())
    spec = VideoSpec(prompt="p", operation=VideoToVideo(), inputs=(replace(CLIP, made=made),))
    for take, now in ((0, 1_001.0), (1, 1_009.0)):
        wire.now = now
        late = replace(spec, inputs=(replace(CLIP, made=replace(made, take=take)),))
        with pytest.raises(Failed) as failed:
            play(KLING.prepare(normalise(late, row), target(row.id)), wire)
        assert failed.value.fault.code == "asset_expired"


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
        (FRAMES, {"contents": [FIRST, {"type": "refer_image", "url": "https://host/a.png"}]}),
        (FRAMES, {"contents": [FIRST, *({"type": "element", "element_id": "1", "id": f"{n}"} for n in "abcd")]}),
        (FRAMES, {"contents": [FIRST, {"type": "element", "element_id": "1"}]}),
        (FRAMES, {"contents": [FIRST, {"type": "element", "element_id": 1, "id": "a"}]}),
        (FRAMES, {"contents": [FIRST, element("a"), element("ab")]}),
        (FRAMES, {"contents": [FIRST, element("a"), element("a")]}),
        (OMNI, {"contents": [WORD]}),
        (OMNI, {"contents": [WORD, FIRST], "settings": {"duration": 2}}),
        (OMNI, {"contents": [WORD, video("base_video"), video("feature_video")]}),
        (OMNI, {"contents": [WORD, video("base_video"), FIRST]}),
        (OMNI, {"contents": [WORD, video("base_video")], "settings": {"audio": "native"}}),
        (OMNI, {"contents": [WORD, video("base_video")], "settings": {"multi_shot": True}}),
        (OMNI, {"contents": [WORD, video("base_video", b64encode(b"clip").decode())]}),
        (OMNI, {"contents": [WORD, video("base_video"), *(element(n) for n in "abcde")]}),
        (OMNI, {"contents": [WORD, FIRST, *(element(n) for n in "abcdefgh")]}),
        (OMNI, {"contents": [WORD, video("feature_video")]}),
        (OMNI, {"contents": [WORD, video("feature_video")], "settings": {"multi_shot": False}}),
        (ACTED, {"contents": [IMAGED, video("video")]}),
        (ACTED, {"contents": [IMAGED], "settings": TURNED}),
        (ACTED, {"contents": [video("video")], "settings": TURNED}),
        (ACTED, {"contents": [IMAGED, video("video")], "settings": {**TURNED, "duration": 5}}),
        (ACTED, {"contents": [IMAGED, video("video")], "settings": {**TURNED, "resolution": "4k"}}),
        (ACTED, {"contents": [IMAGED, video("video")], "settings": {"character_orientation": "left"}}),
        ("/image-to-video/kling-2.6", {"contents": [FIRST, {"type": "voice", "voice_id": "1", "id": "a"}]}),
    ],
)
def test_a_wrong_parameter_is_refused_before_any_charge(path: str, body: dict[str, object]) -> None:
    wire = Wire()
    assert wire.post(path, body) == (400, 1201)
    assert wire.twin.charges == []


@pytest.mark.parametrize(
    ("path", "body", "units"),
    [
        (OMNI, {"contents": [WORD], "settings": {"aspect_ratio": "1:1"}}, "3.0"),
        (OMNI, {"contents": [WORD, FIRST, *(element(n) for n in "abcdefg")]}, "3.0"),
        (OMNI, {"contents": [WORD, video("base_video")], "settings": {"audio": "original"}}, "4.5"),
        (OMNI, {"contents": [WORD, video("feature_video")], "settings": {"multi_shot": True}}, "4.5"),
        (ACTED, {"contents": [IMAGED, video("video"), element("a")], "settings": TURNED}, "4.5"),
        (
            "/image-to-video/kling-2.6",
            {
                "contents": [FIRST, {"type": "voice", "voice_id": "1", "id": "a"}],
                "settings": {"audio": "native", "resolution": "1080p"},
            },
            "6.0",
        ),
    ],
)
def test_beside_each_refusal_stands_what_is_right(path: str, body: dict[str, object], units: str) -> None:
    wire = Wire()
    assert wire.post(path, body) == (200, 0)
    (task,) = wire.twin.tasks.values()
    assert f"{task.units}" == units


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
    assert [line.about for line in wire.twin.ledger.requests] == ["POST /text-to-video/kling-3.0-turbo"]
    charges = [(charge.job, charge.amount, charge.micro_usd) for charge in wire.twin.ledger.charges]
    assert charges == [(handle.id, 4.0, 560_000)]


def test_two_twins_with_one_seed_give_the_same_answers() -> None:
    assert Wire().submit() == Wire().submit()
    assert Wire(twin(seed=1)).submit() != Wire().submit()


def test_a_request_without_wishes_gets_their_defaults() -> None:
    wire = Wire()
    assert wire.post(TURBO, {"prompt": "p"}) == (200, 0)
    (task,) = wire.twin.tasks.values()
    assert (task.duration, f"{task.units}") == (Config(duration_seconds=5).duration_seconds, "4.0")
