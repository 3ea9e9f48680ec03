"""Replicate's twin: predictions, files and results as the real service answers them, and a ledger of what it charged.

    POST   /v1/models/{owner}/{name}/predictions    official models, by name
    POST   /v1/predictions                          community models, by version
    GET    /v1/predictions[/{id}]                   one, or a page of them, newest first
    POST   /v1/predictions/{id}/cancel
    POST   /v1/files, GET and DELETE /v1/files/{id}
    GET    /xezq/{id}/output.mp4                    a result: no key asked

Time is what the caller says it is: a prediction starts after `start_s`, is done after `render_s` more, and one hour
later its files are gone. A prompt with the word "forbidden" is refused by moderation, one with "broken" fails.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Struct

from rushes.adapters.base import Inline, Part, Request, Response

PURGE_S: Final = 3600.0
FILES_S: Final = 86_400.0
PAGE: Final = 100
CREATES_PER_MINUTE: Final = 600
STEPS: Final = 20  # of the bar in the logs

SVD: Final = "stability-ai/stable-video-diffusion"
SCHEMAS: Final[Mapping[str, Mapping[type, str]]] = {  # fields by their type
    "prunaai/p-video": {
        str: "prompt image last_frame_image aspect_ratio resolution",
        int: "duration fps seed",
        bool: "draft prompt_upsampling save_audio",
    },
    "bytedance/seedance-2.0": {
        str: "prompt image last_frame_image aspect_ratio resolution",
        int: "duration",
        bool: "generate_audio",
        list: "reference_images",
    },
    "minimax/video-01": {str: "prompt first_frame_image", bool: "prompt_optimizer"},
    SVD: {
        str: "input_image video_length sizing_strategy",
        int: "frames_per_second motion_bucket_id decoding_t seed",
        float: "cond_aug",
    },
}
VERSIONS: Final = {"3f0457e4619daac51203dedb472816fd4af51f3149fa7a9e0b5ffcf1b8172438": SVD}
REQUIRED: Final = {SVD: "input_image"}
FAILURES: Final = {
    "forbidden": "The input or output was flagged as sensitive. Please try again with different inputs. (E005)",
    "broken": "The model gave up: tensor shapes do not match.",
}


class Line(Struct, frozen=True, kw_only=True):
    """One line of the ledger: a request that came, or money that was taken for one."""

    at: float
    what: Literal["request", "charge"]
    about: str  # the method and path, or the prediction


class Prediction(Struct, kw_only=True):
    """One job, as far as it does not follow from the time."""

    id: str
    model: str
    version: str
    input: dict[str, object]
    created_at: float
    error: str = ""
    cancelled_at: float | None = None


class Upload(Struct, frozen=True, kw_only=True):
    """One file."""

    id: str
    name: str
    media_type: str
    content: bytes
    created_at: float


class Refused(Exception):
    """Ends a request with a problem document."""

    def __init__(self, status: int, title: str, detail: str, **more: object) -> None:
        super().__init__(detail)
        self.status, self.problem = status, {"title": title, "detail": detail, "status": status, **more}


class ReplicateTwin:
    """The whole service in one object. `ledger` says what came and what was charged, in order."""

    def __init__(
        self,
        *,
        clip: bytes,
        token: str = "",
        seed: int = 0,
        start_s: float = 1.0,
        render_s: float = 8.0,
        credit: int | None = None,
    ) -> None:
        """`clip` is every result. An empty `token` accepts anyone; `credit` is how many predictions can be paid."""
        self.ledger: list[Line] = []
        self.predictions: dict[str, Prediction] = {}
        self.files: dict[str, Upload] = {}
        self._clip, self._token, self._seed, self._credit = clip, token, seed, credit
        self._start_s, self._render_s = start_s, render_s
        self._routes: tuple[tuple[str, str, Callable[[_Asked, str], Response]], ...] = (
            ("POST", r"/models/([\w.-]+/[\w.-]+)/predictions", self._create_official),
            ("POST", r"/predictions()", self._create_by_version),
            ("GET", r"/predictions()", self._list),
            ("GET", r"/predictions/(\w+)", self._get),
            ("POST", r"/predictions/(\w+)/cancel", self._cancel),
            ("POST", r"/files()", self._upload),
            ("GET", r"/files/(\w+)", self._get_file),
            ("DELETE", r"/files/(\w+)", self._delete_file),
        )

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request."""
        url = urlsplit(request.url)
        self.ledger.append(Line(at=now, what="request", about=f"{request.method} {url.path}"))
        query = dict(parse_qsl(url.query)) | dict(request.query)
        asked = _Asked(request=request, now=now, origin=f"{url.scheme}://{url.netloc}", query=query)
        try:
            return self._answer(asked, url.path)
        except Refused as refused:
            return _json(refused.status, refused.problem, {"content-type": "application/problem+json"})

    @property
    def charges(self) -> list[str]:
        """The predictions that were paid."""
        return [line.about for line in self.ledger if line.what == "charge"]

    def _answer(self, asked: _Asked, path: str) -> Response:
        if result := re.fullmatch(r"/xezq/(\w+)/output\.mp4", path):
            return self._result(asked, result[1])
        headers = {name.lower(): value for name, value in asked.request.headers.items()}
        if self._token and headers.get("authorization") != f"Bearer {self._token}":
            raise Refused(401, "Unauthenticated", "You did not pass a valid authentication token")
        for method, pattern, answer in self._routes:
            if method == asked.request.method and (match := re.fullmatch(f"(?:/v1)?{pattern}", path)):
                return answer(asked, match[1])
        raise _not_found()

    # ── Predictions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _create_official(self, asked: _Asked, model: str) -> Response:
        if model not in SCHEMAS or model in VERSIONS.values():
            raise _not_found()
        return self._create(asked, model, "hidden", {"input", *_OPTIONAL})

    def _create_by_version(self, asked: _Asked, _: str) -> Response:
        version = str(asked.json().get("version", ""))
        if (model := VERSIONS.get(version.rpartition(":")[2])) is None:
            raise Refused(422, "Invalid version or not permitted", "There is no such version, or it is not for you.")
        return self._create(asked, model, version, {"version", "input", *_OPTIONAL})

    def _create(self, asked: _Asked, model: str, version: str, known: set[str]) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        body = asked.json()
        if unknown := sorted(set(body) - known):
            raise _invalid("(root)", [f"Additional property {name} is not allowed" for name in unknown])
        given = body.get("input")
        wishes = cast("dict[str, object]", given) if isinstance(given, dict) else {}
        _validate(model, wishes)
        self._throttle(asked.now)
        if self._credit is not None and len(self.charges) >= self._credit:
            raise Refused(402, "Insufficient credit", "You have insufficient credit to run this model.")
        made = Prediction(
            id=self._fresh_id(), model=model, version=version, input=wishes, created_at=asked.now, error=_fate(wishes)
        )
        self.predictions[made.id] = made
        self.ledger.append(Line(at=asked.now, what="charge", about=made.id))
        full = self._view(made, asked)
        partial = {
            name: full[name] for name in ("id", "model", "version", "input", "logs", "error", "created_at", "urls")
        }
        return _json(201, {**partial, "status": "starting"}, self._rate_headers(asked.now))

    def _get(self, asked: _Asked, id: str) -> Response:
        return _json(200, self._view(self._known(id), asked))

    def _cancel(self, asked: _Asked, id: str) -> Response:
        """What has ended stays as it is; the rest still looks alive in this answer."""
        prediction = self._known(id)
        answer = _json(200, self._view(prediction, asked))
        if prediction.cancelled_at is None and asked.now < self._ended_at(prediction):
            prediction.cancelled_at = asked.now
        return answer

    def _list(self, asked: _Asked, _: str) -> Response:
        after, before = asked.time("created_after", 0.0), asked.time("created_before", float("inf"))
        found = [p for p in reversed(self.predictions.values()) if after <= p.created_at < before]
        first = int(asked.query.get("cursor", "0"))
        page = [self._view(prediction, asked) for prediction in found[first : first + PAGE]]
        more = f"{asked.origin}/v1/predictions?cursor={first + PAGE}" if len(found) > first + PAGE else None
        return _json(200, {"previous": None, "next": more, "results": page})

    def _result(self, asked: _Asked, id: str) -> Response:
        prediction = self._known(id)
        if self._status(prediction, asked.now) != "succeeded" or self._purged(prediction, asked.now):
            raise _not_found()
        return Response(status=200, body=self._clip, headers={"content-type": "video/mp4"})

    def _known(self, id: str) -> Prediction:
        if id not in self.predictions:
            raise _not_found()
        return self.predictions[id]

    def _ended_at(self, prediction: Prediction) -> float:
        done_at = prediction.created_at + self._start_s + self._render_s
        return done_at if prediction.cancelled_at is None else prediction.cancelled_at

    def _status(self, prediction: Prediction, now: float) -> str:
        if now >= self._ended_at(prediction):
            if prediction.cancelled_at is not None:
                return "canceled"
            return "failed" if prediction.error else "succeeded"
        return "processing" if now >= prediction.created_at + self._start_s else "starting"

    def _purged(self, prediction: Prediction, now: float) -> bool:
        return now >= self._ended_at(prediction) + PURGE_S

    def _view(self, prediction: Prediction, asked: _Asked) -> dict[str, object]:
        now, base = asked.now, f"{asked.origin}/v1/predictions/{prediction.id}"
        status, purged = self._status(prediction, now), self._purged(prediction, now)
        ready = status == "succeeded" and not purged
        begun, ended = prediction.created_at + self._start_s, self._ended_at(prediction)
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
            "created_at": _iso(prediction.created_at),
            "started_at": _iso(begun) if begun <= min(now, ended) else None,
            "completed_at": _iso(ended) if now >= ended else None,
            "metrics": {"predict_time": self._render_s} if status == "succeeded" else {},
            "urls": {"get": base, "cancel": f"{base}/cancel"},
        }

    def _logs(self, prediction: Prediction, now: float) -> str:
        """A seed, then the bar as it has grown so far."""
        run_s = min(now, self._ended_at(prediction)) - prediction.created_at - self._start_s
        if run_s < 0:
            return ""
        steps = STEPS if not self._render_s else int(STEPS * run_s / self._render_s)
        bar = [f"{100 * step // STEPS:3d}%|{'█' * (step // 2):<10}| {step}/{STEPS}" for step in range(steps + 1)]
        return "\n".join([f"Using seed: {prediction.input.get('seed', 0)}", *bar, ""])

    def _fresh_id(self) -> str:
        digest = hashlib.sha256(f"{self._seed}/{len(self.predictions)}".encode()).digest()
        return b32encode(digest).decode().lower()[:26]

    def _throttle(self, now: float) -> None:
        if self._recent(now) >= CREATES_PER_MINUTE:
            raise Refused(429, "Too many requests", "Request was throttled. Your rate limit resets in ~30s.")

    def _recent(self, now: float) -> int:
        return sum(line.what == "charge" and line.at > now - 60.0 for line in self.ledger)

    def _rate_headers(self, now: float) -> dict[str, str]:
        return {"ratelimit-remaining": str(CREATES_PER_MINUTE - self._recent(now)), "ratelimit-reset": "1"}

    # ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _upload(self, asked: _Asked, _: str) -> Response:
        body = asked.request.body
        parts = [] if body is None or isinstance(body, Mapping) else [part for part in body if part.name == "content"]
        if not parts:
            raise _invalid("(root)", ["content is required"])
        content = _bytes_of(parts[0])
        name = hashlib.sha256(content + len(self.files).to_bytes(4, "big")).hexdigest()[:32]
        media_type, file_name = parts[0].media_type, parts[0].filename
        made = Upload(id=name, name=file_name, media_type=media_type, content=content, created_at=asked.now)
        self.files[name] = made
        return _json(201, _file_view(made, asked))

    def _get_file(self, asked: _Asked, id: str) -> Response:
        return _json(200, _file_view(self._known_file(asked, id), asked))

    def _delete_file(self, asked: _Asked, id: str) -> Response:
        del self.files[self._known_file(asked, id).id]
        return Response(status=204)

    def _known_file(self, asked: _Asked, id: str) -> Upload:
        if id not in self.files or asked.now >= self.files[id].created_at + FILES_S:
            raise _not_found()
        return self.files[id]


_OPTIONAL: Final = ("webhook", "webhook_events_filter", "stream")


class _Asked(Struct, frozen=True, kw_only=True):
    """A request with what all answers need of it."""

    request: Request
    now: float
    origin: str
    query: dict[str, str]

    def json(self) -> Mapping[str, object]:
        """The body, if it is a JSON object."""
        if not isinstance(self.request.body, Mapping):
            raise Refused(422, "Input validation failed", "- (root): input is required\n")
        return self.request.body

    def time(self, name: str, otherwise: float) -> float:
        """An ISO 8601 time of the query, as seconds since 1970."""
        if name not in self.query:
            return otherwise
        try:
            return datetime.fromisoformat(self.query[name]).timestamp()
        except ValueError as error:
            raise Refused(400, "Bad request", f"{name} is not a time") from error


def _validate(model: str, wishes: Mapping[str, object]) -> None:
    kinds = {name: kind for kind, names in SCHEMAS[model].items() for name in names.split()}
    required = REQUIRED.get(model, "prompt")
    wrong = [] if wishes.get(required) else [f"{required} is required"]
    wrong += [f"Additional property {name} is not allowed" for name in wishes if name not in kinds]
    wrong += [f"{name}: Invalid type" for name in wishes if name in kinds and not _fits(wishes[name], kinds[name])]
    if wrong:
        raise _invalid("input", wrong)


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _fate(wishes: Mapping[str, object]) -> str:
    words = str(wishes.get("prompt", "")).lower().split()
    return next((error for word, error in FAILURES.items() if word in words), "")


def _invalid(where: str, wrong: list[str]) -> Refused:
    fields = [{"field": where, "description": text, "type": "invalid"} for text in wrong]
    detail = "".join(f"- {where}: {text}\n" for text in wrong)
    return Refused(422, "Input validation failed", detail, invalid_fields=fields)


def _not_found() -> Refused:
    return Refused(404, "Not found", "The requested resource could not be found.")


def _bytes_of(part: Part) -> bytes:
    """A part's bytes; one that was never read (no socket between us) is stood for by its reference."""
    content = part.content
    if isinstance(content, Inline):
        return content.asset.sha256.encode()
    return content if isinstance(content, bytes) else content.encode()


def _file_view(upload: Upload, asked: _Asked) -> dict[str, object]:
    return {
        "id": upload.id,
        "name": upload.name,
        "content_type": upload.media_type,
        "size": len(upload.content),
        "checksums": {"sha256": hashlib.sha256(upload.content).hexdigest()},
        "metadata": {},
        "created_at": _iso(upload.created_at),
        "expires_at": _iso(upload.created_at + FILES_S),
        "urls": {"get": f"{asked.origin}/v1/files/{upload.id}"},
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(status: int, content: object, headers: Mapping[str, str] | None = None) -> Response:
    headers = {"content-type": "application/json", **(headers or {})}
    return Response(status=status, body=msgspec.json.encode(content), headers=headers)
