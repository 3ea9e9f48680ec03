"""keys.json: whole after a kill at every step, and no key is lost where several are made at once."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from rushes.api.auth import FILE, Keys, create, revoke, stored
from rushes.faults import FolderTrouble

VICTIM = Path(__file__).with_name("keys_until_killed.py")
AT_ONCE = 8


def kills(folder: Path, how: str) -> list[str]:
    """For each place to die what is wrong with the file then; empty where nothing is. The last victim lived."""
    key, secret = create(folder / "before", "before")
    revoke(folder / "before", create(folder / "before", "gone")[0].id)
    victims = [sys.executable, str(VICTIM), str(folder), how]
    done = subprocess.run(victims, capture_output=True, text=True, timeout=60, check=True)
    copies = sorted((path for path in folder.iterdir() if path.name != "before"), key=lambda path: int(path.name))
    assert Keys(copies[-1]).authenticate(done.stdout.strip()) is not None
    return [damage(copy, key.id, secret) for copy in copies]


def damage(folder: Path, key_id: str, secret: str) -> str:
    try:
        names = [key.name for key in stored(folder)]
    except FolderTrouble as error:
        return error.detail
    who = Keys(folder).authenticate(secret)
    whole = names in (["before", "gone"], ["before", "gone", "victim"])
    return "" if whole and who is not None and who.key == key_id else f"{names}"


def test_a_kill_at_any_step_leaves_the_old_keys_or_the_new(tmp_path: Path) -> None:
    found = kills(tmp_path, "whole")
    assert len(found) > 8  # places to die
    assert [wrong for wrong in found if wrong] == []


def test_a_file_that_is_written_in_place_is_seen_to_break(tmp_path: Path) -> None:
    assert [wrong for wrong in kills(tmp_path, "in-place") if wrong] != []


def make_at_once(folder: Path) -> int:
    """How many of the keys that are made at once are there afterwards; none where the file is broken."""

    def one(number: int) -> None:
        with suppress(FolderTrouble):
            create(folder, f"key {number}")

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(one, range(AT_ONCE * 4)))
    with suppress(FolderTrouble):
        return len(stored(folder))
    return 0


def test_keys_that_are_made_at_once_are_all_there(tmp_path: Path) -> None:
    assert make_at_once(tmp_path) == AT_ONCE * 4
    assert [path.name for path in sorted(tmp_path.iterdir())] == [FILE, f"{FILE}.lock"]


def test_without_the_lock_keys_are_seen_to_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert make_at_once(tmp_path) < AT_ONCE * 4
