"""What a studio is made of, and what it needs from outside."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from msgspec import Struct

from rushes.actors.system import System
from rushes.adapters.base import Adapter, CallRecorder
from rushes.adapters.callbacks import Callbacks
from rushes.intake import Intake, MediaDoors
from rushes.units import Clock, utc
from rushes.video import JobsQuery, ListPlace


class Doors(MediaDoors, frozen=True, kw_only=True):
    """What the studio needs from outside: built by `main`, or by a test."""

    credentials: Mapping[str, str]
    default_model: str = "local"
    explicit: Collection[str] = ()  # providers whose address was set: an emulator, or a gateway
    unavailable: Callable[[str], Exception | None]  # why a provider cannot run here
    announce: Callable[[str], None] = lambda _: None  # tells other processes our address
    free_bytes: Callable[[], int | None] = lambda: None  # of the disk; None: nobody knows
    callbacks: Callbacks | None = None  # None: no provider is asked to call back
    recorder: CallRecorder | None = None  # None: what is said to providers and by them is not recorded


class JobList(Protocol):
    """What knows all jobs by their words, and may be a moment behind the log."""

    async def page(self, query: JobsQuery, tenant: str, behind: ListPlace | None) -> tuple[list[ListPlace], bool]:
        """The places of the jobs behind a place, one more than asked for where there are more; and whether it is stale.

        Jobs that cannot be read are among them whatever is asked for: nobody can say what they are.
        """
        ...

    async def by_phase(self) -> Mapping[str, int]:
        """How many jobs there are in each phase, of all tenants. Raises Unavailable."""
        ...


class Parts(Struct, frozen=True, kw_only=True):
    """What it takes to make a job of a request."""

    system: System
    adapters: Mapping[str, Adapter]
    intake: Intake
    doors: Doors
    clock: Clock
    rng: random.Random

    @property
    def today(self) -> str:
        """The day in UTC, as 2026-01-31: models come and go by it."""
        return utc(self.clock.now()).date().isoformat()
