"""What the README shows is what there is: its program runs, its commands parse, its frames decode."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rushes.actors.codec import DECODERS
from rushes.api.protocol import Events, Problem, ServerFrame, read_frame
from rushes.cli.arguments import EXIT_CODES, parse
from rushes.faults import BadRequest
from rushes.main import installed_adapters
from rushes.video import EventView, VideoRequest, checked

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(README) if name == language]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_program_is_the_example_and_short() -> None:
    program = (ROOT / "examples" / "first_light.py").read_text("utf-8")
    assert blocks("python") == [program]
    assert len(program.splitlines()) <= 15


def test_the_program_prints_progress_and_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "first_light.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *updates, path = done.stdout.splitlines()
    assert updates[-1] == "succeeded 100"
    assert Path(path).read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "rushes"], ids=shlex.join)
def test_every_command_parses(words: list[str]) -> None:
    parse(words[1:])


def test_control_a_command_that_is_none_does_not_parse() -> None:
    with pytest.raises(BadRequest):
        parse(["generate", "x", "--length", "5"])


def test_every_verb_is_shown() -> None:
    with pytest.raises(BadRequest) as refused:
        parse(["none"])
    verbs = set(re.findall(r"'([\w-]+)'", refused.value.detail)) - {"none"}
    assert verbs == {words[1] for words in commands() if words[0] == "rushes"}


def test_the_exit_codes_are_those_of_help() -> None:
    shown = re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE)
    assert shown == re.findall(r"^ +(\d+)  (.+)$", EXIT_CODES, re.MULTILINE)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    texts = README + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    shown = set(re.findall(r"`make ([a-z-]+)", texts))
    assert {"demo", "test", "check"} <= shown <= targets


def test_the_bodies_are_requests() -> None:
    bodies = [words[words.index("--json") + 1] for words in commands() if words[0] == "curl" and "--json" in words]
    assert bodies
    for body in bodies:
        checked(msgspec.json.decode(body, type=VideoRequest))


def test_the_frames_are_frames_and_their_events_are_events() -> None:
    lines = [line for block in blocks("frames") for line in block.splitlines()]
    assert {line[:2] for line in lines} == {"> ", "< "}
    for line in lines:
        if line.startswith(">"):
            read_frame(line[2:])
            continue
        frame: ServerFrame = msgspec.json.decode(line[2:], type=ServerFrame)
        for item in frame.items if isinstance(frame, Events) else ():
            event = msgspec.json.decode(item, type=EventView)
            DECODERS[event.type, 1](bytes(event.data))


def test_the_error_is_what_the_server_would_say() -> None:
    for text in blocks("json"):
        problem = msgspec.json.decode(text, type=Problem)
        with pytest.raises(BadRequest, match=re.escape(problem.detail)):
            checked(VideoRequest())


def test_the_providers_are_those_that_are_installed() -> None:
    adapters = installed_adapters()
    shown = set(re.findall(r"^\| `(\w+)` \|", README.partition("## This release")[2], re.MULTILINE))
    assert shown == set(adapters)
    for adapter in adapters.values():
        auth = adapter.capabilities.auth
        names = [adapter.capabilities.models[0].id, *(auth.env if auth else ())]
        assert [name for name in names if f"`{name}`" not in README] == []


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text[:200]
    assert "END OF TERMS AND CONDITIONS" in text
    assert "limitations under the License." in text
