"""What a caller hands in becomes ours: by address, as an upload, as a take; looked at, and never held as a whole."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import msgspec
import pytest
from acme import Acme, AcmeTwin, LoopClock, Wire, no_probe
from msgspec.structs import replace
from PIL import Image

from rushes import intake as room
from rushes import media
from rushes.actors.perform import Performer
from rushes.actors.system import Snapshot, System
from rushes.adapters.base import Adapter, Failed
from rushes.adapters.capabilities import Media, Model
from rushes.assets import Assets
from rushes.eventstore.sqlite import SqliteStore
from rushes.faults import BadRequest, Fault
from rushes.intake import Intake
from rushes.main import _look_at_clip
from rushes.media.__main__ import _look
from rushes.studio import Doors, Studio
from rushes.units import AssetRef, Handle
from rushes.video import Input, Made, MediaInput, Probe, VideoRequest, VideoToVideo, decode
from rushes.views.jobs import ReadonlyView

SOUNDS = {
    "audio/mpeg": ("mp3", "libmp3lame"),
    "audio/wav": ("wav", "pcm_s16le"),
    "audio/flac": ("flac", "flac"),
    "audio/ogg": ("ogg", "libopus"),
    "audio/aac": ("adts", "aac"),
    "audio/mp4": ("ipod", "aac"),
}
FILM = Model(
    id="film",
    operations=("text-to-video", "image-to-video", "video-to-video", "lip-sync"),
    roles={"first_frame": 2, "source": 1, "narration": 1},
    media={"image": Media(types=("image/jpeg", "image/png"))},
    prompt="optional",
)
STILL = replace(FILM, id="still", media={"image": Media(types=("image/jpeg",))})
SMALL = replace(FILM, id="small", media={"image": Media(types=("image/png",), max_bytes=60)})


class Cinema(Acme):
    """Acme, for files."""

    capabilities = replace(Acme.capabilities, models=(FILM, STILL, SMALL))


class Rig:
    """A studio over a real log, with a web of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.twin = folder, AcmeTwin()
        self.pages: dict[str, bytes] = {}
        self.extra = True
        self.assets = Assets(folder / "takes")

    async def fetch(self, url: str, max_bytes: int) -> AsyncGenerator[bytes]:  # noqa: ARG002
        if url not in self.pages:
            raise Failed(Fault("not_found", "There is nothing there."))
        yield self.pages[url]

    @asynccontextmanager
    async def studio(self) -> AsyncIterator[Studio]:
        adapters: dict[str, Adapter] = {"acme": Cinema()}
        clock, store = LoopClock(), await SqliteStore.open(self.folder / "rushes.db")
        performer = Performer(adapters, Wire(self.twin), self.assets, clock, no_probe)
        system = System(store=store, adapters=adapters, performer=performer, clock=clock)
        doors = Doors(
            fetch=self.fetch,
            look_at_image=media.check_image,
            look_at_clip=_look_at_clip if self.extra else no_look,
            reencode=media.reencoded if self.extra else None,
            credentials={},
            default_model="acme",
            unavailable=lambda _: None,
        )
        jobs = ReadonlyView(store)
        await system.start()
        yield Studio(system=system, jobs=jobs, adapters=adapters, assets=self.assets, clock=clock, doors=doors)
        await system.stop(grace_s=2.0)
        await store.close()

    async def refused(self, given: MediaInput, model: str = "acme") -> Fault:
        async with self.studio() as studio:
            with pytest.raises(BadRequest) as refused:
                await studio.submit(VideoRequest(prompt="x", model=model, inputs=(given,)))
        assert self.twin.renders == []
        (fault,) = refused.value.faults
        return fault

    async def taken(self, *given: MediaInput, model: str = "acme") -> tuple[Input, ...]:
        async with self.studio() as studio:
            view, _ = await studio.submit(VideoRequest(prompt="x", model=model, inputs=given))
            await studio.job(view.id).result(timeout_s=5)
        return view.request.inputs

    def files(self) -> list[str]:
        """Names of the inputs that are kept, and of what was left on the way."""
        takes = self.folder / "takes"
        names = [str(file.relative_to(takes)) for file in takes.rglob("*") if file.is_file()]
        return [name for name in names if not name.startswith("customers/")]


async def no_look(path: Path, media_type: str) -> Probe:  # noqa: ARG001
    return Probe()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    (tmp_path / "takes").mkdir()
    return Rig(tmp_path)


def picture(form: str = "PNG", mode: str = "RGB", colour: object = (200, 30, 30)) -> bytes:
    content = io.BytesIO()
    Image.new(mode, (16, 12), colour).save(content, form)  # type: ignore[arg-type]
    return content.getvalue()


@cache
def clip() -> bytes:
    """Half a second of film."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        out.mux(stream.encode(None))
    return content.getvalue()


@cache
def sound(media_type: str) -> bytes:
    """A second and a half of silence."""
    container, codec = SOUNDS[media_type]
    content = io.BytesIO()
    with av.open(content, "w", format=container) as out:
        stream = out.add_stream(codec, rate=48_000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for number in range(75):
            frame = av.AudioFrame(format="s16", layout="mono", samples=960)
            frame.sample_rate, frame.pts = 48_000, number * 960
            frame.planes[0].update(bytes(1920))
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return content.getvalue()


async def test_an_image_is_kept_with_its_size_and_one_that_was_turned_upright_with_its_new_one(rig: Rig) -> None:
    turned = io.BytesIO()
    marks = Image.Exif()
    marks[0x0112] = 6  # it lies on its side
    Image.new("RGB", (16, 12)).save(turned, "WEBP", exif=marks)
    rig.pages = {"https://a.example/i": picture(), "https://a.example/t": turned.getvalue()}
    (plain,) = await rig.taken(MediaInput(url="https://a.example/i"))
    (upright,) = await rig.taken(MediaInput(url="https://a.example/t"))
    assert (plain.width, plain.height) == (16, 12)
    assert (upright.asset.media_type, upright.width, upright.height) == ("image/png", 12, 16)


# ── By address and by upload ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_video_and_an_audio_are_kept_with_their_length(rig: Rig) -> None:
    rig.pages = {"https://a.example/v": clip(), "https://a.example/a": sound("audio/wav")}
    source, narration = await rig.taken(
        MediaInput(type="video", url="https://a.example/v"), MediaInput(type="audio", url="https://a.example/a")
    )
    assert (source.role, source.asset.media_type, source.duration_seconds) == ("source", "video/mp4", 0.5)
    assert (narration.role, narration.asset.media_type, narration.duration_seconds) == ("narration", "audio/wav", 1.5)
    assert rig.assets.path(source.asset.key).read_bytes() == clip()


async def test_without_the_media_extra_the_length_is_unknown(rig: Rig) -> None:
    rig.pages, rig.extra = {"https://a.example/v": clip()}, False
    (source,) = await rig.taken(MediaInput(type="video", url="https://a.example/v"))
    assert source.duration_seconds is None


@pytest.mark.parametrize("media_type", SOUNDS)
async def test_every_kind_of_sound_is_known_and_measured(tmp_path: Path, media_type: str) -> None:
    (tmp_path / "sound").write_bytes(sound(media_type))
    ref = await Assets(tmp_path).keep_input(_flow(sound(media_type)), 10**6)
    assert ref.media_type == media_type
    found = await media.probe_audio(tmp_path / "sound", media_type)
    assert found.duration_seconds == pytest.approx(1.5, abs=0.1)


async def _flow(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.mark.parametrize("content", [b"", b"OggS" + bytes(200), clip()[:60]], ids=["nothing", "ogg", "mp4"])
def test_what_only_begins_like_a_sound_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert (
        _look("audio", tmp_path / "file", "audio/ogg").trouble == "The file is not an audio file that can be decoded."
    )


def test_a_film_that_calls_itself_a_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(clip())
    assert _look("audio", tmp_path / "file", "audio/mp4").trouble == "The file holds no sound, or too many tracks."


@pytest.mark.parametrize(
    ("kind", "content", "sentence"),
    [
        ("video", picture(), "inputs[0] is no video but image/png: give it the type 'image', or send an MP4"),
        ("audio", clip(), "inputs[0] is no audio but video/mp4: give it the type 'video', or send an MP3"),
        ("image", sound("audio/wav"), "inputs[0] is no image but audio/wav: give it the type 'audio', or send a PNG"),
        ("image", b"just words", "inputs[0] is no image but application/octet-stream: send a PNG"),
        ("image", b"\0\0\0\x1cftypavif" + bytes(50), "inputs[0] is image/avif, which cannot be used here"),
        ("video", clip()[:-300], "inputs[0] is no video that can be used: The file is cut short"),
        ("audio", b"fLaC" + bytes(99), "inputs[0] is no audio that can be used: The file is not an audio file"),
        ("image", picture()[:45], "inputs[0] is no image that can be used"),
    ],
    ids=["an image", "a video", "a sound", "words", "avif", "half a video", "no flac", "half an image"],
)
@pytest.mark.parametrize("way", ["url", "upload"])
async def test_a_file_that_is_not_what_it_was_given_as_is_refused_by_name(
    rig: Rig, kind: str, content: bytes, sentence: str, way: str
) -> None:
    if way == "url":
        rig.pages["https://a.example/file"] = content
        name = "https://a.example/file"
    else:
        name = f"up_{(await rig.assets.keep_input(_flow(content), 10**6)).sha256}"
    fault = await rig.refused(msgspec.convert({"type": kind, way: name}, MediaInput))
    assert (fault.field, fault.code) == (f"inputs[0].{way}", "invalid_input")
    assert fault.detail.startswith(sentence)


@pytest.mark.parametrize("way", ["url", "upload"])
async def test_each_kind_of_file_has_a_limit_of_its_own(rig: Rig, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    assert room.MAX_BYTES == {"image": 20 * 2**20, "video": 200 * 2**20, "audio": 50 * 2**20}
    monkeypatch.setitem(room.MAX_BYTES, "video", len(clip()) - 1)
    rig.pages["v"] = clip()
    name = "v" if way == "url" else f"up_{(await rig.assets.keep_input(_flow(clip()), 10**6)).sha256}"
    fault = await rig.refused(msgspec.convert({"type": "video", way: name}, MediaInput))
    assert fault.field == f"inputs[0].{way}"
    assert str(len(clip()) - 1) in fault.detail
    monkeypatch.setitem(room.MAX_BYTES, "video", len(clip()))  # the control
    assert await rig.taken(msgspec.convert({"type": "video", way: name}, MediaInput))


async def test_an_address_that_gives_nothing_and_an_upload_that_never_was_are_named(rig: Rig) -> None:
    fault = await rig.refused(MediaInput(type="audio", url="https://a.example/none"))
    assert (fault.field, fault.detail) == (
        "inputs[0].url",
        "The file at inputs[0].url could not be fetched: There is nothing there.",
    )
    fault = await rig.refused(MediaInput(upload="up_1"))
    assert (fault.field, "POST /v1/uploads" in fault.detail) == ("inputs[0].upload", True)


async def test_a_large_video_never_lies_in_memory(rig: Rig) -> None:
    size_bytes = 48 * 2**20

    async def long(url: str, max_bytes: int) -> AsyncGenerator[bytes]:  # noqa: ARG001
        yield clip()[:1000]
        for _ in range(size_bytes // 2**20):
            yield bytes(2**20)

    async def peak_bytes(reading: object) -> int:
        tracemalloc.start()
        await reading  # type: ignore[misc]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    async def whole() -> bytes:
        return b"".join([piece async for piece in long("", 0)])

    doors = Doors(fetch=long, look_at_image=media.check_image, credentials={}, unavailable=lambda _: None)
    keeping = Intake(rig.assets, doors, _nobody).keep(0, MediaInput(type="video", url="x"), "default")
    assert await peak_bytes(keeping) < 8 * 2**20
    assert await peak_bytes(whole()) > size_bytes  # the negative control


async def _nobody(job_id: str) -> Snapshot:
    raise AssertionError(job_id)


async def test_a_program_hands_in_paths_bytes_and_addresses(rig: Rig) -> None:
    rig.pages["https://a.example/i"] = picture("JPEG")
    (rig.folder / "clip.mp4").write_bytes(clip())
    async with rig.studio() as studio:
        job = await studio.generate(
            "x", image="https://a.example/i", video=rig.folder / "clip.mp4", audio=sound("audio/mpeg")
        )
        inputs = (await job.state()).request.inputs
        assert [(given.type, given.role) for given in inputs] == [
            ("image", "first_frame"),
            ("video", "source"),
            ("audio", "narration"),
        ]
        assert (await job.state()).operation == "video-to-video"
        await job.result(timeout_s=5)
        for kind in ("image", "video", "audio"):
            with pytest.raises(BadRequest, match=f"The {kind} '/nowhere' cannot be read: No such file") as refused:
                await studio.generate("x", **{kind: "/nowhere"})  # type: ignore[arg-type]
            assert refused.value.field == kind


# ── An own job's take ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_take_is_shared_and_says_where_it_was_made_also_in_a_later_process(rig: Rig) -> None:
    rig.extra = False  # acme's clip is none that can be looked at
    async with rig.studio() as studio:
        first = await studio.generate("x")
        await first.result(timeout_s=5)
    (given,) = await rig.taken(MediaInput(type="video", job=first.id))
    assert given.asset.key.startswith("customers/0/assets/video/")
    assert given.made == Made(job=first.id, provider="acme", handle=Handle("r0"), take=0)
    assert rig.files() == []  # nothing was copied


async def test_what_is_no_take_of_an_own_job_is_refused(rig: Rig) -> None:
    rig.extra = False
    async with rig.studio() as studio:
        job = await studio.generate("x")
        await job.result(timeout_s=5)
        rig.twin.done_at_once = False
        running = await studio.generate("x")
        asked = {
            "inputs[0].job": [
                (MediaInput(type="video", job="job_none"), "default", "There is no job job_none, or"),
                (MediaInput(type="video", job=job.id), "another", f"There is no job {job.id}, or"),
                (MediaInput(type="video", job=running.id), "default", "name one that has succeeded"),
                (MediaInput(job=job.id), "default", "inputs[0] is no image but video/mp4: give it the type 'video'"),
            ],
            "inputs[0].take": [(MediaInput(type="video", job=job.id, take=1), "default", "has no take 1: choose 0.")],
        }
        for field, cases in asked.items():
            for given, tenant, sentence in cases:
                with pytest.raises(BadRequest) as refused:
                    await studio.submit(VideoRequest(prompt="x", inputs=(given,)), tenant=tenant)
                assert refused.value.field == field
                assert sentence in refused.value.detail
        Path((await job.result()).videos[0].path).unlink()
        with pytest.raises(BadRequest, match="The file of take 0") as refused:
            await studio.submit(VideoRequest(prompt="x", inputs=(MediaInput(type="video", job=job.id),)))
        assert refused.value.field == "inputs[0].job"
        rig.twin.done_at_once = True
        await running.result(timeout_s=5)
    assert len(rig.twin.renders) == 2


def test_a_take_is_asked_for_in_json() -> None:
    body = b'{"operation":{"type":"video-to-video"},"inputs":[{"type":"video","job":"job_1","take":2}]}'
    asked = VideoRequest(operation=VideoToVideo(), inputs=(MediaInput(type="video", job="job_1", take=2),))
    assert decode(body, VideoRequest) == asked


# ── Encoding anew ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def sent(rig: Rig, content: bytes, model: str) -> tuple[AssetRef, str]:
    """What became of an image, and what the job says of that."""
    async with rig.studio() as studio:
        job = await studio.generate("x", model=model, image=content)
        await job.result(timeout_s=5)
        view = await job.state()
    return view.request.inputs[0].asset, view.metadata.get("emulated", "")


async def test_an_image_of_a_type_that_the_model_does_not_take_is_sent_as_a_png_and_says_so(rig: Rig) -> None:
    content = picture("WEBP", "RGBA", (10, 200, 30, 128))
    asset, emulated = await sent(rig, content, "acme/film")
    assert (asset.media_type, emulated) == ("image/png", "inputs[0]: sent as image/png")
    made = rig.assets.path(asset.key)
    with Image.open(made) as image, Image.open(io.BytesIO(content)) as before:
        assert (image.format, image.size, image.getpixel((3, 3))) == ("PNG", (16, 12), before.getpixel((3, 3)))
    assert (await sent(rig, content, "acme/film"))[0] == asset  # the same again is the same file


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
async def test_an_image_that_the_model_takes_stays_as_it_is(rig: Rig, form: str) -> None:
    content = picture(form)
    asset, emulated = await sent(rig, content, "acme/film")
    assert (rig.assets.path(asset.key).read_bytes(), emulated) == (content, "")


async def test_quality_is_lost_only_where_png_is_not_taken_and_what_is_seen_through_becomes_white(rig: Rig) -> None:
    asset, emulated = await sent(rig, picture("WEBP", "RGBA", (0, 0, 0, 0)), "acme/still")
    assert (asset.media_type, emulated) == ("image/jpeg", "inputs[0]: sent as image/jpeg")
    with Image.open(rig.assets.path(asset.key)) as image:
        assert (image.format, image.getpixel((3, 3))) == ("JPEG", (255, 255, 255))


async def test_an_image_is_turned_as_its_camera_says(rig: Rig) -> None:
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (16, 12)).save(content, "WEBP", exif=exif)
    asset, _ = await sent(rig, content.getvalue(), "acme/film")
    with Image.open(rig.assets.path(asset.key)) as image:
        assert image.size == (12, 16)


async def test_without_the_media_extra_it_is_refused_with_what_would_help(rig: Rig) -> None:
    rig.extra = False
    rig.pages["https://a.example/i"] = picture("WEBP")
    fault = await rig.refused(MediaInput(url="https://a.example/i"))
    assert (fault.field, fault.code) == ("inputs[0]", "unsupported_feature")
    assert fault.detail == (
        "film takes image/jpeg, image/png, and inputs[0] is image/webp: rushes[media] would re-encode it."
    )


async def test_what_would_be_too_large_is_refused_and_not_made_worse(rig: Rig) -> None:
    rig.pages["https://a.example/i"] = picture("WEBP")
    fault = await rig.refused(MediaInput(url="https://a.example/i"), "acme/small")
    assert (fault.field, fault.code) == ("inputs[0]", "invalid_input")
    assert "inputs[0] as image/png is larger than its 60 bytes" in fault.detail


async def test_a_child_that_dies_halfway_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The announced length is what tells a half picture from a whole one."""
    (rig.folder / "i").write_bytes(picture("WEBP"))
    told = media._answer

    def more(line: bytes) -> media.Answer:
        answer = told(line)
        answer.size_bytes += 1
        return answer

    monkeypatch.setattr(media, "_answer", more)
    with pytest.raises(media.Unexamined, match="broke the process"):
        await rig.assets.keep_input(media.reencoded(rig.folder / "i", "image/png"), 10**6)
    assert rig.files() == []
    monkeypatch.undo()  # the control
    kept = await rig.assets.keep_input(media.reencoded(rig.folder / "i", "image/png"), 10**6)
    assert rig.files() == [kept.key]
