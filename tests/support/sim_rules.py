"""What no simulated run may show, and how a run is judged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace
from sim_plan import Plan, Suffering, minimal
from sim_provider import Render
from sim_world import Control, World, live_through

from rushes.actors import messages as m
from rushes.actors.words import billed_word

ENDS = frozenset({"job.succeeded", "job.failed", "job.cancelled"})

GRAVEST = frozenset({"paid twice", "a made take was lost", "a finished take was destroyed"})
BUSY_FIXED, BUSY_PER_STEP = 200, 30  # callbacks that a run may need: more is waking up for nothing


class Verdict(Struct, frozen=True):
    """What became of one run."""

    plan: Plan
    broken: tuple[tuple[str, str], ...]  # (rule, what happened)
    log: bytes
    steps: int = 0
    callbacks: int = 0
    busiest: int = 0
    phases: tuple[str, ...] = ()
    took_s: float = 0.0  # until nothing moved any more

    @property
    def rules(self) -> set[str]:
        """The rules that were broken."""
        return {rule for rule, _ in self.broken}


def judged(plan: Plan, control: Control) -> Verdict:
    """Run a plan and say what is wrong with it."""
    world = live_through(plan, control)
    broken = [] if world.stuck else [found for name in world.names for found in about(world, name)]
    broken += about_the_run(world)
    broken.sort(key=lambda found: found[0] not in GRAVEST)
    phases = tuple(type(world.state(name)).__name__ for name in world.names)
    return Verdict(
        plan, tuple(broken), world.log(), world.steps, world.callbacks, world.busiest, phases, world.rested_at
    )


def blamed(verdict: Verdict, control: Control) -> list[Suffering]:
    """The few faults that break the same rule, the gravest."""

    def is_red(faults: Sequence[Suffering]) -> bool:
        fewer = replace(verdict.plan, faults=tuple(faults))
        return verdict.broken[0][0] in judged(fewer, control).rules

    return minimal(verdict.plan.faults, is_red)


def told(verdict: Verdict, control: Control) -> str:
    """A run in words: which rules it broke, and by which few faults."""
    seed = verdict.plan.seed
    if not verdict.broken:
        return f"seed {seed}: {verdict.steps} steps, nothing is broken, and the jobs are {', '.join(verdict.phases)}."
    again = f"make sim SEED={seed} {f'BREAK={control.name} ' if control.name else ''}LOG=sim.log"
    if verdict.plan.plain:
        again = "a plain job"
    broken = [f"  {rule}: {what}" for rule, what in verdict.broken]
    jobs = [f"  job {number}: {job}" for number, job in enumerate(verdict.plan.jobs)]
    faults = [f"  {fault}" for fault in blamed(verdict, control)]
    return "\n".join([f"seed {seed} ({again}) is red:", *broken, "the jobs:", *jobs, "the faults that do it:", *faults])


def about_the_run(world: World) -> list[tuple[str, str]]:
    """Rules for the whole."""
    if world.stuck:
        return [("the run broke off", world.stuck)]
    rules = {
        "never at rest": not world.rested,
        "moves after rest": world.moved_after_rest,
        "busy with nothing": world.callbacks > BUSY_FIXED + BUSY_PER_STEP * world.steps,
    }
    detail = f"{world.callbacks} callbacks for {world.steps} steps, unfinished streams: {sorted(world.unrest)}"
    return [(rule, detail) for rule, violated in rules.items() if violated]


def about(world: World, name: str) -> list[tuple[str, str]]:
    """Rules for one job."""
    history, renders, job = world.history(name), world.renders(name), world.state(name)
    types = [event.type for event in history]
    plan = world.plan.jobs[world.names.index(name)]
    charges = sum(render.charged for render in renders)
    said = billed_word(job)
    rules = {
        "paid twice": charges > 1 + plan.twice,
        "sent without an intent": sends_without_intent(world, name),
        "sent again in doubt": not plan.twice and sent_again_in_doubt(world, name),
        "neither ended nor parked": not isinstance(job, m.Ended | m.Parked),
        "ended twice": sum(kind in ENDS for kind in types) > 1,
        "moved after its end": any(kind in ENDS for kind in types[:-1]),
        "versions with holes": [event.version for event in history] != list(range(1, len(history) + 1)),
        "time falls": any(later.at < earlier.at for earlier, later in pairwise(history)),
        "live state is not the replayed one": world.live.get(name) != job,
        "acknowledged and not in the log": any(
            ack.version > len(history) or ack.job != world.state(name, ack.version)
            for ack in world.acks
            if ack.name == name
        ),
        "marked open though ended": world.open(name) == isinstance(job, m.Ended),
        "a finished take was destroyed": any(render.taken_back for render in renders),
        "a made take was lost": made_take_lost(world, name, job, renders),
        "given up without need": parked_without_need(world, job, renders),
        "doubt was not said": bool(charges) and isinstance(job, m.Ended | m.Parked) and said == "no",
        "said to be paid, and was not": said == "yes" and not charges,
    }
    detail = f"{name}: {type(job).__name__}, {charges} charges, {' '.join(types)}"
    return [(rule, detail) for rule, violated in rules.items() if violated]


def sends_without_intent(world: World, name: str) -> bool:
    """More paid requests left than there are intents; only class A may repeat one under its intent."""
    allowed: dict[str, int] = {}
    for event in world.events(name):
        if isinstance(event, m.SubmissionStarted):
            allowed[event.key] = allowed.get(event.key, 0) + (1_000 if event.terms.doubt == "A" else 1)
    sent = {key: count for key, count in world.paid_requests.items() if key.partition("-")[0] == name}
    return any(count > allowed.get(key, 0) for key, count in sent.items())


def sent_again_in_doubt(world: World, name: str) -> bool:
    """A new intent behind a doubt that no evidence has cleared."""
    in_doubt = False
    for event in world.events(name):
        match event:
            case m.SubmissionDoubted():
                in_doubt = True
            case m.SubmissionAccepted() | m.SubmissionRefused() | m.JobResumed():
                in_doubt = False
            case m.SubmissionStarted() if in_doubt:
                return True
            case _:
                continue
    return False


def made_take_lost(world: World, name: str, job: m.Job, renders: list[Render]) -> bool:
    """It was made, nobody wanted it gone, and the job has ended without it."""
    made = [render for render in renders if render.state == "done" and render.makes_takes]
    if world.plan.jobs[world.names.index(name)].twice:  # its user would rather pay again than wait for an earlier one
        made = [render for render in made if render.key.split("-")[1] == str(getattr(job, "attempt", 0))]
    if not made or name in world.user_ended:
        return False
    if isinstance(job, m.Succeeded):
        return bool(job.missing) or any(take.asset.key not in world.files for take in job.takes)
    return isinstance(job, m.Ended)


def parked_without_need(world: World, job: m.Job, renders: list[Render]) -> bool:
    """Evidence was to be had, and nobody's clock was wrong: yet it waits for a person."""
    if not isinstance(job, m.Parked) or any(f.kind == "jump" for f in world.plan.faults):
        return False
    running = any(render.fate == "never" and render.state == "running" for render in renders)
    match job.reason:
        case "in_doubt":
            doubt = job.started.terms.doubt
            if doubt == "A" and job.cancel:  # the only way to find out could start what is not wanted any more
                return False
            return doubt in ("A", "B") or (doubt != "E" and any(render.charged for render in renders))
        case "detached":
            return not running
        case _:
            return True
