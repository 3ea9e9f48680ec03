"""Every adapter that is registered keeps the contract before the twin that is registered for it."""

from __future__ import annotations

from rushes.main import installed_adapters, installed_emulators
from rushes.testing.adapters import AdapterContract, why_not
from rushes.testing.wires import pairs

ADAPTERS, TWINS = installed_adapters(), installed_emulators()
PAIRS = pairs({name: adapter for name, adapter in ADAPTERS.items() if name in TWINS}, TWINS)


def test_every_registered_adapter_has_a_twin_and_keeps_the_contract() -> None:
    assert {pair.adapter.name for pair in PAIRS.values()} == set(ADAPTERS) == set(TWINS)


def test_a_check_is_left_out_only_where_the_data_of_an_adapter_say_so() -> None:
    checks = [check for name, check in vars(AdapterContract).items() if name.startswith("test_")]
    left = {name: {reason for check in checks if (reason := why_not(check, PAIRS[name]))} for name in PAIRS}
    assert left["local"] == {
        "it asks for no key",
        "it does not call back",
        "it is not of class A",
        "it is not of class C",
    }
    assert left["replicate"] == {"it is not of class A"}
    assert left["stability"] == {
        "it cannot be cancelled",
        "it does not call back",
        "it is not of class A",
        "it is not of class B or C",
        "it is not of class C",
    }


class TestRegistered(AdapterContract):
    pairs = PAIRS
