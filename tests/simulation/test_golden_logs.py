"""The logs of whole jobs are the same bytes every time, and are written down: tests/golden/logs.

One job of each operation of each provider, and one for each way that a job can go: the real system before the
provider's twin, in virtual time. Where today's differ, that is a mistake, or they are made again and their diff is
reviewed.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

import make_logs
import msgspec
import pytest
from make_logs import COMMAND, Log, Logs, files, logs, parting, written
from make_shapes import read_shapes, shape_name

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.job import pending, replay
from rushes.adapters.base import Flow, Outcome, Unfinished
from rushes.adapters.kling import Kling
from rushes.emulators.kling import KlingTwin
from rushes.eventstore.base import Recorded
from rushes.replay import Recording, verify
from rushes.testing.wires import Pair
from rushes.units import Handle
from rushes.video import Target

PAIRS: Final = make_logs.pairs()
MOST_BYTES: Final = 400_000  # a review reads them
LEAST_LOGS: Final = 50
RELEASES: Final = sorted(make_logs.FOLDER.parent.glob("jobs-v?.json"))
ELSEWHERE: Final = (
    {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "4711", "TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "PYTHONOPTIMIZE": "1"},
)
DEVICES: Final = frozenset({"time", "_random", "_socket", "posix", "nt", "io", "_io", "_thread", "_uuid"})


@cache
def kept() -> dict[str, Logs]:
    """What is written down, by provider."""
    return {name: make_logs.read(file.read_text("utf-8")) for name, file in files().items()}


def every() -> Iterator[tuple[str, Log]]:
    """Every log that is written down, also those of releases, with words for people."""
    for name, jobs in kept().items():
        yield from ((f"{name}, {job}", log) for job, log in jobs.items())
    for file in RELEASES:
        release = msgspec.json.decode(file.read_bytes())
        for stream in release["streams"]:
            rows = [{"tenant": 1, "token": 1} | row for row in release["events"] if row["stream"] == stream["id"]]
            yield f"{file.stem}, {stream['name']}", [_recorded(row) for row in rows]


def _recorded(row: dict[str, Any]) -> Recorded:
    texts = {name: row[name].encode() for name in ("data", "meta")}
    return Recorded(**{name: value for name, value in (row | texts).items() if name in Recorded.__struct_fields__})


def complaint(name: str, made: str) -> str:
    """What is to be read where a provider's logs are not as they are written down; empty where they are."""
    told = [*parting(name, files()[name].read_text("utf-8"), made)]
    return "\n".join([*told, f"If that is meant, run `{COMMAND}`, and review the diff."]) if told else ""


# ── The same bytes ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PAIRS)
def test_the_jobs_of_a_provider_leave_what_is_written_down(name: str) -> None:
    made = written(name, logs(PAIRS[name]))
    assert not (told := complaint(name, made)), told
    assert made.encode() == files()[name].read_bytes()
    assert made == written(name, logs(PAIRS[name]))


@pytest.mark.parametrize("env", ELSEWHERE, ids=lambda env: env["TZ"])
def test_another_process_with_another_hash_seed_zone_and_locale_writes_the_same_bytes(env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, make_logs.__file__, "--print"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **env},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == make_logs.everything()


def test_every_registered_provider_is_written_down() -> None:
    assert files().keys() == PAIRS.keys()


class Renamed(Kling):
    """An adapter that somebody changed: it waits for another word."""

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        outcome = yield from super().status(handle, target)
        return outcome if isinstance(outcome, Unfinished) else Unfinished(stage="succeed")


def test_control_a_changed_status_word_is_told_with_the_job_and_the_event() -> None:
    told = complaint("kling", written("kling", logs(Pair(Renamed(), KlingTwin))))
    assert "kling, text-to-video, event 4:\n  - 4 68.430 generation.finished v1 " in told
    assert "\n  + 4 7" in told
    assert f"run `{COMMAND}`" in told
    assert "wrong key" not in told  # that job ends before


def test_control_a_job_that_is_new_or_gone_or_shorter_is_told() -> None:
    changed = {name: log[1:] if name == "cancel" else log for name, log in kept()["kling"].items() if name != "failed"}
    told = complaint("kling", written("kling", {**changed, "new": []}))
    assert "kling, cancel, event 1:" in told
    assert "kling, failed: the job is gone" in told
    assert "kling, new: the job is new" in told


# ── What the files hold ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PAIRS)
def test_there_is_a_job_of_every_operation_and_of_every_way_to_go(name: str) -> None:
    data, jobs = PAIRS[name].adapter.capabilities, kept()[name].keys()
    assert {operation for model in data.models for operation in model.operations} <= jobs
    assert {"moderated, hidden", "failed"} & jobs
    assert {"cancel", "rate_limit"} <= jobs
    assert {"wrong key"} <= jobs or data.auth is None
    assert {"callback, dies after the accept"} <= jobs or data.webhook is None
    intents = [codec.decode(event) for log in kept()[name].values() for event in log]
    classes = {intent.terms.doubt for intent in intents if isinstance(intent, m.SubmissionStarted)}
    assert {f"class {doubt}, dies after the accept" for doubt in classes - {"D"}} <= jobs


def test_there_are_enough_logs_and_one_of_every_shape_that_was_ever_stored() -> None:
    corpus = dict(every())
    shapes = {shape_name(event.type, event.v) for log in corpus.values() for event in log}
    size = sum(file.stat().st_size for file in files().values())
    print(f"{len(corpus)} golden logs of {len(files())} providers and {len(RELEASES)} releases, {len(shapes)} shapes")
    assert len(corpus) >= LEAST_LOGS
    assert shapes >= read_shapes().keys()
    assert size <= MOST_BYTES


def test_no_file_has_a_key() -> None:
    for file in files().values():
        assert "canary" not in file.read_text("utf-8")


def test_a_file_is_read_as_it_was_made() -> None:
    for name, file in files().items():
        assert written(name, kept()[name]) == file.read_text("utf-8")


# ── What follows from them ────────────────────────────────────────────────────────────────────────────────────────────


def test_todays_code_decides_what_is_written_down() -> None:
    for name, jobs in kept().items():
        for job, log in jobs.items():
            report = verify(Recording(job_id=f"{name}, {job}", tenant="default", events=tuple(log)))
            assert (report.verdict, report.events) == ("same", len(log)), report


class Impure(Exception):
    """What must only compute asked the clock, chance, the network or the disk."""


@contextmanager
def nothing_outside() -> Generator[None]:
    """Calls of the clock, chance, the network and the disk raise, however they were imported."""

    def watch(frame: FrameType, event: str, called: Any) -> None:  # noqa: ARG001
        if event == "c_call" and _is_outside(called):
            raise Impure(called.__qualname__)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


def _is_outside(called: Any) -> bool:
    owner = getattr(called, "__self__", None)
    if isinstance(owner, ModuleType):
        return owner.__name__ in DEVICES
    if isinstance(owner, type) and issubclass(owner, datetime):
        return called.__name__ in ("now", "utcnow", "today")
    return any(kind.__module__ in DEVICES for kind in type(owner).__mro__)


def test_folding_asks_neither_the_clock_nor_chance_nor_the_network_nor_the_disk() -> None:
    states = []
    corpus = dict(every())
    for _ in range(2):
        with nothing_outside():
            states.append([_folded(log) for log in corpus.values()])
    assert states[0] == states[1]


def _folded(log: Log) -> list[object]:
    """The state after each event, and what is owed then."""
    events = [(codec.decode(event), event.at) for event in log]
    states = [replay(events[: count + 1]) for count in range(len(events))]
    return [(state, pending(state, "us")) for state in states]


@pytest.mark.parametrize(
    "impure",
    [
        time.time,
        time.monotonic,
        lambda: datetime.now(UTC),
        random.random,
        lambda: random.Random(1),
        lambda: os.urandom(1),
        socket.socketpair,
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: Path(__file__).read_bytes(),
    ],
)
def test_control_who_does_is_seen(impure: Callable[[], object]) -> None:
    with pytest.raises(Impure), nothing_outside():
        impure()
