"""Describes every shape that a payload in the log has or had: its fields, their types, which are required.

    python tests/golden/make_shapes.py        brings shapes.json up to date

What is stored stays stored, so a description may grow and never shrinks: where today's structs could not read what an
earlier release wrote, or would read it as something else, this refuses, and says what to do. A shape that has got a
later version stays in the file, and its upcaster in the codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from rushes.actors.codec import JOBS, Schema

Description: TypeAlias = dict[str, Any]  # JSON Schema
Shapes: TypeAlias = dict[str, Description]  # by type and version, as in "job.requested v1"

SHAPES: Final = Path(__file__).with_name("shapes.json")
COMMAND: Final = "python tests/golden/make_shapes.py"
WORDS: Final = {"title", "description"}  # for people: they may change
LIMITS: Final = {  # and the side of the limit on which there is more room
    "minimum": -1,
    "exclusiveMinimum": -1,
    "minLength": -1,
    "minItems": -1,
    "maximum": 1,
    "exclusiveMaximum": 1,
    "maxLength": 1,
    "maxItems": 1,
}
UNDERSTOOD: Final = {"type", "default", "enum", "properties", "required", "items", "additionalProperties", *LIMITS}


def shape_name(name: str, v: int) -> str:
    """How a shape is called in the file."""
    return f"{name} v{v}"


def described(schema: Schema[Any]) -> Shapes:
    """The shapes that are written today."""
    return {shape_name(*shape): describe(kind) for kind, shape in schema.current.items()}


def describe(kind: type[Struct]) -> Description:
    """One shape, with the structs inside it written out where they stand."""
    (reference,), parts = msgspec.json.schema_components([kind])
    return msgspec.json.decode(msgspec.json.encode(_written_out(reference, parts)), type=Description)


def _written_out(node: object, parts: Mapping[str, object]) -> object:
    if isinstance(node, list):
        return [_written_out(one, parts) for one in node]
    if not isinstance(node, dict):
        return node
    if reference := node.get("$ref"):
        rest = {key: value for key, value in node.items() if key != "$ref"}
        whole = _written_out(parts[reference.removeprefix("#/$defs/")], parts)
        assert isinstance(whole, dict)
        return whole | rest
    properties = {name: _written_out(value, parts) for name, value in node.get("properties", {}).items()}
    kept = {key: _written_out(value, parts) for key, value in node.items() if key not in WORDS | {"properties"}}
    return kept | ({"properties": properties} if "properties" in node else {})


# ── What may not change ───────────────────────────────────────────────────────────────────────────────────────────────


def broken(old: Description, new: Description, at: str = "") -> Iterator[str]:
    """Why a payload of the old shape cannot be read as the new one, or would be read as something else."""
    if old.get("default") != new.get("default") and "default" in old and "default" in new:
        yield f"the default of {at} was {old['default']!r} and is {new['default']!r}; it is not stored, so it changes"
    if "anyOf" in old or "anyOf" in new:
        yield from _broken_choice(old, new, at)
        return
    if old.get("type") != new.get("type"):
        yield f"{at or 'the payload'} was {_kind(old)} and is {_kind(new)}"
        return
    yield from _broken_limits(old, new, at)
    yield from _broken_fields(old, new, at)
    for key in sorted((old.keys() | new.keys()) - UNDERSTOOD):
        if old.get(key) != new.get(key):
            yield f"the {key} of {at or 'the payload'} was {old.get(key)} and is {new.get(key)}"
    for inner, place in (("items", f"{at}[]"), ("additionalProperties", f"{at}.*")):
        if isinstance(old.get(inner), dict) and isinstance(new.get(inner), dict):
            yield from broken(old[inner], new[inner], place)
        elif inner in new and old.get(inner) != new[inner]:
            yield f"{place} was anything and is {new[inner]}"


def _broken_choice(old: Description, new: Description, at: str) -> Iterator[str]:
    choices = {_kind(one): one for one in new.get("anyOf", [new])}
    for one in old.get("anyOf", [old]):
        if _kind(one) in choices:
            yield from broken(_bare(one), _bare(choices[_kind(one)]), at)
        else:
            yield f"{at} could be {_kind(one)} and is {' or '.join(choices)}"


def _bare(one: Description) -> Description:
    return {key: value for key, value in one.items() if key != "default"}


def _kind(one: Description) -> str:
    tag = one.get("properties", {}).get("type", {}).get("enum", [""])[0]
    return f"{one.get('type', 'one of several')}{f' {tag}' if tag else ''}"


def _broken_limits(old: Description, new: Description, at: str) -> Iterator[str]:
    if "enum" in new and (gone := [one for one in old.get("enum", ["anything"]) if one not in new["enum"]]):
        yield f"{at} could be {', '.join(map(str, gone))}"
    for limit, room in LIMITS.items():
        if limit in new and (limit not in old or (new[limit] - old[limit]) * room < 0):
            yield f"the {limit} of {at} was {old.get(limit, 'nothing')} and is {new[limit]}"


def _broken_fields(old: Description, new: Description, at: str) -> Iterator[str]:
    olds, news = old.get("properties", {}), new.get("properties", {})
    for name in sorted(olds):
        place = f"{at}.{name}".lstrip(".")
        if name in news:
            yield from broken(olds[name], news[name], place)
        else:
            yield f"{place} is gone"
    for name in sorted(set(new.get("required", [])) - set(old.get("required", []))):
        yield f"{f'{at}.{name}'.lstrip('.')} is required now"


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_shapes() -> Shapes:
    """What is checked in."""
    return msgspec.json.decode(SHAPES.read_bytes(), type=Shapes)


def complaints(known: Shapes, schema: Schema[Any]) -> list[str]:
    """What is wrong between the shapes that were ever written and today's code, and what to do about each."""
    today, said = described(schema), list[str]()
    readable = {shape_name(*shape) for shape in schema.decoders}
    for shape in sorted(known.keys() - readable):
        said.append(f"{shape} cannot be read any more, and is stored: put its upcaster back.")
    for shape, description in today.items():
        if shape not in known:
            said.append(f"{shape} is new: run `{COMMAND}`.")
        elif trouble := list(broken(known[shape], description)):
            name, _, v = shape.rpartition(" v")
            way_out = f"leave {shape} as it is, and give UPCASTERS in the codec a ({name!r}, {v}) for v{int(v) + 1}"
            said += [f"{shape}: {one}. Payloads like that are stored: {way_out}." for one in trouble]
        elif description != known[shape]:
            said.append(f"{shape} has grown, and still reads what is stored: run `{COMMAND}`.")
    return said


def updated(known: Shapes, schema: Schema[Any]) -> Shapes:
    """The shapes that were ever written, and today's. Raises SystemExit where today's code cannot read them."""
    if bad := [one for one in complaints(known, schema) if COMMAND not in one]:
        raise SystemExit("\n".join(bad))
    return known | described(schema)


if __name__ == "__main__":
    shapes = updated(read_shapes() if SHAPES.exists() else {}, JOBS)
    SHAPES.write_bytes(msgspec.json.format(msgspec.json.encode(shapes, order="deterministic"), indent=1) + b"\n")
