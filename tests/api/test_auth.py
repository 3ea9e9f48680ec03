"""Keys as a caller meets them: what lets in, what does not, and that a tenant sees nothing of another's."""

from __future__ import annotations

import asyncio
import hmac
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from keyring import WRONG, Ring, bearer, calling, guarded, ring
from msgspec.structs import replace
from talking import TINY, Frame, reading, write_log

from rushes.api.app import Server, serve
from rushes.api.auth import ANYBODY, FILE, Keys, create, revoke, stored
from rushes.client import Client
from rushes.faults import AccessDenied, BadRequest, Conflict, FolderTrouble, NotFound
from rushes.studio import Studio
from rushes.video import MediaInput, VideoRequest

SEEN_WITHIN_S = 2.0
PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0" * 60
LAKE = VideoRequest(**TINY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def keys(folder: Path) -> Ring:
    return ring(folder)


async def status(server: Server, token: str = "", path: str = "/v1/jobs", **more: Any) -> int:
    headers = more.pop("headers", bearer(token))
    async with aiohttp.ClientSession() as session, session.get(server.url + path, headers=headers, **more) as reply:
        return reply.status


async def becomes(wanted: int, server: Server, token: str = "") -> None:
    """It answers so within two seconds."""
    async with asyncio.timeout(SEEN_WITHIN_S):
        while await status(server, token) != wanted:
            pass


async def problem(reply: aiohttp.ClientResponse) -> Frame:
    assert reply.content_type == "application/problem+json"
    told: Frame = await reply.json(content_type=None)
    assert (told["status"], told["billed"], told["retryable"]) == (reply.status, "no", False)
    return told


# ── the door ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_denial_says_what_is_missing(studio: Studio, folder: Path, keys: Ring) -> None:
    async with guarded(studio, folder) as server:
        async with calling(server, "") as web, web.post("/v1/jobs", json=TINY) as reply:
            told = await problem(reply)
            assert (reply.status, told["code"]) == (401, "unauthorised")
            assert "RUSHES_TOKEN" in told["detail"]
            assert reply.headers["WWW-Authenticate"] == 'Bearer realm="rushes"'
        async with calling(server, WRONG) as web, web.post("/v1/jobs", json=TINY) as reply:
            told = await problem(reply)
            assert (reply.status, told["code"]) == (401, "unauthorised")
            assert WRONG not in told["detail"]
            assert reply.headers["WWW-Authenticate"] == 'Bearer realm="rushes", error="invalid_token"'
        async with calling(server, keys.reader) as web, web.post("/v1/jobs", json=TINY) as reply:
            told = await problem(reply)
            assert (reply.status, told["code"]) == (403, "forbidden")
            assert "'generate'" in told["detail"]
            assert reply.headers["WWW-Authenticate"].endswith('error="insufficient_scope", scope="generate"')
    assert (await studio.jobs()).jobs == []


async def test_a_key_counts_in_its_header_alone_and_once(studio: Studio, folder: Path, keys: Ring) -> None:
    async with guarded(studio, folder) as server:
        assert await status(server, headers={"Authorization": f"bearer  {keys.reader}"}) == 200
        for said in (f"Basic {keys.reader}", keys.reader, "Bearer", "Bearer ", f"Bearer {keys.reader[:-1]}"):
            assert await status(server, headers={"Authorization": said}) == 401, said
        twice = [("Authorization", f"Bearer {keys.reader}"), ("Authorization", f"Bearer {keys.owner}")]
        assert await status(server, headers=twice) == 401
        for path in (f"/v1/jobs?token={keys.reader}", f"/v1/jobs?access_token={keys.reader}"):
            assert await status(server, path=path) == 401


@pytest.mark.usefixtures("keys")
async def test_a_header_that_is_no_text_is_no_key(studio: Studio, folder: Path) -> None:
    async with guarded(studio, folder) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = [
            b"GET /v1/jobs HTTP/1.1",
            b"Host: localhost",
            b"Connection: close",
            b"Authorization: Bearer rk_\xff\xfe",
        ]
        writer.write(b"\r\n".join([*head, b"", b""]))
        assert (await reader.readline()).split()[1] == b"401"
        writer.close()
        await writer.wait_closed()


async def test_what_is_not_there_is_told_to_those_with_a_key_alone(studio: Studio, folder: Path, keys: Ring) -> None:
    async with guarded(studio, folder) as server:
        assert [await status(server, token, "/v1/nothing") for token in ("", WRONG, keys.admin)] == [401, 401, 404]
        async with calling(server, "") as web, web.delete("/v1/jobs") as reply:
            assert reply.status == 401


async def test_a_stranger_is_told_that_the_server_is_there_and_no_more(
    studio: Studio, folder: Path, keys: Ring
) -> None:
    async with guarded(studio, folder) as server:
        for token in ("", WRONG, keys.generator):
            async with calling(server, token) as web, web.get("/healthz") as reply:
                assert await reply.json() == {"status": "ok"}
        async with calling(server, keys.reader) as web, web.get("/healthz") as reply:
            assert set(await reply.json()) == {"status", "epoch", "position"}


async def test_lanes_which_count_the_jobs_of_all_are_for_admins(studio: Studio, folder: Path, keys: Ring) -> None:
    await (await studio.generate(**TINY)).result(timeout_s=20)
    lanes = {}
    async with guarded(studio, folder) as server:
        for name, token in {"reader": keys.reader, "owner": keys.owner}.items():
            async with Client(server.url, token=token) as client:
                lanes[name] = sum(len(view.lanes) for view in await client.providers())
    assert lanes == {"reader": 0, "owner": 1}


async def test_an_unknown_token_is_compared_like_a_known_one(
    folder: Path, keys: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    known = Keys(folder)
    assert known.authenticate(keys.reader) is not None
    assert [known.authenticate(token) for token in (WRONG, "", "-" * 64)] == [None] * 3
    assert compared == [(64, 64)] * 4


# ── beside a running server ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_running_server_sees_a_new_key_and_a_revoked_one(studio: Studio, folder: Path, keys: Ring) -> None:
    async with guarded(studio, folder) as server:
        assert await status(server, keys.reader) == 200
        key, secret = create(folder, "late")
        await becomes(200, server, secret)
        revoke(folder, key.id)
        await becomes(401, server, secret)
        assert await status(server, keys.reader) == 200


async def test_the_first_key_locks_an_open_server_and_the_last_one_does_not_open_it(
    studio: Studio, folder: Path
) -> None:
    async with guarded(studio, folder) as server:
        assert await status(server) == 200
        key, secret = create(folder, "first")
        await becomes(401, server)
        assert await status(server, secret) == 200
        revoke(folder, key.id)
        await becomes(401, server, secret)
        assert await status(server) == 401
        (folder / FILE).unlink()
        time_out = time.monotonic() + SEEN_WITHIN_S / 2
        while time.monotonic() < time_out:
            assert await status(server) == 401


async def test_keys_that_cannot_be_read_let_nobody_in(studio: Studio, folder: Path, keys: Ring) -> None:
    async with guarded(studio, folder) as server:
        good = (folder / FILE).read_bytes()
        for broken in (good[:-20], b"", b'{"keys": [], "more": 1}', good.replace(b'"read"', b'"look"')):
            (folder / FILE).write_bytes(broken)
            await becomes(503, server, keys.owner)
            assert await status(server) == 503
        async with calling(server, keys.owner) as web, web.get("/v1/jobs") as reply:
            told = await reply.json(content_type=None)
            assert (told["code"], told["retryable"], told["billed"]) == ("unavailable", True, "no")
            assert str(folder) not in told["detail"]
        (folder / FILE).write_bytes(good)
        await becomes(200, server, keys.owner)


async def test_other_machines_are_answered_with_keys_alone(studio: Studio, folder: Path) -> None:
    for none in (None, Keys(), Keys(folder)):
        with pytest.raises(BadRequest, match="rushes keys create") as refused:
            await serve(studio, "0.0.0.0:0", keys=none)
        assert refused.value.field == "listen"
    key, secret = create(folder, "first")
    server = await serve(studio, "0.0.0.0:0", keys=Keys(folder))
    assert [await status(server), await status(server, secret)] == [401, 200]
    await server.close()
    revoke(folder, key.id)
    for listen in ("0.0.0.0:0", "[::]:0", "rushes.example:0"):
        with pytest.raises(BadRequest, match="other machines"):
            await serve(studio, listen, keys=Keys(folder))
    for listen in ("127.0.0.1:0", "localhost:0"):
        await (await serve(studio, listen, keys=Keys(folder))).close()


# ── tenants ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_and_its_cursors_show_the_callers_own_jobs(studio: Studio, folder: Path, keys: Ring) -> None:
    mine = [(await studio.submit(LAKE))[0].id for _ in range(3)]
    theirs = [(await studio.submit(LAKE, tenant="acme"))[0].id for _ in range(3)]
    async with (
        guarded(studio, folder) as server,
        Client(server.url, token=keys.owner) as me,
        Client(server.url, token=keys.other) as other,
    ):
        assert [view.id for view in (await me.jobs()).jobs] == mine[::-1]
        assert [view.id for view in (await other.jobs()).jobs] == theirs[::-1]
        place = (await other.jobs(limit=1)).next
        assert {view.id for view in (await me.jobs(after=place)).jobs} <= set(mine)
        with pytest.raises(BadRequest, match="There is no job"):
            await me.jobs(before=theirs[0])


async def test_a_job_that_is_begun_over_http_is_the_callers(studio: Studio, folder: Path, keys: Ring) -> None:
    async with (
        guarded(studio, folder) as server,
        Client(server.url, token=keys.owner) as me,
        Client(server.url, token=keys.other) as other,
    ):
        view, _ = await other.submit(LAKE, "the same key")
        mine, replayed = await me.submit(LAKE, "the same key")
        assert (mine.id != view.id, replayed) == (True, False)
        with pytest.raises(NotFound):
            await me.show(view.id)
        assert (await studio.show(view.id, "acme")).id == view.id
        await studio.settled(view.id, "acme")
        retried, _ = await other.retry(view.id)
        assert (await studio.show(retried.id, "acme")).parent == view.id
        again = replace(LAKE, seed=8)
        with pytest.raises(Conflict):
            await other.submit(again, "the same key")


async def test_an_upload_and_a_take_are_inputs_for_their_own_tenant(studio: Studio, folder: Path, keys: Ring) -> None:
    made = await studio.generate(**TINY)
    await made.result(timeout_s=20)
    async with (
        guarded(studio, folder) as server,
        Client(server.url, token=keys.owner) as me,
        Client(server.url, token=keys.other) as other,
    ):
        mine = await me.upload(PIXEL)
        with pytest.raises(BadRequest, match="There is no upload"):
            await other.submit(VideoRequest(**TINY, inputs=(MediaInput(upload=mine.id),)))
        with pytest.raises(BadRequest, match="There is no job"):
            await other.submit(VideoRequest(**TINY, inputs=(MediaInput(job=made.id),)))
        theirs = await other.upload(PIXEL)
        assert theirs == mine  # its name is what it holds, and tells nothing
        with pytest.raises(BadRequest) as looked_at:
            await other.submit(VideoRequest(**TINY, inputs=(MediaInput(upload=mine.id),)))
        assert "There is no upload" not in looked_at.value.detail  # it is theirs now, and no picture


# ── the client ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_client_shows_its_token_and_says_why_it_is_denied(studio: Studio, folder: Path, keys: Ring) -> None:
    async with guarded(studio, folder) as server:
        for token, code in (("", "unauthorised"), (WRONG, "unauthorised"), (keys.reader, "forbidden")):
            async with Client(server.url, token=token) as client:
                assert await client.healthy()
                with pytest.raises(AccessDenied) as denied:
                    await client.submit(LAKE)
                assert (denied.value.code, denied.value.billed) == (code, "no")
        async with Client(server.url, token=keys.owner) as client:
            view, _ = await client.submit(LAKE)
            assert [view.status async for view in client.updates(view.id)][-1] == "succeeded"
    for token in ("rk_a b", "rk_a\nb", "rk_ä"):
        with pytest.raises(BadRequest, match="token"):
            Client("http://127.0.0.1:1", token=token)


async def test_a_client_with_a_token_works_against_a_server_without_keys(studio: Studio, folder: Path) -> None:
    async with guarded(studio, folder) as server, Client(server.url, token=WRONG) as client:
        view, _ = await client.submit(LAKE)
        assert [view.status async for view in client.updates(view.id)][-1] == "succeeded"


# ── the socket ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("token", ["", WRONG])
async def test_a_socket_without_a_good_token_is_closed(studio: Studio, folder: Path, token: str) -> None:
    async with guarded(studio, folder) as server, reading(server.url, hello=False) as reader:
        await reader.say(type="hello", token=token)
        assert await reader.closed() == 4401


async def test_a_socket_tells_of_its_own_tenant_alone(studio: Studio, folder: Path, keys: Ring) -> None:
    await write_log(studio, "job_a", 2)
    async with guarded(studio, folder) as server:
        heard = {}
        for name, token in {"me": keys.reader, "other": keys.other}.items():
            async with reading(server.url, hello=False) as reader:
                await reader.say(type="hello", token=token)
                await reader.hear("welcome")
                await reader.say(type="subscribe", id="all", from_="start")
                await reader.hear("subscribed")
                heard[name] = [item["job_id"] for item in await reader.until_caught_up()]
                await reader.say(type="subscribe", id="one", job="job_a", from_="start")
                answered = await reader.hear()
                assert answered["type"] == {"me": "subscribed", "other": "error"}[name]
        assert answered["code"] == "not_found"
    assert heard == {"me": ["job_a", "job_a"], "other": []}


async def test_a_key_that_may_not_read_subscribes_to_nothing(studio: Studio, folder: Path, keys: Ring) -> None:
    async with guarded(studio, folder) as server, reading(server.url, hello=False) as reader:
        await reader.say(type="hello", token=keys.generator)
        await reader.hear("welcome")
        await reader.say(type="subscribe", id="all", from_="start")
        error = await reader.hear("error")
        assert (error["code"], "'read'" in error["message"]) == ("forbidden", True)


async def test_a_quiet_socket_ends_with_its_key_and_others_stay(studio: Studio, folder: Path, keys: Ring) -> None:
    key, secret = create(folder, "short")
    async with (
        guarded(studio, folder) as server,
        reading(server.url, hello=False) as reader,
        reading(server.url, hello=False) as other,
    ):
        await other.say(type="hello", token=keys.reader)
        await other.hear("welcome")
        await reader.say(type="hello", token=secret)
        await reader.hear("welcome")
        await reader.say(type="subscribe", id="all", from_="start")
        await reader.hear("subscribed")
        await reader.until_caught_up()
        revoke(folder, key.id)
        async with asyncio.timeout(SEEN_WITHIN_S):
            assert await reader.closed() == 4401
        await other.say(type="ping")
        await other.hear("pong")


async def test_a_quiet_socket_of_an_open_server_ends_with_the_first_key(studio: Studio, folder: Path) -> None:
    async with guarded(studio, folder) as server, reading(server.url) as reader:
        create(folder, "first")
        async with asyncio.timeout(SEEN_WITHIN_S):
            assert await reader.closed() == 4401


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_file_holds_no_secret(folder: Path, keys: Ring) -> None:
    text = (folder / FILE).read_text()
    assert [secret for secret in keys.shown_by().values() if secret and secret[3:] in text] == []
    assert {key.name for key in stored(folder)} == {"owner", "reader", "generator", "admin", "other"}
    assert [key.revoked_at for key in stored(folder)] == [None] * 5


@pytest.mark.parametrize(
    ("name", "tenant", "field"),
    [("", "default", "name"), (" ", "default", "name"), ("a\nb", "default", "name"), ("x" * 101, "default", "name")]
    + [("a", tenant, "tenant") for tenant in ("", "Acme", "a/b", "-a", "a" * 64, "ä", "a\n")],
)
def test_a_key_that_cannot_be_is_refused_by_the_field(folder: Path, name: str, tenant: str, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        create(folder, name, (), tenant)
    assert refused.value.field == field
    assert stored(folder) == []


def test_a_key_is_revoked_once_and_one_that_is_not_there_not_at_all(folder: Path) -> None:
    key, secret = create(folder, "a")
    ended = revoke(folder, key.id)
    assert ended.revoked_at is not None
    assert revoke(folder, key.id) == ended
    assert Keys(folder).authenticate(secret) is None
    with pytest.raises(NotFound, match="rushes keys list"):
        revoke(folder, "key_nobody")


def test_without_a_folder_or_a_file_anybody_is_let_in(folder: Path) -> None:
    for none in (Keys(), Keys(folder)):
        assert none.authenticate("anything") == none.authenticate("") == ANYBODY
        assert none.stands(ANYBODY)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderTrouble, match="cannot be"):
        create(tmp_path / "file", "a")
