"""What is reachable, by address and by URL. Nothing here opens a connection."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from rushes.adapters.guard import BadUrl, Guard, InsideAddress, check_url, is_public

INSIDE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # where clouds keep their secrets
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "100.64.0.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:168.63.129.16",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "3fff::1",
    "100::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fec0::1",
    "fe80::1",
    "fe80::1%1",
    "ff02::1",
]
OUTSIDE = ["1.1.1.1", "93.184.216.34", "::ffff:1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:801::200e"]


@pytest.mark.parametrize("address", INSIDE)
def test_inside_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_what_the_standard_library_calls_global_is_not_enough() -> None:
    """The negative control: these it lets through."""
    alone = {address for address in INSIDE if ip_address(address).is_global}
    assert alone >= {"224.0.0.1", "168.63.129.16", "64:ff9b::7f00:1"}  # some releases let more through


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


def info(host: str, port: int) -> tuple[int, int, int, str, tuple[str | int, ...]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, 0, "", (host, port)


def test_the_guard_makes_no_socket_for_an_inside_address() -> None:
    with pytest.raises(InsideAddress):
        Guard()(info("127.0.0.1", 443))
    assert issubclass(InsideAddress, PermissionError)  # so that the client tries the next address


def test_the_guard_makes_sockets_for_the_internet() -> None:
    Guard()(info("1.1.1.1", 443)).close()
    Guard()(info("2606:4700:4700::1111", 443)).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_an_explicit_base_url_admits_its_own_address_and_port(host: str) -> None:
    guard = Guard(frozenset({(host, 8484)}))
    address = "127.0.0.1" if host == "localhost" else host
    guard(info(address, 8484)).close()
    with pytest.raises(InsideAddress):
        guard(info(address, 8485))
    with pytest.raises(InsideAddress):
        guard(info("127.0.0.2", 8484))


def test_an_admitted_address_is_admitted_in_its_mapped_spelling() -> None:
    Guard(frozenset({("127.0.0.1", 8484)}))(info("::ffff:127.0.0.1", 8484)).close()


def test_no_socket_but_of_the_internet_is_made() -> None:
    with pytest.raises(InsideAddress):
        Guard()((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/run/secret", 0)))


GOOD = [
    "https://replicate.delivery/a/b.mp4?sig=a%2Fb",
    "https://EXAMPLE.org:443/",
    "https://bücher.example/ä.png",
    "https://example.org:80/",
    "http://127.0.0.1:8484/x",
    "https://127.0.0.1:8484/x",
    "https://93.184.216.34/",
    "https://[2606:4700:4700::1111]/",
    "https://example.org./",
    f"https://{'a' * 63}.example/",
]
BAD = [
    "",
    "replicate.delivery/a",
    "http://example.org/",
    "ftp://example.org/",
    "file:///etc/passwd",
    "https://",
    "https:///path",
    "https://user@example.org/",
    "https://user:secret@example.org/",
    "https://example.org:22/",
    "https://example.org:99999/",
    "http://127.0.0.1:8485/x",
    "http://user@127.0.0.1:8484/x",
    "https://exa mple.org/",
    "https://exa<mple.org/",
    "https://[::1/",
    "https://example.org:0/",
    "https://example.org:-1/",
    "https://a..example/",
    "https://.example/",
    f"https://{'a' * 64}.example/",
    "https://a%2eb.example/",
    "https://127.0.0.1%2f@example.org/",
    "https://127.0.0.1\\@example.org/",
    "https:example.org",
    "//example.org/",
    "gopher://example.org/",
    "data:text/plain,a",
    "javascript:alert(1)",
    f"https://{'a' * 254}.example/",
]


@pytest.mark.parametrize("url", GOOD)
def test_urls_that_may_be_asked(url: str) -> None:
    check_url(url, explicit=frozenset({("127.0.0.1", 8484)}))


@pytest.mark.parametrize("url", BAD)
def test_urls_that_may_not(url: str) -> None:
    with pytest.raises(BadUrl) as refused:
        check_url(url, explicit=frozenset({("127.0.0.1", 8484)}))
    assert "secret" not in str(refused.value)
