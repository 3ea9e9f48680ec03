"""Everything about the live stream that is served, in one table."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from aiohttp import web

from rushes.api.asyncapi import document
from rushes.api.protocol import Strict
from rushes.api.rest import query
from rushes.api.sse import EventStreams
from rushes.api.stream import Stream

STREAM: Final = web.AppKey("stream", Stream)  # of an application: who is connected, and what waits for them


def live_routes(stream: Stream) -> list[web.RouteDef]:
    """The routes over one stream."""
    streams = EventStreams(stream)
    return [
        web.get("/v1/ws", stream.connect),
        web.get("/v1/events", streams.of_all),
        web.get("/v1/jobs/{id}/stream", streams.of_job),
        web.get("/v1/rushes.js", script),
        web.get("/asyncapi.json", described),
    ]


async def described(request: web.Request) -> web.StreamResponse:
    """The socket's protocol, for machines."""
    query(request, Strict)
    return web.Response(body=document(), content_type="application/json")


async def script(request: web.Request) -> web.StreamResponse:
    """The client for pages: one ES module, which pages of other hosts may load too."""
    query(request, Strict)
    text = files("rushes.api").joinpath("page/rushes.js").read_text("utf-8")
    headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"}
    return web.Response(text=text, content_type="text/javascript", charset="utf-8", headers=headers)
