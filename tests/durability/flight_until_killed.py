"""The victim of test_flight: has exchanges recorded, and says which are written, until it is killed.

`early`: it says so before they are, and is killed at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from shop import counterparts

from rushes.adapters.base import Request, Response
from rushes.flight import Flight, Heard


class Clock:
    def now(self) -> float:
        return time.time()


def main(path: str, how: str) -> None:
    flight, adapter = (
        Flight(Path(path), clock=Clock(), base_url=lambda _: "https://shop.example"),
        counterparts()["shop-e"],
    )
    for number in range(100_000):
        heard = Heard(
            job=f"job_{number % 7}",
            attempt=1,
            flow="status",
            adapter=adapter,
            ask=Request(method="GET", url="/renders/r0"),
            result=Response(status=200, body=f"{number} ".encode() * 4_000),
            duration_s=0.1,
        )
        known = flight.hear(heard)
        if number % 20 == 19:
            if how != "early":
                flight.exchanges("nobody")
            print(known, flush=True)
            if how == "early":
                os.kill(os.getpid(), signal.SIGKILL)


main(*sys.argv[1:])
