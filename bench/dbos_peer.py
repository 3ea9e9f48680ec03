"""The peer of the rates and of recovery: `dbos` on SQLite, in a process of its own. A job is a workflow of three steps.

python -m bench.dbos_peer run FOLDER JOBS IN_FLIGHT       tells jobs a second, and how long one took
python -m bench.dbos_peer begin FOLDER JOBS               leaves jobs behind whose first step is done; to be killed
python -m bench.dbos_peer recover FOLDER JOBS             tells how long it takes to finish them
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig

from bench.child import PAUSE_S, tell, until
from bench.figures import median

PROMPT = "a slow dolly shot over a misty mountain lake at sunrise, 35 mm, shallow depth of field"
DONE = "SELECT COUNT(*) FROM workflow_status WHERE status = 'SUCCESS'"
BEGUN = "SELECT COUNT(*) FROM operation_outputs"


@DBOS.step()
async def submit(number: int) -> str:
    """The provider takes it."""
    return f"{number:032x}"


@DBOS.step()
async def poll(handle: str) -> str:
    """The provider has made it."""
    return f"https://cdn.acme.example/{handle}/out.mp4"


@DBOS.step()
async def keep(url: str) -> dict[str, str]:
    """The file is ours."""
    return {"url": url, "sha256": "0" * 64}


@DBOS.step()
async def hold(handle: str, gate: str) -> str:
    """A poll that waits until the process is another one."""
    await until(Path(gate).exists)
    return f"https://cdn.acme.example/{handle}/out.mp4"


@DBOS.workflow()
async def job(number: int, prompt: str) -> dict[str, str]:
    """A whole job."""
    return await keep(await poll(await submit(number))) | {"prompt": prompt}


@DBOS.workflow()
async def held(number: int, prompt: str, gate: str) -> dict[str, str]:
    """The same, kept between its first and its second step."""
    return await keep(await hold(await submit(number), gate)) | {"prompt": prompt}


async def run(jobs: int, in_flight: int) -> None:
    """So many jobs, so many at a time."""
    await job(0, PROMPT)
    numbers, waits_s = iter(range(1, jobs + 1)), list[float]()

    async def work() -> None:
        for number in numbers:
            began = time.perf_counter()
            await job(number, PROMPT)
            waits_s.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    tell(rate=jobs / (time.perf_counter() - began), p50_ms=median(waits_s) * 1e3)


async def begin(path: Path, jobs: int) -> None:
    """Begin them all, and wait to be killed."""
    for number in range(jobs):
        await DBOS.start_workflow_async(held, number, PROMPT, str(_gate(path)))
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        await until(lambda: connection.execute(BEGUN).fetchone()[0] >= jobs)
    tell(begun=jobs)
    await asyncio.Event().wait()


def recover(path: Path, jobs: int, began: float) -> None:
    """Wait for all that were left."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        while connection.execute(DONE).fetchone()[0] < jobs:
            time.sleep(PAUSE_S)
    tell(took_s=time.perf_counter() - began)


def _gate(path: Path) -> Path:
    return path.with_name("gate")


def main(how: str, folder: Path, jobs: int, *more: str) -> None:
    """Do what was asked for."""
    path = folder / "dbos.db"
    config: Any = {"system_database_url": f"sqlite:///{path}", "log_level": "CRITICAL", "run_admin_server": False}
    DBOS(config=DBOSConfig(name="bench", **config))
    if how == "recover":
        _gate(path).touch()
    began = time.perf_counter()
    DBOS.launch()
    if how == "run":
        asyncio.run(run(jobs, int(more[0])))
    elif how == "begin":
        asyncio.run(begin(path, jobs))
    else:
        recover(path, jobs, began)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
