"""Runway: its own models and other houses', behind one queue of tasks.

It takes no key or id of ours, lists no tasks and calls nobody back, so a lost answer stays in doubt (class E). Tasks
beyond what an account may run at once are no error: they are taken, and wait as THROTTLED. Cancelling is deleting, and
deletes finished clips too, so a task is asked for before it is cancelled; after that it is simply not there (404).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import Failed, Flow, Inline, Output, Part, Request, Response, call, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Model, Price
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Billed, Handle, Money
from rushes.video import Config, Target, VideoSpec

VERSION: Final = {"X-Runway-Version": "2024-11-06"}  # asked for on every call
CREDIT_MICRO_USD: Final = 10_000
PRICED: Final = "2026-04-21"
RATIOS: Final = ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16")
SIZES: Final[Mapping[tuple[str, str], str]] = {  # on the wire, a size stands for lines and one of RATIOS
    (lines, ratio): size
    for lines, row in (
        ("480p", "992:432 864:496 752:560 640:640 560:752 496:864"),
        ("720p", "1470:630 1280:720 1112:834 960:960 834:1112 720:1280"),
        ("1080p", "2206:946 1920:1080 1664:1248 1440:1440 1248:1664 1080:1920"),
        ("2160p", "3840:1646 3840:2160 3840:2880 3840:3840 2880:3840 2160:3840"),
    )
    for ratio, size in zip(RATIOS, row.split(), strict=True)
}
OWN_SIZES: Final[Mapping[str, Mapping[tuple[str, str], str]]] = {  # where a model has others
    "gen4_turbo": {("720p", "21:9"): "1584:672", ("720p", "4:3"): "1104:832", ("720p", "3:4"): "832:1104"},
    "seedance2_5": {("480p", "16:9"): "854:480", ("480p", "9:16"): "480:854"},
}


def _seconds(first: int, last: int) -> tuple[float, ...]:
    return tuple(float(seconds) for seconds in range(first, last + 1))


def _per_second(most: int) -> Price:
    """Where a range of credits is listed, its upper end: sound makes the difference."""
    source = f"Runway's API reference: up to {most} credits a second, 0.01 USD each"
    return Price(per="second", micro_usd=most * CREDIT_MICRO_USD, source=source, as_of=PRICED)


# Limits are from Runway's OpenAPI document of August 2026. Narrower than there, because the data cannot say it: gen4.5
# has four more ratios from an image than from words. A guess: references are counted as text_to_video counts them, for
# image_to_video states no limit. The defaults are ours, and always sent.
_GEN4: Final = Model(
    id="gen4.5",
    operations=("text-to-video", "image-to-video"),
    durations_s=_seconds(2, 10),
    aspect_ratios=("16:9", "9:16"),
    resolutions=("720p",),
    roles={"first_frame": 1},
    fields=frozenset({"seed"}),
    options={"publicFigureThreshold": "string"},  # auto, low
    defaults=Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="720p"),
    max_seed=2**32 - 1,
    price=_per_second(12),
)
_TURBO: Final = replace(_GEN4, id="gen4_turbo", operations=("image-to-video",), aspect_ratios=RATIOS)
_VEO: Final = replace(
    _GEN4,
    id="veo3.1",
    durations_s=(4.0, 6.0, 8.0),
    resolutions=("720p", "1080p"),
    roles={"first_frame": 1, "last_frame": 1},
    fields=frozenset({"generate_audio", "negative_prompt"}),
    options={},
    defaults=Config(aspect_ratio="16:9", duration_seconds=4.0, resolution="720p", generate_audio=True),
    prompt="optional",  # with an image
    draws_seed=False,
    price=_per_second(40),
)
_SEEDANCE: Final = replace(
    _VEO,
    id="seedance2",
    durations_s=_seconds(4, 15),
    aspect_ratios=RATIOS,
    resolutions=("480p", "720p", "1080p", "2160p"),
    roles={"first_frame": 1, "last_frame": 1, "general": 9},
    fields=frozenset({"generate_audio"}),
    defaults=replace(_VEO.defaults, duration_seconds=5.0),
    price=_per_second(36),
)
_SMALL: Final = replace(_SEEDANCE, resolutions=("480p", "720p"), price=None)
MODELS: Final = (
    _GEN4,
    replace(_TURBO, prompt="optional", price=_per_second(5)),
    _VEO,
    replace(_VEO, id="veo3.1_fast", price=_per_second(15)),
    _SEEDANCE,
    replace(_SMALL, id="seedance2_fast"),
    replace(_SMALL, id="seedance2_mini"),
    replace(_SMALL, id="seedance2_5", durations_s=_seconds(4, 30), roles={**_SMALL.roles, "general": 30}),
)
TOGETHER: Final = (set[str](), {"first_frame"}, {"first_frame", "last_frame"}, {"general"})  # no last frame alone
WRONG_ROLES: Final = "runway takes a first frame, that and a last one, or images in the role 'general' alone."
POSITIONS: Final = {"first_frame": "first", "last_frame": "last"}  # an image without one is a reference
OURS: Final = {  # theirs → ours, where an error names a field
    "promptImage": "inputs",
    "promptText": "prompt",
    "ratio": "aspect_ratio",
    "duration": "duration_seconds",
}
INLINE_BYTES: Final = (5_242_880 - 64) // 4 * 3  # a data URI of an image has at most 5 242 880 characters
ID: Final = re.compile(r"[0-9A-Za-z_-]{8,64}")  # a UUID today
PRIVATE: Final = re.compile(r"\b(?:(?:https?|data|runway):\S+|key_[0-9a-f]+)")


class _Created(Struct):
    id: str  # all that a paid answer must hold: nothing else in it can make it unreadable


class _Cost(Struct):
    credits: float


class _Task(Struct):
    status: str
    progress: float | None = None  # 0..1
    output: list[str] = []
    failure: str | None = None  # words for people
    failureCode: str | None = None  # noqa: N815 - their name
    cost: _Cost | None = None  # once it has ended; older deployments leave it out


class _Upload(Struct):
    uploadUrl: str  # noqa: N815 - their name
    fields: dict[str, str]
    runwayUri: str  # noqa: N815 - their name


class _Issue(Struct):
    path: list[object] = []  # which field
    message: str = ""


class _Error(Struct):
    error: str
    issues: list[_Issue] | None = None


class Runway:
    """The developer API: text and images to video."""

    name = "runway"
    capabilities = Capabilities(
        base_url="https://api.dev.runwayml.com",
        base_url_env="RUNWAYML_BASE_URL",
        models=MODELS,
        auth=Auth(env=("RUNWAYML_API_SECRET", "RUNWAY_API_KEY")),
        docs_url="https://docs.dev.runwayml.com",
    )

    def terms(self, spec: VideoSpec, target: Target) -> base.Terms:  # noqa: ARG002
        """Polls are 5 s apart, as Runway asks for. Links live for a day at least; a throttled task may wait long."""
        poll = base.PollSchedule(min_s=5.0)
        return base.Terms(doubt="E", cancel="destroys", poll=poll, link_ttl_s=86_400.0, total_s=86_400.0)

    def prepare(self, spec: VideoSpec, target: Target) -> Flow[base.Prepared]:  # noqa: ARG002
        """Images that are too large to travel in the request are uploaded; they stay there for a day."""
        addresses: base.Prepared = {}
        for sha256, asset in {given.asset.sha256: given.asset for given in spec.inputs}.items():
            if asset.size_bytes > INLINE_BYTES:
                addresses[sha256] = yield from self._upload(asset)
        return addresses

    def _upload(self, asset: AssetRef) -> Flow[str]:
        """A place for the file, then the file itself, as a form whose last part it must be."""
        name = f"{asset.sha256[:16]}.{asset.media_type.partition('/')[2]}"
        body = {"filename": name, "type": "ephemeral"}
        reply = yield from call(Request(method="POST", url="/v1/uploads", body=body, headers=VERSION))
        place = reply_json(self, reply, _Upload)
        form = [Part(field, value) for field, value in place.fields.items()]
        form.append(Part("file", Inline(asset, "bytes"), name, asset.media_type))
        reply = yield from call(Request(method="POST", url=place.uploadUrl, body=form, timeout_s=300.0))
        if not 200 <= reply.status < 300:
            raise base.refused(self, reply)
        return place.runwayUri

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Create a task; the answer comes at once, long before the clip."""
        url = "/v1/image_to_video" if spec.inputs else "/v1/text_to_video"
        body = _body(spec, target.model, prepared)
        reply = yield from call(Request(method="POST", url=url, body=body, headers=VERSION, spends=True))
        created = reply_json(self, reply, _Created)
        if not ID.fullmatch(created.id):
            raise Failed(Fault("bad_answer", "runway took the job under an id that is none."), certain=False)
        return Handle(created.id)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Every look at a finished task brings fresh addresses. A deleted task is not there any more."""
        reply = yield from call(Request(method="GET", url=_path(handle), headers=VERSION))
        return base.Vanished() if reply.status == 404 else _outcome(reply_json(self, reply, _Task))

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """Delete the task, its clip included. Deleted before is as good."""
        reply = yield from call(Request(method="DELETE", url=_path(handle), headers=VERSION))
        if not (200 <= reply.status < 300 or reply.status == 404):
            raise base.refused(self, reply)
        return "accepted"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """Tasks are not listed, and hold nothing of ours."""
        yield from ()
        return None

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """Results lie on a delivery host; the address itself is the permission."""
        return (yield from base.keep(base.Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:
        """{"error"}, with the fields that it is about where the input was wrong."""
        try:
            problem = msgspec.json.decode(reply.body, type=_Error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        issues = [(".".join(str(step) for step in issue.path), issue) for issue in problem.issues or []]
        detail = _plain(" ".join([problem.error, *(f"{where}: {issue.message}" for where, issue in issues)]))
        field = OURS.get(issues[0][0].partition(".")[0], "") if issues else ""
        transient = reply.status == 429 or reply.status >= 500
        return Fault(base.code_of(reply.status), f"runway: {detail}", field=field, retryable=transient)


def _path(handle: Handle) -> str:
    if not ID.fullmatch(handle.id):
        raise Failed(Fault("invalid_input", "The handle is not the id of a task."))
    return f"/v1/tasks/{handle.id}"


def _body(spec: VideoSpec, model: str, prepared: base.Prepared) -> dict[str, object]:
    """The spec was normalised: size and length are there, and no wish that the model cannot be told."""
    if {given.role for given in spec.inputs} not in TOGETHER:  # which a model's data cannot say
        raise Failed(Fault("invalid_input", WRONG_ROLES, field="inputs"))
    size = (spec.resolution or "", spec.aspect_ratio or "")
    images = [
        {"uri": prepared.get(given.asset.sha256) or Inline(given.asset, "data-uri")}
        | ({"position": POSITIONS[given.role]} if given.role in POSITIONS else {})
        for given in spec.inputs
    ]
    body: dict[str, object] = {
        "model": model,
        "promptText": spec.prompt or None,
        "promptImage": images or None,
        "ratio": OWN_SIZES.get(model, {}).get(size) or SIZES[size],
        "duration": int(spec.duration_seconds or 0),
        "seed": spec.seed,
        "audio": spec.generate_audio,
        "negativePrompt": spec.negative_prompt,
        "contentModeration": dict(spec.provider_options) or None,  # the only option is in there
    }
    return {name: value for name, value in body.items() if value is not None}


def _outcome(task: _Task) -> base.Outcome:
    billed: Billed = "unknown" if task.cost is None else "yes" if task.cost.credits > 0 else "no"
    match task.status:
        case "SUCCEEDED" if task.output:
            return base.Done(tuple(Output(url) for url in task.output), cost=_money(task.cost))
        case "SUCCEEDED":
            return base.Broken(Fault("bad_answer", "runway finished without the address of a file."), billed)
        case "FAILED":
            return base.Broken(_failure(task), billed)
        case "CANCELLED":
            return base.Stopped(billed)
        case word:  # PENDING; THROTTLED, which waits for a place; RUNNING, which alone has progress
            percent = None if task.progress is None else max(0, min(99, round(task.progress * 100)))
            return base.Unfinished(percent, stage=word)


def _money(cost: _Cost | None) -> Money | None:
    if cost is None:
        return None
    amount, source = round(cost.credits * CREDIT_MICRO_USD), "Runway's own count of credits, 0.01 USD each"
    return Money(amount, source=source, as_of=PRICED, units=cost.credits, unit="credit")


def _failure(task: _Task) -> Fault:
    """Failure codes are families, told by their beginning: SAFETY.INPUT.…, THIRD_PARTY.SAFETY, INTERNAL.BAD_OUTPUT.…"""
    family = (task.failureCode or "").split(".")
    code: Code = "moderated" if "SAFETY" in family else "invalid_input" if family[0] == "ASSET" else "generation_failed"
    passing = family[0] == "INTERNAL" and family[1:2] != ["BAD_OUTPUT"]  # which wants another input
    detail = f"runway: {_plain(task.failure or 'no reason given')}"
    return Fault(code, detail, retryable=passing, provider_code=_plain(".".join(family)))


def _plain(text: str) -> str:
    """Somebody else's words, short, on one line, and without addresses and keys: faults are kept and shown."""
    return " ".join(PRIVATE.sub("(removed)", text).split())[:300]
