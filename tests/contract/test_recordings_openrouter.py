"""What OpenRouter truly answered, as others recorded it, against the adapter's decoder.

The recording is read where it lies and never copied: RUSHES_RECORDINGS names its folder. It is one whole life: an
order below blank lines, eleven polls that are pending, one that is done, and the video.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from rushes.adapters.base import Answer, Ask, Done, Outcome, Output, Request, Response, Unfinished, play
from rushes.adapters.fit import normalise
from rushes.adapters.openrouter import OpenRouter
from rushes.adapters.openrouter_models import MODELS
from rushes.units import Handle
from rushes.video import Target, TextToVideo, VideoSpec

DEFAULT = Path(__file__).parents[3] / "shared" / "recordings"
FOLDER = Path(os.environ.get("RUSHES_RECORDINGS", str(DEFAULT))) / "openrouter-video"
FILE = "ruby-llm--openrouter-x-ai-grok-imagine-video-can-animate-videos.yaml"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no recordings: RUSHES_RECORDINGS names no folder with them"
)

OPENROUTER = OpenRouter()
TARGET = Target(provider="openrouter", model="x-ai/grok-imagine-video")
Pair = tuple[dict[str, Any], Response]


@pytest.fixture(scope="module")
def recorded() -> list[Pair]:
    """(request, answer) of every pair."""
    tape = yaml.load((FOLDER / FILE).read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return [(pair["request"], answered(pair["response"])) for pair in tape["interactions"]]


def answered(response: dict[str, Any]) -> Response:
    headers = {name.lower(): str(values[0]) for name, values in response["headers"].items()}
    content = response["body"]["string"]
    body = content if isinstance(content, bytes) else content.encode()
    return Response(status=response["status"]["code"], body=body, headers=headers)


def handle_of(recorded: list[Pair]) -> Handle:
    spec = VideoSpec(prompt="p", operation=TextToVideo())
    return play(OPENROUTER.submit(spec, TARGET, {}, "job_1-1"), lambda _: recorded[0][1])


def outcome_of(handle: Handle, pair: Pair) -> Outcome:
    """What a poll means; it must be the very request that was recorded."""
    request, reply = pair

    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        assert (ask.method, OPENROUTER.capabilities.base_url + ask.url) == (request["method"], request["uri"])
        return reply

    return play(OPENROUTER.status(handle, TARGET), world)


@pytest.fixture
def decoded(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Counts into the line at the end of the run, and says which file it was."""

    def count(answers: int) -> None:
        print(f"openrouter-video/{FILE}: {answers} real recorded answers decoded")
        record_property("decoded", answers)

    return count


def test_the_order_below_blank_lines_gives_a_handle(recorded: list[Pair], decoded: Callable[[int], None]) -> None:
    reply = recorded[0][1]
    assert (reply.status, reply.body[:1]) == (202, b"\n")
    assert handle_of(recorded) == Handle("2kJAtC7mr3zCpeNnSZdf", {"model": TARGET.model})
    decoded(1)


def test_the_same_order_is_what_we_would_send(recorded: list[Pair], decoded: Callable[[int], None]) -> None:
    theirs = msgspec.json.decode(recorded[0][0]["body"], type=dict[str, object])
    sent: list[Ask] = []

    def world(ask: Ask) -> Answer:
        sent.append(ask)
        return recorded[0][1]

    spec = VideoSpec(prompt=str(theirs["prompt"]), operation=TextToVideo(), duration_seconds=1.0, resolution="sd")
    play(OPENROUTER.submit(normalise(spec, MODELS[0]), TARGET, {}, "job_1-1"), world)
    (ours,) = sent
    assert isinstance(ours, Request)
    assert ours.body == theirs
    decoded(1)


def test_eleven_polls_are_pending_and_the_twelfth_is_done(recorded: list[Pair], decoded: Callable[[int], None]) -> None:
    handle = handle_of(recorded)
    *before, done = [outcome_of(handle, pair) for pair in recorded[1:13]]
    assert before == [Unfinished(None, stage="pending")] * 11
    assert isinstance(done, Done)
    assert done.outputs == (Output(recorded[13][0]["uri"]),)
    assert done.cost is not None
    assert (done.cost.micro_usd, done.cost.unit) == (50_000, "usd")
    decoded(12)


def test_the_video_lies_where_the_last_poll_says(recorded: list[Pair], decoded: Callable[[int], None]) -> None:
    reply = recorded[13][1]
    assert (reply.status, reply.headers["content-type"], reply.body[4:8]) == (200, "video/mp4", b"ftyp")
    decoded(1)
