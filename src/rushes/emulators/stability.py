"""Stability's twin: image-to-video as it was answered until it was switched off, and a ledger of what it charged.

    POST /v2beta/image-to-video               start a clip: a form
    GET  /v2beta/image-to-video/result/{id}   202 while it is made, then the clip: bytes, or base64 in JSON, as asked

Time is what the caller says it is: a clip is made within `start_s` and `render_s`, and is there for a day, for the key
that started it alone. A picture that holds the word `forbidden` in its bytes is refused by moderation; what the fault
`moderated` strikes is made, charged and withheld. `retired` answers as if nothing were there.

Not known of the real service, and so decided here: fields that it does not list are refused, and so is a picture whose
size cannot be read.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Unpack

import msgspec
from msgspec import Struct

from rushes.adapters.base import Response
from rushes.emulators import base
from rushes.emulators.base import Asked, ProviderTwin, Route, Usual, as_json, image_size
from rushes.emulators.faults import ExpiredUrl, Flow, Moderated

KEPT_S: Final = 86_400.0
CREDITS: Final = 20.0  # a clip
CREDIT_MICRO_USD: Final = 10_000
MAX_BYTES: Final = 10 * 2**20
SIZES: Final = ("1024x576", "576x1024", "768x768")
BLURRED: Final = b"\0\0\0\x18ftypmp42blurred"
DEFAULTS: Final = {"seed": "0", "cfg_scale": "1.8", "motion_bucket_id": "127"}
RANGES: Final = {"seed": (0, 4_294_967_294), "cfg_scale": (0, 10), "motion_bucket_id": (1, 255)}


class Clip(Struct, frozen=True, kw_only=True):
    """One job, as far as it does not follow from the time."""

    id: str
    key: str | None
    seed: int
    created_at: float
    is_withheld: bool


class StabilityTwin(ProviderTwin):
    """The whole service in one object."""

    name = "stability"
    unit = "credits"
    can: ClassVar = frozenset({"expired_url", "moderated", "status_word", "not_found"})

    render_s = 20.0

    def __init__(
        self, *, clip: bytes, retired: bool = False, credits: float | None = None, **usual: Unpack[Usual]
    ) -> None:
        """`credits` is all that can be spent: None for no end."""
        super().__init__(clip=clip, **usual)
        self.clips: dict[str, Clip] = {}
        self._retired, self._credits = retired, credits

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        return (
            Route("submit", "POST", r"/v2beta/image-to-video()", self._create),
            Route("status", "GET", r"/v2beta/image-to-video/result/(\w+)", self._get),
        )

    def flow(self, asked: Asked) -> Flow | str:
        """Who asks for bytes wants the clip itself."""
        flow = super().flow(asked)
        return "download" if flow == "status" and not _wants_json(asked) else flow

    def admit(self, asked: Asked) -> None:
        """The key."""
        if asked.key is None or not self.accepts(asked.key):
            raise self._refused(401, "unauthorized", "authorization: missing or invalid authentication")

    def nowhere(self, asked: Asked, *, known: bool) -> base.Refused:  # noqa: ARG002 - a method that is wrong is no news
        """Nothing is there."""
        return self._refused(404, "not_found", "id: nothing is there")

    def throttled(self) -> base.Refused:
        """Its 429, without a time."""
        return self._refused(429, "rate_limit_exceeded", "too many requests: wait for a minute")

    def _refused(self, status: int, name: str, error: str) -> base.Refused:
        """An error. Its `id` looks like that of a clip to who does not look at the status."""
        return base.Refused(status, {"id": self.draw("error").hex(), "name": name, "errors": [error]})

    def _create(self, asked: Asked, _: str) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        if self._retired:
            raise self.nowhere(asked, known=False)
        wishes = self._wishes(asked)
        if self._credits is not None and CREDITS * (len(self.charges) + 1) > self._credits:
            raise self._refused(402, "payment_required", "You lack sufficient credits")
        made = Clip(
            id=self.draw().hex(),
            key=asked.key,
            seed=int(wishes["seed"]) or int(self.draw("seed").hex()[:7], 16),
            created_at=asked.now,
            is_withheld=asked.hit(Moderated) is not None,
        )
        self.clips[made.id] = made
        self.charge(made.id, asked.now, CREDITS, int(CREDITS * CREDIT_MICRO_USD), "a clip")
        return as_json(200, {"id": made.id})

    def _wishes(self, asked: Asked) -> dict[str, str]:
        """The fields of the form beside the picture, which is looked at here."""
        wishes, picture = dict(DEFAULTS), b""
        for part in asked.parts():
            match part.name, part.content:
                case "image", bytes() as picture:
                    pass
                case name, str() as text if name in RANGES:
                    wishes[name] = text
                case name, _:
                    raise self._refused(400, "bad_request", f"{name}: is not known here, or of another kind")
        for name, (least, most) in RANGES.items():
            number: Callable[[str], float] = float if name == "cfg_scale" else int
            if not re.fullmatch(r"\d{1,10}(\.\d+)?", wishes[name]) or not least <= _read(wishes[name], number) <= most:
                raise self._refused(400, "bad_request", f"{name}: must be from {least} to {most}")
        if len(picture) > MAX_BYTES:
            raise self._refused(413, "payload_too_large", "image: is larger than 10 MiB")
        if image_size(picture) not in SIZES:
            raise self._refused(400, "bad_request", f"image: its dimensions must be one of {', '.join(SIZES)}")
        if b"forbidden" in picture:
            raise self._refused(403, "content_moderation", "Your request was flagged by our content moderation system")
        return wishes

    def _get(self, asked: Asked, id: str) -> Response:
        clip, now = self.clips.get(id), asked.now
        if clip is None or clip.key != asked.key or self.hides(asked, id) or asked.hit(ExpiredUrl):
            raise self.nowhere(asked, known=False)
        life = self.life(clip.created_at)
        if now >= life.ends_at + KEPT_S:
            raise self.nowhere(asked, known=False)
        word = asked.said("in-progress" if now < life.ends_at else "")
        if word:
            return as_json(202, {"id": id, "status": word})
        reason = "CONTENT_FILTERED" if clip.is_withheld else "SUCCESS"
        if _wants_json(asked):
            video = base64.b64encode(BLURRED if clip.is_withheld else self._clip).decode()
            return as_json(200, {"video": video, "finish_reason": reason, "seed": clip.seed})
        about = {"content-type": "video/mp4", "finish-reason": reason, "seed": str(clip.seed)}
        reply = Response(status=200, body=BLURRED) if clip.is_withheld else self.result(asked)
        return msgspec.structs.replace(reply, headers={**reply.headers, **about})


def _wants_json(asked: Asked) -> bool:
    return asked.headers.get("accept", "").startswith("application/json")


def _read(text: str, number: Callable[[str], float]) -> float:
    try:
        return number(text)
    except ValueError:
        return -1.0
