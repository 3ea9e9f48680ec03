"""xAI's Grok Imagine: one POST starts a clip, and its answer's id is all there is to find it by.

There is no key of ours, no list and no cancel, so a lost answer stays in doubt (class E). The address of a result is
public and made from the id: ids are kept out of faults as keys are.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Failed, Flow, Inline, Output, Request, Response, call, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Model, Price
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Handle, Money
from rushes.video import Config, Role, Target, VideoSpec

PRICED: Final = "inference.sh: highest resolution, all pictures included"


def _model(id: str, resolutions: tuple[str, ...], roles: dict[Role, int], most_micro_usd: int) -> Model:
    return Model(
        id=id,
        operations=("text-to-video", "image-to-video"),
        durations_s=tuple(float(seconds) for seconds in range(1, 16)),
        aspect_ratios=("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3"),
        resolutions=resolutions,
        roles=roles,
        options={"user": "string"},
        defaults=Config(duration_seconds=8.0, resolution="480p"),  # theirs; without a ratio the shape is the picture's
        draws_seed=False,
        price=Price(per="second", micro_usd=most_micro_usd, source=PRICED, as_of="2026-11-06"),
    )


# Limits are the official SDK's. Conservative: last frame, key frames and silence are left out, as their names in JSON
# are not documented; so are references for 1.5, which takes none with 1080p. Prices: a second and one price of each
# picture, so that even a clip of one second costs no more.
MODELS: Final = (
    _model("grok-imagine-video", ("480p", "720p"), {"first_frame": 1, "general": 7}, 70_000 + 7 * 2_000),
    _model("grok-imagine-video-1.5", ("480p", "720p", "1080p"), {"first_frame": 1}, 250_000 + 10_000),
)
POLL: Final = base.PollSchedule(min_s=5.0, max_s=10.0, growth=1 / 18)  # 10 s from the third minute on
ID: Final = re.compile(r"[A-Za-z0-9_-]{8,128}")  # looks like a UUID, of no version that exists
SECRET: Final = re.compile(r"(?i)\b(?:https?|data):\S+|\bxai-\w+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
MODERATED: Final = re.compile(r"(?i)usage guidelines|moderat|content.policy|safety")
PASSING: Final = frozenset({"internal_error", "service_unavailable"})


class _Started(Struct):
    request_id: str


class _Trouble(Struct):
    message: str = ""
    code: str | int | None = None
    error: str | _Trouble | None = None  # around them: both in one, or the text alone, with the code beside it


class _Video(Struct):
    url: str | None = None
    respect_moderation: bool | None = None


class _Usage(Struct):
    cost_in_usd_ticks: int | None = None  # 1e-10 USD: 10 000 make a micro-dollar


class _Deferred(_Trouble):
    status: str | None = None
    progress: float | None = None  # 0..100
    video: _Video | None = None
    usage: _Usage | None = None


class Xai:
    """The video endpoints of xAI's REST interface."""

    name = "xai"
    capabilities = Capabilities(
        base_url="https://api.x.ai/v1",
        base_url_env="XAI_BASE_URL",
        models=MODELS,
        auth=Auth(env=("XAI_API_KEY",)),
        submits_at_once=1,
        submit_interval_s=1.0,  # one a second, on every tier
        docs_url="https://docs.x.ai",
    )

    def terms(self, spec: VideoSpec, target: Target) -> base.Terms:  # noqa: ARG002
        """How long a result lives is not documented: an hour is the shortest that is said anywhere."""
        return base.Terms(doubt="E", poll=POLL, link_ttl_s=3600.0, total_s=1800.0)

    def prepare(self, spec: VideoSpec, target: Target) -> Flow[base.Prepared]:  # noqa: ARG002
        """Nothing: pictures travel in the request."""
        yield from ()
        return {}

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Start a clip; the answer comes at once. A bad id leaves it in doubt."""
        url, body = "/videos/generations", {"model": target.model, **_wishes(spec)}
        started = reply_json(self, (yield from call(Request(method="POST", url=url, body=body, spends=True))), _Started)
        if not ID.fullmatch(started.request_id):
            raise Failed(Fault("bad_answer", "xai took the job under an id that is none."), certain=False)
        return Handle(started.request_id)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """202 is unfinished whatever it says; 400 and 403 are verdicts on the job, unless they are about the key."""
        if not ID.fullmatch(handle.id):
            raise Failed(Fault("invalid_input", "The handle is not the id of a request."))
        reply = yield from call(Request(method="GET", url=f"/videos/{handle.id}"))
        if reply.status == 202:
            return _unfinished(_read(reply, _Deferred) or _Deferred(), "pending")  # may be empty, or no JSON
        if reply.status == 404:
            return base.Vanished()
        if reply.status in (400, 403) and (fault := self.fault(reply)) and fault.code != "authentication_failed":
            return base.Broken(fault)
        return _outcome(reply_json(self, reply, _Deferred))

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """There is no such call: the clip is made, and billed."""
        yield from ()
        return "cannot"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """Nothing of ours is kept there."""
        yield from ()
        return None

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """Results lie on a public host: the key stays here."""
        return (yield from base.keep(base.Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:
        """Three shapes: text and code side by side, both in an object, or a text alone. A bad key is a 400."""
        if (problem := _read(reply, _Trouble)) is None or problem.error is None:
            return None
        trouble = _inner(problem)
        return _fault(trouble, _code(reply.status, trouble.message), reply.status == 429 or reply.status >= 500)


def _wishes(spec: VideoSpec) -> dict[str, object]:
    """The body beside the model. Raises Failed before anything is sent where the wire is not known to say it."""
    frames, general = (
        [{"url": Inline(given.asset)} for given in spec.inputs if given.role == role]
        for role in ("first_frame", "general")
    )
    if frames and general:
        raise Failed(Fault("unsupported_feature", "xai takes a first frame or general images.", field="inputs"))
    body: dict[str, object] = {"prompt": spec.prompt, "duration": spec.duration_seconds and int(spec.duration_seconds)}
    body |= {"aspect_ratio": spec.aspect_ratio, "resolution": spec.resolution}
    body |= {"image": frames[0] if frames else None, "reference_images": general or None}  # <IMAGE_1> is the first
    return {name: wish for name, wish in body.items() if wish is not None} | dict(spec.provider_options)


def _read(reply: Response, kind: type[base.T]) -> base.T | None:
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _inner(problem: _Trouble) -> _Trouble:
    error = problem.error or ""
    return _Trouble(error, problem.code) if isinstance(error, str) else error


def _code(status: int, text: str) -> Code:
    if status in (400, 403) and MODERATED.search(text):  # first: a verdict may name the API key that it is about
        return "moderated"
    if status == 400 and "api key" in text.lower():
        return "authentication_failed"
    if status == 400 and "zero data retention" in text.lower():  # such a team must give an upload address
        return "unsupported_feature"
    return base.code_of(status)


def _fault(trouble: _Trouble, code: Code, retryable: bool) -> Fault:
    """Their words, short, on one line, without addresses and ids; none about a key, as they may repeat parts of it."""
    text = "it refuses the key." if code == "authentication_failed" else SECRET.sub("(left out)", trouble.message)
    detail, their_code = " ".join(text.split())[:300], SECRET.sub("", str(trouble.code or ""))[:99]
    return Fault(code, f"xai: {detail or 'no reason given.'}", retryable=retryable, provider_code=their_code)


def _unfinished(deferred: _Deferred, word: str) -> base.Unfinished:
    percent = None if deferred.progress is None else round(min(99.0, max(0.0, deferred.progress)))
    return base.Unfinished(percent, stage=word)


def _outcome(deferred: _Deferred) -> base.Outcome:
    video = deferred.video or _Video()
    match deferred.status or ("done" if video.url else ""):  # an older form has no status
        case "done" if video.respect_moderation is False:
            return base.Broken(Fault("moderated", "xai made the video and withheld it."), billed="yes")
        case "done" if video.url:
            return base.Done((Output(video.url),), cost=_cost(deferred.usage or _Usage()))
        case "done":
            return base.Broken(Fault("bad_answer", "xai finished without the address of a file."), billed="yes")
        case "failed":
            trouble = _inner(deferred)
            code: Code = "moderated" if MODERATED.search(trouble.message) else "generation_failed"
            return base.Broken(_fault(trouble, code, trouble.code in PASSING))
        case "expired":
            return base.Broken(Fault("asset_expired", "xai no longer has the request, or its result."))
        case word:
            return _unfinished(deferred, word)


def _cost(usage: _Usage) -> Money | None:
    """What they say that they took, rounded up to a micro-dollar, with their own count beside it."""
    ticks, source = usage.cost_in_usd_ticks, "usage.cost_in_usd_ticks of its answer"
    return None if ticks is None else Money(-(-ticks // 10_000), source=source, units=float(ticks), unit="ticks")
