"""From a request to what a job stores: checked, fitted to its model and priced. Nothing is stored or paid yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.system import Snapshot
from rushes.adapters.base import needs_prepare
from rushes.adapters.capabilities import Model
from rushes.adapters.catalogue import meant, row_of
from rushes.adapters.families import members
from rushes.adapters.fit import estimate, fit, placed
from rushes.faults import RushesError, bad
from rushes.studio.doors import Parts
from rushes.studio.routing import Routed, routed, rows_for
from rushes.units import AssetRef
from rushes.video import Config, Input, Target, VideoRequest, VideoSpec, checked, operation_of, role_of

START_WITHIN_S: Final = 24 * 3600.0  # else the job fails
_UNSEEN: Final = AssetRef("", "", 0, "")


async def asked(parts: Parts, request: VideoRequest, tenant: str) -> m.JobRequested:
    """A checked request in its model's terms, and its media ours. Raises BadRequest."""
    wanted = request.model or parts.doors.default_model
    spec, found = _planned(parts, request, wanted)
    rows = found[2]
    fitted, model = fit(spec, rows, request.emulate)  # refuse what needs no look at the files
    if request.inputs:
        kept = [await parts.intake.keep(number, given, tenant) for number, given in enumerate(request.inputs)]
        inputs, emulated = await parts.intake.fitted(placed(kept, rows), model, tenant)
        fitted, model = fit(replace(spec, inputs=inputs, emulated=emulated), rows, request.emulate)
    if fitted.seed is None and model.draws_seed and "seed" in model.fields:
        fitted = replace(fitted, seed=parts.rng.randrange(model.max_seed + 1))
    requested = _requested(parts, fitted, [found], request.at_least_once)
    return replace(requested, asked="" if wanted in _names(found[1]) else wanted)


def asked_again(parts: Parts, snapshot: Snapshot) -> m.JobRequested:
    """What a job was asked for, as a job of its own, on the same route. Raises BadRequest where it cannot be run."""
    old = request_of(snapshot)
    route = [routed(parts, f"{target.provider}/{target.model}") for target in old.route]
    for _, _, rows in route:
        fit(old.spec, rows)  # what was offered then may not be any more
    return replace(_requested(parts, old.spec, route, old.at_least_once), parent=snapshot.name)


def request_of(snapshot: Snapshot) -> m.JobRequested:
    """What a job was asked for."""
    assert not isinstance(snapshot.job, m.New)  # the first event of every job is its request
    return snapshot.job.facts.requested


def check(parts: Parts, request: VideoRequest) -> None:
    """Raise BadRequest where a request cannot be run, as far as its words tell: its files are not looked at."""
    request = checked(request)
    spec, (_, _, rows) = _planned(parts, request, request.model or parts.doors.default_model)
    fit(spec, rows, request.emulate)


def pick(parts: Parts, request: VideoRequest, family: str) -> str:
    """The first model of a family that can be used here now and takes the request. Raises BadRequest: there is none."""
    refusals: list[RushesError] = []
    for name in members(family, parts.adapters, parts.today, parts.doors.explicit):
        try:
            _, _, rows = routed(parts, name)
            fit(_unseen_spec(request, rows), rows, request.emulate)
        except RushesError as refusal:
            refusals.append(refusal)
        else:
            return name
    if not refusals:
        rows_for(parts, family)  # which says what there is, or was
        raise bad("model", f"No model stands for {family!r} any more.", "model_unknown")
    raise next((one for one in refusals if one.code != "authentication_failed"), refusals[0])


def _planned(parts: Parts, request: VideoRequest, wanted: str) -> tuple[VideoSpec, Routed]:
    """What a request asks for, before its files were looked at, and of which model. Raises BadRequest."""
    _, rows = rows_for(parts, wanted)
    spec = _unseen_spec(request, rows)
    return spec, routed(parts, meant(wanted, spec, parts.adapters, parts.today))


def _unseen_spec(request: VideoRequest, rows: Sequence[Model]) -> VideoSpec:
    """What a request asks a model for, before anybody has looked at its files."""
    inputs = placed([Input(type=given.type, role=role_of(given), asset=_UNSEEN) for given in request.inputs], rows)
    return VideoSpec(
        **{name: getattr(request, name) for name in Config.__struct_fields__},
        prompt=request.prompt,
        inputs=inputs,
        operation=operation_of(request.operation, {given.role for given in inputs}),
        customer_id=request.customer_id or 0,
    )


def _requested(parts: Parts, spec: VideoSpec, route: Sequence[Routed], at_least_once: int) -> m.JobRequested:
    adapter, target, _ = route[0]
    return m.JobRequested(
        spec=spec,
        route=tuple(
            replace(target, price=estimate(spec, row_of(adapter, target.model, spec))) for adapter, target, _ in route
        ),
        needs=("prepare",) if needs_prepare(adapter, spec, target) else (),
        start_by=parts.clock.now() + START_WITHIN_S,
        at_least_once=at_least_once,
    )


def _names(target: Target) -> tuple[str, ...]:
    """What a caller can write for a target without an alias."""
    return target.provider, target.model, f"{target.provider}/{target.model}"
