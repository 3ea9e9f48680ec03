"""Those who keep up are told together: each event once, in order, and nobody who has no room is written to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import msgspec
import pytest
from talking import reading, write_log

from rushes.api import audience
from rushes.api.app import Server
from rushes.api.audience import Audience, Audiences, Subscription, framed
from rushes.api.feed import Feed, Filter
from rushes.eventstore.base import Birth, Head, NewEvent, Write
from rushes.studio import Studio

ALL = Filter("default")


def audiences_there() -> int:
    return sum(task.get_name() == "audience" for task in asyncio.all_tasks())


class Chair:
    """A reader who takes so many frames before he must be waited for."""

    def __init__(self, room: int = 1_000) -> None:
        self.room, self.frames, self.woken = room, list[bytes](), asyncio.Event()

    def take(self, frame: bytes) -> bool:
        if self.full:
            return False
        self.frames.append(frame)
        return True

    @property
    def full(self) -> bool:
        return len(self.frames) >= self.room

    def wake(self) -> None:
        self.woken.set()

    @property
    def positions(self) -> list[int]:
        found = [msgspec.json.decode(frame[frame.index(b"{") :])["items"] for frame in self.frames]
        return [item["position"] for items in found for item in items]


async def happen(studio: Studio, hears: Subscription, *events: int) -> None:
    """So many events, again and again, each time until somebody who is the last to be told was told."""
    for number, count in enumerate(events):
        await write_log(studio, f"job_{studio.store.position}_{number}", count)
        async with asyncio.timeout(5):
            while hears.cursor < studio.store.position:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0)


# ── over sockets ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_keeps_up_is_told_by_one_task_that_ends_with_the_last_of_them(server: Server, studio: Studio) -> None:
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(reading(server.url)) for _ in range(8)]
        for number, reader in enumerate(readers):
            await reader.say(type="subscribe", id=f"name{number % 2}")
            await reader.hear("subscribed")
            await reader.hear("caught_up")
        assert audiences_there() == 1
        await write_log(studio, "job_a", 1)
        await write_log(studio, "job_b", 9)
        for number, reader in enumerate(readers):
            positions: list[int] = []
            while len(positions) < 10:
                frame = await reader.hear("events")
                assert frame["sub"] == f"name{number % 2}"
                positions += [item["position"] for item in frame["items"]]
            assert positions == list(range(1, 11))
        for number, reader in enumerate(readers):
            assert audiences_there() == 1
            await reader.say(type="unsubscribe", id=f"name{number % 2}")
            await reader.say(type="ping")
            await reader.hear("pong")
        assert audiences_there() == 0


async def test_whoever_goes_without_a_word_leaves_no_audience(server: Server, studio: Studio) -> None:
    async with reading(server.url) as stays:
        await stays.say(type="subscribe", id="a")
        await stays.hear("subscribed")
        await stays.hear("caught_up")
        async with reading(server.url) as goes:
            await goes.say(type="subscribe", id="a", status="queued")
            await goes.hear("subscribed")
            await goes.hear("caught_up")
            assert audiences_there() == 2
            goes.ws._response.close()
        while audiences_there() == 2:
            await write_log(studio, f"job_{studio.store.position}", 1)
            await stays.hear("events")


@pytest.mark.parametrize("size_bytes", [0, 60_000, 70_000])
async def test_frames_of_all_lengths_arrive_whole(server: Server, studio: Studio, size_bytes: int) -> None:
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a")
        await reader.hear("subscribed")
        await reader.hear("caught_up")
        await write_log(studio, "job_a", 1, size_bytes=size_bytes)
        (item,) = (await reader.hear("events"))["items"]
        assert item["data"]["filler"] == "x" * size_bytes


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, "8100"),
        (125, "817d"),
        (126, "817e007e"),
        (65_535, "817effff"),
        (65_536, "817f0000000000010000"),
    ],
)
def test_a_frame_begins_with_its_length(length: int, head: str) -> None:
    """RFC 6455, section 5.2: seven bits, or 126 and two bytes, or 127 and eight."""
    assert framed(bytes(length)) == bytes.fromhex(head) + bytes(length)


# ── places ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def three_places(studio: Studio) -> list[list[int]]:
    """What three who joined at three places are told, each going on by himself from where he is sent back."""
    await write_log(studio, "job_a", 4)
    store, feed = studio.store, Feed(studio.store)
    audiences = Audiences(store, feed)
    seats = {Subscription(name, ALL, cursor): Chair() for name, cursor in (("is", 4), ("was", 2), ("will be", 6))}
    for subscription, seat in seats.items():
        audiences.join(subscription, seat)
    await happen(studio, next(iter(seats)), 2, 1)
    told = []
    for subscription, seat in seats.items():
        rest = [] if subscription.listens else (await feed.read(ALL, subscription.cursor)).found
        told.append([*seat.positions, *(one.position for one in rest)])
        audiences.leave(subscription)
    return told


WHOLE = [[5, 6, 7], [3, 4, 5, 6, 7], [7]]


async def test_who_is_not_where_the_others_are_misses_nothing_and_hears_nothing_twice(studio: Studio) -> None:
    assert await three_places(studio) == WHOLE


async def test_control_an_audience_that_does_not_look_is_found(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(Audience):
        def _still_at(self, before: int) -> Iterator[Subscription]:
            assert before >= 0
            yield from tuple(self.members)

    monkeypatch.setattr(audience, "Audience", Careless)
    assert await three_places(studio) != WHOLE


async def test_who_has_no_room_is_sent_back_with_his_cursor_and_others_go_on(studio: Studio) -> None:
    audiences = Audiences(studio.store, Feed(studio.store))
    slow, quick = Subscription("slow", ALL, 0), Subscription("quick", ALL, 0)
    chairs = {slow: Chair(room=2), quick: Chair()}
    for subscription, chair in chairs.items():
        audiences.join(subscription, chair)
    await happen(studio, quick, 1, 1)
    assert (quick.listens, slow.listens) == (True, False)  # at once, not with the next event
    await happen(studio, quick, 1)
    assert (chairs[slow].positions, slow.cursor, slow.listens) == ([1, 2], 2, False)
    assert chairs[slow].woken.is_set()
    assert (chairs[quick].positions, quick.cursor, quick.listens) == ([1, 2, 3], 3, True)
    audiences.leave(quick)


async def test_more_than_one_frame_is_for_each_by_himself(studio: Studio) -> None:
    audiences = Audiences(studio.store, Feed(studio.store))
    subscription, chair = Subscription("a", ALL, 0), Chair()
    audiences.join(subscription, chair)
    many = [NewEvent("test.happened", 1, 1.0, b"{}")] * 300  # more than a page
    await studio.store.append(Write(Birth("job_a", "job", "default"), 0, many, Head(open=False, lane=""), 1))
    async with asyncio.timeout(5):
        await chair.woken.wait()
    assert (chair.frames, subscription.cursor, subscription.listens) == ([], 0, False)


async def test_what_belongs_to_others_moves_the_cursor_and_tells_nothing(studio: Studio) -> None:
    audiences = Audiences(studio.store, Feed(studio.store))
    subscription, chair = Subscription("a", Filter("default", streams=frozenset({99})), 0), Chair()
    audiences.join(subscription, chair)
    await happen(studio, subscription, 3)
    assert (chair.frames, subscription.cursor, subscription.told, subscription.listens) == ([], 3, 0, True)
    audiences.leave(subscription)


async def test_who_leaves_while_others_are_told_is_told_no_more(studio: Studio) -> None:
    audiences = Audiences(studio.store, Feed(studio.store))
    first, second, behind = (Subscription(name, ALL, cursor) for name, cursor in (("a", 1), ("b", 1), ("c", 0)))

    class Rude(Chair):
        def take(self, frame: bytes) -> bool:
            audiences.leave(second)
            audiences.leave(behind)
            return super().take(frame)

    await write_log(studio, "job_a", 1)
    rude, others = Rude(), Chair()
    audiences.join(first, rude)
    audiences.join(second, others)
    audiences.join(behind, others)
    await happen(studio, first, 1, 1)
    assert (rude.positions, others.frames, others.woken.is_set()) == ([2, 3], [], False)
    audiences.leave(first)
