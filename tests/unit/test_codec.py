"""Stored events become today's structs, or say why not; nothing is made up."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from jobs import HISTORIES
from msgspec import Struct

from rushes.actors import messages as m
from rushes.actors.codec import DECODERS, JOBS, UPCASTERS, BadEvent, Schema, Shape, Upcast, decode, encode
from rushes.eventstore.base import NewEvent, Recorded
from rushes.faults import Fault, Unreadable


class Moved(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A made-up event in its third version: at first it had `x,y` in one text, then two numbers, now a point."""

    point: tuple[float, float]
    by: str = "nobody"


def split(old: dict[str, Any]) -> dict[str, Any]:
    x, y = old.pop("where").split(",")
    return old | {"x": float(x), "y": float(y)}


def join(old: dict[str, Any]) -> dict[str, Any]:
    return {"point": [old.pop("x"), old.pop("y")]} | old


CHAIN: dict[Shape, Upcast] = {("thing.moved", 1): split, ("thing.moved", 2): join}
THINGS = Schema({Moved: "thing.moved"}, CHAIN)


def stored(data: str, v: int = 1, name: str = "thing.moved") -> Recorded:
    return Recorded(5, 7, 3, name, v, 1.0, data.encode(), None, 1, 1)


def again(new: NewEvent) -> Recorded:
    return Recorded(5, 7, 3, new.type, new.v, new.at, new.data, new.meta, 1, 1)


# ── Versions ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "recorded",
    [
        stored('{"where": "1,2", "by": "ann"}', 1),
        stored('{"x": 1.0, "y": 2.0, "by": "ann"}', 2),
        stored('{"point": [1, 2], "by": "ann"}', 3),
    ],
)
def test_every_version_is_read_as_todays_struct(recorded: Recorded) -> None:
    assert THINGS.decode(recorded) == Moved(point=(1.0, 2.0), by="ann")


def test_the_version_behind_the_last_upcaster_is_written() -> None:
    assert THINGS.current == {Moved: ("thing.moved", 3)}


def test_todays_version_is_read_by_the_bare_decoder() -> None:
    assert type(THINGS.decoders["thing.moved", 3].__self__) is msgspec.json.Decoder  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("upcasters", "words"),
    [
        ({("thing.moved", 2): join}, "thing.moved v2 and none for v1"),
        ({("thing.moved", 1): split, ("thing.moved", 3): join}, "thing.moved v3 and none for v2"),
        ({("thing.moved", 0): split}, "thing.moved v0 and none for v1"),
        ({**CHAIN, ("thing.mooved", 1): split}, "thing.mooved, which is no event type"),
    ],
)
def test_a_missing_link_is_an_error_before_anything_is_read(upcasters: dict[Shape, Upcast], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Schema({Moved: "thing.moved"}, upcasters)


def raising(_: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("upcast", "words"),
    [
        (raising, "ZeroDivisionError"),
        (lambda old: {"point": old["there"]}, "KeyError: 'there'"),
        (lambda _: {}, "missing required field `point`"),
        (lambda _: None, "AttributeError"),
        (lambda _: {"point": ["1", "2"]}, "Expected `float`, got `str`"),
        (lambda _: {"point": [1, 2], "bye": "ann"}, "made the field 'bye', which Moved does not have"),
    ],
)
def test_an_upcaster_that_fails_makes_nothing_up(upcast: Any, words: str) -> None:
    schema = Schema({Moved: "thing.moved"}, {("thing.moved", 1): upcast})
    with pytest.raises(BadEvent, match="cannot decode") as bad:
        schema.decode(stored('{"where": "1,2"}'))
    assert words in bad.value.detail


# ── What is read weakly, and what is not ──────────────────────────────────────────────────────────────────────────────


def test_a_field_of_a_newer_release_is_passed_over_at_any_depth() -> None:
    event = m.TakeLost(index=1, fault=Fault("no_answer", "silence"))
    data = '{"index": 1, "news": {"a": 1}, "fault": {"code": "no_answer", "detail": "silence", "news": [1]}}'
    assert decode(stored(data, 1, "take.lost")) == event
    assert THINGS.decode(stored('{"where": "1,2", "news": 1}')) == Moved(point=(1.0, 2.0))


def test_an_optional_field_that_an_older_release_did_not_write_has_its_default() -> None:
    assert decode(stored("{}", 1, "cancel.requested")) == m.CancelRequested(by="user", discard=False)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"index": "1"}',
        '{"index": 1}',
        '{"index": 1, "fault": null}',
        "\ud800",
        "[" * 9_999,
    ],
)
def test_a_payload_that_does_not_fit_is_said(data: str) -> None:
    recorded = msgspec.structs.replace(stored("", 1, "take.lost"), data=data.encode(errors="surrogatepass"))
    with pytest.raises(BadEvent, match=r"Event 3 of stream 7 is take\.lost v1, which this release cannot decode"):
        decode(recorded)


def test_every_event_comes_back_as_it_went() -> None:
    for history in HISTORIES.values():
        for event in history:
            assert decode(again(encode(event, 1.0, m.Wake()))) == event


def test_every_shape_that_is_written_can_be_read() -> None:
    assert {JOBS.current[kind] for kind in m.TYPES} | UPCASTERS.keys() == DECODERS.keys()


# ── What is said ──────────────────────────────────────────────────────────────────────────────────────────────────────


TELEPORTED = (
    "Event 3 of job_x is job.teleported v1, which this release (0.1.0) does not know; rushes 0.4.0 wrote to this log: "
    "use that release or a later one."
)


@pytest.mark.parametrize(
    ("name", "v", "newest", "words"),
    [
        (
            "job.teleported",
            1,
            "0.4.0",
            TELEPORTED,
        ),
        ("take.lost", 2, "0.10.0", "is take.lost v2, which this release (0.1.0) does not know; rushes 0.10.0 wrote"),
        ("take.lost", 1, "0.4.0", "(0.1.0) cannot decode (ValidationError: Object missing required field `index`"),
        ("take.lost", 2, "0.1.0", "a newer release must have written it: use that one or a later one."),
        ("take.lost", 2, "", "a newer release must have written it: use that one or a later one."),
    ],
)
def test_the_job_the_version_and_the_needed_release_are_named(name: str, v: int, newest: str, words: str) -> None:
    with pytest.raises(BadEvent) as bad:
        decode(stored("{}", v, name))
    told = bad.value.about("job_x", "0.1.0", newest)
    assert words in told.detail
    assert (type(told), told.code, told.job_id) == (Unreadable, "unreadable", "job_x")


def test_without_a_release_of_our_own_any_that_wrote_is_named() -> None:
    with pytest.raises(BadEvent) as bad:
        decode(stored("{}", 9, "take.lost"))
    assert "this release does not know; rushes 0.1.0 wrote" in bad.value.about("job_x", "", "0.1.0").detail
