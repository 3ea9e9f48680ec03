"""Lines of styled bits, and the paper that they are put on.

On a terminal where rich is installed they are coloured, else they are plain text; they are never wider than the paper.
"""

from __future__ import annotations

import io
import os
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Final, Literal, NamedTuple, TextIO, TypeAlias
from unicodedata import combining, east_asian_width

from msgspec import Struct

from rushes.cli.screen import plain

Style: TypeAlias = Literal["", "dim", "bold", "good", "bad", "warn", "name"]


class Bit(NamedTuple):
    """Some letters of a line."""

    text: str
    style: Style = ""


Line: TypeAlias = tuple[Bit, ...]
COLOURS: Final[Mapping[Style, str]] = {
    "": "",
    "dim": "dim",
    "bold": "bold",
    "good": "green",
    "bad": "red",
    "warn": "yellow",
    "name": "cyan",
}
NARROWEST: Final = 40
HANGING: Final = 6  # cells before a text whose name has no room beside it


class Paper(Struct, frozen=True):
    """What lines are put on."""

    width: int = 80  # in cells
    coloured: bool = False


def paper(stream: TextIO) -> Paper:
    """A stream's: as wide as the terminal, or as COLUMNS says, and 80 where nobody knows."""
    width = max(shutil.get_terminal_size((80, 24)).columns, NARROWEST)
    colourless = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return Paper(width, coloured=not colourless and find_spec("rich") is not None)


def paint(lines: Iterable[Line], on: Paper) -> str:
    """The lines as text, each cut where the paper ends."""
    there = [_cut_line(line, on.width) for line in lines]
    if on.coloured:
        return _coloured(there, on.width)
    return "\n".join("".join(bit.text for bit in line).rstrip() for line in there)


def _coloured(lines: Sequence[Line], width: int) -> str:
    from rich.console import Console  # noqa: PLC0415 - an extra
    from rich.text import Text  # noqa: PLC0415

    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, color_system="standard", no_color=False, width=width, highlight=False
    )  # whether colours are wanted was decided before
    for line in lines:
        text = Text.assemble(*((bit.text, COLOURS[bit.style]) for bit in line))
        text.rstrip()
        console.print(text, no_wrap=True, overflow="ignore", crop=False)
    return out.getvalue().removesuffix("\n")


def _cut_line(line: Line, room: int) -> Line:
    line = tuple(Bit(plain(bit.text), bit.style) for bit in line)
    if sum(cells(bit.text) for bit in line) <= room:
        return line
    kept: list[Bit] = []
    for bit in line:
        kept.append(Bit(_beginning(bit.text, room - 1), bit.style))
        room -= cells(bit.text)
        if room < 1:
            break
    return (*kept, Bit("…", kept[-1].style))


def cells(text: str) -> int:
    """How many columns of a terminal it takes: letters of some scripts take two."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(letter: str) -> int:
    return 0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1


def cut(text: str, room: int) -> str:
    """Its beginning, and … where there was more."""
    return text if cells(text) <= room else f"{_beginning(text, room - 1)}…" if room > 0 else ""


def shortened(text: str, room: int) -> str:
    """Its beginning and its end, and … where there was more between them."""
    text, end = plain(text), max(room // 3, 1)
    return text if cells(text) <= room else f"{cut(text[:-end], room - end)}{text[-end:]}"


def _beginning(text: str, room: int) -> str:
    for place, letter in enumerate(text):
        room -= _cell(letter)
        if room < 0:
            return text[:place]
    return text


def padded(text: str, width: int) -> str:
    """Cut, or filled, to so many cells."""
    text = cut(plain(text), width)
    return text + " " * (width - cells(text))


def whole(first: Bit, text: str, on: Paper) -> Iterator[Line]:
    """A text however long it is: what has no room goes on below its own beginning."""
    indent, text = cells(first.text), plain(text)
    if on.width // 2 < indent and on.width - indent < cells(text):
        yield (first,)
        indent, first = HANGING, Bit(" " * HANGING)
    while True:
        taken = _beginning(text, on.width - indent)
        yield first, Bit(taken)
        first, text = Bit(" " * indent), text[len(taken) :]
        if not text:
            return


def sentence(text: str, on: Paper, indent: str = "") -> Iterator[Line]:
    """Words for people, wrapped between them."""
    for line in textwrap.wrap(plain(text), on.width, initial_indent=indent, subsequent_indent=indent):
        yield (Bit(line),)
