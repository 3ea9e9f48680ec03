"""Very many readers of our WebSocket, in a process of their own: `python -m bench.readers PORT COUNT`.

It tells when all have subscribed, and then again and again when the last of them got something. It looks at the last
bytes of what came and at nothing else, so that it costs little beside the server: every frame that is measured ends in
the same two.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from typing import Final

from bench.child import tell

END: Final = b"]}"  # of an `events` frame
MANY_BYTES: Final = 2**20
HOST: Final = "127.0.0.1"
UPGRADE: Final = (
    "GET /v1/ws HTTP/1.1\r\nHost: {}:{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: rushes.v1.json\r\n\r\n"
)


def connected(port: int) -> socket.socket:
    """A reader who has heard all that there is."""
    reader = socket.create_connection((HOST, port))
    reader.sendall(UPGRADE.format(HOST, port).encode())
    heard = _until(reader, b"\r\n\r\n", b"")
    reader.sendall(_frame(b'{"type":"hello"}') + _frame(b'{"type":"subscribe","id":"a"}'))
    _until(reader, b'"caught_up"', heard)
    reader.setblocking(False)
    return reader


def _frame(text: bytes) -> bytes:
    """A client's frame. Its mask is zero, so the text stands in it as it is."""
    return bytes((0x81, 0x80 | len(text))) + bytes(4) + text


def _until(reader: socket.socket, mark: bytes, heard: bytes) -> bytes:
    while mark not in heard:
        more = reader.recv(MANY_BYTES)
        if not more:
            raise ConnectionError(f"The server hung up behind {heard!r}.")
        heard += more
    return heard


def main(port: int, count: int) -> None:
    """Until somebody ends us."""
    readers = {reader.fileno(): reader for reader in (connected(port) for _ in range(count))}
    waiting, missing = select.epoll(), count
    for number in readers:
        waiting.register(number, select.EPOLLIN)
    tell(readers=count)
    while True:
        for number, _ in waiting.poll():
            heard = os.read(number, MANY_BYTES)
            missing -= heard.endswith(END)
            if not heard:
                raise ConnectionError("The server hung up.")
        if not missing:
            tell(at=time.perf_counter())
            missing = count


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
