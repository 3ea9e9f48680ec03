"""What the page about keys shows is what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rushes.api.auth import FILE, SCOPES, USUAL
from rushes.api.protocol import STATUS, Close, read_frame
from rushes.cli.arguments import parse
from rushes.faults import Code

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    parse(shlex.split(line, comments=True)[1:])


def test_every_scope_is_explained() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == SCOPES
    assert f"it may {' and '.join(USUAL)}" in PAGE
    assert f"`{FILE}`" in PAGE


def test_every_denial_has_its_status() -> None:
    told: list[tuple[str, Code]] = re.findall(r"^\| (\d+) `(\w+)` \|", PAGE, re.MULTILINE)
    assert {code: int(status) for status, code in told} == {code: STATUS[code] for _, code in told}
    assert len(told) == 4
    assert f"closed with {Close.UNAUTHORISED}" in PAGE


def test_the_hello_with_a_token_can_be_read() -> None:
    (frame,) = re.findall(r'`(\{"type": "hello".*?\})`', PAGE)
    assert read_frame(frame)
