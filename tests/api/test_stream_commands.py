"""Commands over the socket do what the routes of HTTP do, and fail as they do, word for word."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from acme import AcmeTwin, Wire, make
from keyring import bearer, guarded, ring
from talking import TINY, Frame, Reader, Serve, reading

from rushes.api import commands
from rushes.api.app import Server, serve
from rushes.api.auth import NEEDS
from rushes.api.stream import Limits
from rushes.eventstore.memory import MemoryStore
from rushes.studio import Studio
from rushes.video import VideoRequest

LONG = TINY | {"duration_seconds": 60, "fps": 30}
ROUTES = {
    "generate": "POST /v1/jobs",
    "show": "GET /v1/jobs/{id}",
    "poll": "POST /v1/jobs/{id}/poll",
    "cancel": "POST /v1/jobs/{id}/cancel",
    "collect": "POST /v1/jobs/{id}/collect",
    "submit_batch": "POST /v1/batches",
    "batch": "GET /v1/batches/{id}",
}


async def ask(reader: Reader, name: str, args: Frame, **more: object) -> Frame:
    """What a command is answered."""
    await reader.say(type="command", id="c", name=name, args=args, **more)
    while (frame := await reader.hear())["type"] not in {"result", "error"}:
        pass
    assert frame["id"] == "c"
    return frame


async def test_a_job_from_command_to_take(server: Server, studio: Studio) -> None:
    async with reading(server.url) as reader:
        begun = await ask(reader, "generate", TINY, idempotency_key="k")
        assert (begun["name"], begun["replayed"], begun["job"]["status"]) == ("generate", False, "queued")
        job = begun["job"]["id"]
        again = await ask(reader, "generate", TINY, idempotency_key="k")
        assert (again["replayed"], again["job"]["id"]) == (True, job)
        assert (await ask(reader, "poll", {"job": job}))["job"]["id"] == job
        await studio.job(job).result(timeout_s=20)
        assert (await ask(reader, "show", {"job": job}))["job"]["status"] == "succeeded"
        assert (await ask(reader, "cancel", {"job": job}))["job"]["status"] == "succeeded"
        assert (await ask(reader, "collect", {"job": job}))["job"]["status"] == "succeeded"


async def test_a_running_job_is_cancelled(server: Server, studio: Studio) -> None:
    async with reading(server.url) as reader:
        job = (await ask(reader, "generate", LONG))["job"]["id"]
        assert (await ask(reader, "cancel", {"job": job, "discard": True}))["job"]["id"] == job
        assert [view.status async for view in studio.updates(job)][-1] == "cancelled"


async def test_a_batch_from_command_to_its_jobs(server: Server, studio: Studio) -> None:
    requests = {"requests": [LONG, LONG | {"seed": 8}]}
    async with reading(server.url) as reader:
        begun = await ask(reader, "submit_batch", requests, idempotency_key="k")
        assert (begun["name"], begun["replayed"], begun["job"]) == ("submit_batch", False, None)
        batch = begun["batch"]
        assert [view.id for view in (await studio.jobs(batch=batch["id"], order="asc")).jobs] == batch["jobs"]
        again = await ask(reader, "submit_batch", requests, idempotency_key="k")
        assert (again["replayed"], again["batch"]["jobs"]) == (True, batch["jobs"])
        shown = await ask(reader, "batch", {"batch": batch["id"]})
        assert (shown["batch"]["jobs"], shown["job"]) == (batch["jobs"], None)
    for job in batch["jobs"]:
        await studio.job(job).cancel(discard=True)


@pytest.mark.parametrize(
    ("name", "args", "route"),
    [
        ("generate", {"prompt": ""}, ("POST", "/v1/jobs")),
        ("generate", {"prompt": "a", "sead": 1}, ("POST", "/v1/jobs")),
        ("generate", {"prompt": "a", "duration_seconds": 61, "fps": 999}, ("POST", "/v1/jobs")),
        ("generate", {"prompt": "a", "model": "nobody/nothing"}, ("POST", "/v1/jobs")),
        ("show", {"job": "job_nobody"}, ("GET", "/v1/jobs/job_nobody")),
        ("poll", {"job": "job_nobody"}, ("POST", "/v1/jobs/job_nobody/poll")),
        ("cancel", {"job": "job_nobody"}, ("POST", "/v1/jobs/job_nobody/cancel")),
        ("collect", {"job": "job_nobody"}, ("POST", "/v1/jobs/job_nobody/collect")),
        ("submit_batch", {"requests": [TINY, {"prompt": "a", "fps": 7}]}, ("POST", "/v1/batches")),
        ("submit_batch", {"requests": []}, ("POST", "/v1/batches")),
        ("batch", {"batch": "batch_nobody"}, ("GET", "/v1/batches/batch_nobody")),
    ],
)
async def test_an_error_is_the_problem_of_http(
    server: Server, web: aiohttp.ClientSession, name: str, args: Frame, route: tuple[str, str]
) -> None:
    async with reading(server.url) as reader:
        frame = await ask(reader, name, args)
    body = {key: value for key, value in args.items() if key != "job"}
    async with web.request(*route, json=body if route[0] == "POST" else None) as reply:
        problem = await reply.json(content_type="application/problem+json")
    same = {key: value for key, value in problem.items() if key not in {"type", "title", "status", "detail"}}
    assert frame == {"type": "error", "id": "c", "message": problem["detail"], **same}
    assert frame["billed"] == "no"


async def test_a_key_of_another_request_is_a_conflict_that_names_its_job(server: Server, studio: Studio) -> None:
    async with reading(server.url) as reader:
        job = (await ask(reader, "generate", LONG, idempotency_key="k"))["job"]["id"]
        error = await ask(reader, "generate", LONG | {"seed": 8}, idempotency_key="k")
        assert (error["code"], error["job_id"], error["idempotency_key"]) == ("conflict", job, "k")
    await studio.job(job).cancel(discard=True)


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ({"name": "generate", "args": TINY, "idempotency_key": " "}, "idempotency_key"),
        ({"name": "show", "args": {"job": "job_a"}, "idempotency_key": "k"}, "idempotency_key"),
        ({"name": "submit_batch", "args": {"requests": [TINY]}, "idempotency_key": ""}, "idempotency_key"),
        ({"name": "batch", "args": {"batch": "batch_a"}, "idempotency_key": "k"}, "idempotency_key"),
        ({"name": "batch", "args": {"job": "job_a"}}, "job"),
        ({"name": "delete", "args": {}}, "name"),
        ({"name": "show"}, "job"),
        ({"name": "show", "args": {"job": 7}}, "job"),
        ({"name": "cancel", "args": {"job": "job_a", "discrad": True}}, "discrad"),
        ({"name": "show", "args": {}, "wait": 1}, "wait"),
    ],
)
async def test_a_command_that_makes_no_sense_names_its_field(server: Server, frame: Frame, field: str) -> None:
    async with reading(server.url) as reader:
        await reader.say(type="command", id="c", **frame)
        error = await reader.hear("error")
        assert (error["id"], error["code"], error["field"]) == ("c", "invalid_input", field)


async def test_whoever_hangs_up_cancels_nothing(tmp_path: Path) -> None:
    """The answer of the provider comes after the socket has gone; the job is accepted all the same."""
    wire = Wire(AcmeTwin())
    wire.gate = asyncio.Event()
    system, studio = make(MemoryStore(), tmp_path, wire)
    server = await serve(studio, "127.0.0.1:0")
    async with reading(server.url) as reader:
        await reader.say(type="command", id="c", name="generate", args={"prompt": "a lake"}, idempotency_key="k")
        await wire.sending.wait()
    wire.gate.set()
    page = await studio.jobs()
    assert (await studio.job(page.jobs[0].id).result(timeout_s=20)).job.status == "succeeded"
    await server.close()
    await system.stop()


@pytest.mark.parametrize("most", [0, 1])
async def test_commands_of_a_socket_have_a_limit(serving: Serve, most: int) -> None:
    server = await serving(Limits(commands=most))
    async with reading(server.url) as reader:
        for _ in range(3):  # one after the other, so one at a time is enough
            error = await ask(reader, "show", {"job": "job_nobody"})
            expected = ("not_found", False) if most else ("rate_limited", True)
            assert (error["code"], error["retryable"], error["billed"]) == (*expected, "no")


class Odd:
    """A studio with a bug."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def __getattr__(self, name: str) -> object:
        if name in {"poll", "show"}:
            raise RuntimeError("odd")
        return getattr(self._studio, name)


async def test_a_bug_is_told_as_one_and_may_have_cost_money(studio: Studio) -> None:
    server = await serve(cast("Studio", Odd(studio)), "127.0.0.1:0")
    async with reading(server.url) as reader:
        for name, billed in (("poll", "unknown"), ("show", "no")):
            error = await ask(reader, name, {"job": "job_a"})
            assert (error["code"], error["billed"]) == ("internal_error", billed)
            assert "odd" not in error["message"]
    await server.close()


def test_a_command_needs_what_its_route_needs() -> None:
    assert {name: NEEDS[route] for name, route in ROUTES.items()} == commands.NEEDS


async def test_a_command_is_for_whoever_may_and_about_their_own_jobs(studio: Studio, tmp_path: Path) -> None:
    keys = ring(tmp_path / "data")
    job = (await studio.submit(VideoRequest(**LONG)))[0].id
    async with guarded(studio, tmp_path / "data") as server:

        async def answered(token: str, name: str, args: Frame) -> Frame:
            async with reading(server.url, hello=False) as reader:
                await reader.say(type="hello", token=token)
                await reader.hear("welcome")
                return await ask(reader, name, args)

        assert (await answered(keys.reader, "generate", TINY))["code"] == "forbidden"
        assert (await answered(keys.reader, "cancel", {"job": job}))["code"] == "forbidden"
        assert (await answered(keys.reader, "show", {"job": job}))["type"] == "result"
        assert (await answered(keys.generator, "show", {"job": job}))["code"] == "forbidden"
        for name in ("show", "poll", "cancel", "collect"):
            assert (await answered(keys.other, name, {"job": job}))["code"] == "not_found"
        theirs = (await answered(keys.other, "generate", LONG))["job"]["id"]
        headers = bearer(keys.owner)
        async with aiohttp.ClientSession(server.url, headers=headers) as web, web.get(f"/v1/jobs/{theirs}") as reply:
            assert reply.status == 404
        assert (await answered(keys.other, "cancel", {"job": theirs, "discard": True}))["type"] == "result"
    await studio.job(job).cancel(discard=True)
