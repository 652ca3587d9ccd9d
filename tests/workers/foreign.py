"""Images of formats that qemu-img reads but does not write. Each holds the raw disk of whole MiB in a file next to it.

Sources: block/bochs.c, block/dmg.c and block/vmdk.c of QEMU, for what it reads of them.
"""

import base64
import struct
import zlib
from pathlib import Path

from tests.workers.images import MiB

SECTOR = 512


def bochs(raw: Path, path: Path) -> Path:
    """A growing redolog of Bochs, with extents of 1 MiB."""
    disk = raw.read_bytes()
    count = len(disk) // MiB
    header = struct.pack("<32s16s16sI", b"Bochs Virtual HD Image", b"Redolog", b"Growing", 0x20000)
    # its own length, entries of the catalog, bytes of a bitmap and of an extent, the size of the disk
    header += struct.pack("<IIIIIQ", SECTOR, count, 256, MiB, 0, len(disk))
    catalog = struct.pack(f"<{count}I", *range(count))
    # Before each extent stands a bit for each of its sectors, in whole sectors.
    extents = (b"\xff" * 256 + bytes(256) + disk[n * MiB : (n + 1) * MiB] for n in range(count))
    path.write_bytes(header.ljust(SECTOR, b"\0") + catalog + b"".join(extents))
    return path


def dmg(raw: Path, path: Path) -> Path:
    """An image of Apple's with one deflated chunk, a list of chunks as XML, and a trailer that says where that is."""
    disk = raw.read_bytes()
    data = zlib.compress(disk)
    sectors = len(disk) // SECTOR
    chunks = struct.pack(">IIQQQQ", 0x80000005, 0, 0, sectors, 0, len(data))
    chunks += struct.pack(">IIQQQQ", 0xFFFFFFFF, 0, sectors, 0, len(data), 0)
    blocks = struct.pack(">4sIQQQ", b"mish", 1, 0, sectors, 0).ljust(200, b"\0") + struct.pack(">I", 2) + chunks
    listed = b"<plist><data>" + base64.b64encode(blocks) + b"</data></plist>"
    trailer = bytearray(struct.pack(">4sII", b"koly", 4, SECTOR).ljust(SECTOR, b"\0"))
    struct.pack_into(">QQQQ", trailer, 0x18, 0, len(data), 0, 0)
    struct.pack_into(">QQ", trailer, 0xD8, len(data), len(listed))
    struct.pack_into(">Q", trailer, 0x1EC, sectors)
    path.write_bytes(data + listed + trailer)
    return path


def cowd(raw: Path, path: Path) -> Path:
    """An extent of VMware's vmfsSparse kind for a disk of at most 16 MiB, next to its descriptor, `path`.vmdk."""
    disk = raw.read_bytes()
    grain, directory_at, table_at, grains_at = 8, 4, 8, 64
    grains = len(disk) // (grain * SECTOR)
    header = struct.pack("<4sIIIIII", b"COWD", 1, 3, len(disk) // SECTOR, grain, directory_at, 1)
    table = struct.pack(f"<{grains}I", *range(grains_at, grains_at + grain * grains, grain))
    content = header.ljust(directory_at * SECTOR, b"\0") + struct.pack("<I", table_at)
    content = content.ljust(table_at * SECTOR, b"\0") + table
    path.write_bytes(content.ljust(grains_at * SECTOR, b"\0") + disk)
    _describe(path, "vmfsSparse", "VMFSSPARSE", len(disk))
    return path


def sesparse(raw: Path, path: Path) -> Path:
    """An extent of VMware's seSparse kind for a disk of at most 16 MiB, next to its descriptor, `path`.vmdk."""
    disk = raw.read_bytes()
    grain, table_size = 8, 64
    volatile_at, directory_at, tables_at, grains_at = 8, 16, 24, 128
    grains = len(disk) // (grain * SECTOR)
    header = struct.pack("<QQQQQ40x", 0xCAFEBABE, 0x200000001, len(disk) // SECTOR, grain, table_size)
    header += struct.pack("<6Q", volatile_at, 1, 0, 0, 0, 0)
    header += struct.pack("<8Q", directory_at, 1, tables_at, table_size, 0, 0, 0, 0)
    header += struct.pack("<2Q", grains_at, grains * grain)
    # The low twelve bits of a grain's number stand above the others.
    table = struct.pack(f"<{grains}Q", *(3 << 60 | (n & 0xFFF) << 48 | n >> 12 for n in range(grains)))
    content = header.ljust(volatile_at * SECTOR, b"\0") + struct.pack("<Q", 0xCAFECAFE)
    content = content.ljust(directory_at * SECTOR, b"\0") + struct.pack("<Q", 1 << 60)
    content = content.ljust(tables_at * SECTOR, b"\0") + table
    path.write_bytes(content.ljust(grains_at * SECTOR, b"\0") + disk)
    _describe(path, "seSparse", "SESPARSE", len(disk))
    return path


def _describe(extent: Path, kind: str, extent_kind: str, size: int) -> None:
    extent.with_suffix(".vmdk").write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="{kind}"\nRW {size // SECTOR} {extent_kind} "{extent.name}"\n'
    )
