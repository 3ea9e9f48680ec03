"""The recorded traffic as a transport: what was answered then is answered again, at the time when it was.

A request is matched as the record has it: by its flow, method, address and symbolic body, against the first exchange
that is not used up. Of equal answers in a row the first and the last come at their times, the others at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NoReturn, Protocol

import msgspec
from msgspec import Struct

from rushes.adapters.base import Adapter, Ask, Failed, FlowName, Keep, Request, Response, Sink, Transport
from rushes.flight import Asked, Content, Exchange, Heard, Scribe
from rushes.replay.likeness import unlike
from rushes.replay.recording import Recording
from rushes.replay.timeline import names
from rushes.units import AssetRef
from rushes.video import JSON, Target

COLUMNS: Final = tuple(name for name in Exchange.__struct_fields__ if name != "count")
SOON_S: Final = 0.05
MAX_POLLS: Final = 200  # of equal answers: a wait of days has thousands


class Question(Struct, frozen=True):
    """A request of today, as the flight record would have it."""

    provider: str
    attempt: int
    flow: FlowName
    method: str
    url: str
    body: Content | None

    def shown(self) -> dict[str, JSON]:
        """For a report."""
        return {"method": self.method, "url": self.url, "body": body_of(self.body)}


class Play(Struct, frozen=True, kw_only=True):
    """One answer of the record, and when it is due."""

    exchange: Exchange
    asked_at: float  # seconds since 1970, like the next
    at: float  # when it was there; 0: at once
    after: int = 0  # events that must be there first
    never: bool = False  # it was no longer waited for, and nobody knows what the answer was


class World(Protocol):
    """What the transport needs of the re-run around it."""

    def now(self) -> float: ...
    async def until(self, at: float, after: int = 0) -> None: ...
    async def missing(self, question: Question) -> NoReturn: ...
    async def asked_otherwise(self, question: Question, exchange: Exchange, path: str) -> None: ...
    def awaits(self, exchange: Exchange) -> bool: ...
    async def unless_lost(self, exchange: Exchange) -> None: ...


def plays(recording: Recording) -> Iterator[Play]:
    """The answers, the oldest first."""
    named = names(recording)
    for one in recording.exchanges:
        duration_s = one.duration_ms / 1000
        versions, never = named.get(one.id, [1]), was_cut_off(one)
        yield Play(exchange=one, asked_at=one.at, at=one.at + duration_s, after=versions[0] - 1, never=never)
        if one.count > 1:
            at_once = one.count - 2 if one.flow != "status" else min(one.count - 2, MAX_POLLS)
            yield from [Play(exchange=one, asked_at=one.at, at=0.0)] * at_once
            yield Play(exchange=one, asked_at=one.last_at - duration_s, at=one.last_at, after=versions[-1] - 1)


def was_cut_off(one: Exchange) -> bool:
    """Whether the process stopped before the answer came."""
    return one.answered.fault is not None and one.answered.fault.code == "cancelled"


class Tape:
    """All that was recorded of a job, on its way to being used up. It is the recorder as well."""

    def __init__(self, recording: Recording, bases: Callable[[Adapter, Ask], str], world: World) -> None:
        self.plays = [*plays(recording)]
        self._bases, self._world = bases, world
        self.place = 0  # of the first that is not used up
        self.pending = 0  # requests that wait for their answer
        self.used: set[int] = set()  # exchanges that were answered, if only in part
        self.last: Exchange | None = None  # that was answered
        self.line = _Line(self, 0, "status", [])  # for who has no tap: nobody has none

    def begin_at(self, at: float) -> None:
        """Another process begins: what was answered before is no answer to it."""
        while self.place < len(self.plays) and self.plays[self.place].exchange.last_at <= at:
            self.place += 1

    def tap(self, job: str, attempt: int, trace: str = "") -> Tap:  # noqa: ARG002 - there is one job
        """See `adapters.base.Recorder`."""
        return Tap(self, attempt)

    async def answer(self, question: Question, ids: list[int]) -> Exchange:
        """The exchange that answers it, when its time has come."""
        self.pending += 1
        try:
            while (place := await self._match(question)) is not None:
                play = self.plays[place]
                if play.never:
                    self.place = place + 1
                    await self._world.until(play.at + SOON_S)
                    continue
                await self._world.until(play.at, play.after)
                if question.flow == "submit":
                    await self._world.unless_lost(play.exchange)
                self.place, self.last = place + 1, play.exchange
                self.used.add(play.exchange.id)
                if play.exchange.id not in ids:
                    ids.append(play.exchange.id)
                return play.exchange
            await self._world.missing(question)
        finally:
            self.pending -= 1

    async def _match(self, question: Question) -> int | None:
        """Where the first exchange is that the question is answered from; None where there is none of its flow."""
        while isinstance(found := self._found(question), tuple):
            await self._world.asked_otherwise(question, *found)
        return found

    def _found(self, question: Question) -> int | tuple[Exchange, str] | None:
        """As `_match`; or the exchange that the question is not the one of, and where it differs."""
        otherwise: tuple[Exchange, str] | None = None
        for place in range(self.place, len(self.plays)):
            play = self.plays[place]
            one = play.exchange
            if (one.flow, one.provider, one.attempt) != (question.flow, question.provider, question.attempt):
                continue
            if play.never and self._world.now() > play.at + SOON_S:
                continue
            if one.id in self.used and self._world.now() > one.last_at + SOON_S and not self._world.awaits(one):
                continue  # of equal answers: it was another one by then
            differs = differing(one, question)
            if not differs:
                return place
            otherwise = otherwise or (one, differs)
        return otherwise

    def asked(self, attempt: int, flow: FlowName, adapter: Adapter, ask: Ask) -> Question:
        """A request, as it is looked for."""
        return question_of(attempt, flow, adapter, ask, self._bases(adapter, ask))


def question_of(attempt: int, flow: FlowName, adapter: Adapter, ask: Ask, base_url: str) -> Question:
    """What a request would be in the record."""
    heard = Heard(
        job="", attempt=attempt, flow=flow, adapter=adapter, ask=ask, result=Response(status=200), duration_s=0.0
    )
    row = dict(zip(COLUMNS, Scribe(lambda _: base_url, ()).row(heard), strict=True))
    asked = msgspec.json.decode(str(row["asked"]), type=Asked)
    return Question(adapter.name, attempt, flow, str(row["method"]), str(row["url"]), asked.body)


class Tap:
    """See `adapters.base.Tap`."""

    def __init__(self, tape: Tape, attempt: int) -> None:
        self._tape, self._attempt = tape, attempt
        self.ids: list[int] = []

    def on(self, line: Transport, flow: FlowName) -> Transport:  # noqa: ARG002 - nothing goes out
        """The tape in the place of the line."""
        return _Line(self._tape, self._attempt, flow, self.ids)


class _Line:
    """A transport that answers from the tape."""

    def __init__(self, tape: Tape, attempt: int, flow: FlowName, ids: list[int]) -> None:
        self._tape, self._attempt, self._ids = tape, attempt, ids
        self._flow: FlowName = flow

    async def send(self, adapter: Adapter, target: Target, request: Request) -> Response:  # noqa: ARG002
        """See Transport."""
        one = await self._answer(adapter, request)
        _expect_answer(one)
        return Response(status=one.status, body=content_of(one), headers=one.answered.headers)

    async def keep(self, adapter: Adapter, target: Target, ask: Keep, sink: Sink) -> AssetRef:  # noqa: ARG002
        """See Transport. The file itself is not needed: what is kept of it is in the record."""
        one = await self._answer(adapter, ask)
        _expect_answer(one)
        body = one.answered.body
        assert body is not None
        return AssetRef(body.key, body.sha256, body.size_bytes, body.media_type)

    async def _answer(self, adapter: Adapter, ask: Ask) -> Exchange:
        return await self._tape.answer(self._tape.asked(self._attempt, self._flow, adapter, ask), self._ids)


def _expect_answer(one: Exchange) -> None:
    if one.answered.fault is not None:
        raise Failed(one.answered.fault, certain=one.answered.certain)


def content_of(one: Exchange) -> bytes:
    """The body of an answer, as far as it is kept: other bytes stand for bytes."""
    body = one.answered.body
    if body is None:
        return b""
    if body.text is None:
        return b"\0"
    return (body.text if body.whole else closed(body.text)).encode()


def is_whole(one: Exchange) -> bool:
    """Whether an answer is kept as it was."""
    body = one.answered.body
    return body is None or bool(body.key) or (body.whole and body.text is not None)


# ── Matching ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def differing(one: Exchange, question: Question) -> str:
    """Where a request is not the recorded one; empty where it is."""
    if one.method != question.method:
        return "method"
    if path := unlike(one.url, question.url, "url"):
        return path
    then, now = one.asked.body, question.body
    if then is None or now is None:
        return "" if then is now else "body"
    if then.sha256 == now.sha256:
        return ""
    if not (then.whole and now.whole):
        return "" if (then.text or "")[:MATCHED] == (now.text or "")[:MATCHED] else "body"
    return unlike(body_of(then), body_of(now), "body")


MATCHED: Final = 32 * 1024  # characters of a body that is kept in part


def body_of(content: Content | None) -> JSON:
    """A symbolic body as JSON; its text where it is none."""
    if content is None or content.text is None:
        return None
    try:
        body: JSON = msgspec.json.decode(content.text)
    except msgspec.DecodeError:
        return content.text
    return body


def closed(text: str) -> str:
    """The head of a JSON text with what was open closed: a file in it is cut, and what came behind it is gone."""
    ends: list[str] = []
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "{[":
            ends.append("}" if character == "{" else "]")
        elif character in "}]" and ends:
            ends.pop()
    return text + '"' * quoted + "".join(reversed(ends))
