"""The model `local`: clips drawn on this machine, without a key. `emulators/local` is its lab."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Adapter, Flow, Inline, Request, Response, call, handle_of, plain, reply_json, said
from rushes.adapters.capabilities import Capabilities, Media, Model, PollSchedule, Terms
from rushes.adapters.fit import pixels
from rushes.faults import Code, Fault
from rushes.units import FREE, Handle
from rushes.video import Config, Target, VideoSpec

ID: Final = re.compile(r"[a-z0-9_-]{1,80}")
MODEL = Model(
    id="local",
    operations=("text-to-video", "image-to-video", "multi-image"),
    durations_s=tuple(float(seconds) for seconds in range(1, 61)),
    aspect_ratios=("16:9", "9:16", "1:1", "21:9", "4:3", "3:4"),
    resolutions=("180p", "360p", "480p", "720p", "1080p"),
    frame_rates=(8.0, 12.0, 15.0, 24.0, 25.0, 30.0),
    roles={"first_frame": 1, "style": 1},
    media={"image": Media(types=("image/png", "image/jpeg", "image/webp", "image/gif"))},
    fields=frozenset({"negative_prompt", "seed", "generate_audio", "style_strength"}),
    defaults=Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="720p", fps=24.0, generate_audio=False),
    prompt="optional",  # a picture alone will do
    wire={
        "prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "seed": "seed",
        "duration_seconds": "seconds",
        "fps": "fps",
        "generate_audio": "audio",
        "style_strength": "style_strength",
        "first_frame": "first_frame",
        "style": "style",
    },
    free=True,
)
TERMS = Terms(  # answers are certain at once, and a queue of free renders may be a day long
    doubt="B",
    cancel="stops",
    poll=PollSchedule(min_s=0.3, max_s=2.0),
    settle_s=0.0,
    looks_s=(0.5, 2.0, 5.0, 20.0),
    total_s=86_400.0,
)


class _Trouble(Struct):
    message: str
    code: Code = "generation_failed"
    field: str = ""


class _Error(Struct):
    error: _Trouble


class _Render(Struct):
    id: str
    status: str  # queued, rendering, done, failed, cancelled
    frames_done: int
    frames_total: int
    output: str = ""  # the clip's address, once done
    error: _Trouble | None = None


class Local(Adapter):
    """Class B: the submission key is the render's id, so a lost answer costs one look."""

    name = "local"
    capabilities = Capabilities(base_url="local://lab", base_url_env="RUSHES_LOCAL_URL", models=(MODEL,), terms=TERMS)

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Order a render under our own key."""
        order = Request(method="POST", url="/renders", body=_order(spec, key), spends=True)
        return (yield from base.start(self, order, ID))

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Percent is frames drawn; nothing here is ever billed."""
        render = yield from base.look(self, self._address(handle), _Render)
        if render is None:
            return base.Vanished()
        match render.status:
            case "done":
                return base.Done((base.Output(render.output),), cost=FREE)
            case "failed":
                return base.Broken(_fault(render.error or _Trouble("The lab does not say why.")), billed="no")
            case "cancelled":
                return base.Stopped(billed="no")
            case word:
                return base.Unfinished(min(99, render.frames_done * 100 // max(1, render.frames_total)), stage=word)

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """Stops the drawing at once; what is finished stays."""
        reply = yield from call(Request(method="DELETE", url=self._address(handle)))
        return "accepted" if reply_json(self, reply, _Render).status == "cancelled" else "too_late"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The render whose id is our key."""
        render = yield from base.look(self, f"/renders/{key}", _Render)
        return None if render is None else handle_of(self, render.id, ID)

    def fault(self, reply: Response) -> Fault | None:
        """The lab's errors have one shape."""
        told = base.read(reply, _Error)
        return None if told is None else _fault(told.error, retryable=reply.status in (429, 503))

    def _address(self, handle: Handle) -> str:
        return f"/renders/{handle_of(self, handle.id, ID).id}"


def _order(spec: VideoSpec, key: str) -> dict[str, object]:
    width, height = pixels(spec.resolution or "", spec.aspect_ratio or "")  # normalised: the defaults are filled in
    pictures = {MODEL.wire[given.role]: Inline(given.asset) for given in spec.inputs}
    return {"id": key, "seed": 0, "width": width, "height": height, **said(spec, MODEL), **pictures}


def _fault(trouble: _Trouble, *, retryable: bool = False) -> Fault:
    ours = {theirs: "inputs" if name in MODEL.roles else name for name, theirs in MODEL.wire.items()}
    field = ours.get(trouble.field, trouble.field)
    return Fault(trouble.code, plain(trouble.message), field=field, retryable=retryable)
