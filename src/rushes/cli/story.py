"""What people see of a job that is played back: its timeline, where today's code parts from it; and of two jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import Struct

from rushes.cli.paper import Bit, Line, Paper, Style, cells, padded, sentence, shortened, whole
from rushes.cli.screen import clock, instant, moment, plain, size
from rushes.flight import Content, Exchange, Run
from rushes.replay import ASIDE, Change, Comparison, Difference, Recording, Report, Step, Verdict
from rushes.replay.compare import Beside, Calls, Happened, Two
from rushes.replay.likeness import leaves
from rushes.replay.timeline import plain as plain_state
from rushes.units import utc
from rushes.video import JSON

Row: TypeAlias = tuple[str, str | None, str | None]  # a name, and what both sides have; None: nothing

INDENT: Final = " " * 16  # below an event: its type begins there
HEAD_LINES: Final = 12  # of a body, where not all of it is asked for
EQUAL_PAIRS: Final = 3  # in a row, of events of one type, that are shown one by one
NOTHING: Final[tuple[object, ...]] = (None, "", (), [], {})
INSTANTS: Final = frozenset(
    {"not_before", "start_by", "deadline", "key_until", "retry_at", "accepted_at", "links_at", "since", "at"}
)
EVENTS: Final[Mapping[str, Style]] = {
    "submission.accepted": "good",
    "generation.finished": "good",
    "take.stored": "good",
    "job.succeeded": "good",
    "submission.refused": "bad",
    "submission.doubted": "bad",
    "attempt.failed": "bad",
    "take.lost": "bad",
    "job.failed": "bad",
    "job.parked": "warn",
    "cancel.requested": "warn",
    "job.cancelled": "warn",
}
PHASES: Final[Mapping[str, Style]] = {"succeeded": "good", "failed": "bad", "parked": "warn", "cancelled": "warn"}
VERDICTS: Final[Mapping[Verdict, Style]] = {"same": "good", "diverged": "bad", "cannot": "warn"}
WORDS: Final[Mapping[str, Callable[[Any], str]]] = {
    "job.requested": lambda it: f"{it['spec']['operation']['type']} by {_target(it['route'][0])}",
    "prompt.written": lambda it: it["prompt"],
    "inputs.prepared": lambda _: "what it needs is with the provider",
    "budget.reserved": lambda it: f"{it['amount']['micro_usd'] / 1e6:.4g} USD",
    "submission.started": lambda it: f"send {it['send']} of attempt {it['attempt']}, to {_target(it['target'])}",
    "submission.accepted": lambda it: f"the provider calls it {it['handle']['id']}",
    "submission.refused": lambda it: _fault(it["fault"]),
    "submission.doubted": lambda it: _fault(it["fault"]),
    "attempt.opened": lambda it: f"attempt {it['attempt']}, at {_target(it['target'])}",
    "attempt.failed": lambda it: _fault(it["fault"]),
    "progress.reported": lambda it: f"{it['percent']} %",
    "cancel.requested": lambda it: f"by {it.get('by', 'user')}",
    "cancel.answered": lambda it: it["answer"],
    "generation.finished": lambda it: many(len(it["outputs"]), "result"),
    "links.refreshed": lambda _: "new addresses of the results",
    "take.stored": lambda it: f"take {it['index'] + 1}, {it['asset']['media_type']}, {size(it['asset']['size_bytes'])}",
    "take.lost": lambda it: f"take {it['index'] + 1}: {_fault(it['fault'])}",
    "job.parked": lambda it: f"{it['reason']}; billed: {it['billed']}",
    "job.resumed": lambda it: f"the provider calls it {it['handle']['id']}",
    "job.failed": lambda it: f"{_fault(it['fault'])} (billed: {it['billed']})",
    "job.cancelled": lambda it: f"by {it.get('by', 'user')}; billed: {it['billed']}",
}
"""What an event says, by its type, out of its payload as the log has it."""


def _target(target: Mapping[str, str]) -> str:
    provider, model = target["provider"], target["model"]
    return model if model == provider else f"{provider}/{model}"


def _fault(fault: Mapping[str, str]) -> str:
    return f"{fault['code']}: {fault['detail']}"


def told(step: Step) -> str:
    """An event in words; nothing where this release does not know what it would say."""
    try:
        return WORDS[step.type](step.data)
    except (LookupError, TypeError):
        return ""


def many(count: int, noun: str) -> str:
    """1 event, 2 events."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


# ── Values ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def brief(value: object, path: str = "") -> str:
    """A value in one line. What is an instant by its name is shown as one."""
    match value:
        case str():
            return value
        case dict():
            inside = cast("dict[str, object]", value).items()
            return f"{{{', '.join(f'{name}: {brief(inner, name)}' for name, inner in inside)}}}"
        case list() | tuple():
            return f"[{', '.join(map(brief, cast('Sequence[object]', value)))}]"
        case float() if value > 1e9 and path.rpartition(".")[2] in INSTANTS:
            return moment(utc(value))
        case _:
            return msgspec.json.encode(value).decode()


def after(seconds: float) -> str:
    """How long since the beginning: 4.207, 12:34, 1:02:03, 2 d 1:02:03."""
    if seconds < 100:
        return f"{seconds:.3f}"
    days, rest = divmod(seconds, 86_400)
    return f"{days:.0f} d {clock(rest)}" if days else clock(rest)


def lasting(seconds: float) -> str:
    """How long something takes: 0.212 s, 4.207 s, 60 s, 12:34."""
    return f"{round(seconds, 3):.4g} s" if seconds < 100 else after(seconds)


# ── The timeline ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Story(Struct, frozen=True):
    """A job, and what it is shown on."""

    recording: Recording
    steps: Sequence[Step]
    on: Paper

    def timeline(self, *, bodies: bool) -> Iterator[Line]:
        """All events, what each changed, and the traffic; also the traffic that brought no event."""
        yield from self.heading()
        for number in range(1, len(self.steps) + 1):
            yield from self.event(number, bodies=bodies)

    def heading(self) -> Iterator[Line]:
        """Which job it is, how it stands, and how much there is of it."""
        steps, phase = self.steps, self.phase(len(self.steps))
        asked = sum(exchange.count for exchange in self.recording.exchanges)
        yield Bit(self.recording.job_id, "bold"), Bit("  "), Bit(phase, PHASES.get(phase, "name"))
        took = f"{many(len(steps), 'event')} in {lasting(steps[-1].at - steps[0].at)}"
        yield (Bit(f"{took}, {many(asked, 'exchange')}, begun {moment(utc(steps[0].at))}", "dim"),)
        yield ()

    def phase(self, number: int) -> str:
        """The phase after an event."""
        words = [change.new for step in self.steps[:number] for change in step.changes if change.path == "phase"]
        return str(words[-1]) if words else "new"

    def event(self, number: int, *, bodies: bool = False) -> Iterator[Line]:
        """One event: a line, and below it what it changed and what it came from."""
        step, most = self.steps[number - 1], HEAD_LINES if bodies else 0
        words, changes = told(step), [change for change in step.changes if not _is_nothing(change)]
        if len(changes) == 1 and (alone := _plain_change(changes[0])):
            words, changes = alone, []  # which says the same, and what it was
        yield (
            Bit(f"{number:>3}  {self._after(step.at):>9}  ", "dim"),
            Bit(f"{step.type:<19}", EVENTS.get(step.type, "name")),
            Bit(f"  {words}"),
        )
        yield from _request(step) if number == 1 else _changed(changes)
        shown = self.steps[number - 2].exchanges if number > 1 else ()
        for exchange in step.exchanges:
            if exchange in shown:
                yield (Bit(f"{INDENT}⇄ {exchange.flow}, the same", "dim"),)
            else:
                yield from exchange_lines(exchange, self.on, INDENT, most)
        beside = [(one.at, one) for one in self.without_event(number)] + [(r.began_at, r) for r in self._begun(number)]
        for at, one in sorted(beside, key=lambda entry: entry[0]):
            first = f"  ·  {self._after(at):>9}  "
            if isinstance(one, Exchange):
                yield from exchange_lines(one, self.on, first, most)
            else:
                yield Bit(first, "dim"), Bit(f"↻ rushes began again{self._pause(one)}", "warn")

    def _begun(self, number: int) -> Iterator[Run]:
        """The processes that began after an event and before the next."""
        begin, end = self._span(number)
        for run in self.recording.runs:
            if self.steps[0].at < run.began_at and begin <= run.began_at < end:
                yield run

    def _pause(self, run: Run) -> str:
        """How the process before it ended."""
        before = next((one for one in reversed(self.recording.runs) if one.began_at < run.began_at), None)
        if before is None or not before.ended:
            return ": it had been killed"
        return f", {lasting(run.began_at - before.seen_at)} after it was stopped"

    def _span(self, number: int) -> tuple[float, float]:
        begin = self.steps[number - 1].at if number > 1 else float("-inf")
        return begin, self.steps[number].at if number < len(self.steps) else float("inf")

    def without_event(self, number: int) -> Iterator[Exchange]:
        """The traffic after an event and before the next that no event was told from."""
        told_from = {exchange.id for step in self.steps for exchange in step.exchanges}
        begin, end = self._span(number)
        for exchange in self.recording.exchanges:
            if exchange.id not in told_from and begin <= exchange.at < end:
                yield exchange

    def _after(self, at: float) -> str:
        return after(at - self.steps[0].at)

    def everything(self, number: int) -> Iterator[Line]:
        """All about one event: its payload, its traffic with bodies, and the whole state after it."""
        step = self.steps[number - 1]
        yield (
            Bit(f"event {number} of {len(self.steps)}  ", "dim"),
            Bit(step.type, EVENTS.get(step.type, "name")),
            Bit(f"  {told(step)}"),
        )
        began = self.steps[0].at
        yield from whole(Bit("at        ", "dim"), f"{instant(utc(step.at))}, {lasting(step.at - began)}", self.on)
        yield from whole(Bit("command   ", "dim"), step.command or "(the log does not say)", self.on)
        yield from self._part("payload", leaves(step.data))
        if number > 1:
            yield from (_title("changes"), *_changed(step.changes, "  "))
        yield from self.traffic(number)
        yield from self.state(number)

    def traffic(self, number: int) -> Iterator[Line]:
        """What an event came from, with all that is kept of it."""
        exchanges = self.steps[number - 1].exchanges
        yield _title("traffic" if exchanges else "traffic: none that is kept")
        for exchange in exchanges:
            yield from exchange_lines(exchange, self.on, "  ", None)

    def state(self, number: int) -> Iterator[Line]:
        """The whole state after an event."""
        yield from self._part(f"state: {self.phase(number)}", leaves(plain_state(self.steps[number - 1].after)))

    def _part(self, title: str, values: Iterable[tuple[str, object]]) -> Iterator[Line]:
        yield _title(title)
        for path, value in values:
            yield from whole(Bit(f"  {path}: ", "name"), brief(value, path), self.on)


def _title(text: str) -> Line:
    return (Bit(text, "bold"),)


def _is_nothing(change: Change) -> bool:
    return change.old in NOTHING and change.new in NOTHING


def _plain_change(change: Change) -> str:
    """One plain value that came in the place of another; empty where it is more."""
    path, sides = _path(change), (change.old, change.new)
    if change.new in NOTHING or any(isinstance(side, dict | list | tuple) for side in sides):
        return ""
    old = "" if change.old in NOTHING else f"{brief(change.old, path)} → "
    return f"{path}: {old}{brief(change.new, path)}"


def _path(change: Change) -> str:
    return change.path.removeprefix("job.")


def _request(step: Step) -> Iterator[Line]:
    for path, value in leaves(step.data):
        yield Bit(f"{INDENT}+ {path}: ", "good"), Bit(brief(value, path))


def _changed(changes: Iterable[Change], indent: str = INDENT) -> Iterator[Line]:
    """What is new, what is another, and last the names of what is gone."""
    gone: list[str] = []
    for change in changes:
        path = _path(change)
        if change.new in NOTHING:
            gone += [path] if change.old not in NOTHING else []
        elif change.old in NOTHING:
            yield Bit(f"{indent}+ {path}: ", "good"), Bit(brief(change.new, path))
        else:
            old, new = brief(change.old, path), brief(change.new, path)
            yield Bit(f"{indent}  {path}: "), Bit(old, "dim"), Bit(" → "), Bit(new, PHASES.get(new, ""))
    if gone:
        yield (Bit(f"{indent}- {', '.join(gone)}", "dim"),)


# ── Traffic ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def exchange_lines(exchange: Exchange, on: Paper, first: str, most: int | None) -> Iterator[Line]:
    """A request and its answer: one line, and of their bodies at most so many lines each; None: all."""
    fault, worth = exchange.answered.fault, exchange.answered.worth
    outcome = fault.code if fault else f"{exchange.status} {worth}" if worth else str(exchange.status)
    times = f", ×{exchange.count} in {lasting(exchange.last_at - exchange.at)}" if exchange.count > 1 else ""
    line = (
        Bit(first, "dim"),
        Bit(f"⇄ {exchange.flow} {exchange.method} ", "dim"),
        Bit(outcome, "bad" if fault or exchange.status >= 400 else "good"),
        Bit(f", {exchange.duration_ms:.0f} ms{times}  ", "dim"),
    )
    room = on.width - sum(cells(bit.text) for bit in line)
    yield *line, Bit(shortened(exchange.url, room), "dim")
    if most == 0:
        return
    indent = " " * (cells(first) + 2)
    if fault:
        doubt = "" if exchange.answered.certain else " It may have been acted on all the same."
        yield from sentence(f"{fault.detail}{doubt}", on, indent)
    for name, said in (("asked", exchange.asked), ("answered", exchange.answered)):
        headers = said.headers if most is None else {}
        if not headers and said.body is None:
            continue
        yield Bit(f"{indent}{name}  ", "name"), Bit(_about(said.body), "dim")
        for header, value in headers.items():
            yield from whole(Bit(f"{indent}  {header}: ", "dim"), value, on)
        yield from _body_lines(said.body, on, f"{indent}  ", most)


def _about(body: Content | None) -> str:
    if body is None:
        return ""
    facts = [body.media_type, size(body.size_bytes)]
    facts += [f"only its sha256 is kept, {body.sha256[:12]}…"] if body.text is None else []
    facts += ["its beginning is kept"] if body.text is not None and not body.whole else []
    return ", ".join(fact for fact in facts if fact)


def _body_lines(body: Content | None, on: Paper, indent: str, most: int | None) -> Iterator[Line]:
    lines = _laid_out(body.text).splitlines() if body and body.text else []
    for line in lines[:most]:
        yield from whole(Bit(indent), line, on) if most is None else [(Bit(f"{indent}{line}"),)]
    if most is not None and len(lines) > most:
        yield (Bit(f"{indent}… {many(len(lines) - most, 'more line')}: --json has all", "dim"),)


def _laid_out(text: str) -> str:
    try:
        return msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return text


# ── Today's code beside the recording ─────────────────────────────────────────────────────────────────────────────────


def report_lines(check: str, report: Report, on: Paper) -> Iterator[Line]:
    """How a check came out: one line where all is the same, else both sides and what they come from."""
    played = f", {many(report.exchanges, 'exchange')} played" if report.exchanges else ""
    taken = f", {report.taken} as logged" if report.taken else ""
    counts = f"  {many(report.events, 'event')} compared{played}{taken}"
    yield Bit(f"{check}: ", "bold"), Bit(report.verdict, VERDICTS[report.verdict]), Bit(counts, "dim")
    if report.why:
        yield from sentence(report.why, on, "  ")
    if report.difference:
        yield from _difference(report.difference, on)


def _difference(difference: Difference, on: Paper) -> Iterator[Line]:
    yield from sentence(difference.what, on, "  ")
    yield from sides(difference.recorded, difference.today, on, difference.path)
    if difference.exchange:
        yield from exchange_lines(difference.exchange, on, "  ", 3 * HEAD_LINES)


def sides(recorded: JSON, today: JSON, on: Paper, path: str = "") -> Iterator[Line]:
    """What the log has, and what comes of it today: where both are alike side by side, else one below the other.

    `path` is where they differ first. What a re-run does not compare is left out.
    """
    if _kind(recorded) is None or _kind(recorded) != _kind(today):
        yield from _side("recorded", recorded, on)
        yield from _side("today", today, on)
        return
    old, new = dict(leaves(recorded)), dict(leaves(today))
    names = [name for name in {**old, **new} if name not in old or name not in new or old[name] != new[name]]
    names = [name for name in names if name == path or name.removeprefix("data.") not in ASIDE]
    rows = [(name, brief_or_none(old.get(name), name), brief_or_none(new.get(name), name)) for name in names]
    yield from beside(("", "RECORDED", "TODAY"), rows, on)


def _kind(side: JSON) -> object:
    """What makes two sides comparable field by field: they are events of one type, or both are requests."""
    return (side.get("type"), *sorted(side)) if isinstance(side, dict) else None


def _side(name: str, side: JSON, on: Paper) -> Iterator[Line]:
    if not isinstance(side, dict):
        yield from whole(Bit(f"  {name:<8}  ", "dim"), "nothing" if side is None else brief(side), on)
        return
    values = [*leaves(side.get("data", side))]
    yield Bit(f"  {name:<8}  ", "dim"), Bit(str(side.get("type", "")), "bold")
    for path, value in values[:HEAD_LINES]:
        yield Bit(f"    {path}: ", "name"), Bit(brief(value, path))
    if len(values) > HEAD_LINES:
        yield (Bit(f"    … {len(values) - HEAD_LINES} more: --json has all", "dim"),)


def decision_lines(recorded: Sequence[JSON], today: JSON, on: Paper) -> Iterator[Line]:
    """What the log has of a decision, and what `decide` gives today: events, or words about what it raises."""
    same = recorded == today
    words = "`decide` gives what the log has:" if same else "`decide` does not give what the log has:"
    yield (Bit(words, "good" if same else "bad"),)
    now = today if isinstance(today, list) else [today]
    for old, new in zip_longest(recorded, now):
        yield from _side("both", old, on) if old == new else sides(old, new, on)


def brief_or_none(value: object, path: str = "") -> str | None:
    """A value in one line; None where there is nothing."""
    return None if value is None else brief(value, path)


def beside(head: Row, rows: Iterable[Row], on: Paper) -> Iterator[Line]:
    """A table of two sides. Where a row has no room, its sides stand below its name, from where they differ."""
    named = on.width // 4
    room = (on.width - named - 6) // 2
    yield tuple(
        Bit(padded(text or "", width), "bold") for text, width in zip(head, (named + 4, room + 2, room), strict=True)
    )
    for name, a, b in rows:
        style: Style = "" if a == b else "warn"
        fits = max(cells(a or ""), cells(b or "")) <= room
        if cells(name) > named or not fits:
            yield (Bit(f"  {name}", style),)
            name = ""  # noqa: PLW2901 - it has been told
        if fits:
            columns = padded(name, named), padded("-" if a is None else a, room), "-" if b is None else b
            yield Bit(f"  {columns[0]}  ", style), Bit(f"{columns[1]}  "), Bit(columns[2])
        else:
            yield from ((Bit(f"    {mark} ", style), Bit(text)) for mark, text in _parting(a, b, on.width - 6))


def _alike(a: str, b: str) -> int:
    """How many letters both begin with."""
    return next(
        (place for place, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b))
    )


def _parting(a: str | None, b: str | None, room: int) -> Iterator[tuple[str, str]]:
    """Both texts; where one has no room, from a little before the place where they part."""
    texts = plain(a or "nothing"), plain(b or "nothing")
    skipped = max(0, _alike(*texts) - 20) if max(map(cells, texts)) > room else 0
    for mark, text in zip("-+", texts, strict=True):
        yield mark, f"…{text[skipped:]}" if skipped else text


class Held(Struct, frozen=True, kw_only=True):
    """A job that was held against today's code. A check that was not asked for is None."""

    job_id: str
    verdict: Verdict  # the worse one
    verify: Report | None = None
    rerun: Report | None = None


def held_lines(held: Held, on: Paper) -> Iterator[Line]:
    """Both checks of one job."""
    for check, report in checks(held):
        yield from report_lines(check, report, on)


def checks(held: Held) -> Iterator[tuple[str, Report]]:
    """The checks that were asked for, with their names."""
    for name, report in (("verify", held.verify), ("rerun", held.rerun)):
        if report is not None:
            yield name, report


def held_row(held: Held, on: Paper) -> Iterator[Line]:
    """A job among others: its verdict, and what each check found."""
    yield Bit(f"{held.verdict:<10}", VERDICTS[held.verdict]), Bit(held.job_id, "bold")
    for check, report in checks(held):
        if report.verdict != "same":
            why = report.difference.what if report.difference else report.why
            yield from sentence(f"{check}: {why}", on, " " * 10)


# ── Two jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def comparison_lines(told: Comparison, on: Paper) -> Iterator[Line]:
    """Two jobs side by side."""
    yield Bit("A  ", "bold"), Bit(told.a)
    yield Bit("B  ", "bold"), Bit(told.b)
    yield from _table("REQUEST", [(two.name, brief_or_none(two.a), brief_or_none(two.b)) for two in told.requests], on)
    yield (Bit(f"  {many(told.same_fields, 'field')} the same", "dim"),)
    yield from _table("EVENTS", list(_pairs(told.events)), on)
    flows = [(flow.name, _calls(flow.a), _calls(flow.b)) for flow in told.exchanges]
    yield from _table("TRAFFIC", flows, on)
    yield from _table("TIMES", [(two.name, _seconds(two.a), _seconds(two.b)) for two in told.times], on)
    yield from _table("COSTS", [_cost(two) for two in told.costs], on)


def _table(title: str, rows: Sequence[Row], on: Paper) -> Iterator[Line]:
    yield ()
    yield from beside((title, "A", "B"), [row for row in rows if row[1] is not None or row[2] is not None], on)


def _pairs(events: Sequence[Beside]) -> Iterator[Row]:
    """Events beside each other; of many equal pairs in a row the first and the last."""
    for _, group in groupby(events, lambda one: (one.a and one.a.type, one.b and one.b.type)):
        pairs = list(group)
        if len(pairs) <= EQUAL_PAIRS:
            yield from map(_pair, pairs)
        else:
            between = f"… {len(pairs) - 2} more"
            yield _pair(pairs[0])
            yield between, between if pairs[0].a else None, between if pairs[0].b else None
            yield _pair(pairs[-1])


def _pair(pair: Beside) -> Row:
    either = pair.a or pair.b
    return either.type if either else "", _happened(pair.a), _happened(pair.b)


def _happened(event: Happened | None) -> str | None:
    return f"{event.version:>3}  {after(event.after_s):>9}" if event else None


def _calls(calls: Calls) -> str | None:
    if not calls.count:
        return None
    statuses = ", ".join(f"{count} × {status}" for status, count in calls.statuses.items())
    return f"{statuses}; {lasting(calls.total_ms / 1000)}"


def _seconds(value: JSON) -> str | None:
    return lasting(value) if isinstance(value, float | int) else None


def _cost(two: Two) -> Row:
    if two.name not in {"max", "actual"}:
        return two.name, brief_or_none(two.a), brief_or_none(two.b)
    return two.name, _usd(two.a), _usd(two.b)


def _usd(micro_usd: JSON) -> str | None:
    return f"{micro_usd / 1e6:.4g} USD" if isinstance(micro_usd, int) else None
