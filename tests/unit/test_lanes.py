"""Timers and permits of a lane."""

from __future__ import annotations

import asyncio

from rushes.actors.lanes import Lane


class Woken:
    """Collects who is woken."""

    def __init__(self) -> None:
        self.streams: list[int] = []
        self._news = asyncio.Event()

    def __call__(self, streams: list[int]) -> None:
        self.streams += streams
        self._news.set()

    async def wait(self, count: int) -> list[int]:
        async with asyncio.timeout(5):
            while len(self.streams) < count:
                self._news.clear()
                await self._news.wait()
        return self.streams


async def test_streams_are_woken_in_the_order_they_are_due() -> None:
    woken = Woken()
    lane, now = Lane("l", 1, woken), asyncio.get_running_loop().time()
    for stream, after_s in ((1, 0.06), (2, 0.02), (3, 0.04)):
        lane.wake_at(stream, now + after_s)
    assert await woken.wait(3) == [2, 3, 1]


async def test_the_last_word_about_a_stream_counts() -> None:
    woken = Woken()
    lane, now = Lane("l", 1, woken), asyncio.get_running_loop().time()
    lane.wake_at(1, now + 0.01)
    lane.wake_at(1, now + 0.05)
    lane.wake_at(2, now + 9)
    lane.wake_at(2, now + 0.03)
    lane.wake_at(3, now + 0.01)
    lane.forget(3)
    assert await woken.wait(2) == [2, 1]


async def test_permits_are_counted_and_the_longest_waiting_comes_next() -> None:
    woken = Woken()
    lane = Lane("l", 1, woken)
    assert lane.take_permit(1, 0.0)
    assert not lane.take_permit(2, 0.0)
    assert not lane.take_permit(3, 0.0)
    assert not lane.take_permit(2, 0.0)  # asking twice is one place in the queue
    lane.free_permit()
    assert not lane.take_permit(4, 0.0)  # it is kept for the one who was woken
    assert lane.take_permit(2, 0.0)
    lane.free_permit()
    assert woken.streams == [2, 3]


async def test_a_permit_that_is_not_wanted_any_more_goes_to_the_next() -> None:
    woken = Woken()
    lane = Lane("l", 1, woken)
    assert lane.take_permit(1, 0.0)
    for stream in (2, 3, 4):
        assert not lane.take_permit(stream, 0.0)
    lane.forget(2)  # ended while it waited
    lane.free_permit()
    lane.decline(3)  # woken, and has to wait for something else first
    assert woken.streams == [3, 4]
    assert lane.take_permit(4, 0.0)


async def test_a_closed_lane_grants_nothing_and_wakes_nobody_until_it_opens() -> None:
    woken = Woken()
    lane, now = Lane("l", 1, woken), asyncio.get_running_loop().time()
    lane.close_until(now + 0.05)
    assert not lane.take_permit(1, now)
    lane.wake_at(2, now)
    await woken.wait(2)
    assert asyncio.get_running_loop().time() >= now + 0.05
    lane.stop()
