"""Addresses for callbacks, the scheme that OpenRouter signs with, and what each provider's callback is about."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rushes.adapters.base import CALLBACK, Adapter, Request, Told
from rushes.adapters.callbacks import About, Callbacks, verifier_of, with_callback
from rushes.adapters.capabilities import DoubtClass, Terms, Webhook
from rushes.adapters.kling import Kling
from rushes.adapters.openrouter import OpenRouter
from rushes.adapters.replicate import Replicate
from rushes.adapters.signatures import CommaVerifier, Signed, Unsigned, Verdict
from rushes.faults import BadRequest
from rushes.testing.orders import plainest
from rushes.units import Handle
from rushes.video import Target

OURS = Callbacks("https://studio.example/behind/", b"k" * 32)
NOW = 1_800_000_000
BODY = b'{"type":"video.generation.completed","data":{"id":"a1","status":"completed"}}'


# ── Addresses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def test_an_address_is_below_the_public_one_and_names_its_send() -> None:
    url = OURS.url("openrouter", "job_1", 2, 3)
    assert url.startswith("https://studio.example/behind/v1/webhooks/openrouter?job=job_1&attempt=2&send=3&mac=")
    assert OURS.about("openrouter", query_of(url)) == About("job_1", 2, 3)
    assert OURS.host == "studio.example"


@pytest.mark.parametrize("doubt", ["A", "B", "C", "D"])
def test_a_callback_changes_nothing_where_more_can_be_learned_or_nobody_calls(doubt: DoubtClass) -> None:
    webhook, terms = Webhook(env="A_SECRET"), Terms(doubt=doubt, total_s=1800.0)
    assert with_callback(terms, webhook) == terms
    nothing = Terms(doubt="E", total_s=1800.0)
    assert with_callback(nothing, None) == nothing
    assert with_callback(nothing, webhook) == Terms(doubt="D", settle_s=1800.0, total_s=1800.0)  # the control


def test_an_address_is_the_same_whenever_it_is_made() -> None:
    assert OURS.url("kling", "job_1", 1, 1) == Callbacks("https://studio.example/behind", b"k" * 32).url(
        "kling", "job_1", 1, 1
    )


@pytest.mark.parametrize(
    "changed",
    [{"job": "job_2"}, {"attempt": "1"}, {"send": "1"}, {"mac": ""}, {"mac": "é"}, {"attempt": "02"}, {"send": " 3"}],
)
def test_nothing_in_an_address_can_be_changed(changed: dict[str, str]) -> None:
    query = query_of(OURS.url("openrouter", "job_1", 2, 3))
    assert OURS.about("openrouter", query | changed) is None
    assert OURS.about("openrouter", {name: text for name, text in query.items() if name not in changed}) is None


def test_an_address_is_good_for_its_own_provider_and_folder_alone() -> None:
    query = query_of(OURS.url("openrouter", "job_1", 2, 3))
    assert OURS.about("replicate", query) is None
    assert Callbacks("https://studio.example", b"K" * 32).about("openrouter", query) is None


def test_what_a_provider_adds_to_the_address_is_passed_over() -> None:
    query = query_of(OURS.url("openrouter", "job_1", 2, 3)) | {"retry": "1"}
    assert OURS.about("openrouter", query) == About("job_1", 2, 3)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["job", "attempt", "send", "mac"]), st.text(max_size=40)))
def test_no_query_whatever_makes_it_raise_or_believe(query: dict[str, str]) -> None:
    assert OURS.about("openrouter", query) is None


# ── OpenRouter's scheme ───────────────────────────────────────────────────────────────────────────────────────────────


def signature(secret: str = "right", at: int | str = NOW, body: bytes = BODY) -> str:
    """Made here, without the code that is tested: a comma, and no dot, stands between the time and the body."""
    return hmac.new(secret.encode(), f"{at}".encode() + b"," + body, hashlib.sha256).hexdigest()


def verdict(header: str, *secrets: str, now: float = NOW, body: bytes = BODY) -> Verdict:
    return CommaVerifier(secrets or ("right",)).verify({"X-OpenRouter-Signature": header}, body, now)


def test_a_good_signature_is_believed() -> None:
    assert verdict(f"t={NOW},v1={signature()}") == Signed("", float(NOW))


@pytest.mark.parametrize("secret", ["right", "before"])
def test_either_secret_will_do_while_one_is_replaced(secret: str) -> None:
    assert isinstance(verdict(f"t={NOW},v1={signature(secret)}", "right", "before"), Signed)
    assert isinstance(verdict(f"t={NOW},v1={signature('wrong')},v1={signature(secret)}", "right", "before"), Signed)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (f"t={NOW},v1={signature('wrong')}", "wrong_signature"),
        (f"t={NOW},v1={signature(body=BODY + b' ')}", "wrong_signature"),
        (f"t={NOW + 1},v1={signature()}", "wrong_signature"),
        (f"t={NOW},v0={signature()}", "wrong_signature"),
        (f"t={NOW},v1={signature().upper()}", "wrong_signature"),
        (f"t={NOW},v1=é", "wrong_signature"),
        (f"t={NOW}", "wrong_signature"),
        (f"v1={signature()}", "bad_time"),
        (f"t=x,v1={signature('right', 'x')}", "bad_time"),
        (f"t={NOW},t={NOW},v1={signature()}", "bad_time"),
        (f"t={NOW - 301},v1={signature(at=NOW - 301)}", "too_old"),
        (f"t={NOW + 301},v1={signature(at=NOW + 301)}", "too_new"),
        ("", "bad_time"),
    ],
)
def test_any_other_is_not(header: str, reason: str) -> None:
    assert verdict(header) == Unsigned(reason)  # type: ignore[arg-type]


def test_a_missing_or_repeated_header_is_no_signature() -> None:
    verifier, good = CommaVerifier(["right"]), f"t={NOW},v1={signature()}"
    assert verifier.verify({}, BODY, NOW) == Unsigned("header_missing")
    twice = {"x-openrouter-signature": good, "X-OpenRouter-Signature": good}
    assert verifier.verify(twice, BODY, NOW) == Unsigned("header_repeated")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.binary(max_size=40))
def test_no_header_whatever_makes_it_raise_or_believe(header: str, body: bytes) -> None:
    assert isinstance(verdict(header, body=body), Unsigned)


def test_a_secret_that_is_none_is_refused_by_the_name_of_its_variable() -> None:
    for scheme, secret in (("openrouter", " "), ("standard", "whsec_zzz")):
        with pytest.raises(BadRequest) as refused:
            verifier_of(Webhook(env="ACME_WEBHOOK_SECRET", scheme=scheme), secret)  # type: ignore[arg-type]
        assert refused.value.field == "ACME_WEBHOOK_SECRET"
        assert "zzz" not in refused.value.detail


# ── Adapters ──────────────────────────────────────────────────────────────────────────────────────────────────────────

HERE = Target(provider="p", model="some/model")
CASES: list[tuple[Adapter, bytes, Told | None]] = [
    (OpenRouter(), BODY, Told(Handle("a1", {"model": "some/model"}))),
    (OpenRouter(), BODY.replace(b"completed", b"odd"), Told(Handle("a1", {"model": "some/model"}))),
    (OpenRouter(), b'{"id":"a1","status":"completed"}', None),
    (Replicate(), b'{"id":"abcdefgh1","status":"starting"}', Told(Handle("abcdefgh1"), final=False)),
    (Replicate(), b'{"id":"abcdefgh1","status":"succeeded","output":"https://x"}', Told(Handle("abcdefgh1"))),
    (Replicate(), b'{"id":"../abcdefgh","status":"succeeded"}', None),
    (Kling(), b'{"id":"893600000000000001","status":"processing"}', Told(Handle("893600000000000001"), final=False)),
    (Kling(), b'{"id":"893600000000000001","status":"failed"}', Told(Handle("893600000000000001"))),
    (Kling(), b'{"code":0,"data":{"id":"893600000000000001","status":"failed"}}', None),
]


@pytest.mark.parametrize(("adapter", "body", "expected"), CASES)
def test_a_callback_is_read_as_its_provider_writes_it(adapter: Adapter, body: bytes, expected: Told | None) -> None:
    assert adapter.callback(body, HERE) == expected


@pytest.mark.parametrize("adapter", [OpenRouter(), Replicate(), Kling()])
def test_the_address_is_said_where_there_is_one_and_nothing_else_changes(adapter: Adapter) -> None:
    order = next(order for order in plainest(adapter.capabilities) if not order.spec.inputs)
    target = Target(provider=adapter.name, model=order.model.id)

    def body(prepared: dict[str, str]) -> Mapping[str, object]:
        request = next(adapter.submit(order.spec, target, prepared, "job_1-1"))
        assert isinstance(request, Request)
        assert isinstance(request.body, Mapping)
        return dict(request.body)

    alone, called = body({}), body({CALLBACK: "https://a.example/x"})
    assert "a.example" not in str(alone)
    assert str(called).count("https://a.example/x") == 1
    names = {"callback_url", "webhook", "webhook_events_filter", "options"}
    assert {name: value for name, value in called.items() if name not in names} == {
        name: value for name, value in alone.items() if name not in names
    }
