"""What the page about HTTP shows is what there is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from rushes.api.openapi import OPS
from rushes.api.rest import MAX_WAIT_S
from rushes.api.statuses import TABLE
from rushes.video import MAX_BATCH, JobsQuery, VideoRequest, checked, decode

PAGE = (Path(__file__).parents[2] / "docs" / "rest.md").read_text("utf-8")


def test_every_code_has_its_statuses() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    told = {code: tuple(map(int, statuses)) for code, *statuses in rows}
    assert told == {code: (one.native, one.seed, one.openai) for code, one in TABLE.items()}


def test_every_route_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:GET|POST|DELETE) /[^`? ]*)`", PAGE))
    assert len(named) > 5
    assert named <= set(OPS)


def test_every_filter_is_named() -> None:
    told = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("Filters:") : PAGE.index("- `POST /v1/estimates`")]))
    assert told == set(JobsQuery.__struct_fields__) - {"limit", "after", "before"}


def test_the_limits_are_those_of_the_code() -> None:
    assert f"at most {MAX_WAIT_S} seconds" in PAGE
    assert f"1 to {MAX_BATCH} of them" in PAGE


def test_the_example_can_be_sent() -> None:
    (line,) = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
    words = shlex.split(line)
    request = checked(decode(words[words.index("-d") + 1].encode(), VideoRequest))
    assert json.loads(words[words.index("-d") + 1])["prompt"] == request.prompt
