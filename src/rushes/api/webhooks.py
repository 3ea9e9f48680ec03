"""Where providers call back. Whoever calls is known by the address, which only its provider was told."""

from __future__ import annotations

from typing import Final

import structlog
from aiohttp import web

from rushes.api.protocol import Refused
from rushes.faults import AccessDenied
from rushes.studio import Studio

PATH: Final = "/v1/webhooks/"
MAX_BODY_BYTES: Final = 2**20
_log = structlog.get_logger("rushes")


def webhook_routes(studio: Studio) -> list[web.RouteDef]:
    """The one route."""

    async def called(request: web.Request) -> web.StreamResponse:
        """Take in a callback; the answer comes once it is on disk, and never waits for the provider."""
        body = await _whole_body(request)
        try:
            provider, headers = request.match_info["provider"], request.headers
            await studio.hearing.hear(provider, dict(request.query), headers, body)
        except AccessDenied as error:  # there is no key of ours that would let it in
            raise Refused(403, "forbidden", error.detail) from error
        return web.Response(status=204)

    return [web.post(PATH + "{provider}", called)]


async def _whole_body(request: web.Request) -> bytes:
    """The very bytes. One that is too large is refused as soon as that is seen."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            _log.warning("callback.refused", provider=request.match_info["provider"], reason="too_large")
            raise Refused(413, "invalid_input", f"A callback has at most {MAX_BODY_BYTES} bytes.")
    return bytes(body)
