"""The providers in the words that every door uses: what each can do, what it lacks, and how its lanes fare here."""

from __future__ import annotations

from rushes.actors.lanes import Lane
from rushes.adapters.base import Adapter
from rushes.adapters.callbacks import with_callback
from rushes.adapters.catalogue import model_views, retirement_views
from rushes.studio.doors import Doors, Parts
from rushes.studio.routing import credential_of, unset_for
from rushes.units import utc
from rushes.video import OPERATIONS, LaneView, ProviderView, Target, VideoSpec


def provider_views(parts: Parts) -> list[ProviderView]:
    """All providers that can be named."""
    lanes: dict[str, list[LaneView]] = {name: [] for name in parts.adapters}
    for lane in parts.system.lanes:
        provider, _, credential = lane.name.partition("/")
        lanes.setdefault(provider, []).append(_lane_view(lane, credential, parts.clock.now()))
    return [
        _provider_view(adapter, parts.doors, parts.today, lanes[name])
        for name, adapter in sorted(parts.adapters.items())
    ]


def _provider_view(adapter: Adapter, doors: Doors, today: str, lanes: list[LaneView]) -> ProviderView:
    data = adapter.capabilities
    reason, unset = doors.unavailable(adapter.name), unset_for(adapter, doors)
    return ProviderView(
        name=adapter.name,
        aliases=list(data.aliases),
        configured=reason is None and not unset,
        reason=str(reason or unset),
        keys=list(data.auth.env) if data.auth is not None else [],
        credential=credential_of(adapter, doors),
        in_doubt=_in_doubt(adapter, doors),
        cancel=data.terms.cancel,
        models=model_views(adapter, "" if adapter.name in doors.explicit else today),
        retired=retirement_views(adapter),
        lanes=lanes,
    )


def _in_doubt(adapter: Adapter, doors: Doors) -> str:
    """The class of a plain request to the provider's first model, if it were sent from here."""
    data, model = adapter.capabilities, adapter.capabilities.models[0]
    kind = next(kind for kind, name in OPERATIONS.items() if name == model.operations[0])
    spec = VideoSpec(prompt="", operation=kind())
    terms = adapter.terms(spec, Target(provider=adapter.name, model=model.id))
    return (terms if doors.callbacks is None else with_callback(terms, data.webhook)).doubt


def _lane_view(lane: Lane, credential: str, now: float) -> LaneView:
    closed_for_s = lane.closed_for_s
    return LaneView(
        credential=credential,
        open=not closed_for_s,
        closed_until=utc(now + closed_for_s) if closed_for_s else None,
        closed_by=lane.closed_by or "",
        sending=lane.sends.taken,
        waiting=lane.sends.waiting,
        calling=lane.calls.taken,
        fetching=lane.fetches.taken,
        jobs=lane.known,
        ended=lane.ended,
        polls=lane.polls,
        polls_per_job=round(lane.polls / lane.ended, 1) if lane.ended else None,
    )
