"""A provider that answers at once with bytes, and everything around it as a program opens it.

What is measured with it is ours alone: no socket, no rendering, no file. Everything else is the shipped code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Self
from unittest import mock

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes import main
from rushes.actors import messages as m
from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import (
    Adapter,
    CancelAnswer,
    Done,
    Flow,
    Keep,
    Outcome,
    Output,
    Prepared,
    Request,
    Response,
    Sink,
    Unfinished,
    call,
    keep,
    reply_json,
)
from rushes.adapters.capabilities import Capabilities, Model, PollSchedule, Terms
from rushes.assets import Assets
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import Fault
from rushes.studio import Studio
from rushes.units import FREE, AssetRef, Handle
from rushes.video import Probe, Target, TextToVideo, VideoSpec

NAME: Final = "noop"
TARGET: Final = Target(provider=NAME, model=NAME, price=FREE)
CLIP: Final = AssetRef("customers/0/assets/video/clip.mp4", f"{7:064x}", 987_654, "video/mp4")
FAR: Final = 30 * 86_400.0  # seconds from now: no deadline acts while something is measured
DONE: Final = Response(status=200, body=b'{"id":"1","status":"done","output":"https://cdn.noop.example/1/out.mp4"}')
RUNNING: Final = Response(status=200, body=b'{"id":"1","status":"running","output":""}')


def terms(interval_s: float) -> Terms:
    """What holds for a send: asked for every `interval_s`."""
    return Terms(doubt="B", poll=PollSchedule(interval_s, interval_s), total_s=FAR)


# ── The provider ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Render(Struct):
    """The provider's own word for a job."""

    id: str
    status: str
    output: str = ""


class Noop(Adapter):
    """The adapter. It never limits us: what does is measured elsewhere."""

    name = NAME
    capabilities = Capabilities(
        base_url="https://api.noop.example",
        base_url_env="",
        models=(Model(id=NAME, operations=("text-to-video",), fields=frozenset({"seed"}), free=True),),
        submits_at_once=100_000,
        calls_at_once=100_000,
        fetches_at_once=100_000,
    )

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002 - an adapter may look
        """Asked for at once, and again at once."""
        return terms(0.0)

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[Prepared]:  # noqa: ARG002
        """Nothing."""
        yield from ()
        return {}

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """One request."""
        body = {"prompt": spec.prompt, "key": key}
        reply = yield from call(Request(method="POST", url="/jobs", body=body, spends=True))
        return Handle(reply_json(self, reply, Render).id)

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:  # noqa: ARG002
        """One request."""
        reply = yield from call(Request(method="GET", url=f"/jobs/{handle.id}"))
        render = reply_json(self, reply, Render)
        return Done((Output(render.output),)) if render.status == "done" else Unfinished()

    def cancel(self, handle: Handle, target: Target) -> Flow[CancelAnswer]:  # noqa: ARG002
        """It cannot."""
        yield from ()
        return "cannot"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """It is never asked."""
        yield from ()
        return None

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """One request."""
        return (yield from keep(Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:  # noqa: ARG002
        """It has none."""
        return None


class OneByOne(Noop):
    """It takes one job at a time."""

    capabilities = replace(Noop.capabilities, submits_at_once=1)


class AtOnce:
    """A transport that answers in the same breath. It stands in the place of `Http`.

    `polled` is told of every poll, with the number that the job's handle holds.
    """

    def __init__(self, answer: Response = DONE, polled: Callable[[int], None] | None = None) -> None:
        self._answer, self._polled = answer, polled

    async def __aenter__(self) -> Self:
        """Nothing is connected."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is closed."""

    def base_url(self, adapter: Adapter) -> str:
        """Where nobody goes."""
        return adapter.capabilities.base_url

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:  # noqa: ARG002
        """The same answer always."""
        if self._polled is not None and not request.spends:
            self._polled(int(request.url.rpartition("/")[2]))
        return self._answer

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:  # noqa: ARG002
        """Nothing goes to the disk but the reference."""
        return CLIP

    def fetch(self, url: str, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """Nobody gives pictures here."""
        raise NotImplementedError


class Silent(AtOnce):
    """A transport that never answers."""

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:  # noqa: ARG002
        """Nothing, for ever."""
        await asyncio.Event().wait()
        raise AssertionError


def _given(transport: AtOnce, **_: object) -> AtOnce:
    """In the place of a class: what was made before."""
    return transport


async def _no_probe(path: Path) -> Probe:  # noqa: ARG001
    return Probe()


# ── Opened ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def whole_studio(folder: Path, transport: AtOnce, adapter: type[Adapter] = Noop) -> AsyncGenerator[Studio]:
    """What `rushes.open` opens: lock, marker, log, list of jobs, system. Only the provider is ours."""
    settings = main.Settings(default_model=NAME, log_level="error")
    with mock.patch.object(main, "Http", partial(_given, transport)), mock.patch.object(main, "_probe", _no_probe):
        async with main.open_studio(folder, settings=settings, adapters={NAME: adapter()}, environ={}) as studio:
            yield studio


@asynccontextmanager
async def bare_system(folder: Path, transport: AtOnce) -> AsyncGenerator[System]:
    """The log and the system alone: no lock, no list of jobs."""
    adapters: dict[str, Adapter] = {NAME: Noop()}
    clock = main.SystemClock()
    store = await SqliteStore.open(folder / "rushes.db")
    try:
        performer = Performer(adapters, transport, Assets(folder / "takes"), clock, _no_probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=clock)
        await system.start()
        try:
            yield system
        finally:
            await system.stop()
    finally:
        await store.close()


# ── Its jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(number: int, prompt: str, now: float) -> m.JobRequested:
    """The first event of a job. Its seed is its number."""
    spec = VideoSpec(prompt=prompt, operation=TextToVideo(), seed=number)
    return m.JobRequested(spec=spec, route=(TARGET,), start_by=now + FAR, body_sha256=f"{number:064x}")


def in_flight(number: int, name: str, prompt: str, now: float, held: Terms) -> Sequence[m.Event]:
    """A job that the provider has taken. Its handle is its number."""
    started = m.SubmissionStarted(
        attempt=1,
        send=1,
        incarnation="00f0e1d2c3b4a596",
        target=TARGET,
        key=f"{name}-1",
        key_until=now,
        body_sha256=f"{number:064x}",
        max_cost=FREE,
        terms=held,
    )
    accepted = m.SubmissionAccepted(attempt=1, send=1, handle=Handle(f"{number:026d}"), deadline=now + FAR)
    return asked(number, prompt, now), started, accepted


class _Spec(Struct):
    seed: int


class _Asked(Struct):
    spec: _Spec


_number_in: Final = msgspec.json.Decoder(_Asked).decode


def number_in(data: bytes) -> int:
    """The number of a job, from its first event."""
    return _number_in(data).spec.seed


def known_to(system: System) -> int:
    """How many unfinished jobs the system has taken up."""
    return sum(lane.known for lane in system.lanes)
