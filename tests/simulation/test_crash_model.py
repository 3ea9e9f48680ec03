"""The rules of the decider, held by thousands of crashing runs; and shown to matter by breaking each on purpose."""

from __future__ import annotations

import os

import pytest
from crash_model import CLASSES, survey

from rushes.adapters.capabilities import CancelKind, DoubtClass

SEEDS = range(20_000 if os.environ.get("RUSHES_NIGHTLY") else 2_000)


@pytest.mark.parametrize("doubt", CLASSES)
@pytest.mark.parametrize("cancel", ["stops", "destroys", "no"])
def test_no_crash_pays_twice_or_loses_a_take(doubt: DoubtClass, cancel: CancelKind) -> None:
    found, first = survey(SEEDS, doubt, cancel)
    assert not found, f"violations {dict(found)}, first seeds {first}"


@pytest.mark.parametrize("doubt", ["B", "C", "D", "E"])
def test_without_the_incarnation_rule_a_crash_pays_twice(doubt: DoubtClass) -> None:
    found, _ = survey(SEEDS, doubt, broken="no_incarnation")
    assert found["paid twice"]


@pytest.mark.parametrize("doubt", ["B", "C", "D", "E"])
def test_with_one_intent_per_attempt_a_late_report_pays_twice(doubt: DoubtClass) -> None:
    found, _ = survey(SEEDS, doubt, broken="intent_per_attempt")
    assert found["paid twice"]


def test_a_destructive_cancel_without_a_poll_loses_a_take() -> None:
    found, _ = survey(SEEDS, "E", "destroys", broken="destructive_cancel")
    assert found["a finished take was destroyed"]
