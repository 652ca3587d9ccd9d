"""A gateway that all tests of one module share; those that stop or kill one start their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway, running


@pytest.fixture(scope="module")
def disks(module_folder: Path) -> Path:
    """Where the tests of one module share the raw disks that their images are made of."""
    folder = module_folder / "disks"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def running_gateway(module_folder: Path) -> Iterator[Gateway]:
    """A gateway on a folder of its own, with the defaults; at the end SIGTERM has to end it with exit code 0."""
    with running(module_folder / "data") as gateway:
        yield gateway
