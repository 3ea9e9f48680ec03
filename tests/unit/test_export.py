"""A job as one file: what comes back, what is refused, and what never stands in it."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jobs import ASKED, FINISHED
from msgspec.structs import replace

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.adapters.base import Output
from rushes.assets import StorageTrouble
from rushes.eventstore.base import Head, Recorded
from rushes.faults import Conflict, Fault, NotFound, RushesError, Unreadable
from rushes.flight import Answered, Asked, Content, Exchange, Run
from rushes.replay.export import import_file, import_path, read_file, shareable, write_file
from rushes.replay.recording import InputDigest, Recording

SIGNED = "https://files.example/take.mp4?X-Amz-Signature=5167ed0001&expires=1"

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WHOLE = st.integers(0, 2**63 - 1)
TIMES = st.floats(-1e12, 1e12)
JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
STORED = JSONS.map(msgspec.json.encode) | TEXTS.map(str.encode)
CONTENTS = st.builds(
    Content,
    size_bytes=WHOLE,
    sha256=TEXTS,
    media_type=TEXTS,
    text=st.none() | TEXTS,
    whole=st.booleans(),
    key=TEXTS,
)
HEADERS = st.dictionaries(TEXTS, TEXTS, max_size=2)
FAULTS = st.builds(
    Fault, code=st.sampled_from(["no_answer", "not_sent"]), detail=TEXTS, retry_after_s=st.none() | TIMES
)
EVENTS = st.builds(
    Recorded,
    position=WHOLE,
    stream=WHOLE,
    version=WHOLE,
    type=TEXTS,
    v=WHOLE,
    at=TIMES,
    data=STORED,
    meta=st.none() | STORED,
    tenant=WHOLE,
    token=WHOLE,
)
EXCHANGES = st.builds(
    Exchange,
    id=WHOLE,
    job=TEXTS,
    attempt=WHOLE,
    flow=st.sampled_from(["prepare", "submit", "status", "cancel", "find", "download"]),
    provider=TEXTS,
    method=TEXTS,
    url=TEXTS,
    status=WHOLE,
    at=TIMES,
    duration_ms=TIMES,
    count=WHOLE,
    last_at=TIMES,
    asked=st.builds(Asked, headers=HEADERS, body=st.none() | CONTENTS, trace=TEXTS),
    answered=st.builds(
        Answered, headers=HEADERS, body=st.none() | CONTENTS, fault=st.none() | FAULTS, certain=st.booleans()
    ),
)
RECORDINGS = st.builds(
    Recording,
    job_id=TEXTS,
    tenant=TEXTS,
    events=st.lists(EVENTS, max_size=3).map(tuple),
    exchanges=st.lists(EXCHANGES, max_size=2).map(tuple),
    inputs=st.lists(
        st.builds(InputDigest, role=TEXTS, sha256=TEXTS, media_type=TEXTS, size_bytes=WHOLE), max_size=2
    ).map(tuple),
    runs=st.lists(st.builds(Run, began_at=TIMES, seen_at=TIMES, ended=st.booleans()), max_size=2).map(tuple),
    versions=st.dictionaries(TEXTS, TEXTS, max_size=2),
    head=st.none() | st.builds(Head, open=st.booleans(), lane=TEXTS),
)


def recorded(event: m.Event, version: int = 1) -> Recorded:
    new = codec.encode(event, 5.0, m.Wake())
    return Recorded(
        position=version, stream=1, version=version, type=new.type, v=new.v, at=new.at, data=new.data, meta=new.meta,
        tenant=1, token=7,
    )  # fmt: skip


def recording(*events: m.Event, job_id: str = "job_1") -> Recording:
    lines = tuple(recorded(event, version) for version, event in enumerate(events, 1))
    return Recording(job_id=job_id, tenant="default", events=lines, versions={"rushes": "0.1.0"})


ONE = recording(ASKED)


def with_data(data: bytes, meta: bytes | None = None) -> Recording:
    return replace(ONE, events=(replace(ONE.events[0], data=data, meta=meta),))


def written(one: Recording, folder: Path) -> Path:
    path = folder / "one.rushes.json"
    write_file(one, path)
    return path


def told(one: Recording, path: Path) -> Recording:
    """The same as if it had been read from there."""
    return replace(one, source=str(path))


@given(RECORDINGS)
@example(with_data(b'{"a": 1}'))
@example(with_data(b'{"a":1.50,"a":1e3,"b":"\\u00e9"}', b"null"))
@example(with_data(b"", b""))
@example(with_data(b"[" * 10_000))
@example(with_data(b"1e999", b"no JSON"))
def test_what_is_read_is_what_was_written(one: Recording) -> None:
    one = shareable(one)
    with tempfile.TemporaryDirectory() as folder:
        path = written(one, Path(folder))
        assert read_file(path) == told(one, path)


@given(RECORDINGS)
def test_what_may_be_shared_is_the_same_when_it_is_shared_again(one: Recording) -> None:
    assert shareable(shareable(one)) == shareable(one)


def test_without_addresses_nothing_changes() -> None:
    assert shareable(ONE) == ONE


def test_an_address_in_an_event_loses_what_signs_it(tmp_path: Path) -> None:
    one = recording(ASKED, replace(FINISHED, outputs=(Output(SIGNED),)))
    path = written(one, tmp_path)
    assert b"take.mp4?X-Amz-Signature" in one.events[1].data, "or this proves nothing"
    assert "5167ed0001" not in path.read_text()
    finished = codec.decode(read_file(path).events[1])
    assert isinstance(finished, m.GenerationFinished)
    assert finished.outputs[0].url == "https://files.example/take.mp4?redacted"


def test_a_file_is_readable_and_in_one_order(tmp_path: Path) -> None:
    path = written(ONE, tmp_path)
    assert list(msgspec.json.decode(path.read_bytes())) == [
        "rushes_recording", "job_id", "tenant", "versions", "head", "inputs", "events", "exchanges", "runs",
        "sha256",
    ]  # fmt: skip
    assert '"prompt": "a lake"' in path.read_text(), "prompts are in it: the page says so"
    first = path.read_bytes()
    write_file(ONE, path)
    assert path.read_bytes() == first


def test_another_layout_of_a_file_is_the_same_recording(tmp_path: Path) -> None:
    path = written(ONE, tmp_path)
    path.write_bytes(msgspec.json.format(path.read_bytes(), indent=-1))
    assert read_file(path) == told(ONE, path)


def test_a_file_is_for_its_owner_alone_and_replaces_another_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.rushes.json"
    path.write_text("before")
    path.chmod(0o644)
    write_file(ONE, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    taken = tmp_path / "one.rushes.json"
    taken.mkdir()
    with pytest.raises(StorageTrouble, match="give another place"):
        write_file(ONE, taken)
    assert list(tmp_path.rglob("*")) == [taken]
    with pytest.raises(StorageTrouble, match="give another place"):
        write_file(ONE, tmp_path / "nowhere" / "one.rushes.json")


def test_an_event_that_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="Event 1 is not UTF-8"):
        write_file(with_data(b"\xff"), tmp_path / "one.rushes.json")


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def of(content: bytes) -> bytes:
        document = msgspec.json.decode(content)
        change(document)
        return msgspec.json.encode(document)

    return of


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda content: content[:-9], "is not whole: it was cut, or is no JSON. Copy it again"),
    "empty": (lambda _: b"", "is not whole"),
    "no JSON": (lambda _: b"\x00\xff", "is not whole"),
    "a list": (lambda _: b"[1]", "is JSON, and no recording of a job: give a file that `rushes export` wrote"),
    "another's": (lambda _: b'{"version": 1}', "no recording of a job"),
    "no number": (changed(lambda one: one.update(rushes_recording="1")), "no recording of a job"),
    "a newer one": (
        changed(lambda one: one.update(rushes_recording=2)),
        "has format 2, and this release reads format 1",
    ),
    "a word changed": (lambda content: content.replace(b"a lake", b"a pond"), "was changed after it was written"),
    "an event gone": (changed(lambda one: one["events"].pop()), "was changed after it was written"),
    "its digest gone": (changed(lambda one: one.pop("sha256")), "was changed after it was written"),
    "a member more": (changed(lambda one: one.update(more=1)), "was changed after it was written"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_not_as_it_was_written_is_refused(name: str, tmp_path: Path) -> None:
    change, told = REFUSED[name]
    path = written(ONE, tmp_path)
    content = path.read_bytes()
    path.write_bytes(change(content))
    assert path.read_bytes() != content
    with pytest.raises(Unreadable, match=told) as refused:
        read_file(path)
    assert str(path) in refused.value.detail


def test_every_single_byte_of_a_file_counts(tmp_path: Path) -> None:
    path = written(ONE, tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        for byte in (content[place] ^ 1, content[place] ^ 0x20):
            path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            try:
                assert read_file(path) == told(ONE, path), place  # a blank between two words
            except Unreadable:
                continue


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"There is no file .*: give one that `rushes export` wrote"):
        read_file(tmp_path / "one.rushes.json")
    with pytest.raises(Unreadable, match="cannot be read"):
        read_file(tmp_path)


# ── Importing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_import_lies_beside_the_log_and_is_kept_once(tmp_path: Path) -> None:
    path, folder = written(ONE, tmp_path), tmp_path / "studio"
    kept = import_path(folder, ONE.job_id)
    for _ in range(2):
        assert import_file(path, folder) == told(ONE, kept)
    assert read_file(kept) == told(ONE, kept)
    assert [one.relative_to(folder) for one in folder.rglob("*") if one.is_file()] == [
        Path("imports/job_1.rushes.json")
    ]
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_another_recording_of_a_job_replaces_the_first_only_where_that_is_wanted(tmp_path: Path) -> None:
    folder, longer = tmp_path / "studio", recording(ASKED, FINISHED)
    import_file(written(ONE, tmp_path), folder)
    again = written(longer, tmp_path)
    with pytest.raises(Conflict, match=r"Another recording of job_1 .* or import this one with `--replace`"):
        import_file(again, folder)
    assert len(read_file(import_path(folder, "job_1")).events) == 1
    assert len(import_file(again, folder, overwrite=True).events) == 2
    assert len(read_file(import_path(folder, "job_1")).events) == 2


@pytest.mark.parametrize("job_id", ["../job_1", "a/b", "job\n1"])
def test_a_job_whose_name_leads_elsewhere_is_not_imported(job_id: str, tmp_path: Path) -> None:
    path = written(recording(ASKED, job_id=job_id), tmp_path)
    with pytest.raises(NotFound, match="There is no job"):
        import_file(path, tmp_path / "studio")
    assert not (tmp_path / "studio").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "studio").write_text("a file")
    with pytest.raises(RushesError, match="give another place"):
        import_file(written(ONE, tmp_path), tmp_path / "studio")
