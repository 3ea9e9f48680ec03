"""One owner a folder, whatever became of the one before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rushes.eventstore.lock import LOCK_FILE, FolderLock, Holder, holder
from rushes.faults import FolderInUse, FolderTrouble

OWNER = """
import sys
from rushes.eventstore.lock import FolderLock
FolderLock.acquire(sys.argv[1], "http://127.0.0.1:8420")
print("mine", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_owner(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"mine\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with another_owner(tmp_path) as owner:
        with pytest.raises(FolderInUse) as refused:
            FolderLock.acquire(tmp_path)
        assert (refused.value.pid, refused.value.url) == (owner.pid, "http://127.0.0.1:8420")
        assert str(tmp_path) in refused.value.detail
        seen = holder(tmp_path)
        assert seen
        assert (seen.pid, seen.url) == (owner.pid, "http://127.0.0.1:8420")
        owner.kill()
        owner.wait()
        assert holder(tmp_path) is None  # its text is still there
        FolderLock.acquire(tmp_path).release()


def test_control_a_text_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text('{"pid": 1, "url": "http://x", "started_at": 1.0}')
    assert holder(tmp_path) is None
    lock = FolderLock.acquire(tmp_path)
    seen = holder(tmp_path)
    assert seen
    assert seen.pid == os.getpid()
    lock.release()


def test_the_owner_says_where_it_answers(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    lock = FolderLock.acquire(tmp_path / "studio")
    first = holder(tmp_path / "studio")
    assert first
    assert (first.pid, first.url) == (os.getpid(), "")
    lock.announce("http://127.0.0.1:1234567890")
    lock.announce("http://127.0.0.1:1")
    assert holder(tmp_path / "studio") == Holder(os.getpid(), "http://127.0.0.1:1", first.started_at)
    with pytest.raises(FolderInUse):
        FolderLock.acquire(tmp_path / "studio")
    lock.release()
    lock.release()
    assert holder(tmp_path / "studio") is None


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    lock = FolderLock.acquire(tmp_path)
    (tmp_path / LOCK_FILE).write_bytes(b"")
    assert holder(tmp_path) == Holder()
    lock.release()


@pytest.mark.parametrize("folder", ["file/studio", "file"])
def test_a_folder_that_cannot_be(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderTrouble, match="cannot be used"):
        FolderLock.acquire(tmp_path / folder)
