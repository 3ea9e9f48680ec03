"""Writes docs/providers.md from the adapters' own data: python docs/make_providers.py

What a page says of a provider must be what the code checks, so the page is made, and a test compares it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from rushes.adapters.base import Adapter
from rushes.adapters.callbacks import with_callback
from rushes.adapters.catalogue import model_views, retirement_views
from rushes.cli.screen import CANCELS, DOUBTS, inputs, price, span
from rushes.main import installed_adapters
from rushes.testing.orders import Order, plainest
from rushes.video import OPERATIONS, LimitsView, ModelView, Target

PAGE: Final = Path(__file__).parent / "providers.md"
HEAD: Final = """\
# Providers

Made by `docs/make_providers.py` from the data that requests are checked with; `rushes providers NAME` shows the same,
with what is configured on this machine. A value that is not in these tables is refused by name, before anything is
paid. What a lost answer means is in [durability.md](durability.md); a public address is that of a
[server](operations.md) which providers can call.

A model is named `provider/model`; a provider's name alone means its first model. More models can be added to a provider
in `rushes.toml`:

```toml
[[models]]
provider = "openrouter"
id = "some-vendor/some-model"
like = "google/veo-3.1" # whose limits it has, but for what is given here
durations_s = [4.0, 8.0]
```
"""


def page(adapters: dict[str, Adapter]) -> str:
    """The whole page."""
    return "\n".join([HEAD, _summary(adapters), *(_part(adapter) for adapter in adapters.values())])


def _table(head: str, rows: list[tuple[str, ...]]) -> str:
    names = [name.strip() for name in head.split("|")]
    lines = [names, ["--"] * len(names), *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _summary(adapters: dict[str, Adapter]) -> str:
    rows: list[tuple[str, ...]] = []
    for adapter in adapters.values():
        data, views = adapter.capabilities, model_views(adapter)
        can = sorted({operation for view in views for row in view.limits for operation in row.operations})
        keys = " or ".join(f"`{name}`" for name in data.auth.env) if data.auth is not None else "none needed"
        lost = "; ".join(f"{doubt} {where}".strip() for doubt, where in _lost(adapter))
        rows.append((f"[{adapter.name}](#{adapter.name})", ", ".join(can), keys, lost, data.terms.cancel))
    return _table("provider | makes | key | lost answers | cancel", rows)


def _lost(adapter: Adapter) -> Iterator[tuple[str, str]]:
    """The classes of its sends whose answer was lost, each with where it holds; the first one holds elsewhere."""
    data, orders = adapter.capabilities, plainest(adapter.capabilities)
    usual = _doubt(adapter, orders[0])
    yield usual, ""
    if with_callback(replace(data.terms, doubt=usual), data.webhook).doubt != usual:
        yield "D", "with a public address"
    doubts = {OPERATIONS[type(order.spec.operation)]: _doubt(adapter, order) for order in orders}
    for doubt in sorted({*doubts.values()} - {usual}):
        yield doubt, f"for {', '.join(sorted(name for name, other in doubts.items() if other == doubt))}"
    for name, setting in data.settings.items():
        told = copy.copy(adapter)
        told.capabilities = replace(data, settings={**data.settings, name: replace(setting, value="said")})
        if (doubt := _doubt(told, orders[0])) != usual:
            yield doubt, f"with `{setting.env[0]}`"
    for name in (name for name, option in orders[0].model.options.items() if option.type == "boolean"):
        spec = replace(orders[0].spec, provider_options={name: True})
        if (doubt := _doubt(adapter, replace(orders[0], spec=spec))) != usual:
            yield doubt, f"with the option `{name}`"


def _doubt(adapter: Adapter, order: Order) -> str:
    return adapter.terms(order.spec, Target(provider=adapter.name, model=order.model.id)).doubt


def _part(adapter: Adapter) -> str:
    data = adapter.capabilities
    views = model_views(adapter)
    lost = "; ".join(f"{DOUBTS[doubt]} {where}".strip() for doubt, where in _lost(adapter))
    facts = [
        f"Lost answers: {lost}. Cancelling: {CANCELS[data.terms.cancel]}.",
        f"At once, with one key: {data.submits_at_once} submits, {data.calls_at_once} other calls."
        + (f" Submits are at least {data.submit_interval_s:g} s apart." if data.submit_interval_s else ""),
        f"Results are there for {_hours(data.terms.link_ttl_s)}; a job is parked after {_hours(data.terms.total_s)}.",
    ]
    if data.aliases:
        facts.append(f"Also called {', '.join(data.aliases)}.")
    if data.base_url_env:
        facts.append(f"Address: `{data.base_url}`, or `{data.base_url_env}`.")
    if data.docs_url:
        facts.append(f"Its own documents: <{data.docs_url}>.")
    rows = [_row(view, limits, first=number == 0) for view in views for number, limits in enumerate(view.limits)]
    head = "model | makes | seconds | ratios | lines | inputs | other fields | options | price"
    parts = [f"## {adapter.name}\n", "\n".join(facts) + "\n", _table(head, rows)]
    if gone := retirement_views(adapter):
        rows = [(f"`{one.model}`", one.on, f"`{one.replacement}`" if one.replacement else "") for one in gone]
        parts.append(_table("switched off | on | instead", rows))
    return "\n".join(parts)


def _row(view: ModelView, limits: LimitsView, *, first: bool) -> tuple[str, ...]:
    name = f"`{view.id}`" + (f" ({', '.join(view.aliases)})" if view.aliases else "")
    return (
        name if first else "",
        ", ".join(limits.operations),
        span(limits.durations_seconds),
        " ".join(limits.aspect_ratios),
        " ".join(limits.resolutions),
        inputs(limits),
        ", ".join(limits.fields),
        ", ".join(f"`{name}`" for name in limits.options),
        (price(view) + (f" ({view.price.as_of})" if view.price else "")) if first else "",
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 86_400:g} days" if seconds > 86_400 else f"{seconds / 3600:g} h"


if __name__ == "__main__":
    PAGE.write_text(page(installed_adapters()), "utf-8")
