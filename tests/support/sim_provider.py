"""Providers for simulations: one adapter, and a twin for each class of doubt and each kind of cancel.

A twin is a plain object that answers requests. It draws nothing by luck: what becomes of a render follows from the seed
and from the render's own place, so that a run with one fault less is otherwise the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, cast

import msgspec
from msgspec import Struct

from rushes.adapters.base import (
    Adapter,
    Broken,
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
from rushes.adapters.capabilities import CancelKind, Capabilities, DoubtClass, Model, PollSchedule, Terms
from rushes.faults import Code, Fault
from rushes.units import AssetRef, Handle
from rushes.video import Target, VideoSpec

CLASSES: Final[tuple[DoubtClass, ...]] = ("A", "B", "C", "D", "E")
CANCELS: Final[tuple[CancelKind, ...]] = ("stops", "destroys", "no")
LAST_ARRIVAL_S: Final = 10.0  # a request on the wire arrives by then, or never
SETTLE_S: Final = 30.0  # longer than the way there and the time until it can be seen, by definition
HIDDEN_S: Final = SETTLE_S - LAST_ARRIVAL_S  # a new render may be hidden from lists so long
UNKNOWN_S: Final = 5.0  # … and its own address may answer 404 so long
KEY_TTL_S: Final = 7200.0
KEY_MARGIN_S: Final = 4000.0  # keys live longer than the terms say: clocks that jump an hour are within it
TOTAL_S: Final = 3600.0
LINK_TTL_S: Final = 60.0  # at the least
CALLBACK_S: Final = 20.0  # by then, or soon after we are back
CLIP: Final = b"\0\0\0\x18ftypisom" + b"\0" * 40

Fate = Literal["done", "part", "moderated", "empty", "failed", "flaky", "dropped", "never"]
FATES: Final[tuple[tuple[Fate, float], ...]] = (
    ("done", 0.72),
    ("part", 0.05),  # some outputs are withheld
    ("moderated", 0.04),
    ("empty", 0.03),
    ("failed", 0.05),
    ("flaky", 0.06),  # failed, not billed, and worth another attempt
    ("dropped", 0.02),  # stopped by the provider itself
    ("never", 0.03),
)
Draw = Callable[..., float]
"""A number in [0, 1) for a place, the same whenever it is asked for."""


class Render(Struct):
    """The provider's own job."""

    id: str
    key: str
    fate: Fate
    outputs: int
    made_at: float
    known_at: float
    listed_at: float
    ends_at: float
    link_ttl_s: float
    state: Literal["running", "done", "failed", "cancelled"] = "running"
    links: list[float] = []  # until when each generation of addresses works
    taken_back: bool = False  # destroyed after it was finished, by somebody who did not look
    last_running_at: float = -1.0  # when somebody was last told that it runs

    @property
    def job(self) -> str:
        """Whose render it is."""
        return self.key.partition("-")[0]

    @property
    def charged(self) -> bool:
        """Whether somebody has to pay for it."""
        return self.state != "failed"

    @property
    def makes_takes(self) -> bool:
        """Whether there are takes when it is done."""
        return self.fate in ("done", "part", "never")


class Status(Struct, omit_defaults=True):
    """The wire's word for a render."""

    id: str
    state: str
    percent: int = 0
    files: list[str] = []
    withheld: int = 0
    error: str = ""


class Trouble(Struct):
    """The wire's word for an error."""

    error: str


class Twin:
    """One provider. `callbacks` are those it owes: (due, key, id)."""

    def __init__(self, doubt: DoubtClass, cancel: CancelKind, draw: Draw, *, plain: bool = False) -> None:
        """`plain`: every render is done soon, and has one output."""
        self.doubt, self.cancel, self._draw, self._plain = doubt, cancel, draw, plain
        self.renders: list[Render] = []
        self.callbacks: list[tuple[float, str, str]] = []

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request."""
        head, _, rest = request.url.strip("/").partition("/")
        if head == "uploads":
            return reply_of(201, Status(f"u{len(self.renders)}", "kept"))
        if head == "files":
            return self._file(rest, now)
        if request.method == "POST":
            return reply_of(201, Status(self._create(cast("Mapping[str, str]", request.body), now).id, "running"))
        if wanted := request.query.get("key"):
            return self._found([r for r in self.renders if r.key == wanted and r.listed_at <= now], now)
        found = [r for r in self.renders if r.id == rest and r.known_at <= now]
        if request.method == "DELETE" and found:
            self._stop(found[0], now)
        return self._found(found, now)

    def render(self, name: str) -> Render | None:
        """The render of that name."""
        return next((render for render in self.renders if render.id == name), None)

    def settle(self, now: float) -> None:
        """Let time pass for every render."""
        for render in self.renders:
            self._move(render, now)

    def _create(self, body: Mapping[str, str], now: float) -> Render:
        key = body["key"]
        if self.doubt == "A":
            for known in self.renders:
                if known.key == key and now < known.made_at + KEY_TTL_S + KEY_MARGIN_S:
                    return known
        number = len(self.renders)

        def draw(what: str, low: float, high: float) -> float:
            return low + self._draw(key, number, what) * (high - low)

        render = Render(
            id=f"{self.doubt}{number}",
            key=key,
            fate=self._fate(key, number),
            outputs=1 if self._plain else int(draw("outputs", 1, 3.3)),
            made_at=now,
            known_at=now + draw("known", 0, UNKNOWN_S),
            listed_at=now + draw("listed", 0, HIDDEN_S),
            ends_at=now + (4.0 if self._plain else draw("takes", 2, 200)),
            link_ttl_s=LINK_TTL_S + draw("links", 0, 1) ** 3 * 3600.0,
        )
        self.renders.append(render)
        if "callback" in body:
            due = now + draw("callback", 0.2, CALLBACK_S)
            self.callbacks.append((due, key, render.id))
        return render

    def _fate(self, key: str, number: int) -> Fate:
        if self._plain:
            return "done"
        drawn = self._draw(key, number, "fate")
        for fate, share in FATES:
            drawn -= share
            if drawn < 0:
                return fate
        return "done"

    def _move(self, render: Render, now: float) -> None:
        if render.state == "running" and now >= render.ends_at and render.fate != "never":
            render.state = "failed" if render.fate in ("failed", "flaky") else "done"
            if render.fate == "dropped":
                render.state = "cancelled"

    def _stop(self, render: Render, now: float) -> None:
        self._move(render, now)
        if render.state == "running" and self.cancel != "no":
            render.state = "cancelled"
        elif render.state == "done" and self.cancel == "destroys":
            render.state = "cancelled"
            looked = render.last_running_at >= now - 2 * LAST_ARRIVAL_S  # it ended between the look and the cancel
            render.taken_back = render.makes_takes and not looked

    def _found(self, found: list[Render], now: float) -> Response:
        if not found:
            return reply_of(404, Trouble("not found"))
        render = found[0]
        self._move(render, now)
        if render.state == "running":
            render.last_running_at = now
            percent = int(100 * (now - render.made_at) / (render.ends_at - render.made_at))
            return reply_of(200, Status(render.id, "running", percent=min(percent, 99)))
        if render.state != "done":
            return reply_of(200, Status(render.id, render.state, error=render.fate if render.state == "failed" else ""))
        if not any(until > now for until in render.links):
            render.links.append(now + render.link_ttl_s)
        generation = len(render.links) - 1
        files = [f"/files/{render.id}/{generation}/{n}" for n in range(render.outputs)]
        if render.fate in ("moderated", "empty"):
            files = []
        withheld = 1 if render.fate in ("moderated", "part") else 0
        return reply_of(200, Status(render.id, "done", files=files, withheld=withheld))

    def _file(self, path: str, now: float) -> Response:
        name, generation, _ = path.split("/")
        render = self.render(name)
        if render is None or render.state != "done" or now >= render.links[int(generation)]:
            return reply_of(403, Trouble("expired"))
        return Response(status=200, body=CLIP, headers={"content-type": "video/mp4"})


def reply_of(status: int, answer: Struct) -> Response:
    """An answer of the wire."""
    return Response(status=status, body=msgspec.json.encode(answer))


class SimAdapter(Adapter):
    """The adapter for all twins."""

    def __init__(self, doubt: DoubtClass, cancel: CancelKind) -> None:
        self.name = f"{doubt.lower()}-{cancel}"
        self.doubt, self.cancel_kind = doubt, cancel
        self.capabilities = Capabilities(
            base_url="https://sim.example",
            base_url_env="",
            models=(Model(id="m", operations=("text-to-video",)),),
            submits_at_once=2,
        )

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002 - an adapter may look
        return Terms(
            doubt=self.doubt,
            cancel=self.cancel_kind,
            poll=PollSchedule(min_s=2.0, max_s=120.0, growth=0.5),
            key_ttl_s=KEY_TTL_S,
            settle_s=SETTLE_S,
            gone_grace_s=2 * LAST_ARRIVAL_S,
            link_ttl_s=LINK_TTL_S,
            total_s=TOTAL_S,
        )

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[Prepared]:  # noqa: ARG002
        reply = yield from call(Request(method="POST", url="/uploads", body={"prompt": spec.prompt}))
        return {"upload": reply_json(self, reply, Status).id}

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        body = {"key": key, "prompt": spec.prompt, **({"callback": key} if self.doubt == "D" else {})}
        reply = yield from call(Request(method="POST", url="/renders", body=body, spends=True))
        return Handle(reply_json(self, reply, Status).id)

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:  # noqa: ARG002
        reply = yield from call(Request(method="GET", url=f"/renders/{handle.id}"))
        if reply.status == 404:
            return Vanished()
        status = reply_json(self, reply, Status)
        match status.state:
            case "done":
                return Done(tuple(Output(file) for file in status.files), filtered=status.withheld)
            case "failed":
                fault = Fault("generation_failed", "it broke", retryable=status.error == "flaky")
                return Broken(fault, billed="no")
            case "cancelled":
                return Stopped("unknown")
            case _:
                return Unfinished(status.percent)

    def cancel(self, handle: Handle, target: Target) -> Flow[CancelAnswer]:  # noqa: ARG002
        reply = yield from call(Request(method="DELETE", url=f"/renders/{handle.id}"))
        return "accepted" if reply_json(self, reply, Status).state == "cancelled" else "too_late"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        reply = yield from call(Request(method="GET", url="/renders", query={"key": key}))
        if reply.status == 404:
            return None
        return Handle(reply_json(self, reply, Status).id)

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        return (yield from keep(Keep(url=output.url)))

    def fault(self, reply: Response) -> Fault | None:
        try:
            said = msgspec.json.decode(reply.body, type=Trouble).error
        except msgspec.DecodeError:
            return None
        return Fault(FAULTS.get(reply.status, "bad_answer"), said, retryable=reply.status in (429, 503))


FAULTS: Final[dict[int, Code]] = {
    401: "authentication_failed",
    404: "not_found",
    422: "invalid_input",
    429: "rate_limited",
    503: "provider_unavailable",
}
