"""One job against one provider in virtual time, with crashes: a model small enough to run a thousand times a second.

The model has its own little shell (what the actor system does, without its speed) and a provider of each class of
doubt. A seed decides latencies, lost requests, lost answers, refusals, repeated and late reports, bad disks, cancels
and crashes. What survives a crash is what would survive one: the log, the provider, and requests already on the wire.

`broken` names a rule to break on purpose; the tests show that each break is caught.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.job import decide, evolve, pending, replay
from rushes.adapters.base import Output
from rushes.adapters.capabilities import CancelKind, DoubtClass, PollSchedule, Terms
from rushes.faults import CommandRejected, Fault
from rushes.units import AssetRef, Handle
from rushes.video import Take, Target, TextToVideo, VideoSpec

Rule = Literal["", "no_incarnation", "intent_per_attempt", "destructive_cancel"]
CLASSES: tuple[DoubtClass, ...] = ("A", "B", "C", "D", "E")
KEY = "job_model-1"
SETTLE_S = 30.0
LAST_ARRIVAL_S = 10.0  # a request on the wire arrives by then, or never: shorter than the settling time, by definition
TROUBLE = Fault("provider_unavailable", "a bad moment", retryable=True)
LOST = Fault("no_answer", "no answer came", retryable=True)


@dataclass
class Render:
    """A paid job at the provider."""

    id: str
    key: str
    visible_at: float
    ends_at: float
    fails: bool
    state: Literal["running", "done", "failed", "cancelled"] = "running"
    taken_back: bool = False  # destroyed after it was finished


@dataclass
class Provider:
    """A provider of one class: what it does with a create, and what it lets us learn afterwards."""

    doubt: DoubtClass
    renders: list[Render] = field(default_factory=list)

    def create(self, key: str, now: float, rng: random.Random) -> Render:
        for render in self.renders:
            if self.doubt == "A" and render.key == key:
                return render
        visible_at = now + rng.uniform(0, SETTLE_S - LAST_ARRIVAL_S)
        render = Render(f"p{len(self.renders)}", key, visible_at, now + rng.uniform(5, 200), rng.random() < 0.1)
        self.renders.append(render)
        return render

    def find(self, key: str, now: float) -> Render | None:
        return next((r for r in self.renders if r.key == key and r.visible_at <= now), None)

    def look_at(self, handle: str, now: float) -> Render:
        render = next(r for r in self.renders if r.id == handle)
        if render.state == "running" and now >= render.ends_at:
            render.state = "failed" if render.fails else "done"
        return render

    @property
    def charges(self) -> int:
        """Renders that somebody has to pay for; a failed one is not billed."""
        return sum(render.state != "failed" for render in self.renders)


class World:
    """The shell, the provider and the clock of one run."""

    def __init__(self, seed: int, doubt: DoubtClass, cancel: CancelKind = "stops", broken: Rule = "") -> None:
        self.rng = random.Random(seed)
        self.doubt, self.broken = doubt, broken
        self.now = 0.0
        self.provider = Provider(doubt)
        self.log: list[tuple[m.Event, float]] = []
        self.job: m.Job = m.New()
        self.terms = Terms(
            doubt=doubt,
            cancel=cancel,
            poll=PollSchedule(min_s=2.0, max_s=20.0),
            key_ttl_s=600.0,
            settle_s=SETTLE_S,
            total_s=3000.0,
        )
        self.crashes_left = self.rng.randrange(5)
        self.disk_failures_left = self.rng.randrange(3)
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, int | None, Callable[[], None]]] = []
        self._life = 0
        self._begun: set[tuple[int, int]] = set()
        self._current: m.Owed | None = None

    # ── time ──

    def later(self, after_s: float, action: Callable[[], None], *, survives: bool = False) -> None:
        due = (self.now + max(after_s, 0.0), next(self._order), None if survives else self._life, action)
        heapq.heappush(self._agenda, due)

    def run(self, max_steps: int = 4000) -> None:
        """From the request to the end of all motion."""
        while not self.log:  # a caller that gets no answer asks again
            self.tell(m.Generate(request=requested()))
        if self.rng.random() < 0.3:
            self.later(self.rng.uniform(0, 150), lambda: self.tell(m.Cancel()), survives=True)
        for _ in range(max_steps):
            if not self._agenda:
                return
            due, _, life, action = heapq.heappop(self._agenda)
            self.now = max(self.now, due)
            if life is None or life == self._life:
                action()
        raise AssertionError("the job never comes to rest")

    def crash_maybe(self, chance: float = 0.06) -> bool:
        if not self.crashes_left or self.rng.random() > chance:
            return False
        self.crashes_left -= 1
        self._life += 1
        self._begun, self._current = set(), None
        self.job = replay(self.log)
        self.later(self.rng.uniform(0, 120), self.settle)
        return True

    # ── the shell ──

    def tell(self, command: m.Command, *, ends: m.Owed | None = None) -> None:
        """A turn: decide, fold, append, settle. The append may fail, and the process may die around it."""
        if ends is not None and ends == self._current:
            self._current = None
        if self.crash_maybe():
            return
        try:
            events = self.decided(command)
        except CommandRejected:
            events = []
        job = self.job
        for event in events:
            job = evolve(job, event, self.now)
        if events and self.disk_failures_left and self.rng.random() < 0.05 and self.log:
            self.disk_failures_left -= 1
            self.later(1.0, self.settle)
            return
        self.log += [(event, self.now) for event in events]
        self.job = job
        if self.rng.random() < 0.1 and not isinstance(command, m.Generate | m.Cancel | m.Collect):
            self.later(self.rng.uniform(0, 60), lambda: self.tell(command), survives=True)  # comes twice
        if not self.crash_maybe():
            self.settle()

    def decided(self, command: m.Command) -> list[m.Event]:
        events = decide(command, self.job, self.now)
        if self.broken != "intent_per_attempt":
            return events
        if any(isinstance(event, m.SubmissionRefused) for event in events):
            self._begun.clear()
        return [replace(e, send=1) if isinstance(e, m.SubmissionStarted) else e for e in events]

    def settle(self) -> None:
        owed = pending(self.job, self.incarnation())
        if isinstance(owed, m.Send) and (owed.attempt, owed.send) in self._begun and owed != self._current:
            owed = pending(self.job, None)
        if owed is None or owed == self._current or isinstance(self._current, m.Send):
            return
        self._current = owed
        self.perform(owed)

    def incarnation(self) -> str:
        if self.broken == "no_incarnation" and isinstance(self.job, m.Submitting):
            return self.job.started.incarnation
        return str(self._life)

    def report(self, after_s: float, command: m.Command, owed: m.Owed) -> None:
        self.later(after_s, lambda: self.tell(command, ends=owed))

    # ── effects ──

    def perform(self, owed: m.Owed) -> None:
        rng = self.rng
        match owed:
            case m.AskPermit():
                grant = m.GrantPermit(
                    attempt=owed.attempt,
                    incarnation=str(self._life),
                    key=KEY,
                    body_sha256="",
                    max_cost=None,
                    terms=self.terms,
                )
                self.report(max(owed.not_before - self.now, 0.0) + rng.uniform(0, 1), grant, owed)
            case m.Send():
                self._begun.add((owed.attempt, owed.send))
                self.send(owed)
            case m.SendAgain():
                if self.now >= owed.until:
                    self.report(0.0, m.Wake(), owed)
                else:
                    self.send(owed)
            case m.DeclareDoubt():
                self.report(0.1, m.RecordDoubt(attempt=owed.attempt, send=owed.send, fault=LOST), owed)
            case m.Look():
                looks = [owed.since + s for s in self.terms.looks_s if owed.since + s > self.now]
                self.later(looks[0] - self.now if looks else 60.0, lambda: self.look(owed))
            case m.AwaitCallback():
                self.report(owed.until - self.now, m.Wake(), owed)
            case m.Ask():
                self.later(rng.uniform(2, 20), lambda: self.ask(owed))
            case m.CancelRemote():
                self.later(rng.uniform(0, 5), lambda: self.cancel(owed))
            case m.Store():
                self.later(rng.uniform(0, 5), lambda: self.store(owed))
            case m.WritePrompt() | m.Prepare() | m.Reserve():
                raise AssertionError("this job has no needs")

    def send(self, owed: m.Send | m.SendAgain) -> None:
        """A create: refused, lost on the way, taken and answered, or taken with the answer lost."""
        fate = self.rng.choices(["taken", "answer_lost", "lost", "busy", "invalid"], [60, 15, 10, 14, 1])[0]
        way_s = self.rng.uniform(0, LAST_ARRIVAL_S)
        again = isinstance(owed, m.SendAgain)
        if again and fate == "invalid":
            fate = "taken"  # the same bytes are as valid as they were
        number: dict[str, Any] = {"attempt": owed.attempt, "send": owed.send}
        match fate:
            case "taken" | "answer_lost":
                answered = fate == "taken"
                self.later(way_s, lambda: self.arrive(owed, answered=answered), survives=True)
                if not answered:
                    lost = m.RecordTrouble(fault=LOST) if again else m.RecordDoubt(**number, fault=LOST)
                    self.report(way_s + 30.0, lost, owed)
            case "lost":
                self.report(30.0, m.RecordTrouble(fault=LOST) if again else m.RecordDoubt(**number, fault=LOST), owed)
            case "busy":
                self.report(way_s, m.RecordRefused(**number, fault=TROUBLE, retry_at=self.now + way_s + 10), owed)
            case _:
                self.report(way_s, m.RecordRefused(**number, fault=Fault("invalid_input", "no")), owed)

    def arrive(self, owed: m.Send | m.SendAgain, *, answered: bool) -> None:
        render = self.provider.create(KEY, self.now, self.rng)
        accepted = m.RecordAccepted(attempt=owed.attempt, send=owed.send, handle=Handle(render.id))
        if answered and owed == self._current:
            self.report(self.rng.uniform(0, 5), accepted, owed)
        if self.doubt == "D":
            self.later(self.rng.uniform(1, 20), lambda: self.tell(accepted), survives=True)

    def look(self, owed: m.Look) -> None:
        if owed != self._current:
            return
        number: dict[str, Any] = {"attempt": owed.attempt, "send": owed.send}
        if self.rng.random() < 0.2:
            self.tell(m.RecordTrouble(fault=TROUBLE), ends=owed)
        elif render := self.provider.find(KEY, self.now):
            self.tell(m.RecordAccepted(**number, handle=Handle(render.id)), ends=owed)
        else:
            self.tell(m.RecordAbsent(**number, looked_at=self.now), ends=owed)

    def outcome(self, attempt: int, handle: str) -> m.Command:
        render = self.provider.look_at(handle, self.now)
        match render.state:
            case "done":
                return m.RecordFinished(attempt=attempt, outputs=(Output(render.id),))
            case "failed":
                return m.RecordBroken(attempt=attempt, fault=Fault("generation_failed", "it broke"), billed="no")
            case "cancelled":
                return m.RecordStopped(attempt=attempt, billed="unknown")
            case "running":
                return m.RecordProgress(attempt=attempt, percent=self.rng.randrange(100))

    def ask(self, owed: m.Ask) -> None:
        if owed == self._current and isinstance(self.job, m.Running):
            trouble = self.rng.random() < 0.2
            report = m.RecordTrouble(fault=TROUBLE) if trouble else self.outcome(owed.attempt, self.job.handle.id)
            self.tell(report, ends=owed)

    def cancel(self, owed: m.CancelRemote) -> None:
        if owed != self._current or not isinstance(self.job, m.Running):
            return
        handle = self.job.handle.id
        if owed.poll_first and self.broken != "destructive_cancel":
            report = self.outcome(owed.attempt, handle)
            if not isinstance(report, m.RecordProgress):
                self.tell(report, ends=owed)
                return
        render = self.provider.look_at(handle, self.now)
        if self.terms.cancel == "destroys" and render.state == "done":
            render.taken_back, render.state = True, "cancelled"
        elif render.state == "running":
            render.state = "cancelled"
        answer: Literal["accepted", "too_late"] = "accepted" if render.state == "cancelled" else "too_late"
        self.tell(m.RecordCancel(attempt=owed.attempt, answer=answer), ends=owed)

    def store(self, owed: m.Store) -> None:
        if owed != self._current:
            return
        if self.rng.random() < 0.3:
            self.tell(m.RecordTrouble(fault=TROUBLE), ends=owed)
            return
        asset = AssetRef("customers/0/assets/video/x.mp4", "0" * 64, 1, "video/mp4")
        self.tell(m.RecordStored(attempt=owed.attempt, take=Take(index=owed.index, asset=asset)), ends=owed)


def requested() -> m.JobRequested:
    """The request of every run."""
    spec = VideoSpec(prompt="a lake", operation=TextToVideo())
    return m.JobRequested(spec=spec, route=(Target(provider="model", model="m"),), start_by=3600.0)


def violations(world: World) -> list[str]:
    """What a run that came to rest must not show."""
    ends = sum(isinstance(e, m.JobSucceeded | m.JobFailed | m.JobCancelled) for e, _ in world.log)
    finished = [r for r in world.provider.renders if r.state == "done"]
    cancelled = any(isinstance(event, m.CancelRequested | m.JobCancelled) for event, _ in world.log)
    rules = {
        "paid twice": world.provider.charges > 1,
        "neither ended nor parked": not isinstance(world.job, m.Ended | m.Parked),
        "ended twice": ends > 1,
        "live state is not the replayed one": world.job != replay(world.log),
        "a finished take was destroyed": any(r.taken_back for r in world.provider.renders),
        "a made take was lost": (
            world.doubt != "E" and bool(finished) and not cancelled and not isinstance(world.job, m.Succeeded)
        ),
        "doubt was not said": (
            bool(world.provider.renders)
            and isinstance(world.job, m.Ended)
            and world.job.billed == "no"
            and world.provider.charges > 0
        ),
    }
    return [rule for rule, violated in rules.items() if violated]


def survey(
    seeds: range, doubt: DoubtClass, cancel: CancelKind = "stops", broken: Rule = ""
) -> tuple[Counter[str], dict[str, int]]:
    """(violations by rule, the first seed that shows each) over many runs."""
    found: Counter[str] = Counter()
    first: dict[str, int] = {}
    for seed in seeds:
        world = World(seed, doubt, cancel, broken)
        world.run()
        for rule in violations(world):
            found[rule] += 1
            first.setdefault(rule, seed)
    return found, first
