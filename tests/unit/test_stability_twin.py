"""Stability's twin, asked without a socket, in a time that tests say."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from rushes.adapters.base import Body, Part, Request, Response
from rushes.emulators.faults import Faults, Moderated
from rushes.emulators.faulty import FaultyTwin
from rushes.emulators.stability import BLURRED, StabilityTwin

PATH = "https://api.stability.ai/v2beta/image-to-video"
JSON, VIDEO = "application/json", "video/*"


def png(width: int = 1024, height: int = 576, more: bytes = b"") -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + more


class Wire:
    """A twin and a time."""

    def __init__(self, key: str = "", **changes: Any) -> None:
        self.twin = StabilityTwin(clip=b"0123456789", key=key, start_s=1.0, render_s=10.0, **changes)
        self.now = 1_000.0

    def ask(self, method: str, path: str, body: Body = None, accept: str = JSON, token: str = "k") -> Response:
        headers = {"accept": accept} | ({"authorization": f"Bearer {token}"} if token else {})
        return self.twin.handle(Request(method=method, url=PATH + path, body=body, headers=headers), self.now)

    def make(self, picture: bytes | None = None, wishes: Mapping[str, str] | None = None) -> Response:
        image = Part("image", png() if picture is None else picture, "image", "image/png")
        return self.ask("POST", "", [image, *(Part(*wish) for wish in (wishes or {}).items())])

    def made(self, seed: str = "7") -> str:
        return str(told(self.make(wishes={"seed": seed}))["id"])


def told(reply: Response, status: int = 200) -> dict[str, Any]:
    assert reply.status == status, reply.body
    return msgspec.json.decode(reply.body, type=dict[str, Any])


def test_a_clip_is_made_and_comes_as_it_is_asked_for() -> None:
    wire = Wire()
    clip_id = wire.made(seed="9")
    wire.now += 10.9
    assert told(wire.ask("GET", f"/result/{clip_id}"), 202) == {"id": clip_id, "status": "in-progress"}
    wire.now += 0.1
    shown = told(wire.ask("GET", f"/result/{clip_id}"))
    assert shown == {"video": base64.b64encode(b"0123456789").decode(), "finish_reason": "SUCCESS", "seed": 9}
    for _ in range(2):
        reply = wire.ask("GET", f"/result/{clip_id}", accept=VIDEO)
        assert (reply.body, reply.headers["finish-reason"], reply.headers["seed"]) == (b"0123456789", "SUCCESS", "9")
    assert [(charge.amount, charge.micro_usd) for charge in wire.twin.ledger.charges] == [(20.0, 200_000)]


def test_with_the_seed_0_it_draws_one() -> None:
    wire = Wire()
    ids = wire.made(seed="0"), wire.made(seed="0")
    wire.now += 11.0
    seeds = {told(wire.ask("GET", f"/result/{clip_id}"))["seed"] for clip_id in ids}
    assert len(seeds) == 2
    assert 0 not in seeds


def test_a_clip_is_there_for_a_day_and_for_its_own_key() -> None:
    wire = Wire()
    clip_id = wire.made()
    wire.now += 11.0
    assert wire.ask("GET", f"/result/{clip_id}", token="another").status == 404
    wire.now += 86_399.0
    assert wire.ask("GET", f"/result/{clip_id}").status == 200
    wire.now += 1.0
    assert told(wire.ask("GET", f"/result/{clip_id}"), 404)["name"] == "not_found"


@pytest.mark.parametrize(
    ("wishes", "error"),
    [
        ({"seed": "4294967295"}, "seed"),
        ({"seed": "1.5"}, "seed"),
        ({"seed": "-1"}, "seed"),
        ({"cfg_scale": "10.1"}, "cfg_scale"),
        ({"cfg_scale": "much"}, "cfg_scale"),
        ({"motion_bucket_id": "0"}, "motion_bucket_id"),
        ({"motion_bucket_id": "256"}, "motion_bucket_id"),
        ({"prompt": "a lake"}, "prompt"),
    ],
)
def test_wrong_wishes_are_refused_and_cost_nothing(wishes: dict[str, str], error: str) -> None:
    wire = Wire()
    refused = told(wire.make(wishes=wishes), 400)
    assert (refused["name"], refused["errors"][0].partition(":")[0]) == ("bad_request", error)
    assert wire.twin.charges == []


@pytest.mark.parametrize("picture", [png(1024, 1024), png(577, 1024), b"", b"no picture"])
def test_only_three_sizes_are_taken(picture: bytes) -> None:
    assert told(Wire().make(picture), 400)["errors"][0].startswith("image:")
    for width, height in ((1024, 576), (576, 1024), (768, 768)):
        assert Wire().make(png(width, height)).status == 200


def test_a_large_picture_is_refused() -> None:
    assert told(Wire().make(png(more=b"\0" * 10 * 2**20)), 413)["name"] == "payload_too_large"


def test_moderation_says_an_id_that_is_no_clips() -> None:
    wire = Wire()
    refused = told(wire.make(png(more=b" forbidden ")), 403)
    assert refused["name"] == "content_moderation"
    wire.now += 11.0
    assert wire.ask("GET", f"/result/{refused['id']}").status == 404
    assert wire.twin.charges == []


def test_what_is_withheld_is_blurred_and_charged() -> None:
    wire = Wire()
    faulty = FaultyTwin(wire.twin, Faults((Moderated(),)))
    form = [Part("image", png(), "image", "image/png")]
    headers = {"authorization": "Bearer k", "accept": JSON}
    clip_id = told(faulty.handle(Request(method="POST", url=PATH, body=form, headers=headers), wire.now))["id"]
    wire.now += 11.0
    assert told(wire.ask("GET", f"/result/{clip_id}"))["finish_reason"] == "CONTENT_FILTERED"
    reply = wire.ask("GET", f"/result/{clip_id}", accept=VIDEO)
    assert (reply.body, reply.headers["finish-reason"]) == (BLURRED, "CONTENT_FILTERED")
    assert wire.twin.charges == [clip_id]


def test_a_key_is_asked_for() -> None:
    assert told(Wire().ask("POST", "", token=""), 401)["name"] == "unauthorized"
    assert told(Wire(key="other").ask("POST", ""), 401)["name"] == "unauthorized"


def test_credits_come_to_an_end() -> None:
    wire = Wire(credits=39.0)
    wire.made()
    assert told(wire.make(), 402)["name"] == "payment_required"


def test_when_it_is_switched_off_nothing_is_there() -> None:
    assert Wire(retired=True).make().status == 404


def test_who_asks_for_bytes_fetches() -> None:
    twin = Wire().twin
    asks = [("POST", "", JSON), ("GET", "/result/a", JSON), ("GET", "/result/a", VIDEO)]
    read = [twin.read(Request(method=m, url=PATH + path, headers={"Accept": accept}), 0.0) for m, path, accept in asks]
    assert [twin.flow(one) for one in read] == ["submit", "status", "download"]
