"""What a subscription can ask for: jobs, batch, status, provider; how they are at its start; where a quiet one is."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from keyring import guarded, ring
from msgspec.structs import replace
from talking import TINY, Frame, Reader, Serve, reading, write_log

from rushes.actors.messages import JobRequested
from rushes.api.app import Server
from rushes.api.feed import Facts, Feed, Filter, facts_after
from rushes.api.stream import Limits
from rushes.eventstore.base import Birth, Head, NewEvent, Write
from rushes.studio import Studio
from rushes.studio.beginning import begun, ready
from rushes.units import keyed_batch_id
from rushes.video import Batch, BatchedRequest, VideoRequest

LIFE = ("job.requested", "submission.started", "submission.accepted", "progress.reported", "job.succeeded")


async def live(studio: Studio, name: str, *kinds: str, provider: str = "here") -> list[int]:
    """A job's events, as far as filters look at them; their positions."""
    said = {
        "job.requested": {"route": [{"provider": provider}]},
        "submission.started": {"target": {"provider": provider}},
        "attempt.opened": {"target": {"provider": "there"}},
    }
    events = [NewEvent(kind, 1, 1.0, msgspec.json.encode(said.get(kind, {}))) for kind in kinds]
    found = await studio.store.find(name)
    stream, version = (Birth(name, "job", "default"), 0) if found is None else (found.id, found.version)
    stored = await studio.store.append(
        Write(stream, version, events, Head(open=False, lane=""), random.getrandbits(63))
    )
    return [*range(stored.first, stored.last + 1)]


async def told(reader: Reader, **wanted: object) -> list[tuple[str, str]]:
    """(job, type) of everything from the beginning of the log that belongs to a subscription."""
    await reader.say(type="subscribe", id="f", from_="start", **wanted)
    await reader.hear("subscribed")
    items = await reader.until_caught_up()
    await reader.say(type="unsubscribe", id="f")
    return [(item["job_id"], item["type"]) for item in items]


async def test_a_status_is_told_with_the_event_that_begins_it_and_the_one_that_ends_it(
    server: Server, studio: Studio
) -> None:
    await live(studio, "job_a", *LIFE)
    await live(studio, "job_b", "job.requested", "job.cancelled")
    async with reading(server.url) as reader:
        assert await told(reader, status="running") == [("job_a", kind) for kind in LIFE[2:]]
        assert await told(reader, status="succeeded") == [("job_a", "job.succeeded")]
        assert await told(reader, status="cancelled") == [("job_b", "job.cancelled")]
        assert await told(reader, status="failed") == []
        queued = [("job_a", kind) for kind in LIFE[:3]] + [("job_b", "job.requested"), ("job_b", "job.cancelled")]
        assert await told(reader, status="queued") == queued


async def test_a_provider_is_told_of_the_jobs_it_makes_and_of_those_it_hands_on(server: Server, studio: Studio) -> None:
    await live(studio, "job_a", "job.requested", "submission.started", "attempt.opened", "submission.accepted")
    await live(studio, "job_b", "job.requested", provider="elsewhere")
    async with reading(server.url) as reader:
        here = [("job_a", kind) for kind in ("job.requested", "submission.started", "attempt.opened")]
        assert await told(reader, provider="here") == here
        there = [("job_a", "attempt.opened"), ("job_a", "submission.accepted")]
        assert await told(reader, provider="there") == there
        assert await told(reader, provider="there", status="running") == there[1:]
        assert await told(reader, provider="nobody") == []


async def test_a_filter_says_the_same_from_any_cursor(server: Server, studio: Studio) -> None:
    """Nobody has to have read a job's beginning to know its state."""
    await live(studio, "job_a", *LIFE[:4])
    last = await live(studio, "job_a", "job.succeeded")
    async with reading(server.url) as reader:
        for position in range(last[0]):
            start = {"epoch": reader.epoch, "position": position}
            await reader.say(type="subscribe", id="f", status="running", provider="here", from_=start)
            await reader.hear("subscribed")
            found = [item["position"] for item in await reader.until_caught_up()]
            assert found == [at for at in (3, 4, 5) if at > position]
            await reader.say(type="unsubscribe", id="f")


async def test_what_is_not_known_of_an_event_changes_nothing(studio: Studio) -> None:
    await live(studio, "job_a", "job.requested", "submission.accepted", "something.new")
    events = await studio.store.read((await studio.store.find("job_a")).id)  # type: ignore[union-attr]
    facts = Facts()
    for event in events:
        facts = facts_after(facts, event)
    assert facts == Facts("running", "here")
    strange = msgspec.structs.replace(events[0], data=b'{"route": 7}')
    assert facts_after(facts, strange) == facts


async def test_a_list_of_jobs_is_shown_and_told(server: Server, studio: Studio) -> None:
    jobs = [(await studio.submit(VideoRequest(**TINY | {"seed": seed})))[0].id for seed in (1, 2, 3)]
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", jobs=jobs[:2])
        subscribed = await reader.hear("subscribed")
        assert subscribed["snapshot"] is None
        assert subscribed["partial"] is False
        assert [view["id"] for view in subscribed["snapshots"]] == jobs[:2]
        versions = {view["id"]: [view["version"]] for view in subscribed["snapshots"]}
        ended = {view["id"] for view in subscribed["snapshots"] if view["status"] == "succeeded"}
        while len(ended) < 2:
            for item in (await reader.hear()).get("items", ()):
                if item["version"] > versions[item["job_id"]][-1]:  # the rest is contained in its snapshot
                    versions[item["job_id"]].append(item["version"])
                ended |= {item["job_id"]} if item["type"] == "job.succeeded" else set()
    for job, seen in versions.items():
        assert seen == [*range(seen[0], (await studio.show(job)).version + 1)], "no version is missing"
    await studio.job(jobs[2]).result(timeout_s=20)


async def test_all_jobs_begin_with_those_that_changed_last(server: Server, studio: Studio) -> None:
    for seed in (1, 2, 3):
        job = (await studio.submit(VideoRequest(**TINY | {"seed": seed})))[0].id
        await studio.job(job).result(timeout_s=20)
    async with reading(server.url) as reader:

        async def shown(**wanted: object) -> Frame:
            await reader.say(type="subscribe", id="a", **wanted)
            subscribed = await reader.hear("subscribed")
            assert (await reader.hear("caught_up"))["position"] == subscribed["position"] == studio.store.position
            await reader.say(type="unsubscribe", id="a")
            return subscribed

        two = await shown(snapshots=2)
        assert two["snapshots"][0]["id"] == job
        assert (len(two["snapshots"]), two["partial"]) == (2, True)
        three = await shown(snapshots=200, status="succeeded", provider="local")
        assert (len(three["snapshots"]), three["partial"]) == (3, False)
        assert (await shown(snapshots=200, status="failed"))["snapshots"] == []
        assert (await shown())["snapshots"] == []


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"job": "job_a", "jobs": ["job_a"]}, "jobs"),
        ({"jobs": []}, "jobs"),
        ({"jobs": [f"job_{n}" for n in range(101)]}, "jobs"),
        ({"status": "done"}, "status"),
        ({"provider": ""}, "provider"),
        ({"snapshots": 201}, "snapshots"),
        ({"jobs": ["job_a"], "snapshots": 1}, "snapshots"),
        ({"batch": 7}, "batch"),
        ({"batch": "batch_a", "job": "job_a"}, "batch"),
        ({"batch": "batch_a", "jobs": ["job_a"]}, "batch"),
        ({"batch": "batch_a", "snapshots": 1}, "snapshots"),
    ],
)
async def test_a_filter_that_makes_no_sense_names_its_field(server: Server, wanted: Frame, field: str) -> None:
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", **wanted)
        error = await reader.hear("error")
        assert (error["id"], error["code"], error["field"], error["billed"]) == ("a", "invalid_input", field, "no")


async def test_a_job_that_is_not_there_is_named_in_the_error(server: Server, studio: Studio) -> None:
    job = (await studio.submit(VideoRequest(**TINY)))[0].id
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", jobs=[job, "job_nobody"])
        error = await reader.hear("error")
        assert (error["code"], error["job_id"], error["retryable"]) == ("not_found", "job_nobody", False)
    await studio.job(job).result(timeout_s=20)


async def test_jobs_of_a_list_that_cannot_be_read_are_named_and_told(server: Server, studio: Studio) -> None:
    await write_log(studio, "job_odd", 2)
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", jobs=["job_odd"], from_="start")
        assert (await reader.hear("subscribed"))["snapshots"] == []
        error = await reader.hear("error")
        assert (error["code"], error["job_id"], error["billed"]) == ("unreadable", "job_odd", "unknown")
        assert len(await reader.until_caught_up()) == 2


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def shots(count: int) -> list[BatchedRequest]:
    return [BatchedRequest(**TINY | {"seed": seed}) for seed in range(count)]


async def test_a_batch_is_shown_whole_and_then_told_of_its_jobs_alone(server: Server, studio: Studio) -> None:
    batch, _ = await studio.submit_batch(shots(2))
    outside, _ = await studio.submit(VideoRequest(**TINY))
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", batch=batch.id)
        subscribed = await reader.hear("subscribed")
        assert [view["id"] for view in subscribed["snapshots"]] == batch.jobs
        assert (subscribed["snapshot"], subscribed["partial"]) == (None, False)
        versions = {view["id"]: [view["version"]] for view in subscribed["snapshots"]}
        await studio.job(outside.id).result(timeout_s=20)
        ended = {view["id"] for view in subscribed["snapshots"] if view["status"] == "succeeded"}
        while len(ended) < 2:
            for item in (await reader.hear()).get("items", ()):
                if item["version"] > versions[item["job_id"]][-1]:  # the rest is contained in its snapshot
                    versions[item["job_id"]].append(item["version"])
                ended |= {item["job_id"]} if item["type"] == "job.succeeded" else set()
    for job, seen in versions.items():
        assert seen == [*range(seen[0], (await studio.show(job)).version + 1)], "no version is missing"


async def test_a_batch_goes_on_from_any_cursor_inside_it(server: Server, studio: Studio) -> None:
    batch, _ = await studio.submit_batch(shots(2))
    outside, _ = await studio.submit(VideoRequest(**TINY))
    for job in (*batch.jobs, outside.id):
        await studio.job(job).result(timeout_s=20)
    whole = [event.position for job in batch.jobs for event in await studio.events(job)]
    async with reading(server.url) as reader:
        assert {job for job, _ in await told(reader, batch=batch.id)} == {*batch.jobs}
        succeeded = await told(reader, batch=batch.id, status="succeeded")
        assert sorted(succeeded) == sorted((job, "job.succeeded") for job in batch.jobs)
        for position in range(studio.store.position + 1):
            start = {"epoch": reader.epoch, "position": position}
            await reader.say(type="subscribe", id="f", batch=batch.id, from_=start)
            await reader.hear("subscribed")
            found = [item["position"] for item in await reader.until_caught_up()]
            assert found == sorted(at for at in whole if at > position)
            page = await Feed(studio.store).read(Filter("default", batch=batch.id), position)
            assert [item.position for item in page.found] == found, "nor has the server to have read the beginning"
            await reader.say(type="unsubscribe", id="f")


async def test_a_job_that_begins_when_its_batch_is_sent_again_is_told_from_its_first_event(
    server: Server, studio: Studio
) -> None:
    """Only its first job is there, as after a crash in the middle."""
    name = keyed_batch_id("default", "film")
    requested = await ready(studio._parts, shots(2)[0].plain, f"{name}/0", "default")
    assert isinstance(requested, JobRequested)
    requested = replace(requested, batch=Batch(id=name, index=0, size=2))
    first, _ = await begun(studio._parts, requested, f"{name}/0", "default")
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", batch=name)
        subscribed = await reader.hear("subscribed")
        assert ([view["id"] for view in subscribed["snapshots"]], subscribed["partial"]) == ([first.name], True)
        batch, _ = await studio.submit_batch(shots(2), "film")
        assert batch.jobs[0] == first.name
        seen: list[int] = []
        while not seen or seen[-1] < (await studio.show(batch.jobs[1])).version:
            items = (await reader.hear()).get("items", ())
            seen += [item["version"] for item in items if item["job_id"] == batch.jobs[1]]
    assert seen == [*range(1, len(seen) + 1)]
    for job in batch.jobs:
        await studio.job(job).result(timeout_s=20)


async def test_a_batch_is_there_for_its_tenant_alone(studio: Studio, tmp_path: Path) -> None:
    keys = ring(tmp_path / "data")
    batch, _ = await studio.submit_batch(shots(1))
    await studio.job(batch.jobs[0]).result(timeout_s=20)
    async with guarded(studio, tmp_path / "data") as server:

        async def answered(token: str, batch_id: str) -> Frame:
            async with reading(server.url, hello=False) as reader:
                await reader.say(type="hello", token=token)
                await reader.hear("welcome")
                await reader.say(type="subscribe", id="a", batch=batch_id, from_="start")
                return await reader.hear()

        assert (await answered(keys.reader, batch.id))["snapshots"][0]["id"] == batch.jobs[0]
        assert (await answered(keys.generator, batch.id))["code"] == "forbidden"
        theirs, nobodys = await answered(keys.other, batch.id), await answered(keys.reader, "batch_nobody")
        for refused in (theirs, nobodys):
            assert (refused["type"], refused["code"], refused["field"]) == ("error", "not_found", "batch")
    wanted = Filter("acme", batch=batch.id)
    assert (await Feed(studio.store).read(wanted, 0)).found == [], "nor is it told to who asks all the same"
    assert (await Feed(studio.store).read(replace(wanted, tenant="default"), 0)).found, "the control"


# ── quiet ones ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_quiet_cursor_moves_with_the_heartbeat(serving: Serve, studio: Studio) -> None:
    server = await serving(Limits(heartbeat_s=0.2))
    await live(studio, "job_a", "job.requested")
    async with reading(server.url) as reader:
        await reader.say(type="subscribe", id="a", status="failed")
        await reader.hear("subscribed")
        assert (await reader.hear("caught_up"))["position"] == 1
        await live(studio, "job_a", *LIFE[1:])
        assert await reader.hear() == {"type": "caught_up", "sub": "a", "position": 5}
        assert await reader.hear() == {"type": "heartbeat", "position": 5}
        assert await reader.hear() == {"type": "heartbeat", "position": 5}, "nothing moved since"


async def test_a_reader_that_answers_no_ping_is_let_go(serving: Serve) -> None:
    server = await serving(Limits(heartbeat_s=0.2))
    async with reading(server.url, autoping=False) as reader:
        while (await reader.ws.receive(5)).type.name in {"TEXT", "PING"}:
            pass
        assert reader.ws.closed


# ── encoded once ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_whoever_asks_for_the_same_gets_the_same_bytes(studio: Studio) -> None:
    await live(studio, "job_a", *LIFE)
    feed = Feed(studio.store)
    one, two = await feed.read(Filter("default"), 0), await feed.read(Filter("default"), 0)
    assert one is two
    assert one.tails is two.tails
    other = await feed.read(Filter("default", status="running"), 0)
    assert other is not one
    assert other.found[0] is one.found[2], "an event is encoded once for all filters"
    await live(studio, "job_b", "job.requested")
    assert (await feed.read(Filter("default"), 0)) is not one, "the log went on"


async def test_nobody_is_told_of_another_tenants_jobs(studio: Studio, tmp_path: Path) -> None:
    keys = ring(tmp_path / "data")
    await live(studio, "job_a", *LIFE)
    async with guarded(studio, tmp_path / "data") as server:

        async def heard(token: str, **wanted: object) -> list[Frame]:
            async with reading(server.url, hello=False) as reader:
                await reader.say(type="hello", token=token)
                await reader.hear("welcome")
                await reader.say(type="subscribe", id="a", from_="start", **wanted)
                frames: list[Frame] = []
                while not frames or frames[-1]["type"] not in {"caught_up", "error"}:
                    frames.append(await reader.hear())
                return frames

        assert len((await heard(keys.reader))[1]["items"]) == len(LIFE)
        assert [frame["type"] for frame in await heard(keys.other)] == ["subscribed", "caught_up"]
        assert [frame["type"] for frame in await heard(keys.other, status="running")] == ["subscribed", "caught_up"]
        assert (await heard(keys.other, jobs=["job_a"]))[0]["code"] == "not_found"
        assert (await heard(keys.generator))[0]["code"] == "forbidden"
