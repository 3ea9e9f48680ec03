"""Measure, and print one JSON line a figure: `python -m bench [GROUP | NAME …]`, from the repository's root.

A word chooses a group, or every figure whose dotted name begins with it; without one, all of them run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NoReturn

import structlog

from bench import api, job, log
from bench.figures import BadKnob, Figure, Knobs, knobs

GROUPS: Final = {"log": log.FIGURES, "job": job.FIGURES, "api": api.FIGURES}
FIGURES: Final[dict[str, Callable[[Knobs], Iterator[Figure]]]] = {
    name: measure for group in GROUPS.values() for name, measure in group.items()
}


def chosen(words: Sequence[str]) -> list[Callable[[Knobs], Iterator[Figure]]]:
    """What measures the figures that were asked for.

    Raises:
        BadKnob: a word that no figure begins with.
    """
    for word in words:
        if not any(_is_meant(name, word) for name in FIGURES):
            known = f"There are: {', '.join(FIGURES)}, their beginnings, and the groups {', '.join(GROUPS)}."
            raise BadKnob(f"There is no figure {word}. {known}")
    return [measure for name, measure in FIGURES.items() if not words or any(_is_meant(name, word) for word in words)]


def _is_meant(name: str, word: str) -> bool:
    return f"{name}.".startswith(f"{word}.") or name in GROUPS.get(word, ())


def main(words: Sequence[str]) -> int:
    """Run what was asked for."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # stdout is for figures
    signal.signal(signal.SIGTERM, _stop)
    try:
        run = knobs(os.environ)
        for measure in chosen(words):
            for figure in measure(run):
                print(figure.line(run.scale), flush=True)
    except BadKnob as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # every folder of ours is gone by now
        return 130
    return 0


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
