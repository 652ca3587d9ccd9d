"""Strawberry as its documentation shows it, with fifty images in memory: what a page is measured against."""

from datetime import UTC, datetime, timedelta
from enum import Enum

import strawberry


@strawberry.enum
class ImageStatus(Enum):
    ACTIVE = "ACTIVE"


@strawberry.enum
class ImageType(Enum):
    CUSTOM = "CUSTOM"


@strawberry.enum
class ImageVisibility(Enum):
    PROJECT = "PROJECT"


@strawberry.type
class OperatingSystem:
    display_name: str


@strawberry.type
class Image:
    id: strawberry.ID
    name: str
    type: ImageType
    status: ImageStatus
    visibility: ImageVisibility
    virtual_size: float  # GraphQL's own Int ends at 2 GiB
    min_boot_disk_gib: int
    created_at: datetime
    os: OperatingSystem


IMAGES = [
    Image(
        id=strawberry.ID(f"img_{number:026}"),
        name=f"image {number}",
        type=ImageType.CUSTOM,
        status=ImageStatus.ACTIVE,
        visibility=ImageVisibility.PROJECT,
        virtual_size=float(number << 30),
        min_boot_disk_gib=number + 1,
        created_at=datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=number),
        os=OperatingSystem(display_name="Ubuntu 24.04"),
    )
    for number in range(50)
]


@strawberry.type
class Query:
    @strawberry.field
    def images(self) -> list[Image]:
        return IMAGES


schema = strawberry.Schema(Query)
