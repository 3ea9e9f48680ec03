"""OpenRouter's twin: video jobs as the real service answers them, and a ledger of what it charged.

    POST /api/v1/videos                        202, with blank lines before the JSON
    GET  /api/v1/videos/models                 no key asked
    GET  /api/v1/videos/{id}
    GET  /api/v1/videos/{id}/content?index=0   the video: the key is asked
    GET  /stored/{id}.mp4?expires=…            the same by a signed address, where `signed_s` is set: no key asked

Time is what the caller says it is: a job is pending for `pending_s`, in progress for `render_s` more, and its video is
gone `kept_s` after that. A `callback_url` is called at the end. It cannot be cancelled. Words in the prompt decide how
it ends: see FATES, and "flagged", "refused" and "unsure" in `_create`. What the model or its maker does not know is
dropped in silence: `dropped` names it. So are references beside frames, and those of a model that takes none.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b32encode
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, cast
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.base import Inline, Response
from rushes.emulators import base
from rushes.emulators.base import Asked, ProviderTwin, Route, as_json, fits
from rushes.emulators.faults import ExpiredUrl

MAX_BODY_BYTES: Final = 50 * 2**20
BLANK: Final = b"\n         \n" * 6  # written while the maker is asked
FATES: Final[Mapping[str, tuple[str, str]]] = {  # a word of the prompt: how it ends, and what is said of it
    "forbidden": ("failed", "The video was rejected by the maker's safety system."),
    "broken": ("failed", "The model gave up: tensor shapes do not match."),
    "dead": ("dead", "The maker never answered."),
    "withdrawn": ("cancelled", ""),
    "late": ("expired", ""),
}
TYPES: Final[Mapping[str, type]] = {
    "prompt": str,
    "duration": int,
    "resolution": str,
    "aspect_ratio": str,
    "seed": int,
    "generate_audio": bool,
    "frame_images": list,
    "input_references": list,
    "previous_job_id": str,
    "callback_url": str,
    "provider": dict,
}
LINES: Final = {"4K": 2160}  # else what the word says
TOKENS_A_SECOND: Final = 24 / 1024  # of each pixel


class Offer(Struct, frozen=True, kw_only=True):
    """One model of the list. Prices are US dollars by resolution."""

    durations: Sequence[int]
    ratios: str
    usd: Mapping[str, float]  # a second
    silent_usd: Mapping[str, float] | None = None  # the same without sound; None: no difference
    by_token: bool = False  # a token, not a second
    on_usd: Mapping[str, float] | None = (
        None  # the same after a job that was there before; None: it cannot go on with one
    )
    image_usd: float = 0.0
    frames: str = "first_frame last_frame"
    references: int = 0
    audio: bool = True
    seed: bool = True
    maker: str = ""  # its name in `provider.options`; of some it is not documented
    passes: str = ""  # what is passed on to it

    def allows(self, name: str) -> bool:
        """Whether the model knows the wish at all."""
        known = {"seed": self.seed, "generate_audio": self.audio, "input_references": self.references > 0}
        return known.get(name, True)


FIVE: Final = "16:9 9:16 1:1 4:3 3:4"
VEO: Final = Offer(
    durations=(4, 6, 8),
    ratios="16:9 9:16",
    usd={"720p": 0.4, "1080p": 0.4, "4K": 0.6},
    silent_usd={"720p": 0.2, "1080p": 0.2, "4K": 0.4},
    maker="google-vertex",
    passes="personGeneration aspectRatio negativePrompt conditioningScale enhancePrompt",
)
KLING: Final = Offer(
    durations=range(3, 16),
    ratios="16:9 9:16 1:1",
    usd={"720p": 0.168},
    silent_usd={"720p": 0.112},
    seed=False,
    passes="negative_prompt cfg_scale",
)
SEEDANCE: Final = Offer(
    durations=range(4, 16),
    ratios=f"{FIVE} 21:9 9:21",
    usd={"480p": 7e-6, "720p": 7e-6, "1080p": 7.7e-6, "4K": 4e-6},
    by_token=True,
    references=9,
    passes="watermark req_key",
)
OFFERS: Final[Mapping[str, Offer]] = {
    "x-ai/grok-imagine-video": Offer(
        durations=range(1, 16),
        ratios=f"{FIVE} 3:2 2:3",
        usd={"480p": 0.05, "720p": 0.07},
        image_usd=0.002,
        frames="first_frame",
        references=7,
        audio=False,
        seed=False,
    ),
    "google/veo-3.1": VEO,
    "google/veo-3.1-fast": replace(
        VEO, usd={"720p": 0.1, "1080p": 0.12, "4K": 0.3}, silent_usd={"720p": 0.08, "1080p": 0.1, "4K": 0.25}
    ),
    "google/veo-3.1-lite": replace(VEO, usd={"720p": 0.05, "1080p": 0.08}, silent_usd={"720p": 0.03, "1080p": 0.05}),
    "alibaba/wan-3.0": Offer(
        durations=range(2, 31), ratios=FIVE, usd={"480p": 0.05, "720p": 0.1, "1080p": 0.2}, frames="first_frame"
    ),
    "alibaba/wan-2.7": Offer(
        durations=range(2, 11),
        ratios=FIVE,
        usd={"720p": 0.1, "1080p": 0.1},
        references=3,
        maker="alibaba",
        passes="negative_prompt prompt_extend audio ratio last_image video videos images",
    ),
    "kwaivgi/kling-v3.0-pro": KLING,
    "kwaivgi/kling-v3.0-std": replace(KLING, usd={"720p": 0.126}, silent_usd={"720p": 0.084}),
    "bytedance/seedance-2.0": SEEDANCE,
    "bytedance/seedance-2.0-fast": replace(SEEDANCE, usd={"480p": 4.2e-6, "720p": 4.2e-6}),
    "bytedance/seedance-2.5": replace(
        SEEDANCE,
        durations=range(4, 31),
        ratios=f"{FIVE} 21:9",
        usd={"480p": 1.07e-5, "720p": 1.07e-5},
        on_usd={"480p": 6.4e-6, "720p": 6.4e-6},
        references=30,
    ),
    "black-forest-labs/flux-3-video": Offer(
        durations=range(5, 21),
        ratios=f"{FIVE} 21:9",
        usd={"720p": 0.17, "1080p": 0.29},
        on_usd={"720p": 0.41, "1080p": 0.53},
        seed=False,
        maker="black-forest-labs",
        passes="safety_tolerance version",
    ),
    "minimax/hailuo-2.3": Offer(
        durations=(6, 10),
        ratios="16:9",
        usd={"1080p": 0.0817},
        frames="first_frame",
        audio=False,
        seed=False,
        maker="minimax",
        passes="prompt_optimizer fast_pretreatment",
    ),
}


class Job(Struct, frozen=True, kw_only=True):
    """One video, as far as it does not follow from the time."""

    id: str
    generation_id: str
    wishes: Mapping[str, Any]
    usd: float
    created_at: float
    ends: str = "completed"
    error: str = ""


class Refused(base.Refused):
    """An error: `code` inside the envelope, under the status `under`."""

    def __init__(
        self, code: int, message: str, *, under: int = 0, metadata: object = None, retry_after: str = ""
    ) -> None:
        error = {"message": message, "code": code} | ({"metadata": metadata} if metadata else {})
        super().__init__(under or code, {"error": error}, {"retry-after": retry_after} if retry_after else {})


class OpenRouterTwin(ProviderTwin):
    """The whole service in one object. `ledger` says what came and what was charged, in order."""

    name = "openrouter"
    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "status_word", "not_found"})
    base_path = "/api/v1"

    def __init__(
        self,
        *,
        clip: bytes,
        key: str = "",
        seed: int = 0,
        pending_s: float = 5.0,
        render_s: float = 8.0,
        kept_s: float = 4 * 3600.0,
        signed_s: float = 0.0,
        long_ids: bool = False,
        relative: bool = False,
        credit_usd: float | None = None,
        per_minute: int | None = None,
        at_once: int | None = None,
    ) -> None:
        """`clip` is every result. An empty `key` accepts anyone. `signed_s`: how long a signed address works.

        `long_ids` and `relative`: ids and addresses have the other one of the two forms that were seen.
        `credit_usd` is all that can be spent, `per_minute` how many jobs are taken, `at_once` how many may be under
        way: None for no end.
        """
        super().__init__(clip=clip, key=key, seed=seed, start_s=pending_s, render_s=render_s)
        self.jobs: dict[str, Job] = {}
        self.dropped: list[str] = []
        self._signed_s, self._kept_s = signed_s, kept_s
        self._long_ids, self._relative = long_ids, relative
        self._credit_usd, self._per_minute, self._at_once = credit_usd, per_minute, at_once

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        return (
            Route("download", "GET", r"/stored/([\w.:-]+)\.mp4", self._stored, keyless=True),
            Route("", "GET", r".*/videos/models()", self._models, keyless=True),
            Route("submit", "POST", r"(?:/api/v1)?/videos()", self._create),
            Route("status", "GET", r"(?:/api/v1)?/videos/([\w.:-]+)", self._get),
            Route("download", "GET", r"(?:/api/v1)?/videos/([\w.:-]+)/content", self._content),
        )

    def admit(self, asked: Asked) -> None:
        """The key."""
        if self._key and not asked.headers.get("authorization"):
            raise Refused(401, "Missing Authentication header")
        if not self.accepts(asked.key):
            raise Refused(401, "User not found.")

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002 - a method that is wrong is no news here
        """Nothing is there."""
        return Refused(404, "Not Found")

    def throttled(self) -> Refused:
        """Its 429."""
        return Refused(429, "Rate limit exceeded", retry_after="30")

    def refusal(self, refused: base.Refused) -> Response:
        """An error that is found while the maker is asked comes behind the blanks."""
        before = BLANK if refused.status == 202 else b""
        return as_json(refused.status, refused.content, refused.headers, before=before)

    def _models(self, asked: Asked, _: str) -> Response:  # noqa: ARG002 - the same for everybody
        return as_json(200, {"data": [_listed(name, offer) for name, offer in OFFERS.items()]})

    def _create(self, asked: Asked, _: str) -> Response:
        """What can be refused is refused before anything is charged, and all but one error comes under its status."""
        wishes = self._wishes(asked)
        words = asked.words(wishes.get("prompt", ""))
        if "flagged" in words:
            seen = {"reasons": ["violence"], "flagged_input": str(wishes["prompt"])[:50], "provider_name": "Maker"}
            raise Refused(403, "Your input was flagged.", metadata=seen)
        if self._per_minute is not None and self.charged_within(60.0, asked.now) >= self._per_minute:
            raise self.throttled()
        under_way = [job for job in self.jobs.values() if self._status(job, asked.now) in ("pending", "in_progress")]
        if self._at_once is not None and len(under_way) >= self._at_once:
            raise Refused(402, "The budget for jobs under way is used up.", retry_after="10")
        usd = _price(wishes)
        if self._credit_usd is not None and sum(job.usd for job in self.jobs.values()) + usd > self._credit_usd:
            raise Refused(402, "Insufficient credits. Add more to go on.")
        if "refused" in words:
            raise Refused(400, "The maker does not take this request.", under=202)
        made = self._make(wishes, usd, words, asked.now)
        ends_at = self.life(made.created_at).ends_at
        self.call_back(wishes.get("callback_url"), ends_at, lambda at: self._event(made, replace(asked, now=at)))
        if "unsure" in words:  # it runs, and nobody is told under which id
            raise Refused(502, "The maker's answer was cut off.", under=202)
        told = {"id": made.id, "polling_url": self._here(asked, made.id), "status": "pending"}
        return as_json(202, told, before=BLANK)

    def _wishes(self, asked: Asked) -> dict[str, Any]:
        """The body as the model understands it."""
        if _number("content-length", asked.headers) > MAX_BODY_BYTES:
            raise Refused(413, "Request body is too large")
        body = asked.json(Refused(400, "The body must be a JSON object."))
        if not isinstance(model := body.get("model"), str) or not model:
            raise Refused(400, "model: Required")
        if (offer := OFFERS.get(model)) is None:
            raise Refused(404, f"No endpoints found for {model}.")
        known = {name: value for name, value in body.items() if name in TYPES and offer.allows(name)}
        if known.get("frame_images"):
            known.pop("input_references", None)  # the frames win
        self.dropped += sorted(set(body) - set(known) - {"model"})
        for name, value in known.items():
            if not fits(value, TYPES[name]) or not _offered(name, value, offer):
                raise Refused(400, f"{name}: Invalid value for {model}")
        if not known.get("prompt") and not known.get("frame_images"):
            raise Refused(400, "prompt: Required")
        self._go_on(known.get("previous_job_id"), model, asked)
        self.dropped += _unpassed(known.get("provider"), offer)
        return {"model": model, **known}

    def _go_on(self, id: str | None, model: str, asked: Asked) -> None:
        """A job is gone on with by its own model, once it is done and while its video is there."""
        if id is None:
            return
        if OFFERS[model].on_usd is None:
            raise Refused(400, f"previous_job_id: {model} does not support continuation")
        before = self._known(id)
        if before.wishes["model"] != model:
            raise Refused(400, "previous_job_id: The previous job was made by another model")
        if self._status(before, asked.now) != "completed":
            raise Refused(409, "previous_job_id: The previous job is not completed")

    def _here(self, asked: Asked, id: str) -> str:
        """The address of a job."""
        return f"{urlsplit(asked.origin).path if self._relative else asked.origin}/api/v1/videos/{id}"

    def _make(self, wishes: dict[str, Any], usd: float, words: list[str], now: float) -> Job:
        fate = next((FATES[word] for word in words if word in FATES), ("completed", ""))
        made = Job(
            id=self._fresh("job", now if self._long_ids else None),
            generation_id=self._fresh("generation", now),
            wishes=wishes,
            usd=usd,
            created_at=now,
            ends=fate[0],
            error=fate[1],
        )
        self.jobs[made.id] = made
        self.charge(made.id, now, usd, round(usd * 10**6), str(wishes["model"]))
        return made

    def _get(self, asked: Asked, id: str) -> Response:
        job = self._known(id)
        if self.hides(asked, id):
            raise Refused(404, "Job not found")
        return as_json(200, self._view(job, asked))

    def _event(self, job: Job, asked: Asked) -> object:
        """What is said of a job that has ended."""
        view = self._view(job, replace(asked, struck=()))
        word = str(view["status"]).replace("dead", "failed")
        return {"type": f"video.generation.{word}", "created_at": base.iso(asked.now), "data": view}

    def signature(self, body: bytes, now: float) -> Mapping[str, str]:
        """The headers that say who it is."""
        seconds = f"{now:.0f}"
        digest = hmac.digest(self.secret.encode(), f"{seconds},".encode() + body, hashlib.sha256)
        return {"x-openrouter-signature": f"t={seconds},v1={digest.hex()}"}

    def _view(self, job: Job, asked: Asked) -> dict[str, object]:
        """A job as it is shown."""
        status = asked.said(self._status(job, asked.now))
        here = self._here(asked, job.id)
        view: dict[str, object] = {"id": job.id, "generation_id": job.generation_id}
        view |= {"polling_url": here, "status": status}
        if status == "completed" and self._signed_s:
            until = int(asked.now + self._signed_s)
            view |= {"unsigned_urls": [], "urls": [f"{asked.origin}/stored/{job.id}.mp4?expires={until}"]}
            view |= {"expires_at": until}
        elif status == "completed":
            view |= {"unsigned_urls": [f"{here}/content?index=0"]}
        if status == "completed":
            view |= {"usage": {"cost": job.usd, "is_byok": False}}
        return view | ({"error": job.error} if status in ("failed", "dead") else {})

    def _content(self, asked: Asked, id: str) -> Response:
        job = self._known(id)
        if asked.query.get("index", "0") != "0":
            raise Refused(400, "index: There is no such video")
        if (status := self._status(job, asked.now)) == "expired" or asked.hit(ExpiredUrl):
            raise Refused(410, "The video is gone.")
        if status != "completed":
            raise Refused(409, "The video is not completed.")
        return self.result(asked)

    def _stored(self, asked: Asked, id: str) -> Response:
        if id not in self.jobs or asked.now >= _number("expires", asked.query) or asked.hit(ExpiredUrl):
            return Response(status=403, body=b"<Error>expired</Error>", headers={"content-type": "application/xml"})
        return self.result(asked)

    def _known(self, id: str) -> Job:
        if id not in self.jobs:
            raise Refused(404, "Job not found")
        return self.jobs[id]

    def _status(self, job: Job, now: float) -> str:
        life = self.life(job.created_at)
        over = "expired" if now >= life.ends_at + self._kept_s else job.ends
        return {"waiting": "pending", "running": "in_progress", "over": over}[life.stage(now)]

    def _fresh(self, kind: str, now: float | None) -> str:
        drawn = b32encode(self.draw(kind)).decode()[:20]
        return drawn if now is None else f"gen-vid-{now:.0f}-{drawn}"


def _number(name: str, among: Mapping[str, str]) -> int:
    """A whole number that a header or the query gives, 0 where there is none."""
    text = among.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def _offered(name: str, value: Any, offer: Offer) -> bool:
    """Whether a value of the right type is one of the model's."""
    match name:
        case "duration":
            return value in offer.durations
        case "resolution":
            return value in offer.usd
        case "aspect_ratio":
            return value in offer.ratios.split()
        case "frame_images":
            return all(_is_frame(frame, offer.frames.split()) for frame in cast("list[object]", value))
        case "input_references":
            return len(value) <= offer.references and all(map(_has_image, cast("list[object]", value)))
        case _:
            return True


def _is_frame(frame: object, places: list[str]) -> bool:
    return _has_image(frame) and _object(frame).get("frame_type") in places


def _has_image(given: object) -> bool:
    """A picture that was never read (no socket between us) stands for itself."""
    picture = _object(_object(given).get("image_url")).get("url")
    readable = isinstance(picture, Inline) or str(picture).startswith(("https://", "data:image/"))
    return readable and _object(given).get("type") == "image_url"


def _unpassed(provider: object, offer: Offer) -> list[str]:
    """What is meant for a maker and never comes to it."""
    options = _object(_object(provider).get("options"))
    lost: list[str] = []
    for maker, held in options.items():
        passed = set(_object(_object(held).get("parameters")))
        known = set(offer.passes.split()) if maker == offer.maker else set[str]()
        lost += [f"{maker}.{name}" for name in sorted(set(_object(held)) - {"parameters"} | passed - known)]
    return lost


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _price(wishes: Mapping[str, Any]) -> float:
    """US dollars for the whole video."""
    offer = OFFERS[wishes["model"]]
    lines = wishes.get("resolution", next(iter(offer.usd)))
    usd = offer.usd[lines]
    if offer.on_usd is not None and "previous_job_id" in wishes:
        usd = offer.on_usd[lines]
    elif offer.silent_usd is not None and not wishes.get("generate_audio", offer.audio):
        usd = offer.silent_usd[lines]
    if offer.by_token:
        usd *= _pixels(lines, wishes.get("aspect_ratio", "16:9")) * TOKENS_A_SECOND
    seconds: int = wishes.get("duration", offer.durations[0])
    images = len(wishes.get("frame_images", ())) + len(wishes.get("input_references", ()))
    return round(seconds * usd + images * offer.image_usd, 6)


def _pixels(lines: str, ratio: str) -> float:
    short = LINES.get(lines) or int(lines.removesuffix("p"))
    across, down = (int(part) for part in ratio.split(":"))
    return short * short * max(across, down) / min(across, down)


def _listed(id: str, offer: Offer) -> dict[str, object]:
    unit = "video_tokens" if offer.by_token else "duration_seconds"
    return {
        "id": id,
        "canonical_slug": id,
        "name": id,
        "created": 0,
        "supported_resolutions": list(offer.usd),
        "supported_aspect_ratios": offer.ratios.split(),
        "supported_sizes": None,
        "supported_durations": list(offer.durations),
        "supported_frame_images": offer.frames.split(),
        "generate_audio": offer.audio,
        "seed": offer.seed,
        "pricing_skus": {f"{unit}_{lines.lower()}": str(usd) for lines, usd in offer.usd.items()},
        "allowed_passthrough_parameters": offer.passes.split(),
    }
