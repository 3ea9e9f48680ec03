"""One job on the real system, in virtual time, with a provider's twin: and the process dies at a point of its send."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.callbacks import Hearing
from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import (
    Adapter,
    CallRecorder,
    Failed,
    Keep,
    Recorder,
    Request,
    Response,
    Sink,
    needs_prepare,
)
from rushes.adapters.callbacks import Callbacks
from rushes.assets import Assets, KeepAs
from rushes.emulators.base import Delivery
from rushes.eventstore.base import Recorded, Stored, Write
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Fault, RushesError, Unavailable
from rushes.testing.loop import VirtualLoop, run
from rushes.testing.orders import Order
from rushes.testing.wires import EPOCH_S, Wire, kept
from rushes.units import AssetRef, keyed_job_id
from rushes.video import Probe, Target

Point: TypeAlias = Literal["before", "lost", "after", "told"]
"""before: the process dies when the request is about to leave. lost: the answer gets lost, and the process lives.
after: it dies when the provider has accepted. told: it dies when the answer is there, and not yet on disk."""
POINTS: Final[tuple[Point, ...]] = get_args(Point)
PAUSE_S: Final = 60.0
CALL_S: Final = 3.0  # between two looks at what callbacks are due
PATIENCE_S: Final = 48 * 3600.0
TENANT: Final = "default"
NO_WISHES: Final[Mapping[float, m.Command]] = {}


class Ending(Struct, frozen=True):
    """How it ended."""

    job_id: str
    job: m.Job
    events: tuple[m.Event, ...]
    crashed: bool
    took_s: float
    log: tuple[Recorded, ...]  # the events as they are stored


class _Log(MemoryStore):
    """A log whose disk stops in the middle of an append."""

    dead = False

    async def append(self, write: Write) -> Stored:
        """See EventStore."""
        if self.dead:
            await _never()
        return await super().append(write)


class _Shelf(Assets):
    """Takes are looked at and dropped."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))

    def sink(self, key: str, max_bytes: int = 0) -> KeepAs:
        """Where one take goes."""
        return _Dropped(self, key, max_bytes)


class _Dropped(KeepAs):
    async def __call__(self, chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        content = b"".join([chunk async for chunk in chunks])
        assert size_bytes == len(content)
        return kept(Response(status=200, body=content, headers={"content-type": media_type}))


class _Line:
    """The way to the twin. It is the clock as well."""

    def __init__(self, wire: Wire, store: _Log, point: Point | None) -> None:
        self._wire, self._store, self._point = wire, store, point
        self.down = asyncio.Event()

    def now(self) -> float:
        """The wall clock."""
        return round(EPOCH_S + asyncio.get_running_loop().time(), 3)

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:  # noqa: ARG002
        """One exchange."""
        self._wire.asked.append(request)
        point = self._point if request.spends else None
        if point == "before":
            await self._die()
        await asyncio.sleep(0.1)
        reply = self._wire.exchange(request, self.now())
        if point is None:
            return reply
        if point == "after":
            await self._die()
        self._point = None
        if point == "told":
            self._store.dead = True
            self.down.set()
            return reply
        raise Failed(Fault("no_answer", "The connection was closed.", retryable=True), certain=False)

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:  # noqa: ARG002
        """A result."""
        reply, loop = self._wire.fetch(ask, self.now()), asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        with loop.real_work():
            return await sink(_once(reply.body), media_type=kept(reply).media_type, size_bytes=len(reply.body))

    async def _die(self) -> None:
        self._point = None
        self.down.set()
        await _never()


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


async def _probe(path: Path) -> Probe:  # noqa: ARG001 - the suite compares the bytes itself
    return Probe()


class _Parts(Struct, frozen=True):
    """What every process of a run has in common."""

    wire: Wire
    line: _Line
    store: _Log
    rng: random.Random
    callbacks: Callbacks | None
    recorder: Recorder | None
    calls: CallRecorder | None
    assets: Assets

    def system(self) -> System:
        """Another process."""
        adapters = {self.wire.adapter.name: self.wire.adapter}
        performer = Performer(adapters, self.line, self.assets, self.line, _probe, self.recorder, self.callbacks)
        return System(store=self.store, adapters=adapters, performer=performer, clock=self.line, rng=self.rng)


def live_through(
    wire: Wire,
    order: Order,
    point: Point | None = None,
    seed: int = 0,
    callbacks: Callbacks | None = None,
    wishes: Mapping[float, m.Command] = NO_WISHES,
    recorder: Recorder | None = None,
    calls: CallRecorder | None = None,
    until_s: float = PATIENCE_S,
    assets: Assets | None = None,
    at_least_once: int = 0,
) -> Ending:
    """Run one job until it has ended or waits for a person.

    On a new wire the same arguments give the same log, byte for byte.

    Args:
        wire: to the provider's twin.
        order: what is asked.
        point: where its first process dies.
        seed: another one is another order of what is ready at the same time, and other random numbers.
        callbacks: with it the provider is asked to call back, and what its twin says then is heard within seconds.
        wishes: what its user tells it, by the seconds after its beginning. One that it refuses raises CommandRejected.
        recorder: overhears the line, so that the log names the exchanges of each event.
        calls: overhears the callbacks, likewise.
        until_s: its life is cut off so many seconds after its beginning, but not before it has died at `point`.
        assets: keeps its takes. The order is chance while a disk is at work. None: they are looked at and dropped.
        at_least_once: new attempts that its user allows, and may pay for, while an earlier one is in doubt.
    """
    wire.ready(order)
    store, rng = _Log(), random.Random(seed)  # noqa: S311 - to be the same every time
    parts = _Parts(wire, _Line(wire, store, point), store, rng, callbacks, recorder, calls, assets or _Shelf())
    return run(_live(parts, order, point, sorted(wishes.items()), until_s, at_least_once), seed)


async def _live(
    parts: _Parts,
    order: Order,
    point: Point | None,
    wishes: list[tuple[float, m.Command]],
    until_s: float,
    at_least_once: int,
) -> Ending:
    wire, line, store, callbacks = parts.wire, parts.line, parts.store, parts.callbacks
    loop, name = asyncio.get_running_loop(), keyed_job_id(TENANT, order.about, 0)
    system = parts.system()
    await system.start()
    late: list[Delivery] = []
    await system.generate(name, TENANT, _request(wire, order, at_least_once))
    crashed, pause_s = False, PAUSE_S if callbacks is None else CALL_S
    while True:
        if point in ("before", "after", "told") and not crashed:
            await line.down.wait()
            await asyncio.sleep(0)  # the append that is never finished begins
            await system.stop(0.0)
            store.dead, crashed = False, True
            system = parts.system()
            await system.start()
        if callbacks is not None:
            hearing = Hearing(system, {wire.adapter.name: wire.adapter}, line, callbacks, parts.calls)
            late = [one for one in (*late, *wire.twin.due(line.now())) if not await _heard(hearing, one)]
        while wishes and wishes[0][0] <= loop.time():
            await system.ask(name, wishes.pop(0)[1])
        job = (await system.look(name)).job
        if (isinstance(job, m.Ended | m.Parked) and not wishes) or loop.time() >= until_s:
            await system.stop(0.0)
            stream = await store.find(name)
            assert stream is not None
            log = tuple(await store.read(stream.id))
            return Ending(name, job, tuple(map(codec.decode, log)), crashed, loop.time(), log)
        await asyncio.sleep(min(pause_s, min([until_s, *(at_s for at_s, _ in wishes)]) - loop.time()))


async def _heard(hearing: Hearing, delivery: Delivery) -> bool:
    """False: it is called again later."""
    url = urlsplit(delivery.url)
    provider, query = url.path.rpartition("/")[2], dict(parse_qsl(url.query))
    try:
        await hearing.hear(provider, query, delivery.headers, delivery.body)
    except Unavailable:
        return False
    except RushesError:  # whoever calls is told so, and there is no use in calling again
        return True
    return True


def _request(wire: Wire, order: Order, at_least_once: int) -> m.JobRequested:
    target = wire.target(order)
    needs = needs_prepare(wire.adapter, order.spec, target)
    return m.JobRequested(
        spec=order.spec,
        route=(target,),
        needs=("prepare",) if needs else (),
        start_by=EPOCH_S + 3600.0,
        at_least_once=at_least_once,
    )
