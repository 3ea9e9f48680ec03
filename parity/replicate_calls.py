"""Replicate's SDK beside our adapter `replicate`."""

from __future__ import annotations

import io

from msgspec.structs import replace
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput

from parity.ours import KEY, Order
from parity.stage import Stage, is_the_clip, refused
from rushes.adapters.base import Broken, Done, Failed, Stopped, Vanished
from rushes.adapters.replicate_models import VERSIONS
from rushes.testing.orders import PROMPT, content_of
from rushes.units import Handle

PROVIDER = "replicate"
MODEL = "prunaai/p-video"
WISH = {"prompt": PROMPT, "duration": 5, "aspect_ratio": "16:9", "resolution": "720p", "fps": 24, "seed": 7}
OLD = "stability-ai/stable-video-diffusion"
MISSING = "a" * 26
SDKS_KEY = "job_2-1"  # the mark that the adapter looks for is its own


def run(stage: Stage) -> None:
    """All of it. The SDK repeats reads by itself, and no POST."""
    sdk = Client()
    _life(stage, sdk)
    _files(stage, sdk)
    _ends(stage, sdk)
    _errors(stage, sdk)
    _beside(stage, sdk)


def _plain(stage: Stage) -> Order:
    return stage.ours.of(PROVIDER).order(MODEL, duration_seconds=5.0, seed=7)


def _life(stage: Stage, sdk: Client) -> None:
    """Made of words, looked at, waited for, downloaded."""
    us, plain = stage.ours.of(PROVIDER), _plain(stage)
    made, handle = stage.both(
        "models.predictions.create",
        lambda: sdk.models.predictions.create(MODEL, input=WISH),
        lambda: us.submit(plain),
    )
    stage.alike("prediction", made.id, handle.id)
    stage.both("prediction.reload", made.reload, lambda: us.status(plain, handle))
    _, done = stage.both("prediction.wait", made.wait, lambda: us.follow(plain, handle))
    assert made.status == "succeeded", made
    assert made.progress is not None, made.logs
    assert made.progress.percentage == 1.0, made.logs
    assert isinstance(done, Done), done
    content, _ = stage.both(
        "FileOutput.read", FileOutput(made.output, sdk).read, lambda: us.download(plain, handle, done)
    )
    assert is_the_clip(content)
    _, late = stage.both("prediction.cancel, too late", made.cancel, lambda: us.cancel(plain, handle))
    assert late == "too_late", late


def _files(stage: Stage, sdk: Client) -> None:
    """Made of an uploaded image, by a version."""
    us = stage.ours.of(PROVIDER)
    first = us.input(OLD, "first_frame")
    order = us.order(OLD, first, prompt="", seed=7)
    name, mark = f"{first.asset.sha256[:16]}.png", {"rushes": SDKS_KEY}
    file, prepared = stage.both(
        "files.create",
        lambda: sdk.files.create(
            io.BytesIO(content_of(first.asset)), filename=name, content_type="image/png", metadata=mark
        ),
        lambda: us.prepare(order),
    )
    ours = prepared[first.asset.sha256]
    stage.alike("file", file.id, ours.rpartition("/")[2])
    stage.alike("mark", SDKS_KEY, KEY)
    made, handle = stage.both(
        "predictions.create, version",
        lambda: sdk.predictions.create(version=VERSIONS[OLD], input={"input_image": file.urls["get"], "seed": 7}),
        lambda: us.submit(order, prepared),
    )
    stage.alike("animated", made.id, handle.id)
    (files, listed), found = stage.both(
        "files.list, predictions.list", lambda: (sdk.files.list(), sdk.predictions.list()), lambda: us.find(order)
    )
    stage.alike("uploaded", *(one.created_at for one in files if one.metadata == {"rushes": KEY}))
    assert {handle.id, made.id} <= {one.id for one in listed.results}, listed
    assert found == handle, found
    _, answer = stage.both("prediction.cancel", made.cancel, lambda: us.cancel(order, handle))
    assert answer == "accepted", answer
    _, outcome = stage.both("prediction.wait, cancelled", made.wait, lambda: us.follow(order, handle))
    assert made.status == "canceled", made
    assert isinstance(outcome, Stopped), outcome
    again = stage.alone("files.get", "never asks: the upload told it all", lambda: sdk.files.get(file.id))
    assert again == file, again
    stage.alone("files.delete", "never asks: it goes after a day", lambda: sdk.files.delete(file.id))


def _ends(stage: Stage, sdk: Client) -> None:
    """A prediction that is withheld."""
    us, plain = stage.ours.of(PROVIDER), _plain(stage)
    with stage.fault(PROVIDER, do="moderated"):
        made, handle = stage.both(
            "models.predictions.create, moderated",
            lambda: sdk.models.predictions.create(MODEL, input=WISH),
            lambda: us.submit(plain),
        )
    stage.alike("withheld", made.id, handle.id)
    _, outcome = stage.both("prediction.wait, moderated", made.wait, lambda: us.follow(plain, handle))
    assert made.status == "failed", made
    assert isinstance(outcome, Broken), outcome
    assert outcome.fault.code == "moderated", outcome


def _errors(stage: Stage, sdk: Client) -> None:
    """Refusals."""
    us, plain = stage.ours.of(PROVIDER), _plain(stage)
    wrong = Order(replace(plain.spec, duration_seconds=60.0), plain.target)  # our own data would refuse it
    error, failed = stage.both(
        "models.predictions.create, wrong",
        refused(ReplicateError, lambda: sdk.models.predictions.create(MODEL, input=WISH | {"duration": 60})),
        refused(Failed, lambda: us.submit(wrong)),
    )
    assert (error.status, failed.certain, failed.fault.code) == (422, True, "invalid_input"), (error, failed.fault)
    with stage.fault(PROVIDER, do="rate_limit", on="submit", retry_after=3):
        error, failed = stage.both(
            "models.predictions.create, 429",
            refused(ReplicateError, lambda: sdk.models.predictions.create(MODEL, input=WISH)),
            refused(Failed, lambda: us.submit(plain)),
        )
    assert (error.status, failed.certain, failed.fault.retry_after_s) == (429, True, 3.0), (error, failed.fault)
    error, gone = stage.both(
        "predictions.get, unknown",
        refused(ReplicateError, lambda: sdk.predictions.get(MISSING)),
        lambda: us.status(plain, Handle(MISSING)),
    )
    assert error.status == 404, error
    assert isinstance(gone, Vanished), gone


def _beside(stage: Stage, sdk: Client) -> None:
    """What our adapter never does."""
    held = "never asks: held open, a paid call is in doubt"
    assert stage.alone("run", held, lambda: sdk.run(MODEL, input=WISH))
    withheld = WISH | {"prompt": f"{PROMPT}, broken"}
    stage.alone("run, failed", held, refused(ModelError, lambda: sdk.run(MODEL, input=withheld)))
    with stage.fault(PROVIDER, do="rate_limit", on="find", retry_after=1, times=1):
        stage.alone("predictions.list, again after 429", "asks again by its schedule", sdk.predictions.list)
