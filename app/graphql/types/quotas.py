"""The limits of a project."""

import strawberry

from app.catalog.quotas import Quota
from app.graphql.scalars import ByteSize


@strawberry.type(description="A limit on a number of objects.")
class CountQuota:
    limit: int = strawberry.field(description="Maximum number.")
    used: int = strawberry.field(description="Current number.")


@strawberry.type(description="A limit on stored bytes.")
class ByteQuota:
    limit: ByteSize = strawberry.field(description="Maximum, in bytes.")
    used: ByteSize = strawberry.field(description="Bytes stored. Bytes that several images share count once.")
    reserved: ByteSize = strawberry.field(description="Bytes reserved for uploads, each until its image is ACTIVE.")


@strawberry.type(description="Limits of a project and what is used of them. Stock images don't count.")
class ProjectQuota:
    custom_images: CountQuota = strawberry.field(description="Number of custom images, in any status.")
    image_storage: ByteQuota = strawberry.field(description="Bytes of custom images and snapshots.")
    snapshots_per_volume: int = strawberry.field(description="Maximum number of snapshots kept per volume.")

    @staticmethod
    def of(quota: Quota) -> "ProjectQuota":
        """The GraphQL form of a quota."""
        return ProjectQuota(
            custom_images=CountQuota(limit=quota.custom_images_limit, used=quota.custom_images_used),
            image_storage=ByteQuota(
                limit=ByteSize(quota.storage_limit),
                used=ByteSize(quota.storage_used),
                reserved=ByteSize(quota.storage_reserved),
            ),
            snapshots_per_volume=quota.snapshots_per_volume,
        )
