"""The addresses that providers may call back, and who may call them.

Each names one send of one job and carries a code that only this data folder can make. The provider alone is told it, so
whoever calls an address speaks of that send: a callback can say that the provider has the job before its own answer is
on disk, or in the place of an answer that was lost. Where a provider signs what it says, and its secret is known here,
the signature is asked for as well.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.capabilities import Terms, Webhook
from rushes.adapters.signatures import CommaVerifier, Unsigned, Verifier, Verifies
from rushes.faults import BadRequest, bad

PATH: Final = "/v1/webhooks/"
NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class About(Struct, frozen=True):
    """The send that an address was made for."""

    job: str
    attempt: int
    send: int


class Callbacks:
    """Makes addresses, and knows its own again."""

    def __init__(self, public_url: str, key: bytes, verifiers: Mapping[str, Verifies] | None = None) -> None:
        """Raises BadRequest about `public_url`.

        Args:
            public_url: under which providers reach this server, as https://host[:port][/path].
            key: of the data folder (`key_of`).
            verifiers: by provider, of those whose callbacks must be signed.
        """
        self._base, self.host = base_of(public_url)
        self._key, self._verifiers = key, verifiers or {}

    def url(self, provider: str, job: str, attempt: int, send: int) -> str:
        """The address for one send."""
        about = {"job": job, "attempt": f"{attempt}", "send": f"{send}"}
        return f"{self._base}{PATH}{provider}?{urlencode({**about, 'mac': self._mac(provider, about)})}"

    def about(self, provider: str, query: Mapping[str, str]) -> About | None:
        """What an address of ours was made for, by its query; None for one that is not ours."""
        about = {name: query.get(name, "") for name in ("job", "attempt", "send")}
        ours = self._mac(provider, about).encode()
        if not hmac.compare_digest(ours, query.get("mac", "").encode(errors="replace")):
            return None
        if not all(NUMBER.fullmatch(about[name]) for name in ("attempt", "send")):
            return None
        return About(about["job"], int(about["attempt"]), int(about["send"]))

    def unsigned(self, provider: str, headers: Mapping[str, str], body: bytes, now: float) -> Unsigned | None:
        """Why a callback is not believed; None where its signature is good, or the provider's secret is not known."""
        verifier = self._verifiers.get(provider)
        verdict = verifier.verify(headers, body, now) if verifier else None
        return verdict if isinstance(verdict, Unsigned) else None

    def _mac(self, provider: str, about: Mapping[str, str]) -> str:
        """Names and numbers hold no line break, so no two sends are one text."""
        text = "\n".join([provider, about["job"], about["attempt"], about["send"]])
        digest = hmac.digest(self._key, text.encode(errors="replace"), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def base_of(public_url: str) -> tuple[str, str]:
    """The address without a slash at its end, and its host. Plain http is for emulators on this machine.

    Raises BadRequest about `public_url`.
    """
    try:
        parts = urlsplit(public_url)
        host = parts.hostname or ""
        fits = parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)
        fits = fits and parts.port != 0 and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        host, fits = "", False
    if not (host and fits and public_url.isprintable() and " " not in public_url):
        shape = "https://HOST, with a port and a path where they are needed, and nothing behind them"
        raise bad("public_url", f"The setting public_url is not an address that providers can call: give {shape}.")
    return public_url.rstrip("/"), host


def with_callback(terms: Terms, webhook: Webhook | None) -> Terms:
    """What holds for a send that its provider is asked to call back about; the same where that never calls.

    Where nothing but a callback can tell what became of a send, it is waited for as long as a job may take.
    """
    if webhook is None or terms.doubt != "E":
        return terms
    return replace(terms, doubt="D", settle_s=terms.total_s)


def verifier_of(webhook: Webhook, secret: str) -> Verifies:
    """Who looks at a provider's signatures. Raises BadRequest naming the variable, and never the secret."""
    kind = CommaVerifier if webhook.scheme == "openrouter" else Verifier
    try:
        return kind(secret.split())
    except BadRequest as error:
        raise bad(webhook.env, f"{webhook.env} cannot be used. {error.detail}") from error
