"""`rushes emulate`: providers on this machine, to try things out against without paying."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rushes.adapters.base import Adapter
from rushes.api.app import address, cannot_listen
from rushes.cli.arguments import Asked, Exit
from rushes.cli.screen import Screen
from rushes.cli.verbs import HARD_STOP_S, stop_at_signals
from rushes.emulators.base import ProviderTwin, serve_twin, shipped_clip
from rushes.emulators.faulty import Emulator
from rushes.faults import bad
from rushes.main import Settings, installed_adapters, installed_emulators

KEY: Final = "emulated"  # any will do
FASTEST: Final = 1e6


async def emulate(asked: Asked, settings: Settings, screen: Screen) -> Exit:  # noqa: ARG001 - it has no data folder
    """Answer as the named providers until SIGINT or SIGTERM; a second one ends the process at once."""
    host, port = _where(asked)
    clip, now = shipped_clip(), clock(asked.clock)
    twins = [kind(clip=clip, seed=asked.seed or 0) for kind in _kinds(asked.names)]
    stop = stop_at_signals(HARD_STOP_S)
    try:
        server = await serve_twin(Emulator(twins), host, port, now=now)
    except (OSError, UnicodeError) as error:
        raise cannot_listen(host, port, error) from error
    try:
        with TemporaryDirectory(prefix="rushes-") as folder:
            adapters = installed_adapters()
            env = dict(exports(twins, adapters, server.url, Path(folder)))
            told = f"{', '.join(twin.name for twin in twins)} below {server.url}; Ctrl-C ends it"
            lines = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
            text = "\n".join([*lines, f"# {told}"]) if asked.print_env else told
            screen.result({"url": server.url, "env": env}, text)
            for name in sorted({twin.name for twin in twins} - set(adapters)):
                screen.note(f"There is no adapter {name!r} here: no variable names its address.")
            await stop.wait()
    finally:
        await server.close()
    return Exit.OK


def exports(
    twins: Sequence[ProviderTwin], adapters: Mapping[str, Adapter], url: str, folder: Path
) -> Iterator[tuple[str, str]]:
    """The variables that point our adapters and the providers' SDKs at their twins, keys included.

    Keys that are files go into the folder.
    """
    for twin in twins:
        if adapter := adapters.get(twin.name):
            capabilities = adapter.capabilities
            yield capabilities.base_url_env, f"{url}/{twin.name}{twin.base_path}"
            services, settings = capabilities.services.values(), capabilities.settings.values()
            yield from ((service.env, f"{url}/{twin.name}") for service in services if service.env)
            yield from ((one.env[0], KEY) for one in settings if one.needed and not one.default)
            keys = twin.env(f"{url}/{twin.name}", folder)
            if capabilities.auth is not None:
                yield from keys.items() or [(capabilities.auth.env[0], KEY)]
        for variable, path in twin.sdk_env.items():
            yield variable, f"{url}/{twin.name}{path}"


def clock(word: str) -> Callable[[], float]:
    """A twin's time by `--clock`, as seconds since 1970. Raises BadRequest."""
    if word == "real":
        return time.time
    speed, began = 1.0, time.time()
    try:
        speed = float(word)
    except ValueError:
        try:
            given = datetime.fromisoformat(word)
            began = (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
        except ValueError as error:
            raise _no_clock(word) from error
    if not (math.isfinite(speed) and 0 < speed <= FASTEST):
        raise _no_clock(word)
    zero = time.monotonic()
    return lambda: began + (time.monotonic() - zero) * speed


def _no_clock(word: str) -> Exception:
    return bad("clock", f"{word!r} is no clock: choose real, a speed from above 0 to 1000000, or a time in ISO 8601.")


def _where(asked: Asked) -> tuple[str, int]:
    """Loopback, unless `--listen` says something else."""
    if asked.listen is not None and asked.port is not None:
        raise bad("port", "--listen names a port already: leave one of the two out.")
    if asked.listen is not None:
        return address(asked.listen)
    if not 0 <= (asked.port or 0) <= 65_535:
        raise bad("port", f"{asked.port} is no port: choose one from 1 to 65535, or leave it out.")
    return "127.0.0.1", asked.port or 0


def _kinds(names: Sequence[str]) -> list[type[ProviderTwin]]:
    known = installed_emulators()
    for place, name in enumerate(names):
        if name not in known:
            raise bad("names", f"There is no emulator of {name!r}: there are {', '.join(known)}.")
        if name in names[:place]:
            raise bad("names", f"{name!r} is named twice: once is enough.")
    return [known[name] for name in names]
