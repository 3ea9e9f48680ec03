"""OpenAI's SDK against our own server: `/v1/videos` of `rushes serve`, over `local` and an emulated provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.request import Request, urlopen

import openai
from openai import OpenAI

from parity.stage import PATIENCE_S, refused

T = TypeVar("T")

WISH: Final = {"prompt": "a lake", "seconds": "4", "size": "1280x720"}
MODELS: Final = ("local", "sora/sora-2")


def run(environ: Mapping[str, str]) -> list[str]:
    """All calls; a table of them, a line each. `environ` points our server at the emulator."""
    with serving(environ) as url:
        calls = _Calls()
        for model in MODELS:
            strict = model == "local"  # an emulator has one clip, of a size that their types do not know
            sdk = OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0, _strict_response_validation=strict)
            _life(calls, sdk, url, model)
    width = max(len(call) for call, _ in calls.lines)
    return [f"openai {openai.__version__}, our server", *(f"{call:{width}}  {told}" for call, told in calls.lines)]


class _Calls:
    """What was called, and what came of it."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = [("call", "outcome")]

    def do(self, call: str, told: Callable[[T], str], ask: Callable[[], T]) -> T:
        answer = ask()
        self.lines.append((call, told(answer)))
        return answer


def _life(calls: _Calls, sdk: OpenAI, url: str, model: str) -> None:
    """Made and waited for, looked at, listed, downloaded, made anew, refused, removed."""
    wish: dict[str, Any] = WISH | {"model": model}
    video = calls.do(f"{model}: videos.create_and_poll", _status, lambda: sdk.videos.create_and_poll(**wish))
    assert (video.status, video.progress, video.error) == ("completed", 100, None), video
    assert (video.seconds, video.size) == (("4", "1280x720") if model == "local" else ("2", "320x180")), video
    again = calls.do("videos.retrieve", _status, lambda: sdk.videos.retrieve(video.id))
    assert again == video, again
    listed = calls.do("videos.list", lambda page: f"{len(page.data)}", lambda: sdk.videos.list(limit=1))
    assert listed.data[0].id == video.id, listed
    content = calls.do(
        "videos.download_content",
        lambda content: "a clip" if content[4:8] == b"ftyp" else "no clip",
        lambda: sdk.videos.download_content(video.id).read(),
    )
    assert content[4:8] == b"ftyp", content[:40]

    def remix() -> Any:
        return sdk.videos.remix(video.id, prompt="a lake at night")

    if model == "local":
        error = calls.do("videos.remix", _refusal, refused(openai.BadRequestError, remix))
        assert error.type == "invalid_request_error", error
    else:
        remixed = calls.do("videos.remix", _status, remix)
        assert remixed.remixed_from_video_id == video.id, remixed
    wrong = calls.do(
        "videos.create, wrong",
        _refusal,
        refused(openai.BadRequestError, lambda: sdk.videos.create(**(wish | {"seconds": "3601"}))),
    )
    assert wrong.param == "seconds", wrong
    slow = sdk.videos.create(**(wish | {"seconds": "60" if model == "local" else "20"}))
    early = calls.do(
        "videos.delete, too early", _refusal, refused(openai.ConflictError, lambda: sdk.videos.delete(slow.id))
    )
    assert f"/v1/jobs/{slow.id}/cancel" in early.message, early
    _cancel(url, slow.id)
    gone = calls.do("videos.delete", lambda one: one.object, lambda: sdk.videos.delete(video.id))
    assert gone.deleted, gone
    calls.do("videos.retrieve, deleted", _refusal, refused(openai.NotFoundError, lambda: sdk.videos.retrieve(video.id)))


def _status(video: Any) -> str:
    return str(video.status)


def _refusal(error: openai.APIStatusError) -> str:
    return f"{error.status_code} {error.code}"


def _cancel(url: str, video: str) -> None:
    request = Request(f"{url}/v1/jobs/{video}/cancel", b"", method="POST")  # noqa: S310 - our own server's
    with urlopen(request, timeout=PATIENCE_S):  # noqa: S310 - the same
        pass


@contextmanager
def serving(environ: Mapping[str, str]) -> Generator[str, None, None]:
    """`rushes serve` over a folder of its own; its address."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rushes.cli", "serve", "--json", "--listen", "127.0.0.1:0", "--data", folder]
        told = {**os.environ, **environ}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=told) as process:  # noqa: S603 - our own
            assert process.stdout is not None
            try:
                if not (line := process.stdout.readline()):
                    raise RuntimeError("`rushes serve` did not start: what it said stands above.")
                yield json.loads(line)["url"]
            finally:
                process.terminate()
                process.wait(PATIENCE_S)
