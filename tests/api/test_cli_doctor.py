"""`rushes doctor` as people run it, with what often is wrong."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from server import free_port

from rushes.cli.checks import providers_online


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "rushes.cli", *words, "--data", str(folder)],
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1", "RUSHES_CONFIG": os.devnull} | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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
