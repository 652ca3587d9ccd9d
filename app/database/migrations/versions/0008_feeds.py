"""Events name a feed, not a project: that of a project, which has its id as its name, or the public one.

Events keep their positions, and on PostgreSQL the table stays the same one: cursors of before go on working.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.String(length=40).with_variant(sa.String(length=40, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
COLUMNS = "seq, occurred_at, kind, {feed}, image_id, least_role, actor, detail"


def upgrade() -> None:
    for index in ("event_image", "event_project"):
        op.drop_index(index, "event")
    if op.get_bind().dialect.name == "sqlite":
        replace_table()
    else:
        op.drop_constraint("event_project_id_fkey", "event", type_="foreignkey")
        op.alter_column("event", "project_id", new_column_name="feed")
        op.alter_column("event", "least_role", server_default=None)
    op.create_index("event_feed", "event", ["feed", "seq"])
    op.create_index("event_image", "event", ["image_id", "feed", "seq"])


def replace_table() -> None:
    """SQLite can't drop a foreign key. The new table goes on counting from the newest event, which is never pruned."""
    op.create_table(
        "event_of_feed",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("feed", ID, nullable=False),
        sa.Column("image_id", ID, nullable=False),
        sa.Column("least_role", TEXT, nullable=False),
        sa.Column("actor", TEXT, nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    into, of = COLUMNS.format(feed="feed"), COLUMNS.format(feed="project_id")
    op.execute(f"INSERT INTO event_of_feed ({into}) SELECT {of} FROM event ORDER BY seq")  # noqa: S608
    op.drop_table("event")
    op.rename_table("event_of_feed", "event")


def downgrade() -> None:
    raise NotImplementedError("events of the public feed belong to no project: restore a backup instead")
