"""What came to a twin and what it charged: what tests and people look at when the question is who paid how often."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Final, cast

from msgspec import Struct

from rushes.adapters.base import Body, Inline

SECRET: Final = re.compile(r"authorization|cookie|key|secret|token")
DATA_URI: Final = re.compile(r"data:[^,]*;base64,")
LONG: Final = 1024  # characters: longer base64 is a file


class Line(Struct, kw_only=True):
    """A request that came, and how it was answered."""

    provider: str
    at: float  # seconds since 1970, by the twin's clock
    method: str
    path: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}  # without the transport's; of a key only its scheme
    body: object = None  # a file in it is its size and sha256
    status: int = 0  # 0: nothing was answered
    fault: str = ""  # those that struck it

    @property
    def about(self) -> str:
        """The method and path."""
        return f"{self.method} {self.path}"


class Charge(Struct, frozen=True, kw_only=True):
    """Money that was taken."""

    provider: str
    at: float  # seconds since 1970, by the twin's clock
    job: str  # the provider's id
    amount: float
    unit: str  # the provider's own
    micro_usd: int | None  # None: what it costs is not known
    why: str


class Ledger(Struct):
    """What came to a twin and what it charged, in order."""

    requests: list[Line] = []
    charges: list[Charge] = []


def symbolic(body: Body) -> object:
    """A body as JSON can show it: a file stands as its form, size and sha256, whichever way it came."""
    match body:
        case None:
            return None
        case Mapping():
            return {name: _leaf(value) for name, value in body.items()}
        case _:
            return [
                {"name": part.name, "filename": part.filename, "media_type": part.media_type}
                | {"content": _leaf(part.content)}
                for part in body
            ]


def _leaf(value: object) -> object:
    match value:
        case Inline(asset=asset, form=form):
            return {"file": form, "size_bytes": asset.size_bytes, "sha256": asset.sha256}
        case bytes():
            return _file("bytes", value)
        case str():
            return _text(value)
        case Mapping():
            return {name: _leaf(held) for name, held in cast("Mapping[str, object]", value).items()}
        case list() | tuple():
            return [_leaf(held) for held in cast("Sequence[object]", value)]
        case _:
            return value


def _text(text: str) -> object:
    head = DATA_URI.match(text)
    if head is None and (len(text) < LONG or re.search(r"[^A-Za-z0-9+/=]", text)):
        return text
    try:
        return _file("data-uri" if head else "base64", b64decode(text[head.end() if head else 0 :], validate=True))
    except ValueError:
        return text


def _file(form: str, content: bytes) -> object:
    return {"file": form, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def masked(name: str, value: str) -> str:
    """A header's value; of one that may hold a key only what stands before it."""
    if not SECRET.search(name) or name == "idempotency-key":
        return value
    scheme, space, _ = value.partition(" ")
    return f"{scheme} …" if space else "…"
