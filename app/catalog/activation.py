"""Makes an image ACTIVE whose bytes are stored: the last step of a conversion and of a capture."""

from typing import Any

from app.catalog import images
from app.catalog.bill import ledger
from app.catalog.servers import boot_checks
from app.catalog.work import jobs
from app.catalog.work.kinds import CheckReadiness, Hash
from app.database.sessions import Transaction
from app.lifecycle import ImageStatus
from app.models import Blob, Image


async def activate(tx: Transaction, image: Image, blob: Blob, **values: Any) -> None:
    """Insert the blob of an image, set the image to ACTIVE, and start the jobs that examine it.

    The rows of its project and of the image must be locked. `values` are further columns of the image.
    """
    tx.session.add(blob)
    await tx.session.flush()
    await images.move(
        tx,
        image,
        ImageStatus.ACTIVE,
        blob_id=blob.id,
        virtual_size=blob.virtual_size,
        size_key=blob.virtual_size,
        stored_size=blob.stored_size,
        reserved_size=0,
        **values,
    )
    await ledger.stored(tx, image)
    jobs.start(tx, Hash(blob=blob.id), image_id=image.id)
    jobs.start(tx, CheckReadiness(blob=blob.id), image_id=image.id)
    if image.verify_boot:
        boot_checks.start(tx, image, blob)
