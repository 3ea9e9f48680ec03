"""Who owns a data folder: one process at a time, and everybody can see which.

The operating system's lock says whether somebody owns it, and ends with the process however it ends; the text in the
file says who. A text without a lock is history.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from rushes.faults import FolderInUse, FolderTrouble

LOCK_FILE: Final = "lock"
TRIES: Final = 10  # `holder` holds the lock for a moment itself, to see whether it is free
PAUSE_S: Final = 0.01


class Holder(Struct, frozen=True):
    """The process that owns a data folder. pid 0: it has not said yet."""

    pid: int = 0
    url: str = ""
    started_at: float = 0.0  # seconds since 1970, UTC


class FolderLock:
    """A data folder that is ours until `release`."""

    def __init__(self, folder: Path, file: int, started_at: float) -> None:
        """Use `acquire`."""
        self.folder = folder
        self._file, self._started_at = file, started_at

    @classmethod
    def acquire(cls, folder: Path | str, url: str = "") -> FolderLock:
        """Become the owner of a folder, which is made where it is missing.

        Raises:
            FolderInUse: another process owns it.
            FolderTrouble: it cannot be made or written to.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _trouble(folder, error) from error
        lock = cls(folder, file, time.time())
        try:
            lock.take(url)
        except BaseException:
            lock.release()
            raise
        return lock

    def take(self, url: str) -> None:
        """Lock the file and write who we are; `acquire` does it."""
        try:
            if not any(_try_again(self._file, attempt) for attempt in range(TRIES)):
                owner = _read(self._file)
                raise FolderInUse(str(self.folder), owner.pid, owner.url)
        except OSError as error:  # a file system without locks
            raise _trouble(self.folder, error) from error
        self.announce(url)

    def announce(self, url: str) -> None:
        """Say where the owner answers."""
        text = msgspec.json.encode(Holder(os.getpid(), url, self._started_at))
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, text)
            os.ftruncate(self._file, len(text))
        except OSError as error:
            raise _trouble(self.folder, error) from error

    def release(self) -> None:
        """Let others have it. Twice is once."""
        if self._file >= 0:
            os.close(self._file)  # the lock goes with it
            self._file = -1


def holder(folder: Path | str) -> Holder | None:
    """Who owns the folder right now, or None: whatever the file says, only the lock counts."""
    try:
        file = os.open(Path(folder) / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:  # shared: those who look do not hide behind each other
        return None if _lock(file, shared=True) else _read(file)
    finally:
        os.close(file)


def _trouble(folder: Path, error: OSError) -> FolderTrouble:
    return FolderTrouble(f"The data folder {folder} cannot be used: {error.strerror}. Give another one.")


def _try_again(file: int, attempt: int) -> bool:
    if attempt:
        time.sleep(PAUSE_S)
    return _lock(file)


def _read(file: int) -> Holder:
    os.lseek(file, 0, os.SEEK_SET)
    try:
        return msgspec.json.decode(os.read(file, 4096), type=Holder)
    except msgspec.DecodeError:
        return Holder()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int, *, shared: bool = False) -> bool:
        del shared  # there is no such thing
        os.lseek(file, 2**30, os.SEEK_SET)  # behind the text: Windows would not let others read what is locked
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: int, *, shared: bool = False) -> bool:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
