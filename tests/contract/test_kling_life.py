"""Kling's adapter in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import structlog
from msgspec.structs import replace

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Failed, Keep, Request, Response, Sink
from rushes.adapters.capabilities import PollSchedule
from rushes.adapters.http import Http
from rushes.adapters.kling import Kling
from rushes.assets import Assets
from rushes.emulators.base import serve_twin
from rushes.emulators.kling import KlingTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, Fault, JobFailed
from rushes.studio import Doors, Job, Studio
from rushes.units import AssetRef
from rushes.video import JobView, MediaInput, Probe, Role, Target
from rushes.views.jobs import ReadonlyView

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
CLIP = b"\0\0\0\x18ftypisom" + b"\0" * 200
PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
SECRET = "a-key-of-kling"
PATIENCE_S = 5.0


class Hasty(Kling):
    """The adapter as it is, but for its pace."""

    capabilities = replace(
        Kling.capabilities,
        terms=replace(
            Kling.capabilities.terms,
            poll=PollSchedule(min_s=0.02, max_s=0.02),
            settle_s=0.1,
            looks_s=(0.02, 0.06, 0.12),
        ),
    )


class Clock:
    """The wall's, moved on by hand."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        return round(time.time() + self.ahead_s, 3)


class Trouble:
    """The real client, and what gets lost on the way."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.losing: list[str] = []  # of the next paid calls: the "answer", the "request"; or it is "late"
        self.lost: list[Request] = []  # what arrives just before the next
        self.before_keep: Callable[[], None] = lambda: None

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        if not request.spends:
            return await self._http.send(adapter, target, request)
        await self._arrive(adapter, target)
        what = self.losing.pop(0) if self.losing else ""
        if what == "late":
            self.lost.append(request)
        if what in ("", "answer"):
            reply = await self._http.send(adapter, target, request)
        if what:
            raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        return reply

    async def _arrive(self, adapter: Adapter, target: Target) -> None:
        while self.lost:
            await self._http.send(adapter, target, self.lost.pop())

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        self.before_keep()
        return await self._http.keep(adapter, target, ask, sink)


class Rig:
    """A studio over one twin."""

    def __init__(self, twin: KlingTwin, studio: Studio, line: Trouble, clock: Clock) -> None:
        self.twin, self.studio, self.line, self.clock = twin, studio, line, clock

    async def make(self, prompt: str = "a lake", **fields: Any) -> Job:
        return await self.studio.generate(prompt, **fields)

    async def failure(self, prompt: str) -> JobFailed:
        with pytest.raises(JobFailed) as failed:
            await (await self.make(prompt)).result(timeout_s=PATIENCE_S)
        return failed.value

    def creates(self) -> int:
        """How many creates came."""
        return sum(line.method == "POST" for line in self.twin.ledger.requests)


Open = Callable[[KlingTwin], Awaitable[Rig]]


def twin(**changes: Any) -> KlingTwin:
    return KlingTwin(clip=CLIP, key=SECRET, **{"start_s": 0.0, "render_s": 0.05, **changes})


async def _no_probe(path: Path) -> Probe:  # noqa: ARG001
    return Probe()


async def _look(path: Path) -> tuple[int, int]:  # noqa: ARG001
    return 512, 512


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(twin: KlingTwin) -> Rig:
            clock, assets, store = Clock(), Assets(tmp_path), MemoryStore()
            server = await serve_twin(twin, now=clock.now)
            stack.push_async_callback(server.close)
            keys, adapters = {"KLINGAI_API_KEY": SECRET}, dict[str, Adapter](kling=Hasty())
            http = Http(
                base_urls={"kling": server.url},
                credentials=keys,
                read=lambda asset: assets.path(asset.key).read_bytes(),
                inner={},
                clock=clock,
            )
            line = Trouble(await stack.enter_async_context(http))
            performer = Performer(adapters, line, assets, clock, _no_probe)
            system = System(store=store, adapters=adapters, performer=performer, clock=clock)
            doors = Doors(
                fetch=http.fetch,
                look_at_image=_look,
                credentials=keys,
                default_model="kling",
                unavailable=lambda _: None,
            )
            jobs = ReadonlyView(store)
            studio = Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=doors)
            await system.start()
            stack.push_async_callback(system.stop, 2.0)
            return Rig(twin, studio, line, clock)

        yield open_rig


async def until(job: Job, phase: str) -> JobView:
    async with aclosing(job.updates()) as views:
        async for view in views:
            if view.phase == phase:
                return view
    raise AssertionError(f"it ended without being {phase}")


async def types(job: Job) -> Sequence[str]:
    return [event.type for event in await job.events()]


async def test_words_become_a_take_with_its_bill(opened: Open) -> None:
    rig = await opened(twin())
    result = await (await rig.make(aspect_ratio="9:16", resolution="1080p")).result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert result.job.cost is not None
    assert (result.job.cost.micro_usd, result.job.cost.units, result.job.billed) == (700_000, 5.0, "yes")
    (task,) = rig.twin.tasks.values()
    assert task.body["settings"] == {"resolution": "1080p", "duration": 5, "aspect_ratio": "9:16"}
    assert task.external_id == f"{result.job.id}-1"


async def test_pictures_arrive_as_bare_base64(opened: Open) -> None:
    rig = await opened(twin())
    last = MediaInput(role="last_frame", url="data:image/png;base64," + b64encode(PICTURE + b"2").decode())
    job = await rig.make("", image=PICTURE, inputs=(last,), model="kling/kling-3.0")
    await job.result(timeout_s=PATIENCE_S)
    (task,) = rig.twin.tasks.values()
    frames = {"last_frame": b64encode(PICTURE + b"2").decode(), "first_frame": b64encode(PICTURE).decode()}
    assert task.path == "image-to-video/kling-3.0"
    contents = cast("list[dict[str, str]]", task.body["contents"])
    assert {one["type"]: one["url"] for one in contents} == frames


def frame(role: Role, mark: bytes) -> MediaInput:
    return MediaInput(role=role, url="data:image/png;base64," + b64encode(PICTURE + mark).decode())


async def test_references_become_a_clip_of_all_of_them(opened: Open) -> None:
    rig = await opened(twin())
    given = (frame("character", b"1"), frame("style", b"2"))
    job = await rig.make("@input_1 in the style of @input_2", inputs=given, model="kling/kling-v3-omni")
    result = await job.result(timeout_s=PATIENCE_S)
    (task,) = rig.twin.tasks.values()
    contents = cast("list[dict[str, str]]", task.body["contents"])
    assert (result.job.operation, result.job.model, task.path) == (
        "multi-image",
        "kling-3.0-omni",
        "omni-video/kling-3.0-omni",
    )
    assert [one["type"] for one in contents] == ["prompt", "refer_image", "refer_image"]


async def test_a_take_of_an_own_job_is_made_over_and_another_acts_after_it(opened: Open) -> None:
    """The clip itself stays where it is: what travels is its address, which was asked for just before."""
    rig = await opened(twin())
    first = await rig.make()
    await first.result(timeout_s=PATIENCE_S)
    over = (MediaInput(type="video", job=first.id),)
    second = await rig.make("the same by night", inputs=over, model="kling/kling-o1")
    acted = (frame("character", b"1"), MediaInput(type="video", role="performance", job=first.id))
    third = await rig.make("she bows", inputs=acted, model="kling/kling-3.0")
    for job in (second, third):
        assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
        assert "inputs.prepared" in await types(job)
    source, made, danced = rig.twin.tasks.values()
    assert [task.path for task in (made, danced)] == ["omni-video/kling-o1", "motion-control/kling-3.0"]
    for task in (made, danced):
        contents = cast("list[dict[str, str]]", task.body["contents"])
        (address,) = [one["url"] for one in contents if one["type"] in {"base_video", "video"}]
        assert address.endswith(f"/files/{source.id}/0.mp4")


async def test_a_clip_from_elsewhere_is_refused_at_the_door(opened: Open) -> None:
    rig = await opened(twin())
    clip = MediaInput(type="video", url="data:video/mp4;base64," + b64encode(CLIP).decode())
    with pytest.raises(BadRequest) as wrong:
        await rig.make("by night", inputs=(clip,), model="kling/kling-o1")
    assert (wrong.value.field, wrong.value.code) == ("inputs[0]", "unsupported_feature")
    assert (await rig.studio.jobs()).jobs == []
    assert rig.twin.ledger.requests == []


async def test_a_take_that_is_gone_there_ends_the_job_unpaid(opened: Open) -> None:
    rig = await opened(twin())
    first = await rig.make()
    await first.result(timeout_s=PATIENCE_S)
    rig.twin.tasks.clear()
    again = (MediaInput(type="video", job=first.id),)
    job = await rig.make("by night", inputs=again, model="kling/kling-o1")
    with pytest.raises(JobFailed) as failed:
        await job.result(timeout_s=PATIENCE_S)
    assert (failed.value.code, failed.value.billed) == ("asset_expired", "no")
    assert len(rig.twin.charges) == 1


async def test_contradictions_are_refused_at_the_door(opened: Open) -> None:
    rig = await opened(twin())
    with pytest.raises(BadRequest) as wrong:
        await rig.make("a lake", image=PICTURE, aspect_ratio="16:9")
    assert (wrong.value.field, wrong.value.code) == ("aspect_ratio", "unsupported_feature")
    assert (await rig.studio.jobs()).jobs == []
    assert rig.twin.ledger.requests == []


@pytest.mark.parametrize(
    ("word", "code"), [("forbidden", "moderated"), ("withheld", "moderated"), ("broken", "generation_failed")]
)
async def test_moderation_and_failure_cost_nothing(opened: Open, word: str, code: str) -> None:
    rig = await opened(twin())
    failed = await rig.failure(f"a {word} lake")
    assert (failed.code, failed.billed) == (code, "no")
    assert rig.twin.charges == []


async def test_a_cancel_is_answered_truly_and_the_take_is_kept(opened: Open) -> None:
    rig = await opened(twin(render_s=0.3))
    job = await rig.make()
    await until(job, "running")
    await job.cancel()
    assert len((await job.result(timeout_s=PATIENCE_S)).videos) == 1
    answered = next(event for event in await job.events() if event.type == "cancel.answered")
    assert msgspec.json.decode(answered.data)["answer"] == "cannot"


async def test_a_lost_answer_is_found_by_our_key_and_paid_once(opened: Open) -> None:
    rig = await opened(twin())
    rig.line.losing = ["answer"]
    job = await rig.make()
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert "submission.doubted" in await types(job)
    assert (rig.creates(), len(rig.twin.charges)) == (1, 1)


@pytest.mark.parametrize("unknown", ["empty", "refused"])
async def test_a_lost_request_is_sent_again_under_the_same_key(opened: Open, unknown: str) -> None:
    rig = await opened(twin(unknown=unknown))
    rig.line.losing = ["request"]
    job = await rig.make()
    await job.result(timeout_s=PATIENCE_S)
    assert (await types(job)).count("submission.started") == 2
    assert [task.external_id for task in rig.twin.tasks.values()] == [f"{job.id}-1"]


@pytest.mark.parametrize("duplicate", ["refused", "same"])
async def test_a_request_that_comes_after_it_was_missed_is_paid_once(opened: Open, duplicate: str) -> None:
    """It arrives just before the second one, which carries the same key."""
    rig = await opened(twin(duplicate=duplicate))
    rig.line.losing = ["late"]
    job = await rig.make()
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert (rig.creates(), len(rig.twin.charges)) == (2, 1)
    assert (await types(job)).count("submission.doubted") == (2 if duplicate == "refused" else 1)


async def test_an_address_that_has_expired_is_asked_for_anew(opened: Open) -> None:
    rig = await opened(twin(link_s=60.0))

    def an_hour_later() -> None:
        rig.clock.ahead_s, rig.line.before_keep = 3600.0, lambda: None

    rig.line.before_keep = an_hour_later
    job = await rig.make()
    result = await job.result(timeout_s=PATIENCE_S)
    assert Path(result.videos[0].path).read_bytes() == CLIP
    assert (await types(job)).count("links.refreshed") == 1
    assert len(rig.twin.charges) == 1


async def test_no_event_holds_the_key(opened: Open) -> None:
    rig = await opened(twin())
    job = await rig.make()
    await job.result(timeout_s=PATIENCE_S)
    said = b"".join(bytes(event.data) for event in await job.events())
    assert b"KLINGAI_API_KEY" in said
    assert SECRET.encode() not in said
