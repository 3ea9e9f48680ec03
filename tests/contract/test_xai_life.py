"""A job's whole life with xAI: our system and client, the real adapter, and the twin behind a socket."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from acme import CLIP, no_probe

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Failed, Keep, Request, Response, Sink
from rushes.adapters.capabilities import PollSchedule, Terms
from rushes.adapters.http import Http
from rushes.adapters.xai import Xai
from rushes.assets import Assets
from rushes.emulators.base import serve_twin
from rushes.emulators.xai import XaiTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, Fault, JobFailed
from rushes.studio import Doors, Job, Result, Studio
from rushes.units import AssetRef
from rushes.video import JSON, Extend, JobView, MediaInput, Target, VideoSpec
from rushes.views.jobs import ReadonlyView

KEY = "kq-the-right-key-zw"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32
DATA = "data:image/png;base64," + base64.b64encode(PNG).decode()


class Clock:
    """Wall time that follows the loop's, and can be put forward."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def now(self) -> float:
        return round(1_700_000_000.0 + asyncio.get_running_loop().time() + self.skipped_s, 3)


class Eager(Xai):
    """The adapter, asking again at once."""

    def terms(self, spec: VideoSpec, target: Target) -> Terms:
        terms = super().terms(spec, target)
        return msgspec.structs.replace(terms, poll=PollSchedule(min_s=0.01, max_s=0.01))


class Line:
    """Our client. `lose`: the next answers to paid calls do not come back; `late_s`: the next file is fetched late."""

    def __init__(self, http: Http, clock: Clock) -> None:
        self.lose, self.late_s = 0, 0.0
        self._http, self._clock = http, clock

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        reply = await self._http.send(adapter, target, request)
        if request.spends and self.lose:
            self.lose -= 1
            raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        self._clock.skipped_s += self.late_s
        self.late_s = 0.0
        return await self._http.keep(adapter, target, ask, sink)


class Rig:
    """One twin, and one system before it."""

    def __init__(self, twin: XaiTwin, clock: Clock, line: Line, studio: Studio) -> None:
        self.twin, self.clock, self.line, self.studio = twin, clock, line, studio

    def skip(self, seconds: float) -> None:
        self.clock.skipped_s += seconds


async def _no_look(path: Path) -> tuple[int, int]:  # noqa: ARG001
    return 1, 1


@pytest.fixture
def key() -> str:
    """What we have for a key."""
    return KEY


@pytest.fixture
async def rig(tmp_path: Path, key: str) -> AsyncIterator[Rig]:
    clock, twin, adapters = Clock(), XaiTwin(clip=CLIP, key=KEY, render_s=100.0), {"xai": Eager()}
    server, store, assets = await serve_twin(twin, now=clock.now), MemoryStore(), Assets(tmp_path)
    credentials = {"XAI_API_KEY": key}
    async with Http(
        base_urls={"xai": server.url},
        credentials=credentials,
        read=lambda asset: assets.path(asset.key).read_bytes(),
        inner={},
        clock=clock,
    ) as http:
        line = Line(http, clock)
        performer = Performer(adapters, line, assets, clock, no_probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=clock)
        doors = Doors(
            fetch=http.fetch,
            look_at_image=_no_look,
            credentials=credentials,
            default_model="xai",
            unavailable=lambda _: None,
        )
        jobs = ReadonlyView(store)
        studio = Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=doors)
        await system.start()
        yield Rig(twin, clock, line, studio)
        await system.stop(grace_s=2.0)
    await server.close()


async def until(job: Job, holds: Callable[[JobView], bool]) -> JobView:
    """Follow a job until this holds of it."""
    async with asyncio.timeout(5), aclosing(job.updates()) as views:
        async for view in views:
            if holds(view):
                return view
    raise AssertionError("it ended without that")


async def running(job: Job) -> JobView:
    return await until(job, lambda view: view.phase == "running")


async def types(job: Job) -> list[str]:
    return [event.type for event in await job.events()]


async def finished(rig: Rig, job: Job) -> Result:
    await running(job)
    rig.skip(100.0)
    return await job.result(timeout_s=5)


async def failed(rig: Rig, prompt: str) -> JobFailed:
    job = await rig.studio.generate(prompt)
    await running(job)
    rig.skip(100.0)
    with pytest.raises(JobFailed) as failure:
        await job.result(timeout_s=5)
    return failure.value


async def test_words_become_a_clip_whose_price_is_known(rig: Rig) -> None:
    job = await rig.studio.generate("a lake", duration_seconds=1.0)
    await running(job)
    rig.skip(91.5)
    await until(job, lambda view: view.progress == 56)
    rig.skip(8.5)
    result = await job.result(timeout_s=5)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert result.job.cost is not None
    assert (result.job.cost.micro_usd, result.job.billed) == (50_000, "yes")
    assert [word for word in await types(job) if word != "progress.reported"] == [
        "job.requested",
        "submission.started",
        "submission.accepted",
        "generation.finished",
        "take.stored",
        "job.succeeded",
    ]
    assert len(rig.twin.charges) == 1


async def test_a_picture_is_sent_whole_as_the_first_frame(rig: Rig) -> None:
    result = await finished(rig, await rig.studio.generate("it moves", image=PNG))
    assert result.job.operation == "image-to-video"
    (clip,) = rig.twin.clips.values()
    assert clip.wishes["image"] == {"url": DATA}


async def test_a_first_frame_beside_references_is_refused_before_there_is_a_job(rig: Rig) -> None:
    inputs = (MediaInput(url=DATA), MediaInput(role="character", url=DATA))
    with pytest.raises(BadRequest) as refused:
        await rig.studio.generate("it moves", inputs=inputs)
    assert (refused.value.code, refused.value.field) == ("unsupported_feature", "inputs")
    assert rig.twin.ledger.requests == []


async def test_references_are_sent_in_the_order_that_they_were_given_in(rig: Rig) -> None:
    other = "data:image/png;base64," + base64.b64encode(PNG + b"another").decode()
    inputs = (MediaInput(role="style", url=other), MediaInput(role="character", url=DATA))
    result = await finished(rig, await rig.studio.generate("<IMAGE_1> and <IMAGE_2>", inputs=inputs))
    assert result.job.operation == "multi-image"
    (clip,) = rig.twin.clips.values()
    assert clip.wishes["reference_images"] == [{"url": other}, {"url": DATA}]


@pytest.mark.parametrize(
    ("operation", "what", "length"), [(None, "edits", {}), (Extend(), "extensions", {"duration": 6})]
)
async def test_a_take_of_an_own_job_is_changed_or_goes_on(
    rig: Rig, operation: Extend | None, what: str, length: dict[str, int]
) -> None:
    first = await rig.studio.generate("a lake")
    await finished(rig, first)
    source = MediaInput(type="video", job=first.id)
    result = await finished(rig, await rig.studio.generate("at night", operation=operation, inputs=(source,)))
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert (result.job.billed, result.job.request.duration_seconds) == ("yes", length.get("duration"))
    paths = [line.path for line in rig.twin.ledger.requests if line.method == "POST"]
    assert paths == ["/v1/videos/generations", f"/v1/videos/{what}"]
    data = "data:video/mp4;base64," + base64.b64encode(CLIP).decode()
    wishes = {"model": "grok-imagine-video", "prompt": "at night", "video": {"url": data}, **length}
    assert [clip.wishes for clip in rig.twin.clips.values()][1] == wishes


async def test_a_stored_file_is_fetched_with_the_key_where_there_is_no_other_address(rig: Rig) -> None:
    options: dict[str, JSON] = {"storage_filename": "lake.mp4"}
    result = await finished(rig, await rig.studio.generate("linkless", provider_options=options))
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert result.job.metadata["file_id"].startswith("file_")
    fetches = [line.status for line in rig.twin.ledger.requests if "/files/" in line.path]
    assert fetches == [401, 200]  # the key stays here until it is asked for


@pytest.mark.parametrize(
    ("word", "code", "billed"),
    [
        ("forbidden", "moderated", "yes"),
        ("disallowed", "moderated", "unknown"),
        ("broken", "generation_failed", "unknown"),
    ],
)
async def test_a_clip_that_is_not_given_fails_and_is_not_asked_for_again(
    rig: Rig, word: str, code: str, billed: str
) -> None:
    failure = await failed(rig, f"a {word} lake")
    assert (failure.code, failure.billed) == (code, billed)
    assert len(rig.twin.charges) == 1


async def test_a_cancel_is_answered_that_it_cannot_be_and_the_clip_is_kept(rig: Rig) -> None:
    job = await rig.studio.generate("a lake")
    await running(job)
    assert (await job.cancel()).cancel_requested
    rig.skip(100.0)
    result = await job.result(timeout_s=5)
    assert result.job.billed == "yes"
    (answered,) = [event for event in await job.events() if event.type == "cancel.answered"]
    assert msgspec.json.decode(answered.data)["answer"] == "cannot"
    asked = {line.method for line in rig.twin.ledger.requests}
    assert asked == {"POST", "GET"}


async def test_a_cancel_that_wants_nothing_kept_is_billed_all_the_same(rig: Rig) -> None:
    job = await rig.studio.generate("a lake")
    await running(job)
    await job.cancel(discard=True)
    rig.skip(100.0)
    ended = await until(job, lambda view: view.ended)
    assert (ended.status, ended.billed, ended.takes) == ("cancelled", "yes", [])


async def test_a_lost_answer_is_parked_and_never_sent_again(rig: Rig) -> None:
    rig.line.lose = 1
    job = await rig.studio.generate("a lake")
    parked = await until(job, lambda view: view.phase == "parked")
    assert (parked.billed, len(rig.twin.charges)) == ("unknown", 1)
    rig.skip(100.0)
    await job.collect(handle=rig.twin.charges[0])  # a person found its id
    assert (await job.result(timeout_s=5)).job.billed == "yes"
    assert len(rig.twin.charges) == 1


async def test_a_link_that_stopped_working_is_asked_for_anew(rig: Rig) -> None:
    rig.line.late_s = 3_700.0
    job = await rig.studio.generate("a lake")
    await running(job)
    rig.skip(100.0)
    assert len((await job.result(timeout_s=5)).videos) == 1
    assert (await types(job)).count("links.refreshed") == 1
    assert len(rig.twin.charges) == 1


async def test_a_request_that_has_expired_fails_and_says_so(rig: Rig) -> None:
    job = await rig.studio.generate("a lake")
    await running(job)
    rig.skip(86_400.0)
    with pytest.raises(JobFailed) as failure:
        await job.result(timeout_s=5)
    assert (failure.value.code, failure.value.billed) == ("asset_expired", "unknown")


@pytest.mark.parametrize("key", ["kq-a-wrong-key-zw"])
async def test_a_wrong_key_costs_nothing_and_stands_nowhere(rig: Rig, key: str) -> None:
    job = await rig.studio.generate("a lake")
    with pytest.raises(JobFailed) as failure:
        await job.result(timeout_s=5)
    assert (failure.value.code, failure.value.billed) == ("authentication_failed", "no")
    assert rig.twin.charges == []
    told = msgspec.json.encode(await job.events()).decode()
    assert key not in told
    assert "kq***zw" not in told
