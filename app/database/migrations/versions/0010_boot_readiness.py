"""What is found out about the bytes of an image: whether they are ready to boot, and whether they did."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
UNCHECKED = sa.text("readiness IS NULL")


def upgrade() -> None:
    op.add_column("blob", sa.Column("readiness", sa.JSON(), nullable=True))
    op.add_column("blob", sa.Column("boot_check", sa.JSON(), nullable=True))
    op.create_index("blob_unchecked", "blob", ["id"], sqlite_where=UNCHECKED, postgresql_where=UNCHECKED)
    op.add_column("image", sa.Column("verify_boot", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("server", sa.Column("firmware", TEXT, nullable=False, server_default="BIOS"))


def downgrade() -> None:
    op.drop_column("server", "firmware")
    op.drop_column("image", "verify_boot")
    op.drop_index("blob_unchecked", "blob")
    op.drop_column("blob", "boot_check")
    op.drop_column("blob", "readiness")
