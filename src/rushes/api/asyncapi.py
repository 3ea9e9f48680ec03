"""The socket's protocol as an AsyncAPI 3.1 document, made from the very types that read and write its frames."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, Final, TypeAlias, cast, get_args

import msgspec
from msgspec import Struct

from rushes.api.protocol import (
    FRAMES,
    SUBPROTOCOL,
    BatchArgs,
    BatchBody,
    CancelArgs,
    Close,
    CollectArgs,
    CommandName,
    JobArgs,
    ServerFrame,
)
from rushes.video import EventView, VideoRequest

Json: TypeAlias = dict[str, Any]
ARGS: Final[Mapping[CommandName, type[Struct]]] = {
    "generate": VideoRequest,
    "show": JobArgs,
    "poll": JobArgs,
    "cancel": CancelArgs,
    "collect": CollectArgs,
    "submit_batch": BatchBody,
    "batch": BatchArgs,
}
REPLIES: Final[Mapping[str, tuple[str, ...]]] = {
    "hello": ("welcome", "error"),
    "subscribe": ("subscribed", "resync", "error"),
    "command": ("result", "error"),
    "ping": ("pong",),
}
"""What answers a frame; `unsubscribe` is answered by nothing, unless it fails."""
_CLOSES: Final = ", ".join(f"{close.value} {close.name.lower().replace('_', ' ')}" for close in Close)
_SCHEMAS: Final = "#/components/schemas/"
_CHANNEL: Final = "#/channels/stream"


@cache
def document() -> bytes:
    """The document as JSON, the same for every caller."""
    return msgspec.json.format(msgspec.json.encode(described()))


def described() -> Json:
    """The document."""
    sent = {cast("str", _tag(kind)): kind for kind in get_args(ServerFrame)}
    frames: dict[str, type[Struct]] = {**FRAMES, **sent}
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "rushes: the live stream",
            "version": version("rushes"),
            "description": f"One JSON object a message. Closes: {_CLOSES}. docs/websocket.md tells the whole.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "stream": {
                "address": "/v1/ws",
                "title": f"WebSocket, subprotocol {SUBPROTOCOL}",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in frames},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {name: _received(name) for name in FRAMES} | {f"tell_{name}": _sent(name) for name in sent},
        "components": {
            "messages": {name: _message(name, kind) for name, kind in frames.items()},
            "schemas": _schemas([*frames.values(), EventView, *ARGS.values()]),
        },
    }


def _received(name: str) -> Json:
    operation: Json = {"action": "receive", "channel": {"$ref": _CHANNEL}, "messages": [_in_channel(name)]}
    if replies := REPLIES.get(name):
        messages = [_in_channel(reply) for reply in replies]
        operation["reply"] = {"channel": {"$ref": _CHANNEL}, "messages": messages}
    return operation


def _sent(name: str) -> Json:
    return {"action": "send", "channel": {"$ref": _CHANNEL}, "messages": [_in_channel(name)]}


def _in_channel(name: str) -> Json:
    return {"$ref": f"{_CHANNEL}/messages/{name}"}


def _message(name: str, kind: type[Struct]) -> Json:
    summary = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
    return {"name": name, "title": name, "summary": summary, "payload": {"$ref": _SCHEMAS + kind.__name__}}


def _tag(kind: type[Struct]) -> object:
    return kind.__struct_config__.tag


def _schemas(kinds: list[type[Struct]]) -> Json:
    """The types as JSON Schema, with what the types leave open: what items and arguments are."""
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS + "{name}")
    schemas = {name: _plain(schema) for name, schema in schemas.items()}
    schemas["Events"]["properties"]["items"]["items"] = {"$ref": f"{_SCHEMAS}EventView"}
    command = schemas["Command"]
    command["properties"]["args"] = {"type": "object"}
    command["oneOf"] = [
        {"properties": {"name": {"const": name}, "args": {"$ref": _SCHEMAS + args.__name__}}}
        for name, args in ARGS.items()
    ]
    return schemas


def _plain(schema: object) -> Any:
    """A schema without `discriminator`, which AsyncAPI writes another way, and with its texts flush left."""
    if isinstance(schema, list):
        return [_plain(one) for one in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    known = cast("dict[str, object]", schema)
    plain = {key: _plain(value) for key, value in known.items() if key != "discriminator"}
    if isinstance(text := plain.get("description"), str):
        plain["description"] = inspect.cleandoc(text)
    return plain
