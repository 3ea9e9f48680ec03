"""A log that lacks events which it had says so, whatever took them; and somebody has to accept it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from acme import Acme, AcmeTwin, Render, Wire, make
from structlog.testing import capture_logs
from talking import reading, whole_log, write_log

import rushes
from rushes.adapters.base import Request, Response
from rushes.api.app import serve
from rushes.eventstore import upkeep
from rushes.eventstore.base import Damaged
from rushes.eventstore.marker import HistoryLost, Keeper, Marker, marker_path, read_marker, write_marker
from rushes.eventstore.sqlite import SqliteStore
from rushes.testing.eventstore import birth, more
from rushes.testing.loop import run

VICTIM = Path(__file__).with_name("mark_until_killed.py")
NIGHTLY = bool(os.environ.get("RUSHES_NIGHTLY"))
CUTS = 600 if NIGHTLY else 40
KILLS = 40 if NIGHTLY else 4
APPENDS, EVENTS = 30, 2
HEAD = APPENDS * EVENTS
ENDINGS = ("", "-wal", "-marker")


def nothing(finding: upkeep.Finding) -> None:
    """There is to be no finding."""
    raise AssertionError(finding)


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def copied(path: Path, folder: Path, endings: tuple[str, ...] = ENDINGS) -> Path:
    folder.mkdir()
    for ending in endings:
        shutil.copyfile(beside(path, ending), folder / f"{path.name}{ending}")
    return folder / path.name


async def grown(path: Path, appends: int = APPENDS, first: int = 0) -> Path:
    store = await SqliteStore.open(path)
    for number in range(first, first + appends):
        await store.append(birth(f"job_{number}", EVENTS, token=number))
    await store.close()
    return path


@pytest.fixture
async def crashed(tmp_path: Path) -> Path:
    """A log as a power cut leaves it: all is in the WAL, and marked."""
    store = await SqliteStore.open(tmp_path / "live.db")
    for number in range(APPENDS):
        await store.append(birth(f"job_{number}", EVENTS, token=number))
    assert store._keeper
    await store._keeper.write()
    path = copied(store.path, tmp_path / "crashed")
    await store.close()
    return path


def contents(path: Path) -> list[bytes]:
    """Of its files; an empty WAL is none."""
    return [beside(path, ending).read_bytes() if beside(path, ending).exists() else b"" for ending in ENDINGS]


async def refused(path: Path) -> HistoryLost:
    """Opening it is refused, and changes nothing."""
    before = contents(path)
    with pytest.raises(HistoryLost) as lost:
        await SqliteStore.open(path)
    assert contents(path) == before
    assert "--accept-loss" in str(lost.value)
    assert "billed" in str(lost.value)
    return lost.value


async def position_unmarked(path: Path, folder: Path) -> int:
    """The control: where the log ends for whoever does not know the marker, who opens it without a word."""
    endings = tuple(ending for ending in ("", "-wal") if beside(path, ending).exists())
    store = await SqliteStore.open(copied(path, folder, endings))
    position = store.position
    await store.close()
    return position


# ── What takes events ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cut_wal_is_noticed_wherever_it_was_cut(crashed: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    size_bytes = beside(crashed, "-wal").stat().st_size
    cuts = [0, 1, 31, 32, size_bytes - 1, *(random.Random(seed).randrange(size_bytes) for _ in range(CUTS))]
    noticed = 0
    for number, cut in enumerate(cuts):
        path = copied(crashed, tmp_path / f"cut {number}")
        os.truncate(beside(path, "-wal"), cut)
        left = await position_unmarked(path, tmp_path / f"control {number}")
        assert (await refused(path)).missing == HEAD - left, f"cut at {cut}"
        noticed += left < HEAD
    assert noticed == len(cuts), "without the marker each of these cuts goes unnoticed"


async def test_control_a_whole_wal_is_fine(crashed: Path) -> None:
    store = await SqliteStore.open(crashed)
    assert store.position == HEAD
    await store.close()


async def test_a_deleted_wal_is_noticed(crashed: Path, tmp_path: Path) -> None:
    beside(crashed, "-wal").unlink()
    assert await position_unmarked(crashed, tmp_path / "control") == 0
    lost = await refused(crashed)
    assert lost.missing == HEAD
    assert f"{HEAD} positions are missing" in str(lost)


async def test_what_was_put_back_is_taken(crashed: Path, tmp_path: Path) -> None:
    away = shutil.move(beside(crashed, "-wal"), tmp_path / "away")
    await refused(crashed)
    shutil.move(away, beside(crashed, "-wal"))
    await (await SqliteStore.open(crashed)).close()


@pytest.mark.parametrize("how", ["deleted", "emptied"])
async def test_a_log_that_is_gone_is_not_simply_begun_anew(tmp_path: Path, how: str) -> None:
    path = await grown(tmp_path / "rushes.db")
    path.unlink() if how == "deleted" else os.truncate(path, 0)
    lost = await refused(path)
    assert (lost.missing, path.exists()) == (HEAD, how == "emptied")
    store = await SqliteStore.open(path, accept_loss=True)
    assert store.position == 0
    await store.close()
    await grown(path, 1)  # it was accepted


async def test_an_older_copy_is_noticed(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 10)
    older = copied(path, tmp_path / "older", ("",))
    await grown(path, 20, first=10)
    shutil.copyfile(older, path)
    assert (await refused(path)).missing == 20 * EVENTS


async def test_an_older_copy_that_went_on_elsewhere_is_noticed(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 10)
    older = copied(path, tmp_path / "older", ("",))
    await grown(path, 1, first=10)
    shutil.copyfile(await grown(older, 30, first=100), path)
    lost = await refused(path)
    assert lost.missing == 0
    assert f"position {11 * EVENTS} holds another event" in str(lost)


async def test_another_log_under_the_name_is_noticed(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 1)
    shutil.copyfile(await grown(tmp_path / "another.db"), path)
    lost = await refused(path)
    assert lost.missing == 0
    assert "another history" in str(lost)


async def test_a_damaged_event_at_the_mark_is_no_lost_history(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 2)
    with closing(sqlite3.connect(path)) as stranger, stranger:
        stranger.execute("DROP TRIGGER events_never_change")
        stranger.execute("UPDATE events SET crc = crc + 1 WHERE position = 4")
    store = await SqliteStore.open(path)
    with pytest.raises(Damaged):
        await store.read(2)
    assert len(await store.read(1)) == EVENTS
    await store.close()


async def test_looking_refuses_nothing_and_knows_what_is_missing(crashed: Path) -> None:
    whole = await SqliteStore.open_readonly(crashed)
    assert whole.lost is None
    await whole.close()
    os.truncate(beside(crashed, "-wal"), 100_000)
    reader = await SqliteStore.open_readonly(crashed)
    assert reader.lost
    assert reader.lost.missing == HEAD - reader.position
    assert len(await reader.read(1)) == EVENTS
    await reader.close()


# ── Accepting it ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_accepted_loss_begins_a_new_epoch_once(crashed: Path) -> None:
    os.truncate(beside(crashed, "-wal"), 100_000)
    before = await SqliteStore.open_readonly(crashed)
    await before.close()
    with capture_logs() as logs:
        store = await SqliteStore.open(crashed, accept_loss=True)
    assert store.epoch != before.epoch
    assert store.position == before.position
    told = [(log["event"], log["missing"], log["log_level"]) for log in logs if "missing" in log]
    assert told == [("loss.accepted", HEAD - before.position, "warning")]
    marked = read_marker(crashed)
    assert marked
    assert (marked.epoch, marked.position) == (store.epoch, store.position)
    await store.append(birth("job_new"))
    await store.close()
    for accept_loss in (False, True):
        again = await SqliteStore.open(crashed, accept_loss=accept_loss)
        assert again.epoch == store.epoch, "nothing is lost now, so nothing is renewed"
        await again.close()


async def test_a_loss_whose_acceptance_was_not_marked_is_asked_for_again(crashed: Path) -> None:
    os.truncate(beside(crashed, "-wal"), 100_000)
    old = marker_path(crashed).read_bytes()
    await (await SqliteStore.open(crashed, accept_loss=True)).close()
    marker_path(crashed).write_bytes(old)  # as if we had been killed before it was written
    await refused(crashed)


async def test_after_an_accepted_loss_old_cursors_are_told(tmp_path: Path) -> None:
    folder, path = tmp_path / "data", tmp_path / "data" / "rushes.db"
    async with rushes.open(folder, environ={}) as studio:
        await write_log(studio, "job_1", 3)
        older = tmp_path / "older.db"
        upkeep.backup(path, older, nothing)
        await write_log(studio, "job_2", 5)
        cursor = {"epoch": studio.store.epoch, "position": 2}
        log = await whole_log(studio)
    shutil.copyfile(older, path)
    with pytest.raises(rushes.HistoryLost, match="5 positions are missing"):
        async with rushes.open(folder, environ={}):
            raise AssertionError("it was opened")
    async with rushes.open(folder, environ={}, accept_loss=True) as studio:
        assert await whole_log(studio) == log[:3]
        server = await serve(studio, "127.0.0.1:0")
        async with reading(server.url) as reader:
            await reader.say(type="subscribe", id="a", from_=cursor)
            assert "epoch" in (await reader.hear("resync"))["reason"]
            await reader.say(type="subscribe", id="b", from_={**cursor, "epoch": studio.store.epoch})
            await reader.hear("subscribed")  # the control: it was the epoch
            await reader.until_caught_up()
        await server.close()


class KeyedTwin(AcmeTwin):
    """A provider that knows its callers' keys: the same key again is the same render, and no charge."""

    def _create(self, request: Request) -> Response:
        assert isinstance(request.body, dict)
        known = next((render for render in self.renders if render.key == request.body["key"]), None)
        return Response(status=200, body=msgspec.json.encode(known)) if known else super()._create(request)


async def charges_after_an_older_backup(tmp_path: Path, twin: AcmeTwin) -> list[Render]:
    """A backup from between the intent and its answer, restored when the job has long succeeded."""
    wire, path, older = Wire(twin), tmp_path / "rushes.db", tmp_path / "older.db"
    store = await SqliteStore.open(path)
    system, studio = make(store, tmp_path, wire, Acme(doubt="A"))
    await system.start()
    wire.gate = asyncio.Event()
    job = await studio.generate("a lake")
    await wire.sending.wait()
    upkeep.backup(path, older, nothing)
    wire.gate.set()
    await job.result(timeout_s=5)
    await system.stop()
    await store.close()
    with pytest.raises(HistoryLost):
        upkeep.restore(older, path, nothing)
    upkeep.restore(older, path, nothing, accept_loss=True)
    store = await SqliteStore.open(path)
    system, studio = make(store, tmp_path, wire, Acme(doubt="A"))
    await system.start()
    assert (await studio.job(job.id).result(timeout_s=5)).job.status == "succeeded"
    await system.stop()
    await store.close()
    return twin.renders


async def test_after_an_older_backup_a_provider_with_keys_charges_once(tmp_path: Path) -> None:
    assert len(await charges_after_an_older_backup(tmp_path, KeyedTwin())) == 1


async def test_control_a_provider_that_only_says_so_charges_twice(tmp_path: Path) -> None:
    assert len(await charges_after_an_older_backup(tmp_path, AcmeTwin())) == 2


# ── The marker itself ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "garbage", [b"", b"\0" * 64, b"{", b'{"epoch": "x"}', b"\xff\xfe", b'{"epoch":"x","position":-1,"crc":0}', None]
)
async def test_a_marker_that_cannot_be_read_counts_as_none(tmp_path: Path, garbage: bytes | None) -> None:
    path = await grown(tmp_path / "rushes.db", 2)
    marker_path(path).unlink()
    marker_path(path).mkdir() if garbage is None else marker_path(path).write_bytes(garbage)
    with capture_logs() as logs:
        await (await SqliteStore.open(path)).close()
    assert "marker.unreadable" in [log["event"] for log in logs]
    if garbage is not None:
        marked = read_marker(path)
        assert marked
        assert marked.position == 2 * EVENTS, "closing wrote a good one"


async def test_a_missing_marker_is_no_error_and_comes_back(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 2)
    marked = read_marker(path)
    assert marked
    marker_path(path).unlink()
    with capture_logs() as logs:
        await (await SqliteStore.open(path)).close()
    assert [log["event"] for log in logs if log["event"].startswith("marker")] == []
    again = read_marker(path)
    assert again
    assert (again.epoch, again.position, again.crc) == (marked.epoch, marked.position, marked.crc)


async def test_a_marker_that_cannot_be_written_is_logged_and_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rushes.db"
    beside(path, "-marker.part").mkdir()  # a folder that refuses writing refuses root nothing
    with capture_logs() as logs:
        await grown(path)
        await grown(path, 1, first=APPENDS)
    failed = [log for log in logs if log["event"] == "marker.failed"]
    assert len(failed) == 2
    assert failed[0]["log_level"] == "warning"
    assert read_marker(path) is None


def test_a_growing_log_is_marked_at_most_every_two_seconds() -> None:
    at: list[float] = []

    class Counting(Keeper):
        async def write(self) -> None:
            at.append(asyncio.get_running_loop().time())

    async def grow() -> None:
        keeper = Counting(Path("nowhere"), Marker(epoch="x", position=0, crc=0))
        for position in range(1, 601):
            keeper.note(position, 0)
            await asyncio.sleep(0.1)  # virtual
        await asyncio.sleep(60)
        await keeper.close()

    run(grow())
    *growing, closing_at = at
    assert 28 <= len(growing) <= 30
    assert min(later - earlier for earlier, later in pairwise(growing)) == pytest.approx(2.0)
    assert growing[-1] <= 62.0 < closing_at, "a log at rest is not marked again"


async def test_the_marker_follows_the_log_while_it_grows(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 1)
    store = await SqliteStore.open(path)
    assert store._keeper
    written = asyncio.Event()

    class Telling(Keeper):
        async def write(self) -> None:
            await super().write()
            written.set()

    store._keeper = Telling(path, store._keeper._head, every_s=0.001)
    stored = await store.append(more(1, EVENTS))
    async with asyncio.timeout(10):
        await written.wait()
    marked = read_marker(path)
    assert marked
    assert (marked.epoch, marked.position) == (store.epoch, stored.last)
    await store.close()


def killed(path: Path, how: str, commits: int) -> None:
    done = subprocess.run(
        [sys.executable, VICTIM, path, how, str(commits)], check=False, capture_output=True, timeout=30
    )
    assert done.returncode == -9, done.stderr


async def test_killed_in_a_commit_the_marker_is_never_ahead(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 1)
    rng = random.Random()
    for _ in range(KILLS):
        killed(path, "as it is", rng.randrange(2, 60))
        await (await SqliteStore.open(path)).close()


async def test_control_a_marker_before_the_commit_is_a_false_alarm(tmp_path: Path) -> None:
    path = await grown(tmp_path / "rushes.db", 1)
    killed(path, "eager", 5)
    assert (await refused(path)).missing == 1


def test_a_marker_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "rushes.db"
    for position in (1, 2):
        write_marker(path, Marker(epoch="x", position=position, crc=7, written_at=1.5))
    assert read_marker(path) == Marker(epoch="x", position=2, crc=7, written_at=1.5)
    assert [file.name for file in tmp_path.iterdir()] == ["rushes.db-marker"]


# ── The library below ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_outdated_sqlite_is_told_once_per_opening(tmp_path: Path) -> None:
    with capture_logs() as logs:
        await grown(tmp_path / "rushes.db", 3)
    told = [log for log in logs if log["event"] == "sqlite.outdated"]
    assert [log["version"] for log in told] == [sqlite3.sqlite_version] * (sqlite3.sqlite_version_info < (3, 51, 3))
