"""Ten thousand unfinished jobs at a start, and one among many that cannot go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
import structlog
from acme import Acme, AcmeTwin, Render, Wire, make
from msgspec.structs import replace

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.actor import KIND, Actor, Asked, head_of
from rushes.actors.job import replay
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Request, Response
from rushes.adapters.capabilities import PollSchedule, Terms
from rushes.api.app import serve
from rushes.client import Client
from rushes.eventstore.base import Birth, Write
from rushes.eventstore.follow import follow
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import Unreadable
from rushes.studio import Job, Studio
from rushes.units import DEFAULT_TENANT, Handle, submission_key
from rushes.video import Target, TextToVideo, VideoSpec

JOBS: Final = 10_000
TARGET: Final = Target(provider="acme", model="a1")
A_DAY_S: Final = 86_400.0
FINISH_S: Final = 60.0
QUIET_S: Final = 0.3  # in which nothing may happen


class Patient(Acme):
    """Polls old jobs now and then rarely, new ones soon."""

    def terms(self, spec: VideoSpec, target: Target) -> Terms:
        poll = PollSchedule(min_s=0.01, max_s=3600.0, growth=1.0)
        looks_s = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
        return replace(super().terms(spec, target), poll=poll, looks_s=looks_s, total_s=A_DAY_S)


class Large(AcmeTwin):
    """Finds a render without looking through all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Render] = {}

    def take(self, key: str) -> Render:
        render = Render(f"r{len(self.renders)}", key, percent=50)
        self.renders.append(render)
        self.known[render.id] = self.known[key] = render
        return render

    def handle(self, request: Request, now: float) -> Response:  # noqa: ARG002
        assert request.query is not None
        if request.method == "POST":
            assert isinstance(request.body, dict)
            return Response(status=201, body=msgspec.json.encode(self.take(str(request.body["key"]))))
        self.polls += not request.query
        found = self.known.get(request.query.get("key") or request.url.rpartition("/")[2])
        return Response(status=404) if found is None else Response(status=200, body=msgspec.json.encode(found))


class Busy(Wire):
    """Counts how many are at the provider at the same moment, by whether they pay."""

    def __init__(self, twin: AcmeTwin) -> None:
        super().__init__(twin)
        self.now, self.most = {True: 0, False: 0}, {True: 0, False: 0}

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        self.now[request.spends] += 1
        self.most[request.spends] = max(self.most[request.spends], self.now[request.spends])
        await asyncio.sleep(0)  # the others' turn
        self.now[request.spends] -= 1
        return await super().send(adapter, target, request)


# ── a log that a process left behind ──────────────────────────────────────────────────────────────────────────────────


def name_of(number: int) -> str:
    return f"job_{number:032x}"


def history(number: int, twin: Large, at: float) -> list[m.Event]:
    """What a job had come to: nine of ten are running, others wait, or their process ended in the midst of a send."""
    spec = VideoSpec(prompt="a lake", operation=TextToVideo(), duration_seconds=5.0)
    events: list[m.Event] = [m.JobRequested(spec=spec, route=(TARGET,), start_by=at + A_DAY_S)]
    how = number % 40
    if how == 0:
        return events
    key = submission_key(name_of(number), 1)
    events.append(
        m.SubmissionStarted(
            attempt=1,
            send=1,
            incarnation="another",
            target=TARGET,
            key=key,
            key_until=at,
            body_sha256="",
            terms=Patient().terms(spec, TARGET),
        )
    )
    if how == 1:  # and nothing was sent
        return events
    render = twin.take(key)
    if how > 3:
        handle = Handle(render.id)
        events.append(m.SubmissionAccepted(attempt=1, send=1, handle=handle, deadline=at + A_DAY_S))
    return events


def write(number: int, twin: Large, at: float) -> Write:
    events = history(number, twin, at)
    stored = [codec.encode(event, at, m.Wake()) for event in events]
    head = head_of(replay([(event, at) for event in events]))
    return Write(Birth(name_of(number), KIND, DEFAULT_TENANT), 0, stored, head, number + 1)


async def left_behind(path: Path, twin: Large, jobs: int) -> None:
    at = 1_700_000_000.0  # by the clock of these tests, before this process began
    store = await SqliteStore.open(path)
    await asyncio.gather(*(store.append(write(number, twin, at)) for number in range(jobs)))
    await store.close()


async def moved(store: SqliteStore, jobs: int) -> None:
    """Until every job was heard of by its provider once more."""
    heard: set[int] = set()
    async with asyncio.timeout(FINISH_S), aclosing(follow(store, 0)) as batches:
        async for batch in batches:
            heard |= {event.stream for event in batch.events if event.type == "progress.reported"}
            if len(heard) == jobs:
                return


@asynccontextmanager
async def opened(
    folder: Path, wire: Wire, adapter: Adapter, kind: type[System] = System
) -> AsyncIterator[tuple[SqliteStore, System, Studio]]:
    """The real log below it all; closed at the end, or its threads would keep the tests from ending."""
    store = await SqliteStore.open(folder / "rushes.db")
    system, studio = make(store, folder, wire, adapter, kind)
    try:
        yield store, system, studio
    finally:
        await system.stop()
        await store.close()


async def test_ten_thousand_unfinished_jobs_go_on_within_their_lane_and_the_api_answers_first(tmp_path: Path) -> None:
    wire = Busy(twin := Large())
    await left_behind(tmp_path / "rushes.db", twin, JOBS)
    charged = len(twin.renders)
    async with opened(tmp_path, wire, Patient()) as (store, system, studio):
        began = time.monotonic()
        await system.start()
        server = await serve(studio, "127.0.0.1:0")
        try:
            async with Client(server.url) as client:
                view = await client.show(name_of(JOBS - 1))
        finally:
            await server.close()
        print(f"answered after {time.monotonic() - began:.2f} s, when {twin.polls} were polled")
        assert (view.phase, twin.polls < JOBS // 2) == ("running", True)
        await moved(store, JOBS)
        print(f"all heard of after {time.monotonic() - began:.2f} s; at once: {wire.most}")
    assert 1 <= wire.most[False] <= Acme.capabilities.calls_at_once
    assert 1 <= wire.most[True] <= Acme.capabilities.submits_at_once
    assert len(twin.renders) - charged == 2 * JOBS // 40, "sent: those that waited, and those that never were"


async def test_control_without_places_they_are_all_at_the_provider_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = Acme.capabilities.calls_at_once
    monkeypatch.setattr(Acme, "capabilities", replace(Acme.capabilities, calls_at_once=JOBS))
    wire = Busy(twin := Large())
    await left_behind(tmp_path / "rushes.db", twin, 1_000)
    async with opened(tmp_path, wire, Patient()) as (store, system, _):
        system._wake(system._lane("acme/"), [stream for stream, _ in await store.open_streams(KIND)])
        await moved(store, 1_000)
    assert wire.most[False] > bound


# ── one that cannot go on ─────────────────────────────────────────────────────────────────────────────────────────────


class Sour(Acme):
    """Somebody else's adapter: of some requests it says terms that nothing can be worked out from."""

    def terms(self, spec: VideoSpec, target: Target) -> Terms:
        terms = super().terms(spec, target)
        match spec.prompt:
            case "no time":
                return replace(terms, key_ttl_s=None)
            case "no schedule":
                return replace(terms, poll=None)
            case _:
                return terms


class Stubborn(System):
    """The negative control: what could not act is told to act again."""

    def _give_up_on(self, actor: Actor, asked: Sequence[Asked], error: BaseException) -> None:  # noqa: ARG002
        structlog.get_logger("rushes").error("turn.failed", job=actor.name)
        actor.mailbox = None
        asyncio.get_running_loop().call_later(0.001, self._tell, actor, Asked(m.Wake()))


async def in_a_crowd(studio: Studio, wire: Wire, poison: str) -> tuple[str, list[Job]]:
    """A job that waits for a place, so that it is begun before anybody sees that it cannot act; and the others."""
    wire.gate = asyncio.Event()
    good = [await studio.generate("a lake") for _ in range(Acme.capabilities.submits_at_once)]
    bad = await studio.generate(poison)
    good.append(await studio.generate("a river"))
    wire.gate.set()
    return bad.id, good


async def until_it_rests(system: System) -> None:
    async with asyncio.timeout(5):
        while not system._memory.stopped:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)


@pytest.mark.parametrize("poison", ["no time", "no schedule"])
async def test_a_job_that_cannot_act_rests_and_all_others_run(tmp_path: Path, poison: str) -> None:
    wire = Wire(AcmeTwin())
    async with opened(tmp_path, wire, Sour()) as (_, system, studio):
        with structlog.testing.capture_logs() as lines:
            bad, good = await in_a_crowd(studio, wire, poison)
            for job in good:
                await job.result(timeout_s=5)
            await until_it_rests(system)
            began = time.process_time()
            await asyncio.sleep(QUIET_S)
            used_s = time.process_time() - began
        told = [line["event"] for line in lines if line.get("job") == bad and line["log_level"] == "error"]
        assert (told, used_s < QUIET_S / 3) == (["turn.failed"], True)
        for asked in (studio.show(bad), studio.cancel(bad), studio.poll(bad)):
            with pytest.raises(Unreadable, match=f"{bad} rests until rushes starts again: it could not act"):
                await asked
        page = await studio.jobs()
        assert (page.unreadable, len(page.jobs)) == ([bad], len(good))


async def test_control_a_job_that_cannot_act_and_does_not_rest_never_stops_trying(tmp_path: Path) -> None:
    wire = Wire(AcmeTwin())
    async with opened(tmp_path, wire, Sour(), Stubborn) as (_, _, studio):
        with structlog.testing.capture_logs() as lines:
            bad, _ = await in_a_crowd(studio, wire, "no time")
            await asyncio.sleep(QUIET_S)
        assert sum(line["event"] == "turn.failed" and line["job"] == bad for line in lines) > 20


async def test_a_job_that_could_not_act_goes_on_with_the_next_process_where_the_bug_is_gone(tmp_path: Path) -> None:
    wire = Wire(AcmeTwin())
    async with opened(tmp_path, wire, Sour()) as (_, system, studio):
        bad, good = await in_a_crowd(studio, wire, "no time")
        await until_it_rests(system)
    async with opened(tmp_path, wire, Acme()) as (_, system, studio):
        await system.start()
        for job in (bad, *(job.id for job in good)):
            await studio.job(job).result(timeout_s=5)
    assert len(wire.twin.renders) == len(good) + 1
