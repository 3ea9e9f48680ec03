"""The official SDKs as judges of our wires: `make sdk-parity`, or `python -m parity [SDK …]` from the root.

Each SDK lives whole lives against `rushes emulate`, and for the same intent our adapter must say the same: method,
path, query, headers, body. The table goes to standard output. Exit code 1: a difference that differences.toml does not
explain, one that it explains and that is gone, or an SDK that did not come to its end. BREAK=body changes a field of
ours on purpose: then it must be 1.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from msgspec import Struct

from parity import google_calls, openai_calls, replicate_calls, runwayml_calls, server_calls
from parity.compare import Difference, read_explained, verdict
from parity.ours import Ours
from parity.stage import Row, Stage, emulating

EXPLAINED: Final = Path(__file__).parent / "differences.toml"
PAGE: Final = Path(__file__).parents[1] / "docs" / "sdk-parity.md"
BREAKS: Final = ("", "body")


class Sdk(Struct, frozen=True):
    """An SDK: whose twins it needs, and what it does."""

    twins: tuple[str, ...]
    run: Callable[[Stage], None]


SDKS: Final[Mapping[str, Sdk]] = {
    "openai": Sdk(("sora",), openai_calls.run),
    "google-genai": Sdk(("omni", "veo"), google_calls.run),
    "runwayml": Sdk(("runway",), runwayml_calls.run),
    "replicate": Sdk(("replicate",), replicate_calls.run),
}


def main(wanted: Sequence[str], broken: str) -> int:
    """Run the SDKs, print their table and say what is wrong."""
    chosen = list(dict.fromkeys(wanted)) or list(SDKS)
    if unknown := [name for name in chosen if name not in SDKS]:
        return _complain(f"There is no SDK {unknown[0]!r} here: {', '.join(SDKS)}.")
    if broken not in BREAKS:
        return _complain(f"BREAK={broken}: it can be body.")
    twins = list(dict.fromkeys(twin for name in chosen for twin in SDKS[name].twins))
    problems, found, tables, ended = list[str](), list[Difference](), list[str](), list[str]()
    with emulating(twins) as (url, env):
        os.environ |= env | google_calls.SETTINGS | {"NO_PROXY": "*"}  # so the SDKs find the emulator as a user's would
        with Ours(broken=broken == "body") as ours:
            for name in chosen:
                stage = Stage(name, url, ours)
                trouble = _turn(stage, SDKS[name])
                problems += trouble
                ended += [] if trouble else [name]
                found += stage.found()
                tables.append("\n".join(_table(stage)))
                print(tables[-1], end="\n\n", flush=True)
        if "openai" in chosen and not broken:
            table, trouble = _over_our_server()
            problems += trouble
            tables.append(table)
            print(table, end="\n\n", flush=True)
    problems += verdict(found, read_explained(EXPLAINED), ended)
    if not problems and any(table not in PAGE.read_text("utf-8") for table in tables):
        problems.append(f"docs/{PAGE.name} shows another table: put this one there")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _turn(stage: Stage, sdk: Sdk) -> list[str]:
    """Let an SDK do its calls; what stopped it."""
    try:
        sdk.run(stage)
    except Exception as error:  # noqa: BLE001 - an SDK's own, or an answer that is not as it should be
        traceback.print_exc()
        done = [row.call for row in stage.rows()]
        return [
            f"did not come to its end: {stage.sdk}, after {done[-1] if done else 'nothing'}: {type(error).__name__}"
        ]
    return []


def _over_our_server() -> tuple[str, list[str]]:
    """The table of OpenAI's SDK over our own server, and what stopped it."""
    try:
        return "\n".join(server_calls.run(os.environ)), []
    except Exception as error:  # noqa: BLE001 - as above
        traceback.print_exc()
        return "", [f"did not come to its end: openai over our server: {type(error).__name__}"]


def _table(stage: Stage) -> Iterator[str]:
    """The calls of an SDK, a line for every request."""
    lines = [("call", "request", "answer", "our adapter")]
    for row in stage.rows():
        lines += [_cells(row, place) for place in range(max(1, len(row.requests)))]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    yield f"{stage.sdk} {version(stage.sdk)}"
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        yield "  ".join([*cells, line[3]]).rstrip()


def _cells(row: Row, place: int) -> tuple[str, str, str, str]:
    request, answer = (row.requests[place], row.statuses[place]) if row.requests else ("", "")
    return (row.call, request, answer, row.ours) if place == 0 else ("", request, answer, "")


def _complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get("BREAK", "")))
