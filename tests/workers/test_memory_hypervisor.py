"""The hypervisor that tests use in memory behaves like a real one."""

from collections.abc import Iterator

import pytest

from tests.support.memory_hypervisor import MemoryHypervisor
from tests.workers.hypervisor_contract import Base, HypervisorContract, HypervisorPlace

pytestmark = pytest.mark.needs_program("qemu-img")


class MemoryPlace(HypervisorPlace):
    boot_line = b"is up"
    hypervisor: MemoryHypervisor

    def write(self, volume_id: str, offset: int, length: int, byte: int) -> None:
        self.hypervisor.write(volume_id, offset, bytes([byte]) * length)

    def crash(self, server_id: str) -> None:
        self.hypervisor.crash(server_id)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def place(base: Base) -> Iterator[MemoryPlace]:
    one = MemoryPlace(MemoryHypervisor(), base)
    yield one
    one.close()


class TestMemoryHypervisor(HypervisorContract):
    """It fulfils the contract."""
