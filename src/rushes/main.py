"""Settings and wiring: the only file that reads the environment and picks the real parts."""

from __future__ import annotations

import logging
import os
import sys
import time
import tomllib
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import platformdirs
import structlog
from msgspec import Meta, Struct

from rushes import media
from rushes.actors import codec
from rushes.actors.actor import KIND, head_of
from rushes.actors.job import evolve
from rushes.actors.messages import Job, New
from rushes.actors.perform import Performer
from rushes.actors.system import System
from rushes.adapters.base import Adapter
from rushes.adapters.http import Http
from rushes.assets import Assets
from rushes.emulators.local import Lab
from rushes.eventstore.base import Head, Recorded
from rushes.eventstore.lock import FolderLock
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import OUTDATED, SqliteStore
from rushes.faults import MEDIA_EXTRA, ExtraMissing, Unreadable, bad
from rushes.studio import Doors, Studio
from rushes.video import Probe, fault_of
from rushes.views.jobs import JobsView, ReadonlyView

PREFIX: Final = "RUSHES_"
RELEASE: Final = version("rushes")
_log = structlog.get_logger("rushes")


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every setting. Arguments win over RUSHES_… in the environment, that over rushes.toml, that over these."""

    data: str = ""  # the data folder; empty: the user's own data folder
    listen: str = "127.0.0.1:8484"
    default_model: str = "local"
    stop_grace_s: Annotated[float, Meta(ge=0, le=3600)] = 8.0  # for paid calls to end in
    log_level: str = "warning"  # debug, info, warning, error
    allowed_origins: list[str] = []  # pages of other hosts that may open our WebSocket

    @property
    def folder(self) -> Path:
        """The data folder as an absolute path: what is told about its files holds in every working directory."""
        return Path(self.data or platformdirs.user_data_dir("rushes")).expanduser().absolute()

    @property
    def log_file(self) -> Path:
        """The log's database."""
        return self.folder / "rushes.db"


class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        """Seconds since 1970, UTC, to the millisecond."""
        return time.time_ns() // 1_000_000 / 1_000


def load_settings(arguments: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from all their places. Raises BadRequest naming the one that is wrong."""
    environ = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    if (file := Path(environ.get(f"{PREFIX}CONFIG", "rushes.toml"))).is_file():
        merged |= _read_settings(file)
    known = Settings.__struct_fields__
    merged |= {name: environ[key] for name in known if (key := PREFIX + name.upper()) in environ}
    merged |= {name: value for name, value in (arguments or {}).items() if value is not None}
    if (arguments or {}).get("data") == "":
        raise bad("data", "The data folder has no name: a variable may be empty. Give a folder, or leave it out.")
    if isinstance(origins := merged.get("allowed_origins"), str):
        merged["allowed_origins"] = origins.split()
    try:
        return msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        fault = fault_of(error, Settings)
        raise bad(fault.field, f"A setting is wrong. {fault.detail}") from error


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise bad("config", f"The settings in {file} cannot be read: {error}.") from error


def set_up_logs(level: str, *, serving: bool = False) -> None:
    """Log lines go to stderr, so that stdout holds results alone; only at debug do they carry tracebacks.

    That SQLite is outdated is told where we serve, not again with every verb: `rushes doctor` says it too. A program
    that has configured structlog itself keeps what it has.
    """
    known = logging.getLevelNamesMapping()
    if level.upper() not in known:
        raise bad("log_level", f"There is no log level {level!r}: choose debug, info, warning or error.")
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            *(() if serving else (_without_outdated,)),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if level == "debug" else _without_traceback,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(known[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def _without_traceback(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.pop("exc_info", None)
    return event


def _without_outdated(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if event["event"] == OUTDATED:
        raise structlog.DropEvent
    return event


def installed_adapters() -> dict[str, Adapter]:
    """Every adapter that is registered under the entry point group `rushes.adapters`, ours and other packages'."""
    made: dict[str, Adapter] = {}
    for point in entry_points(group="rushes.adapters"):
        try:
            adapter: Adapter = point.load()()
        except Exception as error:  # noqa: BLE001 - somebody else's package must not stop ours
            _log.error("adapter.failed", entry_point=point.value, error=f"{type(error).__name__}: {error}")
        else:
            made[adapter.name] = adapter
    return dict(sorted(made.items()))


def credentials_of(adapters: Mapping[str, Adapter], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The keys that are there, by the name of their variable."""
    environ = os.environ if environ is None else environ
    auths = [adapter.capabilities.auth for adapter in adapters.values()]
    names = [name for auth in auths if auth is not None for name in auth.env]
    return {name: environ[name] for name in names if environ.get(name)}


def base_urls_of(adapters: Mapping[str, Adapter], environ: Mapping[str, str]) -> dict[str, str]:
    """The addresses that were set explicitly: what points an adapter at an emulator or a gateway."""
    variables = {name: adapter.capabilities.base_url_env for name, adapter in adapters.items()}
    return {name: environ[variable] for name, variable in variables.items() if variable and environ.get(variable)}


@asynccontextmanager
async def open_studio(
    folder: str | Path | None = None,
    *,
    settings: Settings | None = None,
    adapters: Mapping[str, Adapter] | None = None,
    environ: Mapping[str, str] | None = None,
    accept_loss: bool = False,
) -> AsyncGenerator[Studio]:
    """Own a data folder: take up its unfinished jobs, run until the block ends, then stop cleanly.

    `accept_loss`: go on although the log lacks events that it had. Jobs may then be sent, and billed, again.

    Raises:
        FolderInUse: another process owns it; its address is in the message.
        FolderTrouble: it cannot be made or written.
        HistoryLost: its log lacks events that it had; the message says how many, and what can be done.
    """
    environ = os.environ if environ is None else environ
    settings = settings or load_settings(environ=environ)
    set_up_logs(settings.log_level)
    if folder is not None:
        settings = msgspec.structs.replace(settings, data=str(folder))
    root = settings.folder
    adapters = installed_adapters() if adapters is None else adapters
    async with AsyncExitStack() as stack:
        lock = FolderLock.acquire(root)
        stack.callback(lock.release)
        clock, assets = SystemClock(), Assets(root / "takes")
        assets.sweep()
        credentials = credentials_of(adapters, environ)
        lab = Lab(root / "lab", resolve=lambda asset: assets.path(asset.key))
        stack.callback(lab.close)
        http = await stack.enter_async_context(
            Http(
                base_urls=base_urls_of(adapters, environ),
                credentials=credentials,
                read=lambda asset: assets.path(asset.key).read_bytes(),
                inner={"local": lab},
                clock=clock,
            )
        )
        store = await SqliteStore.open(settings.log_file, release=RELEASE, accept_loss=accept_loss)
        stack.push_async_callback(store.close)
        jobs = await JobsView.open(store, root / "views.db")
        stack.push_async_callback(jobs.close)
        performer = Performer(adapters, http, assets, clock, _probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=clock, release=RELEASE)
        stack.push_async_callback(system.stop, settings.stop_grace_s)
        doors = Doors(
            fetch=http.fetch,
            look_at_image=_look_at_image,
            credentials=credentials,
            default_model=settings.default_model,
            unavailable=_unavailable,
            announce=lock.announce,
        )
        studio = Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=doors)
        await system.start()
        yield studio


@asynccontextmanager
async def open_readonly(settings: Settings) -> AsyncGenerator[Studio]:
    """Look at a folder's jobs without owning it: nothing runs, nothing is written, no folder is made."""
    set_up_logs(settings.log_level)
    adapters, clock, assets = installed_adapters(), SystemClock(), Assets(settings.folder / "takes")
    async with AsyncExitStack() as stack:
        there = settings.log_file.is_file()
        store = await SqliteStore.open_readonly(settings.log_file) if there else MemoryStore()
        stack.push_async_callback(store.close)
        nowhere = Http(base_urls={}, credentials={}, read=lambda _: b"", inner={}, clock=clock)
        http = await stack.enter_async_context(nowhere)
        performer = Performer(adapters, http, assets, clock, _probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=clock, release=RELEASE)
        doors = Doors(fetch=http.fetch, look_at_image=_look_at_image, credentials={}, unavailable=_unavailable)
        jobs = ReadonlyView(store, settings.folder / "views.db")
        yield Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=doors)


def refold(kind: str, history: Iterable[Recorded]) -> Head | str:
    """What a stream's row in the log must say, by its events; or why this release cannot tell."""
    if kind != KIND:
        return f"This release does not know streams of the kind {kind!r}: a newer release wrote it."
    job: Job = New()
    try:
        for recorded in history:
            job = evolve(job, codec.decode(recorded), recorded.at)
    except Unreadable as error:
        return error.detail
    except Exception as error:  # noqa: BLE001 - events in an order that no release writes
        return f"Its events do not make a job ({type(error).__name__}: {error})."
    return head_of(job)


def _unavailable(provider: str) -> Exception | None:
    return ExtraMissing(MEDIA_EXTRA) if provider == "local" and not media.available() else None


async def _probe(path: Path) -> Probe:
    return await media.probe(path) if media.available() else Probe()


async def _look_at_image(path: Path) -> tuple[int, int]:
    return await media.check_image(path) if media.available() else (0, 0)
