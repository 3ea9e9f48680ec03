"""Runway's SDK beside our adapter `runway`."""

from __future__ import annotations

import httpx
import runwayml
from msgspec.structs import replace
from runwayml import RunwayML

from parity.ours import Order, data_uri
from parity.stage import Stage, is_the_clip, refused
from rushes.adapters.base import Broken, Done, Failed, Vanished
from rushes.testing.orders import PROMPT, content_of
from rushes.units import Handle
from rushes.video import Extend, Upscale

PROVIDER = "runway"
WISH = {"prompt_text": PROMPT, "ratio": "1280:720", "duration": 5, "seed": 7}
LARGE_BYTES = 8_000_000  # too large to travel in the request
MISSING = "00000000-0000-4000-8000-000000000000"


def run(stage: Stage) -> None:
    """All of it. The SDK checks every answer against its own types, and repeats nothing by itself."""
    sdk = RunwayML(max_retries=0, _strict_response_validation=True)
    _life(stage, sdk)
    _files(stage, sdk)
    _uploads(stage, sdk)
    _ends(stage, sdk)
    _errors(stage, sdk)


def _life(stage: Stage, sdk: RunwayML) -> None:
    """Made of words, looked at, waited for, downloaded, removed."""
    us = stage.ours.of(PROVIDER)
    plain = us.order("gen4.5", duration_seconds=5.0, seed=7)
    made, handle = stage.both(
        "text_to_video.create",
        lambda: sdk.text_to_video.create(model="gen4.5", **WISH),
        lambda: us.submit(plain),
    )
    stage.alike("task", made.id, handle.id)
    stage.both("tasks.retrieve", lambda: sdk.tasks.retrieve(made.id), lambda: us.status(plain, handle))
    task, done = stage.both(
        "wait_for_task_output", lambda: made.wait_for_task_output(timeout=60), lambda: us.follow(plain, handle)
    )
    assert task.status == "SUCCEEDED", task
    assert isinstance(done, Done), done
    stage.both(
        "(no call: GET of output[0])",
        lambda: is_the_clip(httpx.get(task.output[0]).content),
        lambda: us.download(plain, handle, done),
    )
    stage.alike("link", *(url.rpartition("=")[2] for url in (task.output[0], done.outputs[0].url)))
    stage.both("tasks.delete", lambda: sdk.tasks.delete(made.id), lambda: us.cancel(plain, handle))
    _, gone = stage.both(
        "tasks.retrieve, gone",
        refused(runwayml.NotFoundError, lambda: sdk.tasks.retrieve(made.id)),
        lambda: us.status(plain, handle),
    )
    assert isinstance(gone, Vanished), gone


def _files(stage: Stage, sdk: RunwayML) -> None:
    """Made of files in the request: of images, over and after a clip, larger, performed."""
    us = stage.ours.of(PROVIDER)

    first = us.input("gen4_turbo", "first_frame")
    moving = us.order("gen4_turbo", first, duration_seconds=5.0, seed=7)
    frames = [{"uri": data_uri(first), "position": "first"}]
    made, handle = stage.both(
        "image_to_video.create",
        lambda: sdk.image_to_video.create(model="gen4_turbo", prompt_image=frames, **WISH),
        lambda: us.submit(moving),
    )
    stage.alike("moving", made.id, handle.id)
    stage.both("tasks.delete, unfinished", lambda: sdk.tasks.delete(made.id), lambda: us.cancel(moving, handle))

    source = us.input("aleph2", "source")
    over = us.order("aleph2", source, aspect_ratio="21:9", seed=7)
    stage.both(
        "video_to_video.create",
        lambda: sdk.video_to_video.create(
            model="aleph2", video_uri=data_uri(source), prompt_text=PROMPT, seed=7, target_aspect_ratio="21:9"
        ),
        lambda: us.submit(over),
    )
    source = us.input("seedance2_5", "source")
    after = us.order("seedance2_5", source, operation=Extend(), duration_seconds=6.0, generate_audio=True)
    stage.both(
        "video_to_video.create, extend",
        lambda: sdk.video_to_video.create(
            model="seedance2_5",
            mode="extend",
            prompt_video=data_uri(source),
            prompt_text=PROMPT,
            duration=6,
            audio=True,
        ),
        lambda: us.submit(after),
    )
    source = us.input("magnific_video_upscaler_creative", "source")
    larger = us.order("magnific_video_upscaler_creative", source, operation=Upscale(), prompt="", resolution="2160p")
    stage.both(
        "video_upscale.create",
        lambda: sdk.video_upscale.create(
            model="magnific_video_upscaler_creative", video_uri=data_uri(source), resolution="4k"
        ),
        lambda: us.submit(larger),
    )
    who, how = us.input("act_two", "character"), us.input("act_two", "performance")
    acted = us.order("act_two", who, how, prompt="", seed=7, provider_options={"expressionIntensity": 4})
    stage.both(
        "character_performance.create",
        lambda: sdk.character_performance.create(
            model="act_two",
            character={"type": "image", "uri": data_uri(who)},
            reference={"type": "video", "uri": data_uri(how)},
            ratio="1280:720",
            seed=7,
            expression_intensity=4,
        ),
        lambda: us.submit(acted),
    )


def _uploads(stage: Stage, sdk: RunwayML) -> None:
    """A file that goes ahead of its request."""
    us = stage.ours.of(PROVIDER)
    source = us.input("aleph2", "source")
    source = replace(source, asset=replace(source.asset, size_bytes=LARGE_BYTES))
    order = us.order("aleph2", source, seed=7)
    file = (f"{source.asset.sha256[:16]}.mp4", content_of(source.asset), source.asset.media_type)
    up, prepared = stage.both(
        "uploads.create_ephemeral",
        lambda: sdk.uploads.create_ephemeral(file=file),
        lambda: us.prepare(order),
    )
    ours = prepared[source.asset.sha256]
    stage.alike("upload", *(address.rpartition("/")[2] for address in (up.uri, ours)))
    stage.both(
        "video_to_video.create, uploaded",
        lambda: sdk.video_to_video.create(model="aleph2", video_uri=up.uri, prompt_text=PROMPT, seed=7),
        lambda: us.submit(order, prepared),
    )


def _ends(stage: Stage, sdk: RunwayML) -> None:
    """A task that is withheld."""
    us = stage.ours.of(PROVIDER)
    withheld = us.order("gen4.5", duration_seconds=5.0, seed=7)
    with stage.fault(PROVIDER, do="moderated"):
        made, handle = stage.both(
            "text_to_video.create, moderated",
            lambda: sdk.text_to_video.create(model="gen4.5", **WISH),
            lambda: us.submit(withheld),
        )
    stage.alike("withheld", made.id, handle.id)
    _, broken = stage.both(
        "wait_for_task_output, moderated",
        refused(Exception, lambda: made.wait_for_task_output(timeout=60)),
        lambda: us.follow(withheld, handle),
    )
    assert isinstance(broken, Broken), broken
    assert broken.fault.code == "moderated", broken


def _errors(stage: Stage, sdk: RunwayML) -> None:
    """Refusals."""
    us = stage.ours.of(PROVIDER)
    plain = us.order("gen4.5", duration_seconds=5.0, seed=7)
    wrong = Order(replace(plain.spec, duration_seconds=60.0), plain.target)  # our own data would refuse it
    _, failed = stage.both(
        "text_to_video.create, wrong",
        refused(
            runwayml.BadRequestError, lambda: sdk.text_to_video.create(model="gen4.5", **(WISH | {"duration": 60}))
        ),
        refused(Failed, lambda: us.submit(wrong)),
    )
    assert failed.certain, failed
    assert failed.fault.code == "invalid_input", failed.fault
    with stage.fault(PROVIDER, do="rate_limit", on="submit", retry_after=3):
        _, failed = stage.both(
            "text_to_video.create, 429",
            refused(runwayml.RateLimitError, lambda: sdk.text_to_video.create(model="gen4.5", **WISH)),
            refused(Failed, lambda: us.submit(plain)),
        )
    assert failed.certain, failed
    assert failed.fault.retry_after_s == 3.0, failed.fault
    with stage.fault(PROVIDER, do="rate_limit", on="submit", retry_after=0.1, times=1):
        eager = sdk.with_options(max_retries=2)
        stage.alone(
            "text_to_video.create, again after 429",
            "sends again by a decision in the log",
            lambda: eager.text_to_video.create(model="gen4.5", **WISH),
        )
    _, gone = stage.both(
        "tasks.retrieve, unknown",
        refused(runwayml.NotFoundError, lambda: sdk.tasks.retrieve(MISSING)),
        lambda: us.status(plain, Handle(MISSING)),
    )
    assert isinstance(gone, Vanished), gone
