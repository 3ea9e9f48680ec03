"""A twin with faults around it, and many of them behind one address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.utils import formatdate
from typing import Final
from urllib.parse import urlsplit

import msgspec

from rushes.adapters.base import Request, Response
from rushes.emulators.base import Asked, Delivery, ProviderTwin, as_json
from rushes.emulators.faults import (
    Cut,
    Drop,
    Faults,
    Hang,
    LineRule,
    NoAnswer,
    RateLimit,
    ServerError,
    TwinRule,
)
from rushes.emulators.ledger import Ledger
from rushes.faults import BadRequest
from rushes.video import decode, fault_of

CONTROL: Final = "_rushes"
HUGE_S: Final = 10**11
DATE_S: Final = 30.0  # how far a date lies ahead
PAGE: Final = b"<html><head><title>Error</title></head><body><center>nginx</center></body></html>"


class FaultyTwin:
    """A Twin that goes wrong where its rules say so, and is the twin behind it everywhere else."""

    def __init__(self, twin: ProviderTwin, faults: Faults | None = None) -> None:
        """Raises BadRequest for faults that this twin cannot do."""
        self.twin = twin
        self.set(faults or Faults())

    @property
    def faults(self) -> Faults:
        """The rules that hold now."""
        return self._faults

    def set(self, faults: Faults) -> None:
        """Put other rules in the place of all; counting begins anew. Raises BadRequest, and then nothing changed."""
        faults.check(self.twin.name, self.twin.can)
        self._faults = faults
        self._seen, self._struck = [0] * len(faults.rules), [0] * len(faults.rules)

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request. Raises NoAnswer where nothing whole comes back."""
        asked = self.twin.read(request, now)
        rule, own = self._due(asked)
        if rule is None:
            return self.twin.handle(request, now, own)
        if isinstance(rule, RateLimit):
            return self._answered(asked, rule, _limited(self.twin, rule, now))
        if isinstance(rule, ServerError) and not rule.after_accept:
            return self._answered(asked, rule, _page(rule.status))
        if isinstance(rule, Drop) and not rule.after_work:
            self.twin.note(asked, rule)
            raise NoAnswer("drop")
        return self._afterwards(rule, self.twin.handle(request, now, own))

    @property
    def owes(self) -> bool:
        """Whether the twin behind it has callbacks to send."""
        return self.twin.owes

    def due(self, now: float) -> list[Delivery]:
        """The callbacks of the twin behind it."""
        return self.twin.due(now)

    def _due(self, asked: Asked) -> tuple[LineRule | None, tuple[TwinRule, ...]]:
        """The rules that strike this request: one of the wire's at most, and all of the twin's."""
        line: LineRule | None = None
        own: list[TwinRule] = []
        for number, rule in enumerate(self._faults.rules):
            if not rule.is_about(asked.method, asked.path, self.twin.flow(asked)):
                continue
            self._seen[number] += 1
            if not rule.is_due(self._seen[number], self._struck[number]):
                continue
            if not isinstance(rule, LineRule):
                own.append(rule)
            elif line is None:
                line = rule
            else:
                continue
            self._struck[number] += 1
        return line, tuple(own)

    def _answered(self, asked: Asked, rule: LineRule, reply: Response) -> Response:
        self.twin.note(asked, rule).status = reply.status
        return reply

    def _afterwards(self, rule: LineRule, reply: Response) -> Response:
        """The twin has done its work: what becomes of its answer."""
        line = self.twin.ledger.requests[-1]
        line.fault = ", ".join(filter(None, (line.fault, rule.do)))
        match rule:
            case ServerError():
                line.status = rule.status
                return _page(rule.status)
            case Cut():
                raise NoAnswer("cut_at", reply=reply, byte=rule.byte)
            case Hang():
                line.status = 0 if rule.seconds is None else reply.status
                raise NoAnswer("hang", reply=reply, seconds=rule.seconds)
            case _:
                line.status = 0
                raise NoAnswer("drop")


def _limited(twin: ProviderTwin, rule: RateLimit, now: float) -> Response:
    """The provider's own 429, with another Retry-After."""
    reply = twin.refusal(twin.throttled())
    match rule.retry_after:
        case "absent":
            says = ""
        case "garbage":
            says = "soon"
        case "huge":
            says = f"{HUGE_S}"
        case "http-date":
            says = formatdate(now + DATE_S, usegmt=True)
        case seconds:
            says = f"{seconds:g}"
    headers = {name: value for name, value in reply.headers.items() if name != "retry-after"}
    return msgspec.structs.replace(reply, headers=headers | ({"retry-after": says} if says else {}))


def _page(status: int) -> Response:
    return Response(status=status, body=PAGE, headers={"content-type": "text/html"})


# ── Many behind one address ───────────────────────────────────────────────────────────────────────────────────────────


class Emulator:
    """Twins below their names, with their ledgers and faults: itself a Twin, to be served by `serve_twin`.

    GET /_rushes/ledger and PUT (or GET) /_rushes/faults are about all of them, the same below a name about that one.
    """

    def __init__(self, twins: Sequence[ProviderTwin]) -> None:
        for twin in twins:
            twin.below = f"/{twin.name}"
        self.twins: Mapping[str, FaultyTwin] = {twin.name: FaultyTwin(twin) for twin in twins}

    def handle(self, request: Request, now: float) -> Response:
        """Answer one request. Raises NoAnswer where a fault leaves nothing whole to answer."""
        name, _, rest = urlsplit(request.url).path.lstrip("/").partition("/")
        if name == CONTROL:
            return self._control(request, rest, self.twins)
        if name not in self.twins:
            return _wrong(404, "", f"There is nothing here. The providers are {', '.join(self.twins)}.")
        if rest.startswith(f"{CONTROL}/"):
            return self._control(request, rest.removeprefix(f"{CONTROL}/"), {name: self.twins[name]})
        return self.twins[name].handle(request, now)

    @property
    def owes(self) -> bool:
        """Whether any of them has callbacks to send."""
        return any(faulty.owes for faulty in self.twins.values())

    def due(self, now: float) -> list[Delivery]:
        """The callbacks of all of them."""
        return [delivery for faulty in self.twins.values() for delivery in faulty.due(now)]

    def _control(self, request: Request, what: str, twins: Mapping[str, FaultyTwin]) -> Response:
        match request.method, what:
            case "GET", "ledger":
                return as_json(200, merged([faulty.twin.ledger for faulty in twins.values()]))
            case "GET", "faults":
                return as_json(200, {name: faulty.faults for name, faulty in twins.items()})
            case "PUT", "faults":
                return _set(request, twins)
            case _:
                return _wrong(404, "", "Here are GET ledger, GET faults and PUT faults.")


def merged(ledgers: Sequence[Ledger]) -> Ledger:
    """One ledger of several, in the order of time."""
    return Ledger(
        sorted((line for ledger in ledgers for line in ledger.requests), key=lambda line: line.at),
        sorted((charge for ledger in ledgers for charge in ledger.charges), key=lambda charge: charge.at),
    )


def _set(request: Request, twins: Mapping[str, FaultyTwin]) -> Response:
    """The same rules for all, or for none where one of them cannot."""
    try:
        faults = _read(request)
        for faulty in twins.values():
            faults.check(faulty.twin.name, faulty.twin.can)
    except BadRequest as error:
        return _wrong(400, error.field, error.detail)
    for faulty in twins.values():
        faulty.set(faults)
    return as_json(200, {name: faulty.faults for name, faulty in twins.items()})


def _read(request: Request) -> Faults:
    """The rules in a body, whatever it calls itself. Raises BadRequest naming the field that is wrong."""
    match request.body:
        case None:
            return decode(b"", Faults)
        case Mapping():
            try:
                return msgspec.convert(request.body, Faults)
            except msgspec.ValidationError as error:
                raise BadRequest([fault_of(error, Faults)]) from error
        case parts:
            return decode(b"".join(part.content for part in parts if isinstance(part.content, bytes)), Faults)


def _wrong(status: int, field: str, detail: str) -> Response:
    return as_json(status, {"error": {"field": field, "detail": detail}})
