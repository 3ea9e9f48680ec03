"""The only HTTP client: it carries out what flows ask for, and says of every failure whether it may have cost money.

Nothing here tries again: a read is asked for again by whoever wanted it, a paid call only by a decision in the log.
aiohttp itself repeats GET, PUT and DELETE once when a connection dies, on a new one too; so a paid call must be a POST,
which it never repeats. And a paid call opens a connection of its own: on a kept one, which the peer may be closing at
that very moment, it would be in doubt for nothing.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
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
from rushes.adapters.bodies import Read, data_uri, encode
from rushes.adapters.guard import BadUrl, Guard, HostPort, InsideAddress, check_url, host_port, parsed
from rushes.faults import Code, Fault, RushesError, bad
from rushes.units import AssetRef, Clock
from rushes.video import Target

USER_AGENT: Final = f"rushes/{version('rushes')}"
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
MAX_DATA_URI_BYTES: Final = 10 * 2**20
FETCH_S: Final = 60.0
BLOCK_BYTES: Final = 256 * 1024
LARGE_BYTES: Final = 2**20  # above it aiohttp wants a stream, and warns of bytes


class Limits(Struct, frozen=True, kw_only=True):
    """What a peer may cost us."""

    connect_s: float = 5.0  # waiting for a free connection included
    redirects: int = 3
    answer_bytes: int = 16 * 2**20  # of what is read into memory, after unpacking
    result_s: float = 600.0  # for a whole result
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
    secret: Mapping[str, str] = {}  # the key's header, for the hop to `home` alone
    home: URL | None = None
    data: bytes | None = None
    timeout: ClientTimeout
    spends: bool = False
    as_it_is: bool = False  # nothing is unpacked on the way

    def headers_to(self, url: URL) -> dict[str, str]:
        """What may be said to this address."""
        headers = dict(self.headers) if url.origin() == self.url.origin() else {}
        if self.home is not None and url.origin() == self.home.origin():
            headers |= self.secret
        return headers | ({"Accept-Encoding": "identity"} if self.as_it_is else {})


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
    ) -> None:
        """`base_urls` are the ones set explicitly, by adapter; `inner` are twins in this process, asked directly.

        `credentials` are keys by the name of their variable; `read` gives the bytes of a kept input. Raises BadRequest.
        """
        self._base_urls, self._credentials, self._read = base_urls, credentials, read
        self._inner = {name: twin for name, twin in inner.items() if name not in base_urls}
        self._clock, self._limits = clock, limits
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
        """One exchange. Raises Failed, `certain` when the request surely did not go out."""
        if request.spends and request.method != "POST":
            raise ValueError("A paid call must be a POST: anything else may be sent twice.")
        base = self._base(adapter)
        whole = request.url if "://" in request.url else base + request.url
        if twin := self._inner.get(adapter.name):
            return await asyncio.to_thread(twin.handle, msgspec.structs.replace(request, url=whole), self._clock.now())
        url, home = _checked(whole), parsed(base)
        url = url.update_query(request.query) if request.query else url  # or its quoting would change
        data, headers = await self._encoded(request.body)
        call = _Call(
            who=adapter.name,
            method=request.method,
            url=url,
            headers={**request.headers, **headers},
            secret=self._secret(adapter, target) if url.origin() == home.origin() else {},
            home=home,
            data=data,
            timeout=self._timeout(request.timeout_s),
            spends=request.spends,
        )
        async with self._answer(call) as reply:
            pieces = [piece async for piece in self._pieces(reply, call.who, self._limits.answer_bytes)]
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Response(status=reply.status, body=b"".join(pieces), headers=headers)

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        """Stream a result into the sink. Raises Failed, and what the sink raises as it is: that is our own trouble."""
        if twin := self._inner.get(adapter.name):
            request = Request(method="GET", url=ask.url)
            return await _from_twin(
                adapter.name, await asyncio.to_thread(twin.handle, request, self._clock.now()), sink
            )
        url, home = _checked(ask.url), parsed(self._base(adapter))
        secret = self._secret(adapter, target) if ask.with_credential and url.origin() == home.origin() else {}
        timeout = self._timeout(self._limits.result_s, self._limits.idle_s)
        call = _Call(who=adapter.name, url=url, secret=secret, home=home, timeout=timeout, as_it_is=True)
        async with self._answer(call) as reply:
            _expect_result(call.who, reply.status)
            size_bytes = _announced(call.who, reply, ask.max_bytes)
            slowest = self._limits.slowest_bytes_per_s
            async with aclosing(self._pieces(reply, call.who, ask.max_bytes, slowest)) as pieces:
                return await sink(pieces, media_type=reply.content_type, size_bytes=size_bytes)

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """The bytes behind a caller's https or data: address. Raises Failed with a sentence about them."""
        if url.startswith("data:"):
            return data_uri(url, min(max_bytes, MAX_DATA_URI_BYTES))
        call = _Call(who="its address", url=_checked(url), timeout=self._timeout(FETCH_S), as_it_is=True)
        async with self._answer(call) as reply:
            if reply.status != 200:
                raise Failed(Fault("invalid_input", f"Its address answered {reply.status}."))
            _announced(call.who, reply, max_bytes)
            return b"".join([piece async for piece in self._pieces(reply, call.who, max_bytes)])

    # ── Before the exchange ───────────────────────────────────────────────────────────────────────────────────────────

    def _base(self, adapter: Adapter) -> str:
        """The adapter's base address. An explicit one without a path takes over the path of the provider's own."""
        own = adapter.capabilities.base_url
        if adapter.name not in self._base_urls:
            return own
        set_here = parsed(self._base_urls[adapter.name])
        return str(set_here.with_path(parsed(own).path) if set_here.path == "/" else set_here).rstrip("/")

    def _secret(self, adapter: Adapter, target: Target) -> dict[str, str]:
        auth = adapter.capabilities.auth
        if auth is None:
            return {}
        if not (value := self._credentials.get(target.credential, "").strip()):
            raise Failed(Fault("authentication_failed", f"There is no key for {adapter.name}: set {auth.env[0]}."))
        return {auth.header: auth.prefix + value}

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
                timeout=call.timeout,
                allow_redirects=False,
                auto_decompress=not call.as_it_is,
            )

    async def _pieces(
        self, reply: ClientResponse, who: str, max_bytes: int, slowest_bytes_per_s: float = 0.0
    ) -> AsyncGenerator[bytes, None]:
        """The body, piece by piece, within its limits. Only waiting for the peer counts, not the sink's work."""
        loop, size_bytes, waited_s = asyncio.get_running_loop(), 0, 0.0
        while True:
            began = loop.time()
            with _translated(who):
                piece = await reply.content.readany()
            if not piece:
                return
            waited_s += loop.time() - began
            size_bytes += len(piece)
            if size_bytes > max_bytes:
                raise _too_large(who, max_bytes)
            if waited_s > self._limits.grace_s and size_bytes < waited_s * slowest_bytes_per_s:
                raise Failed(Fault("no_answer", f"{who} sends too slowly.", retryable=True), certain=False)
            yield piece


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
    """What aiohttp raises as the Failed that it means. Its own text is left out: it may hold the whole URL."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise failure(who, error) from error


def failure(who: str, error: Exception) -> Failed:
    """Whether the request may have been carried out, by the exception's own class or the nearest one that is known."""
    known = next(kind for kind in type(error).__mro__ if kind in NOT_SENT or kind in MAYBE_SENT)
    if known not in NOT_SENT:
        detail = f"{who} was asked, and its answer is not known ({type(error).__name__})."
        return Failed(Fault("no_answer", detail, retryable=True), certain=False)
    inside = isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, InsideAddress)
    reason = "the address is not on the public internet" if inside else NOT_SENT[known]
    return Failed(Fault("not_sent", f"{who} could not be reached: {reason}.", retryable=True))


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
    if reply.headers.get("Content-Encoding", "identity") != "identity":
        raise Failed(Fault("bad_answer", f"{who} sends packed bytes that were not asked for.", retryable=True))
    if (reply.content_length or 0) > max_bytes:
        raise _too_large(who, max_bytes)
    return reply.content_length


# ── Twins in this process ─────────────────────────────────────────────────────────────────────────────────────────────


async def _from_twin(who: str, reply: Response, sink: Sink) -> AssetRef:
    _expect_result(who, reply.status)
    media_type = reply.headers.get("content-type", "application/octet-stream").partition(";")[0]
    size_bytes = (await asyncio.to_thread(Path(reply.path).stat)).st_size if reply.path else len(reply.body)
    async with aclosing(_blocks(reply)) as blocks:
        return await sink(blocks, media_type=media_type, size_bytes=size_bytes)


async def _blocks(reply: Response) -> AsyncGenerator[bytes, None]:
    if not reply.path:
        yield reply.body
        return
    with await asyncio.to_thread(open, reply.path, "rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block
