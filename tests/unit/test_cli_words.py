"""The command line's pure parts: words in, exit codes and plain text out."""

from __future__ import annotations

import io
import shutil
from typing import get_args

import msgspec
import pytest

from rushes.cli.arguments import EXIT_CODES, Asked, Exit, parse
from rushes.cli.entry import complain
from rushes.cli.screen import (
    Progress,
    Screen,
    aligned,
    clock,
    estimate_sheet,
    instant,
    job_sheet,
    jobs_table,
    plain,
    progress_line,
    size,
    usual_s,
)
from rushes.cli.verbs import _finish
from rushes.eventstore.base import StoreUnavailable
from rushes.faults import BadRequest, Code, Conflict, Fault, FolderInUse, NotFound, RushesError, bad
from rushes.units import Money, utc
from rushes.video import Batch, EstimateView, FaultView, JobView, TextToVideo, VideoSpec

RUNNING = JobView(
    id="job_1",
    status="running",
    phase="running",
    version=4,
    operation="text-to-video",
    provider="local",
    model="local",
    prompt="a lake",
    request=VideoSpec(operation=TextToVideo()),
    created_at=utc(1_000.0),
    updated_at=utc(1_001.0),
    attempt=1,
    progress=50,
    eta_seconds=12.0,
    cancel_requested=False,
    attention="",
    note="",
    billed="unknown",
    cost=None,
    error=None,
    takes=[],
    missing=0,
    age_seconds=0.0,
)


def changed(**fields: object) -> JobView:
    return msgspec.convert(msgspec.structs.asdict(RUNNING) | fields, JobView)


def screen(*, as_json: bool = False) -> tuple[Screen, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Screen(out, err, as_json=as_json), out, err


# ── what is asked ──


@pytest.mark.parametrize("words", [["--data", "d", "--json", "list"], ["list", "--data", "d", "--json"]])
def test_common_options_stand_before_or_behind_the_verb(words: list[str]) -> None:
    assert parse(words) == Asked(verb="list", data="d", json=True)


def test_what_stands_behind_the_verb_wins() -> None:
    assert parse(["--data", "a", "show", "job_1", "--data", "b"]).data == "b"


def test_every_option_of_list_arrives() -> None:
    words = (
        "list --status failed --phase p --provider x --model m --batch b --sort updated --order asc --after z --limit 3"
    )
    assert parse(words.split()) == Asked(
        verb="list",
        status="failed",
        phase="p",
        provider="x",
        model="m",
        batch="b",
        sort="updated",
        order="asc",
        after="z",
        limit=3,
    )


def test_every_option_of_generate_arrives() -> None:
    words = (
        "generate lake --model m --duration 2.5 --aspect-ratio 1:1 --resolution hd --fps 8 --seed 7 --negative-prompt n"
    )
    files = (
        "--image f.png --last-frame l.png --video v.mp4 --narration n.mp3 --input style=s.png --input character=c.png"
    )
    more = f"--audio {files} --operation extend --emulate negative_prompt --idempotency-key k --no-wait -o out.mp4"
    more += " --scene hug --say hello --voice v"
    assert parse(f"{words} {more}".split()) == Asked(
        verb="generate",
        prompt="lake",
        model="m",
        duration=2.5,
        aspect_ratio="1:1",
        resolution="hd",
        fps=8.0,
        seed=7,
        negative_prompt="n",
        audio=True,
        image="f.png",
        last_frame="l.png",
        video="v.mp4",
        narration="n.mp3",
        input=["style=s.png", "character=c.png"],
        operation="extend",
        scene="hug",
        say="hello",
        voice="v",
        emulate=["negative_prompt"],
        idempotency_key="k",
        no_wait=True,
        output="out.mp4",
    )


def test_every_option_of_batch_arrives() -> None:
    words = ["batch", "-", "--no-wait", "--idempotency-key", "k", "--json"]
    assert parse(words) == Asked(verb="batch", file="-", no_wait=True, idempotency_key="k", json=True)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["film"],
        ["batch"],
        ["show"],
        ["list", "--status", "odd"],
        ["generate", "x", "--seed", "a"],
        ["list", "--lim", "3"],
    ],
)
def test_a_wrong_command_line_is_one_sentence(words: list[str]) -> None:
    with pytest.raises(BadRequest, match=r"^[A-Z].*See: rushes.*--help$"):
        parse(words)


# ── how it ends ──


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (bad("prompt", "empty"), 2),
        (NotFound(), 3),
        (Conflict(), 4),
        (FolderInUse("d", 7, "http://x"), 7),
        (StoreUnavailable("The disk is full."), 7),
        (RuntimeError("odd"), 70),
    ],
)
def test_errors_have_their_exit_codes(error: Exception, code: int) -> None:
    shown, out, err = screen()
    assert complain(error, shown) == code
    assert out.getvalue() == ""
    assert err.getvalue().startswith("rushes: ")
    assert err.getvalue().count("\n") == 1


def test_every_code_of_an_error_has_an_exit_code_that_help_explains() -> None:
    for code in get_args(Code):
        error = RushesError("It is so.")
        error.code = code
        assert f"{complain(error, screen()[0]):>5}  " in EXIT_CODES
    assert all(f"{code:>5}  " in EXIT_CODES for code in Exit)


def test_every_wrong_field_has_its_line_and_its_option() -> None:
    shown, _, err = screen()
    complain(
        BadRequest([Fault("invalid_input", "Too long.", field="duration_seconds"), Fault("conflict", "No.")]), shown
    )
    assert err.getvalue() == "rushes: --duration: Too long.\nrushes: No.\n"


def test_with_json_an_error_is_an_object() -> None:
    shown, _, err = screen(as_json=True)
    complain(NotFound("There is no job x.", job_id="x"), shown)
    told = {"code": "not_found", "detail": "There is no job x.", "job_id": "x", "billed": "no"}
    assert msgspec.json.decode(err.getvalue()) == told


@pytest.mark.parametrize(
    ("view", "code", "told"),
    [
        (changed(status="succeeded", phase="succeeded"), 0, ""),
        (
            changed(status="failed", phase="failed", error=FaultView(code="moderated", detail="No."), billed="no"),
            1,
            "rushes: No.\n",
        ),
        (changed(status="cancelled", phase="cancelled"), 5, ""),
        (
            changed(phase="parked", attention="Nobody knows."),
            6,
            "rushes: Nobody knows. A person has to decide (billed: unknown).\n",
        ),
    ],
)
def test_how_a_job_ended_is_the_exit_code(view: JobView, code: int, told: str) -> None:
    shown, out, err = screen()
    assert _finish(view, shown) == code
    assert out.getvalue() == f"job_1 {view.phase}\n"
    assert err.getvalue() == told


# ── what is seen ──


def test_progress_shows_phase_percent_elapsed_and_time_left() -> None:
    line = progress_line(RUNNING, now=1_065.0)
    assert line == "running    [############............]  50 %  1:05 elapsed, 0:12 left"
    assert progress_line(changed(progress=None), now=1_001.0).split() == ["running", "0:01", "elapsed"]


def test_progress_knows_how_long_such_jobs_took_and_what_this_one_may_cost() -> None:
    paid = changed(estimate=Money(400_000))
    assert progress_line(paid, 1_065.0, usual_s=90.0).endswith("1:05 elapsed, 0:25 left, at most 0.4 USD")
    assert progress_line(paid, 1_095.0, usual_s=90.0).endswith("1:35 elapsed, 0:12 left, at most 0.4 USD")  # its own
    ended = changed(status="succeeded", phase="succeeded", cost=Money(350_000), estimate=Money(400_000))
    assert progress_line(ended, 1_065.0, usual_s=90.0).endswith("1:05 elapsed, 0.35 USD")
    waits = progress_line(changed(progress=None), 1_001.0, usual_s=90.0)
    assert waits.split() == ["running", "0:01", "elapsed,", "1:29", "left"]


def test_how_long_such_jobs_take_is_the_middle_of_those_that_are_like_it() -> None:
    took = [changed(updated_at=utc(1_000.0 + seconds)) for seconds in (10.0, 30.0, 80.0)]
    other = changed(updated_at=utc(9_000.0), request=VideoSpec(operation=TextToVideo(), duration_seconds=60))
    assert usual_s([*took, other], RUNNING) == 30.0
    assert usual_s([*took[:2], other], RUNNING) is None  # too few


def test_an_estimate_is_shown_with_what_was_decided() -> None:
    spec = VideoSpec(operation=TextToVideo(), duration_seconds=8, resolution="720p")
    view = EstimateView(
        provider="acme",
        model="m1",
        operation="text-to-video",
        price="known",
        cost=Money(400_000, source="its page", as_of="2026-11-01"),
        sends=2,
        request=spec,
    )
    assert "at most 0.4 USD; it may be sent, and paid, 2 times" in estimate_sheet(view)
    assert "acme/m1" in estimate_sheet(view)
    unknown = msgspec.structs.replace(view, price="unknown", cost=None, sends=1)
    assert estimate_sheet(unknown).splitlines()[0].split() == ["cost", "unknown"]


def test_away_from_a_terminal_only_changes_are_lines() -> None:
    out = io.StringIO()
    progress = Progress(out)
    for view in (RUNNING, changed(version=5), changed(progress=60)):
        progress.show(view)
    assert [line.split("]")[1].split()[0] for line in out.getvalue().splitlines()] == ["50", "60"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_on_a_terminal_one_line_is_rewritten_and_finished() -> None:
    out = Terminal()
    progress = Progress(out)
    with progress.ticking():
        progress.show(RUNNING)
        progress.show(changed(progress=60))
    assert out.getvalue().count("\r\x1b[K") == 2
    assert out.getvalue().count("\n") == 1
    assert max(map(len, out.getvalue().split("\r\x1b[K"))) <= shutil.get_terminal_size().columns


def one_of(size: int, index: int, **fields: object) -> JobView:
    return changed(id=f"job_{index}", batch=Batch(id="batch_a", index=index, size=size), **fields)


async def test_on_a_terminal_a_batch_is_a_table_that_is_rewritten() -> None:
    out = Terminal()
    progress = Progress(out, names=["line 1", "line 3"])
    with progress.ticking():
        progress.show(one_of(2, 1))
        progress.show(one_of(2, 0, status="succeeded", phase="succeeded"))
    first, second = out.getvalue().split("\x1b[1A")
    assert [line.split()[:4] for line in first.split("\n")] == [
        ["\x1b[K0", "of", "2", "done"],
        ["\x1b[K", "line", "3", "running"],
    ]
    assert [line.split()[:4] for line in second.rstrip("\n").split("\n")] == [
        ["\x1b[K1", "of", "2", "done"],
        ["\x1b[K", "line", "1", "succeeded"],
        ["\x1b[K", "line", "3", "running"],
    ]


def test_where_a_batch_is_longer_than_the_terminal_those_that_go_on_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "5")
    out = Terminal()
    progress = Progress(out, names=[f"line {number}" for number in range(1, 6)])
    for index, end in enumerate(["succeeded", "running", "succeeded", "running", "running"]):
        progress.show(one_of(5, index, status=end, phase=end))
    head, *lines = out.getvalue().rpartition("A")[2].split("\n")
    assert "2 of 5 done" in head
    assert [line.split()[2] for line in lines] == ["2", "4", "5"]
    assert max(map(len, lines)) < 80 + len("\r\x1b[K")


def test_away_from_a_terminal_a_batch_is_a_line_for_every_change_of_a_job() -> None:
    out = io.StringIO()
    progress = Progress(out, names=["line 1", "line 3"])
    for view in (one_of(2, 0), one_of(2, 1), one_of(2, 0, version=5), one_of(2, 0, progress=60)):
        progress.show(view)
    assert [(line.split()[1], line.split("]")[1].split()[0]) for line in out.getvalue().splitlines()] == [
        ("1", "50"),
        ("3", "50"),
        ("1", "60"),
    ]


def test_a_job_that_waits_says_why() -> None:
    waiting = changed(phase="queued", progress=None, note="nothing answers there.")
    assert progress_line(waiting, 1_060.0) == "queued     1:00 elapsed: nothing answers there."
    assert "waits    nothing answers there." in job_sheet(waiting)


def test_times_and_sizes_are_short() -> None:
    assert [clock(7), clock(754), clock(3_723)] == ["0:07", "12:34", "1:02:03"]
    assert [size(12), size(612_000), size(1_500_000)] == ["12 bytes", "612.0 kB", "1.5 MB"]
    assert instant(utc(1.0625)).endswith(":01.062")
    assert aligned([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"


def test_a_prompt_cannot_command_the_terminal() -> None:
    assert plain("a\x1b[2Jb\nc") == "a [2Jb c"
    evil = changed(prompt="\x1b]0;pwned\x07")
    assert "\x1b" not in jobs_table([evil]) + job_sheet(evil)
