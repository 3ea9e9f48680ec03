"""One table: what each kind of trouble is in HTTP, on our own routes and in the shapes that others made. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from rushes.faults import Code


class Told(NamedTuple):
    """How one kind of trouble is told."""

    native: int
    seed: int  # at /video/…: the service that this replaces knew 400, 401, 409, 429, 500, 501 and 502
    openai: int  # at /v1/videos, where `kind` is the type of the error
    kind: str


_WRONG, _SERVER, _RATE = "invalid_request_error", "server_error", "rate_limit_error"

TABLE: Final[dict[Code, Told]] = {
    "invalid_input": Told(400, 400, 400, _WRONG),
    "unsupported_feature": Told(422, 501, 400, _WRONG),
    "model_unknown": Told(422, 400, 404, _WRONG),
    "model_retired": Told(422, 400, 404, _WRONG),
    "authentication_failed": Told(424, 400, 424, _SERVER),  # the provider's key, not ours
    "quota_exceeded": Told(429, 429, 429, "insufficient_quota"),
    "rate_limited": Told(429, 429, 429, _RATE),
    "provider_unavailable": Told(503, 502, 503, _SERVER),
    "not_sent": Told(503, 502, 503, _SERVER),
    "no_answer": Told(504, 502, 504, _SERVER),
    "bad_answer": Told(502, 502, 502, _SERVER),
    "not_found": Told(404, 404, 404, _WRONG),
    "conflict": Told(409, 409, 409, _WRONG),
    "command_rejected": Told(409, 409, 409, _WRONG),
    "moderated": Told(422, 502, 400, _WRONG),
    "generation_failed": Told(502, 502, 502, _SERVER),
    "asset_expired": Told(410, 502, 410, _WRONG),
    "cancelled": Told(409, 409, 409, _WRONG),
    "timed_out": Told(504, 502, 504, _SERVER),
    "storage_failed": Told(507, 502, 507, _SERVER),
    "folder_in_use": Told(503, 500, 503, _SERVER),
    "extra_missing": Told(501, 501, 501, _SERVER),
    "unavailable": Told(503, 500, 503, _SERVER),
    "unreadable": Told(409, 409, 409, _SERVER),  # no bug of ours: the job's stored state is in the way
    "internal_error": Told(500, 500, 500, _SERVER),
    "unauthorised": Told(401, 401, 401, "authentication_error"),
    "forbidden": Told(403, 403, 403, "permission_error"),
}
