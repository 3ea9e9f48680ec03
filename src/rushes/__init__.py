"""Durable, multi-provider AI video generation: never pays twice, never loses a take.

async with rushes.open("studio") as studio:
    job = await studio.generate("a lake at dawn", model="local", duration_seconds=5)
    async for update in job.updates():
        print(update.status, update.progress)
    take = (await job.result()).videos[0]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rushes.eventstore.marker import HistoryLost
    from rushes.faults import (
        BadRequest,
        CommandRejected,
        Conflict,
        ExtraMissing,
        FolderInUse,
        FolderTrouble,
        JobFailed,
        NotFound,
        RushesError,
        Unavailable,
        Unreadable,
    )
    from rushes.main import open_studio as open  # noqa: A004 - rushes.open(folder), like any other open
    from rushes.studio import Job, Result, Studio
    from rushes.video import JobView, TakeView, VideoRequest

__all__ = [
    "BadRequest",
    "CommandRejected",
    "Conflict",
    "ExtraMissing",
    "FolderInUse",
    "FolderTrouble",
    "HistoryLost",
    "Job",
    "JobFailed",
    "JobView",
    "NotFound",
    "Result",
    "RushesError",
    "Studio",
    "TakeView",
    "Unavailable",
    "Unreadable",
    "VideoRequest",
    "open",
]

_ROOMS = {
    "rushes.eventstore.marker": ("HistoryLost",),
    "rushes.main": ("open",),
    "rushes.studio": ("Job", "Result", "Studio"),
    "rushes.video": ("JobView", "TakeView", "VideoRequest"),
}


def __getattr__(name: str) -> object:
    """Load a room when somebody asks for something in it: the renderer's child processes start quickly that way."""
    if name not in __all__:
        raise AttributeError(f"module 'rushes' has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "rushes.faults")
    found: object = getattr(import_module(room), "open_studio" if name == "open" else name)
    return found
