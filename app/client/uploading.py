"""Uploads a file as an image: from the first byte, or from where an earlier run was cut off."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from app.client import documents
from app.client.api import Api
from app.client.catalogue import image_by_id
from app.client.disk_file import DiskFile
from app.client.errors import ClientError, NotFound, Refused, UnusableFile
from app.client.parts import MissingParts, PartSender
from app.client.patience import Patience, Trouble
from app.client.reporting import Reporter
from app.client.resume import Begun, UploadRecord

Image = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Uploading:
    """One file on its way. `described` gives the input of createImage, but for its idempotency key."""

    api: Api
    http: httpx.AsyncClient
    file: DiskFile
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
        if begun is None or begun.image_id is None:
            return None
        try:
            image = await self._read(begun.image_id)
        except NotFound:
            image = None
        if image is None or image["status"] == "ERROR":
            self.record.forget()
            return None
        return image

    async def _created(self) -> Image:
        begun = self.record.read() or self.record.begin()
        try:
            return await self._create(begun)
        except NotFound as error:
            if error.details.get("field") != ["idempotencyKey"]:
                raise
            # An earlier run had it made, did not hear of it, and somebody has deleted it since.
            return await self._create(self.record.begin())

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
        self.record.forget()
        try:
            await self.api.mutate(documents.ABORT_UPLOAD, uploadId=upload["id"])
        except ClientError:
            return  # it will expire

    async def _read(self, image_id: str) -> Image:
        return await self.patience.until_done(lambda: image_by_id(self.api, image_id, documents.IMAGE_AND_UPLOAD))

    async def _mutate(self, document: str, **given: Any) -> dict[str, Any]:
        return await self.patience.until_done(lambda: self.api.mutate(document, **given))
