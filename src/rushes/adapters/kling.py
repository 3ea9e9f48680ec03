"""Kling, on its wire of 2026: the path says what is made and by which model, and one query serves every task.

A task carries our key as `external_task_id` and can be asked for by it, so a lost answer costs a look (class B). A
second create under one id is not documented: where its refusal is told as such, that leaves the send in doubt, too.
Errors are read by their `code`: some that look like throttling by their status are about money. Clips come in by
address alone, so they must be takes of its own. Prompts may name the second input `@input_2`, and elements and voices
by the option that holds their id in the account's library: `@element_1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from rushes.adapters import base
from rushes.adapters.base import Adapter, Broken, Failed, Flow, Inline, Output, Request, Response, call, handle_of
from rushes.adapters.capabilities import Auth, Capabilities, Model, PollSchedule, Terms
from rushes.adapters.catalogue import row_of
from rushes.adapters.kling_models import ELEMENTS, MODELS, SETTINGS, VOICES
from rushes.faults import Code, Fault, bad
from rushes.units import Handle, Money
from rushes.video import OPERATIONS, Input, Target, VideoSpec

T = TypeVar("T")
PATHS: Final = {"character-performance": "motion-control"}  # else the operation's own name
MEANINGS: Final[Mapping[str, Code]] = {  # by code, or else by its first two digits
    "10": "authentication_failed",
    "11": "quota_exceeded",
    "1103": "unsupported_feature",  # this key may not use this model: other jobs of the key may go on
    "12": "invalid_input",
    "1203": "not_found",
    "1300": "moderated",
    "1301": "moderated",
    "1302": "rate_limited",
    "1303": "rate_limited",
    "1304": "authentication_failed",  # not from this address
    "50": "provider_unavailable",
}
TRANSIENT: Final = ("rate_limited", "provider_unavailable", "conflict")
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # digits so far; never a comma, which parts ids in a query
TAKEN: Final = re.compile(r"duplicat|external.{0,40}(already|exist|repeat|unique|used)", re.IGNORECASE | re.DOTALL)
MODERATED: Final = re.compile(r"risk.?control|sensitive|moderat|polic(y|ies)|violat|content.?secur", re.IGNORECASE)


class _Answer(Struct, Generic[T]):
    data: T


class _Created(Struct):
    id: str  # all that a paid answer must hold


class _Output(Struct):
    type: str = ""
    url: str = ""


class _Charge(Struct):
    charge_type: str  # cash, unit
    amount: Annotated[str, Meta(pattern=r"^\d{1,9}(\.\d{1,9})?$")]
    currency: str = "units"  # of cash its own


class _Task(_Created):
    status: str
    message: str | None = None
    external_id: str | None = None
    outputs: list[_Output] | None = None
    billing: object = None

    def clips(self) -> list[str]:
        """Their addresses."""
        return [one.url for one in self.outputs or [] if one.type == "video" and one.url]

    def charges(self) -> list[_Charge]:
        """The bill, or none where it is not one that can be read: the clip counts more."""
        try:
            return msgspec.convert(self.billing or [], list[_Charge])
        except msgspec.ValidationError:
            return []


class _Problem(Struct):
    code: int = 0
    message: str | None = None
    path: str = ""  # only where it is not one of theirs


class Kling(Adapter):
    """Its tasks that make clips: from words, frames, references and clips, and of characters that act."""

    name = "kling"
    capabilities = Capabilities(
        base_url="https://api-singapore.klingai.com",
        base_url_env="KLING_BASE_URL",
        models=MODELS,
        aliases=("klingai",),
        auth=Auth(env=("KLINGAI_API_KEY",)),  # the pairs of an access and a secret key are for the old wire only
        # Files stay for 30 days. Pace and total time are our guess.
        terms=Terms(doubt="B", poll=PollSchedule(min_s=5.0), link_ttl_s=30 * 86_400.0, total_s=2 * 3600.0),
        docs_url="https://kling.ai/document-api",
    )

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:  # noqa: ARG002
        """The address of the clip that comes in. Raises BadRequest where it is none that Kling can take."""
        addresses: base.Prepared = {}
        for given in spec.inputs:
            if given.type == "video":
                addresses[given.asset.sha256] = yield from self._address(given, spec)
        return addresses

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:
        """Create a task under our own key."""
        model, operation = row_of(self, target.model, spec), OPERATIONS[type(spec.operation)]
        path = "omni-video" if "style" in model.wire else PATHS.get(operation, operation)
        contents = [*_contents(spec, model, prepared)]
        said: dict[str, object] = {"prompt": spec.prompt} if path == "text-to-video" else {"contents": contents}
        body = {**said, "settings": _settings(spec, model), "options": _options(spec, key)}
        reply = yield from call(Request(method="POST", url=f"/{path}/{target.model}", body=body, spends=True))
        return handle_of(self, self._good(reply, _Answer[_Created]).data.id, ID)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """There is no percent."""
        task = yield from self._task("task_ids", handle_of(self, handle.id, ID).id)
        return _outcome(task) if task else base.Vanished()

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The task that carries our key."""
        task = yield from self._task("external_task_ids", key)
        return handle_of(self, task.id, ID) if task else None

    def fault(self, reply: Response) -> Fault | None:
        """An envelope whose code is not 0, also under status 200; or a page that is not there."""
        problem = base.read(reply, _Problem) or _Problem()
        if problem.path and reply.status == 404:
            return Fault("not_found", "kling has no such path.")
        if problem.code <= 0:
            return None
        number = str(problem.code)
        code = MEANINGS.get(number) or MEANINGS.get(number[:2]) or base.code_of(reply.status)
        if code == "invalid_input" and TAKEN.search(problem.message or ""):
            code = "conflict"
        wait_s = 1.0 if code == "rate_limited" else None  # at the least, they ask
        detail, transient = f"kling: {base.plain(problem.message)}", code in TRANSIENT
        return Fault(code, detail, retryable=transient, retry_after_s=wait_s, provider_code=number)

    def refuses(self, reply: Response, fault: Fault) -> bool:
        """Codes from 1000 do, but under the status of a server's own trouble, and for a key that is taken."""
        if not fault.provider_code:
            return super().refuses(reply, fault)
        return reply.status < 500 and fault.code != "conflict" and 1000 <= int(fault.provider_code) < 2000

    def _good(self, reply: Response, kind: type[T]) -> T:
        if self.fault(reply) is not None:
            raise base.refused(self, reply)
        return base.reply_json(self, reply, kind)

    def _task(self, by: str, wanted: str) -> Flow[_Task | None]:
        """The task of that id. Only an empty list or their own word for it says that there is none."""
        reply = yield from call(Request(method="GET", url="/tasks", query={by: wanted}))
        if (fault := self.fault(reply)) is not None and fault.provider_code == "1203":
            return None
        tasks = self._good(reply, _Answer[list[_Task]]).data
        found = [task for task in tasks if wanted in (task.id, task.external_id)]
        if tasks and not found:
            raise Failed(Fault("bad_answer", "kling told of other tasks than it was asked for.", retryable=True))
        return found[0] if found else None

    def _address(self, given: Input, spec: VideoSpec) -> Flow[str]:
        """As it is now: whoever asks for a task is told the addresses of its takes."""
        made, turned = given.made, spec.provider_options.get("character_orientation")
        if made is None or made.provider != self.name:
            detail = "kling takes clips by address alone: give the job of kling's that made it ('job')."
            raise bad("inputs", detail, "unsupported_feature")
        if turned == "image" and (given.duration_seconds or 0.0) > 10:
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


def _settings(spec: VideoSpec, model: Model) -> dict[str, object]:
    settings: dict[str, object] = base.said(spec, model)
    if spec.resolution == "2160p":
        settings["resolution"] = "4k"
    if spec.generate_audio is not None:
        settings["audio"] = "native" if spec.generate_audio else "off"
    if "multi_shot" in model.options and any(given.role == "reference_video" for given in spec.inputs):
        settings["multi_shot"] = True  # as such clips want it
    settings |= {name: value for name, value in spec.provider_options.items() if name in SETTINGS}
    return settings


def _options(spec: VideoSpec, key: str) -> dict[str, object]:
    options: dict[str, object] = {"external_task_id": key}
    if "watermark" in spec.provider_options:
        options["watermark_info"] = {"enabled": spec.provider_options["watermark"]}
    return options


def _outcome(task: _Task) -> base.Outcome:
    charges, clips = task.charges(), task.clips()
    match task.status:
        case "succeeded" if clips:
            told = ", ".join(f"{charge.amount} {charge.currency}" for charge in charges)
            outputs = tuple(Output(url) for url in clips)
            return base.Done(outputs, cost=_cost(charges), metadata={"billing": told} if told else {})
        case "succeeded":
            return Broken(Fault("bad_answer", "kling finished without the address of a clip."), billed="yes")
        case "failed":  # these are not charged, unless they say so
            code: Code = "moderated" if MODERATED.search(task.message or "") else "generation_failed"
            paid = any(Decimal(charge.amount) for charge in charges)
            return Broken(Fault(code, f"kling: {base.plain(task.message)}"), billed="yes" if paid else "no")
        case word:
            return base.Unfinished(stage=word)


def _cost(charges: Sequence[_Charge]) -> Money | None:
    """What was paid in dollars, with the units beside it. Units of a pack that was paid before have no price here."""
    cash = [charge for charge in charges if charge.charge_type == "cash"]
    units = [float(charge.amount) for charge in charges if charge.charge_type == "unit"]
    if not cash or any(charge.currency != "USD" for charge in cash):
        return None
    micro_usd = round(sum(Decimal(charge.amount) for charge in cash) * 1_000_000)
    return Money(micro_usd, source="kling's bill", units=sum(units) if units else None, unit="unit" if units else "")
