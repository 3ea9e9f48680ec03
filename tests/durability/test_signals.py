"""A signal wakes a loop that sleeps, whichever thread of the process the system gave it to."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from rushes.cli import verbs

ASLEEP_S = 0.2  # by then the loop has gone to sleep
PATIENCE_S = 2.0


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back what a test of signals changes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("wakes", [True, False])
async def test_a_signal_that_another_thread_gets_wakes_the_loop(handlers: None, wakes: bool) -> None:  # noqa: ARG001
    """Without the descriptor that wakes it, which is the control, the loop sleeps on."""
    stop = verbs.stop_at_signals(600.0)
    if not wakes:
        signal.set_wakeup_fd(-1)
    elsewhere = threading.Timer(ASLEEP_S, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
    loop = asyncio.get_running_loop()
    began = loop.time()
    elsewhere.start()
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([stopped], timeout=PATIENCE_S)
    took_s = loop.time() - began
    stopped.cancel()
    elsewhere.join()
    assert (took_s < PATIENCE_S) == wakes
