"""Captures of volumes, and what images say of the volume, server or snapshot that they were made from."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.String(length=40).with_variant(sa.String(length=40, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("image", sa.Column("source_server_id", ID, nullable=True))
    op.add_column("image", sa.Column("volume_id", ID, nullable=True))
    op.add_column("image", sa.Column("captured_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("image", sa.Column("quiet", sa.Boolean(), nullable=True))
    for name, column in (("image_source_image", "source_image_id"), ("image_volume", "volume_id")):
        named = sa.text(f"deleted_at IS NULL AND {column} IS NOT NULL")
        op.create_index(name, "image", [column, "id"], sqlite_where=named, postgresql_where=named)
    op.create_table(
        "capture",
        sa.Column("image_id", ID, nullable=False),
        sa.Column("volume_id", ID, nullable=False),
        sa.Column("host_id", ID, nullable=False),
        sa.Column("base_id", ID, nullable=True),
        sa.Column("result_id", ID, nullable=False),
        sa.Column("result_key", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["blob.id"]),
        sa.ForeignKeyConstraint(["host_id"], ["host.id"]),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.ForeignKeyConstraint(["volume_id"], ["volume.id"]),
        sa.PrimaryKeyConstraint("image_id"),
        sa.UniqueConstraint("volume_id"),
        sa.UniqueConstraint("result_key"),
    )


def downgrade() -> None:
    raise NotImplementedError("the version before knows no snapshots: restore a backup instead")
