"""The job queue inside one process keeps the contract of all job queues."""

import pytest

from app.adapters.dramatiq_queue import DramatiqQueue, local_broker
from tests.app.job_queue_contract import JobQueueContract, QueuePlace


class TestLocalQueue(JobQueueContract):
    @pytest.fixture
    def place(self) -> QueuePlace:
        broker = local_broker()
        return QueuePlace(DramatiqQueue(broker), broker)
