"""A lane is all that goes to one provider under one credential: who is due when, who may go now, and how it fares.

A waiting job costs eight bytes in the array of its tick and an entry in one dictionary: no task, no closure, and one
timer for all. The garbage collector looks through neither of them, so a million cost no pause. The entry also holds
what a job that left the memory had learned and no event tells, so that leaving changes nothing for its provider.
"""

from __future__ import annotations

import asyncio
import heapq
from array import array
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple, Protocol

from rushes.faults import Code, Fault

TICKS_A_S: Final = 100  # wakes of one tick are handed out together, at its end
FAILURES_CLOSE: Final = 5  # in a row, whichever jobs they were about
FAILURE_PAUSE_S: Final = (5.0, 300.0)  # the first, and the longest; each is twice the one before
CREDENTIAL_PAUSE_S: Final = (60.0, 600.0)
_UNHEALTHY: Final = frozenset[Code]({"provider_unavailable", "no_answer", "not_sent", "bad_answer"})
_BUSY: Final = frozenset[Code]({"rate_limited", "quota_exceeded"})
_OURS: Final = frozenset[Code]({"internal_error", "storage_failed"})
MAX_TROUBLES: Final = 10_000  # jobs out of memory of which it is known why the last effect came to nothing
_ALMOST: Final = 0.001  # of a tick: a loop may ring a timer a little early
_TIME_BITS: Final = 44  # milliseconds since 1970
_PAUSE_BITS: Final = 16  # hundredths of a second
_COUNT_BITS: Final = 6
_BITS: Final = 2 * _TIME_BITS + _PAUSE_BITS + 2 * _COUNT_BITS
_MASK: Final = 2**_BITS - 1

Wake = Callable[["Lane", list[int]], None]


class Limits(Protocol):
    """The part of a provider's capabilities that holds for a lane; see there."""

    @property
    def submits_at_once(self) -> int: ...
    @property
    def submit_interval_s(self) -> float: ...
    @property
    def calls_at_once(self) -> int: ...
    @property
    def fetches_at_once(self) -> int: ...


class Learned(NamedTuple):
    """What a job that leaves the memory has learned and no event tells."""

    heard_at: float = 0.0  # when its provider last answered about it, in seconds since 1970, like the next
    tried_at: float = 0.0  # when the last effect ended
    pause_s: float = 0.0  # from then on, as the provider wished; at most 655
    troubles: int = 0  # effects in a row that came to nothing; like the next at most 63
    bad_files: int = 0  # answers in place of the next take that were none


class Places:
    """So many may be at it at once. Who finds no place waits, is woken when one is kept for it, and comes again.

    Whoever waited longest is next, so nobody starves; and a place belongs to one piece of work, so a job that is stuck
    elsewhere holds none.
    """

    def __init__(self, at_once: int, wake: Callable[[list[int]], None], interval_s: float = 0.0) -> None:
        """`interval_s`: the least time between two who are let go, where the provider has a rate limit."""
        self._loop = asyncio.get_running_loop()
        self.at_once = at_once
        self.taken = 0
        self._closed_until = self._paced_until = -inf  # on the loop's clock
        self._wake, self._interval_s = wake, interval_s
        self._line: deque[int] = deque()  # may hold some who left: `_waiting` says who counts
        self._waiting: set[int] = set()
        self._kept: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    @property
    def _opens_at(self) -> float:
        return max(self._closed_until, self._paced_until)

    def take(self, stream: int) -> bool:
        """A place now, or one in the line."""
        now = self._loop.time()
        if stream in self._kept:
            self._kept.remove(stream)
            if now >= self._closed_until:
                return True
            self.taken -= 1  # closed between the waking and the coming: first in the line again
            self._line.appendleft(stream)
            self._waiting.add(stream)
        elif self.take_free():
            return True
        elif stream not in self._waiting:
            self._line.append(stream)
            self._waiting.add(stream)
        self._arm(now)
        return False

    def take_free(self) -> bool:
        """A place now, if nobody waits for one."""
        now = self._loop.time()
        if self._waiting or not self._has_room(now):
            return False
        self._let_go(now)
        return True

    def free(self) -> None:
        """Give one back: it is kept for whoever waited longest."""
        self.taken -= 1
        if self._waiting:
            self._next()

    def forget(self, stream: int) -> None:
        """The stream has nothing to do here any more: what was kept for it goes to the next."""
        self._waiting.discard(stream)
        if stream in self._kept:
            self._kept.remove(stream)
            self.free()

    def close_until(self, until: float) -> None:
        """Let nobody go before then."""
        self._closed_until = max(self._closed_until, until)

    def stop(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._line.clear()
        self._waiting.clear()
        self._kept.clear()

    def _has_room(self, now: float) -> bool:
        return self.taken < self.at_once and now >= self._closed_until and now >= self._paced_until

    def _let_go(self, now: float) -> None:
        self.taken += 1
        self._paced_until = now + self._interval_s

    def _next(self) -> None:
        woken: list[int] = []
        now = self._loop.time()
        while self._waiting and self._has_room(now):
            stream = self._line.popleft()
            if stream in self._waiting:
                self._waiting.remove(stream)
                self._kept.add(stream)
                self._let_go(now)
                woken.append(stream)
        self._arm(now)
        if woken:
            self._wake(woken)

    def _arm(self, now: float) -> None:
        """Where it is time that keeps them waiting, look again when it has passed."""
        if self._timer is None and self._waiting and self.taken < self.at_once and self._opens_at > now:
            self._timer = self._loop.call_at(self._opens_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._next()


class Lane:
    """Timers, places and health. Times here are the loop's own, so a wall clock that jumps moves no timer."""

    def __init__(self, name: str, wake: Wake, limits: Limits) -> None:
        """`wake` is told which streams are due, or may come for the place that is kept for them."""
        self._loop = asyncio.get_running_loop()
        self.name = name
        self.polls = self.ended = 0  # since we began
        self.failures = 0  # in a row
        self.refusals = 0  # of the credential, in a row
        self.closed_until = -inf
        self.closed_by: Code | None = None  # why it was closed the last time
        self._wake_up = wake
        self._limits = limits
        self.sends = Places(limits.submits_at_once, self._wake, limits.submit_interval_s)
        self.calls = Places(limits.calls_at_once, self._wake)
        self.fetches = Places(limits.fetches_at_once, self._wake)
        self._streams: dict[int, int] = {}  # the tick it is due at, and what it has learned, in one integer
        self._buckets: dict[int, array[int]] = {}  # tick → streams; those that `_streams` knows otherwise are stale
        self._ticks: list[int] = []  # a heap of those that have a bucket
        self._troubles: dict[int, Fault] = {}  # of those that left the memory
        self._last_of_many = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    # ── who is due ──

    @property
    def closed_for_s(self) -> float:
        """Seconds until anybody may send or ask again; 0 where it is open."""
        return max(0.0, self.closed_until - self._loop.time())

    @property
    def known(self) -> int:
        """How many unfinished jobs have left a timer here."""
        return len(self._streams)

    def wake_at(self, stream: int, due: float) -> None:
        """Wake the stream then, on the loop's clock, instead of whenever it was to be woken before."""
        tick = int(max(due, 0.0) * TICKS_A_S) + 1
        known = self._streams.get(stream, 0)
        self._streams[stream] = tick << _BITS | known & _MASK
        if known >> _BITS != tick:
            self._put(stream, tick)
        if self._timer is None or tick < self._timer_tick:
            self._arm()

    def wake_many(self, streams: list[int], each_s: float) -> None:
        """Wake many that were not known before, one after the other: behind those who were told so earlier."""
        first = max(self._loop.time(), self._last_of_many)
        self._last_of_many = first + len(streams) * each_s
        for n, stream in enumerate(streams):
            tick = int((first + n * each_s) * TICKS_A_S) + 1
            self._streams[stream] = tick << _BITS
            self._put(stream, tick)
        self._arm()

    def remember(self, stream: int, learned: Learned, trouble: Fault | None) -> None:
        """The stream leaves the memory: keep this for whoever loads it, if it wants anything here."""
        if (known := self._streams.get(stream)) is None:
            return
        self._streams[stream] = known & ~_MASK | _packed(learned)
        if trouble is not None and len(self._troubles) < MAX_TROUBLES:
            self._troubles[stream] = trouble

    def recall(self, stream: int) -> tuple[Learned, Fault | None]:
        """What is remembered of a stream that is not in memory."""
        return _unpacked(self._streams.get(stream, 0)), self._troubles.get(stream)

    def came_back(self, stream: int) -> None:
        """It is in memory again, and knows better from now on."""
        self._troubles.pop(stream, None)

    def forget(self, stream: int) -> None:
        """The stream wants nothing here any more."""
        self._streams.pop(stream, None)
        self._troubles.pop(stream, None)
        self.decline(stream)

    def decline(self, stream: int) -> None:
        """It does not want to go now: places that were kept for it go to others."""
        self.sends.forget(stream)
        self.calls.forget(stream)
        self.fetches.forget(stream)

    def stop(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._streams.clear()
        self._troubles.clear()
        self._buckets.clear()
        self._ticks.clear()
        for places in (self.sends, self.calls, self.fetches):
            places.stop()

    def _put(self, stream: int, tick: int) -> None:
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = array("Q", (stream,))
            heapq.heappush(self._ticks, tick)
        else:
            bucket.append(stream)

    def _arm(self) -> None:
        if not self._ticks:
            return
        tick = self._ticks[0]
        if self._timer is not None:
            if self._timer_tick <= tick:
                return
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = self._loop.call_at(tick / TICKS_A_S, self._ring)

    def _ring(self) -> None:
        self._timer = None
        last = int(self._loop.time() * TICKS_A_S + _ALMOST)
        due: list[int] = []
        while self._ticks and self._ticks[0] <= last:
            tick = heapq.heappop(self._ticks)
            for stream in self._buckets.pop(tick):
                known = self._streams.get(stream, 0)
                if known >> _BITS == tick:
                    self._streams[stream] = known & _MASK  # due no more
                    due.append(stream)
        self._arm()
        if due:
            self._wake(due)

    def _wake(self, streams: list[int]) -> None:
        self._wake_up(self, streams)

    # ── how it fares ──

    def went_well(self) -> None:
        """The provider answered, whatever it said."""
        self.failures = self.refusals = 0
        self.sends.at_once, self.calls.at_once = self._limits.submits_at_once, self._limits.calls_at_once

    def went_wrong(self, fault: Fault, at: Places) -> None:
        """What one job was told holds for all of them: the credential, the limits and the provider are the same."""
        if fault.code == "authentication_failed":
            self._close(fault.code, _pause_s(CREDENTIAL_PAUSE_S, self.refusals), self.sends, self.calls)
            self.refusals += 1
        elif fault.code in _UNHEALTHY:
            self.failures += 1
            if self.failures >= FAILURES_CLOSE:
                pause_s = _pause_s(FAILURE_PAUSE_S, self.failures - FAILURES_CLOSE)
                self._close(fault.code, pause_s, self.sends, self.calls)
                self.sends.at_once = self.calls.at_once = 1  # when it opens again, one tries for all
        elif fault.code not in _OURS:
            self.went_well()
            if fault.code in _BUSY and fault.retry_after_s:
                self._close(fault.code, fault.retry_after_s, at)

    def _close(self, code: Code, pause_s: float, *places: Places) -> None:
        until = self._loop.time() + pause_s
        for one in places:
            one.close_until(until)
        if until > self.closed_until:
            self.closed_until, self.closed_by = until, code


def _packed(learned: Learned) -> int:
    kept = 0
    for value, bits in (
        (round(learned.heard_at * 1000), _TIME_BITS),
        (round(learned.tried_at * 1000), _TIME_BITS),
        (round(learned.pause_s * 100), _PAUSE_BITS),
        (learned.troubles, _COUNT_BITS),
        (learned.bad_files, _COUNT_BITS),
    ):
        kept = kept << bits | min(value, 2**bits - 1)
    return kept


def _unpacked(kept: int) -> Learned:
    counts, pauses = 2**_COUNT_BITS - 1, 2**_PAUSE_BITS - 1
    bad_files, kept = kept & counts, kept >> _COUNT_BITS
    troubles, kept = kept & counts, kept >> _COUNT_BITS
    pause, kept = kept & pauses, kept >> _PAUSE_BITS
    times = 2**_TIME_BITS - 1
    return Learned((kept >> _TIME_BITS & times) / 1000, (kept & times) / 1000, pause / 100, troubles, bad_files)


def _pause_s(bounds: tuple[float, float], times: int) -> float:
    first, longest = bounds
    return min(longest, first * 2.0 ** min(times, 20))
