"""Replicate: a marketplace of models behind one wire. What a model takes is data; the wire is the same for all.

Nothing of ours can be looked up or sent twice under one key, so a lost answer stays in doubt (class E). No `Prefer`
header is ever sent: it would hold the paid call open, and its answer in doubt, for up to a minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, cast

import msgspec
from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Failed, Flow, Inline, Output, Part, Request, Response, call, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Model
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Handle
from rushes.video import Config, Target, VideoSpec

WORDS_AND_IMAGES: Final = ("text-to-video", "image-to-video")
SVD_VERSION: Final = "3f0457e4619daac51203dedb472816fd4af51f3149fa7a9e0b5ffcf1b8172438"

# Names are the providers' own pages' (A); sets of values are A for durations' ends, B for p-video's, C for the rest:
# where no page lists them, only values that its examples show are here. No price is dated, so none is given.
MODELS: Final = (
    Model(
        id="prunaai/p-video",
        operations=WORDS_AND_IMAGES,
        durations_s=tuple(float(seconds) for seconds in range(1, 21)),
        aspect_ratios=("16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "1:1"),
        resolutions=("720p", "1080p"),
        frame_rates=(24.0, 48.0),
        roles={"first_frame": 1, "last_frame": 1},
        fields=frozenset({"seed", "enhance_prompt", "generate_audio"}),
        options={"draft": "boolean"},
        defaults=Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="720p", fps=24.0),
    ),
    Model(
        id="bytedance/seedance-2.0",
        operations=WORDS_AND_IMAGES,
        durations_s=tuple(float(seconds) for seconds in range(5, 16)),
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4", "21:9"),
        resolutions=("720p",),
        roles={"first_frame": 1, "last_frame": 1, "general": 9},
        fields=frozenset({"generate_audio"}),
        defaults=Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="720p", generate_audio=True),
        draws_seed=False,
    ),
    Model(
        id="minimax/video-01",
        operations=WORDS_AND_IMAGES,
        roles={"first_frame": 1},
        fields=frozenset({"enhance_prompt"}),
        draws_seed=False,
    ),
    Model(
        id="stability-ai/stable-video-diffusion",
        operations=("image-to-video",),
        roles={"first_frame": 1},
        fields=frozenset({"seed"}),
        options={
            "video_length": "string",  # 14_frames_with_svd, 25_frames_with_svd_xt
            "sizing_strategy": "string",  # maintain_aspect_ratio, crop_to_16_9, use_image_dimensions
            "frames_per_second": "integer",  # 5..30
            "motion_bucket_id": "integer",  # 1..255
            "cond_aug": "number",
            "decoding_t": "integer",
        },
        prompt="none",
    ),
)
VERSIONS: Final = {"stability-ai/stable-video-diffusion": SVD_VERSION}  # community models are run by version
LISTS: Final = frozenset({"reference_images"})
SAME: Final = {name: name for name in ("prompt", "aspect_ratio", "resolution", "generate_audio")}
FRAMES: Final = {"first_frame": "image", "last_frame": "last_frame_image", "duration_seconds": "duration"}
FIELDS: Final[Mapping[str, Mapping[str, str]]] = {  # ours → theirs
    "prunaai/p-video": SAME
    | FRAMES
    | {"fps": "fps", "seed": "seed", "enhance_prompt": "prompt_upsampling", "generate_audio": "save_audio"},
    "bytedance/seedance-2.0": SAME | FRAMES | {"general": "reference_images"},
    "minimax/video-01": {"prompt": "prompt", "first_frame": "first_frame_image", "enhance_prompt": "prompt_optimizer"},
    "stability-ai/stable-video-diffusion": {"seed": "seed", "first_frame": "input_image"},
}

ID: Final = re.compile(r"[a-z0-9]{8,64}")
PERCENT: Final = re.compile(r"(\d{1,3})%\|")  # tqdm's bar in the logs
ADDRESS: Final = re.compile(r"\b(?:https?|data):\S+")
MODERATED: Final = re.compile(r"\bE005\b|nsfw|sensitive|flagged|moderat", re.IGNORECASE)
PASSING: Final = re.compile(r"\bE00[134]\b|CUDA out of memory|high demand", re.IGNORECASE)
RESETS: Final = re.compile(r"resets in ~?(\d+)s")


class _Created(Struct):
    id: str  # all that a paid answer must hold: nothing else in it can make it unreadable


class _Prediction(Struct):
    id: str
    status: str
    output: object = None  # an address, a list of them, or an object that holds them
    error: object = None
    logs: str | None = None
    data_removed: bool = False


class _Urls(Struct):
    get: str


class _File(Struct):
    urls: _Urls


class _Problem(Struct):
    detail: str
    title: str = ""


class Replicate:
    """The Predictions API."""

    name = "replicate"
    capabilities = Capabilities(
        base_url="https://api.replicate.com/v1",
        base_url_env="REPLICATE_BASE_URL",
        models=MODELS,
        auth=Auth(env=("REPLICATE_API_TOKEN",)),
        docs_url="https://replicate.com/docs/reference/http",
    )

    def terms(self, spec: VideoSpec, target: Target) -> base.Terms:  # noqa: ARG002
        """A run ends after 30 minutes there, and its files are gone one hour after that."""
        return base.Terms(doubt="E", cancel="stops", link_ttl_s=3600.0, total_s=2 * 3600.0)

    def prepare(self, spec: VideoSpec, target: Target) -> Flow[base.Prepared]:  # noqa: ARG002
        """Every picture becomes a file there; it lives for a day."""
        addresses: base.Prepared = {}
        for asset in {given.asset.sha256: given.asset for given in spec.inputs}.values():
            part = Part("content", Inline(asset, "bytes"), f"{asset.sha256[:16]}.{_suffix(asset)}", asset.media_type)
            reply = yield from call(Request(method="POST", url="/files", body=[part], timeout_s=300.0))
            addresses[asset.sha256] = reply_json(self, reply, _File).urls.get
        return addresses

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Create a prediction; the answer comes at once, long before the clip."""
        body: dict[str, object] = {"input": _input(spec, FIELDS[target.model], prepared)}
        url = f"/models/{target.model}/predictions"
        if version := VERSIONS.get(target.model):
            url, body = "/predictions", {"version": version, **body}
        reply = yield from call(Request(method="POST", url=url, body=body, spends=True))
        created = reply_json(self, reply, _Created)
        if not ID.fullmatch(created.id):
            raise Failed(Fault("bad_answer", "replicate took the job under an id that is none."), certain=False)
        return Handle(created.id)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Percent is read from the end of the logs, where models draw a bar."""
        reply = yield from call(Request(method="GET", url=_path(handle)))
        if reply.status == 404:
            return base.Vanished()
        return _outcome(reply_json(self, reply, _Prediction))

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        """Often still processing in this answer: the polls that follow know. The time used is charged."""
        reply = yield from call(Request(method="POST", url=f"{_path(handle)}/cancel"))
        ended = reply_json(self, reply, _Prediction).status in ("succeeded", "failed")
        return "too_late" if ended else "accepted"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """Nothing of ours is in what they list."""
        yield from ()
        return None

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """Outputs lie on a delivery host that asks for no key."""
        return (yield from base.keep(base.Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:
        """Problem documents, and the shorter {"detail"} of some answers."""
        try:
            problem = msgspec.json.decode(reply.body, type=_Problem)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        transient = reply.status == 429 or reply.status >= 500
        wait_s = _resets_s(reply, problem) if reply.status == 429 else None
        detail = _plain(problem.detail or problem.title)
        return Fault(base.code_of(reply.status), f"replicate: {detail}", retryable=transient, retry_after_s=wait_s)


def _path(handle: Handle) -> str:
    if not ID.fullmatch(handle.id):
        raise Failed(Fault("invalid_input", "The handle is not the id of a prediction."))
    return f"/predictions/{handle.id}"


def _suffix(asset: AssetRef) -> str:
    return asset.media_type.partition("/")[2] or "bin"


def _input(spec: VideoSpec, names: Mapping[str, str], prepared: base.Prepared) -> dict[str, object]:
    """The model's own input: every wish under the name that it has there."""
    wishes = {
        name: value for name in ("prompt", *Config.__struct_fields__) if (value := getattr(spec, name)) is not None
    }
    sent: dict[str, object] = {names[name]: _whole(value) for name, value in wishes.items() if name in names}
    for given in spec.inputs:
        name, address = names[given.role], prepared[given.asset.sha256]
        sent[name] = [*cast("list[str]", sent.get(name, [])), address] if name in LISTS else address
    return sent | dict(spec.provider_options)


def _whole(value: object) -> object:
    """Their numbers are integers where they can be."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _outcome(prediction: _Prediction) -> base.Outcome:
    match prediction.status:
        case "succeeded":
            return _done(prediction)
        case "failed":
            return base.Broken(_failure(_plain(str(prediction.error or "no reason given"))))
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
    outputs = tuple(Output(url) for url in _addresses(prediction.output))
    if not outputs:
        return base.Broken(Fault("bad_answer", "replicate finished without the address of a file."), billed="yes")
    return base.Done(outputs)


def _addresses(node: object) -> Iterator[str]:
    """A model's output is an address, a list of them, or an object; in an object, `video` is the one that counts."""
    if isinstance(node, str) and ADDRESS.fullmatch(node):
        yield node
    elif isinstance(node, list):
        for item in cast("list[object]", node):
            yield from _addresses(item)
    elif isinstance(node, dict):
        named = cast("dict[str, object]", node)
        yield from _addresses(named["video"] if "video" in named else list(named.values()))


def _failure(text: str) -> Fault:
    """Models say in free text why they failed; some end it with a code such as (E005)."""
    code: Code = "moderated" if MODERATED.search(text) else "generation_failed"
    passing = code != "moderated" and PASSING.search(text) is not None
    their_code = re.search(r"\bE\d{3}\b", text)
    return Fault(code, f"replicate: {text}", retryable=passing, provider_code=their_code[0] if their_code else "")


def _plain(text: str) -> str:
    """Somebody else's words, short, on one line, and without addresses: faults are kept and shown."""
    return " ".join(ADDRESS.sub("(address)", text).split())[:300]


def _resets_s(reply: Response, problem: _Problem) -> float | None:
    told = RESETS.search(problem.detail)
    seconds = told[1] if told else reply.headers.get("ratelimit-reset", "")
    return min(float(seconds), 86_400.0) if re.fullmatch(r"\d{1,9}", seconds) else None
