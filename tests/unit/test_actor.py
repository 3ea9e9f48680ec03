"""An actor that is read from the log is what its events say, and holds what it has in common with others only once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from jobs import ACCEPTED, ASKED, HISTORIES, started, terms
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.actor import Actor
from rushes.actors.codec import decode, encode
from rushes.actors.job import replay
from rushes.eventstore.base import Recorded
from rushes.units import Handle

RUNNING = (ASKED, started(), ACCEPTED)


def stored(events: Sequence[m.Event], stream: int = 1) -> list[Recorded]:
    """The events as the log gives them back: decoding one makes everything in it anew."""
    written = [encode(event, float(version), m.Wake()) for version, event in enumerate(events, 1)]
    return [
        Recorded(version, stream, version, new.type, new.v, new.at, new.data, new.meta, 1, 1)
        for version, new in enumerate(written, 1)
    ]


def loaded(events: Sequence[m.Event], stream: int = 1) -> m.Job:
    actor = Actor(f"job_{stream}", "default", stream)
    actor.replay(stored(events, stream))
    return actor.job


def parts(job: m.Job) -> list[object]:
    assert isinstance(job, m.Running)
    requested, sent = job.facts.requested, job.started
    return [
        requested.route,
        requested.spec.provider_options,
        sent.incarnation,
        sent.target,
        sent.terms,
        job.handle.extra,
    ]


@pytest.mark.parametrize("name", HISTORIES)
def test_a_job_read_from_the_log_is_what_its_events_say(name: str) -> None:
    events = HISTORIES[name]
    assert loaded(events) == replay([(event, float(version)) for version, event in enumerate(events, 1)])


def test_two_jobs_hold_what_is_equal_only_once() -> None:
    one, other = parts(loaded(RUNNING, 1)), parts(loaded(RUNNING, 2))
    assert [first is second for first, second in zip(one, other, strict=True)] == [True] * len(one)


def test_without_sharing_every_job_would_have_its_own() -> None:
    """The negative control: decoding alone makes each of these parts anew."""
    jobs = [replay([(decode(event), event.at) for event in stored(RUNNING)]) for _ in range(2)]
    assert not any(first is second for first, second in zip(*map(parts, jobs), strict=True))


def test_what_differs_stays_different() -> None:
    asked = replace(ASKED, spec=replace(ASKED.spec, provider_options={"draft": True}))
    other = (asked, started(terms(total_s=5.0)), replace(ACCEPTED, handle=Handle("p2", {"mark": "x"})))
    for events in (RUNNING, other, RUNNING):
        assert loaded(events) == replay([(event, float(version)) for version, event in enumerate(events, 1)])
