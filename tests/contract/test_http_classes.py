"""What each of the client's exceptions means for the job and for its money: one table, complete as installed."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from acme import Acme, LoopClock, no_probe
from aiohttp import RequestInfo
from aiohttp.client_exceptions import UnixClientConnectorError
from aiohttp.client_reqrep import ConnectionKey
from jobs import HISTORIES, given
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from rushes.actors import messages as m
from rushes.actors.job import decide, evolve
from rushes.actors.perform import Performer
from rushes.actors.words import billed_word
from rushes.adapters.base import Failed, Response
from rushes.adapters.guard import InsideAddress
from rushes.adapters.http import MAYBE_SENT, NOT_SENT, failure
from rushes.assets import Assets
from rushes.faults import Code
from rushes.units import AssetRef, Billed


class Meaning(Struct, frozen=True):
    """Of one exception: the code of its fault, whether the request surely was not carried out, and may be repeated."""

    code: Code
    certain: bool
    retryable: bool


NOT_YET = Meaning("not_sent", certain=True, retryable=True)
NEVER = Meaning("not_sent", certain=True, retryable=False)
PERHAPS = Meaning("no_answer", certain=False, retryable=True)

TABLE: dict[str, Meaning] = {
    # before the first byte
    "ClientConnectorError": NOT_YET,
    "ClientConnectorDNSError": NOT_YET,
    "ClientProxyConnectionError": NOT_YET,
    "UnixClientConnectorError": NOT_YET,
    "ClientSSLError": NOT_YET,
    "ClientConnectorSSLError": NOT_YET,
    "ClientConnectorCertificateError": NOT_YET,
    "ServerFingerprintMismatch": NOT_YET,
    "ConnectionTimeoutError": NOT_YET,
    # nor ever one
    "InvalidURL": NEVER,
    "InvalidUrlClientError": NEVER,
    "NonHttpUrlClientError": NEVER,
    # once bytes went out, or where that cannot be known
    "ClientError": PERHAPS,
    "ClientConnectionError": PERHAPS,
    "ClientConnectionResetError": PERHAPS,
    "ClientOSError": PERHAPS,
    "ClientPayloadError": PERHAPS,
    "ClientResponseError": PERHAPS,
    "ClientHttpProxyError": PERHAPS,
    "ContentTypeError": PERHAPS,
    "ServerConnectionError": PERHAPS,
    "ServerDisconnectedError": PERHAPS,
    "ServerTimeoutError": PERHAPS,
    "SocketTimeoutError": PERHAPS,
    "TooManyRedirects": PERHAPS,
    "UploadAbortedError": PERHAPS,
    "RedirectClientError": PERHAPS,
    "InvalidUrlRedirectClientError": PERHAPS,
    "NonHttpUrlRedirectClientError": PERHAPS,
    "WSServerHandshakeError": PERHAPS,
    # not aiohttp's own, and it lets them through
    "OSError": PERHAPS,
    "TimeoutError": PERHAPS,
    "ConnectionResetError": PERHAPS,
    "BrokenPipeError": PERHAPS,
    "SSLError": PERHAPS,
}
SYSTEM: tuple[type[Exception], ...] = (OSError, TimeoutError, ConnectionResetError, BrokenPipeError, ssl.SSLError)


def tree(kind: type[Exception]) -> Iterator[type[Exception]]:
    if kind.__module__.partition(".")[0] == "aiohttp":
        yield kind
        for one in kind.__subclasses__():
            yield from tree(one)


INSTALLED = sorted({*tree(aiohttp.ClientError)}, key=lambda kind: kind.__name__)
PLACE = ConnectionKey(
    "canary.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)
URL_ = URL("https://canary.example/a?signature=canary")
INFO = RequestInfo(URL_, "GET", CIMultiDictProxy(CIMultiDict({"Authorization": "Bearer canary"})), URL_)


def made(kind: type[Exception]) -> Exception:
    """One of them, as aiohttp makes it, with what nobody may be shown."""
    if issubclass(kind, UnixClientConnectorError):
        return kind("/run/canary", PLACE, OSError(2, "canary"))
    if issubclass(kind, aiohttp.ClientConnectorError):
        return kind(PLACE, OSError(111, "canary"))
    if issubclass(kind, aiohttp.ServerFingerprintMismatch):
        return kind(b"canary", b"", "canary.example", 443)
    if issubclass(kind, aiohttp.ClientResponseError):
        return kind(INFO, (), message="canary")
    if issubclass(kind, aiohttp.InvalidURL):
        return kind(str(URL_), "canary")
    return kind("canary")


def meaning(failed: Failed) -> Meaning:
    return Meaning(failed.fault.code, certain=failed.certain, retryable=failed.fault.retryable)


def missing(table: dict[str, Meaning]) -> set[str]:
    return {kind.__name__ for kind in INSTALLED} - set(table)


def test_the_table_has_a_row_for_every_exception_of_the_client_as_it_is_installed() -> None:
    assert missing(TABLE) == set()
    assert len(INSTALLED) >= 28
    exported = {value for value in vars(aiohttp).values() if isinstance(value, type)}
    assert {kind for kind in exported if issubclass(kind, aiohttp.ClientError)} <= set(INSTALLED)


def test_a_forgotten_exception_would_be_seen() -> None:
    """The negative control."""
    short = {name: row for name, row in TABLE.items() if name != "ServerDisconnectedError"}
    assert missing(short) == {"ServerDisconnectedError"}


def test_no_exception_is_mapped_twice() -> None:
    assert not set(NOT_SENT) & MAYBE_SENT


class Dead:
    """A transport on which everything ends with one exception."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def send(self, *_: object) -> Response:
        raise failure("acme", self.error)

    async def keep(self, *_: object) -> AssetRef:
        raise failure("acme", self.error)


KINDS: dict[str, tuple[str, m.Owed]] = {
    "paid": ("submitting", m.Send(attempt=1, send=1)),
    "poll": ("running", m.Ask(attempt=1, accepted_at=0.0, deadline=1000.0)),
    "result": ("storing", m.Store(attempt=1, index=0, refreshes=0)),
}


def billed(kind: str, row: Meaning) -> Billed:
    """What is said of the money afterwards. Reads change nothing: a job that runs may be billed, a finished one is."""
    if kind == "paid":
        return "no" if row.certain else "unknown"
    return {"poll": "unknown", "result": "yes"}[kind]  # type: ignore[return-value]


@pytest.mark.parametrize("request_kind", KINDS)
@pytest.mark.parametrize("kind", [*INSTALLED, *SYSTEM], ids=lambda kind: kind.__name__)
async def test_what_it_means_and_what_is_said_of_the_money(
    kind: type[Exception], request_kind: str, tmp_path: Path
) -> None:
    row, (phase, owed), clock = TABLE[kind.__name__], KINDS[request_kind], LoopClock()
    failed = failure("acme", made(kind))
    assert meaning(failed) == row
    assert "canary" not in repr(failed) + failed.fault.detail
    performer = Performer({"here": Acme()}, Dead(made(kind)), Assets(tmp_path), clock, no_probe)
    job = given(*HISTORIES[phase])
    report = await performer.perform(owed, job, "job_1", 0)
    for event in decide(report, job, now=1.0):
        job = evolve(job, event, 1.0)
    assert billed_word(job) == billed(request_kind, row)


def test_an_exception_of_a_release_to_come_may_have_been_sent() -> None:
    class Newer(aiohttp.ClientError):
        """Known by its parent alone."""

    assert meaning(failure("acme", Newer())) == PERHAPS


def test_an_address_inside_is_told_from_one_that_does_not_answer() -> None:
    inside = failure("acme", aiohttp.ClientConnectorError(PLACE, InsideAddress("canary")))
    assert meaning(inside) == NOT_YET
    assert "not on the public internet" in inside.fault.detail
    assert "not on the public internet" not in failure("acme", made(aiohttp.ClientConnectorError)).fault.detail
