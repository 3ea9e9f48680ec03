"""What both of Kling's wires say of errors: an envelope with a code, which tells more than the status above it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Adapter, Broken, Response
from rushes.faults import Code, Fault
from rushes.units import Billed

T = TypeVar("T")
MEANINGS: Final[Mapping[str, Code]] = {  # by code, or else by its first two digits
    "10": "authentication_failed",
    "11": "quota_exceeded",
    "1103": "unsupported_feature",  # this key may not use this model: other jobs of the key may go on
    "12": "invalid_input",
    "1203": "not_found",
    "1300": "moderated",
    "1301": "moderated",
    "1302": "rate_limited",
    "1303": "rate_limited",
    "1304": "authentication_failed",  # not from this address
    "50": "provider_unavailable",
}
TRANSIENT: Final = ("rate_limited", "provider_unavailable", "conflict")
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # digits so far; never a comma, which parts ids in a query
TAKEN: Final = re.compile(r"duplicat|external.{0,40}(already|exist|repeat|unique|used)", re.IGNORECASE | re.DOTALL)
MODERATED: Final = re.compile(r"risk.?control|sensitive|moderat|polic(y|ies)|violat|content.?secur", re.IGNORECASE)


class _Problem(Struct):
    code: int = 0
    message: str | None = None
    path: str = ""  # only where it is not one of theirs


class KlingErrors(Adapter):
    """An adapter for one of Kling's wires."""

    def fault(self, reply: Response) -> Fault | None:
        """An envelope whose code is not 0, also under status 200; or a page that is not there."""
        problem = base.read(reply, _Problem) or _Problem()
        if problem.path and reply.status == 404:
            return Fault("not_found", "kling has no such path.")
        if problem.code <= 0:
            return None
        number = str(problem.code)
        code = MEANINGS.get(number) or MEANINGS.get(number[:2]) or base.code_of(reply.status)
        if code == "invalid_input" and TAKEN.search(problem.message or ""):
            code = "conflict"
        wait_s = 1.0 if code == "rate_limited" else None  # at the least, they ask
        detail, transient = f"kling: {base.plain(problem.message)}", code in TRANSIENT
        return Fault(code, detail, retryable=transient, retry_after_s=wait_s, provider_code=number)

    def refuses(self, reply: Response, fault: Fault) -> bool:
        """Codes from 1000 do, but under the status of a server's own trouble, and for a key that is taken."""
        if not fault.provider_code:
            return super().refuses(reply, fault)
        return reply.status < 500 and fault.code != "conflict" and 1000 <= int(fault.provider_code) < 2000

    def good(self, reply: Response, kind: type[T]) -> T:
        """The content of an answer that is no error. Raises Failed."""
        if self.fault(reply) is not None:
            raise base.refused(self, reply)
        return base.reply_json(self, reply, kind)


def failure(message: str | None, billed: Billed) -> Broken:
    """A task that failed, and why."""
    code: Code = "moderated" if MODERATED.search(message or "") else "generation_failed"
    return Broken(Fault(code, f"kling: {base.plain(message)}"), billed=billed)
