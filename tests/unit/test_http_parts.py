"""Bodies, data: addresses, when to ask again, and who may touch the network."""

from __future__ import annotations

import ast
import hashlib
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import msgspec
import pytest

from rushes.adapters.base import Failed, Inline, Part, Response, retry_after_s
from rushes.adapters.bodies import data_uri, encode
from rushes.units import AssetRef

PIXEL = AssetRef("inputs/p", hashlib.sha256(b"pixel").hexdigest(), 5, "image/png")


def read(asset: AssetRef) -> bytes:
    assert asset == PIXEL
    return b"pixel"


def test_json_bodies_hold_kept_files_in_their_places() -> None:
    body = {"input": {"image": Inline(PIXEL), "more": [Inline(PIXEL, "base64"), 1, None, "ä"]}}
    data, media_type = encode(body, read)
    assert media_type == "application/json"
    assert msgspec.json.decode(data) == {
        "input": {"image": "data:image/png;base64,cGl4ZWw=", "more": ["cGl4ZWw=", 1, None, "ä"]}
    }


def test_forms_are_bytes_with_a_boundary_made_from_their_content() -> None:
    form = [Part("content", Inline(PIXEL, "bytes"), "a.png", "image/png"), Part("note", "hello")]
    data, media_type = encode(form, read)
    boundary = media_type.removeprefix("multipart/form-data; boundary=")
    assert (
        data
        == (
            f'--{boundary}\r\nContent-Disposition: form-data; name="content"; filename="a.png"\r\n'
            f"Content-Type: image/png\r\n\r\npixel\r\n"
            f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
            f"--{boundary}--\r\n"
        ).encode()
    )
    assert encode(form, read) == (data, media_type)
    assert encode([Part("note", "other")], read)[1] != media_type


def test_names_in_forms_cannot_add_headers() -> None:
    data, _ = encode([Part("a", b"", 'x"\r\nEvil: yes', "image/png\r\nEvil: yes")], read)
    assert b"\r\nEvil" not in data


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("data:image/png;base64,cGl4ZWw=", b"pixel"),
        ("data:,a%20b", b"a b"),
        ("data:text/plain;charset=utf-8,abc", b"abc"),
        ("data:image/png;base64,", b""),
    ],
)
def test_data_addresses_are_decoded(url: str, content: bytes) -> None:
    assert data_uri(url, 100) == content


@pytest.mark.parametrize(
    "url", ["data:", "data:image/png;base64", "data:;base64,@@@", "data:,123456", "data:;base64,ä"]
)
def test_wrong_data_addresses_are_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(Failed) as refused:
        data_uri(url, 5)
    assert refused.value.certain
    assert refused.value.fault.code == "invalid_input"


# ── When to ask again ─────────────────────────────────────────────────────────────────────────────────────────────────

SENT = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [
        ("30", 30.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("1e9", 86_400.0),
        ("9" * 400, 86_400.0),
        ("Sun, 06 Nov 1994 08:50:07 GMT", 30.0),
        ("Sunday, 06-Nov-94 08:50:07 GMT", 30.0),  # the two older forms that must be understood
        ("Sun Nov  6 08:50:07 1994", 30.0),
        (SENT, 0.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:49:37 GMT", 86_400.0),
        ("Sun, 06 Nov 1994 10:50:07 +0200", 30.0),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("soon", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_time_and_at_most_a_day(retry_after: str, wait_s: float | None) -> None:
    assert retry_after_s(Response(status=429, headers={"retry-after": retry_after, "date": SENT})) == wait_s


@pytest.mark.parametrize("date", [None, "", "soon"])
def test_a_time_says_nothing_without_the_senders_own(date: str | None) -> None:
    """Our clock may be another: by it, the wait could be hours too long, or none at all."""
    headers = {"retry-after": "Sun, 06 Nov 1994 08:50:07 GMT"} | ({} if date is None else {"date": date})
    assert retry_after_s(Response(status=429, headers=headers)) is None


def test_a_time_without_a_zone_is_gmt_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-5:30")
    time.tzset()
    headers = {"retry-after": "Sun Nov  6 08:50:07 1994", "date": SENT}
    try:
        assert retry_after_s(Response(status=429, headers=headers)) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_no_retry_after_is_none() -> None:
    assert retry_after_s(Response(status=429, headers={"date": SENT})) is None


# ── Who may touch the network ─────────────────────────────────────────────────────────────────────────────────────────

ROOM = Path(__file__).parents[2] / "src" / "rushes" / "adapters"
CLIENT = {"http", "guard"}
REGISTRY = {"installed"}  # logs what could not be loaded
OUTSIDE_WORLD = {"aiohttp", "asyncio", "socket", "ssl", "http", "urllib", "subprocess", "threading", "time", "random"}
OUTSIDE_WORLD |= {"logging", "structlog", "os", "tempfile", "rushes.adapters.http", "rushes.adapters.guard"}
HARMLESS = {"urllib.parse"}


def touched(source: str) -> set[str]:
    """The names of the world outside that a file imports."""
    return {
        name
        for name in imported(ast.parse(source))
        if any(f"{name}.".startswith(f"{world}.") for world in OUTSIDE_WORLD)
        and not any(f"{name}.".startswith(f"{fine}.") for fine in HARMLESS)
    }


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_adapter_touches_the_network_the_clock_or_chance() -> None:
    files = [path for path in ROOM.glob("*.py") if path.stem not in CLIENT | REGISTRY]
    adapters = {entry.module.rpartition(".")[2] for entry in entry_points(group="rushes.adapters")}
    assert adapters <= {path.stem for path in files}
    assert {path.stem: touched(path.read_text("utf-8")) for path in files} == {path.stem: set() for path in files}


def test_an_adapter_with_a_client_of_its_own_would_be_seen() -> None:
    """The negative control: the client itself, and each way to come by one."""
    assert "aiohttp.ClientResponse" in touched((ROOM / "http.py").read_text("utf-8"))
    for line in (
        "import aiohttp",
        "from aiohttp import web",
        "import urllib.request",
        "from urllib.request import urlopen",
        "from rushes.adapters.http import Http",
        "from time import time",
    ):
        assert touched(line)
    assert not touched("from urllib.parse import urljoin")


def test_a_file_in_a_form_is_not_cut_by_what_looks_like_a_boundary() -> None:
    """The boundary is made from the whole content, so no content can hold its own."""
    first, media_type = encode([Part("a", b"x")], read)
    boundary = media_type.partition("=")[2].encode()
    data, again = encode([Part("a", b"x\r\n--" + boundary + b"--\r\n")], read)
    assert again != media_type
    assert data.count(again.partition("=")[2].encode()) == 2
    assert first.count(boundary) == 2
