"""Jobs that the real system lived through before each provider's twin, run again from what was kept of them.

All of it in virtual time. A life that is run again by the same code is the same; code that is changed is seen by name.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any

import msgspec
import pytest
import structlog
from msgspec.structs import replace
from taped import recorded

from rushes.actors import job as decider
from rushes.actors import messages as m
from rushes.actors.system import System
from rushes.adapters import base
from rushes.adapters.base import Adapter, Done, Flow, Outcome, Request, Response, Told, Unfinished
from rushes.adapters.callbacks import Callbacks
from rushes.adapters.openrouter import OpenRouter
from rushes.adapters.replicate import Replicate
from rushes.adapters.runway import Runway
from rushes.adapters.veo import Veo
from rushes.emulators.faults import ExpiredUrl, LineRule, Moderated, RateLimit, StatusWord, TwinRule
from rushes.emulators.openrouter import OpenRouterTwin
from rushes.emulators.replicate import ReplicateTwin
from rushes.emulators.runway import RunwayTwin
from rushes.faults import Fault
from rushes.flight import Content, Exchange
from rushes.main import _without_replayed, installed_adapters, installed_emulators
from rushes.replay import ASIDE, Recording, Report, rerun, timeline, verify
from rushes.testing.crashes import POINTS, Point
from rushes.testing.orders import Order, plainest
from rushes.testing.wires import Pair, Wire, informed, with_own_clips
from rushes.units import REPLAYING, Handle
from rushes.video import Target

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
ADAPTERS, TWINS = installed_adapters(), installed_emulators()
HOME, KEY = "https://studio.example", b"k" * 32
HOUR_S = 3600.0


@cache
def pair_of(name: str) -> Pair:
    return Pair(informed(ADAPTERS[name]), TWINS[name])


def order_of(pair: Pair) -> Order:
    return with_own_clips(pair, plainest(pair.adapter.capabilities)[0])


def lived(name: str, *rules: LineRule | TwinRule, point: Point | None = None, **more: Any) -> Recording:
    """A plain job of a provider."""
    pair = pair_of(name)
    return recorded(Wire(pair, *rules), order_of(pair), point, **more)


def again(recording: Recording, adapter: Adapter | None = None) -> Report:
    """Run by that adapter in the place of the installed one."""
    return rerun(recording, None if adapter is None else {**ADAPTERS, adapter.name: adapter})


def same(recording: Recording) -> None:
    """It is, for the decider alone and for all of today's code, without a network and in no time."""
    assert verify(recording) == Report(job_id=recording.job_id, verdict="same", events=len(recording.events))
    report = again(recording)
    assert (report.verdict, report.events, report.why) == ("same", len(recording.events), ""), report.difference


def types(recording: Recording) -> list[str]:
    return [event.type for event in recording.events]


# ── Lives that are the same ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's own pair of them is no connection."""

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was connected")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(("name", "point"), [*product(ADAPTERS, (None, *POINTS))])
def test_a_life_before_every_twin_runs_again_the_same(name: str, point: Point | None) -> None:
    """The installed adapters are told nothing: what a provider must be told is in the traffic."""
    recording = lived(name, point=point)
    assert recording.exchanges
    assert point in (None, *POINTS)
    assert types(recording)[-1] == "job.succeeded" if point is None else len(types(recording)) >= 4
    same(recording)


@pytest.mark.parametrize("name", ["kling", "local", "runway", "replicate", "omni"])
@pytest.mark.parametrize("at_s", [0.0, 0.05, 3.0, 7.0])
def test_a_cancelled_life_runs_again_the_same(name: str, at_s: float) -> None:
    recording = lived(name, wishes={at_s: m.Cancel(by="api"), HOUR_S: m.Hide()})
    assert {"cancel.requested", "job.cancelled"} & {*types(recording)}
    same(recording)


def test_what_a_person_did_days_later_is_done_again() -> None:
    wishes = {20 * HOUR_S: m.Resubmit(accept_cost=True), 40 * HOUR_S: m.Hide()}
    recording = lived("runway", point="lost", wishes=wishes)
    assert types(recording)[3:5] == ["job.parked", "attempt.opened"]
    assert types(recording)[-2:] == ["job.succeeded", "job.hidden"]
    same(recording)


@pytest.mark.parametrize(
    ("rule", "seen"),
    [
        (RateLimit(on="submit", times=2), "submission.refused"),
        (ExpiredUrl(times=12), "links.refreshed"),
        (Moderated(), "job.failed"),
    ],
    ids=["429 with retry", "expired link", "moderated"],
)
def test_a_life_with_trouble_runs_again_the_same(rule: LineRule | TwinRule, seen: str) -> None:
    recording = lived("runway", rule)
    assert seen in types(recording)
    same(recording)


PAIRS = {"openrouter": Pair(OpenRouter(), OpenRouterTwin), "replicate": Pair(Replicate(), ReplicateTwin)}


@pytest.mark.parametrize(("name", "point"), [*product(PAIRS, (None, *POINTS))])
def test_callbacks_come_again_at_their_time(name: str, point: Point | None) -> None:
    pair = PAIRS[name]
    order = next(order for order in plainest(pair.adapter.capabilities) if not order.spec.inputs)
    recording = recorded(Wire(pair), order, point, callbacks=Callbacks(HOME, KEY))
    started = next(step for step in timeline(recording) if step.type == "submission.started").after
    assert isinstance(started, m.Submitting)
    assert started.started.terms.doubt == "D"
    same(recording)


def test_a_job_that_has_not_ended_is_run_to_where_its_record_ends() -> None:
    recording = lived("replicate", until_s=4.0)
    assert types(recording)[-1] not in {"job.succeeded", "job.parked"}
    same(recording)


class Knowing(Runway):
    """It knows one word more."""

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        outcome = yield from super().status(handle, target)
        is_done = isinstance(outcome, Unfinished) and outcome.stage == "DONE"
        return Done((base.Output("https://x.example/1.mp4"),)) if is_done else outcome


def test_a_job_that_hung_goes_on_with_code_that_understands_the_answer() -> None:
    recording = lived("runway", StatusWord(word="DONE", was="SUCCEEDED"), until_s=300.0)
    last = recording.events[-1]
    assert last.type == "progress.reported"
    answers = [one for one in recording.exchanges if one.answered.body and "DONE" in (one.answered.body.text or "")]
    assert len(answers) > 1
    same(recording)
    report = again(recording, Knowing())
    found = report.difference
    assert found is not None
    assert (report.verdict, found.version) == ("diverged", last.version + 1)
    assert found.what == "The recording ends with progress.reported; today generation.finished follows."
    assert found.exchange == answers[0]


def test_an_answer_that_came_last_may_have_moved_the_job_behind_the_recording() -> None:
    """The log is read a moment before the traffic."""
    recording = lived("runway")
    until = next(place for place, event in enumerate(recording.events) if event.type == "generation.finished")
    told = next(step for step in timeline(recording) if step.type == "generation.finished").exchanges[-1].id
    exchanges = tuple(one for one in recording.exchanges if one.id <= told)
    same(replace(recording, events=recording.events[:until], exchanges=exchanges))


def test_settings_are_read_from_the_traffic() -> None:
    adapter = Veo()
    words = {"project": "acme-42", "location": "europe-west4", "bucket": "clips.acme"}
    told = {name: replace(one, value=words[name]) for name, one in adapter.capabilities.settings.items()}
    adapter.capabilities = replace(adapter.capabilities, settings=told)
    pair = Pair(adapter, TWINS["veo"])
    recording = recorded(Wire(pair), order_of(pair))
    assert "acme-42" in recording.exchanges[0].url
    same(recording)


def test_a_provider_that_was_reached_elsewhere_is_compared_there() -> None:
    recording = lived("replicate")
    own, there = Replicate().address(), "http://127.0.0.1:9/gateway"
    moved = [
        one if one.flow == "download" else replace(one, url=one.url.replace(own, there)) for one in recording.exchanges
    ]
    assert moved[0].url.startswith(there)
    same(replace(recording, exchanges=tuple(moved)))


async def test_it_runs_inside_a_loop_as_well() -> None:
    recording = await asyncio.to_thread(lived, "xai")
    assert rerun(recording).verdict == "same"


def test_two_days_cost_milliseconds() -> None:
    recording = lived("kling", wishes={48 * HOUR_S: m.Hide()})
    assert recording.events[-1].at - recording.events[0].at >= 48 * HOUR_S
    again(recording)
    began_s = time.perf_counter()
    again(recording)
    assert time.perf_counter() - began_s < 0.5


def test_two_days_of_equal_polls_cost_milliseconds_too() -> None:
    """A clip that never comes: the provider was asked every half minute, and answered the same."""
    recording = slow_life()
    assert max(one.count for one in recording.exchanges) > 5_000
    assert types(recording)[-1] == "job.parked"
    began_s = time.perf_counter()
    report = again(recording, Patient())
    assert (report.verdict, report.exchanges) == ("same", len(recording.exchanges))
    assert time.perf_counter() - began_s < 0.5


class Patient(Runway):
    """Waits for two days."""

    def terms(self, spec: Any, target: Target) -> Any:
        return replace(super().terms(spec, target), total_s=48 * HOUR_S)


class Stuck(RunwayTwin):
    """Nothing ever gets done."""

    def handle(self, request: Request, now: float, *more: Any) -> Response:
        if request.method == "GET":
            body = {"id": request.url.rpartition("/")[2], "status": "RUNNING", "createdAt": "", "progress": 0.5}
            return Response(status=200, body=msgspec.json.encode(body), headers={"content-type": "application/json"})
        reply: Response = super().handle(request, now, *more)
        return reply


@cache
def slow_life() -> Recording:
    pair = Pair(Patient(), Stuck)
    return recorded(Wire(pair), order_of(pair))


# ── Differences, each by name ─────────────────────────────────────────────────────────────────────────────────────────


class Renamed(Replicate):
    """Its provider calls it `done` today, and the adapter was changed to that alone."""

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        outcome = yield from super().status(handle, target)
        return base.Unfinished(stage="succeeded") if isinstance(outcome, base.Done) else outcome


class Gloomy(Replicate):
    """Takes the word for a failure."""

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        outcome = yield from super().status(handle, target)
        failed = base.Broken(Fault("generation_failed", "failed"), billed="no")
        return failed if isinstance(outcome, base.Done) else outcome


class Wordy(Replicate):
    """Says more than it did."""

    def submit(self, spec: Any, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:
        return (yield from louder(super().submit(spec, target, prepared, key)))


def louder(flow: Flow[Handle]) -> Flow[Handle]:
    ask = next(flow)
    assert isinstance(ask, Request)
    assert isinstance(ask.body, Mapping)
    changed = {**ask.body, "input": {**ask.body["input"], "prompt": "A LAKE"}}
    try:
        flow.send((yield replace(ask, body=changed)))
    except StopIteration as done:
        handle: Handle = done.value
        return handle
    raise AssertionError


class Moved(Replicate):
    """Asks elsewhere."""

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:  # noqa: ARG002
        yield from base.call(Request(method="GET", url=f"/v1/predictions/{handle.id}/state"))
        return base.Unfinished()


class Nosy(Replicate):
    """Wants an answer that there never was."""

    def download(self, output: base.Output, handle: Handle, target: Target) -> Flow[Any]:
        yield from base.call(Request(method="GET", url="/licence"))
        return (yield from super().download(output, handle, target))


class Buggy(Replicate):
    """Falls over what it reads."""

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        yield from super().status(handle, target)
        raise ZeroDivisionError


def difference(report: Report) -> tuple[str, str]:
    assert report.verdict == "diverged", report.why
    assert report.difference is not None
    return report.difference.what, report.difference.path


@cache
def plain_life() -> Recording:
    return lived("replicate")


def finishing(recording: Recording) -> tuple[int, Exchange]:
    """The version of the event that says it is made, and the poll that it came from."""
    step = next(step for step in timeline(recording) if step.type == "generation.finished")
    return step.version, step.exchanges[-1]


def test_a_status_word_that_is_not_understood_any_more_is_told_with_the_answer() -> None:
    version, poll = finishing(plain_life())
    report = again(plain_life(), Renamed())
    what, _ = difference(report)
    assert (
        what == f"Event {version} was generation.finished; today's code makes nothing of the answer that it came from."
    )
    assert report.difference is not None
    assert (report.difference.version, report.difference.exchange, report.difference.today) == (version, poll, None)
    assert verify(plain_life()).verdict == "same"  # the decider is as it was


def test_a_status_word_that_is_taken_for_another_is_told_with_both_events() -> None:
    version, poll = finishing(plain_life())
    report = again(plain_life(), Gloomy())
    assert difference(report) == (f"Event {version} was generation.finished, and is job.failed today.", "type")
    assert report.difference is not None
    assert isinstance(report.difference.recorded, dict)
    assert isinstance(report.difference.today, dict)
    sides = report.difference.recorded["type"], report.difference.today["type"]
    assert (sides, report.difference.exchange) == (("generation.finished", "job.failed"), poll)


def test_a_changed_body_is_told_with_its_place() -> None:
    """The intent has another digest already; where that is not compared, it is the request itself."""
    what, path = difference(again(plain_life(), Wordy()))
    assert (what, path) == ("Event 2, submission.started, differs in data.body_sha256.", "data.body_sha256")
    recording = lived("replicate", callbacks=Callbacks(HOME, KEY))
    report = again(recording, Wordy())
    assert difference(report) == (
        "The request of submit is another one today: it differs in body.input.prompt.",
        "body.input.prompt",
    )
    assert report.difference is not None
    assert isinstance(report.difference.today, dict)
    assert report.difference.today["body"]["input"]["prompt"] == "A LAKE"
    assert report.difference.exchange == next(one for one in recording.exchanges if one.flow == "submit")


def test_a_changed_address_is_told_with_both() -> None:
    report = again(plain_life(), Moved())
    assert difference(report) == ("The request of status is another one today: it differs in url.", "url")
    assert report.difference is not None
    assert isinstance(report.difference.recorded, dict)
    assert isinstance(report.difference.today, dict)
    assert report.difference.today["url"] == f"{report.difference.recorded['url']}/state"


def test_a_request_that_was_never_asked_is_a_difference() -> None:
    what, path = difference(again(plain_life(), Nosy()))
    assert (what, path) == ("The request of download is another one today: it differs in url.", "url")


def test_an_adapter_that_falls_over_is_a_difference() -> None:
    what, _ = difference(again(plain_life(), Buggy()))
    assert "today's code makes nothing of the answer" in what


def test_an_exchange_that_is_missing_is_named() -> None:
    recording = plain_life()
    version, poll = finishing(recording)
    kept = tuple(one for one in recording.exchanges if one.id != poll.id)
    what, _ = difference(again(replace(recording, exchanges=kept)))
    assert what.startswith(f"Today GET {poll.url} (status) is asked, and the recording has no answer:")
    assert f"exchange {poll.id}, which event {version} came from, is missing" in what


def test_what_has_aged_out_or_was_never_kept_cannot_be_run_again() -> None:
    recording = plain_life()
    for kept in ((), recording.exchanges[2:]):
        report = again(replace(recording, exchanges=kept))
        assert (report.verdict, report.difference) == ("cannot", None)
        assert "it was off, or has aged out" in report.why
    assert again(lived("replicate", flight=False)).verdict == "cannot"


def test_a_provider_without_an_adapter_cannot_be_run_again() -> None:
    report = rerun(plain_life(), {})
    assert (report.verdict, report.why) == ("cannot", "There is no adapter for replicate here: install its package.")


def cut(recording: Recording, exchange: Exchange, text: str | None) -> Recording:
    body = exchange.answered.body
    assert body is not None
    shorter = Content(
        size_bytes=body.size_bytes, sha256=body.sha256, media_type=body.media_type, text=text, whole=False
    )
    other = replace(exchange, answered=replace(exchange.answered, body=shorter))
    return replace(recording, exchanges=tuple(other if one.id == exchange.id else one for one in recording.exchanges))


def test_a_clip_that_was_cut_out_of_an_answer_is_not_needed() -> None:
    recording = lived("veo")
    _, poll = finishing(recording)
    text = (poll.answered.body and poll.answered.body.text) or ""
    half = text[: text.index("bytesBase64Encoded") + 2_000]
    same(cut(recording, poll, half))


@pytest.mark.parametrize("text", ['{"id":"x","sta', None])
def test_an_answer_that_was_cut_where_it_matters_cannot_be_run_again(text: str | None) -> None:
    recording = plain_life()
    _, poll = finishing(recording)
    report = again(cut(recording, poll, text))
    assert (report.verdict, report.difference) == ("cannot", None)
    assert report.why == f"The answer to GET {poll.url} is kept in part only, and more of it is needed."


def test_a_decider_that_is_changed_is_seen_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = plain_life()
    usual = decider._finished

    def stingy(report: m.RecordFinished, state: m.Running) -> list[m.Event]:
        return usual(replace(report, cost=None, metadata={"by": "nobody"}), state)

    monkeypatch.setattr(decider, "_finished", stingy)
    version, _ = finishing(recording)
    for report in (verify(recording), again(recording)):
        what, path = difference(report)
        assert what.startswith(f"Event {version}, generation.finished, differs in data.")
        assert path.startswith("data.")


def test_a_command_that_is_refused_today_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = lived("runway", wishes={3.0: m.Cancel()})
    usual = decider._running

    def stubborn(command: m.Command, state: m.Running, now: float) -> list[m.Event]:
        if isinstance(command, m.Cancel):
            raise decider._rejected(state, "Not today.")
        return usual(command, state, now)

    monkeypatch.setattr(decider, "_running", stubborn)
    for report in (verify(recording), again(recording)):
        what, _ = difference(report)
        assert "Cancel is refused: Not today." in what


def test_a_callback_that_is_not_understood_any_more_is_a_difference() -> None:
    class Deaf(OpenRouter):
        def callback(self, body: bytes, target: Target) -> Told | None:  # noqa: ARG002
            return None

    pair = PAIRS["openrouter"]
    order = next(order for order in plainest(pair.adapter.capabilities) if not order.spec.inputs)
    recording = recorded(Wire(pair), order, "lost", callbacks=Callbacks(HOME, KEY))
    assert again(recording).verdict == "same"
    what, _ = difference(again(recording, Deaf()))
    assert "is refused" in what


def test_nothing_that_is_put_aside_is_compared_and_all_else_is() -> None:
    """Each field of each event of a life is changed in its turn: where it is aside it is the same, and nowhere else."""
    recording, seen = plain_life(), set[str]()
    for place, event in enumerate(recording.events):
        data = msgspec.json.decode(event.data)
        for name in data:
            if event.type == "job.requested":
                continue
            other = msgspec.json.encode({**data, name: altered(data[name])})
            events = (*recording.events[:place], replace(event, data=other), *recording.events[place + 1 :])
            report = again(replace(recording, events=events))
            assert (report.verdict == "same") == (name in ASIDE or known_otherwise(event.type, name)), (
                event.type,
                name,
            )
            seen.add(name)
    assert seen >= {"incarnation", "deadline", "key_until", "body_sha256", "outputs", "asset", "percent", "handle"}


def altered(value: Any) -> Any:
    """Another value of the same shape."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return "job_x-9" if value.startswith("job_") else value[::-1]
        case list():
            return [altered(one) for one in value]
        case dict():
            return {name: altered(one) if name == [*value][-1] else one for name, one in value.items()}
        case _:
            return value


def known_otherwise(event: str, name: str) -> bool:
    """What a probe says comes from the record itself."""
    return (event, name) == ("take.stored", "probe")


# ── Its manners ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_re_run_says_nothing_in_the_log_of_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    recording = lived("runway", RateLimit(on="submit", times=2))
    before = structlog.get_config()
    structlog.reset_defaults()
    try:
        assert rerun(recording).verdict == "same"
        assert not structlog.is_configured()
    finally:
        structlog.configure(**before)
    assert capsys.readouterr() == ("", "")


def test_a_program_of_ours_drops_its_log_lines() -> None:
    assert _without_replayed(None, "info", {"event": "job.succeeded"}) == {"event": "job.succeeded"}
    token = REPLAYING.set(True)
    with pytest.raises(structlog.DropEvent):
        _without_replayed(None, "info", {"event": "job.succeeded"})
    REPLAYING.reset(token)


def test_a_bug_of_the_re_run_itself_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def falls(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(System, "generate", falls)
    with pytest.raises(ZeroDivisionError):
        again(plain_life())


def test_the_recording_is_left_as_it_is() -> None:
    recording = plain_life()
    before = msgspec.json.encode(recording.exchanges), recording.events
    again(recording)
    assert (msgspec.json.encode(recording.exchanges), recording.events) == before
