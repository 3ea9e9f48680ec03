"""`rushes doctor` as people run it, with what often is wrong."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from command import run
from server import free_port

from rushes.api.app import Server, serve
from rushes.cli import checks as parts
from rushes.cli.checks import callbacks_online, providers_online
from rushes.main import Settings, installed_adapters, open_studio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def checks(
    folder: Path, *words: str, usable: bool = True, environ: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    done = run(folder, "doctor", "--json", *words, **(environ or {}))
    assert done.returncode == (0 if usable else 7), done.stderr
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_what_is_wrong_in_the_environment_is_named_and_no_value_is_shown(folder: Path) -> None:
    wrong = {"XAI_API_KEY": "r8_very_secret", "KLINGAI_API_KEY": "", "RUNWAYML_BASE_URL": "very_secret.example"}
    found = checks(folder, usable=False, environ=wrong)
    assert [found[name]["state"] for name in wrong] == ["warning", "warning", "unusable"]
    assert "very_secret" not in json.dumps(found)
    assert "mcp extra" in found
    assert not folder.exists()  # it changes nothing


def test_a_log_of_a_newer_release_is_told_with_the_way_out(folder: Path) -> None:
    assert run(folder, "generate", "a lake", "--duration", "1", "--resolution", "180p").returncode == 0
    assert checks(folder)["history"]["state"] == "ok"
    with closing(sqlite3.connect(folder / "rushes.db")) as connection, connection:
        connection.execute("UPDATE store SET value = 99 WHERE key = 'layout'")
    found = checks(folder, usable=False)["history"]
    assert (found["state"], "use a newer one" in found["detail"]) == ("unusable", True)


def test_a_flight_record_that_cannot_be_read_and_one_that_was_put_aside_are_told(folder: Path) -> None:
    assert run(folder, "generate", "a lake", "--duration", "1", "--resolution", "180p").returncode == 0
    record = folder / "flight.db"
    assert (checks(folder)["flight record"]["state"], record.is_file()) == ("ok", True)
    record.write_bytes(b"no database at all" * 1_000)
    found = checks(folder)["flight record"]
    assert (found["state"], "cannot be read" in found["detail"]) == ("warning", True)
    record.rename(record.with_name("flight.db.aside"))
    sqlite3.connect(record).close()
    found = checks(folder)["flight record"]
    assert (found["state"], "flight.db.aside" in found["detail"]) == ("warning", True)


@asynccontextmanager
async def answering(ahead: timedelta) -> AsyncIterator[str]:
    """A provider whose clock is ahead of ours."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=401, headers={"Date": format_datetime(datetime.now(UTC) + ahead, usegmt=True)})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("ahead_s", "state", "says"),
    [(0, "ok", "agrees"), (600, "warning", "s behind 127.0.0.1"), (-600, "warning", "s ahead of 127.0.0.1")],
)
async def test_a_clock_that_is_wrong_is_seen_by_what_a_provider_says(ahead_s: int, state: str, says: str) -> None:
    async with answering(timedelta(seconds=ahead_s)) as url:
        (check,) = await providers_online([url])
    assert (check.name, check.state) == ("clock", state)
    assert says in check.detail


def test_providers_are_asked_only_where_that_is_wanted_and_they_have_a_key(folder: Path) -> None:
    away = {"REPLICATE_API_TOKEN": "r8_x", "REPLICATE_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    assert "clock" not in checks(folder, environ=away)
    assert "cannot be reached" in checks(folder, "--ask", environ=away)["clock"]["detail"]
    assert "no provider has a key" in checks(folder, "--ask")["clock"]["detail"]


# ── callbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PUBLIC = "video.example"
Answering = Callable[[web.Request, Server], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def proxy(folder: Path, answering: Answering, public_url: str = f"https://{PUBLIC}") -> AsyncIterator[str]:
    """The address of what stands before a real server without keys."""
    settings = Settings(data=str(folder), public_url=public_url)
    async with open_studio(settings=settings, environ={}, serving=True) as studio:
        server = await serve(studio, "127.0.0.1:0")

        async def answer(request: web.Request) -> web.StreamResponse:
            return await answering(request, server)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()
            await server.close()


async def forward(request: web.Request, server: Server, host: str) -> web.Response:
    async with (
        aiohttp.ClientSession() as session,
        session.request(request.method, f"{server.url}{request.path_qs}", headers={"Host": host}) as reply,
    ):
        return web.Response(status=reply.status, body=await reply.read())


async def good(request: web.Request, server: Server) -> web.StreamResponse:
    if not request.path.startswith("/v1/webhooks/"):
        return web.Response(status=404, text="not here")
    return await forward(request, server, PUBLIC)


async def open_wide(request: web.Request, server: Server) -> web.StreamResponse:
    return await forward(request, server, "127.0.0.1")


async def under_another_name(request: web.Request, server: Server) -> web.StreamResponse:
    return await forward(request, server, "backend")


async def under_another_path(request: web.Request, server: Server) -> web.StreamResponse:
    return await forward(request.clone(rel_url=f"/studio{request.path}"), server, "127.0.0.1")


async def another(_request: web.Request, _server: Server) -> web.StreamResponse:
    return web.json_response({"status": "ok", "detail": "welcome", "code": "forbidden"})


async def nobody_behind(_request: web.Request, _server: Server) -> web.StreamResponse:
    return web.Response(status=502, text="bad gateway")


async def elsewhere(request: web.Request, _server: Server) -> web.StreamResponse:
    return web.Response(status=308, headers={"Location": f"https://www.{PUBLIC}{request.path}"})


async def never(_request: web.Request, _server: Server) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("answering", "state", "says"),
    [
        (good, "ok", "rushes answers there"),
        (open_wide, "warning", "it lets anybody in"),
        (under_another_name, "warning", "takes nothing for a callback (403 invalid_input)"),
        (under_another_path, "warning", "takes nothing for a callback (404 not_found)"),
        (another, "warning", "not rushes that answers there (200)"),
        (nobody_behind, "warning", "not rushes that answers there (502)"),
        (elsewhere, "warning", "it leads elsewhere (308)"),
        (never, "warning", "cannot be reached (TimeoutError)"),
    ],
)
async def test_whether_callbacks_come_in_is_tried_at_the_public_address(
    folder: Path, answering: Answering, state: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ASK_S", 0.3 if answering is never else parts.ASK_S)
    async with proxy(folder, answering) as url:
        (check,) = await callbacks_online(url, installed_adapters(), "http://127.0.0.1:8484")
    assert (check.name, check.state) == ("callbacks", state)
    assert says in check.detail


async def test_a_server_that_was_started_without_the_address_is_seen(folder: Path) -> None:
    async with proxy(folder, good, public_url="") as url:
        (check,) = await callbacks_online(url, installed_adapters(), url)
    assert (check.state, "takes nothing for a callback" in check.detail) == ("warning", True)
    assert "with this public_url" in check.detail


async def test_plain_http_behind_an_https_address_is_seen(folder: Path) -> None:
    async with proxy(folder, good) as url:
        (check,) = await callbacks_online(url.replace("http:", "https:"), installed_adapters(), url)
    assert (check.state, "its TLS is not good" in check.detail) == ("warning", True)


async def test_nobody_is_asked_for_what_cannot_be_or_is_not_wanted() -> None:
    adapters, url = installed_adapters(), f"http://127.0.0.1:{free_port()}"
    assert await callbacks_online("", adapters, url) == []
    assert await callbacks_online("video.example", adapters, url) == []
    assert [check.state for check in await callbacks_online(url, adapters, "")] == ["ok"]
    (check,) = await callbacks_online(url, adapters, url)  # the control: nothing listens there
    assert "cannot be reached" in check.detail


def test_the_verb_says_what_is_wrong_about_callbacks(folder: Path) -> None:
    wrong = {"RUSHES_PUBLIC_URL": "http://video.example", "OPENROUTER_API_KEY": "sk-or-x"}
    found = checks(folder, usable=False, environ=wrong)
    assert (found["public_url"]["state"], found["OPENROUTER_WEBHOOK_SECRET"]["state"]) == ("unusable", "ok")
    found = checks(folder, "--ask", environ={"RUSHES_PUBLIC_URL": "https://video.example"})
    assert "no server runs" in found["callbacks"]["detail"]
