"""Settings and wiring: the only file that reads the environment and picks the real parts."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import re
import shutil
import sys
import time
import tomllib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

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
from rushes.adapters import google_auth
from rushes.adapters.base import Adapter
from rushes.adapters.callbacks import Callbacks, base_of, verifier_of
from rushes.adapters.capabilities import Auth, Setting
from rushes.adapters.catalogue import ModelSetting, with_settings
from rushes.adapters.http import PART, Http
from rushes.adapters.installed import installed_adapters
from rushes.assets import Assets
from rushes.emulators.base import ProviderTwin
from rushes.emulators.local import Lab
from rushes.eventstore.base import Head, Recorded
from rushes.eventstore.lock import FolderLock
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import OUTDATED, SqliteStore
from rushes.faults import GOOGLE_EXTRA, MEDIA_EXTRA, ExtraMissing, Unreadable, bad
from rushes.flight import DEFAULT_KEEP_S, DEFAULT_MAX_BYTES, MIN_BYTES, Flight
from rushes.keyfile import key_of
from rushes.studio import Doors, Studio
from rushes.units import REPLAYING, Clock
from rushes.video import Probe, fault_of
from rushes.views.jobs import JobsView, ReadonlyView

__all__ = ["Settings", "installed_adapters", "load_settings", "open_readonly", "open_studio"]

LogFormat = Literal["logfmt", "json", "console"]
PREFIX: Final = "RUSHES_"
RELEASE: Final = version("rushes")
_log = structlog.get_logger("rushes")


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every setting. Arguments win over RUSHES_… in the environment, that over rushes.toml, that over these."""

    data: str = ""  # the data folder; empty: the user's own data folder
    listen: str = "127.0.0.1:8484"  # HOST:PORT of `rushes serve`; other hosts than this one need a key
    default_model: str = "local"  # of requests that name none
    stop_grace_s: Annotated[float, Meta(ge=0, le=3600)] = 8.0  # for paid calls to end in
    log_level: str = "warning"  # debug, info, warning, error
    log_format: LogFormat = "logfmt"  # of the lines on stderr: for people, `console`
    token: str = ""  # the key that verbs show to a server that has keys
    allowed_origins: list[str] = []  # pages of other hosts that may open our WebSocket
    public_url: str = ""  # where providers reach this server, as https://HOST; empty: they are not asked to call back
    models: list[ModelSetting] = []  # [[models]] of rushes.toml: models like others, but for what is given there

    # How patient the server is with a WebSocket or an event stream, and how much it gives to one: docs/websocket.md.
    ws_hello_s: Annotated[float, Meta(gt=0, le=60)] = 5.0  # to say hello in
    ws_send_s: Annotated[float, Meta(gt=0, le=600)] = 10.0  # for a reader to take a frame
    ws_heartbeat_s: Annotated[float, Meta(ge=0.1, le=600)] = 30.0  # between two signs of life
    ws_sockets: Annotated[int, Meta(ge=1)] = 50  # open at a time, of one tenant
    ws_subscriptions: Annotated[int, Meta(ge=1)] = 20  # of one socket
    ws_commands: Annotated[int, Meta(ge=1)] = 16  # of one socket, under way at a time
    ws_message_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024  # of a message from a client
    ws_messages_per_s: Annotated[float, Meta(gt=0)] = 20.0  # from a client; five seconds' worth may come at once
    ws_buffered_bytes: Annotated[int, Meta(ge=1024)] = 256 * 1024  # that wait for a slow reader, besides one frame

    flight: bool = True  # keep what providers are asked and answer, in flight.db of the data folder
    flight_max_bytes: Annotated[int, Meta(ge=MIN_BYTES)] = DEFAULT_MAX_BYTES  # of that file; the oldest leave first
    flight_keep_s: Annotated[float, Meta(ge=0)] = DEFAULT_KEEP_S  # how long an exchange stays in it

    @property
    def folder(self) -> Path:
        """The data folder as an absolute path: what is told about its files holds in every working directory."""
        return Path(self.data or platformdirs.user_data_dir("rushes")).expanduser().absolute()

    @property
    def log_file(self) -> Path:
        """The log's database."""
        return self.folder / "rushes.db"

    @property
    def flight_file(self) -> Path:
        """The flight record."""
        return self.folder / "flight.db"


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
        msgspec.convert({"models": merged.get("models", [])}, Settings)  # a variable is text, an entry here is not
        return msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        fault = fault_of(error, Settings)
        raise bad(fault.field, f"A setting is wrong. {fault.detail}") from error


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise bad("config", f"The settings in {file} cannot be read: {error}.") from error


def set_up_logs(level: str, form: LogFormat = "logfmt", *, serving: bool = False) -> None:
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
            _without_replayed,
            *(() if serving else (_without_outdated,)),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if level == "debug" else _without_traceback,
            _renderer(form),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(known[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def _renderer(form: LogFormat) -> structlog.typing.Processor:
    match form:
        case "json":
            return structlog.processors.JSONRenderer()
        case "console":
            return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        case "logfmt":
            return structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])


def _without_traceback(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.pop("exc_info", None)
    return event


def _without_replayed(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if REPLAYING.get():
        raise structlog.DropEvent
    return event


def _without_outdated(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if event["event"] == OUTDATED:
        raise structlog.DropEvent
    return event


def with_models(adapters: Mapping[str, Adapter], settings: Sequence[ModelSetting]) -> dict[str, Adapter]:
    """The adapters, with the models that settings add. Raises BadRequest naming the setting that is wrong."""
    for number, setting in enumerate(settings):
        if setting.provider not in adapters:
            known = ", ".join(adapters)
            raise bad(f"models[{number}].provider", f"There is no provider {setting.provider!r}. Known: {known}.")
    return {name: _with(adapter, settings) for name, adapter in adapters.items()}


def _with(adapter: Adapter, settings: Sequence[ModelSetting]) -> Adapter:
    """The adapter itself is left as it is: another studio may use it with other settings."""
    if all(setting.provider != adapter.name for setting in settings):
        return adapter
    extended = copy.copy(adapter)
    extended.capabilities = with_settings(adapter, settings)
    return extended


def installed_emulators() -> dict[str, type[ProviderTwin]]:
    """Every twin that is registered under the entry point group `rushes.emulators`, by its provider's name."""
    found: dict[str, type[ProviderTwin]] = {}
    for point in entry_points(group="rushes.emulators"):
        try:
            twin: type[ProviderTwin] = point.load()
            found[twin.name] = twin
        except Exception as error:  # noqa: BLE001 - somebody else's package must not stop ours
            _log.error("emulator.failed", entry_point=point.value, error=f"{type(error).__name__}: {error}")
    return dict(sorted(found.items()))


def credentials_of(adapters: Mapping[str, Adapter], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The keys that are there, by the name of their variable."""
    environ = os.environ if environ is None else environ
    auths = [adapter.capabilities.auth for adapter in adapters.values()]
    found = {name: _key(name, auth, environ) for auth in auths if auth is not None for name in auth.env}
    return {name: value for name, value in found.items() if value}


def _key(name: str, auth: Auth, environ: Mapping[str, str]) -> str:
    """The key of a variable, or of several whose names stand with a + between them; empty where one is missing."""
    parts = [environ.get(part, "") for part in name.split("+")]
    if name in auth.files and parts[0]:
        try:
            return Path(parts[0]).expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            _log.warning("credential.unreadable", variable=name, error=type(error).__name__)
            return ""
    return PART.join(parts) if all(parts) else ""


def with_settings_of(adapters: Mapping[str, Adapter], environ: Mapping[str, str]) -> dict[str, Adapter]:
    """The adapters, with what else their providers must be told, as far as it is there. Raises BadRequest."""
    return {name: _told(adapter, environ) for name, adapter in adapters.items()}


def _told(adapter: Adapter, environ: Mapping[str, str]) -> Adapter:
    """The adapter itself is left as it is, as in `_with`."""
    told = {name: _setting(setting, environ) for name, setting in adapter.capabilities.settings.items()}
    if not told:
        return adapter
    other = copy.copy(adapter)
    other.capabilities = msgspec.structs.replace(adapter.capabilities, settings=told)
    return other


def _setting(setting: Setting, environ: Mapping[str, str]) -> Setting:
    variable = next((name for name in setting.env if environ.get(name)), "")
    value = environ[variable] if variable else setting.default
    if not re.fullmatch(r"[A-Za-z0-9._:-]*", value):
        raise bad(variable, f"{variable} becomes part of an address: it has letters, digits and . _ : - alone.")
    return msgspec.structs.replace(setting, value=value)


def base_urls_of(adapters: Mapping[str, Adapter], environ: Mapping[str, str]) -> dict[str, str]:
    """The addresses that were set explicitly: what points an adapter at an emulator or a gateway."""
    variables = {name: adapter.capabilities.base_url_env for name, adapter in adapters.items()}
    variables |= {
        f"{name}@{service}": its.env
        for name, adapter in adapters.items()
        for service, its in adapter.capabilities.services.items()
    }
    return {name: environ[variable] for name, variable in variables.items() if variable and environ.get(variable)}


@asynccontextmanager
async def open_studio(
    folder: str | Path | None = None,
    *,
    settings: Settings | None = None,
    adapters: Mapping[str, Adapter] | None = None,
    environ: Mapping[str, str] | None = None,
    accept_loss: bool = False,
    serving: bool = False,
) -> AsyncGenerator[Studio]:
    """Own a data folder: take up its unfinished jobs, run until the block ends, then stop cleanly.

    Args:
        folder: in the place of the settings' own.
        settings: all of them; else they are read from their usual places.
        adapters: the providers that there are; else every one that is installed.
        environ: where keys and addresses are looked for; else the process's own.
        accept_loss: go on although the log lacks events that it had. Jobs may then be sent, and billed, again.
        serving: a server over this studio will answer at `public_url`. Else no provider is asked to call back: nobody
            would hear it, and a lost answer would be waited for in vain.

    Raises:
        FolderInUse: another process owns it; its address is in the message.
        FolderTrouble: it cannot be made or written.
        HistoryLost: its log lacks events that it had; the message says how many, and what can be done.
    """
    environ = os.environ if environ is None else environ
    settings = settings or load_settings(environ=environ)
    set_up_logs(settings.log_level, settings.log_format)
    if folder is not None:
        settings = msgspec.structs.replace(settings, data=str(folder))
    adapters = with_models(installed_adapters() if adapters is None else adapters, settings.models)
    adapters = with_settings_of(adapters, environ)
    async with AsyncExitStack() as stack:
        yield await _opened(stack, settings, adapters, environ, accept_loss=accept_loss, serving=serving)


async def _opened(
    stack: AsyncExitStack,
    settings: Settings,
    adapters: Mapping[str, Adapter],
    environ: Mapping[str, str],
    *,
    accept_loss: bool,
    serving: bool,
) -> Studio:
    """A studio at work. The stack closes its parts, each before those that it stands on."""
    lock = FolderLock.acquire(settings.folder)
    stack.callback(lock.release)
    clock, assets = SystemClock(), Assets(settings.folder / "takes")
    assets.sweep()
    credentials, base_urls = credentials_of(adapters, environ), base_urls_of(adapters, environ)
    http = await _open_http(stack, settings, assets, clock, credentials, base_urls)
    store = await SqliteStore.open(settings.log_file, release=RELEASE, accept_loss=accept_loss)
    stack.push_async_callback(store.close)
    jobs = await JobsView.open(store, settings.folder / "views.db")
    stack.push_async_callback(jobs.close)
    flight = _open_flight(settings, clock, http, credentials)
    if flight is not None:
        stack.push_async_callback(asyncio.to_thread, flight.close)
    callbacks = _callbacks(settings, adapters, environ, serving=serving)
    performer = Performer(adapters, http, assets, clock, _probe, flight, callbacks)
    system = System(store=store, adapters=adapters, performer=performer, clock=clock, release=RELEASE)
    stack.push_async_callback(system.stop, settings.stop_grace_s)
    doors = msgspec.structs.replace(
        _doors(settings, http, credentials, base_urls),
        look_at_clip=_look_at_clip,
        reencode=media.reencoded if media.available() else None,
        announce=lock.announce,
        callbacks=callbacks,
        recorder=flight,
        free_bytes=lambda: shutil.disk_usage(settings.folder).free,
    )
    studio = Studio(system=system, jobs=jobs, adapters=adapters, assets=assets, clock=clock, doors=doors)
    await system.start()
    return studio


async def _open_http(
    stack: AsyncExitStack,
    settings: Settings,
    assets: Assets,
    clock: Clock,
    credentials: Mapping[str, str],
    base_urls: Mapping[str, str],
) -> Http:
    """The line to all providers; the local one is in this process, with a folder of its own."""
    lab = Lab(settings.folder / "lab", resolve=lambda asset: assets.path(asset.key))
    stack.callback(lab.close)
    http = Http(
        base_urls=base_urls,
        credentials=credentials,
        read=lambda asset: assets.path(asset.key).read_bytes(),
        inner={"local": lab},
        clock=clock,
        parts=settings.folder / "takes" / "parts",  # swept before
    )
    return await stack.enter_async_context(http)


def _doors(settings: Settings, http: Http, credentials: Mapping[str, str], base_urls: Mapping[str, str]) -> Doors:
    """What every studio needs from outside, also one that only looks."""
    return Doors(
        fetch=http.fetch,
        look_at_image=_look_at_image,
        credentials=credentials,
        default_model=settings.default_model,
        explicit=base_urls,
        unavailable=_unavailable,
    )


def _callbacks(
    settings: Settings, adapters: Mapping[str, Adapter], environ: Mapping[str, str], *, serving: bool
) -> Callbacks | None:
    """None where no provider can reach us. What is set is looked at all the same: BadRequest names what is wrong."""
    webhooks = {name: hook for name, one in adapters.items() if (hook := one.capabilities.webhook) is not None}
    secrets = {name: environ.get(hook.env, "") for name, hook in webhooks.items()}
    verifiers = {name: verifier_of(webhooks[name], secret) for name, secret in secrets.items() if secret}
    if not settings.public_url:
        return None
    base_of(settings.public_url)
    return Callbacks(settings.public_url, key_of(settings.folder), verifiers) if serving else None


def _open_flight(settings: Settings, clock: Clock, http: Http, credentials: Mapping[str, str]) -> Flight | None:
    if not settings.flight:
        return None
    return Flight(
        settings.flight_file,
        clock=clock,
        base_url=http.base_url,
        secrets=[part for key in credentials.values() for part in key.split(PART)],
        max_bytes=settings.flight_max_bytes,
        keep_s=settings.flight_keep_s,
    )


@asynccontextmanager
async def open_readonly(settings: Settings, environ: Mapping[str, str] | None = None) -> AsyncGenerator[Studio]:
    """Look at a folder's jobs without owning it: nothing runs, nothing is written, no folder is made."""
    environ = os.environ if environ is None else environ
    set_up_logs(settings.log_level, settings.log_format)
    adapters = with_settings_of(with_models(installed_adapters(), settings.models), environ)
    clock, assets = SystemClock(), Assets(settings.folder / "takes")
    async with AsyncExitStack() as stack:
        there = settings.log_file.is_file()
        store = await SqliteStore.open_readonly(settings.log_file) if there else MemoryStore()
        stack.push_async_callback(store.close)
        nowhere = Http(base_urls={}, credentials={}, read=lambda _: b"", inner={}, clock=clock)
        http = await stack.enter_async_context(nowhere)
        performer = Performer(adapters, http, assets, clock, _probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=clock, release=RELEASE)
        doors = _doors(settings, http, credentials_of(adapters, environ), base_urls_of(adapters, environ))
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
    if provider == "local" and not media.available():
        return ExtraMissing(MEDIA_EXTRA)
    if provider == "veo" and not google_auth.available():
        return ExtraMissing(GOOGLE_EXTRA)
    return None


async def _probe(path: Path) -> Probe:
    return await media.probe(path) if media.available() else Probe()


async def _look_at_image(path: Path) -> tuple[int, int]:
    return await media.check_image(path) if media.available() else (0, 0)


async def _look_at_clip(path: Path, media_type: str) -> Probe:
    if media_type.startswith("audio/") and media.available():
        return await media.probe_audio(path, media_type)
    return await _probe(path)
