"""The client against servers on loopback that misbehave: what it says, what it sends twice, whom it asks."""

from __future__ import annotations

import asyncio
import gzip
import traceback
import zlib
from pathlib import Path

import aiohttp
import pytest
from wire import (
    CLIP,
    KEY,
    PAID,
    READ,
    REPLICATE,
    TARGET,
    Script,
    Shelf,
    Still,
    answer,
    client,
    fetched,
    raw,
    redirect,
    serving,
    silence,
    talking,
    trickle,
)

from rushes.adapters.base import Failed, Inline, Keep, Request, Response
from rushes.adapters.http import Http, Limits
from rushes.adapters.local import Local
from rushes.faults import BadRequest
from rushes.units import AssetRef
from rushes.video import Target


async def failing(http: Http, request: Request) -> Failed:
    with pytest.raises(Failed) as failed:
        await http.send(REPLICATE, TARGET, request)
    for secret in (KEY, "private", "127.0.0.1", "predictions"):
        assert secret not in failed.value.fault.detail
    return failed.value


# ── One exchange ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_goes_out_as_it_was_written_and_its_answer_comes_back() -> None:
    async with talking(answer(b'{"ok":1}', "X-One: 1")) as (http, server, _):
        request = Request(method="POST", url="/predictions", body={"a": 1}, headers={"X-Mine": "m"}, query={"q": "a b"})
        reply = await http.send(REPLICATE, TARGET, request)
    assert reply == Response(status=200, body=b'{"ok":1}', headers={"content-length": "8", "x-one": "1"})
    head = server.heads[0]
    assert head.startswith("POST /v1/predictions?q=a+b HTTP/1.1\r\n")  # the path of the provider's own base URL
    assert f"Authorization: Bearer {KEY}\r\n" in head
    assert "Content-Type: application/json\r\n" in head
    assert "X-Mine: m\r\n" in head
    assert "User-Agent: rushes/" in head
    assert "Cookie" not in head
    assert server.bodies == [b'{"a":1}']


async def test_what_has_no_body_says_nothing_of_its_type() -> None:
    async with talking(answer(b"{}")) as (http, server, _):
        await http.send(REPLICATE, TARGET, Request(method="POST", url="/predictions/a/cancel"))
    assert "content-type" not in server.heads[0].lower()


@pytest.mark.parametrize("spends", [True, False])
async def test_a_body_of_megabytes_goes_out_whole_and_without_a_warning(spends: bool) -> None:
    long = Request(method="POST", url="/predictions", body={"picture": "x" * 3_000_000}, spends=spends, timeout_s=5.0)
    async with talking(answer(b"{}")) as (http, server, _):
        await http.send(REPLICATE, TARGET, long)
    assert len(server.bodies[0]) > 3_000_000
    assert "content-length:" in server.heads[0].lower()


async def test_cookies_are_not_kept() -> None:
    async with talking(answer(b"{}", "Set-Cookie: a=b; Path=/")) as (http, server, _):
        await http.send(REPLICATE, TARGET, READ)
        await http.send(REPLICATE, TARGET, READ)
    assert not any("cookie" in head.lower() for head in server.heads)


ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose proxies do not answer."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "http://127.0.0.1:1")


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch)
    async with talking(answer(b"{}")) as (http, server, _):
        assert (await http.send(REPLICATE, TARGET, READ)).status == 200
        assert (await http.send(REPLICATE, TARGET, PAID)).status == 200
        await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a"), Shelf())
        await fetched(http, f"{server.url}/a", 100)
    assert len(server.heads) == 4


async def test_a_client_that_trusts_the_environment_goes_to_its_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    nowhere(monkeypatch)
    async with serving(answer(b"{}")) as server, aiohttp.ClientSession(trust_env=True) as session:
        with pytest.raises(aiohttp.ClientProxyConnectionError):
            await session.get(server.url)
    assert server.connections == 0


async def test_passwords_of_a_netrc_file_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("default login me password mine\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with talking(answer(b"{}")) as (http, server, _):
        await fetched(http, f"{server.url}/a", 100)
        async with aiohttp.ClientSession(trust_env=True) as session, session.get(server.url):
            pass  # the negative control
    assert ["Authorization: Basic" in head for head in server.heads] == [False, True]


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_a_base_url_may_be_an_origin_or_have_its_path(path: str) -> None:
    async with serving(answer(b"{}")) as server, client(server.url + path) as http:
        await http.send(REPLICATE, TARGET, READ)
    assert server.heads[0].startswith("GET /v1/predictions/a ")


@pytest.mark.parametrize("url", ["127.0.0.1:80", "file:///etc/passwd", "local://lab", "https://"])
async def test_a_base_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        client(url)
    assert refused.value.field == "replicate"


async def test_without_its_key_nothing_is_sent() -> None:
    async with talking(answer(b"{}")) as (http, server, _):
        with pytest.raises(Failed, match="REPLICATE_API_TOKEN") as failed:
            await http.send(REPLICATE, Target(provider="replicate", model="m", credential="OTHER"), PAID)
    assert failed.value.certain
    assert failed.value.fault.code == "authentication_failed"
    assert server.connections == 0


@pytest.mark.parametrize("key", ["r8_a\nX-Evil: yes", "r8_a\r\nb", "r8_\x00", "r8_…", "r8_\tb"])
async def test_a_key_that_no_header_may_hold_is_refused_before_anything_is_sent(key: str) -> None:
    async with serving(answer(b"{}")) as server, client(server.url, key=key) as http:
        with pytest.raises(Failed, match="REPLICATE_API_TOKEN") as failed:
            await http.send(REPLICATE, TARGET, PAID)
    assert (failed.value.certain, failed.value.fault.code) == (True, "authentication_failed")
    assert server.connections == 0
    assert "r8_" not in failed.value.fault.detail


async def test_the_key_goes_to_no_other_host() -> None:
    async with talking(answer(b"{}"), answer(b"{}")) as (http, own, other):
        await http.send(REPLICATE, TARGET, Request(method="GET", url=f"{other.url}/upload"))
        await http.send(REPLICATE, TARGET, Request(method="GET", url=f"{own.url}/v1/files"))
    assert "Authorization" not in other.heads[0]
    assert "Authorization" in own.heads[0]


async def test_an_input_that_cannot_be_read_is_our_own_certain_trouble() -> None:
    def gone(_: AssetRef) -> bytes:
        raise FileNotFoundError

    ref = AssetRef("inputs/p", "0" * 64, 5, "image/png")
    async with serving(answer(b"{}")) as server:
        keys = {"REPLICATE_API_TOKEN": KEY}
        async with Http(
            base_urls={"replicate": server.url}, credentials=keys, read=gone, inner={}, clock=Still()
        ) as http:
            failed = await failing(http, Request(method="POST", url="/a", body={"image": Inline(ref)}, spends=True))
    assert (failed.certain, failed.fault.code, server.connections) == (True, "storage_failed", 0)


# ── Money: what is certain, and what is sent twice ────────────────────────────────────────────────────────────────────


async def test_a_refused_connection_was_certainly_not_sent() -> None:
    async with serving(silence) as server:
        url = server.url
    async with client(url) as http:
        failed = await failing(http, PAID)
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (True, "not_sent", True)


async def test_a_broken_handshake_was_certainly_not_sent() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no TLS here")
        writer.close()

    listener = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with client(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}") as http:
        failed = await failing(http, PAID)
    listener.close()
    assert (failed.certain, failed.fault.code) == (True, "not_sent")


async def test_no_inside_address_is_reached_without_an_explicit_base_url() -> None:
    async with serving(answer(b"{}")) as server, client("https://192.0.2.1") as http:
        for url in (server.url, server.url.replace("http:", "https:"), "https://127.0.0.1/", "https://[::1]/"):
            failed = await failing(http, Request(method="GET", url=f"{url}/a", timeout_s=5.0))
            assert (failed.certain, failed.fault.code) == (True, "not_sent")
    assert server.connections == 0


async def test_a_host_without_an_address_was_certainly_not_asked() -> None:
    async with client("https://nowhere.invalid") as http:  # RFC 6761: nobody has it
        failed = await failing(http, PAID)
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (True, "not_sent", True)


WHOLE = b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"id":"a1b2"}'


@pytest.mark.parametrize("ending", ["closed", "reset"])
async def test_half_an_answer_is_never_read_as_a_whole_one_wherever_it_is_cut(ending: str) -> None:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE[:cut])
        await writer.drain()
        writer.close() if ending == "closed" else writer.transport.abort()

    async with talking(script) as (http, server, _):
        for cut in range(len(WHOLE)):  # noqa: B007 - the script reads it
            failed = await failing(http, PAID)
            assert (failed.certain, failed.fault.code) == (False, "no_answer")
        assert len(server.heads) == len(WHOLE)  # each was sent once
        cut = len(WHOLE)
        if ending == "closed":  # the negative control
            assert (await http.send(REPLICATE, TARGET, PAID)).body == b'{"id":"a1b2"}'


LOST: dict[str, Script] = {
    "closed without a word": raw(b""),
    "half a head": raw(b"HTTP/1.1 201 Crea"),
    "not HTTP": raw(b"220 mail.example ESMTP\r\n\r\n"),
    "half a body": raw(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"),
    "a broken chunk": raw(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "not the gzip it says": raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
}


@pytest.mark.parametrize("script", LOST.values(), ids=LOST.keys())
async def test_once_bytes_went_out_nothing_is_certain_and_nothing_is_sent_again(script: Script) -> None:
    async with talking(script) as (http, server, _):
        failed = await failing(http, PAID)
    assert (failed.certain, failed.fault.code, failed.fault.retryable) == (False, "no_answer", True)
    assert (len(server.heads), server.connections) == (1, 1)


async def test_an_answer_that_does_not_come_in_time_is_in_doubt() -> None:
    async with talking(silence) as (http, server, _):
        failed = await failing(http, Request(method="POST", url="/a", spends=True, timeout_s=0.1))
    assert (failed.certain, failed.fault.code, len(server.heads)) == (False, "no_answer", 1)


def closes_the_second_time() -> Script:
    """A kept connection that turns out to be dead when it is used again."""
    good, times = answer(b"{}"), 0

    async def script(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal times
        times += 1
        if times == 2:
            writer.close()
        else:
            await good(head, writer)

    return script


async def test_a_paid_call_is_never_on_a_connection_that_was_kept() -> None:
    """The peer may be closing that one at this moment: the call would be in doubt for nothing."""
    async with talking(answer(b"{}")) as (http, server, _):
        for request in (READ, READ, PAID, PAID):
            await http.send(REPLICATE, TARGET, request)
    assert server.connections == 3


async def test_a_paid_call_is_not_sent_again_where_a_connection_dies() -> None:
    async with talking(closes_the_second_time()) as (http, server, _):
        assert (await http.send(REPLICATE, TARGET, PAID)).status == 200
        assert not (await failing(http, PAID)).certain
    assert len(server.heads) == 2


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_anything_but_a_post_aiohttp_would_send_again(method: str) -> None:
    """The negative control: two requests, three sent. So a paid one of these is refused before it goes out."""
    request = Request(method=method, url="/a", timeout_s=5.0)
    async with talking(closes_the_second_time()) as (http, server, _):
        for _ in range(2):
            assert (await http.send(REPLICATE, TARGET, request)).status == 200
        assert len(server.heads) == 3
        with pytest.raises(ValueError, match="must be a POST"):
            await http.send(REPLICATE, TARGET, Request(method=method, url="/a", spends=True))
    assert len(server.heads) == 3


# ── Redirects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_redirect_of_a_paid_call_is_its_answer() -> None:
    async with talking(redirect("/elsewhere")) as (http, server, _):
        assert (await http.send(REPLICATE, TARGET, PAID)).status == 302
    assert len(server.heads) == 1


async def test_a_read_follows_a_redirect_without_its_key() -> None:
    async with talking(silence, answer(b"there")) as (http, server, there):
        server.script = redirect(f"{there.url}/x?sig=a%2Fb")
        request = Request(method="GET", url="/a", headers={"X-Token": "t"})
        assert (await http.send(REPLICATE, TARGET, request)).body == b"there"
    assert there.heads[0].startswith("GET /x?sig=a%2Fb ")
    assert "Authorization" not in there.heads[0]
    assert "X-Token" not in there.heads[0]


async def test_a_read_keeps_its_key_where_the_redirect_stays() -> None:
    async def script(head: bytes, writer: asyncio.StreamWriter) -> None:
        await (answer(b"there") if b"/b " in head else redirect("b"))(head, writer)

    async with talking(script) as (http, server, _):
        assert (await http.send(REPLICATE, TARGET, READ)).body == b"there"
    assert all(f"Bearer {KEY}" in head for head in server.heads)


INSIDE = [
    "http://127.0.0.1:9/",
    "https://127.0.0.1/",
    "https://[::1]/",
    "//127.0.0.1/",
    "https://localhost./",
    "https://①②⑦.⓪.⓪.①/",
    "https://0x7f000001/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/",
    "file:///etc/passwd",
    "ftp://example.org/",
    "data:text/plain,abc",
    "https://example.org:22/",
    "http://example.org/",
    "https://user:pw@example.org/",
    "https://a..example/",
    f"https://{'a' * 64}.example/",
    "https://[::1/",
    "https://",
]


@pytest.mark.parametrize("url", INSIDE)
async def test_a_redirect_inside_or_to_what_we_never_ask_is_not_followed(url: str) -> None:
    async with talking(redirect(url)) as (http, server, _):
        failed = await failing(http, READ)
        assert failed.fault.code in ("not_sent", "bad_answer")
        with pytest.raises(Failed):
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a"), Shelf())
        with pytest.raises(Failed):
            await fetched(http, f"{server.url}/a", 100)
    assert len(server.heads) == 3


async def test_redirects_end_after_three() -> None:
    async with talking(redirect("/again")) as (http, server, _):
        assert (await failing(http, READ)).fault.code == "bad_answer"
        assert len(server.heads) == 4
        with pytest.raises(Failed, match="too often"):
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a"), Shelf())
    assert len(server.heads) == 8


async def test_the_key_comes_back_neither_with_the_way_home_nor_stays_on_the_way_out() -> None:
    """Out to another host, and home again: each hop is judged by where it leads."""
    async with talking(silence, silence) as (http, home, other):

        async def at_home(head: bytes, writer: asyncio.StreamWriter) -> None:
            await (answer(b"home") if b"GET /back " in head else redirect(f"{other.url}/x"))(head, writer)

        home.script, other.script = at_home, redirect(f"{home.url}/back")
        assert (await http.send(REPLICATE, TARGET, READ)).body == b"home"
    assert ["Authorization" in head for head in home.heads] == [True, True]
    assert "Authorization" not in other.heads[0]


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = Limits(answer_bytes=100_000)


async def test_an_answer_has_a_limit() -> None:
    async with talking(answer(b"x" * 100_001), limits=SMALL) as (http, _, _other):
        failed = await failing(http, PAID)
    assert (failed.certain, failed.fault.code) == (False, "bad_answer")


async def test_a_small_answer_that_unpacks_to_a_large_one_meets_the_same_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 60_000
    async with talking(answer(bomb, "Content-Encoding: gzip"), limits=SMALL) as (http, _, _other):
        assert (await failing(http, READ)).fault.code == "bad_answer"


async def endless(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(bytes(65_536))
        await writer.drain()


async def test_an_endless_answer_ends_at_the_limit() -> None:
    async with talking(endless, limits=SMALL) as (http, server, _):
        assert (await failing(http, READ)).fault.code == "bad_answer"
        with pytest.raises(Failed, match="100000 bytes"):
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a", max_bytes=100_000), Shelf())
        with pytest.raises(Failed, match="100000 bytes"):
            await fetched(http, f"{server.url}/a", 100_000)


async def test_a_callers_file_that_trickles_is_given_up() -> None:
    async with talking(trickle, limits=Limits(grace_s=0.1)) as (http, server, _):
        with pytest.raises(Failed, match="too slowly"):
            await fetched(http, f"{server.url}/a", 100_000)


async def test_an_endless_head_ends_too() -> None:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not writer.is_closing():
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with talking(script) as (http, _, _other):
        failed = await failing(http, PAID)
    assert (failed.certain, failed.fault.code) == (False, "no_answer")


LIES: dict[str, bytes] = {
    "longer than it is": b"Content-Length: 100",
    "negative": b"Content-Length: -1",
    "no number": b"Content-Length: many",
    "two of them": b"Content-Length: 2\r\nContent-Length: 3",
    "beside chunks": b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    "huge": b"Content-Length: 99999999999999999999999",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_an_answer_that_lies_about_its_length_is_no_answer(lie: bytes) -> None:
    async with talking(raw(b"HTTP/1.1 200 OK\r\n" + lie + b"\r\n\r\n{}")) as (http, server, _):
        assert not (await failing(http, PAID)).certain
        with pytest.raises(Failed):
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a"), shelf := Shelf())
    assert shelf.content in (b"", b"{}")


async def test_what_comes_beyond_the_announced_length_belongs_to_nothing() -> None:
    async with talking(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\nevil")) as (
        http,
        _,
        _o,
    ):
        assert (await http.send(REPLICATE, TARGET, READ)).body == b"{}"
        assert (await http.send(REPLICATE, TARGET, READ)).body == b"{}"


@pytest.mark.parametrize(
    ("packed", "name"), [(gzip.compress(bytes(10**7)), "gzip"), (zlib.compress(bytes(10**7)), "deflate")]
)
async def test_a_packed_picture_is_not_unpacked(packed: bytes, name: str) -> None:
    async with talking(answer(packed, f"Content-Encoding: {name}")) as (http, server, _):
        with pytest.raises(Failed, match="packed bytes"):
            await fetched(http, f"{server.url}/a", 10**8)
    assert "Accept-Encoding: identity" in server.heads[0]


async def test_packed_answers_are_unpacked() -> None:
    async with talking(answer(gzip.compress(b"{}"), "Content-Encoding: gzip")) as (http, _, _other):
        assert (await http.send(REPLICATE, TARGET, READ)).body == b"{}"


# ── What faults tell ──────────────────────────────────────────────────────────────────────────────────────────────────

SIGNED = "/a.mp4?X-Signature=canary"
TOLD: dict[str, Script] = {
    **LOST,
    "a bad head": raw(b"HTTP/1.1 200 OK\r\nbad header canary\r\n\r\n"),
    "a redirect to nowhere": redirect("https://[canary"),
    "a redirect inside": redirect(f"https://127.0.0.1{SIGNED}"),
    "an error that repeats the key": answer(f"{KEY} canary".encode(), status="500 Oops"),
}


@pytest.mark.parametrize("script", TOLD.values(), ids=TOLD.keys())
async def test_no_exception_shows_a_key_or_a_signed_address_even_in_its_causes(script: Script) -> None:
    async with talking(script) as (http, server, _):
        with pytest.raises(Failed) as failed:
            await http.keep(REPLICATE, TARGET, Keep(url=server.url + SIGNED, with_credential=True), Shelf())
    shown = "".join(traceback.format_exception(failed.value))
    assert failed.value.fault.detail in shown
    for secret in (KEY, "canary"):
        assert secret not in shown + repr(failed.value) + repr(failed.value.__cause__)


async def test_the_clients_own_exception_would_show_them() -> None:
    """The negative control."""
    async with serving(TOLD["a bad head"]) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError) as raised:
            await session.get(server.url + SIGNED)
    assert "canary" in str(raised.value)


# ── Callers' addresses ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_callers_picture_is_fetched() -> None:
    async with talking(answer(b"pixel")) as (http, server, _):
        assert await fetched(http, f"{server.url}/a.png", 5) == b"pixel"
        assert await fetched(http, "data:image/png;base64,cGl4ZWw=", 5) == b"pixel"
    assert "Authorization" not in server.heads[0]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png",
        "https://127.0.0.1/a",
        "https://user:pw@example.org/",
        "nonsense",
        "file:///x",
        "https://a..example/",
        f"https://{'a' * 64}.example/",
        "https://1.2.3.4.5/",
        "https://999.999.999.999/",
    ],
)
async def test_a_callers_address_is_looked_at_before_it_is_asked(url: str) -> None:
    async with client("https://192.0.2.1") as http:
        with pytest.raises(Failed) as failed:
            await fetched(http, url, 100)
    assert failed.value.certain
    assert "pw" not in failed.value.fault.detail


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:9/a", "must start with https"),  # said by check_url
        ("https://127.0.0.1/a", "not on the public internet"),  # said by the guard, about the socket
        ("https://[::ffff:127.0.0.1]/a", "not on the public internet"),
        ("https://①②⑦.⓪.⓪.①/a", "not on the public internet"),
    ],
)
async def test_both_guards_stand_before_a_callers_address(url: str, why: str) -> None:
    """Either alone would refuse some of these for another reason, or by chance."""
    async with client("https://192.0.2.1") as http:
        with pytest.raises(Failed, match=why):
            await fetched(http, url, 100)


async def test_a_callers_picture_has_a_limit() -> None:
    async with talking(answer(b"pixel")) as (http, server, _):
        with pytest.raises(Failed):
            await fetched(http, f"{server.url}/a.png", 4)


async def test_a_callers_address_without_a_picture_says_so() -> None:
    async with talking(answer(b"", status="404 Not Found")) as (http, server, _):
        with pytest.raises(Failed, match="Its address answered 404"):
            await fetched(http, f"{server.url}/a.png", 4)


# ── Twins in this process ─────────────────────────────────────────────────────────────────────────────────────────────


class Lab:
    """A twin that answers with a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, list[tuple[str, float]]()

    def handle(self, request: Request, now: float) -> Response:
        self.asked.append((request.url, now))
        if request.url.endswith("/gone"):
            return Response(status=404)
        return Response(status=200, headers={"content-type": "video/mp4"}, path=str(self.path))


async def test_a_twin_is_asked_without_a_socket_and_its_file_is_streamed(tmp_path: Path) -> None:
    (tmp_path / "take.mp4").write_bytes(CLIP)
    lab, shelf, target = Lab(tmp_path / "take.mp4"), Shelf(), Target(provider="local", model="local")
    async with Http(base_urls={}, credentials={}, read=lambda _: b"", inner={"local": lab}, clock=Still()) as http:
        await http.send(Local(), target, Request(method="GET", url="/renders/a"))
        asset = await http.keep(Local(), target, Keep(url="local://lab/renders/a/output"), shelf)
        with pytest.raises(Failed) as failed:
            await http.keep(Local(), target, Keep(url="local://lab/gone"), Shelf())
    assert lab.asked[:2] == [("local://lab/renders/a", Still().now()), ("local://lab/renders/a/output", Still().now())]
    assert (shelf.content, asset.media_type, shelf.size_bytes) == (CLIP, "video/mp4", len(CLIP))
    assert failed.value.fault.code == "asset_expired"


async def test_an_explicit_base_url_wins_over_a_twin_in_this_process(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "unused")
    async with serving(answer(b"{}")) as server:
        base_urls, inner = {"local": server.url}, {"local": lab}
        async with Http(base_urls=base_urls, credentials={}, read=lambda _: b"", inner=inner, clock=Still()) as http:
            await http.send(Local(), Target(provider="local", model="local"), Request(method="GET", url="/renders/a"))
    assert (len(server.heads), lab.asked) == (1, [])
