"""A log is looked through, copied while it grows, and put back: what is wrong is named, and nothing is made worse."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rushes.eventstore import upkeep
from rushes.eventstore.base import Head, NewEvent, StoreError, StoreUnavailable, Write
from rushes.eventstore.marker import HistoryLost, lost_history, marker_path, read_marker
from rushes.eventstore.sqlite import SqliteStore
from rushes.eventstore.upkeep import Finding, Report
from rushes.faults import BadRequest
from rushes.main import refold
from rushes.testing.eventstore import birth, more, whole_log

GOLDEN = Path(__file__).parents[1] / "golden"
VICTIM = Path(__file__).with_name("restore_until_killed.py")
PAGE_BYTES = 4_096
JOB = "job_succeeded"  # of the golden log: the stream that is tampered with


def nothing(finding: Finding) -> None:
    """There is to be no finding."""
    raise AssertionError(finding)


def looked(path: Path, *, fix: bool = False) -> tuple[list[Finding], Report]:
    found: list[Finding] = []
    report = upkeep.verify(path, found.append, refold, fix=fix)
    assert sum(report.found.values()) == len(found)
    return found, report


def kinds(path: Path) -> list[str]:
    return [finding.kind for finding in looked(path)[0]]


def tampered(path: Path, *statements: str) -> None:
    """What a stranger with another tool does, or a rotten disk."""
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        for (trigger,) in stranger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            stranger.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            stranger.execute(statement)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as stranger:
        return list(stranger.iterdump())


async def grown(path: Path, appends: int, first: int = 0) -> Path:
    store = await SqliteStore.open(path)
    for number in range(first, first + appends):
        await store.append(birth(f"job_{number}", 2, token=number))
    await store.close()
    return path


async def ends_at(path: Path) -> int:
    store = await SqliteStore.open(path)
    position = store.position
    assert [event.position for event in await whole_log(store)] == list(range(1, position + 1))
    await store.close()
    return position


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log with a job in every phase."""
    return Path(shutil.copy(GOLDEN / "jobs-v1.db", tmp_path / "rushes.db"))


# ── Verify ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_good_log_has_no_findings(path: Path) -> None:
    found, report = looked(path)
    assert found == []
    with closing(sqlite3.connect(path)) as stranger:
        counts = stranger.execute("SELECT (SELECT count(*) FROM streams), (SELECT count(*) FROM events)").fetchone()
    assert (report.streams, report.events, report.position) == (*counts, counts[1])


OF_JOB = f"stream = (SELECT id FROM streams WHERE name = '{JOB}')"
TAMPERING: dict[str, tuple[list[str], list[tuple[str, int | None]]]] = {
    "bytes": ([f"UPDATE events SET data = '{{}}' WHERE {OF_JOB} AND version = 2"], [("damaged", 2)]),
    "no text any more": ([f"UPDATE events SET data = X'FFFE' || '' WHERE {OF_JOB} AND version = 2"], [("damaged", 2)]),
    "an event": ([f"DELETE FROM events WHERE {OF_JOB} AND version = 2"], [("position", None), ("version", 3)]),
    "the stream's row": ([f"DELETE FROM streams WHERE name = '{JOB}'"], [("orphan", None)]),
    "all its events": ([f"DELETE FROM events WHERE {OF_JOB}"], [("position", None), ("empty", None)]),
    "its open flag": ([f"UPDATE streams SET open = 1 WHERE name = '{JOB}'"], [("head", None)]),
    "its lane": ([f"UPDATE streams SET lane = 'x/' WHERE name = '{JOB}'"], [("head", None)]),
    "the tenant": (["UPDATE tenants SET id = 7"], [("tenant", None)]),
    "an event's place": ([f"UPDATE events SET version = 99 WHERE {OF_JOB} AND version = 3"], [("version", 4)]),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_what_was_tampered_with_is_named(path: Path, how: str) -> None:
    statements, expected = TAMPERING[how]
    tampered(path, *statements)
    found, _ = looked(path)
    for kind, version in expected:
        there = [finding for finding in found if (finding.kind, finding.version) == (kind, version)]
        assert there, found
        assert kind in {"position", "orphan"} or how == "the tenant" or {one.stream for one in there} == {JOB}
        assert all(one.detail.endswith((".", "row.")) for one in there), "every finding says what to do"


def test_a_stream_of_another_tenant_than_its_events_is_named(path: Path) -> None:
    tampered(path, "INSERT INTO tenants VALUES (2, 'other')", f"UPDATE streams SET tenant = 2 WHERE name = '{JOB}'")
    found, _ = looked(path)
    assert {(finding.kind, finding.stream) for finding in found} == {("tenant", JOB)}
    assert found[0].version == 1


@pytest.mark.parametrize(
    "event",
    [
        NewEvent("job.teleported", 1, 1.0, b"{}"),
        NewEvent("job.succeeded", 9, 1.0, b"{}"),
        NewEvent("take.stored", 1, 1.0, b'{"index": "x"}'),
    ],
)
async def test_an_event_that_this_release_cannot_read_is_named(path: Path, event: NewEvent) -> None:
    store = await SqliteStore.open(path, release="9.8.7")
    stream = await store.find("job_running")
    assert stream
    stored = await store.append(Write(stream.id, stream.version, [event], Head(open=True, lane=stream.lane), 1))
    await store.close()
    (finding,), _ = looked(path)
    assert (finding.kind, finding.stream) == ("unreadable", "job_running")
    assert (finding.version, finding.position) == (stream.version + 1, stored.last)
    assert f"{event.type} v{event.v}" in finding.detail
    assert "9.8.7" in finding.detail


def test_a_kind_of_streams_that_this_release_does_not_know_is_named(path: Path) -> None:
    tampered(path, f"UPDATE streams SET kind = 'account' WHERE name = '{JOB}'")
    assert kinds(path) == ["unreadable"]


def test_control_a_store_on_its_own_looks_at_no_payload(path: Path) -> None:
    tampered(path, f"UPDATE streams SET open = 1, kind = 'account' WHERE name = '{JOB}'")
    upkeep.verify(path, nothing)


async def test_a_lost_tail_is_named_by_the_marker_alone(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 5)
    tampered(path, "DELETE FROM events WHERE position > 8", "DELETE FROM streams WHERE id = 5")
    found: list[Finding] = []
    upkeep.verify(path, found.append)
    assert [finding.kind for finding in found] == ["marker"]
    assert "2 positions are missing" in found[0].detail
    marker_path(path).unlink()
    upkeep.verify(path, nothing)  # the control


def damage_page(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)


async def test_whichever_page_is_damaged_it_is_noticed(tmp_path: Path) -> None:
    whole = await grown(tmp_path / "whole.db", 300)
    pages = whole.stat().st_size // PAGE_BYTES
    assert pages > 20
    told = 0
    for page in range(pages):
        path = Path(shutil.copyfile(whole, tmp_path / "rushes.db"))
        damage_page(path, page)
        found: list[Finding] = []
        try:
            upkeep.verify(path, found.append)
        except StoreError:
            continue
        assert "file" in {finding.kind for finding in found}, f"page {page}"
        told += 1
    assert told > pages // 2


async def test_an_index_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:  # insert past the index
        stranger.execute("PRAGMA writable_schema = ON")
        table = stranger.execute("SELECT rowid, sql FROM sqlite_master WHERE name = 'events'").fetchone()
        index = stranger.execute("SELECT * FROM sqlite_master WHERE name = 'sqlite_autoindex_events_1'").fetchone()
        stranger.execute("DELETE FROM sqlite_master WHERE name = 'sqlite_autoindex_events_1'")
        plain = table[1].replace(", UNIQUE(stream, version)", "")
        stranger.execute("UPDATE sqlite_master SET sql = ? WHERE rowid = ?", (plain, table[0]))
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("DROP TRIGGER events_are_never_replaced")
        stranger.execute(
            "INSERT INTO events SELECT 7, 3, 3, type, v, at, data, meta, tenant, token, crc FROM events LIMIT 1"
        )
        stranger.execute("PRAGMA writable_schema = ON")
        stranger.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'events'", (table[1],))
        stranger.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)
    found: list[Finding] = []
    upkeep.verify(path, found.append)
    assert [(finding.kind, "index leads to 6 of 7" in finding.detail) for finding in found] == [("file", True)]


def test_strangers_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    cats, text, empty = tmp_path / "cats.db", tmp_path / "text.db", tmp_path / "empty.db"
    with closing(sqlite3.connect(cats)) as stranger, stranger:
        stranger.execute("CREATE TABLE cats(name)")
    text.write_bytes(b"not a database" * 500)
    empty.touch()
    for path in (cats, text, empty):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=r"not an event log|cannot be read as a log"):
            upkeep.verify(path, nothing)
        assert path.read_bytes() == before
    with pytest.raises(BadRequest, match="There is no log"):
        upkeep.verify(tmp_path / "nothing.db", nothing)


async def test_beside_an_owner_nothing_is_found_and_nobody_waits(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 200)
    store = await SqliteStore.open(path)
    looking = asyncio.ensure_future(asyncio.to_thread(upkeep.verify, path, nothing))
    number = 200
    while not looking.done():
        stored = await store.append(birth(f"job_{number}", 3, token=number))
        await store.append(more(stored.stream, 3, 2))
        number += 1
    report = await looking
    assert report.found == {}
    assert number > 200
    await store.close()


async def test_memory_is_bounded_however_long_a_stream_is(tmp_path: Path) -> None:
    path = tmp_path / "rushes.db"
    store = await SqliteStore.open(path)
    stored = await store.append(birth("job_long"))
    for number in range(20):
        await store.append(more(stored.stream, 1 + number * 1_000, 1_000, token=number))
    await store.close()

    def peak_bytes(page: int) -> int:
        before, upkeep.PAGE = upkeep.PAGE, page  # type: ignore[misc]  # the control breaks it
        tracemalloc.start()
        upkeep.verify(path, nothing)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        upkeep.PAGE = before  # type: ignore[misc]
        return peak

    assert peak_bytes(upkeep.PAGE) < 3_000_000 < peak_bytes(1_000_000)


# ── Fix ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fixing_rewrites_heads_and_nothing_else(path: Path) -> None:
    whole = dump(path)
    with closing(sqlite3.connect(path)) as stranger, stranger:
        stranger.execute("UPDATE streams SET open = 1 - open, lane = 'nowhere/'")
    found, report = looked(path, fix=True)
    assert {finding.kind for finding in found} == {"head"}
    assert all(finding.fixed for finding in found)
    assert (report.fixed, report.wrong) == (len(found), 0)
    assert dump(path) == whole
    assert kinds(path) == []


def test_fixing_leaves_a_damaged_job_as_it_is(path: Path) -> None:
    tampered(path, f"UPDATE events SET data = '{{}}' WHERE {OF_JOB} AND version = 2", "UPDATE streams SET open = 1")
    found, report = looked(path, fix=True)
    assert [finding.kind for finding in found if not finding.fixed] == ["damaged"]
    assert report.wrong == 1
    with closing(sqlite3.connect(path)) as stranger:
        assert stranger.execute("SELECT open FROM streams WHERE name = ?", (JOB,)).fetchone() == (1,)


# ── Backup ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_backup_of_a_growing_log_is_one_moment_of_it(tmp_path: Path) -> None:
    path, file = await grown(tmp_path / "rushes.db", 500), tmp_path / "backup.db"
    store = await SqliteStore.open(path)
    copying = asyncio.ensure_future(asyncio.to_thread(upkeep.backup, path, file, nothing))
    number = 500
    while not copying.done():
        await store.append(birth(f"job_{number}", 2, token=number))
        number += 1
    report = await copying
    log = await whole_log(store)
    await store.close()
    assert 1_000 <= report.position < len(log)
    copy = await SqliteStore.open_readonly(file)
    assert await whole_log(copy) == log[: report.position]
    assert copy.epoch == store.epoch
    await copy.close()
    assert sorted(one.name for one in tmp_path.glob("backup*")) == ["backup.db"], "one file that opens anywhere"


async def test_control_a_copied_file_lacks_what_is_in_the_wal(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "rushes.db")
    await store.append(birth("job_1", 2))
    shutil.copyfile(store.path, tmp_path / "copied.db")
    upkeep.backup(store.path, tmp_path / "backup.db", nothing)
    await store.close()
    assert await ends_at(tmp_path / "backup.db") == 2
    assert await ends_at(tmp_path / "copied.db") == 0


def test_a_backup_replaces_nothing(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "precious.txt"
    file.write_text("precious")
    with pytest.raises(BadRequest, match="replaces nothing"):
        upkeep.backup(path, file, nothing)
    assert file.read_text() == "precious"
    with pytest.raises(BadRequest, match="there is no folder"):
        upkeep.backup(path, tmp_path / "nowhere" / "backup.db", nothing)


def test_a_part_that_an_earlier_backup_left_is_no_obstacle(path: Path, tmp_path: Path) -> None:
    (tmp_path / "backup.db.part").write_bytes(b"half" * 1000)
    upkeep.backup(path, tmp_path / "backup.db", nothing)
    assert kinds(tmp_path / "backup.db") == []


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_no_part(path: Path, tmp_path: Path) -> None:
    before = sorted(one.name for one in tmp_path.iterdir())
    with full_disk(20_000), pytest.raises(StoreUnavailable, match=r"backup\.db could not be written .*see to the disk"):
        upkeep.backup(path, tmp_path / "backup.db", nothing)
    assert sorted(one.name for one in tmp_path.iterdir() if "rushes.db-" not in one.name) == before


def test_damaged_events_are_said_and_the_others_saved(path: Path, tmp_path: Path) -> None:
    tampered(path, f"UPDATE events SET data = '{{}}' WHERE {OF_JOB} AND version = 2")
    found: list[Finding] = []
    report = upkeep.backup(path, tmp_path / "backup.db", found.append, refold)
    assert (report.found, [finding.stream for finding in found]) == ({"damaged": 1}, [JOB])
    assert kinds(tmp_path / "backup.db") == ["damaged"]


async def test_a_damaged_file_is_not_worth_copying(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 300)
    damage_page(path, path.stat().st_size // 2 // PAGE_BYTES)
    with pytest.raises(StoreError, match="verify"):
        upkeep.backup(path, tmp_path / "backup.db", lambda _: None)
    assert list(tmp_path.glob("backup*")) == []


# ── Restore ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def scene(folder: Path, backed_up: int = 10, lost: int = 4) -> tuple[Path, Path]:
    """A log, and a backup from before its last appends."""
    path, file = await grown(folder / "rushes.db", backed_up), folder / "backup.db"
    upkeep.backup(path, file, nothing)
    await grown(path, lost, first=backed_up)
    return path, file


async def test_a_restored_log_is_the_backup_in_a_new_epoch(tmp_path: Path) -> None:
    path, file = await scene(tmp_path)
    old, before = dump(path), file.read_bytes()
    done = upkeep.restore(file, path, nothing, accept_loss=True)
    assert (done.position, done.lost) == (20, 8)
    marker, copy = read_marker(path), await SqliteStore.open_readonly(file)
    assert marker
    assert (marker.epoch, marker.position) == (done.epoch, 20)
    assert done.epoch != copy.epoch
    await copy.close()
    assert await ends_at(path) == 20
    assert done.aside
    assert dump(Path(done.aside)) == old, "the log before is kept"
    assert await ends_at(Path(done.aside)) == 28
    assert file.read_bytes() == before


async def test_positions_are_not_lost_without_a_word(tmp_path: Path) -> None:
    path, file = await scene(tmp_path)
    with pytest.raises(HistoryLost, match=r"8 positions of the log .* would be lost") as lost:
        upkeep.restore(file, path, nothing)
    assert lost.value.missing == 8
    assert await ends_at(path) == 28
    assert not list(tmp_path.glob("*.re*"))


async def test_a_backup_that_has_everything_needs_no_word(tmp_path: Path) -> None:
    path, file = await scene(tmp_path, lost=0)
    assert upkeep.restore(file, path, nothing).lost == 0
    newer = tmp_path / "newer.db"
    upkeep.backup(await grown(path, 3, first=10), newer, nothing)
    upkeep.restore(file, path, nothing, accept_loss=True)
    assert upkeep.restore(newer, path, nothing).lost == 0, "the present log is the beginning of that one"
    assert await ends_at(path) == 26


@pytest.mark.parametrize(("common", "lost"), [(10, 8), (0, 28)])
async def test_another_history_is_counted_from_where_they_part(tmp_path: Path, common: int, lost: int) -> None:
    path, file = await scene(tmp_path)
    other = Path(shutil.copy(file, tmp_path / "other.db")) if common else tmp_path / "other.db"
    await grown(other, 40, first=1_000)
    with pytest.raises(HistoryLost, match=f"{lost} positions"):
        upkeep.restore(other, path, nothing)


@pytest.mark.parametrize("gone", ["deleted", "cut"])
async def test_what_only_the_marker_remembers_counts_too(tmp_path: Path, gone: str) -> None:
    path, file = await scene(tmp_path)
    if gone == "deleted":
        path.unlink()
    else:
        shutil.copyfile(file, path)
    with pytest.raises(HistoryLost, match="8 positions"):
        upkeep.restore(file, path, nothing)
    assert upkeep.restore(file, path, nothing, accept_loss=True).position == 20
    assert await ends_at(path) == 20


async def test_into_an_empty_folder(tmp_path: Path) -> None:
    _, file = await scene(tmp_path)
    (tmp_path / "new").mkdir()
    done = upkeep.restore(file, tmp_path / "new" / "rushes.db", nothing)
    assert (done.lost, done.aside) == (0, None)
    assert await ends_at(tmp_path / "new" / "rushes.db") == 20
    assert sorted(one.name for one in (tmp_path / "new").iterdir()) == ["rushes.db", "rushes.db-marker"]


async def test_a_log_that_cannot_be_read_is_kept_as_it_was(tmp_path: Path) -> None:
    path, file = await scene(tmp_path)
    path.write_bytes(b"rotten" * 5_000)
    path.with_name("rushes.db-wal").write_bytes(b"its wal")
    with pytest.raises(HistoryLost, match="nobody can say"):
        upkeep.restore(file, path, nothing)
    done = upkeep.restore(file, path, nothing, accept_loss=True)
    assert done.aside
    assert Path(done.aside).read_bytes() == b"rotten" * 5_000
    assert Path(f"{done.aside}-wal").read_bytes() == b"its wal"
    assert await ends_at(path) == 20


async def test_a_wal_that_nobody_closed_is_kept_with_the_log_before(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "live.db")
    await store.append(birth("job_1", 5))
    folder = tmp_path / "crashed"
    folder.mkdir()
    for ending in ("", "-wal"):
        shutil.copyfile(f"{store.path}{ending}", folder / f"rushes.db{ending}")
    await store.close()
    path = folder / "rushes.db"
    done = upkeep.restore((await scene(tmp_path))[1], path, nothing, accept_loss=True)
    assert done.lost == 5
    assert await ends_at(path) == 20
    assert done.aside
    assert await ends_at(Path(done.aside)) == 5


REFUSED = {
    "a stranger's": ["DROP TABLE store"],
    "newer layout": ["UPDATE store SET value = 2 WHERE key = 'layout'"],
    "damaged": ["UPDATE events SET data = '{}' WHERE position = 3"],
    "no text": None,
}


@pytest.mark.parametrize("how", REFUSED)
async def test_what_is_no_good_backup_is_refused(tmp_path: Path, how: str) -> None:
    path, file = await scene(tmp_path, lost=0)
    statements: Sequence[str] | None = REFUSED[how]
    if statements is None:
        file.write_bytes(b"not a database" * 500)
    else:
        tampered(file, *statements)
    before = dump(path)
    with pytest.raises(StoreError, match=r"not an event log|layout 2|is damaged|cannot be read"):
        upkeep.restore(file, path, lambda _: None)
    assert dump(path) == before
    assert not list(tmp_path.glob("*.re*"))
    assert lost_history(path) is None


async def test_damaged_events_can_be_accepted_a_damaged_file_cannot(tmp_path: Path) -> None:
    path, file = await scene(tmp_path, backed_up=300)
    tampered(file, "UPDATE events SET data = '{}' WHERE position = 3")
    found: list[Finding] = []
    upkeep.restore(file, path, found.append, accept_loss=True)
    assert [finding.position for finding in found] == [3]
    before = dump(path)
    damage_page(file, file.stat().st_size // 2 // PAGE_BYTES)
    with pytest.raises(StoreError):
        upkeep.restore(file, path, found.append, accept_loss=True)
    assert dump(path) == before


def test_open_flags_come_right_on_the_way(path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(path)) as stranger, stranger:
        stranger.execute("UPDATE streams SET open = 1 - open")
    upkeep.restore(path, tmp_path / "new.db", lambda _: None, refold)
    assert kinds(tmp_path / "new.db") == []
    assert set(kinds(path)) == {"head"}


async def test_a_full_disk_leaves_the_log_before(tmp_path: Path) -> None:
    path, file = await scene(tmp_path)
    before = dump(path)
    with full_disk(20_000), pytest.raises(StoreUnavailable, match="could not be restored"):
        upkeep.restore(file, path, nothing, accept_loss=True)
    assert dump(path) == before
    assert lost_history(path) is None
    assert not list(tmp_path.glob("*.re*"))


def test_a_log_is_not_its_own_backup(path: Path) -> None:
    with pytest.raises(BadRequest, match="the log itself"):
        upkeep.restore(path, path, nothing)


def killed_at_each_step(folder: Path, how: str = "as it is") -> list[Path]:
    """Restores of a scene that were each killed one step later; the last came to its end."""
    done = subprocess.run([sys.executable, VICTIM, folder, how], check=True, capture_output=True, timeout=120)
    return [folder.with_name(f"killed {step}") / "rushes.db" for step in range(1, int(done.stdout) + 1)]


async def test_killed_at_any_step_the_log_before_or_the_new_one_is_there(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    await scene(tmp_path / "scene")
    killed = killed_at_each_step(tmp_path / "scene")
    ends = [await ends_at(path) for path in killed]
    print(f"{len(ends)} steps")
    assert set(ends) == {28, 20}
    assert ends == sorted(ends, reverse=True)
    for path in killed:  # and it can be done again
        assert upkeep.restore(path.with_name("backup.db"), path, nothing, accept_loss=True).position == 20


async def test_control_without_a_second_name_there_is_a_moment_without_a_log(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    await scene(tmp_path / "scene")
    killed = killed_at_each_step(tmp_path / "scene", "renaming")
    refused = [path for path in killed if lost_history(path)]
    begun_anew = [path for path in killed if path not in refused and await ends_at(path) == 0]
    assert refused
    assert begun_anew
