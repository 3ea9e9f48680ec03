"""Replicate: a marketplace of models behind one wire. What a model takes is data; the wire is the same for all.

It takes no key and no id of ours. A request with a file of ours can be found again by that file (class C); one of words
alone cannot (E), or waits for their call where there is an address for it (D). `Prefer` would hold the paid call open.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct, json, structs

from rushes.adapters import base
from rushes.adapters.base import Adapter, Flow, Part, Request, Response, ask, handle_of, listed, look
from rushes.adapters.capabilities import Auth, Capabilities, Model, Terms, Webhook
from rushes.adapters.catalogue import row_of
from rushes.adapters.replicate_models import MODELS, VERSIONS
from rushes.faults import Code, Fault
from rushes.units import Handle
from rushes.video import Target, VideoSpec

PATH: Final = "/v1/predictions"
ID: Final = re.compile(r"[a-z0-9]{8,64}")
PERCENT: Final = re.compile(r"(\d{1,3})%\|")  # tqdm's bar in the logs
MODERATED: Final = re.compile(r"\bE005\b|nsfw|sensitive|flagged|moderat", re.IGNORECASE)
PASSING: Final = re.compile(r"\bE00[134]\b|CUDA out of memory|high demand", re.IGNORECASE)
MARK: Final = "rushes"  # in a file's metadata: the key of the attempt that it was uploaded for


class _Urls(Struct):
    get: str


class _Row(Struct):  # a file or a prediction, as lists show them
    id: str
    created_at: str  # 2026-11-21T07:00:00.123Z
    urls: _Urls
    metadata: dict[str, object] | None = None  # of a file
    input: object = None  # of a prediction; empty an hour after its end


class _Prediction(Struct):
    status: str
    output: object = None  # an address, a list of them, or an object that holds them
    error: object = None
    logs: str | None = None
    data_removed: bool = False


class _Problem(Struct):
    detail: str
    title: str = ""


class Replicate(Adapter):
    """The Predictions API."""

    name = "replicate"
    capabilities = Capabilities(
        base_url="https://api.replicate.com",
        base_url_env="REPLICATE_BASE_URL",
        models=MODELS,
        new_options=True,
        auth=Auth(env=("REPLICATE_API_TOKEN",)),
        terms=Terms(doubt="E", cancel="stops", link_ttl_s=3600.0, total_s=7200.0),  # a run ends after 30 minutes there
        webhook=Webhook(env="REPLICATE_WEBHOOK_SECRET"),
        docs_url="https://replicate.com/docs/reference/http",
    )

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002
        """Only an uploaded file carries our mark."""
        return structs.replace(self.capabilities.terms, doubt="C") if spec.inputs else self.capabilities.terms

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:  # noqa: ARG002
        """Every input becomes a file there, marked with the attempt's key. It lives for a day."""
        addresses: base.Prepared = {}
        for sha256, asset in base.files(spec).items():
            body = [Part("metadata", json.encode({MARK: key}).decode()), base.file_part("content", asset)]
            request = Request(method="POST", url="/v1/files", body=body, timeout_s=300.0)
            addresses[sha256] = (yield from ask(self, request, _Row)).urls.get
        return addresses

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Create a prediction; the answer comes at once, long before the clip. An id with a colon names a version."""
        url = f"/v1/models/{target.model}/predictions"
        body: dict[str, object] = {"input": _input(spec, row_of(self, target.model, spec), prepared)}
        if version := VERSIONS.get(target.model, target.model if ":" in target.model else ""):
            url, body = PATH, {"version": version, **body}
        if base.CALLBACK in prepared:
            body |= {"webhook": prepared[base.CALLBACK], "webhook_events_filter": ["start", "completed"]}
        return (yield from base.start(self, Request(method="POST", url=url, body=body, spends=True), ID))

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Percent is read from the end of the logs, where models draw a bar."""
        prediction = yield from look(self, f"{PATH}/{handle_of(self, handle.id, ID).id}", _Prediction)
        if prediction is None:
            return base.Vanished()
        match prediction.status:
            case "succeeded" if prediction.data_removed or prediction.output is None:
                return base.Broken(Fault("asset_expired", "replicate keeps results for one hour."), billed="yes")
            case "succeeded":
                return base.finished("replicate", base.addresses(prediction.output))
            case "failed":
                return base.Broken(_failure(base.plain(str(prediction.error or ""))))
            case "canceled" | "aborted" as word:  # aborted: a deadline passed before it began
                return base.Stopped(billed="no" if word == "aborted" else "unknown")
            case word:
                percents = PERCENT.findall((prediction.logs or "")[-4000:])
                return base.Unfinished(base.percent(int(percents[-1])) if percents else None, stage=word)

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """Often still processing in this answer: the polls that follow know. The time used is charged."""
        url = f"{PATH}/{handle_of(self, handle.id, ID).id}/cancel"
        prediction = yield from ask(self, Request(method="POST", url=url), _Prediction)
        return "too_late" if prediction.status in ("succeeded", "failed") else "accepted"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The one prediction whose input has a file with the mark `key`. Two of them are no evidence."""
        rows = yield from listed(self, "/v1/files", {}, _Row)
        files = {file.urls.get: file.created_at for file in rows if (file.metadata or {}).get(MARK) == key}
        made = (yield from listed(self, PATH, {"created_after": min(files.values())}, _Row)) if files else []
        found = {row.id for row in made if not files.keys().isdisjoint(base.addresses(row.input))}
        return handle_of(self, found.pop(), ID) if len(found) == 1 else None

    def callback(self, body: bytes, target: Target) -> base.Told | None:  # noqa: ARG002
        """The whole prediction, when it begins and when it ends."""
        state = base.read_json(body, base.State)
        return state.told(ID, ("starting", "processing")) if state else None

    def fault(self, reply: Response) -> Fault | None:
        """Problem documents, and the shorter {"detail"} of some answers."""
        problem = base.read(reply, _Problem)
        return base.problem(self, reply, problem.detail or problem.title) if problem else None


def _input(spec: VideoSpec, model: Model, prepared: base.Prepared) -> dict[str, Any]:
    """The model's own input: every wish under the name that it has there; roles that take several files are lists."""
    sent: dict[str, Any] = {**base.said(spec, model), **spec.provider_options}
    for given in spec.inputs:
        name, address = model.wire[given.role], prepared[given.asset.sha256]
        sent[name] = address if model.roles[given.role] == 1 else [*sent.get(name, []), address]
    return sent


def _failure(text: str) -> Fault:
    """Models say in free text why they failed; some end it with a code such as (E005)."""
    moderated, word = MODERATED.search(text), (re.search(r"\bE\d{3}\b", text) or [""])[0]
    code: Code = "moderated" if moderated else "generation_failed"
    return Fault(code, f"replicate: {text}", retryable=not moderated and bool(PASSING.search(text)), provider_code=word)
