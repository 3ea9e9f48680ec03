"""A plain job that crashes at every one of its steps, and at every pair of them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace
from sim_plan import JobPlan, Plan, Suffering
from sim_rules import Verdict, judged
from sim_world import Control

DOWN_S = 1.0


def plain(provider: str, *faults: Suffering) -> Plan:
    """One job whose render is done after some seconds, and nothing goes wrong but these."""
    return Plan(0, (JobPlan(provider),), faults, plain=True)


def everywhere(plan: Plan, control: Control, crashes: int) -> Iterator[Verdict]:
    """The plan without a crash, then with one at every step, then with every pair, up to so many crashes.

    How many steps there are behind a crash is seen in the run that had it.
    """
    verdict = judged(plan, control)
    yield verdict
    if crashes:
        last = max([int(fault.at) for fault in plan.faults if fault.kind == "crash"], default=0)
        for step in range(last + 1, verdict.steps + 1):
            crashing = replace(plan, faults=(*plan.faults, Suffering("crash", step, DOWN_S)))
            yield from everywhere(crashing, control, crashes - 1)
