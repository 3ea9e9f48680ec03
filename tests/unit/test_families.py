"""Names of whole families of models: what they may mean, and in what order."""

from __future__ import annotations

import pytest

from rushes.adapters.families import DEFAULT, FAMILIES, family_of, members
from rushes.main import installed_adapters

ADAPTERS = installed_adapters()
TODAY = "2026-11-21"


@pytest.mark.parametrize(
    ("wanted", "family"),
    [
        ("veo", "gemini"),
        ("veo-3.1-fast", "gemini"),
        ("gemini-2", "gemini"),
        ("sora", "openai"),
        ("sora-1", "openai"),
        ("openai", "openai"),
        ("kling-v1", "klingai"),
        ("Kling", "klingai"),
    ],
)
def test_a_name_stands_for_its_family(wanted: str, family: str) -> None:
    found = family_of(wanted)
    assert found is not None
    assert found.name == family


def test_other_names_stand_for_none() -> None:
    assert family_of("runway") is None
    assert list(members("runway", ADAPTERS, TODAY)) == []


def test_the_model_that_is_named_comes_first_and_its_family_after_it() -> None:
    found = list(members("veo-3.1-fast", ADAPTERS, TODAY))
    assert found[0] == "veo/veo-3.1-fast-generate-001"
    assert found.index("veo/veo-3.1-generate-001") < found.index("omni/gemini-omni-1.1-flash")
    assert found[-1].startswith("openrouter/google/veo")


def test_what_is_switched_off_is_left_out_but_for_an_address_that_was_set() -> None:
    assert list(members("sora", ADAPTERS, TODAY)) == []
    assert next(iter(members("sora", ADAPTERS, TODAY, {"sora"}))) == "sora/sora-2"
    assert not any(name.startswith("veo_gemini") for name in members("veo", ADAPTERS, TODAY))
    assert any(name.startswith("veo_gemini") for name in members("veo", ADAPTERS, TODAY, {"veo_gemini"}))


def test_a_kling_of_the_old_wire_is_found_by_its_id() -> None:
    assert next(iter(members("kling-v1", ADAPTERS, TODAY))) == "kling_legacy/kling-v1"
    assert next(iter(members("kling", ADAPTERS, TODAY))) == "kling/kling-3.0-turbo"


def test_every_family_has_members_and_the_default_is_of_one() -> None:
    for family in FAMILIES:
        assert list(members(family.begins[0], ADAPTERS, "", ()))
    assert family_of(DEFAULT) is not None
