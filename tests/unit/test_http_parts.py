"""Bodies, data: addresses, and what each of aiohttp's exceptions says about money."""

from __future__ import annotations

import hashlib

import aiohttp
import msgspec
import pytest
from aiohttp import client_exceptions
from aiohttp.client_reqrep import ConnectionKey

from rushes.adapters.base import Failed, Inline, Part
from rushes.adapters.bodies import data_uri, encode
from rushes.adapters.guard import InsideAddress
from rushes.adapters.http import MAYBE_SENT, NOT_SENT, failure
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


# Known by its parent alone, because older releases do not have it.
BY_THEIR_PARENT = {"UploadAbortedError"}


def client_errors() -> list[type[Exception]]:
    found = [kind for kind in vars(client_exceptions).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, aiohttp.ClientError)]


def unmapped(known: frozenset[type[Exception]]) -> set[str]:
    return {kind.__name__ for kind in client_errors() if kind not in known} - BY_THEIR_PARENT


def test_every_exception_of_the_client_is_mapped_once() -> None:
    assert unmapped(frozenset(NOT_SENT) | MAYBE_SENT) == set()
    assert not set(NOT_SENT) & MAYBE_SENT
    assert len(client_errors()) > 20


def test_a_forgotten_exception_would_be_seen() -> None:
    """The negative control."""
    assert unmapped((frozenset(NOT_SENT) | MAYBE_SENT) - {aiohttp.ServerDisconnectedError}) == {
        "ServerDisconnectedError"
    }


def test_only_what_fails_before_the_first_byte_is_certain() -> None:
    key = ConnectionKey(
        "secret.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
    )
    refused = failure("replicate", aiohttp.ClientConnectorError(key, OSError(111, "refused")))
    assert (refused.certain, refused.fault.code, refused.fault.retryable) == (True, "not_sent", True)
    inside = failure("replicate", aiohttp.ClientConnectorError(key, InsideAddress("no")))
    assert (inside.certain, inside.fault.code) == (True, "not_sent")
    assert "not on the public internet" in inside.fault.detail
    for error in (
        aiohttp.ServerDisconnectedError(),
        TimeoutError(),
        ConnectionResetError(),
        aiohttp.ClientPayloadError(),
    ):
        lost = failure("replicate", error)
        assert (lost.certain, lost.fault.code, lost.fault.retryable) == (False, "no_answer", True)
    assert "secret.example" not in refused.fault.detail + inside.fault.detail


def test_an_unknown_exception_may_have_been_sent() -> None:
    class Newer(aiohttp.ClientError):
        """Of a release to come."""

    assert not failure("replicate", Newer()).certain
