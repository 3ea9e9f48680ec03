"""Which provider and model a name stands for, and whether it can be used here."""

from __future__ import annotations

import hashlib
from typing import TypeAlias

from rushes.adapters.base import Adapter
from rushes.adapters.capabilities import Model
from rushes.adapters.catalogue import route
from rushes.faults import bad
from rushes.studio.doors import Doors, Parts
from rushes.video import Target

Routed: TypeAlias = tuple[Adapter, Target, tuple[Model, ...]]
"""Who makes it, where it goes, and what the model takes: a row for each way to use it."""


def rows_for(parts: Parts, wanted: str) -> tuple[str, tuple[Model, ...]]:
    """The provider that a name stands for, and what its model takes, usable here or not. Raises BadRequest."""
    return route(wanted, parts.adapters, parts.today, parts.doors.explicit)


def routed(parts: Parts, wanted: str) -> Routed:
    """The same, with the key that it is used with.

    Raises:
        BadRequest: no model has the name, or something must be set in the environment first.
        ExtraMissing: the provider cannot run here.
    """
    provider, rows = rows_for(parts, wanted)
    adapter, model = parts.adapters[provider], rows[0]
    if (reason := parts.doors.unavailable(provider)) is not None:
        raise reason
    if unset := unset_for(adapter, parts.doors):
        raise bad("model", unset, "authentication_failed")
    if not (alias := credential_of(adapter, parts.doors)):
        return adapter, Target(provider=provider, model=model.id), rows
    fingerprint = hashlib.sha256(parts.doors.credentials[alias].encode()).hexdigest()[:8]
    return adapter, Target(provider=provider, model=model.id, credential=alias, fingerprint=fingerprint), rows


def credential_of(adapter: Adapter, doors: Doors) -> str:
    """The variable that holds the provider's key: its own name for it first. Empty where none does."""
    auth = adapter.capabilities.auth
    names = auth.env if auth is not None else ()
    return next((name for name in names if name in doors.credentials), "")


def unset_for(adapter: Adapter, doors: Doors) -> str:
    """What must be set in the environment before the provider can be used; empty where nothing is missing."""
    auth = adapter.capabilities.auth
    if auth is not None and not credential_of(adapter, doors):
        names = " or ".join(name.replace("+", " and ") for name in auth.env)
        return f"{adapter.name} needs a key: set {names} in the environment."
    settings = adapter.capabilities.settings.values()
    missing = [setting.env for setting in settings if setting.needed and not setting.value]
    names = " and ".join(" or ".join(names) for names in missing)
    return f"{adapter.name} needs to be told more: set {names} in the environment." if missing else ""
