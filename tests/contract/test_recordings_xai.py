"""What xAI truly answered to a video request, as others recorded it, against the adapter's decoder.

The recording is read where it lies and never copied: RUSHES_RECORDINGS names the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rushes.adapters.base import Answer, Ask, Done, Failed, Keep, Kept, Request, Response, Unfinished, play
from rushes.adapters.xai import Xai
from rushes.units import AssetRef, Handle
from rushes.video import Target, TextToVideo, VideoSpec

DEFAULT = Path(__file__).parents[3] / "shared" / "recordings"
FOLDER = Path(os.environ.get("RUSHES_RECORDINGS", str(DEFAULT)))
VIDEO = "xai-video/ruby-llm--xai-grok-imagine-video-can-animate-videos.yaml"
WRONG_KEY = "xai/ruby-llm--error-handling-with-raises-appropriate-auth-error.yaml"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "xai-video").is_dir(), reason="no recordings: RUSHES_RECORDINGS names no folder with them"
)

XAI = Xai()
TARGET = Target(provider="xai", model="grok-imagine-video")
ASKED = VideoSpec(prompt="waves", operation=TextToVideo(), duration_seconds=1.0, resolution="480p")
Pair = tuple[str, str, Response]


def recorded(file: str) -> list[Pair]:
    """(method, address, answer) of every pair in a file."""
    tape = yaml.safe_load((FOLDER / file).read_text("utf-8"))
    return [(p["request"]["method"], p["request"]["uri"], answered(p["response"])) for p in tape["interactions"]]


def answered(response: dict[str, Any]) -> Response:
    headers = {name.lower(): str(values[0]) for name, values in response["headers"].items()}
    body = response["body"]["string"]
    content = body if isinstance(body, bytes) else body.encode()
    return Response(status=response["status"]["code"], body=content, headers=headers)


@pytest.fixture(scope="module")
def video() -> list[Pair]:
    return recorded(VIDEO)


@pytest.fixture
def decoded(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Counts into the line at the end of the run, and says which file it was."""

    def count(file: str, answers: int) -> None:
        print(f"{file}: {answers} real recorded answers decoded")
        record_property("decoded", answers)

    return count


def test_the_recorded_job_goes_from_its_request_to_its_file(
    video: list[Pair], decoded: Callable[[str, int], None]
) -> None:
    """Each answer is given where the adapter asks for it, and only there."""
    tape = iter(video)
    asset = AssetRef("k", "0" * 64, 1, "video/mp4")

    def world(ask: Ask) -> Answer:
        method, address, reply = next(tape)
        if isinstance(ask, Keep):
            assert (method, address, ask.with_credential, reply.status) == ("GET", ask.url, False, 200)
            assert reply.body[4:8] == b"ftyp"
            return Kept(asset)
        assert isinstance(ask, Request)
        assert (method, address) == (ask.method, f"https://api.x.ai/v1{ask.url}")
        return reply

    handle = play(XAI.submit(ASKED, TARGET, {}, "job_1-1"), world)
    outcomes = [play(XAI.status(handle, TARGET), world)]
    while isinstance(outcomes[-1], Unfinished):
        outcomes.append(play(XAI.status(handle, TARGET), world))
    *waited, done = outcomes
    assert waited == [Unfinished(percent, "pending") for percent in (*[1] * 23, 18, 56, 94)]
    assert isinstance(done, Done)
    assert done.cost is not None
    assert (done.cost.micro_usd, done.cost.units) == (50_000, 500_000_000.0)
    (output,) = done.outputs
    assert play(XAI.download(output, handle, TARGET), world) == asset
    assert next(tape, None) is None
    decoded(VIDEO, len(video))


def test_the_recorded_answer_to_a_wrong_key_is_certain(decoded: Callable[[str, int], None]) -> None:
    """Of another endpoint of the same service: a 400."""
    ((_, _, reply),) = recorded(WRONG_KEY)
    assert reply.status == 400
    for flow in (XAI.submit(ASKED, TARGET, {}, "job_1-1"), XAI.status(Handle("a" * 36), TARGET)):
        with pytest.raises(Failed) as failed:
            play(flow, lambda _: reply)
        assert (failed.value.certain, failed.value.fault.code) == (True, "authentication_failed")
        assert failed.value.fault.detail == "xai: it refuses the key."
    decoded(WRONG_KEY, 1)
