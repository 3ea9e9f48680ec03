"""A studio with one provider, over production's client and a socket, before the provider's twin."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from acme import no_probe
from msgspec.structs import replace

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Failed, Keep, Request, Response, Sink
from rushes.adapters.capabilities import PollSchedule, Terms
from rushes.adapters.http import Http
from rushes.assets import Assets
from rushes.emulators.base import ProviderTwin, image_size, serve_twin
from rushes.emulators.faults import Faults, LineRule, TwinRule
from rushes.emulators.faulty import FaultyTwin
from rushes.eventstore.base import EventStore
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Fault, JobFailed
from rushes.studio import Doors, Job, Studio
from rushes.units import AssetRef
from rushes.video import JobView, Target, VideoSpec
from rushes.views.jobs import ReadonlyView

SECRET = "a-key-of-theirs"
PATIENCE_S = 5.0
PACE = PollSchedule(min_s=0.02, max_s=0.02)


class Clock:
    """The wall's, moved on by hand."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        return round(time.time() + self.ahead_s, 3)


class Line:
    """The real client. `losing`: so many answers to paid calls do not come back. `late_s`: before the first fetch."""

    def __init__(self, http: Http, clock: Clock) -> None:
        self._http, self._clock = http, clock
        self.losing, self.late_s = 0, 0.0

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        reply = await self._http.send(adapter, target, request)
        if request.spends and self.losing:
            self.losing -= 1
            raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        self._clock.ahead_s, self.late_s = self._clock.ahead_s + self.late_s, 0.0
        return await self._http.keep(adapter, target, ask, sink)


class Rig:
    """What a test looks at."""

    def __init__(self, studio: Studio, line: Line, clock: Clock, store: EventStore, twin: ProviderTwin) -> None:
        self.studio, self.line, self.clock, self.store, self.twin = studio, line, clock, store, twin

    async def view(self, prompt: str = "a lake", **fields: Any) -> JobView:
        """A job that has succeeded."""
        return (await (await self.studio.generate(prompt, **fields)).result(timeout_s=PATIENCE_S)).job

    async def failure(self, prompt: str = "a lake", **fields: Any) -> JobFailed:
        """Why a job did not."""
        with pytest.raises(JobFailed) as failed:
            await (await self.studio.generate(prompt, **fields)).result(timeout_s=PATIENCE_S)
        return failed.value

    def asked(self, method: str) -> list[str]:
        """The paths that were asked with this method."""
        return [line.path for line in self.twin.ledger.requests if line.method == method]


def hasty(adapter: Adapter) -> Adapter:
    """The adapter as it is, but for its pace."""
    usual = adapter.terms

    def terms(spec: VideoSpec, target: Target) -> Terms:
        return replace(usual(spec, target), poll=PACE, looks_s=(0.02, 0.06), settle_s=0.1)

    adapter.terms = terms  # type: ignore[method-assign]
    return adapter


async def _look(path: Path) -> tuple[int, int]:
    width, _, height = image_size(path.read_bytes()).partition("x")
    return int(width or 0), int(height or 0)


@asynccontextmanager
async def opened(
    folder: Path,
    adapter: Adapter,
    twin: ProviderTwin,
    *rules: LineRule | TwinRule,
    explicit: bool = True,
    store: EventStore | None = None,
) -> AsyncIterator[Rig]:
    """A studio until the block ends; `rules` are the twin's faults. `explicit`: its address counts as set."""
    clock, assets, store = Clock(), Assets(folder), store or MemoryStore()
    auth = adapter.capabilities.auth
    keys, adapters = {auth.env[0]: SECRET} if auth else {}, {adapter.name: hasty(adapter)}
    async with AsyncExitStack() as stack:
        server = await serve_twin(FaultyTwin(twin, Faults(rules)), now=clock.now)
        stack.push_async_callback(server.close)
        http = Http(
            base_urls={adapter.name: server.url},
            credentials=keys,
            read=lambda asset: assets.path(asset.key).read_bytes(),
            inner={},
            clock=clock,
        )
        line = Line(await stack.enter_async_context(http), clock)
        performer = Performer(adapters, line, assets, clock, no_probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=clock)
        doors = Doors(
            fetch=http.fetch,
            look_at_image=_look,
            credentials=keys,
            default_model=adapter.name,
            explicit={adapter.name} if explicit else set(),
            unavailable=lambda _: None,
        )
        jobs = ReadonlyView(store)
        studio = Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=doors)
        await system.start()
        stack.push_async_callback(system.stop, 2.0)
        yield Rig(studio, line, clock, store, twin)


async def until(job: Job, phase: str) -> JobView:
    """The job once it is in that phase."""
    async with aclosing(job.updates()) as views:
        async for view in views:
            if view.phase == phase:
                return view
    raise AssertionError(f"it ended without being {phase}")


async def types(job: Job) -> Sequence[str]:
    """Of its events."""
    return [event.type for event in await job.events()]
