"""A job's life on the real system before a provider's twin, in virtual time, with the real flight record beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from structlog.testing import capture_logs

from rushes.actors import messages as m
from rushes.actors.callbacks import Hearing
from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter
from rushes.adapters.callbacks import Callbacks
from rushes.emulators.base import Delivery
from rushes.eventstore.base import Recorded
from rushes.faults import CommandRejected
from rushes.flight import Flight
from rushes.replay.recording import Recording
from rushes.testing.crashes import TENANT, Point, _heard, _Line, _Log, _probe, _request, _Shelf
from rushes.testing.loop import VirtualLoop
from rushes.testing.orders import Order
from rushes.testing.wires import EPOCH_S, KEY, Wire
from rushes.units import keyed_job_id

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
Wish = tuple[float, m.Command]
STEP_S = 1.0
LONGEST_S = 60 * 3600.0


class Clock:
    """The loop's time as the world's; also asked by the record's thread."""

    loop: VirtualLoop

    def now(self) -> float:
        return round(EPOCH_S + self.loop.time(), 3)


class Life:
    """One job from its first command to its end, or until nothing happens for long."""

    def __init__(
        self, wire: Wire, order: Order, point: Point | None, callbacks: Callbacks | None, flight: Flight | None
    ) -> None:
        self.wire, self.order, self.point, self.callbacks, self.flight = wire, order, point, callbacks, flight
        self.name = keyed_job_id(TENANT, order.about, 0)
        self.store = _Log()

    async def live(self, wishes: Sequence[Wish], until_s: float) -> list[Recorded]:
        line = _Line(self.wire, self.store, self.point)
        system = await self.begun(line)
        await system.generate(self.name, TENANT, _request(self.wire, self.order))
        loop, wishes = asyncio.get_running_loop(), sorted(wishes, key=lambda one: one[0])
        late: list[Delivery] = []
        while loop.time() < until_s:
            if line.down.is_set():
                line.down.clear()
                await asyncio.sleep(0)
                await system.stop(0.0)
                self.store.dead = False
                system = await self.begun(line)
            if self.callbacks is not None:
                hearing = Hearing(
                    system, {self.wire.adapter.name: self.wire.adapter}, line, self.callbacks, self.flight
                )
                late = [one for one in (*late, *self.wire.twin.due(line.now())) if not await _heard(hearing, one)]
            while wishes and wishes[0][0] <= loop.time():
                with suppress(CommandRejected):
                    await system.ask(self.name, wishes[0][1])
                wishes = wishes[1:]
            if isinstance((await system.look(self.name)).job, m.Ended | m.Parked) and not wishes:
                break
            ahead = wishes[0][0] - loop.time() if wishes else STEP_S
            await asyncio.sleep(min(STEP_S, ahead))
        await system.stop(0.0)
        stream = await self.store.find(self.name)
        assert stream is not None
        return await self.store.read(stream.id)

    async def begun(self, line: _Line) -> System:
        adapters: dict[str, Adapter] = {self.wire.adapter.name: self.wire.adapter}
        performer = Performer(adapters, line, _Shelf(), line, _probe, self.flight, callbacks=self.callbacks)
        system = System(store=self.store, adapters=adapters, performer=performer, clock=line)
        await system.start()
        return system


def recorded(
    wire: Wire,
    order: Order,
    point: Point | None = None,
    *,
    seed: int = 0,
    callbacks: Callbacks | None = None,
    wishes: Sequence[Wish] = (),
    until_s: float = LONGEST_S,
    flight: bool = True,
) -> Recording:
    """What is kept of one life. `wishes` are commands of users, by the second."""
    clock = Clock()
    with TemporaryDirectory() as folder, capture_logs():
        record = Flight(
            Path(folder) / "flight.db", clock=clock, base_url=lambda adapter: adapter.address(), secrets=[KEY]
        )
        life = Life(wire, order, point, callbacks, record if flight else None)
        with closing(record), asyncio.Runner(loop_factory=lambda: _looped(clock, seed)) as runner:
            events = runner.run(life.live(wishes, until_s))
            exchanges = record.exchanges(life.name)
    return Recording(job_id=life.name, tenant=TENANT, events=tuple(events), exchanges=tuple(exchanges))


def _looped(clock: Clock, seed: int) -> VirtualLoop:
    clock.loop = VirtualLoop(seed)
    return clock.loop
