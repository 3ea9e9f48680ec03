"""What people see: plain aligned text, one progress line, one sentence when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Final, TextIO

import msgspec
from msgspec import Struct

from rushes.units import Billed
from rushes.video import JobView, ProviderView, TakeView

BAR_CELLS: Final = 24
REDRAW_S: Final = 0.5


class Complaint(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What `--json` prints on stderr instead of a sentence."""

    code: str
    detail: str
    field: str = ""
    job_id: str = ""
    idempotency_key: str = ""
    billed: Billed


class Screen:
    """Results go to `out`, everything else to `err`."""

    def __init__(self, out: TextIO, err: TextIO, *, as_json: bool) -> None:
        self.as_json = as_json
        self._out, self._err = out, err

    def result(self, value: object, text: str) -> None:
        """Answer: the value as one JSON document, or the text."""
        self._write(self._out, msgspec.json.encode(value).decode() if self.as_json else text)

    def note(self, text: str) -> None:
        """Tell a person something by the way."""
        if not self.as_json:
            self._write(self._err, text)

    def complain(self, complaint: Complaint, option: str = "") -> None:
        """Say what went wrong, and which option it is about."""
        about = f"{option}: " if option else ""
        detail = complaint.detail
        if complaint.billed != "no":
            detail = f"{detail.removesuffix('.')} (billed: {complaint.billed})."
        sentence = f"rushes: {about}{detail}"
        self._write(self._err, msgspec.json.encode(complaint).decode() if self.as_json else plain(sentence))

    def progress(self) -> Progress:
        """A progress line on stderr."""
        return Progress(self._err, silent=self.as_json)

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        stream.write(f"{text}\n")
        stream.flush()


class Progress:
    """One line, rewritten in place on a terminal; elsewhere a new line whenever something changed."""

    def __init__(self, stream: TextIO, *, silent: bool = False) -> None:
        self._stream, self._silent, self._tty = stream, silent, stream.isatty()
        self._view: JobView | None = None
        self._shown: tuple[str, int | None] | None = None

    def show(self, view: JobView) -> None:
        """Show the job as it is now."""
        self._view = view
        if self._silent:
            return
        if self._tty:
            self._draw()
        elif self._shown != (shown := (view.phase, view.progress)):
            self._shown = shown
            self._stream.write(f"{progress_line(view, time.time())}\n")
            self._stream.flush()

    @contextlib.contextmanager
    def ticking(self) -> Generator[None]:
        """On a terminal the seconds go on between the updates, and the line is finished at the end."""
        if not self._tty or self._silent:
            yield
            return
        clock = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            clock.cancel()
            self._stream.write("\n")
            self._stream.flush()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(REDRAW_S)
            self._draw()

    def _draw(self) -> None:
        if self._view is not None:
            line = progress_line(self._view, time.time())[: shutil.get_terminal_size().columns - 1]
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()


def at_rest(view: JobView) -> bool:
    """Nothing more will happen by itself: it has ended, or waits for a person."""
    return view.ended or bool(view.attention)


def progress_line(view: JobView, now: float) -> str:
    """Phase, percent, elapsed, time left: what there is of it."""
    elapsed = f"{clock(max(0.0, now - view.created_at.timestamp()))} elapsed"
    if view.note:
        return f"{view.phase:<10} {elapsed}: {plain(view.note)}"
    if view.progress is None:
        return f"{view.phase:<10} {' ' * (BAR_CELLS + 8)} {elapsed}"
    done = "#" * (BAR_CELLS * view.progress // 100)
    left = f", {clock(view.eta_seconds)} left" if view.eta_seconds and not view.ended else ""
    return f"{view.phase:<10} [{done:.<{BAR_CELLS}}] {view.progress:>3} %  {elapsed}{left}"


def clock(seconds: float) -> str:
    """0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(at: datetime) -> str:
    """A time of the log in the reader's own zone."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def instant(at: datetime) -> str:
    """The same to the millisecond."""
    return f"{moment(at)}.{at.microsecond // 1000:03}"


def plain(text: str) -> str:
    """Text that somebody else wrote, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def size(size_bytes: int) -> str:
    """In the unit that suits."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= one:
            return f"{size_bytes / one:.1f} {unit}"
    return f"{size_bytes} bytes"


def take_line(take: TakeView) -> str:
    """1280×720, 5 s, 24 fps, 0.6 MB."""
    facts = [f"{take.width}×{take.height}"] if take.width and take.height else []
    facts += [f"{take.duration_seconds:g} s"] if take.duration_seconds else []
    facts += [f"{take.fps:g} fps"] if take.fps else []
    return ", ".join([*facts, *(["with sound"] if take.has_audio else []), size(take.size_bytes)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def jobs_table(views: Sequence[JobView]) -> str:
    """One line a job."""
    head = ("JOB", "PHASE", "DONE", "MODEL", "BEGUN", "PROMPT")
    return aligned([head, *(_job_row(view) for view in views)])


def _job_row(view: JobView) -> tuple[str, ...]:
    done = "" if view.progress is None else f"{view.progress} %"
    prompt = view.prompt if len(view.prompt) <= 40 else f"{view.prompt[:39]}…"
    return view.id, view.phase, done, model_name(view), moment(view.created_at), plain(prompt)


def providers_table(views: Sequence[ProviderView]) -> str:
    """One line a lane."""
    head = ("PROVIDER", "KEY", "LANE", "SENDING", "WAITING", "JOBS", "POLLS A JOB")
    return aligned([head, *(row for view in views for row in _lane_rows(view))])


def _lane_rows(view: ProviderView) -> list[tuple[str, ...]]:
    if not view.lanes:
        return [(view.name, "", "not used", "", "", "", "")]
    return [
        (
            view.name,
            lane.credential,
            "open" if lane.closed_until is None else f"closed until {moment(lane.closed_until)}: {lane.closed_by}",
            str(lane.sending),
            str(lane.waiting),
            str(lane.jobs),
            "" if lane.polls_per_job is None else str(lane.polls_per_job),
        )
        for lane in view.lanes
    ]


def model_name(view: JobView) -> str:
    """As `--model` takes it."""
    return view.model if view.model == view.provider else f"{view.provider}/{view.model}"


def job_sheet(view: JobView) -> str:
    """All about one job that is there to tell."""
    cost = f"{view.cost.micro_usd / 1e6:.4g} USD" if view.cost and view.cost.micro_usd else ""
    facts = {
        "job": view.id,
        "retry of": view.parent,
        "status": view.status if view.status == view.phase else f"{view.status} ({view.phase})",
        "progress": "" if view.progress is None else f"{view.progress} %",
        "model": model_name(view),
        "prompt": plain(view.prompt),
        "begun": moment(view.created_at),
        "changed": moment(view.updated_at),
        "cancel": "asked for" if view.cancel_requested and not view.ended else "",
        "attention": view.attention,
        "waits": plain(view.note),
        "error": plain(view.error.detail) if view.error else "",
        "billed": view.billed,
        "cost": cost,
    }
    takes = [row for take in view.takes for row in ((f"take {take.index}", take_line(take)), ("file", take.path))]
    return aligned([*((name, fact) for name, fact in facts.items() if fact), *takes])
