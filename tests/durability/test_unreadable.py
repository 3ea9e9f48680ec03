"""A damaged or unknown event stops its own job, says so, and leaves all others alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from acme import AcmeTwin, Wire, make

from rushes.eventstore.base import Head, NewEvent, Write
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import Unreadable


def flip_a_byte(path: Path, job: str) -> None:
    """What rot does, where a stranger could do it: with the trigger out of the way."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER events_never_change")
        where = "version = 1 AND stream = (SELECT id FROM streams WHERE name = ?)"
        changed = connection.execute(f"UPDATE events SET data = replace(data, 'river', 'RIVER') WHERE {where}", (job,))
        assert changed.rowcount == 1
    connection.close()


async def come_from_a_newer_release(path: Path, job: str) -> None:
    """An event that today's code does not know, stored as it should be."""
    store = await SqliteStore.open(path)
    stream = await store.find(job)
    assert stream is not None
    news = NewEvent("job.teleported", 1, 1.0, b"{}")
    await store.append(Write(stream.id, stream.version, [news], Head(open=True, lane=stream.lane), 1))
    await store.close()


@pytest.mark.parametrize(("damage", "words"), [("rot", "damaged"), ("newer", "newer release")])
async def test_one_bad_stream_stays_alone(tmp_path: Path, damage: str, words: str) -> None:
    wire, path = Wire(AcmeTwin()), tmp_path / "rushes.db"
    wire.twin.done_at_once = False
    store = await SqliteStore.open(path)
    system, studio = make(store, tmp_path, wire)
    await system.start()
    bad, good = await studio.generate("a river"), await studio.generate("a lake")
    await system.stop()
    await store.close()

    if damage == "rot":
        flip_a_byte(path, bad.id)
    else:
        await come_from_a_newer_release(path, bad.id)

    wire.twin.done_at_once = True
    store = await SqliteStore.open(path)
    system, studio = make(store, tmp_path, wire)
    await system.start()
    assert (await studio.job(good.id).result(timeout_s=5)).job.id == good.id
    with pytest.raises(Unreadable, match=words) as unreadable:
        await studio.show(bad.id)
    assert unreadable.value.job_id == bad.id
    with pytest.raises(Unreadable):
        await studio.cancel(bad.id)
    assert [view.id for view in (await studio.jobs()).jobs] == [good.id]
    await system.stop()
    await store.close()
