"""Made-up qcow2 images. Source: QEMU, docs/interop/qcow2.txt."""

import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import zstandard
from hypothesis import strategies as st

from app.lifecycle import DiskFormat
from tests.fuzz.built import SECTOR, Built, File, MiB, Place, Unit, layouts, round_up, unit_of

_COPIED, _COMPRESSED = 1 << 63, 1 << 62
_READS_AS_ZEROS = 1
_ZSTD_FEATURE = 1 << 3
_UNKNOWN_EXTENSION = 0x12345678


@st.composite
def qcow2s(draw: st.DrawFn) -> Built:
    """A qcow2 of version 2 or 3, its clusters in any order: plain, compressed, of zeros, or not there."""
    version = draw(st.sampled_from([2, 3]))
    bits = draw(st.sampled_from([9, 10, 12, 14, 16, 16, 16, 18, 21]))
    unit = 1 << bits
    compression = draw(st.sampled_from(["", "zlib", "zstd"] if version == 3 else ["", "zlib"]))
    kinds = [Unit.HOLE, Unit.PLAIN, *([Unit.ZERO] if version == 3 else []), *([Unit.PACKED] if compression else [])]
    # An object of the store is put together of parts of 5 MiB or more.
    most = draw(st.sampled_from([24, 24, 24, 160]))
    disk, units = draw(layouts(unit, min(most, max(1, 10 * MiB >> bits)), kinds))
    # A cluster of the file may hold more compressed ones than few bits can count.
    order = draw(st.sampled_from([4, 5, 6] if compression else [0, 1, 2, 3, 4, 5, 6])) if version == 3 else 4
    shuffled = random.Random(draw(st.integers(0, 1 << 16)))
    miscounted = draw(st.integers(0, 9)) == 0
    l1_entries = -(-len(units) // (unit // 8)) + draw(st.integers(0, 3))

    packed, within = _pack(
        [number for number, kind in enumerate(units) if kind is Unit.PACKED], disk, unit, compression
    )
    at, clusters = _place(_sizes(units, len(packed), l1_entries, bits, order), bits, shuffled)
    file = File()
    entries = [0] * len(units)
    references = Counter({0: 1})
    for number, kind in enumerate(units):
        if kind is Unit.PLAIN:
            file.put(at[number], unit_of(disk, unit, number))
            entries[number] = at[number] | _COPIED
            references[at[number] >> bits] += 1
        elif kind is Unit.PACKED:
            offset, length = at["packed"] + within[number][0], within[number][1]
            more = (offset + length - 1) // SECTOR - offset // SECTOR
            entries[number] = _COMPRESSED | more << (62 - (bits - 8)) | offset
            references.update(range(offset >> bits, (offset + length - 1 >> bits) + 1))
        elif kind is Unit.ZERO:
            entries[number] = _READS_AS_ZEROS
    file.put(at.get("packed", 0), packed)
    _put_tables(file, entries, at, l1_entries, unit)
    for name in ("l1", "l2", "counts", "blocks"):
        references.update(range(at[name] >> bits, (at[name] >> bits) + clusters[name]))
    if miscounted:
        references[shuffled.choice(sorted(references))] = 0
    _put_counts(file, at, clusters, references, bits, order)
    file.put_structure(0, _header(draw, version, bits, len(disk), order, compression, at, clusters, l1_entries))
    # A file may end behind the last byte that counts, within a cluster.
    whole = file.bytes().ljust(round_up(file.end, draw(st.sampled_from([SECTOR, unit]))), b"\0")
    about = f"version {version}, clusters of {unit}, {compression or 'plain'}, counts of {1 << order} bits"
    return Built(DiskFormat.QCOW2, whole, disk, about, file.structures, miscounted)


def _pack(numbers: Iterable[int], disk: bytes, unit: int, compression: str) -> tuple[bytes, dict[int, Place]]:
    """Compressed clusters, one after the other, and the position of each. Also contains clusters that do not shrink."""
    packed, within = b"", {}
    for number in numbers:
        data = unit_of(disk, unit, number)
        if compression == "zstd":
            small = zstandard.ZstdCompressor().compress(data)
        else:
            deflate = zlib.compressobj(wbits=-12)
            small = deflate.compress(data) + deflate.flush()
        within[number] = (len(packed), len(small))
        packed += small
    return packed, within


def _sizes(units: Sequence[Unit], packed: int, l1_entries: int, bits: int, order: int) -> dict[int | str, int]:
    """How many clusters everything takes behind the header."""
    unit = 1 << bits
    sizes: dict[int | str, int] = {number: 1 for number, kind in enumerate(units) if kind is Unit.PLAIN}
    sizes["l1"] = -(-8 * l1_entries // unit)
    sizes["l2"] = -(-len(units) // (unit // 8))
    if packed:
        sizes["packed"] = -(-packed // unit)
    counted_by_block = 8 * unit >> order
    sizes["blocks"] = sizes["counts"] = 1
    while True:
        # With a gap behind each.
        blocks = -(-(1 + sum(sizes.values()) + len(sizes)) // counted_by_block)
        if blocks <= sizes["blocks"]:
            return sizes
        sizes["blocks"], sizes["counts"] = blocks, -(-8 * blocks // unit)


def _place(
    sizes: dict[int | str, int], bits: int, shuffled: random.Random
) -> tuple[Mapping[int | str, int], Mapping[int | str, int]]:
    """The position of everything, in any order, sometimes with an unused cluster in between; and the sizes."""
    at: dict[int | str, int] = {}
    place = 1
    for name in shuffled.sample(list(sizes), len(sizes)):
        at[name] = place << bits
        place += sizes[name] + (shuffled.random() < 0.1)
    return at, sizes


def _put_tables(file: File, entries: Sequence[int], at: Mapping[int | str, int], l1_entries: int, unit: int) -> None:
    tables = -(-len(entries) // (unit // 8))
    l2 = [*entries, *[0] * (tables * unit // 8 - len(entries))]
    file.put_structure(at["l2"], struct.pack(f">{len(l2)}Q", *l2))
    l1 = [_COPIED | at["l2"] + number * unit for number in range(tables)] + [0] * (l1_entries - tables)
    file.put_structure(at["l1"], struct.pack(f">{l1_entries}Q", *l1).ljust(round_up(8 * l1_entries, unit), b"\0"))


def _put_counts(
    file: File,
    at: Mapping[int | str, int],
    clusters: Mapping[int | str, int],
    references: Mapping[int, int],
    bits: int,
    order: int,
) -> None:
    unit, width = 1 << bits, 1 << order
    addresses = [at["blocks"] + number * unit for number in range(clusters["blocks"])]
    table = struct.pack(f">{len(addresses)}Q", *addresses)
    file.put_structure(at["counts"], table.ljust(clusters["counts"] * unit, b"\0"))
    counts = bytearray(clusters["blocks"] * unit)
    for cluster, times in references.items():
        if width < 8:
            counts[cluster * width // 8] |= times << cluster * width % 8
        else:
            size = width // 8
            counts[cluster * size : (cluster + 1) * size] = times.to_bytes(size, "big")
    file.put_structure(at["blocks"], bytes(counts))


def _header(
    draw: st.DrawFn,
    version: int,
    bits: int,
    size: int,
    order: int,
    compression: str,
    at: Mapping[int | str, int],
    clusters: Mapping[int | str, int],
    l1_entries: int,
) -> bytes:
    tables = (l1_entries, at["l1"], at["counts"], clusters["counts"])
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 0, 0, bits, size, 0, *tables, 0, 0)
    if version == 3:
        zstd = compression == "zstd"
        length = 112 if zstd or draw(st.booleans()) else 104
        compatible = draw(st.sampled_from([0, 1]))
        header += struct.pack(">QQQII", _ZSTD_FEATURE if zstd else 0, compatible, 0, order, length)
        header += bytes([zstd]).ljust(length - 104, b"\0")[: length - 104]
    if draw(st.booleans()):
        header += struct.pack(">II8s", _UNKNOWN_EXTENSION, 5, b"hello\0\0\0")
    return header
