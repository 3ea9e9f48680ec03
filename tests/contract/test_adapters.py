"""Every adapter that is registered keeps the contract before the twin that is registered for it."""

from __future__ import annotations

import pytest

from rushes.main import installed_adapters, installed_emulators
from rushes.testing.adapters import AdapterContract
from rushes.testing.wires import Pair, informed

ADAPTERS, TWINS = installed_adapters(), installed_emulators()
PAIRS = {name: Pair(informed(adapter), TWINS[name]) for name, adapter in ADAPTERS.items() if name in TWINS}


class TestRegistered(AdapterContract):
    @pytest.fixture(params=list(PAIRS))
    def pair(self, request: pytest.FixtureRequest) -> Pair:
        return PAIRS[request.param]
