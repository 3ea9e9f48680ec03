"""What is kept is whole, durable and inside the folder; what is not whole leaves nothing."""

import asyncio
import contextlib
import hashlib
import os
import resource
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rushes.assets import Assets, StorageTrouble, WrongSize, sniff, take_key
from rushes.faults import BadRequest, NotFound

KEY = take_key(0, 1_700_000_000.0, "job_a", 0)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


async def flow(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """The disk is as good as full: no file may grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_stream_becomes_one_file_with_its_digest(tmp_path: Path) -> None:
    assets, content = Assets(tmp_path), os.urandom(1_500_000)
    pieces = (content[at : at + 70_000] for at in range(0, len(content), 70_000))
    ref = await assets.sink(KEY)(flow(*pieces), media_type="video/mp4", size_bytes=len(content))
    assert (ref.key, ref.size_bytes, ref.media_type) == (KEY, 1_500_000, "video/mp4")
    assert ref.sha256 == hashlib.sha256(content).hexdigest()
    assert assets.path(ref).read_bytes() == content
    assert assets.size(ref) == len(content)
    assert files(tmp_path) == [KEY]


async def test_keeping_a_take_again_overwrites_it_with_itself(tmp_path: Path) -> None:
    assets = Assets(tmp_path)
    first = await assets.sink(KEY)(flow(b"one"), media_type="video/mp4", size_bytes=None)
    assert await assets.sink(KEY)(flow(b"one"), media_type="video/mp4", size_bytes=3) == first
    assert files(tmp_path) == [KEY]


@pytest.mark.parametrize("announced", [4, 9])
async def test_a_body_of_another_length_than_announced_leaves_nothing(tmp_path: Path, announced: int) -> None:
    with pytest.raises(WrongSize, match=f"{announced} bytes were announced, and 6 came"):
        await Assets(tmp_path).sink(KEY)(flow(b"abc", b"def"), media_type="video/mp4", size_bytes=announced)
    assert files(tmp_path) == []


async def test_negative_control_without_an_announcement_a_short_body_would_be_kept(tmp_path: Path) -> None:
    await Assets(tmp_path).sink(KEY)(flow(b"abc"), media_type="video/mp4", size_bytes=None)
    assert files(tmp_path) == [KEY]


async def test_an_endless_body_is_cut_off_at_its_cap(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    with pytest.raises(WrongSize, match="larger than the 2000000 bytes"):
        await Assets(tmp_path).sink(KEY, max_bytes=2_000_000)(endless(), media_type="video/mp4", size_bytes=None)
    assert files(tmp_path) == []


async def test_a_stream_that_breaks_leaves_nothing_and_its_error_is_the_senders(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(600_000)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Assets(tmp_path).sink(KEY)(broken(), media_type="video/mp4", size_bytes=None)
    assert files(tmp_path) == []


async def test_a_cancelled_keep_leaves_nothing(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(600_000)
        begun.set()
        await asyncio.Event().wait()

    keeping = asyncio.ensure_future(Assets(tmp_path).sink(KEY)(slow(), media_type="video/mp4", size_bytes=None))
    await begun.wait()
    assert len(files(tmp_path)) == 1  # the part
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert files(tmp_path) == []


async def test_a_full_disk_is_our_trouble_and_leaves_nothing(tmp_path: Path) -> None:
    with largest_file(100_000), pytest.raises(StorageTrouble, match="make room") as trouble:
        await Assets(tmp_path).sink(KEY)(flow(bytes(700_000)), media_type="video/mp4", size_bytes=None)
    assert trouble.value.code == "storage_failed"
    assert files(tmp_path) == []
    ref = await Assets(tmp_path).sink(KEY)(flow(bytes(700_000)), media_type="video/mp4", size_bytes=None)
    assert ref.size_bytes == 700_000  # room was made


async def test_a_folder_that_cannot_be_made_is_our_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(StorageTrouble):
        await Assets(tmp_path / "file").sink(KEY)(flow(b"x"), media_type="video/mp4", size_bytes=None)


@pytest.mark.parametrize(
    "key", ["../x", "a/../x", "/etc/passwd", "a//b", "", ".", "a/", ".hidden", "a/.b", "a\0b", "a\nb", "a\\b", "a\n"]
)
def test_a_name_never_leaves_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(NotFound):
        Assets(tmp_path).path(key)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(NotFound):
        Assets(tmp_path / "kept").open("link")


async def test_the_same_input_twice_is_one_file(tmp_path: Path) -> None:
    assets = Assets(tmp_path)
    ref = await assets.keep_input(flow(PNG[:50], PNG[50:]), 1000)
    assert ref == await assets.keep_input(flow(PNG), 1000) == assets.input_ref(ref.sha256)
    assert (ref.key, ref.media_type) == (f"inputs/{ref.sha256[:2]}/{ref.sha256}", "image/png")
    assert files(tmp_path) == [ref.key]
    with assets.open(ref) as file:
        assert file.read() == PNG


async def test_an_input_over_the_limit_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="larger than the 10 bytes"):
        await Assets(tmp_path).keep_input(flow(PNG), 10)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["0" * 64, "../../x", "", "F" * 64])
def test_an_input_that_was_never_kept_is_none(tmp_path: Path, name: str) -> None:
    assert Assets(tmp_path).input_ref(name) is None


def test_takes_are_named_by_job_and_index_alone() -> None:
    name = take_key(7, 1_700_000_000.9, "job_a", 0)
    assert name.startswith("customers/7/assets/video/20231114T221320_")
    assert name.endswith(".mp4")
    assert name == take_key(7, 1_700_000_000.9, "job_a", 0)
    assert len({name, take_key(7, 1_700_000_000.9, "job_a", 1), take_key(7, 1_700_000_000.9, "job_b", 0)}) == 3


@pytest.mark.parametrize(
    ("media_type", "folder", "ending"),
    [
        ("video/webm", "video", "mp4"),  # as it always was
        ("image/webp", "image", "webp"),
        ("image/jpeg", "image", "jpg"),
        ("image/../x", "video", "mp4"),
    ],
)
def test_pictures_have_a_folder_and_an_ending_of_their_own(media_type: str, folder: str, ending: str) -> None:
    name = take_key(7, 1_700_000_000.9, "job_a", 1, media_type)
    assert name.startswith(f"customers/7/assets/{folder}/20231114T221320_")
    assert name.endswith(f".{ending}")


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (PNG[:12], "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x01\x02\x03\x04WEBP", "image/webp"),
        (b"GIF89a", "image/gif"),
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        (b"<html>", "application/octet-stream"),
        (b"\x00\x00\x00\x20ftypqt  ", "video/quicktime"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        (b"\x00\x00\x00\x20ftypavif", "image/avif"),
        (b"\x00\x00\x00\x20ftypheic", "image/heic"),
        (b"\x1a\x45\xdf\xa3" + bytes(20) + b"\x42\x82\x84webm", "video/webm"),
        (b"\x1a\x45\xdf\xa3" + bytes(20) + b"\x42\x82\x88matroska", "video/x-matroska"),
        (b"RIFF\x01\x02\x03\x04WAVE", "audio/wav"),
        (b"RIFF\x01\x02\x03\x04AVI ", "application/octet-stream"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"\xff\xf1\x50", "audio/aac"),
        (b"\xff\xfe<\x00", "application/octet-stream"),  # words in UTF-16
        (b"\xff", "application/octet-stream"),
        (b"fLaC", "audio/flac"),
        (b"OggS", "audio/ogg"),
        (b"", "application/octet-stream"),
    ],
)
def test_the_first_bytes_say_what_a_file_is(head: bytes, media_type: str) -> None:
    assert sniff(head) == media_type


async def test_bytes_overrule_what_was_declared(tmp_path: Path) -> None:
    ref = await Assets(tmp_path).sink(KEY)(flow(PNG), media_type="video/mp4", size_bytes=None)
    assert ref.media_type == "image/png"


async def test_sweep_removes_what_a_crash_left(tmp_path: Path) -> None:
    assets = Assets(tmp_path)
    await assets.keep_input(flow(PNG), 1000)
    (tmp_path / "parts" / "0123.part").write_bytes(b"half")
    assert assets.sweep() == 1
    assert len(files(tmp_path)) == 1


async def test_who_is_cancelled_twice_leaves_no_part(tmp_path: Path) -> None:
    """A stop cancels once, and its hard end again, while the threads have other work."""
    free, begun = threading.Event(), asyncio.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 100
        begun.set()
        await asyncio.Event().wait()

    assets = Assets(tmp_path)
    keeping = asyncio.create_task(assets.sink(KEY)(chunks(), media_type="video/mp4", size_bytes=None))
    await begun.wait()
    busy = asyncio.get_running_loop().run_in_executor(None, free.wait)
    keeping.cancel()
    await asyncio.sleep(0)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert len([*tmp_path.rglob("*.part")]) == 1
    free.set()
    await busy
    await asyncio.get_running_loop().shutdown_default_executor()
    assert [*tmp_path.rglob("*.part")] == []
