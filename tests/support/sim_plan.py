"""What a simulated run is to suffer, as data: drawn from a seed, and shrunk to the few faults that matter."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct
from sim_provider import CANCELS, CLASSES, SimAdapter

WIRE: Final = (  # what becomes of one exchange; the share of each
    ("lost", 3),  # the request never arrives
    ("deaf", 3),  # it is carried out, and the connection dies
    ("hang", 2),  # it is carried out, and no answer ever comes
    ("unsent", 1),  # there is no connection
    ("twice", 2),  # it arrives twice, where that cannot cost anything by itself
    ("busy", 6),  # 429
    ("busy_until", 3),  # 429 with Retry-After
    ("broken", 2),  # 500, and nothing was done
    ("broken_after", 2),  # 500, and it was done
    ("gateway", 1),  # 200 with a gateway's page, and it was done
    ("unavailable", 1),  # 503 with Retry-After
    ("denied", 1),  # 401
    ("invalid", 1),  # 422
    ("garbage", 1),  # it was done, and the answer's bytes are others
)
OUTAGES: Final = ("lost", "deaf", "broken", "busy", "busy_until", "unavailable", "denied", "unsent", "expired")
USERS: Final = ("cancel", "discard", "poll", "collect", "adopt", "give_up")
LAST_FAULT_S: Final = 900.0
HOUR_S: Final = 3600.0


class Suffering(Struct, frozen=True, gc=False, omit_defaults=True):
    """One fault, or one command of a user. `at` counts seconds, exchanges, appends or steps, as its kind says."""

    kind: str
    at: float
    for_s: float = 0.0
    job: int = 0

    def __str__(self) -> str:
        """One line of a fault list."""
        what, _, how = self.kind.partition(":")
        match what:
            case "wire":
                return f"exchange {self.at:.0f}: {how}"
            case "crash":
                return f"crash at step {self.at:.0f}, back after {self.for_s:.1f} s"
            case "torn":
                return f"append {self.at:.0f}: stored, and said to have failed"
            case "user":
                return f"job {self.job}: {how} at {self.at:.1f} s"
            case "jump":
                return f"clock jumps by {self.for_s:+.0f} s at {self.at:.1f} s"
            case "restart":
                return f"graceful restart at {self.at:.1f} s, back after {self.for_s:.1f} s"
            case _:
                return f"{self.kind.replace(':', ' ')} from {self.at:.1f} s for {self.for_s:.1f} s"


class JobPlan(Struct, frozen=True, gc=False):
    """One job that is asked for."""

    provider: str
    at_s: float = 0.0
    elsewhere: str = ""  # where to go when the first provider refuses
    prepares: bool = False
    twice: int = 0  # how often it may be paid again by the user's own wish


class Plan(Struct, frozen=True):
    """One run."""

    seed: int
    jobs: tuple[JobPlan, ...]
    faults: tuple[Suffering, ...] = ()
    plain: bool = False  # every render is done soon, and has one output


PROVIDERS: Final = tuple(SimAdapter(doubt, cancel).name for doubt in CLASSES for cancel in CANCELS)


def drawn(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(f"plan {seed}")
    jobs = tuple([_job(rng) for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))])
    return Plan(seed, jobs, tuple(_faults(rng, len(jobs))))


def _job(rng: random.Random) -> JobPlan:
    return JobPlan(
        provider=rng.choice(PROVIDERS),
        at_s=rng.choice((0.0, 0.0, rng.uniform(0, 60))),
        elsewhere=rng.choice(PROVIDERS) if rng.random() < 0.1 else "",
        prepares=rng.random() < 0.1,
        twice=int(rng.random() < 0.05),
    )


def _faults(rng: random.Random, jobs: int) -> list[Suffering]:
    """At random times, more of them early in a run: most of what can go wrong is about sending."""
    kinds, shares = zip(*WIRE, strict=True)
    exchanges = sorted({_early(rng, 12 * jobs) for _ in range(rng.choice((0, 1, 2, 3, 5, 8)))})
    found = [Suffering(f"wire:{kind}", n) for n, kind in zip(exchanges, rng.choices(kinds, shares, k=8), strict=False)]
    steps = sorted({_early(rng, 40 * jobs) for _ in range(rng.choice((0, 1, 2, 3, 5)))})
    found += [Suffering("crash", step, rng.choice((0.0, 1.0, rng.uniform(0, 200)))) for step in steps]
    if rng.random() < 0.15:
        found.append(Suffering("restart", rng.uniform(0, 100), rng.uniform(0, 60)))
    if rng.random() < 0.3:
        kind = rng.choice(OUTAGES)
        for_s = rng.uniform(5, 100) if kind == "expired" else rng.uniform(5, 600)
        found.append(Suffering(f"outage:{kind}", rng.uniform(0, 200), for_s))
    if rng.random() < 0.15:
        found.append(Suffering("disk_full", rng.uniform(0, 100), rng.uniform(1, 120)))
    if rng.random() < 0.1:
        found.append(Suffering("sink_full", rng.uniform(0, 200), rng.choice((60.0, 300.0, 900.0))))
    if rng.random() < 0.1:
        found.append(Suffering("torn", rng.randint(1, 6 * jobs)))
    if rng.random() < 0.2:
        found.append(Suffering("jump", rng.uniform(0, 200), rng.choice((-HOUR_S, HOUR_S, -10.0, 10.0))))
    for job in range(jobs):
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
            kind = rng.choice((*USERS, "cancel", "cancel"))
            found.append(Suffering(f"user:{kind}", rng.uniform(0, rng.choice((10, 200, LAST_FAULT_S))), job=job))
    return [Suffering(f.kind, round(f.at, 1), round(f.for_s, 1), f.job) for f in found]


def _early(rng: random.Random, last: int) -> int:
    return 1 + int(last * rng.random() ** 2)


def minimal(faults: Sequence[Suffering], is_red: Callable[[Sequence[Suffering]], bool]) -> list[Suffering]:
    """The faults without which it is not red any more: delta debugging by halves, then quarters, then one by one."""
    kept, size = list(faults), max(1, len(faults) // 2)
    while kept:
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            if is_red(fewer):
                kept = fewer
                break
        else:
            if size == 1:
                break
            size = max(1, size // 2)
    return kept
