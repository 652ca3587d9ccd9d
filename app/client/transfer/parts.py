"""Sends the parts that an upload lacks, several at a time, each straight from the disk."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from app.client.api import documents
from app.client.api.gateway import Api
from app.client.errors import AddressRefused, ClientError, NotAllowed, NotFound, UploadClosed
from app.client.patience import Patience, Trouble
from app.client.terminal.reporting import Reporter
from app.client.transfer import signed
from app.client.transfer.disk_file import DiskFile

_PAGE = 100
# New addresses for one part, each of which was refused: then it is not their age.
_ADDRESSES = 3


@dataclass(frozen=True, slots=True)
class Part:
    """`size` bytes from `offset` on, and how to send them. `before` is the cursor to read the part again after."""

    number: int
    offset: int
    size: int
    request: dict[str, Any]
    before: str | None


class MissingParts:
    """The parts that have not arrived, by number, read from the gateway page by page as they are taken."""

    def __init__(self, api: Api, upload_id: str, patience: Patience) -> None:
        self._api = api
        self._upload_id = upload_id
        self._patience = patience
        self._page: deque[Part] = deque()
        self._after: str | None = None
        self._more = True
        self._turn = asyncio.Lock()

    async def take(self) -> Part | None:
        """The next part; None when all are taken. Raises UploadClosed when the upload takes none any more."""
        async with self._turn:
            while not self._page and self._more:
                parts, self._after, self._more = await self._read(_PAGE, self._after)
                self._page.extend(parts)
            return self._page.popleft() if self._page else None

    async def again(self, part: Part) -> Part | None:
        """The part with a new address; None when it has arrived meanwhile."""
        parts, _, _ = await self._read(1, part.before)
        return parts[0] if parts and parts[0].number == part.number else None

    async def _read(self, first: int, after: str | None) -> tuple[list[Part], str | None, bool]:
        data = await self._patience.until_done(
            lambda: self._api.query(documents.MISSING_PARTS, upload=self._upload_id, first=first, after=after)
        )
        page = (data["node"] or {}).get("parts")
        if page is None or data["node"]["state"] != "OPEN":
            raise UploadClosed("The upload takes no more bytes.")
        parts = []
        for edge in page["edges"]:
            node = edge["node"]
            if node["request"] is None:
                raise NotAllowed("You may not send bytes to this upload.", hint="It takes the role MEMBER.")
            parts.append(Part(node["number"], node["offset"], node["size"], node["request"], after))
            after = edge["cursor"]
        return parts, after, page["pageInfo"]["hasNextPage"]


@dataclass(frozen=True, slots=True)
class PartSender:
    """Sends what is missing of `file`, `jobs` parts at a time."""

    http: httpx.AsyncClient
    file: DiskFile
    reporter: Reporter
    patience: Patience
    jobs: int

    async def send(self, missing: MissingParts) -> None:
        """Returns when every part has been acknowledged. Raises ClientError; UploadClosed: look at the image."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self.jobs):
                    tasks.create_task(self._send_one_by_one(missing))
        except BaseExceptionGroup as group:
            raise _first_of(group) from group

    async def _send_one_by_one(self, missing: MissingParts) -> None:
        while (part := await missing.take()) is not None:
            await self._send_part(part, missing)

    async def _send_part(self, part: Part, missing: MissingParts) -> None:
        trouble, addresses = Trouble(self.patience), 1
        while True:
            try:
                return await self._attempt(part)
            except AddressRefused as error:
                if addresses == _ADDRESSES:
                    raise error
                addresses += 1
            except NotFound as error:  # S3 says so when the upload has been aborted
                raise UploadClosed(error.message) from error
            except ClientError as error:
                if not error.temporary:
                    raise
                await trouble.rest(error)
            # A broken connection may have hidden the answer: the part has arrived, or the upload takes none any more.
            fresh = await missing.again(part)
            if fresh is None:
                self.reporter.advance(part.size)
                return
            part = fresh

    async def _attempt(self, part: Part) -> None:
        sent = 0

        async def body() -> AsyncGenerator[bytes, None]:
            nonlocal sent
            async with aclosing(self.file.chunks(part.offset, part.size)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    sent += len(chunk)
                    self.reporter.advance(len(chunk))

        headers = {**signed.headers_of(part.request), "Content-Length": str(part.size)}
        method, url = part.request["method"], part.request["url"]
        try:
            async with aclosing(body()) as content:
                response = await self.http.request(
                    method, url, content=content, headers=headers, timeout=signed.TIMEOUT
                )
            if response.is_success:
                return
            error: ClientError = signed.refusal_of(response)
        except httpx.TransportError as failed:
            error = signed.broken(failed)
        self.reporter.advance(-sent)
        raise error


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended the group: its tasks fail of one thing, and the others are cancelled for it."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
