"""What providers can do, as data, and the code over it that all share: route, normalise, validate, estimate.

Adapters hold no `if` for what they cannot do. A value passes only when it is in the model's data; nothing is coerced.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct

from rushes.faults import BadRequest, Fault, bad
from rushes.units import FREE, Money
from rushes.video import JSON, OPERATIONS, Config, Role, VideoSpec

RATIO_WORDS: Final = {"square": "1:1", "portrait": "9:16", "landscape": "16:9", "cinema": "21:9"}
RESOLUTION_WORDS: Final = {"sd": "480p", "hd": "720p", "fhd": "1080p", "uhd": "2160p", "4k": "2160p", "2k": "1440p"}
OptionType = Literal["string", "integer", "number", "boolean"]
_OPTION_TYPES: Final[dict[OptionType, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


_SIZE: Final = re.compile(r"(\d{2,5})[x×](\d{2,5})")


class Auth(Struct, frozen=True, kw_only=True):
    """Where the key comes from and where it goes. The value itself is known to `http` alone."""

    env: tuple[str, ...]  # the provider's own name first
    header: str = "Authorization"
    prefix: str = "Bearer "


class Price(Struct, frozen=True, kw_only=True):
    """One dated price. An estimate is the worst case of one send."""

    per: Literal["second", "clip"]
    micro_usd: int
    source: str
    as_of: str  # YYYY-MM-DD
    minimum_units: float = 0.0


class Model(Struct, frozen=True, kw_only=True):
    """One model's limits. Empty tuples mean: the field is not for this model."""

    id: str
    operations: tuple[str, ...]
    durations_s: tuple[float, ...] = ()
    aspect_ratios: tuple[str, ...] = ()
    resolutions: tuple[str, ...] = ()
    frame_rates: tuple[float, ...] = ()
    roles: Mapping[Role, int] = {}  # how many pictures of each role it takes
    fields: frozenset[str] = frozenset()  # other Config fields that it honours
    options: Mapping[str, OptionType] = {}  # provider options by name
    defaults: Config = Config()
    prompt: Literal["required", "optional", "none"] = "required"
    draws_seed: bool = True  # the wire takes a seed: an absent one is drawn by us and recorded
    max_seed: int = 2**31 - 1
    price: Price | None = None
    free: bool = False


class Capabilities(Struct, frozen=True, kw_only=True):
    """One provider's data."""

    base_url: str
    base_url_env: str  # the environment variable that points it elsewhere (an emulator, a gateway)
    models: tuple[Model, ...]
    auth: Auth | None = None
    submits_at_once: int = 8  # this and the next three: of one credential
    submit_interval_s: float = 0.0  # the least time between two submits: a rate limit
    calls_at_once: int = 64  # polls, look-ups, cancels and uploads
    fetches_at_once: int = 8  # downloads of finished takes
    docs_url: str = ""


class Named(Protocol):
    """The part of an adapter that this room looks at."""

    name: str
    capabilities: Capabilities


def route(wanted: str, adapters: Mapping[str, Named]) -> tuple[str, Model]:
    """(provider, model) for `provider`, `provider/model` or a bare model id that only one provider has."""
    name, _, model_id = wanted.partition("/")
    provider = adapters.get(name)
    if provider is not None:
        models = provider.capabilities.models
        named = models[:1] if not model_id else [model for model in models if model.id == model_id]
        if named:
            return name, named[0]
    every = [(provider.name, model) for provider in adapters.values() for model in provider.capabilities.models]
    bare = [found for found in every if found[1].id == wanted]
    if len(bare) == 1:
        return bare[0]
    names = sorted({f"{name}/{model.id}" for name, model in every if name != model.id} | set(adapters))
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise bad("model", f"There is no model {wanted!r}. {hint}Known: {', '.join(names)}.", "model_unknown")


def model_of(provider: Named, model_id: str) -> Model:
    """The model of that id. Raises BadRequest where the provider has none (any more)."""
    for model in provider.capabilities.models:
        if model.id == model_id:
            return model
    raise bad("model", f"{provider.name} has no model {model_id!r}.", "model_unknown")


def ratio_of(text: str) -> str | None:
    """A word, w:h or w×h as the ratio w:h in lowest terms; None when it is none of them."""
    if text in RATIO_WORDS:
        return RATIO_WORDS[text]
    if not (match := re.fullmatch(r"(\d{1,5})[:x×](\d{1,5})", text)):
        return None
    width, height = int(match[1]), int(match[2])
    if not width or not height:
        return None
    divisor = gcd(width, height)
    ratio = f"{width // divisor}:{height // divisor}"
    return {"7:3": "21:9"}.get(ratio, ratio)


def resolution_of(text: str) -> str | None:
    """A word or 480p … 2160p as lines (the shorter side and a p); None when it is neither."""
    text = text.lower()
    if text in RESOLUTION_WORDS:
        return RESOLUTION_WORDS[text]
    return text if re.fullmatch(r"\d{3,4}p", text) else None


def pixels(resolution: str, ratio: str) -> tuple[int, int]:
    """Width and height, both even, for lines and a ratio: 720p and 16:9 make 1280×720."""
    lines = int(resolution.removesuffix("p"))
    across, down = (int(part) for part in ratio.split(":"))
    long = round(lines * max(across, down) / min(across, down) / 2) * 2
    return (long, lines) if across >= down else (lines, long)


def normalise(spec: VideoSpec, model: Model) -> VideoSpec:
    """The spec in the model's own terms, with its defaults filled in. Refuses what is not in its data."""
    if faults := _faults(spec, model):
        raise BadRequest(faults)
    given = {name: getattr(spec, name) for name in Config.__struct_fields__}
    filled = {name: getattr(model.defaults, name) if value is None else value for name, value in given.items()}
    if spec.resolution and (exact := _exact(spec.resolution, model)):
        filled["aspect_ratio"], filled["resolution"] = exact
    filled["aspect_ratio"] = filled["aspect_ratio"] and ratio_of(filled["aspect_ratio"])
    filled["resolution"] = filled["resolution"] and resolution_of(filled["resolution"])
    return msgspec.structs.replace(spec, **filled)


def _exact(text: str, model: Model) -> tuple[str, str] | None:
    """(ratio, lines) of the model's data that make exactly this w×h."""
    if not (match := _SIZE.fullmatch(text.lower())):
        return None
    size = (int(match[1]), int(match[2]))
    offered = ((ratio, lines) for ratio in model.aspect_ratios for lines in model.resolutions)
    return next((pair for pair in offered if pixels(pair[1], pair[0]) == size), None)


def _faults(spec: VideoSpec, model: Model) -> list[Fault]:
    faults = [
        *_in_data("duration_seconds", spec.duration_seconds, spec.duration_seconds, model.durations_s),
        *_in_data("fps", spec.fps, spec.fps, model.frame_rates),
        *_in_data("aspect_ratio", spec.aspect_ratio, ratio_of(spec.aspect_ratio or ""), model.aspect_ratios),
        *_resolution(spec, model),
        *_inputs(spec, model),
        *_options(spec, model),
    ]
    if (operation := OPERATIONS[type(spec.operation)]) not in model.operations:
        field = "inputs" if spec.inputs else "operation"
        faults.append(_unsupported(field, f"{model.id} does not do {operation}: it does {_listed(model.operations)}."))
    limits = {"duration_seconds", "fps", "aspect_ratio", "resolution", "provider_options"}
    faults += [
        _unsupported(name, f"{model.id} cannot honour {name!r}: leave it out, or use another model.")
        for name in Config.__struct_fields__
        if name not in limits and getattr(spec, name) is not None and name not in model.fields
    ]
    if model.prompt == "none" and spec.prompt.strip():
        faults.append(_unsupported("prompt", f"{model.id} takes no prompt: leave it out."))
    if model.prompt == "required" and not spec.prompt.strip():
        faults.append(Fault("invalid_input", f"{model.id} needs a prompt: say what to show.", field="prompt"))
    if spec.seed is not None and spec.seed > model.max_seed:
        faults.append(Fault("invalid_input", f"{model.id} takes seeds from 0 to {model.max_seed}.", field="seed"))
    return faults


def _in_data(field: str, given: object, value: object, allowed: Sequence[object]) -> list[Fault]:
    if given is None or value in allowed:
        return []
    if not allowed:
        return [_unsupported(field, f"This model has no choice of {field!r}: leave it out.")]
    return [Fault("invalid_input", f"{field} {given!r} is not offered: choose {_listed(allowed)}.", field=field)]


def _resolution(spec: VideoSpec, model: Model) -> list[Fault]:
    """A word or lines must be in the data; an exact w×h must be what a ratio and lines of the data make."""
    text = spec.resolution or ""
    if not _SIZE.fullmatch(text.lower()):
        return _in_data("resolution", spec.resolution, resolution_of(text), model.resolutions)
    if (exact := _exact(text, model)) is None:
        known = f"choose {_listed(model.resolutions)} with {_listed(model.aspect_ratios)}"
        return [Fault("invalid_input", f"resolution {text!r} is not offered: {known}.", field="resolution")]
    if spec.aspect_ratio and ratio_of(spec.aspect_ratio) != exact[0]:
        detail = f"resolution {text!r} and aspect_ratio {spec.aspect_ratio!r} contradict: give one of them."
        return [Fault("invalid_input", detail, field="aspect_ratio")]
    return []


def _inputs(spec: VideoSpec, model: Model) -> list[Fault]:
    faults = [
        Fault("invalid_input", f"{role}_strength needs an image in the role {role!r}.", field=f"{role}_strength")
        for role in ("style", "character")
        if getattr(spec, f"{role}_strength") is not None and all(given.role != role for given in spec.inputs)
    ]
    roles: dict[Role, int] = Counter(given.role for given in spec.inputs)
    for role, count in roles.items():
        most = model.roles.get(role, 0)
        if not most:
            known = f"it takes {_listed(tuple(model.roles))}" if model.roles else "it takes no images"
            faults.append(_unsupported("inputs", f"{model.id} takes no image in the role {role!r}: {known}."))
        elif count > most:
            detail = f"{model.id} takes {most} image(s) in the role {role!r}, not {count}."
            faults.append(Fault("invalid_input", detail, field="inputs"))
    return faults


def _options(spec: VideoSpec, model: Model) -> list[Fault]:
    faults: list[Fault] = []
    for name, value in spec.provider_options.items():
        field = f"provider_options.{name}"
        if name not in model.options:
            known = f"it knows {_listed(tuple(model.options))}" if model.options else "it knows none"
            faults.append(_unsupported(field, f"{model.id} has no option {name!r}: {known}."))
        elif not _fits(value, model.options[name]):
            faults.append(Fault("invalid_input", f"{field} takes one {model.options[name]}.", field=field))
    return faults


def _fits(value: JSON, kind: OptionType) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _OPTION_TYPES[kind])


def _unsupported(field: str, detail: str) -> Fault:
    return Fault("unsupported_feature", detail, field=field)


def _listed(values: Sequence[object]) -> str:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) > 4 and numbers == [numbers[0] + step for step in range(len(numbers))]:
        return f"a whole number from {numbers[0]:g} to {numbers[-1]:g}"
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def estimate(spec: VideoSpec, model: Model) -> Money | None:
    """The most one send can cost; None where no dated price is known: that is not zero."""
    if model.free:
        return FREE
    if model.price is None:
        return None
    units = 1.0 if model.price.per == "clip" else spec.duration_seconds or 0.0
    units = max(units, model.price.minimum_units)
    return Money(
        round(units * model.price.micro_usd),
        source=model.price.source,
        as_of=model.price.as_of,
        units=units,
        unit=model.price.per,
    )
