"""Captures of volumes under way: the row, its job on the host, and what ends both.

The host has to undo what it has done there, however the capture ends. So its job is not cancelled with its image: it
starts over, finds no capture, releases the point, and has the bytes erased (`snapshots.capturing`).
"""

from app.catalog import blobs
from app.catalog.work import jobs
from app.catalog.work.kinds import CaptureVolume
from app.database.sessions import Transaction
from app.models import Capture, Image, Volume


def begin(tx: Transaction, image: Image, volume: Volume) -> None:
    """Start the capture of a volume into an image, which is in the session. The volume's row must be locked.

    The volume must be on a host, and have no capture.
    """
    if volume.host_id is None:
        raise ValueError("the volume is on no host")
    capture = Capture(image_id=image.id, volume_id=volume.id, host_id=volume.host_id, base_id=volume.base_id)
    tx.session.add(capture)
    detail = CaptureVolume(image=image.id, volume=volume.id, key=capture.result_key)
    jobs.start(tx, detail, image_id=image.id, host_id=volume.host_id)


async def end(tx: Transaction, image_id: str) -> None:
    """End the capture of an image, whose row must be locked, if there is one. Its base is erased if nothing needs it.

    The job of the host goes on, or has to be started over with `jobs.cancel_of_image`.
    """
    capture = await tx.session.get(Capture, image_id)
    if capture is None:
        return
    await tx.session.delete(capture)
    await tx.session.flush()
    if capture.base_id is not None:
        await blobs.erase_if_unused(tx, capture.base_id)
