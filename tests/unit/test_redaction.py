"""What is taken out of text that is kept, and what stays."""

from __future__ import annotations

import time

import msgspec
import pytest

from rushes.adapters.redaction import Redaction

PLAIN = Redaction()
KEY = "sk_canary_0123456789"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://a.example/b/c.mp4", "https://a.example/b/c.mp4"),
        ("https://a.example/b?Signature=x&Expires=1", "https://a.example/b?redacted"),
        ("https://a.example/b#token", "https://a.example/b?redacted"),
        ("https://user:word@a.example/b", "https://a.example/b"),
        ("runway://upload/1?sig=x and more", "runway://upload/1?redacted and more"),
        (r'{"u":"https:\/\/a.example\/b?s=1\u0026t=2","n":1}', r'{"u":"https:\/\/a.example\/b?redacted","n":1}'),
        (r'"{\"u\":\"https://a.example/?s=1\",\"n\":1}"', r'"{\"u\":\"https://a.example/?redacted\",\"n\":1}"'),
        ('{"X-Amz-Signature": "ab\\"cd", "n": 1}', '{"X-Amz-Signature": "redacted", "n": 1}'),
        ('{"access_token":"abc","tokens":12}', '{"access_token":"redacted","tokens":12}'),
        ('{"prompt":"a secret lake, why?"}', '{"prompt":"a secret lake, why?"}'),
        ('{"token":"cut off', '{"token":"redacted'),
    ],
)
def test_keys_and_signatures_go_and_the_rest_stays(text: str, kept: str) -> None:
    assert PLAIN.text(text) == kept


def test_a_known_key_goes_wherever_it_stands_and_a_short_one_is_no_key() -> None:
    assert Redaction([f" {KEY}\n", KEY[:10], "a"]).text(f"a lake {KEY}!") == "a lake redacted!"
    assert KEY in PLAIN.text(f"a lake {KEY}!")


def test_values_go_by_their_names() -> None:
    assert [PLAIN.value(name, "x") for name in ("key", "sig", "Policy", "page_token", "limit", "monkey")] == [
        *["redacted"] * 4,
        "x",
        "x",
    ]


def test_json_stays_json() -> None:
    inner = msgspec.json.encode({"url": "https://a.example/b?c=\\d", "secret": 'a\\"b'}).decode()
    text = msgspec.json.encode({"inner": inner, "urls": ["https://a.example/?a='b'", "http://["]}).decode()
    found = msgspec.json.decode(PLAIN.text(text), type=dict[str, object])
    assert found["urls"] == ["https://a.example/?redacted", "http://["]


@pytest.mark.parametrize("piece", ["A", "://", "token", '"token"', "\\", "https://a@", ':"', " \\/", "?#"])
def test_no_text_takes_long(piece: str) -> None:
    began = time.process_time()
    PLAIN.text(piece * (70_000 // len(piece)))
    assert time.process_time() - began < 1.0
