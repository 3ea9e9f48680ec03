"""Answers as no provider should give them: cut, empty, another's, with fields that nobody knows, and with secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, cast

import msgspec
from msgspec.structs import replace

from rushes.adapters.base import Response
from rushes.testing.wires import KEY, WRONG_KEY

SIGNED: Final = "https://files.example/take.mp4?sig=canary-5d1c9e"
SECRETS: Final = (KEY, WRONG_KEY, "sig=canary-5d1c9e")
PAGE: Final = b"<html><body><center><h1>nginx</h1></center></body></html>"
GARBAGE: Final = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b'"done"',
    b"\x00\xff\x00",
    b"{" * 5_000,
    PAGE,
    b'{"id":',
    b"\xef\xbb\xbf",
)
SERVER_ERRORS: Final = (500, 502, 503, 504, 524)


def always(answer: Response) -> Callable[[Response], Response]:
    """The same answer in the place of every other."""
    return lambda _: answer


def page(status: int) -> Response:
    """A gateway's."""
    return Response(status=status, body=PAGE, headers={"content-type": "text/html"})


def broken_answers(good: Response) -> Iterator[tuple[str, Response]]:
    """Everything that can come in the place of a good answer."""
    for status in (400, 401, 403, 404, 410, 422, 429, *SERVER_ERRORS):
        yield f"a page with {status}", page(status)
        yield f"nothing with {status}", Response(status=status)
    for body in GARBAGE:
        yield f"{body[:20]!r}", replace(good, body=body)
    for byte in range(len(good.body)):
        yield f"cut at byte {byte}", replace(good, body=good.body[:byte])


def json_changed(reply: Response, change: Callable[[object], object]) -> Response:
    """The answer with another content, where it is JSON."""
    try:
        content: object = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return reply
    return replace(reply, body=msgspec.json.encode(change(content)))


def _mapped(node: object, text: Callable[[str], str], more: Mapping[str, object]) -> object:
    if isinstance(node, str):
        return text(node)
    if isinstance(node, dict):
        held = cast("dict[str, object]", node)
        return {name: _mapped(value, text, more) for name, value in held.items()} | dict(more)
    if isinstance(node, list):
        return [_mapped(value, text, more) for value in cast("list[object]", node)]
    return node


def with_unknown_fields(node: object) -> object:
    """Every object has two more fields."""
    return _mapped(node, lambda text: text, {"rushes_unknown": {"a": [1, None]}, "rushes_new": None})


def telling(reply: Response) -> Response:
    """The answer, telling the key and an address that is a permission."""
    if reply.body == PAGE:
        return replace(reply, body=PAGE + f"{KEY} {SIGNED}".encode())
    return json_changed(reply, _with_secrets)


def _with_secrets(node: object) -> object:
    """Every sentence tells the key, and an address that is a permission."""
    return _mapped(node, lambda text: f"{text} ({KEY}, Bearer {WRONG_KEY}) {SIGNED}" if " " in text else text, {})


def renamed(node: object, old: str, new: str) -> object:
    """Every text with another one in the place of this."""
    return _mapped(node, lambda text: text.replace(old, new) if old in text else text, {})
