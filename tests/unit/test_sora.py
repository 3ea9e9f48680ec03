"""Sora's flows, played with bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.adapters.base import (
    Answer,
    Ask,
    Broken,
    Done,
    Failed,
    Inline,
    Keep,
    Kept,
    Outcome,
    Output,
    Part,
    Request,
    Response,
    Unfinished,
    Vanished,
    needs_prepare,
    play,
)
from rushes.adapters.capabilities import PollSchedule
from rushes.adapters.catalogue import ModelSetting, route, rows_of, with_settings
from rushes.adapters.fit import estimate, fit
from rushes.adapters.sora import Sora
from rushes.emulators.faults import ServerError
from rushes.emulators.sora import SoraTwin
from rushes.faults import BadRequest
from rushes.testing.answers import broken_answers
from rushes.testing.crashes import POINTS, Point, live_through
from rushes.testing.orders import Order, plainest
from rushes.testing.wires import EPOCH_S, Pair, Wire
from rushes.units import AssetRef, Handle
from rushes.video import (
    JSON,
    Extend,
    ImageToVideo,
    Input,
    Made,
    Operation,
    Target,
    TextToVideo,
    VideoSpec,
    VideoToVideo,
)

SORA = Sora()
LAKE = VideoSpec(prompt="a lake", operation=TextToVideo())
IMAGE = AssetRef("inputs/i", "ab" * 32, 9, "image/jpeg")
CLIP = AssetRef("takes/c", "cd" * 32, 9, "video/mp4")
ID = "video_" + "0a" * 24
HANDLE = Handle(ID, {"model": "sora-2"})
KEY = "job_7-1"
MARKED = {"mark_prompt": True}


def target(model: str = "sora-2") -> Target:
    return Target(provider="sora", model=model, credential="OPENAI_API_KEY")


def reply(status: int, body: object, **headers: str) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status=status, body=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


def clip(made: Made | None = None) -> Input:
    return Input(type="video", role="source", asset=CLIP, duration_seconds=4.0, made=made)


def theirs(model: str = "sora-2", id: str = ID, provider: str = "sora") -> Made:
    return Made(job="job_0", provider=provider, handle=Handle(id, {"model": model}))


def of_a_clip(made: Made | None, operation: Operation | None = None) -> VideoSpec:
    return VideoSpec(prompt="by night", operation=operation or VideoToVideo(), inputs=(clip(made),))


def submitted(spec: VideoSpec, model: str = "sora-2", answer: Response | None = None) -> tuple[Handle, Request]:
    sent: list[Request] = []

    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(200, {"id": ID, "status": "queued"})

    settled, _ = fit(spec, rows_of(SORA, model))
    handle = play(SORA.submit(settled, target(model), {}, KEY), world)
    (request,) = sent
    return handle, request


def form(request: Request) -> dict[str, object]:
    assert isinstance(request.body, list)
    assert all(isinstance(part, Part) for part in request.body)
    return {part.name: part.content for part in request.body}


def asked(answer: Response) -> Outcome:
    return play(SORA.status(HANDLE, target()), lambda _: answer)


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(LAKE, answer=answer)
    return failed.value


# ── Requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_go_out_as_a_form_of_texts() -> None:
    handle, request = submitted(LAKE)
    assert (request.method, request.url, request.spends) == ("POST", "/videos", True)
    assert form(request) == {"prompt": "a lake", "model": "sora-2", "seconds": "4", "size": "720x1280"}
    assert handle == HANDLE


@pytest.mark.parametrize(
    ("wish", "size"),
    [
        ({"aspect_ratio": "16:9"}, "1280x720"),
        ({"resolution": "1080p"}, "1080x1920"),
        ({"resolution": "1024p", "aspect_ratio": "7:4"}, "1792x1024"),
        ({"resolution": "1024x1792"}, "1024x1792"),
    ],
)
def test_a_shape_is_one_of_its_sizes(wish: dict[str, Any], size: str) -> None:
    _, request = submitted(replace(LAKE, **wish), "sora-2-pro")
    assert form(request)["size"] == size


def test_a_size_that_the_smaller_model_does_not_have_is_refused() -> None:
    for wish in ({"resolution": "1080p"}, {"resolution": "1792x1024"}, {"aspect_ratio": "1:1"}):
        with pytest.raises(BadRequest) as wrong:
            fit(replace(LAKE, **wish), rows_of(SORA, "sora-2"))
        assert wrong.value.field == next(iter(wish))


def test_a_picture_is_one_file_of_the_form() -> None:
    spec = replace(LAKE, operation=ImageToVideo(), inputs=(Input(asset=IMAGE),))
    _, request = submitted(spec)
    assert isinstance(request.body, list)
    assert request.body[-1] == Part("input_reference", Inline(IMAGE, "bytes"), "first_frame.jpeg", "image/jpeg")


def test_a_clip_of_theirs_is_named() -> None:
    _, remix = submitted(of_a_clip(theirs()))
    assert (remix.url, remix.body) == (f"/videos/{ID}/remix", {"prompt": "by night"})
    _, longer = submitted(replace(of_a_clip(theirs(), Extend()), duration_seconds=20.0))
    assert longer.url == "/videos/extensions"
    assert longer.body == {"prompt": "by night", "seconds": "20", "video": {"id": ID}}


@pytest.mark.parametrize("made", [None, theirs(provider="runway")])
def test_any_other_clip_goes_along(made: Made | None) -> None:
    _, edit = submitted(of_a_clip(made))
    _, longer = submitted(of_a_clip(made, Extend()))
    assert (edit.url, longer.url) == ("/videos/edits", "/videos/extensions")
    assert form(edit) == {"prompt": "by night", "video": Inline(CLIP, "bytes")}
    assert form(longer) == {"prompt": "by night", "seconds": "4", "video": Inline(CLIP, "bytes")}


def test_a_clip_of_another_model_of_theirs_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(BadRequest, match="sora-2-pro") as wrong:
        needs_prepare(SORA, of_a_clip(theirs("sora-2-pro")), target())
    assert wrong.value.field == "inputs[0]"
    assert not needs_prepare(SORA, of_a_clip(theirs("sora-2-pro")), target("sora-2-pro"))


def test_a_name_of_a_clip_that_leads_elsewhere_is_never_asked_for() -> None:
    with pytest.raises(Failed):
        submitted(of_a_clip(theirs(id="../../account")))


def test_several_clips_of_one_request_are_refused_by_name() -> None:
    for name in ("n", "number_of_videos", "variants"):
        with pytest.raises(BadRequest) as wrong:
            fit(replace(LAKE, provider_options={name: 2}), rows_of(SORA, "sora-2"))
        assert wrong.value.field == f"provider_options.{name}"


def test_nobody_here_knows_what_it_costs() -> None:
    spec, row = fit(LAKE, rows_of(SORA, "sora-2"))
    assert estimate(spec, row) is None


# ── How it is waited for ──────────────────────────────────────────────────────────────────────────────────────────────


def with_options(**options: Any) -> VideoSpec:
    return fit(replace(LAKE, provider_options=options), rows_of(SORA, "sora-2"))[0]


def test_a_request_says_how_often_and_how_long() -> None:
    usual = SORA.terms(LAKE, target())
    said = SORA.terms(with_options(poll_interval_seconds=0.1, poll_timeout_seconds=600), target())
    assert (said.poll, said.total_s) == (PollSchedule(min_s=0.1, max_s=0.1), 600)
    assert replace(said, poll=usual.poll, total_s=usual.total_s) == usual
    assert SORA.terms(with_options(poll_timeout_seconds=60), target()) == replace(usual, total_s=60)


@pytest.mark.parametrize(
    ("name", "value"), [("poll_interval_seconds", 0.09), ("poll_interval_seconds", "1"), ("poll_timeout_seconds", 1)]
)
def test_too_often_and_too_short_are_refused(name: str, value: object) -> None:
    with pytest.raises(BadRequest) as wrong:
        with_options(**{name: value})
    assert wrong.value.field == f"provider_options.{name}"


def test_what_is_about_the_waiting_is_not_sent() -> None:
    plain = submitted(LAKE)[1]
    options = {"poll_interval_seconds": 1, "poll_timeout_seconds": 60, "mark_prompt": False}
    assert submitted(replace(LAKE, provider_options=options))[1] == plain


@pytest.mark.parametrize(("hint", "wait_s"), [("1500", 1.5), ("0", 0.0), ("soon", 0.0), ("99999999", 600.0)])
def test_a_server_may_wish_to_be_left_alone_for_a_while(hint: str, wait_s: float) -> None:
    outcome = asked(reply(200, VIDEO | {"status": "queued"}, openai_poll_after_ms=hint))
    assert outcome == Unfinished(0, stage="queued", wait_s=wait_s)


@pytest.mark.parametrize(("hint_ms", "looks"), [(None, 105), (1, 105), (5_000, 6), (60_000, 2)])
def test_it_is_looked_at_no_sooner_than_both_wish(hint_ms: int | None, looks: int) -> None:
    wire = Wire(Pair(SORA, partial(SoraTwin, poll_after_ms=hint_ms)))
    plain = plainest(SORA.capabilities)[0]
    hasty = replace(plain, spec=replace(plain.spec, provider_options={"poll_interval_seconds": 0.1}))
    assert isinstance(live_through(wire, hasty).job, m.Succeeded)
    seen = [ask for ask in wire.asked if isinstance(ask, Request) and ask.method == "GET"]
    assert len(seen) == looks


# ── Marks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def marked_order() -> Order:
    plain = plainest(SORA.capabilities)[0]
    return replace(plain, spec=replace(plain.spec, provider_options=MARKED))


def pages(*rows: list[Mapping[str, object]]) -> tuple[Any, list[Request]]:
    """A list of so many pages, and what was asked of it."""
    sent: list[Request] = []

    def world(ask: Ask) -> Response:
        assert isinstance(ask, Request)
        sent.append(ask)
        number = len(sent) - 1
        return reply(200, {"object": "list", "data": rows[number], "has_more": number + 1 < len(rows)})

    return world, sent


def row(id: str, prompt: object, created_at: float = EPOCH_S) -> dict[str, object]:
    return {"id": id, "prompt": prompt, "created_at": created_at}


def found(*rows: list[Mapping[str, object]]) -> tuple[Handle | None, list[Request]]:
    world, sent = pages(*rows)
    return play(SORA.find(target(), KEY, EPOCH_S), world), sent


def test_a_mark_stands_at_the_end_of_the_prompt_and_changes_the_class() -> None:
    spec = replace(LAKE, provider_options=MARKED)
    assert form(submitted(spec)[1])["prompt"] == "a lake\n(job_7-1)"
    assert (SORA.terms(spec, target()).doubt, SORA.terms(LAKE, target()).doubt) == ("C", "E")
    remix = replace(of_a_clip(theirs()), provider_options=MARKED)
    assert submitted(remix)[1].body == {"prompt": "by night\n(job_7-1)"}


def test_the_one_clip_with_the_mark_is_found() -> None:
    handle, sent = found([row("a", "a lake"), row("b", None)], [row("c", "a lake\n(job_7-1)")])
    assert handle == Handle("c", {"model": "sora-2"})
    assert [dict(ask.query) for ask in sent] == [
        {"limit": "100", "order": "desc"},
        {"limit": "100", "order": "desc", "after": "b"},
    ]


def test_two_of_them_and_none_are_no_evidence() -> None:
    twice: list[Mapping[str, object]] = [row("a", "x\n(job_7-1)"), row("b", "y\n(job_7-1)")]
    assert found(twice)[0] is None
    assert found([row("a", "x\n(job_7-11)"), row("b", "x (job_7-1) y")])[0] is None
    assert found([])[0] is None


def test_it_is_not_looked_for_before_it_was_sent() -> None:
    old: list[Mapping[str, object]] = [row("a", "x", EPOCH_S - 7200.0)]
    handle, sent = found(old, [row("b", "x\n(job_7-1)")])
    assert (handle, len(sent)) == (None, 1)


@pytest.mark.parametrize("point", POINTS)
def test_a_marked_clip_is_found_wherever_the_process_dies(point: Point) -> None:
    wire = Wire(Pair(SORA, SoraTwin))
    ending = live_through(wire, marked_order(), point)
    if point == "before":  # that nothing is there proves nothing
        assert isinstance(ending.job, m.Parked)
        assert wire.charges == []
    else:
        assert isinstance(ending.job, m.Succeeded)
        assert len(wire.charges) == 1


def test_control_without_a_mark_it_waits_for_a_person() -> None:
    ending = live_through(Wire(Pair(SORA, SoraTwin)), plainest(SORA.capabilities)[0], "after")
    assert isinstance(ending.job, m.Parked)


def test_a_look_finds_exactly_the_job_of_its_key() -> None:
    wire, order = Wire(Pair(SORA, SoraTwin)), marked_order()
    handles = {key: wire.submit(order, key) for key in ("job_1-1", "job_2-1")}
    seen = {key: wire.play(SORA.find(wire.target(order), key, EPOCH_S)) for key in (*handles, "job_1")}
    assert seen == {**handles, "job_1": None}


def test_a_broken_list_never_says_that_nothing_is_there() -> None:
    good = reply(200, {"object": "list", "data": [row(ID, "a lake\n(job_7-1)")], "has_more": False})
    for about, broken in broken_answers(good):
        try:
            handle = play(SORA.find(target(), KEY, EPOCH_S), lambda _, broken=broken: broken)  # type: ignore[misc]
        except Failed:
            continue
        assert handle is not None, about


# ── Answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────

VIDEO = {"id": ID, "object": "video", "model": "sora-2", "progress": 0, "seconds": "4", "error": None}


@pytest.mark.parametrize(
    ("told", "percent"),
    [(40, 40), (40.7, 40), ("40%", 40), ("40", 40), (100, 99), (None, None), ("", None), ("soon", None)],
)
def test_progress_is_read_however_it_is_told(told: object, percent: int | None) -> None:
    assert asked(reply(200, VIDEO | {"status": "in_progress", "progress": told})) == Unfinished(
        percent, stage="in_progress"
    )


def test_an_answer_needs_a_status_and_nothing_else() -> None:
    assert asked(reply(200, {"status": "queued"})) == Unfinished(None, stage="queued")
    assert asked(reply(200, {"status": "pondering", "seconds": 4, "new": {}})) == Unfinished(None, stage="pondering")
    with pytest.raises(Failed):
        asked(reply(200, {"id": ID}))


@pytest.mark.parametrize(
    ("more", "url"),
    [
        ({}, f"videos/{ID}/content"),
        ({"url": "https://files.example/a.mp4"}, "https://files.example/a.mp4"),
        ({"metadata": {"url": "https://files.example/b.mp4"}}, "https://files.example/b.mp4"),
        ({"url": None, "metadata": {"url": 7}}, f"videos/{ID}/content"),
        ({"url": "/var/lib/a.mp4"}, f"videos/{ID}/content"),
    ],
)
def test_the_clip_is_where_the_answer_says_or_else_in_its_content(more: dict[str, object], url: str) -> None:
    assert asked(reply(200, VIDEO | {"status": "completed"} | more)) == Done((Output(url),))


BESIDE = {
    "thumbnail": Output(f"videos/{ID}/content?variant=thumbnail", "image/webp", "thumbnail"),
    "spritesheet": Output(f"videos/{ID}/content?variant=spritesheet", "image/jpeg", "spritesheet"),
}


@pytest.mark.parametrize(
    "wanted", [["thumbnail"], ["spritesheet"], ["thumbnail", "spritesheet"], ["spritesheet", "thumbnail"]]
)
def test_pictures_that_were_asked_for_come_after_the_clip_and_are_not_told_before(wanted: list[JSON]) -> None:
    handle, request = submitted(replace(LAKE, provider_options={"variants": wanted}))
    assert request == submitted(LAKE)[1]
    answer = reply(200, VIDEO | {"status": "completed", "url": "https://files.example/a.mp4"})
    done = play(SORA.status(handle, target()), lambda _: answer)
    pictures = [output for kind, output in BESIDE.items() if kind in wanted]
    assert done == Done((Output("https://files.example/a.mp4"), *pictures))


def test_a_handle_that_was_found_gets_from_the_request_what_it_lacks() -> None:
    spec = replace(LAKE, provider_options={"variants": ["spritesheet"]})
    handle, _ = submitted(spec)
    assert handle == Handle(ID, SORA.beside_id(spec, target()))
    assert SORA.beside_id(LAKE, target()) == {"model": "sora-2"}


@pytest.mark.parametrize("wrong", ["thumbnail", [], ["video"], ["poster"], ["thumbnail", 7], {"thumbnail": True}])
def test_only_pictures_that_are_known_can_be_asked_for(wrong: JSON) -> None:
    with pytest.raises(BadRequest) as refused:
        with_options(variants=wrong)
    assert refused.value.field == "provider_options.variants"


def test_a_picture_that_is_named_twice_is_refused_before_anything_is_asked() -> None:
    spec = with_options(variants=["thumbnail", "thumbnail"])
    with pytest.raises(BadRequest, match="'thumbnail' is named twice") as wrong:
        needs_prepare(SORA, spec, target())
    assert wrong.value.field == "provider_options.variants"
    assert not needs_prepare(SORA, with_options(variants=["thumbnail", "spritesheet"]), target())


def pictured() -> Order:
    plain = plainest(SORA.capabilities)[0]
    return replace(plain, spec=replace(plain.spec, provider_options={"variants": ["thumbnail", "spritesheet"]}))


def test_pictures_that_never_come_are_given_up_within_minutes_and_the_clip_is_kept() -> None:
    wire = Wire(Pair(SORA, partial(SoraTwin, loose=True)))  # which has no pictures
    ending = live_through(wire, pictured())
    assert isinstance(ending.job, m.Succeeded)
    assert ([take.kind for take in ending.job.takes], ending.job.missing, ending.job.billed) == (["video"], 2, "yes")
    assert [event.index for event in ending.events if isinstance(event, m.TakeLost)] == [1, 2]
    assert ending.took_s < 600.0
    assert len(wire.charges) == 1


def test_control_a_server_that_has_them_loses_none() -> None:
    ending = live_through(Wire(Pair(SORA, SoraTwin)), pictured())
    assert isinstance(ending.job, m.Succeeded)
    assert [take.kind for take in ending.job.takes] == ["video", "thumbnail", "spritesheet"]
    assert ending.job.missing == 0


def test_control_a_clip_that_does_not_come_is_not_given_up_like_a_picture() -> None:
    wire = Wire(Pair(SORA, SoraTwin), ServerError(on="download", status=500, times=12))
    ending = live_through(wire, pictured())
    assert isinstance(ending.job, m.Succeeded)
    assert ([take.kind for take in ending.job.takes], ending.job.missing) == (["video", "thumbnail", "spritesheet"], 0)


def test_a_download_says_the_key_to_its_own_host_alone() -> None:
    asset, asks = AssetRef("k", "ef" * 32, 1, "video/mp4"), list[Ask]()

    def world(ask: Ask) -> Answer:
        asks.append(ask)
        return Kept(asset)

    assert play(SORA.download(Output(f"videos/{ID}/content"), HANDLE, target()), world) == asset
    assert asks == [Keep(url=f"videos/{ID}/content", with_credential=True)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "moderation_blocked", "message": "No."}, "moderated"),
        ({"code": "content_policy_violation"}, "moderated"),
        ({"code": "video_generation_failed", "message": "No."}, "generation_failed"),
        ({"code": 500}, "generation_failed"),
        ("out of memory", "generation_failed"),
        (None, "generation_failed"),
    ],
)
def test_a_clip_that_failed_is_told_with_its_reason(error: object, code: str) -> None:
    outcome = asked(reply(200, VIDEO | {"status": "failed", "error": error}))
    assert isinstance(outcome, Broken)
    assert (outcome.fault.code, outcome.billed, outcome.fault.retryable) == (code, "unknown", False)
    assert outcome.fault.detail.startswith("sora: ")


def problem(code: str | None, message: str = "No.") -> dict[str, object]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def test_a_clip_that_is_not_there_has_vanished_and_a_page_says_nothing() -> None:
    assert asked(reply(404, problem("not_found"))) == Vanished()
    assert asked(reply(404, {"detail": "Not Found"})) == Vanished()
    with pytest.raises(Failed):
        asked(reply(404, b"<html>nginx</html>"))


@pytest.mark.parametrize(
    ("status", "code", "means", "retryable"),
    [
        (400, "invalid_value", "invalid_input", False),
        (400, "sentinel_block", "moderated", False),
        (400, "moderation_blocked", "moderated", False),
        (400, "billing_hard_limit_reached", "quota_exceeded", False),
        (401, "invalid_api_key", "authentication_failed", False),
        (403, None, "authentication_failed", False),
        (404, "model_not_found", "model_unknown", False),
        (429, "rate_limit_exceeded", "rate_limited", True),
        (429, "insufficient_quota", "quota_exceeded", False),
    ],
)
def test_its_refusals_are_certain(status: int, code: str | None, means: str, retryable: bool) -> None:
    failed = refused(reply(status, problem(code)))
    assert (failed.fault.code, failed.fault.retryable, failed.certain) == (means, retryable, True)


@pytest.mark.parametrize(
    "answer",
    [
        reply(500, problem(None)),
        reply(400, b"<html>nginx</html>"),
        reply(200, problem("invalid_value")),
        reply(200, {"status": "queued"}),
        reply(409, problem("conflict")),
    ],
)
def test_anything_else_leaves_a_send_in_doubt(answer: Response) -> None:
    assert not refused(answer).certain


@pytest.mark.parametrize("body", [{"detail": "No such size."}, {"detail": [{"loc": ["x"], "msg": "No such size."}]}])
def test_self_hosted_servers_refuse_in_words_of_their_own(body: object) -> None:
    failed = refused(reply(422, body))
    assert (failed.fault.code, failed.certain) == ("invalid_input", True)
    assert failed.fault.detail == "sora: No such size."


def test_waits_are_in_milliseconds_or_seconds_and_it_may_say_whether_to_try_again() -> None:
    limit = problem("rate_limit_exceeded")
    assert refused(reply(429, limit, retry_after_ms="1500")).fault.retry_after_s == 1.5
    assert refused(reply(429, limit, retry_after_ms="1500", retry_after="2")).fault.retry_after_s == 2.0
    assert refused(reply(429, limit, retry_after_ms="soon")).fault.retry_after_s is None
    assert not refused(reply(429, limit, x_should_retry="false")).fault.retryable


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["sora", "sora-1", "openai", "sora-2", "sora/sora-2-pro", "sora-2-pro-2025-10-06"])
def test_what_was_switched_off_is_refused_with_its_date(name: str) -> None:
    with pytest.raises(BadRequest, match="2026-09-24") as gone:
        route(name, {"sora": SORA}, "2026-09-24")
    assert gone.value.code == "model_retired"


@pytest.mark.parametrize("name", ["sora", "sora-1", "openai", "sora-2"])
def test_where_an_address_was_set_it_runs(name: str) -> None:
    assert route(name, {"sora": SORA}, "2026-11-21", {"sora"})[1][0].id == "sora-2"


def test_a_servers_own_model_is_like_one_of_these() -> None:
    own = Sora()
    own.capabilities = with_settings(SORA, [ModelSetting(provider="sora", id="wan-2.2", resolutions=("480p",))])
    assert {row.operations for row in rows_of(own, "wan-2.2")} == {row.operations for row in rows_of(SORA, "sora-2")}
    spec, _ = fit(replace(LAKE, resolution="480p"), rows_of(own, "wan-2.2"))
    request = next(own.submit(spec, target("wan-2.2"), {}, KEY))
    assert isinstance(request, Request)
    assert (form(request)["model"], form(request)["size"]) == ("wan-2.2", "480x854")
