"""What tests of the gateway share: the event loop that they run in, databases, and gateways to talk to."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from app.catalog.bill import ledger
from app.database import sqlite
from app.database.sessions import Database
from tests.servers.minio import Minio
from tests.servers.postgresql import PostgreSQL
from tests.servers.versitygw import Versitygw
from tests.support.gateway import Gateway, empty_database, running_gateway
from tests.support.storing import Storing

StartGateway = Callable[..., AbstractAsyncContextManager[Gateway]]
# Makes a data folder and a new database without rows; gives the settings by which a gateway finds it.
NewDatabase = Callable[[Path], Mapping[str, str]]

S3Server = Minio | Versitygw

SQLITE, POSTGRESQL = "sqlite", "postgresql"
# These run over every kind of database; what the others test does not depend on it.
_OVER_ALL = ("api.", "catalog.", "feed.", "database.test_sessions", "web.test_health")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.removeprefix(f"{__package__}.")
    if "new_database" in metafunc.fixturenames and module.startswith(_OVER_ALL):
        metafunc.parametrize("new_database", [SQLITE, POSTGRESQL], indirect=True, scope="module")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop of `images up` and `images serve`."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module", params=["minio", "versitygw"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the S3 servers that the store is tested with; nobody kills it."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of SQLite without rows."""
    return empty_database(tmp_path_factory.mktemp("migrated"))


@pytest.fixture(scope="module")
def new_database(request: pytest.FixtureRequest) -> Iterator[NewDatabase]:
    """Makes databases of the kind that the test is run over. Here, commits to a file do not wait for the disk."""
    if getattr(request, "param", SQLITE) == SQLITE:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite, "PRAGMAS", (*sqlite.PRAGMAS, "synchronous=OFF"))
            yield partial(_new_file, request.getfixturevalue("migrated"))
    else:
        yield partial(new_on_server, request.getfixturevalue("postgresql"))


def _new_file(migrated: Path, folder: Path) -> Mapping[str, str]:
    folder.mkdir()
    shutil.copy(migrated, folder / "images.db")
    return {}


def new_on_server(server: PostgreSQL, folder: Path) -> Mapping[str, str]:
    """A data folder, and beside it a database on a server."""
    folder.mkdir()
    return {"database_url": server.new_database()}


@pytest.fixture(scope="module")
async def gateway(new_database: NewDatabase, module_folder: Path) -> AsyncIterator[Gateway]:
    """One for all tests of a module, since starting it takes longer than most of them: each makes its own images."""
    data = Path(tempfile.mkdtemp(dir=module_folder)) / "data"
    async with running_gateway(
        data, **new_database(data), custom_images_limit=10_000, anonymous_requests_per_minute=10**6
    ) as running:
        yield running


@pytest.fixture
def start_gateway(new_database: NewDatabase, tmp_path: Path) -> StartGateway:
    """Starts a gateway with settings of its own; started again, it finds what the one before left."""
    data = tmp_path / "data"
    return partial(running_gateway, data, **new_database(data))


@pytest.fixture
async def project(gateway: Gateway) -> str:
    """A new project, which ADMIN administers."""
    return await gateway.project()


@pytest.fixture
def storing(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Storing:
    """Stores, copies and deletes images at instants that a test chooses."""
    found = Storing(gateway)
    monkeypatch.setattr(ledger, "now", found.now)
    return found


@pytest.fixture
async def other(gateway: Gateway) -> AsyncIterator[Database]:
    """The database as another process has it open."""
    opened = Database(gateway.settings.database_address)
    yield opened
    await opened.close()
