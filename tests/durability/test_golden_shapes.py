"""What was ever stored stays readable: every shape of a payload is written down, and today's structs must fit it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import pytest
from make_shapes import COMMAND, Shapes, complaints, described, read_shapes, updated
from msgspec import Meta, Struct, defstruct

from rushes.actors.codec import JOBS, Schema, Upcast

Number = Annotated[int, Meta(ge=0, le=9)]


class Cat(Struct, tag="cat"):
    """One of a choice."""


class Dog(Struct, tag="dog"):
    """The other."""


class Part(Struct, omit_defaults=True):
    """A struct inside."""

    name: str
    weight: float = 1.0


FIELDS: Final[dict[str, tuple[Any, ...]]] = {
    "id": (int,),
    "word": (Literal["a", "b"],),
    "number": (Number, 3),
    "parts": (tuple[Part, ...], ()),
    "free": (dict[str, str], {}),
    "maybe": (Part | None, None),
    "animal": (Cat | Dog,),
}


def schema(fields: dict[str, tuple[Any, ...]], upcasters: dict[tuple[str, int], Upcast] | None = None) -> Schema[Any]:
    """One made-up event type with these fields."""
    made = defstruct("Happened", [(name, *rest) for name, rest in fields.items()], kw_only=True, omit_defaults=True)
    return Schema({made: "it.happened"}, upcasters or {})


def part(*fields: tuple[Any, ...]) -> Any:
    return defstruct("Piece", fields, kw_only=True, omit_defaults=True)


def parts(*fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """A field that holds a list of them."""
    many: Any = tuple
    return many[part(*fields), ...], ()


KNOWN: Final[Shapes] = described(schema(FIELDS))
NAME, WEIGHT = ("name", str), ("weight", float, 1.0)

BREAKING: Final[dict[str, tuple[dict[str, tuple[Any, ...] | None], str]]] = {
    "a field is removed": ({"id": None}, "id is gone"),
    "an optional field is removed": ({"number": None}, "number is gone"),
    "a field is renamed": ({"id": None, "ident": (int,)}, "ident is required now"),
    "a new field is required": ({"more": (str,)}, "more is required now"),
    "an optional field is required": ({"number": (Number,)}, "number is required now"),
    "a type is changed": ({"id": (str,)}, "id was integer and is string"),
    "a word is removed": ({"word": (Literal["a"],)}, "word could be b"),
    "a word is renamed": ({"word": (Literal["a", "c"],)}, "word could be b"),
    "a limit is tightened": ({"number": (Annotated[int, Meta(ge=0, le=8)], 3)}, "the maximum of number was 9"),
    "a limit is new": ({"id": (Annotated[int, Meta(ge=0)],)}, "the minimum of id was nothing"),
    "a default is changed": ({"number": (Number, 4)}, "the default of number was 3 and is 4"),
    "a choice is narrowed": ({"animal": (Cat,)}, "animal could be object dog"),
    "nothing is no answer any more": ({"maybe": (Part,)}, "maybe could be null"),
    "a free value is narrowed": ({"free": (dict[str, int], {})}, "free.* was string and is integer"),
    "a field inside a list is removed": ({"parts": parts(WEIGHT)}, "parts[].name is gone"),
    "a default inside a list is changed": (
        {"parts": parts(NAME, ("weight", float, 2.0))},
        "the default of parts[].weight was 1.0 and is 2.0",
    ),
    "a new field inside a choice is required": (
        {"maybe": (part(NAME, WEIGHT, ("size", int)) | None, None)},
        "maybe.size is required now",
    ),
    "unknown fields are forbidden": (
        {"maybe": (defstruct("Piece", [NAME, WEIGHT], forbid_unknown_fields=True, omit_defaults=True) | None, None)},
        "maybe.* was anything and is False",
    ),
    "a list becomes a pair": ({"parts": (tuple[Part, Part],)}, "parts"),
}
GROWING: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "a new field is optional": {"more": (str, "")},
    "a new field inside a list is optional": {"parts": parts(NAME, WEIGHT, ("size", int, 0))},
    "a required field is optional": {"id": (int, 0)},
    "a word is added": {"word": (Literal["a", "b", "c"],)},
    "a limit is loosened": {"number": (Annotated[int, Meta(ge=0, le=10)], 3)},
    "a limit is gone": {"number": (int, 3)},
    "a choice is wider": {"id": (int | str,)},
}


def changed(changes: dict[str, tuple[Any, ...]] | dict[str, tuple[Any, ...] | None]) -> dict[str, tuple[Any, ...]]:
    return {name: rest for name, rest in (FIELDS | changes).items() if rest is not None}


def test_everything_that_was_ever_stored_fits_todays_code() -> None:
    assert complaints(read_shapes(), JOBS) == []


def test_a_shape_without_a_change_is_no_complaint() -> None:
    assert complaints(KNOWN, schema(FIELDS)) == []


@pytest.mark.parametrize(("changes", "words"), BREAKING.values(), ids=BREAKING.keys())
def test_control_a_change_that_loses_stored_payloads_is_found(
    changes: dict[str, tuple[Any, ...] | None], words: str
) -> None:
    today = schema(changed(changes))
    said = "\n".join(complaints(KNOWN, today))
    assert f"it.happened v1: {words}" in said
    assert "give UPCASTERS in the codec a ('it.happened', 1) for v2" in said
    assert COMMAND not in said
    with pytest.raises(SystemExit, match=r"it\.happened v1"):
        updated(KNOWN, today)


@pytest.mark.parametrize("changes", GROWING.values(), ids=GROWING.keys())
def test_a_change_that_loses_nothing_asks_for_the_command(changes: dict[str, tuple[Any, ...]]) -> None:
    today = schema(changed(changes))
    assert complaints(KNOWN, today) == [f"it.happened v1 has grown, and still reads what is stored: run `{COMMAND}`."]
    assert complaints(updated(KNOWN, today), today) == []


def test_a_new_type_asks_for_the_command() -> None:
    assert complaints({}, schema(FIELDS)) == [f"it.happened v1 is new: run `{COMMAND}`."]


def test_a_new_version_keeps_the_old_shape_and_its_upcaster() -> None:
    today = schema(changed({"id": (str,)}), {("it.happened", 1): lambda old: old | {"id": str(old["id"])}})
    assert complaints(KNOWN, today) == [f"it.happened v2 is new: run `{COMMAND}`."]
    both = updated(KNOWN, today)
    assert both["it.happened v1"] == KNOWN["it.happened v1"]
    assert complaints(both, today) == []
    assert complaints(both, Schema({}, {})) == [
        "it.happened v1 cannot be read any more, and is stored: put its upcaster back.",
        "it.happened v2 cannot be read any more, and is stored: put its upcaster back.",
    ]
