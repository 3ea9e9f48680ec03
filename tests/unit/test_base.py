"""What adapters share: how wishes are told, how answers are read, and what a refusal means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import (
    LIST_PAGES,
    Adapter,
    Answer,
    Ask,
    Broken,
    Done,
    Failed,
    Flow,
    Inline,
    Keep,
    Kept,
    Outcome,
    Output,
    Part,
    Prepared,
    Request,
    Response,
    Trouble,
    Unfinished,
    Vanished,
    play,
)
from rushes.adapters.capabilities import STRING, Auth, Capabilities, Media, Model, Option, seconds
from rushes.adapters.fit import fit
from rushes.faults import BadRequest, Fault
from rushes.units import AssetRef, Handle, Money
from rushes.video import Extend, Input, Made, Target, TextToVideo, VideoSpec

WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
ROW = Model(
    id="m1",
    operations=("text-to-video",),
    durations_s=seconds(1, 4),
    resolutions=("720p", "2160p"),
    fields=frozenset({"generate_audio", "seed"}),
    options={"mark": Option("boolean"), "mood": STRING, "tags": Option("array")},
    wire={
        "prompt": "prompt",
        "duration_seconds": "settings.length",
        "resolution": "settings.size",
        "generate_audio": "settings.sound",
        "seed": "seed",
        "mark": "options.watermark.enabled",
        "tags": "tags",
        "first_frame": "image",
    },
    words={"resolution": {"2160p": "4k"}, "generate_audio": {True: "on", False: "off"}},
)
ID = re.compile(r"[a-z0-9]{2,8}")
TARGET = Target(provider="acme", model="m1")


class Row(Struct):
    id: str


class Acme(Adapter):
    name = "acme"
    capabilities = Capabilities(base_url="https://acme.example", base_url_env="", models=(ROW,), auth=Auth(env=("K",)))

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        return (yield from base.start(self, Request(method="POST", url="/jobs", spends=True), ID, {"model": "m1"}))

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:  # noqa: ARG002
        row = yield from base.look(self, f"/jobs/{handle.id}", Row)
        return Unfinished(stage=row.id) if row else Vanished()

    def fault(self, reply: Response) -> Fault | None:
        trouble = base.read(reply, Trouble)
        if trouble is None or trouble.error is None:
            return None
        text, word = trouble.told()
        return base.problem(self, reply, text, word=word)


ACME = Acme()


def reply(body: object, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def failed(answer: Response, kind: type[Any] = Row) -> Failed:
    with pytest.raises(Failed) as raised:
        base.reply_json(ACME, answer, kind)
    return raised.value


# ── What is told ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_wishes_have_their_own_names_places_and_words_on_the_wire() -> None:
    spec = replace(WORDS, duration_seconds=3.0, resolution="2160p", generate_audio=False, seed=1)
    spec = replace(spec, provider_options={"mark": True, "mood": "calm", "tags": ["a"]})
    assert base.said(spec, ROW) == {
        "prompt": "a lake",
        "settings": {"length": 3, "size": "4k", "sound": "off"},
        "seed": 1,  # which is no word of generate_audio, though 1 is True
        "options": {"watermark": {"enabled": True}},
        "tags": ["a"],
    }
    assert base.unsaid(spec, ROW) == {"mood": "calm"}


def test_a_value_without_another_word_is_told_as_it_is_and_an_absent_wish_is_not() -> None:
    assert base.said(replace(WORDS, prompt="", resolution="720p"), ROW) == {"settings": {"size": "720p"}}


def test_a_name_on_the_wire_is_no_option_wherever_it_lies() -> None:
    with pytest.raises(BadRequest) as wrong:
        fit(replace(WORDS, provider_options={"length": 3}), (ROW,))
    assert wrong.value.field == "provider_options.length"
    assert "give 'duration_seconds' instead" in str(wrong.value)
    assert fit(replace(WORDS, provider_options={"mark": True}), (ROW,))


def test_whole_seconds_are_counted_from_the_first_to_the_last() -> None:
    assert seconds(2, 4) == (2.0, 3.0, 4.0)


# ── Takes of own jobs ─────────────────────────────────────────────────────────────────────────────────────────────────

GOING_ON = replace(
    ROW,
    operations=("extend",),
    roles={"source": 1},
    media={"video": Media(types=("video/mp4",), own="acme", own_model=True)},
)


def after(made: Made | None) -> VideoSpec:
    clip = Input(type="video", role="source", asset=AssetRef("takes/1", "ab" * 32, 9, "video/mp4"), made=made)
    return replace(WORDS, operation=Extend(), inputs=(clip,))


@pytest.mark.parametrize("extra", [{}, {"model": "m1"}])
def test_a_take_of_the_same_provider_and_model_is_taken(extra: dict[str, str]) -> None:
    assert fit(after(Made(job="job_0", provider="acme", handle=Handle("1", extra))), (GOING_ON,))


@pytest.mark.parametrize(
    ("made", "code", "told"),
    [
        (None, "unsupported_feature", "give inputs[0] as the job that made it ('job')"),
        (Made(job="job_0", provider="other", handle=Handle("1")), "unsupported_feature", "but one that acme made"),
        (Made(job="job_0", provider="acme", handle=Handle("1", {"model": "m2"})), "invalid_input", "was made by m2"),
    ],
)
def test_any_other_clip_is_refused_by_its_name(made: Made | None, code: str, told: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        fit(after(made), (GOING_ON,))
    assert (wrong.value.field, wrong.value.code, told in str(wrong.value)) == ("inputs[0]", code, True), wrong.value


def test_a_clip_of_another_model_is_taken_where_only_the_provider_counts() -> None:
    row = replace(GOING_ON, media={"video": Media(types=("video/mp4",), own="acme")})
    assert fit(after(Made(job="job_0", provider="acme", handle=Handle("1", {"model": "m2"}))), (row,))


# ── What an error means ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": "No.", "code": "bad_word"}, ("No.", "bad_word")),
        ({"error": {"message": "No.", "code": 404}}, ("No.", "404")),
        ({"error": {"message": None, "code": "x1"}}, ("", "")),  # no plain word: it may be a secret
        ({"error": "No."}, ("No.", "")),
        ({"error": None, "code": None}, ("", "")),
    ],
)
def test_the_usual_errors_are_read(body: object, told: tuple[str, str]) -> None:
    trouble = base.read(reply(body), Trouble)
    assert trouble is not None
    assert trouble.told() == told


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 410, 413, 415, 422, 429])
def test_a_refusal_in_the_providers_own_words_is_certain(status: int) -> None:
    raised = failed(reply({"error": "No."}, status))
    assert (raised.certain, raised.fault.retryable) == (True, status == 429)
    assert raised.fault.detail == "acme: No."


def test_a_conflict_leaves_open_whether_an_earlier_send_arrived() -> None:
    raised = failed(reply({"error": "It is there already."}, 409))
    assert (raised.certain, raised.fault.code) == (False, "conflict")


def test_an_error_under_a_good_status_is_told_and_leaves_the_send_in_doubt() -> None:
    raised = failed(reply({"error": "No."}, 202))
    assert (raised.certain, raised.fault.code, raised.fault.detail) == (False, "bad_answer", "acme: No.")


def test_an_answer_with_what_it_must_hold_is_good_whatever_else_it_says() -> None:
    assert base.reply_json(ACME, reply({"id": "ab", "error": "No."}), Row).id == "ab"


def test_a_bad_answer_that_says_nothing_is_none_of_the_providers_errors() -> None:
    raised = failed(reply({"other": 1}))
    assert (raised.certain, raised.fault.code, raised.fault.retryable) == (False, "bad_answer", True)


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (reply({"detail": "Your limit resets in ~9s."}, 429), 9.0),
        (reply({}, 429, ratelimit_reset="5"), 5.0),
        (reply({}, 429, ratelimit_reset="999999999"), 86_400.0),
        (reply({"detail": "resets in ~9s"}, 429, retry_after="7", ratelimit_reset="5"), 7.0),
        (reply({"detail": "resets in ~9s"}, 429, retry_after="soon"), 9.0),
        (reply({}, 429, ratelimit_reset="soon"), None),
        (reply({"detail": "resets in ~9s"}, 503, ratelimit_reset="5"), None),
    ],
)
def test_a_limit_may_tell_its_wait_in_words_or_in_another_header(answer: Response, wait_s: float | None) -> None:
    assert base.retry_after_s(answer) == wait_s


# ── Questions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_started_by_the_id_in_the_answer() -> None:
    def started(answer: Response) -> Handle:
        return play(ACME.submit(WORDS, TARGET, {}, "job_1-1"), lambda _: answer)

    assert started(reply({"id": "ab", "status": 7})) == Handle("ab", {"model": "m1"})
    with pytest.raises(Failed) as raised:
        started(reply({"id": "../ab"}))
    assert not raised.value.certain


def test_a_job_is_not_there_only_where_the_provider_says_so_itself() -> None:
    def looked(answer: Response) -> Outcome:
        return play(ACME.status(Handle("ab"), TARGET), lambda _: answer)

    assert looked(reply({"id": "ab"})) == Unfinished(stage="ab")
    assert looked(reply({"error": "No such job."}, 404)) == Vanished()
    for unclear in (reply(b"<html>", 404), reply({"error": "No."}, 410), reply({"error": "No."}, 500)):
        with pytest.raises(Failed):
            looked(unclear)


def test_a_list_is_read_page_after_page() -> None:
    pages = {
        "/rows": ({"a": "1"}, ["ab", "cd"], "https://acme.example/2"),
        "https://acme.example/2": ({}, ["ef"], None),
    }

    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        query, ids, following = pages[ask.url]
        assert (ask.method, ask.query, ask.spends) == ("GET", query, False)
        return reply({"results": [{"id": one} for one in ids], "next": following})

    assert [row.id for row in play(base.listed(ACME, "/rows", {"a": "1"}, Row), world)] == ["ab", "cd", "ef"]


def test_a_list_without_an_end_is_left_after_so_many_pages_and_a_broken_page_ends_it() -> None:
    asked: list[Ask] = []

    def endless(ask: Ask) -> Answer:
        asked.append(ask)
        return reply({"results": [{"id": "ab"}], "next": "/rows"})

    assert len(play(base.listed(ACME, "/rows", {}, Row), endless)) == len(asked) == LIST_PAGES
    with pytest.raises(Failed):
        play(base.listed(ACME, "/rows", {}, Row), lambda _: reply({"results": [{}]}))


@pytest.mark.parametrize("keyed", [False, True])
def test_a_result_is_asked_for_with_the_key_where_the_data_says_so(*, keyed: bool) -> None:
    adapter, kept = Acme(), AssetRef("k", "0" * 64, 1, "video/mp4")
    adapter.capabilities = replace(adapter.capabilities, keyed_results=keyed)

    def world(ask: Ask) -> Answer:
        assert ask == Keep(url="https://host/v.mp4", with_credential=keyed)
        return Kept(kept)

    assert play(adapter.download(Output("https://host/v.mp4"), Handle("ab"), TARGET), world) == kept


# ── Results ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("node", "found"),
    [
        ("https://h/a", ["https://h/a"]),
        (["https://h/a", "text", "data:video/mp4;base64,AA"], ["https://h/a", "data:video/mp4;base64,AA"]),
        ({"video": "https://h/v", "image": "https://h/i"}, ["https://h/v"]),
        ({"video": {"url": "https://h/v"}}, ["https://h/v"]),
        ({"one": ["https://h/a"], "two": {"three": "http://h/b"}}, ["https://h/a", "http://h/b"]),
        ("see https://h/a", []),
        (None, []),
        (7, []),
    ],
)
def test_addresses_are_found_wherever_they_stand(node: object, found: list[str]) -> None:
    assert [*base.addresses(node)] == found


def test_a_job_that_ended_well_without_a_result_has_failed_and_was_paid() -> None:
    cost = Money(5)
    done = base.finished("acme", ["https://h/a"], cost=cost, metadata={"a": "b"})
    assert done == Done((Output("https://h/a"),), cost=cost, metadata={"a": "b"})
    broken = base.finished("acme", [])
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.billed) == ("bad_answer", "yes")


@pytest.mark.parametrize(
    ("told", "percent"), [(None, None), (0, 0), (39.6, 40), (99.9, 99), (100, 99), (-3, 0), (1e9, 99)]
)
def test_a_job_that_has_not_ended_has_less_than_all_of_it(told: float | None, percent: int | None) -> None:
    assert base.percent(told) == percent


def test_a_file_that_is_handed_in_twice_is_uploaded_once_and_has_a_name() -> None:
    def assets() -> Iterator[AssetRef]:
        for letters in ("ab", "cd", "ab"):
            yield AssetRef(f"inputs/{letters}", letters * 32, 5, "image/jpeg")

    spec = replace(WORDS, inputs=tuple(Input(asset=asset) for asset in assets()))
    assert [*base.files(spec)] == ["ab" * 32, "cd" * 32]
    asset = base.files(spec)["ab" * 32]
    assert base.file_part("image", asset) == Part("image", Inline(asset, "bytes"), f"{'ab' * 8}.jpeg", "image/jpeg")
    assert base.file_part("image", asset, "jpg").filename == f"{'ab' * 8}.jpg"
