"""Jobs as the log holds them: made-up histories of real events, and whole logs of them."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeAlias

from rushes.actors import messages as m
from rushes.actors.codec import encode
from rushes.adapters.base import Output
from rushes.adapters.capabilities import Terms
from rushes.eventstore.base import Birth, Head, NewEvent, Stored, Write
from rushes.eventstore.transactions import Heads, append_batch, set_up
from rushes.faults import Fault
from rushes.units import AssetRef, Handle, Money, fresh_job_id
from rushes.video import Probe, Target, TextToVideo, VideoSpec

History: TypeAlias = "list[m.Event]"

T0: Final = 1_700_000_000.0  # seconds since 1970
OPEN, ENDED = Head(open=True, lane="replicate/"), Head(open=False, lane="replicate/")
PRICE: Final = Money(250_000, source="a price list", as_of="2026-01-01")
TARGET: Final = Target(provider="replicate", model="x/y", credential="ACME_KEY", fingerprint="0123abcd", price=PRICE)
TERMS: Final = Terms(doubt="C", cancel="stops", settle_s=60.0, total_s=3600.0)
REFUSAL: Final = Fault("moderated", "The provider's filter refused the prompt: change it.", provider_code="E005")
PROMPT: Final = "a slow dolly shot over a misty mountain lake at sunrise, 35 mm, shallow depth of field"
AT_ONCE: Final = 500  # jobs under way at the same time
LONGEST_APPEND: Final = 1_000


def accepted(number: int) -> m.SubmissionAccepted:
    """An event of about 320 bytes, as a provider with many addresses causes it."""
    base = f"https://api.acme.example/v1/predictions/{number:026x}"
    handle = Handle(f"{number:026x}", {"get": base, "cancel": f"{base}/cancel", "stream": f"{base}/stream"})
    return m.SubmissionAccepted(attempt=1, send=1, handle=handle, deadline=T0 + number)


def history(number: int) -> History:
    """What happens to one job: four to eight events; one job in eight is refused."""
    asked = m.JobRequested(
        spec=VideoSpec(prompt=f"{PROMPT}, take {number}", operation=TextToVideo(), seed=number, duration_seconds=5.0),
        route=(TARGET,),
        start_by=T0 + 86_400,
        body_sha256=f"{number:064x}",
    )
    if number % 8 == 7:
        refused = m.SubmissionRefused(attempt=1, send=1, fault=REFUSAL)
        return [asked, _started(number), refused, m.JobFailed(fault=REFUSAL, billed="no")]
    clip = AssetRef(f"customers/0/assets/video/20260101T000000_{number}.mp4", f"{number:064x}", 987_654, "video/mp4")
    probe = Probe(width=1280, height=720, fps=24.0, duration_seconds=5.0, has_audio=False)
    return [
        asked,
        _started(number),
        accepted(number),
        *(m.ProgressReported(attempt=1, percent=30 * (done + 1)) for done in range(number % 3)),
        m.GenerationFinished(attempt=1, outputs=(Output(f"https://cdn.acme.example/{number:032x}/out.mp4"),)),
        m.TakeStored(index=0, asset=clip, probe=probe),
        m.JobSucceeded(),
    ]


def long_history(reports: int) -> History:
    """One job whose provider reports without end."""
    return [
        *history(0)[:3],
        *(m.ProgressReported(attempt=1, percent=min(99, 1 + number * 99 // reports)) for number in range(reports)),
    ]


def _started(number: int) -> m.SubmissionStarted:
    return m.SubmissionStarted(
        attempt=1,
        send=1,
        incarnation="00f0e1d2c3b4a596",
        target=TARGET,
        key=f"job_{number:032x}-1",
        key_until=T0 + 600,
        body_sha256=f"{number:064x}",
        max_cost=PRICE,
        terms=TERMS,
    )


def stored(event: m.Event, number: int = 0) -> NewEvent:
    """An event as it goes into the log, with its cause."""
    return encode(event, T0 + number / 1000, m.Wake())


def birth(number: int) -> Birth:
    """The stream of a new job."""
    return Birth(fresh_job_id(T0 + number / 1000, random.Random(number).getrandbits(74)), "job", "default")


# ── Whole logs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def grow(path: Path, events: int) -> None:
    """Add jobs to a log until it has so many events; a new one where there is none."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        set_up(connection)
        heads = Heads()
        heads.refresh(connection)
        while heads.position < events:
            for writes in _wave(heads.last_stream):
                _append(connection, heads, writes)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def grow_one(path: Path, events: History) -> None:
    """A log of one stream."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        set_up(connection)
        heads = Heads()
        for first in range(0, len(events), LONGEST_APPEND):
            new = [stored(event) for event in events[first : first + LONGEST_APPEND]]
            _append(connection, heads, [Write(1 if first else birth(0), first, new, OPEN, first + 1)])


def _wave(last_stream: int) -> Iterator[list[Write]]:
    """Jobs that begin together, event by event, as jobs of the same hour lie in a log."""
    streams = range(last_stream + 1, last_stream + 1 + AT_ONCE)
    histories = {stream: history(stream) for stream in streams}
    for version in itertools.count():
        writes = [
            Write(stream if version else birth(stream), version, [stored(events[version], stream)], head, stream)
            for stream, events in histories.items()
            if version < len(events)
            for head in (ENDED if version == len(events) - 1 else OPEN,)
        ]
        if not writes:
            return
        yield writes


def _append(connection: sqlite3.Connection, heads: Heads, writes: Sequence[Write]) -> None:
    _raise_any(append_batch(connection, heads, writes).answers)


def _raise_any(answers: Iterable[Stored | Exception]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
