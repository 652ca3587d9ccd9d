"""Attacks by uploads: disk images that are bombs, parts that stall, and parts that are not what was signed."""

import asyncio
import struct
import tempfile
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.client import Client, Part, Refused
from tests.soak.target import Target
from tests.soak.wire import Wire, connected, head

_TIB = 1 << 40
_CLUSTER = 64 << 10
_SIZE = 1 << 20
_STALL_SECONDS = 20.0
_CONVERSION_SECONDS = 60.0


def bomb(path: Path, size: int = _TIB) -> Path:
    """A qcow2 of some hundred KiB that describes `size` bytes: every entry leads to one compressed cluster.

    All entries of its L1 table lead to one L2 table (QEMU, "qcow2 image format").
    """
    entries = -(-size // (8192 * _CLUSTER))
    l1_at, l2_at, data_at = 3 * _CLUSTER, 4 * _CLUSTER, 5 * _CLUSTER
    packer = zlib.compressobj(wbits=-12)
    data = packer.compress(bytes([7]) * _CLUSTER) + packer.flush()
    compressed = 1 << 62 | (len(data) - 1) // 512 << 54 | data_at
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, size, 0, entries, l1_at, _CLUSTER, 1, 0, 0)
    header += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    with path.open("wb") as file:
        for place, content in (
            (0, header),
            (_CLUSTER, struct.pack(">Q", 2 * _CLUSTER)),
            (2 * _CLUSTER, struct.pack(">6H", 1, 1, 1, 1, 1, 1)),
            (l1_at, entries * struct.pack(">Q", l2_at)),
            (l2_at, 8192 * struct.pack(">Q", compressed)),
            (data_at, data),
        ):
            file.seek(place)
            file.write(content)
        file.truncate(data_at + _CLUSTER)
    return path


async def bombs(target: Target) -> str:
    """Upload a bomb, and see what is made of it."""
    return await asyncio.to_thread(_convert_bomb, target)


def _convert_bomb(target: Target) -> str:
    with tempfile.TemporaryDirectory() as folder, target.attacking_client() as client:
        image_id = client.upload(bomb(Path(folder) / "bomb.qcow2"))
        try:
            # Not by a stream: those of the attacker are refused while the flood of sockets lasts.
            image = client.settled_when_asked(image_id, _CONVERSION_SECONDS)
        except AssertionError:
            return "nothing within a minute"
        finally:
            _delete(client, image_id)
        return str(image["failure"]["code"]) if image["failure"] else str(image["status"])


async def stalled_parts(target: Target) -> str:
    """Ten parts at once, half of each never sent."""

    async def stall(wire: Wire, part: Part) -> str:
        await wire.send(_put(target, part, part.size) + bytes(part.size // 2))
        return await wire.status(_STALL_SECONDS)

    client, image_id, part = await asyncio.to_thread(_upload, target)
    try:
        said = await asyncio.gather(*(_with_wire(target, part, stall) for _ in range(10)))
    finally:
        await asyncio.to_thread(_end, client, image_id)
    return said[0]


async def parts_of_other_lengths(target: Target) -> str:
    """A part that is a byte too long, chunked, or said to be encoded or a range; the mildest answer to any of them."""

    async def send(wire: Wire, part: Part, more: int = 0, **headers: str) -> str:
        await wire.send(_put(target, part, part.size + more, **headers) + bytes(part.size))
        return await wire.status()

    client, image_id, part = await asyncio.to_thread(_upload, target)
    try:
        sends = [partial(send, more=1), partial(send, more=-1)]
        # An S3 store keeps to the length, and makes nothing of these headers.
        if _store_of(target, part).host == target.host:
            sends.append(partial(send, content_encoding="gzip"))
            sends.append(partial(send, content_range=f"bytes 0-{part.size - 1}/*"))
        said = [await _with_wire(target, part, each) for each in sends]
    finally:
        await asyncio.to_thread(_end, client, image_id)
    return min(said)


async def _with_wire(target: Target, part: Part, do: Callable[[Wire, Part], Awaitable[str]]) -> str:
    async with connected(_store_of(target, part)) as wire:
        return await do(wire, part)


def _store_of(target: Target, part: Part) -> Target:
    """The store as a target: in a cluster it is another server."""
    parts = urlsplit(part.url)
    return replace(target, url=f"{parts.scheme}://{parts.netloc}")


def _put(target: Target, part: Part, length: int, **headers: str) -> bytes:
    parts = urlsplit(part.url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return head(_store_of(target, part), part.method, path, content_length=str(length), **part.headers, **headers)


def _upload(target: Target) -> tuple[Client, str, Part]:
    client = target.attacking_client()
    with tempfile.NamedTemporaryFile(suffix=".raw") as file:
        file.truncate(_SIZE)
        image_id, _ = client.create(Path(file.name))
    return client, image_id, client.missing(image_id)[0]


def _end(client: Client, image_id: str) -> None:
    _delete(client, image_id)
    client.close()


def _delete(client: Client, image_id: str) -> None:
    try:
        client.mutate("deleteImage", imageId=image_id)
    except (AssertionError, Refused):
        return
