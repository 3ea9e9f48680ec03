"""The flight record: what every job said to its provider and was answered, in flight.db, for looking back.

A job never waits for it and never fails by it. What was heard is handed over in memory; a thread with a connection of
its own makes it fit to be kept and writes it, once a second. Where that thread cannot keep up, or the disk takes
nothing, exchanges are dropped and counted. A poll that was answered like the one before only raises a number.

No key comes here: a line is overheard before the client adds them. All text is gone through all the same, for keys that
a provider repeats and for signed addresses. Prompts stay in it: the record is as private as the log.

Which processes did the work, and from when to when, is kept beside it: between two of them no job moved.

What a provider says by itself, in a callback, is handed over by whoever hears it.

A kill costs the last second. A file that is damaged, or a newer release's, is put aside.
"""

from __future__ import annotations

from rushes.flight.exchange import Answered, Asked, Content, Exchange, Run, read, read_runs
from rushes.flight.overhearing import FlightTap, Heard
from rushes.flight.record import (
    BATCH_S,
    DEFAULT_KEEP_S,
    DEFAULT_MAX_BYTES,
    MAX_CALLS,
    MIN_BYTES,
    Flight,
    aside_of,
    drawn_at,
)
from rushes.flight.scribe import ANSWERED_HEADERS, Scribe

__all__ = [
    "ANSWERED_HEADERS",
    "BATCH_S",
    "DEFAULT_KEEP_S",
    "DEFAULT_MAX_BYTES",
    "MAX_CALLS",
    "MIN_BYTES",
    "Answered",
    "Asked",
    "Content",
    "Exchange",
    "Flight",
    "FlightTap",
    "Heard",
    "Run",
    "Scribe",
    "aside_of",
    "drawn_at",
    "read",
    "read_runs",
]
