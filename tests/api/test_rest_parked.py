"""What a person decides about a parked job, over HTTP and from the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from acme import Acme, AcmeTwin, Wire, make
from aiohttp import web as aiohttp_web

from rushes.api.app import serve
from rushes.client import Client
from rushes.eventstore.base import StoreUnavailable, Stream
from rushes.eventstore.memory import MemoryStore
from rushes.faults import BadRequest, CommandRejected, Conflict, ServerTrouble
from rushes.studio import Studio
from rushes.video import VideoRequest


class FragileStore(MemoryStore):
    """Looks nothing up while there is trouble."""

    trouble: Exception | None = None

    async def find(self, name: str) -> Stream | None:
        if self.trouble is not None:
            raise self.trouble
        return await super().find(name)


class Shop:
    """A studio over a provider that tells nothing about lost answers, behind a real server."""

    def __init__(self, studio: Studio, store: FragileStore, wire: Wire, url: str) -> None:
        self.studio, self.store, self.wire, self.url = studio, store, wire, url

    async def parked(self) -> str:
        """A job that the provider took (as r0, r1 …), and whose answer was lost."""
        self.wire.lose = 1
        job = await self.studio.generate("a lake")
        async with aclosing(job.updates()) as views:
            async for view in views:
                if view.phase == "parked":
                    break
        return job.id

    async def ended(self, job: str) -> Any:
        await self.studio.job(job).result(timeout_s=5)
        return await self.studio.show(job)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    wire, store = Wire(AcmeTwin()), FragileStore()
    system, studio = make(store, tmp_path, wire, Acme(doubt="E"))
    await system.start()
    server = await serve(studio, "127.0.0.1:0")
    yield Shop(studio, store, wire, server.url)
    await server.close()
    await system.stop(grace_s=2.0)


async def post(shop: Shop, path: str, status: int, body: str = "", key: str = "") -> Any:
    """The answer's body, once its status is what it should be."""
    headers = {"Idempotency-Key": key} if key else {}
    async with aiohttp.ClientSession() as web, web.post(f"{shop.url}{path}", data=body, headers=headers) as reply:
        assert reply.status == status, await reply.text()
        assert reply.content_type == ("application/problem+json" if status >= 400 else "application/json")
        answer = await reply.json(content_type=None)
        assert answer["billed"] in {"yes", "no", "unknown"}
        if status == 202:
            assert reply.headers["Location"] == f"/v1/jobs/{answer['id']}"
            answer["replayed"] = reply.headers.get("Idempotent-Replayed")
        return answer


async def test_collect_by_the_providers_id(shop: Shop) -> None:
    job = await shop.parked()
    problem = await post(shop, f"/v1/jobs/{job}/collect", 409)
    assert (problem["code"], problem["field"], problem["billed"]) == ("command_rejected", "handle", "unknown")
    assert problem["job_id"] == job
    problem = await post(shop, f"/v1/jobs/{job}/collect", 400, '{"handle": "../r0"}')
    assert (problem["field"], problem["errors"][0]["field"]) == ("handle", "handle")
    assert (await post(shop, f"/v1/jobs/{job}/collect", 200, '{"handle": "r0"}'))["phase"] == "running"
    assert (await shop.ended(job)).billed == "yes"
    assert len((await post(shop, f"/v1/jobs/{job}/collect", 200))["takes"]) == 1
    assert len(shop.wire.twin.renders) == 1


async def test_resubmit_only_with_its_cost_accepted(shop: Shop) -> None:
    job = await shop.parked()
    for body in ("", "{}", '{"accept_cost": false}'):
        problem = await post(shop, f"/v1/jobs/{job}/resubmit", 409, body)
        assert (problem["field"], problem["billed"]) == ("accept_cost", "unknown")
        assert "paid twice" in problem["detail"]
    assert len(shop.wire.twin.renders) == 1
    assert (await post(shop, f"/v1/jobs/{job}/resubmit", 200, '{"accept_cost": true}'))["attempt"] == 2
    await shop.ended(job)
    assert len(shop.wire.twin.renders) == 2


async def test_give_up_and_retry(shop: Shop) -> None:
    job = await shop.parked()
    problem = await post(shop, f"/v1/jobs/{job}/retry", 409)
    assert (problem["code"], problem["billed"], problem["job_id"]) == ("command_rejected", "unknown", job)
    view = await post(shop, f"/v1/jobs/{job}/give-up", 200)
    assert (view["status"], view["billed"], view["error"]["code"]) == ("failed", "unknown", "no_answer")
    again = await post(shop, f"/v1/jobs/{job}/retry", 202, key="k")
    assert (again["parent"], again["replayed"]) == (job, None)
    same = await post(shop, f"/v1/jobs/{job}/retry", 202, key="k")
    assert (same["id"], same["replayed"]) == (again["id"], "true")
    problem = await post(shop, f"/v1/jobs/{again['id']}/retry", 409)
    assert "has not ended" in problem["detail"]
    await shop.ended(again["id"])
    problem = await post(shop, f"/v1/jobs/{again['id']}/retry", 409, key="k")
    assert (problem["code"], problem["idempotency_key"], problem["billed"]) == ("conflict", "k", "yes")


@pytest.mark.parametrize("verb", ["collect", "resubmit", "give-up", "retry"])
async def test_a_verb_refuses_what_it_does_not_know(shop: Shop, verb: str) -> None:
    job = await shop.parked()
    for body in ('{"force": true}', "[]", "{"):
        assert (await post(shop, f"/v1/jobs/{job}/{verb}", 400, body))["code"] == "invalid_input"
    assert (await post(shop, f"/v1/jobs/{job}/{verb}?force=1", 400))["field"] == "force"
    assert (await post(shop, f"/v1/jobs/job_none/{verb}", 404))["job_id"] == "job_none"
    assert (await shop.studio.show(job)).phase == "parked"


@pytest.mark.parametrize(("trouble", "status"), [(StoreUnavailable("The disk is gone."), 503), (OSError("odd"), 500)])
async def test_what_broke_under_a_post_may_have_cost_something(shop: Shop, trouble: Exception, status: int) -> None:
    shop.store.trouble = trouble
    assert (await post(shop, "/v1/jobs/job_a/resubmit", status, '{"accept_cost": true}'))["billed"] == "unknown"
    async with aiohttp.ClientSession() as web, web.get(f"{shop.url}/v1/jobs/job_a") as reply:
        assert (reply.status, (await reply.json(content_type=None))["billed"]) == (status, "no")


async def test_the_client_has_the_same_verbs(shop: Shop) -> None:
    job = await shop.parked()
    async with Client(shop.url) as client:
        with pytest.raises(CommandRejected) as refused:
            await client.resubmit(job)
        assert (refused.value.field, refused.value.billed) == ("accept_cost", "unknown")
        with pytest.raises(BadRequest) as odd:
            await client.collect(job, handle="a b")
        assert odd.value.field == "handle"
        assert (await client.collect(job, handle="r0")).phase == "running"
        await shop.ended(job)
        assert (await client.collect(job)).status == "succeeded"
        other = await shop.parked()
        assert (await client.give_up(other)).status == "failed"
        again, replayed = await client.retry(other, "k")
        assert (again.parent, replayed) == (other, False)
        assert (await client.retry(other, "k"))[1]
        with pytest.raises(Conflict):
            await client.submit(VideoRequest(prompt="a hill"), "k")
        await shop.ended(again.id)
        third = await shop.parked()
        assert (await client.resubmit(third, accept_cost=True)).attempt == 2
        await shop.ended(third)


async def test_a_lost_answer_says_unknown_where_something_may_have_been_sent() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    silent = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with Client(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}") as client:
        for asked, billed in (
            (client.retry("job_a", "k"), "unknown"),
            (client.resubmit("job_a", accept_cost=True), "unknown"),
            (client.collect("job_a"), "no"),
            (client.give_up("job_a"), "no"),
        ):
            with pytest.raises(ServerTrouble) as lost:
                await asked
            assert lost.value.billed == billed
    silent.close()
    await silent.wait_closed()


async def test_a_gateways_page_in_place_of_an_answer_says_unknown_too() -> None:
    async def page(_: aiohttp_web.Request) -> aiohttp_web.Response:
        return aiohttp_web.Response(text="<html>", status=502)

    app = aiohttp_web.Application()
    app.router.add_route("*", "/{any:.*}", page)
    runner = aiohttp_web.AppRunner(app)
    await runner.setup()
    await aiohttp_web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Client(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        with pytest.raises(ServerTrouble) as lost:
            await client.submit(VideoRequest(prompt="a lake"), "k")
        assert (lost.value.billed, lost.value.idempotency_key) == ("unknown", "k")
        with pytest.raises(ServerTrouble) as harmless:
            await client.show("job_a")
        assert harmless.value.billed == "no"
    await runner.cleanup()
