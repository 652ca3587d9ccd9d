"""`/objects/…`: receives parts of uploads and sends objects, where the object store is a folder.

A signed URL needs no token. At the start of each request, the permission of the user who requested it is checked again.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from secrets import token_hex
from typing import Any, Protocol, Self

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app import metrics
from app.adapters.file_names import attachment
from app.adapters.folder.addresses import PartAddress
from app.adapters.folder.reader import ObjectReader
from app.adapters.folder.store import FolderStore
from app.errors import GatewayError, UploadClosed
from app.ports import HEAD_BYTES, Asker
from app.request_body import respond
from app.web.objects_body import Body, require_plain_body
from app.web.objects_errors import Refusal, error_answer
from app.web.objects_ranges import is_unchanged, requested_range

OnHead = Callable[[str], Coroutine[Any, Any, None]]
OnBytes = Callable[[str, int], None]


class Permission(Protocol):
    """Decides at the start of each request whether `asker` may still use a URL of this object."""

    async def require_upload(self, asker: Asker | None, key: str) -> None:
        """Raises NotFound, Forbidden, UploadEnded or UploadClosed when a part may not, or no longer, be sent."""

    async def require_download(self, asker: Asker | None, key: str) -> None:
        """Raises NotFound or Forbidden when the object may not, or no longer, be read."""


_METHODS = ("GET", "HEAD", "PUT")


def object_routes(
    store: FolderStore,
    on_head: OnHead | None = None,
    on_bytes: OnBytes | None = None,
    *,
    permission: Permission | None = None,
    allowed_origins: Sequence[str] = (),
    silence_seconds: float = 60,
) -> list[Route]:
    """The routes that serve the URLs that `store` signs.

    `permission` decides at the start of every request whether the URL may still be used; without it, only the signature
    counts. A request that has begun continues to its end.
    `on_head` is awaited with the key when the first 256 KiB of part 1, or all of it, are in the file. The rest arrives
    in the meantime, but the response waits for it. If it raises, the request fails with its error, even when the part
    has arrived. `on_bytes` is called with the key and the number of bytes that were just written, about every 2 MiB and
    at least twice a second, including those of a part that fails or is sent again.
    `allowed_origins` may use the URLs from browsers ("*" for all). A client that sends nothing for `silence_seconds` is
    considered disconnected, so that another request can upload its part.
    """
    endpoint = _ObjectEndpoint(store, permission, on_head, on_bytes, silence_seconds)
    cross_origin = Middleware(
        CORSMiddleware,
        allow_origins=tuple(allowed_origins),
        allow_methods=_METHODS,
        allow_headers=("range", "if-range", "if-none-match"),
        expose_headers=("etag", "content-range", "content-disposition"),
    )
    return [Route("/objects/{key:path}", endpoint, name="object", middleware=[cross_origin])]


class _ObjectEndpoint:
    """A plain ASGI application: only this can read the body as it arrives, and respond before its end."""

    def __init__(
        self,
        store: FolderStore,
        permission: Permission | None,
        on_head: OnHead | None,
        on_bytes: OnBytes | None,
        silence_seconds: float,
    ) -> None:
        self._store = store
        self._permission = permission
        self._on_head = on_head
        self._on_bytes = on_bytes
        self._silence_seconds = silence_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        body = Body(request, receive, self._silence_seconds)
        try:
            if request.method == "PUT":
                response = await self._receive_part(request, body)
            elif request.method in _METHODS:
                return await self._send_object(request, receive, send)
            else:
                allow = {"allow": ", ".join(_METHODS)}
                raise Refusal(
                    405, "METHOD_NOT_ALLOWED", "Objects do not support this method.", "Use PUT or GET.", allow
                )
        except GatewayError as error:
            response = error_answer(error)
        await respond(response, body, scope, receive, send)

    async def _receive_part(self, request: Request, body: Body) -> Response:
        part = self._store.addresses.read_part(request.path_params["key"], request.query_params.multi_items())
        require_plain_body(request.headers)
        body.expect(part.length)
        await self._require_upload(part)
        try:
            async with _Arrival(part, self._on_head, self._on_bytes) as arrival:
                await self._store.receive_part(part, body, arrival)
        except UploadClosed:
            await self._require_upload(part)  # it has ended in the meantime, and this raises why
            raise
        # Random, so that only these bytes have it: a checksum would cost more than writing them.
        return Response(headers={"etag": f'"{token_hex(16)}"'})

    async def _require_upload(self, part: PartAddress) -> None:
        if self._permission is not None:
            await self._permission.require_upload(part.asker, part.key)

    async def _send_object(self, request: Request, receive: Receive, send: Send) -> None:
        key = request.path_params["key"]
        download = self._store.addresses.read_download(key, request.query_params.multi_items())
        if self._permission is not None:
            await self._permission.require_download(download.asker, key)
        reader = await self._store.open_object(key)
        try:
            response = self._download(request, reader, download.file_name)
            await response(request.scope, receive, send)
        finally:
            self._store.release(reader)

    def _download(self, request: Request, reader: ObjectReader, name: str) -> Response:
        headers = {"etag": reader.etag, "accept-ranges": "bytes", "cache-control": "private"}
        if is_unchanged(request.headers, reader.etag):
            return Response(status_code=304, headers=headers)
        # A range is defined for GET alone (RFC 9110, section 14.2).
        asked = requested_range(request.headers, reader.size, reader.etag) if request.method == "GET" else None
        start, end = asked or (0, reader.size)
        headers |= {
            "content-length": str(end - start),
            "content-disposition": attachment(name),
            "content-type": "application/octet-stream",
            "x-content-type-options": "nosniff",
        }
        if asked:
            headers["content-range"] = f"bytes {start}-{end - 1}/{reader.size}"
        if request.method == "HEAD":
            return Response(headers=headers)
        chunks = metrics.sent(self._store.chunks(reader, start, end))
        return StreamingResponse(chunks, status_code=206 if asked else 200, headers=headers)


class _Arrival:
    """Calls `on_bytes` for each batch of a part that was written, and runs `on_head` while the rest arrives.

    At the end of the block, `on_head` has ended. Its error is raised there, or earlier at the next batch.
    """

    def __init__(self, part: PartAddress, on_head: OnHead | None, on_bytes: OnBytes | None) -> None:
        self._key = part.key
        self._on_bytes = on_bytes
        self._on_head = on_head if part.number == 1 else None
        self._head_missing = min(HEAD_BYTES, part.length)
        self._head: asyncio.Task[None] | None = None

    async def __call__(self, count: int) -> None:
        metrics.received(count)
        if self._on_bytes is not None:
            self._on_bytes(self._key, count)
        self._head_missing -= count
        if self._on_head is not None and self._head is None and self._head_missing <= 0:
            self._head = asyncio.create_task(self._on_head(self._key))
        if self._head is not None and self._head.done():
            self._head.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._head is None:
            return
        if isinstance(error, asyncio.CancelledError):
            self._head.cancel()
        await self._head
