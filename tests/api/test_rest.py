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
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image
from talking import TINY, write_log

from rushes.api.app import Server, problems, serve
from rushes.eventstore.lock import holder
from rushes.faults import BadRequest
from rushes.studio import Studio
from rushes.video import VideoRequest

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
