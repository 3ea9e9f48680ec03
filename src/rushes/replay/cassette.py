"""A job's traffic as a cassette of vcrpy, with a test beside it that plays the job again: no network, no key, no cost.

Three files belong together: JOB.yaml is the tape, test_JOB.py the test, and JOB.rushes.json has the events that the
test expects. The tape has the form of this project's own cassettes, and may lie among them.

What a tape does not have, each said in its head:

- Requests without an answer. The test fails them from the record, as they failed then.
- Files that were sent. A word with the digest stands for each, on the tape and where it is played.
- Takes that are large, or not at hand. The emulators' clip stands for a video: size, sha256 and measures of such a take
  are not compared.
- Most of many equal answers in a row.
- Addresses of a twin, an emulator or a proxy: the provider's own stand in their place, in all three files.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from rushes.adapters.base import Adapter, Inline, Part, Response, retry_after_s
from rushes.adapters.bodies import encode
from rushes.adapters.installed import installed_adapters
from rushes.adapters.redaction import REDACTED
from rushes.assets import Assets
from rushes.emulators.base import shipped_clip
from rushes.faults import CASSETTES_EXTRA, ExtraMissing, NotFound, Unavailable
from rushes.flight import Content, Exchange
from rushes.replay.export import ENDING, make_folder, shareable, write_file, write_whole
from rushes.replay.informed import base_of, first_request, informed
from rushes.replay.recording import Recording
from rushes.replay.timeline import meta_of
from rushes.replay.verify import Cannot, Line, read
from rushes.units import AssetRef

MAX_EQUAL: Final = 50  # of equal answers in a row, so many are on a tape
MAX_TAKE_BYTES: Final = 50_000
REQUEST_HEADERS: Final = frozenset({"content-type"})
RESPONSE_HEADERS: Final = frozenset(
    {"content-type", "location", "retry-after", "ratelimit-remaining", "ratelimit-reset"}
)
MATCHED: Final = ("method", "scheme", "host", "port", "path", "query", "said")  # vcrpy's own list has no body
CLIP: Final = b64encode(shipped_clip()).decode()
CLIP_WORD: Final = "(the emulators' clip in base64)"
PROVENANCE: Final = "provenance"
AT_THE_BASE: Final = ("submit", "status", "cancel")  # flows that ask the provider itself, not a service or a store
CANNOT: Final = "`rushes export` without `--cassette` keeps the job all the same."


# ── The form of a tape ────────────────────────────────────────────────────────────────────────────────────────────────


class Readable:
    """YAML with JSON bodies laid open, so that a change of the wire is a readable change of the file."""

    @staticmethod
    def serialize(tape: dict[str, Any]) -> str:
        """The tape as text. Its first line says where it is from; a program's own recording is a twin's."""
        for interaction in tape["interactions"]:
            interaction["request"]["body"] = _opened(interaction["request"]["body"])
            interaction["response"]["body"] = _opened(interaction["response"]["body"].get("string", ""))
        whole = {PROVENANCE: "twin", **tape}
        text: str = _vcrpy("yaml").safe_dump(whole, sort_keys=False, allow_unicode=True, width=1000)
        return text

    @staticmethod
    def deserialize(text: str) -> dict[str, Any]:
        """The text as the tape that vcrpy knows."""
        tape: dict[str, Any] = _vcrpy("yaml").safe_load(text)
        for interaction in tape["interactions"]:
            interaction["request"]["body"] = _closed(interaction["request"]["body"])
            interaction["response"]["body"] = {"string": _closed(interaction["response"]["body"]) or ""}
        return tape


def tape(mode: str = "none", **more: Any) -> Any:
    """A vcr.VCR for tapes of this form; `none` answers from the tape alone. Raises ExtraMissing without vcrpy."""
    recorder = _vcrpy("vcr").VCR(record_mode=mode, match_on=list(MATCHED), serializer="readable", **more)
    recorder.register_matcher("said", _same_body)
    recorder.register_serializer("readable", Readable)
    return recorder


def _vcrpy(module: str) -> Any:
    """vcrpy, or the YAML that it brings: only who makes or plays tapes needs them."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ExtraMissing(CASSETTES_EXTRA) from error


def _same_body(one: Any, other: Any) -> None:
    assert _meaning(one.body) == _meaning(other.body)


def _meaning(body: bytes | str | None) -> object:
    """A JSON body as what it says, any other as its bytes."""
    try:
        return json.loads(body or b"")
    except ValueError:
        return body.encode() if isinstance(body, str) else body


def _opened(body: str | bytes | None) -> object:
    """JSON as it reads; the one clip that twins hand out stands in it as a word."""
    if not body:
        return None
    try:
        text = body if isinstance(body, str) else body.decode()
        return {"json": json.loads(text.replace(CLIP, CLIP_WORD))}
    except ValueError:
        return {"raw": body}


def _closed(body: dict[str, Any] | None) -> str | bytes | None:
    if body is None:
        return None
    raw: str | bytes = json.dumps(body["json"]).replace(CLIP_WORD, CLIP) if "json" in body else body["raw"]
    return raw


# ── What both sides know ──────────────────────────────────────────────────────────────────────────────────────────────


def is_heard(exchange: Exchange) -> bool:
    """Whether it is a request of ours that was answered: what a tape can have."""
    return is_ours(exchange) and exchange.answered.fault is None


def is_ours(exchange: Exchange) -> bool:
    """Whether we asked. What providers say by themselves comes from outside when it is played, too."""
    return str(exchange.flow) != "callback"


def times(exchange: Exchange) -> list[float]:
    """When each of its equal answers, as far as they are on a tape, was there; the last is the last."""
    count, first = min(exchange.count, MAX_EQUAL), exchange.at + exchange.duration_ms / 1000
    step_s = (exchange.last_at - first) / (count - 1) if count > 1 else 0.0
    return [first + step_s * n for n in range(count)]


def stand_in(asset: AssetRef) -> bytes:
    """What stands for a file that was sent."""
    return f"the file {asset.sha256}".encode()


def stand_in_take(content: Content) -> bytes:
    """What stands for a take."""
    return shipped_clip() if content.media_type == "video/mp4" else f"the file {content.sha256}".encode()


def as_told_then(
    adapters: Mapping[str, Adapter] | None, recording: Recording, lines: Sequence[Line]
) -> dict[str, Adapter]:
    """The adapters that a job used, with their settings of then as far as the traffic shows them, and without keys.

    Raises Unavailable where one is not installed.
    """
    known = installed_adapters() if adapters is None else adapters
    used = dict.fromkeys(one.provider for one in recording.exchanges)
    if missing := [name for name in used if name not in known]:
        raise Unavailable(f"The adapter of {missing[0]} is not installed here: install it, and try again.")
    return {name: _keyless(informed(known[name], recording, lines)) for name in used}


def _keyless(adapter: Adapter) -> Adapter:
    other = copy(adapter)
    other.capabilities = replace(adapter.capabilities, auth=None)
    return other


# ── Writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_cassette(
    recording: Recording, folder: Path, adapters: Mapping[str, Adapter] | None = None
) -> tuple[Path, Path]:
    """Write the tape, the test and the events of a job into a folder.

    Args:
        recording: the job.
        folder: is made where it is not there.
        adapters: those that are installed, unless others are given.

    Returns:
        Where the tape and the test are.

    Raises:
        Unavailable: what is kept of the traffic is not enough; the message says which exchange, and what it lacks.
        ExtraMissing: vcrpy is not installed.
        StorageTrouble: the files cannot be written.
        Unreadable: an event is no text.
    """
    _check_kept(recording)
    try:
        lines = read(recording)
    except Cannot as cannot:
        raise Unavailable(str(cannot), job_id=recording.job_id) from cannot
    known = as_told_then(adapters, recording, lines)
    home, provenance = _at_home(shareable(recording), known, lines)
    takes = _takes(recording.source)
    about = [*_about(home, provenance), *_left_out(home, takes)]
    interactions = list(_interactions(home, known, takes))
    content = Readable.serialize({PROVENANCE: provenance, "about": about, "version": 1, "interactions": interactions})
    name = re.sub(r"\W", "_", recording.job_id)
    tape_file, test_file = folder / f"{name}.yaml", folder / f"test_{name}.py"
    make_folder(folder)
    write_file(home, folder / f"{name}{ENDING}")
    write_whole(tape_file, content.encode())
    write_whole(test_file, TEST.format(job=recording.job_id, name=name, provenance=provenance).encode())
    return tape_file, test_file


def _check_kept(recording: Recording) -> None:
    """Raises Unavailable where events came of exchanges that are not there."""
    if not any(map(is_heard, recording.exchanges)):
        empty = "the flight record has nothing of it: it was off, or has let go of what is too old"
        why = "no request of it was ever answered" if recording.exchanges else empty
        raise Unavailable(f"{recording.job_id} makes no cassette: {why}. {CANNOT}", job_id=recording.job_id)
    kept = {one.id for one in recording.exchanges}
    for event in recording.events:
        if lost := [number for number in meta_of(event).x if number not in kept]:
            told = f"Event {event.version} of {recording.job_id} came of exchange {lost[0]}"
            raise Unavailable(f"{told}, which the flight record does not have any more. {CANNOT}")


def _about(recording: Recording, provenance: str) -> Iterator[str]:
    release = recording.versions.get("rushes", "of an unknown release")
    yield f"Job {recording.job_id}, exported by rushes {release}. It holds the prompt."
    if provenance == "twin":
        yield "The job went to a twin, an emulator or a proxy: the provider's own address stands in the place of its."


def _takes(source: str) -> Assets | None:
    """The takes of the data folder that a recording was read from."""
    return Assets(Path(source) / "takes") if source and (Path(source) / "takes").is_dir() else None


# ── Addresses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _at_home(recording: Recording, adapters: Mapping[str, Adapter], lines: Sequence[Line]) -> tuple[Recording, str]:
    """The same as if every provider had been asked at its own address; and whether it really was: `real` or `twin`."""
    names: dict[str, str] = {}
    stems = {name: _stems(adapter, lines, recording) for name, adapter in adapters.items()}
    for exchange in filter(is_ours, recording.exchanges):
        address, (there, home) = adapters[exchange.provider].address(), stems[exchange.provider]
        if there != home and exchange.url.startswith(f"{there}/"):
            names[there] = home
            continue
        own, asked, is_base = _origin(address), _origin(exchange.url), exchange.flow in AT_THE_BASE
        if not own.startswith("http"):
            who = exchange.provider
            raise Unavailable(f"{who} runs in this process: a cassette holds HTTP, and this is none. {CANNOT}")
        if asked in ("", own) or not (is_base or asked.startswith("http://")):
            continue
        if is_base and not urlsplit(exchange.url).path.startswith(urlsplit(address).path):
            raise _cannot(exchange, f"its path is another one than at {address}")
        names[asked] = own
    was_twin = recording.versions.get(PROVENANCE) == "twin"
    if not names:
        return recording, "twin" if was_twin else "real"
    moved = {name: re.compile(re.escape(name) + r"(?![\w.:-])") for name in names}

    def moved_text(text: bytes) -> bytes:
        decoded = text.decode()
        for name, pattern in moved.items():
            decoded = pattern.sub(names[name], decoded)
        return decoded.encode()

    def exchange_there(exchange: Exchange) -> Exchange:
        return msgspec.json.decode(moved_text(msgspec.json.encode(exchange)), type=Exchange)

    return replace(
        recording,
        events=tuple(replace(one, data=moved_text(one.data)) for one in recording.events),
        exchanges=tuple(map(exchange_there, recording.exchanges)),
        versions={**recording.versions, PROVENANCE: "twin"},
    ), "twin"


def _stems(adapter: Adapter, lines: Sequence[Line], recording: Recording) -> tuple[str, str]:
    """Where a provider was reached and where it is at home, without the path that both end with."""
    request, home = first_request(adapter, lines), adapter.address()
    base = base_of(adapter, request, recording.exchanges) or home if request else home
    there, own = base.split("/"), home.split("/")
    while len(there) > 3 and len(own) > 3 and there[-1] == own[-1]:
        there.pop()
        own.pop()
    return "/".join(there), "/".join(own)


def _origin(url: str) -> str:
    """Empty for the address of a service, which is named and not told."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme else ""


# ── Interactions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _interactions(
    recording: Recording, adapters: Mapping[str, Adapter], takes: Assets | None
) -> Iterator[dict[str, Any]]:
    polls: dict[tuple[str, str, bytes], Exchange] = {}
    for exchange in filter(is_heard, recording.exchanges):
        question = exchange.method, exchange.url, msgspec.json.encode(replace(exchange.asked, trace=""))
        answered = exchange
        if _is_take(exchange):
            answered = polls.get(question, exchange)  # some takes stand in the answer to a poll, asked for once more
        else:
            polls[question] = exchange
        for _ in times(exchange):
            yield {"request": _asked(exchange, adapters), "response": _answered(answered, takes)}


def _is_take(exchange: Exchange) -> bool:
    return exchange.answered.body is not None and bool(exchange.answered.body.key)


def _asked(exchange: Exchange, adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    service, _, path = exchange.url.removeprefix("@").partition("/")
    services = adapters[exchange.provider].capabilities.services
    url = f"{services[service].url}/{path}" if exchange.url.startswith("@") else exchange.url
    request: dict[str, Any] = {"method": exchange.method, "uri": url, "body": None, "headers": {}}
    if exchange.asked.body is not None:
        data, media_type = encode(_body(exchange, exchange.asked.body), stand_in)
        request |= {"body": _text_or_bytes(data), "headers": {"Content-Type": [media_type]}}
    return request


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _body(exchange: Exchange, content: Content) -> Mapping[str, Any] | list[Part]:
    """A body as the adapter made it, with references in the place of files."""
    text = _whole_text(exchange, content, "what was sent")
    if text.startswith("["):
        return [_part(exchange, part) for part in msgspec.json.decode(text, type=list[dict[str, Any]])]
    body: dict[str, Any] = _revived(msgspec.json.decode(text, type=dict[str, Any]))
    return body


def _part(exchange: Exchange, part: dict[str, Any]) -> Part:
    content = _revived(part["content"])
    if isinstance(content, dict) or content == REDACTED:
        raise _cannot(exchange, f"the bytes of the form's part {part['name']!r} were not kept")
    return Part(part["name"], content, part["filename"], part["media_type"])


def _revived(node: Any) -> Any:
    """The same with references in the place of what describes them."""
    match node:
        case {"asset": _, "form": _}:
            return msgspec.convert(node, Inline)
        case dict():
            return {name: _revived(value) for name, value in cast("dict[str, Any]", node).items()}
        case list():
            return [_revived(one) for one in cast("Sequence[Any]", node)]
        case _:
            return node


def _answered(exchange: Exchange, takes: Assets | None) -> dict[str, Any]:
    content, headers = exchange.answered.body, dict(exchange.answered.headers)
    body: str | bytes = ""
    if content is not None and content.key:
        body = _take(content, takes) or stand_in_take(content)
        headers = {"content-type": content.media_type}
        headers |= {"content-length": str(len(body))} if content.media_type.startswith("video/") else {}
    elif content is not None:
        body = _whole_text(exchange, content, "what was answered")
        headers = {name: value for name, value in headers.items() if name in RESPONSE_HEADERS}
    if "retry-after" in headers:  # a time means something by the answer's own date alone, which is not on a tape
        wait_s = retry_after_s(Response(status=exchange.status, headers=exchange.answered.headers))
        headers |= {} if wait_s is None else {"retry-after": f"{wait_s:g}"}
    return {
        "status": {"code": exchange.status, "message": ""},
        "headers": {name: [headers[name]] for name in sorted(headers)},
        "body": {"string": body},
    }


def _whole_text(exchange: Exchange, content: Content, what: str) -> str:
    if content.text is None:
        raise _cannot(exchange, f"{what} is no text, and its bytes were not kept")
    if not content.whole:
        raise _cannot(exchange, f"{what} has {content.size_bytes} bytes, of which the head alone was kept")
    return content.text


def _cannot(exchange: Exchange, why: str) -> Unavailable:
    which = f"Exchange {exchange.id} of {exchange.job} ({exchange.flow}: {exchange.method} {exchange.url})"
    return Unavailable(f"{which} cannot be put on a cassette: {why}. {CANNOT}", job_id=exchange.job)


def _take(content: Content, takes: Assets | None) -> bytes | None:
    """A take's own bytes, where they are at hand and few."""
    if takes is None or content.size_bytes > MAX_TAKE_BYTES:
        return None
    try:
        with takes.open(content.key) as file:
            found = file.read(MAX_TAKE_BYTES + 1)
    except NotFound:
        return None
    return found if hashlib.sha256(found).hexdigest() == content.sha256 else None


def _left_out(recording: Recording, takes: Assets | None) -> Iterator[str]:
    """What is not on the tape, for its head."""
    ours = list(filter(is_ours, recording.exchanges))
    if unanswered := sum(one.count for one in ours if not is_heard(one)):
        yield f"{unanswered} of its requests got no answer, and are not here: the test fails them as they failed then."
    for one in filter(is_heard, ours):
        content = one.answered.body
        if left := one.count - len(times(one)):
            yield f"{left} of {one.count} equal answers to {one.method} {one.url} are left out."
        if content is not None and content.key and _take(content, takes) is None:
            what = "size, sha256 and measures are not compared"
            yield f"The bytes of {content.key} are not here: others stand in their place, and its {what}."
    if recording.inputs:
        yield "In the place of a file that was sent stand the words 'the file' and its sha256."


# ── The test ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TEST: Final = '''"""Job {job}, played again from its tape ({provenance}): no network, no key, no cost.

It needs rushes, pytest and vcrpy, and the two files beside it: {name}.yaml and {name}.rushes.json.
"""

import asyncio
import socket
from pathlib import Path

import pytest

from rushes.replay import follow, read_file, tape

HERE = Path(__file__).parent


def no_network(*_: object) -> None:
    raise AssertionError("a socket was about to connect")


def test_the_job_goes_as_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket.socket, "connect_ex", no_network)
    recording = read_file(HERE / "{name}.rushes.json")
    with tape().use_cassette(str(HERE / "{name}.yaml")) as played:
        report = asyncio.run(follow(recording))
    found = report.difference
    assert found is None, f"{{found.what}}\\nthen:  {{found.recorded}}\\ntoday: {{found.today}}"
    assert report.verdict == "same", report.why
    assert played.all_played, "some of the tape was never asked for"
'''
