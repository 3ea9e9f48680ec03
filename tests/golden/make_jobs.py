"""Makes a golden log of real jobs: every event type with every field, as a release wrote it.

    python tests/golden/make_jobs.py NAME        writes NAME.db, NAME.json and NAME.states.json beside this file

Made once and never again: every later release must open it and replay it to the same states.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec
from make_log import make

from rushes.actors import messages as m
from rushes.actors.actor import head_of
from rushes.actors.codec import encode
from rushes.actors.job import phase_word, replay
from rushes.adapters.base import Output
from rushes.adapters.capabilities import PollSchedule, Terms
from rushes.eventstore.base import Birth, Write
from rushes.faults import Fault
from rushes.units import AssetRef, Handle, Money
from rushes.video import ImageToVideo, Input, Probe, Take, Target, TextToVideo, VideoSpec

T0: Final = 1_700_000_000.0
PICTURE = AssetRef("inputs/ab/ab12", "ab12" * 16, 4_321, "image/png")
CLIP = AssetRef("customers/7/assets/video/20231114T221320_x.mp4", "cd34" * 16, 987_654, "video/mp4")
PRICE = Money(250_000, source="a price list", as_of="2023-11-14", units=5.0, unit="second")
HERE = Target(provider="local", model="local", price=Money(0, source="free"))
THERE = Target(provider="replicate", model="x/y", credential="REPLICATE_API_TOKEN", fingerprint="0123abcd", price=PRICE)
FULL = VideoSpec(
    prompt="湖の夜明け 🎬",
    operation=ImageToVideo(),
    inputs=(Input(role="first_frame", asset=PICTURE), Input(role="style", asset=PICTURE)),
    customer_id=7,
    negative_prompt="rain",
    seed=42,
    scheduler="euler",
    guidance_scale=7.5,
    aspect_ratio="16:9",
    duration_seconds=5.0,
    resolution="720p",
    fps=24.0,
    generate_audio=True,
    enhance_prompt=False,
    character_strength=0.25,
    style_strength=0.5,
    provider_options={"draft": True, "tags": ["a", 1, None]},
)
ASKED = m.JobRequested(
    spec=FULL,
    route=(THERE, HERE),
    needs=("prompt", "prepare", "reserve"),
    start_by=T0 + 86_400,
    body_sha256="ef" * 32,
    idempotency_key="order-1",
    parent="job_018bcfe5680077d5b2f0123456789abc",
    at_least_once=1,
)
PLAIN = m.JobRequested(spec=VideoSpec(prompt="a lake", operation=TextToVideo()), route=(HERE,), start_by=T0 + 86_400)
BUSY = Fault("rate_limited", "busy", retryable=True, retry_after_s=30.0, provider_code="throttled")
HANDLE = Handle("p1", {"region": "eu"})
OUTPUTS = (Output("https://x.example/1"), Output("https://x.example/2", "video/webm"))


def started(attempt: int = 1, send: int = 1, target: Target = HERE) -> m.SubmissionStarted:
    """An intent with every field."""
    return m.SubmissionStarted(
        attempt=attempt,
        send=send,
        incarnation="00f0e1d2c3b4a596",
        target=target,
        key=f"job_x-{attempt}",
        key_until=T0 + 600,
        body_sha256="12" * 32,
        max_cost=PRICE,
        terms=Terms(
            doubt="B",
            cancel="stops",
            poll=PollSchedule(min_s=1.0, max_s=9.0, growth=0.2),
            key_ttl_s=600.0,
            settle_s=5.0,
            looks_s=(1.0, 2.0),
            link_ttl_s=60.0,
            gone_grace_s=7.0,
            total_s=500.0,
        ),
    )


def accepted(attempt: int = 1, send: int = 1) -> m.SubmissionAccepted:
    """It was taken."""
    return m.SubmissionAccepted(attempt=attempt, send=send, handle=HANDLE, deadline=T0 + 500)


def finished(attempt: int = 1) -> m.GenerationFinished:
    """Two results."""
    return m.GenerationFinished(attempt=attempt, outputs=OUTPUTS, filtered=1, cost=PRICE, metadata={"logs": "ok"})


PROBE = Probe(width=1280, height=720, fps=24.0, duration_seconds=5.0, has_audio=True)
DOUBTED = m.SubmissionDoubted(attempt=1, send=1, fault=Fault("no_answer", "silence", retryable=True))
HISTORIES: Final[dict[str, tuple[m.Event, ...]]] = {
    "queued": (
        ASKED,
        m.PromptWritten(prompt="a lake, slowly"),
        m.InputsPrepared(attempt=1, prepared={"ab12": "https://x.example/in"}),
        m.BudgetReserved(attempt=1, amount=PRICE),
    ),
    "submitting": (PLAIN, started(), m.CancelRequested(by="api", discard=True)),
    "in_doubt": (PLAIN, started(), DOUBTED),
    "running": (PLAIN, started(), accepted(), m.ProgressReported(attempt=1, percent=40)),
    "storing": (
        PLAIN,
        started(),
        accepted(),
        finished(),
        m.LinksRefreshed(attempt=1, outputs=OUTPUTS),
        m.TakeStored(index=0, asset=CLIP, probe=PROBE),
    ),
    "parked": (PLAIN, started(), accepted(), m.JobParked(reason="detached", billed="unknown")),
    "succeeded": (
        PLAIN,
        started(),
        m.SubmissionRefused(attempt=1, send=1, fault=BUSY, retry_at=T0 + 30),
        started(send=2),
        accepted(send=2),
        m.AttemptFailed(attempt=1, fault=BUSY),
        m.AttemptOpened(attempt=2, target=HERE, not_before=T0 + 60, start_by=T0 + 90_000),
        started(attempt=2),
        accepted(attempt=2),
        m.CancelRequested(),
        m.CancelAnswered(attempt=2, answer="too_late"),
        m.JobParked(reason="gone", billed="unknown"),
        m.JobResumed(attempt=2, handle=HANDLE, deadline=T0 + 999),
        finished(attempt=2),
        m.TakeStored(index=0, asset=CLIP, probe=PROBE),
        m.TakeLost(index=1, fault=Fault("asset_expired", "gone")),
        m.JobSucceeded(missing=1),
    ),
    "failed": (PLAIN, started(), m.JobFailed(fault=Fault("invalid_input", "no", field="prompt"), billed="no")),
    "cancelled": (PLAIN, m.JobCancelled(billed="no", by="api")),
    "hidden": (PLAIN, m.JobCancelled(billed="no"), m.JobHidden()),
}


class Facts(msgspec.Struct):
    """What must stay true of a replayed job, in words that outlive our classes."""

    phase: str
    attempt: int
    provider: str
    prompt: str
    billed: str = ""
    handle: str = ""
    cancel: str = ""
    progress: int | None = None
    takes: list[Take] = []


def facts(job: m.Job) -> Facts:
    """A state in those words."""
    assert not isinstance(job, m.New)
    cancel = job.cancel if isinstance(job, m.Sent) else None
    return Facts(
        phase=phase_word(job),
        attempt=job.attempt,
        provider=job.target.provider,
        prompt=job.facts.prompt,
        billed=job.billed if isinstance(job, m.Ended | m.Parked) else "",
        handle=job.handle.id if isinstance(job, m.Running | m.Storing | m.Parked) and job.handle else "",
        cancel=f"{cancel.by} {cancel.answer}" if cancel else "",
        progress=job.percent if isinstance(job, m.Running) else None,
        takes=list(job.takes) if isinstance(job, m.Succeeded) else [],
    )


def writes() -> list[Write]:
    """Each history as one append."""
    made = []
    for number, (name, history) in enumerate(HISTORIES.items(), 1):
        events = [encode(event, T0 + number + version, m.Wake()) for version, event in enumerate(history)]
        job = replay([(event, T0) for event in history])
        made.append(Write(Birth(f"job_{name}", "job", "default"), 0, events, head_of(job), number))
    return made


if __name__ == "__main__":
    path = Path(__file__).with_name(f"{sys.argv[1]}.db")
    asyncio.run(make(path, writes()))
    states = {f"job_{name}": facts(replay([(event, T0) for event in h])) for name, h in HISTORIES.items()}
    path.with_suffix(".states.json").write_bytes(msgspec.json.format(msgspec.json.encode(states), indent=1) + b"\n")
