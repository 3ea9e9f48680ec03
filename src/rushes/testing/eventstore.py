"""The contract of an event store, as tests. A store keeps every promise of EventStore when this class passes:

    class TestMyStore(EventStoreContract):
        @pytest.fixture
        async def store(self, tmp_path):
            store = await MyStore.open(tmp_path)
            yield store
            await store.close()

        async def reopen(self, store):
            await store.close()
            return await MyStore.open(store.path)

It needs pytest and pytest-asyncio (in its strict mode, decorate with `pytest_asyncio.fixture`). Say
`pytest.register_assert_rewrite("rushes.testing.eventstore")` in a conftest to see what the assertions compared.

`store` is the only thing that must be overridden: every test wants an empty, open store of its own, that may be closed
twice. Three hooks stand for what not every store can do; the tests of one that is not overridden are skipped, and say
why: `reopen` for a store that outlives its process, `outdate` where an owner can be fenced off, `damage` where stored
bytes can be spoiled.

Nothing here assumes that positions have no gaps, but for those within one append. The same promises as a state machine
against a model: `rushes.testing.machine`.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress

import pytest
from msgspec.structs import replace

from rushes.eventstore.base import (
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    BadWrite,
    Batch,
    Birth,
    Damage,
    Damaged,
    EventStore,
    Fenced,
    Head,
    NewEvent,
    NoStream,
    Recorded,
    StoreClosed,
    Stored,
    StoreError,
    TokenReuse,
    TooLarge,
    Write,
    WrongVersion,
)
from rushes.eventstore.follow import follow

OPEN = Head(open=True, lane="local")
ENDED = Head(open=False, lane="local")
TENANT = "default"
# Of five events: those behind `after`, at most `limit` of them.
PARTS = [
    pytest.param(0, None, [1, 2, 3, 4, 5], id="all"),
    pytest.param(2, None, [3, 4, 5], id="a lower bound"),
    pytest.param(0, 2, [1, 2], id="an upper bound"),
    pytest.param(2, 2, [3, 4], id="both"),
    pytest.param(0, 1, [1], id="the first alone"),
    pytest.param(2, 1, [3], id="lower and upper bound are one"),
    pytest.param(4, 1, [5], id="the last alone"),
    pytest.param(3, 100, [4, 5], id="more than there is"),
    pytest.param(0, 5, [1, 2, 3, 4, 5], id="as many as there are"),
    pytest.param(0, 0, [], id="none"),
    pytest.param(2, 0, [], id="the lower bound above the upper"),
    pytest.param(2, -1, [], id="fewer than none"),
    pytest.param(5, None, [], id="behind the last"),
    pytest.param(9, None, [], id="beyond the last"),
    pytest.param(9, 1, [], id="one beyond the last"),
    pytest.param(-3, 2, [1, 2], id="before the first"),
]
NAMES = [
    "job_1",
    "JOB_1",
    "job_1 ",
    "job_é",
    "job_e\u0301",
    "日本",
    "🎬",
    "'; DROP TABLE events; --",
    "%",
    "job_\n",
    "x" * 1_000,
]


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


async def batches_of(
    store: EventStore, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
) -> list[Batch]:
    """The log up to now, as its reader is given it."""
    batches: list[Batch] = []
    after = 0
    while after < store.position:
        batches.append(await store.read_all(after, limit, tenant=tenant, kind=kind))
        after = batches[-1].upto
    return batches


async def whole_log(
    store: EventStore, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
) -> list[Recorded]:
    """Every event that matches."""
    return [event for batch in await batches_of(store, limit, tenant=tenant, kind=kind) for event in batch.events]


async def head_of(store: EventStore, stream: int) -> Head:
    """What the store keeps beside the events."""
    row = (await store.streams([stream]))[stream]
    return Head(open=row.open, lane=row.lane)


async def collect(batches: AsyncIterator[Batch], count: int) -> list[Batch]:
    """What a follower is given until it has so many events."""
    got: list[Batch] = []
    async for batch in batches:
        got.append(batch)
        count -= len(batch.events)
        if count <= 0:
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
        pytest.skip("this store ends with its process: `reopen` is not overridden")

    async def outdate(self, store: EventStore, stream: int) -> None:  # noqa: ARG002 - for those who override it
        """Let an owner with fence 5 claim the stream's shard."""
        pytest.skip("this store has no second owner: `outdate` is not overridden")

    async def damage(self, store: EventStore, stream: int, version: int) -> EventStore:  # noqa: ARG002 - as above
        """Spoil the stored data of one event behind the store's back.

        The result is the store to go on with, which the test closes: the same one, or another one on the same log
        where this one keeps what it read before.
        """
        pytest.skip("nobody knows how to spoil this store's bytes: `damage` is not overridden")

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

    async def test_an_event_that_cannot_be_stored_takes_its_whole_append_along(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1"))
        no_text = NewEvent("take.\ud800", 1, 0.0, b"{}")
        bad = [*new_events(2), no_text, *new_events(2)]
        writes = [
            Write(Birth("job_bad", "job", "nobody"), 0, bad, OPEN, 2),
            Write(stored.stream, 1, bad, ENDED, 2),
            birth("job_good", 2),
        ]
        answers = await asyncio.gather(*map(store.append, writes), return_exceptions=True)
        assert [isinstance(answer, StoreError | UnicodeError) for answer in answers] == [True, True, False]
        assert [event.version for event in await whole_log(store)] == [1, 1, 2]
        assert await store.find("job_bad") is None
        assert await head_of(store, stored.stream) == OPEN
        await store.append(more(stored.stream, 1))

    @pytest.mark.parametrize(
        "bad",
        [
            NewEvent("take.stored", 1, math.nan, b"{}"),
            NewEvent("take.stored", 1, math.inf, b"{}"),
            NewEvent("take.stored", 1, -math.inf, b"{}"),
            NewEvent("take.stored", 0, 0.0, b"{}"),
            NewEvent("take.stored", 2**63, 0.0, b"{}"),
            NewEvent("take.stored", 1, 0.0, b"\xff"),
            NewEvent("take.stored", 1, 0.0, b"{}", b"\xc3"),
        ],
    )
    async def test_a_field_that_cannot_be_stored_is_named_at_once(self, store: EventStore, bad: NewEvent) -> None:
        attempt = store.append(Write(Birth("job_1", "job", TENANT), 0, [*new_events(1), bad], OPEN, 1))
        with pytest.raises(BadWrite):
            next(attempt.__await__())
        assert await whole_log(store) == []

    @pytest.mark.parametrize("token", [-1, 2**63])
    async def test_a_token_has_63_bits(self, store: EventStore, token: int) -> None:
        with pytest.raises(BadWrite):
            await store.append(birth("job_1", token=token))

    async def test_what_is_refused_leaves_no_trace(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1", 2, token=1))
        refused = [
            (WrongVersion, more(stored.stream, 1, token=2, head=ENDED)),
            (WrongVersion, more(stored.stream, 3, token=2, head=ENDED)),
            (WrongVersion, birth("job_1", 1, token=2, kind="call", tenant="acme", head=ENDED)),
            (WrongVersion, replace(birth("job_2", tenant="acme"), expected=1)),
            (TokenReuse, more(stored.stream, 1, token=1, head=ENDED)),
            (NoStream, more(77, 0, head=ENDED)),
        ]
        before = await store.find("job_1"), await whole_log(store), store.position
        for error, write in refused:
            with pytest.raises(error):
                await store.append(write)
        assert (await store.find("job_1"), await whole_log(store), store.position) == before
        assert await store.find("job_2") is None
        assert await store.open_streams("call") == []
        await store.append(more(stored.stream, 2, token=3))
        assert versions(await store.read(stored.stream)) == [1, 2, 3]

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

    async def test_an_append_again_changes_no_head(self, store: EventStore) -> None:
        born = birth("job_1", token=1)
        stream = (await store.append(born)).stream
        grown = more(stream, 1, token=2, head=Head(open=False, lane="acme"))
        await store.append(grown)
        for again in (born, grown, replace(grown, head=OPEN)):
            await store.append(again)
            assert await head_of(store, stream) == grown.head

    async def test_an_append_again_is_recognised_however_far_the_stream_has_moved_on(self, store: EventStore) -> None:
        born = birth("job_1", 2, token=1)
        first = await store.append(born)
        grown = [more(first.stream, 2 + 2 * n, 2, token=10 + n) for n in range(20)]
        answers = [await store.append(write) for write in grown]
        await store.append(birth("job_2"))
        assert [await store.append(write) for write in [born, *grown]] == [first, *answers]
        assert versions(await store.read(first.stream)) == list(range(1, 43))

    @pytest.mark.parametrize(("begin", "end"), [(0, 2), (1, 3), (2, 4), (3, 4), (0, 4)])
    async def test_a_part_of_an_append_under_its_token_is_stored_already(
        self, store: EventStore, begin: int, end: int
    ) -> None:
        """What is asked for is there, bytes and token, so it is success; the positions are those of the part."""
        born = birth("job_1", 4, token=1)
        stored = await store.append(born)
        part = Write(stored.stream, begin, born.events[begin:end], OPEN, 1)
        assert await store.append(part) == Stored(stored.stream, stored.first + begin, stored.first + end - 1)
        assert store.position == stored.last

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

    @pytest.mark.parametrize("place", [0, 1, 2])
    async def test_every_event_of_an_append_is_compared(self, store: EventStore, place: int) -> None:
        born = birth("job_1", 3, token=1)
        await store.append(born)
        events = list(born.events)
        events[place] = replace(events[place], data=b"other")
        with pytest.raises(TokenReuse):
            await store.append(replace(born, events=events))

    @pytest.mark.parametrize(
        ("expected", "count", "token", "error"),
        [
            pytest.param(0, 5, 1, WrongVersion, id="begins with all of an append, goes on with another's"),
            pytest.param(0, 7, 1, WrongVersion, id="begins with all of it, goes on beyond the head"),
            pytest.param(1, 7, 1, WrongVersion, id="begins within it"),
            pytest.param(2, 3, 1, WrongVersion, id="ends within another's"),
            pytest.param(3, 3, 2, TokenReuse, id="all there, but for its bytes"),
            pytest.param(4, 3, 2, TokenReuse, id="goes on beyond the head with other bytes"),
            pytest.param(5, 3, 2, TokenReuse, id="overlaps the last event"),
            pytest.param(0, 3, 3, WrongVersion, id="in place of another's"),
            pytest.param(5, 1, 3, WrongVersion, id="in place of the last"),
            pytest.param(7, 1, 1, WrongVersion, id="one beyond the head"),
            pytest.param(7, 3, 3, WrongVersion, id="leaves a hole"),
        ],
    )
    async def test_an_overlap_writes_nothing(
        self, store: EventStore, expected: int, count: int, token: int, error: type[Exception]
    ) -> None:
        """Versions 1 to 3 are token 1's, and 4 to 6 token 2's."""
        stream = (await store.append(birth("job_1", 3, token=1))).stream
        await store.append(more(stream, 3, 3, token=2))
        before = await whole_log(store)
        write = replace(birth("job_1", count), stream=stream, expected=expected, token=token, head=ENDED)
        if expected == 1:
            write = replace(write, events=[*birth("job_1", 3).events[1:], *new_events(count - 2)])
        with pytest.raises(error):
            await store.append(write)
        assert await whole_log(store) == before
        assert await head_of(store, stream) == OPEN

    async def test_more_than_is_stored_stores_nothing_more(self, store: EventStore) -> None:
        await store.append(birth("job_1", 2, token=1))
        with pytest.raises(WrongVersion):
            await store.append(birth("job_1", 3, token=1))
        assert len(await whole_log(store)) == 2

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
        assert await store.find("job_fat") is await store.find("job_long") is None

    async def test_too_large_is_refused_before_anything_waits(self, store: EventStore) -> None:
        attempt = store.append(more(77, 3, MAX_EVENTS + 1))
        with pytest.raises(TooLarge):
            next(attempt.__await__())  # the first step, as a task would take it

    async def test_the_largest_that_is_allowed(self, store: EventStore) -> None:
        fat = NewEvent("take.stored", 1, 0.0, b"x" * (MAX_EVENT_BYTES - 2), b"{}")
        await store.append(Write(Birth("job_fat", "job", TENANT), 0, [fat], OPEN, 1))
        stored = await store.append(birth("job_long", MAX_EVENTS))
        assert stored.last - stored.first == MAX_EVENTS - 1
        assert versions(await store.read(stored.stream)) == list(range(1, MAX_EVENTS + 1))
        assert as_new((await whole_log(store))[0]) == fat

    async def test_an_owner_that_was_replaced_cannot_write(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1"))
        await self.outdate(store, stored.stream)
        with pytest.raises(Fenced):
            await store.append(replace(more(stored.stream, 1), fence=4))
        assert versions(await store.read(stored.stream)) == [1]
        await store.append(replace(more(stored.stream, 1), fence=5))

    async def test_an_owner_that_was_replaced_is_told_so_whatever_it_writes(self, store: EventStore) -> None:
        born = birth("job_1")
        stream = (await store.append(born)).stream
        await self.outdate(store, stream)
        for write in (born, more(stream, 0), more(stream, 9), replace(more(stream, 1), fence=4)):
            with pytest.raises(Fenced):
                await store.append(write)
        for fence in (5, 6):
            await store.append(replace(born, fence=fence))
        assert len(await whole_log(store)) == 1

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

    async def test_one_token_with_two_contents_has_one_winner(self, store: EventStore) -> None:
        writes = [birth("job_1", count, token=1) for count in (2, 1)]
        writes[1] = replace(writes[1], events=new_events(1, "other"))
        answers = await asyncio.gather(*map(store.append, writes), return_exceptions=True)
        assert {type(answer) for answer in answers} == {Stored, TokenReuse}

    async def test_a_race_at_the_head_has_one_winner_a_version(self, store: EventStore) -> None:
        stream = (await store.append(birth("job_1"))).stream

        async def contender(number: int) -> list[int]:
            won: list[int] = []
            while (version := len(await store.read(stream))) < 20:
                with suppress(WrongVersion):
                    await store.append(more(stream, version, token=100 * number + version))
                    won.append(version + 1)
            return won

        won = [version for versions in await asyncio.gather(*map(contender, range(1, 9))) for version in versions]
        assert sorted(won) == list(range(2, 21))
        assert versions(await store.read(stream)) == list(range(1, 21))

    async def test_an_append_is_seen_whole_or_not_at_all(self, store: EventStore) -> None:
        stream = (await store.append(birth("job_1", 3))).stream

        async def write() -> None:
            for token in range(10, 40):
                await store.append(more(stream, 3 * (token - 9), 3, token=token))

        writing = asyncio.ensure_future(write())
        seen = 0
        while not writing.done():
            events = await store.read(stream)
            assert versions(events) == list(range(1, len(events) + 1))
            assert len(events) % 3 == 0
            assert seen <= len(events)  # what was seen stays
            seen = len(await whole_log(store))
            assert seen % 3 == 0
            await asyncio.sleep(0)
        await writing

    async def test_asking_for_the_head_while_it_moves(self, store: EventStore) -> None:
        stream = (await store.append(birth("job_1"))).stream
        nothing = Write(stream, 0, [], OPEN, 9)

        async def ask() -> None:
            for _ in range(20):
                head = await store.append(nothing)
                assert head.first == head.last

        async def write() -> None:
            for version in range(1, 100):
                await store.append(more(stream, version, token=version))
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as together:
            together.create_task(write())
            for _ in range(10):
                together.create_task(ask())
        assert (await store.append(nothing)).last == store.position

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
        for stream, _ in told:
            assert versions([event for event in log if event.stream == stream]) == list(range(1, 11))

    # ── Reading a stream ──────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize(("after", "limit", "expected"), PARTS)
    async def test_a_part_of_a_stream(
        self, store: EventStore, after: int, limit: int | None, expected: list[int]
    ) -> None:
        await store.append(birth("job_0", 4))
        stored = await store.append(birth("job_1", 5))
        await store.append(birth("job_2", 4))
        assert versions(await store.read(stored.stream, after, limit)) == expected

    async def test_meta_may_be_missing_and_may_be_empty(self, store: EventStore) -> None:
        metas = [None, b"", b"{}", None, '{"by":"ä"}'.encode()]
        events = [NewEvent("take.stored", 1, 0.0, b"{}", meta) for meta in metas]
        stored = await store.append(Write(Birth("job_1", "job", TENANT), 0, events, OPEN, 1))
        assert [event.meta for event in await store.read(stored.stream)] == metas
        assert [event.meta for event in await whole_log(store)] == metas

    @pytest.mark.parametrize("at", [0.0, -0.0, -1.5, 5e-324, 0.1 + 0.2, 1_700_000_000.001, 1e300, float(2**62)])
    async def test_a_time_comes_back_as_it_went(self, store: EventStore, at: float) -> None:
        event = NewEvent("take.stored", 1, at, b"{}")
        write = Write(Birth("job_1", "job", TENANT), 0, [event], OPEN, 1)
        stored = await store.append(write)
        assert (await store.read(stored.stream))[0].at == at
        assert await store.append(write) == stored

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
        assert await store.read_many([streams[0], streams[0]]) == {streams[0]: await store.read(streams[0])}

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

    @pytest.mark.parametrize(("after", "limit", "expected"), PARTS)
    async def test_a_part_of_the_log(
        self, store: EventStore, after: int, limit: int | None, expected: list[int]
    ) -> None:
        """Of the last append: its positions follow each other, and what comes before it may have gaps."""
        await store.append(birth("job_0", 4))
        before = (await store.append(birth("job_1", 5))).first - 1
        limit = 10_000 if limit is None else limit
        batch = await store.read_all(before + max(after, 0), limit)
        assert versions(batch.events) == expected
        assert batch.upto == max(before + max(after, 0), min(before + max(after, 0) + limit, store.position))

    async def test_a_filter_and_a_limit_lose_nothing_together(self, store: EventStore) -> None:
        for number in range(30):
            born = birth(f"s{number}", number % 4 + 1, tenant=f"t{number % 2}", kind="call" if number % 3 else "job")
            await store.append(born)
        log = await whole_log(store)
        rows = await store.streams([event.stream for event in log])
        for tenant, kind in (("t0", "job"), ("t0", None), (None, "job"), (None, None)):
            wanted = [
                event
                for event in log
                if tenant in {None, rows[event.stream].tenant} and kind in {None, rows[event.stream].kind}
            ]
            for limit in (1, 3, 7, 256):
                assert await whole_log(store, limit, tenant=tenant, kind=kind) == wanted

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
            events = await whole_log(store, tenant=tenant, kind=kind)
            rows = await store.streams([event.stream for event in events])
            return [rows[event.stream].name for event in events]

        assert await names() == ["s0", "s1", "s2", "s3"]
        assert await names(tenant="acme") == ["s0", "s2"]
        assert await names(kind="call") == ["s2", "s3"]
        assert await names(tenant="bold", kind="job") == ["s1"]
        assert await names(tenant="nobody") == []
        assert await names(kind="nothing") == []

    # ── Damage ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_damaged_event_is_named_and_spoils_nothing_else(self, store: EventStore) -> None:
        good = (await store.append(birth("job_good", 3))).stream
        bad = await store.append(birth("job_bad", 3, tenant="acme"))
        await store.append(more(good, 3))
        whole = await whole_log(store)
        store = await self.damage(store, bad.stream, 2)
        damage = Damage(bad.first + 1, bad.stream, 2)
        try:
            for after, limit in ((0, None), (1, 1)):
                with pytest.raises(Damaged) as caught:
                    await store.read(bad.stream, after, limit)
                assert caught.value.damage == damage
            assert versions(await store.read(bad.stream, 0, 1)) == [1]
            many = await store.read_many([bad.stream, good])
            assert many[good] == await store.read(good) == [event for event in whole if event.stream == good]
            spoilt = many[bad.stream]
            assert isinstance(spoilt, Damaged)
            assert spoilt.damage == damage
            assert await whole_log(store) == [event for event in whole if event.position != damage.position]
            for tenant, named in ((None, [damage]), ("acme", [damage]), (TENANT, [])):
                batches = await batches_of(store, 2, tenant=tenant)
                assert [one for batch in batches for one in batch.damaged] == named
            with pytest.raises(Damaged):
                await store.append(birth("job_bad", 3, tenant="acme"))  # is it the same? Nobody can tell
            await store.append(more(bad.stream, 3))
            await store.append(more(good, 4))
        finally:
            await store.close()

    async def test_a_follower_steps_over_damage(self, store: EventStore) -> None:
        stored = await store.append(birth("job_1", 5))
        store = await self.damage(store, stored.stream, 3)
        try:
            batches = await collect(follow(store, 0, limit=2), 4)
            assert [event.version for batch in batches for event in batch.events] == [1, 2, 4, 5]
            assert [one.version for batch in batches for one in batch.damaged] == [3]
        finally:
            await store.close()

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

    async def test_names_are_told_apart_to_the_last_bit(self, store: EventStore) -> None:
        ids = {name: (await store.append(birth(name))).stream for name in NAMES}
        assert len(set(ids.values())) == len(NAMES)
        for name, stream in ids.items():
            found = await store.find(name)
            assert found is not None
            assert (found.id, found.name) == (stream, name)

    async def test_kinds_tenants_and_lanes_are_told_apart_to_the_last_bit(self, store: EventStore) -> None:
        for number, word in enumerate(NAMES):
            head = Head(open=True, lane=word)
            await store.append(birth(f"s{number}", kind=word, tenant=word, head=head))
        for number, word in enumerate(NAMES):
            row = await store.find(f"s{number}")
            assert row is not None
            assert (row.kind, row.tenant, row.lane) == (word, word, word)
            assert await store.open_streams(word) == [(row.id, word)]
            assert {event.stream for event in await whole_log(store, tenant=word)} == {row.id}
            assert {event.stream for event in await whole_log(store, kind=word)} == {row.id}

    async def test_a_head_is_written_with_its_append(self, store: EventStore) -> None:
        stream = (await store.append(birth("job_1", head=Head(open=False, lane="a")))).stream
        heads = [Head(open=n % 2 == 0, lane="abc"[n % 3]) for n in range(12)]
        for version, head in enumerate([*heads, heads[-1]], 1):
            await store.append(more(stream, version, token=version, head=head))
            assert await head_of(store, stream) == head
            assert await store.open_streams("job") == ([(stream, head.lane)] if head.open else [])

    async def test_open_streams_are_those_with_work_left(self, store: EventStore) -> None:
        first = await store.append(birth("job_1", head=OPEN))
        await store.append(birth("job_2", head=ENDED))
        await store.append(birth("call_1", kind="call"))
        third = await store.append(birth("job_3", head=Head(open=True, lane="acme")))
        assert await store.open_streams("job") == [(first.stream, "local"), (third.stream, "acme")]
        assert await store.open_streams("job", limit=1) == [(first.stream, "local")]
        assert await store.open_streams("job", first.stream, 1) == [(third.stream, "acme")]
        assert await store.open_streams("job", third.stream) == []

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

    async def test_a_stream_goes_on_where_it_was_after_a_new_start(self, store: EventStore) -> None:
        stream = (await store.append(birth("job_1", 2))).stream
        ended = more(stream, 2, 2, token=5, head=Head(open=False, lane="acme"))
        await store.append(ended)
        store = await self.reopen(store)
        assert await head_of(store, stream) == ended.head
        for expected in (0, 3, 5):
            with pytest.raises(WrongVersion):
                await store.append(more(stream, expected, token=6))
        await store.append(ended)
        await store.append(more(stream, 4, token=7))
        store = await self.reopen(store)
        assert versions(await store.read(stream)) == [1, 2, 3, 4, 5]
        assert await store.open_streams("job") == [(stream, "local")]
        await store.close()
