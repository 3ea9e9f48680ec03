"""One provider for each class of doubt, behind a real socket, with a ledger that outlives who asked; and its adapters.

POST   /{class}/renders             {key, prompt}   a charge; class a knows the key, and charges it once
GET    /{class}/renders?key=        class b: the render of the key; class c: of the mark, which is the key
GET    /{class}/renders/{id}        {id, status, outputs}
DELETE /{class}/renders/{id}
GET    /files/{id}/{n}.mp4
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, get_args

import msgspec
from aiohttp import web

from rushes.adapters.base import (
    Adapter,
    CancelAnswer,
    Done,
    Flow,
    Keep,
    Outcome,
    Output,
    Prepared,
    Request,
    Response,
    Stopped,
    Unfinished,
    Vanished,
    call,
    keep,
    reply_json,
)
from rushes.adapters.capabilities import Capabilities, DoubtClass, Model, PollSchedule, Terms
from rushes.faults import Fault
from rushes.units import AssetRef, Handle
from rushes.video import Target, VideoSpec

KINDS: Final[tuple[DoubtClass, ...]] = get_args(DoubtClass)
URL: Final = "SHOP_URL"  # the variable that says where it is
FOREVER: Final = "for ever"  # a prompt whose render never ends
TAKES: Final = 2  # of one render


class Render(msgspec.Struct):
    """The shop's word for a job."""

    id: str
    key: str
    prompt: str
    status: str = "running"
    polls: int = 0
    outputs: list[str] = []


# ── its adapters ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Counterpart(Adapter):
    """The adapter of one class."""

    def __init__(self, kind: DoubtClass) -> None:
        self.name = name_of(kind)
        self._kind = kind
        self.capabilities = Capabilities(
            base_url=f"https://shop.example/{kind.lower()}",
            base_url_env=URL,
            models=(Model(id="m", operations=("text-to-video",)),),
            submits_at_once=2,
        )

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002 - as the protocol has it
        return Terms(
            doubt=self._kind,
            cancel="stops",
            poll=PollSchedule(min_s=0.02, max_s=0.02),
            settle_s=0.2,
            looks_s=(0.02, 0.1, 0.25, 0.5, 1.0, 2.0),
            key_ttl_s=60.0,
            gone_grace_s=0.0,
        )

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[Prepared]:  # noqa: ARG002
        yield from call(Request(method="GET", url="/token"))  # so that a job is stored before its intent is
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
                return Done(tuple(Output(url) for url in render.outputs))
            case "cancelled":
                return Stopped("no")
            case _:
                return Unfinished(min(99, render.polls))

    def cancel(self, handle: Handle, target: Target) -> Flow[CancelAnswer]:  # noqa: ARG002
        reply = yield from call(Request(method="DELETE", url=f"/renders/{handle.id}"))
        return "accepted" if reply_json(self, reply, Render).status == "cancelled" else "too_late"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        reply = yield from call(Request(method="GET", url="/renders", query={"key": key}))
        return None if reply.status == 404 else Handle(reply_json(self, reply, Render).id)

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        return (yield from keep(Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:  # noqa: ARG002
        return None


def name_of(kind: DoubtClass) -> str:
    """The provider's name."""
    return f"shop-{kind.lower()}"


def counterparts() -> dict[str, Counterpart]:
    """All of them, by name."""
    return {name_of(kind): Counterpart(kind) for kind in KINDS}


# ── the shop ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Shop:
    """The provider. `patience` is awaited between a charge and its answer, `dawdle` between two pieces of a file."""

    def __init__(self, clip_bytes: int) -> None:
        self.charges: list[str] = []  # the keys, one for each time that money was taken
        self.renders: dict[str, Render] = {}
        self.charged = asyncio.Event()  # since it was last cleared
        self.hung = asyncio.Event()  # somebody waits for ever
        self.patience: Callable[[], Awaitable[object]] = _at_once
        self.dawdle: Callable[[], Awaitable[object]] = _at_once
        self._clip_bytes = clip_bytes
        self.url = ""

    def clip(self, url: str) -> bytes:
        """What is at an output's address: different bytes for every output."""
        name = hashlib.sha256(url.rpartition("/files/")[2].encode()).digest()
        return b"\0\0\0\x18ftypisom" + name * (self._clip_bytes // len(name))

    def charges_of(self, job: str) -> int:
        """How often money was taken for a job of ours."""
        return sum(key.startswith(f"{job}-") for key in self.charges)

    async def token(self, _: web.Request) -> web.StreamResponse:
        return web.Response()

    async def create(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read(), type=dict[str, str])
        kind, key = request.match_info["kind"], asked["key"]
        render = self._by_key(key) if kind == "a" else None
        if render is None:
            render = Render(f"r{len(self.charges)}", key, asked["prompt"])
            self.charges.append(key)
            self.renders[render.id] = render
        self.charged.set()
        await self.patience()
        return _shown(render, 201)

    async def find(self, request: web.Request) -> web.StreamResponse:
        render = self._by_key(request.query["key"])
        return web.Response(status=404) if render is None else _shown(render)

    async def look(self, request: web.Request) -> web.StreamResponse:
        render = self.renders[request.match_info["id"]]
        render.polls += 1
        if render.status == "running" and render.polls > 1 and render.prompt != FOREVER:
            render.status = "done"
            render.outputs = [f"{self.url}/files/{render.id}/{number}.mp4" for number in range(TAKES)]
        return _shown(render)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        render = self.renders[request.match_info["id"]]
        render.status = "cancelled" if render.status == "running" else render.status
        return _shown(render)

    async def file(self, request: web.Request) -> web.StreamResponse:
        content = self.clip(request.path)
        reply = web.StreamResponse(headers={"content-type": "video/mp4", "content-length": str(len(content))})
        await reply.prepare(request)
        with suppress(ConnectionResetError):  # who was stopped takes no more of it
            for start in range(0, len(content), 65_536):
                await self.dawdle()
                await reply.write(content[start : start + 65_536])
        return reply

    async def hang(self, _: web.Request) -> web.StreamResponse:
        self.hung.set()
        await asyncio.Event().wait()
        raise AssertionError

    def _by_key(self, key: str) -> Render | None:
        return next((render for render in self.renders.values() if render.key == key), None)


async def _at_once() -> None:
    pass


def _shown(render: Render, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(render), content_type="application/json")


@asynccontextmanager
async def open_shop(clip_bytes: int = 4096) -> AsyncIterator[Shop]:
    """A shop that answers at `url`."""
    shop = Shop(clip_bytes)
    app = web.Application()
    app.add_routes(
        [
            web.get("/{kind}/token", shop.token),
            web.post("/{kind}/renders", shop.create),
            web.get("/{kind}/renders", shop.find),
            web.get("/{kind}/renders/{id}", shop.look),
            web.delete("/{kind}/renders/{id}", shop.cancel),
            web.get("/files/{id}/{number}.mp4", shop.file),
            web.get("/hang", shop.hang),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    shop.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield shop
    finally:
        await runner.cleanup()
