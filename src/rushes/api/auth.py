"""Who may ask for what: keys, whose jobs each of them sees, and what it lets its holder do.

The data folder's `keys.json` names every key that was ever made, with the sha256 of its secret and never the secret. It
is replaced as a whole, so a reader sees the one state or the next. A server looks at it again twice a second at most.

Where the file is missing nobody needs a key: the server then listens on loopback alone, everybody who reaches it is the
default tenant, and whatever credential they send is ignored. Once there was a key, everybody needs one: revoking the
last key locks the server, it does not open it.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from rushes.faults import AccessDenied, FolderTrouble, NotFound, Unavailable, bad
from rushes.units import DEFAULT_TENANT

Scope = Literal["read", "generate", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
USUAL: Final[tuple[Scope, ...]] = ("read", "generate")  # of a key that is made without saying more

# What each route needs; GET stands for HEAD too. A route that is not here needs `admin`, and fails a test. OPEN routes
# let anybody in: they are for probes, which have no keys, or say the same to everybody.
OPEN: Final = "open"
NEEDS: Final[Mapping[str, Scope | Literal["open"]]] = {
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": "admin",  # counts of all tenants
    "GET /openapi.json": OPEN,
    "GET /docs": OPEN,
    "GET /asyncapi.json": OPEN,  # the same for everybody
    "GET /v1/rushes.js": OPEN,  # the same
    "GET /v1/events": "read",
    "GET /v1/jobs/{id}/stream": "read",
    "POST /v1/webhooks/{provider}": OPEN,  # the address itself is the permission
    "GET /v1/ws": OPEN,  # the token comes in `hello`; each frame needs what its route does
    "POST /v1/jobs": "generate",
    "GET /v1/jobs": "read",
    "GET /v1/jobs/{id}": "read",
    "POST /v1/jobs/{id}/cancel": "generate",
    "POST /v1/jobs/{id}/poll": "generate",
    "POST /v1/jobs/{id}/collect": "generate",
    "POST /v1/jobs/{id}/resubmit": "generate",
    "POST /v1/jobs/{id}/give-up": "generate",
    "POST /v1/jobs/{id}/retry": "generate",
    "GET /v1/jobs/{id}/events": "read",
    "GET /v1/jobs/{id}/content": "read",
    "POST /v1/uploads": "generate",
    "POST /video/generate": "generate",
    "POST /video/extend": "generate",
    "GET /api/v1/videos/providers": "read",
    "POST /v1/videos": "generate",
    "GET /v1/videos": "read",
    "GET /v1/videos/{id}": "read",
    "DELETE /v1/videos/{id}": "generate",
    "GET /v1/videos/{id}/content": "read",
    "POST /v1/videos/{id}/remix": "generate",
    "POST /v1/batches": "generate",
    "GET /v1/batches/{id}": "read",
    "POST /v1/estimates": "generate",  # files that the request names are fetched
    "GET /v1/models": "read",
    "GET /v1/providers": "read",  # how their lanes fare, which is about all tenants: `admin`
}

FILE: Final = "keys.json"
LOOK_S: Final = 0.5  # between two looks at the file
TENANT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MAX_NAME: Final = 100
_log = structlog.get_logger("rushes")


class Key(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key as it is stored. One that was revoked stays, so that its name and its end are known."""

    id: str  # key_ and 16 hex digits
    name: str
    tenant: str
    scopes: tuple[Scope, ...]
    sha256: str  # of the secret, 64 hex digits
    created_at: datetime
    revoked_at: datetime | None = None


class Who(Struct, frozen=True, kw_only=True):
    """Who asks. `key` is empty where the server has no keys."""

    tenant: str
    scopes: frozenset[Scope]
    key: str

    def require(self, scope: Scope) -> None:
        """Raise AccessDenied, code `forbidden`, where the scope is not among the key's own."""
        if scope not in self.scopes:
            has = ", ".join(name for name in SCOPES if name in self.scopes)
            detail = f"This needs a key with the scope {scope!r}; yours has {has}."
            raise AccessDenied(detail, code="forbidden")


ANYBODY: Final = Who(tenant=DEFAULT_TENANT, scopes=frozenset(SCOPES), key="")
WHO: Final = web.RequestKey("who", Who)


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Keys:
    """The keys of a data folder, as a server sees them."""

    def __init__(self, folder: Path | None = None) -> None:
        """Without a folder there are none, and nobody needs one."""
        self._folder = folder
        self._live: dict[str, Key] = {}  # by the sha256 of the secret
        self._ids: set[str] = set()
        self._needed = False
        self._readable = True
        self._looked_at = -LOOK_S  # seconds of the monotonic clock
        self._watchers: set[Callable[[], object]] = set()

    @property
    def needed(self) -> bool:
        """Whether a caller needs a key. Once it is so it stays so. Raises Unavailable where nobody can say."""
        self._look()
        return self._needed

    @property
    def live(self) -> int:
        """How many keys let somebody in. Raises Unavailable."""
        self._look()
        return len(self._live)

    def authenticate(self, token: str) -> Who | None:
        """Who holds a token, None where nobody does; where no key is needed, anybody. Raises Unavailable.

        An unknown token takes as long as a known one: both are hashed, looked up by the hash, and compared.
        """
        if not self.needed:
            return ANYBODY
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()  # a header may be no text at all
        key = self._live.get(digest, _NOBODY)
        return _who(key) if hmac.compare_digest(key.sha256, digest) else None

    def stands(self, who: Who) -> bool:
        """Whether somebody who was let in, and stays connected, would still be. Raises Unavailable."""
        return not self.needed or who.key in self._ids

    def watch(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Have it called whenever somebody may no longer be let in; the answer ends that."""
        self._watchers.add(changed)
        return lambda: self._watchers.discard(changed)

    async def keep_looking(self) -> None:
        """See changes also while nobody asks; for ever."""
        while self._folder is not None:
            await asyncio.sleep(LOOK_S)
            with suppress(Unavailable):
                self._look()

    def _look(self) -> None:
        now = time.monotonic()
        if self._folder is None or now - self._looked_at < LOOK_S:
            return
        before = self._readable, self._needed, self._live
        try:
            self._read(self._folder)
            self._looked_at = now
        finally:
            if before != (self._readable, self._needed, self._live):
                for changed in tuple(self._watchers):
                    changed()

    def _read(self, folder: Path) -> None:
        try:
            known = stored(folder)
        except FolderTrouble as error:
            if self._readable:
                _log.error("keys.unreadable", detail=error.detail)
            self._readable = False
            raise Unavailable("The server cannot read its keys, and lets nobody in: its log says why.") from error
        self._live = {key.sha256: key for key in known if key.revoked_at is None}
        self._ids = {key.id for key in self._live.values()}
        self._needed = self._needed or bool(known)
        self._readable = True


_NOBODY: Final = Key(id="", name="", tenant="", scopes=(), sha256="-" * 64, created_at=datetime.min.replace(tzinfo=UTC))


def _who(key: Key) -> Who:
    return Who(tenant=key.tenant, scopes=frozenset(key.scopes), key=key.id)


# ── at the door ───────────────────────────────────────────────────────────────────────────────────────────────────────


def admit(request: web.Request, keys: Keys) -> None:
    """Write down who asks. Raises AccessDenied where there is no good key, or one that does not allow this."""
    who, needs = keys.authenticate(_token(request)), need_of(request)
    if who is not None:
        request[WHO] = who
    if needs == OPEN:
        return
    if who is None:
        raise unauthorised(sent="Authorization" in request.headers)
    if needs is not None:
        who.require(needs)


def unauthorised(*, sent: bool) -> AccessDenied:
    """What somebody without a good key is told. `sent`: there was one, and it is unknown or revoked."""
    if sent:
        return AccessDenied("This key is not known here, or was revoked: ask whoever runs the server for another.")
    return AccessDenied("The server needs a key: send it as `Authorization: Bearer rk_…`, or set RUSHES_TOKEN.")


def need_of(request: web.Request) -> Scope | Literal["open"] | None:
    """What a request needs; None for an address that is not there: any key is told so."""
    resource = request.match_info.route.resource
    if resource is None:
        return None
    method = "GET" if request.method == "HEAD" else request.method
    return NEEDS.get(f"{method} {resource.canonical}", "admin")


def challenge(error: AccessDenied, request: web.Request) -> str:
    """The WWW-Authenticate of a denial (RFC 6750)."""
    if error.code == "forbidden":
        return f'Bearer realm="rushes", error="insufficient_scope", scope="{need_of(request)}"'
    return 'Bearer realm="rushes"' + (', error="invalid_token"' if "Authorization" in request.headers else "")


def tenant_of(request: web.Request) -> str:
    """Whose jobs a request is about."""
    return request[WHO].tenant


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name is not trusted to be one, but for `localhost`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(request: web.Request) -> str:
    """What stands behind Bearer; empty where that is not what was sent, and sent once."""
    sent = request.headers.getall("Authorization", ())
    scheme, _, token = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""


# ── keeping ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Stored(Struct, forbid_unknown_fields=True):
    keys: list[Key]


def stored(folder: Path) -> list[Key]:
    """Every key that was made, in order; none where there is no file. Raises FolderTrouble."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=_Stored).keys
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise FolderTrouble(f"The keys in {folder / FILE} cannot be read ({error}): nobody is let in.") from error


def create(folder: Path, name: str, scopes: Sequence[Scope] = (), tenant: str = DEFAULT_TENANT) -> tuple[Key, str]:
    """Make a key; beside it, its secret, which is told here and never again.

    Args:
        folder: the data folder, which is made where it is missing.
        name: for people, 1 to 100 printable characters.
        scopes: what it allows; none: read and generate.
        tenant: whose jobs it sees: lower-case letters, digits, _ and -.

    Raises:
        BadRequest: the name or the tenant is wrong.
        FolderTrouble: the keys cannot be read or written.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise bad("name", f"A key's name is 1 to {MAX_NAME} printable characters, not all blank.")
    if not TENANT.fullmatch(tenant):
        raise bad("tenant", f"{tenant!r} is no tenant: up to 63 lower-case letters, digits, _ and -, no sign first.")
    secret = "rk_" + base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    key = Key(
        id=f"key_{secrets.token_hex(8)}",
        name=name,
        tenant=tenant,
        scopes=tuple(scope for scope in SCOPES if scope in (scopes or USUAL)),
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        created_at=_now(),
    )
    with _changing(folder) as keys:
        keys.append(key)
    return key, secret


def revoke(folder: Path, key_id: str) -> Key:
    """End a key; one that has ended stays as it is. Raises NotFound or FolderTrouble."""
    with _changing(folder) as keys:
        number = next((number for number, key in enumerate(keys) if key.id == key_id), None)
        if number is None:
            raise NotFound(f"There is no key {key_id!r}: `rushes keys list` shows them.")
        if keys[number].revoked_at is None:
            keys[number] = replace(keys[number], revoked_at=_now())
        return keys[number]


@contextmanager
def _changing(folder: Path) -> Generator[list[Key]]:
    """The keys, to be changed by one process at a time; they are written at the end, unless that raises."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{FILE}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = stored(folder)
            yield keys
            _write(folder, msgspec.json.format(msgspec.json.encode(_Stored(keys))))
    except OSError as error:
        raise FolderTrouble(f"The keys in {folder} cannot be changed: {error.strerror}.") from error


def _write(folder: Path, content: bytes) -> None:
    """The file is there whole, old or new, whatever happens on the way."""
    part = folder / f"{FILE}.part"
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / FILE)
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
