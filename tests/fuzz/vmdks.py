"""Made-up VMDK images. Source: VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents"."""

import random
import struct
import zlib
from collections.abc import Sequence

from hypothesis import strategies as st

from app.lifecycle import DiskFormat
from tests.fuzz.built import SECTOR, Built, File, Unit, layouts, round_up, unit_of

_NEWLINES, _ZERO_GRAINS, _COMPRESSED, _MARKERS = 1 << 0, 1 << 2, 1 << 16, 1 << 17
_DIRECTORY_AT_END = (1 << 64) - 1
_DEFLATE = 1
_FOOTER = 3
_DESCRIPTOR_SECTORS = 20
_NAMES = ["disk.vmdk", "Büro.vmdk", "сервер.vmdk", "表計算.vmdk"]


@st.composite
def vmdks(draw: st.DrawFn) -> Built:
    """A monolithicSparse or streamOptimized VMDK, its grains in any order."""
    streamed = draw(st.booleans())
    grain = SECTOR * draw(st.sampled_from([8, 16, 64, 128, 128, 256]))
    entries = draw(st.sampled_from([512, 512, 128, 4]))
    zero_grains = draw(st.booleans())
    kinds = [Unit.HOLE, Unit.PLAIN, *([Unit.ZERO] if zero_grains else [])]
    # An object of the store is put together of parts of 5 MiB or more.
    disk, units = draw(layouts(grain, draw(st.sampled_from([24, 24, 24, 160])), kinds))
    shuffled = random.Random(draw(st.integers(0, 1 << 16)))
    file = File()
    file.put_structure(SECTOR, _descriptor(draw, len(disk), streamed))
    overhead, sectors = _put_grains(file, disk, units, grain, streamed, shuffled)
    directory_at = _put_tables(file, sectors, entries)
    at_end = streamed and draw(st.booleans())
    flags = _NEWLINES | (_ZERO_GRAINS if zero_grains else 0) | (_COMPRESSED | _MARKERS if streamed else 0)
    version = draw(st.sampled_from([1, 2, 3]))

    def header(directory: int) -> bytes:
        numbers = (version, flags, len(disk) // SECTOR, grain // SECTOR, 1, _DESCRIPTOR_SECTORS, entries)
        fields = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", *numbers, 0, directory, overhead, 0, b"\n \r\n", streamed)
        return fields.ljust(SECTOR, b"\0")

    file.put_structure(0, header(_DIRECTORY_AT_END if at_end else directory_at))
    if streamed:
        if at_end:
            marker = struct.pack("<QII", 1, 0, _FOOTER).ljust(SECTOR, b"\0")
            file.put_structure(file.end, marker + header(directory_at))
        file.put_structure(file.end, bytes(SECTOR))
    about = f"version {version}, grains of {grain}, tables of {entries}{', streamOptimized' if streamed else ''}"
    return Built(DiskFormat.VMDK, file.bytes(), disk, about, file.structures)


def _descriptor(draw: st.DrawFn, size: int, streamed: bool) -> bytes:
    kind = "streamOptimized" if streamed else "monolithicSparse"
    name, encoding = draw(
        st.sampled_from([(_NAMES[n], code) for n, code in enumerate(["ascii", "latin-1", "utf-8", "cp932"])])
    )
    equals = draw(st.sampled_from(["=", " = "]))
    text = (
        f'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType{equals}"{kind}"\n\n'
        f'# {name}\nRW {size // SECTOR} SPARSE "{name}"\n\n#DDB\nddb.adapterType = "ide"\n'
    )
    return text.encode(encoding).ljust(_DESCRIPTOR_SECTORS * SECTOR, b"\0")


def _put_grains(
    file: File, disk: bytes, units: Sequence[Unit], grain: int, streamed: bool, shuffled: random.Random
) -> tuple[int, list[int]]:
    """Where grains begin, and the position of each as the table states it: in sectors."""
    sectors = [int(kind is Unit.ZERO) for kind in units]
    there = [number for number, kind in enumerate(units) if kind is Unit.PLAIN]
    # The grains of a real file are aligned; what is not has to be copied.
    file.put(round_up(file.end, shuffled.choice([SECTOR, grain])), b"")
    overhead = file.end // SECTOR
    for number in shuffled.sample(there, len(there)):
        sectors[number] = -(-file.end // SECTOR)
        data = unit_of(disk, grain, number)
        if streamed:
            small = zlib.compress(data)
            data = struct.pack("<QI", number * grain // SECTOR, len(small)) + small
        file.put(sectors[number] * SECTOR, data)
    return overhead, sectors


def _put_tables(file: File, sectors: Sequence[int], entries: int) -> int:
    """Where the directory begins, as a sector."""
    directory = []
    for first in range(0, len(sectors), entries):
        table = [*sectors[first : first + entries]]
        place = round_up(file.end, SECTOR)
        directory.append(place // SECTOR if any(table) else 0)
        if any(table):
            file.put_structure(place, struct.pack(f"<{entries}I", *table, *[0] * (entries - len(table))))
    place = round_up(file.end, SECTOR)
    file.put_structure(place, struct.pack(f"<{len(directory)}I", *directory).ljust(SECTOR, b"\0"))
    return place // SECTOR
