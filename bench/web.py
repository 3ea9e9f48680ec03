"""Servers that are measured, each in a process of its own, on a free port that it tells.

python -m bench.web bare             aiohttp: reads a request, and answers 202 with a few words
python -m bench.web fastapi          the same with FastAPI, on uvicorn with httptools and uvloop
python -m bench.web rushes FOLDER    ours: the job is in the log before it answers, and then waits for its turn
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any, Final

import aiosqlite  # noqa: F401 - a bare server that could store something
import msgspec
from aiohttp import web
from msgspec import Struct

from bench.child import tell

HOST: Final = "127.0.0.1"
PATH: Final = "/v1/jobs"


class Asked(Struct):
    """What the load asks for."""

    prompt: str
    model: str
    duration_seconds: int = 5
    seed: int = 0


class Answered(Struct):
    """What the peers answer."""

    id: str
    status: str
    model: str


async def bare() -> None:
    """The least that aiohttp can do with such a request."""
    decode, encode = msgspec.json.Decoder(Asked).decode, msgspec.json.Encoder().encode

    async def submit(request: web.Request) -> web.Response:
        asked = decode(await request.read())
        body = encode(Answered("job_1", "queued", asked.model))
        return web.Response(body=body, status=202, content_type="application/json")

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.post(PATH, submit), web.get("/healthz", health)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    tell(port=runner.addresses[0][1])
    await asyncio.Event().wait()


def fastapi() -> None:
    """The same there, as fast as it goes."""
    import uvicorn  # noqa: PLC0415 - only where it is installed
    from fastapi import FastAPI  # noqa: PLC0415
    from pydantic import BaseModel  # noqa: PLC0415

    class Wanted(BaseModel):
        prompt: str
        model: str
        duration_seconds: int = 5
        seed: int = 0

    async def submit(wanted: Any) -> dict[str, str]:
        return {"id": "job_1", "status": "queued", "model": wanted.model}

    submit.__annotations__["wanted"] = Wanted  # a name inside a function is not found from its text
    app = FastAPI()
    app.post(PATH, status_code=202)(submit)
    config = uvicorn.Config(app, log_level="critical", access_log=False, loop="uvloop", http="httptools")
    with socket.create_server((HOST, 0), backlog=1_024) as listening:
        tell(port=listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


async def rushes(folder: Path) -> None:
    """All of ours but the provider, which takes one job and never answers: the others wait in its lane."""
    from bench.noop import OneByOne, Silent, whole_studio  # noqa: PLC0415 - the peers are to be small
    from rushes.api.app import serve  # noqa: PLC0415

    async with whole_studio(folder, Silent(), OneByOne) as studio:
        server = await serve(studio, f"{HOST}:0")
        tell(port=int(server.url.rpartition(":")[2]))
        await asyncio.Event().wait()


def main(how: str, *words: str) -> None:
    """Serve until somebody ends us."""
    match how:
        case "bare":
            asyncio.run(bare())
        case "fastapi":
            fastapi()
        case _:
            asyncio.run(rushes(Path(words[0])))


if __name__ == "__main__":
    main(*sys.argv[1:])
