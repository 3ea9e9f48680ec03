"""A job that leaves the memory while it waits lives on as one that stays: nobody can tell from its log."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sim_plan import Plan, drawn
from sim_world import Control, live_through

from rushes.actors.lanes import Lane, Learned
from rushes.actors.system import MAX_IDLE
from rushes.eventstore.base import Recorded
from rushes.faults import Fault

SEEDS = range(60_000 if os.environ.get("RUSHES_NIGHTLY") else 6_000)
NOT_COMPARED = ("crash", "torn", "jump", "disk_full")  # they strike at steps of ours, of which loading is one
A_TICK_S = 0.02


class Memory(Control):
    """So many jobs may wait in it."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def max_idle(self, plan: Plan) -> int:  # noqa: ARG002
        return self.jobs


def plans() -> Iterator[Plan]:
    """Of one job each: two of them take their luck on the wire from each other."""
    for seed in SEEDS:
        plan = drawn(seed)
        if len(plan.jobs) == 1 and not any(fault.kind in NOT_COMPARED for fault in plan.faults):
            yield plan


def history(plan: Plan, jobs: int) -> list[Recorded]:
    world = live_through(plan, Memory(jobs))
    return world.history(world.names[0])


def same(one: list[Recorded], other: list[Recorded]) -> bool:
    """The same events, to a tick of the lane: what waits for hours is a tick later by then."""
    late_s = [abs(a.at - b.at) for a, b in zip(one, other, strict=False)]
    return [event.type for event in one] == [event.type for event in other] and max(late_s) <= A_TICK_S


def different() -> tuple[int, int]:
    """Of so many lives."""
    same_ones = [same(history(plan, 0), history(plan, MAX_IDLE)) for plan in plans()]
    return same_ones.count(False), len(same_ones)


def test_leaving_the_memory_changes_nothing() -> None:
    """One in some hundred is at a step just when an outage or a restart begins, and a tick decides."""
    other, count = different()
    print(f"{other} of {count} lives")
    assert other <= count // 100
    assert count > 200


@pytest.mark.parametrize("forgotten", ["troubles", "tried_at"])
def test_control_a_job_that_forgets_something_is_seen(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    def remember(lane: Lane, stream: int, learned: Learned, trouble: Fault | None) -> None:
        kept(lane, stream, learned._replace(**{forgotten: 0}), trouble)

    kept = Lane.remember
    monkeypatch.setattr(Lane, "remember", remember)
    other, count = different()
    print(f"{other} of {count} lives")
    assert other > count // 50
