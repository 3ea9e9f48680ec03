"""Many who ask for a job at a time, in a process of their own: `python -m bench.load PORT CONNECTIONS REQUESTS`.

Every connection sends its next request when the last one was answered. It tells how many answers came in a second.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from typing import Final

from bench.child import tell

BODY: Final = (
    b'{"prompt":"a slow dolly shot over a misty mountain lake at sunrise, 35 mm, shallow depth of field",'
    b'"model":"noop","seed":42}'
)
REQUEST: Final = (
    b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(BODY), BODY)
)
ACCEPTED: Final = b"HTTP/1.1 202 "
LENGTH: Final = b"content-length:"
MANY_BYTES: Final = 2**16


class Asker:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = b""

    def ask(self) -> None:
        """Send a request."""
        self.socket.sendall(REQUEST)

    def hear(self) -> bool:
        """What has come; whether that makes the answer whole."""
        more = self.socket.recv(MANY_BYTES)
        self._heard += more
        head, mark, body = self._heard.partition(b"\r\n\r\n")
        if not more or not ACCEPTED.startswith(head[: len(ACCEPTED)]):
            raise ConnectionError(f"The server answered {self._heard[:500]!r}.")
        if not mark or len(body) < int(head.lower().partition(LENGTH)[2].partition(b"\r")[0]):
            return False
        self._heard = b""
        return True


def main(port: int, connections: int, requests: int) -> None:
    """So many requests, after a tenth as many that are not counted."""
    askers = {asker.socket.fileno(): asker for asker in (Asker(port) for _ in range(connections))}
    waiting = select.epoll()
    for number, asker in askers.items():
        waiting.register(number, select.EPOLLIN)
        asker.ask()
    left, began = requests + requests // 10, 0.0
    while left > 0:
        for number, _ in waiting.poll():
            if askers[number].hear():
                left -= 1
                askers[number].ask()
                if left == requests:
                    began = time.perf_counter()
    tell(rate=requests / (time.perf_counter() - began))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
