"""OpenAI's `/v1/videos` over our jobs, as its official client and others speak it."""

from __future__ import annotations

import asyncio
import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image
from provider_rig import provider
from talking import TINY

from rushes.adapters.sora import Sora
from rushes.api.app import serve
from rushes.emulators.sora import SoraTwin
from rushes.studio import Studio
from rushes.testing.wires import CLIP
from rushes.video import VideoRequest

Web = aiohttp.ClientSession
WISH = {"model": "local", "prompt": "a lake", "seconds": "1", "size": "320x180"}
SLOW: dict[str, Any] = TINY | {"duration_seconds": 60, "fps": 30, "resolution": "720p"}


def picture() -> bytes:
    file = BytesIO()
    Image.new("RGB", (320, 180), "teal").save(file, "png")
    return file.getvalue()


async def ask(web: Web, method: str, path: str, status: int, **more: Any) -> Any:
    async with web.request(method, path, **more) as reply:
        assert reply.status == status, await reply.text()
        assert reply.content_type == "application/json"
        return await reply.json()


async def refused(web: Web, method: str, path: str, status: int, **more: Any) -> Any:
    """An error, in OpenAI's envelope."""
    problem = await ask(web, method, path, status, **more)
    assert set(problem) == {"error"}
    assert set(problem["error"]) == {"message", "type", "param", "code", "retryable", "billed", "job_id"}
    return problem["error"]


async def completed(web: Web, studio: Studio, **wish: str) -> Any:
    """A video that is done."""
    video = await ask(web, "POST", "/v1/videos", 200, json=WISH | wish)
    await studio.job(video["id"]).result(timeout_s=20)
    return await ask(web, "GET", f"/v1/videos/{video['id']}", 200)


async def test_a_video_from_json_to_its_bytes(web: Web, studio: Studio) -> None:
    begun = await ask(web, "POST", "/v1/videos", 200, json=WISH)
    assert (begun["object"], begun["status"], begun["progress"], begun["error"]) == ("video", "queued", 0, None)
    assert (begun["seconds"], begun["size"], begun["prompt"]) == ("1", "320x180", "a lake")
    assert (begun["completed_at"], begun["expires_at"], begun["remixed_from_video_id"]) == (None, None, None)
    await studio.job(begun["id"]).result(timeout_s=20)
    video = await ask(web, "GET", f"/v1/videos/{begun['id']}", 200)
    assert (video["status"], video["progress"], video["model"]) == ("completed", 100, "local/local")
    assert video["created_at"] <= video["completed_at"]
    async with web.get(f"/v1/videos/{begun['id']}/content") as reply:
        body = await reply.read()
    take = (await studio.show(begun["id"])).takes[0]
    assert hashlib.sha256(body).hexdigest() == take.sha256


async def test_a_form_is_read_like_json(web: Web, studio: Studio) -> None:
    form = aiohttp.FormData(WISH, default_to_multipart=True)
    video = await ask(web, "POST", "/v1/videos", 200, data=form)
    assert (video["prompt"], video["seconds"], video["size"]) == ("a lake", "1", "320x180")
    assert (await studio.show(video["id"])).request.inputs == ()


async def test_the_file_of_a_form_is_the_first_frame(web: Web, studio: Studio) -> None:
    form = aiohttp.FormData(WISH, default_to_multipart=True)
    form.add_field("input_reference", picture(), filename="lake.png", content_type="image/png")
    video = await ask(web, "POST", "/v1/videos", 200, data=form)
    (given,) = (await studio.show(video["id"])).request.inputs
    assert (given.role, given.asset.sha256) == ("first_frame", hashlib.sha256(picture()).hexdigest())


async def test_a_reference_may_be_an_upload(web: Web, studio: Studio) -> None:
    upload = await ask(web, "POST", "/v1/uploads", 201, data=picture())
    video = await ask(web, "POST", "/v1/videos", 200, json=WISH | {"input_reference": {"file_id": upload["id"]}})
    form = aiohttp.FormData(WISH | {"input_reference[file_id]": upload["id"]}, default_to_multipart=True)
    other = await ask(web, "POST", "/v1/videos", 200, data=form)
    for made in (video, other):
        (given,) = (await studio.show(made["id"])).request.inputs
        assert given.asset.sha256 == upload["sha256"]


@pytest.mark.parametrize(
    ("wish", "status", "param", "code"),
    [
        ({"prompt": ""}, 400, "prompt", "invalid_input"),
        ({"prompt": None}, 400, "prompt", "invalid_input"),
        ({"seconds": "61"}, 400, "seconds", "invalid_input"),
        ({"seconds": "soon"}, 400, "seconds", "invalid_input"),
        ({"size": "321x180"}, 400, "size", "invalid_input"),
        ({"size": "large"}, 400, "size", "invalid_input"),
        ({"model": "nobody"}, 404, "model", "model_unknown"),
        ({"model": "sora/sora-2"}, 404, "model", "model_retired"),
        ({"n": 2}, 400, "n", "invalid_input"),
        ({"input_reference": {}}, 400, "input_reference", "invalid_input"),
        ({"input_reference": {"file_id": "up_0"}}, 400, "input_reference", "invalid_input"),
        ({"input_reference": {"image_url": "http://127.0.0.1:1/a.png"}}, 400, "input_reference", "invalid_input"),
    ],
)
async def test_a_wrong_wish_is_refused_by_the_name_that_their_client_knows(
    web: Web, studio: Studio, wish: dict[str, Any], status: int, param: str, code: str
) -> None:
    error = await refused(web, "POST", "/v1/videos", status, json=WISH | wish)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert (error["billed"], error["job_id"]) == ("no", "")
    assert studio.store.position == 0


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"no form", "cannot be read"),
        (b'--b\r\nContent-Disposition: form-data; name="\x08"\r\n\r\na\r\n--b--\r\n', "headers of a part"),
        (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\xff\r\n--b--\r\n', "UTF-8"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--\r\n", "no name"),
        (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"a" * 300_000 + b"\r\n--b--\r\n", "longer"),
        (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n' * 2 + b"--b--\r\n", "twice"),
    ],
)
async def test_a_form_that_is_none_is_refused(web: Web, studio: Studio, body: bytes, word: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    error = await refused(web, "POST", "/v1/videos", 400, data=body, headers=headers)
    assert word in error["message"]
    assert studio.store.position == 0


async def test_a_video_is_deleted_once_it_has_ended_and_its_job_stays(web: Web, studio: Studio) -> None:
    kept, gone = await completed(web, studio), await completed(web, studio, prompt="a hill")
    deleted = await ask(web, "DELETE", f"/v1/videos/{gone['id']}", 200)
    assert deleted == {"id": gone["id"], "object": "video.deleted", "deleted": True}
    for method, end in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        error = await refused(web, method, f"/v1/videos/{gone['id']}{end}", 404)
        assert error["code"] == "not_found"
    listed = await ask(web, "GET", "/v1/videos?limit=1", 200)
    assert ([video["id"] for video in listed["data"]], listed["has_more"]) == ([kept["id"]], False)
    view = await ask(web, "GET", f"/v1/jobs/{gone['id']}", 200)
    assert (view["status"], view["hidden"], len(view["takes"])) == ("succeeded", True, 1)


async def test_a_video_that_is_being_made_is_cancelled_before_it_is_deleted(web: Web, studio: Studio) -> None:
    job = await studio.generate(**SLOW)
    error = await refused(web, "DELETE", f"/v1/videos/{job.id}", 409)
    assert (error["code"], error["job_id"]) == ("command_rejected", job.id)
    assert f"/v1/jobs/{job.id}/cancel" in error["message"]
    error = await refused(web, "GET", f"/v1/videos/{job.id}/content", 409)
    assert "not completed" in error["message"]
    await job.cancel()
    async for _ in job.updates():
        pass
    video = await ask(web, "GET", f"/v1/videos/{job.id}", 200)
    assert (video["status"], video["error"]["code"]) == ("failed", "cancelled")
    assert (await refused(web, "GET", f"/v1/videos/{job.id}/content", 404))["code"] == "not_found"
    await ask(web, "DELETE", f"/v1/videos/{job.id}", 200)


async def test_a_deletion_is_one_event_of_the_log(web: Web, studio: Studio) -> None:
    video = await completed(web, studio)
    await ask(web, "DELETE", f"/v1/videos/{video['id']}", 200)
    assert (await studio.events(video["id"]))[-1].type == "job.hidden"
    await ask(web, "DELETE", f"/v1/videos/{video['id']}", 404)
    assert [event.type for event in await studio.events(video["id"])].count("job.hidden") == 1


async def test_videos_are_listed_in_both_orders_and_in_pages(web: Web, studio: Studio) -> None:
    names = [(await studio.submit(VideoRequest(**TINY | {"prompt": f"lake {n}"})))[0].id for n in range(5)]
    await asyncio.gather(*[studio.job(name).result(timeout_s=20) for name in names])
    for order, expected in (("desc", names[::-1]), ("asc", names)):
        found, after = [], ""
        while True:
            page = await ask(web, "GET", f"/v1/videos?limit=2&order={order}{after}", 200)
            found += [video["id"] for video in page["data"]]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert found == expected
    error = await refused(web, "GET", "/v1/videos?after=job_nobody", 400)
    assert error["param"] == "after"


async def test_a_page_is_full_also_where_the_newest_were_deleted(web: Web, studio: Studio) -> None:
    names = [(await studio.submit(VideoRequest(**TINY | {"prompt": f"lake {n}"})))[0].id for n in range(4)]
    await asyncio.gather(*[studio.job(name).result(timeout_s=20) for name in names])
    for name in names[2:]:
        await ask(web, "DELETE", f"/v1/videos/{name}", 200)
    listed = await ask(web, "GET", "/v1/videos?limit=1", 200)
    assert ([video["id"] for video in listed["data"]], listed["has_more"]) == ([names[1]], True)


async def test_a_model_without_video_input_has_no_remix(web: Web, studio: Studio) -> None:
    video = await completed(web, studio)
    position = studio.store.position
    error = await refused(web, "POST", f"/v1/videos/{video['id']}/remix", 400, json={"prompt": "at night"})
    assert (error["type"], error["code"], error["billed"]) == ("invalid_request_error", "unsupported_feature", "no")
    assert studio.store.position == position


async def test_a_clip_is_made_over_where_its_model_takes_clips(tmp_path: Path) -> None:
    environ = {"OPENAI_BASE_URL": "URL", "OPENAI_API_KEY": "k"}
    async with provider(tmp_path, Sora(), SoraTwin(clip=CLIP, key="k"), environ) as rig:
        server = await serve(rig.studio, "127.0.0.1:0")
        async with aiohttp.ClientSession(base_url=server.url) as web:
            wish = {"model": "sora-2", "prompt": "a lake", "seconds": "4", "size": "1280x720"}
            video = await completed(web, rig.studio, **wish)
            again = await ask(web, "POST", f"/v1/videos/{video['id']}/remix", 200, json={"prompt": "at night"})
            assert (again["remixed_from_video_id"], again["prompt"]) == (video["id"], "at night")
            assert again["model"] == "sora/sora-2"
            await rig.studio.job(again["id"]).result(timeout_s=20)
        await server.close()
        assert rig.asked()[1].endswith("/remix")


async def test_pictures_that_a_job_kept_are_variants_of_its_content(tmp_path: Path) -> None:
    environ = {"OPENAI_BASE_URL": "URL", "OPENAI_API_KEY": "k"}
    twin = SoraTwin(clip=CLIP, key="k", start_s=0.0, render_s=0.5)
    async with provider(tmp_path, Sora(), twin, environ) as rig:
        server = await serve(rig.studio, "127.0.0.1:0")
        async with aiohttp.ClientSession(base_url=server.url) as web:
            job = await rig.studio.generate("a lake", model="sora-2", provider_options={"variants": ["thumbnail"]})
            content = f"/v1/videos/{job.id}/content"
            early = await refused(web, "GET", f"{content}?variant=thumbnail", 409)
            assert (early["code"], early["retryable"]) == ("not_found", True)
            assert (await refused(web, "GET", f"{content}?variant=spritesheet", 400))["param"] == "variant"
            clip, thumbnail = (await job.result(timeout_s=20)).job.takes
            for query, take in (("", clip), ("?variant=video", clip), ("?variant=thumbnail", thumbnail)):
                async with web.get(content + query) as reply:
                    assert hashlib.sha256(await reply.read()).hexdigest() == take.sha256
                    assert (reply.status, reply.content_type) == (200, take.media_type)
            async with web.get(thumbnail.url) as reply:
                assert hashlib.sha256(await reply.read()).hexdigest() == thumbnail.sha256
                assert reply.headers["Content-Disposition"] == f'inline; filename="{job.id}-1.webp"'
            error = await refused(web, "GET", f"{content}?variant=spritesheet", 400)
            assert (error["code"], error["param"]) == ("unsupported_feature", "variant")
        await server.close()


async def test_the_same_key_is_the_same_video(web: Web) -> None:
    key = {"Idempotency-Key": "k"}
    first = await ask(web, "POST", "/v1/videos", 200, json=WISH, headers=key)
    assert (await ask(web, "POST", "/v1/videos", 200, json=WISH, headers=key))["id"] == first["id"]
    error = await refused(web, "POST", "/v1/videos", 409, json=WISH | {"prompt": "a hill"}, headers=key)
    assert (error["code"], error["job_id"]) == ("conflict", first["id"])


async def test_their_client_is_told_when_it_may_ask_again(web: Web) -> None:
    async with web.post("/v1/videos", json=WISH | {"prompt": ""}) as reply:
        assert reply.headers["x-should-retry"] == "false"
    job = await ask(web, "POST", "/v1/videos", 200, json=WISH | {"seconds": "60", "size": "1280x720"})
    async with web.get(f"/v1/videos/{job['id']}/content") as reply:
        assert (reply.status, reply.headers["Retry-After"], reply.headers["x-should-retry"]) == (409, "1", "true")
    async with web.patch("/v1/videos") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (405, "invalid_input")
    await ask(web, "POST", f"/v1/jobs/{job['id']}/cancel", 200)
