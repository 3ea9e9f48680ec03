"""Logs that earlier releases wrote say the same to this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from make_log import LOG_V1, Log, contents, make

from rushes.eventstore.sqlite import SqliteStore
from rushes.testing.eventstore import OPEN, birth

GOLDEN = Path(__file__).parents[1] / "golden"


def expected(name: str) -> Log:
    return msgspec.json.decode((GOLDEN / f"{name}.json").read_bytes(), type=Log)


@pytest.mark.parametrize("name", [file.stem for file in sorted(GOLDEN.glob("*.db"))])
async def test_a_golden_log_opens_and_says_the_same(tmp_path: Path, name: str) -> None:
    path = shutil.copy(GOLDEN / f"{name}.db", tmp_path)
    reader = await SqliteStore.open_readonly(path)
    assert await contents(reader) == expected(name)
    await reader.close()
    store = await SqliteStore.open(path)
    assert await contents(store) == expected(name)
    grown = await store.append(birth("job_new", tenant="new", head=OPEN))
    assert grown.first == expected(name).position + 1
    await store.close()


async def test_an_old_append_is_recognised_in_a_golden_log(tmp_path: Path) -> None:
    store = await SqliteStore.open(shutil.copy(GOLDEN / "log-v1.db", tmp_path))
    first = await store.append(LOG_V1[0])
    assert (first.first, first.last) == (1, 1)
    assert (await store.append(LOG_V1[2])).last == 6
    assert store.position == expected("log-v1").position
    await store.close()


async def test_todays_code_writes_what_the_golden_log_says(tmp_path: Path) -> None:
    await make(tmp_path / "again.db", LOG_V1)
    assert msgspec.json.decode((tmp_path / "again.json").read_bytes(), type=Log) == expected("log-v1")
