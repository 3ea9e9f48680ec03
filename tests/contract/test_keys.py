"""An idempotency key stands for one request: told apart by what it says, and never by fetching it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from acme import Acme, AcmeTwin, LoopClock, Wire, no_probe
from msgspec.structs import replace

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Failed
from rushes.adapters.capabilities import STRING
from rushes.assets import Assets
from rushes.eventstore.base import EventStore
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import BadRequest, Conflict, Fault
from rushes.studio import Doors, Studio
from rushes.video import MediaInput, VideoRequest, decode
from rushes.views.jobs import ReadonlyView

RED, BLUE = b"\x89PNG\r\n\x1a\n red", b"\x89PNG\r\n\x1a\n blue"
LAKE = VideoRequest(prompt="a lake", inputs=(MediaInput(url="https://a.example/1.png"),))


class Pictures(Acme):
    """The provider, for pictures too."""

    capabilities = replace(
        Acme.capabilities,
        models=(
            replace(
                Acme.capabilities.models[0],
                operations=("text-to-video", "image-to-video"),
                roles={"first_frame": 1},
                options={"style": STRING, "tags": STRING},
            ),
        ),
    )


class Web:
    """Addresses, and who asked for them."""

    def __init__(self) -> None:
        self.pages = {
            "https://a.example/1.png": RED,
            "https://b.example/copy.png": RED,
            "https://b.example/2.png": BLUE,
        }
        self.fetched: list[str] = []

    async def fetch(self, url: str, max_bytes: int) -> AsyncGenerator[bytes]:  # noqa: ARG002 - as any fetch
        self.fetched.append(url)
        await asyncio.sleep(0)
        if url not in self.pages:
            raise Failed(Fault("not_found", "There is nothing there."))
        yield self.pages[url]


class Rig:
    """A provider and a web, around stores that come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.twin, self.web = folder, AcmeTwin(), Web()

    @asynccontextmanager
    async def studio(self, store: EventStore | None = None) -> AsyncIterator[Studio]:
        adapters: dict[str, Adapter] = {"acme": Pictures()}
        clock, assets, store = LoopClock(), Assets(self.folder), store or MemoryStore()
        performer = Performer(adapters, Wire(self.twin), assets, clock, no_probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=clock)
        doors = Doors(
            fetch=self.web.fetch,
            look_at_image=_looks_good,
            credentials={},
            default_model="acme",
            unavailable=lambda _: None,
        )
        await system.start()
        yield Studio(
            system=system, jobs=ReadonlyView(store), adapters=adapters, assets=assets, clock=clock, doors=doors
        )
        await system.stop(grace_s=2.0)
        await store.close()


async def _looks_good(path: Path) -> tuple[int, int]:  # noqa: ARG001 - as any look
    return 1, 1


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def done(studio: Studio, job_id: str) -> None:
    await studio.job(job_id).result(timeout_s=5)


# ── media ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_that_comes_again_fetches_nothing_and_may_name_what_is_gone(rig: Rig) -> None:
    async with rig.studio() as studio:
        first, replayed = await studio.submit(LAKE, "k")
        assert not replayed
        rig.web.pages.clear()
        again, replayed = await studio.submit(LAKE, "k")
        assert (again.id, replayed) == (first.id, True)
        assert len(rig.web.fetched) == 1
        with pytest.raises(BadRequest) as dead:  # the control: it is the key that saves it
            await studio.submit(LAKE, "another")
        assert dead.value.field == "inputs[0].url"
        await done(studio, first.id)


async def test_another_address_is_fetched_and_compared_by_what_it_holds(rig: Rig) -> None:
    async with rig.studio() as studio:
        first, _ = await studio.submit(LAKE, "k")
        copy = replace(LAKE, inputs=(MediaInput(url="https://b.example/copy.png"),))
        same, replayed = await studio.submit(copy, "k")
        assert (same.id, replayed) == (first.id, True)
        with pytest.raises(Conflict) as other:
            await studio.submit(replace(LAKE, inputs=(MediaInput(url="https://b.example/2.png"),)), "k")
        assert (other.value.job_id, other.value.idempotency_key) == (first.id, "k")
        upload = await studio.upload(_chunks(RED))
        assert (await studio.submit(replace(LAKE, inputs=(MediaInput(upload=upload.id),)), "k"))[1]
        with pytest.raises(BadRequest):
            await studio.submit(replace(LAKE, inputs=(MediaInput(url="https://nowhere.example/"),)), "k")
        await done(studio, first.id)
    assert len(rig.twin.renders) == 1


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_an_address_that_changes_what_it_holds_is_still_the_same_request(rig: Rig) -> None:
    async with rig.studio() as studio:
        first, _ = await studio.submit(LAKE, "k")
        rig.web.pages["https://a.example/1.png"] = BLUE
        assert (await studio.submit(LAKE, "k"))[0].id == first.id
        await done(studio, first.id)


async def test_fifty_at_once_are_one_job_also_where_the_address_answers_once(rig: Rig) -> None:
    class Moody(Web):
        async def fetch(self, url: str, max_bytes: int) -> AsyncGenerator[bytes]:
            picture = await anext(super().fetch(url, max_bytes))
            if len(self.fetched) > 1 and self.answered:
                await asyncio.sleep(0.05)
                raise Failed(Fault("rate_limited", "Too many."))
            self.answered = True
            yield picture

        answered = False

    rig.web = Moody()
    async with rig.studio() as studio:
        answers = await asyncio.gather(*[studio.submit(LAKE, "k") for _ in range(50)])
        assert len({view.id for view, _ in answers}) == 1
        assert sorted(replayed for _, replayed in answers) == [False] + [True] * 49
        await done(studio, answers[0][0].id)
    assert len(rig.twin.renders) == 1


async def test_a_key_outlives_the_process_in_a_real_file(rig: Rig) -> None:
    log = rig.folder / "rushes.db"
    async with rig.studio(await SqliteStore.open(log)) as studio:
        first, _ = await studio.submit(LAKE, "k")
        await done(studio, first.id)
    rig.web.pages.clear()
    async with rig.studio(await SqliteStore.open(log)) as studio:
        again, replayed = await studio.submit(LAKE, "k")
        assert (again.id, again.status, replayed) == (first.id, "succeeded", True)
        with pytest.raises(Conflict) as other:
            await studio.submit(VideoRequest(prompt="a hill"), "k")
        assert other.value.billed == "yes"  # what the job that it names has cost
    assert (len(rig.twin.renders), len(rig.web.fetched)) == (1, 1)


# ── the body ──────────────────────────────────────────────────────────────────────────────────────────────────────────

FULL = b'{"prompt": "a lake", "seed": 7, "duration_seconds": 5, "provider_options": {"style": "a", "tags": "b"}}'
SAME = {
    "the same": FULL,
    "another order and spacing": (
        b'{"provider_options":{"tags":"b","style":"a"},"duration_seconds":5,"seed":7,"prompt":"a lake"}'
    ),
    "another spelling": (
        b'{"prompt": "\\u0061 lake", "seed": 7, "duration_seconds": 5.0, "negative_prompt": null,'
        b' "provider_options": {"style": "a", "tags": "b"}}'
    ),
}
OTHER = {
    "another value": FULL.replace(b"7", b"8"),
    "another option": FULL.replace(b'"b"', b'"c"'),
    "one field less": FULL.replace(b'"duration_seconds": 5, ', b""),  # the model's default, and not the same request
    "the model by name": FULL.replace(b'"seed"', b'"model": "acme", "seed"'),
}


@pytest.mark.parametrize("body", SAME.values(), ids=SAME)
async def test_what_decodes_to_the_same_is_the_same(rig: Rig, body: bytes) -> None:
    async with rig.studio() as studio:
        first, _ = await studio.submit(decode(FULL, VideoRequest), "k")
        assert (await studio.submit(decode(body, VideoRequest), "k"))[0].id == first.id
        await done(studio, first.id)


@pytest.mark.parametrize("body", OTHER.values(), ids=OTHER)
async def test_what_says_something_else_is_a_conflict(rig: Rig, body: bytes) -> None:
    async with rig.studio() as studio:
        first, _ = await studio.submit(decode(FULL, VideoRequest), "k")
        with pytest.raises(Conflict):
            await studio.submit(decode(body, VideoRequest), "k")
        await done(studio, first.id)


@pytest.mark.parametrize("key", [" ", "\t", "a\0b", "a\nb", "x" * 256])
async def test_a_key_that_is_none_is_refused_before_anything_is_fetched(rig: Rig, key: str) -> None:
    async with rig.studio() as studio:
        with pytest.raises(BadRequest) as refused:
            await studio.submit(LAKE, key)
        assert refused.value.field == "Idempotency-Key"
    assert rig.web.fetched == []


async def test_a_job_that_a_program_gets_again_says_so(rig: Rig) -> None:
    async with rig.studio() as studio:
        first = await studio.generate("a lake", idempotency_key="k")
        again = await studio.generate("a lake", idempotency_key="k")
        assert (first.replayed, again.replayed, first.id == again.id) == (False, True, True)
        await first.result(timeout_s=5)
