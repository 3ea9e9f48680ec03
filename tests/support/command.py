"""The command as people run it: a process of its own, with its streams, its environment and its exit code.

To import `rushes` takes longer than most verbs do. So one process imports it once, and each command is forked from it.
From `main` on it runs, and ends, as any other. What begins with COMMAND starts an interpreter, as a shell does.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

from rushes.cli.entry import main
from rushes.main import installed_adapters

COMMAND = (sys.executable, "-m", "rushes.cli")
PATIENCE_S = 60
TURN = threading.Lock()


def environ(**more: str) -> dict[str, str]:
    """What a command finds: nothing of ours but where things are."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "RUSHES_CONFIG": os.devnull} | more


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one command over a data folder to its end, which is a signal where it takes longer than PATIENCE_S."""
    with NamedTemporaryFile("r", encoding="utf-8") as out, NamedTemporaryFile("r", encoding="utf-8") as err:
        asked = {
            "words": [*words, "--data", str(folder)],
            "streams": [os.devnull, out.name, err.name],
            "cwd": str(Path.cwd()),
            "environ": environ(**env),
        }
        return subprocess.CompletedProcess(words, _code(json.dumps(asked)), out.read(), err.read())


def good(folder: Path, *words: str) -> str:
    """What a command that succeeds says on stdout."""
    done = run(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def one_sentence(done: subprocess.CompletedProcess[str], code: int, *told: str) -> str:
    """The sentence on stderr, which is all that was said; these words are in it."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    said = [line for line in done.stderr.splitlines() if "event=sqlite.outdated" not in line]  # this machine's may be
    assert len(said) == 1, said
    assert said[0].startswith("rushes: ")
    assert [word for word in told if word not in said[0]] == []
    return said[0]


def _code(asked: str) -> int:
    with TURN:
        parent = _parent()
        assert parent.stdin
        assert parent.stdout
        print(asked, file=parent.stdin, flush=True)
        return int(parent.stdout.readline())


@cache
def _parent() -> subprocess.Popen[str]:
    """The process that commands are forked from. It ends where its stdin does."""
    words = [sys.executable, "-P", __file__]  # without this folder in its path
    pipe = subprocess.PIPE
    parent = subprocess.Popen(words, env=environ(), stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    atexit.register(parent.communicate)
    return parent


def _become_each() -> None:
    """Answer each line with the exit code of the process that it asks for. Only those processes return."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _become(words: list[str], streams: list[str], cwd: str, environ: dict[str, str]) -> None:
    signal.alarm(PATIENCE_S)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[1:] = words


if __name__ == "__main__":
    installed_adapters()
    _become_each()
    sys.exit(main())
