"""Kling, on its old wire: a family of tasks for each thing that is made, each asked for where it was created.

It stays for what the wire of 2026 (`kling`) has not: models up to 2.1, extending, lip-sync, effects, masks, cameras,
negative prompts, and `guidance_scale` as its `cfg_scale`, from 0 to 1 as it is. Lines are its modes: 720p is std, 1080p
is pro. Four families carry our key as `external_task_id`, unique in an account, and can be asked by it (class B);
`video-extend` and `lip-sync` have no such field, so a lost answer there waits for a person (E). Clips come in by its
own id of a take, which is asked for just before.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import Failed, Flow, Inline, Request, Response, call, handle_of
from rushes.adapters.capabilities import Capabilities, Model, PollSchedule, Terms
from rushes.adapters.catalogue import row_of, rows_of
from rushes.adapters.kling_auth import AUTH
from rushes.adapters.kling_errors import ID, KlingErrors, failure
from rushes.adapters.kling_legacy_models import MODELS
from rushes.faults import Fault, bad
from rushes.units import Handle
from rushes.video import OPERATIONS, Effect, Input, LipSync, MultiImage, Target, VideoSpec

T = TypeVar("T")
FAMILIES: Final = {
    "text-to-video": "text2video",
    "image-to-video": "image2video",
    "multi-image": "multi-image2video",
    "extend": "video-extend",
    "lip-sync": "lip-sync",
    "effect": "effects",
}
UNNAMED: Final = frozenset({"video-extend", "lip-sync"})  # families that take no id of ours
EXTENDED: Final = (None, "text2video", "image2video", "video-extend")  # whose takes can be extended; None: not known
UNTIMELY: Final = ("1003", "1004")  # a token that is not valid yet, or not any more: the next one may be


class _Answer(Struct, Generic[T]):
    data: T


class _Created(Struct):
    task_id: str  # all that a paid answer must hold


class _Video(Struct):
    id: str = ""
    url: str = ""


class _Result(Struct):
    videos: list[_Video] | None = None


class _Info(Struct):
    external_task_id: str | None = None


class _Task(_Created):
    task_status: str
    task_status_msg: str | None = None
    task_info: _Info | None = None
    task_result: _Result | None = None
    final_unit_deduction: object = None

    def takes(self) -> list[_Video]:
        """Those that can be fetched."""
        return [one for one in (self.task_result or _Result()).videos or [] if one.url]


class KlingLegacy(KlingErrors):
    """Its tasks that make clips: from words, frames and references, out of its own clips, and its effects."""

    name = "kling_legacy"
    capabilities = Capabilities(
        base_url="https://api-singapore.klingai.com",
        base_url_env="KLING_LEGACY_BASE_URL",
        models=MODELS,
        aliases=("kling-legacy",),
        auth=AUTH,
        # Files stay for 30 days. Pace and total time are our guess.
        terms=Terms(doubt="B", poll=PollSchedule(min_s=5.0), link_ttl_s=30 * 86_400.0, total_s=2 * 3600.0),
        docs_url="https://kling.ai/document-api",
    )

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002
        """Not every family can be asked by our own id."""
        terms = self.capabilities.terms
        return replace(terms, doubt="E") if _family(spec) in UNNAMED else terms

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:  # noqa: ARG002
        """Kling's own id of the clip that comes in. Raises BadRequest where it is none that Kling can take."""
        ids: base.Prepared = {}
        for given in spec.inputs:
            if given.type == "video":
                ids[given.asset.sha256] = yield from self._take(given, spec)
        return ids

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:
        """Create a task, under our own key where its family has a field for it."""
        family = _family(spec)
        body = _body(spec, row_of(self, target.model, spec), prepared)
        if family not in UNNAMED:
            body["external_task_id"] = key
        reply = yield from call(Request(method="POST", url=f"/v1/videos/{family}", body=body, spends=True))
        extra = {"family": family, "model": target.model}
        return handle_of(self, self.good(reply, _Answer[_Created]).data.task_id, ID, extra)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:
        """Asked for where it was created; for an id that a person gave, wherever its model makes anything."""
        wanted = handle_of(self, handle.id, ID).id
        family = handle.extra.get("family")
        _, task = yield from self._task(wanted, [family] if family else self._families(target))
        return _outcome(task) if task else base.Vanished()

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The task that carries our key, in whichever family it was created."""
        named = [family for family in self._families(target) if family not in UNNAMED]
        family, task = yield from self._task(key, named)
        return handle_of(self, task.task_id, ID, {"family": family, "model": target.model}) if task else None

    def fault(self, reply: Response) -> Fault | None:
        """As on the other wire; a token's time may be another at the next call."""
        fault = super().fault(reply)
        return replace(fault, retryable=True) if fault and fault.provider_code in UNTIMELY else fault

    def _families(self, target: Target) -> list[str]:
        return [FAMILIES[name] for row in rows_of(self, target.model) for name in row.operations]

    def _task(self, wanted: str, families: list[str]) -> Flow[tuple[str, _Task | None]]:
        """The task of that id, theirs or ours. Only their own word for it, in every family, says that there is none."""
        for family in families:
            reply = yield from call(Request(method="GET", url=f"/v1/videos/{family}/{wanted}"))
            if (fault := self.fault(reply)) is not None and fault.provider_code == "1203":
                continue
            task = self.good(reply, _Answer[_Task]).data
            if wanted not in (task.task_id, task.task_info and task.task_info.external_task_id):
                raise Failed(Fault("bad_answer", "kling told of another task than it was asked for.", retryable=True))
            return family, task
        return "", None

    def _take(self, given: Input, spec: VideoSpec) -> Flow[str]:
        made = given.made
        assert made is not None  # the data takes no other
        family = made.handle.extra.get("family")
        if _family(spec) == "video-extend" and family not in EXTENDED:
            detail = "kling extends what it made of words or of an image, or extended before: give such a job."
            raise bad("inputs", detail, "unsupported_feature")
        wanted = handle_of(self, made.handle.id, ID).id
        _, task = yield from self._task(wanted, [family] if family else [*FAMILIES.values()])
        takes = task.takes() if task else []
        if made.take >= len(takes) or not ID.fullmatch(takes[made.take].id):
            raise Failed(Fault("asset_expired", "kling does not have that take any more: it keeps them for 30 days."))
        return takes[made.take].id


def _family(spec: VideoSpec) -> str:
    return FAMILIES[OPERATIONS[type(spec.operation)]]


def _body(spec: VideoSpec, row: Model, prepared: base.Prepared) -> dict[str, object]:
    said: dict[str, object] = base.said(spec, row) | _pictures(spec, row)
    (clip,) = [prepared[given.asset.sha256] for given in spec.inputs if given.type == "video"] or [""]
    match spec.operation:
        case Effect(scene=scene):
            if "images" not in said:
                del said["mode"]  # an effect on one image has none
            return {"effect_scene": scene, "input": {"model_name": row.id, **said}}
        case LipSync() as words:
            return {"input": {"video_id": clip, **_words(words, spec), **said}}
        case _:
            return ({"video_id": clip} if clip else {"model_name": row.id}) | said


def _pictures(spec: VideoSpec, row: Model) -> dict[str, object]:
    given = [one for one in spec.inputs if one.type == "image"]
    files = [Inline(one.asset, "base64") for one in given]
    match spec.operation:
        case MultiImage():
            return {"image_list": [{"image": file} for file in files]}
        case Effect() if len(files) > 1:
            return {"images": files}
        case _:
            return {row.wire[one.role]: file for one, file in zip(given, files, strict=True)}


def _words(asked: LipSync, spec: VideoSpec) -> dict[str, object]:
    for given in spec.inputs:
        if given.role == "narration":
            return {"mode": "audio2video", "audio_type": "file", "audio_file": Inline(given.asset, "base64")}
    return {"mode": "text2video", "text": asked.text, "voice_id": asked.voice}


def _outcome(task: _Task) -> base.Outcome:
    takes = task.takes()
    match task.task_status:
        case "succeed":
            told = {"video_id": ", ".join(one.id for one in takes)}
            if isinstance(task.final_unit_deduction, str):
                told["billing"] = f"{base.plain(task.final_unit_deduction, 20)} units"
            return base.finished("kling", (one.url for one in takes), metadata=told)
        case "failed":  # these are not charged
            return failure(task.task_status_msg, "no")
        case word:
            return base.Unfinished(stage=word)
