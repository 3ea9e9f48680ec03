"""Every route × everybody who may ask: made from the server's own routes, so that a new one is missed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import aiohttp
import msgspec
import pytest
from aiohttp import web
from keyring import Ring, bearer, guarded, ring
from msgspec import Struct
from talking import TINY, Frame, reading, write_log

from rushes.api import app as api_app
from rushes.api.app import Server, build_app, serve
from rushes.api.auth import ANYBODY, NEEDS, WHO, Keys
from rushes.api.protocol import STATUS, CommandName
from rushes.api.rest import Rest, answer
from rushes.studio import Studio
from rushes.video import BatchedRequest

Needs = Literal["open", "read", "generate", "admin"]


class Row(Struct, frozen=True):
    """What a route needs, what it answers to those who may, and what another tenant hears of the same job."""

    needs: Needs
    mine: int
    other: int
    body: bytes = b""
    query: str = ""


class Mine(Struct, frozen=True):
    """Whose rows these are."""

    job: str
    batch: str

    def at(self, path: str) -> str:
        """A route's address for it."""
        return path.format(id=self.batch if "/batches/" in path else self.job, provider="replicate")


# The job has ended with a take. A body that is refused shows as well as a good one that its sender was let in.
ROWS: Final[Mapping[str, Row]] = {
    "GET /healthz": Row("open", 200, 200),
    "GET /readyz": Row("open", 200, 200),
    "GET /metrics": Row("admin", 200, 200),
    "GET /v1/ws": Row("open", 426, 426),  # what is said over it: test_auth
    "POST /v1/jobs": Row("generate", 400, 400, b'{"nonsense": 1}'),
    "GET /v1/jobs": Row("read", 200, 200),
    "GET /v1/jobs/{id}": Row("read", 200, 404),
    "POST /v1/jobs/{id}/cancel": Row("generate", 200, 404),
    "POST /v1/jobs/{id}/poll": Row("generate", 200, 404),
    "POST /v1/jobs/{id}/collect": Row("generate", 200, 404),
    "POST /v1/jobs/{id}/resubmit": Row("generate", 409, 404, b'{"accept_cost": true}'),
    "POST /v1/jobs/{id}/give-up": Row("generate", 409, 404),
    "POST /v1/jobs/{id}/retry": Row("generate", 202, 404),
    "POST /v1/videos": Row("generate", 400, 400, b'{"nonsense": 1}'),
    "GET /v1/videos": Row("read", 200, 200),
    "GET /v1/videos/{id}": Row("read", 200, 404),
    "DELETE /v1/videos/{id}": Row("generate", 400, 400, query="?x=1"),  # it would be gone for those who come after
    "GET /v1/videos/{id}/content": Row("read", 200, 404),
    "POST /v1/videos/{id}/remix": Row("generate", 400, 404, b'{"prompt": "at night"}'),
    "POST /video/generate": Row("generate", 400, 400, b'{"nonsense": 1}'),
    "POST /video/extend": Row("generate", 400, 400, b'{"nonsense": 1}'),
    "GET /api/v1/videos/providers": Row("read", 200, 200),
    "GET /v1/jobs/{id}/events": Row("read", 200, 404),
    "GET /v1/jobs/{id}/content": Row("read", 200, 404),
    "POST /v1/uploads": Row("generate", 400, 400),
    "GET /v1/jobs/{id}/stream": Row("read", 200, 404),
    "GET /v1/events": Row("read", 200, 200, query="?from=start"),
    "GET /v1/rushes.js": Row("open", 200, 200),
    "GET /asyncapi.json": Row("open", 200, 200),
    "GET /openapi.json": Row("open", 200, 200),
    "GET /docs": Row("open", 200, 200),
    "POST /v1/webhooks/{provider}": Row("open", 404, 404),  # here no provider is told of it
    "POST /v1/batches": Row("generate", 400, 400, b'{"requests": []}'),
    "GET /v1/batches/{id}": Row("read", 200, 404),
    "POST /v1/estimates": Row("generate", 200, 200, b'{"prompt": "a lake"}'),
    "GET /v1/models": Row("read", 200, 200),
    "GET /v1/providers": Row("read", 200, 200),
}
SCOPE_OF: Final = {"reader": "read", "generator": "generate", "admin": "admin"}


def routes_of(app: web.Application) -> list[str]:
    """Every route; HEAD comes with GET."""
    found = [(route.method, route.resource) for route in app.router.routes()]
    return [f"{method} {resource.canonical}" for method, resource in found if resource and method != "HEAD"]


def without_row(app: web.Application) -> list[str]:
    """What is served and stands in one table only, or in none."""
    return sorted({*routes_of(app)} ^ {*ROWS} | {*routes_of(app)} ^ {*NEEDS})


def expected(row: Row, caller: str) -> int:
    if row.needs == "open":
        return row.mine
    if caller in {"nobody", "wrong"}:
        return 401
    if caller == "other":
        return row.other
    return row.mine if SCOPE_OF[caller] == row.needs else 403


async def heard_in(reply: aiohttp.ClientResponse) -> bytes:
    """The body; of a stream that does not end, what there is up to now."""
    if reply.content_type != "text/event-stream":
        return await reply.read()
    heard = b""
    while b"caught_up" not in heard and not reply.content.at_eof():
        heard += await reply.content.readany()
    return heard


async def wrong_cells(server: Server, keys: Ring, mine: Mine) -> list[str]:
    """Every cell of the matrix that is not as it should be."""
    wrong: list[str] = []
    async with aiohttp.ClientSession(base_url=server.url) as session:
        for route, row in ROWS.items():
            method, _, path = route.partition(" ")
            for caller, token in keys.shown_by().items():
                for verb in {method, "HEAD"} if method == "GET" else {method}:
                    url = mine.at(path) + row.query
                    async with session.request(verb, url, data=row.body or None, headers=bearer(token)) as reply:
                        heard, wanted = await heard_in(reply), expected(row, caller)
                    if reply.status != wanted:
                        wrong.append(f"{caller}: {verb} {path} is {reply.status}, not {wanted}")
                    elif caller == "other" and reply.status < 400 and mine.job.encode() in heard:
                        wrong.append(f"{caller}: {verb} {path} tells of a job of somebody else")
                    elif row.needs != "open" and (reply.status in {401, 403}) != ("WWW-Authenticate" in reply.headers):
                        wrong.append(f"{caller}: {verb} {path} does not say how to be let in")
    return wrong


@pytest.fixture
async def mine(studio: Studio) -> Mine:
    """A job of the default tenant that has ended with a take, and its batch."""
    batch, _ = await studio.submit_batch([BatchedRequest(**TINY)])
    (job,) = batch.jobs
    await studio.job(job).result(timeout_s=20)
    return Mine(job, batch.id)


@pytest.fixture
def keys(tmp_path: Path) -> Ring:
    return ring(tmp_path / "data")


async def test_every_route_lets_in_whom_it_should_and_nobody_else(
    studio: Studio, tmp_path: Path, keys: Ring, mine: Mine
) -> None:
    assert without_row(build_app(studio)) == []
    async with guarded(studio, tmp_path / "data") as server:
        assert await wrong_cells(server, keys, mine) == []


async def test_every_command_over_the_socket_lets_in_whom_its_route_does(
    studio: Studio, tmp_path: Path, keys: Ring, mine: Mine
) -> None:
    routes = {
        "generate": "POST /v1/jobs",
        "show": "GET /v1/jobs/{id}",
        "submit_batch": "POST /v1/batches",
        "batch": "GET /v1/batches/{id}",
    }
    args: dict[str, Frame] = {"generate": {"nonsense": 1}, "submit_batch": {}, "batch": {"batch": mine.batch}}
    async with guarded(studio, tmp_path / "data") as server:
        for caller, token in keys.shown_by().items():
            async with reading(server.url, hello=False) as reader:
                await reader.say(type="hello", token=token)
                if caller in {"nobody", "wrong"}:
                    assert await reader.closed() == 4401
                    continue
                await reader.hear("welcome")
                for name in get_args(CommandName):
                    row = ROWS[routes.get(name, f"POST /v1/jobs/{{id}}/{name}")]
                    await reader.say(type="command", id=name, name=name, args=args.get(name, {"job": mine.job}))
                    answered = await reader.hear()
                    status = STATUS[answered["code"]] if answered["type"] == "error" else 200
                    assert status == expected(row, caller), (caller, name)


async def test_a_route_that_asks_nobody_is_seen(
    studio: Studio, tmp_path: Path, keys: Ring, mine: Mine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def let_in(request: web.Request, _: Keys) -> None:
        request[WHO] = ANYBODY

    monkeypatch.setattr(api_app, "admit", let_in)
    async with guarded(studio, tmp_path / "data") as server:
        wrong = await wrong_cells(server, keys, mine)
    assert "nobody: GET /v1/jobs/{id} is 200, not 401" in wrong
    assert len(wrong) > len(ROWS)


async def test_a_route_that_forgets_whose_the_job_is_is_seen(
    studio: Studio, tmp_path: Path, keys: Ring, mine: Mine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(Rest):
        async def show(self, request: web.Request) -> web.StreamResponse:
            return answer(await studio.show(request.match_info["id"]))

    monkeypatch.setattr(api_app, "Rest", Forgetful)
    async with guarded(studio, tmp_path / "data") as server:
        wrong = await wrong_cells(server, keys, mine)
    assert {line.replace(" HEAD ", " GET ") for line in wrong} == {"other: GET /v1/jobs/{id} is 200, not 404"}


async def test_a_route_without_a_row_is_seen_and_let_alone_to_admins(
    studio: Studio, tmp_path: Path, keys: Ring
) -> None:
    async def secret(_: web.Request) -> web.StreamResponse:
        return web.Response(text="secret")

    app = build_app(studio, keys=Keys(tmp_path / "data"))
    app.router.add_get("/v1/new", secret)
    assert {*without_row(app)} - {*without_row(build_app(studio))} == {"GET /v1/new"}
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    statuses = {}
    async with aiohttp.ClientSession(base_url=f"http://{host}:{port}") as session:
        for caller, token in keys.shown_by().items():
            async with session.get("/v1/new", headers=bearer(token)) as reply:
                statuses[caller] = reply.status
    await runner.cleanup()
    assert statuses == {"nobody": 401, "wrong": 401, "reader": 403, "generator": 403, "admin": 200, "other": 200}


async def test_without_keys_every_route_lets_everybody_in_and_ignores_what_they_show(
    studio: Studio, tmp_path: Path, mine: Mine
) -> None:
    server = await serve(studio, "127.0.0.1:0", keys=Keys(tmp_path / "data"))
    async with aiohttp.ClientSession(base_url=server.url) as session:
        for route, row in ROWS.items():
            method, _, path = route.partition(" ")
            for headers in ({}, bearer("rk_" + "b" * 52), {"Authorization": "Basic eDp5"}):
                url = mine.at(path) + row.query
                async with session.request(method, url, data=row.body or None, headers=headers) as reply:
                    assert reply.status == row.mine, (route, headers)
    await server.close()


async def test_another_tenants_job_is_answered_as_one_that_is_not_there(
    studio: Studio, tmp_path: Path, keys: Ring, mine: Mine
) -> None:
    absent, damaged = Mine("job_" + "0" * 32, "batch_0"), Mine("job_damaged", "batch_1")
    await write_log(studio, damaged.job, 1)  # nobody can replay it: also that is not told
    async with (
        guarded(studio, tmp_path / "data") as server,
        aiohttp.ClientSession(base_url=server.url, headers=bearer(keys.other)) as session,
    ):
        for route, row in ROWS.items():
            method, _, path = route.partition(" ")
            if "{id}" not in path:
                continue
            told = []
            for asked in (absent, mine, damaged):
                async with session.request(method, asked.at(path), data=row.body or None) as reply:
                    text = (await reply.text()).replace(asked.job, "").replace(asked.batch, "")
                    told.append((reply.status, text))
            assert told[0] == told[1] == told[2], route
    problem = msgspec.json.decode(told[0][1])
    assert (problem["code"], problem["billed"]) == ("not_found", "no")
