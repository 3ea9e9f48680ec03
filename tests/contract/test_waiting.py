"""Waiting for jobs: every change is seen, and a crowd that waits costs the log no more than one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from acme import AcmeTwin, Wire, make

from rushes.actors.system import System
from rushes.eventstore.base import Batch, StoreUnavailable, Stream
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import SqliteStore
from rushes.eventstore.wakes import Wakes
from rushes.faults import NotFound, Unavailable
from rushes.studio import Job, Studio

SOON_S = 5.0
FOREVER_S = 0.2  # for what must not happen


class Counting(MemoryStore):
    """Counts how it is asked, and sometimes cannot be read."""

    reads, finds, broken = 0, 0, False

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        self.reads += 1
        if self.broken:
            raise StoreUnavailable("The disk is on holiday.")
        return await super().read_all(after, limit, tenant=tenant, kind=kind)

    async def find(self, name: str) -> Stream | None:
        self.finds += 1
        return await super().find(name)


class LooksFirst(Wakes):
    """Wrong: what happens between the look and the registration wakes nobody."""

    async def of(self, stream: int) -> AsyncGenerator[None, None]:
        yield
        async with aclosing(super().of(stream)) as wakes:
            await anext(wakes)
            async for _ in wakes:
                yield


class Rig:
    """A studio whose provider answers when the gate opens."""

    def __init__(self, folder: Path) -> None:
        self.store = Counting()
        self.wire = Wire(AcmeTwin())
        self.wire.gate = self.gate = asyncio.Event()
        self.system: System
        self.studio: Studio
        self.system, self.studio = make(self.store, folder, self.wire)

    async def at_the_gate(self) -> Job:
        """A job whose send is under way."""
        job = await self.studio.generate("a lake")
        await self.wire.sending.wait()
        return job

    async def ended(self, job: Job) -> None:
        """By looking alone."""
        async with asyncio.timeout(SOON_S):
            while not (await job.state()).ended:  # noqa: ASYNC110 - nobody tells when
                await asyncio.sleep(0)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.system.start()
    yield rig
    rig.gate.set()
    await rig.system.stop(grace_s=2.0)
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"


async def rest_of(views: AsyncGenerator[object], within_s: float) -> int:
    async with asyncio.timeout(within_s):
        return len([view async for view in views])


async def test_what_happens_while_a_caller_is_busy_is_told_in_its_next_turn(rig: Rig) -> None:
    job = await rig.at_the_gate()
    async with aclosing(job.updates()) as views:
        await anext(views)
        rig.gate.set()
        await rig.ended(job)
        assert await rest_of(views, SOON_S) == 1, "the end, and nothing that is past"


async def test_control_who_looks_before_waiting_misses_the_end(rig: Rig) -> None:
    rig.studio._wakes = LooksFirst(rig.store)
    job = await rig.at_the_gate()
    async with aclosing(job.updates()) as views:
        await anext(views)
        rig.gate.set()
        await rig.ended(job)
        with pytest.raises(TimeoutError):
            await rest_of(views, FOREVER_S)


async def test_a_crowd_that_waits_costs_the_log_no_more_than_one(rig: Rig) -> None:
    job = await rig.at_the_gate()
    commits: list[int] = []
    stop = rig.store.watch(commits.append)
    rig.store.finds = rig.store.reads = 0
    waiting = [asyncio.ensure_future(job.result(SOON_S)) for _ in range(50)]
    for _ in range(10):
        await asyncio.sleep(0)
    rig.gate.set()
    assert {result.job.id for result in await asyncio.gather(*waiting)} == {job.id}
    stop()
    assert 0 < rig.store.reads <= len(commits)
    assert rig.store.finds == 0, "a live job is not looked up in the log"


async def test_a_job_that_has_ended_is_told_without_waiting(rig: Rig) -> None:
    rig.gate.set()
    job = await rig.at_the_gate()
    await rig.ended(job)
    rig.store.reads = 0
    assert [view.status async for view in job.updates()] == ["succeeded"]
    assert (await job.result()).job.ended
    assert rig.store.reads == 0


async def test_a_log_that_cannot_be_read_is_said_to_all_who_wait(rig: Rig) -> None:
    job = await rig.at_the_gate()
    waiting = [asyncio.ensure_future(job.result(SOON_S)) for _ in range(3)]
    for _ in range(10):
        await asyncio.sleep(0)
    rig.store.broken = True
    rig.gate.set()
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, StoreUnavailable)
    rig.store.broken = False
    assert (await job.result(SOON_S)).job.id == job.id


async def test_who_waits_while_the_studio_is_closed_is_told_that_and_not_that_there_is_no_job(rig: Rig) -> None:
    job = await rig.at_the_gate()
    waiting = asyncio.ensure_future(job.result(SOON_S))
    for _ in range(10):
        await asyncio.sleep(0)
    await rig.store.close()
    with pytest.raises(Unavailable) as told:
        await waiting
    assert (told.value.job_id, told.value.billed) == (job.id, "unknown")
    assert "goes on" in told.value.detail


async def test_nobody_can_wait_for_another_tenants_job(rig: Rig) -> None:
    job = await rig.at_the_gate()
    with pytest.raises(NotFound):
        await anext(rig.studio.updates(job.id, tenant="another"))
    with pytest.raises(NotFound):
        await rig.studio.settled("job_nobody")


async def test_who_owns_nothing_is_told_the_present_and_may_leave(rig: Rig, tmp_path: Path) -> None:
    """A log that was opened for reading stands still: waiting for more is waiting for ever."""
    log = tmp_path / "rushes.db"
    owned = await SqliteStore.open(log)
    system, studio = make(owned, tmp_path, rig.wire)
    job = await studio.generate("a lake")
    await rig.wire.sending.wait()
    seen = await SqliteStore.open_readonly(log)
    _, reader = make(seen, tmp_path, rig.wire)
    with pytest.raises(TimeoutError):
        await reader.job(job.id).result(FOREVER_S)
    async with aclosing(reader.job(job.id).updates()) as views:
        assert (await anext(views)).phase == "submitting"
        more = asyncio.ensure_future(rest_of(views, SOON_S))
        await asyncio.sleep(0)
        await seen.close()
        assert await more == 0
    rig.gate.set()
    await system.stop()
    await owned.close()
