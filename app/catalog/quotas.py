"""Hard quotas: how much a project uses, and the check in the transaction that creates (architecture, rule 9).

Image storage counts the stored bytes of custom images and snapshots, and the bytes reserved for unfinished uploads.
Bytes that several images share count once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app import metrics
from app.catalog.catalogue import Catalogue, Written
from app.catalog.people import tenancy
from app.catalog.revisions import require_revision
from app.errors import Forbidden, ImageFailed, InvalidInput, QuotaExceeded
from app.lifecycle import FailureCode, ImageType
from app.models import Image, Project
from app.settings import Settings
from app.sizes import GIB, exactly, spelled
from app.viewer import Viewer

_COUNTED = (ImageType.CUSTOM, ImageType.SNAPSHOT)
_MAKE_ROOM = "Delete images that are no longer needed or have the limit raised"


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of a project, and how much of them is used and reserved. Storage is in bytes."""

    custom_images_limit: int
    custom_images_used: int
    storage_limit: int
    storage_used: int
    storage_reserved: int
    snapshots_per_volume: int

    @property
    def storage_free(self) -> int:
        """Bytes that are neither used nor reserved; negative after the limit was lowered below them."""
        return self.storage_limit - self.storage_used - self.storage_reserved


async def quota_of(session: AsyncSession, project: Project, settings: Settings) -> Quota:
    """The current quota of a project: stored images count the bytes of their clusters, others their reservation."""
    live = (Image.project_id == project.id, col(Image.type).in_(_COUNTED), col(Image.deleted_at).is_(None))
    counts = select(
        func.count().filter(col(Image.type) == ImageType.CUSTOM),
        func.coalesce(func.sum(Image.reserved_size), 0),
    ).where(*live)
    images, reserved = (await session.execute(counts)).one()
    # Images that share a blob have the same size.
    each_once = (
        select(func.max(Image.stored_size).label("size")).where(*live).group_by(func.coalesce(Image.blob_id, Image.id))
    ).subquery()
    used = (await session.execute(select(func.coalesce(func.sum(each_once.c.size), 0)))).scalar_one()
    return Quota(
        custom_images_limit=_value_or(project.custom_images_limit, settings.custom_images_limit),
        custom_images_used=images,
        storage_limit=_value_or(project.image_storage_limit, settings.image_storage_limit_gib * GIB),
        storage_used=int(used),
        storage_reserved=int(reserved),
        snapshots_per_volume=snapshots_per_volume(project, settings),
    )


def snapshots_per_volume(project: Project, settings: Settings) -> int:
    """How many snapshots of a volume a project keeps."""
    return _value_or(project.snapshots_per_volume_limit, settings.snapshots_per_volume_limit)


async def require_room(
    session: AsyncSession, project: Project, settings: Settings, size: int, field: Sequence[str]
) -> None:
    """Raises QuotaExceeded when one more custom image that takes `size` more bytes would overrun a limit.

    The check holds only in the transaction that creates the image, with the project's row locked. `field` is the path
    of the input that requests the bytes.
    """
    quota = await quota_of(session, project, settings)
    if quota.custom_images_used >= quota.custom_images_limit:
        metrics.QUOTA_REFUSALS.labels("images").inc()
        raise QuotaExceeded(
            f"The project has {quota.custom_images_used} of {quota.custom_images_limit} custom images, "
            "and 1 more was requested.",
            limit=quota.custom_images_limit,
            used=quota.custom_images_used,
            requested=1,
            field=("projectId",),
            hint=f"{_MAKE_ROOM}.",
        )
    if size > max(0, quota.storage_free):
        metrics.QUOTA_REFUSALS.labels("bytes").inc()
        text = _spelling(size, max(0, quota.storage_free))
        raise QuotaExceeded(
            f"Not enough image storage: {text(size)} requested; limit {text(quota.storage_limit)}, "
            f"used {text(quota.storage_used)}, reserved {text(quota.storage_reserved)}.",
            limit=quota.storage_limit,
            used=quota.storage_used,
            reserved=quota.storage_reserved,
            requested=size,
            field=field,
            hint=f"{_MAKE_ROOM}.",
        )


async def room_of(session: AsyncSession, image: Image, settings: Settings) -> int:
    """How many bytes an unfinished image may take: those reserved for it, and those that are free."""
    project = await session.get_one(Project, image.project_id)
    return image.reserved_size + max(0, (await quota_of(session, project, settings)).storage_free)


async def overrun(session: AsyncSession, image: Image, settings: Settings, size: int) -> ImageFailed:
    """The failure of an image whose converted `size`, in bytes, is more than the project has room for."""
    project = await session.get_one(Project, image.project_id)
    quota = await quota_of(session, project, settings)
    metrics.QUOTA_REFUSALS.labels("converted_bytes").inc()
    text = _spelling(size, image.reserved_size + max(0, quota.storage_free))
    return ImageFailed(
        FailureCode.QUOTA_EXCEEDED,
        f"Not enough image storage: the converted image takes {text(size)}; limit {text(quota.storage_limit)}, "
        f"used {text(quota.storage_used)}, reserved {text(quota.storage_reserved)}, including "
        f"{text(image.reserved_size)} for this image.",
        f"{_MAKE_ROOM}, then call retryImage: the uploaded bytes are kept.",
        retriable=True,
    )


async def captured_overrun(session: AsyncSession, image: Image, settings: Settings) -> ImageFailed:
    """The failure of an image whose volume takes more bytes than the project has room for."""
    project = await session.get_one(Project, image.project_id)
    quota = await quota_of(session, project, settings)
    metrics.QUOTA_REFUSALS.labels("captured_bytes").inc()
    return ImageFailed(
        FailureCode.QUOTA_EXCEEDED,
        f"Not enough image storage for the bytes of the volume: limit {spelled(quota.storage_limit)}, "
        f"used {spelled(quota.storage_used)}, reserved {spelled(quota.storage_reserved)}.",
        f"{_MAKE_ROOM}, then create the image again.",
    )


async def set_quota(
    catalogue: Catalogue,
    viewer: Viewer,
    project_id: str,
    limits: Mapping[str, int | None],
    expected_revision: int | None,
) -> Written[Project]:
    """Set limits of a project, by column; None restores the deployment's default. Other limits stay unchanged.

    A limit below the current use blocks only new images. Publishes nothing: limits are not in the feed.

    Raises NotFound, Forbidden, InvalidInput, StaleRevision.
    """
    for name, value in limits.items():
        if value is not None and value < 0:
            raise InvalidInput(
                "A limit can't be negative.", field=(LIMITS[name],), hint="Set it to null to restore the default."
            )
    async with catalogue.database.transaction() as tx:
        project = await tenancy.project_for(tx.session, viewer, project_id, lock=True)
        if not await tenancy.governs(tx.session, viewer, project.organization_id):
            raise Forbidden(
                "Only owners of the organization and operators can set limits.",
                field=("projectId",),
                hint="Ask an owner of the organization to set them.",
            )
        require_revision(project.revision, expected_revision, "project")
        changed = {name: value for name, value in limits.items() if getattr(project, name) != value}
        for name, value in changed.items():
            setattr(project, name, value)
        project.revision += bool(changed)
    return Written(project, tx.position)


# The columns of limits, and their names in the API.
LIMITS = {
    "custom_images_limit": "customImages",
    "image_storage_limit": "imageStorageGib",
    "snapshots_per_volume_limit": "snapshotsPerVolume",
    "servers_limit": "servers",
    "volumes_limit": "volumes",
    "volume_storage_limit": "volumeStorageGib",
}


def _spelling(size: int, free: int) -> Callable[[int], str]:
    """How to state sizes in an error: rounded, or exactly where rounding would make `size` look equal to `free`."""
    return exactly if spelled(size) == spelled(free) else spelled


def _value_or(value: int | None, default: int) -> int:
    return default if value is None else value
