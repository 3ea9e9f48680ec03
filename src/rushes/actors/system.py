"""The actor system: wakes jobs, runs their turns, has their effects performed, and lets them sleep again.

A job that waits costs a timer entry and nothing else; it is loaded when it is due or asked for. Effects belong to the
system: whoever asked may go away, the effect goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.actor import KIND, Actor, Asked, is_users, lane_of
from rushes.actors.codec import BadEvent
from rushes.actors.job import pending
from rushes.actors.lanes import Lane
from rushes.actors.messages import Command, Job, Owed
from rushes.actors.perform import Performer, backoff_s
from rushes.adapters.base import Adapter, Terms
from rushes.eventstore.base import Damaged, EventStore, Recorded, StoreError, StoreUnavailable, Stream, WrongVersion
from rushes.faults import NotFound, RushesError, Unavailable, Unreadable, damaged
from rushes.units import Clock, spread

MAX_MAILBOX: Final = 100  # users' commands; a report is never refused
STORE_RETRY_S: Final = 1.0
MAX_REPEATS: Final = 5  # turns in a row that found the log elsewhere
LOAD_AT_ONCE: Final = 200  # due streams read in one statement
CREDENTIAL_PAUSE_S: Final = 60.0  # a lane whose credential was refused
DEFAULT_PERMITS: Final = 8
LOOK_AGAIN_S: Final = 60.0  # when the schedule of look-ups is used up
_log = structlog.get_logger("rushes")


class Snapshot(Struct, frozen=True, kw_only=True):
    """A job at one moment, for those who look."""

    name: str
    tenant: str
    job: Job
    version: int
    born_at: float
    at: float  # of its last event
    heard_at: float  # when the provider last answered, or `at`


class System:
    """All jobs of one log. One system owns a log at a time."""

    def __init__(
        self,
        *,
        store: EventStore,
        adapters: Mapping[str, Adapter],
        performer: Performer,
        clock: Clock,
        rng: random.Random | None = None,
        fence: int = 0,
        release: str = "",  # ours: it is named to people whose log a newer one wrote
    ) -> None:
        self.store = store
        self._adapters, self._performer, self._clock, self._fence = adapters, performer, clock, fence
        self._release = release
        self._rng = rng or random.SystemRandom()
        self._incarnation = f"{self._rng.getrandbits(63):016x}"
        self._live: dict[int, Actor] = {}
        self._births: dict[str, Actor] = {}
        self._lanes: dict[str, Lane] = {}
        self._begun: dict[str, set[tuple[int, int]]] = {}  # job → the (attempt, send)s that this system has begun
        self._repeats: dict[int, int] = {}  # stream → turns in a row that found the log elsewhere
        self._heard: dict[int, float] = {}  # when a provider last answered about a stream
        self._contacts: dict[int, list[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # ── life ──

    async def start(self) -> int:
        """Take up every unfinished job; the answer is how many. Their first wakes are spread over a lane's interval."""
        unfinished = await self.store.open_streams(KIND)
        now = asyncio.get_running_loop().time()
        for stream, lane in unfinished:
            self._lane(lane).wake_at(stream, now + spread(str(stream)))
        _log.info("system.started", unfinished=len(unfinished))
        return len(unfinished)

    async def stop(self, grace_s: float = 8.0) -> None:
        """Take no more commands, let paid calls end within the grace, drop everything else: it is owed again later."""
        self._stopping = True
        for lane in self._lanes.values():
            lane.stop()
        for actor in self._live.values():
            if actor.task is not None and not isinstance(actor.effect, m.Send | m.SendAgain):
                actor.task.cancel()
        loop = asyncio.get_running_loop()
        ends = loop.time() + grace_s
        while self._tasks and loop.time() < ends:
            wait_s = ends - loop.time()
            done, _ = await asyncio.wait(self._tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            self._tasks -= done  # their own callbacks may not have run yet
        while self._tasks:
            left = set(self._tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self._tasks -= left

    # ── what others ask ──

    async def generate(self, name: str, tenant: str, request: m.JobRequested) -> tuple[Snapshot, bool]:
        """Begin the job of that name; True beside it says that it had begun before."""
        while await self.store.find(name) is None:
            born = self._births.get(name)
            if born is not None:
                await self._until_born(born)
                return self._snapshot(born), True
            actor = self._births[name] = Actor(name, tenant)
            try:
                await self._tell_and_wait(actor, m.Generate(request=request))
            except WrongVersion:  # somebody was faster while we looked
                continue
            return self._snapshot(actor), False
        return await self.look(name), True

    async def ask(self, name: str, command: Command) -> Snapshot:
        """Have a job carry out a user's command; the answer is its state afterwards."""
        actor = await self._actor_of(name)
        await self._tell_and_wait(actor, command)
        return self._snapshot(actor)

    async def look(self, name: str) -> Snapshot:
        """A job's state, without moving it."""
        stream = await self._stream(name)
        if (live := self._live.get(stream.id)) is not None and live.version:
            return self._snapshot(live)
        (found,) = await self.look_many([stream])
        if isinstance(found, Unreadable):
            raise found
        return found

    async def look_many(self, streams: Sequence[Stream]) -> list[Snapshot | Unreadable]:
        """The same for several, read together; what cannot be read is said in its place."""
        loaded = await self._replayed(streams)
        return [self._snapshot(one) if isinstance(one, Actor) else one for one in loaded]

    async def poll(self, name: str, timeout_s: float = 10.0) -> Snapshot:
        """Ask the provider now, once the job's minimum interval has passed since the last time; else what is known."""
        snapshot = await self.ask(name, m.Poll())
        stream = await self._stream(name)
        if not isinstance(snapshot.job, m.Running):
            return snapshot
        if self._clock.now() - snapshot.heard_at < snapshot.job.started.terms.poll.min_s:
            return snapshot
        contact: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._contacts.setdefault(stream.id, []).append(contact)
        self._lane(lane_of(snapshot.job)).wake_at(stream.id, asyncio.get_running_loop().time())
        await asyncio.wait([contact], timeout=timeout_s)
        return await self.look(name)

    # ── activation ──

    async def _stream(self, name: str) -> Stream:
        if (stream := await self.store.find(name)) is None or stream.kind != KIND:
            raise NotFound(f"There is no job {name}.", job_id=name)
        return stream

    async def _actor_of(self, name: str) -> Actor:
        if (born := self._births.get(name)) is not None:
            await self._until_born(born)
        stream = await self._stream(name)
        for unreadable in await self._load([stream.id]):
            raise unreadable
        return self._live[stream.id]

    async def _until_born(self, actor: Actor) -> None:
        if actor.turning is not None:
            await asyncio.wait([actor.turning])
        if not actor.version:
            raise Unavailable("The job could not be stored: try again.", job_id=actor.name)

    async def _load(self, ids: Sequence[int]) -> list[Unreadable]:
        """Make these live; what cannot be is said, and harms no other."""
        asleep = [stream for stream in ids if stream not in self._live]
        if not asleep:
            return []
        rows = (await self.store.streams(asleep)).values()
        unreadable: list[Unreadable] = []
        for actor in await self._replayed(list(rows)):
            if isinstance(actor, Unreadable):
                _log.error("job.unreadable", job=actor.job_id, detail=actor.detail)
                unreadable.append(actor)
            elif actor.stream is not None:
                self._live.setdefault(actor.stream, actor)
        return unreadable

    async def _replayed(self, streams: Sequence[Stream]) -> list[Actor | Unreadable]:
        """Actors as the log says, read together; what is damaged or unknown is said in its place."""
        histories = await self.store.read_many([stream.id for stream in streams])
        return [self._replay(stream, histories[stream.id]) for stream in streams]

    def _replay(self, stream: Stream, history: list[Recorded] | Damaged) -> Actor | Unreadable:
        if isinstance(history, Damaged):
            return damaged(stream.name, history.damage.version, history.damage.position)
        if not history or history[-1].version != len(history):
            return damaged(stream.name, _first_missing(history), 0)
        actor = Actor(stream.name, stream.tenant, stream.id)
        try:
            actor.replay(history)
        except BadEvent as bad:
            return bad.about(stream.name, self._release, self.store.release)
        except Exception as error:  # noqa: BLE001 - one job's trouble stays with that job
            detail = f"The events of {stream.name} do not follow each other ({type(error).__name__}): please report it."
            return Unreadable(detail, job_id=stream.name)
        return actor

    def _wake(self, streams: list[int]) -> None:
        """A lane's timer: these are due."""
        if not self._stopping:
            for start in range(0, len(streams), LOAD_AT_ONCE):
                self._spawn(self._activate(streams[start : start + LOAD_AT_ONCE]))

    async def _activate(self, streams: list[int]) -> None:
        try:
            await self._load(streams)
        except StoreError as error:
            _log.error("store.failed", error=type(error).__name__, detail=str(error))
            again = asyncio.get_running_loop().time() + STORE_RETRY_S
            for stream in streams:
                self._lane("").wake_at(stream, again)
            return
        for stream in streams:
            if (actor := self._live.get(stream)) is not None:
                self._tell(actor, Asked(m.Wake()))
            else:
                self._leave_lanes(stream)

    # ── turns ──

    async def _tell_and_wait(self, actor: Actor, command: Command) -> None:
        if self._stopping:
            raise Unavailable("rushes is stopping: try again when it runs.", job_id=actor.name)
        if len(actor.mailbox) >= MAX_MAILBOX:
            raise Unavailable("This job has too many commands waiting: try again in a moment.", job_id=actor.name)
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tell(actor, Asked(command, reply))
        await reply

    def _tell(self, actor: Actor, asked: Asked) -> None:
        actor.mailbox.append(asked)
        if actor.turning is None:
            actor.turning = self._spawn(self._turns(actor))

    async def _turns(self, actor: Actor) -> None:
        """Turn until the mailbox is empty, then settle what is owed, and sleep if nothing is."""
        try:
            while actor.mailbox:
                asked, actor.mailbox = actor.mailbox, []
                if not await self._turn(actor, asked):
                    return
        finally:
            actor.turning = None
        self._settle(actor)

    async def _turn(self, actor: Actor, asked: list[Asked]) -> bool:
        newborn = actor.stream is None
        try:
            await actor.turn(asked, self._clock.now(), self.store, self._rng.getrandbits(63), self._fence)
        except StoreUnavailable as error:
            self._keep_reports(actor, asked, error)
            return False
        except WrongVersion as error:
            if actor.stream is None:
                self._drop(actor, asked, error)
            elif self._repeats.get(actor.stream, 0) < MAX_REPEATS:
                self._reload(actor, actor.stream, asked)
            else:
                self._repeats.pop(actor.stream)
                self._give_up_on(actor, asked, error)
            return False
        except Exception as error:  # noqa: BLE001 - one job's trouble stays with that job
            self._give_up_on(actor, asked, error)
            return False
        if newborn and actor.stream is not None:
            self._live[actor.stream] = actor
            self._births.pop(actor.name, None)
        self._repeats.pop(actor.stream or 0, None)
        return True

    def _keep_reports(self, actor: Actor, asked: list[Asked], error: StoreUnavailable) -> None:
        """The disk does not take it. People can ask again; what a provider told us must not be lost."""
        _log.error("store.failed", job=actor.name, detail=str(error))
        for one in asked:
            one.refuse(Unavailable(f"The job's log cannot be written: {error}", job_id=actor.name))
        actor.mailbox[:0] = [one for one in asked if not is_users(one.command)]
        if actor.stream is None:
            self._births.pop(actor.name, None)
            return

        def again() -> None:
            if actor.turning is None and not self._stopping:
                actor.turning = self._spawn(self._turns(actor))

        asyncio.get_running_loop().call_later(STORE_RETRY_S, again)

    def _reload(self, actor: Actor, stream: int, asked: list[Asked]) -> None:
        """The log is not where we thought: let go of what we hold, read again, and tell it all to what is there."""
        _log.warning("turn.repeated", job=actor.name)
        self._repeats[stream] = self._repeats.get(stream, 0) + 1
        asked = asked + actor.mailbox
        actor.mailbox = []
        self._drop(actor, [], WrongVersion())
        self._spawn(self._retell(actor, stream, asked))

    async def _retell(self, old: Actor, stream: int, asked: list[Asked]) -> None:
        try:
            for unreadable in await self._load([stream]):
                raise unreadable
        except (StoreError, Unreadable) as error:
            self._drop(old, asked, error)
            return
        for one in asked:
            self._tell(self._live[stream], one)

    def _give_up_on(self, actor: Actor, asked: list[Asked], error: Exception) -> None:
        """A bug, or damage: this job rests until the next start; no other is touched."""
        _log.error("turn.failed", job=actor.name, error=type(error).__name__, exc_info=error)
        self._drop(actor, asked, error)

    def _drop(self, actor: Actor, asked: list[Asked], error: Exception) -> None:
        for one in asked + actor.mailbox:
            known = isinstance(error, RushesError | StoreError)
            one.refuse(error if known else Unavailable(f"The job could not act: {error}", job_id=actor.name))
        actor.mailbox.clear()
        self._free_permit(actor)
        self._births.pop(actor.name, None)
        if actor.stream is not None:
            self._live.pop(actor.stream, None)

    # ── effects ──

    def _settle(self, actor: Actor) -> None:
        """Start, keep or drop the one owed effect; then let the actor sleep if nothing moves."""
        if actor.stream is None or self._stopping:
            return
        owed = self._owed(actor)
        if actor.task is not None:
            if owed != actor.effect and not isinstance(actor.effect, m.Send | m.SendAgain):
                actor.task.cancel()  # its end settles again; a paid call is never torn down
            return
        if not isinstance(owed, m.Send):
            self._free_permit(actor)
        if owed is None:
            self._forget(actor)
        elif (due := self._due(actor, owed)) > asyncio.get_running_loop().time():
            self._lane_of(actor).decline(actor.stream)
            self._lane_of(actor).wake_at(actor.stream, due)
            self._sleep(actor)
        else:
            self._begin(actor, owed)

    def _owed(self, actor: Actor) -> Owed | None:
        owed = pending(actor.job, self._incarnation)
        if not isinstance(owed, m.Send) or owed == actor.effect:
            return owed
        begun = (owed.attempt, owed.send) in self._begun.get(actor.name, ())
        return pending(actor.job, None) if begun else owed  # begun here, and its report was lost

    def _due(self, actor: Actor, owed: Owed) -> float:
        """When to perform it, on the loop's clock: schedules come from the job's pinned terms."""
        wall = self._clock.now()
        return asyncio.get_running_loop().time() + max(self._due_at(actor, owed, wall) - wall, 0.0)

    def _due_at(self, actor: Actor, owed: Owed, wall: float) -> float:
        assert actor.stream is not None
        tried_at = max(self._heard.get(actor.stream, 0.0), actor.tried_at)
        pause_s = backoff_s(actor.name, actor.troubles - 1) if actor.troubles else 0.0
        match owed:
            case m.AskPermit(not_before=not_before):
                return not_before
            case m.Ask(accepted_at=accepted_at, deadline=deadline):
                if actor.stream in self._contacts:
                    return wall
                interval_s = _terms(actor).poll.interval_s(wall - accepted_at)
                return min(max(tried_at, accepted_at) + max(interval_s, pause_s), max(deadline, tried_at + pause_s))
            case m.Look(since=since, until=until) | m.SendAgain(since=since, until=until):
                looks = [since + after_s for after_s in _terms(actor).looks_s if since + after_s > max(tried_at, since)]
                return min(looks[0] if looks else tried_at + LOOK_AGAIN_S, max(until, tried_at + pause_s))
            case m.AwaitCallback(until=until):
                return until
            case _:
                return actor.tried_at + pause_s if actor.troubles else wall

    def _begin(self, actor: Actor, owed: Owed) -> None:
        assert actor.stream is not None
        lane = self._lane_of(actor)
        if isinstance(owed, m.AskPermit):
            if not lane.take_permit(actor.stream, asyncio.get_running_loop().time()):
                self._sleep(actor)
                return
            actor.permit = lane
        if isinstance(owed, m.Send):
            self._begun.setdefault(actor.name, set()).add((owed.attempt, owed.send))
        self._leave_lanes(actor.stream)
        actor.effect = owed
        actor.task = self._spawn(self._effect(actor, owed, lane))

    async def _effect(self, actor: Actor, owed: Owed, lane: Lane) -> None:
        """Perform, and tell the report; dropped or not, the effect counts as ended and what is owed is asked again."""
        report: Command = m.Wake()
        try:
            report = await self._performer.perform(owed, actor.job, actor.name, actor.troubles)
        finally:
            self._ended(actor, owed, report, lane)

    def _ended(self, actor: Actor, owed: Owed, report: Command, lane: Lane) -> None:
        actor.task, actor.effect, actor.tried_at = None, None, self._clock.now()
        assert actor.stream is not None
        if isinstance(owed, m.Send):
            self._free_permit(actor)
        if isinstance(report, m.GrantPermit):
            report = replace(report, incarnation=self._incarnation)
        if isinstance(report, m.RecordTrouble):
            actor.troubles += 1
            _log.warning("effect.troubled", job=actor.name, effect=type(owed).__name__, code=report.fault.code)
            if report.fault.code == "authentication_failed":
                lane.close_until(asyncio.get_running_loop().time() + CREDENTIAL_PAUSE_S)
        else:
            actor.troubles = 0
            self._heard[actor.stream] = actor.tried_at
        self._tell(actor, Asked(report))
        if isinstance(owed, m.Ask):
            self._contacted(actor.stream)

    def _contacted(self, stream: int) -> None:
        for contact in self._contacts.pop(stream, []):
            if not contact.done():
                contact.set_result(None)

    def _free_permit(self, actor: Actor) -> None:
        if (lane := actor.permit) is not None:
            actor.permit = None
            lane.free_permit()

    def _sleep(self, actor: Actor) -> None:
        """Passivate: the log has all that matters."""
        if not actor.troubles and actor.task is None and not actor.mailbox and actor.stream is not None:
            self._live.pop(actor.stream, None)

    def _forget(self, actor: Actor) -> None:
        """Nothing is owed any more."""
        assert actor.stream is not None
        self._heard.pop(actor.stream, None)
        self._begun.pop(actor.name, None)
        self._contacted(actor.stream)
        self._leave_lanes(actor.stream)
        self._live.pop(actor.stream, None)

    def _leave_lanes(self, stream: int) -> None:
        for lane in self._lanes.values():
            lane.forget(stream)

    # ── small things ──

    def _lane_of(self, actor: Actor) -> Lane:
        return self._lane(lane_of(actor.job))

    def _lane(self, name: str) -> Lane:
        if (lane := self._lanes.get(name)) is None:
            adapter = self._adapters.get(name.partition("/")[0])
            permits = adapter.capabilities.submits_at_once if adapter else DEFAULT_PERMITS
            lane = self._lanes[name] = Lane(name, permits, self._wake)
        return lane

    def _snapshot(self, actor: Actor) -> Snapshot:
        heard_at = self._heard.get(actor.stream or 0, actor.at)
        return Snapshot(
            name=actor.name,
            tenant=actor.tenant,
            job=actor.job,
            version=actor.version,
            born_at=actor.born_at,
            at=actor.at,
            heard_at=max(heard_at, actor.at),
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _first_missing(history: Sequence[Recorded]) -> int:
    """The version that a stream lacks: a damaged number hides an event from its own stream."""
    return next((v for v, recorded in enumerate(history, 1) if recorded.version != v), len(history) + 1)


def _terms(actor: Actor) -> Terms:
    """What was pinned for the send that is being looked after."""
    assert isinstance(actor.job, m.Sent)
    return actor.job.started.terms
