"""Events as the log stores them, and back. One decoder per (type, version), kept for ever.

A new optional field needs nothing here. A new meaning gets the next version: its own entry in `DECODERS`, which turns
what is stored into today's struct. Stored rows are never edited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from rushes.actors.messages import TYPES, Command, Event
from rushes.eventstore.base import NewEvent, Recorded
from rushes.faults import Unreadable

VERSION: Final = 1
_ENCODER: Final = msgspec.json.Encoder()
Decode = Callable[[bytes], Event]
DECODERS: Final[dict[tuple[str, int], Decode]] = {
    (name, 1): msgspec.json.Decoder(kind).decode for kind, name in TYPES.items()
}


def encode(event: Event, at: float, cause: Command) -> NewEvent:
    """An event on its way into the log, with the command that caused it in its meta."""
    meta = _ENCODER.encode({"cmd": type(cause).__name__})
    return NewEvent(TYPES[type(event)], VERSION, at, _ENCODER.encode(event), meta)


def decode(recorded: Recorded) -> Event:
    """A stored event as today's struct.

    Raises:
        Unreadable: this release does not know the type or its version, or the payload does not fit it.
    """
    where = f"event {recorded.version} of stream {recorded.stream}, {recorded.type} v{recorded.v}"
    decoder = DECODERS.get((recorded.type, recorded.v))
    if decoder is None:
        raise Unreadable(f"This release does not know {where}: a newer release wrote it, so use that one or a later.")
    try:
        return decoder(recorded.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"The payload of {where} does not decode: {error}.") from error
