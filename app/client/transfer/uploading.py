"""Uploads a file as an image: from the first byte, or from where an earlier run was cut off."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx

from app.client.api.catalogue import found
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


@dataclass(frozen=True, slots=True)
class Uploading:
    """One file on its way. `described` gives the input of createImage, but for its idempotency key.

    `source` tells the file's bytes, and what is said about them, from those of other runs; it can be kept as JSON.
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

    async def bring(self) -> ImageFields:
        """The image, once all its bytes are with the gateway, or it takes none any more. Raises ClientError."""
        image = await self._resumed() or await self._created()
        async for attempt in self.policy.attempts(lambda error: isinstance(error, Refused)):
            with attempt:
                if image.upload is None:
                    return image
                try:
                    return await self._sent(image.upload)
                except Refused:
                    # A part has to be sent again after all, or the upload was ended meanwhile: the image tells which.
                    image = await self._read(image.id)
                    if image.upload is None:
                        return image
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _sent(self, upload: UploadFields) -> ImageFields:
        """The image, whose bytes are all with the gateway. Raises ClientError."""
        try:
            await self._send(upload)
        except UnusableFile:
            await self._give_up(upload)
            raise
        given = CompleteUploadInput(upload_id=upload.id)
        completed = await self.policy.until_done(lambda: self.api.complete_upload(given))
        return present(present(completed.complete_upload).image)

    async def _resumed(self) -> ImageAndUploadFields | None:
        """The image of an earlier run that still waits for bytes, is being converted, or is done."""
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
        """End an upload of what the file was before, as long as bytes are missing, and say so.

        While the gateway can't be reached, it is remembered: the next run tries again.
        """
        image = await self._image_of(begun)
        if image is not None and image.status != ImageStatus.ERROR:
            known = (
                f"{self.file.name}, or what is said about it, has changed since the upload of {image.name} "
                f"({image.id}) began."
            )
            if image.upload is None:
                self.reporter.note(f"{known} That image stays; the file is uploaded as a new one.")
            elif await self._aborted(image.upload):
                self.reporter.note(f"{known} That upload was aborted; the file is uploaded from the start.")
        self.record.forget()

    async def _image_of(self, begun: Begun) -> ImageAndUploadFields | None:
        """The image of an earlier run; None when there is none, or none any more."""
        if begun.image_id is None:
            return None
        try:
            return await self._read(begun.image_id)
        except NotFound:
            return None

    async def _aborted(self, upload: UploadFields) -> bool:
        """Abort an upload; False when it has ended meanwhile, completed or not."""
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
            # An earlier run had it made, did not hear of it, and somebody has deleted it since.
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
        if image.upload is None:  # an earlier run was cut off after its last byte
            return await self._read(image.id)
        return image

    async def _send(self, upload: UploadFields) -> None:
        self.reporter.begin(f"uploading {self.file.name}", upload.received_bytes or 0, upload.size)
        if upload.size != self.file.size:
            raise UnusableFile(f"The upload is of {upload.size} bytes, the file has {self.file.size}.")
        jobs = min(self.jobs, upload.part_count)
        sender = PartSender(self.http, self.file, self.reporter, self.policy, jobs)
        await sender.send(MissingParts(self.api, upload.id, self.policy))
        self.file.require_unchanged()

    async def _give_up(self, upload: UploadFields) -> None:
        """The file is not any more what was begun with: what has arrived is of no use."""
        try:
            await self.api.abort_upload(AbortUploadInput(upload_id=upload.id))
        except ClientError:
            return  # the next run aborts it, or it expires
        self.record.forget()

    async def _read(self, image_id: str) -> ImageAndUploadFields:
        by_id = ImageLookup(id=image_id)
        return found((await self.policy.until_done(lambda: self.api.image_and_upload(by_id))).image)
