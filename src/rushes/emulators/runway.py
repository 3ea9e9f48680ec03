"""Runway's twin: tasks, uploads and results as the real service answers them, and a ledger of what it charged.

    POST   /v1/text_to_video, image_to_video, video_to_video, video_upscale, character_performance
    GET    /v1/tasks/{id}           a finished one: with fresh links
    DELETE /v1/tasks/{id}           cancels, or removes with its clip; from then on it is not there
    POST   /v1/uploads              a place for a file
    POST   /ephemeral/{id}          the file itself, as a form: no key asked
    GET    /out/{id}.mp4?_jwt=…     a result: the link is the permission, for `link_s`

Time is what the caller says it is: a task runs `start_s` after it got a place, and is done after `render_s` more. With
`at_once` the tasks of one model beyond that many wait for a place (THROTTLED); with `daily` a model takes that many in
24 hours, and refuses the rest. A prompt with the word "forbidden" or "flagged" is withheld by moderation, before or
after rendering; one with "broken" gives a bad clip, one with "unlucky" an error of their own.

Not known of the real service, and so decided here: a clip whose request says no length costs `USUAL_S`, for nobody
looks into files. Every result is the one clip, whatever format was asked for.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Unpack
from uuid import UUID

from msgspec import Struct

from rushes.adapters.base import Inline, Response
from rushes.emulators import base
from rushes.emulators.base import Asked, Life, ProviderTwin, Route, Usual, as_json, fits, iso
from rushes.emulators.faults import ExpiredUrl
from rushes.emulators.runway_forms import FORMS, KINDS, Form, Text, is_good, uploads

VERSION: Final = "2024-11-06"
UPLOADS_S: Final = 86_400.0
DAY_S: Final = 86_400.0
USUAL_S: Final = 5
MICRO_USD_PER_CREDIT: Final = 10_000
DOCS: Final = "https://docs.dev.runwayml.com/api"
ADDRESSES: Final = sorted({address for address, _ in FORMS})
FAILURES: Final = {  # a word of the prompt: what the task says, and its code
    "forbidden": ("Your prompt was flagged by our content moderation system.", "SAFETY.INPUT.TEXT"),
    "flagged": ("The generated video was flagged by our content moderation system.", "SAFETY.OUTPUT.VIDEO"),
    "broken": ("The generated video did not meet our quality bar.", "INTERNAL.BAD_OUTPUT.CODE01"),
    "unlucky": ("An unexpected error occurred.", "INTERNAL"),
}


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


class Refused(base.Refused):
    """An error."""

    def __init__(self, status: int, error: str, **more: object) -> None:
        super().__init__(status, {"error": error, **more})


class _Issue(Struct, frozen=True):
    """One thing that is wrong with a body."""

    code: str
    path: list[str | int]
    message: str


class RunwayTwin(ProviderTwin):
    """The whole service in one object. A charge is what a task that was taken costs; one that fails gets it back."""

    name = "runway"
    unit = "credits"
    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "status_word", "not_found"})

    def __init__(
        self,
        *,
        clip: bytes,
        link_s: float = DAY_S,
        at_once: int | None = None,
        daily: int | None = None,
        **usual: Unpack[Usual],
    ) -> None:
        """`link_s`: how long an address works; `at_once` and `daily` are limits of each model."""
        super().__init__(clip=clip, **usual)
        self.tasks: dict[str, Task] = {}
        self.uploads: dict[str, Upload] = {}
        self._link_s, self._at_once, self._daily = link_s, at_once, daily

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        return (
            Route("download", "GET", r"/out/([\w-]+)\.mp4", self._result, keyless=True),
            Route("prepare", "POST", r"/ephemeral/([\w-]+)", self._take_file, keyless=True),
            Route("prepare", "POST", r"/v1/uploads()", self._upload),
            Route("submit", "POST", rf"/v1/({'|'.join(ADDRESSES)})", self._create),
            Route("status", "GET", r"/v1/tasks/([\w-]+)", self._get),
            Route("cancel", "DELETE", r"/v1/tasks/([\w-]+)", self._delete),
        )

    def admit(self, asked: Asked) -> None:
        """The key, then the version of the interface: both on every call."""
        if asked.key is None or not self.accepts(asked.key):
            raise Refused(401, "The API key that was given is not valid.", docUrl=DOCS)
        if asked.headers.get("x-runway-version") != VERSION:
            raise Refused(400, f"The header X-Runway-Version must be {VERSION}.", docUrl=DOCS)

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002 - it does not repeat the address
        """Nothing is there, or another method is needed."""
        return Refused(405, "Method not allowed") if known else _not_found()

    def throttled(self) -> Refused:
        """Its 429."""
        return Refused(429, "You have reached the daily limit of generations with this model.")

    # ── Tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, asked: Asked, address: str) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        body = _body(asked)
        form, known = _validate(address, body)
        self._check_uploads(asked, form, known)
        model, words = str(body["model"]), asked.words(known.get("promptText", ""))
        self._limit(model, asked.now)
        rate = form.credits if known.get("audio", True) else form.silent or form.credits
        made = Task(
            id=self._fresh_id(),
            model=model,
            input=body,
            credits=rate * int(known.get("duration", USUAL_S)),
            created_at=asked.now,
            failure=next((told for word, told in FAILURES.items() if word in words), None),
        )
        self.tasks[made.id] = made
        self.charge(made.id, asked.now, made.credits, made.credits * MICRO_USD_PER_CREDIT, f"{model}, {address}")
        return as_json(200, {"id": made.id, "estimatedCost": {"credits": made.credits}})

    def _get(self, asked: Asked, id: str) -> Response:
        task = self._known(id)
        if self.hides(asked, id):
            raise _not_found()
        return as_json(200, self._view(task, asked))

    def _delete(self, asked: Asked, id: str) -> Response:
        self._known(id).deleted_at = asked.now
        return Response(status=204)

    def _result(self, asked: Asked, id: str) -> Response:
        """A link says itself until when it works."""
        task, until = self._known(id), asked.query.get("_jwt", "").partition(".")[0]
        if (
            asked.query.get("_jwt") != self._permission(id, until)
            or asked.now * 1000 >= int(until or "0")
            or asked.hit(ExpiredUrl)
        ):
            return Response(status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
        if self._status(task, asked.now) != "SUCCEEDED":
            raise _not_found()
        return self.result(asked)

    def _known(self, id: str) -> Task:
        if id not in self.tasks or self.tasks[id].deleted_at is not None:
            raise _not_found()
        return self.tasks[id]

    def _limit(self, model: str, now: float) -> None:
        recent = sum(task.model == model and task.created_at > now - DAY_S for task in self.tasks.values())
        if self._daily is not None and recent >= self._daily:
            raise self.throttled()

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
            left = self.life(admitted).ends_at
            if task.deleted_at is not None:
                left = min(left, task.deleted_at)
            if left > admitted:
                heapq.heapreplace(free, left)
        raise AssertionError(wanted.id)

    def _life(self, task: Task) -> Life:
        return self.life(self._admitted_at(task))

    def _status(self, task: Task, now: float) -> str:
        admitted_at, over = self._admitted_at(task), "FAILED" if task.failure else "SUCCEEDED"
        waiting = "PENDING" if now >= admitted_at else "THROTTLED"
        return {"waiting": waiting, "running": "RUNNING", "over": over}[self.life(admitted_at).stage(now)]

    def _view(self, task: Task, asked: Asked) -> dict[str, object]:
        """One of six shapes, by status; a deleted task has none."""
        status = asked.said(self._status(task, asked.now))
        view: dict[str, object] = {"id": task.id, "createdAt": iso(task.created_at), "status": status}
        if status == "SUCCEEDED":
            until = str(round((asked.now + self._link_s) * 1000))
            link = f"{asked.origin}/out/{task.id}.mp4?_jwt={self._permission(task.id, until)}"
            return view | {"output": [link], "cost": {"credits": task.credits}}
        if status == "FAILED" and task.failure:
            words, code = task.failure
            return view | {"failure": words, "failureCode": code, "cost": {"credits": 0}}
        view["estimatedCost"] = {"credits": task.credits}
        if status == "RUNNING":
            run_s = asked.now - self._life(task).begins_at
            view["progress"] = round(min(1.0, max(0.0, run_s / (self._render_s or 1.0))), 4)
        return view

    def _permission(self, id: str, until: str) -> str:
        return f"{until}.{hashlib.sha256(f'{self._seed}/{id}/{until}'.encode()).hexdigest()[:32]}"

    def _fresh_id(self, kind: str = "") -> str:
        return str(UUID(bytes=self.draw(kind)[:16], version=4))

    # ── Uploads ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _upload(self, asked: Asked, _: str) -> Response:
        body = _body(asked)
        name = str(body.get("filename", ""))
        if body.get("type") != "ephemeral" or not re.fullmatch(r".{1,250}\.\w{1,10}", name) or len(name) < 3:
            raise _invalid(_Issue("invalid", ["filename"], "A name with an extension, and the type ephemeral"))
        made = Upload(id=self._fresh_id("upload"), name=name, created_at=asked.now)
        self.uploads[made.id] = made
        where = {"uploadUrl": f"{asked.origin}/ephemeral/{made.id}", "runwayUri": f"runway://ephemeral/{made.id}"}
        return as_json(200, {**where, "fields": {"key": made.id, "policy": "p"}})

    def _take_file(self, asked: Asked, id: str) -> Response:
        """All the fields as they were given, and the file behind them."""
        parts = asked.parts()
        if id not in self.uploads or [part.name for part in parts] != ["key", "policy", "file"]:
            return Response(status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
        content = parts[-1].content
        if isinstance(content, Inline):  # never read: there is no socket between us
            content = content.asset.sha256
        self.uploads[id].content = content if isinstance(content, bytes) else content.encode()
        return Response(status=204)

    def _check_uploads(self, asked: Asked, form: Form, body: Mapping[str, Any]) -> None:
        """What is named must have come, and not be older than a day."""
        for name in body:
            for uri in () if isinstance(form.fields[name], Text) else uploads(body[name]):
                upload = self.uploads.get(uri.rpartition("/")[2])
                if upload is None or upload.content is None or asked.now >= upload.created_at + UPLOADS_S:
                    raise _invalid(_Issue("invalid", [name], "There is no such upload"))


def _body(asked: Asked) -> Mapping[str, Any]:
    return asked.json(_invalid(_Issue("invalid_type", [], "Expected an object")))


def _validate(address: str, body: Mapping[str, Any]) -> tuple[Form, Mapping[str, Any]]:
    """What the model takes, and what is in the body of that: the rest is refused, or ignored."""
    if (form := FORMS.get((address, str(body.get("model"))))) is None:
        raise _invalid(_Issue("invalid_union", ["model"], "There is no such model here"))
    known = {name: value for name, value in body.items() if name in form.fields}
    if issues := [*_shape(form, body)] or [*_values(address, form, known)]:
        raise _invalid(*issues)
    return form, known


def _shape(form: Form, body: Mapping[str, Any]) -> Iterator[_Issue]:
    """What is missing, of another type, or not known."""
    yield from (_Issue("required", [name], "Required") for name in form.required.split() if name not in body)
    for name, value in body.items():
        if name in form.fields and not fits(value, KINDS[type(form.fields[name])]):
            yield _Issue("invalid_type", [name], "Invalid type")
        if form.closed and name not in {*form.fields, "model"}:
            yield _Issue("unrecognized_keys", [name], "Unrecognized key")


def _values(address: str, form: Form, body: Mapping[str, Any]) -> Iterator[_Issue]:
    """What is wrong with values whose types are right, and with two that do not go together."""
    wrong = [name for name, value in body.items() if not is_good(form.fields[name], value)]
    if body.get("mode") == "extend":  # the shape is the clip's
        wrong += ["promptText"] * ("promptText" not in body) + ["ratio"] * ("ratio" in body)
    if (
        body.get("ratio") == "adaptive"
        and address == "text_to_video"
        and not {"references", "referenceVideos"} & set(body)
    ):
        wrong.append("ratio")
    if "proresProfile" in body and body.get("outputFormat") != "prores":
        wrong.append("proresProfile")
    return (_Issue("invalid_value", [name], "Not a value of this model's") for name in dict.fromkeys(wrong))


def _invalid(*issues: _Issue) -> Refused:
    return Refused(400, "Validation of body failed", issues=issues, docUrl=DOCS)


def _not_found() -> Refused:
    return Refused(404, "Not found")
