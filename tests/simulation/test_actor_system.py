"""The whole actor system in virtual time, in thousands of runs where everything goes wrong that can.

No job is paid twice, lost, or left without a word; and rules broken on purpose are found within the same counts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

import pytest
from sim_controls import BREAKS
from sim_crashes import everywhere, plain
from sim_plan import HOUR_S, PROVIDERS, JobPlan, Plan, Suffering, drawn
from sim_rules import GRAVEST, Verdict, blamed, judged, told
from sim_world import BUSY_CALLBACKS, Control, CountingLoop, HotLoop

from rushes.actors.system import System
from rushes.adapters.capabilities import DoubtClass

NIGHTLY = bool(os.environ.get("RUSHES_NIGHTLY"))
PARTS = range(80 if NIGHTLY else 4)
SEEDS_EACH = 250
CONTROL_SEEDS = 1_000
AS_IT_IS = Control()
RED_ONCE = (18, 51, 71, 78, 191, 583, 3903, 11998, 13766, 15138, 16855)


def none_red(verdicts: Iterable[Verdict]) -> int:
    """How many runs there were; the first red one is told with its seed and the few faults that make it red."""
    count = 0
    for verdict in verdicts:
        count += 1
        assert not verdict.broken, told(verdict, AS_IT_IS)
    return count


@pytest.mark.parametrize("part", PARTS)
def test_whatever_happens_no_job_is_paid_twice_or_lost(part: int) -> None:
    phases, steps = Counter[str](), 0
    for seed in range(part * SEEDS_EACH, (part + 1) * SEEDS_EACH):
        verdict = judged(drawn(seed), AS_IT_IS)
        assert not verdict.broken, told(verdict, AS_IT_IS)
        phases.update(verdict.phases)
        steps += verdict.steps
    print(f"{SEEDS_EACH} seeds, {steps} steps, and at the end {dict(phases)}")
    assert set(phases) == {"Succeeded", "Failed", "Cancelled", "Parked"}
    assert phases["Succeeded"] > SEEDS_EACH  # most jobs come through all of it


def test_seeds_that_were_red_once_stay_green() -> None:
    assert none_red(judged(drawn(seed), AS_IT_IS) for seed in RED_ONCE) == len(RED_ONCE)


@pytest.mark.parametrize("doubt", ["a", "b", "c", "d", "e"])
def test_a_crash_at_every_step_and_every_pair_of_steps(doubt: DoubtClass) -> None:
    count = none_red(everywhere(plain(f"{doubt}-stops"), AS_IT_IS, 2))
    print(f"class {doubt}: {count} runs")
    assert count > 100


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "fault",
    [
        Suffering("user:cancel", 2.0),
        Suffering("wire:deaf", 1),
        Suffering("wire:busy", 1),
        Suffering("wire:broken_after", 1),
        Suffering("restart", 1.0, 5.0),
    ],
    ids=str,
)
def test_a_crash_at_every_step_of_a_job_that_is_not_plain(provider: str, fault: Suffering) -> None:
    assert none_red(everywhere(plain(provider, fault), AS_IT_IS, 2 if NIGHTLY else 1)) > 1


@pytest.mark.parametrize("provider", ["a-stops", "b-stops", "c-stops", "d-stops", "e-stops"])
@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S])
def test_a_clock_that_jumps_while_a_job_is_in_doubt_costs_nothing(provider: str, jump_s: float) -> None:
    faults = (Suffering("wire:deaf", 1), Suffering("jump", 3.0, jump_s))
    jobs = (JobPlan(provider),)
    none_red(judged(Plan(seed, jobs, faults, plain=True), AS_IT_IS) for seed in range(20))


def test_control_evidence_by_the_wall_clock_alone_pays_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(System, "_as_old_as_our_waiting", lambda _self, absent, _since, _waited_s: absent)
    faults = (Suffering("wire:deaf", 1), Suffering("jump", 3.0, HOUR_S))
    runs = (judged(Plan(seed, (JobPlan("b-stops"),), faults, plain=True), AS_IT_IS) for seed in range(20))
    assert any("paid twice" in verdict.rules for verdict in runs)


def test_a_clock_that_is_set_back_does_not_make_a_job_wait_for_it() -> None:
    verdict = judged(plain("a-stops", Suffering("jump", 1.5, -HOUR_S)), AS_IT_IS)
    assert verdict.phases == ("Succeeded",)
    assert verdict.took_s < 60


def test_our_own_full_disk_loses_no_take_however_often_its_address_expires() -> None:
    verdict = judged(plain("e-no", Suffering("sink_full", 0.0, 12 * HOUR_S)), AS_IT_IS)
    assert (verdict.rules, verdict.phases) == (set(), ("Succeeded",))


@pytest.mark.parametrize("name", BREAKS)
def test_control_a_broken_rule_is_seen_within_as_many_seeds(name: str) -> None:
    control = BREAKS[name]()
    for seed in range(CONTROL_SEEDS):
        verdict = judged(drawn(seed), control)
        if verdict.rules & GRAVEST:
            break
    else:
        raise AssertionError(f"{name} stays unseen in {CONTROL_SEEDS} seeds")
    kept = blamed(verdict, control)
    print(f"{name}: seed {seed}, {sorted(verdict.rules)}, {len(kept)} of {len(verdict.plan.faults)} faults: {kept}")
    assert 0 < len(kept) <= min(4, len(verdict.plan.faults))
    fewer = Plan(seed, verdict.plan.jobs, tuple(kept))
    assert verdict.broken[0][0] in judged(fewer, control).rules
    assert not judged(fewer, AS_IT_IS).broken  # it is the rule that was broken, and nothing else


@pytest.mark.parametrize("doubt", ["b", "c", "d", "e"])
@pytest.mark.parametrize("name", ["no_intent", "no_incarnation", "intent_per_attempt"])
def test_control_a_crash_at_every_step_sees_it_too(name: str, doubt: DoubtClass) -> None:
    refused_once = plain(f"{doubt}-stops", Suffering("wire:busy", 1))
    assert any("paid twice" in verdict.rules for verdict in everywhere(refused_once, BREAKS[name](), 1))


def test_the_same_seed_writes_the_same_bytes() -> None:
    logs = [judged(drawn(seed), AS_IT_IS).log for seed in range(40)]
    assert logs == [judged(drawn(seed), AS_IT_IS).log for seed in range(40)]
    assert len(set(logs)) == 40


def test_control_a_loop_that_never_waits_is_stopped() -> None:
    loop = CountingLoop(0)

    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(HotLoop):
        loop.run_forever()
    loop.close()
    assert loop.callbacks > BUSY_CALLBACKS
