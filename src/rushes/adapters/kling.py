"""Kling, on its wire of 2026: the model ends the path, and one query serves every kind of task.

A task carries our key as `external_task_id` and can be asked for by it, so a lost answer costs a look (class B). A
second create under one id is not documented: where its refusal is told as such, that leaves the send in doubt, too.
Errors are read by their `code`: some that look like throttling by their status are about money.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import Broken, Failed, Flow, Inline, Output, Request, Response, call, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Model, Price
from rushes.faults import BadRequest, Code, Fault
from rushes.units import AssetRef, Handle, Money
from rushes.video import OPERATIONS, Config, Target, VideoSpec

T = TypeVar("T")
SHORT, LONG = (5.0, 10.0), tuple(float(seconds) for seconds in range(3, 16))
ENDS: Final = {"first_frame": 1, "last_frame": 1}


def _price(micro_usd: int) -> Price:
    """Of a second at the dearest: 4k, or 1080p with sound."""
    return Price(per="second", micro_usd=micro_usd, source="Kling's llms.txt, under the old ids", as_of="2026-08-12")


# No aspect ratio is filled in, as clips from images have none. Each 3.0-turbo clip has sound, so there is no choice of
# it; its price has no date. The options of the 2.x models beside these, and 3.0's elements, are not offered here.
TURBO: Final = Model(
    id="kling-3.0-turbo",
    operations=("text-to-video", "image-to-video"),
    durations_s=LONG,
    aspect_ratios=("16:9", "9:16", "1:1"),
    resolutions=("720p", "1080p"),
    roles={"first_frame": 1},
    options={"watermark": "boolean"},
    defaults=Config(duration_seconds=5.0, resolution="720p"),
    prompt="optional",  # a first frame alone will do
    draws_seed=False,
)
SOUND: Final = replace(
    TURBO,
    roles=ENDS,
    fields=frozenset({"generate_audio"}),
    defaults=Config(duration_seconds=5.0, resolution="720p", generate_audio=False),
)
FULL: Final = replace(
    SOUND,
    id="kling-3.0",
    resolutions=("720p", "1080p", "2160p"),
    options={"watermark": "boolean", "multi_shot": "boolean"},  # true where it is not given
    price=_price(420_000),
)
OLDER: Final = (
    replace(SOUND, id="kling-2.6", durations_s=SHORT, price=_price(140_000)),
    replace(TURBO, id="kling-2.5-turbo", durations_s=SHORT, roles=ENDS, price=_price(70_000)),
)
MODELS: Final = (TURBO, FULL, *OLDER)
ONLY_1080P: Final[Mapping[str, frozenset[str]]] = {
    "kling-2.6": frozenset({"generate_audio", "last_frame"}),
    "kling-2.5-turbo": frozenset({"last_frame"}),
}

CODES: Final[Mapping[Code, tuple[int, ...]]] = {
    "authentication_failed": (1000, 1001, 1002, 1003, 1004, 1304),  # 1304: not from this address
    "quota_exceeded": (1100, 1101, 1102),
    "unsupported_feature": (1103,),  # this key may not use this model: other jobs of the key may go on
    "invalid_input": (1200, 1201, 1202),
    "not_found": (1203,),
    "moderated": (1300, 1301),
    "rate_limited": (1302, 1303),
    "provider_unavailable": (5000, 5001, 5002),
}
MEANINGS: Final[Mapping[int, Code]] = {number: word for word, numbers in CODES.items() for number in numbers}
TRANSIENT: Final = ("rate_limited", "provider_unavailable", "conflict")
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # digits so far; never a comma, which parts ids in a query
AMOUNT: Final = re.compile(r"\d{1,9}(\.\d{1,9})?")
ADDRESS: Final = re.compile(r"\b(?:https?|data):\S+")
TAKEN: Final = re.compile(r"duplicat|external.{0,40}(already|exist|repeat|unique|used)", re.IGNORECASE | re.DOTALL)
MODERATED: Final = re.compile(r"risk.?control|sensitive|moderat|polic(y|ies)|violat|content.?secur", re.IGNORECASE)


class _Id(Struct):
    id: str


class _Created(Struct):
    data: _Id  # all that a paid answer must hold


class _Output(Struct):
    type: str = ""
    url: str = ""


class _Charge(Struct):
    charge_type: str  # cash, unit
    amount: str  # decimal
    currency: str = ""


class _Task(Struct):
    id: str
    status: str
    message: str | None = None
    external_id: str | None = None
    outputs: list[_Output] | None = None
    billing: object = None


class _Tasks(Struct):
    data: list[_Task]


class _Problem(Struct):
    code: int = -1
    message: str | None = None
    path: str = ""  # only where it is not one of theirs


class Kling:
    """Its tasks that make clips from words and from first and last frames."""

    name = "kling"
    capabilities = Capabilities(
        base_url="https://api-singapore.klingai.com",
        base_url_env="KLING_BASE_URL",
        models=MODELS,
        auth=Auth(env=("KLINGAI_API_KEY",)),  # the pairs of an access and a secret key are for the old wire only
        docs_url="https://kling.ai/document-api",
    )

    def terms(self, spec: VideoSpec, target: Target) -> base.Terms:  # noqa: ARG002
        """Nothing is cancelled there. Files stay for 30 days; questions are free. Pace and total time are our guess."""
        poll = base.PollSchedule(min_s=5.0, max_s=30.0)
        return base.Terms(doubt="B", cancel="no", poll=poll, link_ttl_s=30 * 86_400.0, total_s=2 * 3600.0)

    def prepare(self, spec: VideoSpec, target: Target) -> Flow[base.Prepared]:
        """Nothing: pictures travel in the order. Raises BadRequest for wishes that only together are wrong."""
        if faults := list(_contradictions(spec, target.model)):
            raise BadRequest(faults)
        yield from ()
        return {}

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Create a task under our own key."""
        url = f"/{OPERATIONS[type(spec.operation)]}/{target.model}"
        reply = yield from call(Request(method="POST", url=url, body=_order(spec, key), spends=True))
        return _handle(self._good(reply, _Created).data.id)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """There is no percent."""
        wanted = _handle(handle.id).id
        task = self._task((yield from call(Request(method="GET", url="/tasks", query={"task_ids": wanted}))), wanted)
        return _outcome(task) if task else base.Vanished()

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """It has no such call."""
        yield from ()
        return "cannot"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The task that carries our key."""
        task = self._task((yield from call(Request(method="GET", url="/tasks", query={"external_task_ids": key}))), key)
        return _handle(task.id) if task else None

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """Results lie on a host that asks for no key."""
        return (yield from base.keep(base.Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:
        """An envelope whose code is not 0, also under status 200; or a page that is not there."""
        try:
            problem = msgspec.json.decode(reply.body, type=_Problem)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if problem.code == -1 and problem.path and reply.status == 404:
            return Fault("not_found", "kling has no such path.")
        if problem.code <= 0:
            return None
        code = MEANINGS.get(problem.code) or base.code_of(reply.status)
        if code == "invalid_input" and TAKEN.search(problem.message or ""):
            code = "conflict"
        return Fault(
            code,
            f"kling: {_plain(problem.message)}",
            retryable=code in TRANSIENT,
            retry_after_s=1.0 if code == "rate_limited" else None,  # at the least, they ask
            provider_code=str(problem.code),
        )

    def _good(self, reply: Response, kind: type[T]) -> T:
        """A good answer's content. Codes from 1000 refuse, but for a key that is taken: there a task may run."""
        if self.fault(reply) is None:
            return reply_json(self, reply, kind)
        failed = base.refused(self, reply)
        code = failed.fault.provider_code
        refuses = re.fullmatch(r"1\d{3}", code) is not None and failed.fault.code != "conflict"
        raise Failed(failed.fault, certain=refuses if code else failed.certain)

    def _task(self, reply: Response, wanted: str) -> _Task | None:
        """The task of that id. Only an empty list or their own word for it says that there is none."""
        fault = self.fault(reply)
        if fault is not None and fault.provider_code == "1203":
            return None
        tasks = self._good(reply, _Tasks).data
        found = [task for task in tasks if wanted in (task.id, task.external_id)]
        if tasks and not found:
            raise Failed(Fault("bad_answer", "kling told of other tasks than it was asked for.", retryable=True))
        return found[0] if found else None


def _contradictions(spec: VideoSpec, model: str) -> Iterator[Fault]:
    """What no field is alone to blame for, so that the model's data cannot say it."""
    roles = {str(given.role) for given in spec.inputs}
    if spec.inputs and spec.aspect_ratio is not None:
        detail = "A clip from images has the ratio of its first frame: leave out 'aspect_ratio', or give 720p, not w×h."
        yield Fault("unsupported_feature", detail, field="aspect_ratio")
    if "last_frame" in roles and "first_frame" not in roles:
        yield Fault("invalid_input", "A last frame needs a first frame beside it.", field="inputs")
    if any(given.asset.media_type not in ("image/jpeg", "image/png") for given in spec.inputs):
        yield Fault("unsupported_feature", f"{model} takes images as JPEG or PNG only.", field="inputs")
    wishes = roles | {"generate_audio"} if spec.generate_audio else roles
    if spec.resolution != "1080p" and (asked := sorted(wishes & ONLY_1080P.get(model, frozenset()))):
        yield Fault("invalid_input", f"{model} does {' and '.join(asked)} at 1080p only.", field="resolution")


def _order(spec: VideoSpec, key: str) -> dict[str, object]:
    settings: dict[str, object | None] = {
        "resolution": "4k" if spec.resolution == "2160p" else spec.resolution,
        "duration": None if spec.duration_seconds is None else int(spec.duration_seconds),  # whole ones in the data
        "aspect_ratio": spec.aspect_ratio,
        "audio": {True: "native", False: "off", None: None}[spec.generate_audio],
        "multi_shot": spec.provider_options.get("multi_shot"),
    }
    options: dict[str, object] = {"external_task_id": key}
    if "watermark" in spec.provider_options:
        options["watermark_info"] = {"enabled": spec.provider_options["watermark"]}
    words = [{"type": "prompt", "text": spec.prompt}] if spec.prompt else []
    frames = [{"type": given.role, "url": Inline(given.asset, "base64")} for given in spec.inputs]
    said: dict[str, object] = {"contents": [*words, *frames]} if frames else {"prompt": spec.prompt}
    return said | {"settings": {name: wish for name, wish in settings.items() if wish is not None}, "options": options}


def _handle(id: str) -> Handle:
    if not ID.fullmatch(id):
        raise Failed(Fault("bad_answer", "This is not the id of a task at kling."), certain=False)
    return Handle(id)


def _outcome(task: _Task) -> base.Outcome:
    charges = _charges(task.billing)
    match task.status:
        case "succeeded":
            outputs = tuple(Output(one.url) for one in task.outputs or [] if one.type == "video" and one.url)
            if not outputs:
                return Broken(Fault("bad_answer", "kling finished without the address of a clip."), billed="yes")
            said = ", ".join(f"{charge.amount} {charge.currency or 'units'}" for charge in charges)
            return base.Done(outputs, cost=_cost(charges), metadata={"billing": said} if said else {})
        case "failed":  # these are not charged, unless they say so
            code: Code = "moderated" if MODERATED.search(task.message or "") else "generation_failed"
            paid = any(Decimal(charge.amount) for charge in charges)
            return Broken(Fault(code, f"kling: {_plain(task.message)}"), billed="yes" if paid else "no")
        case word:
            return base.Unfinished(stage=word)


def _charges(billing: object) -> list[_Charge]:
    """The bill, or none where it is not one that can be read: the clip counts more."""
    try:
        charges = msgspec.convert(billing or [], list[_Charge])
    except msgspec.ValidationError:
        return []
    return charges if all(AMOUNT.fullmatch(charge.amount) for charge in charges) else []


def _cost(charges: list[_Charge]) -> Money | None:
    """What was paid in dollars, with the units beside it. Units of a pack that was paid before have no price here."""
    cash = [charge for charge in charges if charge.charge_type == "cash"]
    units = [float(charge.amount) for charge in charges if charge.charge_type == "unit"]
    if not cash or any(charge.currency != "USD" for charge in cash):
        return None
    micro_usd = round(sum(Decimal(charge.amount) for charge in cash) * 1_000_000)
    return Money(micro_usd, source="kling's bill", units=sum(units) if units else None, unit="unit" if units else "")


def _plain(text: str | None) -> str:
    """Somebody else's words, short, on one line, and without addresses: faults are kept and shown."""
    return " ".join(ADDRESS.sub("(address)", text or "").split())[:300] or "no reason given"
