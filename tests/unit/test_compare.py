"""Two jobs side by side."""

from __future__ import annotations

import msgspec
from jobs import ACCEPTED, ASKED, FINISHED, STORED, started
from msgspec.structs import replace

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.eventstore.base import Recorded
from rushes.faults import Fault
from rushes.flight import Answered, Asked, Exchange
from rushes.replay.compare import Beside, Calls, Comparison, Two, compare
from rushes.replay.recording import Recording
from rushes.units import Money
from rushes.video import Target

COST = Money(250_000, source="its page", units=5.0, unit="seconds")
SENT = replace(started(), max_cost=Money(300_000))
PAID = replace(FINISHED, outputs=FINISHED.outputs[:1], cost=COST)
PROGRESS = m.ProgressReported(attempt=1, percent=40)
DONE = m.JobSucceeded()
MADE = ((0.0, ASKED), (1.0, SENT), (3.0, ACCEPTED), (8.0, PROGRESS), (9.5, PAID), (10.0, STORED), (10.0, DONE))
FAILED = m.JobFailed(fault=Fault("moderated", "no"), billed="unknown")
BROKEN = ((0.0, ASKED), (1.5, SENT), (2.0, ACCEPTED), (4.0, FAILED))


def recording(job_id: str, events: tuple[tuple[float, m.Event], ...], *exchanges: Exchange) -> Recording:
    lines: list[Recorded] = []
    for version, (at, event) in enumerate(events, 1):
        new = codec.encode(event, 100.0 + at, m.Wake())
        lines.append(
            Recorded(
                position=version, stream=1, version=version, type=new.type, v=new.v, at=new.at, data=new.data,
                meta=new.meta, tenant=1, token=7,
            )
        )  # fmt: skip
    return Recording(job_id=job_id, tenant="default", events=tuple(lines), exchanges=exchanges)


def exchange(flow: str, status: int, ms: float, count: int = 1, fault: Fault | None = None) -> Exchange:
    fields = {
        "id": 1, "job": "a", "attempt": 1, "flow": flow, "provider": "here", "method": "GET", "url": "https://here/",
        "status": status, "at": 0.0, "duration_ms": ms, "count": count, "last_at": 0.0,
    }  # fmt: skip
    return msgspec.convert(fields | {"asked": Asked(), "answered": Answered(fault=fault)}, Exchange)


def named(rows: tuple[Two, ...]) -> dict[str, tuple[object, object]]:
    return {row.name: (row.a, row.b) for row in rows}


def side_by_side() -> Comparison:
    return compare(recording("a", MADE), recording("b", BROKEN))


def test_a_job_beside_itself_differs_in_nothing() -> None:
    one = recording("a", MADE, exchange("submit", 201, 5.0))
    itself = compare(one, one)
    assert itself.requests == ()
    assert itself.same_fields > 0
    assert all(row.a == row.b for row in (*itself.times, *itself.costs))
    assert all(row.a == row.b for row in itself.events)
    assert all(row.a == row.b for row in itself.exchanges)


def test_of_two_requests_the_fields_that_differ_are_shown_and_the_others_counted() -> None:
    other = replace(
        ASKED,
        spec=replace(ASKED.spec, prompt="a pond", seed=7),
        route=(*ASKED.route, Target(provider="there", model="b")),
        body_sha256="1",
        start_by=9.0,
    )
    rows = compare(recording("a", ((0.0, ASKED),)), recording("b", ((0.0, other),)))
    assert named(rows.requests) == {
        "spec.prompt": ("a lake", "a pond"),
        "spec.seed": (None, 7),
        "route[1].provider": (None, "there"),
        "route[1].model": (None, "b"),
    }
    assert rows.same_fields == 3  # the operation, and the first target's provider and model


def test_events_stand_beside_those_of_their_type_and_gaps_are_shown() -> None:
    rows = [(one.a and one.a.type, one.b and one.b.type) for one in side_by_side().events]
    assert rows == [
        ("job.requested", "job.requested"),
        ("submission.started", "submission.started"),
        ("submission.accepted", "submission.accepted"),
        ("progress.reported", None),
        ("generation.finished", None),
        ("take.stored", None),
        ("job.succeeded", None),
        (None, "job.failed"),
    ]
    last: Beside = side_by_side().events[-1]
    assert last.b is not None
    assert (last.b.version, last.b.after_s) == (4, 4.0)


def test_times_are_seconds_since_the_step_before() -> None:
    assert named(side_by_side().times) == {
        "sent": (1.0, 1.5),
        "accepted": (2.0, 0.5),
        "first progress": (5.0, None),
        "finished": (1.5, None),
        "stored": (0.5, None),
        "total": (10.0, 4.0),
    }


def test_costs_are_the_estimate_the_providers_word_and_who_was_billed() -> None:
    assert named(side_by_side().costs) == {
        "max": (300_000, 300_000),
        "actual": (250_000, None),
        "units": (5.0, None),
        "unit": ("seconds", None),
        "billed": ("yes", "unknown"),
    }


def test_exchanges_are_counted_by_flow_with_what_was_answered() -> None:
    lost = Fault("no_answer", "")
    a = recording(
        "a",
        MADE,
        exchange("submit", 0, 9.0, fault=lost),
        exchange("submit", 201, 5.0),
        exchange("status", 200, 2.0, 40),
    )
    b = recording("b", MADE, exchange("submit", 201, 4.0), exchange("find", 200, 1.0))
    sent = Calls(count=2, statuses={"no_answer": 1, "201": 1}, total_ms=14.0)
    assert [(one.name, one.a, one.b) for one in compare(a, b).exchanges] == [
        ("submit", sent, Calls(count=1, statuses={"201": 1}, total_ms=4.0)),
        ("status", Calls(count=40, statuses={"200": 40}, total_ms=2.0), Calls()),
        ("find", Calls(), Calls(count=1, statuses={"200": 1}, total_ms=1.0)),
    ]  # fmt: skip


def test_a_job_without_events_is_compared_too() -> None:
    rows = compare(recording("a", ()), recording("b", BROKEN))
    assert rows.events[0].a is None
    assert named(rows.times)["total"] == (None, 4.0)


def test_a_comparison_is_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(side_by_side()), type=Comparison) == side_by_side()
