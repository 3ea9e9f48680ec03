"""Where an SDK and our adapter do the same in turn: an emulator of their provider, and its ledger."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.request import Request, urlopen

import msgspec
from msgspec import Struct

from parity.compare import Difference, differences, said, without_repeats
from parity.ours import Ours
from rushes.emulators.base import shipped_clip
from rushes.emulators.ledger import Ledger, Line

T = TypeVar("T")
U = TypeVar("U")
E = TypeVar("E", bound=BaseException)

CLOCK: Final = "50"  # seconds of the twins in one of ours: a clip takes nine of theirs
PATIENCE_S: Final = 30.0
CLIP_SHA256: Final = hashlib.sha256(shipped_clip()).hexdigest()


class Row(Struct, frozen=True):
    """One call in the table."""

    call: str
    requests: tuple[str, ...]  # that the SDK made, a line each
    statuses: tuple[str, ...]  # what each was answered
    ours: str


class _Turn(Struct, frozen=True):
    """What was sent for one call."""

    call: str
    sent: list[Line]
    made: list[Line] | None  # by us; None: there is nothing of ours to hold beside it
    why: str = ""  # then


class Stage:
    """One SDK's turn."""

    def __init__(self, sdk: str, url: str, ours: Ours) -> None:
        self.sdk, self.ours = sdk, ours
        self._turns: list[_Turn] = []
        self._url, self._names = url, {url: "{emulator}"}
        self._seen = len(self._ledger())

    def both(self, call: str, theirs: Callable[[], T], ours: Callable[[], U]) -> tuple[T, U]:
        """The SDK's call, then ours for the same intent."""
        left, sent = theirs(), self._fresh()
        right, made = ours(), self._fresh()
        assert sent or made, "neither asked anything: there is nothing to compare"
        self._turns.append(_Turn(call, sent, made))
        return left, right

    def alone(self, call: str, why: str, theirs: Callable[[], T]) -> T:
        """A call without one of ours beside it, and why."""
        left = theirs()
        self._turns.append(_Turn(call, self._fresh(), None, why))
        return left

    def alike(self, name: str, *ids: str) -> None:
        """These stand for the same, the SDK's and ours: the table calls them {name}."""
        self._names = dict.fromkeys(ids, f"{{{name}}}") | self._names

    def rows(self) -> list[Row]:
        """The table."""
        return [self._row(turn) for turn in self._turns]

    def found(self) -> list[Difference]:
        """What was not the same."""
        return [
            Difference(sdk=self.sdk, call=turn.call, what=what) for turn in self._turns for what in self._told(turn)
        ]

    def _told(self, turn: _Turn) -> list[str]:
        if turn.made is None:
            return []
        left, right = (without_repeats([said(line, self._names) for line in lines]) for lines in (turn.sent, turn.made))
        return list(differences(left, right))

    def _row(self, turn: _Turn) -> Row:
        asked: dict[str, dict[int, None]] = {}
        for line in turn.sent:
            asked.setdefault(said(line, self._names).address, {})[line.status] = None
        answers = tuple(", ".join(map(str, statuses)) for statuses in asked.values())
        count = len(self._told(turn))
        ours = f"{count} difference{'s' * (count > 1)}" if count else "the same"
        return Row(turn.call, tuple(asked), answers, ours if turn.made is not None else turn.why)

    @contextmanager
    def fault(self, provider: str, **rule: object) -> Generator[None, None, None]:
        """Let something go wrong at a provider."""
        address = f"{self._url}/{provider}/_rushes/faults"
        _ask(address, {"rules": [rule]})
        try:
            yield
        finally:
            _ask(address, {})

    def _ledger(self) -> list[Line]:
        return msgspec.convert(_ask(f"{self._url}/_rushes/ledger"), Ledger).requests

    def _fresh(self) -> list[Line]:
        """What came since the last look."""
        lines = self._ledger()
        fresh, self._seen = lines[self._seen :], len(lines)
        return fresh


def refused(kind: type[E], ask: Callable[[], object]) -> Callable[[], E]:
    """The same call, that shall end so."""

    def asked() -> E:
        try:
            ask()
        except kind as error:
            return error
        raise AssertionError(f"It did not raise {kind.__name__}.")

    return asked


def is_the_clip(content: bytes) -> bool:
    """Whether a result came whole."""
    return hashlib.sha256(content).hexdigest() == CLIP_SHA256


# ── The emulator ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def emulating(names: Sequence[str]) -> Generator[tuple[str, dict[str, str]], None, None]:
    """`rushes emulate`: its address, and the variables that point clients at it."""
    command = [sys.executable, "-m", "rushes.cli", "emulate", *names, "--print-env", "--clock", CLOCK, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        assert process.stdout is not None
        try:
            if not (line := process.stdout.readline()):
                raise RuntimeError("`rushes emulate` did not start: what it said stands above.")
            told = json.loads(line)
            yield told["url"], told["env"]
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _ask(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, method="GET" if data is None else "PUT")  # noqa: S310 - an emulator's
    with urlopen(request, timeout=PATIENCE_S) as reply:  # noqa: S310 - the same
        return json.load(reply)
