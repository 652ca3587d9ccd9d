"""An upload, its parts, and the signed requests that upload and download bytes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import strawberry

from app.catalog.pages import Page, page_of
from app.catalog.uploads import handle_of, receipt_of
from app.graphql.context import Context, Info
from app.graphql.enums import PartStatus
from app.graphql.scalars import URL, ByteSize
from app.graphql.types.connections import Connection, Paging, cursor_for, page_fields, paged
from app.graphql.types.node import Node
from app.lifecycle import ProjectRole, UploadState
from app.models import Upload as UploadRow
from app.models import now
from app.ports import Asker, UploadReceipt
from app.ports import SignedRequest as Signed
from app.viewer import includes

_BY_NUMBER = "part-number"


@strawberry.type(description="An HTTP header to send.")
class Header:
    name: str = strawberry.field(description="Name of the header.")
    value: str = strawberry.field(description="Value of the header.")


@strawberry.type(description="An HTTP request that anyone who knows its URL can make until it expires.")
class SignedRequest:
    method: str = strawberry.field(description="HTTP method.")
    url: URL = strawberry.field(description="URL, with the signature. Keep it secret.")
    headers: list[Header] = strawberry.field(description="Headers to send unchanged.")
    expires_at: datetime = strawberry.field(description="When the URL expires.")


def signed_request(context: Context, request: Signed) -> SignedRequest:
    """The GraphQL form of a signed request, with an absolute URL."""
    return SignedRequest(
        method=request.method,
        url=URL(context.address(request)),
        headers=[Header(name=name, value=value) for name, value in request.headers],
        expires_at=request.expires_at,
    )


def part_end(context: Context) -> datetime:
    """When the URL of a part that is signed now expires."""
    settings = context.catalogue.settings
    # Membership is checked again at every use of the URL. That a caller is an operator, only the token states.
    longest = settings.download_seconds if context.viewer.operator else settings.signature_seconds
    return _end(context, min(longest, settings.signature_seconds))


def download_end(context: Context) -> datetime:
    """When the URL of a download that is signed now expires."""
    return _end(context, context.catalogue.settings.download_seconds)


def _end(context: Context, seconds: float) -> datetime:
    end = now() + timedelta(seconds=seconds)
    token_end = context.viewer.expires_at if context.viewer.operator else None
    return end if token_end is None else min(end, token_end)


def asker_of(context: Context, target: str) -> Asker:
    """The caller for whom a request about an image or an upload is signed."""
    return Asker(context.viewer.subject, context.viewer.operator, target)


@strawberry.type(description="A range of the file's bytes, sent in one request.")
class UploadPart:
    number: int = strawberry.field(description="Number of the part, starting at 1.")
    offset: ByteSize = strawberry.field(description="Where the part starts in the file, in bytes.")
    size: ByteSize = strawberry.field(description="Exact size of the part, in bytes.")
    status: PartStatus = strawberry.field(
        description="Whether the part has arrived. All parts of a COMPLETED upload are RECEIVED; all parts of an "
        "ABORTED, REFUSED or EXPIRED one are DISCARDED."
    )
    row: strawberry.Private[UploadRow]

    @strawberry.field(
        description="Request that sends the part: its body is the bytes of the part. Null if the upload is not "
        "OPEN or you may not send parts."
    )
    async def request(self, info: Info) -> SignedRequest | None:
        context = info.context
        role = await context.loaders.roles.load((await _project_of(context, self.row)) or "")
        if self.row.state != UploadState.OPEN or self.status is PartStatus.DISCARDED:
            return None
        if role is None or not includes(role, ProjectRole.MEMBER):
            return None
        store, handle = context.catalogue.store, handle_of(self.row)
        asker = asker_of(context, self.row.id)
        return signed_request(context, store.sign_part(handle, self.number, part_end(context), asker))


async def _project_of(context: Context, row: UploadRow) -> str | None:
    image = await context.loaders.images.load(row.image_id)
    return None if image is None else image.project_id


@strawberry.type(description="The upload of an image's file.")
class ImageUpload(Node):
    state: UploadState = strawberry.field(description="Whether the upload is OPEN, or how it ended.")
    size: ByteSize = strawberry.field(description="Size of the file, in bytes.")
    part_size: ByteSize = strawberry.field(description="Size of every part except the last, in bytes.")
    part_count: int = strawberry.field(description="Number of parts.")
    expires_at: datetime = strawberry.field(
        description="When the upload expires unless another byte arrives; each byte that arrives postpones it."
    )
    row: strawberry.Private[UploadRow]

    @staticmethod
    def of(row: UploadRow) -> "ImageUpload":
        """The node of a row."""
        return ImageUpload(
            id=strawberry.ID(row.id),
            state=row.state,
            size=ByteSize(row.source.size),
            part_size=ByteSize(row.part_size),
            part_count=handle_of(row).part_count,
            expires_at=row.expires_at,
            row=row,
        )

    @strawberry.field(
        description="Size of the parts that have arrived, in bytes; 0 if the upload ended before it was complete."
    )
    async def received_bytes(self, info: Info) -> ByteSize | None:
        receipt = await self._receipt(info)
        return ByteSize(0 if receipt is None else receipt.received_bytes)

    @paged(
        description="Parts of the file, by number. To resume an upload, send the parts that have `status: "
        "MISSING`. Only an OPEN upload has any."
    )
    async def parts(
        self,
        info: Info,
        paging: Paging,
        status: Annotated[
            PartStatus | None, strawberry.argument(description="Return only parts with this status; null returns all.")
        ] = None,
    ) -> Connection[UploadPart] | None:
        window = paging.window(_BY_NUMBER, int)
        statuses = await self._statuses(info)
        numbers = [number for number, found in statuses.items() if status in (None, found)]
        return self._part_page(page_of(numbers, window), statuses, len(numbers))

    async def _statuses(self, info: Info) -> dict[int, PartStatus]:
        """The status of each part, by number."""
        receipt, numbers = await self._receipt(info), range(1, self.part_count + 1)
        if receipt is None:
            return dict.fromkeys(numbers, PartStatus.DISCARDED)
        received = set(receipt.parts)
        return {number: PartStatus.RECEIVED if number in received else PartStatus.MISSING for number in numbers}

    def _part_page(self, page: Page[int], statuses: dict[int, PartStatus], total: int) -> Connection[UploadPart]:
        async def count() -> int:
            return total

        handle = handle_of(self.row)
        nodes: Sequence[UploadPart] = [
            UploadPart(
                number=number,
                offset=ByteSize(handle.part_offset(number)),
                size=ByteSize(handle.part_length(number)),
                status=statuses[number],
                row=self.row,
            )
            for number in page.rows
        ]
        return Connection[UploadPart](
            count=count, **page_fields(page, nodes, lambda number: cursor_for(_BY_NUMBER, number, self.id))
        )

    async def _receipt(self, info: Info) -> UploadReceipt | None:
        """What has arrived; None when the upload ended before it was complete."""
        every = UploadReceipt(range(1, self.part_count + 1), self.row.source.size, sealed=True)
        if self.row.state == UploadState.COMPLETED:
            return every
        if self.row.state != UploadState.OPEN:
            return None
        receipt = await receipt_of(info.context.catalogue, self.row)
        return every if receipt is not None and receipt.sealed else receipt
