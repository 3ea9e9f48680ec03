"""The only HTTP client: it carries out what flows ask for, and says of every failure whether it may have cost money.

Nothing here tries again: a read is asked for again by whoever wanted it, a paid call only by a decision in the log.
aiohttp itself repeats GET, PUT and DELETE once when a connection dies, on a new one too; so a paid call must be a POST,
which it never repeats. And a paid call opens a connection of its own: on a kept one, which the peer may be closing at
that very moment, it would be in doubt for nothing.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, Self

import aiohttp
import msgspec
from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector
from aiohttp.client_exceptions import UnixClientConnectorError
from msgspec import Struct
from yarl import URL

from rushes.adapters.base import Adapter, Body, Failed, Keep, Request, Response, Sink, Twin
from rushes.adapters.bodies import Embedded, Read, data_uri, encode
from rushes.adapters.capabilities import Mint, Token
from rushes.adapters.guard import BadUrl, Guard, HostPort, InsideAddress, check_url, host_port, parsed
from rushes.faults import Code, Fault, RushesError, bad
from rushes.units import AssetRef, Clock
from rushes.video import Target

USER_AGENT: Final = f"rushes/{version('rushes')}"
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
PART: Final = "\0"  # between the parts of a key that has several: no variable holds one
TOKEN_MARGIN_S: Final = 60.0
MAX_DATA_URI_BYTES: Final = 10 * 2**20
FETCH_S: Final = 60.0
FETCH_BYTES_PER_S: Final = 350_000
BLOCK_BYTES: Final = 256 * 1024
AROUND_BYTES: Final = 2**20  # what may stand around a file in an answer
LARGE_BYTES: Final = 2**20  # above it aiohttp wants a stream, and warns of bytes
ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # RFC 3986, 3.1
STRONG_S: Final = 60.0  # a file is not written twice under one Last-Modified that is this much older than its answer


class Limits(Struct, frozen=True, kw_only=True):
    """What a peer may cost us."""

    connect_s: float = 5.0  # waiting for a free connection included
    redirects: int = 3
    answer_bytes: int = 16 * 2**20  # of an answer, after unpacking
    memory_bytes: int = 2**20  # a longer answer goes to a file
    result_s: float = 600.0  # for a whole result, however often it is cut
    resumes: int = 3  # of one result
    idle_s: float = 30.0  # between two pieces of a result
    slowest_bytes_per_s: float = 10_000.0  # of a result, once `grace_s` of waiting are over
    grace_s: float = 10.0


DEFAULT_LIMITS: Final = Limits()


class _Call(Struct, frozen=True, kw_only=True):
    """One exchange, ready to go out."""

    who: str  # in the sentences of faults
    method: str = "GET"
    url: URL
    headers: Mapping[str, str] = {}  # dropped when a redirect leaves the host
    secret: Mapping[str, str] = {}  # the key's header, for hops to `homes` alone
    homes: frozenset[URL] = frozenset()  # origins that the key may be said to
    data: bytes | None = None
    timeout: ClientTimeout
    spends: bool = False
    rest: Mapping[str, str] = {}  # headers that ask for a part, said to every host
    as_it_is: bool = False  # nothing is packed or unpacked on the way

    def headers_to(self, url: URL) -> dict[str, str]:
        """What may be said to this address."""
        headers = dict(self.headers) if url.origin() == self.url.origin() else {}
        headers |= {"Accept-Encoding": "identity"} if self.as_it_is else {}
        return {**headers, **(self.secret if self.is_home(url) else {}), **self.rest}

    def is_home(self, url: URL) -> bool:
        """Whether the key may be said there."""
        return url.origin() in self.homes


class _Meter:
    """What has come of one body, over all its connections, held against the limits."""

    def __init__(self, who: str, max_bytes: int, limits: Limits, slowest_bytes_per_s: float = 0.0) -> None:
        self._who, self._max_bytes, self._grace_s = who, max_bytes, limits.grace_s
        self._slowest_bytes_per_s, self._waited_s = slowest_bytes_per_s, 0.0
        self.size_bytes = 0

    async def piece(self, reply: ClientResponse) -> bytes:
        """The next bytes, none at the end. Only waiting for the peer counts, not what becomes of its bytes here."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            with _translated(self._who):
                return await reply.content.readany()
        finally:
            self._waited_s += loop.time() - began

    def count(self, piece: bytes) -> None:
        """Raises Failed where it becomes too much, or comes too slowly."""
        self.size_bytes += len(piece)
        if self.size_bytes > self._max_bytes:
            raise _too_large(self._who, self._max_bytes)
        if self._waited_s > self._grace_s and self.size_bytes < self._waited_s * self._slowest_bytes_per_s:
            raise Failed(Fault("no_answer", f"{self._who} sends too slowly.", retryable=True), certain=False)


class Http:
    """A Transport over aiohttp. Make it where an event loop runs, and close it."""

    def __init__(
        self,
        *,
        base_urls: Mapping[str, str],
        credentials: Mapping[str, str],
        read: Read,
        inner: Mapping[str, Twin],
        clock: Clock,
        user_agent: str = USER_AGENT,
        limits: Limits = DEFAULT_LIMITS,
        parts: Path | None = None,
    ) -> None:
        """`base_urls` are the ones set explicitly, by adapter; `inner` are twins in this process, asked directly.

        `credentials` are keys by the name of their variable; `read` gives the bytes of a kept input. `parts` is the
        folder for long answers, else the system's own for such files; whoever owns it sweeps up `*.part` after a crash.
        Raises BadRequest.
        """
        self._base_urls, self._credentials, self._read = base_urls, credentials, read
        self._inner = {name: twin for name, twin in inner.items() if name not in base_urls}
        self._clock, self._limits, self._parts = clock, limits, parts
        self._tokens: dict[tuple[str, str], Token] = {}  # by provider and credential
        self._minting = asyncio.Lock()
        self._explicit = frozenset(_explicit(name, url) for name, url in base_urls.items())
        guard = Guard(self._explicit)
        connector = partial(TCPConnector, socket_factory=guard, use_dns_cache=False, limit=0)  # lanes have the limits
        self._reads = _session(connector(), user_agent)
        self._paid = _session(connector(force_close=True), user_agent)

    async def __aenter__(self) -> Self:
        """Nothing is connected before it is needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._reads.close()
        await self._paid.close()

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        """One exchange. Raises Failed, `certain` when the request surely did not go out.

        A long answer is a file: `drive` removes it when its flow has ended, and whoever asks without `drive` does so.
        """
        if request.spends and request.method != "POST":
            raise ValueError("A paid call must be a POST: anything else may be sent twice.")
        whole = self._whole(adapter, request.url)
        if twin := self._inner.get(adapter.name):
            return await asyncio.to_thread(twin.handle, msgspec.structs.replace(request, url=whole), self._clock.now())
        url, homes = _checked(whole), self._homes(adapter)
        secret = await self._secret(adapter, target) if url.origin() in homes else {}
        reply = await self._exchange(adapter, request, url, homes, secret)
        if reply.status == 401:
            self._tokens.pop((adapter.name, target.credential), None)  # made anew for the next call
        return reply

    async def _exchange(
        self, adapter: Adapter, request: Request, url: URL, homes: frozenset[URL], secret: Mapping[str, str]
    ) -> Response:
        url = url.update_query(request.query) if request.query else url  # or its quoting would change
        data, headers = await self._encoded(request.body)
        call = _Call(
            who=adapter.name,
            method=request.method,
            url=url,
            headers={**request.headers, **headers},
            secret=secret,
            homes=homes,
            data=data,
            timeout=self._timeout(request.timeout_s),
            spends=request.spends,
        )
        async with self._answer(call) as reply:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            most = request.answer_bytes or self._limits.answer_bytes
            async with aclosing(_pieces(reply, self._meter(call.who, most))) as pieces:
                body, path = await self._held(pieces)
            return Response(status=reply.status, body=body, headers=headers, path=path, passing=bool(path))

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        """Stream a result into the sink. Raises Failed, and what the sink raises as it is: that is our own trouble."""
        if ask.request is not None:
            return await self._keep_embedded(adapter, target, ask, ask.request, sink)
        if twin := self._inner.get(adapter.name):
            request = Request(method="GET", url=ask.url, headers=ask.headers)
            return await _from_twin(
                adapter.name, await asyncio.to_thread(twin.handle, request, self._clock.now()), sink
            )
        homes = self._homes(adapter)
        if ask.url.startswith("@"):
            url = _checked(self._whole(adapter, ask.url))
        else:
            url = _checked(ask.url) if ABSOLUTE.match(ask.url) else _below(parsed(self.base_url(adapter)), ask.url)
        call = _Call(
            who=adapter.name,
            url=url,
            headers=ask.headers,
            secret=await self._secret(adapter, target) if ask.with_credential and url.origin() in homes else {},
            homes=homes,
            timeout=self._timeout(self._limits.result_s, self._limits.idle_s),
            as_it_is=True,
        )
        deadline = asyncio.get_running_loop().time() + self._limits.result_s
        async with AsyncExitStack() as stack:
            reply = await stack.enter_async_context(self._answer(call))
            if reply.status == 401:
                self._tokens.pop((adapter.name, target.credential), None)
            if reply.status == 401 and not call.secret and call.is_home(reply.url):  # some say so, and some do not
                call = msgspec.structs.replace(call, secret=await self._secret(adapter, target))
                reply = await stack.enter_async_context(self._answer(call))
            _expect_result(call.who, reply.status)
            size_bytes = _announced(call.who, reply, ask.max_bytes)
            meter = self._meter(call.who, ask.max_bytes, self._limits.slowest_bytes_per_s)
            async with aclosing(self._resumed(call, reply, meter, deadline)) as pieces:
                return await sink(pieces, media_type=reply.content_type, size_bytes=size_bytes)

    async def _keep_embedded(
        self, adapter: Adapter, target: Target, ask: Keep, request: Request, sink: Sink
    ) -> AssetRef:
        """A result that stands in an answer. The answer is a file where it is long, and is decoded from there."""
        most = ask.max_bytes // 3 * 4 + AROUND_BYTES
        request = msgspec.structs.replace(request, answer_bytes=most, timeout_s=self._limits.result_s)
        reply = await self.send(adapter, target, request)
        try:
            _expect_result(adapter.name, reply.status)
            found = await asyncio.to_thread(Embedded, reply, ask.place)
            if found.size_bytes > ask.max_bytes:
                raise _too_large(adapter.name, ask.max_bytes)
            async with aclosing(_in_turn(found.pieces())) as pieces:
                return await sink(pieces, media_type=ask.media_type, size_bytes=found.size_bytes)
        finally:
            if reply.passing:
                Path(reply.path).unlink(missing_ok=True)

    async def fetch(self, url: str, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """The bytes behind a caller's https or data: address, piece by piece. Raises Failed with a sentence about them.

        Large files have the time that they need at `FETCH_BYTES_PER_S`. Close what is not read to its end.
        """
        if url.startswith("data:"):
            yield data_uri(url, min(max_bytes, MAX_DATA_URI_BYTES))
            return
        timeout = self._timeout(max(FETCH_S, max_bytes / FETCH_BYTES_PER_S), self._limits.idle_s)
        call = _Call(who="its address", url=_checked(url), timeout=timeout, as_it_is=True)
        async with self._answer(call) as reply:
            if reply.status != 200:
                raise Failed(Fault("invalid_input", f"Its address answered {reply.status}."))
            _announced(call.who, reply, max_bytes)
            meter = self._meter(call.who, max_bytes, self._limits.slowest_bytes_per_s)
            async with aclosing(_pieces(reply, meter)) as pieces:
                async for piece in pieces:
                    yield piece

    # ── Before the exchange ───────────────────────────────────────────────────────────────────────────────────────────

    def base_url(self, adapter: Adapter) -> str:
        """The adapter's base address. An explicit one without a path takes over the path of the provider's own."""
        own = adapter.address()
        if adapter.name not in self._base_urls:
            return own
        set_here = parsed(self._base_urls[adapter.name])
        return str(set_here.with_path(parsed(own).path) if set_here.path == "/" else set_here).rstrip("/")

    def _service_url(self, adapter: Adapter, name: str) -> str:
        """Where a service of the provider begins."""
        own = adapter.capabilities.services[name].url
        return self._base_urls.get(f"{adapter.name}@{name}", own).rstrip("/")

    def _whole(self, adapter: Adapter, url: str) -> str:
        if url.startswith("@"):
            service, _, path = url[1:].partition("/")
            return f"{self._service_url(adapter, service)}/{path}"
        return url if "://" in url else self.base_url(adapter) + url

    def _homes(self, adapter: Adapter) -> frozenset[URL]:
        """The origins that an adapter's key may be said to."""
        services = adapter.capabilities.services
        urls = [self.base_url(adapter), *(self._service_url(adapter, name) for name in services)]
        return frozenset(parsed(url).origin() for url in urls if "://" in url)

    async def _secret(self, adapter: Adapter, target: Target) -> dict[str, str]:
        auth = adapter.capabilities.auth
        if auth is None:
            return {}
        if not (value := self._credentials.get(target.credential, "").strip()):
            raise Failed(Fault("authentication_failed", f"There is no key for {adapter.name}: set {auth.env[0]}."))
        if auth.mint is not None:
            value = (await self._token(adapter, auth.mint, target.credential, value)).value
        if not (value.isascii() and value.isprintable()):
            detail = f"The key for {adapter.name} holds what no header may hold: set {auth.env[0]} again."
            raise Failed(Fault("authentication_failed", detail))
        return {auth.header: auth.prefix + value}

    async def _token(self, adapter: Adapter, mint: Mint, credential: str, value: str) -> Token:
        """What is said in the place of a key, made anew before it ends. Raises Failed: nothing was sent then."""
        async with self._minting:
            now = self._clock.now()
            token = self._tokens.get((adapter.name, credential))
            if token is None or token.until < now + TOKEN_MARGIN_S:
                parts = dict(zip(credential.split("+"), value.split(PART), strict=True))
                flow = mint(parts, now)
                try:
                    ask = next(flow)
                    while True:
                        ask = flow.send(await self._exchange(adapter, ask, _checked(ask.url), frozenset(), {}))
                except StopIteration as done:
                    token = self._tokens[adapter.name, credential] = done.value
                except Failed as failed:
                    raise Failed(failed.fault) from None  # certain: the call itself was never made
                finally:
                    flow.close()
            return token

    async def _encoded(self, body: Body) -> tuple[bytes | None, dict[str, str]]:
        """The body's bytes and the headers that describe them."""
        if body is None:
            return None, {}
        try:
            data, media_type = await asyncio.to_thread(encode, body, self._read)
        except (OSError, RushesError) as error:
            raise Failed(Fault("storage_failed", "A kept input could not be read.", retryable=True)) from error
        return data, {"Content-Type": media_type}

    def _timeout(self, total_s: float, idle_s: float | None = None) -> ClientTimeout:
        connect_s = self._limits.connect_s
        return ClientTimeout(total=total_s, connect=connect_s, sock_connect=connect_s, sock_read=idle_s)

    # ── The exchange ──────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _answer(self, call: _Call) -> AsyncGenerator[ClientResponse, None]:
        """The answer's head, after the redirects of a read. A redirect of anything else is its answer."""
        url = call.url
        for _ in range(self._limits.redirects + 1):
            reply = await self._hop(call, url)
            async with reply:
                location = reply.headers.get("Location", "")
                if call.spends or call.method != "GET" or reply.status not in REDIRECTS or not location:
                    yield reply
                    return
            url = _joined(url, location)
        raise Failed(Fault("bad_answer", f"{call.who} redirects too often.", retryable=True))

    async def _hop(self, call: _Call, url: URL) -> ClientResponse:
        try:
            check_url(str(url), explicit=self._explicit)
        except BadUrl as error:
            raise Failed(Fault("not_sent", f"{error}")) from error
        session = self._paid if call.spends else self._reads
        with _translated(call.who):
            return await session.request(
                call.method,
                url,
                data=io.BytesIO(call.data) if call.data and len(call.data) > LARGE_BYTES else call.data,
                headers=call.headers_to(url),
                skip_auto_headers=("Content-Type",),  # or a POST without a body is said to be bytes
                timeout=call.timeout,
                allow_redirects=False,
                auto_decompress=not call.as_it_is,
            )

    # ── Bodies ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _meter(self, who: str, max_bytes: int, slowest_bytes_per_s: float = 0.0) -> _Meter:
        return _Meter(who, max_bytes, self._limits, slowest_bytes_per_s)

    async def _held(self, pieces: AsyncGenerator[bytes, None]) -> tuple[bytes, str]:
        """A short body, or the path of the file that a long one is in."""
        body = bytearray()
        async for piece in pieces:
            body += piece
            if len(body) > self._limits.memory_bytes:
                return b"", await self._in_a_file(bytes(body), pieces)
        return bytes(body), ""

    async def _in_a_file(self, first: bytes, pieces: AsyncGenerator[bytes, None]) -> str:
        """Nothing stays where it cannot be kept whole. Raises Failed: the provider may have acted all the same."""
        try:
            handle, path = _new_part(self._parts)
            try:
                with os.fdopen(handle, "wb") as file:
                    await asyncio.to_thread(file.write, first)
                    async for piece in pieces:
                        await asyncio.to_thread(file.write, piece)
            except BaseException:
                Path(path).unlink(missing_ok=True)
                raise
        except OSError as error:
            unkept = Fault("storage_failed", "A long answer could not be kept: make room for it.", retryable=True)
            raise Failed(unkept, certain=False) from error
        return path

    async def _resumed(
        self, call: _Call, reply: ClientResponse, meter: _Meter, deadline: float
    ) -> AsyncGenerator[bytes, None]:
        """A result's bytes. After a cut the rest is asked for where that is surely of the same file."""
        whole, left = _Whole.of(reply), self._limits.resumes
        async with AsyncExitStack() as stack:
            while True:
                try:
                    piece = await meter.piece(reply)
                except Failed:
                    left_s = deadline - asyncio.get_running_loop().time()
                    if whole is None or not left or left_s <= 0 or not meter.size_bytes:
                        raise
                    timeout, left = self._timeout(left_s, self._limits.idle_s), left - 1
                    rest = {"Range": f"bytes={meter.size_bytes}-", "If-Range": whole.mark}
                    again = msgspec.structs.replace(call, rest=rest, timeout=timeout)
                    reply = await stack.enter_async_context(self._answer(again))
                    if not whole.goes_on(reply, meter.size_bytes):
                        raise
                    continue
                if not piece:
                    return
                meter.count(piece)
                yield piece


class _Whole(Struct, frozen=True):
    """What says that two answers are parts of one file."""

    mark: str
    size_bytes: int

    @classmethod
    def of(cls, reply: ClientResponse) -> _Whole | None:
        """None where the server does not offer parts, or nothing surely tells this file from a later one."""
        mark = _mark(reply)
        if not mark or reply.content_length is None or reply.headers.get("Accept-Ranges", "").lower() == "none":
            return None
        return cls(mark, reply.content_length)

    def goes_on(self, reply: ClientResponse, start: int) -> bool:
        """Whether an answer holds the same file, from there to its end."""
        rest = f"bytes {start}-{self.size_bytes - 1}/{self.size_bytes}", self.size_bytes - start
        told = reply.headers.get("Content-Range", ""), reply.content_length
        return reply.status == 206 and told == rest and not _is_packed(reply) and _mark(reply) in ("", self.mark)


def _mark(reply: ClientResponse) -> str:
    """A strong validator (RFC 9110, 8.8): an entity tag that is not weak, or a time well before the answer's own."""
    if tag := reply.headers.get("ETag", ""):
        return "" if tag.startswith("W/") else tag
    try:
        changed, now = (parsedate_to_datetime(reply.headers[name]) for name in ("Last-Modified", "Date"))
        return reply.headers["Last-Modified"] if (now - changed).total_seconds() >= STRONG_S else ""
    except (KeyError, ValueError, TypeError, OverflowError):
        return ""


async def _pieces(reply: ClientResponse, meter: _Meter) -> AsyncGenerator[bytes, None]:
    """A body, piece by piece, within its limits."""
    while piece := await meter.piece(reply):
        meter.count(piece)
        yield piece


def _new_part(folder: Path | None) -> tuple[int, str]:
    """A file that only we can read. Not in a thread: a caller that is cancelled would not learn its name."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return tempfile.mkstemp(suffix=".part", dir=folder)


def _session(connector: TCPConnector, user_agent: str) -> ClientSession:
    headers = {"User-Agent": user_agent}
    return ClientSession(connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


def _explicit(name: str, url: str) -> HostPort:
    try:
        where = parsed(url)
    except BadUrl as error:
        raise bad(name, f"The base URL of {name} is none. {error}") from error
    if where.scheme not in ("http", "https"):
        raise bad(name, f"The base URL of {name} must start with http:// or https://.")
    return host_port(where)


def _checked(url: str) -> URL:
    try:
        return parsed(url)
    except BadUrl as error:
        raise Failed(Fault("not_sent", f"{error}")) from error


def _below(home: URL, url: str) -> URL:
    """An address that is relative to the base address: below it, unless it says otherwise."""
    try:
        return parsed(str((home / "").join(URL(url, encoded=True))))
    except ValueError as error:
        raise Failed(Fault("not_sent", "The address is not a URL.")) from error


def _joined(url: URL, location: str) -> URL:
    try:
        return parsed(str(url.join(URL(location, encoded=True))))
    except ValueError as error:
        raise Failed(Fault("bad_answer", "A redirect leads nowhere.", retryable=True)) from error


# ── Failures ──────────────────────────────────────────────────────────────────────────────────────────────────────────

NOT_SENT: Final[Mapping[type[Exception], str]] = {
    aiohttp.ClientConnectorError: "nothing answers there",
    aiohttp.ClientConnectorDNSError: "its host name is not known",
    aiohttp.ClientProxyConnectionError: "the proxy does not answer",
    UnixClientConnectorError: "nothing answers there",
    aiohttp.ClientSSLError: "its TLS cannot be trusted",
    aiohttp.ClientConnectorSSLError: "its TLS cannot be trusted",
    aiohttp.ClientConnectorCertificateError: "its certificate cannot be trusted",
    aiohttp.ServerFingerprintMismatch: "its certificate is another one",
    aiohttp.ConnectionTimeoutError: "it takes too long to connect",  # or to get a free connection
    aiohttp.InvalidURL: "the address is not valid",
    aiohttp.InvalidUrlClientError: "the address is not valid",
    aiohttp.NonHttpUrlClientError: "the address is not valid",
}
"""Raised before the first byte of a request. Everything else may have been carried out."""

MAYBE_SENT: Final[frozenset[type[Exception]]] = frozenset({
    TimeoutError,
    OSError,
    aiohttp.ClientError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientConnectionResetError,
    aiohttp.ClientOSError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientResponseError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ContentTypeError,
    aiohttp.ServerConnectionError,
    aiohttp.ServerDisconnectedError,
    aiohttp.ServerTimeoutError,
    aiohttp.SocketTimeoutError,
    aiohttp.TooManyRedirects,
    aiohttp.RedirectClientError,
    aiohttp.InvalidUrlRedirectClientError,
    aiohttp.NonHttpUrlRedirectClientError,
    aiohttp.WSServerHandshakeError,
})  # fmt: skip


@contextmanager
def _translated(who: str) -> Generator[None, None, None]:
    """What aiohttp raises as the Failed that it means, and not beside it: its own text may hold the whole URL."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise failure(who, error) from None


def failure(who: str, error: Exception) -> Failed:
    """Whether the request may have been carried out, by the exception's own class or the nearest one that is known."""
    known = next(kind for kind in type(error).__mro__ if kind in NOT_SENT or kind in MAYBE_SENT)
    if known not in NOT_SENT:
        detail = f"{who} was asked, and its answer is not known ({type(error).__name__})."
        return Failed(Fault("no_answer", detail, retryable=True), certain=False)
    inside = isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, InsideAddress)
    reason = "the address is not on the public internet" if inside else NOT_SENT[known]
    retryable = not issubclass(known, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError)
    return Failed(Fault("not_sent", f"{who} could not be reached: {reason}.", retryable=retryable))


def _too_large(who: str, max_bytes: int) -> Failed:
    detail = f"{who} sends more than the {max_bytes} bytes that are allowed."
    return Failed(Fault("bad_answer", detail), certain=False)


def _expect_result(who: str, status: int) -> None:
    """A result's address answers 200, or says why not."""
    if status in (403, 404, 410):
        raise Failed(Fault("asset_expired", f"{who} no longer has the result ({status})."))
    if status != 200:
        code: Code = "authentication_failed" if status == 401 else "provider_unavailable"
        raise Failed(Fault(code, f"{who} answered {status} instead of the result.", retryable=True))


def _announced(who: str, reply: ClientResponse, max_bytes: int) -> int | None:
    """The length that the answer promises: checked by aiohttp as it comes, and by us before."""
    if _is_packed(reply):
        raise Failed(Fault("bad_answer", f"{who} sends packed bytes that were not asked for.", retryable=True))
    if (reply.content_length or 0) > max_bytes:
        raise _too_large(who, max_bytes)
    return reply.content_length


def _is_packed(reply: ClientResponse) -> bool:
    return reply.headers.get("Content-Encoding", "identity") != "identity"


# ── Twins in this process ─────────────────────────────────────────────────────────────────────────────────────────────


async def _from_twin(who: str, reply: Response, sink: Sink) -> AssetRef:
    _expect_result(who, reply.status)
    media_type = reply.headers.get("content-type", "application/octet-stream").partition(";")[0]
    size_bytes = (await asyncio.to_thread(Path(reply.path).stat)).st_size if reply.path else len(reply.body)
    async with aclosing(_blocks(reply)) as blocks:
        return await sink(blocks, media_type=media_type, size_bytes=size_bytes)


async def _in_turn(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece


async def _blocks(reply: Response) -> AsyncGenerator[bytes, None]:
    if not reply.path:
        yield reply.body
        return
    with await asyncio.to_thread(open, reply.path, "rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block
