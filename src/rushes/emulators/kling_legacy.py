"""Kling's twin for its old wire: families of tasks, keys of two parts, and the envelope with the word "succeed".

    POST   /v1/videos/{family}          text2video, image2video, multi-image2video, video-extend, lip-sync, effects
    GET    /v1/videos/{family}/{id}     one task, by its own id or by ours
    GET    /v1/videos/{family}          ?pageNum=&pageSize=: the newest first
    GET    /files/{id}/{n}.mp4          a result: no key asked

It is the same service as `kling` beside it: time, files, moderation and faults are as there. A token is looked at: its
algorithm, issuer, times and signature, where the access key and the secret one are known here; a plain key will do too.

What nobody has seen of the real one is a choice here: the code for an id that it does not know (`missing`), and what it
says of a second create under one id (`duplicate`). It takes masks and cameras by every model that it animates with, as
no page says which. What effects cost, and an extension by kling-v1, is made up.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, cast

import msgspec
from msgspec import Meta, Struct

from rushes.adapters.base import Response
from rushes.emulators.base import Asked, Route, fits
from rushes.emulators.faults import DuplicateId
from rushes.emulators.kling import FATES, FILES_S, RATIOS, KlingTwin, Refused, Task, is_address, is_picture

CENT: Final = Decimal("0.14")  # dollars of one unit
PROMPT_CHARS: Final = 2500
OLD: Final = ("kling-v1", "kling-v1-5", "kling-v1-6")
SHORT: Final = ("5", "10")
LONG: Final = tuple(str(seconds) for seconds in range(3, 16))
WORDED: Final = (
    "kling-v1",
    "kling-v1-6",
    "kling-v2-master",
    "kling-v2-1-master",
    "kling-v2-5-turbo",
    "kling-v2-6",
    "kling-v3",
)
ANIMATED: Final = (*WORDED, "kling-v1-5", "kling-v2-1")
USD_A_SECOND: Final[Mapping[str, tuple[str, ...]]] = {  # std, pro, 4k; the same with sound
    "kling-v1": ("0.028", "0.098"),
    "kling-v1-5": ("0.056", "0.098"),
    "kling-v1-6": ("0.056", "0.098"),
    "kling-v2-master": ("0.28",),
    "kling-v2-1": ("0.056", "0.098"),
    "kling-v2-1-master": ("0.28",),
    "kling-v2-5-turbo": ("0.042", "0.07"),
    "kling-v2-6": ("0.042", "0.07"),
    "kling-v3": ("0.084", "0.112", "0.42"),
}
USD_WITH_SOUND: Final[Mapping[str, tuple[str, ...]]] = {
    "kling-v2-6": ("0.14", "0.14"),
    "kling-v3": ("0.126", "0.168", "0.42"),
}
USD_AN_EXTENSION: Final = {"std": Decimal("0.28"), "pro": Decimal("0.49")}
USD_AN_EFFECT: Final = Decimal("0.28")
USD_FIVE_SECONDS_OF_LIPS: Final = Decimal("0.07")
MODES: Final = ("std", "pro", "4k")
PRESETS: Final = ("down_back", "forward_up", "right_turn_forward", "left_turn_forward")
AXES: Final = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
SINGLE: Final = ("squish", "expansion", "fuzzyfuzzy", "bloombloom", "dizzydizzy", "rocketrocket", "anime_figure")
DUAL: Final = ("hug", "kiss", "heart_gesture")


class _Point(Struct, forbid_unknown_fields=True):
    x: float
    y: float


class _Moved(Struct, forbid_unknown_fields=True):
    mask: str
    trajectories: Annotated[list[_Point], Meta(min_length=2, max_length=77)]


class _Given(Struct, forbid_unknown_fields=True):
    image: Any  # text, or a reference where no socket is between us


Rule = Callable[[Any], bool]


def _among(words: Sequence[str]) -> Rule:
    return lambda value: isinstance(value, str) and value in words


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= PROMPT_CHARS


def _number(least: float, most: float) -> Rule:
    return lambda value: fits(value, float) and least <= value <= most


def _camera(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    control = cast("Mapping[str, Any]", value)
    if control.get("type") != "simple":
        return control.get("type") in PRESETS and set(control) == {"type"}
    config = control.get("config")
    axes: Mapping[str, Any] = cast("Mapping[str, Any]", config) if isinstance(config, Mapping) else {}
    right = all(name in AXES and _number(-10, 10)(amount) for name, amount in axes.items())
    return right and sum(bool(amount) for amount in axes.values()) == 1


def _masks(value: Any) -> bool:
    try:
        moved = msgspec.convert(value, list[_Moved])
    except msgspec.ValidationError:
        return False
    return 1 <= len(moved) <= 6 and all(is_picture(one.mask) for one in moved)


def _images(value: Any) -> bool:
    try:
        given = msgspec.convert(value, list[_Given])
    except msgspec.ValidationError:
        return False
    return 1 <= len(given) <= 4 and all(is_picture(one.image) for one in given)


def _two(value: Any) -> bool:
    return fits(value, list) and len(value) == 2 and all(map(is_picture, value))


def _watermark(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(cast("Mapping[str, Any]", value).get("enabled"), bool)


NAMED: Final[Mapping[str, Rule]] = {"external_task_id": lambda value: isinstance(value, str)}
CALLED: Final[Mapping[str, Rule]] = {"callback_url": is_address}
SAID: Final[Mapping[str, Rule]] = {"prompt": _text, "negative_prompt": _text}
MADE: Final[Mapping[str, Rule]] = {
    **SAID,
    **NAMED,
    **CALLED,
    "mode": _among(MODES),
    "duration": _among(LONG),
    "aspect_ratio": _among(RATIOS),
    "watermark_info": _watermark,
}
MOVED: Final[Mapping[str, Rule]] = {
    "cfg_scale": _number(0, 1),
    "sound": _among(("on", "off")),
    "camera_control": _camera,
}
FORMS: Final[Mapping[str, Mapping[str, Rule]]] = {
    "text2video": {**MADE, **MOVED, "model_name": _among(WORDED)},
    "image2video": {
        **MADE,
        **MOVED,
        "model_name": _among(ANIMATED),
        "image": is_picture,
        "image_tail": is_picture,
        "static_mask": is_picture,
        "dynamic_masks": _masks,
    },
    "multi-image2video": {**MADE, "model_name": _among(("kling-v1-6",)), "image_list": _images},
    "video-extend": {**SAID, **CALLED, "cfg_scale": _number(0, 1), "video_id": lambda value: isinstance(value, str)},
    "lip-sync": {**CALLED, "input": lambda value: isinstance(value, Mapping)},
    "effects": {
        **NAMED,
        **CALLED,
        "effect_scene": _among(SINGLE + DUAL),
        "input": lambda value: isinstance(value, Mapping),
    },
}
LIPS: Final[Mapping[str, Rule]] = {
    "video_id": lambda value: isinstance(value, str),
    "video_url": is_address,
    "mode": _among(("text2video", "audio2video")),
    "text": lambda value: isinstance(value, str) and 0 < len(value) <= 120,
    "voice_id": lambda value: isinstance(value, str),
    "voice_language": _among(("zh", "en")),
    "voice_speed": _number(0.8, 2.0),
    "audio_type": _among(("file", "url")),
    "audio_file": lambda value: is_picture(value) and not is_address(value),
    "audio_url": is_address,
}
ONE_IMAGE: Final[Mapping[str, Rule]] = {
    "model_name": _among(("kling-v1-6",)),
    "image": is_picture,
    "duration": _among(("5",)),
}
TWO_IMAGES: Final[Mapping[str, Rule]] = {
    "model_name": _among(OLD),
    "images": _two,
    "duration": _among(SHORT),
    "mode": _among(MODES[:2]),
}


class KlingLegacyTwin(KlingTwin):
    """The whole service in one object."""

    name = "kling_legacy"
    can: ClassVar = KlingTwin.can

    def __init__(
        self, *, clip: bytes, access_key: str = "", secret_key: str = "", missing: int = 1203, **others: Any
    ) -> None:
        """`missing` is the code for an id that is not known; the rest is as for `KlingTwin`.

        Where there is an access key, a token must be signed with the secret one; where there is none, any token will do
        whose times are right.
        """
        super().__init__(clip=clip, **others)
        self._access_key, self._secret_key, self._missing = access_key, secret_key, missing

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        families = "|".join(FORMS)
        return (
            Route("download", "GET", r"/files/(\d+/\d{1,9})\.mp4", self._result, keyless=True),
            Route("submit", "POST", rf"/v1/videos/({families})", self._create),
            Route("", "GET", rf"/v1/videos/({families})", self._list),
            Route("status", "GET", rf"/v1/videos/((?:{families})/[\w-]+)", self._get),
        )

    def flow(self, asked: Asked) -> str:
        """To ask by our own id is to find."""
        flow = super().flow(asked)
        return "find" if flow == "status" and not asked.path.rpartition("/")[2].isdigit() else flow

    def admit(self, asked: Asked) -> None:
        """A plain key, or a token of two keys."""
        if not asked.headers.get("authorization"):
            raise Refused(1001, "Authorization is empty")
        if asked.key is None:
            raise Refused(1002, "Authorization is invalid")
        if asked.key.count(".") == 2:
            self._admit_token(asked.key, asked.now)
        elif not self.accepts(asked.key):
            raise Refused(1002, "Authorization is invalid")

    def _admit_token(self, token: str, now: float) -> None:
        signed, _, signature = token.rpartition(".")
        try:
            head, claims = (msgspec.json.decode(_unpacked(part), type=dict[str, Any]) for part in signed.split("."))
            wanted = hmac.digest(self._secret_key.encode(), signed.encode(), hashlib.sha256)
            right = not self._access_key or hmac.compare_digest(wanted, _unpacked(signature))
            issuer, begins_at, ends_at = claims["iss"], float(claims.get("nbf", 0)), float(claims["exp"])
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(1002, "Authorization is invalid") from error
        if head.get("alg") != "HS256" or not right or self._access_key not in ("", issuer):
            raise Refused(1000, "Authentication failed")
        if now < begins_at:
            raise Refused(1003, "Authorization is not valid yet")
        if now >= ends_at:
            raise Refused(1004, "Authorization has expired")

    def _data(self, data: object) -> Response:
        return self._enveloped(200, {"code": 0, "message": "SUCCEED", "data": data})

    # ── Tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, asked: Asked, path: str) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        body, now = asked.json(Refused(1200, "The body is not a JSON object")), asked.now
        _check(body, FORMS[path])
        for wrong, why in _contradictions(path, body):
            if wrong:
                raise Refused(1201, why)
        external_id = str(body.get("external_task_id", ""))
        known = next((task for task in self.tasks.values() if external_id and task.external_id == external_id), None)
        if known is not None and self._duplicate == "same":
            return self._data(self._created(known))
        if known is not None or asked.hit(DuplicateId):
            raise Refused(1201, "external_task_id already exists")
        usd, seconds = self._usd(path, body, now)
        under_way = sum(now < self._ends_at(task) for task in self.tasks.values())
        if self._slots is not None and under_way >= self._slots:
            raise Refused(1303, "parallel task over resource pack limit")
        if self._credit is not None and len(self.charges) >= self._credit:
            raise Refused(1102, "Resource pack depleted or expired")
        words = asked.words(body.get("prompt", ""))
        if "forbidden" in words:
            raise Refused(1301, "The request was stopped by content security")
        task = Task(
            id=f"867{int(self.draw().hex(), 16) % 10**15:015d}",
            external_id=external_id,
            path=path,
            body=body,
            created_at=now,
            units=usd / CENT,
            duration=seconds,
            error=next((why for word, why in FATES.items() if word in words), ""),
        )
        self.tasks[task.id] = task
        if not task.error:
            self.charge(task.id, now, float(task.units), int(usd * 10**6), path)
        return self._data(self._created(task))

    def _usd(self, path: str, body: Mapping[str, Any], now: float) -> tuple[Decimal, int]:
        """What it costs, and how long it will be. Raises Refused for a clip that is not there or does not fit."""
        match path:
            case "video-extend":
                source = self._source(body["video_id"], now)
                if source.path not in ("text2video", "image2video", path) or self._model(source) not in OLD:
                    raise Refused(1201, "video_id is not of a task that can be extended")
                if source.duration + 5 > 180:
                    raise Refused(1201, "The video would be too long")
                return USD_AN_EXTENSION["pro" if self._mode(source) == "pro" else "std"], source.duration + 5
            case "lip-sync":
                given = body["input"]
                seconds = self._source(given["video_id"], now).duration if "video_id" in given else 10
                if seconds > 10:
                    raise Refused(1201, "The video is too long")
                return USD_FIVE_SECONDS_OF_LIPS * -(-seconds // 5), seconds
            case "effects":
                return USD_AN_EFFECT, int(body["input"].get("duration", 5))
            case _:
                model, seconds = str(body.get("model_name", "kling-v1")), int(body.get("duration", 5))
                prices = (USD_WITH_SOUND if body.get("sound") == "on" else USD_A_SECOND)[model]
                return Decimal(prices[MODES.index(str(body.get("mode", "std")))]) * seconds, seconds

    def _source(self, video: str, now: float) -> Task:
        """The task that made this clip."""
        for task in self.tasks.values():
            ends_at = self._ends_at(task)
            if _video_id(task) == video and not task.error and ends_at <= now < ends_at + FILES_S:
                return task
        raise Refused(1201, "video_id is not known")

    def _first(self, task: Task) -> Task:
        """The task at the beginning of a chain of extensions."""
        while task.path == "video-extend":
            task = next(one for one in self.tasks.values() if _video_id(one) == task.body["video_id"])
        return task

    def _model(self, task: Task) -> str:
        return str(self._first(task).body.get("model_name", "kling-v1"))

    def _mode(self, task: Task) -> str:
        return str(self._first(task).body.get("mode", "std"))

    def _get(self, asked: Asked, name: str) -> Response:
        """One task of a family; another family does not know it."""
        family, _, wanted = name.partition("/")
        for task in self.tasks.values():
            if task.path == family and wanted in (task.id, task.external_id) and not self.hides(asked, task.id):
                return self._data(self._view(task, asked))
        raise Refused(self._missing, "The task does not exist")

    def _list(self, asked: Asked, family: str) -> Response:
        number, size = (asked.query.get(name, usual) for name, usual in (("pageNum", "1"), ("pageSize", "30")))
        if not (number.isdigit() and size.isdigit() and 1 <= int(number) <= 1000 and 1 <= int(size) <= 500):
            raise Refused(1201, "pageNum or pageSize is invalid")
        newest = [task for task in reversed(self.tasks.values()) if task.path == family]
        first = (int(number) - 1) * int(size)
        return self._data([self._view(task, asked) for task in newest[first : first + int(size)]])

    def _created(self, task: Task) -> dict[str, object]:
        """The task as its create shows it."""
        info = {"external_task_id": task.external_id} if task.external_id else {}
        return {
            "task_id": task.id,
            "task_status": "submitted",
            "task_info": info,
            "created_at": round(task.created_at * 1000),
            "updated_at": round(task.created_at * 1000),
        }

    def _view(self, task: Task, asked: Asked) -> dict[str, object]:
        """The task as queries show it."""
        status, life = asked.said(self._status(task, asked.now)), self.life(task.created_at)
        updated_at = {"submitted": task.created_at, "processing": life.begins_at}.get(status, life.ends_at)
        word = "succeed" if status == "succeeded" else status
        view = self._created(task) | {"task_status": word, "updated_at": round(updated_at * 1000)}
        view["task_status_msg"] = task.error if word == "failed" else ""
        if word == "succeed":
            url = f"{asked.origin}/files/{task.id}/{self._generation(task, asked.now)}.mp4"
            video = {"id": _video_id(task), "url": url, "watermark_url": "", "duration": f"{task.duration}.041"}
            view |= {"final_unit_deduction": f"{task.units.normalize():f}", "task_result": {"videos": [video]}}
        return view


def _video_id(task: Task) -> str:
    """Its clip has a number of its own."""
    return f"868{task.id[3:]}"


def _unpacked(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _check(body: Mapping[str, Any], form: Mapping[str, Rule]) -> None:
    """Raises Refused."""
    for name, value in body.items():
        if name not in form or not form[name](value):
            raise Refused(1201, f"{name} is invalid")


def _contradictions(path: str, body: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """What is missing, or wrong only together, and why."""
    match path:
        case "video-extend":
            yield "video_id" not in body, "video_id is required"
        case "lip-sync":
            yield from _wrong_lips(body.get("input", {}))
        case "effects":
            yield from _wrong_effect(body)
        case _:
            yield from _wrong_clip(path, body)


def _wrong_clip(path: str, body: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    model, mode = str(body.get("model_name", "kling-v1")), str(body.get("mode", "std"))
    needed = {"text2video": "prompt", "multi-image2video": "image_list"}.get(path)
    yield needed is not None and not body.get(needed), f"{needed} is required"
    yield path == "image2video" and not {"image", "image_tail"} & set(body), "image or image_tail is required"
    masks = bool({"static_mask", "dynamic_masks"} & set(body))
    yield sum(("image_tail" in body, masks, "camera_control" in body)) > 1, "tail, masks and camera exclude each other"
    yield "cfg_scale" in body and model not in OLD, f"cfg_scale is not supported by {model}"
    yield str(body.get("duration", "5")) not in (LONG if model == "kling-v3" else SHORT), "duration is invalid"
    yield MODES.index(mode) >= len(USD_A_SECOND[model]), "mode is invalid"
    sound = body.get("sound") == "on"
    yield sound and model not in USD_WITH_SOUND, f"sound is not supported by {model}"
    yield sound and model == "kling-v2-6" and mode != "pro", "sound needs the mode pro"


def _wrong_lips(given: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    _check(given, LIPS)
    yield len({"video_id", "video_url"} & set(given)) != 1, "video_id or video_url is required"
    if given.get("mode") == "text2video":
        yield not {"text", "voice_id"} <= set(given), "text and voice_id are required"
        yield bool({"audio_type", "audio_file", "audio_url"} & set(given)), "audio is for the mode audio2video"
    else:
        yield given.get("mode") != "audio2video", "mode is required"
        yield f"audio_{given.get('audio_type')}" not in given, "audio_type and its audio are required"
        yield bool({"text", "voice_id", "voice_language", "voice_speed"} & set(given)), "text is for text2video"


def _wrong_effect(body: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    form = ONE_IMAGE if body.get("effect_scene") in SINGLE else TWO_IMAGES
    given = body.get("input", {})
    yield "effect_scene" not in body, "effect_scene is required"
    _check(given, form)
    yield not {"model_name", "duration"} | ({"image", "images"} & set(form)) <= set(given), "input is incomplete"
