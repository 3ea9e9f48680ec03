"""Effects carried out: each runs a flow over the transport and comes back as exactly one report.

Nothing here raises, and nothing here decides: what an answer means for the job is the decider's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.messages import Command, Owed, Queued, Running, Sent, Storing
from rushes.actors.schedule import backoff_s
from rushes.actors.tally import CountedLine, Tally
from rushes.adapters.base import (
    CALLBACK,
    Adapter,
    Broken,
    Done,
    Failed,
    Flow,
    FlowName,
    Outcome,
    Output,
    Prepared,
    Recorder,
    Request,
    Sink,
    Stopped,
    Tap,
    Transport,
    Unfinished,
    Vanished,
    body_digest,
    drive,
)
from rushes.adapters.callbacks import Callbacks, with_callback
from rushes.adapters.capabilities import Terms
from rushes.adapters.catalogue import row_of
from rushes.adapters.fit import estimate
from rushes.assets import Assets, StorageTrouble, WrongSize, take_key
from rushes.faults import BadRequest, Fault, RushesError
from rushes.media import MediaTrouble, Unexamined
from rushes.units import AssetRef, Clock, Handle, submission_key
from rushes.video import Probe, Take, Target, VideoSpec

T = TypeVar("T")

MAX_REFRESHES = 10  # in a row of addresses that did not live as long as was said, before a take counts as lost
FRESH_S = 30.0  # a new address may need a moment until it works
MAX_BAD_FILES = 12  # answers that are no video, before a take counts as lost
MAX_BAD_PICTURES = 6  # tries, for about a minute, before a picture beside a video does
_log = structlog.get_logger("rushes")
ProbeFile = Callable[[Path], Awaitable[Probe]]


class Performer:
    """Knows the adapters, the transport and the asset store, and turns effects into reports."""

    def __init__(
        self,
        adapters: Mapping[str, Adapter],
        transport: Transport,
        assets: Assets,
        clock: Clock,
        probe: ProbeFile,
        recorder: Recorder | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        """`callbacks`: providers that can are asked to call; None: no one is."""
        self._adapters, self._transport, self._assets, self._clock = adapters, transport, assets, clock
        self._probe, self._recorder, self._callbacks = probe, recorder, callbacks
        self.tally = Tally()  # the system's as well

    def perform_at_once(self, owed: Owed, job: m.Job, job_id: str, incarnation: str) -> Command | None:
        """Carry out an effect that needs nobody else; None where it does."""
        try:
            return self._at_once(owed, job, job_id, incarnation)
        except Exception as error:  # noqa: BLE001 - as below
            return _bug(error, owed, job_id)

    async def perform(self, owed: Owed, job: m.Job, job_id: str, bad_files: int, trace: str = "") -> Command:
        """Carry out one effect. `bad_files` counts the answers to this that were none."""
        tap = None if self._recorder is None else self._recorder.tap(job_id, owed.attempt, trace)
        try:
            report = await self._perform(owed, job, job_id, bad_files, tap)
        except Exception as error:  # noqa: BLE001 - a bug in an adapter must not stop the system, nor lose a paid call
            report = _bug(error, owed, job_id)
        report = _given_up(report, owed, bad_files) or report
        return replace(report, exchanges=tuple(tap.ids)) if tap is not None and tap.ids else report

    def _at_once(self, owed: Owed, job: m.Job, job_id: str, incarnation: str) -> Command | None:
        match owed, job:
            case m.AskPermit(), Queued():
                return self._permit(job, job_id, incarnation)
            case m.DeclareDoubt(), Sent():
                lost = Fault("no_answer", "The process ended before the provider's answer was on disk.", retryable=True)
                return m.RecordDoubt(attempt=owed.attempt, send=owed.send, fault=lost)
            case ((m.WritePrompt() | m.Reserve()), Queued()):
                denied = Fault("unsupported_feature", "This release neither writes prompts nor reserves budgets.")
                return m.RecordDenied(attempt=job.attempt, fault=denied)
            case m.AwaitCallback(), _:
                return m.Wake()
            case _:
                return None

    async def _perform(self, owed: Owed, job: m.Job, job_id: str, bad_files: int, tap: Tap | None) -> Command:
        match owed, job:
            case m.Ask(), Running():
                return await self._ask(job, tap)
            case m.Send(), Sent():
                return await self._send(job, job_id, tap)
            case m.Prepare(), Queued():
                return await self._prepare(job, job_id, tap)
            case m.SendAgain(), Sent():
                return await self._send_again(job, job_id, owed, tap)
            case m.Look(), Sent():
                return await self._look(job, owed, tap)
            case m.CancelRemote(), Running():
                return await self._cancel(job, tap, poll_first=owed.poll_first)
            case m.Store(), Storing():
                return await self._store(job, job_id, owed, bad_files, tap)
            case _:
                return m.Wake()

    async def _run(
        self, flow: Flow[T], name: FlowName, job: Queued | Sent, tap: Tap | None, sink: Sink | None = None
    ) -> T:
        """A flow over the transport; counted, and overheard where there is a tap."""
        line = self._transport if tap is None else tap.on(self._transport, name)
        line = CountedLine(line, self.tally, name)
        return await drive(flow, line, self._adapters[job.target.provider], job.target, sink)

    async def _prepare(self, job: Queued, job_id: str, tap: Tap | None) -> Command:
        adapter = self._adapters[job.target.provider]
        try:
            flow = adapter.prepare(_spec(job), job.target, submission_key(job_id, job.attempt))
            prepared = await self._run(flow, "prepare", job, tap)
        except Failed as failed:
            if failed.certain and not failed.fault.retryable:
                return m.RecordDenied(attempt=job.attempt, fault=failed.fault)
            return m.RecordTrouble(fault=failed.fault)
        return m.RecordPrepared(attempt=job.attempt, prepared=prepared)

    def _permit(self, job: Queued, job_id: str, incarnation: str) -> Command:
        """What the intent will pin, worked out before anything is sent."""
        adapter, spec = self._adapters[job.target.provider], _spec(job)
        key = submission_key(job_id, job.attempt)
        flow = adapter.submit(spec, job.target, self._prepared(job, job_id), key)
        try:
            model = row_of(adapter, job.target.model, spec)
            request = next(flow)
        except Failed as failed:
            return m.RecordDenied(attempt=job.attempt, fault=failed.fault)
        except BadRequest as refused:  # the model was offered when the job was asked for, and is not any more
            return m.RecordDenied(attempt=job.attempt, fault=refused.faults[0])
        finally:
            flow.close()
        assert isinstance(request, Request)
        return m.GrantPermit(
            attempt=job.attempt,
            incarnation=incarnation,
            key=key,
            body_sha256=body_digest(request),
            max_cost=estimate(spec, model),
            terms=self._terms(adapter, spec, job.target),
        )

    def _terms(self, adapter: Adapter, spec: VideoSpec, target: Target) -> Terms:
        terms = adapter.terms(spec, target)
        return terms if self._callbacks is None else with_callback(terms, adapter.capabilities.webhook)

    def _prepared(self, job: Queued, job_id: str, send: int = 0) -> Prepared:
        """What was prepared, and the address to call back. Send 0 is for the digest, which all sends share."""
        prepared = job.prepared or {}
        if self._callbacks is None or self._adapters[job.target.provider].capabilities.webhook is None:
            return prepared
        return {**prepared, CALLBACK: self._callbacks.url(job.target.provider, job_id, job.attempt, send)}

    async def _submit(self, job: Sent, job_id: str, tap: Tap | None) -> m.RecordAccepted:
        adapter, queued = self._adapters[job.target.provider], job.queued
        prepared = self._prepared(queued, job_id, job.started.send)
        flow = adapter.submit(_spec(queued), job.target, prepared, job.started.key)
        handle = await self._run(flow, "submit", job, tap)
        return m.RecordAccepted(attempt=job.attempt, send=job.started.send, handle=handle)

    async def _send(self, job: Sent, job_id: str, tap: Tap | None) -> Command:
        attempt, send = job.attempt, job.started.send
        try:
            return await self._submit(job, job_id, tap)
        except Failed as failed:
            fault = failed.fault
            if not failed.certain:
                return m.RecordDoubt(attempt=attempt, send=send, fault=fault)
            if not fault.retryable:
                return m.RecordRefused(attempt=attempt, send=send, fault=fault)
            wait_s = max(fault.retry_after_s or 0.0, backoff_s(job_id, send - 1, attempt))
            return m.RecordRefused(attempt=attempt, send=send, fault=fault, retry_at=self._clock.now() + wait_s)

    async def _send_again(self, job: Sent, job_id: str, owed: m.SendAgain, tap: Tap | None) -> Command:
        if self._clock.now() >= owed.until:
            return m.Wake()
        try:
            return await self._submit(job, job_id, tap)
        except Failed as failed:  # says nothing about the first send
            return m.RecordTrouble(fault=failed.fault)

    async def _look(self, job: Sent, owed: m.Look, tap: Tap | None) -> Command:
        adapter, looked_at = self._adapters[job.target.provider], self._clock.now()
        try:
            flow = adapter.find(job.target, job.started.key, owed.since)
            handle = await self._run(flow, "find", job, tap)
        except Failed as failed:
            return m.RecordTrouble(fault=failed.fault)
        if handle is None:
            return m.RecordAbsent(attempt=owed.attempt, send=owed.send, looked_at=looked_at)
        return m.RecordAccepted(attempt=owed.attempt, send=owed.send, handle=handle)

    async def _status(self, job: Running | Storing, tap: Tap | None) -> Outcome:
        adapter = self._adapters[job.target.provider]
        return await self._run(adapter.status(self._handle(job), job.target), "status", job, tap)

    def _handle(self, job: Running | Storing) -> Handle:
        """With what the request tells: of a job that was found, or named by a person, only the id is known."""
        told = self._adapters[job.target.provider].beside_id(_spec(job.queued), job.target)
        return replace(job.handle, extra={**told, **job.handle.extra}) if told else job.handle

    async def _ask(self, job: Running, tap: Tap | None) -> Command:
        try:
            return _outcome(job, await self._status(job, tap))
        except Failed as failed:
            return m.RecordTrouble(fault=failed.fault)

    async def _cancel(self, job: Running, tap: Tap | None, *, poll_first: bool) -> Command:
        adapter = self._adapters[job.target.provider]
        try:
            if poll_first and not isinstance(outcome := await self._status(job, tap), Unfinished):
                return _outcome(job, outcome)
            flow = adapter.cancel(job.handle, job.target)
            answer = await self._run(flow, "cancel", job, tap)
        except Failed as failed:
            truth = await self._ask(job, tap)  # it may have ended, and then there is nothing left to cancel
            still = isinstance(truth, m.RecordProgress | m.RecordTrouble)
            return m.RecordTrouble(fault=failed.fault) if still else truth
        return m.RecordCancel(attempt=job.attempt, answer=answer)

    async def _store(self, job: Storing, job_id: str, owed: m.Store, bad_files: int, tap: Tap | None) -> Command:
        adapter, output = self._adapters[job.target.provider], job.outputs[owed.index]
        key = take_key(job.facts.spec.customer_id, job.facts.at, job_id, owed.index, output.media_type)
        try:
            flow = adapter.download(output, self._handle(job), job.target)
            asset = await self._run(flow, "download", job, tap, self._assets.sink(key))
            probe = await self._probed(asset, output)
        except Failed as failed:
            if failed.fault.code == "asset_expired" and self._clock.now() - job.links_at >= FRESH_S:
                return await self._refresh(job, owed, failed.fault, tap)
            return m.RecordTrouble(fault=failed.fault)
        except WrongSize as short:
            return m.RecordTrouble(fault=Fault("bad_answer", short.detail, retryable=True))
        except MediaTrouble as trouble:
            what = f"What the provider delivered is no {output.kind}: {trouble.detail}"
            fault = Fault("bad_answer", what, retryable=True)
            if bad_files >= MAX_BAD_FILES or owed.beside:  # a video in the place of a picture comes again, as large
                return m.RecordLost(attempt=job.attempt, index=owed.index, fault=fault)
            return m.RecordTrouble(fault=fault)
        except (StorageTrouble, OSError) as error:  # ours, so never the job's fault
            detail = error.detail if isinstance(error, RushesError) else f"{type(error).__name__}: {error.strerror}"
            return m.RecordTrouble(fault=Fault("storage_failed", detail, retryable=True))
        take = Take(index=owed.index, kind=output.kind, asset=asset, probe=probe)
        return m.RecordStored(attempt=job.attempt, take=take)

    async def _probed(self, asset: AssetRef, output: Output) -> Probe:
        """What a video says of itself. One that cannot be looked at here is kept all the same: it was paid for."""
        if output.kind != "video":
            if not asset.media_type.startswith("image/"):
                raise MediaTrouble(f"It is {asset.media_type}.")
            return Probe()
        try:
            return await self._probe(self._assets.path(asset.key))
        except Unexamined:
            return Probe()

    async def _refresh(self, job: Storing, owed: m.Store, fault: Fault, tap: Tap | None) -> Command:
        """The address stopped working: ask for a new one, a few times."""
        lost = m.RecordLost(attempt=job.attempt, index=owed.index, fault=fault)
        if owed.refreshes >= MAX_REFRESHES:
            return lost
        try:
            outcome = await self._status(job, tap)
        except Failed as failed:
            return m.RecordTrouble(fault=failed.fault)
        match outcome:
            case Done(outputs=outputs) if len(outputs) == len(job.outputs):
                return m.RecordLinks(attempt=job.attempt, outputs=outputs)
            case Unfinished():
                return m.RecordTrouble(fault=fault)
            case _:
                return lost


def _given_up(report: Command, owed: Owed, bad_files: int) -> m.RecordLost | None:
    """A picture that did not come for so long: the video that it stands beside is kept already."""
    if not isinstance(owed, m.Store) or not owed.beside or bad_files < MAX_BAD_PICTURES:
        return None
    if not isinstance(report, m.RecordTrouble) or report.fault.code == "storage_failed":
        return None
    return m.RecordLost(attempt=owed.attempt, index=owed.index, fault=report.fault)


def _bug(error: Exception, owed: Owed, job_id: str) -> Command:
    _log.error("effect.failed", job=job_id, effect=type(owed).__name__, error=type(error).__name__, exc_info=error)
    fault = Fault("internal_error", f"{type(error).__name__} while performing {type(owed).__name__}.")
    if isinstance(owed, m.Send):
        return m.RecordDoubt(attempt=owed.attempt, send=owed.send, fault=fault)
    return m.RecordTrouble(fault=fault)


def _spec(job: Queued) -> VideoSpec:
    """What the provider is asked: the request, with the prompt that was written for it."""
    spec = job.facts.spec
    return replace(spec, prompt=job.facts.prompt) if job.prompt_written else spec


def _outcome(job: Running, outcome: Outcome) -> Command:
    attempt = job.attempt
    match outcome:
        case Unfinished(percent=percent, wait_s=wait_s):
            return m.RecordProgress(attempt=attempt, percent=percent, wait_s=wait_s)
        case Done():
            return m.RecordFinished(attempt=attempt, **msgspec.structs.asdict(outcome))
        case Broken(fault=fault, billed=billed):
            return m.RecordBroken(attempt=attempt, fault=fault, billed=billed)
        case Stopped(billed=billed):
            return m.RecordStopped(attempt=attempt, billed=billed)
        case Vanished():
            return m.RecordVanished(attempt=attempt)
