"""Requests made from a model's data alone: the plainest, the richest, one for each value, and those to be refused."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters.capabilities import Capabilities, Model, Option, Shaped
from rushes.adapters.fit import normalise
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import (
    JSON,
    OPERATIONS,
    ROLES,
    Config,
    Effect,
    Input,
    Kind,
    LipSync,
    Made,
    Operation,
    Role,
    VideoSpec,
    operation_of,
)

PROMPT: Final = "a lake at dawn, seen from the reeds"
KINDS: Final[dict[Role, Kind]] = {role: kind for kind, roles in ROLES.items() for role in roles}
USUAL_TYPES: Final[dict[Kind, str]] = {"image": "image/png", "video": "video/mp4", "audio": "audio/mpeg"}
HEADS: Final = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "video/mp4": b"\0\0\0\x18ftypmp42",
}
INPUT_BYTES: Final = 64
INPUT_S: Final = 5.0  # how long clips and sounds are that are handed in, where the model takes that
SAMPLES: Final[dict[str, tuple[JSON, JSON]]] = {  # two values of each field without a list of its own
    "negative_prompt": ("rain", "snow"),
    "seed": (7, 8),
    "scheduler": ("euler", "ddim"),
    "guidance_scale": (3.0, 4.0),
    "generate_audio": (True, False),
    "enhance_prompt": (True, False),
    "character_strength": (0.25, 0.75),
    "style_strength": (0.25, 0.75),
}
NEEDS: Final[dict[str, Role]] = {
    "character_strength": "character",
    "style_strength": "style",
    "last_frame": "first_frame",
}
OPTION: Final = "provider_options."
OPAQUE: Final = ("array", "object")
_WRONG: Final[dict[str, JSON]] = {  # of each type of option: a value of another
    "string": 1,
    "integer": "one",
    "number": "one",
    "boolean": "yes",
    "array": "one",
    "object": "one",
}


class Order(Struct, frozen=True, kw_only=True):
    """One request in its model's terms."""

    about: str  # which, for people
    model: Model
    spec: VideoSpec
    field: str = ""  # what it is there to show
    value: JSON = None
    opaque: bool = False  # the data does not say what may stand in the value: nobody need accept this one


class Refusal(Struct, frozen=True, kw_only=True):
    """A request that the model's data does not admit, and the field that is to be named."""

    about: str
    model: Model
    spec: VideoSpec
    field: str


def content_of(asset: AssetRef) -> bytes:
    """The bytes of an input. A picture whose name ends with its size, as in -1024x576, says so in its first bytes."""
    return (_head(asset) + asset.key.encode()).ljust(INPUT_BYTES, b"\0")


def _head(asset: AssetRef) -> bytes:
    match asset.media_type, re.search(r"-(\d+)x(\d+)$", asset.key):
        case "image/png", re.Match() as size:
            return HEADS["image/png"] + b"\0\0\0\rIHDR" + struct.pack(">II", int(size[1]), int(size[2]))
        case "image/jpeg", re.Match() as size:
            return b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", int(size[2]), int(size[1]))
        case kind, _:
            return HEADS.get(kind, b"")


def given(role: Role, number: int, model: Model) -> Input:
    """A file in a role, as the model takes it."""
    kind = KINDS[role]
    limit = model.media.get(kind)
    seconds = max(limit.least_s if limit else 0.0, min((limit and limit.most_s) or INPUT_S, INPUT_S))
    size = limit.sizes[0] if limit and limit.sizes else ""
    file = _file(role, f"{role}-{number}", limit.types[0] if limit else USUAL_TYPES[kind], seconds, size)
    made = Made(job="job_0", provider=limit.own, handle=Handle("0")) if limit and limit.own else None
    return replace(file, made=made)


def _file(role: Role, name: str, media_type: str, seconds: float | None, size: str = "") -> Input:
    """`size` is that of an image, as w×h with an x; empty: unknown."""
    kind = KINDS[role]
    asset = AssetRef(f"inputs/{name}" + (f"-{size}" if size else ""), "", INPUT_BYTES, media_type)
    asset = replace(asset, sha256=hashlib.sha256(content_of(asset)).hexdigest())
    made = Input(type=kind, role=role, asset=asset, duration_seconds=None if kind == "image" else seconds)
    return _sized(made, size)


def _sized(given: Input, size: str) -> Input:
    width, _, height = size.partition("x")
    return replace(given, width=int(width), height=int(height)) if size else given


# ── One of each ───────────────────────────────────────────────────────────────────────────────────────────────────────


def plainest(data: Capabilities) -> list[Order]:
    """Of each operation of each row the request with the fewest wishes."""
    return [order for model in data.models for name in model.operations if (order := _plainest(model, name))]


def _plainest(model: Model, name: str) -> Order | None:
    prompt = "" if model.prompt == "none" else PROMPT
    for roles, operation in product(_few(tuple(model.roles)), _said(name, model)):
        inputs = tuple(given(role, roles[:place].count(role), model) for place, role in enumerate(roles))
        spec = VideoSpec(prompt=prompt, operation=operation, inputs=inputs)
        if (settled := settle(spec, model)) is not None:
            return Order(about=f"{model.id}, {name}", model=model, spec=settled)
    return None


def _said(name: str, model: Model) -> list[Operation]:
    """The operation of that name with all that it can say itself."""
    kind = next(kind for kind, known in OPERATIONS.items() if known == name)
    if kind is Effect:
        return [Effect(scene) for scene in model.scenes]
    words = ("hello", "x" * model.max_text_chars) if kind is LipSync and model.max_text_chars else ()
    return [kind(), *(LipSync(text, "somebody") for text in words)]


def _few(roles: Sequence[Role]) -> Iterator[tuple[Role, ...]]:
    """No role, each alone, any two, each twice."""
    yield ()
    for role in roles:
        yield (role,)
    for number, role in enumerate(roles):
        for other in roles[:number]:
            yield role, other
    for role in roles:
        yield role, role


def richest(data: Capabilities) -> list[Order]:
    """The same with every role to its limit, every field and every option, as far as they go together."""
    return [replace(_richest(order), about=f"{order.about}, all of it") for order in plainest(data)]


def _richest(order: Order) -> Order:
    model, spec = order.model, order.spec
    for role in model.roles:
        if not _count(spec, role):
            spec = settle(_with(spec, role, 1, model), model, keep="inputs") or spec
    for role in model.roles:
        if _count(spec, role):
            spec = _fullest(spec, role, model) or spec
    for field in (*_limits(model), *sorted(model.fields)):
        for value in reversed(_values(model, field)):
            if (settled := settle(replace(spec, **{field: value}), model, keep="inputs")) is not None:
                spec = settled
                break
    for name, option in model.options.items():
        if option.type in OPAQUE:
            continue
        fuller = replace(spec, provider_options=spec.provider_options | {name: _ends(option)[-1]})
        spec = settle(fuller, model, keep="inputs") or spec
    return replace(order, spec=spec)


def _fullest(spec: VideoSpec, role: Role, model: Model) -> VideoSpec | None:
    """The spec with as many files in a role as go with what else it wishes."""
    full = (settle(_with(spec, role, count, model), model, keep="inputs") for count in range(model.roles[role], 0, -1))
    return next((one for one in full if one is not None), None)


def variants(order: Order) -> list[Order]:
    """A plain order with each value of each limit, each field, each role and each option, one at a time."""
    model, spec = order.model, order.spec
    wanted: list[tuple[str, JSON, VideoSpec]] = []
    for field in (*_limits(model), *sorted(model.fields)):
        bare = _with(spec, NEEDS[field], 1, model) if field in NEEDS else spec
        wanted += [(field, value, replace(bare, **{field: value})) for value in _values(model, field)]
    for name, option in model.options.items():
        told = [replace(spec, provider_options={name: value}) for value in _ends(option)]
        wanted += [(f"{OPTION}{name}", value, one) for value, one in zip(_ends(option), told, strict=True)]
    for role in model.roles:
        beside, alone = _with(spec, role, 1, model), _with(replace(spec, inputs=()), role, 1, model)
        one = beside if settle(beside, model, keep="inputs") else alone
        wanted.append((f"inputs.{role}", 1, one))
        if (full := _fullest(spec, role, model)) is not None and _count(full, role) > 1:
            wanted.append((f"inputs.{role}", _count(full, role), full))
    wanted += [(f"inputs.{one.role}", name, _put(spec, one)) for name, one in _files(spec, model)]
    wanted += _others(spec, model)
    if model.max_prompt_chars is not None:
        wanted.append(("prompt", model.max_prompt_chars, replace(spec, prompt="x" * model.max_prompt_chars)))
    return [
        Order(
            about=f"{order.about}, {field} {value}",
            model=model,
            spec=settled,
            field=field,
            value=value,
            opaque=isinstance(value, list | dict) and not _is_shaped(field, model),
        )
        for field, value, one in wanted
        if (settled := settle(one, model, keep=field if field.startswith(OPTION) else field.partition(".")[0]))
        is not None
    ]


def _others(spec: VideoSpec, model: Model) -> Iterator[tuple[str, JSON, VideoSpec]]:
    """What else the operation can say itself."""
    for operation in _said(OPERATIONS[type(spec.operation)], model):
        match operation:
            case Effect(scene=scene):
                images = tuple(given("first_frame", number, model) for number in range(model.scenes[scene]))
                yield "operation.scene", scene, replace(spec, operation=operation, inputs=images)
            case LipSync(text=text):
                clip = tuple(one for one in spec.inputs if one.role == "source")
                audio = () if text else (given("narration", 0, model),)
                field = "operation.text" if text else "inputs.narration"
                yield field, text or 1, replace(spec, operation=operation, inputs=clip + audio)
            case _:
                continue


def _is_shaped(field: str, model: Model) -> bool:
    return isinstance(model.options.get(field.partition(".")[2]), Shaped)


def _count(spec: VideoSpec, role: Role) -> int:
    return sum(one.role == role for one in spec.inputs)


def _files(spec: VideoSpec, model: Model) -> Iterator[tuple[str, Input]]:
    """Of each role that is there: a file of each type, and the shortest and the longest that the model takes."""
    for one in {one.role: one for one in spec.inputs}.values():
        if (limit := model.media.get(one.type)) is None:
            continue
        usual = limit.sizes[0] if limit.sizes else ""
        for media_type in limit.types[1:]:
            yield media_type, _file(one.role, f"{one.role}-{media_type}", media_type, one.duration_seconds, usual)
        for size in limit.sizes[1:]:
            yield size, _file(one.role, one.role, one.asset.media_type, None, size)
        if one.type != "image":
            for seconds in sorted({limit.least_s, limit.most_s or 0.0} - {0.0}):
                yield f"{seconds:g} s", _file(one.role, f"{one.role}-{seconds:g}", one.asset.media_type, seconds)


def _put(spec: VideoSpec, given: Input) -> VideoSpec:
    """The spec with another file in the place of that in its role."""
    return replace(spec, inputs=tuple(given if one.role == given.role else one for one in spec.inputs))


def _with(spec: VideoSpec, role: Role, count: int, model: Model) -> VideoSpec:
    """The spec with so many files in a role, and with what they need beside them."""
    others = [one for one in spec.inputs if one.role != role]
    if role in NEEDS and all(one.role != NEEDS[role] for one in others):
        others.append(given(NEEDS[role], 0, model))
    return replace(spec, inputs=(*others, *(given(role, number, model) for number in range(count))))


def _limits(model: Model) -> list[str]:
    listed = {
        "duration_seconds": model.durations_s,
        "aspect_ratio": model.aspect_ratios,
        "resolution": model.resolutions,
        "fps": model.frame_rates,
    }
    return [field for field, values in listed.items() if values]


def _values(model: Model, field: str) -> Sequence[JSON]:
    match field:
        case "duration_seconds":
            return model.durations_s
        case "aspect_ratio":
            return model.aspect_ratios
        case "resolution":
            return model.resolutions
        case "fps":
            return model.frame_rates
        case "seed":
            return (0, 7, model.max_seed)
        case "guidance_scale" if model.max_guidance is not None:
            return (0.0, model.max_guidance / 2, model.max_guidance)
        case _:
            return SAMPLES[field]


def _ends(option: Option) -> Sequence[JSON]:
    """Every word, both ends of the range, or two values of the type."""
    if isinstance(option, Shaped):
        return option.examples
    if option.values:
        return option.values
    if option.least is not None or option.most is not None:
        least, most = option.least, option.most
        ends = [end for end in (least, least + 1 if most is None and least is not None else most) if end is not None]
        return [int(end) if option.type == "integer" else end for end in ends]
    examples: dict[str, Sequence[JSON]] = {
        "string": ("one", "two"),
        "integer": (1, 2),
        "number": (0.5, 1.5),
        "boolean": (False, True),
        "array": (["one"], ["two"]),
        "object": ({"one": 1}, {"two": 2}),
    }
    return examples[option.type]


def settle(spec: VideoSpec, model: Model, keep: str = "") -> VideoSpec | None:
    """The spec in the model's terms, with at most one wish that it did not have; None where that does not do.

    Some wishes hold only beside certain others: those others are looked for, but for the field `keep`.
    """
    try:
        if _operation(spec) not in model.operations:
            return None
        return normalise(spec, model)
    except BadRequest as refused:
        missing = {fault.field for fault in refused.faults} - {keep}
    for field in sorted(missing):
        for value in _among(model, field):
            try:
                return normalise(_wishing(spec, field, value), model)
            except BadRequest:
                continue
    return None


def _operation(spec: VideoSpec) -> str:
    """What the inputs make of it. Raises BadRequest where that is not what it says."""
    operation: Operation = operation_of(spec.operation, {one.role for one in spec.inputs})
    return OPERATIONS[type(operation)]


def _wishing(spec: VideoSpec, field: str, value: JSON) -> VideoSpec:
    name = field.removeprefix(OPTION)
    told = {"provider_options": spec.provider_options | {name: value}} if field.startswith(OPTION) else {field: value}
    return replace(spec, **told)


def _among(model: Model, field: str) -> Sequence[JSON]:
    ruled = [value for rule in model.only if rule.field == field.removeprefix(OPTION) for value in rule.among]
    return ruled or (_values(model, field) if field in _limits(model) or field in model.fields else ())


# ── What is to be refused ─────────────────────────────────────────────────────────────────────────────────────────────


def refusals(order: Order) -> list[Refusal]:
    """A plain order with one thing more that the data does not have."""
    model, spec = order.model, order.spec
    wrong: list[tuple[str, VideoSpec]] = [(field, replace(spec, **{field: value})) for field, value in _strange(model)]
    wrong += [
        (f"{OPTION}{name}", replace(spec, provider_options={name: value})) for name, value in _strange_options(model)
    ]
    wrong += [("inputs", _with_more(spec, role, model)) for role in KINDS if role != "general"]
    for number, one in enumerate(spec.inputs):
        wrong += [(f"inputs[{number}]", _put(spec, strange)) for strange in _strange_files(one, model)]
    wrong += _wrongly_said(spec, model)
    if model.max_negative_chars is not None and "negative_prompt" in model.fields:
        wrong.append(("negative_prompt", replace(spec, negative_prompt="x" * (model.max_negative_chars + 1))))
    if model.prompt == "none":
        wrong.append(("prompt", replace(spec, prompt=PROMPT)))
    if model.prompt == "required":
        wrong.append(("prompt", replace(spec, prompt="  ")))
    if model.max_prompt_chars is not None:
        wrong.append(("prompt", replace(spec, prompt="x" * (model.max_prompt_chars + 1))))
    return [Refusal(about=f"{order.about}, {field}", model=model, spec=one, field=field) for field, one in wrong]


def _wrongly_said(spec: VideoSpec, model: Model) -> Iterator[tuple[str, VideoSpec]]:
    match spec.operation:
        case Effect():
            yield "operation.scene", replace(spec, operation=Effect("no such scene"))
        case LipSync():
            yield "operation.text", replace(spec, operation=LipSync("x" * (model.max_text_chars + 1), "somebody"))
        case _:
            return


def _strange(model: Model) -> Iterator[tuple[str, JSON]]:
    """Fields with a value that is not in the data."""
    yield from (("duration_seconds", 35_999.0), ("aspect_ratio", "97:89"), ("resolution", "333p"), ("fps", 239.0))
    for field in Config.__struct_fields__:
        if field in SAMPLES and field not in model.fields:
            yield field, SAMPLES[field][0]
    if "seed" in model.fields and model.max_seed < 2**63 - 1:
        yield "seed", model.max_seed + 1
    if "guidance_scale" in model.fields and model.max_guidance is not None:
        yield "guidance_scale", model.max_guidance + 0.5


def _strange_options(model: Model) -> Iterator[tuple[str, JSON]]:
    """Options that there are not, and values that there are not of those that there are."""
    yield "no_such_option", True
    for theirs in model.wire.values():
        if (name := theirs.rpartition(".")[2]) not in model.options:
            yield name, "x"  # ours to set
    for name, option in model.options.items():
        yield name, _WRONG[option.type]
        if isinstance(option, Shaped) and option.type in OPAQUE:
            yield name, ["one"] if option.type == "array" else {"one": 1}
        if option.values and option.type == "string":
            yield name, "no such word"
        step = 1 if option.type == "integer" else 0.5
        if option.least is not None:
            yield name, _number(option.least - step, option)
        if option.most is not None:
            yield name, _number(option.most + step, option)


def _strange_files(one: Input, model: Model) -> Iterator[Input]:
    """The file as one that the model does not take."""
    if (limit := model.media.get(one.type)) is None:
        return
    yield replace(one, asset=replace(one.asset, media_type=f"{one.type}/x-unknown"))
    if limit.own and one.made:
        yield replace(one, made=None)
        yield replace(one, made=replace(one.made, provider=f"not-{limit.own}"))
    if limit.max_bytes is not None:
        yield replace(one, asset=replace(one.asset, size_bytes=limit.max_bytes + 1))
    if limit.sizes:
        yield _sized(one, "333x333")
    if one.type != "image" and limit.most_s:
        yield replace(one, duration_seconds=limit.most_s + 1.0)
    if one.type != "image" and limit.least_s:
        yield replace(one, duration_seconds=limit.least_s / 2)


def _number(value: float, option: Option) -> JSON:
    return int(value) if option.type == "integer" else value


def _with_more(spec: VideoSpec, role: Role, model: Model) -> VideoSpec:
    """One file more in a role than the model takes of it."""
    return _with(spec, role, model.roles.get(role, 0) + 1, model)
