"""The local provider's wire, played with bytes."""

from collections.abc import Callable

import msgspec
import pytest

from rushes.adapters import base
from rushes.adapters.base import Answer, Ask, Broken, Done, Failed, Keep, Kept, Output, Request, Response, play
from rushes.adapters.fit import normalise
from rushes.adapters.local import MODEL, Local
from rushes.faults import Fault
from rushes.units import FREE, AssetRef, Handle
from rushes.video import ImageToVideo, Input, Target, TextToVideo, VideoSpec

TARGET, HANDLE = Target(provider="local", model="local"), Handle("job_a-1")
PICTURE = AssetRef("inputs/ab/ab", "ab" * 32, 10, "image/png")
Body = dict[str, object]


def answering(status: int, body: object, asked: list[Ask] | None = None) -> Callable[[Ask], Answer]:
    """A world that says one thing."""

    def answer(ask: Ask) -> Answer:
        if asked is not None:
            asked.append(ask)
        return Response(status=status, body=body if isinstance(body, bytes) else msgspec.json.encode(body))

    return answer


def render(status: str, **more: object) -> Body:
    return {"id": "job_a-1", "status": status, "frames_done": 0, "frames_total": 48, "new_word": 1, **more}


def ordered(spec: VideoSpec) -> Request:
    asked: list[Ask] = []
    flow = Local().submit(normalise(spec, MODEL), TARGET, {}, "job_a-1")
    assert play(flow, answering(201, render("queued"), asked)) == HANDLE
    [request] = asked
    assert isinstance(request, Request)
    return request


def test_an_order_says_everything_in_the_wires_own_words() -> None:
    request = ordered(VideoSpec(prompt="a lake", operation=TextToVideo(), seed=7, negative_prompt="people"))
    assert (request.method, request.url, request.spends) == ("POST", "/renders", True)
    assert request.body == {
        "id": "job_a-1",
        "prompt": "a lake",
        "negative_prompt": "people",
        "seed": 7,
        "width": 1280,
        "height": 720,
        "fps": 24.0,
        "seconds": 5.0,
        "audio": False,
    }


def test_pictures_travel_as_references() -> None:
    inputs = (Input(role="first_frame", asset=PICTURE), Input(role="style", asset=PICTURE))
    body = ordered(VideoSpec(operation=ImageToVideo(), inputs=inputs, style_strength=0.5, seed=1)).body
    assert isinstance(body, dict)
    assert body["first_frame"] == body["style"] == base.Inline(PICTURE)
    assert body["style_strength"] == 0.5


def test_nothing_is_asked_before_the_order() -> None:
    assert not base.needs_prepare(Local(), VideoSpec(operation=TextToVideo()), TARGET)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (render("queued"), base.Unfinished(0, "queued")),
        (render("rendering", frames_done=24), base.Unfinished(50, "rendering")),
        (render("rendering", frames_done=48), base.Unfinished(99, "rendering")),
        (render("polishing", frames_done=12), base.Unfinished(25, "polishing")),
        (render("done", output="http://x/out"), Done((Output("http://x/out"),), cost=FREE)),
        (render("cancelled"), base.Stopped(billed="no")),
        (
            render("failed", error={"code": "storage_failed", "message": "Full."}),
            Broken(Fault("storage_failed", "Full."), billed="no"),
        ),
        (render("failed"), Broken(Fault("generation_failed", "The lab does not say why."), billed="no")),
    ],
)
def test_a_status_is_what_the_lab_says(body: Body, outcome: base.Outcome) -> None:
    assert play(Local().status(HANDLE, TARGET), answering(200, body)) == outcome


def test_an_unknown_render_has_vanished() -> None:
    body = {"error": {"code": "not_found", "message": "There is no render."}}
    assert play(Local().status(HANDLE, TARGET), answering(404, body)) == base.Vanished()
    assert play(Local().find(TARGET, "job_a-1", 0.0), answering(404, body)) is None


def test_somebody_elses_404_says_nothing_of_a_render() -> None:
    with pytest.raises(Failed):
        play(Local().status(HANDLE, TARGET), answering(404, b"<html>"))
    with pytest.raises(Failed) as failed:
        play(Local().find(TARGET, "job_a-1", 0.0), answering(404, b"<html>"))
    assert not failed.value.certain


def test_a_lost_order_is_found_by_its_own_key() -> None:
    asked: list[Ask] = []
    assert play(Local().find(TARGET, "job_a-1", 0.0), answering(200, render("rendering"), asked)) == HANDLE
    assert asked == [Request(method="GET", url="/renders/job_a-1")]


@pytest.mark.parametrize(("word", "answer"), [("cancelled", "accepted"), ("done", "too_late"), ("failed", "too_late")])
def test_a_cancel_is_answered_with_the_truth(word: str, answer: str) -> None:
    assert play(Local().cancel(HANDLE, TARGET), answering(200, render(word))) == answer


@pytest.mark.parametrize(
    ("status", "body", "certain", "fault"),
    [
        (
            422,
            {"error": {"code": "invalid_input", "message": "Too long.", "field": "seconds"}},
            True,
            Fault("invalid_input", "Too long.", field="duration_seconds"),
        ),
        (409, {"error": {"code": "conflict", "message": "Another."}}, False, Fault("conflict", "Another.")),
        (
            200,
            b"<html>",
            False,
            Fault(
                "bad_answer", "local answered 200 with a body that is not what its interface promises.", retryable=True
            ),
        ),
        (
            502,
            b"<html>",
            False,
            Fault("provider_unavailable", "local answered 502 without an error of its own.", retryable=True),
        ),
    ],
)
def test_a_refusal_names_the_callers_field(status: int, body: object, certain: bool, fault: Fault) -> None:
    with pytest.raises(Failed) as failed:
        play(Local().status(HANDLE, TARGET), answering(status, body))
    assert (failed.value.certain, failed.value.fault) == (certain, fault)


def test_a_full_disk_is_tried_again() -> None:
    reply = Response(
        status=503,
        body=b'{"error":{"code":"storage_failed","message":"Full."}}',
        headers={"retry-after": "5"},
    )
    failed = base.refused(Local(), reply)
    assert failed.certain
    assert failed.fault == Fault("storage_failed", "Full.", retryable=True, retry_after_s=5.0)


def test_a_finished_clip_is_kept_from_its_address() -> None:
    def world(ask: Ask) -> Answer:
        assert ask == Keep(url="http://x/out")
        return Kept(PICTURE)

    assert play(Local().download(Output("http://x/out"), HANDLE, TARGET), world) == PICTURE


def test_the_terms_are_those_of_a_lab_next_door() -> None:
    terms = Local().terms(VideoSpec(operation=TextToVideo()), TARGET)
    assert (terms.doubt, terms.cancel, terms.settle_s) == ("B", "stops", 0.0)
    assert terms.poll.interval_s(0) == 0.3
    assert terms.poll.interval_s(600) == 2.0
