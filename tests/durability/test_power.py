"""The power goes at any moment, often: what was acknowledged is there, and no append is there by half.

The functions that ship run over a disk of our own (tests/support/powercut.py). After every cut two look at what is
left: Python's own sqlite3 at a copy, and the driver of the disk, which goes on with the very bytes the cut left behind.
Processes are killed in between: what such a one left unsynced must be synced before it is believed.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import apsw
import pytest
from ledger import Broken, Ledger
from powercut import VERSIONS, Disk, PowerCut, disconnect

from rushes.eventstore.base import Birth, Head, NewEvent, Stored, Write
from rushes.eventstore.transactions import _WRITER, Heads, append_batch, checkpoint, look, set_pragmas, set_up
from rushes.testing.eventstore import birth

# An error of the disk that SQLite can do without is reported by its driver as one that nobody caught.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None")

HISTORIES: Final = 50 if os.environ.get("RUSHES_NIGHTLY") else 6
CUTS: Final = 10  # a history
OPERATIONS: Final = {"set-up": 10, "append": 25, "checkpoint": 15, "close": 20, "idle": 0}  # of the disk, about
FIRST_OPERATIONS: Final = 40  # of the disk, about, until a new log stands


class History:
    """One log through many lives. All of it follows from the seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.disk = Disk(folder / f"disk {seed}", self.rng)
        self.kind: type[apsw.Connection] = apsw.Connection
        self.set_up: Callable[[sqlite3.Connection], None] = set_up
        self.ledger = Ledger()
        self.doubtful: list[Write] = []  # nobody was told about these
        self.versions: dict[int, int] = {}
        self.doing = ""
        self.seen: Counter[str] = Counter()

    def suffer(self, cuts: int) -> None:
        """Live and be cut off, so many times. Raises Broken."""
        try:
            for number in range(cuts):
                moment = self.rng.choice(list(OPERATIONS)) if number else "set-up"
                self.live(moment, OPERATIONS[moment] if number else FIRST_OPERATIONS)
                self.seen[self.doing if self.disk.off else "idle"] += 1
                image = self.disk.cut()
                disconnect(self.connection)
                self.ledger.judge(image)
                self.disk.restore(image)
        except Exception as error:
            error.add_note(f"This was history {self.seed}.")
            raise

    def live(self, moment: str, operations: int) -> None:
        """One life: it ends within so many operations of the disk of that moment, or behind it."""
        deeds = {"append": self.append, "checkpoint": self.checkpoint, "close": self.close, "killed": self.be_killed}
        try:
            if moment == "set-up":
                self.disk.cut_in = self.rng.randrange(operations)
            self.start()
            for deed in self.rng.choices(list(deeds), [6, 2, 1, 2], k=self.rng.randint(1, 8)):
                deeds[deed]()
            if moment in deeds:
                self.disk.cut_in = self.rng.randrange(operations)
                deeds[moment]()
        except apsw.Error:
            if not self.disk.off:
                raise

    # ── What a process does ───────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Open the log, and ask again for what is in doubt."""
        self.doing = "set-up"
        self.connection = self.disk.connect(self.kind)
        self.set_up(self.connection)
        (self.ledger.epoch,) = self.connection.execute("SELECT value FROM store WHERE key = 'epoch'").fetchone()
        self.heads = Heads()
        self.ledger.note(self.doubtful, look(self.connection, self.heads, self.doubtful))
        self.ask(self.doubtful)

    def append(self) -> None:
        """Several appends in one transaction."""
        self.doing = "append"
        for _ in range(self.rng.randint(1, 4)):
            self.doubtful.append(self.write())
        self.ask(self.doubtful)

    def checkpoint(self) -> None:
        """As the store does it when it rests."""
        self.doing = "checkpoint"
        checkpoint(self.connection, "PASSIVE")

    def close(self) -> None:
        """As the store does it; then it is opened again."""
        self.doing = "close"
        checkpoint(self.connection, "TRUNCATE")
        disconnect(self.connection)
        self.start()

    def be_killed(self) -> None:
        """The process is killed at work, not the computer, and another one starts."""
        self.disk.cut_in = self.rng.randrange(OPERATIONS["append"])
        try:
            self.append()
        except apsw.Error:
            self.seen["killed"] += 1
        self.disk.kill(self.connection)
        self.start()

    def ask(self, writes: Sequence[Write]) -> None:
        """Append them, and note what the callers are told."""
        self.ledger.note(writes, [None] * len(writes))
        answers = append_batch(self.connection, self.heads, writes).answers if writes else []
        self.ledger.note(writes, answers)
        for write, answer in zip(writes, answers, strict=True):
            if isinstance(answer, Stored):
                self.versions[answer.stream] = write.expected + len(write.events)
        self.doubtful = [write for write in writes if write.token not in self.ledger.told]
        if self.doubtful:
            raise PowerCut("not all was answered") if self.disk.off else Broken("lost", answers)

    def write(self) -> Write:
        """Something to append: a birth, or more of a stream."""
        rng = self.rng
        lengths = [rng.choice([20, 300, 300, 9_000]) for _ in range(rng.randint(1, 5))]
        events = [NewEvent("take.stored", 1, rng.random(), b'"%x"' % rng.getrandbits(8 * size)) for size in lengths]
        token, head = rng.getrandbits(63), Head(open=rng.random() < 0.5, lane=rng.choice("ab"))
        free = sorted(set(self.versions) - {write.stream for write in self.doubtful})
        if not free or rng.random() < 0.3:
            return Write(Birth(f"job_{token}", "job", rng.choice("xy")), 0, events, head, token)
        stream = rng.choice(free)
        return Write(stream, self.versions[stream], events, head, token)


def test_when_the_power_goes_nothing_acknowledged_is_lost_and_nothing_is_torn(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    acknowledged = 0
    for seed in range(HISTORIES):
        history = History(tmp_path, seed)
        history.suffer(CUTS)
        seen += history.seen
        acknowledged += len(history.ledger.told)
    print(f"{VERSIONS}: {HISTORIES * CUTS} power cuts, {acknowledged} acknowledged appends; when: {dict(seen)}")
    assert set(seen) == {*OPERATIONS, "killed"}
    assert acknowledged > HISTORIES * CUTS


# ── Controls ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Hasty(apsw.Connection):
    """Says that it committed, and does so when the next transaction begins."""

    def execute(self, statements: str, *arguments: Any, **keywords: Any) -> apsw.Cursor:
        """See apsw."""
        if statements == "COMMIT":
            return self.cursor()
        if statements.startswith(("BEGIN", "PRAGMA wal_")) and self.in_transaction:
            super().execute("COMMIT")
        return super().execute(statements, *arguments, **keywords)


def setting(synchronous: str) -> Callable[[sqlite3.Connection], None]:
    """A log that syncs less than it should."""

    def set_up_with_less(connection: sqlite3.Connection) -> None:
        set_up(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    return set_up_with_less


def broken(
    folder: Path,
    set_up: Callable[[sqlite3.Connection], None] = set_up,
    kind: type[apsw.Connection] = apsw.Connection,
) -> Counter[str]:
    """In which ways histories end where something is wrong on purpose."""
    how: Counter[str] = Counter()
    for seed in range(20):
        history = History(folder, seed)
        history.kind, history.set_up = kind, set_up
        try:
            history.suffer(CUTS)
        except Broken as found:
            how[found.how] += 1
    print(f"{VERSIONS}: of 20 histories of {CUTS} power cuts, {dict(how)}")
    return how


def test_control_with_synchronous_normal_the_tail_is_lost(tmp_path: Path) -> None:
    assert set(broken(tmp_path, setting("NORMAL"))) == {"lost"}


def test_control_without_syncs_the_file_itself_is_torn(tmp_path: Path) -> None:
    assert set(broken(tmp_path, setting("OFF"))) >= {"lost", "corrupt"}


def test_control_acknowledged_before_the_commit_something_is_lost(tmp_path: Path) -> None:
    assert set(broken(tmp_path, kind=Hasty)) == {"lost"}


# ── What a killed process leaves ──────────────────────────────────────────────────────────────────────────────────────


def lost_after_a_kill(folder: Path, set_up_again: Callable[[sqlite3.Connection], None]) -> int:
    """Kill at every operation of an append, ask again, and cut the power: how often was the answer not true?"""
    lost = 0
    for operation in range(OPERATIONS["append"]):
        disk, ledger = Disk(folder / f"disk {operation}", random.Random(operation)), Ledger()
        connection = disk.connect()
        set_up(connection)
        disk.cut_in = operation
        try:
            append_batch(connection, Heads(), [birth("job_1", 3)])
        except apsw.Error:
            disk.kill(connection)
            connection = disk.connect()
            set_up_again(connection)
        ledger.note([birth("job_1", 3)], append_batch(connection, Heads(), [birth("job_1", 3)]).answers)
        image = disk.cut("nothing")
        disconnect(connection)
        try:
            ledger.judge(image)
        except Broken:
            lost += 1
    return lost


def set_up_beside_a_reader(connection: sqlite3.Connection) -> None:
    """Somebody reads an older state, so that the checkpoint cannot move everything."""

    class Blocked:
        def execute(self, sql: str) -> object:
            if "wal_checkpoint" in sql:
                return connection.execute("SELECT 0, 9, 3")
            return connection.execute(sql)

    set_up(cast("sqlite3.Connection", Blocked()))


def set_up_in_good_faith(connection: sqlite3.Connection) -> None:
    set_pragmas(_WRITER, connection)


def test_what_a_killed_process_left_is_synced_before_it_is_believed(tmp_path: Path) -> None:
    assert lost_after_a_kill(tmp_path, set_up) == 0


def test_also_while_somebody_reads_an_older_state(tmp_path: Path) -> None:
    assert lost_after_a_kill(tmp_path, set_up_beside_a_reader) == 0


def test_control_what_was_believed_unsynced_is_lost(tmp_path: Path) -> None:
    assert lost_after_a_kill(tmp_path, set_up_in_good_faith) > 0
