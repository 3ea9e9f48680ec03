"""The group `log`: appends, replay and growth of the event store, beside what SQLite and a peer can do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from bench import replays, sizes
from bench.appends import Pair, Pass, pair
from bench.figures import RAM_DISK, Figure, Knobs, median, ratio

APPENDS: Final = {1: 1_000, 100: 300, 1_000: 60}  # by each of so many writers
BUSY: Final = 1_000  # writers


# ── Appends ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def append(run: Knobs, writers: int) -> Iterator[Figure]:
    """Durable appends a second."""
    appends = run.scaled(APPENDS[writers], 2)
    pairs = [pair(run.folder, writers, appends) for _ in range(run.rounds)]
    candidates, floors = _sides(pairs)
    bare = [each.bare.rate for each in pairs]
    commits, fewest = median([len(each.batches) for each in candidates]), math.ceil(candidates[0].events / writers)
    fsync_p50_us = _fsync_p50_us(pairs)
    yield Figure(
        name=f"log.append.{writers}",
        value=median(rates := [each.rate for each in candidates]),
        unit="events/s",
        ratio=ratio(rates, [each.rate for each in floors]),
        floor=median([each.rate for each in floors]),
        rounds=run.rounds,
        fsync_p50_us=fsync_p50_us,
        more={
            "events": candidates[0].events,
            "commits": commits,
            "commits_at_best": fewest,
            "commits_ratio": commits / fewest,
            "p50_ms": median([each.wait_ms(0.5) for each in candidates]),
            "p99_ms": median([each.wait_ms(0.99) for each in candidates]),
            "p99_limit_ms": 4 * fsync_p50_us / 1e3 + 3,
            "cpu_us": median([each.cpu_us for each in candidates]),
            "floor_cpu_us": median([each.cpu_us for each in floors]),
            "bare": median(bare),
            "bare_ratio": ratio(rates, bare),
        },
    )


def cpu(run: Knobs) -> Iterator[Figure]:
    """Processor time of an append, where the disk costs nothing."""
    folder = RAM_DISK if RAM_DISK.is_dir() else run.folder
    rounds: list[tuple[Pair, Pair]] = []
    for _ in range(run.rounds):
        both = [pair(folder, BUSY, run.scaled(APPENDS[BUSY], 2), triggers=triggers) for triggers in (True, False)]
        rounds.append((both[0], both[1]))
    for name, pairs in zip(("log.cpu_us", "log.cpu_us.no_triggers"), zip(*rounds, strict=True), strict=True):
        candidates, floors = _sides(pairs)
        yield Figure(
            name=name,
            value=median(spent := [each.cpu_us for each in candidates]),
            unit="us/event",
            ratio=ratio(spent, [each.cpu_us for each in floors]),
            floor=median([each.cpu_us for each in floors]),
            rounds=run.rounds,
            fsync_p50_us=_fsync_p50_us(pairs),
            more={"writers": BUSY, "events": candidates[0].events, "ram_disk": folder == RAM_DISK},
        )


def _sides(pairs: Sequence[Pair]) -> tuple[list[Pass], list[Pass]]:
    return [each.candidate for each in pairs], [each.floor for each in pairs]


def _fsync_p50_us(pairs: Sequence[Pair]) -> float:
    return median([took for each in pairs for took in each.flushes_us])


# ── All of them ───────────────────────────────────────────────────────────────────────────────────────────────────────

FIGURES: Final[dict[str, Callable[[Knobs], Iterator[Figure]]]] = {
    **{f"log.append.{writers}": partial(append, writers=writers) for writers in APPENDS},
    "log.cpu_us": cpu,
    "log.replay.long": replays.long,
    "log.replay.short": replays.short,
    "log.replay.all": replays.whole,
    "log.size": sizes.sizes,
}
