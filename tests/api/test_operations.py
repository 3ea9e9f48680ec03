"""What machines ask: whether the server can take work, what it has counted, and how its lines look."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from acme import Acme, AcmeTwin, Wire, make
from msgspec.structs import replace
from talking import TINY, reading

from rushes import flight
from rushes.actors.tally import family
from rushes.api.app import Server, serve
from rushes.eventstore.base import Stored, StoreUnavailable, Write
from rushes.eventstore.memory import MemoryStore
from rushes.faults import Unavailable
from rushes.main import Settings, open_studio
from rushes.studio import MIN_FREE_BYTES, Studio

SERIES = re.compile(r'rushes_([a-z_]+?)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+)\})? ([0-9.e+-]+)')
HEAD = re.compile(r"# (HELP|TYPE) rushes_([a-z_]+) (.+)")
CORE = {
    *("jobs_total", "job_duration_seconds", "queue_wait_seconds", "provider_requests_total", "poll_lag_seconds"),
    *("events_appended_total", "replay_duration_seconds", "ws_subscribers", "asset_bytes_total", "spend_usd_total"),
    "flight_dropped_total",
    "jobs_in_state",
}
LABELS = {"provider", "model", "outcome", "op", "code", "kind", "state", "le"}


class FullDisk(MemoryStore):
    """Takes nothing while it is full."""

    full = False

    async def append(self, write: Write) -> Stored:
        if self.full:
            raise StoreUnavailable("the disk is full")
        return await super().append(write)


def read(text: str) -> dict[str, float]:
    """Every series by its name and labels; each line is one of the three kinds that there are."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if HEAD.fullmatch(line):
            continue
        series = SERIES.fullmatch(line)
        assert series is not None, line
        assert {name for name, _ in re.findall(r'([a-z]+)="([^"]*)"', series[2] or "")} <= LABELS, line
        found[f"{series[1]}{{{series[2]}}}" if series[2] else series[1]] = float(series[3])
    return found


async def scraped(web: aiohttp.ClientSession) -> tuple[str, dict[str, float]]:
    async with web.get("/metrics") as reply:
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        text = await reply.text()
    return text, read(text)


async def ready(web: aiohttp.ClientSession) -> tuple[int, dict[str, Any]]:
    async with web.get("/readyz") as reply:
        return reply.status, msgspec.json.decode(await reply.read())


# ── Counts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_whole_core_set_is_there_from_the_beginning(web: aiohttp.ClientSession) -> None:
    text, _ = await scraped(web)
    types = {name: said for kind, name, said in HEAD.findall(text) if kind == "TYPE"}
    assert {*types} == CORE
    assert {*types.values()} == {"counter", "gauge", "histogram"}


async def test_a_job_is_counted_wherever_it_goes(studio: Studio, server: Server, web: aiohttp.ClientSession) -> None:
    async with reading(server.url):
        job = await studio.generate(**TINY)
        take = (await job.result(timeout_s=20)).videos[0]
        text, told = await scraped(web)
    assert told['jobs_total{provider="local",model="local",outcome="succeeded"}'] == 1
    assert told['jobs_in_state{state="succeeded"}'] == 1
    assert told["asset_bytes_total"] == take.size_bytes
    assert told["events_appended_total"] == len(await job.events())
    assert told['provider_requests_total{provider="local",op="submit",code="201"}'] == 1
    assert told['provider_requests_total{provider="local",op="download",code="200"}'] == 1
    assert told["ws_subscribers"] == 1
    assert told['job_duration_seconds_count{provider="local",outcome="succeeded"}'] == 1
    assert told["queue_wait_seconds_count"] == 1
    assert told["poll_lag_seconds_count"] >= 1
    for secret in (job.id, "a lake", "default"):
        assert secret not in text


async def test_buckets_contain_each_other_and_end_with_all(studio: Studio, web: aiohttp.ClientSession) -> None:
    await (await studio.generate(**TINY)).result(timeout_s=20)
    _, told = await scraped(web)
    for name in ("queue_wait_seconds", "poll_lag_seconds"):
        buckets = [value for series, value in told.items() if series.startswith(f"{name}_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == told[f"{name}_count"] > 0
        assert f'{name}_bucket{{le="+Inf"}}' in told


async def test_money_is_told_as_it_is_risked_and_as_it_is_made_for(tmp_path: Path) -> None:
    system, studio = make(MemoryStore(), tmp_path, Wire(AcmeTwin()), Acme())
    await system.start()
    await (await studio.generate("a lake")).result(timeout_s=5)
    told = read(await studio.metrics(0))
    for kind in ("reserved", "settled"):
        assert told[f'spend_usd_total{{provider="acme",model="a1",kind="{kind}"}}'] == 0.5
    await system.stop()


def test_a_name_with_quotes_and_breaks_stays_one_label() -> None:
    text = family("x_total", "counter", "An odd one.", [({"model": 'a"b\\c\nd'}, 1.0)])
    assert text.splitlines()[-1] == 'rushes_x_total{model="a\\"b\\\\c\\nd"} 1'


# ── Readiness ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_that_has_all_it_needs_is_ready(web: aiohttp.ClientSession) -> None:
    assert await ready(web) == (200, {"status": "ok"})


async def test_one_whose_disk_is_nearly_full_is_not(studio: Studio, web: aiohttp.ClientSession) -> None:
    doors = replace(studio._parts.doors, free_bytes=lambda: MIN_FREE_BYTES - 1)
    studio._parts = replace(studio._parts, doors=doors)
    status, problem = await ready(web)
    assert (status, problem["code"], problem["retryable"], problem["billed"]) == (503, "unavailable", True, "no")
    assert "63 MiB left" in problem["detail"]


async def test_one_whose_log_took_nothing_is_not_until_it_takes_something(tmp_path: Path) -> None:
    store = FullDisk()
    system, studio = make(store, tmp_path, Wire(AcmeTwin()), Acme())
    await system.start()
    assert studio.unready() == ""
    store.full = True
    with pytest.raises(Unavailable):
        await studio.generate("a lake")
    assert "could not be written" in studio.unready()
    store.full = False
    await studio.generate("a lake")
    assert studio.unready() == ""
    await system.stop()


async def test_one_that_takes_up_its_jobs_or_stops_is_not(tmp_path: Path) -> None:
    system, studio = make(MemoryStore(), tmp_path, Wire(AcmeTwin()), Acme())
    assert "unfinished jobs" in studio.unready()
    await system.start()
    assert studio.unready() == ""
    await system.stop()
    assert "stopping" in studio.unready()


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

LINES: dict[str, Callable[[str], object]] = {
    "json": lambda line: msgspec.json.decode(line)["event"] == "thing.happened",
    "logfmt": lambda line: "level=warning event=thing.happened wait_s=5.0" in line,
    "console": lambda line: re.search(r"\[warning *\] thing\.happened +wait_s=5\.0", line),
}


@pytest.mark.parametrize("form", LINES)
def test_a_line_is_written_as_the_setting_says(form: str, tmp_path: Path) -> None:
    code = (
        "import structlog, rushes.main as main; s = main.load_settings();"
        "main.set_up_logs(s.log_level, s.log_format); structlog.get_logger().warning('thing.happened', wait_s=5.0)"
    )
    environ = {**os.environ, "RUSHES_LOG_FORMAT": form}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert LINES[form](line)


async def test_two_servers_over_one_studio_tell_the_same(studio: Studio, web: aiohttp.ClientSession) -> None:
    other = await serve(studio, "127.0.0.1:0")
    async with aiohttp.ClientSession(base_url=other.url) as session:
        assert (await scraped(session))[1] == (await scraped(web))[1]
    await asyncio.sleep(0)
    await other.close()


# ── Traces ────────────────────────────────────────────────────────────────────────────────────────────────────────────

TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNTRACED = ["", "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACED.upper(), TRACED + "-x", "ff" + TRACED[2:], "x"]


async def traces(studio: Studio, job: str) -> list[str]:
    """What the meta of each event says."""
    stream = await studio.store.find(job)
    assert stream is not None
    metas = [msgspec.json.decode(event.meta or b"{}") for event in await studio.store.read(stream.id)]
    return [meta.get("trace", "") for meta in metas]


async def submitted(web: aiohttp.ClientSession, trace: str) -> str:
    async with web.post("/v1/jobs", json=TINY, headers={"traceparent": trace} if trace else {}) as reply:
        assert reply.status == 202
        return str((await reply.json())["id"])


async def test_a_job_stays_in_the_trace_that_it_began_in_also_after_a_restart(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path))
    async with open_studio(settings=settings, environ={}) as studio:
        server = await serve(studio, "127.0.0.1:0")
        async with aiohttp.ClientSession(base_url=server.url) as web:
            job = await submitted(web, TRACED)
            without = await submitted(web, "")  # over the same connection
        await server.close()
    async with open_studio(settings=settings, environ={}) as studio:
        await studio.job(job).result(timeout_s=20)
        await studio.job(without).result(timeout_s=20)
        told = await traces(studio, job)
        assert (len(told) > 5, {*told}) == (True, {TRACED})
        assert {*await traces(studio, without)} == {""}
        assert {event.traceparent for event in await studio.events(job)} == {TRACED}
        assert {event.traceparent for event in await studio.events(without)} == {msgspec.UNSET}
    exchanges = flight.read(settings.flight_file, job)
    assert {exchange.asked.trace for exchange in exchanges} == {TRACED}
    assert {exchange.asked.trace for exchange in flight.read(settings.flight_file, without)} == {""}


@pytest.mark.parametrize("trace", UNTRACED)
async def test_what_is_no_trace_is_passed_over(studio: Studio, web: aiohttp.ClientSession, trace: str) -> None:
    assert {*await traces(studio, await submitted(web, trace))} == {""}
