"""What an SDK sent and what we sent for the same intent: as one form, their differences, and which are explained."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import Meta, Struct

from rushes.emulators.ledger import Line

OF_ITSELF: Final = ("user-agent", "x-stainless-", "x-goog-api-client")  # headers in which a client tells what it is
ABSENT: Final = "absent"


class Difference(Struct, frozen=True, kw_only=True, order=True):
    """One thing that is not the same."""

    sdk: str
    call: str
    what: str


class Explained(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One that is known, in all the calls where it stands, and why it is right."""

    sdk: str
    calls: Annotated[tuple[str, ...], Meta(min_length=1)]
    what: str
    why: Annotated[str, Meta(min_length=1)]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    difference: tuple[Explained, ...] = ()


class Said(Struct, frozen=True, kw_only=True):
    """A request, without what no two clients have in common."""

    method: str
    path: str
    query: Mapping[str, object] = {}
    headers: Mapping[str, object] = {}
    body: object = None

    @property
    def address(self) -> str:
        """The method, path and query."""
        query = "&".join(f"{name}={value}" for name, value in self.query.items())
        return f"{self.method} {self.path}?{query}" if query else f"{self.method} {self.path}"


# ── One form ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def said(line: Line, names: Mapping[str, str]) -> Said:
    """A line of the ledger; `names` are ids of the twin's, which stand for the same on both sides."""
    headers = {name: value for name, value in line.headers.items() if not name.startswith(OF_ITSELF)}
    if "content-type" in headers:
        headers["content-type"] = headers["content-type"].partition(";")[0]  # a form's boundary is anybody's
    whole = Said(method=line.method, path=line.path, query=line.query, headers=headers, body=_keyed(line.body))
    return msgspec.convert(_named(msgspec.to_builtins(whole), names), Said)


def without_repeats(lines: Sequence[Said]) -> list[Said]:
    """A poll that is made again is the same poll: how often is a matter of time."""
    return [first for first, _ in groupby(lines)]


def _keyed(body: object) -> object:
    """The parts of a form by their names, and which of them come after a file: many stores ignore those."""
    if not isinstance(body, list):
        return body
    parts = cast("list[dict[str, object]]", body)
    first = next((place for place, part in enumerate(parts) if part["filename"]), len(parts))
    late = ", ".join(sorted(str(part["name"]) for part in parts[first + 1 :]))
    named = {f"part {part['name']}": {name: value for name, value in part.items() if name != "name"} for part in parts}
    return {**named, "after the file": late} if late else named


def _named(node: object, names: Mapping[str, str]) -> object:
    """The same with every known id as its name."""
    match node:
        case str():
            for actual, name in names.items():
                node = node.replace(actual, name)
            return node
        case dict():
            return {key: _named(value, names) for key, value in cast("dict[str, object]", node).items()}
        case list():
            return [_named(value, names) for value in cast("list[object]", node)]
        case _:
            return node


# ── Differences ───────────────────────────────────────────────────────────────────────────────────────────────────────


def differences(theirs: Sequence[Said], ours: Sequence[Said]) -> Iterator[str]:
    """What is not the same, a line each: where, what the SDK sent, what we sent."""
    for number, (one, other) in enumerate(zip_longest(theirs, ours), 1):
        where = f"request {number}, " if max(len(theirs), len(ours)) > 1 else ""
        if one is None or other is None:
            yield f"{where}whole: {one.address if one else ABSENT}, ours {other.address if other else ABSENT}"
            continue
        left, right = dict(_leaves("", one)), dict(_leaves("", other))
        for name in sorted(left.keys() | right.keys()):
            if left.get(name) != right.get(name):
                yield f"{where}{name}: {left.get(name, ABSENT)}, ours {right.get(name, ABSENT)}"


def _leaves(where: str, node: object) -> Iterator[tuple[str, str]]:
    """Every value with where it stands, as JSON: 5 and 5.0 are two things on a wire."""
    if isinstance(node, Said):
        node = msgspec.to_builtins(node)
    inner: Sequence[tuple[str, Any]] = ()
    if isinstance(node, Mapping):
        dot = f"{where}." if where else ""
        inner = [(f"{dot}{name}", value) for name, value in cast("Mapping[str, object]", node).items()]
    elif isinstance(node, list):
        inner = [(f"{where}[{place}]", value) for place, value in enumerate(cast("list[object]", node))]
    for name, value in inner:
        yield from _leaves(name, value)
    if not inner and where not in ("query", "headers"):
        yield where, msgspec.json.encode(node).decode()


# ── Judgement ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_explained(file: Path) -> tuple[Explained, ...]:
    """The differences that are known. Raises msgspec.ValidationError naming the field that is wrong."""
    return msgspec.convert(tomllib.loads(file.read_text("utf-8")), _File).difference


def verdict(found: Collection[Difference], explained: Sequence[Explained], ended: Collection[str]) -> list[str]:
    """What is wrong: differences that nobody explained, and explanations that nothing is left of in SDKs that ended."""
    known = {Difference(sdk=each.sdk, call=call, what=each.what) for each in explained for call in each.calls}
    fresh = sorted(set(found) - known)
    stale = sorted(each for each in known - set(found) if each.sdk in ended)
    return [
        *(f"not explained: {each.sdk}, {each.call}: {each.what}" for each in fresh),
        *(f"explained, but gone: {each.sdk}, {each.call}: {each.what}" for each in stale),
    ]
