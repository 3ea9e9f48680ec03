"""What a person decides about a parked job, on the real system around a provider's twin that keeps a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from acme import Acme, AcmeTwin, Wire, make
from msgspec.structs import replace

from rushes.actors import perform
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Done, Failed, Flow, Outcome, Output, Request, Response, refused
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, CommandRejected, Conflict, Fault, JobFailed, NotFound
from rushes.studio import Job, Studio
from rushes.units import AssetRef, Handle
from rushes.video import JobView, Target


class Locked(Wire):
    """`locked`: the provider refuses the key, whatever it is asked but to take a job."""

    locked = False

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        if self.locked and not request.spends:
            raise refused(adapter, Response(status=401))
        return await super().send(adapter, target, request)


class Rig:
    """One log and one provider."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.twin = folder, MemoryStore(), AcmeTwin()
        self.wire = Locked(self.twin)
        self._system: System | None = None

    async def open(self, adapter: Acme | None = None) -> Studio:
        await self.close()
        self._system, studio = make(self.store, self.folder, self.wire, adapter)
        await self._system.start()
        return studio

    async def close(self) -> None:
        if self._system is not None:
            await self._system.stop(grace_s=2.0)

    async def in_doubt(self) -> Job:
        """A job whose answer was lost, and that the provider took: it is paid."""
        self.wire.lose = 1
        job = await (await self.open(Acme(doubt="E"))).generate("a lake", seed=7)
        await until(job, "parked")
        return job

    @property
    def charges(self) -> int:
        return len(self.twin.renders)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    await rig.close()
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"


def impatient(total_s: float = 0.001) -> Acme:
    """A provider that is given almost no time."""
    acme = Acme()
    acme._terms = replace(acme._terms, total_s=total_s)
    return acme


async def until(job: Job, *phases: str) -> JobView:
    async with asyncio.timeout(5), aclosing(job.updates()) as views:
        async for view in views:
            if view.phase in phases:
                return view
    raise AssertionError(f"it ended without {phases}")


# ── collect ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_collect_fetches_what_was_paid_and_pays_nothing(rig: Rig) -> None:
    job = await rig.in_doubt()
    with pytest.raises(CommandRejected) as unknown:
        await job.collect()
    assert (unknown.value.field, unknown.value.job_id, unknown.value.billed) == ("handle", job.id, "unknown")
    assert (await job.collect(handle="r0")).phase == "running"
    result = await job.result(timeout_s=5)
    assert Path(result.videos[0].path).exists()
    assert (result.job.billed, rig.charges) == ("yes", 1)
    assert (await job.collect()).takes == result.videos  # asked again it answers


async def test_collect_answers_a_job_that_is_under_way_with_its_state(rig: Rig) -> None:
    rig.twin.done_at_once = False
    job = await (await rig.open()).generate("a lake")
    view = await until(job, "running")
    assert (await job.collect()).version == view.version
    await job.cancel()
    await until(job, "cancelled")


async def test_a_wrong_id_is_parked_again_and_the_right_one_fetches(rig: Rig) -> None:
    job = await rig.in_doubt()
    await job.collect(handle="r9")
    assert "no longer knows" in (await until(job, "parked")).attention
    await job.collect(handle="r0")
    await job.result(timeout_s=5)
    assert rig.charges == 1


@pytest.mark.parametrize("handle", ["", " ", "a b", "../jobs", "a?b", "a#b", "a\nb", "ä", "x" * 301])
async def test_an_id_that_is_none_is_refused(rig: Rig, handle: str) -> None:
    job = await rig.in_doubt()
    with pytest.raises(BadRequest) as refused_:
        await job.collect(handle=handle)
    assert refused_.value.field == "handle"
    assert (await job.state()).phase == "parked"


async def test_a_refused_key_is_named_and_a_working_one_fetches(rig: Rig) -> None:
    rig.wire.locked = True
    job = await (await rig.open(impatient())).generate("a lake")
    view = await until(job, "parked")
    assert "refuses the key" in view.attention
    assert view.billed == "unknown"
    rig.wire.locked = False
    again = (await rig.open(impatient())).job(job.id)  # a key is changed by a restart
    await again.collect()
    await again.result(timeout_s=5)
    assert rig.charges == 1


async def test_while_polls_come_to_nothing_the_view_says_why(rig: Rig) -> None:
    rig.twin.done_at_once = False
    studio = await rig.open()
    job = await studio.generate("a lake")
    version = (await until(job, "running")).version
    rig.wire.locked = True
    async with asyncio.timeout(5):
        while not (view := await job.state()).note:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)
    assert (view.note, view.version) == ("acme says no", version)
    assert [view.note for view in (await studio.jobs()).jobs] == ["acme says no"]


# ── resubmit, give up ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_resubmit_pays_again_only_when_that_is_accepted(rig: Rig) -> None:
    job = await rig.in_doubt()
    with pytest.raises(CommandRejected, match="paid twice") as refused_:
        await job.resubmit()
    assert (refused_.value.field, refused_.value.job_id, rig.charges) == ("accept_cost", job.id, 1)
    await job.resubmit(accept_cost=True)
    result = await job.result(timeout_s=5)
    assert (result.job.attempt, rig.charges) == (2, 2)
    with pytest.raises(CommandRejected, match="succeeded"):
        await job.resubmit(accept_cost=True)
    assert rig.charges == 2


async def test_giving_up_ends_it_and_says_what_may_be_billed(rig: Rig) -> None:
    job = await rig.in_doubt()
    view = await job.give_up()
    assert (view.status, view.billed, view.attention) == ("failed", "unknown", "")
    with pytest.raises(JobFailed) as failed:
        await job.result()
    assert (failed.value.code, failed.value.billed) == ("no_answer", "unknown")
    with pytest.raises(CommandRejected, match="`retry`"):
        await job.collect(handle="r0")


# ── retry ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_retry_is_a_new_job_with_the_same_request_and_route(rig: Rig) -> None:
    job = await rig.in_doubt()
    await job.give_up()
    again = await job.retry()
    view = (await again.result(timeout_s=5)).job
    old = await job.state()
    assert (view.parent, old.parent, again.id != job.id) == (job.id, "", True)
    assert (view.request, view.provider, view.model) == (old.request, old.provider, old.model)
    assert (old.phase, view.attempt, rig.charges) == ("failed", 1, 2)
    third = await again.retry()  # also of one that went well
    assert (await third.result(timeout_s=5)).job.parent == again.id


async def test_a_retry_of_a_parked_job_explains_what_to_decide_first(rig: Rig) -> None:
    job = await rig.in_doubt()
    with pytest.raises(CommandRejected) as refused_:
        await job.retry()
    assert (refused_.value.job_id, refused_.value.billed) == (job.id, "unknown")
    for verb in ("`collect`", "`resubmit`", "`give-up`"):
        assert verb in refused_.value.detail
    assert rig.charges == 1


async def test_a_retry_of_a_job_under_way_is_refused(rig: Rig) -> None:
    rig.twin.done_at_once = False
    job = await (await rig.open()).generate("a lake")
    await until(job, "running")
    with pytest.raises(CommandRejected, match="has not ended"):
        await job.retry()
    await job.cancel()
    await until(job, "cancelled")
    assert (await job.retry()).id != job.id


async def test_retries_under_one_key_are_one_job(rig: Rig) -> None:
    studio = await rig.open()
    job = await studio.generate("a lake", idempotency_key="k")
    await job.result(timeout_s=5)
    retries = await asyncio.gather(*[job.retry("again") for _ in range(50)])
    assert len({one.id for one in retries}) == 1
    assert sorted(one.replayed for one in retries) == [False] + [True] * 49
    await retries[0].result(timeout_s=5)
    assert rig.charges == 2
    with pytest.raises(Conflict):
        await job.retry("k")  # it stands for the first request
    with pytest.raises(Conflict):
        await retries[0].retry("again")  # and this for the retry of another job
    with pytest.raises(Conflict):
        await studio.generate("a lake", idempotency_key="again")


async def test_control_retries_without_a_key_are_several(rig: Rig) -> None:
    job = await (await rig.open()).generate("a lake")
    await job.result(timeout_s=5)
    for again in [await job.retry() for _ in range(3)]:
        await again.result(timeout_s=5)
    assert rig.charges == 4


async def test_other_tenants_jobs_are_not_there(rig: Rig) -> None:
    studio = await rig.open()
    job = await studio.generate("a lake", tenant="a")
    asked = [
        studio.collect(job.id, tenant="b"),
        studio.resubmit(job.id, accept_cost=True, tenant="b"),
        studio.give_up(job.id, tenant="b"),
        studio.retry(job.id, tenant="b"),
        studio.retry("job_none"),
    ]
    for one in asked:
        with pytest.raises(NotFound):
            await one


# ── allowed from the start ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("allowed", "ends", "charges"), [(0, "parked", 1), (1, "succeeded", 2), (3, "succeeded", 2)])
async def test_a_request_may_allow_to_be_paid_again_rather_than_to_wait(
    rig: Rig, allowed: int, ends: str, charges: int
) -> None:
    rig.wire.lose = 1
    job = await (await rig.open(Acme(doubt="E"))).generate("a lake", at_least_once=allowed)
    view = await until(job, "parked", "succeeded")
    assert (view.phase, rig.charges) == (ends, charges)


async def test_no_more_is_allowed_than_can_be_meant(rig: Rig) -> None:
    studio = await rig.open()
    with pytest.raises(BadRequest) as refused_:
        await studio.generate("a lake", at_least_once=4)
    assert refused_.value.field == "at_least_once"


async def test_takes_that_were_lost_are_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two videos were made, and the address of one never works: here without the minutes in which it might."""
    monkeypatch.setattr(perform, "FRESH_S", 0.0)
    monkeypatch.setattr(perform, "MAX_REFRESHES", 0)
    job = await (await rig.open(Twins())).generate("a lake")
    view = (await job.result(timeout_s=5)).job
    assert (len(view.takes), view.missing, view.billed) == (1, 1, "yes")


class Twins(Acme):
    """It makes two videos, and says of the second that it is no file."""

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        done = yield from super().status(handle, target)
        return (
            replace(done, outputs=(*done.outputs, Output("https://acme.example/files/none")))
            if isinstance(done, Done)
            else done
        )

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:
        if output.url.endswith("none"):
            raise Failed(Fault("asset_expired", "gone"))
        return (yield from super().download(output, handle, target))
