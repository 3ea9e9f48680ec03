"""The socket server around any twin: a provider's wire on loopback, so that the real client can be pointed at it."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from aiohttp import BodyPartReader, web

from rushes.adapters.base import Body, Part, Request, Response, Twin

MAX_BODY_BYTES = 256 * 2**20


class TwinServer:
    """A twin that answers at `url` until it is closed."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self) -> None:
        """Let go of the socket. The twin itself belongs to whoever made it."""
        await self._runner.cleanup()


async def serve_twin(
    twin: Twin, host: str = "127.0.0.1", port: int = 0, *, now: Callable[[], float] = time.time
) -> TwinServer:
    """Answer every path and method with the twin. Port 0 takes a free one."""

    async def answer(incoming: web.Request) -> web.StreamResponse:
        return _outgoing(twin.handle(await _incoming(incoming), now()))

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return TwinServer(runner)


async def _incoming(request: web.Request) -> Request:
    """The request as twins see it: whole URL without its query, lower-case header names, a decoded body."""
    return Request(
        method=request.method,
        url=f"{request.scheme}://{request.host}{request.rel_url.raw_path}",
        body=await _body(request),
        headers={name.lower(): value for name, value in request.headers.items()},
        query=dict(request.query),
    )


async def _body(request: web.Request) -> Body:
    """A JSON object as a Mapping, a form as Parts, other bytes as one Part without a name."""
    if not request.body_exists:
        return None
    if request.content_type.startswith("multipart/"):
        return [await _part(part) async for part in await request.multipart() if isinstance(part, BodyPartReader)]
    raw = await request.read()
    if request.content_type != "application/json":
        return [Part("", raw, media_type=request.content_type)] if raw else None
    try:
        return msgspec.json.decode(raw, type=dict[str, object]) if raw else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise web.HTTPBadRequest(text="The body is not a JSON object.") from error


async def _part(part: BodyPartReader) -> Part:
    """One part of a form: text, unless it is a file or says that it is something else."""
    raw = bytes(await part.read(decode=True))
    media_type = part.headers.get("content-type", "")
    if part.filename or not (media_type or "text/plain").startswith("text/"):
        return Part(part.name or "", raw, part.filename or "", media_type)
    return Part(part.name or "", raw.decode(errors="replace"))


def _outgoing(reply: Response) -> web.StreamResponse:
    """The twin's answer on the wire; aiohttp counts the length itself."""
    headers = {name: value for name, value in reply.headers.items() if name.lower() != "content-length"}
    if reply.path:
        return web.FileResponse(reply.path, status=reply.status, headers=headers)
    return web.Response(status=reply.status, body=reply.body, headers=headers)
