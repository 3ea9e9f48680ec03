"""One job lived through in virtual time on the real system, at a provider's twin, with its traffic recorded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Failed, Keep, Request, Response, Sink, needs_prepare
from rushes.adapters.callbacks import Callbacks
from rushes.assets import Assets
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Fault
from rushes.flight import Flight, read
from rushes.replay.recording import InputDigest, Recording
from rushes.testing.loop import VirtualLoop, run
from rushes.testing.orders import Order, plainest
from rushes.testing.wires import EPOCH_S, Pair, Wire
from rushes.units import AssetRef
from rushes.video import Probe, Target

JOB = "job_kdmk3v"
TENANT = "default"
ANSWER_S = 0.1
LOCAL = "http://127.0.0.1:8080"
PROBE = Probe(duration_seconds=2.0, width=320, height=180)


class Line:
    """The way to the twin; `lose` says which requests are asked and not answered."""

    def __init__(self, wire: Wire, lose: Callable[[Request], bool]) -> None:
        self._wire, self._lose = wire, lose
        self._loop = asyncio.get_running_loop()  # the flight record asks the time in its thread

    def now(self) -> float:
        return round(EPOCH_S + self._loop.time(), 3)

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        del adapter, target
        await asyncio.sleep(ANSWER_S)
        reply = self._wire.exchange(request, self.now())
        if self._lose(request):
            raise Failed(Fault("no_answer", "The connection was closed.", retryable=True), certain=False)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        del adapter, target
        assert isinstance(self._loop, VirtualLoop)
        reply = self._wire.fetch(ask, self.now())
        media_type = reply.headers.get("content-type", "").partition(";")[0]
        with self._loop.real_work():
            return await sink(once(reply.body), media_type=media_type, size_bytes=len(reply.body))


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def probe(path: Path) -> Probe:
    assert path.is_file()
    return PROBE


def first_order(pair: Pair) -> Order:
    """The plainest request of a provider, of those that need no clip of its own."""
    return next(one for one in plainest(pair.adapter.capabilities) if all(not i.made for i in one.spec.inputs))


def lived(
    wire: Wire,
    order: Order,
    folder: Path,
    *,
    cancel_after_s: float | None = None,
    lose: Callable[[Request], bool] = lambda _: False,
    callbacks: Callbacks | None = None,
    ends_after_s: float = 48 * 3600.0,
    at_least_once: int = 0,
) -> Recording:
    """Run one job until it has ended or waits for a person, and read it as from a data folder."""
    wire.ready(order)
    folder.mkdir(exist_ok=True)
    return run(_lived(wire, order, folder, cancel_after_s, lose, callbacks, ends_after_s, at_least_once))


async def _lived(
    wire: Wire,
    order: Order,
    folder: Path,
    cancel_after_s: float | None,
    lose: Callable[[Request], bool],
    callbacks: Callbacks | None,
    ends_after_s: float,
    at_least_once: int,
) -> Recording:
    loop, store, line = asyncio.get_running_loop(), MemoryStore(), Line(wire, lose)
    flight = Flight(folder / "flight.db", clock=line, base_url=lambda adapter: adapter.address())
    adapters = {wire.adapter.name: wire.adapter}
    performer = Performer(adapters, line, Assets(folder / "takes"), line, probe, flight, callbacks)
    system = System(store=store, adapters=adapters, performer=performer, clock=line)
    await system.start()
    target = wire.target(order)
    needs = needs_prepare(wire.adapter, order.spec, target)
    request = m.JobRequested(
        spec=order.spec,
        route=(target,),
        needs=("prepare",) if needs else (),
        start_by=EPOCH_S + 3600.0,
        at_least_once=at_least_once,
    )
    await system.generate(JOB, TENANT, request)
    if cancel_after_s is not None:
        await asyncio.sleep(cancel_after_s)
        await system.ask(JOB, m.Cancel())
    while loop.time() < ends_after_s:  # of virtual time
        await asyncio.sleep(60.0)
        if isinstance((await system.look(JOB)).job, m.Ended | m.Parked):
            break
    await system.stop(0.0)
    flight.close()
    stream = await store.find(JOB)
    assert stream is not None
    given = [one for one in order.spec.inputs if one.asset]
    return Recording(
        job_id=JOB,
        tenant=TENANT,
        events=tuple(await store.read(stream.id)),
        exchanges=tuple(read(folder / "flight.db", JOB)),
        inputs=tuple(
            InputDigest(
                role=str(one.role),
                sha256=one.asset.sha256,
                media_type=one.asset.media_type,
                size_bytes=one.asset.size_bytes,
            )
            for one in given
        ),
        versions={"rushes": "0.1.0"},
        source=str(folder),
    )


def at_a_twin(recording: Recording, address: str, other: str = LOCAL) -> Recording:
    """The same job, had its provider been somewhere on this machine."""
    parts = urlsplit(address)
    own = f"{parts.scheme}://{parts.netloc}"

    def there(text: bytes) -> bytes:
        return text.replace(own.encode(), other.encode())

    return replace(
        recording,
        events=tuple(replace(one, data=there(one.data)) for one in recording.events),
        exchanges=tuple(
            msgspec.json.decode(there(msgspec.json.encode(one)), type=type(one)) for one in recording.exchanges
        ),
    )


def longer_clip(clip: bytes) -> bytes:
    """Another clip: the same with a box behind it that players pass over."""
    return clip + (100).to_bytes(4, "big") + b"free" + bytes(92)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
