"""The key-free lab: a video provider on this machine, behind the same kind of wire as any other.

    POST   {base}/renders              {id, prompt, seed, width, height, fps, seconds, …}   201, or 200 when it is known
    GET    {base}/renders/{id}         {id, status, frames_done, frames_total, output?, error?}
    DELETE {base}/renders/{id}         the same, stopped where it was not done
    GET    {base}/renders/{id}/output  the clip

What it knows is in its folder, one folder a render, on disk before the answer: `spec.json` and the pictures it names,
then one of `take.mp4`, `error.json` and `cancelled`. A render with none of these three that no child works on has lost
its lab: asking for it starts it again. Rendering is free and deterministic, so nothing is lost by that.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import threading
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from rushes.adapters.base import Body, Inline, Request, Response
from rushes.emulators import base
from rushes.emulators.base import as_json
from rushes.faults import MEDIA_EXTRA, RushesError
from rushes.units import AssetRef
from rushes.video import fault_of

RENDERER: Final = (sys.executable, "-P", "-m", "rushes.media", "render")
ID: Final = "[a-z0-9_-]{1,80}"
ROUTE: Final = re.compile(rf".*/renders(/(?P<id>{ID})(?P<output>/output)?)?")
DATA_URI: Final = re.compile(r"data:[^,]*;base64,")
KEPT_TAKES = 50

Status = Literal["queued", "rendering", "done", "failed", "cancelled"]
EvenSide = Annotated[int, Meta(ge=64, le=4096, multiple_of=2)]


class Order(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of POST with its pictures as file names: what the renderer reads."""

    id: Annotated[str, Meta(pattern=rf"^{ID}\Z")]
    prompt: str = ""
    negative_prompt: str = ""
    seed: Annotated[int, Meta(ge=0)]
    width: EvenSide
    height: EvenSide
    fps: Annotated[float, Meta(ge=1, le=60)]
    seconds: Annotated[float, Meta(ge=1, le=60)]
    audio: bool = False
    first_frame: str = ""
    style: str = ""
    style_strength: Annotated[float, Meta(ge=0, le=1)] = 1.0

    @property
    def frames(self) -> int:
        """How many there will be."""
        return round(self.seconds * self.fps)


class Trouble(Struct, frozen=True, omit_defaults=True):
    """What is wrong with a request (then its field may be named) or with a render."""

    code: str
    message: str
    field: str = ""


class Render(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A render as the wire shows it."""

    id: str
    status: Status
    frames_done: int
    frames_total: int
    output: str = ""
    error: Trouble | None = None


class Refused(base.Refused):
    """An error in the wire's own shape."""

    def __init__(self, status: int, code: str, message: str, field: str = "") -> None:
        super().__init__(status, {"error": Trouble(code, message, field)})


def nowhere() -> Refused:
    """There is no such address, or not with this method."""
    return Refused(404, "not_found", "There is nothing at this address.")


def unknown(id: str) -> Refused:
    """No render has this id."""
    return Refused(404, "not_found", f"There is no render {id!r}.")


def taken(id: str) -> Refused:
    """Another render has this id."""
    return Refused(409, "conflict", f"The id {id!r} stands for another render.", "id")


def without_output(id: str) -> Refused:
    """The render has no clip: not yet, not any more, or never."""
    return Refused(404, "not_found", f"The render {id!r} has no output.")


def understood(given: Body, content_of: Callable[[AssetRef], bytes]) -> tuple[Order, dict[str, bytes]]:
    """What is ordered, and its pictures by the names that it gives them. Raises Refused naming the field."""
    body: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    pictures: dict[str, bytes] = {}
    for field in ("first_frame", "style"):
        if body.get(field):
            content = _picture(field, body[field], content_of)
            body[field] = hashlib.sha256(content).hexdigest()
            pictures[body[field]] = content
    try:
        order = msgspec.convert(body, Order)
    except msgspec.ValidationError as error:
        fault = fault_of(error, Order)
        raise Refused(422, "invalid_input", fault.detail, fault.field) from error
    if "style_strength" in body and not order.style:
        raise Refused(422, "invalid_input", "A style's strength needs a picture of the style.", "style_strength")
    if not (order.prompt.strip() or pictures):
        raise Refused(422, "invalid_input", "Say what to show: a prompt, a picture, or both.", "prompt")
    return order, pictures


def _picture(field: str, given: object, content_of: Callable[[AssetRef], bytes]) -> bytes:
    """The bytes of a picture: a reference from this process, a data URI from another."""
    try:
        if isinstance(given, Inline):
            return content_of(given.asset)
        if isinstance(given, str) and (head := DATA_URI.match(given)):
            return b64decode(given[head.end() :], validate=True)
    except (RushesError, FileNotFoundError, binascii.Error) as error:
        raise Refused(422, "invalid_input", f"The picture in {field!r} is not there.", field) from error
    raise Refused(422, "invalid_input", f"{field!r} takes a picture as a data URI.", field)


class Lab:
    """The lab over one folder, which it must have for itself."""

    def __init__(
        self,
        folder: Path,
        resolve: Callable[[AssetRef], Path],
        *,
        workers: int | None = None,
        renderer: Sequence[str] = RENDERER,
        modules: Sequence[str] = ("av", "PIL"),
    ) -> None:
        """`resolve` knows where a picture's bytes are; `renderer` is run with a spec's path, and needs `modules`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._resolve = folder, resolve
        self._workers = workers or min(2, os.cpu_count() or 1)
        self._renderer, self._modules = tuple(renderer), tuple(modules)
        self._queue: deque[str] = deque()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._takes = deque(sorted(folder.glob("*/take.mp4"), key=lambda take: take.stat().st_mtime))
        self._lock = threading.Lock()  # callers may come from several threads
        self._closed = False

    def handle(self, request: Request, now: float) -> Response:  # noqa: ARG002 - a lab does not look at the clock
        """Answer one request. Nothing here waits for a child; starting one takes milliseconds."""
        with self._lock:
            try:
                return self._answer(request)
            except Refused as refused:
                return as_json(refused.status, refused.content)
            except OSError as error:
                trouble = Trouble("storage_failed", f"The lab cannot use its folder: {error.strerror}.")
                return as_json(503, {"error": trouble}, {"retry-after": "5"})

    def close(self) -> None:
        """End every child. What they worked on is taken up again when a later lab is asked for it."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            for name in tuple(self._children):
                self._kill(name)

    def _answer(self, request: Request) -> Response:
        if self._closed:
            raise Refused(503, "unavailable", "The lab is closed.")
        self._reap()
        self._start()
        where = ROUTE.fullmatch(urlsplit(request.url).path)
        match request.method, where and where["id"], where and where["output"]:
            case "POST", None, _ if where:
                return self._order(request)
            case "GET", str(id), None:
                return as_json(200, self._view(self._resumed(id), request.url))
            case "GET", str(id), str():
                return self._output(id)
            case "DELETE", str(id), None:
                return as_json(200, self._view(self._stopped(id), request.url))
            case _:
                raise nowhere()

    def _order(self, request: Request) -> Response:
        """Take an order on; the same one again changes nothing."""
        self._check_modules()
        order, pictures = understood(request.body, lambda asset: self._resolve(asset).read_bytes())
        known = self._find(order.id)
        if known and known != order:
            raise taken(order.id)
        if not known:
            folder = self._folder / order.id
            folder.mkdir(exist_ok=True)
            for name, content in {**pictures, "spec.json": msgspec.json.encode(order)}.items():
                _write(folder / name, content)
            _sync(self._folder)
            self._enqueue(order.id)
        return as_json(200 if known else 201, self._view(order, f"{request.url}/{order.id}"))

    def _check_modules(self) -> None:
        if not all(importlib.util.find_spec(name) for name in self._modules):
            raise Refused(422, "extra_missing", MEDIA_EXTRA)

    def _find(self, id: str) -> Order | None:
        try:
            return msgspec.json.decode((self._folder / id / "spec.json").read_bytes(), type=Order)
        except FileNotFoundError:
            return None

    def _known(self, id: str) -> Order:
        if order := self._find(id):
            return order
        raise unknown(id)

    def _resumed(self, id: str) -> Order:
        """A known render; taken up again where it was left by a lab that is gone."""
        order = self._known(id)
        if self._status(id) == "queued" and id not in self._queue:
            self._enqueue(id)
        return order

    def _stopped(self, id: str) -> Order:
        order = self._known(id)
        self._kill(id)
        with contextlib.suppress(ValueError):
            self._queue.remove(id)
        if self._status(id) == "queued":  # not done, not failed: the child may have been faster
            _write(self._folder / id / "cancelled", b"")
            (self._folder / id / "take.part").unlink(missing_ok=True)
        self._start()
        return order

    def _output(self, id: str) -> Response:
        take = self._folder / self._known(id).id / "take.mp4"
        if not take.exists():
            raise without_output(id)
        headers = {"content-type": "video/mp4", "content-length": str(take.stat().st_size)}
        return Response(status=200, headers=headers, path=str(take))

    def _status(self, id: str) -> Status:
        folder = self._folder / id
        results: dict[str, Status] = {"take.mp4": "done", "error.json": "failed", "cancelled": "cancelled"}
        for name, status in results.items():
            if (folder / name).exists():
                return status
        return "rendering" if id in self._children else "queued"

    def _view(self, order: Order, url: str) -> Render:
        folder, status = self._folder / order.id, self._status(order.id)
        total = order.frames
        return Render(
            id=order.id,
            status=status,
            frames_done=total if status == "done" else min(total, int(_read(folder / "progress") or 0)),
            frames_total=total,
            output=f"{url}/output" if status == "done" else "",
            error=msgspec.json.decode(_read(folder / "error.json"), type=Trouble) if status == "failed" else None,
        )

    # ── Children ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _enqueue(self, id: str) -> None:
        self._queue.append(id)
        self._start()

    def _start(self) -> None:
        while self._queue and len(self._children) < self._workers:
            self._children[self._queue[0]] = subprocess.Popen(  # noqa: S603 - our own renderer, and a path of ours
                [*self._renderer, str(self._folder / self._queue[0] / "spec.json")],
                stdin=subprocess.PIPE,  # held open: the child ends when it closes, so it dies with us
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # and no keys
                start_new_session=True,  # an interrupt from the keyboard is ours alone
            )
            self._queue.popleft()

    def _reap(self) -> None:
        """Take leave of the children that have ended; one that left nothing behind has failed."""
        for name in [name for name, child in self._children.items() if child.poll() is not None]:
            code = self._kill(name)
            if self._status(name) == "queued":
                trouble = Trouble("generation_failed", f"The renderer ended with code {code}.")
                _write(self._folder / name / "error.json", msgspec.json.encode(trouble))
            elif (take := self._folder / name / "take.mp4").exists():
                self._takes.append(take)
        while len(self._takes) > KEPT_TAKES:  # whoever asks for one of these again has it rendered again
            self._takes.popleft().unlink(missing_ok=True)

    def _kill(self, id: str) -> int | None:
        child = self._children.pop(id, None)
        if child is None:
            return None
        child.kill()
        child.communicate()
        return child.returncode


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _write(path: Path, content: bytes) -> None:
    """On disk, whole, when this returns."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
