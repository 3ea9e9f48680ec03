"""What docs/eventstore.md shows is what there is: its programs run, its commands parse, its words are in the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rushes.cli.arguments import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "eventstore.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(PAGE) if name == language]


def test_the_programs_run_one_after_the_other_and_print_what_the_page_says(tmp_path: Path) -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        ).stdout.splitlines()
        for program in blocks("python")
    ]
    lines = [[line for line in lines if "sqlite.outdated" not in line] for lines in printed]
    assert lines[0] == blocks("text")[0].splitlines()
    assert lines[1] == ["2 events, 0 findings"]
    assert (tmp_path / "shop-monday.db").is_file()
    assert (tmp_path / "shop.db-marker").is_file()


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_every_command_parses(line: str) -> None:
    parse(shlex.split(line, comments=True)[1:])


def test_every_file_it_names_is_there() -> None:
    for name in re.findall(r"^\| `(.+?)` \|", PAGE.partition("## How it is built")[2], re.MULTILINE):
        for module in name.replace("`", "").split(", "):
            assert (ROOT / "src" / "rushes" / "eventstore" / f"{module}.py").is_file()
