"""The model `local`: clips drawn on this machine, without a key. `emulators/local` is its lab."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Flow, Inline, Request, Response, call, reply_json
from rushes.adapters.capabilities import Capabilities, Model, pixels
from rushes.faults import Code, Fault
from rushes.units import FREE, AssetRef, Handle
from rushes.video import Config, Target, VideoSpec

MODEL = Model(
    id="local",
    operations=("text-to-video", "image-to-video"),
    durations_s=tuple(float(seconds) for seconds in range(1, 61)),
    aspect_ratios=("16:9", "9:16", "1:1", "21:9", "4:3", "3:4"),
    resolutions=("180p", "360p", "480p", "720p", "1080p"),
    frame_rates=(8.0, 12.0, 15.0, 24.0, 25.0, 30.0),
    roles={"first_frame": 1, "style": 1},
    fields=frozenset({"negative_prompt", "seed", "generate_audio", "style_strength"}),
    defaults=Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="720p", fps=24.0, generate_audio=False),
    prompt="optional",  # a picture alone will do
    free=True,
)
FIELDS = {"seconds": "duration_seconds", "audio": "generate_audio", "first_frame": "inputs", "style": "inputs"}

POLL, LOOKS_S = base.PollSchedule(min_s=0.3, max_s=2.0), (0.5, 2.0, 5.0, 20.0)


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


class Local:
    """Class B: the submission key is the render's id, so a lost answer costs one look."""

    name = "local"
    capabilities = Capabilities(base_url="local://lab", base_url_env="RUSHES_LOCAL_URL", models=(MODEL,))

    def terms(self, spec: VideoSpec, target: Target) -> base.Terms:  # noqa: ARG002
        """Answers are certain at once, and a queue of free renders may be a day long."""
        return base.Terms(doubt="B", cancel="stops", poll=POLL, settle_s=0.0, looks_s=LOOKS_S, total_s=86_400.0)

    def prepare(self, spec: VideoSpec, target: Target) -> Flow[base.Prepared]:  # noqa: ARG002
        """Nothing: pictures travel in the order."""
        yield from ()
        return {}

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Order a render under our own key."""
        reply = yield from call(Request(method="POST", url="/renders", body=_order(spec, key), spends=True))
        return Handle(reply_json(self, reply, _Render).id)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Percent is frames drawn; nothing here is ever billed."""
        reply = yield from call(Request(method="GET", url=f"/renders/{handle.id}"))
        if reply.status == 404 and self.fault(reply):
            return base.Vanished()
        render = reply_json(self, reply, _Render)
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
        reply = yield from call(Request(method="DELETE", url=f"/renders/{handle.id}"))
        return "accepted" if reply_json(self, reply, _Render).status == "cancelled" else "too_late"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The render whose id is our key."""
        reply = yield from call(Request(method="GET", url=f"/renders/{key}"))
        return None if reply.status == 404 and self.fault(reply) else Handle(reply_json(self, reply, _Render).id)

    def download(self, output: base.Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """The lab's answer is a file: it is copied into the store."""
        return (yield from base.keep(base.Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:
        """The lab's errors have one shape."""
        try:
            return _fault(msgspec.json.decode(reply.body, type=_Error).error, retryable=reply.status == 503)
        except msgspec.DecodeError:
            return None


def _order(spec: VideoSpec, key: str) -> dict[str, object]:
    width, height = pixels(spec.resolution or "", spec.aspect_ratio or "")  # normalised: the defaults are filled in
    order: dict[str, object] = {"id": key, "prompt": spec.prompt, "width": width, "height": height, "fps": spec.fps}
    order |= {"seconds": spec.duration_seconds, "audio": spec.generate_audio, "seed": spec.seed or 0}
    order |= {"negative_prompt": spec.negative_prompt, "style_strength": spec.style_strength}
    order |= {given.role: Inline(given.asset) for given in spec.inputs}
    return {name: wish for name, wish in order.items() if wish is not None}


def _fault(trouble: _Trouble, *, retryable: bool = False) -> Fault:
    return Fault(trouble.code, trouble.message, field=FIELDS.get(trouble.field, trouble.field), retryable=retryable)
