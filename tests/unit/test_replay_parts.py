"""The parts of replay: commands from events, states side by side, texts without their secrets, traffic that is cut."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from make_jobs import ASKED, HISTORIES, PLAIN, accepted, finished, started

from rushes.actors import messages as m
from rushes.actors.codec import encode
from rushes.actors.job import evolve, replay
from rushes.eventstore.base import NewEvent, Recorded
from rushes.faults import Fault, Unreadable
from rushes.flight import ANSWERED_HEADERS
from rushes.replay import Recording, implied, timeline
from rushes.replay.implied import MAKERS, Unknown
from rushes.replay.likeness import unlike
from rushes.replay.timeline import Change, changes, names
from rushes.replay.traffic import closed

AT = 1_700_000_000.0


def recording_of(events: list[NewEvent]) -> Recording:
    stored = [Recorded(n, 1, n, one.type, one.v, one.at, one.data, one.meta, 1, n) for n, one in enumerate(events, 1)]
    return Recording(job_id="job_x", tenant="default", events=tuple(stored))


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_there_is_a_way_to_make_every_command() -> None:
    assert MAKERS.keys() == {kind.__name__ for kind in m.Command.__subclasses__()}


@pytest.mark.parametrize("name", MAKERS)
def test_a_command_that_does_not_bring_such_an_event_is_not_guessed(name: str) -> None:
    """None brings what is not its own; and none is made for a job that there is not, but the first."""
    with pytest.raises(Unknown, match=name):
        implied(name, [m.SubmissionDoubted(attempt=1, send=1, fault=Fault("no_answer", ""))], m.New())
    if name not in {"Generate", "Cancel", "Collect", "Resubmit", "GiveUp", "Hide", "Poll", "Wake", "RecordTrouble"}:
        with pytest.raises(Unknown):
            implied(name, [PLAIN], m.New())


def test_a_command_that_nobody_knows_is_said() -> None:
    with pytest.raises(Unknown, match="there is no command 'Teleport'"):
        implied("Teleport", [PLAIN], m.New())


def test_a_progress_beyond_all_is_made_again_as_one() -> None:
    """100 stands for whatever is more, and must rise."""
    running = replay([(event, AT) for event in (PLAIN, started(), accepted())])
    full = evolve(running, m.ProgressReported(attempt=1, percent=100), AT)
    command = implied("RecordProgress", [m.ProgressReported(attempt=1, percent=100)], full)
    assert command == m.RecordProgress(attempt=1, percent=101)


# ── timeline ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", HISTORIES)
def test_a_timeline_has_every_event_with_the_states_around_it(name: str) -> None:
    history = HISTORIES[name]
    steps = timeline(recording_of([encode(event, AT + n, m.Wake()) for n, event in enumerate(history)]))
    assert [step.version for step in steps] == [*range(1, len(history) + 1)]
    assert [step.type for step in steps] == [m.TYPES[type(event)] for event in history]
    assert steps[0].before == m.New()
    assert [step.after for step in steps[:-1]] == [step.before for step in steps[1:]]
    assert steps[-1].after == replay([(event, AT + n) for n, event in enumerate(history)])
    assert {step.command for step in steps} == {"Wake"}


def test_a_change_is_told_by_its_place() -> None:
    running = replay([(event, AT) for event in (PLAIN, started(), accepted())])
    percent = evolve(running, m.ProgressReported(attempt=1, percent=40), AT)
    assert [*changes(running, percent)] == [Change("job.percent", None, 40)]
    more = evolve(percent, m.ProgressReported(attempt=1, percent=60), AT)
    assert [*changes(percent, more)] == [Change("job.percent", 40, 60)]
    asked = evolve(more, m.CancelRequested(by="api"), AT)
    assert [*changes(more, asked)] == [Change("job.cancel", None, {"by": "api", "discard": False, "answer": None})]
    storing = evolve(running, finished(), AT + 5)
    told = {change.path: change for change in changes(running, storing)}
    assert told["phase"] == Change("phase", "running", "storing")
    assert told["job.outputs"].old is None
    assert told["job.outputs"].new == [
        {"url": "https://x.example/1"},
        {"url": "https://x.example/2", "media_type": "video/webm"},
    ]
    assert "job.handle" not in told
    assert not [path for path in told if path.startswith("job.facts")]
    assert [*changes(storing, storing)] == []


def test_what_was_told_from_an_exchange_is_found_by_it() -> None:
    events = [
        encode(PLAIN, AT, m.Generate(request=PLAIN)),
        encode(started(), AT, m.Wake(exchanges=(7, 8))),
        encode(accepted(), AT, m.Wake(exchanges=(7,))),
    ]
    assert names(recording_of(events)) == {7: [2, 3], 8: [2]}


def test_events_that_do_not_follow_each_other_are_named() -> None:
    with pytest.raises(Unreadable, match="Event 2 of job_x does not follow the one before it"):
        timeline(recording_of([encode(PLAIN, AT, m.Wake()), encode(accepted(), AT, m.Wake())]))


def test_an_event_of_a_newer_release_is_named() -> None:
    newer = NewEvent("take.painted", 1, AT, b"{}", None)
    with pytest.raises(Unreadable, match=r"Event 2 of job_x is take\.painted v1"):
        timeline(recording_of([encode(ASKED, AT, m.Wake()), newer]))


# ── likeness ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("recorded", "today", "where"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1}, {"a": 2}, "x.a"),
        ({"a": 1}, {"a": 1.0}, "x.a"),
        ({"a": 1}, {}, "x.a"),
        ({}, {"a": None}, "x.a"),
        ({"a": [1, {"b": "c"}]}, {"a": [1, {"b": "d"}]}, "x.a[1].b"),
        ([1], [1, 2], "x[1]"),
        ("https://x/y?sig=1&e=2", "https://x/y?redacted", ""),
        ("https://x/y?redacted", "https://x/y?sig=1&e=2", ""),
        ("https://x/z?sig=1", "https://x/y?redacted", "x"),
        ("a (left out) b", "a redacted b", ""),
        ("a.b", "a.c", "x"),
        (None, "a", "x"),
    ],
)
def test_two_values_are_alike_but_for_what_was_taken_out(recorded: object, today: object, where: str) -> None:
    assert unlike(recorded, today, "x") == where  # type: ignore[arg-type]


def test_what_is_aside_is_so_in_the_outermost_object_alone() -> None:
    assert unlike({"at": 1, "in": {"at": 1}}, {"at": 2, "in": {"at": 1}}, "x", {"at"}) == ""
    assert unlike({"in": {"at": 1}}, {"in": {"at": 2}}, "x", {"at"}) == "x.in.at"


# ── traffic ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_json_text_that_was_cut_within_a_file_is_closed_around_the_rest() -> None:
    whole = '{"a":{"b":["x\\"y{[","QUJDQUJD"]},"c":"}]"}'
    begins = whole.index("QUJD")
    for at in range(begins, begins + 9):
        assert msgspec.json.decode(closed(whole[:at])) == {"a": {"b": ['x"y{[', whole[begins:at]]}}
    assert closed(whole) == whole


def test_every_header_that_an_adapter_reads_is_in_the_record() -> None:
    """Or the same answer would mean something else when it is played back."""
    files = (Path(__file__).parents[2] / "src" / "rushes" / "adapters").glob("*.py")
    reads = re.compile(r'reply\.headers(?:\.get\(|\[)"([a-z-]+)"|_ms\(reply, "([a-z-]+)"\)')
    read = {one or other for file in files for one, other in reads.findall(file.read_text("utf-8"))}
    assert {"retry-after", "x-should-retry", "openai-poll-after-ms"} <= read <= ANSWERED_HEADERS
