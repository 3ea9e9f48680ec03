"""A job of Replicate as its log and its flight record have it, made without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.codec import encode
from rushes.adapters.base import FlowName, Output
from rushes.adapters.capabilities import Terms
from rushes.eventstore.base import Recorded
from rushes.flight import Answered, Asked, Content, Exchange
from rushes.replay import Recording
from rushes.units import AssetRef, Handle, Money
from rushes.video import Probe, Take, Target, TextToVideo, VideoSpec

T0: Final = 1_700_000_000.0
JOB: Final = "job_0199c5c2f0e57d1a8c3b6a2e4f900001"
BASE: Final = "https://api.replicate.com/v1"
CLIP: Final = "https://replicate.delivery/x/clip.mp4"
PRICE: Final = Money(250_000, source="a price list", as_of="2023-11-14", units=5.0, unit="second")
TARGET: Final = Target(provider="replicate", model="prunaai/p-video", credential="REPLICATE_API_TOKEN", price=PRICE)
ASSET: Final = AssetRef("customers/0/assets/video/x.mp4", "cd34" * 16, 987_654, "video/mp4")


class Maker:
    """Events and exchanges, one after the other."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.exchanges: list[Exchange] = []

    def event(self, after_s: float, event: m.Event, cause: m.Command) -> None:
        """One event, in an append of its own unless it is of the same moment as the one before."""
        at, version = T0 + after_s, len(self.events) + 1
        told = encode(event, at, cause)
        self.events.append(
            Recorded(
                position=version,
                stream=1,
                version=version,
                type=told.type,
                v=told.v,
                at=at,
                data=told.data,
                meta=told.meta,
                tenant=1,
                token=round(at * 1000),
            )
        )

    def exchange(
        self, after_s: float, flow: FlowName, url: str, body: Mapping[str, object], *, status: int = 200, count: int = 1
    ) -> tuple[int]:
        """A request and its answer; counted ones come every five seconds. What names it in a command."""
        number = len(self.exchanges) + 1
        asked = Asked(body=content({"input": {"prompt": "a lake"}})) if flow == "submit" else Asked()
        self.exchanges.append(
            Exchange(
                id=number,
                job=JOB,
                attempt=1,
                flow=flow,
                provider="replicate",
                method="POST" if flow == "submit" else "GET",
                url=url,
                status=status,
                at=T0 + after_s,
                duration_ms=212.4,
                count=count,
                last_at=T0 + after_s + 5.0 * (count - 1),
                asked=asked,
                answered=Answered(headers={"content-type": "application/json"}, body=content(body)),
            )
        )
        return (number,)


def content(body: Mapping[str, object]) -> Content:
    """A body as it is kept."""
    text = msgspec.json.encode(body).decode()
    return Content(size_bytes=len(text), sha256="ab" * 32, media_type="application/json", text=text)


def played(prompt: str = "a lake at dawn", percents: Sequence[int] = (40,), job_id: str = JOB) -> Recording:
    """A job that succeeded, told in seven events and those of its progress."""
    log = Maker()
    spec = VideoSpec(prompt=prompt, operation=TextToVideo(), duration_seconds=5.0, resolution="720p")
    asked = m.JobRequested(spec=spec, route=(TARGET,), start_by=T0 + 86_400)
    log.event(0.0, asked, m.Generate(request=asked))
    terms = Terms(doubt="E", total_s=3_600.0)
    permit = m.GrantPermit(
        attempt=1, incarnation="f0", key=f"{job_id}-1", body_sha256="12" * 32, max_cost=PRICE, terms=terms
    )
    started = m.SubmissionStarted(
        attempt=1,
        send=1,
        incarnation=permit.incarnation,
        target=TARGET,
        key=permit.key,
        key_until=T0 + 0.004,
        body_sha256=permit.body_sha256,
        max_cost=PRICE,
        terms=terms,
    )
    log.event(0.004, started, permit)
    path, handle = f"{BASE}/predictions/p1", Handle("p1")
    x = log.exchange(0.1, "submit", f"{BASE}/predictions", {"id": "p1", "status": "starting"}, status=201)
    accepted = m.SubmissionAccepted(attempt=1, send=1, handle=handle, deadline=T0 + 3_600.4)
    log.event(0.4, accepted, m.RecordAccepted(attempt=1, send=1, handle=handle, exchanges=x))
    log.exchange(1.0, "status", path, {"id": "p1", "status": "starting"}, count=12)
    for number, percent in enumerate(percents, 1):
        x = log.exchange(61.0 + 7 * number, "status", path, {"id": "p1", "status": "processing", "percent": percent})
        report = m.RecordProgress(attempt=1, percent=percent, exchanges=x)
        log.event(61.2 + 7 * number, m.ProgressReported(attempt=1, percent=percent), report)
    later = 70.0 + 7 * len(percents)
    x = log.exchange(later, "status", path, {"id": "p1", "status": "succeeded", "output": [CLIP]})
    outputs = (Output(CLIP),)
    told = m.RecordFinished(attempt=1, outputs=outputs, cost=PRICE, exchanges=x)
    log.event(later + 0.2, m.GenerationFinished(attempt=1, outputs=outputs, cost=PRICE), told)
    x = log.exchange(later + 0.3, "download", CLIP, {})
    probe = Probe(width=1280, height=720, fps=24.0, duration_seconds=5.0)
    stored = m.RecordStored(attempt=1, take=Take(index=0, asset=ASSET, probe=probe), exchanges=x)
    log.event(later + 1.0, m.TakeStored(index=0, asset=ASSET, probe=probe), stored)
    log.event(later + 1.0, m.JobSucceeded(), stored)
    return Recording(
        job_id=job_id,
        tenant="default",
        events=tuple(log.events),
        exchanges=tuple(log.exchanges),
        versions={"rushes": "0.1.0"},
    )


def with_payload(recording: Recording, version: int, payload: bytes) -> Recording:
    """The same, but for what one event says."""
    events = [replace(one, data=payload) if one.version == version else one for one in recording.events]
    return replace(recording, events=tuple(events))
