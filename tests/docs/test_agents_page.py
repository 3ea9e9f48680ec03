"""What docs/agents.md shows runs as it stands, and its table is the tools that there are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

from rushes.cli.arguments import parse
from rushes.tools import LONGEST_WAIT_S, Desk, tools_of

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def ran(program: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_table_has_every_tool_in_its_order() -> None:
    shown = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert shown == list(tools_of(cast("Desk", None)))
    assert f"at most {LONGEST_WAIT_S:g} seconds" in PAGE


def test_the_program_makes_a_video_and_is_told_what_is_wrong(tmp_path: Path) -> None:
    made, wrong = ran(blocks("python")[0], tmp_path)
    assert re.fullmatch(r"succeeded file:///.+\.mp4", made)
    assert wrong.endswith("billed: no")


def test_the_definitions_are_made(tmp_path: Path) -> None:
    assert ran(f"import asyncio\n{blocks('python')[1]}\nasyncio.run(definitions())", tmp_path) == []


def test_the_entry_starts_a_command_that_there_is() -> None:
    for block in blocks("json"):
        for entry in json.loads(block)["mcpServers"].values():
            assert (entry["command"], parse(entry["args"]).verb) == ("rushes", "mcp")
