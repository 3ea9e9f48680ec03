"""Jobs of every provider as cassettes: each plays the job again over production's client, and sees what has changed."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec.structs import replace
from recorded import at_a_twin, first_order, job_of, lived, longer_clip, sha256_of
from recorder import playing
from scenes import pairs

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.adapters.callbacks import Callbacks
from rushes.emulators.base import shipped_clip
from rushes.emulators.faults import (
    ExpiredUrl,
    FailedJob,
    LineRule,
    Moderated,
    RateLimit,
    ServerError,
    StatusWord,
    TwinRule,
)
from rushes.faults import ExtraMissing, Fault, Unavailable
from rushes.flight import Answered, Content, Exchange
from rushes.main import installed_adapters, installed_emulators
from rushes.replay import Difference, Recording, Report, follow, read_file, write_cassette
from rushes.replay import tape as tape_of
from rushes.replay.cassette import MAX_EQUAL, MAX_TAKE_BYTES, stand_in
from rushes.testing import wires
from rushes.testing.orders import Order, plainest
from rushes.testing.wires import KEY, SEED, Pair, Wire

PAIRS = pairs()
PROVIDER = "replicate"  # one is enough for what all share
PAIR = PAIRS[PROVIDER]
JOB = job_of(PAIR)
Story = tuple[tuple[LineRule | TwinRule, ...], dict[str, Any]]


STORIES: dict[str, Callable[[], Story]] = {
    "made": lambda: ((), {}),
    "cancelled": lambda: ((), {"wishes": {12.0: m.Cancel()}}),
    "asked to wait": lambda: ((RateLimit(on="submit", nth=1, retry_after=7.0),), {}),
    "a server error at a poll": lambda: ((ServerError(on="status", nth=2),), {}),
    "a lost send": lambda: ((), {"point": "lost", "at_least_once": 1}),
    "an expired address": lambda: ((ExpiredUrl(nth=1),), {}),
    "moderated": lambda: ((Moderated(),), {}),
    "failed": lambda: ((FailedJob(),), {}),
    "a word that nobody knows, until its time is over": lambda: ((StatusWord(word="pondering"),), {}),
    "not ended yet": lambda: ((), {"until_s": 10.2}),  # each was polled, and none has ended
}


def life(folder: Path, pair: Pair = PAIR, story: str = "made", order: Order | None = None, **more: Any) -> Recording:
    rules, how = STORIES[story]()
    able = tuple(rule for rule in rules if isinstance(rule, LineRule) or rule.do in Wire(pair).twin.can)
    return lived(Wire(pair, *able), order or first_order(pair), folder / "data", **how, **more)


def played(tape: Path) -> Report:
    with playing(tape):
        return asyncio.run(follow(read_file(tape.with_suffix(".rushes.json"))))


def parted(tape: Path, recording: Recording | None = None) -> Difference:
    """How the job goes another way from a changed tape, or with other events."""
    with tape_of().use_cassette(str(tape)):
        report = asyncio.run(follow(recording or read_file(tape.with_suffix(".rushes.json"))))
    assert report.verdict == "diverged"
    assert report.difference is not None
    return report.difference


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("provider", PAIRS)
def test_a_job_goes_from_its_tape_as_it_went(provider: str, story: str, tmp_path: Path) -> None:
    recording = life(tmp_path, PAIRS[provider], story)
    assert recording.events[-1].type.startswith("job.") == (story != "not ended yet")
    tape, _ = write_cassette(recording, tmp_path / "out")
    report = played(tape)
    assert (report.verdict, report.events) == ("same", len(recording.events)), report
    assert report.exchanges > 0


@pytest.mark.parametrize("provider", PAIRS)
def test_files_that_were_sent_are_words_on_both_sides(provider: str, tmp_path: Path) -> None:
    given = [one for one in plainest(PAIRS[provider].adapter.capabilities) if one.spec.inputs]
    own = [one for one in given if not any(file.made for file in one.spec.inputs)]
    kinds = {(type(one.spec.operation), *(file.role for file in one.spec.inputs)): one for one in own}
    for number, order in enumerate(kinds.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        tape, _ = write_cassette(life(folder, PAIRS[provider], order=order), folder / "out")
        assert played(tape).verdict == "same"
        bodies = str([one["request"]["body"] for one in interactions(tape)])
        for file in order.spec.inputs:
            word = stand_in(file.asset)
            assert word.decode() in bodies or b64encode(word).decode() in bodies
        assert "stand the words" in about(tape)


def about(tape: Path) -> str:
    return "\n".join(yaml.safe_load(tape.read_text("utf-8"))["about"])


def interactions(tape: Path) -> list[Any]:
    found: list[Any] = yaml.safe_load(tape.read_text("utf-8"))["interactions"]
    return found


# ── The test beside it ────────────────────────────────────────────────────────────────────────────────────────────────

NO_NETWORK = """
import socket

def refuse(*_):
    raise AssertionError("a socket was about to connect")

socket.socket.connect = socket.socket.connect_ex = refuse
"""


def run_test(test: Path) -> subprocess.CompletedProcess[str]:
    """As anybody would run it, in a folder of its own, on a machine without a network."""
    (test.parent / "no_network.py").write_text(NO_NETWORK, "utf-8")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no_network", "-q", test.name]
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {"PYTHONPATH": "."}
    return subprocess.run(argv, cwd=test.parent, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_the_test_beside_a_tape_passes_by_itself_and_names_the_event_that_changed(tmp_path: Path) -> None:
    tape, test = write_cassette(at_a_twin(life(tmp_path), PAIR.adapter.address()), tmp_path / "out")
    assert sorted(one.name for one in tape.parent.iterdir()) == [f"{JOB}.rushes.json", f"{JOB}.yaml", f"test_{JOB}.py"]
    good = run_test(test)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "1 passed" in good.stdout
    text = tape.read_text("utf-8")
    assert text.count("status: succeeded") == 1
    tape.write_text(text.replace("status: succeeded", "status: canceled"), "utf-8")
    bad = run_test(test)
    assert bad.returncode == 1
    assert re.search(r"Event \d+ was generation\.finished, and is job\.cancelled today", bad.stdout), bad.stdout


def test_the_test_beside_a_tape_wants_all_of_it_asked_for(tmp_path: Path) -> None:
    tape, test = write_cassette(life(tmp_path), tmp_path / "out")
    rewritten(tape, lambda plays: plays.append(deepcopy(plays[-1])))
    bad = run_test(test)
    assert bad.returncode == 1
    assert "some of the tape was never asked for" in bad.stdout


# ── Where it is from ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("provider", PAIRS)
def test_a_job_at_the_providers_own_address_is_real_and_any_other_is_a_twins(provider: str, tmp_path: Path) -> None:
    recording, address = life(tmp_path, PAIRS[provider]), PAIRS[provider].adapter.address()
    real, _ = write_cassette(recording, tmp_path / "real")
    twin, _ = write_cassette(at_a_twin(recording, address), tmp_path / "twin")
    again, _ = write_cassette(read_file(twin.with_suffix(".rushes.json")), tmp_path / "again")
    first_lines = [one.read_text("utf-8").splitlines()[0] for one in (real, twin, again)]
    assert first_lines == ["provenance: real", "provenance: twin", "provenance: twin"]
    assert [interactions(one) for one in (twin, again)] == [interactions(real)] * 2
    assert played(twin).verdict == "same"
    assert not any("127.0.0.1" in path.read_text("utf-8") for path in twin.parent.iterdir())


@pytest.mark.parametrize("base", ["https://proxy.example/openrouter", "http://127.0.0.1:8080/openrouter/api/v1"])
def test_an_address_with_another_path_is_the_providers_own_on_the_tape(base: str, tmp_path: Path) -> None:
    recording, own = life(tmp_path, PAIRS["openrouter"]), PAIRS["openrouter"].adapter.address()
    real, _ = write_cassette(recording, tmp_path / "real")
    elsewhere, _ = write_cassette(reached_at(recording, own, base), tmp_path / "out")
    assert interactions(elsewhere) == interactions(real)
    assert played(elsewhere).verdict == "same"
    assert not any(base in path.read_text("utf-8") for path in elsewhere.parent.iterdir())


def reached_at(recording: Recording, own: str, base: str) -> Recording:
    """The same job, had that been the provider's base URL."""
    moved = (one.replace(own.encode(), base.encode()) for one in map(msgspec.json.encode, recording.exchanges))
    return replace(
        recording,
        exchanges=tuple(msgspec.json.decode(one, type=Exchange) for one in moved),
        events=tuple(replace(e, data=e.data.replace(own.encode(), base.encode())) for e in recording.events),
    )


# ── What is not on a tape ─────────────────────────────────────────────────────────────────────────────────────────────


def with_clip(folder: Path, clip: bytes) -> Recording:
    wire = Wire(PAIR, twin=PAIR.twin(clip=clip, key=KEY, seed=SEED))
    return lived(wire, first_order(PAIR), folder / "data")


def test_a_small_take_that_is_at_hand_is_on_the_tape_itself(tmp_path: Path) -> None:
    clip = longer_clip(shipped_clip())
    tape, _ = write_cassette(with_clip(tmp_path, clip), tmp_path / "out")
    assert interactions(tape)[-1]["response"]["body"]["raw"] == clip
    assert "stand in their place" not in about(tape)
    assert played(tape).verdict == "same"
    rewritten(tape, lambda plays: plays[-1]["response"]["body"].update(raw=clip[:-1] + b"!"))
    assert "take.stored, differs in data.asset.sha256" in parted(tape).what


@pytest.mark.parametrize("why", ["away", "large", "another"])
def test_the_emulators_clip_stands_for_any_other_take(why: str, tmp_path: Path) -> None:
    clip = longer_clip(shipped_clip()) + (bytes(MAX_TAKE_BYTES) if why == "large" else b"")
    recording = with_clip(tmp_path, clip)
    for take in (tmp_path / "data" / "takes").rglob("*.mp4"):
        if why == "another":
            take.write_bytes(shipped_clip())
        elif why == "away":
            take.unlink()
    tape, _ = write_cassette(recording, tmp_path / "out")
    assert interactions(tape)[-1]["response"]["body"]["raw"] == shipped_clip()
    assert "others stand in their place, and its size, sha256 and measures are not compared" in about(tape)
    assert played(tape).verdict == "same"
    stored = codec.decode(read_file(tape.with_suffix(".rushes.json")).events[-2])
    assert isinstance(stored, m.TakeStored)
    assert stored.asset.sha256 == sha256_of(clip), "the events say what it was"


def test_many_equal_answers_are_some_and_the_tape_says_how_many_it_leaves_out(tmp_path: Path) -> None:
    recording = life(tmp_path, story="a word that nobody knows, until its time is over")
    many = max(recording.exchanges, key=lambda one: one.count)
    assert many.count > MAX_EQUAL
    tape, _ = write_cassette(recording, tmp_path / "out")
    assert len(interactions(tape)) == sum(min(one.count, MAX_EQUAL) for one in recording.exchanges)
    assert f"{many.count - MAX_EQUAL} of {many.count} equal answers to GET {many.url} are left out." in about(tape)


def test_what_got_no_answer_fails_from_the_record(tmp_path: Path) -> None:
    tape, _ = write_cassette(life(tmp_path, story="a lost send"), tmp_path / "out")
    assert "1 of its requests got no answer" in about(tape)
    assert played(tape).verdict == "same"


def test_an_answer_that_a_kill_has_lost_leads_to_nothing_again(tmp_path: Path) -> None:
    """The send was answered, and the process ended before that was on disk."""
    recording = life(tmp_path, story="a lost send")
    lost, sent = (one for one in recording.exchanges if one.flow == "submit")
    of_the_doubt = {"submission.doubted", "attempt.opened"}
    events = [
        replace(one, meta=b'{"cmd":"RecordDoubt"}') if one.type in of_the_doubt else one for one in recording.events
    ]
    answered = replace(lost, at=lost.at - 1.0, status=sent.status, answered=sent.answered)
    exchanges = [answered if one is lost else one for one in recording.exchanges]
    told = replace(recording, events=tuple(events), exchanges=tuple(exchanges))
    tape, _ = write_cassette(told, tmp_path / "out")
    assert len([one for one in interactions(tape) if one["request"]["method"] == "POST"]) == 2
    assert played(tape).verdict == "same"


@pytest.mark.parametrize("provider", [name for name, pair in PAIRS.items() if pair.adapter.capabilities.webhook])
def test_the_address_that_a_provider_calls_is_said_again_without_its_code(provider: str, tmp_path: Path) -> None:
    callbacks = Callbacks("https://rushes.example/here", b"k" * 32)
    tape, _ = write_cassette(life(tmp_path, PAIRS[provider], callbacks=callbacks), tmp_path / "out")
    assert f"https://rushes.example/here/v1/webhooks/{provider}?redacted" in tape.read_text("utf-8")
    assert played(tape).verdict == "same"


def test_a_time_to_wait_until_becomes_the_seconds_that_it_meant(tmp_path: Path) -> None:
    recording = life(tmp_path, story="asked to wait")

    def at_a_time(one: Exchange) -> Exchange:
        if one.status != 429:
            return one
        headers = {"retry-after": "Fri, 15 Jan 2027 08:00:07 GMT", "date": "Fri, 15 Jan 2027 08:00:00 GMT"}
        return replace(one, answered=replace(one.answered, headers=headers))

    told = replace(recording, exchanges=tuple(map(at_a_time, recording.exchanges)))
    tape, _ = write_cassette(told, tmp_path / "out")
    assert interactions(tape)[0]["response"]["headers"] == {"retry-after": ["7"]}
    assert played(tape).verdict == "same"


# ── What it cannot do ─────────────────────────────────────────────────────────────────────────────────────────────────


def altered(recording: Recording, change: Callable[[Exchange], Exchange]) -> Recording:
    return replace(recording, exchanges=tuple(map(change, recording.exchanges)))


def cut_answer(one: Exchange) -> Exchange:
    body = one.answered.body
    cut = one.flow == "status" and body is not None
    return replace(one, answered=replace(one.answered, body=replace(body, whole=False))) if cut and body else one


def binary_answer(one: Exchange) -> Exchange:
    body = Content(size_bytes=9, sha256="0" * 64)
    return replace(one, answered=replace(one.answered, body=body)) if one.flow == "status" else one


def sent(part: dict[str, Any]) -> Callable[[Exchange], Exchange]:
    """A form with such a part."""
    text = msgspec.json.encode([{"name": "key", "filename": "", "media_type": "", **part}]).decode()

    def change(one: Exchange) -> Exchange:
        body = Content(size_bytes=9, sha256="0" * 64, text=text)
        return replace(one, asked=replace(one.asked, body=body)) if one.flow == "submit" else one

    return change


def cut_question(one: Exchange) -> Exchange:
    body = one.asked.body
    return replace(one, asked=replace(one.asked, body=replace(body, whole=False))) if body else one


CANNOT: dict[str, tuple[Callable[[Exchange], Exchange], str]] = {
    "a long answer": (cut_answer, r"\(status: GET .*what was answered has \d+ bytes, of which the head alone was kept"),
    "an answer of bytes": (binary_answer, r"\(status: GET .*what was answered is no text"),
    "a long question": (cut_question, r"\(submit: POST .*what was sent has \d+ bytes"),
    "bytes that were sent": (sent({"content": {"size_bytes": 9, "sha256": ""}}), "the form's part 'key' were not kept"),
    "a part that was a secret": (sent({"content": "redacted"}), "the form's part 'key' were not kept"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_was_not_kept_is_named_with_its_exchange(name: str, tmp_path: Path) -> None:
    change, told = CANNOT[name]
    recording = life(tmp_path)
    with pytest.raises(Unavailable, match=rf"Exchange \d+ of {JOB} .*{told}"):
        write_cassette(altered(recording, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_exchange_that_has_aged_out_is_named_with_its_event(tmp_path: Path) -> None:
    recording = life(tmp_path)
    accepted = next(one for one in recording.events if one.type == "submission.accepted")
    later = replace(recording, exchanges=recording.exchanges[1:])
    lost = recording.exchanges[0].id
    with pytest.raises(Unavailable, match=f"Event {accepted.version} of {JOB} came of exchange {lost}, which"):
        write_cassette(later, tmp_path / "out")


def test_without_traffic_there_is_no_cassette(tmp_path: Path) -> None:
    recording = life(tmp_path)
    with pytest.raises(Unavailable, match="the flight record has nothing of it: it was off"):
        write_cassette(replace(recording, exchanges=()), tmp_path / "out")
    (tmp_path / "silence").mkdir()
    unanswered = life(tmp_path / "silence", point="lost")
    with pytest.raises(Unavailable, match="no request of it was ever answered"):
        write_cassette(unanswered, tmp_path / "out")


def test_a_provider_in_this_process_has_no_cassette(tmp_path: Path) -> None:
    local = wires.pairs(installed_adapters(), installed_emulators())["local"]
    with pytest.raises(Unavailable, match="local runs in this process"):
        write_cassette(life(tmp_path, local), tmp_path / "out")


def test_an_adapter_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="The adapter of replicate is not installed here"):
        write_cassette(life(tmp_path), tmp_path / "out", adapters={})


def test_events_that_cannot_be_read_make_no_cassette(tmp_path: Path) -> None:
    recording = life(tmp_path)
    newer = replace(recording.events[0], v=99)
    with pytest.raises(Unavailable, match="does not know"):
        write_cassette(replace(recording, events=(newer, *recording.events[1:])), tmp_path / "out")


def test_without_vcrpy_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = life(tmp_path)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ExtraMissing, match="cassettes extra"):
        write_cassette(recording, tmp_path / "out")


# ── Negative controls: each change is seen, and named ─────────────────────────────────────────────────────────────────


def rewritten(tape: Path, change: Callable[[list[Any]], object]) -> None:
    told = yaml.safe_load(tape.read_text("utf-8"))
    change(told["interactions"])
    tape.write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")


TAPES: dict[str, tuple[Callable[[list[Any]], object], str]] = {
    "another question": (
        lambda plays: plays[0]["request"]["body"]["json"].update(more=1),
        r"today the job asks POST /v1/models/.*, and that is not on the tape",
    ),
    "no answer left": (lambda plays: plays.pop(), r"today the job asks GET https://.*, and that is not on the tape"),
    "another id": (
        lambda plays: plays[0]["response"]["body"]["json"].update(id="q" * 26),
        r"submission\.accepted, differs in data\.handle\.id",
    ),
    "a refusal": (
        lambda plays: plays[0]["response"].update(status={"code": 422, "message": ""}),
        r"was submission\.accepted, and is submission\.\w+ today",
    ),
}


@pytest.mark.parametrize("name", TAPES)
def test_a_change_of_the_tape_is_named(name: str, tmp_path: Path) -> None:
    change, told = TAPES[name]
    tape, _ = write_cassette(life(tmp_path), tmp_path / "out")
    rewritten(tape, change)
    difference = parted(tape)
    assert re.search(told, difference.what), difference.what
    assert difference.exchange is not None


def eventless(recording: Recording, kind: str) -> Recording:
    """The same log without an event of that kind."""
    left = [one for one in recording.events if one.type != kind]
    return replace(recording, events=tuple(replace(one, version=n) for n, one in enumerate(left, 1)))


def test_an_event_that_the_log_does_not_have_is_named(tmp_path: Path) -> None:
    tape, _ = write_cassette(life(tmp_path), tmp_path / "out")
    recording = read_file(tape.with_suffix(".rushes.json"))
    fewer = eventless(recording, "progress.reported")
    assert len(fewer.events) < len(recording.events)
    assert "today the answer brings progress.reported" in parted(tape, fewer).what


def test_an_event_that_comes_of_nothing_is_named(tmp_path: Path) -> None:
    tape, _ = write_cassette(life(tmp_path), tmp_path / "out")
    recording = read_file(tape.with_suffix(".rushes.json"))
    place = next(n for n, one in enumerate(recording.events) if one.type == "progress.reported")
    twice = [*recording.events[: place + 1], *recording.events[place:]]
    more = replace(recording, events=tuple(replace(one, version=n) for n, one in enumerate(twice, 1)))
    difference = parted(tape, more)
    assert difference.version == place + 2
    assert "today nothing comes of the answer" in difference.what


async def test_without_a_cassette_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape, _ = await asyncio.to_thread(lambda: write_cassette(life(tmp_path), tmp_path / "out"))
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *where: asked.append(where))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where))
    with pytest.raises(Unavailable, match="No cassette plays"):
        await follow(read_file(tape.with_suffix(".rushes.json")))
    assert asked == []


def test_a_request_that_was_no_longer_waited_for_is_dropped_again(tmp_path: Path) -> None:
    recording = life(tmp_path)
    place = next(n for n, one in enumerate(recording.exchanges) if one.flow == "status")
    poll = recording.exchanges[place]
    cut = Answered(fault=Fault("cancelled", "It was no longer waited for."), certain=False)
    dropped = replace(poll, id=1, status=0, at=poll.at - 1.0, count=1, answered=cut)
    exchanges = (*recording.exchanges[:place], dropped, *recording.exchanges[place:])
    tape, _ = write_cassette(replace(recording, exchanges=exchanges), tmp_path / "out")
    assert played(tape).exchanges == sum(one.count for one in exchanges)


def test_an_event_of_an_exchange_that_is_over_is_named(tmp_path: Path) -> None:
    tape, _ = write_cassette(life(tmp_path), tmp_path / "out")
    recording = read_file(tape.with_suffix(".rushes.json"))
    last = recording.events[-1]
    meta = msgspec.json.encode({"cmd": "Hide", "x": [recording.exchanges[0].id]})
    hidden = replace(last, version=last.version + 1, type="job.hidden", data=b"{}", meta=meta, token=last.token + 1)
    difference = parted(tape, replace(recording, events=(*recording.events, hidden)))
    assert (difference.version, difference.exchange) == (hidden.version, recording.exchanges[0])
    assert difference.what.endswith("was job.hidden; today nothing comes of what was answered.")


def test_events_that_cannot_be_read_cannot_be_followed(tmp_path: Path) -> None:
    tape, _ = write_cassette(life(tmp_path), tmp_path / "out")
    recording = read_file(tape.with_suffix(".rushes.json"))
    newer = replace(recording, events=(replace(recording.events[0], v=99), *recording.events[1:]))
    with tape_of().use_cassette(str(tape)):
        report = asyncio.run(follow(newer))
    assert report.verdict == "cannot"
    assert "does not know" in report.why
