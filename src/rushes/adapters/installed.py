"""The adapters that are installed here, ours and other packages'."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

import structlog

from rushes.adapters.base import Adapter

GROUP: Final = "rushes.adapters"
_log = structlog.get_logger("rushes")


def installed_adapters() -> dict[str, Adapter]:
    """Every adapter that is registered under the entry point group `rushes.adapters`, by its provider's name."""
    made: dict[str, Adapter] = {}
    for point in entry_points(group=GROUP):
        try:
            adapter: Adapter = point.load()()
        except Exception as error:  # noqa: BLE001 - somebody else's package must not stop ours
            _log.error("adapter.failed", entry_point=point.value, error=f"{type(error).__name__}: {error}")
        else:
            made[adapter.name] = adapter
    return dict(sorted(made.items()))


def distribution_of(provider: str) -> str:
    """The package that registers a provider's adapter, and its version, as in `rushes 0.4.0`; empty where none does."""
    for point in entry_points(group=GROUP, name=provider):
        if point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return ""
