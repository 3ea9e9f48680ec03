"""Hearing what a job and its provider say to each other, and handing it over."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog
from msgspec import Struct

from rushes.adapters.base import Adapter, Ask, FlowName, Heeded, Keep, Request, Response, Sink, Transport
from rushes.adapters.redaction import LONGEST_SECRET
from rushes.flight.exchange import MAX_TEXT_BYTES
from rushes.units import AssetRef
from rushes.video import Target

Got = TypeVar("Got", Response, AssetRef)

WINDOW_BYTES: Final = MAX_TEXT_BYTES + LONGEST_SECRET  # what is looked at, so that no key is kept by half
_log = structlog.get_logger("rushes")


class Spooled(Struct, frozen=True):
    """A large answer that went to a file."""

    size_bytes: int
    sha256: str
    head: bytes


class Heard(Struct, kw_only=True):
    """An exchange on its way to the thread."""

    id: int = 0
    job: str
    attempt: int
    trace: str = ""
    flow: FlowName
    adapter: Adapter
    ask: Ask
    result: Response | AssetRef | Heeded | BaseException
    spooled: Spooled | None = None  # of an answer that is a file, or a callback's body
    at: float = 0.0
    duration_s: float


class Listener(Protocol):
    """Whom exchanges are handed over to: the record."""

    def draw(self) -> int:
        """An id, for an exchange that is still under way."""
        ...

    def hear(self, heard: Heard) -> int:
        """Take over an exchange that has just ended; the answer is its id, 0 where it was dropped."""
        ...


class FlightTap:
    """Hears one effect of one job. See `adapters.base.Tap`."""

    def __init__(self, flight: Listener, job: str, attempt: int, trace: str) -> None:
        self.flight, self.job, self.attempt, self.trace = flight, job, attempt, trace
        self.ids: list[int] = []

    def on(self, line: Transport, flow: FlowName) -> Transport:
        """The same line, overheard."""
        return _Overheard(line, flow, self)

    def hand_over(
        self,
        flow: FlowName,
        adapter: Adapter,
        ask: Ask,
        result: Response | AssetRef | Heeded | BaseException,
        began_s: float,
        spooled: Spooled | None = None,
        id: int = 0,
    ) -> None:
        """An exchange has ended. A bug here must not lose what a provider has said."""
        heard = Heard(
            id=id,
            job=self.job,
            attempt=self.attempt,
            trace=self.trace,
            flow=flow,
            adapter=adapter,
            ask=ask,
            result=result,
            spooled=spooled,
            duration_s=time.perf_counter() - began_s,
        )
        try:
            known = self.flight.hear(heard)
        except Exception as error:  # noqa: BLE001 - as above
            _log.error("flight.failed", job=self.job, error=type(error).__name__, exc_info=error)
        else:
            if known and known not in self.ids:
                self.ids.append(known)


class FlightCall:
    """One callback, from when it came. See `adapters.base.Call`."""

    def __init__(self, tap: FlightTap, adapter: Adapter, request: Request, body: bytes) -> None:
        self.id = tap.flight.draw()
        self._tap, self._adapter, self._request, self._body = tap, adapter, request, body
        self._began_s = time.perf_counter()

    def ended(self, result: Heeded | BaseException) -> None:
        """See Call."""
        spooled = Spooled(len(self._body), hashlib.sha256(self._body).hexdigest(), self._body[:WINDOW_BYTES])
        self._tap.hand_over("callback", self._adapter, self._request, result, self._began_s, spooled, self.id)


class _Overheard:
    """A transport whose every exchange is recorded."""

    def __init__(self, line: Transport, flow: FlowName, tap: FlightTap) -> None:
        self._line, self._tap = line, tap
        self._flow: FlowName = flow

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        """See Transport."""
        return await self._overhear(adapter, request, self._line.send(adapter, target, request))

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        """See Transport."""
        return await self._overhear(adapter, ask, self._line.keep(adapter, target, ask, sink))

    async def _overhear(self, adapter: Adapter, ask: Ask, doing: Awaitable[Got]) -> Got:
        began_s = time.perf_counter()
        try:
            got = await doing
        except BaseException as error:
            self._tap.hand_over(self._flow, adapter, ask, error, began_s)
            raise
        spooled = None
        if isinstance(got, Response) and got.path:  # it may be gone when the thread comes to it
            with suppress(Exception):  # as in `hand_over`
                spooled = await asyncio.to_thread(_spooled, Path(got.path))
        self._tap.hand_over(self._flow, adapter, ask, got, began_s, spooled)
        return got


def _spooled(path: Path) -> Spooled:
    with path.open("rb") as file:
        head = file.read(WINDOW_BYTES)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Spooled(file.tell(), sha256, head)
