"""What people see: plain aligned text, one progress line, one sentence when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import time
from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Final, TextIO

import msgspec
from msgspec import Struct

from rushes.units import Billed, Money
from rushes.video import EstimateView, JobView, LimitsView, ModelView, ProviderView, TakeView

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

    def progress(self, usual_s: float | None = None, names: Sequence[str] = ()) -> Progress:
        """Progress on stderr. `usual_s`: how long such jobs took before; `names`: those of a batch's requests."""
        return Progress(self._err, usual_s, names, silent=self.as_json)

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        stream.write(f"{text}\n")
        stream.flush()


class Progress:
    """A line a job, rewritten in place on a terminal; elsewhere a new line whenever something changed."""

    def __init__(
        self, stream: TextIO, usual_s: float | None = None, names: Sequence[str] = (), *, silent: bool = False
    ) -> None:
        """`names`: of the requests of a batch, by their places in it; empty where there is one job alone."""
        self._stream, self._silent, self._tty = stream, silent, stream.isatty()
        self._usual_s, self._names = usual_s, names
        self._views: dict[str, JobView] = {}
        self._shown: dict[str, tuple[str, int | None]] = {}
        self._drawn = 0  # lines

    def show(self, view: JobView) -> None:
        """Show a job as it is now."""
        self._views[view.id] = view
        if self._silent:
            return
        if self._tty:
            self._draw()
        elif self._shown.get(view.id) != (shown := (view.phase, view.progress)):
            self._shown[view.id] = shown
            self._stream.write(f"{self._line(view)}\n")
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
        terminal = shutil.get_terminal_size()
        lines = self._lines(terminal.lines - 2)
        up = f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else ""
        self._stream.write(up + "\n".join(f"\r\x1b[K{line[: terminal.columns - 1]}" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _lines(self, room: int) -> list[str]:
        """A batch has a line above it. Where not all have room, those that have ended give theirs up."""
        views = sorted(self._views.values(), key=_place)
        if not self._names:
            return [self._line(view) for view in views]
        head = f"{sum(map(at_rest, views))} of {len(self._names)} done"
        shown = views if len(views) <= room else sorted(views, key=at_rest)[:room]
        return [head, *(self._line(view) for view in shown)]

    def _line(self, view: JobView) -> str:
        name = f"{self._names[_place(view)]:>8}  " if self._names else ""
        return name + progress_line(view, time.time(), self._usual_s)


def _place(view: JobView) -> int:
    return view.batch.index if view.batch is not None else 0


def at_rest(view: JobView) -> bool:
    """Nothing more will happen by itself: it has ended, or waits for a person."""
    return view.ended or bool(view.attention)


def progress_line(view: JobView, now: float, usual_s: float | None = None) -> str:
    """Phase, percent, elapsed, time left, cost: what there is of it. `usual_s`: how long such jobs took before."""
    elapsed_s = max(0.0, now - view.created_at.timestamp())
    elapsed = f"{clock(elapsed_s)} elapsed"
    if view.note:
        return f"{view.phase:<10} {elapsed}: {plain(view.note)}"
    bar = " " * (BAR_CELLS + 8)
    if view.progress is not None:
        done = "#" * (BAR_CELLS * view.progress // 100)
        bar = f"[{done:.<{BAR_CELLS}}] {view.progress:>3} % "
    parts = [elapsed, _left(view, elapsed_s, usual_s), cost(view)]
    return f"{view.phase:<10} {bar} {', '.join(part for part in parts if part)}"


def _left(view: JobView, elapsed_s: float, usual_s: float | None) -> str:
    """By those before it; once it takes longer than they did, by its own percent."""
    left_s = view.eta_seconds if view.progress else None
    if usual_s is not None and usual_s > elapsed_s:
        left_s = usual_s - elapsed_s
    return f"{clock(left_s)} left" if left_s and not view.ended else ""


def cost(view: JobView) -> str:
    """What it cost; or, until that is known, may cost at the most. Empty where it is free or nobody knows."""
    if view.cost is not None:
        return usd(view.cost) if view.cost.micro_usd else ""
    return f"at most {usd(view.estimate)}" if view.estimate and view.estimate.micro_usd and not view.ended else ""


def usual_s(before: Sequence[JobView], like: JobView) -> float | None:
    """How long such jobs took from their beginning to their takes, the middle one; None where fewer than three tell."""
    took = [(view.updated_at - view.created_at).total_seconds() for view in before if _kind(view) == _kind(like)]
    return statistics.median(took) if len(took) >= 3 else None


def _kind(view: JobView) -> tuple[object, ...]:
    """What jobs have in common that take about as long."""
    return view.provider, view.model, view.operation, view.request.duration_seconds, view.request.resolution


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
    facts: list[str] = [take.kind] if take.kind != "video" else []
    facts += [f"{take.width}×{take.height}"] if take.width and take.height else []
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


def estimate_sheet(view: EstimateView) -> str:
    """What it would cost, and what was decided for the caller."""
    most = "" if view.sends == 1 else f"; it may be sent, and paid, {view.sends} times"
    facts = {
        "cost": f"at most {usd(view.cost)}{most}" if view.cost and view.cost.micro_usd else f"{view.price}{most}",
        "price of": f"{view.cost.as_of}, {view.cost.source}" if view.cost and view.cost.as_of else "",
        "model": model_name(view),
        "operation": view.operation,
        "seconds": "" if view.request.duration_seconds is None else f"{view.request.duration_seconds:g}",
        "shape": view.request.aspect_ratio or "",
        "lines": view.request.resolution or "",
        "done another way": "; ".join(view.request.emulated),
    }
    return aligned([(name, fact) for name, fact in facts.items() if fact])


def usd(money: Money) -> str:
    """0.4 USD."""
    return f"{money.micro_usd / 1e6:.4g} USD"


def model_name(view: JobView | EstimateView) -> str:
    """As `--model` takes it."""
    return view.model if view.model == view.provider else f"{view.provider}/{view.model}"


def job_sheet(view: JobView) -> str:
    """All about one job that is there to tell."""
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
        "cost": cost(view),
        **{name.replace("_", " "): plain(told) for name, told in view.metadata.items()},
    }
    takes = [row for take in view.takes for row in ((f"take {take.index}", take_line(take)), ("file", take.path))]
    return aligned([*((name, fact) for name, fact in facts.items() if fact), *takes])
