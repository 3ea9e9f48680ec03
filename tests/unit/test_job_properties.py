"""What holds for a job whatever it is told, in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import ASKED, ASSET, BUSY, HANDLE, HERE, NO, TERMS, THERE
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.codec import decode, encode
from rushes.actors.job import decide, evolve, pending, replay
from rushes.adapters.base import Output
from rushes.adapters.capabilities import CancelKind, DoubtClass
from rushes.eventstore.base import Recorded
from rushes.faults import CommandRejected
from rushes.units import Billed, Money
from rushes.video import Probe, Take

numbers = st.sampled_from([1, 1, 1, 1, 2, 3])
faults = st.sampled_from([BUSY, NO])
billed: st.SearchStrategy[Billed] = st.sampled_from(["yes", "no", "unknown"])
outputs = st.lists(st.builds(Output, st.just("https://x")), max_size=2).map(tuple)
doubts: st.SearchStrategy[DoubtClass] = st.sampled_from(["A", "B", "C", "D", "E"])
cancels: st.SearchStrategy[CancelKind] = st.sampled_from(["no", "stops", "destroys"])
terms = st.builds(lambda doubt, cancel: replace(TERMS, doubt=doubt, cancel=cancel), doubts, cancels)
takes = st.builds(Take, index=st.integers(0, 2), asset=st.just(ASSET), probe=st.just(Probe(width=2, height=2)))
commands: st.SearchStrategy[m.Command] = st.one_of(
    st.just(m.Poll()),
    st.builds(m.Cancel, discard=st.booleans()),
    st.builds(m.Collect, handle=st.sampled_from([None, HANDLE])),
    st.builds(m.Resubmit, target=st.sampled_from([None, THERE]), accept_cost=st.booleans()),
    st.just(m.GiveUp()),
    st.just(m.Hide()),
    st.just(m.Wake()),
    st.builds(m.RecordPrompt, attempt=numbers, prompt=st.just("p")),
    st.builds(m.RecordPrepared, attempt=numbers, prepared=st.just({"a": "b"})),
    st.builds(m.RecordReserved, attempt=numbers, amount=st.just(Money(5))),
    st.builds(m.RecordDenied, attempt=numbers, fault=faults),
    st.builds(
        m.GrantPermit,
        attempt=numbers,
        incarnation=st.just("us"),
        key=st.just("k"),
        body_sha256=st.just(""),
        max_cost=st.just(None),
        terms=terms,
    ),
    st.builds(m.RecordAccepted, attempt=numbers, send=numbers, handle=st.just(HANDLE)),
    st.builds(m.RecordRefused, attempt=numbers, send=numbers, fault=faults, retry_at=st.sampled_from([None, 5.0])),
    st.builds(m.RecordDoubt, attempt=numbers, send=numbers, fault=faults),
    st.builds(m.RecordAbsent, attempt=numbers, send=numbers, looked_at=st.floats(0, 5000)),
    st.builds(m.RecordProgress, attempt=numbers, percent=st.none() | st.integers(-5, 150)),
    st.builds(m.RecordFinished, attempt=numbers, outputs=outputs, filtered=st.integers(0, 1)),
    st.builds(m.RecordBroken, attempt=numbers, fault=faults, billed=billed),
    st.builds(m.RecordStopped, attempt=numbers, billed=billed),
    st.builds(m.RecordVanished, attempt=numbers),
    st.builds(m.RecordCancel, attempt=numbers, answer=st.sampled_from(["accepted", "too_late", "cannot"])),
    st.builds(m.RecordLinks, attempt=numbers, outputs=outputs),
    st.builds(m.RecordStored, attempt=numbers, take=takes),
    st.builds(m.RecordLost, attempt=numbers, index=st.integers(0, 2), fault=faults),
    st.builds(m.RecordTrouble, fault=faults),
)
requests = st.builds(
    lambda needs, once, route: replace(ASKED, needs=needs, at_least_once=once, route=route),
    st.sampled_from([(), ("prompt",), ("prepare", "reserve")]),
    st.integers(0, 1),
    st.sampled_from([(HERE,), (HERE, THERE)]),
)
ENDS = (m.JobSucceeded, m.JobFailed, m.JobCancelled)


def stored(event: m.Event, version: int, cause: m.Command) -> Recorded:
    new = encode(event, 0.0, cause)
    return Recorded(version, 1, version, new.type, new.v, new.at, new.data, new.meta, 1, 1)


@settings(max_examples=300, deadline=None)
@given(requests, st.lists(st.tuples(commands, st.floats(0, 400)), max_size=25))
def test_a_job_keeps_its_promises_whatever_it_is_told(
    request: m.JobRequested, story: list[tuple[m.Command, float]]
) -> None:
    now, log = 0.0, [(request, 0.0)]
    job = replay([*log])
    percent = 0
    history: list[tuple[m.Event, float]] = [*log]
    for command, after_s in story:
        now += after_s
        over = isinstance(job, m.Ended)
        try:
            events = decide(command, job, now)
        except CommandRejected:
            continue
        for event in events:
            assert not over or isinstance(event, m.JobHidden), "an ended job said something"
            assert decode(stored(event, len(history) + 1, command)) == event
            if isinstance(event, m.AttemptOpened | m.JobResumed):
                percent = 0
            if isinstance(event, m.ProgressReported):
                assert event.percent > percent
                percent = event.percent
            job = evolve(job, event, now)
            history.append((event, now))
        assert replay(history) == job
        owed = pending(job, "us")
        assert (owed is None) == isinstance(job, m.Ended | m.Parked)
    assert sum(isinstance(event, ENDS) for event, _ in history) <= 1
