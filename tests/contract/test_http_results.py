"""Results: streamed, counted, taken up again after a cut where that is surely the same file; long answers in files."""

from __future__ import annotations

import asyncio
import gzip
import re
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import msgspec
import pytest
from wire import CLIP, KEY, READ, REPLICATE, TARGET, Script, Shelf, answer, raw, redirect, silence, talking, trickle

from rushes.adapters.base import Failed, Flow, Keep, Request, Response, call, drive, keep, reply_json
from rushes.adapters.bodies import Embedded
from rushes.adapters.http import DEFAULT_LIMITS, Limits
from rushes.assets import Assets
from rushes.units import AssetRef

# ── Streaming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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


async def test_headers_of_a_result_are_for_its_first_host_alone() -> None:
    async with talking(redirect("/"), answer(CLIP)) as (http, own, other):
        own.script = redirect(f"{other.url}/a.mp4")
        await http.keep(REPLICATE, TARGET, Keep(url=f"{own.url}/a", headers={"Accept": "video/*"}), Shelf())
    assert "Accept: video/*" in own.heads[0]
    assert "Accept: video/*" not in other.heads[0]


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


# ── After a cut ───────────────────────────────────────────────────────────────────────────────────────────────────────


def asked_range(head: bytes) -> int | None:
    found = re.search(rb"\r\nRange: bytes=(\d+)-\r\n", head)
    return int(found[1]) if found else None


class FileHost:
    """A host of one file that offers parts of it, and cuts each answer short after so many bytes of it."""

    def __init__(self, *cuts: int, mark: str = 'ETag: "v1"', content: bytes = CLIP) -> None:
        self.cuts, self.mark, self.content, self.asked = list(cuts), mark, content, list[int | None]()

    async def __call__(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        start = asked_range(head)
        self.asked.append(start)
        same = self.mark.rpartition(": ")[2].encode() in head
        lines, rest = self.head(start if same else None)
        cut = self.cuts.pop(0) if self.cuts else len(rest)
        writer.write("\r\n".join([*lines, "", ""]).encode() + rest[:cut])
        await writer.drain()
        if cut < len(rest):
            writer.close()

    def head(self, start: int | None) -> tuple[list[str], bytes]:
        size_bytes = len(self.content)
        if start is None:
            return ["HTTP/1.1 200 OK", self.mark, f"Content-Length: {size_bytes}"], self.content
        rest = self.content[start:]
        span = f"Content-Range: bytes {start}-{size_bytes - 1}/{size_bytes}"
        return ["HTTP/1.1 206 Partial Content", self.mark, span, f"Content-Length: {len(rest)}"], rest


OLD = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nLast-Modified: Sun, 06 Nov 1994 08:48:37 GMT"
YOUNG = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nLast-Modified: Sun, 06 Nov 1994 08:48:38 GMT"


async def shelved(script: Script, limits: Limits = DEFAULT_LIMITS) -> tuple[Shelf, Failed | None]:
    """What a sink got of a result, and how it failed."""
    shelf = Shelf()
    async with talking(script, limits=limits) as (http, server, _):
        try:
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a.mp4"), shelf)
        except Failed as failed:
            return shelf, failed
    return shelf, None


@pytest.mark.parametrize("cut", [1, 2, 65_535, 65_536, 500_000, len(CLIP) - 1])
async def test_after_a_cut_anywhere_only_the_rest_is_asked_for(cut: int) -> None:
    host = FileHost(cut)
    shelf, failed = await shelved(host)
    assert failed is None
    assert shelf.content == CLIP
    assert shelf.size_bytes == len(CLIP)
    assert host.asked == [None, cut]


async def test_the_rest_is_asked_for_only_of_the_same_file() -> None:
    async with talking(FileHost(9)) as (http, server, _):
        await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a.mp4", with_credential=True), Shelf())
    assert 'If-Range: "v1"\r\n' in server.heads[1]
    assert f"Bearer {KEY}" in server.heads[1]


async def test_a_result_is_taken_up_three_times_and_then_given_up() -> None:
    assert (await shelved(three := FileHost(10, 10, 10)))[1] is None
    assert three.asked == [None, 10, 20, 30]
    four = FileHost(10, 10, 10, 10)
    _, failed = await shelved(four)
    assert failed is not None
    assert (failed.fault.code, failed.fault.retryable, four.asked) == ("no_answer", True, [None, 10, 20, 30])


async def test_a_time_well_before_the_answer_tells_a_file_too() -> None:
    async with talking(host := FileHost(10, mark=OLD)) as (http, server, _):
        await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a.mp4"), shelf := Shelf())
    assert "If-Range: Sun, 06 Nov 1994 08:48:37 GMT\r\n" in server.heads[1]
    assert (shelf.content, host.asked) == (CLIP, [None, 10])


@pytest.mark.parametrize(
    "mark",
    [
        'ETag: W/"weak"',
        YOUNG,
        "Last-Modified: Sun, 06 Nov 1994 08:48:37 GMT",
        "Date: soon\r\nLast-Modified: yesterday",
        "X-None: 1",
        'ETag: "v1"\r\nAccept-Ranges: none',
    ],
)
async def test_what_cannot_be_told_from_another_file_is_not_taken_up(mark: str) -> None:
    host = FileHost(10, mark=mark)
    _, failed = await shelved(host)
    assert failed is not None
    assert (failed.fault.code, failed.fault.retryable, host.asked) == ("no_answer", True, [None])


async def test_a_result_of_unknown_length_is_not_taken_up() -> None:
    chunk = b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nvideo\r\n5\r\nvi'
    async with talking(raw(chunk)) as (http, server, _):
        with pytest.raises(Failed):
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a.mp4"), Shelf())
    assert len(server.heads) == 1


async def test_a_result_of_which_nothing_came_is_not_taken_up() -> None:
    host = FileHost(0)
    assert (await shelved(host))[1] is not None
    assert host.asked == [None]


class Replaced(FileHost):
    """Between two answers the file becomes another one; `second` is how the host speaks of it."""

    def __init__(self, second: list[str], rest: bytes) -> None:
        super().__init__(500_000)
        self.second, self.rest = second, rest

    def head(self, start: int | None) -> tuple[list[str], bytes]:
        return super().head(start) if len(self.asked) == 1 else (self.second, self.rest)


OTHER = bytes(reversed(CLIP))
TAIL, SPAN = OTHER[500_000:], f"Content-Range: bytes 500000-{len(CLIP) - 1}/{len(CLIP)}"
PARTIAL, LENGTH = "HTTP/1.1 206 Partial Content", f"Content-Length: {len(CLIP) - 500_000}"
ANOTHER_FILE: dict[str, tuple[list[str], bytes]] = {
    "the whole of it": (["HTTP/1.1 200 OK", 'ETag: "v2"', f"Content-Length: {len(OTHER)}"], OTHER),
    "the whole, called a part": ([PARTIAL, f"Content-Length: {len(OTHER)}"], OTHER),
    "a part under another mark": ([PARTIAL, 'ETag: "v2"', SPAN, LENGTH], TAIL),
    "a part of another length": ([PARTIAL, SPAN.replace(f"/{len(CLIP)}", "/9999999"), LENGTH], TAIL),
    "a part of unknown length": ([PARTIAL, SPAN.replace(f"/{len(CLIP)}", "/*"), LENGTH], TAIL),
    "a part from elsewhere": ([PARTIAL, SPAN.replace("500000-", "500001-"), LENGTH], TAIL),
    "a shorter part": ([PARTIAL, SPAN, "Content-Length: 10"], TAIL[:10]),
    "a packed part": ([PARTIAL, SPAN, LENGTH, "Content-Encoding: gzip"], TAIL),
    "several parts": ([PARTIAL, "Content-Type: multipart/byteranges; boundary=x", LENGTH], TAIL),
    "nothing": (["HTTP/1.1 416 Range Not Satisfiable", "Content-Length: 0"], b""),
}


@pytest.mark.parametrize(("second", "rest"), ANOTHER_FILE.values(), ids=ANOTHER_FILE.keys())
async def test_two_files_are_never_joined(second: list[str], rest: bytes) -> None:
    shelf, failed = await shelved(host := Replaced(second, rest))
    assert failed is not None
    assert (failed.fault.code, failed.fault.retryable) == ("no_answer", True)
    assert host.asked == [None, 500_000]
    assert shelf.content == CLIP[:500_000]


async def test_a_client_that_does_not_look_would_join_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr("rushes.adapters.http._Whole.goes_on", lambda *_: True)
    shelf, failed = await shelved(Replaced(*ANOTHER_FILE["a part under another mark"]))
    assert failed is None
    assert shelf.content == CLIP[:500_000] + TAIL


async def test_the_time_for_a_result_is_not_begun_again_after_a_cut() -> None:
    async def stall(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 9\r\n\r\nvideo')
        await writer.drain()

    async with talking(stall, limits=Limits(result_s=0.2)) as (http, server, _):
        with pytest.raises(Failed):
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a"), Shelf())
    assert len(server.heads) == 1


async def test_the_rest_is_found_through_the_same_redirect_and_without_the_key() -> None:
    async with talking(redirect("/"), host := FileHost(9)) as (http, home, there):
        home.script = redirect(f"{there.url}/a.mp4?sig=1")
        await http.keep(REPLICATE, TARGET, Keep(url=f"{home.url}/a", with_credential=True), shelf := Shelf())
    assert (shelf.content, host.asked) == (CLIP, [None, 9])
    assert len(home.heads) == 2
    assert not any("Authorization" in head for head in there.heads)


async def test_more_than_the_limit_is_not_gathered_piece_by_piece() -> None:
    """The limit is of the whole, over all its answers; what is announced is not believed."""
    host = FileHost(150_000, content=bytes(300_000))
    async with talking(host) as (http, server, _):
        with pytest.raises(Failed) as failed:
            await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/a", max_bytes=200_000), Shelf())
    assert (failed.value.fault.code, host.asked) == ("bad_answer", [None])


# ── Whose key, and where to ───────────────────────────────────────────────────────────────────────────────────────────


async def only_with_the_key(head: bytes, writer: asyncio.StreamWriter) -> None:
    with_key = f"Authorization: Bearer {KEY}\r\n".encode() in head
    await (answer(CLIP) if with_key else answer(b"{}", status="401 Unauthorized"))(head, writer)


async def test_where_the_providers_own_host_asks_for_the_key_it_is_given_it() -> None:
    shelf = Shelf()
    async with talking(only_with_the_key) as (http, server, _):
        await http.keep(REPLICATE, TARGET, Keep(url=f"{server.url}/v1/files/a"), shelf)
    assert ["Authorization" in head for head in server.heads] == [False, True]
    assert shelf.content == CLIP


async def test_it_is_given_once() -> None:
    refusing = answer(b"{}", status="401 Unauthorized")
    for with_credential, times in ((False, 2), (True, 1)):
        async with talking(refusing) as (http, server, _):
            ask = Keep(url=f"{server.url}/a", with_credential=with_credential)
            with pytest.raises(Failed) as failed:
                await http.keep(REPLICATE, TARGET, ask, Shelf())
        assert (failed.value.fault.code, len(server.heads)) == ("authentication_failed", times)


async def test_any_other_host_may_ask_for_the_key_and_does_not_get_it() -> None:
    async with talking(answer(b""), only_with_the_key) as (http, home, other):
        with pytest.raises(Failed) as failed:
            await http.keep(REPLICATE, TARGET, Keep(url=f"{other.url}/a"), Shelf())
        home.script = redirect(f"{other.url}/a")
        with pytest.raises(Failed):
            await http.keep(REPLICATE, TARGET, Keep(url=f"{home.url}/a"), Shelf())
    assert failed.value.fault.code == "authentication_failed"
    assert (len(home.heads), len(other.heads)) == (1, 2)
    assert not any("Authorization" in head for head in home.heads + other.heads)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("/api/v1/videos/a/content?index=0", "GET /api/v1/videos/a/content?index=0 "),
        ("videos/a/content", "GET /v1/videos/a/content "),
        ("/a?of=https://example.org/b", "GET /a?of=https://example.org/b "),
        ("/a?sig=a%2Fb", "GET /a?sig=a%2Fb "),
    ],
)
async def test_a_relative_address_is_the_providers_own(url: str, line: str) -> None:
    async with talking(answer(CLIP)) as (http, server, _):
        await http.keep(REPLICATE, TARGET, Keep(url=url, with_credential=True), Shelf())
    assert server.heads[0].startswith(line)
    assert f"Bearer {KEY}" in server.heads[0]


async def test_an_address_that_only_looks_relative_gets_no_key() -> None:
    async with talking(answer(CLIP), answer(CLIP)) as (http, home, other):
        await http.keep(REPLICATE, TARGET, Keep(url=other.url.removeprefix("http:"), with_credential=True), Shelf())
    assert (len(home.heads), len(other.heads)) == (0, 1)
    assert "Authorization" not in other.heads[0]


@pytest.mark.parametrize("url", ["data:video/mp4,abc", "javascript:alert(1)", "file:///etc/passwd", "https:a"])
async def test_what_is_no_address_of_a_result_is_refused(url: str) -> None:
    async with talking(answer(CLIP)) as (http, server, _):
        with pytest.raises(Failed) as failed:
            await http.keep(REPLICATE, TARGET, Keep(url=url), Shelf())
    assert (failed.value.fault.code, failed.value.fault.retryable, server.heads) == ("not_sent", False, [])


# ── Long answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

LONG = b'{"id":"a","video":"' + b"A" * 2**20 + b'"}'


async def test_an_answer_beyond_a_mebibyte_is_a_file_that_only_we_can_read(tmp_path: Path) -> None:
    async with talking(answer(LONG), parts=tmp_path / "parts") as (http, _, _other):
        reply = await http.send(REPLICATE, TARGET, READ)
    file = Path(reply.path)
    assert (reply.status, reply.body, reply.passing) == (200, b"", True)
    assert file.parent == tmp_path / "parts"
    assert file.read_bytes() == LONG
    assert file.stat().st_mode & 0o077 == 0


async def test_an_answer_of_a_mebibyte_is_not(tmp_path: Path) -> None:
    short = b"x" * 2**20
    async with talking(answer(short), parts=tmp_path) as (http, _, _other):
        assert await http.send(REPLICATE, TARGET, READ) == Response(
            status=200, body=short, headers={"content-length": "1048576"}
        )


def asking(seen: list[Response]) -> Flow[dict[str, object]]:
    """A flow that reads a long answer, and then asks for something else."""
    seen.append((yield from call(READ)))
    assert Path(seen[0].path).is_file()
    seen.append((yield from call(READ)))
    assert Path(seen[0].path).is_file()  # as long as the flow runs
    return reply_json(REPLICATE, seen[0], dict[str, object])


async def test_the_file_is_there_for_its_flow_and_gone_after_it(tmp_path: Path) -> None:
    seen: list[Response] = []
    async with talking(answer(LONG), parts=tmp_path) as (http, _, _other):
        read = await drive(asking(seen), http, REPLICATE, TARGET)
    assert read["id"] == "a"
    assert len(seen) == 2
    assert list(tmp_path.iterdir()) == []


def failing_flow() -> Flow[AssetRef]:
    yield from call(READ)
    return (yield from keep(Keep(url="file:///etc/passwd")))


async def test_the_file_is_gone_after_a_flow_that_fails_too(tmp_path: Path) -> None:
    async with talking(answer(LONG), parts=tmp_path) as (http, server, _):
        with pytest.raises(Failed):
            await drive(failing_flow(), http, REPLICATE, TARGET, Shelf())
    assert len(server.heads) == 1
    assert list(tmp_path.iterdir()) == []


class OwnFile:
    """A transport whose answer is a file of its own: a twin's take, say."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def send(self, *_: object) -> Response:
        return Response(status=200, path=str(self.path))

    async def keep(self, *_: object) -> AssetRef:
        raise AssertionError


def reading() -> Flow[dict[str, object]]:
    return reply_json(REPLICATE, (yield from call(READ)), dict[str, object])


async def test_a_file_that_belongs_to_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "take").write_bytes(LONG)
    assert (await drive(reading(), OwnFile(tmp_path / "take"), REPLICATE, TARGET))["id"] == "a"
    assert (tmp_path / "take").is_file()


async def test_an_answer_whose_file_is_gone_is_our_own_trouble_and_in_doubt(tmp_path: Path) -> None:
    with pytest.raises(Failed) as failed:
        await drive(reading(), OwnFile(tmp_path / "gone"), REPLICATE, TARGET)
    assert (failed.value.certain, failed.value.fault.code) == (False, "storage_failed")


BROKEN: dict[str, Script] = {
    "cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + LONG),
    "longer than is allowed": answer(LONG * 3),
    "packed, and longer than is allowed": answer(gzip.compress(LONG * 3), "Content-Encoding: gzip"),
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN.keys())
async def test_of_a_long_answer_that_breaks_nothing_is_left(tmp_path: Path, script: Script) -> None:
    async with talking(script, parts=tmp_path, limits=Limits(answer_bytes=2 * 2**20)) as (http, _, _other):
        with pytest.raises(Failed) as failed:
            await http.send(REPLICATE, TARGET, READ)
    assert not failed.value.certain
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_left_of_a_long_answer_that_nobody_waits_for_any_more(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield LONG
        begun.set()
        await asyncio.get_running_loop().create_future()

    async with talking(silence, parts=tmp_path) as (http, _, _other):
        task = asyncio.create_task(http._held(pieces()))
        await begun.wait()
        assert len(list(tmp_path.iterdir())) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert list(tmp_path.iterdir()) == []


async def test_where_a_long_answer_cannot_be_kept_a_paid_call_is_in_doubt(tmp_path: Path) -> None:
    (tmp_path / "parts").write_bytes(b"no folder")
    async with talking(answer(LONG), parts=tmp_path / "parts") as (http, _, _other):
        with pytest.raises(Failed) as failed:
            await http.send(REPLICATE, TARGET, Request(method="POST", url="/a", spends=True))
    assert (failed.value.certain, failed.value.fault.code) == (False, "storage_failed")


async def test_what_a_crash_leaves_is_swept_up_with_the_parts_of_takes(tmp_path: Path) -> None:
    assets = Assets(tmp_path / "takes")
    async with talking(answer(LONG), parts=tmp_path / "takes" / "parts") as (http, _, _other):
        left = (await http.send(REPLICATE, TARGET, READ)).path
    assert Path(left).is_file()
    assert assets.sweep() == 1
    assert not Path(left).exists()


# ── Results that stand in an answer ───────────────────────────────────────────────────────────────────────────────────


def holding(text: str) -> bytes:
    """An answer with a file in it, behind another of its members."""
    return b'{"id":"a","out":[{"data":"QUJD"},{"data":"' + text.encode() + b'","type":"video"}]}'


ASKED = Request(method="POST", url="/predictions/a:fetch", body={"name": "a"}, timeout_s=5.0)
SECOND = ("out", 1, "data")


async def embedded(body: bytes, folder: Path, place: tuple[str | int, ...] = SECOND, max_bytes: int = 2**30) -> Shelf:
    """What is kept; nothing stays of the answer."""
    shelf = Shelf()
    ask = Keep(url=ASKED.url, request=ASKED, place=place, max_bytes=max_bytes)
    try:
        async with talking(answer(body), parts=folder) as (http, server, _):
            asset = await http.keep(REPLICATE, TARGET, ask, shelf)
    finally:
        assert not folder.exists() or list(folder.iterdir()) == []
    assert server.heads[0].startswith("POST /v1/predictions/a:fetch HTTP")
    assert f"Bearer {KEY}" in server.heads[0]
    assert server.bodies == [b'{"name":"a"}']
    assert asset.media_type == "video/mp4"
    return shelf


@pytest.mark.parametrize("size_bytes", [0, 1, 2, 3, 400_000, len(CLIP), 3 * len(CLIP) + 1])
async def test_a_file_in_an_answer_is_kept_with_its_length_known_before(size_bytes: int, tmp_path: Path) -> None:
    clip = (CLIP * 4)[:size_bytes]
    shelf = await embedded(holding(b64encode(clip).decode()), tmp_path / "parts")
    assert (shelf.content, shelf.size_bytes) == (clip, size_bytes)


async def test_a_file_whose_characters_are_escaped_is_the_same(tmp_path: Path) -> None:
    text = b64encode(CLIP[:1000]).decode().replace("=", "\\u003d").replace("/", "\\/")
    assert "\\u003d" in text
    assert (await embedded(holding(text), tmp_path)).content == CLIP[:1000]


async def test_a_long_answer_is_decoded_from_its_file_and_not_read_into_memory(tmp_path: Path) -> None:
    clip = CLIP * 20
    body = holding(b64encode(clip).decode())
    most, whole = await peak_bytes(body, tmp_path)
    assert most < len(clip) // 4
    assert whole > len(clip)  # the control: to read it is seen


async def peak_bytes(body: bytes, folder: Path) -> tuple[int, int]:
    """Of memory: while it is decoded piece by piece, and while it is read."""
    path = folder / "answer.json"
    path.write_bytes(body)
    peaks = list[int]()
    for how in (from_its_file, at_once):
        tracemalloc.start()
        how(Response(status=200, path=str(path)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks[0], peaks[1]


def from_its_file(reply: Response) -> None:
    for _ in Embedded(reply, SECOND).pieces():
        pass


def at_once(reply: Response) -> None:
    msgspec.json.decode(Path(reply.path).read_bytes())


@pytest.mark.parametrize(
    "place", [("out", 2, "data"), ("out", "1"), ("none",), ("out",), ("id", 0), ("out", 1, "data", "more")]
)
async def test_where_no_file_is_the_answer_is_a_bad_one(place: tuple[str | int, ...], tmp_path: Path) -> None:
    with pytest.raises(Failed) as failed:
        await embedded(holding("QUJD"), tmp_path, place)
    assert (failed.value.fault.code, failed.value.fault.retryable) == ("bad_answer", True)


@pytest.mark.parametrize("text", ["QUJ", "QUI=QUJD", "QU.D", "====", "QUJDQ"])
async def test_what_is_no_base64_is_not_kept(text: str, tmp_path: Path) -> None:
    with pytest.raises(Failed) as failed:
        await embedded(holding(text), tmp_path)
    assert failed.value.fault.code == "bad_answer"


async def test_a_file_in_an_answer_has_a_limit_of_its_own(tmp_path: Path) -> None:
    """An answer may be larger than others where a file stands in it, but not without end."""
    small = Limits(answer_bytes=50_000)
    ask = Keep(url="/a", request=ASKED, place=SECOND, max_bytes=300_000)
    async with talking(answer(holding(b64encode(CLIP[:300_000]).decode())), limits=small) as (http, server, _):
        assert (await http.keep(REPLICATE, TARGET, ask, Shelf())).size_bytes == 300_000
        with pytest.raises(Failed):  # the control
            await http.send(REPLICATE, TARGET, ASKED)
        server.script = answer(holding(b64encode(CLIP[:300_001]).decode()))
        with pytest.raises(Failed) as failed:
            await http.keep(REPLICATE, TARGET, ask, Shelf())
    assert "300000 bytes" in failed.value.fault.detail
    with pytest.raises(Failed):
        await embedded(holding("A" * 3_000_000), tmp_path, max_bytes=1_000_000)


@pytest.mark.parametrize(("status", "code"), [("404 Not Found", "asset_expired"), ("500 Oops", "provider_unavailable")])
async def test_an_answer_that_is_no_good_one_is_told_as_a_result_that_is_not_there(status: str, code: str) -> None:
    ask = Keep(url="/a", request=ASKED, place=SECOND)
    async with talking(answer(holding("QUJD"), status=status)) as (http, _, _other):
        with pytest.raises(Failed) as failed:
            await http.keep(REPLICATE, TARGET, ask, Shelf())
    assert failed.value.fault.code == code
