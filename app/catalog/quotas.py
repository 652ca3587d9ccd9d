"""Hard quotas: what a project uses, and the check in the transaction that creates (architecture, rule 9).

Image storage counts the bytes of custom images and snapshots that are stored, those that several of them share once,
and what is promised to uploads that have not finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app import metrics
from app.catalog.people import tenancy
from app.catalog.revisions import require_revision
from app.database.sessions import Database
from app.errors import Forbidden, ImageFailed, InvalidInput, QuotaExceeded
from app.lifecycle import FailureCode, ImageType
from app.models import Image, Project
from app.settings import Settings
from app.sizes import GIB
from app.viewer import Viewer

_COUNTED = (ImageType.CUSTOM, ImageType.SNAPSHOT)
_MAKE_ROOM = "Delete images that are not needed any more, or have the limit raised."


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a project, and what is used and promised of them. Storage is in bytes."""

    custom_images_limit: int
    custom_images_used: int
    storage_limit: int
    storage_used: int
    storage_reserved: int
    snapshots_per_volume: int

    @property
    def storage_free(self) -> int:
        """Bytes that are neither used nor promised; less than none when the limit was lowered."""
        return self.storage_limit - self.storage_used - self.storage_reserved


async def quota_of(session: AsyncSession, project: Project, settings: Settings) -> Quota:
    """The quota of a project as it stands: stored images by the bytes of their clusters, the others by promise."""
    live = (Image.project_id == project.id, col(Image.type).in_(_COUNTED), col(Image.deleted_at).is_(None))
    counts = select(
        func.count().filter(col(Image.type) == ImageType.CUSTOM),
        func.coalesce(func.sum(Image.reserved_size), 0),
    ).where(*live)
    images, reserved = (await session.execute(counts)).one()
    # What shares a blob has the same size.
    each_once = (
        select(func.max(Image.stored_size).label("size")).where(*live).group_by(func.coalesce(Image.blob_id, Image.id))
    ).subquery()
    used = (await session.execute(select(func.coalesce(func.sum(each_once.c.size), 0)))).scalar_one()
    return Quota(
        custom_images_limit=_given(project.custom_images_limit, settings.custom_images_limit),
        custom_images_used=images,
        storage_limit=_given(project.image_storage_limit, settings.image_storage_limit_gib * GIB),
        storage_used=int(used),
        storage_reserved=int(reserved),
        snapshots_per_volume=_given(project.snapshots_per_volume_limit, settings.snapshots_per_volume_limit),
    )


async def require_room(
    session: AsyncSession, project: Project, settings: Settings, size: int, field: Sequence[str]
) -> None:
    """Raises QuotaExceeded when one more custom image that takes `size` more bytes would overrun a limit.

    It holds only in the transaction that creates the image, and with the project's row locked. `field` of the input
    is what asks for the bytes.
    """
    quota = await quota_of(session, project, settings)
    if quota.custom_images_used >= quota.custom_images_limit:
        metrics.QUOTA_REFUSALS.labels("images").inc()
        raise QuotaExceeded(
            f"The project has {quota.custom_images_used} of {quota.custom_images_limit} custom images, "
            "and 1 more was asked for.",
            limit=quota.custom_images_limit,
            used=quota.custom_images_used,
            requested=1,
            field=("projectId",),
            hint=_MAKE_ROOM,
        )
    if size > max(0, quota.storage_free):
        metrics.QUOTA_REFUSALS.labels("bytes").inc()
        raise QuotaExceeded(
            f"{size} bytes were asked for; of {quota.storage_limit} bytes of image storage "
            f"{quota.storage_used} are used and {quota.storage_reserved} are promised to uploads.",
            limit=quota.storage_limit,
            used=quota.storage_used,
            reserved=quota.storage_reserved,
            requested=size,
            field=field,
            hint=_MAKE_ROOM,
        )


async def room_of(session: AsyncSession, image: Image, settings: Settings) -> int:
    """How many bytes an image that is under way may come to have: what is promised to it, and what is free beside."""
    project = await session.get_one(Project, image.project_id)
    return image.reserved_size + max(0, (await quota_of(session, project, settings)).storage_free)


async def overrun(session: AsyncSession, image: Image, settings: Settings, size: int) -> ImageFailed:
    """Why an image of `size` bytes is not taken in: its conversion has come to more than there is room for."""
    project = await session.get_one(Project, image.project_id)
    quota = await quota_of(session, project, settings)
    metrics.QUOTA_REFUSALS.labels("converted_bytes").inc()
    return ImageFailed(
        FailureCode.QUOTA_EXCEEDED,
        f"Converted, the image takes {size} bytes; of {quota.storage_limit} bytes of image storage {quota.storage_used}"
        f" are used and {quota.storage_reserved} are promised, {image.reserved_size} of them to this image.",
        f"{_MAKE_ROOM} Then retryImage converts it again: the uploaded bytes are kept.",
        retriable=True,
    )


async def set_quota(
    database: Database, viewer: Viewer, project_id: str, limits: Mapping[str, int | None], expected_revision: int | None
) -> tuple[Project, int | None]:
    """Change limits of a project, by column; None takes the deployment's default. What is not given stays.

    A limit below what is used blocks only what is new. Raises NotFound, Forbidden, InvalidInput, StaleRevision.
    """
    for name, value in limits.items():
        if value is not None and value < 0:
            raise InvalidInput("A limit is not below 0.", field=(LIMITS[name],), hint="null takes the default again.")
    async with database.transaction() as tx:
        project = await tenancy.project_for(tx.session, viewer, project_id, lock=True)
        if not await tenancy.governs(tx.session, viewer, project.organization_id):
            raise Forbidden(
                "Limits are set by the owners of the organization, and by operators.",
                field=("projectId",),
                hint="Ask one of them.",
            )
        require_revision(project.revision, expected_revision, "project")
        changed = {name: value for name, value in limits.items() if getattr(project, name) != value}
        for name, value in changed.items():
            setattr(project, name, value)
        project.revision += bool(changed)
    return project, tx.position


# The columns that hold limits, and what the API calls them.
LIMITS = {
    "custom_images_limit": "customImages",
    "image_storage_limit": "imageStorageGib",
    "snapshots_per_volume_limit": "snapshotsPerVolume",
}


def _given(value: int | None, default: int) -> int:
    return default if value is None else value
