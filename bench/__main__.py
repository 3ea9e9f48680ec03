"""Measure, and print one JSON line a figure: `python -m bench [GROUP | NAME …]`, from the repository's root.

A word chooses every figure whose dotted name begins with it; without one, all of them run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NoReturn

import structlog

from bench import job, log
from bench.figures import BadKnob, Figure, Knobs, knobs

FIGURES: Final[dict[str, Callable[[Knobs], Iterator[Figure]]]] = {**log.FIGURES, **job.FIGURES}


def chosen(words: Sequence[str]) -> list[Callable[[Knobs], Iterator[Figure]]]:
    """What measures the figures that were asked for.

    Raises:
        BadKnob: a word that no figure begins with.
    """
    for word in words:
        if not any(_begins(name, word) for name in FIGURES):
            raise BadKnob(f"There is no figure {word}. There are: {', '.join(FIGURES)}, and their beginnings.")
    return [measure for name, measure in FIGURES.items() if not words or any(_begins(name, word) for word in words)]


def _begins(name: str, word: str) -> bool:
    return f"{name}.".startswith(f"{word}.")


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
