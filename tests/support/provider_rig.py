"""The whole studio before a provider's twin behind a socket, as a program has it: its folder can be opened again."""

from __future__ import annotations

import re
import struct
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from rushes.adapters.base import Adapter
from rushes.adapters.capabilities import PollSchedule, Terms
from rushes.emulators.base import ProviderTwin, serve_twin
from rushes.emulators.faults import Faults, LineRule, TwinRule
from rushes.emulators.faulty import FaultyTwin
from rushes.faults import JobFailed
from rushes.main import open_studio
from rushes.studio import Job, Studio
from rushes.video import JobView, Target, VideoSpec

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
HASTE = 400.0  # seconds at the provider within one of ours
PATIENCE_S = 20.0


def png(side: int = 512, grey: int = 128) -> bytes:
    """A square picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = zlib.compress((b"\0" + bytes([grey]) * side) * side)
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def eager(adapter: Adapter) -> Adapter:
    """The adapter as it is, but for its pace."""
    usual = type(adapter).terms

    def terms(self: Adapter, spec: VideoSpec, target: Target) -> Terms:
        poll = PollSchedule(min_s=0.02, max_s=0.02)
        return replace(usual(self, spec, target), poll=poll, looks_s=(0.05, 0.15, 0.3, 0.5), settle_s=0.6, total_s=60.0)

    hasty: Adapter = type("Hasty", (type(adapter),), {"terms": terms})()
    return hasty


class Rig:
    """A studio over one twin."""

    def __init__(self, studio: Studio, twin: ProviderTwin, faulty: FaultyTwin, name: str) -> None:
        self.studio, self.twin, self.faulty, self.name = studio, twin, faulty, name

    async def make(self, prompt: str = "a lake", **fields: Any) -> Job:
        return await self.studio.generate(prompt, **{"model": self.name, **fields})

    async def failure(self, prompt: str = "a lake", **fields: Any) -> JobFailed:
        with pytest.raises(JobFailed) as failed:
            await (await self.make(prompt, **fields)).result(timeout_s=PATIENCE_S)
        return failed.value

    def go_wrong(self, *rules: LineRule | TwinRule) -> None:
        self.faulty.set(Faults(rules))

    def asked(self, flow: str = "submit") -> list[str]:
        """The requests of one flow that came, as METHOD /path."""
        ways = [route for route in self.twin.routes() if route.flow == flow]
        lines = self.twin.ledger.requests
        return [
            line.about for line in lines if any(_fits(way.method, way.path, line.method, line.path) for way in ways)
        ]


def _fits(method: str, pattern: str, asked: str, path: str) -> bool:
    return method == asked and re.fullmatch(pattern, path) is not None


@asynccontextmanager
async def provider(
    folder: Path, adapter: Adapter, twin: ProviderTwin, environ: Mapping[str, str]
) -> AsyncIterator[Rig]:
    """`environ` is what the adapter finds, with URL for the twin's address; its keys where not any word is one."""
    began, faulty = time.time(), FaultyTwin(twin)
    server = await serve_twin(faulty, now=lambda: began + (time.time() - began) * HASTE)
    told = {name: value.replace("URL", server.url) for name, value in environ.items()}
    folder.mkdir(exist_ok=True)
    told |= twin.env(server.url, folder)
    try:
        async with open_studio(folder, adapters={adapter.name: eager(adapter)}, environ=told) as studio:
            yield Rig(studio, twin, faulty, adapter.name)
    finally:
        await server.close()


async def until(job: Job, phase: str) -> JobView:
    async with aclosing(job.updates()) as views:
        async for view in views:
            if view.phase == phase:
                return view
    raise AssertionError(f"it ended without being {phase}")


async def types(job: Job) -> Sequence[str]:
    return [event.type for event in await job.events()]
