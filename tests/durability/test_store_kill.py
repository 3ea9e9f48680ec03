"""kill -9 at any moment: what was acknowledged is there, and no append is there by half."""

from __future__ import annotations

import os
import random
import selectors
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest

from rushes.eventstore.sqlite import SqliteStore
from rushes.testing.eventstore import whole_log

VICTIM = Path(__file__).with_name("append_until_killed.py")
LOGS = 30 if os.environ.get("RUSHES_NIGHTLY") else 2
KILLS = 10  # a log
EVENTS = 3  # an append


def killed(path: Path, how: str, after_s: float) -> list[tuple[int, int, int]]:
    """Let it append for a while, kill it, and say what it was told: (stream, version, position)."""
    with subprocess.Popen([sys.executable, VICTIM, path, how], stdout=subprocess.PIPE) as victim:
        assert victim.stdout
        told = victim.stdout.readline()
        end = time.monotonic() + after_s
        with selectors.DefaultSelector() as selector:
            selector.register(victim.stdout, selectors.EVENT_READ)
            while (left_s := end - time.monotonic()) > 0:
                if selector.select(left_s):
                    told += os.read(victim.stdout.fileno(), 65536)
        victim.kill()
        told += victim.stdout.read()
    lines = [line.split() for line in told.decode().split("\n")[:-1]]
    return [(int(stream), int(version), int(position)) for stream, version, position in lines]


async def lost(path: Path, told: list[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
    """What was acknowledged and is not there; and that nothing is there by half."""
    store = await SqliteStore.open(path)
    log = await whole_log(store, 10_000)
    await store.close()
    assert [event.position for event in log] == list(range(1, len(log) + 1))
    for _, events in groupby(sorted((event.stream, event.version) for event in log), key=lambda where: where[0]):
        versions = [version for _, version in events]
        assert versions == list(range(1, len(versions) + 1))
        assert len(versions) % EVENTS == 0
    return set(told) - {(event.stream, event.version, event.position) for event in log}


@pytest.mark.parametrize("log", range(LOGS))
async def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path, log: int) -> None:
    rng = random.Random(log)
    told: list[tuple[int, int, int]] = []
    for _ in range(KILLS):
        told += killed(tmp_path / "rushes.db", "as it is", rng.uniform(0.005, 0.120))
        assert not await lost(tmp_path / "rushes.db", told)
    print(f"log {log} of {LOGS}: {len(told)} acknowledged appends, {KILLS} kills")
    assert len(told) > KILLS


async def test_control_acknowledged_before_the_commit_something_is_lost(tmp_path: Path) -> None:
    for kill in range(20):
        path = tmp_path / f"{kill}.db"
        await (await SqliteStore.open(path)).close()
        if await lost(path, killed(path, "hasty", 0.03)):
            return
    raise AssertionError("20 kills, and the loss was not seen")
