"""Glint as it runs here: the same wire, with a ledger of what it was asked and what it charged.

POST /v1/clips                  start a clip
GET  /v1/clips?client_name=     the clips of that name
GET  /v1/clips/{clip_id}        one clip
GET  /files/{clip_id}.mp4       a result: no key asked
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from msgspec import Struct

from rushes.adapters.base import Response
from rushes.emulators.base import Asked, ProviderTwin, Refused, Route, as_json, fits
from rushes.emulators.faults import ExpiredUrl

FIELDS: Final[Mapping[str, type]] = {
    "model": str,
    "prompt": str,
    "seconds": int,
    "shape": str,
    "seed": int,
    "client_name": str,
}
SECOND_MICRO_USD: Final = 50_000


class Clip(Struct):
    """One job, as far as it does not follow from the time."""

    id: str
    name: str
    made_at: float
    words: list[str]


class GlintTwin(ProviderTwin):
    """The whole service in one object."""

    name = "glint"
    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "status_word", "not_found"})

    def __init__(self, *, clip: bytes, key: str = "", seed: int = 0) -> None:
        """`clip` is every result; an empty `key` accepts any."""
        super().__init__(clip=clip, key=key, seed=seed)
        self.clips: dict[str, Clip] = {}

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        return (
            Route("submit", "POST", r"/v1/clips()", self._create),
            Route("find", "GET", r"/v1/clips()", self._find),
            Route("status", "GET", r"/v1/clips/([\w-]+)", self._get),
            Route("download", "GET", r"/files/([\w-]+)\.mp4", self._file, keyless=True),
        )

    def admit(self, asked: Asked) -> None:
        """One error for a key that is missing and one that is wrong."""
        if asked.key is None or (self._key and asked.key != self._key):
            raise _refused(401, "bad_key", "The key is missing or wrong.")

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002
        """Nothing is there."""
        return _refused(404, "not_found", "There is nothing here.")

    def throttled(self) -> Refused:
        """Its 429."""
        return _refused(429, "too_fast", "Too many requests.")

    def _create(self, asked: Asked, _: str) -> Response:
        body = asked.json(_refused(400, "bad_request", "The body must be a JSON object."))
        for name, value in body.items():
            if name != "picture" and (name not in FIELDS or not fits(value, FIELDS[name])):
                raise _refused(400, "bad_request", f"{name} is not right.")
        if body.get("model") != "glint-1" or body.get("seconds") not in (4, 8) or not body.get("prompt"):
            raise _refused(400, "bad_request", "model, seconds and prompt are needed.")
        if "picture" not in body and body.get("shape") not in ("16:9", "9:16"):
            raise _refused(400, "bad_request", "shape is 16:9 or 9:16.")
        made = Clip(
            f"clip-{self.draw().hex()[:16]}", body.get("client_name", ""), asked.now, asked.words(body["prompt"])
        )
        self.clips[made.id] = made
        cost = body["seconds"] * SECOND_MICRO_USD
        self.charge(made.id, asked.now, cost / 1e6, cost, "a clip")
        return as_json(201, {"clip_id": made.id})

    def _find(self, asked: Asked, _: str) -> Response:
        found = [clip for clip in self.clips.values() if clip.name == asked.query.get("client_name")]
        return as_json(200, {"clips": [self._shown(clip, asked) for clip in found]})

    def _get(self, asked: Asked, name: str) -> Response:
        if name not in self.clips or self.hides(asked, name):
            raise _refused(404, "not_found", "There is no such clip.")
        return as_json(200, self._shown(self.clips[name], asked))

    def _shown(self, clip: Clip, asked: Asked) -> dict[str, object]:
        stage = self.life(clip.made_at).stage(asked.now)
        bad = {"forbidden": "blocked", "broken": "the renderer gave up"}
        reason = next((bad[word] for word in clip.words if word in bad), "")
        end = "failed" if reason else "ready"
        state = asked.said({"waiting": "waiting", "running": "rendering", "over": end}[stage])
        told: dict[str, object] = {"clip_id": clip.id, "state": state, "percent": 100 if stage == "over" else 40}
        if state == "ready":
            told["file"] = f"{asked.origin}/files/{clip.id}.mp4"
        return told | ({"reason": reason} if state == "failed" else {})

    def _file(self, asked: Asked, name: str) -> Response:
        if name not in self.clips or asked.hit(ExpiredUrl):
            raise _refused(404, "not_found", "There is no such file.")
        return self.result(asked)


def _refused(status: int, code: str, message: str) -> Refused:
    return Refused(status, {"error": {"code": code, "message": message}})
