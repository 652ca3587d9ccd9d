"""Small files that describe huge disks, whose tables all point at the same few bytes; each is one that QEMU opens."""

import struct
import zlib
from pathlib import Path

from tests.workers.images import KiB, MiB, make, patch, qemu_img, raw_disk

TiB = 1 << 40
CLUSTER = 64 * KiB
COPIED, COMPRESSED = 1 << 63, 1 << 62


def qcow2_bomb(path: Path, size: int = 16 * TiB, *, compressed: bool = True, tables: int = 1) -> Path:
    """A qcow2 of one cluster of data, to which all entries of `tables` L2 tables point, shared by all of L1.

    Its refcounts have 64 bits and are right: `qemu-img check` finds nothing wrong with it.
    """
    entries = -(-size // (8192 * CLUSTER))
    l1_clusters = -(-8 * entries // CLUSTER)
    # header, refcount table, refcount block, L1, L2 tables, data
    l1_at, l2_at = 3 * CLUSTER, (3 + l1_clusters) * CLUSTER
    data_at = l2_at + tables * CLUSTER
    data = _deflated(bytes([7]) * CLUSTER) if compressed else bytes([7]) * CLUSTER
    entry = COMPRESSED | (len(data) - 1) // 512 << 54 | data_at if compressed else data_at
    uses = [1] * (3 + l1_clusters) + [len(range(n, entries, tables)) for n in range(tables)] + [8192 * entries]
    owned = COPIED if tables == entries else 0
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, size, 0, entries, l1_at, CLUSTER, 1, 0, 0)
    header += struct.pack(">QQQII", 0, 0, 0, 6, 104)
    with path.open("wb") as file:
        for place, content in (
            (0, header),
            (CLUSTER, struct.pack(">Q", 2 * CLUSTER)),
            (2 * CLUSTER, struct.pack(f">{len(uses)}Q", *uses)),
            (l1_at, b"".join(struct.pack(">Q", owned | l2_at + n % tables * CLUSTER) for n in range(entries))),
            (l2_at, tables * (8192 * struct.pack(">Q", entry))),
            (data_at, data),
        ):
            file.seek(place)
            file.write(content)
        file.truncate(data_at + CLUSTER)
    return path


def vmdk_bomb(path: Path, size: int = 16 * TiB, *, streamed: bool = False, own_tables: bool = False) -> Path:
    """A VMDK of one grain, to which all entries of one grain table point, to which all of the directory points.

    With `own_tables` every table is there, and the grain alone is shared.
    """
    driver = "streamOptimized" if streamed else "monolithicSparse"
    image = make(raw_disk(path.with_suffix(".raw"), 1 * MiB, [(0, CLUSTER)]), path, "vmdk", subformat=driver)
    head = bytearray(image.read_bytes()[: 20 * 512 + 512])
    entries = -(-size // (512 * CLUSTER))
    tables = entries if own_tables else 1
    tables_at = 64
    directory_at = tables_at + 4 * tables
    grain_at = -(-(directory_at + -(-4 * entries // 512)) // 128) * 128
    struct.pack_into("<Q", head, 12, size // 512)
    struct.pack_into("<QQQ", head, 48, directory_at, directory_at, grain_at)
    grain = bytes([7]) * CLUSTER
    with image.open("wb") as file:
        file.write(head)
        file.seek(tables_at * 512)
        file.write(tables * 512 * struct.pack("<I", grain_at))
        file.write(b"".join(struct.pack("<I", tables_at + 4 * (n % tables)) for n in range(entries)))
        file.seek(grain_at * 512)
        packed = zlib.compress(grain)
        file.write(struct.pack("<QI", 0, len(packed)) + packed if streamed else grain)
        file.truncate(grain_at * 512 + CLUSTER)
    return image


def vhd_bomb(path: Path, size: int = 2040 << 30) -> Path:
    """A dynamic VHD of one block, to which all of its block table points."""
    qemu_img("create", "-q", "-f", "vpc", "-o", "force_size=on", str(path), str(size))
    entries = -(-size // (2 * MiB))
    block_at = path.stat().st_size - 512
    footer = path.read_bytes()[-512:]
    table_at = int.from_bytes(path.read_bytes()[512 + 16 : 512 + 24], "big")
    patch(path, table_at, entries * struct.pack(">I", block_at // 512))
    patch(path, block_at, b"\xff" * 512 + bytes([7]) * (2 * MiB) + footer)
    return path


def vhdx_bomb(path: Path, size: int = 2 * TiB) -> Path:
    """A dynamic VHDX of one block, to which all of its block allocation table points."""
    options = ("-o", "block_size=8M,block_state_zero=on")
    qemu_img("create", "-q", "-f", "vhdx", *options, str(path), str(size))
    content = path.read_bytes()
    place = 192 * KiB + 16
    bat = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
    while content[place : place + 16] != bat:
        place += 32
    bat_at = int.from_bytes(content[place + 16 : place + 24], "little")
    blocks, ratio = size // (8 * MiB), (1 << 23) * 512 // (8 * MiB)
    block_at = -(-len(content) // MiB) * MiB
    entries = [0 if n % (ratio + 1) == ratio else block_at | 6 for n in range(blocks + (blocks - 1) // ratio)]
    patch(path, bat_at, struct.pack(f"<{len(entries)}Q", *entries))
    with path.open("r+b") as file:
        file.seek(block_at)
        file.write(bytes([7]) * (8 * MiB))
    return path


def _deflated(data: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-12)
    return packing.compress(data) + packing.flush()
