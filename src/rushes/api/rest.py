"""The HTTP routes. Each reads a request, asks the studio, and says the answer; what went wrong is `app`'s to say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest
from msgspec import Struct
from multidict import CIMultiDict

from rushes.api.protocol import (
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
from rushes.video import JobsQuery, JobView, TakeView, VideoRequest, decode, fault_of

LOOK_AGAIN_S: Final = 1  # what Retry-After advises somebody who polls a job
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
            web.get("/v1/providers", self.providers),
        ]

    async def providers(self, request: web.Request) -> web.StreamResponse:
        """Who can make videos, and how that fares."""
        query(request, Strict)
        return answer(Listing(data=await self._studio.providers()))

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Whether the server is there."""
        query(request, Strict)
        store = self._studio.store
        return answer(Health(epoch=store.epoch, position=store.position))

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Begin a job: it is durable when this answers."""
        query(request, Strict)
        wanted = decode(await request.read(), VideoRequest)
        return _begun(*await self._studio.submit(wanted, _idempotency_key(request)))

    async def jobs(self, request: web.Request) -> web.StreamResponse:
        """Some of the jobs, the newest first unless asked otherwise."""
        page = await self._studio.page(query(request, JobsQuery))
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
        return answer(await self._studio.show(request.match_info["id"]))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Ask for a stop; the view says what became of it."""
        query(request, Strict)
        asked = decode(await request.read() or b"{}", CancelBody)
        return answer(await self._studio.cancel(request.match_info["id"], discard=asked.discard))

    async def poll(self, request: web.Request) -> web.StreamResponse:
        """Ask the provider now."""
        query(request, Strict)
        decode(await request.read() or b"{}", Strict)
        return answer(await self._studio.poll(request.match_info["id"]))

    async def collect(self, request: web.Request) -> web.StreamResponse:
        """Have a parked job fetch what was paid."""
        query(request, Strict)
        asked = decode(await request.read() or b"{}", CollectBody)
        return answer(await self._studio.collect(request.match_info["id"], handle=asked.handle))

    async def resubmit(self, request: web.Request) -> web.StreamResponse:
        """Send a parked job again."""
        query(request, Strict)
        asked = decode(await request.read() or b"{}", ResubmitBody)
        return answer(await self._studio.resubmit(request.match_info["id"], accept_cost=asked.accept_cost))

    async def give_up(self, request: web.Request) -> web.StreamResponse:
        """End a parked job."""
        query(request, Strict)
        decode(await request.read() or b"{}", Strict)
        return answer(await self._studio.give_up(request.match_info["id"]))

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Begin a new job with the request of one that has ended."""
        query(request, Strict)
        decode(await request.read() or b"{}", Strict)
        return _begun(*await self._studio.retry(request.match_info["id"], _idempotency_key(request)))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A job's history."""
        asked = query(request, EventsQuery)
        return answer(Listing(data=await self._studio.events(request.match_info["id"], asked.after)))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """A take's bytes, whole or a range of them."""
        asked = query(request, ContentQuery)
        view = await self._studio.show(request.match_info["id"])
        if asked.take < len(view.takes):
            return content_of(view, view.takes[asked.take], request)
        if view.ended:
            detail = f"Job {view.id} has no take {asked.take}: it has {len(view.takes)}."
            raise NotFound(detail, job_id=view.id, billed=view.billed)
        detail = f"Job {view.id} has no take {asked.take} yet: it is {view.phase}, ask again when it has succeeded."
        raise Refused(409, "not_found", detail, retryable=True, job_id=view.id, billed=view.billed)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Keep a file that requests will name. It is never held in memory as a whole."""
        query(request, Strict)
        chunks = _file_of(request) if request.content_type.startswith("multipart/") else _raw(request)
        return answer(await self._studio.upload(_not_empty(chunks)), 201)


def answer(body: Struct, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A struct as JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")


def _begun(view: JobView, replayed: bool) -> web.Response:
    """A job that begins, or that its idempotency key had begun before."""
    headers = {"Location": f"/v1/jobs/{view.id}", "Retry-After": str(LOOK_AGAIN_S)}
    return answer(view, 202, headers | ({"Idempotent-Replayed": "true"} if replayed else {}))


def query(request: web.Request, kind: type[S]) -> S:
    """The query as a struct, or BadRequest naming the parameter that is unknown or wrong."""
    try:
        return msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest([fault_of(error, kind)]) from error


def _idempotency_key(request: web.Request) -> str:
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
    return Content(take, f"{view.id}-{take.index}.mp4")


def _names(header: Iterable[str], tag: str) -> bool:
    named = {one.strip().removeprefix("W/") for line in header for one in line.split(",")}
    return bool(named & {tag, "*"})


# ── files in ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _raw(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(CHUNK_BYTES):
        yield chunk


async def _file_of(request: web.Request) -> AsyncIterator[bytes]:
    """The part named `file`; others are passed over."""
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "file":
                while chunk := await part.read_chunk(CHUNK_BYTES):
                    yield bytes(chunk)
                return
    except ValueError as error:
        raise bad("file", f"The form cannot be read: {error}.") from error
    raise bad("file", "The form has no part named 'file': send the file under that name.")


async def _not_empty(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        yield chunk
    if not size_bytes:
        raise bad("file", "The upload is empty: send the file as the body, or as the form's part 'file'.")
