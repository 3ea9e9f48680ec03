"""`rushes doctor`: what works here, and what does not. It looks, and changes nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
from pathlib import Path
from typing import Literal

from msgspec import Struct

from rushes import media
from rushes.cli.arguments import Asked, Exit
from rushes.cli.desk import reading
from rushes.cli.screen import Screen, aligned, size
from rushes.eventstore.base import StoreError
from rushes.eventstore.lock import holder
from rushes.eventstore.sqlite import SAFE_SQLITE, SqliteStore
from rushes.faults import MEDIA_EXTRA, RushesError
from rushes.main import Settings, credentials_of, installed_adapters


class Check(Struct, frozen=True):
    """One thing that was looked at. A warning stops nothing."""

    name: str
    state: Literal["ok", "warning", "unusable"]
    detail: str


async def doctor(asked: Asked, settings: Settings, screen: Screen) -> Exit:  # noqa: ARG001
    """Look at everything a job needs."""
    checks = [_python(), _sqlite(), _folder(settings.folder), _owner(settings.folder)]
    checks += [await _log(settings), await _history(settings.log_file), _flight(settings), _media(), *_adapters()]
    usable = all(check.state != "unusable" for check in checks)
    found = {"ok": usable, "checks": checks}
    screen.result(found, aligned([(check.state, check.name, check.detail) for check in checks]))
    return Exit.OK if usable else Exit.TROUBLE


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()}")


def _sqlite() -> Check:
    if sqlite3.sqlite_version_info >= SAFE_SQLITE:
        return Check("sqlite", "ok", sqlite3.sqlite_version)
    needed = ".".join(map(str, SAFE_SQLITE))
    told = f"releases before {needed} can damage a log that two connections checkpoint at once; rushes uses one only"
    return Check("sqlite", "warning", f"{sqlite3.sqlite_version}: {told}")


def _folder(folder: Path) -> Check:
    if folder.is_dir():
        usable = os.access(folder, os.W_OK | os.X_OK)
        return Check("data folder", "ok" if usable else "unusable", f"{folder}{'' if usable else ' cannot be written'}")
    above = next((parent for parent in folder.parents if parent.exists()), folder)
    if not folder.exists() and above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return Check("data folder", "ok", f"{folder} will be made")
    return Check("data folder", "unusable", f"{folder} cannot be made: give another one with --data")


def _owner(folder: Path) -> Check:
    owner = holder(folder)
    if owner is None:
        return Check("lock", "ok", "free: nobody owns the data folder")
    where = f" and answers at {owner.url}" if owner.url else ", without a server"
    return Check("lock", "ok", f"process {owner.pid} owns the data folder{where}")


async def _log(settings: Settings) -> Check:
    try:
        async with reading(settings) as desk:
            page = await desk.jobs(limit=1)
    except (RushesError, StoreError) as error:
        return Check("log", "unusable", str(error))
    return Check("log", "ok", "readable" if page.jobs else "no jobs yet")


async def _history(path: Path) -> Check:
    if not path.is_file():
        return Check("history", "ok", "none yet")
    try:
        store = await SqliteStore.open_readonly(path)
    except StoreError as error:
        return Check("history", "unusable", str(error))
    await store.close()
    if store.lost:
        return Check("history", "unusable", str(store.lost))
    return Check("history", "ok", f"complete, {store.position} positions")


def _flight(settings: Settings) -> Check:
    if not settings.flight:
        return Check("flight record", "ok", "off")
    try:
        size_bytes = settings.flight_file.stat().st_size
    except OSError:
        return Check("flight record", "ok", "none yet")
    return Check("flight record", "ok", f"{size(size_bytes)} of at most {size(settings.flight_max_bytes)}")


def _media() -> Check:
    if media.available():
        return Check("media extra", "ok", "installed")
    return Check("media extra", "warning", f"missing. {MEDIA_EXTRA}")


def _adapters() -> list[Check]:
    """Which providers can be asked. The names of keys are shown, never their values."""
    adapters = installed_adapters()
    found = credentials_of(adapters)
    checks: list[Check] = []
    for name, adapter in adapters.items():
        auth = adapter.capabilities.auth
        if auth is None:
            checks.append(Check(name, "ok", "needs no key"))
        elif there := next((variable for variable in auth.env if variable in found), None):
            checks.append(Check(name, "ok", f"key in {there}"))
        else:
            checks.append(Check(name, "warning", f"no key: set {' or '.join(auth.env).replace('+', ' and ')}"))
    return checks
