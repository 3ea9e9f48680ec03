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
from rushes.video import JobView, LimitsView, ModelView, ProviderView, TakeView

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
    """One line a provider; and one a lane, where there are any."""
    head = ("PROVIDER", "READY", "KEY", "IN DOUBT", "CANCEL", "MODELS")
    rows = [
        (
            view.name,
            "yes" if view.configured else "no",
            view.credential or " or ".join(view.keys) or ("" if view.configured else view.reason),
            view.in_doubt,
            view.cancel,
            view.models[0].id + (f" and {len(view.models) - 1} more" if len(view.models) > 1 else ""),
        )
        for view in views
    ]
    return "\n\n".join([aligned([head, *rows]), *lanes_table(views)])


def lanes_table(views: Sequence[ProviderView]) -> list[str]:
    """One line a lane; nothing where there are none."""
    head = ("LANE OF", "KEY", "LANE", "SENDING", "WAITING", "JOBS", "POLLS A JOB")
    rows = [row for view in views for row in _lane_rows(view)]
    return [aligned([head, *rows])] if rows else []


def provider_sheet(view: ProviderView) -> str:
    """All about one provider: what its models take, and which it no longer has."""
    facts = {
        "provider": view.name,
        "also called": ", ".join(view.aliases),
        "ready": "yes" if view.configured else f"no: {view.reason}",
        "key": view.credential,
        "lost answers": DOUBTS[view.in_doubt],
        "cancelling": CANCELS[view.cancel],
    }
    head = ("MODEL", "DOES", "SECONDS", "SHAPES", "LINES", "INPUTS", "PRICE")
    rows = [row for model in view.models for row in _model_rows(model)]
    gone = [(gone.model, gone.on, gone.replacement) for gone in view.retired]
    parts = [aligned([(name, fact) for name, fact in facts.items() if fact]), aligned([head, *rows])]
    parts += [aligned([("SWITCHED OFF", "ON", "INSTEAD"), *gone])] if gone else []
    return "\n\n".join([*parts, *lanes_table([view])])


DOUBTS: Final = {
    "A": "sent again under the same key (A)",
    "B": "looked up by an id of ours (B)",
    "C": "looked up by a mark of ours (C)",
    "D": "awaited as a callback (D)",
    "E": "nobody can know: parked for a person (E)",
}
CANCELS: Final = {
    "no": "it has no such call: the clip is made, and kept",
    "stops": "stops the work",
    "destroys": "stops the work, and deletes what is finished: so it is looked at first",
}


def _model_rows(model: ModelView) -> list[tuple[str, ...]]:
    return [
        (
            "" if number else model.id,
            ", ".join(row.operations),
            span(row.durations_seconds),
            " ".join(row.aspect_ratios),
            " ".join(row.resolutions),
            inputs(row),
            "" if number else price(model),
        )
        for number, row in enumerate(model.limits)
    ]


def inputs(row: LimitsView) -> str:
    """How many files of each role, and in all where that is less."""
    told = ", ".join(f"{most} {role}" for role, most in row.inputs.items())
    total = row.max_inputs is not None and row.max_inputs < sum(row.inputs.values())
    return f"{told} ({row.max_inputs} in all)" if total else told


def span(values: Sequence[float]) -> str:
    """Numbers as people write them: 1-15 for all between, else each."""
    whole = list(values) == [values[0] + step for step in range(len(values))] if len(values) > 2 else False
    return f"{values[0]:g}-{values[-1]:g}" if whole else " ".join(f"{value:g}" for value in values)


def price(model: ModelView) -> str:
    """What a second or a clip costs, from the least to the most."""
    if model.price is None:
        return "free" if model.free else "not known"
    amounts = dict.fromkeys([model.price.least_micro_usd, model.price.most_micro_usd])
    return f"{' to '.join(f'{amount / 1e6:g}' for amount in amounts)} USD a {model.price.per}"


def _lane_rows(view: ProviderView) -> list[tuple[str, ...]]:
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
