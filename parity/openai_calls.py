"""OpenAI's SDK beside our adapter `sora`, whose wire is `/v1/videos`."""

from __future__ import annotations

from typing import Any

import openai
from msgspec.structs import replace
from openai import OpenAI

from parity.ours import KEY, Order
from parity.stage import Stage, is_the_clip, refused
from rushes.adapters.base import Broken, Done, Failed, Vanished
from rushes.testing.orders import PROMPT, content_of
from rushes.units import Handle
from rushes.video import Extend, Input, Made

PROVIDER = "sora"
MODEL = "sora-2"
WISH = {"model": MODEL, "prompt": PROMPT, "seconds": "8", "size": "1280x720"}
SDKS_KEY = "job_2-1"  # the mark that the adapter looks for is its own
MISSING = f"video_{'0' * 48}"


def run(stage: Stage) -> None:
    """All of it. The SDK checks every answer against its own types, and repeats nothing by itself."""
    sdk = OpenAI(max_retries=0, _strict_response_validation=True)
    _life(stage, sdk)
    _files(stage, sdk)
    _ends(stage, sdk)
    _errors(stage, sdk)


def _plain(stage: Stage, **options: object) -> Order:
    wishes: dict[str, Any] = {"duration_seconds": 8.0, "aspect_ratio": "16:9", "provider_options": options}
    return stage.ours.of(PROVIDER).order(MODEL, **wishes)


def _life(stage: Stage, sdk: OpenAI) -> None:
    """Made of words, looked at, waited for, downloaded, made anew and made longer, listed, removed."""
    us, plain = stage.ours.of(PROVIDER), _plain(stage)
    made, handle = stage.both("videos.create", lambda: sdk.videos.create(**WISH), lambda: us.submit(plain))
    stage.alike("video", made.id, handle.id)
    stage.both("videos.retrieve", lambda: sdk.videos.retrieve(made.id), lambda: us.status(plain, handle))
    video, done = stage.both("videos.poll", lambda: sdk.videos.poll(made.id), lambda: us.follow(plain, handle))
    assert video.status == "completed", video
    assert isinstance(done, Done), done
    content, _ = stage.both(
        "videos.download_content",
        lambda: sdk.videos.download_content(made.id).read(),
        lambda: us.download(plain, handle, done),
    )
    assert is_the_clip(content)
    pictured = _plain(stage, variants=["thumbnail"])
    beside = replace(handle, extra={**handle.extra, "variants": "thumbnail"})
    _, both = stage.both(
        "videos.retrieve, again", lambda: sdk.videos.retrieve(made.id), lambda: us.status(pictured, beside)
    )
    stage.both(
        "videos.download_content, a thumbnail",
        lambda: sdk.videos.download_content(made.id, variant="thumbnail").read(),
        lambda: us.download(pictured, beside, both, 1),
    )

    own = _own(us.input(MODEL, "source"), handle)
    again = us.order(MODEL, own)
    remixed, other = stage.both(
        "videos.remix", lambda: sdk.videos.remix(made.id, prompt=PROMPT), lambda: us.submit(again)
    )
    assert remixed.remixed_from_video_id == made.id, remixed
    stage.alike("remixed", remixed.id, other.id)
    stage.alone(  # its own types take it, its code does not
        "videos.extend, by id",
        "sends JSON; this SDK raises before it asks",
        refused(RuntimeError, lambda: sdk.videos.extend(prompt=PROMPT, seconds="8", video={"id": made.id})),
    )

    marked = _plain(stage, mark_prompt=True)
    told = WISH | {"prompt": f"{PROMPT}\n({SDKS_KEY})"}
    stage.alike("mark", SDKS_KEY, KEY)
    _, mine = stage.both("videos.create, marked", lambda: sdk.videos.create(**told), lambda: us.submit(marked))
    listed, found = stage.both("videos.list", lambda: sdk.videos.list(limit=100, order="desc"), lambda: us.find(marked))
    assert made.id in {one.id for one in listed.data}, listed
    assert found == mine, found
    gone = stage.alone("videos.delete", "never asks: it goes after an hour", lambda: sdk.videos.delete(made.id))
    assert gone.deleted, gone


def _own(source: Input, handle: Handle) -> Input:
    """The clip of a job of ours."""
    return replace(source, made=Made(job="job_1", provider=PROVIDER, handle=handle))


def _files(stage: Stage, sdk: OpenAI) -> None:
    """Made of an image, and over a clip that is not theirs."""
    us = stage.ours.of(PROVIDER)
    first, source = us.input(MODEL, "first_frame"), us.input(MODEL, "source")
    moving = us.order(MODEL, first, duration_seconds=8.0, aspect_ratio="16:9")
    stage.both(
        "videos.create, input_reference",
        lambda: sdk.videos.create(**WISH, input_reference=_file("first_frame.png", first)),
        lambda: us.submit(moving),
    )
    stage.both(
        "videos.edit, a file",
        lambda: sdk.videos.edit(prompt=PROMPT, video=_file("source.mp4", source)),
        lambda: us.submit(us.order(MODEL, source)),
    )
    stage.both(
        "videos.extend, a file",
        lambda: sdk.videos.extend(prompt=PROMPT, seconds="8", video=_file("source.mp4", source)),
        lambda: us.submit(us.order(MODEL, source, operation=Extend(), duration_seconds=8.0)),
    )


def _file(name: str, file: Input) -> tuple[str, bytes, str]:
    return name, content_of(file.asset), file.asset.media_type


def _ends(stage: Stage, sdk: OpenAI) -> None:
    """A clip that is withheld."""
    us, plain = stage.ours.of(PROVIDER), _plain(stage)
    with stage.fault(PROVIDER, do="moderated"):
        made, handle = stage.both(
            "videos.create, moderated", lambda: sdk.videos.create(**WISH), lambda: us.submit(plain)
        )
    stage.alike("withheld", made.id, handle.id)
    video, outcome = stage.both(
        "videos.poll, moderated", lambda: sdk.videos.poll(made.id), lambda: us.follow(plain, handle)
    )
    assert video.status == "failed", video
    assert isinstance(outcome, Broken), outcome
    assert outcome.fault.code == "moderated", outcome


def _errors(stage: Stage, sdk: OpenAI) -> None:
    """Refusals."""
    us, plain = stage.ours.of(PROVIDER), _plain(stage)
    wrong = Order(replace(plain.spec, duration_seconds=5.0), plain.target)  # our own data would refuse it
    _, failed = stage.both(
        "videos.create, wrong",
        refused(openai.BadRequestError, lambda: sdk.videos.create(**(WISH | {"seconds": "5"}))),
        refused(Failed, lambda: us.submit(wrong)),
    )
    assert (failed.certain, failed.fault.code) == (True, "invalid_input"), failed.fault
    with stage.fault(PROVIDER, do="rate_limit", on="submit", retry_after=3):
        _, failed = stage.both(
            "videos.create, 429",
            refused(openai.RateLimitError, lambda: sdk.videos.create(**WISH)),
            refused(Failed, lambda: us.submit(plain)),
        )
    assert (failed.certain, failed.fault.code) == (True, "rate_limited"), failed.fault
    with stage.fault(PROVIDER, do="rate_limit", on="submit", retry_after=0, times=1):
        eager = sdk.with_options(max_retries=2)
        stage.alone(
            "videos.create, again after 429",
            "sends again by a decision in the log",
            lambda: eager.videos.create(**WISH),
        )
    _, gone = stage.both(
        "videos.retrieve, unknown",
        refused(openai.NotFoundError, lambda: sdk.videos.retrieve(MISSING)),
        lambda: us.status(plain, Handle(MISSING)),
    )
    assert isinstance(gone, Vanished), gone
