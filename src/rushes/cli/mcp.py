"""`rushes mcp`: a studio for agents, on stdin and stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

from rushes.api import app
from rushes.api.auth import Keys
from rushes.cli.arguments import Asked, Exit
from rushes.cli.desk import Desk, owning
from rushes.cli.screen import Screen
from rushes.cli.verbs import HARD_STOP_S, stop_at_signals
from rushes.eventstore.base import StoreError
from rushes.eventstore.lock import holder
from rushes.faults import MCP_EXTRA, ExtraMissing, FolderInUse, RushesError, bad
from rushes.main import RELEASE, Settings
from rushes.studio import Studio
from rushes.tools import Tool, tools_at

HERE_ONLY: Final = "127.0.0.1:0"  # a free port: more than one may run
PATIENCE_S: Final = 2.0  # for an owner that does not say yet, or no longer, where it answers
PAUSE_S: Final = 0.1


async def mcp(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Answer one agent until it closes stdin, or a signal comes."""
    if find_spec("mcp") is None:
        raise ExtraMissing(MCP_EXTRA)
    if missing := [folder for folder in asked.files if not Path(folder).is_dir()]:
        raise bad("files", f"{missing[0]!r} is no folder: give one whose files agents may send to providers.")
    stop = stop_at_signals(settings.stop_grace_s + HARD_STOP_S)
    if sys.stdin.isatty():
        screen.note("rushes mcp speaks the Model Context Protocol: agents start it themselves. Ctrl-C ends it.")
    async with Front(settings) as front:
        opening = asyncio.create_task(front.open())  # unfinished jobs go on, whether or not the agent asks
        answering = asyncio.create_task(_answer()(tools_at(front.desk, asked.files), RELEASE))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({answering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    await opening
    if stop.is_set():
        os._exit(Exit.OK)  # a thread of the SDK's reads stdin, and nothing but its end ends that
    try:
        await answering
    except* BrokenPipeError:
        pass  # the agent is gone
    return Exit.OK


def _answer() -> Callable[[Mapping[str, Tool], str], Coroutine[None, None, None]]:
    from rushes.mcp import answer  # noqa: PLC0415 - the SDK takes half a second to load, and only this verb has it

    return answer


class Front:
    """Who is asked: the server of the folder's owner, or else this process, which becomes the owner.

    An owner answers on a free port of this machine, so that the agents of several programs can work beside each other.
    Where its process is gone, the next call makes this one the owner, and unfinished jobs go on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._opened = AsyncExitStack()
        self._desk: Desk | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._turn.acquire()  # and keep it: nobody opens anything any more
        await self._opened.aclose()

    async def open(self) -> None:
        """Find out whom to ask. What is in the way is told by each call."""
        with suppress(RushesError, StoreError):
            await self.desk()

    async def desk(self) -> Desk:
        """Whom to ask now. Raises what `owning` raises."""
        async with self._turn:
            if self._desk is None or self._is_gone(self._desk):
                self._desk = None
                await self._opened.aclose()
                self._desk = await self._patiently()
            return self._desk

    def _is_gone(self, desk: Desk) -> bool:
        """Whether the server that was asked so far is the owner no more."""
        if isinstance(desk, Studio):
            return False
        owner = holder(self._settings.folder)
        return owner is None or owner.url.rstrip("/") != desk.url

    async def _patiently(self) -> Desk:
        """Two that start at once: the slower one waits until the other answers."""
        until = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                return await self._open()
            except FolderInUse:
                if asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(PAUSE_S)

    async def _open(self) -> Desk:
        async with AsyncExitStack() as opening:
            desk = await opening.enter_async_context(owning(self._settings))
            if isinstance(desk, Studio):
                server = await app.serve(desk, HERE_ONLY, keys=Keys(self._settings.folder))
                opening.push_async_callback(server.close)
            self._opened = opening.pop_all()
        return desk
