"""Makes a golden log of lived jobs: what today's decider made of every command, and of simulated lives with crashes.

    python tests/golden/make_lives.py NAME        writes NAME.db and NAME.json beside this file

Made once and never again: every later release must decide the same, or say in its changes what differs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from itertools import count, groupby
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from make_jobs import ASKED, BUSY, CLIP, HANDLE, HERE, OUTPUTS, PLAIN, PRICE, PROBE, T0, THERE, started
from make_log import make
from msgspec.structs import replace
from sim_plan import drawn
from sim_world import TENANT, Control, live_through

from rushes.actors import messages as m
from rushes.actors.actor import Actor, Asked, head_of
from rushes.actors.codec import decode
from rushes.actors.job import replay
from rushes.eventstore.base import Birth, NewEvent, Recorded, Write
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Fault
from rushes.units import Handle
from rushes.video import Take

SEEDS: Final = range(15)
MOST_EVENTS: Final = 40
Script = tuple[tuple[float, m.Command], ...]  # when, in seconds from the start, and what is told

TERMS = started().terms  # class B, with a cancel that stops
DENIED = Fault("authentication_failed", "no key")
GONE = Fault("asset_expired", "gone")


def permit(attempt: int = 1, **terms: object) -> m.GrantPermit:
    """What the lane lets go."""
    told = replace(TERMS, **terms)
    return m.GrantPermit(
        attempt=attempt,
        incarnation="00f0e1d2c3b4a596",
        key=f"job_x-{attempt}",
        body_sha256="12" * 32,
        max_cost=PRICE,
        terms=told,
    )


def accepted(attempt: int = 1, send: int = 1) -> m.RecordAccepted:
    """The provider has it."""
    return m.RecordAccepted(attempt=attempt, send=send, handle=HANDLE)


def doubt(attempt: int = 1, send: int = 1) -> m.RecordDoubt:
    """Nobody knows."""
    return m.RecordDoubt(attempt=attempt, send=send, fault=Fault("no_answer", "silence", retryable=True))


def finished(attempt: int = 1) -> m.RecordFinished:
    """Two results."""
    return m.RecordFinished(attempt=attempt, outputs=OUTPUTS, filtered=1, cost=PRICE, metadata={"logs": "ok"})


def stored(index: int, attempt: int = 1) -> m.RecordStored:
    """A file is ours."""
    return m.RecordStored(attempt=attempt, take=Take(index=index, asset=CLIP, probe=PROBE))


def broken(attempt: int, fault: Fault = BUSY) -> m.RecordBroken:
    """It failed there, unbilled."""
    return m.RecordBroken(attempt=attempt, fault=fault, billed="no")


PREPARED: Final[Script] = (
    (0, m.Generate(request=ASKED)),
    (1, m.RecordPrompt(attempt=1, prompt="a lake, slowly")),
    (2, m.RecordPrepared(attempt=1, prepared={"ab12": "https://x.example/in"})),
    (3, m.RecordReserved(attempt=1, amount=PRICE)),
)
BEGUN: Final[Script] = ((0, m.Generate(request=PLAIN)), (0, permit()))
RUNNING: Final[Script] = (*BEGUN, (1, accepted()))
LAZY: Final[Script] = ((0, m.Generate(request=PLAIN)), (0, permit(doubt="E", cancel="no")))
SCRIPTS: Final[dict[str, Script]] = {
    "prepared": (*PREPARED, (4, permit()), (5, accepted()), (9, m.RecordProgress(attempt=1, percent=40))),
    "denied": ((0, m.Generate(request=ASKED)), (1, m.RecordDenied(attempt=1, fault=DENIED))),
    "late": ((0, m.Generate(request=PLAIN)), (86_401, permit())),
    "overslept": ((0, m.Generate(request=PLAIN)), (86_401, m.Wake())),
    "asked late": ((0, m.Generate(request=PLAIN)), (86_401, m.Poll())),
    "elsewhere": (
        *PREPARED,
        (4, permit()),
        (5, m.RecordRefused(attempt=1, send=1, fault=DENIED)),
        (6, m.RecordPrepared(attempt=2, prepared={})),
        (7, m.RecordReserved(attempt=2, amount=PRICE)),
        (8, permit(2)),
        (9, accepted(2)),
    ),
    "busy": (
        *BEGUN,
        (1, m.RecordRefused(attempt=1, send=1, fault=BUSY, retry_at=T0 + 31)),
        (32, permit()),
        (33, accepted(1, 2)),
        (40, finished()),
        (41, stored(0)),
        (42, stored(1)),
        (90, m.Hide()),
    ),
    "refused": (*BEGUN, (1, m.RecordRefused(attempt=1, send=1, fault=DENIED))),
    "cancelled while sent": (
        *BEGUN,
        (1, m.Cancel(by="api", discard=True)),
        (2, m.RecordRefused(attempt=1, send=1, fault=BUSY, retry_at=T0 + 31)),
    ),
    "again": (
        *RUNNING,
        (9, broken(1)),
        (40, permit(2)),
        (41, accepted(2)),
        (49, broken(2, replace(BUSY, retryable=False))),
    ),
    "cancelled": (
        *RUNNING,
        (3, m.Cancel()),
        (4, m.RecordCancel(attempt=1, answer="accepted")),
        (5, m.RecordStopped(attempt=1, billed="no")),
        (6, m.Hide()),
    ),
    "cancelled and broken": (
        *RUNNING,
        (3, m.Cancel()),
        (4, m.RecordCancel(attempt=1, answer="accepted")),
        (5, broken(1)),
    ),
    "cancelled in the queue": ((0, m.Generate(request=ASKED)), (1, m.Cancel(by="api"))),
    "discarded": (*RUNNING, (3, m.Cancel(discard=True)), (9, finished())),
    "too late": (*RUNNING, (9, finished()), (10, m.Cancel()), (11, stored(0)), (12, stored(1))),
    "gone": (
        *RUNNING,
        (600, m.RecordVanished(attempt=1)),
        (700, m.Collect()),
        (701, finished()),
        (702, m.RecordLinks(attempt=1, outputs=OUTPUTS)),
        (703, m.RecordLost(attempt=1, index=0, fault=GONE)),
        (704, stored(1)),
    ),
    "lost": (
        *RUNNING,
        (9, finished()),
        (10, m.RecordLost(attempt=1, index=0, fault=GONE)),
        (11, m.RecordLost(attempt=1, index=1, fault=GONE)),
    ),
    "withheld": (*RUNNING, (9, m.RecordFinished(attempt=1, outputs=(), filtered=1))),
    "detached": (
        *RUNNING,
        (700, m.RecordProgress(attempt=1, percent=None)),
        (800, finished()),
        (801, stored(0)),
        (802, stored(1)),
    ),
    "without a key": (*RUNNING, (700, m.RecordTrouble(fault=DENIED)), (800, m.GiveUp(by="api"))),
    "given up": (*RUNNING, (700, m.RecordTrouble(fault=BUSY)), (701, m.Cancel()), (1500, m.RecordTrouble(fault=BUSY))),
    "in doubt": (
        *BEGUN,
        (1, doubt()),
        (3, m.RecordAbsent(attempt=1, send=1, looked_at=T0 + 2)),
        (9, m.RecordAbsent(attempt=1, send=1, looked_at=T0 + 8)),
        (10, permit()),
        (11, doubt(1, 2)),
        (12, accepted(1, 2)),
        (20, m.RecordProgress(attempt=1, percent=100)),
        (30, m.RecordProgress(attempt=1, percent=150)),
    ),
    "in doubt for good": ((0, m.Generate(request=PLAIN)), (0, permit()), (1, doubt()), (600, m.Wake())),
    "never known": (*LAZY, (1, doubt()), (9, m.Resubmit(accept_cost=True)), (10, permit(2)), (11, accepted(2))),
    "named": (*LAZY, (1, doubt()), (9, m.Collect(handle=Handle("p9"))), (10, finished())),
    "called back": (*LAZY, (1, doubt()), (9, accepted()), (10, m.Cancel()), (11, finished())),
    "given up in doubt": (*LAZY, (1, doubt()), (9, m.GiveUp())),
    "cancelled in doubt": (*LAZY, (1, doubt()), (9, m.Cancel(by="api"))),
    "cancelled when parked": (*RUNNING, (700, m.RecordTrouble(fault=BUSY)), (701, m.Cancel(by="api", discard=True))),
    "paid again": (
        (0, m.Generate(request=replace(PLAIN, at_least_once=1, route=(THERE,)))),
        (0, permit(doubt="E")),
        (1, doubt()),
        (2, permit(2)),
        (3, accepted(2)),
    ),
    "hidden": ((0, m.Generate(request=replace(PLAIN, route=(HERE,)))), (1, m.Cancel()), (2, m.Hide())),
}


async def scripted(name: str, script: Script, tokens: Iterator[int]) -> list[Recorded]:
    """One life, decided by today's code, a turn for each time."""
    store, actor = MemoryStore(), Actor(f"job_{name.replace(' ', '_')}", TENANT)
    for at, turns in groupby(script, key=lambda one: one[0]):
        turn = actor.decide([Asked(command) for _, command in turns], T0 + at)
        if turn.decided:
            actor.become(turn, await store.append(actor.write(turn, next(tokens), 0)))
    assert actor.stream is not None
    return await store.read(actor.stream)


def lives() -> dict[str, list[Recorded]]:
    """All of them, by name."""
    tokens = count(1)
    made = {f"job_{name.replace(' ', '_')}": asyncio.run(scripted(name, one, tokens)) for name, one in SCRIPTS.items()}
    for seed in SEEDS:
        world = live_through(drawn(seed), Control())
        histories = {name: world.history(name) for name in world.names}
        made |= {name: history for name, history in histories.items() if 0 < len(history) <= MOST_EVENTS}
    return made


def writes(made: dict[str, list[Recorded]]) -> list[Write]:
    """Each append of each life, as it was."""
    found: list[Write] = []
    for number, (name, history) in enumerate(made.items(), 1):
        for token, events in groupby(history, key=lambda one: one.token):
            found.append(_write(number, name, history, token, [*events]))
    return found


def _write(number: int, name: str, history: Sequence[Recorded], token: int, events: Sequence[Recorded]) -> Write:
    first = events[0].version
    job = replay([(decode(one), one.at) for one in history[: events[-1].version]])
    new = [NewEvent(one.type, one.v, one.at, one.data, one.meta) for one in events]
    return Write(Birth(name, "job", TENANT) if first == 1 else number, first - 1, new, head_of(job), token)


if __name__ == "__main__":
    asyncio.run(make(Path(__file__).with_name(f"{sys.argv[1]}.db"), writes(lives())))
