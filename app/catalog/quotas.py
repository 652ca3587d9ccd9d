"""Hard quotas: what a project uses, and the check in the transaction that creates (architecture, rule 9)."""

from dataclasses import dataclass

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.errors import QuotaExceeded
from app.lifecycle import ImageType
from app.models import Image, Project
from app.settings import GIB, Settings


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a project, and what is used and promised of them. Storage is in bytes."""

    custom_images_limit: int
    custom_images_used: int
    storage_limit: int
    storage_used: int
    storage_reserved: int


async def quota_of(session: AsyncSession, project: Project, settings: Settings) -> Quota:
    """The quota of a project as it stands: stored images by the bytes of their clusters, the others by promise."""
    query = select(
        func.count(),
        func.coalesce(func.sum(Image.stored_size), 0),
        func.coalesce(func.sum(Image.reserved_size), 0),
    ).where(Image.project_id == project.id, Image.type == ImageType.CUSTOM, col(Image.deleted_at).is_(None))
    count, used, reserved = (await session.execute(query)).one()
    return Quota(
        custom_images_limit=_given(project.custom_images_limit, settings.custom_images_limit),
        custom_images_used=count,
        storage_limit=_given(project.image_storage_limit, settings.image_storage_limit_gib * GIB),
        storage_used=int(used or 0),
        storage_reserved=int(reserved or 0),
    )


async def require_room(session: AsyncSession, project: Project, settings: Settings, size: int) -> None:
    """Raises QuotaExceeded when one more custom image of `size` bytes would overrun a limit.

    It holds only in the transaction that creates the image, and with the project's row locked.
    """
    quota = await quota_of(session, project, settings)
    if quota.custom_images_used >= quota.custom_images_limit:
        raise QuotaExceeded(
            f"The project has {quota.custom_images_used} of {quota.custom_images_limit} custom images.",
            limit=quota.custom_images_limit,
            used=quota.custom_images_used,
            requested=1,
            field=("projectId",),
            hint="Delete an image that is not needed any more, or have the limit raised.",
        )
    if quota.storage_used + quota.storage_reserved + size > quota.storage_limit:
        raise QuotaExceeded(
            f"{size} bytes were asked for; of {quota.storage_limit} bytes of image storage "
            f"{quota.storage_used} are used and {quota.storage_reserved} promised to other uploads.",
            limit=quota.storage_limit,
            used=quota.storage_used,
            reserved=quota.storage_reserved,
            requested=size,
            field=("source", "upload", "size"),
            hint="Delete images that are not needed any more, or have the limit raised.",
        )


def _given(value: int | None, default: int) -> int:
    return default if value is None else value
