"""Images that are stored, copied, grown and deleted at chosen instants: what the ledger and the bill are tested by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlmodel import col, select

from app.catalog import conversions, deletion
from app.catalog.bill import ledger
from app.lifecycle import ImageStatus, ImageType
from app.models import Blob, Image, StorageEntry
from app.sizes import GIB, MIB
from app.viewer import Viewer
from tests.support.gateway import ADMIN, MORNING, Gateway, outcome

ADA = Viewer(ADMIN)
# A line of the ledger: the name of the image, GiB, from when, and until when.
Line = tuple[str, int, datetime, datetime | None]


@dataclass
class Storing:
    """Does with images of a gateway what users do. `at` is what the ledger takes for now."""

    gateway: Gateway
    at: datetime = MORNING
    names: dict[str, str] = field(default_factory=dict)

    def now(self) -> datetime:
        return self.at

    async def store(self, project: str, name: str, gib: int, at: datetime) -> str:
        """An image that becomes ACTIVE; returns its id."""
        self.at = at
        made = await self.gateway.uploaded(projectId=project, name=name)
        claim, assignment = await self.gateway.begun(made["id"])
        await conversions.succeed(self.gateway.catalogue, claim, assignment, outcome(stored_size=gib * GIB))
        self.names[made["id"]] = name
        return str(made["id"])

    async def copy(self, image_id: str, project: str, name: str, at: datetime, **given: Any) -> str:
        """Another image of the same bytes, as a row; `given` are its columns."""
        self.at = at
        async with self.gateway.database.transaction() as tx:
            origin = await tx.session.get_one(Image, image_id)
            await tx.session.get_one(Blob, origin.blob_id, with_for_update=True)
            values: Mapping[str, Any] = {
                "project_id": project, "name": name, "name_key": name, "status": ImageStatus.ACTIVE,
                "blob_id": origin.blob_id, "stored_size": origin.stored_size, "created_by": ADMIN,
                "source_file_name": "disk.raw", "source_size": MIB, "type": ImageType.CUSTOM,
            }  # fmt: skip
            copy = Image(**{**values, **given})
            tx.session.add(copy)
            await tx.session.flush()
            await ledger.stored(tx, copy)
        self.names[copy.id] = name
        return copy.id

    async def grow(self, image_id: str, gib: int, at: datetime) -> None:
        """The blob of an image takes more room."""
        self.at = at
        async with self.gateway.database.transaction() as tx:
            image = await tx.session.get_one(Image, image_id, with_for_update=True)
            blob = await tx.session.get_one(Blob, image.blob_id, with_for_update=True)
            image.stored_size = blob.stored_size = gib * GIB
            await ledger.stored(tx, image)

    async def delete(self, image_id: str, at: datetime) -> None:
        self.at = at
        await deletion.delete_image(self.gateway.catalogue, ADA, image_id, None)

    async def lines(self, project: str) -> list[Line]:
        """The ledger of a project, in the order of time."""
        query = select(StorageEntry).where(StorageEntry.project_id == project)
        query = query.order_by(col(StorageEntry.since), col(StorageEntry.id))
        async with self.gateway.database.read() as session:
            entries = (await session.execute(query)).scalars().all()
        return [(self.names[line.image_id], line.stored_size // GIB, line.since, line.until) for line in entries]
