"""The bells of hosts inside one process keep the contract of all bells."""

import asyncio

import pytest

from app.adapters.messaging.local_host_bells import LocalHostBells
from tests.support.host_bells_contract import BellsPlace, HostBellsContract, sleeping


class TestLocalHostBells(HostBellsContract):
    @pytest.fixture
    def place(self) -> BellsPlace:
        bells = LocalHostBells()
        return BellsPlace(bells, bells)


@pytest.mark.anyio
async def test_a_listener_whose_loop_has_ended_is_passed_over() -> None:
    bells, loop = LocalHostBells(), asyncio.new_event_loop()
    gone = bells.listen("hst_1")
    await asyncio.to_thread(loop.run_until_complete, anext(gone))
    loop.close()
    async with sleeping(bells, "hst_1") as sleeper:
        bells.ring("hst_1")
        await sleeper.until(2)
