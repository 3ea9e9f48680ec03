"""A server with keys, and who asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from msgspec import Struct

from rushes.api.app import Server, serve
from rushes.api.auth import SCOPES, Keys, Scope, create
from rushes.studio import Studio
from rushes.units import DEFAULT_TENANT

WRONG = "rk_" + "a" * 52


class Ring(Struct, frozen=True, kw_only=True):
    """The secrets of a data folder's keys: what each caller shows. The first five are of the default tenant."""

    owner: str  # may do all
    reader: str
    generator: str
    admin: str
    other: str  # may do all, as another tenant

    def shown_by(self) -> dict[str, str]:
        """Every kind of caller, with what it shows; nobody shows nothing."""
        callers = ("reader", "generator", "admin", "other")
        return {"nobody": "", "wrong": WRONG} | {name: getattr(self, name) for name in callers}


def ring(folder: Path) -> Ring:
    def key(name: str, scopes: tuple[Scope, ...], tenant: str = DEFAULT_TENANT) -> str:
        return create(folder, name, scopes, tenant)[1]

    return Ring(
        owner=key("owner", SCOPES),
        reader=key("reader", ("read",)),
        generator=key("generator", ("generate",)),
        admin=key("admin", ("admin",)),
        other=key("other", SCOPES, "acme"),
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@asynccontextmanager
async def guarded(studio: Studio, folder: Path) -> AsyncIterator[Server]:
    """A server over a studio that asks for the keys of a folder."""
    server = await serve(studio, "127.0.0.1:0", keys=Keys(folder))
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def calling(server: Server, token: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody who shows a token with every request."""
    async with aiohttp.ClientSession(base_url=server.url, headers=bearer(token)) as session:
        yield session
