"""Values of JSON looked into, and held against each other where one may have lost its secrets on the way."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from rushes.adapters.redaction import REDACTED
from rushes.video import JSON

NOT_THERE: Final = object()


def leaves(value: object, path: str = "") -> Iterator[tuple[str, JSON]]:
    """The values in a JSON value, and where they stand: spec.prompt, route[0].model."""
    match value:
        case dict() if value or not path:
            for name, inner in cast("Mapping[str, object]", value).items():
                yield from leaves(inner, f"{path}.{name}" if path else name)
        case list() | tuple() if value or not path:
            for place, inner in enumerate(cast("Sequence[object]", value)):
                yield from leaves(inner, f"{path}[{place}]")
        case _:
            yield path, cast("JSON", value)


def unlike(recorded: JSON, today: JSON, path: str, aside: Container[str] = ()) -> str:
    """Where two values of JSON first differ; empty where they do not.

    Args:
        recorded: one of them.
        today: the other.
        path: of both, for the answer.
        aside: names in the outermost object that are not compared.
    """
    match recorded, today:
        case dict(), dict():
            pairs = [
                (f"{path}.{name}", recorded.get(name, NOT_THERE), today.get(name, NOT_THERE))
                for name in {**recorded, **today}
                if name not in aside
            ]
        case list(), list():
            places = range(max(len(recorded), len(today)))
            pairs = [(f"{path}[{place}]", _at(recorded, place), _at(today, place)) for place in places]
        case str(), str():
            return "" if _reads_alike(recorded, today) else path
        case _:
            return "" if recorded == today and type(recorded) is type(today) else path
    return next((found for at, one, other in pairs if (found := unlike(one, other, at))), "")


def _at(values: list[Any], place: int) -> Any:
    return values[place] if place < len(values) else NOT_THERE


def _reads_alike(one: str, other: str) -> bool:
    """Equal, but for what was taken out of either."""
    if one == other:
        return True
    return any(REDACTED in text and _pattern(text).fullmatch(whole) for text, whole in ((one, other), (other, one)))


@lru_cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split(REDACTED))), re.DOTALL)
