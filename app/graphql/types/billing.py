"""The bill of a project."""

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import strawberry

from app.catalog.bill import billing
from app.catalog.bill.billing import ImageUsage as Line
from app.catalog.bill.billing import Usage
from app.graphql.context import Info
from app.graphql.types.connections import Connection, Paging, cursor_for, page_fields, paged
from app.graphql.types.node import node_of

if TYPE_CHECKING:
    from app.graphql.types.images import Image

_BY_IMAGE = "image-usage"


@strawberry.type(description="An amount of money.")
class Money:
    amount: str = strawberry.field(description="Decimal number with six decimal places.")
    currency: str = strawberry.field(description="Currency code (ISO 4217).")

    @staticmethod
    def of(amount: Decimal, currency: str) -> "Money":
        """The GraphQL form of an amount."""
        return Money(amount=f"{amount:f}", currency=currency)


@strawberry.type(description="Storage used by one image in an interval, and its cost.")
class ImageUsage:
    image_name: str = strawberry.field(description="Name of the image; if it was deleted, its last one.")
    gib_hours: float = strawberry.field(description="Storage used, in GiB multiplied by hours.")
    cost: Money = strawberry.field(description="Cost at the rates of the time.")
    image_id: strawberry.Private[str]

    @staticmethod
    def of(line: Line) -> "ImageUsage":
        """The GraphQL form of an image's usage."""
        return ImageUsage(
            image_name=line.image_name,
            gib_hours=float(line.gib_hours),
            cost=Money.of(line.cost, line.currency),
            image_id=line.image_id,
        )

    @strawberry.field(description="The image; null if it has been deleted.")
    async def image(self, info: Info) -> Annotated["Image", strawberry.lazy("app.graphql.types.images")] | None:
        row = await info.context.loaders.images.load(self.image_id)
        return None if row is None else node_of(row)


@strawberry.type(
    description="Storage used by a project in an interval, and its cost. What is still stored counts up to "
    "now. Bytes that several images share are billed once, to the image that has had them "
    "longest."
)
class StorageUsage:
    from_: datetime = strawberry.field(name="from", description="Start of the interval.")
    to: datetime = strawberry.field(description="End of the interval.")
    gib_hours: float = strawberry.field(description="Storage used, in GiB multiplied by hours.")
    cost: Money = strawberry.field(description="Cost at the rates of the time, calculated exactly and rounded once.")
    row: strawberry.Private[Usage]

    @staticmethod
    def of(usage: Usage) -> "StorageUsage":
        """The GraphQL form of a project's usage."""
        return StorageUsage(
            from_=usage.since,
            to=usage.until,
            gib_hours=float(usage.gib_hours),
            cost=Money.of(usage.cost, usage.currency),
            row=usage,
        )

    @paged(description="Usage by image, including deleted ones, in order of creation.")
    async def by_image(self, info: Info, paging: Paging) -> Connection[ImageUsage] | None:
        window, usage, catalogue = paging.window(_BY_IMAGE), self.row, info.context.catalogue
        interval = (usage.project_id, usage.since, usage.until)

        async def count() -> int:
            async with catalogue.database.read() as session:
                return await billing.count_image_usage(session, *interval, at=usage.at)

        async with catalogue.database.read() as session:
            page = await billing.image_usage_page(session, *interval, window, catalogue.settings, at=usage.at)
        nodes = [ImageUsage.of(line) for line in page.rows]
        return Connection[ImageUsage](count=count, **page_fields(page, nodes, _cursor))


def _cursor(line: Line) -> str:
    return cursor_for(_BY_IMAGE, line.image_id, line.image_id)
