"""`rushes emulate` as people run it: the real command, and the real `rushes generate` pointed at it by its exports."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from command import COMMAND, PATIENCE_S, environ, one_sentence, run

from rushes.cli.emulate import clock, exports
from rushes.emulators.xai import XaiTwin
from rushes.faults import BadRequest
from rushes.main import installed_emulators

MODEL = ("--model", "runway/gen4.5", "--duration", "5")
UNSURE = {"rules": [{"do": "error", "on": "submit", "after_accept": True, "times": 1}]}


@contextmanager
def emulating(*words: str) -> Iterator[dict[str, str]]:
    """The variables that it prints first, as a shell reads them; ended by Ctrl-C."""
    command = [*COMMAND, "emulate", *words, "--print-env"]
    with subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            told = "".join(takewhile(lambda line: not line.startswith("# "), lines)) + "env"
            shown = subprocess.run(["/bin/sh", "-c", told], env={}, capture_output=True, text=True, check=True).stdout
            yield dict(line.split("=", 1) for line in shown.splitlines())
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0


def generating(folder: Path, **env: str) -> subprocess.Popen[bytes]:
    words = [*COMMAND, "generate", "a lake", "--model", "veo", "--data", str(folder)]
    return subprocess.Popen(words, env=environ(**env), stdout=subprocess.DEVNULL)


def ask(url: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url + path, data, method="GET" if data is None else "PUT"), timeout=PATIENCE_S) as reply:
        return json.load(reply)


def test_a_job_runs_against_it_and_a_fault_is_seen(tmp_path: Path) -> None:
    with emulating("runway", "--clock", "50") as env:
        url = env["RUNWAYML_BASE_URL"].removesuffix("/runway")
        keys = {name: env[name] for name in ("RUNWAYML_BASE_URL", "RUNWAYML_API_SECRET")}

        done = run(tmp_path / "data", "generate", "a lake", *MODEL, "-o", str(tmp_path / "lake.mp4"), **keys)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "lake.mp4").read_bytes()[4:8] == b"ftyp"
        assert "320×180, 2 s" in done.stdout
        ledger = ask(url, "/_rushes/ledger")
        asked = [f"{line['method']} {line['path']}" for line in ledger["requests"]]
        assert asked[0] == "POST /v1/text_to_video"
        assert ledger["requests"][0]["body"]["promptText"] == "a lake"
        assert [(charge["amount"], charge["micro_usd"]) for charge in ledger["charges"]] == [(60, 600_000)]

        assert ask(url, "/runway/_rushes/faults", UNSURE) == {"runway": UNSURE}
        parked = run(tmp_path / "data", "generate", "a sea", *MODEL, **keys)
        assert (parked.returncode, "billed: unknown" in parked.stderr) == (6, True)
        ledger = ask(url, "/runway/_rushes/ledger")
        assert len(ledger["charges"]) == 2
        assert [line["status"] for line in ledger["requests"] if line["fault"] == "error"] == [500]


def test_a_key_that_is_no_word_is_made_and_works(tmp_path: Path) -> None:
    with emulating("veo", "--clock", "400") as env:
        told = ("VERTEX_BASE_URL", "CLOUD_PROJECT", "APPLICATION_CREDENTIALS")
        keys = {name: env[name] for name in ("STORAGE_EMULATOR_HOST", *(f"GOOGLE_{word}" for word in told))}
        url, account = keys["GOOGLE_VERTEX_BASE_URL"], Path(keys["GOOGLE_APPLICATION_CREDENTIALS"])
        assert json.loads(account.read_text("utf-8"))["token_uri"] == f"{url}/token"
        one = generating(tmp_path / "one", **keys)  # side by side: each asks after ten seconds
        with one, generating(tmp_path / "other", **keys, VEO_BUCKET="mine") as other:
            assert [process.wait(PATIENCE_S) for process in (one, other)] == [0, 0]
        asked = [line["path"] for line in ask(url.removesuffix("/veo"), "/_rushes/ledger")["requests"]]
        assert asked.count("/token") == 2
        assert sum(path.startswith("/storage/") for path in asked) == 1
    assert not account.exists()


def test_the_labs_twin_stands_in_for_the_lab_of_the_process(tmp_path: Path) -> None:
    with emulating("local", "--clock", "20") as env:
        url = env["RUSHES_LOCAL_URL"]
        done = run(tmp_path / "data", "generate", "a lake", "--model", "local", **env)
        assert done.returncode == 0, done.stderr
        (charge,) = ask(url, "/_rushes/ledger")["charges"]
    assert (charge["micro_usd"], list((tmp_path / "data" / "lab").iterdir())) == (0, [])


def test_several_share_a_port_and_a_seed_draws_the_same_ids() -> None:
    def first(seed: str) -> tuple[str, str]:
        with emulating("replicate", "xai", "--seed", seed) as env:
            url = env["REPLICATE_BASE_URL"].removesuffix("/replicate")
            assert env["XAI_BASE_URL"] == f"{url}/xai/v1"
            body = json.dumps({"model": "grok-imagine-video", "prompt": "a lake"}).encode()
            headers = {"content-type": "application/json"}
            with urlopen(Request(f"{env['XAI_BASE_URL']}/videos/generations", body, headers)) as reply:
                made = json.load(reply)["request_id"]
            (line,) = ask(url, "/_rushes/ledger")["requests"]
            return made, line["provider"]

    one = first("7")
    assert (one[1], first("7"), first("8") == one) == ("xai", one, False)


class Toy(XaiTwin):
    """A twin that somebody else brings, without an adapter."""

    name = "toy"
    sdk_env = {"TOY_URL": "/v2"}  # noqa: RUF012 - its base says that it belongs to the class


def test_a_twin_names_the_variables_of_its_sdks() -> None:
    assert dict(exports([Toy(clip=b"")], {}, "http://h:1", Path())) == {"TOY_URL": "http://h:1/toy/v2"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["runwy"], ["NAME", "runwy", ", ".join(installed_emulators())]),
        (["xai", "xai"], ["NAME", "twice"]),
        (["xai", "--port", "70000"], ["--port", "65535"]),
        (["xai", "--port", "1", "--listen", "127.0.0.1:1"], ["--port", "--listen"]),
        (["xai", "--listen", "here"], ["--listen", "HOST:PORT"]),
        (["xai", "--clock", "fast"], ["--clock", "speed"]),
        (["xai", "--clock", "0"], ["--clock", "speed"]),
        ([], ["NAME", "rushes emulate --help"]),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, words: list[str], named: list[str]) -> None:
    one_sentence(run(tmp_path / "data", "emulate", *words), 2, *named)
    assert not (tmp_path / "data").exists()


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        one_sentence(run(tmp_path / "data", "emulate", "xai", "--port", port), 2, port, "in use")


def test_its_clock_is_the_walls_or_fast_or_begins_when_told() -> None:
    real, fast, told = clock("real"), clock("1000000"), clock("2026-11-21T10:00:00Z")
    began = real()
    assert 0 <= told() - 1_795_255_200.0 < 60
    while real() == began:
        pass
    assert fast() - real() > 0
    assert clock("2026-11-21T12:00:00+02:00")() - told() < 60
    for word in ("fast", "0", "-1", "nan", "inf", "1e9", "2026-13-01"):
        with pytest.raises(BadRequest):
            clock(word)
