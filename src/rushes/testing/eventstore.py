"""The contract of an event store, as tests. Your own store passes when this class does:

    class TestMyStore(EventStoreContract):
        @pytest.fixture
        async def store(self, tmp_path):
            store = await MyStore.open(tmp_path)
            yield store
            await store.close()

Needs pytest and pytest-asyncio. Override `reopen` where the store outlives its process, and `outdate` where an owner
can be fenced off; without them those tests are skipped.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress

import pytest
from msgspec.structs import replace

from rushes.eventstore.base import (
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    Batch,
    Birth,
    EventStore,
    Fenced,
    Head,
    NewEvent,
    NoStream,
    Recorded,
    StoreClosed,
    Stored,
    TokenReuse,
    TooLarge,
    Write,
    WrongVersion,
)
from rushes.eventstore.follow import follow

OPEN = Head(open=True, lane="local")
ENDED = Head(open=False, lane="local")
TENANT = "default"


def new_events(count: int, text: str = "x") -> list[NewEvent]:
    """Events that differ from each other."""
    return [NewEvent("take.stored", 1, 1_700_000_000.125, b'{"%b": %d}' % (text.encode(), n)) for n in range(count)]


def birth(
    name: str, count: int = 1, *, token: int = 1, kind: str = "job", tenant: str = TENANT, head: Head = OPEN
) -> Write:
    """The first append of a stream."""
    return Write(Birth(name, kind, tenant), 0, new_events(count, name), head, token)


def more(stream: int, expected: int, count: int = 1, *, token: int = 2, head: Head = OPEN) -> Write:
    """An append to a stream that is there."""
    return Write(stream, expected, new_events(count, f"more {token}"), head, token)


def versions(events: Sequence[Recorded]) -> list[int]:
    """Their versions, in order."""
    return [event.version for event in events]


def as_new(event: Recorded) -> NewEvent:
    """What was appended."""
    return NewEvent(event.type, event.v, event.at, event.data, event.meta)


async def whole_log(store: EventStore, limit: int = 256) -> list[Recorded]:
    """Everything, batch by batch."""
    events: list[Recorded] = []
    after = 0
    while after < store.position:
        batch = await store.read_all(after, limit)
        events += batch.events
        after = batch.upto
    return events


async def collect(batches: AsyncIterator[Batch], upto: int) -> list[Batch]:
    """What a follower is given until it has reached a position."""
    got: list[Batch] = []
    async for batch in batches:
        got.append(batch)
        if batch.upto >= upto:
            break
    return got


async def append_stubbornly(store: EventStore, write: Write, rng: random.Random) -> Stored:
    """Append like somebody whose callers keep going away: cancel, and try again with the same write."""
    while rng.random() < 0.3:
        attempt = asyncio.ensure_future(store.append(write))
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        attempt.cancel()
        with suppress(asyncio.CancelledError):
            await attempt
    return await store.append(write)


@pytest.mark.asyncio
class EventStoreContract:
    """Everything that must be true of any event store."""

    @pytest.fixture
    def store(self) -> EventStore:
        """An empty, open store. Override this."""
        raise NotImplementedError

    async def reopen(self, store: EventStore) -> EventStore:  # noqa: ARG002 - for those who override it
        """Close it and open the same log again. The result is closed by the test."""
        pytest.skip("this store ends with its process")

    async def outdate(self, store: EventStore, stream: int) -> None:  # noqa: ARG002 - for those who override it
        """Let an owner with fence 5 claim the stream's shard."""
        pytest.skip("this store cannot be fenced")

    # ── Appending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_new_log_is_empty(self, store: EventStore) -> None:
        assert store.position == 0
        assert await store.read_all() == Batch([], 0)
        assert await store.open_streams("job") == []
        assert store.epoch

    async def test_what_was_appended_is_read_back_to_the_byte(self, store: EventStore) -> None:
        events = [
            NewEvent("job.requested", 1, 1_700_000_000.123, '{"prompt":"日本 🎬"}'.encode(), b'{"by":"api"}'),
            NewEvent("job.failed", 7, 0.1 + 0.2, b"{}", None),
            NewEvent("job.failed", 7, 0.0, b"", b""),
        ]
        stored = await store.append(Write(Birth("job_1", "job", TENANT), 0, events, OPEN, 2**63 - 1))
        read = await store.read(stored.stream)
        assert [as_new(event) for event in read] == events
        assert [(event.stream, event.version, event.token) for event in read] == [
            (stored.stream, version, 2**63 - 1) for version in (1, 2, 3)
        ]

    async def test_positions_rise_and_follow_each_other_within_an_append(self, store: EventStore) -> None:
        first = await store.append(birth("job_1", 3))
        second = await store.append(more(first.stream, 3, 2))
        assert first.last - first.first == 2
        assert second.last - second.first == 1
        assert 0 < first.first <= first.last < second.first
        assert store.position == second.last
        positions = [event.position for event in await store.read(first.stream)]
        assert positions == [*range(first.first, first.last + 1), *range(second.first, second.last + 1)]

    async def test_without_events_nothing_is_written(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1", 3))
        await store.append(birth("job_2"))
        before = store.position
        nothing = Write(stored.stream, 3, [], ENDED, 9)
        assert await store.append(nothing) == Stored(stored.stream, stored.last, stored.last)
        assert await store.append(replace(nothing, stream=Birth("job_1", "job", TENANT))) == Stored(
            stored.stream, stored.last, stored.last
        )
        assert store.position == before
        with pytest.raises(NoStream):
            await store.append(birth("job_3", 0))
        assert await store.find("job_3") is None

    @pytest.mark.parametrize("expected", [-1, 0, 1, 2, 4, 5, 1_000_000])
    async def test_only_the_head_may_grow(self, store: EventStore, expected: int) -> None:
        stored = await store.append(birth("job_1", 3))
        with pytest.raises(WrongVersion):
            await store.append(more(stored.stream, expected))
        assert store.position == stored.last
        assert versions(await store.read(stored.stream)) == [1, 2, 3]

    async def test_a_stream_is_born_at_version_0_only(self, store: EventStore) -> None:
        with pytest.raises(WrongVersion):
            await store.append(replace(birth("job_1"), expected=1))
        assert await store.find("job_1") is None

    async def test_a_name_is_born_once(self, store: EventStore) -> None:
        await store.append(birth("job_1", token=1))
        with pytest.raises(WrongVersion):
            await store.append(birth("job_1", token=2))

    async def test_a_number_must_name_a_stream(self, store: EventStore) -> None:
        with pytest.raises(NoStream):
            await store.append(more(77, 0))

    # ── Appending again ───────────────────────────────────────────────────────────────────────────────────────────────

    async def test_the_same_append_again_has_the_old_positions(self, store: EventStore) -> None:
        born = birth("job_1", 2, token=1)
        first = await store.append(born)
        grown = more(first.stream, 2, 3, token=2)
        second = await store.append(grown)
        await store.append(more(first.stream, 5, 1, token=3, head=ENDED))
        before = store.position
        assert await store.append(born) == first
        assert await store.append(replace(born, stream=first.stream)) == first
        assert await store.append(grown) == second
        assert store.position == before
        found = await store.find("job_1")
        assert found is not None
        assert not found.open  # an old append does not bring back its old head

    @pytest.mark.parametrize(
        "other",
        [
            NewEvent("take.lost", 1, 5.0, b"{}", b"1"),
            NewEvent("take.stored", 2, 5.0, b"{}", b"1"),
            NewEvent("take.stored", 1, 5.5, b"{}", b"1"),
            NewEvent("take.stored", 1, 5.0, b"[]", b"1"),
            NewEvent("take.stored", 1, 5.0, b"{}", b"2"),
            NewEvent("take.stored", 1, 5.0, b"{}", None),
        ],
    )
    async def test_a_token_stands_for_its_bytes(self, store: EventStore, other: NewEvent) -> None:
        born = Write(Birth("job_1", "job", TENANT), 0, [NewEvent("take.stored", 1, 5.0, b"{}", b"1")], OPEN, 1)
        await store.append(born)
        with pytest.raises(TokenReuse):
            await store.append(replace(born, events=[other]))

    async def test_the_same_bytes_under_another_token_are_another_append(self, store: EventStore) -> None:
        born = birth("job_1", 2, token=1)
        await store.append(born)
        with pytest.raises(WrongVersion):
            await store.append(replace(born, token=2))

    async def test_a_part_that_is_stored_stores_nothing_more(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1", 2, token=1))
        with pytest.raises(WrongVersion):
            await store.append(birth("job_1", 3, token=1))  # stored two of three
        half = [*new_events(2, "job_1")[1:], *new_events(2)]
        with pytest.raises(WrongVersion):
            await store.append(Write(stored.stream, 1, half, OPEN, 1))  # overlaps by one
        await store.append(more(stored.stream, 2, 1, token=2))
        with pytest.raises(WrongVersion):
            await store.append(birth("job_1", 3, token=1))  # the third is somebody else's
        assert versions(await store.read(stored.stream)) == [1, 2, 3]

    # ── Limits and owners ─────────────────────────────────────────────────────────────────────────────────────────────

    async def test_too_large_is_refused_and_hurts_nobody(self, store: EventStore) -> None:
        fat = NewEvent("take.stored", 1, 0.0, b"x" * (MAX_EVENT_BYTES - 1), b"xx")
        large = [
            Write(Birth("job_fat", "job", TENANT), 0, [fat], OPEN, 1),
            Write(Birth("job_long", "job", TENANT), 0, new_events(MAX_EVENTS + 1), OPEN, 1),
        ]
        answers = await asyncio.gather(
            *(store.append(write) for write in [*large, birth("job_1")]), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [TooLarge, TooLarge, Stored]

    async def test_the_largest_that_is_allowed(self, store: EventStore) -> None:
        fat = NewEvent("take.stored", 1, 0.0, b"x" * MAX_EVENT_BYTES)
        await store.append(Write(Birth("job_fat", "job", TENANT), 0, [fat], OPEN, 1))
        stored = await store.append(birth("job_long", MAX_EVENTS))
        assert len(await store.read(stored.stream)) == MAX_EVENTS
        assert len((await store.read_all(0, 1)).events[0].data) == MAX_EVENT_BYTES

    async def test_an_owner_that_was_replaced_cannot_write(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1"))
        await self.outdate(store, stored.stream)
        with pytest.raises(Fenced):
            await store.append(replace(more(stored.stream, 1), fence=4))
        assert versions(await store.read(stored.stream)) == [1]
        await store.append(replace(more(stored.stream, 1), fence=5))

    # ── Together ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_bad_append_fails_alone(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1"))
        together = [birth("job_2"), more(stored.stream, 5), more(99, 0), birth("job_3"), birth("job_1", token=8)]
        answers = await asyncio.gather(*(store.append(write) for write in together), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Stored, WrongVersion, NoStream, Stored, WrongVersion]
        assert len(await whole_log(store)) == 3

    async def test_appends_to_one_stream_may_wait_together(self, store: EventStore) -> None:
        stream = (await store.append(birth("job_1"))).stream
        await asyncio.gather(*(store.append(more(stream, version, token=version)) for version in range(1, 20)))
        assert versions(await store.read(stream)) == list(range(1, 21))

    async def test_a_race_has_one_winner(self, store: EventStore) -> None:
        answers = await asyncio.gather(
            *(store.append(birth("job_1", token=token)) for token in range(20)), return_exceptions=True
        )
        assert [type(answer) for answer in answers].count(Stored) == 1
        assert [type(answer) for answer in answers].count(WrongVersion) == 19
        assert len(await whole_log(store)) == 1

    async def test_the_same_append_may_be_under_way_twice(self, store: EventStore) -> None:
        born = birth("job_1", 3)
        answers = await asyncio.gather(*(store.append(born) for _ in range(5)))
        assert len(set(map(str, answers))) == 1
        assert len(await whole_log(store)) == 3

    async def test_a_caller_that_goes_away_leaves_all_or_nothing(self, store: EventStore) -> None:
        stream = (await store.append(birth("job_1"))).stream
        for turns in range(12):
            head = len(await store.read(stream))
            write = more(stream, head, 3, token=turns + 10)
            attempt = asyncio.ensure_future(store.append(write))
            for _ in range(turns):
                await asyncio.sleep(0)
            attempt.cancel()
            await asyncio.wait([attempt])
            await store.append(write)
            assert versions(await store.read(stream)) == list(range(1, head + 4))

    async def test_200_appenders_that_are_cancelled_and_come_again(self, store: EventStore) -> None:
        rng = random.Random(7)  # noqa: S311 - to be the same every time
        told: dict[tuple[int, int], int] = {}

        async def appender(number: int) -> None:
            stored = await append_stubbornly(store, birth(f"job_{number}", token=rng.getrandbits(63)), rng)
            told[stored.stream, 1] = stored.first
            for version in range(1, 10):
                if rng.random() < 0.1:
                    with pytest.raises(WrongVersion):
                        await store.append(more(stored.stream, version + 1, token=rng.getrandbits(63)))
                write = more(stored.stream, version, token=rng.getrandbits(63))
                told[stored.stream, version + 1] = (await append_stubbornly(store, write, rng)).first

        await asyncio.gather(*map(appender, range(200)))
        log = await whole_log(store)
        assert {(event.stream, event.version): event.position for event in log} == told  # nothing is missing
        assert len(log) == len(told) == 2_000  # nothing is there twice
        assert [event.position for event in log] == sorted(event.position for event in log)

    # ── Reading a stream ──────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize(
        ("after", "limit", "expected"),
        [
            (0, None, [1, 2, 3, 4, 5]),
            (2, None, [3, 4, 5]),
            (0, 2, [1, 2]),
            (2, 2, [3, 4]),
            (4, 1, [5]),
            (3, 100, [4, 5]),
            (0, 0, []),
            (5, None, []),
            (9, None, []),
            (9, 1, []),
            (-3, 2, [1, 2]),
        ],
    )
    async def test_a_part_of_a_stream(
        self, store: EventStore, after: int, limit: int | None, expected: list[int]
    ) -> None:
        await store.append(birth("job_0", 4))
        stored = await store.append(birth("job_1", 5))
        assert versions(await store.read(stored.stream, after, limit)) == expected

    async def test_a_stream_of_nothing(self, store: EventStore) -> None:
        assert await store.read(77) == []
        assert await store.read_many([77]) == {77: []}
        assert await store.read_many([]) == {}

    async def test_whole_streams_together(self, store: EventStore) -> None:
        streams = [(await store.append(birth(f"job_{n}", n))).stream for n in range(1, 5)]
        await store.append(more(streams[1], 2, 2))
        many = await store.read_many([streams[3], streams[1], 77])
        assert many == {streams[3]: await store.read(streams[3]), streams[1]: await store.read(streams[1]), 77: []}
        assert versions(await store.read(streams[1])) == [1, 2, 3, 4]

    # ── Reading the log ───────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("limit", [1, 2, 3, 256, 10_000])
    async def test_the_whole_log_in_batches(self, store: EventStore, limit: int) -> None:
        for number in range(4):
            await store.append(birth(f"job_{number}", 2))
        log = await whole_log(store, limit)
        assert [event.position for event in log] == sorted({event.position for event in log})
        assert len(log) == 8
        for event in log:
            assert event in await store.read(event.stream)

    async def test_upto_is_where_was_looked_and_not_where_was_found(self, store: EventStore) -> None:
        await store.append(birth("job_1", 3, tenant="acme"))
        last = (await store.append(birth("job_2", 3, tenant="bold"))).last
        batch = await store.read_all(0, tenant="acme")
        assert (len(batch.events), batch.upto) == (3, last)
        batch = await store.read_all(last - 3, 2, tenant="acme")
        assert (len(batch.events), batch.upto) == (0, last - 1)
        assert await store.read_all(last) == Batch([], last)
        assert await store.read_all(last + 5) == Batch([], last + 5)
        assert await store.read_all(0, 0) == Batch([], 0)

    async def test_the_log_of_a_tenant_or_a_kind(self, store: EventStore) -> None:
        for number, (kind, tenant) in enumerate([("job", "acme"), ("job", "bold"), ("call", "acme"), ("call", "bold")]):
            await store.append(birth(f"s{number}", kind=kind, tenant=tenant))

        async def names(*, tenant: str | None = None, kind: str | None = None) -> list[str]:
            events = (await store.read_all(0, tenant=tenant, kind=kind)).events
            rows = await store.streams([event.stream for event in events])
            return [rows[event.stream].name for event in events]

        assert await names() == ["s0", "s1", "s2", "s3"]
        assert await names(tenant="acme") == ["s0", "s2"]
        assert await names(kind="call") == ["s2", "s3"]
        assert await names(tenant="bold", kind="job") == ["s1"]
        assert await names(tenant="nobody") == []
        assert await names(kind="nothing") == []

    # ── Streams ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_stream_is_found_by_its_name(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1", 2, kind="call", tenant="acme"))
        found = await store.find("job_1")
        assert found is not None
        assert (found.id, found.name, found.kind, found.tenant) == (stored.stream, "job_1", "call", "acme")
        assert (found.lane, found.open, found.version) == ("local", True, 2)
        assert await store.find("job_2") is None
        assert await store.streams([stored.stream, 77]) == {stored.stream: found}
        assert await store.streams([]) == {}

    async def test_the_head_is_the_last_appends(self, store: EventStore) -> None:
        stream = (await store.append(birth("job_1"))).stream
        await store.append(more(stream, 1, token=2, head=Head(open=True, lane="acme")))
        assert await store.open_streams("job") == [(stream, "acme")]
        await store.append(more(stream, 2, token=3, head=ENDED))
        assert await store.open_streams("job") == []

    async def test_open_streams_are_those_with_work_left(self, store: EventStore) -> None:
        first = await store.append(birth("job_1", head=OPEN))
        await store.append(birth("job_2", head=ENDED))
        await store.append(birth("call_1", kind="call"))
        third = await store.append(birth("job_3", head=Head(open=True, lane="acme")))
        assert sorted(await store.open_streams("job")) == [(first.stream, "local"), (third.stream, "acme")]

    async def test_the_newest_streams_of_a_kind_and_a_tenant(self, store: EventStore) -> None:
        ids = [(await store.append(birth(f"job_{n}"))).stream for n in range(5)]
        await store.append(birth("job_other", tenant="acme"))
        await store.append(birth("call_1", kind="call"))

        async def newest(limit: int, before: int | None = None) -> list[int]:
            return [stream.id for stream in await store.newest("job", TENANT, limit, before=before)]

        assert await newest(2) == [ids[4], ids[3]]
        assert await newest(2, before=ids[3]) == [ids[2], ids[1]]
        assert await newest(9, before=ids[1]) == [ids[0]]
        assert await newest(9, before=ids[0]) == []
        assert await newest(0) == []
        assert await store.newest("job", "nobody", 9) == []

    # ── Following ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_follower_has_no_gap_and_no_duplicate(self, store: EventStore) -> None:
        await store.append(birth("job_early", 7))

        async def write() -> None:
            await asyncio.gather(*(store.append(birth(f"job_{n}", 3, token=n)) for n in range(40)))

        async with aclosing(follow(store, 0, limit=5)) as batches:
            reading = asyncio.ensure_future(collect(batches, 127))
            await write()
            got = await reading
        assert [event for batch in got for event in batch.events] == await whole_log(store)
        assert [batch.upto for batch in got] == sorted({batch.upto for batch in got})

    async def test_a_quiet_followers_cursor_moves(self, store: EventStore) -> None:
        async with aclosing(follow(store, 0, tenant="acme")) as batches:
            last = (await store.append(birth("job_1", 3))).last
            assert await anext(batches) == Batch([], last)
            await store.append(birth("job_2", tenant="acme"))
            assert versions((await anext(batches)).events) == [1]

    async def test_a_follower_may_begin_anywhere(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1", 5))
        async with aclosing(follow(store, stored.first + 2)) as batches:
            assert versions((await anext(batches)).events) == [4, 5]

    async def test_waiting_ends_with_the_next_commit(self, store: EventStore) -> None:
        waiting = [asyncio.ensure_future(store.wait(0)) for _ in range(2_000)]
        for _ in range(3):
            await asyncio.sleep(0)
        waiting[0].cancel()  # takes nobody with it
        assert not any(waiter.done() for waiter in waiting[1:])
        await store.append(birth("job_1"))
        await asyncio.gather(*waiting[1:])
        await store.wait(0)

    async def test_a_watcher_hears_every_position_until_it_stops(self, store: EventStore) -> None:
        heard: list[int] = []
        stop = store.watch(heard.append)
        first = await store.append(birth("job_1", 2))
        second = await store.append(birth("job_2"))
        await asyncio.sleep(0)
        assert heard == [first.last, second.last]
        stop()
        stop()
        await store.append(birth("job_3"))
        await asyncio.sleep(0)
        assert heard == [first.last, second.last]

    async def test_an_acknowledged_append_can_be_read(self, store: EventStore) -> None:
        async def write_and_read(number: int) -> None:
            stored = await store.append(birth(f"job_{number}"))
            assert store.position >= stored.last
            assert len((await store.read_all(stored.first - 1, 1)).events) == 1
            assert versions(await store.read(stored.stream)) == [1]

        await asyncio.gather(*map(write_and_read, range(50)))

    # ── Closing ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_closed_store_says_so(self, store: EventStore) -> None:
        await store.append(birth("job_1"))
        waiting = asyncio.ensure_future(store.wait(store.position))
        following = asyncio.ensure_future(collect(follow(store, store.position), 99))
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        with pytest.raises(StoreClosed):
            await waiting
        assert await following == []
        for asked in (store.append(birth("job_2")), store.read(1), store.read_all(0), store.find("job_1")):
            with pytest.raises(StoreClosed):
                await asked

    async def test_closing_finishes_what_was_begun(self, store: EventStore) -> None:
        begun = [asyncio.ensure_future(store.append(birth(f"job_{n}"))) for n in range(300)]
        await asyncio.sleep(0)
        await store.close()
        assert all(isinstance(stored, Stored) for stored in await asyncio.gather(*begun))

    async def test_a_log_outlives_its_process(self, store: EventStore) -> None:
        born = birth("job_1", 3)
        stored = await store.append(born)
        await store.append(birth("job_2", tenant="acme", head=ENDED))
        before = store.epoch, store.position, await whole_log(store), await store.find("job_1")
        store = await self.reopen(store)
        assert (store.epoch, store.position, await whole_log(store), await store.find("job_1")) == before
        assert await store.append(born) == stored
        assert (await store.append(birth("job_3", tenant="acme"))).first > before[1]
        await store.close()
