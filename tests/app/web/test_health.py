"""What a load balancer is told: that the process lives, and whether it can do its work."""

import asyncio
import shutil

import httpx
import pytest
from sqlalchemy import text
from starlette.applications import Starlette

from app.adapters.messaging.redis_queue import PatientBroker, RedisQueue
from app.web import health
from app.web.health import health_routes
from tests.app.conftest import StartGateway
from tests.servers.process import free_port
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


async def test_a_process_that_serves_lives(gateway: Gateway) -> None:
    response = await gateway.client.get("/healthz")
    assert (response.status_code, response.text) == (200, "ok\n")


async def test_a_gateway_is_ready_when_database_store_and_broker_work(gateway: Gateway) -> None:
    response = await gateway.client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"ready": True, "checks": {"database": "ok", "store": "ok", "broker": "ok"}}


async def test_without_its_folder_the_store_is_not_ready_and_says_so(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        shutil.rmtree(gateway.settings.objects_path)
        response = await gateway.client.get("/readyz")

    assert response.status_code == 503
    checks = response.json()["checks"]
    assert (checks["database"], checks["broker"]) == ("ok", "ok")
    assert checks["store"].startswith("the folder of the object store can't be used")
    assert str(gateway.settings.data) not in response.text


async def test_a_database_without_its_tables_is_not_ready_and_says_what_to_do(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        async with gateway.database.transaction() as tx:
            await tx.session.execute(text("ALTER TABLE event RENAME TO gone"))
        response = await gateway.client.get("/readyz")
        alive = await gateway.client.get("/healthz")

    assert response.status_code == 503
    assert "images migrate" in response.json()["checks"]["database"]
    assert alive.status_code == 200


async def test_a_gateway_without_its_broker_answers_and_says_what_it_lacks() -> None:
    queue = RedisQueue(PatientBroker(f"redis://:geheim@127.0.0.1:{free_port()}/0"))
    app = Starlette(routes=health_routes({"store": _works}, {"broker": queue.check}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        response = await client.get("/readyz")
    queue.close()

    assert response.status_code == 200
    reason = "degraded: Redis can't be reached: Connection refused"
    assert response.json() == {"ready": True, "checks": {"store": "ok", "broker": reason}}


async def test_a_check_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE_SECONDS", 0.05)
    app = Starlette(routes=health_routes({"store": _hangs, "database": _works}, {"broker": _hangs}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        response = await client.get("/readyz")

    assert response.status_code == 503
    late = "no answer in time"
    assert response.json()["checks"] == {"store": late, "database": "ok", "broker": f"degraded: {late}"}


async def _works() -> None:
    """A check of what works."""


async def _hangs() -> None:
    await asyncio.Event().wait()


async def test_a_browser_at_the_root_finds_graphiql(gateway: Gateway) -> None:
    response = await gateway.client.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "/graphql")
