"""A request in a model's own terms: checked against its data, completed with its defaults, priced.

All of it before anything is paid, and every refusal names its field. What can be done another way for free is done and
told (`VideoSpec.emulated`); what changes the request is done only where the request allows it by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from math import gcd, isfinite
from typing import Final

import msgspec
from msgspec.structs import replace

from rushes.adapters.capabilities import Media, Model, Only, Option, OptionType, Price, Shaped
from rushes.faults import BadRequest, Fault
from rushes.units import FREE, Money
from rushes.video import (
    JSON,
    KINDS,
    OPERATIONS,
    Config,
    Effect,
    Emulation,
    Extend,
    Input,
    Kind,
    LipSync,
    Role,
    Upscale,
    VideoSpec,
    implied_by,
)

RATIO_WORDS: Final = {"square": "1:1", "portrait": "9:16", "landscape": "16:9", "cinema": "21:9"}
RESOLUTION_WORDS: Final = {"sd": "480p", "hd": "720p", "fhd": "1080p", "uhd": "2160p", "4k": "2160p", "2k": "1440p"}
_USUAL: Final = {"7:3": "21:9", "3:7": "9:21"}  # in lowest terms → as everybody writes it
_SIZE: Final = re.compile(r"(\d{2,5})[x×](\d{2,5})")
_TYPES: Final[dict[OptionType, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def fit(spec: VideoSpec, rows: Sequence[Model], emulate: Collection[Emulation] = ()) -> tuple[VideoSpec, Model]:
    """The spec in the terms of the row that does its operation, and that row. Raises BadRequest naming every field."""
    name = OPERATIONS[type(spec.operation)]
    for row in rows:
        if name in row.operations:
            return normalise(spec, row, emulate), row
    known = list(dict.fromkeys(operation for row in rows for operation in row.operations))
    named = isinstance(spec.operation, Extend | Upscale | Effect)  # inputs alone never mean these
    field = "inputs" if spec.inputs and not named else "operation"
    raise BadRequest([_unsupported(field, f"{rows[0].id} does not do {name}: it does {_listed(known)}.")])


def placed(inputs: Sequence[Input], rows: Sequence[Model]) -> tuple[Input, ...]:
    """The inputs with the role `general` as what it means for this model, beside what else there is."""
    name = OPERATIONS[type(implied_by({given.role for given in inputs if given.role != "general"}))]
    able = [row for row in rows if row.general in row.roles] or rows
    meant = next((row for row in able if name in row.operations), able[0]).general
    return tuple(replace(given, role=meant) if given.role == "general" else given for given in inputs)


def normalise(spec: VideoSpec, model: Model, emulate: Collection[Emulation] = ()) -> VideoSpec:
    """The spec in the model's own terms, with its defaults filled in. Raises BadRequest for what is not in its data."""
    missing = [*_prompt_missing(spec, model)]
    spec = _emulated(spec, model, emulate)
    given = {name: getattr(spec, name) for name in Config.__struct_fields__}
    filled = {name: getattr(model.defaults, name) if value is None else value for name, value in given.items()}
    filled["provider_options"] = {**model.defaults.provider_options, **spec.provider_options}
    if spec.resolution and (exact := _exact(spec.resolution, model)):
        filled["resolution"], filled["aspect_ratio"] = exact
    filled["aspect_ratio"] = filled["aspect_ratio"] and (ratio_of(filled["aspect_ratio"]) or filled["aspect_ratio"])
    filled["resolution"] = filled["resolution"] and (resolution_of(filled["resolution"]) or filled["resolution"])
    full = replace(spec, **filled)
    if faults := [*_faults(spec, model), *missing] or [*_together(full, model)]:
        raise BadRequest(faults)
    return full


def _emulated(spec: VideoSpec, model: Model, emulate: Collection[Emulation]) -> VideoSpec:
    if spec.negative_prompt and "negative_prompt" in emulate and "negative_prompt" not in model.fields:
        prompt = f"{spec.prompt.rstrip()}\nNot in the video: {spec.negative_prompt}".lstrip()
        told = (*spec.emulated, "negative_prompt: told in the prompt")
        return replace(spec, prompt=prompt, negative_prompt=None, emulated=told)
    return spec


# ── Shapes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    return _USUAL.get(ratio, ratio)


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


def size_of(spec: VideoSpec, model: Model) -> str:
    """The size of a normalised spec as w×h with an x: by the model's own table, or what lines and ratio make."""
    shape = (spec.resolution or "", spec.aspect_ratio or "")
    if model.sizes:
        return model.sizes[shape]
    width, height = pixels(*shape)
    return f"{width}x{height}"


def _sizes(model: Model) -> dict[tuple[str, str], str]:
    """Every shape that the model offers, (lines, ratio), with its size as w×h."""
    offered = [(lines, ratio) for lines in model.resolutions for ratio in model.aspect_ratios]
    if model.sizes:
        return {shape: size for shape, size in model.sizes.items() if shape in offered and size}
    return {shape: "{}x{}".format(*pixels(*shape)) for shape in offered}


def _exact(text: str, model: Model) -> tuple[str, str] | None:
    """(lines, ratio) of the model's data that are exactly this w×h."""
    text = text.lower().replace("×", "x")
    return next((shape for shape, size in _sizes(model).items() if size == text), None)


# ── Checks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _faults(spec: VideoSpec, model: Model) -> Iterator[Fault]:
    """What is wrong with what was asked for, field by field."""
    yield from _in_data("duration_seconds", spec.duration_seconds, spec.duration_seconds, model.durations_s)
    yield from _in_data("fps", spec.fps, spec.fps, model.frame_rates)
    yield from _in_data("aspect_ratio", spec.aspect_ratio, ratio_of(spec.aspect_ratio or ""), model.aspect_ratios)
    yield from _resolution(spec, model)
    yield from _inputs(spec, model)
    yield from _options(spec, model)
    yield from _operation(spec, model)
    limits = {"duration_seconds", "fps", "aspect_ratio", "resolution", "provider_options"}
    for name in Config.__struct_fields__:
        if name not in limits and getattr(spec, name) is not None and name not in model.fields:
            yield _unsupported(name, f"{model.id} cannot honour {name!r}: leave it out, or use another model.")
    if model.prompt == "none" and spec.prompt.strip():
        yield _unsupported("prompt", f"{model.id} takes no prompt: leave it out.")
    yield from _length("prompt", spec.prompt, model.max_prompt_chars, model)
    if "negative_prompt" in model.fields:
        yield from _length("negative_prompt", spec.negative_prompt or "", model.max_negative_chars, model)
    if spec.seed is not None and "seed" in model.fields and spec.seed > model.max_seed:
        yield _wrong("seed", f"{model.id} takes seeds from 0 to {model.max_seed}.")
    most = model.max_guidance
    if most is not None and "guidance_scale" in model.fields and (spec.guidance_scale or 0.0) > most:
        yield _wrong("guidance_scale", f"{model.id} takes a guidance_scale from 0 to {most:g}.")


def _prompt_missing(spec: VideoSpec, model: Model) -> Iterator[Fault]:
    if not spec.prompt.strip() and (model.prompt == "required" or not (spec.inputs or model.prompt == "none")):
        yield _wrong("prompt", f"{model.id} needs a prompt: say what to show.")


def _length(field: str, text: str, most: int | None, model: Model) -> Iterator[Fault]:
    if most is not None and (length := _utf16(text)) > most:
        yield _wrong(field, f"{model.id} takes {most} characters in {field}; this has {length}.")


def _operation(spec: VideoSpec, model: Model) -> Iterator[Fault]:
    """What an operation says itself."""
    match spec.operation:
        case LipSync(text=text) if text and not model.max_text_chars:
            yield _unsupported("operation.text", f"{model.id} takes no text: give an audio in the role 'narration'.")
        case LipSync(text=text):
            yield from _length("operation.text", text, model.max_text_chars, model)
        case Effect(scene=scene) if scene not in model.scenes:
            yield _unsupported("operation.scene", f"{model.id} has no {scene!r}: choose {_listed([*model.scenes])}.")
        case Effect(scene=scene) if len(spec.inputs) != model.scenes[scene]:
            detail = f"{model.id} does {scene!r} to {model.scenes[scene]} image(s), not {len(spec.inputs)}."
            yield _wrong("inputs", detail)
        case _:
            return


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2


def _in_data(field: str, given: object, value: object, allowed: Sequence[object]) -> Iterator[Fault]:
    if given is None or value in allowed:
        return
    if not allowed:
        yield _unsupported(field, f"This model has no choice of {field!r}: leave it out.")
    else:
        yield _wrong(field, f"{field} {given!r} is not offered: choose {_listed(allowed)}.")


def _resolution(spec: VideoSpec, model: Model) -> Iterator[Fault]:
    """A word or lines must be in the data; an exact w×h must be what a shape of the data has."""
    text = spec.resolution or ""
    if not _SIZE.fullmatch(text.lower()):
        yield from _in_data("resolution", spec.resolution, resolution_of(text), model.resolutions)
    elif (exact := _exact(text, model)) is None:
        if not model.resolutions:
            yield _unsupported("resolution", "This model has no choice of 'resolution': leave it out.")
            return
        known = _listed(list(_sizes(model).values())) or _listed(model.resolutions)
        yield _wrong("resolution", f"resolution {text!r} is not offered: choose {known}.")
    elif spec.aspect_ratio and ratio_of(spec.aspect_ratio) != exact[1]:
        detail = f"resolution {text!r} and aspect_ratio {spec.aspect_ratio!r} contradict: give one of them."
        yield _wrong("aspect_ratio", detail)


def _inputs(spec: VideoSpec, model: Model) -> Iterator[Fault]:
    for role in ("style", "character"):
        if getattr(spec, f"{role}_strength") is not None and all(given.role != role for given in spec.inputs):
            yield _wrong(f"{role}_strength", f"{role}_strength needs an image in the role {role!r}.")
    roles: dict[Role, int] = Counter(given.role for given in spec.inputs)
    for role, count in roles.items():
        most = model.roles.get(role, 0)
        if not most:
            known = f"it takes {_listed(tuple(model.roles))}" if model.roles else "it takes none"
            yield _unsupported("inputs", f"{model.id} takes no input in the role {role!r} here: {known}.")
        elif count > most:
            yield _wrong("inputs", f"{model.id} takes {most} input(s) in the role {role!r}, not {count}.")
    if model.max_inputs is not None and len(spec.inputs) > model.max_inputs:
        yield _wrong("inputs", f"{model.id} takes {model.max_inputs} inputs at most, not {len(spec.inputs)}.")
    if roles.get("last_frame") and not roles.get("first_frame"):
        yield _wrong("inputs", "A last frame needs a first frame beside it.")
    if roles.get("performance") and not (roles.get("character") or roles.get("source")):
        yield _wrong("inputs", "A performance needs an image in the role 'character', or a video in the role 'source'.")
    for kind in model.media:
        yield from _altogether(kind, [given for given in spec.inputs if given.type == kind], model)
    for number, given in enumerate(spec.inputs):
        yield from _media(number, given, model)


def _altogether(kind: Kind, files: Sequence[Input], model: Model) -> Iterator[Fault]:
    """Limits of all files of one kind together."""
    limit, seconds = model.media[kind], sum(given.duration_seconds or 0.0 for given in files)
    if limit.most is not None and len(files) > limit.most:
        yield _wrong("inputs", f"{model.id} takes {limit.most} {kind}(s) at most, not {len(files)}.")
    if limit.total_s is not None and seconds > limit.total_s:
        yield _wrong("inputs", f"{model.id} takes {kind}s of {limit.total_s:g} seconds together, not {seconds:g}.")


def _media(number: int, given: Input, model: Model) -> Iterator[Fault]:
    """Limits of the file itself, as far as it has been looked at."""
    limit, field = model.media.get(given.type), f"inputs[{number}]"
    if limit is None or not given.asset.key:
        return
    yield from _own(field, given, limit, model)
    if given.asset.media_type not in limit.types:
        yield _unsupported(field, f"{model.id} takes {_listed(limit.types)}, not {given.asset.media_type}.")
    if limit.max_bytes is not None and given.asset.size_bytes > limit.max_bytes:
        detail = f"{model.id} takes {given.type}s of {limit.max_bytes} bytes; this has {given.asset.size_bytes}."
        yield _wrong(field, detail)
    if limit.sizes and given.width and (size := f"{given.width}x{given.height}") not in limit.sizes:
        yield _wrong(field, f"{model.id} takes images of exactly {_listed(limit.sizes)}; this is {size}: crop it.")
    seconds = given.duration_seconds
    if seconds is not None and not limit.least_s <= seconds <= (limit.most_s or seconds):
        most = f" to {limit.most_s:g}" if limit.most_s else " or more"
        yield _wrong(field, f"{model.id} takes {given.type}s of {limit.least_s:g}{most} seconds; this has {seconds:g}.")


def _own(field: str, given: Input, limit: Media, model: Model) -> Iterator[Fault]:
    """Of a file that must be a take of the provider's own."""
    made = given.made
    if not limit.own:
        return
    if made is None or made.provider != limit.own:
        detail = f"{model.id} takes no {given.type} but one that {limit.own} made: give {field} as the job"
        yield _unsupported(field, f"{detail} that made it ('job').")
    elif limit.own_model and (model_id := made.handle.extra.get("model", model.id)) != model.id:
        yield _wrong(field, f"{field} was made by {model_id}, and no other model can go on with it: use that one.")


def _options(spec: VideoSpec, model: Model) -> Iterator[Fault]:
    ours = {theirs.rpartition(".")[2]: name for name, theirs in model.wire.items() if _is_ours(name)}
    for name, value in spec.provider_options.items():
        field = f"provider_options.{name}"
        if (option := model.options.get(name)) is not None:
            if complaint := _complaint(value, option):
                yield _wrong(field, f"{field} {complaint}.")
        elif name in ours:
            yield _unsupported(field, f"{model.id}'s {name!r} is set by rushes: give {_said(ours[name])} instead.")
        else:
            known = f"it knows {_listed(tuple(model.options))}" if model.options else "it knows none"
            yield _unsupported(field, f"{model.id} has no option {name!r}: {known}.")


def _is_ours(name: str) -> bool:
    """Whether it is a field or a role; else it is an option, which has a name on the wire, too."""
    return name in VideoSpec.__struct_fields__ or name in KINDS


def _said(ours: str) -> str:
    return f"an input in the role {ours!r}" if ours in KINDS else repr(ours)


def _complaint(value: JSON, option: Option) -> str:
    """What is wrong with an option's value; empty where nothing is."""
    fits = option.type == "boolean" if isinstance(value, bool) else isinstance(value, _TYPES[option.type])
    if not fits:
        return f"takes one {option.type}"
    if isinstance(option, Shaped):
        try:
            msgspec.convert(value, option.shape)
        except msgspec.ValidationError as error:
            return f"is wrong: {str(error)[:1].lower()}{str(error)[1:]}"
    if isinstance(value, float) and not isfinite(value):
        return "takes a finite number"
    if option.values and value not in option.values:
        return f"takes one of {_listed(option.values)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if option.least is not None and value < option.least:
            return f"is {option.least:g} or more"
        if option.most is not None and value > option.most:
            return f"is {option.most:g} or less"
    return ""


def _together(full: VideoSpec, model: Model) -> Iterator[Fault]:
    """What no field is alone to blame for, once the defaults are filled in."""
    for rule in model.only:
        if _strikes(rule, _value(full, rule.where)) and _value(full, rule.field) not in rule.among:
            what = f"{rule.where} {_value(full, rule.where)}" if rule.when else rule.where
            yield _wrong(_field(rule.field, model), f"{model.id} does {what} only {_left(rule)}.")
    shape = (full.resolution or "", full.aspect_ratio or "")
    if model.sizes and all(shape) and shape not in model.sizes:
        known = _listed([ratio for lines, ratio in model.sizes if lines == full.resolution])
        yield _wrong("aspect_ratio", f"{model.id} has no {shape[1]} at {shape[0]}: choose {known}.")


def _strikes(rule: Only, value: object) -> bool:
    return value in rule.when if rule.when else value not in (None, False)


def _value(spec: VideoSpec, name: str) -> object:
    """Of a field or an option; of a role, that it is there."""
    if any(given.role == name for given in spec.inputs) or getattr(spec.operation, "scene", None) == name:
        return True
    return getattr(spec, name) if name in Config.__struct_fields__ else spec.provider_options.get(name)


def _field(name: str, model: Model) -> str:
    if name in model.options:
        return f"provider_options.{name}"
    return name if name in Config.__struct_fields__ else "inputs"


def _left(rule: Only) -> str:
    values = [value for value in rule.among if value is not None]
    told = _listed([str(value).lower() if isinstance(value, bool) else value for value in values])
    ways = [f"with {rule.field} {told}"] if told else []
    return " or ".join([*ways, f"without {rule.field}"] if None in rule.among else ways)


def _wrong(field: str, detail: str) -> Fault:
    return Fault("invalid_input", detail, field=field)


def _unsupported(field: str, detail: str) -> Fault:
    return Fault("unsupported_feature", detail, field=field)


def _listed(values: Sequence[object]) -> str:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) > 4 and numbers == [numbers[0] + step for step in range(len(numbers))]:
        return f"a whole number from {numbers[0]:g} to {numbers[-1]:g}"
    return ", ".join(_shown(value) for value in values)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# ── Money ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def estimate(spec: VideoSpec, model: Model) -> Money | None:
    """The most one send of a normalised spec can cost; None where nobody here knows: that is not zero."""
    if model.free:
        return FREE
    if model.price is None or (units := _units(spec, model.price)) is None:
        return None
    price = model.price
    units = max(units, price.minimum_units)
    extra = sum(price.per_input.get(given.role, 0) for given in spec.inputs)
    amount = round(units * _rate(spec, price)) + extra
    return Money(amount, source=price.source, as_of=price.as_of, units=units, unit=price.per)


def _units(spec: VideoSpec, price: Price) -> float | None:
    """Clips, or seconds: those that were asked for, or else those of the clip that this one is as long as."""
    if price.per == "clip":
        return 1.0
    if spec.duration_seconds is not None or isinstance(spec.operation, Extend):  # it adds to a clip
        return spec.duration_seconds
    followed = [given for role in ("performance", "source", "narration") for given in spec.inputs if given.role == role]
    return followed[0].duration_seconds if followed else None


def _rate(spec: VideoSpec, price: Price) -> int:
    facts: dict[str, JSON] = msgspec.structs.asdict(spec) | {"operation": OPERATIONS[type(spec.operation)]}
    facts |= {**spec.provider_options, **{str(given.role): True for given in spec.inputs}}
    for rate in price.rates:
        if all(facts.get(name, False) == value for name, value in rate.when.items()):
            return rate.micro_usd
    return price.micro_usd
