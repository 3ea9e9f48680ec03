"""`rushes mcp` as agents' programs use it: a process of its own, and the official SDK's client on its two streams."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mcp_types as types
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from server import serving

from rushes.cli import mcp
from rushes.cli.desk import Desk
from rushes.cli.mcp import Front
from rushes.client import Client as HttpClient
from rushes.eventstore.lock import FolderLock, Holder, holder
from rushes.main import load_settings
from rushes.tools import LONGEST_WAIT_S, tools_at

TINY: dict[str, Any] = {"prompt": "a lake", "model": "local", "duration_seconds": 1, "resolution": "180p", "fps": 8}
MIDDLE: dict[str, Any] = TINY | {"duration_seconds": 5, "resolution": "360p", "fps": 24}  # a second or two
LONG: dict[str, Any] = TINY | {"duration_seconds": 60, "resolution": "720p", "fps": 30}  # never waited for
TOOLS = [
    "generate_video",
    "get_video_job",
    "wait_for_video_job",
    "cancel_video_job",
    "list_video_jobs",
    "estimate_video_cost",
    "list_video_models",
]
PATIENCE_S = 60.0


def program(folder: Path, **environ: str) -> StdioServerParameters:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    kept |= {"PYTHONDONTWRITEBYTECODE": "1", "RUSHES_CONFIG": os.devnull, "RUSHES_LOG_LEVEL": "debug"}
    words = ["-m", "rushes.cli", "mcp", "--data", str(folder)]
    return StdioServerParameters(command=sys.executable, args=words, env=kept | environ)


@asynccontextmanager
async def agent(folder: Path, said: Path | None = None, **environ: str) -> AsyncIterator[Client]:
    """An agent with its own `rushes mcp`; what that says beside the protocol goes to a file."""
    with (said or Path(os.devnull)).open("a") as stderr:
        transport = stdio_client(program(folder, **environ), errlog=stderr)
        async with asyncio.timeout(PATIENCE_S), Client(transport) as client:
            yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """A tool's answer, which is the same in both of its forms."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    first = result.content[0]
    assert isinstance(first, types.TextContent)
    assert json.loads(first.text) == result.structured_content
    told: dict[str, Any] = result.structured_content
    return told


async def refused(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What is said where a tool refuses: an error to read, and the same as a problem."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    problem: dict[str, Any] = result.structured_content["error"]
    (text,) = result.content
    assert isinstance(text, types.TextContent)
    assert text.text == f"{problem['detail']} (code: {problem['code']}, billed: {problem['billed']})"
    return problem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_an_agent_makes_a_video_with_every_tool(folder: Path, tmp_path: Path) -> None:
    said = tmp_path / "stderr"
    async with agent(folder, said) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS

        models = await call(client, "list_video_models")
        assert [model["model"] for model in models["models"]] == ["local/local"]
        assert "XAI_API_KEY" in models["not_ready"]["xai"]
        (local,) = (await call(client, "list_video_models", model="local"))["models"]
        assert local["limits"][0]["durations_seconds"][0] == 1

        estimate = await call(client, "estimate_video_cost", **TINY)
        assert (estimate["price"], estimate["cost"]["micro_usd"], estimate["sends"]) == ("free", 0, 1)
        assert (await call(client, "list_video_jobs"))["jobs"] == []

        begun = await call(client, "generate_video", **TINY, idempotency_key="lake")
        again = await call(client, "generate_video", **TINY, idempotency_key="lake")
        assert (begun["repeated"], again["repeated"], again["job_id"]) == (False, True, begun["job_id"])
        job = begun["job_id"]

        check_link(await client.call_tool("wait_for_video_job", {"job_id": job}))
        done = await call(client, "wait_for_video_job", job_id=job)
        assert (done["status"], done["billed"], done["repeated"]) == ("succeeded", "no", False)
        assert done == await call(client, "get_video_job", job_id=job)
        assert [one["job_id"] for one in (await call(client, "list_video_jobs", status="succeeded"))["jobs"]] == [job]

        assert (await call(client, "cancel_video_job", job_id=job))["status"] == "succeeded"  # it is too late
    assert "submission.accepted" in said.read_text()  # it logs, beside the protocol


def check_link(result: types.CallToolResult) -> None:
    """A video is a link to its file, and never its bytes."""
    text, link = result.content
    assert isinstance(text, types.TextContent)
    assert isinstance(link, types.ResourceLink)
    file = Path(unquote(urlsplit(link.uri).path))
    assert (urlsplit(link.uri).scheme, link.mime_type, link.size) == ("file", "video/mp4", file.stat().st_size)
    assert file.read_bytes()[4:8] == b"ftyp"
    assert len(text.text) < 4096


async def test_waiting_tells_progress_and_ends_in_time(folder: Path) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with agent(folder) as client:
        job = (await call(client, "generate_video", **MIDDLE))["job_id"]
        await client.call_tool("wait_for_video_job", {"job_id": job}, progress_callback=listen)

        job = (await call(client, "generate_video", **LONG))["job_id"]
        with pytest.raises(MCPError):  # the client gives up, and tells it
            await client.call_tool("wait_for_video_job", {"job_id": job}, read_timeout_seconds=0.2)
        waited = await call(client, "wait_for_video_job", job_id=job, timeout_seconds=0.1)
        assert waited["status"] in {"queued", "running"}  # the job goes on
        assert "wait_for_video_job" in waited["next"]
        await call(client, "cancel_video_job", job_id=job)
        assert (await call(client, "wait_for_video_job", job_id=job))["status"] == "cancelled"
    assert LONGEST_WAIT_S < 50
    values = [progress for progress, _, _ in heard]
    assert len(values) > 3
    assert all(one < other for one, other in pairwise(values))
    assert {total for _, total, _ in heard} == {100.0}
    assert heard[-1][2] == "succeeded 100 %"


BAD: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("generate_video", {}, "invalid_input", "prompt", "empty"),
    ("generate_video", {"prompt": 5}, "invalid_input", "prompt", "expected"),
    ("generate_video", {"prompt": "x", "length": 5}, "invalid_input", "length", "duration_seconds"),
    ("generate_video", TINY | {"duration_seconds": "5"}, "invalid_input", "duration_seconds", "expected"),
    ("generate_video", TINY | {"duration_seconds": 99}, "invalid_input", "duration_seconds", "1 to 60"),
    ("generate_video", TINY | {"model": "lokal"}, "model_unknown", "model", "Did you mean 'local'?"),
    ("generate_video", TINY | {"model": "xai"}, "authentication_failed", "model", "XAI_API_KEY"),
    ("generate_video", TINY | {"idempotency_key": " "}, "invalid_input", "Idempotency-Key", "blank"),
    ("estimate_video_cost", TINY | {"fps": 7}, "invalid_input", "fps", "24"),
    ("estimate_video_cost", TINY | {"idempotency_key": "a"}, "invalid_input", "idempotency_key", "no field"),
    ("get_video_job", {}, "invalid_input", "job_id", "missing"),
    ("get_video_job", {"job_id": "job_none"}, "not_found", "", "job_none"),
    ("wait_for_video_job", {"job_id": "job_none"}, "not_found", "", "job_none"),
    ("wait_for_video_job", {"job_id": "job_none", "timeout_seconds": 50}, "invalid_input", "timeout_seconds", "45"),
    ("cancel_video_job", {"job_id": "job_none"}, "not_found", "", "job_none"),
    ("list_video_jobs", {"limit": 0}, "invalid_input", "limit", ">= 1"),
    ("list_video_jobs", {"phase": "asleep"}, "invalid_input", "phase", "parked"),
    ("list_video_models", {"provider": "acme"}, "invalid_input", "provider", "local"),
    ("list_video_models", {"operation": "dream"}, "invalid_input", "operation", "text-to-video"),
    ("list_video_models", {"model": "xai/none"}, "invalid_input", "model", "ask again"),
]


async def test_bad_input_is_told_in_words_and_costs_nothing(folder: Path) -> None:
    async with agent(folder) as client:
        for tool, arguments, code, field, told in BAD:
            problem = await refused(client, tool, **arguments)
            assert (problem["code"], problem.get("field", ""), problem["billed"]) == (code, field, "no"), problem
            assert told in problem["detail"], problem
        with pytest.raises(MCPError, match="no tool 'make_tea'"):
            await client.call_tool("make_tea", {})
        assert (await call(client, "list_video_jobs"))["jobs"] == []


async def test_a_process_that_is_killed_in_a_wait_loses_nothing(folder: Path) -> None:
    job = ""
    rendering = asyncio.Event()

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        if message and "%" in message:
            rendering.set()

    async with agent(folder) as first:
        job = (await call(first, "generate_video", **MIDDLE))["job_id"]
        wait = first.call_tool("wait_for_video_job", {"job_id": job}, progress_callback=listen)
        waiting = asyncio.create_task(wait)
        await rendering.wait()
        os.kill(owner(folder).pid, signal.SIGKILL)
        with pytest.raises(MCPError):
            await waiting
    async with agent(folder) as second:
        assert [one["job_id"] for one in (await call(second, "list_video_jobs"))["jobs"]] == [job]
        assert (await call(second, "wait_for_video_job", job_id=job))["status"] == "succeeded"
    assert [counted(folder, word) for word in ("job.requested", "submission.started", "job.succeeded")] == [1, 1, 1]


async def test_two_agents_share_a_folder_and_one_takes_over_from_the_other(folder: Path) -> None:
    async with agent(folder) as first:
        job = (await call(first, "generate_video", **MIDDLE))["job_id"]
        async with agent(folder) as second:
            assert (await call(second, "get_video_job", job_id=job))["job_id"] == job
            before = owner(folder)
            waiting = asyncio.create_task(call(second, "wait_for_video_job", job_id=job))
            await asyncio.to_thread(os.kill, before.pid, signal.SIGKILL)
            assert (await waiting)["status"] == "succeeded"
            assert owner(folder).pid != before.pid
    assert counted(folder, "submission.started") == 1


async def test_beside_a_server_the_tools_ask_it(folder: Path) -> None:
    async with serving(folder) as server, agent(folder) as client:
        done = await call(client, "generate_video", **TINY)
        assert owner(folder).url == server.url
        async with HttpClient(server.url) as http:
            assert (await http.show(done["job_id"])).prompt == "a lake"
        done = await call(client, "wait_for_video_job", job_id=done["job_id"])
        (video,) = done["videos"]
        assert Path(unquote(urlsplit(video["uri"]).path)).stat().st_size == video["size_bytes"]
        assert (await call(client, "estimate_video_cost", **TINY))["price"] == "free"
        problem = await refused(client, "generate_video", **TINY | {"duration_seconds": 99})
        assert (problem["field"], problem["billed"]) == ("duration_seconds", "no")


async def test_a_server_with_keys_wants_one_from_an_agent_too(folder: Path) -> None:
    key = await rushes("keys", "create", "agent", "--json", "--data", str(folder))
    async with serving(folder):
        async with agent(folder) as stranger:
            assert (await refused(stranger, "list_video_jobs"))["code"] == "unauthorised"
        async with agent(folder, RUSHES_TOKEN=json.loads(key)["secret"]) as client:
            assert (await call(client, "list_video_jobs"))["jobs"] == []


async def test_a_folder_that_cannot_be_had_is_told_by_each_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp, "PATIENCE_S", 0.2)
    lock = FolderLock.acquire(folder)
    async with Front(load_settings({"data": str(folder)}, {})) as front:
        await front.open()  # a server begins so, and lives
        jobs = tools_at(front.desk)["list_video_jobs"]
        for _ in range(2):
            problem = (await jobs.call())["error"]
            assert (problem["code"], problem["billed"]) == ("folder_in_use", "no")
            assert str(os.getpid()) in problem["detail"]
        lock.release()
        assert (await jobs.call())["jobs"] == []


HELLO: list[dict[str, Any]] = [
    {
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "none", "version": "0"}},
    },
    {"method": "notifications/initialized"},
    {"id": 2, "method": "tools/call", "params": {"name": "list_video_jobs", "arguments": {}}},
]
"""What a client without a library says, of an older protocol."""


async def test_a_signal_ends_it_cleanly(folder: Path) -> None:
    asked = program(folder)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(asked.command, *asked.args, env=asked.env, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(f"{json.dumps({'jsonrpc': '2.0', **message})}\n" for message in HELLO).encode())
    async with asyncio.timeout(PATIENCE_S):
        answers = [json.loads(await process.stdout.readline()) for _ in range(2)]
        assert [answer["id"] for answer in answers] == [1, 2]
        assert owner(folder).pid == process.pid
        process.terminate()
        assert await process.stdout.read() == b""  # stdout belongs to the protocol
        assert await process.wait() == 0
    assert holder(folder) is None


def test_an_agent_that_is_gone_in_the_middle_of_a_wait_is_no_error(folder: Path) -> None:
    asked, pipe = program(folder), subprocess.PIPE
    words = [asked.command, *asked.args]
    with subprocess.Popen(words, env=asked.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None

        def say(message: dict[str, Any]) -> None:
            assert process.stdin is not None
            process.stdin.write(f"{json.dumps({'jsonrpc': '2.0', **message})}\n")
            process.stdin.flush()

        for message in HELLO[:2]:
            say(message)
        process.stdout.readline()
        say({"id": 3, "method": "tools/call", "params": {"name": "generate_video", "arguments": MIDDLE}})
        job = json.loads(process.stdout.readline())["result"]["structuredContent"]["job_id"]
        wait = {"name": "wait_for_video_job", "arguments": {"job_id": job}, "_meta": {"progressToken": 1}}
        say({"id": 4, "method": "tools/call", "params": wait})
        assert json.loads(process.stdout.readline())["method"] == "notifications/progress"
        process.stdout.close()
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
        assert "rushes:" not in process.stderr.read()
    assert holder(folder) is None


async def test_without_its_extra_it_says_what_to_install(folder: Path) -> None:
    blocked = "import sys; sys.modules['mcp'] = None; from rushes.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["-c", blocked, "mcp", "--data", str(folder)]
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert (process.returncode, "rushes[mcp]" in said.decode()) == (2, True)


async def test_a_folder_to_send_from_must_be_one(folder: Path) -> None:
    words = ["-m", "rushes.cli", "mcp", "--data", str(folder), "--files", __file__]
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert (process.returncode, "--files" in said.decode()) == (2, True)


async def rushes(*words: str) -> str:
    """What another verb of the command says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rushes.cli", *words, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    return told.decode()


def owner(folder: Path) -> Holder:
    found = holder(folder)
    assert found is not None
    return found


def counted(folder: Path, event: str) -> int:
    with closing(sqlite3.connect(folder / "rushes.db")) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM events WHERE type = ?", (event,))
    return int(count)


class Stubborn(Front):
    """The protection that is missing: whom it asked once it asks for ever."""

    def _is_gone(self, desk: Desk) -> bool:
        del desk
        return False


@pytest.mark.parametrize(("kind", "goes_on"), [(Front, True), (Stubborn, False)])
async def test_where_the_owner_is_gone_the_next_call_makes_us_the_owner(
    folder: Path, kind: type[Front], goes_on: bool
) -> None:
    async with serving(folder) as server, kind(load_settings({"data": str(folder)}, {})) as front:
        jobs = tools_at(front.desk)["list_video_jobs"]
        assert (await jobs.call())["jobs"] == []
        await server.kill()
        told = await jobs.call()
        assert ("error" not in told) is goes_on
        assert goes_on or (told["error"]["code"], told["error"]["billed"]) == ("unavailable", "no")
