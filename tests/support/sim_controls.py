"""Rules broken on purpose, each at a seam of the real system: the simulation must see every one of them."""

from __future__ import annotations

import random
from itertools import count
from typing import Final

from msgspec.structs import replace
from sim_provider import SimAdapter
from sim_world import Control, Disk, Life

from rushes.actors import codec
from rushes.actors import messages as m
from rushes.adapters.base import Adapter, Flow, Prepared
from rushes.adapters.capabilities import CancelKind, DoubtClass, Terms
from rushes.eventstore.base import NewEvent, Recorded, Stored, Write
from rushes.units import Handle
from rushes.video import Target, VideoSpec


class Hasty(Disk):
    """Says that an intent is stored, and stores it with the next event: what is sent meanwhile has none."""

    first_too = True  # False: only the first send of an attempt has its intent in time

    def __init__(self, life: Life) -> None:
        super().__init__(life)
        self._held: dict[int, Write] = {}

    async def append(self, write: Write) -> Stored:
        if isinstance(write.stream, int) and write.stream in self._held:
            await super().append(self._held[write.stream])
            del self._held[write.stream]
        if not self._may_wait(write.events[-1]):
            return await super().append(write)
        *others, intent = write.events
        stream, last = write.stream, self.position
        if others:
            stored = await super().append(replace(write, events=others))
            stream, last = stored.stream, stored.last
        assert isinstance(stream, int)
        self._held[stream] = replace(write, stream=stream, expected=write.expected + len(others), events=[intent])
        return Stored(stream, last, last)

    def _may_wait(self, event: NewEvent) -> bool:
        if event.type != "submission.started":
            return False
        intent = codec.decode(Recorded(0, 0, 0, event.type, event.v, event.at, event.data, None, 0, 0))
        return self.first_too or (isinstance(intent, m.SubmissionStarted) and intent.send > 1)


class OnePerAttempt(Hasty):
    """The intent of a repeated send is not waited for: that of the attempt's first has to do."""

    first_too = False


class FreshKeys(SimAdapter):
    """Makes a new key whenever it sends."""

    def __init__(self, doubt: DoubtClass, cancel_kind: CancelKind) -> None:
        super().__init__(doubt, cancel_kind)
        self._serial = count()  # of this run: the same seed is the same run

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        return super().submit(spec, target, prepared, f"{key}-{next(self._serial)}")


class Harmless(SimAdapter):
    """Claims that a cancel destroys nothing."""

    def terms(self, spec: VideoSpec, target: Target) -> Terms:
        terms = super().terms(spec, target)
        return replace(terms, cancel="stops") if terms.cancel == "destroys" else terms


class SameAgain(random.Random):
    """Gives every system the same incarnation."""

    first = True

    def getrandbits(self, k: int, /) -> int:
        drawn = super().getrandbits(k)
        if self.first:
            self.first = False
            return 7
        return drawn


class NoIntent(Control):
    name = "no_intent"

    def disk(self, life: Life) -> Disk:
        return Hasty(life)


class IntentPerAttempt(Control):
    name = "intent_per_attempt"

    def disk(self, life: Life) -> Disk:
        return OnePerAttempt(life)


class KeyInLoop(Control):
    name = "key_in_loop"

    def adapter(self, adapter: SimAdapter) -> Adapter:
        return FreshKeys(adapter.doubt, adapter.cancel_kind)


class NoIncarnation(Control):
    name = "no_incarnation"

    def rng(self, seed: str) -> random.Random:
        return SameAgain(seed)


class DestructiveCancel(Control):
    name = "destructive_cancel"

    def adapter(self, adapter: SimAdapter) -> Adapter:
        return Harmless(adapter.doubt, adapter.cancel_kind)


BREAKS: Final[dict[str, type[Control]]] = {
    kind.name: kind for kind in (NoIntent, KeyInLoop, NoIncarnation, IntentPerAttempt, DestructiveCancel)
}
