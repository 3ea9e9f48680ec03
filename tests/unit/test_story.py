"""What people see of a job that is played back: every fact is there, and no line is wider than the paper."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable

import pytest
from msgspec.structs import replace
from played import JOB, T0, played, with_payload

from rushes.actors import messages as m
from rushes.cli.paper import Bit, Line, Paper, cells, cut, padded, paint, paper, sentence, shortened, whole
from rushes.cli.story import (
    WORDS,
    Held,
    Story,
    after,
    brief,
    comparison_lines,
    decision_lines,
    exchange_lines,
    held_lines,
    held_row,
    lasting,
    report_lines,
    sides,
)
from rushes.faults import Fault
from rushes.flight import Run
from rushes.replay import Difference, Recording, Report, compare, timeline, verify
from rushes.replay.likeness import leaves

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
WIDE = "湖の夜明け、" * 12
PAPERS = [Paper(width, coloured) for width in (40, 80, 120) for coloured in (False, True)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def story(recording: Recording, on: Paper | None = None) -> Story:
    return Story(recording, timeline(recording), on or Paper(80))


def text(lines: Iterable[Line], on: Paper | None = None) -> str:
    return paint(lines, on or Paper(80))


def told(recording: Recording) -> list[str]:
    return text(story(recording).timeline(bodies=False)).splitlines()


# ── the timeline ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_event_is_a_line_with_its_number_its_time_and_what_it_says() -> None:
    lines = [line for line in told(played()) if re.match(r" {1,2}\d", line)]
    assert [line.split(maxsplit=3) for line in lines] == [
        ["1", "0.000", "job.requested", "text-to-video by replicate/prunaai/p-video"],
        ["2", "0.004", "submission.started", "send 1 of attempt 1, to replicate/prunaai/…"],
        ["3", "0.400", "submission.accepted", "the provider calls it p1"],
        ["4", "68.200", "progress.reported", "percent: 40"],
        ["5", "77.200", "generation.finished", "1 result"],
        ["6", "78.000", "take.stored", "take 1, video/mp4, 987.7 kB"],
        ["7", "78.000", "job.succeeded"],
    ]


def test_between_events_stands_that_the_process_ended_and_how() -> None:
    stopped = Run(began_at=T0 - 5, seen_at=T0 + 20, ended=True)
    killed = Run(began_at=T0 + 47.5, seen_at=T0 + 70, ended=False)
    last = Run(began_at=T0 + 76, seen_at=T0 + 99, ended=False)
    shown = [line.strip() for line in told(replace(played(), runs=(stopped, killed, last))) if "began again" in line]
    assert shown == [
        "·     47.500  ↻ rushes began again, 27.5 s after it was stopped",
        "·     76.000  ↻ rushes began again: it had been killed",
    ]
    assert not any("began again" in line for line in told(replace(played(), runs=(stopped,))))


def test_below_an_event_stand_its_changes_and_the_exchange_that_it_came_from() -> None:
    lines = told(played())
    place = next(place for place, line in enumerate(lines) if "submission.accepted" in line)
    assert [line.strip() for line in lines[place + 1 : place + 7]] == [
        "phase: submitting → running",
        "+ handle: {id: p1}",
        f"+ accepted_at: {brief(T0 + 0.4, 'accepted_at')}",
        f"+ deadline: {brief(T0 + 3_600.4, 'deadline')}",
        "⇄ submit POST 201, 212 ms  https://api.replicate.co…/predictions",
        "·      1.000  ⇄ status GET 200, 212 ms, ×12 in 55 s  https://api.repl…tions/p1",
    ]


def test_the_first_event_shows_the_request_and_the_last_what_is_gone() -> None:
    lines = [line.strip() for line in told(played())]
    assert "+ spec.prompt: a lake at dawn" in lines
    assert "+ route[0].price.micro_usd: 250000" in lines
    assert any(line.startswith("- sends, not_before, start_by, started") for line in lines)


def test_an_exchange_that_two_events_came_from_is_shown_once() -> None:
    lines = [line.strip() for line in told(played()) if "⇄ download" in line]
    assert [line.split("  ")[0] for line in lines] == ["⇄ download GET 200, 212 ms", "⇄ download, the same"]


def test_a_progress_that_rises_is_told_on_the_line_of_its_event() -> None:
    lines = told(played(percents=(10, 20)))
    assert [line.split(maxsplit=3)[3] for line in lines if "progress.reported" in line] == [
        "percent: 10",
        "percent: 10 → 20",
    ]


def test_bodies_are_shown_by_their_beginnings_where_asked_for() -> None:
    assert not any('"status": "starting"' in line for line in told(played()))
    assert '"status": "starting"' in text(story(played()).timeline(bodies=True))
    long = played()
    body = replace(long.exchanges[0].answered.body, text="x\n" * 40)  # type: ignore[type-var] # there is one
    exchange = replace(long.exchanges[0], answered=replace(long.exchanges[0].answered, body=body))
    lines = text(exchange_lines(exchange, Paper(80), "", 12)).splitlines()
    assert lines[-1].strip() == "… 28 more lines: --json has all"
    assert len(text(exchange_lines(exchange, Paper(80), "", None)).splitlines()) > 40


def test_a_request_without_an_answer_says_why_and_that_it_may_have_been_acted_on() -> None:
    exchange = played().exchanges[0]
    answered = replace(exchange.answered, body=None, fault=Fault("no_answer", "The line was cut."), certain=False)
    lost = replace(exchange, status=0, answered=answered)
    lines = text(exchange_lines(lost, Paper(80), "", 12)).splitlines()
    assert lines[0].startswith("⇄ submit POST no_answer, 212 ms")
    assert lines[1].strip() == "The line was cut. It may have been acted on all the same."


def test_all_about_one_event_has_its_payload_its_traffic_and_the_whole_state() -> None:
    shown = text(story(played()).everything(4))
    assert shown.startswith("event 4 of 7  progress.reported  40 %\nat ")
    for part in ("command   RecordProgress", "  attempt: 1\n  percent: 40", "content-type: application/json"):
        assert part in shown
    state = shown.partition("\nstate: running\n")[2]
    assert "  percent: 40" in state
    assert "  facts.prompt: a lake at dawn" in state


def test_a_long_value_is_cut_in_the_timeline_and_whole_in_the_state() -> None:
    prompt = "a lake " * 30
    shown = story(played(prompt))
    assert max(map(len, told(played(prompt)))) == 80
    pieces = [line.strip() for line in text(shown.state(2)).splitlines()]
    assert prompt.replace(" ", "") in "".join(pieces).replace(" ", "")


def test_every_type_of_event_that_says_more_than_its_name_has_words() -> None:
    assert set(m.TYPES.values()) - set(WORDS) == {"job.succeeded", "job.hidden"}


def test_an_event_that_says_something_else_than_expected_has_no_words() -> None:
    steps = timeline(played())
    steps[3] = replace(steps[3], type="take.lost", data={"nothing": 1}, changes=())
    shown = text(Story(played(), steps, Paper(80)).event(4)).splitlines()[0]
    assert shown.split() == ["4", "68.200", "take.lost"]


# ── paper ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("on", PAPERS, ids=str)
def test_no_line_is_wider_than_the_paper(on: Paper) -> None:
    recording = played(WIDE, tuple(range(1, 55)))
    shown = story(recording, on)
    other = played("another " * 30)
    parts = [
        shown.timeline(bodies=True),
        *(shown.everything(number) for number in (1, 2, 60)),
        comparison_lines(compare(recording, other), on),
        held_lines(held(), on),
        held_row(held(), on),
    ]
    lines = [line for part in parts for line in ESCAPES.sub("", paint(part, on)).splitlines()]
    assert len(lines) > 400
    assert [line for line in lines if cells(line) > on.width] == []


def test_colours_come_from_rich_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "72")
    assert paper(Terminal()) == Paper(72, coloured=True)
    assert paper(io.StringIO()) == Paper(72, coloured=False)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as one:
            one.setenv(name, value)
            assert not paper(Terminal()).coloured
    monkeypatch.setitem(sys.modules, "rich", None)
    assert not paper(Terminal()).coloured


def test_with_colours_the_same_is_said() -> None:
    line = [(Bit("a ", "bold"), Bit("b", "bad"), Bit("c " * 60, "dim"))]
    assert ESCAPES.sub("", paint(line, Paper(40, coloured=True))) == paint(line, Paper(40))
    assert "\x1b[31mb" in paint(line, Paper(40, coloured=True))


def test_what_others_wrote_cannot_command_the_terminal() -> None:
    evil = "\x1b]0;pwned\x07\x1b[2J"
    recording = played(evil)
    for on in PAPERS:
        shown = paint([*story(recording, on).timeline(bodies=True), *story(recording, on).everything(1)], on)
        assert "\x1b" not in ESCAPES.sub("", shown)
        assert "\x07" not in shown


def test_texts_are_cut_filled_and_folded_by_the_cells_that_they_take() -> None:
    assert (cells("湖x"), cut("湖湖湖", 5), cut("abc", 3), cut("abcd", 3)) == (3, "湖湖…", "abc", "ab…")
    assert (padded("湖", 4), padded("abcd", 3)) == ("湖  ", "ab…")
    assert shortened("https://x.example/a/long/way/clip.mp4", 20) == "https://x.exa…ip.mp4"
    folded = text(whole(Bit("  name: "), "0123456789" * 4, Paper(30)), Paper(30))
    assert folded == "  name: 0123456789012345678901\n        234567890123456789"
    alone = text(whole(Bit(f"  {'n' * 20}: "), "v" * 30, Paper(40)), Paper(40))
    assert alone.splitlines() == [f"  {'n' * 20}:", f"      {'v' * 30}"]
    assert text(sentence("one two", Paper(40), "  ")) == "  one two"


def test_times_and_values_are_short() -> None:
    assert [after(seconds) for seconds in (4.2071, 754, 3_723, 176_523)] == ["4.207", "12:34", "1:02:03", "2 d 1:02:03"]
    assert [lasting(seconds) for seconds in (0.2124, 60.0, 754)] == ["0.212 s", "60 s", "12:34"]
    value = {"a": [1, None], "b": {}, "c": {"d": True}}
    assert brief(value) == "{a: [1, null], b: {}, c: {d: true}}"
    assert dict(leaves(value)) == {"a[0]": 1, "a[1]": None, "b": {}, "c.d": True}


# ── today's code ──────────────────────────────────────────────────────────────────────────────────────────────────────


def held() -> Held:
    difference = Difference(
        version=5,
        what="Event 5 was generation.finished, and is attempt.failed today.",
        path="type",
        recorded={"type": "generation.finished", "data": {"attempt": 1, "outputs": [{"url": "https://x.example/1"}]}},
        today={"type": "attempt.failed", "data": {"attempt": 1, "fault": {"code": "generation_failed"}}},
        exchange=played().exchanges[3],
    )
    rerun = Report(job_id=JOB, verdict="diverged", events=4, exchanges=3, difference=difference)
    return Held(job_id=JOB, verdict="diverged", verify=verify(played()), rerun=rerun)


def test_where_all_is_the_same_a_check_is_one_line() -> None:
    same = Held(job_id=JOB, verdict="same", verify=verify(played()))
    assert text(held_lines(same, Paper(80))) == "verify: same  7 events compared"
    rerun = Report(job_id=JOB, verdict="same", events=7, exchanges=3, taken=1)
    assert text(report_lines("rerun", rerun, Paper(80))) == (
        "rerun: same  7 events compared, 3 exchanges played, 1 as logged"
    )


def test_where_events_are_of_another_type_both_are_shown_with_the_exchange() -> None:
    lines = [line.rstrip() for line in text(held_lines(held(), Paper(80))).splitlines()]
    assert lines[:10] == [
        "verify: same  7 events compared",
        "rerun: diverged  4 events compared, 3 exchanges played",
        "  Event 5 was generation.finished, and is attempt.failed today.",
        "  recorded  generation.finished",
        "    attempt: 1",
        "    outputs[0].url: https://x.example/1",
        "  today     attempt.failed",
        "    attempt: 1",
        "    fault.code: generation_failed",
        "  ⇄ status GET 200, 212 ms  https://api.replicate.com/v1/predictions/p1",
    ]
    assert '"status": "succeeded",' in "".join(lines[10:])
    assert text(held_row(held(), Paper(80))).splitlines() == [
        f"diverged  {JOB}",
        "          rerun: Event 5 was generation.finished, and is attempt.failed today.",
    ]


def test_where_a_value_is_another_both_stand_beside_each_other() -> None:
    old = {"type": "t", "data": {"percent": 1, "key": "k", "incarnation": "a", "url": f"https://{'x' * 70}/1"}}
    new = {"type": "t", "data": {"percent": 2, "key": "k", "incarnation": "b", "url": f"https://{'x' * 70}/2"}}
    lines = text(sides(old, new, Paper(80), "data.percent")).splitlines()
    assert [line.split() for line in lines] == [
        ["RECORDED", "TODAY"],
        ["data.percent", "1", "2"],
        ["data.url"],
        ["-", f"…{'x' * 19}/1"],  # from where they part, for the rest has no room
        ["+", f"…{'x' * 19}/2"],
    ]
    assert "incarnation" in text(sides(old, new, Paper(80), "data.incarnation"))  # unless it is what differs


def test_where_one_side_has_nothing_it_is_said() -> None:
    lines = text(sides({"type": "job.succeeded", "data": {}}, None, Paper(80))).splitlines()
    assert [line.split() for line in lines] == [["recorded", "job.succeeded"], ["today", "nothing"]]


def test_a_decision_is_told_with_what_the_log_has() -> None:
    event = {"type": "progress.reported", "data": {"attempt": 1, "percent": 40}}
    same = text(decision_lines([event], [event], Paper(80)))
    assert same.startswith("`decide` gives what the log has:\n  both      progress.reported")
    other = text(decision_lines([event], [], Paper(80)))
    assert other.startswith("`decide` does not give what the log has:\n  recorded  progress.reported")
    assert other.splitlines()[-1].split() == ["today", "nothing"]
    assert text(decision_lines([event], "KeyError: 'x'", Paper(80))).splitlines()[-1].split()[:2] == [
        "today",
        "KeyError:",
    ]


def test_control_a_changed_log_diverges() -> None:
    assert verify(with_payload(played(), 4, b'{"attempt":1,"percent":140}')).verdict == "diverged"


# ── two jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_jobs_are_told_side_by_side_by_what_differs() -> None:
    a, b = played(), replace(played("a lake at night", (10, 20, 30, 40, 50)), job_id="job_b")
    lines = [line.split() for line in text(comparison_lines(compare(a, b), Paper(100)), Paper(100)).splitlines()]
    assert lines[:2] == [["A", JOB], ["B", "job_b"]]
    for row in (
        ["spec.prompt", "a", "lake", "at", "dawn", "a", "lake", "at", "night"],
        ["job.requested", "1", "0.000", "1", "0.000"],
        ["progress.reported", "4", "68.200", "4", "68.200"],
        ["…", "2", "more", "-", "…", "2", "more"],
        ["job.succeeded", "7", "78.000", "11", "1:46"],
        ["submit", "1", "×", "201;", "0.212", "s", "1", "×", "201;", "0.212", "s"],
        ["total", "78", "s", "1:46"],
        ["actual", "0.25", "USD", "0.25", "USD"],
        ["billed", "yes", "yes"],
    ):
        assert row in lines, row


def test_two_equal_jobs_differ_in_nothing() -> None:
    shown = text(comparison_lines(compare(played(), played()), Paper(80)))
    assert not re.search(r"^ +[-+] ", shown, re.MULTILINE)
    assert "spec.prompt" not in shown
