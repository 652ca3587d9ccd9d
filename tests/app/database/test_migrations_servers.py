"""The migration to servers and volumes, on a database that the version before has filled."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from app.catalog.new_images import NewUpload
from app.database.migrations import migrate
from app.lifecycle import JobState, ProjectRole
from app.models import IdempotencyKey, Job, Project
from app.sizes import GIB, MIB
from tests.app.database.test_migrations import address, scripts, within
from tests.servers.postgresql import PostgreSQL
from tests.support.gateway import ADMIN, Gateway, claimed, running_gateway
from tests.support.serving_servers import add_host, image, launch, server_row
from tests.support.sharing import act

pytestmark = pytest.mark.anyio

BEFORE = "0008"
AT = datetime(2026, 1, 31, 6, tzinfo=UTC)
ORGANIZATION, PROJECT, IMAGE, BLOB = (f"{prefix}_{'1' * 26}" for prefix in ("org", "prj", "img", "blb"))
JOB = f"job_{'1' * 26}"
REQUEST = NewUpload(project_id=PROJECT, name="disk", file_name="disk.raw", size=MIB, idempotency_key="once")


@dataclass(frozen=True)
class Place:
    """A data folder and its database."""

    data: Path
    url: str
    settings: Mapping[str, str]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    data = tmp_path / "data"
    data.mkdir()
    if request.param == "sqlite":
        return Place(data, f"sqlite+aiosqlite:///{data / 'images.db'}", {})
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.new_database(migrated=False)
    return Place(data, address(url), {"database_url": url})


def fill(connection: sa.Connection) -> None:
    """What a gateway of the version before has left."""
    tables = sa.MetaData()
    tables.reflect(connection)

    def add(table: str, **line: Any) -> None:
        connection.execute(tables.tables[table].insert(), line)

    add("organization", id=ORGANIZATION, name="old", created_at=AT)
    add(
        "project", id=PROJECT, organization_id=ORGANIZATION, name="one", created_at=AT, revision=3,
        custom_images_limit=7,
    )  # fmt: skip
    add("membership", project_id=PROJECT, subject=ADMIN, role=ProjectRole.ADMIN, created_at=AT)
    add(
        "blob", id=BLOB, key="blobs/one.qcow2", virtual_size=GIB, stored_size=MIB, file_size=MIB, sha256="0" * 64,
        created_at=AT,
    )  # fmt: skip
    add(
        "image", id=IMAGE, project_id=PROJECT, revision=4, type="CUSTOM", status="ACTIVE", visibility="PROJECT",
        name="disk", name_key="disk", labels=[], protected=False, created_by=ADMIN, created_at=AT, updated_at=AT,
        size_key=GIB, virtual_size=GIB, stored_size=MIB, reserved_size=0, blob_id=BLOB, source_kind="UPLOAD",
        source_file_name="disk.raw", source_size=MIB, source_declared_format="RAW", warnings=[],
    )  # fmt: skip
    add(
        "job", id=JOB, kind="HASH", state="WAITING", image_id=IMAGE, detail={"blob": BLOB}, attempts=1, token=2,
        due_at=AT, created_at=AT,
    )  # fmt: skip
    add(
        "idempotency_key", project_id=PROJECT, key="once", fingerprint=REQUEST.fingerprint(), image_id=IMAGE,
        created_at=AT,
    )  # fmt: skip


@pytest.fixture
async def upgraded(place: Place) -> AsyncIterator[Gateway]:
    """A gateway of this version on the database of the version before."""

    def upgrade() -> None:
        config = Config()
        config.set_main_option("script_location", scripts().dir)
        config.attributes["url"] = place.url
        command.upgrade(config, BEFORE)
        within(place.url, fill)
        migrate(place.url)

    await anyio.to_thread.run_sync(upgrade)
    async with running_gateway(place.data, **place.settings) as gateway:
        yield gateway


async def test_rows_keep_what_they_said(upgraded: Gateway) -> None:
    async with upgraded.database.read() as session:
        project, job = await session.get_one(Project, PROJECT), await session.get_one(Job, JOB)
    assert (project.custom_images_limit, project.revision) == (7, 3)
    assert (project.servers_limit, project.volumes_limit, project.volume_storage_limit) == (None, None, None)
    assert (job.host_id, job.detail, job.token, job.state) == (None, {"blob": BLOB}, 2, JobState.WAITING)
    assert (await upgraded.image(IMAGE)).last_launched_at is None
    assert await claimed(upgraded.database, JOB) is not None


async def test_idempotency_keys_still_return_their_images(upgraded: Gateway) -> None:
    async with upgraded.database.read() as session:
        known = await session.get_one(IdempotencyKey, (PROJECT, "once"))
    assert (known.created_id, known.created_at) == (IMAGE, AT)
    wish = upgraded.creation(projectId=PROJECT, idempotencyKey="once")
    payload = await act(upgraded, "createImage", give="image { id }", **wish)
    assert (payload["userErrors"], payload["image"]) == ([], {"id": IMAGE})


async def test_an_image_of_the_version_before_is_launched(upgraded: Gateway) -> None:
    host = await add_host(upgraded)
    server = await launch(upgraded, PROJECT, IMAGE)
    assert (await server_row(upgraded, server["id"])).host_id == host
    other = await image(upgraded, PROJECT)
    assert (await launch(upgraded, PROJECT, other["id"]))["image"] == {"id": other["id"]}
