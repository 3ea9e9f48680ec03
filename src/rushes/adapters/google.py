"""What adapters for Google's interfaces share: errors that may come under 200, and answers that hold a clip."""

from __future__ import annotations

from typing import Final, TypeVar

from rushes.adapters import base
from rushes.adapters.base import Adapter, Body, Flow, Keep, Output, Request, Response, call
from rushes.adapters.google_errors import fault_of, unwrapped
from rushes.faults import Fault

T = TypeVar("T")
POLL_BYTES: Final = 512 * 2**20  # of an answer that holds clips
POLL_S: Final = 300.0


class Google(Adapter):
    """An adapter for one of them."""

    def fault(self, reply: Response) -> Fault | None:
        """See google_errors."""
        return fault_of(self.name, reply)

    def ask(self, request: Request, kind: type[T]) -> Flow[T]:
        """Ask, and be answered with a good reply's content. Raises Failed."""
        return base.reply_json(self, unwrapped((yield from call(request))), kind)

    def look(self, request: Request, kind: type[T]) -> Flow[T | None]:
        """The same; None where Google itself says that there is nothing of that name."""
        reply = unwrapped((yield from call(request)))
        return None if reply.status == 404 and self.fault(reply) else base.reply_json(self, reply, kind)


def poll(method: str, url: str, body: Body = None) -> Request:
    """Asks about a job in an answer that may hold its clips."""
    return Request(method=method, url=url, body=body, answer_bytes=POLL_BYTES, timeout_s=POLL_S)


def held(output: Output, request: Request, place: tuple[str | int, ...]) -> Keep:
    """Has a clip kept that stands as base64 at `place` in the answer to a poll."""
    return Keep(url=request.url, request=request, place=place, media_type=output.media_type, max_bytes=POLL_BYTES)
