"""The fixtures of this tier; what they are made of is in `support/talking`."""

from __future__ import annotations

from talking import client, server, serving, studio, web

__all__ = ["client", "server", "serving", "studio", "web"]
