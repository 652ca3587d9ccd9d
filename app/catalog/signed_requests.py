"""Checks, when a signed request is used, whether the user who requested it may still make it.

A signature proves that a request was allowed when it was signed. Roles, shares, images and uploads may be gone since
then, so the API's decision is repeated from the rows. Only the right of an operator is a claim of a token, which is in
no row: it was signed into the request, and such requests expire with their token or sooner.
"""

from dataclasses import dataclass

from app.catalog.catalogue import Catalogue
from app.catalog.people import access
from app.catalog.uploads import ended, upload_for
from app.errors import Forbidden, NotFound, UploadClosed
from app.lifecycle import ImageStatus, ProjectRole, UploadState
from app.models import Blob
from app.ports import Asker
from app.viewer import Viewer


@dataclass(frozen=True, slots=True)
class SignedRequests:
    """Checks signed requests whose bytes pass through the gateway."""

    catalogue: Catalogue

    async def require_upload(self, asker: Asker | None, key: str) -> None:
        """Raises NotFound, Forbidden, UploadEnded, UploadClosed unless a part may still be sent to the object `key`."""
        known = _known(asker)
        async with self.catalogue.database.read() as session:
            upload, image = await upload_for(session, _viewer(known), known.target, ProjectRole.MEMBER)
        if upload.source.key != key or upload.state == UploadState.COMPLETED:
            raise UploadClosed(f"the upload is {upload.state}")
        if upload.state != UploadState.OPEN:
            raise ended(upload, image)

    async def require_download(self, asker: Asker | None, key: str) -> None:
        """Raises NotFound or Forbidden unless the user may still see the image and its bytes are the object `key`."""
        known = _known(asker)
        async with self.catalogue.database.read() as session:
            image = await access.image_for(session, _viewer(known), known.target)
            blob = await session.get(Blob, image.blob_id) if image.blob_id else None
        if blob is None or blob.key != key or image.status != ImageStatus.ACTIVE:
            raise NotFound("The image is no longer available at this URL.", hint="Request a new URL from the API.")


def _known(asker: Asker | None) -> Asker:
    if asker is None:
        raise Forbidden("The URL does not state who requested it.", hint="Request a new URL from the API.")
    return asker


def _viewer(asker: Asker) -> Viewer:
    return Viewer(asker.subject, operator=asker.operator)
