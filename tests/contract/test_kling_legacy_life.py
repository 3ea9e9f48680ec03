"""Kling's old wire in the real system, over the real client and a socket, against its twin."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from msgspec.structs import replace

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Failed, Keep, Request, Response, Sink
from rushes.adapters.capabilities import PollSchedule
from rushes.adapters.http import PART, Http
from rushes.adapters.kling import Kling
from rushes.adapters.kling_legacy import KlingLegacy
from rushes.assets import Assets
from rushes.emulators.base import serve_twin
from rushes.emulators.kling_legacy import KlingLegacyTwin
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, Fault, JobFailed
from rushes.studio import Doors, Job, Studio
from rushes.units import AssetRef
from rushes.video import Effect, Extend, JobView, LipSync, MediaInput, Probe, Role, Target
from rushes.views.jobs import ReadonlyView

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
CLIP = b"\0\0\0\x18ftypisom" + b"\0" * 200
PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
SPEECH = b"ID3" + b"\0" * 40
ACCESS, SECRET = "an-access-key", "a-secret-key"
PAIR = "KLING_ACCESS_KEY+KLING_SECRET_KEY"
PATIENCE_S = 5.0


class Hasty(KlingLegacy):
    """The adapter as it is, but for its pace."""

    capabilities = replace(
        KlingLegacy.capabilities,
        terms=replace(
            KlingLegacy.capabilities.terms,
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
        self._http, self.fetch = http, http.fetch
        self.losing: list[str] = []  # of the next paid calls: the "answer" or the "request"
        self.before_keep: Callable[[], None] = lambda: None

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        what = self.losing.pop(0) if request.spends and self.losing else ""
        if what != "request":
            reply = await self._http.send(adapter, target, request)
        if what:
            raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        self.before_keep()
        return await self._http.keep(adapter, target, ask, sink)


class Rig:
    """A studio over one twin, whose process may be replaced."""

    def __init__(self, twin: KlingLegacyTwin, line: Trouble, clock: Clock, assets: Assets) -> None:
        self.twin, self.line, self.clock, self._assets = twin, line, clock, assets
        self._store = MemoryStore()

    async def start(self) -> None:
        """A process of its own over the log that there is."""
        adapters: dict[str, Adapter] = {"kling": Kling(), "kling_legacy": Hasty()}
        performer = Performer(adapters, self.line, self._assets, self.clock, _no_probe)
        self._system = System(store=self._store, adapters=adapters, performer=performer, clock=self.clock)
        doors = Doors(
            fetch=self.line.fetch,
            look_at_image=_look,
            credentials={PAIR: ACCESS + PART + SECRET},
            default_model="kling_legacy",
            unavailable=lambda _: None,
        )
        self.studio = Studio(
            system=self._system,
            jobs=ReadonlyView(self._store),
            adapters=adapters,
            assets=self._assets,
            clock=self.clock,
            doors=doors,
        )
        await self._system.start()

    async def stop(self, grace_s: float = 2.0) -> None:
        await self._system.stop(grace_s)

    async def make(self, prompt: str = "a lake", **fields: Any) -> Job:
        return await self.studio.generate(prompt, **fields)

    async def done(self, prompt: str = "a lake", **fields: Any) -> JobView:
        return (await (await self.make(prompt, **fields)).result(timeout_s=PATIENCE_S)).job

    async def failure(self, job: Job) -> JobFailed:
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout_s=PATIENCE_S)
        return failed.value

    def creates(self) -> int:
        """How many creates came."""
        return sum(line.method == "POST" for line in self.twin.ledger.requests)

    def body(self) -> Any:
        """Of the last task."""
        return list(self.twin.tasks.values())[-1].body


Open = Callable[[KlingLegacyTwin], Awaitable[Rig]]


def twin(**changes: Any) -> KlingLegacyTwin:
    made: dict[str, Any] = {"start_s": 0.0, "render_s": 0.05, "key": "another", **changes}
    return KlingLegacyTwin(clip=CLIP, access_key=ACCESS, secret_key=SECRET, **made)


async def _no_probe(path: Path) -> Probe:  # noqa: ARG001
    return Probe()


async def _look(path: Path) -> tuple[int, int]:  # noqa: ARG001
    return 512, 512


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_rig(twin: KlingLegacyTwin) -> Rig:
            clock, assets = Clock(), Assets(tmp_path)
            server = await serve_twin(twin, now=clock.now)
            stack.push_async_callback(server.close)
            http = Http(
                base_urls={"kling_legacy": server.url},
                credentials={PAIR: ACCESS + PART + SECRET},
                read=lambda asset: assets.path(asset.key).read_bytes(),
                inner={},
                clock=clock,
            )
            rig = Rig(twin, Trouble(await stack.enter_async_context(http)), clock, assets)
            await rig.start()
            stack.push_async_callback(rig.stop)
            return rig

        yield open_rig


async def until(job: Job, phase: str, *, noted: bool = False) -> JobView:
    async with asyncio.timeout(PATIENCE_S), aclosing(job.updates()) as views:
        async for view in views:
            if view.phase == phase and bool(view.note) >= noted:
                return view
    raise AssertionError(f"it ended without being {phase}")


async def types(job: Job) -> Sequence[str]:
    return [event.type for event in await job.events()]


def take_of(job: JobView) -> MediaInput:
    return MediaInput(type="video", job=job.id)


# ── Clips ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_words_become_a_take_by_two_keys(opened: Open) -> None:
    rig = await opened(twin())
    job = await rig.done(aspect_ratio="9:16", resolution="1080p", negative_prompt="rain", guidance_scale=0.7)
    assert Path(job.takes[0].path).read_bytes() == CLIP
    assert (job.provider, job.model, job.billed) == ("kling_legacy", "kling-v1", "yes")
    assert job.metadata["billing"] == "3.5 units"
    (task,) = rig.twin.tasks.values()
    assert job.metadata["video_id"] == f"868{task.id[3:]}"
    assert (task.external_id, task.body["mode"], task.body["cfg_scale"]) == (f"{job.id}-1", "pro", 0.7)


async def test_pictures_arrive_as_bare_base64(opened: Open) -> None:
    rig = await opened(twin())
    await rig.done("", image=PICTURE)
    assert rig.body()["image"] == b64encode(PICTURE).decode()


async def references(rig: Rig, *roles: Role) -> tuple[MediaInput, ...]:
    async def once(content: bytes) -> AsyncIterator[bytes]:
        yield content

    ups = [await rig.studio.upload(once(PICTURE + role.encode())) for role in roles]
    return tuple(MediaInput(role=role, upload=up.id) for role, up in zip(roles, ups, strict=True))


async def test_references_become_a_clip_of_all_of_them(opened: Open) -> None:
    rig = await opened(twin())
    given = await references(rig, "character", "style")
    job = await rig.done("they meet", inputs=given, model="kling-v1-6")
    assert (job.operation, len(rig.body()["image_list"])) == ("multi-image", 2)


async def test_a_clip_goes_from_words_over_two_extensions_to_other_words_on_its_lips(opened: Open) -> None:
    rig = await opened(twin())
    first = await rig.done()
    longer = await rig.done("", operation=Extend(), inputs=(take_of(first),))
    longest = await rig.done("on", operation=Extend(), inputs=(take_of(longer),))
    spoken = await rig.done("", operation=LipSync("hello", "v"), inputs=(take_of(first),), model="lip-sync")
    sources = [task.id for task in rig.twin.tasks.values()]
    assert [task.path for task in rig.twin.tasks.values()] == ["text2video", "video-extend", "video-extend", "lip-sync"]
    assert (longest.operation, spoken.operation) == ("extend", "lip-sync")
    bodies = [task.body for task in rig.twin.tasks.values()]
    assert [body.get("video_id") for body in bodies[1:3]] == [f"868{source[3:]}" for source in sources[:2]]
    assert bodies[3]["input"] == {
        "video_id": f"868{sources[0][3:]}",
        "mode": "text2video",
        "text": "hello",
        "voice_id": "v",
    }


async def test_a_clip_and_an_audio_alone_mean_its_lips(opened: Open) -> None:
    rig = await opened(twin())
    first = await rig.done()
    job = await rig.done("", audio=SPEECH, inputs=(take_of(first),), model="lip-sync")
    assert job.operation == "lip-sync"
    assert rig.body()["input"]["audio_file"] == b64encode(SPEECH).decode()


async def test_an_effect_is_done_between_two_pictures(opened: Open) -> None:
    rig = await opened(twin())
    given = await references(rig, "first_frame")
    job = await rig.done("", image=PICTURE, inputs=given, operation=Effect("hug"), resolution="1080p")
    assert (job.operation, job.model) == ("effect", "kling-v1")
    assert (len(rig.body()["input"]["images"]), rig.body()["effect_scene"]) == (2, "hug")


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_klings_name_alone_means_its_old_wire_for_what_the_new_one_cannot(opened: Open) -> None:
    """It is not asked for the new wire's key either."""
    rig = await opened(twin())
    first = await rig.done()
    longer = await rig.done("", operation=Extend(), inputs=(take_of(first),), model="kling")
    assert (longer.provider, longer.model) == ("kling_legacy", "kling-v1")
    assert longer.metadata["requested_model"] == "kling"
    squished = await rig.done("", image=PICTURE, operation=Effect("squish"), model="kling")
    assert squished.model == "kling-v1-6"  # the first that has it
    spoken = await rig.done("", operation=LipSync("hello", "v"), inputs=(take_of(first),), model="klingai")
    assert (spoken.model, spoken.metadata["requested_model"]) == ("lip-sync", "klingai")


@pytest.mark.parametrize("model", ["kling", "kling/kling-3.0"])
async def test_control_what_the_new_wire_can_or_is_named_for_stays_there(opened: Open, model: str) -> None:
    rig = await opened(twin())
    with pytest.raises(BadRequest) as refused:
        await rig.make(model=model)
    assert (refused.value.code, refused.value.field) == ("authentication_failed", "model")
    assert "KLINGAI_API_KEY" in refused.value.detail
    assert rig.twin.ledger.requests == []


# ── Refusals at the door ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_clip_from_elsewhere_is_refused_before_anything_is_asked(opened: Open) -> None:
    rig = await opened(twin())
    with pytest.raises(BadRequest) as wrong:
        await rig.make("", video=CLIP, operation=Extend())
    assert (wrong.value.field, wrong.value.code) == ("inputs[0]", "unsupported_feature")
    assert (await rig.studio.jobs()).jobs == []
    assert rig.twin.ledger.requests == []


async def test_a_clip_is_extended_by_the_model_that_made_it(opened: Open) -> None:
    rig = await opened(twin())
    newer = await rig.done(model="kling-v1-6")
    with pytest.raises(BadRequest, match="kling-v1-6"):
        await rig.make("", operation=Extend(), inputs=(take_of(newer),))
    job = await rig.done("", operation=Extend(), inputs=(take_of(newer),), model="kling-v1-6")
    assert job.billed == "yes"


async def test_what_was_not_made_of_words_or_pictures_is_not_extended(opened: Open) -> None:
    rig = await opened(twin())
    spoken = await rig.done("", image=PICTURE, operation=Effect("squish"), model="kling-v1-6")
    with pytest.raises(BadRequest) as wrong:
        await rig.make("", operation=Extend(), inputs=(take_of(spoken),), model="kling-v1-6")
    assert wrong.value.field == "inputs"
    assert len(rig.twin.charges) == 1


async def test_a_take_that_is_gone_there_ends_the_job_unpaid(opened: Open) -> None:
    rig = await opened(twin())
    first = await rig.done()
    rig.twin.tasks.clear()
    failed = await rig.failure(await rig.make("", operation=Extend(), inputs=(take_of(first),)))
    assert (failed.code, failed.billed) == ("asset_expired", "no")
    assert len(rig.twin.charges) == 1


# ── Endings ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("word", "code"), [("forbidden", "moderated"), ("withheld", "moderated"), ("broken", "generation_failed")]
)
async def test_moderation_and_failure_cost_nothing(opened: Open, word: str, code: str) -> None:
    rig = await opened(twin())
    failed = await rig.failure(await rig.make(f"a {word} lake"))
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


async def test_an_address_that_has_expired_is_asked_for_anew(opened: Open) -> None:
    rig = await opened(twin(link_s=60.0))

    def an_hour_later() -> None:
        rig.clock.ahead_s, rig.line.before_keep = 3600.0, lambda: None

    rig.line.before_keep = an_hour_later
    job = await rig.make()
    assert Path((await job.result(timeout_s=PATIENCE_S)).videos[0].path).read_bytes() == CLIP
    assert (await types(job)).count("links.refreshed") == 1
    assert len(rig.twin.charges) == 1


# ── Lost answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lost_answer_is_found_by_our_key_and_paid_once(opened: Open) -> None:
    rig = await opened(twin())
    rig.line.losing = ["answer"]
    job = await rig.make("", image=PICTURE)
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert "submission.doubted" in await types(job)
    assert (rig.creates(), len(rig.twin.charges)) == (1, 1)


async def test_a_lost_request_is_sent_again_under_the_same_key(opened: Open) -> None:
    rig = await opened(twin())
    rig.line.losing = ["request"]
    job = await rig.make()
    await job.result(timeout_s=PATIENCE_S)
    assert (await types(job)).count("submission.started") == 2
    assert [task.external_id for task in rig.twin.tasks.values()] == [f"{job.id}-1"]


async def test_a_lost_extension_waits_for_a_person_and_is_collected_by_its_id(opened: Open) -> None:
    rig = await opened(twin())
    first = await rig.done()
    rig.line.losing = ["answer"]
    job = await rig.make("", operation=Extend(), inputs=(take_of(first),))
    view = await until(job, "parked")
    assert (view.billed, rig.creates()) == ("unknown", 2)
    lost = next(task.id for task in rig.twin.tasks.values() if task.path == "video-extend")
    await rig.studio.collect(job.id, handle=lost)
    assert (await job.result(timeout_s=PATIENCE_S)).job.billed == "yes"
    assert rig.creates() == 2


async def test_a_process_that_begins_anew_asks_on_in_the_family_of_each_job(opened: Open) -> None:
    rig = await opened(twin(render_s=0.6))
    made = (
        await rig.make("", image=PICTURE, model="kling-v1-6"),
        await rig.make("", image=PICTURE, operation=Effect("squish"), model="kling-v1-6"),
    )
    for job in made:
        await until(job, "running")
    await rig.stop(0.0)
    rig.twin.ledger.requests.clear()
    await rig.start()
    for job in made:
        assert (await rig.studio.job(job.id).result(timeout_s=PATIENCE_S)).job.billed == "yes"
    asked = {line.path.rpartition("/")[0] for line in rig.twin.ledger.requests if line.method == "GET"}
    assert {path for path in asked if path.startswith("/v1")} == {"/v1/videos/image2video", "/v1/videos/effects"}
    assert (rig.creates(), len(rig.twin.charges)) == (0, 2)


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_is_made_anew_before_it_ends(opened: Open) -> None:
    rig = await opened(twin())
    await rig.done()
    rig.clock.ahead_s = 1_745.0  # less than a minute is left of its half hour
    await rig.done()
    rig.clock.ahead_s += 1_800.0
    await rig.done()
    assert {line.status for line in rig.twin.ledger.requests} == {200}


async def test_a_token_whose_time_is_not_the_services_is_no_end_of_a_job(opened: Open) -> None:
    """Their clock falls behind: the send is refused for certain, and will be tried again with another token."""
    rig = await opened(twin())
    rig.clock.ahead_s = 60.0
    await rig.done()
    rig.clock.ahead_s = 0.0
    job = await rig.make()
    view = await until(job, "queued", noted=True)
    assert (view.phase, view.billed) == ("queued", "no")
    assert [line.status for line in rig.twin.ledger.requests if line.method == "POST"] == [200, 401]


async def test_no_event_holds_a_key(opened: Open) -> None:
    rig = await opened(twin())
    job = await rig.make()
    await job.result(timeout_s=PATIENCE_S)
    said = b"".join(bytes(event.data) for event in await job.events())
    assert PAIR.encode() in said
    assert not any(key.encode() in said for key in (ACCESS, SECRET))
