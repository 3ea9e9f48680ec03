"""Identities, money, time and references: the small words every other room uses. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Annotated, Literal, Protocol, TypeVar

from msgspec import Meta, Struct

T = TypeVar("T")

Private = Annotated[T, Meta(extra={"private": True})]
"""Marks a field that holds somebody's words, so that an ended stream can be redacted by looking at types alone."""

Billed = Literal["yes", "no", "unknown"]
"""Whether money was spent: `unknown` is said where nobody can know, never guessed away."""

DEFAULT_TENANT = "default"

TRACE: ContextVar[str] = ContextVar("trace", default="")
"""The trace that a request belongs to, as W3C's traceparent: a job that begins under it stays in it. Empty: none."""

REPLAYING: ContextVar[bool] = ContextVar("replaying", default=False)
"""What happens under it has happened before: it runs again to be looked at, and its log lines are nobody's news."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def traceparent(text: str) -> str:
    """The header's value where it is one; else empty, as its standard demands: a bad one is passed over."""
    return text if _TRACEPARENT.fullmatch(text) else ""


class Clock(Protocol):
    """Wall time as the log sees it. Timers run on the event loop's own clock, never on this one."""

    def now(self) -> float:
        """Seconds since 1970 in UTC, rounded to milliseconds."""
        ...


class Money(Struct, frozen=True, gc=False, omit_defaults=True):
    """An amount in millionths of a US dollar, with where the price came from and the provider's own count beside it."""

    micro_usd: int
    source: str = ""  # where the price was read
    as_of: str = ""  # the day it was read, YYYY-MM-DD
    units: float | None = None  # the provider's own count (credits, seconds)
    unit: str = ""  # its name


FREE = Money(0, source="runs on this machine")


class AssetRef(Struct, frozen=True, gc=False, omit_defaults=True):
    """A file that we keep. The bytes live below the data folder, or in a bucket, never in an event."""

    key: str  # relative to the asset store: customers/0/assets/video/….mp4, inputs/ab/abcd…
    sha256: str  # 64 hex digits
    size_bytes: int
    media_type: str  # video/mp4


class Handle(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a provider gave us to find the job again."""

    id: str
    extra: dict[str, str] = {}  # what else its later calls need


def utc(at: float) -> datetime:
    """The log's seconds since 1970 as the time that callers are shown (RFC 3339 in JSON)."""
    return datetime.fromtimestamp(at, UTC)


def uuid7_hex(now: float, random_bits: int) -> str:
    """32 hex digits of a version 7 UUID (RFC 9562): 48 bits of milliseconds, then 74 of `random_bits`."""
    milliseconds = int(now * 1000) & (2**48 - 1)
    high, low = (random_bits >> 62) & 0xFFF, random_bits & (2**62 - 1)
    return f"{milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"


def fresh_job_id(now: float, random_bits: int) -> str:
    """A job's public name: sorts by time, never holds a dash."""
    return "job_" + uuid7_hex(now, random_bits)


def keyed_job_id(tenant: str, key: str, earlier: int) -> str:
    """The job that an idempotency key stands for.

    `earlier` counts the jobs of that key that ended before anything was sent: their key may be used again.
    """
    digest = hashlib.sha256(f"{tenant}\0{key}\0{earlier}".encode()).digest()
    return "job_" + base64.b32encode(digest).decode().rstrip("=").lower()


def keyed_batch_id(tenant: str, key: str) -> str:
    """The batch that an idempotency key stands for."""
    digest = hashlib.sha256(f"{tenant}\0{key}\0batch".encode()).digest()
    return "batch_" + base64.b32encode(digest).decode().rstrip("=").lower()


def submission_key(job: str, attempt: int) -> str:
    """The key a provider sees. The same for every send of one attempt, another for a deliberate new attempt."""
    return f"{job}-{attempt}"


def spread(job: str, *salt: int) -> float:
    """Jitter that replays: a number in [0, 1) made from the job and the given numbers."""
    digest = hashlib.blake2b(f"{job}:{salt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
