"""The endpoints of two older services, for programs that were written for them: `/video/…` and `/api/v1/videos/…`.

Their answers are synchronous: the job is begun, and waited for. Hanging up cancels nothing, nor does a wait that
was too short: the answer names the job, which goes on. A take is kept whatever the answer carries.

What a caller writes is asked for as it is, but for one wish: `enhance_prompt` has always been on at these addresses, so
it is honoured where the model can, and the answer says whether it was. The same holds for the defaults of the length
and the shape, which nobody wrote: where no model takes them, its own stand in their place.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from rushes.adapters.families import DEFAULT, FAMILIES, family_of
from rushes.api.auth import tenant_of
from rushes.api.protocol import Refused, Strict
from rushes.api.rest import answer, idempotency_key, query
from rushes.faults import RushesError
from rushes.studio import Studio, failure
from rushes.video import (
    BatchedRequest,
    Extend,
    JobView,
    LimitsView,
    MediaInput,
    ModelView,
    ProviderView,
    TakeView,
    VideoRequest,
    checked,
    decode,
)

MAX_INLINE_BYTES: Final = 32 * 2**20  # of a take in an answer
USUAL: Final[dict[str, Any]] = {"duration_seconds": 5, "aspect_ratio": "9:16"}  # where nobody says
USUAL_TIMEOUT_S: Final = 600.0
WORDS: Final = ("duration_seconds", "aspect_ratio", "fps", "resolution", "generate_audio")


# ── What is said ──────────────────────────────────────────────────────────────────────────────────────────────────────


class VideoSettings(Strict, frozen=True, kw_only=True):
    """How the clip should be. null is the same as leaving a field out."""

    model: Annotated[str, Meta(min_length=1, max_length=300)] | None = None  # veo-3.1-fast, or any name of ours
    duration_seconds: Annotated[float, Meta(gt=0, le=36_000)] | None = None  # 5
    aspect_ratio: Annotated[str, Meta(max_length=20)] | None = None  # 9:16
    enhance_prompt: bool | None = None  # true, where the model can
    number_of_videos: Annotated[int, Meta(ge=1, le=10)] | None = None  # 1; each is a job of its own, and paid
    fps: Annotated[float, Meta(gt=0, le=240)] | None = None
    resolution: Annotated[str, Meta(max_length=20)] | None = None
    generate_audio: bool | None = None
    poll_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] | None = None  # how long the answer may take: 600
    poll_interval_seconds: Annotated[float, Meta(ge=0.1, le=600)] | None = None  # how often Sora's wire is asked


class Settings(Strict, frozen=True, kw_only=True):
    """Settings of a request."""

    video: VideoSettings = VideoSettings()


Customer = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class GenerateBody(Strict, frozen=True, kw_only=True):
    """A clip from words, or from an image too."""

    prompt: Annotated[str, Meta(max_length=20_000)]
    settings: Settings = Settings()
    customer_id: Customer | None = None
    input_image_url: Annotated[str, Meta(max_length=14_000_000)] | None = None  # https, or data: up to 10 MiB
    save_to_db: bool = True  # False: the answer carries the clip itself, up to 32 MiB


class ExtendBody(Strict, frozen=True, kw_only=True):
    """A clip that goes on where another one ends."""

    video_id: Annotated[str, Meta(min_length=1, max_length=100)]  # as `generate` answered it: a job's id
    prompt: Annotated[str, Meta(max_length=20_000)] = ""
    settings: Settings = Settings()
    customer_id: Customer | None = None
    save_to_db: bool = True


class Said(Struct, frozen=True, kw_only=True):
    """How the clip was made, in the words of the request."""

    aspect_ratio: str | None
    enhance_prompt: bool


class Made(Struct, frozen=True, kw_only=True):
    """The clip. The first five fields are the older service's."""

    video_url: str  # an address of this server, or a data: address
    provider: str  # gemini, openai, klingai; others by their own names
    model: str
    duration: float | None
    settings: Said
    video_urls: list[str]
    video_id: str  # the job's
    video_ids: list[str]
    note: str  # what is otherwise than it was asked for; empty: nothing is


class MadeAnswer(Struct, frozen=True, kw_only=True):
    """What a clip is told in."""

    success: Literal[True] = True
    code: Literal[200] = 200
    data: Made


class Abilities(Struct, frozen=True, kw_only=True):
    """What a provider can do, over all its models."""

    max_duration_seconds: float | None
    max_resolution: tuple[int, int] | None  # width and height of a 16:9 clip
    supports_image_input: bool
    supported_formats: tuple[Literal["mp4"]] = ("mp4",)
    cost_per_second: float | None  # US dollars, of the dearest model whose price is known; POST /v1/estimates is exact
    image_cost_multiplier: float | None = None  # no provider has one: an image has its own price, or none
    model_versions: list[str]
    features: list[str]
    supported_resolutions: list[str]
    supported_aspect_ratios: list[str]


class ListedProvider(Struct, frozen=True, kw_only=True):
    """One provider."""

    name: str  # as answers of /video/generate call it
    type: str  # our name for it, which is unique
    available: bool  # it has models that are still there
    is_active: bool  # its key is set
    is_healthy: bool  # it is asked at the moment
    failure_count: int  # how many of its keys are not asked at the moment, because it did not answer or refused them
    capabilities: Abilities


class ProviderList(Struct, frozen=True, kw_only=True):
    """All providers."""

    providers: list[ListedProvider]


# ── The routes ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Facades:
    """All routes over one studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        return [
            web.post("/video/generate", self.generate),
            web.post("/video/extend", self.extend),
            web.get("/api/v1/videos/providers", self.providers),
        ]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Make a clip, and answer when it is there."""
        query(request, Strict)
        body = decode(await request.read(), GenerateBody)
        asked = body.settings.video
        image = () if body.input_image_url is None else (MediaInput(url=body.input_image_url),)
        plain = VideoRequest(prompt=body.prompt, customer_id=body.customer_id, inputs=image)
        _refuse_empty(plain)
        wanted = self._chosen(plain, asked, asked.model or DEFAULT)
        return await self._made(request, wanted, asked, save=body.save_to_db)

    async def extend(self, request: web.Request) -> web.StreamResponse:
        """Go on with a clip of ours, and answer when the longer one is there."""
        query(request, Strict)
        body = decode(await request.read(), ExtendBody)
        asked = body.settings.video
        view = await self._studio.show(body.video_id, tenant_of(request))
        source = MediaInput(type="video", job=view.id)
        plain = VideoRequest(
            prompt=body.prompt, customer_id=body.customer_id, inputs=(source,), operation=Extend(), **_explicit(asked)
        )
        model = asked.model or f"{view.provider}/{view.model}"
        wanted = self._on(_with_interval(plain, asked, model), model)
        return await self._made(request, wanted, asked, save=body.save_to_db)

    async def providers(self, request: web.Request) -> web.StreamResponse:
        """Whom a page can offer, and what each can do."""
        query(request, Strict)
        return answer(ProviderList(providers=[_listed(view) for view in await self._studio.providers()]))

    # ── choosing ──

    def _chosen(self, plain: VideoRequest, asked: VideoSettings, model: str) -> VideoRequest:
        """The request on a model that takes it: with the usual wishes where one does, else without them.

        Raises:
            BadRequest: none takes even what was written.
        """
        refusal: RushesError | None = None
        for wishes in _wishes(asked):
            try:
                return self._on(_with_interval(replace(plain, **wishes), asked, model), model)
            except RushesError as error:
                refusal = error
        assert refusal is not None
        raise refusal

    def _on(self, wanted: VideoRequest, model: str) -> VideoRequest:
        """The request on the model of a name, or on the first of the family that the name stands for."""
        if "/" not in model and family_of(model) is not None:
            return replace(wanted, model=self._studio.pick(wanted, model))
        wanted = replace(wanted, model=model)
        self._studio.check(wanted)
        return wanted

    # ── making ──

    async def _made(
        self, request: web.Request, wanted: VideoRequest, asked: VideoSettings, *, save: bool
    ) -> web.StreamResponse:
        names = await self._begun(request, wanted, asked.number_of_videos or 1)
        views = await self._waited(names, asked.poll_timeout_seconds or USUAL_TIMEOUT_S, tenant_of(request))
        good = [view for view in views if view.takes]
        if not good:
            raise failure(views[0])
        notes = [*_notes(asked, wanted, good[0])]
        if len(good) < len(views):
            lost = [view for view in views if not view.takes]
            notes.append(f"{len(lost)} of {len(views)} have no clip ({', '.join(view.id for view in lost)})")
        urls: list[str] = []
        for view in good:
            for take in (one for one in view.takes if one.kind == "video"):
                url, note = await _told(request, take, save=save)
                urls.append(url)
                notes += [note] if note else []
        first = good[0]
        made = Made(
            video_url=urls[0],
            provider=_word(first.provider, first.model),
            model=first.model,
            duration=first.takes[0].duration_seconds or first.request.duration_seconds,
            settings=Said(aspect_ratio=first.request.aspect_ratio, enhance_prompt=first.request.enhance_prompt is True),
            video_urls=urls,
            video_id=first.id,
            video_ids=[view.id for view in views],
            note="; ".join(notes),
        )
        return answer(MadeAnswer(data=made))

    async def _begun(self, request: web.Request, wanted: VideoRequest, count: int) -> list[str]:
        """The jobs, which are durable now."""
        key, tenant = idempotency_key(request), tenant_of(request)
        if count == 1:
            view, _ = await self._studio.submit(wanted, key, tenant)
            return [view.id]
        batch, _ = await self._studio.submit_batch([BatchedRequest(**asdict(wanted))] * count, key, tenant)
        return batch.jobs

    async def _waited(self, names: Sequence[str], timeout_s: float, tenant: str) -> list[JobView]:
        """The jobs once all have ended, or wait for a person. Raises Refused where that takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                return [await self._studio.settled(name, tenant) for name in names]
        except TimeoutError:
            views = [await self._studio.show(name, tenant) for name in names]
        late = next((view for view in views if not view.ended), views[0])
        detail = f"The clip is not there after {timeout_s:g} s, and goes on being made: ask GET /v1/jobs/{late.id}."
        raise Refused(502, "timed_out", detail, job_id=late.id, billed=late.billed)


def _refuse_empty(wanted: VideoRequest) -> None:
    """An image without a word is no request here. Raises BadRequest."""
    checked(replace(wanted, inputs=()))


def _explicit(asked: VideoSettings) -> dict[str, Any]:
    """What the caller wrote of the clip itself."""
    return {name: value for name in WORDS if (value := getattr(asked, name)) is not None}


def _wishes(asked: VideoSettings) -> Iterator[dict[str, Any]]:
    """What to ask for, the most first."""
    written = _explicit(asked)
    enhance = {"enhance_prompt": True if asked.enhance_prompt is None else asked.enhance_prompt}
    for usual in (USUAL | written, written):
        yield usual | enhance
        yield usual


def _with_interval(wanted: VideoRequest, asked: VideoSettings, model: str) -> VideoRequest:
    """How often to ask is a wish that Sora's wire alone takes; the others are asked as their pages advise."""
    family = family_of(model)
    if asked.poll_interval_seconds is None or family is None or family.name != "openai":
        return wanted
    return replace(wanted, provider_options={"poll_interval_seconds": asked.poll_interval_seconds})


# ── Telling ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _word(provider: str, model: str) -> str:
    """A provider as the older service called it."""
    name = f"{provider}/{model}"
    return next((family.name for family in FAMILIES if name.startswith(family.among)), provider)


def _notes(asked: VideoSettings, wanted: VideoRequest, view: JobView) -> Iterator[str]:
    """What is otherwise than it was asked for, or than it is by default."""
    name = asked.model or DEFAULT
    made_by = f"{view.provider}/{view.model}"
    if name not in {view.provider, view.model, made_by}:
        yield f"{name} stands for {made_by}"
    if asked.enhance_prompt is not False and wanted.enhance_prompt is None:
        yield "the prompt was not enhanced: this model cannot"
    for field, usual in USUAL.items():
        if getattr(asked, field) is None and getattr(wanted, field) is None and wanted.operation is None:
            yield f"{field} is the model's own, and not {usual}"


async def _told(request: web.Request, take: TakeView, *, save: bool) -> tuple[str, str]:
    """A take's address, or its bytes as one; and a note where it was to be the other."""
    url = f"{request.scheme}://{request.host}{take.url}"
    if save:
        return url, ""
    if take.size_bytes > MAX_INLINE_BYTES:
        return url, f"the clip is larger than {MAX_INLINE_BYTES} bytes: its address stands in its place"
    content = await asyncio.to_thread(Path(take.path).read_bytes)
    return f"data:{take.media_type};base64,{base64.b64encode(content).decode()}", ""


def _listed(view: ProviderView) -> ListedProvider:
    closed = sum(not lane.open for lane in view.lanes)
    first = view.models[0].id if view.models else ""
    return ListedProvider(
        name=_word(view.name, first),
        type=view.name,
        available=bool(view.models),
        is_active=view.configured,
        is_healthy=not closed,
        failure_count=closed,
        capabilities=_abilities(view.models),
    )


def _abilities(models: Sequence[ModelView]) -> Abilities:
    limits = [limit for model in models for limit in model.limits]
    prices = [0 if model.free else _second_micro_usd(model) for model in models]
    known = [price for price in prices if price is not None]
    resolutions = sorted(_all(limits, "resolutions"), key=_lines)
    return Abilities(
        max_duration_seconds=max(_all(limits, "durations_seconds"), default=None),
        max_resolution=_pixels(resolutions[-1]) if resolutions else None,
        supports_image_input=any("image-to-video" in limit.operations for limit in limits),
        cost_per_second=max(known) / 1_000_000 if known else None,
        model_versions=[model.id for model in models],
        features=sorted(_all(limits, "operations")),
        supported_resolutions=resolutions,
        supported_aspect_ratios=sorted(_all(limits, "aspect_ratios")),
    )


def _second_micro_usd(model: ModelView) -> int | None:
    return model.price.most_micro_usd if model.price is not None and model.price.per == "second" else None


def _all(limits: Sequence[LimitsView], field: str) -> set[Any]:
    return {value for limit in limits for value in getattr(limit, field)}


def _lines(resolution: str) -> int:
    return int(resolution.removesuffix("p"))


def _pixels(resolution: str) -> tuple[int, int]:
    """Width and height of 16:9."""
    lines = _lines(resolution)
    return round(lines * 16 / 9 / 2) * 2, lines
