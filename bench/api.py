"""The group `api`: what is told to very many, what is asked by many at a time, and the start of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bench import fanout, submits
from bench.figures import Figure, Knobs

FIGURES: Final[dict[str, Callable[[Knobs], Iterator[Figure]]]] = {
    "ws.fanout": fanout.fanout,
    "ws.burst": fanout.burst,
    "ws.p99_ms": fanout.p99_ms,
    "http.submit": submits.submit,
    "start": submits.start,
}
