"""Access tokens of Google Cloud: a service account signs a sentence about itself, and is given a token for an hour.

The account comes from the file that GOOGLE_APPLICATION_CREDENTIALS names, or from its address and private key in two
variables. A token that somebody else has made (by gcloud, say) is taken as it is. `http` keeps tokens and makes them
anew before they end; they are said to Google alone, and written nowhere.

Sources: Google's pages on OAuth 2.0 for server to server applications, and RFC 7523.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Final, NoReturn
from urllib.parse import urlencode

import msgspec
from msgspec import Meta, Struct

from rushes.adapters.base import Failed, Flow, Part, Request, Response, call, plain, read
from rushes.adapters.capabilities import Auth, Token
from rushes.faults import GOOGLE_EXTRA, Code, Fault

TOKEN: Final = "GOOGLE_OAUTH_ACCESS_TOKEN"  # noqa: S105 - a variable
FILE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
EMAIL, KEY = "VEO_CLIENT_EMAIL", "VEO_PRIVATE_KEY"
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FORM: Final = "application/x-www-form-urlencoded"
LIFE_S: Final = 3600  # the longest that Google allows


class _Account(Struct):
    """What a key file of a service account holds."""

    client_email: Annotated[str, Meta(min_length=1)]
    private_key: Annotated[str, Meta(min_length=1)]  # PEM
    private_key_id: str = ""
    token_uri: str = TOKEN_URI


class _Granted(Struct):
    access_token: Annotated[str, Meta(min_length=1)]
    expires_in: Annotated[float, Meta(gt=0)] = float(LIFE_S)  # seconds


class _Refusal(Struct):
    error: str = ""
    error_description: str = ""


def available() -> bool:
    """Whether what signs is installed."""
    return find_spec("cryptography") is not None


def mint(parts: Mapping[str, str], now: float) -> Flow[Token]:
    """A token of the key that was found. Raises Failed where there is none to be had."""
    if given := parts.get(TOKEN):
        return Token(given, now + LIFE_S)  # nobody says when it ends: a 401 does
    account = _account(parts)
    form = urlencode({"grant_type": GRANT, "assertion": assertion(account, now)})
    body = [Part("", form, media_type=FORM)]
    reply = yield from call(Request(method="POST", url=account.token_uri, body=body, timeout_s=30.0))
    granted = read(reply, _Granted) if reply.status == 200 else None
    if granted is None:
        raise Failed(_fault(reply))
    return Token(granted.access_token, now + granted.expires_in)


AUTH: Final = Auth(env=(TOKEN, FILE, f"{EMAIL}+{KEY}"), files=frozenset({FILE}), mint=mint)
"""How every interface of Google Cloud is asked."""


def assertion(account: _Account, now: float) -> str:
    """The signed sentence (RFC 7519, RS256): who asks, for what, of whom, and when. Raises Failed."""
    head = {"alg": "RS256", "typ": "JWT"} | ({"kid": account.private_key_id} if account.private_key_id else {})
    issued = int(now)
    claims = {"iss": account.client_email, "scope": SCOPE, "aud": account.token_uri}
    said = f"{_packed(head)}.{_packed({**claims, 'iat': issued, 'exp': issued + LIFE_S})}"
    return f"{said}.{_url64(_signed(account.private_key, said.encode()))}"


def _account(parts: Mapping[str, str]) -> _Account:
    if FILE not in parts:
        return _Account(client_email=parts[EMAIL], private_key=parts[KEY].replace("\\n", "\n"))
    try:
        return msgspec.json.decode(parts[FILE], type=_Account)
    except (msgspec.DecodeError, UnicodeDecodeError):
        _unusable(f"The file that {FILE} names is no key of a service account: make one in Google Cloud's console.")


def _signed(private_key: str, content: bytes) -> bytes:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415
    except ImportError as error:
        raise Failed(Fault("extra_missing", GOOGLE_EXTRA)) from error
    try:
        key = serialization.load_pem_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        _unusable("The private key of the service account is no RSA key in PEM: take it from its key file as it is.")
    return key.sign(content, padding.PKCS1v15(), hashes.SHA256())


def _unusable(detail: str) -> NoReturn:
    """What was read is not told: it may be the key."""
    raise Failed(Fault("authentication_failed", detail)) from None


def _fault(reply: Response) -> Fault:
    """Why there is no token: `invalid_grant` is about the account, and most else may pass."""
    refusal = read(reply, _Refusal) or _Refusal()
    passing = reply.status == 429 or reply.status >= 500 or not refusal.error
    code: Code = "provider_unavailable" if passing else "authentication_failed"
    detail = f"Google gave no access token ({reply.status}): {plain(refusal.error_description or refusal.error)}"
    return Fault(code, detail, retryable=passing)


def _packed(content: object) -> str:
    return _url64(msgspec.json.encode(content))


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
