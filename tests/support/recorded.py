"""One job lived through in virtual time on the real system, at a provider's twin, with its traffic recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace
from taped import recorded

from rushes.assets import Assets
from rushes.replay.recording import InputDigest, Recording
from rushes.testing.crashes import TENANT, Point
from rushes.testing.orders import Order, plainest
from rushes.testing.wires import Pair, Wire
from rushes.units import keyed_job_id

LOCAL = "http://127.0.0.1:8080"


def first_order(pair: Pair) -> Order:
    """The plainest request of a provider, of those that need no clip of its own."""
    return next(one for one in plainest(pair.adapter.capabilities) if all(not i.made for i in one.spec.inputs))


def job_of(pair: Pair) -> str:
    """The name of the job that such an order becomes."""
    return keyed_job_id(TENANT, first_order(pair).about, 0)


def lived(wire: Wire, order: Order, folder: Path, point: Point | None = None, **more: Any) -> Recording:
    """Run one job until it has ended or waits for a person, and read it as from a data folder. See `recorded`."""
    folder.mkdir(exist_ok=True)
    recording = recorded(wire, order, point, folder=folder, assets=Assets(folder / "takes"), **more)
    return replace(
        recording,
        inputs=tuple(
            InputDigest(
                role=str(one.role),
                sha256=one.asset.sha256,
                media_type=one.asset.media_type,
                size_bytes=one.asset.size_bytes,
            )
            for one in order.spec.inputs
        ),
        versions={"rushes": "0.1.0"},
        source=str(folder),
    )


def at_a_twin(recording: Recording, address: str, other: str = LOCAL) -> Recording:
    """The same job, had its provider been somewhere on this machine."""
    parts = urlsplit(address)
    own = f"{parts.scheme}://{parts.netloc}"

    def there(text: bytes) -> bytes:
        return text.replace(own.encode(), other.encode())

    return replace(
        recording,
        events=tuple(replace(one, data=there(one.data)) for one in recording.events),
        exchanges=tuple(
            msgspec.json.decode(there(msgspec.json.encode(one)), type=type(one)) for one in recording.exchanges
        ),
    )


def longer_clip(clip: bytes) -> bytes:
    """Another clip: the same with a box behind it that players pass over."""
    return clip + (100).to_bytes(4, "big") + b"free" + bytes(92)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
