"""The HTTP routes. Each reads a request, asks the studio, and says the answer; what went wrong is `app`'s to say."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_request import BaseRequest
from msgspec import Struct
from msgspec.structs import asdict, replace
from multidict import CIMultiDict

from rushes.api.auth import WHO, tenant_of
from rushes.api.protocol import (
    BatchBody,
    CancelBody,
    CollectBody,
    ContentQuery,
    EventsQuery,
    Health,
    JobsListing,
    Listing,
    Refused,
    ResubmitBody,
    Strict,
)
from rushes.faults import BadRequest, NotFound, bad
from rushes.studio import Studio
from rushes.video import (
    JobsQuery,
    JobView,
    ModelView,
    OfferedModel,
    ProviderView,
    TakeView,
    VideoRequest,
    decode,
    ending_of,
    fault_of,
)

LOOK_AGAIN: Final = {"Retry-After": "1"}  # seconds, for somebody who polls a job
REPLAYED: Final = {"Idempotent-Replayed": "true"}
MAX_WAIT_S: Final = 300  # of `Prefer: wait=…`; who wants more waits for less
CHUNK_BYTES: Final = 64 * 1024
CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range")

S = TypeVar("S", bound=Struct)


class Rest:
    """All routes over one studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def routes(self) -> list[web.RouteDef]:
        """What is served, in one table."""
        return [
            web.get("/healthz", self.health),
            web.post("/v1/jobs", self.submit),
            web.get("/v1/jobs", self.jobs),
            web.get("/v1/jobs/{id}", self.show),
            web.post("/v1/jobs/{id}/cancel", self.cancel),
            web.post("/v1/jobs/{id}/poll", self.poll),
            web.post("/v1/jobs/{id}/collect", self.collect),
            web.post("/v1/jobs/{id}/resubmit", self.resubmit),
            web.post("/v1/jobs/{id}/give-up", self.give_up),
            web.post("/v1/jobs/{id}/retry", self.retry),
            web.get("/v1/jobs/{id}/events", self.events),
            web.get("/v1/jobs/{id}/content", self.content),
            web.post("/v1/uploads", self.upload),
            web.post("/v1/batches", self.submit_batch),
            web.get("/v1/batches/{id}", self.batch),
            web.post("/v1/estimates", self.estimate),
            web.get("/v1/models", self.models),
            web.get("/v1/providers", self.providers),
        ]

    async def providers(self, request: web.Request) -> web.StreamResponse:
        """Who can make videos, and how that fares: the lanes count the jobs of all tenants, so they are for `admin`."""
        query(request, Strict)
        views = await self._studio.providers()
        if "admin" not in request[WHO].scopes:
            views = [replace(view, lanes=[]) for view in views]
        return answer(Listing(data=views))

    async def models(self, request: web.Request) -> web.StreamResponse:
        """Every model of every provider, also of those that cannot be used yet: `reason` says what is missing."""
        query(request, Strict)
        data = [_offered(view, model) for view in await self._studio.providers() for model in view.models]
        ids: list[str | None] = [model.id for model in data] or [None]
        return answer(Listing(data=data, first_id=ids[0], last_id=ids[-1]))

    async def estimate(self, request: web.Request) -> web.StreamResponse:
        """What a job would cost at the most; what a submit would refuse is refused the same way."""
        query(request, Strict)
        wanted = decode(await request.read(), VideoRequest)
        return answer(await self._studio.estimate(wanted, tenant_of(request)))

    async def submit_batch(self, request: web.Request) -> web.StreamResponse:
        """Begin a job for each of several requests, or none where one of them is wrong."""
        query(request, Strict)
        wanted = decode(await request.read(), BatchBody)
        key, tenant = idempotency_key(request), tenant_of(request)
        view, replayed = await self._studio.submit_batch(wanted.requests, key, tenant)
        headers = {"Location": f"/v1/batches/{view.id}"} | LOOK_AGAIN
        return answer(view, 202, headers | (REPLAYED if replayed else {}))

    async def batch(self, request: web.Request) -> web.StreamResponse:
        """How the jobs of a batch are."""
        query(request, Strict)
        return answer(await self._studio.batch(_id(request), tenant_of(request)))

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Whether the server is there. How long its log is, is for those who may read."""
        query(request, Strict)
        store, who = self._studio.store, request.get(WHO)
        if who is None or "read" not in who.scopes:
            return answer(Health())
        return answer(Health(epoch=store.epoch, position=store.position))

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Begin a job: it is durable when this answers."""
        query(request, Strict)
        wait_s = preferred_wait_s(request)
        wanted = decode(await request.read(), VideoRequest)
        view, replayed = await self._studio.submit(wanted, idempotency_key(request), tenant_of(request))
        return await self._begun(view, replayed, wait_s, tenant_of(request))

    async def jobs(self, request: web.Request) -> web.StreamResponse:
        """Some of the jobs, the newest first unless asked otherwise."""
        page = await self._studio.page(query(request, JobsQuery), tenant_of(request))
        ids: list[str | None] = [view.id for view in page.jobs] or [None]
        return answer(
            JobsListing(
                data=page.jobs,
                has_more=page.has_more,
                first_id=ids[0],
                last_id=ids[-1],
                next=page.next,
                unreadable=page.unreadable,
                stale=page.stale,
            )
        )

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One job."""
        query(request, Strict)
        return answer(await self._studio.show(_id(request), tenant_of(request)))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Ask for a stop; the view says what became of it."""
        query(request, Strict)
        asked = decode(await request.read() or b"{}", CancelBody)
        return answer(await self._studio.cancel(_id(request), discard=asked.discard, tenant=tenant_of(request)))

    async def poll(self, request: web.Request) -> web.StreamResponse:
        """Ask the provider now."""
        query(request, Strict)
        decode(await request.read() or b"{}", Strict)
        return answer(await self._studio.poll(_id(request), tenant_of(request)))

    async def collect(self, request: web.Request) -> web.StreamResponse:
        """Have a parked job fetch what was paid."""
        query(request, Strict)
        asked = decode(await request.read() or b"{}", CollectBody)
        return answer(await self._studio.collect(_id(request), handle=asked.handle, tenant=tenant_of(request)))

    async def resubmit(self, request: web.Request) -> web.StreamResponse:
        """Send a parked job again."""
        query(request, Strict)
        asked = decode(await request.read() or b"{}", ResubmitBody)
        tenant = tenant_of(request)
        return answer(await self._studio.resubmit(_id(request), accept_cost=asked.accept_cost, tenant=tenant))

    async def give_up(self, request: web.Request) -> web.StreamResponse:
        """End a parked job."""
        query(request, Strict)
        decode(await request.read() or b"{}", Strict)
        return answer(await self._studio.give_up(_id(request), tenant=tenant_of(request)))

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Begin a new job with the request of one that has ended."""
        query(request, Strict)
        wait_s = preferred_wait_s(request)
        decode(await request.read() or b"{}", Strict)
        view, replayed = await self._studio.retry(_id(request), idempotency_key(request), tenant_of(request))
        return await self._begun(view, replayed, wait_s, tenant_of(request))

    async def _begun(self, view: JobView, replayed: bool, wait_s: int, tenant: str) -> web.Response:
        """A job that begins, or that its idempotency key had begun before: at once, or when it has ended."""
        headers = {"Location": f"/v1/jobs/{view.id}"} | (REPLAYED if replayed else {})
        if wait_s:
            headers["Preference-Applied"] = f"wait={wait_s}"
            view = await settled_within(self._studio, view.id, wait_s, tenant)
        return answer(view, 200, headers) if view.ended else answer(view, 202, headers | LOOK_AGAIN)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A job's history."""
        asked = query(request, EventsQuery)
        return answer(Listing(data=await self._studio.events(_id(request), asked.after, tenant_of(request))))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """A take's bytes, whole or a range of them."""
        asked = query(request, ContentQuery)
        view = await self._studio.show(_id(request), tenant_of(request))
        if (take := view.take(asked.take)) is not None:
            return content_of(view, take, request)
        if view.ended:
            detail = f"Job {view.id} has no take {asked.take}: it has {len(view.takes)}."
            raise NotFound(detail, job_id=view.id, billed=view.billed)
        detail = f"Job {view.id} has no take {asked.take} yet: it is {view.phase}, ask again when it has succeeded."
        raise Refused(409, "not_found", detail, retryable=True, job_id=view.id, billed=view.billed)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Keep a file that requests will name. It is never held in memory as a whole."""
        query(request, Strict)
        chunks = _file_of(request) if request.content_type.startswith("multipart/") else _raw(request)
        return answer(await self._studio.upload(_not_empty(chunks), tenant_of(request)), 201)


def answer(body: Struct, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A struct as JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")


async def settled_within(studio: Studio, job_id: str, wait_s: float, tenant: str) -> JobView:
    """The job once it has ended or waits for a person, or as it is after some seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            return await studio.settled(job_id, tenant)
    return await studio.show(job_id, tenant)


def preferred_wait_s(request: web.Request) -> int:
    """How long the answer may take, by `Prefer: wait=10` (RFC 7240); 0 where that is not said.

    Other preferences are passed over, as the standard asks. Raises BadRequest where the seconds are no number.
    """
    said = [one.strip() for line in request.headers.getall("Prefer", ()) for one in re.split(r"[,;]", line)]
    for one in said:
        name, _, value = (part.strip() for part in one.partition("="))
        if name.lower() == "wait":
            if not re.fullmatch(r'[0-9]{1,9}|"[0-9]{1,9}"', value):
                raise bad("Prefer", f"The wait is whole seconds, as in 'Prefer: wait=10', not {value!r}.")
            return min(MAX_WAIT_S, int(value.strip('"')))
    return 0


def _offered(provider: ProviderView, model: ModelView) -> OfferedModel:
    facts: dict[str, Any] = asdict(model) | {"id": f"{provider.name}/{model.id}"}
    return OfferedModel(**facts, owned_by=provider.name, configured=provider.configured, reason=provider.reason)


def query(request: web.Request, kind: type[S]) -> S:
    """The query as a struct, or BadRequest naming the parameter that is unknown, wrong, or there twice."""
    given = request.query
    for name in given:
        if len(given.getall(name)) > 1:
            raise bad(name, f"The parameter {name!r} is there more than once: give it once.")
    try:
        asked = msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest([fault_of(error, kind)]) from error
    for field, name in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True):
        value = getattr(asked, field)
        if name in given and value is None:  # the word null, which would ask for nothing
            raise bad(name, f"The parameter {name!r} has a wrong value: leave it out where there is none.")
        if isinstance(value, datetime) and not re.match(r"[0-9]{4}-", given[name]):  # a number is no time
            raise bad(name, f"The parameter {name!r} has a wrong value: write a time as in 2026-01-31T12:00:00Z.")
    return asked


def _id(request: web.Request) -> str:
    return request.match_info["id"]


def idempotency_key(request: web.Request) -> str:
    """The header, or an empty text where there is none. Raises BadRequest where it is blank."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not key.strip():
        raise bad("Idempotency-Key", "The Idempotency-Key is empty: leave the header out, or send a key.")
    return key or ""


# ── files out ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Content(web.FileResponse):
    """A kept file. Takes never change, so the sha256 is the tag, and every condition is about that tag."""

    def __init__(self, take: TakeView, name: str) -> None:
        self._tag = f'"{take.sha256}"'
        disposition = f'inline; filename="{name}"'
        headers = {"Content-Type": take.media_type, "Content-Disposition": disposition}
        super().__init__(take.path, chunk_size=256 * 1024, headers=headers)

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send it, with the conditions that `content_of` has looked at taken out."""
        headers = CIMultiDict(request.headers)
        if headers.get("If-Range", self._tag) != self._tag:
            headers.popall("Range", None)
        for name in CONDITIONS:
            headers.popall(name, None)
        return await super().prepare(request.clone(headers=headers))

    def retag(self) -> None:
        """Put our tag in place of the one that is made from the file's time."""
        self.headers["ETag"] = self._tag


def content_of(view: JobView, take: TakeView, request: web.Request) -> web.StreamResponse:
    """A take, or a word that the caller has it already, or has another."""
    tag = f'"{take.sha256}"'
    if _names(request.headers.getall("If-None-Match", ()), tag):
        return web.Response(status=304, headers={"ETag": tag})
    wanted = request.headers.getall("If-Match", ())
    if wanted and not _names(wanted, tag):
        detail = "The take is not the one that If-Match names."
        raise Refused(412, "conflict", detail, job_id=view.id, billed=view.billed)
    return Content(take, f"{view.id}-{take.index}.{ending_of(take.media_type)}")


def _names(header: Iterable[str], tag: str) -> bool:
    named = {one.strip().removeprefix("W/") for line in header for one in line.split(",")}
    return bool(named & {tag, "*"})


# ── files in ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _raw(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(CHUNK_BYTES):
        yield chunk


@contextmanager
def reading_form(field: str) -> Generator[None]:
    """Raise BadRequest about a field where what is read inside is no form."""
    try:
        yield
    except HttpProcessingError as error:
        raise bad(field, "The form cannot be read: the headers of a part are none that HTTP knows.") from error
    except ValueError as error:
        raise bad(field, f"The form cannot be read: {error}.") from error


async def _file_of(request: web.Request) -> AsyncIterator[bytes]:
    """The part named `file`; others are passed over."""
    with reading_form("file"):
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "file":
                while chunk := await part.read_chunk(CHUNK_BYTES):
                    yield bytes(chunk)
                return
    raise bad("file", "The form has no part named 'file': send the file under that name.")


async def _not_empty(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        yield chunk
    if not size_bytes:
        raise bad("file", "The upload is empty: send the file as the body, or as the form's part 'file'.")
