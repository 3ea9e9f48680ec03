"""What can go wrong, as values (`Fault`, stored in events) and as exceptions (callers' mistakes, broken machinery).

    RushesError                      one root: code, field, job_id, idempotency_key, billed
    ├── BadRequest                   the request cannot be run as it stands; its `faults` name every field
    ├── NotFound                     no such job, take or upload
    ├── Conflict                     the idempotency key stands for another request
    ├── CommandRejected              the job is in a phase where this command makes no sense
    ├── JobFailed                    the job ended without a take
    ├── FolderTrouble                the data folder cannot be used
    │   └── FolderInUse              … because another process owns it
    ├── ExtraMissing                 an optional part is not installed
    ├── AccessDenied                 a server needs a key, or one that allows more
    ├── Unavailable                  stopping, or too busy: try again
    ├── Unreadable                   a stream that this release cannot replay
    └── ServerTrouble                a server we talk to answered something unexpected

Every one says what to do, and whether money was spent (`billed`): on the job that it names, or else by what was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from rushes.units import Billed

Code = Literal[
    "invalid_input",
    "unsupported_feature",
    "model_unknown",
    "model_retired",
    "authentication_failed",
    "quota_exceeded",
    "rate_limited",
    "provider_unavailable",
    "not_sent",
    "no_answer",
    "bad_answer",
    "not_found",
    "conflict",
    "command_rejected",
    "moderated",
    "generation_failed",
    "asset_expired",
    "cancelled",
    "timed_out",
    "storage_failed",
    "folder_in_use",
    "extra_missing",
    "unavailable",
    "unreadable",
    "internal_error",
    "unauthorised",
    "forbidden",
]


class Fault(Struct, frozen=True, gc=False, omit_defaults=True):
    """Something went wrong, in words a caller can act on. Lives in events, so it never holds a prompt, key or URL."""

    code: Code
    detail: str
    field: str = ""  # the request field it is about, if one
    retryable: bool = False  # the same request may succeed later
    retry_after_s: float | None = None  # not before, as the provider asked
    provider_code: str = ""  # the provider's own word


class RushesError(Exception):
    """Something went wrong in rushes; the subclass and `code` say what."""

    code: Code = "internal_error"
    billed: Billed = "no"

    def __init__(
        self,
        detail: str = "",
        *,
        field: str = "",
        job_id: str = "",
        idempotency_key: str = "",
        billed: Billed | None = None,
    ) -> None:
        """`billed`: None for what is usual of this class."""
        super().__init__(detail or (type(self).__doc__ or "").strip().split("\n")[0])
        self.field, self.job_id, self.idempotency_key = field, job_id, idempotency_key
        if billed is not None:
            self.billed = billed

    @property
    def detail(self) -> str:
        """One sentence: what went wrong and what to do."""
        return str(self.args[0])


class BadRequest(RushesError):
    """The request cannot be run as it stands."""

    code: Code = "invalid_input"

    def __init__(self, faults: Sequence[Fault], *, job_id: str = "") -> None:
        super().__init__(" ".join(fault.detail for fault in faults), field=faults[0].field, job_id=job_id)
        self.faults = tuple(faults)
        self.code = faults[0].code


def bad(field: str, detail: str, code: Code = "invalid_input") -> BadRequest:
    """A BadRequest about one field."""
    return BadRequest([Fault(code, detail, field=field)])


class NotFound(RushesError):
    """There is nothing under that name."""

    code: Code = "not_found"


class Conflict(RushesError):
    """This idempotency key was used for another request: use a new key, or send the same request again."""

    code: Code = "conflict"


class CommandRejected(RushesError):
    """The job is in a phase where this command makes no sense."""

    code: Code = "command_rejected"


class JobFailed(RushesError):
    """The job ended without a take."""

    def __init__(self, fault: Fault, *, job_id: str, billed: Billed) -> None:
        super().__init__(fault.detail, job_id=job_id, billed=billed)
        self.fault, self.code = fault, fault.code


class FolderTrouble(RushesError):
    """The data folder cannot be used: give another with --data."""

    code: Code = "storage_failed"


class FolderInUse(FolderTrouble):
    """Another process owns the data folder."""

    code: Code = "folder_in_use"

    def __init__(self, folder: str, pid: int, url: str) -> None:
        where = f" and answers at {url}" if url else ""
        super().__init__(f"The data folder {folder} belongs to process {pid}{where}: stop it, or use its address.")
        self.pid, self.url = pid, url


class ExtraMissing(RushesError):
    """An optional part is not installed."""

    code: Code = "extra_missing"


CASSETTES_EXTRA = 'Cassettes need the cassettes extra: pip install "rushes[cassettes]"'
GOOGLE_EXTRA = 'Keys of Google Cloud need the google extra: pip install "rushes[google]"'
MCP_EXTRA = 'Tools for agents need the mcp extra: pip install "rushes[mcp]"'
MEDIA_EXTRA = 'The local model needs the media extra: pip install "rushes[media]"'


class AccessDenied(RushesError):
    """The server needs a key that allows this."""

    def __init__(
        self, detail: str = "", *, code: Literal["unauthorised", "forbidden"] = "unauthorised", billed: Billed = "no"
    ) -> None:
        """`forbidden`: the key is known, and lacks a scope."""
        super().__init__(detail, billed=billed)
        self.code = code


class Unavailable(RushesError):
    """rushes is stopping or too busy: try again in a moment."""

    code: Code = "unavailable"


class Unreadable(RushesError):
    """This release cannot replay the stream: a newer one wrote it, or it is damaged. Other jobs are not affected."""

    code: Code = "unreadable"
    billed: Billed = "unknown"


def damaged(job_id: str, version: int, position: int) -> Unreadable:
    """An event is gone, or its bytes are not the ones that were stored. `position` 0 or `job_id` empty: not known."""
    where = f" (position {position})" if position else ""
    whose = f"of {job_id}" if job_id else "of a job that it does not name any more"
    way_out = "`rushes verify` says what else is, and a backup that is restored brings it back"
    return Unreadable(f"Event {version} {whose}{where} is damaged: {way_out}.", job_id=job_id)


class ServerTrouble(RushesError):
    """The rushes server did not answer as expected."""

    code: Code = "unavailable"
