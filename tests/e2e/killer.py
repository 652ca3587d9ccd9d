"""A gateway that is killed and started again, and settings with which it soon does what a kill delayed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.client import Client
from tests.e2e.gateway import IMAGES, start
from tests.e2e.images import MiB

# Short enough that a test sees what otherwise takes its time: leases run out, sweeps come round.
IMPATIENT = {
    "IMAGES_LEASE_SECONDS": "2",
    "IMAGES_POLL_SECONDS": "0.2",
    "IMAGES_ORPHAN_SECONDS": "3",
    "IMAGES_MINIMUM_PART_SIZE": str(4 * MiB),
}


class Killer:
    """A gateway on a folder that is killed and started again, and a client of the one that runs now."""

    def __init__(self, data: Path, settings: Mapping[str, str], program: Sequence[str] = (IMAGES,)) -> None:
        self._settings = settings
        self._program = program
        self.gateway = start(data, settings, program=program)
        self.client = Client.of(self.gateway)

    @property
    def store(self) -> Path:
        return self.gateway.data / "store"

    def kill(self) -> None:
        self.gateway.kill()

    def start_again(self) -> None:
        self.client.close()
        self.gateway = start(self.gateway.data, self._settings, program=self._program)
        self.client = Client.of(self.gateway)

    def kill_and_start_again(self) -> None:
        self.kill()
        self.start_again()
