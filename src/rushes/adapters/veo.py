"""Google's Veo: an operation is started, asked about until it is done, and holds the clips or says where they are.

On Vertex AI (`veo`) no call knows a mark of ours. But where VEO_BUCKET names a bucket, each send has its clips written
below a folder of its own there, and a send whose answer was lost is found by what lies in it once it is done (class C);
nothing there proves nothing. Without a bucket clips come as base64 in the answer, and such a send stays in doubt (class
E). It cannot be cancelled. The Gemini API (`veo_gemini`) had the same models, under a key and with results behind a
redirect; it is kept for servers that speak it still.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters import capabilities as c
from rushes.adapters.base import Failed, Flow, Inline, Keep, Output, Request, handle_of
from rushes.adapters.catalogue import row_of
from rushes.adapters.google import Google, held, poll
from rushes.adapters.google_auth import AUTH
from rushes.adapters.veo_answers import Operation, Started
from rushes.adapters.veo_models import GEMINI_MODELS, GEMINI_RETIRED, MODELS, RETIRED
from rushes.faults import Fault
from rushes.units import AssetRef, Handle
from rushes.video import Target, VideoSpec

PART: Final = r"[\w:-][\w.:-]*"  # of an address: it leads nowhere else
OPERATION: Final = re.compile(
    rf"(?P<model>projects/{PART}/locations/{PART}/publishers/google/models/{PART})/operations/[A-Za-z0-9-]{{1,64}}"
)
GEMINI_OPERATION: Final = re.compile(rf"(?P<model>models/{PART})/operations/[A-Za-z0-9-]{{1,64}}")
FOLDER: Final = "rushes"  # in the bucket: below it one of each send, by our key
STORED: Final = re.compile(rf"{FOLDER}/[\w-]{{1,128}}")  # the handle of a send that was found there
OBJECT: Final = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,221})/(.{1,1024})")
FRAMES: Final = {"first_frame": "image", "last_frame": "lastFrame"}
PLACE: Final = re.compile(r"inline:(\d{1,4})")
# Clips took eleven seconds to six minutes, and some operations never end.
POLL: Final = c.PollSchedule(min_s=10.0, max_s=20.0)
TERMS: Final = c.Terms(doubt="E", poll=POLL, total_s=3600.0)
LOOKS_S: Final = (60.0, 120.0, 240.0, 480.0, 900.0, 1800.0)


class _Object(Struct):
    name: str


class _Listing(Struct):
    kind: str  # an empty list has nothing else
    items: list[_Object] | None = None


class _Operations(Google):
    """What both interfaces share."""

    _operation: re.Pattern[str]  # the shape of an operation's name
    _places: tuple[tuple[str, ...], tuple[str, ...]]  # in an answer: of the list of clips, and in it of a clip's bytes

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Start an operation; its name is all that it can be asked for by."""
        body = {"instances": [_instance(spec)], "parameters": self._parameters(spec, target, key)}
        request = Request(method="POST", url=f"{self._root(target)}:predictLongRunning", body=body, spends=True)
        return handle_of(self, (yield from self.ask(request, Started)).name, self._operation)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """There is no percent."""
        operation = yield from self.look(self._poll(handle), Operation)
        return operation.outcome(self.name) if operation else base.Vanished()

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """From the operation's own answer, from the bucket, or from an address that asks for the key and redirects."""
        ask = Keep(url=output.url, with_credential=True)
        if found := PLACE.fullmatch(output.url):
            videos, content = self._places
            ask = held(output, self._poll(handle), (*videos, int(found[1]), *content))
        elif found := OBJECT.fullmatch(output.url):
            ask = Keep(url=f"{_bucket(found[1])}/{quote(found[2], safe='')}?alt=media", with_credential=True)
        return (yield from base.keep(ask))

    def _root(self, target: Target) -> str:
        """The model's path."""
        raise NotImplementedError

    def _poll(self, handle: Handle) -> Request:
        """What asks about an operation."""
        raise NotImplementedError

    def _parameters(self, spec: VideoSpec, target: Target, key: str) -> dict[str, Any]:  # noqa: ARG002
        told = base.said(spec, row_of(self, target.model, spec)) | dict(spec.provider_options)
        return told | ({"resolution": "4k"} if spec.resolution == "2160p" else {})


class Veo(_Operations):
    """Veo on Vertex AI, under a service account of Google Cloud."""

    name = "veo"
    capabilities = c.Capabilities(
        base_url="https://us-central1-aiplatform.googleapis.com",
        base_url_env="GOOGLE_VERTEX_BASE_URL",
        models=MODELS,
        new_options=True,
        retired=RETIRED,
        auth=AUTH,
        settings={
            "project": c.Setting(env=("GOOGLE_CLOUD_PROJECT", "VEO_PROJECT_ID")),
            "location": c.Setting(env=("GOOGLE_CLOUD_LOCATION",), default="us-central1"),
            "bucket": c.Setting(env=("VEO_BUCKET",), needed=False),
        },
        services={"storage": c.Service("https://storage.googleapis.com", env="STORAGE_EMULATOR_HOST")},
        terms=TERMS,
        docs_url="https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/veo-video-generation",
    )
    _operation = OPERATION
    _places = ("response", "videos"), ("bytesBase64Encoded",)

    def address(self) -> str:
        """Of the location: `global` has none in its name."""
        location = self._told("location")
        return f"https://{'' if location == 'global' else location + '-'}aiplatform.googleapis.com"

    def terms(self, spec: VideoSpec, target: Target) -> c.Terms:  # noqa: ARG002
        """With a bucket a lost send can be found, and its clips stay."""
        if not self._told("bucket"):
            return TERMS
        return replace(TERMS, doubt="C", looks_s=LOOKS_S, settle_s=LOOKS_S[-1], link_ttl_s=30 * 86_400.0)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:
        """Of a send that was found in the bucket: what lies there."""
        if not STORED.fullmatch(handle.id):
            return (yield from super().status(handle, target))
        bucket = handle.extra.get("bucket", "")
        outputs = [Output(f"gs://{bucket}/{name}") for name in (yield from self._listed(bucket, handle.id))]
        return base.Done(tuple(outputs)) if outputs else base.Vanished()

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """By the clips in the folder of its key. Those of two operations are no evidence."""
        bucket, folder = self._told("bucket"), f"{FOLDER}/{key}"
        if not bucket:
            return None
        names = yield from self._listed(bucket, folder)
        operations = {name.removeprefix(f"{folder}/").rpartition("/")[0] for name in names}
        return Handle(folder, {"bucket": bucket}) if len(operations) == 1 else None

    def _root(self, target: Target) -> str:
        project, location = self._told("project"), self._told("location")
        return f"/v1/projects/{project}/locations/{location}/publishers/google/models/{target.model}"

    def _parameters(self, spec: VideoSpec, target: Target, key: str) -> dict[str, Any]:
        bucket = self._told("bucket")
        stored = {"storageUri": f"gs://{bucket}/{FOLDER}/{key}/"} if bucket else {}
        return super()._parameters(spec, target, key) | stored

    def _poll(self, handle: Handle) -> Request:
        name = handle_of(self, handle.id, self._operation).id
        return poll("POST", f"/v1/{name.partition('/operations/')[0]}:fetchPredictOperation", {"operationName": name})

    def _listed(self, bucket: str, folder: str) -> Flow[list[str]]:
        """The clips in a folder of the bucket."""
        request = Request(method="GET", url=_bucket(bucket), query={"prefix": f"{folder}/"})
        listing = yield from self.ask(request, _Listing)
        if listing.kind != "storage#objects":
            raise Failed(Fault("bad_answer", "What should be a list of clips is none.", retryable=True))
        return sorted(found.name for found in listing.items or [] if found.name.endswith(".mp4"))

    def _told(self, setting: str) -> str:
        return self.capabilities.settings[setting].value or self.capabilities.settings[setting].default


class VeoGemini(_Operations):
    """Veo on the Gemini API, which Google switched off in October 2026: for other servers that speak it."""

    name = "veo_gemini"
    capabilities = c.Capabilities(
        base_url="https://generativelanguage.googleapis.com",
        base_url_env="VEO_GEMINI_BASE_URL",
        models=GEMINI_MODELS,
        new_options=True,
        retired=GEMINI_RETIRED,
        auth=c.Auth(env=("GOOGLE_API_KEY", "GEMINI_API_KEY"), header="x-goog-api-key", prefix=""),
        terms=replace(TERMS, link_ttl_s=2 * 86_400.0),
        docs_url="https://ai.google.dev/gemini-api/docs/video",
    )
    _operation = GEMINI_OPERATION
    _places = ("response", "generateVideoResponse", "generatedSamples"), ("video", "encodedVideo")

    def _root(self, target: Target) -> str:
        return f"/v1beta/models/{target.model}"

    def _poll(self, handle: Handle) -> Request:
        return poll("GET", f"/v1beta/{handle_of(self, handle.id, self._operation).id}")


def _bucket(name: str) -> str:
    return f"@storage/storage/v1/b/{quote(name, safe='')}/o"


def _instance(spec: VideoSpec) -> dict[str, Any]:
    """The words, and each file at its place."""
    instance: dict[str, Any] = {"prompt": spec.prompt}
    for given in spec.inputs:
        file = {"bytesBase64Encoded": Inline(given.asset, "base64"), "mimeType": given.asset.media_type}
        if given.role == "character":
            instance.setdefault("referenceImages", []).append({"image": file, "referenceType": "asset"})
        else:
            instance[FRAMES.get(given.role, "video")] = file
    return instance
