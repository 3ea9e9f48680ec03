"""What an adapter is: a file of generators that yield requests and return results.

No adapter opens a socket, waits, retries or logs. It yields what it wants to ask, and is sent the answer:

    reply = yield from call(Request("GET", f"/predictions/{handle.id}"))

so a test plays it with bytes, the simulation plays it against a provider's twin, and production plays it over HTTP.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Struct

from rushes.adapters.capabilities import Capabilities, Model, Terms
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Billed, Handle, Money
from rushes.video import TakeKind, Target, VideoSpec

T = TypeVar("T")


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
    """One HTTP request, as data. `url` is whole, a path below the adapter's base address, or `@service/path`."""

    method: str
    url: str
    body: Body = None
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    spends: bool = False  # a paid call: sent once, on a connection of its own, never redirected
    timeout_s: float = 60.0
    answer_bytes: int = 0  # the most that its answer may have, where a file stands in it; 0: the usual


class Response(Struct, frozen=True, kw_only=True):
    """One HTTP answer. Header names are lower-case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    path: str = ""  # of a file that holds the body instead, where it is large
    passing: bool = False  # that file goes when the flow that asked has ended: `drive` removes it


class Keep(Struct, frozen=True, kw_only=True):
    """Stream an address into our store; the answer is the file's reference.

    With a `request`, what is kept is the file that stands as base64 at `place` in its JSON answer.
    """

    url: str  # whole, relative to the adapter's base address, or @service/path
    with_credential: bool = False  # send the provider's key at once, not only where its own host asks for it (401)
    headers: Mapping[str, str] = {}  # of the first host alone
    max_bytes: int = 4 * 2**30
    request: Request | None = None  # asked in the place of `url`
    place: tuple[str | int, ...] = ()  # members of objects and numbers in lists, from the outside in
    media_type: str = "video/mp4"  # of a file in an answer, which does not say it


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


class Trouble(Struct):
    """The usual error: {"error": {"message", "code"}}, {"error": text, "code"} or {"error": text}.

    Where a provider writes one of them alone, the others are no errors of its own: gateways write them, too.
    """

    error: str | Trouble | None = None
    message: str | None = None
    code: str | int | None = None

    def told(self) -> tuple[str, str]:
        """The text and the code, wherever they stand; empty where there is none. A code is one word or a number."""
        if isinstance(self.error, Trouble):
            return self.error.told()
        code = str(self.code or "")
        return self.error or self.message or "", code if _WORD.fullmatch(code) else ""


_WORD: Final = re.compile(r"[A-Za-z_-]{1,64}|\d{1,6}")  # of anything else nobody knows whether it is a secret


# What a status flow can return.


class Unfinished(Struct, frozen=True):
    """Not yet. `percent` is 0..100, None where the provider does not say."""

    percent: int | None = None
    stage: str = ""  # the provider's own word
    wait_s: float = 0.0  # not to be asked again before, as the provider wishes


class Output(Struct, frozen=True, gc=False, omit_defaults=True):
    """One result at the provider: its address lives as long as the Terms say."""

    url: str
    media_type: str = "video/mp4"
    kind: TakeKind = "video"  # pictures come after the videos


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

CALLBACK: Final = "callback"
"""The name in what `submit` is given of the address that the provider shall call back; missing where there is none."""


class Told(Struct, frozen=True):
    """What a callback is about."""

    handle: Handle
    final: bool = True  # False: it says that the job is still under way


class Adapter(Protocol):
    """One provider: what it can do as data in `capabilities`, and flows. Inherit from it for the usual flows.

    Only `submit` may spend: it yields exactly one Request with `spends=True`, and yields nothing after it.
    """

    name: str
    capabilities: Capabilities

    def address(self) -> str:
        """Where relative addresses begin, unless another base address was set."""
        return self.capabilities.base_url

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002
        """What holds for a send of this request: class of doubt, cancelling, schedule, deadlines."""
        return self.capabilities.terms

    def beside_id(self, spec: VideoSpec, target: Target) -> dict[str, str]:  # noqa: ARG002
        """What later calls need beside the provider's id, as far as the request tells it: part of `Handle.extra`.

        A job that `find` found, or whose id a person gave, has it too.
        """
        return {}

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[Prepared]:  # noqa: ARG002
        """Uploads and tokens: free, repeatable, any number of requests. Usually none: files travel in the request.

        `key` is that of the attempt, for a mark that `find` can look for; empty where only the first step is looked at.
        """
        yield from ()
        return {}

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        """Start the paid work. `key` is the same for every send of one attempt."""
        ...

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        """How is it? A word that the adapter does not know is Unfinished: a deadline bounds it."""
        ...

    def cancel(self, handle: Handle, target: Target) -> Flow[CancelAnswer]:  # noqa: ARG002
        """Ask the provider to stop. Where it has no such call the job runs on, and is kept."""
        yield from ()
        return "cannot"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        """The job that we may have started under `key` at about `since`, for classes B and C."""
        yield from ()
        return None

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """Have one result kept. Usually its address is the permission, and the key stays here (`keyed_results`)."""
        return (yield from keep(Keep(url=output.url, with_credential=self.capabilities.keyed_results)))

    def callback(self, body: bytes, target: Target) -> Told | None:  # noqa: ARG002
        """What a callback says, None where that cannot be read. For providers with a `webhook`."""
        return None

    def fault(self, reply: Response) -> Fault | None:
        """The provider's own error in this reply, None where it is not one that this provider writes."""
        ...

    def refuses(self, reply: Response, fault: Fault) -> bool:
        """Whether this error says for certain that nothing was begun: usually its status does.

        A conflict does not: what it is in conflict with may be an earlier send of the same.
        """
        if fault.code == "conflict":
            return False
        return reply.status in _CODES or (reply.status == 503 and fault.retry_after_s is not None)


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


FlowName = Literal["prepare", "submit", "status", "cancel", "find", "download", "callback"]
"""What an exchange is for. In a callback the provider asks, and we answer; adapters have no flow for it."""


class Tap(Protocol):
    """Has what one effect of one job exchanges recorded. It never fails and never makes anybody wait."""

    ids: list[int]  # of the exchanges so far

    def on(self, line: Transport, flow: FlowName) -> Transport:
        """The same line, overheard: before a key is added, and after the answer is there whole."""
        ...


class Recorder(Protocol):
    """Keeps exchanges, for looking back."""

    def tap(self, job: str, attempt: int, trace: str = "") -> Tap:
        """For one effect of a job, by its public name; `trace` is the one that the job belongs to."""
        ...


Worth = Literal["accepted", "hint", "nothing", "refused"]
"""What a callback was worth: it moved the job, had the provider asked soon, neither, or was not taken in."""


class Heeded(Struct, frozen=True, kw_only=True):
    """What became of a callback."""

    status: int  # that we answered
    worth: Worth
    why: str = ""  # a word, where it did nothing


class Call(Protocol):
    """The recording of one callback."""

    id: int  # of its exchange

    def ended(self, result: Heeded | BaseException) -> None:
        """Say what became of it, once. It never fails."""
        ...


class CallRecorder(Protocol):
    """Keeps callbacks, for looking back."""

    dropped: int  # exchanges of any flow that were not kept, since the process began

    def call(self, job: str, attempt: int, trace: str, adapter: Adapter, request: Request, body: bytes) -> Call:
        """For one callback about a job that there is. `request` has our path, without the code that makes it ours."""
        ...


async def drive(flow: Flow[T], transport: Transport, adapter: Adapter, target: Target, sink: Sink | None = None) -> T:
    """Run a flow to its end over a transport. Raises Failed: the flow's own, or the transport's."""
    passing: list[str] = []
    try:
        ask = next(flow)
        while True:
            if isinstance(ask, Request):
                reply = await transport.send(adapter, target, ask)
                passing += [reply.path] if reply.passing else []
                answer: Answer = reply
            else:
                assert sink is not None
                answer = Kept(await transport.keep(adapter, target, ask, sink))
            ask = flow.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        flow.close()
        for path in passing:
            Path(path).unlink(missing_ok=True)


def needs_prepare(adapter: Adapter, spec: VideoSpec, target: Target) -> bool:
    """Whether `prepare` would ask anything: its first step is looked at, and dropped."""
    try:
        next(adapter.prepare(spec, target))
    except StopIteration:
        return False
    return True


def read(reply: Response, kind: type[T]) -> T | None:
    """The reply's JSON as `kind`, None where it is something else: for errors, and for answers that may be empty."""
    return read_json(reply.body, kind)


def read_json(body: bytes, kind: type[T]) -> T | None:
    """The same for bytes that came by themselves."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def reply_json(adapter: Adapter, reply: Response, kind: type[T]) -> T:
    """Decode a good reply, or raise Failed with what the provider (or its gateway) said.

    A failure is *certain* only where the provider's own error was understood and its status means refusal: a gateway's
    page, a server error, a half body or a body of another shape leave open whether the request was carried out. Under a
    good status, too, a body that is not `kind` may be the provider's own error: then that is what is raised.
    """
    if not 200 <= reply.status < 300:
        raise refused(adapter, reply)
    try:
        return msgspec.json.decode(_content(reply), type=kind)
    except OSError as error:
        unread = Fault("storage_failed", "A kept answer could not be read.", retryable=True)
        raise Failed(unread, certain=False) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if adapter.fault(reply) is not None:
            raise refused(adapter, reply) from error
        detail = f"{adapter.name} answered {reply.status} with a body that is not what its interface promises."
        raise Failed(Fault("bad_answer", detail, retryable=True), certain=False) from error


def ask(adapter: Adapter, request: Request, kind: type[T]) -> Flow[T]:
    """Ask, and be answered with a good reply's content. Raises Failed, as `reply_json` does."""
    return reply_json(adapter, (yield from call(request)), kind)


class Created(Struct):
    """All that the answer to a paid request must hold: nothing else in it can make it unreadable."""

    id: str


def start(
    adapter: Adapter, request: Request, shape: re.Pattern[str], extra: Mapping[str, str] | None = None
) -> Flow[Handle]:
    """Send the paid request, and make a handle of the `id` in its answer (`handle_of`). Raises Failed."""
    return handle_of(adapter, (yield from ask(adapter, request, Created)).id, shape, extra)


def look(adapter: Adapter, url: str, kind: type[T], headers: Mapping[str, str] | None = None) -> Flow[T | None]:
    """Ask about a job; None where the provider itself says that there is none (404). Raises Failed."""
    reply = yield from call(Request(method="GET", url=url, headers=headers or {}))
    if reply.status == 404 and adapter.fault(reply) is not None:  # a gateway's page proves nothing
        return None
    return reply_json(adapter, reply, kind)


class Page(Struct, Generic[T]):
    """A page of a list in the usual shape."""

    results: list[T]
    next: str | None = None  # the address of the page after it


LIST_PAGES: Final = 50
"""Of one list. Beyond them a look finds nothing, which proves nothing."""


def listed(adapter: Adapter, url: str, query: Mapping[str, str], kind: type[T]) -> Flow[list[T]]:
    """The rows of a list of `Page`s, one page after the other. Raises Failed."""
    rows: list[T] = []
    for _ in range(LIST_PAGES):
        page = yield from ask(adapter, Request(method="GET", url=url, query=query), Page[kind])  # type: ignore[valid-type]
        rows += page.results
        if not page.next:
            break
        url, query = page.next, {}
    return rows


def _content(reply: Response) -> bytes:
    return Path(reply.path).read_bytes() if reply.path else reply.body


_CODES: dict[int, Code] = {
    400: "invalid_input",
    401: "authentication_failed",
    402: "quota_exceeded",
    403: "authentication_failed",
    404: "not_found",
    405: "unsupported_feature",
    409: "conflict",
    410: "not_found",
    413: "invalid_input",
    415: "invalid_input",
    422: "invalid_input",
    429: "rate_limited",
}


def code_of(status: int) -> Code:
    """The usual meaning of an HTTP status; adapters say more where a provider means something else."""
    return _CODES.get(status, "provider_unavailable" if status >= 500 else "bad_answer")


def problem(
    adapter: Adapter, reply: Response, text: str, code: Code | None = None, *, field: str = "", word: str = ""
) -> Fault:
    """An error in the provider's words. Its status says whether it may pass and, without `code`, what it means."""
    passing = reply.status == 429 or reply.status >= 500
    detail = f"{adapter.name}: {plain(text)}"
    return Fault(code or code_of(reply.status), detail, field=field, retryable=passing, provider_code=word)


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
    return Failed(fault, certain=adapter.refuses(reply, fault))


def retry_after_s(reply: Response) -> float | None:
    """Seconds of a Retry-After header within 0 and a day; None where there is none, or none that can be understood.

    It may be a time (RFC 9110, 10.2.3): then the answer's own Date says how far off it is, as our clock may be another.
    Without one, a 429 may say it in words, or in a RateLimit-Reset header.
    """
    text = reply.headers.get("retry-after", "").strip()
    try:
        seconds = float(text) if text[:1] in "+-.0123456789" else _http_time(text) - _http_time(reply.headers["date"])
    except (KeyError, ValueError, OverflowError):
        return _resets_s(reply) if reply.status == 429 else None
    return min(86_400.0, max(0.0, seconds))


_RESETS: Final = re.compile(rb"resets in ~?(\d{1,9})s")


def _resets_s(reply: Response) -> float | None:
    told = _RESETS.search(reply.body)
    seconds = told[1].decode() if told else reply.headers.get("ratelimit-reset", "")
    return min(86_400.0, float(seconds)) if re.fullmatch(r"\d{1,9}", seconds, re.ASCII) else None


def _http_time(text: str) -> float:
    """Seconds since 1970 of any of HTTP's three forms of a time. Raises ValueError or OverflowError."""
    at = parsedate_to_datetime(text)
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp()  # the oldest form names no zone: all are GMT


_PRIVATE: Final = re.compile(
    r"(?i)\b(?:[a-z][a-z0-9+.-]{1,20}://\S+|data:\S+|(?:key_|r8_|sk-|xai-|whsec_|bearer |ya29\.|AIza)[\w.+/=-]+"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)"
)


def plain(text: str | None, most_chars: int = 300) -> str:
    """Somebody else's words, short, on one line, without addresses, keys and UUIDs: faults are kept and shown."""
    words = " ".join(_PRIVATE.sub("(left out)", text or "").split())
    return words[:most_chars] or "no reason given"


def handle_of(adapter: Adapter, id: str, shape: re.Pattern[str], extra: Mapping[str, str] | None = None) -> Handle:
    """A provider's id as a handle. One that could lead elsewhere as part of an address leaves the send in doubt."""
    if not shape.fullmatch(id):
        raise Failed(Fault("bad_answer", f"This is not the id of a job at {adapter.name}."), certain=False)
    return Handle(id, dict(extra or {}))


class State(Created):
    """A job as most callbacks show it."""

    status: str

    def told(
        self, shape: re.Pattern[str], under_way: Container[str], extra: Mapping[str, str] | None = None
    ) -> Told | None:
        """What that says. `under_way` are the words for a job that goes on; an id of another shape is none."""
        if not shape.fullmatch(self.id):
            return None
        return Told(Handle(self.id, dict(extra or {})), self.status not in under_way)


def said(spec: VideoSpec, model: Model) -> dict[str, Any]:
    """What the wire simply tells of a normalised spec: its own names and words (`Model.wire`, `Model.words`).

    Whole numbers are integers. Empty words and absent wishes are left out; so are inputs, as each wire has its own form
    for them, and options without a name in `wire`.
    """
    body: dict[str, Any] = {}
    for ours, theirs in model.wire.items():
        value = getattr(spec, ours) if ours in VideoSpec.__struct_fields__ else spec.provider_options.get(ours)
        if value is None or value == "":
            continue
        *objects, name = theirs.split(".")
        place = body
        for step in objects:
            place = place.setdefault(step, {})
        place[name] = model.words[ours].get(value, value) if ours in model.words else _whole(value)
    return body


def unsaid(spec: VideoSpec, model: Model) -> dict[str, Any]:
    """The options that `said` left out."""
    return {name: value for name, value in spec.provider_options.items() if name not in model.wire}


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def files(spec: VideoSpec) -> dict[str, AssetRef]:
    """The files of the inputs by their sha256, each once: for those that are uploaded."""
    return {given.asset.sha256: given.asset for given in spec.inputs}


def file_part(name: str, asset: AssetRef, ending: str = "") -> Part:
    """A file as a part of a form. `ending` is that of its name, where it is not the second half of its media type."""
    filename = f"{asset.sha256[:16]}.{ending or asset.media_type.partition('/')[2]}"
    return Part(name, Inline(asset, "bytes"), filename, asset.media_type)


def addresses(node: object) -> Iterator[str]:
    """The results' addresses in texts, lists and objects of any JSON; beside a member `video` no other one counts."""
    match node:
        case str() if _ADDRESS.fullmatch(node):
            yield node
        case list():
            for one in cast("list[object]", node):
                yield from addresses(one)
        case dict():
            named = cast("dict[str, object]", node)
            yield from addresses(named["video"] if "video" in named else [*named.values()])
        case _:
            return


_ADDRESS: Final = re.compile(r"(?:https?|data):\S+")


def percent(told: float | None) -> int | None:
    """What a provider tells of its progress in percent, as that of a job that has not ended: 0 to 99."""
    return None if told is None else round(min(99.0, max(0.0, told)))


def finished(
    who: str,
    urls: Iterable[str],
    *,
    cost: Money | None = None,
    metadata: Mapping[str, str] | None = None,
    billed: Billed = "yes",
) -> Done | Broken:
    """A job that has ended well. One whose result nobody can find has failed, and is usually billed all the same."""
    if outputs := tuple(map(Output, urls)):
        return Done(outputs, cost=cost, metadata=dict(metadata or {}))
    return Broken(Fault("bad_answer", f"{who} finished without the address of a file."), billed)


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
