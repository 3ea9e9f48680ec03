"""OpenAI's `/v1/videos` over every provider here: their resource, their words, their errors.

A video is a job: the id is the job's own, so that each is found under /v1/jobs too. `model` is any name that a request
of ours takes, `size` any size that the model has. What ends a clip for OpenAI's client is `completed` and `failed`: a
cancelled job is a failed video, and a job that is parked for a person is still in progress, because the clip may have
been paid and may still be fetched.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from aiohttp import BodyPartReader, web
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from rushes.api.auth import tenant_of
from rushes.api.protocol import Refused, Strict
from rushes.api.rest import CHUNK_BYTES, answer, content_of, idempotency_key, query, reading_form
from rushes.faults import BadRequest, CommandRejected, Fault, NotFound, bad
from rushes.studio import Studio
from rushes.units import Billed, Money
from rushes.video import JSON, JobsQuery, JobView, Kind, MediaInput, Status, TakeKind, VideoRequest, decode

MAX_TEXT_BYTES: Final = 256 * 1024  # of one field of a form
PAGE: Final = 100  # jobs that are looked at together for a list
VideoStatus: TypeAlias = Literal["queued", "in_progress", "completed", "failed"]
WORDS: Final[dict[Status, VideoStatus]] = {
    "queued": "queued",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
THEIRS: Final = {"duration_seconds": "seconds", "resolution": "size", "aspect_ratio": "size"}  # names of fields


# ── What is said ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Reference(Strict, frozen=True, kw_only=True):
    """An image or a clip to begin from: exactly one of the two."""

    image_url: Annotated[str, Meta(max_length=14_000_000)] | None = None  # https, or data: up to 10 MiB
    file_id: Annotated[str, Meta(max_length=100)] | None = None  # an id that POST /v1/uploads gave


class CreateBody(Strict, frozen=True, kw_only=True):
    """A clip to make. `seconds` and `size` are the model's own where they are not given."""

    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    model: Annotated[str, Meta(max_length=300)] | None = None  # None: the server's default model
    seconds: Annotated[str, Meta(pattern="^[0-9]{1,5}$")] | Annotated[int, Meta(ge=1, le=36_000)] | None = None
    size: Annotated[str, Meta(pattern="^[0-9]{2,5}x[0-9]{2,5}$")] | None = None  # width×height, with an x
    input_reference: Reference | None = None


class RemixBody(Strict, frozen=True, kw_only=True):
    """Other words for the same clip."""

    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]


class VideosQuery(Strict, frozen=True, kw_only=True):
    """A page of the list: `after` is the last id of the page before."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


class VariantQuery(Strict, frozen=True, kw_only=True):
    """The clip itself, or a picture beside it: of jobs that asked their provider for one, at POST /v1/jobs."""

    variant: TakeKind = "video"


class VideoError(Struct, frozen=True, kw_only=True):
    """Why a video failed."""

    code: str
    message: str


class Video(Struct, frozen=True, kw_only=True):
    """OpenAI's resource. Times are seconds since 1970. The last five fields are ours."""

    id: str
    kind: Literal["video"] = field(default="video", name="object")
    model: str  # provider/model
    status: VideoStatus
    progress: int  # percent; 0 where the provider does not say
    created_at: int
    completed_at: int | None
    expires_at: None = None  # takes are kept
    prompt: str
    seconds: str | None  # of the take, once there is one
    size: str | None
    error: VideoError | None
    remixed_from_video_id: str | None
    provider: str
    phase: str
    attention: str  # not empty: a person should look, and why
    billed: Billed
    cost: Money | None


class VideoList(Struct, frozen=True, kw_only=True):
    """A page of the list."""

    kind: Literal["list"] = field(default="list", name="object")
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: str | None


class VideoDeleted(Struct, frozen=True, kw_only=True):
    """It is no longer shown at /v1/videos; its job stays in the log, with its take and what it cost."""

    id: str
    kind: Literal["video.deleted"] = field(default="video.deleted", name="object")
    deleted: bool = True


# ── The routes ────────────────────────────────────────────────────────────────────────────────────────────────────────


class OpenAIShape:
    """All routes over one studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        return [
            web.post("/v1/videos", self.create),
            web.get("/v1/videos", self.videos),
            web.get("/v1/videos/{id}", self.show),
            web.delete("/v1/videos/{id}", self.delete),
            web.get("/v1/videos/{id}/content", self.content),
            web.post("/v1/videos/{id}/remix", self.remix),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a clip: a form, as OpenAI's client sends it, or JSON."""
        query(request, Strict)
        if request.content_type.startswith("multipart/"):
            body, files = await self._form(request, tenant_of(request))
        else:
            body, files = decode(await request.read(), CreateBody), ()
        return await self._begun(request, _wanted(body, files))

    async def videos(self, request: web.Request) -> web.StreamResponse:
        """Some of the clips, the newest first unless asked otherwise."""
        asked, tenant = query(request, VideosQuery), tenant_of(request)
        after = None if asked.after is None else await self._studio.behind(asked.after, tenant)
        found: list[JobView] = []
        wanted: JobsQuery | None = JobsQuery(order=asked.order, limit=PAGE, after=after)
        while wanted is not None and len(found) <= asked.limit:
            page = await self._studio.page(wanted, tenant)
            found += [view for view in page.jobs if not view.hidden]
            wanted = replace(wanted, after=page.next) if page.next else None
        data = [self._video(view) for view in found[: asked.limit]]
        ids: list[str | None] = [video.id for video in data] or [None]
        has_more = len(found) > asked.limit
        return answer(VideoList(data=data, has_more=has_more, first_id=ids[0], last_id=ids[-1]))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One clip."""
        query(request, Strict)
        return answer(self._video(await self._shown(request)))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Take a clip that has ended off the list."""
        query(request, Strict)
        view = await self._shown(request)
        if not view.ended:
            detail = f"Video {view.id} is {WORDS[view.status]}: stop it first, by POST /v1/jobs/{view.id}/cancel."
            raise CommandRejected(detail, job_id=view.id, billed=view.billed)
        await self._studio.hide(view.id, tenant_of(request))
        return answer(VideoDeleted(id=view.id))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """The bytes of the clip, or of a picture beside it, whole or a range of them."""
        asked = query(request, VariantQuery)
        view = await self._shown(request)
        take = next((take for take in view.takes if take.kind == asked.variant), None)
        if take is not None:
            return content_of(view, take, request)
        if asked.variant != "video" and (view.ended or asked.variant not in _pictures(view)):
            raise bad("variant", f"There is no {asked.variant} here: ask for the video.", "unsupported_feature")
        if view.ended:
            raise NotFound(f"Video {view.id} has no content: it failed.", job_id=view.id, billed=view.billed)
        detail = f"Video {view.id} is not completed yet: ask again when it is."
        raise Refused(409, "not_found", detail, retryable=True, job_id=view.id, billed=view.billed)

    async def remix(self, request: web.Request) -> web.StreamResponse:
        """The clip made over by other words, where its model takes clips."""
        query(request, Strict)
        view = await self._shown(request)
        body = decode(await request.read(), RemixBody)
        source = MediaInput(type="video", job=view.id)
        wanted = VideoRequest(prompt=body.prompt, model=f"{view.provider}/{view.model}", inputs=(source,))
        return await self._begun(request, wanted)

    async def _begun(self, request: web.Request, wanted: VideoRequest) -> web.Response:
        try:
            view, _ = await self._studio.submit(wanted, idempotency_key(request), tenant_of(request))
        except BadRequest as error:
            raise BadRequest([_in_their_words(fault) for fault in error.faults], job_id=error.job_id) from error
        return answer(self._video(view))

    async def _shown(self, request: web.Request) -> JobView:
        """The job of a video that was not deleted. Raises NotFound."""
        name = request.match_info["id"]
        view = await self._studio.show(name, tenant_of(request))
        if view.hidden:
            raise NotFound(f"There is no video {name}: it was deleted.", job_id=name)
        return view

    def _video(self, view: JobView) -> Video:
        take = view.takes[0] if view.takes else None
        seconds = (take and take.duration_seconds) or view.request.duration_seconds
        source = view.request.inputs[0].made if view.request.inputs else None
        return Video(
            id=view.id,
            model=f"{view.provider}/{view.model}",
            status=WORDS[view.status],
            progress=view.progress or 0,
            created_at=int(view.created_at.timestamp()),
            completed_at=int(view.updated_at.timestamp()) if view.status == "succeeded" else None,
            prompt=view.prompt,
            seconds=f"{seconds:g}" if seconds else None,
            size=self._studio.size(view) or None,
            error=_error(view),
            remixed_from_video_id=source.job if source else None,
            provider=view.provider,
            phase=view.phase,
            attention=view.attention,
            billed=view.billed,
            cost=view.cost,
        )

    async def _form(self, request: web.Request, tenant: str) -> tuple[CreateBody, tuple[MediaInput, ...]]:
        """The fields of a form, and the file in it once it is kept. Raises BadRequest."""
        said: dict[str, object] = {}
        reference: dict[str, str] = {}
        files: list[MediaInput] = []
        with reading_form(""):
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader) or not part.name:
                    raise bad("", "A part of the form has no name: give every part one.")
                if part.name == "input_reference" and part.filename:
                    files.append(await self._kept(part, tenant))
                elif part.name.startswith("input_reference[") and part.name.endswith("]"):
                    reference[part.name[len("input_reference[") : -1]] = await _text(part)
                elif part.name in said:
                    raise bad(part.name, f"The form has {part.name!r} twice: give it once.")
                else:
                    said[part.name] = await _text(part)
        if len(files) + bool(reference) > 1:
            raise bad("input_reference", "The form has several references: give one.")
        return _typed(said | ({"input_reference": reference} if reference else {})), tuple(files)

    async def _kept(self, part: BodyPartReader, tenant: str) -> MediaInput:
        async with aclosing(_chunks(part)) as chunks:
            upload = await self._studio.upload(chunks, tenant)
        return MediaInput(type=_kind(upload.media_type), upload=upload.id)


# ── From their words to ours ──────────────────────────────────────────────────────────────────────────────────────────


def _wanted(body: CreateBody, files: tuple[MediaInput, ...]) -> VideoRequest:
    given = body.input_reference
    if given is not None:
        if (given.image_url is None) == (given.file_id is None):
            raise bad("input_reference", "input_reference needs exactly one of 'image_url' and 'file_id'.")
        files = (MediaInput(url=given.image_url, upload=given.file_id),)
    return VideoRequest(
        prompt=body.prompt,
        model=body.model,
        duration_seconds=None if body.seconds is None else float(body.seconds),
        resolution=body.size,
        inputs=files,
    )


def _in_their_words(fault: Fault) -> Fault:
    name = "input_reference" if fault.field.startswith("inputs") else THEIRS.get(fault.field, fault.field)
    return replace(fault, field=name)


def _pictures(view: JobView) -> list[JSON]:
    """The variants that its provider was asked for beside the video."""
    wanted = view.request.provider_options.get("variants")
    return wanted if isinstance(wanted, list) else []


def _error(view: JobView) -> VideoError | None:
    if view.status == "cancelled":
        return VideoError(code="cancelled", message="The video was cancelled.")
    return None if view.error is None else VideoError(code=view.error.code, message=view.error.detail)


# ── Forms ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _typed(said: dict[str, object]) -> CreateBody:
    return decode(msgspec.json.encode(said), CreateBody)


async def _text(part: BodyPartReader) -> str:
    text = bytearray()
    while chunk := await part.read_chunk(CHUNK_BYTES):
        text += chunk
        if len(text) > MAX_TEXT_BYTES:
            raise bad(part.name or "", f"The field {part.name!r} of the form is longer than {MAX_TEXT_BYTES} bytes.")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise bad(part.name or "", f"The field {part.name!r} of the form is not UTF-8.") from error


async def _chunks(part: BodyPartReader) -> AsyncGenerator[bytes, None]:
    while chunk := await part.read_chunk(CHUNK_BYTES):
        yield bytes(chunk)


def _kind(media_type: str) -> Kind:
    """What a file is an input as; what is neither is refused as the image that it is not."""
    return "video" if media_type.startswith("video/") else "image"
