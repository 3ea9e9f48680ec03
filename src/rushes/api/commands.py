"""Commands over the socket: each does what the HTTP route of its name does, and fails as that does."""

from __future__ import annotations

from typing import Final

import structlog

from rushes.api.auth import Scope, Who
from rushes.api.protocol import (
    BatchArgs,
    BatchBody,
    CancelArgs,
    CollectArgs,
    Command,
    CommandName,
    Error,
    JobArgs,
    Result,
    error_frame,
)
from rushes.eventstore.base import Damaged, StoreError
from rushes.faults import RushesError, Unavailable, bad, damaged
from rushes.studio import Studio
from rushes.units import Billed
from rushes.video import JobView, VideoRequest, decode

NEEDS: Final[dict[CommandName, Scope]] = {
    "generate": "generate",
    "show": "read",
    "poll": "generate",
    "cancel": "generate",
    "collect": "generate",
    "submit_batch": "generate",
    "batch": "read",
}
_log = structlog.get_logger("rushes")


async def answer(studio: Studio, frame: Command, who: Who) -> Result | Error:
    """Carry a command out, and say what came of it, whatever went wrong."""
    billed: Billed = "no" if NEEDS[frame.name] == "read" else "unknown"
    try:
        return await _carried_out(studio, frame, who)
    except RushesError as error:
        return error_frame(error, frame.id)
    except Damaged as error:
        return error_frame(damaged("", error.damage.version, error.damage.position), frame.id)
    except StoreError as error:
        _log.error("store.failed", command=frame.name, error=type(error).__name__, detail=str(error))
        return error_frame(Unavailable("The log cannot be used at the moment: try again.", billed=billed), frame.id)
    except Exception as error:  # noqa: BLE001 - the last line: a bug is told as one, and logged
        _log.error("command.failed", command=frame.name, exc_info=error)
        detail = "Something went wrong in rushes itself; its log says what."
        return error_frame(RushesError(detail, billed=billed), frame.id)


async def _carried_out(studio: Studio, frame: Command, who: Who) -> Result:
    who.require(NEEDS[frame.name])
    if frame.name in {"generate", "submit_batch"}:
        return await _begin(studio, frame, who)
    if frame.idempotency_key is not None:
        detail = f"{frame.name!r} has no idempotency key: asked twice, it does no more. Leave it out."
        raise bad("idempotency_key", detail)
    if frame.name == "batch":
        args = decode(bytes(frame.args), BatchArgs)
        return Result(id=frame.id, name=frame.name, batch=await studio.batch(args.batch, who.tenant))
    return Result(id=frame.id, name=frame.name, job=await _steer(studio, frame, who.tenant))


async def _begin(studio: Studio, frame: Command, who: Who) -> Result:
    key = frame.idempotency_key
    if key is not None and not key.strip():
        raise bad("idempotency_key", "The idempotency_key is empty: leave it out, or send a key.")
    if frame.name == "submit_batch":
        requests = decode(bytes(frame.args), BatchBody).requests
        batch, replayed = await studio.submit_batch(requests, key or "", who.tenant)
        return Result(id=frame.id, name=frame.name, batch=batch, replayed=replayed)
    view, replayed = await studio.submit(decode(bytes(frame.args), VideoRequest), key or "", who.tenant)
    return Result(id=frame.id, name=frame.name, job=view, replayed=replayed)


async def _steer(studio: Studio, frame: Command, tenant: str) -> JobView:
    args = bytes(frame.args)
    match frame.name:
        case "cancel":
            cancel = decode(args, CancelArgs)
            return await studio.cancel(cancel.job, discard=cancel.discard, tenant=tenant)
        case "collect":
            collect = decode(args, CollectArgs)
            return await studio.collect(collect.job, handle=collect.handle, tenant=tenant)
        case "poll":
            return await studio.poll(decode(args, JobArgs).job, tenant)
        case _:
            return await studio.show(decode(args, JobArgs).job, tenant)
