"""What providers say by themselves. It moves a job in one way only: the provider has it, under this id.

Everything else that a callback says is a hint to ask the provider, with our own key, as soon as the job's minimum
interval allows. So a callback may come early, late, twice, in any order, or never.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn
from urllib.parse import urlencode

import structlog

from rushes.actors import messages as m
from rushes.actors.job import phase_word
from rushes.actors.system import System
from rushes.adapters.base import Adapter, Call, CallRecorder, Heeded, Request
from rushes.adapters.callbacks import PATH, About, Callbacks
from rushes.faults import AccessDenied, Code, NotFound, RushesError, bad
from rushes.units import Clock
from rushes.video import Target

STATUS: Final[dict[Code, int]] = {"invalid_input": 400, "unavailable": 503}  # in which such trouble is told

_log = structlog.get_logger("rushes")


class Hearing:
    """Where callbacks come in, once they are read whole."""

    def __init__(
        self,
        system: System,
        adapters: Mapping[str, Adapter],
        clock: Clock,
        callbacks: Callbacks | None,
        recorder: CallRecorder | None = None,
    ) -> None:
        """Without `callbacks` no provider is asked to call, and none is heard: nobody can reach this process."""
        self._system, self._adapters, self._clock, self._callbacks = system, adapters, clock, callbacks
        self._recorder = recorder

    @property
    def host(self) -> str:
        """The name under which providers call; empty where none does."""
        return self._callbacks.host if self._callbacks else ""

    async def hear(self, provider: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> None:
        """Take in one callback; it is on disk, or was no news, when this returns.

        Args:
            provider: the last part of the address that was called.
            query: of that address.
            headers: all of them.
            body: the very bytes that came.

        Raises:
            NotFound: no provider calls here under that name, or there is no such job.
            AccessDenied: it is not an address of ours, or the signature is not the provider's.
            BadRequest: the body is none of the provider's callbacks.
            Unavailable: the log takes nothing at the moment; it may come again.
        """
        adapter, callbacks = self._adapters.get(provider), self._callbacks
        if callbacks is None or adapter is None or adapter.capabilities.webhook is None:
            raise NotFound(f"Nobody calls back here as {provider!r}: no such address was given out.")
        if (about := callbacks.about(provider, query)) is None:
            _refuse(provider, "not_ours")
        unsigned = callbacks.unsigned(provider, headers, body, self._clock.now())
        snapshot = await self._system.look(about.job)
        if isinstance(snapshot.job, m.New):
            raise NotFound(f"There is no job {about.job}.", job_id=about.job)
        call = self._call(adapter, about, snapshot.trace, headers, body)
        try:
            if unsigned is None:
                heeded = await self._heed(adapter, about, snapshot.job.target, body, call.id)
            else:
                heeded = Heeded(status=403, worth="refused", why=unsigned.reason)
        except BaseException as error:
            call.ended(_troubled(error))
            raise
        call.ended(heeded)
        if heeded.worth == "refused":
            _refuse(provider, heeded.why)

    def _call(self, adapter: Adapter, about: About, trace: str, headers: Mapping[str, str], body: bytes) -> Call:
        if self._recorder is None:
            return _Unrecorded()
        query = urlencode({"job": about.job, "attempt": about.attempt, "send": about.send})
        request = Request(method="POST", url=f"{PATH}{adapter.name}?{query}", headers=headers)
        return self._recorder.call(about.job, about.attempt, trace, adapter, request, body)

    async def _heed(self, adapter: Adapter, about: About, target: Target, body: bytes, exchange: int) -> Heeded:
        """Act on what is the provider's word. Where it moves the job, its event names the exchange."""
        if (told := adapter.callback(body, target)) is None:
            raise bad("body", f"This is not what {adapter.name} says about a job.")
        report = m.RecordAccepted(
            attempt=about.attempt,
            send=about.send,
            handle=told.handle,
            exchanges=(exchange,) if exchange else (),
        )
        snapshot, moved = await self._system.tell(about.job, report)
        job = snapshot.job
        _log.info("callback.heard", provider=adapter.name, job=about.job, phase=phase_word(job), final=told.final)
        if isinstance(job, m.Sent) and (job.attempt, job.started.send) != (about.attempt, about.send):
            why = "another_send"
        elif not isinstance(job, m.Running):
            why = "late"
        elif job.handle.id != told.handle.id:  # one send of ours, and two jobs of theirs
            _log.warning("callback.of_another_job", provider=adapter.name, job=about.job)
            why = "another_job"
        elif told.final:
            await self._system.poll_soon(about.job)
            return Heeded(status=204, worth="accepted" if moved else "hint")
        else:
            why = "under_way"
        return Heeded(status=204, worth="accepted") if moved else Heeded(status=204, worth="nothing", why=why)


class _Unrecorded:
    """The call where there is no record."""

    id = 0

    def ended(self, result: Heeded | BaseException) -> None:
        """Nobody keeps it."""


def _troubled(error: BaseException) -> Heeded | BaseException:
    if not isinstance(error, RushesError):
        return error
    return Heeded(status=STATUS.get(error.code, 500), worth="refused", why=error.code)


def _refuse(provider: str, reason: str) -> NoReturn:
    """The reason is for our log; a stranger learns nothing from it."""
    _log.warning("callback.refused", provider=provider, reason=reason)
    raise AccessDenied("The address is not one that was given out here, or it was not its provider that called it.")
