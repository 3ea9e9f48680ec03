"""Recordings out of real folders: whole, beside their owner, of damaged logs, and of what was imported."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest
import structlog
from shop import FOREVER, URL, Shop, counterparts, open_shop

from rushes import media, replay
from rushes.adapters.installed import distribution_of
from rushes.faults import NotFound, Unavailable, Unreadable
from rushes.main import Settings, open_studio
from rushes.replay.export import import_path
from rushes.replay.reading import inputs_of
from rushes.studio import Studio

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
ADAPTERS = counterparts()


@pytest.fixture(autouse=True)
def _as_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shop's clips are no videos: nobody looks."""
    monkeypatch.setattr(media, "available", lambda: False)


@asynccontextmanager
async def studio_of(folder: Path, shop: Shop) -> AsyncIterator[Studio]:
    settings = Settings(data=str(folder), default_model="shop-e/m")
    async with open_studio(settings=settings, adapters=dict(ADAPTERS), environ={URL: shop.url}) as studio:
        yield studio


async def jobs(folder: Path, *models: str) -> list[str]:
    """The names of jobs that ran to their end, one after the other."""
    names = []
    async with open_shop() as shop, studio_of(folder, shop) as studio:
        for model in models:
            job = await studio.generate("a lake at dawn", model=model)
            await job.result(timeout_s=10)
            names.append(job.id)
    return names


async def test_a_real_life_is_read_with_all_that_was_kept_and_runs_again_the_same(tmp_path: Path) -> None:
    """Over sockets, in real time: what the clock and the disk did to it makes no difference."""
    names = await jobs(tmp_path, *[f"shop-{kind}/m" for kind in "abcde"])
    for name in names:
        recording = replay.load(tmp_path, name)
        assert (recording.job_id, recording.tenant, recording.source) == (name, "default", str(tmp_path))
        assert [event.version for event in recording.events] == [*range(1, len(recording.events) + 1)]
        assert {one.flow for one in recording.exchanges} == {"prepare", "submit", "status", "download"}
        assert recording.head is not None
        assert not recording.head.open
        assert recording.versions.keys() >= {"rushes", "python", "sqlite"}
        assert replay.verify(recording).verdict == "same"
        report = replay.rerun(recording, dict(ADAPTERS))
        assert (report.verdict, report.why) == ("same", ""), report.difference


async def test_all_jobs_come_the_oldest_first_and_can_begin_late(tmp_path: Path) -> None:
    names = await jobs(tmp_path, "shop-e/m", "shop-b/m", "shop-a/m")
    found = await asyncio.to_thread(lambda: [*replay.load_all(tmp_path)])
    assert [one.job_id for one in found] == names
    later = replay.load_all(tmp_path, since=found[1].events[0].at)
    assert [one.job_id for one in later] == names[1:]
    async with replay.shelf(tmp_path / "rushes.db", tmp_path / "flight.db") as shelf:
        assert [one async for one in shelf.jobs()] == found
        assert await shelf.job(names[1]) == found[1]
        with pytest.raises(NotFound):
            await shelf.job("job_x")


async def test_a_folder_is_read_beside_its_owner(tmp_path: Path) -> None:
    async with open_shop() as shop, studio_of(tmp_path, shop) as studio:
        job = await studio.generate(FOREVER)
        async with asyncio.timeout(10):
            while "submission.accepted" not in [event.type for event in replay.load(tmp_path, job.id).events]:
                await job.poll()
        recording = replay.load(tmp_path, job.id)
        assert recording.head is not None
        assert recording.head.open
        assert replay.verify(recording).verdict == "same"


def test_where_there_is_nothing_that_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="job_x"):
        replay.load(tmp_path, "job_x")
    with pytest.raises(NotFound, match="no log"):  # none at all would look like jobs that are all the same
        next(replay.load_all(tmp_path))
    for name in ("../job_x", "a/b", "job\n"):
        with pytest.raises(NotFound):
            replay.load(tmp_path, name)
    assert not [*tmp_path.iterdir()]


def test_a_file_that_is_no_log_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "rushes.db").write_bytes(b"my diary" * 200)
    with pytest.raises(Unavailable, match="cannot be read"):
        replay.load(tmp_path, "job_x")
    assert (tmp_path / "rushes.db").read_bytes() == b"my diary" * 200


async def test_a_damaged_event_is_named_and_spoils_no_other_job(tmp_path: Path) -> None:
    bad, good = await jobs(tmp_path, "shop-e/m", "shop-e/m")
    with closing(sqlite3.connect(tmp_path / "rushes.db")) as db, db:
        db.execute("DROP TRIGGER events_never_change")
        db.execute("UPDATE events SET data = '{}' WHERE stream = 1 AND version = 3")
    with pytest.raises(Unreadable, match=f"Event 3 of {bad}"):
        replay.load(tmp_path, bad)
    reports = {one.job_id: replay.verify(one) for one in replay.load_all(tmp_path)}
    assert reports[good].verdict == "same"
    assert reports[bad].verdict == "cannot"
    assert reports[bad].why.startswith(f"Event 3 of {bad} is missing or damaged")
    (again,) = [replay.rerun(one, dict(ADAPTERS)) for one in replay.load_all(tmp_path) if one.job_id == bad]
    assert (again.verdict, again.why) == ("cannot", reports[bad].why)


async def test_what_the_log_keeps_beside_the_events_is_compared(tmp_path: Path) -> None:
    (name,) = await jobs(tmp_path, "shop-e/m")
    with closing(sqlite3.connect(tmp_path / "rushes.db")) as db, db:
        db.execute("UPDATE streams SET open = 1")
    report = replay.verify(replay.load(tmp_path, name))
    assert report.difference is not None
    assert (report.verdict, report.difference.path) == ("diverged", "head.open")


async def test_an_imported_job_is_found_where_the_log_has_none(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (name,) = await jobs(here, "shop-b/m")
    recording = replay.load(here, name)
    replay.write_file(recording, tmp_path / "job.rushes.json")
    replay.import_file(tmp_path / "job.rushes.json", there)
    imported = replay.load(there, name)
    assert imported.source == str(import_path(there, name))
    assert len(imported.events) == len(recording.events)
    with pytest.raises(NotFound, match="no log"):
        next(replay.load_all(there))
    assert replay.verify(imported).verdict == "same"
    assert replay.rerun(imported, dict(ADAPTERS)).verdict == "same"


async def test_the_inputs_are_told_by_their_digests(tmp_path: Path) -> None:
    (name,) = await jobs(tmp_path, "shop-e/m")
    recording = replay.load(tmp_path, name)
    assert recording.inputs == ()
    first = recording.events[0]
    data = msgspec.json.decode(first.data)
    data["spec"]["inputs"] = [
        {"asset": {"key": "inputs/ab/ab", "sha256": "ab" * 32, "size_bytes": 7, "media_type": "image/png"}}
    ]
    stored = msgspec.structs.replace(first, data=msgspec.json.encode(data))
    digest = replay.InputDigest(role="first_frame", sha256="ab" * 32, media_type="image/png", size_bytes=7)
    assert inputs_of([stored]) == (digest,)


def test_an_adapter_is_told_with_its_package() -> None:
    assert distribution_of("replicate").startswith("rushes ")
    assert distribution_of("nobody") == ""
