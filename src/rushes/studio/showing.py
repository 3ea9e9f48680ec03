"""A job, its takes and its events in the words that every door uses. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from rushes.actors import messages as m
from rushes.actors.codec import trace_of
from rushes.actors.job import phase_word
from rushes.actors.messages import Job
from rushes.actors.system import Snapshot
from rushes.actors.words import billed_word, status_word
from rushes.adapters.base import Adapter
from rushes.adapters.catalogue import row_of
from rushes.adapters.fit import size_of
from rushes.eventstore.base import Recorded
from rushes.faults import BadRequest, Fault, JobFailed
from rushes.units import utc
from rushes.video import OPERATIONS, EstimateView, EventView, FaultView, JobView, Take, TakeView

ATTENTION: Final[dict[m.ParkReason, str]] = {
    "in_doubt": "It is not known whether the provider took the job, nor whether it is billed. Where the provider's own "
    "list has it, `collect` with its id as `handle` fetches it; `resubmit` sends it again and may be paid twice; "
    "`give-up` ends it here.",
    "detached": "The provider did not finish in time; it may still, and may bill. `collect` asks it again and fetches "
    "the video; `resubmit` sends the job again and may be paid twice; `give-up` ends it here.",
    "gone": "The provider no longer knows this job, and may have billed it. `collect` asks it again, also under "
    "another id given as `handle`; `resubmit` sends the job again and may be paid twice; `give-up` ends it here.",
    "credential": "The provider refuses the key that this job was made with. Once the key works again, `collect` "
    "fetches the video; `resubmit` sends the job again and may be paid twice; `give-up` ends it here.",
}
"""What a person is told of a parked job."""
_UNHEARD: Final = (
    "Its provider may still call back, and nobody hears that here: `rushes serve` with a public_url does. Without a "
    "call the job is parked in the end."
)


def job_view(snapshot: Snapshot, now: float, path_of: Callable[[str], object], *, hearing: bool) -> JobView:
    """A state in the words that every door uses.

    Args:
        snapshot: the state.
        now: the time, in seconds since 1970.
        path_of: where the file of an asset's key lies.
        hearing: a provider that calls back is heard here.
    """
    job = snapshot.job
    assert not isinstance(job, m.New)  # the first event of every job is its request
    requested, spec, target = job.facts.requested, job.facts.spec, job.target
    return JobView(
        id=snapshot.name,
        parent=requested.parent,
        metadata=_metadata(job, requested),
        batch=requested.batch,
        hidden=isinstance(job, m.Ended) and job.hidden,
        status=status_word(job),
        phase=phase_word(job),
        version=snapshot.version,
        operation=OPERATIONS[type(spec.operation)],
        provider=target.provider,
        model=target.model,
        prompt=job.facts.prompt,
        request=spec,
        created_at=utc(snapshot.born_at),
        updated_at=utc(snapshot.at),
        attempt=job.attempt,
        progress=_progress(job),
        eta_seconds=_eta_s(job, now),
        cancel_requested=isinstance(job, m.Sent) and job.cancel is not None,
        attention=ATTENTION[job.reason] if isinstance(job, m.Parked) else "",
        note=_note(job, snapshot.trouble, hearing=hearing),
        billed=billed_word(job),
        cost=job.cost if isinstance(job, m.Succeeded) else None,
        estimate=target.price,
        error=_error(job),
        takes=[_take_view(snapshot.name, take, str(path_of(take.asset.key))) for take in _takes(job)],
        missing=_missing(job),
        age_seconds=round(max(0.0, now - snapshot.heard_at), 3),
    )


def shown_size(view: JobView, adapters: Mapping[str, Adapter]) -> str:
    """Width and height as w×h with an x: of the first take, or as asked for; empty where nobody here can say."""
    for take in view.takes[:1]:
        if take.width and take.height:
            return f"{take.width}x{take.height}"
    spec = view.request
    if not (spec.resolution and spec.aspect_ratio) or view.provider not in adapters:
        return ""
    try:
        return size_of(spec, row_of(adapters[view.provider], view.model, spec))
    except (BadRequest, KeyError):  # another release's model, or one of a setting that is gone
        return ""


def estimate_view(requested: m.JobRequested, seed: int | None) -> EstimateView:
    """What a request would cost at the most. `seed`: as it was asked for; another one would be drawn."""
    target, cost = requested.route[0], requested.route[0].price
    return EstimateView(
        provider=target.provider,
        model=target.model,
        operation=OPERATIONS[type(requested.spec.operation)],
        price="unknown" if cost is None else "known" if cost.micro_usd else "free",
        cost=cost,
        sends=1 + requested.at_least_once,
        request=msgspec.structs.replace(requested.spec, seed=seed),
    )


def event_view(recorded: Recorded, job_id: str) -> EventView:
    """A stored event as callers see it."""
    return EventView(
        position=recorded.position,
        job_id=job_id,
        version=recorded.version,
        type=recorded.type,
        at=utc(recorded.at),
        data=msgspec.Raw(recorded.data),
        traceparent=trace_of(recorded) or msgspec.UNSET,
    )


def failure(view: JobView) -> JobFailed:
    """Why a job has no take, or waits for a person, as an error."""
    if view.status == "cancelled":
        fault = Fault("cancelled", "The job was cancelled.")
    elif view.error is not None:
        fault = Fault(view.error.code, view.error.detail)  # type: ignore[arg-type]  # a view's code came from a Fault
    else:
        fault = Fault("no_answer", view.attention)
    return JobFailed(fault, job_id=view.id, billed=view.billed)


def _metadata(job: Job, requested: m.JobRequested) -> dict[str, str]:
    """What the provider told of a finished job; how it differs from what was asked; the model as it was asked for."""
    told = dict(job.metadata) if isinstance(job, m.Succeeded) else {}
    if requested.spec.emulated:
        told["emulated"] = "; ".join(requested.spec.emulated)
    return told | ({"requested_model": requested.asked} if requested.asked else {})


def _progress(job: Job) -> int | None:
    match job:
        case m.Running(percent=percent):
            return percent
        case m.Storing() | m.Succeeded():
            return 100
        case _:
            return None


def _eta_s(job: Job, now: float) -> float | None:
    if not isinstance(job, m.Running) or not job.percent:
        return None
    elapsed_s = max(0.0, now - job.accepted_at)
    return round(elapsed_s * (100 - job.percent) / job.percent, 1)


def _note(job: Job, trouble: Fault | None, *, hearing: bool) -> str:
    if isinstance(job, m.Ended | m.Parked):
        return ""
    if isinstance(job, m.InDoubt) and job.started.terms.doubt == "D" and not hearing:
        return _UNHEARD
    fault = trouble or (job.refused if isinstance(job, m.Queued) else None)
    return "" if fault is None else fault.detail


def _error(job: Job) -> FaultView | None:
    match job:
        case m.Failed(fault=Fault(code=code, detail=detail, field=field)):
            return FaultView(code=code, detail=detail, field=field)
        case _:
            return None


def _takes(job: Job) -> Sequence[Take]:
    match job:
        case m.Succeeded(takes=takes):
            return takes
        case m.Storing(stored=stored):
            return stored
        case _:
            return ()


def _take_view(job_id: str, take: Take, path: str) -> TakeView:
    return TakeView(
        index=take.index,
        kind=take.kind,
        url=f"/v1/jobs/{job_id}/content?take={take.index}",
        path=path,
        media_type=take.asset.media_type,
        size_bytes=take.asset.size_bytes,
        sha256=take.asset.sha256,
        **msgspec.structs.asdict(take.probe),
    )


def _missing(job: Job) -> int:
    match job:
        case m.Succeeded(missing=missing):
            return missing
        case m.Storing(lost=lost):
            return len(lost)
        case _:
            return 0
