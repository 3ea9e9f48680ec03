"""views.db may be killed, deleted, damaged, forged or locked away: the list is made again, and is the same."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import pytest
from listing import T0, Log, folded, story, view_in

import rushes
from rushes.actors import messages as m
from rushes.eventstore.base import EventStore
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import Connection, SqliteStore
from rushes.faults import Unavailable
from rushes.main import Settings, open_readonly
from rushes.video import JobsQuery, ListPlace
from rushes.views.jobs import JobsView, ReadonlyView

VICTIM = Path(__file__).with_name("view_until_killed.py")
SUPPORT = Path(__file__).parents[1] / "support"
KILLS = 100 if os.environ.get("RUSHES_NIGHTLY") else 5
NEWEST = JobsQuery(limit=200)


async def tell(log: Log, jobs: int) -> None:
    """Jobs in several phases."""
    begun = log.store.position
    for number in range(jobs):
        name = ("succeeded", "running", "queued", "parked detached")[number % 4]
        await log.tell(f"job_{begun}_{number}", story(name), T0 + number)


@asynccontextmanager
async def followed(path: Path, jobs: int = 8) -> AsyncIterator[tuple[Log, JobsView]]:
    """A log of some jobs, and a view that has reached its end."""
    store = MemoryStore()
    await tell(Log(store), jobs)
    view = await JobsView.open(store, path)
    try:
        assert not (await view.page(NEWEST, "default", None))[1]
        yield Log(store), view
    finally:
        await view.close()


async def made(store: EventStore, path: Path) -> list[tuple[object, ...]]:
    """The rows once the file has reached the end of the log, however it was before."""
    view = await JobsView.open(store, path)
    while view.position < store.position:
        await view._reached.wait(view.position)
    await view.close()
    position, rows = view_in(path)
    assert position == store.position
    return rows


async def fresh(view: JobsView) -> list[ListPlace]:
    """What a caller gets who asks again, as it is told to."""
    async with asyncio.timeout(5):
        while True:
            with suppress(Unavailable):
                keys, stale = await view.page(NEWEST, "default", None)
                if not stale:
                    return keys


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def killed(folder: Path, how: str, after: int) -> None:
    """Let the victim work until its n-th statement."""
    words = [sys.executable, str(VICTIM), str(folder), how, str(after)]
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr.decode()


async def spoiled(folder: Path) -> bool:
    """Whether rows and checkpoint disagree, before or after the view has gone on."""
    store = await SqliteStore.open(folder / "rushes.db")
    position, rows = view_in(folder / "views.db") if (folder / "views.db").stat().st_size else (0, [])
    agreed = rows == await folded(store, [position])
    went_on = await made(store, folder / "views.db") == await folded(store, [store.position])
    await store.close()
    return not (agreed and went_on)


async def test_killed_at_any_statement_the_list_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when it fails
    rng = random.Random(seed)
    for _ in range(KILLS):
        killed(tmp_path, "as it is", rng.randint(20, 80))
        assert not await spoiled(tmp_path)
    assert view_in(tmp_path / "views.db")[1]


async def test_control_with_the_checkpoint_in_another_transaction_rows_are_lost(tmp_path: Path) -> None:
    for after in range(30, 40):
        (folder := tmp_path / str(after)).mkdir()
        killed(folder, "apart", after)
        if await spoiled(folder):
            return
    raise AssertionError("ten kills in a row, and the loss was not seen")


# ── whatever is wrong with the file ───────────────────────────────────────────────────────────────────────────────────


async def test_a_deleted_view_is_made_again(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "rushes.db")
    log, path = Log(store), tmp_path / "views.db"
    await tell(log, 8)
    first = await made(store, path)
    await tell(log, 8)
    grown = await made(store, path)
    path.unlink()
    assert await made(store, path) == grown == await folded(store, [store.position])
    assert grown[:8] == first
    await store.close()


def forged(sql: str) -> Callable[[Path], None]:
    def forge(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE jobs SET model = 'forged'")  # what is taken over would show
            connection.execute(sql)

    return forge


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(20_000))


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)


def a_folder(path: Path) -> None:
    path.unlink()
    (path / "x").mkdir(parents=True)


WRONG: dict[str, Callable[[Path], None]] = {
    "empty": emptied,
    "garbage": garbage,
    "half garbage": half,
    "another log's": forged("UPDATE checkpoint SET epoch = 'another'"),
    "another release's": forged("UPDATE checkpoint SET view = 'jobs 0'"),
    "ahead of the log": forged("UPDATE checkpoint SET position = 1000000"),
    "before the log": forged("UPDATE checkpoint SET position = -1"),
    "without a checkpoint": forged("DELETE FROM checkpoint"),
    "without its tables": forged("DROP TABLE checkpoint"),
    "with other tables": forged("ALTER TABLE jobs RENAME TO others"),
    "with another table": forged("ALTER TABLE jobs DROP COLUMN billed"),
}


@pytest.mark.parametrize("wrong", sorted(WRONG))
async def test_a_wrong_file_is_thrown_away_and_made_again(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "views.db"
    async with followed(path) as (log, _):
        pass
    right = view_in(path)[1]
    WRONG[wrong](path)
    await tell(log, 1)
    assert (await made(log.store, path))[:8] == right
    WRONG[wrong](path)
    asked = await ReadonlyView(log.store, path).page(NEWEST, "default", None)
    assert asked == await ReadonlyView(log.store).page(NEWEST, "default", None)


async def test_control_a_right_file_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    async with followed(path) as (log, _):
        pass
    forged("SELECT 1")(path)
    assert {row[7] for row in await made(log.store, path)} == {"forged"}
    mine = JobsQuery(model="forged")
    assert len((await ReadonlyView(log.store, path).page(mine, "default", None))[0]) == 8


async def test_without_any_file_the_list_lives_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    (path / "in the way").mkdir(parents=True)
    async with followed(path) as (log, view):
        await tell(log, 1)
        keys, stale = await view.page(NEWEST, "default", None)
        assert (len(keys), stale) == (9, False)


async def test_a_file_that_is_damaged_under_our_hands_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    async with followed(path, jobs=200) as (_, view):
        keys, _ = await view.page(NEWEST, "default", None)
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * (path.stat().st_size - 100))
        assert view._db is not None
        await view._db.execute("PRAGMA shrink_memory")  # or SQLite's cache still answers
        with pytest.raises(Unavailable, match="ask again"):
            await view.page(NEWEST, "default", None)
        assert await fresh(view) == keys


def failing(code: int, failures: list[None]) -> type[Connection]:
    """Connections whose next COMMITs fail with that code."""

    class Failing(Connection):
        def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
            if sql == "COMMIT" and failures:
                failures.pop()
                error = sqlite3.OperationalError("the disk says no")
                error.sqlite_errorcode = code
                raise error
            return super().execute(sql, parameters)

    return Failing


@pytest.mark.parametrize(("code", "kept"), [(sqlite3.SQLITE_FULL, True), (sqlite3.SQLITE_CORRUPT, False)])
async def test_a_full_disk_makes_the_list_stale_and_keeps_the_file(tmp_path: Path, code: int, kept: bool) -> None:
    path, failures = tmp_path / "views.db", list[None]()
    store = MemoryStore()
    view = await JobsView.open(store, path, factory=failing(code, failures))
    await tell(Log(store), 4)
    assert len((await view.page(NEWEST, "default", None))[0]) == 4
    before = path.stat().st_ino
    held = path.open("rb")  # so that its number is not given away
    failures.append(None)
    await tell(Log(store), 4)
    assert (await view.page(NEWEST, "default", None))[1]
    assert len(await fresh(view)) == 8
    assert (path.stat().st_ino == before) == kept
    held.close()
    await view.close()


def progress(percent: int) -> m.Event:
    return m.ProgressReported(attempt=1, percent=percent)


async def test_an_event_that_rot_has_moved_to_nowhere_is_missed(tmp_path: Path) -> None:
    """Its number of a stream names none any more: the job that it belongs to has a hole."""
    path = tmp_path / "rushes.db"
    store = await SqliteStore.open(path)
    for name in ("job_a", "job_b"):
        await Log(store).tell(name, [*story("running"), *map(progress, (10, 20, 30))], T0)
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER events_never_change")
        connection.execute("UPDATE events SET stream = 99 WHERE stream = 1 AND version = 5")  # nobody else needs it
    store = await SqliteStore.open(path)
    for stops in ([store.position], [*range(1, store.position + 1)]):
        assert [row[4] for row in await folded(store, stops)] == ["unreadable", "running"]
    await store.close()


# ── without an owner ──────────────────────────────────────────────────────────────────────────────────────────────────


def seen(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("views")}


@pytest.mark.parametrize("there", ["up to date", "behind", "missing"])
async def test_who_only_looks_sees_all_jobs_and_writes_nothing(tmp_path: Path, there: str) -> None:
    path = tmp_path / "views.db"
    store = await SqliteStore.open(tmp_path / "rushes.db")
    log = Log(store)
    await tell(log, 8)
    if there != "missing":
        await made(store, path)
    if there == "behind":
        await tell(log, 8)
    await store.close()
    before = seen(tmp_path)
    async with open_readonly(Settings(data=str(tmp_path))) as studio:
        page = await studio.jobs(limit=200)
        assert {view.id for view in page.jobs} == {
            row[1] for row in await folded(studio.store, [studio.store.position])
        }
        assert not page.stale
    assert len(page.jobs) == (16 if there == "behind" else 8)
    assert seen(tmp_path) == before


async def test_a_commit_that_was_cut_off_is_passed_over_by_who_only_looks(tmp_path: Path) -> None:
    """A journal that must be rolled back, by somebody who must not write."""
    path, copy = tmp_path / "views.db", tmp_path / "copy"
    async with followed(path) as (log, _):
        pass
    copy.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE jobs SET model = 'forged' || hex(randomblob(20000))")
        for file in tmp_path.glob("views.db*"):
            (copy / file.name).write_bytes(file.read_bytes())
        connection.execute("ROLLBACK")
    assert (copy / "views.db-journal").stat().st_size > 512
    before = seen(copy)
    asked = await ReadonlyView(log.store, copy / "views.db").page(JobsQuery(model="a"), "default", None)
    assert len(asked[0]) == 8
    assert seen(copy) == before
    assert [row[7] for row in await made(log.store, copy / "views.db")] == ["a"] * 8


@contextmanager
def locked_away(folder: Path) -> Iterator[None]:
    """We may read the folder, and write nothing there. Root may write everywhere: be somebody else then."""
    folder.chmod(0o555)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            (folder / "x").touch()
        yield
    finally:
        os.seteuid(was)
        folder.chmod(0o755)


@pytest.mark.parametrize("behind", [False, True])
async def test_a_folder_that_cannot_be_written_is_looked_at(behind: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with followed(folder / "views.db") as (log, _):
            pass
        if behind:
            await tell(log, 8)
        with locked_away(folder):
            asked = await ReadonlyView(log.store, folder / "views.db").page(NEWEST, "default", None)
            owned = await JobsView.open(log.store, folder / "views.db")
            assert await owned.page(NEWEST, "default", None) == asked
            await owned.close()
        assert len(asked[0]) == (16 if behind else 8)


async def test_a_studio_keeps_its_list_beside_the_log(tmp_path: Path) -> None:
    async with rushes.open(tmp_path, environ={}) as studio:
        await tell(Log(studio.store), 4)
        assert len((await studio.jobs()).jobs) == 4
    assert len(view_in(tmp_path / "views.db")[1]) == 4
    (tmp_path / "views.db").unlink()
    async with rushes.open(tmp_path, environ={}) as studio:
        async with asyncio.timeout(30):
            while (page := await studio.jobs()).stale:  # it is made anew, which may take a moment
                pass
    assert len(page.jobs) == 4
