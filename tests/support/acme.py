"""A provider that exists for tests: an adapter, its twin, and a transport between them that can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import (
    Adapter,
    CancelAnswer,
    Done,
    Failed,
    Flow,
    Keep,
    Outcome,
    Output,
    Prepared,
    Request,
    Response,
    Sink,
    Stopped,
    Unfinished,
    Vanished,
    call,
    keep,
    refused,
    reply_json,
)
from rushes.adapters.capabilities import CancelKind, Capabilities, DoubtClass, Model, PollSchedule, Price, Terms
from rushes.assets import Assets
from rushes.eventstore.base import EventStore
from rushes.faults import Fault, NotFound
from rushes.studio import Doors, Studio
from rushes.units import AssetRef, Handle
from rushes.video import Config, Probe, Target, VideoSpec
from rushes.views.jobs import ReadonlyView

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
CLIP = b"\0\0\0\x18ftypisom" + b"\0" * 200


class Render(msgspec.Struct):
    """Acme's own word for a job."""

    id: str
    key: str
    status: str = "running"
    percent: int = 0


class Acme(Adapter):
    """The adapter."""

    name = "acme"
    capabilities = Capabilities(
        base_url="https://acme.example",
        base_url_env="",
        models=(
            Model(
                id="a1",
                operations=("text-to-video",),
                durations_s=(5.0,),
                fields=frozenset({"seed"}),
                defaults=Config(duration_seconds=5.0),
                price=Price(per="clip", micro_usd=500_000, source="acme says so", as_of="2026-11-01"),
            ),
        ),
        submits_at_once=2,
    )

    def __init__(self, doubt: DoubtClass = "B", cancel: CancelKind = "stops", poll_s: float = 0.01) -> None:
        self._terms = Terms(
            doubt=doubt,
            cancel=cancel,
            poll=PollSchedule(min_s=poll_s, max_s=poll_s),
            settle_s=0.05,
            looks_s=(0.01, 0.05, 0.1),
            key_ttl_s=60.0,
            gone_grace_s=0.0,
        )

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002 - an adapter may look
        return self._terms

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[Prepared]:  # noqa: ARG002
        yield from ()
        return {}

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        body = {"key": key, "prompt": spec.prompt}
        reply = yield from call(Request(method="POST", url="/renders", body=body, spends=True))
        return Handle(reply_json(self, reply, Render).id)

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:  # noqa: ARG002
        reply = yield from call(Request(method="GET", url=f"/renders/{handle.id}"))
        if reply.status == 404:
            return Vanished()
        render = reply_json(self, reply, Render)
        match render.status:
            case "done":
                return Done((Output(f"https://acme.example/files/{render.id}"),))
            case "cancelled":
                return Stopped("no")
            case _:
                return Unfinished(render.percent)

    def cancel(self, handle: Handle, target: Target) -> Flow[CancelAnswer]:  # noqa: ARG002
        reply = yield from call(Request(method="DELETE", url=f"/renders/{handle.id}"))
        return "accepted" if reply_json(self, reply, Render).status == "cancelled" else "too_late"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        reply = yield from call(Request(method="GET", url="/renders", query={"key": key}))
        if reply.status == 404:
            return None
        return Handle(reply_json(self, reply, Render).id)

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        return (yield from keep(Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:
        codes: dict[int, Any] = {401: "authentication_failed", 429: "rate_limited"}
        if reply.status in codes:
            return Fault(codes[reply.status], "acme says no", retryable=reply.status == 429)
        return Fault("invalid_input", "acme does not want it") if reply.status == 422 else None


class AcmeTwin:
    """The provider: every accepted create is a charge."""

    def __init__(self) -> None:
        self.renders: list[Render] = []
        self.answers: list[int] = []  # statuses to answer the next creates with, instead of taking them
        self.retry_after = "0"  # what it says beside them
        self.done_at_once = True
        self.polls = 0

    def handle(self, request: Request, now: float) -> Response:  # noqa: ARG002
        assert request.query is not None
        if request.method == "POST":
            return self._create(request)
        wanted = request.query.get("key") or request.url.rpartition("/")[2]
        found = next((render for render in self.renders if wanted in (render.key, render.id)), None)
        if found is None:
            return Response(status=404)
        if request.method == "DELETE" and found.status == "running":
            found.status = "cancelled"
        elif request.method == "GET" and not request.query:
            self.polls += 1
            if self.done_at_once and found.status == "running":
                found.status = "done"
        return Response(status=200, body=msgspec.json.encode(found))

    def _create(self, request: Request) -> Response:
        if self.answers:
            return Response(status=self.answers.pop(0), headers={"retry-after": self.retry_after})
        assert isinstance(request.body, dict)
        render = Render(f"r{len(self.renders)}", str(request.body["key"]))
        self.renders.append(render)
        return Response(status=201, body=msgspec.json.encode(render))


class Wire:
    """A transport straight to the twin. `lose`: the next answers to paid calls do not come back; `gate`: they wait."""

    def __init__(self, twin: AcmeTwin) -> None:
        self.twin = twin
        self.lose = 0
        self.gate: asyncio.Event | None = None
        self.sending = asyncio.Event()
        self.files_bad = 0

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:  # noqa: ARG002
        reply = self.twin.handle(request, 0.0)
        if request.spends:
            self.sending.set()
            if self.gate is not None:
                await self.gate.wait()
            if self.lose:
                self.lose -= 1
                raise Failed(Fault("no_answer", "the line went dead", retryable=True), certain=False)
        if reply.status == 401:
            raise refused(adapter, reply)
        return reply

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:  # noqa: ARG002
        async def chunks() -> AsyncIterator[bytes]:
            yield CLIP

        return await sink(chunks(), media_type="video/mp4", size_bytes=len(CLIP))


class LoopClock:
    """Wall time that follows the loop's."""

    def now(self) -> float:
        return round(1_700_000_000.0 + asyncio.get_running_loop().time(), 3)


async def no_probe(path: Path) -> Probe:  # noqa: ARG001
    """What a clip says of itself, when nobody looks."""
    return Probe()


def _no_fetch(url: str, max_bytes: int) -> AsyncGenerator[bytes, None]:  # noqa: ARG001
    raise NotFound(url)


async def _no_look(path: Path) -> tuple[int, int]:  # noqa: ARG001
    return 1, 1


def make(
    store: EventStore, folder: Path, wire: Wire, adapter: Adapter | None = None, kind: type[System] = System
) -> tuple[System, Studio]:
    """A system and a studio around a store and a wire."""
    adapters: dict[str, Adapter] = {"acme": adapter or Acme()}
    clock, assets = LoopClock(), Assets(folder)
    performer = Performer(adapters, wire, assets, clock, no_probe)
    system = kind(store=store, adapters=adapters, performer=performer, clock=clock)
    doors = Doors(
        fetch=_no_fetch, look_at_image=_no_look, credentials={}, default_model="acme", unavailable=lambda _: None
    )
    jobs = ReadonlyView(store)
    return system, Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=doors)
