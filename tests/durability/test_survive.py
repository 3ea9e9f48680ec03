"""kill -9 of the real server, at random moments of several jobs: every one of them succeeds, once."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import aclosing
from pathlib import Path

from server import serving

from rushes.client import Client
from rushes.faults import ServerTrouble
from rushes.video import EventView, VideoRequest

KILLS = 20 if os.environ.get("RUSHES_NIGHTLY") else 5
ENDS = {"job.succeeded", "job.failed", "job.cancelled"}


async def watcher(url: str, seen: list[EventView], ended: asyncio.Event, jobs: int) -> None:
    """A subscriber to everything, that reconnects with its cursor as often as it must."""
    async with Client(url) as client, aclosing(client.follow(start="start")) as events:
        async for event in events:
            seen.append(event)
            if sum(one.type in ENDS for one in seen) == jobs:
                ended.set()


async def submitted(client: Client, number: int) -> str:
    """Ask under a key until somebody answers; what was acknowledged must never be lost."""
    request = VideoRequest(
        prompt=f"lake {number}", model="local", resolution="180p", duration_seconds=2, fps=12, seed=number
    )
    while True:
        try:
            view, _ = await client.submit(request, f"order-{number}")
        except ServerTrouble:
            await asyncio.sleep(0.05)
        else:
            return view.id


async def test_every_job_survives_every_kill(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when it fails
    rng = random.Random(seed)
    seen: list[EventView] = []
    ended = asyncio.Event()
    async with serving(tmp_path / "studio") as server:
        watching = asyncio.create_task(watcher(server.url, seen, ended, KILLS + 1))
        async with Client(server.url) as client:
            asking = [asyncio.create_task(submitted(client, 0))]
            for number in range(1, KILLS + 1):
                asking.append(asyncio.create_task(submitted(client, number)))
                await asyncio.sleep(rng.uniform(0.02, 0.8))  # the random moment is the point of the test
                await server.kill()
                await server.start()
            acknowledged = await asyncio.gather(*asking)
            async with asyncio.timeout(60):
                await ended.wait()
            watching.cancel()
            views = [await client.show(job) for job in acknowledged]
            log = [event for job in acknowledged for event in await client.events(job)]
    assert [view.status for view in views] == ["succeeded"] * (KILLS + 1)
    assert all(Path(take.path).stat().st_size == take.size_bytes for view in views for take in view.takes)
    assert len(set(acknowledged)) == KILLS + 1
    by_job = Counter(event.job_id for event in log if event.type == "job.succeeded")
    assert by_job == dict.fromkeys(acknowledged, 1)

    assert [event.position for event in seen] == sorted({event.position for event in seen}), "in order, none twice"
    told = {(event.job_id, event.version) for event in seen}
    assert told == {(event.job_id, event.version) for event in log}, "every event, once"
    started = Counter(event.job_id for event in log if event.type == "submission.accepted")
    assert set(started.values()) == {1}, "no job was accepted twice"
