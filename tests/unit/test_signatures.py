"""Callbacks' signatures: which deliveries are believed, and with which word the others are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from rushes.adapters.signatures import Signed, Unsigned, Verdict, Verifier
from rushes.faults import BadRequest

# ── Kling's published example ─────────────────────────────────────────────────────────────────────────────────────────

KLING = "whsec_" + base64.b64encode(b"testsecrettestsecrettestsecret12").decode()
KLING_AT = 1_781_080_794
KLING_BODY = (
    b'{"id":"1234567890","status":"succeeded","message":"",'
    b'"create_time":1781080778802,"update_time":1781080794151}'
)  # fmt: skip
KLING_HEADERS = {
    "webhook-id": "9876543210",
    "webhook-timestamp": str(KLING_AT),
    "webhook-signature": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
}


def kling(body: bytes = KLING_BODY, now: float = KLING_AT, **headers: str) -> Verdict:
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    return Verifier([KLING]).verify(KLING_HEADERS | changed, body, now)


def test_klings_published_example_is_believed() -> None:
    assert kling() == Signed("9876543210", float(KLING_AT))


def test_not_with_any_single_byte_of_its_body_changed() -> None:
    for at in range(len(KLING_BODY)):
        changed = bytearray(KLING_BODY)
        changed[at] ^= 1
        assert kling(bytes(changed)) == Unsigned("wrong_signature")


def test_nor_when_the_same_json_is_written_anew() -> None:
    again = msgspec.json.format(KLING_BODY, indent=1)
    assert msgspec.json.decode(again) == msgspec.json.decode(KLING_BODY)
    assert kling(again) == Unsigned("wrong_signature")


def test_nor_under_another_id_or_time_than_was_signed() -> None:
    assert kling(webhook_id="9876543211") == Unsigned("wrong_signature")
    assert kling(webhook_timestamp=str(KLING_AT + 1)) == Unsigned("wrong_signature")


# ── Replicate's scheme, the same with its own kind of secret ──────────────────────────────────────────────────────────

NEW, OLD, STRANGER = (
    "whsec_" + base64.b64encode(hashlib.sha256(name).digest()[:24]).decode() for name in (b"new", b"old", b"stranger")
)
BODY = b'{"id":"ufawqhfynnddngldkgtslldrkq","status":"starting"}'
NOW = 1_800_000_000


def signed(secret: str, body: bytes = BODY, *, id: str = "msg_1", at: str = str(NOW)) -> str:
    """A signature made here, step by step, without the code that is tested."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, b"".join([id.encode(), b".", at.encode(), b".", body]), "sha256").digest()
    return "v1," + base64.b64encode(digest).decode()


def delivery(signature: str, *, id: str = "msg_1", at: str = str(NOW)) -> dict[str, str]:
    return {"webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature}


def verdict(headers: Mapping[str, str], *secrets: str, now: float = NOW) -> Verdict:
    return Verifier(secrets or (NEW,)).verify(headers, BODY, now)


def test_a_delivery_of_replicates_scheme_is_believed() -> None:
    assert verdict(delivery(signed(NEW))) == Signed("msg_1", float(NOW))


def test_a_signature_under_another_secret_is_not() -> None:
    assert verdict(delivery(signed(STRANGER))) == Unsigned("wrong_signature")


def test_one_good_signature_among_several_is_enough() -> None:
    several = f"v1a,abc {signed(STRANGER)} v2,{signed(NEW)[3:]} {signed(NEW)}"
    assert verdict(delivery(several)) == Signed("msg_1", float(NOW))


@pytest.mark.parametrize("version", ["v2", "v1a", "V1", "v", ""])
def test_a_good_signature_under_another_version_is_none(version: str) -> None:
    assert verdict(delivery(f"{version},{signed(NEW)[3:]}")) == Unsigned("wrong_signature")


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_while_a_secret_is_rotated_either_one_will_do(secret: str) -> None:
    assert isinstance(verdict(delivery(signed(secret)), NEW, OLD), Signed)
    assert verdict(delivery(signed(STRANGER)), NEW, OLD) == Unsigned("wrong_signature")


@pytest.mark.parametrize(
    ("away_s", "expected"),
    [
        (-301, Unsigned("too_old")),
        (-300, Signed("msg_1", NOW - 300.0)),
        (300, Signed("msg_1", NOW + 300.0)),
        (301, Unsigned("too_new")),
    ],
)
def test_five_minutes_either_way_are_allowed_and_not_a_second_more(away_s: int, expected: Verdict) -> None:
    at = str(NOW + away_s)
    assert verdict(delivery(signed(NEW, at=at), at=at)) == expected


def test_the_window_is_for_the_caller_to_say() -> None:
    headers = delivery(signed(NEW))
    assert Verifier([NEW], window_s=10.0).verify(headers, BODY, NOW + 11) == Unsigned("too_old")
    assert isinstance(Verifier([NEW], window_s=10.0).verify(headers, BODY, NOW + 10), Signed)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_delivery_without_all_three_headers_is_unsigned(missing: str) -> None:
    headers = delivery(signed(NEW))
    del headers[missing]
    assert verdict(headers) == Unsigned("header_missing")


def test_names_of_headers_have_no_case() -> None:
    upper = {name.title(): value for name, value in delivery(signed(NEW)).items()}
    assert isinstance(verdict(upper), Signed)
    assert isinstance(verdict(CIMultiDict(upper)), Signed)


@pytest.mark.parametrize("repeated", ["webhook-id", "Webhook-Timestamp", "webhook-signature"])
def test_a_header_that_comes_twice_is_not_chosen_from(repeated: str) -> None:
    headers = CIMultiDict(delivery(signed(NEW)))
    headers.add(repeated, headers[repeated])
    assert verdict(headers) == Unsigned("header_repeated")


# ── Hostile headers ───────────────────────────────────────────────────────────────────────────────────────────────────

ODD_TIMES = ["", " ", "-1", "+1800000000", "1.8e9", "1_800_000_000", "١٨٠٠٠٠٠٠٠٠", "nan", "inf", "9" * 5000, "0x10"]
ODD_IDS = ["", "a b", "a\nb", "\udcff", "ä", "x" * 257]
ODD_SIGNATURES = ["", " ", "v1", "v1,", "v1,=", "v1,\udcff", "v1,ä", "\x00", "," * 9000, "v1," * 3000]


@pytest.mark.parametrize("at", ODD_TIMES)
def test_a_time_that_is_none_is_refused(at: str) -> None:
    assert verdict(delivery(signed(NEW), at=at)) == Unsigned("bad_time")


@pytest.mark.parametrize("odd", ODD_IDS)
def test_an_id_that_is_none_is_refused(odd: str) -> None:
    assert verdict(delivery(signed(NEW), id=odd)) == Unsigned("bad_id")


@pytest.mark.parametrize("signature", ODD_SIGNATURES)
def test_a_signature_that_is_none_is_refused(signature: str) -> None:
    assert verdict(delivery(signature)) == Unsigned("wrong_signature")


def test_an_empty_body_can_be_signed_too() -> None:
    assert isinstance(Verifier([NEW]).verify(delivery(signed(NEW, b"")), b"", NOW), Signed)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20), st.text(max_size=80), st.binary(max_size=40))
def test_no_headers_whatever_make_it_raise_or_believe(id_: str, at: str, signature: str, body: bytes) -> None:
    assert isinstance(Verifier([NEW]).verify(delivery(signature, id=id_, at=at), body, NOW), Unsigned)


# ── Secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


ODD_SECRETS = [
    NEW.removeprefix("whsec_"),
    "whsec_",
    "whsec_!!!not-base64!!!",
    "whsec_" + base64.b64encode(b"fifteen bytes..").decode(),
    "whsec_ä",
    NEW[:-1],
]


@pytest.mark.parametrize("secret", ODD_SECRETS)
def test_a_secret_that_is_none_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Verifier([NEW, secret])
    assert refused.value.field == "webhook_secret"
    assert secret.removeprefix("whsec_") == "" or secret.removeprefix("whsec_") not in str(refused.value)


def test_no_secret_at_all_verifies_nothing_and_says_so() -> None:
    with pytest.raises(BadRequest, match="no webhook secret"):
        Verifier([])


def test_a_secret_as_a_file_gives_it_is_taken() -> None:
    assert isinstance(verdict(delivery(signed(NEW)), f"{NEW}\n"), Signed)


def test_a_verifier_does_not_show_its_secrets() -> None:
    assert NEW.removeprefix("whsec_")[:8] not in repr(Verifier([NEW]))
