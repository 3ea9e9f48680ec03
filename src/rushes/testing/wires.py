"""An adapter's flows against its twin, without a socket and without time: a question, and there is the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from copy import copy
from functools import cache
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.base import (
    Adapter,
    Answer,
    Ask,
    Body,
    Failed,
    Flow,
    Inline,
    Keep,
    Kept,
    Outcome,
    Request,
    Response,
    Unfinished,
    play,
)
from rushes.adapters.bodies import Embedded, encode
from rushes.adapters.capabilities import Terms
from rushes.emulators.base import ProviderTwin, shipped_clip
from rushes.emulators.faults import Faults, LineRule, NoAnswer, TwinRule
from rushes.emulators.faulty import FaultyTwin
from rushes.emulators.ledger import Charge
from rushes.faults import Code, Fault
from rushes.testing.orders import Order, content_of, plainest
from rushes.units import AssetRef, Handle
from rushes.video import Input, Made, Target

T = TypeVar("T")

KEY: Final = "sk-canary-7f0e6f3d4f0a9d51c2b8"
WRONG_KEY: Final = "sk-another-0a9d51c2b87f0e6f3d4f"
CLIP: Final = shipped_clip()
EPOCH_S: Final = 1_800_000_000.0
SEED: Final = 7
BEFORE_S: Final = 1_800.0
HOPS: Final = 4
TOLD: Final = "emulated"  # a project, a region


class Pair(Struct, frozen=True):
    """An adapter, and what makes its twin."""

    adapter: Adapter
    twin: Callable[..., ProviderTwin]  # of `clip`, `key` and `seed`


class Life(Struct, frozen=True):
    """What a whole job was seen to do."""

    handle: Handle
    outcomes: tuple[Outcome, ...]
    kept: tuple[AssetRef, ...]


class Wire:
    """One adapter before one twin of its own.

    `tamper` changes what goes out, `rewrite` what comes back, and `lag` the provider's time. `now` stands still between
    two polls.
    """

    def __init__(
        self, pair: Pair, *rules: LineRule | TwinRule, key: str = KEY, twin: ProviderTwin | None = None
    ) -> None:
        self.adapter, self.clip, self._key, self._pair = pair.adapter, CLIP, key, pair
        self.twin = twin or pair.twin(clip=self.clip, key=KEY, seed=SEED)
        self._faulty = FaultyTwin(self.twin, Faults(rules))
        self.now = EPOCH_S
        self.asked: list[Ask] = []
        self.replies: list[Response] = []
        self.tamper: Callable[[Request], Request] = lambda request: request
        self.rewrite: Callable[[Response], Response] = lambda reply: reply
        self.lag: Callable[[Request, float], float] = lambda _, now: now
        self._made = False

    def ready(self, order: Order) -> None:
        """Where an order is about a clip of the provider's own, let there be one."""
        if not self._made and any(one.made for one in order.spec.inputs):
            self._made = True
            make_clip(self._pair, self.twin, order.model.id)

    # ── flows ──

    def target(self, order: Order) -> Target:
        """Where an order goes."""
        auth = self.adapter.capabilities.auth
        return Target(provider=self.adapter.name, model=order.model.id, credential=auth.env[0] if auth else "")

    def play(self, flow: Flow[T]) -> T:
        """Run a flow to its end. Raises Failed."""
        return play(flow, self.answer)

    def prepare(self, order: Order, key: str = "job_1-1") -> dict[str, str]:
        """What `submit` will need. Raises Failed."""
        self.ready(order)
        return self.play(self.adapter.prepare(order.spec, self.target(order), key))

    def submit(self, order: Order, key: str = "job_1-1") -> Handle:
        """Prepare and start. Raises Failed."""
        flow = self.adapter.submit(order.spec, self.target(order), self.prepare(order, key), key)
        return self.play(flow)

    def status(self, order: Order, handle: Handle) -> Outcome:
        """Ask once. Raises Failed."""
        return self.play(self.adapter.status(handle, self.target(order)))

    def terms(self, order: Order) -> Terms:
        """What holds for an order."""
        return self.adapter.terms(order.spec, self.target(order))

    def follow(self, order: Order, handle: Handle) -> list[Outcome]:
        """Poll as often as the terms say, until it has ended or its time is over. Raises Failed."""
        terms, began_s = self.terms(order), self.now
        seen = [self.status(order, handle)]
        while isinstance(seen[-1], Unfinished) and self.now - began_s < terms.total_s:
            self.now += terms.poll.interval_s(self.now - began_s)
            seen.append(self.status(order, handle))
        return seen

    def live(self, order: Order, key: str = "job_1-1") -> Life:
        """Submit, poll, download. Raises Failed."""
        handle = self.submit(order, key)
        outcomes = self.follow(order, handle)
        flows = [
            self.adapter.download(output, handle, self.target(order)) for output in getattr(outcomes[-1], "outputs", ())
        ]
        return Life(handle, tuple(outcomes), tuple(map(self.play, flows)))

    # ── the world ──

    @property
    def charges(self) -> list[Charge]:
        """What the twin has charged."""
        return self.twin.ledger.charges

    @property
    def spent(self) -> list[int]:
        """Which of the asks were paid calls."""
        return [n for n, ask in enumerate(self.asked) if isinstance(ask, Request) and ask.spends]

    def answer(self, ask: Ask) -> Answer:
        """What the world says to an ask. Raises Failed where there is no answer."""
        self.asked.append(ask)
        return self._keep(ask) if isinstance(ask, Keep) else self.exchange(ask, self.now)

    def exchange(self, request: Request, now: float) -> Response:
        """One request as it goes over a wire, and its answer. Raises Failed."""
        whole = replace(request, url=self._whole(request.url))
        body, headers = on_the_wire(whole.body)
        secret = self._secret() if self._is_home(whole.url) else {}
        headers = {name.lower(): value for name, value in (dict(request.headers) | headers | secret).items()}
        sent = self.tamper(replace(whole, body=body, headers=headers))
        try:
            reply = self.rewrite(_whole(self._faulty.handle(sent, self.lag(sent, now))))
        except NoAnswer as trouble:
            detail = f"{self.adapter.name} closed the connection."
            raise Failed(Fault("no_answer", detail, retryable=True), certain=False) from trouble
        self.replies.append(reply)
        return reply

    def _whole(self, url: str) -> str:
        """The address that an adapter means."""
        service, _, path = url.removeprefix("@").partition("/")
        if url.startswith("@"):
            return f"{self.adapter.capabilities.services[service].url}/{path}"
        return url if "://" in url else self.adapter.address() + url

    def _is_home(self, url: str) -> bool:
        """Whether the key may be said there."""
        services = self.adapter.capabilities.services.values()
        homes = [self.adapter.address(), *(service.url for service in services)]
        return any(urlsplit(url)[:2] == urlsplit(home)[:2] for home in homes)

    def _secret(self) -> dict[str, str]:
        auth = self.adapter.capabilities.auth
        return {auth.header: auth.prefix + self._key} if auth else {}

    def _keep(self, ask: Keep) -> Kept:
        return Kept(kept(self.fetch(ask, self.now)))

    def fetch(self, ask: Keep, now: float) -> Response:
        """A result, as production's client fetches it: the key goes to its own host, and only where it asks for it."""
        if ask.request is not None:
            return self._embedded(ask, self.exchange(ask.request, now))
        url = self._whole(ask.url) if ask.url.startswith("@") else urljoin(f"{self.adapter.address()}/", ask.url)
        headers = self._secret() if ask.with_credential else {}
        for _ in range(HOPS):
            home = self._is_home(url)
            told = {**ask.headers, **headers} if home else {}
            request = Request(method="GET", url=url, headers={k.lower(): v for k, v in told.items()})
            reply = _whole(self._faulty.handle(request, now))
            if reply.status == 401 and home and not headers:
                headers = self._secret()
            elif 300 <= reply.status < 400 and "location" in reply.headers:
                url = urljoin(url, reply.headers["location"])
            else:
                break
        else:
            raise Failed(Fault("bad_answer", "It redirects too often.", retryable=True))
        _expect_result(reply.status)
        return reply

    def _embedded(self, ask: Keep, reply: Response) -> Response:
        """The file in an answer."""
        _expect_result(reply.status)
        content = b"".join(Embedded(reply, ask.place).pieces())
        return Response(status=200, body=content, headers={"content-type": ask.media_type})


def _expect_result(status: int) -> None:
    if status in (403, 404, 410):
        raise Failed(Fault("asset_expired", f"The result is gone ({status})."))
    if status != 200:
        code: Code = "authentication_failed" if status == 401 else "provider_unavailable"
        raise Failed(Fault(code, f"It answered {status} instead of the result.", retryable=True))


def informed(adapter: Adapter, *, fully: bool = False) -> Adapter:
    """The adapter, with a word for each setting that it needs to be told; or for all that it can be told."""
    data, other = adapter.capabilities, copy(adapter)
    words = {
        name: replace(one, value=one.value or one.default or TOLD if one.needed or fully else one.value or one.default)
        for name, one in data.settings.items()
    }
    other.capabilities = replace(data, settings=words)
    return other


def pairs(adapters: Mapping[str, Adapter], twins: Mapping[str, Callable[..., ProviderTwin]]) -> dict[str, Pair]:
    """Each adapter before its twin, by name; once more where it can be told more than it must. Raises KeyError."""
    told: dict[str, Pair] = {}
    for name, adapter in adapters.items():
        told[name] = Pair(informed(adapter), twins[name])
        if more := [word for word, one in adapter.capabilities.settings.items() if not (one.needed or one.default)]:
            told[f"{name}+{'+'.join(more)}"] = Pair(informed(adapter, fully=True), twins[name])
    return told


def make_clip(pair: Pair, twin: ProviderTwin, model: str) -> Input:
    """A job of the past, by that model where it makes clips without any. Twins of one seed give it the same id."""
    wire, plain = Wire(pair, twin=twin), plainest(pair.adapter.capabilities)
    able = (one for one in plain if one.model.id == model and all(given.type != "video" for given in one.spec.inputs))
    order = next(able, plain[0])
    wire.now = EPOCH_S - BEFORE_S
    handle = wire.submit(order, "job_0-1")
    wire.follow(order, handle)
    twin.ledger.requests.clear()
    twin.ledger.charges.clear()
    made = Made(job="job_0", provider=pair.adapter.name, handle=handle)
    clip = AssetRef("takes/job_0", hashlib.sha256(CLIP).hexdigest(), len(CLIP), "video/mp4")
    return Input(type="video", asset=clip, duration_seconds=order.spec.duration_seconds, made=made)


@cache
def _own_clip(pair: Pair, model: str) -> Input:
    return make_clip(pair, Wire(pair).twin, model)


def with_own_clips(pair: Pair, order: Order) -> Order:
    """The order with the provider's own clips in the place of others, where it takes no others."""
    limit = order.model.media.get("video")
    if limit is None or not limit.own or all(one.type != "video" for one in order.spec.inputs):
        return order
    own = _own_clip(pair, order.model.id)
    inputs = tuple(replace(own, role=one.role) if one.type == "video" else one for one in order.spec.inputs)
    return replace(order, spec=replace(order.spec, inputs=inputs))


def kept(reply: Response) -> AssetRef:
    """The reference of a result that was fetched."""
    media_type = reply.headers.get("content-type", "").partition(";")[0]
    return AssetRef("kept", hashlib.sha256(reply.body).hexdigest(), len(reply.body), media_type)


def on_the_wire(body: Body) -> tuple[Body, dict[str, str]]:
    """A body as whoever is asked reads it, with its files in their places; and the headers that describe it."""
    if body is None:
        return None, {}
    data, media_type = encode(body, content_of)
    if isinstance(body, Mapping):
        return msgspec.json.decode(data, type=dict[str, object]), {"Content-Type": media_type}
    parts = [
        replace(part, content=content_of(part.content.asset)) if isinstance(part.content, Inline) else part
        for part in body
    ]
    return parts, {"Content-Type": media_type}


def _whole(reply: Response) -> Response:
    """The same with its body in memory."""
    return replace(reply, body=Path(reply.path).read_bytes(), path="") if reply.path else reply
