"""What a provider must be told beside its key: found by the first variable that is set, checked, and told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from rushes.adapters import google_auth
from rushes.adapters.capabilities import Only
from rushes.adapters.fit import normalise
from rushes.adapters.veo import Veo
from rushes.adapters.veo_models import FULL
from rushes.faults import BadRequest, ExtraMissing
from rushes.main import open_studio, with_settings_of
from rushes.video import TextToVideo, VideoSpec


def told(**environ: str) -> dict[str, str]:
    """Every setting of Veo's, as it was found."""
    (adapter,) = with_settings_of({"veo": Veo()}, environ).values()
    return {name: one.value for name, one in adapter.capabilities.settings.items()}


def test_a_setting_comes_from_the_first_of_its_variables_that_is_set() -> None:
    assert told() == {"project": "", "location": "us-central1", "bucket": ""}
    assert told(VEO_PROJECT_ID="p-2") == {"project": "p-2", "location": "us-central1", "bucket": ""}
    everything = told(
        GOOGLE_CLOUD_PROJECT="p-1", VEO_PROJECT_ID="p-2", GOOGLE_CLOUD_LOCATION="global", VEO_BUCKET="b.c"
    )
    assert everything == {"project": "p-1", "location": "global", "bucket": "b.c"}
    assert told(GOOGLE_CLOUD_PROJECT="", VEO_PROJECT_ID="p-2")["project"] == "p-2"


@pytest.mark.parametrize("value", ["a/b", "a?b", "a b", "a\n", "é"])
def test_what_would_lead_elsewhere_as_part_of_an_address_is_refused_by_its_variable(value: str) -> None:
    with pytest.raises(BadRequest) as refused:
        told(VEO_BUCKET=value)
    assert refused.value.field == "VEO_BUCKET"


def test_the_adapter_itself_is_left_as_it_is() -> None:
    """Another studio may use it with other settings."""
    shared = Veo()
    one, other = (with_settings_of({"veo": shared}, {"VEO_BUCKET": name})["veo"] for name in ("one", "other"))
    found = [adapter.capabilities.settings["bucket"].value for adapter in (shared, one, other)]
    assert found == ["", "one", "other"]


async def test_only_what_is_needed_is_asked_for(tmp_path: Path) -> None:
    key = {"GOOGLE_OAUTH_ACCESS_TOKEN": "t"}
    async with open_studio(tmp_path / "a", adapters={"veo": Veo()}, environ=key) as studio:
        (view,) = await studio.providers()
        assert (view.configured, "GOOGLE_CLOUD_PROJECT" in view.reason, "BUCKET" in view.reason) == (False, True, False)
    environ = key | {"GOOGLE_CLOUD_PROJECT": "p"}
    async with open_studio(tmp_path / "b", adapters={"veo": Veo()}, environ=environ) as studio:
        (view,) = await studio.providers()
        assert (view.configured, view.reason, view.in_doubt) == (True, "", "E")
    environ |= {"VEO_BUCKET": "clips"}
    async with open_studio(tmp_path / "c", adapters={"veo": Veo()}, environ=environ) as studio:
        (view,) = await studio.providers()
        assert view.in_doubt == "C", "a lost send is found by what it wrote"


async def test_without_its_extra_veo_is_refused_at_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google_auth, "available", lambda: False)
    environ = {"GOOGLE_OAUTH_ACCESS_TOKEN": "t", "GOOGLE_CLOUD_PROJECT": "p"}
    async with open_studio(tmp_path, adapters={"veo": Veo()}, environ=environ) as studio:
        with pytest.raises(ExtraMissing, match=r"rushes\[google\]"):
            await studio.generate("a lake", model="veo")
        assert (await studio.jobs()).jobs == []


# ── Rules that hold for some values alone ─────────────────────────────────────────────────────────────────────────────


def test_a_rule_may_hold_for_some_values_alone() -> None:
    assert FULL.only == (Only("resolution", "duration_seconds", (8.0,), when=("1080p", "2160p")),)
    words = VideoSpec(prompt="a lake", operation=TextToVideo(), duration_seconds=4.0)
    for fine in (words, VideoSpec(prompt="a lake", operation=TextToVideo(), resolution="4k", duration_seconds=8.0)):
        normalise(fine, FULL)
    with pytest.raises(BadRequest) as refused:
        normalise(VideoSpec(prompt="a lake", operation=TextToVideo(), resolution="4k", duration_seconds=4.0), FULL)
    assert refused.value.field == "duration_seconds"
    assert refused.value.detail == "veo-3.1-generate-001 does resolution 2160p only with duration_seconds 8."
