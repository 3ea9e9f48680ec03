"""What machines ask a server that is looked after: whether it can take work, and what it has counted."""

from __future__ import annotations

from aiohttp import web

from rushes.api.protocol import Health, Refused, Strict
from rushes.api.rest import answer, query
from rushes.api.stream import Stream
from rushes.studio import Studio

TEXT: dict[str, str] = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


def operations_routes(studio: Studio, stream: Stream) -> list[web.RouteDef]:
    """The routes over one studio; `stream` knows who is connected."""

    async def ready(request: web.Request) -> web.StreamResponse:
        """Whether jobs can be given to this server: it has its log, its past and room."""
        query(request, Strict)
        if reason := studio.unready():
            raise Refused(503, "unavailable", f"The server takes no jobs at the moment: {reason}.", retryable=True)
        return answer(Health())

    async def metrics(request: web.Request) -> web.StreamResponse:
        """All that is counted, about all tenants together."""
        query(request, Strict)
        return web.Response(text=await studio.metrics(stream.connected), headers=TEXT)

    return [web.get("/readyz", ready), web.get("/metrics", metrics)]
