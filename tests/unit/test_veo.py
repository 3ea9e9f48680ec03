"""Veo's flows on both interfaces, played with bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from rushes.adapters.base import (
    Answer,
    Ask,
    Broken,
    Done,
    Failed,
    Inline,
    Keep,
    Kept,
    Outcome,
    Output,
    Request,
    Response,
    Stopped,
    Unfinished,
    Vanished,
    play,
)
from rushes.adapters.catalogue import retirement_views, route, rows_of
from rushes.adapters.fit import estimate, fit
from rushes.adapters.omni import Omni
from rushes.adapters.veo import Veo, VeoGemini
from rushes.faults import BadRequest
from rushes.units import AssetRef, Handle
from rushes.video import Extend, ImageToVideo, Input, MultiImage, Role, Target, TextToVideo, VideoSpec

KEY = "job_1-1"
FULL, FAST, LITE = "veo-3.1-generate-001", "veo-3.1-fast-generate-001", "veo-3.1-lite-generate-001"
PREVIEW = "veo-3.1-generate-preview"
PARENT = f"projects/p-1/locations/us-central1/publishers/google/models/{FULL}"
HANDLE = Handle(f"{PARENT}/operations/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed")
GEMINI_HANDLE = Handle(f"models/{PREVIEW}/operations/abc123xyz789")
WORDS = VideoSpec(prompt="a lake", operation=TextToVideo())
URI = "https://generativelanguage.googleapis.com/v1beta/files/abc:download?alt=media"
ASSET = AssetRef("k", "0" * 64, 1, "video/mp4")


def veo(**told: str) -> Veo:
    """The adapter as main hands it out."""
    adapter = Veo()
    data = adapter.capabilities
    settings = {name: replace(one, value=told.get(name, one.default)) for name, one in data.settings.items()}
    adapter.capabilities = replace(data, settings=settings)
    return adapter


PLAIN, STORED, GEMINI = veo(project="p-1"), veo(project="p-1", bucket="mine"), VeoGemini()
Either = Veo | VeoGemini


def target(model: str = FULL) -> Target:
    return Target(provider="veo", model=model, credential="GOOGLE_APPLICATION_CREDENTIALS")


def picture(role: Role = "first_frame", name: str = "p") -> Input:
    return Input(role=role, asset=AssetRef(f"inputs/{name}", name * 64, 5, "image/png"))


def clip(seconds: float = 8.0) -> Input:
    asset = AssetRef("inputs/v", "c" * 64, 5, "video/mp4")
    return Input(type="video", role="source", asset=asset, duration_seconds=seconds)


def reply(body: object, status: int = 200) -> Response:
    return Response(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode())


def submitted(
    asked: VideoSpec, adapter: Either = PLAIN, model: str = FULL, answer: Response | None = None
) -> tuple[Handle, Any]:
    sent: list[Request] = []
    name = GEMINI_HANDLE.id if isinstance(adapter, VeoGemini) else HANDLE.id

    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        sent.append(ask)
        return answer or reply({"name": name})

    fitted, _ = fit(asked, rows_of(adapter, model))
    handle = play(adapter.submit(fitted, target(model), {}, KEY), world)
    (only,) = sent
    assert only.spends
    return handle, only


def asking(adapter: Either, handle: Handle, answer: Response) -> tuple[Outcome, Request]:
    sent: list[Ask] = []

    def world(ask: Ask) -> Answer:
        sent.append(ask)
        return answer

    outcome = play(adapter.status(handle, target()), world)
    (asked,) = sent
    assert isinstance(asked, Request)
    assert not asked.spends
    return outcome, asked


def done(adapter: Either = PLAIN, **more: object) -> Outcome:
    handle = GEMINI_HANDLE if isinstance(adapter, VeoGemini) else HANDLE
    return asking(adapter, handle, reply({"name": handle.id, "done": True, **more}))[0]


# ── What is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────

USUAL = {"durationSeconds": 8, "aspectRatio": "16:9", "resolution": "720p", "generateAudio": True}


def test_words_go_to_the_project_and_location_that_were_told() -> None:
    handle, sent = submitted(WORDS)
    assert handle == HANDLE
    assert (sent.method, sent.url) == ("POST", f"/v1/{PARENT}:predictLongRunning")
    assert sent.body == {"instances": [{"prompt": "a lake"}], "parameters": USUAL}


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("us-central1", "https://us-central1-aiplatform.googleapis.com"),
        ("europe-west4", "https://europe-west4-aiplatform.googleapis.com"),
        ("global", "https://aiplatform.googleapis.com"),
    ],
)
def test_the_address_is_the_locations(location: str, address: str) -> None:
    adapter = veo(project="p-1", location=location)
    assert adapter.address() == address
    assert f"/locations/{location}/" in submitted(WORDS, adapter)[1].url


def test_every_wish_has_its_name_on_the_wire() -> None:
    wishes = {"personGeneration": "dont_allow", "sampleCount": 2, "compressionQuality": "lossless"}
    asked = replace(WORDS, aspect_ratio="9:16", resolution="4k", negative_prompt="rain", seed=2**32 - 1)
    asked = replace(asked, generate_audio=False, provider_options={**wishes})
    told = submitted(asked)[1].body["parameters"]
    assert told == {
        "durationSeconds": 8,
        "aspectRatio": "9:16",
        "resolution": "4k",
        "negativePrompt": "rain",
        "seed": 2**32 - 1,
        "generateAudio": False,
        **wishes,
    }
    assert type(told["durationSeconds"]) is int


def file(given: Input) -> dict[str, object]:
    return {"bytesBase64Encoded": Inline(given.asset, "base64"), "mimeType": given.asset.media_type}


def test_each_file_has_its_place() -> None:
    first, last, who, source = picture(), picture("last_frame", "q"), picture("character", "r"), clip()

    def instance(asked: VideoSpec) -> object:
        return submitted(asked)[1].body["instances"][0]

    framed = VideoSpec(prompt="p", operation=ImageToVideo(), inputs=(first, last))
    assert instance(framed) == {"prompt": "p", "image": file(first), "lastFrame": file(last)}
    shown = VideoSpec(prompt="p", operation=MultiImage(), inputs=(who, who))
    reference = {"image": file(who), "referenceType": "asset"}
    assert instance(shown) == {"prompt": "p", "referenceImages": [reference, reference]}
    longer = VideoSpec(prompt="p", operation=Extend(), inputs=(source,))
    assert instance(longer) == {"prompt": "p", "video": file(source)}
    assert "durationSeconds" not in submitted(longer)[1].body["parameters"]


def test_with_a_bucket_each_send_has_a_folder_of_its_own() -> None:
    told = submitted(WORDS, STORED)[1].body["parameters"]
    assert told == {**USUAL, "storageUri": f"gs://mine/rushes/{KEY}/"}


def test_the_gemini_form_says_less() -> None:
    handle, sent = submitted(replace(WORDS, resolution="1080p"), GEMINI, PREVIEW)
    assert handle == GEMINI_HANDLE
    assert sent.url == f"/v1beta/models/{PREVIEW}:predictLongRunning"
    assert sent.body["parameters"] == {"durationSeconds": 8, "aspectRatio": "16:9", "resolution": "1080p"}


@pytest.mark.parametrize(
    ("model", "asked", "field"),
    [
        (FULL, replace(WORDS, duration_seconds=5.0), "duration_seconds"),
        (FULL, replace(WORDS, duration_seconds=4.0, resolution="1080p"), "duration_seconds"),
        (FULL, replace(WORDS, duration_seconds=6.0, resolution="4k"), "duration_seconds"),
        (FULL, replace(WORDS, resolution="sd"), "resolution"),
        (LITE, replace(WORDS, resolution="4k"), "resolution"),
        (FULL, replace(WORDS, aspect_ratio="square"), "aspect_ratio"),
        (FULL, replace(WORDS, seed=2**32), "seed"),
        (FULL, replace(WORDS, enhance_prompt=False), "enhance_prompt"),
        (FULL, replace(WORDS, provider_options={"sampleCount": 5}), "provider_options.sampleCount"),
        (FULL, replace(WORDS, provider_options={"storageUri": "gs://a/b"}), "provider_options.storageUri"),
        (FULL, replace(WORDS, provider_options={"resizeMode": "pad"}), "provider_options.resizeMode"),
        (FULL, VideoSpec(prompt="p", operation=MultiImage(), inputs=(picture("style"),)), "inputs"),
        (FULL, VideoSpec(prompt="p", operation=MultiImage(), inputs=(picture("character"),) * 4), "inputs"),
        (LITE, VideoSpec(prompt="p", operation=MultiImage(), inputs=(picture("character"),)), "inputs"),
        (LITE, VideoSpec(prompt="p", operation=Extend(), inputs=(clip(),)), "operation"),
        (FULL, VideoSpec(prompt="p", operation=Extend(), inputs=(clip(142.0),)), "inputs[0]"),
        (FULL, VideoSpec(prompt="p", operation=ImageToVideo(), inputs=(picture("last_frame"),)), "inputs"),
    ],
)
def test_what_the_wire_cannot_say_is_refused_by_name(model: str, asked: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        submitted(asked, model=model)
    assert wrong.value.field == field


@pytest.mark.parametrize(
    ("asked", "field"), [(replace(WORDS, seed=7), "seed"), (replace(WORDS, generate_audio=True), "generate_audio")]
)
def test_the_gemini_form_refuses_what_it_never_took(asked: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        submitted(asked, GEMINI, PREVIEW)
    assert wrong.value.field == field


@pytest.mark.parametrize(
    ("model", "fields", "micro_usd"),
    [
        (FULL, {}, 3_200_000),
        (FULL, {"resolution": "4k"}, 4_800_000),
        (FULL, {"duration_seconds": 4.0}, 1_600_000),
        (FULL, {"provider_options": {"sampleCount": 4}}, 12_800_000),
        (FAST, {"resolution": "4k", "provider_options": {"sampleCount": 2}}, 5_600_000),
        (LITE, {"resolution": "1080p"}, 640_000),
    ],
)
def test_an_estimate_counts_seconds_lines_and_takes(model: str, fields: dict[str, Any], micro_usd: int) -> None:
    money = estimate(*fit(replace(WORDS, **fields), rows_of(PLAIN, model)))
    assert money is not None
    assert money.micro_usd == micro_usd


# ── What is answered ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("more", [{}, {"done": False}, {"metadata": {"createTime": "x"}}, {"done": None}])
def test_while_it_runs_there_is_little_but_its_name(more: dict[str, object]) -> None:
    outcome, asked = asking(PLAIN, HANDLE, reply({"name": HANDLE.id, **more}))
    assert outcome == Unfinished()
    assert (asked.method, asked.url) == ("POST", f"/v1/{PARENT}:fetchPredictOperation")
    assert asked.body == {"operationName": HANDLE.id}
    outcome, asked = asking(GEMINI, GEMINI_HANDLE, reply({"name": GEMINI_HANDLE.id, **more}))
    assert (outcome, asked.method, asked.url) == (Unfinished(), "GET", f"/v1beta/{GEMINI_HANDLE.id}")


def test_clips_stand_in_the_answer_or_in_a_bucket_or_at_an_address() -> None:
    inline = {"videos": [{"bytesBase64Encoded": "QUJD", "mimeType": "video/mp4"}, {"bytesBase64Encoded": "QUJD"}]}
    assert done(response=inline) == Done((Output("inline:0"), Output("inline:1")))
    stored = {"videos": [{"gcsUri": "gs://mine/a.mp4", "mimeType": "video/webm"}], "raiMediaFilteredCount": 0}
    assert done(response=stored) == Done((Output("gs://mine/a.mp4", "video/webm"),))
    there = {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": URI}}]}}
    assert done(GEMINI, response=there) == Done((Output(URI),))
    here = {
        "generateVideoResponse": {"generatedSamples": [{"video": {"encodedVideo": "QUJD", "encoding": "video/mp4"}}]}
    }
    assert done(GEMINI, response=here) == Done((Output("inline:0"),))


def kept(adapter: Either, url: str) -> Keep:
    asked: list[Ask] = []

    def world(ask: Ask) -> Answer:
        asked.append(ask)
        return Kept(ASSET)

    handle = GEMINI_HANDLE if isinstance(adapter, VeoGemini) else HANDLE
    assert play(adapter.download(Output(url), handle, target()), world) == ASSET
    (ask,) = asked
    assert isinstance(ask, Keep)
    return ask


def test_each_is_fetched_from_where_it_is() -> None:
    ask = kept(PLAIN, "inline:1")
    assert ask.request is not None
    assert ask.request.body == {"operationName": HANDLE.id}
    assert ask.place == ("response", "videos", 1, "bytesBase64Encoded")
    ask = kept(GEMINI, "inline:0")
    assert ask.place == ("response", "generateVideoResponse", "generatedSamples", 0, "video", "encodedVideo")
    assert kept(GEMINI, URI) == Keep(url=URI, with_credential=True)
    there = "@storage/storage/v1/b/mine/o/rushes%2Fjob_1-1%2F12%2Fa%20b%3F.mp4?alt=media"
    assert kept(STORED, "gs://mine/rushes/job_1-1/12/a b?.mp4") == Keep(url=there, with_credential=True)


REASON = "We withheld it. Support codes: 58061214"


def test_what_is_withheld_as_a_whole_is_moderated_and_costs_nothing() -> None:
    told = {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": [REASON]}
    for outcome in (done(response=told), done(GEMINI, response={"generateVideoResponse": told})):
        assert isinstance(outcome, Broken)
        assert (outcome.fault.code, outcome.billed, outcome.fault.retryable) == ("moderated", "no", False)
        assert "58061214" in outcome.fault.detail


def test_what_is_withheld_in_part_is_counted() -> None:
    told = {"videos": [{"gcsUri": "gs://mine/a.mp4"}], "raiMediaFilteredCount": 2, "raiMediaFilteredReasons": [REASON]}
    outcome = done(response=told)
    assert isinstance(outcome, Done)
    assert (len(outcome.outputs), outcome.filtered, outcome.metadata) == (1, 2, {"filtered": REASON})


@pytest.mark.parametrize("response", [None, {}, {"videos": []}, {"videos": [{}]}, {"videos": [{"gcsUri": ""}]}])
def test_to_finish_without_a_clip_and_without_a_reason_is_a_bad_answer(response: object) -> None:
    outcome = done(response=response)
    assert isinstance(outcome, Broken)
    assert (outcome.fault.code, outcome.billed) == ("bad_answer", "yes")


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"code": 3, "message": "Unsupported size."}, "generation_failed", False),
        ({"code": 3, "message": "It may violate our safety filters."}, "moderated", False),
        ({"code": 13, "message": "Internal."}, "generation_failed", True),
        ({"code": 14}, "generation_failed", True),
        ({"code": 8, "message": "Busy."}, "generation_failed", True),
        ({}, "generation_failed", False),
    ],
)
def test_an_operation_that_failed_says_why(error: dict[str, object], code: str, retryable: bool) -> None:
    outcome = done(error=error)
    assert isinstance(outcome, Broken)
    assert (outcome.fault.code, outcome.fault.retryable) == (code, retryable)


def test_one_that_was_cancelled_there_is_told_as_such() -> None:
    assert done(error={"code": 1, "message": "CANCELLED"}) == Stopped()


def test_one_that_is_not_known_has_vanished() -> None:
    gone = reply({"error": {"code": 404, "message": "Operation not found.", "status": "NOT_FOUND"}}, 404)
    assert asking(PLAIN, HANDLE, gone)[0] == Vanished()
    assert asking(GEMINI, GEMINI_HANDLE, gone)[0] == Vanished()


@pytest.mark.parametrize(
    "name",
    [
        "projects/../locations/l/publishers/google/models/m/operations/1",
        f"{PARENT}/operations/../1",
        f"{PARENT}/operations/1?a=b",
        f"{PARENT}/other/1",
        f"x/{PARENT}/operations/1",
        "operations/1",
        GEMINI_HANDLE.id,
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused_and_leaves_it_in_doubt(name: str) -> None:
    with pytest.raises(Failed) as failed:
        submitted(WORDS, answer=reply({"name": name}))
    assert not failed.value.certain
    with pytest.raises(Failed):
        play(PLAIN.status(Handle(name), target()), lambda _: reply({}))


# ── The bucket ────────────────────────────────────────────────────────────────────────────────────────────────────────


def found(answer: Response, adapter: Veo = STORED) -> Handle | None:
    def world(ask: Ask) -> Answer:
        assert isinstance(ask, Request)
        assert (ask.method, ask.url, ask.query) == ("GET", "@storage/storage/v1/b/mine/o", {"prefix": f"rushes/{KEY}/"})
        return answer

    return play(adapter.find(target(), KEY, 0.0), world)


def listed(*names: str) -> Response:
    items = [{"kind": "storage#object", "name": name, "size": "5"} for name in names]
    return reply({"kind": "storage#objects", **({"items": items} if items else {})})


def test_only_with_a_bucket_is_there_something_to_look_for() -> None:
    assert PLAIN.terms(WORDS, target()).doubt == "E"
    assert STORED.terms(WORDS, target()).doubt == "C"
    assert play(PLAIN.find(target(), KEY, 0.0), lambda _: pytest.fail("it asks")) is None


def test_a_send_is_found_by_its_clips() -> None:
    handle = found(listed(f"rushes/{KEY}/12/sample_1.mp4", f"rushes/{KEY}/12/sample_0.mp4"))
    assert handle == Handle(f"rushes/{KEY}", {"bucket": "mine"})
    answer = listed(f"rushes/{KEY}/12/sample_1.mp4", f"rushes/{KEY}/12/sample_0.mp4")
    outcome, asked = asking(STORED, handle, answer)
    urls = [f"gs://mine/rushes/{KEY}/12/sample_{number}.mp4" for number in (0, 1)]
    assert outcome == Done(tuple(map(Output, urls)))
    assert asked.query == {"prefix": f"rushes/{KEY}/"}
    assert asking(STORED, handle, listed())[0] == Vanished()


@pytest.mark.parametrize(
    "names", [(), (f"rushes/{KEY}/12/notes.json",), (f"rushes/{KEY}/12/a.mp4", f"rushes/{KEY}/13/a.mp4")]
)
def test_nothing_and_too_much_are_no_evidence(names: tuple[str, ...]) -> None:
    assert found(listed(*names)) is None


@pytest.mark.parametrize("body", [{}, {"items": []}, {"kind": "storage#bucket"}, [], {"error": {"code": 403}}])
def test_what_is_no_list_is_not_an_empty_one(body: object) -> None:
    with pytest.raises(Failed):
        found(reply(body))


# ── Retired ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wanted", "day", "told"),
    [
        ("veo_gemini", "2026-10-22", "2026-10-22: use omni/gemini-omni-1.1-flash"),
        (PREVIEW, "2026-10-22", "2026-10-22: use omni/gemini-omni-1.1-flash"),
        ("veo-3.0-generate-001", "2026-06-30", f"2026-06-30: use veo/{FULL}"),
        ("veo/veo-2.0-generate-001", "2026-11-21", f"2026-06-30: use veo/{FULL}"),
    ],
)
def test_what_was_switched_off_names_the_day_and_what_to_use(wanted: str, day: str, told: str) -> None:
    known = {"omni": Omni(), "veo": Veo(), "veo_gemini": VeoGemini()}
    with pytest.raises(BadRequest, match=told) as refused:
        route(wanted, known, day)
    assert refused.value.code == "model_retired"
    assert route("veo_gemini", known, day, explicit={"veo_gemini"})[0] == "veo_gemini"


def test_a_replacement_elsewhere_is_shown_with_its_provider() -> None:
    assert {view.replacement for view in retirement_views(GEMINI)} == {"omni/gemini-omni-1.1-flash"}
    assert {view.replacement for view in retirement_views(PLAIN)} == {FULL, FAST}
