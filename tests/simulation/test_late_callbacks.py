"""Class D on the real system, with real adapters: a process dies at each point of a send, and a callback comes back."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import product
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from rushes.actors import messages as m
from rushes.adapters.base import Adapter, Request, Told
from rushes.adapters.callbacks import About, Callbacks
from rushes.adapters.openrouter import OpenRouter
from rushes.adapters.replicate import Replicate
from rushes.adapters.signatures import CommaVerifier, Verifier, Verifies
from rushes.emulators.base import Delivery, ProviderTwin
from rushes.emulators.openrouter import OpenRouterTwin
from rushes.emulators.replicate import ReplicateTwin
from rushes.testing.crashes import POINTS, Ending, Point, live_through
from rushes.testing.orders import Order, plainest
from rushes.testing.wires import Pair, Wire
from rushes.video import Target

HOME = "https://studio.example"
KEY = b"k" * 32
SECRETS = {"openrouter": "a workspace's secret", "replicate": "whsec_" + base64.b64encode(b"s" * 24).decode()}
VERIFIERS: Mapping[str, Verifies] = {
    "openrouter": CommaVerifier([SECRETS["openrouter"]]),
    "replicate": Verifier([SECRETS["replicate"]]),
}
PAIRS = {"openrouter": Pair(OpenRouter(), OpenRouterTwin), "replicate": Pair(Replicate(), ReplicateTwin)}


def from_words(pair: Pair) -> Order:
    """A plain order of words alone: nothing that Replicate could be looked up by."""
    return next(order for order in plainest(pair.adapter.capabilities) if not order.spec.inputs)


def signing(pair: Pair) -> Wire:
    wire = Wire(pair)
    wire.twin.secret = SECRETS[pair.adapter.name]
    return wire


def lived(wire: Wire, order: Order, point: Point | None, callbacks: Callbacks | None, seed: int = 0) -> Ending:
    with capture_logs():
        return live_through(wire, order, point, seed, callbacks)


@pytest.mark.parametrize(("name", "point"), [*product(PAIRS, POINTS)])
def test_what_was_paid_is_fetched_wherever_the_process_dies(name: str, point: Point) -> None:
    for seed in range(4):
        wire, order = signing(PAIRS[name]), from_words(PAIRS[name])
        ending = lived(wire, order, point, Callbacks(HOME, KEY, VERIFIERS), seed)
        intent = next(event for event in ending.events if isinstance(event, m.SubmissionStarted))
        assert (intent.terms.doubt, len(wire.spent)) == ("D", 1)
        if point == "before":  # nothing was paid, and no callback can say so: it is waited for, and then for a person
            assert (type(ending.job), len(wire.charges)) == (m.Parked, 0)
            assert ending.took_s >= intent.terms.settle_s == intent.terms.total_s
        else:
            assert (type(ending.job), len(wire.charges)) == (m.Succeeded, 1)


@pytest.mark.parametrize("name", PAIRS)
def test_without_an_address_to_call_the_same_loss_waits_for_a_person(name: str) -> None:
    """The control: it is the callback that brings it back, and class E is said where none is asked for."""
    wire = signing(PAIRS[name])
    ending = lived(wire, from_words(PAIRS[name]), "lost", None)
    intent = next(event for event in ending.events if isinstance(event, m.SubmissionStarted))
    assert (intent.terms.doubt, type(ending.job), len(wire.charges)) == ("E", m.Parked, 1)


@pytest.mark.parametrize("name", PAIRS)
def test_a_callback_that_another_secret_signed_brings_nothing_back(name: str) -> None:
    wire = signing(PAIRS[name])
    other: Verifies = Verifier([SECRETS["replicate"][:-4] + "AAAA"])
    ending = lived(
        wire,
        from_words(PAIRS[name]),
        "lost",
        Callbacks(HOME, KEY, {name: other if name == "replicate" else CommaVerifier(["another"])}),
    )
    assert isinstance(ending.job, m.Parked)


def test_an_adapter_that_cannot_read_callbacks_is_seen() -> None:
    """The control of the suite's own check."""

    class Deaf(OpenRouter):
        def callback(self, body: bytes, target: Target) -> Told | None:  # noqa: ARG002
            return None

    ending = lived(signing(deaf := Pair(Deaf(), OpenRouterTwin)), from_words(deaf), "lost", Callbacks(HOME, KEY))
    assert isinstance(ending.job, m.Parked)


def test_all_sends_of_an_attempt_have_one_digest_though_each_has_its_own_address() -> None:
    class Busy(OpenRouterTwin):
        """Takes nothing in its first minute."""

        def handle(self, request: Request, now: float, *more: object) -> object:  # type: ignore[override]
            self._per_minute = 0 if now < 1_800_000_060.0 else None
            return super().handle(request, now, *more)  # type: ignore[arg-type]

    wire = Wire(busy := Pair(OpenRouter(), Busy))
    ending = lived(wire, from_words(busy), None, Callbacks(HOME, KEY))
    intents = [event for event in ending.events if isinstance(event, m.SubmissionStarted)]
    sent = [ask.body for ask in wire.asked if isinstance(ask, Request) and ask.spends]
    urls = {body["callback_url"] for body in sent if isinstance(body, Mapping)}
    assert len(intents) == len(sent) == len(urls) > 1
    assert len({intent.body_sha256 for intent in intents}) == 1
    assert isinstance(ending.job, m.Succeeded)


# ── Forgery ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Preyed(OpenRouterTwin):
    """Somebody else calls first, with an address that is made up, and speaks of a job of their own."""

    decoy = ""

    def due(self, now: float) -> list[Delivery]:
        sent = super().due(now)
        body = msgspec.json.encode({"data": {"id": self.decoy, "status": "completed"}})
        forged = [replace(one, url=forgery, body=body) for one in sent for forgery in made_up(one.url)]
        return [*forged, *sent]


def made_up(url: str) -> list[str]:
    """The address without its code, with an empty one, and with a code that was seen for another send."""
    parts, query = urlsplit(url), dict(parse_qsl(urlsplit(url).query))
    others = [{**query, "mac": ""}, {**query, "mac": "A" * len(query["mac"])}, {**query, "mac": query["mac"][::-1]}]
    seen = dict(parse_qsl(urlsplit(Callbacks(HOME, KEY).url("openrouter", query["job"], 1, 2)).query))["mac"]
    others += [{**query, "mac": seen}, {name: value for name, value in query.items() if name != "mac"}]
    return [parts._replace(query=urlencode(other)).geturl() for other in others]


class Trusting(Callbacks):
    """Looks at no code."""

    def about(self, provider: str, query: Mapping[str, str]) -> About | None:  # noqa: ARG002
        return About(query["job"], int(query["attempt"]), int(query["send"]))


def preyed_upon(callbacks: Callbacks) -> tuple[str, str, list[str]]:
    """Which job's clip was fetched in the end, the decoy, and what was paid."""
    adapter: Adapter = OpenRouter()
    wire = Wire(pair := Pair(adapter, Preyed))
    twin: ProviderTwin = wire.twin
    assert isinstance(twin, Preyed)
    order = from_words(pair)
    twin.decoy = wire.submit(order).id
    ending = lived(wire, order, "lost", callbacks)
    assert isinstance(ending.job, m.Succeeded)
    return ending.job.handle.id, twin.decoy, twin.charges


def test_a_forged_acceptance_is_not_taken() -> None:
    taken, decoy, paid = preyed_upon(Callbacks(HOME, KEY))
    assert paid == [decoy, taken]


def test_without_a_look_at_the_code_it_is() -> None:
    """The control."""
    taken, decoy, paid = preyed_upon(Trusting(HOME, KEY))
    assert (taken, len(paid)) == (decoy, 2)
