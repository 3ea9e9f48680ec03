"""Making it fit to be kept: without secrets, and of a bounded size."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace
from yarl import URL

from rushes.adapters.base import Adapter, Ask, Body, Failed, Heeded, Keep, Part, Request, Response
from rushes.adapters.redaction import LONGEST_SECRET, Redaction
from rushes.faults import Fault, RushesError
from rushes.flight.exchange import MAX_TEXT_BYTES, Answered, Asked, Content
from rushes.flight.overhearing import WINDOW_BYTES, Heard, Spooled
from rushes.units import AssetRef

Row: TypeAlias = tuple[int | float | str, ...]

ASKED_HEADERS: Final = frozenset({
    "accept", "content-type", "idempotency-key", "prefer", "x-runway-version",
    "user-agent", "webhook-id", "webhook-timestamp",
})  # fmt: skip
ANSWERED_HEADERS: Final = frozenset({
    "cf-ray", "content-length", "content-type", "date", "ratelimit", "ratelimit-limit", "ratelimit-remaining",
    "ratelimit-reset", "request-id", "retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
    "x-request-id", "openai-poll-after-ms", "retry-after-ms", "x-should-retry",
})  # fmt: skip


class Scribe:
    """Makes rows of what was heard: without secrets, and of a bounded size."""

    def __init__(self, base_url: Callable[[Adapter], str], secrets: Iterable[str]) -> None:
        self._base_url, self._without = base_url, Redaction(secrets)

    def row(self, heard: Heard) -> Row:
        """What is written, in the order of the columns but for the count."""
        ask, asked, answered = _said(heard.ask), self._asked(heard), self._answered(heard)
        told = heard.result if isinstance(heard.result, Response | Heeded) else None
        return (
            heard.id,
            heard.job,
            heard.attempt,
            heard.flow,
            heard.adapter.name,
            ask.method if isinstance(ask, Request) else "GET",
            self._url(heard),
            told.status if told else 200 * (answered.fault is None),
            heard.at,
            round(heard.duration_s * 1000, 3),
            heard.at + heard.duration_s,
            msgspec.json.encode(replace(asked, trace=heard.trace)).decode(),
            msgspec.json.encode(answered).decode(),
        )

    def _url(self, heard: Heard) -> str:
        url = heard.ask.url
        whole = "://" in url or heard.flow == "callback"
        if not whole and not url.startswith("@"):  # another service of the provider, by its name
            base = self._base_url(heard.adapter)
            is_page = isinstance(heard.ask, Keep) and heard.ask.request is None and base.startswith("http")
            url = str((URL(base) / "").join(URL(url, encoded=True))) if is_page else base + url  # as the client does
        url = self._without.text(url)
        if not isinstance(heard.ask, Request) or not heard.ask.query:
            return url
        return (
            f"{url}?{urlencode([(name, self._without.value(name, value)) for name, value in heard.ask.query.items()])}"
        )

    def _asked(self, heard: Heard) -> Asked:
        ask = _said(heard.ask)
        headers, body = self._headers(ask.headers, ASKED_HEADERS), None
        if heard.flow == "callback" and heard.spooled is not None:
            body = self._spooled(heard.spooled, headers.get("content-type", ""))
        elif isinstance(ask, Request) and ask.body is not None:
            kind = "application/json" if isinstance(ask.body, Mapping) else "multipart/form-data"
            body = self._content(msgspec.json.encode(self._symbolic(ask.body), order="deterministic"), kind)
        return Asked(headers=headers, body=body)

    def _symbolic(self, body: Body) -> object:
        """The body as it is described: files by reference, and a form as the list of its parts."""
        return body if body is None or isinstance(body, Mapping) else [self._part(part) for part in body]

    def _part(self, part: Part) -> dict[str, object]:
        content: object = part.content
        if isinstance(part.content, bytes):
            content = Content(size_bytes=len(part.content), sha256=hashlib.sha256(part.content).hexdigest())
        elif isinstance(part.content, str):
            content = self._without.value(part.name, part.content)
        return {"name": part.name, "content": content, "filename": part.filename, "media_type": part.media_type}

    def _answered(self, heard: Heard) -> Answered:
        match heard.result:
            case Response() as reply:
                kind = reply.headers.get("content-type", "")
                body = self._content(reply.body, kind) if reply.body else None
                if heard.spooled is not None:
                    body = self._spooled(heard.spooled, kind)
                return Answered(headers=self._headers(reply.headers, ANSWERED_HEADERS), body=body)
            case AssetRef() as kept:
                size_bytes, sha256, kind = kept.size_bytes, kept.sha256, kept.media_type
                return Answered(body=Content(size_bytes=size_bytes, sha256=sha256, media_type=kind, key=kept.key))
            case Heeded(worth=worth, why=why):
                return Answered(worth=worth, why=why)
            case Failed(fault=fault, certain=certain):
                return Answered(fault=replace(fault, detail=self._without.text(fault.detail)), certain=certain)
            case error:
                return Answered(fault=_fault(error), certain=False)

    def _headers(self, headers: Mapping[str, str], allowed: frozenset[str]) -> dict[str, str]:
        return {name.lower(): self._without.text(value) for name, value in headers.items() if name.lower() in allowed}

    def _content(self, raw: bytes, media_type: str) -> Content:
        return self._described(raw[:WINDOW_BYTES], len(raw), hashlib.sha256(raw).hexdigest(), media_type)

    def _spooled(self, spooled: Spooled, media_type: str) -> Content:
        return self._described(spooled.head, spooled.size_bytes, spooled.sha256, media_type)

    def _described(self, window: bytes, size_bytes: int, sha256: str, media_type: str) -> Content:
        text, whole = _text(window, cut=len(window) < size_bytes), size_bytes <= MAX_TEXT_BYTES
        if text is not None:
            text = self._without.text(text)
            text = text if whole else text[:-LONGEST_SECRET][:MAX_TEXT_BYTES]
        media_type = media_type.partition(";")[0].strip()
        return Content(size_bytes=size_bytes, sha256=sha256, media_type=media_type, text=text, whole=whole)


def _said(ask: Ask) -> Ask:
    """What goes out: some files are asked for by a request of their own."""
    return ask.request if isinstance(ask, Keep) and ask.request is not None else ask


def _text(window: bytes, *, cut: bool) -> str | None:
    """The text that begins so; None where it is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(window, final=not cut)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _fault(error: BaseException) -> Fault:
    """What broke off an exchange, other than the provider or the line."""
    if isinstance(error, asyncio.CancelledError):
        return Fault("cancelled", "It was no longer waited for.", retryable=True)
    code = error.code if isinstance(error, RushesError) else "internal_error"
    return Fault(code, f"What came could not be kept ({type(error).__name__}).", retryable=True)
