"""The verbs that look after the log itself. They work on files, also beside a server.

They block the loop on purpose: nothing else runs in it, and so Ctrl-C ends them at once.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from msgspec.structs import asdict

from rushes.cli.arguments import Asked, Exit
from rushes.cli.screen import Screen, plain, size
from rushes.eventstore import upkeep
from rushes.eventstore.lock import FolderLock
from rushes.eventstore.upkeep import Finding, Report
from rushes.faults import bad
from rushes.main import Settings, refold

LISTED: Final = 10_000  # findings in one JSON document


class Listing:
    """Findings, told as they come; for one JSON document they are kept."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.kept: list[Finding] = []

    def __call__(self, finding: Finding) -> None:
        if not self._screen.as_json:
            self._screen.result(finding, plain(finding.line()))
        elif len(self.kept) < LISTED:
            self.kept.append(finding)


async def verify(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Look through the whole log, and say what is wrong with it."""
    if asked.file is not None and asked.fix:
        raise bad("fix", "Only the data folder's own log can be mended: leave FILE or --fix out.")
    path = settings.log_file if asked.file is None else Path(asked.file)
    listing = Listing(screen)
    with interruptible(), _owned(settings.folder) if asked.fix else nullcontext():
        report = upkeep.verify(path, listing, refold, fix=asked.fix)
    found = {"ok": not report.wrong, "file": str(path), **asdict(report), "findings": listing.kept}
    screen.result(found, f"{path}: {_sum(report)}")
    return Exit.FAILED if report.wrong else Exit.OK


async def backup(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Copy the log into a new file."""
    file = Path(asked.file or "").absolute()
    listing = Listing(screen)
    with interruptible():
        report = upkeep.backup(settings.log_file, file, listing, refold)
    size_bytes = file.stat().st_size
    found = {"ok": not report.wrong, "file": str(file), "size_bytes": size_bytes, **asdict(report)}
    screen.result({**found, "findings": listing.kept}, f"{file}: {size(size_bytes)}, {_sum(report)}")
    return Exit.FAILED if report.wrong else Exit.OK


async def restore(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Put a backup in the log's place. What is made from the log is made anew from this one."""
    listing = Listing(screen)
    with interruptible(), _owned(settings.folder):
        file = Path(asked.file or "").absolute()
        done = upkeep.restore(file, settings.log_file, listing, refold, accept_loss=asked.accept_loss)
        for ending in ("", "-wal", "-shm"):
            (settings.folder / f"views.db{ending}").unlink(missing_ok=True)
    told = f"The log ends at position {done.position} now, in epoch {done.epoch}."
    screen.result({**asdict(done), "findings": listing.kept}, told)
    if done.aside is not None:
        screen.note(f"The log before is kept: {done.aside}")
    return Exit.OK


def _sum(report: Report) -> str:
    told = f"{report.streams} streams, {report.events} events up to position {report.position}"
    count = sum(report.found.values())
    if not count:
        return f"{told}, nothing wrong"
    return f"{told}, {count} {'finding' if count == 1 else 'findings'}, {report.fixed} mended"


@contextmanager
def _owned(folder: Path) -> Generator[None]:
    lock = FolderLock.acquire(folder)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def interruptible() -> Generator[None]:
    """Ctrl-C ends what blocks the loop."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
