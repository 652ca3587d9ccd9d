"""What tests of the gateway share: the event loop that they run in, and gateways to talk to."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.app.gateway import Gateway, empty_database, running_gateway

StartGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without rows."""
    return empty_database(tmp_path_factory.mktemp("migrated"))


@pytest.fixture(scope="module")
async def gateway(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One for all tests of a module, since starting it takes longer than most of them: each makes its own images."""
    async with running_gateway(migrated, tmp_path_factory.mktemp("gateway"), custom_images_limit=10_000) as running:
        yield running


@pytest.fixture
def start_gateway(migrated: Path, tmp_path: Path) -> StartGateway:
    """Starts a gateway with settings of its own; started again, it finds what the one before left."""
    return partial(running_gateway, migrated, tmp_path)
