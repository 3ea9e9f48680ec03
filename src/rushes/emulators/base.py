"""What all twins share, so that each is only its provider's wire; and the socket server around any of them.

A twin keeps no time of its own: every request says what time it is, and what a job has become follows from that.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import struct
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol, TypedDict, TypeVar, runtime_checkable
from urllib.parse import parse_qsl, urlsplit

import msgspec
from aiohttp import BodyPartReader, ClientError, ClientSession, ClientTimeout, web
from msgspec import Struct
from yarl import URL

from rushes.adapters.base import Body, Part, Request, Response, Twin
from rushes.emulators.faults import FailedJob, Flow, Moderated, NoAnswer, NotFound, Rule, StatusWord, TwinRule
from rushes.emulators.ledger import Charge, Ledger, Line, masked, symbolic

MAX_BODY_BYTES: Final = 256 * 2**20
STOP_S: Final = 0.5  # what still hangs is not waited for longer
LOOK_S: Final = 0.05  # between two looks at what callbacks are due
CALL_AGAIN_S: Final = (0.0, 1.0, 5.0)  # before each try of a callback
CALL_S: Final = 10.0  # for whoever is called to answer in
TRANSPORT: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "host", "keep-alive", "transfer-encoding"}
)

RuleT = TypeVar("RuleT", bound=Rule)


# ── A twin ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Asked(Struct, frozen=True, kw_only=True):
    """A request with what all answers need of it."""

    request: Request
    now: float
    origin: str  # what addresses of ours begin with
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # lower-case names
    struck: tuple[TwinRule, ...] = ()

    @property
    def method(self) -> str:
        """GET, POST, …"""
        return self.request.method

    @property
    def key(self) -> str | None:
        """The bearer's key; None where there is none."""
        said = self.headers.get("authorization", "")
        return said.removeprefix("Bearer ") if said.startswith("Bearer ") else None

    def json(self, otherwise: Refused) -> Mapping[str, Any]:
        """The body, if it is a JSON object. Raises `otherwise`."""
        if not isinstance(self.request.body, Mapping):
            raise otherwise
        return self.request.body

    def parts(self) -> Sequence[Part]:
        """The body, if it is a form."""
        body = self.request.body
        return [] if body is None or isinstance(body, Mapping) else body

    def words(self, prompt: object) -> list[str]:
        """The words of a prompt that decide how its job ends, and those that a fault adds."""
        own = ["forbidden"] * bool(self.hit(Moderated)) + ["broken"] * bool(self.hit(FailedJob))
        return [*str(prompt).lower().split(), *own]

    def said(self, status: str) -> str:
        """A job's status, or what a fault says in its place."""
        rule = self.hit(StatusWord)
        return rule.word if rule and not rule.was else status

    def hit(self, kind: type[RuleT]) -> RuleT | None:
        """The fault of this kind that strikes this request."""
        return next((rule for rule in self.struck if isinstance(rule, kind)), None)


class Refused(Exception):
    """Ends a request with an error: its status and content, in the provider's own shape."""

    def __init__(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.content, self.headers = status, content, headers or {}


class Route(NamedTuple):
    """One address: the flow that asks it, its method, a pattern of its path with one group, and who answers."""

    flow: Flow | Literal[""]
    method: str
    path: str
    answer: Callable[[Asked, str], Response]
    keyless: bool = False  # asks no key


class Life(NamedTuple):
    """When a job leaves the queue, and when it ends."""

    begins_at: float
    ends_at: float

    def stage(self, now: float) -> Literal["waiting", "running", "over"]:
        """Where it is."""
        if now >= self.ends_at:
            return "over"
        return "running" if now >= self.begins_at else "waiting"


class Delivery(Struct, frozen=True, kw_only=True):
    """A callback that is due."""

    url: str
    body: bytes
    headers: Mapping[str, str]


class Owed(NamedTuple):
    """A callback that will be due. What it says is as true as it is then."""

    at: float
    url: str
    says: Callable[[float], object]


class Usual(TypedDict, total=False):
    """What every twin can be made with, besides its clip: see `ProviderTwin`."""

    key: str
    seed: int
    start_s: float
    render_s: float


class ProviderTwin(ABC):
    """A whole service in one object. `ledger` says what came and what was charged.

    One that is registered under the entry point group `rushes.emulators` can be made with `clip` and `seed` alone.
    """

    name: ClassVar[str]  # its adapter's
    unit: ClassVar[str] = "USD"  # what it charges in
    can: ClassVar[frozenset[str]] = frozenset()  # the faults that it can do itself
    base_path: ClassVar[str] = ""  # what a base URL of it ends with, for our adapter and its own SDK alike
    secret: str = ""  # that callbacks are signed with; empty: they are not
    sdk_env: ClassVar[Mapping[str, str]] = {}  # more variables of its SDKs, and what a base URL in each ends with
    start_s: ClassVar[float] = 1.0  # how long a job waits, where nothing else is said
    render_s: ClassVar[float] = 8.0  # and how long it runs

    def __init__(
        self,
        *,
        clip: bytes,
        key: str = "",
        seed: int = 0,
        start_s: float | None = None,
        render_s: float | None = None,
    ) -> None:
        """`clip` is every result; an empty `key` accepts any; a job waits `start_s` and runs `render_s`."""
        self.ledger = Ledger()
        self.below = ""  # the path that it is served below
        self._clip, self._key, self._seed = clip, key, seed
        self._start_s = self.start_s if start_s is None else start_s
        self._render_s = self.render_s if render_s is None else render_s
        self._drawn, self._looks = Counter[str](), Counter[str]()
        self._routes = tuple(self.routes())
        self._owed: list[Owed] = []

    @abstractmethod
    def routes(self) -> Sequence[Route]:
        """All addresses. The first that fits answers."""

    @abstractmethod
    def throttled(self) -> Refused:
        """What is said to who asks too often."""

    @abstractmethod
    def admit(self, asked: Asked) -> None:
        """Look at the key. Raises Refused."""

    @abstractmethod
    def nowhere(self, asked: Asked, *, known: bool) -> Refused:
        """What is said where nothing is; `known`: it is there with another method."""

    def accepts(self, key: str | None) -> bool:
        """Whether this is the key. Where there is none, anything is, also nothing."""
        return self._key in ("", key)

    def env(self, url: str, folder: Path) -> Mapping[str, str]:  # noqa: ARG002
        """Variables that hold a key which it will accept at `url`; files that they name go into the folder.

        None where any word is a key.
        """
        return {}

    def refusal(self, refused: Refused) -> Response:
        """An error as it is answered."""
        return as_json(refused.status, refused.content, refused.headers)

    def handle(self, request: Request, now: float, struck: tuple[TwinRule, ...] = ()) -> Response:
        """Answer one request. `struck` are the faults that it can do itself, and shall."""
        asked = self.read(request, now, struck)
        line = self.note(asked, *struck)
        try:
            reply = self.answer(asked)
        except Refused as refused:
            reply = self.refusal(refused)
        line.status = reply.status
        rule = asked.hit(StatusWord)
        return _renamed(reply, rule.was, rule.word) if rule and rule.was else reply

    def answer(self, asked: Asked) -> Response:
        """Find who answers. Raises Refused."""
        found = [(route, match) for route in self._routes if (match := re.fullmatch(route.path, asked.path))]
        fitting = next((pair for pair in found if pair[0].method == asked.method), None)
        if fitting is None or not fitting[0].keyless:
            self.admit(asked)
        if fitting is None:
            raise self.nowhere(asked, known=bool(found))
        route, match = fitting
        return route.answer(asked, match[1])

    def flow(self, asked: Asked) -> str:
        """What a request is for; empty where no adapter asks it."""
        fits = (r.flow for r in self._routes if r.method == asked.method and re.fullmatch(r.path, asked.path))
        return next(fits, "")

    def read(self, request: Request, now: float, struck: tuple[TwinRule, ...] = ()) -> Asked:
        """A request with what is in its address and headers."""
        url = urlsplit(request.url)
        return Asked(
            request=request,
            now=now,
            origin=f"{url.scheme}://{url.netloc}{self.below}",
            path=url.path.removeprefix(self.below),
            query=dict(parse_qsl(url.query)) | dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            struck=struck,
        )

    def note(self, asked: Asked, *struck: Rule) -> Line:
        """Write a request into the ledger."""
        told = {name: masked(name, value) for name, value in asked.headers.items() if name not in TRANSPORT}
        line = Line(
            provider=self.name,
            at=asked.now,
            method=asked.method,
            path=asked.path,
            query=asked.query,
            headers=told,
            body=symbolic(asked.request.body),
            fault=", ".join(rule.do for rule in struck),
        )
        self.ledger.requests.append(line)
        return line

    # ── Callbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def call_back(self, url: object, at: float, says: Callable[[float], object]) -> None:
        """Owe a callback, where an address was given."""
        if isinstance(url, str) and url:
            self._owed.append(Owed(at, url, says))

    @property
    def owes(self) -> bool:
        """Whether there are callbacks that were not sent yet."""
        return bool(self._owed)

    def due(self, now: float) -> list[Delivery]:
        """The callbacks to be sent now, each once; whoever has a socket sends them."""
        owed = sorted((one for one in self._owed if one.at <= now), key=lambda one: one.at)
        self._owed = [one for one in self._owed if one.at > now]
        return [self._as_sent(one, now) for one in owed]

    def _as_sent(self, owed: Owed, now: float) -> Delivery:
        body = msgspec.json.encode(owed.says(owed.at))
        headers = {"content-type": "application/json", **(self.signature(body, now) if self.secret else {})}
        return Delivery(url=owed.url, body=body, headers=headers)

    def signature(self, body: bytes, now: float) -> Mapping[str, str]:
        """The headers that say who it is, by Standard Webhooks."""
        id_, seconds = f"msg_{self.draw('callback').hex()[:24]}", f"{now:.0f}"
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        digest = hmac.digest(key, f"{id_}.{seconds}.".encode() + body, hashlib.sha256)
        signed = f"v1,{base64.b64encode(digest).decode()}"
        return {"webhook-id": id_, "webhook-timestamp": seconds, "webhook-signature": signed}

    # ── For its own answers ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def charges(self) -> list[str]:
        """The jobs that were paid, each as often as it was."""
        return [charge.job for charge in self.ledger.charges]

    def charge(self, job: str, now: float, amount: float, micro_usd: int | None, why: str) -> None:
        """Take money."""
        made = Charge(provider=self.name, at=now, job=job, amount=amount, unit=self.unit, micro_usd=micro_usd, why=why)
        self.ledger.charges.append(made)

    def charged_within(self, seconds: float, now: float) -> int:
        """How many charges there were."""
        return sum(charge.at > now - seconds for charge in self.ledger.charges)

    def draw(self, kind: str = "") -> bytes:
        """32 bytes that make an id: the next of its kind, the same for every twin of one seed."""
        count, self._drawn[kind] = self._drawn[kind], self._drawn[kind] + 1
        name = f"{kind}/{count}" if kind else f"{count}"
        return hashlib.sha256(f"{self._seed}/{name}".encode()).digest()

    def life(self, admitted_at: float) -> Life:
        """The life of a job that got its place then."""
        begins_at = admitted_at + self._start_s
        return Life(begins_at, begins_at + self._render_s)

    def hides(self, asked: Asked, job: str) -> bool:
        """Whether a job shall not be known yet, by the fault `not_found`."""
        if (rule := asked.hit(NotFound)) is None:
            return False
        self._looks[job] += 1
        return self._looks[job] <= rule.looks

    def result(self, asked: Asked, picture: bytes | None = None, media_type: str = "video/mp4") -> Response:
        """The clip, or a picture in its place, or the part of it that is asked for."""
        content = self._clip if picture is None else picture
        digest, size = hashlib.md5(content, usedforsecurity=False).hexdigest(), len(content)
        about = {"content-type": media_type, "accept-ranges": "bytes", "etag": f'"{digest}"'}
        if not (part := re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))):
            return Response(status=200, body=content, headers=about)
        first, last = int(part[1]), min(int(part[2] or size), size - 1)
        if first > last:
            return Response(status=416, headers={**about, "content-range": f"bytes */{size}"})
        about["content-range"] = f"bytes {first}-{last}/{size}"
        return Response(status=206, body=content[first : last + 1], headers=about)


def _renamed(reply: Response, old: str, new: str) -> Response:
    """The answer with another word wherever that one stands alone."""
    body = reply.body.replace(msgspec.json.encode(old), msgspec.json.encode(new))
    return msgspec.structs.replace(reply, body=body)


def shipped_clip() -> bytes:
    """A real video: two seconds of 320×180, H.264 in an MP4."""
    return shipped("clip.mp4")


def shipped(name: str) -> bytes:
    """A file that stands beside this one."""
    return (files(__package__ or "") / name).read_bytes()


def as_json(status: int, content: object, headers: Mapping[str, str] | None = None, *, before: bytes = b"") -> Response:
    """An answer in JSON; `before` are bytes in front of it."""
    headers = {"content-type": "application/json", **(headers or {})}
    return Response(status=status, body=before + msgspec.json.encode(content), headers=headers)


def fits(value: object, kind: type) -> bool:
    """Whether a value is of a JSON type: a boolean is no number, a whole number is a number."""
    if isinstance(value, bool):
        return kind is bool
    wider: dict[type, Any] = {float: (int, float), dict: Mapping}
    return isinstance(value, wider.get(kind, kind))


def image_size(content: bytes) -> str:
    """A PNG's or a JPEG's, as w×h with an x; empty where it cannot be read."""
    if content.startswith(b"\x89PNG") and content[12:16] == b"IHDR":
        return "{}x{}".format(*struct.unpack(">II", content[16:24]))
    at = 2 if content.startswith(b"\xff\xd8") else len(content)
    while len(content) >= at + 9:  # from one segment to the next, until the one that begins a frame
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[at + 5 : at + 9])
            return f"{width}x{height}"
        at += 2 + length
    return ""


def iso(at: float) -> str:
    """A time as 2026-11-21T10:00:00.000Z."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ── The socket ────────────────────────────────────────────────────────────────────────────────────────────────────────


class TwinServer:
    """A twin that answers at `url` until it is closed."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self) -> None:
        """Let go of the socket. The twin itself belongs to whoever made it."""
        await self._runner.cleanup()


async def serve_twin(
    twin: Twin, host: str = "127.0.0.1", port: int = 0, *, now: Callable[[], float] = time.time
) -> TwinServer:
    """Answer every path and method with the twin. Port 0 takes a free one. Raises OSError where nobody can listen."""

    async def answer(incoming: web.Request) -> web.StreamResponse:
        request = await _incoming(incoming)
        asked.set()
        try:
            return _outgoing(twin.handle(request, now()))
        except NoAnswer as trouble:
            return await _badly(incoming, trouble)

    asked = asyncio.Event()

    async def calling(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(_call_back(twin, now, asked)) if isinstance(twin, CallsBack) else None
        yield
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", answer)
    app.cleanup_ctx.append(calling)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return TwinServer(runner)


@runtime_checkable
class CallsBack(Protocol):
    """A twin with callbacks to send."""

    @property
    def owes(self) -> bool:
        """Whether there are any, now or later."""
        ...

    def due(self, now: float) -> list[Delivery]:
        """Those to be sent now, each once."""
        ...


async def _call_back(twin: CallsBack, now: Callable[[], float], asked: asyncio.Event) -> None:
    """Send what is due; one that is slow keeps no other waiting. Where nothing is owed no timer runs."""
    timeout = ClientTimeout(total=CALL_S)
    async with ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as sending:
        while await asked.wait():
            asked.clear()
            while twin.owes:
                for delivery in twin.due(now()):
                    sending.create_task(_deliver(session, delivery))
                await asyncio.sleep(LOOK_S)


async def _deliver(session: ClientSession, delivery: Delivery) -> None:
    """A few tries, as real ones have them; then it is given up."""
    for wait_s in CALL_AGAIN_S:
        await asyncio.sleep(wait_s)
        with suppress(ClientError, TimeoutError, ValueError):
            url = URL(delivery.url, encoded=True)
            sent = session.post(url, data=delivery.body, headers=delivery.headers, allow_redirects=False)
            async with sent as reply:
                if reply.ok:
                    return


async def _incoming(request: web.Request) -> Request:
    """The request as twins see it: whole URL without its query, lower-case header names, a decoded body."""
    return Request(
        method=request.method,
        url=f"{request.scheme}://{request.host}{request.rel_url.raw_path}",
        body=await _body(request),
        headers={name.lower(): value for name, value in request.headers.items()},
        query=dict(request.query),
    )


async def _body(request: web.Request) -> Body:
    """A JSON object as a Mapping, a form as Parts, all other bytes as one Part without a name."""
    if not request.body_exists:
        return None
    if request.content_type.startswith("multipart/"):
        return [await _part(part) async for part in await request.multipart() if isinstance(part, BodyPartReader)]
    if not (raw := await request.read()):
        return None
    whole = [Part("", raw, media_type=request.content_type)]
    if request.content_type != "application/json":
        return whole
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return whole


async def _part(part: BodyPartReader) -> Part:
    """One part of a form: text, unless it is a file or says that it is something else."""
    raw = bytes(await part.read(decode=True))
    media_type = part.headers.get("content-type", "")
    if part.filename or not (media_type or "text/plain").startswith("text/"):
        return Part(part.name or "", raw, part.filename or "", media_type)
    return Part(part.name or "", raw.decode(errors="replace"))


def _outgoing(reply: Response) -> web.StreamResponse:
    """The twin's answer on the wire; aiohttp counts the length itself."""
    headers = {name: value for name, value in reply.headers.items() if name.lower() != "content-length"}
    if reply.path:
        return web.FileResponse(reply.path, status=reply.status, headers=headers)
    return web.Response(status=reply.status, body=reply.body, headers=headers)


async def _badly(request: web.Request, trouble: NoAnswer) -> web.StreamResponse:
    """What the client sees of a dropped, cut or late answer. One that never comes ends with the client's patience."""
    if trouble.how == "hang":
        await (asyncio.Event().wait() if trouble.seconds is None else asyncio.sleep(trouble.seconds))
    if trouble.how == "hang" and trouble.reply is not None:
        return _outgoing(trouble.reply)
    if trouble.reply is not None:
        head = web.StreamResponse(status=trouble.reply.status, headers=dict(trouble.reply.headers))
        head.content_length = len(trouble.reply.body)
        await head.prepare(request)
        await head.write(trouble.reply.body[: trouble.byte])
    if request.transport is not None:
        request.transport.close()
    return web.Response()
