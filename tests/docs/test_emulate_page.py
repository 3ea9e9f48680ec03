"""docs/emulate.md: its commands run as they stand, and its table names every fault."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from rushes.emulators.faults import LineRule, TwinRule

PAGE = (Path(__file__).parents[2] / "docs" / "emulate.md").read_text("utf-8")


def test_its_commands_do_what_it_says(tmp_path: Path) -> None:
    (script,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env={"PATH": path, "HOME": str(tmp_path), "RUSHES_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "exit code 6" in done.stdout
    assert (tmp_path / "lake.mp4").read_bytes()[4:8] == b"ftyp"
    charges = [len(json.loads((tmp_path / name).read_text())["charges"]) for name in ("ledger.json", "doubt.json")]
    assert charges == [1, 2]


def test_its_table_names_every_fault_and_its_fields() -> None:
    rows = dict(re.findall(r"^\| (`[a-z_`, ]+) \| (.*?) \|", PAGE.partition("## Faults")[2], re.MULTILINE))
    shown = {word: fields for words, fields in rows.items() for word in re.findall(r"\w+", words)}
    every = {"on", "nth", "every", "times"}
    kinds = {kind.__struct_config__.tag: kind for kind in (*LineRule.__args__, *TwinRule.__args__)}
    assert set(shown) - {"do"} == set(kinds)
    for word, kind in kinds.items():
        own = {field.name for field in msgspec.structs.fields(kind)} - every
        assert own <= set(re.findall(r"`(\w+)`", shown[word])), word
