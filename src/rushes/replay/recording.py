"""What is kept of one job: its events, its provider's traffic, and what wrote them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from rushes.eventstore.base import Head, Recorded
from rushes.flight import Exchange, Run


class InputDigest(Struct, frozen=True, kw_only=True):
    """A file that the job was given. Its bytes are not here."""

    role: str
    sha256: str
    media_type: str
    size_bytes: int


class Recording(Struct, frozen=True, kw_only=True):
    """One job, as the log and the flight record have it; or as an exported file has it."""

    job_id: str
    tenant: str
    events: tuple[Recorded, ...]  # all of the stream, from version 1 on
    exchanges: tuple[Exchange, ...] = ()  # the oldest first
    runs: tuple[Run, ...] = ()  # of the processes that did its work, as far as the flight record has them
    inputs: tuple[InputDigest, ...] = ()
    versions: Mapping[str, str] = {}  # of rushes, python, sqlite and the provider's adapter, where it was read
    source: str = ""  # where it was read, for people: a folder, or a file
    head: Head | None = None  # what the log keeps of it beside its events; None: not known, as in a file
