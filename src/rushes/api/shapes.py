"""Errors in the shape of the routes they belong to: ours, those of OpenAI's `/v1/videos`, those of `/video/…`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web
from msgspec import Struct

from rushes.api.protocol import STATUS, Problem
from rushes.api.statuses import TABLE
from rushes.faults import Code
from rushes.units import Billed

OPENAI, SEED = "/v1/videos", ("/video", "/api/v1/videos")


class OpenAIError(Struct, frozen=True, kw_only=True):
    """OpenAI's members; the last three are ours."""

    message: str
    type: str
    param: str | None
    code: Code
    retryable: bool
    billed: Billed
    job_id: str


class OpenAIProblem(Struct, frozen=True, kw_only=True):
    """The body of every error at /v1/videos."""

    error: OpenAIError


class SeedProblem(Struct, frozen=True, kw_only=True):
    """The body of every error at /video/… and /api/v1/videos/…"""

    success: bool = False
    code: int
    message: str
    data: None = None
    error: Problem


def in_shape(problem: Problem, path: str, headers: Mapping[str, str]) -> web.Response:
    """An error as the callers of a path know errors."""
    if _is_below(path, OPENAI):
        # OpenAI's client repeats by itself what is not told to be left alone: not what may have cost money
        again = "true" if problem.retryable and problem.billed == "no" else "false"
        body = msgspec.json.encode(_openai(problem))
        return _response(_status(problem, TABLE[problem.code].openai), body, {"x-should-retry": again, **headers})
    if any(_is_below(path, prefix) for prefix in SEED):
        status = _status(problem, TABLE[problem.code].seed)
        told = SeedProblem(code=status, message=problem.detail, error=problem)
        return _response(status, msgspec.json.encode(told), headers)
    return _response(problem.status, msgspec.json.encode(problem), headers, "application/problem+json")


def _status(problem: Problem, usual: int) -> int:
    """The table's, unless HTTP itself was why."""
    return usual if problem.status == STATUS[problem.code] else problem.status


def _openai(problem: Problem) -> OpenAIProblem:
    error = OpenAIError(
        message=problem.detail,
        type=TABLE[problem.code].kind,
        param=problem.field or None,
        code=problem.code,
        retryable=problem.retryable,
        billed=problem.billed,
        job_id=problem.job_id,
    )
    return OpenAIProblem(error=error)


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


def _response(
    status: int, body: bytes, headers: Mapping[str, str], content_type: str = "application/json"
) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type=content_type)
