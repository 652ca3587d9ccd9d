"""The limits of a project."""

import strawberry

from app.catalog.quotas import Quota
from app.graphql.scalars import ByteSize


@strawberry.type(description="A limit on a number of things.")
class CountQuota:
    limit: int = strawberry.field(description="How many there may be.")
    used: int = strawberry.field(description="How many there are.")


@strawberry.type(description="A limit on stored bytes.")
class ByteQuota:
    limit: ByteSize = strawberry.field(description="How many bytes may be stored.")
    used: ByteSize = strawberry.field(description="How many bytes are stored; what several images share counts once.")
    reserved: ByteSize = strawberry.field(description="Promised to uploads that have not finished.")


@strawberry.type(description="The limits of a project, and what is used of them. Stock images count against none.")
class ProjectQuota:
    custom_images: CountQuota = strawberry.field(description="Custom images, finished or not.")
    image_storage: ByteQuota = strawberry.field(description="Bytes of custom images and snapshots.")
    snapshots_per_volume: int = strawberry.field(description="How many snapshots of a volume are kept.")

    @staticmethod
    def of(quota: Quota) -> "ProjectQuota":
        """The same as the API shows it."""
        return ProjectQuota(
            custom_images=CountQuota(limit=quota.custom_images_limit, used=quota.custom_images_used),
            image_storage=ByteQuota(
                limit=ByteSize(quota.storage_limit),
                used=ByteSize(quota.storage_used),
                reserved=ByteSize(quota.storage_reserved),
            ),
            snapshots_per_volume=quota.snapshots_per_volume,
        )
