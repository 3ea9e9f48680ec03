"""OpenRouter: one wire over many makers' video models.

Nothing of ours can be looked up or sent twice under one key, so a lost answer stays in doubt (class E). The paid call
is held open for seconds, with blank lines under a 202, until the maker has answered: an error may come below it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Adapter, Flow, Inline, Output, Request, Response, call, handle_of, plain, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Model, PollSchedule, Terms
from rushes.adapters.catalogue import row_of
from rushes.adapters.openrouter_models import BOTH, MAKERS, MODELS, RETIRED, WIRE
from rushes.faults import Code, Fault, bad
from rushes.units import AssetRef, Billed, Handle, Money
from rushes.video import Input, Target, VideoSpec

OWN: Final = frozenset(WIRE.values())
LINES: Final = {"1440p": "2K", "2160p": "4K"}  # ours → theirs, where they differ
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


class _Created(Struct):
    id: str = ""  # all that a paid answer must hold: nothing else in it can make it unreadable


class _Usage(Struct):
    cost: Decimal | None = None  # US dollars
    is_byok: bool = False  # the maker was paid with the caller's own key: `cost` is OpenRouter's fee alone


class _Video(Struct):
    status: str
    generation_id: str | None = None
    unsigned_urls: list[str] | None = None  # ask for the key, despite their name
    urls: list[str] | None = None  # ask for none
    error: str | _Error | None = None
    usage: _Usage | None = None


class OpenRouter(Adapter):
    """The video generation API."""

    name = "openrouter"
    capabilities = Capabilities(
        base_url="https://openrouter.ai/api/v1",
        base_url_env="OPENROUTER_BASE_URL",
        models=MODELS,
        retired=RETIRED,
        auth=Auth(env=("OPENROUTER_API_KEY",)),
        # They advise to ask every 10 to 30 s. A video is gone when its maker's own address is, after hours.
        terms=Terms(doubt="E", poll=PollSchedule(min_s=10.0), total_s=1800.0),
        docs_url="https://openrouter.ai/docs/guides/overview/multimodal/video-generation",
    )

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:
        """Nothing: files travel in the order. Raises BadRequest where no order can say what is wished for."""
        _body(spec, row_of(self, target.model, spec))
        return (yield from super().prepare(spec, target, key))

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Order a video. The status of the answer says little: an id means yes, an error without one what it says."""
        body = _body(spec, row_of(self, target.model, spec))
        reply = yield from call(Request(method="POST", url="/videos", body=body, spends=True, timeout_s=HELD_S))
        created = reply_json(self, reply, _Created)
        if not created.id and self.fault(reply):
            raise base.refused(self, reply)
        return handle_of(self, created.id, ID, {"model": target.model})

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """They tell no progress, and often stay with `pending` until the end."""
        path = f"/videos/{handle_of(self, handle.id, ID).id}"
        reply = yield from call(Request(method="GET", url=path))
        if reply.status == 404 and self.fault(reply):
            return base.Vanished()
        video = reply_json(self, reply, _Video)
        billed = _billed(video.usage)
        match video.status:
            case "completed":
                return _done(video, path)
            case "failed" | "dead":
                return base.Broken(_failure(video.error), billed)
            case "cancelled":  # by them: we cannot ask for it
                return base.Stopped(billed)
            case "expired":
                return base.Broken(Fault("asset_expired", "openrouter: it took too long, or is gone."), billed)
            case word:
                return base.Unfinished(stage=word)

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """Their own host asks for the key; to any other one it does not go along."""
        return (yield from base.keep(base.Keep(url=output.url, with_credential=True)))

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
    told = base.said(spec, row) | spec.provider_options
    passed = {name: told.pop(name) for name in [*told] if name not in OWN}
    body: dict[str, Any] = {"model": row.id, **told}
    if (lines := body.get("resolution")) in LINES:
        body["resolution"] = LINES[lines]
    for number, given in enumerate(spec.inputs):
        if given.role == "source":
            body[WIRE[given.role]] = _previous(given, f"inputs[{number}]", row)
        else:
            place = {"frame_type": given.role} if given.role in BOTH else {}
            image = {"type": "image_url", "image_url": {"url": Inline(given.asset)}, **place}
            body.setdefault(WIRE[given.role], []).append(image)
    if passed:
        body["provider"] = {"options": {_maker(row, next(iter(passed))): {"parameters": passed}}}
    return body


def _previous(given: Input, field: str, row: Model) -> str:
    """The job that is gone on with. Raises BadRequest where it is none of theirs, or of another model."""
    made = given.made
    if made is None or made.provider != "openrouter":
        detail = f"openrouter takes no clip but one that it made: give {field} as the job that made it ('job')."
        raise bad(field, detail, "unsupported_feature")
    if (model := made.handle.extra.get("model", row.id)) != row.id:
        raise bad(field, f"{field} was made by {model}, and no other model can go on with it: use that one.")
    return made.handle.id


def _maker(row: Model, name: str) -> str:
    """The name that options go to the maker under. Raises BadRequest: under a wrong one they are dropped in silence."""
    house = row.id.partition("/")[0]
    if house not in MAKERS:
        field = next((ours for ours, theirs in row.wire.items() if theirs == name), f"provider_options.{name}")
        detail = f"Nobody here knows under which name openrouter passes {field!r} on to {house}: leave it out."
        raise bad(field, detail, "unsupported_feature")
    return MAKERS[house]


def _done(video: _Video, path: str) -> base.Outcome:
    """The content address that they name, or a signed one; where they name none, the usual one is tried."""
    found = video.unsigned_urls or video.urls or [f"{path.lstrip('/')}/content?index=0"]
    told = {"generation_id": video.generation_id} if video.generation_id else {}
    return base.Done(tuple(map(Output, found)), cost=_cost(video.usage), metadata=told)


def _cost(usage: _Usage | None) -> Money | None:
    if usage is None or usage.cost is None or not usage.cost.is_finite():
        return None
    source = "openrouter's usage.cost" + (", its fee alone" if usage.is_byok else "")
    return Money(round(usage.cost * 1_000_000), source=source, units=float(usage.cost), unit="usd")


def _billed(usage: _Usage | None) -> Billed:
    """Nothing of what has failed is free unless they say so; the maker's own bill for a caller's key is not seen."""
    if usage is None or usage.cost is None:
        return "unknown"
    return "yes" if usage.cost else "unknown" if usage.is_byok else "no"


def _failure(error: str | _Error | None) -> Fault:
    """Makers say in free text why they failed."""
    text = (error.message if isinstance(error, _Error) else error) or ""
    return Fault("moderated" if MODERATED.search(text) else "generation_failed", f"openrouter: {plain(text)}")
