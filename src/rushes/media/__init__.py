"""Looking into pictures and videos that strangers sent, and drawing the local model's clips: always in a child process.

This half runs in the parent. It never imports av or Pillow: the extra may be missing, and foreign files are opened only
where a crash, a loop or a takeover costs nothing. The child's half is `__main__`, what it draws is `scene`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from rushes.faults import MEDIA_EXTRA, Code, ExtraMissing, RushesError
from rushes.video import Probe

WALL_S = 20.0
BLOCK_BYTES = 256 * 1024


class MediaTrouble(RushesError):
    """The file is not a picture or video that can be read."""

    code: Code = "invalid_input"


class Unexamined(MediaTrouble):
    """The file could not be looked at: it takes too long, or ends the process that looks."""


class Answer(Struct, omit_defaults=True):
    """The one line that a looking child prints."""

    probe: Probe = Probe()
    size: tuple[int, int] = (0, 0)
    size_bytes: int = 0  # of what follows the line
    trouble: str = ""


def available() -> bool:
    """Whether the media extra is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("av", "PIL"))


async def probe(path: Path, *, wall_s: float = WALL_S) -> Probe:
    """What a video file says of itself. Raises MediaTrouble when it is no whole mp4 or webm."""
    return (await _ask("probe", path, wall_s)).probe


async def probe_audio(path: Path, media_type: str, *, wall_s: float = WALL_S) -> Probe:
    """How long an audio file is, by all its packets. Raises MediaTrouble when it is not one of that media type."""
    return (await _ask("audio", path, wall_s, media_type)).probe


async def check_image(path: Path, *, wall_s: float = WALL_S) -> tuple[int, int]:
    """Width and height of a picture that was decoded to its last pixel. Raises MediaTrouble when it cannot be."""
    return (await _ask("image", path, wall_s)).size


async def reencoded(path: Path, media_type: str, *, wall_s: float = WALL_S) -> AsyncGenerator[bytes, None]:
    """A picture as another media type (png, jpeg or webp), piece by piece: upright, and of an animation the first.

    Raises MediaTrouble when it cannot be read, also behind the first pieces.
    """
    deadline = asyncio.get_running_loop().time() + wall_s
    async with _child("reencode", path, media_type) as output:
        async with _until(deadline, wall_s):
            left = _answer(await output.readline()).size_bytes
        while left:
            async with _until(deadline, wall_s):
                piece = await output.read(min(left, BLOCK_BYTES))
            if not piece:
                raise _broken()
            left -= len(piece)
            yield piece


async def _ask(verb: str, path: Path, wall_s: float, *more: str) -> Answer:
    async with _child(verb, path, *more) as output, _until(asyncio.get_running_loop().time() + wall_s, wall_s):
        return _answer(await output.readline())


@asynccontextmanager
async def _until(deadline: float, wall_s: float) -> AsyncGenerator[None, None]:
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as error:
        raise Unexamined(f"The file took longer than {wall_s:g} s to examine: it is refused.") from error


@asynccontextmanager
async def _child(verb: str, path: Path, *more: str) -> AsyncGenerator[asyncio.StreamReader, None]:
    """What a child prints; whatever happens (too slow, cancelled), it is gone when this ends."""
    if not available():
        raise ExtraMissing(MEDIA_EXTRA)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "rushes.media", verb, str(path), *more),
        stdin=asyncio.subprocess.PIPE,  # held open: the child ends when it closes
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # and no keys
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        yield child.stdout
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.communicate()


def _answer(line: bytes) -> Answer:
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError as error:
        raise _broken() from error
    if answer.trouble:
        raise MediaTrouble(answer.trouble)
    return answer


def _broken() -> Unexamined:
    return Unexamined("The file broke the process that examined it: it is refused.")
