"""Disks that are full, broken, read-only, busy or gone: it is said, nothing acknowledged is lost, and work goes on.

First below the functions that ship, at every single operation of the disk; then the store itself, on real files.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import apsw
import pytest
from ledger import Broken, Ledger
from powercut import VERSIONS, Disk, Trouble, disconnect

from rushes.eventstore.base import Batch, NewEvent, Stored, StoreError, StoreUnavailable, Write
from rushes.eventstore.lock import FolderLock
from rushes.eventstore.sqlite import Connection, SqliteStore, run
from rushes.eventstore.transactions import Heads, append_batch, checkpoint, look, set_up, set_up_reader
from rushes.faults import FolderInUse
from rushes.testing.eventstore import ENDED, birth, more, whole_log

# An error of the disk that SQLite can do without is reported by its driver as one that nobody caught.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None")


# ── Every operation of the disk fails once ────────────────────────────────────────────────────────────────────────────


class Clerk:
    """Does with its connection what the store does with it, and has a reader beside it as the store has."""

    def __init__(self, disk: Disk, ledger: Ledger, kind: type[apsw.Connection] = apsw.Connection) -> None:
        self.disk, self.ledger, self.kind = disk, ledger, kind
        self.connection: sqlite3.Connection | None = None
        self.seen: Counter[str] = Counter()
        self.reopen()
        self.reader = disk.connect()
        set_up_reader(self.reader)

    def reopen(self) -> sqlite3.Connection:
        """Begin anew, with what the disk says."""
        self.let_go()
        self.heads = Heads()
        connection = self.disk.connect(self.kind)
        try:
            set_up(connection)
        except BaseException:
            disconnect(connection)
            raise
        connection.execute("PRAGMA cache_size = 8")  # pages: a transaction spills into the WAL before its commit
        self.connection = connection
        return connection

    def let_go(self) -> None:
        if self.connection:
            disconnect(self.connection)
        self.connection = None

    def append(self, writes: Sequence[Write]) -> None:
        """Append, and tell the callers."""
        try:
            answers: Sequence[Any] = append_batch(self.connection or self.reopen(), self.heads, writes).answers
            self.seen["answered"] += any(isinstance(answer, Exception) for answer in answers)
        except (apsw.Error, StoreError):
            self.seen["raised"] += 1
            answers = self.look(writes)
        self.ledger.note(writes, answers)

    def look(self, writes: Sequence[Write]) -> Sequence[Stored | None]:
        try:
            return look(self.reopen(), self.heads, writes)
        except (apsw.Error, StoreError):
            return [None] * len(writes)

    def checkpoint(self, how: str) -> None:
        if self.connection:
            with suppress(apsw.Error):
                checkpoint(self.connection, how)


def work() -> list[Write]:
    """Births, and more of a stream, large enough for many writes."""
    large = [NewEvent("take.stored", 1, 1.5, b'"%s"' % (b"x" * 6_000)) for _ in range(4)]
    writes = [birth("job_2", 3, token=21), more(1, 2, 2, token=22), birth("job_3", 1, token=23, head=ENDED)]
    writes[1:1] = [Write(birth("job_4").stream, 0, large, ENDED, 24)]
    return writes


def trial(folder: Path, trouble: Trouble, kind: type[apsw.Connection] = apsw.Connection) -> Counter[str]:
    """Work through a trouble, and see that every answer is true, during and after it. Raises Broken."""
    disk, ledger = Disk(folder / "disk", random.Random(trouble.nth)), Ledger()
    clerk = Clerk(disk, ledger, kind)
    clerk.append([birth("job_1", 2, token=11)])
    disk.trouble = trouble
    first, second = work(), [more(1, 4, 2, token=31), birth("job_5", 2, token=32)]
    clerk.append(first)
    ledger.judge(disk.image("nothing"))
    clerk.checkpoint("PASSIVE")
    clerk.append(second)
    clerk.checkpoint("TRUNCATE")
    ledger.judge(disk.image())
    disk.trouble = None
    clerk.append([*first, *second, birth("job_6", token=41)])
    ledger.judge(disk.image("nothing"))
    assert set(ledger.told) == set(ledger.writes)
    disconnect(clerk.reader)
    clerk.let_go()
    ledger.judge(disk.image("nothing"))
    disk.unregister()
    return clerk.seen


TROUBLES: Final = [
    ("write", apsw.IOError),
    ("write", apsw.FullError),
    ("sync", apsw.IOError),
    ("truncate", apsw.IOError),
]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize(("operation", "error"), TROUBLES)
def test_every_operation_of_the_disk_may_fail_and_every_answer_is_true(
    tmp_path: Path, operation: str, error: type[apsw.Error], lasting: bool
) -> None:
    seen: Counter[str] = Counter()
    for nth in count(1):
        trouble = Trouble(operation, error, nth, lasting)
        seen += trial(tmp_path, trouble)
        if trouble.nth > 0:  # there are fewer operations
            break
    print(f"{VERSIONS}: {operation} fails {nth - 1} times with {error.__name__}, batches {dict(seen)}")
    assert nth > 2
    assert operation == "truncate" or seen["raised"]


def test_a_log_that_cannot_be_begun_is_begun_later(tmp_path: Path) -> None:
    for nth in count(1):
        disk, ledger = Disk(tmp_path / "disk", random.Random(nth)), Ledger()
        disk.trouble = trouble = Trouble("write", apsw.FullError, nth, lasting=True)
        connection = disk.connect()
        if not trouble_in(connection):
            assert trouble.nth > 0
            disconnect(connection)
            return
        disconnect(connection)
        disk.trouble = None
        clerk = Clerk(disk, ledger)
        clerk.append([birth("job_1")])
        ledger.judge(disk.image("nothing"))
        disconnect(clerk.reader)
        clerk.let_go()


def trouble_in(connection: sqlite3.Connection) -> bool:
    try:
        set_up(connection)
    except apsw.Error:
        return True
    return False


class Forgiving(apsw.Connection):
    """The control: an error of a commit is none."""

    def execute(self, statements: str, *arguments: Any, **keywords: Any) -> apsw.Cursor:
        try:
            return super().execute(statements, *arguments, **keywords)
        except apsw.Error:
            if statements != "COMMIT":
                raise
            return self.cursor()


@pytest.mark.parametrize(("operation", "error"), TROUBLES[:3])
def test_control_errors_that_are_forgiven_are_found_out(
    tmp_path: Path, operation: str, error: type[apsw.Error]
) -> None:
    lost = 0
    for nth in range(1, 30):
        try:
            trial(tmp_path, Trouble(operation, error, nth, lasting=False), Forgiving)
        except Broken as broken:
            lost += broken.how == "lost"
    assert lost


# ── Every statement of the store fails ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rushes.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path)
    yield store
    await store.close()


def on_disk(path: Path) -> list[tuple[int, int, int]]:
    """What a stranger finds: position, stream, version."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as stranger:
        return stranger.execute("SELECT position, stream, version FROM events ORDER BY position").fetchall()


def places(batch: Batch) -> list[tuple[int, int, int]]:
    return [(event.position, event.stream, event.version) for event in batch.events]


def failing(words: set[str]) -> type[Connection]:
    """Connections on which statements that begin with one of these words fail; COMMIT behind its work: COMMITTED."""

    class Failing(Connection):
        def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
            if sql == "COMMIT" and "COMMITTED" in words:
                super().execute(sql)
                words.update({"COMMIT", "ROLLBACK", "BEGIN", "PRAGMA", "SELECT"})
            if sql.split(" ", maxsplit=1)[0] in words:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, parameters)

        def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
            if "executemany" not in words:
                return super().executemany(sql, parameters)
            super().executemany(sql, list(parameters)[:-1])
            raise sqlite3.OperationalError("disk I/O error")

    return Failing


@pytest.mark.parametrize("words", ["BEGIN", "executemany", "COMMIT", "PRAGMA COMMIT", "ROLLBACK executemany"])
async def test_where_a_statement_fails_nobody_hears_of_the_append(path: Path, words: str) -> None:
    broken: set[str] = set()
    heard: list[int] = []
    store = await SqliteStore.open(path, factory=failing(broken))
    await store.append(birth("job_0"))
    store.watch(heard.append)
    follower = asyncio.ensure_future(store.wait(1))
    broken.update(words.split())
    writes = [birth(f"job_{number}", 2, token=number) for number in (1, 2, 3)]
    for _ in range(2):
        answers = await asyncio.gather(*map(store.append, writes), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
        assert (store.position, heard, follower.done()) == (1, [], False)
        assert places(await store.read_all()) == on_disk(path) == [(1, 1, 1)]
    broken.clear()
    stored = await asyncio.gather(*map(store.append, writes))
    assert [(answer.first, answer.last) for answer in stored] == [(2, 3), (4, 5), (6, 7)]
    await follower
    assert (store.position, heard) == (7, [7])
    assert places(await store.read_all()) == on_disk(path)
    await store.close()


class Forgiven(Connection):
    """The control: a commit that fails is told as one that did not."""

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        return super().execute("ROLLBACK" if sql == "COMMIT" else sql, parameters)


async def test_control_a_position_ahead_of_the_disk_is_found_out(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    store = await SqliteStore.open(path, factory=Forgiven)
    await store.append(birth("job_0"))
    assert store.position > len(on_disk(path))
    await store.close()


async def test_what_was_committed_but_could_not_be_told_is_told_to_the_retry_and_to_followers(path: Path) -> None:
    broken: set[str] = set()
    store = await SqliteStore.open(path, factory=failing(broken))
    await store.append(birth("job_0"))
    broken.add("COMMITTED")
    with pytest.raises(StoreUnavailable):
        await store.append(birth("job_1", 2))
    assert len(on_disk(path)) == 3
    assert store.position == 1
    broken.clear()
    assert await store.append(birth("job_1", 2)) == Stored(2, 2, 3)
    await asyncio.wait_for(store.wait(2), 5)
    assert places(await store.read_all()) == on_disk(path)
    await store.close()


# ── Full ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def pragma(store: SqliteStore, name: str, value: int) -> None:
    assert store._db
    await run(store._db, lambda connection: connection.execute(f"PRAGMA {name} = {value}").fetchall())


async def fill(store: SqliteStore) -> int:
    for number in range(1_000):
        try:
            await store.append(birth(f"fill_{number}", 50, token=number))
        except StoreUnavailable:
            return number
    raise AssertionError("the disk never filled up")


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_said_and_survived(store: SqliteStore) -> None:
    await pragma(store, "max_page_count", 40)
    stored = await fill(store)
    before = await whole_log(store)
    assert len(before) == 50 * stored
    with pytest.raises(StoreUnavailable, match="full"):
        await store.append(birth("job_1", 50))
    assert await whole_log(store) == before
    await pragma(store, "max_page_count", 100_000)
    await store.append(birth("job_1", 50))
    await store.append(birth("job_2", head=ENDED))
    assert len(await whole_log(store)) == 50 * stored + 51


async def test_a_disk_that_refuses_a_commit_is_said_and_survived(store: SqliteStore, path: Path) -> None:
    with file_size_limit(300_000):
        stored = await fill(store)
        assert len(await whole_log(store)) == 50 * stored
    await store.append(birth(f"fill_{stored}", 50, token=stored))
    await store.close()
    assert len(on_disk(path)) == 50 * stored + 50
    with closing(sqlite3.connect(path)) as stranger:
        assert stranger.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_folder_without_space_is_said_and_opened_later(path: Path) -> None:
    with file_size_limit(10_000), pytest.raises(StoreUnavailable, match="see to the disk"):
        await SqliteStore.open(path)
    store = await SqliteStore.open(path)
    await store.append(birth("job_1"))
    await store.close()
    assert len(on_disk(path)) == 1


NOBODY: Final = 65_534


# ── Read-only ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def nobodys() -> AsyncIterator[Path]:
    """A folder of a user whom permissions bind, and this process as that user: root may write anywhere."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp))  # a thread: nobody may not import what one needs
    was = os.geteuid()
    if not was:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
    yield folder
    os.seteuid(was)
    shutil.rmtree(folder)


@contextmanager
def permissions(path: Path, mode: int) -> Iterator[None]:
    was = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(was)


async def test_a_file_that_is_read_only_is_said_and_read(nobodys: Path) -> None:
    path = nobodys / "rushes.db"
    store = await SqliteStore.open(path)
    await store.append(birth("job_1"))
    await store.close()
    with permissions(path, 0o444):
        with pytest.raises(StoreUnavailable, match="readonly"):
            await SqliteStore.open(path)
        reader = await SqliteStore.open_readonly(path)
        assert len(await whole_log(reader)) == 1
        await reader.close()
    for beside in nobodys.iterdir():
        beside.chmod(0o644)  # a reader's WAL is born with the permissions of the file
    store = await SqliteStore.open(path)
    await store.append(birth("job_2"))
    await store.close()
    assert len(on_disk(path)) == 2


async def test_a_folder_that_is_read_only_is_said(nobodys: Path) -> None:
    path = nobodys / "rushes.db"
    store = await SqliteStore.open(path)
    await store.append(birth("job_1"))
    await store.close()
    with permissions(nobodys, 0o555), pytest.raises(StoreUnavailable, match="see to the disk"):
        await SqliteStore.open(path)
    with permissions(nobodys, 0o555), pytest.raises(StoreUnavailable, match="see to the disk"):
        await SqliteStore.open(nobodys / "new.db")
    store = await SqliteStore.open(path)
    await store.append(birth("job_2"))
    with permissions(nobodys, 0o555):  # what is open stays open
        await store.append(birth("job_3"))
    await store.close()
    assert len(on_disk(path)) == 3


# ── Shared ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lock_held_elsewhere_is_said_and_survived(store: SqliteStore, path: Path) -> None:
    await store.append(birth("job_1"))
    await pragma(store, "busy_timeout", 20)
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.append(birth("job_2"))
        assert len(await whole_log(store)) == 1
        stranger.execute("ROLLBACK")
    await store.append(birth("job_2"))
    assert len(on_disk(path)) == 2


async def test_a_lock_held_for_a_moment_is_waited_for(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        append = asyncio.ensure_future(store.append(birth("job_1")))
        await store.find("job_1")
        stranger.execute("COMMIT")
        assert await append == Stored(1, 1, 1)


async def test_a_second_owner_is_refused_and_may_read(store: SqliteStore, path: Path) -> None:
    first = FolderLock.acquire(path.parent, "http://127.0.0.1:1")
    await store.append(birth("job_1"))
    with pytest.raises(FolderInUse, match=str(os.getpid())):
        FolderLock.acquire(path.parent)
    reader = await SqliteStore.open_readonly(path)
    assert len(await whole_log(reader)) == 1
    await reader.close()
    first.release()
    FolderLock.acquire(path.parent).release()


def in_file(path: Path) -> int:
    """How many events are in the file itself, without the WAL."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as without_wal:
        return int(without_wal.execute("SELECT count(*) FROM events").fetchone()[0])


async def test_a_reader_that_stays_keeps_a_checkpoint_waiting_and_nothing_else(store: SqliteStore, path: Path) -> None:
    await store.append(birth("job_1", 100))
    await store._checkpoint()
    assert in_file(path) == 100
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN")
        assert stranger.execute("SELECT count(*) FROM events").fetchone() == (100,)
        await store.append(birth("job_2", 100))
        await store._checkpoint()
        assert len(await whole_log(store)) == 200
        assert stranger.execute("SELECT count(*) FROM events").fetchone() == (100,)
        assert in_file(path) < 200
        stranger.execute("COMMIT")
    await store._checkpoint()
    assert in_file(path) == 200


async def test_a_checkpoint_that_fails_costs_nothing(path: Path) -> None:
    broken: set[str] = set()
    store = await SqliteStore.open(path, factory=failing(broken))
    await store._checkpoint()
    await store.append(birth("job_1", 100))
    broken.add("PRAGMA")
    await store._checkpoint()
    broken.clear()
    await store.append(birth("job_2", 100))
    assert in_file(path) == 0
    await store._checkpoint()
    assert in_file(path) == 200
    await store.close()


# ── Gone ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_that_was_moved_away_takes_no_append_until_it_is_back(store: SqliteStore, path: Path) -> None:
    await store.append(birth("job_1"))
    path.rename(path.with_name("elsewhere"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="see to the disk"):
            await store.append(birth("job_2"))
    assert [event.position for event in await whole_log(store)][:1] == [1]
    path.with_name("elsewhere").rename(path)
    assert await store.append(birth("job_2")) == Stored(2, 2, 2)
    await store.close()
    assert len(on_disk(path)) == 2


async def test_another_file_under_its_name_is_not_written_to(store: SqliteStore, path: Path) -> None:
    await store.append(birth("job_1"))
    path.rename(path.with_name("elsewhere"))
    shutil.copy(path.with_name("elsewhere"), path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="another file"):
            await store.append(birth("job_2"))
    assert path.read_bytes() == before


async def test_a_wal_that_was_deleted_takes_no_append_and_loses_none(store: SqliteStore, path: Path) -> None:
    await store.append(birth("job_1"))
    path.with_name("rushes.db-wal").unlink()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="see to the disk"):
            await store.append(birth("job_2"))
    await store.close()
    again = await SqliteStore.open(path)
    assert again.epoch == store.epoch
    assert [event.position for event in await whole_log(again)][:1] == [1]
    assert await again.append(birth("job_2")) == Stored(2, 2, 2)
    await again.close()


class Trusting(SqliteStore):
    """The control: never looks whether its file is still there."""

    def _check_files(self) -> None: ...


async def test_control_what_goes_into_a_deleted_file_is_lost(path: Path) -> None:
    store = await Trusting.open(path)
    path.unlink()
    assert await store.append(birth("job_1")) == Stored(1, 1, 1)
    await store.close()
    assert not path.exists()


async def test_a_log_opens_beside_somebody_who_reads_an_older_state(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.append(birth("job_1"))
    with closing(sqlite3.connect(path, isolation_level=None)) as backup:
        backup.execute("BEGIN")
        assert backup.execute("SELECT count(*) FROM events").fetchone() == (1,)
        await store.append(birth("job_2"))
        await store.close()
        again = await SqliteStore.open(path)
        assert len(await whole_log(again)) == 2
        await again.append(birth("job_3"))
        assert backup.execute("SELECT count(*) FROM events").fetchone() == (1,)
        await again.close()
