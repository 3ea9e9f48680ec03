"""Our side: the adapters' own flows, one at a time, over the client that production uses."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.base import (
    Adapter,
    Body,
    CancelAnswer,
    Done,
    Flow,
    Keep,
    Outcome,
    Prepared,
    Request,
    Response,
    Sink,
    Transport,
    Unfinished,
    drive,
)
from rushes.adapters.catalogue import rows_of
from rushes.adapters.fit import fit
from rushes.adapters.http import Http
from rushes.main import SystemClock, base_urls_of, credentials_of, installed_adapters, with_settings_of
from rushes.testing.answers import renamed
from rushes.testing.orders import PROMPT, content_of, given
from rushes.units import AssetRef, Handle
from rushes.video import Input, Operation, Role, Target, VideoSpec, operation_of

T = TypeVar("T")

KEY: Final = "job_1-1"  # what an attempt is called
CHANGED: Final = "a lake at dusk"
POLL_S: Final = 0.05  # the emulator's time runs faster


class Order(Struct, frozen=True):
    """A request in its model's terms, and where it goes."""

    spec: VideoSpec
    target: Target


class Ours:
    """The client, and a loop for it. `broken` changes the prompt in every paid body: then something must be found."""

    def __init__(self, *, broken: bool = False, **more: str) -> None:
        """`more` are variables beside those that are set."""
        self._runner, self._broken, self._environ = asyncio.Runner(), broken, {**os.environ, **more}
        self.adapters = with_settings_of(installed_adapters(), self._environ)
        self.credentials = credentials_of(self.adapters, self._environ)

    def __enter__(self) -> Self:
        """Open the client."""
        self._http = self._runner.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, and the loop."""
        self._runner.run(self._http.close())
        self._runner.close()

    async def _open(self) -> Http:
        base_urls = base_urls_of(self.adapters, self._environ)
        return Http(base_urls=base_urls, credentials=self.credentials, read=content_of, inner={}, clock=SystemClock())

    def told(self, **more: str) -> Ours:
        """Another one, with more variables set."""
        return Ours(broken=self._broken, **more)

    def of(self, provider: str) -> Provider:
        """One of them."""
        return Provider(self, self.adapters[provider])

    def run(self, flow: Flow[T], adapter: Adapter, target: Target) -> T:
        """Play a flow to its end. Raises Failed."""
        line: Transport = _Changing(self._http) if self._broken else self._http
        return self._runner.run(drive(flow, line, adapter, target, _in_memory))


class Provider:
    """An adapter, whose flows are plain calls. All of them raise Failed."""

    def __init__(self, ours: Ours, adapter: Adapter) -> None:
        self._ours, self._adapter = ours, adapter

    def input(self, model: str, role: Role, number: int = 0) -> Input:
        """A small file in a role, as the model takes it."""
        row = next(row for row in rows_of(self._adapter, model) if role in row.roles)
        return given(role, number, row)

    def order(
        self, model: str, *inputs: Input, operation: Operation | None = None, prompt: str = PROMPT, **wishes: Any
    ) -> Order:
        """A request in the model's terms, as a studio makes it. Raises BadRequest."""
        auth, meant = self._adapter.capabilities.auth, operation_of(operation, {one.role for one in inputs})
        spec = VideoSpec(prompt=prompt, operation=meant, inputs=inputs, **wishes)
        spec, row = fit(spec, rows_of(self._adapter, model))
        keys = [name for name in auth.env if name in self._ours.credentials] if auth else []
        return Order(spec, Target(provider=self._adapter.name, model=row.id, credential=keys[0] if keys else ""))

    def prepare(self, order: Order) -> Prepared:
        """Upload what must be."""
        return self._run(self._adapter.prepare(order.spec, order.target, KEY), order)

    def submit(self, order: Order, prepared: Prepared | None = None) -> Handle:
        """Start it. What `prepare` gained is asked for where it is not given."""
        ready = self.prepare(order) if prepared is None else prepared
        return self._run(self._adapter.submit(order.spec, order.target, ready, KEY), order)

    def status(self, order: Order, handle: Handle) -> Outcome:
        """Ask once."""
        return self._run(self._adapter.status(handle, order.target), order)

    def follow(self, order: Order, handle: Handle) -> Outcome:
        """Ask until it has ended."""
        while isinstance(outcome := self.status(order, handle), Unfinished):
            time.sleep(POLL_S)
        return outcome

    def find(self, order: Order) -> Handle | None:
        """Look for it by what it is marked with."""
        return self._run(self._adapter.find(order.target, KEY, 0.0), order)

    def cancel(self, order: Order, handle: Handle) -> CancelAnswer:
        """Ask it to stop."""
        return self._run(self._adapter.cancel(handle, order.target), order)

    def download(self, order: Order, handle: Handle, done: Outcome, place: int = 0) -> AssetRef:
        """Keep a result of one that is done."""
        assert isinstance(done, Done), done
        return self._run(self._adapter.download(done.outputs[place], handle, order.target), order)

    def _run(self, flow: Flow[T], order: Order) -> T:
        return self._ours.run(flow, self._adapter, order.target)


def data_of(file: Input) -> str:
    """The bytes of a file as base64."""
    return base64.b64encode(content_of(file.asset)).decode()


def data_uri(file: Input) -> str:
    """A file as an address that holds it."""
    return f"data:{file.asset.media_type};base64,{data_of(file)}"


class _Changing:
    """A line that says something else than it was told to."""

    def __init__(self, line: Transport) -> None:
        self._line = line

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        """Send it, changed where it is paid for."""
        changed = replace(request, body=_changed(request.body)) if request.spends else request
        return await self._line.send(adapter, target, changed)

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        """As it is."""
        return await self._line.keep(adapter, target, ask, sink)


def _changed(body: Body) -> Body:
    if body is None or isinstance(body, Mapping):
        return body and {name: renamed(value, PROMPT, CHANGED) for name, value in body.items()}
    return [replace(part, content=CHANGED) if part.content == PROMPT else part for part in body]


async def _in_memory(chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
    content = b"".join([chunk async for chunk in chunks])
    assert size_bytes in (None, len(content))
    return AssetRef("kept", hashlib.sha256(content).hexdigest(), len(content), media_type)
