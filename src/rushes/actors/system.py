"""The actor system: wakes jobs, runs their turns, has their effects performed, and lets them sleep again.

A turn is a function and a commit: the commands that wait are decided together, their events are appended together, and
the commit's own callback answers and looks at what is owed then. So a job has no task of its own; only an effect that
waits for the outside has one, for as long as it waits.

A job that waits costs a timer entry and nothing else: it is loaded when it is due or asked for. Effects belong to the
system: whoever asked may go away, the effect goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.actor import KIND, Actor, Asked, Turn, is_users, lane_of
from rushes.actors.job import minds_time, pending
from rushes.actors.lanes import Lane, Places
from rushes.actors.memory import Memory
from rushes.actors.messages import TYPES, Command, Job, Owed
from rushes.actors.perform import Performer
from rushes.actors.schedule import due_at
from rushes.actors.words import billed_word
from rushes.adapters.base import Adapter
from rushes.adapters.capabilities import Capabilities
from rushes.eventstore.base import (
    EventStore,
    StoreClosed,
    Stored,
    StoreError,
    StoreUnavailable,
    Stream,
    WrongVersion,
)
from rushes.faults import Fault, NotFound, RushesError, Unreadable
from rushes.units import TRACE, Clock

MAX_MAILBOX: Final = 100  # users' commands; a report is never refused
MAX_IDLE: Final = 4_096  # jobs that wait and are kept in memory all the same
STORE_RETRY_S: Final = 1.0
LOG_FAILED_S: Final = 30.0  # nobody may try again to write: so long is a failure believed
MAX_REPEATS: Final = 5  # turns in a row that found the log elsewhere
LOAD_AT_ONCE: Final = 200  # due streams read in one statement
TAKE_UP_AT_ONCE: Final = 10_000  # unfinished jobs read at the start in one statement
TAKE_UP_EACH_S: Final = 0.0002  # between their first wakes
_WAKE: Final = m.Wake()
_PAID: Final = (m.Send, m.SendAgain)
_SENDS: Final = (m.AskPermit, *_PAID)
_CALLS: Final = (m.Ask, m.Look, m.CancelRemote, m.Prepare)
_WORTH_TELLING: Final = (m.SubmissionAccepted, m.JobSucceeded, m.JobFailed, m.JobCancelled, m.JobParked)
_NO_PROVIDER: Final = Capabilities(base_url="", base_url_env="", models=())  # of jobs whose adapter is gone
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
    trouble: Fault | None  # why what is owed came to nothing, the last time
    trace: str  # that its first event belongs to


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
        max_idle: int = MAX_IDLE,
    ) -> None:
        self.store = store
        self._loop = asyncio.get_running_loop()
        self._adapters, self._performer, self._clock, self._fence = adapters, performer, clock, fence
        self._rng = rng or random.Random()  # noqa: S311 - tokens must differ, not be secret; the system's own costs a call
        self._incarnation = f"{self._rng.getrandbits(63):016x}"
        self.tally = performer.tally
        self._lanes: dict[str, Lane] = {}
        self._memory = Memory(
            store, lanes=self._lanes, lane=self._lane, tally=self.tally, release=release, max_idle=max_idle
        )
        self._begun: dict[int, tuple[int, int]] = {}  # stream → the (attempt, send) that this system has begun
        self._doubts: dict[int, float] = {}  # stream → since when we know of its doubt, on the loop's clock
        self._repeats: dict[int, int] = {}  # stream → turns in a row that found the log elsewhere
        self._contacts: dict[int, list[asyncio.Future[None]]] = {}  # streams that are asked out of turn, and who waits
        self._soon: dict[int, asyncio.TimerHandle] = {}  # streams that will be
        self._work: dict[asyncio.Future[Any], None] = {}  # in order, so that a seed is always the same run
        self._log = _log.bind()  # once: the lazy logger would do it at every call
        self._stopping = False
        self._taken_up = False
        self._failed_at = -inf  # when the log took nothing, on the loop's clock; -inf once it took something

    # ── life ──

    async def start(self) -> None:
        """Take up every unfinished job: the first of them now, the others while these are at work already."""
        if after := await self._take_up(0):
            self._spawn(self._take_up_all(after))
        else:
            self._taken_up = True

    async def _take_up_all(self, after: int) -> None:
        while after and not self._stopping:
            try:
                after = await self._take_up(after)
            except StoreError as error:
                _log.error("store.failed", error=type(error).__name__, detail=str(error))
                await asyncio.sleep(STORE_RETRY_S)
        self._taken_up = True

    def unready(self) -> str:
        """Why no new job should come here now; empty where any may."""
        if self._stopping:
            return "it is stopping"
        if not self._taken_up:
            return "it is taking up the unfinished jobs"
        failed = self._loop.time() - self._failed_at < LOG_FAILED_S
        return "its log could not be written just now" if failed else ""

    async def _take_up(self, after: int) -> int:
        """Some of the unfinished jobs; the answer is the last of them, 0 where there are no more."""
        unfinished = await self.store.open_streams(KIND, after, TAKE_UP_AT_ONCE)
        by_lane: dict[str, list[int]] = {}
        for stream, lane in unfinished:
            if stream not in self._memory.live:
                by_lane.setdefault(lane, []).append(stream)
        for lane, streams in by_lane.items():
            self._lane(lane).wake_many(streams, TAKE_UP_EACH_S)
        more = len(unfinished) == TAKE_UP_AT_ONCE
        _log.info("jobs.taken_up", unfinished=len(unfinished), more=more)
        return unfinished[-1][0] if more else 0

    async def stop(self, grace_s: float = 8.0) -> None:
        """Take no more commands, let paid calls end within the grace, drop everything else: it is owed again later."""
        self._stopping = True
        for lane in self._lanes.values():
            lane.stop()
        for timer in self._soon.values():
            timer.cancel()
        for actor in self._memory.live.values():
            if actor.task is not None and not isinstance(actor.effect, _PAID):
                actor.task.cancel()
        ends = self._loop.time() + grace_s
        while self._work and self._loop.time() < ends:
            await asyncio.wait(self._work, timeout=ends - self._loop.time(), return_when=asyncio.FIRST_COMPLETED)
        while self._work:  # what is done stays in it until its own callback has run, which may begin something
            for one in self._work:
                one.cancel()
            await asyncio.wait(self._work)

    # ── what others ask ──

    async def generate(
        self, name: str, tenant: str, request: m.JobRequested, *, fresh: bool = False
    ) -> tuple[Snapshot, bool]:
        """Begin the job of that name; True beside it says that it had begun before. `fresh`: the name was just made."""
        while True:
            if (actor := self._memory.names.get(name)) is not None:
                if not actor.version:  # being born just now
                    await self._tell_and_wait(actor, m.Poll())
                return self._snapshot(actor), True
            if not fresh and await self.store.find(name) is not None:
                return await self.ask(name, m.Poll()), True  # and it is taken up, if it was not
            if name in self._memory.names:
                continue
            actor = self._memory.names[name] = Actor(name, tenant)
            actor.trace = TRACE.get()
            try:
                await self._tell_and_wait(actor, m.Generate(request=request))
            except WrongVersion:  # somebody was faster while we looked
                fresh = False
                continue
            return self._snapshot(actor), False

    async def ask(self, name: str, command: Command) -> Snapshot:
        """Have a job carry out a user's command; the answer is its state afterwards."""
        return (await self.tell(name, command))[0]

    async def tell(self, name: str, command: Command) -> tuple[Snapshot, bool]:
        """The same; True beside it says that something came of it."""
        while (actor := self._memory.names.get(name)) is None:
            stream = await self._stream(name)
            if (resting := self._memory.stopped.get(stream.id)) is not None:
                raise resting
            for unreadable in await self._memory.load([stream.id]):
                raise unreadable
        moved = await self._tell_and_wait(actor, command)
        return self._snapshot(actor), moved

    async def stream_of(self, name: str) -> tuple[int, str]:
        """A job's stream and its tenant. Neither ever changes: a live job's are known. Raises NotFound."""
        if (live := self._memory.names.get(name)) is not None and live.stream is not None:
            return live.stream, live.tenant
        stream = await self._stream(name)
        return stream.id, stream.tenant

    async def look(self, name: str) -> Snapshot:
        """A job's state, without moving it: never older than what the log is known to have."""
        if (live := self._memory.names.get(name)) is not None and live.mailbox is None:
            return self._snapshot(live)
        (found,) = await self.look_many([await self._stream(name)])
        if isinstance(found, Unreadable):
            raise found
        return found

    async def look_many(self, streams: Sequence[Stream]) -> list[Snapshot | Unreadable]:
        """The same for several, read together; what cannot be read is said in its place."""
        found = await self._memory.look_many(streams)
        return [self._snapshot(one) if isinstance(one, Actor) else one for one in found]

    async def poll(self, name: str, timeout_s: float = 10.0) -> Snapshot:
        """Ask the provider now, once the job's minimum interval has passed since the last time; else what is known."""
        await asyncio.sleep(0)  # who asks again and again lets the job have its turn
        snapshot = await self.ask(name, m.Poll())
        if not isinstance(snapshot.job, m.Running):
            return snapshot
        if self._clock.now() - snapshot.heard_at < snapshot.job.started.terms.poll.min_s:
            return snapshot
        stream = await self._stream(name)
        contact: asyncio.Future[None] = self._loop.create_future()
        self._contacts.setdefault(stream.id, []).append(contact)
        lane = self._lane(lane_of(snapshot.job))
        lane.wake_at(stream.id, self._loop.time())
        await asyncio.wait([contact], timeout=timeout_s)
        return await self.look(name)

    async def poll_soon(self, name: str) -> None:
        """Have the provider asked once the job's minimum interval has passed, however often this is said meanwhile."""
        snapshot = await self.look(name)
        stream, _ = await self.stream_of(name)
        if not isinstance(snapshot.job, m.Running) or stream in self._soon or self._stopping:
            return
        lane, min_s = self._lane(lane_of(snapshot.job)), snapshot.job.started.terms.poll.min_s
        self._poll_after(stream, lane, min_s, snapshot.heard_at)

    def _poll_after(self, stream: int, lane: Lane, min_s: float, heard_at: float) -> None:
        wait_s = min(min_s, max(0.0, heard_at + min_s - self._clock.now()))
        self._soon[stream] = self._loop.call_later(wait_s, self._poll_now, stream, lane, min_s)

    def _poll_now(self, stream: int, lane: Lane, min_s: float) -> None:
        """Unless it was asked meanwhile, perhaps before what we were told: then once more."""
        del self._soon[stream]
        now, live = self._clock.now(), self._memory.live.get(stream)
        heard_at = live.heard_at if live is not None else lane.recall(stream)[0].heard_at
        if live is not None and isinstance(live.effect, m.Ask):
            heard_at = now
        if heard_at <= now < heard_at + min_s:
            self._poll_after(stream, lane, min_s, heard_at)
            return
        self._contacts.setdefault(stream, [])
        lane.wake_at(stream, self._loop.time())

    @property
    def lanes(self) -> Sequence[Lane]:
        """Where jobs are served, by name."""
        return [lane for _, lane in sorted(self._lanes.items())]

    # ── activation ──

    async def _stream(self, name: str) -> Stream:
        if (stream := await self.store.find(name)) is None or stream.kind != KIND:
            raise NotFound(f"There is no job {name}.", job_id=name)
        return stream

    def _wake(self, lane: Lane, streams: list[int]) -> None:
        """A lane's timer: these are due; or a place is kept for them."""
        if self._stopping:
            return
        asleep: list[int] = []
        for stream in streams:
            if (actor := self._memory.live.get(stream)) is not None:
                self._nudge(actor)
            else:
                asleep.append(stream)
        for start in range(0, len(asleep), LOAD_AT_ONCE):
            self._spawn(self._activate(lane, asleep[start : start + LOAD_AT_ONCE]))

    async def _activate(self, lane: Lane, streams: list[int]) -> None:
        try:
            await self._memory.load(streams)
        except StoreError as error:
            _log.error("store.failed", error=type(error).__name__, detail=str(error))
            again = self._loop.time() + STORE_RETRY_S
            for stream in streams:
                lane.wake_at(stream, again)
            return
        for stream in streams:
            if (actor := self._memory.live.get(stream)) is not None:
                self._nudge(actor)
            else:
                lane.forget(stream)

    def _nudge(self, actor: Actor) -> None:
        """Its time has come, or a place is kept for it."""
        if minds_time(actor.job):
            self._tell(actor, Asked(_WAKE))
        elif actor.mailbox is None:
            self._memory.rouse(actor)
            self._go_on(actor)

    # ── turns ──

    async def _tell_and_wait(self, actor: Actor, command: Command) -> bool:
        if self._stopping:
            raise actor.unavailable("rushes is stopping: try again when it runs.")
        if len(actor.mailbox or ()) >= MAX_MAILBOX:
            raise actor.unavailable("This job has too many commands waiting: try again in a moment.")
        reply: asyncio.Future[None] = self._loop.create_future()
        asked = Asked(command, reply)
        self._tell(actor, asked)
        await reply
        return asked.moved

    def _tell(self, actor: Actor, asked: Asked) -> None:
        if actor.mailbox is not None:
            actor.mailbox.append(asked)
        else:
            self._turn(actor, [asked])

    def _turn(self, actor: Actor, asked: list[Asked]) -> None:
        """Decide; where something happened have it stored, else go straight on."""
        actor.mailbox = []
        rested = self._memory.rouse(actor)
        try:
            turn = actor.decide(asked, self._clock.now())
            if turn.decided:
                self._take_permit(actor, turn)
                write = actor.write(turn, self._rng.getrandbits(63), self._fence)
                storing = asyncio.ensure_future(self.store.append(write))
                self._work[storing] = None
                storing.add_done_callback(partial(self._stored, actor, turn, asked))
                return
        except Exception as error:  # noqa: BLE001 - one job's trouble stays with that job
            self._not_stored(actor, asked, error)
            return
        turn.answer()
        if rested and is_users(asked[0].command):  # a question, and nothing is owed that was not before
            actor.mailbox = None
            self._memory.rest(actor)
        else:
            self._go_on(actor)

    def _take_permit(self, actor: Actor, turn: Turn) -> None:
        """A permit that is free is taken in the turn that makes it owed: one commit instead of two."""
        if not isinstance(turn.job, m.Queued) or self._stopping or actor.place is not None:
            return
        owed = pending(turn.job, self._incarnation)
        if not isinstance(owed, m.AskPermit) or owed.not_before > turn.at:
            return
        sends = self._lane(lane_of(turn.job)).sends
        if sends.take_free():
            actor.place = sends
            permit = self._performer.perform_at_once(owed, turn.job, actor.name, self._incarnation)
            if permit is not None:
                turn.decide(permit)

    def _stored(self, actor: Actor, turn: Turn, asked: list[Asked], storing: asyncio.Future[Stored]) -> None:
        self._work.pop(storing, None)
        error = StoreClosed("The wait was dropped.") if storing.cancelled() else storing.exception()
        if error is None:
            self._failed_at = -inf
            self._become(actor, turn, storing.result())
        else:
            self._not_stored(actor, asked, error)

    def _not_stored(self, actor: Actor, asked: list[Asked], error: BaseException) -> None:
        if isinstance(error, StoreUnavailable):
            self._keep_reports(actor, asked, error)
        elif isinstance(error, WrongVersion):
            self._look_again(actor, asked, error)
        elif self._stopping and isinstance(error, StoreClosed):
            self._drop(actor, asked, error)
        else:
            self._give_up_on(actor, asked, error)

    def _become(self, actor: Actor, turn: Turn, stored: Stored) -> None:
        newborn = actor.stream is None
        self.tally.stored(actor.job, turn.decided, turn.job, turn.at - (actor.born_at or turn.at))
        actor.become(turn, stored)
        for event, _ in turn.decided:
            level = self._log.info if isinstance(event, _WORTH_TELLING) else self._log.debug
            level(TYPES[type(event)], job=actor.name)
        if newborn:
            self._memory.live[stored.stream] = actor
        lane = self._change_lane(actor, turn)
        if isinstance(actor.job, m.Ended) and not actor.job.hidden:
            lane.ended += 1
        if not isinstance(actor.job, m.Submitting):
            self._begun.pop(stored.stream, None)
        if not isinstance(actor.job, m.InDoubt):
            self._doubts.pop(stored.stream, None)
        self._repeats.pop(stored.stream, None)
        turn.answer()
        self._go_on(actor)

    def _change_lane(self, actor: Actor, turn: Turn) -> Lane:
        """Where the job is served from now on: another attempt may go elsewhere."""
        lane = actor.lane
        if lane is None or lane.name != turn.lane:
            if lane is not None and actor.stream is not None:
                lane.forget(actor.stream)
            lane = actor.lane = self._lane(turn.lane)
        return lane

    def _go_on(self, actor: Actor) -> None:
        """Turn again if somebody spoke meanwhile, else see to what is owed."""
        asked, actor.mailbox = actor.mailbox, None
        if asked:
            self._turn(actor, asked)
            return
        try:
            self._settle(actor)
        except Exception as error:  # noqa: BLE001 - one job's trouble stays with that job
            self._give_up_on(actor, [], error)

    def _keep_reports(self, actor: Actor, asked: list[Asked], error: StoreUnavailable) -> None:
        """The disk does not take it. People can ask again; what a provider told us must not be lost."""
        self._failed_at = self._loop.time()
        _log.error("store.failed", job=actor.name, detail=str(error))
        for one in asked:
            one.refuse(actor.unavailable(f"The job's log cannot be written: {error}"))
        self._free_place(actor)  # a permit is asked for again: nobody else has to wait for our disk
        if actor.stream is None:
            self._drop(actor, [], error)
            return
        kept = [one for one in asked if not is_users(one.command) and not isinstance(one.command, m.GrantPermit)]
        actor.mailbox = kept + (actor.mailbox or [])
        self._loop.call_later(STORE_RETRY_S, self._retry, actor)

    def _retry(self, actor: Actor) -> None:
        if not self._stopping and self._memory.live.get(actor.stream or 0) is actor:
            self._go_on(actor)

    def _look_again(self, actor: Actor, asked: list[Asked], error: WrongVersion) -> None:
        """The log is not where we thought: let go of what we hold, read again, and tell it all to what is there."""
        stream = actor.stream
        if stream is None:
            self._drop(actor, asked, error)
        elif self._repeats.get(stream, 0) >= MAX_REPEATS:
            del self._repeats[stream]
            self._give_up_on(actor, asked, error)
        else:
            _log.warning("turn.repeated", job=actor.name)
            self._repeats[stream] = self._repeats.get(stream, 0) + 1
            asked = asked + (actor.mailbox or [])
            actor.mailbox = []
            self._drop(actor, [], error)
            self._spawn(self._retell(actor, stream, asked))

    async def _retell(self, old: Actor, stream: int, asked: list[Asked]) -> None:
        """Tell it to whoever is that job's actor now: the old one was let go, and must not act any more."""
        try:
            for unreadable in await self._memory.load([stream]):
                raise unreadable
        except (StoreError, Unreadable) as error:
            _refuse(old, asked, error)
            return
        live = self._memory.live[stream]
        if live.mailbox is None:
            self._turn(live, asked)
        else:
            live.mailbox += asked

    def _give_up_on(self, actor: Actor, asked: list[Asked], error: BaseException) -> None:
        """A bug, or a log that never fits: this job rests until the next start; no other is touched."""
        _log.error("turn.failed", job=actor.name, error=type(error).__name__, exc_info=error)
        if actor.stream is not None:
            detail = f"{actor.name} rests until rushes starts again: it could not act ({type(error).__name__})"
            billed = billed_word(actor.job)
            self._memory.stopped[actor.stream] = Unreadable(
                f"{detail}; please report it.", job_id=actor.name, billed=billed
            )
            _contacted(self._contacts.pop(actor.stream, []))
        self._drop(actor, asked, error)

    def _drop(self, actor: Actor, asked: list[Asked], error: BaseException) -> None:
        _refuse(actor, asked + (actor.mailbox or []), error)
        actor.mailbox = None
        self._free_place(actor)
        self._memory.drop(actor)

    # ── effects ──

    def _settle(self, actor: Actor) -> None:
        """Start, keep or drop the one owed effect; then let the actor sleep if nothing moves."""
        if actor.stream is None:
            return
        owed = self._owed(actor)
        if self._stopping and not isinstance(owed, m.Send):  # an intent that is on disk would be a doubt for nothing
            return
        if isinstance(owed, m.Look):
            self._doubts.setdefault(actor.stream, self._loop.time())
        if actor.task is not None:
            if owed != actor.effect and not isinstance(actor.effect, _PAID):
                actor.task.cancel()  # its end settles again; a paid call is never torn down
            return
        lane = actor.lane
        assert lane is not None
        if not isinstance(owed, m.Send):
            self._free_place(actor)
        if owed is None:
            lane.forget(actor.stream)
            _contacted(self._contacts.pop(actor.stream, []))
            self._memory.rest(actor)
            return
        now = self._clock.now()
        actor.tried_at, actor.heard_at = min(actor.tried_at, now), min(actor.heard_at, now)
        tried_at = max(actor.tried_at, actor.heard_at)
        wait_s = due_at(owed, actor.job, actor.name, tried_at=tried_at, troubles=actor.troubles, now=now) - now
        if isinstance(owed, m.Ask):
            wait_s = max(wait_s, tried_at + actor.pause_s - now)
        if wait_s > 0 and not (isinstance(owed, m.Ask) and actor.stream in self._contacts):
            lane.decline(actor.stream)
            self._sleep(actor, lane, wait_s)
        else:
            if isinstance(owed, m.Ask):
                self.tally.poll_lags.observe(max(0.0, -wait_s))
            self._begin(actor, owed, lane)

    def _owed(self, actor: Actor) -> Owed | None:
        owed = pending(actor.job, self._incarnation)
        if not isinstance(owed, m.Send) or owed == actor.effect:
            return owed
        begun = self._begun.get(actor.stream or 0) == (owed.attempt, owed.send)
        return pending(actor.job, None) if begun else owed  # begun here, and its report was lost

    def _begin(self, actor: Actor, owed: Owed, lane: Lane) -> None:
        assert actor.stream is not None
        places = _places(owed, lane)
        if places is not None and actor.place is not places:
            self._free_place(actor)
            if not places.take(actor.stream):
                self._wait_for_a_place(actor, lane)
                return
            actor.place = places
        report = self._performer.perform_at_once(owed, actor.job, actor.name, self._incarnation)
        if report is not None:
            actor.tried_at = self._clock.now()
            self._ended(actor, owed, report)
            return
        if isinstance(owed, m.Send):
            self._begun[actor.stream] = owed.attempt, owed.send
        actor.effect = owed
        actor.task = self._spawn(self._effect(actor, owed))

    async def _effect(self, actor: Actor, owed: Owed) -> None:
        """Perform, and tell the report; dropped or not, the effect counts as ended and what is owed is asked again."""
        began = self._loop.time()
        try:
            report = await self._performer.perform(owed, actor.job, actor.name, actor.bad_files, actor.trace)
        except asyncio.CancelledError:
            report = _WAKE
        if isinstance(report, m.RecordAbsent) and isinstance(owed, m.Look):
            report = self._as_old_as_our_waiting(report, owed.since, began - self._doubts.get(actor.stream or 0, began))
        actor.task = actor.effect = None
        actor.tried_at = self._clock.now()
        actor.pause_s = report.wait_s if isinstance(report, m.RecordProgress) else 0.0
        self._learn(actor, owed, report)
        self._ended(actor, owed, report)

    def _as_old_as_our_waiting(self, absent: m.RecordAbsent, since: float, waited_s: float) -> m.RecordAbsent:
        """Evidence of absence counts from the time that we ourselves have waited, whatever the wall clock did."""
        return replace(absent, looked_at=min(absent.looked_at, since + waited_s))

    def _ended(self, actor: Actor, owed: Owed, report: Command) -> None:
        if not isinstance(report, m.GrantPermit):  # a permit's place is the send's
            self._free_place(actor)
        if isinstance(report, m.RecordTrouble):
            actor.troubles, actor.trouble = actor.troubles + 1, report.fault
            if isinstance(owed, m.Store) and _is_no_file(owed, report.fault):
                actor.bad_files += 1
            _log.warning("effect.troubled", job=actor.name, effect=type(owed).__name__, code=report.fault.code)
        else:
            actor.troubles, actor.trouble = 0, None
            if isinstance(report, m.RecordStored | m.RecordLost):
                actor.bad_files = 0
        assert actor.stream is not None
        contacts = self._contacts.pop(actor.stream, []) if isinstance(owed, m.Ask) else []  # or it is asked once more
        if self._memory.live.get(actor.stream) is actor:
            self._tell(actor, Asked(report))
        else:  # let go while it was at work
            self._spawn(self._retell(actor, actor.stream, [Asked(report)]))
        _contacted(contacts)

    def _learn(self, actor: Actor, owed: Owed, report: Command) -> None:
        """What the provider's answer to one job says about all of its lane."""
        lane, places = actor.lane, None if actor.lane is None else _places(owed, actor.lane)
        if lane is None or places is None or places is lane.fetches or isinstance(report, m.Wake):
            return
        if isinstance(owed, m.Ask):
            lane.polls += 1
        match report:
            case (
                m.RecordTrouble(fault=fault)
                | m.RecordRefused(fault=fault)
                | m.RecordDoubt(fault=fault)
                | m.RecordDenied(fault=fault)
            ):
                lane.went_wrong(fault, places)
            case _:
                lane.went_well()
                actor.heard_at = actor.tried_at

    def _free_place(self, actor: Actor) -> None:
        if (place := actor.place) is not None:
            actor.place = None
            place.free()

    # ── sleep ──

    def _sleep(self, actor: Actor, lane: Lane, wait_s: float) -> None:
        assert actor.stream is not None
        lane.wake_at(actor.stream, self._loop.time() + wait_s)
        self._memory.rest(actor)

    def _wait_for_a_place(self, actor: Actor, lane: Lane) -> None:
        """A place comes when it comes; the time to start in may end before."""
        if isinstance(actor.job, m.Queued):
            self._sleep(actor, lane, max(0.0, actor.job.start_by - self._clock.now()))
        else:
            self._memory.rest(actor)

    # ── small things ──

    def _lane(self, name: str) -> Lane:
        if (lane := self._lanes.get(name)) is None:
            adapter = self._adapters.get(name.partition("/")[0])
            lane = self._lanes[name] = Lane(name, self._wake, adapter.capabilities if adapter else _NO_PROVIDER)
        return lane

    def _snapshot(self, actor: Actor) -> Snapshot:
        return Snapshot(
            name=actor.name,
            tenant=actor.tenant,
            job=actor.job,
            version=actor.version,
            born_at=actor.born_at,
            at=actor.at,
            heard_at=max(actor.heard_at, actor.at),
            trouble=actor.trouble,
            trace=actor.trace,
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Stopping waits for it."""
        task = self._loop.create_task(work)
        self._work[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.pop(task, None)


def _contacted(contacts: Sequence[asyncio.Future[None]]) -> None:
    for contact in contacts:
        if not contact.done():
            contact.set_result(None)


def _refuse(actor: Actor, asked: Sequence[Asked], error: BaseException) -> None:
    if not isinstance(error, RushesError | StoreError):
        error = actor.unavailable(f"The job could not act ({type(error).__name__}): please report it.")
    for one in asked:
        one.refuse(error)


def _is_no_file(owed: m.Store, fault: Fault) -> bool:
    """Whether this counts against a take: what is no video, and whatever else keeps a picture away but our own disk."""
    return fault.code == "bad_answer" or (owed.beside and fault.code != "storage_failed")


def _places(owed: Owed, lane: Lane) -> Places | None:
    """Which places the effect is one of, if it is one of any."""
    if isinstance(owed, _CALLS):
        return lane.calls
    if isinstance(owed, _SENDS):
        return lane.sends
    return lane.fetches if isinstance(owed, m.Store) else None
