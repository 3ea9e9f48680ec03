"""A studio before a provider's twin behind a socket: as a program has it, or wired around a line that loses things."""

from __future__ import annotations

import asyncio
import re
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import structlog
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
from rushes.main import open_studio
from rushes.studio import Doors, Job, Studio
from rushes.units import AssetRef
from rushes.video import JobView, Target, VideoSpec
from rushes.views.jobs import ReadonlyView

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
SECRET = "a-key-of-theirs"
HASTE = 400.0  # seconds at the provider within one of ours
PATIENCE_S = 20.0
CLIP = b"\0\0\0\x18ftypisom" + b"\0" * 200
PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
POLL = PollSchedule(min_s=0.02, max_s=0.02)
PROGRAM: Mapping[str, Any] = {"poll": POLL, "looks_s": (0.05, 0.15, 0.3, 0.5), "settle_s": 0.6, "total_s": 60.0}
BY_HAND: Mapping[str, Any] = {"poll": POLL, "looks_s": (0.02, 0.06, 0.12), "settle_s": 0.1}
T = TypeVar("T", bound=ProviderTwin)


def png(side: int = 512, grey: int = 128) -> bytes:
    """A square picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = zlib.compress((b"\0" + bytes([grey]) * side) * side)
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def eager(adapter: Adapter, pace: Mapping[str, Any] = PROGRAM) -> Adapter:
    """The adapter as it is, but for its pace."""
    usual = type(adapter).terms

    def terms(self: Adapter, spec: VideoSpec, target: Target) -> Terms:
        return replace(usual(self, spec, target), **pace)

    hasty: Adapter = type("Hasty", (type(adapter),), {"terms": terms})()
    return hasty


class Rig(Generic[T]):
    """A studio over one twin."""

    def __init__(self, studio: Studio, twin: T, faulty: FaultyTwin) -> None:
        self.studio, self.twin, self._faulty = studio, twin, faulty

    async def make(self, prompt: str = "a lake", **fields: Any) -> Job:
        return await self.studio.generate(prompt, **fields)

    async def view(self, prompt: str = "a lake", **fields: Any) -> JobView:
        """A job that has succeeded."""
        return (await (await self.make(prompt, **fields)).result(timeout_s=PATIENCE_S)).job

    async def failure(self, prompt: str = "a lake", **fields: Any) -> JobFailed:
        """Why a job did not."""
        return await failure(await self.make(prompt, **fields))

    def go_wrong(self, *rules: LineRule | TwinRule) -> None:
        self._faulty.set(Faults(rules))

    def came(self, start: str) -> list[str]:
        """The requests that begin so, as METHOD /path."""
        return [line.about for line in self.twin.ledger.requests if line.about.startswith(start)]

    def asked(self, flow: str = "submit") -> list[str]:
        """Those of one flow."""
        ways = [route for route in self.twin.routes() if route.flow == flow]
        return [about for about in self.came("") if any(_fits(f"{way.method} {way.path}", about) for way in ways)]


def _fits(pattern: str, about: str) -> bool:
    return re.fullmatch(pattern, about) is not None


@asynccontextmanager
async def provider(folder: Path, adapter: Adapter, twin: T, environ: Mapping[str, str]) -> AsyncIterator[Rig[T]]:
    """The whole studio, as a program has it: its folder can be opened again.

    `environ` is what the adapter finds, with URL for the twin's address; its keys where not any word is one.
    """
    began, faulty = time.time(), FaultyTwin(twin)
    server = await serve_twin(faulty, now=lambda: began + (time.time() - began) * HASTE)
    told = {name: value.replace("URL", server.url) for name, value in environ.items()}
    folder.mkdir(exist_ok=True)
    told |= {**twin.env(server.url, folder), "RUSHES_DEFAULT_MODEL": adapter.name}
    try:
        async with open_studio(folder, adapters={adapter.name: eager(adapter)}, environ=told) as studio:
            yield Rig(studio, twin, faulty)
    finally:
        await server.close()


# ── By hand ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """The wall's, moved on by hand."""

    ahead_s = 0.0

    def now(self) -> float:
        return round(time.time() + self.ahead_s, 3)


class Line:
    """The real client, and what gets lost on the way. `late_s`: so long after its answer the next file is fetched."""

    def __init__(self, http: Http, clock: Clock) -> None:
        self._http, self._clock, self.late_s = http, clock, 0.0
        self.losing: list[str] = []  # of the next paid calls: the "answer", the "request"; or it is "late"
        self._lost: list[Request] = []  # what arrives just before the next

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        if not request.spends:
            return await self._http.send(adapter, target, request)
        while self._lost:
            await self._http.send(adapter, target, self._lost.pop())
        what = self.losing.pop(0) if self.losing else ""
        if what == "late":
            self._lost.append(request)
        if what in ("", "answer"):
            reply = await self._http.send(adapter, target, request)
        if what:
            raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        self._clock.ahead_s, self.late_s = self._clock.ahead_s + self.late_s, 0.0
        return await self._http.keep(adapter, target, ask, sink)


class Wired(Rig[T]):
    """A studio whose line and clock can be had."""

    def __init__(self, studio: Studio, twin: T, faulty: FaultyTwin, line: Line, clock: Clock) -> None:
        super().__init__(studio, twin, faulty)
        self.line, self.clock = line, clock


async def _look(path: Path) -> tuple[int, int]:
    width, _, height = image_size(path.read_bytes()).partition("x")
    return int(width or 0), int(height or 0)


@asynccontextmanager
async def opened(
    folder: Path,
    adapter: Adapter,
    twin: T,
    *rules: LineRule | TwinRule,
    others: Sequence[Adapter] = (),
    keys: Mapping[str, str] | None = None,
    store: EventStore | None = None,
    terms: Mapping[str, Any] | None = None,
    **doors: Any,
) -> AsyncIterator[Wired[T]]:
    """A studio wired by hand until the block ends.

    `rules` are the twin's faults, `others` the adapters beside it, `keys` what there is instead of SECRET, `store` the
    log of a studio before, `terms` and `doors` what they have that is not usual.
    """
    clock, assets, store = Clock(), Assets(folder), store or MemoryStore()
    auth, name = adapter.capabilities.auth, adapter.name
    keys = keys or ({auth.env[0]: SECRET} if auth else {})
    adapters = {name: eager(adapter, {**BY_HAND, **(terms or {})})} | {other.name: other for other in others}
    faulty = FaultyTwin(twin, Faults(rules))
    async with AsyncExitStack() as stack:
        server = await serve_twin(faulty, now=clock.now)
        stack.push_async_callback(server.close)
        http = Http(
            base_urls={name: server.url},
            credentials=keys,
            read=lambda asset: assets.path(asset.key).read_bytes(),
            inner={},
            clock=clock,
        )
        line = Line(await stack.enter_async_context(http), clock)
        system = System(
            store=store,
            adapters=adapters,
            performer=Performer(adapters, line, assets, clock, no_probe),
            clock=clock,
        )
        usual: dict[str, Any] = {
            "look_at_image": _look,
            "default_model": name,
            "explicit": {name},
            "unavailable": lambda _: None,
        }
        door = Doors(fetch=http.fetch, credentials=keys, **(usual | doors))
        jobs = ReadonlyView(store)
        studio = Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=door)
        await system.start()
        stack.push_async_callback(system.stop, 2.0)
        yield Wired(studio, twin, faulty, line, clock)


# ── What tests ask of a job ───────────────────────────────────────────────────────────────────────────────────────────


async def once(job: Job, holds: Callable[[JobView], bool]) -> JobView:
    """The job as soon as this holds of it."""
    async with asyncio.timeout(PATIENCE_S), aclosing(job.updates()) as views:
        async for view in views:
            if holds(view):
                return view
    raise AssertionError("it ended without that")


async def until(job: Job, phase: str) -> JobView:
    """The job once it is in that phase."""
    return await once(job, lambda view: view.phase == phase)


async def failure(job: Job) -> JobFailed:
    """Why it failed."""
    with pytest.raises(JobFailed) as failed:
        await job.result(timeout_s=PATIENCE_S)
    return failed.value


async def types(job: Job) -> Sequence[str]:
    """Of its events."""
    return [event.type for event in await job.events()]
