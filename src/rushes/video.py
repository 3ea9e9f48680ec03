"""The language of requests and results: what a caller asks for, what a job stores, what everybody is shown. Pure.

msgspec checks types and ranges when it *decodes*; constructors check nothing. So every door (HTTP, Python, shell)
passes what it got through `checked`, and nothing behind the doors checks again.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias, TypedDict, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from rushes.faults import BadRequest, Fault, bad
from rushes.units import AssetRef, Billed, Handle, Money, Private

JSON: TypeAlias = str | int | float | bool | None | list[Any] | dict[str, Any]


class TextToVideo(Struct, frozen=True, gc=False, tag_field="type", tag="text-to-video"):
    """A clip from words alone."""


class ImageToVideo(Struct, frozen=True, gc=False, tag_field="type", tag="image-to-video"):
    """A clip that starts from an image, and may end at another."""


class MultiImage(Struct, frozen=True, gc=False, tag_field="type", tag="multi-image"):
    """A clip that borrows from images: who is in it, how it looks, how it is composed. None is a frame of it."""


class VideoToVideo(Struct, frozen=True, gc=False, tag_field="type", tag="video-to-video"):
    """A clip made over, or made after other clips."""


class Extend(Struct, frozen=True, gc=False, tag_field="type", tag="extend"):
    """A clip that goes on where another ends. `duration_seconds` is what is added."""


class Upscale(Struct, frozen=True, gc=False, tag_field="type", tag="upscale"):
    """The same clip with more pixels."""


class CharacterPerformance(Struct, frozen=True, gc=False, tag_field="type", tag="character-performance"):
    """A character, from an image or a clip, that does what somebody does in another clip."""


class LipSync(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type", tag="lip-sync"):
    """The same clip with other words on its lips: those of an input in the role narration, or `text` in a `voice`."""

    text: Private[Annotated[str, Meta(max_length=20_000)]] = ""
    voice: Annotated[str, Meta(max_length=200)] = ""  # the provider's own name for it


class Effect(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type", tag="effect"):
    """What a provider has prepared, done to the images in the role first_frame: to one, or between two."""

    scene: Annotated[str, Meta(max_length=200)] = ""  # the provider's own name for it; always needed


Operation: TypeAlias = (
    TextToVideo | ImageToVideo | MultiImage | VideoToVideo | Extend | Upscale | CharacterPerformance | LipSync | Effect
)
"""What is made. Avatars and templates join it with the first provider here that has them."""
OPERATIONS: Final[dict[type[Operation], str]] = {
    TextToVideo: "text-to-video",
    ImageToVideo: "image-to-video",
    MultiImage: "multi-image",
    VideoToVideo: "video-to-video",
    Extend: "extend",
    Upscale: "upscale",
    CharacterPerformance: "character-performance",
    LipSync: "lip-sync",
    Effect: "effect",
}

Kind: TypeAlias = Literal["image", "video", "audio"]
Role: TypeAlias = Literal[
    "first_frame",
    "last_frame",
    "general",  # an image without a say in it: each model knows where it belongs
    "style",
    "character",
    "composition",
    "source",  # the clip to make over, to extend, to upscale or to give other words
    "reference_video",  # a clip to borrow from
    "performance",  # a clip whose movements are copied
    "narration",  # what is said in the clip
    "reference_audio",  # a voice or a sound to borrow
]
ROLES: Final[dict[Kind, tuple[Role, ...]]] = {  # the first is the one that is meant where none is given
    "image": ("first_frame", "last_frame", "general", "style", "character", "composition"),
    "video": ("source", "reference_video", "performance"),
    "audio": ("narration", "reference_audio"),
}
KINDS: Final[dict[str, Kind]] = {role: kind for kind, roles in ROLES.items() for role in roles}
REFERENCES: Final = frozenset[Role]({"style", "character", "composition"})
Emulation: TypeAlias = Literal["negative_prompt"]
"""What may be done another way where a model cannot do it, once a request names it, because it changes the request:
negative_prompt is told in the prompt."""


class MediaInput(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A file that a caller hands in: exactly one of `url`, `upload` and `job`."""

    type: Kind = "image"
    role: Role | None = None  # first_frame of an image, source of a video, narration of an audio
    url: Private[Annotated[str, Meta(max_length=14_000_000)]] | None = None  # https, or data: up to 10 MiB
    upload: Annotated[str, Meta(max_length=100)] | None = None  # an id that POST /v1/uploads gave
    job: Annotated[str, Meta(max_length=100)] | None = None  # one of the caller's own that succeeded: its take
    take: Annotated[int, Meta(ge=0, le=1000)] = 0  # which take of `job`


class Made(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Where a take that is used as an input came from: some providers take their own clips by name alone."""

    job: str
    provider: str
    handle: Handle
    take: int = 0


class Input(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """The same file once it is ours: fetched, looked at, kept."""

    type: Kind = "image"
    role: Role = "first_frame"
    asset: AssetRef
    duration_seconds: float | None = None  # of a video or an audio, where it (or somebody here) can say
    width: int | None = None  # this and the next of an image, in pixels, where somebody here can say
    height: int | None = None
    made: Made | None = None


class Config(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """How the clip should be. Every field is optional; one that the model cannot honour is refused, never dropped."""

    negative_prompt: Private[Annotated[str, Meta(max_length=20_000)]] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    scheduler: Annotated[str, Meta(max_length=200)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=1000)] | None = None
    aspect_ratio: Annotated[str, Meta(max_length=20)] | None = None  # square, portrait, landscape, cinema, or w:h
    duration_seconds: Annotated[float, Meta(gt=0, le=36_000)] | None = None
    resolution: Annotated[str, Meta(max_length=20)] | None = None  # sd, hd, fhd, uhd, 480p … 4k, or w×h
    fps: Annotated[float, Meta(gt=0, le=240)] | None = None
    generate_audio: bool | None = None
    enhance_prompt: bool | None = None
    character_strength: Annotated[float, Meta(ge=0, le=1)] | None = None  # of the inputs with the role character
    style_strength: Annotated[float, Meta(ge=0, le=1)] | None = None  # of the inputs with the role style
    provider_options: dict[str, JSON] = {}


class VideoRequest(Config, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What a caller asks for."""

    prompt: Private[Annotated[str, Meta(max_length=20_000)]] = ""
    model: Annotated[str, Meta(max_length=300)] | None = None  # local, replicate/prunaai/p-video, prunaai/p-video
    operation: Operation | None = None  # inferred from the inputs when absent
    inputs: Annotated[tuple[MediaInput, ...], Meta(max_length=50)] = ()
    customer_id: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None  # a label inside the caller's tenant
    emulate: Annotated[tuple[Emulation, ...], Meta(max_length=10)] = ()
    """What may be done another way where the model cannot do it as asked; the job's metadata says what was."""
    at_least_once: Annotated[int, Meta(ge=0, le=3)] = 0
    """How often it may be sent anew, and so be billed once more, while nobody knows what became of an earlier send."""


MAX_KEY: Final = 255  # characters of an idempotency key
MAX_BATCH: Final = 100  # requests


class BatchedRequest(VideoRequest, frozen=True, kw_only=True):
    """One of the requests of a batch."""

    idempotency_key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)] | None = None  # None: made from the batch's

    @property
    def plain(self) -> VideoRequest:
        """The same without its key."""
        return VideoRequest(**{name: getattr(self, name) for name in VideoRequest.__struct_fields__})


class Batch(Struct, frozen=True, gc=False, kw_only=True):
    """The place of a job among requests that were handed in together."""

    id: str
    index: int  # from 0
    size: int


class Fields(TypedDict, total=False):
    """The fields of a VideoRequest beside its prompt, as keyword arguments."""

    model: str | None
    operation: Operation | None
    inputs: tuple[MediaInput, ...]
    customer_id: int | None
    emulate: tuple[Emulation, ...]
    at_least_once: int
    negative_prompt: str | None
    seed: int | None
    scheduler: str | None
    guidance_scale: float | None
    aspect_ratio: str | None
    duration_seconds: float | None
    resolution: str | None
    fps: float | None
    generate_audio: bool | None
    enhance_prompt: bool | None
    character_strength: float | None
    style_strength: float | None
    provider_options: dict[str, JSON]


class VideoSpec(Config, frozen=True, omit_defaults=True, kw_only=True):
    """What a job stores: the request with its operation decided, its media ours and its seed drawn."""

    prompt: Private[str] = ""
    operation: Operation
    inputs: tuple[Input, ...] = ()
    customer_id: int = 0
    emulated: tuple[str, ...] = ()  # what is done another way than it was asked for, and how


class Target(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Where an attempt goes: belongs to the attempt, so that a fallback changes it and nothing else does."""

    provider: str
    model: str  # the provider's own id
    credential: str = ""  # alias: the environment variable's name; the value is never stored
    fingerprint: str = ""  # first 8 hex digits of the value's sha256
    price: Money | None = None  # the worst case of one send, None when no dated price is known


class Probe(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What a video file says of itself; None where it (or nobody here) can say."""

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    duration_seconds: float | None = None
    has_audio: bool | None = None


TakeKind = Literal["video", "thumbnail", "spritesheet"]
"""What a provider made: the video, or a picture beside it (one of its frames, or many of them in rows)."""


def ending_of(media_type: str) -> str:
    """How a take's file name ends: a picture's as its media type says; all else is called mp4."""
    found = re.fullmatch(r"image/([a-z]{1,8})", media_type)
    return found[1].replace("jpeg", "jpg") if found else "mp4"


class Take(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """One result that we keep. A job's videos come before the pictures beside them."""

    index: int
    kind: TakeKind = "video"
    asset: AssetRef
    probe: Probe = Probe()


Status: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
ENDED: Final = frozenset[str]({"succeeded", "failed", "cancelled"})


class TakeView(Struct, frozen=True, kw_only=True):
    """One take as callers see it. `url` is a path below the server's address, `path` a file on its machine."""

    index: int
    kind: TakeKind
    url: str
    path: str
    media_type: str
    size_bytes: int
    sha256: str
    width: int | None
    height: int | None
    fps: float | None
    duration_seconds: float | None
    has_audio: bool | None


class FaultView(Struct, frozen=True, kw_only=True):
    """Why a job ended, or waits for a person."""

    code: str
    detail: str
    field: str = ""


class JobView(Struct, frozen=True, kw_only=True):
    """A job as every door shows it. Times are RFC 3339 in JSON."""

    id: str
    status: Status
    phase: str  # the finer word: queued, submitting, in_doubt, running, storing, parked, succeeded, failed, cancelled
    version: int  # of the stream: how many events made this state
    operation: str
    provider: str
    model: str
    prompt: str
    request: VideoSpec
    created_at: datetime
    updated_at: datetime
    attempt: int
    progress: int | None  # percent, where the provider says
    eta_seconds: float | None  # a straight-line guess from the progress so far
    cancel_requested: bool
    attention: str  # not empty: a person should look, and why
    note: str  # not empty: why it waits, though nobody need look
    billed: Billed
    cost: Money | None
    error: FaultView | None
    takes: list[TakeView]
    missing: int  # takes that were made and could not be fetched
    age_seconds: float  # since we last heard of it from the provider, or since its last event
    parent: str = ""  # the job that this one retries
    metadata: dict[str, str] = {}  # what the provider told beside the clip, and what was done another way than asked
    batch: Batch | None = None
    estimate: Money | None = None  # what one send costs at the most; None: no dated price is known
    hidden: bool = False  # it was deleted from the list at /v1/videos; here it stays

    def take(self, index: int) -> TakeView | None:
        """That of an index, None where there is none: one before it may be missing."""
        return next((take for take in self.takes if take.index == index), None)

    @property
    def ended(self) -> bool:
        """True when nothing more will happen by itself or by command."""
        return self.status in ENDED


UNREADABLE: Final = "unreadable"  # the phase of a job that this release cannot read


ListPlace: TypeAlias = tuple[float, int]
"""A job's place in a list: the time it is ordered by, and its stream."""


class JobsQuery(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which jobs a list shows, and in what order. All that is given must hold of a job."""

    status: Status | None = None
    phase: str | None = None  # parked: what waits for a person
    billed: Billed | None = None
    provider: str | None = None
    model: str | None = None  # with or without its provider in front
    operation: str | None = None
    customer_id: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None  # 0: jobs without one
    batch: str | None = None  # the id of a batch
    created_after: Annotated[datetime, Meta(tz=True)] | None = None
    created_before: Annotated[datetime, Meta(tz=True)] | None = None
    sort: Literal["created", "updated"] = "created"
    order: Literal["desc", "asc"] = "desc"  # desc: the newest, or the latest changed, first
    limit: Annotated[int, Meta(ge=1, le=200)] = 20
    after: str | None = None  # the list goes on there: `next` of the page before
    before: str | None = None  # the id of a job: those that were made before it, newest first


class JobsFields(TypedDict, total=False):
    """The fields of a JobsQuery, as keyword arguments."""

    status: Status | None
    phase: str | None
    billed: Billed | None
    provider: str | None
    model: str | None
    operation: str | None
    customer_id: int | None
    batch: str | None
    created_after: datetime | None
    created_before: datetime | None
    sort: Literal["created", "updated"]
    order: Literal["desc", "asc"]
    limit: int
    after: str | None
    before: str | None


class Page(Struct, frozen=True, kw_only=True):
    """Some jobs, as they are now. A page may have fewer than its limit and still have more behind it."""

    jobs: list[JobView]
    has_more: bool
    next: str | None = None  # ask again with it as `after`; None: there are no more
    unreadable: list[str] = []  # ids in this stretch that cannot be read, whether or not they would be right
    stale: bool = False  # what happened in the last moments may be missing: ask again


class BatchView(Struct, frozen=True, kw_only=True):
    """How the jobs of a batch are. It has ended when all of them have."""

    kind: Literal["batch"] = field(default="batch", name="object")
    id: str
    size: int  # how many requests were handed in
    jobs: list[str]  # their ids, in the order of the requests
    counts: dict[Status, int]
    absent: int  # requests without a job that can be read: not begun (send the batch again), or damaged
    ended: bool
    stale: bool = False  # what happened in the last moments may be missing: ask again


class LaneView(Struct, frozen=True, kw_only=True):
    """What goes to one provider under one credential, since this process began."""

    credential: str  # its name, never its value; empty where none is needed
    open: bool
    closed_until: datetime | None = None  # nothing is asked before then, where it is closed
    closed_by: str = ""  # why it was closed the last time: the code of an error
    sending: int  # submits under way
    waiting: int  # jobs that wait to be submitted
    calling: int  # polls, look-ups, cancels and uploads under way
    fetching: int  # takes under way
    jobs: int  # unfinished, as far as they have been taken up
    ended: int
    polls: int
    polls_per_job: float | None  # of those that ended; None where none has


class RetirementView(Struct, frozen=True, kw_only=True):
    """A model that its provider has switched off, or will."""

    model: str
    on: str  # YYYY-MM-DD
    replacement: str  # another model's id; empty: there is none


class PriceView(Struct, frozen=True, kw_only=True):
    """What one second, or one clip, costs at the most and at the least."""

    per: str  # second, clip
    most_micro_usd: int
    least_micro_usd: int
    source: str
    as_of: str


class LimitsView(Struct, frozen=True, kw_only=True):
    """What a model takes, for these of its operations. An empty list: the field is not for it."""

    operations: list[str]
    durations_seconds: list[float]
    aspect_ratios: list[str]
    resolutions: list[str]
    fps: list[float]
    inputs: dict[str, int]  # how many of each role
    max_inputs: int | None  # of all roles together
    fields: list[str]  # other fields of a request that it honours
    options: list[str]  # its provider_options
    prompt: str  # required, optional, none
    max_prompt_chars: int | None
    defaults: dict[str, Any]


class ModelView(Struct, frozen=True, kw_only=True):
    """One model as callers choose it."""

    id: str
    aliases: list[str]
    limits: list[LimitsView]
    price: PriceView | None  # None: unknown, which is not free
    free: bool


class OfferedModel(ModelView, frozen=True, kw_only=True):
    """The same as an entry of the list of all models. Here `id` is provider/model, as a request says it."""

    kind: Literal["model"] = field(default="model", name="object")
    owned_by: str  # the provider
    configured: bool  # it can be used now
    reason: str  # why not, and what to do


class ProviderView(Struct, frozen=True, kw_only=True):
    """One provider: its models, and its lanes. Lanes appear with their first job, and only where the jobs are run."""

    name: str
    aliases: list[str]
    configured: bool  # it can be used now
    reason: str  # why not, and what to do
    keys: list[str]  # the variables that its key can come from: the first one that is set
    credential: str  # the one that it comes from; empty where none is needed or none is set
    in_doubt: str  # A to E: what can be learned about a plain request, sent from here, whose answer was lost
    cancel: str  # no, stops, destroys
    models: list[ModelView]  # one that makes a clip from words comes first, where there is one
    retired: list[RetirementView]
    lanes: list[LaneView]


class EstimateView(Struct, frozen=True, kw_only=True):
    """What a request would cost, and how it would be asked for. Nothing was sent."""

    provider: str
    model: str
    operation: str
    price: Literal["free", "known", "unknown"]  # unknown: no dated price is known here, which is not free
    cost: Money | None  # of one send, at the most; None where it is unknown
    sends: int  # how often it may be sent, and so be paid, at the most
    request: VideoSpec  # with everything that was left to us


class UploadView(Struct, frozen=True, kw_only=True):
    """A file that was handed in; requests name it by `id`."""

    id: str
    media_type: str
    size_bytes: int
    sha256: str


class EventView(Struct, frozen=True, kw_only=True):
    """One event of the log as callers see it. `data` is the stored payload, spliced in as it is."""

    position: int
    job_id: str
    version: int
    type: str
    at: datetime
    data: msgspec.Raw
    traceparent: str | UnsetType = UNSET  # of the request that began the job, where that had one (W3C trace context)


_S = TypeVar("_S", bound=Struct)
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>.*?)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`")


def fault_of(error: Exception, kind: type[Struct]) -> Fault:
    """Msgspec's complaint as a sentence that names the field and the way out."""
    match = _WHERE.match(str(error))
    what, where = (match["what"], match["where"] or "") if match else (str(error), "")
    if unknown := _UNKNOWN.search(what):
        field = f"{where}.{unknown['name']}".lstrip(".")
        known = f" The fields here are: {', '.join(sorted(kind.__struct_encode_fields__))}." if not where else ""
        return Fault("invalid_input", f"There is no field {field!r}.{known}", field=field)
    if missing := _MISSING.search(what):
        field = f"{where}.{missing['name']}".lstrip(".")
        return Fault("invalid_input", f"The field {field!r} is missing.", field=field)
    if isinstance(error, msgspec.ValidationError):
        subject = f"The field {where!r} has a wrong value" if where else "The request has a wrong shape"
        return Fault("invalid_input", f"{subject}: {what[:1].lower() + what[1:]}.".replace("..", "."), field=where)
    return Fault("invalid_input", f"The body is not valid JSON: {what}.")


def decode(body: bytes, kind: type[_S]) -> _S:
    """Decode what came from outside, or raise BadRequest naming the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest([fault_of(error, kind)]) from error


def retyped(given: _S) -> _S:
    """The same struct once its types and ranges were looked at, or BadRequest naming the field."""
    try:
        return msgspec.convert(msgspec.to_builtins(given), type(given))
    except (msgspec.ValidationError, TypeError) as error:
        raise BadRequest([fault_of(error, type(given))]) from error


def checked(request: VideoRequest) -> VideoRequest:
    """The same request once its types and ranges were looked at, or BadRequest naming the field."""
    request = retyped(request)
    for number, given in enumerate(request.inputs):
        where = f"inputs[{number}]"
        if (given.url is not None) + (given.upload is not None) + (given.job is not None) != 1:
            raise bad(where, f"{where} needs exactly one of 'url', 'upload' and 'job'.")
        if given.take and given.job is None:
            raise bad(f"{where}.take", f"{where}.take says which take of a job: give 'job' too, or leave it out.")
        if given.role is not None and given.role not in ROLES[given.type]:
            known = ", ".join(ROLES[given.type])
            raise bad(f"{where}.role", f"{where} is of the type {given.type}, whose roles are {known}.")
    if not request.prompt.strip() and not request.inputs:
        raise bad("prompt", "The prompt is empty: say what the video should show.")
    return request


def jobs_query(fields: JobsFields) -> JobsQuery:
    """The query of these keyword arguments, or BadRequest naming the one that is unknown or wrong."""
    if unknown := sorted(set(fields) - set(JobsQuery.__struct_fields__)):
        known = ", ".join(sorted(JobsQuery.__struct_fields__))
        raise bad(unknown[0], f"There is no field {unknown[0]!r}. The fields are: {known}.")
    return retyped(JobsQuery(**fields))


def role_of(given: MediaInput) -> Role:
    """The role that a file was given, or the usual one of its type."""
    return given.role or ROLES[given.type][0]


def implied_by(roles: Collection[Role]) -> Operation:
    """The operation that inputs in these roles mean where none is named."""
    if "performance" in roles:
        return CharacterPerformance()
    if set(roles) == {"source", "narration"}:
        return LipSync()
    if "source" in roles or "reference_video" in roles:
        return VideoToVideo()
    if "first_frame" in roles or "last_frame" in roles:
        return ImageToVideo()
    return MultiImage() if REFERENCES & set(roles) else TextToVideo()


def _check_words(asked: LipSync, roles: Collection[Role]) -> None:
    if bool(asked.text.strip()) == ("narration" in roles):
        detail = "The operation 'lip-sync' needs either 'text' or an audio in the role 'narration': give one of them."
        raise bad("operation.text", detail)
    if bool(asked.text) != bool(asked.voice):
        raise bad("operation.voice", "'text' and 'voice' of a lip-sync go together: give both or neither.")


def _check_scene(asked: Effect, roles: Collection[Role]) -> None:
    if not asked.scene:
        raise bad("operation.scene", "The operation 'effect' needs a scene: say which effect.")
    if set(roles) != {"first_frame"}:
        raise bad("inputs", "The operation 'effect' needs images in the role 'first_frame', and nothing else.")


def operation_of(asked: Operation | None, roles: Collection[Role]) -> Operation:
    """What the inputs imply, or the operation asked for once it agrees with them. Raises BadRequest."""
    implied = implied_by(roles)
    if asked is None or asked == implied:
        return implied
    name, found = OPERATIONS[type(asked)], OPERATIONS[type(implied)]
    if isinstance(asked, Extend | Upscale | LipSync):
        if "source" not in roles:
            raise bad("inputs", f"The operation {name!r} needs a video: give an input in the role 'source'.")
        if isinstance(asked, LipSync):
            _check_words(asked, roles)
        return asked
    if isinstance(asked, Effect):
        _check_scene(asked, roles)
        return asked
    if isinstance(asked, VideoToVideo) and isinstance(implied, LipSync):
        return asked
    detail = f"The operation is {name!r}, but the inputs make it {found!r}: leave it out, or give them other roles."
    raise bad("operation", detail)
