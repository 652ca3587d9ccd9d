"""Searches that are abandoned while SQLite runs them: they stop, and the searches of other tenants go on."""

import asyncio
import threading
from typing import Any

import pytest

from app.database import sqlite
from tests.app.conftest import StartGateway
from tests.support.gateway import STRANGER, until

pytestmark = pytest.mark.anyio

PAGE = """query ($project: ID!, $filter: ImageFilter) {
  images(projectId: $project, filter: $filter, first: 9) { nodes { name } totalCount } }"""
IMAGES = 500


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has SQLite take some milliseconds for each name that it compares; gives the names, as they come."""
    names: list[str] = []
    pause = threading.Event()
    prepare = sqlite._prepare

    def instr(name: str, _text: str) -> int:
        names.append(name)
        pause.wait(0.005)
        return 0

    def prepare_slowly(connection: Any, record: object) -> None:
        prepare(connection, record)
        connection.driver_connection._conn.create_function("instr", 2, instr)

    monkeypatch.setattr(sqlite, "_prepare", prepare_slowly)
    monkeypatch.setattr(sqlite, "_STEPS", 50)
    return names


async def test_abandoned_searches_stop_and_let_other_tenants_go_on(
    start_gateway: StartGateway, compared: list[str]
) -> None:
    async with start_gateway() as gateway:
        project = await gateway.project()
        await gateway.stock(project, *({"name": "a" * 255} for _ in range(IMAGES)))
        wanted = {"nameContains": "a" * 63 + "b"}
        searches = [asyncio.create_task(gateway.answer(PAGE, project=project, filter=wanted)) for _ in range(10)]

        async def one_has_begun() -> bool:
            return len(compared) > 20

        await until(one_has_begun)
        for search in searches:
            search.cancel()
        await asyncio.gather(*searches, return_exceptions=True)
        abandoned_at = len(compared)
        found = await gateway.ask(PAGE, STRANGER, project=gateway.beta, filter={"nameContains": "none"})

        assert found["images"] == {"nodes": [], "totalCount": 0}
        assert abandoned_at < IMAGES
        assert len(compared) == abandoned_at
