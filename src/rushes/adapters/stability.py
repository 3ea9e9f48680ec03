"""Stability AI's image-to-video of v2beta, switched off on 2025-07-24: it runs only where an address was set.

One form starts a clip; the call that asks for it answers with the clip itself. Nothing of ours is kept there, and there
is no list: a lost answer stays in doubt (class E). A picture must have one of three sizes exactly: nothing is cropped
or scaled here. An error has an `id` too, which is no job's.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import Adapter, Flow, Inline, Output, Part, Request, Response, call, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Media, Model, Option, PollSchedule, Retirement, Terms
from rushes.adapters.catalogue import row_of
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Handle
from rushes.video import Config, Target, VideoSpec

PATH: Final = "/v2beta/image-to-video"
ID: Final = re.compile(r"[0-9a-f]{64}")
PAUSE_S: Final = 60.0  # for who asks too often
VIDEO: Final = Model(  # about four seconds, as large as the picture
    id="stable-video",
    operations=("image-to-video",),
    roles={"first_frame": 1},
    media={
        "image": Media(
            types=("image/png", "image/jpeg"), max_bytes=10_000_000, sizes=("1024x576", "576x1024", "768x768")
        )
    },
    fields=frozenset({"seed", "guidance_scale"}),
    options={"motion_bucket_id": Option("integer", least=1, most=255)},
    defaults=Config(guidance_scale=1.8, provider_options={"motion_bucket_id": 127}),
    prompt="none",
    max_seed=4_294_967_294,  # and with 0 it draws one itself
    max_guidance=10.0,
    wire={"seed": "seed", "guidance_scale": "cfg_scale", "first_frame": "image"},
)


class _Waiting(Struct):
    status: str = ""  # in-progress


class _Clip(Struct):
    finish_reason: str  # SUCCESS, CONTENT_FILTERED; the clip itself is beside it, and is not read
    seed: int | None = None


class _Problem(Struct):
    name: str = ""
    errors: list[str] = []
    message: str = ""  # of older answers


class Stability(Adapter):
    """Clips from a picture."""

    name = "stability"
    capabilities = Capabilities(
        base_url="https://api.stability.ai",
        base_url_env="STABILITY_BASE_URL",
        models=(VIDEO,),
        new_options=True,
        retired={VIDEO.id: Retirement("2025-07-24")},
        auth=Auth(env=("STABILITY_API_KEY",)),
        # Not to be asked more often than every 10 s; clips were there for a day. The total time is our guess.
        terms=Terms(doubt="E", poll=PollSchedule(min_s=10.0), link_ttl_s=86_400.0, total_s=2 * 3600.0),
        docs_url="https://platform.stability.ai/docs/api-reference",
    )

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Start a clip."""
        model = row_of(self, target.model, spec)
        files = [
            Part(model.wire[given.role], Inline(given.asset, "bytes"), "image", given.asset.media_type)
            for given in spec.inputs
        ]
        wishes = base.said(spec, model) | spec.provider_options
        form = [*files, *(Part(name, str(value)) for name, value in wishes.items())]
        return (yield from base.start(self, Request(method="POST", url=PATH, body=form, spends=True), ID))

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Asked for JSON it says how it ended. Whether a clip that was withheld is billed, nobody says."""
        path = f"{PATH}/result/{base.handle_of(self, handle.id, ID).id}"
        reply = yield from call(Request(method="GET", url=path, headers={"Accept": "application/json"}))
        if reply.status == 404 and self.fault(reply):
            return base.Vanished()
        if reply.status == 202:
            return base.Unfinished(stage=(base.read(reply, _Waiting) or _Waiting()).status)
        clip = reply_json(self, reply, _Clip)
        match clip.finish_reason:
            case "SUCCESS":
                told = {} if clip.seed is None else {"seed": str(clip.seed)}
                return base.Done((Output(path.lstrip("/")),), metadata=told)
            case "CONTENT_FILTERED":  # what can be had is blurred
                return base.Broken(Fault("moderated", "stability: its moderation withheld the clip."))
            case word:
                return base.Unfinished(stage=word)

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """The same address once more, asked for the bytes."""
        ask = base.Keep(url=output.url, with_credential=True, headers={"Accept": "video/*"})
        return (yield from base.keep(ask))

    def fault(self, reply: Response) -> Fault | None:
        """{"id", "name", "errors"}, or {"id", "name", "message"}."""
        problem = base.read(reply, _Problem) or _Problem()
        if not problem.name:
            return None
        code: Code = "moderated" if problem.name == "content_moderation" else base.code_of(reply.status)
        text = "; ".join(problem.errors) or problem.message
        fault = base.problem(self, reply, text, code, word=problem.name)
        return replace(fault, retry_after_s=PAUSE_S) if reply.status == 429 else fault
