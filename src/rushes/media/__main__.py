"""The child: `python -m rushes.media render SPEC | probe FILE | audio FILE TYPE | image FILE | reencode FILE TYPE`.

It limits itself before it touches a byte, and ends when the pipe on its standard input does: with its parent, however
that died. (Linux's parent-death signal is not used: it is sent when the *thread* that started the child ends.)

Rendering is deterministic. One trap stands behind `mbtree=0`: with macroblock trees on, the assembler in libx264 gives
other frames for the same input every few runs.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# PyAV's stubs name numpy, which is not needed here.

from __future__ import annotations

import errno
import io
import math
import os
import resource
import sys
import threading
from array import array
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Final

import av
import msgspec
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.stream import Disposition
from PIL import Image

from rushes.media import Answer, MediaTrouble
from rushes.media.scene import Scene, Shot, turned, upright
from rushes.video import Probe

LOOK_CPU_S, LOOK_MEMORY_BYTES = 10, 2 * 2**30
RENDER_CPU_S, RENDER_MEMORY_BYTES = 3600, 4 * 2**30
MAX_PIXELS = 8192 * 8192
MAX_TRACKS = 8
MAX_FPS = 1000
SOUND_HZ = 48_000
NOTES_HZ: Final = (220, 247, 294, 330, 392, 440)
FORMATS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "image/png": ("PNG", {}),
    "image/jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "image/webp": ("WEBP", {"lossless": True, "exact": True}),
}
DEMUXERS: Final = {
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/aac": "aac",
    "audio/mp4": "mp4",
}
DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main(verb: str, file: str, media_type: str = "") -> None:
    """Do one thing and end. What comes of it is printed, or for `render` written beside the spec."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if verb == "render":
        _limit(RENDER_CPU_S, RENDER_MEMORY_BYTES)
        _render(Path(file))
    else:
        _limit(LOOK_CPU_S, LOOK_MEMORY_BYTES)
        _lower(resource.RLIMIT_FSIZE, 0)
        content = io.BytesIO()
        answer = _look(verb, Path(file), media_type, content)
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.write(content.getbuffer())


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def _limit(cpu_s: int, memory_bytes: int) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, cpu_s)
    if sys.platform == "linux":  # macOS refuses to limit address space
        _lower(resource.RLIMIT_AS, memory_bytes)


def _lower(kind: int, value: int) -> None:
    """Lower one limit for good; a stricter one that was inherited stays."""
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


# ── Looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _look(verb: str, path: Path, media_type: str = "", into: BinaryIO | None = None) -> Answer:
    """The answer's line; what follows it is written into the last argument."""
    try:
        match verb:
            case "probe":
                return Answer(probe=_probe(path))
            case "audio":
                return Answer(probe=_sounds(path, media_type))
            case "reencode":
                assert into is not None
                return Answer(size_bytes=_reencode(path, media_type, into))
            case _:
                return Answer(size=upright(path).size)
    except MediaTrouble as trouble:
        return Answer(trouble=trouble.detail)
    except Exception:  # noqa: BLE001 - damaged files raise a dozen kinds, AttributeError and MemoryError among them
        kind = {"probe": "a video", "audio": "an audio file"}.get(verb, "an image")
        return Answer(trouble=f"The file is not {kind} that can be decoded.")


def _reencode(path: Path, media_type: str, into: BinaryIO) -> int:
    """Write a picture as another type, its colours and what shines through it kept as far as the type can."""
    image = turned(path)
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    form, more = FORMATS[media_type]
    if image.has_transparency_data and form == "JPEG":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGBA" if image.has_transparency_data and form != "JPEG" else "RGB")
    image.save(into, form, icc_profile=profile, **more)
    return into.tell()


def _sounds(path: Path, media_type: str) -> Probe:
    """How long the packets of the sound last together: what a file's head says of it may be a guess."""
    with path.open("rb") as file, av.open(file, format=DEMUXERS[media_type]) as container:
        assert isinstance(container, InputContainer)
        if not container.streams.audio or len(container.streams) > MAX_TRACKS:
            raise MediaTrouble("The file holds no sound, or too many tracks.")
        if any(not video.disposition & Disposition.attached_pic for video in container.streams.video):
            raise MediaTrouble("The file is a video.")
        sound = container.streams.audio[0]
        ticks = sum(packet.duration or 0 for packet in container.demux(sound))
        return Probe(duration_seconds=round(float(ticks * (sound.time_base or 0)), 3) or None, has_audio=True)


def _probe(path: Path) -> Probe:
    with path.open("rb") as file:
        demuxer = _demuxer(file)
        file.seek(0)
        with av.open(file, format=demuxer) as container:  # pinned: guessing opens playlists, which open other files
            assert isinstance(container, InputContainer)
            streams = container.streams
            if not streams.video or len(streams) > MAX_TRACKS:
                raise MediaTrouble("The file holds no video, or too many tracks.")
            return _facts(streams.video[0], container.duration, has_audio=bool(streams.audio))


def _demuxer(file: BinaryIO) -> str:
    head = file.read(12)
    if head[4:8] == b"ftyp":
        _check_boxes(file)
        return "mp4"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "webm"
    raise MediaTrouble("The file is neither mp4 nor webm.")


def _check_boxes(file: BinaryIO) -> None:
    """An mp4's index and pictures must end inside the file: the index alone would not show that it was cut short."""
    at, end = 0, file.seek(0, os.SEEK_END)
    while at < end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4])
        if size == 1:  # it stands in 64 bits behind the name
            size = int.from_bytes(head[8:])
        if size < 8:  # the last box, or padding
            return
        at += size
        if at > end and head[4:8] in {b"moov", b"mdat", b"moof"}:
            raise MediaTrouble("The file is cut short: a part of it reaches past its end.")


def _facts(video: av.VideoStream, container_us: int | None, *, has_audio: bool) -> Probe:
    fps = float(video.average_rate or 0)
    if not 0 < video.width * video.height <= MAX_PIXELS or fps > MAX_FPS:
        raise MediaTrouble(f"The video says that it is {video.width}x{video.height} at {fps:g} fps: it is refused.")
    if video.duration is not None and video.time_base is not None:
        duration_s: float | None = float(video.duration * video.time_base)
    else:
        duration_s = None if container_us is None else container_us / 1_000_000
    return Probe(
        width=video.width,
        height=video.height,
        fps=round(fps, 3) or None,
        duration_seconds=None if duration_s is None else round(duration_s, 3),
        has_audio=has_audio,
    )


# ── Rendering ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _render(spec: Path) -> None:
    """Leave `take.mp4` beside the spec, whole and on disk; or `error.json`."""
    folder = spec.resolve().parent
    try:
        os.chdir(folder)  # pictures are named relative to it
        shot = msgspec.json.decode((folder / spec.name).read_bytes(), type=Shot)
        part = folder / "take.part"
        _encode(shot, part, folder / "progress")
        _make_durable(part, folder / "take.mp4")
    except Exception as error:  # noqa: BLE001 - whatever it is, the lab must be able to say so
        full = getattr(error, "errno", None) in DISK_FULL
        detail = "The disk is full: the clip could not be written." if full else f"The renderer failed: {error!r}"
        trouble = {"code": "storage_failed" if full else "generation_failed", "message": detail[:500]}
        _replace(folder / "error.json", msgspec.json.encode(trouble))


def _encode(shot: Shot, part: Path, progress: Path) -> None:
    scene, every = Scene(shot), max(1, round(shot.fps / 2))
    settings = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(part), "w", format="mp4", options=settings) as out:
        video = _video(out, shot)
        audio = out.add_stream("aac", rate=SOUND_HZ, layout="stereo") if shot.audio else None
        second = _second_of_sound(shot.seed)
        for number in range(shot.frames):
            out.mux(video.encode(_picture(scene.frame(number))))
            if audio:
                out.mux(audio.encode(_sound(second, number, shot.fps)))
            if number % every == 0:
                _replace(progress, str(number).encode())
        for stream in (video, audio) if audio else (video,):
            out.mux(stream.encode(None))


def _video(out: OutputContainer, shot: Shot) -> av.VideoStream:
    options = {"preset": "veryfast", "crf": "26", "x264-params": "mbtree=0"}
    video = out.add_stream("libx264", rate=Fraction(shot.fps).limit_denominator(1000), options=options)
    video.width, video.height, video.pix_fmt = shot.width, shot.height, "yuv420p"
    video.codec_context.thread_count = 1
    video.codec_context.flags |= Flags.bitexact
    return video


def _picture(image: Image.Image) -> av.VideoFrame:
    frame: av.VideoFrame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call] # the stub has no types here
    return frame


def _second_of_sound(seed: int) -> array[float]:
    """One second of a quiet, swelling note, twice over: it begins where it ends, so any place can follow any other."""
    note = math.tau * NOTES_HZ[seed % len(NOTES_HZ)] / SOUND_HZ
    swell = math.tau / SOUND_HZ
    return array("f", [0.04 * math.sin(note * n) * (1.5 + math.sin(swell * n)) for n in range(SOUND_HZ)]) * 2


def _sound(second: array[float], number: int, fps: float) -> av.AudioFrame:
    """What is heard while frame `number` is seen."""
    begin, end = (round(place * SOUND_HZ / fps) for place in (number, number + 1))
    sound = av.AudioFrame(format="fltp", layout="stereo", samples=end - begin)
    sound.sample_rate, sound.pts, sound.time_base = SOUND_HZ, begin, Fraction(1, SOUND_HZ)
    at = begin % SOUND_HZ
    for plane in sound.planes:
        plane.update(second[at : at + end - begin].tobytes())
    return sound


def _replace(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one, never a half."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def _make_durable(part: Path, final: Path) -> None:
    for path in (part, part.parent):
        if path is not part:
            part.replace(final)
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


if __name__ == "__main__":
    main(*sys.argv[1:])
