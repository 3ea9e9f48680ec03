"""Stability's flows, played with bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

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
    play,
)
from rushes.adapters.catalogue import route
from rushes.adapters.fit import estimate, fit
from rushes.adapters.stability import VIDEO, Stability
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Target, TextToVideo, VideoSpec

STABILITY = Stability()
ID = "0a" * 32
HANDLE = Handle(ID)
PICTURE = Input(asset=AssetRef("inputs/i", "ab" * 32, 9, "image/png"), width=1024, height=576)
MOVES = VideoSpec(operation=ImageToVideo(), inputs=(PICTURE,))
TARGET = Target(provider="stability", model="stable-video", credential="STABILITY_API_KEY")
RESULT = f"v2beta/image-to-video/result/{ID}"


def reply(status: int, body: object, **headers: str) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status=status, body=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


def problem(name: str, **more: object) -> dict[str, object]:
    return {"id": ID, "name": name, "errors": ["No."], **more}


def submitted(spec: VideoSpec = MOVES, answer: Response | None = None) -> tuple[Handle, Request]:
    sent: list[Request] = []

    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(200, {"id": ID})

    settled, _ = fit(spec, [VIDEO])
    return play(STABILITY.submit(settled, TARGET, {}, "job_1-1"), world), sent[0]


def asked(answer: Response) -> tuple[Outcome, Request]:
    sent: list[Ask] = []

    def world(ask: Ask) -> Answer:
        sent.append(ask)
        return answer

    outcome = play(STABILITY.status(HANDLE, TARGET), world)
    assert isinstance(sent[0], Request)
    return outcome, sent[0]


def refused(answer: Response) -> Failed:
    with pytest.raises(Failed) as failed:
        submitted(answer=answer)
    return failed.value


def wrong(**changes: Any) -> str:
    with pytest.raises(BadRequest) as refused:
        fit(replace(MOVES, **changes), [VIDEO])
    return refused.value.field


def test_a_picture_and_its_wishes_are_one_form() -> None:
    spec = replace(MOVES, seed=7, guidance_scale=10.0, provider_options={"motion_bucket_id": 255})
    handle, request = submitted(spec)
    assert (handle, request.method, request.url, request.spends) == (HANDLE, "POST", "/v2beta/image-to-video", True)
    assert request.body == [
        Part("image", Inline(PICTURE.asset, "bytes"), "image", "image/png"),
        Part("seed", "7"),
        Part("cfg_scale", "10"),
        Part("motion_bucket_id", "255"),
    ]


def test_its_own_defaults_are_told() -> None:
    _, request = submitted()
    assert isinstance(request.body, list)
    assert request.body[1:] == [Part("cfg_scale", "1.8"), Part("motion_bucket_id", "127")]


def test_only_three_sizes_are_taken_and_none_is_made() -> None:
    for width, height in ((1024, 576), (576, 1024), (768, 768)):
        fit(replace(MOVES, inputs=(replace(PICTURE, width=width, height=height),)), [VIDEO])
    for width, height in ((1024, 577), (512, 512), (2048, 1152)):
        assert wrong(inputs=(replace(PICTURE, width=width, height=height),)) == "inputs[0]"


def test_a_picture_that_nobody_could_measure_is_for_them_to_judge() -> None:
    fit(replace(MOVES, inputs=(replace(PICTURE, width=None, height=None),)), [VIDEO])


def test_what_it_cannot_do_is_refused_by_name() -> None:
    assert wrong(prompt="it moves") == "prompt"
    assert wrong(guidance_scale=10.5) == "guidance_scale"
    assert wrong(seed=4_294_967_295) == "seed"
    assert wrong(duration_seconds=4.0) == "duration_seconds"
    assert wrong(aspect_ratio="16:9") == "aspect_ratio"
    assert wrong(provider_options={"motion_bucket_id": 0}) == "provider_options.motion_bucket_id"
    assert wrong(operation=TextToVideo(), inputs=(), prompt="a lake") == "operation"


def test_it_is_waited_for_under_202() -> None:
    outcome, request = asked(reply(202, {"id": ID, "status": "in-progress"}))
    assert outcome == Unfinished(stage="in-progress")
    assert (request.url, request.headers) == (f"/{RESULT}", {"Accept": "application/json"})


def test_a_clip_is_where_it_was_asked_for_and_fetched_as_bytes() -> None:
    outcome, _ = asked(reply(200, {"video": "AAAA", "finish_reason": "SUCCESS", "seed": 5}))
    assert outcome == Done((Output(RESULT),), metadata={"seed": "5"})
    asset, asks = AssetRef("k", "ef" * 32, 1, "video/mp4"), list[Ask]()

    def world(ask: Ask) -> Answer:
        asks.append(ask)
        return Kept(asset)

    assert play(STABILITY.download(Output(RESULT), HANDLE, TARGET), world) == asset
    assert asks == [Keep(url=RESULT, with_credential=True, headers={"Accept": "video/*"})]


def test_a_clip_that_is_withheld_is_not_taken() -> None:
    outcome, _ = asked(reply(200, {"video": "AAAA", "finish_reason": "CONTENT_FILTERED", "seed": 5}))
    assert isinstance(outcome, Broken)
    assert (outcome.fault.code, outcome.fault.retryable, outcome.billed) == ("moderated", False, "unknown")


def test_an_end_that_nobody_knows_is_waited_on() -> None:
    assert asked(reply(200, {"finish_reason": "PONDERING"}))[0] == Unfinished(stage="PONDERING")
    with pytest.raises(Failed):
        asked(reply(200, {"video": "AAAA"}))


def test_a_clip_that_is_gone_has_vanished_and_a_page_says_nothing() -> None:
    assert asked(reply(404, problem("not_found")))[0] == Vanished()
    with pytest.raises(Failed):
        asked(reply(404, b"<html>nginx</html>"))


@pytest.mark.parametrize(
    ("status", "name", "means"),
    [
        (400, "bad_request", "invalid_input"),
        (401, "unauthorized", "authentication_failed"),
        (402, "payment_required", "quota_exceeded"),
        (403, "content_moderation", "moderated"),
        (403, "forbidden", "authentication_failed"),
        (404, "not_found", "not_found"),
        (413, "payload_too_large", "invalid_input"),
        (422, "unprocessable", "invalid_input"),
    ],
)
def test_its_refusals_are_certain_and_no_job_though_they_have_an_id(status: int, name: str, means: str) -> None:
    failed = refused(reply(status, problem(name)))
    assert (failed.fault.code, failed.certain, failed.fault.retryable) == (means, True, False)
    assert failed.fault.detail == "stability: No."


def test_older_errors_have_a_message() -> None:
    assert refused(reply(400, {"id": ID, "name": "bad_request", "message": "No."})).fault.detail == "stability: No."


def test_who_asks_too_often_waits_for_a_minute_or_as_long_as_is_said() -> None:
    failed = refused(reply(429, problem("rate_limit_exceeded")))
    assert (failed.fault.code, failed.fault.retry_after_s, failed.certain) == ("rate_limited", 60.0, True)
    assert refused(reply(429, problem("rate_limit_exceeded"), retry_after="7")).fault.retry_after_s == 7.0


@pytest.mark.parametrize(
    "answer",
    [
        reply(500, problem("internal_error")),
        reply(403, b"<html>nginx</html>"),
        reply(200, {"id": "0a" * 16}),  # as an error's may be
        reply(200, {}),
    ],
)
def test_anything_else_leaves_a_send_in_doubt(answer: Response) -> None:
    assert not refused(answer).certain


def test_it_is_never_offered_but_where_an_address_was_set() -> None:
    for name in ("stability", "stable-video"):
        with pytest.raises(BadRequest, match="2025-07-24"):
            route(name, {"stability": STABILITY}, "2026-11-21")
        assert route(name, {"stability": STABILITY}, "2026-11-21", {"stability"})[0] == "stability"


def test_nobody_here_knows_what_it_costs_now() -> None:
    assert estimate(*fit(MOVES, [VIDEO])) is None
