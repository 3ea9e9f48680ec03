"""Replicate's cassettes, played through production's client and adapter."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import ClientSession
from recorder import CLIP, REPLICATE, SECRET, Seen, act, client, playing, record, recording

from rushes.adapters.base import Broken, Done, Failed, Request, Response, Stopped, Unfinished
from rushes.adapters.replicate import Replicate
from rushes.emulators.base import serve_twin
from rushes.video import Target

CASSETTES = Path(__file__).parents[2] / "cassettes"
TAPES = CASSETTES / "replicate"
TARGET = Target(provider="replicate", model="prunaai/p-video", credential="REPLICATE_API_TOKEN")


async def played(name: str) -> Seen:
    scene, adapter = REPLICATE[name], Replicate()
    with playing(TAPES / f"{name}.yaml"):
        async with client(scene, adapter, {}) as http:
            return await act(scene, adapter, http)


async def refused(name: str) -> Failed:
    with pytest.raises(Failed) as failed:
        await played(name)
    return failed.value


@pytest.mark.parametrize("name", ["text-to-video", "image-to-video"])
async def test_a_clip_is_made_and_kept(name: str) -> None:
    seen = await played(name)
    *waited, done = seen.outcomes
    assert waited == [Unfinished(None, "starting"), Unfinished(30, "processing"), Unfinished(80, "processing")]
    assert isinstance(done, Done)
    assert [asset.sha256 for asset in seen.kept] == [hashlib.sha256(CLIP.read_bytes()).hexdigest()]
    assert seen.kept[0].media_type == "video/mp4"


async def test_a_cancel_is_accepted_and_seen() -> None:
    seen = await played("cancel")
    assert (seen.cancel, seen.outcomes) == ("accepted", [Stopped("unknown")])


async def test_moderation_ends_it() -> None:
    seen = await played("moderated")
    broken = seen.outcomes[-1]
    assert isinstance(broken, Broken)
    assert (broken.fault.code, broken.fault.provider_code) == ("moderated", "E005")


async def test_a_wrong_key_is_refused() -> None:
    failed = await refused("wrong-key")
    assert (failed.certain, failed.fault.code) == (True, "authentication_failed")


async def test_a_request_without_a_prompt_is_refused() -> None:
    failed = await refused("refused")
    assert (failed.certain, failed.fault.code) == (True, "invalid_input")


# ── The recorder itself ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_recording_again_writes_the_same_bytes(tmp_path: Path) -> None:
    await record("replicate", tmp_path)
    for name in REPLICATE:
        assert (tmp_path / f"{name}.yaml").read_text("utf-8") == (TAPES / f"{name}.yaml").read_text("utf-8"), name
    assert {path.stem for path in TAPES.glob("*.yaml")} == set(REPLICATE)


def test_no_tape_holds_a_key_or_a_large_clip() -> None:
    for path in TAPES.glob("*.yaml"):
        text = path.read_text("utf-8")
        assert SECRET not in text
        assert "uthorization" not in text
        assert "127.0.0.1" not in text
        assert len(text) < 30_000


async def unanswered(name: str, asked: Request) -> Exception:
    with playing(TAPES / f"{name}.yaml"):
        async with client(REPLICATE[name], Replicate(), {}) as http:
            with pytest.raises(Exception, match="Can't play back") as strange:
                await http.send(Replicate(), TARGET, asked)
            with pytest.raises(Failed):  # so that the tape is asked for to its end
                await act(REPLICATE[name], Replicate(), http)
    return strange.value


async def test_a_request_that_is_not_on_the_tape_fails_the_test() -> None:
    strange = await unanswered("wrong-key", Request(method="GET", url="/predictions/another"))
    assert not isinstance(strange, Failed)  # which somebody may catch, and try again


async def test_another_body_is_another_request() -> None:
    body = {"input": {"prompt": "another"}}
    await unanswered("wrong-key", Request(method="POST", url="/models/prunaai/p-video/predictions", body=body))


async def test_what_is_on_the_tape_must_be_asked_for() -> None:
    with pytest.raises(AssertionError, match="never asked for"), playing(TAPES / "cancel.yaml"):
        pass


async def test_no_socket_connects_while_a_tape_plays() -> None:
    ours = vars(ClientSession)["_request"]
    with socket.socket() as strange:
        with pytest.raises(AssertionError, match="about to connect"), playing(TAPES / "cancel.yaml"):
            strange.connect(("127.0.0.1", 9))
        with pytest.raises(ConnectionRefusedError):  # afterwards they do again
            strange.connect(("127.0.0.1", 9))
    assert vars(ClientSession)["_request"] is ours


class Echo:
    """A provider that says the key back."""

    def handle(self, request: Request, now: float) -> Response:
        del now
        return Response(status=401, body=f'{{"detail": "not {request.headers["authorization"]}"}}'.encode())


async def test_a_tape_that_would_hold_the_key_is_not_written(tmp_path: Path) -> None:
    scene, adapter, server = REPLICATE["cancel"], Replicate(), await serve_twin(Echo())
    async with client(scene, adapter, {"replicate": server.url}) as http:
        with pytest.raises(AssertionError, match="key was about to be recorded"), recording(tmp_path / "leak.yaml", {}):
            await unrefused(act(scene, adapter, http))
    await server.close()
    assert list(tmp_path.iterdir()) == []


async def unrefused(story: Awaitable[Seen]) -> None:
    with suppress(Failed):
        await story
