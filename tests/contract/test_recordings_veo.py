"""What the Gemini API truly answered about Veo, and about mistakes, as others recorded it, against the decoders.

The recordings are read where they lie and never copied: RUSHES_RECORDINGS names their folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rushes.adapters.base import Adapter, Answer, Ask, Done, Failed, Keep, Kept, Request, Response, Unfinished, play
from rushes.adapters.omni import Omni
from rushes.adapters.veo import Veo, VeoGemini
from rushes.testing.wires import informed
from rushes.units import AssetRef
from rushes.video import Target, TextToVideo, VideoSpec

DEFAULT = Path(__file__).parents[3] / "shared" / "recordings"
FOLDER = Path(os.environ.get("RUSHES_RECORDINGS", str(DEFAULT))) / "veo"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no recordings: RUSHES_RECORDINGS names no folder with them"
)

VIDEO = "ruby-llm--gemini-veo-3-1-lite-generate-preview-can-animate-videos.yaml"
WRONG_KEY = "ruby-llm--error-handling-with-gemini-gemini-2-5-flash-raises-appropr.yaml"
QUOTA = "ruby-llm--real-error-scenarios-gemini-gemini-2-5-flash-handles-conte.yaml"
NO_MODEL = "pydantic-ai--model-name-suggestion-google.yaml"
HOST = "https://generativelanguage.googleapis.com"
GEMINI = VeoGemini()
TARGET = Target(provider="veo_gemini", model="veo-3.1-lite-generate-preview")
ASKED = VideoSpec(prompt="waves", operation=TextToVideo(), duration_seconds=4.0)
ASSET = AssetRef("k", "0" * 64, 1, "video/mp4")
Pair = tuple[str, str, Response]
ALL: list[tuple[Adapter, Target]] = [
    (GEMINI, TARGET),
    (Omni(), Target(provider="omni", model="gemini-omni-1.1-flash")),
    (informed(Veo()), Target(provider="veo", model="veo-3.1-generate-001")),
]


def recorded(file: str) -> list[Pair]:
    """(method, address, answer) of every pair in a file."""
    tape = yaml.safe_load((FOLDER / file).read_text("utf-8"))
    return [(p["request"]["method"], p["request"]["uri"], answered(p["response"])) for p in tape["interactions"]]


def answered(response: dict[str, Any]) -> Response:
    headers = {name.lower(): str(values[0]) for name, values in response["headers"].items()}
    body = response["body"]["string"]
    content = body if isinstance(body, bytes) else body.encode()
    return Response(status=response["status"]["code"], body=content, headers=headers)


@pytest.fixture
def decoded(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Counts into the line at the end of the run, and says which file it was."""

    def count(file: str, answers: int) -> None:
        print(f"veo/{file}: {answers} real recorded answers decoded")
        record_property("decoded", answers)

    return count


def test_the_recorded_job_goes_from_its_request_over_a_redirect_to_its_file(
    decoded: Callable[[str, int], None],
) -> None:
    """Each answer is given where the adapter asks for it, and only there."""
    pairs = recorded(VIDEO)
    tape = iter(pairs)

    def world(ask: Ask) -> Answer:
        method, address, reply = next(tape)
        if isinstance(ask, Request):
            assert (method, address) == (ask.method, HOST + ask.url)
            return reply
        assert isinstance(ask, Keep)
        assert (method, address, ask.with_credential, reply.status) == ("GET", ask.url, True, 302)
        method, address, last = next(tape)
        assert (method, address, last.status) == ("GET", reply.headers["location"], 200)
        assert last.body[4:8] == b"ftyp"
        return Kept(ASSET)

    handle = play(GEMINI.submit(ASKED, TARGET, {}, "job_1-1"), world)
    outcomes = [play(GEMINI.status(handle, TARGET), world)]
    while isinstance(outcomes[-1], Unfinished):
        outcomes.append(play(GEMINI.status(handle, TARGET), world))
    *waited, done = outcomes
    assert waited == [Unfinished()] * 4
    assert isinstance(done, Done)
    (output,) = done.outputs
    assert play(GEMINI.download(output, handle, TARGET), world) == ASSET
    assert next(tape, None) is None
    decoded(VIDEO, len(pairs))


ERRORS = {
    WRONG_KEY: ("authentication_failed", False, None),
    QUOTA: ("rate_limited", True, 48.0),
    NO_MODEL: ("model_unknown", False, None),
}


@pytest.mark.parametrize(("file", "told"), ERRORS.items(), ids=["a wrong key", "a quota", "no such model"])
def test_a_recorded_error_is_read_as_what_it_is(
    file: str, told: tuple[str, bool, float | None], decoded: Callable[[str, int], None]
) -> None:
    """They are of another endpoint of the same service, and the shape is one for all."""
    ((_, _, reply),) = recorded(file)
    for adapter, target in ALL:
        with pytest.raises(Failed) as failed:
            play(adapter.submit(ASKED, target, {}, "job_1-1"), lambda _: reply)
        fault = failed.value.fault
        assert (fault.code, fault.retryable, fault.retry_after_s) == told
        assert failed.value.certain
        assert "https://" not in fault.detail
    decoded(file, 1)
