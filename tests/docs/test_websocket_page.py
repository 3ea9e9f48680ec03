"""What the page about the live stream says is what there is: frames, limits, close codes, commands and clients."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec

from rushes.actors.codec import DECODERS
from rushes.api import commands
from rushes.api.feed import BATCH, FRAME_BYTES
from rushes.api.protocol import (
    FRAMES,
    MAX_JOBS,
    MAX_SNAPSHOTS,
    Close,
    CommandName,
    Events,
    ServerFrame,
    Subscribe,
    Subscribed,
    read_frame,
)
from rushes.api.stream import Limits
from rushes.video import EventView

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "websocket.md").read_text("utf-8")
SCRIPT = (ROOT / "src" / "rushes" / "api" / "page" / "rushes.js").read_text("utf-8")


def table(head: str) -> dict[str, list[str]]:
    """The rows of the table that begins with this head, by their first cell."""
    _, _, rest = PAGE.partition(f"| {head} |")
    rows = [line.strip("| \n").split(" | ") for line in rest.partition("\n\n")[0].splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_conversation_is_one_with_every_kind_of_frame_of_a_client() -> None:
    (block,) = re.findall(r"^```frames\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    said: set[str] = set()
    for line in block.splitlines():
        if line.startswith("> "):
            said.add(str(read_frame(line[2:]).__struct_config__.tag))
            continue
        frame: ServerFrame = msgspec.json.decode(line.removeprefix("< "), type=ServerFrame)
        for item in frame.items if isinstance(frame, Events) else ():
            event = msgspec.json.decode(item, type=EventView)
            DECODERS[event.type, 1](bytes(event.data))
    assert said == {*FRAMES}


def test_the_limits_are_the_defaults() -> None:
    told = {name.removeprefix("ws_"): float(row[0]) for name, row in table("setting").items()}
    assert told == msgspec.to_builtins(Limits())


def test_the_close_codes_are_those_there_are() -> None:
    assert {int(code) for code in table("close code")} == {*Close} | {1009}


def test_the_commands_and_what_they_need_are_those_there_are() -> None:
    told = {name: row[-1] for name, row in table("`name`").items()}
    assert told == commands.NEEDS
    assert {*told} == {*get_args(CommandName)}


def test_the_fields_are_those_there_are() -> None:
    assert {*table("field of `subscribe`")} == {*Subscribe.__struct_encode_fields__}
    assert {*table("field")} == {*Subscribed.__struct_encode_fields__} - {"id"}
    sizes = [f"1 to {MAX_JOBS} jobs", f"0 to {MAX_SNAPSHOTS},", f"{BATCH} positions", f"{FRAME_BYTES // 1024} KiB"]
    assert [size for size in sizes if size not in PAGE] == []


def test_the_scripts_methods_are_shown_and_it_needs_nothing() -> None:
    assert "import " not in re.sub(r"^//.*$", "", SCRIPT, flags=re.MULTILINE)
    methods = {*re.findall(r"^  (?:async )?\*?(\w+)\(", SCRIPT, re.MULTILINE)} - {"constructor"}
    assert {"follow", "updates", "generate", "show", "poll", "cancel", "collect", "close"} <= methods
    assert {*re.findall(r"rushes\.(\w+)\(", PAGE)} <= methods


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link]
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
