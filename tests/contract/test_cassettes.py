"""The cassettes of every provider, played through production's client and adapter."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from aiohttp import ClientSession
from recorded import at_a_twin, first_order, lived
from recorder import JOBS, playing, record, recording, scene_tapes, unpatched_afterwards
from scenes import MARK, SECRETS, Scene, Seen, act, client, pairs, scenes, wishes

from rushes.adapters.base import Broken, Done, Failed, Request, Response, Stopped, Vanished
from rushes.emulators.base import serve_twin, shipped_clip
from rushes.replay import follow, read_file, write_cassette
from rushes.testing.wires import Wire
from rushes.video import OPERATIONS

CASSETTES = Path(__file__).parents[2] / "cassettes"
PAIRS = pairs()
PLAYS = [(provider, name) for provider, pair in PAIRS.items() for name in scenes(pair)]
LARGEST_BYTES = 32_000
LARGEST_JOB_BYTES = 200_000
SHIPPED = hashlib.sha256(shipped_clip()).hexdigest()


def tape(provider: str, name: str) -> Path:
    return CASSETTES / provider / f"{name}.yaml"


async def played(provider: str, name: str) -> Seen | Failed:
    pair = PAIRS[provider]
    scene = scenes(pair)[name]
    with playing(tape(provider, name)):
        async with client(pair, scene, {}) as http:
            try:
                return await act(pair, scene, http)
            except Failed as failed:
                return failed


@pytest.mark.parametrize(("provider", "name"), PLAYS, ids=[f"{provider}-{name}" for provider, name in PLAYS])
async def test_a_scene_is_read_as_what_it_is(provider: str, name: str) -> None:
    seen = await played(provider, name)
    match name:
        case "wrong_key":
            assert is_refusal(seen, "authentication_failed", certain=True)
        case "rate_limit":
            assert is_refusal(seen, "rate_limited", certain=True)
            assert isinstance(seen, Failed)
            assert seen.fault.retry_after_s == 7.0
        case "error":
            assert is_refusal(seen, "provider_unavailable", certain=False)
        case "expired_url":
            assert is_refusal(seen, "asset_expired", certain=True)
        case "refused":
            assert is_refused_or_broken(seen)
        case "moderated":
            assert is_moderated(seen)
        case "failed":
            assert isinstance(seen, Seen)
            assert isinstance(seen.outcomes[-1], Broken)
        case "cancel":
            assert isinstance(seen, Seen)
            assert (seen.cancel, isinstance(seen.outcomes[-1], Stopped | Vanished)) == ("accepted", True)
        case "look":
            assert isinstance(seen, Seen)
            assert seen.found is not None
            assert seen.handle is not None
            assert seen.found.id == seen.handle.id or MARK in seen.found.id  # the same job, or what bears our mark
        case "pictures":
            assert isinstance(seen, Seen)
            kinds = [output.kind for output in getattr(seen.outcomes[-1], "outputs", ())]
            assert kinds == ["video", "thumbnail", "spritesheet"]
            assert [asset.media_type for asset in seen.kept] == ["video/mp4", "image/webp", "image/jpeg"]
            assert len({asset.sha256 for asset in seen.kept} | {SHIPPED}) == 3
        case "partly":
            assert isinstance(seen, Seen)
            last = seen.outcomes[-1]
            assert isinstance(last, Done)
            assert (len(last.outputs), last.filtered) == (1, 1)
            assert "58061214" in last.metadata["filtered"]
            assert [asset.sha256 for asset in seen.kept] == [SHIPPED]
        case _:
            assert name in OPERATIONS.values() or name.startswith("more-")
            assert is_done(seen, scenes(PAIRS[provider])[name])


def is_refusal(seen: Seen | Failed, code: str, *, certain: bool) -> bool:
    return isinstance(seen, Failed) and (seen.fault.code, seen.certain) == (code, certain)


def is_refused_or_broken(seen: Seen | Failed) -> bool:
    """Some providers look at the words at once, and some when the job is looked at."""
    return seen.certain if isinstance(seen, Failed) else isinstance(seen.outcomes[-1], Broken)


def is_moderated(seen: Seen | Failed) -> bool:
    if isinstance(seen, Failed):
        return is_refusal(seen, "moderated", certain=True)
    last = seen.outcomes[-1]
    return last.filtered > 0 if isinstance(last, Done) else isinstance(last, Broken) and last.fault.code == "moderated"


def is_done(seen: Seen | Failed, scene: Scene) -> bool:
    kept = [] if isinstance(seen, Failed) else [(asset.sha256, asset.media_type) for asset in seen.kept]
    wanted = [(SHIPPED, "video/mp4")] if scene.fetch else []
    return isinstance(seen, Seen) and isinstance(seen.outcomes[-1], Done) and kept == wanted


# ── The recorder itself ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("provider", PAIRS)
async def test_recording_again_writes_the_same_bytes(provider: str, tmp_path: Path) -> None:
    await record(PAIRS[provider], tmp_path)
    fresh = {path.name: path.read_text("utf-8") for path in tmp_path.glob("*.yaml")}
    kept = {path.name: path.read_text("utf-8") for path in scene_tapes(CASSETTES / provider)}
    assert sorted(fresh) == sorted(kept)
    for name, text in fresh.items():
        assert text == kept[name], f"{name}: `make record PROVIDER={provider}`, and read what has changed"


@pytest.mark.parametrize("provider", PAIRS)
def test_each_operation_and_each_wish_of_a_provider_is_on_a_tape(provider: str) -> None:
    pair = PAIRS[provider]
    told = scenes(pair)
    shown = set[str]().union(*(wishes(scene.order.spec) for scene in told.values()))
    for model in pair.adapter.capabilities.models:
        assert set(model.operations) <= set(told)
        declared = {*map(str, model.roles), *model.fields, *(f"option {name}" for name in model.options)}
        assert declared <= shown, model.id


def test_every_folder_is_a_providers() -> None:
    assert {path.parent.name for path in CASSETTES.glob("*/*.yaml")} == set(PAIRS)


def tapes() -> Iterator[Path]:
    found = sorted(CASSETTES.glob("*/*.yaml"))
    assert found
    yield from found


def test_every_tape_says_where_it_is_from() -> None:
    for path in tapes():
        check_provenance(path)


def check_provenance(path: Path) -> None:
    """What is recorded here comes from a twin; a job that was exported may have been at the real service."""
    first, _ = path.read_text("utf-8").split("\n", 1)
    assert first == "provenance: twin" or (path.match(JOBS) and first == "provenance: real"), path


def test_no_tape_holds_a_key_or_a_large_clip() -> None:
    for path in tapes():
        check_content(path)


def check_content(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not any(secret in text for secret in SECRETS), path
    assert not re.search(r"(?im)^\s*(authorization|x-api-key|cookie|set-cookie):", text), path
    assert "127.0.0.1" not in text, path
    assert len(text) < (LARGEST_JOB_BYTES if path.match(JOBS) else LARGEST_BYTES), path


# ── Jobs that were exported ───────────────────────────────────────────────────────────────────────────────────────────


def exported(provider: str, folder: Path) -> Path:
    """A job's tape, as `rushes export --cassette` puts it among these."""
    pair = PAIRS[provider]
    recording = lived(Wire(pair), first_order(pair), folder / "data")
    tape, _ = write_cassette(at_a_twin(recording, pair.adapter.address()), folder / "cassettes" / provider)
    return tape


@pytest.mark.parametrize("provider", PAIRS)
def test_a_job_that_is_exported_is_a_tape_like_these(provider: str, tmp_path: Path) -> None:
    path = exported(provider, tmp_path)
    check_provenance(path)
    check_content(path)
    check_exported(path)
    assert path.match(JOBS)
    assert path not in scene_tapes(path.parent), "recording the scenes anew leaves it there"


def test_the_exported_jobs_among_these_go_as_they_went() -> None:
    for path in CASSETTES.glob(f"*/{JOBS}"):
        check_exported(path)


def check_exported(path: Path) -> None:
    with playing(path):
        report = asyncio.run(follow(read_file(path.with_suffix(".rushes.json"))))
        assert report.verdict == "same", str(report)


def test_an_exported_job_that_goes_another_way_is_red(tmp_path: Path) -> None:
    path = exported(PROVIDER, tmp_path)
    path.write_text(path.read_text("utf-8").replace("status: succeeded", "status: failed"), "utf-8")
    with pytest.raises(AssertionError, match=r"Event \d+ was generation\.finished, and is job\.failed today"):
        check_exported(path)


# One provider is enough to hold the recorder to its word.
PROVIDER = "replicate"
PAIR = PAIRS[PROVIDER]
REFUSED = scenes(PAIR)["wrong_key"]


async def unanswered(asked: Request) -> Exception:
    with playing(tape(PROVIDER, "wrong_key")):
        async with client(PAIR, REFUSED, {}) as http:
            with pytest.raises(Exception, match="Can't play back") as strange:
                await http.send(PAIR.adapter, Wire(PAIR).target(REFUSED.order), asked)
            with pytest.raises(Failed):  # so that the tape is asked for to its end
                await act(PAIR, REFUSED, http)
    return strange.value


async def test_a_request_that_is_not_on_the_tape_fails_the_test() -> None:
    strange = await unanswered(Request(method="GET", url="/predictions/another"))
    assert not isinstance(strange, Failed)  # which somebody may catch, and try again


async def test_another_body_is_another_request() -> None:
    (recorded,) = yaml.safe_load(tape(PROVIDER, "wrong_key").read_text("utf-8"))["interactions"]
    url = recorded["request"]["uri"]
    await unanswered(Request(method="POST", url=url, body={"input": {"prompt": "another"}}))


async def test_what_is_on_the_tape_must_be_asked_for() -> None:
    with pytest.raises(AssertionError, match="never asked for"), playing(tape(PROVIDER, "wrong_key")):
        await asyncio.sleep(0)


async def test_no_socket_connects_while_a_tape_plays() -> None:
    ours = vars(ClientSession)["_request"]
    with socket.socket() as strange:
        with pytest.raises(AssertionError, match="about to connect"), playing(tape(PROVIDER, "wrong_key")):
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
    server = await serve_twin(Echo())
    async with client(PAIR, REFUSED, {PROVIDER: server.url}) as http:
        with pytest.raises(AssertionError, match="key was about to be recorded"), recording(tmp_path / "leak.yaml", {}):
            await unrefused(act(PAIR, REFUSED, http))
    await server.close()
    assert list(tmp_path.iterdir()) == []


async def unrefused(story: Awaitable[Seen]) -> None:
    with suppress(Failed):
        await story


def test_a_client_that_a_tape_leaves_patched_is_seen_and_put_right() -> None:
    ours = vars(ClientSession)["_request"]
    with pytest.raises(AssertionError, match="left aiohttp patched"), unpatched_afterwards():
        ClientSession._request = None  # type: ignore[method-assign,assignment]
    assert vars(ClientSession)["_request"] is ours
