"""Gemini Omni, through Google's Interactions API: one POST in the background, and its answer's id is all there is.

There is no key of ours, no list and no mark that can be looked for, so a lost answer stays in doubt (class E). A clip
comes as an address that asks for the key, or as base64 in the answer to a poll, whatever was wished: both are kept. Its
clips always have sound. It counts what it takes in tokens, and no dated price of Google's is known: estimates say so.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Broken, Flow, Inline, Keep, Output, Request, call, handle_of
from rushes.adapters.capabilities import Auth, Capabilities, Model, PollSchedule, Terms
from rushes.adapters.catalogue import row_of
from rushes.adapters.google import POLL_BYTES, Google, held, poll
from rushes.adapters.google_errors import MODERATED, unwrapped
from rushes.adapters.omni_models import MODELS
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Handle
from rushes.video import OPERATIONS, Target, VideoSpec

TASKS: Final = {
    "text-to-video": "text_to_video",
    "image-to-video": "image_to_video",
    "multi-image": "reference_to_video",
    "video-to-video": "edit",
    "extend": "extend",
}
PATH: Final = "/v1/interactions"
ID: Final = re.compile(r"[A-Za-z0-9_=-]{8,512}")
POLL: Final = PollSchedule(min_s=5.0, max_s=20.0)  # our guess: clips took one to four minutes
PLACE: Final = re.compile(r"inline:(\d{1,4}):(\d{1,4})")


class _Trouble(Struct):
    code: str | int | None = None
    message: str | None = None


class _Content(Struct):
    type: str = ""
    uri: str | None = None
    data: msgspec.Raw = msgspec.Raw()  # base64, left where it is
    mime_type: str | None = None
    text: str | None = None


class _Step(Struct):
    type: str = ""
    content: list[_Content] | None = None


class _Interaction(Struct):
    status: str
    steps: list[_Step] | None = None
    errors: list[_Trouble] | None = None
    error: _Trouble | None = None

    def told(self) -> str:
        """Everything that is said about what went wrong."""
        troubles = [*(self.errors or []), *([self.error] if self.error else [])]
        return " ".join(f"{trouble.message or trouble.code or ''}" for trouble in troubles)


class Omni(Google):
    """Interactions of the Gemini API that make clips."""

    name = "omni"
    capabilities = Capabilities(
        base_url="https://generativelanguage.googleapis.com",
        base_url_env="GOOGLE_GEMINI_BASE_URL",
        models=MODELS,
        auth=Auth(env=("GOOGLE_API_KEY", "GEMINI_API_KEY"), header="x-goog-api-key", prefix=""),
        # Files stay for two days. The total time is our guess.
        terms=Terms(doubt="E", cancel="stops", poll=POLL, link_ttl_s=2 * 86_400.0, total_s=3600.0),
        docs_url="https://ai.google.dev/gemini-api/docs",
    )

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Start in the background, or the answer would be the clip itself, minutes later."""
        body = {
            "model": target.model,
            "input": [{"type": "user_input", "content": [*_inputs(spec)]}],  # as Google's SDK sends it
            "response_format": {"type": "video", "delivery": "uri", **_wishes(spec, row_of(self, target.model, spec))},
            "generation_config": {"video_config": {"task": TASKS[OPERATIONS[type(spec.operation)]]}},
            "background": True,
            "store": True,  # or it could not be polled
        }
        request = Request(method="POST", url=PATH, body=body, spends=True)
        return handle_of(self, (yield from self.ask(request, base.Created)).id, ID)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """There is no percent."""
        interaction = yield from self.look(self._poll(handle), _Interaction)
        return _outcome(interaction) if interaction else base.Vanished()

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """One that has ended is refused, or shown as it is."""
        url = f"{PATH}/{handle_of(self, handle.id, ID).id}/cancel"
        reply = unwrapped((yield from call(Request(method="POST", url=url, answer_bytes=POLL_BYTES))))
        fault = self.fault(reply)
        if fault and reply.status == 400 and fault.provider_code == "FAILED_PRECONDITION":
            return "too_late"
        ended = base.reply_json(self, reply, _Interaction).status in ("completed", "failed", "incomplete")
        return "too_late" if ended else "accepted"

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """From the answer to a poll, or from an address of Google's that asks for the key and leads to another."""
        ask = Keep(url=output.url, with_credential=True)
        if found := PLACE.fullmatch(output.url):
            place = ("steps", int(found[1]), "content", int(found[2]), "data")
            ask = held(output, self._poll(handle), place)
        return (yield from base.keep(ask))

    def _poll(self, handle: Handle) -> Request:
        return poll("GET", f"{PATH}/{handle_of(self, handle.id, ID).id}")


def _inputs(spec: VideoSpec) -> list[dict[str, Any]]:
    """The words, then the files in their order: a prompt may speak of the first image."""
    files = [
        {"type": given.type, "data": Inline(given.asset, "base64"), "mime_type": given.asset.media_type}
        for given in spec.inputs
    ]
    return [{"type": "text", "text": spec.prompt}, *files]


def _wishes(spec: VideoSpec, model: Model) -> dict[str, Any]:
    wishes = base.said(spec, model)
    if "duration" in wishes:
        wishes["duration"] = f"{wishes['duration']}s"
    if spec.resolution == "2160p":
        wishes["resolution"] = "4k"
    return wishes


def _outcome(interaction: _Interaction) -> base.Outcome:
    match interaction.status:
        case "completed":
            return _done(interaction)
        case "failed" | "incomplete" | "budget_exceeded" as word:
            told = base.plain(interaction.told())
            code: Code = "moderated" if MODERATED.search(told) else "generation_failed"
            return Broken(Fault(code, f"omni: {told}", provider_code=word))
        case "requires_action" | "requires_continuation" as word:
            return Broken(Fault("generation_failed", "omni asked for something to be done first.", provider_code=word))
        case "cancelled":
            return base.Stopped()
        case word:
            return base.Unfinished(stage=word)


def _done(interaction: _Interaction) -> base.Outcome:
    """With the clips of all its steps. Where there is none, words may say why."""
    outputs, words = list[Output](), list[str]()
    for number, step in enumerate(interaction.steps or []):
        for place, content in enumerate((step.content or []) if step.type == "model_output" else []):
            words += [content.text] if content.text else []
            if content.type == "video" and (content.uri or len(memoryview(content.data)) > 2):
                outputs.append(Output(content.uri or f"inline:{number}:{place}", content.mime_type or "video/mp4"))
    if outputs:
        return base.Done(tuple(outputs))
    told = f"omni made no clip, as its filters do: {base.plain(' '.join(words))}"
    return Broken(Fault("moderated", told))
