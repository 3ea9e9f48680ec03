"""Glint keeps the promises of an adapter, and of its own data."""

from __future__ import annotations

import pytest
from rushes_glint import Glint
from rushes_glint.twin import GlintTwin

from rushes.testing.adapters import AdapterContract
from rushes.testing.wires import Pair


class TestGlint(AdapterContract):
    @pytest.fixture
    def pair(self) -> Pair:
        return Pair(Glint(), GlintTwin)
