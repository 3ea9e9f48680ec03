"""Jobs that use every flow, over a real server and a twin that calls back: each event names the exchange it came of."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest
from provider_rig import PATIENCE_S, eager, png, until
from server import free_port

from rushes.adapters.base import FlowName
from rushes.adapters.replicate import Replicate
from rushes.api.app import serve
from rushes.emulators.base import serve_twin, shipped_clip
from rushes.emulators.faults import Drop, ExpiredUrl, FailedJob, Faults, LineRule, RateLimit, TwinRule
from rushes.emulators.faulty import FaultyTwin
from rushes.emulators.replicate import ReplicateTwin
from rushes.faults import JobFailed
from rushes.flight import read
from rushes.main import Settings, open_studio
from rushes.studio import Job, Studio

PICTURED: Final = {"image": png(), "model": "replicate/svd"}  # an upload goes before, and its mark is looked for
LOST: Final = Drop(on="submit", after_work=True)
CAME_OF: Final[dict[str, set[FlowName]]] = {
    "RecordPrepared": {"prepare"},
    "RecordAccepted": {"submit", "find", "callback"},
    "RecordRefused": {"submit"},
    "RecordDoubt": {"submit"},
    "RecordProgress": {"status"},
    "RecordFinished": {"status"},
    "RecordBroken": {"status"},
    "RecordStopped": {"status"},
    "RecordCancel": {"cancel"},
    "RecordLinks": {"status"},
    "RecordStored": {"download"},
}


class Meta(msgspec.Struct):
    """What an event says of where it came from."""

    cmd: str
    x: list[int] = []


class Rig:
    """A studio that serves, before a provider that can be told to go wrong."""

    def __init__(self, studio: Studio, faulty: FaultyTwin) -> None:
        self.studio, self._faulty = studio, faulty

    async def make(self, *rules: LineRule | TwinRule, **fields: Any) -> Job:
        self._faulty.set(Faults(rules))
        return await self.studio.generate("" if fields else "a lake", **fields)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Rig]:
    """Its callbacks come half a second after a send: a look is faster."""
    twin = ReplicateTwin(clip=shipped_clip(), start_s=0.5, render_s=0.1)
    faulty, port = FaultyTwin(twin), free_port()
    async with AsyncExitStack() as stack:
        behind = await serve_twin(faulty)
        stack.push_async_callback(behind.close)
        environ = {"REPLICATE_BASE_URL": behind.url, "REPLICATE_API_TOKEN": "any"}
        settings = Settings(data=str(folder), default_model="replicate", public_url=f"http://127.0.0.1:{port}")
        adapters = {"replicate": eager(Replicate())}
        opening = open_studio(settings=settings, adapters=adapters, environ=environ, serving=True)
        studio = await stack.enter_async_context(opening)
        server = await serve(studio, f"127.0.0.1:{port}")
        stack.push_async_callback(server.close)
        yield Rig(studio, faulty)


def heard(folder: Path) -> tuple[set[str], set[str], list[str]]:
    """The commands that events came of, the flows of the exchanges that these name, and what does not fit."""
    commands, flows, wrong = set[str](), set[str](), list[str]()
    with closing(sqlite3.connect(folder / "rushes.db")) as log:
        rows = log.execute(
            "SELECT name, version, type, meta FROM events JOIN streams ON streams.id = stream"
        ).fetchall()
    for name, version, type_, raw in rows:
        meta, kept = msgspec.json.decode(raw, type=Meta), {one.id: one for one in read(folder / "flight.db", name)}
        if not meta.cmd.startswith("Record"):
            continue
        named = [kept[number].flow for number in meta.x if number in kept]
        commands.add(meta.cmd)
        flows.update(named)
        if not named or len(named) < len(meta.x) or named[-1] not in CAME_OF[meta.cmd]:
            wrong.append(f"{version} {type_} of {name} came of {meta.cmd} and names {meta.x}: {named}")
    return commands, flows, wrong


async def test_an_event_that_came_from_outside_names_its_exchange_whatever_the_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rushes.actors.perform.FRESH_S", 0.0)  # so that an address that has expired is renewed at once
    async with opened(tmp_path) as rig:
        for rules, fields in ([ExpiredUrl(times=1)], PICTURED), ([LOST], PICTURED), ([LOST], {}):
            await (await rig.make(*rules, **fields)).result(timeout_s=PATIENCE_S)
        await (await rig.make(RateLimit(on="submit", times=1))).result(timeout_s=PATIENCE_S)
        cancelled = await rig.make()
        await until(cancelled, "running")
        await cancelled.cancel()
        await until(cancelled, "cancelled")
        with pytest.raises(JobFailed):
            await (await rig.make(FailedJob())).result(timeout_s=PATIENCE_S)
    commands, flows, wrong = heard(tmp_path)
    assert wrong == []
    assert flows == {*get_args(FlowName)}
    assert commands >= CAME_OF.keys() - {"RecordProgress"}


async def test_control_an_exchange_that_is_gone_is_missed(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await (await rig.make()).result(timeout_s=PATIENCE_S)
    assert heard(tmp_path)[2] == []
    with closing(sqlite3.connect(tmp_path / "flight.db")) as record, record:
        record.execute("DELETE FROM exchanges WHERE flow = 'submit'")
    (wrong,) = heard(tmp_path)[2]
    assert "submission.accepted" in wrong
