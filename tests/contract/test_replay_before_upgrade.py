"""`rushes replay --all` before an upgrade: a status word that is changed in one adapter is seen, and the job named."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import structlog
from command import environ

import rushes
from rushes.adapters.base import Flow, Outcome, Unfinished
from rushes.adapters.kling import Kling
from rushes.cli.emulate import exports
from rushes.emulators.base import ProviderTwin, serve_twin, shipped_clip
from rushes.emulators.faulty import Emulator
from rushes.emulators.kling import KlingTwin
from rushes.emulators.replicate import ReplicateTwin
from rushes.faults import JobFailed
from rushes.main import installed_adapters, open_studio
from rushes.replay import load_all, rerun, verify
from rushes.studio import Result
from rushes.units import Handle
from rushes.video import Target

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
HASTE: Final = 200.0  # seconds at the providers within one of ours
PROMPTS: Final = ("a lake at dawn", "a broken lake")
MODELS: Final = ("kling/kling-3.0-turbo", "replicate/prunaai/p-video")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A data folder with jobs of two providers, and the jobs by provider: of each one has a clip, and one failed."""
    folder = tmp_path_factory.mktemp("studio")
    return folder, asyncio.run(_made(folder))


async def _made(folder: Path) -> dict[str, list[str]]:
    twins: list[ProviderTwin] = [KlingTwin(clip=shipped_clip()), ReplicateTwin(clip=shipped_clip())]
    adapters = {name: adapter for name, adapter in installed_adapters().items() if name in ("kling", "replicate")}
    began = time.time()
    server = await serve_twin(Emulator(twins), now=lambda: began + (time.time() - began) * HASTE)
    env = dict(exports(twins, adapters, server.url, folder))
    try:
        async with open_studio(folder, adapters=adapters, environ=env) as studio:
            begun = [await studio.generate(prompt, model=model) for model in MODELS for prompt in PROMPTS]
            ends = await asyncio.gather(*(job.result(timeout_s=60.0) for job in begun), return_exceptions=True)
    finally:
        await server.close()
    assert [type(end) for end in ends] == [Result, JobFailed] * 2
    ids = [job.id for job in begun]
    return {"kling": ids[:2], "replicate": ids[2:]}


def replay_all(folder: Path, **env: str) -> tuple[int, dict[str, Mapping[str, object]]]:
    """The exit code of `rushes replay --all`, and what it says of each job."""
    words = ["replay", "--all", "--json", "--data", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "rushes.cli", *words],
        env=environ(**env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {one["job_id"]: one for one in told}


def test_todays_release_does_the_same_and_says_so(made: tuple[Path, dict[str, list[str]]]) -> None:
    folder, jobs = made
    code, told = replay_all(folder)
    assert (code, {one["verdict"] for one in told.values()}) == (0, {"same"})
    assert told.keys() == {*jobs["kling"], *jobs["replicate"]}
    assert [len(of) for of in jobs.values()] == [2, 2]


def test_a_release_that_waits_for_another_word_is_seen_in_the_jobs_of_that_provider(
    made: tuple[Path, dict[str, list[str]]], tmp_path: Path
) -> None:
    folder, jobs = made
    before = {file.name: file.read_bytes() for file in folder.glob("*.db*")}
    code, told = replay_all(folder, PYTHONPATH=str(release(tmp_path, 'case "succeeded":', 'case "completed":')))
    assert code == 1
    assert {job for job, one in told.items() if one["verdict"] != "same"} == {jobs["kling"][0]}
    assert told.keys() == {*jobs["kling"], *jobs["replicate"]}
    parted = told[jobs["kling"][0]]
    assert _field(parted, "verify", "verdict") == "same"  # it is not the decider that changed
    assert _field(parted, "rerun", "difference", "recorded", "type") == "generation.finished"
    assert _field(parted, "rerun", "difference", "today") is None
    assert '"status":"succeeded"' in str(_field(parted, "rerun", "difference", "exchange", "answered", "body", "text"))
    assert {file.name: file.read_bytes() for file in folder.glob("*.db*")} == before


def release(folder: Path, old: str, new: str) -> Path:
    """Another release, as its folder of sources: Kling's adapter has other words."""
    shutil.copytree(Path(rushes.__file__).parent, folder / "rushes", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "rushes" / "adapters" / "kling.py"
    text = file.read_text("utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), "utf-8")
    return folder


def _field(told: object, *names: str) -> object:
    """What stands there in a JSON document."""
    for name in names:
        assert isinstance(told, dict)
        told = told[name]
    return told


class Renamed(Kling):
    """An adapter that takes what it does not know for unfinished, and knows one word less."""

    def status(self, handle: Handle, target: Target) -> Flow[Outcome]:
        outcome = yield from super().status(handle, target)
        return outcome if isinstance(outcome, Unfinished) else Unfinished(stage="succeeded")


def test_in_a_test_of_ones_own_it_is_seen_the_same(made: tuple[Path, dict[str, list[str]]]) -> None:
    folder, jobs = made
    adapters = {**installed_adapters(), "kling": Renamed()}
    for recording in load_all(folder):
        report = rerun(recording, adapters)
        assert verify(recording).verdict == "same"
        assert (report.verdict == "same") == (recording.job_id in jobs["replicate"]), report
        if report.difference:
            version = report.difference.version
            ended = [event for event in recording.events if event.type in ("generation.finished", "job.failed")]
            assert (report.verdict, version) == ("diverged", ended[0].version)
            assert f"Event {version} " in report.difference.what
            assert report.difference.exchange
