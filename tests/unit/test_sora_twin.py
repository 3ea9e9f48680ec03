"""Sora's twin, asked without a socket, in a time that tests say."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest

from rushes.adapters.base import Body, Part, Request, Response
from rushes.assets import sniff
from rushes.emulators.base import image_size
from rushes.emulators.sora import SoraTwin

BASE = "https://api.openai.com/v1"
LAKE = {"prompt": "a lake"}


class Wire:
    """A twin and a time."""

    def __init__(self, key: str = "", token: str = "k", **changes: Any) -> None:
        self.twin = SoraTwin(clip=b"0123456789", key=key, start_s=1.0, render_s=10.0, **changes)
        self.now, self.token = 1_000.0, token

    def ask(self, method: str, path: str, body: Body = None, **query: str) -> Response:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        asked = Request(method=method, url=BASE + path, body=body, query=query, headers=headers)
        return self.twin.handle(asked, self.now)

    def make(self, body: Body = None) -> str:
        return str(told(self.ask("POST", "/videos", body or LAKE))["id"])

    def video(self, clip_id: str) -> dict[str, Any]:
        return told(self.ask("GET", f"/videos/{clip_id}"))


def told(reply: Response, status: int = 200) -> dict[str, Any]:
    assert reply.status == status, reply.body
    return msgspec.json.decode(reply.body, type=dict[str, Any])


def code(reply: Response) -> tuple[int, str]:
    return reply.status, msgspec.json.decode(reply.body)["error"]["code"]


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\0" * 8


def test_a_form_and_json_are_the_same() -> None:
    wire = Wire()
    wishes = {**LAKE, "model": "sora-2-pro", "seconds": "12", "size": "1792x1024"}
    shown = [wire.video(wire.make(body)) for body in (wishes, [Part(*wish) for wish in wishes.items()])]
    assert [(one["model"], one["seconds"], one["size"]) for one in shown] == [("sora-2-pro", "12", "1792x1024")] * 2
    assert [charge.micro_usd for charge in wire.twin.ledger.charges] == [6_000_000] * 2


def test_what_is_not_wished_for_is_its_default() -> None:
    wire = Wire()
    shown = wire.video(wire.make())
    assert (shown["model"], shown["seconds"], shown["size"], shown["prompt"]) == ("sora-2", "4", "720x1280", "a lake")


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ({"prompt": ""}, (400, "invalid_value")),
        ({"prompt": "x" * 32_001}, (400, "invalid_value")),
        ({"seconds": 4}, (400, "invalid_value")),
        ({"seconds": "5"}, (400, "invalid_value")),
        ({"size": "1080x1920"}, (400, "invalid_value")),
        ({"model": "sora-3"}, (404, "model_not_found")),
        ({"n": 2}, (400, "unknown_parameter")),
        ({"prompt": "a blocked lake"}, (400, "sentinel_block")),
        ({"input_reference": {"image_url": "https://a.example/i", "file_id": "f"}}, (400, "invalid_value")),
    ],
)
def test_wrong_input_is_refused_and_costs_nothing(wrong: dict[str, object], answer: tuple[int, str]) -> None:
    wire = Wire()
    assert code(wire.ask("POST", "/videos", LAKE | wrong)) == answer
    assert wire.twin.charges == []


@pytest.mark.parametrize(
    ("picture", "media_type", "status"),
    [
        (png(720, 1280), "image/png", 200),
        (png(1280, 720), "image/png", 400),
        (b"nothing that is known here", "image/webp", 200),
        (b"\0\0\0\x18ftypmp42", "video/mp4", 400),
    ],
)
def test_a_picture_has_the_size_of_the_clip(picture: bytes, media_type: str, status: int) -> None:
    form = [Part("prompt", "a lake"), Part("input_reference", picture, "i", media_type)]
    assert Wire().ask("POST", "/videos", form).status == status


def test_a_clip_grows_is_done_and_goes_after_an_hour() -> None:
    wire = Wire()
    clip_id, seen = wire.make(), []
    for wire.now in (1_000.0, 1_006.0, 1_011.0):
        shown = wire.video(clip_id)
        seen.append((shown["status"], shown["progress"]))
    assert seen == [("queued", 0), ("in_progress", 50), ("completed", 100)]
    assert (shown["completed_at"], shown["expires_at"]) == (1_011, 4_611)
    assert wire.ask("GET", f"/videos/{clip_id}/content").body == b"0123456789"
    wire.now = 4_611.0
    assert wire.ask("GET", f"/videos/{clip_id}/content").status == 404
    assert wire.video(clip_id)["status"] == "completed"


def test_a_look_says_when_to_look_again() -> None:
    wire = Wire()
    assert wire.ask("GET", f"/videos/{wire.make()}").headers["openai-poll-after-ms"] == "1000"


def test_what_is_not_done_has_no_content() -> None:
    wire = Wire()
    clip_id = wire.make()
    assert code(wire.ask("GET", f"/videos/{clip_id}/content")) == (409, "video_not_ready")
    assert code(wire.ask("GET", f"/videos/{clip_id}/content", variant="thumbnail")) == (409, "video_not_ready")


def test_a_clip_that_is_done_has_pictures_for_as_long_as_itself() -> None:
    wire = Wire()
    clip_id = wire.make()
    wire.now += 11.0
    thumbnail, sheet, clip = (
        wire.ask("GET", f"/videos/{clip_id}/content", variant=word) for word in ("thumbnail", "spritesheet", "video")
    )
    assert (thumbnail.headers["content-type"], sniff(thumbnail.body)) == ("image/webp", "image/webp")
    assert (sheet.headers["content-type"], sniff(sheet.body)) == ("image/jpeg", "image/jpeg")
    assert (clip.headers["content-type"], clip.body) == ("video/mp4", b"0123456789")
    assert code(wire.ask("GET", f"/videos/{clip_id}/content", variant="poster")) == (400, "invalid_value")
    wire.now += 3600.0
    assert code(wire.ask("GET", f"/videos/{clip_id}/content", variant="thumbnail")) == (404, "not_found")
    assert len(wire.twin.charges) == 1


@pytest.mark.parametrize(
    ("word", "reason"), [("forbidden", "moderation_blocked"), ("broken", "video_generation_failed")]
)
def test_words_decide_how_it_ends(word: str, reason: str) -> None:
    wire = Wire()
    clip_id = wire.make({"prompt": f"a {word} lake"})
    wire.now += 11.0
    assert (wire.video(clip_id)["status"], wire.video(clip_id)["error"]["code"]) == ("failed", reason)
    assert wire.twin.charges == []


def test_the_list_goes_on_behind_a_clip() -> None:
    wire = Wire()
    ids = []
    for wire.now in (1_000.0, 1_001.0, 1_002.0):
        ids.append(wire.make())
    first = told(wire.ask("GET", "/videos", limit="2", order="desc"))
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    rest = told(wire.ask("GET", "/videos", limit="2", order="desc", after=first["last_id"]))
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert wire.ask("GET", "/videos", limit="101").status == 400


def test_a_clip_that_is_being_made_is_not_deleted() -> None:
    wire = Wire()
    clip_id = wire.make()
    assert code(wire.ask("DELETE", f"/videos/{clip_id}")) == (400, "video_in_progress")
    wire.now += 11.0
    assert told(wire.ask("DELETE", f"/videos/{clip_id}")) == {"id": clip_id, "object": "video.deleted", "deleted": True}
    assert wire.ask("GET", f"/videos/{clip_id}").status == 404


def test_a_clip_is_remixed_edited_and_gone_on_with_once_it_is_done() -> None:
    wire = Wire()
    clip_id = wire.make({**LAKE, "seconds": "8"})
    named: dict[str, object] = {"prompt": "by night", "video": {"id": clip_id}}
    asks: list[tuple[str, Body]] = [
        (f"/videos/{clip_id}/remix", {"prompt": "by night"}),
        ("/videos/edits", named),
        ("/videos/extensions", {**named, "seconds": "20"}),
    ]
    assert [wire.ask("POST", *ask).status for ask in asks] == [400] * 3
    wire.now += 11.0
    remixed, edited, longer = (told(wire.ask("POST", *ask)) for ask in asks)
    assert [one["seconds"] for one in (remixed, edited, longer)] == ["8", "8", "20"]
    assert remixed["remixed_from_video_id"] == clip_id
    assert wire.ask("POST", "/videos/edits", {"prompt": "by night"}).status == 400


def test_a_key_that_is_missing_or_wrong_is_refused() -> None:
    assert Wire(token="").ask("POST", "/videos", LAKE).status == 401
    assert code(Wire(key="other").ask("POST", "/videos", LAKE)) == (401, "invalid_api_key")


def test_money_comes_to_an_end() -> None:
    wire = Wire(credit_usd=0.5)
    wire.make()
    assert code(wire.ask("POST", "/videos", LAKE)) == (429, "insufficient_quota")


def test_when_it_is_switched_off_its_models_are_gone() -> None:
    assert code(Wire(retired=True).ask("POST", "/videos", LAKE)) == (404, "model_not_found")


def test_a_loose_server_tells_the_same_otherwise() -> None:
    wire = Wire(loose=True)
    clip_id = wire.make()
    shown = wire.video(clip_id)
    assert (shown["progress"], shown["seconds"]) == ("0%", 4.0)
    assert "error" not in shown
    wire.now += 11.0
    assert wire.video(clip_id)["url"].endswith(f"/files/{clip_id}.mp4")
    for variant in ("video", "thumbnail", "spritesheet"):
        assert wire.ask("GET", f"/videos/{clip_id}/content", variant=variant).status == 404
    twin, wire.token = wire.twin, ""
    reply = twin.handle(Request(method="GET", url=wire_file(clip_id)), wire.now)
    assert reply.body == b"0123456789"


def wire_file(clip_id: str) -> str:
    return f"https://api.openai.com/files/{clip_id}.mp4"


def test_sizes_of_pictures() -> None:
    jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc2\0\x11\x08" + struct.pack(">HH", 576, 1024) + b"\0" * 8
    assert (image_size(png(3, 5)), image_size(jpeg)) == ("3x5", "1024x576")
    assert [image_size(cut) for cut in (b"", b"GIF89a", jpeg[:12], b"\xff\xd8", png(3, 5)[:12])] == [""] * 5
