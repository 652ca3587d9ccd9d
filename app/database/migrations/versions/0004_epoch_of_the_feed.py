"""The feed's epoch, and the key of its cursors."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    table = op.create_table(
        "feed_epoch",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("epoch", TEXT, nullable=False),
        sa.Column("place", TEXT, nullable=True),
        sa.Column("renewed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    row = {"id": 1, "key": secrets.token_hex(32), "epoch": secrets.token_hex(8), "renewed_at": datetime.now(UTC)}
    op.bulk_insert(table, [row])


def downgrade() -> None:
    op.drop_table("feed_epoch")
