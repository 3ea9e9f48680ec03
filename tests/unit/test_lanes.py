"""Timers, places and health of a lane."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest

from rushes.actors import lanes
from rushes.actors.lanes import Lane, Learned, Places
from rushes.adapters.capabilities import Capabilities
from rushes.faults import Fault
from rushes.testing.loop import run

LEARNED = Learned(heard_at=1_700_000_000.123, tried_at=1_700_000_001.5, pause_s=7.25, troubles=4, bad_files=3)


class Woken:
    """Collects who is woken."""

    def __init__(self) -> None:
        self.streams: list[int] = []
        self._news = asyncio.Event()

    def __call__(self, streams: list[int]) -> None:
        self.streams += streams
        self._news.set()

    def by_lane(self, _: Lane, streams: list[int]) -> None:
        self(streams)

    async def wait(self, count: int) -> list[int]:
        while len(self.streams) < count:
            self._news.clear()
            await self._news.wait()
        return self.streams


def limits(submits_at_once: int = 1) -> Capabilities:
    return Capabilities(base_url="", base_url_env="", models=(), submits_at_once=submits_at_once)


def make(sends_at_once: int = 1) -> tuple[Woken, Lane]:
    woken = Woken()
    return woken, Lane("l", woken.by_lane, limits(sends_at_once))


def now() -> float:
    return asyncio.get_running_loop().time()


# ── Timers ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_streams_are_woken_in_the_order_they_are_due() -> None:
    async def main() -> None:
        woken, lane = make()
        for stream, after_s in ((1, 0.06), (2, 0.02), (3, 0.04)):
            lane.wake_at(stream, now() + after_s)
        assert await woken.wait(3) == [2, 3, 1]

    run(main())


def test_the_last_word_about_a_stream_counts() -> None:
    async def main() -> None:
        woken, lane = make()
        lane.wake_at(1, 0.01)
        lane.wake_at(1, 0.05)
        lane.wake_at(2, 9)
        lane.wake_at(2, 0.03)
        lane.wake_at(3, 0.01)
        lane.forget(3)
        lane.wake_at(4, 0.04)
        assert await woken.wait(3) == [2, 4, 1]
        assert now() < 1

    run(main())


def test_nobody_is_woken_early_nor_more_than_a_moment_late() -> None:
    async def main() -> None:
        draw = random.Random(1)
        told: dict[int, float] = {}
        lane = Lane("l", lambda _, streams: told.update(dict.fromkeys(streams, now())), limits())
        due = {stream: draw.uniform(0, 100) for stream in range(2_000)}
        for stream, at in due.items():
            lane.wake_at(stream, at)
        await asyncio.sleep(101)
        assert told.keys() == due.keys()
        late = [told[stream] - at for stream, at in due.items()]
        assert min(late) >= 0
        assert max(late) <= 1 / lanes.TICKS_A_S + 0.001

    run(main())


def test_a_million_timers_are_nothing_that_the_garbage_collector_looks_through() -> None:
    async def main() -> None:
        _, lane = make()
        for stream in range(10_000):
            lane.wake_at(stream, 100 + stream % 7)
            lane.remember(stream, LEARNED, None)
        assert not gc.is_tracked(lane._streams)
        assert sum(map(len, map(gc.get_referents, [*lane._buckets.values(), lane._ticks]))) < 50  # types, and 7 ticks

    run(main())


def test_what_a_job_has_learned_is_kept_beside_its_timer() -> None:
    async def main() -> None:
        woken, lane = make()
        fault = Fault("rate_limited", "It is busy.", retryable=True)
        assert lane.recall(7) == (Learned(), None)
        lane.wake_at(7, 0.01)
        lane.remember(7, LEARNED, fault)
        assert lane.recall(7) == (LEARNED, fault)
        lane.wake_at(7, 0.02)
        await woken.wait(1)
        assert lane.recall(7) == (LEARNED, fault)
        lane.came_back(7)
        assert lane.recall(7) == (LEARNED, None)
        lane.remember(7, Learned(troubles=1_000, bad_files=1_000, pause_s=1e6), fault)
        assert lane.recall(7)[0] == Learned(troubles=63, bad_files=63, pause_s=655.35)
        lane.forget(7)
        assert lane.recall(7) == (Learned(), None)
        lane.remember(7, LEARNED, fault)  # of a job that has ended
        assert (lane.recall(7), lane.known) == ((Learned(), None), 0)

    run(main())


def test_many_are_woken_one_after_the_other_and_the_next_behind_them() -> None:
    async def main() -> None:
        woken, lane = make()
        lane.wake_many(list(range(100)), 0.1)
        lane.wake_many(list(range(100, 200)), 0.1)
        await asyncio.sleep(5.05)
        assert woken.streams == list(range(51))
        await asyncio.sleep(16)
        assert woken.streams == list(range(200))

    run(main())


# ── Places ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_places_are_counted_and_the_longest_waiting_comes_next() -> None:
    async def main() -> None:
        woken = Woken()
        places = Places(1, woken)
        assert places.take(1)
        assert not places.take(2)
        assert not places.take(3)
        assert not places.take(2)  # asking twice is one place in the line
        places.free()
        assert not places.take(4)  # it is kept for the one who was woken
        assert places.take(2)
        places.free()
        assert woken.streams == [2, 3]

    run(main())


def test_a_place_that_is_not_wanted_any_more_goes_to_the_next() -> None:
    async def main() -> None:
        woken = Woken()
        places = Places(1, woken)
        assert places.take(1)
        for stream in (2, 3, 4):
            assert not places.take(stream)
        places.forget(2)  # ended while it waited
        places.free()
        places.forget(3)  # woken, and has to wait for something else first
        assert woken.streams == [3, 4]
        assert places.take(4)

    run(main())


class Rude(Places):
    """The negative control: a place goes to whoever comes first when one is free."""

    def take(self, stream: int) -> bool:
        if self.taken < self.at_once:
            self.taken += 1
            return True
        return super().take(stream)

    def free(self) -> None:
        self.taken -= 1


@pytest.mark.parametrize(("kind", "starved"), [(Places, 0), (Rude, 1)])
def test_nobody_starves_however_many_newcomers_there_are(kind: type[Places], starved: int) -> None:
    """Newcomers ask all the time; whoever was woken comes a moment later."""

    async def main() -> list[int]:
        served: list[int] = []
        newcomers = iter(range(2, 500))

        def wake(streams: list[int]) -> None:
            for stream in streams:
                asyncio.get_running_loop().call_soon(come, stream)

        def come(stream: int) -> None:
            if places.take(stream):
                served.append(stream)
                asyncio.get_running_loop().call_later(1, done)

        def done() -> None:
            places.free()
            come(next(newcomers))
            come(next(newcomers))

        places = kind(1, wake)
        come(0)
        come(1)
        await asyncio.sleep(20.5)
        places.stop()
        return served

    served = run(main())
    assert len(served) == 21
    assert [stream for stream in (0, 1) if stream not in served] == [1] * starved
    if not starved:
        assert served == sorted(served)


def test_places_that_are_closed_let_nobody_go_before_their_time() -> None:
    async def main() -> None:
        woken = Woken()
        places = Places(2, woken)
        places.close_until(5.0)
        assert not places.take(1)
        assert not places.take(2)
        await woken.wait(2)
        assert now() >= 5.0
        places.close_until(9.0)  # between the waking and the coming
        assert not places.take(1)
        assert places.taken == 1
        await woken.wait(3)
        assert now() >= 9.0
        assert places.take(1)

    run(main())


def test_a_rate_lets_them_go_one_by_one_in_order() -> None:
    async def main() -> None:
        gone: list[tuple[int, float]] = []

        def come(streams: list[int]) -> None:
            gone.extend((stream, round(now(), 3)) for stream in streams if places.take(stream))

        places = Places(10, come, interval_s=2.0)
        for stream in range(4):
            come([stream])
        await asyncio.sleep(10)
        assert [stream for stream, _ in gone] == [0, 1, 2, 3]
        assert [at for _, at in gone] == pytest.approx([0, 2, 4, 6], abs=0.01)

    run(main())


# ── Health ────────────────────────────────────────────────────────────────────────────────────────────────────────────

DOWN = Fault("provider_unavailable", "it is down", retryable=True)
NO_KEY = Fault("authentication_failed", "the key is refused")
BUSY = Fault("rate_limited", "too many", retryable=True, retry_after_s=30.0)


def test_a_refused_credential_closes_the_lane_for_all_and_longer_every_time() -> None:
    async def main() -> None:
        woken, lane = make(sends_at_once=4)
        lane.went_wrong(NO_KEY, lane.sends)
        assert (lane.closed_by, lane.closed_until) == ("authentication_failed", 60.0)
        assert not lane.sends.take(1)
        assert not lane.calls.take(2)
        assert lane.fetches.take(3)  # a take's address is not the provider's door
        await woken.wait(2)
        assert now() >= 60.0
        lane.went_wrong(NO_KEY, lane.calls)
        assert lane.closed_until == pytest.approx(180.0, abs=0.1)
        lane.went_well()
        lane.went_wrong(NO_KEY, lane.calls)
        assert lane.closed_until == pytest.approx(180.0, abs=0.1)  # never opened earlier than it was said

    run(main())


def test_retry_after_holds_for_what_was_asked_and_for_all_jobs() -> None:
    async def main() -> None:
        _, lane = make(sends_at_once=4)
        lane.went_wrong(BUSY, lane.sends)
        assert not lane.sends.take(1)
        assert lane.calls.take(2)
        await asyncio.sleep(31)
        assert lane.sends.take(1)

    run(main())


def test_a_provider_that_fails_for_everybody_is_left_alone_then_tried_by_one() -> None:
    async def main() -> None:
        woken, lane = make(sends_at_once=4)
        for _ in range(lanes.FAILURES_CLOSE - 1):
            lane.went_wrong(DOWN, lane.calls)
        assert lane.calls.take(1)
        lane.calls.free()
        lane.went_wrong(DOWN, lane.calls)
        assert lane.closed_by == "provider_unavailable"
        for stream in range(5):
            assert not lane.calls.take(stream)
        assert await woken.wait(1) == [0]
        await asyncio.sleep(1)
        assert woken.streams == [0], "one tries for all"
        assert lane.calls.take(0)
        lane.went_wrong(DOWN, lane.calls)
        lane.calls.free()
        closed_at = now()
        await woken.wait(2)
        assert now() - closed_at == pytest.approx(10.0, abs=0.1), "twice as long as before"
        assert lane.calls.take(1)
        lane.went_well()
        lane.calls.free()
        assert woken.streams == [0, 1, 2, 3, 4], "and then all"

    run(main())


def test_a_refusal_of_one_request_says_nothing_against_the_provider() -> None:
    async def main() -> None:
        _, lane = make()
        for _ in range(lanes.FAILURES_CLOSE - 1):
            lane.went_wrong(DOWN, lane.calls)
        lane.went_wrong(Fault("invalid_input", "no such size"), lane.sends)
        lane.went_wrong(DOWN, lane.calls)
        assert lane.closed_by is None
        lane.went_wrong(Fault("internal_error", "a bug of ours"), lane.sends)
        assert lane.failures == 1

    run(main())
