"""Every job played back: its timeline, today's code held against it, and the whole job run again without a network.

    from rushes import replay

    recording = replay.load("studio", "job_…")
    for step in replay.timeline(recording):
        print(step.version, step.type, step.changes)
    assert replay.rerun(recording).verdict == "same"

Nothing here writes to a log, asks a provider or spends.
"""

from __future__ import annotations

from rushes.replay.cassette import tape, write_cassette
from rushes.replay.compare import Comparison, compare
from rushes.replay.export import import_file, read_file, write_file
from rushes.replay.follow import follow
from rushes.replay.implied import implied
from rushes.replay.reading import Shelf, load, load_all, shelf
from rushes.replay.recording import InputDigest, Recording
from rushes.replay.report import Difference, Report, Verdict
from rushes.replay.rerun import ASIDE, rerun
from rushes.replay.timeline import Change, Step, timeline
from rushes.replay.verify import verify

__all__ = [
    "ASIDE",
    "Change",
    "Comparison",
    "Difference",
    "InputDigest",
    "Recording",
    "Report",
    "Shelf",
    "Step",
    "Verdict",
    "compare",
    "follow",
    "implied",
    "import_file",
    "load",
    "load_all",
    "read_file",
    "rerun",
    "shelf",
    "tape",
    "timeline",
    "verify",
    "write_cassette",
    "write_file",
]
