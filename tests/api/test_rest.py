"""Every route, as a stranger with curl would use it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace
from PIL import Image
from talking import TINY, write_log

import rushes
from rushes.actors.messages import JobRequested
from rushes.api.app import Server, problems, serve
from rushes.api.rest import MAX_WAIT_S
from rushes.eventstore.lock import holder
from rushes.faults import BadRequest
from rushes.studio import Studio
from rushes.studio.beginning import begun, ready
from rushes.units import keyed_batch_id
from rushes.video import Batch, VideoRequest, decode

Web = aiohttp.ClientSession


def picture(colour: str = "teal") -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 36), colour).save(file, "png")
    return file.getvalue()


async def ask(web: Web, method: str, path: str, status: int, **more: Any) -> Any:
    """The answer's body, once its status and headers are what they should be."""
    async with web.request(method, path, **more) as reply:
        assert reply.status == status, await reply.text()
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.content_type == ("application/problem+json" if status >= 400 else "application/json")
        return await reply.json(content_type=None)


async def made(studio: Studio) -> str:
    """A job with a take."""
    job = await studio.generate(**TINY)
    await job.result(timeout_s=20)
    return job.id


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_from_request_to_file(web: Web, studio: Studio) -> None:
    async with web.post("/v1/jobs", json=TINY) as reply:
        assert reply.status == 202
        job = await reply.json()
        assert reply.headers["Location"] == f"/v1/jobs/{job['id']}"
        assert int(reply.headers["Retry-After"]) >= 1
        assert "Idempotent-Replayed" not in reply.headers
    assert job["status"] == "queued"
    await studio.job(job["id"]).result(timeout_s=20)
    shown = await ask(web, "GET", f"/v1/jobs/{job['id']}", 200)
    assert (shown["status"], shown["request"]["resolution"]) == ("succeeded", "180p")
    async with web.get(shown["takes"][0]["url"]) as reply:
        body = await reply.read()
    assert hashlib.sha256(body).hexdigest() == shown["takes"][0]["sha256"]
    assert reply.content_type == "video/mp4"
    events = await ask(web, "GET", f"/v1/jobs/{job['id']}/events", 200)
    assert [event["version"] for event in events["data"]] == list(range(1, shown["version"] + 1))
    assert events["data"][-1]["type"] == "job.succeeded"
    later = await ask(web, "GET", f"/v1/jobs/{job['id']}/events?after=2", 200)
    assert later == {"object": "list", "data": events["data"][2:], "has_more": False, "first_id": None, "last_id": None}


async def test_jobs_are_listed_in_pages(web: Web, studio: Studio) -> None:
    names = [(await studio.submit(VideoRequest(**TINY | {"prompt": f"lake {n}"})))[0].id for n in range(5)]
    first = await ask(web, "GET", "/v1/jobs?limit=3", 200)
    assert [job["id"] for job in first["data"]] == names[:1:-1]
    assert (first["object"], first["has_more"]) == ("list", True)
    assert (first["first_id"], first["last_id"]) == (names[4], names[2])
    rest = await ask(web, "GET", f"/v1/jobs?limit=3&before={first['last_id']}", 200)
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (names[1::-1], False)
    assert rest["next"] is None
    again = await ask(web, "GET", f"/v1/jobs?limit=3&after={first['next']}", 200)
    assert [job["id"] for job in again["data"]] == names[1::-1]
    oldest = await ask(web, "GET", "/v1/jobs?limit=2&order=asc", 200)
    assert [job["id"] for job in oldest["data"]] == names[:2]
    nothing = {"data": [], "has_more": False, "first_id": None, "last_id": None, "next": None, "unreadable": []}
    none = await ask(web, "GET", "/v1/jobs?status=failed", 200)
    assert none == {"object": "list", "stale": False, **nothing}


async def test_jobs_are_listed_by_what_they_are(web: Web, studio: Studio) -> None:
    job = await made(studio)
    created = (await studio.show(job)).created_at.isoformat().replace("+00:00", "Z")
    for asked in (
        "status=succeeded",
        "phase=succeeded",
        "billed=no",
        "provider=local",
        "model=local",
        "operation=text-to-video",
        "customer_id=0",
        "created_after=2020-01-01T00:00:00Z",
        "sort=updated&order=asc",
        "status=succeeded&provider=local&customer_id=0",
    ):
        assert [one["id"] for one in (await ask(web, "GET", f"/v1/jobs?{asked}", 200))["data"]] == [job], asked
    for asked in (
        "status=failed",
        "phase=parked",
        "billed=yes",
        "provider=replicate",
        "model=local/x",
        "operation=image-to-video",
        "customer_id=7",
        f"created_after={created}",
        f"created_before={created}",
        "status=succeeded&provider=replicate",
    ):
        assert (await ask(web, "GET", f"/v1/jobs?{asked}", 200))["data"] == [], asked


async def test_a_job_that_cannot_be_read_is_named_in_the_list(web: Web, studio: Studio) -> None:
    await write_log(studio, "job_strange", 1)
    for asked in ("", "?status=failed"):
        listing = await ask(web, "GET", f"/v1/jobs{asked}", 200)
        assert (listing["data"], listing["unreadable"]) == ([], ["job_strange"])


async def test_a_job_is_cancelled_and_polled(web: Web, studio: Studio) -> None:
    job = await studio.generate(**TINY | {"duration_seconds": 60, "fps": 30})
    assert (await ask(web, "POST", f"/v1/jobs/{job.id}/poll", 200))["id"] == job.id
    view = await ask(web, "POST", f"/v1/jobs/{job.id}/cancel", 200, json={"discard": True})
    assert view["status"] == "cancelled" or view["cancel_requested"]
    async for last in job.updates():
        view = last
    assert view.status == "cancelled"
    assert (await ask(web, "POST", f"/v1/jobs/{job.id}/cancel", 200))["status"] == "cancelled"


async def test_the_server_says_that_it_is_there(web: Web, studio: Studio) -> None:
    health = await ask(web, "GET", "/healthz", 200)
    assert health == {"status": "ok", "epoch": studio.store.epoch, "position": 0}


# ── idempotency ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_fifty_at_once_under_one_key_are_one_job(web: Web, studio: Studio) -> None:
    async def post() -> tuple[int, str, bool]:
        async with web.post("/v1/jobs", json=TINY, headers={"Idempotency-Key": "k"}) as reply:
            return reply.status, (await reply.json())["id"], reply.headers.get("Idempotent-Replayed") == "true"

    answers = await asyncio.gather(*[post() for _ in range(50)])
    assert {status for status, _, _ in answers} == {202}
    assert len({job for _, job, _ in answers}) == 1
    assert sorted(replayed for _, _, replayed in answers) == [False] + [True] * 49
    assert len((await studio.jobs()).jobs) == 1


async def test_without_a_key_they_are_fifty(web: Web, studio: Studio) -> None:
    """The negative control."""
    await asyncio.gather(*[ask(web, "POST", "/v1/jobs", 202, json=TINY) for _ in range(5)])
    assert len((await studio.jobs()).jobs) == 5


async def test_a_key_stands_for_one_request(web: Web, studio: Studio) -> None:
    key = {"Idempotency-Key": "k"}
    job = await ask(web, "POST", "/v1/jobs", 202, json=TINY, headers=key)
    await studio.job(job["id"]).result(timeout_s=20)
    position = studio.store.position
    problem = await ask(web, "POST", "/v1/jobs", 409, json=TINY | {"prompt": "a hill"}, headers=key)
    assert (problem["code"], problem["idempotency_key"], problem["job_id"]) == ("conflict", "k", job["id"])
    assert studio.store.position == position


# ── waiting for the answer ────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_waits_for_the_job_where_the_caller_prefers_it(web: Web) -> None:
    async with web.post("/v1/jobs", json=TINY, headers={"Prefer": "respond-async, wait=20"}) as reply:
        view = await reply.json()
        assert (reply.status, view["status"], len(view["takes"])) == (200, "succeeded", 1)
        assert reply.headers["Preference-Applied"] == "wait=20"
        assert reply.headers["Location"] == f"/v1/jobs/{view['id']}"
        assert "Retry-After" not in reply.headers
    async with web.post(f"/v1/jobs/{view['id']}/retry", headers={"Prefer": 'Wait="20"; a=b'}) as reply:
        assert (reply.status, (await reply.json())["status"]) == (200, "succeeded")


async def test_an_answer_does_not_wait_longer_than_that(web: Web, studio: Studio) -> None:
    slow = TINY | {"duration_seconds": 60, "fps": 30, "resolution": "720p"}
    async with web.post("/v1/jobs", json=slow, headers={"Prefer": "wait=1"}) as reply:
        view = await reply.json()
        assert (reply.status, reply.headers["Preference-Applied"]) == (202, "wait=1")
        assert (view["status"], int(reply.headers["Retry-After"])) == ("running", 1)
    await studio.cancel(view["id"])


async def test_nobody_waits_for_longer_than_the_server_allows(web: Web) -> None:
    async with web.post("/v1/jobs", json=TINY, headers={"Prefer": "wait=999999"}) as reply:
        assert (reply.status, reply.headers["Preference-Applied"]) == (200, f"wait={MAX_WAIT_S}")


@pytest.mark.parametrize("wait", ["", "-1", "1.5", "soon", "٣"])
async def test_a_wait_that_is_no_number_is_refused(web: Web, studio: Studio, wait: str) -> None:
    problem = await ask(web, "POST", "/v1/jobs", 400, json=TINY, headers={"Prefer": f"wait={wait}"})
    assert problem["field"] == "Prefer"
    assert studio.store.position == 0


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def shots(count: int, **more: Any) -> dict[str, Any]:
    return {"requests": [TINY | {"prompt": f"shot {number}"} | more for number in range(count)]}


async def test_a_batch_is_one_job_for_each_request(web: Web, studio: Studio) -> None:
    async with web.post("/v1/batches", json=shots(3)) as reply:
        batch = await reply.json()
        assert (reply.status, reply.headers["Location"]) == (202, f"/v1/batches/{batch['id']}")
        assert "Idempotent-Replayed" not in reply.headers
    assert (batch["object"], batch["size"], len(batch["jobs"]), batch["ended"]) == ("batch", 3, 3, False)
    for name in batch["jobs"]:
        await studio.job(name).result(timeout_s=20)
    done = await ask(web, "GET", f"/v1/batches/{batch['id']}", 200)
    assert (done["jobs"], done["ended"], done["absent"]) == (batch["jobs"], True, 0)
    assert done["counts"] == {"queued": 0, "running": 0, "succeeded": 3, "failed": 0, "cancelled": 0}
    views = [await ask(web, "GET", f"/v1/jobs/{name}", 200) for name in done["jobs"]]
    assert [view["prompt"] for view in views] == ["shot 0", "shot 1", "shot 2"]
    assert [view["batch"] for view in views] == [{"id": batch["id"], "index": n, "size": 3} for n in range(3)]
    listed = await ask(web, "GET", f"/v1/jobs?batch={batch['id']}&order=asc", 200)
    assert [view["id"] for view in listed["data"]] == done["jobs"]


async def test_a_batch_that_is_sent_again_begins_nothing_twice(web: Web, studio: Studio) -> None:
    key = {"Idempotency-Key": "film"}
    first = await ask(web, "POST", "/v1/batches", 202, json=shots(3), headers=key)
    async with web.post("/v1/batches", json=shots(3), headers=key) as reply:
        assert (reply.headers["Idempotent-Replayed"], (await reply.json())["jobs"]) == ("true", first["jobs"])
    assert len((await studio.jobs()).jobs) == 3
    other = await ask(web, "POST", "/v1/batches", 202, json=shots(3))
    assert {*other["jobs"]}.isdisjoint(first["jobs"])


async def test_a_batch_that_was_cut_short_is_made_whole_by_sending_it_again(web: Web, studio: Studio) -> None:
    """Its first job is there, as after a crash in the middle: the others begin, and it does not."""
    name = keyed_batch_id("default", "film")
    asked = decode(msgspec.json.encode(shots(3)["requests"][0]), VideoRequest)
    requested = await ready(studio._parts, asked, f"{name}/0", "default")
    assert isinstance(requested, JobRequested)
    requested = replace(requested, batch=Batch(id=name, index=0, size=3))
    first, _ = await begun(studio._parts, requested, f"{name}/0", "default")
    partial = await ask(web, "GET", f"/v1/batches/{name}", 200)
    assert (partial["jobs"], partial["size"], partial["absent"], partial["ended"]) == ([first.name], 3, 2, False)
    made = await ask(web, "POST", "/v1/batches", 202, json=shots(3), headers={"Idempotency-Key": "film"})
    assert (made["id"], made["jobs"][0], made["absent"]) == (name, first.name, 0)
    assert len((await studio.jobs()).jobs) == 3


async def test_a_key_stands_for_one_batch(web: Web, studio: Studio) -> None:
    key = {"Idempotency-Key": "film"}
    first = await ask(web, "POST", "/v1/batches", 202, json=shots(2), headers=key)
    position = studio.store.position
    for changed in (shots(3), shots(2, fps=12), {"requests": shots(2)["requests"][::-1]}):
        problem = await ask(web, "POST", "/v1/batches", 409, json=changed, headers=key)
        assert (problem["code"], problem["job_id"] in first["jobs"]) == ("conflict", True)
    outside = await ask(web, "POST", "/v1/jobs", 202, json=TINY, headers={"Idempotency-Key": "single"})
    problem = await ask(web, "POST", "/v1/batches", 409, json={"requests": [TINY | {"idempotency_key": "single"}]})
    assert problem["job_id"] == outside["id"]
    assert len((await studio.jobs()).jobs) == 3
    assert studio.store.position > position


async def test_a_request_of_a_batch_may_have_its_own_key(web: Web, studio: Studio) -> None:
    twins = {"requests": [TINY | {"idempotency_key": "a"}, TINY | {"idempotency_key": "b"}]}
    first = await ask(web, "POST", "/v1/batches", 202, json=twins, headers={"Idempotency-Key": "film"})
    assert len({*first["jobs"]}) == 2
    twins["requests"][1]["idempotency_key"] = "a"
    problem = await ask(web, "POST", "/v1/batches", 400, json=twins)
    assert problem["field"] == "requests"
    assert len((await studio.jobs()).jobs) == 2


async def test_where_one_request_of_a_batch_is_wrong_none_is_begun(web: Web, studio: Studio) -> None:
    wrong = shots(3)
    wrong["requests"][1] |= {"duration_seconds": 61, "fps": 7}
    wrong["requests"][2] |= {"model": "nobody"}
    problem = await ask(web, "POST", "/v1/batches", 400, json=wrong)
    named = {error["field"] for error in problem["errors"]}
    assert named == {"requests[1].duration_seconds", "requests[1].fps", "requests[2].model"}
    bodies: list[dict[str, Any]] = [{"requests": []}, {"requests": [TINY] * 101}, {"requests": [TINY | {"a": 1}]}, {}]
    for body in bodies:
        assert "requests" in (await ask(web, "POST", "/v1/batches", 400, json=body))["detail"]
    assert studio.store.position == 0
    assert (await ask(web, "GET", "/v1/batches/batch_nobody", 404))["code"] == "not_found"


# ── what it costs, and what there is ──────────────────────────────────────────────────────────────────────────────────


async def test_an_estimate_says_the_price_and_begins_nothing(web: Web, studio: Studio) -> None:
    told = await ask(web, "POST", "/v1/estimates", 200, json=TINY)
    assert (told["provider"], told["model"], told["price"], told["cost"]["micro_usd"]) == ("local", "local", "free", 0)
    problem = await ask(web, "POST", "/v1/estimates", 400, json=TINY | {"duration_seconds": 61, "fps": 7})
    asked = await ask(web, "POST", "/v1/jobs", 400, json=TINY | {"duration_seconds": 61, "fps": 7})
    assert problem == asked
    assert {error["field"] for error in problem["errors"]} == {"duration_seconds", "fps"}
    assert studio.store.position == 0


async def test_an_estimate_says_where_nobody_knows(tmp_path: Path) -> None:
    keys = {"GEMINI_API_KEY": "k", "XAI_API_KEY": "k"}
    async with rushes.open(tmp_path / "data", environ=keys) as studio:
        server = await serve(studio, "127.0.0.1:0")
        async with aiohttp.ClientSession(base_url=server.url) as web:
            unknown = await ask(web, "POST", "/v1/estimates", 200, json={"prompt": "a lake", "model": "omni"})
            asked = {"prompt": "a lake", "model": "xai", "duration_seconds": 5, "at_least_once": 2}
            known = await ask(web, "POST", "/v1/estimates", 200, json=asked)
        await server.close()
        assert (unknown["price"], unknown["cost"]) == ("unknown", None)
        assert (known["price"], known["sends"], known["cost"]["micro_usd"] > 0) == ("known", 3, True)
        assert studio.store.position == 0


async def test_every_model_is_listed_under_the_name_that_a_request_takes(web: Web, studio: Studio) -> None:
    listed = await ask(web, "GET", "/v1/models", 200)
    models = {model["id"]: model for model in listed["data"]}
    assert (listed["object"], listed["first_id"], listed["last_id"]) == ("list", next(iter(models)), [*models][-1])
    local, runway = models["local/local"], models["runway/gen4.5"]
    assert (local["object"], local["owned_by"], local["configured"], local["free"]) == ("model", "local", True, True)
    assert (runway["configured"], "RUNWAYML_API_SECRET" in runway["reason"]) == (False, True)
    assert runway["price"]["most_micro_usd"] >= runway["price"]["least_micro_usd"] > 0
    assert len(models) == sum(len(view.models) for view in await studio.providers())
    job = await ask(web, "POST", "/v1/jobs", 202, json=TINY | {"model": "local/local"})
    assert job["model"] == "local"


# ── content ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_take_in_ranges_and_under_conditions(web: Web, studio: Studio) -> None:
    job = await made(studio)
    url, take = f"/v1/jobs/{job}/content", (await studio.show(job)).takes[0]
    whole, tag = Path(take.path).read_bytes(), f'"{take.sha256}"'
    for headers, status, body in [
        ({}, 200, whole),
        ({"Range": "bytes=10-19"}, 206, whole[10:20]),
        ({"Range": "bytes=-5"}, 206, whole[-5:]),
        ({"Range": "bytes=100-"}, 206, whole[100:]),
        ({"Range": f"bytes={len(whole)}-"}, 416, b""),
        ({"Range": "bytes=10-19", "If-Range": tag}, 206, whole[10:20]),
        ({"Range": "bytes=10-19", "If-Range": '"another"'}, 200, whole),
        ({"If-None-Match": f'"x", W/{tag}'}, 304, b""),
        ({"If-None-Match": '"another"'}, 200, whole),
        ({"If-Match": tag}, 200, whole),
    ]:
        async with web.get(url, headers=headers) as reply:
            assert (reply.status, await reply.read()) == (status, body), headers
            assert status == 416 or reply.headers["ETag"] == tag
            assert status != 206 or reply.headers["Content-Range"].endswith(f"/{len(whole)}")
            assert status not in {200, 206} or f"{job}-0.mp4" in reply.headers["Content-Disposition"]
    async with web.head(url) as reply:
        assert (reply.status, reply.content_length) == (200, len(whole))
    assert (await ask(web, "GET", url, 412, headers={"If-Match": '"another"'}))["code"] == "conflict"


async def test_there_is_no_take_yet_or_not_that_one(web: Web, studio: Studio) -> None:
    job = await studio.generate(**TINY)
    problem = await ask(web, "GET", f"/v1/jobs/{job.id}/content", 409)
    assert (problem["code"], problem["retryable"], problem["job_id"]) == ("not_found", True, job.id)
    await job.result(timeout_s=20)
    problem = await ask(web, "GET", f"/v1/jobs/{job.id}/content?take=1", 404)
    assert (problem["code"], problem["retryable"]) == ("not_found", False)


# ── uploads ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_upload_becomes_a_first_frame(web: Web, studio: Studio) -> None:
    raw = await ask(web, "POST", "/v1/uploads", 201, data=picture())
    assert (raw["media_type"], raw["sha256"]) == ("image/png", hashlib.sha256(picture()).hexdigest())
    form = aiohttp.FormData({"note": "passed over"})
    form.add_field("file", picture(), filename="../../a.png", content_type="image/png")
    assert await ask(web, "POST", "/v1/uploads", 201, data=form) == raw
    job = await ask(web, "POST", "/v1/jobs", 202, json=TINY | {"inputs": [{"upload": raw["id"]}]})
    assert job["operation"] == "image-to-video"
    assert (await studio.job(job["id"]).result(timeout_s=20)).videos


@pytest.mark.parametrize(
    ("content", "media_type", "kind"),
    [(b"\0\0\0\x18ftypisom", "video/mp4", "video"), (b"RIFF\0\0\0\0WAVE", "audio/wav", "audio")],
)
async def test_videos_and_audio_are_uploads_too_and_a_job_names_what_its_model_does_not_take(
    web: Web, content: bytes, media_type: str, kind: str
) -> None:
    upload = await ask(web, "POST", "/v1/uploads", 201, data=content)
    assert upload["media_type"] == media_type
    body = TINY | {"inputs": [{"type": kind, "upload": upload["id"]}]}
    problem = await ask(web, "POST", "/v1/jobs", 422, json=body)
    assert (problem["code"], problem["field"]) == ("unsupported_feature", "inputs")


def parts(folder: Path) -> int:
    """How many files are on their way."""
    return len(list(folder.rglob("*.part")))


async def until(true: Callable[[], bool]) -> None:
    """Let everybody else run until the disk shows it."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.to_thread(lambda: None)


async def test_an_upload_is_kept_while_it_comes(web: Web, tmp_path: Path) -> None:
    """It is on the way to disk before its end was sent."""
    begun = asyncio.Event()

    async def halves() -> AsyncIterator[bytes]:
        yield b"a" * 2_000_000
        await until(lambda: parts(tmp_path) == 1)
        begun.set()
        yield b"b" * 2_000_000

    upload = await ask(web, "POST", "/v1/uploads", 201, data=halves())
    assert begun.is_set()
    assert upload["size_bytes"] == 4_000_000
    assert parts(tmp_path) == 0


async def test_an_upload_that_breaks_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    head = f"POST /v1/uploads HTTP/1.1\r\nHost: {server.url[7:]}\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + b"x" * 600_000)
    await writer.drain()
    await until(lambda: parts(tmp_path) == 1)
    writer.close()
    await until(lambda: parts(tmp_path) == 0)
    await reader.read()
    assert not [path for path in tmp_path.rglob("inputs/*/*") if path.is_file()]


@pytest.mark.parametrize(
    ("data", "headers", "named"),
    [
        (b"", {}, "empty"),
        (b"no form", {"Content-Type": "multipart/form-data"}, "form"),
        (b"--b\r\nA: \x08\r\n\r\na\r\n--b--", {"Content-Type": "multipart/form-data; boundary=b"}, "headers"),
        (b"--b\r\n\r\n--b--", {"Content-Type": "multipart/form-data; boundary=b"}, "'file'"),
    ],
)
async def test_an_upload_that_is_none(web: Web, data: bytes, headers: dict[str, str], named: str) -> None:
    problem = await ask(web, "POST", "/v1/uploads", 400, data=data, headers=headers)
    assert named in problem["detail"]


# ── what is wrong is named, and nothing is stored ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "status", "code", "field", "word"),
    [
        (b"{", 400, "invalid_input", "", "not valid JSON"),
        (b"", 400, "invalid_input", "", "not valid JSON"),
        (b"[]", 400, "invalid_input", "", "object"),
        (b"\xff", 400, "invalid_input", "", ""),
        (b"[" * 100_000, 400, "invalid_input", "", ""),
        (b'{"prompt": "a", "promt": "b"}', 400, "invalid_input", "promt", "'promt'"),
        (b'{"prompt": 3}', 400, "invalid_input", "prompt", "'prompt'"),
        (b'{"prompt": " "}', 400, "invalid_input", "prompt", "empty"),
        (b'{"prompt": "a", "seed": -1}', 400, "invalid_input", "seed", "'seed'"),
        (b'{"prompt": "a", "model": "nobody/nothing"}', 422, "model_unknown", "model", "nobody/nothing"),
        (b'{"prompt": "a", "duration_seconds": 61}', 400, "invalid_input", "duration_seconds", "61"),
        (b'{"prompt": "a", "aspect_ratio": "5:1"}', 400, "invalid_input", "aspect_ratio", "5:1"),
        (b'{"prompt": "a", "inputs": [{}]}', 400, "invalid_input", "inputs[0]", "upload"),
        (b'{"prompt": "a", "inputs": [{"upload": "up_0"}]}', 400, "invalid_input", "inputs[0].upload", "uploads"),
        (
            b'{"prompt": "a", "inputs": [{"url": "http://127.0.0.1:1/a.png"}]}',
            400,
            "invalid_input",
            "inputs[0].url",
            "inputs[0].url",
        ),
        (
            b'{"prompt": "a", "inputs": [{"url": "data:image/png;base64,aGVsbG8="}]}',
            400,
            "invalid_input",
            "inputs[0].url",
            "no image",
        ),
    ],
)
async def test_a_wrong_request(
    web: Web, studio: Studio, body: bytes, status: int, code: str, field: str, word: str
) -> None:
    problem = await ask(web, "POST", "/v1/jobs", status, data=body)
    assert (problem["status"], problem["billed"], problem["retryable"]) == (status, "no", False)
    assert (problem["code"], problem.get("field", "")) == (code, field), problem
    assert word in problem["detail"]
    assert problem["errors"][0]["detail"] in problem["detail"]
    assert "Traceback" not in problem["detail"]
    assert studio.store.position == 0


async def test_an_upload_that_is_no_image_is_no_first_frame(web: Web, studio: Studio) -> None:
    upload = await ask(web, "POST", "/v1/uploads", 201, data=b"\x89PNG\r\n\x1a\n but not really")
    problem = await ask(web, "POST", "/v1/jobs", 400, json={"prompt": "a", "inputs": [{"upload": upload["id"]}]})
    assert (problem["field"], "image" in problem["detail"]) == ("inputs[0].upload", True)
    assert studio.store.position == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", "/", 404, "'/'"),
        ("GET", "/v1/nothing", 404, "/v1/nothing"),
        ("GET", "/v1/jobs/", 404, ""),
        ("GET", "/v1/jobs/..%2f..%2fetc%2fpasswd", 404, "job"),
        ("DELETE", "/v1/jobs", 405, "GET"),
        ("GET", "/v1/jobs/job_nobody", 404, "job_nobody"),
        ("POST", "/v1/jobs/job_nobody/cancel", 404, "job_nobody"),
        ("POST", "/v1/jobs/job_nobody/poll", 404, "job_nobody"),
        ("GET", "/v1/jobs/job_nobody/events", 404, "job_nobody"),
        ("GET", "/v1/jobs/job_nobody/content", 404, "job_nobody"),
        ("GET", "/v1/jobs?statu=failed", 400, "'statu'"),
        ("GET", "/v1/jobs?status=done", 400, "'status'"),
        ("GET", "/v1/jobs?created_after=200", 400, "'created_after'"),
        ("GET", "/v1/jobs?status=null", 400, "'status'"),
        ("GET", "/v1/jobs?customer_id=null", 400, "'customer_id'"),
        ("GET", "/v1/jobs?status=failed&status=queued", 400, "more than once"),
        ("GET", "/v1/jobs?limit=0", 400, "'limit'"),
        ("GET", "/v1/jobs?limit=ten", 400, "'limit'"),
        ("GET", "/v1/jobs?before=job_nobody", 400, "job_nobody"),
        ("GET", "/v1/jobs?after=job_nobody", 400, "'next'"),
        ("GET", "/v1/jobs?sort=size", 400, "'sort'"),
        ("GET", "/v1/jobs?order=down", 400, "'order'"),
        ("GET", "/v1/jobs?phase=done", 400, "'done'"),
        ("GET", "/v1/jobs?operation=sing", 400, "'sing'"),
        ("GET", "/v1/jobs?customer_id=seven", 400, "'customer_id'"),
        ("GET", "/v1/jobs?created_after=yesterday", 400, "'created_after'"),
        ("GET", "/v1/jobs?created_before=2026-01-01T00:00:00", 400, "timezone"),
        ("GET", "/v1/jobs/x/events?after=-1", 400, "'after'"),
        ("GET", "/v1/jobs/x/events?after=9223372036854775808", 400, "'after'"),
        ("GET", "/v1/jobs/x/content?take=-1", 400, "'take'"),
        ("GET", "/v1/jobs/x/content?tale=1", 400, "'tale'"),
        ("GET", "/v1/jobs/x?verbose=1", 400, "'verbose'"),
        ("POST", "/v1/jobs?model=local", 400, "'model'"),
        ("POST", "/v1/uploads?name=a", 400, "'name'"),
        ("GET", "/healthz?x=1", 400, "'x'"),
    ],
)
async def test_a_wrong_address(web: Web, studio: Studio, method: str, path: str, status: int, word: str) -> None:
    problem = await ask(web, method, path, status)
    assert word in problem["detail"]
    assert problem["title"] == problem["code"].replace("_", " ")
    assert problem["type"] == f"urn:rushes:problem:{problem['code']}"
    assert studio.store.position == 0


async def test_a_wrong_way_to_steer(web: Web, studio: Studio) -> None:
    job = await made(studio)
    position = studio.store.position
    problem = await ask(web, "POST", f"/v1/jobs/{job}/cancel", 400, json={"discards": True})
    assert (problem["field"], "'discards'" in problem["detail"]) == ("discards", True)
    problem = await ask(web, "POST", f"/v1/jobs/{job}/poll", 400, data=b"{")
    assert "not valid JSON" in problem["detail"]
    for key in ("", "x" * 256):
        problem = await ask(web, "POST", "/v1/jobs", 400, json=TINY, headers={"Idempotency-Key": key})
        assert problem["field"] == "Idempotency-Key"
    assert studio.store.position == position


async def test_a_body_that_is_too_large(web: Web, studio: Studio) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 2**20

    problem = await ask(web, "POST", "/v1/jobs", 413, data=endless())
    assert "/v1/uploads" in problem["detail"]
    assert studio.store.position == 0


async def test_a_bug_is_told_as_one_and_nothing_of_it_leaks() -> None:
    async def broken(_: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        raise ZeroDivisionError("secret")

    app = aiohttp.web.Application(middlewares=[problems])
    app.router.add_get("/", broken)
    async with TestClient(TestServer(app)) as web, web.get("/") as reply:
        problem = await reply.json(content_type="application/problem+json")
    assert (problem["code"], problem["status"]) == ("internal_error", 500)
    assert "secret" not in str(problem)


# ── who may ask ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 202),
        ("POST", {"Origin": "https://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Origin": "https://friend.example"}, 202),
        ("POST", {"Origin": "https://Friend.example", "Sec-Fetch-Site": "cross-site"}, 202),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, 202),
        ("POST", {"Host": "evil.example"}, 403),
        ("POST", {"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ("POST", {"Host": ""}, 403),
        ("POST", {"Host": "localhost:1"}, 202),
        ("POST", {"Host": "[::1]:1"}, 202),
        ("POST", {"Host": "friend.example"}, 202),
        ("GET", {"Origin": "https://evil.example"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site"}, 200),  # somebody followed a link
        ("GET", {"Host": "evil.example"}, 403),
    ],
)
async def test_pages_of_others_are_refused(
    web: Web, studio: Studio, method: str, headers: dict[str, str], status: int
) -> None:
    answered = await ask(web, method, "/v1/jobs", status, headers=headers, json=TINY if method == "POST" else None)
    assert status != 403 or "allowed_origins" in answered["detail"]
    assert (studio.store.position > 0) == (status == 202)


# ── where it listens ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_port_in_use_is_one_sentence(server: Server, studio: Studio) -> None:
    address = server.url.removeprefix("http://")
    with pytest.raises(BadRequest) as refused:
        await serve(studio, address)
    assert refused.value.field == "listen"
    assert address.rpartition(":")[2] in refused.value.detail
    assert "--listen" in refused.value.detail


@pytest.mark.parametrize("listen", ["8484", ":8484", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "192.0.2.1:0"])
async def test_an_address_that_cannot_be(studio: Studio, listen: str) -> None:
    with pytest.raises(BadRequest) as refused:
        await serve(studio, listen)
    assert refused.value.field == "listen"


async def test_others_learn_the_address_from_the_folder(server: Server, studio: Studio, tmp_path: Path) -> None:
    def url() -> str:
        owner = holder(tmp_path / "data")
        assert owner is not None
        return owner.url

    assert url() == server.url
    assert server.url.startswith("http://127.0.0.1:")
    another = await serve(studio, "[::1]:0")
    assert another.url.startswith("http://[::1]:")
    await another.close()
    assert url() == ""
