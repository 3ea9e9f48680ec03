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

from rushes.adapters.guard import AddrInfo, Guard, InsideAddress, is_public

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


@pytest.mark.parametrize("resolver", [ThreadedResolver, OutsideOnly])
async def test_without_the_guard_or_with_one_in_the_resolver_the_redirect_is_followed(
    resolver: type[AbstractResolver],
) -> None:
    """The negative control."""
    async with inside() as admitted, inside() as secret:
        admitted.leads_to = f"http://127.0.0.1:{secret.port}/"
        assert await asked(TCPConnector(resolver=resolver()), f"http://127.0.0.1:{admitted.port}/") is None
    assert (admitted.reached, secret.reached) == (1, 1)


class Names(AbstractResolver):
    """Leads every name to these addresses: all of them at once, or one after the other."""

    def __init__(self, *places: tuple[str, int], in_turn: bool = False) -> None:
        self._places, self._in_turn = list(places), in_turn

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del port, family
        places = [self._places.pop(0)] if self._in_turn else self._places
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address, port in places
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Watched:
    """A guard, and what it made sockets for."""

    def __init__(self, guard: Guard) -> None:
        self.guard, self.made = guard, list[object]()

    def __call__(self, info: AddrInfo) -> socket.socket:
        made = self.guard(info)
        self.made.append(info[4])
        return made


METADATA = ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"]


@pytest.mark.parametrize("address", METADATA)
async def test_no_socket_is_made_for_where_clouds_keep_their_secrets(address: str) -> None:
    guard, host = Watched(Guard()), f"[{address}]" if ":" in address else address
    error = await asked(TCPConnector(socket_factory=guard), f"http://{host}/latest/meta-data/")
    assert isinstance(error, aiohttp.ClientConnectorError)
    assert isinstance(error.os_error, InsideAddress)
    assert guard.made == []


@pytest.mark.parametrize("name", ["127.0.0.1.nip.example", "metadata.google.internal", "localtest.example"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"])
async def test_no_socket_is_made_for_a_public_name_of_an_inside_address(name: str, address: str) -> None:
    guard = Watched(Guard())
    error = await asked(TCPConnector(resolver=Names((address, 80)), socket_factory=guard), f"http://{name}/")
    assert isinstance(error, aiohttp.ClientConnectorError)
    assert isinstance(error.os_error, InsideAddress)
    assert guard.made == []


async def test_of_a_name_with_a_public_and_a_private_address_the_private_one_is_never_tried() -> None:
    """One refused address does not decide for the others. The admitted server stands for a public one."""
    async with inside() as public, inside() as private:
        guard = Watched(Guard(frozenset({("127.0.0.1", public.port)})))
        for first, second in ((private, public), (public, private)):
            names = Names(("127.0.0.1", first.port), ("127.0.0.1", second.port))
            assert await asked(TCPConnector(resolver=names, socket_factory=guard), "http://two-faced.example/") is None
    assert (public.reached, private.reached) == (2, 0)
    assert guard.made == [("127.0.0.1", public.port)] * 2


async def test_without_the_guard_the_private_one_is_tried_first() -> None:
    """The negative control."""
    async with inside() as public, inside() as private:
        names = Names(("127.0.0.1", private.port), ("127.0.0.1", public.port))
        assert await asked(TCPConnector(resolver=names), "http://two-faced.example/") is None
    assert (public.reached, private.reached) == (0, 1)


async def checked_then_asked(names: Names, connector: TCPConnector) -> Exception | None:
    """A guard at the wrong time: what the name means is looked at, and then the name is used."""
    (where,) = await names.resolve("rebinding.example")
    assert is_public(where["host"])
    return await asked(connector, "http://rebinding.example/")


async def test_a_name_that_means_another_address_when_it_is_used_is_seen_for_what_it_is() -> None:
    async with inside() as server:
        names = Names(("93.184.216.34", 80), ("127.0.0.1", server.port), in_turn=True)
        error = await checked_then_asked(names, TCPConnector(resolver=names, socket_factory=Guard()))
    assert isinstance(error, aiohttp.ClientConnectorError)
    assert isinstance(error.os_error, InsideAddress)
    assert server.reached == 0


async def test_a_look_at_the_name_beforehand_is_passed_by_rebinding() -> None:
    """The negative control."""
    async with inside() as server:
        names = Names(("93.184.216.34", 80), ("127.0.0.1", server.port), in_turn=True)
        assert await checked_then_asked(names, TCPConnector(resolver=names)) is None
    assert server.reached == 1
