"""What holding a job against today's code comes to."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from rushes.flight import Exchange
from rushes.video import JSON

Verdict = Literal["same", "diverged", "cannot"]


class Difference(Struct, frozen=True, kw_only=True):
    """The first place where the recording and today's code part."""

    version: int  # of the recorded event; one behind the last where today's code goes on
    what: str  # one sentence, for people
    path: str = ""  # within the event or the state: data.outputs[0].media_type
    recorded: JSON = None  # the recorded side: an event as {"type", "data"}, a value, or None where it has nothing
    today: JSON = None  # today's side
    exchange: Exchange | None = None  # the traffic that it comes from, or that is missing


class Report(Struct, frozen=True, kw_only=True):
    """One job's outcome. `same`: nothing differs. `cannot`: what is kept is not enough to tell, and `why` says why."""

    job_id: str
    verdict: Verdict
    events: int  # compared
    exchanges: int = 0  # played
    taken: int = 0  # of the events: told as the log has them, for a kill took along what they came from
    difference: Difference | None = None
    why: str = ""  # with `cannot`
