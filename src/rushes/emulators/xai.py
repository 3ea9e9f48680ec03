"""xAI's video twin: clips start, grow and are delivered as by the real service, and a ledger says what was charged.

    POST   /v1/videos/generations                     start a clip: from words, an image or references
    POST   /v1/videos/edits                           start a clip that is another one, changed
    POST   /v1/videos/extensions                      start a clip that is another one, and goes on
    GET    /v1/videos/{request_id}                    202 while it grows, then 200
    GET    /xai-vidgen-bucket/xai-video-{id}.mp4      a result: no key asked, parts of it where asked for
    GET    /v1/files/{file_id}/content                a result that was to be stored

Time is what the caller says it is: a clip is done `render_s` after its request, and its progress stands at 1 for most
of that. Words of the prompt decide how it ends: "forbidden" is made, charged and withheld, "disallowed" gets its
verdict as a 400 when it is asked for, "broken" fails, "linkless" is done without an address. An image without a prompt
gets its verdict as a 400, too, and so does an extension that is too short or too long.

Not known of the real service, and so decided here: fields that it does not list are refused; an edit costs what eight
seconds of 720p do, an extension what its own seconds do; a stored file has no public address; a file can be fetched for
`link_s` after an answer that named it; a request expires after a day, and is forgotten after a week.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, TypeAlias, Unpack, cast

from msgspec import Struct

from rushes.adapters.base import Response
from rushes.emulators import base
from rushes.emulators.base import Asked, ProviderTwin, Route, Usual, as_json, fits
from rushes.emulators.faults import ExpiredUrl

End: TypeAlias = Literal["done", "withheld", "verdict", "failed", "linkless"]
Wishes: TypeAlias = Mapping[str, Any]

EXPIRES_S: Final = 86_400.0
FORGOTTEN_S: Final = 7 * 86_400.0
CREATES_PER_MINUTE: Final = 60
MAX_PROMPT: Final = 4096
MAX_REFERENCES: Final = 7
MAX_VOICES: Final = 3
STORED_S: Final = (3_600, 2_592_000)
TICKS: Final = 10**10  # a dollar
GROWTH: Final = ((0.95, 94), (0.91, 56), (0.87, 18), (0.0, 1))  # from which part of the time on, in percent
RATIOS: Final = frozenset({"1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3"})
NEWER: Final = "grok-imagine-video-1.5"
SECOND_MILLS: Final[Mapping[str, Mapping[str, int]]] = {  # thousandths of a dollar
    "grok-imagine-video": {"480p": 50, "720p": 70},
    NEWER: {"480p": 80, "720p": 140, "1080p": 250},
}
PICTURE_MILLS: Final = {"grok-imagine-video": 2, NEWER: 10}
KINDS: Final[Mapping[str, type]] = {
    "model": str,
    "prompt": str,
    "duration": int,
    "aspect_ratio": str,
    "resolution": str,
    "image": dict,
    "reference_images": list,
    "reference_audios": list,
    "video": dict,
    "user": str,
    "storage_options": dict,
}
STORING: Final[Mapping[str, tuple[type, ...]]] = {
    "filename": (str,),
    "expires_after": (int,),
    "public_url": (bool, dict),
}
FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "generations": frozenset(KINDS) - {"video"},
    "edits": frozenset({"model", "prompt", "video", "user", "storage_options"}),
    "extensions": frozenset({"model", "prompt", "video", "duration", "storage_options"}),
}
DURATIONS: Final = {"generations": 8, "edits": 8, "extensions": 6}  # where none is given
ENDS: Final[Mapping[str, End]] = {
    "forbidden": "withheld",
    "disallowed": "verdict",
    "broken": "failed",
    "linkless": "linkless",
}


class Clip(Struct, kw_only=True):
    """One job, as far as it does not follow from the time."""

    id: str
    file_id: str  # what it is stored as; empty where it is not
    what: str  # generations, edits, extensions
    wishes: Wishes
    created_at: float
    end: End
    ticks: int = 0  # what it costs
    named_at: float | None = None  # when an answer last held the file's address

    @property
    def is_made(self) -> bool:
        """Whether there will be a file."""
        return self.end in ("done", "linkless")

    @property
    def seconds(self) -> int:
        """How much is made."""
        seconds: int = self.wishes.get("duration", DURATIONS[self.what])
        return seconds


class Refused(base.Refused):
    """An error of the usual shape."""

    def __init__(self, status: int, code: str, error: str) -> None:
        super().__init__(status, {"code": code, "error": error})


class XaiTwin(ProviderTwin):
    """The whole service in one object. `ledger` says what came and what was charged, in order."""

    name = "xai"
    unit = "ticks"
    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "status_word", "not_found"})
    base_path = "/v1"

    start_s = 0.0
    render_s = 100.0

    def __init__(
        self, *, clip: bytes, link_s: float = 3_600.0, keeps_no_data: bool = False, **usual: Unpack[Usual]
    ) -> None:
        """`link_s`: how long an address works; `keeps_no_data`: a team that must bring storage."""
        super().__init__(clip=clip, **usual)
        self.clips: dict[str, Clip] = {}
        self._link_s, self._keeps_no_data = link_s, keeps_no_data

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        return (
            Route("download", "GET", r"/xai-vidgen-bucket/xai-video-([\w-]+)\.mp4", self._result, keyless=True),
            Route("download", "GET", r"(?:/v1)?/files/([\w-]+)/content", self._content),
            Route("submit", "POST", r"(?:/v1)?/videos/(generations|edits|extensions)", self._create),
            Route("status", "GET", r"(?:/v1)?/videos/([\w-]+)", self._get),
        )

    def admit(self, asked: Asked) -> None:
        """A key that is missing and one that is wrong are told apart."""
        given = asked.headers.get("authorization", "")
        if self._key and not given:
            raise Refused(401, "unauthenticated", "No credentials were given.")
        if not self.accepts(asked.key):
            raise Refused(400, "invalid-argument", f"Incorrect API key provided: {given[7:9]}***{given[-2:]}.")

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002 - a method that is wrong is no news here
        """Nothing is there."""
        return _not_found()

    def throttled(self) -> Refused:
        """Its 429."""
        return Refused(429, "resource-exhausted", "Too many requests.")

    def _create(self, asked: Asked, what: str) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        wishes = dict(asked.json(Refused(415, "invalid-argument", "Expected a request with a JSON body.")))
        _validate(wishes, what)
        if self._keeps_no_data:
            reason = "Zero Data Retention teams must provide output.upload_url for video generation."
            raise Refused(400, "invalid-argument", reason)
        if self.charged_within(60.0, asked.now) >= CREATES_PER_MINUTE:
            raise self.throttled()
        words = asked.words(wishes.get("prompt", ""))
        made = Clip(
            id=self._fresh_id(),
            file_id=f"file_{self._fresh_id('file')}" if "storage_options" in wishes else "",
            what=what,
            wishes=wishes,
            created_at=asked.now,
            end="verdict" if _is_of_wrong_length(wishes, what) else _end(words),
        )
        made.ticks = _ticks(made)
        self.clips[made.id] = made
        self.charge(made.id, asked.now, made.ticks, made.ticks * 10**6 // TICKS, f"{wishes['model']}, {what}")
        return as_json(200, {"request_id": made.id}, {"x-request-id": f"r-{len(self.clips)}"})

    def _get(self, asked: Asked, id: str) -> Response:
        clip, now = self._known(id, asked), asked.now
        if self.hides(asked, id):
            raise _not_found()
        running = self.life(clip.created_at).stage(now) == "running"
        word = asked.said("pending" if running else "done")
        if word == "pending":
            part = min(1.0, (now - clip.created_at) / (self._render_s or 1.0))
            return as_json(202, {"status": word, "progress": next(at for least, at in GROWTH if part >= least)})
        if word != "done":
            return as_json(200, {"status": word, "model": clip.wishes["model"]})
        if clip.end == "verdict":
            raise Refused(400, "invalid-argument", _verdict(clip))
        if now >= clip.created_at + EXPIRES_S:
            return as_json(200, {"status": "expired", "model": clip.wishes["model"]})
        return as_json(200, self._ended(clip, asked))

    def _ended(self, clip: Clip, asked: Asked) -> dict[str, object]:
        if clip.end == "failed":
            error = {"code": "internal_error", "message": "The clip could not be generated."}
            return {
                "status": "failed",
                "video": {"duration": 0, "respect_moderation": True},
                "model": "",
                "error": error,
            }
        clip.named_at = asked.now
        url = f"{asked.origin}/xai-vidgen-bucket/xai-video-{clip.id}.mp4" if clip.end == "done" else ""
        video = {"url": url, "duration": clip.seconds, "respect_moderation": clip.end != "withheld"}
        return {
            "status": "done",
            "video": video | _stored(clip),
            "model": clip.wishes["model"],
            "usage": {"cost_in_usd_ticks": clip.ticks},
            "progress": 100,
        }

    def _result(self, asked: Asked, id: str) -> Response:
        clip = self._known(id, asked)
        gone = clip.named_at is None or asked.now >= clip.named_at + self._link_s or asked.hit(ExpiredUrl)
        if clip.end != "done" or gone:
            raise _not_found()
        return self.result(asked)

    def _content(self, asked: Asked, file_id: str) -> Response:
        clip = next((clip for clip in self.clips.values() if clip.file_id == file_id and clip.is_made), None)
        if clip is None or asked.hit(ExpiredUrl) or self.life(clip.created_at).stage(asked.now) != "over":
            raise _not_found()
        if asked.now >= clip.created_at + clip.wishes["storage_options"].get("expires_after", FORGOTTEN_S):
            raise _not_found()
        return self.result(asked)

    def _known(self, id: str, asked: Asked) -> Clip:
        clip = self.clips.get(id)
        if clip is None or asked.now >= clip.created_at + FORGOTTEN_S:
            raise _not_found()
        return clip

    def _fresh_id(self, kind: str = "") -> str:
        """Written like a UUID, and of no version that exists: so are the real ones."""
        digits = self.draw(kind).hex()
        return f"{digits[:8]}-{digits[8:12]}-9{digits[13:16]}-b{digits[17:20]}-{digits[20:32]}"


# ── Wrong input ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _validate(wishes: Wishes, what: str) -> None:
    """Wrong types are a 422, an unknown model is a 404, and all else is a 400."""
    wrong = [name for name, value in wishes.items() if name in KINDS and not fits(value, KINDS[name])]
    if wrong:
        raise Refused(422, "invalid-argument", f"Failed to read the body: {wrong[0]}: invalid type.")
    if str(wishes.get("model")) not in SECOND_MILLS:
        raise Refused(404, "not-found", "The model does not exist, or your team has no access to it.")
    if unknown := sorted(set(wishes) - FIELDS[what]):
        raise _invalid(f"Unknown field: {unknown[0]}.")
    if what == "generations":
        _check_generation(wishes)
    else:
        _check_change(wishes, what)
    _check_storage(wishes.get("storage_options", {"filename": "none"}))


def _check_generation(wishes: Wishes) -> None:
    references, pictures = wishes.get("reference_images", []), _pictures(wishes)
    _check_prompt(wishes, needed=not pictures)
    if not 1 <= wishes.get("duration", 8) <= 15:
        raise _invalid("The duration must be from 1 to 15 seconds.")
    if wishes.get("aspect_ratio", "16:9") not in RATIOS:
        raise _invalid("The aspect ratio is not supported.")
    resolution = wishes.get("resolution", "480p")
    if resolution not in SECOND_MILLS[wishes["model"]] or (references and resolution == "1080p"):
        raise _invalid("The resolution is not supported here.")
    if len(references) > MAX_REFERENCES:
        raise _invalid(f"There may be {MAX_REFERENCES} reference images.")
    if not all(_is_file(picture, "image") for picture in pictures):
        raise _invalid("A picture needs a url, or a data URI of one, or a file_id.")
    _check_voices(wishes)


def _check_voices(wishes: Wishes) -> None:
    voices = wishes.get("reference_audios", [])
    if voices and not (wishes["model"] == NEWER and wishes.get("reference_images")):
        raise _invalid("Voices go with the reference images of a newer model.")
    if len(voices) > MAX_VOICES or not all(_object(voice).get("voice_id") for voice in voices):
        raise _invalid(f"There may be {MAX_VOICES} voices, each with its voice_id.")


def _check_change(wishes: Wishes, what: str) -> None:
    """How long the clip is that comes in, nobody looks here."""
    if wishes["model"] == NEWER:
        raise _invalid(f"The model does not support {what}.")
    _check_prompt(wishes, needed=True)
    if not _is_file(wishes.get("video"), "video"):
        raise _invalid("A video is required: its url, or a data URI of one, or its file_id.")


def _check_prompt(wishes: Wishes, *, needed: bool) -> None:
    prompt = wishes.get("prompt", "")
    if len(prompt) > MAX_PROMPT or (needed and not prompt.strip()):
        raise _invalid(f"The prompt must have from 1 to {MAX_PROMPT} characters.")


def _check_storage(storing: Wishes) -> None:
    for name, value in storing.items():
        if not any(fits(value, kind) for kind in STORING.get(name, ())):
            raise _invalid(f"storage_options.{name} is not known, or of another type.")
    if not storing.get("filename"):
        raise _invalid("storage_options.filename is required.")
    least, most = STORED_S
    if not least <= storing.get("expires_after", least) <= most:
        raise _invalid(f"storage_options.expires_after must be from {least} to {most} seconds.")


def _is_file(given: object, kind: str) -> bool:
    """An address, or what stands for the bytes where there is no socket between us."""
    file = _object(given)
    url = file.get("url")
    return bool(file.get("file_id")) or (bool(url) and (not isinstance(url, str) or _is_address(url, kind)))


def _object(given: object) -> Wishes:
    """The same, or an empty one where it is none."""
    return cast("Wishes", given) if isinstance(given, Mapping) else {}


def _is_address(url: str, kind: str) -> bool:
    return re.match(rf"https://\S|data:{kind}/[\w.+-]+;base64,\S", url) is not None


def _invalid(error: str) -> Refused:
    return Refused(400, "invalid-argument", error)


def _not_found() -> Refused:
    return Refused(404, "not-found", "The requested resource was not found.")


# ── Clips ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pictures(wishes: Wishes) -> list[object]:
    first = [wishes["image"]] if "image" in wishes else []
    return [*first, *wishes.get("reference_images", [])]


def _ticks(clip: Clip) -> int:
    model, wishes = clip.wishes["model"], clip.wishes
    resolution = wishes.get("resolution", "480p") if clip.what == "generations" else "720p"
    mills = SECOND_MILLS[model][resolution] * clip.seconds + PICTURE_MILLS[model] * len(_pictures(wishes))
    return mills * TICKS // 1_000


def _stored(clip: Clip) -> dict[str, object]:
    """The stored file, in an answer."""
    if not clip.file_id or not clip.is_made:
        return {}
    storing = clip.wishes["storage_options"]
    said = {"public_url_error": "A public address could not be made."} if storing.get("public_url") else {}
    return {"file_output": {"file_id": clip.file_id, "filename": storing["filename"], **said}}


def _is_of_wrong_length(wishes: Wishes, what: str) -> bool:
    """Of an extension: it is seen only when the work begins."""
    return what == "extensions" and not 2 <= wishes.get("duration", DURATIONS[what]) <= 10


def _end(words: Sequence[str]) -> End:
    for word, end in ENDS.items():
        if word in words:
            return end
    return "done" if words else "verdict"


def _verdict(clip: Clip) -> str:
    if not clip.wishes.get("prompt"):
        return "A prompt is required to animate an image."
    if _is_of_wrong_length(clip.wishes, clip.what):
        return "The duration must be from 2 to 10 seconds."
    return "The request was rejected: Content violates usage guidelines."
