"""`rushes doctor`: what works here, what does not, and what to do. It looks, and changes nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from rushes import flight, media
from rushes.adapters.base import Adapter
from rushes.api.app import WAYS_OUT, address
from rushes.api.auth import is_loopback, stored
from rushes.cli.arguments import Asked, Exit
from rushes.cli.checks import Check, callbacks, callbacks_online, disk, providers_online, variables
from rushes.cli.desk import reading
from rushes.cli.screen import Screen, aligned, size
from rushes.eventstore.base import StoreError
from rushes.eventstore.lock import holder
from rushes.eventstore.sqlite import SAFE_SQLITE, SqliteStore
from rushes.faults import MCP_EXTRA, MEDIA_EXTRA, AccessDenied, RushesError, Unavailable
from rushes.main import Settings, base_urls_of, credentials_of, installed_adapters


async def doctor(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Look at everything a job needs."""
    adapters = installed_adapters()
    checks = [_python(), _sqlite(), _folder(settings.folder), disk(settings.folder), _owner(settings.folder)]
    checks += [_keys(settings), await _log(settings), await _history(settings.log_file), _flight(settings)]
    checks += [*_extras(), *_adapters(adapters), *variables(adapters, os.environ)]
    checks += callbacks(settings.public_url, adapters, os.environ)
    if asked.ask:
        checks += await providers_online(_addresses(adapters))
        owner = holder(settings.folder)
        checks += await callbacks_online(settings.public_url, adapters, owner.url if owner else "")
    usable = all(check.state != "unusable" for check in checks)
    found = {"ok": usable, "checks": checks}
    screen.result(found, aligned([(check.state, check.name, check.detail) for check in checks]))
    if not asked.ask:
        screen.note("`rushes doctor --ask` also asks the providers' servers, and whether callbacks would come in.")
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


def _keys(settings: Settings) -> Check:
    try:
        found, here_only = stored(settings.folder), is_loopback(address(settings.listen)[0])
    except RushesError as error:
        return Check("keys", "unusable", error.detail)
    live = sum(key.revoked_at is None for key in found)
    if not found and here_only:
        return Check("keys", "ok", "none: the server answers anybody on this machine, and nobody else")
    told = f"{live}, and {len(found) - live} that were revoked"
    return Check("keys", "ok", told) if live else Check("keys", "warning", f"{told}: {WAYS_OUT}")


async def _log(settings: Settings) -> Check:
    try:
        async with reading(settings) as desk:
            page = await desk.jobs(limit=1)
    except AccessDenied as error:
        return Check("log", "warning", f"its server was not asked: {error.detail}")
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
    try:
        flight.read(settings.flight_file, "")
    except Unavailable as error:
        return Check("flight record", "warning", error.detail)
    if (aside := flight.aside_of(settings.flight_file)).exists():
        why = "it was damaged, or of a newer release; look into it or delete it"
        return Check("flight record", "warning", f"one was put aside as {aside}: {why}")
    return Check("flight record", "ok", f"{size(size_bytes)} of at most {size(settings.flight_max_bytes)}")


def _extras() -> list[Check]:
    there = {MEDIA_EXTRA: media.available(), MCP_EXTRA: find_spec("mcp") is not None}
    names = {MEDIA_EXTRA: "media extra", MCP_EXTRA: "mcp extra"}
    return [
        Check(names[extra], "ok", "installed") if found else Check(names[extra], "warning", f"missing. {extra}")
        for extra, found in there.items()
    ]


def _addresses(adapters: Mapping[str, Adapter]) -> list[str]:
    """Where the providers answer that have a key, each server once."""
    found, explicit = credentials_of(adapters), base_urls_of(adapters, os.environ)
    asked = [name for name, one in adapters.items() if (auth := one.capabilities.auth) and found.keys() & set(auth.env)]
    urls = [urlsplit(explicit.get(name) or adapters[name].address()) for name in asked]
    return list(dict.fromkeys(f"{url.scheme}://{url.netloc}" for url in urls if url.scheme.startswith("http")))


def _adapters(adapters: Mapping[str, Adapter]) -> list[Check]:
    """Which providers can be asked. The names of keys are shown, never their values."""
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
