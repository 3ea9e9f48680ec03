"""`make demo` in full: five seconds at 1280×720, over a server of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rushes import media
from rushes.eventstore.lock import holder

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def demo(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEMO],
        env={**os.environ, "TMPDIR": str(tmp_path), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_the_demo_ends_with_the_path_of_a_real_clip(tmp_path: Path) -> None:
    done = demo(tmp_path)
    told = [line for line in done.stderr.splitlines() if "event=sqlite.outdated" not in line]  # this machine's may be
    assert (done.returncode, told) == (0, [])
    *told, path = done.stdout.splitlines()
    clip = await media.probe(Path(path))
    assert (clip.width, clip.height, clip.duration_seconds, clip.fps) == (1280, 720, 5.0, 24.0)
    assert "take    1280×720, 5 s, 24 fps, " in done.stdout
    percents = [int(match[1]) for line in told if (match := re.search(r"(\d+) %.*elapsed", line))]
    assert len(percents) > 3
    assert percents == sorted(percents)
    assert any(line.endswith(" left") for line in told)
    versions = [int(match[1]) for line in told if (match := re.match(r" ?(\d+)  \w+\.\w+ +\d{4}-", line))]
    assert versions == list(range(1, len(versions) + 1))
    folder = next(tmp_path.iterdir())
    assert Path(path).is_absolute()
    assert folder in Path(path).parents
    assert " " not in path
    assert holder(folder) is None  # the server is gone


def test_a_server_that_does_not_start_is_said(tmp_path: Path) -> None:
    done = demo(tmp_path, RUSHES_STOP_GRACE_S="soon")
    assert done.returncode == 1
    assert "stop_grace_s" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("The server ended with code 2")
    assert "Traceback" not in done.stderr
