"""The client does what the studio does, a line further away: the same answers, the same errors, and it comes back."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from aiohttp import web as aiohttp_web
from keyring import WRONG, guarded, ring
from talking import TINY, whole_log, write_log

from rushes.api.app import Server, serve
from rushes.api.protocol import STATUS, problem_of
from rushes.client import Client, Cursor, _error_of, _Problem
from rushes.faults import (
    AccessDenied,
    BadRequest,
    Code,
    CommandRejected,
    Conflict,
    ExtraMissing,
    Fault,
    FolderTrouble,
    JobFailed,
    NotFound,
    RushesError,
    ServerTrouble,
    Unavailable,
    Unreadable,
)
from rushes.studio import Studio
from rushes.units import utc
from rushes.video import BatchedRequest, EventView, JobsFields, JobView, VideoRequest

LAKE = VideoRequest(**TINY)
LONG = VideoRequest(**TINY | {"duration_seconds": 60, "fps": 30})


# ── the studio's methods ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_from_a_sentence_to_a_file(client: Client, studio: Studio, tmp_path: Path) -> None:
    assert await client.healthy()
    view, replayed = await client.submit(LAKE, "k")
    assert (view.status, replayed) == ("queued", False)
    assert (await client.submit(LAKE, "k"))[1] is True
    phases = [(update.version, update.phase) async for update in client.updates(view.id)]
    assert phases == sorted(phases, key=lambda phase: phase[0])
    assert phases[-1][1] == "succeeded"
    shown, known = await client.show(view.id), await studio.show(view.id)
    assert msgspec.structs.replace(shown, age_seconds=0) == msgspec.structs.replace(known, age_seconds=0)
    told, stored = await client.events(view.id, 1), await studio.events(view.id, 1)
    assert msgspec.json.encode(told) == msgspec.json.encode(stored)
    assert (await client.jobs(status="succeeded")).jobs[0].id == view.id
    assert not (await client.jobs(limit=1, before=view.id)).has_more
    path = await client.save(view.id, tmp_path / "lake.mp4")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shown.takes[0].sha256
    assert [file.name for file in tmp_path.glob("lake*")] == ["lake.mp4"]


async def test_lists_are_the_studios(client: Client, studio: Studio) -> None:
    for number in range(3):
        view, _ = await studio.submit(VideoRequest(**TINY | {"prompt": f"lake {number}"}))
        await studio.job(view.id).result()  # a job that goes on would change its place between two looks
    await write_log(studio, "job_strange", 1)
    asked: list[JobsFields] = [
        {},
        {"limit": 2},
        {"limit": 2, "after": (await client.jobs(limit=2)).next},
        {"sort": "updated", "order": "asc", "provider": "local", "model": "local", "customer_id": 0},
        {"created_after": utc(0), "created_before": utc(2e9), "operation": "text-to-video", "status": None},
        {"phase": "parked", "billed": "unknown"},
    ]
    for fields in asked:
        told, known = await client.jobs(**fields), await studio.jobs(**fields)
        assert [view.id for view in told.jobs] == [view.id for view in known.jobs]
        assert (told.has_more, told.next, told.stale) == (known.has_more, known.next, False)
        assert told.unreadable == known.unreadable
    assert (await client.jobs(limit=2)).unreadable == ["job_strange"]
    wrong: list[dict[str, Any]] = [{"statu": "failed"}, {"limit": 0}, {"phase": "done"}, {"after": "x"}]
    for mistake in wrong:
        with pytest.raises(BadRequest) as refused:
            await client.jobs(**mistake)
        assert refused.value.field in mistake


async def test_steering(client: Client) -> None:
    view, _ = await client.submit(LONG)
    assert (await client.poll(view.id)).id == view.id
    assert (await client.cancel(view.id, discard=True)).id == view.id
    assert [update.status async for update in client.updates(view.id)][-1] == "cancelled"


async def test_uploads_of_both_kinds(client: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"\x89PNG\r\n\x1a\n"
        yield b"x" * 2_000_000

    streamed = await client.upload(chunks())
    assert (streamed.media_type, streamed.size_bytes) == ("image/png", 2_000_008)
    assert await client.upload(b"\x89PNG\r\n\x1a\n" + b"x" * 2_000_000) == streamed


async def test_a_batch_from_requests_to_its_end(client: Client, studio: Studio) -> None:
    requests = [BatchedRequest(**TINY | {"seed": seed}) for seed in (1, 2)]
    batch, replayed = await client.submit_batch(requests, "film")
    again, repeated = await client.submit_batch(requests, "film")
    assert (again.jobs, replayed, repeated) == (batch.jobs, False, True)
    for desk in (client, studio):
        versions: dict[str, list[int]] = {job: [0] for job in batch.jobs}
        async with aclosing(desk.updates_of(batch.jobs)) as updates:
            async for view in updates:
                versions[view.id].append(view.version)
        assert versions == {job: sorted({*seen}) for job, seen in versions.items()}, "each is newer than the last"
        assert [seen[-1] for seen in versions.values()] == [(await studio.show(job)).version for job in batch.jobs]
    done = await client.batch(batch.id)
    assert (done, done.counts["succeeded"], done.ended) == (await studio.batch(batch.id), 2, True)
    shown: list[Sequence[JobView]] = []
    async with aclosing(client.follow(start="start", batch=batch.id, on_snapshots=shown.append)) as events:
        told = [await anext(events) for _ in range(sum(seen[-1] for seen in versions.values()))]
    assert {event.job_id for event in told} == {*batch.jobs}
    assert [event.type for event in told].count("job.succeeded") == 2
    assert [view.id for view in shown[0]] == batch.jobs


async def test_updates_of_a_batch_outlive_the_server(studio: Studio) -> None:
    server = await serve(studio, "127.0.0.1:0")
    seen: list[tuple[str, int]] = []
    async with Client(server.url) as client:
        batch, _ = await client.submit_batch([BatchedRequest(**TINY), BatchedRequest(**TINY)])
        async with aclosing(client.updates_of(batch.jobs)) as updates:
            async for view in updates:
                seen.append((view.id, view.version))
                if len(seen) == 3:
                    server = await restarted(studio, server)
    assert len(seen) == len({*seen})
    assert {(job, (await studio.show(job)).version) for job in batch.jobs} <= {*seen}
    await server.close()


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

FAULTS = [Fault("unsupported_feature", "No.", field="seed"), Fault("invalid_input", "Nor that.", field="fps")]
ERRORS = [
    BadRequest(FAULTS, job_id="job_1"),
    NotFound("There is no job.", job_id="job_1"),
    Conflict(idempotency_key="k", job_id="job_1"),
    CommandRejected("It is running.", job_id="job_1"),
    JobFailed(Fault("moderated", "The provider refused it."), job_id="job_1", billed="yes"),
    FolderTrouble("The disk is full."),
    ExtraMissing("pip install it"),
    Unavailable("Try again.", job_id="job_1", billed="unknown"),
    Unreadable("Event 3.", job_id="job_1"),
    RushesError("A bug.", field="x"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_what_it_was(error: RushesError) -> None:
    problem = problem_of(error)
    arrived = _error_of(msgspec.json.decode(msgspec.json.encode(problem), type=_Problem))
    assert type(arrived) is type(error)
    for name in ("detail", "code", "field", "billed", "job_id", "idempotency_key"):
        assert getattr(arrived, name) == getattr(error, name), name
    assert getattr(arrived, "faults", ()) == getattr(error, "faults", ())
    assert 400 <= problem.status < 600


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(get_args(Code))


async def test_errors_over_the_line(client: Client, studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as wrong:
        await client.submit(VideoRequest(prompt="a", duration_seconds=61))
    assert (wrong.value.field, wrong.value.faults[0].field) == ("duration_seconds", "duration_seconds")
    for asked in (client.show, client.events, client.cancel, client.poll):
        with pytest.raises(NotFound) as missing:
            await asked("job_nobody")
        assert missing.value.job_id == "job_nobody"
    for strange in ("", "..", "a/b", "a?b", "ä"):
        with pytest.raises(NotFound):
            await client.show(strange)
    with pytest.raises(NotFound):
        await anext(client.updates("job_nobody"))
    with pytest.raises(NotFound):
        await anext(client.follow("job_nobody"))
    for of_many in (client.updates_of, studio.updates_of):
        with pytest.raises(NotFound):
            await anext(of_many(["job_nobody"]))
    with pytest.raises(NotFound):
        await client.batch("batch/nobody")
    with pytest.raises(BadRequest) as one_of_two:
        await client.submit_batch([BatchedRequest(**TINY), BatchedRequest(prompt="a", duration_seconds=61)])
    assert one_of_two.value.field == "requests[1].duration_seconds"
    assert studio.store.position == 0
    view, _ = await client.submit(LAKE, "k")
    with pytest.raises(NotFound):
        await client.save(view.id, tmp_path / "early.mp4")
    with pytest.raises(Conflict) as other:
        await client.submit(LONG, "k")
    assert (other.value.idempotency_key, other.value.job_id) == ("k", view.id)
    await studio.job(view.id).result(timeout_s=20)
    with pytest.raises(BadRequest) as unwritable:
        await client.save(view.id, tmp_path / "no" / "folder.mp4")
    assert unwritable.value.field == "output"


async def test_a_server_that_is_not_there() -> None:
    async with Client("http://127.0.0.1:9") as client:
        assert not await client.healthy()
        for asked in (
            client.show("job_a"),
            client.submit(LAKE),
            client.submit_batch([BatchedRequest(**TINY)]),
            client.batch("batch_a"),
            anext(client.updates_of(["job_a"])),
            anext(client.updates("job_a")),
            anext(client.follow()),
        ):
            with pytest.raises(ServerTrouble) as nobody:
                await asked
            assert "rushes serve" in nobody.value.detail
            assert nobody.value.billed == "no"


@pytest.mark.parametrize("body", ["<html>hello</html>", "{}", '{"detail": 3}'])
async def test_a_server_that_is_another(body: str) -> None:
    statuses = iter([200, 404, 500, 404])

    async def answer(_: aiohttp_web.Request) -> aiohttp_web.Response:
        return aiohttp_web.Response(text=body, status=next(statuses))

    app = aiohttp_web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = aiohttp_web.AppRunner(app)
    await runner.setup()
    await aiohttp_web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Client(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        for _ in range(3):
            with pytest.raises(ServerTrouble):
                await client.show("job_a")
        with pytest.raises(ServerTrouble):
            await anext(client.follow())
    await runner.cleanup()


async def test_a_lost_answer_to_a_submit_is_said() -> None:
    """It may have begun: the key finds out."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    silent = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with Client(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(ServerTrouble) as lost:
            await client.submit(LAKE, "k")
        assert (lost.value.billed, lost.value.idempotency_key) == ("unknown", "k")
        with pytest.raises(ServerTrouble) as many:
            await client.submit_batch([BatchedRequest(**TINY)], "k")
        assert (many.value.billed, many.value.idempotency_key) == ("unknown", "k")
        with pytest.raises(ServerTrouble) as harmless:
            await client.show("job_a")
        assert harmless.value.billed == "no"
    silent.close()
    await silent.wait_closed()


# ── following ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def restarted(studio: Studio, server: Server) -> Server:
    """The server stops, and another takes its address: not at once, when a renderer is just being forked."""
    await server.close()
    async with asyncio.timeout(10):
        while True:
            with suppress(BadRequest):
                return await serve(studio, server.url.removeprefix("http://"))


async def test_following_outlives_the_server(studio: Studio) -> None:
    """Every event once and in order, over two restarts, while jobs run and others write."""
    server = await serve(studio, "127.0.0.1:0")
    seen: list[tuple[int, int]] = []
    moved = asyncio.Event()

    async def read() -> None:
        async with Client(server.url) as client, aclosing(client.follow(start="start")) as events:
            async for event in events:
                seen.append((event.position, event.version))
                moved.set()

    reader = asyncio.create_task(read())
    job = (await studio.submit(LAKE))[0].id
    for number in range(3):
        await write_log(studio, f"job_{number}", 30)
        moved.clear()
        await asyncio.wait_for(moved.wait(), 10)
        server = await restarted(studio, server)
    await studio.job(job).result(timeout_s=20)
    async with asyncio.timeout(10):
        while len(seen) < studio.store.position:
            moved.clear()
            await moved.wait()
    assert seen == await whole_log(studio)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await server.close()


async def test_updates_outlive_the_server(studio: Studio) -> None:
    server = await serve(studio, "127.0.0.1:0")
    versions: list[int] = []
    async with Client(server.url) as client:
        view, _ = await client.submit(LAKE)
        async with aclosing(client.updates(view.id)) as updates:
            async for update in updates:
                versions.append(update.version)
                if len(versions) == 2:
                    server = await restarted(studio, server)
    assert update.status == "succeeded"
    assert versions == sorted(set(versions))
    await server.close()


async def test_a_server_that_stays_away_ends_it(studio: Studio) -> None:
    server = await serve(studio, "127.0.0.1:0")
    await write_log(studio, "job_a", 1)
    async with (
        Client(server.url, reconnect_for_s=0.2) as client,
        aclosing(client.follow(start="start")) as events,
    ):
        await anext(events)
        await server.close()
        with pytest.raises(ServerTrouble):
            await anext(events)


async def test_where_following_begins(client: Client, studio: Studio) -> None:
    await write_log(studio, "job_a", 4)
    await write_log(studio, "job_b", 1)

    async def next_of(events: Any, count: int) -> list[int]:
        async with aclosing(events):
            found: list[EventView] = [await anext(events) for _ in range(count)]
        return [event.position for event in found]

    here = Cursor(epoch=studio.store.epoch, position=3)
    assert await next_of(client.follow(start="start"), 5) == [1, 2, 3, 4, 5]
    assert await next_of(client.follow(start=here), 2) == [4, 5]
    with pytest.raises(Conflict):
        await anext(client.follow(start=Cursor(epoch="another", position=3)))
    with pytest.raises(Conflict):
        await anext(client.follow(start=Cursor(epoch=studio.store.epoch, position=6)))


async def test_following_by_filter_with_snapshots_and_a_cursor_for_another_process(
    client: Client, studio: Studio
) -> None:
    jobs: list[str] = []
    for seed in (1, 2):  # one after the other
        jobs.append((await client.submit(VideoRequest(**TINY | {"seed": seed})))[0].id)
        await studio.job(jobs[-1]).result(timeout_s=20)
    shown: list[list[str]] = []
    cursors: list[Cursor] = []

    def show(views: Sequence[JobView]) -> None:
        shown.append([view.id for view in views])

    async def first_of(**wanted: Any) -> list[EventView]:
        async with aclosing(client.follow(on_snapshots=show, on_cursor=cursors.append, **wanted)) as events:
            return [await anext(events) for _ in range(2)]

    succeeded = await first_of(start="start", status="succeeded", provider="local", snapshots=1)
    assert [(event.job_id, event.type) for event in succeeded] == [(job, "job.succeeded") for job in jobs]
    one, other = await first_of(start="start", jobs=jobs[1:])
    assert {one.job_id, other.job_id} == {jobs[1]}
    assert shown == [jobs[1:], jobs[1:]]
    assert cursors[0].position == 0, "the subscription begins there"
    async with aclosing(client.follow(start="start", job_id=jobs[0], on_cursor=cursors.append)) as events:
        async for event in events:
            if event.type == "job.succeeded":
                break
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(events)
    assert cursors[-1] == Cursor(epoch=studio.store.epoch, position=studio.store.position)


async def test_what_cannot_be_followed_says_why(client: Client) -> None:
    wrong: list[tuple[dict[str, Any], type[RushesError]]] = [
        ({"jobs": ["job_nobody"]}, NotFound),
        ({"batch": "batch_nobody"}, NotFound),
        ({"batch": "batch_a", "job_id": "job_a"}, BadRequest),
        ({"jobs": ["a"], "job_id": "a"}, BadRequest),
        ({"status": "done"}, BadRequest),
        ({"snapshots": 201}, BadRequest),
    ]
    for wanted, kind in wrong:
        with pytest.raises(kind) as refused:
            await anext(client.follow(**wanted))
        assert refused.value.billed == "no"
        assert refused.value.field in {*wanted, ""}


async def test_a_socket_without_a_good_key_is_not_tried_again(studio: Studio, tmp_path: Path) -> None:
    keys = ring(tmp_path / "data")
    async with guarded(studio, tmp_path / "data") as server:
        for token, code in (("", "unauthorised"), (WRONG, "unauthorised"), (keys.generator, "forbidden")):
            async with Client(server.url, token=token) as client:
                with pytest.raises(AccessDenied) as refused:
                    await anext(client.follow())
                assert refused.value.code == code
