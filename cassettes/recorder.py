"""Our cassettes: recorded through the client that production uses, played back without a socket.

    python cassettes/recorder.py            records every scene of every provider anew
    python cassettes/recorder.py replicate  of that one

A recording tests the *shape* of a wire, never its timing or its failures: those are the loopback servers' of the
contract tests. What is recorded here comes from a provider's twin, and each file says so in its first line. The twin's
clock ticks once a request, so recording again writes the same bytes.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import ClientSession
from scenes import SECRETS, Scene, act, client, pairs, scenes, stage_of

from rushes.adapters.base import Failed
from rushes.emulators.base import serve_twin
from rushes.replay.cassette import REQUEST_HEADERS, RESPONSE_HEADERS, tape
from rushes.testing.wires import Pair

HERE: Final = Path(__file__).parent
JOBS: Final = "job_*.yaml"  # tapes that `rushes export --cassette` has made: they are not recorded here


# ── The tape ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def playing(path: Path) -> Generator[None, None, None]:
    """Answer every request from the tape, in order, and connect to nobody. What was not asked for is an error."""
    with unpatched_afterwards(), _no_sockets(), _tape("none").use_cassette(str(path)) as cassette:
        yield
        unplayed = [f"{r.method} {r.uri}" for n, r in enumerate(cassette.requests) if not cassette.play_counts[n]]
    if unplayed:
        raise AssertionError(f"{path.name}: never asked for {', '.join(unplayed)}")


@contextmanager
def recording(path: Path, names: dict[str, str]) -> Generator[None, None, None]:
    """Write a new tape. `names` says whose address stands for which prefix of ours, the longest first."""
    path.unlink(missing_ok=True)
    with unpatched_afterwards(), _tape("all").use_cassette(str(path)):
        yield
    assert path.exists(), f"{path.name}: nothing was sent, so there is nothing on it"
    text = path.read_text("utf-8")
    for ours, theirs in names.items():
        text = text.replace(ours, theirs)
    if any(secret in text for secret in SECRETS):
        path.unlink()
        raise AssertionError(f"{path.name}: the key was about to be recorded")
    path.write_text(text, "utf-8")


def _tape(mode: str) -> Any:
    return tape(mode, before_record_request=_tidy_request, before_record_response=_tidy_response)


@contextmanager
def unpatched_afterwards() -> Generator[None, None, None]:
    """A tape replaces a method of every session in the process; one that could not be saved leaves it replaced."""
    ours = vars(ClientSession)["_request"]
    try:
        yield
    finally:
        left = vars(ClientSession)["_request"]
        ClientSession._request = ours  # type: ignore[method-assign] # noqa: SLF001 - what vcrpy should have put back
    assert left is ours, "the tape left aiohttp patched"


@contextmanager
def _no_sockets() -> Generator[None, None, None]:
    """No socket of this process connects anywhere."""

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was about to connect while a tape was playing")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = refuse  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del socket.socket.connect, socket.socket.connect_ex  # the built-in ones stand behind


def _tidy_request(request: Any) -> Any:
    request.headers = {name: value for name, value in request.headers.items() if name.lower() in REQUEST_HEADERS}
    return request


def _tidy_response(response: dict[str, Any]) -> dict[str, Any]:
    headers = {name.lower(): value for name, value in response["headers"].items()}
    video = str(headers.get("content-type")).count("video/")  # only there a length tells more than the body
    kept = RESPONSE_HEADERS | ({"content-length"} if video else set())
    status = {"code": response["status"]["code"], "message": ""}  # the words differ from one Python to the next
    return {**response, "status": status, "headers": {name: headers[name] for name in sorted(kept & headers.keys())}}


# ── Recording ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def record(pair: Pair, folder: Path) -> None:
    """Record every scene of a provider into a folder."""
    folder.mkdir(exist_ok=True)
    for name, scene in scenes(pair).items():
        await record_scene(pair, scene, folder / f"{name}.yaml")
    for stale in {path.stem for path in scene_tapes(folder)} - scenes(pair).keys():
        (folder / f"{stale}.yaml").unlink()


def scene_tapes(folder: Path) -> set[Path]:
    """The tapes of a folder that this program records."""
    return {*folder.glob("*.yaml")} - {*folder.glob(JOBS)}


async def record_scene(pair: Pair, scene: Scene, path: Path) -> None:
    """Record one scene: its provider is the twin behind a socket, and its addresses become the provider's."""
    twin, clock = stage_of(pair, scene)
    data, name = pair.adapter.capabilities, pair.adapter.name
    theirs = {name: data.base_url} | {f"{name}@{service}": its.url for service, its in data.services.items()}
    servers = {address: await serve_twin(twin, now=clock.now) for address in theirs}
    try:
        with recording(path, {server.url: _origin(theirs[address]) for address, server in servers.items()}):
            async with client(pair, scene, {address: server.url for address, server in servers.items()}) as http:
                with suppress(Failed):  # some scenes are about refusals
                    await act(pair, scene, http)
    finally:
        for server in servers.values():
            await server.close()


def _origin(url: str) -> str:
    base = urlsplit(url)
    return f"{base.scheme}://{base.netloc}"


def main(wanted: list[str]) -> None:
    """Record, and say what."""
    known = pairs()
    if unknown := sorted(set(wanted) - set(known)):
        sys.exit(f"There is no provider {unknown[0]!r} with a twin: {', '.join(known)}.")
    for name, pair in known.items():
        if not wanted or name in wanted:
            asyncio.run(record(pair, HERE / name))
            print(f"{name}: {len(scenes(pair))} scenes")


if __name__ == "__main__":
    main(sys.argv[1:])
