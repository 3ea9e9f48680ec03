"""The stories that cassettes tell, made from each provider's data: the same for every provider that has a twin."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from itertools import count
from math import ceil
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.base import Adapter, CancelAnswer, Outcome, Transport, Twin, Unfinished, drive
from rushes.adapters.capabilities import Capabilities
from rushes.adapters.http import Http
from rushes.emulators.faults import (
    ExpiredUrl,
    FailedJob,
    Faults,
    LineRule,
    Moderated,
    RateLimit,
    ServerError,
    TwinRule,
)
from rushes.emulators.faulty import FaultyTwin
from rushes.main import installed_adapters, installed_emulators
from rushes.testing import wires
from rushes.testing.orders import Order, content_of, plainest, richest, variants
from rushes.testing.wires import EPOCH_S, KEY, WRONG_KEY, Pair, Wire, with_own_clips
from rushes.units import AssetRef, Handle
from rushes.video import OPERATIONS, Config, VideoSpec

SECRETS: Final = (KEY, WRONG_KEY)
MARK: Final = "job_1-1"
RICH: Final = 6  # so many scenes at most show every field and option between them


class Scene(Struct, frozen=True, kw_only=True):
    """One story to record: a request, and what goes another way."""

    order: Order
    key: str = KEY
    rules: tuple[LineRule | TwinRule, ...] = ()
    cancel: bool = False
    look: bool = False  # for the job by our own key
    polls: int = 3  # about so many until its clip is done
    fetch: bool = False  # its takes: one tape of a provider that holds the bytes of a clip is enough


class Seen(Struct):
    """What a scene saw, in order."""

    handle: Handle | None = None
    found: Handle | None = None
    outcomes: list[Outcome] = []
    cancel: CancelAnswer | None = None
    kept: list[AssetRef] = []


def pairs() -> dict[str, Pair]:
    """Every registered adapter with its twin, but for those whose provider is in this process: no tape hears them."""
    told = wires.pairs(installed_adapters(), installed_emulators())
    return {name: pair for name, pair in told.items() if pair.adapter.capabilities.base_url.startswith("https://")}


def scenes(pair: Pair) -> dict[str, Scene]:
    """The scenes of a provider, by the names of their tapes."""
    wire, plain = Wire(pair), _orders(pair, plainest)
    first, terms = plain[0], wire.terms(plain[0])
    words = next((order for order in plain if order.spec.prompt), first)
    own = {name: Scene(order=order, fetch=True) for name, order in _own(first)}
    told = {_operation(first): Scene(order=first, fetch=True)}
    shown = set[str]().union(*(wishes(scene.order.spec) for scene in own.values()))
    told |= {name: Scene(order=order, polls=1) for name, order in _rich(pair, told, shown)} | own
    able = {rule.do: rule for rule in (Moderated(), FailedJob(), ExpiredUrl()) if rule.do in wire.twin.can}
    told |= {name: Scene(order=words, rules=(rule,), fetch=True) for name, rule in able.items()}
    if terms.cancel != "no":
        told["cancel"] = Scene(order=first, cancel=True)
    if marked := [order for order in plain if wire.terms(order).doubt in "BC"]:
        told["look"] = Scene(order=marked[0], look=True)
    if pair.adapter.capabilities.auth is not None:
        told["wrong_key"] = Scene(order=first, key=WRONG_KEY)
    told["rate_limit"] = Scene(order=first, rules=(RateLimit(on="submit", retry_after=7.0),))
    told["error"] = Scene(order=first, rules=(ServerError(on="submit"),))
    if words.spec.prompt:
        told["refused"] = Scene(order=replace(words, spec=replace(words.spec, prompt="")))
    return told


def _orders(pair: Pair, made: Callable[[Capabilities], list[Order]]) -> list[Order]:
    return [with_own_clips(pair, order) for order in made(pair.adapter.capabilities)]


def _operation(order: Order) -> str:
    return OPERATIONS[type(order.spec.operation)]


def _own(first: Order) -> Iterator[tuple[str, Order]]:
    """What few providers can: pictures beside a clip, and several clips of which one is withheld."""
    spec = first.spec
    if "variants" in first.model.options:
        pictures = {**spec.provider_options, "variants": ["thumbnail", "spritesheet"]}
        yield "pictures", replace(first, spec=replace(spec, provider_options=pictures))
    if "sampleCount" in first.model.options:
        two = {**spec.provider_options, "sampleCount": 2}
        yield "partly", replace(first, spec=replace(spec, prompt=f"{spec.prompt}, partly", provider_options=two))


def _rich(pair: Pair, told: Collection[str], shown: set[str]) -> Iterator[tuple[str, Order]]:
    """One request of each operation that was not told, then a few more until every wish of the provider is shown."""
    left, done = _orders(pair, richest), set(told)
    for order in tuple(left):
        if (name := _operation(order)) not in done:
            done.add(name)
            shown |= wishes(order.spec)
            yield name, order
    left += _orders(
        pair, lambda data: [one for order in plainest(data) for one in variants(order)]
    )  # where some exclude others
    for number in range(1, RICH + 1):
        best = max(left, key=lambda order: len(wishes(order.spec) - shown))
        if wishes(best.spec) <= shown:
            break
        shown |= wishes(best.spec)
        yield f"more-{number}", best


def wishes(spec: VideoSpec) -> set[str]:
    """What a request asks for, by name: fields, roles and options."""
    fields = {name for name in Config.__struct_fields__ if getattr(spec, name) not in (None, {})}
    return fields | {str(one.role) for one in spec.inputs} | {f"option {name}" for name in spec.provider_options}


# ── The stage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Ticking:
    """A clock that is so many seconds later at every look."""

    def __init__(self, tick_s: float = 1.0) -> None:
        self._ticks, self._tick_s = count(), tick_s

    def now(self) -> float:
        """The next tick."""
        return EPOCH_S + next(self._ticks) * self._tick_s


def stage_of(pair: Pair, scene: Scene) -> tuple[Twin, Ticking]:
    """Who plays the provider, and a clock by which its clip is done after a few polls."""
    rehearsal, order = Wire(pair), plainest(pair.adapter.capabilities)[0]
    began_s = rehearsal.now
    rehearsal.follow(order, rehearsal.submit(order))
    tick_s = float(max(1, ceil((rehearsal.now - began_s) / scene.polls)))
    wire = Wire(pair)
    wire.ready(scene.order)
    return FaultyTwin(wire.twin, Faults(scene.rules)), Ticking(tick_s)


def client(pair: Pair, scene: Scene, base_urls: dict[str, str]) -> Http:
    """Production's own client, with the scene's key and files."""
    keys = {_alias(pair.adapter): scene.key}
    return Http(base_urls=base_urls, credentials=keys, read=content_of, inner={}, clock=Ticking())


def _alias(adapter: Adapter) -> str:
    return adapter.capabilities.auth.env[0] if adapter.capabilities.auth else ""


async def act(pair: Pair, scene: Scene, transport: Transport) -> Seen:
    """Play a scene through the adapter's own flows. Raises Failed where the provider refuses."""
    adapter, order, seen = pair.adapter, scene.order, Seen()
    target = Wire(pair).target(order)
    prepared = await drive(adapter.prepare(order.spec, target, MARK), transport, adapter, target)
    handle = await drive(adapter.submit(order.spec, target, prepared, MARK), transport, adapter, target)
    seen.handle = handle
    if scene.cancel:
        seen.cancel = await drive(adapter.cancel(handle, target), transport, adapter, target)
    while not seen.outcomes or isinstance(seen.outcomes[-1], Unfinished):
        seen.outcomes.append(await drive(adapter.status(handle, target), transport, adapter, target))
    for output in getattr(seen.outcomes[-1], "outputs", ()) if scene.fetch else ():
        flow = adapter.download(output, handle, target)
        seen.kept.append(await drive(flow, transport, adapter, target, _in_memory))
    if scene.look:  # at the end: some show no mark before there is a clip
        seen.found = await drive(adapter.find(target, MARK, EPOCH_S), transport, adapter, target)
    return seen


async def _in_memory(chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
    content = b"".join([chunk async for chunk in chunks])
    assert size_bytes in (None, len(content))
    return AssetRef("kept", hashlib.sha256(content).hexdigest(), len(content), media_type)
