"""The job queue inside one process keeps the contract of all job queues."""

import pytest

from app.adapters.messaging.dramatiq_queue import DramatiqQueue, local_broker
from tests.support.job_queue_contract import JobQueueContract, QueuePlace


class TestLocalQueue(JobQueueContract):
    @pytest.fixture
    def place(self) -> QueuePlace:
        broker = local_broker()
        return QueuePlace(DramatiqQueue(broker), broker)
