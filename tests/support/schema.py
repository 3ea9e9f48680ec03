"""As much of JSON Schema as our documents use; a word that is not known here is an error, not a pass."""

from __future__ import annotations

from typing import Any, Final

NOTES: Final = {"title", "description", "default", "format", "discriminator"}
OF_A_TYPE: Final = {  # nothing to them where a value is of another type, which `type` says
    *("properties", "required", "additionalProperties", "items", "minLength", "minItems", "maxLength", "maxItems"),
    *("minimum", "exclusiveMinimum", "maximum"),
}
TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def complaints(schema: Any, value: Any, document: Any, where: str = "$") -> list[str]:
    """Everything about a value that its schema does not allow."""
    found: list[str] = []
    for word, rule in schema.items():
        match word:
            case "$ref":
                found += complaints(resolved(rule, document), value, document, where)
            case "anyOf" | "oneOf":
                tries = [complaints(one, value, document, where) for one in rule]
                good = sum(not one for one in tries)
                if not good or (word == "oneOf" and good > 1):
                    found.append(f"{where} fits {good} of {word}: {tries}")
            case "type":
                is_bool = isinstance(value, bool) and rule != "boolean"
                found += [f"{where} is no {rule}"] if is_bool or not isinstance(value, TYPES[rule]) else []
            case "properties" if isinstance(value, dict):
                for name in rule.keys() & value.keys():
                    found += complaints(rule[name], value[name], document, f"{where}.{name}")
            case "required" if isinstance(value, dict):
                found += [f"{where}.{name} is missing" for name in rule if name not in value]
            case "additionalProperties" if isinstance(value, dict):
                for name in value.keys() - schema.get("properties", {}).keys():
                    if rule is False:
                        found.append(f"{where}.{name} is not known")
                    elif isinstance(rule, dict):
                        found += complaints(rule, value[name], document, f"{where}.{name}")
            case "items" if isinstance(value, list):
                for number, one in enumerate(value):
                    found += complaints(rule, one, document, f"{where}[{number}]")
            case "enum":
                found += [f"{where} is {value!r}, not one of {rule}"] if value not in rule else []
            case "const":
                found += [f"{where} is {value!r}, not {rule!r}"] if value != rule else []
            case "minLength" | "minItems" if isinstance(value, str | list):
                found += [f"{where} is too short"] if len(value) < rule else []
            case "maxLength" | "maxItems" if isinstance(value, str | list):
                found += [f"{where} is too long"] if len(value) > rule else []
            case "minimum" if isinstance(value, int | float):
                found += [f"{where} is too small"] if value < rule else []
            case "exclusiveMinimum" if isinstance(value, int | float):
                found += [f"{where} is too small"] if value <= rule else []
            case "maximum" if isinstance(value, int | float):
                found += [f"{where} is too large"] if value > rule else []
            case _:
                assert word in NOTES | OF_A_TYPE, f"{where}: the word {word!r} is not known here"
    return found


def resolved(pointer: str, document: Any) -> Any:
    """What a local reference points at."""
    assert pointer.startswith("#/"), pointer
    found = document
    for name in pointer[2:].split("/"):
        found = found[name.replace("~1", "/").replace("~0", "~")]
    return found


def references(part: Any) -> list[str]:
    """Every reference in a document."""
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [pointer for one in part.values() for pointer in references(one)]
    if isinstance(part, list):
        return [pointer for one in part for pointer in references(one)]
    return []
