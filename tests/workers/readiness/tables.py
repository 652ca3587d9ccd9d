"""Disks with partition tables, and LVM on them."""

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SECTOR = 512
MIB = 1 << 20
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
GRUB = b"\xeb\x63\x90" + bytes(100) + b"GRUB \0Geom\0"


class Bytes:
    """A disk in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


@dataclass(frozen=True, slots=True)
class Entry:
    """A partition of an MBR: its content, and whether it is active."""

    content: bytes
    kind: int = 0x83
    active: bool = False


def mbr(*entries: Entry, code: bytes = GRUB) -> bytes:
    """A disk with up to four partitions, the first one at 1 MiB."""
    disk = bytearray(MIB)
    disk[: len(code)] = code
    for number, entry in enumerate(entries):
        _pad(disk)
        first, count = len(disk) // SECTOR, -(-len(entry.content) // SECTOR)
        disk[446 + 16 * number : 462 + 16 * number] = mbr_entry(entry.kind, first, count, active=entry.active)
        disk += entry.content
    disk[510:512] = b"\x55\xaa"
    _pad(disk)
    return bytes(disk)


def mbr_entry(kind: int, first: int, count: int, *, active: bool = False) -> bytes:
    """16 bytes of a table."""
    return struct.pack("<B3xB3xII", 0x80 if active else 0, kind, first, count)


def gpt(*parts: tuple[str, bytes], code: bytes = b"", sector: int = SECTOR) -> bytes:
    """A disk with a GUID partition table: pairs of a type and a content."""
    disk = bytearray(MIB)
    disk[: len(code)] = code
    disk[446:462], disk[510:512] = mbr_entry(0xEE, 1, 0xFFFFFFFF), b"\x55\xaa"
    table = bytearray(128 * 128)
    for number, (kind, content) in enumerate(parts):
        first, count = len(disk) // sector, max(1, -(-len(content) // sector))
        entry = struct.pack("<16s16sQQQ", uuid.UUID(kind).bytes_le, uuid.uuid4().bytes, first, first + count - 1, 0)
        table[128 * number : 128 * number + len(entry)] = entry
        disk += content
        _pad(disk)
    _pad(disk)
    header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 0, 0, 0, b"", 2, 128, 128, 0)
    disk[sector : sector + len(header)] = header
    disk[2 * sector : 2 * sector + len(table)] = table
    return bytes(disk)


def _pad(disk: bytearray) -> None:
    disk += bytes(-len(disk) % MIB)


# ---------------------------------------------------------------- LVM

_EXTENT = 4 * MIB
_METADATA = 4096
_METADATA_SIZE = 256 * 1024 - _METADATA


def physical_volume(volumes: Sequence[tuple[str, bytes]], *, name: str = "vg") -> bytes:
    """An LVM physical volume with linear logical volumes, as lib/format_text of LVM2 lays it out."""
    identity, data = "A" * 32, MIB
    extents = [max(1, -(-len(content) // _EXTENT)) for _, content in volumes]
    size = data + sum(extents) * _EXTENT
    text = _metadata(name, identity, [volume for volume, _ in volumes], extents, size).encode() + b"\0"
    label = bytearray(512)
    body = struct.pack("<32sQ", identity.encode(), size)
    body += struct.pack("<QQQQ", data, 0, 0, 0) + struct.pack("<QQQQ", _METADATA, _METADATA_SIZE, 0, 0)
    label[:32] = struct.pack("<8sQII8s", b"LABELONE", 1, 0, 32, b"LVM2 001")
    label[32 : 32 + len(body)] = body
    label[16:20] = struct.pack("<I", _crc(bytes(label[20:])))
    area = bytearray(512)
    head = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, _METADATA, _METADATA_SIZE)
    area[4 : 4 + len(head)] = head
    area[40:64] = struct.pack("<QQII", 512, len(text), _crc(text), 0)
    area[:4] = struct.pack("<I", _crc(bytes(area[4:])))
    disk = bytearray(size)
    disk[512:1024] = label
    disk[_METADATA : _METADATA + 512] = area
    disk[_METADATA + 512 : _METADATA + 512 + len(text)] = text
    place = data
    for (_, content), count in zip(volumes, extents, strict=True):
        disk[place : place + len(content)] = content
        place += count * _EXTENT
    return bytes(disk)


def _metadata(name: str, identity: str, volumes: Sequence[str], extents: Sequence[int], size: int) -> str:
    sections, start = [], 0
    for number, (volume, count) in enumerate(zip(volumes, extents, strict=True)):
        sections.append(
            f'{volume} {{\nid = "{_dashed(chr(66 + number) * 32)}"\nstatus = ["READ", "WRITE", "VISIBLE"]\nflags = []\n'
            f'creation_time = 0\ncreation_host = "test"\nsegment_count = 1\n\nsegment1 {{\nstart_extent = 0\n'
            f'extent_count = {count}\n\ntype = "striped"\nstripe_count = 1\n\nstripes = [\n"pv0", {start}\n]\n}}\n}}\n'
        )
        start += count
    return (
        f'{name} {{\nid = "{_dashed("V" * 32)}"\nseqno = 1\nformat = "lvm2"\nstatus = ["RESIZEABLE", "READ", "WRITE"]\n'
        f"flags = []\nextent_size = {_EXTENT // SECTOR}\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n\n"
        f'physical_volumes {{\n\npv0 {{\nid = "{_dashed(identity)}"\ndevice = "/dev/vda1"\n\n'
        f'status = ["ALLOCATABLE"]\nflags = []\ndev_size = {size // SECTOR}\npe_start = {MIB // SECTOR}\n'
        f"pe_count = {sum(extents)}\n}}\n}}\n\nlogical_volumes {{\n\n{''.join(sections)}}}\n}}\n"
        '# Generated by a test\n\ncontents = "Text Format Volume Group"\nversion = 1\n\ndescription = ""\n\n'
        'creation_host = "test"\ncreation_time = 1700000000\n\n'
    )


def _dashed(identity: str) -> str:
    """An identifier as LVM writes it: 6-4-4-4-4-4-6 characters."""
    places = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(identity[first:end] for first, end in pairwise(places))


def _crc(data: bytes) -> int:
    """LVM's checksum: CRC-32 with its own start, and not inverted at the end."""
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
