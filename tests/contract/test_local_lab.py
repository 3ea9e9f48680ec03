"""The lab with real children: what it renders, what it survives, and that nothing survives it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import av
import msgspec
import pytest
from PIL import Image, ImageStat

from rushes import media
from rushes.adapters.base import (
    Answer,
    Ask,
    Broken,
    Done,
    Failed,
    Inline,
    Keep,
    Kept,
    Part,
    Request,
    Response,
    Stopped,
    Twin,
    Unfinished,
    play,
)
from rushes.adapters.fit import normalise
from rushes.adapters.local import MODEL, Local
from rushes.emulators.base import serve_twin
from rushes.emulators.local import KEPT_TAKES, RENDERER, Lab, Render
from rushes.emulators.local_twin import LocalTwin
from rushes.faults import Fault
from rushes.media.__main__ import _look
from rushes.units import AssetRef, Handle
from rushes.video import Config, Probe, Target, TextToVideo, VideoSpec

TARGET = Target(provider="local", model="local")
ORDER: dict[str, object] = {"prompt": "a lake", "seed": 7, "width": 320, "height": 180, "fps": 12, "seconds": 2}
LONG = {**ORDER, "width": 1280, "height": 720, "fps": 30, "seconds": 60}
IDLE = (sys.executable, "-c", "import sys; sys.stdin.read()")  # works until its lab is gone, and never gets done
PATIENCE_S = 20.0


@contextlib.contextmanager
def a_lab(folder: Path, renderer: tuple[str, ...] = RENDERER, workers: int = 2) -> Iterator[Lab]:
    lab = Lab(folder, lambda asset: Path(asset.key), renderer=renderer, workers=workers)
    with contextlib.closing(lab):
        yield lab


def ask(twin: Twin, method: str, path: str, body: dict[str, object] | None = None) -> tuple[int, Render]:
    """One exchange; anything that is not a render raises."""
    reply = twin.handle(Request(method=method, url=f"local://lab{path}", body=body), 0.0)
    assert reply.status < 300, reply
    return reply.status, msgspec.json.decode(reply.body, type=Render)


def order(lab: Lab, id: str, body: dict[str, object] = ORDER) -> tuple[int, Render]:
    return ask(lab, "POST", "/renders", {**body, "id": id})


def look(lab: Lab, id: str) -> Render:
    return ask(lab, "GET", f"/renders/{id}")[1]


def until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Whether it comes true before patience ends."""
    end = time.monotonic() + patience_s
    while not (true := holds()) and time.monotonic() < end:
        threading.Event().wait(0.02)
    return true


def rendered(lab: Lab, id: str, body: dict[str, object] = ORDER) -> Path:
    """Order a clip and wait for it."""
    order(lab, id, body)
    assert until(lambda: look(lab, id).status not in {"queued", "rendering"})
    assert look(lab, id).status == "done", look(lab, id)
    return Path(lab.handle(Request(method="GET", url=look(lab, id).output), 0.0).path)


def pictures(clip: Path) -> list[Image.Image]:
    with av.open(str(clip)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]  # type: ignore[no-untyped-call] # as stubbed


def digest(clip: Path) -> str:
    return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures(clip))).hexdigest()


def middle(picture: Image.Image) -> tuple[float, ...]:
    """The mean colour of what is not caption."""
    return tuple(ImageStat.Stat(picture.crop((0, 20, 320, 130))).mean)


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip()[:1] not in {"", "Z"}


def child_of(lab: Lab) -> int:
    [child] = lab._children.values()
    return child.pid


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip with sound, for all who only look."""
    with a_lab(tmp_path_factory.mktemp("lab")) as lab:
        return rendered(lab, "clip", {**ORDER, "audio": True, "negative_prompt": "people"})


@pytest.fixture
def flag(tmp_path: Path) -> AssetRef:
    """A picture: red above, blue below."""
    picture = Image.new("RGB", (400, 300), (200, 20, 20))
    picture.paste((20, 20, 200), (0, 150, 400, 300))
    picture.save(tmp_path / "flag.png")
    return AssetRef(str(tmp_path / "flag.png"), "0" * 64, 1, "image/png")


# ── What it renders ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_adapter_and_the_lab_make_a_clip_together(tmp_path: Path) -> None:
    """The whole provider, played without a socket."""
    asked = normalise(
        VideoSpec(prompt="a lake", operation=TextToVideo(), seed=7, resolution="180p", duration_seconds=2.0, fps=12.0),
        MODEL,
    )
    with a_lab(tmp_path) as lab:

        def world(ask: Ask) -> Answer:
            if isinstance(ask, Keep):
                return Kept(AssetRef(lab.handle(Request(method="GET", url=ask.url), 0.0).path, "", 0, ""))
            return lab.handle(msgspec.structs.replace(ask, url=f"local://lab{ask.url}"), 0.0)

        handle = play(Local().submit(asked, TARGET, {}, "job_a-1"), world)
        assert play(Local().find(TARGET, "job_a-1", 0.0), world) == handle == Handle("job_a-1")
        assert isinstance(play(Local().status(handle, TARGET), world), Unfinished)
        assert until(lambda: not isinstance(play(Local().status(handle, TARGET), world), Unfinished))
        done = play(Local().status(handle, TARGET), world)
        assert isinstance(done, Done)
        kept = play(Local().download(done.outputs[0], handle, TARGET), world)
        assert len(pictures(Path(kept.key))) == 24
        assert play(Local().cancel(handle, TARGET), world) == "too_late"


async def test_a_clip_is_what_was_ordered(clip: Path) -> None:
    assert await media.probe(clip) == Probe(width=320, height=180, fps=12.0, duration_seconds=2.0, has_audio=True)


def test_silence_is_silent_and_sound_is_quiet_but_there(clip: Path) -> None:
    with av.open(str(clip)) as container:
        loudest = max(max(memoryview(bytes(frame.planes[0])).cast("f")) for frame in container.decode(audio=0))
    assert 0.02 < loudest < 0.3


def test_the_index_stands_in_front_so_that_a_browser_can_begin(clip: Path) -> None:
    content = clip.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_same_seed_and_prompt_make_the_same_frames(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        one, same = digest(rendered(lab, "one")), digest(rendered(lab, "same"))
        assert one == same
        assert digest(rendered(lab, "seed", {**ORDER, "seed": 8})) != one
        assert digest(rendered(lab, "prompt", {**ORDER, "prompt": "a city"})) != one


def test_what_to_leave_out_is_seen(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        assert digest(rendered(lab, "with", {**ORDER, "negative_prompt": "x"})) != digest(rendered(lab, "without"))


def test_a_clip_begins_with_the_picture_that_was_given(tmp_path: Path, flag: AssetRef) -> None:
    with a_lab(tmp_path / "lab") as lab:
        frames = pictures(rendered(lab, "photo", {**ORDER, "first_frame": Inline(flag)}))
    above, below = (ImageStat.Stat(frames[0].crop(box)).mean for box in ((0, 20, 320, 80), (0, 100, 320, 150)))
    assert above[0] > above[2] + 100
    assert below[2] > below[0] + 100
    assert frames[0].tobytes() != frames[-1].tobytes()


def test_a_style_brings_its_colours_as_far_as_it_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (220, 10, 10)).save(tmp_path / "red.png")
    red = Inline(AssetRef(str(tmp_path / "red.png"), "0" * 64, 1, "image/png"))
    with a_lab(tmp_path / "lab") as lab:
        plain = middle(pictures(rendered(lab, "plain"))[0])
        whole = middle(pictures(rendered(lab, "whole", {**ORDER, "style": red}))[0])
        none = middle(pictures(rendered(lab, "none", {**ORDER, "style": red, "style_strength": 0.0}))[0])
    assert whole[0] > whole[1] + 150
    assert none == plain
    assert plain[0] < 150


# ── What it survives ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_order_again_changes_nothing_and_another_under_its_id_is_refused(tmp_path: Path) -> None:
    with a_lab(tmp_path, IDLE) as lab:
        assert order(lab, "a") == (201, look(lab, "a"))
        child = child_of(lab)
        assert order(lab, "a") == (200, look(lab, "a"))
        assert child_of(lab) == child
        reply = lab.handle(Request(method="POST", url="local://lab/renders", body={**ORDER, "id": "a", "seed": 8}), 0)
        assert reply.status == 409
        assert look(lab, "a").status == "rendering"


def test_only_so_many_children_work_at_once_and_the_first_come_is_first_served(tmp_path: Path) -> None:
    with a_lab(tmp_path, IDLE, workers=1) as lab:
        for name in "abc":
            order(lab, name)
        assert [look(lab, name).status for name in "abc"] == ["rendering", "queued", "queued"]
        ask(lab, "DELETE", "/renders/a")
        assert [look(lab, name).status for name in "abc"] == ["cancelled", "rendering", "queued"]
        ask(lab, "DELETE", "/renders/c")
        assert [look(lab, name).status for name in "abc"] == ["cancelled", "rendering", "cancelled"]


def test_a_cancel_ends_the_child_and_stays_one(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        order(lab, "a", LONG)
        child = child_of(lab)
        assert until(lambda: look(lab, "a").frames_done > 0)
        assert ask(lab, "DELETE", "/renders/a")[1].status == "cancelled"
        assert not alive(child)
        assert order(lab, "a", LONG)[1].status == "cancelled"
    with a_lab(tmp_path) as lab:
        assert look(lab, "a").status == "cancelled"
        assert lab._children == {}
        outcome = play(Local().status(Handle("a"), TARGET), lambda _: lab.handle(at("/renders/a"), 0))
        assert outcome == Stopped(billed="no")


def at(path: str) -> Request:
    return Request(method="GET", url=f"local://lab{path}")


def test_progress_rises_with_the_frames(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        order(lab, "a", LONG)
        seen = [0]
        while seen[-1] < 40:
            assert until(lambda: look(lab, "a").frames_done != seen[-1])
            seen.append(look(lab, "a").frames_done)
        assert seen == sorted(seen)
        assert look(lab, "a").frames_total == 1800


def test_a_render_survives_its_lab(tmp_path: Path) -> None:
    with a_lab(tmp_path, IDLE) as lab:
        order(lab, "a")
        order(lab, "b")
        ask(lab, "DELETE", "/renders/b")
        child = child_of(lab)
    assert not alive(child)
    with a_lab(tmp_path) as lab:
        assert lab._children == {}  # nobody has asked yet
        assert rendered(lab, "a").exists()
        assert look(lab, "b").status == "cancelled"  # the control: what was stopped is not taken up again


def test_the_oldest_takes_make_room_and_are_made_again_when_asked_for(tmp_path: Path) -> None:
    for number in range(KEPT_TAKES + 2):
        folder = tmp_path / f"r{number}"
        folder.mkdir()
        (folder / "spec.json").write_bytes(msgspec.json.encode({**ORDER, "id": folder.name}))
        (folder / "take.mp4").write_bytes(b"x")
        os.utime(folder / "take.mp4", (number, number))
    with a_lab(tmp_path, IDLE) as lab:
        assert look(lab, "r2").status == "done"
        assert len(list(tmp_path.glob("*/take.mp4"))) == KEPT_TAKES
        assert look(lab, "r0").status == "rendering"


def test_a_renderer_that_breaks_is_a_failure_that_costs_nothing(tmp_path: Path) -> None:
    with a_lab(tmp_path, (sys.executable, "-c", "raise SystemExit(7)")) as lab:
        order(lab, "a")
        assert until(lambda: look(lab, "a").status == "failed")
        outcome = play(Local().status(Handle("a"), TARGET), lambda _: lab.handle(at("/renders/a"), 0))
        assert outcome == Broken(Fault("generation_failed", "The renderer ended with code 7."), billed="no")


def test_a_disk_that_fills_up_is_said_in_so_many_words(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        with a_lab(tmp_path) as lab:
            order(lab, "a")
            assert until(lambda: look(lab, "a").status == "failed")
            error = look(lab, "a").error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error is not None
    assert error.code == "storage_failed"
    assert not (tmp_path / "a" / "take.mp4").exists()


def test_a_folder_in_the_way_is_our_trouble_and_certain(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    spec = normalise(VideoSpec(prompt="x", operation=TextToVideo(), seed=1), MODEL)
    with a_lab(tmp_path, IDLE) as lab, pytest.raises(Failed) as failed:
        play(Local().submit(spec, TARGET, {}, "a"), lambda ask: lab.handle(whole(ask), 0))
    assert (failed.value.certain, failed.value.fault.code, failed.value.fault.retryable) == (
        True,
        "storage_failed",
        True,
    )


def whole(ask: Ask) -> Request:
    assert isinstance(ask, Request)
    return msgspec.structs.replace(ask, url=f"local://lab{ask.url}")


def test_without_the_extra_an_order_is_refused_with_the_way_out(tmp_path: Path) -> None:
    spec = normalise(VideoSpec(prompt="x", operation=TextToVideo(), seed=1), MODEL)
    with contextlib.closing(Lab(tmp_path, lambda asset: Path(asset.key), modules=("no_such_module",))) as lab:
        with pytest.raises(Failed, match=r'pip install "rushes\[media\]"') as failed:
            play(Local().submit(spec, TARGET, {}, "a"), lambda ask: lab.handle(whole(ask), 0))
        assert failed.value.certain


WRONG: list[tuple[dict[str, object], str]] = [
    ({"id": "../x"}, "id"),
    ({"id": "a\n"}, "id"),
    ({"id": "x" * 81}, "id"),
    ({"width": 321}, "width"),
    ({"height": 100_000}, "height"),
    ({"seconds": 61}, "seconds"),
    ({"fps": 0}, "fps"),
    ({"seed": "one"}, "seed"),
    ({"seed": -1}, "seed"),
    ({"speed": 2}, "speed"),
    ({"prompt": " "}, "prompt"),
    ({"style_strength": 2}, "style_strength"),
    ({"style_strength": 0.5}, "style_strength"),
    ({"first_frame": 7}, "first_frame"),
    ({"first_frame": "/etc/passwd"}, "first_frame"),
    ({"style": "data:image/png;base64,!!"}, "style"),
]
NO_PICTURE = Inline(AssetRef("no such file", "0" * 64, 1, "image/png"))


@pytest.mark.parametrize(("change", "field"), [*WRONG, ({"style": NO_PICTURE}, "style")])
def test_a_wrong_order_names_the_field_and_leaves_nothing(
    tmp_path: Path, change: dict[str, object], field: str
) -> None:
    with a_lab(tmp_path, IDLE) as lab:
        reply = lab.handle(Request(method="POST", url="local://lab/renders", body={**ORDER, "id": "a", **change}), 0)
    assert reply.status == 422
    assert msgspec.json.decode(reply.body)["error"]["field"] == field
    assert list(tmp_path.iterdir()) == []


NOWHERE = [
    ("GET", "/renders/none"),
    ("DELETE", "/renders/none"),
    ("GET", "/renders"),
    ("GET", "/"),
    ("PUT", "/renders/a"),
    ("GET", "/renders/../a"),
    ("GET", "/renders/none/output"),
    ("POST", "/other"),
]


@pytest.mark.parametrize(("method", "path"), NOWHERE)
def test_what_is_not_there_is_not_found(tmp_path: Path, method: str, path: str) -> None:
    with a_lab(tmp_path, IDLE) as lab:
        assert lab.handle(Request(method=method, url=f"local://lab{path}", body={}), 0).status == 404


def test_a_closed_lab_starts_nothing(tmp_path: Path) -> None:
    with a_lab(tmp_path, IDLE) as lab:
        order(lab, "a")
    assert lab.handle(at("/renders/a"), 0).status == 503
    assert lab._children == {}


# ── Its twin ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_twin_refuses_what_the_lab_refuses_in_the_same_words(tmp_path: Path) -> None:
    posts = [("POST", "/renders", {**ORDER, "id": "b", **change}) for change, _ in WRONG]
    posts += [("POST", "/renders", {**ORDER, "id": "a", "seed": 8}), ("POST", "/renders", {})]
    twin = LocalTwin(clip=b"")
    with a_lab(tmp_path, IDLE) as lab:
        for one in (lab, twin):
            ask(one, "POST", "/renders", {**ORDER, "id": "a"})
        for method, path, body in [*posts, ("GET", "/renders/a/output", None), *((*where, {}) for where in NOWHERE)]:
            request = Request(method=method, url=f"local://lab{path}", body=body)
            reply = lab.handle(request, 0.0)
            assert reply.status >= 400
            assert twin.handle(request, 0.0) == reply, (method, path, body)
    assert twin.charges == ["a"]


def test_the_twin_shows_a_render_as_the_lab_does(tmp_path: Path) -> None:
    """When it is done, when it is ordered again, and when it is stopped before its time or after."""
    twin, again = LocalTwin(clip=b"x"), {**ORDER, "id": "a"}
    with a_lab(tmp_path) as lab:
        rendered(lab, "a")
        assert ask(twin, "POST", "/renders", again)[0] == 201
        for method, path, body in [("GET", "/a", None), ("DELETE", "/a", None), ("POST", "", again)]:
            request = Request(method=method, url=f"local://lab/renders{path}", body=body)
            assert twin.handle(request, 60.0) == lab.handle(request, 60.0), method
        for one in (lab, twin):
            ask(one, "POST", "/renders", {**LONG, "id": "b"})
            stopped = ask(one, "DELETE", "/renders/b")[1]
            assert (stopped.status, stopped.frames_total, stopped.output) == ("cancelled", 1800, "")
    assert twin.charges == ["a", "b"]


# ── Nothing survives it ───────────────────────────────────────────────────────────────────────────────────────────────

PARENT = """
import sys
from pathlib import Path
from rushes.adapters.base import Request
from rushes.emulators.local import Lab
lab = Lab(Path(sys.argv[1]), lambda asset: Path(asset.key))
body = {"id": "a", "prompt": "x", "seed": 1, "width": 1280, "height": 720, "fps": 30, "seconds": 60}
lab.handle(Request(method="POST", url="local://lab/renders", body=body), 0.0)
print(lab._children["a"].pid, flush=True)
sys.stdin.read()
"""
CONTROL = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "rushes.media", "render", sys.argv[1]], stdin=0, start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


@contextlib.contextmanager
def a_process(script: str, argument: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A Python process and the pid it prints."""
    command = [sys.executable, "-c", script, str(argument)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


def test_a_child_dies_with_a_lab_that_is_killed(tmp_path: Path) -> None:
    with a_process(PARENT, tmp_path) as (parent, child):
        assert until((tmp_path / "a" / "progress").exists)
        parent.send_signal(signal.SIGKILL)
        assert until(lambda: not alive(child), 5.0)
    with a_lab(tmp_path, IDLE) as lab:
        assert look(lab, "a").status == "rendering"  # taken up again


def test_negative_control_a_child_whose_pipe_somebody_else_holds_lives_on(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(LONG))
    with a_process(CONTROL, tmp_path / "spec.json") as (parent, child):
        assert until((tmp_path / "progress").exists)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert not until(lambda: not alive(child), 0.3)
        assert parent.stdin is not None
        parent.stdin.close()
        assert until(lambda: not alive(child), 5.0)


# ── Looking at what strangers sent ────────────────────────────────────────────────────────────────────────────────────

HTML = b"<html><body>404</body></html>"
CONCAT = b"ffconcat version 1.0\nfile clip.mp4\n"


def png(width: int, height: int) -> bytes:
    """A picture that says it is this large, and has not one pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [b"", b"x", HTML, CONCAT, bytes(100_000), b"#EXTM3U\nclip.mp4\n", png(8, 8), b"\x00\x00\x00\x18ftypmp42" + HTML],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert _look("probe", tmp_path / "file").trouble


async def test_a_video_that_is_cut_short_is_refused(tmp_path: Path, clip: Path) -> None:
    content = clip.read_bytes()
    (tmp_path / "half").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(media.MediaTrouble, match="cut short"):
        await media.probe(tmp_path / "half")
    (tmp_path / "padded").write_bytes(content + bytes(5))
    assert (await media.probe(tmp_path / "padded")).width == 320


def test_negative_control_a_guessing_probe_would_open_what_a_playlist_names(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "list").write_bytes(CONCAT)
    monkeypatch.chdir(tmp_path)
    with av.open("list") as container:
        assert container.streams.video[0].width == 320
    assert _look("probe", Path("list")).trouble == "The file is neither mp4 nor webm."


def test_damage_anywhere_is_an_answer_and_never_a_crash(tmp_path: Path, clip: Path) -> None:
    content, damaged = clip.read_bytes(), tmp_path / "damaged"
    for place in range(0, content.index(b"mdat"), 97):
        damaged.write_bytes(content[:place] + b"\xff\xff\xff\xff" + content[place + 4 :])
        answer = _look("probe", damaged)
        assert answer.trouble or answer.probe.width is not None


async def test_a_picture_is_decoded_to_its_last_pixel(tmp_path: Path, flag: AssetRef) -> None:
    whole, half = Path(flag.key), tmp_path / "half"
    half.write_bytes(whole.read_bytes()[:-200])
    assert await media.check_image(whole) == (400, 300)
    with pytest.raises(media.MediaTrouble, match="not an image that can be decoded"):
        await media.check_image(half)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"just words", "not an image"),
        (b"", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"P6 1 1 255 abc", "not an image"),
        (png(60_000, 60_000), "60000x60000 pixels: the limit"),
        (png(0, 5), "not an image"),
    ],
)
def test_what_is_no_picture_or_too_large_a_one_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert sentence in _look("image", tmp_path / "file").trouble


async def test_a_look_that_takes_too_long_is_ended(clip: Path) -> None:
    with pytest.raises(media.MediaTrouble, match="took longer"):
        await media.probe(clip, wall_s=0.001)


async def test_a_look_that_nobody_waits_for_is_ended(clip: Path) -> None:
    looking = asyncio.ensure_future(media.probe(clip))
    await asyncio.to_thread(lambda: None)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking


# ── Behind a socket ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_wire_works_over_http(tmp_path: Path, flag: AssetRef) -> None:
    """A picture arrives as a data URI, and the clip leaves as a file."""
    uri = "data:image/png;base64," + b64encode(Path(flag.key).read_bytes()).decode()
    async with contextlib.AsyncExitStack() as stack:
        lab = stack.enter_context(a_lab(tmp_path / "lab"))
        server = await serve_twin(lab)
        stack.push_async_callback(server.close)
        session = await stack.enter_async_context(aiohttp.ClientSession(server.url))
        async with session.post("/renders", json={**ORDER, "id": "a", "first_frame": uri}) as reply:
            assert reply.status == 201
        assert await asyncio.to_thread(until, lambda: look(lab, "a").status == "done")
        async with session.get("/renders/a") as reply:
            output = (await reply.json())["output"]
        assert output == f"{server.url}/renders/a/output"
        async with session.get(output) as reply:
            assert reply.content_type == "video/mp4"
            assert await reply.read() == (tmp_path / "lab" / "a" / "take.mp4").read_bytes()


class Echo:
    """A twin that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def handle(self, request: Request, now: float) -> Response:
        self.asked.append(request)
        return Response(status=207, body=b"hello", headers={"content-type": "text/plain", "x-now": f"{now:g}"})


async def test_a_twin_sees_what_was_sent_and_says_what_it_likes() -> None:
    twin = Echo()
    async with contextlib.AsyncExitStack() as stack:
        server = await serve_twin(twin, now=lambda: 12.0)
        stack.push_async_callback(server.close)
        session = await stack.enter_async_context(aiohttp.ClientSession(server.url))
        form = aiohttp.FormData({"word": "yes"})
        form.add_field("file", b"\xff\x00", filename="a.png", content_type="image/png")
        async with session.put("/v1/a%2Fb?x=1", json={"a": [1]}, headers={"X-Key": "k"}) as reply:
            assert (reply.status, await reply.text(), reply.headers["x-now"]) == (207, "hello", "12")
        await session.post("/form", data=form)
        await session.post("/raw", data=b"\x01\x02")
        await session.get("/none")
        await session.post("/bad", data=b"[1", headers={"content-type": "application/json"})
    put, posted, raw, none, broken = twin.asked
    assert (put.method, put.url, put.query, put.body) == ("PUT", f"{server.url}/v1/a%2Fb", {"x": "1"}, {"a": [1]})
    assert put.headers["x-key"] == "k"
    assert posted.body == [Part("word", "yes"), Part("file", b"\xff\x00", "a.png", "image/png")]
    assert raw.body == [Part("", b"\x01\x02", media_type="application/octet-stream")]
    assert none.body is None
    assert broken.body == [Part("", b"[1", media_type="application/json")]  # it says itself what is wrong with it


def test_the_defaults_of_the_model_fit_the_lab(tmp_path: Path) -> None:
    """Every size and rate that the data offers is one that the lab takes."""
    with a_lab(tmp_path, IDLE) as lab:
        for number, (lines, ratio) in enumerate((x, y) for x in MODEL.resolutions for y in MODEL.aspect_ratios):
            config = Config(resolution=lines, aspect_ratio=ratio, fps=MODEL.frame_rates[number % 6])
            spec = VideoSpec(prompt="x", operation=TextToVideo(), seed=1)
            spec = normalise(msgspec.structs.replace(spec, **msgspec.structs.asdict(config)), MODEL)
            play(Local().submit(spec, TARGET, {}, f"r{number}"), lambda ask: lab.handle(whole(ask), 0))
