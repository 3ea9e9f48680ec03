"""Both stores against a model: any order of any operations. Nightly, 100,000 operations on each.

The small slice is the same every time (derandomized); the nightly one draws new runs, and prints how to repeat one that
fails.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import broken_stores as broken
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from odd_stores import Gappy

from rushes.eventstore.base import EventStore
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import SqliteStore
from rushes.eventstore.transactions import SHARDS
from rushes.testing.machine import EventStoreMachine

NIGHTLY = bool(os.environ.get("RUSHES_NIGHTLY"))
PARTS = range(10 if NIGHTLY else 1)  # a test may take two minutes
GOAL = 10_000 if NIGHTLY else 1_000  # operations on each store in each part
RUNS = 160 if NIGHTLY else 20
STEPS = 50


class MemoryMachine(EventStoreMachine):
    store_type: type[MemoryStore] = MemoryStore

    async def open(self) -> EventStore:
        return self.store_type()

    async def outdate(self, store: EventStore, stream: int) -> None:
        assert isinstance(store, MemoryStore)
        store.fences[stream] = 5


class GappyMachine(MemoryMachine):
    store_type = Gappy


class SqliteMachine(EventStoreMachine):
    async def open(self) -> EventStore:
        self.folder = Path(tempfile.mkdtemp())
        return await SqliteStore.open(self.folder / "rushes.db")

    async def reopen(self, store: EventStore) -> EventStore:
        await store.close()
        return await SqliteStore.open(self.folder / "rushes.db")

    async def outdate(self, store: EventStore, stream: int) -> None:
        assert isinstance(store, SqliteStore)
        with sqlite3.connect(store.path) as stranger:
            stranger.execute("UPDATE shards SET fence = 5 WHERE id = ?", (stream % SHARDS,))
        stranger.close()

    def clean_up(self) -> None:
        shutil.rmtree(self.folder)


def survey(machine: type[EventStoreMachine], runs: int, phases: Sequence[Phase] = tuple(Phase)) -> int:
    """Run it so many times; the answer is the operations."""
    before = machine.operations
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=STEPS,
            phases=phases,
            derandomize=not NIGHTLY,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return machine.operations - before


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("machine", [MemoryMachine, GappyMachine, SqliteMachine])
def test_any_order_of_any_operations_is_as_in_the_model(
    machine: type[EventStoreMachine], part: int, record_property: Callable[[str, object], None]
) -> None:
    operations = 0
    while operations < GOAL:
        operations += survey(machine, RUNS)
    record_property("operations", operations)
    print(f"{machine.__name__}, part {part}: {operations} operations")


BROKEN: list[type[MemoryStore]] = [
    broken.Forgetful,
    broken.Amnesiac,
    broken.Doubling,
    broken.Trusting,
    broken.Glancing,
    broken.Strict,
    broken.Completing,
    broken.Bridging,
    broken.Reviving,
    broken.Hasty,
    broken.Headstrong,
    broken.Unfenced,
    broken.Fenceless,
    broken.Tearing,
    broken.Racing,
    broken.Coercing,
    broken.Rounding,
    broken.Emptying,
    broken.Folding,
    broken.Filtering,
    broken.Skipping,
    broken.Unbounded,
    broken.Wide,
    broken.Deaf,
]


@pytest.mark.parametrize("store", BROKEN)
def test_a_store_that_breaks_a_promise_is_found_out(store: type[MemoryStore]) -> None:
    class Broken(MemoryMachine):
        operations = 0
        patience_s = 0.01
        store_type = store

    with pytest.raises(Exception) as found:  # noqa: PT011 - whatever gives it away
        survey(Broken, 2_000, [Phase.generate])  # it ends with the first that is red
    print(f"{store.__name__}: {Broken.operations} operations until {type(found.value).__name__}")
