"""Sora's twin: `/v1/videos` as OpenAI answered it until it was switched off, and a ledger of what it charged.

    POST   /v1/videos                 start a clip: a form, or JSON
    GET    /v1/videos?limit=&order=&after=
    GET    /v1/videos/{id}
    DELETE /v1/videos/{id}            once it has ended
    GET    /v1/videos/{id}/content?variant=video|thumbnail|spritesheet    the clip, or pictures of it: the key is asked
    POST   /v1/videos/{id}/remix      the clip anew, by other words
    POST   /v1/videos/edits           the same of a clip by its id, or of a file
    POST   /v1/videos/extensions      a clip that goes on
    GET    /files/{id}.mp4            where `loose`: the clip, no key asked

Time is what the caller says it is: a clip is queued for `start_s`, in progress for `render_s` more, and there for an
hour. A prompt with the word "blocked" is refused at once, one with "forbidden" is stopped by moderation later, and
"broken" fails. `retired` answers as if the models were gone. `loose` answers as some self-hosted servers do: numbers
for texts, no empty keys, progress in percent, the clip's address in the answer and nowhere else.

Not known of the real service, and so decided here: what fails costs nothing; an edited file counts as four seconds of
the first model; a clip that is not done has no content (409), of whatever variant, and a variant that nobody knows is
invalid (400). The pictures are of the clip that ships with this file, whatever clip it hands out. Characters are left
out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Unpack, cast

from msgspec import Struct

from rushes.adapters.base import Response
from rushes.emulators import base
from rushes.emulators.base import Asked, ProviderTwin, Route, Usual, as_json, image_size, shipped
from rushes.emulators.faults import ExpiredUrl

KEPT_S: Final = 3600.0
SECONDS: Final = ("4", "8", "12", "16", "20")
SECOND_CENTS: Final[Mapping[str, Mapping[str, int]]] = {  # beyond 720 lines as people remember them
    "sora-2": {"720x1280": 10, "1280x720": 10},
    "sora-2-pro": {
        "720x1280": 30,
        "1280x720": 30,
        "1024x1792": 50,
        "1792x1024": 50,
        "1080x1920": 70,
        "1920x1080": 70,
    },
}
FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "create": frozenset({"model", "prompt", "seconds", "size", "input_reference"}),
    "remix": frozenset({"prompt"}),
    "edits": frozenset({"prompt", "video"}),
    "extensions": frozenset({"prompt", "video", "seconds"}),
}
PICTURES: Final = {"thumbnail": ("thumbnail.webp", "image/webp"), "spritesheet": ("spritesheet.jpg", "image/jpeg")}
FATES: Final = {
    "forbidden": ("moderation_blocked", "Your request was blocked by our moderation system."),
    "broken": ("video_generation_failed", "The clip could not be generated."),
}


class File(Struct, frozen=True):
    """One that came with a form. `content` is None where it was never read: no socket is between us."""

    media_type: str
    content: bytes | None


class Clip(Struct, frozen=True, kw_only=True):
    """One job, as far as it does not follow from the time."""

    id: str
    model: str
    prompt: str
    seconds: str
    size: str
    created_at: float
    remixed: str = ""
    error: tuple[str, str] | None = None


class Refused(base.Refused):
    """An error in OpenAI's envelope."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": param, "code": code}
        super().__init__(status, {"error": error})


class SoraTwin(ProviderTwin):
    """The whole service in one object."""

    name = "sora"
    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "status_word", "not_found"})
    base_path = "/v1"
    render_s = 20.0

    def __init__(
        self,
        *,
        clip: bytes,
        retired: bool = False,
        loose: bool = False,
        credit_usd: float | None = None,
        poll_after_ms: int | None = 1000,
        **usual: Unpack[Usual],
    ) -> None:
        """`credit_usd` is all that can be spent; None: no end.

        `poll_after_ms`: when a clip is to be looked at again; None: it is not said.
        """
        super().__init__(clip=clip, **usual)
        self.clips: dict[str, Clip] = {}
        self._retired, self._loose, self._credit_usd = retired, loose, credit_usd
        self._hints = {} if poll_after_ms is None else {"openai-poll-after-ms": f"{poll_after_ms}"}

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        return (
            Route("submit", "POST", r"(?:/v1)?/videos()", self._create),
            Route("submit", "POST", r"(?:/v1)?/videos/(edits|extensions)", self._change),
            Route("submit", "POST", r"(?:/v1)?/videos/([\w-]+)/remix", self._remix),
            Route("find", "GET", r"(?:/v1)?/videos()", self._list),
            Route("status", "GET", r"(?:/v1)?/videos/([\w-]+)", self._get),
            Route("download", "GET", r"(?:/v1)?/videos/([\w-]+)/content", self._content),
            Route("", "DELETE", r"(?:/v1)?/videos/([\w-]+)", self._delete),
            Route("download", "GET", r"/files/([\w-]+)\.mp4", self._file, keyless=True),
        )

    def admit(self, asked: Asked) -> None:
        """The key."""
        if asked.key is None:
            raise Refused(401, "", "You didn't provide an API key.")
        if not self.accepts(asked.key):
            raise Refused(401, "invalid_api_key", "Incorrect API key provided.")

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:
        """Nothing is there, or not with this method."""
        return Refused(405 if known else 404, "unknown_url", f"Invalid URL ({asked.method} {asked.path})")

    def throttled(self) -> Refused:
        """Its 429."""
        refused = Refused(429, "rate_limit_exceeded", "Rate limit reached for requests.")
        refused.headers = {"retry-after": "1", "retry-after-ms": "1000"}
        return refused

    # ── Starting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, asked: Asked, _: str) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        body = _body(asked, "create")
        model = _among(body, "model", "sora-2", list(SECOND_CENTS), otherwise=404)
        if self._retired:
            raise Refused(404, "model_not_found", f"The model `{model}` has been deprecated.", "model")
        size = _among(body, "size", "720x1280", list(SECOND_CENTS[model]))
        seconds = _among(body, "seconds", "4", SECONDS)
        if (given := body.get("input_reference")) is not None:
            _check_reference(given, size)
        return self._start(asked, body, model=model, size=size, seconds=seconds)

    def _remix(self, asked: Asked, id: str) -> Response:
        body, source = _body(asked, "remix"), self._finished(id, asked)
        return self._start(asked, body, model=source.model, size=source.size, seconds=source.seconds, remixed=source.id)

    def _change(self, asked: Asked, what: str) -> Response:
        """A clip by its id goes by its own model; that of a file nobody says."""
        body = _body(asked, what)
        given = body.get("video")
        named = cast("Mapping[str, object]", given).get("id") if isinstance(given, Mapping) else body.get("video[id]")
        if not isinstance(given, File) and not isinstance(named, str):
            raise Refused(400, "missing_required_parameter", "Missing required parameter: 'video'.", "video")
        source = self._finished(named, asked) if isinstance(named, str) else None
        model, size = (source.model, source.size) if source else ("sora-2", "720x1280")
        seconds = source.seconds if source else "4"
        if what == "extensions":
            seconds = _among(body, "seconds", "4", SECONDS)
        return self._start(asked, body, model=model, size=size, seconds=seconds)

    def _start(
        self, asked: Asked, body: Mapping[str, object], *, model: str, size: str, seconds: str, remixed: str = ""
    ) -> Response:
        prompt = str(body.get("prompt", ""))
        words = asked.words(prompt)
        if "blocked" in words:
            raise Refused(400, "sentinel_block", "Your request was blocked by our moderation system.", "prompt")
        cents = int(seconds) * SECOND_CENTS[model][size]
        spent = sum(charge.amount for charge in self.ledger.charges)
        if self._credit_usd is not None and spent + cents / 100 > self._credit_usd:
            raise Refused(429, "insufficient_quota", "You exceeded your current quota.")
        made = Clip(
            id=f"video_{self.draw().hex()[:48]}",
            model=model,
            prompt=prompt,
            seconds=seconds,
            size=size,
            created_at=asked.now,
            remixed=remixed,
            error=next((FATES[word] for word in words if word in FATES), None),
        )
        self.clips[made.id] = made
        if made.error is None:
            self.charge(made.id, asked.now, cents / 100, cents * 10_000, f"{seconds} s of {model}, {size}")
        return as_json(200, self._shown(made, asked))

    # ── Looking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _list(self, asked: Asked, _: str) -> Response:
        rows = sorted(self.clips.values(), key=lambda clip: clip.created_at, reverse=asked.query.get("order") != "asc")
        if after := asked.query.get("after"):
            rows = rows[next((n for n, clip in enumerate(rows, 1) if clip.id == after), len(rows)) :]
        limit = asked.query.get("limit", "20")
        if not re.fullmatch(r"\d{1,3}", limit) or int(limit) > 100:
            raise Refused(400, "invalid_value", "limit must be from 0 to 100.", "limit")
        page = [self._shown(clip, asked) for clip in rows[: int(limit)]]
        ids = [clip.id for clip in rows[: int(limit)]]
        told = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return as_json(200, {"object": "list", "data": page, **told, "has_more": len(rows) > int(limit)})

    def _get(self, asked: Asked, id: str) -> Response:
        clip = self._known(id)
        if self.hides(asked, id):
            raise _missing(id)
        return as_json(200, self._shown(clip, asked), self._hints)

    def _content(self, asked: Asked, id: str) -> Response:
        clip = self._known(id)
        variant = asked.query.get("variant", "video")
        if variant not in ("video", *PICTURES):
            known = ", ".join(["video", *PICTURES])
            raise Refused(400, "invalid_value", f"Invalid value for variant: supported are {known}.", "variant")
        if self._loose:
            raise self.nowhere(asked, known=False)
        return self._sent(clip, asked, variant)

    def _file(self, asked: Asked, id: str) -> Response:
        if not self._loose or id not in self.clips:
            raise self.nowhere(asked, known=False)
        return self._sent(self.clips[id], asked)

    def _sent(self, clip: Clip, asked: Asked, variant: str = "video") -> Response:
        ends_at = self.life(clip.created_at).ends_at
        if asked.hit(ExpiredUrl) or asked.now >= ends_at + KEPT_S:
            raise Refused(404, "not_found", f"The content of '{clip.id}' has expired.")
        if clip.error or asked.now < ends_at:
            raise Refused(409, "video_not_ready", f"Video '{clip.id}' is not completed.")
        if variant == "video":
            return self.result(asked)
        name, media_type = PICTURES[variant]
        return self.result(asked, shipped(name), media_type)

    def _delete(self, asked: Asked, id: str) -> Response:
        clip = self._known(id)
        if self.life(clip.created_at).stage(asked.now) != "over":
            raise Refused(400, "video_in_progress", f"Video '{id}' cannot be deleted while it is being made.")
        del self.clips[id]
        return as_json(200, {"id": id, "object": "video.deleted", "deleted": True})

    def _known(self, id: str) -> Clip:
        if id not in self.clips:
            raise _missing(id)
        return self.clips[id]

    def _finished(self, id: str, asked: Asked) -> Clip:
        clip = self._known(id)
        if clip.error or asked.now < self.life(clip.created_at).ends_at:
            raise Refused(400, "invalid_value", f"Video '{id}' is not completed.", "video")
        return clip

    def _shown(self, clip: Clip, asked: Asked) -> dict[str, object]:
        """The resource."""
        life, now = self.life(clip.created_at), asked.now
        over = "failed" if clip.error else "completed"
        status = asked.said({"waiting": "queued", "running": "in_progress", "over": over}[life.stage(now)])
        part = max(0.0, min(1.0, (now - life.begins_at) / (life.ends_at - life.begins_at or 1.0)))
        done = status == "completed"
        view: dict[str, object] = {
            "id": clip.id,
            "object": "video",
            "model": clip.model,
            "status": status,
            "progress": 100 if done else min(99, int(part * 100)),
            "created_at": int(clip.created_at),
            "completed_at": int(life.ends_at) if done else None,
            "expires_at": int(life.ends_at + KEPT_S) if done else None,
            "prompt": clip.prompt,
            "size": clip.size,
            "seconds": clip.seconds,
            "remixed_from_video_id": clip.remixed or None,
            "error": dict(zip(("code", "message"), clip.error, strict=True))
            if clip.error and status == "failed"
            else None,
        }
        return self._loosely(view, asked) if self._loose else view

    def _loosely(self, view: Mapping[str, object], asked: Asked) -> dict[str, object]:
        told = {name: value for name, value in view.items() if value is not None and name != "object"}
        told |= {"progress": f"{view['progress']}%", "seconds": float(str(view["seconds"])), "peak_memory_mb": 8192.5}
        if view["status"] == "completed":
            told["url"] = f"{asked.origin}/files/{view['id']}.mp4"
        return told


# ── Bodies ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _body(asked: Asked, what: str) -> dict[str, object]:
    """JSON or a form, as one. Raises Refused."""
    given = asked.request.body
    body: dict[str, object] = dict(given) if isinstance(given, Mapping) else {}
    for part in asked.parts():
        is_file = part.filename or not isinstance(part.content, str)
        content = part.content if isinstance(part.content, bytes) else None
        body[part.name] = File(part.media_type, content) if is_file else part.content
    if unknown := sorted(set(body) - FIELDS[what] - {"video[id]"}):
        raise Refused(400, "unknown_parameter", f"Unknown parameter: '{unknown[0]}'.", unknown[0])
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not 1 <= len(prompt) <= 32_000:
        raise Refused(400, "invalid_value", "prompt must have from 1 to 32000 characters.", "prompt")
    return body


def _among(body: Mapping[str, object], name: str, usual: str, known: Sequence[str], *, otherwise: int = 400) -> str:
    """A text that must be one of these."""
    value = body.get(name, usual)
    if value not in known:
        code = "model_not_found" if otherwise == 404 else "invalid_value"
        raise Refused(otherwise, code, f"Invalid value for {name}: supported are {', '.join(known)}.", name)
    return str(value)


def _check_reference(given: object, size: str) -> None:
    """A picture, as large as the clip. One whose size cannot be read here is taken as it is."""
    if isinstance(given, Mapping):
        named = cast("Mapping[str, object]", given)
        if len({"image_url", "file_id"} & set(named)) != 1:
            raise Refused(400, "invalid_value", "Give one of image_url and file_id.", "input_reference")
        return
    if not isinstance(given, File) or given.media_type not in ("image/jpeg", "image/png", "image/webp"):
        raise Refused(400, "invalid_value", "The reference must be a JPEG, PNG or WebP.", "input_reference")
    found = image_size(given.content) if given.content is not None else ""
    if found and found != size:
        raise Refused(400, "invalid_value", "The reference must have the size of the clip.", "input_reference")


def _missing(id: str) -> Refused:
    return Refused(404, "not_found", f"Video with id '{id}' not found.")
