"""Pinned copies: a new image that uses the bytes of another one without copying them (architecture, rule 8)."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import quotas
from app.catalog.bill import ledger
from app.catalog.feed import event_log
from app.catalog.feed.details import Created
from app.catalog.new_images import NewCopy, described, made_before, remembered
from app.catalog.people import access, tenancy
from app.catalog.people.access import Right
from app.database.sessions import Database
from app.errors import Forbidden
from app.lifecycle import ImageStatus, ProjectRole, SourceKind
from app.models import Blob, Image
from app.settings import Settings
from app.viewer import Viewer

_FIELD = ("source", "image", "imageId")
# Columns that a copy always takes from its original.
_INHERITED = (
    "architecture",
    "size_key",
    "virtual_size",
    "stored_size",
    "blob_id",
    "source_file_name",
    "source_size",
    "source_sha256",
    "source_declared_format",
    "source_detected_format",
    "warnings",
)


async def copy_image(database: Database, settings: Settings, viewer: Viewer, new: NewCopy) -> tuple[Image, int | None]:
    """Create a custom image with the bytes of another one that the project may launch. It is ACTIVE immediately.

    It stays when the original is deleted. Returns it and its feed position, None if it existed already.

    Raises InvalidInput, QuotaExceeded, NotFound, Forbidden, NotReady, Conflict.
    """
    description = described(viewer, new)
    database.require_room()
    async with database.transaction() as tx:
        project = await tenancy.project_for(tx.session, viewer, new.project_id, ProjectRole.MEMBER, lock=True)
        earlier = await made_before(tx.session, new)
        if earlier is not None:
            return earlier, None
        origin = await _launchable(tx.session, viewer, new)
        # The lock keeps the blob from being deleted, or getting its SHA-256, before the commit.
        blob = await tx.session.get_one(Blob, origin.blob_id, with_for_update=tenancy.LOCKED)
        more = 0 if await _has_blob(tx.session, project.id, blob.id) else blob.stored_size
        await quotas.require_room(tx.session, project, settings, more, _FIELD)
        copy = _copied(description, origin, blob)
        tx.session.add(copy)
        await tx.session.flush()
        await ledger.stored(tx, copy)
        if (key := remembered(new, copy)) is not None:
            tx.session.add(key)
        await event_log.append(tx, copy, Created(), actor=viewer.subject)
    return copy, tx.position


async def _launchable(session: AsyncSession, viewer: Viewer, new: NewCopy) -> Image:
    """The image to copy, locked; the project must be allowed to launch it. Raises NotFound, Forbidden, NotReady."""
    image = await access.image_for(session, viewer, new.image_id, field=_FIELD, lock=True)
    through = (await access.accesses(session, viewer, [image.id], through=new.project_id)).get(image.id)
    if through is None or not through.may(Right.LAUNCH):
        raise Forbidden(
            "This project may not launch the image and therefore can't copy it.",
            field=_FIELD,
            hint="Ask for the image to be shared with the project, or create the copy in the project that owns it.",
        )
    access.require_active(image, "copied", _FIELD)
    return image


async def _has_blob(session: AsyncSession, project_id: str, blob_id: str) -> bool:
    """Whether a project already has an image with these bytes, which count once."""
    query = select(Image.id).where(
        Image.blob_id == blob_id, Image.project_id == project_id, col(Image.deleted_at).is_(None)
    )
    return (await session.execute(query.limit(1))).first() is not None


def _copied(description: dict[str, Any], origin: Image, blob: Blob) -> Image:
    """The row of a copy: the values of the request, and otherwise those of the original."""
    values = dict(description)
    if values["os_family"] is None:
        values |= {"os_family": origin.os_family, "os_version": origin.os_version}
    if not values["labels"]:
        values["labels"] = origin.labels
    return Image(
        **(values | {name: getattr(origin, name) for name in _INHERITED}),
        status=ImageStatus.ACTIVE,
        sha256=blob.sha256,
        source_kind=SourceKind.IMAGE,
        source_image_id=origin.id,
        source_name=origin.name,
    )
