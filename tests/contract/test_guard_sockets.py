"""The guard through the real client: every spelling of an inside address, and what becomes of a redirect."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import ClientSession, TCPConnector, web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from rushes.adapters.guard import Guard, InsideAddress, is_public

LITERALS = [  # all of them lead to this machine, or would on one of its networks
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "①②⑦.⓪.⓪.①",
    "１２７.０.０.１",
    "127。0。0。1",
    "localhost",
    "localhost.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
]
TUNNELS = ["[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[::]"]


class Inside:
    """A server on loopback that counts who reached it."""

    def __init__(self) -> None:
        self.port, self.reached, self.leads_to = 0, 0, ""

    async def answer(self, _: web.Request) -> web.Response:
        self.reached += 1
        return web.Response(status=302, headers={"Location": self.leads_to}) if self.leads_to else web.Response()


@asynccontextmanager
async def inside() -> AsyncIterator[Inside]:
    server, app = Inside(), web.Application()
    app.router.add_get("/", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


async def asked(connector: TCPConnector, url: str) -> Exception | None:
    async with ClientSession(connector=connector) as session:
        try:
            async with session.get(url):
                return None
        except (aiohttp.ClientError, ValueError) as error:
            return error


@pytest.mark.parametrize("host", LITERALS + TUNNELS)
async def test_no_spelling_of_an_inside_address_is_reached(host: str) -> None:
    async with inside() as server:
        error = await asked(TCPConnector(socket_factory=Guard(), use_dns_cache=False), f"http://{host}:{server.port}/")
    assert error is not None
    assert server.reached == 0


async def test_most_spellings_get_as_far_as_the_guard() -> None:
    """Else the test above would prove no more than that nobody understands them."""
    refused = 0
    async with inside() as server:
        for host in LITERALS:
            error = await asked(TCPConnector(socket_factory=Guard()), f"http://{host}:{server.port}/")
            refused += isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, InsideAddress)
    assert refused >= 10


class OutsideOnly(AbstractResolver):
    """A guard at the wrong place: it looks at what names resolve to."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await ThreadedResolver().resolve(host, port, family)
        if not all(is_public(where["host"]) for where in found):
            raise OSError("inside")
        return found

    async def close(self) -> None:
        """Nothing is held."""


async def test_a_resolver_as_the_only_guard_is_passed_by_literals() -> None:
    """The negative control: the same spellings, and a server that is reached."""
    async with inside() as server:
        assert await asked(TCPConnector(resolver=OutsideOnly()), f"http://localhost:{server.port}/") is not None
        assert server.reached == 0
        for host in ("127.0.0.1", "0.0.0.0", "①②⑦.⓪.⓪.①"):
            assert await asked(TCPConnector(resolver=OutsideOnly()), f"http://{host}:{server.port}/") is None
        assert server.reached == 3


async def test_an_admitted_server_cannot_redirect_inside() -> None:
    async with inside() as admitted, inside() as secret:
        admitted.leads_to = f"http://127.0.0.1:{secret.port}/"
        guard = Guard(frozenset({("127.0.0.1", admitted.port)}))
        error = await asked(TCPConnector(socket_factory=guard), f"http://127.0.0.1:{admitted.port}/")
    assert isinstance(error, aiohttp.ClientConnectorError)
    assert (admitted.reached, secret.reached) == (1, 0)


async def test_without_the_guard_the_redirect_is_followed() -> None:
    """The negative control."""
    async with inside() as admitted, inside() as secret:
        admitted.leads_to = f"http://127.0.0.1:{secret.port}/"
        assert await asked(TCPConnector(), f"http://127.0.0.1:{admitted.port}/") is None
    assert (admitted.reached, secret.reached) == (1, 1)


class Both(AbstractResolver):
    """A name with a public and a private address."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in ("10.0.0.1", "127.0.0.1")
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def test_a_name_is_tried_address_by_address() -> None:
    """One refused address does not decide for the others."""
    async with inside() as server:
        guard = Guard(frozenset({("127.0.0.1", server.port)}))
        connector = TCPConnector(resolver=Both(server.port), socket_factory=guard)
        assert await asked(connector, f"http://two-faced.example:{server.port}/") is None
    assert server.reached == 1
