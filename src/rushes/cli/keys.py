"""`rushes keys`: who may use the server. It works on the data folder, also beside a server, which sees it at once."""

from __future__ import annotations

from msgspec.structs import asdict

from rushes.api.auth import Key, create, revoke, stored
from rushes.cli.arguments import Asked, Exit
from rushes.cli.screen import Screen, aligned, moment, plain
from rushes.main import Settings


async def keys(asked: Asked, settings: Settings, screen: Screen) -> Exit:
    """Make a key, list all, or end one."""
    match asked.action:
        case "create":
            _create(asked, settings, screen)
        case "list":
            _list(settings, screen)
        case "revoke":
            _revoke(asked, settings, screen)
    return Exit.OK


def _create(asked: Asked, settings: Settings, screen: Screen) -> None:
    is_first = not stored(settings.folder)
    key, secret = create(settings.folder, asked.name, asked.scope, asked.tenant)
    screen.result({**_shown(key), "secret": secret}, secret)
    screen.note(f"This is the secret of {key.id}, which nothing shows again. It allows: {', '.join(key.scopes)}.")
    if is_first:
        screen.note("From now on the server answers nobody without a key; verbs find theirs in RUSHES_TOKEN.")


def _list(settings: Settings, screen: Screen) -> None:
    found = stored(settings.folder)
    rows = [("ID", "NAME", "TENANT", "SCOPES", "CREATED", "REVOKED"), *map(_row, found)]
    screen.result([_shown(key) for key in found], aligned(rows))
    if not found:
        screen.note("There are no keys: the server answers anybody on this machine, and nobody else.")


def _revoke(asked: Asked, settings: Settings, screen: Screen) -> None:
    key = revoke(settings.folder, asked.key)
    screen.result(_shown(key), f"{key.id} is revoked")
    if all(one.revoked_at is not None for one in stored(settings.folder)):
        screen.note("No key is left: the server answers nobody until there is one, by `rushes keys create NAME`.")


def _shown(key: Key) -> dict[str, object]:
    return {name: value for name, value in asdict(key).items() if name != "sha256"}


def _row(key: Key) -> tuple[str, ...]:
    revoked = "" if key.revoked_at is None else moment(key.revoked_at)
    return key.id, plain(key.name), key.tenant, ",".join(key.scopes), moment(key.created_at), revoked
