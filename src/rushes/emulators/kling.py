"""Kling's twin: tasks of its wire of 2026 as the real service answers them, and a ledger of what it charged.

    POST   /text-to-video/{model}       {"prompt", "settings", "options"}
    POST   /image-to-video/{model}      {"contents", "settings", "options"}
    POST   /omni-video/{model}          the same, with references and a clip among the contents
    POST   /motion-control/{model}      the same, with an image and a clip
    GET    /tasks?task_ids=a,b          or ?external_task_ids=x,y: many at once, always a list
    GET    /files/{id}/{n}.mp4          a result: no key asked

Time is what the caller says it is: a task is submitted, is processed after `start_s` and ends after `render_s` more. An
address of a result works for `link_s`; the next answer about the task has another, until the file goes after 30 days.
A prompt with the word "forbidden" is refused by moderation, one with "withheld" is stopped by it later, "broken" fails.

What nobody has seen of the real one is a choice here: what it says of ids that it does not know (`unknown`), and of a
second create under one external id (`duplicate`). Fields that no page names are refused; it may be less strict. So is
a reference to a clip without the shots that it needs. What a performance costs with kling-2.6 is made up.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import permutations
from typing import ClassVar, Final, Literal, Unpack, cast

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.base import Inline, Response
from rushes.emulators import base
from rushes.emulators.base import Asked, ProviderTwin, Route, Usual, as_json
from rushes.emulators.faults import DuplicateId, ExpiredUrl

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

    durations: Sequence[int] = ()
    resolutions: Sequence[str] = ("720p", "1080p")
    switches: Mapping[str, Sequence[object]] = {}  # settings and their values
    needed: frozenset[str] = frozenset()  # settings and kinds of contents that must be there
    contents: Mapping[str, int] = {}  # kinds beside the prompt, and how many of each
    clip_s: float = 15.5  # the longest that may come in; 10 where a character is turned as its image
    prompt_chars: int = 20_000  # where no page says less
    only_1080p: frozenset[str] = frozenset()
    units: Mapping[str, str]  # a second of each resolution; behind it "+": with sound, "*": with a clip, "!": a voice


RATIO: Final[Mapping[str, Sequence[object]]] = {"aspect_ratio": RATIOS}
SOUND: Final[Mapping[str, Sequence[object]]] = {"audio": ("native", "off")}
KEPT: Final[Mapping[str, Sequence[object]]] = {"audio": ("original", "off")}
SHOTS: Final[Mapping[str, Sequence[object]]] = {"multi_shot": (True, False)}
TURNED: Final[Mapping[str, Sequence[object]]] = {"character_orientation": ("image", "video")}
BOTH: Final = {"first_frame": 1, "last_frame": 1}
CLIPS: Final = ("base_video", "feature_video", "video")
OMNI: Final = {**BOTH, "refer_image": 7, "feature_video": 1, "base_video": 1, "element": 7}
STARTED: Final = frozenset({"first_frame"})
ACTED: Final = frozenset({"image", "video", "character_orientation"})
UP_TO_4K: Final = ("720p", "1080p", "4k")
UNITS: Final = {
    "turbo": {"720p": "0.8", "1080p": "1.0"},
    "3.0": {"720p": "0.6", "1080p": "0.8", "4k": "3.0", "720p+": "0.9", "1080p+": "1.2", "4k+": "3.0"},
    "omni": {"720p": "0.6", "1080p": "0.8", "4k": "3.0", "720p+": "0.8", "1080p+": "1.0", "4k+": "3.0"}
    | {"720p*": "0.9", "1080p*": "1.2", "4k*": "3.0"},
    "o1": {"720p": "0.6", "1080p": "0.8", "720p*": "0.9", "1080p*": "1.2"},
    "2.6": {"720p": "0.3", "1080p": "0.5", "1080p+": "1.0", "1080p!": "1.2"},
    "2.5": {"720p": "0.3", "1080p": "0.5"},
    "acted": {"720p*": "0.9", "1080p*": "1.2"},
    "acted by 2.6": {"720p*": "0.5", "1080p*": "0.8"},
}
FORMS: Final = {
    "text-to-video/kling-3.0-turbo": Form(durations=LONG, switches=RATIO, prompt_chars=3072, units=UNITS["turbo"]),
    "image-to-video/kling-3.0-turbo": Form(
        durations=LONG, contents={"first_frame": 1}, needed=STARTED, prompt_chars=2500, units=UNITS["turbo"]
    ),
    "text-to-video/kling-3.0": Form(
        durations=LONG,
        resolutions=UP_TO_4K,
        switches={**RATIO, **SOUND, **SHOTS},
        prompt_chars=3072,
        units=UNITS["3.0"],
    ),
    "image-to-video/kling-3.0": Form(
        durations=LONG,
        resolutions=UP_TO_4K,
        switches={**SOUND, **SHOTS},
        contents={**BOTH, "element": 3},
        needed=STARTED,
        units=UNITS["3.0"],
    ),
    "motion-control/kling-3.0": Form(
        switches={**TURNED, **KEPT},
        contents={"image": 1, "video": 1, "element": 1},
        needed=ACTED,
        clip_s=30.0,
        units=UNITS["acted"],
    ),
    "omni-video/kling-3.0-omni": Form(
        durations=LONG,
        resolutions=UP_TO_4K,
        switches={**RATIO, **SHOTS, "audio": ("native", "original", "off")},
        contents=OMNI,
        units=UNITS["omni"],
    ),
    "omni-video/kling-o1": Form(
        durations=LONG[:8],
        switches={**RATIO, **KEPT},
        contents=OMNI,
        clip_s=10.0,
        prompt_chars=2500,
        units=UNITS["o1"],
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
        contents={**BOTH, "voice": 2},
        needed=STARTED,
        only_1080p=frozenset({"native", "last_frame"}),
        units=UNITS["2.6"],
    ),
    "motion-control/kling-2.6": Form(
        switches={**TURNED, **KEPT},
        contents={"image": 1, "video": 1},
        needed=ACTED,
        clip_s=30.0,
        units=UNITS["acted by 2.6"],
    ),
    "text-to-video/kling-2.5-turbo": Form(durations=(5, 10), switches=RATIO, units=UNITS["2.5"]),
    "image-to-video/kling-2.5-turbo": Form(
        durations=(5, 10),
        contents=BOTH,
        needed=STARTED,
        only_1080p=frozenset({"last_frame"}),
        units=UNITS["2.5"],
    ),
}


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


class Refused(base.Refused):
    """An error by its code; the status follows from that."""

    def __init__(self, code: int, message: str) -> None:
        status = ODD_STATUSES.get(code, STATUSES[code // 100])
        super().__init__(status, {"code": code, "message": message})


class KlingTwin(ProviderTwin):
    """The whole service in one object. `ledger` says what came and what was charged, in order."""

    name = "kling"
    unit = "units"
    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "status_word", "duplicate_id", "not_found"})
    start_s = 5.0
    render_s = 60.0

    def __init__(
        self,
        *,
        clip: bytes,
        link_s: float = FILES_S,
        slots: int | None = None,
        credit: int | None = None,
        unknown: Literal["empty", "refused"] = "empty",
        duplicate: Literal["refused", "same"] = "refused",
        **usual: Unpack[Usual],
    ) -> None:
        """An empty `key` accepts any key that is none of the old wire's.

        `slots` is how many tasks may be unfinished at once, `credit` how many can be paid; None: any number.
        """
        super().__init__(clip=clip, **usual)
        self.tasks: dict[str, Task] = {}
        self._link_s, self._slots, self._credit = link_s, slots, credit
        self._unknown, self._duplicate = unknown, duplicate

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        forms = "|".join(map(re.escape, FORMS))
        return (
            Route("download", "GET", r"/files/(\d+/\d{1,9})\.mp4", self._result, keyless=True),
            Route("submit", "POST", rf"/({forms})", self._create),
            Route("status", "GET", r"/tasks()", self._query),
        )

    def flow(self, asked: Asked) -> str:
        """To ask by our own id is to find."""
        flow = super().flow(asked)
        return "find" if flow == "status" and asked.query.get("external_task_ids") else flow

    def answer(self, asked: Asked) -> Response:
        """What is not there is told by the machinery before the service, which asks no key."""
        if any(re.fullmatch(route.path, asked.path) for route in self._routes):
            return super().answer(asked)
        gone = {"timestamp": _ms(asked.now), "status": 404, "error": "Not Found", "message": "", "path": asked.path}
        return as_json(404, gone)

    def admit(self, asked: Asked) -> None:
        """A key with two dots is a token of the old wire."""
        if not asked.headers.get("authorization"):
            raise Refused(1001, "Authorization is empty")
        if asked.key is None or asked.key.count(".") == 2 or not self.accepts(asked.key):
            raise Refused(1002, "Authorization is invalid")

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002 - what is not there never came so far
        """It is there with another method."""
        return Refused(1202, f"{asked.method} is not supported here")

    def throttled(self) -> Refused:
        """Its 429."""
        return Refused(1302, "Requests are too frequent")

    def refusal(self, refused: base.Refused) -> Response:
        """An error in the envelope of all answers."""
        return self._enveloped(refused.status, refused.content)

    def _data(self, data: object) -> Response:
        return self._enveloped(200, {"code": 0, "message": "", "data": data})

    def _enveloped(self, status: int, content: object) -> Response:
        return as_json(status, {**cast("dict[str, object]", content), "request_id": self.draw("request").hex()[:32]})

    # ── Tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, asked: Asked, path: str) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        form, order, now = FORMS[path], _Order(asked.request.body), asked.now
        order.check(form)
        external_id = order.external_id()
        known = next((task for task in self.tasks.values() if external_id and task.external_id == external_id), None)
        if known is not None and self._duplicate == "same":
            return self._data(self._created(known))
        if known is not None or asked.hit(DuplicateId):
            raise Refused(1201, "external_task_id already exists")
        under_way = sum(now < self._ends_at(task) for task in self.tasks.values())
        if self._slots is not None and under_way >= self._slots:
            raise Refused(1303, "parallel task over resource pack limit")
        if self._credit is not None and len(self.charges) >= self._credit:
            raise Refused(1102, "Resource pack depleted or expired")
        words = asked.words(order.prompt())
        if "forbidden" in words:
            raise Refused(1301, "The request was stopped by content security")
        seconds = self._seconds(order, form)
        task = Task(
            id=f"8936{int(self.draw().hex(), 16) % 10**14:014d}",
            external_id=external_id,
            path=path,
            body=order.body,
            created_at=now,
            units=order.units_per_second(form) * seconds,
            duration=seconds,
            error=next((why for word, why in FATES.items() if word in words), ""),
        )
        self.tasks[task.id] = task
        for at in self.life(now):
            self.call_back(order.callback_url(), at, lambda at: self._view(task, replace(asked, now=at, struck=())))
        if not task.error:
            self.charge(task.id, now, float(task.units), int(task.units * USD_PER_UNIT * 10**6), path)
        return self._data(self._created(task))

    def _seconds(self, order: _Order, form: Form) -> int:
        """How long the result is. A clip that is made over or acted after gives its length, where it is one of ours."""
        kind, address = order.clip()
        named = re.search(r"/files/(\d+)/", address)
        came_in = self.tasks.get(named[1]) if named else None
        if came_in is None:
            return order.duration()
        if came_in.duration > (10 if order.setting("character_orientation") == "image" else form.clip_s):
            raise Refused(1201, f"{kind} is too long")
        return order.duration() if kind == "feature_video" else came_in.duration

    def _query(self, asked: Asked, _: str) -> Response:
        """Some tasks, by exactly one of their two kinds of id."""
        given = [name for name in ("task_ids", "external_task_ids") if asked.query.get(name)]
        if len(given) != 1:
            raise Refused(1201, "Exactly one of task_ids and external_task_ids is needed")
        wanted = asked.query[given[0]].split(",")
        by_theirs = given[0] == "task_ids"
        named = [task for task in self.tasks.values() if (task.id if by_theirs else task.external_id) in wanted]
        found = [task for task in named if not self.hides(asked, task.id)]
        if not found and self._unknown == "refused":
            raise Refused(1203, "The task does not exist")
        return self._data([self._view(task, asked) for task in found])

    def _result(self, asked: Asked, name: str) -> Response:
        named, _, generation = name.partition("/")
        task, now = self.tasks.get(named), asked.now
        if task is None or task.error or now < self._ends_at(task) or now >= self._ends_at(task) + FILES_S:
            return Response(status=404)
        if int(generation) != self._generation(task, now) or asked.hit(ExpiredUrl):
            return Response(status=403)
        return self.result(asked)

    def _ends_at(self, task: Task) -> float:
        return self.life(task.created_at).ends_at

    def _generation(self, task: Task, now: float) -> int:
        """Which of the result's addresses works now."""
        return int((now - self._ends_at(task)) / self._link_s)

    def _status(self, task: Task, now: float) -> str:
        over = "failed" if task.error else "succeeded"
        return {"waiting": "submitted", "running": "processing", "over": over}[self.life(task.created_at).stage(now)]

    def _created(self, task: Task) -> dict[str, object]:
        """The task as its create shows it."""
        return {
            "id": task.id,
            "status": "submitted",
            "create_time": _ms(task.created_at),
            "update_time": _ms(task.created_at),
            "external_id": task.external_id,
        }

    def _view(self, task: Task, asked: Asked) -> dict[str, object]:
        """The task as queries show it."""
        status, life = asked.said(self._status(task, asked.now)), self.life(task.created_at)
        updated_at = {"submitted": task.created_at, "processing": life.begins_at}.get(status, life.ends_at)
        view = self._created(task) | {"status": status, "update_time": _ms(updated_at)}
        view["message"] = task.error if status == "failed" else ""
        if status == "succeeded":
            url = f"{asked.origin}/files/{task.id}/{self._generation(task, asked.now)}.mp4"
            output = {
                "type": "video",
                "id": task.id,
                "url": url,
                "watermark_url": "",
                "duration": f"{task.duration}.041",
            }
            view |= {"outputs": [output], "billing": _bill(task)}
        return view


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
        kinds = self._check_contents(form) if form.contents else self._check_prompt(form, self.body.get("prompt"))
        known = {"resolution": form.resolutions, "duration": form.durations, **form.switches}
        for name, value in self._settings.items():
            allowed = known.get(name, ())
            if value not in allowed or type(value) is not type(allowed[0]):  # 5.0 is not a duration
                raise Refused(1201, f"settings.{name} is invalid")
        if missing := sorted(form.needed - {*kinds, *self._settings}):
            raise Refused(1201, f"{missing[0]} is required")
        audio = str(self._settings.get("audio", "off"))
        if (dear := form.only_1080p & {*kinds, audio}) and self._resolution() != "1080p":
            raise Refused(1201, f"settings.resolution must be 1080p with {', '.join(sorted(dear))}")
        for wrong, why in _contradictions(form, kinds, self._settings, audio):
            if wrong:
                raise Refused(1201, why)

    def prompt(self) -> str:
        """All the words."""
        texts = [str(one.get("text", "")) for one in self._contents()] or [str(self.body.get("prompt", ""))]
        return " ".join(texts)

    def external_id(self) -> str:
        """Ours for the task, empty where none is given."""
        return str(self._options.get("external_task_id", ""))

    def callback_url(self) -> object:
        """Where every change of its status is told, None where nobody wants to know."""
        return self._options.get("callback_url")

    def duration(self) -> int:
        """Seconds."""
        return cast("int", self._settings.get("duration", 5))

    def setting(self, name: str) -> object:
        """None where it is not given."""
        return self._settings.get(name)

    def clip(self) -> tuple[str, str]:
        """The kind and address of the clip that comes in."""
        clips = [(str(one["type"]), str(one["url"])) for one in self._contents() if one.get("type") in CLIPS]
        return next(iter(clips), ("", ""))

    def units_per_second(self, form: Form) -> Decimal:
        """What it costs."""
        kinds = {one.get("type") for one in self._contents()}
        sound = "!" if "voice" in kinds else "+" if self._settings.get("audio") == "native" else ""
        return Decimal(form.units[self._resolution() + ("*" if kinds & {*CLIPS} else sound)])

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

    def _check_prompt(self, form: Form, prompt: object, said: str = "prompt") -> Counter[str]:
        if unknown := sorted(set(self.body) - {said, "settings", "options"}):
            raise Refused(1201, f"{unknown[0]} is not known here")
        if not isinstance(prompt, str) or not prompt or len(prompt) > form.prompt_chars:
            raise Refused(1201, "prompt is invalid")
        return Counter()

    def _check_contents(self, form: Form) -> Counter[str]:
        """How many there are of each kind, without the prompt, which may be missing."""
        contents = self._contents()
        prompts = [one.get("text") for one in contents if one.get("type") == "prompt"] or ["-"]
        self._check_prompt(form, prompts[0], "contents")
        files = [one for one in contents if one.get("type") != "prompt"]
        kinds = Counter(str(one.get("type")) for one in files)
        if len(prompts) > 1 or any(count > form.contents.get(kind, 0) for kind, count in kinds.items()):
            raise Refused(1201, "contents is invalid")
        if wrong := [str(one.get("type")) for one in files if not _is_whole(one)]:
            raise Refused(1201, f"{wrong[0]} is invalid")
        names = [str(one["id"]) for one in files if "id" in one]
        if any(one.startswith(other) for one, other in permutations(names, 2)):
            raise Refused(1201, "contents.id is the beginning of another")
        return kinds


def _contradictions(
    form: Form, kinds: Counter[str], settings: Mapping[str, object], audio: str
) -> Iterator[tuple[bool, str]]:
    """What is wrong only together, and why."""
    made_over, borrowed = bool(kinds["base_video"]), bool(kinds["feature_video"])
    framed, references = kinds["first_frame"] + kinds["last_frame"], kinds["refer_image"] + kinds["element"]
    shots = settings.get("multi_shot")
    yield kinds["last_frame"] > kinds["first_frame"], "last_frame needs first_frame"
    yield bool(kinds["voice"]) and audio != "native", "voice needs native audio"
    yield made_over and borrowed, "one video at most"
    yield made_over and (framed > 0 or shots is True or audio == "native"), "base_video contradicts"
    yield borrowed and (audio != "off" or ("multi_shot" in form.switches and shots is not True)), "feature_video needs"
    yield references > (4 if made_over or borrowed else 7), "too many references"
    needs_ratio = "base_video" in form.contents and not (kinds["first_frame"] or made_over or borrowed)
    yield needs_ratio and "aspect_ratio" not in settings, "settings.aspect_ratio is required"


def _is_whole(content: Mapping[str, object]) -> bool:
    """Whether one of the contents has what its kind needs, and nothing else."""
    kind = str(content.get("type"))
    needed = {"element": "element_id", "voice": "voice_id"}.get(kind, "url")
    if not set(content) <= {"type", "id", needed} or not isinstance(content.get("id", ""), str):
        return False
    if needed != "url":
        return isinstance(content.get(needed), str) and bool(content.get("id"))
    return is_address(content.get("url")) if kind in CLIPS else is_picture(content.get("url"))


def is_address(url: object) -> bool:
    """Whether it is one of the web."""
    return isinstance(url, str) and url.startswith(("https://", "http://"))


def is_picture(url: object) -> bool:
    """An address, or the base64 of a file without a prefix; a reference where no socket is between us."""
    if isinstance(url, Inline):
        return url.form == "base64"
    if not isinstance(url, str) or is_address(url):
        return isinstance(url, str)
    try:
        return bool(base64.b64decode(url, validate=True))
    except binascii.Error:
        return False


def _bill(task: Task) -> list[dict[str, str]]:
    usd = f"{task.units * USD_PER_UNIT:.2f}"
    cash = {"charge_type": "cash", "cash_type": "balance", "amount": usd, "currency": "USD", "list_price": usd}
    return [cash, {"charge_type": "unit", "package_type": "video", "amount": f"{task.units.normalize():f}"}]


def _ms(at: float) -> int:
    return round(at * 1000)
