"""Processes of our own that tell on stdout, one JSON object a line, and can be killed at any moment."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).parents[1]
PAUSE_S: Final = 0.02
Told = dict[str, Any]


class ChildDied(Exception):
    """A process ended before it had told what it was made for."""


class Child:
    """A running process. `hear` waits for its next line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process, self.stdout, self.pid = process, process.stdout, process.pid

    def hear(self) -> Told:
        """The next thing that it tells. Raises ChildDied."""
        line = self.stdout.readline()
        if not line:
            raise ChildDied(f"{self._process.args!r} ended with {self._process.wait()} and said nothing.")
        return msgspec.json.decode(line, type=Told)


@contextmanager
def child(module: str, *words: object, env: Mapping[str, str] = MappingProxyType({})) -> Iterator[Child]:
    """Run `python -m module words…`, with more in its environment, and end it with SIGKILL, whatever happens here."""
    command = [sys.executable, "-m", module, *map(str, words)]
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 - our own modules
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=quiet,
        stdout=pipe,
        start_new_session=True,  # Ctrl-C is for us alone
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nobody tells: look again and again."""
    while not holds():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(PAUSE_S)


def tell(**members: object) -> None:
    """Say something to whoever started us."""
    sys.stdout.buffer.write(msgspec.json.encode(members) + b"\n")
    sys.stdout.buffer.flush()
