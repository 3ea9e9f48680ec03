"""What every group needs: the knobs, a folder that is gone afterwards, the disk's own pace, and one line a figure."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

T = TypeVar("T")

BUILD: Final = Path(__file__).parents[1] / "build"  # on the disk of the repository
RAM_DISK: Final = Path("/dev/shm")  # noqa: S108 - looked at, and used through tempfile only
FLUSHES: Final = 40  # before every pair
FLUSH_BYTES: Final = 4096


class BadKnob(Exception):
    """An environment variable that cannot be meant."""


class Knobs(Struct, frozen=True):
    """How a run is to be made."""

    folder: Path  # on the disk that is measured
    rounds: int = 5
    scale: float = 1.0  # of every count of events; below 1 only to see that it runs
    nightly: bool = False

    def scaled(self, count: int, at_least: int = 1) -> int:
        """A count at this run's scale."""
        return max(at_least, round(count * self.scale))


class Figure(Struct, frozen=True, kw_only=True):
    """One measured figure. `more` are further members of its line."""

    name: str
    value: float | None  # the median of the rounds; None: not measured, `more` says why
    unit: str
    ratio: float | None = None  # the median of the rounds' ratios, candidate to floor
    floor: float | None = None  # the floor's median, in the same unit
    rounds: int = 0
    fsync_p50_us: float | None = None  # of the same folder, measured between the rounds
    more: Mapping[str, object] = {}

    def line(self, scale: float) -> str:
        """Its JSON."""
        members = msgspec.to_builtins(self)
        more = members.pop("more")
        where = {"scale": scale, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
        return msgspec.json.encode({**_rounded(members), **_rounded(more), **where}).decode()


def skipped(name: str, unit: str, reason: str) -> Figure:
    """A figure that could not be measured here."""
    return Figure(name=name, value=None, unit=unit, more={"skipped": reason})


def knobs(env: Mapping[str, str]) -> Knobs:
    """The run that the environment asks for.

    Raises:
        BadKnob: a variable that is no number, or out of its range, or no folder.
    """
    folder = Path(env.get("BENCH_DIR") or BUILD)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadKnob(f"BENCH_DIR={folder} cannot be used: {error.strerror}. Give a folder on a local disk.") from error
    return Knobs(
        folder,
        _number(env, "BENCH_ROUNDS", "5", int),
        _number(env, "BENCH_SCALE", "1", float),
        bool(env.get("RUSHES_NIGHTLY")),
    )


def _number(env: Mapping[str, str], name: str, otherwise: str, kind: Callable[[str], T]) -> T:
    text = env.get(name) or otherwise
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1_000:
            return kind(text)
    raise BadKnob(f"{name}={text} is not understood: give a number above 0 and below 1000, {otherwise} by default.")


def _rounded(members: Mapping[str, object]) -> dict[str, object]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in members.items()}


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder of our own in there, gone afterwards whatever happens."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """No collection of what was prepared beforehand falls into the time that is measured."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def flushes_us(folder: Path) -> list[float]:
    """What some flushes of this disk cost: fdatasync behind 4 KiB at the end of a file."""
    flush = getattr(os, "fdatasync", os.fsync)
    with tempfile.TemporaryFile(dir=folder) as file:
        took_us = []
        for _ in range(FLUSHES):
            os.write(file.fileno(), bytes(FLUSH_BYTES))
            began = time.perf_counter()
            flush(file.fileno())
            took_us.append((time.perf_counter() - began) * 1e6)
    return took_us


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' ratios: both of a pair were measured side by side, so a disk that drifts drops out."""
    return median([a / b for a, b in zip(over, under, strict=True)])


# ── Side by side ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Rounds(Struct, frozen=True):
    """What the sides reached, one number a round for each."""

    candidate: list[float]
    floor: list[float]
    others: list[list[float]]
    flushes_us: list[float]

    def figure(self, name: str, unit: str, more: Mapping[str, object]) -> Figure:
        """The candidate's, beside its floor."""
        return Figure(
            name=name,
            value=median(self.candidate),
            unit=unit,
            ratio=ratio(self.candidate, self.floor),
            floor=median(self.floor),
            rounds=len(self.candidate),
            fsync_p50_us=median(self.flushes_us),
            more=more,
        )


def alternate(
    run: Knobs, candidate: Callable[[], float], floor: Callable[[], float], *others: Callable[[], float]
) -> Rounds:
    """Each side in turn, round by round."""
    rounds = Rounds([], [], [[] for _ in others], [])
    for _ in range(run.rounds):
        rounds.flushes_us.extend(flushes_us(run.folder))
        for measure, reached in zip(
            (candidate, floor, *others), (rounds.candidate, rounds.floor, *rounds.others), strict=True
        ):
            with settled():
                reached.append(measure())
    return rounds
