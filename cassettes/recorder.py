"""Our cassettes: recorded through the client that production uses, played back without a socket.

    python cassettes/recorder.py replicate        records every scene of that provider anew

A recording tests the *shape* of a wire, never its timing or its failures: those are the loopback servers' of the
contract tests. What is recorded here comes from a provider's twin unless the folder's README says otherwise; the twin's
clock ticks once a request, so recording again writes the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import vcr
import yaml
from aiohttp import ClientSession
from msgspec import Struct

from rushes.adapters.base import Adapter, CancelAnswer, Failed, Outcome, Transport, Twin, Unfinished, drive
from rushes.adapters.http import Http
from rushes.adapters.replicate import Replicate
from rushes.emulators.base import serve_twin
from rushes.emulators.replicate import ReplicateTwin
from rushes.units import AssetRef, Handle
from rushes.video import ImageToVideo, Input, Target, TextToVideo, VideoSpec

HERE: Final = Path(__file__).parent
CLIP: Final = HERE / "clip.mp4"  # two seconds of 320×180, drawn by the model `local`
REQUEST_HEADERS: Final = frozenset({"content-type"})
RESPONSE_HEADERS: Final = frozenset(
    {"content-type", "location", "retry-after", "ratelimit-remaining", "ratelimit-reset"}
)
SECRET: Final = "a-key-that-must-not-be-recorded"  # noqa: S105 - that is what tests look for


# ── The tape ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def playing(path: Path) -> Generator[None, None, None]:
    """Answer every request from the tape, in order, and connect to nobody. What was not asked for is an error."""
    with _unpatched_afterwards(), _no_sockets(), _tape("none").use_cassette(str(path)) as cassette:
        yield
        unplayed = [f"{r.method} {r.uri}" for n, r in enumerate(cassette.requests) if not cassette.play_counts[n]]
    if unplayed:
        raise AssertionError(f"{path.name}: never asked for {', '.join(unplayed)}")


@contextmanager
def recording(path: Path, names: dict[str, str]) -> Generator[None, None, None]:
    """Write a new tape. `names` says whose address stands for which prefix of ours, the longest first."""
    path.unlink(missing_ok=True)
    with _unpatched_afterwards(), _tape("all").use_cassette(str(path)):
        yield
    text = path.read_text("utf-8")
    for ours, theirs in names.items():
        text = text.replace(ours, theirs)
    if SECRET in text:
        path.unlink()
        raise AssertionError(f"{path.name}: the key was about to be recorded")
    path.write_text(text, "utf-8")


def _tape(mode: str) -> Any:
    tape = vcr.VCR(
        record_mode=mode,
        match_on=["method", "scheme", "host", "port", "path", "query", "said"],  # its default leaves the body out
        serializer="readable",
        before_record_request=_tidy_request,
        before_record_response=_tidy_response,
    )
    tape.register_matcher("said", _same_body)
    tape.register_serializer("readable", Readable)
    return tape


@contextmanager
def _unpatched_afterwards() -> Generator[None, None, None]:
    """A tape replaces a method of every session in the process; one that could not be saved leaves it replaced."""
    ours = vars(ClientSession)["_request"]
    try:
        yield
    finally:
        left = vars(ClientSession)["_request"]
        ClientSession._request = ours  # type: ignore[method-assign] # noqa: SLF001 - what vcrpy should have put back
    assert left is ours, "the tape left aiohttp patched"


@contextmanager
def _no_sockets() -> Generator[None, None, None]:
    """No socket of this process connects anywhere."""

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was about to connect while a tape was playing")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = refuse  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del socket.socket.connect, socket.socket.connect_ex  # the built-in ones stand behind


def _tidy_request(request: Any) -> Any:
    request.headers = {name: value for name, value in request.headers.items() if name.lower() in REQUEST_HEADERS}
    return request


def _tidy_response(response: dict[str, Any]) -> dict[str, Any]:
    headers = {name.lower(): value for name, value in response["headers"].items()}
    video = str(headers.get("content-type")).count("video/")  # only there a length tells more than the body
    kept = RESPONSE_HEADERS | ({"content-length"} if video else set())
    status = {"code": response["status"]["code"], "message": ""}  # the words differ from one Python to the next
    return {**response, "status": status, "headers": {name: headers[name] for name in sorted(kept & headers.keys())}}


def _same_body(one: Any, other: Any) -> None:
    assert _meaning(one.body) == _meaning(other.body)


def _meaning(body: bytes | str | None) -> object:
    """A JSON body as what it says, any other as its bytes."""
    try:
        return json.loads(body or b"")
    except ValueError:
        return body.encode() if isinstance(body, str) else body


class Readable:
    """YAML with JSON bodies laid open, so that a change of the wire is a readable change of the file."""

    @staticmethod
    def serialize(tape: dict[str, Any]) -> str:
        """The tape as text."""
        for interaction in tape["interactions"]:
            interaction["request"]["body"] = _opened(interaction["request"]["body"])
            interaction["response"]["body"] = _opened(interaction["response"]["body"].get("string", ""))
        return yaml.safe_dump(tape, sort_keys=False, allow_unicode=True, width=1000)

    @staticmethod
    def deserialize(text: str) -> dict[str, Any]:
        """The text as the tape that vcrpy knows."""
        tape: dict[str, Any] = yaml.safe_load(text)
        for interaction in tape["interactions"]:
            interaction["request"]["body"] = _closed(interaction["request"]["body"])
            interaction["response"]["body"] = {"string": _closed(interaction["response"]["body"]) or ""}
        return tape


def _opened(body: str | bytes | None) -> object:
    if not body:
        return None
    try:
        return {"json": json.loads(body)}
    except ValueError:
        return {"raw": body}


def _closed(body: dict[str, Any] | None) -> str | bytes | None:
    if body is None:
        return None
    raw: str | bytes = json.dumps(body["json"]) if "json" in body else body["raw"]
    return raw


# ── Scenes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Seen(Struct):
    """What a scene saw, in order."""

    handle: Handle | None = None
    outcomes: list[Outcome] = []
    cancel: CancelAnswer | None = None
    kept: list[AssetRef] = []


class Scene(Struct, frozen=True, kw_only=True):
    """One story to record: a request, and whether it is cancelled on the way."""

    spec: VideoSpec
    model: str
    cancel: bool = False
    key: str = SECRET


async def act(scene: Scene, adapter: Adapter, transport: Transport) -> Seen:
    """Play a scene through the adapter's own flows. Raises Failed where the provider refuses."""
    target, seen = Target(provider=adapter.name, model=scene.model, credential=_alias(adapter)), Seen()
    prepared = await drive(adapter.prepare(scene.spec, target), transport, adapter, target)
    handle = await drive(adapter.submit(scene.spec, target, prepared, "job_1-1"), transport, adapter, target)
    seen.handle = handle
    if scene.cancel:
        seen.cancel = await drive(adapter.cancel(handle, target), transport, adapter, target)
    while not seen.outcomes or isinstance(seen.outcomes[-1], Unfinished):
        seen.outcomes.append(await drive(adapter.status(handle, target), transport, adapter, target))
    for output in getattr(seen.outcomes[-1], "outputs", ()):
        flow = adapter.download(output, handle, target)
        seen.kept.append(await drive(flow, transport, adapter, target, _in_memory))
    return seen


def _alias(adapter: Adapter) -> str:
    return adapter.capabilities.auth.env[0] if adapter.capabilities.auth else ""


async def _in_memory(chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
    content = b"".join([chunk async for chunk in chunks])
    assert size_bytes in (None, len(content))
    return AssetRef("kept", hashlib.sha256(content).hexdigest(), len(content), media_type)


PICTURE: Final = bytes.fromhex(  # a PNG of one pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63a8c85a0a0002db016a"
    "4d3f1f7c0000000049454e44ae426082"
)
FIRST_FRAME: Final = Input(
    asset=AssetRef("inputs/pixel", hashlib.sha256(PICTURE).hexdigest(), len(PICTURE), "image/png")
)
WORDS: Final = VideoSpec(
    prompt="a lake at dawn",
    operation=TextToVideo(),
    duration_seconds=2.0,
    aspect_ratio="16:9",
    resolution="720p",
    fps=24.0,
    seed=7,
    generate_audio=False,
    enhance_prompt=True,
    provider_options={"draft": True},
)
REPLICATE: Final = {
    "text-to-video": Scene(spec=WORDS, model="prunaai/p-video"),
    "image-to-video": Scene(
        spec=VideoSpec(operation=ImageToVideo(), inputs=(FIRST_FRAME,), seed=7),
        model="stability-ai/stable-video-diffusion",
    ),
    "cancel": Scene(spec=WORDS, model="prunaai/p-video", cancel=True),
    "refused": Scene(spec=VideoSpec(operation=TextToVideo()), model="prunaai/p-video"),  # no prompt
    "wrong-key": Scene(spec=WORDS, model="prunaai/p-video", key="another"),
    "moderated": Scene(spec=VideoSpec(prompt="something forbidden", operation=TextToVideo()), model="minimax/video-01"),
}


class Stage(Struct, frozen=True, kw_only=True):
    """A provider's scenes, who plays the provider, and the real addresses in the place of the twin's."""

    scenes: dict[str, Scene]
    adapter: Callable[[], Adapter]
    twin: Callable[[], Twin]
    names: dict[str, str]  # path prefix at the twin → the address it stands for


STAGES: Final = {
    "replicate": Stage(
        scenes=REPLICATE,
        adapter=Replicate,
        twin=lambda: ReplicateTwin(clip=CLIP.read_bytes(), token=SECRET, start_s=4.0, render_s=6.0),
        names={"/xezq": "https://replicate.delivery/xezq", "": "https://api.replicate.com"},
    ),
}


class Ticking:
    """A clock that is three seconds later at every look."""

    def __init__(self) -> None:
        self._ticks: Iterator[int] = count(1_800_000_000, 3)

    def now(self) -> float:
        """The next tick."""
        return float(next(self._ticks))


def client(scene: Scene, adapter: Adapter, base_urls: dict[str, str]) -> Http:
    """Production's own client, with the scene's key and picture."""
    keys = {_alias(adapter): scene.key}
    return Http(base_urls=base_urls, credentials=keys, read=lambda _: PICTURE, inner={}, clock=Ticking())


async def record(provider: str, folder: Path) -> None:
    """Record every scene of a provider into a folder."""
    stage = STAGES[provider]
    for name, scene in stage.scenes.items():
        server, adapter = await serve_twin(stage.twin(), now=Ticking().now), stage.adapter()
        names = {server.url + path: theirs for path, theirs in stage.names.items()}
        with recording(folder / f"{name}.yaml", names):
            async with client(scene, adapter, {provider: server.url}) as http:
                with suppress(Failed):  # some scenes are about refusals
                    await act(scene, adapter, http)
        await server.close()


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in STAGES:
        asyncio.run(record(sys.argv[1], HERE / sys.argv[1]))
    else:
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(STAGES)}")
