"""The whole actor system in virtual time, with everything around it that can go wrong.

A run has one loop, one store, one twin a provider, and lives: the systems that come and go. A crash cuts a life off
from the store and the wire in the middle of whatever it does; what was stored stays, the twins go on, and what is on
the wire arrives. Then a new system starts on the same store.

Steps are counted: before and after every append, before a request leaves, when it was carried out, and when the answer
is there. A crash happens at a step.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import aiohttp
import structlog
from msgspec import Struct
from msgspec.structs import replace
from sim_plan import Plan, Suffering
from sim_provider import CANCELS, CLASSES, LAST_ARRIVAL_S, Render, SimAdapter, Trouble, Twin, reply_of

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.actors.job import replay
from rushes.actors.perform import Performer
from rushes.actors.system import MAX_IDLE, Snapshot, System
from rushes.adapters.base import Adapter, Failed, Keep, Request, Response, Sink
from rushes.adapters.http import _from_twin, failure
from rushes.assets import Assets, KeepAs, StorageTrouble, sniff
from rushes.eventstore.base import Damaged, Recorded, Stored, StoreUnavailable, Stream, Write
from rushes.eventstore.memory import MemoryStore
from rushes.faults import CommandRejected, NotFound, Unavailable
from rushes.media import MediaTrouble
from rushes.testing.loop import VirtualLoop
from rushes.units import AssetRef, Handle, keyed_job_id
from rushes.video import Probe, Target, TextToVideo, VideoSpec

EPOCH_S: Final = 1_700_000_000.0
HORIZON_S: Final = 36 * 3600.0
PAUSE_S: Final = 5.0  # without a step: nobody is on their way to the next one
QUIET_S: Final = 1200.0  # at rest, nothing moves so long
BUSY_CALLBACKS: Final = 3_000  # within one virtual second; more is a loop that never waits
RETRY_S: Final = 3.0  # callers who get no answer, and callbacks
TENANT: Final = "default"
Answer: TypeAlias = "asyncio.Future[Response | Failed]"


class HotLoop(Exception):
    """Very much happens and no time passes."""


class CountingLoop(VirtualLoop):
    """A virtual loop that knows how busy it is."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.callbacks = self.busiest = self._this_second = self._second = 0

    def _run_once(self) -> None:
        second = int(self.time())
        if second != self._second:
            self._second, self._this_second = second, 0
        self._this_second += 1 + len(self._ready)  # one for a timer that may be due
        self.callbacks += 1 + len(self._ready)
        if self._this_second > self.busiest:
            self.busiest = self._this_second
            if self.busiest > BUSY_CALLBACKS:
                raise HotLoop(f"{self.busiest} callbacks within second {second}.")
        super()._run_once()  # type: ignore[misc]  # asyncio's own


class SimAssets(Assets):
    """Takes are looked at and forgotten; the disk may be full."""

    def __init__(self, world: World) -> None:
        super().__init__(Path("/nowhere"))
        self._world = world

    def sink(self, key: str, max_bytes: int = 0) -> KeepAs:  # noqa: ARG002
        return SimSink(self, key, self._world)


class SimSink(KeepAs):
    """One take."""

    def __init__(self, assets: SimAssets, key: str, world: World) -> None:
        super().__init__(assets, key, 0)
        self.key, self.world = key, world

    async def __call__(self, chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        content = b"".join([chunk async for chunk in chunks])
        if self.world.within("sink_full"):
            raise StorageTrouble("The file could not be kept (full): make room, then it goes on.")
        self.world.files[self.key] = content
        return AssetRef(self.key, "0" * 64, size_bytes or len(content), media_type)


class Ack(Struct, frozen=True):
    """What somebody was told of a job."""

    name: str
    version: int
    job: m.Job


class Life:
    """One system, from its start to its end, and what it sees of the world."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number, self.alive = world, number, True
        self.calls: dict[asyncio.Future[Snapshot], None] = {}
        rng = world.control.rng(f"{world.plan.seed} life {number}")
        adapters = world.adapters
        performer = Performer(adapters, Line(self), SimAssets(world), world, world.probe)
        disk = world.control.disk(self)
        max_idle = world.control.max_idle(world.plan)
        self.system = System(
            store=disk, adapters=adapters, performer=performer, clock=world, rng=rng, max_idle=max_idle
        )

    async def here(self) -> None:
        """Go on, or never: the process is gone."""
        if not self.alive:
            await asyncio.get_running_loop().create_future()


class Disk(MemoryStore):
    """One life's way to the store."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self.life, self.world, self.inner = life, life.world, life.world.store

    @property
    def position(self) -> int:
        return self.inner.position

    async def append(self, write: Write) -> Stored:
        life, world = self.life, self.world
        await life.here()
        world.appends += 1
        torn = world.appends in world.torn
        if (luck := world.draw("append", world.appends)) > 0.5:
            await asyncio.sleep(0.02 * luck)
            await life.here()
        world.step()
        await life.here()
        if world.within("disk_full"):
            raise StoreUnavailable("The disk is full.")
        stored = await self.inner.append(write)
        world.stored(write, stored)
        world.step()
        await life.here()
        if torn:
            raise StoreUnavailable("The disk says that it failed.")
        return stored

    async def read(self, stream: int, after: int = 0, limit: int | None = None) -> list[Recorded]:
        await self.life.here()
        return await self.inner.read(stream, after, limit)

    async def read_many(self, streams: Sequence[int]) -> dict[int, list[Recorded] | Damaged]:
        await self.life.here()
        return await self.inner.read_many(streams)

    async def find(self, name: str) -> Stream | None:
        await self.life.here()
        return await self.inner.find(name)

    async def streams(self, ids: Sequence[int]) -> dict[int, Stream]:
        await self.life.here()
        return await self.inner.streams(ids)

    async def open_streams(self, kind: str, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        await self.life.here()
        return await self.inner.open_streams(kind, after, limit)


class Line:
    """One life's way to the providers."""

    def __init__(self, life: Life) -> None:
        self.life, self.world = life, life.world

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:  # noqa: ARG002
        return await self._exchange(adapter, request, request.timeout_s)

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:  # noqa: ARG002
        reply = await self._exchange(adapter, Request(method="GET", url=ask.url), 30.0)
        return await _from_twin(adapter.name, reply, sink)

    async def _exchange(self, adapter: Adapter, request: Request, timeout_s: float) -> Response:
        life, world = self.life, self.world
        await life.here()
        world.exchanges += 1
        number = world.exchanges
        kind = world.wire.get(number) or world.outage()
        world.step()
        await life.here()
        if kind == "unsent":
            raise failure(adapter.name, aiohttp.ConnectionTimeoutError())
        answer: Answer = asyncio.get_running_loop().create_future()
        world.carry(adapter.name, request, kind, number, answer, timeout_s)
        reply = await answer
        world.step()
        await life.here()
        if isinstance(reply, Failed):
            raise reply
        return reply


class Control:
    """The seams at which a rule can be broken on purpose. This one breaks none."""

    name = ""

    def disk(self, life: Life) -> Disk:
        return Disk(life)

    def adapter(self, adapter: SimAdapter) -> Adapter:
        return adapter

    def rng(self, seed: str) -> random.Random:
        return random.Random(seed)

    def max_idle(self, plan: Plan) -> int:
        """0: each job is loaded again when it is due or asked for."""
        return 0 if plan.seed % 2 else MAX_IDLE


class World:
    """One run. It is the systems' clock as well."""

    def __init__(self, plan: Plan, control: Control) -> None:
        self.plan, self.control = plan, control
        self.store = MemoryStore()
        self.adapters: Mapping[str, Adapter] = {name: control.adapter(adapter) for name, adapter in _ADAPTERS.items()}
        self.twins: dict[str, Twin] = {}
        self.files: dict[str, bytes] = {}
        self.acks: list[Ack] = []
        self.names = [keyed_job_id(TENANT, f"{plan.seed}", n) for n in range(len(plan.jobs))]
        self.paid_requests: Counter[str] = Counter()  # that left, by key
        self.user_ended: set[str] = set()  # jobs whose users gave them up, or dropped their takes
        self.exchanges = self.appends = self.steps = self.in_flight = self.lives = 0
        self.wire = {int(f.at): f.kind[5:] for f in plan.faults if f.kind.startswith("wire:")}
        self.crashes = {int(f.at): f.for_s for f in plan.faults if f.kind == "crash"}
        self.torn = {int(f.at) for f in plan.faults if f.kind == "torn"}
        self._windows = [f for f in plan.faults if f.kind.startswith("outage:") or f.kind.endswith("_full")]
        self._jumps = [f for f in plan.faults if f.kind == "jump"]
        self.life: Life | None = None
        self.unrest: set[int] = set()
        self.users = 0
        self.moved_after_rest = False
        self.rested = False
        self.rested_at = 0.0
        self.stuck = ""
        self._loop: asyncio.AbstractEventLoop
        self._up: asyncio.Event
        self._rest: asyncio.Future[bool]
        self.live: dict[str, m.Job] = {}
        self.callbacks = self.busiest = 0
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._seed = str(plan.seed)

    # ── time and luck ──

    def now(self) -> float:
        """The wall clock, which may jump."""
        at = self._loop.time()
        return round(EPOCH_S + at + sum(jump.for_s for jump in self._jumps if jump.at <= at), 3)

    def draw(self, *place: object) -> float:
        """A number in [0, 1) for a place."""
        digest = hashlib.blake2b(f"{self._seed}{place}".encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big") / 2**48

    def within(self, kind: str) -> bool:
        at = self._loop.time()
        return any(f.kind == kind and f.at <= at < f.at + f.for_s for f in self._windows)

    def outage(self) -> str:
        at = self._loop.time()
        found = [f for f in self._windows if f.kind.startswith("outage:") and f.at <= at < f.at + f.for_s]
        return found[0].kind[7:] if found else ""

    # ── lives ──

    async def main(self) -> None:
        """From the first start to the end of all motion, and a while longer."""
        self._loop = asyncio.get_running_loop()
        self._up, self._rest = asyncio.Event(), self._loop.create_future()
        self._loop.call_later(HORIZON_S, self._give_up)
        for fault in self.plan.faults:
            if fault.kind == "restart":
                self._loop.call_at(fault.at, self._restart, fault.for_s)
        self.users = len(self.plan.jobs)
        for number in range(self.users):
            self._spawn(self._user(number))
        await self._rise(0.0)
        self.rested = await self._rest
        self.rested_at = self._loop.time()
        if self.rested:
            before = self.store.position, self.exchanges
            await asyncio.sleep(QUIET_S)
            self.moved_after_rest = before != (self.store.position, self.exchanges)
        life = await self._living()
        await self._compare(life)
        self.life = None
        await life.system.stop(1.0)
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for twin in self.twins.values():
            twin.settle(self._loop.time())

    def step(self) -> None:
        """Somebody is at a step; it may be their last."""
        self.steps += 1
        if (down_s := self.crashes.get(self.steps)) is not None:
            self.crash(down_s)

    def crash(self, down_s: float) -> None:
        """End it as kill -9 does."""
        if (life := self.life) is not None:
            self._cut(life)
            self._spawn(self._after(life, down_s, 0.0))

    def _restart(self, down_s: float) -> None:
        """SIGTERM: it may finish what costs money."""
        if (life := self.life) is not None:
            self.life = None
            self._up.clear()
            self._spawn(self._after(life, down_s, 8.0))

    def _cut(self, life: Life) -> None:
        life.alive, self.life = False, None
        self._up.clear()
        for call in list(life.calls):
            call.cancel()

    async def _after(self, life: Life, down_s: float, grace_s: float) -> None:
        await life.system.stop(grace_s)
        self._cut(life)
        await self._rise(down_s)

    async def _rise(self, down_s: float) -> None:
        await asyncio.sleep(down_s)
        self.lives += 1
        life = self.life = Life(self, self.lives)
        await life.system.start()
        if self.life is life:
            self._up.set()
            self.look_around()

    async def _living(self) -> Life:
        while self.life is None or not self._up.is_set():
            await self._up.wait()
        return self.life

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None and not self._rest.done():
            self._rest.set_exception(error)
        self.look_around()

    # ── rest ──

    def stored(self, write: Write, stored: Stored) -> None:
        """An append went through."""
        self.unrest.discard(stored.stream)
        if write.head.open and write.events[-1].type != "job.parked":
            self.unrest.add(stored.stream)
        self.look_around()

    def look_around(self) -> None:
        """Is there anything that still moves?"""
        if self._all_done():
            self._loop.call_later(PAUSE_S, self._is_at_rest, self.steps)

    def _is_at_rest(self, steps: int) -> None:
        if steps != self.steps:
            self.look_around()
        elif self._all_done():
            self._rest.set_result(True)

    def _all_done(self) -> bool:
        return self._up.is_set() and not (self.unrest or self.users or self.in_flight or self._rest.done())

    def _give_up(self) -> None:
        if not self._rest.done():
            self._rest.set_result(False)

    # ── the wire ──

    def twin(self, provider: str) -> Twin:
        """The provider of that name."""
        if (twin := self.twins.get(provider)) is None:
            adapter = _ADAPTERS[provider]
            twin = Twin(adapter.doubt, adapter.cancel_kind, self.draw, plain=self.plan.plain)
            self.twins[provider] = twin
        return twin

    def carry(self, provider: str, request: Request, kind: str, number: int, answer: Answer, timeout_s: float) -> None:
        """A request leaves; whoever sent it may be gone when it arrives. It is answered, or its time runs out."""
        twin = self.twin(provider)
        if request.spends and isinstance(request.body, Mapping):
            self.paid_requests[request.body["key"]] += 1
        if kind in ("lost", "hang"):
            self._later(timeout_s, self._deliver, answer, failure(provider, TimeoutError()))
        if kind == "lost":
            return
        there_s, back_s = self._way_s(number, "there"), self._way_s(number, "back")
        self._later(there_s, self._arrive, twin, request, kind, back_s, answer)
        if kind == "twice" and (twin.doubt == "A" or not request.spends):
            again_s = there_s + (LAST_ARRIVAL_S - there_s) * self.draw(number, "again")
            self._later(again_s, self._arrive, twin, request, "hang", 0.0, answer)

    def _way_s(self, number: int, way: str) -> float:
        luck = self.draw(number, way)
        return LAST_ARRIVAL_S * luck if luck > 0.95 else 0.1 + luck

    def _later(self, after_s: float, what: Callable[..., None], *args: object) -> None:
        """It happens whoever is alive by then."""
        self.in_flight += 1
        self._loop.call_later(after_s, what, *args)

    def _arrive(self, twin: Twin, request: Request, kind: str, back_s: float, answer: Answer) -> None:
        reply: Response | Failed | None = _REFUSALS.get(kind)
        if kind == "expired" and "/files/" in request.url:
            reply = reply_of(403, Trouble("expired"))
        if reply is None:
            reply = twin.handle(request, self._loop.time())
            reply = _AFTER.get(kind, reply)
            while twin.callbacks:
                due, key, render = twin.callbacks.pop()
                self._later(due - self._loop.time(), self._call_back, key, render)
        self.step()
        if kind == "deaf":
            reply = failure("sim", aiohttp.ServerDisconnectedError())
        if kind == "hang":
            self._landed()
        else:
            self._loop.call_later(back_s, self._deliver, answer, reply)

    def _deliver(self, answer: Answer, reply: Response | Failed) -> None:
        if not answer.done():
            answer.set_result(reply)
        self._landed()

    def _landed(self) -> None:
        self.in_flight -= 1
        self.look_around()

    def _call_back(self, key: str, id: str) -> None:
        self._spawn(self._calling_back(key, id))

    async def _calling_back(self, key: str, id: str) -> None:
        """The provider of class D says that it has taken it, until somebody listens; now and then once more."""
        name, attempt = key.split("-")[:2]
        for _ in range(2 if self.draw(key, "again") < 0.2 else 1):
            await self._tell(name, partial(self._callback, name, int(attempt), id))
        self._landed()

    async def _callback(self, name: str, attempt: int, id: str, system: System) -> Snapshot:
        """What the route of webhooks will do: it knows the attempt, and the state knows the send."""
        found = await system.look(name)
        if not isinstance(found.job, m.Sent) or found.job.attempt != attempt:
            return found
        report = m.RecordAccepted(attempt=attempt, send=found.job.started.send, handle=Handle(id))
        return await system.ask(name, report)

    # ── users ──

    async def _user(self, number: int) -> None:
        plan, name = self.plan.jobs[number], self.names[number]
        try:
            await asyncio.sleep(plan.at_s)
            await self._tell(name, partial(self._generate, name, self._request(number)))
            wishes = [f for f in self.plan.faults if f.kind.startswith("user:") and f.job == number]
            for wish in sorted(wishes, key=lambda fault: fault.at):
                await asyncio.sleep(max(0.0, wish.at - self._loop.time()))
                await self._wish(name, wish)
        finally:
            self.users -= 1

    def _request(self, number: int) -> m.JobRequested:
        plan = self.plan.jobs[number]
        route = [Target(provider=provider, model="m") for provider in (plan.provider, plan.elsewhere) if provider]
        return m.JobRequested(
            spec=VideoSpec(prompt="a lake", operation=TextToVideo()),
            route=tuple(route),
            needs=("prepare",) if plan.prepares else (),
            start_by=EPOCH_S + 6 * 3600.0,
            at_least_once=plan.twice,
        )

    async def _generate(self, name: str, request: m.JobRequested, system: System) -> Snapshot:
        return (await system.generate(name, TENANT, request))[0]

    async def _wish(self, name: str, wish: Suffering) -> None:
        command: m.Command
        match wish.kind[5:]:
            case "cancel":
                command = m.Cancel()
            case "discard":
                command = m.Cancel(discard=True)
            case "collect":
                command = m.Collect()
            case "adopt":
                mine = [render.id for render in self.renders(name) if render.state != "failed"]
                command = m.Collect(handle=Handle(mine[0]) if mine else None)
            case "give_up":
                command = m.GiveUp()
            case _:
                await self._tell(name, lambda system: system.poll(name))
                return
        done = await self._tell(name, lambda system: system.ask(name, command))
        if done and not isinstance(command, m.Collect):
            self.user_ended.add(name)

    async def _tell(self, name: str, what: Callable[[System], Coroutine[Any, Any, Snapshot]]) -> bool:
        """Ask until there is an answer, as a caller does; False: it was refused, and cannot have been done before."""
        perhaps = False
        while True:
            life = await self._living()
            call = asyncio.ensure_future(what(life.system))
            life.calls[call] = None
            try:
                snapshot = await call
            except asyncio.CancelledError:
                if life.alive:
                    raise
                perhaps = True
                continue
            except CommandRejected:
                return perhaps
            except Unavailable:
                perhaps = True
                await asyncio.sleep(RETRY_S)
                continue
            finally:
                life.calls.pop(call, None)
            if life.alive:
                self.acks.append(Ack(name, snapshot.version, snapshot.job))
                return True

    # ── afterwards ──

    def renders(self, name: str) -> list[Render]:
        """What the providers made for a job."""
        return [render for twin in self.twins.values() for render in twin.renders if render.job == name]

    async def _compare(self, life: Life) -> None:
        """Keep what the live system says beside what the log says."""
        for name in self.names:
            try:
                self.live[name] = (await life.system.look(name)).job
            except NotFound:
                continue

    async def probe(self, path: Path) -> Probe:
        """What a file says of itself."""
        head = self.files["/".join(path.parts[2:])][:12]
        if sniff(head) != "video/mp4":
            raise MediaTrouble("It is none.")
        return Probe()

    def history(self, name: str) -> list[Recorded]:
        """A job's events."""
        if name not in self.store._ids:
            return []
        return self.store._rows[self.store._ids[name]].events

    def state(self, name: str, version: int | None = None) -> m.Job:
        """What the log says of a job."""
        return replay([(codec.decode(one), one.at) for one in self.history(name)[:version]])

    def events(self, name: str) -> list[m.Event]:
        """The same, decoded."""
        return [codec.decode(one) for one in self.history(name)]

    def open(self, name: str) -> bool:
        """Whether the store counts it as unfinished."""
        return self.store._rows[self.store._ids[name]].head.open

    def log(self) -> bytes:
        """Every event on a line."""
        names = {stream: name for name, stream in self.store._ids.items()}
        lines = [
            f"{e.position} {e.at - EPOCH_S:.3f} {names[e.stream]} {e.version} {e.type} v{e.v} ".encode() + e.data
            for e in self.store._log
        ]
        return b"\n".join([*lines, b""])


_ADAPTERS: Final = {adapter.name: adapter for adapter in [SimAdapter(d, c) for d in CLASSES for c in CANCELS]}
_REFUSALS: Final[dict[str, Response]] = {
    "busy": reply_of(429, Trouble("busy")),
    "busy_until": replace(reply_of(429, Trouble("busy")), headers={"retry-after": "20"}),
    "broken": Response(status=500, body=b"<html>oops</html>"),
    "unavailable": replace(reply_of(503, Trouble("later")), headers={"retry-after": "5"}),
    "denied": reply_of(401, Trouble("who are you")),
    "invalid": reply_of(422, Trouble("no")),
}
_AFTER: Final[dict[str, Response]] = {
    "broken_after": Response(status=500, body=b"<html>oops</html>"),
    "gateway": Response(status=200, body=b"<html>welcome</html>", headers={"content-type": "text/html"}),
    "garbage": Response(status=200, body=b"\x00" * 30),
}


def live_through(plan: Plan, control: Control) -> World:
    """Run a plan to its end, or until it can go no further: `stuck` says why."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    world = World(plan, control)
    try:
        with asyncio.Runner(loop_factory=partial(CountingLoop, plan.seed)) as runner:
            runner.run(world.main())
            loop = runner.get_loop()
            assert isinstance(loop, CountingLoop)
            world.callbacks, world.busiest = loop.callbacks, loop.busiest
            if left := asyncio.all_tasks(loop):
                world.stuck = f"{len(left)} tasks are left over, among them {min(map(repr, left))}."
    except Exception as error:  # noqa: BLE001 - whatever it is, it is to be told with its seed
        world.stuck = f"{type(error).__name__}: {error}"
    finally:
        structlog.configure(**before)
    return world
