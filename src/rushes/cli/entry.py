"""From a command line to an exit code, whatever happens on the way."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from rushes.cli import replay, upkeep, verbs
from rushes.cli.arguments import Asked, Exit, parse
from rushes.cli.batch import batch
from rushes.cli.doctor import doctor
from rushes.cli.emulate import emulate
from rushes.cli.keys import keys
from rushes.cli.mcp import mcp
from rushes.cli.screen import Complaint, Screen
from rushes.eventstore.base import StoreError
from rushes.faults import BadRequest, Code, RushesError
from rushes.main import Settings, load_settings, set_up_logs
from rushes.units import Billed

VERBS: Final[Mapping[str, Callable[[Asked, Settings, Screen], Awaitable[Exit]]]] = {
    "generate": verbs.generate,
    "batch": batch,
    "estimate": verbs.estimate,
    "serve": verbs.serve,
    "watch": verbs.watch,
    "list": verbs.list_jobs,
    "show": verbs.show,
    "events": verbs.events,
    "replay": replay.replay,
    "diff": replay.diff,
    "export": replay.export,
    "import": replay.import_,
    "cancel": verbs.cancel,
    "collect": verbs.collect,
    "resubmit": verbs.resubmit,
    "give-up": verbs.give_up,
    "retry": verbs.retry,
    "providers": verbs.providers,
    "doctor": doctor,
    "emulate": emulate,
    "keys": keys,
    "mcp": mcp,
    "verify": upkeep.verify,
    "backup": upkeep.backup,
    "restore": upkeep.restore,
}
SPENDING: Final = frozenset(
    {"generate", "batch", "serve", "mcp", "watch", "cancel", "collect", "resubmit", "give-up", "retry"}
)
EXITS: Final[Mapping[Code, Exit]] = {
    "invalid_input": Exit.BAD_INPUT,
    "unsupported_feature": Exit.BAD_INPUT,
    "model_unknown": Exit.BAD_INPUT,
    "model_retired": Exit.BAD_INPUT,
    "authentication_failed": Exit.BAD_INPUT,
    "extra_missing": Exit.BAD_INPUT,
    "unauthorised": Exit.BAD_INPUT,
    "forbidden": Exit.BAD_INPUT,
    "not_found": Exit.NOT_FOUND,
    "conflict": Exit.CONFLICT,
    "command_rejected": Exit.CONFLICT,
    "internal_error": Exit.INTERNAL,
}  # every other code: TROUBLE
OPTIONS: Final[Mapping[str, str]] = {
    **{name: f"--{name.replace('_', '-')}" for name in Asked.__struct_fields__},
    "prompt": "PROMPT",
    "file": "FILE",
    "requests": "FILE",
    "names": "NAME",
    "break_at": "--break",
    "name": "NAME",
    "duration_seconds": "--duration",
    "generate_audio": "--audio",
    "inputs": "--input",
    "operation.scene": "--scene",
    "operation.text": "--say",
    "operation.voice": "--voice",
    "Idempotency-Key": "--idempotency-key",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; the answer is the exit code."""
    words = sys.argv[1:] if words is None else words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × still gets its answer
    screen = Screen(sys.stdout, sys.stderr, as_json="--json" in words)
    try:
        return _run(words, screen)
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(Exit.INTERRUPTED)  # after a second Ctrl-C nothing was closed: threads would keep the process
    except BrokenPipeError:  # `rushes list | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:  # noqa: BLE001 - the last door: whatever it was becomes a sentence and a code
        return complain(error, screen, "no" if SPENDING.isdisjoint(words) else "unknown")


def _run(words: Sequence[str], screen: Screen) -> Exit:
    asked = parse(words)
    settings = load_settings({"data": asked.data, "listen": asked.listen})
    set_up_logs(settings.log_level, settings.log_format, serving=asked.verb == "serve")
    if settings.log_level != "debug":
        logging.disable()  # what libraries have to say comes with tracebacks
    try:
        return asyncio.run(_verb(asked, settings, screen))
    except Exception:
        if settings.log_level == "debug":
            traceback.print_exc()
        raise


async def _verb(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    return await VERBS[asked.verb](asked, settings, screen)


def complain(error: Exception, screen: Screen, billed: Billed = "unknown") -> Exit:
    """Say what went wrong; the answer is the exit code. `billed`: what may be, where the error itself cannot say."""
    match error:
        case RushesError():
            _complain(error, screen)
            return EXITS.get(error.code, Exit.TROUBLE)
        case StoreError():
            screen.complain(Complaint(code="storage_failed", detail=str(error), billed=billed))
            return Exit.TROUBLE
        case _:
            word = type(error).__name__
            detail = f"This should not have happened ({word}): RUSHES_LOG_LEVEL=debug shows where; please report it."
            screen.complain(Complaint(code="internal_error", detail=detail, billed=billed))
            return Exit.INTERNAL


def _complain(error: RushesError, screen: Screen) -> None:
    """One sentence for every field that is wrong."""
    told = [(fault.code, fault.detail, fault.field) for fault in error.faults] if isinstance(error, BadRequest) else []
    for code, detail, field in told or [(error.code, error.detail, error.field)]:
        complaint = Complaint(
            code=code,
            detail=detail,
            field=field,
            job_id=error.job_id,
            idempotency_key=error.idempotency_key,
            billed=error.billed,
        )
        screen.complain(complaint, OPTIONS.get(field, ""))
