"""Where a verb does its work: in the process that owns the data folder, or here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeAlias

from rushes.client import Client
from rushes.eventstore.lock import holder
from rushes.main import Settings, open_readonly, open_studio
from rushes.studio import Studio

Desk: TypeAlias = Studio | Client


@asynccontextmanager
async def reading(settings: Settings) -> AsyncGenerator[Desk]:
    """Ask the owner's server where there is one; else look into the folder, which changes nothing there."""
    owner = holder(settings.folder)
    if owner is not None and owner.url:
        async with Client(owner.url, token=settings.token) as client:
            yield client
    else:
        async with open_readonly(settings) as studio:
            yield studio


@asynccontextmanager
async def owning(settings: Settings) -> AsyncGenerator[Desk]:
    """Ask the owner's server where there is one; else become the owner, which runs unfinished jobs on.

    Raises:
        FolderInUse: another process owns the folder and has no server.
    """
    owner = holder(settings.folder)
    if owner is not None and owner.url:
        async with Client(owner.url, token=settings.token) as client:
            yield client
    else:
        async with open_studio(settings=settings) as studio:
            yield studio
