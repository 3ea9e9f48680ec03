"""docs/replay.md: its commands run as they stand, and print what it shows, but for ids, times and addresses."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, get_args

import pytest
from msgspec import Struct

import rushes
from rushes.adapters.base import Worth
from rushes.cli.replay import EXITS, KEYS, UNITS_S

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "replay.md").read_text("utf-8")
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK: Final = "@@"  # between the outputs of two blocks
PORT: Final = "8484"
NOT_THE_SAME: Final = (
    (r"job_[0-9a-f]{32}", "JOB"),
    (r"\S*(https?://|/v1/webhooks/).*", "ADDRESS"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?", "INSTANT"),
    (r"\d+(\.\d+)? ?(ms|s)\b", "TIME"),
    (r"^ +\d+ +(\d+:\d\d|\d+\.\d{3})", "EVENT"),  # how much progress is told is another each time
    (r"deadline, percent$", "deadline"),  # as above
    (r"^ +· +(\d+:\d\d|\d+\.\d{3})", "NO EVENT"),
    (r"\d+ events", "EVENTS"),
    (r"^\d{15,}", "NUMBER"),
    (r"(calls it|id:) .*", r"\1 HANDLE"),
    (r"\d+(\.\d)? (kB|bytes)", "SIZE"),
    (r"×\d+", "TIMES"),
    (r"\d+ exchanges?", "EXCHANGES"),
)
END: Final = "trap - EXIT; kill $(jobs -p); wait"


class Part(Struct, frozen=True):
    """A block of commands, and what the page says that it prints."""

    commands: str
    shown: str


def parts_of(text: str) -> list[Part]:
    """The commands of a part of the page, each with the outputs that follow it."""
    made: list[Part] = []
    for language, content in BLOCK.findall(text):
        if language == "sh":
            made.append(Part(content, ""))
        elif language == "text":
            made[-1] = Part(made[-1].commands, made[-1].shown + content)
    return made


def stories() -> dict[str, str]:
    """The parts below the last heading, by their titles."""
    return {title: text for title, _, text in (part.partition("\n") for part in PAGE.split("\n### ")[1:])}


FIRST, _, LAST = PAGE.partition("\n## Three stories\n")
(EMULATORS,) = parts_of(LAST.partition("\n### ")[0])


def ran(parts: list[Part], folder: Path, **env: str) -> list[str]:
    """What each of them prints, one after the other in one shell. All of them must succeed."""
    script = f"\necho '{MARK}'\n".join(part.commands for part in parts)
    begun = "trap 'kill $(jobs -p)' EXIT\n" if EMULATORS in parts else ""
    done = subprocess.run(
        ["bash", "-euc", f"{begun}{script}\necho '{MARK}'\n{END if begun else ''}"],
        cwd=folder,
        env=environment(folder, **env),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.stdout.count(MARK) == len(parts), done.stdout[-2_000:] + done.stderr[-4_000:]
    return done.stdout.split(MARK)


def environment(folder: Path, **more: str) -> Mapping[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = {"PATH": path, "HOME": str(folder), "RUSHES_DATA": str(folder / "studio"), "RUSHES_CONFIG": os.devnull}
    return {**told, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "80", **more}


def missing(shown: str, said: str) -> Iterator[str]:
    """The lines of the page that were not printed, or not in that order."""
    left = iter(list(map(alike, said.splitlines())))
    for line in filter(None, shown.splitlines()):
        if alike(line) not in left:
            yield f"{line}\nin what was printed:\n{said}"
            return


def alike(line: str) -> str:
    """The line without what differs every time, and up to where it was cut."""
    for pattern, word in NOT_THE_SAME:
        line = re.sub(pattern, word, line)
    return re.sub(r" *\S*….*", "…", line).rstrip()


def check(parts: list[Part], folder: Path, **env: str) -> str:
    """The commands run, and print what the page shows. The answer is all that they print."""
    outputs = ran(parts, folder, **env)
    for part, said in zip(parts, outputs, strict=False):
        assert not (told := "".join(missing(part.shown, said))), told
    return "".join(outputs)


# ── What each command shows ───────────────────────────────────────────────────────────────────────────────────────────


def test_its_commands_print_what_it_shows(tmp_path: Path) -> None:
    shown = re.sub(r"^ +·.*\n", "", FIRST, flags=re.MULTILINE)  # there may be no such poll
    said = check(parts_of(shown), tmp_path)
    for line in ("verify: same", "rerun: same", "1 job, 1 same", "`decide` gives what the log has:", "REQUEST  "):
        assert line in said
    job = json.loads((tmp_path / "job.json").read_text())["id"]
    assert json.loads((tmp_path / "replay.json").read_text())["job_id"] == job
    assert (tmp_path / "elsewhere" / "imports" / f"{job}.rushes.json").is_file()
    (program,) = (content for language, content in BLOCK.findall(FIRST) if language == "python")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(tmp_path), check=True, timeout=60)


def test_its_words_are_the_codes() -> None:
    codes = dict(re.findall(r"^\| (\d) \| (\w+)", FIRST, re.MULTILINE))
    assert codes == {"0": "the", "1": "diverged", "2": "cannot"}
    assert [int(EXITS[word]) for word in ("same", "diverged", "cannot")] == [0, 1, 2]
    assert set(re.findall(r"`\d+(\w)`", FIRST)) <= set(UNITS_S)
    for key in re.findall(r"(\w): (?:back|traffic|state|leave)", KEYS):
        assert f"`{key}`" in FIRST
    worths = set(get_args(Worth))
    assert worths == {word for word in re.findall(r"`(\w+)`|204 (\w+)", LAST) for word in word if word in worths}


def test_control_a_line_that_is_not_printed_is_seen() -> None:
    said = "  4      0.012  job.parked           in_doubt; billed: unknown\n  5      3.612  job.resumed   x…y\n"
    assert not [*missing("  4      9.999  job.parked           in_doubt; billed: unknown\n", said)]
    assert not [*missing("  5      1.000  job.resumed   x…z\n", said)]
    assert [*missing("  4      9.999  job.parked           in_doubt; billed: yes\n", said)]
    assert [*missing("  5      1.000  job.resumed   x…\n  4      0.012  job.parked           in_doubt; b\n", said)]
    assert [*missing("another\n", "")]


# ── The stories ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_there_are_three_stories() -> None:
    assert list(stories()) == [
        "A provider changed a status word",
        "A webhook came twice",
        "A video was paid and never collected",
    ]


def test_a_status_word_that_changed_is_found_corrected_and_kept_as_a_test(tmp_path: Path) -> None:
    """In a checkout of its own: the story corrects an adapter."""
    checkout = tmp_path / "src"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(rushes.__file__).parent, checkout / "rushes", ignore=ignored)
    text = stories()["A provider changed a status word"]
    check([EMULATORS, *parts_of(text)], tmp_path, PYTHONPATH=str(checkout))
    adapter = checkout / "rushes" / "adapters" / "replicate.py"
    shutil.copy(f"{adapter}.bak", adapter)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "regression"],
        cwd=tmp_path,
        env=environment(tmp_path, PYTHONPATH=str(checkout)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout
    (told,) = re.findall(r"and says: `(.*)`", text)
    assert told in done.stdout, done.stdout


def test_of_a_webhook_that_came_twice_one_event_comes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    parts = parts_of(stories()["A webhook came twice"])
    moved = [Part(one.commands.replace(f"127.0.0.1:{PORT}", address), one.shown) for one in parts]
    check([EMULATORS, *moved], tmp_path, RUSHES_LISTEN=address)


def test_what_was_paid_and_never_collected_is_found_and_collected(tmp_path: Path) -> None:
    check([EMULATORS, *parts_of(stories()["A video was paid and never collected"])], tmp_path)
    assert (tmp_path / "night.mp4").read_bytes()[4:8] == b"ftyp"
    assert len(json.loads((tmp_path / "ledger.json").read_text())["charges"]) == 1


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+\.md)", PAGE))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link).is_file()
