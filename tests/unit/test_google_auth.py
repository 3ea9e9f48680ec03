"""The sentence that a service account signs, and what comes of it."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from rushes.adapters.base import Answer, Ask, Failed, Part, Request, Response, play
from rushes.adapters.bodies import encode
from rushes.adapters.capabilities import Token
from rushes.adapters.google_auth import available, mint

NOW = 1_800_000_000.25
KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
EMAIL = "rushes@project.iam.gserviceaccount.com"
FILE, TOKEN = "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_OAUTH_ACCESS_TOKEN"
GRANTED = {"access_token": "ya29.abc", "expires_in": 3599, "token_type": "Bearer"}


def pem(key: Any) -> str:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    text: bytes = key.private_bytes(*form)
    return text.decode()


def key_file(**changes: str) -> dict[str, str]:
    account = {"type": "service_account", "client_email": EMAIL, "private_key": pem(KEY), "private_key_id": "k1"}
    return {FILE: json.dumps(account | changes)}


def reply(body: object, status: int = 200) -> Response:
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode())


def minted(parts: Mapping[str, str], answer: Response | None = None) -> tuple[Token, list[Request]]:
    """The token, and what was asked for it."""
    sent: list[Request] = []

    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply(GRANTED)

    return play(mint(parts, NOW), world), sent


def refused(parts: Mapping[str, str], answer: Response | None = None) -> Failed:
    with pytest.raises(Failed) as failed:
        minted(parts, answer)
    for secret in (pem(KEY), pem(KEY).splitlines()[1], "eyJ"):
        assert secret not in repr(failed.value.fault)
    return failed.value


def unpacked(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def form_of(asked: Request) -> dict[str, list[str]]:
    assert isinstance(asked.body, list)
    (part,) = asked.body
    assert isinstance(part, Part)
    assert part.media_type == "application/x-www-form-urlencoded"
    return parse_qs(str(part.content), strict_parsing=True)


def test_an_account_signs_who_it_is_and_is_given_a_token() -> None:
    token, (asked,) = minted(key_file())
    assert token == Token("ya29.abc", NOW + 3599)
    assert (asked.method, asked.url, asked.spends) == ("POST", "https://oauth2.googleapis.com/token", False)
    form = form_of(asked)
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    head, claims, signature = form["assertion"][0].split(".")
    assert json.loads(unpacked(head)) == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert json.loads(unpacked(claims)) == {
        "iss": EMAIL,
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1_800_000_000,
        "exp": 1_800_003_600,
    }
    KEY.public_key().verify(unpacked(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())


def test_the_form_is_the_whole_body_and_not_a_part_of_one() -> None:
    _, (asked,) = minted(key_file())
    assert isinstance(asked.body, list)
    data, media_type = encode(asked.body, lambda _: b"")
    assert media_type == "application/x-www-form-urlencoded"
    assert parse_qs(data.decode(), strict_parsing=True) == form_of(asked)


def test_another_token_address_is_the_audience_too() -> None:
    _, (asked,) = minted(key_file(token_uri="https://tokens.example/t"))
    claims = json.loads(unpacked(form_of(asked)["assertion"][0].split(".")[1]))
    assert (asked.url, claims["aud"]) == ("https://tokens.example/t", "https://tokens.example/t")


@pytest.mark.parametrize("escaped", [False, True])
def test_an_account_of_two_variables_may_have_its_line_ends_written_out(escaped: bool) -> None:
    private_key = pem(KEY).replace("\n", "\\n") if escaped else pem(KEY)
    token, (asked,) = minted({"VEO_CLIENT_EMAIL": EMAIL, "VEO_PRIVATE_KEY": private_key})
    assert token.value == "ya29.abc"
    assert asked.url == "https://oauth2.googleapis.com/token"
    head = json.loads(unpacked(form_of(asked)["assertion"][0].split(".")[0]))
    assert head == {"alg": "RS256", "typ": "JWT"}


def test_a_token_that_somebody_else_made_is_taken_as_it_is() -> None:
    token, asked = minted({TOKEN: "ya29.mine"})
    assert (token, asked) == (Token("ya29.mine", NOW + 3600), [])


def test_a_refused_account_is_no_passing_trouble() -> None:
    answer = reply({"error": "invalid_grant", "error_description": "Invalid grant: account not found"}, 400)
    fault = refused(key_file(), answer).fault
    assert (fault.code, fault.retryable) == ("authentication_failed", False)
    assert "account not found" in fault.detail


@pytest.mark.parametrize(
    "answer",
    [
        reply({"error": "internal_failure"}, 500),
        reply({"error": "rate_limit_exceeded"}, 429),
        reply(b"<html>", 403),
        reply(b"<html>"),
        reply({"token_type": "Bearer"}),
        reply({**GRANTED, "access_token": ""}),
        reply({**GRANTED, "expires_in": -1}),
        reply(b""),
    ],
)
def test_what_may_pass_is_worth_another_try(answer: Response) -> None:
    fault = refused(key_file(), answer).fault
    assert (fault.code, fault.retryable) == ("provider_unavailable", True)


@pytest.mark.parametrize(
    "parts",
    [
        {FILE: "not JSON"},
        {FILE: "{}"},
        {FILE: json.dumps({"type": "authorized_user", "refresh_token": "r"})},
        {FILE: json.dumps({"client_email": EMAIL, "private_key": ""})},
        {
            "VEO_CLIENT_EMAIL": EMAIL,
            "VEO_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\\nAAAA\\n-----END PRIVATE KEY-----",
        },
        {"VEO_CLIENT_EMAIL": EMAIL, "VEO_PRIVATE_KEY": pem(ec.generate_private_key(ec.SECP256R1()))},
        {"VEO_CLIENT_EMAIL": EMAIL, "VEO_PRIVATE_KEY": "the path of a file"},
    ],
)
def test_what_is_no_key_of_an_account_is_refused_before_anything_is_asked(parts: dict[str, str]) -> None:
    failed = refused(parts)
    assert (failed.fault.code, failed.fault.retryable, failed.certain) == ("authentication_failed", False, True)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available()
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    failed = refused(key_file())
    assert (failed.fault.code, failed.certain) == ("extra_missing", True)
    assert 'pip install "rushes[google]"' in failed.fault.detail
