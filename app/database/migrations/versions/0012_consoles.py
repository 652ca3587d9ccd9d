"""The ends of servers' consoles."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.String(length=40).with_variant(sa.String(length=40, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "server_console",
        sa.Column("server_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("requested_at", INSTANT, nullable=False),
        sa.Column("text", TEXT, nullable=True),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("read_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["server_id"], ["server.id"]),
        sa.PrimaryKeyConstraint("server_id"),
    )


def downgrade() -> None:
    op.drop_table("server_console")
