"""Events name a feed, not a project: that of a project, which has its id as its name, or the public one.

What events say is stored under names of the catalogue's own; before, these were names of the API. Events keep their
positions, and on PostgreSQL the table stays the same one: cursors of before go on working. Pages of public images are
read from indexes of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.String(length=40).with_variant(sa.String(length=40, collation="C"), "postgresql")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
EVENT = sa.table("event", sa.column("seq"), sa.column("kind"), sa.column("detail", sa.JSON()))
BATCH = 1000
ASPECTS = {
    "name": "NAME",
    "os": "OS",
    "labels": "LABELS",
    "protected": "PROTECTION",
    "visibility": "VISIBILITY",
    "upload": "UPLOAD",
    "progress": "PROGRESS",
    "failure": "FAILURE",
    "sha256": "SHA256",
}
PUBLIC = sa.text("deleted_at IS NULL AND visibility = 'PUBLIC'")
PUBLIC_INDEXES = {
    "image_public_by_status": ["status"],
    "image_public_by_type": ["type"],
    "image_public_of_type_by_created_at": ["type", "created_at"],
    "image_public_of_type_by_name": ["type", "name_key"],
    "image_public_of_type_by_size": ["type", "size_key"],
    "image_public_of_kind_by_created_at": ["status", "type", "created_at"],
    "image_public_of_kind_by_name": ["status", "type", "name_key"],
    "image_public_of_kind_by_size": ["status", "type", "size_key"],
}
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
    rewrite_details()
    for name, columns in PUBLIC_INDEXES.items():
        op.create_index(name, "image", ["visibility", *columns, "id"], sqlite_where=PUBLIC, postgresql_where=PUBLIC)


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


def rewrite_details() -> None:
    """Store what each event says under its new names, a batch after the other."""
    connection = op.get_bind()
    place, said = EVENT.c.seq, EVENT.c.detail
    change = sa.update(EVENT).where(place == sa.bindparam("at")).values(detail=sa.bindparam("new"))
    query = sa.select(place, EVENT.c.kind, said).order_by(place).limit(BATCH)
    last = 0
    while rows := connection.execute(query.where(place > last)).all():
        changes = [{"at": row.seq, "new": renamed(row.kind, row.detail)} for row in rows if row.detail]
        if changes:
            connection.execute(change, changes)
        last = rows[-1].seq


def renamed(kind: str, old: Mapping[str, Any]) -> dict[str, Any]:
    """What an event of a kind says, with the new names."""
    if kind == "UPDATED":
        return {"aspects": [ASPECTS[field] for field in old["fields"]]}
    if kind == "STATUS_CHANGED":
        failure = {"failure": renamed_failure(old["failure"])} if "failure" in old else {}
        return {"before": old["from"], "after": old["to"]} | failure
    if kind == "SHARE_CHANGED":
        return {
            "share_id": old["share"],
            "project_id": old["project"],
            "grant": old["grant"],
            "state": old["state"],
            "image_name": old["imageName"],
            "ends_sight": old["ends"],
        }
    if kind == "DELETED":
        return {"image_name": old["imageName"]}
    return {}


def renamed_failure(old: Mapping[str, Any]) -> dict[str, Any]:
    """Why an image failed, with the new names."""
    kept = {name: old[name] for name in ("code", "message", "hint", "retriable")}
    return kept | {"failed_at": old["occurredAt"]}


def downgrade() -> None:
    raise NotImplementedError("events of the public feed belong to no project: restore a backup instead")
