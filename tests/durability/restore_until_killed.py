"""The victim of test_upkeep: restores a copy of a scene again and again, and is killed one step later each time.

A step is whatever Python itself tells of: a file that is opened, linked, renamed or removed, a database connected. The
folders stay as they were left; the last one is whole. Prints how many there are. `renaming`: the log before loses its
name first.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from rushes.eventstore import upkeep

STEPS = ("open", "os.link", "os.rename", "os.remove", "shutil.copyfile", "sqlite3.connect")


def die_at(step: int) -> None:
    seen = 0

    def hook(event: str, _: object) -> None:
        nonlocal seen
        if event in STEPS:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def restored(scene: Path, folder: Path, step: int) -> bool:
    """Whether it came to its end."""
    shutil.copytree(scene, folder)
    child = os.fork()
    if child == 0:
        die_at(step)
        upkeep.restore(folder / "backup.db", folder / "rushes.db", print, accept_loss=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in {0, signal.SIGKILL}, status
    return status == 0


def rename(path: Path, *, readable: bool) -> Path:
    """The control."""
    del readable
    for ending in ("", "-marker"):
        path.with_name(path.name + ending).rename(path.with_name(f"aside{ending}"))
    return path.with_name("aside")


scene = Path(sys.argv[1])
if sys.argv[2] == "renaming":
    upkeep._put_aside = rename
last = 1
while not restored(scene, scene.with_name(f"killed {last}"), last):
    last += 1
sys.stdout.write(f"{last}\n")
