"""The lab's twin: its wire, its checks and its words, in the time of its requests, and where no child draws anything.

    POST   /renders              {id, prompt, seed, width, height, fps, seconds, …}   201, or 200 when it is known
    GET    /renders/{id}         {id, status, frames_done, frames_total, output?, error?}
    DELETE /renders/{id}         the same, stopped where it was not done
    GET    /renders/{id}/output  the clip

The clip is the same whatever was ordered, and a prompt with the word "broken" fails: both are the twin's alone. Nothing
costs anything, and nothing is moderated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from msgspec import Struct

from rushes.adapters.base import Response
from rushes.emulators import local as lab
from rushes.emulators.base import Asked, ProviderTwin, Route, as_json
from rushes.emulators.faults import DuplicateId, ExpiredUrl
from rushes.emulators.local import Order, Refused, Render, Status, Trouble


class Work(Struct, kw_only=True):
    """One render, as far as it does not follow from the time."""

    order: Order
    created_at: float
    is_broken: bool
    stopped_at: float | None = None


class LocalTwin(ProviderTwin):
    """The whole lab in one object. Like the lab it asks for no key."""

    name = "local"
    can: ClassVar = frozenset({"expired_url", "failed", "status_word", "duplicate_id", "not_found"})

    def __init__(self, *, clip: bytes, key: str = "", seed: int = 0) -> None:
        """`clip` is every result; neither a key nor a seed changes anything, as ids are given by who orders."""
        super().__init__(clip=clip, key=key, seed=seed)
        self.works: dict[str, Work] = {}

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        return (
            Route("submit", "POST", r"/renders()", self._create),
            Route("status", "GET", rf"/renders/({lab.ID})", self._get),
            Route("cancel", "DELETE", rf"/renders/({lab.ID})", self._stop),
            Route("download", "GET", rf"/renders/({lab.ID})/output", self._output),
        )

    def admit(self, asked: Asked) -> None:
        """Anybody."""

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002
        """The same for a method that is wrong."""
        return lab.nowhere()

    def throttled(self) -> Refused:
        """What the lab never says by itself: whatever stands before it may."""
        return Refused(429, "rate_limited", "There are too many requests.")

    def _create(self, asked: Asked, _: str) -> Response:
        """A picture that comes as a reference stands for itself: nobody looks at it here."""
        order, _pictures = lab.understood(asked.request.body, lambda asset: asset.sha256.encode())
        known = self.works.get(order.id)
        if asked.hit(DuplicateId) or (known and known.order != order):
            raise lab.taken(order.id)
        if not known:
            is_broken = "broken" in asked.words(order.prompt)
            self.works[order.id] = Work(order=order, created_at=asked.now, is_broken=is_broken)
            self.charge(order.id, asked.now, 0, 0, "a render")
        return self._view(asked, order.id, 200 if known else 201)

    def _get(self, asked: Asked, id: str) -> Response:
        if self.hides(asked, id):
            raise lab.unknown(id)
        return self._view(asked, id)

    def _stop(self, asked: Asked, id: str) -> Response:
        work = self._known(id)
        if self._status(work, asked.now) in ("queued", "rendering"):
            work.stopped_at = asked.now
        return self._view(asked, id)

    def _output(self, asked: Asked, id: str) -> Response:
        if self._status(self._known(id), asked.now) != "done" or asked.hit(ExpiredUrl):
            raise lab.without_output(id)
        return self.result(asked)

    def _known(self, id: str) -> Work:
        if work := self.works.get(id):
            return work
        raise lab.unknown(id)

    def _status(self, work: Work, now: float) -> Status:
        if work.stopped_at is not None:
            return "cancelled"
        stages: dict[str, Status] = {"waiting": "queued", "running": "rendering"}
        return stages.get(self.life(work.created_at).stage(now), "failed" if work.is_broken else "done")

    def _view(self, asked: Asked, id: str, code: int = 200) -> Response:
        work, origin = self._known(id), asked.origin
        status = cast("Status", asked.said(self._status(work, asked.now)))  # or a word that nobody knows
        shown = Render(
            id=id,
            status=status,
            frames_done=self._drawn_frames(work, asked.now),
            frames_total=work.order.frames,
            output=f"{origin}/renders/{id}/output" if status == "done" else "",
            error=Trouble("generation_failed", "The renderer ended with code 1.") if status == "failed" else None,
        )
        return as_json(code, shown)

    def _drawn_frames(self, work: Work, now: float) -> int:
        life, at = self.life(work.created_at), now if work.stopped_at is None else work.stopped_at
        part = (at - life.begins_at) / (life.ends_at - life.begins_at)
        return int(work.order.frames * max(0.0, min(1.0, part)))
