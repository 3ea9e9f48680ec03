"""The real server, as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

START_S = 30.0
RUSHES = ("-m", "rushes.cli")


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """`rushes serve` over a data folder; `program` is what Python runs for it."""

    def __init__(
        self, folder: Path, port: int, environ: Mapping[str, str] | None = None, program: Sequence[str] = RUSHES
    ) -> None:
        self.folder, self.port, self.environ, self.program = folder, port, dict(environ or {}), program
        self.url = f"http://127.0.0.1:{port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it answers."""
        listen = ("--data", str(self.folder), "--listen", f"127.0.0.1:{self.port}")
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self.program, "serve", "--json", *listen),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self.environ},
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await self._process.stdout.readline()
        assert json.loads(line)["url"] == self.url

    async def kill(self) -> None:
        """SIGKILL: nothing is said, nothing is finished."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """SIGTERM, and how it ended."""
        self.send(signal.SIGTERM)
        return await self.ended()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is there."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait until it ended, however it did; the answer is its exit code, or minus the signal."""
        assert self._process is not None
        async with asyncio.timeout(START_S):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode


@asynccontextmanager
async def serving(folder: Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    """A running server; stopped cleanly at the end, whatever happened in between."""
    server = Server(folder, free_port(), environ)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
