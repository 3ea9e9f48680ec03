"""The promises of an event store as a hypothesis state machine: any order of any operations, against a model of dicts.

    class MyMachine(EventStoreMachine):
        async def open(self):
            return await MyStore.open(tempfile.mkdtemp())

    TestMyStore = MyMachine.TestCase
    TestMyStore.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)

It needs hypothesis. A run has one event loop and one store. `reopen` and `outdate` are those of `EventStoreContract`;
their steps are left out where they are not overridden. `clean_up` may remove what `open` made. `operations` counts the
calls to the store.

Concurrent appends are right if some order of them one after the other explains all answers, so a store may commit them
in any order. Positions may have gaps, but for those within one append.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from itertools import count, permutations
from typing import Any, Final, TypeAlias, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Struct
from msgspec.structs import replace

from rushes.eventstore.base import (
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    BadWrite,
    Batch,
    Birth,
    EventStore,
    Fenced,
    Head,
    NewEvent,
    NoStream,
    Recorded,
    Stored,
    StoreError,
    Stream,
    TokenReuse,
    TooLarge,
    Write,
    WrongVersion,
)
from rushes.eventstore.follow import follow

T = TypeVar("T")
Answer: TypeAlias = Stored | StoreError

KINDS: Final = ("job", "call")
TENANTS: Final = ("acme", "bold")
NAMES: Final = ("job_1", "job_2", "JOB_1", "日本", "job_e\u0301", "job_é")
NOBODY: Final = 1_000_000  # no stream has this number
TOGETHER: Final = 4  # appends at once: each of their orders is tried

EVENT: Final = st.builds(
    NewEvent,
    type=st.sampled_from(["job.requested", "take.stored"]),
    v=st.integers(1, 3),
    at=st.sampled_from([0.0, -1.5, 0.1 + 0.2, 1_700_000_000.001]),
    data=st.sampled_from([b"{}", b'{"a":1}', '{"b":"ä 🎬"}'.encode(), b""]),
    meta=st.sampled_from([None, b"", b"{}"]),
)
EVENTS: Final = st.lists(EVENT, min_size=1, max_size=4)
HEAD: Final = st.builds(Head, open=st.booleans(), lane=st.sampled_from(["local", "acme"]))
PICK: Final = st.integers(0, 40)  # one of what there is, counted from the youngest
VERSION: Final = st.integers(-2, 6)
POSITION: Final = st.integers(-2, 60)
LIMIT: Final = st.sampled_from([0, 1, 2, 5, 256])
FILTER: Final = st.tuples(st.sampled_from([None, *TENANTS, "nobody"]), st.sampled_from([None, *KINDS]))
GOOD: Final = NewEvent("take.stored", 1, 0.0, b"{}")
REFUSED: Final[list[tuple[type[StoreError], list[NewEvent]]]] = [
    (TooLarge, [GOOD] * (MAX_EVENTS + 1)),
    (TooLarge, [GOOD, replace(GOOD, meta=b" " * MAX_EVENT_BYTES)]),
    (BadWrite, [GOOD, replace(GOOD, at=float("nan"))]),
    (BadWrite, [GOOD, replace(GOOD, v=0)]),
    (BadWrite, [GOOD, replace(GOOD, data=b"\xff")]),
]


class Kept(Struct, frozen=True):
    """An event as the model has it."""

    position: int
    stream: int
    version: int
    token: int
    event: NewEvent


class Row(Struct):
    """A stream as the model has it."""

    id: int
    birth: Birth
    head: Head
    events: list[Kept]
    fence: int = 0

    def matches(self, tenant: str | None, kind: str | None) -> bool:
        """Whether a filter lets its events through."""
        return tenant in {None, self.birth.tenant} and kind in {None, self.birth.kind}

    @property
    def public(self) -> Stream:
        """As the store tells it."""
        birth, head = self.birth, self.head
        return Stream(self.id, birth.name, birth.kind, birth.tenant, head.lane, head.open, len(self.events))


class Model:
    """What the log must hold, in dicts and lists."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.log: list[Kept] = []

    def copy(self) -> Model:
        """Another one, to try something with."""
        other = Model()
        other.rows = {row.id: replace(row, events=list(row.events)) for row in self.rows.values()}
        other.log = list(self.log)
        return other

    @property
    def position(self) -> int:
        """The last one."""
        return self.log[-1].position if self.log else 0

    def row_of(self, stream: int | Birth) -> Row | None:
        """The stream that an append means."""
        if isinstance(stream, int):
            return self.rows.get(stream)
        return next((row for row in self.rows.values() if row.birth.name == stream.name), None)

    def judge(self, write: Write) -> type[StoreError] | Stored | None:
        """The one right answer to an append; None where it is new, and the store says where it went."""
        row = self.row_of(write.stream)
        if row is None:
            if isinstance(write.stream, int) or not write.events:
                return NoStream
            return WrongVersion if write.expected else None
        if not write.events:
            return Stored(row.id, row.events[-1].position, row.events[-1].position)
        if write.fence < row.fence:
            return Fenced
        if write.expected == len(row.events):
            return None
        there = row.events[write.expected : write.expected + len(write.events)] if write.expected >= 0 else []
        if not there or {kept.token for kept in there} != {write.token}:
            return WrongVersion
        if any(kept.event != event for kept, event in zip(there, write.events, strict=False)):
            return TokenReuse
        return (
            Stored(row.id, there[0].position, there[-1].position) if len(there) == len(write.events) else WrongVersion
        )

    def take(self, write: Write, answer: Answer) -> bool:
        """Whether that is a right answer; a new append becomes part of the model."""
        right = self.judge(write)
        if isinstance(right, Stored):
            return answer == right
        if right is not None:
            return type(answer) is right
        return isinstance(answer, Stored) and self._add(write, answer)

    def _add(self, write: Write, stored: Stored) -> bool:
        row = self.row_of(write.stream)
        if row is None:
            assert isinstance(write.stream, Birth)
            row = Row(stored.stream, write.stream, write.head, [])
            if stored.stream in self.rows or stored.stream < max(self.rows, default=1):
                return False
            self.rows[row.id] = row
        if stored.stream != row.id or stored.first <= self.position:
            return False
        kept = [
            Kept(position, row.id, version, write.token, event)
            for position, version, event in zip(
                range(stored.first, stored.last + 1), count(write.expected + 1), write.events, strict=False
            )
        ]
        row.events += kept
        row.head = write.head
        self.log += kept
        return stored.last - stored.first == len(write.events) - 1

    def between(self, after: int, upto: int, tenant: str | None, kind: str | None) -> list[Kept]:
        """Part of the log, filtered."""
        return [k for k in self.log if after < k.position <= upto and self.rows[k.stream].matches(tenant, kind)]


class Reader(Struct):
    """Somebody who follows, and remembers how far he has read."""

    tenant: str | None
    kind: str | None
    cursor: int = 0


def as_kept(events: Sequence[Recorded]) -> list[Kept]:
    """What the store gave, as the model has it."""
    return [Kept(e.position, e.stream, e.version, e.token, NewEvent(e.type, e.v, e.at, e.data, e.meta)) for e in events]


def _may_reopen(machine: EventStoreMachine) -> bool:
    return type(machine).reopen is not EventStoreMachine.reopen


def _may_outdate(machine: EventStoreMachine) -> bool:
    return bool(machine.model.rows) and type(machine).outdate is not EventStoreMachine.outdate


def _youngest(things: Sequence[T], pick: int) -> T:
    """One of them, counted from the last."""
    return things[-1 - pick % len(things)]


class EventStoreMachine(RuleBasedStateMachine):
    """Override `open`. See the module's text."""

    operations = 0
    patience_s = 5.0  # of real time, for what should happen at once

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self._runner = asyncio.Runner()
        self._tokens = count(1)
        self._tried: list[Write] = []
        self._stored: list[Write] = []  # those that were new, and good
        self._readers = [Reader(None, None), Reader("acme", None), Reader(None, "job"), Reader("bold", "call")]
        self._numbers: dict[str, int] = {}  # of tenants, as the events carry them
        self.store = self._run(self.open())
        self._watch()

    # ── To override ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> EventStore:
        """A new, empty store."""
        raise NotImplementedError

    async def reopen(self, store: EventStore) -> EventStore:
        """Close it and open the same log again."""
        raise NotImplementedError

    async def outdate(self, store: EventStore, stream: int) -> None:
        """Let an owner with fence 5 claim the shard of this stream, which no other stream may be in."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """After a run, when the store is closed."""

    # ── Appending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(KINDS),
        tenant=st.sampled_from(TENANTS),
        events=EVENTS,
        head=HEAD,
    )
    def bear(self, name: str, kind: str, tenant: str, events: list[NewEvent], head: Head) -> None:
        """A birth, perhaps under a name that is taken."""
        self._append(Write(Birth(name, kind, tenant), 0, events, head, next(self._tokens)))

    @rule(events=EVENTS, head=HEAD, tenant=st.sampled_from(TENANTS), kind=st.sampled_from(KINDS))
    def bear_another(self, events: list[NewEvent], head: Head, tenant: str, kind: str) -> None:
        """A birth under a new name."""
        token = next(self._tokens)
        self._append(Write(Birth(f"stream_{token}", kind, tenant), 0, events, head, token))

    @rule(pick=PICK, events=EVENTS, head=HEAD)
    def grow(self, pick: int, events: list[NewEvent], head: Head) -> None:
        """An append at the head, by the owner of the moment."""
        self._append(self._growth(pick, 0, events, head))

    @rule(pick=PICK, beside=st.sampled_from([-1_000, -3, -2, -1, 1, 2]), events=EVENTS, head=HEAD)
    def grow_elsewhere(self, pick: int, beside: int, events: list[NewEvent], head: Head) -> None:
        """An append at a wrong version."""
        self._append(self._growth(pick, beside, events, head))

    @rule(events=EVENTS, head=HEAD)
    def grow_nobody(self, events: list[NewEvent], head: Head) -> None:
        """An append to a stream that is not there."""
        self._append(Write(NOBODY, 0, events, head, next(self._tokens)))

    @rule(pick=PICK, head=HEAD)
    def append_nothing(self, pick: int, head: Head) -> None:
        """An append without events."""
        self._append(self._growth(pick, pick % 3 - 1, [], head))

    @rule(pick=PICK, refused=st.sampled_from(REFUSED), head=HEAD)
    def append_what_no_store_takes(
        self, pick: int, refused: tuple[type[StoreError], list[NewEvent]], head: Head
    ) -> None:
        """Too large, or no number, or no text."""
        error, events = refused
        answer = self._run(self._try(self._growth(pick, 0, events, head)))
        assert type(answer) is error, (answer, error)

    @precondition(lambda self: bool(self._tried))
    @rule(pick=PICK, head=HEAD)
    def repeat(self, pick: int, head: Head) -> None:
        """An append again, with the same token and bytes."""
        self._append(replace(_youngest(self._tried, pick), head=head))

    @precondition(lambda self: bool(self._stored))
    @rule(
        pick=PICK,
        how=st.sampled_from(["shorter", "later", "longer", "moved", "other", "renamed", "by id"]),
        event=EVENT,
    )
    def repeat_wrongly(self, pick: int, how: str, event: NewEvent) -> None:
        """An append again, but not quite."""
        write = _youngest(self._stored, pick)
        events = list(write.events)
        row = self.model.row_of(write.stream)
        changed = {
            "shorter": replace(write, events=events[:-1]),
            "later": replace(write, expected=write.expected + 1, events=events[1:]),
            "longer": replace(write, events=[*events, event]),
            "moved": replace(write, expected=write.expected + 1),
            "other": replace(write, events=[*events[:-1], replace(events[-1], data=events[-1].data + b" ")]),
            "renamed": replace(write, token=next(self._tokens)),
            "by id": replace(write, stream=row.id if row else NOBODY),
        }[how]
        self._append(changed)

    @rule(pick=PICK, events=EVENTS, head=HEAD, turns=st.integers(0, 8), beside=st.sampled_from([0, 0, 0, -1]))
    def go_away_and_come_again(self, pick: int, events: list[NewEvent], head: Head, turns: int, beside: int) -> None:
        """A caller that is cancelled, and tries again."""
        write = self._growth(pick, beside, events, head)
        self._run(self._cancelled(write, turns))
        self._append(write)

    @rule(
        picks=st.lists(
            st.tuples(st.integers(0, 1), st.sampled_from([0, 0, 0, 1, -1]), st.sampled_from([False, False, True])),
            min_size=2,
            max_size=TOGETHER,
        ),
        events=EVENTS,
        head=HEAD,
    )
    def append_together(self, picks: list[tuple[int, int, bool]], events: list[NewEvent], head: Head) -> None:
        """Appends that wait at the same time: on the same streams, on other ones, and the same one twice."""
        writes: list[Write] = []
        for pick, beside, again in picks:
            if again and self._tried:
                writes.append(_youngest(self._tried, pick))
            else:
                writes.append(self._growth(pick, beside, events, head))
                self._tried.append(writes[-1])
        before = self.model.position
        waiting, answers = self._run(self._together(writes))
        for order in permutations(range(len(writes))):
            model = self.model.copy()
            if all(model.take(writes[index], answers[index]) for index in order):
                self.model = model
                break
        else:
            raise AssertionError(f"No order explains {answers} to {writes}.")
        assert waiting == (self.model.position > before)

    # ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(pick=PICK, after=VERSION, limit=st.none() | LIMIT)
    def read(self, pick: int, after: int, limit: int | None) -> None:
        """A part of a stream."""
        row = self._row(pick)
        first = max(after, 0)
        wanted = row.events[first : None if limit is None else first + limit] if row else []
        assert as_kept(self._run(self.store.read(row.id if row else NOBODY, after, limit))) == wanted

    @rule(picks=st.lists(PICK, max_size=5))
    def read_many(self, picks: list[int]) -> None:
        """Whole streams and their rows."""
        rows = [row for row in map(self._row, picks) if row]
        ids = [*(row.id for row in rows), NOBODY]
        many = self._run(self.store.read_many(ids))
        assert {stream: as_kept(events) for stream, events in many.items() if isinstance(events, list)} == {
            **{row.id: row.events for row in rows},
            NOBODY: [],
        }
        assert self._run(self.store.streams(ids)) == {row.id: row.public for row in rows}

    @rule(after=POSITION, limit=LIMIT, chosen=FILTER)
    def read_all(self, after: int, limit: int, chosen: tuple[str | None, str | None]) -> None:
        """A part of the log."""
        tenant, kind = chosen
        batch = self._run(self.store.read_all(after, limit, tenant=tenant, kind=kind))
        after = max(after, 0)
        assert as_kept(batch.events) == self.model.between(after, batch.upto, tenant, kind)
        assert after <= batch.upto <= max(after, min(after + limit, self.model.position))
        assert batch.upto > after or not limit or after >= self.model.position  # it gets on
        assert not batch.damaged

    @rule(pick=PICK, name=st.sampled_from(NAMES))
    def find(self, pick: int, name: str) -> None:
        """By name, be it there or not."""
        row = self._row(pick)
        for wanted in [name, *([row.birth.name] if row else [])]:
            known = self.model.row_of(Birth(wanted, "", ""))
            assert self._run(self.store.find(wanted)) == (known.public if known else None)

    @rule(kind=st.sampled_from(KINDS))
    def open_streams(self, kind: str) -> None:
        """Those with work left."""
        rows = self.model.rows.values()
        wanted = [(row.id, row.head.lane) for row in rows if row.birth.kind == kind and row.head.open]
        assert sorted(self._run(self.store.open_streams(kind))) == sorted(wanted)

    @rule(pick=PICK, limit=st.integers(1, 7))
    def catch_up(self, pick: int, limit: int) -> None:
        """A follower comes again with its cursor, and reads to the end."""
        reader = self._readers[pick % len(self._readers)]
        after = reader.cursor
        seen = as_kept([event for batch in self._run(self._follow(reader, limit)) for event in batch.events])
        assert seen == self.model.between(after, self.model.position, reader.tenant, reader.kind)

    # ── What happens to a store ───────────────────────────────────────────────────────────────────────────────────────

    @precondition(_may_reopen)
    @rule()
    def start_again(self) -> None:
        """The process ends, and another one opens the log."""
        epoch = self.store.epoch
        self.store = self._run(self.reopen(self.store))
        self._watch()
        assert self.store.epoch == epoch

    @precondition(_may_outdate)
    @rule(pick=PICK, fence=st.sampled_from([0, 4, 5, 6]), events=EVENTS, head=HEAD)
    def lose_a_stream(self, pick: int, fence: int, events: list[NewEvent], head: Head) -> None:
        """Another owner claims it, and somebody writes."""
        row = self._row(pick)
        assert row
        self._run(self.outdate(self.store, row.id))
        row.fence = 5
        self._append(replace(self._growth(pick, 0, events, head), fence=fence))

    @invariant()
    def position_is_the_last(self) -> None:
        """The store tells where it ends."""
        assert self.store.position == self.model.position

    def teardown(self) -> None:
        """Compare everything, and close."""
        try:
            self._run(self._compare())
        finally:
            self._run(self.store.close())
            self._runner.close()
            self.clean_up()

    # ── The machinery ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        type(self).operations += 1
        return self._runner.run(call)

    def _watch(self) -> None:
        self._heard: list[int] = []
        self.store.watch(self._heard.append)

    def _row(self, pick: int) -> Row | None:
        rows = list(self.model.rows.values())
        return _youngest(rows, pick) if rows else None

    def _growth(self, pick: int, beside: int, events: list[NewEvent], head: Head) -> Write:
        row = self._row(pick)
        token = next(self._tokens)
        if row is None:
            return Write(Birth(NAMES[0], KINDS[0], TENANTS[0]), 0, events, head, token)
        return Write(row.id, len(row.events) + beside, events, head, token, row.fence)

    def _append(self, write: Write) -> None:
        self._tried.append(write)
        if self.model.judge(write) is None:
            self._stored.append(write)
        answer = self._run(self._try(write))
        assert self.model.take(write, answer), (answer, self.model.judge(write), write)

    async def _try(self, write: Write) -> Answer:
        try:
            return await self.store.append(write)
        except StoreError as error:
            return error

    async def _cancelled(self, write: Write, turns: int) -> None:
        attempt = asyncio.ensure_future(self._try(write))
        for _ in range(turns):
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.wait([attempt])

    async def _together(self, writes: Sequence[Write]) -> tuple[bool, list[Answer]]:
        """The answers, and whether somebody who waited for a commit was woken."""
        type(self).operations += len(writes) - 1
        before = self.store.position
        waiting = asyncio.ensure_future(self.store.wait(before))
        answers = await asyncio.gather(*map(self._try, writes))
        if self.store.position == before:
            waiting.cancel()
        await asyncio.wait([waiting], timeout=self.patience_s)
        woken = waiting.done() and not waiting.cancelled()
        waiting.cancel()
        return woken, answers

    async def _follow(self, reader: Reader, limit: int) -> list[Batch]:
        got: list[Batch] = []
        following = follow(self.store, reader.cursor, tenant=reader.tenant, kind=reader.kind, limit=limit)
        async with aclosing(following) as batches:
            while reader.cursor < self.store.position:
                got.append(await anext(batches))
                assert reader.cursor < got[-1].upto <= reader.cursor + limit
                reader.cursor = got[-1].upto
        return got

    async def _compare(self) -> None:
        await asyncio.sleep(0)
        assert self._heard == sorted(set(self._heard))
        assert not self._heard or self._heard[-1] == self.model.position
        log: list[Recorded] = []
        after = 0
        while after < self.store.position:
            batch = await self.store.read_all(after)
            log += batch.events
            assert batch.upto > after
            after = batch.upto
        assert as_kept(log) == self.model.log
        for event in log:
            tenant = self.model.rows[event.stream].birth.tenant
            assert self._numbers.setdefault(tenant, event.tenant) == event.tenant
        assert len(set(self._numbers.values())) == len(self._numbers)
        assert await self.store.streams(list(self.model.rows)) == {i: row.public for i, row in self.model.rows.items()}
