"""Uploads a file as an image: from the first byte, or from where an earlier run was cut off."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from app.client.api import documents
from app.client.api.catalogue import image_by_id
from app.client.api.gateway import Api
from app.client.errors import ClientError, NotFound, Refused, UnusableFile
from app.client.patience import Patience, Trouble
from app.client.terminal.reporting import Reporter
from app.client.transfer.disk_file import DiskFile
from app.client.transfer.parts import MissingParts, PartSender
from app.client.transfer.resume import Begun, UploadRecord

Image = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Uploading:
    """One file on its way. `described` gives the input of createImage, but for its idempotency key.

    `source` tells the file's bytes, and what is said about them, from those of other runs; it can be kept as JSON.
    """

    api: Api
    http: httpx.AsyncClient
    file: DiskFile
    source: Mapping[str, object]
    described: Callable[[], Awaitable[Mapping[str, Any]]]
    record: UploadRecord
    reporter: Reporter
    patience: Patience
    jobs: int

    async def bring(self) -> Image:
        """The image, once all its bytes are with the gateway, or it takes none any more. Raises ClientError."""
        image = await self._resumed() or await self._created()
        trouble = Trouble(self.patience)
        while image.get("upload"):
            try:
                await self._send(image["upload"])
                payload = await self._mutate(documents.COMPLETE_UPLOAD, uploadId=image["upload"]["id"])
                return dict(payload["image"])
            except UnusableFile:
                await self._give_up(image["upload"])
                raise
            # A part had to be sent again after all, or the upload was ended meanwhile: the image tells which.
            except Refused as error:
                image = await self._read(image["id"])
                if image.get("upload"):
                    await trouble.rest(error)
        return image

    async def _resumed(self) -> Image | None:
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
        if image is None or image["status"] == "ERROR":
            self.record.forget()
            return None
        return image

    async def _end_other(self, begun: Begun) -> None:
        """End an upload of what the file was before, as long as bytes are missing, and say so.

        While the gateway can't be reached, it is remembered: the next run tries again.
        """
        image = await self._image_of(begun)
        if image is not None and image["status"] != "ERROR":
            known = (
                f"{self.file.name}, or what is said about it, has changed since the upload of {image['name']} "
                f"({image['id']}) began."
            )
            if not image.get("upload"):
                self.reporter.note(f"{known} That image stays; the file is uploaded as a new one.")
            elif await self._aborted(image["upload"]):
                self.reporter.note(f"{known} That upload was aborted; the file is uploaded from the start.")
        self.record.forget()

    async def _image_of(self, begun: Begun) -> Image | None:
        """The image of an earlier run; None when there is none, or none any more."""
        if begun.image_id is None:
            return None
        try:
            return await self._read(begun.image_id)
        except NotFound:
            return None

    async def _aborted(self, upload: Mapping[str, Any]) -> bool:
        """Abort an upload; False when it has ended meanwhile, completed or not."""
        try:
            await self._mutate(documents.ABORT_UPLOAD, uploadId=upload["id"])
        except NotFound:
            return False
        except Refused as error:
            if error.code != "CONFLICT":
                raise
            return False
        return True

    async def _created(self) -> Image:
        begun = self.record.read() or self.record.begin(self.source)
        try:
            return await self._create(begun)
        except NotFound as error:
            if error.details.get("field") != ["idempotencyKey"]:
                raise
            # An earlier run had it made, did not hear of it, and somebody has deleted it since.
            return await self._create(self.record.begin(self.source))

    async def _create(self, begun: Begun) -> Image:
        given = {**await self.described(), "idempotencyKey": begun.idempotency_key}
        trouble = Trouble(self.patience)
        while True:
            try:
                payload = await self._mutate(documents.CREATE_IMAGE, **given)
                break
            except Refused as error:
                # Without a field: the same request is under way, of a run that was cut off just now.
                if error.code != "CONFLICT" or error.details.get("field"):
                    self.record.forget()
                    raise
                await trouble.rest(error)
        image: Image = payload["image"]
        self.record.made(begun, image["id"])
        if image["upload"] is None:  # an earlier run was cut off after its last byte
            return await self._read(image["id"])
        return image

    async def _send(self, upload: Mapping[str, Any]) -> None:
        self.reporter.begin(f"uploading {self.file.name}", upload["receivedBytes"] or 0, upload["size"])
        if upload["size"] != self.file.size:
            raise UnusableFile(f"The upload is of {upload['size']} bytes, the file has {self.file.size}.")
        jobs = min(self.jobs, upload["partCount"])
        sender = PartSender(self.http, self.file, self.reporter, self.patience, jobs)
        await sender.send(MissingParts(self.api, upload["id"], self.patience))
        self.file.require_unchanged()

    async def _give_up(self, upload: Mapping[str, Any]) -> None:
        """The file is not any more what was begun with: what has arrived is of no use."""
        try:
            await self.api.mutate(documents.ABORT_UPLOAD, uploadId=upload["id"])
        except ClientError:
            return  # the next run aborts it, or it expires
        self.record.forget()

    async def _read(self, image_id: str) -> Image:
        return await self.patience.until_done(lambda: image_by_id(self.api, image_id, documents.IMAGE_AND_UPLOAD))

    async def _mutate(self, document: str, **given: Any) -> dict[str, Any]:
        return await self.patience.until_done(lambda: self.api.mutate(document, **given))
