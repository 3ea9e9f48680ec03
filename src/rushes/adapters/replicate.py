"""Replicate: a marketplace of models behind one wire. What a model takes is data; the wire is the same for all.

It takes no key and no id of ours, but it lists what we uploaded with our mark, and predictions with their input. So a
request that carries a file of ours can be found again by it (class C); one of words alone leaves nothing (class E).
No `Prefer` header is ever sent: it would hold the paid call open, and its answer in doubt, for up to a minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import Adapter, Flow, Inline, Output, Part, Request, Response, call, plain, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Model, Terms
from rushes.adapters.catalogue import row_of
from rushes.adapters.replicate_models import MODELS, VERSIONS
from rushes.faults import Code, Fault
from rushes.units import Handle
from rushes.video import Target, VideoSpec

ID: Final = re.compile(r"[a-z0-9]{8,64}")
ADDRESS: Final = re.compile(r"(?:https?|data):\S+")
PERCENT: Final = re.compile(r"(\d{1,3})%\|")  # tqdm's bar in the logs
MODERATED: Final = re.compile(r"\bE005\b|nsfw|sensitive|flagged|moderat", re.IGNORECASE)
PASSING: Final = re.compile(r"\bE00[134]\b|CUDA out of memory|high demand", re.IGNORECASE)
RESETS: Final = re.compile(r"resets in ~?(\d+)s")
MARK: Final = "rushes"  # in a file's metadata: the key of the attempt that it was uploaded for
PAGES: Final = 50  # of a list, of about a hundred rows each; beyond them a look finds nothing, which proves nothing


class _Created(Struct):
    id: str  # all that a paid answer must hold: nothing else in it can make it unreadable


class _Urls(Struct):
    get: str


class _Row(Struct):
    """A file or a prediction, as lists show them."""

    id: str
    created_at: str  # 2026-11-21T07:00:00.123Z
    urls: _Urls
    metadata: dict[str, object] | None = None  # of a file
    input: object = None  # of a prediction; empty an hour after its end


class _Page(Struct):
    results: list[_Row]
    next: str | None = None


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
        base_url="https://api.replicate.com/v1",
        base_url_env="REPLICATE_BASE_URL",
        models=MODELS,
        auth=Auth(env=("REPLICATE_API_TOKEN",)),
        # A run ends after 30 minutes there, and its files are gone one hour after that.
        terms=Terms(doubt="E", cancel="stops", link_ttl_s=3600.0, total_s=2 * 3600.0),
        docs_url="https://replicate.com/docs/reference/http",
    )

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002
        """Only an uploaded file carries our mark."""
        return replace(self.capabilities.terms, doubt="C") if spec.inputs else self.capabilities.terms

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:  # noqa: ARG002
        """Every input becomes a file there, marked with the attempt's key. It lives for a day."""
        addresses: base.Prepared = {}
        for sha256, asset in {given.asset.sha256: given.asset for given in spec.inputs}.items():
            name = f"{sha256[:16]}.{asset.media_type.partition('/')[2]}"
            mark = Part("metadata", msgspec.json.encode({MARK: key}).decode())
            body = [Part("content", Inline(asset, "bytes"), name, asset.media_type), mark]
            reply = yield from call(Request(method="POST", url="/files", body=body, timeout_s=300.0))
            addresses[sha256] = reply_json(self, reply, _Row).urls.get
        return addresses

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Create a prediction; the answer comes at once, long before the clip. An id with a colon names a version."""
        url = f"/models/{target.model}/predictions"
        body: dict[str, object] = {"input": _input(spec, row_of(self, target.model, spec), prepared)}
        if version := VERSIONS.get(target.model, target.model if ":" in target.model else ""):
            url, body = "/predictions", {"version": version, **body}
        reply = yield from call(Request(method="POST", url=url, body=body, spends=True))
        return base.handle_of(self, reply_json(self, reply, _Created).id, ID)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Percent is read from the end of the logs, where models draw a bar."""
        reply = yield from call(Request(method="GET", url=self._path(handle)))
        if reply.status == 404 and self.fault(reply):  # a gateway's page says nothing
            return base.Vanished()
        return _outcome(reply_json(self, reply, _Prediction))

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """Often still processing in this answer: the polls that follow know. The time used is charged."""
        reply = yield from call(Request(method="POST", url=f"{self._path(handle)}/cancel"))
        ended = reply_json(self, reply, _Prediction).status in ("succeeded", "failed")
        return "too_late" if ended else "accepted"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The one prediction whose input has a file with the mark `key`. Two of them are no evidence."""
        files = [file for file in (yield from self._listed("/files", {})) if (file.metadata or {}).get(MARK) == key]
        if not files:
            return None
        after, ours = min(file.created_at for file in files), {file.urls.get for file in files}
        made = yield from self._listed("/predictions", {"created_after": after})
        found = {row.id for row in made if not ours.isdisjoint(_addresses([row.input]))}
        return base.handle_of(self, found.pop(), ID) if len(found) == 1 else None

    def fault(self, reply: Response) -> Fault | None:
        """Problem documents, and the shorter {"detail"} of some answers."""
        if (problem := base.read(reply, _Problem)) is None:
            return None
        transient = reply.status == 429 or reply.status >= 500
        wait_s = _resets_s(reply, problem) if reply.status == 429 else None
        detail = f"replicate: {plain(problem.detail or problem.title)}"
        return Fault(base.code_of(reply.status), detail, retryable=transient, retry_after_s=wait_s)

    def _path(self, handle: Handle) -> str:
        return f"/predictions/{base.handle_of(self, handle.id, ID).id}"

    def _listed(self, url: str, query: Mapping[str, str]) -> Flow[list[_Row]]:
        """The rows of a list, page after page."""
        rows: list[_Row] = []
        for _ in range(PAGES):
            page = reply_json(self, (yield from call(Request(method="GET", url=url, query=query))), _Page)
            rows += page.results
            if not page.next:
                break
            url, query = page.next, {}
        return rows


def _input(spec: VideoSpec, model: Model, prepared: base.Prepared) -> dict[str, Any]:
    """The model's own input: every wish under the name that it has there; roles that take several files are lists."""
    sent = base.said(spec, model)
    for given in spec.inputs:
        name, address = model.wire[given.role], prepared[given.asset.sha256]
        sent[name] = address if model.roles[given.role] == 1 else [*sent.get(name, []), address]
    return sent | dict(spec.provider_options)


def _outcome(prediction: _Prediction) -> base.Outcome:
    match prediction.status:
        case "succeeded":
            return _done(prediction)
        case "failed":
            return base.Broken(_failure(plain(str(prediction.error or ""))))
        case "canceled":
            return base.Stopped()
        case "aborted":  # a deadline passed before it began
            return base.Stopped(billed="no")
        case word:
            percents = PERCENT.findall((prediction.logs or "")[-4000:])
            return base.Unfinished(min(99, int(percents[-1])) if percents else None, stage=word)


def _done(prediction: _Prediction) -> base.Outcome:
    if prediction.data_removed or prediction.output is None:
        gone = Fault("asset_expired", "replicate removed the result: it keeps results for one hour.")
        return base.Broken(gone, billed="yes")
    outputs = tuple(Output(url) for url in _addresses([prediction.output]))
    if not outputs:
        return base.Broken(Fault("bad_answer", "replicate finished without the address of a file."), billed="yes")
    return base.Done(outputs)


def _addresses(nodes: Iterable[object]) -> Iterator[str]:
    """Those in texts, lists and objects; in an object, `video` is the one that counts."""
    for node in nodes:
        if isinstance(node, str) and ADDRESS.fullmatch(node):
            yield node
        elif isinstance(node, list):
            yield from _addresses(cast("list[object]", node))
        elif isinstance(node, dict):
            named = cast("dict[str, object]", node)
            yield from _addresses([named["video"]] if "video" in named else list(named.values()))


def _failure(text: str) -> Fault:
    """Models say in free text why they failed; some end it with a code such as (E005)."""
    code: Code = "moderated" if MODERATED.search(text) else "generation_failed"
    passing = code != "moderated" and PASSING.search(text) is not None
    their_code = re.search(r"\bE\d{3}\b", text)
    return Fault(code, f"replicate: {text}", retryable=passing, provider_code=their_code[0] if their_code else "")


def _resets_s(reply: Response, problem: _Problem) -> float | None:
    told = RESETS.search(problem.detail)
    seconds = told[1] if told else reply.headers.get("ratelimit-reset", "")
    return min(float(seconds), 86_400.0) if re.fullmatch(r"\d{1,9}", seconds) else None
