"""Shares of images, owners of organizations, the ledger of what is stored, turns of conversions."""

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from ulid import ULID

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.String(length=40).with_variant(sa.String(length=40, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
OPEN = sa.text("until IS NULL")

ENTRY = sa.table(
    "storage_entry",
    sa.column("id", ID),
    sa.column("project_id", ID),
    sa.column("image_id", ID),
    sa.column("blob_id", ID),
    sa.column("stored_size", sa.BigInteger()),
    sa.column("since", INSTANT),
)
STORED = sa.text(
    "SELECT project_id, id AS image_id, blob_id, stored_size FROM image "
    "WHERE blob_id IS NOT NULL AND deleted_at IS NULL ORDER BY id"
)


def upgrade() -> None:
    add_columns()
    add_tables()
    open_ledger()


def add_columns() -> None:
    op.add_column("project", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("project", sa.Column("snapshots_per_volume_limit", sa.Integer(), nullable=True))
    op.add_column("image", sa.Column("source_kind", TEXT, nullable=False, server_default="UPLOAD"))
    op.add_column("image", sa.Column("source_image_id", ID, nullable=True))
    op.add_column("image", sa.Column("source_name", TEXT, nullable=True))
    op.add_column("event", sa.Column("least_role", TEXT, nullable=False, server_default="READER"))


def add_tables() -> None:
    op.create_table(
        "organization_owner",
        sa.Column("organization_id", ID, nullable=False),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"]),
        sa.PrimaryKeyConstraint("organization_id", "subject"),
    )
    op.create_index("organization_owner_subject", "organization_owner", ["subject", "organization_id"])
    op.create_table(
        "image_share",
        sa.Column("id", ID, nullable=False),
        sa.Column("image_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("grant", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("shared_by", TEXT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("image_share_image", "image_share", ["image_id", "project_id"], unique=True)
    op.create_index("image_share_project", "image_share", ["project_id", "state", "image_id"])
    op.create_table(
        "storage_entry",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("image_id", ID, nullable=False),
        sa.Column("blob_id", ID, nullable=False),
        sa.Column("stored_size", sa.BigInteger(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("until", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("storage_entry_project", "storage_entry", ["project_id", "image_id", "since"])
    op.create_index(
        "storage_entry_open",
        "storage_entry",
        ["blob_id", "project_id"],
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
    op.create_table(
        "conversion_turn",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("served_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("project_id"),
    )


def open_ledger() -> None:
    """Stored bytes count from now on: it was not recorded since when they have been stored."""
    at = datetime.now(UTC)
    connection = op.get_bind()
    lines = [
        {**row._mapping, "id": f"ent_{str(ULID()).lower()}", "since": at} for row in connection.execute(STORED).all()
    ]
    if lines:
        connection.execute(sa.insert(ENTRY), lines)


def downgrade() -> None:
    for table in ("conversion_turn", "storage_entry", "image_share", "organization_owner"):
        op.drop_table(table)
    op.drop_column("event", "least_role")
    for column in ("source_name", "source_image_id", "source_kind"):
        op.drop_column("image", column)
    for column in ("snapshots_per_volume_limit", "revision"):
        op.drop_column("project", column)
