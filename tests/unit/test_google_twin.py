"""Google's twins, asked without a socket in a time that tests say: what they accept, refuse, charge and hand out."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from rushes.adapters.base import Part, Request, Response, play
from rushes.adapters.google_auth import FORM, GRANT, mint
from rushes.adapters.veo_models import MODELS
from rushes.emulators.base import ProviderTwin
from rushes.emulators.google import OmniTwin, VeoGeminiTwin, VeoTwin

CLIP = b"\0\0\0\x18ftypisom" + b"\0" * 40
FULL, LITE, PREVIEW = "veo-3.1-generate-001", "veo-3.1-lite-generate-001", "veo-3.1-generate-preview"
PARENT = f"projects/p/locations/us-central1/publishers/google/models/{FULL}"
FILE = {"bytesBase64Encoded": base64.b64encode(b"pixel").decode(), "mimeType": "image/png"}
ASSET = {"image": FILE, "referenceType": "asset"}
TURN = [{"type": "text", "text": "a lake"}]
IMAGE = {"type": "image", "data": base64.b64encode(b"pixel").decode(), "mime_type": "image/png"}
VIDEO = {**IMAGE, "type": "video", "mime_type": "video/mp4"}


class Wire:
    """A twin, a key and a time."""

    def __init__(self, twin: ProviderTwin, key: str = "k", header: str = "x-goog-api-key", prefix: str = "") -> None:
        self.twin, self.now = twin, 1_000.0
        self.headers = {header: prefix + key} if key else {}

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        reply = self.reply(method, path, body, **query)
        return reply.status, msgspec.json.decode(reply.body)

    def reply(self, method: str, path: str, body: Any = None, **query: str) -> Response:
        request = Request(
            method=method, url=f"https://google.example{path}", body=body, headers=self.headers, query=query
        )
        return self.twin.handle(request, self.now)

    def refusal(self, method: str, path: str, body: Any = None) -> str:
        status, told = self.ask(method, path, body)
        assert status == told["error"]["code"]
        return f"{status} {told['error']['status']}: {told['error']['message']}"


def vertex(**changes: Any) -> Wire:
    return Wire(VeoTwin(clip=CLIP, **{"start_s": 1.0, "render_s": 8.0, **changes}), "t", "authorization", "Bearer ")


def gemini(**changes: Any) -> Wire:
    return Wire(VeoGeminiTwin(clip=CLIP, **{"start_s": 1.0, "render_s": 8.0, **changes}))


def omni(**changes: Any) -> Wire:
    return Wire(OmniTwin(clip=CLIP, **{"start_s": 1.0, "render_s": 8.0, **changes}))


def order(
    prompt: str = "a lake", parameters: Mapping[str, object] | None = None, **instance: object
) -> dict[str, object]:
    return {"instances": [{"prompt": prompt, **instance}], "parameters": dict(parameters or {})}


def begun(wire: Wire, body: Any, parent: str = PARENT, version: str = "v1") -> str:
    status, told = wire.ask("POST", f"/{version}/{parent}:predictLongRunning", body)
    assert status == 200
    assert list(told) == ["name"]
    return str(told["name"])


def looked(wire: Wire, name: str) -> Any:
    status, told = wire.ask("POST", f"/v1/{PARENT}:fetchPredictOperation", {"operationName": name})
    assert status == 200
    return told


# ── Vertex AI ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_an_operation_has_its_name_alone_until_it_holds_the_clip(version: str) -> None:
    wire = vertex()
    name = begun(wire, order(), version=version)
    assert name.startswith(f"{PARENT}/operations/")
    assert looked(wire, name) == {"name": name}
    wire.now += 9.0
    (video,) = looked(wire, name)["response"]["videos"]
    assert base64.b64decode(video["bytesBase64Encoded"]) == CLIP


def test_with_a_storage_uri_the_clips_lie_in_the_bucket_once_they_are_done() -> None:
    wire = vertex()
    name = begun(wire, order(parameters={"storageUri": "gs://mine/a/b/", "sampleCount": 2}))
    assert wire.ask("GET", "/storage/v1/b/mine/o", prefix="a/b/") == (200, {"kind": "storage#objects"})
    wire.now += 9.0
    told = [video["gcsUri"] for video in looked(wire, name)["response"]["videos"]]
    _, listed = wire.ask("GET", "/storage/v1/b/mine/o", prefix="a/b/")
    assert [f"gs://mine/{item['name']}" for item in listed["items"]] == told
    for bucket, prefix in (("mine", "a/c/"), ("other", "a/b/")):
        assert "items" not in wire.ask("GET", f"/storage/v1/b/{bucket}/o", prefix=prefix)[1]
    path = told[1].removeprefix("gs://mine/").replace("/", "%2F")
    assert wire.reply("GET", f"/storage/v1/b/mine/o/{path}", alt="media").body == CLIP
    assert wire.refusal("GET", f"/storage/v1/b/mine/o/{path}x").startswith("404 NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "instances"),
        (order(" "), "prompt"),
        (order(image={"bytesBase64Encoded": "?", "mimeType": "image/png"}), "bytesBase64Encoded"),
        (order(image={"bytesBase64Encoded": FILE["bytesBase64Encoded"]}), "mimeType"),
        (order(lastFrame=FILE), "lastFrame without image"),
        (order(referenceImages=[ASSET] * 4), "referenceImages"),
        (order(referenceImages=[{**ASSET, "referenceType": "style"}]), "referenceImages"),
        (order(referenceImages=[ASSET], image=FILE), "referenceImages with another file"),
        (order(referenceImages=[ASSET], parameters={"durationSeconds": 4}), "durationSeconds"),
        (order(video=FILE, parameters={"resolution": "1080p"}), "video"),
        (order(parameters={"durationSeconds": 8.0}), "parameters.durationSeconds"),
        (order(parameters={"durationSeconds": 4, "resolution": "4k"}), "durationSeconds"),
        (order(parameters={"resolution": "2160p"}), "parameters.resolution"),
        (order(parameters={"generateAudio": "yes"}), "parameters.generateAudio"),
        (order(parameters={"seed": 2**32}), "parameters.seed"),
        (order(parameters={"storageUri": "https://mine"}), "storageUri"),
        (order(parameters={"gcsOutputDirectory": "gs://mine"}), "parameters.gcsOutputDirectory"),
    ],
)
def test_what_it_cannot_take_is_refused_and_not_charged(body: dict[str, object], told: str) -> None:
    wire = vertex()
    refusal = wire.refusal("POST", f"/v1/{PARENT}:predictLongRunning", body)
    assert refusal.startswith("400 INVALID_ARGUMENT")
    assert told in refusal
    assert wire.twin.charges == []


def test_the_same_body_without_the_mistake_is_taken() -> None:
    """The control."""
    good = [
        order(image=FILE, lastFrame=FILE),
        order(referenceImages=[ASSET] * 3),
        order(video={**FILE, "mimeType": "video/mp4"}),
        order(parameters={"durationSeconds": 8, "resolution": "4k", "generateAudio": True, "seed": 2**32 - 1}),
    ]
    wire = vertex()
    for body in good:
        begun(wire, body)
    assert len(wire.twin.charges) == len(good)


def test_every_model_of_the_adapters_data_is_there_and_others_are_gone() -> None:
    wire = vertex()
    for model in {row.id for row in MODELS}:
        begun(wire, order(), PARENT.replace(FULL, model))
    gone = PARENT.replace(FULL, "veo-2.0-generate-001")
    refusal = wire.refusal("POST", f"/v1/{gone}:predictLongRunning", order())
    assert refusal.startswith("404 NOT_FOUND")
    assert "no longer available" in refusal


@pytest.mark.parametrize(
    ("model", "parameters", "usd"),
    [(FULL, {}, 3.2), (FULL, {"resolution": "4k", "sampleCount": 2}, 9.6), (LITE, {"durationSeconds": 4}, 0.2)],
)
def test_it_charges_seconds_at_a_resolution_for_each_take(
    model: str, parameters: dict[str, object], usd: float
) -> None:
    wire = vertex()
    begun(wire, order(parameters=parameters), PARENT.replace(FULL, model))
    (charge,) = wire.twin.ledger.charges
    assert charge.micro_usd == round(usd * 1e6)
    assert charge.amount == pytest.approx(usd)


@pytest.mark.parametrize(
    ("prompt", "count", "left", "filtered"),
    [("a lake", 2, 2, 0), ("a forbidden lake", 2, 0, 2), ("a partly lake", 3, 2, 1), ("a partly lake", 1, 1, 0)],
)
def test_what_is_withheld_is_counted(prompt: str, count: int, left: int, filtered: int) -> None:
    wire = vertex()
    name = begun(wire, order(prompt, {"sampleCount": count}))
    wire.now += 9.0
    told = looked(wire, name)["response"]
    assert (len(told.get("videos", [])), told.get("raiMediaFilteredCount", 0)) == (left, filtered)
    assert [charge.micro_usd for charge in wire.twin.ledger.charges] == ([left * 8 * 400_000] if left else [])


def test_a_prompt_decides_how_it_ends() -> None:
    wire = vertex()
    assert "Support codes" in wire.refusal("POST", f"/v1/{PARENT}:predictLongRunning", order("a refused lake"))
    name = begun(wire, order("a broken lake"))
    wire.now += 9.0
    assert looked(wire, name)["error"]["code"] == 13
    assert wire.twin.charges == []


# ── Tokens ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def token_of(twin: VeoTwin, account: Mapping[str, str], now: float = 1_000.0) -> str:
    """As our own code asks for one."""
    parts = {"GOOGLE_APPLICATION_CREDENTIALS": json.dumps(account)}
    return play(
        mint(parts, now),
        lambda ask: twin.handle(ask, now) if isinstance(ask, Request) else pytest.fail("a token is no file"),
    ).value


def test_an_account_gets_tokens_that_open_everything_until_they_end() -> None:
    twin = VeoTwin(clip=CLIP, key="nobody's", token_s=100.0)
    token = token_of(twin, twin.service_account("https://google.example"))
    wire = Wire(twin, token, "authorization", "Bearer ")
    assert wire.ask("GET", "/storage/v1/b/mine/o")[0] == 200
    wire.now += 100.0
    assert wire.refusal("GET", "/storage/v1/b/mine/o").startswith("401 UNAUTHENTICATED")
    for headers in ({}, {"authorization": "Bearer other"}):
        wire.headers = headers
        assert wire.refusal("GET", "/storage/v1/b/mine/o").startswith("401 UNAUTHENTICATED")


@pytest.mark.parametrize(
    "changes", [{"client_email": "x@y"}, {"private_key": "another"}, {"token_uri": "https://google.example/token?a"}]
)
def test_a_sentence_of_somebody_else_gets_none(changes: dict[str, str]) -> None:
    twin = VeoTwin(clip=CLIP)
    account = dict(twin.service_account("https://google.example"))
    if "private_key" in changes:
        changes = {"private_key": VeoTwin(clip=CLIP).service_account("https://google.example")["private_key"]}
    with pytest.raises(Exception, match="Google gave no access token"):
        token_of(twin, account | changes)
    assert token_of(twin, account).startswith("ya29.")  # the control


@pytest.mark.parametrize(
    "form", [{}, {"grant_type": "password"}, {"grant_type": GRANT}, {"grant_type": GRANT, "assertion": "a.b.c"}]
)
def test_what_is_no_assertion_is_refused(form: dict[str, str]) -> None:
    body = [Part("", urlencode(form).encode(), media_type=FORM)]
    status, told = vertex().ask("POST", "/token", body)
    assert (status, set(told)) == (400, {"error", "error_description"})


def test_its_environment_is_a_key_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    twin = VeoTwin(clip=CLIP, key="nobody's")
    env = twin.env("https://google.example", tmp_path)
    file = Path(env["GOOGLE_APPLICATION_CREDENTIALS"])
    assert (file.parent, file.stat().st_mode & 0o077) == (tmp_path, 0)
    account = json.loads(file.read_text("utf-8"))
    assert (account["type"], account["token_uri"]) == ("service_account", "https://google.example/token")
    assert token_of(twin, account)
    assert VeoGeminiTwin(clip=CLIP).env("https://google.example", tmp_path) == {}


# ── The Gemini API ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clip_lies_behind_a_redirect_that_asks_for_the_key_once_and_for_two_days() -> None:
    wire = gemini()
    name = begun(wire, order(), f"models/{PREVIEW}", "v1beta")
    wire.now += 9.0
    _, told = wire.ask("GET", f"/v1beta/{name}")
    (sample,) = told["response"]["generateVideoResponse"]["generatedSamples"]
    path = sample["video"]["uri"].removeprefix("https://google.example").partition("?")[0]
    reply = wire.reply("GET", path, alt="media")
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (302, 302)
    there = reply.headers["location"].removeprefix("https://google.example").partition("?")[0]
    wire.headers = {}
    assert wire.reply("GET", there).body == CLIP
    assert wire.refusal("GET", path).startswith("403")
    wire.headers = {"x-goog-api-key": "k"}
    wire.now += 2 * 86_400.0
    assert wire.refusal("GET", path).startswith("403")


@pytest.mark.parametrize(
    "parameters", [{"seed": 7}, {"generateAudio": True}, {"sampleCount": 2}, {"storageUri": "gs://a"}]
)
def test_it_takes_less_than_vertex(parameters: dict[str, object]) -> None:
    path = f"/v1beta/models/{PREVIEW}:predictLongRunning"
    assert gemini().refusal("POST", path, order(parameters=parameters)).startswith("400 INVALID_ARGUMENT")


def test_a_wrong_key_is_a_400_and_none_a_403() -> None:
    wire = gemini(key="right")
    assert wire.refusal("GET", "/v1beta/models/m/operations/1") == (
        "400 INVALID_ARGUMENT: API key not valid. Please pass a valid API key."
    )
    wire.headers = {}
    assert wire.refusal("GET", "/v1beta/models/m/operations/1").startswith("403 PERMISSION_DENIED")


# ── Omni ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def request(given: list[dict[str, str]], task: str = "text_to_video", **changes: object) -> dict[str, object]:
    body: dict[str, object] = {
        "model": "gemini-omni-1.1-flash",
        "input": given,
        "response_format": {"type": "video", "delivery": "uri"},
        "generation_config": {"video_config": {"task": task}},
        "background": True,
        "store": True,
    }
    return body | changes


def created(wire: Wire, body: dict[str, object]) -> str:
    status, told = wire.ask("POST", "/v1/interactions", body)
    assert status == 200
    return str(told["id"])


def test_an_interaction_is_queued_runs_and_is_completed() -> None:
    wire = omni()
    made = created(wire, request(TURN))
    seen = []
    for after_s in (0.5, 3.0, 9.0):
        wire.now = 1_000.0 + after_s
        seen.append(wire.ask("GET", f"/v1/interactions/{made}")[1])
    assert [one["status"] for one in seen] == ["queued", "in_progress", "completed"]
    (output,) = [step for step in seen[-1]["steps"] if step["type"] == "model_output"]
    (video,) = [content for content in output["content"] if content["type"] == "video"]
    assert video["uri"].startswith("https://google.example/v1beta/files/")
    assert [(charge.amount, charge.unit, charge.micro_usd) for charge in wire.twin.ledger.charges] == [(8.0, "s", None)]


@pytest.mark.parametrize(
    ("given", "task", "fits"),
    [
        (TURN, "text_to_video", True),
        ([*TURN, IMAGE], "text_to_video", False),
        ([*TURN, IMAGE], "image_to_video", True),
        (TURN, "image_to_video", False),
        ([*TURN, *[IMAGE] * 6], "reference_to_video", True),
        ([*TURN, *[IMAGE] * 11], "reference_to_video", False),
        ([*TURN, VIDEO], "edit", True),
        ([*TURN, VIDEO], "extend", True),
        ([*TURN, IMAGE], "extend", False),
        ([IMAGE], "image_to_video", False),
        ([*TURN, {**IMAGE, "data": "?"}], "image_to_video", False),
        (TURN, "dance", False),
    ],
)
def test_a_task_wants_what_belongs_to_it(given: list[dict[str, str]], task: str, fits: bool) -> None:
    wire = omni()
    status, _ = wire.ask("POST", "/v1/interactions", request(given, task))
    assert (status, len(wire.twin.charges)) == ((200, 1) if fits else (400, 0))


@pytest.mark.parametrize(
    "changes",
    [
        {"background": False},
        {"store": False},
        {"seed": 7},
        {"response_format": {"delivery": "uri"}},
        {"response_format": {"type": "video", "duration": "11s"}},
        {"response_format": {"type": "video", "duration": 6}},
        {"response_format": {"type": "video", "resolution": "480p"}},
    ],
)
def test_what_omni_cannot_take_is_refused(changes: dict[str, object]) -> None:
    assert omni().refusal("POST", "/v1/interactions", request(TURN) | changes).startswith("400 INVALID_ARGUMENT")


def test_the_newer_model_makes_longer_clips() -> None:
    form = {"type": "video", "duration": "15s"}
    created(omni(), request(TURN, model="gemini-omni-1.2-flash", response_format=form))


def test_it_can_be_cancelled_until_it_has_ended_and_be_deleted() -> None:
    wire = omni()
    first, second = created(wire, request(TURN)), created(wire, request(TURN))
    assert wire.ask("POST", f"/v1/interactions/{first}/cancel")[1]["status"] == "cancelled"
    wire.now += 9.0
    assert wire.refusal("POST", f"/v1/interactions/{second}/cancel").startswith("400 FAILED_PRECONDITION")
    assert wire.ask("DELETE", f"/v1/interactions/{second}") == (200, {})
    assert wire.refusal("GET", f"/v1/interactions/{second}").startswith("404 NOT_FOUND")
    assert wire.ask("GET", f"/v1/interactions/{first}")[1]["status"] == "cancelled"


@pytest.mark.parametrize("wire", [vertex(), gemini(), omni()], ids=["vertex", "gemini", "omni"])
def test_what_is_not_there_is_told_in_googles_words(wire: Wire) -> None:
    assert wire.refusal("GET", "/v1/nothing").startswith("404 NOT_FOUND")
