"""xAI's video twin: clips start, grow and are delivered as by the real service, and a ledger says what was charged.

    POST   /v1/videos/generations                     start a clip
    GET    /v1/videos/{request_id}                    202 while it grows, then 200
    GET    /xai-vidgen-bucket/xai-video-{id}.mp4      a result: no key asked, parts of it where asked for

Time is what the caller says it is: a clip is done `render_s` after its request, and its progress stands at 1 for most
of that. Words of the prompt decide how it ends: "forbidden" is made, charged and withheld, "disallowed" gets its
verdict as a 400 when it is asked for, "broken" fails; so does, also as a 400, a picture without a prompt.

Not known of the real service, and so decided here: fields that it does not list are refused; a file can be fetched for
`link_s` after an answer that named it; a request expires after a day, and is forgotten after a week.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from rushes.adapters.base import Request, Response

End: TypeAlias = Literal["done", "withheld", "verdict", "failed"]

EXPIRES_S: Final = 86_400.0
FORGOTTEN_S: Final = 7 * 86_400.0
CREATES_PER_MINUTE: Final = 60
MAX_PROMPT: Final = 4096
MAX_REFERENCES: Final = 7
TICKS: Final = 10**10  # a dollar
GROWTH: Final = ((0.95, 94), (0.91, 56), (0.87, 18), (0.0, 1))  # from which part of the time on, in percent
RATIOS: Final = frozenset({"1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3"})
SECOND_MILLS: Final[Mapping[str, Mapping[str, int]]] = {  # thousandths of a dollar
    "grok-imagine-video": {"480p": 50, "720p": 70},
    "grok-imagine-video-1.5": {"480p": 80, "720p": 140, "1080p": 250},
}
PICTURE_MILLS: Final = {"grok-imagine-video": 2, "grok-imagine-video-1.5": 10}
KINDS: Final[Mapping[str, type]] = {
    "model": str,
    "prompt": str,
    "duration": int,
    "aspect_ratio": str,
    "resolution": str,
    "image": dict,
    "reference_images": list,
    "user": str,
}
ENDS: Final[Mapping[str, End]] = {
    "forbidden": "withheld",
    "disallowed": "verdict",
    "broken": "failed",
}


class Line(Struct, frozen=True, kw_only=True):
    """One line of the ledger: a request that came, or money that was taken for one."""

    at: float
    what: Literal["request", "charge"]
    about: str  # the method and path, or the request's id


class Clip(Struct, kw_only=True):
    """One job, as far as it does not follow from the time."""

    id: str
    wishes: dict[str, object]
    ticks: int  # what it costs
    created_at: float
    end: End
    named_at: float | None = None  # when an answer last held the file's address


class Refused(Exception):
    """Ends a request with an error of the usual shape."""

    def __init__(self, status: int, code: str, error: str) -> None:
        super().__init__(error)
        self.status, self.problem = status, {"code": code, "error": error}


class XaiTwin:
    """The whole service in one object. `ledger` says what came and what was charged, in order."""

    def __init__(
        self,
        *,
        clip: bytes,
        token: str = "",
        seed: int = 0,
        render_s: float = 100.0,
        link_s: float = 3_600.0,
        keeps_no_data: bool = False,
    ) -> None:
        """`clip` is every result. An empty `token` accepts anyone; `keeps_no_data`: a team that must bring storage."""
        self.ledger: list[Line] = []
        self.clips: dict[str, Clip] = {}
        self._clip, self._token, self._seed = clip, token, seed
        self._render_s, self._link_s, self._keeps_no_data = render_s, link_s, keeps_no_data

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request."""
        url = urlsplit(request.url)
        self.ledger.append(Line(at=now, what="request", about=f"{request.method} {url.path}"))
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            if result := re.fullmatch(r"/xai-vidgen-bucket/xai-video-([\w-]+)\.mp4", url.path):
                return self._result(result[1], headers, now)
            self._check_key(headers)
            if request.method == "POST" and re.fullmatch(r"(?:/v1)?/videos/generations", url.path):
                return self._create(request, now)
            if request.method == "GET" and (asked := re.fullmatch(r"(?:/v1)?/videos/([\w-]+)", url.path)):
                return self._get(asked[1], f"{url.scheme}://{url.netloc}", now)
            raise _not_found()
        except Refused as refused:
            return _json(refused.status, refused.problem)

    @property
    def charges(self) -> list[str]:
        """The requests that were paid."""
        return [line.about for line in self.ledger if line.what == "charge"]

    def _check_key(self, headers: Mapping[str, str]) -> None:
        given = headers.get("authorization", "")
        if self._token and not given:
            raise Refused(401, "unauthenticated", "No credentials were given.")
        if self._token and given != f"Bearer {self._token}":
            raise Refused(400, "invalid-argument", f"Incorrect API key provided: {given[7:9]}***{given[-2:]}.")

    def _create(self, request: Request, now: float) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        if not isinstance(request.body, Mapping):
            raise Refused(415, "invalid-argument", "Expected a request with a JSON body.")
        wishes = dict(request.body)
        _validate(wishes)
        if self._keeps_no_data:
            reason = "Zero Data Retention teams must provide output.upload_url for video generation."
            raise Refused(400, "invalid-argument", reason)
        if sum(line.what == "charge" and line.at > now - 60.0 for line in self.ledger) >= CREATES_PER_MINUTE:
            raise Refused(429, "resource-exhausted", "Too many requests.")
        made = Clip(id=self._fresh_id(), wishes=wishes, ticks=_ticks(wishes), created_at=now, end=_end(wishes))
        self.clips[made.id] = made
        self.ledger.append(Line(at=now, what="charge", about=made.id))
        return _json(200, {"request_id": made.id}, {"x-request-id": f"r-{len(self.clips)}"})

    def _get(self, id: str, origin: str, now: float) -> Response:
        clip = self._known(id, now)
        if now < clip.created_at + self._render_s:
            part = (now - clip.created_at) / self._render_s
            return _json(202, {"status": "pending", "progress": next(at for least, at in GROWTH if part >= least)})
        if clip.end == "verdict":
            raise Refused(400, "invalid-argument", _verdict(clip))
        if now >= clip.created_at + EXPIRES_S:
            return _json(200, {"status": "expired", "model": clip.wishes["model"]})
        return _json(200, self._ended(clip, origin, now))

    def _ended(self, clip: Clip, origin: str, now: float) -> dict[str, object]:
        if clip.end == "failed":
            error = {"code": "internal_error", "message": "The clip could not be generated."}
            return {
                "status": "failed",
                "video": {"duration": 0, "respect_moderation": True},
                "model": "",
                "error": error,
            }
        good = clip.end == "done"
        clip.named_at = now
        url = f"{origin}/xai-vidgen-bucket/xai-video-{clip.id}.mp4" if good else ""
        return {
            "status": "done",
            "video": {"url": url, "duration": clip.wishes.get("duration", 8), "respect_moderation": good},
            "model": clip.wishes["model"],
            "usage": {"cost_in_usd_ticks": clip.ticks},
            "progress": 100,
        }

    def _result(self, id: str, headers: Mapping[str, str], now: float) -> Response:
        clip = self._known(id, now)
        if clip.end != "done" or clip.named_at is None or now >= clip.named_at + self._link_s:
            raise _not_found()
        digest = hashlib.md5(self._clip, usedforsecurity=False).hexdigest()
        about = {"content-type": "video/mp4", "accept-ranges": "bytes", "etag": f'"{digest}"'}
        if not (part := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))):
            return Response(status=200, body=self._clip, headers=about)
        size = len(self._clip)
        first, last = int(part[1]), min(int(part[2] or size), size - 1)
        if first > last:
            return Response(status=416, headers={**about, "content-range": f"bytes */{size}"})
        about["content-range"] = f"bytes {first}-{last}/{size}"
        return Response(status=206, body=self._clip[first : last + 1], headers=about)

    def _known(self, id: str, now: float) -> Clip:
        clip = self.clips.get(id)
        if clip is None or now >= clip.created_at + FORGOTTEN_S:
            raise _not_found()
        return clip

    def _fresh_id(self) -> str:
        """Written like a UUID, and of no version that exists: so are the real ones."""
        digits = hashlib.sha256(f"{self._seed}/{len(self.clips)}".encode()).hexdigest()
        return f"{digits[:8]}-{digits[8:12]}-9{digits[13:16]}-b{digits[17:20]}-{digits[20:32]}"


def _validate(wishes: Mapping[str, object]) -> None:
    """Wrong types are a 422, an unknown model is a 404, and all else is a 400."""
    wrong = [name for name, value in wishes.items() if name in KINDS and not _fits(value, KINDS[name])]
    if wrong:
        raise Refused(422, "invalid-argument", f"Failed to read the body: {wrong[0]}: invalid type.")
    if (resolutions := SECOND_MILLS.get(str(wishes.get("model")))) is None:
        raise Refused(404, "not-found", "The model does not exist, or your team has no access to it.")
    if unknown := sorted(set(wishes) - set(KINDS)):
        raise _invalid(f"Unknown field: {unknown[0]}.")
    references = cast("list[object]", wishes.get("reference_images", []))
    pictures = [wishes["image"], *references] if "image" in wishes else references
    prompt = str(wishes.get("prompt", ""))
    if len(prompt) > MAX_PROMPT or (not prompt.strip() and not pictures):
        raise _invalid(f"The prompt must have from 1 to {MAX_PROMPT} characters.")
    if not 1 <= cast("int", wishes.get("duration", 8)) <= 15:
        raise _invalid("The duration must be from 1 to 15 seconds.")
    if wishes.get("aspect_ratio", "16:9") not in RATIOS:
        raise _invalid("The aspect ratio is not supported.")
    resolution = wishes.get("resolution", "480p")
    if resolution not in resolutions or (references and resolution == "1080p"):
        raise _invalid("The resolution is not supported here.")
    if len(references) > MAX_REFERENCES:
        raise _invalid(f"There may be {MAX_REFERENCES} reference images.")
    if not all(map(_is_picture, pictures)):
        raise _invalid("A picture needs a url, or a data URI of one, or a file_id.")


def _fits(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _is_picture(given: object) -> bool:
    """An address, or what stands for the bytes where there is no socket between us."""
    if not isinstance(given, dict):
        return False
    named = cast("dict[str, object]", given)
    url = named.get("url")
    return bool(named.get("file_id")) or (bool(url) and (not isinstance(url, str) or _is_address(url)))


def _is_address(url: str) -> bool:
    return re.match(r"https://\S|data:image/[\w.+-]+;base64,\S", url) is not None


def _ticks(wishes: Mapping[str, object]) -> int:
    model = str(wishes["model"])
    second_mills = SECOND_MILLS[model][str(wishes.get("resolution", "480p"))]
    pictures = len(cast("list[object]", wishes.get("reference_images", []))) + ("image" in wishes)
    mills = second_mills * cast("int", wishes.get("duration", 8)) + PICTURE_MILLS[model] * pictures
    return mills * TICKS // 1_000


def _end(wishes: Mapping[str, object]) -> End:
    words = str(wishes.get("prompt", "")).lower().split()
    for word, end in ENDS.items():
        if word in words:
            return end
    return "done" if words else "verdict"


def _verdict(clip: Clip) -> str:
    if not clip.wishes.get("prompt"):
        return "A prompt is required to animate an image."
    return "The request was rejected: Content violates usage guidelines."


def _invalid(error: str) -> Refused:
    return Refused(400, "invalid-argument", error)


def _not_found() -> Refused:
    return Refused(404, "not-found", "The requested resource was not found.")


def _json(status: int, content: object, headers: Mapping[str, str] | None = None) -> Response:
    headers = {"content-type": "application/json", **(headers or {})}
    return Response(status=status, body=msgspec.json.encode(content), headers=headers)
