"""A disk whose power can be cut, and which can fail: a file system for SQLite, below its second driver.

A file here has two lives. What the computer sees lies in a real folder. What the platters hold is what was there at the
file's last sync; a name is on them once the folder was synced, which SQLite does with the first sync of a journal. When
the power goes, anything may have become of the rest: writes and truncations since the last sync are lost, kept, kept in
another order, or torn, each file for itself. This is more than a disk may do, and SQLite promises to stand it.

The locks and the shared memory are the real ones, so nobody else may have these files open meanwhile.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import apsw
from msgspec import Struct

Change: TypeAlias = "tuple[int, bytes | None]"  # (offset, bytes written), or (size, None): truncated

SECTOR_BYTES: Final = 512
WAYS: Final = ("nothing", "everything", "prefix", "subset", "reordered", "torn")
JOURNALS: Final = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
VERSIONS: Final = f"SQLite {sqlite3.sqlite_version} (sqlite3) and {apsw.sqlite_lib_version()} (apsw)"
_numbers: Final = count()


class PowerCut(apsw.IOError):
    """The computer is off."""


class Trouble(Struct):
    """The nth operation of a kind from now fails, half done; a lasting trouble hits the next ones too."""

    operation: str  # "write", "sync", "truncate", "delete"
    error: type[apsw.Error]
    nth: int  # from 1
    lasting: bool

    def strikes(self, operation: str) -> bool:
        """Whether this operation, which counts, fails."""
        if operation != self.operation:
            return False
        self.nth -= 1
        return self.nth == 0 or (self.nth < 0 and self.lasting)


class Inode:
    """A file's bytes at its last sync, and what happened to it since."""

    def __init__(self, synced: bytes = b"") -> None:
        self.synced = bytearray(synced)
        self.changes: list[Change] = []

    def sync(self) -> None:
        """All of it is on the platters."""
        _apply(self.synced, self.changes)
        self.changes = []

    def after_cut(self, way: str, rng: random.Random) -> bytes:
        """What is found on the platters after a power cut."""
        image = bytearray(self.synced)
        _apply(image, _survivors(self.changes, way, rng))
        return bytes(image)


def _apply(image: bytearray, changes: Sequence[Change]) -> None:
    for where, data in changes:
        if data is None:
            del image[where:]
        image.extend(bytes(max(0, where - len(image))))
        if data is not None:
            image[where : where + len(data)] = data


def _survivors(changes: Sequence[Change], way: str, rng: random.Random) -> Sequence[Change]:
    if way in {"nothing", "everything"}:
        return changes if way == "everything" else []
    some = [change for change in changes if rng.random() < 0.5]
    if way in {"subset", "reordered"}:
        return some if way == "subset" else rng.sample(some, len(some))
    until = rng.randrange(len(changes) + 1)
    torn = changes[until : until + 1] if way == "torn" else []
    return [*changes[:until], *(piece for change in torn for piece in _torn(change, rng))]


def _torn(change: Change, rng: random.Random) -> Iterator[Change]:
    """Some of the sectors of a write, and one of them only to a byte in its middle."""
    where, data = change
    if data is None:
        return
    edges = [where, *range((where // SECTOR_BYTES + 1) * SECTOR_BYTES, where + len(data), SECTOR_BYTES)]
    within = rng.choice(edges)
    for start, end in zip(edges, [*edges[1:], where + len(data)], strict=True):
        if start == within:
            yield start, data[start - where : rng.randint(start, end) - where]
        elif rng.random() < 0.5:
            yield start, data[start - where : end - where]


class Disk(apsw.VFS):
    """The files of one folder. Use `connect`; `cut` and then `restore` when the power goes."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.name = f"powercut-{next(_numbers)}"
        self.trouble: Trouble | None = None
        self.cut_in: int | None = None  # so many operations from now, the power goes
        self.off = False
        self._names: dict[str, Inode] = {}  # as the computer sees them
        self._synced_names: dict[str, Inode] = {}  # as the platters have them
        self._name_changes: list[tuple[str, Inode | None]] = []
        super().__init__(self.name, "")
        self.restore({})

    def connect(self, kind: type[apsw.Connection] = apsw.Connection) -> sqlite3.Connection:
        """A connection to the log in the folder, in the clothes of the other driver."""
        return cast("sqlite3.Connection", kind(str(self.folder / "rushes.db"), vfs=self.name))

    def kill(self, connection: sqlite3.Connection) -> None:
        """End it like a process that is killed: nothing more is done, and nothing is lost either."""
        self.off = True
        disconnect(connection)
        self.off, self.cut_in = False, None

    def image(self, way: str = "") -> dict[str, bytes]:
        """What the platters would hold if the power went now: name and bytes. Without a way: another one a file."""
        names = dict(self._synced_names)
        _rename(names, [change for change in self._name_changes if self.rng.random() < 0.5])
        return {name: inode.after_cut(way or self.rng.choice(WAYS), self.rng) for name, inode in names.items()}

    def cut(self, way: str = "") -> dict[str, bytes]:
        """Let the power go. Nothing can be done until `restore`."""
        self.off = True
        return self.image(way)

    def restore(self, image: dict[str, bytes]) -> None:
        """Start the computer again, with that on the platters. Nobody may have the files open."""
        put(self.folder, image)
        self._names = {name: Inode(data) for name, data in image.items()}
        self._synced_names, self._name_changes = dict(self._names), []
        self.off, self.cut_in, self.trouble = False, None, None

    def happens(self, operation: str) -> apsw.Error | None:
        """Something is about to be done: the error that it ends with, half way."""
        if self.off:
            raise PowerCut("the computer is off")
        if self.cut_in is not None:
            self.cut_in -= 1
            if self.cut_in < 0:
                self.cut_in, self.off = None, True
                return PowerCut(f"the power went at a {operation}")
        if self.trouble and self.trouble.strikes(operation):
            return self.trouble.error(f"trouble at a {operation}")
        return None

    def half(self) -> bool:
        """Whether an operation that ends with an error had its effect all the same."""
        return self.rng.random() < 0.5

    def sync_folder(self) -> None:
        """The names are on the platters."""
        _rename(self._synced_names, self._name_changes)
        self._name_changes = []

    def inode(self, name: str) -> Inode:
        """The file of that name, which is made where it is missing."""
        if name not in self._names:
            self._names[name] = Inode()
            self._name_changes.append((name, self._names[name]))
        return self._names[name]

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """See apsw. A file without a name is for a moment's use: it may be anywhere."""
        if name is None:
            return apsw.VFSFile("", name, flags)
        return _File(self, name if isinstance(name, str) else name.filename(), name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """See apsw."""
        name = Path(filename).name
        error = self.happens("delete")
        if not error or self.half():
            super().xDelete(filename, syncdir)
            self._names.pop(name, None)
            self._name_changes.append((name, None))
        if error:
            raise error
        if syncdir:
            self.sync_folder()


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, name: str | apsw.URIFilename, flags: list[int]) -> None:
        self._disk = disk
        if disk.off:
            raise PowerCut("the computer is off")
        super().__init__("", name, flags)
        self._inode = disk.inode(Path(path).name)
        self._syncs_folder = bool(flags[0] & JOURNALS)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        written = bytes(data)
        error = self._disk.happens("write")
        if error:
            written = written[: self._disk.rng.randint(0, len(written))]
        if written:
            self._inode.changes.append((offset, written))
            super().xWrite(written, offset)
        if error:
            raise error

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        error = self._disk.happens("truncate")
        if not error or self._disk.half():
            self._inode.changes.append((newsize, None))
            super().xTruncate(newsize)
        if error:
            raise error

    def xSync(self, flags: int) -> None:  # noqa: N802
        del flags  # they say how, not whether
        error = self._disk.happens("sync")
        if error:
            raise error
        self._inode.sync()
        if self._syncs_folder:
            self._disk.sync_folder()
            self._syncs_folder = False


def _rename(names: dict[str, Inode], changes: Sequence[tuple[str, Inode | None]]) -> None:
    for name, inode in changes:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def put(folder: Path, image: dict[str, bytes]) -> None:
    """Make these the files of a folder, and let no other be there: shared memory does not outlive the power."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, data in image.items():
        (folder / name).write_bytes(data)


def disconnect(connection: sqlite3.Connection) -> None:
    """Close it, whatever state it and its disk are in."""
    with suppress(apsw.Error):
        cast("apsw.Connection", connection).close(force=True)
