"""A job run again, offline: today's adapters and today's system, in virtual time, answered from the record.

What the provider said is said again at its time (`traffic`). What else came from outside is done again at its time too:
the commands of users, callbacks, and the end of one process and the beginning of the next. All the rest is today's
code, and its events must be those of the log, one after the other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from math import inf
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog
from msgspec import Struct
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.codec import decode
from rushes.actors.job import evolve
from rushes.actors.messages import TYPES, Command, Event, Job, New, Owed
from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Ask, Failed
from rushes.adapters.callbacks import PATH, Callbacks
from rushes.adapters.installed import installed_adapters
from rushes.adapters.redaction import REDACTED
from rushes.assets import Assets
from rushes.eventstore.base import Recorded, Stored, Write
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Fault, RushesError, bad
from rushes.flight import BATCH_S, Exchange, Run, drawn_at
from rushes.media import MediaTrouble
from rushes.replay.informed import base_of, informed
from rushes.replay.likeness import unlike
from rushes.replay.recording import Recording
from rushes.replay.report import Difference, Report, Verdict
from rushes.replay.timeline import meta_of, names
from rushes.replay.traffic import SOON_S, Question, Tape, body_of, is_whole, was_cut_off
from rushes.replay.verify import Cannot, Diverged, Line, belongs, command_of, fold, read, shown, traffic_of
from rushes.testing.loop import run
from rushes.units import REPLAYING
from rushes.video import JSON, Probe

ASIDE: Final[Mapping[str, str]] = {
    "incarnation": "It is drawn when a system begins.",
    "deadline": "Times follow from when things happened, and a re-run is some milliseconds earlier or later.",
    "key_until": "As above.",
    "start_by": "As above.",
    "retry_at": "As above.",
    "not_before": "As above.",
}
"""The fields of events that are not compared, each with its reason. `body_sha256` is one of them where what is sent has
an address to call back, whose code only the job's own data folder can make; or text that the record has without its
secrets. When an event happened is not compared either."""

RESTART_S: Final = 0.02  # before a doubt: what a new system takes to declare it
PATIENCE_S: Final = 48 * 3600.0  # behind the end of the record
NOWHERE: Final = "https://callbacks.invalid"
KEY: Final = b"the key of no data folder"
USERS: Final = ("Generate", "Poll", "Cancel", "Collect", "Resubmit", "GiveUp", "Hide")
NOTHING_OF_IT: Final = "today's code makes nothing of the answer that it came from"
NO_VIDEO: Final = re.compile(r"What the provider delivered is no \w+: (.*)", re.DOTALL)


def rerun(recording: Recording, adapters: Mapping[str, Adapter] | None = None) -> Report:
    """Run the job again and compare, event by event. Nothing is asked, and time passes at once.

    Where the recording is of a job that has not ended, the re-run ends where it does: at its last event, or where the
    provider was asked for the last time. What was answered before that brought no event, and must bring none today.

    Args:
        recording: of the job.
        adapters: by provider; None: those that are installed.
    """
    try:
        lines = read(recording)
        world = _World(recording, lines, installed_adapters() if adapters is None else adapters)
        with _quietly():
            _apart(world)
    except Cannot as cannot:
        return Report(job_id=recording.job_id, verdict="cannot", events=0, why=str(cannot))
    except Diverged as found:
        return Report(job_id=recording.job_id, verdict="diverged", events=0, difference=found.difference)
    return world.report()


@contextmanager
def _quietly() -> Generator[None]:
    """Log lines of a re-run are no news. A program that has set up its logs drops them by `REPLAYING`, as ours does."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.reset_defaults()


def _apart(world: _World) -> None:
    """Live through it on a loop of its own; in a thread of its own where this one has a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        copy_context().run(_live, world)
        return
    with ThreadPoolExecutor(1, "a re-run") as thread:
        thread.submit(copy_context().run, _live, world).result()


def _live(world: _World) -> None:
    REPLAYING.set(True)
    run(world.live())


class Act(Struct, frozen=True):
    """Something that came from outside."""

    at: float
    version: int  # of the first event that came of it
    command: Command | None  # None: the process ended
    callback: Exchange | None = None  # that the command came from, where it is kept
    until: float = 0.0  # when another one began
    taken: bool = False  # the command came from a provider, and its exchange was lost


class _Log(MemoryStore):
    """A log that is looked at as it grows."""

    def __init__(self, world: _World) -> None:
        super().__init__()
        self._world = world

    async def append(self, write: Write) -> Stored:
        """See EventStore."""
        stored = await super().append(write)
        self._world.stored(await self.read(stored.stream, write.expected))
        return stored


class _Performer(Performer):
    """Today's, in its time: permits and look-ups wait as long as they did.

    What else went to the provider then is not here, and may have kept the job waiting; or nothing ran at the time.
    """

    world: _World
    incarnation: str  # of the system that asks

    def perform_at_once(self, owed: Owed, job: Job, job_id: str, incarnation: str) -> Command | None:
        """See Performer. A permit takes its time."""
        self.incarnation = incarnation
        return None if isinstance(owed, m.AskPermit) else super().perform_at_once(owed, job, job_id, incarnation)

    async def perform(self, owed: Owed, job: Job, job_id: str, bad_files: int, trace: str = "") -> Command:
        """See Performer."""
        if isinstance(owed, m.AskPermit):
            await self.world.until_permit(owed)
            return super().perform_at_once(owed, job, job_id, self.incarnation) or m.Wake()
        if isinstance(owed, m.Look):
            await self.world.until_look(owed)
        return await super().perform(owed, job, job_id, bad_files, trace)


class _System(System):
    """Today's, without a wall clock that may jump: a look-up is as late as it was."""

    def _as_old_as_our_waiting(self, absent: m.RecordAbsent, since: float, waited_s: float) -> m.RecordAbsent:  # noqa: ARG002
        return absent


class _World:
    """One job, and all that is around it. It is the clock as well."""

    def __init__(self, recording: Recording, lines: Sequence[Line], adapters: Mapping[str, Adapter]) -> None:
        self.recording, self.lines = recording, lines
        self._epoch = lines[0].recorded.at
        self._acts, self._named = acts(recording, lines), names(recording)
        self._adapters = _told(recording, lines, adapters)
        self._callbacks = callbacks_of(recording, lines, self._adapters)
        self._bases: dict[str, str] = {}
        self._tape = Tape(recording, self._base_url, self)
        self._matched = self._taken = 0  # events
        self._job: Job = New()
        self._secretive = False  # an event has text without its secrets
        self._asked: Question | None = None  # for which there is no exchange, if an act does not tell why
        self._why = ""  # it cannot be told
        self._difference: Difference | None = None

    # ── its life ──

    async def live(self) -> None:
        """From the first command until it is known how the two compare."""
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        self._known: asyncio.Future[None] = self._loop.create_future()
        self._store = _Log(self)
        self._system = await self._begun()
        others = [asyncio.create_task(self._failing(one)) for one in (self._act(), self._prompt())]
        ends = max(self.lines[-1].recorded.at, *(one.at for one in self._tape.plays), 0.0) + PATIENCE_S
        await asyncio.wait([self._known], timeout=ends - self._epoch)
        if not self._known.done():
            self._nothing_more()
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._system.stop(0.0)
        self._known.result()

    async def _failing(self, work: Coroutine[Any, Any, None]) -> None:
        """A bug here must not look like one there."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - it is raised once the system has stopped
            if not self._known.done():
                self._known.set_exception(error)

    async def _begun(self) -> System:
        performer = _Performer(
            self._adapters, self._tape.line, Assets(Path("replayed")), self, self._probe, self._tape, self._callbacks
        )
        performer.world = self
        system = _System(
            store=self._store,
            adapters=self._adapters,
            performer=performer,
            clock=self,
            rng=random.Random(self._matched),  # noqa: S311 - another incarnation each time, and the same every time
        )
        await system.start()
        return system

    async def _act(self) -> None:
        """What came from outside, at its time."""
        while self._acts:
            act = self._acts[0]
            await self.until(act.at, act.version - 1)
            try:
                await self._do(act)
            except RushesError as error:
                self._part(f"today {type(act.command).__name__} is refused: {error.detail}")
            self._taken += act.taken
            del self._acts[0]
            self._move()

    async def _do(self, act: Act) -> None:
        match act.command:
            case None:
                await self._system.stop(0.0)
                await self.until(act.until)
                self._tape.begin_at(act.until)
                self._system = await self._begun()
            case m.Generate(request=request):
                await self._system.generate(self.recording.job_id, self.recording.tenant, request)
            case m.RecordAccepted() as report if act.callback is not None:
                await self._system.ask(self.recording.job_id, self._heard(report, act.callback))
            case m.RecordAbsent() as report:  # late enough for a doubt that began some milliseconds later
                await self._system.ask(self.recording.job_id, replace(report, looked_at=self.now()))
            case command:
                await self._system.ask(self.recording.job_id, command)

    def _heard(self, report: m.RecordAccepted, callback: Exchange) -> Command:
        """What today's adapter makes of a callback. Raises BadRequest where it can make nothing of it."""
        assert isinstance(self._job, m.Sent)
        target, asked = self._job.target, callback.asked.body
        if asked is None or asked.text is None or not asked.whole:
            return report
        told = self._adapters[target.provider].callback(asked.text.encode(), target)
        if told is None:
            raise bad("body", f"{target.provider} says nothing that it understands in that callback.")
        return replace(report, handle=told.handle)

    async def _prompt(self) -> None:
        """Poll when it was polled: somebody may have asked for that."""
        for place, play in enumerate(self._tape.plays):
            if play.exchange.flow != "status" or not play.at:
                continue
            await self.until(play.asked_at)
            if self._tape.place <= place and not self._tape.pending and isinstance(self._job, m.Running):
                await self._system.poll_soon(self.recording.job_id)

    # ── what the traffic asks of it ──

    def now(self) -> float:
        """The wall clock, as it was."""
        return round(self._epoch + self._loop.time(), 3)

    async def until(self, at: float, after: int = 0) -> None:
        """Wait for that time, and for so many events."""
        await asyncio.sleep(max(0.0, at - self._epoch - self._loop.time()))
        while self._matched < after:
            await self._moved.wait()

    async def until_permit(self, owed: m.AskPermit) -> None:
        """Wait until the send was permitted then, or it was too late for it."""
        for place in range(self._matched, len(self.lines)):
            line = self.lines[place]
            match line.event:
                case m.SubmissionStarted(attempt=owed.attempt, send=owed.send) | m.JobFailed():
                    await self.until(line.recorded.at, place)
                    return
                case _:
                    continue
        await _never()

    async def until_look(self, owed: m.Look) -> None:
        """Wait until it was looked up then: only what is not there late enough is not there.

        Of equal look-ups the record has the last one's end alone. Where no event came of it, it was not late enough.
        """
        left = (play for play in self._tape.plays[self._tape.place :] if play.exchange.attempt == owed.attempt)
        play = next((play for play in left if play.exchange.flow == "find" and play.at), None)
        if play is None:
            return
        early = inf
        if isinstance(self._job, m.InDoubt) and play.exchange.id not in self._named:
            early = self._job.since + self._job.started.terms.settle_s - 0.001
        await self.until(min(play.asked_at, early))

    def awaits(self, exchange: Exchange) -> bool:
        """Whether something is still to come of it."""
        return any(version > self._matched for version in self._named.get(exchange.id, ()))

    async def unless_lost(self, exchange: Exchange) -> None:
        """An answer to a send that no event was told from never got to the log: the process had ended."""
        while exchange.id not in self._named and isinstance(self._job, m.Submitting):
            await self._moved.wait()

    async def missing(self, question: Question) -> NoReturn:
        """Nothing answers it: what still comes from outside may tell why; else that is the difference.

        Raises Failed where the answer to a send was lost, and a callback came in its place.
        """
        self._asked, sending = question, isinstance(self._job, m.Submitting)
        try:
            while self._acts:
                await self._moved.wait()
                if sending and not isinstance(self._job, m.Submitting):
                    raise Failed(Fault("no_answer", "It is not in the record."), certain=False)
            await asyncio.sleep(SOON_S)
            if self._matched < len(self.lines):
                self._tell_missing(question)
            await _never()
        finally:
            self._asked = None

    async def asked_otherwise(self, question: Question, exchange: Exchange, path: str) -> None:
        """It is not what was asked then; or what was asked then is lost, and its answer is still to be told."""
        if self._acts and self._acts[0].taken:
            await self._moved.wait()
            return
        then: dict[str, JSON] = {"method": exchange.method, "url": exchange.url, "body": body_of(exchange.asked.body)}
        what = f"The request of {exchange.flow} is another one today: it differs in {path}."
        self._tell(
            Difference(
                version=self._matched + 1,
                what=what,
                path=path,
                recorded=then,
                today=question.shown(),
                exchange=exchange,
            )
        )
        await _never()

    def _base_url(self, adapter: Adapter, ask: Ask) -> str:
        base = self._bases.get(adapter.name) or base_of(adapter, ask, self.recording.exchanges)
        if base is None:
            return adapter.address()
        self._bases[adapter.name] = base
        return base

    async def _probe(self, path: Path) -> Probe:  # noqa: ARG002 - the file is not there
        """What was found in the file then."""
        kept = self._tape.last
        for version in self._named.get(kept.id, ()) if kept else ():
            match self.lines[version - 1].event:
                case m.TakeStored(probe=probe):
                    return probe
                case m.TakeLost(fault=fault) if found := NO_VIDEO.fullmatch(fault.detail):
                    raise MediaTrouble(found[1])
                case _:
                    continue
        raise MediaTrouble("It was none.")

    # ── comparing ──

    def stored(self, history: Sequence[Recorded]) -> None:
        """Events of today."""
        for recorded in history:
            if self._known.done():
                return
            event = decode(recorded)
            if self._matched == len(self.lines):
                self._add(event, recorded)
                return
            self._job = evolve(self._job, event, recorded.at)
            self._compare(self.lines[self._matched], recorded, event)
            self._matched += 1
            if self._matched == len(self.lines):
                self._finish(history[recorded.version - history[0].version + 1 :])
        self._move()

    def _compare(self, line: Line, recorded: Recorded, event: Event) -> None:
        self._secretive = self._secretive or any(REDACTED.encode() in one.data for one in (line.recorded, recorded))
        then, now, version = shown(line.event), shown(event), line.recorded.version
        aside = {*ASIDE, "body_sha256"} if self._secretive or self._callbacks else ASIDE
        if then["type"] != now["type"]:
            path, what = "type", f"Event {version} was {then['type']}, and is {now['type']} today."
        elif path := unlike(then["data"], now["data"], "data", aside):
            what = f"Event {version}, {then['type']}, differs in {path}."
        else:
            return
        told = meta_of(recorded).x
        exchange = next((one for one in self.recording.exchanges if one.id in told), None)
        exchange = exchange or traffic_of(self.recording, version)
        self._tell(Difference(version=version, what=what, path=path, recorded=then, today=now, exchange=exchange))

    def _finish(self, more: Sequence[Recorded]) -> None:
        """All events are there. What the same command brings besides is a difference; what comes later is not known."""
        last = self.lines[-1]
        if more and meta_of(more[0]).cmd == last.meta.cmd:
            extra = shown(decode(more[0]))
            what = f"The recording ends with {last.recorded.type}; today {extra['type']} follows at once."
            self._tell(Difference(version=last.recorded.version + 1, what=what, today=extra))
        elif isinstance(self._job, m.Ended | m.Parked):
            self._settle()
        else:
            asked_at = max(
                (play.asked_at for play in self._tape.plays if play.exchange.flow != "callback"), default=0.0
            )
            self._loop.call_later(max(0.0, asked_at - self.now()), self._settle)

    def _settle(self) -> None:
        if not self._known.done():
            self._known.set_result(None)

    def _add(self, event: Event, recorded: Recorded) -> None:
        """What comes of an answer that brought nothing then."""
        told, last = meta_of(recorded).x, self.lines[-1].recorded
        exchange = next((one for one in self.recording.exchanges if one.id in told), None)
        what = f"The recording ends with {last.type}; today {TYPES[type(event)]} follows."
        self._tell(Difference(version=last.version + 1, what=what, today=shown(event), exchange=exchange))

    def _tell(self, difference: Difference) -> None:
        """The first difference counts, unless what it comes from is kept in part only."""
        one = difference.exchange
        if one is not None and one.id in self._tape.used and not is_whole(one):
            self._cannot(f"The answer to {one.method} {one.url} is kept in part only, and more of it is needed.")
        elif not self._known.done():
            self._difference = difference
            self._known.set_result(None)

    def _cannot(self, why: str) -> None:
        if not self._known.done():
            self._why = why
            self._known.set_result(None)

    def _nothing_more(self) -> None:
        """It goes on no more, and the recording does."""
        if self._asked is not None:
            self._tell_missing(self._asked)
        elif self._was_answered():
            self._part(NOTHING_OF_IT)
        else:
            self._part("today nothing more happens")

    def _was_answered(self) -> bool:
        """Whether all is played that the next event of the record came from."""
        told = self.lines[self._matched].meta.x
        return bool(told) and self._tape.used.issuperset(told)

    def _part(self, what: str) -> None:
        """About the next event of the record."""
        line = self.lines[self._matched]
        version, then = line.recorded.version, shown(line.event)
        self._tell(
            Difference(
                version=version,
                what=f"Event {version} was {then['type']}; {what}.",
                recorded=then,
                exchange=traffic_of(self.recording, version),
            )
        )

    def _tell_missing(self, question: Question) -> None:
        line, kept = self.lines[self._matched], {one.id for one in self.recording.exchanges}
        told = line.meta.x
        asks = f"{question.method} {question.url} ({question.flow})"
        if not kept or any(x < min(kept) for x in told):
            self._cannot(f"What {asks} was answered is not in the record: it was off, or has aged out.")
        elif self._was_answered():
            self._part(NOTHING_OF_IT)
        else:
            version, lost = line.recorded.version, [x for x in told if x not in kept]
            which = f"exchange {lost[0]}, which event {version} came from, is missing" if lost else "none is left"
            what = f"Today {asks} is asked, and the recording has no answer: {which}."
            self._tell(Difference(version=version, what=what, recorded=shown(line.event), today=question.shown()))

    def _move(self) -> None:
        """Something happened: whoever waits looks again."""
        self._moved.set()
        self._moved = asyncio.Event()

    def report(self) -> Report:
        """How it came out."""
        verdict: Verdict = "cannot" if self._why else "diverged" if self._difference else "same"
        return Report(
            job_id=self.recording.job_id,
            verdict=verdict,
            events=self._matched,
            exchanges=len(self._tape.used),
            taken=self._taken,
            difference=self._difference,
            why=self._why,
        )


async def _never() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


# ── What the record says of the world ─────────────────────────────────────────────────────────────────────────────────


def acts(recording: Recording, lines: Sequence[Line]) -> list[Act]:
    """What came from outside, in its order. Raises Cannot, and Diverged where the events cannot be folded.

    Where the record has no word of a process that ended, the doubt that the next one declared tells of it. What was
    answered in the last second before a kill may be in the log alone: it is told as the log has it.
    """
    found = [*_ends(recording, lines)]
    job: Job = New()
    lost = _lost(recording)
    calls = {one.id: one for one in recording.exchanges if one.flow == "callback"}
    for place, line in enumerate(lines):
        at, version, command, told = line.recorded.at, line.recorded.version, line.meta.cmd, line.meta.x
        if not (place and belongs(line, lines[place - 1])):
            called = command == "RecordAccepted" and calls.keys() >= {*told}
            if command in USERS or called:
                found.append(Act(at, version, command_of(lines[place:], job), calls[told[0]] if told else None))
            elif lost.intersection(told):
                found.append(Act(at, version, command_of(lines[place:], job), taken=True))
            elif command == "RecordDoubt" and not told and not any(one.version == version for one in found):
                found.append(Act(at - RESTART_S, version, None, until=at - RESTART_S))
        job = fold(job, line)
    return sorted(found, key=lambda act: (act.version, act.at))


def _lost(recording: Recording) -> set[int]:
    """The exchanges that events name and a kill took along: those of the last second before it."""
    kept, named = {one.id for one in recording.exchanges}, names(recording)
    return {
        number
        for number in named
        for run in recording.runs
        if number not in kept and not run.ended and -BATCH_S <= drawn_at(number) - run.seen_at <= 2 * BATCH_S
    }


def _ends(recording: Recording, lines: Sequence[Line]) -> Iterator[Act]:
    """Of each process before one that is known to have begun during the job's life.

    One that was killed is ended at the last event of its time: what it heard after that brought no event, or never got
    to the log.
    """
    before: Run | None = None
    for following in recording.runs:
        if following.began_at > lines[0].recorded.at:
            began = following.began_at, False  # an answer that is in the log by that millisecond was heard before it
            known = [line.recorded.at for line in lines if (line.recorded.at, not line.meta.x) <= began]
            ended_at = known[-1]
            if before is not None and before.ended:
                ended_at = max(ended_at, min([before.seen_at, *_broken_off(recording, before)]))
            yield Act(ended_at, 1 + len(known), None, until=following.began_at)
        before = following


def _broken_off(recording: Recording, run: Run) -> Iterator[float]:
    """When a process that stopped broke off what it asked."""
    for one in recording.exchanges:
        if was_cut_off(one) and run.began_at <= one.last_at <= run.seen_at:
            yield one.last_at


def _told(recording: Recording, lines: Sequence[Line], adapters: Mapping[str, Adapter]) -> dict[str, Adapter]:
    """The adapters of the job, with what they must be told as the traffic shows it. Raises Cannot."""
    found: dict[str, Adapter] = {}
    for line in lines:
        match line.event:
            case m.JobRequested(route=route):
                targets = route
            case m.AttemptOpened(target=target):
                targets = (target,)
            case _:
                continue
        for target in targets:
            if target.provider not in adapters:
                raise Cannot(f"There is no adapter for {target.provider} here: install its package.")
            found[target.provider] = informed(adapters[target.provider], recording, lines)
    return found


def callbacks_of(recording: Recording, lines: Sequence[Line], adapters: Mapping[str, Adapter]) -> Callbacks | None:
    """Where the provider was asked to call back; None where it was not."""
    sends = [line.event for line in lines if isinstance(line.event, m.SubmissionStarted)]
    hooked = [one for one in sends if _calls(adapters.get(one.target.provider))]
    for one in hooked:
        address = re.compile(rf'(https?://[^"\\\s]+?){PATH}{re.escape(one.target.provider)}\?')
        for exchange in recording.exchanges:
            body = exchange.asked.body if exchange.flow == "submit" else None
            if found := address.search((body and body.text) or ""):
                return Callbacks(found[1], KEY)
    return Callbacks(NOWHERE, KEY) if any(one.terms.doubt == "D" for one in hooked) else None


def _calls(adapter: Adapter | None) -> bool:
    return adapter is not None and adapter.capabilities.webhook is not None
