"""Many requests from one file: all of them begin, or none does, and they are followed together."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.cli.arguments import Asked, Exit
from rushes.cli.desk import Desk, owning
from rushes.cli.screen import Screen, aligned, at_rest
from rushes.cli.verbs import judged
from rushes.faults import BadRequest, Fault, RushesError, bad
from rushes.main import Settings
from rushes.video import BatchedRequest, BatchView, JobView, decode

WORST_FIRST: Final = (Exit.NEEDS_A_PERSON, Exit.FAILED, Exit.CANCELLED, Exit.OK)
_WHERE: Final = re.compile(r"requests\[(\d+)\]\.?(.*)", re.DOTALL)
_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Line(Struct, frozen=True):
    """A request as the file has it."""

    name: str  # line 3, or item 3 of a list
    text: bytes


class Made(Struct, frozen=True, kw_only=True):
    """What `--json` prints: the batch's id, and its jobs in the order of the file."""

    batch: str
    jobs: list[JobView]


async def batch(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Begin a job for each request of a file, and unless told otherwise wait for all of them."""
    lines = _lines(asked.file or "")
    asked = replace(asked, idempotency_key=asked.idempotency_key or uuid4().hex)
    async with owning(settings) as desk:
        begun, repeated = await _begin(lines, desk, asked, screen)
        if asked.no_wait:
            views = [await desk.show(job) for job in begun.jobs]
            screen.result(Made(batch=begun.id, jobs=views), begun.id)
            screen.note(f"To look at it: {_command(asked, 'list', '--batch', begun.id)}")
            screen.note(f"To follow it, and to run it on if no server does: {_again(asked)}")
            return Exit.OK
        screen.note(f"{begun.id} {'was begun before: going on' if repeated else 'begun'}")
        views = await _follow(begun, lines, desk, asked, screen)
    rows = [("REQUEST", "JOB", "PHASE", "FILE"), *map(_row, lines, views)]
    screen.result(Made(batch=begun.id, jobs=views), aligned(rows))
    codes = {judged(view, screen, line.name) for line, view in zip(lines, views, strict=True)}
    return next(code for code in WORST_FIRST if code in codes)


def _row(line: Line, view: JobView) -> tuple[str, ...]:
    return line.name, view.id, view.phase, ", ".join(take.path for take in view.takes)


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _lines(file: str) -> list[Line]:
    """The requests of a file, not looked at yet. Raises BadRequest where it is no such file."""
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise bad("file", f"{file!r} cannot be read: {error.strerror}.") from error
    if not text.lstrip().startswith(b"["):
        return [Line(f"line {n}", line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        return [Line(f"item {n}", bytes(item)) for n, item in enumerate(_items(text), 1)]
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad("file", f"{file!r} begins as a JSON list and is none: {error}.") from error


async def _begin(lines: Sequence[Line], desk: Desk, asked: Asked, screen: Screen) -> tuple[BatchView, bool]:
    """Begin all of it, or raise BadRequest naming every line that is wrong and begin nothing."""
    requests = await _requests(lines, desk)
    try:
        return await desk.submit_batch(requests, asked.idempotency_key)
    except (RushesError, asyncio.CancelledError) as error:
        if isinstance(error, BadRequest):
            error.faults = tuple(_by_line(fault, lines) for fault in error.faults)
        if not isinstance(error, RushesError) or error.billed != "no":
            screen.note(f"Some of it may have begun. To begin the rest, and nothing twice: {_again(asked)}")
        raise


async def _requests(lines: Sequence[Line], desk: Desk) -> list[BatchedRequest]:
    """The requests of the lines. Where one cannot be read, what is wrong with the others is told as well."""
    read = [_read(line) for line in lines]
    requests = [one for one in read if isinstance(one, BatchedRequest)]
    if len(requests) == len(read):
        return requests
    raise BadRequest(
        [
            _told(fault, place, lines[place])
            for place, one in enumerate(read)
            for fault in (one.faults if isinstance(one, BadRequest) else await _faults(one, desk))
        ]
    )


def _read(line: Line) -> BatchedRequest | BadRequest:
    try:
        return decode(line.text, BatchedRequest)
    except BadRequest as error:
        return error


async def _faults(request: BatchedRequest, desk: Desk) -> Sequence[Fault]:
    """What a submit would refuse, without one."""
    try:
        await desk.estimate(request.plain)
    except BadRequest as error:
        return error.faults
    return ()


def _by_line(fault: Fault, lines: Sequence[Line]) -> Fault:
    """A fault of one of the requests under the name of its line."""
    match = _WHERE.fullmatch(fault.field)
    if match is None:
        return fault
    place = int(match[1])
    detail = fault.detail.removeprefix(f"requests[{place}]: ")
    return _told(replace(fault, field=match[2], detail=detail), place, lines[place])


def _told(fault: Fault, place: int, line: Line) -> Fault:
    where, field = f"requests[{place}]", fault.field
    detail = f"{line.name}{field and f', {field}'}: {fault.detail}"
    return replace(fault, field=f"{where}.{field}" if field else where, detail=detail)


# ── how it goes ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _follow(begun: BatchView, lines: Sequence[Line], desk: Desk, asked: Asked, screen: Screen) -> list[JobView]:
    """Show the jobs until all of them are at rest; they come in the order of the lines."""
    views: dict[str, JobView] = {}
    progress = screen.progress(names=[line.name for line in lines])
    try:
        with progress.ticking():
            async with aclosing(desk.updates_of(begun.jobs)) as updates:
                async for view in updates:
                    views[view.id] = view
                    progress.show(view)
                    if len(views) == len(lines) and all(map(at_rest, views.values())):
                        break
    except asyncio.CancelledError:
        screen.note(f"Interrupted. The jobs stay; to go on: {_again(asked)}")
        raise
    return [views[job] for job in begun.jobs]


def _again(asked: Asked) -> str:
    """The command that goes on with the batch: what has begun is found again by its key."""
    return _command(asked, "batch", asked.file or "", "--idempotency-key", asked.idempotency_key)


def _command(asked: Asked, *words: str) -> str:
    return shlex.join(["rushes", *words, *(["--data", asked.data] if asked.data else [])])
