"""`make bench` at a tiny scale: every figure is there, its floor does the same work, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from bench.appends import INSERT, check_same, pair
from bench.figures import BadKnob, Figure, knobs, ratio, skipped
from bench.jobs import grow
from bench.sizes import no_room

ROOT = Path(__file__).parents[2]
MEMBERS = {"name", "value", "unit", "ratio", "floor", "rounds", "fsync_p50_us"}
LOG_FIGURES = [
    *("log.append.1", "log.append.100", "log.append.1000", "log.cpu_us", "log.cpu_us.no_triggers"),
    *("log.replay.long", "log.replay.short", "log.replay.all", "log.size.100k", "log.size.1m", "log.size.3m"),
]


FEW_JOB_FIGURES = [
    *("job.100k.rss_mb", "job.100k.first_poll_s", "job.100k.late_p99_ms", "job.passivated_bytes", "job.idle_bytes"),
    *("job.poll_cpu_us", "job.ask", "job.rate.vs_eventsourcing"),
]
ALL_JOB_FIGURES = [
    *("job.million.rss_mb", "job.million.first_poll_s", "job.million.late_p99_ms"),
    *(*FEW_JOB_FIGURES, "job.rate.vs_dbos", "job.recovery.vs_dbos"),
]
API_FIGURES = ["ws.fanout", "ws.burst", "ws.p99_ms", "http.submit", "start.s", "start.mib"]
NIGHTLY = bool(os.environ.get("RUSHES_NIGHTLY"))
WITHOUT_FLOOR = ("job.million", "job.100k", "job.passivated_bytes", "job.idle_bytes")


def bench(folder: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "bench", *words],
        cwd=ROOT,
        env={**os.environ, "RUSHES_NIGHTLY": "", "BENCH_DIR": str(folder), "BENCH_ROUNDS": "1", **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_figure_is_one_line_of_json_and_no_file_stays(tmp_path: Path) -> None:
    with bench(tmp_path, "log", BENCH_SCALE="0.01") as run:
        told, complaints = run.communicate(timeout=60)
    assert (run.returncode, complaints) == (0, "")
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in told.splitlines()]
    assert [line["name"] for line in lines] == LOG_FIGURES
    for line in lines:
        assert line.keys() >= MEMBERS
        assert "skipped" in line or all(line[name] for name in MEMBERS), line
    assert list(tmp_path.iterdir()) == []


def test_every_figure_of_jobs_is_one_line_of_json_and_no_file_stays(tmp_path: Path) -> None:
    """One peer takes seconds to start, so it runs at night."""
    words = ["job"] if NIGHTLY else ["job.100k", *FEW_JOB_FIGURES[3:]]
    with bench(tmp_path, *words, BENCH_SCALE="0.001") as run:
        told, complaints = run.communicate(timeout=100)
    assert (run.returncode, complaints) == (0, "")
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in told.splitlines()]
    assert [line["name"] for line in lines] == (ALL_JOB_FIGURES if NIGHTLY else FEW_JOB_FIGURES)
    for line in lines:
        bare = str(line["name"]).startswith(WITHOUT_FLOOR)
        needed = {"name", "value", "unit", "rounds"} if bare else MEMBERS
        assert line.keys() >= MEMBERS
        assert "skipped" in line or all(line[name] is not None for name in needed), line
    assert list(tmp_path.iterdir()) == []


def test_every_figure_of_the_interfaces_is_one_line_of_json_and_no_file_stays(tmp_path: Path) -> None:
    """Where its library is not installed, the line says why a peer is missing."""
    with bench(tmp_path, "api", BENCH_SCALE="0.01") as run:
        told, complaints = run.communicate(timeout=60)
    assert (run.returncode, complaints) == (0, "")
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in told.splitlines()]
    assert [line["name"] for line in lines] == API_FIGURES
    for line in lines:
        assert line.keys() >= MEMBERS
        assert "skipped" in line or all(line[name] for name in MEMBERS), line
    submit = lines[API_FIGURES.index("http.submit")]
    assert "skipped" in submit or submit["fastapi"] or submit["fastapi_skipped"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "figure", "file"),
    [
        (signal.SIGINT, "log.append.1000", "candidate.db"),
        (signal.SIGTERM, "log.append.1000", "candidate.db"),
        (signal.SIGTERM, "job.100k", "rushes.db"),  # a process of its own writes it
        (signal.SIGINT, "ws.fanout", "rushes.db"),  # another one listens to it
        (signal.SIGTERM, "http.submit", "rushes.db"),  # one serves, another asks
    ],
)
def test_a_run_that_is_stopped_leaves_no_file(tmp_path: Path, how: signal.Signals, figure: str, file: str) -> None:
    with bench(tmp_path, figure, BENCH_ROUNDS="99") as run:
        while run.poll() is None and not any(tmp_path.rglob(file)):
            pass
        assert list(tmp_path.iterdir())
        run.send_signal(how)
        told, complaints = run.communicate(timeout=60)
    assert (run.returncode, told, complaints) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_is_not_there_is_said(tmp_path: Path) -> None:
    with bench(tmp_path, "log.app") as run:
        told, complaints = run.communicate(timeout=60)
    assert (run.returncode, told) == (2, "")
    assert complaints.startswith("There is no figure log.app. There are: log.append.1, ")


@pytest.mark.parametrize(
    ("name", "value"),
    [("BENCH_ROUNDS", "0"), ("BENCH_ROUNDS", "2.5"), ("BENCH_SCALE", "all"), ("BENCH_SCALE", "nan")],
)
def test_a_knob_that_makes_no_sense_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadKnob, match=f"{name}={value} is not understood: give a number above 0"):
        knobs({"BENCH_DIR": str(tmp_path), name: value})


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadKnob, match=r"BENCH_DIR=.*file cannot be used"):
        knobs({"BENCH_DIR": str(tmp_path / "file")})


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio([10.0, 1.0, 8.0], [5.0, 1.0, 2.0]) == 2.0  # of medians it would be 4


def test_the_floor_makes_the_same_transactions(tmp_path: Path) -> None:
    sides = pair(tmp_path, writers=10, appends=3)
    assert sides.candidate.batches == sides.floor.batches == sides.bare.batches
    assert sum(sides.floor.batches) == sides.candidate.events == 30


def test_a_floor_with_other_rows_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.db", tmp_path / "other.db"
    grow(one, 10)
    grow(other, 10)
    check_same(one, other)
    with closing(sqlite3.connect(other)) as connection:
        (row,) = connection.execute("SELECT * FROM events ORDER BY position DESC LIMIT 1")
        connection.execute(INSERT, (row[0] + 1, row[1], row[2] + 1, *row[3:]))
        connection.commit()
    with pytest.raises(ValueError, match=r"are not the \d+ of the candidate"):
        check_same(one, other)


def test_a_log_that_does_not_fit_is_skipped_with_the_reason() -> None:
    assert no_room(1_000, 1_000_000) is None
    reason = no_room(1_000, 999_999)
    assert reason == "two such logs need 1,000,000 bytes, and 999,999 are free: give another BENCH_DIR"
    line = msgspec.json.decode(skipped("log.size.3m", "events/s", reason).line(1.0), type=dict[str, object])
    assert line.keys() >= MEMBERS
    assert (line["value"], line["skipped"]) == (None, reason)


def test_numbers_are_told_with_four_digits() -> None:
    line = Figure(name="a", value=123456.789, unit="x", more={"b": 0.000123456, "c": 1234567}).line(1.0)
    assert msgspec.json.decode(line, type=dict[str, object]) | {"value": 123500.0, "b": 0.0001235, "c": 1234567} == (
        msgspec.json.decode(line)
    )
