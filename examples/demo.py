"""One real job, from a sentence to an MP4: over HTTP to a server of its own, followed over the WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncGenerator

import msgspec

from rushes.cli.screen import Progress, aligned, at_rest, instant, take_line
from rushes.client import Client
from rushes.faults import RushesError
from rushes.video import JobView, VideoRequest

REQUEST = VideoRequest(prompt="a lake at dawn", model="local", duration_seconds=5, resolution="1280x720")
START_S, STOP_S = 20.0, 15.0


class Ready(msgspec.Struct):
    """What `rushes serve --json` prints once it answers."""

    url: str


@contextlib.asynccontextmanager
async def server(folder: str) -> AsyncGenerator[str]:
    """The real server in a process of its own, on a free port of this machine; stopped at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rushes.cli", "serve", "--json", "--data", folder, "--listen", "127.0.0.1:0"),
        stdout=asyncio.subprocess.PIPE,  # its complaints go to our own stderr
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        if not line:
            sys.exit(f"The server ended with code {await process.wait()}: what it said stands above.")
        yield msgspec.json.decode(line, type=Ready).url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def film(url: str) -> JobView:
    """Submit, follow, and tell what came of it."""
    async with Client(url) as client:
        view, _ = await client.submit(REQUEST)
        print(f"job     {view.id}\nprompt  {view.prompt}\n", flush=True)
        progress = Progress(sys.stdout)
        with progress.ticking():
            async for latest in client.updates(view.id):
                view = latest
                progress.show(view)
                if at_rest(view):
                    break
        if not view.takes:
            sys.exit(f"There is no take: {view.error.detail if view.error else view.attention}")
        print(f"\ntake    {take_line(view.takes[0])}\n")
        events = await client.events(view.id)
        print(aligned([(f"{event.version:>2}", event.type, instant(event.at)) for event in events]))
    return view


async def main() -> None:
    """The folder stays: the take lies in it."""
    folder = tempfile.mkdtemp(prefix="rushes-demo-")
    async with server(folder) as url:
        print(f"server  {url}\nfolder  {folder}")
        view = await film(url)
    print(f"\n{view.takes[0].path}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (RushesError, TimeoutError) as error:
        sys.exit(f"The demo did not work: {error or 'the server did not answer in time'}")
