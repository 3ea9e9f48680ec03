"""Runway's twin: tasks, uploads and results as the real service answers them, and a ledger of what it charged.

    POST   /v1/text_to_video, /v1/image_to_video
    GET    /v1/tasks/{id}           a finished one: with fresh links
    DELETE /v1/tasks/{id}           cancels, or removes with its clip; from then on it is not there
    POST   /v1/uploads              a place for a file
    POST   /ephemeral/{id}          the file itself, as a form: no key asked
    GET    /out/{id}.mp4?_jwt=…     a result: the link is the permission, for `link_s`

Time is what the caller says it is: a task runs `start_s` after it got a place, and is done after `render_s` more. With
`at_once` the tasks of one model beyond that many wait for a place (THROTTLED); with `daily` a model takes that many in
24 hours, and refuses the rest. A prompt with the word "forbidden" or "flagged" is withheld by moderation, before or
after rendering; one with "broken" gives a bad clip, one with "unlucky" an error of their own.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import msgspec
from msgspec import Struct

from rushes.adapters.base import Inline, Request, Response

VERSION: Final = "2024-11-06"
UPLOADS_S: Final = 86_400.0
DAY_S: Final = 86_400.0
MAX_URI: Final = 5_242_880  # of a data: address; the others are shorter
DOCS: Final = "https://docs.dev.runwayml.com/api"


class Schema(Struct, frozen=True, kw_only=True):
    """What one model takes. `closed`: it refuses fields that it does not know."""

    ratios: str
    durations: Sequence[int]
    credits: int  # a second; with sound where that makes a difference
    silent: int = 0  # a second without sound
    endpoints: str = "text_to_video image_to_video"
    required: str = "ratio"
    others: Mapping[str, type] = {}
    positions: tuple[str | None, ...] = ("first",)
    images: int = 1
    prompt: int = 1000  # at most, in UTF-16 units
    closed: bool = False


GEN4: Final = "1280:720 720:1280 1104:832 832:1104 960:960 1584:672"
VEO: Final = "1280:720 720:1280 1080:1920 1920:1080"
SD: Final = "992:432 864:496 752:560 640:640 560:752 496:864"
HD: Final = "1470:630 1280:720 1112:834 960:960 834:1112 720:1280"
FHD: Final = "2206:946 1920:1080 1664:1248 1440:1440 1248:1664 1080:1920"
UHD: Final = "3840:1646 3840:2160 3840:2880 3840:3840 2880:3840 2160:3840"
SD_5: Final = "992:432 854:480 752:560 640:640 560:752 480:854"
MODERATION: Final[Mapping[str, type]] = {"seed": int, "contentModeration": dict}
SOUND: Final[Mapping[str, type]] = {"audio": bool, "negativePrompt": str}


def _seedance(ratios: str, last_s: int = 15, images: int = 9, prompt: int = 3500) -> Schema:
    """The credits of all but the first are not known: they are as many here."""
    return Schema(
        ratios=ratios,
        durations=range(4, last_s + 1),
        credits=36,
        required="",
        others={"audio": bool},
        positions=("first", "last", None),
        images=images,
        prompt=prompt,
        closed=True,
    )


def _veo(with_sound: int, silent: int) -> Schema:
    seconds, ends = (4, 6, 8), ("first", "last")
    return Schema(
        ratios=VEO, durations=seconds, credits=with_sound, silent=silent, others=SOUND, positions=ends, images=2
    )


SCHEMAS: Final[Mapping[str, Schema]] = {
    "gen4.5": Schema(
        ratios=GEN4, durations=range(2, 11), credits=12, required="ratio duration promptText", others=MODERATION
    ),
    "gen4_turbo": Schema(ratios=GEN4, durations=range(2, 11), credits=5, others=MODERATION, endpoints="image_to_video"),
    "veo3.1": _veo(40, 20),
    "veo3.1_fast": _veo(15, 10),
    "seedance2": _seedance(f"{SD} {HD} {FHD} {UHD}"),
    "seedance2_fast": _seedance(f"{SD} {HD}"),
    "seedance2_mini": _seedance(f"{SD} {HD}"),
    "seedance2_5": _seedance(f"{SD_5} {HD}", 30, 30, 15_000),
}
NARROW: Final = {("gen4.5", "text_to_video"): "1280:720 720:1280"}  # fewer ratios than from an image
COMMON: Final[Mapping[str, type]] = {
    "model": str,
    "promptText": str,
    "promptImage": object,  # an address, or a list of images
    "ratio": str,
    "duration": int,
}
AUTO: Final = {"publicFigureThreshold": "auto"}
LOW: Final = {"publicFigureThreshold": "low"}
FAILURES: Final = {  # a word of the prompt: what the task says, and its code
    "forbidden": ("Your prompt was flagged by our content moderation system.", "SAFETY.INPUT.TEXT"),
    "flagged": ("The generated video was flagged by our content moderation system.", "SAFETY.OUTPUT.VIDEO"),
    "broken": ("The generated video did not meet our quality bar.", "INTERNAL.BAD_OUTPUT.CODE01"),
    "unlucky": ("An unexpected error occurred.", "INTERNAL"),
}


class Line(Struct, frozen=True, kw_only=True):
    """One line of the ledger: a request that came, or a task that was taken: its credits are in its own answers."""

    at: float
    what: Literal["request", "charge"]
    about: str  # the method and path, or the task


class Task(Struct, kw_only=True):
    """One job, as far as it does not follow from the time."""

    id: str
    model: str
    input: Mapping[str, object]
    credits: int
    created_at: float
    failure: tuple[str, str] | None = None
    deleted_at: float | None = None


class Upload(Struct, kw_only=True):
    """One file, once it has come."""

    id: str
    name: str
    created_at: float
    content: bytes | None = None


class Refused(Exception):
    """Ends a request with an error."""

    def __init__(self, status: int, error: str, **more: object) -> None:
        super().__init__(error)
        self.status, self.body = status, {"error": error, **more}


class _Issue(Struct, frozen=True):
    """One thing that is wrong with a body."""

    code: str
    path: list[str | int]
    message: str


class _Asked(Struct, frozen=True, kw_only=True):
    """A request with what all answers need of it."""

    request: Request
    now: float
    origin: str
    query: dict[str, str]
    headers: dict[str, str]

    def json(self) -> Mapping[str, object]:
        """The body, if it is a JSON object."""
        if not isinstance(self.request.body, Mapping):
            raise _invalid(_Issue("invalid_type", [], "Expected an object"))
        return self.request.body


class RunwayTwin:
    """The whole service in one object. `ledger` says what came and what was charged, in order."""

    def __init__(
        self,
        *,
        clip: bytes,
        key: str = "",
        seed: int = 0,
        start_s: float = 1.0,
        render_s: float = 8.0,
        link_s: float = DAY_S,
        at_once: int | None = None,
        daily: int | None = None,
    ) -> None:
        """`clip` is every result. An empty `key` accepts anyone's; `at_once` and `daily` are limits of each model."""
        self.ledger: list[Line] = []
        self.tasks: dict[str, Task] = {}
        self.uploads: dict[str, Upload] = {}
        self._clip, self._key, self._seed, self._link_s = clip, key, seed, link_s
        self._start_s, self._render_s, self._at_once, self._daily = start_s, render_s, at_once, daily
        self._open: tuple[tuple[str, str, Callable[[_Asked, str], Response]], ...] = (
            ("GET", r"/out/([\w-]+)\.mp4", self._result),
            ("POST", r"/ephemeral/([\w-]+)", self._take_file),
        )
        self._routes: tuple[tuple[str, str, Callable[[_Asked, str], Response]], ...] = (
            ("POST", r"/v1/(text_to_video|image_to_video)", self._create),
            ("GET", r"/v1/tasks/([\w-]+)", self._get),
            ("DELETE", r"/v1/tasks/([\w-]+)", self._delete),
            ("POST", r"/v1/uploads()", self._upload),
        )

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request."""
        url = urlsplit(request.url)
        self.ledger.append(Line(at=now, what="request", about=f"{request.method} {url.path}"))
        asked = _Asked(
            request=request,
            now=now,
            origin=f"{url.scheme}://{url.netloc}",
            query=dict(parse_qsl(url.query)) | dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        try:
            return self._answer(asked, url.path)
        except Refused as refused:
            return _json(refused.status, refused.body)

    @property
    def charges(self) -> list[str]:
        """The tasks that were taken."""
        return [line.about for line in self.ledger if line.what == "charge"]

    def _answer(self, asked: _Asked, path: str) -> Response:
        for method, pattern, answer in self._open:
            if method == asked.request.method and (match := re.fullmatch(pattern, path)):
                return answer(asked, match[1])
        self._admit(asked)
        known = [(method, answer, match) for method, p, answer in self._routes if (match := re.fullmatch(p, path))]
        for method, answer, match in known:
            if method == asked.request.method:
                return answer(asked, match[1])
        raise Refused(405, "Method not allowed") if known else _not_found()

    def _admit(self, asked: _Asked) -> None:
        """The key, then the version of the interface: both on every call."""
        said = asked.headers.get("authorization", "")
        if not said.startswith("Bearer ") or (self._key and said != f"Bearer {self._key}"):
            raise Refused(401, "The API key that was given is not valid.", docUrl=DOCS)
        if asked.headers.get("x-runway-version") != VERSION:
            raise Refused(400, f"The header X-Runway-Version must be {VERSION}.", docUrl=DOCS)

    # ── Tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, asked: _Asked, endpoint: str) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        body = asked.json()
        schema, known = _validate(endpoint, body)
        self._check_uploads(asked, known)
        model, prompt = str(known["model"]), str(known.get("promptText", ""))
        self._limit(model, asked.now)
        rate = schema.credits if known.get("audio", True) else schema.silent or schema.credits
        made = Task(
            id=self._fresh_id(len(self.tasks)),
            model=model,
            input=body,
            credits=rate * cast("int", known.get("duration", schema.durations[0])),
            created_at=asked.now,
            failure=next((told for word, told in FAILURES.items() if word in prompt.lower().split()), None),
        )
        self.tasks[made.id] = made
        self.ledger.append(Line(at=asked.now, what="charge", about=made.id))
        return _json(200, {"id": made.id, "estimatedCost": {"credits": made.credits}})

    def _get(self, asked: _Asked, id: str) -> Response:
        return _json(200, self._view(self._known(id), asked))

    def _delete(self, asked: _Asked, id: str) -> Response:
        self._known(id).deleted_at = asked.now
        return Response(status=204)

    def _result(self, asked: _Asked, id: str) -> Response:
        """A link says itself until when it works."""
        task, until = self._known(id), asked.query.get("_jwt", "").partition(".")[0]
        if asked.query.get("_jwt") != self._permission(id, until) or asked.now * 1000 >= int(until or "0"):
            return Response(status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
        if self._status(task, asked.now) != "SUCCEEDED":
            raise _not_found()
        return Response(status=200, body=self._clip, headers={"content-type": "video/mp4"})

    def _known(self, id: str) -> Task:
        if id not in self.tasks or self.tasks[id].deleted_at is not None:
            raise _not_found()
        return self.tasks[id]

    def _limit(self, model: str, now: float) -> None:
        recent = sum(task.model == model and task.created_at > now - DAY_S for task in self.tasks.values())
        if self._daily is not None and recent >= self._daily:
            raise Refused(429, "You have reached the daily limit of generations with this model.")

    def _admitted_at(self, wanted: Task) -> float:
        """When it got a place, or will: those before it in the queue of its model leave theirs in time."""
        if self._at_once is None:
            return wanted.created_at
        free = [0.0] * self._at_once
        for task in self.tasks.values():
            if task.model != wanted.model:
                continue
            admitted = max(task.created_at, free[0])
            if task is wanted:
                return admitted
            left = admitted + self._start_s + self._render_s
            if task.deleted_at is not None:
                left = min(left, task.deleted_at)
            if left > admitted:
                heapq.heapreplace(free, left)
        raise AssertionError(wanted.id)

    def _status(self, task: Task, now: float) -> str:
        admitted = self._admitted_at(task)
        if now >= admitted + self._start_s + self._render_s:
            return "FAILED" if task.failure else "SUCCEEDED"
        if now >= admitted + self._start_s:
            return "RUNNING"
        return "PENDING" if now >= admitted else "THROTTLED"

    def _view(self, task: Task, asked: _Asked) -> dict[str, object]:
        """One of six shapes, by status; a deleted task has none."""
        status = self._status(task, asked.now)
        view: dict[str, object] = {"id": task.id, "createdAt": _iso(task.created_at), "status": status}
        if status == "SUCCEEDED":
            until = str(round((asked.now + self._link_s) * 1000))
            link = f"{asked.origin}/out/{task.id}.mp4?_jwt={self._permission(task.id, until)}"
            return view | {"output": [link], "cost": {"credits": task.credits}}
        if status == "FAILED" and task.failure:
            words, code = task.failure
            return view | {"failure": words, "failureCode": code, "cost": {"credits": 0}}
        view["estimatedCost"] = {"credits": task.credits}
        if status == "RUNNING":
            run_s = asked.now - self._admitted_at(task) - self._start_s
            view["progress"] = round(run_s / self._render_s, 4)
        return view

    def _permission(self, id: str, until: str) -> str:
        return f"{until}.{hashlib.sha256(f'{self._seed}/{id}/{until}'.encode()).hexdigest()[:32]}"

    def _fresh_id(self, count: int) -> str:
        digest = hashlib.sha256(f"{self._seed}/{count}".encode()).digest()
        return str(UUID(bytes=digest[:16], version=4))

    # ── Uploads ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _upload(self, asked: _Asked, _: str) -> Response:
        body = asked.json()
        name = str(body.get("filename", ""))
        if body.get("type") != "ephemeral" or not re.fullmatch(r".{1,250}\.\w{1,10}", name) or len(name) < 3:
            raise _invalid(_Issue("invalid", ["filename"], "A name with an extension, and the type ephemeral"))
        made = Upload(id=self._fresh_id(-1 - len(self.uploads)), name=name, created_at=asked.now)
        self.uploads[made.id] = made
        where = {"uploadUrl": f"{asked.origin}/ephemeral/{made.id}", "runwayUri": f"runway://ephemeral/{made.id}"}
        return _json(200, {**where, "fields": {"key": made.id, "policy": "p"}})

    def _take_file(self, asked: _Asked, id: str) -> Response:
        """All the fields as they were given, and the file behind them."""
        body = asked.request.body
        parts = [] if body is None or isinstance(body, Mapping) else list(body)
        if id not in self.uploads or [part.name for part in parts] != ["key", "policy", "file"]:
            return Response(status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
        content = parts[-1].content
        if isinstance(content, Inline):  # never read: there is no socket between us
            content = content.asset.sha256
        self.uploads[id].content = content if isinstance(content, bytes) else content.encode()
        return Response(status=204)

    def _check_uploads(self, asked: _Asked, body: Mapping[str, object]) -> None:
        """What is named must have come, and not be older than a day."""
        for number, uri in enumerate(_uris(body)):
            if not uri.startswith("runway://"):
                continue
            upload = self.uploads.get(uri.rpartition("/")[2])
            if upload is None or upload.content is None or asked.now >= upload.created_at + UPLOADS_S:
                raise _invalid(_Issue("invalid", ["promptImage", number, "uri"], "There is no such upload"))


def _validate(endpoint: str, body: Mapping[str, object]) -> tuple[Schema, Mapping[str, object]]:
    """What the model takes, and what is in the body of that: the rest is refused, or ignored."""
    schema = SCHEMAS.get(str(body.get("model")))
    if schema is None or endpoint not in schema.endpoints.split():
        raise _invalid(_Issue("invalid_union", ["model"], "There is no such model here"))
    kinds = {**COMMON, **schema.others}
    if endpoint == "text_to_video":
        del kinds["promptImage"]
    known = {name: value for name, value in body.items() if name in kinds}
    if issues := _shape(schema, kinds, endpoint, body) or _values(schema, endpoint, known):
        raise _invalid(*issues)
    return schema, known


def _shape(schema: Schema, kinds: Mapping[str, type], endpoint: str, body: Mapping[str, object]) -> list[_Issue]:
    """What is missing, of another type, or not known."""
    required = f"model {schema.required} {'promptImage' if endpoint == 'image_to_video' else 'promptText'}"
    missing = [_Issue("required", [name], "Required") for name in required.split() if name not in body]
    wrong = [name for name, kind in kinds.items() if name in body and not _is(body[name], kind)]
    unknown = [name for name in body if name not in kinds] if schema.closed else []
    return [
        *missing,
        *(_Issue("invalid_type", [name], "Invalid type") for name in wrong),
        *(_Issue("unrecognized_keys", [name], "Unrecognized key") for name in unknown),
    ]


def _values(schema: Schema, endpoint: str, body: Mapping[str, object]) -> list[_Issue]:
    """What is wrong with values whose types are right."""
    ratios = NARROW.get((str(body["model"]), endpoint), schema.ratios).split()
    fits = {
        "promptText": 1 <= _units(body.get("promptText", "-")) <= schema.prompt,
        "ratio": body.get("ratio", ratios[0]) in ratios,
        "duration": body.get("duration", schema.durations[0]) in schema.durations,
        "seed": 0 <= cast("int", body.get("seed", 0)) < 2**32,
        "negativePrompt": _units(body.get("negativePrompt", "")) <= 1000,
        "contentModeration": body.get("contentModeration", AUTO) in (AUTO, LOW),
        "promptImage": _images_fit(schema, body),
    }
    return [_Issue("invalid_value", [name], "Not a value of this model's") for name, fit in fits.items() if not fit]


def _units(text: object) -> int:
    """The length of a text as Runway counts it, in UTF-16 units."""
    return len(str(text).encode("utf-16-le", "surrogatepass")) // 2


def _images(body: Mapping[str, object]) -> list[object]:
    """An address alone is the first frame."""
    given = body.get("promptImage", [])
    return cast("list[object]", given) if isinstance(given, list) else [{"uri": given, "position": "first"}]


def _images_fit(schema: Schema, body: Mapping[str, object]) -> bool:
    """Keyframes (a first one, and a last one where the model takes it) or references, and never both."""
    if "promptImage" not in body:
        return True
    images = [cast("dict[str, object]", image) for image in _images(body) if isinstance(image, dict)]
    if len(images) != len(_images(body)) or not all(_is_uri(image.get("uri")) for image in images):
        return False
    positions = [image.get("position") for image in images]
    if None in schema.positions and "first" not in positions:
        return positions == [None] * len(positions) and 1 <= len(positions) <= schema.images
    ends = [position for position in schema.positions if position]
    return "first" in positions and all(p in ends and positions.count(p) == 1 for p in positions)


def _is_uri(uri: object) -> bool:
    if isinstance(uri, Inline):
        return uri.form == "data-uri"
    return isinstance(uri, str) and uri.startswith(("https://", "runway://", "data:image/")) and len(uri) <= MAX_URI


def _uris(body: Mapping[str, object]) -> list[str]:
    """The addresses of images that were looked at before; empty for one that stands in the body itself."""
    uris = [cast("dict[str, object]", image)["uri"] for image in _images(body)]
    return [uri if isinstance(uri, str) else "" for uri in uris]


def _is(value: object, kind: type) -> bool:
    if kind is dict:
        return isinstance(value, Mapping)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _invalid(*issues: _Issue) -> Refused:
    return Refused(400, "Validation of body failed", issues=issues, docUrl=DOCS)


def _not_found() -> Refused:
    return Refused(404, "Not found")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(status: int, content: object) -> Response:
    return Response(status=status, body=msgspec.json.encode(content), headers={"content-type": "application/json"})
