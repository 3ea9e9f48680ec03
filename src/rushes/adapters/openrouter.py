"""OpenRouter: one wire over many makers' video models.

Nothing of ours can be looked up or sent twice under one key, so a lost answer stays in doubt (class E), unless there is
an address to call back (D): they say under it how each job has ended, and nothing before. The paid call is held open
for seconds, with blank lines under a 202, until the maker has answered: an error may come below it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Adapter, Flow, Inline, Output, Request, Response, handle_of, plain
from rushes.adapters.capabilities import Auth, Capabilities, Model, PollSchedule, Terms, Webhook
from rushes.adapters.catalogue import row_of
from rushes.adapters.openrouter_bill import Usage
from rushes.adapters.openrouter_models import FRAMES, MODELS, RETIRED, WIRE, maker_of
from rushes.faults import Code, Fault
from rushes.units import Handle
from rushes.video import Target, VideoSpec

OWN: Final = frozenset(WIRE.values())
HELD_S: Final = 180.0  # the paid call, blank lines included
ID: Final = re.compile(r"[A-Za-z0-9][\w.:-]{0,127}", re.ASCII)  # two forms were seen, so any is taken
MODERATED: Final = re.compile(r"safety|moderat|policy|sensitive|flagged", re.IGNORECASE)
TAKEN_BY_NOBODY: Final = frozenset({"400", "401", "402", "403", "404", "409", "413"})  # below a 202 these alone say so


class _Error(Struct):
    message: str = ""
    code: int | str | None = None
    metadata: dict[str, object] | None = None  # may hold what was flagged: never shown


class _Problem(Struct):
    error: _Error


class _Video(Struct):
    status: str
    generation_id: str | None = None
    unsigned_urls: list[str] | None = None  # ask for the key, despite their name
    urls: list[str] | None = None  # ask for none
    error: str | _Error | None = None
    usage: Usage | None = None


class _Event(Struct):
    data: base.State


class OpenRouter(Adapter):
    """The video generation API."""

    name = "openrouter"
    capabilities = Capabilities(
        base_url="https://openrouter.ai/api/v1",
        base_url_env="OPENROUTER_BASE_URL",
        models=MODELS,
        new_options=True,
        retired=RETIRED,
        auth=Auth(env=("OPENROUTER_API_KEY",)),
        # They advise to ask every 10 to 30 s. A video is gone when its maker's own address is, after hours.
        terms=Terms(doubt="E", poll=PollSchedule(min_s=10.0), total_s=1800.0),
        webhook=Webhook(env="OPENROUTER_WEBHOOK_SECRET", scheme="openrouter"),
        keyed_results=True,
        docs_url="https://openrouter.ai/docs/guides/overview/multimodal/video-generation",
    )

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:
        """Nothing: files travel in the order. Raises BadRequest where no order can say what is wished for."""
        _body(spec, row_of(self, target.model, spec))
        return (yield from super().prepare(spec, target, key))

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Order a video. The status of the answer says little: an id means yes, an error without one what it says."""
        body = _body(spec, row_of(self, target.model, spec))
        if base.CALLBACK in prepared:
            body["callback_url"] = prepared[base.CALLBACK]
        request = Request(method="POST", url="/videos", body=body, spends=True, timeout_s=HELD_S)
        return (yield from base.start(self, request, ID, {"model": target.model}))

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """They tell no progress, and often stay with `pending` until the end."""
        path = f"/videos/{handle_of(self, handle.id, ID).id}"
        video = yield from base.look(self, path, _Video)
        if video is None:
            return base.Vanished()
        usage = video.usage or Usage()
        match video.status:
            case "completed":  # where they name no address, the usual one is tried
                found = video.unsigned_urls or video.urls or [f"{path.lstrip('/')}/content?index=0"]
                told = {"generation_id": video.generation_id} if video.generation_id else {}
                return base.Done(tuple(map(Output, found)), cost=usage.money(), metadata=told)
            case "failed" | "dead":  # makers say in free text why
                text = (video.error.message if isinstance(video.error, _Error) else video.error) or ""
                code: Code = "moderated" if MODERATED.search(text) else "generation_failed"
                return base.Broken(Fault(code, f"openrouter: {plain(text)}"), usage.billed())
            case "cancelled":  # by them: we cannot ask for it
                return base.Stopped(usage.billed())
            case "expired":
                return base.Broken(Fault("asset_expired", "openrouter: it took too long, or is gone."), usage.billed())
            case word:
                return base.Unfinished(stage=word)

    def callback(self, body: bytes, target: Target) -> base.Told | None:
        """They call when a job has ended."""
        event = base.read_json(body, _Event)
        return event.data.told(ID, ("pending", "in_progress"), {"model": target.model}) if event else None

    def fault(self, reply: Response) -> Fault | None:
        """One envelope for all errors; below a good status the code inside it counts."""
        if (problem := base.read(reply, _Problem)) is None:
            return None
        error = problem.error
        status = reply.status if reply.status >= 400 else error.code if isinstance(error.code, int) else 500
        flagged = (error.metadata or {}).get("reasons") or MODERATED.search(error.message)
        code: Code = "invalid_input" if status == 409 else base.code_of(status)  # 409: the job before is not done
        code = "moderated" if status == 403 and flagged else code
        later = status in (429, 499) or status >= 500
        later = later or (status == 402 and base.retry_after_s(reply) is not None)  # too much at once, not no money
        return Fault(code, f"openrouter: {plain(error.message)}", retryable=later, provider_code=str(error.code or ""))

    def refuses(self, reply: Response, fault: Fault) -> bool:
        """Whether nobody was asked. A 503 of their own says so too, and below a 202 the code inside."""
        if reply.status < 300:
            return fault.provider_code in TAKEN_BY_NOBODY
        own = fault.provider_code == str(reply.status)
        return super().refuses(reply, fault) or (own and reply.status in (409, 503))


def _body(spec: VideoSpec, row: Model) -> dict[str, Any]:
    """What was not wished for is not said. Options, and fields that only the maker knows, are passed on to it."""
    passed = base.said(spec, row) | spec.provider_options
    body: dict[str, Any] = {"model": row.id, **{name: passed.pop(name) for name in [*passed] if name in OWN}}
    for given in spec.inputs:
        if given.made:
            body[WIRE[given.role]] = given.made.handle.id
        else:
            place = {"frame_type": given.role} if given.role in FRAMES else {}
            image = {"type": "image_url", "image_url": {"url": Inline(given.asset)}, **place}
            body.setdefault(WIRE[given.role], []).append(image)
    if passed:
        body["provider"] = {"options": {maker_of(row, next(iter(passed))): {"parameters": passed}}}
    return body
