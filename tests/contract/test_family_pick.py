"""A family's name picks the first model that can be used here now and takes the request, on the real studio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rushes.faults import BadRequest
from rushes.main import open_studio
from rushes.video import VideoRequest

GOOGLE: Mapping[str, str] = {
    "GOOGLE_OAUTH_ACCESS_TOKEN": "a-token",
    "GOOGLE_CLOUD_PROJECT": "a-project",
    "VEO_BUCKET": "a-bucket",
    "GEMINI_API_KEY": "a-key",
}


async def picked(folder: Path, environ: Mapping[str, str], family: str, request: VideoRequest) -> str:
    async with open_studio(folder, environ=environ) as studio:
        return studio.pick(request, family)


@pytest.mark.parametrize(
    ("seconds", "model"),
    [(8.0, "veo/veo-3.1-fast-generate-001"), (5.0, "omni/gemini-omni-1.1-flash")],
)
async def test_the_first_member_that_takes_the_length_is_picked(tmp_path: Path, seconds: float, model: str) -> None:
    """Veo has no five seconds; its successor has."""
    asked = VideoRequest(prompt="a lake", duration_seconds=seconds)
    assert await picked(tmp_path, GOOGLE, "veo-3.1-fast", asked) == model


async def test_what_has_no_key_here_is_passed_over(tmp_path: Path) -> None:
    asked = VideoRequest(prompt="a lake", duration_seconds=8.0)
    assert await picked(tmp_path, {"OPENROUTER_API_KEY": "k"}, "veo", asked) == "openrouter/google/veo-3.1"


async def test_where_nothing_has_a_key_the_refusal_names_one(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="GOOGLE_"):
        await picked(tmp_path, {}, "veo", VideoRequest(prompt="a lake"))


async def test_where_no_member_takes_the_request_the_refusal_is_about_the_request(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        await picked(tmp_path, GOOGLE, "veo", VideoRequest(prompt="a lake", duration_seconds=99.0))
    assert refused.value.field == "duration_seconds"


async def test_a_family_that_was_switched_off_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="switched") as refused:
        await picked(tmp_path, {"OPENAI_API_KEY": "k"}, "sora-2", VideoRequest(prompt="a lake"))
    assert refused.value.code == "model_retired"


async def test_extending_by_kling_means_its_old_wire(tmp_path: Path) -> None:
    asked = VideoRequest(prompt="a lake", duration_seconds=5.0)
    environ = {"KLING_ACCESS_KEY": "a", "KLING_SECRET_KEY": "b"}
    assert await picked(tmp_path, environ, "kling-v1", asked) == "kling_legacy/kling-v1"
