"""Every HTTP route as an OpenAPI 3.1 document, made from the types that read and write its bodies; and a page of it."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeAlias, cast

import msgspec
from aiohttp import web
from msgspec import Struct

from rushes.api import facades, openai_shape
from rushes.api import protocol as p
from rushes.api.rest import query
from rushes.api.shapes import OPENAI, SEED, OpenAIProblem, SeedProblem
from rushes.api.sse import JobStreamQuery, StreamQuery
from rushes.video import (
    MAX_KEY,
    BatchView,
    EstimateView,
    EventView,
    JobsQuery,
    JobView,
    OfferedModel,
    ProviderView,
    UploadView,
    VideoRequest,
)

Json: TypeAlias = dict[str, Any]
SCHEMAS: Final = "#/components/schemas/"
JSON, PROBLEM, STREAM = "application/json", "application/problem+json", "text/event-stream"
CLIP, ANY, FORM = "video/mp4", "application/octet-stream", "multipart/form-data"
KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request gives the same answer, and is paid once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
}
PREFER: Final[Json] = {
    "name": "Prefer",
    "in": "header",
    "description": "wait=N: answer when the job has ended, or after N seconds (RFC 7240). At most 300 count.",
    "schema": {"type": "string"},
}
RANGE: Final[Json] = {"name": "Range", "in": "header", "schema": {"type": "string"}}
LAST: Final[Json] = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
FILE: Final[Json] = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
FILE["required"] = ["file"]


class JobEvents(p.Listing, frozen=True, kw_only=True):
    """A job's history, in order."""

    data: Sequence[EventView]


class Jobs(p.JobsListing, frozen=True, kw_only=True):
    """A page of jobs."""

    data: Sequence[JobView]


class Models(p.Listing, frozen=True, kw_only=True):
    """Every model."""

    data: Sequence[OfferedModel]


class Providers(p.Listing, frozen=True, kw_only=True):
    """Every provider."""

    data: Sequence[ProviderView]


Answer: TypeAlias = type[Struct] | str | None
"""A body: of a type, in JSON; or of a media type; or none."""


class Op(Struct, frozen=True, kw_only=True):
    """What a route takes and answers, beside its errors."""

    answers: Mapping[int, Answer]
    query: type[Struct] = p.Strict
    body: type[Struct] | None = None
    needs_body: bool = True
    other: Mapping[str, Json] = {}  # what else the body may be: schemas by media types
    headers: Sequence[Json] = ()
    says: str = ""  # empty: the first line of the handler's own words


def _steering(body: type[Struct] = p.Strict) -> Op:
    return Op(answers={200: JobView}, body=body, needs_body=False)


CONTENT: Final[Mapping[int, Answer]] = {200: CLIP, 206: CLIP, 304: None, 416: None}
OPS: Final[Mapping[str, Op]] = {
    "POST /v1/jobs": Op(answers={200: JobView, 202: JobView}, body=VideoRequest, headers=(KEY, PREFER)),
    "GET /v1/jobs": Op(answers={200: Jobs}, query=JobsQuery),
    "GET /v1/jobs/{id}": Op(answers={200: JobView}),
    "POST /v1/jobs/{id}/cancel": _steering(p.CancelBody),
    "POST /v1/jobs/{id}/poll": _steering(),
    "POST /v1/jobs/{id}/collect": _steering(p.CollectBody),
    "POST /v1/jobs/{id}/resubmit": _steering(p.ResubmitBody),
    "POST /v1/jobs/{id}/give-up": _steering(),
    "POST /v1/jobs/{id}/retry": Op(
        answers={200: JobView, 202: JobView}, body=p.Strict, needs_body=False, headers=(KEY, PREFER)
    ),
    "GET /v1/jobs/{id}/events": Op(answers={200: JobEvents}, query=p.EventsQuery),
    "GET /v1/jobs/{id}/content": Op(answers=CONTENT, query=p.ContentQuery, headers=(RANGE,)),
    "GET /v1/jobs/{id}/stream": Op(
        answers={200: STREAM}, query=JobStreamQuery, headers=(LAST,), says="What happens to a job, as it happens."
    ),
    "GET /v1/events": Op(
        answers={200: STREAM}, query=StreamQuery, headers=(LAST,), says="What happens to many jobs, as it happens."
    ),
    "GET /v1/ws": Op(answers={101: None}, says="The WebSocket: /asyncapi.json describes it."),
    "POST /v1/batches": Op(answers={202: BatchView}, body=p.BatchBody, headers=(KEY,)),
    "GET /v1/batches/{id}": Op(answers={200: BatchView}),
    "POST /v1/estimates": Op(answers={200: EstimateView}, body=VideoRequest),
    "POST /v1/uploads": Op(answers={201: UploadView}, other={ANY: {}, FORM: FILE}),
    "GET /v1/models": Op(answers={200: Models}),
    "GET /v1/providers": Op(answers={200: Providers}),
    "POST /v1/videos": Op(
        answers={200: openai_shape.Video},
        body=openai_shape.CreateBody,
        other={FORM: {"$ref": f"{SCHEMAS}CreateForm"}},
        headers=(KEY,),
    ),
    "GET /v1/videos": Op(answers={200: openai_shape.VideoList}, query=openai_shape.VideosQuery),
    "GET /v1/videos/{id}": Op(answers={200: openai_shape.Video}),
    "DELETE /v1/videos/{id}": Op(answers={200: openai_shape.VideoDeleted}),
    "GET /v1/videos/{id}/content": Op(answers=CONTENT, query=openai_shape.VariantQuery, headers=(RANGE,)),
    "POST /v1/videos/{id}/remix": Op(answers={200: openai_shape.Video}, body=openai_shape.RemixBody, headers=(KEY,)),
    "POST /video/generate": Op(answers={200: facades.MadeAnswer}, body=facades.GenerateBody, headers=(KEY,)),
    "POST /video/extend": Op(answers={200: facades.MadeAnswer}, body=facades.ExtendBody, headers=(KEY,)),
    "GET /api/v1/videos/providers": Op(answers={200: facades.ProviderList}),
    "POST /v1/webhooks/{provider}": Op(answers={204: None}, other={ANY: {}}),
    "GET /healthz": Op(answers={200: p.Health}),
    "GET /readyz": Op(answers={200: p.Health}),
    "GET /metrics": Op(answers={200: "text/plain"}),
    "GET /v1/rushes.js": Op(answers={200: "text/javascript"}),
    "GET /asyncapi.json": Op(answers={200: JSON}),
    "GET /openapi.json": Op(answers={200: JSON}),
    "GET /docs": Op(answers={200: "text/html"}),
}


# ── The document ──────────────────────────────────────────────────────────────────────────────────────────────────────


def described(app: web.Application) -> Json:
    """The document of every route of an application. Raises KeyError where one is not in OPS."""
    paths: dict[str, Json] = {}
    for route in app.router.routes():
        if route.resource is not None and route.method != "HEAD":
            path = route.resource.canonical
            says = inspect.getdoc(route.handler) or ""
            paths.setdefault(path, {})[route.method.lower()] = _operation(route.method, path, says)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rushes",
            "version": version("rushes"),
            "description": "Durable AI video generation. Errors are problem+json (RFC 9457) on our own routes; at "
            "/v1/videos they have OpenAI's shape, at /video and /api/v1/videos that of the older services. Every error "
            "says what was `billed`. The live stream is at /asyncapi.json.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "security": [{}, {"key": []}],
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the server has keys; one without them ignores it.",
                }
            },
        },
    }


def _operation(method: str, path: str, says: str) -> Json:
    op = OPS[f"{method} {path}"]
    operation: Json = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", path)]),
        "summary": op.says or says.partition("\n")[0],
        "parameters": [*_in_path(path), *_in_query(op.query), *op.headers],
        "responses": {str(status): _response(answer) for status, answer in op.answers.items()} | _errors(path),
    }
    bodies: Json = {JSON: _body(op.body)} if op.body is not None else {}
    bodies |= {kind: {"schema": schema} for kind, schema in op.other.items()}
    if bodies:
        operation["requestBody"] = {"required": op.needs_body, "content": bodies}
    return operation


def _in_path(path: str) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _in_query(kind: type[Struct]) -> Iterator[Json]:
    """Its fields; that one is missing is said by leaving it out."""
    _, parts = msgspec.json.schema_components([kind], ref_template=SCHEMAS + "{name}")
    whole = parts[kind.__name__]
    for name, schema in cast("Json", whole["properties"]).items():
        given = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
        plain = given[0] if len(given) == 1 else {"anyOf": given}
        plain = {key: value for key, value in plain.items() if key != "default"}
        yield {"name": name, "in": "query", "required": name in whole["required"], "schema": plain}


def _body(kind: type[Struct]) -> Json:
    return {"schema": _named(kind)}


def _named(kind: type[Struct]) -> Json:
    return {"$ref": f"{SCHEMAS}{kind.__name__}"}


def _response(answer: Answer) -> Json:
    if answer is None:
        return {"description": "No content."}
    if isinstance(answer, str):
        return {"description": "As it is.", "content": {answer: {}}}
    return {"description": _first_line(answer), "content": {JSON: _body(answer)}}


def _errors(path: str) -> Json:
    kind: type[Struct] = p.Problem
    if path.startswith(OPENAI):
        kind = OpenAIProblem
    elif path.startswith(SEED):
        kind = SeedProblem
    media = PROBLEM if kind is p.Problem else JSON
    told = {"description": _first_line(kind), "content": {media: {"schema": _named(kind)}}}
    return {"4XX": told, "5XX": told}


def _first_line(kind: type[Struct]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]


def _schemas() -> Json:
    kinds: dict[type[Struct], None] = dict.fromkeys([p.Problem, OpenAIProblem, SeedProblem])
    for op in OPS.values():
        kinds |= dict.fromkeys([op.body] if op.body else [])
        kinds |= dict.fromkeys(one for one in op.answers.values() if one is not None and not isinstance(one, str))
    _, schemas = msgspec.json.schema_components([*kinds], ref_template=SCHEMAS + "{name}")
    known = {name: _flush_left(schema) for name, schema in schemas.items()}
    return known | {"CreateForm": _form(known["CreateBody"])}


def _form(body: Json) -> Json:
    """The same as JSON, but for the file, which a form has as itself."""
    text = {"type": "string"}
    properties = dict.fromkeys(body["properties"], text) | {
        "prompt": body["properties"]["prompt"],
        "input_reference": {"type": "string", "format": "binary"},
    }
    return {"type": "object", "properties": properties, "required": ["prompt"]}


def _flush_left(schema: object) -> Any:
    if isinstance(schema, list):
        return [_flush_left(one) for one in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _flush_left(value) for key, value in cast("dict[str, object]", schema).items()}
    if isinstance(text := plain.get("description"), str):
        plain["description"] = inspect.cleandoc(text)
    return plain


# ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em }
pre { background: #8881; padding: 0.8rem; overflow-x: auto }
summary { cursor: pointer; padding: 0.3rem 0 }
details details { margin-left: 1.2rem }
b { display: inline-block; min-width: 4.5rem }
"""


def page(document: Json) -> str:
    """The document for people: every route with what it takes and answers, and every schema."""
    info = document["info"]
    routes = [
        _route(method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = [
        f"<details id='{name}'><summary><code>{name}</code></summary>{_pre(schema)}</details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    ]
    head = f"<meta charset='utf-8'><title>{info['title']} {info['version']}</title><style>{_STYLE}</style>"
    intro = f"<h1>{info['title']} {info['version']}</h1><p>{html.escape(info['description'])}</p>"
    links = "<p>For machines: <a href='openapi.json'>openapi.json</a>, <a href='asyncapi.json'>asyncapi.json</a></p>"
    body = f"{intro}{links}<h2>Routes</h2>{''.join(routes)}<h2>Schemas</h2>{''.join(schemas)}"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>"


def _route(method: str, path: str, operation: Json) -> str:
    says = html.escape(operation["summary"])
    parts = [f"<details><summary><b>{method}</b> <code>{html.escape(path)}</code> {says}</summary>"]
    parts += [
        f"<p><code>{one['name']}</code> in the {one['in']}: <code>{html.escape(_short(one['schema']))}</code></p>"
        for one in operation["parameters"]
    ]
    for kind, content in operation.get("requestBody", {"content": {}})["content"].items():
        parts.append(f"<p>Body, {kind}: {_link(content['schema'])}</p>")
    for status, response in operation["responses"].items():
        bodies = [f"{kind} {_link(content.get('schema', {}))}" for kind, content in response.get("content", {}).items()]
        parts.append(f"<p>{status}: {', '.join(bodies) or html.escape(response['description'])}</p>")
    return "".join([*parts, "</details>"])


def _link(schema: Json) -> str:
    if reference := schema.get("$ref"):
        name = reference.removeprefix(SCHEMAS)
        return f"<a href='#{name}'><code>{name}</code></a>"
    return f"<code>{html.escape(_short(schema))}</code>" if schema else ""


def _short(schema: Json) -> str:
    return msgspec.json.encode(schema).decode()


def _pre(schema: Json) -> str:
    return f"<pre>{html.escape(msgspec.json.format(msgspec.json.encode(schema)).decode())}</pre>"


# ── The routes ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Description:
    """What an application says of itself. It is made once, when it is first asked for."""

    def __init__(self) -> None:
        self._made: tuple[bytes, str] | None = None

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        return [web.get("/openapi.json", self.document), web.get("/docs", self.page)]

    async def document(self, request: web.Request) -> web.StreamResponse:
        """Every route, for machines: OpenAPI 3.1."""
        query(request, p.Strict)
        return web.Response(body=self._of(request.app)[0], content_type=JSON)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Every route, for people."""
        query(request, p.Strict)
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=self._of(request.app)[1], content_type="text/html", headers=headers)

    def _of(self, app: web.Application) -> tuple[bytes, str]:
        if self._made is None:
            document = described(app)
            self._made = msgspec.json.format(msgspec.json.encode(document)), page(document)
        return self._made
