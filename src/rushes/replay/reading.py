"""Recordings out of a data folder, also beside its owner: the log is opened for reading, and nothing is written.

    recording = load("studio", "job_…")
    for recording in load_all("studio"):
        ...

Who has an event loop uses a `shelf`: the same, in threads.
"""

from __future__ import annotations

import asyncio
import platform
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rushes import flight
from rushes.actors.actor import KIND
from rushes.actors.codec import BadEvent, decode
from rushes.actors.messages import JobRequested
from rushes.adapters.installed import distribution_of
from rushes.eventstore.base import Head, Recorded, StoreError, Stream
from rushes.eventstore.follow import Found
from rushes.eventstore.transactions import rows_of, select_events, select_streams, set_up_reader
from rushes.faults import NotFound, Unavailable, damaged
from rushes.replay.export import import_path, read_file
from rushes.replay.recording import InputDigest, Recording

LOG: Final = "rushes.db"
FLIGHT: Final = "flight.db"


def load(folder: str | Path, job_id: str) -> Recording:
    """One job of a data folder; where its log does not have it, the one that was imported there.

    Raises:
        NotFound: there is no such job.
        Unavailable: the files cannot be read at the moment.
        Unreadable: an event is damaged, or the import is no recording.
    """
    folder = Path(folder)
    try:
        with closing(_Files(folder / LOG, folder / FLIGHT)) as files:
            return files.job(job_id)
    except NotFound:
        if (imported := import_path(folder, job_id)).is_file():
            return read_file(imported)
        raise


def load_all(folder: str | Path, since: float = 0.0) -> Iterator[Recording]:
    """Every job of a folder's log, the oldest first, one at a time. What was imported is not among them.

    An event that is damaged is left out: `verify` and `rerun` name the version that is missing.

    Args:
        folder: the data folder.
        since: jobs that began then or later, in seconds since 1970.

    Raises:
        NotFound: there is no log: no jobs at all would look like jobs that are all the same.
        Unavailable: the files cannot be read at the moment.
    """
    if not (Path(folder) / LOG).is_file():
        raise NotFound(f"There is no log in {folder}: name the data folder that the jobs were made in.")
    with closing(_Files(Path(folder) / LOG, Path(folder) / FLIGHT)) as files:
        for stream in files.streams():
            recording = files.recording(stream)
            if recording.events and recording.events[0].at >= since:
                yield recording


class Shelf:
    """A folder's recordings, for callers in an event loop."""

    def __init__(self, files: _Files) -> None:
        self._files = files

    async def job(self, job_id: str) -> Recording:
        """As `load` has it, of the log alone."""
        return await asyncio.to_thread(self._files.job, job_id)

    async def jobs(self, since: float = 0.0) -> AsyncGenerator[Recording, None]:
        """See `load_all`."""
        for stream in await asyncio.to_thread(self._files.streams):
            recording = await asyncio.to_thread(self._files.recording, stream)
            if recording.events and recording.events[0].at >= since:
                yield recording


@asynccontextmanager
async def shelf(log_file: Path, flight_file: Path) -> AsyncGenerator[Shelf, None]:
    """A log and its flight record, open for reading. Raises Unavailable."""
    files = await asyncio.to_thread(_Files, log_file, flight_file)
    try:
        yield Shelf(files)
    finally:
        await asyncio.to_thread(files.close)


class _Files:
    """The two files. One thread at a time uses them, whichever it is."""

    def __init__(self, log_file: Path, flight_file: Path) -> None:
        self._log_file, self._flight_file = log_file, flight_file
        self._db: sqlite3.Connection | None = None
        if not log_file.is_file():
            return
        uri = f"{log_file.absolute().as_uri()}?mode=ro"
        try:
            db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            try:
                set_up_reader(db)
            except BaseException:
                db.close()
                raise
        except (sqlite3.Error, StoreError) as error:
            raise self._trouble(error) from error
        self._db = db

    def close(self) -> None:
        """Let go of the log."""
        if self._db is not None:
            self._db.close()

    def streams(self) -> list[int]:
        """The numbers of all jobs, in the order of their birth."""
        if self._db is None:
            return []
        try:
            return [row[0] for row in rows_of(self._db, "SELECT id FROM streams WHERE kind = ? ORDER BY id", (KIND,))]
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def job(self, job_id: str) -> Recording:
        """One job, whole."""
        stream, found = self._read("WHERE s.name = ?", job_id)
        if stream is None or stream.kind != KIND:
            raise NotFound(f"There is no job {job_id}.", job_id=job_id)
        if found.damaged:
            raise damaged(job_id, found.damaged[0].version, found.damaged[0].position)
        if len(found.events) != stream.version:
            first = next((v for v, one in enumerate(found.events, 1) if one.version != v), len(found.events) + 1)
            raise damaged(job_id, first, 0)
        return self._made(stream, found.events)

    def recording(self, number: int) -> Recording:
        """One job, as far as it can be read."""
        stream, found = self._read("WHERE s.id = ?", number)
        assert stream is not None
        return self._made(stream, found.events)

    def _read(self, where: str, value: str | int) -> tuple[Stream | None, Found]:
        """Its row and its events, of one moment."""
        if self._db is None:
            return None, Found([], [])
        try:
            self._db.execute("BEGIN")
            try:
                streams = select_streams(self._db, where, (value,))
                number = streams[0].id if streams else 0
                found = select_events(self._db, "WHERE stream = ? ORDER BY version", (number,))
            finally:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        return (streams[0] if streams else None), found

    def _made(self, stream: Stream, events: list[Recorded]) -> Recording:
        exchanges = flight.read(self._flight_file, stream.name)
        times = [one.at for one in events] + [one.last_at for one in exchanges]
        runs = flight.read_runs(self._flight_file, min(times), max(times)) if times else []
        return Recording(
            job_id=stream.name,
            tenant=stream.tenant,
            events=tuple(events),
            exchanges=tuple(exchanges),
            runs=tuple(runs),
            inputs=inputs_of(events),
            versions=_versions(stream.lane.partition("/")[0]),
            source=str(self._log_file.parent),
            head=Head(open=stream.open, lane=stream.lane),
        )

    def _trouble(self, error: Exception) -> Unavailable:
        return Unavailable(f"The log {self._log_file} cannot be read: {error}.")


def inputs_of(events: list[Recorded]) -> tuple[InputDigest, ...]:
    """What the job was given, as its first event has it; nothing where that cannot be read."""
    try:
        first = decode(events[0]) if events else None
    except BadEvent:
        return ()
    if not isinstance(first, JobRequested):
        return ()
    return tuple(
        InputDigest(
            role=one.role, sha256=one.asset.sha256, media_type=one.asset.media_type, size_bytes=one.asset.size_bytes
        )
        for one in first.spec.inputs
    )


@cache
def _versions(provider: str) -> dict[str, str]:
    found = {"rushes": version("rushes"), "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    adapter = distribution_of(provider)
    return {**found, "adapter": adapter} if adapter else found
