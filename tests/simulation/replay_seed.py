"""Run one seed of the simulation again: `replay_seed.py --seed N [--break CONTROL] --log FILE`.

Exits with 0 when nothing is wrong, 1 when a rule was broken (it says which, and the few faults that do it), 2 when it
was asked for something that there is not. A seed whose own jobs do not meet the broken rule runs one that does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sim_controls import BREAKS
from sim_crashes import shown
from sim_plan import drawn
from sim_rules import judged, told
from sim_world import Control


def main(words: list[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description="Run one seed of the simulation again.")
    parser.add_argument("--seed", default="")
    parser.add_argument("--break", dest="control", default="")
    parser.add_argument("--log", default="")
    asked = parser.parse_args(words)
    if not (asked.seed.isascii() and asked.seed.isdigit()):
        return refuse(f"SEED is {asked.seed!r}: give a whole number from 0, as in make sim SEED=7 LOG=sim.log")
    if asked.control and asked.control not in BREAKS:
        return refuse(f"There is no BREAK={asked.control}: give one of {', '.join(BREAKS)}, or leave it out.")
    if not asked.log:
        return refuse("LOG is missing: say where the log goes, as in make sim SEED=7 LOG=sim.log")
    control = BREAKS[asked.control]() if asked.control else Control()
    verdict = judged(drawn(int(asked.seed)), control)
    if asked.control and not verdict.broken:
        print(f"The jobs of seed {asked.seed} do not meet the broken rule; a plain job that does:")
        verdict = shown(control, int(asked.seed))
    try:
        Path(asked.log).write_bytes(verdict.log)
    except OSError as error:
        return refuse(f"LOG cannot be written to {asked.log}: {error.strerror}.")
    print(told(verdict, control))
    return 1 if verdict.broken else 0


def refuse(why: str) -> int:
    """Say what is wrong with the question."""
    print(why, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
