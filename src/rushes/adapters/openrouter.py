"""OpenRouter: one wire over many makers' video models.

Nothing of ours can be looked up or sent twice under one key, so a lost answer stays in doubt (class E). The paid call
is held open for seconds, with blank lines under a 202, until the maker has answered: an error may come below it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from urllib.parse import urljoin

import msgspec
from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Failed, Flow, Inline, Output, Request, Response, call, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Model, Price
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Billed, Handle, Money
from rushes.video import Config, Target, VideoSpec

BASE_URL: Final = "https://openrouter.ai/api/v1"
SHAPES: Final = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3")


def _model(id: str, usd: float, seconds: Sequence[int], shapes: int, lines: str, fields: str, *, last: bool) -> Model:
    """One row of their list. `usd`: a second, as dear as any wish makes it. `shapes`: how many of SHAPES it takes."""
    sound = True if "generate_audio" in fields else None  # what they do when nothing is said: here it is said
    return Model(
        id=id,
        operations=("text-to-video", "image-to-video"),
        durations_s=tuple(map(float, seconds)),
        aspect_ratios=SHAPES[:shapes],
        resolutions=tuple(lines.split()),
        roles={"first_frame": 1, "last_frame": 1} if last else {"first_frame": 1},
        fields=frozenset(fields.split()),
        defaults=Config(duration_seconds=5.0 if 5 in seconds else 4.0, resolution="720p", generate_audio=sound),
        draws_seed="seed" in fields,
        price=Price(per="second", micro_usd=round(usd * 1e6), source=f"{BASE_URL}/videos/models", as_of="2026-09-08"),
    )


SEED_AND_SOUND: Final = "seed generate_audio"
# Sets and prices are those of GET /videos/models on 2026-09-08, in a public copy (B); Grok's first price is recorded.
# Not in the data: pass-through options, whose wrong names are dropped in silence; references, whose number no list
# tells; 9:21. No aspect ratio is sent unasked: beside a picture it would stretch the picture.
MODELS: Final = (
    # 0.07 a second at 720p, and 0.002 for a picture, which is most beside a single second
    _model("x-ai/grok-imagine-video", 0.072, range(1, 16), 7, "480p 720p", "", last=False),
    _model("google/veo-3.1", 0.6, (4, 6, 8), 2, "720p 1080p 2160p", SEED_AND_SOUND, last=True),
    _model("google/veo-3.1-fast", 0.3, (4, 6, 8), 2, "720p 1080p 2160p", SEED_AND_SOUND, last=True),
    _model("google/veo-3.1-lite", 0.08, (4, 6, 8), 2, "720p 1080p", SEED_AND_SOUND, last=True),
    _model("alibaba/wan-3.0", 0.2, range(2, 31), 5, "480p 720p 1080p", SEED_AND_SOUND, last=False),
    _model("alibaba/wan-2.7", 0.1, range(2, 11), 5, "720p 1080p", SEED_AND_SOUND, last=True),
    _model("kwaivgi/kling-v3.0-pro", 0.168, range(3, 16), 3, "720p", "generate_audio", last=True),
    _model("kwaivgi/kling-v3.0-std", 0.126, range(3, 16), 3, "720p", "generate_audio", last=True),
)
LINES: Final = {"2160p": "4K"}  # ours → theirs, where they differ

HELD_S: Final = 180.0  # the paid call, blank lines included
ID: Final = re.compile(r"[A-Za-z0-9][\w.:-]{0,127}", re.ASCII)  # two forms were seen, so any is taken
PRIVATE: Final = re.compile(r"\b(?:https?:|data:|sk-or-)\S+")
MODERATED: Final = re.compile(r"safety|moderat|policy|sensitive|flagged", re.IGNORECASE)
REFUSALS: Final = frozenset({"400", "401", "402", "403", "404", "413"})  # below a 202, these alone say: not taken


class _Error(Struct):
    message: str = ""
    code: int | str | None = None
    metadata: dict[str, object] | None = None  # may hold what was flagged: never shown


class _Problem(Struct):
    error: _Error


class _Created(Struct):
    id: str = ""  # all that a paid answer must hold: nothing else in it can make it unreadable


class _Usage(Struct):
    cost: Decimal | None = None  # US dollars
    is_byok: bool = False  # the maker was paid with the caller's own key: `cost` is OpenRouter's fee alone


class _Video(Struct):
    status: str
    generation_id: str | None = None
    unsigned_urls: list[str] | None = None  # ask for the key, despite their name
    urls: list[str] | None = None  # ask for none
    error: str | _Error | None = None
    usage: _Usage | None = None


class OpenRouter:
    """The video generation API."""

    name = "openrouter"
    capabilities = Capabilities(
        base_url=BASE_URL,
        base_url_env="OPENROUTER_BASE_URL",
        models=MODELS,
        auth=Auth(env=("OPENROUTER_API_KEY",)),
        docs_url="https://openrouter.ai/docs/guides/overview/multimodal/video-generation",
    )

    def terms(self, spec: VideoSpec, target: Target) -> base.Terms:  # noqa: ARG002
        """They advise to ask every 10 to 30 s. A video is gone when its maker's own address is, after hours."""
        poll = base.PollSchedule(min_s=10.0, max_s=30.0)
        return base.Terms(doubt="E", cancel="no", poll=poll, link_ttl_s=3600.0, total_s=1800.0)

    def prepare(self, spec: VideoSpec, target: Target) -> Flow[base.Prepared]:  # noqa: ARG002
        """Nothing: pictures travel in the order."""
        yield from ()
        return {}

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Order a video. The status of the answer says little: an id means yes, an error without one what it says."""
        body = _body(spec, target.model)
        reply = yield from call(Request(method="POST", url="/videos", body=body, spends=True, timeout_s=HELD_S))
        fault = self.fault(reply)
        if reply.status == 503 and fault and fault.provider_code == "503":  # their own, before they asked anybody
            raise Failed(msgspec.structs.replace(fault, retry_after_s=base.retry_after_s(reply)))
        created = reply_json(self, reply, _Created)
        if not created.id and fault:
            raise Failed(fault, certain=fault.provider_code in REFUSALS)
        if not ID.fullmatch(created.id):
            raise Failed(Fault("bad_answer", "openrouter took the job under an id that is none."), certain=False)
        return Handle(created.id)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """They tell no progress, and often stay with `pending` until the end."""
        reply = yield from call(Request(method="GET", url=_path(handle)))
        if reply.status == 404 and self.fault(reply):
            return base.Vanished()
        video = reply_json(self, reply, _Video)
        billed = _billed(video.usage)
        match video.status:
            case "completed":
                return _done(video, handle)
            case "failed" | "dead":
                return base.Broken(_failure(video.error), billed)
            case "cancelled":  # by them: we cannot ask for it
                return base.Stopped(billed)
            case "expired":
                return base.Broken(Fault("asset_expired", "openrouter: it took too long, or is gone."), billed)
            case word:
                return base.Unfinished(stage=word)

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """There is no such call: it runs on, and is paid."""
        yield from ()
        return "cannot"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """They list no jobs."""
        yield from ()
        return None

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """Their own host asks for the key; to any other one it does not go along."""
        return (yield from base.keep(base.Keep(url=output.url, with_credential=True)))

    def fault(self, reply: Response) -> Fault | None:
        """One envelope for all errors; below a good status the code inside it counts."""
        try:
            error = msgspec.json.decode(reply.body, type=_Problem).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        status = reply.status if reply.status >= 400 else error.code if isinstance(error.code, int) else 500
        flagged = (error.metadata or {}).get("reasons") or MODERATED.search(error.message)
        code: Code = "moderated" if status == 403 and flagged else base.code_of(status)
        later = status in (429, 499) or status >= 500
        later = later or (status == 402 and base.retry_after_s(reply) is not None)  # too much at once, not no money
        return Fault(code, f"openrouter: {_plain(error.message)}", retryable=later, provider_code=str(error.code or ""))


def _path(handle: Handle) -> str:
    if not ID.fullmatch(handle.id):
        raise Failed(Fault("invalid_input", "The handle is not the id of a video job."))
    return f"/videos/{handle.id}"


def _body(spec: VideoSpec, model: str) -> dict[str, object]:
    """A frame is a picture in its place. What was not wished for is not said."""
    pictures = [(given.role, {"url": Inline(given.asset)}) for given in spec.inputs]
    frames = [{"type": "image_url", "image_url": picture, "frame_type": role} for role, picture in pictures]
    wishes = {
        "model": model,
        "prompt": spec.prompt,
        "duration": spec.duration_seconds and int(spec.duration_seconds),
        "resolution": spec.resolution and LINES.get(spec.resolution, spec.resolution),
        "aspect_ratio": spec.aspect_ratio,
        "seed": spec.seed,
        "generate_audio": spec.generate_audio,
        "frame_images": frames or None,
    }
    return {name: wish for name, wish in wishes.items() if wish is not None}


def _done(video: _Video, handle: Handle) -> base.Outcome:
    """The content address that they name, or a signed one; where they name none, the usual one is tried."""
    found = video.unsigned_urls or video.urls or [f"{BASE_URL}{_path(handle)}/content?index=0"]
    told = {"generation_id": video.generation_id} if video.generation_id else {}
    return base.Done(tuple(Output(urljoin(BASE_URL, url)) for url in found), cost=_cost(video.usage), metadata=told)


def _cost(usage: _Usage | None) -> Money | None:
    if usage is None or usage.cost is None or not usage.cost.is_finite():
        return None
    source = "openrouter's usage.cost" + (", its fee alone" if usage.is_byok else "")
    return Money(round(usage.cost * 1_000_000), source=source, units=float(usage.cost), unit="usd")


def _billed(usage: _Usage | None) -> Billed:
    """Nothing of what has failed is free unless they say so; the maker's own bill for a caller's key is not seen."""
    if usage is None or usage.cost is None:
        return "unknown"
    return "yes" if usage.cost else "unknown" if usage.is_byok else "no"


def _failure(error: str | _Error | None) -> Fault:
    """Makers say in free text why they failed."""
    text = error.message if isinstance(error, _Error) else error
    code: Code = "moderated" if text and MODERATED.search(text) else "generation_failed"
    return Fault(code, f"openrouter: {_plain(text or 'no reason given')}")


def _plain(text: str) -> str:
    """Somebody else's words, short, on one line, without addresses and keys: faults are kept and shown."""
    return " ".join(PRIVATE.sub("(left out)", text).split())[:300]
