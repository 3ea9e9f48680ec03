"""What a person decides about a parked job, on the command line: alone with the folder, and beside a server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from rushes.actors import messages as m
from rushes.actors.actor import head_of
from rushes.actors.codec import encode
from rushes.actors.job import replay
from rushes.adapters.capabilities import Terms
from rushes.cli.arguments import Asked, parse
from rushes.cli.entry import main
from rushes.eventstore.base import Birth, Write
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import BadRequest, Fault
from rushes.video import Config, Target, TextToVideo, VideoSpec

COMMAND = (sys.executable, "-m", "rushes.cli")
TINY = Config(duration_seconds=1, resolution="180p", fps=8, aspect_ratio="16:9", seed=7)
PATIENCE_S = 60.0
HERE = Target(provider="local", model="local")
PARKED = (
    m.JobRequested(
        spec=VideoSpec(
            **{name: getattr(TINY, name) for name in TINY.__struct_fields__}, prompt="a lake", operation=TextToVideo()
        ),
        route=(HERE,),
        start_by=2e9,
    ),
    m.SubmissionStarted(
        attempt=1, send=1, incarnation="0", target=HERE, key="k", key_until=0.0, body_sha256="", terms=Terms(doubt="E")
    ),
    m.SubmissionDoubted(attempt=1, send=1, fault=Fault("no_answer", "silence")),
    m.JobParked(reason="in_doubt", billed="unknown"),
)


async def write_parked(folder: Path, *names: str) -> None:
    """Jobs of which nobody knows whether they were taken."""
    store = await SqliteStore.open(folder / "rushes.db")
    for number, name in enumerate(names, 1):
        events = [encode(event, 1.7e9 + n, m.Wake()) for n, event in enumerate(PARKED)]
        head = head_of(replay([(event, 1.7e9) for event in PARKED]))
        await store.append(Write(Birth(name, "job", "default"), 0, events, head, number))
    await store.close()


class Ran(Struct):
    """How a verb ended, and what it said."""

    code: int
    out: str
    err: str


class Desk:
    """The command line over one folder, without a process for every verb."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def run(self, *words: str) -> Ran:
        self._capsys.readouterr()
        code = main([*words, "--data", str(self.folder)])
        out, err = self._capsys.readouterr()
        return Ran(code, out, err)

    def good(self, *words: str) -> str:
        done = self.run(*words)
        assert done.code == 0, done.err
        return done.out

    def refused(self, code: int, *words: str) -> str:
        """What is said on stderr; nothing is on stdout."""
        done = self.run(*words)
        assert (done.code, done.out) == (code, ""), done.err
        return done.err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Jobs a, b and c are parked."""
    monkeypatch.setenv("RUSHES_CONFIG", os.devnull)
    (tmp_path / "data").mkdir()
    asyncio.run(write_parked(tmp_path / "data", "job_a", "job_b", "job_c"))
    yield Desk(tmp_path / "data", capsys)
    logging.disable(logging.NOTSET)


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    words = [*COMMAND, "serve", "--json", "--data", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


def everything(desk: Desk) -> None:
    """Every verb, but for waiting for a render."""
    told = desk.refused(4, "resubmit", "job_a")
    assert told.startswith("rushes: --accept-cost: ")
    assert "paid twice" in told
    assert told.endswith("(billed: unknown).\n")
    error = json.loads(desk.refused(4, "collect", "job_a", "--json"))
    assert (error["field"], error["job_id"], error["billed"]) == ("handle", "job_a", "unknown")
    assert desk.refused(2, "collect", "job_a", "--handle", "a b").startswith("rushes: --handle: ")
    assert "`give-up`" in desk.refused(4, "retry", "job_a")
    assert desk.refused(3, "give-up", "job_none").endswith("There is no job job_none.\n")

    assert desk.good("give-up", "job_b") == "job_b failed (billed: unknown)\n"
    words = ("retry", "job_b", "--no-wait", "--idempotency-key", "again")
    again = json.loads(desk.good(*words, "--json"))
    assert (again["parent"], again["id"] != "job_b") == ("job_b", True)
    assert desk.good(*words) == f"{again['id']}\n"
    assert "retry of  job_b" in desk.good("show", again["id"])
    assert json.loads(desk.good("resubmit", "job_c", "--accept-cost", "--no-wait", "--json"))["attempt"] == 2


def test_every_verb_alone_with_the_folder(desk: Desk) -> None:
    everything(desk)


def test_every_verb_beside_a_server(desk: Desk) -> None:
    with serving(desk.folder):
        everything(desk)


def test_collect_waits_for_the_file_and_has_it_ever_after(desk: Desk, tmp_path: Path) -> None:
    first = desk.good("generate", "a lake", "--duration", "1", "--resolution", "180p", "--fps", "8").split()[0]
    for _ in range(2):
        take = tmp_path / "lake.mp4"
        done = json.loads(desk.good("collect", "job_a", "--handle", f"{first}-1", "-o", str(take), "--json"))
        assert (done["id"], done["status"]) == ("job_a", "succeeded")
        assert take.read_bytes()[4:8] == b"ftyp"
        take.unlink()


def test_a_parked_job_says_which_verbs_help(desk: Desk) -> None:
    done = desk.run("watch", "job_a")
    assert done.code == 6
    for word in ("`collect`", "`resubmit`", "`give-up`", "A person has to decide (billed: unknown)."):
        assert word in done.err


# ── words ──


def test_every_option_arrives() -> None:
    words = ["--handle", "h", "--no-wait", "-o", "f"]
    assert parse(["collect", "j", *words]) == Asked(verb="collect", job="j", handle="h", no_wait=True, output="f")
    words = ["--accept-cost", "-o", "f"]
    assert parse(["resubmit", "j", *words]) == Asked(verb="resubmit", job="j", accept_cost=True, output="f")
    assert parse(["give-up", "j", "--json"]) == Asked(verb="give-up", job="j", json=True)
    assert parse(["retry", "j", "--idempotency-key", "k"]) == Asked(verb="retry", job="j", idempotency_key="k")


@pytest.mark.parametrize("words", [["generate", "x"], ["retry", "j"]])
def test_a_variable_that_is_empty_is_no_request_without_a_key(words: list[str]) -> None:
    for blank in ("", " "):
        with pytest.raises(BadRequest, match="--idempotency-key: it is blank"):
            parse([*words, "--idempotency-key", blank])
