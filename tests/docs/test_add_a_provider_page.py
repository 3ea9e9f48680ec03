"""docs/add-a-provider.md shows what lies in examples/new-provider, and that package works where it is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
EXAMPLE: Final = ROOT / "examples" / "new-provider"
PAGE: Final = (ROOT / "docs" / "add-a-provider.md").read_text("utf-8")
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BUILD: Final = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


def test_what_the_page_shows_is_in_the_package() -> None:
    files = [path.read_text("utf-8") for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")]
    shown = [text for language, text in BLOCK.findall(PAGE) if language in ("python", "toml")]
    assert len(shown) > 5
    assert [text for text in shown if not any(text in file for file in files)] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is after `pip install`: built into a wheel, and that unpacked where Python looks."""
    made = tmp_path_factory.mktemp("glint")
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(made)], cwd=EXAMPLE, check=True, capture_output=True, text=True
    )
    with zipfile.ZipFile(made / run.stdout.split()[-1]) as wheel:
        wheel.extractall(made / "site")
    return made / "site"


def environment(site: Path, **more: str) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(site), **more}


def rushes(*words: str, env: Mapping[str, str]) -> str:
    command = [sys.executable, "-m", "rushes.cli", *words]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def emulated(site: Path) -> Iterator[Mapping[str, str]]:
    """The environment that points its adapter at its twin, from the command's own lines."""
    command = [sys.executable, "-m", "rushes.cli", "emulate", "glint", "--port", "0", "--print-env", "--clock", "100"]
    with subprocess.Popen(command, env=environment(site), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines: list[str] = []
        while not (line := server.stdout.readline()).startswith("#"):
            assert line, "it ended without a word"
            lines.append(line)
        exports = dict(re.findall(r"^export (\w+)='?([^'\n]+)'?$", "".join(lines), re.MULTILINE))
        yield environment(site, **exports)
        server.terminate()


def test_its_package_is_found_by_its_entry_point(site: Path, tmp_path: Path) -> None:
    env = environment(site)
    shown = json.loads(rushes("providers", "glint", "--json", "--data", str(tmp_path), env=env))
    assert (shown["name"], shown["in_doubt"], shown["keys"]) == ("glint", "B", ["GLINT_API_KEY"])
    assert [row["operations"] for row in shown["models"][0]["limits"]] == [["text-to-video"], ["image-to-video"]]


def test_a_job_runs_on_it(emulated: Mapping[str, str], tmp_path: Path) -> None:
    words = ("generate", "a lake at dawn", "--model", "glint", "--json", "--data", str(tmp_path))
    job = json.loads(rushes(*words, env=emulated).splitlines()[-1])
    assert (job["status"], job["provider"], job["model"], job["billed"]) == ("succeeded", "glint", "glint-1", "yes")


def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(tmp_path), str(EXAMPLE / "tests")]
    done = subprocess.run(
        command, check=False, env=environment(site), cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"[4-9]\d passed", done.stdout), done.stdout
