"""What a load balancer is told: that the process lives, and whether it can do its work."""

import shutil

import pytest
from sqlalchemy import text

from tests.app.conftest import StartGateway
from tests.app.gateway import Gateway

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


async def test_a_browser_at_the_root_finds_graphiql(gateway: Gateway) -> None:
    response = await gateway.client.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "/graphql")
