"""OpenRouter's twin: video jobs as the real service answers them, and a ledger of what it charged.

    POST /api/v1/videos                        202, with blank lines before the JSON
    GET  /api/v1/videos/models                 no key asked
    GET  /api/v1/videos/{id}
    GET  /api/v1/videos/{id}/content?index=0   the video: the key is asked
    GET  /stored/{id}.mp4?expires=…            the same by a signed address, where `signed_s` is set: no key asked

Time is what the caller says it is: a job is pending for `pending_s`, in progress for `render_s` more, and its video is
gone `kept_s` after that. It cannot be cancelled. Words in the prompt decide how it ends: see FATES, and "flagged",
"refused" and "unsure" in `_create`. A wish that the model does not know is dropped in silence: `dropped` names it.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Struct

from rushes.adapters.base import Inline, Request, Response

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
}


class Offer(Struct, frozen=True, kw_only=True):
    """One model of the list. `usd`: a second of video by its resolution."""

    durations: Sequence[int]
    ratios: str
    usd: Mapping[str, float]
    frames: str = "first_frame last_frame"
    audio: bool = True
    seed: bool = True

    def allows(self, name: str) -> bool:
        """Whether the model knows the wish at all."""
        return {"seed": self.seed, "generate_audio": self.audio}.get(name, True)


FIVE: Final = "16:9 9:16 1:1 4:3 3:4"
VEO: Final = Offer(durations=(4, 6, 8), ratios="16:9 9:16", usd={"720p": 0.4, "1080p": 0.4, "4K": 0.6})
KLING: Final = Offer(durations=range(3, 16), ratios="16:9 9:16 1:1", usd={"720p": 0.168}, seed=False)
OFFERS: Final[Mapping[str, Offer]] = {
    "x-ai/grok-imagine-video": Offer(
        durations=range(1, 16),
        ratios=f"{FIVE} 3:2 2:3",
        usd={"480p": 0.05, "720p": 0.07},
        frames="first_frame",
        audio=False,
        seed=False,
    ),
    "google/veo-3.1": VEO,
    "google/veo-3.1-fast": msgspec.structs.replace(VEO, usd={"720p": 0.1, "1080p": 0.12, "4K": 0.3}),
    "google/veo-3.1-lite": msgspec.structs.replace(VEO, usd={"720p": 0.05, "1080p": 0.08}),
    "alibaba/wan-3.0": Offer(
        durations=range(2, 31), ratios=FIVE, usd={"480p": 0.05, "720p": 0.1, "1080p": 0.2}, frames="first_frame"
    ),
    "alibaba/wan-2.7": Offer(durations=range(2, 11), ratios=FIVE, usd={"720p": 0.1, "1080p": 0.1}),
    "kwaivgi/kling-v3.0-pro": KLING,
    "kwaivgi/kling-v3.0-std": msgspec.structs.replace(KLING, usd={"720p": 0.126}),
}


class Line(Struct, frozen=True, kw_only=True):
    """One line of the ledger: a request that came, or money that was taken for one."""

    at: float
    what: Literal["request", "charge"]
    about: str  # the method and path, or the job


class Job(Struct, frozen=True, kw_only=True):
    """One video, as far as it does not follow from the time."""

    id: str
    generation_id: str
    wishes: Mapping[str, Any]
    usd: float
    created_at: float
    ends: str = "completed"
    error: str = ""


class Refused(Exception):
    """Ends a request with an error: `code` inside the envelope, under the status `under`."""

    def __init__(
        self, code: int, message: str, *, under: int = 0, metadata: object = None, retry_after: str = ""
    ) -> None:
        super().__init__(message)
        self.error = {"message": message, "code": code} | ({"metadata": metadata} if metadata else {})
        self.status = under or code
        self.headers = {"retry-after": retry_after} if retry_after else {}


class OpenRouterTwin:
    """The whole service in one object. `ledger` says what came and what was charged, in order."""

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
        credit_usd: float | None = None,
        per_minute: int | None = None,
        at_once: int | None = None,
    ) -> None:
        """`clip` is every result. An empty `key` accepts anyone. `signed_s`: how long a signed address works.

        `credit_usd` is all that can be spent, `per_minute` how many jobs are taken, `at_once` how many may be under
        way: None for no end.
        """
        self.ledger: list[Line] = []
        self.jobs: dict[str, Job] = {}
        self.dropped: list[str] = []
        self._clip, self._key, self._seed, self._signed_s = clip, key, seed, signed_s
        self._pending_s, self._render_s, self._kept_s = pending_s, render_s, kept_s
        self._credit_usd, self._per_minute, self._at_once = credit_usd, per_minute, at_once
        self._routes: tuple[tuple[str, str, Callable[[_Asked, str], Response]], ...] = (
            ("POST", r"/videos()", self._create),
            ("GET", r"/videos/([\w.:-]+)", self._get),
            ("GET", r"/videos/([\w.:-]+)/content", self._content),
        )

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request."""
        url = urlsplit(request.url)
        self.ledger.append(Line(at=now, what="request", about=f"{request.method} {url.path}"))
        headers = {name.lower(): value for name, value in request.headers.items()}
        query = dict(parse_qsl(url.query)) | dict(request.query)
        asked = _Asked(request=request, now=now, origin=f"{url.scheme}://{url.netloc}", query=query, headers=headers)
        try:
            return self._answer(asked, url.path)
        except Refused as refused:
            return _json(refused.status, {"error": refused.error}, refused.headers, before=refused.status == 202)

    @property
    def charges(self) -> list[str]:
        """The jobs that were paid."""
        return [line.about for line in self.ledger if line.what == "charge"]

    def _answer(self, asked: _Asked, path: str) -> Response:
        if stored := re.fullmatch(r"/stored/([\w.:-]+)\.mp4", path):
            return self._stored(asked, stored[1])
        if asked.request.method == "GET" and path.endswith("/videos/models"):
            return _json(200, {"data": [_listed(name, offer) for name, offer in OFFERS.items()]})
        if self._key and not asked.headers.get("authorization"):
            raise Refused(401, "Missing Authentication header")
        if self._key and asked.headers["authorization"] != f"Bearer {self._key}":
            raise Refused(401, "User not found.")
        for method, pattern, answer in self._routes:
            if method == asked.request.method and (match := re.fullmatch(f"(?:/api/v1)?{pattern}", path)):
                return answer(asked, match[1])
        raise Refused(404, "Not Found")

    def _create(self, asked: _Asked, _: str) -> Response:
        """What can be refused is refused before anything is charged, and all but one error comes under its status."""
        wishes = self._wishes(asked)
        words = str(wishes.get("prompt", "")).lower().split()
        if "flagged" in words:
            seen = {"reasons": ["violence"], "flagged_input": str(wishes["prompt"])[:50], "provider_name": "Maker"}
            raise Refused(403, "Your input was flagged.", metadata=seen)
        if self._per_minute is not None and self._recent(asked.now) >= self._per_minute:
            raise Refused(429, "Rate limit exceeded", retry_after="30")
        under_way = [job for job in self.jobs.values() if self._status(job, asked.now) in ("pending", "in_progress")]
        if self._at_once is not None and len(under_way) >= self._at_once:
            raise Refused(402, "The budget for jobs under way is used up.", retry_after="10")
        usd = _price(wishes)
        if self._credit_usd is not None and sum(job.usd for job in self.jobs.values()) + usd > self._credit_usd:
            raise Refused(402, "Insufficient credits. Add more to go on.")
        if "refused" in words:
            raise Refused(400, "The maker does not take this request.", under=202)
        made = self._make(wishes, usd, words, asked.now)
        if "unsure" in words:  # it runs, and nobody is told under which id
            raise Refused(502, "The maker's answer was cut off.", under=202)
        told = {"id": made.id, "polling_url": f"{asked.origin}/api/v1/videos/{made.id}", "status": "pending"}
        return _json(202, told, before=True)

    def _wishes(self, asked: _Asked) -> dict[str, Any]:
        """The body as the model understands it."""
        if asked.number("content-length", asked.headers) > MAX_BODY_BYTES:
            raise Refused(413, "Request body is too large")
        body = asked.request.body
        if not isinstance(body, Mapping):
            raise Refused(400, "The body must be a JSON object.")
        if not isinstance(model := body.get("model"), str) or not model:
            raise Refused(400, "model: Required")
        if (offer := OFFERS.get(model)) is None:
            raise Refused(404, f"No endpoints found for {model}.")
        known = {name: value for name, value in body.items() if name in TYPES and offer.allows(name)}
        self.dropped += sorted(set(body) - set(known) - {"model"})
        for name, value in known.items():
            if not _fits(value, TYPES[name]) or not _offered(name, value, offer):
                raise Refused(400, f"{name}: Invalid value for {model}")
        if not known.get("prompt") and not known.get("frame_images"):
            raise Refused(400, "prompt: Required")
        return {"model": model, **known}

    def _make(self, wishes: dict[str, Any], usd: float, words: list[str], now: float) -> Job:
        fate = next((FATES[word] for word in words if word in FATES), ("completed", ""))
        made = Job(
            id=self._fresh("job"),
            generation_id=f"gen-vid-{now:.0f}-{self._fresh('generation')}",
            wishes=wishes,
            usd=usd,
            created_at=now,
            ends=fate[0],
            error=fate[1],
        )
        self.jobs[made.id] = made
        self.ledger.append(Line(at=now, what="charge", about=made.id))
        return made

    def _get(self, asked: _Asked, id: str) -> Response:
        job = self._known(id)
        status = self._status(job, asked.now)
        here = f"{asked.origin}/api/v1/videos/{id}"
        view: dict[str, object] = {"id": id, "generation_id": job.generation_id, "polling_url": here, "status": status}
        if status == "completed" and self._signed_s:
            until = int(asked.now + self._signed_s)
            view |= {"unsigned_urls": [], "urls": [f"{asked.origin}/stored/{id}.mp4?expires={until}"]}
            view |= {"expires_at": until}
        elif status == "completed":
            view |= {"unsigned_urls": [f"{here}/content?index=0"]}
        if status == "completed":
            view |= {"usage": {"cost": job.usd, "is_byok": False}}
        return _json(200, view | ({"error": job.error} if status in ("failed", "dead") else {}))

    def _content(self, asked: _Asked, id: str) -> Response:
        job = self._known(id)
        if asked.query.get("index", "0") != "0":
            raise Refused(400, "index: There is no such video")
        if (status := self._status(job, asked.now)) == "expired":
            raise Refused(410, "The video is gone.")
        if status != "completed":
            raise Refused(409, "The video is not completed.")
        return Response(status=200, body=self._clip, headers={"content-type": "video/mp4"})

    def _stored(self, asked: _Asked, id: str) -> Response:
        if id not in self.jobs or asked.now >= asked.number("expires", asked.query):
            return Response(status=403, body=b"<Error>expired</Error>", headers={"content-type": "application/xml"})
        return Response(status=200, body=self._clip, headers={"content-type": "video/mp4"})

    def _known(self, id: str) -> Job:
        if id not in self.jobs:
            raise Refused(404, "Job not found")
        return self.jobs[id]

    def _status(self, job: Job, now: float) -> str:
        done_at = job.created_at + self._pending_s + self._render_s
        if now < done_at:
            return "pending" if now < job.created_at + self._pending_s else "in_progress"
        return "expired" if now >= done_at + self._kept_s else job.ends

    def _recent(self, now: float) -> int:
        return sum(line.what == "charge" and line.at > now - 60.0 for line in self.ledger)

    def _fresh(self, kind: str) -> str:
        digest = hashlib.sha256(f"{self._seed}/{kind}/{len(self.jobs)}".encode()).digest()
        return b32encode(digest).decode()[:20]


class _Asked(Struct, frozen=True, kw_only=True):
    """A request with what all answers need of it."""

    request: Request
    now: float
    origin: str
    query: dict[str, str]
    headers: dict[str, str]

    def number(self, name: str, among: Mapping[str, str]) -> int:
        """A whole number that a header or the query gives, 0 where there is none."""
        text = among.get(name, "")
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def _fits(value: object, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


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
        case _:
            return True


def _is_frame(frame: object, places: list[str]) -> bool:
    """A picture that was never read (no socket between us) stands for itself."""
    given = _object(frame)
    picture = _object(given.get("image_url")).get("url")
    readable = isinstance(picture, Inline) or str(picture).startswith(("https://", "data:image/"))
    return readable and given.get("type") == "image_url" and given.get("frame_type") in places


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _price(wishes: Mapping[str, Any]) -> float:
    """US dollars for the whole video."""
    offer = OFFERS[wishes["model"]]
    second_usd = offer.usd[wishes.get("resolution", next(iter(offer.usd)))]
    seconds: int = wishes.get("duration", offer.durations[0])
    return round(seconds * second_usd, 6)


def _listed(id: str, offer: Offer) -> dict[str, object]:
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
        "pricing_skus": {f"duration_seconds_{lines}": str(usd) for lines, usd in offer.usd.items()},
        "allowed_passthrough_parameters": [],
    }


def _json(status: int, content: object, headers: Mapping[str, str] | None = None, *, before: bool = False) -> Response:
    headers = {"content-type": "application/json", **(headers or {})}
    return Response(status=status, body=(BLANK if before else b"") + msgspec.json.encode(content), headers=headers)
