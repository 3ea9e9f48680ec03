"""Glint, a provider that was made up to show how one is added: one POST starts a clip, which is asked for by its id.

A clip carries a name of ours, and can be looked up by it: a lost answer costs a look, never a second clip (class B).
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import Adapter, Flow, Inline, Output, Request, Response, call, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Media, Model, PollSchedule, Price, Terms
from rushes.adapters.catalogue import row_of
from rushes.faults import Code, Fault
from rushes.units import Handle
from rushes.video import Config, Target, VideoSpec

ID: Final = re.compile(r"clip-[0-9a-f]{16}")
CODES: Final[dict[str, Code]] = {"blocked": "moderated", "no_credit": "quota_exceeded"}

WORDS: Final = Model(
    id="glint-1",
    operations=("text-to-video",),
    durations_s=(4.0, 8.0),
    aspect_ratios=("16:9", "9:16"),
    fields=frozenset({"seed"}),
    defaults=Config(duration_seconds=4.0, aspect_ratio="16:9"),
    max_prompt_chars=1_000,
    wire={"prompt": "prompt", "duration_seconds": "seconds", "aspect_ratio": "shape", "seed": "seed"},
    price=Price(per="second", micro_usd=50_000, source="glint.example/prices", as_of="2026-11-01"),
)
PICTURES: Final = replace(  # the same model, but a clip from a picture has the picture's shape
    WORDS,
    operations=("image-to-video",),
    aspect_ratios=(),
    defaults=Config(duration_seconds=4.0),
    roles={"first_frame": 1},
    media={"image": Media(types=("image/png", "image/jpeg"), max_bytes=5_000_000)},
)


class _Created(Struct):
    clip_id: str  # all that a paid answer must hold


class _Clip(Struct):
    clip_id: str
    state: str  # waiting, rendering, ready, failed
    percent: int | None = None
    file: str = ""
    reason: str = ""


class _Found(Struct):
    clips: list[_Clip]


class _Trouble(Struct):
    code: str
    message: str


class _Error(Struct):
    error: _Trouble


class Glint(Adapter):
    """Clips from words, and from a picture."""

    name = "glint"
    capabilities = Capabilities(
        base_url="https://api.glint.example",
        base_url_env="GLINT_BASE_URL",
        models=(WORDS, PICTURES),
        auth=Auth(env=("GLINT_API_KEY",)),
        terms=Terms(doubt="B", settle_s=30.0, poll=PollSchedule(min_s=2.0, max_s=10.0)),
    )

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Start a clip under our own name for it."""
        body = base.said(spec, row_of(self, target.model, spec)) | {"model": target.model, "client_name": key}
        if spec.inputs:
            body["picture"] = Inline(spec.inputs[0].asset)
        reply = yield from call(Request(method="POST", url="/v1/clips", body=body, spends=True))
        return base.handle_of(self, reply_json(self, reply, _Created).clip_id, ID)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Failed clips are not billed, says its price list."""
        wanted = base.handle_of(self, handle.id, ID).id
        reply = yield from call(Request(method="GET", url=f"/v1/clips/{wanted}"))
        if reply.status == 404 and self.fault(reply):  # its own word, not a gateway's page
            return base.Vanished()
        clip = reply_json(self, reply, _Clip)
        match clip.state:
            case "ready" if clip.file:
                return base.Done((Output(clip.file),))
            case "ready":
                return base.Broken(Fault("bad_answer", "glint finished without the address of a file."), billed="yes")
            case "failed":
                code: Code = "moderated" if clip.reason == "blocked" else "generation_failed"
                return base.Broken(Fault(code, f"glint: {base.plain(clip.reason)}"), billed="no")
            case word:
                return base.Unfinished(clip.percent, stage=word)

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The clip that has our name."""
        reply = yield from call(Request(method="GET", url="/v1/clips", query={"client_name": key}))
        clips = reply_json(self, reply, _Found).clips
        return base.handle_of(self, clips[0].clip_id, ID) if clips else None

    def fault(self, reply: Response) -> Fault | None:
        """{"error": {"code", "message"}}."""
        if (problem := base.read(reply, _Error)) is None:
            return None
        code = CODES.get(problem.error.code) or base.code_of(reply.status)
        passing = reply.status == 429 or reply.status >= 500
        return Fault(code, f"glint: {base.plain(problem.error.message)}", retryable=passing)
