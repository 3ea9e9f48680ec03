"""What the callers of a log were told, and whether the log agrees."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from powercut import put

from rushes.eventstore.base import Head, Recorded, Stored, Write
from rushes.eventstore.transactions import select_events, select_streams, set_up
from rushes.eventstore.writer import Answer
from rushes.testing.eventstore import as_new, versions

RAM: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a copy needs no real syncs


class Broken(Exception):
    """The log did not keep its word: something is `lost`, `torn` or `corrupt`."""

    def __init__(self, how: str, what: object) -> None:
        super().__init__(f"{how}: {what}")
        self.how = how


class Ledger:
    """Every append that was asked for, each with a token of its own, and the answers."""

    def __init__(self) -> None:
        self.epoch = ""  # "": nobody was told that there is a log
        self.writes: dict[int, Write] = {}
        self.told: dict[int, Stored] = {}

    def note(self, writes: Iterable[Write], answers: Iterable[Answer | None]) -> None:
        """What was asked for, and what was answered."""
        for write, answer in zip(writes, answers, strict=True):
            self.writes[write.token] = write
            if isinstance(answer, Stored) and self.told.setdefault(write.token, answer) != answer:
                raise Broken("torn", f"{self.told[write.token]} became {answer}")

    def judge(self, image: dict[str, bytes]) -> None:
        """Look with Python's own SQLite at a copy of what is on the platters. Raises Broken."""
        with TemporaryDirectory(dir=RAM) as folder:
            put(Path(folder), image)
            try:
                with closing(sqlite3.connect(Path(folder, "rushes.db"), isolation_level=None)) as plain:
                    set_up(plain)
                    self._judge(plain)
            except sqlite3.Error as error:
                raise Broken("corrupt", error) from error

    def _judge(self, plain: sqlite3.Connection) -> None:
        if plain.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise Broken("corrupt", "integrity_check")
        if self.epoch not in {"", plain.execute("SELECT value FROM store WHERE key = 'epoch'").fetchone()[0]}:
            raise Broken("lost", "the epoch")
        log = select_events(plain, "ORDER BY position", ())
        if log.damaged:
            raise Broken("corrupt", log.damaged)
        self._check_appends(log.events)
        _check_numbers(log.events)
        self._check_heads(plain)

    def _check_appends(self, log: Sequence[Recorded]) -> None:
        """What was told is there; every append is whole, or not there at all."""
        found: dict[int, list[Recorded]] = defaultdict(list)
        for event in log:
            found[event.token].append(event)
        for token, stored in self.told.items():
            if token not in found:
                raise Broken("lost", stored)
            if (found[token][0].position, found[token][-1].position) != (stored.first, stored.last):
                raise Broken("torn", stored)
        for token, events in found.items():
            if [as_new(event) for event in events] != self.writes[token].events:
                raise Broken("torn", events)

    def _check_heads(self, plain: sqlite3.Connection) -> None:
        """The rows of streams belong to the last append that is there."""
        last: dict[int, Any] = dict(plain.execute("SELECT stream, token FROM events ORDER BY position").fetchall())
        heads = {row.id: Head(open=row.open, lane=row.lane) for row in select_streams(plain, "", ())}
        if heads != {stream: self.writes[token].head for stream, token in last.items()}:
            raise Broken("torn", heads)


def _check_numbers(log: Sequence[Recorded]) -> None:
    streams: dict[int, list[Recorded]] = defaultdict(list)
    for event in log:
        streams[event.stream].append(event)
    for events in streams.values():
        if versions(events) != list(range(1, len(events) + 1)):
            raise Broken("torn", f"versions of stream {events[0].stream}")
    if [event.position for event in log] != list(range(1, len(log) + 1)):
        raise Broken("torn", "positions")
