"""docs/settings.md is what the settings make it, and what it says can be done."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec
import pytest

from rushes.main import Settings, installed_adapters, load_settings

DOCS: Final = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_settings_make_it(maker: ModuleType) -> None:
    """Where this is red: python docs/make_settings.py, and look at what it changed."""
    assert maker.PAGE.read_text("utf-8") == maker.page(Settings, installed_adapters())


class Other(msgspec.Struct, kw_only=True):
    """A setting more than nobody knows of."""

    data: str = ""  # the data folder
    new: int = 3  # something new


class Silent(msgspec.Struct, kw_only=True):
    """A setting that is not explained."""

    data: str = ""  # the data folder
    new: int = 3


def test_a_setting_that_is_new_or_not_explained_is_seen(maker: ModuleType) -> None:
    """The control."""
    assert "| `new` | `RUSHES_NEW` | `3` | a whole number | something new |" in maker.page(Other, {})
    with pytest.raises(ValueError, match="'new' has no comment"):
        maker.page(Silent, {})


def test_every_setting_is_on_the_page_once(maker: ModuleType) -> None:
    rows = [line.split(" | ")[0] for line in maker.PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}`" for name in Settings.__struct_fields__]


def test_the_example_is_read(maker: ModuleType, tmp_path: Path) -> None:
    text = maker.HEAD.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "s.toml").write_text(text)
    settings = load_settings(environ={"RUSHES_CONFIG": str(tmp_path / "s.toml"), "RUSHES_LOG_LEVEL": "debug"})
    assert (settings.listen, settings.log_level, settings.log_format) == ("127.0.0.1:9000", "debug", "json")
    assert {*tomllib.loads(text)} <= {*Settings.__struct_fields__}
