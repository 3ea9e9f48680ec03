"""The client against servers on loopback that misbehave: what it says, what it sends twice, what it keeps."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from rushes.adapters.base import Failed, Inline, Keep, Request, Response
from rushes.adapters.http import DEFAULT_LIMITS, Http, Limits
from rushes.adapters.local import Local
from rushes.adapters.replicate import Replicate
from rushes.faults import BadRequest
from rushes.units import AssetRef
from rushes.video import Target

KEY = "r8_secret"
REPLICATE = Replicate()
TARGET = Target(provider="replicate", model="prunaai/p-video", credential="REPLICATE_API_TOKEN")
PAID = Request(method="POST", url="/predictions", body={"prompt": "private"}, spends=True, timeout_s=5.0)
READ = Request(method="GET", url="/predictions/a", timeout_s=5.0)


class Still:
    def now(self) -> float:
        return 1_800_000_000.0


Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Raw bytes on loopback: what came is in `heads` and `bodies`, `connections` counts who connected."""

    def __init__(self, script: Script) -> None:
        self.script, self.heads, self.bodies, self.connections, self.url = script, list[str](), list[bytes](), 0, ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode())
                length = next((line for line in head.lower().split(b"\r\n") if b"content-length" in line), b": 0")
                self.bodies.append(await reader.readexactly(int(length.split(b":")[1])))
                await self.script(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Server]:
    server = Server(script)
    listener = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> Script:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return script


def raw(content: bytes) -> Script:
    """These bytes, and the end."""

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        writer.close()

    return script


async def silence(_: bytes, writer: asyncio.StreamWriter) -> None:
    await writer.drain()


def client(base_url: str, *more: str, limits: Limits = DEFAULT_LIMITS) -> Http:
    base_urls = {"replicate": base_url} | {f"other{number}": url for number, url in enumerate(more)}
    return Http(
        base_urls=base_urls,
        credentials={"REPLICATE_API_TOKEN": f"{KEY}\n"},  # as a file gives it
        read=lambda _: b"pixel",
        inner={},
        clock=Still(),
        limits=limits,
    )


@asynccontextmanager
async def talking(*scripts: Script, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[tuple[Http, Server, Server]]:
    """A client and servers; the first is the provider, the last another host that was set explicitly too."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(script)) for script in scripts]
        http = await stack.enter_async_context(client(*(server.url for server in servers), limits=limits))
        yield http, servers[0], servers[-1]


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


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with talking(answer(b"{}")) as (http, _, _other):
        assert (await http.send(REPLICATE, TARGET, READ)).status == 200


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


def redirect(url: str) -> Script:
    return answer(b"{}", f"Location: {url}", status="302 Found")


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


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "file:///etc/passwd", "https://127.0.0.1/", "https://[::1]/"])
async def test_a_redirect_inside_is_not_followed(url: str) -> None:
    async with talking(redirect(url)) as (http, server, _):
        failed = await failing(http, READ)
    assert failed.fault.code in ("not_sent", "bad_answer")
    assert len(server.heads) == 1


async def test_redirects_end() -> None:
    async with talking(redirect("/again")) as (http, server, _):
        assert (await failing(http, READ)).fault.code == "bad_answer"
    assert len(server.heads) == 4


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


async def test_packed_answers_are_unpacked() -> None:
    async with talking(answer(gzip.compress(b"{}"), "Content-Encoding: gzip")) as (http, _, _other):
        assert (await http.send(REPLICATE, TARGET, READ)).body == b"{}"


# ── Results ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Shelf:
    """A sink in memory."""

    def __init__(self) -> None:
        self.content = b""
        self.size_bytes: int | None = None

    async def __call__(self, chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        self.size_bytes = size_bytes
        async for chunk in chunks:
            self.content += chunk
        return AssetRef("k", hashlib.sha256(self.content).hexdigest(), len(self.content), media_type)


CLIP = bytes(range(256)) * 4000


async def test_a_result_is_streamed_with_its_length_and_type() -> None:
    shelf = Shelf()
    async with talking(answer(CLIP, "Content-Type: video/mp4; codecs=avc1")) as (http, server, _):
        asset = await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a.mp4"), shelf)
    assert shelf.content == CLIP
    assert (asset.media_type, shelf.size_bytes) == ("video/mp4", len(CLIP))
    assert "Authorization" not in server.heads[0]
    assert "Accept-Encoding: identity" in server.heads[0]


async def test_a_result_is_asked_for_with_the_key_only_at_home() -> None:
    async with talking(answer(CLIP), answer(CLIP)) as (http, own, other):
        for server in (own, other):
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/v1/files/a", with_credential=True), Shelf())
    assert f"Bearer {KEY}" in own.heads[0]
    assert "Authorization" not in other.heads[0]


async def kept(script: Script, limits: Limits = DEFAULT_LIMITS) -> Failed:
    async with talking(script, limits=limits) as (http, server, _):
        ask = Keep(url=f"{server.url}/a.mp4?signature=secret", max_bytes=200_000)
        with pytest.raises(Failed) as failed:
            await http.keep(REPLICATE, TARGET, ask, Shelf())
    assert "secret" not in failed.value.fault.detail
    return failed.value


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "410 Gone"])
async def test_a_result_that_is_gone_has_expired(status: str) -> None:
    failed = await kept(answer(b"", status=status))
    assert (failed.certain, failed.fault.code) == (True, "asset_expired")


@pytest.mark.parametrize(
    "status", ["500 Oops", "204 No Content", "206 Partial Content", "304 Not Modified", "429 Slow"]
)
async def test_any_other_status_is_worth_another_try(status: str) -> None:
    failed = await kept(answer(b"", status=status))
    assert (failed.fault.code, failed.fault.retryable) == ("provider_unavailable", True)


async def test_a_result_that_ends_early_is_worth_another_try() -> None:
    failed = await kept(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nvideo"))
    assert (failed.fault.code, failed.fault.retryable) == ("no_answer", True)


async def test_a_result_has_a_limit_announced_or_not() -> None:
    assert (await kept(answer(bytes(200_001)))).fault.code == "bad_answer"
    assert (await kept(raw(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(200_001)))).fault.code == "bad_answer"


async def test_a_packed_result_is_not_kept_as_if_it_were_a_video() -> None:
    assert (await kept(answer(gzip.compress(CLIP), "Content-Encoding: gzip"))).fault.code == "bad_answer"


async def trickle(_: bytes, writer: asyncio.StreamWriter) -> None:
    """A byte, and another, for ever: as slowly as the peer likes."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    loop = asyncio.get_running_loop()
    while not writer.is_closing():
        writer.write(b".")
        await writer.drain()
        turn = loop.create_future()
        loop.call_later(0.02, turn.set_result, None)
        await turn


async def test_a_result_that_trickles_is_given_up() -> None:
    failed = await kept(trickle, limits=Limits(grace_s=0.1, result_s=2.0))
    assert (failed.fault.code, failed.fault.retryable) == ("no_answer", True)
    assert "slowly" in failed.fault.detail


async def test_without_a_slowest_rate_only_the_total_ends_it() -> None:
    """The negative control."""
    failed = await kept(trickle, limits=Limits(grace_s=0.1, slowest_bytes_per_s=0.0, result_s=0.4))
    assert "slowly" not in failed.fault.detail


async def test_a_result_that_stalls_is_given_up() -> None:
    async def stall(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nvideo")
        await writer.drain()

    assert (await kept(stall, limits=Limits(idle_s=0.1))).fault.code == "no_answer"


@pytest.mark.parametrize("error", [OSError(28, "disk full"), TimeoutError("disk"), ValueError("bug")])
async def test_what_the_sink_raises_is_our_own_trouble_and_passes(error: Exception) -> None:
    async def full(chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        del media_type, size_bytes
        async for _ in chunks:
            raise error
        raise AssertionError

    async with talking(answer(CLIP)) as (http, server, _):
        with pytest.raises(type(error)) as raised:
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a"), full)
    assert raised.value is error


# ── Callers' addresses ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_callers_picture_is_fetched() -> None:
    async with talking(answer(b"pixel")) as (http, server, _):
        assert await http.fetch(f"{server.url}/a.png", 5) == b"pixel"
        assert await http.fetch("data:image/png;base64,cGl4ZWw=", 5) == b"pixel"
    assert "Authorization" not in server.heads[0]


@pytest.mark.parametrize(
    "url", ["http://example.org/a.png", "https://127.0.0.1/a", "https://user:pw@example.org/", "nonsense", "file:///x"]
)
async def test_a_callers_address_is_looked_at_before_it_is_asked(url: str) -> None:
    async with client("https://192.0.2.1") as http:
        with pytest.raises(Failed) as failed:
            await http.fetch(url, 100)
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
            await http.fetch(url, 100)


async def test_a_callers_picture_has_a_limit() -> None:
    async with talking(answer(b"pixel")) as (http, server, _):
        with pytest.raises(Failed):
            await http.fetch(f"{server.url}/a.png", 4)


async def test_a_callers_address_without_a_picture_says_so() -> None:
    async with talking(answer(b"", status="404 Not Found")) as (http, server, _):
        with pytest.raises(Failed, match="Its address answered 404"):
            await http.fetch(f"{server.url}/a.png", 4)


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
