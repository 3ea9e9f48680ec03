"""Words for tests about jobs: events to be given, commands to be tried."""

from __future__ import annotations

from rushes.actors import messages as m
from rushes.actors.job import replay
from rushes.adapters.base import Output
from rushes.adapters.capabilities import PollSchedule, Terms
from rushes.faults import Fault
from rushes.units import AssetRef, Handle
from rushes.video import Target, TextToVideo, VideoSpec

HERE, THERE = Target(provider="here", model="a"), Target(provider="there", model="b")
TERMS = Terms(doubt="B", cancel="stops", settle_s=60.0, key_ttl_s=600.0, gone_grace_s=60.0, total_s=1000.0)
BUSY = Fault("rate_limited", "busy", retryable=True)
NO = Fault("invalid_input", "no")
ASSET = AssetRef("customers/0/assets/video/a.mp4", "0" * 64, 1, "video/mp4")

ASKED = m.JobRequested(spec=VideoSpec(prompt="a lake", operation=TextToVideo()), route=(HERE,), start_by=1000.0)
HANDLE = Handle("p1")


def started(terms: Terms = TERMS, attempt: int = 1, send: int = 1) -> m.SubmissionStarted:
    return m.SubmissionStarted(
        attempt=attempt,
        send=send,
        incarnation="us",
        target=HERE,
        key="job_x-1",
        key_until=terms.key_ttl_s,
        body_sha256="",
        terms=terms,
    )


ACCEPTED = m.SubmissionAccepted(attempt=1, send=1, handle=HANDLE, deadline=1000.0)
DOUBTED = m.SubmissionDoubted(attempt=1, send=1, fault=Fault("no_answer", "silence"))
CANCELLING = m.CancelRequested()
FINISHED = m.GenerationFinished(attempt=1, outputs=(Output("https://a"), Output("https://b")))
STORED = m.TakeStored(index=0, asset=ASSET)
PARKED = m.JobParked(reason="in_doubt", billed="unknown")
DETACHED = m.JobParked(reason="detached", billed="unknown")

HISTORIES: dict[str, tuple[m.Event, ...]] = {
    "new": (),
    "queued": (ASKED,),
    "submitting": (ASKED, started()),
    "submitting, cancel asked": (ASKED, started(), CANCELLING),
    "in doubt": (ASKED, started(), DOUBTED),
    "running": (ASKED, started(), ACCEPTED),
    "running, cancel asked": (ASKED, started(), ACCEPTED, CANCELLING),
    "storing": (ASKED, started(), ACCEPTED, FINISHED),
    "parked in doubt": (ASKED, started(), DOUBTED, PARKED),
    "parked detached": (ASKED, started(), ACCEPTED, DETACHED),
    "succeeded": (
        ASKED,
        started(),
        ACCEPTED,
        FINISHED,
        STORED,
        m.TakeLost(index=1, fault=NO),
        m.JobSucceeded(missing=1),
    ),
    "failed": (ASKED, m.JobFailed(fault=NO, billed="no")),
    "cancelled": (ASKED, m.JobCancelled(billed="no")),
}


def given(*events: m.Event) -> m.Job:
    """The state after these events, all at time 0."""
    return replay([(event, 0.0) for event in events])


def terms(**changes: object) -> Terms:
    base = {
        "doubt": "B",
        "cancel": "stops",
        "poll": PollSchedule(),
        "settle_s": 60.0,
        "key_ttl_s": 600.0,
        "total_s": 1000.0,
    }
    return Terms(**(base | changes))  # type: ignore[arg-type]  # test data
