"""Reads the tables of a base in the store: where in its file the data of its disk is."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from app.errors import ImageFailed
from workers.inspection.qcow2_tables import Qcow2Tables
from workers.inspection.vhdx import ReadAt
from workers.qcow2 import metadata
from workers.qcow2.clusters import COMPRESSED, COPIED
from workers.qcow2.composed import CompressedClusters
from workers.qcow2.extents import Extents

log = structlog.get_logger(__name__)

_HEAD = 4096
_OFFSET = 0x00FFFFFFFFFFFE00


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A base of `size` bytes, in a file of `file_size` bytes: its plain clusters, and the compressed ones.

    It is known up to `mapped`, in bytes of the disk.
    """

    size: int
    mapped: int
    file_size: int
    cluster_size: int
    plain: Extents
    compressed: CompressedClusters


def read_base(read_at: ReadAt, file_size: int, most: int, tick: Callable[[], None]) -> BaseImage | None:
    """Read the tables of a base that a conversion or a capture has written; None if they can't be used.

    At most `most` runs and `most` compressed clusters are read. `tick` is called repeatedly and may raise. Raises what
    `read_at` raises.
    """
    try:
        header = metadata.read_header(read_at(0, min(_HEAD, file_size)))
        if header.incompatible & ~metadata.COMPRESSION_TYPE or header.backing_file_offset or header.crypt_method:
            raise metadata.MalformedHeader("not one that a conversion writes")
        return _mapped(header, Qcow2Tables(header, read_at, file_size, tick), file_size, most)
    except (metadata.MalformedHeader, ImageFailed) as reason:
        log.warning("base.unreadable", reason=str(reason))
        return None


def _mapped(header: metadata.Header, tables: Qcow2Tables, file_size: int, most: int) -> BaseImage:
    size = header.cluster_size
    plain, compressed = Extents(), CompressedClusters(size, zstd=header.compression_type == metadata.ZSTD)
    mapped = header.size
    for start, entry, count in tables.runs():
        if max(len(plain), len(compressed)) >= most:
            mapped = min(start, header.size)
            break
        if entry & COMPRESSED:
            compressed.add(start // size, entry & ~COPIED)
        else:
            plain.add(start, count * size, entry & _OFFSET)
    return BaseImage(header.size, mapped, file_size, size, plain, compressed)
