"""The limits of a project."""

import strawberry

from app.catalog.quotas import Quota
from app.catalog.servers.limits import Usage
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
    servers: CountQuota = strawberry.field(description="Number of servers, in any status.")
    volumes: CountQuota = strawberry.field(description="Number of volumes, including boot volumes.")
    volume_storage: ByteQuota = strawberry.field(
        description="Size of all volumes together, in bytes. Nothing of it is reserved."
    )

    @staticmethod
    def of(quota: Quota, usage: Usage) -> "ProjectQuota":
        """The GraphQL form of a quota on images, and of the limits on servers and volumes."""
        return ProjectQuota(
            custom_images=CountQuota(limit=quota.custom_images_limit, used=quota.custom_images_used),
            image_storage=ByteQuota(
                limit=ByteSize(quota.storage_limit),
                used=ByteSize(quota.storage_used),
                reserved=ByteSize(quota.storage_reserved),
            ),
            snapshots_per_volume=quota.snapshots_per_volume,
            servers=CountQuota(limit=usage.servers_limit, used=usage.servers_used),
            volumes=CountQuota(limit=usage.volumes_limit, used=usage.volumes_used),
            volume_storage=ByteQuota(
                limit=ByteSize(usage.storage_limit), used=ByteSize(usage.storage_used), reserved=ByteSize(0)
            ),
        )
