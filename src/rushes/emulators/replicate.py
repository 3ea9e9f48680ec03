"""Replicate's twin: predictions, files and results as the real service answers them, and a ledger of what it charged.

    POST   /v1/models/{owner}/{name}/predictions    official models, by name
    POST   /v1/predictions                          community models, by version
    GET    /v1/predictions[/{id}]                   one, or a page of them, newest first
    POST   /v1/predictions/{id}/cancel
    POST   /v1/files, GET and DELETE /v1/files/{id}, GET /v1/files
    GET    /xezq/{id}/output.mp4                    a result: no key asked

Time is what the caller says it is: a prediction starts after `start_s`, is done after `render_s` more, and one hour
later its files are gone. A prompt with the word "forbidden" is refused by moderation, one with "broken" fails.
`Cancel-After` ends one that is late: aborted before it began, canceled afterwards. `Prefer` keeps nobody waiting.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final, Unpack, cast
from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.base import Inline, Part, Response
from rushes.emulators import base
from rushes.emulators.base import Asked, Life, ProviderTwin, Route, Usual, as_json, iso
from rushes.emulators.faults import ExpiredUrl
from rushes.emulators.replicate_schemas import SCHEMAS, VERSIONS, complaints, disagreement

PURGE_S: Final = 3600.0
FILES_S: Final = 86_400.0
PAGE: Final = 100
CREATES_PER_MINUTE: Final = 600
STEPS: Final = 20  # of the bar in the logs
WAITS: Final = re.compile(r"wait(=([1-9]|[1-5]\d|60))?")
DEADLINE: Final = re.compile(r"(\d{1,6})([smh])")
SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}

FAILURES: Final = {
    "forbidden": "The input or output was flagged as sensitive. Please try again with different inputs. (E005)",
    "broken": "The model gave up: tensor shapes do not match.",
}


class Prediction(Struct, kw_only=True):
    """One job, as far as it does not follow from the time."""

    id: str
    model: str
    version: str
    input: dict[str, object]
    created_at: float
    error: str = ""
    cancelled_at: float | None = None
    deadline: float | None = None


class Upload(Struct, frozen=True, kw_only=True):
    """One file."""

    id: str
    name: str
    media_type: str
    content: bytes
    metadata: dict[str, object]
    created_at: float


class Refused(base.Refused):
    """A problem document."""

    def __init__(self, status: int, title: str, detail: str, **more: object) -> None:
        super().__init__(
            status,
            {"title": title, "detail": detail, "status": status, **more},
            {"content-type": "application/problem+json"},
        )


class ReplicateTwin(ProviderTwin):
    """The whole service in one object. What a prediction costs is not known: it is charged as one."""

    name = "replicate"
    unit = "predictions"
    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "status_word", "not_found"})

    def __init__(self, *, clip: bytes, credit: int | None = None, **usual: Unpack[Usual]) -> None:
        """`credit` is how many predictions can be paid; None: any number."""
        super().__init__(clip=clip, **usual)
        self.predictions: dict[str, Prediction] = {}
        self.files: dict[str, Upload] = {}
        self._credit = credit

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        return (
            Route("download", "GET", r"/xezq/(\w+)/output\.mp4", self._result, keyless=True),
            Route("submit", "POST", r"/v1/models/([\w.-]+/[\w.-]+)/predictions", self._create_official),
            Route("submit", "POST", r"/v1/predictions()", self._create_by_version),
            Route("find", "GET", r"/v1/predictions()", self._list),
            Route("status", "GET", r"/v1/predictions/(\w+)", self._get),
            Route("cancel", "POST", r"/v1/predictions/(\w+)/cancel", self._cancel),
            Route("prepare", "POST", r"/v1/files()", self._upload),
            Route("find", "GET", r"/v1/files()", self._list_files),
            Route("prepare", "GET", r"/v1/files/(\w+)", self._get_file),
            Route("prepare", "DELETE", r"/v1/files/(\w+)", self._delete_file),
        )

    def admit(self, asked: Asked) -> None:
        """The key."""
        if not self.accepts(asked.key):
            raise Refused(401, "Unauthenticated", "You did not pass a valid authentication token")

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002 - a method that is wrong is no news here
        """Nothing is there."""
        return _not_found()

    def throttled(self) -> Refused:
        """Its 429."""
        return Refused(429, "Too many requests", "Request was throttled. Your rate limit resets in ~30s.")

    # ── Predictions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _create_official(self, asked: Asked, model: str) -> Response:
        if model not in SCHEMAS or model in VERSIONS.values():
            raise _not_found()
        return self._create(asked, model, "hidden", {"input", *_OPTIONAL})

    def _create_by_version(self, asked: Asked, _: str) -> Response:
        version = str(_body(asked).get("version", ""))
        if (model := VERSIONS.get(version.rpartition(":")[2])) is None:
            raise Refused(422, "Invalid version or not permitted", "There is no such version, or it is not for you.")
        return self._create(asked, model, version, {"version", "input", *_OPTIONAL})

    def _create(self, asked: Asked, model: str, version: str, known: set[str]) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        body = _body(asked)
        if unknown := sorted(set(body) - known):
            raise _invalid([("(root)", f"Additional property {name} is not allowed") for name in unknown])
        given = body.get("input")
        wishes = cast("dict[str, object]", given) if isinstance(given, dict) else {}
        if wrong := [*complaints(model, wishes)]:
            raise _invalid(wrong)
        if self.charged_within(60.0, asked.now) >= CREATES_PER_MINUTE:
            raise self.throttled()
        if self._credit is not None and len(self.charges) >= self._credit:
            raise Refused(402, "Insufficient credit", "You have insufficient credit to run this model.")
        made = Prediction(
            id=b32encode(self.draw()).decode().lower()[:26],
            model=model,
            version=version,
            input=wishes,
            created_at=asked.now,
            error=self._fate(asked, model, wishes),
            deadline=_deadline(asked),
        )
        self.predictions[made.id] = made
        self._owe_callbacks(made, body, asked)
        self.charge(made.id, asked.now, 1, None, model)
        full = self._view(made, asked)
        partial = {
            name: full[name] for name in ("id", "model", "version", "input", "logs", "error", "created_at", "urls")
        }
        prefer = asked.headers.get("prefer", "")
        applied = {"preference-applied": prefer} if WAITS.fullmatch(prefer) else {}
        return as_json(201, {**partial, "status": "starting"}, self._rate_headers(asked.now) | applied)

    def _owe_callbacks(self, made: Prediction, body: Mapping[str, object], asked: Asked) -> None:
        """When it begins and when it ends, as far as that is wished for."""
        wished = body.get("webhook_events_filter", ["start", "completed"])
        for event, at in zip(("start", "completed"), self.life(made.created_at), strict=True):
            if isinstance(wished, list) and event in wished:
                self.call_back(body.get("webhook"), at, lambda at: self._view(made, replace(asked, now=at, struck=())))

    def _fate(self, asked: Asked, model: str, wishes: Mapping[str, object]) -> str:
        """The error that it will end with; empty: it will succeed."""
        words, home = asked.words(wishes.get("prompt", "")), f"{asked.origin}/v1/files/"
        named = [one for given in wishes.values() for one in _each(given)]
        lost = [url for url in named if isinstance(url, str) and url.startswith(home) and not self._has(url, asked)]
        told = next((error for word, error in FAILURES.items() if word in words), "")
        return told or ("An input file could not be fetched: 404." if lost else disagreement(model, wishes))

    def _has(self, url: str, asked: Asked) -> bool:
        file = self.files.get(url.rpartition("/")[2])
        return file is not None and asked.now < file.created_at + FILES_S

    def _get(self, asked: Asked, id: str) -> Response:
        prediction = self._known(id)
        if self.hides(asked, id):
            raise _not_found()
        return as_json(200, self._view(prediction, asked))

    def _cancel(self, asked: Asked, id: str) -> Response:
        """What has ended stays as it is; the rest still looks alive in this answer."""
        prediction = self._known(id)
        answer = as_json(200, self._view(prediction, asked))
        if prediction.cancelled_at is None and asked.now < self._life(prediction).ends_at:
            prediction.cancelled_at = asked.now
        return answer

    def _list(self, asked: Asked, _: str) -> Response:
        after, before = _time(asked, "created_after", 0.0), _time(asked, "created_before", float("inf"))
        found = [p for p in reversed(self.predictions.values()) if after <= p.created_at < before]
        return _page(asked, "predictions", [self._view(prediction, asked) for prediction in found])

    def _list_files(self, asked: Asked, _: str) -> Response:
        """In the order of their ids, as in recordings, not of their times."""
        found = sorted(name for name, file in self.files.items() if asked.now < file.created_at + FILES_S)
        return _page(asked, "files", [_file_view(self.files[name], asked) for name in found])

    def _result(self, asked: Asked, id: str) -> Response:
        prediction = self._known(id)
        gone = self._purged(prediction, asked.now) or asked.hit(ExpiredUrl)
        if self._status(prediction, asked.now) != "succeeded" or gone:
            raise _not_found()
        return self.result(asked)

    def _known(self, id: str) -> Prediction:
        if id not in self.predictions:
            raise _not_found()
        return self.predictions[id]

    def _life(self, prediction: Prediction) -> Life:
        """A cancel ends it where it is, and so does a deadline."""
        life = self.life(prediction.created_at)
        ends = [at for at in (life.ends_at, prediction.cancelled_at, prediction.deadline) if at is not None]
        return life._replace(ends_at=min(ends))

    def _status(self, prediction: Prediction, now: float) -> str:
        begins_at, ends_at = self._life(prediction)
        over = "failed" if prediction.error else "succeeded"
        if ends_at == prediction.cancelled_at:
            over = "canceled"
        elif ends_at == prediction.deadline:
            over = "canceled" if ends_at > begins_at else "aborted"
        return {"waiting": "starting", "running": "processing", "over": over}[self._life(prediction).stage(now)]

    def _purged(self, prediction: Prediction, now: float) -> bool:
        return now >= self._life(prediction).ends_at + PURGE_S

    def _view(self, prediction: Prediction, asked: Asked) -> dict[str, object]:
        now, base = asked.now, f"{asked.origin}/v1/predictions/{prediction.id}"
        status, purged = asked.said(self._status(prediction, now)), self._purged(prediction, now)
        ready = status == "succeeded" and not purged
        begun, ended = self._life(prediction)
        return {
            "id": prediction.id,
            "model": prediction.model,
            "version": prediction.version,
            "input": {} if purged else prediction.input,
            "logs": "" if purged else self._logs(prediction, now),
            "output": f"{asked.origin}/xezq/{prediction.id}/output.mp4" if ready else None,
            "data_removed": purged,
            "error": prediction.error if status == "failed" else None,
            "status": status,
            "source": "api",
            "created_at": iso(prediction.created_at),
            "started_at": iso(begun) if begun <= min(now, ended) else None,
            "completed_at": iso(ended) if now >= ended else None,
            "deadline": None if prediction.deadline is None else iso(prediction.deadline),
            "metrics": {"predict_time": self._render_s} if status == "succeeded" else {},
            "urls": {"get": base, "cancel": f"{base}/cancel"},
        }

    def _logs(self, prediction: Prediction, now: float) -> str:
        """A seed, then the bar as it has grown so far."""
        begun, ended = self._life(prediction)
        run_s = min(now, ended) - begun
        if run_s < 0:
            return ""
        steps = STEPS if not self._render_s else int(STEPS * run_s / self._render_s)
        bar = [f"{100 * step // STEPS:3d}%|{'█' * (step // 2):<10}| {step}/{STEPS}" for step in range(steps + 1)]
        return "\n".join([f"Using seed: {prediction.input.get('seed', 0)}", *bar, ""])

    def _rate_headers(self, now: float) -> dict[str, str]:
        left = CREATES_PER_MINUTE - self.charged_within(60.0, now)
        return {"ratelimit-remaining": str(left), "ratelimit-reset": "1"}

    # ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _upload(self, asked: Asked, _: str) -> Response:
        parts = [part for part in asked.parts() if part.name == "content"]
        if not parts:
            raise _invalid([("(root)", "content is required")])
        content = _bytes_of(parts[0])
        name = hashlib.sha256(content + len(self.files).to_bytes(4, "big")).hexdigest()[:32]
        media_type, file_name = parts[0].media_type, parts[0].filename
        about = _metadata(asked)
        made = Upload(
            id=name, name=file_name, media_type=media_type, content=content, metadata=about, created_at=asked.now
        )
        self.files[name] = made
        return as_json(201, _file_view(made, asked))

    def _get_file(self, asked: Asked, id: str) -> Response:
        return as_json(200, _file_view(self._known_file(asked, id), asked))

    def _delete_file(self, asked: Asked, id: str) -> Response:
        del self.files[self._known_file(asked, id).id]
        return Response(status=204)

    def _known_file(self, asked: Asked, id: str) -> Upload:
        if id not in self.files or asked.now >= self.files[id].created_at + FILES_S:
            raise _not_found()
        return self.files[id]


_OPTIONAL: Final = ("webhook", "webhook_events_filter", "stream")


def _body(asked: Asked) -> Mapping[str, object]:
    return asked.json(Refused(422, "Input validation failed", "- (root): input is required\n"))


def _time(asked: Asked, name: str, otherwise: float) -> float:
    """An ISO 8601 time of the query, as seconds since 1970."""
    if name not in asked.query:
        return otherwise
    try:
        return datetime.fromisoformat(asked.query[name]).timestamp()
    except ValueError as error:
        raise Refused(400, "Bad request", f"{name} is not a time") from error


def _each(given: object) -> Sequence[object]:
    return cast("list[object]", given) if isinstance(given, list) else [given]


def _deadline(asked: Asked) -> float | None:
    """The time that `Cancel-After` sets."""
    told = DEADLINE.fullmatch(asked.headers.get("cancel-after", ""))
    return asked.now + int(told[1]) * SECONDS[told[2]] if told else None


def _page(asked: Asked, of: str, found: Sequence[Mapping[str, object]]) -> Response:
    """Some rows, from the cursor on; the next page has the same query."""
    if not (cursor := asked.query.get("cursor", "0")).isdecimal():
        raise Refused(400, "Bad request", "cursor is not one of ours")
    first = int(cursor)
    query = urlencode({**asked.query, "cursor": first + PAGE})
    more = f"{asked.origin}/v1/{of}?{query}" if len(found) > first + PAGE else None
    return as_json(200, {"previous": None, "next": more, "results": found[first : first + PAGE]})


def _metadata(asked: Asked) -> dict[str, object]:
    """The metadata of an upload: JSON in a part of its own."""
    told = [part.content for part in asked.parts() if part.name == "metadata"]
    try:
        return msgspec.json.decode(told[0], type=dict[str, object]) if told and isinstance(told[0], str) else {}
    except msgspec.DecodeError as error:
        raise _invalid([("metadata", "Invalid type. Expected: object")]) from error


def _invalid(wrong: Sequence[tuple[str, str]]) -> Refused:
    fields = [{"field": where, "description": text, "type": "invalid"} for where, text in wrong]
    detail = "".join(f"- {where}: {text}\n" for where, text in wrong)
    return Refused(422, "Input validation failed", detail, invalid_fields=fields)


def _not_found() -> Refused:
    return Refused(404, "Not found", "The requested resource could not be found.")


def _bytes_of(part: Part) -> bytes:
    """A part's bytes; one that was never read (no socket between us) is stood for by its reference."""
    content = part.content
    if isinstance(content, Inline):
        return content.asset.sha256.encode()
    return content if isinstance(content, bytes) else content.encode()


def _file_view(upload: Upload, asked: Asked) -> dict[str, object]:
    md5 = hashlib.md5(upload.content, usedforsecurity=False).hexdigest()
    return {
        "id": upload.id,
        "name": upload.name,
        "content_type": upload.media_type,
        "size": len(upload.content),
        "etag": md5,
        "checksums": {"sha256": hashlib.sha256(upload.content).hexdigest(), "md5": md5},
        "metadata": upload.metadata,
        "created_at": iso(upload.created_at),
        "expires_at": iso(upload.created_at + FILES_S),
        "urls": {"get": f"{asked.origin}/v1/files/{upload.id}"},
    }
