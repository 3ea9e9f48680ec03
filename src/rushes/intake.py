"""The door for files: what a caller hands in becomes ours, by its address, as an upload, or as a take of an own job.

Everything is looked at before a job is stored: a file must be what it was given as. None of it costs money.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.job import phase_word
from rushes.actors.system import Snapshot
from rushes.adapters.base import Failed
from rushes.adapters.capabilities import Media, Model
from rushes.assets import BLOCK_BYTES, Assets
from rushes.faults import BadRequest, NotFound, Unreadable, bad
from rushes.media import MediaTrouble
from rushes.units import AssetRef
from rushes.video import Input, Kind, Made, MediaInput, Probe, Take, UploadView, role_of

MAX_BYTES: Final[dict[Kind, int]] = {"image": 20 * 2**20, "video": 200 * 2**20, "audio": 50 * 2**20}
MAX_UPLOAD_BYTES: Final = max(MAX_BYTES.values())
KNOWN: Final[dict[Kind, str]] = {
    "image": "a PNG, JPEG, WebP or GIF",
    "video": "an MP4, MOV, WebM or MKV",
    "audio": "an MP3, WAV, FLAC, OGG, AAC or M4A",
}
IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})  # what can be looked at here
WRITABLE: Final = ("image/png", "image/jpeg", "image/webp")

File: TypeAlias = str | bytes | Path
"""A file of a program: a path, its bytes, or an https (or data:) address."""


async def _not_looked_at(path: Path, media_type: str) -> Probe:  # noqa: ARG001
    return Probe()


class MediaDoors(Struct, frozen=True, kw_only=True):
    """What files need from outside."""

    fetch: Callable[[str, int], AsyncGenerator[bytes, None]]  # an address and the most bytes; raises Failed
    look_at_image: Callable[[Path], Awaitable[tuple[int, int]]]  # 0, 0: unknown; this and the next two: MediaTrouble
    look_at_clip: Callable[[Path, str], Awaitable[Probe]] = _not_looked_at  # a video or an audio, and its media type
    reencode: Callable[[Path, str], AsyncGenerator[bytes, None]] | None = None  # an image, as what; None: nobody can


class Intake:
    """Keeps what callers hand in."""

    def __init__(self, assets: Assets, doors: MediaDoors, look: Callable[[str], Awaitable[Snapshot]]) -> None:
        """`look` gives a job as it is now, or raises NotFound or Unreadable."""
        self._assets, self._doors, self._look = assets, doors, look

    async def upload(self, chunks: AsyncIterator[bytes], tenant: str, field: str = "file") -> UploadView:
        """Keep a file that requests will name. Raises BadRequest about the field where it is too large."""
        asset = await self._assets.keep_input(chunks, MAX_UPLOAD_BYTES, field, tenant)
        return UploadView(
            id=f"up_{asset.sha256}", media_type=asset.media_type, size_bytes=asset.size_bytes, sha256=asset.sha256
        )

    async def handed(self, kind: Kind, file: File, tenant: str) -> MediaInput:
        """A program's own file as an input. Raises BadRequest where it cannot be read."""
        if isinstance(file, str) and file.startswith(("https://", "http://", "data:")):
            return MediaInput(type=kind, url=file)
        blocks = _once(file) if isinstance(file, bytes) else _blocks(kind, Path(file))
        async with aclosing(blocks):
            return MediaInput(type=kind, upload=(await self.upload(blocks, tenant, kind)).id)

    async def keep(self, number: int, given: MediaInput, tenant: str) -> Input:
        """Input `number` of a request, once it is ours and was looked at. Raises BadRequest naming its field."""
        name = f"inputs[{number}]"
        if given.job is not None:
            return await self._taken(name, given, given.job, tenant)
        if given.url is not None:
            field = f"{name}.url"
            asset = await self._fetched(field, given.url, MAX_BYTES[given.type], tenant)
        else:
            field = f"{name}.upload"
            asset = self._uploaded(field, given.upload or "", tenant)
        probe = await self._looked_at(name, field, given.type, asset)
        width, height = (probe.width, probe.height) if given.type == "image" else (None, None)
        return Input(
            type=given.type,
            role=role_of(given),
            asset=asset,
            duration_seconds=probe.duration_seconds,
            width=width,
            height=height,
        )

    async def fitted(
        self, inputs: Sequence[Input], model: Model, tenant: str
    ) -> tuple[tuple[Input, ...], tuple[str, ...]]:
        """The inputs in types that the model takes, and what was done to which.

        Images are encoded anew, without loss where the model takes a type that can do so. Raises BadRequest where
        nobody here can; what is left of a wrong type is for the check against the model's data to refuse.
        """
        limit = model.media.get("image")
        if limit is None or not (wanted := _written_as(limit)):
            return tuple(inputs), ()
        made: list[Input] = list(inputs)
        told: list[str] = []
        for number, given in enumerate(inputs):
            if given.type == "image" and given.asset.media_type not in limit.types:
                name = f"inputs[{number}]"
                asset = await self._reencoded(name, given.asset, wanted, model.id, limit, tenant)
                seen = await self._looked_at(name, name, "image", asset)  # it stands upright now
                made[number] = replace(given, asset=asset, width=seen.width, height=seen.height)
                told.append(f"inputs[{number}]: sent as {wanted}")
        return tuple(made), tuple(told)

    async def _fetched(self, field: str, url: str, max_bytes: int, tenant: str) -> AssetRef:
        try:
            async with aclosing(self._doors.fetch(url, max_bytes)) as pieces:
                return await self._assets.keep_input(pieces, max_bytes, field, tenant)
        except Failed as failed:
            raise bad(field, f"The file at {field} could not be fetched: {failed.fault.detail}") from failed

    def _uploaded(self, field: str, upload: str, tenant: str) -> AssetRef:
        asset = self._assets.input_ref(upload.removeprefix("up_"), tenant)
        if asset is None:
            raise bad(field, f"There is no upload {upload!r}: send the file to POST /v1/uploads first.")
        return asset

    async def _taken(self, name: str, given: MediaInput, job_id: str, tenant: str) -> Input:
        """A take of an own job: the file is shared, and its provider may know it by the job's own name there."""
        field = f"{name}.job"
        job, take = await self._take(field, job_id, given.take, tenant)
        _check(name, field, given.type, take.asset)
        if not self._assets.path(take.asset).is_file():
            raise bad(field, f"The file of take {take.index} of {job_id} is gone: name another, or hand in the file.")
        seconds = take.probe.duration_seconds
        if seconds is None:  # nobody could look at it then
            seconds = (await self._looked_at(name, field, given.type, take.asset)).duration_seconds
        role, made = role_of(given), None
        if take.kind == "video":  # no other take is known to the provider by the job's name
            made = Made(job=job_id, provider=job.target.provider, handle=job.handle, take=given.take)
        return Input(type=given.type, role=role, asset=take.asset, duration_seconds=seconds, made=made)

    async def _take(self, field: str, job_id: str, index: int, tenant: str) -> tuple[m.Succeeded, Take]:
        try:
            snapshot = await self._look(job_id)
        except (NotFound, Unreadable):
            snapshot = None
        if snapshot is None or snapshot.tenant != tenant:  # whose it is, is not told
            raise bad(field, f"There is no job {job_id}, or it cannot be read.")
        if not isinstance(snapshot.job, m.Succeeded):
            raise bad(field, f"The job {job_id} is {phase_word(snapshot.job)}: name one that has succeeded.")
        for take in snapshot.job.takes:
            if take.index == index:
                return snapshot.job, take
        known = ", ".join(str(take.index) for take in snapshot.job.takes)
        raise bad(field.replace(".job", ".take"), f"The job {job_id} has no take {index}: choose {known}.")

    async def _looked_at(self, name: str, field: str, kind: Kind, asset: AssetRef) -> Probe:
        """What a file says of itself. Raises BadRequest where it is not what it was given as."""
        _check(name, field, kind, asset)
        path = self._assets.path(asset.key)
        try:
            if kind != "image":
                return await self._doors.look_at_clip(path, asset.media_type)
            width, height = await self._doors.look_at_image(path)
        except MediaTrouble as trouble:
            raise bad(field, f"{name} is no {kind} that can be used: {trouble.detail}") from trouble
        return Probe(width=width or None, height=height or None)

    async def _reencoded(
        self, name: str, asset: AssetRef, wanted: str, model_id: str, limit: Media, tenant: str
    ) -> AssetRef:
        takes = f"{model_id} takes {', '.join(limit.types)}"
        if self._doors.reencode is None:
            detail = f"{takes}, and {name} is {asset.media_type}: rushes[media] would re-encode it."
            raise bad(name, detail, "unsupported_feature")
        max_bytes = limit.max_bytes or MAX_UPLOAD_BYTES
        try:
            async with aclosing(self._doors.reencode(self._assets.path(asset.key), wanted)) as pieces:
                return await self._assets.keep_input(pieces, max_bytes, name, tenant)
        except MediaTrouble as trouble:
            raise bad(name, f"{name} is no image that can be used: {trouble.detail}") from trouble
        except BadRequest as error:
            detail = f"{takes}; {name} as {wanted} is larger than its {max_bytes} bytes: send a smaller one."
            raise bad(name, detail) from error


def _check(name: str, field: str, kind: Kind, asset: AssetRef) -> None:
    """Raises BadRequest where a file is of another kind than it was given as, or too large for one."""
    if asset.size_bytes > MAX_BYTES[kind]:
        raise bad(field, f"{name} has {asset.size_bytes} bytes: the limit of an input {kind} is {MAX_BYTES[kind]}.")
    found = asset.media_type
    other = found.partition("/")[0]
    if other == kind and (kind != "image" or found in IMAGES):
        return
    if other == kind:
        raise bad(field, f"{name} is {found}, which cannot be used here: send {KNOWN[kind]}.")
    hint = f"give it the type {other!r}, or send {KNOWN[kind]}" if other in KNOWN else f"send {KNOWN[kind]}"
    raise bad(field, f"{name} is no {kind} but {found}: {hint}.")


def _written_as(limit: Media) -> str:
    """The type that an image is encoded as: PNG, which loses nothing, or the first one listed that can be written."""
    known = [media_type for media_type in limit.types if media_type in WRITABLE]
    return "image/png" if "image/png" in known else next(iter(known), "")


async def _once(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content


async def _blocks(kind: Kind, path: Path) -> AsyncGenerator[bytes, None]:
    try:
        file = await asyncio.to_thread(path.open, "rb")
        with file:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                yield block
    except OSError as error:
        raise bad(kind, f"The {kind} {str(path)!r} cannot be read: {error.strerror}.") from error
