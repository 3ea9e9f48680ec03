"""Kling, on its wire of 2026: the path says what is made and by which model, and one query serves every task.

A task carries our key as `external_task_id` and can be asked for by it, so a lost answer costs a look (class B). A
second create under one id is not documented: where its refusal is told as such, that leaves the send in doubt, too.
Errors are read by their `code`: some that look like throttling by their status are about money. Clips come in by
address alone, so they must be takes of its own. Prompts may name the second input `@input_2`, and elements and voices
by the option that holds their id in the account's library: `@element_1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Generic, TypeVar

from msgspec import Meta, Struct

from rushes.adapters import base
from rushes.adapters.base import Failed, Flow, Inline, Request, call, handle_of
from rushes.adapters.capabilities import Auth, Capabilities, Model, PollSchedule, Terms, Webhook
from rushes.adapters.catalogue import row_of
from rushes.adapters.kling_bill import bill_of
from rushes.adapters.kling_errors import ID, KlingErrors, failure
from rushes.adapters.kling_models import ELEMENTS, MODELS, VOICES
from rushes.faults import Fault, bad
from rushes.units import Handle
from rushes.video import OPERATIONS, Input, Made, Target, VideoSpec

T = TypeVar("T")
PATHS: Final = {"character-performance": "motion-control"}  # else the operation's own name


class _Answer(Struct, Generic[T]):
    data: T
    code: Annotated[int, Meta(le=0)] = 0  # of an error it is more


class _Output(Struct):
    type: str = ""
    url: str = ""


class _Task(base.Created):
    status: str
    message: str | None = None
    external_id: str | None = None
    outputs: list[_Output] | None = None
    billing: object = None

    def clips(self) -> list[str]:
        """Their addresses."""
        return [one.url for one in self.outputs or [] if one.type == "video" and one.url]


class Kling(KlingErrors):
    """Its tasks that make clips: from words, frames, references and clips, and of characters that act."""

    name = "kling"
    capabilities = Capabilities(
        base_url="https://api-singapore.klingai.com",
        base_url_env="KLING_BASE_URL",
        models=MODELS,
        aliases=("klingai",),
        elder="kling_legacy",
        auth=Auth(env=("KLINGAI_API_KEY",)),  # the pairs of an access and a secret key are for the old wire only
        # Files stay for 30 days. Pace and total time are our guess.
        terms=Terms(doubt="B", poll=PollSchedule(min_s=5.0), link_ttl_s=30 * 86_400.0, total_s=2 * 3600.0),
        webhook=Webhook(env="KLING_WEBHOOK_SECRET"),
        docs_url="https://kling.ai/document-api",
    )

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:  # noqa: ARG002
        """The address of the clip that comes in. Raises BadRequest where it is too long for how it is to be done."""
        addresses: base.Prepared = {}
        for given in spec.inputs:
            if given.made:
                addresses[given.asset.sha256] = yield from self._address(given, given.made, spec)
        return addresses

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:
        """Create a task under our own key."""
        model, operation = row_of(self, target.model, spec), OPERATIONS[type(spec.operation)]
        path = "omni-video" if "style" in model.wire else PATHS.get(operation, operation)
        contents = [*_contents(spec, model, prepared)]
        body: dict[str, Any] = {"prompt": spec.prompt} if path == "text-to-video" else {"contents": contents}
        body |= base.said(spec, model)
        body["options"] = {"external_task_id": key, **body.get("options", {})}
        if base.CALLBACK in prepared:
            body["options"]["callback_url"] = prepared[base.CALLBACK]
        if "multi_shot" in model.options and any(given.role == "reference_video" for given in spec.inputs):
            body["settings"].setdefault("multi_shot", True)  # as such clips want it
        request = Request(method="POST", url=f"/{path}/{target.model}", body=body, spends=True)
        return handle_of(self, (yield from base.ask(self, request, _Answer[base.Created])).data.id, ID)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """There is no percent."""
        task = yield from self._task("task_ids", handle_of(self, handle.id, ID).id)
        return _outcome(task) if task else base.Vanished()

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The task that carries our key."""
        task = yield from self._task("external_task_ids", key)
        return handle_of(self, task.id, ID) if task else None

    def callback(self, body: bytes, target: Target) -> base.Told | None:  # noqa: ARG002
        """The task, whenever its status changes."""
        state = base.read_json(body, base.State)
        return state.told(ID, ("submitted", "processing")) if state else None

    def _task(self, by: str, wanted: str) -> Flow[_Task | None]:
        """The task of that id. Only an empty list or their own word for it says that there is none."""
        reply = yield from call(Request(method="GET", url="/tasks", query={by: wanted}))
        if (fault := self.fault(reply)) is not None and fault.provider_code == "1203":
            return None
        tasks = base.reply_json(self, reply, _Answer[list[_Task]]).data
        found = [task for task in tasks if wanted in (task.id, task.external_id)]
        if tasks and not found:
            raise Failed(Fault("bad_answer", "kling told of other tasks than it was asked for.", retryable=True))
        return found[0] if found else None

    def _address(self, given: Input, made: Made, spec: VideoSpec) -> Flow[str]:
        """As it is now: whoever asks for a task is told the addresses of its takes."""
        if spec.provider_options.get("character_orientation") == "image" and (given.duration_seconds or 0.0) > 10:
            raise bad("inputs", "kling takes a performance of 3 to 10 seconds with character_orientation image.")
        task = yield from self._task("task_ids", handle_of(self, made.handle.id, ID).id)
        if task is None or made.take >= len(task.clips()):
            raise Failed(Fault("asset_expired", "kling does not have that take any more: it keeps them for 30 days."))
        return task.clips()[made.take]


def _contents(spec: VideoSpec, model: Model, prepared: base.Prepared) -> Iterator[dict[str, object]]:
    if spec.prompt:
        yield {"type": "prompt", "text": spec.prompt}
    for number, given in enumerate(spec.inputs, 1):
        url = prepared.get(given.asset.sha256) or Inline(given.asset, "base64")
        yield {"type": model.wire[given.role], "url": url, "id": f"input_{number}"}
    for name, value in spec.provider_options.items():
        if name in ELEMENTS | VOICES:
            kind = name.partition("_")[0]
            yield {"type": kind, f"{kind}_id": value, "id": name}


def _outcome(task: _Task) -> base.Outcome:
    bill = bill_of(task.billing)
    match task.status:
        case "succeeded":
            return base.finished("kling", task.clips(), cost=bill.cost(), metadata=bill.told())
        case "failed":
            return failure(task.message, bill.billed())
        case word:
            return base.Unfinished(stage=word)
