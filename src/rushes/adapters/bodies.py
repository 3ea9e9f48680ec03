"""The bytes of bodies: JSON and forms with kept files in their places, and data: addresses."""

from __future__ import annotations

import base64
import binascii
import hashlib
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast
from urllib.parse import unquote_to_bytes

import msgspec

from rushes.adapters.base import Failed, Inline, Part, Response
from rushes.faults import Fault
from rushes.units import AssetRef

Read = Callable[[AssetRef], bytes]
BLOCK_CHARS: Final = 512 * 1024  # a multiple of four: each is base64 of its own
DATA_URI: Final = re.compile(r"data:(?P<kind>[^,]{0,200}),(?P<content>.*)", re.DOTALL)


def encode(body: Mapping[str, object] | Sequence[Part], read: Read) -> tuple[bytes, str]:
    """A body as bytes, with its media type. Equal bodies are equal bytes: recordings are matched by them.

    A single part without a name is the whole body, of the media type that it says.
    """
    if isinstance(body, Mapping):
        return msgspec.json.encode(_filled(body, read)), "application/json"
    if len(body) == 1 and not body[0].name:
        return _part_content(body[0], read), body[0].media_type
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


class Embedded:
    """A file that stands as base64 in a JSON answer. An answer that is a file itself is not read into memory."""

    def __init__(self, reply: Response, place: Sequence[str | int]) -> None:
        """Raises Failed where there is no such file."""
        try:
            self._text = _text_at(reply, place)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError) as error:
            raise _not_there() from error
        padding = bytes(self._text[-2:]).count(b"=")
        self.size_bytes = len(self._text) // 4 * 3 - padding

    def pieces(self) -> Iterator[bytes]:
        """Its bytes. Raises Failed where they are no base64."""
        for start in range(0, len(self._text), BLOCK_CHARS):
            try:
                yield binascii.a2b_base64(self._text[start : start + BLOCK_CHARS], strict_mode=True)
            except binascii.Error as error:
                raise _not_there() from error


def _text_at(reply: Response, place: Sequence[str | int]) -> memoryview:
    """The characters of a text in the answer. Nothing is copied, unless some of them are escaped."""
    node: bytes | mmap.mmap | msgspec.Raw = _mapped(Path(reply.path)) if reply.path else reply.body
    for step in place:
        if isinstance(step, str):
            node = msgspec.json.decode(node, type=dict[str, msgspec.Raw])[step]
        else:
            node = msgspec.json.decode(node, type=list[msgspec.Raw])[step]
    text = memoryview(node)
    if bytes(text[:1]) != b'"':
        raise LookupError(place)
    return memoryview(msgspec.json.decode(text, type=str).encode()) if re.search(rb"\\", text) else text[1:-1]


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _not_there() -> Failed:
    return Failed(Fault("bad_answer", "The answer does not hold the result that it promised.", retryable=True))
