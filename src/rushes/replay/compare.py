"""Two jobs side by side: what was asked for, what happened, what was said to the provider, how long it took, the cost.

comparison = compare(load("studio", "job_…"), load("studio", "job_…"))
for field in comparison.requests:
    print(field.name, field.a, field.b)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import reduce
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.job import evolve
from rushes.actors.words import billed_word
from rushes.flight import Exchange
from rushes.replay.likeness import leaves
from rushes.replay.recording import Recording
from rushes.units import Money
from rushes.video import JSON

MILESTONES: Final[Mapping[str, str]] = {
    "sent": "submission.started",
    "accepted": "submission.accepted",
    "first progress": "progress.reported",
    "finished": "generation.finished",
    "stored": "take.stored",
}
# Of a request: names of one job's own, and digests of what is compared field by field.
OWN: Final = frozenset({"body_sha256", "sent_sha256", "start_by"})


class Two(Struct, frozen=True, kw_only=True):
    """One thing of both jobs. None: it is not there."""

    name: str
    a: JSON = None
    b: JSON = None


class Happened(Struct, frozen=True, kw_only=True):
    """An event of one job."""

    version: int
    type: str
    after_s: float  # since the job's first event


class Beside(Struct, frozen=True, kw_only=True):
    """Two events of one type, or one that the other job lacks at this place."""

    a: Happened | None = None
    b: Happened | None = None


class Calls(Struct, frozen=True, kw_only=True):
    """What one flow of a job exchanged with the provider."""

    count: int = 0
    statuses: Mapping[str, int] = {}  # how often each; in the place of a status what went wrong, as in "no_answer"
    total_ms: float = 0.0  # of equal answers in a row the first alone was measured


class Flow(Struct, frozen=True, kw_only=True):
    """One flow of both jobs."""

    name: str
    a: Calls = Calls()
    b: Calls = Calls()


class Comparison(Struct, frozen=True, kw_only=True):
    """Two jobs, `a` and `b`."""

    a: str  # their ids
    b: str
    requests: tuple[Two, ...]  # the fields that differ: spec.prompt, route[0].model, …
    same_fields: int  # how many do not
    events: tuple[Beside, ...]
    exchanges: tuple[Flow, ...]
    times: tuple[Two, ...]  # seconds since the step before that happened: sent, accepted, first progress, …; then total
    costs: tuple[Two, ...]  # max and actual in millionths of a US dollar, the provider's units, and who was billed


def compare(a: Recording, b: Recording) -> Comparison:
    """Two jobs side by side. Raises Unreadable where this release cannot read an event."""
    fields = _sides(_request(a), _request(b))
    differing = tuple(field for field in fields if field.a != field.b)
    return Comparison(
        a=a.job_id,
        b=b.job_id,
        requests=differing,
        same_fields=len(fields) - len(differing),
        events=tuple(_events(a, b)),
        exchanges=tuple(_exchanges(a.exchanges, b.exchanges)),
        times=tuple(_sides(_times(a), _times(b))),
        costs=tuple(_sides(_costs(a), _costs(b))),
    )


def _sides(a: Mapping[str, JSON], b: Mapping[str, JSON]) -> list[Two]:
    """Every name of either, in the order of their own."""
    return [Two(name=name, a=a.get(name), b=b.get(name)) for name in {**a, **b}]


# ── The parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _request(recording: Recording) -> dict[str, JSON]:
    for event in recording.events[:1]:
        told = msgspec.json.decode(event.data, type=dict[str, Any])
        return dict(leaves({name: value for name, value in told.items() if name not in OWN}))
    return {}


def _events(a: Recording, b: Recording) -> Iterator[Beside]:
    ours, theirs = _happened(a), _happened(b)
    matcher = SequenceMatcher(None, [one.type for one in ours], [one.type for one in theirs], autojunk=False)
    for kind, first, last, other_first, other_last in matcher.get_opcodes():
        left, right = ours[first:last], theirs[other_first:other_last]
        if kind == "equal":
            yield from (Beside(a=one, b=other) for one, other in zip(left, right, strict=True))
        else:
            yield from (Beside(a=one) for one in left)
            yield from (Beside(b=other) for other in right)


def _happened(recording: Recording) -> list[Happened]:
    began = recording.events[0].at if recording.events else 0.0
    return [Happened(version=e.version, type=e.type, after_s=round(e.at - began, 3)) for e in recording.events]


def _exchanges(a: Sequence[Exchange], b: Sequence[Exchange]) -> Iterator[Flow]:
    for name in dict.fromkeys(one.flow for one in (*a, *b)):
        yield Flow(name=name, a=_calls(name, a), b=_calls(name, b))


def _calls(flow: str, exchanges: Iterable[Exchange]) -> Calls:
    statuses, total_ms = Counter[str](), 0.0
    for one in exchanges:
        if one.flow == flow:
            fault = one.answered.fault
            statuses[fault.code if fault else str(one.status)] += one.count
            total_ms += one.duration_ms
    return Calls(count=statuses.total(), statuses=dict(statuses), total_ms=round(total_ms, 3))


def _times(recording: Recording) -> dict[str, JSON]:
    if not recording.events:
        return {}
    times: dict[str, JSON] = {}
    before = recording.events[0].at
    for name, kind in MILESTONES.items():
        at = next((event.at for event in recording.events if event.type == kind), None)
        times[name] = None if at is None else round(at - before, 3)
        before = before if at is None else at
    return times | {"total": round(recording.events[-1].at - recording.events[0].at, 3)}


def _costs(recording: Recording) -> dict[str, JSON]:
    if not recording.events:
        return {}
    events = [(codec.decode(one), one.at) for one in recording.events]
    job: m.Job = reduce(lambda job, event: evolve(job, *event), events, cast("m.Job", m.New()))
    most = [event.max_cost for event, _ in events if isinstance(event, m.SubmissionStarted)]
    cost = next((event.cost for event, _ in reversed(events) if isinstance(event, m.GenerationFinished)), None)
    return {
        "max": _micro_usd(most[-1] if most else None),
        "actual": _micro_usd(cost),
        "units": cost.units if cost else None,
        "unit": cost.unit or None if cost else None,
        "billed": billed_word(job),
    }


def _micro_usd(money: Money | None) -> int | None:
    return money.micro_usd if money else None
