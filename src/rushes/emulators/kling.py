"""Kling's twin: tasks of its wire of 2026 as the real service answers them, and a ledger of what it charged.

    POST   /text-to-video/{model}       {"prompt", "settings", "options"}
    POST   /image-to-video/{model}      {"contents", "settings", "options"}
    GET    /tasks?task_ids=a,b          or ?external_task_ids=x,y: many at once, always a list
    GET    /files/{id}/{n}.mp4          a result: no key asked

Time is what the caller says it is: a task is submitted, is processed after `start_s` and ends after `render_s` more. An
address of a result works for `link_s`; the next answer about the task has another, until the file goes after 30 days.
A prompt with the word "forbidden" is refused by moderation, one with "withheld" is stopped by it later, "broken" fails.

What nobody has seen of the real one is a choice here: what it says of ids that it does not know (`unknown`), and of a
second create under one external id (`duplicate`). Fields that no page names are refused; it may be less strict.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Struct

from rushes.adapters.base import Inline, Request, Response

FILES_S: Final = 30 * 86_400.0
USD_PER_UNIT: Final = Decimal("0.14")
RATIOS: Final = ("16:9", "9:16", "1:1")
LONG: Final = tuple(range(3, 16))
FATES: Final = {
    "withheld": "Failure to pass the risk control system",
    "broken": "The generation did not come to an end",
}
STATUSES: Final = {10: 401, 11: 429, 12: 400, 13: 400, 50: 500}  # by the first two digits of a code …
ODD_STATUSES: Final = {1103: 403, 1202: 404, 1203: 404, 1302: 429, 1303: 429, 1304: 429, 5001: 503, 5002: 504}


class Form(Struct, frozen=True, kw_only=True):
    """What one create path takes beside words and a resolution."""

    durations: Sequence[int]
    resolutions: Sequence[str] = ("720p", "1080p")
    switches: Mapping[str, Sequence[object]] = {}  # settings and their values
    frames: Sequence[str] = ()  # kinds of contents: the first is required
    prompt_chars: int = 20_000  # where no page says less
    only_1080p: frozenset[str] = frozenset()
    units: Mapping[str, str]  # a second of each resolution; "+" behind it: with sound


RATIO: Final[Mapping[str, Sequence[object]]] = {"aspect_ratio": RATIOS}
SOUND: Final[Mapping[str, Sequence[object]]] = {"audio": ("native", "off")}
SHOTS: Final[Mapping[str, Sequence[object]]] = {"multi_shot": (True, False)}
BOTH: Final = ("first_frame", "last_frame")
UNITS: Final = {
    "turbo": {"720p": "0.8", "1080p": "1.0"},
    "3.0": {"720p": "0.6", "1080p": "0.8", "4k": "3.0", "720p+": "0.9", "1080p+": "1.2", "4k+": "3.0"},
    "2.6": {"720p": "0.3", "1080p": "0.5", "1080p+": "1.0"},
    "2.5": {"720p": "0.3", "1080p": "0.5"},
}
UP_TO_4K: Final = ("720p", "1080p", "4k")
FORMS: Final = {
    "text-to-video/kling-3.0-turbo": Form(durations=LONG, switches=RATIO, prompt_chars=3072, units=UNITS["turbo"]),
    "image-to-video/kling-3.0-turbo": Form(
        durations=LONG, frames=("first_frame",), prompt_chars=2500, units=UNITS["turbo"]
    ),
    "text-to-video/kling-3.0": Form(
        durations=LONG,
        resolutions=UP_TO_4K,
        switches={**RATIO, **SOUND, **SHOTS},
        prompt_chars=3072,
        units=UNITS["3.0"],
    ),
    "image-to-video/kling-3.0": Form(
        durations=LONG, resolutions=UP_TO_4K, switches={**SOUND, **SHOTS}, frames=BOTH, units=UNITS["3.0"]
    ),
    "text-to-video/kling-2.6": Form(
        durations=(5, 10),
        switches={**RATIO, **SOUND},
        prompt_chars=2500,
        only_1080p=frozenset({"native"}),
        units=UNITS["2.6"],
    ),
    "image-to-video/kling-2.6": Form(
        durations=(5, 10),
        switches=SOUND,
        frames=BOTH,
        only_1080p=frozenset({"native", "last_frame"}),
        units=UNITS["2.6"],
    ),
    "text-to-video/kling-2.5-turbo": Form(durations=(5, 10), switches=RATIO, units=UNITS["2.5"]),
    "image-to-video/kling-2.5-turbo": Form(
        durations=(5, 10), frames=BOTH, only_1080p=frozenset({"last_frame"}), units=UNITS["2.5"]
    ),
}


class Line(Struct, frozen=True, kw_only=True):
    """One line of the ledger: a request that came, or money that was taken for a task."""

    at: float
    what: Literal["request", "charge"]
    about: str  # the method and path, or the task


class Task(Struct, frozen=True, kw_only=True):
    """One job, as far as it does not follow from the time."""

    id: str
    external_id: str
    path: str
    body: Mapping[str, object]
    created_at: float
    units: Decimal
    duration: int
    error: str  # why it will fail: such a task is never charged


class Refused(Exception):
    """Ends a request with an error of theirs."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class KlingTwin:
    """The whole service in one object. `ledger` says what came and what was charged, in order."""

    def __init__(
        self,
        *,
        clip: bytes,
        key: str = "",
        seed: int = 0,
        start_s: float = 5.0,
        render_s: float = 60.0,
        link_s: float = FILES_S,
        slots: int | None = None,
        credit: int | None = None,
        unknown: Literal["empty", "refused"] = "empty",
        duplicate: Literal["refused", "same"] = "refused",
    ) -> None:
        """`clip` is every result. An empty `key` accepts any key that is none of the old wire's.

        `slots` is how many tasks may be unfinished at once, `credit` how many can be paid; None: any number.
        """
        self.ledger: list[Line] = []
        self.tasks: dict[str, Task] = {}
        self._clip, self._key, self._seed, self._slots, self._credit = clip, key, seed, slots, credit
        self._start_s, self._render_s, self._link_s = start_s, render_s, link_s
        self._unknown, self._duplicate = unknown, duplicate

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request."""
        url = urlsplit(request.url)
        self.ledger.append(Line(at=now, what="request", about=f"{request.method} {url.path}"))
        if result := re.fullmatch(r"/files/(\d+)/(\d{1,9})\.mp4", url.path):
            return self._result(result[1], int(result[2]), now)
        answer = self._route(request, url.path)
        if answer is None:
            return _json(
                404, {"timestamp": _ms(now), "status": 404, "error": "Not Found", "message": "", "path": url.path}
            )
        request_id = hashlib.sha256(f"{self._seed}/{len(self.ledger)}".encode()).hexdigest()[:32]
        try:
            self._authenticate(request)
            data = answer(request, now)
        except Refused as refused:
            status = ODD_STATUSES.get(refused.code, STATUSES[refused.code // 100])
            return _json(status, {"code": refused.code, "message": refused.message, "request_id": request_id})
        return _json(200, {"code": 0, "message": "", "request_id": request_id, "data": data})

    @property
    def charges(self) -> list[str]:
        """The tasks that were paid."""
        return [line.about for line in self.ledger if line.what == "charge"]

    def _route(self, request: Request, path: str) -> Callable[[Request, float], object] | None:
        wanted = "GET" if path == "/tasks" else "POST"
        if path != "/tasks" and path[1:] not in FORMS:
            return None
        if request.method != wanted:
            return _wrong_method
        return self._query if path == "/tasks" else self._create

    def _authenticate(self, request: Request) -> None:
        said = next((value for name, value in request.headers.items() if name.lower() == "authorization"), "")
        key = said.removeprefix("Bearer ")
        if not said:
            raise Refused(1001, "Authorization is empty")
        if key == said or key.count(".") == 2 or self._key not in ("", key):  # two dots: a token of the old wire
            raise Refused(1002, "Authorization is invalid")

    # ── Tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, request: Request, now: float) -> object:
        """Everything that can be refused is refused before anything is charged."""
        path = urlsplit(request.url).path[1:]
        form, order = FORMS[path], _Order(request.body)
        order.check(form)
        external_id = order.external_id()
        known = next((task for task in self.tasks.values() if external_id and task.external_id == external_id), None)
        if known is not None and self._duplicate == "same":
            return self._view(known, now, "")
        if known is not None:
            raise Refused(1201, "external_task_id already exists")
        if self._slots is not None and sum(now < self._ends_at(task) for task in self.tasks.values()) >= self._slots:
            raise Refused(1303, "parallel task over resource pack limit")
        if self._credit is not None and len(self.charges) >= self._credit:
            raise Refused(1102, "Resource pack depleted or expired")
        if "forbidden" in order.words():
            raise Refused(1301, "The request was stopped by content security")
        task = Task(
            id=self._fresh_id(),
            external_id=external_id,
            path=path,
            body=order.body,
            created_at=now,
            units=order.units(form),
            duration=order.duration(),
            error=next((why for word, why in FATES.items() if word in order.words()), ""),
        )
        self.tasks[task.id] = task
        if not task.error:
            self.ledger.append(Line(at=now, what="charge", about=task.id))
        return self._view(task, now, "")

    def _query(self, request: Request, now: float) -> object:
        """Some tasks, by exactly one of their two kinds of id."""
        url = urlsplit(request.url)
        query = dict(parse_qsl(url.query)) | dict(request.query)
        given = [name for name in ("task_ids", "external_task_ids") if query.get(name)]
        if len(given) != 1:
            raise Refused(1201, "Exactly one of task_ids and external_task_ids is needed")
        wanted = query[given[0]].split(",")
        by_theirs = given[0] == "task_ids"
        found = [task for task in self.tasks.values() if (task.id if by_theirs else task.external_id) in wanted]
        if not found and self._unknown == "refused":
            raise Refused(1203, "The task does not exist")
        return [self._view(task, now, f"{url.scheme}://{url.netloc}") for task in found]

    def _result(self, id: str, generation: int, now: float) -> Response:
        task = self.tasks.get(id)
        if task is None or task.error or now < self._ends_at(task) or now >= self._ends_at(task) + FILES_S:
            return Response(status=404)
        if generation != self._generation(task, now):
            return Response(status=403)
        return Response(status=200, body=self._clip, headers={"content-type": "video/mp4"})

    def _ends_at(self, task: Task) -> float:
        return task.created_at + self._start_s + self._render_s

    def _generation(self, task: Task, now: float) -> int:
        """Which of the result's addresses works now."""
        return int((now - self._ends_at(task)) / self._link_s)

    def _status(self, task: Task, now: float) -> str:
        if now >= self._ends_at(task):
            return "failed" if task.error else "succeeded"
        return "processing" if now >= task.created_at + self._start_s else "submitted"

    def _view(self, task: Task, now: float, origin: str) -> dict[str, object]:
        """The task as queries show it; without an `origin`, as its create does."""
        status = self._status(task, now) if origin else "submitted"
        updated_at = {"submitted": task.created_at, "processing": task.created_at + self._start_s}
        view: dict[str, object] = {
            "id": task.id,
            "status": status,
            "create_time": _ms(task.created_at),
            "update_time": _ms(updated_at.get(status, self._ends_at(task))),
            "external_id": task.external_id,
        }
        if not origin:
            return view
        view["message"] = task.error if status == "failed" else ""
        if status == "succeeded":
            url = f"{origin}/files/{task.id}/{self._generation(task, now)}.mp4"
            output = {
                "type": "video",
                "id": task.id,
                "url": url,
                "watermark_url": "",
                "duration": f"{task.duration}.041",
            }
            view |= {"outputs": [output], "billing": _bill(task)}
        return view

    def _fresh_id(self) -> str:
        digest = hashlib.sha256(f"{self._seed}/{len(self.tasks)}".encode()).hexdigest()
        return f"8936{int(digest, 16) % 10**14:014d}"


class _Order:
    """The body of a create."""

    def __init__(self, body: object) -> None:
        if not isinstance(body, Mapping):
            raise Refused(1200, "The body is not a JSON object")
        self.body = cast("Mapping[str, object]", body)
        self._settings, self._options = self._object("settings"), self._object("options")

    def check(self, form: Form) -> None:
        """Raises Refused."""
        self._check_options()
        frames = self._check_contents(form) if form.frames else self._check_prompt(form, self.body.get("prompt"))
        known = {"resolution": form.resolutions, "duration": form.durations, **form.switches}
        for name, value in self._settings.items():
            allowed = known.get(name, ())
            if value not in allowed or type(value) is not type(allowed[0]):  # 5.0 is not a duration
                raise Refused(1201, f"settings.{name} is invalid")
        dear = form.only_1080p & {*frames, str(self._settings.get("audio", "off"))}
        if dear and self._resolution() != "1080p":
            raise Refused(1201, f"settings.resolution must be 1080p with {', '.join(sorted(dear))}")

    def words(self) -> list[str]:
        """Those of the prompt."""
        texts = [str(one.get("text", "")) for one in self._contents()] or [str(self.body.get("prompt", ""))]
        return " ".join(texts).lower().split()

    def external_id(self) -> str:
        """Ours for the task, empty where none is given."""
        return str(self._options.get("external_task_id", ""))

    def duration(self) -> int:
        """Seconds."""
        return cast("int", self._settings.get("duration", 5))

    def units(self, form: Form) -> Decimal:
        """What it costs."""
        sound = "+" if self._settings.get("audio") == "native" else ""
        return Decimal(form.units[self._resolution() + sound]) * self.duration()

    def _resolution(self) -> str:
        return str(self._settings.get("resolution", "720p"))

    def _object(self, name: str) -> Mapping[str, object]:
        given = self.body.get(name, {})
        if not isinstance(given, Mapping):
            raise Refused(1201, f"{name} is invalid")
        return cast("Mapping[str, object]", given)

    def _contents(self) -> list[Mapping[str, object]]:
        given = self.body.get("contents")
        objects = cast("list[object]", given) if isinstance(given, list) else []
        return [cast("Mapping[str, object]", one) for one in objects if isinstance(one, Mapping)]

    def _check_options(self) -> None:
        kinds: dict[str, type] = {"external_task_id": str, "callback_url": str, "watermark_info": Mapping}
        for name, value in self._options.items():
            if name not in kinds or not isinstance(value, kinds[name]):
                raise Refused(1201, f"options.{name} is invalid")

    def _check_prompt(self, form: Form, prompt: object, said: str = "prompt") -> set[str]:
        if unknown := sorted(set(self.body) - {said, "settings", "options"}):
            raise Refused(1201, f"{unknown[0]} is not known here")
        if not isinstance(prompt, str) or not prompt or len(prompt) > form.prompt_chars:
            raise Refused(1201, "prompt is invalid")
        return set()

    def _check_contents(self, form: Form) -> set[str]:
        """The kinds of its frames. A prompt may be missing, the first frame may not."""
        prompts = [one.get("text") for one in self._contents() if one.get("type") == "prompt"] or ["-"]
        self._check_prompt(form, prompts[0], "contents")
        kinds = [str(one.get("type")) for one in self._contents()]
        if len(set(kinds)) != len(kinds) or not set(kinds) <= {"prompt", *form.frames}:
            raise Refused(1201, "contents is invalid")
        if form.frames[0] not in kinds:
            raise Refused(1201, f"{form.frames[0]} is required")
        if not all(_is_picture(one.get("url")) for one in self._contents() if one.get("type") != "prompt"):
            raise Refused(1201, "image is invalid")
        return set(kinds)


def _is_picture(url: object) -> bool:
    """An address, or the base64 of a file without a prefix; a reference where no socket is between us."""
    if isinstance(url, Inline):
        return url.form == "base64"
    if not isinstance(url, str) or url.startswith(("https://", "http://")):
        return isinstance(url, str)
    try:
        return bool(base64.b64decode(url, validate=True))
    except binascii.Error:
        return False


def _bill(task: Task) -> list[dict[str, str]]:
    usd = f"{task.units * USD_PER_UNIT:.2f}"
    cash = {"charge_type": "cash", "cash_type": "balance", "amount": usd, "currency": "USD", "list_price": usd}
    return [cash, {"charge_type": "unit", "package_type": "video", "amount": f"{task.units.normalize():f}"}]


def _wrong_method(request: Request, now: float) -> object:  # noqa: ARG001
    raise Refused(1202, f"{request.method} is not supported here")


def _ms(at: float) -> int:
    return round(at * 1000)


def _json(status: int, content: object) -> Response:
    return Response(status=status, body=msgspec.json.encode(content), headers={"content-type": "application/json"})
