"""One whole run with keys that can be recognised, at providers that repeat them: nothing kept or told holds one."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from structlog.testing import capture_logs

from rushes.adapters.base import Adapter, Request, Response
from rushes.adapters.capabilities import Model, PollSchedule, Terms
from rushes.adapters.redaction import REDACTED
from rushes.emulators.base import ProviderTwin, serve_twin, shipped_clip
from rushes.emulators.faults import Drop, Faults, RateLimit
from rushes.emulators.faulty import FaultyTwin
from rushes.faults import RushesError, Unavailable
from rushes.main import installed_adapters, installed_emulators, open_studio
from rushes.replay import load_all, write_cassette, write_file
from rushes.studio import Job, Studio
from rushes.testing.answers import SECRETS, telling
from rushes.testing.wires import KEY, WRONG_KEY
from rushes.video import Target, VideoSpec

HASTE = 500.0  # seconds at a provider within one of ours
OURS = tuple(secret for secret in SECRETS if secret != WRONG_KEY)  # that one is nobody's here
PATIENCE_S = 30.0
WORDS = ("a lake", "a broken lake", "a forbidden lake")


def grey_png(width: int, height: int) -> bytes:
    """A picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


class Talkative:
    """A provider that tells the key in every sentence, and an address that is a permission."""

    def __init__(self, twin: ProviderTwin) -> None:
        rules = Faults((RateLimit(on="status", nth=2, retry_after=0.0), Drop(on="submit", nth=4, after_work=True)))
        self.twin, self._faulty, self.told = twin, FaultyTwin(twin, rules), 0

    def handle(self, request: Request, now: float) -> Response:
        reply = telling(self._faulty.handle(request, now))
        self.told += KEY.encode() in reply.body
        return reply


def eager(adapter: Adapter) -> Adapter:
    """The adapter, asking again at once."""
    usual = adapter.terms

    def terms(spec: VideoSpec, target: Target) -> Terms:
        poll = PollSchedule(min_s=0.01, max_s=0.01)
        return msgspec.structs.replace(usual(spec, target), poll=poll, looks_s=(0.01, 0.02), settle_s=0.05)

    adapter.terms = terms  # type: ignore[method-assign]
    return adapter


def picture_for(row: Model) -> bytes:
    """One of a size that goes, where not any does."""
    limit, shape = row.media["image"], (row.defaults.resolution or "", row.defaults.aspect_ratio or "")
    size = limit.sizes[0] if limit.sizes else row.sizes.get(shape, "512x512")
    width, _, height = size.partition("x")
    return grey_png(int(width), int(height))


async def run(studio: Studio, adapter: Adapter) -> list[str]:
    """A few jobs, and everything that their callers are told; the last is given its clip."""
    told: list[str] = []
    first = adapter.capabilities.models[0]
    row = next(row for row in adapter.capabilities.models if row.id == first.id and "image-to-video" in row.operations)
    picture = picture_for(row)
    for prompt in (*WORDS, "a lake whose answer gets lost"):
        given = (prompt, None) if "text-to-video" in first.operations else ("", picture)
        told += await told_of(await studio.generate(given[0], image=given[1], model=adapter.name))
    moving = await studio.generate("" if row.prompt == "none" else "it moves", image=picture, model=adapter.name)
    told += await told_of(moving)
    assert (await moving.result(timeout_s=1)).videos, adapter.name
    return told


async def told_of(job: Job) -> list[str]:
    told: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        async for view in job.updates():
            told.append(repr(view))
            if view.ended or view.phase == "parked":
                break
    told += [repr(event) + bytes(event.data).decode() for event in await job.events()]
    try:
        await job.result(timeout_s=0.1)
    except (RushesError, TimeoutError) as error:
        told += [repr(error), *traceback.format_exception(error)]
    return told


def forms(secret: str) -> Iterator[bytes]:
    """A secret as it may stand in a file."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    yield base64.b64encode(secret.encode())[:-4]


def holds_a_secret(content: bytes) -> bool:
    return any(form in content for secret in OURS for form in forms(secret))


@pytest.mark.parametrize("secret", OURS)
def test_a_secret_would_be_seen(secret: str) -> None:
    assert all(holds_a_secret(b"..." + form + b"...") for form in forms(secret))


async def test_no_key_is_kept_or_told_anywhere(tmp_path: Path) -> None:
    adapters = {name: eager(adapter) for name, adapter in installed_adapters().items()}
    began = time.time()
    twins: Mapping[str, Talkative] = {
        name: Talkative(kind(clip=shipped_clip(), key=KEY, seed=7))
        for name, kind in installed_emulators().items()
        if name in adapters
    }
    servers = {
        name: await serve_twin(twin, now=lambda: began + (time.time() - began) * HASTE) for name, twin in twins.items()
    }
    environ: dict[str, str] = {}
    for name, server in servers.items():
        data = adapters[name].capabilities
        environ[data.base_url_env] = server.url
        environ |= {data.auth.env[0]: KEY} if data.auth else {}
        environ |= {service.env: server.url for service in data.services.values()}
        environ |= {one.env[0]: "emulated" for one in data.settings.values() if one.needed and not one.default}
    told: list[Any] = []
    with capture_logs() as logs:
        async with open_studio(tmp_path / "data", adapters=adapters, environ=environ) as studio:
            told = [
                line
                for lines in await asyncio.gather(*(run(studio, adapters[name]) for name in twins))
                for line in lines
            ]
    for server in servers.values():
        await server.close()
    silent = {name for name, twin in twins.items() if not twin.told or not twin.twin.charges}
    assert silent == set(), "such a provider proves nothing"
    assert logs
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert {"rushes.db", "flight.db", "views.db"} <= {path.name for path in files}
    assert [line for line in (*told, *map(repr, logs)) if holds_a_secret(line.encode())] == []
    assert any(REDACTED.encode() in path.read_bytes() for path in files if path.name.startswith("flight.db"))
    assert [path.name for path in files if holds_a_secret(path.read_bytes())] == []
    assert any(len(path.read_bytes()) == len(shipped_clip()) for path in files), "and a clip was made"
    shared = exported(tmp_path / "data", tmp_path / "shared")
    assert [path.name for path in shared if holds_a_secret(path.read_bytes())] == []


def exported(data: Path, folder: Path) -> list[Path]:
    """Everything that a folder's jobs can be exported as."""
    (folder / "files").mkdir(parents=True)
    taped = 0
    for recording in load_all(data):
        write_file(recording, folder / "files" / f"{recording.job_id}.rushes.json")
        with suppress(Unavailable):  # not all of the traffic makes a cassette
            write_cassette(recording, folder / "cassettes")
            taped += 1
    assert taped, "such a folder proves nothing"
    return [path for path in folder.rglob("*") if path.is_file()]
