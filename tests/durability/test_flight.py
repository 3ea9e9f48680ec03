"""flight.db: what it keeps, what it never keeps, and that no job waits for it or fails by it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
from shop import FOREVER, URL, Shop, counterparts, open_shop
from structlog.testing import capture_logs

from rushes import media
from rushes.adapters.base import Failed, FlowName, Heeded, Inline, Keep, Part, Request, Response, Transport
from rushes.adapters.http import Http
from rushes.adapters.replicate import Replicate
from rushes.assets import Assets
from rushes.faults import BadRequest, Unavailable
from rushes.flight import MAX_CALLS, MIN_BYTES, Exchange, Flight, FlightTap, Heard, read, read_runs
from rushes.main import Settings, load_settings, open_studio
from rushes.studio import Studio
from rushes.units import AssetRef
from rushes.video import Target

VICTIM = Path(__file__).with_name("flight_until_killed.py")
SUPPORT = Path(__file__).parents[1] / "support"
KILLS = 50 if os.environ.get("RUSHES_NIGHTLY") else 3
KEY = "r8_" + "canary" * 6
SIGNED = "https://files.example/clip.mp4?X-Amz-Signature=5167ed0001&expires=1"
REPLICATE = Replicate()
TARGET = Target(provider="replicate", model="prunaai/p-video", credential="REPLICATE_API_TOKEN")
FOREVER_S = 1e11
POLL = Request(method="GET", url="/predictions/p1")


class Clock:
    ahead_s = 0.0

    def now(self) -> float:
        return round(time.time() + self.ahead_s, 3)


class Wire:
    """A provider on loopback that says what it is told to; and the real client, overheard."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder, self.path, self._stack = folder, folder / "flight.db", stack
        self.clock = Clock()
        self.answers: list[bytes] = []  # whole ones; the last is said for ever, an empty one hangs up
        self.came: list[bytes] = []  # heads

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.came.append(head)
                lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
                await reader.readexactly(int(lines[0].split(b":")[1]) if lines else 0)
                said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not said:
                    break
                writer.write(said)
                await writer.drain()
        writer.close()

    async def open(self) -> Http:
        listener = await asyncio.start_server(self.talk, "127.0.0.1", 0)
        self._stack.callback(listener.close)
        self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        http = Http(
            base_urls={"replicate": self.url},
            credentials={"REPLICATE_API_TOKEN": KEY},
            read=lambda _: b"pixel",
            inner={},
            clock=self.clock,
        )
        return await self._stack.enter_async_context(http)

    def flight(self, *secrets: str, max_bytes: int = MIN_BYTES, keep_s: float = 60.0) -> Flight:
        flight = Flight(
            self.path,
            clock=self.clock,
            base_url=lambda _: self.url,
            secrets=secrets,
            max_bytes=max_bytes,
            keep_s=keep_s,
        )
        self._stack.callback(flight.close)
        return flight


@pytest.fixture(autouse=True)
def _as_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shop's clips are no videos: nobody looks."""
    monkeypatch.setattr(media, "available", lambda: False)


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with AsyncExitStack() as stack:
        yield Wire(tmp_path, stack)


def said(body: bytes | str, status: str = "200 OK", *headers: str) -> bytes:
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ── a job and its record ──────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def studio_of(folder: Path, shop: Shop, *, flight: bool = True) -> AsyncIterator[Studio]:
    settings = Settings(data=str(folder), default_model="shop-e/m", flight=flight)
    async with open_studio(settings=settings, adapters=dict(counterparts()), environ={URL: shop.url}) as studio:
        yield studio


async def a_job(folder: Path, prompt: str = "a lake at dawn", *, flight: bool = True) -> str:
    """The name of a job that ran to its end."""
    async with open_shop() as shop, studio_of(folder, shop, flight=flight) as studio:
        job = await studio.generate(prompt)
        await job.result(timeout_s=10)
        return job.id


def causes(folder: Path) -> list[tuple[str, list[int]]]:
    """Each event in the log, and the exchanges that it names."""
    with closing(sqlite3.connect(folder / "rushes.db")) as log:
        rows = log.execute("SELECT type, meta FROM events ORDER BY position").fetchall()
    return [(event, msgspec.json.decode(meta).get("x", [])) for event, meta in rows]


async def test_every_exchange_of_a_job_is_kept_and_the_events_name_theirs(tmp_path: Path) -> None:
    job = await a_job(tmp_path)
    exchanges = read(tmp_path / "flight.db", job)
    assert [one.flow for one in exchanges] == ["prepare", "submit", "status", "status", "download", "download"]
    assert {(one.job, one.attempt, one.provider, one.count) for one in exchanges} == {(job, 1, "shop-e", 1)}
    assert [one.id for one in exchanges] == sorted({one.id for one in exchanges})
    token, submit, first, last, *files = exchanges
    assert (submit.method, submit.status, submit.url.partition("/e/")[2]) == ("POST", 201, "renders")
    assert submit.asked.body is not None
    assert submit.asked.body.text is not None
    assert msgspec.json.decode(submit.asked.body.text) == {"key": f"{job}-1", "prompt": "a lake at dawn"}
    assert submit.answered.headers["content-type"].startswith("application/json")
    assert last.answered.body is not None
    assert '"status":"done"' in (last.answered.body.text or "")
    takes = [one.answered.body for one in files]
    kept = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(tmp_path.glob("takes/customers/**/*.mp4"))]
    assert sorted(take.sha256 for take in takes if take) == sorted(kept)
    assert [take.text for take in takes if take] == [None, None]
    named = {event: x for event, x in causes(tmp_path) if x}
    assert named["inputs.prepared"] == [token.id]
    assert named["submission.accepted"] == [submit.id]
    assert named["progress.reported"] == [first.id]
    assert named["generation.finished"] == [last.id]
    assert named["job.succeeded"] == [files[1].id]
    assert "submission.started" not in named


async def test_without_the_setting_nothing_is_kept_and_events_name_nothing(tmp_path: Path) -> None:
    await a_job(tmp_path, flight=False)
    assert not (tmp_path / "flight.db").exists()
    assert not [x for _, x in causes(tmp_path) if x]


async def test_a_record_beside_its_owner_is_read_as_far_as_it_is_written(tmp_path: Path) -> None:
    async with open_shop() as shop, studio_of(tmp_path, shop) as studio:
        job = await studio.generate(FOREVER)
        async with asyncio.timeout(10):
            while not read(tmp_path / "flight.db", job.id):
                await job.poll()


# ── what is heard ─────────────────────────────────────────────────────────────────────────────────────────────────────


def tapped(flight: Flight, http: Http, flow: FlowName = "status") -> tuple[FlightTap, Transport]:
    tap = flight.tap("job_1", 1)
    return tap, tap.on(http, flow)


async def test_equal_polls_are_one_row_with_a_count(wire: Wire) -> None:
    http, flight = await wire.open(), wire.flight()
    wire.answers = [*[said('{"status":"processing"}')] * 40, said('{"status":"done"}'), said('{"status":"processing"}')]
    tap, line = tapped(flight, http)
    for _ in range(42):
        await line.send(REPLICATE, TARGET, POLL)
    first, other, again = flight.exchanges("job_1")
    assert (first.count, other.count, again.count) == (40, 1, 1)
    assert first.at < first.last_at <= other.last_at
    assert tap.ids == [first.id, other.id, again.id]


async def test_a_paid_call_and_one_with_a_body_are_never_counted_as_equal(wire: Wire) -> None:
    http, flight = await wire.open(), wire.flight()
    wire.answers = [said("{}")]
    _, line = tapped(flight, http, "submit")
    paid = Request(method="POST", url="/predictions", body={"input": {"prompt": "a lake"}}, spends=True)
    for _ in range(2):
        await line.send(REPLICATE, TARGET, paid)
    assert [one.count for one in flight.exchanges("job_1")] == [1, 1]


async def test_where_there_was_no_answer_the_record_says_why(wire: Wire) -> None:
    http, flight = await wire.open(), wire.flight()
    wire.answers = [b""]
    _, line = tapped(flight, http, "submit")
    with pytest.raises(Failed) as failed:
        await line.send(REPLICATE, TARGET, Request(method="POST", url="/predictions", body={}, spends=True))
    (one,) = flight.exchanges("job_1")
    assert (one.status, one.answered.fault, one.answered.certain) == (0, failed.value.fault, False)
    assert "ServerDisconnectedError" in failed.value.fault.detail


async def test_files_in_a_body_stay_references(wire: Wire) -> None:
    http, flight = await wire.open(), wire.flight()
    wire.answers = [said("{}")]
    picture = AssetRef("inputs/ab/abcd", "ab" * 32, 5, "image/png")
    _, line = tapped(flight, http, "submit")
    body = {"input": {"image": Inline(picture)}}
    await line.send(REPLICATE, TARGET, Request(method="POST", url="/predictions", body=body, spends=True))
    form = [Part("file", b"\0pixel", "a.png", "image/png"), Part("policy", "eyJsigned"), Part("name", "a lake")]
    await line.send(REPLICATE, TARGET, Request(method="POST", url="/files", body=form))
    sent, uploaded = (one.asked.body for one in flight.exchanges("job_1"))
    assert sent is not None
    assert msgspec.json.decode(sent.text or "")["input"]["image"]["asset"] == msgspec.to_builtins(picture)
    assert uploaded is not None
    file, policy, name = msgspec.json.decode(uploaded.text or "")
    assert file["content"] == {"size_bytes": 6, "sha256": hashlib.sha256(b"\0pixel").hexdigest()}
    assert (policy["content"], name["content"]) == ("redacted", "a lake")


@pytest.mark.parametrize("size_bytes", [100_000, 3_000_000])
async def test_a_long_answer_is_kept_by_length_sha256_and_head(wire: Wire, size_bytes: int) -> None:
    """Also one so long that it went to a file, which is gone when the record is written."""
    http, flight = await wire.open(), wire.flight()
    body = b'{"video":"' + b"QUJD" * (size_bytes // 4) + b'"}'
    wire.answers = [said(body)]
    tap, line = tapped(flight, http)
    reply = await line.send(REPLICATE, TARGET, POLL)
    if reply.path:
        Path(reply.path).unlink()
    (one,) = flight.exchanges("job_1")
    kept = one.answered.body
    assert kept is not None
    assert (kept.size_bytes, kept.sha256, kept.whole) == (len(body), hashlib.sha256(body).hexdigest(), False)
    assert body.decode().startswith(kept.text or "?")
    assert 60_000 < len(kept.text or "") <= 65_536
    assert tap.ids == [one.id]


async def test_a_send_that_a_stop_cuts_off_is_kept_as_one_that_may_have_been_taken(tmp_path: Path) -> None:
    async with open_shop() as shop:
        shop.patience = asyncio.Event().wait
        settings = Settings(data=str(tmp_path), default_model="shop-e/m", stop_grace_s=0.0)
        async with open_studio(settings=settings, adapters=dict(counterparts()), environ={URL: shop.url}) as studio:
            job = await studio.generate("a lake at dawn")
            await shop.charged.wait()
        (sent,) = [one for one in read(tmp_path / "flight.db", job.id) if one.flow == "submit"]
    assert (sent.status, sent.answered.certain) == (0, False)
    assert sent.answered.fault is not None
    assert sent.answered.fault.code == "cancelled"


# ── callbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

TAKEN = Heeded(status=204, worth="accepted")
HINT = Heeded(status=204, worth="hint")
WAITS = Heeded(status=503, worth="refused", why="unavailable")


def called(flight: Flight, result: Heeded | BaseException, body: bytes = b"{}", **headers: str) -> int:
    """The id of a callback that came and ended so."""
    ours = Request(method="POST", url="/v1/webhooks/replicate?job=job_1&attempt=1&send=1", headers=headers)
    call = flight.call("job_1", 1, "", REPLICATE, ours, body)
    call.ended(result)
    return call.id


async def test_equal_callbacks_are_one_row_whatever_came_between_and_polls_are_counted_on(wire: Wire) -> None:
    http, flight = await wire.open(), wire.flight()
    wire.answers = [said('{"status":"processing"}')]
    _, line = tapped(flight, http)
    for _ in range(3):
        called(flight, HINT)
        await line.send(REPLICATE, TARGET, POLL)
        called(flight, HINT, b'{"another": 1}')
    assert [(one.flow, one.count) for one in flight.exchanges("job_1")] == [
        ("callback", 3),
        ("status", 3),
        ("callback", 3),
    ]


@pytest.mark.parametrize("result", [TAKEN, WAITS])
async def test_a_callback_that_an_event_may_name_has_a_row_of_its_own(wire: Wire, result: Heeded) -> None:
    await wire.open()
    flight = wire.flight()
    ids = [called(flight, result) for _ in range(3)]
    assert [(one.id, one.count) for one in flight.exchanges("job_1")] == [(known, 1) for known in ids]


async def test_what_moved_the_job_is_kept_however_many_did_not(wire: Wire) -> None:
    await wire.open()
    flight = wire.flight()
    for number in range(2 * MAX_CALLS):
        called(flight, WAITS, b"%d" % number)
    taken = called(flight, TAKEN)
    there = flight.exchanges("job_1")
    assert (len(there), there[-1].id, flight.dropped) == (MAX_CALLS + 1, taken, 0)


async def test_a_callback_whose_hearing_was_broken_off_says_so(wire: Wire) -> None:
    await wire.open()
    flight = wire.flight()
    called(flight, asyncio.CancelledError())
    (one,) = flight.exchanges("job_1")
    assert one.answered.fault is not None
    assert (one.status, one.answered.fault.code, one.answered.worth) == (0, "cancelled", None)


async def test_a_callback_is_kept_without_what_signs_it_and_by_its_head_where_it_is_long(wire: Wire) -> None:
    await wire.open()
    flight = wire.flight(KEY)
    body = (
        f'{{"webhook":"https:\\/\\/me.example\\/v1?mac=5167ed0001","echo":"{KEY}","more":"{"x" * 200_000}"}}'.encode()
    )
    headers = {"Webhook-Id": "msg_1", "Webhook-Timestamp": "1", "Webhook-Signature": "v1,5167ed0001", "Cookie": KEY}
    called(flight, HINT, body, **headers)
    (one,) = flight.exchanges("job_1")
    assert one.asked.headers == {"webhook-id": "msg_1", "webhook-timestamp": "1"}
    kept = one.asked.body
    assert kept is not None
    assert (kept.size_bytes, kept.sha256, kept.whole) == (len(body), hashlib.sha256(body).hexdigest(), False)
    await asyncio.to_thread(flight.close)
    written = wire.path.read_bytes()
    assert (b"me.example" in written, KEY.encode() in written, b"5167ed0001" in written) == (True, False, False)


# ── which processes there were ────────────────────────────────────────────────────────────────────────────────────────


async def test_the_record_knows_from_when_to_when_somebody_worked(wire: Wire) -> None:
    await wire.open()
    assert read_runs(wire.path, 0.0, FOREVER_S) == []
    first = wire.flight()
    first.hear(exchange(1, 10))
    first.exchanges("job_1")
    (running,) = read_runs(wire.path, 0.0, FOREVER_S)
    assert not running.ended
    await asyncio.to_thread(first.close)
    (ended,) = read_runs(wire.path, 0.0, FOREVER_S)
    assert ended.ended
    assert ended.began_at == running.began_at <= running.seen_at <= ended.seen_at
    wire.clock.ahead_s = 30.0
    second = wire.flight()  # of a process that asks nobody
    await asyncio.to_thread(second.close)
    runs = read_runs(wire.path, 0.0, FOREVER_S)
    assert runs[0] == ended
    assert runs[1].ended
    assert runs[1].began_at >= ended.seen_at + 29
    assert read_runs(wire.path, 0.0, ended.seen_at) == [ended]
    assert read_runs(wire.path, ended.seen_at + 1, FOREVER_S) == runs, "a job that began when it was already killed"
    assert read_runs(wire.path, runs[1].began_at, FOREVER_S) == runs[1:]


async def test_runs_leave_as_exchanges_do_and_there_are_never_many(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rushes.flight.record.MAX_RUNS", 3)
    await wire.open()
    for number in range(5):
        wire.clock.ahead_s = 10.0 * number
        flight = wire.flight(keep_s=1_000.0)
        flight.hear(exchange(number, 10))
        await asyncio.to_thread(flight.close)
    assert len(read_runs(wire.path, 0.0, FOREVER_S)) == 3
    wire.clock.ahead_s = 1_035.0  # all but the last two are too old
    flight = wire.flight(keep_s=1_000.0)
    await asyncio.to_thread(flight.close)
    assert len(read_runs(wire.path, 0.0, FOREVER_S)) == 2


# ── what is never kept ────────────────────────────────────────────────────────────────────────────────────────────────


async def chatter(wire: Wire, flight: Flight, http: Http) -> bytes:
    """Everything that could carry a secret; the answer is every byte that was written."""
    echo = f'{{"detail":"{KEY} is wrong","output":"{SIGNED}","nested":"{{\\"url\\":\\"{SIGNED}\\"}}"}}'
    slot = '{"uploadUrl":"https://u:hunter2222@up.example/x","fields":{"policy":"eyJsigned","x-amz-signature":"5167ed0001"}}'
    wire.answers = [said(echo, "200 OK", f"X-Request-Id: {KEY}", f"Set-Cookie: {KEY}"), said(slot), said(b"\0clip")]
    _, line = tapped(flight, http, "submit")
    asked = {"input": {"prompt": "a lake at dawn", "image": SIGNED.replace("/", "\\/"), "api_key": KEY}}
    await line.send(REPLICATE, TARGET, Request(method="POST", url="/predictions", body=asked, spends=True))
    await line.send(REPLICATE, TARGET, Request(method="GET", url="/files", query={"token": KEY, "limit": "5"}))
    sink = Assets(wire.folder / "takes").sink("a.mp4")
    await line.keep(REPLICATE, TARGET, Keep(url=f"{wire.url}/clip.mp4?sig=5167ed0001"), sink)
    assert len(flight.exchanges("job_1")) == 3
    await asyncio.to_thread(flight.close)
    return b"".join(path.read_bytes() for path in wire.folder.glob("flight.db*"))


async def test_no_key_and_no_signature_is_ever_in_the_file(wire: Wire) -> None:
    http = await wire.open()
    written = await chatter(wire, wire.flight(KEY), http)
    assert KEY.encode() in b"".join(wire.came)  # it was said
    assert b"a lake at dawn" in written
    assert b"files.example" in written
    for secret in (KEY, "5167ed0001", "eyJsigned", "hunter2222"):
        assert secret.encode() not in written, secret
    urls = [one.url for one in read(wire.path, "job_1")]
    assert urls == [
        f"{wire.url}/predictions",
        f"{wire.url}/files?token=redacted&limit=5",
        f"{wire.url}/clip.mp4?redacted",
    ]


async def test_control_a_record_that_knows_no_key_keeps_what_the_provider_repeats(wire: Wire) -> None:
    http = await wire.open()
    assert KEY.encode() in await chatter(wire, wire.flight(), http)


# ── how much ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def exchange(number: int, size_bytes: int, job: str = "job_1") -> Heard:
    """One with a text that cannot be packed."""
    body = random.Random(number).randbytes(size_bytes // 2).hex().encode()
    reply = Response(status=200, body=body)
    ask = Request(method="GET", url=f"/{number}")
    return Heard(job=job, attempt=1, flow="status", adapter=REPLICATE, ask=ask, result=reply, duration_s=0.1)


def space(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def filled(flight: Flight, path: Path) -> int:
    """The most that the file took while 27 MB went in."""
    most = 0
    for number in range(450):
        flight.hear(exchange(number, 60_000))
        if number % 50 == 49:
            flight.exchanges("nobody")
            most = max(most, space(path))
    return most


async def test_the_file_never_takes_more_than_its_cap_and_the_oldest_go_first(wire: Wire) -> None:
    await wire.open()
    flight = wire.flight(max_bytes=MIN_BYTES)
    assert MIN_BYTES // 2 < filled(flight, wire.path) <= MIN_BYTES
    left = [one.url.rpartition("/")[2] for one in flight.exchanges("job_1")]
    assert left == [str(number) for number in range(450 - len(left), 450)]
    assert 100 < len(left) < 300
    assert flight.dropped == 0


async def test_a_lower_cap_shrinks_the_file_and_control_a_higher_one_lets_it_grow(wire: Wire) -> None:
    await wire.open()
    flight = wire.flight(max_bytes=4 * MIN_BYTES)
    assert filled(flight, wire.path) > 1.5 * MIN_BYTES
    flight.close()
    smaller = wire.flight(max_bytes=MIN_BYTES)
    smaller.exchanges("nobody")
    assert space(wire.path) <= MIN_BYTES


async def test_what_is_too_old_goes(wire: Wire) -> None:
    await wire.open()
    flight = wire.flight(keep_s=60.0)
    flight.hear(exchange(1, 100))
    assert len(flight.exchanges("job_1")) == 1
    wire.clock.ahead_s = 59.0
    flight.hear(exchange(2, 100))
    assert len(flight.exchanges("job_1")) == 2
    flight.close()
    wire.clock.ahead_s = 62.0
    assert [one.url[-1] for one in wire.flight(keep_s=60.0).exchanges("job_1")] == ["2"]


@pytest.mark.parametrize(("more", "stays"), [({}, False), ({"RUSHES_FLIGHT_KEEP_S": "1e9"}, True)])
async def test_how_long_is_a_setting(wire: Wire, more: dict[str, str], stays: bool) -> None:
    await wire.open()
    wire.clock.ahead_s = -31 * 86_400.0
    flight = wire.flight()
    flight.hear(exchange(1, 100))
    flight.close()
    await opened_once(wire.folder, more)
    assert len(read(wire.path, "job_1")) == stays


@pytest.mark.parametrize(("more", "stays"), [({"RUSHES_FLIGHT_MAX_BYTES": f"{MIN_BYTES}"}, False), ({}, True)])
async def test_how_much_is_a_setting(wire: Wire, more: dict[str, str], stays: bool) -> None:
    await wire.open()
    flight = wire.flight(max_bytes=4 * MIN_BYTES)
    filled(flight, wire.path)
    flight.close()
    await opened_once(wire.folder, more)
    assert (space(wire.path) > MIN_BYTES, len(read(wire.path, "job_1")) == 450) == (stays, stays)


async def opened_once(folder: Path, environ: dict[str, str]) -> None:
    """Somebody owns the folder, and lets go of it."""
    settings = load_settings({"data": str(folder)}, {"RUSHES_CONFIG": os.devnull, **environ})
    async with open_studio(settings=settings, adapters={}, environ={}):
        pass


def test_a_cap_that_is_too_low_is_named() -> None:
    with pytest.raises(BadRequest) as refused:
        load_settings(environ={"RUSHES_CONFIG": os.devnull, "RUSHES_FLIGHT_MAX_BYTES": "1"})
    assert refused.value.field == "flight_max_bytes"


async def test_more_than_can_wait_is_dropped_counted_and_said_once(wire: Wire) -> None:
    await wire.open()
    flight, large = (
        wire.flight(),
        msgspec.structs.replace(exchange(0, 0), result=Response(status=200, body=b"x" * 10**6)),
    )
    with capture_logs() as logs:
        known = [flight.hear(msgspec.structs.replace(large)) for _ in range(100)]  # at most 32 wait, and 32 are at work
        there = [one.id for one in flight.exchanges("job_1")]
    assert known.count(0) == flight.dropped >= 36
    assert there == [one for one in known if one]
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["flight.dropped"]
    flight.hear(exchange(1, 100))
    assert len(flight.exchanges("job_1")) == len(there) + 1


# ── trouble ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_disk_costs_the_record_and_no_job(tmp_path: Path) -> None:
    flight = Flight(tmp_path / "flight.db", clock=Clock(), base_url=lambda _: "")
    for number in range(40):
        flight.hear(exchange(number, 60_000, "job_before"))
    flight.close()
    size_bytes = (tmp_path / "flight.db").stat().st_size
    with capture_logs() as logs, full_disk(size_bytes // 2):
        job = await a_job(tmp_path, "a lake " * 2_000)
    assert [log["event"] for log in logs if log["event"].startswith("flight")] == ["flight.dropped"]
    assert read(tmp_path / "flight.db", job) == []
    assert len(read(tmp_path / "flight.db", "job_before")) == 40
    assert len(read(tmp_path / "flight.db", await a_job(tmp_path))) == 6  # and afterwards all is well


@pytest.mark.parametrize("trouble", ["damaged", "torn", "newer", "another's"])
async def test_a_file_that_is_no_record_of_ours_is_put_aside(tmp_path: Path, trouble: str) -> None:
    path = tmp_path / "flight.db"
    await a_job(tmp_path)
    match trouble:
        case "damaged":
            path.write_bytes(b"no database at all" * 1_000)
        case "torn":
            path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
        case "newer":
            _alter(path, "PRAGMA user_version = 99")
        case _:
            _alter(path, "DROP TABLE exchanges")
            _alter(path, "CREATE TABLE exchanges(a)")
    before = _told(path)
    with capture_logs() as logs:
        job = await a_job(tmp_path)
    assert [log["event"] for log in logs if log["event"].startswith("flight")] == ["flight.put_aside"]
    assert len(read(path, job)) == 6
    assert _told(tmp_path / "flight.db.aside") == before


def _told(path: Path) -> bytes:
    """The file but for SQLite's own counters at its begin."""
    return path.read_bytes()[100:]


def _alter(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(sql)


async def test_a_record_that_cannot_be_opened_is_said_and_costs_no_job(tmp_path: Path) -> None:
    (tmp_path / "flight.db").mkdir()
    with capture_logs() as logs:
        await a_job(tmp_path)
    assert [log["event"] for log in logs if log["event"].startswith("flight")] == ["flight.dropped"]


async def lost(folder: Path, shop: Shop) -> int:
    """How many exchanges of a job whoever watches the server sees as lost, once any is or its record is there."""
    async with studio_of(folder, shop) as studio:
        job = await studio.generate("a lake at dawn")
        await job.result(timeout_s=10)
        async with asyncio.timeout(10):
            while True:
                (line,) = re.findall(r"^rushes_flight_dropped_total (\d+)$", await studio.metrics(0), re.MULTILINE)
                if int(line) or (folder / "flight.db").is_file():
                    return int(line)


async def test_what_is_lost_is_counted_for_whoever_watches_and_control_else_it_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad" / "flight.db").mkdir(parents=True)
    async with open_shop() as shop:
        assert await lost(tmp_path / "bad", shop) > 0
        assert await lost(tmp_path / "good", shop) == 0


async def test_a_newer_record_is_not_read_and_one_that_is_missing_is_empty(tmp_path: Path) -> None:
    job = await a_job(tmp_path)
    assert read(tmp_path / "nothing.db", job) == []
    _alter(tmp_path / "flight.db", "PRAGMA user_version = 99")
    with pytest.raises(Unavailable, match="layout 99"):
        read(tmp_path / "flight.db", job)


async def test_who_reads_while_the_owner_writes_sees_whole_rows_and_costs_none(wire: Wire) -> None:
    await wire.open()
    flight, seen, number = wire.flight(max_bytes=8 * MIN_BYTES), list[int](), 0
    for _ in range(60):
        for _ in range(4):
            flight.hear(exchange(number, 60_000))
            number += 1
        flight._wake()  # it writes at once
        there = await asyncio.to_thread(read, wire.path, "job_1")
        assert [one.url for one in there] == [f"{wire.url}/{place}" for place in range(len(there))]
        assert all(_is_whole(one) for one in there[-8:])
        seen.append(len(there))
    assert (seen == sorted(seen), len({*seen}) > 5) == (True, True)
    assert (len(flight.exchanges("job_1")), flight.dropped) == (number, 0)


def _is_whole(one: Exchange) -> bool:
    body = one.answered.body
    return body is not None and hashlib.sha256((body.text or "").encode()).hexdigest() == body.sha256


async def test_control_a_reader_that_does_not_let_go_costs_what_cannot_be_written(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wire.open()
    monkeypatch.setattr("rushes.flight.record.sqlite3.connect", partial(sqlite3.connect, timeout=0.05))
    flight = wire.flight()
    flight.hear(exchange(1, 100))
    flight.exchanges("job_1")
    with closing(sqlite3.connect(wire.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM exchanges").fetchone()
        flight.hear(exchange(2, 100))
        assert len(flight.exchanges("job_1")) == 1
    assert flight.dropped == 1


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def killed(path: Path, how: str, after: int) -> int:
    """The last id that the victim said was written."""
    words = [sys.executable, str(VICTIM), str(path), how]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        told = [int(line) for line, _ in zip(victim.stdout, range(after), strict=False)]
        victim.kill()
    return told[-1]


def written(path: Path) -> list[Exchange]:
    """All that is in the file, which must be whole."""
    found = [one for number in range(7) for one in read(path, f"job_{number}")]
    if path.exists():
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return sorted(found, key=lambda one: one.id)


def test_killed_at_any_moment_what_was_written_is_there_and_the_record_goes_on(tmp_path: Path) -> None:
    path, seed = tmp_path / "flight.db", random.randrange(2**32)
    print(f"seed {seed}")  # shown when it fails
    rng, known = random.Random(seed), 0
    for _ in range(KILLS):
        told = killed(path, "as it is", rng.randint(1, 12))
        there = [one.id for one in written(path)]
        assert known < told
        assert told in there
        assert known in (0, *there)
        known = told
    runs = read_runs(path, 0.0, FOREVER_S)
    assert [run.ended for run in runs] == [False] * KILLS
    times = [at for run in runs for at in (run.began_at, run.seen_at)]
    assert times == sorted(times)
    assert not (tmp_path / "flight.db.aside").exists()


def test_control_what_was_not_yet_written_is_lost_and_missed(tmp_path: Path) -> None:
    told = killed(tmp_path / "flight.db", "early", 1)
    assert told not in [one.id for one in written(tmp_path / "flight.db")]
