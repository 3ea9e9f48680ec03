"""What an adapter is: a file of generators that yield requests and return results.

No adapter opens a socket, waits, retries or logs. It yields what it wants to ask, and is sent the answer:

    reply = yield from call(Request("GET", f"/predictions/{handle.id}"))

so a test plays it with bytes, the simulation plays it against a provider's twin, and production plays it over HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from rushes.adapters.capabilities import Capabilities
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Billed, Handle, Money
from rushes.video import Target, VideoSpec

T = TypeVar("T")

DoubtClass = Literal["A", "B", "C", "D", "E"]
"""What a provider lets us learn about a send whose answer was lost: A server-side idempotency key, B an id of ours that
can be looked up, C a list that shows a mark of ours, D a callback, E nothing."""

CancelKind = Literal["no", "stops", "destroys"]
"""no: it cannot be cancelled. stops: a finished take survives a late cancel. destroys: it does not, so poll first."""


class PollSchedule(Struct, frozen=True, gc=False, omit_defaults=True):
    """When to ask again: the time since the start, times `growth`, between the two bounds."""

    min_s: float = 2.0
    max_s: float = 30.0
    growth: float = 0.1

    def interval_s(self, elapsed_s: float) -> float:
        """Seconds until the next poll of a job that has been running for `elapsed_s`."""
        return min(self.max_s, max(self.min_s, elapsed_s * self.growth))


class Terms(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What holds for one send, pinned in its intent: capabilities may change under a running job, these may not."""

    doubt: DoubtClass
    cancel: CancelKind = "no"
    poll: PollSchedule = PollSchedule()
    key_ttl_s: float = 0.0  # class A: how long the provider remembers the key
    settle_s: float = 60.0  # class B, C: after this, not found means not there
    looks_s: tuple[float, ...] = (1.0, 5.0, 20.0, 60.0)  # class B, C: when to look, after the doubt
    link_ttl_s: float = 3600.0  # how long a result's address works
    gone_grace_s: float = 60.0  # a 404 this soon after the accept says nothing
    total_s: float = 3600.0  # after this the job is parked, not failed


class Inline(Struct, frozen=True):
    """A place in a body that http fills with a kept file while sending. Hashes and records see only the reference."""

    asset: AssetRef
    form: Literal["data-uri", "base64", "bytes"] = "data-uri"


class Part(Struct, frozen=True):
    """One part of a multipart body."""

    name: str
    content: str | bytes | Inline
    filename: str = ""
    media_type: str = ""


Body: TypeAlias = "Mapping[str, Any] | Sequence[Part] | None"
"""A JSON object whose leaves may be `Inline`, or the parts of a form."""


class Request(Struct, frozen=True, kw_only=True):
    """One HTTP request, as data. `url` is whole, or a path below the adapter's base address."""

    method: str
    url: str
    body: Body = None
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    spends: bool = False  # a paid call: sent once, on a connection of its own, never redirected
    timeout_s: float = 60.0


class Response(Struct, frozen=True, kw_only=True):
    """One HTTP answer. Header names are lower-case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    path: str = ""  # of a file that holds the body instead, where it is large


class Keep(Struct, frozen=True, kw_only=True):
    """Stream an address into our store; the answer is the file's reference."""

    url: str
    with_credential: bool = False  # send the provider's key along (never across hosts)
    max_bytes: int = 4 * 2**30


class Kept(Struct, frozen=True):
    """What a Keep gave."""

    asset: AssetRef


Ask: TypeAlias = Request | Keep
Answer: TypeAlias = Response | Kept
Flow: TypeAlias = Generator[Ask, Answer, T]


def call(request: Request) -> Flow[Response]:
    """Ask, and be answered with exactly a Response."""
    answer = yield request
    assert isinstance(answer, Response)
    return answer


def keep(ask: Keep) -> Flow[AssetRef]:
    """Have a result kept, and be answered with exactly its reference."""
    answer = yield ask
    assert isinstance(answer, Kept)
    return answer.asset


class Failed(Exception):
    """Ends a flow with a fault. Raised by adapters and by the driver, caught in one place."""

    def __init__(self, fault: Fault, *, certain: bool = True) -> None:
        super().__init__(fault.detail)
        self.fault = fault
        self.certain = certain  # False: the provider may have acted all the same


# What a status flow can return.


class Unfinished(Struct, frozen=True):
    """Not yet. `percent` is 0..100, None where the provider does not say."""

    percent: int | None = None
    stage: str = ""  # the provider's own word


class Output(Struct, frozen=True, gc=False, omit_defaults=True):
    """One result at the provider: its address lives as long as the Terms say."""

    url: str
    media_type: str = "video/mp4"


class Done(Struct, frozen=True):
    """Finished. `filtered` counts results that the provider's moderation withheld."""

    outputs: tuple[Output, ...]
    filtered: int = 0
    cost: Money | None = None
    metadata: dict[str, str] = {}


class Broken(Struct, frozen=True):
    """The provider says that it failed."""

    fault: Fault
    billed: Billed = "unknown"


class Stopped(Struct, frozen=True):
    """The provider says that it was cancelled."""

    billed: Billed = "unknown"


class Vanished(Struct, frozen=True):
    """The provider does not know this job (any more)."""


Outcome: TypeAlias = Unfinished | Done | Broken | Stopped | Vanished
CancelAnswer = Literal["accepted", "too_late", "cannot"]
Prepared: TypeAlias = dict[str, str]
"""What `prepare` gained, by name: uploaded files' addresses by the asset's sha256, for instance."""


class Adapter(Protocol):
    """One provider. Everything but `name`, `capabilities` and the flows is data in `capabilities`.

    Only `submit` may spend: it yields exactly one Request with `spends=True`, and yields nothing after it.
    """

    name: str
    capabilities: Capabilities

    def terms(self, spec: VideoSpec, target: Target) -> Terms:
        """What holds for a send of this request: class of doubt, cancelling, schedule, deadlines."""
        ...

    def prepare(self, spec: VideoSpec, target: Target) -> Flow[Prepared]:
        """Uploads and tokens: free, repeatable, any number of requests."""
        ...

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        """Start the paid work. `key` is the same for every send of one attempt."""
        ...

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        """How is it? A word that the adapter does not know is Unfinished: a deadline bounds it."""
        ...

    def cancel(self, handle: Handle, target: Target) -> Flow[CancelAnswer]:
        """Ask the provider to stop."""
        ...

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:
        """The job that we may have started under `key` at about `since`, for classes B and C."""
        ...

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:
        """Have one result kept."""
        ...

    def fault(self, reply: Response) -> Fault | None:
        """The provider's own error in this reply, None where it is not one that this provider writes."""
        ...


class Twin(Protocol):
    """A provider that runs here: the same wire as the real one, without a socket."""

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request; the URL is whole. Never raises, never waits."""
        ...


class Sink(Protocol):
    """Where kept bytes go: the asset store, with the name already decided."""

    async def __call__(self, chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        """Keep the whole stream durably, or raise and keep nothing. `size_bytes` is what was announced."""
        ...


class Transport(Protocol):
    """Carries out what flows ask for."""

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:
        """One exchange. Raises Failed when there is no answer: `certain` when it surely was not sent."""
        ...

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:
        """Stream an address into the sink. Raises Failed."""
        ...


async def drive(flow: Flow[T], transport: Transport, adapter: Adapter, target: Target, sink: Sink | None = None) -> T:
    """Run a flow to its end over a transport. Raises Failed: the flow's own, or the transport's."""
    try:
        ask = next(flow)
        while True:
            if isinstance(ask, Request):
                answer: Answer = await transport.send(adapter, target, ask)
            else:
                assert sink is not None
                answer = Kept(await transport.keep(adapter, target, ask, sink))
            ask = flow.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        flow.close()


def needs_prepare(adapter: Adapter, spec: VideoSpec, target: Target) -> bool:
    """Whether `prepare` would ask anything: its first step is looked at, and dropped."""
    try:
        next(adapter.prepare(spec, target))
    except StopIteration:
        return False
    return True


def reply_json(adapter: Adapter, reply: Response, kind: type[T]) -> T:
    """Decode a good reply, or raise Failed with what the provider (or its gateway) said.

    A failure is *certain* only where the provider's own error was understood and its status means refusal: a gateway's
    page, a server error, a half body or a body of another shape leave open whether the request was carried out.
    """
    if not 200 <= reply.status < 300:
        raise refused(adapter, reply)
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"{adapter.name} answered {reply.status} with a body that is not what its interface promises."
        raise Failed(Fault("bad_answer", detail, retryable=True), certain=False) from error


_CODES: dict[int, Code] = {
    400: "invalid_input",
    401: "authentication_failed",
    402: "quota_exceeded",
    403: "authentication_failed",
    404: "not_found",
    405: "unsupported_feature",
    410: "not_found",
    413: "invalid_input",
    415: "invalid_input",
    422: "invalid_input",
    429: "rate_limited",
}


def code_of(status: int) -> Code:
    """The usual meaning of an HTTP status; adapters say more where a provider means something else."""
    return _CODES.get(status, "provider_unavailable" if status >= 500 else "bad_answer")


def refused(adapter: Adapter, reply: Response) -> Failed:
    """An unsuccessful reply as the failure it means."""
    fault = adapter.fault(reply)
    if fault is None:
        detail = f"{adapter.name} answered {reply.status} without an error of its own."
        transient = reply.status >= 500 or reply.status in (408, 429)
        return Failed(Fault(code_of(reply.status), detail, retryable=transient), certain=reply.status == 429)
    wait_s = retry_after_s(reply)
    if wait_s is not None:
        fault = msgspec.structs.replace(fault, retry_after_s=wait_s)
    certain = reply.status in _CODES or (reply.status == 503 and wait_s is not None)
    return Failed(fault, certain=certain)


def retry_after_s(reply: Response) -> float | None:
    """Seconds of a Retry-After header within 0 and a day; None where there is none (dates are left to our back-off)."""
    text = reply.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(86_400.0, max(0.0, seconds)) if seconds == seconds else None  # noqa: PLR0124 - NaN


def body_digest(request: Request) -> str:
    """sha256 of what a request says, with references in the place of files: what an intent pins."""
    shape = [request.method, request.url, dict(request.query), request.body]
    return hashlib.sha256(msgspec.json.encode(shape, order="deterministic")).hexdigest()


Play: TypeAlias = Callable[[Ask], Answer]


def play(flow: Flow[T], answer: Play) -> T:
    """Run a flow to its end with a plain function as the world: unit tests and twins use it. Raises Failed as it is."""
    try:
        ask = next(flow)
        while True:
            ask = flow.send(answer(ask))
    except StopIteration as done:
        result: T = done.value
        return result
