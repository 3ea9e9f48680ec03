"""What is stored, told to a thousand subscribers: the server in this process, their sockets in another.

The floor writes the same bytes, framed beforehand, to the same connections, one `transport.write` each. Both sides are
over when the last subscriber has them, which the other process tells by the same clock.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct

from bench.child import Child, child
from bench.crowd import HEAD
from bench.figures import Figure, Knobs, alternate, median, scratch, skipped
from bench.noop import FAR, AtOnce, in_flight, terms, whole_studio
from rushes.actors import messages as m
from rushes.actors.actor import KIND
from rushes.actors.codec import encode
from rushes.actors.messages import Wake
from rushes.api.app import serve
from rushes.api.audience import framed
from rushes.api.feed import Filter, Part
from rushes.api.live import STREAM
from rushes.api.stream import Limits
from rushes.eventstore.base import Birth, EventStore, NewEvent, Write
from rushes.units import DEFAULT_TENANT, fresh_job_id

SUBSCRIBERS: Final = 1_000
EVENTS: Final = 100  # one after the other, in a round
BURST: Final = 10  # events in one commit
BURSTS: Final = 30  # in a round
NO_EPOLL: Final = "the readers wait with epoll, which is Linux's"
WELL: Final = Limits(sockets=100_000, heartbeat_s=FAR)  # in all else as a server is by default


class Told(Struct, frozen=True):
    """What one side did in one round."""

    took_s: list[float]  # from the commit, or the first write, to the last subscriber
    cpu_s: float  # of the server's process


class Hall:
    """A server, its subscribers, and one job whose log grows."""

    def __init__(self, store: EventStore, transports: Sequence[asyncio.Transport], acks: asyncio.StreamReader) -> None:
        self._store, self._transports, self._acks = store, transports, acks
        self._stream = self._version = 0
        self._rng, self._committed_at = random.Random(1), 0.0
        store.watch(self._committed)
        self.frame = b""  # of the last event that was told

    def _committed(self, _: int) -> None:
        self._committed_at = time.perf_counter()

    async def begin(self) -> None:
        """The job that everybody hears of."""
        now = time.time()
        name = fresh_job_id(now, 1)
        events = [encode(event, now, Wake()) for event in in_flight(1, name, "a lake at dawn", now, terms(FAR))]
        stored = await self._store.append(Write(Birth(name, KIND, DEFAULT_TENANT), 0, events, HEAD, 1))
        self._stream, self._version = stored.stream, len(events)
        await self._last_at()

    async def tell(self, events: int) -> float:
        """Append, and wait until all have heard. How long that took from the commit on, in seconds."""
        now = time.time()
        news: list[NewEvent] = [
            encode(m.ProgressReported(attempt=1, percent=self._rng.randrange(10, 99)), now, Wake())
            for _ in range(events)
        ]
        await self._store.append(Write(self._stream, self._version, news, HEAD, self._rng.getrandbits(63)))
        self._version += events
        return await self._last_at() - self._committed_at

    async def write(self) -> float:
        """The same for bytes that are framed already."""
        began = time.perf_counter()
        for transport in self._transports:
            transport.write(self.frame)
        return await self._last_at() - began

    async def _last_at(self) -> float:
        line = await self._acks.readline()
        return float(msgspec.json.decode(line, type=dict[str, float])["at"])


@asynccontextmanager
async def hall(run: Knobs, subscribers: int) -> AsyncGenerator[Hall]:
    """A hall with everybody in it."""
    with scratch(run.folder) as folder:
        async with whole_studio(folder, AtOnce()) as studio:
            server = await serve(studio, "127.0.0.1:0", limits=WELL)
            try:
                with child("bench.readers", server.url.rpartition(":")[2], subscribers) as readers:
                    acks, pipe = await _heard(readers)
                    stream = server._runner.app[STREAM]  # noqa: SLF001 - no door tells it
                    outlets: Any = [each._outlet for each in stream._connections]  # type: ignore[attr-defined] # noqa: SLF001
                    made = Hall(studio.store, [outlet._transport for outlet in outlets], acks)  # noqa: SLF001
                    await made.begin()
                    await made.tell(1)
                    (part,) = (await stream.feed.read(Filter(DEFAULT_TENANT), studio.store.position - 1)).tails
                    assert isinstance(part, Part)
                    made.frame = framed(b'{"type":"events","sub":"a",' + part.encoded)
                    await made.write()
                    yield made
                    pipe.close()
            finally:
                await server.close()


async def _heard(readers: Child) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    """What a process tells, without standing in the way of the loop."""
    heard = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(heard), readers.stdout)
    await heard.readline()
    return heard, pipe


# ── The figures ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Sides:
    """Both sides in one loop, over the same sockets, and what they did round by round."""

    def __init__(self, run: Knobs, runner: asyncio.Runner, hall: Hall, subscribers: int) -> None:
        self._run, self._runner, self._hall, self._subscribers = run, runner, hall, subscribers
        self.told: list[Told] = []
        self.written: list[Told] = []

    def tell(self, times: int, events: int) -> Told:
        """So many commits of so many events."""
        return self._kept(self.told, self._times(times, lambda: self._hall.tell(events)))

    def write(self, times: int) -> Told:
        """So many frames to everybody."""
        return self._kept(self.written, self._times(times, self._hall.write))

    def _kept(self, where: list[Told], work: Coroutine[Any, Any, Told]) -> Told:
        where.append(self._runner.run(work))
        return where[-1]

    async def _times(self, times: int, work: Callable[[], Coroutine[Any, Any, float]]) -> Told:
        cpu_s = time.process_time()
        took_s = [await work() for _ in range(times)]
        return Told(took_s, time.process_time() - cpu_s)

    def rate(self, told: Told, events: int = 1) -> float:
        """Messages a second, one for each subscriber and event."""
        return len(told.took_s) * events * self._subscribers / sum(told.took_s)

    def more(self, events: int) -> dict[str, object]:
        """What stands beside both."""
        return {
            "subscribers": self._subscribers,
            "frame_bytes": len(self._hall.frame),
            "cpu_us": self._cpu_us(self.told, events),
            "floor_cpu_us": self._cpu_us(self.written, 1),
        }

    def _cpu_us(self, rounds: Sequence[Told], events: int) -> float:
        return median([each.cpu_s / (len(each.took_s) * events * self._subscribers) * 1e6 for each in rounds])


@contextmanager
def _sides(run: Knobs) -> Iterator[Sides]:
    subscribers = run.scaled(SUBSCRIBERS, 10)
    with asyncio.Runner() as runner:
        place = hall(run, subscribers)
        made = runner.run(place.__aenter__())
        try:
            yield Sides(run, runner, made, subscribers)
        finally:
            runner.run(place.__aexit__(None, None, None))


def fanout(run: Knobs) -> Iterator[Figure]:
    """One event a commit, the next when all have it."""
    yield from _against_writes(run, "ws.fanout", EVENTS, 1)


def burst(run: Knobs) -> Iterator[Figure]:
    """Several events a commit. The floor is one write for one event still."""
    yield from _against_writes(run, "ws.burst", BURSTS, BURST)


def _against_writes(run: Knobs, name: str, times: int, events: int) -> Iterator[Figure]:
    if sys.platform != "linux":
        yield skipped(name, "messages/s", NO_EPOLL)
        return
    times = run.scaled(times, 3)
    with _sides(run) as sides:
        rounds = alternate(
            run, lambda: sides.rate(sides.tell(times, events), events), lambda: sides.rate(sides.write(times))
        )
        yield rounds.figure(name, "messages/s", {"events_a_commit": events, **sides.more(events)})


def p99_ms(run: Knobs) -> Iterator[Figure]:
    """From the commit to the last subscriber, the slowest of a hundred."""
    name = "ws.p99_ms"
    if sys.platform != "linux":
        yield skipped(name, "ms", NO_EPOLL)
        return
    times = run.scaled(EVENTS, 3)
    with _sides(run) as sides:
        rounds = alternate(run, lambda: _p99_ms(sides.tell(times, 1)), lambda: _p99_ms(sides.write(times)))
        p50_ms = median([1e3 * took_s for told in sides.told for took_s in told.took_s])
        yield rounds.figure(name, "ms", {"p50_ms": p50_ms, **sides.more(1)})


def _p99_ms(told: Told) -> float:
    return 1e3 * sorted(told.took_s)[len(told.took_s) * 99 // 100]
