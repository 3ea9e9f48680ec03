"""The bytes of bodies: JSON and forms with kept files in their places, and data: addresses."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast
from urllib.parse import unquote_to_bytes

import msgspec

from rushes.adapters.base import Failed, Inline, Part
from rushes.faults import Fault
from rushes.units import AssetRef

Read = Callable[[AssetRef], bytes]
DATA_URI: Final = re.compile(r"data:(?P<kind>[^,]{0,200}),(?P<content>.*)", re.DOTALL)


def encode(body: Mapping[str, object] | Sequence[Part], read: Read) -> tuple[bytes, str]:
    """A body as bytes, with its media type. Equal bodies are equal bytes: recordings are matched by them."""
    if isinstance(body, Mapping):
        return msgspec.json.encode(_filled(body, read)), "application/json"
    parts = [b"%s\r\n\r\n%s\r\n" % (_part_head(part), _part_content(part, read)) for part in body]
    boundary = hashlib.sha256(b"\0".join(parts)).hexdigest()[:40]
    form = b"".join(b"--%s\r\n%s" % (boundary.encode(), part) for part in parts) + f"--{boundary}--\r\n".encode()
    return form, f"multipart/form-data; boundary={boundary}"


def _part_head(part: Part) -> bytes:
    head = f'Content-Disposition: form-data; name="{_quoted(part.name)}"'
    head += f'; filename="{_quoted(part.filename)}"' if part.filename else ""
    head += f"\r\nContent-Type: {_quoted(part.media_type)}" if part.media_type else ""
    return head.encode()


def _quoted(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _part_content(part: Part, read: Read) -> bytes:
    content = _filled(part.content, read)
    return content if isinstance(content, bytes) else str(content).encode()


def _filled(node: object, read: Read) -> object:
    """The same body with the kept files in their places."""
    if isinstance(node, Inline):
        return _inlined(node, read(node.asset))
    if isinstance(node, Mapping):
        return {key: _filled(value, read) for key, value in cast("Mapping[str, object]", node).items()}
    if isinstance(node, list | tuple):
        return [_filled(item, read) for item in cast("Sequence[object]", node)]
    return node


def _inlined(place: Inline, content: bytes) -> str | bytes:
    if place.form == "bytes":
        return content
    text = base64.b64encode(content).decode()
    return text if place.form == "base64" else f"data:{place.asset.media_type};base64,{text}"


def data_uri(url: str, max_bytes: int) -> bytes:
    """The bytes that a data: address holds. Raises Failed."""
    if not (match := DATA_URI.match(url)):
        raise Failed(Fault("invalid_input", "Its data: address has no comma."))
    try:
        packed = match["kind"].endswith(";base64")
        content = base64.b64decode(match["content"], validate=True) if packed else unquote_to_bytes(match["content"])
    except (binascii.Error, ValueError) as error:
        raise Failed(Fault("invalid_input", "Its data: address is not valid base64.")) from error
    if len(content) > max_bytes:
        raise Failed(Fault("invalid_input", f"It is larger than the {max_bytes} bytes that are allowed."))
    return content
