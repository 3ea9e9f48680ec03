"""A damaged or unknown event stops its own job, says so, and leaves all others alone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from acme import AcmeTwin, Wire, make

from rushes.actors import system as system_module
from rushes.actors.actor import Actor
from rushes.actors.lanes import Lane
from rushes.actors.system import System
from rushes.eventstore.base import Birth, Damaged, Head, NewEvent, Recorded, Stored, Stream, Write, WrongVersion
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import NotFound, Unreadable
from rushes.studio import Studio

FOREVER_S: Final = 0.3  # for what must not happen


def change(path: Path, job: str, version: int, what: str) -> None:
    """What rot does, where a stranger could do it: with the triggers out of the way."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        where = "version = ? AND stream = (SELECT id FROM streams WHERE name = ?)"
        assert connection.execute(f"UPDATE events SET {what} WHERE {where}", (version, job)).rowcount == 1


async def come_from_a_newer_release(path: Path, job: str, news: NewEvent) -> None:
    """An event that today's code does not know, stored as it should be."""
    store = await SqliteStore.open(path, release="0.4.0")
    stream = await store.find(job)
    assert stream is not None
    await store.append(Write(stream.id, stream.version, [news], Head(open=True, lane=stream.lane), 1))
    await store.close()


async def rot(path: Path, job: str) -> None:
    change(path, job, 1, "data = replace(data, 'river', 'RIVER')")


async def lose(path: Path, job: str) -> None:
    """The event is whole, and says that it is another stream's."""
    change(path, job, 2, "stream = 99")


async def new_type(path: Path, job: str) -> None:
    await come_from_a_newer_release(path, job, NewEvent("job.teleported", 1, 1.0, b"{}"))


async def new_version(path: Path, job: str) -> None:
    await come_from_a_newer_release(path, job, NewEvent("cancel.requested", 2, 1.0, b'{"by": {"name": "ann"}}'))


async def nonsense(path: Path, job: str) -> None:
    await come_from_a_newer_release(path, job, NewEvent("take.stored", 1, 1.0, b'{"index": 0}'))


async def disorder(path: Path, job: str) -> None:
    done = b'{"attempt": 1, "prepared": {}}'
    await come_from_a_newer_release(path, job, NewEvent("inputs.prepared", 1, 1.0, done))


NEEDED = "rushes 0.4.0 wrote to this log: use that release or a later one."
DAMAGES: Final[dict[str, tuple[Callable[[Path, str], Any], str]]] = {
    "rotten bytes": (rot, "Event 1 of {job} (position 1) is damaged: `rushes verify` says"),
    "a rotten number": (lose, "Event 2 of {job} is damaged"),
    "a newer type": (
        new_type,
        f"Event 4 of {{job}} is job.teleported v1, which this release (0.1.0) does not know; {NEEDED}",
    ),
    "a newer version": (new_version, f"is cancel.requested v2, which this release (0.1.0) does not know; {NEEDED}"),
    "a payload that does not fit": (nonsense, "missing required field `asset`"),
    "events that do not follow each other": (disorder, "do not follow each other"),
}


async def until(holds: Callable[[], bool]) -> None:
    """Let the others run until it holds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)


def at_rest(system: System) -> bool:
    """Nobody is due anywhere, has a place, or waits for one."""
    places = [places for lane in system.lanes for places in (lane.sends, lane.calls, lane.fetches)]
    return not any(lane.known for lane in system.lanes) and not any(one.taken or one.waiting for one in places)


class Ours(System):
    """A system of release 0.1.0."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts, release="0.1.0")


class Careless(Ours):
    """The negative control: what one job's events make of a replay is everybody's."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._memory._replay = carelessly  # type: ignore[method-assign]


def carelessly(stream: Stream, history: list[Recorded] | Damaged) -> Actor | Unreadable:
    actor = Actor(stream.name, stream.tenant, stream.id)
    if isinstance(history, Damaged):
        raise history
    actor.replay(history)
    return actor


class Rig:
    """A log with jobs that wait at their provider, reopened after something happened to one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.wire = folder, folder / "rushes.db", Wire(AcmeTwin())
        self.bad = ""
        self.good: Sequence[str] = ()

    async def prepare(self) -> None:
        self.wire.twin.done_at_once = False
        store = await SqliteStore.open(self.path, release="0.1.0")
        system, studio = make(store, self.folder, self.wire, kind=Ours)
        await system.start()
        jobs = [await studio.generate(prompt) for prompt in ("a river", "a lake", "a sea")]
        for job in jobs:
            async with asyncio.timeout(5), aclosing(job.updates()) as views:
                async for view in views:
                    if view.phase == "running":
                        break
        self.bad, *self.good = [job.id for job in jobs]
        await system.stop()
        await store.close()
        self.wire.twin.done_at_once = True

    async def open(self, kind: type[System] = Ours) -> tuple[SqliteStore, System, Studio]:
        store = await SqliteStore.open(self.path, release="0.1.0")
        return store, *make(store, self.folder, self.wire, kind=kind)


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    await rig.prepare()
    return rig


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
async def test_one_bad_stream_stays_alone(rig: Rig, damage: Callable[[Path, str], Any], words: str) -> None:
    await damage(rig.path, rig.bad)
    store, system, studio = await rig.open()
    with structlog.testing.capture_logs() as lines:
        await system.start()
        for good in rig.good:
            assert (await studio.job(good).result(timeout_s=5)).job.id == good
    told = [line for line in lines if line["event"] == "job.unreadable"]
    assert [line["job"] for line in told] == [rig.bad], "said once, and by name"
    assert words.format(job=rig.bad) in told[0]["detail"]
    assert rig.bad not in system._memory.names
    await until(lambda: at_rest(system))  # who follows a job may hear of its end before the job itself does

    for asked in (studio.show(rig.bad), studio.cancel(rig.bad), studio.poll(rig.bad), anext(studio.updates(rig.bad))):
        with pytest.raises(Unreadable) as unreadable:
            await asked
        assert (unreadable.value.detail, unreadable.value.job_id) == (told[0]["detail"], rig.bad)
    page = await studio.jobs()
    assert ([view.id for view in page.jobs], page.unreadable) == (list(reversed(rig.good)), [rig.bad])
    await system.stop()
    await store.close()


@pytest.mark.parametrize("damage", [rot, new_type, disorder])
@pytest.mark.parametrize("kind", [Ours, Careless])
async def test_jobs_that_wake_together_do_not_fall_together(
    rig: Rig, damage: Callable[[Path, str], Any], kind: type[System]
) -> None:
    await damage(rig.path, rig.bad)
    store, system, studio = await rig.open(kind)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the control's
    system._wake(system._lane("acme/"), [stream for stream, _ in await store.open_streams("job")])
    lake = studio.job(rig.good[0])
    if kind is Ours:
        await lake.result(timeout_s=5)
    else:
        with pytest.raises(TimeoutError):
            await lake.result(timeout_s=FOREVER_S)
    await system.stop()
    await store.close()


async def test_the_events_of_a_damaged_job_are_told_up_to_the_damage_only_behind_it(rig: Rig) -> None:
    await rot(rig.path, rig.bad)
    store, _, studio = await rig.open()
    with pytest.raises(Unreadable, match=rf"Event 1 of {rig.bad} \(position 1\) is damaged") as unreadable:
        await studio.events(rig.bad)
    assert unreadable.value.job_id == rig.bad
    assert [event.version for event in await studio.events(rig.bad, after=1)] == [2, 3]
    await store.close()


async def test_a_job_whose_events_are_all_gone_is_no_new_job(rig: Rig) -> None:
    for version in (1, 2, 3):
        change(rig.path, rig.bad, version, "stream = 99")
    store, _, studio = await rig.open()
    with pytest.raises(Unreadable, match=f"Event 1 of {rig.bad} is damaged"):
        await studio.show(rig.bad)
    await store.close()


async def test_other_tenants_do_not_learn_of_it(rig: Rig) -> None:
    await rot(rig.path, rig.bad)
    store, _, studio = await rig.open()
    with pytest.raises(NotFound):
        await studio.show(rig.bad, tenant="another")
    await store.close()


async def test_an_idempotency_key_finds_its_job_although_it_cannot_be_read(rig: Rig) -> None:
    store, system, studio = await rig.open()
    job = await studio.generate("a pond", idempotency_key="k")
    await job.result(timeout_s=5)
    await system.stop()
    await store.close()
    change(rig.path, job.id, 1, "data = replace(data, 'pond', 'POND')")
    store, system, studio = await rig.open()
    with pytest.raises(Unreadable) as unreadable:
        await studio.generate("a pond", idempotency_key="k")
    assert unreadable.value.job_id == job.id
    assert len(rig.wire.twin.renders) == 4, "it is not made, and paid, a second time"
    await system.stop()
    await store.close()


async def test_who_follows_a_job_hears_that_it_was_damaged(rig: Rig) -> None:
    """Behind the ring's back: the log is read from the disk again."""
    rig.wire.twin.done_at_once = False
    store, system, studio = await rig.open()
    async with aclosing(studio.updates(rig.bad)) as views:
        assert (await anext(views)).phase == "running"
        await new_type(rig.path, rig.bad)
        change(rig.path, rig.bad, 4, "data = 'x'")
        store._signal.advance(store.position + 1)
        with pytest.raises(Unreadable, match=f"Event 4 of {rig.bad}"):
            await asyncio.wait_for(anext(views), 5)
    await system.stop()
    await store.close()


# ── Places ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Forgetful(Ours):
    """Who waits is read again."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts, max_idle=0)


class Sticky(Forgetful):
    """The negative control: who cannot be read stays where it was."""

    def _lane(self, name: str) -> Lane:
        lane = super()._lane(name)
        lane.forget = lambda stream: None  # type: ignore[method-assign]  # noqa: ARG005 - broken on purpose
        return lane


@pytest.mark.parametrize("kind", [Forgetful, Sticky])
async def test_a_place_that_was_kept_for_a_damaged_job_goes_to_the_next(tmp_path: Path, kind: type[System]) -> None:
    wire, store = Wire(AcmeTwin()), MemoryStore()
    wire.gate = asyncio.Event()
    system, studio = make(store, tmp_path, wire, kind=kind)
    busy = [await studio.generate(f"lake {n}") for n in range(2)]
    await wire.sending.wait()
    bad, good = await studio.generate("a river"), await studio.generate("a sea")
    lane = system._lane("acme/")
    await until(lambda: lane.sends.waiting == 2)
    stream = await store.find(bad.id)
    assert stream is not None
    store._crcs[(await store.read(stream.id))[0].position - 1] ^= 1
    wire.gate.set()
    for job in busy:
        await job.result(timeout_s=5)
    await good.result(timeout_s=5)
    await until(lambda: kind is Sticky or lane.sends.taken == 0)
    assert (lane.sends.taken, len(lane.sends._kept)) == ((0, 0) if kind is Forgetful else (1, 1))
    await system.stop()


# ── A log that is never where it is thought ───────────────────────────────────────────────────────────────────────────


class Elsewhere(MemoryStore):
    """It refuses every append to a stream that is there, for ever."""

    refusals = 0

    async def append(self, write: Write) -> Stored:
        if isinstance(write.stream, Birth):
            return await super().append(write)
        self.refusals += 1
        raise WrongVersion


@pytest.mark.parametrize("most", [system_module.MAX_REPEATS, 200])
async def test_a_turn_that_never_fits_the_log_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(system_module, "MAX_REPEATS", most)  # the second is the control: it is this bound that ends it
    store = Elsewhere()
    system, studio = make(store, tmp_path, Wire(AcmeTwin()))
    job = await studio.generate("a lake")
    with pytest.raises(WrongVersion):
        await asyncio.wait_for(job.cancel(), 5)
    assert most <= store.refusals <= 2 * most + 2
    assert not system._repeats
    assert not system._memory.live
    assert at_rest(system)
    await system.stop()


# ── Which release ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("releases", "newest"),
    [
        ([""], ""),
        (["0.1.0"], "0.1.0"),
        (["0.1.0", "0.4.0", "0.1.0", ""], "0.4.0"),
        (["0.9.1", "0.10"], "0.10"),
        (["0.10.0", "0.10"], "0.10.0"),
        (["1.0rc1", "1.0"], "1.0rc1"),
        (["unknown", "0.1.0", "unknown"], "0.1.0"),
    ],
)
async def test_a_log_remembers_the_newest_release_that_owned_it(
    tmp_path: Path, releases: list[str], newest: str
) -> None:
    path = tmp_path / "rushes.db"
    for release in releases:
        store = await SqliteStore.open(path, release=release)
        await store.close()
    store = await SqliteStore.open_readonly(path)
    assert store.release == newest
    await store.close()
