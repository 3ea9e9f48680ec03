"""`rushes keys` as people run it, beside a server in a process of its own."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, PATIENCE_S, environ, one_sentence, run

from rushes.api.auth import create, revoke, stored
from rushes.cli.arguments import parse
from rushes.cli.entry import complain
from rushes.cli.keys import keys
from rushes.cli.screen import Screen
from rushes.faults import FolderTrouble, RushesError
from rushes.main import Settings

SEEN_WITHIN_S = 2.0
TINY = ("--duration", "1", "--resolution", "180p", "--fps", "8")


def doctor(folder: Path, *words: str) -> dict[str, tuple[str, str]]:
    checks = json.loads(run(folder, "doctor", "--json", *words).stdout)["checks"]
    return {check["name"]: (check["state"], check["detail"]) for check in checks}


@contextmanager
def serving(folder: Path, listen: str = "127.0.0.1:0") -> Iterator[tuple[str, list[str]]]:
    """A server, its address and, once it has ended, what it said on stderr."""
    words = [*COMMAND, "serve", "--data", str(folder), "--listen", listen]
    said: list[str] = []
    with subprocess.Popen(words, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" ")[3]
        try:
            yield url, said
        finally:
            process.terminate()
            said += process.communicate(timeout=PATIENCE_S)[1].splitlines()
    assert process.returncode == 0, said


def status(url: str, token: str = "") -> int:
    request = urllib.request.Request(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def becomes(wanted: int, url: str, token: str) -> None:
    until = time.monotonic() + SEEN_WITHIN_S
    while (found := status(url, token)) != wanted:
        assert time.monotonic() < until, f"{found}, not {wanted}"


def asked(folder: Path, *words: str, as_json: bool = False) -> tuple[str, str]:
    """What the verb says on its two streams."""
    out, err = io.StringIO(), io.StringIO()
    asyncio.run(keys(parse(["keys", *words]), Settings(data=str(folder)), Screen(out, err, as_json=as_json)))
    return out.getvalue(), err.getvalue()


def shown(folder: Path, *words: str) -> Any:
    return json.loads(asked(folder, *words, as_json=True)[0])


# ── the verb ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_secret_is_shown_once_and_a_key_listed_and_ended(tmp_path: Path) -> None:
    said, noted = asked(tmp_path, "create", "ci", "--scope", "read", "--scope", "admin", "--tenant", "acme")
    secret = said.strip()
    assert (secret[:3], len(secret)) == ("rk_", 55)
    assert "read, admin" in noted
    (key,) = shown(tmp_path, "list")
    assert key.pop("id").startswith("key_")
    assert key.pop("created_at")
    assert key == {"name": "ci", "tenant": "acme", "scopes": ["read", "admin"], "revoked_at": None}
    made = shown(tmp_path, "create", "me")
    assert (made["scopes"], made["tenant"], made["secret"][:3]) == (["read", "generate"], "default", "rk_")
    assert asked(tmp_path, "revoke", made["id"]) == (f"{made['id']} is revoked\n", "")
    listed, _ = asked(tmp_path, "list")
    assert [line.split()[1] for line in listed.splitlines()] == ["NAME", "ci", "me"]
    assert [path for path in tmp_path.iterdir() if secret.encode() in path.read_bytes()] == []


def test_who_locks_a_server_is_told(tmp_path: Path) -> None:
    assert "anybody on this machine" in asked(tmp_path, "list")[1]
    assert "answers nobody without a key" in asked(tmp_path, "create", "first")[1]
    assert "answers nobody" not in asked(tmp_path, "create", "second")[1]
    first, second = shown(tmp_path, "list")
    assert asked(tmp_path, "revoke", first["id"])[1] == ""
    assert "rushes keys create NAME" in asked(tmp_path, "revoke", second["id"])[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "ACTION"),
        (("create",), "NAME"),
        (("create", " "), "blank"),
        (("create", "a", "--scope", "all"), "--scope"),
        (("create", "a", "--tenant", "Acme"), "'Acme'"),
        (("revoke", "key_nobody"), "rushes keys list"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    with pytest.raises(RushesError, match=told) as refused:
        asked(tmp_path, *words)
    assert complain(refused.value, Screen(io.StringIO(), io.StringIO(), as_json=False)) in {2, 3}
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "keys.json.lock"])


# ── beside a server ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_work_beside_a_server_and_verbs_show_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder) as (url, said):
        assert (status(url), status(url, "rk_nobody_asks_for_it")) == (200, 200)
        job = json.loads(run(folder, "generate", "a lake", *TINY, "--no-wait", "--json").stdout)["id"]
        secret = run(folder, "keys", "create", "me").stdout.strip()
        becomes(401, url, "")
        assert status(url, secret) == 200
        one_sentence(run(folder, "list"), 2, "RUSHES_TOKEN")
        one_sentence(run(folder, "list", RUSHES_TOKEN="rk_wrong"), 2, "not known")
        reader = create(folder, "reader", ["read"])[1]
        becomes(200, url, reader)
        assert run(folder, "watch", job, RUSHES_TOKEN=reader).returncode == 0
        one_sentence(run(folder, "generate", "a lake", *TINY, RUSHES_TOKEN=reader), 2, "'generate'")
        checks = doctor(folder)
        assert checks["keys"] == ("ok", "2, and 0 that were revoked")
        assert (checks["log"][0], "RUSHES_TOKEN" in checks["log"][1]) == ("warning", True)
        for key in stored(folder):
            revoke(folder, key.id)
        becomes(401, url, secret)
    assert [line for line in said if "no keys" in line] == [
        "There are no keys: anybody on this machine may use it, and nobody else can reach it."
    ]


def test_other_machines_are_served_once_there_is_a_key(tmp_path: Path) -> None:
    folder, everywhere = tmp_path / "data", ("--listen", "0.0.0.0:0")
    one_sentence(run(folder, "serve", *everywhere), 2, "--listen", "rushes keys create NAME", "127.0.0.1")
    state, detail = doctor(folder, *everywhere)["keys"]
    assert (state, "rushes keys create" in detail) == ("warning", True)
    secret = create(folder, "me")[1]
    with serving(folder, "0.0.0.0:0") as (url, said):
        assert [status(url), status(url, secret)] == [401, 200]
        assert run(folder, "list", RUSHES_TOKEN=secret).returncode == 0
    assert [line for line in said if "no keys" in line] == []


def test_a_server_whose_keys_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    create(tmp_path, "me")
    (tmp_path / "keys.json").write_text('{"keys": [')
    done = run(tmp_path, "serve", "--listen", "127.0.0.1:0")
    assert done.returncode == 7
    assert "keys.unreadable" in done.stderr
    assert doctor(tmp_path)["keys"][0] == "unusable"
    for words in (("list",), ("create", "another"), ("revoke", "key_1")):
        with pytest.raises(FolderTrouble, match="nobody is let in"):
            asked(tmp_path, *words)
    assert (tmp_path / "keys.json").read_text() == '{"keys": ['
