"""Finding a model by what a caller wrote: names, aliases, retirements, rows that settings add; how each is shown."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec
from msgspec import Meta, Struct

from rushes.adapters.capabilities import Capabilities, Model, Option, Price, Retirement
from rushes.adapters.fit import fit, ratio_of, resolution_of
from rushes.faults import BadRequest, bad
from rushes.video import Config, LimitsView, ModelView, PriceView, RetirementView, VideoSpec


class Named(Protocol):
    """The part of an adapter that this room looks at."""

    name: str
    capabilities: Capabilities


Positive = Annotated[float, Meta(gt=0)]
Found = tuple[str, tuple[Model, ...]]
"""A provider's name, and all rows of one of its models."""


def route(wanted: str, adapters: Mapping[str, Named], today: str = "", explicit: Collection[str] = ()) -> Found:
    """The model that `provider`, `provider/model`, or a model that only one provider has stands for; aliases count.

    Args:
        wanted: what the caller wrote.
        adapters: by name.
        today: YYYY-MM-DD; models that were switched off by then are refused.
        explicit: providers whose address was set: what answers there may still have them.

    Raises:
        BadRequest: there is no such model, or it is retired; the message says what there is.
    """
    name, model_id = _parted(wanted, adapters)
    if name and (rows := rows_of(adapters[name], model_id)):
        _refuse_retired(adapters[name], rows[0].id, "" if name in explicit else today)
        return name, rows
    if name:
        _refuse_retired(adapters[name], model_id, today)
    bare = [(each.name, rows) for each in adapters.values() if (rows := rows_of(each, wanted))]
    live = [found for found in bare if found[0] in explicit or not is_gone(adapters[found[0]], found[1][0].id, today)]
    if len(live) == 1:
        return live[0]
    if live:
        choice = ", ".join(f"{name}/{rows[0].id}" for name, rows in live)
        raise bad("model", f"Several providers have a model {wanted!r}: choose {choice}.", "model_unknown")
    for provider, rows in bare:
        _refuse_retired(adapters[provider], rows[0].id, today)
    for each in adapters.values():
        _refuse_retired(each, wanted, today)
    every = {f"{each.name}/{model.id}" for each in adapters.values() for model in each.capabilities.models}
    names = sorted({name for name in every if len(set(name.split("/"))) > 1} | set(adapters))
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise bad("model", f"There is no model {wanted!r}. {hint}Known: {', '.join(names)}.", "model_unknown")


def meant(wanted: str, spec: VideoSpec, adapters: Mapping[str, Named], today: str = "") -> str:
    """What a name means once it is known what is to be made.

    Where no model of a provider does it, its name alone means a live model of its elder: the first that admits the
    request, or else the first that does such things, whose refusal says why. A name that holds a model is that model's.
    """
    name, _ = _parted(wanted, adapters)
    if not name or "/" in wanted or _doing(spec, adapters[name]):
        return wanted
    elder = adapters.get(adapters[name].capabilities.elder)
    able = [model for model in _doing(spec, elder) if not is_gone(elder, model.id, today)] if elder else []
    admitting = (model for model in able if _admits(spec, model))
    return f"{elder.name}/{next(admitting, able[0]).id}" if elder and able else wanted


def _doing(spec: VideoSpec, provider: Named) -> list[Model]:
    return [row for row in provider.capabilities.models if spec.operation.__struct_config__.tag in row.operations]


def _admits(spec: VideoSpec, model: Model) -> bool:
    try:
        fit(spec, [model])
    except BadRequest:
        return False
    return True


def _parted(wanted: str, adapters: Mapping[str, Named]) -> tuple[str, str]:
    """(provider, model id) of a name that begins with a provider's, or two empty texts."""
    first, slash, rest = wanted.partition("/")
    for each in adapters.values():
        if first == each.name or first in each.capabilities.aliases:
            return each.name, rest if slash else each.capabilities.models[0].id
    return "", ""


def is_gone(provider: Named, model_id: str, today: str) -> bool:
    """Whether a model was switched off by `today` (YYYY-MM-DD; empty: nothing is)."""
    gone = provider.capabilities.retired.get(model_id)
    return gone is not None and bool(today) and today >= gone.on


def _refuse_retired(provider: Named, model_id: str, today: str) -> None:
    if not is_gone(provider, model_id, today):
        return
    gone = provider.capabilities.retired[model_id]
    whose = gone.provider or provider.name
    instead = f"use {whose}/{gone.replacement}" if gone.replacement else "nothing there replaces it"
    raise bad("model", f"{provider.name} switched {model_id!r} off on {gone.on}: {instead}.", "model_retired")


def rows_of(provider: Named, model_id: str) -> tuple[Model, ...]:
    """Every row of the model of that id or alias; none where the provider has none."""
    return _rows(provider.capabilities.models, model_id)


def _rows(models: Sequence[Model], name: str) -> tuple[Model, ...]:
    return tuple(model for model in models if name == model.id or name in model.aliases)


def row_of(provider: Named, model_id: str, spec: VideoSpec) -> Model:
    """The row that a stored request was checked against. Raises BadRequest where there is none (any more)."""
    operation = spec.operation.__struct_config__.tag
    for model in rows_of(provider, model_id):
        if operation in model.operations:
            return model
    raise bad("model", f"{provider.name} has no model {model_id!r} that does {operation} (any more).", "model_unknown")


# ── Rows that settings add ────────────────────────────────────────────────────────────────────────────────────────────


class ModelSetting(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[models]]` of rushes.toml: a model like another one of the same provider, but for what is given here."""

    provider: str
    id: Annotated[str, Meta(min_length=1, max_length=200)]
    like: str = ""  # the model whose limits it has; empty: the provider's first
    aliases: tuple[str, ...] = ()
    operations: tuple[str, ...] | None = None  # of those of the other model
    durations_s: tuple[Positive, ...] | None = None  # this and the next three count for operations that have them at
    aspect_ratios: tuple[str, ...] | None = None  # the other model. The first is the default where the other model's
    resolutions: tuple[str, ...] | None = None  # is not among them
    frame_rates: tuple[Positive, ...] | None = None
    fields: frozenset[str] | None = None  # of those of the other model
    options: dict[str, Option] | None = None  # of its names only, unless the provider takes new ones
    prompt: Literal["required", "optional", "none"] | None = None
    max_prompt_chars: Annotated[int, Meta(ge=1)] | None = None
    max_seed: Annotated[int, Meta(ge=0)] | None = None
    price: Price | None = None


_LISTS: Final = ("durations_s", "aspect_ratios", "resolutions", "frame_rates")
_GIVEN: Final = ("id", "aliases", "max_prompt_chars", "max_seed", "price")


def with_settings(provider: Named, settings: Sequence[ModelSetting]) -> Capabilities:
    """The provider's data with the models that settings add to it. Raises BadRequest naming the setting."""
    data = provider.capabilities
    for number, setting in enumerate(settings):
        if setting.provider == provider.name:
            data = msgspec.structs.replace(data, models=data.models + _like(data, setting, f"models[{number}]"))
    return data


def _like(data: Capabilities, setting: ModelSetting, where: str) -> tuple[Model, ...]:
    """The rows of the model that a setting adds to these."""
    models = data.models
    for field, names in (("id", (setting.id,)), ("aliases", setting.aliases)):
        if taken := [name for name in names if _rows(models, name)]:
            raise bad(f"{where}.{field}", f"{where}: {setting.provider} has a model {taken[0]!r} already.")
    rows = _rows(models, setting.like or models[0].id)
    if not rows:
        raise bad(f"{where}.like", f"{where}: {setting.provider} has no model {setting.like!r}.")
    _check(setting, rows, where, new_options=data.new_options)
    made = [_changed(row, setting, new_options=data.new_options) for row in rows]
    return tuple(msgspec.structs.replace(row, defaults=_defaults(row)) for row in made if row.operations)


def _changed(row: Model, setting: ModelSetting, *, new_options: bool) -> Model:
    """A row with what is given. What the row has nothing of stays away: its wire may have no place for it."""
    changes: dict[str, Any] = {name: value for name in _GIVEN if (value := getattr(setting, name)) is not None}
    changes["price"] = setting.price  # it belongs to its model: one that is only like it may cost something else
    if setting.aspect_ratios or setting.resolutions:
        changes["sizes"] = {}
    for name in _LISTS:
        if (wanted := getattr(setting, name)) is not None and getattr(row, name):
            changes[name] = wanted
    if setting.operations is not None:
        changes["operations"] = tuple(name for name in row.operations if name in setting.operations)
    if setting.fields is not None:
        changes["fields"] = row.fields & setting.fields
    if setting.options is not None:
        changes["options"] = {name: it for name, it in setting.options.items() if new_options or name in row.options}
    if setting.prompt is not None and row.prompt != "none":
        changes["prompt"] = setting.prompt
    return msgspec.structs.replace(row, **changes)


def _check(setting: ModelSetting, rows: Sequence[Model], where: str, *, new_options: bool) -> None:
    """Raises BadRequest naming an entry that nothing could ever match, or that the other model cannot honour."""
    able = {
        "operations": {name for row in rows for name in row.operations},
        "fields": {name for row in rows for name in row.fields},
        "options": set(setting.options or ()) if new_options else {name for row in rows for name in row.options},
        "aspect_ratios": {text for text in setting.aspect_ratios or () if ratio_of(text) == text},
        "resolutions": {text for text in setting.resolutions or () if resolution_of(text) == text},
    }
    for field, known in able.items():
        if wrong := sorted(set(getattr(setting, field) or ()) - known):
            shown = {"aspect_ratios": "is no ratio like 16:9", "resolutions": "is no resolution like 720p"}
            reason = shown.get(field, f"is none of the {field} of {rows[0].id!r}, which it is like")
            raise bad(f"{where}.{field}", f"{where}: {wrong[0]!r} {reason}.")
    for field in _LISTS:
        if getattr(setting, field) and not any(getattr(row, field) for row in rows):
            raise bad(f"{where}.{field}", f"{where}: {rows[0].id!r}, which it is like, has no {field}: leave them out.")
    if setting.prompt not in (None, "none") and all(row.prompt == "none" for row in rows):
        raise bad(f"{where}.prompt", f"{where}: {rows[0].id!r}, which it is like, takes no prompt.")


def _defaults(row: Model) -> Config:
    """The other model's defaults; what is not offered here gives way to the first that is."""
    offers = {
        "duration_seconds": row.durations_s,
        "aspect_ratio": row.aspect_ratios,
        "resolution": row.resolutions,
        "fps": row.frame_rates,
    }
    given = {name: getattr(row.defaults, name) for name in offers}
    wrong = {
        name: next(iter(offers[name]), None) for name, value in given.items() if value not in (None, *offers[name])
    }
    others = set(Config.__struct_fields__) - set(offers) - row.fields - {"provider_options"}
    return msgspec.structs.replace(row.defaults, **wrong, **dict.fromkeys(others))


# ── How models are shown ──────────────────────────────────────────────────────────────────────────────────────────────


def model_views(provider: Named, today: str = "") -> list[ModelView]:
    """Every model that can be chosen."""
    names = dict.fromkeys(model.id for model in provider.capabilities.models)
    return [_model_view(rows_of(provider, name)) for name in names if not is_gone(provider, name, today)]


def retirement_views(provider: Named) -> list[RetirementView]:
    """Every model that is switched off, or will be."""
    every = provider.capabilities.retired.items()
    return [RetirementView(model=name, on=gone.on, replacement=_told(gone)) for name, gone in every]


def _told(gone: Retirement) -> str:
    return f"{gone.provider}/{gone.replacement}" if gone.provider else gone.replacement


def _model_view(rows: Sequence[Model]) -> ModelView:
    first = rows[0]
    limits = [_limits_view(row) for row in rows]
    return ModelView(id=first.id, aliases=list(first.aliases), limits=limits, price=_price_view(rows), free=first.free)


def _limits_view(row: Model) -> LimitsView:
    return LimitsView(
        operations=list(row.operations),
        durations_seconds=list(row.durations_s),
        aspect_ratios=list(row.aspect_ratios),
        resolutions=list(row.resolutions),
        fps=list(row.frame_rates),
        inputs={str(role): most for role, most in row.roles.items()},
        max_inputs=row.max_inputs,
        fields=sorted(row.fields),
        options=sorted(row.options),
        prompt=row.prompt,
        max_prompt_chars=row.max_prompt_chars,
        defaults=msgspec.to_builtins(row.defaults),
    )


def _price_view(rows: Sequence[Model]) -> PriceView | None:
    """The prices of all its rows that count in the same units as the first."""
    prices = [row.price for row in rows if row.price is not None]
    if not prices:
        return None
    first = prices[0]
    alike = [price for price in prices if price.per == first.per]
    every = [amount for price in alike for amount in (price.micro_usd, *(rate.micro_usd for rate in price.rates))]
    return PriceView(
        per=first.per,
        most_micro_usd=max(every),
        least_micro_usd=min(every),
        source=first.source,
        as_of=first.as_of,
    )
