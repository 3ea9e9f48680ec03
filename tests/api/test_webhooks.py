"""Callbacks of providers, into a real server over a real data folder: what moves a job, and what moves nothing."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace
from provider_rig import until
from server import RUSHES, free_port, serving
from structlog.testing import capture_logs

from rushes.adapters.base import Adapter, Request, Response
from rushes.adapters.callbacks import Callbacks
from rushes.adapters.capabilities import PollSchedule, Terms
from rushes.adapters.openrouter import OpenRouter
from rushes.adapters.replicate import Replicate
from rushes.api.app import Server, serve
from rushes.api.webhooks import MAX_BODY_BYTES
from rushes.client import Client
from rushes.emulators.base import Delivery, ProviderTwin, serve_twin, shipped_clip
from rushes.emulators.faults import Drop, Faults, Hang, LineRule
from rushes.emulators.faulty import FaultyTwin
from rushes.emulators.openrouter import OpenRouterTwin
from rushes.emulators.replicate import ReplicateTwin
from rushes.faults import BadRequest, FolderTrouble
from rushes.flight import MAX_CALLS, Exchange, read
from rushes.keyfile import KEY_FILE
from rushes.main import Settings, open_studio
from rushes.studio import Job, Studio
from rushes.video import EventView, JobView, Target, VideoRequest, VideoSpec

HOST = "studio.example"
SECRET, OLD = "a workspace's secret", "the secret before it"
PATIENCE_S = 20.0
MIN_S = 0.1  # between two polls
RENDER_S = 0.4
LOST = Drop(on="submit", after_work=True)


def patient(kind: type[Adapter], total_s: float = 1800.0) -> Adapter:
    """The adapter as it is, but that it asks once, too early, and then after an hour, unless it is called."""

    def terms(self: Adapter, spec: VideoSpec, target: Target) -> Terms:
        poll = PollSchedule(min_s=MIN_S, max_s=3600.0, growth=1e9)
        return replace(kind.terms(self, spec, target), poll=poll, total_s=total_s)

    made: Adapter = type("Patient", (kind,), {"terms": terms})()
    return made


class Quiet:
    """A twin whose callbacks stay with it: the test sends them."""

    def __init__(self, twin: ProviderTwin) -> None:
        self.twin, self._faulty = twin, FaultyTwin(twin)

    def handle(self, request: Request, now: float) -> Response:
        return self._faulty.handle(request, now)

    def go_wrong(self, *rules: LineRule) -> None:
        self._faulty.set(Faults(rules))


class Rig:
    """A server that can be stopped and started again, before a provider that goes on."""

    def __init__(self, folder: Path, quiet: Quiet, adapter: Adapter, environ: dict[str, str]) -> None:
        self.folder, self.quiet, self.twin, self.adapter, self.environ = folder, quiet, quiet.twin, adapter, environ
        self.public_url = f"https://{HOST}"
        self.flight = True
        self.studio: Studio
        self.server: Server
        self.web: aiohttp.ClientSession

    @asynccontextmanager
    async def alone(self, *, serving: bool = False) -> AsyncIterator[None]:
        """As every verb but `serve` does."""
        adapters = {self.adapter.name: self.adapter}
        settings = Settings(data=str(self.folder), public_url=self.public_url, flight=self.flight)
        opened = open_studio(settings=settings, adapters=adapters, environ=self.environ, serving=serving)
        async with opened as self.studio:
            yield

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.alone(serving=True))
            self.server = await serve(self.studio, "127.0.0.1:0")
            stack.push_async_callback(self.server.close)
            self.web = await stack.enter_async_context(aiohttp.ClientSession(base_url=self.server.url))
            yield

    async def make(self) -> Job:
        return await self.studio.generate("a lake", model=self.adapter.name)

    async def due(self, count: int = 1) -> list[Delivery]:
        """The next callbacks, once the provider has that many."""
        found: list[Delivery] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                found += self.twin.due(time.time())
                await asyncio.sleep(0)
        return found

    def made_up(self, url: str, **facts: object) -> str:
        """Another address that this data folder could have given out."""
        about = {"job": "", "attempt": 1, "send": 1} | facts | ({} if "job" in facts else {"job": job_in(url)})
        callbacks = Callbacks(self.public_url, (self.folder / KEY_FILE).read_bytes())
        return callbacks.url(self.adapter.name, about["job"], about["attempt"], about["send"])  # type: ignore[arg-type]

    async def call(self, delivery: Delivery, **more: Any) -> tuple[int, dict[str, Any]]:
        """Send it as it is, but for what is said otherwise; the status, and the problem where there is one."""
        url = urlsplit(more.get("url", delivery.url))
        headers = {"Host": url.netloc, **delivery.headers, **more.get("headers", {})}
        headers = {name: value for name, value in headers.items() if value}
        body = more.get("body", delivery.body)
        async with self.web.post(f"{url.path}?{url.query}", data=body, headers=headers) as reply:
            return reply.status, msgspec.json.decode(await reply.read() or b"{}")


def job_in(url: str) -> str:
    found = re.search(r"job=(\w+)", url)
    assert found is not None
    return found[1]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    twin = OpenRouterTwin(clip=shipped_clip(), pending_s=0.0, render_s=RENDER_S)
    twin.secret = SECRET
    async with provider(tmp_path, twin, OpenRouter, OPENROUTER_WEBHOOK_SECRET=f"{SECRET}".replace(" ", "_")) as rig:
        twin.secret = SECRET.replace(" ", "_")
        async with rig.up():
            yield rig


@asynccontextmanager
async def provider(folder: Path, twin: ProviderTwin, kind: type[Adapter], **environ: str) -> AsyncIterator[Rig]:
    quiet, adapter = Quiet(twin), patient(kind)
    behind = await serve_twin(quiet)
    data, auth = adapter.capabilities, adapter.capabilities.auth
    assert auth is not None
    environ |= {data.base_url_env: behind.url + twin.base_path, auth.env[0]: "any"}
    try:
        yield Rig(folder / "data", quiet, adapter, environ)
    finally:
        await behind.close()


async def types(job: Job) -> list[str]:
    return [event.type for event in await job.events()]


async def done(job: Job) -> JobView:
    return (await job.result(timeout_s=PATIENCE_S)).job


# ── What moves a job ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_callback_has_a_running_job_asked_for_at_once(rig: Rig) -> None:
    job = await rig.make()
    (sent,) = await rig.due()
    assert await rig.call(sent) == (204, {})
    view = await done(job)
    assert (view.billed, len(view.takes), len(rig.twin.charges)) == ("yes", 1, 1)


async def test_without_one_it_would_be_asked_for_much_later(rig: Rig) -> None:
    """The control of the one above, and of all that wait for an end here."""
    job = await rig.make()
    await rig.due()
    with pytest.raises(TimeoutError):
        await job.result(timeout_s=1.0)


async def test_one_that_comes_before_the_answer_is_stored_is_an_acceptance(rig: Rig) -> None:
    rig.quiet.go_wrong(Hang(on="submit", seconds=1.0))
    job = await rig.make()
    (sent,) = await rig.due()
    assert (await job.state()).phase == "submitting"
    assert (await rig.call(sent))[0] == 204
    assert (await job.state()).phase == "running"
    await done(job)
    await asyncio.sleep(0)
    assert (await types(job)).count("submission.accepted") == 1
    assert (len(rig.twin.charges), "submission.doubted" in await types(job)) == (1, False)


async def test_one_stands_in_for_an_answer_that_was_lost(rig: Rig) -> None:
    rig.quiet.go_wrong(LOST)
    job = await rig.make()
    await until(job, "in_doubt")
    (sent,) = await rig.due()
    assert (await rig.call(sent))[0] == 204
    view = await done(job)
    assert (view.billed, len(rig.twin.charges)) == ("yes", 1)
    assert {"submission.doubted", "submission.accepted", "job.succeeded"} <= {*await types(job)}


async def test_one_is_known_after_a_restart_and_its_key_is_nobody_elses_to_read(rig: Rig, tmp_path: Path) -> None:
    rig.quiet.go_wrong(LOST)
    job = await rig.make()
    await until(job, "in_doubt")
    (sent,) = await rig.due()
    await rig.server.close()
    again = Rig(tmp_path / "again", rig.quiet, rig.adapter, rig.environ)
    again.folder.mkdir()
    for name in ("rushes.db", KEY_FILE):  # what the disk has at this moment, as after a crash
        (again.folder / name).write_bytes((rig.folder / name).read_bytes())
    for name in ("rushes.db-wal",):
        (again.folder / name).write_bytes((rig.folder / name).read_bytes())
    async with again.up():
        assert (await again.call(sent))[0] == 204
        assert (await done(again.studio.job(job.id))).billed == "yes"
    assert stat.S_IMODE((rig.folder / KEY_FILE).stat().st_mode) == 0o600


async def test_callbacks_in_any_order_bring_the_same_end(tmp_path: Path) -> None:
    twin = ReplicateTwin(clip=shipped_clip(), start_s=0.0, render_s=RENDER_S)
    async with provider(tmp_path, twin, Replicate) as rig, rig.up():
        job = await rig.make()
        starts, ends = await rig.due(2)
        assert [(await rig.call(one))[0] for one in (ends, starts, ends)] == [204] * 3
        assert (await done(job)).billed == "yes"


async def test_a_twin_behind_a_socket_calls_by_itself(tmp_path: Path) -> None:
    """Nothing is carried by the test: two servers on this machine, and the secret that both know."""
    twin = OpenRouterTwin(clip=shipped_clip(), pending_s=0.0, render_s=RENDER_S)
    twin.secret, port = "one-secret", free_port()
    behind, adapter = await serve_twin(FaultyTwin(twin)), patient(OpenRouter)
    environ = {"OPENROUTER_BASE_URL": behind.url + twin.base_path, "OPENROUTER_API_KEY": "any"}
    environ |= {"OPENROUTER_WEBHOOK_SECRET": "one-secret"}
    settings = Settings(data=str(tmp_path), public_url=f"http://127.0.0.1:{port}/")
    adapters = {"openrouter": adapter}
    async with open_studio(settings=settings, adapters=adapters, environ=environ, serving=True) as studio:
        server = await serve(studio, f"127.0.0.1:{port}")
        job = await studio.generate("a lake", model="openrouter")
        assert (await done(job)).billed == "yes"
        await server.close()
    await behind.close()


# ── What moves nothing ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_hundred_of_one_at_once_are_one_event_and_all_are_thanked(rig: Rig) -> None:
    rig.quiet.go_wrong(LOST)
    job = await rig.make()
    await until(job, "in_doubt")
    (sent,) = await rig.due()
    answers = await asyncio.gather(*(rig.call(sent) for _ in range(100)))
    assert answers == [(204, {})] * 100
    await done(job)
    assert (await types(job)).count("submission.accepted") == 1


async def test_however_many_come_the_provider_is_asked_once_an_interval(rig: Rig) -> None:
    job = await rig.make()
    await until(job, "running")
    (sent,) = await rig.due()
    rig.twin._render_s = 3600.0  # it says that it has ended, and has not
    began = time.monotonic()
    while time.monotonic() - began < 4 * MIN_S:
        await rig.call(sent)
    asked = [line.at for line in rig.twin.ledger.requests if line.method == "GET"]
    assert 3 <= len(asked) <= 6
    assert all(later - earlier >= MIN_S * 0.9 for earlier, later in pairwise(asked))


async def test_a_poll_that_somebody_asks_for_is_one_request(rig: Rig) -> None:
    rig.twin._render_s = 3600.0
    job = await rig.make()
    await until(job, "running")
    while (await job.state()).age_seconds < MIN_S + 0.05:
        async with rig.web.get("/healthz"):
            pass
    before = [line for line in rig.twin.ledger.requests if line.method == "GET"]
    await rig.studio.poll(job.id)
    await asyncio.sleep(0)
    asked = [line for line in rig.twin.ledger.requests if line.method == "GET"]
    assert len(asked) == len(before) + 1


async def test_one_that_comes_after_the_end_changes_nothing(rig: Rig) -> None:
    job = await rig.make()
    (sent,) = await rig.due()
    await rig.call(sent)
    await done(job)
    before = await types(job)
    assert (await rig.call(sent))[0] == 204
    assert await types(job) == before


@pytest.mark.parametrize("facts", [{"attempt": 2}, {"send": 2}])
async def test_one_about_another_attempt_or_send_changes_nothing(rig: Rig, facts: dict[str, int]) -> None:
    rig.quiet.go_wrong(LOST)
    job = await rig.make()
    await until(job, "in_doubt")
    (sent,) = await rig.due()
    before = await types(job)
    assert (await rig.call(sent, url=rig.made_up(sent.url, **facts)))[0] == 204
    assert (await types(job), (await job.state()).phase) == (before, "in_doubt")


async def test_a_second_job_for_one_send_is_told_to_who_reads_the_log(rig: Rig) -> None:
    job = await rig.make()
    (sent,) = await rig.due()
    await until(job, "running")
    body = msgspec.json.encode({"data": {"id": "another-job", "status": "completed"}})
    signature = rig.twin.signature(body, time.time())
    with capture_logs() as lines:
        assert (await rig.call(sent, body=body, headers=dict(signature)))[0] == 204
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["callback.of_another_job"]
    assert (await job.state()).phase == "running"


def without_its_last(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


REFUSED: dict[str, Callable[[Rig, Delivery], dict[str, Any]]] = {
    "forged code": lambda _, one: {"url": re.sub("mac=..", "mac=zz", one.url)},
    "no code": lambda _, one: {"url": one.url.partition("&mac=")[0]},
    "another job's code": lambda rig, one: {
        "url": re.sub("mac=.*", "mac=" + rig.made_up(one.url, job="job_x").rpartition("=")[2], one.url)
    },
    "one byte changed": lambda _, one: {"body": one.body.replace(b"completed", b"completeD", 1)},
    "no signature": lambda _rig, _one: {"headers": {"x-openrouter-signature": ""}},
    "wrong signature": lambda _, one: {
        "headers": {"x-openrouter-signature": without_its_last(one.headers["x-openrouter-signature"])}
    },
    "old": lambda rig, one: {"headers": dict(rig.twin.signature(one.body, time.time() - 301))},
    "from the future": lambda rig, one: {"headers": dict(rig.twin.signature(one.body, time.time() + 302))},
}


@pytest.mark.parametrize("how", REFUSED)
async def test_what_is_not_the_providers_is_refused_and_moves_nothing(rig: Rig, how: str) -> None:
    rig.quiet.go_wrong(LOST)
    job = await rig.make()
    await until(job, "in_doubt")
    (sent,) = await rig.due()
    before = await types(job)
    with capture_logs() as lines:
        status, problem = await rig.call(sent, **REFUSED[how](rig, sent))
    assert (status, problem["code"], problem["billed"]) == (403, "forbidden", "no")
    (refused,) = [line for line in lines if line["event"] == "callback.refused"]
    assert refused["reason"] not in problem["detail"]
    assert await types(job) == before
    assert (await rig.call(sent))[0] == 204  # the same as it was sent is taken all the same


async def test_a_body_without_end_is_refused_before_it_is_read(rig: Rig) -> None:
    job = await rig.make()
    (sent,) = await rig.due()
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while given < 64 * MAX_BODY_BYTES:
            given += 65_536
            yield b" " * 65_536

    for body in (BytesIO(b" " * (MAX_BODY_BYTES + 1)), endless()):
        status, problem = await rig.call(sent, body=body)
        assert (status, problem["code"]) == (413, "invalid_input")
    assert given < 64 * MAX_BODY_BYTES
    assert (await job.state()).phase == "running"


async def test_a_job_that_is_not_there_is_said_to_be_missing(rig: Rig) -> None:
    await rig.make()
    (sent,) = await rig.due()
    status, problem = await rig.call(sent, url=rig.made_up(sent.url, job="job_nowhere"))
    assert (status, problem["code"], problem["job_id"]) == (404, "not_found", "job_nowhere")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"data": {"id": "../../x", "status": "completed"}}'])
async def test_what_is_no_callback_is_refused_though_it_is_signed(rig: Rig, body: bytes) -> None:
    await rig.make()
    (sent,) = await rig.due()
    status, problem = await rig.call(sent, body=body, headers=dict(rig.twin.signature(body, time.time())))
    assert (status, problem["code"], problem["field"]) == (400, "invalid_input", "body")


async def test_nobody_calls_as_a_provider_that_does_not(rig: Rig) -> None:
    await rig.make()
    (sent,) = await rig.due()
    for name in ("local", "nobody", "openrouter%00"):
        status, problem = await rig.call(sent, url=sent.url.replace("/openrouter?", f"/{name}?"))
        assert (status, problem["code"]) == (404, "not_found")


# ── What is recorded ──────────────────────────────────────────────────────────────────────────────────────────────────


def exchanges(rig: Rig, job: Job, flow: str = "callback") -> list[Exchange]:
    """Those of one flow, once nobody has the folder."""
    return [one for one in read(rig.folder / "flight.db", job.id) if one.flow == flow]


def worths(rig: Rig, job: Job) -> list[tuple[str | None, str, int, int]]:
    """What each callback was worth, and how many came."""
    return [(one.answered.worth, one.answered.why, one.status, one.count) for one in exchanges(rig, job)]


def named(rig: Rig, job: Job, event: str) -> list[int]:
    """The exchanges that an event of a job says it came of."""
    with closing(sqlite3.connect(rig.folder / "rushes.db")) as log:
        sql = "SELECT meta FROM events JOIN streams ON streams.id = stream WHERE name = ? AND type = ?"
        ((meta,),) = log.execute(sql, (job.id, event)).fetchall()
    found: list[int] = msgspec.json.decode(meta).get("x", [])
    return found


async def test_every_callback_about_a_job_is_kept_with_what_it_was_worth(lossy: Rig) -> None:
    lossy.twin.secret = "good"
    lossy.environ |= {"OPENROUTER_WEBHOOK_SECRET": "good"}
    async with lossy.up():
        job = await lossy.make()
        await until(job, "in_doubt")
        (sent,) = await lossy.due()
        signed = {"webhook-id": "msg_1", **lossy.twin.signature(b"{}", time.time())}
        statuses = [
            (await lossy.call(sent, headers={"x-openrouter-signature": ""}))[0],
            (await lossy.call(sent, body=b"{}", headers=signed))[0],
            (await lossy.call(sent, url=lossy.made_up(sent.url, send=2)))[0],
            (await lossy.call(sent))[0],
        ]
        await done(job)
        statuses += [(await lossy.call(sent))[0] for _ in range(3)]
    unsigned, unread, other, accepted, late = exchanges(lossy, job)
    assert worths(lossy, job) == [
        ("refused", "header_missing", 403, 1),
        ("refused", "invalid_input", 400, 1),
        ("nothing", "another_send", 204, 1),
        ("accepted", "", 204, 1),
        ("nothing", "late", 204, 3),
    ]
    assert statuses == [403, 400, 204, 204, 204, 204, 204]
    assert (accepted.method, accepted.provider, accepted.attempt) == ("POST", "openrouter", 1)
    assert accepted.url == f"/v1/webhooks/openrouter?job={job.id}&attempt=1&send=1"
    assert accepted.asked.body is not None
    assert (accepted.asked.body.size_bytes, accepted.asked.body.whole) == (len(sent.body), True)
    assert '"status":"completed"' in (accepted.asked.body.text or "")
    assert unread.asked.headers["webhook-id"] == "msg_1"
    assert (other.url.rpartition("=")[2], late.last_at > late.at) == ("2", True)
    assert "signature" not in str([one.asked.headers for one in (unsigned, unread, accepted)])
    assert named(lossy, job, "submission.accepted") == [accepted.id]
    assert named(lossy, job, "generation.finished") == [exchanges(lossy, job, "status")[-1].id]
    kept = (lossy.folder / "flight.db").read_bytes()
    assert (b"v1/webhooks" in kept, sent.url.rpartition("mac=")[2].encode() in kept) == (True, False)


async def test_of_a_hundred_at_once_one_moved_the_job_and_the_event_names_it(lossy: Rig) -> None:
    async with lossy.up():
        job = await lossy.make()
        await until(job, "in_doubt")
        (sent,) = await lossy.due()
        await asyncio.gather(*(lossy.call(sent) for _ in range(100)))
        await done(job)
    accepted, *others = exchanges(lossy, job)
    assert (accepted.answered.worth, sum(one.count for one in others)) == ("accepted", 99)
    assert {one.answered.worth for one in others} <= {"hint", "nothing"}
    assert named(lossy, job, "submission.accepted") == [accepted.id]


async def test_a_callback_of_nobody_and_one_about_no_job_are_not_kept(lossy: Rig) -> None:
    async with lossy.up():
        job = await lossy.make()
        await until(job, "in_doubt")
        (sent,) = await lossy.due()
        assert (await lossy.call(sent, url=re.sub("mac=..", "mac=zz", sent.url)))[0] == 403
        assert (await lossy.call(sent, url=lossy.made_up(sent.url, job="job_nowhere")))[0] == 404
    assert exchanges(lossy, job) == read(lossy.folder / "flight.db", "job_nowhere") == []


async def flooded(rig: Rig, count: int) -> Job:
    """A job in doubt whose address somebody calls again and again, with something else each time; then its provider."""
    async with rig.up():
        job = await rig.make()
        await until(job, "in_doubt")
        (sent,) = await rig.due()
        for number in range(count):
            await rig.call(sent, body=b"%d" % number)
        await rig.call(sent)
        await done(job)
    return job


async def test_a_flood_of_callbacks_takes_a_few_rows_and_what_moves_the_job_is_kept(lossy: Rig) -> None:
    job = await flooded(lossy, MAX_CALLS + 10)
    kept = [one.answered.worth for one in exchanges(lossy, job)]
    assert kept == ["refused"] * MAX_CALLS + ["accepted"]
    assert len(exchanges(lossy, job, "submit")) == 1


async def test_control_without_the_bound_all_of_it_is_kept(lossy: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rushes.flight.record.MAX_CALLS", 1_000)
    job = await flooded(lossy, MAX_CALLS + 10)
    assert len(exchanges(lossy, job)) == MAX_CALLS + 11


async def test_without_the_record_callbacks_are_heard_all_the_same(lossy: Rig) -> None:
    lossy.flight = False
    async with lossy.up():
        job = await lossy.make()
        await until(job, "in_doubt")
        (sent,) = await lossy.due()
        assert (await lossy.call(sent))[0] == 204
        await done(job)
    assert (named(lossy, job, "submission.accepted"), (lossy.folder / "flight.db").exists()) == ([], False)


# ── Where nobody hears ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def lossy(tmp_path: Path) -> AsyncIterator[Rig]:
    """A provider whose answers to paid calls are lost, and nobody who serves yet."""
    twin = OpenRouterTwin(clip=shipped_clip(), pending_s=0.0, render_s=RENDER_S)
    async with provider(tmp_path, twin, OpenRouter) as rig:
        rig.quiet.go_wrong(LOST)
        yield rig


async def parked(job: Job) -> JobView:
    """The job once it waits for a person: long before the half hour that a callback is waited for."""
    async with asyncio.timeout(PATIENCE_S):
        return await until(job, "parked")


class Intent(msgspec.Struct):
    """What a send was given."""

    terms: Terms


async def pinned(job: Job) -> str:
    """The class of doubt that its last send was given."""
    return class_in(await job.events())


def class_in(events: Sequence[EventView]) -> str:
    started = [event.data for event in events if event.type == "submission.started"]
    return msgspec.json.decode(started[-1], type=Intent).terms.doubt


async def classes(rig: Rig) -> dict[str, str]:
    """What the list of providers says."""
    return {view.name: view.in_doubt for view in await rig.studio.providers()}


def asked_to_call(rig: Rig) -> bool:
    return "callback_url" in str([line.body for line in rig.twin.ledger.requests])


async def test_who_does_not_serve_asks_nobody_to_call_and_waits_for_no_call(lossy: Rig) -> None:
    async with lossy.alone():
        job = await lossy.make()
        view = await parked(job)
        assert (view.billed, await pinned(job), await classes(lossy)) == ("unknown", "E", {"openrouter": "E"})
    assert (asked_to_call(lossy), (lossy.folder / KEY_FILE).exists()) == (False, False)


async def test_control_a_server_with_the_same_settings_asks_and_waits(lossy: Rig) -> None:
    async with lossy.up():
        job = await lossy.make()
        view = await until(job, "in_doubt")
        assert (view.note, await pinned(job), await classes(lossy)) == ("", "D", {"openrouter": "D"})
    assert (asked_to_call(lossy), (lossy.folder / KEY_FILE).exists()) == (True, True)


async def sent_by_a_server(rig: Rig) -> tuple[str, Delivery]:
    """A job in doubt, and the callback about it, which has not come yet when the server is gone."""
    async with rig.up():
        job = await rig.make()
        await until(job, "in_doubt")
        (sent,) = await rig.due()
    return job.id, sent


async def test_what_a_server_sent_waits_on_with_who_does_not_serve_and_a_later_server_hears(lossy: Rig) -> None:
    name, sent = await sent_by_a_server(lossy)
    async with lossy.alone():
        view = await lossy.studio.poll(name)
        assert (view.phase, view.attention, "`rushes serve`" in view.note) == ("in_doubt", "", True)
    async with lossy.up():
        assert (await lossy.call(sent))[0] == 204
        assert (await done(lossy.studio.job(name))).billed == "yes"
    assert len(lossy.twin.charges) == 1


async def test_control_a_later_server_with_another_key_does_not_know_the_address(lossy: Rig) -> None:
    name, sent = await sent_by_a_server(lossy)
    (lossy.folder / KEY_FILE).unlink()
    async with lossy.up():
        assert (await lossy.call(sent))[0] == 403
        assert (await lossy.studio.show(name)).phase == "in_doubt"


async def test_what_was_waited_for_in_vain_is_parked_and_a_later_server_still_hears(lossy: Rig) -> None:
    """The time that was pinned ends while nobody serves: nothing is sent again, and the late call is an acceptance."""
    lossy.adapter = patient(OpenRouter, total_s=1.0)
    name, sent = await sent_by_a_server(lossy)
    async with lossy.alone():
        view = await parked(lossy.studio.job(name))
        assert (view.billed, bool(view.attention)) == ("unknown", True)
    async with lossy.up():
        assert (await lossy.call(sent))[0] == 204
        assert (await done(lossy.studio.job(name))).billed == "yes"
    assert len(lossy.twin.charges) == 1


async def test_the_verbs_do_the_same(lossy: Rig) -> None:
    """`rushes generate` and `rushes serve` as processes, over one folder."""
    environ = lossy.environ | {"RUSHES_PUBLIC_URL": lossy.public_url, "RUSHES_CONFIG": os.devnull}
    words = ("generate", "a lake", "--model", "openrouter", "--data", str(lossy.folder), "--json")
    ran = await asyncio.create_subprocess_exec(
        sys.executable, *RUSHES, *words, env={**os.environ, **environ}, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await ran.communicate()
    assert (ran.returncode, msgspec.json.decode(out)["phase"], asked_to_call(lossy)) == (6, "parked", False)
    async with serving(lossy.folder, environ) as server, Client(server.url) as client:
        view, _ = await client.submit(VideoRequest(prompt="a lake", model="openrouter"))
        await lossy.due()
        assert class_in(await client.events(view.id)) == "D"
        shown = {view.name: view.in_doubt for view in await client.providers()}
        assert (shown["openrouter"], shown["replicate"], shown["kling"], shown["xai"]) == ("D", "D", "B", "E")


# ── Around it ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_where_no_provider_can_reach_us_none_is_asked_to_call(rig: Rig, tmp_path: Path) -> None:
    alone = Rig(tmp_path / "alone", rig.quiet, rig.adapter, rig.environ)
    alone.public_url = ""
    async with alone.up():
        job = await alone.make()
        await until(job, "running")
        assert "callback_url" not in str([line.body for line in rig.twin.ledger.requests])
        async with alone.web.post("/v1/webhooks/openrouter?job=x&mac=y") as reply:
            assert reply.status == 404
    assert not (alone.folder / KEY_FILE).exists()


async def test_the_public_name_is_good_for_callbacks_alone(rig: Rig) -> None:
    for path in ("/v1/jobs", "/v1/webhooksx", "/healthz"):
        async with rig.web.get(path, headers={"Host": HOST}) as reply:
            assert reply.status == 403, path
    async with rig.web.post("/v1/webhooks/openrouter", headers={"Host": "evil.example"}) as reply:
        assert (reply.status, (await reply.json())["code"]) == (403, "invalid_input")


async def test_while_a_secret_is_replaced_both_are_taken(rig: Rig, tmp_path: Path) -> None:
    both = Rig(tmp_path / "both", rig.quiet, rig.adapter, rig.environ | {"OPENROUTER_WEBHOOK_SECRET": "new-1 old-1"})
    async with both.up():
        await both.make()
        (sent,) = await both.due()
        for secret, status in (("new-1", 204), ("old-1", 204), ("older", 403)):
            rig.twin.secret = secret
            signature = dict(rig.twin.signature(sent.body, time.time()))
            assert (await both.call(sent, headers=signature))[0] == status


async def test_no_line_of_the_log_and_no_recorded_exchange_holds_the_code(rig: Rig) -> None:
    with capture_logs() as lines:
        job = await rig.make()
        (sent,) = await rig.due()
        await rig.call(sent)
        await rig.call(sent, url=re.sub("send=1", "send=3", sent.url))
        await done(job)
    code = sent.url.rpartition("mac=")[2]
    assert [line["event"] for line in lines if line["event"].startswith("callback.")] == [
        "callback.heard",
        "callback.refused",
    ]
    assert code not in str(lines)
    assert code not in str([event.data for event in await job.events()])
    await rig.server.close()
    kept = b""
    async with asyncio.timeout(PATIENCE_S):
        while b"callback_url" not in kept:  # the flight record is written once a second
            kept = b"".join(file.read_bytes() for file in rig.folder.glob("*.db"))
            await asyncio.sleep(0)
    assert code.encode() not in kept


@pytest.mark.parametrize(
    "url",
    [
        "http://studio.example",
        "https://",
        "studio.example",
        "https://a@b.example",
        "https://b.example?x=1",
        "https://b b",
    ],
)
async def test_an_address_that_no_provider_could_call_is_refused_at_the_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        async with open_studio(settings=Settings(data=str(tmp_path), public_url=url), environ={}):
            pass
    assert refused.value.field == "public_url"


async def test_a_secret_that_is_none_is_named_by_its_variable_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        async with open_studio(tmp_path, environ={"REPLICATE_WEBHOOK_SECRET": "whsec_short"}):
            pass
    assert refused.value.field == "REPLICATE_WEBHOOK_SECRET"
    assert "short" not in str(refused.value).replace("too short", "")


async def test_a_key_that_is_damaged_is_not_used(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"half a key")
    settings = Settings(data=str(tmp_path), public_url="https://a.example")
    with pytest.raises(FolderTrouble, match="damaged"):
        async with open_studio(settings=settings, environ={}, serving=True):
            pass
