"""The real command line with the shop's adapters in it, and with what is to go wrong: a program for tests to run.

python serve_shop.py '{"point": "during send", "jobs": 5, "broken": ""}' serve --data DIR …
"""

from __future__ import annotations

import asyncio
import os
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import msgspec
import shop

import rushes.actors.system as system_module
import rushes.main as main_module
from rushes import media
from rushes.actors import messages as m
from rushes.actors.job import pending
from rushes.cli import main
from rushes.testing.failpoints import armed, kill


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What is to go wrong."""

    point: str = ""  # where to be killed
    jobs: int = 1  # once so many of them have come there; until then they wait
    broken: str = ""  # which protection is missing


class Gathering:
    """Holds jobs at one point until all have come, and then ends the process."""

    def __init__(self, jobs: int) -> None:
        self._missing = jobs

    async def __call__(self) -> None:
        self._missing -= 1
        if not self._missing:
            await kill()
        await asyncio.Event().wait()


def reckless(job: m.Job, incarnation: str | None) -> m.Owed | None:
    """The protection that is missing: whoever finds an intent sends, whosesoever it is."""
    return pending(job, job.started.incarnation if isinstance(job, m.Submitting) else incarnation)


def stuck(*_: object) -> None:
    """An adapter that blocks everything and does not come back."""
    urllib.request.urlopen(f"{os.environ[shop.URL]}/hang")


def set_up(trouble: Trouble) -> AbstractContextManager[None]:
    """Change this process, and say what is to last while it runs."""
    setattr(main_module, "installed_adapters", shop.counterparts)  # noqa: B010 - it is no business of the type checker
    setattr(media, "available", lambda: False)  # noqa: B010 - as without its extra: no child process for each take
    match trouble.broken:
        case "incarnation":
            setattr(system_module, "pending", reckless)  # noqa: B010
        case "stuck":
            setattr(shop.Counterpart, "status", stuck)  # noqa: B010
    return armed(trouble.point, Gathering(trouble.jobs)) if trouble.point else nullcontext()


def run(trouble: str, words: Sequence[str]) -> int:
    with set_up(msgspec.json.decode(trouble, type=Trouble)):
        return main(words)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
