"""Writes the data of a disk to a new qcow2: in disk order without zeros, then the tables, and the header last."""

import os
from collections.abc import Callable

from workers.errors import SourceDamaged
from workers.folder.receipts import write_all
from workers.inspection.refusals import check_stored_size, over_quota
from workers.qcow2 import metadata
from workers.qcow2.extents import USUAL_CLUSTER, Extents
from workers.qcow2.packing import Disk, Packer, ReadInto

CLUSTER = USUAL_CLUSTER
# The data stays in the processor's cache until it is written: 4 MiB at a time took three times the processor time.
_CLUSTERS_AT_ONCE = 8


def write_packed(
    fd: int, source: int, virtual_size: int, extents: Extents, room: int | None, progress: Callable[[int], None]
) -> metadata.Layout:
    """Write a qcow2 to the empty file `fd`: a disk of `virtual_size` bytes whose data is in the file `source`.

    `progress` is called with the bytes of the disk that are done. Raises ImageFailed if more than `room` bytes would be
    stored; SourceDamaged, OSError, and what `progress` raises.
    """
    packer = Packer(Disk(virtual_size, extents, _reader(source)), CLUSTER, batch=_CLUSTERS_AT_ONCE)
    placed, end = _write_data(fd, packer, room, progress)
    layout = metadata.lay_out(virtual_size, CLUSTER, placed, end)
    check_stored_size(layout.stored_size, room)
    place = layout.tables_at
    for piece in layout.tables():
        write_all(fd, piece, place)
        place += len(piece)
    write_all(fd, layout.header().ljust(CLUSTER, b"\0"), 0)
    progress(virtual_size)
    return layout


def _write_data(fd: int, packer: Packer, room: int | None, progress: Callable[[int], None]) -> tuple[Extents, int]:
    """Write the clusters that are not all zeros after the header's; return their extents and their end."""
    placed = Extents()
    end = CLUSTER
    for first in packer.batches(0, packer.clusters):
        progress(first * CLUSTER)
        packed = packer.pack(first)
        if room is not None and end + packed.length > room:
            raise over_quota()
        write_all(fd, packed.plain, end)
        packer.release(packed)
        for cluster, size in enumerate(packed.sizes, first):
            if size:
                start = cluster * CLUSTER
                placed.add(start, min(CLUSTER, packer.disk.size - start), end)
                end += CLUSTER
    return placed, end


def _reader(source: int) -> ReadInto:
    def read_into(offset: int, buffer: memoryview) -> None:
        while buffer:
            done = os.preadv(source, [buffer], offset)
            if not done:
                raise SourceDamaged("the source was truncated while it was read")
            buffer, offset = buffer[done:], offset + done

    return read_into
