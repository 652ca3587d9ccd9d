"""A gateway that all tests of one module share; those that stop or kill one start their own."""

from collections.abc import Iterator

import pytest

from tests.e2e.gateway import Gateway, running


@pytest.fixture(scope="module")
def running_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on a folder of its own, with the defaults; at the end SIGTERM has to end it with exit code 0."""
    with running(tmp_path_factory.mktemp("gateway") / "data") as gateway:
        yield gateway
