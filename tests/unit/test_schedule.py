"""When an owed effect is due."""

from __future__ import annotations

import pytest
from jobs import ACCEPTED, ASKED, given, started, terms

from rushes.actors import messages as m
from rushes.actors.job import pending
from rushes.actors.schedule import backoff_s, due_at
from rushes.adapters.capabilities import PollSchedule

RUNNING = given(ASKED, started(terms(poll=PollSchedule(min_s=2.0, max_s=30.0, growth=0.5), total_s=1000.0)), ACCEPTED)


def due(tried_at: float, now: float, troubles: int = 0) -> float:
    owed = pending(RUNNING, "us")
    assert isinstance(owed, m.Ask)
    return due_at(owed, RUNNING, "job_x", tried_at=tried_at, troubles=troubles, now=now)


@pytest.mark.parametrize(("tried_at", "at"), [(0.0, 2.0), (3.0, 5.0), (20.0, 30.0), (200.0, 230.0), (990.0, 1000.0)])
def test_a_poll_is_due_when_it_was_said_to_be_however_often_one_looks(tried_at: float, at: float) -> None:
    """Its interval is that of the last poll. By the age of now, who waits for it would be told to wait on each time."""
    assert {due(tried_at, now) for now in (tried_at, (tried_at + at) / 2, at - 0.001, at, at + 50.0)} == {at}


def test_troubles_put_it_off_and_a_clock_that_was_set_back_does_not() -> None:
    assert due(20.0, 20.0, troubles=8) == 20.0 + backoff_s("job_x", 7) > 50.0
    assert due(500.0, 20.0) == due(20.0, 20.0)
