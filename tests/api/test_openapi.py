"""The OpenAPI document against the server: every route is in it, and nothing is answered that it does not say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, use_after_free
from talking import TINY

from rushes.api.app import build_app
from rushes.api.openapi import OPS, STREAM, described
from rushes.api.protocol import Strict
from rushes.studio import Studio

Web = aiohttp.ClientSession
NIGHTLY: Final = bool(os.environ.get("RUSHES_NIGHTLY"))
EXAMPLES: Final = 1_000 if NIGHTLY else 12
PATIENCE_S: Final = 60.0
# What has no end is tested where it is made: test_sse, test_stream.
ENDLESS: Final = {name for name, op in OPS.items() if STREAM in op.answers.values() or 101 in op.answers}
FINITE: Final = sorted(set(OPS) - ENDLESS)
FALLIBLE: Final = [name for name in FINITE if OPS[name].query is not Strict or OPS[name].body is not None]
# A job is accepted and waits: nobody answers at that address.
NOWHERE: Final = {"GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9", "GEMINI_API_KEY": "k", "RUSHES_DEFAULT_MODEL": "omni"}


class Served(Struct, frozen=True):
    """A server process, its document, and a job of it that has a take."""

    url: str
    document: Any
    job: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    command = [sys.executable, "-m", "rushes.cli", "serve", "--json", "--listen", "127.0.0.1:0"]
    folder = str(tmp_path_factory.mktemp("served"))
    environ = os.environ | NOWHERE | {"RUSHES_CONFIG": os.devnull}
    with subprocess.Popen([*command, "--data", folder], env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            document = requests.get(f"{url}/openapi.json", timeout=PATIENCE_S).json()
            made = requests.post(
                f"{url}/v1/jobs", json=TINY | {"model": "local"}, headers={"Prefer": "wait=30"}, timeout=PATIENCE_S
            )
            assert made.status_code == 200, made.text
            yield Served(url, document, made.json()["id"])
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def sent(case: Case[Any], served: Served) -> None:
    """The call of a case, held against the document. Nobody waits long for a job that will not end."""
    if case.headers and "Prefer" in case.headers:
        case.headers["Prefer"] = "wait=0"
    body: Any = case.body
    if case.path.startswith("/video/") and isinstance(body, dict) and isinstance(body.get("settings", {}), dict):
        video = body.setdefault("settings", {}).setdefault("video", {})
        if isinstance(video, dict) and isinstance(video.get("poll_timeout_seconds", 0), int | float | None):
            video["poll_timeout_seconds"] = 0.01
    answer = case.call(base_url=served.url, timeout=PATIENCE_S)
    assert answer.status_code != 500, answer.text
    # What is right by its shape may be wrong by its sense. In a form everything is text: an array is the word for it.
    lenient = [schemathesis.checks.not_a_server_error, positive_data_acceptance, use_after_free]
    lenient += [negative_data_rejection] if case.media_type == "multipart/form-data" else []
    case.validate_response(answer, excluded_checks=lenient)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(pytest.param(name, GenerationMode.POSITIVE, id=f"{name} right") for name in FINITE),
        *(pytest.param(name, GenerationMode.NEGATIVE, id=f"{name} wrong") for name in FALLIBLE),
    ],
)
def test_the_server_answers_as_its_document_says(served: Served, name: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(served.document)
    method, path = name.split()
    operation = schema[path][method]

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=not NIGHTLY, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def answers(case: Case[Any], known: bool) -> None:
        if known and "id" in case.path_parameters:
            case.path_parameters["id"] = served.job
        sent(case, served)

    answers()


async def test_every_route_is_in_the_document_and_nothing_else(studio: Studio) -> None:
    app = build_app(studio)
    routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    told = {(method.upper(), path) for path, ways in described(app)["paths"].items() for method in ways}
    assert told == {(method, path) for method, path in routes if method != "HEAD"}
    assert {f"{method} {path}" for method, path in told} == set(OPS)


async def test_a_route_without_its_words_is_seen(studio: Studio) -> None:
    async def secret(_: web.Request) -> web.StreamResponse:
        return web.Response()

    app = build_app(studio)
    app.router.add_get("/v1/new", secret)
    with pytest.raises(KeyError, match="GET /v1/new"):
        described(app)


async def test_every_route_says_what_it_does_and_every_reference_leads_somewhere(studio: Studio) -> None:
    document = described(build_app(studio))
    for path, ways in document["paths"].items():
        for method, operation in ways.items():
            assert operation["summary"].endswith("."), (method, path)
    text = json.dumps(document)
    named = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named <= set(document["components"]["schemas"])
    ids = [operation["operationId"] for ways in document["paths"].values() for operation in ways.values()]
    assert len(ids) == len({*ids})


async def test_people_have_a_page_that_loads_nothing_from_elsewhere(web: Web) -> None:
    async with web.get("/openapi.json") as reply:
        document = await reply.json()
    async with web.get("/docs") as reply:
        text = await reply.text()
        assert (reply.status, reply.content_type) == (200, "text/html")
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert all(f"<code>{path}</code>" in text for path in document["paths"])
    assert all(f"<details id='{name}'>" in text for name in document["components"]["schemas"])
    assert not re.search(r"(src|href)='?(https?:)?//", text)


def test_a_server_that_answers_otherwise_is_seen(served: Served) -> None:
    """The control: the same check, and a document that says less."""
    document = json.loads(json.dumps(served.document))
    listing = document["components"]["schemas"]["Jobs"]
    listing["properties"]["has_more"] = {"type": "string"}
    case = schemathesis.openapi.from_dict(document)["/v1/jobs"]["GET"].Case()
    with pytest.raises(FailureGroup) as found:
        sent(case, served)
    assert "is not of type" in str(found.value.exceptions[0])
    sent(schemathesis.openapi.from_dict(served.document)["/v1/jobs"]["GET"].Case(), served)
