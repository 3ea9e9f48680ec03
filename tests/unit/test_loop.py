"""The loop that simulations run on: its time, its order, and what it refuses."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from rushes.testing import loop as subject
from rushes.testing.loop import Deadlock, LeftOver, VirtualLoop, run

DAY_S = 86_400.0


def the_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


async def trace(count: int = 6) -> list[tuple[int, float]]:
    """Who ran when: tasks that give way, and sleep for the same and for other times."""
    ran: list[tuple[int, float]] = []

    async def walk(number: int) -> None:
        for step in range(4):
            await asyncio.sleep(step * (number % 3))
            ran.append((number, the_loop().time()))

    await asyncio.gather(*map(walk, range(count)))
    return ran


async def a_day_of(sleeps: list[float]) -> list[float]:
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(the_loop().time())

    await asyncio.gather(*map(sleeper, sleeps))
    return woken


def test_a_year_passes_at_once_and_in_order() -> None:
    began = time.monotonic()
    assert run(a_day_of([365 * DAY_S, 0.0, DAY_S, 5.5])) == [0.0, 5.5, DAY_S, 365 * DAY_S]
    assert time.monotonic() - began < 5


def test_timers_come_due_in_order_however_late_it_is() -> None:
    async def late() -> list[float]:
        await asyncio.sleep(30 * 365 * DAY_S)
        return await a_day_of([0.3, 0.1, 1e-9, 0.2])

    woken = [at_s - 30 * 365 * DAY_S for at_s in run(late())]
    assert woken == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=2e-6)


def test_a_timeout_fires_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(DAY_S), 60)
        return the_loop().time()

    assert run(main()) == 60


def test_the_same_seed_is_the_same_order() -> None:
    for seed in range(20):
        assert run(trace(), seed) == run(trace(), seed)


def test_other_seeds_are_other_orders() -> None:
    assert len({tuple(run(trace(), seed)) for seed in range(100)}) > 90


def test_every_order_of_two_comes_up() -> None:
    async def race() -> str:
        ran: list[str] = []
        asyncio.get_running_loop().call_soon(ran.append, "a")
        asyncio.get_running_loop().call_soon(ran.append, "b")
        await asyncio.sleep(1)
        return "".join(ran)

    assert {run(race(), seed) for seed in range(20)} == {"ab", "ba"}


def test_timers_that_are_due_together_come_in_any_order() -> None:
    async def race() -> str:
        ran: list[str] = []
        for name in "abc":
            asyncio.get_running_loop().call_later(1, ran.append, name)
        await asyncio.sleep(2)
        return "".join(ran)

    assert len({run(race(), seed) for seed in range(100)}) == 6


def test_every_callback_runs_once() -> None:
    async def main() -> list[int]:
        ran: list[int] = []
        for number in range(1_000):
            asyncio.get_running_loop().call_soon(ran.append, number)
        await asyncio.sleep(1)
        return ran

    assert sorted(run(main(), 3)) == list(range(1_000))


def test_waiting_for_ever_is_an_error_that_names_who_waits() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.gather(asyncio.create_task(stuck(), name="the stuck one"), asyncio.sleep(5))

    with pytest.raises(Deadlock, match=r"2 tasks wait(?s:.)*the stuck one"):
        run(main())


def test_a_task_that_is_left_over_is_an_error() -> None:
    ended: list[str] = []

    async def forgotten() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            ended.append("forgotten")

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(forgotten(), name="the forgotten one")
        await asyncio.sleep(1)
        return task

    with pytest.raises(LeftOver, match="the forgotten one"):
        run(main())
    assert ended == ["forgotten"]  # it was cancelled all the same


def test_an_error_of_the_main_coroutine_comes_first() -> None:
    async def main() -> None:
        keep.append(asyncio.create_task(asyncio.sleep(5)))
        await asyncio.sleep(1)
        raise KeyError("mine")

    keep: list[asyncio.Task[None]] = []
    with pytest.raises(KeyError, match="mine"):
        run(main())


def test_time_stands_still_while_a_thread_works() -> None:
    fired: list[str] = []

    async def main() -> float:
        the_loop().call_later(0.001, fired.append, "too early")
        go = threading.Event()
        with the_loop().real_work():
            working = asyncio.ensure_future(asyncio.to_thread(go.wait))
            for _ in range(100):
                await asyncio.sleep(0)
            go.set()
            assert await working
        assert fired == []
        await asyncio.sleep(1)
        return the_loop().time()

    assert run(main()) == 1
    assert fired == ["too early"]


def test_control_without_real_work_a_thread_looks_idle() -> None:
    """What real_work is for: time would run away, or the loop gives up."""
    go = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(go.wait), DAY_S)
        go.set()

    run(main())

    async def hopeless() -> None:
        try:
            await asyncio.to_thread(again.wait)
        finally:
            again.set()

    again = threading.Event()
    with pytest.raises(Deadlock):
        run(hopeless())


def test_real_work_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "WORK_LIMIT_S", 0.001)

    async def main() -> None:
        with the_loop().real_work():
            await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="real work has said nothing"):
        run(main())


def test_sockets_are_looked_at_during_real_work() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async def main() -> bytes:
        with the_loop().real_work():
            server = await asyncio.start_server(echo, "127.0.0.1")
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
        return answer

    assert run(main()) == b"hello\n"
