"""An event loop without a clock and without luck: for simulations of whole systems.

Its time is virtual: where nothing is ready it jumps to the next timer, so a day costs nothing. Its order is drawn: of
the callbacks that are ready the seed says which runs next, so another seed tries another interleaving, and the same
seed brings the same one back. Where nothing is ready and no timer is set nothing will ever happen again: here that is
an error, and no test hangs.

    def test_a_race() -> None:
        for seed in range(1_000):
            run(both_writers(), seed)

The loop does not look outside, or the outside would decide the order. Threads and sockets are waited for inside
`with loop.real_work():` only; time stands still there, and the order is chance. What has no order of its own, such as
a set of tasks, gets none here.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

T = TypeVar("T")

WORK_LIMIT_S: Final = 60.0  # of real time: work that was silent for so long has ended without a word
TOGETHER_S: Final = 1e-6  # timers this close are due together; more than the last digit of a time of 30 years
TASKS_NAMED: Final = 10


class Deadlock(Exception):
    """Nothing is ready, no timer is set and nobody is at work: everybody waits for ever."""


class LeftOver(Exception):
    """The main coroutine has ended, and tasks that were begun meanwhile have not."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time is virtual, in seconds from 0, and whose order the seed decides."""

    def __init__(self, seed: int = 0) -> None:
        """The same seed is the same order."""
        self._idle = _Idle()
        super().__init__(self._idle)
        self._ready = _Lots(seed)
        self._clock_resolution = TOGETHER_S

    def time(self) -> float:
        """It moves only when nothing is ready."""
        return self._idle.now

    @contextmanager
    def real_work(self) -> Generator[None]:
        """While threads or sockets are at work: time stands still, and an idle loop waits for them.

        The loop raises Deadlock where they say nothing for WORK_LIMIT_S.
        """
        self._idle.at_work += 1
        try:
            yield
        finally:
            self._idle.at_work -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - time stands still
        """See asyncio. It waits until the threads have ended."""
        with self.real_work():
            await super().shutdown_default_executor()


class _Lots(list[asyncio.Handle]):
    """The ready callbacks, drawn by lot. Another thread may append between any two of these lines."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._draw = random.Random(seed).random  # noqa: S311 - to be the same every time

    def popleft(self) -> asyncio.Handle:
        last = len(self) - 1
        drawn = int(self._draw() * (last + 1))
        self[drawn], self[last] = self[last], self[drawn]
        return self.pop()


class _Idle(selectors.DefaultSelector):
    """Where a loop waits, and so where time passes."""

    now = 0.0
    at_work = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Asked once a round: 0 while something is ready, else the time to the next timer, None where there is none."""
        if self.at_work:
            found = super().select(WORK_LIMIT_S if timeout != 0 else 0)
            if not found and timeout != 0:
                raise Deadlock(_waiting(f"The real work has said nothing for {WORK_LIMIT_S:.0f} s."))
            return found
        if timeout is None:
            raise Deadlock(_waiting("Nothing is ready, no timer is set, and no real_work() is under way."))
        self.now += timeout
        return []


def _waiting(trouble: str) -> str:
    tasks = sorted(map(repr, asyncio.all_tasks()))
    return "\n".join([f"{trouble} {len(tasks)} tasks wait, among them:", *tasks[:TASKS_NAMED]])


def run(main: Coroutine[Any, Any, T], seed: int = 0) -> T:
    """Run it to its end on a loop of its own.

    Raises:
        Deadlock: it waits for what will never happen.
        LeftOver: it has ended, and a task it began has not.
    """
    with asyncio.Runner(loop_factory=partial(VirtualLoop, seed)) as runner:
        result = runner.run(main)
        left = asyncio.all_tasks(runner.get_loop())
        if left:
            raise LeftOver(f"{len(left)} tasks are left over, among them {min(map(repr, left))}.")
    return result
