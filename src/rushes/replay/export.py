"""A job as one file, to be sent to somebody: `JOB.rushes.json`.

It holds the events, the traffic, the digests of the inputs and what wrote them; so it holds the prompt. Keys are not in
it, for they are in no record, and no address has its query, where signatures stand. Files are not in it either.

    {"rushes_recording": 1, "job_id", "tenant", "versions", "inputs", "events", "exchanges", "runs", "sha256"}

An event's `data` and `meta` are JSON as they were stored, byte for byte but for blanks between the words; where that
would not bring the very bytes back, their text stands in `data_text` and `meta_text`. `sha256` is that of the document
without it and without blanks.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from rushes.adapters.redaction import unsigned
from rushes.assets import StorageTrouble
from rushes.eventstore.base import Head, Recorded
from rushes.faults import Conflict, NotFound, Unreadable
from rushes.flight import Exchange, Run
from rushes.replay.recording import InputDigest, Recording

FORMAT: Final = 1
ENDING: Final = ".rushes.json"
IMPORTS: Final = "imports"  # in a data folder
AGAIN: Final = "export the job again"
NOTHING: Final = Raw(b"")
ALIKE: Final = ("position", "stream", "version", "type", "v", "at", "tenant", "token")  # in the log and in the file


class _Event(Struct, omit_defaults=True, kw_only=True):
    position: int
    stream: int
    version: int
    type: str
    v: int
    at: float
    tenant: int
    token: int
    data: Raw = NOTHING
    data_text: str | None = None
    meta: Raw = NOTHING
    meta_text: str | None = None


class _Document(Struct, kw_only=True):
    rushes_recording: int
    job_id: str
    tenant: str
    versions: Mapping[str, str]
    head: Head | None = None
    inputs: tuple[InputDigest, ...]
    events: tuple[_Event, ...]
    exchanges: tuple[Exchange, ...]
    runs: tuple[Run, ...] = ()


def shareable(recording: Recording) -> Recording:
    """The same as it may leave this machine: addresses in its events have lost their queries, where signatures stand.

    The traffic has lost them when it was recorded. Raises Unreadable where an event is no text.
    """
    return replace(recording, events=tuple(map(_unsigned, recording.events)))


def _unsigned(event: Recorded) -> Recorded:
    try:
        data = unsigned(event.data.decode()).encode()
        meta = None if event.meta is None else unsigned(event.meta.decode()).encode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"Event {event.version} is not UTF-8 text: `rushes verify` says what else is.") from error
    return replace(event, data=data, meta=meta)


# ── Writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_file(recording: Recording, path: Path) -> None:
    """Write a job into one file, for its owner's eyes alone (mode 0600), whole or not at all.

    What is written is `shareable(recording)`.

    Raises:
        StorageTrouble: the file cannot be written.
        Unreadable: an event is no text.
    """
    write_whole(path, _text(shareable(recording)))


def _text(recording: Recording) -> bytes:
    document = _Document(
        rushes_recording=FORMAT,
        job_id=recording.job_id,
        tenant=recording.tenant,
        versions=recording.versions,
        head=recording.head,
        inputs=recording.inputs,
        events=tuple(map(_shown, recording.events)),
        exchanges=recording.exchanges,
        runs=recording.runs,
    )
    members = msgspec.json.decode(msgspec.json.encode(document), type=dict[str, Raw])
    whole = members | {"sha256": Raw(msgspec.json.encode(_digest(members)))}
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def _shown(event: Recorded) -> _Event:
    (data, data_text), (meta, meta_text) = _either(event.data), _either(event.meta)
    rest = {name: getattr(event, name) for name in ALIKE}
    return _Event(**rest, data=data, data_text=data_text, meta=meta, meta_text=meta_text)


def _either(stored: bytes | None) -> tuple[Raw, str | None]:
    """As JSON where it has no blanks that another layout would change; else as a text."""
    if stored is None:
        return NOTHING, None
    try:
        plain = _without_blanks(stored) == stored
    except (msgspec.DecodeError, RecursionError):
        plain = False
    return (Raw(stored), None) if plain else (NOTHING, stored.decode())


def _without_blanks(text: bytes) -> bytes:
    return msgspec.json.format(text, indent=-1)


def _digest(members: Mapping[str, Raw]) -> str:
    return hashlib.sha256(_without_blanks(msgspec.json.encode(members))).hexdigest()


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it, where they are not there. Raises StorageTrouble."""
    try:
        folder.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageTrouble(f"{folder} cannot be made ({error.strerror}): give another place.") from error


def write_whole(path: Path, content: bytes) -> None:
    """A file for its owner alone: all of it under its name, or what was there before. Raises StorageTrouble."""
    try:
        handle, part = tempfile.mkstemp(suffix=".part", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageTrouble(f"{path} cannot be written ({error.strerror}): give another place.") from error


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_file(path: Path) -> Recording:
    """The job in a file; its `source` is that file.

    Raises:
        NotFound: there is no such file.
        Unreadable: it is none of ours, of a newer release, cut, or changed since; the message says which.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}: give one that `rushes export` wrote.") from error
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({error.strerror}): give a file that you may read.") from error
    document = _document(path, content)
    events = tuple(map(_stored, document.events))
    return Recording(
        job_id=document.job_id,
        tenant=document.tenant,
        events=events,
        exchanges=document.exchanges,
        runs=document.runs,
        inputs=document.inputs,
        versions=document.versions,
        source=str(path),
        head=document.head,
    )


def _document(path: Path, content: bytes) -> _Document:
    try:
        members = msgspec.json.decode(content, type=dict[str, Raw])
        number = msgspec.json.decode(members.get("rushes_recording", Raw(b"null")))
    except msgspec.ValidationError as error:
        raise _foreign(path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"{path} is not whole: it was cut, or is no JSON. Copy it again, or {AGAIN}.") from error
    if not isinstance(number, int) or isinstance(number, bool):
        raise _foreign(path)
    if number != FORMAT:
        told = f"{path} has format {number}, and this release reads format {FORMAT}"
        raise Unreadable(f"{told}: use the release that wrote it, or a later one.")
    said = members.pop("sha256", Raw(b'""'))
    if bytes(said) != msgspec.json.encode(_digest(members)):
        raise Unreadable(
            f"{path} was changed after it was written: its sha256 is another one. Copy it again, or {AGAIN}."
        )
    try:
        return msgspec.json.decode(msgspec.json.encode(members), type=_Document)
    except msgspec.ValidationError as error:
        raise Unreadable(f"{path} is not as this release writes it ({error}): {AGAIN}.") from error


def _foreign(path: Path) -> Unreadable:
    return Unreadable(f"{path} is JSON, and no recording of a job: give a file that `rushes export` wrote.")


def _stored(event: _Event) -> Recorded:
    rest = {name: getattr(event, name) for name in ALIKE}
    data, meta = _bytes(event.data, event.data_text), _bytes(event.meta, event.meta_text)
    return Recorded(**rest, data=data or b"", meta=meta)


def _bytes(shown: Raw, text: str | None) -> bytes | None:
    if text is not None:
        return text.encode()
    return _without_blanks(bytes(shown)) if bytes(shown) else None


# ── Importing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def import_path(folder: Path, job_id: str) -> Path:
    """Where a data folder keeps an imported job. Raises NotFound for a name that leads elsewhere."""
    if Path(job_id).name != job_id or not job_id.isprintable():
        raise NotFound(f"There is no job {job_id[:80]!r}.")
    return folder / IMPORTS / f"{job_id}{ENDING}"


def import_file(path: Path, folder: Path, *, overwrite: bool = False) -> Recording:
    """Keep a file's job in a data folder, beside its log and never in it: nothing of it ever runs.

    Args:
        path: of the file.
        folder: of the data.
        overwrite: in the place of another recording of the same job.

    Raises:
        NotFound: there is no such file, or no file can be named after its job.
        Unreadable: it is no recording, or was changed; or the one that is there is.
        Conflict: another recording of the same job is there. The same one is kept once.
        StorageTrouble: it cannot be written.
    """
    recording = read_file(path)
    kept = import_path(folder, recording.job_id)
    if kept.exists() and not overwrite:
        if replace(read_file(kept), source="") != replace(recording, source=""):
            told = f"Another recording of {recording.job_id} is in {folder}"
            raise Conflict(f"{told}: remove {kept}, or import this one with `--replace`.", job_id=recording.job_id)
    else:
        make_folder(kept.parent, mode=0o700)
        write_file(recording, kept)
    return replace(recording, source=str(kept))
