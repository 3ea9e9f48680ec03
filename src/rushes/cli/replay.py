"""The verbs that play jobs back, and hand them on. They read files, also beside a server, and write none of its log.

As in `upkeep` they block the loop on purpose: nothing else runs in it, and so Ctrl-C ends them at once.
"""

from __future__ import annotations

import pdb  # noqa: T100 - `--break` is for it
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from rushes.adapters.base import Adapter
from rushes.cli.arguments import Asked, Exit
from rushes.cli.paper import Line, paint, paper, sentence
from rushes.cli.screen import Screen, size
from rushes.cli.story import Held, Story, comparison_lines, decision_lines, held_lines, held_row, many
from rushes.cli.upkeep import interruptible
from rushes.faults import NotFound, RushesError, Unreadable, bad
from rushes.flight import Exchange, Run
from rushes.main import Settings, installed_adapters, with_models
from rushes.replay import (
    Change,
    Recording,
    Report,
    Step,
    Verdict,
    compare,
    import_file,
    load,
    load_all,
    read_file,
    rerun,
    timeline,
    verify,
    write_cassette,
    write_file,
)
from rushes.replay.export import ENDING
from rushes.replay.moment import Cannot, decide, moment
from rushes.replay.timeline import plain
from rushes.video import JSON

EXITS: Final[Mapping[Verdict, Exit]] = {"same": Exit.OK, "diverged": Exit.FAILED, "cannot": Exit.BAD_INPUT}
AGE: Final = re.compile(r"(\d{1,6})([smhdw])")
UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
NEWS_S: Final = 5.0  # between two notes on how far --all is
KEYS: Final = "Enter: next, p: back, a number: go there, e: traffic, s: state, q: leave"
DEBUGGER: Final = (
    "This is the first line of `decide`, asked as it was at event {version}. `args` shows the command, the state "
    "(`job`) and the time (`now`); `n` goes a line on, `s` into a call, `c` to the end, `q` leaves."
)


class Shown(Struct, frozen=True, kw_only=True):
    """An event in the JSON document."""

    version: int
    at: float
    type: str
    command: str
    data: JSON
    phase: str  # after it
    changes: tuple[Change, ...]
    exchanges: tuple[Exchange, ...]


class Document(Struct, frozen=True, kw_only=True):
    """A job in the JSON document; with `--at` one event of it, and the state after that."""

    job_id: str
    source: str
    versions: Mapping[str, str]
    events: list[Shown]
    other_exchanges: list[Exchange]  # that no event was told from
    runs: tuple[Run, ...]  # the processes that did its work, as far as they are known
    state: JSON = None


async def replay(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Play a job back; or hold it, or every job, against today's code."""
    _check(asked)
    with interruptible():
        if asked.all_jobs:
            return _all(asked, settings, screen)
        if asked.verify or asked.rerun:
            return _held(asked, settings, screen)
        recording = _recording(asked.job, settings)
        story = Story(recording, timeline(recording), paper(sys.stdout))
        return _played(asked, story, screen)


def _check(asked: Asked) -> None:
    """What goes together. Raises BadRequest."""
    if bool(asked.job) == asked.all_jobs:
        raise bad("", "Name one JOB, or the FILE of one, or say --all. See: rushes replay --help")
    modes = {
        "--step": asked.step,
        "--at": asked.at is not None and not asked.step,
        "--break": asked.break_at is not None,
        "--all": asked.all_jobs,
        "--verify and --rerun": (asked.verify or asked.rerun) and not asked.all_jobs,
    }
    given = [mode for mode, on in modes.items() if on]
    if len(given) > 1:
        raise bad("", f"{', '.join(given)} do not go together: ask for one of them.")
    if asked.json and (asked.step or asked.break_at is not None):
        raise bad("json", f"{given[0]} is for people: leave one of the two out.")
    if asked.since is not None and not asked.all_jobs:
        raise bad("since", "It chooses among all jobs: say --all as well.")
    if asked.bodies and (given not in ([], ["--step"]) or asked.json):
        raise bad("bodies", "Only the timeline leaves bodies out unless it is told to show them.")


def _recording(word: str, settings: Settings) -> Recording:
    """A job by its id, or out of a file. Raises BadRequest about the file."""
    if not word.endswith(ENDING) and not Path(word).is_file():
        return load(settings.folder, word)
    return _out_of(word)


def _out_of(file: str) -> Recording:
    try:
        return read_file(Path(file))
    except (NotFound, Unreadable) as error:
        raise bad("file", error.detail) from error


# ── Looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _played(asked: Asked, story: Story, screen: Screen) -> Exit:
    for field, number in (("at", asked.at), ("break_at", asked.break_at)):
        if number is not None and not 1 <= number <= len(story.steps):
            raise bad(
                field, f"{story.recording.job_id} has {many(len(story.steps), 'event')}: give 1 to {len(story.steps)}."
            )
    if asked.step:
        _stepped(asked, story, screen)
    elif asked.break_at is not None:
        _broken(asked.break_at, story, screen)
    elif asked.at is not None:
        screen.result(_document(story, asked.at), paint(story.everything(asked.at), story.on))
    else:
        screen.result(_document(story, None), paint(story.timeline(bodies=asked.bodies), story.on))
    return Exit.OK


def _document(story: Story, number: int | None) -> Document:
    numbers = range(1, len(story.steps) + 1) if number is None else [number]
    return Document(
        job_id=story.recording.job_id,
        source=story.recording.source,
        versions=story.recording.versions,
        events=[_shown(story.steps[one - 1], story.phase(one)) for one in numbers],
        other_exchanges=[exchange for one in numbers for exchange in story.without_event(one)],
        runs=story.recording.runs,
        state=None if number is None else plain(story.steps[number - 1].after),
    )


def _shown(step: Step, phase: str) -> Shown:
    fields = {name: getattr(step, name) for name in Shown.__struct_fields__ if name != "phase"}
    return Shown(**fields, phase=phase)


def _stepped(asked: Asked, story: Story, screen: Screen) -> None:
    """One event after the other, as somebody asks for them."""
    ask, number, last = _asking(screen), asked.at or 1, len(story.steps)

    def show(lines: Iterable[Line]) -> None:
        screen.result(None, paint(lines, story.on))

    show([*story.heading(), *story.event(number, bodies=asked.bodies)])
    while (answer := ask(f"[{number}/{last}] ")) != "q":
        if answer == "e":
            show(story.traffic(number))
        elif answer == "s":
            show(story.state(number))
        elif (wanted := _wanted(answer, number)) is None:
            screen.result(None, KEYS)
        elif not 1 <= wanted <= last:
            screen.result(None, f"There are events 1 to {last}.")
        else:
            number = wanted
            show(story.event(number, bodies=asked.bodies))


def _wanted(answer: str, number: int) -> int | None:
    """The event that an answer asks for; None where it asks for none."""
    if answer in {"", "n"}:
        return number + 1
    if answer == "p":
        return number - 1
    return int(answer) if answer.isascii() and answer.isdecimal() else None


def _asking(screen: Screen) -> Callable[[str], str]:
    """What gets the next answer, and `q` where there are no more. Raises BadRequest where nobody can answer."""
    if sys.stdin.isatty():
        screen.note(KEYS)
        return _typed
    answers = sys.stdin.read().splitlines()
    if not answers:
        raise bad("step", "Nobody is there to answer: run it in a terminal, or pipe the answers in, a line each.")
    piped = iter(answers)

    def ask(prompt: str) -> str:
        answer = next(piped, "q").strip()
        screen.result(None, f"{prompt}{answer}")
        return answer

    return ask


def _typed(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        return "q"


def _broken(number: int, story: Story, screen: Screen) -> None:
    """Stop inside `decide`; then say what came of it, and what the log has."""
    try:
        there = moment(story.recording, number)
    except Cannot as cannot:
        raise bad("break_at", str(cannot)) from cannot
    screen.result(None, paint(sentence(DEBUGGER.format(version=number), story.on), story.on))
    with suppress(Exception):  # it is told below
        pdb.Pdb(nosigint=True).runcall(decide, there.command, there.state, there.now)
    screen.result(None, paint(decision_lines(there.recorded(), there.today(), story.on), story.on))


# ── Today's code ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _held(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """One job against today's code."""
    try:
        held = _hold(_recording(asked.job, settings), asked, _adapters(settings))
    except Unreadable as error:
        held = _cannot(asked, asked.job, error)
    screen.result(held, paint(held_lines(held, paper(sys.stdout)), paper(sys.stdout)))
    return EXITS[held.verdict]


def _adapters(settings: Settings) -> Mapping[str, Adapter]:
    return with_models(installed_adapters(), settings.models)


def _hold(recording: Recording, asked: Asked, adapters: Mapping[str, Adapter]) -> Held:
    """Both checks, or the one that was asked for."""
    both = not asked.verify and not asked.rerun
    return _both(
        recording.job_id,
        verify(recording) if asked.verify or both else None,
        rerun(recording, adapters) if asked.rerun or both else None,
    )


def _cannot(asked: Asked, job_id: str, error: RushesError) -> Held:
    report = Report(job_id=job_id, verdict="cannot", events=0, why=error.detail)
    return _both(job_id, report if asked.verify else None, report if asked.rerun else None)


def _both(job_id: str, verified: Report | None, rerun: Report | None) -> Held:
    verdicts: set[Verdict] = {report.verdict for report in (verified, rerun) if report}
    return Held(job_id=job_id, verdict=_worst(verdicts), verify=verified, rerun=rerun)


def _worst(verdicts: Container[Verdict]) -> Verdict:
    return "diverged" if "diverged" in verdicts else "cannot" if "cannot" in verdicts else "same"


def _all(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Every job of the folder, one after the other; people are told of those that are not the same."""
    since, adapters, on = instant_of(asked.since, time.time()), _adapters(settings), paper(sys.stdout)
    counts: Counter[Verdict] = Counter()
    news_at = time.monotonic() + NEWS_S
    for recording in load_all(settings.folder, since):
        held = _hold(recording, asked, adapters)
        counts[held.verdict] += 1
        if asked.json or held.verdict != "same":
            screen.result(held, paint(held_row(held, on), on))
        if time.monotonic() >= news_at:
            screen.note(f"{many(counts.total(), 'job')} so far")
            news_at = time.monotonic() + NEWS_S
    if not asked.json:
        screen.result(None, ", ".join([many(counts.total(), "job"), *(f"{n} {word}" for word, n in counts.items())]))
    return EXITS[_worst(counts)]


def instant_of(text: str | None, now: float) -> float:
    """What `--since` says, in seconds since 1970: a date, a date and time, or an age. Raises BadRequest.

    A time without a zone is in the reader's own.
    """
    if text is None:
        return 0.0
    if age := AGE.fullmatch(text):
        return now - int(age[1]) * UNITS_S[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        told = "a date (2026-11-01), a date and time (2026-11-01T12:00, 2026-11-01T12:00Z) or an age (30m, 12h, 7d)"
        raise bad("since", f"{text!r} is no instant: give {told}.") from error


# ── Handing on ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def export(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Write a job into one file; or its traffic as a cassette, with a test beside it."""
    recording, output = _recording(asked.job, settings), Path(asked.output or "").absolute()
    if asked.cassette:
        tape, test = write_cassette(recording, output, _adapters(settings))
        made = {"job_id": recording.job_id, "cassette": str(tape), "test": str(test)}
        screen.result(made, f"{tape}\n{test}")
        screen.note(f"To play it: {shlex.join(['python', '-m', 'pytest', str(test)])}")
    else:
        write_file(recording, output)
        size_bytes = output.stat().st_size
        written = {"job_id": recording.job_id, "file": str(output), "size_bytes": size_bytes}
        screen.result(written, f"{output}: {size(size_bytes)}")
    screen.note("It has the prompt and what the provider said; no key, no signature of an address, and no video.")
    return Exit.OK


async def import_(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Keep a job that somebody else exported beside the log, to look at it."""
    try:
        recording = import_file(Path(asked.file or ""), settings.folder, overwrite=asked.replace)
    except (NotFound, Unreadable) as error:
        raise bad("file", error.detail) from error
    screen.result({"job_id": recording.job_id, "file": recording.source}, recording.job_id)
    screen.note(f"It is kept to be looked at, and never runs: rushes replay {recording.job_id}")
    return Exit.OK


async def diff(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Two jobs side by side."""
    told = compare(_recording(asked.job, settings), _recording(asked.other, settings))
    screen.result(told, paint(comparison_lines(told, paper(sys.stdout)), paper(sys.stdout)))
    return Exit.OK
