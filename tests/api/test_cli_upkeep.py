"""`verify`, `backup` and `restore` as people run them, and a server whose log has lost something."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from command import COMMAND, PATIENCE_S, environ, good, one_sentence, run
from make_jobs import writes

import rushes
from rushes.eventstore.marker import read_marker
from rushes.eventstore.sqlite import SqliteStore
from rushes.testing.eventstore import birth

JOB = "job_succeeded"
EVENTS = sum(len(write.events) for write in writes())


def refused(folder: Path, code: int, *words: str) -> str:
    return one_sentence(run(folder, *words), code)


def tampered(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "rushes.db", isolation_level=None)) as stranger:
        for (trigger,) in stranger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            stranger.execute(f"DROP TRIGGER {trigger}")
        stranger.execute(statement)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A data folder with a job in every phase."""
    folder = tmp_path / "data"
    folder.mkdir()
    store = await SqliteStore.open(folder / "rushes.db")
    for write in writes():
        await store.append(write)
    await store.close()
    return folder


# ── verify ──


def test_a_good_log_is_said_in_one_line(folder: Path) -> None:
    assert good(folder, "verify").endswith(f" {EVENTS} events up to position {EVENTS}, nothing wrong\n")
    told = json.loads(good(folder, "verify", "--json"))
    assert (told["ok"], told["events"], told["found"], told["findings"]) == (True, EVENTS, {}, [])


def test_each_finding_is_a_line_that_names_the_job_and_what_to_do(folder: Path) -> None:
    of_job = f"stream = (SELECT id FROM streams WHERE name = '{JOB}')"
    tampered(folder, f"UPDATE events SET data = '{{}}' WHERE {of_job} AND version = 2")
    tampered(folder, "UPDATE streams SET open = 1 WHERE name = 'job_failed'")
    done = run(folder, "verify")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0].split(", position")[0] for line in lines[:2]] == [f"{JOB}, version 2", "job_failed"]
    assert "backup" in lines[0]
    assert "--fix" in lines[1]
    assert lines[2].endswith("2 findings, 0 mended")
    told = json.loads(run(folder, "verify", "--json").stdout)
    assert told["found"] == {"damaged": 1, "head": 1}
    assert [(one["kind"], one["stream"]) for one in told["findings"]] == [("damaged", JOB), ("head", "job_failed")]


def test_fixing_mends_what_can_be_mended(folder: Path) -> None:
    tampered(folder, "UPDATE streams SET open = 1 - open")
    assert run(folder, "verify").returncode == 1
    assert "rewritten" in good(folder, "verify", "--fix")
    assert "nothing wrong" in good(folder, "verify")


def test_what_cannot_be_looked_at_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is no log" in refused(tmp_path / "nowhere", 2, "verify")
    assert "FILE: There is no log" in refused(folder, 2, "verify", "nothing.db")
    (tmp_path / "text.db").write_text("a letter to my aunt\n" * 500)
    assert "text.db cannot be read as a log" in refused(folder, 7, "verify", "text.db")
    assert "--fix" in refused(folder, 2, "verify", "text.db", "--fix")
    assert not (tmp_path / "nowhere").exists()


# ── backup and restore ──


def test_a_backup_comes_back(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    assert f"up to position {EVENTS}, nothing wrong" in good(folder, "backup", str(file))
    assert "nothing wrong" in good(folder, "verify", str(file))
    assert "replaces nothing" in refused(folder, 2, "backup", str(file))
    (folder / "views.db").write_bytes(b"of the log before")
    told = json.loads(good(folder, "restore", str(file), "--json"))
    assert (told["position"], told["lost"]) == (EVENTS, 0)
    assert Path(told["aside"]).is_file()
    assert not (folder / "views.db").exists()
    marker = read_marker(folder / "rushes.db")
    assert marker
    assert marker.epoch == told["epoch"]
    assert JOB in good(folder, "events", JOB, "--json")
    assert "position" in good(tmp_path / "other", "restore", str(file)), "a folder that is not there is made"


async def test_an_older_backup_has_to_be_accepted(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    good(folder, "backup", str(file))
    store = await SqliteStore.open(folder / "rushes.db")
    await store.append(birth("job_late", 3))
    await store.close()
    assert "3 positions" in refused(folder, 7, "restore", str(file))
    done = run(folder, "restore", str(file), "--accept-loss")
    assert (done.returncode, "is kept" in done.stderr) == (0, True)
    refused(folder, 3, "show", "job_late")


async def test_beside_an_owner_looking_and_copying_work_and_changing_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with rushes.open(folder, environ={}) as studio:
        await studio.store.append(birth("job_0", 3))
        file = str(tmp_path / "backup.db")
        for words in (["backup", file], ["verify", file]):
            done = await asyncio.to_thread(run, folder, *words)
            assert "up to position 3" in done.stdout, done.stderr
        assert "up to position 3" in (await asyncio.to_thread(run, folder, "verify")).stdout
        for words in (["verify", "--fix"], ["restore", file]):
            assert f"process {os.getpid()}" in await asyncio.to_thread(refused, folder, 7, *words)


def test_help_says_that_takes_are_no_part_of_it(folder: Path) -> None:
    for verb in ("backup", "restore"):
        assert "takes are plain files" in " ".join(good(folder, verb, "--help").split()).lower()


# ── a log that lost something ──


def served_epoch(folder: Path, *words: str) -> str:
    command = [*COMMAND, "serve", "--json", "--data", str(folder), "--listen", "127.0.0.1:0", *words]
    with subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        url = json.loads(process.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE_S) as answer:
            epoch = str(json.load(answer)["epoch"])
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    return epoch


def test_a_server_does_not_start_over_a_loss_until_somebody_accepts_it(folder: Path) -> None:
    before = read_marker(folder / "rushes.db")
    assert before
    tampered(folder, f"DELETE FROM events WHERE position > {EVENTS - 2}")
    for words in (["serve"], ["watch", "job_running"]):
        assert "2 positions are missing" in refused(folder, 7, *words)
    doctor = run(folder, "doctor")
    assert (doctor.returncode, "2 positions are missing" in doctor.stdout) == (7, True)
    good(folder, "list")  # looking is always possible
    assert served_epoch(folder, "--accept-loss") != before.epoch
    assert "complete" in good(folder, "doctor")
