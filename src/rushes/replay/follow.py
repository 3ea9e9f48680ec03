"""A job's effects carried out again, one after the other, by today's adapters over the client that production uses.

The log says when what was done, so no system runs and nothing is waited for: before each exchange come the events that
nobody was asked for, then the effect that the job owes in this state is performed, and what its report comes to is held
against the log. What the requests are answered with is whoever's who patches the client: a cassette.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from aiohttp import ClientSession
from msgspec import Struct, to_builtins
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.job import decide, pending, phase_word
from rushes.actors.messages import Command, Event, Owed
from rushes.actors.perform import Performer
from rushes.adapters.base import Adapter, Failed, FlowName, Keep, Request, Response, Sink
from rushes.adapters.callbacks import PATH, Callbacks
from rushes.adapters.http import Http
from rushes.adapters.redaction import REDACTED
from rushes.assets import Assets
from rushes.faults import Unavailable
from rushes.flight import Exchange
from rushes.media import MediaTrouble
from rushes.replay.cassette import as_told_then, is_ours, stand_in, stand_in_take, times
from rushes.replay.likeness import unlike
from rushes.replay.recording import Recording
from rushes.replay.report import Difference, Report
from rushes.replay.verify import Cannot, Diverged, Line, belongs, different, fold, read, shown, traffic_of
from rushes.units import AssetRef
from rushes.video import Probe, Target

ROUNDED_S: Final = 0.002  # between two looks at a clock that is rounded to milliseconds
OFTEN: Final = 1_000  # tries, where the log says that it was given up
FLOWS: Final[Mapping[type[m.Effect], tuple[FlowName, ...]]] = {
    m.Prepare: ("prepare",),
    m.Send: ("submit",),
    m.SendAgain: ("submit",),
    m.Look: ("find",),
    m.Ask: ("status",),
    m.CancelRemote: ("cancel", "status"),
    m.Store: ("download",),
}
"""What each effect asks first."""


class Play(Struct, frozen=True):
    """One request of the recording."""

    exchange: Exchange
    at: float  # when its answer was there
    last: bool  # of equal ones


class _CutOff(BaseException):
    """A request that was no longer waited for; no adapter and no performer catches it."""


class _Strange(BaseException):
    """A request that was not recorded; as above."""


async def follow(recording: Recording, adapters: Mapping[str, Adapter] | None = None) -> Report:
    """Carry out a job's effects again, and compare what comes of them with its log, event by event.

    Args:
        recording: as `write_cassette` has written it beside the tape.
        adapters: those that are installed, unless others are given.

    Raises:
        Unavailable: no cassette plays (`rushes.replay.tape`), so the provider itself would be asked; or the job's
            adapter is not installed.
    """
    if not vars(ClientSession)["_request"].__globals__["__name__"].startswith("vcr."):  # a cassette puts its own there
        raise Unavailable("No cassette plays: go through the job again inside `tape().use_cassette(…)`.")
    try:
        lines = read(recording)
    except Cannot as cannot:
        return Report(job_id=recording.job_id, verdict="cannot", events=0, why=str(cannot))
    told = as_told_then(adapters, recording, lines)
    with tempfile.TemporaryDirectory() as folder:
        clock, assets = _Clock(), Assets(Path(folder))
        async with Http(base_urls={}, credentials={}, read=stand_in, inner={}, clock=clock) as http:
            reel = _Reel(recording, http, clock)
            return await _Follower(recording, lines, told, assets, reel).report()


class _Clock:
    """Stands where the recording is."""

    at = 0.0

    def now(self) -> float:
        """See units.Clock."""
        return self.at


class _Reel:
    """A Transport: the client's, but for what was not answered then."""

    def __init__(self, recording: Recording, http: Http, clock: _Clock) -> None:
        self.left, self.clock, self._http = deque[Play](), clock, http
        for exchange in filter(is_ours, recording.exchanges):
            *before, last = times(exchange)
            self.left += [*(Play(exchange, at, last=False) for at in before), Play(exchange, last, last=True)]
        self.played: list[Play] = []  # by the effect at work

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        """See Transport."""
        self._next(request.method, request.url)
        try:
            return await self._http.send(adapter, target, request)
        except Exception as error:
            _check_known(error, f"{request.method} {request.url}")
            raise

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        """See Transport."""
        self._next("GET" if ask.request is None else ask.request.method, ask.url)
        try:
            return await self._http.keep(adapter, target, ask, sink)
        except Exception as error:
            _check_known(error, f"GET {ask.url}")
            raise

    def _next(self, method: str, url: str) -> None:
        """Raises Failed where there was no answer."""
        if not self.left:
            raise _Strange(f"{method} {url}")
        play = self.left.popleft()
        self.played.append(play)
        self.clock.at = play.at
        fault = play.exchange.answered.fault
        if fault is None:
            return
        if not (play.exchange.method == method and play.exchange.url.partition("?")[0].endswith(url.partition("?")[0])):
            raise _Strange(f"{method} {url}")
        if fault.code == "cancelled":
            raise _CutOff
        raise Failed(fault, certain=play.exchange.answered.certain)


def _check_known(error: Exception, asked: str) -> None:
    """What vcrpy says of a request that is not on its tape is no failure that anybody may catch. Raises it."""
    if type(error).__module__.startswith("vcr."):
        raise _Strange(asked) from error


class _Recorded(Callbacks):
    """The address that a provider was told to call, as far as it was recorded."""

    def __init__(self, base: str) -> None:
        super().__init__(base, b"")
        self._told = base

    def url(self, provider: str, job: str, attempt: int, send: int) -> str:  # noqa: ARG002
        """See Callbacks."""
        return f"{self._told}{PATH}{provider}?{REDACTED}"


def _callbacks(recording: Recording) -> Callbacks | None:
    """None where no provider was asked to call."""
    asked = "\n".join(one.asked.body.text or "" for one in recording.exchanges if one.asked.body)
    found = re.search(rf'(https?://[^"\s]+?){PATH}[^"\s?]+\?{REDACTED}', asked)
    return _Recorded(found[1]) if found else None


class _Follower:
    """One job, from its first event to its last."""

    def __init__(
        self,
        recording: Recording,
        lines: Sequence[Line],
        adapters: Mapping[str, Adapter],
        assets: Assets,
        reel: _Reel,
    ) -> None:
        self._recording, self._lines, self._reel = recording, lines, reel
        self._asked = {one.id for one in recording.exchanges if is_ours(one)}
        self._performer = Performer(adapters, reel, assets, reel.clock, self._probe, callbacks=_callbacks(recording))
        self._next, self._played = 0, 0
        self._job: m.Job = m.New()

    async def report(self) -> Report:
        """What it comes to."""
        difference: Difference | None = None
        try:
            while self._reel.left:
                await self._effect()
            self._go_on()
        except Diverged as found:
            difference = found.difference
        return Report(
            job_id=self._recording.job_id,
            verdict="diverged" if difference else "same",
            events=self._next,
            exchanges=self._played,
            difference=difference,
        )

    async def _probe(self, path: Path) -> Probe:  # noqa: ARG002 - it may be another file
        """What a take was like."""
        for line in self._led_to({play.exchange.id for play in self._reel.played}):
            if isinstance(line.event, m.TakeStored):
                return line.event.probe
        raise MediaTrouble("It was none when it was recorded.")

    async def _effect(self) -> None:
        """Perform what the next request of the recording was asked by."""
        play = self._reel.left[0]
        owed = self._owed(play)
        self._reel.played, self._reel.clock.at = [], _began(play)
        lost = any(isinstance(line.event, m.TakeLost) for line in self._led_to({play.exchange.id}))
        try:
            report = await self._performer.perform(owed, self._job, self._recording.job_id, OFTEN if lost else 0)
        except _CutOff:
            report = None
        except _Strange as strange:
            raise self._parted(f"the job asks {strange}, and that is not on the tape", play) from strange
        self._played += len(self._reel.played)
        if not self._reel.played:
            raise self._parted(f"the job does not ask {play.exchange.method} {play.exchange.url}", play)
        if report is not None:
            self._compare(owed, report)

    def _owed(self, play: Play) -> Owed:
        """What the job owes when a request is asked, with the events before it that came from elsewhere."""
        exchange = play.exchange
        while True:
            started = self._job.started.incarnation if isinstance(self._job, m.Sent) else ""
            owed = pending(self._job, started)
            if owed is None or exchange.flow not in FLOWS.get(type(owed), ()) or owed.attempt != exchange.attempt:
                owed = None
            if owed is not None and not self._comes_by_itself(_began(play)):
                return owed
            if owed is None and not self._comes_by_itself():
                phase = phase_word(self._job)
                raise self._parted(f"a job that is {phase} does not ask {exchange.method} {exchange.url}", play)
            self._take()

    def _comes_by_itself(self, until: float | None = None) -> bool:
        """Whether the next event came from elsewhere: from a person, another job, time or a callback."""
        for line in self._lines[self._next : self._next + 1]:
            return not self._asked & {*line.meta.x} and (until is None or line.recorded.at <= until + ROUNDED_S)
        return False

    def _take(self) -> None:
        """Go on by one event as it was recorded."""
        line = self._lines[self._next]
        self._job, self._next = fold(self._job, line), self._next + 1

    def _go_on(self, to: Line | None = None) -> None:
        """Go on to an event, or to the end: what is on the way must have come from elsewhere."""
        for line in self._lines[self._next :]:
            if line is to:
                return
            if not self._comes_by_itself():
                raise self._parted("nothing comes of what was answered")
            self._take()

    def _led_to(self, ids: set[int]) -> list[Line]:
        """The events of the next command that was told from one of these exchanges."""
        lines = [line for line in self._lines[self._next :] if ids & {*line.meta.x}]
        return [line for line in lines if belongs(line, lines[0])]

    def _compare(self, owed: Owed, report: Command) -> None:
        """Decide a report in the state of its moment."""
        last, now = self._reel.played[-1], self._reel.clock.at
        due = self._led_to({play.exchange.id for play in self._reel.played})
        if due and not last.last and due[0].recorded.at >= self._reel.left[0].at:
            due = []  # it came of a later one of the equal answers
        if due:
            now = due[0].recorded.at
            self._go_on(due[0])
        while self._comes_by_itself(now):
            self._take()
        try:
            events = decide(report, self._job, now)
        except Exception as error:
            raise self._parted(f"deciding it ends with {type(error).__name__}: {error}", last) from error
        for line, event in zip(due, events, strict=False):
            alike = _alike(line.event, event, last.exchange)
            if type(alike) is not type(line.event) or unlike(to_builtins(line.event), to_builtins(alike), "data"):
                raise Diverged(replace(different(line, alike), exchange=last.exchange))
        if len(events) < len(due):
            raise self._parted("nothing comes of the answer", last, place=len(events))
        if len(events) > len(due) and not self._was_lost(owed):
            extra = events[len(due)]
            raise self._parted(f"the answer brings {m.TYPES[type(extra)]}", last, extra, place=len(due))
        for _ in due:
            self._take()

    def _was_lost(self, owed: Owed) -> bool:
        """Whether the process ended before a send's answer was on disk: who came after it declared doubt."""
        following = [line.event for line in self._lines[self._next : self._next + 1]]
        return isinstance(owed, m.Send) and isinstance(next(iter(following), None), m.SubmissionDoubted)

    def _parted(self, what: str, play: Play | None = None, today: Event | None = None, place: int = 0) -> Diverged:
        """A difference at the event that comes next, or at one behind it."""
        lines = self._lines[self._next + place : self._next + place + 1]
        version = self._next + place + 1
        was = f"Event {version} was {m.TYPES[type(lines[0].event)]}" if lines else "The recording ends"
        return Diverged(
            Difference(
                version=version,
                what=f"{was}; today {what}.",
                recorded=shown(lines[0].event) if lines else None,
                today=shown(today) if today is not None else None,
                exchange=play.exchange if play else traffic_of(self._recording, version),
            )
        )


def _began(play: Play) -> float:
    """When it was asked, by a clock that knows milliseconds."""
    return round(play.at - play.exchange.duration_ms / 1000, 3)


def _alike(recorded: Event, today: Event, exchange: Exchange) -> Event:
    """Today's event, but for what cannot be the same.

    When a refused send may be tried again counts from the very moment; and another file may stand for a take.
    """
    match recorded, today:
        case m.SubmissionRefused(retry_at=float()), m.SubmissionRefused(retry_at=float()):
            return replace(today, retry_at=recorded.retry_at)
        case m.TakeStored(asset=then), m.TakeStored(asset=now) if exchange.answered.body is not None:
            content = stand_in_take(exchange.answered.body)
            if now.sha256 == hashlib.sha256(content).hexdigest():
                asset = replace(now, sha256=then.sha256, size_bytes=then.size_bytes)
                return replace(today, asset=asset)
        case _:
            pass
    return today
