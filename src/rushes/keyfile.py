"""A key that belongs to a data folder: made once, kept where nobody else can read it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from rushes.faults import FolderTrouble

KEY_FILE: Final = "callbacks.key"
KEY_BYTES: Final = 32


def key_of(folder: Path) -> bytes:
    """The data folder's own key, made when it is first asked for; for the folder's owner. Raises FolderTrouble.

    With another key, addresses that were given out before are not known any more.
    """
    file = folder / KEY_FILE
    try:
        key = file.read_bytes() if file.exists() else _made(file)
    except OSError as error:
        raise FolderTrouble(f"The key of callbacks {file} cannot be used: {error.strerror}.") from error
    if len(key) != KEY_BYTES:
        raise FolderTrouble(f"The key of callbacks {file} is damaged: put it back, or delete it and a new one is made.")
    return key


def _made(file: Path) -> bytes:
    """It is there whole or not at all, and nobody else can read it."""
    key, part = secrets.token_bytes(KEY_BYTES), file.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(key)
        opened.flush()
        os.fsync(opened.fileno())
    part.replace(file)
    entry = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
    return key
