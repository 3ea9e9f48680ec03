"""The list of jobs says what the log says: whatever is asked for, however it is cut, while everything changes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from acme import AcmeTwin, Wire, make
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import ACCEPTED, ASKED, HERE, THERE
from listing import STORIES, T0, Log, folded, story
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.codec import encode
from rushes.eventstore.base import Batch
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, NotFound, Unavailable
from rushes.studio import Studio
from rushes.units import utc
from rushes.video import Batch as Place
from rushes.video import JobsQuery, JobView, Page
from rushes.views.fold import Fold
from rushes.views.jobs import JobsView
from rushes.views.rows import set_up, statements

EXAMPLES = 2_000 if os.environ.get("RUSHES_NIGHTLY") else 60
JOBS = 6


class HeldBack(MemoryStore):
    """A log whose readers of the whole wait while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def read_all(
        self, after: int = 0, limit: int = 256, *, tenant: str | None = None, kind: str | None = None
    ) -> Batch:
        await self.gate.wait()
        return await super().read_all(after, limit, tenant=tenant, kind=kind)


class Desk:
    """A log without actors, its list, and the studio that shows it."""

    def __init__(self, store: HeldBack, view: JobsView, folder: Path) -> None:
        self.store, self.view, self.log = store, view, Log(store)
        _, self.studio = make(store, folder, Wire(AcmeTwin()))
        self.studio._jobs = view


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Desk]:
    store = HeldBack()
    view = await JobsView.open(store, folder / "views.db")
    try:
        yield Desk(store, view, folder)
    finally:
        await view.close()
        await store.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


def ids(page: Page) -> list[str]:
    return [view.id for view in page.jobs]


async def walked(studio: Studio, **fields: Any) -> list[str]:
    """Every id of the list, page by page."""
    found: list[str] = []
    page = await studio.jobs(**fields)
    found += ids(page)
    while page.next is not None:
        page = await studio.jobs(**fields, after=page.next)
        assert not page.stale
        found += ids(page)
    assert not page.has_more
    return found


# ── the rows are the fold of the log ──────────────────────────────────────────────────────────────────────────────────

told = st.lists(st.tuples(st.integers(0, JOBS - 1), st.integers(0, 4)), min_size=1, max_size=25)
names = st.lists(st.sampled_from(sorted(STORIES)), min_size=JOBS, max_size=JOBS)


async def tell(log: Log, stories: list[str], steps: list[tuple[int, int]]) -> None:
    """Jobs whose stories go on in turn; none at a time: an event that nobody knows."""
    left = [story(name, (HERE, THERE)[n % 2], n // 2) for n, name in enumerate(stories)]
    for step, (number, count) in enumerate(steps):
        events, left[number] = left[number][:count], left[number][count:]
        if events:
            await log.tell(f"job_{number}", events, T0 + step)
        elif not count:
            await log.tell_stored(f"job_{number}")
            left[number] = []


class Rotten(MemoryStore):
    """A log in which some events do not match their checksums."""

    def rot(self, position: int) -> None:
        self._crcs[position - 1] ^= 1


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    names, told, st.lists(st.integers(1, 60), max_size=4), st.lists(st.integers(1, 60), max_size=2), st.integers(0, 3)
)
def test_the_rows_are_the_same_however_the_log_is_cut(
    stories: list[str], steps: list[tuple[int, int]], stops: list[int], rot: list[int], cached: int
) -> None:
    async def check() -> None:
        store = Rotten()
        await tell(Log(store), stories, steps)
        for position in rot:
            if position <= store.position:
                store.rot(position)
        end = store.position
        cuts = [*sorted({stop for stop in stops if stop < end}), end]
        assert await folded(store, cuts, cached) == await folded(store, [end])

    asyncio.run(check())


class Forgetful(Fold):
    """The control: what is not in memory is taken for new."""

    async def _recall(self, versions: Mapping[int, int]) -> None:
        await super()._recall(dict.fromkeys(versions, 0))


async def test_control_a_fold_that_forgets_has_other_rows() -> None:
    store = MemoryStore()
    await tell(Log(store), ["running"] * JOBS, [(0, 2), (0, 1)])
    assert await folded(store, [1, 2, 3], kind=Forgetful) != await folded(store, [3], kind=Forgetful)


@pytest.mark.parametrize("name", sorted(STORIES))
async def test_a_row_says_what_the_job_shows(desk: Desk, name: str) -> None:
    await desk.log.tell("job_a", story(name, THERE, 7), T0)
    (row,) = await folded(desk.store, [desk.store.position])
    (view,) = (await desk.studio.jobs()).jobs
    shown = [view.id, "default", view.status, view.phase, view.billed, view.provider, view.model, view.operation]
    assert list(row[1:]) == [*shown, view.request.customer_id, view.batch, T0, T0, view.version]


async def test_a_job_whose_beginning_is_damaged_stands_beside_the_one_before_it() -> None:
    store = Rotten()
    log = Log(store)
    for number in range(3):
        await log.tell(f"job_{number}", [ASKED], T0 + number)
    store.rot(2)
    rows = await folded(store, [3])
    assert [(row[1], row[3], row[11]) for row in rows] == [
        ("job_0", "queued", T0),
        ("job_1", "", T0),
        ("job_2", "queued", T0 + 2),
    ]


async def test_a_stumbling_fold_costs_one_job() -> None:
    """A story that cannot be: an accept that nobody asked for."""
    store = MemoryStore()
    log = Log(store)
    await log.tell("job_a", [ASKED], T0)
    await log.tell_stored("job_a", encode(ACCEPTED, T0, m.Wake()))
    await log.tell("job_b", [ASKED], T0)
    assert [row[4] for row in await folded(store, [store.position])] == ["unreadable", "queued"]


# ── what is asked for ─────────────────────────────────────────────────────────────────────────────────────────────────


def times() -> st.SearchStrategy[datetime | None]:
    return st.none() | st.integers(-1, 6).map(lambda s: utc(T0 + s))


queries = st.builds(
    JobsQuery,
    status=st.sampled_from([None, None, "queued", "running", "succeeded", "failed", "cancelled"]),
    phase=st.sampled_from([None, None, None, "parked", "running", "succeeded"]),
    billed=st.sampled_from([None, None, None, "no", "unknown"]),
    provider=st.sampled_from([None, None, "here", "there"]),
    model=st.sampled_from([None, None, "a", "b"]),
    operation=st.sampled_from([None, "text-to-video", "image-to-video"]),
    customer_id=st.sampled_from([None, None, 0, 1]),
    created_after=times(),
    created_before=times(),
    sort=st.sampled_from(["created", "updated"]),
    order=st.sampled_from(["desc", "asc"]),
    limit=st.integers(1, 4),
)
born = st.lists(
    st.tuples(
        st.sampled_from(sorted(STORIES)),
        st.sampled_from([HERE, THERE]),
        st.integers(0, 2),
        st.integers(0, 4),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=12,
)


def expected(views: list[JobView], query: JobsQuery) -> list[str]:
    """The whole list in plain Python; `views` are in the order of birth."""

    def is_right(view: JobView) -> bool:
        facts: dict[str, object] = msgspec.structs.asdict(view) | {"customer_id": view.request.customer_id}
        asked = {word: facts[word] for word in facts if getattr(query, word, None) is not None}
        after, before = query.created_after, query.created_before
        return (
            all(getattr(query, word) == fact for word, fact in asked.items())
            and (after is None or after < view.created_at)
            and (before is None or view.created_at < before)
        )

    at: Callable[[JobView], datetime] = lambda view: getattr(view, f"{query.sort}_at")  # noqa: E731
    right = sorted(filter(is_right, views), key=at)
    return [view.id for view in (reversed(right) if query.order == "desc" else right)]


@settings(max_examples=EXAMPLES, deadline=None)
@given(born, st.lists(queries, min_size=1, max_size=8))
def test_pages_hold_what_was_asked_for_in_order(born: list[Any], asked: list[JobsQuery]) -> None:
    async def check(folder: Path) -> None:
        async with opened(folder) as desk:
            mine: list[str] = []
            for number, (name, target, customer, at, later, is_mine) in enumerate(born):
                tenant = "default" if is_mine else "another"
                events = story(name, target, customer)
                await desk.log.tell(f"job_{number}", events[:1], T0 + at, tenant)
                if events[1:]:
                    await desk.log.tell(f"job_{number}", events[1:], T0 + at + later, tenant)
                mine += [f"job_{number}"] if is_mine else []
            views = [await desk.studio.show(job) for job in mine]
            looking = make(desk.store, folder, Wire(AcmeTwin()))[1]  # folds for itself
            for query in asked:
                fields = msgspec.structs.asdict(query)
                del fields["after"]
                assert await walked(desk.studio, **fields) == expected(views, query)
                assert ids(await looking.jobs(**fields)) == expected(views, query)[: query.limit]

    with TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder)))


async def test_a_model_is_named_with_or_without_its_provider(desk: Desk) -> None:
    for number, model in enumerate(("a1", "x/y")):
        target = replace(HERE, provider="acme", model=model)
        await desk.log.tell(f"job_{number}", story("queued", target), T0 + number)
    for asked, found in {
        "a1": ["job_0"],
        "acme/a1": ["job_0"],
        "acme/x/y": ["job_1"],
        "x/y": ["job_1"],
        "elsewhere/a1": [],
    }.items():
        assert ids(await desk.studio.jobs(model=asked)) == found
    assert ids(await desk.studio.jobs(model="acme/a1", provider="acme")) == ["job_0"]
    assert ids(await desk.studio.jobs(model="acme/a1", provider="there")) == []


@pytest.mark.parametrize(
    ("fields", "field", "word"),
    [
        ({"statu": "failed"}, "statu", "status"),
        ({"status": "done"}, "status", "done"),
        ({"phase": "done"}, "phase", "parked"),
        ({"operation": "sing"}, "operation", "text-to-video"),
        ({"limit": 0}, "limit", ">= 1"),
        ({"limit": 201}, "limit", "<= 200"),
        ({"customer_id": -1}, "customer_id", ">= 0"),
        ({"sort": "size"}, "sort", "size"),
        ({"created_after": datetime(2026, 1, 1)}, "created_after", "timezone"),  # noqa: DTZ001 - the point
        ({"after": "x"}, "after", "'next'"),
        ({"after": "日本"}, "after", "'next'"),
        ({"after": "WyJjcmVhdGVkIixOYU4sMV0"}, "after", "'next'"),
        ({"after": "WyJ1cGRhdGVkIiwxLjAsMV0"}, "after", "'updated'"),
        ({"before": "job_nobody"}, "before", "job_nobody"),
        ({"before": "job_b"}, "before", "job_b"),
        ({"before": "job_a", "after": "x"}, "before", "'after'"),
        ({"before": "job_a", "order": "asc"}, "before", "'after'"),
        ({"before": "job_a", "sort": "updated"}, "before", "'after'"),
    ],
)
async def test_what_is_wrong_with_a_question_is_named(
    desk: Desk, fields: dict[str, Any], field: str, word: str
) -> None:
    await desk.log.tell("job_a", [ASKED], T0)
    await desk.log.tell("job_b", [ASKED], T0, tenant="another")
    with pytest.raises(BadRequest) as refused:
        await desk.studio.jobs(**fields)
    assert refused.value.field == field
    assert word in refused.value.detail


# ── while everything changes ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sort", ["created", "updated"])
@pytest.mark.parametrize("order", ["desc", "asc"])
async def test_pages_hold_still_while_jobs_are_made(desk: Desk, sort: Any, order: Any) -> None:
    """Every job that was there at the first page comes once; so do those that come meanwhile, if they come at all."""
    for number in range(20):
        await desk.log.tell(f"old_{number}", [ASKED], T0 + number // 3)
    found: list[str] = []
    after: str | None = None
    for number in range(100):
        page = await desk.studio.jobs(sort=sort, order=order, limit=3, after=after)
        found += ids(page)
        if (after := page.next) is None:
            break
        if number < 8:
            await desk.log.tell(f"new_{number}", [ASKED], T0 + number)
    assert len(found) == len(set(found))
    assert {job for job in found if job.startswith("old")} == {f"old_{number}" for number in range(20)}


async def test_control_counting_pages_from_the_front_shows_a_job_twice(desk: Desk) -> None:
    """What OFFSET does."""
    for number in range(6):
        await desk.log.tell(f"old_{number}", [ASKED], T0 + number)
    first = ids(await desk.studio.jobs(limit=3))
    await desk.log.tell("new", [ASKED], T0 + 9)
    second = ids(await desk.studio.jobs(limit=6))[3:]
    assert set(first) & set(second)


async def test_whoever_made_a_job_finds_it(desk: Desk) -> None:
    for number in range(30):
        await desk.log.tell(f"job_{number}", [ASKED], T0 + number)
        page = await desk.studio.jobs(limit=1)
        assert (ids(page), page.stale) == ([f"job_{number}"], False)


async def test_a_list_that_is_held_back_says_so_and_shows_nothing_wrong(desk: Desk) -> None:
    running, rest = story("succeeded")[:3], story("succeeded")[3:]
    await desk.log.tell("job_a", running, T0)
    await desk.log.tell("job_b", running, T0)
    assert ids(await desk.studio.jobs(status="running")) == ["job_b", "job_a"]
    desk.store.gate.clear()
    await desk.log.tell("job_a", rest, T0 + 1)
    await desk.log.tell("job_c", running, T0 + 2)
    late = await desk.studio.jobs(status="running")
    assert (ids(late), late.stale) == (["job_b"], True)
    desk.store.gate.set()
    page = await desk.studio.jobs(status="running")
    assert (ids(page), page.stale) == (["job_c", "job_b"], False)


async def test_while_the_list_is_held_back_nobody_says_that_there_is_no_such_batch(desk: Desk) -> None:
    desk.store.gate.clear()
    await desk.log.tell("job_a", [replace(ASKED, batch=Place(id="batch_a", index=0, size=1))], T0)
    with pytest.raises(Unavailable, match="batch_a"):
        await desk.studio.batch("batch_a")
    desk.store.gate.set()
    assert (await desk.studio.batch("batch_a")).jobs == ["job_a"]
    with pytest.raises(NotFound):
        await desk.studio.batch("batch_b")


async def test_what_has_changed_since_is_in_its_new_place(desk: Desk) -> None:
    for number in range(3):
        await desk.log.tell(f"job_{number}", [ASKED], T0 + number)
    assert ids(await desk.studio.jobs(sort="updated")) == ["job_2", "job_1", "job_0"]
    desk.store.gate.clear()
    await desk.log.tell("job_0", story("running")[1:], T0 + 9)
    late = await desk.studio.jobs(sort="updated")
    assert (ids(late), late.stale) == (["job_0", "job_2", "job_1"], True)


async def test_rows_are_written_though_nobody_asks(desk: Desk) -> None:
    await desk.log.tell("job_a", [ASKED], T0)
    async with asyncio.timeout(5):
        await desk.view._reached.wait(0)


# ── what cannot be read ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_cannot_be_read_is_named_whatever_was_asked_for(desk: Desk) -> None:
    for number in range(6):
        await desk.log.tell(f"job_{number}", [ASKED], T0 + number)
    await desk.log.tell_stored("job_1")
    await desk.log.tell_stored("job_4")
    first = await desk.studio.jobs(status="queued", limit=3)
    assert (ids(first), first.unreadable) == (["job_5", "job_3"], ["job_4"])
    second = await desk.studio.jobs(status="queued", limit=3, after=first.next)
    assert (ids(second), second.unreadable, second.next) == (["job_2", "job_0"], ["job_1"], None)
    alone = await desk.studio.jobs(phase="unreadable")
    assert (ids(alone), alone.unreadable) == ([], ["job_4", "job_1"])
    assert (await desk.studio.jobs(tenant="another")).unreadable == []


async def test_a_page_of_nothing_but_unreadable_jobs_goes_on(desk: Desk) -> None:
    await desk.log.tell("job_0", [ASKED], T0)
    for number in range(1, 5):
        await desk.log.tell(f"job_{number}", [ASKED], T0 + number)
        await desk.log.tell_stored(f"job_{number}")
    assert await walked(desk.studio, limit=2) == ["job_0"]


# ── how it is found ───────────────────────────────────────────────────────────────────────────────────────────────────

ASKED_FOR: list[dict[str, Any]] = [
    {},
    {"status": "failed"},
    {"phase": "parked"},
    {"provider": "here"},
    {"model": "a"},
    {"customer_id": 7},
    {"batch": "batch_a"},
    {"operation": "text-to-video"},
    {"status": "failed", "model": "a"},
    {"created_after": datetime(2026, 1, 1, tzinfo=UTC)},
]


def plans(connection: sqlite3.Connection, query: JobsQuery) -> list[str]:
    """Every line of how the page is looked up."""
    return [
        line[3]
        for sql, values in statements(query, "default", (T0, 1))
        for line in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)
    ]


def is_flat(plan: list[str]) -> bool:
    """One index is walked from the place where the page begins; nothing is sorted."""
    return all("SEARCH jobs USING" in line and "_at" in line for line in plan)


@pytest.mark.parametrize("order", ["desc", "asc"])
@pytest.mark.parametrize("sort", ["created", "updated"])
def test_a_page_costs_the_same_among_many_jobs(sort: Any, order: Any) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        set_up(connection, "e", 0)
        for asked in ASKED_FOR:
            query = JobsQuery(sort=sort, order=order, **asked)
            if sort != "updated" or not asked.keys() & {"customer_id", "batch"}:  # they are few enough to be sorted
                assert is_flat(plans(connection, query)), (asked, plans(connection, query))


def test_control_without_its_index_a_page_is_sorted() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        set_up(connection, "e", 0)
        for index in ("by_created", "by_status_created"):
            connection.execute(f"DROP INDEX {index}")
        assert not is_flat(plans(connection, JobsQuery(status="failed")))
