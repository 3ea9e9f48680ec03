"""docs/providers.md is what the adapters' data makes it."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec
import pytest

from rushes.main import Settings, installed_adapters, with_models

DOCS: Final = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_providers", DOCS / "make_providers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_data_makes_it(maker: ModuleType) -> None:
    """Where this is red: python docs/make_providers.py, and look at what it changed."""
    assert maker.PAGE.read_text("utf-8") == maker.page(installed_adapters())


def test_another_limit_would_be_seen(maker: ModuleType) -> None:
    """The control: the page follows the data."""
    adapters = installed_adapters()
    local = adapters["local"]
    model = msgspec.structs.replace(local.capabilities.models[0], durations_s=(7.0,))
    local.capabilities = msgspec.structs.replace(local.capabilities, models=(model,))
    assert maker.page(adapters) != maker.page(installed_adapters())


def test_the_example_of_a_model_in_settings_works(maker: ModuleType) -> None:
    text = maker.HEAD.partition("```toml\n")[2].partition("```")[0]
    settings = msgspec.convert(tomllib.loads(text), Settings)
    (setting,) = settings.models
    added = with_models(installed_adapters(), settings.models)[setting.provider].capabilities.models[-1]
    assert (added.id, added.durations_s) == (setting.id, (4.0, 8.0))
