"""Sends the missing parts of an upload, several at a time, each directly from the disk."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import httpx

from app.client.api.gateway import Api, present
from app.client.errors import AddressRefused, ClientError, NotAllowed, NotFound, UploadClosed
from app.client.generated.enums import UploadState
from app.client.generated.fragments import SignedRequestFields
from app.client.generated.missing_parts import MissingPartsNodeImageUpload
from app.client.retrying import RetryPolicy
from app.client.terminal.reporting import Reporter
from app.client.transfer import signed
from app.client.transfer.disk_file import DiskFile

_PAGE = 100
# If this many new addresses for one part are refused, the reason is not their age.
_ADDRESSES = 3


@dataclass(frozen=True, slots=True)
class Part:
    """`size` bytes from `offset` on, and the request that sends them. `before` is the cursor to re-query it after."""

    number: int
    offset: int
    size: int
    request: SignedRequestFields
    before: str | None


class MissingParts:
    """The parts that have not arrived, by number, queried from the gateway page by page as they are taken."""

    def __init__(self, api: Api, upload_id: str, policy: RetryPolicy) -> None:
        self._api = api
        self._upload_id = upload_id
        self._policy = policy
        self._page: deque[Part] = deque()
        self._after: str | None = None
        self._more = True
        self._turn = asyncio.Lock()

    async def take(self) -> Part | None:
        """The next part; None if all are taken. Raises UploadClosed if the upload accepts no more parts."""
        async with self._turn:
            while not self._page and self._more:
                parts, self._after, self._more = await self._read(_PAGE, self._after)
                self._page.extend(parts)
            return self._page.popleft() if self._page else None

    async def again(self, part: Part) -> Part | None:
        """The part with a new address; None if it has arrived in the meantime."""
        parts, _, _ = await self._read(1, part.before)
        return parts[0] if parts and parts[0].number == part.number else None

    async def _read(self, first: int, after: str | None) -> tuple[list[Part], str | None, bool]:
        upload = (await self._policy.until_done(lambda: self._api.missing_parts(self._upload_id, first, after))).node
        if (
            not isinstance(upload, MissingPartsNodeImageUpload)
            or upload.parts is None
            or upload.state != UploadState.OPEN
        ):
            raise UploadClosed("The upload accepts no more bytes.")
        parts = []
        for edge in upload.parts.edges or ():
            node = present(present(edge).node)
            if node.request is None:
                raise NotAllowed(
                    "You may not send bytes to this upload.", hint="Ask an admin of the project for the role MEMBER."
                )
            parts.append(Part(node.number, node.offset, node.size, node.request, after))
            after = present(edge).cursor
        return parts, after, upload.parts.page_info.has_next_page


@dataclass(frozen=True, slots=True)
class PartSender:
    """Sends the missing parts of `file`, `jobs` at a time."""

    http: httpx.AsyncClient
    file: DiskFile
    reporter: Reporter
    policy: RetryPolicy
    jobs: int

    async def send(self, missing: MissingParts) -> None:
        """Returns when every part has been acknowledged. Raises ClientError; after UploadClosed, query the image."""
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
        given: Part | None = part
        refused = 0
        async for attempt in self.policy.attempts():
            with attempt:
                while (fresh := given or await missing.again(part)) is not None:
                    # After a failure, query the part again: it may have arrived although the response was lost, or
                    # the upload may be closed.
                    given = None
                    try:
                        return await self._attempt(fresh)
                    except AddressRefused:
                        refused += 1
                        if refused == _ADDRESSES:
                            raise
                    except NotFound as error:  # S3's response after the upload was aborted
                        raise UploadClosed(error.message) from error
                self.reporter.advance(part.size)

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
        try:
            async with aclosing(body()) as content:
                response = await self.http.request(
                    part.request.method, part.request.url, content=content, headers=headers, timeout=signed.TIMEOUT
                )
            if response.is_success:
                return
            error: ClientError = signed.refusal_of(response)
        except httpx.TransportError as failed:
            error = signed.broken(failed)
        self.reporter.advance(-sent)
        raise error


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the group: one task fails, and the others are cancelled because of it."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
