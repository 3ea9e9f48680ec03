"""What can go wrong at a provider, as data: the same for every twin, settable in Python and over HTTP.

    {"rules": [{"do": "rate_limit", "on": "submit", "retry_after": "http-date", "times": 2},
               {"do": "cut_at", "on": "GET /out/*", "byte": 100, "nth": 1}]}

A rule says where it strikes (`on`), how often, and what it does (`do`). Half of them are of any wire and are applied
around the twin (`FaultyTwin`); the others only the twin can do, in its provider's own words.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from msgspec import Meta, Struct

from rushes.adapters.base import Response
from rushes.faults import bad
from rushes.video import retyped

Flow = Literal["prepare", "submit", "status", "cancel", "find", "download"]
"""What a request is for, by the name of the adapter's flow that sends it."""

Times: TypeAlias = Annotated[int, Meta(ge=0)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=86_400)]


class Rule(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="do", tag="rule"
):
    """Where and how often a fault strikes. Requests are counted from 1 since the rule was set."""

    strikes: ClassVar[Flow | None] = None  # the one flow that it is about; None: any request

    on: str = ""  # a flow, or "METHOD /path" with * and ?; empty: wherever it can strike
    nth: Times = 0  # this one alone
    every: Annotated[int, Meta(ge=1)] = 1  # each one that this divides
    times: Times = 0  # and not more often than this; 0: without end

    @property
    def do(self) -> str:
        """Its name."""
        return str(self.__struct_config__.tag)

    def is_about(self, method: str, path: str, flow: str) -> bool:
        """Whether such a request counts."""
        if self.strikes is not None and flow != self.strikes:
            return False
        if " " not in self.on:
            return self.on in ("", flow)
        wanted, glob = self.on.split(" ", 1)
        return wanted in ("*", method) and fnmatchcase(path, glob)

    def is_due(self, count: int, struck: int) -> bool:
        """Whether it strikes the request that is the `count`th, after it struck `struck` times."""
        if self.nth:
            return count == self.nth
        return count % self.every == 0 and (not self.times or struck < self.times)


# ── Of any wire ───────────────────────────────────────────────────────────────────────────────────────────────────────


class RateLimit(Rule, frozen=True, kw_only=True, tag="rate_limit"):
    """A 429 in the provider's words, before any work. `huge` is 3000 years; `garbage` is a word that is no time."""

    retry_after: Seconds | Literal["http-date", "garbage", "absent", "huge"] = 1.0


class ServerError(Rule, frozen=True, kw_only=True, tag="error"):
    """A gateway's page. `after_accept`: the request was carried out, and charged, all the same."""

    status: Annotated[int, Meta(ge=400, le=599)] = 500
    after_accept: bool = False


class Drop(Rule, frozen=True, kw_only=True, tag="drop"):
    """The connection is closed without an answer. `after_work`: the request was carried out."""

    after_work: bool = False


class Cut(Rule, frozen=True, kw_only=True, tag="cut_at"):
    """The request is carried out, and its answer's body ends at this byte; the header promises the whole."""

    byte: Times


class Hang(Rule, frozen=True, kw_only=True, tag="hang"):
    """The request is carried out, and its answer comes so much later; None: never."""

    seconds: Seconds | None = None


# ── Of the twin ───────────────────────────────────────────────────────────────────────────────────────────────────────


class ExpiredUrl(Rule, frozen=True, kw_only=True, tag="expired_url"):
    """The address of a result has expired."""

    strikes: ClassVar[Flow | None] = "download"


class Moderated(Rule, frozen=True, kw_only=True, tag="moderated"):
    """The job goes the way of one whose prompt says "forbidden"."""

    strikes: ClassVar[Flow | None] = "submit"


class FailedJob(Rule, frozen=True, kw_only=True, tag="failed"):
    """The job goes the way of one whose prompt says "broken"."""

    strikes: ClassVar[Flow | None] = "submit"


class StatusWord(Rule, frozen=True, kw_only=True, tag="status_word"):
    """The job is in another status than it is: one that nobody knows, or that it had before.

    `was`: that word alone is another, and the rest of the answer is as it is; as where a provider renames one.
    """

    strikes: ClassVar[Flow | None] = "status"
    word: Annotated[str, Meta(min_length=1)]
    was: str = ""


class DuplicateId(Rule, frozen=True, kw_only=True, tag="duplicate_id"):
    """The provider says that our own id of the job is taken."""

    strikes: ClassVar[Flow | None] = "submit"


class NotFound(Rule, frozen=True, kw_only=True, tag="not_found"):
    """A job that was accepted is not known yet when it is looked at, so many times."""

    strikes: ClassVar[Flow | None] = "status"
    looks: Annotated[int, Meta(ge=1)] = 1


LineRule: TypeAlias = RateLimit | ServerError | Drop | Cut | Hang
TwinRule: TypeAlias = ExpiredUrl | Moderated | FailedJob | StatusWord | DuplicateId | NotFound


class Faults(Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of one twin. The first of any wire that is due strikes alone; all of the twin's that are due strike."""

    rules: tuple[LineRule | TwinRule, ...] = ()

    def check(self, twin: str, can: AbstractSet[str]) -> None:
        """Refuse what would never strike: `can` names the faults that this twin itself can do. Raises BadRequest."""
        for number, rule in enumerate(retyped(self).rules):
            where = f"rules[{number}]"
            if rule.strikes is not None and rule.do not in can:
                raise bad(f"{where}.do", f"The twin of {twin} cannot do {rule.do!r}: {_listed(can)}.")
            if " " not in rule.on and rule.on not in ("", *get_args(Flow)):
                raise bad(f"{where}.on", f"{rule.on!r} is neither METHOD /PATH nor one of {', '.join(get_args(Flow))}.")
            if " " not in rule.on and rule.strikes is not None and rule.on not in ("", rule.strikes):
                raise bad(f"{where}.on", f"{rule.do!r} strikes {rule.strikes} only: leave `on` out.")
            if rule.nth and (rule.every > 1 or rule.times):
                raise bad(f"{where}.nth", "`nth` strikes once: leave `every` and `times` out, or `nth`.")


def _listed(can: AbstractSet[str]) -> str:
    return f"of what is the twin's own it can do {', '.join(sorted(can))}" if can else "it can do nothing of its own"


class NoAnswer(Exception):
    """Where a transport would see no whole answer. Raised by `FaultyTwin.handle`; whoever calls it says what it means.

    The socket server drops, cuts or hangs in truth. A transport without a socket makes it a Failed("no_answer") that is
    not certain, or waits and hands `reply` out, where its time is its own.
    """

    def __init__(
        self,
        how: Literal["drop", "cut_at", "hang"],
        *,
        reply: Response | None = None,
        byte: int = 0,
        seconds: float | None = None,
    ) -> None:
        """`reply` is what would have been said (cut, hang), `byte` where it ends, `seconds` how late it comes."""
        super().__init__(f"No whole answer: {how}.")
        self.how, self.reply, self.byte, self.seconds = how, reply, byte, seconds
