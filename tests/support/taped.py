"""A job's life on the real system before a provider's twin, in virtual time, with the real flight record beside it."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from structlog.testing import capture_logs

from rushes.flight import Flight
from rushes.replay.recording import Recording
from rushes.testing.crashes import TENANT, Point, live_through
from rushes.testing.orders import Order
from rushes.testing.wires import EPOCH_S, KEY, Wire

LONGEST_S = 60 * 3600.0


class Clock:
    """The loop's time as the world's. The record's thread has no loop: there it is what it was last."""

    last = EPOCH_S

    def now(self) -> float:
        with suppress(RuntimeError):
            self.last = round(EPOCH_S + asyncio.get_running_loop().time(), 3)
        return self.last


def recorded(
    wire: Wire,
    order: Order,
    point: Point | None = None,
    *,
    folder: Path | None = None,
    flight: bool = True,
    until_s: float = LONGEST_S,
    **more: Any,
) -> Recording:
    """What is kept of one life, with `flight.db` in that folder; `more` is for `live_through`."""
    with TemporaryDirectory() as nowhere, capture_logs():
        path = (folder or Path(nowhere)) / "flight.db"
        with closing(Flight(path, clock=Clock(), base_url=lambda one: one.address(), secrets=[KEY])) as record:
            heard = record if flight else None
            ending = live_through(wire, order, point, recorder=heard, calls=heard, until_s=until_s, **more)
            exchanges = record.exchanges(ending.job_id)
    return Recording(job_id=ending.job_id, tenant=TENANT, events=ending.log, exchanges=tuple(exchanges))
