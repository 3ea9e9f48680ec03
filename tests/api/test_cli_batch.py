"""`rushes batch`: a file of requests begins whole or not at all, and is followed to the end of all its jobs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec import Struct
from talking import TINY

from rushes.actors import messages as m
from rushes.actors.actor import head_of
from rushes.actors.codec import encode
from rushes.actors.job import replay
from rushes.adapters.capabilities import Terms
from rushes.cli.arguments import Asked
from rushes.cli.batch import Line, _begin
from rushes.cli.entry import main
from rushes.cli.screen import Screen
from rushes.client import Client
from rushes.eventstore.base import Birth, Write
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import Fault, ServerTrouble
from rushes.studio.beginning import digest_of
from rushes.units import Handle, keyed_batch_id, keyed_job_id
from rushes.video import Batch, Target, TextToVideo, VideoRequest, VideoSpec, checked

COMMAND = (sys.executable, "-m", "rushes.cli")
PATIENCE_S = 60.0
WRONG = ({"prompt": "a", "duration_seconds": 61, "fps": 7}, {"prompt": "a"}, {"prompt": " "})


class Ran(Struct):
    """How a verb ended, and what it said."""

    code: int
    out: str
    err: str


class Shell:
    """The command line over one folder, without a process for every verb."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def run(self, *words: str) -> Ran:
        self._capsys.readouterr()
        code = main([*words, "--data", str(self.folder / "data")])
        out, err = self._capsys.readouterr()
        return Ran(code, out, "".join(line for line in err.splitlines(keepends=True) if "sqlite.outdated" not in line))

    def good(self, *words: str) -> str:
        done = self.run(*words)
        assert done.code == 0, done.err
        return done.out

    def file(self, *requests: object, name: str = "shots.jsonl") -> str:
        """A file with a request a line, and an empty line between them."""
        path = self.folder / name
        path.write_text("\n\n".join(one if isinstance(one, str) else json.dumps(one) for one in requests), "utf-8")
        return str(path)

    def jobs(self, *words: str) -> list[str]:
        return [job["id"] for job in json.loads(self.good("list", "--order", "asc", "--json", *words))["jobs"]]


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("RUSHES_CONFIG", os.devnull)
    yield Shell(tmp_path, capsys)
    logging.disable(logging.NOTSET)


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def refused(shell: Shell) -> None:
    """Every line that is wrong is named with its field, whether or not all of them can be read."""
    done = shell.run("batch", shell.file(*WRONG))
    assert (done.code, done.out) == (2, "")
    told = [line.partition(": ")[2].split(": ")[0] for line in done.err.splitlines()]
    assert told == ["line 1, duration_seconds", "line 1, fps", "line 5, prompt"]
    done = shell.run("batch", shell.file(*WRONG, {"prompt": "a", "sead": 1}, "{nonsense"))
    assert (done.code, done.out) == (2, "")
    told = [line.partition(": ")[2].split(": ")[0] for line in done.err.splitlines()]
    assert told == ["line 1, duration_seconds", "line 1, fps", "line 5, prompt", "line 7, sead", "line 9"]
    error = json.loads(shell.run("batch", shell.file(*WRONG[1:]), "--json").err)
    assert (error["field"], error["detail"].split(":")[0], error["billed"]) == (
        "requests[1].prompt",
        "line 3, prompt",
        "no",
    )
    assert shell.jobs() == []


def test_where_a_line_is_wrong_all_that_are_wrong_are_named_and_none_begins(shell: Shell) -> None:
    refused(shell)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("", "1 to 100 requests; this has 0"),
        ("\n".join(['{"prompt": "a"}'] * 101), "1 to 100 requests; this has 101"),
        ('[{"prompt": "a"}, ', "begins as a JSON list and is none"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(shell: Shell, text: str | None, told: str) -> None:
    file = str(shell.folder / "nothing") if text is None else shell.file(text)
    done = shell.run("batch", file)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("rushes: FILE: ")
    assert told in done.err
    assert shell.jobs() == []


def test_an_item_of_a_list_is_named_by_its_number(shell: Shell) -> None:
    done = shell.run("batch", shell.file(json.dumps([TINY, {"prompt": "a", "fps": 7}], indent=2)))
    assert (done.code, done.err.startswith("rushes: item 2, fps: ")) == (2, True)


# ── made ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_are_made_and_shown_with_their_files(shell: Shell) -> None:
    file = shell.file(TINY, TINY | {"seed": 8})
    done = shell.run("batch", file, "--idempotency-key", "film")
    assert done.code == 0, done.err
    head, *rows = [line.split() for line in done.out.splitlines()]
    assert head == ["REQUEST", "JOB", "PHASE", "FILE"]
    assert [row[:2] for row in rows] == [["line", "1"], ["line", "3"]]
    assert all(Path(row[-1]).read_bytes()[4:8] == b"ftyp" for row in rows)
    progress = [line.split()[:3] for line in done.err.splitlines()]
    assert ["line", "1", "succeeded"] in progress
    assert ["line", "3", "succeeded"] in progress
    batch = keyed_batch_id("default", "film")
    assert done.err.splitlines()[0] == f"{batch} begun"
    assert shell.jobs("--batch", batch) == [row[2] for row in rows]
    assert shell.jobs("--batch", "batch_none") == []
    again = json.loads(shell.good("batch", file, "--idempotency-key", "film", "--json"))
    assert (again["batch"], [job["id"] for job in again["jobs"]]) == (batch, [row[2] for row in rows])
    assert len(shell.jobs()) == 2
    other = shell.run("batch", shell.file(TINY), "--idempotency-key", "film")
    assert (other.code, "key" in other.err) == (4, True)


def test_a_list_on_stdin_begins_and_the_same_command_goes_on_with_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stdin() -> None:
        text = json.dumps([TINY, TINY | {"idempotency_key": "own"}], indent=2)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    stdin()
    done = shell.run("batch", "-", "--no-wait")
    batch = done.out.strip()
    assert (done.code, batch.startswith("batch_")) == (0, True)
    command = shlex.split(done.err.splitlines()[-1].partition("if no server does: ")[2])
    assert command[:3] == ["rushes", "batch", "-"]
    begun = shell.jobs("--batch", batch)
    assert len(begun) == 2
    stdin()
    made = json.loads(shell.good(*command[1:-2], "--json"))
    assert (made["batch"], [job["id"] for job in made["jobs"]]) == (batch, begun)
    assert {job["status"] for job in made["jobs"]} == {"succeeded"}


def test_beside_a_server_it_goes_through_it(shell: Shell) -> None:
    words = [*COMMAND, "serve", "--json", "--data", str(shell.folder / "data"), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        try:
            refused(shell)
            made = json.loads(shell.good("batch", shell.file(TINY, TINY), "--json"))
            assert [job["status"] for job in made["jobs"]] == ["succeeded"] * 2
            assert shell.jobs("--batch", made["batch"]) == [job["id"] for job in made["jobs"]]
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


# ── how it ends ───────────────────────────────────────────────────────────────────────────────────────────────────────

HERE = Target(provider="local", model="local")
SENT = m.SubmissionStarted(
    attempt=1, send=1, incarnation="0", target=HERE, key="k", key_until=0.0, body_sha256="", terms=Terms(doubt="E")
)
ENDS: dict[str, tuple[m.Event, ...]] = {
    "succeeded": (
        m.SubmissionAccepted(attempt=1, send=1, handle=Handle("a"), deadline=2e9),
        m.GenerationFinished(attempt=1, outputs=()),
        m.JobSucceeded(missing=0),
    ),
    "failed": (m.JobFailed(fault=Fault("moderated", "The provider refused it."), billed="yes"),),
    "cancelled": (m.JobCancelled(billed="unknown"),),
    "parked": (
        m.SubmissionDoubted(attempt=1, send=1, fault=Fault("no_answer", "silence")),
        m.JobParked(reason="in_doubt", billed="unknown"),
    ),
}


async def write_batch(folder: Path, requests: Sequence[VideoRequest], ends: Sequence[str]) -> None:
    """A batch under the key `film`, each of its jobs at rest."""
    folder.mkdir()
    store = await SqliteStore.open(folder / "rushes.db")
    batch = keyed_batch_id("default", "film")
    for place, (request, end) in enumerate(zip(requests, ends, strict=True)):
        key = f"{batch}/{place}"
        requested = m.JobRequested(
            spec=VideoSpec(prompt=request.prompt, operation=TextToVideo()),
            route=(HERE,),
            start_by=2e9,
            idempotency_key=key,
            sent_sha256=digest_of(checked(request)),
            batch=Batch(id=batch, index=place, size=len(ends)),
        )
        told = (requested, SENT, *ENDS[end])
        events = [encode(event, 1.7e9, m.Wake()) for event in told]
        head = head_of(replay([(event, 1.7e9) for event in told]))
        name = keyed_job_id("default", key, 0)
        await store.append(Write(Birth(name, "job", "default"), 0, events, head, place + 1))
    await store.close()


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (["succeeded", "succeeded"], 0),
        (["succeeded", "cancelled"], 5),
        (["cancelled", "failed", "succeeded"], 1),
        (["failed", "parked", "cancelled"], 6),
    ],
)
def test_the_worst_end_of_a_job_is_the_exit_code(shell: Shell, ends: list[str], code: int) -> None:
    requests = [VideoRequest(**TINY | {"seed": seed}) for seed in range(len(ends))]
    asyncio.run(write_batch(shell.folder / "data", requests, ends))
    done = shell.run("batch", shell.file(*[TINY | {"seed": n} for n in range(len(ends))]), "--idempotency-key", "film")
    assert done.code == code, done.err
    assert [line.split()[3] for line in done.out.splitlines()[1:]] == ends
    complaints = [line for line in done.err.splitlines() if line.startswith("rushes: ")]
    assert [line.split(": ")[1] for line in complaints] == [
        f"line {2 * place + 1}" for place, end in enumerate(ends) if end in {"failed", "parked"}
    ]


# ── interrupted ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ctrl_c_keeps_the_jobs_and_says_how_to_go_on(shell: Shell) -> None:
    file = shell.file(TINY | {"duration_seconds": 10, "resolution": "360p", "fps": 30}, TINY)
    words = [*COMMAND, "batch", file, "--data", str(shell.folder / "data")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "running" not in (line := process.stderr.readline()):
            assert line, "it ended before it told the provider"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, "Traceback" in err) == (130, False)
    jobs = shell.jobs()
    assert shell.jobs("--status", "succeeded") != jobs, "the control: not all were done before"
    command = shlex.split(err.splitlines()[-1].partition("to go on: ")[2])
    assert command[:3] == ["rushes", "batch", file]
    made = json.loads(shell.good(*command[1:-2], "--json"))
    assert [job["id"] for job in made["jobs"]] == jobs
    assert {job["status"] for job in made["jobs"]} == {"succeeded"}


async def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def lost(url: str) -> str:
    """What is said on stderr where the server gives no answer."""
    err = io.StringIO()
    asked = Asked(verb="batch", file="shots.jsonl", idempotency_key="film")
    async with Client(url) as desk:
        with pytest.raises(ServerTrouble):
            await _begin([Line("line 1", b'{"prompt": "a"}')], desk, asked, Screen(io.StringIO(), err, as_json=False))
    return err.getvalue()


async def test_an_answer_that_is_lost_is_said_with_the_command_that_begins_the_rest() -> None:
    silent = await asyncio.start_server(_hang_up, "127.0.0.1", 0)
    told = await lost(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    assert told.endswith("nothing twice: rushes batch shots.jsonl --idempotency-key film\n")
    assert await lost("http://127.0.0.1:9") == "", "the control: nobody was there to begin anything"
    silent.close()
    await silent.wait_closed()
