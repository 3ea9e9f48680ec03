"""The victims of test_keys_kill: each makes a key in a copy of a folder, and is killed at its own step to the disk.

The first that lives is the last. `in-place`: they write as one must not, over the file itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rushes.api import auth


def killing(step: Callable[..., Any], count: list[int]) -> Callable[..., Any]:
    """The step, with a place to die before and behind it."""

    def done(*words: Any, **more: Any) -> Any:
        _pass(count)
        result = step(*words, **more)
        _pass(count)
        return result

    return done


def _pass(count: list[int]) -> None:
    count[0] -= 1
    if not count[0]:
        os.kill(os.getpid(), signal.SIGKILL)


def _write_in_place(folder: Path, content: bytes) -> None:
    with (folder / auth.FILE).open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        os.fsync(file.fileno())
        file.write(content[len(content) // 2 :])


def victim(folder: Path, place: int, how: str) -> None:
    count = [place]
    for module, name in ((os, "open"), (os, "fsync"), (Path, "replace"), (Path, "open")):
        setattr(module, name, killing(getattr(module, name), count))
    if how == "in-place":
        auth._write = _write_in_place
    print(auth.create(folder, "victim")[1], flush=True)


def main(folder: str, how: str) -> None:
    for place in range(1, 100):
        copy = Path(folder, str(place))
        shutil.copytree(Path(folder, "before"), copy)
        child = os.fork()
        if not child:
            victim(copy, place, how)
            os._exit(0)
        if not os.waitpid(child, 0)[1]:
            return
    sys.exit("no victim lives: there are more places than are tried")


main(*sys.argv[1:])
