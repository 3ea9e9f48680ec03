"""What each verb does."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from msgspec import convert
from msgspec.structs import replace

from rushes.api import app
from rushes.api.auth import Keys
from rushes.api.stream import Limits
from rushes.cli.arguments import Asked, Exit
from rushes.cli.desk import Desk, owning, reading
from rushes.cli.screen import (
    Complaint,
    Screen,
    aligned,
    at_rest,
    estimate_sheet,
    instant,
    job_sheet,
    jobs_table,
    provider_sheet,
    providers_table,
    take_line,
    usual_s,
)
from rushes.faults import BadRequest, Fault, Unavailable, bad
from rushes.main import Settings, open_studio
from rushes.video import KINDS, OPERATIONS, Effect, JobView, LipSync, MediaInput, Operation, Role, VideoRequest

CANCEL_WAIT_S: Final = 15.0
BEFORE: Final = 50  # jobs of the same model that tell how long such ones take
GOODBYE_S: Final = 1.0  # after the grace: for the last answers
HARD_STOP_S: Final = 2.0  # after the grace: by then the files are closed, or the process is ended as it is
BLOCK_BYTES: Final = 256 * 1024
ENDS: Final = {"succeeded": Exit.OK, "failed": Exit.FAILED, "cancelled": Exit.CANCELLED}


# ── making ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def generate(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Begin a job, and unless told otherwise wait for its take."""
    output = _output(asked)
    async with owning(settings) as desk:
        flags, inputs = await _inputs(asked, desk)
        with _by_option(flags):
            view, repeated = await desk.submit(_request(asked, inputs), asked.idempotency_key)
        return await _wait(view, _begun(view, repeated), desk, asked, screen, output)


async def estimate(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """What a job would cost, without beginning it. Files go to the owner, because a price may follow what they hold."""
    files = asked.image or asked.last_frame or asked.video or asked.narration or asked.input
    async with owning(settings) if files else reading(settings) as desk:
        flags, inputs = await _inputs(asked, desk)
        with _by_option(flags):
            view = await desk.estimate(_request(asked, inputs))
    screen.result(view, estimate_sheet(view))
    return Exit.OK


async def retry(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Begin a new job with the request of one that has ended, and unless told otherwise wait for its take."""
    output = _output(asked)
    async with owning(settings) as desk:
        view, repeated = await desk.retry(asked.job, asked.idempotency_key)
        return await _wait(view, _begun(view, repeated), desk, asked, screen, output)


def _begun(view: JobView, repeated: bool) -> str:
    return f"{view.id} {'was begun before: going on' if repeated else 'begun'}"


async def _wait(view: JobView, says: str, desk: Desk, asked: Asked, screen: Screen, output: Path | None) -> Exit:
    """Wait for a job's take, unless told otherwise."""
    if asked.no_wait:
        screen.result(view, view.id)
        screen.note(f"To follow it, and to run it on if no server does: {_watch(view, asked)}")
        return Exit.OK
    screen.note(says)
    view = await _follow(view, desk, asked, screen)
    if view.takes and output is not None:
        await desk.save(view.id, output, view.takes[0].index)
    return _finish(view, screen, output)


def _output(asked: Asked) -> Path | None:
    """Where the take shall go: looked at before anything is spent."""
    if asked.output is None:
        return None
    if asked.no_wait:
        raise bad("output", "There is no file to copy with --no-wait: leave one of them out.")
    path = Path(asked.output).absolute()
    if path.is_dir():
        raise bad("output", f"{asked.output!r} is a folder: name a file in it.")
    if not path.parent.is_dir():
        raise bad("output", f"{asked.output!r} cannot be written: there is no folder {str(path.parent)!r}.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise bad("output", f"{asked.output!r} cannot be written: permission denied.")
    return path


def _request(asked: Asked, inputs: tuple[MediaInput, ...]) -> VideoRequest:
    return VideoRequest(
        prompt=asked.prompt,
        model=asked.model,
        operation=_operation(asked),
        inputs=inputs,
        negative_prompt=asked.negative_prompt,
        seed=asked.seed,
        aspect_ratio=asked.aspect_ratio,
        duration_seconds=asked.duration,
        resolution=asked.resolution,
        fps=asked.fps,
        generate_audio=asked.audio,
        emulate=tuple(asked.emulate),
        at_least_once=asked.at_least_once,
    )


def _operation(asked: Asked) -> Operation | None:
    """What is asked for, with what only it has. Raises BadRequest where an option is of another operation."""
    said = {"scene": ("effect", asked.scene), "say": ("lip-sync", asked.say), "voice": ("lip-sync", asked.voice)}
    for option, (name, value) in said.items():
        if value is not None and asked.operation != name:
            raise bad(option, f"--{option} goes with --operation {name}: give that too, or leave it out.")
    if asked.operation == "effect":
        return Effect(asked.scene or "")
    if asked.operation == "lip-sync":
        return LipSync(asked.say or "", asked.voice or "")
    return next((kind() for kind, name in OPERATIONS.items() if name == asked.operation), None)


async def _inputs(asked: Asked, desk: Desk) -> tuple[list[str], tuple[MediaInput, ...]]:
    """The files that were given, and by which option each."""
    given: list[tuple[str, str, str | None]] = [
        ("image", "first_frame", asked.image),
        ("last_frame", "last_frame", asked.last_frame),
        ("video", "source", asked.video),
        ("narration", "narration", asked.narration),
    ]
    for text in asked.input:
        role, equals, what = text.partition("=")
        if not (equals and what and role in KINDS):
            raise bad("input", f"{text!r} is no ROLE=FILE. The roles are: {', '.join(KINDS)}.")
        given.append(("input", role, what))
    found = [(flag, await _input(flag, role, what, desk)) for flag, role, what in given if what is not None]
    return [flag for flag, _ in found], tuple(one for _, one in found)


async def _input(flag: str, role: str, what: str, desk: Desk) -> MediaInput:
    made = MediaInput(type=KINDS[role], role=convert(role, Role))
    if what.startswith(("https://", "http://", "data:")):
        return replace(made, url=what)
    if what.startswith("job_"):
        return replace(made, job=what)
    return replace(made, upload=(await desk.upload(_sent(flag, what))).id)


@contextmanager
def _by_option(flags: Sequence[str]) -> Generator[None]:
    """Faults inside name the options that gave the files."""
    try:
        yield
    except BadRequest as error:
        raise BadRequest([_by_flag(fault, flags) for fault in error.faults], job_id=error.job_id) from error


def _by_flag(fault: Fault, flags: Sequence[str]) -> Fault:
    """A fault of one file under the name of the option that gave it."""
    match = re.match(r"inputs(?:\[(\d+)\]|$)", fault.field)
    if match is None or not (match[1] or len(flags) == 1):
        return fault
    return replace(fault, field=flags[int(match[1] or 0)])


async def _sent(flag: str, file: str) -> AsyncIterator[bytes]:
    for block in _blocks(flag, file):
        yield block


def _blocks(flag: str, file: str) -> Iterator[bytes]:
    try:
        with Path(file).open("rb") as opened:
            while block := opened.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise bad(flag, f"{file!r} cannot be read: {error.strerror}.") from error


# ── following ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def watch(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Follow a job to its end. Looking comes first: a job that is not there, or has ended, needs no owner."""
    async with reading(settings) as desk:
        view = await desk.show(asked.job)
    if not view.ended:
        async with owning(settings) as desk:
            view = await _follow(view, desk, asked, screen)
    return _finish(view, screen)


async def _follow(view: JobView, desk: Desk, asked: Asked, screen: Screen) -> JobView:
    """Show the job until it is at rest; `watch --json` prints every change, one a line."""
    progress = screen.progress(None if screen.as_json else await _usual_s(desk, view))
    try:
        with progress.ticking():
            async with aclosing(desk.updates(view.id)) as updates:
                async for latest in updates:
                    view = latest
                    progress.show(view)
                    if at_rest(view):
                        break
                    if asked.verb == "watch" and screen.as_json:
                        screen.result(view, "")
    except asyncio.CancelledError:
        screen.note(f"Interrupted. The job stays; to go on: {_watch(view, asked)}")
        raise
    return view


async def _usual_s(desk: Desk, view: JobView) -> float | None:
    """How long such jobs took before."""
    try:
        page = await desk.jobs(status="succeeded", provider=view.provider, model=view.model, limit=BEFORE)
    except Unavailable:  # the list is being made: the line is good without it
        return None
    return usual_s(page.jobs, view)


def _finish(view: JobView, screen: Screen, output: Path | None = None) -> Exit:
    """Show how it ended."""
    paths = [take.path for take in view.takes]
    if paths and output is not None:  # the first take was copied there
        paths[0] = str(output)
    files = [f"{take_line(take)}\n{path}" for take, path in zip(view.takes, paths, strict=True)]
    screen.result(view, "\n".join([f"{view.id} {view.phase}", *files]))
    return judged(view, screen)


def judged(view: JobView, screen: Screen, name: str = "") -> Exit:
    """The exit code of a job at rest, once it was said what is wrong with it. `name`: which one of several it is."""
    if view.error is not None:
        told = Complaint(code=view.error.code, detail=view.error.detail, job_id=view.id, billed=view.billed)
        screen.complain(told, name)
    if view.attention:
        detail = f"{view.attention} A person has to decide."
        screen.complain(Complaint(code="no_answer", detail=detail, job_id=view.id, billed=view.billed), name)
    return ENDS.get(view.status, Exit.NEEDS_A_PERSON)


def _watch(view: JobView, asked: Asked) -> str:
    """The command that goes on with the job."""
    return shlex.join(["rushes", "watch", view.id, *(["--data", asked.data] if asked.data else [])])


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def providers(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """All providers, or all about one of them, and how their lanes fare where the jobs are run."""
    async with reading(settings) as desk:
        found = await desk.providers()
    if asked.provider:
        one = [view for view in found if asked.provider in (view.name, *view.aliases)]
        if not one:
            known = ", ".join(view.name for view in found)
            raise bad("provider", f"There is no provider {asked.provider!r}. Known: {known}.")
        screen.result(one[0], provider_sheet(one[0]))
        return Exit.OK
    screen.result(found, providers_table(found))
    screen.note("All about one of them: `rushes providers NAME`.")
    if not any(provider.lanes for provider in found):
        screen.note("A lane appears with its first job, in the process that runs it: `rushes serve`.")
    return Exit.OK


async def list_jobs(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Some of the jobs, the newest first unless asked otherwise."""
    if not 1 <= asked.limit <= 200:
        raise bad("limit", f"{asked.limit} is not offered: choose a whole number from 1 to 200.")
    async with reading(settings) as desk:
        page = await desk.jobs(
            status=asked.status,
            phase=asked.phase,
            provider=asked.provider,
            model=asked.model,
            batch=asked.batch,
            sort=asked.sort,
            order=asked.order,
            after=asked.after,
            limit=asked.limit,
        )
    screen.result(page, jobs_table(page.jobs))
    for job in page.unreadable:
        screen.note(f"{job} cannot be read; why: rushes show {job}")
    if page.stale:
        screen.note("What happened in the last moments may be missing: ask again.")
    if page.has_more:
        screen.note(f"There are more: --limit {min(200, asked.limit * 5)} shows more of them.")
    return Exit.OK


async def show(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """One job."""
    async with reading(settings) as desk:
        view = await desk.show(asked.job)
    screen.result(view, job_sheet(view))
    return Exit.OK


async def events(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """A job's history."""
    async with reading(settings) as desk:
        found = await desk.events(asked.job)
    rows = [("VERSION", "TIME", "EVENT"), *((str(event.version), instant(event.at), event.type) for event in found)]
    screen.result(found, aligned(rows))
    return Exit.OK


# ── steering ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def cancel(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Ask for a stop, and wait a little for what becomes of it."""
    async with reading(settings) as desk:
        view = await desk.show(asked.job)
    if not view.ended:
        async with owning(settings) as desk:
            view = await desk.cancel(asked.job, discard=asked.discard)
            view = await _rest(view, desk)
    screen.result(view, f"{view.id} {view.phase}")
    if view.ended and view.status != "cancelled":
        detail = f"Too late to cancel: the job has {view.status}."
        screen.complain(Complaint(code="command_rejected", detail=detail, job_id=view.id, billed=view.billed))
        return Exit.CONFLICT
    if not view.ended:
        screen.note(f"The cancel is asked for; it has not come to rest yet: {_watch(view, asked)}")
    return Exit.OK


async def collect(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Have a parked job fetch what was paid, and unless told otherwise wait for it. What is there needs no owner."""
    output = _output(asked)
    async with reading(settings) as desk:
        view = await desk.show(asked.job)
        if view.status == "succeeded":
            return await _wait(view, f"{view.id} has its takes", desk, asked, screen, output)
    async with owning(settings) as desk:
        view = await desk.collect(asked.job, handle=asked.handle)
        return await _wait(view, f"{view.id} is {view.phase}: going on", desk, asked, screen, output)


async def resubmit(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Send a parked job again, and unless told otherwise wait for its take."""
    output = _output(asked)
    async with owning(settings) as desk:
        view = await desk.resubmit(asked.job, accept_cost=asked.accept_cost)
        return await _wait(view, f"{view.id} is sent again", desk, asked, screen, output)


async def give_up(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """End a parked job."""
    async with owning(settings) as desk:
        view = await desk.give_up(asked.job)
    screen.result(view, f"{view.id} {view.phase} (billed: {view.billed})")
    return Exit.OK


async def _rest(view: JobView, desk: Desk) -> JobView:
    """The job as it is once it has ended, or when we have waited long enough."""
    try:
        async with asyncio.timeout(CANCEL_WAIT_S), aclosing(desk.updates(view.id)) as updates:
            async for latest in updates:
                view = latest
                if at_rest(view):
                    break
    except TimeoutError:
        pass
    return view


# ── serving ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def serve(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Own the folder and answer until SIGINT or SIGTERM; a second one ends the process at once.

    Whoever is being answered has the same grace as the paid calls. What still hangs after it does not keep us here.
    """
    stop = stop_at_signals(settings.stop_grace_s + HARD_STOP_S)
    async with open_studio(settings=settings, accept_loss=asked.accept_loss, serving=True) as studio:
        keys = Keys(settings.folder)
        origins, limits = settings.allowed_origins, limits_of(settings)
        server = await app.serve(studio, settings.listen, allowed_origins=origins, limits=limits, keys=keys)
        try:
            studio.announce(server.url)
            ready = {"url": server.url, "pid": os.getpid(), "data": str(settings.folder)}
            screen.result(ready, f"rushes answers at {server.url} (data folder {settings.folder}); Ctrl-C stops it")
            if not keys.needed:
                screen.note("There are no keys: anybody on this machine may use it, and nobody else can reach it.")
            await stop.wait()
        finally:
            studio.announce("")  # others are told that we hold the folder, not to ask a closed door
            await asyncio.gather(_close(server, settings.stop_grace_s), studio.stop(settings.stop_grace_s))
    return Exit.OK


def limits_of(settings: Settings) -> Limits:
    """What a WebSocket or an event stream may do."""
    return Limits(**{name: getattr(settings, f"ws_{name}") for name in Limits.__struct_fields__})


async def _close(server: app.Server, grace_s: float) -> None:
    """Let what is being answered end, and say goodbye; but wait for nobody who does not let go."""
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_s + GOODBYE_S):
            await server.close()


def stop_at_signals(hard_stop_s: float) -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM. The second ends the process, and so does time: also where everything hangs.

    To end at once is safe: what is unfinished is owed again at the next start.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    stopping = False

    def signalled(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            os._exit(Exit.INTERRUPTED)
        stopping = True
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, hard_stop_s)  # nobody handles its signal: the system ends us
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform != "win32":
            loop.add_signal_handler(number, stop.set)  # its wake-up descriptor rouses a loop that is going to sleep
        signal.signal(number, signalled)  # in its place, because it acts also where the loop hangs
    return stop
