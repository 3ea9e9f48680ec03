"""Tools for agents: what a language model may ask of a studio, as JSON schemas and functions that answer in JSON.

    tools = tools_of(studio)                 # or of a rushes.client.Client
    tools["generate_video"].schema           # JSON Schema 2020-12 of its arguments
    await tools["generate_video"].call({"prompt": "a lake at dawn"})

They are the same that `rushes mcp` offers. What a caller can do something about is no exception but an answer: the
error in words, and what is billed. A job is stored before its id is told, and goes on whoever asks for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog
from msgspec import Meta, Struct
from msgspec.structs import replace

from rushes.api.auth import is_loopback
from rushes.api.protocol import Problem, problem_of
from rushes.client import Client
from rushes.eventstore.base import StoreError
from rushes.faults import BadRequest, RushesError, ServerTrouble, Unavailable, bad
from rushes.studio import Studio
from rushes.units import Billed, Money
from rushes.video import (
    MAX_KEY,
    OPERATIONS,
    EstimateView,
    FaultView,
    JobsQuery,
    JobView,
    Kind,
    LimitsView,
    MediaInput,
    ModelView,
    PriceView,
    ProviderView,
    Role,
    Status,
    TakeKind,
    TakeView,
    VideoRequest,
    fault_of,
)

LONGEST_WAIT_S: Final = 45.0  # clients of agents' tools give up after a minute
LOOK_AGAIN_S: Final = 5.0  # between two words about a job that does not change
PIECE_BYTES: Final = 256 * 1024
PAUSE_S: Final = 0.2  # before a server that is away is asked again

_log = structlog.get_logger("rushes")
T = TypeVar("T", bound=Struct)


Desk: TypeAlias = Studio | Client


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Arguments(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a tool is given."""


JobId: TypeAlias = Annotated[str, Meta(description="The id of a job: job_…")]


class LocalFile(Arguments, frozen=True, kw_only=True):
    """A file of the machine that the tools run on, as an input."""

    path: Annotated[str, Meta(max_length=4096)]
    type: Kind = "image"
    role: Role | None = None


class Estimate(VideoRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request, with files of this machine."""

    files: Annotated[tuple[LocalFile, ...], Meta(max_length=50)] = ()


class Generate(Estimate, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same, and the key that makes it safe to repeat."""

    idempotency_key: Annotated[str, Meta(max_length=MAX_KEY)] = ""


class Get(Arguments, frozen=True, kw_only=True):
    """Which job."""

    job_id: JobId


class Wait(Arguments, frozen=True, kw_only=True):
    """Which job, and for how long."""

    job_id: JobId
    timeout_seconds: Annotated[
        float, Meta(gt=0, le=LONGEST_WAIT_S, description="How long to wait at the most; then ask again.")
    ] = LONGEST_WAIT_S


class Cancel(Arguments, frozen=True, kw_only=True):
    """Which job, and what becomes of its video."""

    job_id: JobId
    discard: Annotated[bool, Meta(description="Where nothing stops it any more, throw its video away.")] = False


class Models(Arguments, frozen=True, kw_only=True):
    """Which models: of the providers that can be used now, where none is named."""

    provider: Annotated[str | None, Meta(description="Only this provider's, with what they take.")] = None
    model: Annotated[str | None, Meta(description="Only this one, with what it takes: an id, or provider/id.")] = None
    operation: Annotated[str | None, Meta(description=f"Only what does this: {', '.join(OPERATIONS.values())}.")] = None


TOLD: Final[Mapping[str, str]] = {
    "prompt": "What the video should show.",
    "model": "local (free, for trying out), or provider/model as list_video_models has it. Absent: the usual one.",
    "operation": "Only where the inputs do not say it: extend, upscale, lip-sync, effect.",
    "inputs": "Images, videos and sounds. Each has exactly one of url, upload (an id) and job (one that succeeded).",
    "files": "The same from files of this machine. Only from folders that the user has allowed for it.",
    "customer_id": "A label of your own for the job, a number.",
    "emulate": "What may be done another way where the model cannot do it as asked.",
    "at_least_once": "How often it may be sent, and perhaps paid, again while nobody knows what became of a send.",
    "negative_prompt": "What it should not show.",
    "seed": "The same seed and prompt give the same clip, where the model can.",
    "scheduler": "The name of a sampler, where the model has several.",
    "guidance_scale": "How closely it keeps to the prompt, in the model's own numbers.",
    "aspect_ratio": "square, portrait, landscape, cinema, or w:h as in 16:9.",
    "duration_seconds": "How long it should be.",
    "resolution": "sd, hd, fhd, uhd, 480p to 4k, or w×h.",
    "fps": "Frames per second.",
    "generate_audio": "With sound.",
    "enhance_prompt": "Let the provider rewrite the prompt.",
    "character_strength": "Of the inputs in the role character, 0 to 1.",
    "style_strength": "Of the inputs in the role style, 0 to 1.",
    "provider_options": "What only this provider has, by its own names.",
    "idempotency_key": "Any text of yours. The same key with the same arguments gives the same job, and is paid once.",
    "status": "Only these.",
    "phase": "Only these, more finely; parked is what waits for a person.",
    "billed": "Only these.",
    "provider": "Only this provider's.",
    "batch": "Only the jobs of this batch, by its id.",
    "created_after": "A time as in RFC 3339, with its zone.",
    "created_before": "A time as in RFC 3339, with its zone.",
    "sort": "By when they were made, or changed.",
    "order": "desc: the latest first.",
    "limit": "How many at the most.",
    "after": "Go on there: `next` of the answer before.",
    "before": "The id of a job: those that were made before it.",
}
"""What a language model is told of the fields whose types do not say it themselves."""


# ── what is answered ──────────────────────────────────────────────────────────────────────────────────────────────────


class Video(Struct, frozen=True, kw_only=True):
    """A finished video, or a picture beside it: where it is, never its bytes."""

    kind: TakeKind
    uri: str  # file: on this machine, else http: at the server
    media_type: str
    size_bytes: int
    width: int | None
    height: int | None
    duration_seconds: float | None
    fps: float | None
    has_audio: bool | None


class VideoJob(Struct, frozen=True, kw_only=True):
    """A job, as far as an agent needs it. The words are those of JobView."""

    job_id: str
    status: Status
    phase: str
    progress: int | None
    eta_seconds: float | None
    next: str  # what to do now
    model: str  # provider/model
    operation: str
    prompt: str
    created_at: datetime
    billed: Billed
    cost: Money | None
    error: FaultView | None
    note: str
    metadata: dict[str, str]
    videos: list[Video]
    repeated: bool = False  # its idempotency key had begun it before


class VideoJobs(Struct, frozen=True, kw_only=True):
    """Some jobs."""

    jobs: list[VideoJob]
    next: str | None  # give it as `after` for more; None: there are no more
    unreadable: list[str]
    stale: bool


class VideoModel(Struct, frozen=True, kw_only=True):
    """A model as it can be asked for."""

    model: str  # provider/id
    operations: list[str]
    free: bool
    price: PriceView | None  # None: unknown, where it is not free
    limits: list[LimitsView]  # only where a provider or a model was named


class VideoModels(Struct, frozen=True, kw_only=True):
    """Some models."""

    models: list[VideoModel]
    not_ready: dict[str, str]  # providers that cannot be used now, and what to do


class Refusal(Struct, frozen=True, kw_only=True):
    """It went wrong: why, what to do, and whether it cost anything."""

    error: Problem


Answer: TypeAlias = VideoJob | VideoJobs | EstimateView | VideoModels | Refusal
Watch: TypeAlias = Callable[[VideoJob], Awaitable[None]]
"""Told of a job that is waited for: at every change, and every few seconds without one."""
Find: TypeAlias = Callable[[], Awaitable[Desk]]


# ── the tools ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Tool:
    """One tool: its name, what a language model is told of it, and how it is called."""

    def __init__(
        self,
        name: str,
        description: str,
        run: Callable[[Any, Watch], Awaitable[Answer]],
        takes: type[Struct],
        gives: type[Struct],
        effect: Literal["reads", "adds", "ends"] = "reads",
    ) -> None:
        """`effect`: whether it only looks, begins something, or ends something."""
        self.name, self.description, self.effect = name, description, effect
        self.schema, self.answer_schema = _told(schema_of(takes)), schema_of(gives)
        self._run, self._takes = run, takes

    async def call(self, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer as JSON has it; where something is wrong, `{"error": {code, detail, billed, …}}`."""
        answer: dict[str, Any] = msgspec.to_builtins(await self.answer(arguments))
        return answer

    async def answer(self, arguments: Mapping[str, Any] | None = None, watch: Watch | None = None) -> Answer:
        """The same as a struct. `watch` is told of a job while it is waited for."""
        try:
            return await self._run(_converted(arguments or {}, self._takes), watch or _nobody)
        except RushesError as error:
            return Refusal(error=problem_of(error))
        except StoreError as error:
            _log.error("store.failed", tool=self.name, error=type(error).__name__, detail=str(error))
            billed: Billed = "unknown" if self.effect == "adds" else "no"
            return Refusal(error=problem_of(Unavailable("The log cannot be used now: try again.", billed=billed)))


def tools_of(desk: Desk, files: Sequence[str | Path] = ()) -> dict[str, Tool]:
    """Every tool over a studio, or over the client of a server, by its name.

    `files`: folders of this machine whose images, videos and sounds the model may hand in, and so send to a provider.
    """

    async def find() -> Desk:
        return desk

    return tools_at(find, files)


def tools_at(find: Find, files: Sequence[str | Path] = ()) -> dict[str, Tool]:
    """The same, where each call finds out whom to ask."""
    room = _Room(find, [Path(folder).resolve() for folder in files])
    made = (
        Tool(
            "generate_video",
            "Begin to make a video. Answers at once with a job_id, which is kept; then call wait_for_video_job. It may "
            "cost money: estimate_video_cost says how much. Give an idempotency_key, and the same one to try again.",
            room.generate,
            Generate,
            VideoJob,
            "adds",
        ),
        Tool("get_video_job", "How a job is now; with its videos, once it has succeeded.", room.get, Get, VideoJob),
        Tool(
            "wait_for_video_job",
            f"Wait until a job has ended, {LONGEST_WAIT_S:g} seconds at the most. If it has not, call this again: the "
            "job goes on either way, and waiting costs nothing.",
            room.wait,
            Wait,
            VideoJob,
        ),
        Tool(
            "cancel_video_job",
            "Ask for a stop, and see what became of it: where the provider cannot stop, the video is made and kept.",
            room.cancel,
            Cancel,
            VideoJob,
            "ends",
        ),
        Tool("list_video_jobs", "The jobs there are, the newest first.", room.jobs, JobsQuery, VideoJobs),
        Tool(
            "estimate_video_cost",
            "What generate_video would cost at the most, or why it would be refused. Sends nothing. A price that is "
            "unknown is not free.",
            room.estimate,
            Estimate,
            EstimateView,
        ),
        Tool(
            "list_video_models",
            "The models that can be used now. Name a provider or a model to see what it takes.",
            room.models,
            Models,
            VideoModels,
        ),
    )
    return {tool.name: tool for tool in made}


class _Room:
    """What the tools do."""

    def __init__(self, find: Find, folders: Sequence[Path]) -> None:
        self._find, self._folders = find, folders

    async def generate(self, asked: Generate, _: Watch) -> VideoJob:
        desk = await self._find()
        view, repeated = await desk.submit(await self._request(asked, desk), asked.idempotency_key)
        return replace(_job(view, desk), repeated=repeated)

    async def get(self, asked: Get, _: Watch) -> VideoJob:
        desk = await self._find()
        return _job(await desk.show(asked.job_id), desk)

    async def wait(self, asked: Wait, watch: Watch) -> VideoJob:
        """The job once it is at rest, or as it is when the time is up."""
        try:
            async with asyncio.timeout(asked.timeout_seconds):
                return await self._rest(asked.job_id, watch)
        except TimeoutError:
            return await self.get(Get(job_id=asked.job_id), watch)

    async def _rest(self, job_id: str, watch: Watch) -> VideoJob:
        """Every few seconds, and after every break, it is asked anew: who runs the job may be another by then."""
        while True:
            desk = await self._find()
            try:
                async with asyncio.timeout(LOOK_AGAIN_S), aclosing(desk.updates(job_id)) as views:
                    async for view in views:
                        await watch(_job(view, desk))
                        if view.ended or view.attention:
                            return _job(view, desk)
            except TimeoutError:
                continue
            except ServerTrouble:
                await asyncio.sleep(PAUSE_S)

    async def cancel(self, asked: Cancel, _: Watch) -> VideoJob:
        desk = await self._find()
        return _job(await desk.cancel(asked.job_id, discard=asked.discard), desk)

    async def jobs(self, asked: JobsQuery, _: Watch) -> VideoJobs:
        desk = await self._find()
        page = await desk.jobs(**msgspec.structs.asdict(asked))
        jobs = [_job(view, desk) for view in page.jobs]
        return VideoJobs(jobs=jobs, next=page.next, unreadable=page.unreadable, stale=page.stale)

    async def estimate(self, asked: Estimate, _: Watch) -> EstimateView:
        desk = await self._find()
        return await desk.estimate(await self._request(asked, desk))

    async def _request(self, asked: Estimate, desk: Desk) -> VideoRequest:
        """The request, its files handed in behind its other inputs. The same file is the same upload."""
        fields = {name: getattr(asked, name) for name in VideoRequest.__struct_fields__}
        paths = [self._allowed(f"files[{number}].path", given.path) for number, given in enumerate(asked.files)]
        kept = [(await desk.upload(_pieces(path))).id for path in paths]
        both = zip(asked.files, kept, strict=True)
        handed = [MediaInput(type=given.type, role=given.role, upload=upload) for given, upload in both]
        return replace(VideoRequest(**fields), inputs=(*asked.inputs, *handed))

    def _allowed(self, field: str, named: str) -> Path:
        """A file that may be handed in, wherever a link to it stands. Raises BadRequest."""
        path = Path(named).expanduser().resolve()
        if not any(path.is_relative_to(folder) for folder in self._folders):
            known = ", ".join(map(str, self._folders)) or "none: `rushes mcp --files DIR` allows one"
            raise bad(field, f"{named!r} is in no folder that the user has allowed ({known}).")
        if not (path.is_file() and os.access(path, os.R_OK)):
            raise bad(field, f"There is no file {named!r} that can be read.")
        return path

    async def models(self, asked: Models, _: Watch) -> VideoModels:
        every = await (await self._find()).providers()
        named = [one for one in every if asked.provider in {None, one.name, *one.aliases}]
        meant = [(one, model) for one in named for model in one.models if _is_meant(asked, one, model)]
        if not meant and (asked.provider or asked.model or asked.operation):
            raise _no_model(asked, every)
        shown = asked.provider or asked.model
        return VideoModels(
            models=[_model(one, model, limits=bool(shown)) for one, model in meant if one.configured or shown],
            not_ready={one.name: one.reason for one in named if not one.configured},
        )


async def _nobody(_: VideoJob) -> None:
    """Nobody watches."""


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


def _converted(arguments: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(arguments, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadRequest([fault_of(error, kind)]) from error


# ── showing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _job(view: JobView, desk: Desk) -> VideoJob:
    return VideoJob(
        job_id=view.id,
        status=view.status,
        phase=view.phase,
        progress=view.progress,
        eta_seconds=view.eta_seconds,
        next=_next(view),
        model=f"{view.provider}/{view.model}",
        operation=view.operation,
        prompt=view.prompt,
        created_at=view.created_at,
        billed=view.billed,
        cost=view.cost,
        error=view.error,
        note=view.note,
        metadata=view.metadata,
        videos=[_video(take, desk) for take in view.takes],
    )


def _next(view: JobView) -> str:
    match view.status:
        case "succeeded":
            return "It is done: each of the videos is at its uri."
        case "failed":
            return "It has failed, and `error` says why. generate_video begins another job, which is paid anew."
        case "cancelled":
            return "It is cancelled, and nothing more happens."
        case _ if view.attention:
            return f"Ask the user to decide, with the command `rushes`. {view.attention}"
        case _:
            return "It goes on by itself: call wait_for_video_job."


def _video(take: TakeView, desk: Desk) -> Video:
    return Video(
        kind=take.kind,
        uri=_uri(take, desk),
        media_type=take.media_type,
        size_bytes=take.size_bytes,
        width=take.width,
        height=take.height,
        duration_seconds=take.duration_seconds,
        fps=take.fps,
        has_audio=take.has_audio,
    )


def _uri(take: TakeView, desk: Desk) -> str:
    """The file, where it is on this machine: a server elsewhere has no say about files here."""
    file = Path(take.path)
    if isinstance(desk, Client):
        host = urlsplit(desk.url).hostname or ""
        if not (is_loopback(host) and file.is_file()):
            return f"{desk.url}{take.url}"
    return file.as_uri()


def _is_meant(asked: Models, provider: ProviderView, model: ModelView) -> bool:
    names = {model.id, *model.aliases}
    return asked.model in {None, *names, *(f"{provider.name}/{name}" for name in names)} and (
        asked.operation is None or any(asked.operation in row.operations for row in model.limits)
    )


def _no_model(asked: Models, every: Sequence[ProviderView]) -> BadRequest:
    """Why nothing was found: the first of the words that is known nowhere, or all of them together."""
    known = [name for one in every for name in (one.name, *one.aliases)]
    if asked.provider is not None and asked.provider not in known:
        return bad("provider", f"There is no provider {asked.provider!r}. Known: {', '.join(known)}.")
    if asked.operation is not None and asked.operation not in OPERATIONS.values():
        return bad("operation", f"There is no operation {asked.operation!r}: {', '.join(OPERATIONS.values())}.")
    field = "model" if asked.model else "operation"
    return bad(field, "There is no such model: ask again with less, or with nothing, to see what there is.")


def _model(provider: ProviderView, model: ModelView, *, limits: bool) -> VideoModel:
    return VideoModel(
        model=f"{provider.name}/{model.id}",
        operations=list(dict.fromkeys(name for row in model.limits for name in row.operations)),
        free=model.free,
        price=model.price,
        limits=model.limits if limits else [],
    )


def schema_of(kind: type[Struct]) -> dict[str, Any]:
    """The JSON Schema of a struct, with an object at its root."""
    (root,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    made: dict[str, Any] = parts.pop(root["$ref"].rpartition("/")[2])
    return {**made, "$defs": parts} if parts else made


def _told(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, with a word on every field."""
    fields = {name: {"description": TOLD.get(name, ""), **field} for name, field in schema["properties"].items()}
    return {**schema, "properties": fields}
