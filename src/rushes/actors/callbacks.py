"""What providers say by themselves. It moves a job in one way only: the provider has it, under this id.

Everything else that a callback says is a hint to ask the provider, with our own key, as soon as the job's minimum
interval allows. So a callback may come early, late, twice, in any order, or never.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import structlog

from rushes.actors import messages as m
from rushes.actors.job import phase_word
from rushes.actors.system import System
from rushes.adapters.base import Adapter
from rushes.adapters.callbacks import Callbacks
from rushes.faults import AccessDenied, NotFound, bad
from rushes.units import Clock

_log = structlog.get_logger("rushes")


class Hearing:
    """Where callbacks come in, once they are read whole."""

    def __init__(
        self, system: System, adapters: Mapping[str, Adapter], clock: Clock, callbacks: Callbacks | None
    ) -> None:
        """Without `callbacks` no provider is asked to call, and none is heard."""
        self._system, self._adapters, self._clock, self._callbacks = system, adapters, clock, callbacks

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
        if (unsigned := callbacks.unsigned(provider, headers, body, self._clock.now())) is not None:
            _refuse(provider, unsigned.reason)
        job = (await self._system.look(about.job)).job
        if isinstance(job, m.New):
            raise NotFound(f"There is no job {about.job}.", job_id=about.job)
        if (told := adapter.callback(body, job.target)) is None:
            raise bad("body", f"This is not what {provider} says about a job.")
        report = m.RecordAccepted(attempt=about.attempt, send=about.send, handle=told.handle)
        job = (await self._system.ask(about.job, report)).job
        _log.info("callback.heard", provider=provider, job=about.job, phase=phase_word(job), final=told.final)
        if not isinstance(job, m.Running) or (job.attempt, job.started.send) != (about.attempt, about.send):
            return
        if job.handle.id != told.handle.id:  # one send of ours, and two jobs of theirs
            _log.warning("callback.of_another_job", provider=provider, job=about.job)
        elif told.final:
            await self._system.poll_soon(about.job)


def _refuse(provider: str, reason: str) -> NoReturn:
    """The reason is for our log; a stranger learns nothing from it."""
    _log.warning("callback.refused", provider=provider, reason=reason)
    raise AccessDenied("The address is not one that was given out here, or it was not its provider that called it.")
