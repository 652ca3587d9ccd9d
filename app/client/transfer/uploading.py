"""Uploads a file as an image: from the first byte, or from where an earlier run was interrupted."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx

from app.client.api.catalogue import require_image
from app.client.api.gateway import Api, present
from app.client.errors import ClientError, NotFound, Refused, UnusableFile
from app.client.generated.enums import ImageStatus, UserErrorCode
from app.client.generated.fragments import ImageAndUploadFields, ImageFields, UploadFields
from app.client.generated.input_types import AbortUploadInput, CompleteUploadInput, CreateImageInput, ImageLookup
from app.client.retrying import RetryPolicy
from app.client.terminal.reporting import Reporter
from app.client.transfer.disk_file import DiskFile
from app.client.transfer.parts import MissingParts, PartSender
from app.client.transfer.resume import Begun, UploadRecord
from app.sizes import counted


@dataclass(frozen=True, slots=True)
class Uploading:
    """The upload of a file. `described` returns the input of createImage, without its idempotency key.

    `source` identifies the file's bytes and their description, so that runs can be compared; it is stored as JSON.
    """

    api: Api
    http: httpx.AsyncClient
    file: DiskFile
    source: Mapping[str, object]
    described: Callable[[], Awaitable[CreateImageInput]]
    record: UploadRecord
    reporter: Reporter
    policy: RetryPolicy
    jobs: int

    async def upload(self) -> ImageFields:
        """Send the file; the image, once the gateway has all bytes or accepts no more. Raises ClientError."""
        image = await self._resumed() or await self._created()
        async for attempt in self.policy.attempts(lambda error: isinstance(error, Refused)):
            with attempt:
                if image.upload is None:
                    return image
                try:
                    return await self._sent(image.upload)
                except Refused:
                    # A part has to be sent again, or the upload has ended in the meantime: the image shows which.
                    image = await self._read(image.id)
                    if image.upload is None:
                        return image
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _sent(self, upload: UploadFields) -> ImageFields:
        """The image, after all its bytes were sent and the upload was completed. Raises ClientError."""
        try:
            await self._send(upload)
        except UnusableFile:
            await self._give_up(upload)
            raise
        given = CompleteUploadInput(upload_id=upload.id)
        completed = await self.policy.until_done(lambda: self.api.complete_upload(given))
        return present(present(completed.complete_upload).image)

    async def _resumed(self) -> ImageAndUploadFields | None:
        """The image of an earlier run that lacks bytes, is being converted, or is ACTIVE; None if there is none."""
        begun = self.record.read()
        if begun is None:
            return None
        if begun.source != self.source:
            await self._end_other(begun)
            return None
        if begun.image_id is None:
            return None
        image = await self._image_of(begun)
        if image is None or image.status == ImageStatus.ERROR:
            self.record.forget()
            return None
        return image

    async def _end_other(self, begun: Begun) -> None:
        """Abort an upload of the file's earlier content if bytes are missing, and report it.

        If the gateway can't be reached, the record stays, and the next run tries again.
        """
        image = await self._image_of(begun)
        if image is not None and image.status != ImageStatus.ERROR:
            known = (
                f"{self.file.name} or its description has changed since the upload of {image.name} ({image.id}) began."
            )
            if image.upload is None:
                self.reporter.note(f"{known} That image stays; the file is uploaded as a new image.")
            elif await self._aborted(image.upload):
                self.reporter.note(f"{known} That upload was aborted; the file is uploaded from the start.")
        self.record.forget()

    async def _image_of(self, begun: Begun) -> ImageAndUploadFields | None:
        """The image of an earlier run; None if it was not created or no longer exists."""
        if begun.image_id is None:
            return None
        try:
            return await self._read(begun.image_id)
        except NotFound:
            return None

    async def _aborted(self, upload: UploadFields) -> bool:
        """Abort an upload; False if it has ended in the meantime, completed or not."""
        try:
            await self.policy.until_done(lambda: self.api.abort_upload(AbortUploadInput(upload_id=upload.id)))
        except NotFound:
            return False
        except Refused as error:
            if error.code != UserErrorCode.CONFLICT:
                raise
            return False
        return True

    async def _created(self) -> ImageAndUploadFields:
        begun = self.record.read() or self.record.begin(self.source)
        try:
            return await self._create(begun)
        except NotFound as error:
            if error.details.get("field") != ["idempotencyKey"]:
                raise
            # An earlier run created the image but lost the response, and the image has been deleted since.
            return await self._create(self.record.begin(self.source))

    async def _create(self, begun: Begun) -> ImageAndUploadFields:
        given = (await self.described()).model_copy(update={"idempotency_key": begun.idempotency_key})
        try:
            made = await self.policy.until_done(lambda: self.api.create_image(given))
        except Refused:
            self.record.forget()
            raise
        image = present(present(made.create_image).image)
        self.record.made(begun, image.id)
        if image.upload is None:  # an earlier run was interrupted after its last byte
            return await self._read(image.id)
        return image

    async def _send(self, upload: UploadFields) -> None:
        self.reporter.begin(f"uploading {self.file.name}", upload.received_bytes or 0, upload.size)
        if upload.size != self.file.size:
            raise UnusableFile(
                f"The upload expects {counted(upload.size, 'byte')}, but the file has {self.file.size:,}."
            )
        jobs = min(self.jobs, upload.part_count)
        sender = PartSender(self.http, self.file, self.reporter, self.policy, jobs)
        await sender.send(MissingParts(self.api, upload.id, self.policy))
        self.file.require_unchanged()

    async def _give_up(self, upload: UploadFields) -> None:
        """Abort the upload: the file has changed, so the bytes that have arrived are useless."""
        try:
            await self.api.abort_upload(AbortUploadInput(upload_id=upload.id))
        except ClientError:
            return  # the next run aborts it, or it expires
        self.record.forget()

    async def _read(self, image_id: str) -> ImageAndUploadFields:
        by_id = ImageLookup(id=image_id)
        return require_image((await self.policy.until_done(lambda: self.api.image_and_upload(by_id))).image)
