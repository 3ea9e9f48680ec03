"""Runway: its own models and other houses', behind one queue of tasks.

It takes no key or id of ours, lists no tasks and calls nobody back, so a lost answer stays in doubt (class E). Tasks
beyond what an account may run at once are no error: they are taken, and wait as THROTTLED. Cancelling is deleting, and
deletes finished clips too, so a task is asked for before it is cancelled; after that it is simply not there (404).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Adapter, Failed, Flow, Inline, Part, Request, Response, ask, call, plain
from rushes.adapters.capabilities import Auth, Capabilities, Model, PollSchedule, Terms
from rushes.adapters.catalogue import row_of
from rushes.adapters.fit import size_of
from rushes.adapters.runway_models import CREDIT_MICRO_USD, EXTENSIONS, MODELS, PRICED, RETIRED
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Billed, Handle, Money
from rushes.video import OPERATIONS, Config, Extend, Input, Target, Upscale, VideoSpec

VERSION: Final = {"X-Runway-Version": "2024-11-06"}  # asked for on every call
ID: Final = re.compile(r"[0-9A-Za-z_-]{8,64}")  # a UUID today
INLINE_BYTES: Final = (5_242_880 - 64) // 4 * 3  # a data URI of an image has at most 5 242 880 characters
ENDPOINTS: Final = {
    "text-to-video": "text_to_video",
    "multi-image": "text_to_video",  # which says how many references it takes; image_to_video does not
    "image-to-video": "image_to_video",
    "video-to-video": "video_to_video",
    "extend": "video_to_video",
    "upscale": "video_upscale",
    "character-performance": "character_performance",
}
NAME_ENDS: Final = {type_: end for known in EXTENSIONS.values() for type_, end in known.items()}
LISTS: Final = ("promptImage", "keyframes", "references", "referenceVideos", "referenceAudio")
WORDS: Final = {"1440p": "2K", "2160p": "4K"}  # lines by another name; others only in capitals
OURS: Final = {  # theirs → ours, where an error names a field
    theirs: ours if ours == "prompt" or ours in Config.__struct_fields__ else "inputs"
    for model in MODELS
    for ours, theirs in model.wire.items()
}


class _Cost(Struct):
    credits: Decimal


class _Task(Struct):
    status: str
    progress: float | None = None  # 0..1
    output: list[str] = []
    failure: str | None = None  # words for people
    failureCode: str | None = None  # noqa: N815 - their name
    cost: _Cost | None = None  # once it has ended; older deployments leave it out


class _Upload(Struct):
    uploadUrl: str  # noqa: N815 - their name
    fields: dict[str, str]
    runwayUri: str  # noqa: N815 - their name


class _Issue(Struct):
    path: list[object] = []  # which field
    message: str = ""


class _Error(Struct):
    error: str
    issues: list[_Issue] | None = None


class Runway(Adapter):
    """The developer API: clips from words, images, clips and performances, and larger clips."""

    name = "runway"
    capabilities = Capabilities(
        base_url="https://api.dev.runwayml.com",
        base_url_env="RUNWAYML_BASE_URL",
        models=MODELS,
        new_options=True,
        aliases=("runwayml",),
        retired=RETIRED,
        auth=Auth(env=("RUNWAYML_API_SECRET", "RUNWAY_API_KEY")),
        # Polls are 5 s apart, as it asks. Links live for a day at least; a throttled task may wait long.
        terms=Terms(doubt="E", cancel="destroys", poll=PollSchedule(min_s=5.0), link_ttl_s=86_400.0, total_s=86_400.0),
        docs_url="https://docs.dev.runwayml.com",
    )

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:  # noqa: ARG002
        """Files that are too large to travel in the request together are uploaded; they stay there for a day."""
        addresses: base.Prepared = {}
        if sum(given.asset.size_bytes for given in spec.inputs) > INLINE_BYTES:
            for sha256, asset in base.files(spec).items():
                addresses[sha256] = yield from self._upload(asset)
        return addresses

    def _upload(self, asset: AssetRef) -> Flow[str]:
        """A place for the file, then the file itself, as a form whose last part it must be."""
        file = base.file_part("file", asset, NAME_ENDS[asset.media_type])
        body = {"filename": file.filename, "type": "ephemeral"}
        place = yield from ask(self, Request(method="POST", url="/v1/uploads", body=body, headers=VERSION), _Upload)
        form = [*(Part(field, value) for field, value in place.fields.items()), file]
        reply = yield from call(Request(method="POST", url=place.uploadUrl, body=form, timeout_s=300.0))
        if not 200 <= reply.status < 300:  # another host, which knows no key of ours: a 403 is not about it
            detail = f"runway's store for files answered {reply.status}."
            raise Failed(Fault("provider_unavailable", detail, retryable=True), certain=False)
        return place.runwayUri

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Create a task; the answer comes at once, long before the clip."""
        url = f"/v1/{ENDPOINTS[OPERATIONS[type(spec.operation)]]}"
        body = _body(spec, row_of(self, target.model, spec), prepared)
        request = Request(method="POST", url=url, body=body, headers=VERSION, spends=True)
        return (yield from base.start(self, request, ID))

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Every look at a finished task brings fresh addresses. A deleted task is not there any more."""
        task = yield from base.look(self, self._path(handle), _Task, VERSION)
        return _outcome(task) if task else base.Vanished()

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """Delete the task, its clip included. Deleted before is as good."""
        reply = yield from call(Request(method="DELETE", url=self._path(handle), headers=VERSION))
        is_gone = reply.status == 404 and self.fault(reply) is not None  # a gateway's page proves nothing
        if not (200 <= reply.status < 300 or is_gone):
            raise base.refused(self, reply)
        return "accepted"

    def _path(self, handle: Handle) -> str:
        return f"/v1/tasks/{base.handle_of(self, handle.id, ID).id}"

    def fault(self, reply: Response) -> Fault | None:
        """{"error"}, with the fields that it is about where the input was wrong."""
        if (problem := base.read(reply, _Error)) is None:
            return None
        issues = [(".".join(str(step) for step in issue.path), issue) for issue in problem.issues or []]
        detail = " ".join([problem.error, *(f"{where}: {issue.message}" for where, issue in issues)])
        field = OURS.get(issues[0][0].partition(".")[0], "") if issues else ""
        return base.problem(self, reply, detail, field=field)


def _body(spec: VideoSpec, model: Model, prepared: base.Prepared) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model.id, **base.said(spec, model)}
    if "ratio" in body and model.wire["resolution"] == "ratio":
        body["ratio"] = size_of(spec, model).replace("x", ":")
    elif "resolution" in body:
        word = WORDS.get(lines := str(body["resolution"]), lines.upper())
        body["resolution"] = word.lower() if isinstance(spec.operation, Upscale) else word
    for given in spec.inputs:
        field = model.wire[given.role]
        item = _item(field, given, prepared.get(given.asset.sha256) or Inline(given.asset))
        body |= {field: [*body.get(field, ()), item] if field in LISTS else item}
    if "promptVideo" not in body and "referenceVideos" in body:  # the clip to make over is a reference, too: the first
        first, *others = body.pop("referenceVideos")
        body |= {"promptVideo": first["uri"]} | ({"referenceVideos": others} if others else {})
    options = dict(spec.provider_options)
    if "publicFigureThreshold" in options:
        body["contentModeration"] = {"publicFigureThreshold": options.pop("publicFigureThreshold")}
    return body | options | ({"mode": "extend"} if isinstance(spec.operation, Extend) else {})


def _item(field: str, given: Input, uri: str | Inline) -> object:
    """A file as its field has it."""
    match field:
        case "promptVideo" | "videoUri":
            return uri
        case "references":
            return {"uri": uri}
        case "promptImage":
            return {"uri": uri, "position": "last" if given.role == "last_frame" else "first"}
        case "keyframes":  # a share of the clip's length
            return {"uri": uri, "at": 1 if given.role == "last_frame" else 0}
        case _:
            return {"type": given.type, "uri": uri}


def _outcome(task: _Task) -> base.Outcome:
    billed: Billed = "unknown" if task.cost is None else "yes" if task.cost.credits > 0 else "no"
    match task.status:
        case "SUCCEEDED":
            return base.finished("runway", task.output, cost=_money(task.cost), billed=billed)
        case "FAILED":
            return base.Broken(_failure(task), billed)
        case "CANCELLED":
            return base.Stopped(billed)
        case word:  # PENDING; THROTTLED, which waits for a place; RUNNING, which alone has progress
            return base.Unfinished(base.percent(task.progress and task.progress * 100), stage=word)


def _money(cost: _Cost | None) -> Money | None:
    if cost is None:
        return None
    amount, source = round(cost.credits * CREDIT_MICRO_USD), "Runway's own count of credits, 0.01 USD each"
    return Money(amount, source=source, as_of=PRICED, units=float(cost.credits), unit="credit")


def _failure(task: _Task) -> Fault:
    """Failure codes are families, told by their beginning: SAFETY.INPUT.…, THIRD_PARTY.SAFETY, INTERNAL.BAD_OUTPUT.…"""
    family = (task.failureCode or "").split(".")
    code: Code = "moderated" if "SAFETY" in family else "invalid_input" if family[0] == "ASSET" else "generation_failed"
    passing = family[0] == "INTERNAL" and family[1:2] != ["BAD_OUTPUT"]  # which wants another input
    told = plain(task.failureCode) if task.failureCode else ""
    return Fault(code, f"runway: {plain(task.failure)}", retryable=passing, provider_code=told)
