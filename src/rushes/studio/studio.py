"""The two classes that callers hold: a studio, and one of its jobs. The rooms beside this one do their work."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final, Unpack

from msgspec import Struct

from rushes.actors import messages as m
from rushes.actors.callbacks import Hearing
from rushes.actors.system import Snapshot, System
from rushes.actors.tally import family
from rushes.adapters.base import Adapter
from rushes.assets import Assets
from rushes.eventstore.base import Damaged, EventStore
from rushes.eventstore.wakes import Wakes
from rushes.faults import NotFound, Unavailable, Unreadable, bad, damaged
from rushes.intake import File, Intake
from rushes.studio.asking import asked, check, pick
from rushes.studio.batches import batch_of, batch_view, begin_batch
from rushes.studio.beginning import begun, ready, ready_again
from rushes.studio.doors import Doors, JobList, Parts
from rushes.studio.following import changes, changes_of_all
from rushes.studio.listing import behind, narrowed, page_of
from rushes.studio.providers import provider_views
from rushes.studio.showing import estimate_view, event_view, failure, job_view, shown_size
from rushes.units import DEFAULT_TENANT, Clock, Handle
from rushes.video import (
    BatchedRequest,
    BatchView,
    EstimateView,
    EventView,
    Fields,
    JobsFields,
    JobsQuery,
    JobView,
    Kind,
    Page,
    ProviderView,
    TakeView,
    UploadView,
    VideoRequest,
    checked,
    jobs_query,
)

MIN_FREE_BYTES: Final = 64 * 2**20
_HANDLE: Final = re.compile(r"[A-Za-z0-9][\w.~:/=+@-]{0,299}", re.ASCII)  # it becomes part of an address


class Studio:
    """All jobs of one data folder. Open one with `rushes.open(folder)`."""

    def __init__(
        self,
        *,
        system: System,
        jobs: JobList,
        adapters: Mapping[str, Adapter],
        assets: Assets,
        clock: Clock,
        doors: Doors,
        rng: random.Random | None = None,
    ) -> None:
        self.store: EventStore = system.store
        self.announce = doors.announce
        self.hearing = Hearing(system, adapters, clock, doors.callbacks, doors.recorder)
        self._system, self._jobs, self._assets, self._wakes = system, jobs, assets, Wakes(system.store)
        self._parts = Parts(
            system=system,
            adapters=adapters,
            intake=Intake(assets, doors, system.look),
            doors=doors,
            clock=clock,
            rng=rng or random.SystemRandom(),
        )

    def unready(self) -> str:
        """Why no new job should be given to this process now; empty where any may."""
        free_bytes = self._parts.doors.free_bytes()
        if free_bytes is not None and free_bytes < MIN_FREE_BYTES:
            return f"its disk has {free_bytes // 2**20} MiB left, and {MIN_FREE_BYTES // 2**20} are needed"
        return self._system.unready()

    async def metrics(self, subscribers: int) -> str:
        """All that is counted, as Prometheus reads it. `subscribers` are those who are connected to the server."""
        phases = [({"state": phase}, float(count)) for phase, count in sorted((await self._jobs.by_phase()).items())]
        recorder = self._parts.doors.recorder
        lost = recorder.dropped if recorder else 0
        gauges = [
            family("jobs_in_state", "gauge", "Jobs of the log.", phases),
            family("ws_subscribers", "gauge", "Open sockets and event streams.", [({}, float(subscribers))]),
            family("flight_dropped_total", "counter", "Exchanges that the flight record lost.", [({}, lost)]),
        ]
        return "".join([*self._system.tally.families(), *gauges])

    async def stop(self, grace_s: float) -> None:
        """Take no more commands and let paid calls end within the grace: what is looked at still answers."""
        await self._system.stop(grace_s)

    # ── making ──

    async def generate(
        self,
        prompt: str = "",
        *,
        image: File | None = None,
        video: File | None = None,
        audio: File | None = None,
        idempotency_key: str = "",
        tenant: str = DEFAULT_TENANT,
        **fields: Unpack[Fields],
    ) -> Job:
        """Begin a job; it is durable when this returns.

        Args:
            prompt: what the video should show.
            image: its first frame: a path, bytes, or an https address.
            video: the clip to make over, the same way.
            audio: what is said in it, the same way.
            idempotency_key: the same key with the same request gives the same job again.
            tenant: whose job it is.
            fields: any other field of VideoRequest: model, duration_seconds, aspect_ratio, resolution, seed …

        Raises:
            BadRequest: a field is wrong, and named; nothing was stored.
            Conflict: the key stands for another request.
        """
        if unknown := sorted(set(fields) - set(VideoRequest.__struct_fields__)):
            known = ", ".join(sorted(VideoRequest.__struct_fields__))
            raise bad(unknown[0], f"There is no field {unknown[0]!r}. The fields are: {known}.")
        files: dict[Kind, File | None] = {"image": image, "video": video, "audio": audio}
        handed = [
            await self._parts.intake.handed(kind, file, tenant) for kind, file in files.items() if file is not None
        ]
        if handed:
            fields["inputs"] = (*fields.get("inputs", ()), *handed)
        view, replayed = await self.submit(VideoRequest(prompt=prompt, **fields), idempotency_key, tenant)
        return Job(self, view.id, replayed=replayed)

    async def submit(
        self, request: VideoRequest, idempotency_key: str = "", tenant: str = DEFAULT_TENANT
    ) -> tuple[JobView, bool]:
        """Begin the job of a request; True beside it says that its key had begun it before. Raises as `generate`.

        A request that was sent before under its key is known by its own bytes: nothing that it names is fetched again.
        """
        one = await ready(self._parts, request, idempotency_key, tenant)
        snapshot, replayed = await begun(self._parts, one, idempotency_key, tenant)
        return self.view(snapshot), replayed

    async def submit_batch(
        self, requests: Sequence[BatchedRequest], idempotency_key: str = "", tenant: str = DEFAULT_TENANT
    ) -> tuple[BatchView, bool]:
        """Begin a job for each of 1 to 100 requests; True beside it says that all of them had begun before.

        Every request is looked at before the first job begins: where one is wrong, none is begun. The same batch under
        the same key begins what had not begun, and nothing twice.

        Raises:
            BadRequest: a request is wrong; the fields are named as in `requests[2].prompt`.
            Conflict: a key stands for another request, or for a job outside this batch.
            Unavailable: and other trouble on the way; `idempotency_key` is the one to send the batch again under.
        """
        batch_id, jobs = await begin_batch(self._parts, requests, idempotency_key, tenant)
        views = [self.view(snapshot) for snapshot, _ in jobs]
        return batch_view(batch_id, len(requests), views), all(replayed for _, replayed in jobs)

    async def batch(self, batch_id: str, tenant: str = DEFAULT_TENANT) -> BatchView:
        """How the jobs of a batch are. Raises NotFound, or Unavailable."""
        return await batch_of(batch_id, partial(self.page, tenant=tenant))

    async def estimate(self, request: VideoRequest, tenant: str = DEFAULT_TENANT) -> EstimateView:
        """What a request would cost at the most; what a submit would refuse is refused. Raises BadRequest.

        Nothing is sent. Files that it names by address are fetched and kept: a price may follow what they hold.
        """
        return estimate_view(await asked(self._parts, checked(request), tenant), request.seed)

    async def retry(self, job_id: str, idempotency_key: str = "", tenant: str = DEFAULT_TENANT) -> tuple[JobView, bool]:
        """Begin a new job, to be paid anew, with the request and the route of one that has ended: its `parent`.

        True beside the view says that the key had begun it before.

        Raises:
            CommandRejected: the old job has not ended; the message says what to do instead.
            BadRequest: what it asked for cannot be run any more.
            Conflict: the key stands for another request.
        """
        old = await self._look(job_id, tenant)
        one = await ready_again(self._parts, old, idempotency_key, tenant)
        snapshot, replayed = await begun(self._parts, one, idempotency_key, tenant)
        return self.view(snapshot), replayed

    def check(self, request: VideoRequest) -> None:
        """Raise BadRequest where a request cannot be run, as far as its words tell: its files are not looked at."""
        check(self._parts, request)

    def pick(self, request: VideoRequest, family: str) -> str:
        """The first model of a family that can be used here now and takes the request, as provider/model.

        Args:
            request: what is asked for; its own `model` is not looked at.
            family: a name such as veo-3.1-fast, gemini, sora or kling (`adapters.families`).

        Raises:
            BadRequest: there is none; the likeliest one's refusal says why.
        """
        return pick(self._parts, request, family)

    async def upload(self, chunks: AsyncIterator[bytes], tenant: str = DEFAULT_TENANT) -> UploadView:
        """Keep an image, a video or an audio file that requests will name. Raises BadRequest where it is too large."""
        return await self._parts.intake.upload(chunks, tenant)

    # ── looking ──

    def job(self, job_id: str) -> Job:
        """The handle of a job, without a look whether it is there."""
        return Job(self, job_id)

    async def show(self, job_id: str, tenant: str = DEFAULT_TENANT) -> JobView:
        """One job as it is now. Raises NotFound, or Unreadable."""
        await asyncio.sleep(0)  # who looks again and again lets the job have its turn
        return self.view(await self._look(job_id, tenant))

    async def _look(self, job_id: str, tenant: str) -> Snapshot:
        try:
            snapshot = await self._system.look(job_id)
        except Unreadable:
            await self._stream(job_id, tenant)  # another tenant's is not even there
            raise
        if snapshot.tenant != tenant:
            raise NotFound(f"There is no job {job_id}.", job_id=job_id)
        return snapshot

    async def jobs(self, *, tenant: str = DEFAULT_TENANT, **fields: Unpack[JobsFields]) -> Page:
        """Some of the jobs, the newest first unless asked otherwise.

        Args:
            tenant: whose jobs they are.
            fields: any field of JobsQuery: status, provider, model, created_after, sort, order, limit, after …

        Raises:
            BadRequest: a field is wrong, and named.
            Unavailable: the list is being made again; ask again in a moment.
        """
        return await self.page(jobs_query(fields), tenant)

    async def page(self, query: JobsQuery, tenant: str = DEFAULT_TENANT) -> Page:
        """The same for a query whose types were looked at.

        The list says which jobs, the log what they are now: a job that changed since then, and is no longer what was
        asked for, is left out.
        """
        query = narrowed(query, self._parts.adapters)
        return await page_of(self._system, self._jobs, query, tenant, self.view)

    async def behind(self, job_id: str, tenant: str = DEFAULT_TENANT) -> str:
        """The `after` of a page that goes on behind a job, in a list by creation. Raises BadRequest about `after`."""
        return await behind(self.store, job_id, tenant)

    async def events(self, job_id: str, after: int = 0, tenant: str = DEFAULT_TENANT) -> list[EventView]:
        """The job's history behind a version. Raises Unreadable where an event in it is damaged."""
        stream = await self._stream(job_id, tenant)
        try:
            history = await self.store.read(stream, after)
        except Damaged as error:
            raise damaged(job_id, error.damage.version, error.damage.position) from error
        return [event_view(recorded, job_id) for recorded in history]

    async def _stream(self, job_id: str, tenant: str) -> int:
        stream, owner = await self._system.stream_of(job_id)
        if owner != tenant:
            raise NotFound(f"There is no job {job_id}.", job_id=job_id)
        return stream

    async def updates(self, job_id: str, tenant: str = DEFAULT_TENANT) -> AsyncGenerator[JobView]:
        """The job now, and again whenever it changed, until it has ended. The log is followed: nothing is missed.

        Raises NotFound, or Unreadable.
        """
        stream = await self._stream(job_id, tenant)
        async with aclosing(changes(self._system, self._wakes, job_id, stream)) as snapshots:
            async for snapshot in snapshots:
                yield self.view(snapshot)

    async def updates_of(self, jobs: Sequence[str], tenant: str = DEFAULT_TENANT) -> AsyncGenerator[JobView]:
        """Each of these jobs now, and again whenever it changed, until all of them have ended.

        Raises NotFound, or Unreadable.
        """
        names = {await self._stream(name, tenant): name for name in jobs}
        async with aclosing(changes_of_all(self.store, names, partial(self.show, tenant=tenant))) as views:
            async for view in views:
                yield view

    async def settled(self, job_id: str, tenant: str = DEFAULT_TENANT) -> JobView:
        """The job once it has ended, or is parked for a person to look at.

        Raises:
            NotFound: there is no such job.
            Unreadable: this release cannot read it.
            Unavailable: the studio was closed meanwhile; the job goes on once its folder is owned again.
        """
        stream = await self._stream(job_id, tenant)
        async with aclosing(changes(self._system, self._wakes, job_id, stream)) as snapshots:
            async for snapshot in snapshots:
                if isinstance(snapshot.job, m.Ended | m.Parked):
                    return self.view(snapshot)
        detail = "The studio was closed while the job was waited for: open its folder again, and the job goes on."
        raise Unavailable(detail, job_id=job_id, billed="unknown")

    async def providers(self) -> list[ProviderView]:
        """All providers that can be named, and how their lanes fare here."""
        return provider_views(self._parts)

    # ── steering ──

    async def cancel(
        self, job_id: str, *, by: str = "user", discard: bool = False, tenant: str = DEFAULT_TENANT
    ) -> JobView:
        """Ask for a stop; the view tells what became of it. `discard`: where nothing stops it, drop its take."""
        return await self._command(job_id, m.Cancel(by=by, discard=discard), tenant)

    async def collect(self, job_id: str, *, handle: str | None = None, tenant: str = DEFAULT_TENANT) -> JobView:
        """Have a parked job fetch what was paid; nothing is ever sent, or paid, for this.

        A job that is under way, or has its takes, answers as it is.

        Args:
            job_id: which job.
            handle: the provider's own id of the job, where it is not known here.
            tenant: whose job it is.

        Raises:
            CommandRejected: the job has ended without a take, or `handle` is missing or out of place.
        """
        given = None if handle is None else Handle(_checked_handle(handle))
        return await self._command(job_id, m.Collect(handle=given), tenant)

    async def resubmit(self, job_id: str, *, accept_cost: bool = False, tenant: str = DEFAULT_TENANT) -> JobView:
        """Send a parked job again.

        Args:
            job_id: which job.
            accept_cost: that it may be paid twice.
            tenant: whose job it is.

        Raises:
            CommandRejected: the job is not parked, or the cost was not accepted; the message says what may be paid.
        """
        return await self._command(job_id, m.Resubmit(accept_cost=accept_cost), tenant)

    async def give_up(self, job_id: str, *, by: str = "user", tenant: str = DEFAULT_TENANT) -> JobView:
        """End a parked job; what may have been billed stays said. Raises CommandRejected where it is not parked."""
        return await self._command(job_id, m.GiveUp(by=by), tenant)

    async def hide(self, job_id: str, tenant: str = DEFAULT_TENANT) -> JobView:
        """Mark an ended job as deleted from the list at /v1/videos. Its log, its takes and its traffic stay.

        Raises:
            CommandRejected: it has not ended.
        """
        return await self._command(job_id, m.Hide(), tenant)

    async def _command(self, job_id: str, command: m.Command, tenant: str) -> JobView:
        await self._stream(job_id, tenant)
        return self.view(await self._system.ask(job_id, command))

    async def poll(self, job_id: str, tenant: str = DEFAULT_TENANT) -> JobView:
        """Ask the provider now; within the job's minimum interval, what is known, with its age."""
        await self._stream(job_id, tenant)
        return self.view(await self._system.poll(job_id))

    async def save(self, job_id: str, path: str | Path, take: int = 0, tenant: str = DEFAULT_TENANT) -> Path:
        """Copy the take of that index out of the studio. Raises NotFound while there is none."""
        view = await self.show(job_id, tenant)
        kept = view.take(take)
        if kept is None:
            raise NotFound(f"Job {job_id} has no take {take}: it is {view.phase}.", job_id=job_id, billed=view.billed)
        try:
            return Path(await asyncio.to_thread(shutil.copyfile, kept.path, path))
        except OSError as error:
            raise bad("output", f"The take cannot be written to {str(path)!r}: {error.strerror}.") from error

    # ── showing ──

    def view(self, snapshot: Snapshot) -> JobView:
        """A state in the words that every door uses."""
        now, hearing = self._parts.clock.now(), self._parts.doors.callbacks is not None
        return job_view(snapshot, now, self._assets.path, hearing=hearing)

    def size(self, view: JobView) -> str:
        """Width and height as w×h with an x: of the first take, or as asked for; empty where nobody here can say."""
        return shown_size(view, self._parts.adapters)


class Result(Struct, frozen=True, kw_only=True):
    """A job that succeeded."""

    job: JobView
    videos: list[TakeView]


class Job:
    """One job, for programs: look at it, follow it, stop it, have its result."""

    def __init__(self, studio: Studio, job_id: str, *, replayed: bool = False) -> None:
        """`replayed`: its idempotency key had begun it before."""
        self.id, self.replayed = job_id, replayed
        self._studio = studio

    async def state(self) -> JobView:
        """The job as it is now."""
        return await self._studio.show(self.id)

    def updates(self) -> AsyncGenerator[JobView]:
        """The job now and after every change, until it has ended: progress without a callback."""
        return self._studio.updates(self.id)

    async def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the takes.

        Raises:
            JobFailed: it ended without one, or was parked for a person to look at; `billed` says about the money.
            TimeoutError: not yet; the job goes on.
        """
        async with asyncio.timeout(timeout_s):
            view = await self._studio.settled(self.id)
        if view.status != "succeeded":
            raise failure(view)
        return Result(job=view, videos=[take for take in view.takes if take.kind == "video"])

    async def events(self, after: int = 0) -> list[EventView]:
        """Its history."""
        return await self._studio.events(self.id, after)

    async def cancel(self, *, discard: bool = False) -> JobView:
        """Ask for a stop."""
        return await self._studio.cancel(self.id, discard=discard)

    async def collect(self, *, handle: str | None = None) -> JobView:
        """Have a parked job fetch what was paid; `handle` is the provider's id, where it is not known here."""
        return await self._studio.collect(self.id, handle=handle)

    async def resubmit(self, *, accept_cost: bool = False) -> JobView:
        """Send a parked job again; `accept_cost`: it may be paid twice."""
        return await self._studio.resubmit(self.id, accept_cost=accept_cost)

    async def give_up(self) -> JobView:
        """End a parked job."""
        return await self._studio.give_up(self.id)

    async def retry(self, idempotency_key: str = "") -> Job:
        """Begin a new job with the request of this one, which has ended."""
        view, replayed = await self._studio.retry(self.id, idempotency_key)
        return Job(self._studio, view.id, replayed=replayed)

    async def poll(self) -> JobView:
        """Ask the provider now."""
        return await self._studio.poll(self.id)

    async def save(self, path: str | Path, take: int = 0) -> Path:
        """Wait for the takes, and copy one out of the studio."""
        await self.result()
        return await self._studio.save(self.id, path, take)


def _checked_handle(handle: str) -> str:
    if not _HANDLE.fullmatch(handle) or ".." in handle:
        raise bad("handle", f"{handle!r} is no provider's id of a job: copy it from the provider's own list.")
    return handle
