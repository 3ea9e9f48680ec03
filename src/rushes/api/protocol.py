"""Every frame and body of the HTTP and WebSocket API, as types. Pure.

What others sent is read strictly: an unknown field is an error that names it. What we send may grow: readers ignore
the fields and frames that they do not know.

A conversation over the socket (subprotocol `rushes.v1.json`, one JSON object a message), as docs/websocket.md tells it:

    client  hello{token?}                                within five seconds
    server  welcome{epoch, position, heartbeat_s}
    client  subscribe{id: "a", job?, jobs?, batch?, status?, provider?, from?}    `from` is exclusive; without it: now
    server  subscribed{id: "a", recovered, snapshot, snapshots, partial, position}
    server  events{sub: "a", upto, items: [{position, job_id, version, type, at, data, traceparent?}, …]}   again
    server  caught_up{sub: "a", position}                when the end of the log was reached
    client  command{id: "b", name, args?, idempotency_key?}
    server  result{id: "b", name, job | batch, replayed} or error{id: "b", code, message, billed, …}
    server  heartbeat{position}                          every heartbeat_s

A client that remembers `epoch` and the last `upto` (or `caught_up` position) subscribes again from there after any
break, and misses nothing and sees nothing twice. A history that cannot be continued is answered by `resync`, and the
subscription is not made: subscribe again from "start" or "now".

An event whose stored bytes are damaged comes as `error{id: "a", code: "unreadable", message}` in its place, once each
time the log is read past it, and what is behind it follows. A job that the server cannot read (one of its events is
damaged, or a newer release wrote it) is subscribed to like any other: its snapshot is missing, an `error` right behind
`subscribed` says why, and its events follow, also those that only a newer release understands.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from rushes.api.statuses import TABLE
from rushes.faults import BadRequest, Code, Fault, RushesError
from rushes.units import Billed
from rushes.video import MAX_BATCH, BatchedRequest, BatchView, JobView, Status, fault_of

SUBPROTOCOL: Final = "rushes.v1.json"
MAX_JOBS: Final = 100  # in one subscription's list
MAX_SNAPSHOTS: Final = 200  # at the beginning of a subscription


class Close(IntEnum):
    """Why the server closes a socket; below 4000 the standard's own codes."""

    STOPPING = 1001
    BROKEN = 1011
    BAD_MESSAGE = 4400  # not a JSON object, before hello
    UNAUTHORISED = 4401  # the token is unknown, or was revoked while the socket was open
    FORBIDDEN = (
        4403  # kept: a foreign Origin is refused before there is a socket, and a missing scope is an error frame
    )
    NO_HELLO = 4408
    DUPLICATE_ID = 4409
    TOO_SLOW = 4413  # it did not take what it was sent; it may come again with its last position
    TOO_MANY = 4429  # sockets of a tenant, subscriptions of a socket, or messages a second


# ── what clients send ─────────────────────────────────────────────────────────────────────────────────────────────────


class FromClient(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """A frame from a client."""


Id = Annotated[str, Meta(min_length=1, max_length=64)]


class Cursor(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything up to and including `position` is known already."""

    epoch: str
    position: Annotated[int, Meta(ge=0)]


class Hello(FromClient, frozen=True, kw_only=True, tag="hello"):
    """The first frame. Without keys on the server a token is ignored."""

    token: str = ""
    client: str = ""


class Subscribe(FromClient, frozen=True, kw_only=True, tag="subscribe"):
    """Follow one job, some, a batch's, or all. All that is given must hold of a job: before an event, or after it."""

    id: Id  # the client's own name for it
    job: str | None = None
    jobs: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_JOBS)] | None = None
    batch: str | None = None  # also those of its jobs that begin later, when it is sent again
    status: Status | None = None
    provider: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    start: Cursor | Literal["now", "start"] = field(default="now", name="from")
    snapshots: Annotated[int, Meta(ge=0, le=MAX_SNAPSHOTS)] = 0  # of the jobs that changed last, where none is named


class Unsubscribe(FromClient, frozen=True, kw_only=True, tag="unsubscribe"):
    """No more of it."""

    id: Id


class Ping(FromClient, frozen=True, kw_only=True, tag="ping"):
    """Are you there? For clients that cannot send the protocol's own pings."""


CommandName: TypeAlias = Literal["generate", "show", "poll", "cancel", "collect", "submit_batch", "batch"]


class Command(FromClient, frozen=True, kw_only=True, tag="command"):
    """Do what the HTTP route of that name does. It is carried out even if the socket breaks."""

    id: Id  # the answer carries it
    name: CommandName
    args: msgspec.Raw = field(
        default_factory=lambda: msgspec.Raw(b"{}")
    )  # by name: VideoRequest, JobArgs, CancelArgs, CollectArgs, BatchBody, BatchArgs
    idempotency_key: str | None = None  # of generate and submit_batch alone


ClientFrame: TypeAlias = Hello | Subscribe | Unsubscribe | Command | Ping
FRAMES: Final[dict[str, type[FromClient]]] = {
    "hello": Hello,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "command": Command,
    "ping": Ping,
}
_KNOWN: Final = f"the frames are {', '.join(FRAMES)}"
_FRAME: Final[msgspec.json.Decoder[ClientFrame]] = msgspec.json.Decoder(ClientFrame)


class BadFrame(BadRequest):
    """A frame that cannot be read. `is_object`: it is a JSON object at least; `id`: what it calls itself."""

    def __init__(self, fault: Fault, *, is_object: bool = True, id: str = "") -> None:
        super().__init__([fault])
        self.is_object, self.id = is_object, id


def read_frame(text: str | bytes) -> ClientFrame:
    """A client's frame, or BadFrame naming what is wrong with it."""
    try:
        return _FRAME.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_frame(text, error) from error


def _bad_frame(text: str | bytes, error: Exception) -> BadFrame:
    try:
        parsed = msgspec.json.decode(text, type=dict[str, object])
    except msgspec.ValidationError:
        return BadFrame(Fault("invalid_input", f"A frame is a JSON object with a 'type': {_KNOWN}."), is_object=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        return BadFrame(Fault("invalid_input", f"The frame is not valid JSON: {why}."), is_object=False)
    kind, name = parsed.get("type"), str(parsed.get("id", ""))
    if not isinstance(kind, str) or kind not in FRAMES:
        detail = f"There is no frame {kind!r}: {_KNOWN}." if kind else f"The frame has no 'type': {_KNOWN}."
        return BadFrame(Fault("invalid_input", detail, field="type"), id=name)
    return BadFrame(fault_of(error, FRAMES[kind]), id=name)


# ── what the server sends ─────────────────────────────────────────────────────────────────────────────────────────────


class FromServer(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A frame from the server."""


class Welcome(FromServer, frozen=True, kw_only=True, tag="welcome"):
    """The answer to hello: which history this is, and where it ends."""

    epoch: str
    position: int
    heartbeat_s: float


class Subscribed(FromServer, frozen=True, kw_only=True, tag="subscribed"):
    """The subscription stands: the events behind `position` follow, every one once, in order.

    For one job `snapshot` shows it, unless it cannot be read. Without `from` it shows the job exactly as it was at
    `position`. With an older `from` it is newer than that: events up to `snapshot.version` are contained in it already.
    For several jobs `snapshots` shows them, in the order of the list, or those that changed last first; of a batch
    those that GET /v1/batches/{id} names. Every snapshot is at least as new as `position`, unless `from` is newer:
    events up to its `version` are contained in it.
    """

    id: str
    recovered: bool  # it continues where `from` said
    snapshot: JobView | None
    position: int
    snapshots: Sequence[JobView] = ()
    partial: bool = False  # more jobs belong to it than are shown, or may: GET /v1/jobs lists them


class Events(FromServer, frozen=True, kw_only=True, tag="events"):
    """Some of the log. `upto`: the last position that was looked at, so the cursor to come back with."""

    sub: str
    upto: int
    items: Sequence[msgspec.Raw]  # EventViews; each is encoded once, for all sockets


class CaughtUp(FromServer, frozen=True, kw_only=True, tag="caught_up"):
    """All that belongs to the subscription up to `position` was sent, and the log ended there.

    It comes once behind the history, again whenever the reader was more than a batch behind and reached the end, and
    with a heartbeat where the log grew without anything for this subscription. It is a cursor like `upto`.
    """

    sub: str
    position: int


class Resync(FromServer, frozen=True, kw_only=True, tag="resync"):
    """The history that `from` speaks of is not ours. The subscription was not made."""

    sub: str
    reason: str


class Pong(FromServer, frozen=True, kw_only=True, tag="pong"):
    """The answer to ping."""


class Heartbeat(FromServer, frozen=True, kw_only=True, tag="heartbeat"):
    """The server is there, and its log ends at `position`. That is no cursor: see `caught_up`."""

    position: int


class Result(FromServer, frozen=True, kw_only=True, tag="result"):
    """A command was carried out: the job, or the batch, as it is now."""

    id: str
    name: CommandName
    job: JobView | None = None
    batch: BatchView | None = None  # of submit_batch and batch
    replayed: bool = False  # the idempotency key had begun it before, or all of the batch


class ProblemError(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One thing that is wrong with a request."""

    field: str
    code: Code
    detail: str


class Error(FromServer, frozen=True, omit_defaults=True, kw_only=True, tag="error"):
    """A frame could not be followed, or an event of a subscription cannot be told. The socket stays open.

    `id` is the frame's or the subscription's; empty where a frame gave none. The rest means what it means in a Problem;
    `message` is its `detail`.
    """

    id: str
    code: Code
    message: str
    retryable: bool
    billed: Billed
    field: str = ""
    errors: tuple[ProblemError, ...] = ()
    job_id: str = ""
    idempotency_key: str = ""


ServerFrame: TypeAlias = Welcome | Subscribed | Events | CaughtUp | Heartbeat | Resync | Result | Pong | Error


# ── bodies and queries ────────────────────────────────────────────────────────────────────────────────────────────────


class Strict(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A body or a query; this one has no field."""


class BatchBody(Strict, frozen=True, kw_only=True):
    """What is begun together, or not at all."""

    requests: Annotated[tuple[BatchedRequest, ...], Meta(min_length=1, max_length=MAX_BATCH)]


class CancelBody(Strict, frozen=True, kw_only=True):
    """`discard`: where nothing stops the job, drop its take."""

    discard: bool = False


class CollectBody(Strict, frozen=True, kw_only=True):
    """`handle`: the provider's own id of the job, where it is not known here."""

    handle: str | None = None


class JobArgs(Strict, frozen=True, kw_only=True):
    """Which job a command over the socket is about."""

    job: str


class BatchArgs(Strict, frozen=True, kw_only=True):
    """Which batch a command over the socket is about."""

    batch: str


class CancelArgs(CancelBody, frozen=True, kw_only=True):
    """The same, with what its HTTP route takes as a body."""

    job: str


class CollectArgs(CollectBody, frozen=True, kw_only=True):
    """The same, with what its HTTP route takes as a body."""

    job: str


class ResubmitBody(Strict, frozen=True, kw_only=True):
    """`accept_cost`: the job may be paid twice."""

    accept_cost: bool = False


class EventsQuery(Strict, frozen=True, kw_only=True):
    """A job's events with versions above `after`."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class ContentQuery(Strict, frozen=True, kw_only=True):
    """Which of a job's takes."""

    take: Annotated[int, Meta(ge=0)] = 0


class Listing(Struct, frozen=True, kw_only=True):
    """A page of things."""

    kind: Literal["list"] = field(default="list", name="object")
    data: Sequence[object]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class JobsListing(Listing, frozen=True, kw_only=True):
    """A page of jobs; see Page for what its own fields mean."""

    next: str | None
    unreadable: Sequence[str]
    stale: bool


class Health(Struct, frozen=True, kw_only=True):
    """The server is there, and its log ends here; a caller without a key is told the first alone."""

    status: Literal["ok"] = "ok"
    epoch: str | UnsetType = UNSET
    position: int | UnsetType = UNSET


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

STATUS: Final[dict[Code, int]] = {code: told.native for code, told in TABLE.items()}
RETRYABLE: Final = frozenset[Code]({"rate_limited", "provider_unavailable", "not_sent", "unavailable"})


class Refused(RushesError):
    """HTTP itself is why: no such address, a foreign page, too large a body, not yet."""

    def __init__(
        self,
        status: int,
        code: Code,
        detail: str,
        *,
        retryable: bool = False,
        job_id: str = "",
        billed: Billed | None = None,
    ) -> None:
        super().__init__(detail, job_id=job_id, billed=billed)
        self.status, self.code, self.retryable = status, code, retryable


class Problem(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The body of every error: application/problem+json (RFC 9457), with our own members."""

    type: str
    title: str
    status: int
    detail: str  # one sentence: what went wrong and what to do
    code: Code
    field: str = ""
    errors: tuple[ProblemError, ...] = ()
    retryable: bool
    billed: Billed
    job_id: str = ""
    idempotency_key: str = ""


def problem_of(error: RushesError) -> Problem:
    """An error as callers over HTTP see it."""
    status, retryable = STATUS[error.code], error.code in RETRYABLE
    if isinstance(error, Refused):
        status, retryable = error.status, error.retryable
    return Problem(
        type=f"urn:rushes:problem:{error.code}",
        title=error.code.replace("_", " "),
        status=status,
        detail=error.detail,
        code=error.code,
        field=error.field,
        errors=tuple(_problem_errors(error)),
        retryable=retryable,
        billed=error.billed,
        job_id=error.job_id,
        idempotency_key=error.idempotency_key,
    )


def _problem_errors(error: RushesError) -> list[ProblemError]:
    faults = error.faults if isinstance(error, BadRequest) else ()
    return [ProblemError(field=fault.field, code=fault.code, detail=fault.detail) for fault in faults]


def error_frame(error: RushesError, id: str) -> Error:
    """An error as callers over the socket see it: the same, without a status."""
    problem = problem_of(error)
    return Error(
        id=id,
        code=problem.code,
        message=problem.detail,
        retryable=problem.retryable,
        billed=problem.billed,
        field=problem.field,
        errors=problem.errors,
        job_id=problem.job_id,
        idempotency_key=problem.idempotency_key,
    )
