"""The tools in a program of one's own: over a studio, and over a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from PIL import Image
from talking import TINY

from rushes.client import Client
from rushes.eventstore.base import StoreUnavailable
from rushes.studio import Studio
from rushes.tools import TOLD, Desk, Tool, VideoJob, schema_of, tools_at, tools_of
from rushes.video import JobsQuery, VideoRequest


@pytest.fixture(params=["studio", "server"])
def tools(request: pytest.FixtureRequest, studio: Studio, client: Client) -> dict[str, Tool]:
    return tools_of(studio if request.param == "studio" else client)


async def test_a_video_from_its_estimate_to_its_file(tools: dict[str, Tool]) -> None:
    estimate = await tools["estimate_video_cost"].call(TINY)
    assert (estimate["price"], estimate["model"], "error" in estimate) == ("free", "local", False)
    begun = await tools["generate_video"].call(TINY | {"idempotency_key": "lake"})
    assert (await tools["generate_video"].call(TINY | {"idempotency_key": "lake"}))["repeated"]
    done = await tools["wait_for_video_job"].call({"job_id": begun["job_id"]})
    assert done["status"] == "succeeded"
    assert done["videos"][0]["uri"].startswith("file:///")
    other = TINY | {"prompt": "another lake", "idempotency_key": "lake"}
    assert (await tools["generate_video"].call(other))["error"]["code"] == "conflict"


async def test_an_answer_is_what_its_schema_says(tools: dict[str, Tool]) -> None:
    begun = await tools["generate_video"].call(TINY)
    asked: dict[str, dict[str, Any]] = {
        "get_video_job": {"job_id": begun["job_id"]},
        "wait_for_video_job": {"job_id": begun["job_id"]},
        "cancel_video_job": {"job_id": begun["job_id"]},
        "list_video_jobs": {"limit": 5},
        "estimate_video_cost": TINY,
        "list_video_models": {"provider": "kling"},
    }
    jsonschema.validate(begun, tools["generate_video"].answer_schema)
    for name, arguments in asked.items():
        jsonschema.validate(arguments, tools[name].schema)
        jsonschema.validate(await tools[name].call(arguments), tools[name].answer_schema)
    with pytest.raises(jsonschema.ValidationError):  # the control
        jsonschema.validate(begun, tools["list_video_jobs"].answer_schema)


async def test_a_request_of_another_server_is_a_link_to_it(client: Client) -> None:
    tools = tools_of(client)
    begun = await tools["generate_video"].call(TINY)
    done = await tools["wait_for_video_job"].call({"job_id": begun["job_id"]})
    view = await client.show(begun["job_id"])
    Path(view.takes[0].path).unlink()  # as on another machine
    (video,) = (await tools["get_video_job"].call({"job_id": begun["job_id"]}))["videos"]
    assert video["uri"] == f"{client.url}{view.takes[0].url}"
    assert done["videos"][0] | {"uri": ""} == video | {"uri": ""}


@pytest.fixture(params=["studio", "server"])
def desk(request: pytest.FixtureRequest, studio: Studio, client: Client) -> Desk:
    return studio if request.param == "studio" else client


async def test_a_file_goes_in_from_an_allowed_folder_and_from_no_other(desk: Desk, tmp_path: Path) -> None:
    allowed, secret = tmp_path / "pictures", tmp_path / "secrets"
    for folder in (allowed, secret):
        folder.mkdir()
        Image.new("RGB", (64, 36)).save(folder / "a.png")
    (allowed / "link.png").symlink_to(secret / "a.png")
    tools = tools_of(desk, files=[allowed])
    asked = TINY | {"files": [{"path": str(allowed / "a.png")}]}
    assert (await tools["estimate_video_cost"].call(asked))["operation"] == "image-to-video"
    begun, again = [await tools["generate_video"].call(asked | {"idempotency_key": "k"}) for _ in range(2)]
    assert (begun["operation"], again["repeated"]) == ("image-to-video", True)
    for some, path in (
        (tools, secret / "a.png"),
        (tools, allowed / "link.png"),
        (tools, allowed / ".." / "secrets" / "a.png"),
        (tools, allowed / "none.png"),
        (tools_of(desk), allowed / "a.png"),  # nothing is allowed unasked
    ):
        error = (await some["generate_video"].call(TINY | {"files": [{"path": str(path)}]}))["error"]
        assert (error["code"], error["field"], error["billed"]) == ("invalid_input", "files[0].path", "no")


async def test_who_waits_is_told_of_the_job_again_and_again(studio: Studio) -> None:
    told: list[VideoJob] = []

    async def watch(job: VideoJob) -> None:
        told.append(job)

    tools = tools_of(studio)
    begun = await tools["generate_video"].call(TINY)
    answer = await tools["wait_for_video_job"].answer({"job_id": begun["job_id"]}, watch)
    assert told[-1] == answer
    assert {job.phase for job in told} > {"succeeded"}


async def test_a_log_that_cannot_be_used_is_told_with_what_may_be_billed() -> None:
    async def nobody() -> Desk:
        raise StoreUnavailable("the disk is away")

    tools = tools_at(nobody)
    billed = {name: (await tools[name].call(asked))["error"]["billed"] for name, asked in ASKED.items()}
    assert billed == {"generate_video": "unknown", "get_video_job": "no", "cancel_video_job": "no"}


ASKED: dict[str, dict[str, Any]] = {
    "generate_video": TINY,
    "get_video_job": {"job_id": "job_1"},
    "cancel_video_job": {"job_id": "job_1"},
}


def test_every_field_of_every_tool_is_explained(studio: Studio) -> None:
    for tool in tools_of(studio).values():
        fields = tool.schema["properties"]
        assert [name for name, field in fields.items() if not field["description"]] == [], tool.name
        assert (tool.schema["type"], tool.schema["additionalProperties"]) == ("object", False)
    known = {*VideoRequest.__struct_fields__, *JobsQuery.__struct_fields__, "idempotency_key", "files"}
    assert set(TOLD) <= known


def test_a_schema_has_an_object_at_its_root() -> None:
    class Plain(msgspec.Struct):
        size: int

    assert schema_of(Plain) == {
        "title": "Plain",
        "type": "object",
        "properties": {"size": {"type": "integer"}},
        "required": ["size"],
    }
