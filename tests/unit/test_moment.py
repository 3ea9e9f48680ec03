"""The decision that an event came from, made again: what `rushes replay --break` opens the debugger in."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from played import played, with_payload

from rushes.actors import messages as m
from rushes.actors.job import phase_word
from rushes.replay.moment import Moment, decide, moment
from rushes.replay.verify import Cannot


def seen(there: Moment) -> tuple[int, str, str, list[str]]:
    return (
        there.version,
        type(there.command).__name__,
        phase_word(there.state),
        [m.TYPES[type(e)] for e in there.events],
    )


def test_each_event_has_its_command_and_the_state_before_it() -> None:
    recording = played()
    assert [seen(moment(recording, event.version)) for event in recording.events] == [
        (1, "Generate", "new", ["job.requested"]),
        (2, "GrantPermit", "queued", ["submission.started"]),
        (3, "RecordAccepted", "submitting", ["submission.accepted"]),
        (4, "RecordProgress", "running", ["progress.reported"]),
        (5, "RecordFinished", "running", ["generation.finished"]),
        *[(6, "RecordStored", "storing", ["take.stored", "job.succeeded"])] * 2,  # one command brought both
    ]


def test_decided_again_it_gives_what_the_log_has() -> None:
    recording = played()
    for event in recording.events:
        there = moment(recording, event.version)
        assert tuple(decide(there.command, there.state, there.now)) == there.events
        assert (there.today(), there.now) == (there.recorded(), recording.events[there.version - 1].at)


def test_where_the_log_has_something_else_both_are_told() -> None:
    there = moment(with_payload(played(), 7, b'{"missing":3}'), 7)
    assert seen(there) == (6, "RecordStored", "storing", ["take.stored", "job.succeeded"])
    assert there.recorded() != there.today()


def test_what_cannot_be_made_again_is_said() -> None:
    recording = played()
    with pytest.raises(Cannot, match="has no event 8"):
        moment(recording, 8)
    strange = [replace(event, meta=b'{"cmd":"Sing"}') if event.version == 3 else event for event in recording.events]
    with pytest.raises(Cannot, match="no command 'Sing'"):
        moment(replace(recording, events=tuple(strange)), 3)
    assert moment(replace(recording, events=tuple(strange)), 4).version == 4  # it is in nobody else's way
