"""What Google says when something is wrong: google.rpc.Status in JSON, the same for all its interfaces.

It may stand alone or in a list of one, and under a status of 200. Source: Google's page on errors of its APIs, and
answers of its services that others have recorded.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.base import Response, code_of, plain, read
from rushes.faults import Code, Fault

MODERATED: Final = re.compile(
    r"(?i)safety|responsible ai|usage guideline|sensitive|content.polic|prohibited.use|support codes?:|moderat"
)
RETIRED: Final = re.compile(
    r"(?i)no longer (available|supported)|(been|was|is) (shut ?down|retired|discontinued|deprecated)"
)
BAD_KEY: Final = re.compile(r"(?i)api.?key")
NO_MODEL: Final = re.compile(r"(?i)\bmodels?\b.{0,200}(not found|not supported)", re.DOTALL)
SECONDS: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
WORD: Final = re.compile(r"[A-Z_]{1,40}")


class Status(Struct):
    """google.rpc.Status. Its code is HTTP's in an answer, and google.rpc's own (1..16) in an operation."""

    code: int = 0
    message: str | None = None
    status: str = ""
    details: list[dict[str, Any]] | None = None

    def retry_after_s(self) -> float | None:
        """What a RetryInfo among the details says, at the most a day."""
        for detail in self.details or []:
            if found := SECONDS.fullmatch(str(detail.get("retryDelay", ""))):
                return min(86_400.0, float(found[1]))
        return None


class _Problem(Struct):
    error: Status


def unwrapped(reply: Response) -> Response:
    """The answer under the status that its error says: some errors come under 200."""
    problem = _problem(reply)
    if reply.status != 200 or problem is None or not 400 <= problem.code < 600:
        return reply
    return replace(reply, status=problem.code)


def fault_of(name: str, reply: Response) -> Fault | None:
    """The error in an answer; None where there is none of Google's."""
    if (problem := _problem(reply)) is None:
        return None
    status, text = unwrapped(reply).status, problem.message or ""
    code = _code(status, text)
    passing = status in (429, 499) or status >= 500
    word = problem.status if WORD.fullmatch(problem.status) else ""
    detail = "it refuses the key." if code == "authentication_failed" else plain(text)
    wait_s = problem.retry_after_s() if passing else None
    return Fault(code, f"{name}: {detail}", retryable=passing, retry_after_s=wait_s, provider_code=word)


def _code(status: int, text: str) -> Code:
    if status == 400 and MODERATED.search(text):
        return "moderated"
    if status == 400 and BAD_KEY.search(text):
        return "authentication_failed"
    if status == 404 and RETIRED.search(text):
        return "model_retired"
    if status == 404 and NO_MODEL.search(text):
        return "model_unknown"
    return "provider_unavailable" if status == 499 else code_of(status)


def _problem(reply: Response) -> Status | None:
    found = read(reply, _Problem)
    if found is None:
        several = read(reply, list[_Problem]) or []
        found = several[0] if len(several) == 1 else None
    return found.error if found else None


def failure_of(name: str, problem: Status) -> Fault:
    """Why an operation has failed, by google.rpc's code: 13 and 14 are worth another attempt."""
    text = problem.message or ""
    code: Code = "moderated" if MODERATED.search(text) else "generation_failed"
    passing = code != "moderated" and problem.code in (8, 13, 14)
    return Fault(code, f"{name}: {plain(text)}", retryable=passing, provider_code=f"{problem.code or ''}")
