"""A plain job that crashes at every one of its steps, and at every pair of them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace
from sim_plan import JobPlan, Plan, Suffering
from sim_rules import Verdict, judged
from sim_world import Control

DOWN_S = 1.0
_REFUSED_ONCE = (Suffering("wire:busy", 1),)
_SHOWN_BY = {  # the class of doubt that the rule is about, the kind of cancel, and what has to go wrong besides crashes
    "no_intent": ("bcde", "stops", _REFUSED_ONCE),
    "no_incarnation": ("bcde", "stops", _REFUSED_ONCE),
    "intent_per_attempt": ("bcde", "stops", _REFUSED_ONCE),
    "key_in_loop": ("a", "stops", (Suffering("wire:deaf", 1),)),
    "destructive_cancel": ("abcde", "destroys", (Suffering("outage:busy", 1.0, 20.0), Suffering("user:cancel", 10.0))),
}


def plain(provider: str, *faults: Suffering) -> Plan:
    """One job whose render is done after some seconds, and nothing goes wrong but these."""
    return Plan(0, (JobPlan(provider),), faults, plain=True)


def shown(control: Control, seed: int) -> Verdict:
    """A plain job that meets a rule broken on purpose: the seed says where it goes, and it crashes where it matters."""
    classes, cancel, faults = _SHOWN_BY[control.name]
    plan = replace(plain(f"{classes[seed % len(classes)]}-{cancel}", *faults), seed=seed)
    return next(verdict for verdict in everywhere(plan, control, 1) if verdict.broken)


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
