"""A data folder and a shop, the real server over them, and what must hold of every job whatever happened to it."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Final

import msgspec
from serve_shop import Trouble
from server import Server, free_port
from shop import TAKES, URL, Shop, counterparts, open_shop

from rushes.client import Client
from rushes.eventstore import upkeep
from rushes.eventstore.marker import read_marker
from rushes.main import refold
from rushes.replay import load_all, rerun
from rushes.video import JobView

REST_S: Final = 20.0
ENDS: Final = {"job.succeeded", "job.failed", "job.cancelled"}
LAUNCHER: Final = Path(__file__).with_name("serve_shop.py")


class Rig:
    """Servers over the same folder and shop, one after the other."""

    def __init__(self, folder: Path, shop: Shop) -> None:
        self.folder, self.shop = folder / "studio", shop
        self.log = self.folder / "rushes.db"
        self._port = free_port()
        self._server: Server | None = None

    async def start(self, trouble: Trouble | None = None, environ: Mapping[str, str] | None = None) -> Server:
        """The next server."""
        program = (str(LAUNCHER), msgspec.json.encode(trouble or Trouble()).decode())
        around = {URL: self.shop.url, "RUSHES_LOG_LEVEL": "error", **(environ or {})}
        self._server = Server(self.folder, self._port, around, program)
        await self._server.start()
        return self._server

    async def close(self) -> None:
        """End what a test that failed has left running."""
        if self._server is not None:
            await self._server.kill()

    def parts(self) -> list[Path]:
        """Takes that are there by half."""
        return sorted((self.folder / "takes").glob("parts/*"))

    def events(self) -> Counter[str]:
        """How often each event is in the log, which has no owner."""
        return Counter(self._log("SELECT type FROM events"))

    def jobs(self) -> set[str]:
        """All that are in the log, which has no owner."""
        return set(self._log("SELECT name FROM streams"))

    def _log(self, sql: str) -> list[str]:
        with closing(sqlite3.connect(self.log)) as connection:
            return [word for (word,) in connection.execute(sql)]

    def check_stopped_clean(self) -> None:
        """Nothing is wrong with the log, nothing lies about, and the next start has nothing to repair."""
        wrong: list[str] = []
        report = upkeep.verify(self.log, lambda finding: wrong.append(finding.line()), refold)
        assert (report.wrong, wrong) == (False, [])
        marker = read_marker(self.log)
        assert marker is not None
        assert marker.position == report.position
        wals = [file for file in self.folder.glob("*-wal") if file.stat().st_size]
        assert (wals, self.parts()) == ([], [])

    def check_replays(self) -> None:
        """Nearly all jobs run again the same, whatever their processes came to; a moment's luck is in no record."""
        reports = [rerun(recording, counterparts()) for recording in load_all(self.folder)]
        assert reports
        otherwise = [one for one in reports if one.verdict != "same"]
        assert len(otherwise) < len(reports) / 2, [
            (one.job_id, one.verdict, one.why or one.difference) for one in otherwise
        ]

    async def check(self, client: Client, view: JobView) -> None:
        """Paid once at most, ended once at most; and whole, or in doubt and said so."""
        history = [event.type for event in await client.events(view.id)]
        assert history[0] == "job.requested"
        assert [word for word in history if word in ENDS] == ([history[-1]] if view.ended else [])
        assert self.shop.charges_of(view.id) <= 1
        if not view.ended:
            assert (view.billed, bool(view.attention), view.takes) == ("unknown", True, [])
        elif view.status == "succeeded":
            assert self.shop.charges_of(view.id) == 1
            self._check_takes(view)
        else:
            assert (view.status, view.billed) == ("cancelled", "no")

    def _check_takes(self, view: JobView) -> None:
        (render,) = [render for render in self.shop.renders.values() if render.key.startswith(view.id)]
        kept = [hashlib.sha256(Path(take.path).read_bytes()).hexdigest() for take in view.takes]
        assert kept == [take.sha256 for take in view.takes]
        assert kept == [hashlib.sha256(self.shop.clip(url)).hexdigest() for url in render.outputs]
        assert len(kept) == TAKES


async def at_rest(client: Client, job: str) -> JobView:
    """The job when it has ended, or waits for a person."""
    async with asyncio.timeout(REST_S), aclosing(client.updates(job)) as views:
        async for view in views:
            if view.ended or view.phase == "parked":
                return view
    raise AssertionError(job)


@asynccontextmanager
async def open_rig(folder: Path, clip_bytes: int) -> AsyncIterator[Rig]:
    """A rig with a shop that is open."""
    async with open_shop(clip_bytes) as shop:
        rig = Rig(folder, shop)
        try:
            yield rig
        finally:
            await rig.close()
