"""Veo's adapters in the real system, over the real client and a socket, against their twins."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace
from provider_rig import PATIENCE_S, Rig, eager, png, provider, until

from rushes.adapters.base import Adapter, Done, Vanished
from rushes.adapters.capabilities import Auth
from rushes.adapters.veo import Veo, VeoGemini
from rushes.emulators.base import serve_twin
from rushes.emulators.faults import Drop, ExpiredUrl
from rushes.emulators.google import VeoGeminiTwin, VeoTwin
from rushes.faults import BadRequest
from rushes.flight import read
from rushes.main import open_studio
from rushes.testing.adapters import AdapterContract, plain_orders
from rushes.testing.wires import CLIP, EPOCH_S, Pair, Wire, informed
from rushes.video import Extend, MediaInput

SECRET = "a-key-of-google"
VERTEX = {"GOOGLE_VERTEX_BASE_URL": "URL", "STORAGE_EMULATOR_HOST": "URL", "GOOGLE_CLOUD_PROJECT": "project-1"}
GEMINI = {"VEO_GEMINI_BASE_URL": "URL", "GOOGLE_API_KEY": SECRET}
BUCKET = {"VEO_BUCKET": "mine"}


@asynccontextmanager
async def veo(folder: Path, *, bucket: bool = False, **changes: Any) -> AsyncIterator[Rig[VeoTwin]]:
    twin = VeoTwin(clip=CLIP, key="nobody's", **changes)
    async with provider(folder, Veo(), twin, VERTEX | (BUCKET if bucket else {})) as rig:
        yield rig


@asynccontextmanager
async def gemini(folder: Path, **changes: Any) -> AsyncIterator[Rig[VeoGeminiTwin]]:
    async with provider(folder, VeoGemini(), VeoGeminiTwin(clip=CLIP, key=SECRET, **changes), GEMINI) as rig:
        yield rig


def last_body(rig: Rig[Any]) -> Any:
    return rig.twin.bodies[-1]


def contents(videos: Sequence[Any]) -> list[bytes]:
    return [Path(video.path).read_bytes() for video in videos]


# ── On Vertex AI ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_words_become_a_take_out_of_the_answer_itself(tmp_path: Path) -> None:
    async with veo(tmp_path) as rig:
        job = await rig.make("a lake", aspect_ratio="9:16", resolution="4k", seed=7, negative_prompt="rain")
        result = await job.result(timeout_s=PATIENCE_S)
        assert contents(result.videos) == [CLIP]
        assert last_body(rig) == {
            "instances": [{"prompt": "a lake"}],
            "parameters": {
                "durationSeconds": 8,
                "aspectRatio": "9:16",
                "resolution": "4k",
                "negativePrompt": "rain",
                "seed": 7,
                "generateAudio": True,
            },
        }
        assert "projects/project-1/locations/us-central1/" in rig.asked()[0]
        assert rig.asked("download") == []
        assert (tmp_path / "takes" / "parts").is_dir() is False or not any((tmp_path / "takes" / "parts").iterdir())


async def test_with_a_bucket_the_clips_are_written_below_the_sends_own_folder(tmp_path: Path) -> None:
    async with veo(tmp_path, bucket=True) as rig:
        job = await rig.make(provider_options={"sampleCount": 3})
        result = await job.result(timeout_s=PATIENCE_S)
        assert contents(result.videos) == [CLIP] * 3
        assert last_body(rig)["parameters"]["storageUri"] == f"gs://mine/rushes/{job.id}-1/"
        assert len(rig.asked("download")) == 3


async def test_frames_and_what_is_in_the_picture_arrive_as_base64(tmp_path: Path) -> None:
    async with veo(tmp_path) as rig:
        picture = {"bytesBase64Encoded": b64encode(png()).decode(), "mimeType": "image/png"}
        url = "data:image/png;base64," + b64encode(png()).decode()
        last = MediaInput(role="last_frame", url=url)
        await (await rig.make("it moves", image=png(), inputs=(last,))).result(timeout_s=PATIENCE_S)
        assert last_body(rig)["instances"] == [{"prompt": "it moves", "image": picture, "lastFrame": picture}]
        shown = MediaInput(role="character", url=url)
        await (await rig.make("her", inputs=(shown,))).result(timeout_s=PATIENCE_S)
        references = [{"image": picture, "referenceType": "asset"}]
        assert last_body(rig)["instances"] == [{"prompt": "her", "referenceImages": references}]


async def test_a_take_is_gone_on_with(tmp_path: Path) -> None:
    async with veo(tmp_path) as rig:
        first = await rig.make()
        await first.result(timeout_s=PATIENCE_S)
        given = (MediaInput(type="video", job=first.id),)
        await (await rig.make("on", inputs=given, operation=Extend())).result(timeout_s=PATIENCE_S)
        assert last_body(rig)["instances"][0]["video"]["bytesBase64Encoded"] == b64encode(CLIP).decode()
        assert "durationSeconds" not in last_body(rig)["parameters"]


async def test_a_size_that_wants_eight_seconds_is_refused_without_them(tmp_path: Path) -> None:
    async with veo(tmp_path) as rig:
        with pytest.raises(BadRequest, match="does resolution 1080p only with duration_seconds 8") as refused:
            await rig.make(resolution="1080p", duration_seconds=4.0)
        assert refused.value.field == "duration_seconds"
        await (await rig.make(resolution="720p", duration_seconds=4.0)).result(timeout_s=PATIENCE_S)


@pytest.mark.parametrize(
    ("word", "code"), [("forbidden", "moderated"), ("refused", "moderated"), ("broken", "generation_failed")]
)
async def test_moderation_and_failure_are_told_and_not_charged(tmp_path: Path, word: str, code: str) -> None:
    async with veo(tmp_path) as rig:
        failed = await rig.failure(f"a {word} lake")
        assert failed.code == code
        assert rig.twin.charges == []
        if word == "forbidden":
            assert (failed.billed, "58061214" in failed.detail) == ("no", True)


async def test_of_takes_that_are_withheld_in_part_the_others_are_kept(tmp_path: Path) -> None:
    async with veo(tmp_path) as rig:
        job = await rig.make("a partly lake", provider_options={"sampleCount": 3})
        result = await job.result(timeout_s=PATIENCE_S)
        assert contents(result.videos) == [CLIP] * 2
        assert "58061214" in result.job.metadata["filtered"]
        assert (result.job.status, result.job.missing, result.job.billed) == ("succeeded", 0, "yes")
        (charge,) = rig.twin.ledger.charges
        estimate = result.job.estimate
        assert estimate is not None
        assert charge.micro_usd == estimate.micro_usd * 2 / 3  # what was withheld costs nothing


async def test_it_cannot_be_cancelled_and_the_take_is_kept(tmp_path: Path) -> None:
    async with veo(tmp_path, render_s=200.0) as rig:
        job = await rig.make()
        await until(job, "running")
        await job.cancel()
        assert (await job.result(timeout_s=PATIENCE_S)).videos


async def test_without_a_bucket_a_lost_answer_waits_for_a_person(tmp_path: Path) -> None:
    async with veo(tmp_path) as rig:
        rig.go_wrong(Drop(on="submit", after_work=True))
        view = await until(await rig.make(), "parked")
        assert (view.billed, len(rig.asked()), len(rig.twin.charges)) == ("unknown", 1, 1)


async def test_with_a_bucket_a_lost_answer_is_found_by_what_lies_there(tmp_path: Path) -> None:
    async with veo(tmp_path, bucket=True) as rig:
        rig.go_wrong(Drop(on="submit", after_work=True))
        job = await rig.make(provider_options={"sampleCount": 2})
        result = await job.result(timeout_s=PATIENCE_S)
        assert contents(result.videos) == [CLIP] * 2
        assert (result.job.billed, len(rig.asked()), len(rig.twin.charges)) == ("yes", 1, 1)
        assert rig.asked("status") == []  # its operation's name was never known


async def test_with_a_bucket_nothing_there_is_no_evidence(tmp_path: Path) -> None:
    async with veo(tmp_path, bucket=True, render_s=1e6) as rig:
        rig.go_wrong(Drop(on="submit", after_work=True))
        job = await rig.make()
        view = await until(job, "in_doubt")
        assert (view.billed, len(rig.asked())) == ("unknown", 1)


async def test_a_clip_in_the_bucket_that_cannot_be_had_yet_is_tried_again(tmp_path: Path) -> None:
    async with veo(tmp_path, bucket=True) as rig:
        rig.twin.__class__ = Stocked
        rig.go_wrong(ExpiredUrl(times=1))
        job = await rig.make()
        assert contents((await job.result(timeout_s=PATIENCE_S)).videos) == [CLIP]
        assert (len(rig.asked("download")), len(rig.twin.charges)) == (2, 1)


async def test_a_job_goes_on_where_another_process_left_it(tmp_path: Path) -> None:
    twin = VeoTwin(clip=CLIP, key="nobody's", render_s=400.0)
    async with provider(tmp_path, Veo(), twin, VERTEX) as rig:
        job = await rig.make()
        await until(job, "running")
    async with provider(tmp_path, Veo(), twin, VERTEX) as rig:
        assert (await rig.studio.job(job.id).result(timeout_s=PATIENCE_S)).videos
        assert (len(rig.asked()), len(twin.charges)) == (1, 1)


async def test_without_a_project_it_says_what_to_set(tmp_path: Path) -> None:
    environ = {name: value for name, value in VERTEX.items() if name != "GOOGLE_CLOUD_PROJECT"}
    async with provider(tmp_path, Veo(), VeoTwin(clip=CLIP), environ) as rig:
        with pytest.raises(BadRequest, match="set GOOGLE_CLOUD_PROJECT or VEO_PROJECT_ID"):
            await rig.make()
        (view,) = await rig.studio.providers()
        assert (view.configured, "VEO_BUCKET" in view.reason) == (False, False)


async def test_neither_the_account_nor_its_token_is_kept(tmp_path: Path) -> None:
    async with veo(tmp_path / "data") as rig:
        job = await rig.make()
        await job.result(timeout_s=PATIENCE_S)
        tokens = list(rig.twin._tokens)
    key = (tmp_path / "data" / "service-account.json").read_text("utf-8")
    secrets = [*tokens, key, key.split("\\n")[1]]
    assert tokens
    files = [file for file in (tmp_path / "data").rglob("*") if file.is_file() and "account" not in file.name]
    assert any(file.name.startswith("flight.db") for file in files)
    held = [file.name for file in files for secret in secrets if secret.encode() in file.read_bytes()]
    assert held == []


@pytest.mark.parametrize(
    ("bucket", "asked"), [(False, "POST us-central1:fetchPredictOperation"), (True, "GET @storage/storage/v1/b/mine")]
)
async def test_the_flight_record_says_how_a_clip_was_asked_for(tmp_path: Path, bucket: bool, asked: str) -> None:
    async with veo(tmp_path, bucket=bucket) as rig:
        job = await rig.make()
        await job.result(timeout_s=PATIENCE_S)
    *_, last = read(tmp_path / "flight.db", job.id)
    method, _, where = asked.partition(" ")
    assert (last.flow, last.method) == ("download", method)
    assert all(part in last.url for part in where.split(":"))
    assert CLIP[:40] not in (tmp_path / "flight.db").read_bytes()


class Stocked(VeoTwin):
    """With a bucket its results have addresses."""

    can = VeoTwin.can | {"expired_url"}


class TestWithABucket(AdapterContract):
    """Class C: a send is found by its clips, once they are there."""

    @pytest.fixture
    def pair(self) -> Pair:
        adapter = informed(Veo())
        settings = adapter.capabilities.settings
        bucket = replace(settings["bucket"], value="mine")
        adapter.capabilities = replace(adapter.capabilities, settings={**settings, "bucket": bucket})
        return Pair(adapter, Stocked)

    def test_a_look_finds_exactly_the_job_of_its_key(self, pair: Pair) -> None:
        for order in plain_orders(pair):
            wire = Wire(pair)
            target = wire.target(order)
            for key in ("job_1-1", "job_2-1"):
                wire.submit(order, key)
            assert wire.play(pair.adapter.find(target, "job_1-1", EPOCH_S)) is None  # not before it is done
            wire.now += 600.0
            found = [wire.play(pair.adapter.find(target, key, EPOCH_S)) for key in ("job_1-1", "job_2-1")]
            assert [handle and handle.id for handle in found] == ["rushes/job_1-1", "rushes/job_2-1"]
            for key in ("job_3-1", "job_1", "job_1-11", ""):
                assert wire.play(pair.adapter.find(target, key, EPOCH_S)) is None
            assert found[0] is not None
            outcome = wire.play(pair.adapter.status(found[0], target))
            assert isinstance(outcome, Done)
            assert wire.play(pair.adapter.download(outcome.outputs[0], found[0], target)).size_bytes == len(CLIP)

    def test_a_mark_that_two_jobs_carry_is_no_evidence(self, pair: Pair) -> None:
        order, wire = plain_orders(pair)[0], Wire(pair)
        for _ in range(2):
            wire.submit(order)
        wire.now += 600.0
        assert wire.play(pair.adapter.find(wire.target(order), "job_1-1", EPOCH_S)) is None

    def test_a_send_that_was_found_and_whose_clips_are_gone_has_vanished(self, pair: Pair) -> None:
        order, wire = plain_orders(pair)[0], Wire(pair)
        wire.submit(order)
        wire.now += 600.0
        handle = wire.play(pair.adapter.find(wire.target(order), "job_1-1", EPOCH_S))
        assert handle is not None
        cast("VeoTwin", wire.twin).jobs.clear()
        assert wire.play(pair.adapter.status(handle, wire.target(order))) == Vanished()


# ── On the Gemini API ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_clip_is_fetched_through_its_redirect(tmp_path: Path) -> None:
    async with gemini(tmp_path) as rig:
        result = await (await rig.make("a lake", image=png())).result(timeout_s=PATIENCE_S)
        assert contents(result.videos) == [CLIP]
        assert [line.partition("/v1beta")[0] for line in rig.asked("download")] == ["GET ", "GET /download"]


async def test_the_key_stays_with_the_host_that_it_belongs_to(tmp_path: Path) -> None:
    """The redirect leads to another server, which was set as the address of another provider."""
    there = VeoGeminiTwin(clip=CLIP, key=SECRET)
    elsewhere = await serve_twin(there, now=lambda: 0.0)
    here = VeoGeminiTwin(clip=CLIP, key=SECRET, elsewhere=elsewhere.url, start_s=0.0, render_s=0.0)
    there.ended_at = here.ended_at  # type: ignore[method-assign]
    server = await serve_twin(here)
    environ = {"VEO_GEMINI_BASE_URL": server.url, "GOOGLE_API_KEY": SECRET, "OTHER": elsewhere.url}
    try:
        adapters: dict[str, Adapter] = {"veo_gemini": eager(VeoGemini()), "other": Other()}
        async with open_studio(tmp_path, adapters=adapters, environ=environ) as studio:
            job = await studio.generate("a lake", model="veo_gemini")
            assert contents((await job.result(timeout_s=PATIENCE_S)).videos) == [CLIP]
    finally:
        await server.close()
        await elsewhere.close()
    (line,) = there.ledger.requests
    assert "x-goog-api-key" not in line.headers
    assert all("x-goog-api-key" in line.headers for line in here.ledger.requests)  # the control


class Other(VeoGemini):
    """Somebody else, whose address was set."""

    name = "other"
    capabilities = replace(VeoGemini.capabilities, base_url_env="OTHER", auth=Auth(env=("OTHER_KEY",)))


async def test_what_google_switched_off_is_refused_but_at_an_address_of_ones_own(tmp_path: Path) -> None:
    adapters: dict[str, Adapter] = {"veo_gemini": VeoGemini()}
    async with open_studio(tmp_path / "a", adapters=adapters, environ={"GOOGLE_API_KEY": SECRET}) as studio:
        with pytest.raises(BadRequest) as refused:
            await studio.generate("a lake", model="veo_gemini")
    assert refused.value.code == "model_retired"
    assert "2026-10-22" in refused.value.detail
    assert "use omni/gemini-omni-1.1-flash" in refused.value.detail
    async with gemini(tmp_path / "b") as rig:  # the control
        assert (await (await rig.make()).result(timeout_s=PATIENCE_S)).videos


async def test_there_too_a_lost_answer_waits_for_a_person(tmp_path: Path) -> None:
    async with gemini(tmp_path) as rig:
        rig.go_wrong(Drop(on="submit", after_work=True))
        view = await until(await rig.make(), "parked")
        assert (view.billed, len(rig.asked()), len(rig.twin.charges)) == ("unknown", 1, 1)
