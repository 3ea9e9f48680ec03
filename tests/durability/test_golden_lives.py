"""Today's decider, told what jobs of earlier releases were told, says what it said then."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from make_lives import SCRIPTS

from rushes import replay
from rushes.actors import job
from rushes.actors import messages as m
from rushes.replay.timeline import meta_of

GOLDEN = Path(__file__).parents[1] / "golden"
LIVES = [file.stem for file in sorted(GOLDEN.glob("lives-*.db"))]


def recordings(name: str, folder: Path) -> Iterator[replay.Recording]:
    shutil.copy(GOLDEN / f"{name}.db", folder / "rushes.db")
    yield from replay.load_all(folder)


@pytest.mark.parametrize("name", LIVES)
def test_every_golden_life_is_decided_the_same(tmp_path: Path, name: str) -> None:
    reports = [replay.verify(recording) for recording in recordings(name, tmp_path)]
    assert len(reports) >= 50
    assert [report for report in reports if report.verdict != "same"] == []
    assert sum(report.events for report in reports) > 400


def test_the_golden_lives_have_every_command_and_every_event_type(tmp_path: Path) -> None:
    events = [event for recording in recordings("lives-v1", tmp_path) for event in recording.events]
    assert {event.type for event in events} == {*m.TYPES.values()}
    assert {meta_of(event).cmd for event in events} == {kind.__name__ for kind in m.Command.__subclasses__()}
    assert len(SCRIPTS) > 20


def test_control_a_decider_that_is_changed_is_seen_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MAX_ATTEMPTS", 1)
    reports = {one.job_id: one for one in map(replay.verify, recordings("lives-v1", tmp_path))}
    again = reports["job_again"]
    assert (again.verdict, again.events) == ("diverged", 3)
    assert again.difference is not None
    assert again.difference.what == "Event 4 was attempt.failed, and is job.failed today."
    assert {one.verdict for one in reports.values()} == {"same", "diverged"}


def test_of_histories_that_no_decider_wrote_nothing_is_guessed(tmp_path: Path) -> None:
    """jobs-v1 was written by hand, with the same command beside every event: it can be read, and not decided again."""
    for recording in recordings("jobs-v1", tmp_path):
        report = replay.verify(recording)
        assert (report.verdict, report.events) == ("cannot", 0)
        assert report.why.startswith("The command of event 1, job.requested, of a job that was new cannot be made")
        assert len(replay.timeline(recording)) == len(recording.events)


def test_a_golden_life_with_one_value_changed_is_named(tmp_path: Path) -> None:
    recording = next(one for one in recordings("lives-v1", tmp_path) if one.job_id == "job_busy")
    stored = msgspec.structs.replace(recording.events[4], data=recording.events[4].data.replace(b'"p1"', b'"p2"'))
    other = msgspec.structs.replace(recording, events=(*recording.events[:4], stored, *recording.events[5:]))
    assert replay.verify(other).verdict == "same"  # the id is the provider's: whatever it is, it was told so
    data = recording.events[4].data.replace(b'"deadline":', b'"deadline":1')
    stored = msgspec.structs.replace(recording.events[4], data=data)
    other = msgspec.structs.replace(recording, events=(*recording.events[:4], stored, *recording.events[5:]))
    report = replay.verify(other)
    assert report.difference is not None
    assert (report.verdict, report.difference.version, report.difference.path) == ("diverged", 5, "data.deadline")
