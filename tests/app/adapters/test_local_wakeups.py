"""Wake-ups inside one process keep the contract of all wake-ups."""

import pytest

from app.adapters.messaging.local_wakeups import LocalWakeups
from tests.support.wakeups_contract import WakeupsContract, WakeupsPlace


class TestLocalWakeups(WakeupsContract):
    @pytest.fixture
    def place(self) -> WakeupsPlace:
        wakeups = LocalWakeups()
        return WakeupsPlace(wakeups, [wakeups, wakeups])
