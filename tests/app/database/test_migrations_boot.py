"""The migration to boot readiness, on a database that the version before has filled."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlmodel import select

from app.catalog import findings
from app.database.migrations import migrate
from app.database.sessions import Database
from app.lifecycle import JobKind, ServerFirmware
from app.models import Blob, Image, Job, Server
from app.sizes import GIB, MIB
from tests.app.database.test_migrations import address, scripts, within
from tests.servers.postgresql import PostgreSQL

pytestmark = pytest.mark.anyio

BEFORE = "0009"
AT = datetime(2026, 1, 31, 6, tzinfo=UTC)
ORGANIZATION, PROJECT, IMAGE, BLOB, HOST, SERVER = (
    f"{prefix}_{'1' * 26}" for prefix in ("org", "prj", "img", "blb", "hst", "srv")
)


def fill(connection: sa.Connection) -> None:
    """What a gateway of the version before has left."""
    tables = sa.MetaData()
    tables.reflect(connection)

    def add(table: str, **line: Any) -> None:
        connection.execute(tables.tables[table].insert(), line)

    add("organization", id=ORGANIZATION, name="old", created_at=AT)
    add("project", id=PROJECT, organization_id=ORGANIZATION, name="one", created_at=AT, revision=1)
    add(
        "blob", id=BLOB, key="blobs/one.qcow2", virtual_size=GIB, stored_size=MIB, file_size=MIB, sha256="0" * 64,
        created_at=AT,
    )  # fmt: skip
    add(
        "image", id=IMAGE, project_id=PROJECT, revision=4, type="CUSTOM", status="ACTIVE", visibility="PROJECT",
        name="disk", name_key="disk", labels=[], protected=False, created_by="ada", created_at=AT, updated_at=AT,
        size_key=GIB, virtual_size=GIB, stored_size=MIB, reserved_size=0, blob_id=BLOB, source_kind="UPLOAD",
        source_file_name="disk.raw", source_size=MIB, source_declared_format="RAW", warnings=[],
    )  # fmt: skip
    add(
        "host", id=HOST, token="t", name="h", accelerator="tcg", memory=GIB, vcpus=1, takes_launches=True,
        seen_at=AT, created_at=AT,
    )  # fmt: skip
    add(
        "server", id=SERVER, project_id=PROJECT, revision=1, name="web", status="RUNNING", goal="RUNNING",
        image_id=IMAGE, vcpus=1, memory=GIB, host_id=HOST, instance_id="ins_1", ssh_keys=[], created_by="ada",
        created_at=AT, updated_at=AT,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_old_servers_boot_as_before_and_old_images_get_checked(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'images.db'}"
    if kind == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        url = address(server.new_database(migrated=False))

    def upgrade() -> None:
        config = Config()
        config.set_main_option("script_location", scripts().dir)
        config.attributes["url"] = url
        command.upgrade(config, BEFORE)
        within(url, fill)
        migrate(url)

    await anyio.to_thread.run_sync(upgrade)
    database = Database(url)
    try:
        await findings.check_some(database)
        async with database.read() as session:
            assert (await session.get_one(Server, SERVER)).firmware is ServerFirmware.BIOS
            assert not (await session.get_one(Image, IMAGE)).verify_boot
            blob = await session.get_one(Blob, BLOB)
            assert (blob.readiness, blob.boot_check) == (None, None)
            (job,) = (await session.execute(select(Job))).scalars()
            assert (job.kind, job.detail, job.image_id) == (JobKind.CHECK_READINESS, {"blob": BLOB}, None)
    finally:
        await database.close()
