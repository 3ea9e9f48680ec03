"""Jobs that earlier releases wrote replay to the same states."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from make_jobs import HISTORIES, Facts, facts

from rushes.actors import messages as m
from rushes.actors.codec import decode
from rushes.actors.job import replay
from rushes.eventstore.sqlite import SqliteStore

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", [file.name.partition(".")[0] for file in sorted(GOLDEN.glob("*.states.json"))])
async def test_a_golden_log_of_jobs_replays_to_the_same_states(tmp_path: Path, name: str) -> None:
    states = msgspec.json.decode((GOLDEN / f"{name}.states.json").read_bytes(), type=dict[str, Facts])
    store = await SqliteStore.open(shutil.copy(GOLDEN / f"{name}.db", tmp_path))
    for job, expected in states.items():
        stream = await store.find(job)
        assert stream is not None
        history = await store.read(stream.id)
        assert facts(replay([(decode(recorded), recorded.at) for recorded in history])) == expected
        assert stream.open == (expected.phase not in {"succeeded", "failed", "cancelled"})
    await store.close()


def test_the_golden_log_has_every_event_type() -> None:
    assert {type(event) for history in HISTORIES.values() for event in history} == set(m.TYPES)
