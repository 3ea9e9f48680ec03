"""Tokens on the wire: made once, made anew before they end, said to Google's own hosts alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from wire import Shelf, answer, serving

from rushes.adapters.base import Adapter, Failed, Keep, Request
from rushes.adapters.http import Http
from rushes.adapters.veo import Veo
from rushes.emulators.base import serve_twin
from rushes.emulators.google import VeoTwin
from rushes.main import base_urls_of, credentials_of, with_settings_of
from rushes.testing.wires import CLIP
from rushes.video import Target

FILE, TOKEN = "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_OAUTH_ACCESS_TOKEN"
LIST = Request(method="GET", url="@storage/storage/v1/b/mine/o", query={"prefix": "rushes/a/"})


class Clock:
    """Moved on by hand."""

    at = 1_800_000_000.0

    def now(self) -> float:
        return self.at


class Rig:
    """The real client before the twin, with a key of an account."""

    def __init__(self, http: Http, twin: VeoTwin, adapter: Adapter, clock: Clock, url: str) -> None:
        self.http, self.twin, self.adapter, self.clock, self.url, self.alias = http, twin, adapter, clock, url, FILE

    async def ask(self, request: Request = LIST) -> int:
        target = Target(provider="veo", model="veo-3.1-generate-001", credential=self.alias)
        return (await self.http.send(self.adapter, target, request)).status

    def tokens(self) -> int:
        """How many were made."""
        return sum(line.path == "/token" for line in self.twin.ledger.requests)


@asynccontextmanager
async def rig(
    folder: Path, environ: Mapping[str, str] | None = None, token_s: float = 3599.0, friend: str = ""
) -> AsyncIterator[Rig]:
    clock, twin = Clock(), VeoTwin(clip=CLIP, key="nobody's", token_s=token_s)
    server = await serve_twin(twin, now=clock.now)
    told = {"GOOGLE_VERTEX_BASE_URL": server.url, "STORAGE_EMULATOR_HOST": server.url, "GOOGLE_CLOUD_PROJECT": "p"}
    told |= twin.env(server.url, folder) if environ is None else environ
    adapters = with_settings_of({"veo": Veo()}, told)
    keys, base_urls = credentials_of(adapters, told), base_urls_of(adapters, told)
    base_urls |= {"friend": friend} if friend else {}  # another provider, whose address was set too
    try:
        async with Http(base_urls=base_urls, credentials=keys, read=lambda _: b"", inner={}, clock=clock) as http:
            yield Rig(http, twin, adapters["veo"], clock, server.url)
    finally:
        await server.close()


async def test_one_token_does_for_many_calls_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as veo:
        assert await asyncio.gather(*(veo.ask() for _ in range(5))) == [200] * 5
        assert veo.tokens() == 1


async def test_a_token_is_made_anew_before_it_ends_and_not_sooner(tmp_path: Path) -> None:
    async with rig(tmp_path) as veo:
        await veo.ask()
        veo.clock.at += 3599 - 61
        assert (await veo.ask(), veo.tokens()) == (200, 1)
        veo.clock.at += 2
        assert (await veo.ask(), veo.tokens()) == (200, 2)


async def test_a_token_that_is_refused_is_dropped(tmp_path: Path) -> None:
    """It was withdrawn before its time: the next call has another."""
    async with rig(tmp_path) as veo:
        await veo.ask()
        veo.twin._tokens.clear()
        assert [await veo.ask(), await veo.ask()] == [401, 200]
        assert veo.tokens() == 2


async def test_a_download_drops_it_too(tmp_path: Path) -> None:
    async with rig(tmp_path) as veo:
        await veo.ask()
        veo.twin._tokens.clear()
        ask = Keep(url="@storage/storage/v1/b/mine/o/a.mp4?alt=media", with_credential=True)
        with pytest.raises(Failed) as failed:
            await veo.http.keep(veo.adapter, Target(provider="veo", model="m", credential=FILE), ask, Shelf())
        assert failed.value.fault.code == "authentication_failed"
        assert (await veo.ask(), veo.tokens()) == (200, 2)


async def test_a_key_that_is_withdrawn_gives_no_token_and_nothing_is_sent(tmp_path: Path) -> None:
    async with rig(tmp_path) as veo:
        veo.twin.service_account(veo.url)  # another key: the old one is not known any more
        with pytest.raises(Failed) as failed:
            await veo.ask()
        assert (failed.value.fault.code, failed.value.certain) == ("authentication_failed", True)
        assert [line.path for line in veo.twin.ledger.requests] == ["/token"]


async def test_no_answer_about_a_token_leaves_nothing_in_doubt(tmp_path: Path) -> None:
    """The paid call itself was never made."""
    async with rig(tmp_path) as veo:
        veo.twin._routes = tuple(route for route in veo.twin._routes if "token" not in route.path)
        paid = Request(method="POST", url="/v1/x", body={}, spends=True)
        with pytest.raises(Failed) as failed:
            await veo.ask(paid)
        assert (failed.value.fault.retryable, failed.value.certain) == (True, True)


async def test_a_token_is_said_to_the_providers_own_hosts_alone(tmp_path: Path) -> None:
    async with serving(answer(b"{}")) as other, rig(tmp_path, friend=other.url) as veo:
        assert await veo.ask(LIST) == 200
        assert await veo.ask(Request(method="GET", url=f"{veo.url}/storage/v1/b/mine/o")) == 200
        assert await veo.ask(Request(method="GET", url=f"{other.url}/storage/v1/b/mine/o")) == 200
        assert "Authorization" not in other.heads[0]
    said = [line.headers.get("authorization") for line in veo.twin.ledger.requests]
    assert said == [None, "Bearer …", "Bearer …"]


async def test_a_ready_token_is_said_as_it_is(tmp_path: Path) -> None:
    async with rig(tmp_path, {TOKEN: "nobody's"}) as veo:
        veo.alias = TOKEN
        assert (await veo.ask(), veo.tokens()) == (200, 0)


async def test_a_file_that_cannot_be_read_is_no_key(tmp_path: Path) -> None:
    async with rig(tmp_path, {FILE: str(tmp_path / "gone.json")}) as veo:
        with pytest.raises(Failed, match="There is no key for veo"):
            await veo.ask()
        assert veo.twin.ledger.requests == []
