"""The server: the routes, the guard in front of them, and errors in one shape whatever went wrong.

Who may ask: whoever has a key, and where there are no keys anybody who reaches the socket, which is then bound to
loopback. That leaves the browser on this machine, which any page can use as its errand boy. So a name in `Host` must be
one that cannot be made to point here by somebody else, and an `Origin` must be our own or one that the settings name.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import ClientPayloadError, web

from rushes.api.auth import Keys, admit, challenge, is_loopback
from rushes.api.facades import Facades
from rushes.api.live import STREAM, live_routes
from rushes.api.metrics import operations_routes
from rushes.api.openai_shape import OpenAIShape
from rushes.api.openapi import Description
from rushes.api.protocol import Refused, problem_of
from rushes.api.rest import Content, Rest
from rushes.api.shapes import in_shape
from rushes.api.stream import Limits, Stream
from rushes.api.webhooks import PATH, webhook_routes
from rushes.eventstore.base import Damaged, StoreError
from rushes.faults import AccessDenied, RushesError, Unavailable, bad, damaged
from rushes.studio import Studio
from rushes.units import TRACE, Billed, traceparent

MAX_BODY_BYTES: Final = 16 * 2**20  # of JSON; a picture may travel in it. Uploads are streamed and have their own cap
LINGER_S: Final = 1.0  # to read on after a body was refused, so that its sender gets to see the answer
STOP_S: Final = 5.0  # for requests that are being answered while the server stops
LOOPBACK: Final = "127.0.0.1:8484"
WAYS_OUT: Final = f"make one with `rushes keys create NAME`, or listen on {LOOPBACK}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger("rushes")


def build_app(
    studio: Studio,
    *,
    allowed_origins: Sequence[str] = (),
    host: str = "",
    limits: Limits | None = None,
    keys: Keys | None = None,
) -> web.Application:
    """The application over one studio.

    Args:
        studio: whose jobs are served.
        allowed_origins: pages of other hosts that may use it, as https://host[:port].
        host: a name of this machine that callers may use, besides localhost and its addresses.
        limits: how patient the WebSocket is.
        keys: who may ask; None: anybody.
    """
    keys = keys or Keys()
    stream = Stream(studio, limits or Limits(), keys)

    async def looking(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(keys.keep_looking())
        yield
        task.cancel()
        await asyncio.wait([task])

    async def goodbye(_: web.Application) -> None:
        await stream.close()

    guard = Guard(allowed_origins, host, keys, called_as=studio.hearing.host)
    app = web.Application(middlewares=[problems, guard.check], client_max_size=MAX_BODY_BYTES)
    app.add_routes([*Rest(studio).routes(), *OpenAIShape(studio).routes(), *Facades(studio).routes()])
    app.add_routes([*live_routes(stream), *webhook_routes(studio), *Description().routes()])
    app.add_routes(operations_routes(studio, stream))
    app[STREAM] = stream
    app.on_response_prepare.append(_finish_headers)
    app.cleanup_ctx.append(looking)
    app.on_shutdown.append(goodbye)
    return app


class Server:
    """A server that answers at `url` until it is closed."""

    def __init__(self, runner: web.AppRunner, studio: Studio) -> None:
        self._runner, self._studio = runner, studio
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        studio.announce(self.url)

    async def close(self) -> None:
        """Take no more requests, say goodbye to every socket, let what is being answered end."""
        await self._runner.cleanup()
        self._studio.announce("")


async def serve(
    studio: Studio,
    listen: str = LOOPBACK,
    *,
    allowed_origins: Sequence[str] = (),
    limits: Limits | None = None,
    keys: Keys | None = None,
) -> Server:
    """Answer at HOST:PORT; port 0 takes a free one. Raises BadRequest about `listen` where that cannot be.

    Other machines are answered only where there are `keys`.
    """
    host, port = address(listen)
    if not is_loopback(host) and not (keys and keys.live):
        raise bad("listen", f"{host} can be reached from other machines, and there is no key: {WAYS_OUT}.")
    app = build_app(studio, allowed_origins=allowed_origins, host=host, limits=limits, keys=keys)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S, lingering_time=LINGER_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except (OSError, UnicodeError) as error:
        await runner.cleanup()
        raise cannot_listen(host, port, error) from error
    return Server(runner, studio)


def address(listen: str) -> tuple[str, int]:
    """HOST:PORT as its parts. Raises BadRequest about `listen`."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise bad("listen", f"The address {listen!r} is not HOST:PORT, as in {LOOPBACK}.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def cannot_listen(host: str, port: int, error: Exception) -> RushesError:
    """Why nobody can listen there, and what to do."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return bad("listen", f"Port {port} on {host} is in use: stop who has it, or give another with --listen.")
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return bad("listen", f"The server cannot listen on {host}:{port} ({reason}): give another with --listen.")


# ── who may ask ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Guard:
    """Refuses what a foreign page has a browser ask, and who has no key where one is needed."""

    def __init__(self, allowed_origins: Sequence[str], host: str, keys: Keys, *, called_as: str = "") -> None:
        """`called_as`: the name that providers call back under, which is good for nothing else."""
        self._keys, self._called_as = keys, called_as
        self._origins = {origin.rstrip("/").lower() for origin in allowed_origins}
        self._hosts = {urlsplit(origin).hostname for origin in self._origins} | {"localhost", host.lower()}

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware."""
        TRACE.set(traceparent(request.headers.get("traceparent", "")))
        self.refuse_strangers(request)
        admit(request, self._keys)
        return await handler(request)

    def refuse_strangers(self, request: web.Request) -> None:
        """Raise Refused for a name that may be anybody's, and for a page that is not ours."""
        host = request.headers.get("Host", "")
        if not self._is_ours(host) and not self._is_called_back(request):
            detail = f"The server does not answer to the name {host!r}: use its address, or name it in allowed_origins."
            raise Refused(403, "invalid_input", detail)
        origin = request.headers.get("Origin", "").lower()
        from_elsewhere = request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method not in {"GET", "HEAD"}
        if origin in self._origins or (not origin and not from_elsewhere):
            return
        if origin in {"", "null"} or urlsplit(origin).netloc != host.lower():
            detail = f"Pages of {origin or 'another site'} may not use this server: name them in allowed_origins."
            raise Refused(403, "invalid_input", detail)

    def _is_called_back(self, request: web.Request) -> bool:
        try:
            name = urlsplit(f"//{request.headers.get('Host', '')}").hostname
        except ValueError:
            return False
        return bool(name) and name == self._called_as and request.path.startswith(PATH)

    def _is_ours(self, host: str) -> bool:
        """A name can be made to point at us by whoever owns it; an address cannot."""
        try:
            name = urlsplit(f"//{host}").hostname
            if not name or name in self._hosts:
                return bool(name)
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


# ── what is said ──────────────────────────────────────────────────────────────────────────────────────────────────────


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong is told in one shape, and never with a traceback."""
    try:
        return await handler(request)
    except AccessDenied as error:
        return _tell(request, error, {"WWW-Authenticate": challenge(error, request)})
    except RushesError as error:
        return _tell(request, error)
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if error.status == 405 else {}
        return _tell(request, _of_http(error, request), allow)
    except Damaged as error:
        damage = error.damage
        return _tell(request, damaged(request.match_info.get("id", ""), damage.version, damage.position))
    except StoreError as error:
        _log.error("store.failed", path=request.path, error=type(error).__name__, detail=str(error))
        detail = "The log cannot be used at the moment: try again."
        return _tell(request, Unavailable(detail, billed=_perhaps(request)))
    except (ConnectionError, ClientPayloadError):
        return _tell(request, Refused(400, "invalid_input", "The request was cut off: send it again."))
    except Exception as error:  # noqa: BLE001 - the last line: a bug is told as one, and logged
        _log.error("request.failed", method=request.method, path=request.path, exc_info=error)
        detail = "Something went wrong in rushes itself; its log says what."
        return _tell(request, RushesError(detail, billed=_perhaps(request)))


def _perhaps(request: web.Request) -> Billed:
    """What may have been billed where we cannot say how far the request came."""
    return "unknown" if request.method == "POST" else "no"


def _tell(request: web.Request, error: RushesError, headers: dict[str, str] | None = None) -> web.Response:
    problem = problem_of(error)
    wait = {"Retry-After": "1"} if problem.retryable else {}
    return in_shape(problem, request.path, wait | (headers or {}))


def _of_http(error: web.HTTPException, request: web.Request) -> Refused:
    match error.status:
        case 404:
            return Refused(404, "not_found", f"There is nothing at {request.path!r}.")
        case 405:
            allowed = error.headers.get("Allow", "")
            return Refused(
                405, "invalid_input", f"{request.method} is not possible at {request.path!r}: use {allowed}."
            )
        case 413:
            detail = f"The body is larger than {MAX_BODY_BYTES} bytes: send files to POST /v1/uploads."
            return Refused(413, "invalid_input", detail)
        case status:
            return Refused(status, "invalid_input", f"The request cannot be answered: {error.reason}.")


async def _finish_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = "rushes"  # not which Python and which library, for whoever collects that
    if isinstance(response, Content):
        response.retag()
