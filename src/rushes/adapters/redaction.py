"""Text that may be kept: without keys, and without what signs an address.

Nothing here knows a format: it works on the heads of bodies too, and a JSON text stays one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

REDACTED: Final = "redacted"
LONGEST_SECRET: Final = 4_096  # characters; a text that is cut loses so many more, and with them what was cut in half
SHORTEST_SECRET: Final = 8  # a shorter one protects nothing, and would spoil every text

# A signature stands in the query, and a password before the host. JSON ends both at a quote, which may be escaped.
_ADDRESS: Final = re.compile(
    r'(:(?:\\*/){2})(?:[^\s"<>/?#@\\]*@)?((?:[^\s"<>?#\\]|\\[^"?#])*)([?#](?:[^\s"<>\\]|\\[^"])*)?'
)
_WORDS: Final = (
    *("signature", "policy", "credential", "secret", "token", "passw", "authorization", "cookie", "jwt"),
    *("api_key", "api-key", "apikey", "access_key", "access-key", "accesskey"),
)
_ANY: Final = "|".join(_WORDS)
_NAME: Final = re.compile(f"{_ANY}|^key$|^sig$", re.IGNORECASE)
_MEMBER: Final = re.compile(rf'((?:{_ANY})[^"\\]{{0,64}}"\s*:\s*)"(?:[^"\\]|\\.)*', re.IGNORECASE | re.DOTALL)
_NOTHING: Final = r"(?!)"


class Redaction:
    """Takes out the keys that are known, and whatever looks like one by its name or its place in an address."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """`secrets` are taken out wherever they stand: some providers repeat a key to say that it is wrong."""
        known = sorted({secret.strip() for secret in secrets}, key=len, reverse=True)
        long = [re.escape(secret) for secret in known if len(secret) >= SHORTEST_SECRET]
        self._known = re.compile("|".join(long) or _NOTHING)

    def text(self, text: str) -> str:
        """The same text as far as it may be kept. Of an address the host and path stay, its query goes."""
        text = self._known.sub(REDACTED, text)
        text = unsigned(text)
        folded = text.lower()  # to look for words first is far cheaper than the expression
        return _MEMBER.sub(rf'\1"{REDACTED}', text) if any(word in folded for word in _WORDS) else text

    def value(self, name: str, value: str) -> str:
        """The value of a header, of a form's part or of a query."""
        return REDACTED if _NAME.search(name) else self.text(value)


def unsigned(text: str) -> str:
    """The same text, of the addresses in it the hosts and paths alone. Done again it changes nothing."""
    return _ADDRESS.sub(_bare, text)


def _bare(address: re.Match[str]) -> str:
    return address[1] + address[2] + (f"?{REDACTED}" if address[3] else "")
