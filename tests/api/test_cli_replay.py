"""`rushes replay`, `diff`, `export` and `import`: jobs that were recorded, seen and held against today's code."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from command import good
from msgspec import Struct
from msgspec.structs import replace
from recorded import first_order, job_of, lived
from scenes import pairs

import rushes
from rushes.actors.actor import head_of
from rushes.actors.codec import decode
from rushes.actors.job import replay
from rushes.cli import main
from rushes.cli.arguments import Asked, Exit, parse
from rushes.cli.replay import instant_of
from rushes.eventstore.base import Birth, NewEvent, Write
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import BadRequest
from rushes.flight import Exchange
from rushes.replay import Recording, write_file
from rushes.testing.wires import Wire

PAIR = pairs()["replicate"]
JOB, OTHER = job_of(PAIR), "job_other"


class Ran(Struct):
    """How a verb ended, and what it said."""

    code: int
    out: str
    err: str


class Shell:
    """The command line over one folder, without a process for every verb."""

    def __init__(
        self, folder: Path, recording: Recording, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.folder, self.recording = folder, recording
        self._capsys, self._patch = capsys, patch

    def run(self, *words: str, answers: str = "") -> Ran:
        self._patch.setattr(sys, "stdin", io.StringIO(answers))
        self._capsys.readouterr()
        code = main(["--data", str(self.folder / "data"), *words])
        out, err = self._capsys.readouterr()
        return Ran(code, out, "".join(line for line in err.splitlines(keepends=True) if "sqlite.outdated" not in line))

    def good(self, *words: str, answers: str = "") -> str:
        done = self.run(*words, answers=answers)
        assert done.code == 0, done.out + done.err
        return done.out

    def refused(self, code: int, *words: str) -> str:
        """The one sentence; nothing is on stdout."""
        done = self.run(*words)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done
        return done.err

    def file(self, recording: Recording) -> str:
        path = self.folder / "changed.rushes.json"
        write_file(recording, path)
        return str(path)


async def keep(recording: Recording, folder: Path, name: str) -> None:
    """The recording's events as the log of a data folder has them."""
    store = await SqliteStore.open(folder / "rushes.db")
    events = [NewEvent(one.type, one.v, one.at, one.data, one.meta) for one in recording.events]
    head = head_of(replay([(decode(one), one.at) for one in recording.events]))
    await store.append(Write(Birth(name, "job", "default"), 0, events, head, len(name)))
    await store.close()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recording]:
    """A job of Replicate's twin, in a data folder with its flight record."""
    folder = tmp_path_factory.mktemp("studio") / "data"
    recording = lived(Wire(PAIR), first_order(PAIR), folder)
    asyncio.run(keep(recording, folder, JOB))
    return folder.parent, recording


@pytest.fixture
def shell(
    once: tuple[Path, Recording], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shell]:
    monkeypatch.setenv("RUSHES_CONFIG", os.devnull)
    monkeypatch.setenv("COLUMNS", "80")
    yield Shell(*once, capsys, monkeypatch)
    logging.disable(logging.NOTSET)


def changed(recording: Recording, type: str, change: Callable[[bytes], bytes]) -> Recording:
    """The same, but for what events of one type say."""
    events = [replace(one, data=change(one.data)) if one.type == type else one for one in recording.events]
    assert tuple(events) != recording.events
    return replace(recording, events=tuple(events))


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_timeline_has_every_event_and_all_traffic(shell: Shell) -> None:
    lines = shell.good("replay", JOB).splitlines()
    told = [line.split()[2] for line in lines if re.match(r" {1,2}\d", line)]
    assert told == [event.type for event in shell.recording.events]
    assert sum("⇄" in line and "the same" not in line for line in lines) == len(shell.recording.exchanges)
    assert max(map(len, lines)) == 80
    assert '"input": {' not in "".join(lines)
    assert '"input": {' in shell.good("replay", JOB, "--bodies")


def test_one_event_is_shown_with_its_traffic_and_the_whole_state(shell: Shell) -> None:
    shown = shell.good("replay", JOB, "--at", "3")
    for part in ("event 3 of", "command   RecordAccepted", "\npayload\n", "⇄ submit POST 201", "\nstate: running\n"):
        assert part in shown
    for number in ("0", "99"):
        assert "--at: job_" in shell.refused(2, "replay", JOB, "--at", number)


def test_as_json_it_is_one_document(shell: Shell) -> None:
    told = json.loads(shell.good("replay", JOB, "--json"))
    assert [one["type"] for one in told["events"]] == [event.type for event in shell.recording.events]
    every = {one["id"] for event in told["events"] for one in event["exchanges"]}
    assert every | {one["id"] for one in told["other_exchanges"]} == {one.id for one in shell.recording.exchanges}
    alone = json.loads(shell.good("replay", JOB, "--json", "--at", "3"))
    assert ([one["version"] for one in alone["events"]], alone["state"]["attempt"]) == ([3], 1)


def test_events_are_stepped_through_as_the_answers_say(shell: Shell) -> None:
    last = len(shell.recording.events)
    answers = ["", "n", "e", "s", "p", str(last), "n", "help", "q", "1"]
    lines = shell.good("replay", JOB, "--step", answers="\n".join(answers)).splitlines()
    told = [line.split()[2] for line in lines if re.match(r" {1,2}\d", line)]
    types = [event.type for event in shell.recording.events]
    assert told == [types[0], types[1], types[2], types[1], types[-1]]
    prompts = [line.rstrip() for line in lines if line.startswith("[")]
    assert prompts == [
        f"[{n}/{last}] {answer}".rstrip()
        for n, answer in zip((1, 2, 3, 3, 3, 2, last, last, last), answers, strict=False)
    ]
    assert {"traffic", "state: running", f"There are events 1 to {last}."} <= set(lines)
    assert any(line.startswith("Enter: next") for line in lines)


def test_stepping_begins_where_it_is_told_to_and_ends_with_the_answers(shell: Shell) -> None:
    assert shell.good("replay", JOB, "--step", "--at", "2", answers="\n").count("submission.accepted") == 1


def test_nobody_can_step_without_answers(shell: Shell) -> None:
    assert shell.refused(2, "replay", JOB, "--step").startswith("rushes: --step: Nobody is there to answer")


def test_the_debugger_stops_inside_decide_with_what_it_was_asked(shell: Shell) -> None:
    answers = "p command\np job.handle.id\np now\nc\n"
    finished = next(event for event in shell.recording.events if event.type == "generation.finished")
    shown = shell.good("replay", JOB, "--break", str(finished.version), answers=answers)
    assert "-> if isinstance(job, New):" in shown
    assert "RecordFinished(exchanges=(), attempt=1" in shown
    assert f"(Pdb) {finished.at}\n" in shown
    assert shown.index("`q` leaves") < shown.index("(Pdb)") < shown.index("`decide` gives what the log has:")
    assert "both      generation.finished" in shown


def test_a_debugger_that_was_left_tells_the_outcome_all_the_same_and_where_they_differ(shell: Shell) -> None:
    last = str(len(shell.recording.events))
    assert "`decide` gives what the log has:" in shell.good("replay", JOB, "--break", last, answers="q\n")
    lost = shell.file(changed(shell.recording, "job.succeeded", lambda _: b'{"missing":3}'))
    assert "`decide` does not give what the log has:" in shell.good("replay", lost, "--break", last, answers="q\n")
    assert "--break: job_" in shell.refused(2, "replay", JOB, "--break", "99")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--all"),
        ([JOB, "--all"], "--all"),
        ([JOB, "--at", "2", "--verify"], "--at, --verify and --rerun do not go together"),
        ([JOB, "--step", "--break", "2"], "--step, --break do not go together"),
        (["--all", "--step"], "--step, --all do not go together"),
        ([JOB, "--step", "--json"], "--step is for people"),
        ([JOB, "--break", "1", "--json"], "--break is for people"),
        ([JOB, "--since", "7d"], "--since: "),
        (["--all", "--since", "yesterday"], "--since: 'yesterday' is no instant: give a date (2026-11-01)"),
        ([JOB, "--at", "1", "--bodies"], "--bodies: "),
        (["none.rushes.json"], "FILE: There is no file none.rushes.json"),
        ([__file__], "FILE: "),
    ],
)
def test_what_does_not_go_together_is_one_sentence(shell: Shell, words: list[str], told: str) -> None:
    assert told in shell.refused(2, "replay", *words)


def test_a_job_that_is_not_there_is_one_sentence(shell: Shell) -> None:
    for words in (["replay", "job_none"], ["export", "job_none", "-o", "x"], ["diff", JOB, "job_none"]):
        assert "There is no job job_none" in shell.refused(3, *words)
    assert not Path("x").exists()


def test_looking_works_beside_the_owner_and_makes_no_folder(shell: Shell, tmp_path: Path) -> None:
    async def beside() -> None:
        async with rushes.open(shell.folder / "data"):
            told = await asyncio.to_thread(good, shell.folder / "data", "replay", JOB, "--verify", "--rerun")
            assert told.count("same") == 2

    asyncio.run(beside())
    assert main(["replay", "--all", "--data", str(tmp_path / "none")]) == Exit.NOT_FOUND
    assert not (tmp_path / "none").exists()


# ── today's code ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_where_all_is_the_same_each_check_is_one_line(shell: Shell) -> None:
    count, played = len(shell.recording.events), sum(one.count for one in shell.recording.exchanges)
    assert shell.good("replay", JOB, "--verify").split() == ["verify:", "same", str(count), "events", "compared"]
    assert shell.good("replay", JOB, "--rerun").startswith(f"rerun: same  {count} events compared, {played} exchange")
    both = json.loads(shell.good("replay", JOB, "--verify", "--rerun", "--json"))
    assert [both[name]["verdict"] for name in ("verify", "rerun")] == ["same", "same"]


def test_where_the_log_says_something_else_both_sides_are_shown(shell: Shell) -> None:
    file = shell.file(changed(shell.recording, "job.succeeded", lambda _: b'{"missing":3}'))
    done = shell.run("replay", file, "--verify")
    lines = [line.split() for line in done.out.splitlines()]
    assert (done.code, lines[0][:2]) == (1, ["verify:", "diverged"])
    assert ["data.missing", "3", "-"] in lines
    assert any("⇄" in line for line in lines)
    told = json.loads(shell.run("replay", file, "--verify", "--json").out)
    assert (told["verdict"], told["verify"]["difference"]["path"], told["rerun"]) == ("diverged", "data.missing", None)


def test_where_the_provider_says_another_word_the_rerun_shows_the_exchange(shell: Shell) -> None:
    def renamed(exchange: Exchange) -> Exchange:
        body = exchange.answered.body
        assert body is not None
        text = (body.text or "").replace('"succeeded"', '"failed"') or None
        return replace(exchange, answered=replace(exchange.answered, body=replace(body, text=text)))

    file = shell.file(replace(shell.recording, exchanges=tuple(map(renamed, shell.recording.exchanges))))
    done = shell.run("replay", file, "--verify", "--rerun")
    assert (done.code, done.out.splitlines()[0].split()[1]) == (1, "same")  # the log is as it was
    assert "rerun: diverged" in done.out
    assert "recorded  generation.finished" in done.out
    assert '"status": "failed"' in done.out


def test_what_cannot_be_told_is_said_with_its_reason(shell: Shell) -> None:
    done = shell.run("replay", shell.file(replace(shell.recording, exchanges=())), "--verify", "--rerun")
    verdicts = [line.split()[1] for line in done.out.splitlines() if line[:1] != " "]
    assert (done.code, verdicts) == (2, ["same", "cannot"])
    events = [replace(event, type="job.dreamt", data=b"{}") for event in shell.recording.events[:1]]
    done = shell.run("replay", shell.file(replace(shell.recording, events=tuple(events))), "--verify")
    assert (done.code, "job.dreamt" in done.out) == (2, True)


def test_a_damaged_job_cannot_be_told(shell: Shell, tmp_path: Path) -> None:
    asyncio.run(keep(shell.recording, tmp_path, JOB))
    with closing(sqlite3.connect(tmp_path / "rushes.db", isolation_level=None)) as stranger:
        for (trigger,) in stranger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            stranger.execute(f"DROP TRIGGER {trigger}")
        stranger.execute("UPDATE events SET data = '{}' WHERE version = 3")
    words = ("--data", str(tmp_path), "replay")
    assert shell.run(*words, JOB, "--verify").code == 2
    assert shell.run(*words, "--all").out.splitlines()[-1] == "1 job, 1 cannot"
    assert shell.run(*words, JOB).code == 7


def test_all_jobs_are_held_and_those_that_are_not_the_same_are_named(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    asyncio.run(keep(shell.recording, folder, JOB))
    words = ("replay", "--all", "--verify", "--data", str(folder))
    assert shell.run(*words).out == "1 job, 1 same\n"
    asyncio.run(keep(changed(shell.recording, "job.succeeded", lambda _: b'{"missing":3}'), folder, OTHER))
    done = shell.run(*words)
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == f"diverged  {OTHER}"
    assert lines[1].startswith("          verify: Event ")
    assert lines[-1] == "2 jobs, 1 same, 1 diverged"
    told = [json.loads(line) for line in shell.run(*words, "--json").out.splitlines()]
    assert [(one["job_id"], one["verdict"]) for one in told] == [(JOB, "same"), (OTHER, "diverged")]
    since = [shell.run(*words, "--since", day).out.splitlines()[-1] for day in ("2027-01-01", "2027-02-01")]
    assert since == ["2 jobs, 1 same, 1 diverged", "0 jobs"]


def test_a_divergence_outranks_what_cannot_be_told(shell: Shell, tmp_path: Path) -> None:
    words = ("--data", str(tmp_path), "replay", "--all")
    asyncio.run(keep(shell.recording, tmp_path, JOB))  # without its flight record there is nothing to be answered from
    done = shell.run(*words)
    assert (done.code, done.out.splitlines()[-1]) == (2, "1 job, 1 cannot")
    asyncio.run(keep(changed(shell.recording, "job.succeeded", lambda _: b'{"missing":3}'), tmp_path, OTHER))
    done = shell.run(*words)
    assert (done.code, done.out.splitlines()[-1]) == (1, "2 jobs, 1 cannot, 1 diverged")


def test_since_takes_a_date_a_time_and_an_age() -> None:
    assert instant_of(None, 100.0) == 0.0
    assert [instant_of(age, 1e6) for age in ("30s", "2m", "12h", "7d", "1w")] == [
        1e6 - age_s for age_s in (30, 120, 43_200, 604_800, 604_800)
    ]
    assert instant_of("2026-11-01T12:00:00Z", 0.0) == 1_793_534_400.0
    assert instant_of("2026-11-01", 0.0) == time.mktime((2026, 11, 1, 0, 0, 0, 0, 0, -1))
    for wrong in ("", "7", "7y", "-1d", "1.5h", "2026-13-01"):
        with pytest.raises(BadRequest, match="is no instant"):
            instant_of(wrong, 0.0)


# ── handing on ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_goes_from_one_folder_to_another_as_a_file(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "a.rushes.json"
    done = shell.run("export", JOB, "-o", str(file))
    assert (done.code, done.out) == (0, f"{file}: {file.stat().st_size / 1000:.1f} kB\n")
    assert "It has the prompt" in done.err
    before = shell.good("replay", JOB)
    assert shell.good("replay", str(file)) == before
    there = ("--data", str(tmp_path / "there"))
    for _ in range(2):
        assert shell.good("import", str(file), *there) == f"{JOB}\n"
    assert shell.run("replay", JOB, *there).out == before
    assert not (tmp_path / "there" / "rushes.db").exists()
    assert JOB not in shell.run("list", *there).out  # it never enters the log
    again = tmp_path / "b.rushes.json"
    assert shell.run("export", JOB, "-o", str(again), *there).code == 0
    assert again.read_bytes() == file.read_bytes()


def test_another_recording_of_the_same_job_is_refused_unless_it_is_to_replace_it(shell: Shell, tmp_path: Path) -> None:
    there = ("--data", str(tmp_path / "there"))
    shell.good("import", shell.file(shell.recording), *there)
    other = shell.file(changed(shell.recording, "job.succeeded", lambda _: b'{"missing":3}'))
    assert "--replace" in shell.refused(4, "import", other, *there)
    assert shell.good("import", other, "--replace", *there) == f"{JOB}\n"


def test_a_file_that_is_no_recording_is_one_sentence(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    for words in (["import"], ["replay"], ["diff", JOB]):
        assert "FILE: " in shell.refused(2, *words, str(tmp_path / "x.json"))
    assert "FILE: There is no file" in shell.refused(2, "import", str(tmp_path / "none"))
    assert "-o" in shell.refused(2, "export", JOB)


def test_a_cassette_and_its_test_are_written(shell: Shell, tmp_path: Path) -> None:
    made = json.loads(shell.good("export", JOB, "--cassette", "-o", str(tmp_path / "tapes"), "--json"))
    assert [Path(made[name]).is_file() for name in ("cassette", "test")] == [True, True]
    done = shell.run("export", JOB, "--cassette", "-o", str(tmp_path / "tapes"))
    assert done.out.splitlines() == [made["cassette"], made["test"]]
    assert "pytest" in done.err


def test_two_jobs_are_compared(shell: Shell) -> None:
    other = shell.file(
        changed(shell.recording, "job.requested", lambda data: data.replace(b'"prompt":"', b'"prompt":"not '))
    )
    lines = shell.good("diff", JOB, other).splitlines()
    assert [line.split() for line in lines[:2]] == [["A", JOB], ["B", JOB]]
    assert sum("spec.prompt" in line for line in lines) == 1
    assert [two["name"] for two in json.loads(shell.good("diff", JOB, other, "--json"))["requests"]] == ["spec.prompt"]


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_option_arrives() -> None:
    words = ["j", "--at", "3", "--step", "--break", "4", "--bodies", "--verify", "--rerun", "--all", "--since", "7d"]
    assert parse(["replay", *words]) == Asked(
        verb="replay",
        job="j",
        at=3,
        step=True,
        break_at=4,
        bodies=True,
        verify=True,
        rerun=True,
        all_jobs=True,
        since="7d",
    )
    assert parse(["replay", "--all"]) == Asked(verb="replay", all_jobs=True)
    assert parse(["export", "j", "-o", "f", "--cassette"]) == Asked(verb="export", job="j", output="f", cassette=True)
    assert parse(["import", "f", "--replace"]) == Asked(verb="import", file="f", replace=True)
    assert parse(["diff", "a", "b"]) == Asked(verb="diff", job="a", other="b")
