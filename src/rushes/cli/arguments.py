"""What can be asked on the command line, and what its answers mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from enum import IntEnum
from importlib.metadata import version
from typing import Final, Literal, NoReturn, get_args

import msgspec
from msgspec import Struct

from rushes.api.auth import SCOPES, USUAL, Scope
from rushes.faults import bad
from rushes.units import DEFAULT_TENANT
from rushes.video import KINDS, OPERATIONS, Emulation, Status


class Exit(IntEnum):
    """How a verb ended. These numbers do not change."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    CONFLICT = 4
    CANCELLED = 5
    NEEDS_A_PERSON = 6
    TROUBLE = 7
    INTERNAL = 70
    INTERRUPTED = 130


EXIT_CODES: Final = """\
exit codes:
    0  done; the job succeeded
    1  the job failed; verify, backup: something is wrong with the log
    2  bad input: an argument, a field, a file, a port in use, a missing extra
    3  there is no such job
    4  conflict: the key stands for another request, or the job cannot do this as it is
    5  the job was cancelled
    6  the job waits for a person to decide
    7  trouble: the data folder is in use or cannot be used, the server does not answer
   70  a bug in rushes
  130  interrupted; the job goes on with `rushes watch JOB`

of `replay` with --verify, --rerun or --all: 0 all is the same, 1 something diverged, 2 else where it cannot be told

of a batch: 6 where one of its jobs waits for a person, else 1 where one failed, else 5 where one was cancelled

an error that does not say "billed" cost nothing
"""


class Asked(Struct, frozen=True, kw_only=True):
    """One command line. What was not given is None."""

    verb: str
    data: str | None = None
    listen: str | None = None
    json: bool = False
    prompt: str = ""
    model: str | None = None
    duration: float | None = None
    aspect_ratio: str | None = None
    resolution: str | None = None
    fps: float | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    audio: bool | None = None
    at_least_once: int = 0
    image: str | None = None
    last_frame: str | None = None
    video: str | None = None
    narration: str | None = None
    input: list[str] = []
    operation: str | None = None
    scene: str | None = None
    say: str | None = None
    voice: str | None = None
    emulate: list[Emulation] = []
    idempotency_key: str = ""
    no_wait: bool = False
    output: str | None = None
    job: str = ""
    names: list[str] = []
    port: int | None = None
    print_env: bool = False
    clock: str = "real"
    status: Status | None = None
    phase: str | None = None
    provider: str | None = None
    batch: str | None = None
    sort: Literal["created", "updated"] = "created"
    order: Literal["desc", "asc"] = "desc"
    after: str | None = None
    limit: int = 20
    discard: bool = False
    handle: str | None = None
    accept_cost: bool = False
    file: str | None = None
    fix: bool = False
    accept_loss: bool = False
    ask: bool = False
    files: list[str] = []
    action: Literal["create", "list", "revoke"] = "list"
    name: str = ""
    scope: list[Scope] = []
    tenant: str = DEFAULT_TENANT
    key: str = ""
    at: int | None = None
    step: bool = False
    break_at: int | None = None
    bodies: bool = False
    verify: bool = False
    rerun: bool = False
    all_jobs: bool = False
    since: str | None = None
    cassette: bool = False
    replace: bool = False
    other: str = ""


class Parser(argparse.ArgumentParser):
    """Complains in one sentence, and leaves it to `main` how to say it."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise bad("", f"{message[:1].upper()}{message[1:]}. See: {self.prog} --help")


def parse(words: Sequence[str]) -> Asked:
    """The command line as a struct. Raises BadRequest."""
    return msgspec.convert(vars(parser().parse_args(words)), Asked)


def parser() -> Parser:
    """All verbs and their options."""
    top = Parser(
        prog="rushes",
        description="Durable AI video generation: never pays twice, never loses a take.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"rushes {version('rushes')}")
    _everywhere(top, default=None)
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, says: str) -> Parser:
        made = verbs.add_parser(name, help=says, description=f"{says[:1].upper()}{says[1:]}.", allow_abbrev=False)
        _everywhere(made, default=argparse.SUPPRESS)  # what stood before the verb is kept
        return made

    _generate(verb("generate", "make a video, and wait for it"))
    _batch(verb("batch", "make many videos, a request a line of a file, and wait for all of them"))
    _request(verb("estimate", "what a video would cost at the most, without making it"))
    _serve(verb("serve", "own the data folder and answer over HTTP and WebSocket"))
    _job(verb("watch", "follow a job to its end; runs it on if nobody does"))
    _list(verb("list", "the newest jobs"))
    _job(verb("show", "one job"))
    _job(verb("events", "a job's history"))
    _replay(verb("replay", "play a job back: what happened, why, and whether today's code would do the same"))
    _diff(verb("diff", "two jobs side by side"))
    _export(verb("export", "write a job into one file, to send to somebody or to keep as a test"))
    _import(verb("import", "keep a job that was exported elsewhere, to look at it; it never runs"))
    _cancel(verb("cancel", "stop a job"))
    _collect(verb("collect", "fetch what a parked job has paid for; never sends or pays anything"))
    _resubmit(verb("resubmit", "send a parked job again, although it may be paid twice"))
    _job(verb("give-up", "end a parked job"))
    _retry(verb("retry", "begin a new job with the request of one that has ended"))
    _providers(verb("providers", "who can make videos, and how that fares where the jobs are run"))
    _doctor(verb("doctor", "what works here, what does not, and what to do about it"))
    _emulate(verb("emulate", "answer as providers do, on this machine, for nothing"))
    _mcp(verb("mcp", "offer this to agents as tools, over the Model Context Protocol on stdin and stdout"))
    _keys(verb("keys", "who may use the server: without keys anybody on this machine, and nobody else"))
    _verify(verb("verify", "look through the whole log, or a backup, and name what is wrong with it"))
    _backup(verb("backup", "copy the log, also while a server runs; takes are plain files, copy them yourself"))
    _restore(verb("restore", "put a backup of the log in its place; takes are plain files and no part of it"))
    return top


def _everywhere(parser: Parser, default: str | None) -> None:
    group = parser.add_argument_group("everywhere")
    group.add_argument("--data", metavar="DIR", default=default, help="the data folder")
    group.add_argument("--listen", metavar="HOST:PORT", default=default, help="where `serve` answers")
    group.add_argument(
        "--json",
        action="store_true",
        default=default or False,
        help="one JSON document on stdout (watch, replay --all: one a line)",
    )


def _generate(verb: Parser) -> None:
    _request(verb)
    _key(verb)
    _wait(verb)


def _batch(verb: Parser) -> None:
    verb.add_argument(
        "file",
        metavar="FILE",
        help="1 to 100 requests as POST /v1/jobs takes them: a JSON object a line, or one JSON list; - is stdin. "
        "Where one is wrong, none is begun",
    )
    verb.add_argument("--no-wait", action="store_true", help="print the batch's id and leave")
    _key(verb)


def _request(verb: Parser) -> None:
    verb.add_argument("prompt", metavar="PROMPT", nargs="?", default="", help="what the video should show")
    for name, metavar, kind, says in (
        ("--model", "NAME", str, "local, or provider/model"),
        ("--duration", "SECONDS", float, "how long it should be"),
        ("--aspect-ratio", "RATIO", str, "16:9, 9:16, square, …"),
        ("--resolution", "SIZE", str, "720p, hd, 1280x720, …"),
        ("--fps", "N", float, "frames per second"),
        ("--seed", "N", int, "the same seed and prompt give the same clip, where the model can"),
        ("--negative-prompt", "TEXT", str, "what it should not show"),
        ("--image", "FILE|URL", str, "its first frame"),
        ("--last-frame", "FILE|URL", str, "its last frame"),
        ("--video", "FILE|URL|JOB", str, "the clip to make over, to extend or to upscale"),
        ("--narration", "FILE|URL", str, "what is said in it"),
    ):
        verb.add_argument(name, metavar=metavar, type=kind, help=says)
    verb.add_argument(
        "--input",
        metavar="ROLE=FILE|URL|JOB",
        action="append",
        default=[],
        help=f"a file in another role, as often as needed; a job stands for its take: {', '.join(KINDS)}",
    )
    verb.add_argument("--operation", choices=tuple(OPERATIONS.values()), help="what the files alone do not say")
    verb.add_argument("--scene", metavar="NAME", help="which effect, for --operation effect")
    verb.add_argument("--say", metavar="TEXT", help="what is said, for --operation lip-sync, in the --voice")
    verb.add_argument("--voice", metavar="NAME", help="whose voice says it, by the provider's own name")
    verb.add_argument(
        "--emulate",
        choices=get_args(Emulation),
        action="append",
        default=[],
        help="what may be done another way, where the model cannot do it: tell it in the prompt",
    )
    verb.add_argument("--audio", action="store_const", const=True, help="with sound")
    verb.add_argument(
        "--at-least-once",
        metavar="N",
        type=int,
        default=0,
        help="send it anew up to N times, and maybe pay again, rather than wait for a person when an answer was lost",
    )


def _key(verb: Parser) -> None:
    verb.add_argument(
        "--idempotency-key",
        metavar="KEY",
        type=_not_blank,
        default=argparse.SUPPRESS,  # a default would be looked at as if it had been given
        help="asking again with the same key gives the same job",
    )


def _not_blank(text: str) -> str:
    """A variable that is empty must not become a job without a key."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is blank: leave it out, or give a key")
    return text


def _wait(verb: Parser) -> None:
    verb.add_argument("--no-wait", action="store_true", help="print the job's id and leave")
    verb.add_argument("-o", "--output", metavar="FILE", help="copy the take there")


def _list(verb: Parser) -> None:
    verb.add_argument("--status", choices=get_args(Status), help="only these")
    verb.add_argument("--phase", metavar="WORD", help="only these; `parked` is what waits for a person")
    verb.add_argument("--provider", metavar="NAME", help="only its jobs")
    verb.add_argument("--model", metavar="NAME", help="only its jobs, with or without the provider in front")
    verb.add_argument("--batch", metavar="ID", help="only its jobs")
    verb.add_argument("--sort", choices=("created", "updated"), default="created", help="by when they began or changed")
    verb.add_argument("--order", choices=("desc", "asc"), default="desc", help="`desc`: the latest first")
    verb.add_argument("--after", metavar="PLACE", help="go on there: `next` of the list before (--json)")
    verb.add_argument("--limit", metavar="N", type=int, default=20, help="at most so many, 1 to 200")


def _job(verb: Parser) -> None:
    verb.add_argument("job", metavar="JOB", help="the id of a job")


def _job_or_file(verb: Parser, dest: str = "job", metavar: str = "JOB|FILE", nargs: str | None = None) -> None:
    says = "the id of a job, or a file that `rushes export` wrote"
    verb.add_argument(dest, metavar=metavar, nargs=nargs, default="", help=says)


def _replay(verb: Parser) -> None:
    _job_or_file(verb, nargs="?")
    look = verb.add_argument_group("to look", "Without any of these: every event, what it changed, and the traffic.")
    look.add_argument("--bodies", action="store_true", help="also the beginnings of what was said and answered")
    look.add_argument("--at", metavar="N", type=int, help="all about event N, and the whole state after it")
    look.add_argument("--step", action="store_true", help="one event after the other, as you press Enter; from --at on")
    look.add_argument(
        "--break", dest="break_at", metavar="N", type=int, help="open the debugger where event N was decided, inside it"
    )
    held = verb.add_argument_group(
        "to hold it against today's code", "Nothing is sent or paid. Exit codes: 0 same, 1 diverged, 2 cannot be told."
    )
    held.add_argument("--verify", action="store_true", help="decide everything again, and compare with the log")
    held.add_argument(
        "--rerun", action="store_true", help="run the whole job again offline, answered from the recorded traffic"
    )
    held.add_argument(
        "--all", dest="all_jobs", action="store_true", help="both for every job of the data folder: before an upgrade"
    )
    held.add_argument("--since", metavar="WHEN", help="with --all, jobs begun then or later: 2026-11-01, 7d, 12h, …")


def _diff(verb: Parser) -> None:
    _job_or_file(verb, metavar="A")
    _job_or_file(verb, "other", "B")


def _export(verb: Parser) -> None:
    _job_or_file(verb)
    verb.add_argument("-o", "--output", metavar="PATH", required=True, help="the file; with --cassette the folder")
    verb.add_argument(
        "--cassette", action="store_true", help="its traffic as a cassette of vcrpy, with a test that plays it offline"
    )


def _import(verb: Parser) -> None:
    verb.add_argument("file", metavar="FILE", help="what `rushes export` wrote")
    verb.add_argument("--replace", action="store_true", help="in the place of another recording of the same job")


def _cancel(verb: Parser) -> None:
    _job(verb)
    verb.add_argument("--discard", action="store_true", help="where nothing stops it, throw its take away")


def _collect(verb: Parser) -> None:
    _job(verb)
    verb.add_argument("--handle", metavar="ID", help="the provider's own id of the job, where it is not known here")
    _wait(verb)


def _resubmit(verb: Parser) -> None:
    _job(verb)
    verb.add_argument("--accept-cost", action="store_true", help="needed: the job may be paid twice")
    _wait(verb)


def _retry(verb: Parser) -> None:
    _job(verb)
    _key(verb)
    _wait(verb)


def _providers(verb: Parser) -> None:
    verb.add_argument("provider", metavar="NAME", nargs="?", help="all about this one: what its models take, prices")


def _mcp(verb: Parser) -> None:
    verb.add_argument(
        "--files",
        metavar="DIR",
        action="append",
        default=[],
        help="a folder whose images, videos and sounds agents may send to providers, as often as needed",
    )


def _doctor(verb: Parser) -> None:
    help_text = "also ask the providers' servers for an answer and the time, and try the public_url"
    verb.add_argument("--ask", action="store_true", help=help_text)


def _serve(verb: Parser) -> None:
    _accept_loss(verb, "go on although the log lacks events that it had: jobs may be sent, and billed, again")


def _emulate(verb: Parser) -> None:
    verb.add_argument("names", metavar="NAME", nargs="+", help="the providers, each below its own name")
    verb.add_argument("--port", metavar="N", type=int, help="the port on this machine; without it a free one")
    verb.add_argument(
        "--print-env", action="store_true", help="first print the shell exports that point adapters and SDKs at it"
    )
    verb.add_argument("--seed", metavar="N", type=int, help="the same seed draws the same ids")
    verb.add_argument(
        "--clock",
        metavar="real|SPEED|TIME",
        default="real",
        help="how its time goes: 60 is a minute every second, 2026-11-21T10:00:00Z is when it begins",
    )


def _keys(verb: Parser) -> None:
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, says: str) -> Parser:
        made = actions.add_parser(name, help=says, description=f"{says[:1].upper()}{says[1:]}.", allow_abbrev=False)
        _everywhere(made, default=argparse.SUPPRESS)
        return made

    create = action("create", "make a key, and print its secret: it is shown this once")
    create.add_argument("name", metavar="NAME", help="whose it is, or what for")
    create.add_argument(
        "--scope",
        choices=SCOPES,
        action="append",
        default=[],
        help="what it allows, as often as needed: to look, to begin and steer jobs, to look after the server; "
        f"without it {' and '.join(USUAL)}",
    )
    create.add_argument("--tenant", metavar="NAME", default=DEFAULT_TENANT, help="whose jobs it sees, and no other's")
    action("list", "every key that was made, without its secret")
    action("revoke", "end a key").add_argument("key", metavar="ID", help="which one, as `rushes keys list` shows it")


def _verify(verb: Parser) -> None:
    verb.add_argument("file", metavar="FILE", nargs="?", help="a backup; without it, the data folder's log")
    verb.add_argument("--fix", action="store_true", help="rewrite which jobs count as unfinished, and nothing else")


def _backup(verb: Parser) -> None:
    verb.add_argument("file", metavar="FILE", help="the new file; one that is there is never replaced")


def _restore(verb: Parser) -> None:
    verb.add_argument("file", metavar="FILE", help="the backup; it stays as it is, and so does the log before")
    _accept_loss(verb, "also where events are lost by it: jobs may be sent, and billed, again")


def _accept_loss(verb: Parser, says: str) -> None:
    verb.add_argument("--accept-loss", action="store_true", help=says)
