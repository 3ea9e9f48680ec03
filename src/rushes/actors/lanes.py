"""A lane is all that goes to one provider under one credential: its timers, its permits, and whether it is open.

One heap of packed integers a lane, and one timer for all of it: a waiting job costs an integer and a dictionary entry,
no task and no closure.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from math import inf

TICK_S = 0.005  # wakes this close together are handed out together
_STREAM_BITS = 32


class Lane:
    """Timers and permits. Times here are the loop's own, so a clock that jumps moves no timer."""

    def __init__(self, name: str, permits: int, wake: Callable[[list[int]], None]) -> None:
        self.name = name
        self.free_permits = permits
        self.closed_until = -inf
        self._wake = wake
        self._heap: list[int] = []
        self._due_ms: dict[int, int] = {}  # what counts; entries of the heap that disagree are stale
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._waiting: dict[int, None] = {}  # for a permit, in order
        self._granted: set[int] = set()  # woken for a permit that is kept for them

    def wake_at(self, stream: int, due: float) -> None:
        """Wake the stream then, instead of whenever it was to be woken before; never while the lane is closed."""
        due_ms = int(max(due, self.closed_until, 0.0) * 1000) + 1
        if self._due_ms.get(stream) != due_ms:
            self._due_ms[stream] = due_ms
            heapq.heappush(self._heap, due_ms << _STREAM_BITS | stream)
        self._arm()

    def forget(self, stream: int) -> None:
        """The stream wants nothing any more."""
        self._due_ms.pop(stream, None)
        self._waiting.pop(stream, None)
        self.decline(stream)

    def close_until(self, until: float) -> None:
        """Grant nothing and wake nobody before then."""
        self.closed_until = max(self.closed_until, until)

    def take_permit(self, stream: int, now: float) -> bool:
        """One permit, or a place in the queue for the next."""
        if now < self.closed_until:
            self.decline(stream)
            self.wake_at(stream, self.closed_until)
            return False
        if stream in self._granted:
            self._granted.remove(stream)
            return True
        if not self.free_permits:
            self._waiting[stream] = None
            return False
        self.free_permits -= 1
        return True

    def free_permit(self) -> None:
        """Give one back: it is kept for whoever waited longest, who is woken to take or decline it."""
        if not self._waiting:
            self.free_permits += 1
            return
        stream = next(iter(self._waiting))
        del self._waiting[stream]
        self._granted.add(stream)
        self._wake([stream])

    def decline(self, stream: int) -> None:
        """A permit that was kept for the stream goes to the next: it has nothing to send now."""
        if stream in self._granted:
            self._granted.remove(stream)
            self.free_permit()

    def stop(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()
        self._due_ms.clear()
        self._waiting.clear()
        self._granted.clear()

    def _arm(self) -> None:
        while self._heap and not self._counts(self._heap[0]):
            heapq.heappop(self._heap)
        if not self._heap:
            return
        due_ms = self._heap[0] >> _STREAM_BITS
        if self._timer is not None:
            if self._timer_ms <= due_ms:
                return
            self._timer.cancel()
        self._timer_ms = due_ms
        self._timer = asyncio.get_running_loop().call_at(due_ms / 1000 + TICK_S, self._ring)

    def _counts(self, packed: int) -> bool:
        return self._due_ms.get(packed & (2**_STREAM_BITS - 1)) == packed >> _STREAM_BITS

    def _ring(self) -> None:
        self._timer = None
        now_ms = int(asyncio.get_running_loop().time() * 1000)
        due: list[int] = []
        while self._heap and self._heap[0] >> _STREAM_BITS <= now_ms:
            packed = heapq.heappop(self._heap)
            if self._counts(packed):
                stream = packed & (2**_STREAM_BITS - 1)
                del self._due_ms[stream]
                due.append(stream)
        if due:
            self._wake(due)
        self._arm()
