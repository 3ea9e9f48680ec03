"""xAI's Grok Imagine: one POST starts a clip, and its answer's id is all there is to find it by.

There is no key of ours, no list and no cancel, so a lost answer stays in doubt (class E). The address of a result is
public and made from the id: ids are kept out of faults as keys are. Prompts may name the references, in the order that
they are given in, from `<IMAGE_1>` on, and the voices from `<AUDIO_0>` on.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters import capabilities as c
from rushes.adapters.base import Adapter, Broken, Flow, Inline, Output, Request, Response, call, handle_of
from rushes.adapters.catalogue import row_of
from rushes.faults import Code, Fault
from rushes.units import Handle, Money
from rushes.video import OPERATIONS, REFERENCES, Config, Role, Target, VideoSpec

# Limits and defaults are those of the official SDK and pages. Left out, as their names in JSON are not documented: a
# last frame, key frames, silence. Edits and extensions have no price, as what a clip that comes in costs is not sure.
SIZES: Final = {"480p": "848x480", "720p": "1280x720", "1080p": "1920x1080"}  # of 16:9; of other ratios not told
RATIOS: Final = ("16:9", "1:1", "9:16", "4:3", "3:4", "3:2", "2:3")
STORED: Final = {"storage_filename": c.STRING, "storage_expires_after": c.Option("integer", (), 3600, 2_592_000)}
VOICES: Final = dict.fromkeys(("voice_1", "voice_2", "voice_3"), c.STRING)  # their names for them: eve
SEVEN: Final[dict[Role, int]] = dict.fromkeys(sorted(REFERENCES), 7)
SAID: Final = {"prompt": "prompt", "duration_seconds": "duration", "aspect_ratio": "aspect_ratio"}
WIRE: Final = {**SAID, "resolution": "resolution", "first_frame": "image", "source": "video"}
IMAGES: Final = c.Media(types=("image/png", "image/jpeg", "image/webp"))
CLIP: Final = c.Media(types=("video/mp4",), most_s=8.7)


def _price(second_micro_usd: dict[str, int], image_micro_usd: int) -> c.Price:
    rates = tuple(c.Rate({"resolution": lines}, amount) for lines, amount in second_micro_usd.items())
    images: dict[Role, int] = {"first_frame": image_micro_usd, **dict.fromkeys(SEVEN, image_micro_usd)}
    dearest, source = max(second_micro_usd.values()), "inference.sh, on xAI's models"
    return c.Price(per="second", micro_usd=dearest, rates=rates, per_input=images, source=source, as_of="2026-11-06")


def _newer(row: c.Model, **changes: Any) -> c.Model:
    """The same of the newer model, which makes clips and does not change any."""
    price = _price({"480p": 80_000, "720p": 140_000, "1080p": 250_000}, 10_000)
    return replace(row, id=f"{row.id}-1.5", aliases=(f"{row.id}-1.5-preview",), price=price, **changes)


EDITED: Final = c.Model(
    id="grok-imagine-video",
    operations=("video-to-video",),
    roles={"source": 1},
    media={"video": CLIP},
    options={"user": c.STRING, **STORED},
    max_prompt_chars=4096,
    draws_seed=False,
    wire=WIRE | dict.fromkeys(SEVEN, "reference_images"),
)
EXTENDED: Final = replace(
    EDITED,
    operations=("extend",),
    durations_s=tuple(map(float, range(2, 11))),
    media={"video": replace(CLIP, least_s=2.0, most_s=15.0)},
    options=STORED,
    defaults=Config(duration_seconds=6.0),
)
WORDS: Final = replace(
    EDITED,
    operations=("text-to-video",),
    durations_s=tuple(map(float, range(1, 16))),
    aspect_ratios=RATIOS,
    resolutions=("480p", "720p"),
    sizes={(lines, ratio): size if ratio == "16:9" else "" for lines, size in SIZES.items() for ratio in RATIOS},
    roles={},
    media={"image": IMAGES},
    defaults=Config(duration_seconds=8.0, resolution="480p"),  # without a ratio: 16:9, or the first frame's shape
    price=_price({"480p": 50_000, "720p": 70_000}, 2_000),
)
FRAMED: Final = replace(WORDS, operations=("image-to-video",), roles={"first_frame": 1})
BY_IMAGES: Final = replace(WORDS, operations=("multi-image",), roles=SEVEN, max_inputs=7)
MODELS: Final = (
    *(WORDS, FRAMED, BY_IMAGES, EDITED, EXTENDED),
    _newer(WORDS, resolutions=tuple(SIZES)),
    _newer(FRAMED, resolutions=tuple(SIZES)),
    _newer(BY_IMAGES, options={**WORDS.options, **VOICES}),
)
PATHS: Final = {"video-to-video": "/videos/edits", "extend": "/videos/extensions"}
POLL: Final = c.PollSchedule(min_s=5.0, max_s=10.0, growth=1 / 18)  # 10 s from the third minute on
ID: Final = re.compile(r"[A-Za-z0-9_-]{8,128}")  # looks like a UUID, of no version that exists
WORD: Final = re.compile(r"[A-Za-z_-]{1,64}")
MODERATED: Final = re.compile(r"(?i)usage guidelines|moderat|content.policy|safety")
PASSING: Final = frozenset({"internal_error", "service_unavailable"})


class _Started(Struct):
    request_id: str


class _Trouble(Struct):
    message: str = ""
    code: str | int | None = None
    error: str | _Trouble | None = None  # around them: both in one, or the text alone, with the code beside it

    def told(self) -> tuple[str, str]:
        """The text and the code, wherever they stand."""
        if isinstance(self.error, _Trouble):
            return self.error.told()
        return self.error or self.message, str(self.code or "")


class _File(Struct):
    file_id: str | None = None


class _Video(Struct):
    url: str | None = None
    respect_moderation: bool | None = None
    file_output: _File | None = None


class _Usage(Struct):
    cost_in_usd_ticks: int | None = None  # 1e-10 USD: 10 000 make a micro-dollar


class _Deferred(_Trouble):
    status: str | None = None
    progress: float | None = None  # 0..100
    video: _Video | None = None
    usage: _Usage | None = None


class Xai(Adapter):
    """The video endpoints of xAI's REST interface."""

    name = "xai"
    capabilities = c.Capabilities(
        base_url="https://api.x.ai/v1",
        base_url_env="XAI_BASE_URL",
        models=MODELS,
        aliases=("grok",),
        auth=c.Auth(env=("XAI_API_KEY",)),
        # How long a result lives is not documented: an hour is the shortest that is said anywhere.
        terms=c.Terms(doubt="E", poll=POLL, link_ttl_s=3600.0, total_s=1800.0),
        submits_at_once=1,
        submit_interval_s=1.0,  # one a second, on every tier
        docs_url="https://docs.x.ai",
    )

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Start a clip; the answer comes at once. A bad id leaves it in doubt."""
        url = PATHS.get(OPERATIONS[type(spec.operation)], "/videos/generations")
        body = {"model": target.model, **_body(spec, row_of(self, target.model, spec))}
        reply = yield from call(Request(method="POST", url=url, body=body, spends=True))
        return handle_of(self, base.reply_json(self, reply, _Started).request_id, ID)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """202 is unfinished whatever it says; 400 and 403 are verdicts on the job, unless they are about the key."""
        reply = yield from call(Request(method="GET", url=f"/videos/{handle_of(self, handle.id, ID).id}"))
        if reply.status == 202:
            return _unfinished(base.read(reply, _Deferred) or _Deferred(), "pending")  # may be empty, or no JSON
        fault = self.fault(reply)
        if fault and reply.status == 404:
            return base.Vanished()
        if fault and reply.status in (400, 403) and fault.code != "authentication_failed":
            return Broken(fault)
        return _outcome(base.reply_json(self, reply, _Deferred))

    def fault(self, reply: Response) -> Fault | None:
        """Three shapes: text and code side by side, both in an object, or a text alone. A bad key is a 400."""
        if (problem := base.read(reply, _Trouble)) is None or problem.error is None:
            return None
        code = _code(reply.status, problem.told()[0])
        return _fault(problem, code, retryable=reply.status == 429 or reply.status >= 500)


def _body(spec: VideoSpec, model: c.Model) -> dict[str, Any]:
    """The body beside the model's name. Files are named as the row says, references and voices are lists."""
    options = dict(spec.provider_options)
    voices = [{"voice_id": options.pop(name)} for name in VOICES if name in options]
    stored = {name.removeprefix("storage_"): options.pop(name) for name in STORED if name in options}
    body: dict[str, Any] = {**base.said(spec, model), **options}
    for given in spec.inputs:
        name, file = model.wire[given.role], {"url": Inline(given.asset)}
        body[name] = [*body.get(name, []), file] if given.role in REFERENCES else file
    if voices:
        body["reference_audios"] = voices
    if stored:
        body["storage_options"] = {"filename": "rushes.mp4", **stored}  # it needs a name
    return body


def _code(status: int, text: str) -> Code:
    if status in (400, 403) and MODERATED.search(text):  # first: a verdict may name the API key that it is about
        return "moderated"
    if status == 400 and "api key" in text.lower():
        return "authentication_failed"
    if status == 400 and "zero data retention" in text.lower():  # such a team must give an upload address
        return "unsupported_feature"
    return base.code_of(status)


def _fault(trouble: _Trouble, code: Code, *, retryable: bool) -> Fault:
    """Nothing is repeated of what is said about a key: it may hold parts of it."""
    text, word = trouble.told()
    detail = "it refuses the key." if code == "authentication_failed" else base.plain(text)
    return Fault(code, f"xai: {detail}", retryable=retryable, provider_code=word if WORD.fullmatch(word) else "")


def _unfinished(deferred: _Deferred, word: str) -> base.Unfinished:
    percent = None if deferred.progress is None else round(min(99.0, max(0.0, deferred.progress)))
    return base.Unfinished(percent, stage=word)


def _outcome(deferred: _Deferred) -> base.Outcome:
    video = deferred.video or _Video()
    stored = (video.file_output or _File()).file_id or ""
    url = video.url or (f"files/{stored}/content" if ID.fullmatch(stored) else "")  # that one asks for the key
    match deferred.status or ("done" if video.url else ""):  # an older form has no status
        case "done" if video.respect_moderation is False:
            return Broken(Fault("moderated", "xai made the video and withheld it."), billed="yes")
        case "done" if url:
            cost, metadata = _cost(deferred.usage or _Usage()), {"file_id": stored} if stored else {}
            return base.Done((Output(url),), cost=cost, metadata=metadata)
        case "done":
            return Broken(Fault("bad_answer", "xai finished without the address of a file."), billed="yes")
        case "failed":
            text, word = deferred.told()
            code: Code = "moderated" if MODERATED.search(text) else "generation_failed"
            return Broken(_fault(deferred, code, retryable=word in PASSING))
        case "expired":
            return Broken(Fault("asset_expired", "xai no longer has the request, or its result."))
        case word:
            return _unfinished(deferred, word)


def _cost(usage: _Usage) -> Money | None:
    """What they say that they took, rounded up to a micro-dollar, with their own count beside it."""
    ticks, source = usage.cost_in_usd_ticks, "usage.cost_in_usd_ticks of its answer"
    return None if ticks is None else Money(-(-ticks // 10_000), source=source, units=float(ticks), unit="ticks")
