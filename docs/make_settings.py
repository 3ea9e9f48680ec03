"""Writes docs/settings.md from the settings themselves: python docs/make_settings.py

The meaning of a setting is the comment behind its field, so there is one place to say it; a test compares the page.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from rushes.adapters.base import Adapter
from rushes.main import PREFIX, Settings, installed_adapters

PAGE: Final = Path(__file__).parent / "settings.md"
HEAD: Final = """\
# Settings

Made by `docs/make_settings.py` from the settings themselves. A setting is given as an argument, as a variable, or in
`rushes.toml`; the first of these that has it wins. `RUSHES_CONFIG` names another file than the `rushes.toml` of the
working directory. A name that is not known is an error, and so is a value out of its range; both are named.

```toml
listen = "127.0.0.1:9000"
log_level = "info"
log_format = "json"
```

"""
PROVIDERS: Final = """
## What providers need

Keys, addresses and secrets are variables alone, under the providers' own names where they have one: they never stand in
a file of ours. Of two names with `+` between them both are needed. An address points an adapter at an emulator or a
gateway. A callback secret makes callbacks without its signature refused; several, with blanks between them, hold while
one replaces another.

"""


def page(settings: type[msgspec.Struct], adapters: dict[str, Adapter]) -> str:
    """The whole page."""
    rows = [_row(settings, name, meaning) for name, meaning in meanings(settings).items()]
    head = ("setting", "variable", "default", "takes", "what it is")
    providers = [_provider(adapter) for adapter in adapters.values()]
    variables = ("provider", "key", "address", "callback secret", "other")
    return HEAD + _table(head, rows) + PROVIDERS + _table(variables, providers)


def meanings(settings: type[msgspec.Struct]) -> dict[str, str]:
    """Each field with the comment behind it. Raises ValueError for one without, unless its name and default say it."""
    source = inspect.getsource(settings)
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    comments = dict(_comments(source))
    fields = [node for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    told = {ast.unparse(node.target): comments.get(node.end_lineno or 0, "") for node in fields}
    if silent := [name for name, meaning in told.items() if not meaning]:
        raise ValueError(f"The setting {silent[0]!r} has no comment that says what it is.")
    return told


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.removeprefix("#").strip()


def _row(settings: type[msgspec.Struct], name: str, meaning: str) -> tuple[str, ...]:
    default = getattr(settings(), name)
    shown = f"`{default}`" if default not in ("", []) else "none"
    variable = f"`{PREFIX}{name.upper()}`" if name != "models" else "the file alone"
    return f"`{name}`", variable, shown, _takes(settings, name), meaning


def _takes(settings: type[msgspec.Struct], name: str) -> str:
    _, parts = msgspec.json.schema_components([settings])
    schema: dict[str, Any] = parts[settings.__name__]["properties"][name]
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    kinds = {"string": "text", "boolean": "true or false", "integer": "a whole number", "number": "a number"}
    words = "a list; of texts, as a variable, with blanks between them" if name != "models" else "a list"
    said = kinds.get(schema.get("type", ""), words)
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join([said, *(f"{word} {schema[bound]}" for bound, word in bounds.items() if bound in schema)])


def _provider(adapter: Adapter) -> tuple[str, ...]:
    data = adapter.capabilities
    addresses = [data.base_url_env, *(service.env for service in data.services.values())]
    others = [" or ".join(f"`{name}`" for name in one.env) for one in data.settings.values()]
    return (
        adapter.name,
        " or ".join(f"`{name}`" for name in data.auth.env) if data.auth else "none needed",
        ", ".join(f"`{name}`" for name in addresses if name),
        f"`{data.webhook.env}`" if data.webhook else "",
        ", ".join(others),
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("--",) * len(head), *[tuple(cell.replace("|", "\\|") for cell in row) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(Settings, installed_adapters()), "utf-8")
