"""The files that we keep: takes and inputs, below one folder.

A file is there whole, on disk, under its name, or it is not there: bytes go to a part in the same file system, which
is synced, renamed, and its new folder synced too. Nothing here decides what a name means; `KEY` alone decides that a
name stays in the folder. File work runs in threads, so that the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar
from uuid import UUID, uuid5

from rushes.faults import Code, NotFound, RushesError, bad
from rushes.units import DEFAULT_TENANT, AssetRef
from rushes.video import ending_of

T = TypeVar("T")

KEY: Final = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*")
TAKES: Final = UUID("5b1c7f0e-6f3d-4f0a-9d51-8a3f0f7f2c11")  # the namespace of takes' names
BLOCK_BYTES = 512 * 1024
MAX_TAKE_BYTES = 4 * 2**30
UNKNOWN_TYPE = "application/octet-stream"
HEAD_BYTES = 64
MAGICS: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"ID3": "audio/mpeg",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
}
RIFFS: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
BRANDS: Final = {  # of the files that begin like an mp4; every other one is a video
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"), "image/heic"),
}
FRAMES: Final = {0x02: "audio/mpeg", 0x00: "audio/aac"}  # the layer's bits, behind eleven that are set: III, or ADTS


class StorageTrouble(RushesError):
    """The file could not be kept here (disk full, no permission): make room, then it goes on."""

    code: Code = "storage_failed"


class WrongSize(RushesError):
    """The file is not as long as was announced, or longer than is allowed."""

    code: Code = "bad_answer"


def take_key(customer_id: int, created_at: float, job_id: str, index: int, media_type: str = "video/mp4") -> str:
    """A take's name: from the job and what was announced, so that keeping it again overwrites it with itself."""
    stamp, ending = datetime.fromtimestamp(created_at, UTC).strftime("%Y%m%dT%H%M%S"), ending_of(media_type)
    folder = "video" if ending == "mp4" else "image"
    return f"customers/{customer_id}/assets/{folder}/{stamp}_{uuid5(TAKES, f'{job_id}/{index}')}.{ending}"


def sniff(head: bytes) -> str:
    """The media type that a file's first `HEAD_BYTES` bytes show, whatever somebody says that it is."""
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "video/mp4")
    if head[:4] == b"RIFF":
        return RIFFS.get(head[8:12], UNKNOWN_TYPE)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"webm" in head else "video/x-matroska"
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0:
        return FRAMES.get(head[1] & 0x06, UNKNOWN_TYPE)
    return next((known for magic, known in MAGICS.items() if head.startswith(magic)), UNKNOWN_TYPE)


class Assets:
    """The store over one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, ref: AssetRef | str) -> Path:
        """Where a file is, or would be. Raises NotFound for a name that is none of ours."""
        return self._folder / _checked(ref if isinstance(ref, str) else ref.key)

    def open(self, ref: AssetRef | str) -> BinaryIO:
        """A kept file's bytes, never followed through a link. Raises NotFound."""
        try:
            return os.fdopen(os.open(self.path(ref), os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except OSError as error:
            raise NotFound(f"The file cannot be read: {error.strerror}.") from error

    def size(self, ref: AssetRef | str) -> int:
        """How many bytes are kept. Raises NotFound."""
        with self.open(ref) as file:
            return os.fstat(file.fileno()).st_size

    def sink(self, key: str, max_bytes: int = MAX_TAKE_BYTES) -> KeepAs:
        """Where the bytes of a take go."""
        return KeepAs(self, _checked(key), max_bytes)

    async def keep(
        self,
        chunks: AsyncIterator[bytes],
        name: Callable[[str], str],
        *,
        media_type: str,
        size_bytes: int | None,
        max_bytes: int,
    ) -> AssetRef:
        """Keep a stream under the name that its sha256 gets. Raises WrongSize or StorageTrouble, and keeps nothing."""
        part = _Part(self._folder)
        try:
            async for block in _blocks(chunks):
                if part.size_bytes + len(block) > max_bytes:
                    raise WrongSize(f"The file is larger than the {max_bytes} bytes that are allowed.")
                await _work(part.write, block)
            if size_bytes is not None and size_bytes != part.size_bytes:
                raise WrongSize(f"{size_bytes} bytes were announced, and {part.size_bytes} came.")
            sha256 = part.sha256.hexdigest()
            await _work(part.become, self.path(name(sha256)))
        finally:  # also for who is cancelled twice: a call in a thread that has not begun would be dropped
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, part.discard))
        known = sniff(part.head)
        return AssetRef(name(sha256), sha256, part.size_bytes, media_type if known == UNKNOWN_TYPE else known)

    async def keep_input(
        self, chunks: AsyncIterator[bytes], max_bytes: int, field: str = "inputs", tenant: str = DEFAULT_TENANT
    ) -> AssetRef:
        """Keep what a caller hands in under its own sha256. The same bytes again of a tenant are the same file.

        Raises BadRequest about the field where it is too large.
        """
        name = partial(_input_key, tenant)
        try:
            return await self.keep(chunks, name, media_type=UNKNOWN_TYPE, size_bytes=None, max_bytes=max_bytes)
        except WrongSize as error:
            raise bad(field, error.detail) from error

    def input_ref(self, sha256: str, tenant: str = DEFAULT_TENANT) -> AssetRef | None:
        """A tenant's kept input of that name, None when there is none."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            return None
        try:
            with self.open(key := _input_key(tenant, sha256)) as file:
                size_bytes, media_type = os.fstat(file.fileno()).st_size, sniff(file.read(HEAD_BYTES))
                return AssetRef(key, sha256, size_bytes, media_type)
        except NotFound:
            return None

    def sweep(self) -> int:
        """Remove the parts that a crash left behind, and say how many. For the folder's owner, before it begins."""
        parts = list((self._folder / "parts").glob("*.part"))
        for part in parts:
            part.unlink(missing_ok=True)
        return len(parts)


class KeepAs:
    """Keeps one stream under a name that is already decided."""

    def __init__(self, assets: Assets, key: str, max_bytes: int) -> None:
        self._assets, self._key, self._max_bytes = assets, key, max_bytes

    async def __call__(self, chunks: AsyncIterator[bytes], *, media_type: str, size_bytes: int | None) -> AssetRef:
        """Keep the whole stream durably, or raise and keep nothing. `size_bytes` is what was announced."""
        return await self._assets.keep(
            chunks, lambda _: self._key, media_type=media_type, size_bytes=size_bytes, max_bytes=self._max_bytes
        )


class _Part:
    """A file on its way. Its methods block, so they run in threads.

    The lock is for a caller that is cancelled: it discards while its last write may still be running.
    """

    def __init__(self, folder: Path) -> None:
        self._path: Path | None = folder / "parts" / f"{secrets.token_hex(8)}.part"
        self._lock = threading.Lock()
        self.sha256, self.size_bytes, self.head = hashlib.sha256(), 0, b""
        try:
            _make_folder(self._path.parent)
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _trouble(error) from error
        self._file = os.fdopen(handle, "wb", buffering=0)

    def write(self, block: bytes) -> None:
        with self._lock:
            rest = memoryview(block)
            while rest:
                rest = rest[self._file.write(rest) :]
            self.sha256.update(block)
            self.size_bytes += len(block)
            self.head = self.head or block[:HEAD_BYTES]

    def become(self, final: Path) -> None:
        """Durable first, then visible, then durably visible."""
        with self._lock:
            assert self._path is not None
            _sync(self._file.fileno())
            _make_folder(final.parent)
            self._path.replace(final)
            self._path = None
            _sync_folder(final.parent)

    def discard(self) -> None:
        """Let go of it, and of its bytes unless they became a file."""
        with self._lock:
            self._file.close()
            if self._path is not None:
                self._path.unlink(missing_ok=True)


async def _work(function: Callable[[T], None], value: T) -> None:
    """Run blocking file work in a thread; what the disk says is our trouble, never the sender's."""
    try:
        await asyncio.to_thread(function, value)
    except OSError as error:
        raise _trouble(error) from error


def _trouble(error: OSError) -> StorageTrouble:
    return StorageTrouble(f"The file could not be kept ({error.strerror}): make room, then it goes on.")


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces that are worth a hop to a thread."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if len(held) >= BLOCK_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise NotFound(f"There is no file {key!r}.")
    return key


def _input_key(tenant: str, sha256: str) -> str:
    """Who knows what a file holds, or its sha256, does not thereby have another tenant's: each has a folder."""
    own = "" if tenant == DEFAULT_TENANT else f"tenants/{hashlib.sha256(tenant.encode()).hexdigest()[:32]}/"
    return f"{own}inputs/{sha256[:2]}/{sha256}"


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each one's name on disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    """To the platter: on macOS a plain fsync stops at the drive's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
    else:
        os.fsync(handle)
