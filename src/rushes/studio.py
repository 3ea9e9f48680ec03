"""The studio: what programs, the server and the command line all call. Everything durable happens below it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol, Unpack

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.actor import KIND
from rushes.actors.job import PHASE_WORDS, phase_word
from rushes.actors.messages import Job as State
from rushes.actors.system import Snapshot, System
from rushes.actors.words import billed_word, status_word
from rushes.adapters.base import Adapter, Failed, needs_prepare
from rushes.adapters.capabilities import Model, estimate, normalise, route
from rushes.assets import Assets
from rushes.eventstore.base import Damaged, EventStore, Recorded, Stream
from rushes.eventstore.follow import follow
from rushes.faults import BadRequest, Conflict, Fault, JobFailed, NotFound, Unreadable, bad, damaged
from rushes.media import MediaTrouble
from rushes.units import DEFAULT_TENANT, AssetRef, Clock, fresh_job_id, keyed_job_id, utc
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
    MediaInput,
    Page,
    Take,
    TakeView,
    Target,
    UploadView,
    VideoRequest,
    VideoSpec,
    checked,
    jobs_query,
    operation_of,
)

MAX_IMAGE_BYTES: Final = 20 * 2**20
MAX_UPLOAD_BYTES: Final = 200 * 2**20
START_WITHIN_S: Final = 24 * 3600.0
Image = str | bytes | Path
Fetch = Callable[[str, int], Awaitable[bytes]]
LookAtImage = Callable[[Path], Awaitable[tuple[int, int]]]


class Doors(Struct, frozen=True, kw_only=True):
    """What the studio needs from outside: built by `main`, or by a test."""

    fetch: Fetch
    look_at_image: LookAtImage
    credentials: Mapping[str, str]
    default_model: str = "local"
    unavailable: Callable[[str], Exception | None]  # why a provider cannot run here
    announce: Callable[[str], None] = lambda _: None  # tells other processes our address


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
        self.announce = doors.announce

    # ── making ──

    async def generate(
        self,
        prompt: str = "",
        *,
        image: Image | None = None,
        idempotency_key: str = "",
        tenant: str = DEFAULT_TENANT,
        **fields: Unpack[Fields],
    ) -> Job:
        """Begin a job; it is durable when this returns.

        Args:
            prompt: what the video should show.
            image: its first frame: a path, bytes, or an https address.
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
        if image is not None:
            fields["inputs"] = (*fields.get("inputs", ()), await self._as_input(image))
        view, _ = await self.submit(VideoRequest(prompt=prompt, **fields), idempotency_key, tenant)
        return self.job(view.id)

    async def submit(
        self, request: VideoRequest, idempotency_key: str = "", tenant: str = DEFAULT_TENANT
    ) -> tuple[JobView, bool]:
        """Begin the job of a request; True beside it says that its key had begun it before. Raises as `generate`."""
        request = checked(request)
        adapter, target, model = self._route(request.model or self._doors.default_model)
        spec = VideoSpec(
            **{name: getattr(request, name) for name in Config.__struct_fields__},
            prompt=request.prompt,
            operation=operation_of(request),
            customer_id=request.customer_id or 0,
        )
        roles = tuple(Input(role=given.role, asset=_UNSEEN) for given in request.inputs)
        normalise(replace(spec, inputs=roles), model)  # refuse what needs no look at the pictures
        spec = replace(spec, inputs=tuple([await self._keep(n, given) for n, given in enumerate(request.inputs)]))
        digest = _digest(request, spec)
        spec = normalise(spec, model)
        if spec.seed is None and model.draws_seed and "seed" in model.fields:
            spec = replace(spec, seed=self._rng.randrange(model.max_seed + 1))
        target = replace(target, price=estimate(spec, model))
        now = self._clock.now()
        requested = m.JobRequested(
            spec=spec,
            route=(target,),
            needs=("prepare",) if needs_prepare(adapter, spec, target) else (),
            start_by=now + START_WITHIN_S,
            body_sha256=digest,
            idempotency_key=idempotency_key,
        )
        if not idempotency_key:
            name = fresh_job_id(now, self._rng.getrandbits(74))
            snapshot, _ = await self._system.generate(name, tenant, requested)
            return self.view(snapshot), False
        return await self._submit_keyed(requested, idempotency_key, tenant)

    async def _submit_keyed(self, requested: m.JobRequested, key: str, tenant: str) -> tuple[JobView, bool]:
        """The key names the job, so asking twice finds it. A job that ended before anything was sent gives it back."""
        if len(key) > 255:
            raise bad("Idempotency-Key", "An idempotency key may have 255 characters.")
        earlier = 0
        while True:
            name = keyed_job_id(tenant, key, earlier)
            snapshot, existed = await self._system.generate(name, tenant, requested)
            if not existed:
                return self.view(snapshot), False
            if isinstance(snapshot.job, m.Ended) and not snapshot.job.ever_sent:
                earlier += 1
                continue
            if _facts(snapshot.job).requested.body_sha256 != requested.body_sha256:
                raise Conflict(idempotency_key=key, job_id=name)
            return self.view(snapshot), True

    def _route(self, wanted: str) -> tuple[Adapter, Target, Model]:
        provider, model = route(wanted, self._adapters)
        adapter = self._adapters[provider]
        if (reason := self._doors.unavailable(provider)) is not None:
            raise reason
        auth = adapter.capabilities.auth
        if auth is None:
            return adapter, Target(provider=provider, model=model.id), model
        alias = next((name for name in auth.env if name in self._doors.credentials), None)
        if alias is None:
            names = " or ".join(auth.env)
            raise bad("model", f"{provider} needs a key: set {names} in the environment.", "authentication_failed")
        fingerprint = hashlib.sha256(self._doors.credentials[alias].encode()).hexdigest()[:8]
        return adapter, Target(provider=provider, model=model.id, credential=alias, fingerprint=fingerprint), model

    async def _as_input(self, image: Image) -> MediaInput:
        if isinstance(image, str) and image.startswith(("https://", "http://", "data:")):
            return MediaInput(url=image)
        if isinstance(image, bytes):
            return MediaInput(upload=(await self.upload(_once(image))).id)
        try:
            content = await asyncio.to_thread(Path(image).read_bytes)
        except OSError as error:
            raise bad("image", f"The image {str(image)!r} cannot be read: {error.strerror}.") from error
        return MediaInput(upload=(await self.upload(_once(content))).id)

    async def upload(self, chunks: AsyncIterator[bytes]) -> UploadView:
        """Keep a file that requests will name."""
        asset = await self._assets.keep_input(chunks, MAX_UPLOAD_BYTES)
        return UploadView(
            id=f"up_{asset.sha256}", media_type=asset.media_type, size_bytes=asset.size_bytes, sha256=asset.sha256
        )

    async def _keep(self, number: int, given: MediaInput) -> Input:
        """A picture becomes ours: fetched, looked at, kept."""
        if given.url is not None:
            field = f"inputs[{number}].url"
            try:
                content = await self._doors.fetch(given.url, MAX_IMAGE_BYTES)
            except Failed as failed:
                raise bad(field, f"The image at {field} could not be fetched: {failed.fault.detail}") from failed
            asset = await self._assets.keep_input(_once(content), MAX_IMAGE_BYTES)
        else:
            field = f"inputs[{number}].upload"
            found = self._assets.input_ref((given.upload or "").removeprefix("up_"))
            if found is None:
                raise bad(field, f"There is no upload {given.upload!r}: send the file to POST /v1/uploads first.")
            asset = found
        if not asset.media_type.startswith("image/"):
            raise bad(field, f"{field} is no image but {asset.media_type}: send a PNG, JPEG, WebP or GIF.")
        try:
            await self._doors.look_at_image(self._assets.path(asset.key))
        except MediaTrouble as trouble:
            raise bad(field, f"{field} is no image that can be used: {trouble.detail}") from trouble
        return Input(role=given.role, asset=asset)

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

    # ── steering ──

    async def cancel(
        self, job_id: str, *, by: str = "user", discard: bool = False, tenant: str = DEFAULT_TENANT
    ) -> JobView:
        """Ask for a stop; the view tells what became of it. `discard`: where nothing stops it, drop its take."""
        await self._stream(job_id, tenant)
        return self.view(await self._system.ask(job_id, m.Cancel(by=by, discard=discard)))

    async def poll(self, job_id: str, tenant: str = DEFAULT_TENANT) -> JobView:
        """Ask the provider now; within the job's minimum interval, what is known, with its age."""
        await self._stream(job_id, tenant)
        return self.view(await self._system.poll(job_id))

    async def save(self, job_id: str, path: str | Path, take: int = 0, tenant: str = DEFAULT_TENANT) -> Path:
        """Copy a take out of the studio. Raises NotFound while there is none."""
        view = await self.show(job_id, tenant)
        if not 0 <= take < len(view.takes):
            raise NotFound(f"Job {job_id} has no take {take}: it is {view.phase}.", job_id=job_id)
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
            note=job.refused.detail if isinstance(job, m.Queued) and job.refused else "",
            billed=billed_word(job),
            cost=job.cost if isinstance(job, m.Succeeded) else None,
            error=_error(job),
            takes=[self._take(snapshot.name, take) for take in _takes(job)],
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

    def __init__(self, studio: Studio, job_id: str) -> None:
        self.id = job_id
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

    async def poll(self) -> JobView:
        """Ask the provider now."""
        return await self._studio.poll(self.id)

    async def save(self, path: str | Path, take: int = 0) -> Path:
        """Wait for the takes, and copy one out of the studio."""
        await self.result()
        return await self._studio.save(self.id, path, take)


# ── from phases to words ──────────────────────────────────────────────────────────────────────────────────────────────

ATTENTION: Final[dict[m.ParkReason, str]] = {
    "in_doubt": "It is not known whether the provider took the job, nor whether it is billed: "
    "see the provider's own list; a cancel ends it here.",
    "detached": "The provider did not finish in time; it may still, and may bill.",
    "gone": "The provider no longer knows this job.",
    "credential": "The provider refuses the key that this job was made with.",
}
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


def _takes(job: State) -> Sequence[Take]:
    match job:
        case m.Succeeded(takes=takes):
            return takes
        case m.Storing(stored=stored):
            return stored
        case _:
            return ()


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


def _digest(request: VideoRequest, spec: VideoSpec) -> str:
    """What makes two requests the same: every field as sent, and pictures by what they hold, not where they lay."""
    pictures = [[given.role, given.asset.sha256] for given in spec.inputs]
    body = msgspec.json.encode([replace(request, inputs=()), pictures], order="deterministic")
    return hashlib.sha256(body).hexdigest()


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


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


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
