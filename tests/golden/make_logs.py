"""Writes down what jobs leave in the log: every registered provider, before its twin, in virtual time.

    python tests/golden/make_logs.py            writes logs/PROVIDER.txt beside this file: review their diff
    python tests/golden/make_logs.py --print    the same on stdout, with a digest of each job's last state; no file

A line is an event: its version, the seconds since the job began, its type, the version of its shape, its meta and its
data. The same code writes the same bytes, on every machine and Python. So a line that differs is a change of what
providers are asked, of how their answers are read, or of what a job makes of them. Old files are in the history, and
`jobs-v1.db` has what a release wrote.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from msgspec import Struct
from structlog.testing import capture_logs

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.job import replay
from rushes.adapters.base import Adapter, FlowName, Keep, Request, Response, Sink, Tap, Transport
from rushes.adapters.callbacks import Callbacks
from rushes.emulators.faults import ExpiredUrl, FailedJob, LineRule, Moderated, RateLimit, TwinRule
from rushes.eventstore.base import Recorded
from rushes.main import installed_adapters, installed_emulators
from rushes.testing import wires
from rushes.testing.crashes import Point, live_through
from rushes.testing.orders import Order, plainest
from rushes.testing.wires import EPOCH_S, KEY, WRONG_KEY, Pair, Wire, with_own_clips
from rushes.units import AssetRef
from rushes.video import OPERATIONS, Target

Log: TypeAlias = Sequence[Recorded]
Logs: TypeAlias = Mapping[str, Log]  # of one provider, by what happens to the job

FOLDER: Final = Path(__file__).with_name("logs")
COMMAND: Final = "python tests/golden/make_logs.py"
HEAD: Final = f"What jobs of {{}} leave in the log. Made by `{COMMAND}`: review its diff.\n"
TITLE: Final = "\n## "
CALLBACKS: Final = Callbacks("https://studio.example", b"k" * 32)
DEATHS: Final[Mapping[str, Sequence[Point]]] = {"E": ("after",)}  # before or after its accept, E knows the same
SOON_S: Final = 3.0  # while it runs
LATE_S: Final = 3_600.0  # once it has ended, or is parked


class Life(Struct, frozen=True, kw_only=True):
    """What happens to one job."""

    order: Order
    rules: tuple[LineRule | TwinRule, ...] = ()
    key: str = KEY
    point: Point | None = None
    callbacks: Callbacks | None = None
    wishes: Mapping[float, m.Command] = {}


def pairs() -> dict[str, Pair]:
    """Every registered provider before its twin; once more where it can be told more than it must."""
    return wires.pairs(installed_adapters(), installed_emulators())


def lives(pair: Pair) -> dict[str, Life]:
    """One job of each operation, and one for each way that a job can go."""
    plain = [with_own_clips(pair, order) for order in plainest(pair.adapter.capabilities)]
    told = {OPERATIONS[type(order.spec.operation)]: Life(order=order) for order in reversed(plain)}
    told = dict(sorted(told.items()))
    first, words = plain[0], next((order for order in plain if order.spec.prompt), plain[0])
    wire = Wire(pair)
    faults: dict[str, TwinRule] = {
        "moderated, hidden": Moderated(),
        "failed": FailedJob(),
        "expired once": ExpiredUrl(times=1),
        "expired": ExpiredUrl(),
    }
    for name, rule in faults.items():
        if rule.do in wire.twin.can:
            told[name] = Life(order=words, rules=(rule,), wishes={LATE_S: m.Hide()} if "hidden" in name else {})
    told["rate_limit"] = Life(order=first, rules=(RateLimit(on="submit", retry_after=7.0, times=1),))
    if pair.adapter.capabilities.auth is not None:
        told["wrong key"] = Life(order=first, key=WRONG_KEY)
    told["cancel"] = Life(order=first, wishes={SOON_S: m.Cancel()})
    for doubt, order in {wire.terms(order).doubt: order for order in reversed(plain)}.items():
        for point in DEATHS.get(doubt, ("before", "after")):
            told[f"class {doubt}, dies {point} the accept"] = Life(order=order, point=point)
        if doubt == "E":
            again = m.Resubmit(accept_cost=True)
            told["class E, sent again by a person"] = Life(order=order, point="lost", wishes={LATE_S: again})
    if pair.adapter.capabilities.webhook:
        told["callback, dies after the accept"] = Life(order=words, point="after", callbacks=CALLBACKS)
    return told


def lived(pair: Pair, life: Life) -> Log:
    """The log of one job."""
    wire = Wire(pair, *life.rules, key=life.key)
    with capture_logs():
        return live_through(
            wire,
            life.order,
            life.point,
            callbacks=life.callbacks,
            wishes=life.wishes,
            recorder=Counting(),
        ).log


def logs(pair: Pair) -> Logs:
    """Those of all jobs of a provider."""
    return {name: lived(pair, life) for name, life in lives(pair).items()}


class Counting:
    """Numbers exchanges: an event shows how many it took. See Recorder."""

    def __init__(self) -> None:
        self.count = 0

    def tap(self, job: str, attempt: int, trace: str = "") -> Tap:  # noqa: ARG002
        """See Recorder."""
        return _Tap(self)


class _Tap:
    def __init__(self, counting: Counting) -> None:
        self.counting, self.ids = counting, list[int]()

    def on(self, line: Transport, flow: FlowName) -> Transport:  # noqa: ARG002
        return _Line(line, self)

    def count(self) -> None:
        self.counting.count += 1
        self.ids.append(self.counting.count)


class _Line:
    def __init__(self, line: Transport, tap: _Tap) -> None:
        self._line, self._tap = line, tap

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        self._tap.count()
        return await self._line.send(adapter, target, request)

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        self._tap.count()
        return await self._line.keep(adapter, target, ask, sink)


# ── The files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def written(name: str, made: Logs) -> str:
    """A provider's file."""
    jobs = [f"{TITLE}{about}\n" + "".join(map(_line, log)) for about, log in made.items()]
    return "".join([HEAD.format(name), *jobs])


def _line(event: Recorded) -> str:
    meta = (event.meta or b"{}").decode()
    return f"{event.version} {event.at - EPOCH_S:.3f} {event.type} v{event.v} {meta} {event.data.decode()}\n"


def read(text: str) -> Logs:
    """The logs in a file."""
    jobs = (part.splitlines() for part in text.split(TITLE)[1:])
    return {title: [_event(line) for line in lines] for title, *lines in jobs}


def _event(line: str) -> Recorded:
    version, at, kind, v, meta, data = line.split(" ", 5)
    return Recorded(
        position=int(version),
        stream=1,
        version=int(version),
        type=kind,
        v=int(v[1:]),
        at=round(EPOCH_S + float(at), 3),
        data=data.encode(),
        meta=meta.encode(),
        tenant=1,
        token=1,
    )


def files() -> dict[str, Path]:
    """Where each provider's stand."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.txt"))}


def parting(name: str, kept: str, made: str) -> Iterator[str]:
    """Each job of a provider that is not as it was written down, and the first of its events that differs."""
    before, now = ({title: lines for title, *lines in _jobs(text)} for text in (kept, made))
    for job in {**before, **now}:
        old, new = before.get(job), now.get(job)
        if old is None or new is None:
            yield f"{name}, {job}: the job is {'new' if old is None else 'gone'}"
        elif old != new:
            place = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            yield f"{name}, {job}, event {place + 1}:\n  - {_at(old, place)}\n  + {_at(new, place)}"


def _jobs(text: str) -> list[list[str]]:
    return [part.splitlines() for part in text.split(TITLE)[1:]]


def _at(lines: Sequence[str], place: int) -> str:
    return lines[place] if place < len(lines) else "nothing"


# ── What follows from them ────────────────────────────────────────────────────────────────────────────────────────────


def digest(log: Log) -> str:
    """Of a job's last state, as all its fields tell it."""
    state = replay([(codec.decode(event), event.at) for event in log])
    return hashlib.sha256(repr(state).encode()).hexdigest()


def everything() -> str:
    """All files, and the digest of each job's state."""
    made = {name: logs(pair) for name, pair in pairs().items()}
    states = [f"{digest(log)}  {name}, {job}\n" for name, jobs in made.items() for job, log in jobs.items()]
    return "".join([*(written(name, jobs) for name, jobs in made.items()), "\n", *states])


def _write() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = {name: written(name, logs(pair)) for name, pair in pairs().items()}
    for name, file in files().items():
        if name not in made:
            file.unlink()
    for name, text in made.items():
        (FOLDER / f"{name}.txt").write_text(text, "utf-8", newline="\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.stdout.buffer.write(everything().encode())
    elif sys.argv[1:]:
        raise SystemExit(f"I know only --print. See {COMMAND}.")
    else:
        _write()
