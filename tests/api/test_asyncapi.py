"""The socket's document says what is served: its shape is AsyncAPI's, and a real conversation fits it."""

from __future__ import annotations

from typing import Any, get_args

import aiohttp
import msgspec
import pytest
from schema import complaints, references, resolved
from talking import TINY, Frame, Reader, Serve, reading, write_log

from rushes.api.app import Server
from rushes.api.asyncapi import REPLIES, described
from rushes.api.protocol import FRAMES, ServerFrame
from rushes.api.stream import Limits
from rushes.studio import Studio

DOCUMENT: Any = described()
SENT = {kind.__struct_config__.tag for kind in get_args(ServerFrame)}


def wrong_with(frame: Frame) -> list[str]:
    """What a frame has that the document does not allow."""
    message = DOCUMENT["components"]["messages"][frame["type"]]
    return complaints(message["payload"], frame, DOCUMENT)


async def test_it_is_served_to_anybody(server: Server) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/asyncapi.json") as reply:
        assert (reply.status, reply.content_type) == (200, "application/json")
        assert await reply.json() == msgspec.json.decode(msgspec.json.encode(DOCUMENT))


def test_its_shape_is_that_of_version_3_1() -> None:
    assert DOCUMENT["asyncapi"] == "3.1.0"
    assert {"asyncapi", "info", "channels", "operations", "components", "defaultContentType"} == {*DOCUMENT}
    assert {"title", "version"} <= {*DOCUMENT["info"]}
    for pointer in references(DOCUMENT):
        assert resolved(pointer, DOCUMENT), pointer
    (channel,) = DOCUMENT["channels"].values()
    assert channel["address"] == "/v1/ws"
    for name, operation in DOCUMENT["operations"].items():
        parts = [operation, operation["reply"]] if "reply" in operation else [operation]
        assert {*operation} <= {"action", "channel", "messages", "reply"}, name
        for part in parts:  # messages are named through the channel, not past it
            assert part["channel"] == {"$ref": "#/channels/stream"}
            assert all(one["$ref"].startswith("#/channels/stream/messages/") for one in part["messages"])


def test_every_frame_is_in_it_and_goes_the_right_way() -> None:
    assert (
        set(DOCUMENT["channels"]["stream"]["messages"]) == set(DOCUMENT["components"]["messages"]) == {*FRAMES} | SENT
    )
    ways = {"receive": set[str](), "send": set[str]()}
    for operation in DOCUMENT["operations"].values():
        ways[operation["action"]] |= {one["$ref"].rpartition("/")[2] for one in operation["messages"]}
    assert ways == {"receive": {*FRAMES}, "send": SENT}
    assert {*REPLIES} | {"unsubscribe"} == {*FRAMES}


class Overheard(Reader):
    """A reader that keeps what is said on both sides."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader.ws)
        self.frames: list[Frame] = []

    async def say(self, **frame: object) -> None:
        self.frames.append({key.rstrip("_"): value for key, value in frame.items()})
        await super().say(**frame)

    async def hear(self, kind: str = "") -> Frame:
        self.frames.append(await super().hear(kind))
        return self.frames[-1]


async def conversation(server: Server, studio: Studio) -> list[Frame]:
    """One in which every frame there is comes up."""
    await write_log(studio, "job_odd", 1)
    async with reading(server.url, hello=False) as reader:
        overheard = Overheard(reader)
        await overheard.hello()
        await overheard.say(type="command", id="g", name="generate", args=TINY, idempotency_key="k")
        job = (await overheard.hear("result"))["job"]["id"]
        await studio.job(job).result(timeout_s=20)
        for name, args in (("show", {"job": job}), ("poll", {"job": job}), ("cancel", {"job": job, "discard": True})):
            await overheard.say(type="command", id="c", name=name, args=args)
            await overheard.hear("result")
        await overheard.say(type="command", id="c", name="submit_batch", args={"requests": [TINY]})
        batch = (await overheard.hear("result"))["batch"]
        await overheard.say(type="command", id="c", name="batch", args={"batch": batch["id"]})
        await overheard.hear("result")
        await overheard.say(type="command", id="c", name="collect", args={"job": "job_nobody", "handle": None})
        await overheard.hear("error")
        await overheard.say(type="subscribe", id="a", from_={"epoch": "other", "position": 1})
        await overheard.hear("resync")
        await overheard.say(type="subscribe", id="a", jobs=[job, "job_odd"], from_="start", status=None)
        await overheard.say(type="subscribe", id="b", job=job, status="succeeded", provider="local")
        await overheard.say(type="subscribe", id="c", snapshots=7)
        await overheard.say(type="subscribe", id="d", batch=batch["id"], from_="start")
        while overheard.frames[-1]["type"] != "heartbeat":
            await overheard.hear()
        await overheard.say(type="unsubscribe", id="a")
        await overheard.say(type="ping")
        while overheard.frames[-1]["type"] != "pong":
            await overheard.hear()
    await studio.job(batch["jobs"][0]).result(timeout_s=20)
    return overheard.frames


async def test_a_real_conversation_fits_it(serving: Serve, studio: Studio) -> None:
    frames = await conversation(await serving(Limits(heartbeat_s=2.0)), studio)
    assert {frame["type"] for frame in frames} == {*FRAMES} | SENT
    for frame in frames:
        assert wrong_with(frame) == [], frame
        if frame["type"] in SENT:
            schema = resolved(DOCUMENT["components"]["messages"][frame["type"]]["payload"]["$ref"], DOCUMENT)
            assert {*frame} <= {*schema["properties"]}, "we say nothing that is not in it"


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "subscribe"},
        {"type": "subscribe", "id": "a", "from": {"epoch": "e", "position": -1}},
        {"type": "subscribe", "id": "a", "form": "now"},
        {"type": "command", "id": "a", "name": "cancel", "args": {"discard": True}},
        {"type": "command", "id": "a", "name": "generate", "args": {"prompt": "a", "fps": "8"}},
        {"type": "events", "sub": "a", "upto": 1, "items": [{"position": 1}]},
        {"type": "welcome", "epoch": "e", "position": True, "heartbeat_s": 1.0},
        {"type": "error", "id": "a", "code": "invalid_input", "message": "No."},
    ],
)
def test_control_a_frame_that_is_wrong_does_not_fit(frame: Frame) -> None:
    assert wrong_with(frame)
