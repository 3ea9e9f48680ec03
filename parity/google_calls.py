"""Google's SDK beside our adapters `omni` (Interactions of the Gemini API) and `veo` (Vertex AI)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from google import genai
from google.genai import errors, types
from google.genai.interactions import Interaction
from google.oauth2.credentials import Credentials
from msgspec.structs import replace

from parity.ours import KEY, Order, data_of
from parity.stage import Stage, is_the_clip, refused
from rushes.adapters.base import Broken, Done, Failed, Stopped, Vanished
from rushes.testing.orders import PROMPT, content_of
from rushes.units import Handle
from rushes.video import Extend, Input

T = TypeVar("T")

OMNI, VEO = "omni", "veo"
OMNI_MODEL, VEO_MODEL = "gemini-omni-1.1-flash", "veo-3.1-generate-001"
BUCKET = "clips"
LOOK_S = 0.1
MISSING = "interaction-that-is-not-there"
SETTINGS = {  # a static token: neither side asks Google for one
    "GOOGLE_CLOUD_LOCATION": "us-central1",
    "GOOGLE_OAUTH_ACCESS_TOKEN": "emulated",
}


def run(stage: Stage) -> None:
    """Both. The SDK repeats nothing by itself."""
    _interactions(stage, genai.Client(api_key=os.environ["GOOGLE_API_KEY"]))
    token = Credentials(token=SETTINGS["GOOGLE_OAUTH_ACCESS_TOKEN"])
    where = {"project": os.environ["GOOGLE_CLOUD_PROJECT"], "location": SETTINGS["GOOGLE_CLOUD_LOCATION"]}
    version = types.HttpOptions(api_version="v1")  # its own choice is v1beta1
    _veo(stage, genai.Client(enterprise=True, credentials=token, http_options=version, **where))


# ── Interactions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _interactions(stage: Stage, sdk: genai.Client) -> None:
    us = stage.ours.of(OMNI)
    plain = us.order(OMNI_MODEL, duration_seconds=6.0, aspect_ratio="16:9", resolution="720p")
    first = us.input(OMNI_MODEL, "first_frame")
    moving = us.order(OMNI_MODEL, first, duration_seconds=6.0, aspect_ratio="16:9", resolution="720p")
    picture = {"type": "image", "data": data_of(first), "mime_type": first.asset.media_type}

    def make(task: str = "text_to_video", *files: object, duration: str = "6s") -> Interaction:
        return sdk.interactions.create(
            model=OMNI_MODEL,
            input=[{"type": "text", "text": PROMPT}, *files],
            response_format={
                "type": "video",
                "delivery": "uri",
                "duration": duration,
                "aspect_ratio": "16:9",
                "resolution": "720p",
            },
            generation_config={"video_config": {"task": task}},
            background=True,
            store=True,
        )

    made, handle = stage.both("interactions.create", make, lambda: us.submit(plain))
    stage.alike("interaction", made.id, handle.id)
    stage.both("interactions.get", lambda: sdk.interactions.get(made.id), lambda: us.status(plain, handle))
    ended, done = stage.both(
        "interactions.get, until done",
        lambda: _until(lambda: sdk.interactions.get(made.id), lambda one: one.status == "completed"),
        lambda: us.follow(plain, handle),
    )
    assert isinstance(done, Done), done
    assert ended.output_video is not None, ended
    names = [url.partition("/files/")[2].partition(":")[0] for url in (ended.output_video.uri, done.outputs[0].url)]
    stage.alike("file", *names)
    content, _ = stage.both(  # it finds the name in Google's own addresses alone
        "files.download",
        lambda: sdk.files.download(file=f"files/{names[0]}"),
        lambda: us.download(plain, handle, done),
    )
    assert is_the_clip(content)
    stage.alone("interactions.delete", "never asks: it goes after two days", lambda: sdk.interactions.delete(made.id))

    made, handle = stage.both(
        "interactions.create, image", lambda: make("image_to_video", picture), lambda: us.submit(moving)
    )
    stage.alike("moving", made.id, handle.id)
    _, answer = stage.both(
        "interactions.cancel", lambda: sdk.interactions.cancel(made.id), lambda: us.cancel(moving, handle)
    )
    assert answer == "accepted", answer
    ended, stopped = stage.both(
        "interactions.get, cancelled", lambda: sdk.interactions.get(made.id), lambda: us.follow(moving, handle)
    )
    assert ended.status == "cancelled", ended
    assert isinstance(stopped, Stopped), stopped

    with stage.fault(OMNI, do="moderated"):
        made, handle = stage.both("interactions.create, moderated", make, lambda: us.submit(plain))
    stage.alike("withheld", made.id, handle.id)
    _, broken = stage.both(
        "interactions.get, moderated",
        lambda: _until(lambda: sdk.interactions.get(made.id), lambda one: one.status not in ("queued", "in_progress")),
        lambda: us.follow(plain, handle),
    )
    assert isinstance(broken, Broken), broken
    assert broken.fault.code == "moderated", broken

    with stage.fault(OMNI, do="rate_limit", on="submit", retry_after=3):
        error, failed = stage.both(
            "interactions.create, 429", refused(Exception, make), refused(Failed, lambda: us.submit(plain))
        )
    assert _status(error) == 429, error
    assert (failed.certain, failed.fault.code) == (True, "rate_limited"), failed.fault
    wrong = Order(replace(plain.spec, duration_seconds=60.0), plain.target)  # our own data would refuse it
    error, failed = stage.both(
        "interactions.create, wrong",
        refused(Exception, lambda: make(duration="60s")),
        refused(Failed, lambda: us.submit(wrong)),
    )
    assert _status(error) == 400, error
    assert (failed.certain, failed.fault.code) == (True, "invalid_input"), failed.fault
    error, gone = stage.both(
        "interactions.get, unknown",
        refused(Exception, lambda: sdk.interactions.get(MISSING)),
        lambda: us.status(plain, Handle(MISSING)),
    )
    assert _status(error) == 404, error
    assert isinstance(gone, Vanished), gone


def _status(error: Exception) -> object:
    """Of an error whose class is none of the SDK's public names."""
    return getattr(error, "status_code", None)


# ── Veo on Vertex AI ──────────────────────────────────────────────────────────────────────────────────────────────────


def _veo(stage: Stage, sdk: genai.Client) -> None:
    us = stage.ours.of(VEO)
    where = "projects/{GOOGLE_CLOUD_PROJECT}/locations/{GOOGLE_CLOUD_LOCATION}".format(**os.environ)
    stage.alike("model", f"{where}/publishers/google/models/{VEO_MODEL}")
    wishes: dict[str, Any] = {
        "duration_seconds": 8.0,
        "aspect_ratio": "16:9",
        "resolution": "720p",
        "seed": 7,
        "generate_audio": True,
    }
    plain = us.order(VEO_MODEL, negative_prompt="rain", **wishes)
    told = {"duration_seconds": 8, "aspect_ratio": "16:9", "resolution": "720p", "seed": 7, "generate_audio": True}

    def make(**more: object) -> types.GenerateVideosOperation:
        config = types.GenerateVideosConfig(**(told | {"negative_prompt": "rain"} | more))
        return sdk.models.generate_videos(model=VEO_MODEL, prompt=PROMPT, config=config)

    made, handle = stage.both("models.generate_videos", make, lambda: us.submit(plain))
    stage.alike("operation", *(name.rpartition("/")[2] for name in (made.name, handle.id)))
    stage.both("operations.get", lambda: sdk.operations.get(made), lambda: us.status(plain, handle))
    ended, done = stage.both(
        "operations.get, until done",
        lambda: _until(lambda: sdk.operations.get(made), lambda one: bool(one.done)),
        lambda: us.follow(plain, handle),
    )
    assert isinstance(done, Done), done
    content = ended.response.generated_videos[0].video.video_bytes
    assert is_the_clip(content)
    stage.both("(no call: the clip is in that)", lambda: None, lambda: us.download(plain, handle, done))

    first, last = us.input(VEO_MODEL, "first_frame"), us.input(VEO_MODEL, "last_frame")
    framed = us.order(VEO_MODEL, first, last, **wishes)
    stage.both(
        "models.generate_videos, frames",
        lambda: sdk.models.generate_videos(
            model=VEO_MODEL,
            prompt=PROMPT,
            image=_image(first),
            config=types.GenerateVideosConfig(last_frame=_image(last), **told),
        ),
        lambda: us.submit(framed),
    )
    who = us.input(VEO_MODEL, "character")
    shown = us.order(VEO_MODEL, who, **wishes)
    asset = types.VideoGenerationReferenceImage(image=_image(who), reference_type="ASSET")
    stage.both(
        "models.generate_videos, references",
        lambda: sdk.models.generate_videos(
            model=VEO_MODEL, prompt=PROMPT, config=types.GenerateVideosConfig(reference_images=[asset], **told)
        ),
        lambda: us.submit(shown),
    )

    source = us.input(VEO_MODEL, "source")
    longer = us.order(VEO_MODEL, source, operation=Extend(), seed=7)
    stage.both(
        "models.generate_videos, extend",
        lambda: sdk.models.generate_videos(
            model=VEO_MODEL,
            source=types.GenerateVideosSource(prompt=PROMPT, video=_clip(source)),
            config=types.GenerateVideosConfig(aspect_ratio="16:9", resolution="720p", seed=7, generate_audio=True),
        ),
        lambda: us.submit(longer),
    )
    with stage.ours.told(VEO_BUCKET=BUCKET) as storing:
        stage.both(
            "models.generate_videos, output_gcs_uri",
            lambda: make(output_gcs_uri=f"gs://{BUCKET}/rushes/{KEY}/"),
            lambda: storing.of(VEO).submit(plain),
        )

    with stage.fault(VEO, do="moderated"):
        made, handle = stage.both("models.generate_videos, moderated", make, lambda: us.submit(plain))
    stage.alike("withheld", *(name.rpartition("/")[2] for name in (made.name, handle.id)))
    ended, broken = stage.both(
        "operations.get, moderated",
        lambda: _until(lambda: sdk.operations.get(made), lambda one: bool(one.done)),
        lambda: us.follow(plain, handle),
    )
    assert isinstance(broken, Broken), broken
    assert broken.fault.code == "moderated", broken
    assert ended.response.rai_media_filtered_count == 1, ended

    with stage.fault(VEO, do="rate_limit", on="submit", retry_after=3):
        error, failed = stage.both(
            "models.generate_videos, 429", refused(errors.ClientError, make), refused(Failed, lambda: us.submit(plain))
        )
    assert error.code == 429, error
    assert (failed.certain, failed.fault.code) == (True, "rate_limited"), failed.fault
    wrong = Order(replace(plain.spec, duration_seconds=60.0), plain.target)  # our own data would refuse it
    error, failed = stage.both(
        "models.generate_videos, wrong",
        refused(errors.ClientError, lambda: make(duration_seconds=60)),
        refused(Failed, lambda: us.submit(wrong)),
    )
    assert error.code == 400, error
    assert (failed.certain, failed.fault.code) == (True, "invalid_input"), failed.fault


def _clip(file: Input) -> types.Video:
    return types.Video(video_bytes=content_of(file.asset), mime_type=file.asset.media_type)


def _image(file: Input) -> types.Image:
    return types.Image(image_bytes=content_of(file.asset), mime_type=file.asset.media_type)


def _until(ask: Callable[[], T], ended: Callable[[T], bool]) -> T:
    """Look again and again: the SDK has no call that waits."""
    while not ended(answer := ask()):
        time.sleep(LOOK_S)
    return answer
