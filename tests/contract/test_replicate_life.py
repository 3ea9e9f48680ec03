"""Replicate's adapter in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from provider_rig import CLIP, PATIENCE_S, PICTURE, SECRET, Wired, opened, types, until

from rushes.adapters.base import Flow, Prepared
from rushes.adapters.replicate import Replicate
from rushes.emulators.faults import Cut, Drop, ExpiredUrl, LineRule, NotFound, ServerError, StatusWord, TwinRule
from rushes.emulators.replicate import ReplicateTwin
from rushes.units import Handle
from rushes.video import MediaInput, Target, VideoSpec

Open = Callable[..., Awaitable[Wired[ReplicateTwin]]]


class OneMark(Replicate):
    """The control: all attempts of all jobs carry the same mark."""

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[Prepared]:  # noqa: ARG002
        return super().prepare(spec, target, "ours")

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        return super().find(target, "ours", since)


@pytest.fixture
async def rigs(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(
            *rules: LineRule | TwinRule, adapter: Replicate | None = None, **changes: Any
        ) -> Wired[ReplicateTwin]:
            twin = ReplicateTwin(clip=CLIP, key=SECRET, **{"start_s": 0.0, "render_s": 0.05, **changes})
            return await stack.enter_async_context(opened(tmp_path, adapter or Replicate(), twin, *rules))

        yield open_rig


def ended(rig: Wired[ReplicateTwin], method: str, end: str) -> int:
    """How many requests came whose path ends so."""
    return sum(about.endswith(end) for about in rig.came(method))


async def test_words_become_a_take_at_a_price_that_nobody_tells(rigs: Open) -> None:
    rig = await rigs()
    result = await (await rig.make(aspect_ratio="9:16", duration_seconds=7.0)).result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert (result.job.cost, result.job.billed) == (None, "yes")
    (made,) = rig.twin.predictions.values()
    sent = {"prompt": "a lake", "duration": 7, "aspect_ratio": "9:16", "resolution": "720p", "fps": 24}
    assert made.input == {**sent, "seed": result.job.request.seed}


async def test_an_image_travels_as_a_file_with_the_mark_of_its_attempt(rigs: Open) -> None:
    rig = await rigs()
    result = await (await rig.make("", image=PICTURE, model="replicate/svd")).result(timeout_s=PATIENCE_S)
    ((name, file),) = rig.twin.files.items()
    assert (file.content, file.metadata) == (PICTURE, {"rushes": f"{result.job.id}-1"})
    (made,) = rig.twin.predictions.values()
    assert str(made.input["input_image"]).endswith(f"/v1/files/{name}")


async def test_references_of_every_kind_reach_the_model(rigs: Open) -> None:
    rig = await rigs()
    first = await rig.make()
    await first.result(timeout_s=PATIENCE_S)
    image = MediaInput(role="character", url="data:image/png;base64," + b64encode(PICTURE).decode())
    clip = MediaInput(type="video", role="reference_video", job=first.id)
    job = await rig.make("[Image1] as in [Video1]", inputs=(image, clip), model="replicate/seedance-2.0")
    result = await job.result(timeout_s=PATIENCE_S)
    made = list(rig.twin.predictions.values())[-1].input
    assert result.job.operation == "video-to-video"
    assert [len(cast("list[str]", made[f"reference_{kind}"])) for kind in ("images", "videos")] == [1, 1]
    assert {file.content for file in rig.twin.files.values()} == {PICTURE, CLIP}


# ── Answers that are lost ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lost_answer_is_found_by_the_file_and_paid_once(rigs: Open) -> None:
    rig = await rigs()
    rig.line.losing = ["answer"]
    job = await rig.make("", image=PICTURE, model="replicate/svd")
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert "submission.doubted" in await types(job)
    assert (ended(rig, "POST", "/predictions"), len(rig.twin.charges)) == (1, 1)


async def test_a_lost_request_is_not_sent_again_by_itself(rigs: Open) -> None:
    """That no list shows it proves nothing."""
    rig = await rigs()
    rig.line.losing = ["request"]
    job = await rig.make("", image=PICTURE, model="replicate/svd")
    parked = await until(job, "parked")
    assert parked.billed == "unknown"
    assert (ended(rig, "POST", "/predictions"), rig.twin.charges) == (0, [])
    assert ended(rig, "GET", "/predictions") >= 1


async def test_a_lost_answer_to_words_alone_is_parked_without_a_look(rigs: Open) -> None:
    rig = await rigs()
    rig.line.losing = ["answer"]
    parked = await until(await rig.make(), "parked")
    assert (parked.billed, len(rig.twin.charges)) == ("unknown", 1)
    assert (ended(rig, "GET", "/files"), ended(rig, "GET", "/predictions")) == (0, 0)


async def test_a_second_attempt_is_never_taken_for_the_first(rigs: Open) -> None:
    """The first arrives after it was given up, just before the second, whose answer is lost: the job is the second."""
    rig = await rigs()
    rig.line.losing = ["late", "answer"]
    job = await rig.make("", image=PICTURE, model="replicate/svd", at_least_once=1)
    await job.result(timeout_s=PATIENCE_S)
    assert len(rig.twin.charges) == 2
    marks = {name: file.metadata["rushes"] for name, file in rig.twin.files.items()}
    assert sorted(str(mark) for mark in marks.values()) == [f"{job.id}-1", f"{job.id}-2"]
    polled = {line.path.rpartition("/")[2] for line in rig.twin.ledger.requests if "/predictions/" in line.path}
    (taken,) = [made for made in rig.twin.predictions.values() if made.id in polled]
    assert marks[str(taken.input["input_image"]).rpartition("/")[2]] == f"{job.id}-2"


async def test_a_mark_that_two_attempts_share_is_no_evidence(rigs: Open) -> None:
    """The control of the test above: there it is the key alone that tells them apart."""
    rig = await rigs(adapter=OneMark())
    rig.line.losing = ["late", "answer"]
    job = await rig.make("", image=PICTURE, model="replicate/svd", at_least_once=1)
    assert (await until(job, "parked")).billed == "unknown"
    assert len(rig.twin.charges) == 2


# ── Faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rule",
    [
        ServerError(on="prepare", status=503, times=1),
        Cut(on="prepare", byte=40, times=1),
        ServerError(on="submit", status=502, after_accept=True, times=1),
        Drop(on="submit", after_work=True, times=1),
        Cut(on="submit", byte=5, times=1),
        NotFound(looks=2),
        StatusWord(word="pondering", times=2),
        StatusWord(word="starting", times=1),
        ServerError(on="status", times=1),
        Cut(on="download", byte=30, times=1),
        ExpiredUrl(times=1),
    ],
    ids=lambda rule: f"{rule.do} {rule.on}",
)
async def test_trouble_on_the_way_costs_nothing_more(rigs: Open, rule: LineRule | TwinRule) -> None:
    rig = await rigs(rule)
    job = await rig.make("", image=PICTURE, model="replicate/svd")
    result = await job.result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert len(rig.twin.charges) == 1
    assert any(line.fault for line in rig.twin.ledger.requests)


async def test_looks_that_fail_are_tried_again(rigs: Open) -> None:
    rig = await rigs(Cut(on="find", byte=20, times=1))
    rig.line.losing = ["answer"]
    job = await rig.make("", image=PICTURE, model="replicate/svd")
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert len(rig.twin.charges) == 1


@pytest.mark.parametrize(("word", "code"), [("forbidden", "moderated"), ("broken", "generation_failed")])
async def test_nobody_says_whether_a_failure_was_billed(rigs: Open, word: str, code: str) -> None:
    rig = await rigs()
    failed = await rig.failure(f"a {word} lake")
    assert (failed.code, failed.billed, len(rig.twin.charges)) == (code, "unknown", 1)


async def test_a_cancel_stops_it(rigs: Open) -> None:
    rig = await rigs(render_s=60.0)
    job = await rig.make()
    await until(job, "running")
    await job.cancel()
    view = await until(job, "cancelled")
    assert (view.billed, ended(rig, "POST", "/cancel")) == ("unknown", 1)
