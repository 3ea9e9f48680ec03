"""The studio: what programs, the server and the command line all call. Everything durable happens below it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol, Unpack

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.actor import KIND
from rushes.actors.callbacks import Hearing
from rushes.actors.job import PHASE_WORDS, phase_word
from rushes.actors.lanes import Lane
from rushes.actors.messages import Job as State
from rushes.actors.system import Snapshot, System
from rushes.actors.tally import family
from rushes.actors.words import billed_word, status_word
from rushes.adapters.base import Adapter, needs_prepare
from rushes.adapters.callbacks import Callbacks
from rushes.adapters.capabilities import Model
from rushes.adapters.catalogue import meant, model_views, retirement_views, route, row_of
from rushes.adapters.families import members
from rushes.adapters.fit import estimate, fit, placed, size_of
from rushes.assets import Assets
from rushes.eventstore.base import Damaged, EventStore, Recorded
from rushes.eventstore.wakes import Wakes
from rushes.faults import (
    BadRequest,
    CommandRejected,
    Conflict,
    Fault,
    JobFailed,
    NotFound,
    RushesError,
    Unreadable,
    bad,
    damaged,
)
from rushes.intake import File, Intake, MediaDoors
from rushes.units import (
    DEFAULT_TENANT,
    AssetRef,
    Clock,
    Handle,
    fresh_job_id,
    keyed_batch_id,
    keyed_job_id,
    utc,
    uuid7_hex,
)
from rushes.video import (
    OPERATIONS,
    STATUSES,
    UNREADABLE,
    Batch,
    BatchedRequest,
    BatchView,
    Config,
    EstimateView,
    EventView,
    FaultView,
    Fields,
    Input,
    JobsFields,
    JobsQuery,
    JobView,
    Kind,
    LaneView,
    Page,
    ProviderView,
    Take,
    TakeView,
    Target,
    UploadView,
    VideoRequest,
    VideoSpec,
    checked,
    jobs_query,
    operation_of,
    role_of,
)

MAX_KEY: Final = 255
MIN_FREE_BYTES: Final = 64 * 2**20
MAX_BATCH: Final = 100  # requests
_HANDLE: Final = re.compile(r"[A-Za-z0-9][\w.~:/=+@-]{0,299}", re.ASCII)  # it becomes part of an address
START_WITHIN_S: Final = 24 * 3600.0


class Doors(MediaDoors, frozen=True, kw_only=True):
    """What the studio needs from outside: built by `main`, or by a test."""

    credentials: Mapping[str, str]
    default_model: str = "local"
    explicit: Collection[str] = ()  # providers whose address was set: an emulator, or a gateway
    unavailable: Callable[[str], Exception | None]  # why a provider cannot run here
    announce: Callable[[str], None] = lambda _: None  # tells other processes our address
    free_bytes: Callable[[], int | None] = lambda: None  # of the disk; None: nobody knows
    callbacks: Callbacks | None = None  # None: no provider is asked to call back


Routed = tuple[Adapter, Target, tuple[Model, ...]]
Key = tuple[float, int]  # a job's place in a list: the time it is ordered by, and its stream


class JobList(Protocol):
    """What knows all jobs by their words, and may be a moment behind the log."""

    async def page(self, query: JobsQuery, tenant: str, behind: Key | None) -> tuple[list[Key], bool]:
        """The places of the jobs behind a place, one more than asked for where there are more; and whether it is stale.

        Jobs that cannot be read are among them whatever is asked for: nobody can say what they are.
        """
        ...

    async def by_phase(self) -> Mapping[str, int]:
        """How many jobs there are in each phase, of all tenants. Raises Unavailable."""
        ...


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
        self._system, self._adapters, self._assets, self._clock = system, adapters, assets, clock
        self._jobs, self._doors, self._rng = jobs, doors, rng or random.SystemRandom()
        self._intake = Intake(assets, doors, system.look)
        self._wakes = Wakes(system.store)
        self.announce = doors.announce
        self.hearing = Hearing(system, adapters, clock, doors.callbacks)

    def unready(self) -> str:
        """Why no new job should be given to this process now; empty where any may."""
        free_bytes = self._doors.free_bytes()
        if free_bytes is not None and free_bytes < MIN_FREE_BYTES:
            return f"its disk has {free_bytes // 2**20} MiB left, and {MIN_FREE_BYTES // 2**20} are needed"
        return self._system.unready()

    async def metrics(self, subscribers: int) -> str:
        """All that is counted, as Prometheus reads it. `subscribers` are those who are connected to the server."""
        phases = [({"state": phase}, float(count)) for phase, count in sorted((await self._jobs.by_phase()).items())]
        gauges = [
            family("jobs_in_state", "gauge", "Jobs of the log.", phases),
            family("ws_subscribers", "gauge", "Open sockets and event streams.", [({}, float(subscribers))]),
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
        handed = [await self._intake.handed(kind, file, tenant) for kind, file in files.items() if file is not None]
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
        ready = await self._ready(checked(request), idempotency_key, tenant)
        return (ready, True) if isinstance(ready, JobView) else await self._begin(ready, idempotency_key, tenant)

    async def _ready(self, request: VideoRequest, key: str, tenant: str) -> m.JobRequested | JobView:
        """What a request begins, or the job that it began before under its key. Raises BadRequest."""
        if not key:
            return await self._requested(request, tenant)
        sent = _digest(request)
        if (known := await self._sent_before(sent, key, tenant)) is not None:
            return known
        try:
            requested = await self._requested(request, tenant)
        except BadRequest:
            if (known := await self._sent_before(sent, key, tenant)) is not None:
                return known  # its twin was luckier with the same address
            raise
        files = [[given.role, given.asset.sha256] for given in requested.spec.inputs]
        content = _digest([replace(request, inputs=()), files])
        return replace(requested, idempotency_key=key, sent_sha256=sent, body_sha256=content)

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
        if not 1 <= len(requests) <= MAX_BATCH:
            raise bad("requests", f"A batch has 1 to {MAX_BATCH} requests; this has {len(requests)}.")
        key = idempotency_key or uuid7_hex(self._clock.now(), self._rng.getrandbits(74))
        _check_key(key)
        name = keyed_batch_id(tenant, key)
        keys = [one.idempotency_key or f"{name}/{place}" for place, one in enumerate(requests)]
        if len(set(keys)) < len(keys):
            raise bad("requests", "Two requests of the batch have the same idempotency_key: each needs its own.")
        ready = await self._all_ready([one.plain for one in requests], keys, name, tenant)
        began: list[tuple[JobView, bool]] = []
        try:
            for one, its_key in zip(ready, keys, strict=True):
                began.append((one, True) if isinstance(one, JobView) else await self._begin(one, its_key, tenant))
        except RushesError as error:
            error.idempotency_key = key
            error.billed = "unknown" if began else error.billed
            raise
        return _batch_view(name, len(keys), [view for view, _ in began]), all(replayed for _, replayed in began)

    async def _all_ready(
        self, requests: Sequence[VideoRequest], keys: Sequence[str], name: str, tenant: str
    ) -> list[m.JobRequested | JobView]:
        """All requests of a batch, each as a job that begins or has begun. Raises BadRequest, or Conflict."""
        ready: list[m.JobRequested | JobView] = []
        faults: list[Fault] = []
        for place, (request, key) in enumerate(zip(requests, keys, strict=True)):
            batch = Batch(id=name, index=place, size=len(keys))
            try:
                one = await self._ready(checked(request), key, tenant)
            except BadRequest as error:
                faults += [_within(f"requests[{place}]", fault) for fault in error.faults]
                continue
            if isinstance(one, m.JobRequested):
                one = replace(one, batch=batch)
                known = await self._under(key, tenant)
                if known is not None and not _is_the_same(one, _facts(known.job).requested):
                    raise Conflict(idempotency_key=key, job_id=known.name, billed=billed_word(known.job))
            elif one.batch != batch:
                raise Conflict(_OUTSIDE.format(key, place), idempotency_key=key, job_id=one.id, billed=one.billed)
            ready.append(one)
        if faults:
            raise BadRequest(faults)
        return ready

    async def batch(self, batch_id: str, tenant: str = DEFAULT_TENANT) -> BatchView:
        """How the jobs of a batch are. Raises NotFound, or Unavailable."""
        found: dict[int, JobView] = {}
        size, query, stale = 0, JobsQuery(batch=batch_id, order="asc", limit=MAX_BATCH), False
        while True:
            page = await self.page(query, tenant)
            stale = stale or page.stale
            for view in page.jobs:
                assert view.batch is not None  # that is what was asked for
                found[view.batch.index], size = view, view.batch.size  # the newest, where one gave its key back
            if page.next is None:
                break
            query = replace(query, after=page.next)
        if not found:
            raise NotFound(f"There is no batch {batch_id}.", field="id")
        return replace(_batch_view(batch_id, size, [found[place] for place in sorted(found)]), stale=stale)

    async def estimate(self, request: VideoRequest, tenant: str = DEFAULT_TENANT) -> EstimateView:
        """What a request would cost at the most; what a submit would refuse is refused. Raises BadRequest.

        Nothing is sent. Files that it names by address are fetched and kept: a price may follow what they hold.
        """
        requested = await self._requested(checked(request), tenant)
        target, cost = requested.route[0], requested.route[0].price
        return EstimateView(
            provider=target.provider,
            model=target.model,
            operation=OPERATIONS[type(requested.spec.operation)],
            price="unknown" if cost is None else "known" if cost.micro_usd else "free",
            cost=cost,
            sends=1 + requested.at_least_once,
            request=replace(requested.spec, seed=request.seed),  # another one would be drawn
        )

    async def retry(self, job_id: str, idempotency_key: str = "", tenant: str = DEFAULT_TENANT) -> tuple[JobView, bool]:
        """Begin a new job, to be paid anew, with the request and the route of one that has ended: its `parent`.

        True beside the view says that the key had begun it before.

        Raises:
            CommandRejected: the old job has not ended; the message says what to do instead.
            BadRequest: what it asked for cannot be run any more.
            Conflict: the key stands for another request.
        """
        snapshot = await self._look(job_id, tenant)
        _refuse_unended(snapshot)
        digest = _digest(["retry", job_id])
        if idempotency_key and (known := await self._sent_before(digest, idempotency_key, tenant)) is not None:
            return known, True
        old = _facts(snapshot.job).requested
        routed = [self._route(f"{target.provider}/{target.model}") for target in old.route]
        for _, _, rows in routed:
            fit(old.spec, rows)  # what was offered then may not be any more
        requested = replace(self._request(old.spec, routed, old.at_least_once), parent=job_id)
        if idempotency_key:
            requested = replace(requested, idempotency_key=idempotency_key, sent_sha256=digest, body_sha256=digest)
        return await self._begin(requested, idempotency_key, tenant)

    async def _requested(self, request: VideoRequest, tenant: str) -> m.JobRequested:
        """The request in its model's terms, and its media ours. Raises BadRequest."""
        wanted = request.model or self._doors.default_model
        spec, routed = self._planned(request, wanted)
        rows = routed[2]
        fitted, model = fit(spec, rows, request.emulate)  # refuse what needs no look at the files
        if request.inputs:
            kept = [await self._intake.keep(number, given, tenant) for number, given in enumerate(request.inputs)]
            inputs, emulated = await self._intake.fitted(placed(kept, rows), model, tenant)
            fitted, model = fit(replace(spec, inputs=inputs, emulated=emulated), rows, request.emulate)
        spec = fitted
        if spec.seed is None and model.draws_seed and "seed" in model.fields:
            spec = replace(spec, seed=self._rng.randrange(model.max_seed + 1))
        requested = self._request(spec, [routed], request.at_least_once)
        return replace(requested, asked="" if wanted in _names(routed[1]) else wanted)

    def _planned(self, request: VideoRequest, wanted: str) -> tuple[VideoSpec, Routed]:
        """What a request asks for, before its files were looked at, and of which model. Raises BadRequest."""
        _, rows = route(wanted, self._adapters, self._today(), self._doors.explicit)
        spec = _unseen_spec(request, rows)
        return spec, self._route(meant(wanted, spec, self._adapters, self._today()))

    def check(self, request: VideoRequest) -> None:
        """Raise BadRequest where a request cannot be run, as far as its words tell: its files are not looked at."""
        request = checked(request)
        spec, (_, _, rows) = self._planned(request, request.model or self._doors.default_model)
        fit(spec, rows, request.emulate)

    def pick(self, request: VideoRequest, family: str) -> str:
        """The first model of a family that can be used here now and takes the request, as provider/model.

        Args:
            request: what is asked for; its own `model` is not looked at.
            family: a name such as veo-3.1-fast, gemini, sora or kling (`adapters.families`).

        Raises:
            BadRequest: there is none; the likeliest one's refusal says why.
        """
        refusals: list[RushesError] = []
        for name in members(family, self._adapters, self._today(), self._doors.explicit):
            try:
                _, _, rows = self._route(name)
                fit(_unseen_spec(request, rows), rows, request.emulate)
            except RushesError as refusal:
                refusals.append(refusal)
            else:
                return name
        if not refusals:
            route(family, self._adapters, self._today(), self._doors.explicit)  # which says what there is, or was
            raise bad("model", f"No model stands for {family!r} any more.", "model_unknown")
        raise next((one for one in refusals if one.code != "authentication_failed"), refusals[0])

    def _request(self, spec: VideoSpec, routed: Sequence[Routed], at_least_once: int) -> m.JobRequested:
        adapter, target, _ = routed[0]
        return m.JobRequested(
            spec=spec,
            route=tuple(
                replace(target, price=estimate(spec, row_of(adapter, target.model, spec)))
                for adapter, target, _ in routed
            ),
            needs=("prepare",) if needs_prepare(adapter, spec, target) else (),
            start_by=self._clock.now() + START_WITHIN_S,
            at_least_once=at_least_once,
        )

    async def _begin(self, requested: m.JobRequested, key: str, tenant: str) -> tuple[JobView, bool]:
        """Without a key a new job. A key names the job, so asking twice finds it."""
        if not key:
            name = fresh_job_id(self._clock.now(), self._rng.getrandbits(74))
            snapshot, _ = await self._system.generate(name, tenant, requested, fresh=True)
            return self.view(snapshot), False
        earlier = 0
        while True:
            snapshot, existed = await self._system.generate(keyed_job_id(tenant, key, earlier), tenant, requested)
            if not (existed and _gives_its_key_back(snapshot.job)):
                break
            earlier += 1
        if existed and not _is_the_same(requested, _facts(snapshot.job).requested):
            raise Conflict(idempotency_key=key, job_id=snapshot.name, billed=billed_word(snapshot.job))
        return self.view(snapshot), existed

    async def _under(self, key: str, tenant: str) -> Snapshot | None:
        """The job that a key stands for. Raises BadRequest where that is no key."""
        _check_key(key)
        earlier = 0
        while True:
            try:
                snapshot = await self._system.look(keyed_job_id(tenant, key, earlier))
            except NotFound:
                return None
            if not _gives_its_key_back(snapshot.job):
                return snapshot
            earlier += 1

    async def _sent_before(self, sent_sha256: str, key: str, tenant: str) -> JobView | None:
        """The job that exactly this began under the key. Raises BadRequest where that is no key."""
        snapshot = await self._under(key, tenant)
        if snapshot is None or _facts(snapshot.job).requested.sent_sha256 != sent_sha256:
            return None
        if not isinstance(snapshot.job, m.Ended):
            snapshot = await self._system.ask(snapshot.name, m.Poll())  # it is taken up, if it was not
        return self.view(snapshot)

    def _route(self, wanted: str) -> Routed:
        provider, rows = route(wanted, self._adapters, self._today(), self._doors.explicit)
        adapter, model = self._adapters[provider], rows[0]
        if (reason := self._doors.unavailable(provider)) is not None:
            raise reason
        if adapter.capabilities.auth is None:
            return adapter, Target(provider=provider, model=model.id), rows
        if not (alias := self._credential(adapter)):
            raise bad("model", _no_key(adapter), "authentication_failed")
        if untold := _untold(adapter):
            raise bad("model", untold, "authentication_failed")
        fingerprint = hashlib.sha256(self._doors.credentials[alias].encode()).hexdigest()[:8]
        return adapter, Target(provider=provider, model=model.id, credential=alias, fingerprint=fingerprint), rows

    def _today(self) -> str:
        return utc(self._clock.now()).date().isoformat()

    def _credential(self, adapter: Adapter) -> str:
        """The variable that holds the provider's key: its own name for it first. Empty where none does."""
        auth = adapter.capabilities.auth
        names = auth.env if auth is not None else ()
        return next((name for name in names if name in self._doors.credentials), "")

    async def upload(self, chunks: AsyncIterator[bytes], tenant: str = DEFAULT_TENANT) -> UploadView:
        """Keep an image, a video or an audio file that requests will name. Raises BadRequest where it is too large."""
        return await self._intake.upload(chunks, tenant)

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
            return _mine(await self._system.look(job_id), tenant)
        except Unreadable:
            await self._stream(job_id, tenant)  # another tenant's is not even there
            raise

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
        query = self._narrowed(query)
        keys, stale = await self._jobs.page(query, tenant, await self._behind(query, tenant))
        shown = keys[: query.limit]
        streams = await self.store.streams([stream for _, stream in shown])
        mine = [streams[stream] for _, stream in shown if stream in streams and streams[stream].tenant == tenant]
        found = await self._system.look_many(mine)
        views = [self.view(one) for one in found if not isinstance(one, Unreadable)]
        views = [view for view in views if _is_asked_for(view, query)]
        if query.sort == "updated":  # some may have changed since
            views.sort(key=lambda view: view.updated_at, reverse=query.order == "desc")
        has_more = len(keys) > query.limit
        return Page(
            jobs=views,
            has_more=has_more,
            next=_cursor(query, shown[-1]) if has_more else None,
            unreadable=[one.job_id for one in found if isinstance(one, Unreadable)],
            stale=stale,
        )

    def _narrowed(self, query: JobsQuery) -> JobsQuery:
        """The query in the words of the list. Raises BadRequest."""
        _check_word("phase", query.phase, [*PHASE_WORDS.values(), UNREADABLE])
        _check_word("operation", query.operation, OPERATIONS.values())
        provider, _, model = (query.model or "").partition("/")
        if model and provider in {*self._adapters} and query.provider in {None, provider}:
            return replace(query, provider=provider, model=model)
        return query

    async def _behind(self, query: JobsQuery, tenant: str) -> Key | None:
        """Where the page begins."""
        if query.before is None:
            return None if query.after is None else _place(query)
        if query.after is not None:
            raise bad("before", "Give one of 'before' and 'after': 'after' is enough.")
        if (query.sort, query.order) != ("created", "desc"):
            raise bad("before", "'before' is for the newest first: give the page's 'next' as 'after'.")
        return await self._edge("before", query.before, tenant)

    async def behind(self, job_id: str, tenant: str = DEFAULT_TENANT) -> str:
        """The `after` of a page that goes on behind a job, in a list by creation. Raises BadRequest about `after`."""
        return _cursor(JobsQuery(), await self._edge("after", job_id, tenant))

    async def _edge(self, field: str, job_id: str, tenant: str) -> Key:
        """A job's place in a list by creation. Raises BadRequest."""
        edge = await self.store.find(job_id)
        if edge is None or edge.tenant != tenant or edge.kind != KIND:
            raise bad(field, f"There is no job {job_id}.")
        try:
            (first,) = await self.store.read(edge.id, limit=1)
        except Damaged as error:
            detail = f"The beginning of job {job_id} is damaged: give the page's 'next' as 'after'."
            raise bad(field, detail) from error
        return first.at, edge.id

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
        async with aclosing(self._changes(job_id, tenant)) as snapshots:
            async for snapshot in snapshots:
                yield self.view(snapshot)

    async def settled(self, job_id: str, tenant: str = DEFAULT_TENANT) -> JobView:
        """The job once it has ended, or is parked for a person to look at. Raises NotFound, or Unreadable."""
        async with aclosing(self._changes(job_id, tenant)) as snapshots:
            async for snapshot in snapshots:
                if isinstance(snapshot.job, m.Ended | m.Parked):
                    return self.view(snapshot)
        raise NotFound(f"There is no job {job_id}.", job_id=job_id)

    async def _changes(self, job_id: str, tenant: str) -> AsyncGenerator[Snapshot]:
        version = 0
        async with aclosing(self._wakes.of(await self._stream(job_id, tenant))) as wakes:
            async for _ in wakes:
                snapshot = await self._system.look(job_id)
                if snapshot.version > version:
                    version = snapshot.version
                    yield snapshot
                if isinstance(snapshot.job, m.Ended):
                    return

    async def providers(self) -> list[ProviderView]:
        """All providers that can be named, and how their lanes fare here."""
        lanes: dict[str, list[LaneView]] = {name: [] for name in self._adapters}
        for lane in self._system.lanes:
            provider, _, credential = lane.name.partition("/")
            lanes.setdefault(provider, []).append(_lane_view(lane, credential, self._clock.now()))
        today = self._today()
        return [
            self._provider_view(adapter, lanes.get(name, []), today) for name, adapter in sorted(self._adapters.items())
        ]

    def _provider_view(self, adapter: Adapter, lanes: list[LaneView], today: str) -> ProviderView:
        data = adapter.capabilities
        reason, credential = self._doors.unavailable(adapter.name), self._credential(adapter)
        lacks_key = data.auth is not None and not credential
        return ProviderView(
            name=adapter.name,
            aliases=list(data.aliases),
            configured=reason is None and not lacks_key and not _untold(adapter),
            reason=str(reason or (_no_key(adapter) if lacks_key else "") or _untold(adapter)),
            keys=list(data.auth.env) if data.auth is not None else [],
            credential=credential,
            in_doubt=data.terms.doubt,
            cancel=data.terms.cancel,
            models=model_views(adapter, "" if adapter.name in self._doors.explicit else today),
            retired=retirement_views(adapter),
            lanes=lanes,
        )

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
        """Mark an ended job as deleted from the list at /v1/videos. Its log and its takes stay.

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
        """Copy a take out of the studio. Raises NotFound while there is none."""
        view = await self.show(job_id, tenant)
        if not 0 <= take < len(view.takes):
            raise NotFound(f"Job {job_id} has no take {take}: it is {view.phase}.", job_id=job_id, billed=view.billed)
        try:
            return Path(await asyncio.to_thread(shutil.copyfile, view.takes[take].path, path))
        except OSError as error:
            raise bad("output", f"The take cannot be written to {str(path)!r}: {error.strerror}.") from error

    # ── showing ──

    def view(self, snapshot: Snapshot) -> JobView:
        """A state in the words that every door uses."""
        job, facts, target = snapshot.job, _facts(snapshot.job), _target(snapshot.job)
        now = self._clock.now()
        return JobView(
            id=snapshot.name,
            parent=facts.requested.parent,
            metadata=_metadata(job),
            batch=facts.requested.batch,
            hidden=isinstance(job, m.Ended) and job.hidden,
            status=status_word(job),
            phase=phase_word(job),
            version=snapshot.version,
            operation=OPERATIONS[type(facts.spec.operation)],
            provider=target.provider,
            model=target.model,
            prompt=facts.prompt,
            request=facts.spec,
            created_at=utc(snapshot.born_at),
            updated_at=utc(snapshot.at),
            attempt=job.attempt if not isinstance(job, m.New) else 0,
            progress=_progress(job),
            eta_seconds=_eta_s(job, now),
            cancel_requested=isinstance(job, m.Sent) and job.cancel is not None,
            attention=ATTENTION[job.reason] if isinstance(job, m.Parked) else "",
            note=_note(job, snapshot.trouble),
            billed=billed_word(job),
            cost=job.cost if isinstance(job, m.Succeeded) else None,
            estimate=target.price,
            error=_error(job),
            takes=[self._take(snapshot.name, take) for take in _takes(job)],
            missing=_missing(job),
            age_seconds=round(max(0.0, now - snapshot.heard_at), 3),
        )

    def size(self, view: JobView) -> str:
        """Width and height as w×h with an x: of the first take, or as asked for; empty where nobody here can say."""
        for take in view.takes[:1]:
            if take.width and take.height:
                return f"{take.width}x{take.height}"
        spec = view.request
        if not (spec.resolution and spec.aspect_ratio) or view.provider not in self._adapters:
            return ""
        try:
            return size_of(spec, row_of(self._adapters[view.provider], view.model, spec))
        except (BadRequest, KeyError):  # another release's model, or one of a setting that is gone
            return ""

    def _take(self, job_id: str, take: Take) -> TakeView:
        return TakeView(
            index=take.index,
            url=f"/v1/jobs/{job_id}/content?take={take.index}",
            path=str(self._assets.path(take.asset.key)),
            media_type=take.asset.media_type,
            size_bytes=take.asset.size_bytes,
            sha256=take.asset.sha256,
            **msgspec.structs.asdict(take.probe),
        )


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
        return Result(job=view, videos=view.takes)

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


# ── from phases to words ──────────────────────────────────────────────────────────────────────────────────────────────

ATTENTION: Final[dict[m.ParkReason, str]] = {
    "in_doubt": "It is not known whether the provider took the job, nor whether it is billed. Where the provider's own "
    "list has it, `collect` with its id as `handle` fetches it; `resubmit` sends it again and may be paid twice; "
    "`give-up` ends it here.",
    "detached": "The provider did not finish in time; it may still, and may bill. `collect` asks it again and fetches "
    "the video; `resubmit` sends the job again and may be paid twice; `give-up` ends it here.",
    "gone": "The provider no longer knows this job, and may have billed it. `collect` asks it again, also under "
    "another id given as `handle`; `resubmit` sends the job again and may be paid twice; `give-up` ends it here.",
    "credential": "The provider refuses the key that this job was made with. Once the key works again, `collect` "
    "fetches the video; `resubmit` sends the job again and may be paid twice; `give-up` ends it here.",
}
_UNENDED: Final = "Job {0} is {1} and has not ended: wait for it, or cancel it; a retry would be a second, paid job."
_UNDECIDED: Final = (
    "Job {0} is parked, and the provider may still make and bill it: a retry would be a second, paid job beside it. "
    "Decide first: `collect` fetches it, `resubmit` sends it again, `give-up` ends it."
)
_UNSEEN = AssetRef("", "", 0, "")
_OUTSIDE: Final = (
    "The idempotency key {0!r} of requests[{1}] stands for a job outside this batch, or for another place or number of "
    "requests in it: send the batch as it was, or use a new key."
)


def _facts(job: State) -> m.Facts:
    assert not isinstance(job, m.New)
    return job.facts


def _target(job: State) -> Target:
    assert not isinstance(job, m.New)
    return job.target


def _progress(job: State) -> int | None:
    match job:
        case m.Running(percent=percent):
            return percent
        case m.Storing() | m.Succeeded():
            return 100
        case _:
            return None


def _eta_s(job: State, now: float) -> float | None:
    if not isinstance(job, m.Running) or not job.percent:
        return None
    elapsed_s = max(0.0, now - job.accepted_at)
    return round(elapsed_s * (100 - job.percent) / job.percent, 1)


def _error(job: State) -> FaultView | None:
    match job:
        case m.Failed(fault=Fault(code=code, detail=detail, field=field)):
            return FaultView(code=code, detail=detail, field=field)
        case _:
            return None


def _lane_view(lane: Lane, credential: str, now: float) -> LaneView:
    closed_for_s = lane.closed_for_s
    return LaneView(
        credential=credential,
        open=not closed_for_s,
        closed_until=utc(now + closed_for_s) if closed_for_s else None,
        closed_by=lane.closed_by or "",
        sending=lane.sends.taken,
        waiting=lane.sends.waiting,
        calling=lane.calls.taken,
        fetching=lane.fetches.taken,
        jobs=lane.known,
        ended=lane.ended,
        polls=lane.polls,
        polls_per_job=round(lane.polls / lane.ended, 1) if lane.ended else None,
    )


def _note(job: State, trouble: Fault | None) -> str:
    if isinstance(job, m.Ended | m.Parked):
        return ""
    fault = trouble or (job.refused if isinstance(job, m.Queued) else None)
    return "" if fault is None else fault.detail


def _unseen_spec(request: VideoRequest, rows: Sequence[Model]) -> VideoSpec:
    """What a request asks a model for, before anybody has looked at its files."""
    inputs = placed([Input(type=given.type, role=role_of(given), asset=_UNSEEN) for given in request.inputs], rows)
    return VideoSpec(
        **{name: getattr(request, name) for name in Config.__struct_fields__},
        prompt=request.prompt,
        inputs=inputs,
        operation=operation_of(request.operation, {given.role for given in inputs}),
        customer_id=request.customer_id or 0,
    )


def _no_key(adapter: Adapter) -> str:
    auth = adapter.capabilities.auth
    assert auth is not None
    names = " or ".join(name.replace("+", " and ") for name in auth.env)
    return f"{adapter.name} needs a key: set {names} in the environment."


def _untold(adapter: Adapter) -> str:
    """What else the provider must be told before it can be used; empty where nothing is missing."""
    settings = adapter.capabilities.settings.values()
    missing = [setting.env for setting in settings if setting.needed and not setting.value]
    names = " and ".join(" or ".join(names) for names in missing)
    return f"{adapter.name} needs to be told more: set {names} in the environment." if missing else ""


def _metadata(job: State) -> dict[str, str]:
    """What the provider told of a finished job; how it differs from what was asked; the model as it was asked for."""
    requested = _facts(job).requested
    told = dict(job.metadata) if isinstance(job, m.Succeeded) else {}
    if requested.spec.emulated:
        told["emulated"] = "; ".join(requested.spec.emulated)
    return told | ({"requested_model": requested.asked} if requested.asked else {})


def _names(target: Target) -> tuple[str, ...]:
    """What a caller can write for a target without an alias."""
    return target.provider, target.model, f"{target.provider}/{target.model}"


def _takes(job: State) -> Sequence[Take]:
    match job:
        case m.Succeeded(takes=takes):
            return takes
        case m.Storing(stored=stored):
            return stored
        case _:
            return ()


def _refuse_unended(snapshot: Snapshot) -> None:
    if not isinstance(job := snapshot.job, m.Ended):
        sentence = _UNDECIDED if isinstance(job, m.Parked) else _UNENDED
        detail = sentence.format(snapshot.name, phase_word(job).replace("_", " "))
        raise CommandRejected(detail, job_id=snapshot.name, billed=billed_word(job))


def _missing(job: State) -> int:
    match job:
        case m.Succeeded(missing=missing):
            return missing
        case m.Storing(lost=lost):
            return len(lost)
        case _:
            return 0


def _mine(snapshot: Snapshot, tenant: str) -> Snapshot:
    if snapshot.tenant != tenant:
        raise NotFound(f"There is no job {snapshot.name}.", job_id=snapshot.name)
    return snapshot


def failure(view: JobView) -> JobFailed:
    """Why a job has no take, or waits for a person, as an error."""
    if view.status == "cancelled":
        fault = Fault("cancelled", "The job was cancelled.")
    elif view.error is not None:
        fault = Fault(view.error.code, view.error.detail)  # type: ignore[arg-type]  # a view's code came from a Fault
    else:
        fault = Fault("no_answer", view.attention)
    return JobFailed(fault, job_id=view.id, billed=view.billed)


def _digest(what: object) -> str:
    """The same for whatever is the same once it is decoded: spelling and order in the JSON do not count."""
    return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()


def _is_the_same(asked: m.JobRequested, known: m.JobRequested) -> bool:
    """Two requests are the same as they were sent, or where pictures count by what they hold, not where they lie."""
    return asked.sent_sha256 == known.sent_sha256 or asked.body_sha256 == known.body_sha256


def _gives_its_key_back(job: State) -> bool:
    """It ended before anything was sent: the key may stand for a new job."""
    return isinstance(job, m.Ended) and not job.ever_sent


def _within(where: str, fault: Fault) -> Fault:
    """A fault of one of several requests."""
    field = f"{where}.{fault.field}" if fault.field else where
    return replace(fault, field=field, detail=f"{where}: {fault.detail}")


def _batch_view(name: str, size: int, views: Sequence[JobView]) -> BatchView:
    counts = Counter(view.status for view in views)
    absent = size - len(views)
    return BatchView(
        id=name,
        size=size,
        jobs=[view.id for view in views],
        counts={word: counts[word] for word in STATUSES},
        absent=absent,
        ended=not absent and all(view.ended for view in views),
    )


def _check_key(key: str) -> None:
    if len(key) > MAX_KEY or not key.isprintable() or not key.strip():
        raise bad("Idempotency-Key", f"An idempotency key is 1 to {MAX_KEY} printable characters, not all blank.")


def _checked_handle(handle: str) -> str:
    if not _HANDLE.fullmatch(handle) or ".." in handle:
        raise bad("handle", f"{handle!r} is no provider's id of a job: copy it from the provider's own list.")
    return handle


def _check_word(field: str, word: str | None, known: Collection[str]) -> None:
    if word is not None and word not in known:
        raise bad(field, f"There is no {field} {word!r}: choose one of {', '.join(known)}.")


def _is_asked_for(view: JobView, query: JobsQuery) -> bool:
    words = ("status", "phase", "billed", "provider", "model", "operation")
    return (
        all(getattr(query, word) in {None, getattr(view, word)} for word in words)
        and query.customer_id in {None, view.request.customer_id}
        and query.batch in {None, view.batch.id if view.batch else None}
        and (query.created_after is None or view.created_at > query.created_after)
        and (query.created_before is None or view.created_at < query.created_before)
    )


def _cursor(query: JobsQuery, key: Key) -> str:
    """A place in a list, as text that needs no quoting."""
    return base64.urlsafe_b64encode(msgspec.json.encode([query.sort, *key])).decode().rstrip("=")


def _place(query: JobsQuery) -> Key:
    """Where `after` says that the list goes on. Raises BadRequest."""
    try:
        text = base64.urlsafe_b64decode(f"{query.after}==")
        sort, at, stream = msgspec.json.decode(text, type=tuple[str, float, int])
    except ValueError as error:  # msgspec's and base64's own are ValueErrors
        raise bad("after", f"{query.after!r} is no place in a list: give the 'next' of the page before.") from error
    if sort != query.sort:
        raise bad("after", f"This place is in a list sorted by {sort!r}, not by {query.sort!r}: begin a new list.")
    return at, stream


def event_view(recorded: Recorded, job_id: str) -> EventView:
    """A stored event as callers see it."""
    return EventView(
        position=recorded.position,
        job_id=job_id,
        version=recorded.version,
        type=recorded.type,
        at=utc(recorded.at),
        data=msgspec.Raw(recorded.data),
    )


__all__ = ["BadRequest", "Doors", "Job", "Result", "Studio", "event_view"]
