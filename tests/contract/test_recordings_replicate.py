"""What Replicate truly answered, as others recorded it, against the adapter's decoder.

The recordings are read where they lie and never copied: RUSHES_RECORDINGS names their folder. Their models make images
and words, so what is held here is the envelope: creates, polls, cancels, refusals and files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rushes.adapters.base import Answer, Ask, Broken, Done, Failed, Outcome, Response, Unfinished, play
from rushes.adapters.replicate import Replicate
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Target, TextToVideo, VideoSpec

DEFAULT = Path(__file__).parents[3] / "shared" / "recordings"
FOLDER = Path(os.environ.get("RUSHES_RECORDINGS", str(DEFAULT))) / "replicate"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no recordings: RUSHES_RECORDINGS names no folder with them"
)

REPLICATE = Replicate()
TARGET = Target(provider="replicate", model="prunaai/p-video")
WORDS = VideoSpec(prompt="p", operation=TextToVideo())
FILES = (
    "replicate-python--run.yaml",
    "replicate-python--predictions-get.yaml",
    "replicate-python--predictions-cancel-true.yaml",
    "replicate-python--models-predictions-create-blocking-true-true.yaml",
    "replicate-python--run-invalid-token.yaml",
    "openllmetry--replicate-image-generation-legacy.yaml",
    "openllmetry--replicate-llama-stream-legacy.yaml",
)


def recorded(file: str) -> list[tuple[str, str, Response]]:
    """(method, path, answer) of every pair in a file."""
    tape = yaml.safe_load((FOLDER / file).read_text("utf-8"))
    return [
        (pair["request"]["method"], pair["request"]["uri"], answered(pair["response"])) for pair in tape["interactions"]
    ]


def answered(response: dict[str, Any]) -> Response:
    headers = {name.lower(): str(values[0]) for name, values in response["headers"].items()}
    return Response(status=response["status"]["code"], body=response["body"]["string"].encode(), headers=headers)


def always(reply: Response) -> Any:
    def world(_: Ask) -> Answer:
        return reply

    return world


@pytest.fixture
def decoded(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Counts into the line at the end of the run, and says which file it was."""

    def count(file: str, answers: int) -> None:
        print(f"replicate/{file}: {answers} real recorded answers decoded")
        record_property("decoded", answers)

    return count


def created(reply: Response) -> Handle:
    return play(REPLICATE.submit(WORDS, TARGET, {}, "job_1-1"), always(reply))


def of_kind(file: str, method: str, end: str) -> list[Response]:
    return [reply for asked, uri, reply in recorded(file) if asked == method and end in uri]


def polls(file: str) -> list[Outcome]:
    return [
        play(REPLICATE.status(Handle("a" * 26), TARGET), always(r)) for r in of_kind(file, "GET", "/v1/predictions/")
    ]


def test_every_recorded_create_gives_a_handle(decoded: Callable[[str, int], None]) -> None:
    handles: list[Handle] = []
    for file in FILES:
        replies = [r for asked, uri, r in recorded(file) if asked == "POST" and uri.endswith("/predictions")]
        there = [created(reply) for reply in replies if reply.status == 201]
        if there:
            decoded(file, len(there))
        handles += there
    assert len(handles) == 6
    assert all(len(handle.id) >= 25 for handle in handles)


def test_a_run_goes_from_starting_to_its_images(decoded: Callable[[str, int], None]) -> None:
    *before, done = polls("replicate-python--run.yaml")
    assert before[0] == Unfinished(None, "starting")
    percents = [
        outcome.percent for outcome in before if isinstance(outcome, Unfinished) and outcome.percent is not None
    ]
    assert percents == sorted(percents)
    assert len(percents) >= 5
    assert isinstance(done, Done)
    assert all(output.url.startswith("https://") for output in done.outputs)
    decoded("replicate-python--run.yaml", len(before) + 1)


def test_the_other_run_too(decoded: Callable[[str, int], None]) -> None:
    *before, done = polls("openllmetry--replicate-image-generation-legacy.yaml")
    assert before[0] == Unfinished(18, "processing")
    assert isinstance(done, Done)
    decoded("openllmetry--replicate-image-generation-legacy.yaml", len(before) + 1)


def test_a_finished_prediction_read_later_is_done_or_gone(decoded: Callable[[str, int], None]) -> None:
    outcomes = polls("replicate-python--predictions-get.yaml")
    assert len(outcomes) == 2
    assert all(isinstance(outcome, Done | Broken) for outcome in outcomes)
    decoded("replicate-python--predictions-get.yaml", len(outcomes))


def test_a_cancel_is_accepted(decoded: Callable[[str, int], None]) -> None:
    (reply,) = of_kind("replicate-python--predictions-cancel-true.yaml", "POST", "/cancel")
    assert play(REPLICATE.cancel(Handle("a" * 26), TARGET), always(reply)) == "accepted"
    decoded("replicate-python--predictions-cancel-true.yaml", 1)


def test_a_wrong_key_is_certain(decoded: Callable[[str, int], None]) -> None:
    ((_, _, reply),) = recorded("replicate-python--run-invalid-token.yaml")
    with pytest.raises(Failed) as failed:
        created(reply)
    assert (failed.value.certain, failed.value.fault.code) == (True, "authentication_failed")
    decoded("replicate-python--run-invalid-token.yaml", 1)


def test_a_missing_destination_is_the_providers_own_error(decoded: Callable[[str, int], None]) -> None:
    ((_, _, reply),) = recorded("replicate-python--trainings-create-invalid-destination.yaml")
    fault = REPLICATE.fault(reply)
    assert fault is not None
    assert fault.code == "not_found"
    decoded("replicate-python--trainings-create-invalid-destination.yaml", 1)


def test_an_upload_gives_the_address_of_the_file(decoded: Callable[[str, int], None]) -> None:
    reply = recorded("replicate-python--file-operations.yaml")[0][2]
    asset = AssetRef("inputs/p", "0" * 64, 0, "text/plain")
    spec = VideoSpec(prompt="p", operation=ImageToVideo(), inputs=(Input(asset=asset),))
    prepared = play(REPLICATE.prepare(spec, TARGET), always(reply))
    assert prepared["0" * 64].startswith("https://api.replicate.com/v1/files/")
    decoded("replicate-python--file-operations.yaml", 1)


def test_a_recorded_list_of_files_is_read_and_holds_no_mark_of_ours(decoded: Callable[[str, int], None]) -> None:
    name = "replicate-python--file-operations.yaml"
    replies = of_kind(name, "GET", "/v1/files")
    listed = [reply for reply in replies if b'"results"' in reply.body]
    assert [play(REPLICATE.find(TARGET, "job_1-1", 0.0), always(reply)) for reply in listed] == [None, None]
    decoded(name, len(listed))
