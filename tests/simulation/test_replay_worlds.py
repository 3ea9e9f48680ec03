"""Simulated lives with everything that can go wrong: their logs imply their commands, and most can be run again."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sim_world
import structlog
from msgspec.structs import replace
from sim_plan import Plan, drawn
from sim_world import _ADAPTERS, EPOCH_S, TENANT, Control, Life, World, live_through

from rushes.actors.perform import Performer
from rushes.flight import Flight, read, read_runs
from rushes.replay import Recording, rerun, timeline, verify

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
NIGHTLY = bool(os.environ.get("RUSHES_NIGHTLY"))
PARTS = [range(first, first + 200) for first in range(0, 10_000 if NIGHTLY else 200, 200)]
# What happens at one of our own steps is in no record, unless a process ended by it.
UNTOLD = ("crash", "torn", "disk_full", "jump")


def lives(plan: Plan) -> Iterator[Recording]:
    """The jobs of a run, without their traffic."""
    world = live_through(plan, Control())
    for name in world.names:
        if history := world.history(name):
            yield Recording(job_id=name, tenant=TENANT, events=tuple(history))


@pytest.mark.parametrize("seeds", PARTS, ids=str)
def test_every_simulated_log_implies_the_commands_that_give_it_back(seeds: range) -> None:
    commands, events = Counter[str](), 0
    for seed in seeds:
        for recording in lives(drawn(seed)):
            report = verify(recording)
            assert report.verdict == "same", (seed, report)
            assert report.events == len(recording.events)
            steps = timeline(recording)
            commands.update(step.command for step in steps)
            events += len(steps)
    print(f"{events} events, from {dict(commands)}")
    assert len(commands) >= 17
    assert events > 1_500


def test_control_an_event_that_is_left_out_is_seen() -> None:
    seen = 0
    for recording in lives(drawn(1)):
        for place, event in enumerate(recording.events[:-1]):
            if event.type in {"job.requested", "submission.started", "submission.accepted", "generation.finished"}:
                behind = [replace(one, version=one.version - 1) for one in recording.events[place + 1 :]]
                report = verify(replace(recording, events=(*recording.events[:place], *behind)))
                assert report.verdict != "same", event.type
                seen += 1
    assert seen > 3


class Clock:
    """The world's, once there is one; the record's thread asks as well."""

    world: World | None = None

    def now(self) -> float:
        return self.world.now() if self.world is not None and hasattr(self.world, "_loop") else EPOCH_S


def recorded(plan: Plan, patch: pytest.MonkeyPatch) -> Iterator[Recording]:
    """The jobs of a run, with their traffic: each process writes the same record."""
    clock, flights = Clock(), list[Flight]()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "flight.db"

        def overheard(adapters: object, line: object, assets: object, world: World, probe: object) -> Performer:
            clock.world = world
            flights.append(Flight(path, clock=clock, base_url=lambda adapter: adapter.address()))
            return Performer(adapters, line, assets, world, probe, flights[-1])  # type: ignore[arg-type]

        def cut(world: World, life: Life) -> None:
            if life.alive:
                flights[-1].close()
            if world.life is life:
                unended(path, world.plan.seed % 3 / 2)
            cut_off(world, life)

        cut_off = World._cut
        patch.setattr(World, "_cut", cut)
        patch.setattr(sim_world, "Performer", overheard)
        recordings = [*lives(plan)]
        patch.undo()
        flights[-1].close()
        for one in recordings:
            exchanges = tuple(read(path, one.job_id))
            times = [event.at for event in one.events] + [exchange.last_at for exchange in exchanges]
            yield replace(one, exchanges=exchanges, runs=tuple(read_runs(path, min(times), max(times))))


def unended(path: Path, lost_s: float) -> None:
    """A process that is killed does not write that it ended, and not what it heard just before."""
    with closing(sqlite3.connect(path)) as db, db:
        (began_at, seen_at) = db.execute("SELECT began_at, seen_at FROM runs ORDER BY began_at DESC").fetchone()
        written_at = max(began_at, seen_at - lost_s)
        db.execute("UPDATE runs SET ended = 0, seen_at = ? WHERE began_at = ?", (written_at, began_at))
        db.execute("DELETE FROM exchanges WHERE at > ?", (written_at,))


@pytest.mark.parametrize("seeds", PARTS, ids=str)
def test_simulated_lives_run_again_the_same(monkeypatch: pytest.MonkeyPatch, seeds: range) -> None:
    """Outages, lost and doubled answers, users and restarts among them; the provider of each class of doubt."""
    phases, otherwise = Counter[str](), list[int]()
    for seed in range(2 * seeds.start, 2 * seeds.stop):
        plan = drawn(seed)
        if any(fault.kind in UNTOLD for fault in plan.faults):
            continue
        for recording in recorded(plan, monkeypatch):
            if rerun(recording, dict(_ADAPTERS)).verdict != "same":
                otherwise.append(seed)
            phases[recording.events[-1].type] += 1
    print(f"{phases.total()} lives: {dict(phases)}; otherwise: {otherwise}")
    assert not otherwise
    assert phases.total() > 50
    assert {"job.succeeded", "job.failed", "job.cancelled", "job.parked"} <= set(phases)


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (882, "a report that came as its process was killed"),
        (5, "an answer that was in the log, and not yet in the flight record, when its process was killed"),
        (309, "a stop in the middle of a cancel, which asks in two steps"),
        (18506, "half a minute without a process, in which a doubt would have ended"),
    ],
)
def test_processes_end_and_begin_when_they_did(monkeypatch: pytest.MonkeyPatch, seed: int, what: str) -> None:
    recordings = [*recorded(drawn(seed), monkeypatch)]
    assert [rerun(one, dict(_ADAPTERS)).verdict for one in recordings] == ["same"] * len(recordings)
    unknowing = [rerun(replace(one, runs=()), dict(_ADAPTERS)).verdict for one in recordings]  # the negative control
    assert set(unknowing) != {"same"}, what


@pytest.mark.parametrize("seeds", PARTS[::4], ids=str)
def test_nearly_all_lives_of_processes_that_die_run_again_the_same(
    monkeypatch: pytest.MonkeyPatch, seeds: range
) -> None:
    """Beside a failing disk, what a process held back for it is in no record; nor is who was first in a millisecond."""
    verdicts = Counter[str]()
    for seed in seeds:
        plan = drawn(seed)
        if any(fault.kind == "jump" for fault in plan.faults):
            continue
        verdicts.update(rerun(one, dict(_ADAPTERS)).verdict for one in recorded(plan, monkeypatch))
    print(dict(verdicts))
    assert verdicts["same"] >= 0.97 * verdicts.total() > 150
    assert not verdicts["cannot"]
