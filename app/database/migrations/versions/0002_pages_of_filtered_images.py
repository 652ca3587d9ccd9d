"""Pages of filtered images: an index in each order for every status and type, and one for what names contain."""

from collections.abc import Sequence

import sqlalchemy as sa
import structlog
from alembic import op
from sqlalchemy.exc import DBAPIError

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

log = structlog.get_logger()

LIVE = sa.text("deleted_at IS NULL")
KEYS = {
    "image_of_kind_by_created_at": "created_at",
    "image_of_kind_by_name": "name_key",
    "image_of_kind_by_size": "size_key",
}
# SQLSTATE (PostgreSQL, appendix A) of a server that lacks the extension, or lets only a superuser create it:
# insufficient_privilege, feature_not_supported, undefined_file.
REFUSALS = ("42501", "0A000", "58P01")
BY_HAND = (
    "CREATE EXTENSION pg_trgm; CREATE INDEX CONCURRENTLY image_name_words ON image "
    "USING gin (name_key gin_trgm_ops) WHERE deleted_at IS NULL"
)


def upgrade() -> None:
    for name, key in KEYS.items():
        columns = ["project_id", "status", "type", key, "id"]
        op.create_index(name, "image", columns, sqlite_where=LIVE, postgresql_where=LIVE)
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    if not has_trigrams(connection):
        reason = "PostgreSQL does not offer pg_trgm, so names are searched without an index"
        log.warning("migration.without_trigrams", reason=reason, by_hand=BY_HAND)
        return
    op.create_index(
        "image_name_words",
        "image",
        ["name_key"],
        postgresql_using="gin",
        postgresql_ops={"name_key": "gin_trgm_ops"},
        postgresql_where=LIVE,
    )


def has_trigrams(connection: sa.Connection) -> bool:
    """Whether the extension pg_trgm can be used; creates it where that is allowed."""
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in REFUSALS:
            raise
    # It may exist in a schema that is not on the search path.
    query = "SELECT count(*) FROM pg_opclass WHERE opcname = 'gin_trgm_ops' AND pg_opclass_is_visible(oid)"
    return bool(connection.execute(sa.text(query)).scalar_one())


def downgrade() -> None:
    # The extension is kept: other programs may use it.
    op.drop_index("image_name_words", "image", if_exists=True)
    for name in KEYS:
        op.drop_index(name, "image")
