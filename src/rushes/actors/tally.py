"""What is counted for whoever watches the server, in Prometheus' text format (0.0.4).

Counters begin at 0 with the process. A label never holds a job, a prompt or a tenant: models, providers, flows,
outcomes and codes are few.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Literal, TypeAlias

from rushes.actors import messages as m
from rushes.adapters.base import Adapter, Failed, FlowName, Keep, Request, Response, Sink, Transport
from rushes.units import AssetRef, Money
from rushes.video import Target

Labels: TypeAlias = tuple[str, ...]
Sample: TypeAlias = tuple[Mapping[str, str], float]

PREFIX: Final = "rushes_"
LONG_S: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)  # videos take minutes
SHORT_S: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0)


class Histogram:
    """How often a number of seconds lay below each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, seconds: float) -> None:
        """Once more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Tally:
    """All counts of one process."""

    def __init__(self) -> None:
        self.events = self.asset_bytes = 0
        self.jobs = Counter[Labels]()
        self.requests = Counter[Labels]()
        self.micro_usd = Counter[Labels]()
        self.durations: dict[Labels, Histogram] = {}
        self.queue_waits, self.poll_lags, self.replays = Histogram(LONG_S), Histogram(SHORT_S), Histogram(SHORT_S)

    def stored(self, before: m.Job, turn: Sequence[tuple[m.Event, object]], after: m.Job, life_s: float) -> None:
        """A turn is on disk.

        Args:
            before: the state.
            turn: its events, each with what caused it.
            after: the state that they make.
            life_s: how old the job is now.
        """
        self.events += len(turn)
        for event, _ in turn:
            if (count := _COUNTED.get(type(event))) is not None:
                count(self, event, before, after, life_s)

    def families(self) -> Iterator[str]:
        """All of it as text."""
        about = "provider", "model"
        yield family("jobs_total", "counter", "Jobs that ended, or were parked.", _each((*about, "outcome"), self.jobs))
        spent = {key: amount / 1e6 for key, amount in self.micro_usd.items()}
        kinds = "US dollars: the most that sends may cost, and what was made for them."
        yield family("spend_usd_total", "counter", kinds, _each((*about, "kind"), spent))
        requests = _each(("provider", "op", "code"), self.requests)
        yield family("provider_requests_total", "counter", "Requests to providers, by status or fault.", requests)
        yield family("events_appended_total", "counter", "Events on disk.", [({}, self.events)])
        yield family("asset_bytes_total", "counter", "Bytes of takes that were kept.", [({}, self.asset_bytes)])
        durations = [({"provider": key[0], "outcome": key[1]}, one) for key, one in sorted(self.durations.items())]
        yield histogram("job_duration_seconds", "From the request to the end of a job.", durations)
        yield histogram("queue_wait_seconds", "From when a job could be sent until it was.", [({}, self.queue_waits)])
        yield histogram("poll_lag_seconds", "How late polls began.", [({}, self.poll_lags)])
        yield histogram("replay_duration_seconds", "To make jobs live again from the log.", [({}, self.replays)])


class CountedLine:
    """A transport whose exchanges are counted."""

    def __init__(self, line: Transport, tally: Tally, flow: FlowName) -> None:
        self._line, self._tally = line, tally
        self._flow: FlowName = flow

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        """See Transport."""
        try:
            reply = await self._line.send(adapter, target, request)
        except Failed as failed:
            self._count(adapter, failed.fault.code)
            raise
        self._count(adapter, f"{reply.status}")
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        """See Transport."""
        try:
            kept = await self._line.keep(adapter, target, ask, sink)
        except Failed as failed:
            self._count(adapter, failed.fault.code)
            raise
        self._count(adapter, "200")
        return kept

    def _count(self, adapter: Adapter, code: str) -> None:
        self._tally.requests[adapter.name, self._flow, code] += 1


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sent(tally: Tally, event: m.SubmissionStarted, before: m.Job, _after: m.Job, life_s: float) -> None:
    waited_s = max(0.0, before.facts.at + life_s - before.not_before) if isinstance(before, m.Queued) else 0.0
    tally.queue_waits.observe(waited_s)
    _spend(tally, event.target, "reserved", event.max_cost)


def _made(tally: Tally, event: m.GenerationFinished, before: m.Job, *_: object) -> None:
    if isinstance(before, m.Sent) and event.outputs:
        _spend(tally, before.target, "settled", before.started.max_cost if event.cost is None else event.cost)


def _kept(tally: Tally, event: m.TakeStored, *_: object) -> None:
    tally.asset_bytes += event.asset.size_bytes


def _parked(tally: Tally, _event: m.Event, _before: m.Job, after: m.Job, *_: object) -> None:
    _end(tally, after, "parked")


def _ended(tally: Tally, event: m.Event, _before: m.Job, after: m.Job, life_s: float) -> None:
    outcome = m.TYPES[type(event)].removeprefix("job.")
    if (target := _end(tally, after, outcome)) is not None:
        tally.durations.setdefault((target.provider, outcome), Histogram(LONG_S)).observe(life_s)


def _end(tally: Tally, after: m.Job, outcome: str) -> Target | None:
    if isinstance(after, m.New):
        return None
    tally.jobs[after.target.provider, after.target.model, outcome] += 1
    return after.target


def _spend(tally: Tally, target: Target, kind: Literal["reserved", "settled"], amount: Money | None) -> None:
    if amount is not None:
        tally.micro_usd[target.provider, target.model, kind] += amount.micro_usd


_COUNTED: Final[dict[type[m.Event], Callable[[Tally, Any, m.Job, m.Job, float], None]]] = {
    m.SubmissionStarted: _sent,
    m.GenerationFinished: _made,
    m.TakeStored: _kept,
    m.JobParked: _parked,
    m.JobSucceeded: _ended,
    m.JobFailed: _ended,
    m.JobCancelled: _ended,
}


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def family(name: str, kind: Literal["counter", "gauge"], about: str, samples: Sequence[Sample]) -> str:
    """One measure as text."""
    rows = [f"{PREFIX}{name}{_braces(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join([*_head(name, kind, about), *rows, ""])


def histogram(name: str, about: str, samples: Sequence[tuple[Mapping[str, str], Histogram]]) -> str:
    """One histogram as text. Its buckets contain each other."""
    rows: list[str] = []
    for labels, one in samples:
        bounds = [_number(bound) for bound in one.bounds] + ["+Inf"]
        totals = [*accumulate(one.counts)]
        rows += [
            f"{PREFIX}{name}_bucket{_braces({**labels, 'le': bound})} {total}"
            for bound, total in zip(bounds, totals, strict=True)
        ]
        rows += [f"{PREFIX}{name}_sum{_braces(labels)} {_number(one.sum)}"]
        rows += [f"{PREFIX}{name}_count{_braces(labels)} {totals[-1]}"]
    return "\n".join([*_head(name, "histogram", about), *rows, ""])


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {about}", f"# TYPE {PREFIX}{name} {kind}"]


def _each(names: Labels, counts: Mapping[Labels, float]) -> list[Sample]:
    return [(dict(zip(names, key, strict=True)), value) for key, value in sorted(counts.items())]


def _braces(labels: Mapping[str, str]) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else repr(round(value, 6))
