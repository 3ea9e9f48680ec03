"""What the page about operations shows is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from rushes.actors.system import LOG_FAILED_S
from rushes.actors.tally import PREFIX, Tally
from rushes.adapters.signatures import WINDOW_S
from rushes.api.webhooks import MAX_BODY_BYTES
from rushes.keyfile import KEY_FILE
from rushes.main import installed_adapters
from rushes.studio import MIN_FREE_BYTES

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
GAUGES = {"jobs_in_state", "ws_subscribers", "flight_dropped_total"}  # which the tally does not have


def test_every_measure_is_explained() -> None:
    text = "".join(Tally().families())
    there = {*re.findall(rf"^# TYPE {PREFIX}(\w+)", text, re.MULTILINE)} | GAUGES
    measures = PAGE.partition("| measure,")[2]
    assert {*re.findall(r"^\| `(\w+)` \|", measures, re.MULTILINE)} == there


def test_every_provider_that_calls_back_is_named_with_its_secret() -> None:
    webhooks = [hook for adapter in installed_adapters().values() if (hook := adapter.capabilities.webhook)]
    assert {*re.findall(r"`(\w+_WEBHOOK_SECRET)`", PAGE)} == {hook.env for hook in webhooks}


def test_its_numbers_are_the_codes() -> None:
    assert (f"for {LOG_FAILED_S:.0f} s after its log" in PAGE, f"less than {MIN_FREE_BYTES >> 20} MiB" in PAGE) == (
        True,
    ) * 2
    assert (f"more than {MAX_BODY_BYTES >> 20} MiB" in PAGE, WINDOW_S, "five minutes" in PAGE) == (True, 300.0, True)
    assert f"`{KEY_FILE}`" in PAGE
