"""Hosts, servers and volumes; jobs of hosts; and idempotency keys of what is not an image."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.String(length=40).with_variant(sa.String(length=40, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
LIVE = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    create_hosts()
    create_servers()
    create_volumes()
    for name, kind in (("servers_limit", sa.Integer()), ("volumes_limit", sa.Integer())):
        op.add_column("project", sa.Column(name, kind, nullable=True))
    op.add_column("project", sa.Column("volume_storage_limit", sa.BigInteger(), nullable=True))
    op.add_column("image", sa.Column("last_launched_at", INSTANT, nullable=True))
    op.add_column("job", sa.Column("host_id", ID, nullable=True))
    op.create_index("job_of_host", "job", ["host_id", "state", "due_at"])
    name_what_keys_created()


def create_hosts() -> None:
    op.create_table(
        "host",
        sa.Column("id", ID, nullable=False),
        sa.Column("token", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("accelerator", TEXT, nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("takes_launches", sa.Boolean(), nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token"),
    )


def create_servers() -> None:
    op.create_table(
        "server",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("goal", TEXT, nullable=False),
        sa.Column("image_id", ID, nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("host_id", ID, nullable=False),
        sa.Column("instance_id", ID, nullable=False),
        sa.Column("ssh_keys", sa.JSON(), nullable=False),
        sa.Column("user_data", TEXT, nullable=True),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("failure_code", TEXT, nullable=True),
        sa.Column("failure_message", TEXT, nullable=True),
        sa.Column("failure_hint", TEXT, nullable=True),
        sa.Column("failed_at", INSTANT, nullable=True),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("deleted_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["host_id"], ["host.id"]),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    for name, column in (("server_project", "project_id"), ("server_image", "image_id")):
        op.create_index(name, "server", [column, "id"], sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("server_host", "server", ["host_id", "status"])


def create_volumes() -> None:
    op.create_table(
        "volume",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("bootable", sa.Boolean(), nullable=False),
        sa.Column("image_id", ID, nullable=True),
        sa.Column("base_id", ID, nullable=True),
        sa.Column("server_id", ID, nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("host_id", ID, nullable=True),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("deleted_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["base_id"], ["blob.id"]),
        sa.ForeignKeyConstraint(["host_id"], ["host.id"]),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.ForeignKeyConstraint(["server_id"], ["server.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("volume_project", "volume", ["project_id", "id"], sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("volume_server", "volume", ["server_id", "position"])
    op.create_index("volume_base", "volume", ["base_id"])


def name_what_keys_created() -> None:
    """Idempotency keys name any object by its id, where they named an image."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("idempotency_key_image_id_fkey", "idempotency_key", type_="foreignkey")
        op.alter_column("idempotency_key", "image_id", new_column_name="created_id")
        return
    # SQLite can't drop a foreign key.
    op.create_table(
        "idempotency_key_changed",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("fingerprint", TEXT, nullable=False),
        sa.Column("created_id", ID, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("project_id", "key"),
    )
    op.execute(
        "INSERT INTO idempotency_key_changed (project_id, key, fingerprint, created_id, created_at) "
        "SELECT project_id, key, fingerprint, image_id, created_at FROM idempotency_key"
    )
    op.drop_table("idempotency_key")
    op.rename_table("idempotency_key_changed", "idempotency_key")


def downgrade() -> None:
    raise NotImplementedError("the version before knows no servers: restore a backup instead")
