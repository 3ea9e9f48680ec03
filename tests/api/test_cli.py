"""The command as people run it: a process, its two streams and its exit code."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import COMMAND, PATIENCE_S, environ, good, one_sentence, run

from rushes.eventstore.lock import FolderLock

TINY = ("--duration", "1", "--resolution", "180p", "--fps", "8")
LONG = ("--duration", "60", "--resolution", "720p", "--fps", "30")  # never waited for
MIDDLE = ("--duration", "5", "--resolution", "360p", "--fps", "24")  # a second or two: time enough to interrupt it


def events_in(folder: Path) -> int:
    if not (folder / "rushes.db").exists():
        return 0
    db = sqlite3.connect(f"file:{folder / 'rushes.db'}?mode=ro", uri=True)
    ((count,),) = db.execute("SELECT count(*) FROM events")
    db.close()
    return int(count)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real server, and its address; stopped cleanly at the end."""
    words = [*COMMAND, "serve", "--json", "--data", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(words, env=environ(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["pid"] == process.pid
        try:
            yield process, ready["url"]
        finally:
            process.terminate()
            code = process.wait(PATIENCE_S)
        assert code == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


# ── bad input: one sentence that names the field, and nothing stored ──


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["x", "--model", "lokal"], ["--model", "Did you mean 'local'?"]),
        (["x", "--model", "runway/gen3a_turbo"], ["--model", "runway/gen4_turbo"]),
        (["x", "--model", "replicate/prunaai/p-video"], ["--model", "REPLICATE_API_TOKEN"]),
        ([""], ["PROMPT", "empty"]),
        (["x", "--duration", "99"], ["--duration", "1 to 60"]),
        (["x", "--aspect-ratio", "5:1"], ["--aspect-ratio", "16:9"]),
        (["x", "--fps", "7"], ["--fps", "24"]),
        (["x", "--seed", "-1"], ["--seed"]),
        (["x", "--image", "/nowhere/a.png"], ["--image", "No such file"]),
        (["x", "--image", __file__], ["--image", "no image"]),
        (["x", "--image", "https://nowhere.invalid/a.png"], ["--image", "could not be fetched"]),
        (["x", "--narration", "/nowhere/a.mp3"], ["--narration", "No such file"]),
        (["x", "--video", __file__], ["--video", "does not do video-to-video"]),
        (["x", "--input", f"style={__file__}"], ["--input", "inputs[0] is no image"]),
        (["x", "--input", "style=job_none"], ["--input", "There is no job job_none"]),
        (["x", "--input", "hero=a.png"], ["--input", "The roles are: first_frame, "]),
        (["x", "--input", "style="], ["--input", "is no ROLE=FILE"]),
        (["x", "--operation", "upscale"], ["--input", "in the role 'source'"]),
        (["x", "--operation", "magic"], ["--operation", "upscale"]),
        (["x", "--operation", "effect"], ["--scene", "say which effect"]),
        (["x", "--scene", "hug"], ["--scene", "--operation effect"]),
        (["x", "--operation", "effect", "--scene", "hug", "--say", "hello"], ["--say", "--operation lip-sync"]),
        (["x", "--operation", "lip-sync", "--video", __file__], ["--say", "'narration'"]),
        (["x", "--operation", "lip-sync", "--video", __file__, "--say", "hello"], ["--voice", "together"]),
        (["x", "-o", "/"], ["--output", "folder"]),
        (["x", "-o", f"{__file__}/a.mp4"], ["--output", "cannot be written"]),
        (["x", "-o", "a.mp4", "--no-wait"], ["--output", "--no-wait"]),
        (["x", "--lenght", "3"], ["--lenght", "rushes --help"]),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_stored(folder: Path, words: list[str], named: list[str]) -> None:
    one_sentence(run(folder, "generate", *words), 2, *named)
    assert events_in(folder) == 0


def test_control_a_good_request_is_stored(folder: Path) -> None:
    good(folder, "generate", "x", *TINY)
    assert events_in(folder) > 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    one_sentence(run(tmp_path / "file" / "data", "generate", "x", *TINY), 7, "data folder", "file/data")
    assert run(tmp_path / "file" / "data", "doctor").returncode == 7


def test_a_log_that_is_none(folder: Path) -> None:
    folder.mkdir()
    (folder / "rushes.db").write_bytes(b"this is no database" * 100)
    for words in (["list"], ["generate", "x", *TINY]):
        one_sentence(run(folder, *words), 7, "rushes.db")
    assert run(folder, "doctor").returncode == 7


def test_a_port_in_use(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(folder, "serve", "--listen", f"127.0.0.1:{port}")
    one_sentence(done, 2, "--listen", str(port), "in use")
    assert good(folder, "doctor")  # and the folder is free again


def test_a_settings_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "rushes.toml").write_text("listen = ")
    one_sentence(run(tmp_path / "data", "list", RUSHES_CONFIG=str(tmp_path / "rushes.toml")), 2, "rushes.toml")


def test_without_the_media_extra_one_sentence_gives_the_install_command(folder: Path) -> None:
    without = "import sys; sys.modules['av'] = None; from rushes.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", without, "generate", "x", *TINY, "--data", str(folder)]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    one_sentence(done, 2, 'pip install "rushes[media]"')
    assert events_in(folder) == 0


# ── a job ──


def test_generate_makes_the_file_and_says_where(folder: Path, tmp_path: Path) -> None:
    done = run(folder, "generate", "a lake", *TINY, "-o", str(tmp_path / "lake.mp4"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("320×180, 1 s, 8 fps, ")
    assert done.stdout.splitlines()[-1] == str(tmp_path / "lake.mp4")
    assert (tmp_path / "lake.mp4").read_bytes()[4:8] == b"ftyp"
    assert "elapsed" in done.stderr


def test_json_is_one_document_and_stderr_is_quiet(folder: Path) -> None:
    done = run(folder, "--json", "generate", "a lake", *TINY)
    view = json.loads(done.stdout)
    assert (view["status"], done.stderr) == ("succeeded", "")
    assert [job["id"] for job in json.loads(good(folder, "list", "--json"))["jobs"]] == [view["id"]]
    assert json.loads(good(folder, "--json", "show", view["id"])) | {"age_seconds": 0} == view | {"age_seconds": 0}
    events = json.loads(good(folder, "events", view["id"], "--json"))
    assert [event["version"] for event in events] == list(range(1, view["version"] + 1))
    assert json.loads(good(folder, "watch", view["id"], "--json"))["id"] == view["id"]
    assert json.loads(good(folder, "doctor", "--json"))["ok"] is True


def test_people_see_tables(folder: Path) -> None:
    job = good(folder, "generate", "a lake", *TINY).split()[0]
    assert [line.split()[:2] for line in good(folder, "list").splitlines()] == [["JOB", "PHASE"], [job, "succeeded"]]
    right = ["--provider", "local", "--model", "local", "--phase", "succeeded", "--sort", "updated", "--order", "asc"]
    assert job in good(folder, "list", *right)
    assert job not in good(folder, "list", "--provider", "replicate")
    one_sentence(run(folder, "list", "--phase", "done"), 2, "--phase", "parked")
    one_sentence(run(folder, "list", "--after", "x"), 2, "--after", "next")
    assert "a lake" in good(folder, "show", job)
    assert [line.split()[-1] for line in good(folder, "events", job).splitlines()][::100] == ["EVENT"]
    assert good(folder, "events", job).splitlines()[-1].split()[-1] == "job.succeeded"


def test_the_same_key_is_the_same_job(folder: Path) -> None:
    first, again = (good(folder, "generate", "x", *TINY, "--idempotency-key", "k").split()[0] for _ in range(2))
    assert first == again
    one_sentence(run(folder, "generate", "y", *TINY, "--idempotency-key", "k"), 4, "key")


def test_looking_finds_no_job_and_makes_no_folder(folder: Path) -> None:
    good(folder, "list")
    good(folder, "doctor")
    for verb in ("show", "events", "watch", "cancel"):
        one_sentence(run(folder, verb, "job_none"), 3, "job_none")
    error = json.loads(run(folder, "show", "job_none", "--json").stderr)
    assert (error["code"], error["job_id"]) == ("not_found", "job_none")
    assert not folder.exists()


def test_cancel_ends_a_job_and_comes_too_late_for_another(folder: Path) -> None:
    job = good(folder, "generate", "x", *LONG, "--no-wait").strip()
    assert good(folder, "cancel", job) == f"{job} cancelled\n"
    assert run(folder, "watch", job).returncode == 5
    done = good(folder, "generate", "x", *TINY).split()[0]
    late = run(folder, "cancel", done)
    assert (late.returncode, late.stderr) == (4, "rushes: Too late to cancel: the job has succeeded.\n")


# ── interrupted ──


@contextmanager
def generating(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A `generate` that has told the provider."""
    words = [*COMMAND, "generate", "x", *MIDDLE, "--data", str(folder)]
    with subprocess.Popen(words, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("running"):
            assert line, "it ended before it told the provider"
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_ctrl_c_keeps_the_job_and_watch_finishes_it(folder: Path) -> None:
    with generating(folder) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert "Traceback" not in err
    command = shlex.split(err.splitlines()[-1].partition("to go on: ")[2])
    assert command[:2] == ["rushes", "watch"]
    between = json.loads(good(folder, "show", command[2], "--json"))
    assert (between["status"], between["takes"]) == ("running", [])  # the control: it was not done before
    done = subprocess.run(
        [*COMMAND, *command[1:]], env=environ(), capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_file()


def test_a_second_ctrl_c_ends_it_at_once(folder: Path) -> None:
    with generating(folder) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE_S) == 130


# ── beside a server ──


def test_beside_a_server_every_verb_goes_through_it(folder: Path, tmp_path: Path) -> None:
    with serving(folder) as (server, url):
        job = good(folder, "generate", "x", *LONG, "--no-wait").strip()
        assert job in good(folder, "list")
        assert job in good(folder, "show", job)
        assert "job.requested" in good(folder, "events", job)
        assert f"process {server.pid} owns the data folder and answers at {url}" in good(folder, "doctor")
        assert good(folder, "cancel", job) == f"{job} cancelled\n"
        assert run(folder, "watch", job).returncode == 5
        image = tmp_path / "first.png"
        image.write_bytes(_png())
        out = tmp_path / "x.mp4"
        done = good(folder, "generate", "x", *TINY, "--image", str(image), "-o", str(out)).split()[0]
        assert out.read_bytes()[4:8] == b"ftyp"
        watched = good(folder, "watch", done, "--json").splitlines()
        assert json.loads(watched[-1])["status"] == "succeeded"
        one_sentence(run(folder, "generate", "x", "--image", __file__), 2, "--image", "no image")
        one_sentence(run(folder, "show", "job_none"), 3, "job_none")


def test_watch_tells_a_line_for_every_change(folder: Path) -> None:
    job = good(folder, "generate", "x", *MIDDLE, "--no-wait").strip()
    views = [json.loads(line) for line in good(folder, "watch", job, "--json").splitlines()]
    assert len(views) > 2
    assert [view["version"] for view in views] == sorted({view["version"] for view in views})
    assert [view["status"] == "succeeded" for view in views] == [False] * (len(views) - 1) + [True]


def test_control_an_owner_without_a_server_is_not_gone_through(folder: Path) -> None:
    lock = FolderLock.acquire(folder)
    try:
        one_sentence(run(folder, "generate", "x", *TINY), 7, f"process {os.getpid()}")
        good(folder, "list")  # but looking is always possible
    finally:
        lock.release()


def test_a_second_server_is_refused_naming_the_first(folder: Path) -> None:
    with serving(folder) as (server, url):
        one_sentence(run(folder, "serve", "--listen", "127.0.0.1:0"), 7, f"process {server.pid}", url)
    with serving(folder):  # the control: it was the first that stood in the way
        pass


def test_a_second_signal_ends_the_server_at_once(folder: Path) -> None:
    words = [*COMMAND, "serve", "--json", "--data", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(words, env=environ(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) in {0, 130}  # 0: it had stopped before the second came


# ── about itself ──


def test_doctor_names_the_key_that_it_found_and_never_its_value(folder: Path) -> None:
    done = run(folder, "doctor", REPLICATE_API_TOKEN="r8_very_secret")
    assert done.returncode == 0
    assert "REPLICATE_API_TOKEN" in done.stdout
    assert "very_secret" not in done.stdout + done.stderr
    assert "local" in done.stdout


def test_help_lists_the_exit_codes(folder: Path) -> None:
    text = good(folder, "--help")
    assert all(f"\n{code:>5}  " in text for code in (0, 1, 2, 3, 4, 5, 6, 7, 70, 130))


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    line = f"{shlex.join(COMMAND)} list --data {folder} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], env=environ(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_debug_alone_shows_tracebacks(folder: Path) -> None:
    assert "Traceback" in run(folder, "show", "job_none", RUSHES_LOG_LEVEL="debug").stderr
    assert "Traceback" not in run(folder, "show", "job_none").stderr


def _png() -> bytes:
    from io import BytesIO  # noqa: PLC0415 - the only test that draws

    from PIL import Image  # noqa: PLC0415

    file = BytesIO()
    Image.new("RGB", (64, 36), "navy").save(file, "PNG")
    return file.getvalue()
