"""Writes the data of a disk to a new qcow2: in disk order without zeros, then the tables, and the header last."""

import os
from collections.abc import Callable, Iterable, Iterator

from workers.errors import SourceDamaged
from workers.folder.receipts import write_all
from workers.inspection.refusals import check_stored_size, within
from workers.qcow2 import metadata
from workers.qcow2.extents import USUAL_CLUSTER, Extents
from workers.qcow2.packing import Disk, Packed, Packer, ReadInto

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

    def packed() -> Iterator[tuple[int, Packed]]:
        for first in packer.batches(0, packer.clusters):
            progress(first * CLUSTER)
            yield first, packer.pack(first)

    placed, end = write_data(fd, packer, packed(), CLUSTER, within(room))
    layout = metadata.lay_out(virtual_size, CLUSTER, placed, end)
    check_stored_size(layout.stored_size, room)
    write_tables(fd, layout)
    progress(virtual_size)
    return layout


def write_data(
    fd: int,
    packer: Packer,
    batches: Iterable[tuple[int, Packed]],
    begin: int,
    require_room: Callable[[int], None],
) -> tuple[Extents, int]:
    """Write packed batches, without compression, from `begin` on; return their extents and their end, in bytes.

    `require_room` is called with each new end, before it is written, and may raise. Raises OSError, and what `batches`
    raises.
    """
    unit = packer.cluster_size
    placed = Extents()
    end = begin
    for first, packed in batches:
        require_room(end + packed.length)
        write_all(fd, packed.plain, end)
        packer.release(packed)
        for cluster, size in enumerate(packed.sizes, first):
            if size:
                start = cluster * unit
                placed.add(start, min(unit, packer.disk.size - start), end)
                end += unit
    return placed, end


def write_tables(fd: int, layout: metadata.Layout) -> None:
    """Write the tables, and the header last. Raises OSError."""
    place = layout.tables_at
    for piece in layout.tables():
        write_all(fd, piece, place)
        place += len(piece)
    write_all(fd, layout.header().ljust(layout.cluster_size, b"\0"), 0)


def _reader(source: int) -> ReadInto:
    def read_into(offset: int, buffer: memoryview) -> None:
        while buffer:
            done = os.preadv(source, [buffer], offset)
            if not done:
                raise SourceDamaged("the source was truncated while it was read")
            buffer, offset = buffer[done:], offset + done

    return read_into
