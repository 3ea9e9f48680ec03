"""The studio: what programs, the server and the command line all call. Everything durable happens below it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol, Unpack

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.actor import KIND
from rushes.actors.job import PHASE_WORDS, phase_word
from rushes.actors.lanes import Lane
from rushes.actors.messages import Job as State
from rushes.actors.system import Snapshot, System
from rushes.actors.words import billed_word, status_word
from rushes.adapters.base import Adapter, needs_prepare
from rushes.adapters.capabilities import Model
from rushes.adapters.catalogue import model_views, retirement_views, route, row_of
from rushes.adapters.fit import estimate, fit, placed
from rushes.assets import Assets
from rushes.eventstore.base import Damaged, EventStore, Recorded, Stream
from rushes.eventstore.follow import follow
from rushes.faults import BadRequest, CommandRejected, Conflict, Fault, JobFailed, NotFound, Unreadable, bad, damaged
from rushes.intake import File, Intake, MediaDoors
from rushes.units import DEFAULT_TENANT, AssetRef, Clock, Handle, fresh_job_id, keyed_job_id, utc
from rushes.video import (
    OPERATIONS,
    UNREADABLE,
    Config,
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
_HANDLE: Final = re.compile(r"[A-Za-z0-9][\w.~:/=+@-]{0,299}", re.ASCII)  # it becomes part of an address
START_WITHIN_S: Final = 24 * 3600.0


class Doors(MediaDoors, frozen=True, kw_only=True):
    """What the studio needs from outside: built by `main`, or by a test."""

    credentials: Mapping[str, str]
    default_model: str = "local"
    explicit: Collection[str] = ()  # providers whose address was set: an emulator, or a gateway
    unavailable: Callable[[str], Exception | None]  # why a provider cannot run here
    announce: Callable[[str], None] = lambda _: None  # tells other processes our address


Routed = tuple[Adapter, Target, tuple[Model, ...]]
Key = tuple[float, int]  # a job's place in a list: the time it is ordered by, and its stream


class JobList(Protocol):
    """What knows all jobs by their words, and may be a moment behind the log."""

    async def page(self, query: JobsQuery, tenant: str, behind: Key | None) -> tuple[list[Key], bool]:
        """The places of the jobs behind a place, one more than asked for where there are more; and whether it is stale.

        Jobs that cannot be read are among them whatever is asked for: nobody can say what they are.
        """
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
        self.announce = doors.announce

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
        handed = [await self._intake.handed(kind, file) for kind, file in files.items() if file is not None]
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
        request = checked(request)
        if not idempotency_key:
            return await self._begin(await self._requested(request, tenant), "", tenant)
        sent = _digest(request)
        if (known := await self._sent_before(sent, idempotency_key, tenant)) is not None:
            return known, True
        try:
            requested = await self._requested(request, tenant)
        except BadRequest:
            if (known := await self._sent_before(sent, idempotency_key, tenant)) is not None:
                return known, True  # its twin was luckier with the same address
            raise
        files = [[given.role, given.asset.sha256] for given in requested.spec.inputs]
        content = _digest([replace(request, inputs=()), files])
        requested = replace(requested, idempotency_key=idempotency_key, sent_sha256=sent, body_sha256=content)
        return await self._begin(requested, idempotency_key, tenant)

    async def retry(self, job_id: str, idempotency_key: str = "", tenant: str = DEFAULT_TENANT) -> tuple[JobView, bool]:
        """Begin a new job, to be paid anew, with the request and the route of one that has ended: its `parent`.

        True beside the view says that the key had begun it before.

        Raises:
            CommandRejected: the old job has not ended; the message says what to do instead.
            BadRequest: what it asked for cannot be run any more.
            Conflict: the key stands for another request.
        """
        snapshot = _mine(await self._system.look(job_id), tenant)
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
        routed = self._route(wanted)
        rows = routed[2]
        unseen = [Input(type=given.type, role=role_of(given), asset=_UNSEEN) for given in request.inputs]
        spec = VideoSpec(
            **{name: getattr(request, name) for name in Config.__struct_fields__},
            prompt=request.prompt,
            inputs=(inputs := placed(unseen, rows)),
            operation=operation_of(request.operation, {given.role for given in inputs}),
            customer_id=request.customer_id or 0,
        )
        _, model = fit(spec, rows, request.emulate)  # refuse what needs no look at the files
        kept = [await self._intake.keep(number, given, tenant) for number, given in enumerate(request.inputs)]
        inputs, emulated = await self._intake.fitted(placed(kept, rows), model)
        spec, model = fit(replace(spec, inputs=inputs, emulated=emulated), rows, request.emulate)
        if spec.seed is None and model.draws_seed and "seed" in model.fields:
            spec = replace(spec, seed=self._rng.randrange(model.max_seed + 1))
        requested = self._request(spec, [routed], request.at_least_once)
        return replace(requested, asked="" if wanted in _names(routed[1]) else wanted)

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

    async def _sent_before(self, sent_sha256: str, key: str, tenant: str) -> JobView | None:
        """The job that exactly this began under the key. Raises BadRequest where that is no key."""
        _check_key(key)
        earlier = 0
        while True:
            try:
                snapshot = await self._system.look(keyed_job_id(tenant, key, earlier))
            except NotFound:
                return None
            if not _gives_its_key_back(snapshot.job):
                break
            earlier += 1
        if _facts(snapshot.job).requested.sent_sha256 != sent_sha256:
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

    async def upload(self, chunks: AsyncIterator[bytes]) -> UploadView:
        """Keep an image, a video or an audio file that requests will name. Raises BadRequest where it is too large."""
        return await self._intake.upload(chunks)

    # ── looking ──

    def job(self, job_id: str) -> Job:
        """The handle of a job, without a look whether it is there."""
        return Job(self, job_id)

    async def show(self, job_id: str, tenant: str = DEFAULT_TENANT) -> JobView:
        """One job as it is now. Raises NotFound, or Unreadable."""
        try:
            return self.view(_mine(await self._system.look(job_id), tenant))
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
        edge = await self.store.find(query.before)
        if edge is None or edge.tenant != tenant or edge.kind != KIND:
            raise bad("before", f"There is no job {query.before}.")
        try:
            (first,) = await self.store.read(edge.id, limit=1)
        except Damaged as error:
            detail = f"The beginning of job {query.before} is damaged: give the page's 'next' as 'after'."
            raise bad("before", detail) from error
        return first.at, edge.id

    async def events(self, job_id: str, after: int = 0, tenant: str = DEFAULT_TENANT) -> list[EventView]:
        """The job's history behind a version. Raises Unreadable where an event in it is damaged."""
        stream = await self._stream(job_id, tenant)
        try:
            history = await self.store.read(stream.id, after)
        except Damaged as error:
            raise damaged(job_id, error.damage.version, error.damage.position) from error
        return [event_view(recorded, job_id) for recorded in history]

    async def _stream(self, job_id: str, tenant: str) -> Stream:
        stream = await self.store.find(job_id)
        if stream is None or stream.tenant != tenant:
            raise NotFound(f"There is no job {job_id}.", job_id=job_id)
        return stream

    async def updates(self, job_id: str, tenant: str = DEFAULT_TENANT) -> AsyncGenerator[JobView]:
        """The job now, and again whenever it changed, until it has ended. The log is followed: nothing is missed.

        Raises NotFound, or Unreadable.
        """
        position = self.store.position
        stream = await self._stream(job_id, tenant)
        view = await self.show(job_id, tenant)
        yield view
        if view.ended:
            return
        async with aclosing(follow(self.store, position)) as batches:
            async for batch in batches:
                told = [event.stream for event in batch.events] + [damage.stream for damage in batch.damaged]
                if stream.id not in told:
                    continue
                latest = await self.show(job_id, tenant)
                if latest.version > view.version:
                    view = latest
                    yield view
                if view.ended:
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
            error=_error(job),
            takes=[self._take(snapshot.name, take) for take in _takes(job)],
            missing=_missing(job),
            age_seconds=round(max(0.0, now - snapshot.heard_at), 3),
        )

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
        async with asyncio.timeout(timeout_s), aclosing(self.updates()) as views:
            async for view in views:
                if view.status == "succeeded":
                    return Result(job=view, videos=view.takes)
                if view.ended or view.attention:
                    raise _failure(view)
        raise NotFound(f"There is no job {self.id}.", job_id=self.id)

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


def _no_key(adapter: Adapter) -> str:
    auth = adapter.capabilities.auth
    assert auth is not None
    names = " or ".join(name.replace("+", " and ") for name in auth.env)
    return f"{adapter.name} needs a key: set {names} in the environment."


def _untold(adapter: Adapter) -> str:
    """What else the provider must be told before it can be used; empty where nothing is missing."""
    missing = [setting.env for setting in adapter.capabilities.settings.values() if not setting.value]
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


def _failure(view: JobView) -> JobFailed:
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
