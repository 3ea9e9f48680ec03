"""A rushes server from a program's side: the studio's methods, over HTTP and the WebSocket.

    async with Client("http://127.0.0.1:8484") as rushes:
        view, _ = await rushes.submit(VideoRequest(prompt="a lake at dawn"))
        async for view in rushes.updates(view.id):
            print(view.phase, view.progress)
        await rushes.save(view.id, "lake.mp4")

Errors are the same classes as in the studio's own process. What follows the log reconnects by itself and continues at
its cursor: every event comes once, in order, however often the line breaks.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Generic, Literal, Self, TypeVar, Unpack
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import ClientResponse, ClientSession, ClientTimeout, ClientWebSocketResponse
from msgspec import Struct

from rushes.faults import (
    AccessDenied,
    BadRequest,
    Code,
    CommandRejected,
    Conflict,
    ExtraMissing,
    Fault,
    FolderTrouble,
    JobFailed,
    NotFound,
    RushesError,
    ServerTrouble,
    Unavailable,
    Unreadable,
    bad,
)
from rushes.units import Billed
from rushes.video import (
    BatchedRequest,
    BatchView,
    EstimateView,
    EventView,
    JobsFields,
    JobView,
    Page,
    ProviderView,
    Status,
    UploadView,
    VideoRequest,
    jobs_query,
)

SUBPROTOCOL: Final = "rushes.v1.json"
# Where an answer that is lost may have cost money.
_SPENDING: Final = ("/v1/jobs", "/v1/batches", "/resubmit", "/retry")
ANSWER_S: Final = 60.0
SILENCE_S: Final = 30.0  # between two pieces of a file, and between two pings of a socket
BLOCK_BYTES: Final = 256 * 1024
FIRST_PAUSE_S: Final = 0.1
UNAUTHORISED: Final = 4401  # a close code
MISTAKES: Final = frozenset({1009, 4400, 4403, 4409})  # closes that would come again
LONGEST_PAUSE_S: Final = 5.0

T = TypeVar("T")


class Cursor(Struct, frozen=True, kw_only=True):
    """A place in a server's log: everything up to and including `position` is known."""

    epoch: str
    position: int


Start = Cursor | Literal["now", "start"]


class Client:
    """One server."""

    def __init__(self, url: str, *, token: str = "", reconnect_for_s: float = 60.0) -> None:
        """The client of the server at an address.

        Args:
            url: its address.
            token: the secret of a key, where the server has keys; one without keys ignores it.
            reconnect_for_s: how long a server that was there may be away, before following it ends with an error.

        Raises:
            BadRequest: the token has characters that no key has.
        """
        if not re.fullmatch(r"[!-~]*", token):
            raise bad("token", "The token is no key: it has blanks, or characters that a header cannot have.")
        self.url, self._token = url.rstrip("/"), token
        self._reconnect_for_s = reconnect_for_s
        self._opened: ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = ClientTimeout(total=None, sock_connect=10.0, sock_read=ANSWER_S)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._opened = ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.close()

    @property
    def _session(self) -> ClientSession:
        if self._opened is None:
            raise ServerTrouble("The client is not open: use it as `async with Client(url) as client`.")
        return self._opened

    # ── asking ──

    async def healthy(self) -> bool:
        """Whether a rushes server answers there."""
        try:
            return (await self._ask("GET", "/healthz", _Health)).status == "ok"
        except ServerTrouble:
            return False

    async def submit(self, request: VideoRequest, idempotency_key: str = "") -> tuple[JobView, bool]:
        """Begin the job of a request; True beside it says that its key had begun it before.

        Raises:
            BadRequest: a field is wrong, and named; nothing was stored.
            Conflict: the key stands for another request.
            ServerTrouble: no answer; with `billed` unknown the job may have begun: send it again under the same key.
        """
        return await self._begin("/v1/jobs", msgspec.json.encode(request), idempotency_key, JobView)

    async def submit_batch(
        self, requests: Sequence[BatchedRequest], idempotency_key: str = ""
    ) -> tuple[BatchView, bool]:
        """Begin a job for each of 1 to 100 requests; True beside it says that all of them had begun before.

        Raises:
            BadRequest: a request is wrong, and none was begun; the fields are named as in `requests[2].prompt`.
            Conflict: a key stands for another request, or for a job outside this batch.
            ServerTrouble: no answer; with `billed` unknown jobs may have begun: send it again under the same key.
        """
        return await self._begin("/v1/batches", msgspec.json.encode({"requests": requests}), idempotency_key, BatchView)

    async def batch(self, batch_id: str) -> BatchView:
        """How the jobs of a batch are. Raises NotFound, or Unavailable."""
        return await self._ask("GET", f"/v1/batches/{quote(batch_id, safe='')}", BatchView)

    async def estimate(self, request: VideoRequest) -> EstimateView:
        """What a request would cost at the most; what `submit` would refuse is refused. Raises BadRequest."""
        return await self._ask("POST", "/v1/estimates", EstimateView, body=msgspec.json.encode(request))

    async def show(self, job_id: str) -> JobView:
        """One job as it is now. Raises NotFound."""
        return await self._ask("GET", _path(job_id), JobView)

    async def jobs(self, **fields: Unpack[JobsFields]) -> Page:
        """Some of the jobs, the newest first unless asked otherwise. `fields`: any field of JobsQuery.

        Raises:
            BadRequest: a field is wrong, and named.
            Unavailable: the list is being made again; ask again in a moment.
        """
        asked = msgspec.to_builtins(jobs_query(fields))
        query = {name: str(value) for name, value in asked.items() if value is not None}
        listing = await self._ask("GET", "/v1/jobs", _JobsListing, query=query)
        return Page(
            jobs=listing.data,
            has_more=listing.has_more,
            next=listing.next,
            unreadable=listing.unreadable,
            stale=listing.stale,
        )

    async def providers(self) -> list[ProviderView]:
        """All providers that the server knows, and how their lanes fare."""
        return (await self._ask("GET", "/v1/providers", _Listing[ProviderView])).data

    async def events(self, job_id: str, after: int = 0) -> list[EventView]:
        """The job's history behind a version."""
        query = {"after": str(after)}
        return (await self._ask("GET", f"{_path(job_id)}/events", _Listing[EventView], query=query)).data

    async def cancel(self, job_id: str, *, discard: bool = False) -> JobView:
        """Ask for a stop; the view tells what became of it. `discard`: where nothing stops it, drop its take."""
        body = msgspec.json.encode({"discard": discard})
        return await self._ask("POST", f"{_path(job_id)}/cancel", JobView, body=body)

    async def collect(self, job_id: str, *, handle: str | None = None) -> JobView:
        """Have a parked job fetch what was paid; nothing is ever sent, or paid, for this.

        `handle` is the provider's own id of the job, where the server does not know it. Raises CommandRejected.
        """
        body = msgspec.json.encode({"handle": handle})
        return await self._ask("POST", f"{_path(job_id)}/collect", JobView, body=body)

    async def resubmit(self, job_id: str, *, accept_cost: bool = False) -> JobView:
        """Send a parked job again; `accept_cost`: it may be paid twice. Raises CommandRejected where it is not given.

        A ServerTrouble with `billed` unknown says that it may have been sent: look at the job.
        """
        body = msgspec.json.encode({"accept_cost": accept_cost})
        return await self._ask("POST", f"{_path(job_id)}/resubmit", JobView, body=body)

    async def give_up(self, job_id: str) -> JobView:
        """End a parked job; what may have been billed stays said. Raises CommandRejected where it is not parked."""
        return await self._ask("POST", f"{_path(job_id)}/give-up", JobView)

    async def retry(self, job_id: str, idempotency_key: str = "") -> tuple[JobView, bool]:
        """Begin a new job, to be paid anew, with the request and the route of one that has ended. Raises as `submit`.

        Raises:
            CommandRejected: the old job has not ended; the message says what to do instead.
        """
        return await self._begin(f"{_path(job_id)}/retry", b"{}", idempotency_key, JobView)

    async def poll(self, job_id: str) -> JobView:
        """Ask the provider now; within the job's minimum interval, what is known, with its age."""
        return await self._ask("POST", f"{_path(job_id)}/poll", JobView)

    async def upload(self, content: AsyncIterator[bytes] | bytes) -> UploadView:
        """Hand in a file that requests will name."""
        headers = {"Content-Type": "application/octet-stream"}
        return await self._ask("POST", "/v1/uploads", UploadView, body=content, headers=headers)

    async def save(self, job_id: str, path: str | Path, take: int = 0) -> Path:
        """Fetch a take into a file, which is there whole or not at all. Raises NotFound while there is none."""
        async with self._answer("GET", f"{_path(job_id)}/content", query={"take": str(take)}) as reply:
            return await _save(reply, Path(path))

    # ── following ──

    async def updates(self, job_id: str) -> AsyncGenerator[JobView]:
        """The job now, and again whenever it changed, until it has ended."""
        version = 0
        async with aclosing(self._lasting(lambda patience: self._views({"job": job_id}, patience))) as views:
            async for view in views:
                if view.version > version:
                    version = view.version
                    yield view
                if view.ended:
                    return

    async def updates_of(self, jobs: Sequence[str]) -> AsyncGenerator[JobView]:
        """Each of 1 to 100 jobs now, and again whenever it changed, until all of them have ended.

        Raises NotFound, or Unreadable.
        """
        waiting = {*jobs}
        versions = dict.fromkeys(jobs, 0)
        wanted = {"jobs": [*versions]}
        async with aclosing(self._lasting(lambda patience: self._views(wanted, patience))) as views:
            async for view in views:
                if view.version > versions[view.id]:
                    versions[view.id] = view.version
                    yield view
                if view.ended:
                    waiting.discard(view.id)
                if not waiting:
                    return

    async def follow(
        self,
        job_id: str | None = None,
        start: Start = "now",
        *,
        jobs: Sequence[str] | None = None,
        batch: str | None = None,
        status: Status | None = None,
        provider: str | None = None,
        snapshots: int = 0,
        on_snapshots: Callable[[Sequence[JobView]], None] | None = None,
        on_cursor: Callable[[Cursor], None] | None = None,
        on_unreadable: Callable[[Unreadable], None] | None = None,
    ) -> AsyncGenerator[EventView]:
        """The events of one job, of some, of a batch or of all, for ever: every one behind `start`, once and in order.

        An event is told if all that is given held of its job before the event, or does after it.

        Args:
            job_id: one job.
            start: behind which place in the log.
            jobs: up to 100 jobs.
            batch: the jobs of a batch, also those that begin later, when it is sent again.
            status: jobs that are queued, running, succeeded, failed or cancelled.
            provider: jobs that this provider makes.
            snapshots: of how many jobs, 0 to 200, to say how they are, where none is named.
            on_snapshots: told how the jobs are when it begins, and again after a break of the line. An event with a
                version up to a view's own is contained in the view.
            on_cursor: told where to come back to, whenever everything up to there was taken: what to keep beside what
                was made of the events, so that another process goes on there.
            on_unreadable: told of a damaged event in its place, perhaps again after a break of the line; what is
                behind it follows.

        Raises:
            BadRequest: a field is wrong, and named.
            NotFound: there is no such job, or no such batch.
            Conflict: the server has another log than the one that `start` is about.
            AccessDenied: the server needs a key that may read.
            ServerTrouble: the server stayed away.
            Unreadable: an event is damaged, and there is no `on_unreadable`.
        """
        wanted: dict[str, object] = {"job": job_id, "batch": batch, "status": status, "provider": provider}
        wanted |= {"jobs": None if jobs is None else list(jobs), "snapshots": snapshots}
        place = _Place(wanted, start, on_snapshots, on_cursor, on_unreadable)
        async with aclosing(self._lasting(partial(self._events, place))) as events:
            async for event in events:
                yield event

    async def _views(self, wanted: Mapping[str, object], patience: _Patience) -> AsyncGenerator[JobView]:
        """Jobs at every sign of change, over one connection: it begins with how they are now."""
        async with self._subscription(wanted, "now") as (socket, _):
            while True:
                frame = await _heard(socket)
                patience.reward()
                for view in frame.snapshots if frame.snapshot is None else [frame.snapshot]:
                    yield view
                for job_id in dict.fromkeys(event.job_id for event in frame.items):
                    yield await self.show(job_id)

    async def _events(self, place: _Place, patience: _Patience) -> AsyncGenerator[EventView]:
        """The events behind a place, over one connection; the place moves along."""
        async with self._subscription(place.wanted, place.start) as (socket, epoch):
            while True:
                try:
                    frame = await _heard(socket)
                except Unreadable as unreadable:
                    if place.on_unreadable is None:
                        raise
                    place.on_unreadable(unreadable)
                    continue
                patience.reward()
                if frame.type == "subscribed" and place.on_snapshots is not None:
                    place.on_snapshots(frame.snapshots if frame.snapshot is None else [frame.snapshot])
                for event in frame.items:
                    yield event
                if (position := frame.cursor) is not None:
                    place.move(Cursor(epoch=epoch, position=position))

    async def _lasting(self, once: Callable[[_Patience], AsyncGenerator[T]]) -> AsyncGenerator[T]:
        """What one connection tells, over as many connections as it takes."""
        patience = _Patience(self._reconnect_for_s)
        while True:
            try:
                async with aclosing(once(patience)) as told:
                    async for one in told:
                        yield one
            except (ServerTrouble, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                await patience.pause(self._trouble(error))

    @asynccontextmanager
    async def _subscription(
        self, wanted: Mapping[str, object], start: Start
    ) -> AsyncGenerator[tuple[ClientWebSocketResponse, str]]:
        """A socket that is about to be told of what is wanted, with the log's epoch."""
        url = f"{self.url}/v1/ws"
        async with self._session.ws_connect(url, protocols=(SUBPROTOCOL,), heartbeat=SILENCE_S, max_msg_size=0) as ws:
            await _say(ws, {"type": "hello", "client": "rushes", "token": self._token})
            welcome = await _heard(ws, ANSWER_S)
            await _say(ws, {"type": "subscribe", "id": "s", **wanted, "from": start})
            yield ws, welcome.epoch

    # ── how it is asked ──

    async def _begin(self, path: str, body: bytes, idempotency_key: str, kind: type[T]) -> tuple[T, bool]:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        try:
            async with self._answer("POST", path, body=body, headers=headers) as reply:
                return await _decoded(reply, kind), "Idempotent-Replayed" in reply.headers
        except ServerTrouble as error:
            error.idempotency_key = idempotency_key
            raise

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: AsyncIterator[bytes] | bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        async with self._answer(method, path, body=body, query=query, headers=headers) as reply:
            return await _decoded(reply, kind)

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        body: AsyncIterator[bytes] | bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[ClientResponse]:
        """A good answer; anything else raises what the server's own process would have raised."""
        is_json, spends = isinstance(body, bytes), method == "POST" and path.endswith(_SPENDING)
        data = io.BytesIO(body) if isinstance(body, bytes) else body
        headers = ({"Content-Type": "application/json"} if is_json else {}) | dict(headers or {})
        try:
            async with self._session.request(
                method, self.url + path, data=data, params=query, headers=headers
            ) as reply:
                if reply.status >= 300:
                    raise await _error_in(reply)
                yield reply
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise self._trouble(error, spends=spends) from error
        except ServerTrouble as error:
            error.billed = "unknown" if spends else "no"
            raise

    def _trouble(self, error: Exception, *, spends: bool = False) -> ServerTrouble:
        """What went wrong with the line, as one sentence."""
        if isinstance(error, ServerTrouble):
            return error
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
            return ServerTrouble(f"No rushes server answers at {self.url}: start one with `rushes serve`.")
        word = str(error) or type(error).__name__
        billed: Billed = "unknown" if spends else "no"
        return ServerTrouble(f"The line to the rushes server at {self.url} broke ({word}): ask again.", billed=billed)


# ── what is heard ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Health(Struct):
    status: str


class _Listing(Struct, Generic[T], kw_only=True):
    data: list[T]
    has_more: bool


class _JobsListing(_Listing[JobView], kw_only=True):
    next: str | None
    unreadable: list[str]
    stale: bool


class _ProblemError(Struct):
    code: Code
    detail: str
    field: str = ""


class _Problem(Struct):
    detail: str
    code: Code = "internal_error"
    field: str = ""
    errors: list[_ProblemError] = []
    billed: Billed | None = None
    job_id: str = ""
    idempotency_key: str = ""


class _Frame(Struct):
    """Any frame of the server's: what a newer server adds is passed over."""

    type: str
    epoch: str = ""
    sub: str = ""
    position: int | None = None
    upto: int | None = None
    snapshot: JobView | None = None
    snapshots: list[JobView] = []
    items: list[EventView] = []
    reason: str = ""
    code: Code = "internal_error"
    message: str = ""
    field: str = ""
    errors: list[_ProblemError] = []
    billed: Billed | None = None
    job_id: str = ""
    idempotency_key: str = ""

    @property
    def cursor(self) -> int | None:
        """Where to continue after this frame; None where it does not say."""
        match self.type:
            case "events":
                return self.upto
            case "subscribed" | "caught_up":
                return self.position
            case _:
                return None

    @property
    def problem(self) -> _Problem:
        """What an error frame says."""
        return _Problem(
            detail=self.message,
            code=self.code,
            field=self.field,
            errors=self.errors,
            billed=self.billed,
            job_id=self.job_id,
            idempotency_key=self.idempotency_key,
        )


async def _decoded(reply: ClientResponse, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await reply.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _no_server_of_ours(reply) from error


async def _error_in(reply: ClientResponse) -> RushesError:
    if reply.content_type != "application/problem+json":
        return _no_server_of_ours(reply)
    return _error_of(await _decoded(reply, _Problem))


def _no_server_of_ours(reply: ClientResponse) -> ServerTrouble:
    return ServerTrouble(f"{reply.url.origin()} answered {reply.status} and not as a rushes server does: is it one?")


_KINDS: Final[dict[Code, type[RushesError]]] = {
    "not_found": NotFound,
    "conflict": Conflict,
    "command_rejected": CommandRejected,
    "storage_failed": FolderTrouble,
    "folder_in_use": FolderTrouble,
    "extra_missing": ExtraMissing,
    "unavailable": Unavailable,
    "unreadable": Unreadable,
    "unauthorised": AccessDenied,
    "forbidden": AccessDenied,
    "internal_error": RushesError,
}


def _error_of(problem: _Problem) -> RushesError:
    """The error that the server's own process would have raised."""
    error = _error_like(problem)
    error.code, error.field, error.billed = problem.code, problem.field, problem.billed or error.billed
    error.job_id, error.idempotency_key = problem.job_id, problem.idempotency_key
    return error


def _error_like(problem: _Problem) -> RushesError:
    if problem.errors:
        return BadRequest([Fault(one.code, one.detail, field=one.field) for one in problem.errors])
    if problem.job_id and problem.code not in _KINDS:
        return JobFailed(Fault(problem.code, problem.detail), job_id=problem.job_id, billed=problem.billed or "unknown")
    return _KINDS.get(problem.code, RushesError)(problem.detail)


async def _heard(socket: ClientWebSocketResponse, timeout_s: float | None = None) -> _Frame:
    """The next frame. Raises what an error frame says."""
    message = await socket.receive(timeout_s)
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise _end_of(socket.close_code, str(message.extra or ""))
    try:
        frame = msgspec.json.decode(str(message.data), type=_Frame)
    except msgspec.DecodeError as error:
        raise ServerTrouble("The server said something that this release does not understand.") from error
    if frame.type == "error":
        raise _error_of(frame.problem)
    if frame.type == "resync":
        raise Conflict(f"This place in the log cannot be continued from ({frame.reason}): begin at its start.")
    return frame


def _end_of(code: int | None, reason: str) -> Exception:
    """Why a socket was closed: to come again helps against everything but these."""
    if code == UNAUTHORISED:
        return AccessDenied(f"The server lets nobody in without a good key: {reason}.")
    if code in MISTAKES:
        return bad("", f"The server ended the conversation: {reason or code}.")
    return ConnectionResetError(f"the socket was closed with {code}{reason and f', {reason}'}")


async def _say(socket: ClientWebSocketResponse, frame: dict[str, object]) -> None:
    await socket.send_str(msgspec.json.encode(frame).decode())


class _Place:
    """What somebody follows, where in the log they are, and what they want to hear beside the events."""

    def __init__(
        self,
        wanted: Mapping[str, object],
        start: Start,
        on_snapshots: Callable[[Sequence[JobView]], None] | None,
        on_cursor: Callable[[Cursor], None] | None,
        on_unreadable: Callable[[Unreadable], None] | None,
    ) -> None:
        self.wanted = wanted
        self.start: Start = start
        self.on_snapshots, self.on_unreadable, self._on_cursor = on_snapshots, on_unreadable, on_cursor

    def move(self, cursor: Cursor) -> None:
        """Everything up to there was taken."""
        self.start = cursor
        if self._on_cursor is not None:
            self._on_cursor(cursor)


class _Patience:
    """How long to wait before the next try, and when to give up: at once, where nobody was ever there."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s, self._pause_s = limit_s, FIRST_PAUSE_S
        self._away_since: float | None = None
        self._was_there = False

    def reward(self) -> None:
        """The server is there."""
        self._was_there, self._away_since, self._pause_s = True, None, FIRST_PAUSE_S

    async def pause(self, trouble: ServerTrouble) -> None:
        """Wait, or raise the trouble."""
        now = asyncio.get_running_loop().time()
        self._away_since = now if self._away_since is None else self._away_since
        if not self._was_there or now - self._away_since > self._limit_s:
            raise trouble
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - it spreads those who come again
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


# ── small things ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


async def _save(reply: ClientResponse, path: Path) -> Path:
    """Beside its place first, and to its place once it is whole."""
    part = Path(f"{path}.part")
    try:
        if await _write(reply, part) != reply.headers.get("ETag", "").strip('"'):
            raise ServerTrouble("The take did not arrive as it was sent: ask again.")
        return await asyncio.to_thread(part.replace, path)
    except OSError as error:
        if isinstance(error, ConnectionError | aiohttp.ClientError | TimeoutError):
            raise
        raise bad("output", f"The take cannot be written to {str(path)!r}: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)


async def _write(reply: ClientResponse, part: Path) -> str:
    """The sha256 of what was written."""
    digest = hashlib.sha256()
    with await asyncio.to_thread(part.open, "wb") as file:
        async for block in reply.content.iter_chunked(BLOCK_BYTES):
            digest.update(block)
            await asyncio.to_thread(file.write, block)
    return digest.hexdigest()
