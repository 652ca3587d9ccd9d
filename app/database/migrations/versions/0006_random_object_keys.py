"""Random keys for results: an upload names the object that it becomes, instead of deriving it from an id."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    # Null for uploads of the versions before, also of those processes that still run during an upgrade.
    op.add_column("upload", sa.Column("result_key", TEXT, nullable=True))


def downgrade() -> None:
    op.drop_column("upload", "result_key")
