"""Sources: a separate table for what images are converted from; an upload is one kind of source.

Jobs name the source. Finished jobs are not changed, except ranges: an image whose conversion is split reads what its
finished ranges stored.
"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.String(length=40).with_variant(sa.String(length=40, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)

JOB = sa.table(
    "job", sa.column("id", ID), sa.column("kind", TEXT), sa.column("state", TEXT), sa.column("detail", sa.JSON())
)
WRITE_DETAIL = (
    JOB.update().where(JOB.c.id == sa.bindparam("job")).values(detail=sa.bindparam("changed", type_=sa.JSON()))
)
READ_AT_ONCE = 1000

# A source takes the unique part of the id of its upload.
FILL_SOURCES = """
INSERT INTO source (id, image_id, kind, key, size, declared_format, declared_sha256, kept, result_id, result_key,
    created_at)
SELECT 'src_' || substr(upload.id, 5), image_id, 'UPLOAD', key, size, format, image.source_sha256, source_kept,
    result_id, result_key, upload.created_at
FROM upload JOIN image ON image.id = upload.image_id
"""
UPLOADS_SINCE = """
INSERT INTO upload_changed (id, image_id, source_id, state, reference, part_size, created_at, expires_at)
SELECT id, image_id, 'src_' || substr(id, 5), state, reference, part_size, created_at, expires_at FROM upload
"""
UPLOADS_BEFORE = """
INSERT INTO upload_changed (id, image_id, state, key, reference, size, part_size, format, source_kept, result_id,
    result_key, created_at, expires_at)
SELECT upload.id, upload.image_id, state, key, reference, size, part_size, declared_format, kept, result_id,
    result_key, upload.created_at, expires_at
FROM upload JOIN source ON source.id = upload.source_id
"""


def upgrade() -> None:
    op.create_table(
        "source",
        sa.Column("id", ID, nullable=False),
        sa.Column("image_id", ID, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("declared_format", TEXT, nullable=False),
        sa.Column("declared_sha256", TEXT, nullable=True),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("result_id", ID, nullable=False),
        sa.Column("result_key", TEXT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("source_image", "source", ["image_id"])
    op.execute(FILL_SOURCES)
    replace_uploads(
        UPLOADS_SINCE,
        sa.Column("source_id", ID, sa.ForeignKey("source.id"), nullable=False, unique=True),
    )
    change_jobs(source_of_upload)
    let_file_be_absent()
    # Workers ask for the job of a kind that has waited longest.
    op.create_index("job_of_kind", "job", ["kind", "state", "due_at"])


def replace_uploads(fill: str, *columns: sa.Column[Any]) -> None:
    """Recreate the table of uploads, since SQLite can't drop a unique column. No other table refers to it."""
    op.create_table(
        "upload_changed",
        sa.Column("id", ID, nullable=False),
        sa.Column("image_id", ID, nullable=False),
        *columns,
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reference", TEXT, nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute(fill)
    op.drop_table("upload")
    op.rename_table("upload_changed", "upload")
    op.create_index("upload_image", "upload", ["image_id"])
    op.create_index("upload_expiry", "upload", ["state", "expires_at"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(RENAME_CONSTRAINTS)


# PostgreSQL keeps the names that it made for constraints of the table's former name.
RENAME_CONSTRAINTS = """
DO $$ DECLARE found record; BEGIN
FOR found IN SELECT conname FROM pg_constraint WHERE conrelid = 'upload'::regclass LOOP
    IF found.conname LIKE 'upload_changed%' THEN
        EXECUTE format('ALTER TABLE upload RENAME CONSTRAINT %I TO %I', found.conname,
            replace(found.conname, 'upload_changed', 'upload'));
    END IF;
END LOOP; END $$
"""


def change_jobs(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write the details of jobs as `change` has them, where anybody still reads these."""
    connection = op.get_bind()
    read = sa.or_(JOB.c.state != "DONE", JOB.c.kind == "STREAM_RANGE")
    after = ""
    while found := connection.execute(
        sa.select(JOB.c.id, JOB.c.detail).where(read, JOB.c.id > after).order_by(JOB.c.id).limit(READ_AT_ONCE)
    ).all():
        after = found[-1].id
        connection.execute(WRITE_DETAIL, [{"job": job.id, "changed": change(dict(job.detail))} for job in found])


def source_of_upload(detail: dict[str, Any]) -> dict[str, Any]:
    """The detail of a job, which named uploads, with their sources."""
    if "upload" in detail:
        detail["source"] = f"src_{detail.pop('upload')[4:]}"
    if "uploads" in detail:
        detail["sources"] = [f"src_{upload[4:]}" for upload in detail.pop("uploads")]
    return detail


def upload_of_source(detail: dict[str, Any]) -> dict[str, Any]:
    if "source" in detail:
        detail["upload"] = f"upl_{detail.pop('source')[4:]}"
    if "sources" in detail:
        detail["uploads"] = [f"upl_{source[4:]}" for source in detail.pop("sources")]
    return detail


def let_file_be_absent() -> None:
    """Images need not come from a file. SQLite can't change a column, but replace one that nothing refers to."""
    for name, kind in (("source_file_name", sa.JSON()), ("source_size", sa.BigInteger())):
        if op.get_bind().dialect.name == "postgresql":
            op.alter_column("image", name, existing_type=kind, nullable=True)
            continue
        op.add_column("image", sa.Column(f"{name}_changed", kind, nullable=True))
        op.execute(f"UPDATE image SET {name}_changed = {name}")  # noqa: S608  # nosec B608 (names from above)
        op.drop_column("image", name)
        op.execute(f"ALTER TABLE image RENAME COLUMN {name}_changed TO {name}")


def downgrade() -> None:
    # File name and size of an image may stay nullable, since no row of this version lacks them.
    replace_uploads(
        UPLOADS_BEFORE,
        sa.Column("key", TEXT, nullable=False, unique=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("format", TEXT, nullable=False),
        sa.Column("source_kept", sa.Boolean(), nullable=False),
        sa.Column("result_id", ID, nullable=False),
        sa.Column("result_key", TEXT, nullable=True),
    )
    op.drop_index("job_of_kind", "job")
    change_jobs(upload_of_source)
    op.drop_index("source_image", "source")
    op.drop_table("source")
