"""Tokens of Kling's old wire: a pair of keys signs a claim that is good for half an hour. A newer key is said as it is.

Source: Kling's page on its API's authentication, with a sample that has the same claims.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from base64 import urlsafe_b64encode
from collections.abc import Generator, Mapping
from typing import Any, Final

import msgspec

from rushes.adapters.capabilities import Auth, Token

LIFE_S: Final = 1800
EARLY_S: Final = 5  # as its own sample has it, for clocks that differ


def mint(parts: Mapping[str, str], now: float) -> Generator[Any, Any, Token]:
    """A token out of an access key and a secret one, without asking anybody; a key alone is said as it is."""
    yield from ()
    if len(parts) == 1:
        return Token(next(iter(parts.values())), math.inf)
    access, secret = parts.values()
    claims = {"iss": access, "exp": int(now) + LIFE_S, "nbf": int(now) - EARLY_S}
    signed = f"{_packed(msgspec.json.encode({'alg': 'HS256', 'typ': 'JWT'}))}.{_packed(msgspec.json.encode(claims))}"
    signature = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    return Token(f"{signed}.{_packed(signature)}", now + LIFE_S)


def _packed(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


AUTH: Final = Auth(
    env=("KLINGAI_API_KEY", "KLING_ACCESS_KEY+KLING_SECRET_KEY", "KLINGAI_ACCESS_KEY+KLINGAI_SECRET_KEY"),
    mint=mint,
)
