"""Events name a subject, not an image: they may be about servers and volumes, too.

Events keep their positions, and the table stays the same one, so cursors from before continue to work.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # In both dialects, this changes neither a row nor what the index contains.
    op.execute("ALTER TABLE event RENAME COLUMN image_id TO subject_id")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX event_image RENAME TO event_subject")
        return
    # SQLite can't rename an index.
    op.drop_index("event_image", "event")
    op.create_index("event_subject", "event", ["subject_id", "feed", "seq"])


def downgrade() -> None:
    raise NotImplementedError("the version before knows no events of servers: restore a backup instead")
