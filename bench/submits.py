"""Jobs that many ask for at a time over HTTP, and the start of a server: beside servers that do nothing."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Final

from bench.child import Child, child
from bench.crowd import STATM
from bench.figures import Figure, Knobs, Rounds, alternate, median, ratio, scratch, skipped
from bench.rates import NO_PEER

CONNECTIONS: Final = 64
JOBS: Final = 10_000  # in a round
NOT_LINUX: Final = "processes are looked at in /proc, which is Linux's"


def submit(run: Knobs) -> Iterator[Figure]:
    """POST /v1/jobs, answered 202 when the job is in the log."""
    name = "http.submit"
    if sys.platform != "linux":
        yield skipped(name, "requests/s", NOT_LINUX)
        return
    ours, floor, peer = Server(run, "rushes"), Server(run, "bare"), Server(run, "fastapi")
    if importlib.util.find_spec("fastapi") is None:
        rounds = alternate(run, ours.rate, floor.rate)
        more: dict[str, object] = {"fastapi": None, "fastapi_skipped": NO_PEER.format("fastapi")}
    else:
        rounds = alternate(run, ours.rate, floor.rate, peer.rate)
        more = {
            "fastapi": median(rounds.others[0]),
            "fastapi_ratio": ratio(rounds.candidate, rounds.others[0]),
            "fastapi_cpu_us": median(peer.cpu_us),
        }
    cpu: dict[str, object] = {"cpu_us": median(ours.cpu_us), "floor_cpu_us": median(floor.cpu_us)}
    yield rounds.figure(name, "requests/s", {"connections": CONNECTIONS, **cpu, **more})


class Server:
    """One of the servers, started anew for each round."""

    def __init__(self, run: Knobs, how: str) -> None:
        self._run, self._how = run, how
        self.cpu_us: list[float] = []  # of the server's process, for a request

    def rate(self) -> float:
        """Requests that it answers in a second."""
        requests = self._run.scaled(JOBS, 2 * CONNECTIONS)
        with scratch(self._run.folder) as folder, child("bench.web", self._how, folder) as server:
            port = server.hear()["port"]
            before_s = _cpu_s(server)
            with child("bench.load", port, CONNECTIONS, requests) as load:
                rate = float(load.hear()["rate"])
            self.cpu_us.append((_cpu_s(server) - before_s) / (requests * 1.1) * 1e6)
            return rate


def _cpu_s(process: Child) -> float:
    """What a process has used of the processor, all its threads together."""
    fields = Path(f"/proc/{process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ── The start ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def start(run: Knobs) -> Iterator[Figure]:
    """`rushes serve` in an empty folder until it has answered, and what it occupies then."""
    if not STATM.exists():
        yield from (skipped(f"start.{unit}", {"mib": "MiB"}.get(unit, unit), NOT_LINUX) for unit in ("s", "mib"))
        return
    ours, floor = Starts(), Starts()
    rounds = alternate(run, partial(ours.start, run, _serve), partial(floor.start, run, _bare))
    cpu: dict[str, object] = {"cpu_s": median(ours.cpu_s), "floor_cpu_s": median(floor.cpu_s)}
    yield rounds.figure("start.s", "s", cpu)
    yield Rounds(ours.mib, floor.mib, [], rounds.flushes_us).figure("start.mib", "MiB", {})


def _serve(folder: Path) -> AbstractContextManager[Child]:
    words = ("serve", "--json", "--data", folder / "data", "--listen", "127.0.0.1:0")
    return child("rushes.cli", *words, env={"RUSHES_LOG_LEVEL": "error"})


def _bare(_: Path) -> AbstractContextManager[Child]:
    return child("bench.web", "bare")


class Starts:
    """What the starts of one side took."""

    def __init__(self) -> None:
        self.mib: list[float] = []
        self.cpu_s: list[float] = []

    def start(self, run: Knobs, begin: Callable[[Path], AbstractContextManager[Child]]) -> float:
        """From nothing to an answer, in seconds."""
        began = time.perf_counter()
        with scratch(run.folder) as folder, begin(folder) as server:
            told = server.hear()
            url = told.get("url") or f"http://127.0.0.1:{told['port']}"
            with urllib.request.urlopen(f"{url}/healthz") as answer:  # noqa: S310 - our own server
                answer.read()
            took_s = time.perf_counter() - began
            pages = int(Path(f"/proc/{server.pid}/statm").read_text("utf-8").split()[1])
            self.mib.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            self.cpu_s.append(_cpu_s(server))
            return took_s
