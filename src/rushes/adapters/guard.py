"""Addresses that nobody may reach through us: pictures' and results' URLs come from strangers.

A name can mean one address when it is checked and another when it is used, and an address has many spellings. So the
last word is spoken where neither is left: `Guard` makes the client's sockets, and sees the very address that each of
them will connect to. `check_url` comes before it and only says early, and in words, what cannot work.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias

from yarl import URL

AddrInfo: TypeAlias = "tuple[int, int, int, str, tuple[str | int, ...] | tuple[int, bytes]]"
HostPort: TypeAlias = tuple[str, int]

GLOBAL_V6: Final = ip_network("2000::/3")  # all that was ever given out; NAT64 and v4-compatible lie outside of it
TUNNELS_V6: Final = (ip_network("2001::/32"), ip_network("2002::/16"))  # Teredo and 6to4 end at any IPv4 address
DOCUMENTATION_V6: Final = ip_network("3fff::/20")  # not known to older ipaddress modules
NOBODYS_V4: Final = (
    ip_network("192.0.0.0/24"),  # protocols, and a cloud's metadata; older ipaddress modules know only parts of it
    ip_network("192.88.99.0/24"),  # relays
    ip_network("168.63.129.16/32"),  # what Azure's machines ask about themselves, though it looks public
)
NAME: Final = r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?"  # the resolver raises errors of its own for longer labels
HOST: Final = re.compile(rf"(?=.{{1,254}}$)(?:{NAME}|[0-9a-f:.]+(?:%[a-z0-9]+)?)")


class InsideAddress(PermissionError):
    """The address is not on the public internet, and no base URL names it."""


class BadUrl(ValueError):
    """The address cannot be used; the message says why without repeating it."""


def parsed(url: str) -> URL:
    """A URL whose quoting stays as it was signed; only what no request line may hold is quoted. Raises BadUrl."""
    try:
        found = URL(url, encoded=re.fullmatch(r"[!-~]+", url) is not None)
        host, _ = host_port(found)
    except (ValueError, UnicodeError) as error:
        raise BadUrl("The address is not a URL.") from error
    if not HOST.fullmatch(host):
        raise BadUrl("The address has no usable host.")
    return found


def host_port(url: URL) -> HostPort:
    """Where a URL leads, as the guard and explicit base URLs are compared: lower case, no brackets, default ports."""
    return (url.raw_host or "").lower(), url.port or 0


def check_url(url: str, *, explicit: frozenset[HostPort]) -> None:
    """Refuse what we never ask for: https to ports 443 and 80 alone, but for `explicit` hosts. Raises BadUrl."""
    where = parsed(url)
    if where.user is not None or where.password is not None:
        raise BadUrl("The address holds a user name or password: leave it out.")
    if where.scheme in ("http", "https") and host_port(where) in explicit:
        return
    if where.scheme != "https":
        raise BadUrl("The address must start with https://.")
    if where.port not in (443, 80):
        raise BadUrl("The address names a port other than 443 and 80.")


def is_public(address: str) -> bool:
    """Whether an IP address is somebody's on the public internet, rather than ours, our neighbours' or nobody's."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        return _is_public_v6(ip.ipv4_mapped or ip)
    return _is_public_v4(ip)


def _is_public_v4(ip: IPv4Address) -> bool:
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in NOBODYS_V4)


def _is_public_v6(ip: IPv6Address | IPv4Address) -> bool:
    if isinstance(ip, IPv4Address):
        return _is_public_v4(ip)
    tunnelled = any(ip in network for network in TUNNELS_V6)
    return ip.is_global and ip in GLOBAL_V6 and not tunnelled and ip not in DOCUMENTATION_V6


class Guard:
    """Makes sockets for `TCPConnector(socket_factory=…)`, and none for an address inside.

    `allowed` are the hosts and ports of base URLs that were set explicitly. They are looked up here, once: from then on
    exactly those addresses are admitted, whatever other name leads to them.
    """

    def __init__(self, allowed: frozenset[HostPort] = frozenset()) -> None:
        self._admitted = frozenset(_looked_up(allowed))

    def __call__(self, addr_info: AddrInfo) -> socket.socket:
        """A socket for this address. Raises InsideAddress, an OSError, so that the client tries the next one."""
        family, kind, protocol, _, (host, port, *_) = addr_info
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise InsideAddress("Only addresses of the internet are connected to.")
        if (_plain(str(host)), port) not in self._admitted and not is_public(str(host)):
            raise InsideAddress("The address is not on the public internet.")
        return socket.socket(family, kind, protocol)


def _plain(address: str) -> str:
    """One spelling for each address."""
    ip = ip_address(address)
    return str((ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip)


def _looked_up(allowed: Iterable[HostPort]) -> Iterable[HostPort]:
    for host, port in allowed:
        with contextlib.suppress(OSError):  # unknown here: it may be public all the same
            for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                yield _plain(str(where[0])), port
