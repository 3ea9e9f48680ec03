"""The actor system around a provider's twin: who may send, who waits, who sleeps, and what survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from acme import Acme, AcmeTwin, Wire, make

from rushes.actors import messages as m
from rushes.actors.actor import Actor, Asked
from rushes.actors.system import System
from rushes.eventstore.base import Stored, StoreUnavailable, Write
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, Conflict, JobFailed, NotFound, Unavailable
from rushes.studio import Job, Studio
from rushes.video import JobView


class Rig:
    """One log, one provider, and the systems that come and go around them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.twin = AcmeTwin()
        self.wire = Wire(self.twin)
        self._running: list[System] = []

    async def open(self, adapter: Acme | None = None, kind: type[System] = System) -> Studio:
        system, studio = make(self.store, self.folder, self.wire, adapter, kind)
        self._running.append(system)
        await system.start()
        return studio

    async def crash(self) -> None:
        """What kill -9 does to the system: it stops in the middle, and tells nobody."""
        await self._running.pop().stop(grace_s=0.0)

    async def close(self) -> None:
        while self._running:
            await self._running.pop().stop(grace_s=2.0)

    @property
    def system(self) -> System:
        return self._running[-1]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    await rig.close()
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"


async def until(job: Job, *phases: str) -> JobView:
    """Follow a job until it is in one of these phases."""
    async with asyncio.timeout(5), aclosing(job.updates()) as views:
        async for view in views:
            if view.phase in phases:
                return view
    raise AssertionError(f"it ended without {phases}")


def types(events: Sequence[object]) -> list[str]:
    return [str(getattr(event, "type", "")) for event in events]


async def test_a_job_from_request_to_take(rig: Rig) -> None:
    studio = await rig.open()
    job = await studio.generate("a lake")
    result = await job.result(timeout_s=5)
    assert Path(result.videos[0].path).read_bytes().startswith(b"\0\0\0\x18ftyp")
    assert types(await job.events()) == [
        "job.requested",
        "submission.started",
        "submission.accepted",
        "generation.finished",
        "take.stored",
        "job.succeeded",
    ]
    assert len(rig.twin.renders) == 1


async def test_a_crash_while_sending_pays_once(rig: Rig) -> None:
    rig.wire.gate = asyncio.Event()
    studio = await rig.open()
    job = await studio.generate("a lake")
    await rig.wire.sending.wait()
    await rig.crash()
    rig.wire.gate = None
    again = (await rig.open()).job(job.id)
    assert (await again.result(timeout_s=5)).job.billed == "yes"
    assert "submission.doubted" in types(await again.events())
    assert len(rig.twin.renders) == 1


async def test_a_lost_answer_at_a_provider_that_tells_nothing_is_parked_and_said(rig: Rig) -> None:
    rig.wire.lose = 1
    studio = await rig.open(Acme(doubt="E"))
    job = await studio.generate("a lake")
    with pytest.raises(JobFailed) as failed:
        await job.result(timeout_s=5)
    assert failed.value.billed == "unknown"
    assert (await job.state()).phase == "parked"
    assert len(rig.twin.renders) == 1


async def test_a_refused_send_is_repeated_under_the_same_key(rig: Rig) -> None:
    rig.twin.answers = [429, 429]
    studio = await rig.open()
    job = await studio.generate("a lake")
    notes = {view.note async for view in job.updates()}
    assert notes == {"", "acme says no"}
    await job.result(timeout_s=10)
    assert types(await job.events()).count("submission.refused") == 2
    assert [render.key for render in rig.twin.renders] == [f"{job.id}-1"]


async def test_a_definite_refusal_fails_unbilled_and_at_once(rig: Rig) -> None:
    rig.twin.answers = [422]
    job = await (await rig.open()).generate("a lake")
    with pytest.raises(JobFailed) as failed:
        await job.result(timeout_s=5)
    assert (failed.value.code, failed.value.billed) == ("invalid_input", "no")


class FullDisk(MemoryStore):
    """Twice, it has no room for what the provider answered."""

    refusals = 0

    async def append(self, write: Write) -> Stored:
        if self.refusals < 2 and any(event.type == "submission.accepted" for event in write.events):
            self.refusals += 1
            raise StoreUnavailable("the disk is full")
        return await super().append(write)


class Forgetful(System):
    """The negative control: what could not be written is dropped."""

    def _keep_reports(self, actor: Actor, asked: list[Asked], error: StoreUnavailable) -> None:  # noqa: ARG002
        super()._keep_reports(actor, [], error)


@pytest.mark.parametrize(("kind", "ends"), [(System, "succeeded"), (Forgetful, "parked")])
async def test_a_full_disk_loses_no_answer_to_a_paid_call(rig: Rig, kind: type[System], ends: str) -> None:
    rig.store = FullDisk()
    job = await (await rig.open(Acme(doubt="E"), kind)).generate("a lake")
    async with asyncio.timeout(10):
        view = await until(job, "succeeded", "parked")
    assert view.phase == ends
    assert len(rig.twin.renders) == 1


async def test_a_cancel_stops_the_render(rig: Rig) -> None:
    rig.twin.done_at_once = False
    job = await (await rig.open()).generate("a lake")
    await until(job, "running")
    await job.cancel()
    view = await until(job, "cancelled")
    assert (view.billed, rig.twin.renders[0].status) == ("no", "cancelled")


async def test_a_cancel_while_sending_never_tears_the_call_down(rig: Rig) -> None:
    rig.twin.done_at_once = False
    rig.wire.gate = asyncio.Event()
    job = await (await rig.open()).generate("a lake")
    await rig.wire.sending.wait()
    await job.cancel()
    rig.wire.gate.set()
    await until(job, "cancelled")
    assert "submission.accepted" in types(await job.events())
    assert rig.twin.renders[0].status == "cancelled"


async def test_only_as_many_sends_at_once_as_there_are_permits(rig: Rig) -> None:
    rig.wire.gate = asyncio.Event()
    studio = await rig.open()
    jobs = [await studio.generate(f"lake {n}") for n in range(5)]
    await rig.wire.sending.wait()
    async with asyncio.timeout(5):
        while [(await job.state()).phase for job in jobs].count("submitting") < 2:
            await asyncio.wait_for(rig.store.wait(rig.store.position), 5)
    assert len(rig.twin.renders) <= 2
    rig.wire.gate.set()
    for job in jobs:
        await job.result(timeout_s=5)
    assert len(rig.twin.renders) == 5


class Forgetting(System):
    """Keeps two jobs that wait in memory, four at most."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts, max_idle=2)


async def test_of_the_jobs_that_wait_a_bounded_number_is_in_memory(rig: Rig) -> None:
    rig.twin.done_at_once = False
    studio = await rig.open(Acme(poll_s=0.5), Forgetting)
    jobs = [await studio.generate(f"lake {n}") for n in range(9)]
    for job in jobs:
        await until(job, "running")
    async with asyncio.timeout(5):
        while rig.system._lanes["acme/"].known < 9:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)
    assert len(rig.system._memory.live) <= 4
    assert rig.system._memory.live.keys() == rig.system._memory.idle.keys()
    assert {actor.stream for actor in rig.system._memory.names.values()} == rig.system._memory.live.keys()
    rig.twin.done_at_once = True
    for job in jobs[:-1]:
        await job.result(timeout_s=5)
    assert rig.system._lanes["acme/"].known <= 1, "a job that has ended leaves nothing"
    job = jobs[-1]
    await rig.crash()
    await (await rig.open()).job(job.id).result(timeout_s=5)  # found by its open flag alone


async def test_poll_asks_at_once_but_not_within_the_minimum_interval(rig: Rig) -> None:
    rig.twin.done_at_once = False
    studio = await rig.open(Acme(poll_s=0.2))
    job = await studio.generate("a lake")
    await until(job, "running")
    rig.twin.renders[0].percent = 40
    early = await job.poll()
    assert (early.progress, rig.twin.polls) == (None, 0)
    assert early.age_seconds < 0.2


async def test_stopping_lets_a_paid_call_end(rig: Rig) -> None:
    rig.wire.gate = asyncio.Event()
    job = await (await rig.open()).generate("a lake")
    await rig.wire.sending.wait()
    stopping = asyncio.create_task(rig.close())
    rig.wire.gate.set()
    await stopping
    history = await rig.store.read((await rig.store.find(job.id)).id)  # type: ignore[union-attr]
    assert history[-1].type == "submission.accepted"


async def test_without_a_grace_a_paid_call_is_left_in_doubt(rig: Rig) -> None:
    """The negative control of the test above."""
    rig.wire.gate = asyncio.Event()
    job = await (await rig.open()).generate("a lake")
    await rig.wire.sending.wait()
    await rig.crash()
    history = await rig.store.read((await rig.store.find(job.id)).id)  # type: ignore[union-attr]
    assert history[-1].type == "submission.started"


async def test_a_stopping_system_takes_no_commands(rig: Rig) -> None:
    studio = await rig.open()
    job = await studio.generate("a lake")
    await job.result(timeout_s=5)
    await rig.close()
    with pytest.raises(Unavailable):
        await studio.cancel(job.id)


async def test_one_key_is_one_job_however_often_it_is_asked(rig: Rig) -> None:
    studio = await rig.open()
    jobs = await asyncio.gather(*[studio.generate("a lake", idempotency_key="k") for _ in range(50)])
    assert len({job.id for job in jobs}) == 1
    await jobs[0].result(timeout_s=5)
    assert len(rig.twin.renders) == 1
    with pytest.raises(Conflict):
        await studio.generate("another lake", idempotency_key="k")


async def test_a_key_comes_back_when_its_job_ended_before_anything_was_sent(rig: Rig) -> None:
    rig.wire.gate = asyncio.Event()
    studio = await rig.open()
    blockers = [await studio.generate(f"lake {n}") for n in range(2)]
    await rig.wire.sending.wait()
    first = await studio.generate("a lake", idempotency_key="k")
    await first.cancel()
    second = await studio.generate("a lake", idempotency_key="k")
    assert second.id != first.id
    rig.wire.gate.set()
    for job in [*blockers, second]:
        await job.result(timeout_s=5)


async def test_other_tenants_do_not_exist(rig: Rig) -> None:
    studio = await rig.open()
    job = await studio.generate("a lake", tenant="a")
    with pytest.raises(NotFound):
        await studio.show(job.id, tenant="b")
    assert (await studio.jobs(tenant="b")).jobs == []


async def test_a_bad_field_is_named_and_nothing_is_stored(rig: Rig) -> None:
    studio = await rig.open()
    with pytest.raises(BadRequest) as refused:
        await studio.generate("a lake", duration_seconds=7)
    assert refused.value.field == "duration_seconds"
    assert rig.store.position == 0


async def test_state_after_every_event_is_what_the_log_says(rig: Rig) -> None:
    studio = await rig.open()
    job = await studio.generate("a lake")
    await job.result(timeout_s=5)
    live = await rig.system.look(job.id)
    assert isinstance(live.job, m.Succeeded)
