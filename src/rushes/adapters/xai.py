"""xAI's Grok Imagine: one POST starts a clip, and its answer's id is all there is to find it by.

There is no key of ours, no list and no cancel, so a lost answer stays in doubt (class E). The address of a result is
public and made from the id: ids are kept out of faults as keys are. Prompts may name the references, in the order that
they are given in, from `<IMAGE_1>` on, and the voices from `<AUDIO_0>` on.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Adapter, Broken, Flow, Inline, Request, Response, call, handle_of
from rushes.adapters.capabilities import Auth, Capabilities, Model, PollSchedule, Terms
from rushes.adapters.catalogue import row_of
from rushes.adapters.xai_models import MODELS, VOICES
from rushes.faults import Code, Fault
from rushes.units import Handle, Money
from rushes.video import OPERATIONS, REFERENCES, Target, VideoSpec

PATHS: Final = {"video-to-video": "/videos/edits", "extend": "/videos/extensions"}
POLL: Final = PollSchedule(min_s=5.0, max_s=10.0, growth=1 / 18)  # 10 s from the third minute on
ID: Final = re.compile(r"[A-Za-z0-9_-]{8,128}")  # looks like a UUID, of no version that exists
MODERATED: Final = re.compile(r"(?i)usage guidelines|moderat|content.policy|safety")
PASSING: Final = frozenset({"internal_error", "service_unavailable"})


class _Started(Struct):
    request_id: str


class _File(Struct):
    file_id: str | None = None


class _Video(Struct):
    url: str | None = None
    respect_moderation: bool | None = None
    file_output: _File | None = None


class _Usage(Struct):
    cost_in_usd_ticks: int | None = None  # 1e-10 USD: 10 000 make a micro-dollar


class _Deferred(base.Trouble):
    status: str | None = None
    progress: float | None = None  # 0..100
    video: _Video | None = None
    usage: _Usage | None = None


class Xai(Adapter):
    """The video endpoints of xAI's REST interface."""

    name = "xai"
    capabilities = Capabilities(
        base_url="https://api.x.ai/v1",
        base_url_env="XAI_BASE_URL",
        models=MODELS,
        new_options=True,
        aliases=("grok",),
        auth=Auth(env=("XAI_API_KEY",)),
        # How long a result lives is not documented: an hour is the shortest that is said anywhere.
        terms=Terms(doubt="E", poll=POLL, link_ttl_s=3600.0, total_s=1800.0),
        submits_at_once=1,
        submit_interval_s=1.0,  # one a second, on every tier
        docs_url="https://docs.x.ai",
    )

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Start a clip; the answer comes at once. A bad id leaves it in doubt."""
        url = PATHS.get(OPERATIONS[type(spec.operation)], "/videos/generations")
        body = {"model": target.model, **_body(spec, row_of(self, target.model, spec))}
        started = yield from base.ask(self, Request(method="POST", url=url, body=body, spends=True), _Started)
        return handle_of(self, started.request_id, ID)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """202 is unfinished whatever it says; 400 and 403 are verdicts on the job, unless they are about the key."""
        reply = yield from call(Request(method="GET", url=f"/videos/{handle_of(self, handle.id, ID).id}"))
        if reply.status == 202:
            deferred = base.read(reply, _Deferred) or _Deferred()  # may be empty, or no JSON
            return base.Unfinished(base.percent(deferred.progress), stage="pending")
        fault = self.fault(reply)
        if fault and reply.status == 404:
            return base.Vanished()
        if fault and reply.status in (400, 403) and fault.code != "authentication_failed":
            return Broken(fault)
        return _outcome(base.reply_json(self, reply, _Deferred))

    def fault(self, reply: Response) -> Fault | None:
        """Text and code side by side, both in an object, or a text alone. A bad key is a 400."""
        if (trouble := base.read(reply, base.Trouble)) is None or trouble.error is None:
            return None
        text, word = trouble.told()
        if (code := _code(reply.status, text)) == "authentication_failed":
            text = "it refuses the key."  # what is said about a key may hold parts of it
        return base.problem(self, reply, text, code, word=word)


def _body(spec: VideoSpec, model: Model) -> dict[str, Any]:
    """The body beside the model's name. Files are named as the row says, references and voices are lists."""
    body = base.said(spec, model) | base.unsaid(spec, model)
    voices = [{"voice_id": body.pop(name)} for name in VOICES if name in body]
    for given in spec.inputs:
        name, file = model.wire[given.role], {"url": Inline(given.asset)}
        body[name] = [*body.get(name, []), file] if given.role in REFERENCES else file
    body |= {"reference_audios": voices} if voices else {}
    if stored := body.pop("storage_options", None):
        body["storage_options"] = {"filename": "rushes.mp4", **stored}  # it needs a name
    return body


def _code(status: int, text: str) -> Code:
    if status in (400, 403) and MODERATED.search(text):  # first: a verdict may name the API key that it is about
        return "moderated"
    if status == 400 and "api key" in text.lower():
        return "authentication_failed"
    if status == 400 and "zero data retention" in text.lower():  # such a team must give an upload address
        return "unsupported_feature"
    return base.code_of(status)


def _outcome(deferred: _Deferred) -> base.Outcome:
    video = deferred.video or _Video()
    stored = (video.file_output or _File()).file_id or ""
    url = video.url or (f"files/{stored}/content" if ID.fullmatch(stored) else "")  # that one asks for the key
    match deferred.status or ("done" if video.url else ""):  # an older form has no status
        case "done" if video.respect_moderation is False:
            return Broken(Fault("moderated", "xai made the video and withheld it."), billed="yes")
        case "done":
            metadata = {"file_id": stored} if url and stored else {}
            return base.finished("xai", [url] if url else [], cost=_cost(deferred.usage or _Usage()), metadata=metadata)
        case "failed":
            text, word = deferred.told()
            code: Code = "moderated" if MODERATED.search(text) else "generation_failed"
            return Broken(Fault(code, f"xai: {base.plain(text)}", retryable=word in PASSING, provider_code=word))
        case "expired":
            return Broken(Fault("asset_expired", "xai no longer has the request, or its result."))
        case word:
            return base.Unfinished(base.percent(deferred.progress), stage=word)


def _cost(usage: _Usage) -> Money | None:
    """What they say that they took, rounded up to a micro-dollar, with their own count beside it."""
    ticks, source = usage.cost_in_usd_ticks, "usage.cost_in_usd_ticks of its answer"
    return None if ticks is None else Money(-(-ticks // 10_000), source=source, units=float(ticks), unit="ticks")
