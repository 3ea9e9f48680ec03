"""Whether a callback was sent by whoever holds the secret.

`Verifier` knows the scheme of Standard Webhooks, as Kling and Replicate have it, `CommaVerifier` that of OpenRouter.

Signed are the very bytes that came, so verify before anything is parsed. Nothing here knows the time or remembers what
it saw: a delivery may come again, and whoever acts on it must be able to hear it twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from rushes.faults import BadRequest, bad

WINDOW_S: Final = 300.0  # both ways, as Kling and Replicate advise
SHORTEST_KEY_BYTES: Final = 16
PREFIX: Final = "whsec_"
ID: Final = re.compile(r"[!-~]{1,256}")
SECONDS: Final = re.compile(r"[0-9]{1,12}")

COMMA_HEADER: Final = "x-openrouter-signature"

Reason = Literal["header_missing", "header_repeated", "bad_id", "bad_time", "too_old", "too_new", "wrong_signature"]
"""Why a delivery is refused: a word for logs, never for the sender."""


class Signed(Struct, frozen=True):
    """The body is the sender's."""

    id: str  # the same for every delivery of one message; empty where none is signed
    at: float  # seconds since 1970, by the sender's clock


class Unsigned(Struct, frozen=True):
    """The body may be anybody's."""

    reason: Reason


Verdict: TypeAlias = Signed | Unsigned


class Verifies(Protocol):
    """Knows one provider's scheme and secrets."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> Verdict:
        """What came, with the time that it came at. Never raises, whatever the headers hold."""
        ...


class Verifier:
    """Standard Webhooks. Holds the secrets that are valid now: several while one replaces another."""

    def __init__(self, secrets: Sequence[str], *, window_s: float = WINDOW_S) -> None:
        """`secrets`: whole, as the provider shows them (`whsec_…`).

        `window_s`: how old, or how far ahead of our clock, a delivery may be. Raises BadRequest.
        """
        if not secrets:
            raise _no_secret()
        self._keys = [_key(secret) for secret in secrets]
        self._window_s = window_s

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> Verdict:
        """What came, with the time that it came at. Never raises, whatever the headers hold."""
        found = [_values(headers, name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")]
        if not all(found):
            return Unsigned("header_missing")
        if any(len(values) > 1 for values in found):
            return Unsigned("header_repeated")
        (id_,), (seconds,), (signatures,) = found
        if not ID.fullmatch(id_):
            return Unsigned("bad_id")
        if not SECONDS.fullmatch(seconds):
            return Unsigned("bad_time")
        if (untimely := _untimely(seconds, now, self._window_s)) is not None:
            return untimely
        if not self._any_is_ours(signatures.split(), f"{id_}.{seconds}.".encode() + body):
            return Unsigned("wrong_signature")
        return Signed(id_, float(seconds))

    def _any_is_ours(self, signatures: Sequence[str], signed: bytes) -> bool:
        """Whether one of them was made with one of our secrets. Those of other versions never match."""
        ours = [_signature(key, signed) for key in self._keys]
        theirs = [signature.encode(errors="replace") for signature in signatures]
        matches = [hmac.compare_digest(one, other) for one in ours for other in theirs]
        return any(matches)


class CommaVerifier:
    """OpenRouter's scheme: one header `t=SECONDS,v1=HEX`, and signed are the seconds, a comma and the body."""

    def __init__(self, secrets: Sequence[str], *, window_s: float = WINDOW_S) -> None:
        """`secrets`: as they are shown there, any text. The rest as in Verifier. Raises BadRequest."""
        self._keys = [secret.strip().encode() for secret in secrets]
        if not self._keys or not all(self._keys):
            raise _no_secret()
        self._window_s = window_s

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> Verdict:
        """What came, with the time that it came at. Never raises, whatever the headers hold."""
        found = _values(headers, COMMA_HEADER)
        if len(found) != 1:
            return Unsigned("header_repeated" if found else "header_missing")
        parts = [part.strip().partition("=") for part in found[0].split(",")]
        times = [value for name, _, value in parts if name == "t"]
        if len(times) != 1 or not SECONDS.fullmatch(times[0]):
            return Unsigned("bad_time")
        if (untimely := _untimely(times[0], now, self._window_s)) is not None:
            return untimely
        signed = f"{times[0]},".encode() + body
        ours = [hmac.digest(key, signed, hashlib.sha256).hex().encode() for key in self._keys]
        theirs = [value.encode(errors="replace") for name, _, value in parts if name == "v1"]
        matches = [hmac.compare_digest(one, other) for one in ours for other in theirs]
        return Signed("", float(times[0])) if any(matches) else Unsigned("wrong_signature")


def _untimely(seconds: str, now: float, window_s: float) -> Unsigned | None:
    if abs(now - int(seconds)) <= window_s:
        return None
    return Unsigned("too_old" if now > int(seconds) else "too_new")


def _no_secret() -> BadRequest:
    return bad("webhook_secret", "There is no webhook secret: without one nothing can be verified.")


def _values(headers: Mapping[str, str], name: str) -> list[str]:
    """What stands under a name in any case, once for each time that it stands there."""
    return [value for key, value in headers.items() if key.lower() == name]


def _signature(key: bytes, signed: bytes) -> bytes:
    return b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))


def _key(secret: str) -> bytes:
    """The key that a secret holds. What is wrong is said without repeating any of it."""
    text = secret.strip()
    if not text.startswith(PREFIX):
        raise bad("webhook_secret", f"A webhook secret starts with {PREFIX}: copy the whole of it.")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad("webhook_secret", f"What follows {PREFIX} in a webhook secret is base64: copy it again.") from error
    if len(key) < SHORTEST_KEY_BYTES:
        raise bad("webhook_secret", "The webhook secret is too short to be one: copy the whole of it.")
    return key
